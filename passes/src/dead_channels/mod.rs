//! Removes what only multiplies zeros: channels, heads, neurons and layers that pruning has masked.
//!
//! ```text
//! weight m: f32[8] = 1 1 0 0 0 0 1 1
//! %1 = MatMul(%0, w) : f32[N,8]               %1 = Gather(w, [0, 1, 6, 7]) {axis=1} : f32[4,4]
//! %2 = Relu(%1) : f32[N,8]                    %2 = MatMul(%0, %1) : f32[N,4]
//! %3 = Mul(%2, m) : f32[N,8]             →    %3 = Relu(%2) : f32[N,4]
//! %4 = MatMul(%3, v) : f32[N,4]               %4 = Mul(%3, …) : f32[N,4]
//!                                             %5 = MatMul(%4, Gather(v, [0, 1, 6, 7]) {axis=0}) : f32[N,4]
//! ```
//!
//! [`live`] follows zeros forward: from weights with rows of zeros through everything that keeps zero. [`need`] finds the
//! smallest choice of elements that agrees with all ties: an axis that is summed needs what is not zero, a slice what it
//! takes, an output what is not zero (zeros are put back there). The nodes are then made again, smaller. A normalisation
//! still divides by the number of elements that it had. What is zero everywhere becomes a constant. Refused, with the
//! node that binds the axis: elements that something else needs; less than a sixteenth of an axis. Law: zero times
//! anything is zero; infinities that meet a mask are lost.

mod live;
mod need;
#[cfg(test)]
mod tests;

use cameo_ir::op::{OpError, invalid, normalize_axis};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, Dim, Graph, NodeId, Tensor, ValueId};
use rustc_hash::FxHashMap;

use crate::Pass;
use crate::axes::cut::{Cut, Net};
use crate::axes::rebuild::{Step, plan, shape};
use crate::axes::{Axis, Place};
use live::Live;
use need::needed;

pub const PASS: Pass = Pass {
    name: "dead_channels",
    doc: "removes channels that masks or zero weights make useless",
    run,
};

const DETAIL: &str = "dead channels";

fn run(rw: &mut Rewriter) {
    let constants = rw.constants();
    let mut net = Net::new(rw.graph());
    let mut live = Live::new(&mut net);
    let zeros = zeros(rw.graph(), &live, &constants);
    if !zeros.is_empty() {
        for n in zeros {
            constant(rw, n);
        }
        net = Net::new(rw.graph());
        live = Live::new(&mut net);
    }
    if live.is_empty() {
        return;
    }
    let needed = needed(&mut net, &live);
    let steps = match needed.cut.is_empty() {
        true => Ok(vec![]),
        false => plan(&mut net, &needed.cut),
    };
    if !needed.complete {
        rw.refuse(&[], DETAIL, "the graph has too many parts of axes");
    }
    for (n, (at, reason)) in &needed.whole {
        let at = at.map(|at| rw.node(at)).map(|at| format!(" at {}", at.op.name()));
        let reason = format!(
            "all elements of a summed axis are needed{}: {reason}",
            at.unwrap_or_default()
        );
        rw.refuse(&[*n], DETAIL, reason);
    }
    match steps {
        Ok(steps) if steps.is_empty() => {}
        Ok(steps) => {
            shrink(rw, &needed.cut, &steps);
        }
        Err(r) => {
            let nodes: Vec<NodeId> = r.node.into_iter().collect();
            rw.refuse(&nodes, DETAIL, r.reason);
        }
    }
}

/// Nodes whose results are zero everywhere, unless they are constant or only arrange zeros.
fn zeros(g: &Graph, live: &Live, constants: &[bool]) -> Vec<NodeId> {
    let arranges = |op: &str| crate::pattern::is_movement(op) || matches!(op, "Expand" | "ConstantOfShape");
    g.order()
        .into_iter()
        .filter(|n| {
            let node = g.node(*n);
            let v = node.outputs[0];
            node.outputs.len() == 1 && live.is_zero(v) && !constants[v.0 as usize] && !arranges(node.op.name())
        })
        .collect()
}

fn constant(rw: &mut Rewriter, n: NodeId) {
    if !rw.graph().contains(n) {
        return;
    }
    let fact = rw.fact(rw.node(n).outputs[0]).clone();
    let zero = Tensor::from_f64(fact.dtype, &[1], [0.0]);
    let attrs = [("shape", Attr::Dims(fact.shape)), ("value", Attr::Tensor(zero))];
    rw.replace_one(&[n], "zeros", |rw| rw.apply("ConstantOfShape", &attrs, &[]));
}

/// Makes the nodes again that the cut reaches.
fn shrink(rw: &mut Rewriter, cut: &Cut, steps: &[Step]) -> Outcome {
    let g = rw.graph();
    let whole = |v: &ValueId| !(0..g.fact(*v).rank()).any(|a| cut.contains_key(&Axis::of(*v, a)));
    // Where the smaller part of the graph ends: at values that are what they were, and at outputs.
    let nodes: Vec<NodeId> = steps.iter().map(|s| s.node).collect();
    let results = nodes.iter().flat_map(|n| &g.node(*n).outputs);
    let ends: Vec<ValueId> = results.filter(|v| whole(v) || g.is_output(**v)).copied().collect();
    rw.replace_values(&ends, &nodes, DETAIL, |rw| {
        let mut map = FxHashMap::default();
        for step in steps {
            make(rw, cut, step, &mut map)?;
        }
        ends.iter().map(|v| restored(rw, cut, *v, &map)).collect()
    })
}

/// What of axes `axes` of `v` there was and is.
fn extents(g: &Graph, cut: &Cut, v: ValueId, axes: &[usize]) -> Option<(f64, f64)> {
    let (was, is) = (&g.fact(v).shape, shape(g, cut, v));
    let number = |s: &[Dim]| Dim::product(axes.iter().map(|a| &s[*a])).as_const();
    Some((number(was)? as f64, number(&is)? as f64))
}

fn make(rw: &mut Rewriter, cut: &Cut, step: &Step, map: &mut FxHashMap<ValueId, ValueId>) -> Result<(), OpError> {
    let n = step.node;
    let old = rw.node(n).outputs.clone();
    let g = rw.graph();
    let op = g.node(n).op.name();
    let over = match op {
        "ReduceMean" => g.with_cx(n, |cx| cx.const_ints(1))?,
        "LayerNormalization" | "RMSNormalization" => {
            let rank = g.fact(old[0]).rank() as i64;
            let first = normalize_axis(g.with_cx(n, |cx| cx.int("axis"))?, rank as usize)?;
            Some((first as i64..rank).collect())
        }
        _ => return step.make(rw, map, &old),
    };
    let Some(x) = rw.input(n, 0) else {
        return invalid("a reduction of nothing");
    };
    let rank = rw.fact(x).rank();
    let over: Vec<usize> = match over {
        Some(axes) => axes
            .iter()
            .map(|a| normalize_axis(*a, rank))
            .collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    if !over.iter().any(|a| cut.contains_key(&Axis::of(x, *a))) {
        return step.make(rw, map, &old);
    }
    let Some((was, is)) = extents(rw.graph(), cut, x, &over) else {
        return invalid("elements are left out of a mean over an unknown number");
    };
    let inputs = step.inputs(rw, map)?;
    let origin = rw.node(n).origin.clone();
    let new = rw.with_origin(origin, |rw| match op {
        "ReduceMean" => mean(rw, n, &inputs, was),
        "RMSNormalization" => rms(rw, n, &inputs, was, is),
        _ => layer_norm(rw, n, &inputs, &over, was, is),
    })?;
    map.insert(old[0], new);
    Ok(())
}

/// A number beside `like`.
fn number(rw: &mut Rewriter, like: ValueId, x: f64) -> ValueId {
    let dtype = rw.fact(like).dtype;
    rw.add_weight("", Tensor::from_f64(dtype, &[], [x]))
}

fn scaled(rw: &mut Rewriter, v: ValueId, factor: f64) -> Result<ValueId, OpError> {
    let factor = number(rw, v, factor);
    rw.apply("Mul", &[], &[v, factor])
}

/// The sum of what is left, divided by the number that there was.
fn mean(rw: &mut Rewriter, n: NodeId, inputs: &[Option<ValueId>], was: f64) -> Result<ValueId, OpError> {
    let node = rw.node(n);
    let attrs: Vec<(String, Attr)> = node.attrs.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    let attrs: Vec<(&str, Attr)> = attrs.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    let inputs: Vec<ValueId> = inputs.iter().flatten().copied().collect();
    let sum = rw.apply("ReduceSum", &attrs, &inputs)?;
    scaled(rw, sum, 1.0 / was)
}

/// `x / √(Σx²/was + ε)` = `√(was/is) · x / √(Σx²/is + ε·was/is)`
fn rms(rw: &mut Rewriter, n: NodeId, inputs: &[Option<ValueId>], was: f64, is: f64) -> Result<ValueId, OpError> {
    let (Some(Some(x)), Some(Some(scale))) = (inputs.first(), inputs.get(1)) else {
        return invalid("a normalisation without a scale");
    };
    let (axis, epsilon) = rw
        .graph()
        .with_cx(n, |cx| Ok::<_, OpError>((cx.int("axis")?, cx.float("epsilon")?)))?;
    let scale = scaled(rw, *scale, (was / is).sqrt())?;
    let attrs = [
        ("axis", Attr::Int(axis)),
        ("epsilon", Attr::Float((f64::from(epsilon) * was / is) as f32)),
    ];
    rw.apply("RMSNormalization", &attrs, &[*x, scale])
}

/// The zeros that are left out differ from the mean, too: each adds its square to the variance.
fn layer_norm(
    rw: &mut Rewriter,
    n: NodeId,
    inputs: &[Option<ValueId>],
    over: &[usize],
    was: f64,
    is: f64,
) -> Result<ValueId, OpError> {
    let (Some(Some(x)), Some(Some(scale))) = (inputs.first(), inputs.get(1)) else {
        return invalid("a normalisation without a scale");
    };
    let epsilon = f64::from(rw.graph().with_cx(n, |cx| cx.float("epsilon"))?);
    let axes = [("axes", Attr::Dims(over.iter().map(|a| Dim::from(*a)).collect()))];
    let sum = rw.apply("ReduceSum", &axes, &[*x])?;
    let mean = scaled(rw, sum, 1.0 / was)?;
    let centred = rw.apply("Sub", &[], &[*x, mean])?;
    let squares = rw.apply("ReduceSumSquare", &axes, &[centred])?;
    let square = rw.apply("Mul", &[], &[mean, mean])?;
    let rest = scaled(rw, square, was - is)?;
    let all = rw.apply("Add", &[], &[squares, rest])?;
    let variance = scaled(rw, all, 1.0 / was)?;
    let epsilon = number(rw, variance, epsilon);
    let variance = rw.apply("Add", &[], &[variance, epsilon])?;
    let deviation = rw.apply("Sqrt", &[], &[variance])?;
    let normal = rw.apply("Div", &[], &[centred, deviation])?;
    let out = rw.apply("Mul", &[], &[normal, *scale])?;
    match inputs.get(2) {
        Some(Some(bias)) => rw.apply("Add", &[], &[out, *bias]),
        _ => Ok(out),
    }
}

/// `v` as it was: with the zeros that are left out.
fn restored(rw: &mut Rewriter, cut: &Cut, v: ValueId, map: &FxHashMap<ValueId, ValueId>) -> Result<ValueId, OpError> {
    let Some(mut new) = map.get(&v).copied() else {
        return invalid("a node of the cut has not been made");
    };
    let rank = rw.fact(v).rank();
    for axis in 0..rank {
        let Some(set) = cut.get(&Axis {
            place: Place::Value(v),
            axis,
        }) else {
            continue;
        };
        let Some(kept) = set.kept() else {
            return invalid("an output of unknown extent");
        };
        // One more element, a zero, is what all that are missing are.
        let mut pads = vec![Dim::ZERO; 2 * rank];
        pads[rank + axis] = Dim::ONE;
        let padded = rw.apply("Pad", &[("pads", Attr::Dims(pads))], &[new])?;
        let left = set.count() as i64;
        let mut next = 0..left;
        let places: Vec<i64> = kept
            .iter()
            .map(|k| if *k { next.next().unwrap_or(left) } else { left })
            .collect();
        let places = rw.add_weight("", Tensor::i64(&[places.len()], places));
        new = rw.apply("Gather", &[("axis", Attr::Int(axis as i64))], &[padded, places])?;
    }
    Ok(new)
}
