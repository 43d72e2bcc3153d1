//! Formulas: what exporters spelled out as primitives, found by its formula.
//!
//! ```text
//! %3 = Div(%0, 1.4142)
//! %4 = Erf(%3)
//! %5 = Add(%4, 1.0)            is            0.5 * x * (1 + erf(x / sqrt(2)))            with x = %0
//! %6 = Mul(%0, %5)
//! %7 = Mul(%6, 0.5)
//! ```
//!
//! A formula is text; [`Formula::parse`] brings it to a normal form, and the graph is brought to the same normal form
//! while it is compared: products are sets of powers with one coefficient, sums are sets of terms with one constant. So
//! operand order, constants in several parts, division or multiplication by the reciprocal, `Pow(x, 2)` or `x * x`,
//! subtraction or addition of the negative are the same by construction.
//!
//! The names that may occur: `x`, `y` are any values, the same one everywhere; `scale`, `bias` are tensors that depend on
//! weights only; `alpha`, `beta`, `eps`, `k`, `t` are any numbers, which the match reports. Numbers are splats of any
//! shape: whoever replaces a match compares the shapes of its result and of `x`, as a splat may broadcast.
//!
//! Law: a match says that the root computes the formula within the tolerance of reordered arithmetic, nothing about who
//! else reads its parts: see [`Match::read_elsewhere`].

mod parse;
mod search;

use cameo_ir::{Graph, NodeId, ValueId};
use rustc_hash::FxHashSet;

use self::search::Search;

/// A formula in its normal form.
pub struct Formula {
    sum: parse::Sum,
    /// What it calls: of each, an operation that may be it.
    calls: Vec<Vec<&'static str>>,
}

/// The operations that a formula with some result may be made of: those of the nodes behind it.
pub struct Near(FxHashSet<&'static str>);

/// The longest formula as it is usually written has some 40 nodes.
const NEAR: usize = 64;

impl Near {
    pub fn of(g: &Graph, root: ValueId) -> Self {
        let mut nodes: Vec<NodeId> = g.producer(root).map(|(n, _)| n).into_iter().collect();
        let mut at = 0;
        // Nearest first.
        while at < nodes.len() && nodes.len() < NEAR {
            let inputs = g.node(nodes[at]).inputs.iter().flatten();
            for (n, _) in inputs.filter_map(|v| g.producer(*v)) {
                if !nodes.contains(&n) {
                    nodes.push(n);
                }
            }
            at += 1;
        }
        Self(nodes.into_iter().map(|n| g.node(n).op.name()).collect())
    }
}

/// Where a formula was found.
#[derive(Clone, Debug, Default)]
pub struct Match {
    values: Vec<(&'static str, ValueId)>,
    numbers: Vec<(&'static str, f64)>,
    /// Of all means and sums in the formula, sorted.
    pub axes: Option<Vec<usize>>,
    /// What the formula stands for, the root among them.
    pub nodes: Vec<NodeId>,
}

impl Formula {
    /// The error says what is wrong with the text.
    pub fn parse(text: &'static str) -> Result<Self, String> {
        let sum = parse::parse(text)?;
        let mut calls = vec![];
        sum.visit_calls(&mut |f| {
            if !calls.contains(&f.operations()) {
                calls.push(f.operations());
            }
        });
        Ok(Self { sum, calls })
    }

    /// The first match with result `root` that `accept` accepts. `constants` are those of [`Graph::constants`], `near` is
    /// [`Near::of`] the root.
    pub fn find(
        &self,
        g: &Graph,
        constants: &[bool],
        near: &Near,
        root: ValueId,
        accept: impl Fn(&Match) -> bool,
    ) -> Option<Match> {
        // Most nodes are no formula, and searching takes a thousand times as long as this.
        if !self.calls.iter().all(|ops| ops.iter().any(|op| near.0.contains(op))) {
            return None;
        }
        let dtype = g.fact(root).dtype;
        // Reductions occur inside of formulas only.
        let (n, _) = g.producer(root)?;
        if !dtype.is_float() || !g.node(n).op.schema().pointwise {
            return None;
        }
        let mut search = Search::new(g, constants, dtype);
        search.root(&self.sum, root, &accept).then(|| {
            let mut found = search.found;
            found.nodes.sort();
            found.nodes.dedup();
            found
        })
    }
}

impl Match {
    pub fn value(&self, name: &str) -> Option<ValueId> {
        self.values.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    pub fn number(&self, name: &str) -> Option<f64> {
        self.numbers.iter().find(|(n, _)| *n == name).map(|(_, c)| *c)
    }

    /// A node of the match, other than that of `root`, whose result is also read by others or is an output: it would be
    /// computed twice.
    pub fn read_elsewhere(&self, g: &Graph, root: ValueId) -> Option<NodeId> {
        self.nodes.iter().copied().find(|n| {
            g.node(*n).outputs.iter().any(|v| {
                let bound = *v == root || self.values.iter().any(|(_, b)| b == v);
                !bound && (g.is_output(*v) || g.users(*v).iter().any(|u| !self.nodes.contains(u)))
            })
        })
    }
}

#[cfg(test)]
mod tests;
