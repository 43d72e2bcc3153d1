//! Constant factors: carried towards the producers of what they scale, until a weight takes them.
//!
//! [`Search::carry`] finds the way without changing anything, [`scaled`] then rebuilds it: both know the same cases.

use cameo_ir::op::{OpError, invalid};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, DType, Dim, Graph, NodeId, Origin, ValueId};

use super::{INFINITE, infinite, reshaped};
use crate::pattern::permutation;

/// A constant factor: one number, or one per index of `axis` of the value that it scales.
#[derive(Clone, Copy)]
pub struct Factor {
    /// `Mul` or `Div`.
    pub op: &'static str,
    pub value: ValueId,
    pub axis: Option<usize>,
}

/// Why a factor cannot be carried on.
enum Stop {
    /// There is no weight to take it.
    NoWeight,
    /// There is, but.
    Refused(String),
}

/// `f(x, w) * c` → `f(x, w * c)`, through movement and sums with constants
pub fn scale(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let (Some(a), Some(b)) = (rw.input(n, 0), rw.input(n, 1)) else {
        return Outcome::NoMatch;
    };
    let op = if rw.node(n).op == "Mul" { "Mul" } else { "Div" };
    let constants = rw.constants();
    let is_constant = |v: ValueId| constants[v.0 as usize];
    let (x, c) = match (is_constant(a), is_constant(b)) {
        (false, true) => (a, b),
        (true, false) if op == "Mul" => (b, a),
        _ => return Outcome::NoMatch,
    };
    let out = rw.fact(rw.node(n).outputs[0]);
    if out.shape != rw.fact(x).shape || !out.dtype.is_float() {
        return Outcome::NoMatch;
    }
    let Some(axis) = channel_axis(&rw.fact(c).shape, &out.shape) else {
        return Outcome::NoMatch;
    };
    let factor = Factor { op, value: c, axis };
    let mut nodes = vec![n];
    let search = Search {
        g: rw.graph(),
        constants: &constants,
    };
    match search.carry(x, factor, &mut nodes) {
        Err(Stop::NoWeight) => Outcome::NoMatch,
        Err(Stop::Refused(reason)) => rw.refuse(&nodes, "scale into weights", reason),
        Ok(()) if infinite(rw, op, c) => rw.refuse(&nodes, "scale into weights", INFINITE),
        Ok(()) => {
            let origin = rw.node(n).origin.clone();
            rw.replace_one(&nodes, "scale into weights", |rw| {
                scaled(rw, &constants, &origin, x, factor)
            })
        }
    }
}

/// The only axis along which a constant of shape `c` varies when it is broadcast to `shape`: `Some(None)` when it has
/// one element, `None` when there are several axes.
pub fn channel_axis(c: &[Dim], shape: &[Dim]) -> Option<Option<usize>> {
    let skip = shape.len().checked_sub(c.len())?;
    let mut wide = c.iter().enumerate().filter(|(_, d)| !d.is_one());
    match (wide.next(), wide.next()) {
        (None, _) => Some(None),
        (Some((i, d)), None) if shape[skip + i] == *d => Some(Some(skip + i)),
        _ => None,
    }
}

/// How far a factor is carried: a few nodes lie between the heads of an attention and the weights of its queries. Longer
/// chains would be walked again for each of their factors.
const MAX_NODES: usize = 64;

struct Search<'a> {
    g: &'a Graph,
    constants: &'a [bool],
}

impl Search<'_> {
    fn constant(&self, v: Option<ValueId>) -> bool {
        v.is_some_and(|v| self.constants[v.0 as usize])
    }

    fn read_once(&self, v: ValueId) -> bool {
        !self.g.is_output(v) && self.g.user_count(v) == 1
    }

    /// Whether [`scaled`] can carry `f` from `v` into a weight; collects the nodes on the way.
    fn carry(&self, v: ValueId, f: Factor, nodes: &mut Vec<NodeId>) -> Result<(), Stop> {
        let Some((n, _)) = self.g.producer(v) else {
            return Err(Stop::NoWeight);
        };
        let node = self.g.node(n);
        let input = |i: usize| node.inputs.get(i).copied().flatten();
        if nodes.len() == MAX_NODES {
            return Err(Stop::NoWeight);
        }
        nodes.push(n);
        let way = match (node.op.name(), input(0)) {
            ("Reshape", Some(x)) if f.axis.is_none() => self.carry(x, f, nodes),
            ("Transpose", Some(x)) => match carried_through_transpose(self.g, n, f) {
                Some(f) => self.carry(x, f, nodes),
                None => Err(Stop::NoWeight),
            },
            ("Add" | "Mul", Some(x)) if self.constant(input(1)) => {
                let grows = f.axis.is_some() && !self.covers(input(1), v, f.axis);
                match self.g.fact(x).shape == self.g.fact(v).shape && !grows {
                    true => self.carry(x, f, nodes),
                    false => Err(Stop::NoWeight),
                }
            }
            ("MatMul", Some(a)) => match input(1) {
                Some(b) if weight_axis(self.g, n, f.axis).is_none() && f.axis.is_none() => {
                    // Two computed operands: either may take a scalar.
                    let mark = nodes.len();
                    match self.carry(a, f, nodes) {
                        Ok(()) => Ok(()),
                        Err(_) => {
                            nodes.truncate(mark);
                            self.carry(b, f, nodes)
                        }
                    }
                }
                _ => self.taken_by_weight(n, f),
            },
            ("Conv" | "ConvTranspose" | "Gemm", _) => self.taken_by_weight(n, f),
            _ => Err(Stop::NoWeight),
        };
        way?;
        match self.read_once(v) {
            true => Ok(()),
            false => Err(Stop::Refused(format!(
                "the result of {} is also read by others",
                node.op
            ))),
        }
    }

    /// Whether constant `c`, broadcast to the shape of `v`, already varies along `axis` or is one element.
    fn covers(&self, c: Option<ValueId>, v: ValueId, axis: Option<usize>) -> bool {
        let (Some(c), Some(axis)) = (c, axis) else { return true };
        let (shape, full) = (&self.g.fact(c).shape, &self.g.fact(v).shape);
        if shape.iter().all(Dim::is_one) {
            return true;
        }
        let skip = full.len() - shape.len();
        axis >= skip && shape[axis - skip] == full[axis]
    }

    fn taken_by_weight(&self, n: NodeId, f: Factor) -> Result<(), Stop> {
        let node = self.g.node(n);
        let refused = |reason: &str| Err(Stop::Refused(format!("{reason} of {}", node.op)));
        let Some((slot, _)) = weight_axis(self.g, n, f.axis) else {
            return Err(Stop::NoWeight);
        };
        let Some(w) = node.inputs.get(slot).copied().flatten() else {
            return Err(Stop::NoWeight);
        };
        if !self.constant(Some(w)) {
            return Err(Stop::NoWeight);
        }
        if !matches!(self.g.fact(w).dtype, DType::F32 | DType::F64) {
            return refused("a product would be rounded to the 16-bit weight");
        }
        if self.g.user_count(w) != 1 {
            return refused("others read the weight");
        }
        let bias = node.inputs.get(2).copied().flatten();
        if bias.is_some() && !self.constant(bias) {
            return refused("the bias is not a constant");
        }
        Ok(())
    }
}

fn carried_through_transpose(g: &Graph, n: NodeId, f: Factor) -> Option<Factor> {
    let perm = permutation(g, n)?;
    Some(Factor {
        axis: f.axis.map(|a| perm[a]),
        ..f
    })
}

/// The operand that is the weight of `n` and its axis that corresponds to axis `axis` of the result. For a scalar factor
/// the axis is meaningless.
fn weight_axis(g: &Graph, n: NodeId, axis: Option<usize>) -> Option<(usize, usize)> {
    let node = g.node(n);
    let fact = |i: usize| node.inputs.get(i).copied().flatten().map(|v| g.fact(v));
    let is_constant = |i: usize| {
        // A weight, or what recipes make of weights: it has no path from an input, which the callers check as well.
        node.inputs
            .get(i)
            .copied()
            .flatten()
            .is_some_and(|v| g.constant(v).is_some() || g.producer(v).is_some_and(|(p, _)| recipe(g, p, 0)))
    };
    let group = match node.attrs.get("group") {
        Some(Attr::Int(k)) => *k,
        _ => 1,
    };
    match node.op.name() {
        // W: [out, in/group, …]
        "Conv" if axis.is_none_or(|a| a == 1) => Some((1, 0)),
        // W: [in, out/group, …]
        "ConvTranspose" if axis.is_none() || (axis == Some(1) && group == 1) => Some((1, 1)),
        "Gemm" if axis.is_none_or(|a| a == 1) => {
            let transposed = matches!(node.attrs.get("transB"), Some(Attr::Int(t)) if *t != 0);
            Some((1, usize::from(!transposed)))
        }
        "MatMul" => {
            let (a, b, out) = (fact(0)?, fact(1)?, g.fact(node.outputs[0]));
            if a.rank() < 2 || b.rank() < 2 {
                return None;
            }
            if is_constant(1) && axis.is_none_or(|x| x + 1 == out.rank()) {
                return Some((1, b.rank() - 1));
            }
            if is_constant(0) && axis.is_none_or(|x| x + 2 == out.rank()) {
                return Some((0, a.rank() - 2));
            }
            None
        }
        _ => None,
    }
}

/// Recipes of weights are a few nodes: fold, transpose, reshape.
const RECIPE_DEPTH: usize = 8;

fn recipe(g: &Graph, n: NodeId, depth: usize) -> bool {
    depth < RECIPE_DEPTH
        && !g.node(n).inputs.is_empty()
        && g.node(n)
            .inputs
            .iter()
            .flatten()
            .all(|v| g.constant(*v).is_some() || g.producer(*v).is_some_and(|(p, _)| recipe(g, p, depth + 1)))
}

/// `v * f`, where [`Search::carry`] has found a way. Nodes on the way keep their origins; what takes the factor gets that
/// of the scale as well.
fn scaled(rw: &mut Rewriter, constants: &[bool], scale: &Origin, v: ValueId, f: Factor) -> Result<ValueId, OpError> {
    let Some((n, _)) = rw.graph().producer(v) else {
        return invalid("nothing to scale");
    };
    let node = rw.node(n);
    let (op, rank, own) = (node.op.name(), rw.fact(v).rank(), node.origin.clone());
    let both = own.merge(scale);
    let mut taken = false;
    let mut inputs = node.inputs.clone();
    let Some(x) = inputs.first().copied().flatten() else {
        return invalid("nothing to scale");
    };
    match op {
        "Reshape" => inputs[0] = Some(scaled(rw, constants, scale, x, f)?),
        "Transpose" => {
            let Some(f) = carried_through_transpose(rw.graph(), n, f) else {
                return invalid("no permutation");
            };
            inputs[0] = Some(scaled(rw, constants, scale, x, f)?);
        }
        "Add" | "Mul" => {
            inputs[0] = Some(scaled(rw, constants, scale, x, f)?);
            if op == "Add"
                && let Some(c) = inputs[1]
            {
                inputs[1] = Some(rw.with_origin(both.clone(), |rw| constant_scaled(rw, c, f, f.axis, rank))?);
            }
        }
        _ => match weight_axis(rw.graph(), n, f.axis) {
            Some((slot, axis)) => {
                taken = true;
                if let Some(w) = inputs[slot] {
                    let rank = rw.fact(w).rank();
                    let axis = f.axis.map(|_| axis);
                    inputs[slot] = Some(rw.with_origin(both.clone(), |rw| constant_scaled(rw, w, f, axis, rank))?);
                }
                if let Some(bias) = inputs.get(2).copied().flatten() {
                    // The bias of Gemm is broadcast to [M, N], that of Conv is [C].
                    let rank = rw.fact(bias).rank();
                    let last = f.axis.map(|_| rank.saturating_sub(1));
                    inputs[2] = Some(rw.with_origin(both.clone(), |rw| constant_scaled(rw, bias, f, last, rank))?);
                }
            }
            None => {
                let search = Search {
                    g: rw.graph(),
                    constants,
                };
                let first = search.carry(x, f, &mut vec![]).is_ok();
                let slot = usize::from(!first);
                if let Some(y) = inputs[slot] {
                    inputs[slot] = Some(scaled(rw, constants, scale, y, f)?);
                }
            }
        },
    }
    let origin = if taken { both } else { own };
    Ok(rw.with_origin(origin, |rw| rw.copy_with(n, inputs))?[0])
}

/// Constant `c` times `f`, whose elements lie along `axis` of a value of rank `rank` to which `c` is broadcast.
pub fn constant_scaled(
    rw: &mut Rewriter,
    c: ValueId,
    f: Factor,
    axis: Option<usize>,
    rank: usize,
) -> Result<ValueId, OpError> {
    let mut shape = vec![];
    if let Some(axis) = axis {
        shape.push(rw.fact(f.value).element_count());
        shape.extend((axis + 1..rank).map(|_| Dim::ONE));
    }
    let factor = reshaped(rw, f.value, &shape)?;
    rw.apply(f.op, &[], &[c, factor])
}
