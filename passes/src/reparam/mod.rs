//! Structural re-parameterisation: the branches of a training-time block become the one convolution that they are.
//!
//! ```text
//! %1 = Conv(%0, a) {pads=[1,1,1,1]} : f32[N,8,H,W]         // 3×3
//! %2 = Conv(%0, b) : f32[N,8,H,W]                          // 1×1
//! %3 = Mul(%0, s) : f32[N,8,H,W]                           // what is left of a batch normalisation
//! %4 = Add(%1, %2) : f32[N,8,H,W]                     →    %5 = Conv(%0, a + pad(b) + pad(diag(s))) {pads=[1,1,1,1]}
//! %5 = Add(%4, %3) : f32[N,8,H,W]
//! ```
//!
//! An addend is a branch when it is a convolution with a constant weight, a mean of windows, a product with a constant
//! matrix or the identity, with constant scales and shifts after it; branches that read one value add up, kernel by kernel
//! and bias by bias. Kernels are widened by zeros, groups by zero blocks, so that they fit. Weights become recipes. The
//! result is exact but for rounding. Two such maps in a row become their product, alone or as a branch of a sum. It never takes more multiplications than the branches did: else the branches stay.

mod branch;
mod products;
mod recipe;
mod sums;
#[cfg(test)]
mod tests;
mod window;

use cameo_ir::rewrite::{Outcome, Rewriter};

use crate::Pass;

pub const PASS: Pass = Pass {
    name: "reparam",
    doc: "merges parallel and consecutive linear branches into one convolution or matrix product",
    run,
};

fn run(rw: &mut Rewriter) {
    let mut known = Known::default();
    rw.fixpoint(|rw, n| match rw.node(n).op.name() {
        "Add" | "Sub" | "Mul" | "Div" | "Neg" => sums::merge(rw, known.of(rw), n),
        "Conv" | "MatMul" => products::merge(rw, known.of(rw), n),
        _ => Outcome::NoMatch,
    });
}

/// Which values are constant, computed again only after changes.
#[derive(Default)]
struct Known {
    at: Option<(usize, usize)>,
    constants: Vec<bool>,
}

impl Known {
    fn of(&mut self, rw: &Rewriter) -> &[bool] {
        let now = (rw.changes(), rw.graph().value_count());
        if self.at != Some(now) {
            self.at = Some(now);
            self.constants = rw.graph().constants();
        }
        &self.constants
    }
}
