//! What can be said of integers before a run computes them: where they come from, whether they are equal, how large they are.

use cameo_ir::op::AttrDef;
use cameo_ir::{Attr, DType, Dim, Fact, Graph, Node, Tensor, ValueId};

use crate::numbers::MOVING;

/// What one integer was before it was moved; where `exact`, through floats too: those of 32 bits have every one up to 2^24.
pub(crate) fn plain(g: &Graph, v: ValueId, exact: bool) -> ValueId {
    let (mut v, mut rounded, mut integer) = (v, false, v);
    while let Some((n, _)) = g.producer(v) {
        let node = g.node(n);
        let Some(Some(x)) = node.inputs.first().copied() else {
            break;
        };
        if g.fact(x).element_count().as_const() != Some(1) {
            break;
        }
        let (from, to) = (g.fact(x).dtype, g.fact(v).dtype);
        let float = |t: DType| exact && matches!(t, DType::F32 | DType::F64);
        let same = match node.op.name() {
            "Reshape" | "Squeeze" | "Unsqueeze" | "Identity" | "Flatten" | "Gather" => true,
            "Concat" => node.inputs.len() == 1,
            "Cast" if from.is_int() && to.is_int() => from == to || to == DType::I64 && from != DType::U64,
            "Cast" if float(from) && to == DType::I64 => {
                rounded = true;
                true
            }
            "Cast" => float(to) && rounded && matches!(from, DType::I32 | DType::I64),
            "Ceil" | "Floor" | "Round" => rounded,
            _ => false,
        };
        if !same {
            break;
        }
        v = x;
        if from.is_int() {
            (integer, rounded) = (v, false);
        }
    }
    integer
}

/// The integer that all elements are.
pub(crate) fn all_of(g: &Graph, v: ValueId) -> Option<i64> {
    let (n, _) = g.producer(v)?;
    let node = g.node(n);
    let one = |t: &Tensor| (t.len() == 1 && t.dtype().is_int()).then(|| t.to_i64()[0]);
    match (node.op.name(), node.attrs.get("value")) {
        ("ConstantOfShape", Some(Attr::Tensor(t))) => one(t),
        ("Expand", _) => one(g.constant(node.inputs[0]?)?),
        _ => None,
    }
}

/// The flags of which a number says how many are set.
pub(crate) fn summed_mask(g: &Graph, v: ValueId) -> Option<ValueId> {
    let of = |v: ValueId, op: &str| {
        let (n, _) = g.producer(v)?;
        let node = g.node(n);
        (node.op == op)
            .then(|| node.inputs.first().copied().flatten())
            .flatten()
    };
    let whole = |v: ValueId| g.fact(v).element_count().as_const() == Some(1);
    let mut v = v;
    while let Some(x) = ["Reshape", "Squeeze", "Unsqueeze"]
        .iter()
        .find_map(|op| of(v, op))
        .filter(|x| whole(*x))
    {
        v = x;
    }
    let flags = of(of(v, "ReduceSum")?, "Cast")?;
    (g.fact(flags).dtype == DType::Bool && g.fact(flags).rank() > 0).then_some(flags)
}

/// Whether a node gives dimensions names, of which each is given once.
pub(crate) fn counts(node: &Node) -> bool {
    node.op
        .schema()
        .attrs
        .iter()
        .any(|(_, def)| matches!(def, AttrDef::Symbol(_) | AttrDef::Probe))
}

/// The value before operators that leave its shape as it was, and so all of it.
fn unchanged(g: &Graph, mut v: ValueId) -> ValueId {
    const SHAPING: [&str; 6] = ["Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"];
    while let Some((n, _)) = g.producer(v)
        && let node = g.node(n)
        && SHAPING.contains(&node.op.name())
        && let Some(Some(x)) = node.inputs.first().copied()
        && g.fact(x).shape == g.fact(v).shape
    {
        v = x;
    }
    v
}

/// Whether two values are computed alike.
pub(crate) fn same(g: &Graph, a: ValueId, b: ValueId, depth: usize) -> bool {
    let [a, b] = [a, b].map(|v| unchanged(g, v));
    if a == b {
        return true;
    }
    if let (Some(a), Some(b)) = (g.constant(a), g.constant(b)) {
        return a.dtype() == b.dtype() && a.shape() == b.shape() && a.bytes() == b.bytes();
    }
    let (Some((n, i)), Some((m, j))) = (g.producer(a), g.producer(b)) else {
        return false;
    };
    let (x, y) = (g.node(n), g.node(m));
    let draws =
        |node: &Node| node.op.name().starts_with("Random") || matches!(node.op.name(), "Bernoulli" | "Multinomial");
    depth > 0
        && i == j
        && x.op == y.op
        && !draws(x)
        && x.attrs == y.attrs
        && x.inputs.len() == y.inputs.len()
        && x.inputs.iter().zip(&y.inputs).all(|pair| match pair {
            (Some(a), Some(b)) => same(g, *a, *b, depth - 1),
            (a, b) => a == b,
        })
}

/// What a value is computed from, if it is by one of those operators.
struct Made<'a> {
    node: &'a Node,
    result: usize,
}

fn made(g: &Graph, v: ValueId) -> Option<Made<'_>> {
    let (n, result) = g.producer(v)?;
    Some(Made {
        node: g.node(n),
        result,
    })
}

impl Made<'_> {
    fn operand(&self, i: usize) -> Option<ValueId> {
        self.node.inputs.get(i).copied().flatten()
    }
}

/// Operators whose result has elements of their first operand only.
fn picks(op: &str) -> bool {
    MOVING.contains(&op) && op != "Concat"
        || matches!(op, "ReduceMax" | "ReduceMin" | "ReduceMean" | "Compress" | "Tile")
}

fn extremes(t: &Tensor) -> Option<(f64, f64)> {
    let all = t.to_f64();
    let (lo, hi) = all.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), x| {
        (lo.min(*x), hi.max(*x))
    });
    (!all.is_empty() && all.iter().all(|x| x.is_finite())).then_some((lo, hi))
}

/// Whether no element is negative.
pub(crate) fn at_least_none(g: &Graph, v: ValueId, depth: usize) -> bool {
    let fact = g.fact(v);
    if matches!(
        fact.dtype,
        DType::Bool | DType::U8 | DType::U16 | DType::U32 | DType::U64
    ) {
        return true;
    }
    if let Some(t) = g.constant(v) {
        return extremes(t).is_some_and(|(lo, _)| lo >= 0.0);
    }
    if let Some(known) = fact.known.as_ref().filter(|_| !fact.dtype.is_float()) {
        return known.iter().all(|d| cameo_ir::Bounds::of(&[]).range(d).0 >= 0);
    }
    let Some(m) = made(g, v).filter(|_| depth > 0) else {
        return false;
    };
    let of = |i: usize| m.operand(i).is_some_and(|x| at_least_none(g, x, depth - 1));
    let all = || m.node.inputs.iter().flatten().all(|x| at_least_none(g, *x, depth - 1));
    match m.node.op.name() {
        "Abs" | "Relu" | "Exp" | "Sqrt" | "Sigmoid" | "Softplus" | "ArgMax" | "ArgMin" | "NonZero" | "Shape"
        | "Size" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare" => true,
        "TopK" | "Unique" if m.result > 0 => true,
        "Ceil" | "Floor" | "Round" | "CumSum" | "ReduceSum" | "ReduceProd" => of(0),
        "Max" => m.node.inputs.iter().flatten().any(|x| at_least_none(g, *x, depth - 1)),
        "Clip" => of(1) || of(0) && (m.operand(2).is_none() || of(2)),
        "Add" | "Mul" | "Div" | "Min" | "Concat" | "Mod" => all(),
        "Where" => of(1) && of(2),
        op => picks(op) && of(0),
    }
}

/// A dim that no element is larger than.
pub(crate) fn upper(g: &Graph, v: ValueId, depth: usize) -> Option<Dim> {
    let fact = g.fact(v);
    if fact.dtype == DType::Bool {
        return Some(Dim::ONE);
    }
    if let Some(t) = g.constant(v) {
        return extremes(t)
            .filter(|(_, hi)| *hi < 1e15)
            .map(|(_, hi)| Dim::from(hi.ceil() as i64));
    }
    if let Some(known) = fact.known.as_ref().filter(|_| !fact.dtype.is_float()) {
        return known.iter().cloned().reduce(|a, b| a.maximum(&b));
    }
    let m = made(g, v).filter(|_| depth > 0)?;
    let of = |i: usize| upper(g, m.operand(i)?, depth - 1);
    let whole = |i: usize| m.operand(i).is_some_and(|x| at_least_none(g, x, depth - 1));
    let extents = |x: &Fact| x.shape.iter().cloned().reduce(|a, b| a.maximum(&b));
    match m.node.op.name() {
        // What does not fit becomes something else.
        "Cast" if fact.dtype.is_int() && fact.dtype.bits() < 32 => None,
        "ArgMax" | "ArgMin" | "NonZero" => extents(g.fact(m.operand(0)?)),
        "TopK" if m.result > 0 => extents(g.fact(m.operand(0)?)),
        "ReduceSum" => Some(of(0)?.maximum(&Dim::ZERO) * g.fact(m.operand(0)?).element_count()),
        "Ceil" | "Floor" | "Round" | "Identity" => of(0),
        "Relu" => of(0).map(|d| d.maximum(&Dim::ZERO)),
        "Sub" if whole(1) => of(0),
        "Add" => Some(of(0)? + of(1)?),
        "Mul" if whole(0) && whole(1) => Some(of(0)? * of(1)?),
        "Div" if whole(0) && !fact.dtype.is_float() => of(0),
        "Min" => (0..m.node.inputs.len()).filter_map(of).reduce(|a, b| a.minimum(&b)),
        "Max" => {
            let all: Option<Vec<Dim>> = (0..m.node.inputs.len()).map(of).collect();
            all?.into_iter().reduce(|a, b| a.maximum(&b))
        }
        "Clip" => of(2).or_else(|| Some(of(0)?.maximum(&of(1)?))),
        "Where" => Some(of(1)?.maximum(&of(2)?)),
        "Concat" => {
            let all: Option<Vec<Dim>> = (0..m.node.inputs.len()).map(of).collect();
            all?.into_iter().reduce(|a, b| a.maximum(&b))
        }
        op => picks(op).then(|| of(0)).flatten(),
    }
}
