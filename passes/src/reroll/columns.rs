//! From one node per step to everything that is computed in each step.
//!
//! A column is the node that does one thing, for each step. Operands of a column are followed upwards as long as they
//! differ from step to step in a way that a loop can say; then readers are followed downwards as long as all that they read
//! can be said too.

use std::collections::hash_map::Entry;

use cameo_ir::op::normalize_axis;
use cameo_ir::{Attr, Graph, NodeId, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

use super::chains::LEAST;

/// Nodes of one step. Recurrent cells have some 50.
const MOST: usize = 256;

/// Columns that may fail before the whole is given up: each is tried in two ways, so that nested failures would multiply.
const FAILURES: usize = 32;

/// Elements of a constant that may differ from step to step: position and mixing factors, not weights.
const SMALL: usize = 1024;

/// A slice of extent 1 that counts the steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub of: ValueId,
    pub axis: usize,
    /// Whether the slice still has the axis, with extent 1.
    pub keeps: bool,
    /// Position in the first step.
    pub start: i64,
    /// What it grows by.
    pub step: i64,
}

/// Where an operand comes from in every step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Absent,
    /// Output of a column in the same step.
    Column(usize, usize),
    /// Output of a column in the step before; in the first step this value.
    State(usize, usize, ValueId),
    Cut(Cut),
    /// A constant for each step.
    Each(Vec<ValueId>),
    Whole(ValueId),
}

pub struct Column {
    /// By step; in the last ones `None` when nobody needed it there.
    pub nodes: Vec<Option<NodeId>>,
    pub operands: Vec<Source>,
}

pub struct Columns {
    pub steps: usize,
    pub list: Vec<Column>,
    /// Columns and step of each node in them. Several columns may share their first node, where states begin equal.
    pub member: FxHashMap<NodeId, Vec<(usize, usize)>>,
}

/// The columns around a chain. `Err(None)`: not a recurrence; `Err(Some)`: one that cannot be a loop, and why.
pub fn grow(g: &Graph, chain: &[NodeId]) -> Result<Columns, Option<String>> {
    // Often the last step lacks what would only be used in a next one: then something else is there once more.
    let more = grow_to(g, chain, chain.len() + 1).ok();
    let whole = |c: &Column| c.nodes.iter().all(Option::is_some);
    match more.filter(|c| c.list.iter().any(whole)) {
        Some(c) => Ok(c),
        None => grow_to(g, chain, chain.len()),
    }
}

fn grow_to(g: &Graph, chain: &[NodeId], steps: usize) -> Result<Columns, Option<String>> {
    let mut f = Finder {
        g,
        c: Columns {
            steps,
            list: vec![],
            member: FxHashMap::default(),
        },
        why: None,
        counts: false,
        left: FAILURES,
    };
    let column: Vec<Option<NodeId>> = (0..steps).map(|i| chain.get(i).copied()).collect();
    if f.column(&column).is_none() {
        // Without slices that count, it is layers that look alike, which nobody would call a miss.
        return Err(f.why.take().filter(|_| f.counts));
    }
    if f.c.states().next().is_none() {
        return Err(None);
    }
    f.readers();
    f.complete();
    f.c.check(g)?;
    Ok(f.c)
}

impl Columns {
    /// Every operand of every column.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.list.iter().flat_map(|c| &c.operands)
    }

    pub fn states(&self) -> impl Iterator<Item = (usize, usize, ValueId)> + '_ {
        self.sources().filter_map(|s| match s {
            Source::State(c, slot, init) => Some((*c, *slot, *init)),
            _ => None,
        })
    }

    /// The value of a column's output in a step.
    pub fn value(&self, g: &Graph, column: usize, slot: usize, step: usize) -> Option<ValueId> {
        let n = self.list[column].nodes.get(step).copied().flatten()?;
        g.node(n).outputs.get(slot).copied()
    }

    /// Nothing that the loop reads from outside may depend on what it computes.
    fn check(&self, g: &Graph) -> Result<(), Option<String>> {
        let mut later: FxHashSet<NodeId> = FxHashSet::default();
        let mut stack: Vec<NodeId> = self.list.iter().flat_map(|c| &c.nodes).flatten().copied().collect();
        while let Some(n) = stack.pop() {
            if later.insert(n) {
                stack.extend(g.node(n).outputs.iter().flat_map(|v| g.users(*v)));
            }
        }
        let from_inside = |v: ValueId| g.producer(v).is_some_and(|(n, _)| later.contains(&n));
        let bad = self.sources().any(|s| match s {
            Source::Absent | Source::Column(..) => false,
            Source::State(_, _, v) | Source::Whole(v) => from_inside(*v),
            Source::Cut(c) => from_inside(c.of),
            Source::Each(list) => list.iter().any(|v| from_inside(*v)),
        });
        if bad {
            return Err(Some(
                "a step reads what earlier steps gave to something outside of them".into(),
            ));
        }
        Ok(())
    }
}

/// What `v` is a slice of extent 1 of, at a fixed position. `step` is 0.
fn slice_of(g: &Graph, v: ValueId) -> Option<Cut> {
    let (n, slot) = g.producer(v)?;
    let node = g.node(n);
    let of = node.inputs.first().copied().flatten()?;
    let shape = &g.fact(of).shape;
    let attr_axis = || match node.attrs.get("axis") {
        Some(Attr::Int(a)) => normalize_axis(*a, shape.len()).ok(),
        _ => normalize_axis(0, shape.len()).ok(),
    };
    let at = |axis: usize, keeps: bool, start: i64| {
        let extent = shape[axis].as_const();
        let start = match extent {
            Some(e) if start < 0 => start + e,
            _ => start,
        };
        (start >= 0 && extent.is_none_or(|e| start < e)).then_some(Cut {
            of,
            axis,
            keeps,
            start,
            step: 0,
        })
    };
    match node.op.name() {
        "Gather" => {
            let indices = g.constant(node.inputs.get(1).copied().flatten()?)?;
            let keeps = match indices.shape() {
                [] => false,
                [1] => true,
                _ => return None,
            };
            at(attr_axis()?, keeps, *indices.to_i64().first()?)
        }
        "Split" => {
            let axis = attr_axis()?;
            let extents: Option<Vec<i64>> = node.outputs.iter().map(|o| g.fact(*o).shape[axis].as_const()).collect();
            let extents = extents?;
            (extents[slot] == 1).then(|| at(axis, true, extents[..slot].iter().sum()))?
        }
        "Slice" => g.with_cx(n, |cx| {
            let list = |i| cx.const_ints(i).ok().flatten();
            let (starts, ends) = (list(1)?, list(2)?);
            let (&[start], &[end]) = (&starts[..], &ends[..]) else {
                return None;
            };
            let axis = match list(3) {
                None => 0,
                Some(axes) => match axes[..] {
                    [a] => normalize_axis(a, shape.len()).ok()?,
                    _ => return None,
                },
            };
            let one = g.fact(v).shape[axis].is_one();
            let forward = list(4).is_none_or(|s| s == [1]);
            (one && forward && end != start).then(|| at(axis, true, start))?
        }),
        _ => None,
    }
}

struct Finder<'g> {
    g: &'g Graph,
    c: Columns,
    /// Why the last column that failed did.
    why: Option<String>,
    /// Something counts the steps.
    counts: bool,
    /// Columns that may still fail.
    left: usize,
}

type Tuple = Vec<Option<ValueId>>;

impl Finder<'_> {
    /// Whether two nodes may be one column: all but the values that they read.
    fn alike(&self, a: NodeId, b: NodeId) -> bool {
        let (x, y) = (self.g.node(a), self.g.node(b));
        let given = |n: &cameo_ir::Node| n.inputs.iter().map(Option::is_some).collect::<Vec<_>>();
        let fact = |n: &cameo_ir::Node| {
            let one = |v: &ValueId| (self.g.fact(*v).dtype, self.g.fact(*v).shape.clone());
            n.outputs.iter().map(one).collect::<Vec<_>>()
        };
        x.op == y.op && x.attrs == y.attrs && given(x) == given(y) && fact(x) == fact(y)
    }

    /// Adds a column of these nodes with all that it needs; leaves nothing behind when that fails.
    fn column(&mut self, nodes: &[Option<NodeId>]) -> Option<usize> {
        let (first, rest) = nodes.split_first()?;
        let first = (*first)?;
        // Only the last steps may lack something, and two are needed to tell what changes.
        let known = nodes.iter().take_while(|n| n.is_some()).count();
        let distinct: FxHashSet<NodeId> = nodes.iter().flatten().copied().collect();
        let fits = rest.iter().flatten().all(|n| self.alike(first, *n))
            && distinct.len() == known
            && nodes[known..].iter().all(Option::is_none)
            && known + 2 >= LEAST
            && rest.iter().flatten().all(|n| !self.c.member.contains_key(n));
        if !fits || self.c.list.len() == MOST || self.left == 0 {
            return None;
        }
        let index = self.c.list.len();
        for (step, n) in nodes.iter().enumerate() {
            if let Some(n) = n {
                self.c.member.entry(*n).or_default().push((index, step));
            }
        }
        self.c.list.push(Column {
            nodes: nodes.to_vec(),
            operands: vec![],
        });
        // Where the first step reads a constant instead of a state, that has moved behind the other operand.
        let swapped = nodes.get(1).copied().flatten().is_some_and(|n| self.moved(first, n));
        let mut operands = self.operands(nodes, false);
        if operands.is_none() && swapped && self.left > 0 {
            self.undo(index + 1);
            operands = self.operands(nodes, true);
        }
        match operands {
            Some(operands) => {
                self.c.list[index].operands = operands;
                Some(index)
            }
            None => {
                self.undo(index);
                self.left = self.left.saturating_sub(1);
                None
            }
        }
    }

    /// Whether the first step may say its operands the other way around than the next one: its second is a constant, and
    /// theirs is not.
    fn moved(&self, first: NodeId, next: NodeId) -> bool {
        let (a, b) = (self.g.node(first), self.g.node(next));
        let second = |n: &cameo_ir::Node| n.inputs.get(1).copied().flatten();
        let constant = |n: &cameo_ir::Node| second(n).is_some_and(|v| self.g.constant(v).is_some());
        commutes(a) && constant(a) && !constant(b)
    }

    /// The sources of the operands of a column, those of its first node swapped or not.
    fn operands(&mut self, nodes: &[Option<NodeId>], swapped: bool) -> Option<Vec<Source>> {
        let first = nodes[0]?;
        let mut operands = vec![];
        for slot in 0..self.g.node(first).inputs.len() {
            let mut tuple: Tuple = nodes
                .iter()
                .map(|n| n.and_then(|n| self.g.node(n).inputs[slot]))
                .collect();
            if swapped {
                tuple[0] = self.g.node(first).inputs[1 - slot];
            }
            let Some(s) = self.source(&tuple) else {
                let op = self.g.node(first).op;
                self.why
                    .get_or_insert_with(|| format!("operand {slot} of {op} is another thing in each step"));
                return None;
            };
            operands.push(s);
        }
        Some(operands)
    }

    /// Drops the columns from `index` on.
    fn undo(&mut self, index: usize) {
        for column in self.c.list.drain(index..) {
            for n in column.nodes.into_iter().flatten() {
                if let Some(places) = self.c.member.get_mut(&n) {
                    places.retain(|(column, _)| *column < index);
                    if places.is_empty() {
                        self.c.member.remove(&n);
                    }
                }
            }
        }
    }

    fn source(&mut self, tuple: &Tuple) -> Option<Source> {
        let g = self.g;
        let Some(first) = tuple[0] else {
            return tuple.iter().all(Option::is_none).then_some(Source::Absent);
        };
        if tuple.iter().flatten().all(|v| *v == first) {
            return Some(Source::Whole(first));
        }
        if let Some(inside) = self.inside(tuple) {
            return inside;
        }
        if let Some(cut) = self.cut(tuple) {
            self.counts = true;
            return Some(Source::Cut(cut));
        }
        let constants: Option<Vec<ValueId>> = tuple.iter().copied().collect();
        if let Some(list) = constants
            && list.iter().all(|v| g.constant(*v).is_some())
        {
            let shape = |v: &ValueId| (g.fact(*v).dtype, g.fact(*v).shape.clone());
            let small = g.constant(first).is_some_and(|t| t.len() <= SMALL);
            if !small {
                // Layers: no other way to see the steps would make their weights equal.
                self.left = 0;
            }
            return (small && list.iter().all(|v| shape(v) == shape(&first))).then_some(Source::Each(list));
        }
        // Computed in the same step, or in the one before.
        let slot = tuple.iter().skip(1).flatten().find_map(|v| g.producer(*v))?.1;
        let node = |v: &Option<ValueId>| match v.and_then(|v| g.producer(v)) {
            Some((n, s)) if s == slot => Some(n),
            _ => None,
        };
        let nodes: Vec<Option<NodeId>> = tuple.iter().map(node).collect();
        let all = |from: usize| {
            tuple[from..]
                .iter()
                .zip(&nodes[from..])
                .all(|(v, n)| v.is_some() == n.is_some())
        };
        if all(0)
            && nodes[0].is_some()
            && let Some(c) = self.column(&nodes)
        {
            return Some(Source::Column(c, slot));
        }
        if !all(1) {
            return None;
        }
        let mut before = nodes[1..].to_vec();
        before.push(None);
        let c = self.column(&before)?;
        Some(Source::State(c, slot, first))
    }

    /// The source when a column that is there already computes it. `Some(None)`: one does, in a way that no loop can say.
    fn inside(&self, tuple: &Tuple) -> Option<Option<Source>> {
        let places = |v: ValueId| -> Vec<(usize, usize, usize)> {
            let found = self
                .g
                .producer(v)
                .and_then(|(n, slot)| self.c.member.get(&n).map(|p| (slot, p)));
            found.map_or(vec![], |(slot, p)| {
                p.iter().map(|(column, step)| (*column, slot, *step)).collect()
            })
        };
        let all: Vec<Vec<(usize, usize, usize)>> = tuple.iter().map(|v| v.map_or(vec![], places)).collect();
        // First nodes may be those of another column.
        let (at, last) = all.iter().enumerate().skip(1).rev().find(|(_, p)| !p.is_empty())?;
        let computed = |column: usize, slot: usize, from: usize, back: usize| {
            (from..tuple.len()).all(|i| tuple[i].is_none() || all[i].contains(&(column, slot, i.wrapping_sub(back))))
        };
        for (column, slot, step) in last {
            if *step == at && computed(*column, *slot, 0, 0) {
                return Some(Some(Source::Column(*column, *slot)));
            }
            if step + 1 == at && computed(*column, *slot, 1, 1) && all[0].is_empty() {
                return Some(tuple[0].map(|init| Source::State(*column, *slot, init)));
            }
        }
        Some(None)
    }

    fn cut(&self, tuple: &Tuple) -> Option<Cut> {
        let first = slice_of(self.g, tuple[0]?)?;
        let step = slice_of(self.g, tuple[1]?)?.start - first.start;
        let counted = tuple.iter().enumerate().all(|(i, v)| {
            v.is_none_or(|v| {
                slice_of(self.g, v).is_some_and(|c| {
                    c.start == first.start + step * i as i64
                        && Cut {
                            start: first.start,
                            ..c
                        } == first
                })
            })
        });
        // Steps at the end that nobody asked for read their slices too.
        let last = first.start + step * (tuple.len() as i64 - 1);
        let extent = self.g.fact(first.of).shape[first.axis].as_const()?;
        (counted && step != 0 && (0..extent).contains(&last)).then_some(Cut { step, ..first })
    }

    /// Follows what reads the columns, or what they left in the step before.
    fn readers(&mut self) {
        let mut tried: FxHashSet<(NodeId, bool)> = FxHashSet::default();
        loop {
            let before = self.c.list.len();
            let states: Vec<(usize, usize, ValueId)> = self.c.states().collect();
            for (column, slot, init) in states {
                let earlier = (1..self.c.steps).map(|i| self.c.value(self.g, column, slot, i - 1));
                let values: Tuple = std::iter::once(Some(init)).chain(earlier).collect();
                self.readers_of(&values, &mut tried, true);
            }
            for column in 0..before {
                let outputs = self.c.list[column].nodes[1].map_or(0, |n| self.g.node(n).outputs.len());
                for slot in 0..outputs {
                    let values: Tuple = (0..self.c.steps)
                        .map(|i| self.c.value(self.g, column, slot, i))
                        .collect();
                    self.readers_of(&values, &mut tried, false);
                }
            }
            if self.c.list.len() == before {
                return;
            }
        }
    }

    /// Adds the columns of nodes that read these values, one in each step.
    fn readers_of(&mut self, values: &Tuple, tried: &mut FxHashSet<(NodeId, bool)>, earlier: bool) {
        let g = self.g;
        let users: Vec<Vec<NodeId>> = values
            .iter()
            .map(|v| v.map_or(vec![], |v| distinct(g.users(v))))
            .collect();
        for u in users[1].clone() {
            if self.c.member.contains_key(&u) || !tried.insert((u, earlier)) {
                continue;
            }
            let operand = g.node(u).inputs.iter().position(|i| *i == values[1]);
            let like = |step: usize| -> Vec<NodeId> {
                let fits = |n: &&NodeId| {
                    let (v, node) = (values[step], g.node(**n));
                    let moved = |o: usize| step == 0 && commutes(node) && node.inputs[1 - o] == v && self.moved(**n, u);
                    self.alike(**n, u) && v.is_some() && operand.is_some_and(|o| node.inputs[o] == v || moved(o))
                };
                users[step].iter().filter(fits).copied().collect()
            };
            let Some(rank) = like(1).iter().position(|n| *n == u) else {
                continue;
            };
            // In the first step readers may be one node, where states begin equal.
            let mut column: Vec<Option<NodeId>> = (0..values.len()).map(|i| like(i).get(rank).copied()).collect();
            column[0] = column[0].or_else(|| like(0).last().copied());
            self.column(&column);
        }
    }

    /// Finds the nodes of the last steps that nothing asked for, where they are.
    fn complete(&mut self) {
        let g = self.g;
        loop {
            let mut found = vec![];
            for (index, column) in self.c.list.iter().enumerate() {
                let (Some(step), Some(model)) = (column.nodes.iter().position(Option::is_none), column.nodes[0]) else {
                    continue;
                };
                let operand = |s: &Source| match s {
                    Source::Absent | Source::Each(_) => None,
                    Source::Column(c, slot) => self.c.value(g, *c, *slot, step),
                    Source::State(c, slot, _) => self.c.value(g, *c, *slot, step - 1),
                    Source::Whole(v) => Some(*v),
                    Source::Cut(c) => {
                        let here = Cut {
                            start: c.start + c.step * step as i64,
                            step: 0,
                            ..c.clone()
                        };
                        let outputs = g.users(c.of).into_iter().flat_map(|n| g.node(n).outputs.clone());
                        outputs.into_iter().find(|v| slice_of(g, *v).as_ref() == Some(&here))
                    }
                };
                let inputs: Vec<Option<ValueId>> = column.operands.iter().map(operand).collect();
                let readers = inputs
                    .iter()
                    .flatten()
                    .min_by_key(|v| g.users(**v).len())
                    .map(|v| g.users(*v));
                let node = readers
                    .into_iter()
                    .flatten()
                    .find(|n| self.alike(*n, model) && g.node(*n).inputs == inputs && !self.c.member.contains_key(n));
                if let Some(n) = node {
                    found.push((index, step, n));
                }
            }
            found.retain(|(_, _, n)| !self.c.member.contains_key(n));
            if found.is_empty() {
                return;
            }
            for (index, step, n) in found {
                if let Entry::Vacant(e) = self.c.member.entry(n) {
                    e.insert(vec![(index, step)]);
                    self.c.list[index].nodes[step] = Some(n);
                }
            }
        }
    }
}

fn commutes(n: &cameo_ir::Node) -> bool {
    n.inputs.len() == 2 && matches!(n.op.name(), "Add" | "Mul" | "Max" | "Min")
}

fn distinct(mut nodes: Vec<NodeId>) -> Vec<NodeId> {
    nodes.dedup();
    nodes
}
