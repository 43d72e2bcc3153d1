//! Normalisations that exporters spelled out become one operation each, with their scale and bias.
//!
//! ```text
//! %3 = Mul(%0, %0) : f32[N,8]
//! %4 = ReduceMean(%3) {axes=dims[-1]} : f32[N,1]
//! %5 = Add(%4, 1e-6) : f32[N,1]
//! %6 = Sqrt(%5) : f32[N,1]                           →    %2 = RMSNormalization(%0, %1) {axis=-1, epsilon=1e-6} : f32[N,8]
//! %7 = Div(%0, %6) : f32[N,8]
//! %8 = Mul(%7, %1) : f32[N,8]
//! ```
//!
//! [`core`] finds the formula, which gets a scale of 1; [`affine`] gives it the scale and bias that come after it, and
//! [`groups`] finds group normalisation, which exporters write as one of another shape. Refused: formulas of which others
//! read a part (it would be computed twice), other axes than the last ones, and scales that widen the result. Adding the
//! residual before a normalisation stays apart: kernels fuse it.

mod affine;
mod groups;

use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, NodeId, Tensor, ValueId};

use crate::Pass;
use crate::formula::{Formula, Match, Near};

pub const PASS: Pass = Pass {
    name: "norms",
    doc: "recovers normalizations that are spelled out as primitives",
    run,
};

const LAYER: &str = "LayerNormalization";
const RMS: &str = "RMSNormalization";

/// Layer normalisation comes first: with `x` for the difference to the mean it is an RMS normalisation as well.
const FORMULAS: &[(&str, &str)] = &[
    (LAYER, "(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps)"),
    (LAYER, "(x - mean(x)) / sqrt(mean(x^2) - mean(x)^2 + eps)"),
    // The scale may meet the root first.
    (LAYER, "(x - mean(x)) * scale / sqrt(mean((x - mean(x))^2) + eps)"),
    (LAYER, "(x - mean(x)) * scale / sqrt(mean(x^2) - mean(x)^2 + eps)"),
    // TensorFlow's batch normalisation, which Keras uses for layers: x a + (bias - mean a).
    (
        LAYER,
        "x * scale / sqrt(mean((x - mean(x))^2) + eps) + bias - mean(x) * scale / sqrt(mean((x - mean(x))^2) + eps)",
    ),
    (RMS, "x / sqrt(mean(x^2) + eps)"),
    (RMS, "x * scale / sqrt(mean(x^2) + eps)"),
];

/// Formulas that look like a normalisation, and why they are left alone.
const LOOK_ALIKES: &[(&str, &str, &str)] = &[
    (RMS, "x / sqrt(mean(x^2) + y)", "epsilon is not a constant"),
    (
        LAYER,
        "(x - mean(x)) / (sqrt(mean((x - mean(x))^2)) + eps)",
        "epsilon is added to the root, not below it",
    ),
    (
        "LpNormalization",
        "x / sqrt(sum(x^2))",
        "it gives 0 for a row of zeros, where the formula gives NaN",
    ),
    (
        "LpNormalization",
        "x / clip(sqrt(sum(x^2)), eps, inf)",
        "it has no smallest norm",
    ),
];

fn run(rw: &mut Rewriter) {
    let constants = rw.graph().constants();
    // A test parses all of them.
    let formulas: Vec<(&str, Formula)> = FORMULAS
        .iter()
        .filter_map(|(op, text)| Some((*op, Formula::parse(text).ok()?)))
        .collect();
    rw.fixpoint(|rw, n| {
        let near = Near::of(rw.graph(), rw.node(n).outputs[0]);
        for (op, formula) in &formulas {
            // A formula that is refused may still be a simpler one of a part.
            if core(rw, &constants, &near, n, op, formula) == Outcome::Applied {
                return Outcome::Applied;
            }
        }
        match rw.node(n).op.name() {
            "Mul" | "Add" => affine::parameter(rw, &constants, n),
            "Reshape" => groups::group(rw, n),
            _ => Outcome::NoMatch,
        }
    });
    let look_alikes: Vec<_> = LOOK_ALIKES
        .iter()
        .filter_map(|(op, text, reason)| Some((*op, Formula::parse(text).ok()?, *reason)))
        .collect();
    rw.each(|rw, n| {
        let near = Near::of(rw.graph(), rw.node(n).outputs[0]);
        for (op, formula, reason) in &look_alikes {
            let [root] = rw.node(n).outputs[..] else {
                break;
            };
            let found = formula.find(rw.graph(), &constants, &near, root, |m| m.number("eps") != Some(0.0));
            if let Some(found) = found {
                return rw.refuse(&found.nodes, op, *reason);
            }
        }
        Outcome::NoMatch
    });
}

/// The formula with result `n` → `op(x, scale, bias)`
fn core(rw: &mut Rewriter, constants: &[bool], near: &Near, n: NodeId, op: &str, formula: &Formula) -> Outcome {
    let [root] = rw.node(n).outputs[..] else {
        return Outcome::NoMatch;
    };
    let plausible = |m: &Match| m.number("eps").is_some_and(|e| e >= 0.0);
    let Some(found) = formula.find(rw.graph(), constants, near, root, plausible) else {
        return Outcome::NoMatch;
    };
    let (Some(x), Some(axes), Some(epsilon)) = (found.value("x"), &found.axes, found.number("eps")) else {
        return Outcome::NoMatch;
    };
    let fact = rw.fact(x);
    let (dtype, rank) = (fact.dtype, fact.rank());
    // The root first: it is what is replaced.
    let mut nodes = vec![n];
    nodes.extend(found.nodes.iter().copied().filter(|m| *m != n));
    if fact.shape != rw.fact(root).shape {
        return rw.refuse(&nodes, op, "its numbers or its scale broadcast it to a larger shape");
    }
    let last = axes.first().is_some_and(|a| (*a..rank).eq(axes.iter().copied()));
    if !last {
        let reason = format!("it normalizes axes {axes:?} of {rank}, which are not the last ones");
        return rw.refuse(&nodes, op, reason);
    }
    if let Some(shared) = found.read_elsewhere(rw.graph(), root) {
        let reason = format!("the result of {} is also read by others", rw.node(shared).op);
        return rw.refuse(&nodes, op, reason);
    }
    let attrs = [
        // From the end, as exporters write it.
        ("axis", Attr::Int(axes[0] as i64 - rank as i64)),
        ("epsilon", Attr::Float(epsilon as f32)),
    ];
    rw.replace_one(&nodes, op, |rw| {
        let scale = match found.value("scale") {
            Some(scale) => scale,
            None => rw.add_weight("", Tensor::from_f64(dtype, &[], [1.0])),
        };
        let inputs: Vec<ValueId> = [x, scale].into_iter().chain(found.value("bias")).collect();
        rw.apply(op, &attrs, &inputs)
    })
}

#[cfg(test)]
mod tests;
