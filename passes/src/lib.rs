//! Graph → graph: every pass in a file of its own, with an example on top and tests below.
//!
//! Laws: a pass changes the graph only through the [`Rewriter`]; it keeps what the graph computes within the tolerance
//! of reordered floating-point arithmetic; it is deterministic; whatever it recognises and leaves alone is logged with
//! the reason. The order of passes is the compiler's business, see its pipeline.

use cameo_ir::Graph;
use cameo_ir::rewrite::{Report, Rewriter};

mod activations;
pub mod algebra;
mod associate;
mod attention;
mod axes;
mod canonicalize;
mod contributed;
mod cse;
mod dce;
mod dead_channels;
mod fold_constants;
mod fold_scales;
mod formula;
mod known_shapes;
mod narrow;
mod norms;
mod one_hot;
mod pattern;
mod projections;
mod reparam;
mod reroll;
mod rotary;
pub mod slice;
#[cfg(test)]
mod testing;
mod transposes;
pub mod varlen;

/// A named transformation of graphs.
pub struct Pass {
    /// As written on the command line.
    pub name: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    /// Runs it, to its own fixpoint.
    pub run: fn(&mut Rewriter),
}

/// All passes, in alphabetical order.
pub const PASSES: &[&Pass] = &[
    &activations::PASS,
    &algebra::PASS,
    &associate::PASS,
    &attention::PASS,
    &canonicalize::PASS,
    &contributed::PASS,
    &cse::PASS,
    &dce::PASS,
    &dead_channels::PASS,
    &fold_constants::PASS,
    &fold_scales::PASS,
    &known_shapes::PASS,
    &narrow::PASS,
    &norms::PASS,
    &one_hot::PASS,
    &projections::PASS,
    &reparam::PASS,
    &reroll::PASS,
    &rotary::PASS,
    &transposes::PASS,
];

/// The pass of that name.
pub fn by_name(name: &str) -> Option<&'static Pass> {
    PASSES.iter().copied().find(|p| p.name == name)
}

/// Runs one pass, on the bodies of loops too, and says what it did.
pub fn run(pass: &Pass, graph: &mut Graph) -> Report {
    let mut rw = Rewriter::new(graph, pass.name);
    (pass.run)(&mut rw);
    rw.bodies(&pass.run);
    rw.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_found_by_name() {
        assert!(PASSES.windows(2).all(|w| w[0].name < w[1].name));
        for p in PASSES {
            assert_eq!(by_name(p.name).map(|q| q.name), Some(p.name));
            assert!(!p.doc.is_empty());
        }
        assert!(by_name("no_such_pass").is_none());
    }
}
