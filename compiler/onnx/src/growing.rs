//! States of loops whose extents change: the tokens that a decoder has written so far, its caches.
//!
//! ```text
//! repeat { x = f(x) }      →      room = x with room for the largest extent, n = the extent of x;
//!                                 repeat { y = f(room[:n]); room = y with as much room, n = the extent of y }
//! ```
//!
//! Law: states that begin and go on alike share one number, so that inside of the body their extents are one dimension.

use cameo_ir::dim::counts::at_most;
use cameo_ir::ops::counted::counts;
use cameo_ir::{Atom, Bounds, DType, Dim, Fact, Graph, Origin, Sym, ValueId};

use crate::bodies::{Body, Formal, Held};
use crate::error::Fault;
use crate::import::Importer;
use crate::loops::State;
use crate::numbers::LONGEST;
use crate::open::Open;

/// The axes of a loop's states whose extents change.
pub(crate) struct Growing {
    /// Of each state its axes, each with the number of its extent.
    axes: Vec<Vec<(usize, usize)>>,
    extents: Vec<Extent>,
}

/// An extent that changes.
#[derive(Clone)]
struct Extent {
    /// Before the first iteration, and behind one as the body last said it.
    start: Dim,
    after: Dim,
    /// The largest that an iteration begins with, and of all.
    inside: Dim,
    most: Dim,
}

impl Extent {
    /// Of at most `trips` iterations.
    fn new(start: &Dim, after: &Dim, body: &Graph, trips: Option<&Dim>) -> Self {
        let more = at_most(&(after.clone() - start.clone()), &counts(body));
        let longest = Dim::from(LONGEST);
        let plain = |d: &Dim| {
            let mut plain = true;
            d.visit_atoms(&mut |a| plain &= matches!(a, Atom::Sym(_)));
            plain
        };
        let never_less = |d: Dim| match Bounds::of(&[]).range(&d).0 {
            0.. => d,
            _ => d.maximum(&Dim::ZERO),
        };
        let (inside, most) = match (trips, more) {
            // What follows from what other states follow from would grow without end, as a formula.
            (Some(trips), Some(more)) if plain(&more) => {
                let more = never_less(more);
                let inside = never_less(start.clone() + trips.clone() * more.clone() - more.clone());
                (inside.clone(), inside + more)
            }
            (None, Some(more)) if more.as_const().is_some_and(|n| (0..LONGEST).contains(&n)) => {
                (longest.clone() - more, longest)
            }
            // A run sees whether there is room.
            _ => (longest.clone(), longest),
        };
        Self {
            start: start.clone(),
            after: after.clone(),
            inside,
            most,
        }
    }

    /// Makes room for what an iteration gives, where that is more than was thought.
    fn widen(&mut self, after: &Dim) -> bool {
        let longest = Dim::from(LONGEST);
        let fits = *after == self.most || Bounds::of(&[]).range(&(self.most.clone() - after.clone())).0 >= 0;
        if fits || self.most == longest {
            return false;
        }
        (self.inside, self.most) = (longest.clone(), longest);
        true
    }
}

/// Whether an extent is not what it was, as far as can be told: two that a run may find equal must be.
fn differs(body: &Graph, before: &Dim, after: &Dim) -> bool {
    let (least, most) = Bounds::positive(&[]).range(&(after.clone() - before.clone()));
    before != after && (least > 0 || most < 0 || body.counted().any(|name| after.uses(&Sym::Named(name.clone()))))
}

impl Growing {
    pub fn new(states: usize) -> Self {
        Self {
            axes: vec![vec![]; states],
            extents: vec![],
        }
    }

    /// The open axes of a state outside of the body.
    pub fn open(&self, state: usize) -> Vec<Open> {
        self.axes[state]
            .iter()
            .map(|(axis, n)| (*axis, self.extents[*n].most.clone()))
            .collect()
    }

    /// Which axes of states have a number that no state before has, and the numbers.
    pub fn own(&self, state: usize) -> Vec<(usize, usize)> {
        let before = |n: usize| self.axes[..state].iter().flatten().any(|(_, other)| *other == n);
        let mut out: Vec<(usize, usize)> = vec![];
        for (k, (_, n)) in self.axes[state].iter().enumerate() {
            if !before(*n) && out.iter().all(|(_, other)| other != n) {
                out.push((k, *n));
            }
        }
        out
    }

    /// What a body sees of a state.
    pub fn formal(&self, state: usize, fact: &Fact) -> Formal {
        let mut shape = fact.shape.clone();
        let mut axes = vec![];
        for (axis, n) in &self.axes[state] {
            shape[*axis] = self.extents[*n].most.clone();
            axes.push((*axis, *n, self.extents[*n].inside.clone()));
        }
        match axes.is_empty() {
            true => Formal::Input(Fact::new(fact.dtype, shape)),
            false => Formal::Open(Fact::new(fact.dtype, shape), axes),
        }
    }

    /// Looks at what a body makes of the states: whether there is more that changes than was thought.
    pub fn learn(&mut self, around: &Graph, body: &Body, carried: &[State], trips: Option<&Dim>) -> bool {
        let (mut at, mut new) = (1, false);
        let mut seen = vec![false; self.extents.len()];
        for (i, (state, held)) in carried.iter().zip(&body.held[1..]).enumerate() {
            let output = at;
            at += held.outputs();
            let (State::Tensor(v), Held::Tensor) = (state, held) else {
                continue;
            };
            let before = &around.fact(*v).shape;
            let after = &body.graph.fact(body.graph.outputs()[output].1).shape;
            if before.len() != after.len() {
                continue;
            }
            let counted = counts(&body.graph);
            for (axis, (before, after)) in before.iter().zip(after).enumerate() {
                let known = self.axes[i].iter().position(|(open, _)| *open == axis);
                if let Some(k) = known {
                    let n = self.axes[i][k].1;
                    // What an iteration adds may depend on what there is.
                    let most = at_most(after, &counted);
                    new |= self.extents[n].widen(&most.unwrap_or_else(|| Dim::from(2 * LONGEST)));
                    if !seen[n] {
                        seen[n] = true;
                        self.extents[n].after = after.clone();
                    } else if self.extents[n].after != *after {
                        // It goes on in another way than others of the number.
                        self.axes[i][k].1 = self.extents.len();
                        let own = Extent {
                            after: after.clone(),
                            ..self.extents[n].clone()
                        };
                        self.extents.push(own);
                        seen.push(true);
                        new = true;
                    }
                } else if differs(&body.graph, before, after) {
                    let alike = |e: &Extent| e.start == *before && e.after == *after;
                    let n = self.extents.iter().position(alike).unwrap_or(self.extents.len());
                    if n == self.extents.len() {
                        self.extents.push(Extent::new(before, after, &body.graph, trips));
                        seen.push(true);
                    }
                    self.axes[i].push((axis, n));
                    new = true;
                }
            }
        }
        new
    }

    /// States with room, each followed by the numbers that no other has before it.
    pub fn begin(&self, importer: &mut Importer, carried: &[State], origin: &Origin) -> Result<Vec<ValueId>, Fault> {
        let mut out = vec![];
        for (i, state) in carried.iter().enumerate() {
            let State::Tensor(v) = state else { continue };
            out.push(importer.filled_up(*v, &self.open(i), origin)?);
            for (k, _) in self.own(i) {
                out.push(importer.extent(*v, self.axes[i][k].0, origin)?);
            }
        }
        Ok(out)
    }

    /// The tensor of each state, of what [`Growing::begin`] has become.
    pub fn end(
        &self,
        importer: &mut Importer,
        carried: &[State],
        last: &[ValueId],
        origin: &Origin,
    ) -> Result<Vec<ValueId>, Fault> {
        let (mut numbers, mut out, mut last) = (vec![None; self.extents.len()], vec![], last.iter().copied());
        for (i, _) in carried
            .iter()
            .enumerate()
            .filter(|(_, s)| matches!(s, State::Tensor(_)))
        {
            let Some(room) = last.next() else { break };
            for (_, n) in self.own(i) {
                numbers[n] = last.next();
            }
            let extents: Vec<ValueId> = self.axes[i].iter().filter_map(|(_, n)| numbers[*n]).collect();
            out.push(importer.cut(room, &self.open(i), &extents, origin)?);
        }
        Ok(out)
    }
}

/// The type of an extent.
pub(crate) fn number() -> Fact {
    Fact::new(DType::I64, vec![])
}
