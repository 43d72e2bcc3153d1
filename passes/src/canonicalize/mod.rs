//! One way to say each thing, and nothing said for nothing.
//!
//! ```text
//! %1 = Identity(%0) : f32[N,4]
//! %2 = Unsqueeze(%1) {axes=[1]} : f32[N,1,4]       →    %1 = Reshape(%0) {shape=[N,4]} : f32[N,4] … %0
//! %3 = Reshape(%2) {shape=[-1,4]} : f32[N,4]            %2 = Mul(%0, 0.25) : f32[N,4]
//! %4 = Div(%3, 4.0) : f32[N,4]
//! ```
//!
//! Invariants gained: no operation without effect; Squeeze, Unsqueeze and Flatten are Reshapes, whose `shape` attribute
//! is the shape of the result; adjacent Reshapes, Transposes, Expands and Casts are one; the constant operand of a
//! commutative operation is the second; subtracting a constant is adding one; global pooling is a reduction.
//! Every rewrite is exact, but for the sign of zeros and the cases that are named at the rule.

mod arithmetic;
mod comparisons;
mod movement;
mod reductions;

use cameo_ir::NodeId;
use cameo_ir::rewrite::{Outcome, Rewriter};

use crate::Pass;

pub const PASS: Pass = Pass {
    name: "canonicalize",
    doc: "removes operations without effect and writes the others in one form",
    run,
};

type Rule = fn(&mut Rewriter, NodeId) -> Outcome;

/// The first rule that applies is taken; the next round sees its result.
const RULES: &[&[Rule]] = &[
    movement::RULES,
    arithmetic::RULES,
    comparisons::RULES,
    reductions::RULES,
];

fn run(rw: &mut Rewriter) {
    rw.fixpoint(|rw, n| {
        for rule in RULES.iter().copied().flatten() {
            if rule(rw, n) == Outcome::Applied {
                return Outcome::Applied;
            }
        }
        Outcome::NoMatch
    });
}
