//! The scale and bias after a normalisation become its parameters.

use cameo_ir::op::{OpError, invalid};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, Dim, NodeId, ValueId};

use crate::pattern::{reshape_attrs, splat};

/// Whose parameters broadcast to the operand; the others have one number per channel.
const BROADCASTING: &[&str] = &["LayerNormalization", "RMSNormalization"];
const PER_CHANNEL: &[&str] = &["GroupNormalization", "InstanceNormalization"];

/// `norm(x, 1) * c` → `norm(x, c)`, `norm(x, s) + c` → `norm(x, s, c)`
pub fn parameter(rw: &mut Rewriter, constants: &[bool], n: NodeId) -> Outcome {
    let (Some(a), Some(b)) = (rw.input(n, 0), rw.input(n, 1)) else {
        return Outcome::NoMatch;
    };
    let is_constant = |v: ValueId| rw.constant(v).is_some() || constants.get(v.0 as usize).copied().unwrap_or(false);
    let (y, c) = match (is_constant(a), is_constant(b)) {
        (false, true) => (a, b),
        (true, false) => (b, a),
        _ => return Outcome::NoMatch,
    };
    let Some((norm, 0)) = rw.graph().producer(y) else {
        return Outcome::NoMatch;
    };
    let node = rw.node(norm);
    let op = node.op.name();
    let (slot, detail) = match rw.node(n).op.name() {
        "Mul" => (1, "scale of a normalization"),
        _ => (2, "bias of a normalization"),
    };
    let broadcasting = BROADCASTING.contains(&op);
    if !(broadcasting || PER_CHANNEL.contains(&op)) || node.outputs.len() != 1 || slot >= node.op.schema().inputs.len()
    {
        return Outcome::NoMatch;
    }
    let neutral = |slot: usize, number: f64| match rw.input(norm, slot) {
        Some(v) => splat(rw.graph(), v) == Some(number),
        None => true,
    };
    // A scale comes before the bias.
    if !neutral(2, 0.0) || (slot == 1 && !neutral(1, 1.0)) {
        return Outcome::NoMatch;
    }
    if rw.fact(rw.node(n).outputs[0]).shape != rw.fact(y).shape {
        return rw.refuse(&[n, norm], detail, "it broadcasts the result to a larger shape");
    }
    if !rw.used_once(y) {
        let reason = format!("the result of {op} is also read by others");
        return rw.refuse(&[n, norm], detail, reason);
    }
    if rw.input(norm, 1).is_none_or(|s| rw.fact(s).dtype != rw.fact(c).dtype) {
        return rw.refuse(&[n, norm], detail, "it has another type than the scale");
    }
    if !broadcasting && !per_channel(&rw.fact(c).shape, rw.fact(y).rank()) {
        return rw.refuse(&[n, norm], detail, "it is not one number per channel");
    }
    let channels = rw.fact(y).shape.get(1).cloned();
    let mut inputs = rw.node(norm).inputs.clone();
    inputs.resize(inputs.len().max(slot + 1), None);
    rw.replace(&[n, norm], detail, |rw| {
        inputs[slot] = Some(match (broadcasting, channels) {
            (true, _) => c,
            (false, Some(channels)) => vector(rw, c, channels)?,
            (false, None) => return invalid("no channel axis"),
        });
        rw.copy_with(norm, inputs)
    })
}

/// Whether a tensor of shape `c`, broadcast to rank `rank`, varies along axis 1 only.
fn per_channel(c: &[Dim], rank: usize) -> bool {
    c.len() <= rank
        && c.iter()
            .rev()
            .zip((0..rank).rev())
            .all(|(d, axis)| axis == 1 || d.is_one())
}

/// `c`, which varies along the channels only, as a vector over them.
fn vector(rw: &mut Rewriter, c: ValueId, channels: Dim) -> Result<ValueId, OpError> {
    let count = rw.fact(c).element_count();
    let flat = match rw.fact(c).rank() {
        1 => c,
        _ => rw.apply("Reshape", &reshape_attrs(std::slice::from_ref(&count)), &[c])?,
    };
    match count == channels {
        true => Ok(flat),
        false => rw.apply("Expand", &[("shape", Attr::Dims(vec![channels]))], &[flat]),
    }
}
