//! Slices that move with the iterations of a loop: `x[i:i+1]`, whose place only a run knows, and whose length is a number.
//!
//! They become `Gather` of as many positions. Laws: a place is provably not negative, where a slice would count from the end. It is
//! provably before the end, or how often the loop runs is no constant: then the run refuses what is beyond, where a slice would be
//! shorter (of a constant number of iterations there can be copies instead, each with a slice of its own length).

use cameo_ir::op::normalize_axis;
use cameo_ir::{Attr, Bounds, DType, Dim, Fact, Graph, Origin, Tensor, ValueId};

use crate::bounds::computed;
use crate::error::Fault;
use crate::import::Importer;

/// Nodes on the way from the number of the iteration.
const MAX_DEPTH: usize = 16;

impl Importer<'_> {
    /// What a `Slice` of these operands is, if it moves with the loop around it.
    pub fn moving(&mut self, inputs: &[Option<ValueId>], origin: &Origin) -> Result<Option<ValueId>, Fault> {
        let [Some(x), Some(start), Some(end), rest @ ..] = inputs else {
            return Ok(None);
        };
        let g = &self.graph;
        let constant = |i: usize, default: i64| match rest.get(i).copied().flatten() {
            None => Some(default),
            Some(v) => one(g, v),
        };
        let (Some(axis), Some(1)) = (constant(0, 0), constant(1, 1)) else {
            return Ok(None);
        };
        let (from, first) = offset(g, *start, MAX_DEPTH);
        let (to, last) = offset(g, *end, MAX_DEPTH);
        let length = last.saturating_sub(first);
        let few = (1..=Fact::KNOWN_MAX as i64).contains(&length);
        if self.counters.is_empty() || from != to || first < 0 || !few {
            return Ok(None);
        }
        let Some(most) = most(g, from, &self.counters, MAX_DEPTH) else {
            return Ok(None);
        };
        let extent = &g.fact(*x).shape[normalize_axis(axis, g.fact(*x).rank())?];
        let inside = Bounds::of(&[]).le(&(most + Dim::from(last)), extent);
        if !inside && self.counters.iter().any(|(_, count)| count.as_const().is_some()) {
            return Ok(None);
        }
        let dtype = g.fact(from).dtype;
        let positions = Tensor::from_i64(dtype, &[length as usize], first..last);
        let positions = self.graph.add_weight("", positions);
        let flat = Attr::Dims(vec![Dim::ONE]);
        let from = self.apply("Reshape", vec![("shape", flat)], &[from], origin)?;
        let at = self.apply("Add", vec![], &[from, positions], origin)?;
        self.apply("Gather", vec![("axis", Attr::Int(axis))], &[*x, at], origin)
            .map(Some)
    }
}

/// The one integer that a value is.
fn one(g: &Graph, v: ValueId) -> Option<i64> {
    let t = computed(g, v)?;
    match (t.dtype().is_int(), t.to_i64().as_slice()) {
        (true, [x]) => Some(*x),
        _ => None,
    }
}

/// What a value is a number more than, if it is one integer (else what follows does not hold, and [`most`] finds nothing).
fn offset(g: &Graph, v: ValueId, depth: usize) -> (ValueId, i64) {
    let here = (v, 0);
    let Some((n, _)) = g.producer(v).filter(|_| depth > 0) else {
        return here;
    };
    let node = g.node(n);
    let operand = |i: usize| node.inputs.get(i).copied().flatten();
    let (Some(a), b) = (operand(0), operand(1)) else {
        return here;
    };
    let number = |v: Option<ValueId>| v.and_then(|v| one(g, v)).filter(|n| n.unsigned_abs() < 1 << 40);
    let (of, more) = match node.op.name() {
        name if same(name, node.inputs.len()) && g.fact(v).dtype == g.fact(a).dtype => (a, 0),
        "Add" => {
            if let Some(more) = number(b) {
                (a, more)
            } else if let (Some(more), Some(b)) = (number(Some(a)), b) {
                (b, more)
            } else {
                return here;
            }
        }
        "Sub" => match number(b) {
            Some(less) => (a, -less),
            None => return here,
        },
        _ => return here,
    };
    let (root, rest) = offset(g, of, depth - 1);
    (root, rest.saturating_add(more))
}

/// Whether an operator gives the one element that it has.
fn same(op: &str, inputs: usize) -> bool {
    matches!(op, "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Cast") || op == "Concat" && inputs == 1
}

/// The largest value of one integer that follows from numbers of iterations, and is not negative.
fn most(g: &Graph, v: ValueId, counters: &[(ValueId, Dim)], depth: usize) -> Option<Dim> {
    if let Some((_, count)) = counters.iter().find(|(counter, _)| *counter == v) {
        return Some(count.clone() - Dim::ONE);
    }
    if let Some(n) = one(g, v) {
        return (0..1 << 31).contains(&n).then(|| Dim::from(n));
    }
    let (n, _) = g.producer(v).filter(|_| depth > 0)?;
    let node = g.node(n);
    let operand = |i: usize| most(g, node.inputs.get(i).copied().flatten()?, counters, depth - 1);
    match node.op.name() {
        "Add" => Some(operand(0)? + operand(1)?),
        "Mul" => Some(operand(0)? * operand(1)?),
        name if same(name, node.inputs.len()) && is_index(g, v) => operand(0),
        _ => None,
    }
}

/// Of a narrower type numbers may wrap around.
fn is_index(g: &Graph, v: ValueId) -> bool {
    matches!(g.fact(v).dtype, DType::I32 | DType::I64)
}
