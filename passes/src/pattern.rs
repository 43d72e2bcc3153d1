//! What the patterns of several passes ask about values and nodes.

use cameo_ir::op::normalize_axis;
use cameo_ir::{Attr, DType, Dim, Graph, NodeId, Tensor, ValueId};

/// Comparing more elements than this costs more than a neutral operand would; larger neutral tensors are rare.
const SPLAT_MAX: usize = 1 << 16;

/// The one value of all elements, for a constant of which that is known. Not for tensors without elements.
pub fn splat(g: &Graph, v: ValueId) -> Option<f64> {
    if let Some(t) = g.constant(v) {
        let size = t.dtype().size();
        if t.is_empty() || t.len() > SPLAT_MAX || t.dtype() == DType::String {
            return None;
        }
        let first = &t.bytes()[..size];
        if !t.bytes().chunks_exact(size).all(|c| c == first) {
            return None;
        }
        return Tensor::new(t.dtype(), vec![], t.bytes().slice(..size))
            .ok()?
            .scalar_f64();
    }
    let (n, _) = g.producer(v)?;
    let node = g.node(n);
    match node.op.name() {
        "Expand" | "Reshape" | "Transpose" | "Unsqueeze" | "Squeeze" => splat(g, node.inputs[0]?),
        "ConstantOfShape" => match node.attrs.get("value") {
            Some(Attr::Tensor(t)) => t.scalar_f64(),
            Some(_) => None,
            None => Some(0.0),
        },
        _ => None,
    }
}

/// The permutation of a Transpose: axis `i` of the result is axis `perm[i]` of the operand.
pub fn permutation(g: &Graph, n: NodeId) -> Option<Vec<usize>> {
    let node = g.node(n);
    if node.op != "Transpose" {
        return None;
    }
    let rank = g.fact(node.inputs[0]?).rank();
    match node.attrs.get("perm") {
        Some(Attr::Ints(p)) => p.iter().map(|a| normalize_axis(*a, rank).ok()).collect(),
        _ => Some((0..rank).rev().collect()),
    }
}

/// The attribute of [`permutation`].
pub fn perm_attr(perm: &[usize]) -> Attr {
    Attr::Ints(perm.iter().map(|a| *a as i64).collect())
}

/// `first`, then `second`: transposing by the result does both.
pub fn compose(first: &[usize], second: &[usize]) -> Vec<usize> {
    second.iter().map(|a| first[*a]).collect()
}

pub fn is_identity(perm: &[usize]) -> bool {
    perm.iter().enumerate().all(|(i, a)| i == *a)
}

/// Attributes of a Reshape to exactly `shape`.
pub fn reshape_attrs(shape: &[Dim]) -> Vec<(&'static str, Attr)> {
    let mut out = vec![("shape", Attr::Dims(shape.to_vec()))];
    if shape.iter().any(Dim::is_zero) {
        // Without it a zero means "as the operand".
        out.push(("allowzero", Attr::Int(1)));
    }
    out
}

/// Whether the operation only moves elements: its result has no value that an operand has not.
pub fn is_movement(op: &str) -> bool {
    matches!(
        op,
        "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Flatten" | "Slice" | "Concat" | "Split" | "Identity"
    )
}
