//! Which elements of which axes are needed, from the outputs and from everything that binds an axis; the rest may go.
//!
//! The smallest sets that agree with all ties: they start empty and grow.

use std::collections::BTreeMap;

use cameo_ir::{DType, Def, Dim, Graph, NodeId, ValueId};
use rustc_hash::FxHashSet;

use super::live::Live;
use crate::axes::cut::{Cut, Net};
use crate::axes::sets::{Factor, Set};
use crate::axes::{Axis, Place, Tie, ties};

/// What is needed of an axis. An axis without an entry is not needed yet.
#[derive(Clone, PartialEq)]
enum Need {
    All,
    Some(Set),
}

/// Elements of sets that are touched at most: nodes with thousands of parts must not hang the compiler.
const WORK: usize = 1 << 24;

const MIXED: Why = (None, "different elements are needed");

/// Axes keep all elements when fewer than this part of them would go: kernels would not get faster.
const SHARE: usize = 16;

/// Why an axis stays whole, and the node at which that shows.
pub type Why = (Option<NodeId>, &'static str);

/// What may go.
pub struct Needed {
    /// The largest cut that changes no result.
    pub cut: Cut,
    /// Whether finding out took no longer than allowed; nothing is cut otherwise.
    pub complete: bool,
    /// Axes that stay whole although products skip some of their elements.
    pub whole: Vec<(NodeId, Why)>,
}

pub fn needed(net: &mut Net, live: &Live) -> Needed {
    let mut search = Search {
        net,
        live,
        need: BTreeMap::new(),
        why: BTreeMap::new(),
        work: vec![],
        waiting: FxHashSet::default(),
        left: WORK,
    };
    search.run();
    let whole = search.whole();
    let complete = search.left > 0;
    let cut = search.need.into_iter().filter_map(|(axis, n)| match n {
        Need::Some(s) if complete => Some((axis, s)),
        _ => None,
    });
    Needed {
        complete,
        cut: cut.collect(),
        whole,
    }
}

/// Whether zeros may be left out of what the node reduces.
fn skips_zeros(g: &Graph, n: NodeId) -> bool {
    let node = g.node(n);
    let precise = node.outputs.len() == 1 && matches!(g.fact(node.outputs[0]).dtype, DType::F32 | DType::F64);
    precise
        && matches!(
            node.op.name(),
            "ReduceSum"
                | "ReduceL1"
                | "ReduceL2"
                | "ReduceSumSquare"
                | "ReduceMean"
                | "LayerNormalization"
                | "RMSNormalization"
        )
}

struct Search<'n, 'g> {
    net: &'n mut Net<'g>,
    live: &'n Live,
    need: BTreeMap<Axis, Need>,
    why: BTreeMap<Axis, Why>,
    work: Vec<NodeId>,
    /// The same nodes.
    waiting: FxHashSet<NodeId>,
    /// What is left of [`WORK`].
    left: usize,
}

impl Search<'_, '_> {
    fn run(&mut self) {
        let g = self.net.g;
        let ends = g.inputs().iter().chain(g.outputs().iter().map(|(_, v)| v));
        let ends: Vec<ValueId> = ends.copied().collect();
        for v in ends {
            for axis in (0..g.fact(v).rank()).map(|a| Axis::of(v, a)) {
                // Zeros are put back at outputs.
                let (need, why) = match (&g.value(v).def, self.live.of(g, &axis)) {
                    (Def::Input(_), _) => (Need::All, "it is an input"),
                    (Def::Node(n, _), _) if self.net.is_recipe(*n) => (Need::All, "it is constant"),
                    (_, Some(s)) if s.kept().is_some() => (Need::Some(s.clone()), ""),
                    _ => (Need::All, "it is an output"),
                };
                self.grow(axis, need, (None, why));
            }
        }
        let order = g.order();
        order.iter().rev().for_each(|n| self.wait(*n));
        self.settle();
        // What nobody needs at all keeps an element, or everything where extents are not numbers.
        for n in order {
            if self.net.is_recipe(n) {
                continue;
            }
            let ties = self.net.ties(n);
            let outputs = g.node(n).outputs.iter();
            let own = outputs.flat_map(|v| (0..g.fact(*v).rank()).map(|a| Axis::of(*v, a)));
            for axis in own.chain(ties.iter().flat_map(axes)) {
                if !self.need.contains_key(&axis) {
                    let need = match self.extent(&axis) {
                        Some(n) if n > 1 => Need::Some(Set::first(1, n)),
                        _ => Need::All,
                    };
                    self.grow(axis, need, (None, "nothing binds it"));
                    self.settle();
                }
            }
        }
        loop {
            let small = self.need.iter().find(|(_, n)| match n {
                Need::Some(s) => SHARE * (s.len() - s.count()) < s.len(),
                Need::All => false,
            });
            let Some((axis, _)) = small.filter(|_| self.left > 0) else {
                break;
            };
            let axis = *axis;
            self.grow(axis, Need::All, (None, "too few elements would go to matter"));
            self.settle();
        }
    }

    /// Products that skip elements of axes that stay whole.
    fn whole(&mut self) -> Vec<(NodeId, Why)> {
        let g = self.net.g;
        let mut out = vec![];
        for n in g.order() {
            for t in self.net.ties(n).iter() {
                let Tie::Summed(a, b) = t else { continue };
                let skips = self.live.of(g, a).or(self.live.of(g, b)).is_some();
                if skips && let Some(why) = self.why.get(a).filter(|_| self.need.get(a) == Some(&Need::All)) {
                    out.push((n, *why));
                }
            }
        }
        out
    }

    fn extent(&self, a: &Axis) -> Option<usize> {
        let d = ties::extent(self.net.g, a)?;
        d.as_const().and_then(|n| usize::try_from(n).ok())
    }

    fn settle(&mut self) {
        while let Some(n) = self.work.pop().filter(|_| self.left > 0) {
            self.waiting.remove(&n);
            // A weight is cut where it is read.
            if self.net.is_recipe(n) {
                continue;
            }
            for t in self.net.ties(n).iter() {
                self.left = self.left.saturating_sub(1);
                self.follow(n, t);
            }
            let ties = self.net.ties(n);
            let parts: Vec<Tie> = ties.iter().filter(|t| matches!(t, Tie::Part { .. })).cloned().collect();
            self.parts(n, &parts);
        }
    }

    fn wait(&mut self, n: NodeId) {
        if self.waiting.insert(n) {
            self.work.push(n);
        }
    }

    fn grow(&mut self, axis: Axis, more: Need, why: Why) {
        if let Need::Some(s) = &more {
            self.left = self.left.saturating_sub(s.len());
        }
        let new = match (self.need.get(&axis), more) {
            (Some(Need::All), _) | (_, Need::All) => Need::All,
            (None, Need::Some(s)) => Need::Some(s),
            (Some(Need::Some(a)), Need::Some(b)) => a.combined(&b, false).map_or(Need::All, Need::Some),
        };
        let new = match new {
            Need::Some(s) if s.is_full() => Need::All,
            n => n,
        };
        if self.need.get(&axis) != Some(&new) {
            if new == Need::All {
                self.why.insert(axis, why);
            }
            self.need.insert(axis, new);
            self.net.around(axis.place).into_iter().for_each(|n| self.wait(n));
        }
    }

    fn both(&mut self, a: Axis, b: Axis) {
        for (from, to) in [(a, b), (b, a)] {
            if let Some(need) = self.need.get(&from).cloned() {
                let why = self.why.get(&from).copied().unwrap_or(MIXED);
                self.grow(to, need, why);
            }
        }
    }

    fn follow(&mut self, n: NodeId, tie: &Tie) {
        let g = self.net.g;
        match tie {
            Tie::Equal(a, b) => self.both(*a, *b),
            Tie::Summed(a, b) => {
                let need = match (self.live.of(g, a), self.live.of(g, b)) {
                    (Some(a), Some(b)) => a.combined(b, true),
                    (Some(s), None) | (None, Some(s)) => Some(s.clone()),
                    (None, None) => None,
                };
                let why = (Some(n), "its products are summed up");
                self.grow(*a, need.map_or(Need::All, Need::Some), why);
                self.both(*a, *b);
            }
            Tie::Reduced(a, _) => {
                let weight = matches!(a.place, Place::Weight(..));
                let skips = |s: &&Set| s.kept().is_some() && !weight && skips_zeros(g, n);
                let need = self.live.of(g, a).filter(skips);
                let why = (Some(n), "it is reduced");
                self.grow(*a, need.map_or(Need::All, |s| Need::Some(s.clone())), why);
            }
            Tie::Whole(a, reason) => self.grow(*a, Need::All, (Some(n), reason)),
            Tie::Product(left, right) => self.product(n, left, right),
            Tie::Part { .. } => {}
        }
    }

    /// What lies side by side in one axis of a node: all of it at once, for nodes may have thousands of operands.
    fn parts(&mut self, n: NodeId, ties: &[Tie]) {
        let mut first = 0;
        while let Some(Tie::Part { whole, .. }) = ties.get(first) {
            let same = |t: &Tie| matches!(t, Tie::Part { whole: w, .. } if w == whole);
            let count = ties[first..].iter().take_while(|t| same(t)).count();
            self.parts_of(n, *whole, &ties[first..first + count]);
            first += count;
        }
    }

    fn parts_of(&mut self, n: NodeId, whole: Axis, ties: &[Tie]) {
        let parts = ties.iter().filter_map(|t| match t {
            Tie::Part {
                part, start, step, len, ..
            } => Some((*part, *start, *step, *len)),
            _ => None,
        });
        let bits = |search: &Self, axis: &Axis, n: usize| match search.need.get(axis) {
            None => Some(vec![false; n]),
            Some(Need::All) => Some(vec![true; n]),
            Some(Need::Some(s)) => s.kept().map(<[bool]>::to_vec),
        };
        let why = [whole].into_iter().chain(parts.clone().map(|p| p.0));
        let why = why.filter_map(|a| self.why.get(&a)).next().copied();
        let why = why.unwrap_or((Some(n), "it is cut up"));
        // What is left must lie at even distances.
        let even = parts.clone().all(|(_, _, step, _)| step.abs() == 1);
        let extent = self.extent(&whole).filter(|_| even);
        let known = extent.and_then(|e| bits(self, &whole, e));
        let known = known.filter(|_| parts.clone().all(|(p, .., len)| bits(self, &p, len).is_some()));
        let Some(mut w) = known else {
            let all = [whole].into_iter().chain(parts.map(|p| p.0));
            return all.for_each(|a| self.grow(a, Need::All, why));
        };
        self.left = self.left.saturating_sub(w.len());
        for (part, start, step, len) in parts {
            let Some(mut p) = bits(self, &part, len) else { continue };
            for (i, p) in p.iter_mut().enumerate() {
                let at = usize::try_from(start as i64 + step * i as i64).ok();
                if let Some(w) = at.and_then(|j| w.get_mut(j)) {
                    *p |= *w;
                    *w = *p;
                }
            }
            if p.iter().any(|b| *b) {
                self.grow(part, Need::Some(Set::new(p)), why);
            }
        }
        if w.iter().any(|b| *b) {
            self.grow(whole, Need::Some(Set::new(w)), why);
        }
    }

    /// Both sides need the products of what their factors need.
    fn product(&mut self, n: NodeId, left: &[(Option<Axis>, Dim)], right: &[(Option<Axis>, Dim)]) {
        let of = |a: &Option<Axis>| a.and_then(|a| self.why.get(&a));
        let why = left.iter().chain(right).find_map(|(a, _)| of(a)).copied();
        let why = why.unwrap_or((Some(n), "axes are reshaped into each other"));
        let all = |search: &mut Self| {
            for (axis, _) in left.iter().chain(right) {
                axis.iter().for_each(|a| search.grow(*a, Need::All, why));
            }
        };
        loop {
            // Each factor of a side, and what both sides need; `None` is everything.
            let mut both: Option<Option<Set>> = None;
            for side in [left, right] {
                let needs: Vec<Option<&Need>> = side
                    .iter()
                    .map(|(a, _)| a.map_or(Some(&Need::All), |a| self.need.get(&a)))
                    .collect();
                if needs.iter().any(Option::is_none) {
                    continue;
                }
                let factors: Vec<Factor> = side
                    .iter()
                    .zip(needs)
                    .map(|((_, d), n)| match n {
                        Some(Need::Some(s)) => (d.clone(), Some(s)),
                        _ => (d.clone(), None),
                    })
                    .collect();
                let Ok(merged) = Set::merged(&factors) else {
                    return all(self);
                };
                both = Some(match (both, merged) {
                    (None, s) => s,
                    (Some(Some(a)), Some(b)) => match a.combined(&b, false) {
                        Some(s) => Some(s),
                        None => return all(self),
                    },
                    _ => None,
                });
            }
            let Some(both) = both else { return };
            let Some(both) = both.filter(|s| !s.is_full()) else {
                return all(self);
            };
            let before: Vec<Option<Need>> = self.factors(left, right);
            for side in [left, right] {
                let extents: Vec<_> = side.iter().map(|(_, d)| d.clone()).collect();
                let Ok((parts, _)) = both.split(&extents) else {
                    return all(self);
                };
                for ((axis, _), part) in side.iter().zip(parts) {
                    if let Some(axis) = axis {
                        self.grow(*axis, part.map_or(Need::All, Need::Some), why);
                    }
                }
            }
            if self.factors(left, right) == before {
                return;
            }
        }
    }

    fn factors(&self, left: &[(Option<Axis>, Dim)], right: &[(Option<Axis>, Dim)]) -> Vec<Option<Need>> {
        let axes = left.iter().chain(right).filter_map(|(a, _)| *a);
        axes.map(|a| self.need.get(&a).cloned()).collect()
    }
}

/// All axes that a tie names.
fn axes(t: &Tie) -> Vec<Axis> {
    match t {
        Tie::Equal(a, b) | Tie::Summed(a, b) => vec![*a, *b],
        Tie::Product(left, right) => left.iter().chain(right).filter_map(|(a, _)| *a).collect(),
        Tie::Part { whole, part, .. } => vec![*whole, *part],
        Tie::Reduced(a, _) | Tie::Whole(a, _) => vec![*a],
    }
}
