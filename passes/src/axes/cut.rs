//! Follows a choice of elements through the ties: everything that has to agree with it is cut alike, or the cut is
//! refused.

use std::collections::BTreeMap;
use std::rc::Rc;

use cameo_ir::{Def, Graph, NodeId};

use super::sets::Set;
use super::{Axis, Place, Tie, ties};

/// A graph with the ties of its nodes, found when they are asked for.
pub struct Net<'g> {
    pub g: &'g Graph,
    constants: Vec<bool>,
    ties: BTreeMap<NodeId, Rc<[Tie]>>,
    readers: Vec<Vec<NodeId>>,
}

impl<'g> Net<'g> {
    pub fn new(g: &'g Graph) -> Self {
        let mut readers = vec![vec![]; g.value_count()];
        for (n, node) in g.nodes() {
            for v in node.inputs.iter().flatten() {
                readers[v.0 as usize].push(n);
            }
        }
        Self {
            g,
            constants: g.constants(),
            ties: BTreeMap::new(),
            readers,
        }
    }

    pub fn ties(&mut self, n: NodeId) -> Rc<[Tie]> {
        let made = self.ties.entry(n);
        made.or_insert_with(|| ties::ties(self.g, &self.constants, n).into())
            .clone()
    }

    /// Whether a node computes something from weights only: then its results are cut, not what they come from.
    pub fn is_recipe(&self, n: NodeId) -> bool {
        self.g.node(n).outputs.iter().all(|v| self.constants[v.0 as usize])
    }

    /// Axis `axis` of operand `slot` of `n`, when it is present.
    pub fn operand(&self, n: NodeId, slot: usize, axis: usize) -> Option<Axis> {
        Axis::operand(self.g, &self.constants, n, slot, axis)
    }

    /// The nodes that have ties with the axes of a place.
    pub fn around(&self, place: Place) -> Vec<NodeId> {
        match place {
            Place::Weight(n, _) | Place::Inner(n) => vec![n],
            Place::Value(v) => {
                let producer = self.g.producer(v).map(|(n, _)| n);
                producer
                    .into_iter()
                    .chain(self.readers[v.0 as usize].iter().copied())
                    .collect()
            }
        }
    }
}

/// Which elements of which axes stay; an axis that is not named stays whole.
pub type Cut = BTreeMap<Axis, Set>;

/// Why something cannot be cut, and at which node that shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub node: Option<NodeId>,
    pub reason: String,
}

/// The smallest cut that contains `seeds`. All of them must be of axes of known extent, and nothing may shrink them
/// further: else the axis is tied to itself.
pub fn cut(net: &mut Net, seeds: &[(Axis, Set)]) -> Result<Cut, Refusal> {
    let mut search = Search {
        net,
        cut: Cut::new(),
        last: BTreeMap::new(),
        work: vec![],
    };
    for (axis, set) in seeds {
        search.shrink(None, *axis, set)?;
    }
    while let Some(n) = search.work.pop() {
        for t in search.net.ties(n).iter() {
            search.follow(n, t)?;
        }
    }
    for (axis, set) in seeds {
        if search.cut.get(axis).is_some_and(|s| s != set) {
            let node = search.last.get(axis).copied();
            let reason = "other ties take more elements from the axis than were asked for: it is tied to itself";
            return Err(Refusal {
                node,
                reason: reason.into(),
            });
        }
    }
    Ok(search.cut)
}

struct Search<'n, 'g> {
    net: &'n mut Net<'g>,
    cut: Cut,
    /// The node whose ties shrank an axis last.
    last: BTreeMap<Axis, NodeId>,
    work: Vec<NodeId>,
}

impl Search<'_, '_> {
    /// Where an axis is, for messages.
    fn name(&self, a: &Axis) -> String {
        let g = self.net.g;
        let fact = |v| format!("axis {} of {}", a.axis, g.fact(v));
        match a.place {
            Place::Value(v) => fact(v),
            Place::Weight(n, slot) => match g.node(n).inputs.get(slot).copied().flatten() {
                Some(v) => format!("{} (a weight)", fact(v)),
                None => "an axis".into(),
            },
            Place::Inner(_) => "the heads".into(),
        }
    }

    fn refuse<T>(&self, node: Option<NodeId>, reason: String) -> Result<T, Refusal> {
        Err(Refusal { node, reason })
    }

    fn shrink(&mut self, node: Option<NodeId>, axis: Axis, to: &Set) -> Result<(), Refusal> {
        let old = self.cut.get(&axis);
        let new = match old {
            None => Some(to.clone()),
            Some(s) => s.combined(to, true),
        };
        let Some(new) = new else {
            return self.refuse(node, format!("{} would be cut in two ways", self.name(&axis)));
        };
        if old == Some(&new) || (old.is_none() && new.is_full()) {
            return Ok(());
        }
        if new.count() == 0 {
            return self.refuse(node, format!("nothing would be left of {}", self.name(&axis)));
        }
        if let Place::Value(v) = axis.place
            && matches!(self.net.g.value(v).def, Def::Input(_))
        {
            let (name, at) = (&self.net.g.value(v).name, self.name(&axis));
            let node = node.or_else(|| self.net.around(axis.place).first().copied());
            return self.refuse(node, format!("the cut reaches {at}, which is the input `{name}`"));
        }
        self.cut.insert(axis, new);
        self.last.extend(node.map(|n| (axis, n)));
        self.work.extend(self.net.around(axis.place));
        Ok(())
    }

    fn follow(&mut self, n: NodeId, tie: &Tie) -> Result<(), Refusal> {
        match tie {
            Tie::Equal(a, b) | Tie::Summed(a, b) => {
                if let Some(s) = self.cut.get(a).cloned() {
                    self.shrink(Some(n), *b, &s)?;
                }
                if let Some(s) = self.cut.get(b).cloned() {
                    self.shrink(Some(n), *a, &s)?;
                }
            }
            Tie::Product(left, right) => self.product(n, left, right)?,
            Tie::Part {
                whole,
                part,
                start,
                step,
                len,
            } => self.part(n, *whole, *part, |i| *start as i64 + step * i as i64, *len)?,
            Tie::Whole(a, reason) | Tie::Reduced(a, Some(reason)) => {
                if self.cut.contains_key(a) {
                    let at = self.name(a);
                    return self.refuse(
                        Some(n),
                        format!("the cut reaches {at}, which must stay whole here: {reason}"),
                    );
                }
            }
            Tie::Reduced(_, None) => {}
        }
        Ok(())
    }

    fn product(
        &mut self,
        n: NodeId,
        left: &[(Option<Axis>, cameo_ir::Dim)],
        right: &[(Option<Axis>, cameo_ir::Dim)],
    ) -> Result<(), Refusal> {
        let merged = |side: &[(Option<Axis>, cameo_ir::Dim)]| {
            let factors: Vec<_> = side
                .iter()
                .map(|(a, d)| (d.clone(), a.and_then(|a| self.cut.get(&a))))
                .collect();
            Set::merged(&factors)
        };
        let mixed = "the cut does not follow the axes that are reshaped into each other here";
        let (Ok(l), Ok(r)) = (merged(left), merged(right)) else {
            return self.refuse(Some(n), mixed.into());
        };
        let both = match (l, r) {
            (None, None) => return Ok(()),
            (Some(s), None) | (None, Some(s)) => Some(s),
            (Some(a), Some(b)) => a.combined(&b, true),
        };
        let Some(both) = both else {
            return self.refuse(Some(n), mixed.into());
        };
        for side in [left, right] {
            let extents: Vec<_> = side.iter().map(|(_, d)| d.clone()).collect();
            let Ok((parts, true)) = both.split(&extents) else {
                return self.refuse(Some(n), mixed.into());
            };
            for ((axis, _), part) in side.iter().zip(parts) {
                match (axis, part) {
                    (Some(axis), Some(part)) => self.shrink(Some(n), *axis, &part)?,
                    (None, Some(_)) => return self.refuse(Some(n), mixed.into()),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn part(
        &mut self,
        n: NodeId,
        whole: Axis,
        part: Axis,
        at: impl Fn(usize) -> i64,
        len: usize,
    ) -> Result<(), Refusal> {
        let known = |s: Option<&Set>| s.map(|s| s.kept().map(<[bool]>::to_vec));
        let (w, p) = (known(self.cut.get(&whole)), known(self.cut.get(&part)));
        let place = |i: usize| usize::try_from(at(i)).ok();
        if let Some(w) = w {
            let kept: Option<Vec<bool>> = w.and_then(|w| (0..len).map(|i| w.get(place(i)?).copied()).collect());
            let Some(kept) = kept else {
                return self.refuse(Some(n), "the cut does not follow the parts".into());
            };
            self.shrink(Some(n), part, &Set::new(kept))?;
        }
        if let Some(p) = p {
            let extent = ties::extent(self.net.g, &whole).and_then(|d| d.as_const());
            let (Some(p), Some(extent)) = (p, extent.and_then(|n| usize::try_from(n).ok())) else {
                return self.refuse(Some(n), "the cut does not follow the parts".into());
            };
            let mut kept = vec![true; extent];
            for i in (0..len).filter(|i| p.get(*i) == Some(&false)) {
                match place(i).and_then(|i| kept.get_mut(i)) {
                    Some(k) => *k = false,
                    None => return self.refuse(Some(n), "the cut does not follow the parts".into()),
                }
            }
            self.shrink(Some(n), whole, &Set::new(kept))?;
        }
        Ok(())
    }
}
