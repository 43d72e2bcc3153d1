//! Finds time steps that an exporter wrote out one after the other, and makes one loop of them.
//!
//! ```text
//! %4 = Gather(%1, 0) {axis=1} : f32[B,8]
//! %5 = Mul(%0, %2) : f32[B,8]
//! %6 = Add(%5, %4) : f32[B,8]               →    %4 = Transpose(%1) {perm=[1,0,2]} : f32[16,B,8]
//! %7 = Gather(%1, 1) {axis=1} : f32[B,8]         %5, %6 = cameo::Scan(%0, %4, %2) {body=graph @step (h, x, a) {
//! %8 = Mul(%6, %2) : f32[B,8]                      y = Add(Mul(h, a), x)
//! %9 = Add(%8, %7) : f32[B,8]                      return y, y
//! … 14 times more …                              }, length=dims[16], slices=1, states=1}
//! %51 = Concat(%50, …) {axis=1}
//! ```
//!
//! `chains` finds nodes that depend on each other along equal paths, `columns` what is computed with them in each step,
//! `outline` writes the loop, `scatter` makes results that are written slice by slice into one tensor a `Concat` first.
//! What a step reads is a result of the same or the last step, a slice of a tensor at a position that counts the steps, a
//! small constant, or the same in all of them. Refused with the reason: steps that count slices and of which one reads
//! something else, such as a large weight of its own.

mod chains;
mod columns;
mod outline;
mod scatter;

use cameo_ir::rewrite::{Outcome, Rewriter};

use crate::Pass;

pub const PASS: Pass = Pass {
    name: "reroll",
    doc: "makes loops of time steps that are written out",
    run,
};

const DETAIL: &str = "loop over time";

/// Chains that are tried before giving up on a graph: layers and heads that look alike are not time.
const ATTEMPTS: usize = 32;

fn run(rw: &mut Rewriter) {
    rw.each(scatter::slices);
    let mut failed = 0;
    while failed < ATTEMPTS {
        let mut applied = false;
        for chain in chains::find(rw.graph()) {
            let outcome = match columns::grow(rw.graph(), &chain) {
                Ok(columns) => outline::apply(rw, &columns),
                Err(None) => Outcome::NoMatch,
                Err(Some(reason)) => rw.refuse(&chain, DETAIL, reason),
            };
            if outcome == Outcome::Applied {
                applied = true;
                break;
            }
            failed += 1;
            if failed == ATTEMPTS {
                return;
            }
        }
        if !applied {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
