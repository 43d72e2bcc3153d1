//! Which nodes share a kernel: an anchor (contraction or reduction) with the pointwise work before and after it.
//!
//! A group has iterators of its own. Each member value has coordinates in them; a node may join when every member value
//! that it loads is loaded exactly at that value's coordinates, so that the value never has to exist in memory.
//! Invariant: groups are convex (nothing outside depends on a member and feeds another, whole groups taken as one), hence
//! orderable.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use cameo_ir::structured::{Compute, Expr};
use cameo_ir::{Bounds, Dim, NodeId, Sym, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::classify::{Class, Info};
use crate::select::nominal;

/// Nodes that one chain inlines, and nodes that join one anchor. An activation that is spelled out has some ten, a
/// normalisation with what follows it some twenty; longer chains gain nothing from one more, and building and compiling a
/// kernel must end.
const MAX_CHAIN: usize = 64;

#[derive(Clone, Debug)]
pub struct Group {
    pub seed: NodeId,
    /// Producers first, the seed first of all.
    pub members: Vec<NodeId>,
    /// Extents of the parallel iterators, then of the row (reduced) iterators.
    pub outer: Vec<Dim>,
    pub row: Vec<Dim>,
    /// Member values at group iterators.
    pub coords: FxHashMap<ValueId, Vec<Dim>>,
    /// Group iterators for the iterators of each member.
    pub iters: FxHashMap<NodeId, Vec<Dim>>,
    /// Member values that something outside reads, in member order.
    pub exits: Vec<ValueId>,
}

pub struct Groups {
    /// In execution order.
    pub groups: Vec<Group>,
    /// Elementwise nodes that are computed inside their readers' kernels.
    pub inlined: FxHashSet<NodeId>,
    /// Nodes that were looked at to know what depends on what, as a measure of the work.
    pub visited: usize,
}

/// Forms all groups of the program.
pub fn form(info: &Info) -> Groups {
    let mut f = Former {
        info,
        group_of: FxHashMap::default(),
        groups: vec![],
        inlined: FxHashSet::default(),
        cuts: (0..info.order.len()).collect(),
        visited: 0,
    };
    for class in [Class::Contraction, Class::Reduction] {
        for &node in &info.order {
            if info.class(node) == class && !f.group_of.contains_key(&node) {
                f.grow(node);
            }
        }
    }
    f.place_elementwise();
    f.find_exits();
    let order = f.execution_order();
    let mut groups: Vec<Option<Group>> = f.groups.into_iter().map(Some).collect();
    Groups {
        groups: order.into_iter().filter_map(|i| groups[i].take()).collect(),
        inlined: f.inlined,
        visited: f.visited,
    }
}

struct Former<'a> {
    info: &'a Info,
    group_of: FxHashMap<NodeId, usize>,
    groups: Vec<Group>,
    inlined: FxHashSet<NodeId>,
    /// By position: itself when no group has members on both sides of it (up to it, and after it), else a later position on
    /// the way to the next such one.
    cuts: Vec<usize>,
    visited: usize,
}

/// Nodes that can only run after the seed of a growing group has, because they, or a node that shares their kernel, need it.
/// They are found as far as they are asked for: most questions are about the seed's neighbours.
struct After {
    found: FxHashSet<usize>,
    /// Positions of found nodes whose readers were not looked at, the first one on top.
    open: BinaryHeap<Reverse<usize>>,
}

impl Info {
    /// Follows views: the value underneath and the index into it.
    pub fn resolve(&self, mut v: ValueId, mut index: Vec<Dim>) -> (ValueId, Vec<Dim>) {
        while let Some((src, map)) = self.view(v) {
            index = map.iter().map(|d| d.at(&index)).collect();
            v = src;
        }
        (v, index)
    }

    /// Whether reading view `v` at `index`, or a fill value where that is outside, may read what it views at the mapped
    /// index instead: every axis that may be left is an axis of the same extent there.
    pub fn keeps_padding(&self, v: ValueId, src: ValueId, map: &[Dim], index: &[Dim], extents: &[Dim]) -> bool {
        let bounds = Bounds::of(extents);
        let (seen, under) = (&self.graph.fact(v).shape, &self.graph.fact(src).shape);
        index.iter().zip(seen).enumerate().all(|(i, (at, e))| {
            let inside = bounds.le(&Dim::ZERO, at) && bounds.le(at, &(e.clone() - Dim::ONE));
            let axis = Sym::Iter(i as u32);
            inside || map.iter().zip(under).any(|(m, u)| m.as_sym() == Some(&axis) && u == e)
        })
    }

    /// The value under a chain of views.
    pub fn base(&self, mut v: ValueId) -> ValueId {
        while let Some((src, _)) = self.view(v) {
            v = src;
        }
        v
    }

    /// Readers of a value, views followed to their readers.
    pub fn readers(&self, v: ValueId) -> Vec<NodeId> {
        let mut out = vec![];
        let mut seen = FxHashSet::default();
        let mut stack = vec![v];
        while let Some(v) = stack.pop() {
            for u in &self.users[v.0 as usize] {
                if self.class(*u) == Class::View {
                    stack.extend(self.graph.node(*u).outputs.iter().copied());
                } else if seen.insert(*u) {
                    out.push(*u);
                }
            }
        }
        out
    }

    /// Whether the value, or a view of it, is an output of the model.
    pub fn reaches_output(&self, v: ValueId) -> bool {
        let mut stack = vec![v];
        while let Some(v) = stack.pop() {
            if self.graph.is_output(v) {
                return true;
            }
            for u in &self.users[v.0 as usize] {
                if self.class(*u) == Class::View {
                    stack.extend(self.graph.node(*u).outputs.iter().copied());
                }
            }
        }
        false
    }
}

/// The operand whose index walks all iterators of a reduction, each once: the reduced tensor's own axes.
fn full_operand(c: &Compute) -> Option<(u32, Vec<Dim>)> {
    let live = c.body.reachable(&[c.root]);
    c.body.nodes().iter().enumerate().find_map(|(i, e)| match e {
        Expr::Load {
            operand,
            index,
            fill: None,
            ..
        } if live[i] => {
            let mut seen = vec![false; c.extents.len()];
            for d in index {
                match d.as_sym() {
                    Some(Sym::Iter(k)) if !seen[*k as usize] => seen[*k as usize] = true,
                    _ if d.is_zero() => {}
                    _ => return None,
                }
            }
            let all = seen.iter().zip(&c.extents).all(|(s, e)| *s || e.is_one());
            all.then(|| (*operand, index.clone()))
        }
        _ => None,
    })
}

impl Former<'_> {
    fn grow(&mut self, seed: NodeId) {
        let info = self.info;
        let c = &info.loops[&seed][0];
        let reduction = info.class(seed) == Class::Reduction;
        let out = info.graph.node(seed).outputs[0];
        let mut g = Group {
            seed,
            members: vec![],
            outer: c.extents[..c.parallel].to_vec(),
            row: if reduction {
                c.extents[c.parallel..].to_vec()
            } else {
                vec![]
            },
            coords: FxHashMap::default(),
            iters: FxHashMap::default(),
            exits: vec![],
        };
        let full = if reduction {
            full_operand(c).and_then(|(o, index)| {
                let v = info.graph.node(seed).inputs[o as usize]?;
                Some((info.graph.fact(v).shape.clone(), index))
            })
        } else {
            None
        };
        let extents: Vec<Dim> = g.outer.iter().chain(&g.row).cloned().collect();
        let own: Vec<Dim> = (0..c.extents.len()).map(Dim::iter).collect();
        self.join(&mut g, seed, own, c.store.clone());
        let start = info.position[&seed];
        let mut after = After {
            found: [start].into_iter().collect(),
            open: BinaryHeap::from([Reverse(start)]),
        };
        let mut todo: BTreeSet<usize> = info.readers(out).iter().map(|n| info.position[n]).collect();
        while let Some(p) = todo.pop_first() {
            if g.members.len() == MAX_CHAIN {
                break;
            }
            let node = info.order[p];
            if self.group_of.contains_key(&node) || g.iters.contains_key(&node) {
                continue;
            }
            let Some(u) = info.loops[&node].first() else { continue };
            let class = info.class(node);
            let candidates: Vec<Vec<Dim>> = match class {
                Class::Elementwise => {
                    let mut maps: Vec<Vec<Dim>> = vec![];
                    for m in &g.members {
                        let v = info.graph.node(*m).outputs[0];
                        if info.graph.fact(v).shape == u.extents && !maps.contains(&g.coords[&v]) {
                            maps.push(g.coords[&v].clone());
                        }
                    }
                    if let Some((shape, index)) = &full
                        && *shape == u.extents
                    {
                        maps.push(index.clone());
                    }
                    maps
                }
                Class::Reduction if !g.row.is_empty() && u.extents == extents && u.parallel == g.outer.len() => {
                    vec![(0..u.extents.len()).map(Dim::iter).collect()]
                }
                _ => continue,
            };
            let mut independent = |v: ValueId| {
                let position = || info.graph.producer(v).and_then(|(p, _)| info.position.get(&p));
                g.coords.contains_key(&v) || position().is_none_or(|p| !self.is_after(&mut after, *p))
            };
            if !info.loads(node).into_iter().all(|v| independent(info.base(v))) {
                continue;
            }
            let mut counts = info
                .sizing(node)
                .into_iter()
                .filter_map(|n| info.position.get(&n).copied());
            if counts.any(|p| self.is_after(&mut after, p)) {
                continue;
            }
            let Some(map) = candidates.into_iter().find(|m| self.fits(&g, node, u, m, &extents)) else {
                continue;
            };
            let coords = u.store.iter().map(|d| d.at(&map)).collect();
            self.join(&mut g, node, map, coords);
            todo.extend(
                info.readers(info.graph.node(node).outputs[0])
                    .iter()
                    .map(|n| info.position[n]),
            );
        }
        self.commit(g);
    }

    /// Whether the node at a position is one of those that can only run after the seed has.
    fn is_after(&mut self, after: &mut After, position: usize) -> bool {
        let info = self.info;
        // Readers come later, and a kernel's other nodes are on the same side of a cut: from beyond it no way leads back.
        let cut = self.cut(position);
        while let Some(at) = after.open.peek().map(|p| p.0)
            && at <= cut
            && !after.found.contains(&position)
        {
            after.open.pop();
            self.visited += 1;
            let n = info.order[at];
            let outputs = info.graph.node(n).outputs.iter();
            let users = outputs.flat_map(|v| info.users[v.0 as usize].iter());
            let users = users.chain(info.sized.get(&n).into_iter().flatten());
            let together = self.group_of.get(&n).into_iter().flat_map(|g| &self.groups[*g].members);
            for next in users.chain(together) {
                let next = info.position[next];
                if after.found.insert(next) {
                    after.open.push(Reverse(next));
                }
            }
        }
        after.found.contains(&position)
    }

    /// The first position from here on that no group spans.
    fn cut(&mut self, position: usize) -> usize {
        let mut end = position;
        while self.cuts[end] != end {
            end = self.cuts[end];
        }
        let mut at = position;
        while at != end {
            at = std::mem::replace(&mut self.cuts[at], end);
        }
        end
    }

    /// Whether every member value that `node` loads is loaded at its coordinates.
    fn fits(&self, g: &Group, node: NodeId, u: &Compute, map: &[Dim], extents: &[Dim]) -> bool {
        let bounds = Bounds::of(extents);
        // An iterator of extent 1 is 0.
        let plain = |d: &Dim| {
            bounds.simplify(&d.subst(&|s| match s {
                Sym::Iter(i) if extents[*i as usize].is_one() => Some(Dim::ZERO),
                _ => None,
            }))
        };
        let live = u.body.reachable(&[u.root]);
        u.body.nodes().iter().enumerate().all(|(i, e)| match e {
            Expr::Load {
                operand, index, fill, ..
            } if live[i] => {
                let Some(v) = self.info.graph.node(node).inputs[*operand as usize] else {
                    return false;
                };
                let at: Vec<Dim> = index.iter().map(|d| d.at(map)).collect();
                let (base, at) = self.info.resolve(v, at);
                match g.coords.get(&base) {
                    None => true,
                    Some(c) => fill.is_none() && at.iter().zip(c).all(|(a, b)| plain(a) == plain(b)),
                }
            }
            _ => true,
        })
    }

    fn join(&self, g: &mut Group, node: NodeId, iters: Vec<Dim>, coords: Vec<Dim>) {
        g.coords.insert(self.info.graph.node(node).outputs[0], coords);
        g.iters.insert(node, iters);
        g.members.push(node);
    }

    fn commit(&mut self, g: Group) {
        for m in &g.members {
            self.group_of.insert(*m, self.groups.len());
        }
        let positions = || g.members.iter().map(|m| self.info.position[m]);
        if let (Some(first), Some(last)) = (positions().min(), positions().max()) {
            let mut at = self.cut(first);
            while at < last {
                self.cuts[at] = at + 1;
                at = self.cut(at);
            }
        }
        self.groups.push(g);
    }

    /// Every elementwise node that no anchor took is computed inside its readers, or becomes a kernel.
    fn place_elementwise(&mut self) {
        let info = self.info;
        // Kernels that a node's value is computed in or for.
        let mut kernels: FxHashMap<NodeId, BTreeSet<usize>> = FxHashMap::default();
        // Inlined nodes on the longest way from a node to a kernel, itself included.
        let mut chain: FxHashMap<NodeId, usize> = FxHashMap::default();
        let mut loaded: FxHashMap<NodeId, Option<FxHashSet<ValueId>>> = FxHashMap::default();
        for &node in info.order.iter().rev() {
            let class = info.class(node);
            if class == Class::View {
                continue;
            }
            if let Some(g) = self.group_of.get(&node) {
                kernels.insert(node, [*g].into());
                continue;
            }
            if class == Class::Elementwise {
                let v = info.graph.node(node).outputs[0];
                let readers = info.readers(v);
                let length = 1 + readers.iter().filter_map(|r| chain.get(r)).max().copied().unwrap_or(0);
                let places: BTreeSet<usize> = readers.iter().flat_map(|r| kernels[r].iter().copied()).collect();
                if length <= MAX_CHAIN
                    && !info.reaches_output(v)
                    && readers.iter().all(|r| {
                        let loaded = loaded.entry(*r).or_insert_with(|| self.loaded(*r));
                        loaded.as_ref().is_some_and(|l| !l.contains(&v))
                    })
                    && self.worth(node, &places)
                {
                    self.inlined.insert(node);
                    chain.insert(node, length);
                    kernels.insert(node, places);
                    continue;
                }
            }
            kernels.insert(node, [self.groups.len()].into());
            self.commit(self.lone(node));
        }
    }

    /// A kernel of one node. For parts, iterators and coordinates are per part and live in its loops.
    fn lone(&self, node: NodeId) -> Group {
        // A result without elements has no loops; nothing asks where they would be.
        let (extents, store) = self.info.loops[&node]
            .first()
            .map_or((vec![], vec![]), |c| (c.extents.clone(), c.store.clone()));
        let mut g = Group {
            seed: node,
            members: vec![],
            outer: extents.clone(),
            row: vec![],
            coords: FxHashMap::default(),
            iters: FxHashMap::default(),
            exits: vec![],
        };
        let own = (0..extents.len()).map(Dim::iter).collect();
        self.join(&mut g, node, own, store);
        g
    }

    /// What reader `r` cannot compute where it needs it, but must load; `None` when that is everything.
    fn loaded(&self, r: NodeId) -> Option<FxHashSet<ValueId>> {
        let info = self.info;
        let class = info.class(r);
        // Operands of contractions are read many times and by address.
        if matches!(
            class,
            Class::View
                | Class::Scan
                | Class::Ragged
                | Class::Compact
                | Class::Number
                | Class::Custom
                | Class::Contraction
        ) {
            return None;
        }
        let mut out = FxHashSet::default();
        for c in &info.loops[&r] {
            let live = c.body.reachable(&[c.root]);
            for (i, e) in c.body.nodes().iter().enumerate() {
                if let Expr::Load {
                    operand, index, fill, ..
                } = e
                    && live[i]
                    && let Some(x) = info.graph.node(r).inputs[*operand as usize]
                {
                    // A window reads each element several times.
                    let window =
                        class == Class::Reduction && index.iter().any(|d| d.as_sym().is_none() && !d.is_zero());
                    if fill.is_some() || window {
                        out.insert(info.base(x));
                    }
                }
            }
        }
        Some(out)
    }

    fn worth(&self, node: NodeId, places: &BTreeSet<usize>) -> bool {
        let c = &self.info.loops[&node][0];
        let live = c.body.reachable(&[c.root]);
        let (mut loads, mut ops) = (0, 0);
        for (i, e) in c.body.nodes().iter().enumerate() {
            match e {
                _ if !live[i] => {}
                Expr::Load { .. } => loads += 1,
                Expr::Const(..) | Expr::Index(_) | Expr::Cast(..) | Expr::Bits(..) => {}
                _ => ops += 1,
            }
        }
        let cheap = loads <= 1 && ops <= 1;
        if cheap {
            return true;
        }
        let [place] = places.iter().copied().collect::<Vec<_>>()[..] else {
            return false;
        };
        // Computing a small tensor again for every element that it is broadcast to costs more than storing it.
        let Some(g) = self.groups.get(place) else { return false };
        let domain = Dim::product(g.outer.iter().chain(&g.row));
        let own = Dim::product(&c.extents);
        nominal(&own).saturating_mul(2) > nominal(&domain)
    }

    fn find_exits(&mut self) {
        for i in 0..self.groups.len() {
            let g = &self.groups[i];
            let mut exits = vec![];
            for m in &g.members {
                for v in &self.info.graph.node(*m).outputs {
                    let outside = self.info.readers(*v).iter().any(|r| self.group_of.get(r) != Some(&i));
                    if outside || self.info.reaches_output(*v) {
                        exits.push(*v);
                    }
                }
            }
            self.groups[i].exits = exits;
        }
    }

    /// Groups so that what a group reads is computed before it, and what its sizes are is counted before.
    fn execution_order(&self) -> Vec<usize> {
        let mut state = vec![0u8; self.groups.len()];
        let mut order = vec![];
        // From the last group in node order backwards gives a deterministic depth-first order.
        let mut roots: Vec<usize> = (0..self.groups.len()).collect();
        roots.sort_by_key(|i| self.info.position[&self.groups[*i].seed]);
        for root in roots {
            let mut stack = vec![(root, false)];
            while let Some((g, done)) = stack.pop() {
                if done {
                    order.push(g);
                    state[g] = 2;
                    continue;
                }
                if state[g] != 0 {
                    continue;
                }
                state[g] = 1;
                stack.push((g, true));
                let mut deps = self.dependencies(g);
                deps.sort_by_key(|d| std::cmp::Reverse(self.info.position[&self.groups[*d].seed]));
                stack.extend(deps.into_iter().filter(|d| state[*d] == 0).map(|d| (d, false)));
            }
        }
        order
    }

    fn dependencies(&self, g: usize) -> Vec<usize> {
        let mut out = vec![];
        let mut listed: FxHashSet<usize> = FxHashSet::default();
        let mut seen: FxHashSet<NodeId> = FxHashSet::default();
        let mut stack: Vec<NodeId> = self.groups[g].members.clone();
        while let Some(n) = stack.pop() {
            let mut sized = self.info.sizing(n);
            for mut v in self.info.loads(n) {
                // Views have dims of their own.
                while let Some((src, _)) = self.info.view(v) {
                    let view = self.info.graph.producer(v).map(|(view, _)| view);
                    sized.extend(view.into_iter().flat_map(|view| self.info.sizing(view)));
                    v = src;
                }
                let Some((p, _)) = self.info.graph.producer(v) else {
                    continue;
                };
                if self.inlined.contains(&p) {
                    if seen.insert(p) {
                        stack.push(p);
                    }
                } else if let Some(d) = self.group_of.get(&p)
                    && *d != g
                    && listed.insert(*d)
                {
                    out.push(*d);
                }
            }
            let sizes = sized.into_iter().filter_map(|n| self.group_of.get(&n).copied());
            out.extend(sizes.filter(|d| *d != g && listed.insert(*d)));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{classify, expand};
    use cameo_ir::{DType, Fact, Graph, Tensor};

    /// Residual blocks, each with something that reads the block before the last.
    fn visited(blocks: usize) -> usize {
        let mut g = Graph::new("blocks");
        let mut x = g.add_input("x", Fact::new(DType::F32, [Dim::sym("B"), Dim::from(8i64)]));
        let mut last = x;
        for _ in 0..blocks {
            let w = g.add_weight("", Tensor::f32(&[8, 8], (0..64).map(|i| i as f32)));
            let h = g.apply("MatMul", &[], &[x, w]).expect("legal");
            let h = g.apply("Relu", &[], &[h]).expect("legal");
            let p = g.apply("Softmax", &[], &[h]).expect("legal");
            let y = g.apply("Add", &[], &[p, last]).expect("legal");
            last = x;
            x = g.apply("Add", &[], &[x, y]).expect("legal");
        }
        g.add_output("y", x);
        let info = classify::Info::new(expand::expand(&g, expand::Edges::Packed).expect("loops"));
        form(&info).visited
    }

    #[test]
    fn what_depends_on_a_kernel_is_only_looked_for_nearby() {
        let (few, many) = (visited(100), visited(400));
        assert!(few > 100 && many < few * 5, "{few} and {many}");
    }
}
