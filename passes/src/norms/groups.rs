//! Group normalisation.

use cameo_ir::op::normalize_axis;
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, NodeId, Tensor};

use crate::pattern::splat;

/// `Reshape(norm(Reshape(x, [N,G,…]), s, b), shape of x)` → `GroupNormalization(x, s, b)`, for a normalisation of all but
/// the first two axes and numbers s, b: rows of a group are neighbours
pub fn group(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let detail = "group normalization";
    let Some((norm, 0)) = rw.input(n, 0).and_then(|v| rw.graph().producer(v)) else {
        return Outcome::NoMatch;
    };
    let node = rw.node(norm);
    let inner = rw.fact(node.outputs[0]).clone();
    let all_but_two = match node.op.name() {
        "InstanceNormalization" => true,
        "LayerNormalization" => {
            let axis = match node.attrs.get("axis") {
                Some(Attr::Int(a)) => *a,
                // The default of ONNX.
                _ => -1,
            };
            normalize_axis(axis, inner.rank()) == Ok(2)
        }
        _ => return Outcome::NoMatch,
    };
    let before = rw.input(norm, 0).and_then(|v| rw.producer_if(v, "Reshape"));
    let Some((before, x)) = before.and_then(|r| Some((r, rw.input(r, 0)?))) else {
        return Outcome::NoMatch;
    };
    let outer = rw.fact(x).clone();
    let nodes = [n, norm, before];
    if outer.shape != rw.fact(rw.node(n).outputs[0]).shape || !all_but_two || outer.rank() < 3 {
        return Outcome::NoMatch;
    }
    if outer.shape[0] != inner.shape[0] {
        return rw.refuse(&nodes, detail, "it joins rows of several images");
    }
    let (Some(channels), Some(groups)) = (outer.shape[1].as_const(), inner.shape[1].as_const()) else {
        return rw.refuse(&nodes, detail, "the number of channels or groups is symbolic");
    };
    if groups == 0 || channels % groups != 0 {
        return rw.refuse(&nodes, detail, "the channels do not divide into the groups");
    }
    let number = |slot: usize, absent: f64| match rw.input(norm, slot) {
        Some(v) => splat(rw.graph(), v),
        None => Some(absent),
    };
    let (Some(scale), Some(bias)) = (number(1, 1.0), number(2, 0.0)) else {
        return rw.refuse(&nodes, detail, "its scale and bias differ between groups");
    };
    if !rw.used_once(rw.node(norm).outputs[0]) {
        let reason = format!("the result of {} is also read by others", rw.node(norm).op);
        return rw.refuse(&nodes, detail, reason);
    }
    let mut attrs = vec![("num_groups", Attr::Int(groups))];
    attrs.extend(rw.node(norm).attrs.get("epsilon").map(|e| ("epsilon", e.clone())));
    rw.replace_one(&nodes, detail, |rw| {
        let shape = [("shape", Attr::Dims(vec![outer.shape[1].clone()]))];
        let [scale, bias] = [scale, bias].map(|v| rw.add_weight("", Tensor::from_f64(outer.dtype, &[], [v])));
        let scale = rw.apply("Expand", &shape, &[scale])?;
        let bias = rw.apply("Expand", &shape, &[bias])?;
        rw.apply("GroupNormalization", &attrs, &[x, scale, bias])
    })
}
