//! From columns to a loop.

use std::sync::Arc;

use cameo_ir::op::{OpError, invalid};
use cameo_ir::ops::scan::Parts;
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, Dim, Fact, Graph, NodeId, Op, Origin, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

use super::DETAIL;
use super::columns::{Columns, Cut, Source};
use crate::pattern::{perm_attr, reshape_attrs};

/// Nodes from which even steps that read no slices are better a loop: beyond this they would not be one kernel.
const MANY: usize = 256;

/// What the body reads, each thing once.
#[derive(Default)]
struct Inputs {
    states: Vec<(usize, usize, ValueId)>,
    slices: Vec<Source>,
    wholes: Vec<ValueId>,
}

impl Inputs {
    fn of(c: &Columns) -> Self {
        let mut out = Self::default();
        for s in c.sources() {
            match s {
                Source::Absent | Source::Column(..) => {}
                Source::State(column, slot, init) => {
                    let state = (*column, *slot, *init);
                    if !out.states.contains(&state) {
                        out.states.push(state);
                    }
                }
                Source::Cut(_) | Source::Each(_) => {
                    if !out.slices.contains(s) {
                        out.slices.push(s.clone());
                    }
                }
                Source::Whole(v) => {
                    if !out.wholes.contains(v) {
                        out.wholes.push(*v);
                    }
                }
            }
        }
        out
    }

    fn position(&self, s: &Source) -> Option<usize> {
        let (states, slices) = (self.states.len(), self.slices.len());
        match s {
            Source::Absent | Source::Column(..) => None,
            Source::State(column, slot, init) => self.states.iter().position(|x| *x == (*column, *slot, *init)),
            Source::Cut(_) | Source::Each(_) => self.slices.iter().position(|x| x == s).map(|i| i + states),
            Source::Whole(v) => self.wholes.iter().position(|x| x == v).map(|i| i + states + slices),
        }
    }
}

/// A value outside that stands for results of the steps.
enum Exit {
    /// All results of a column, joined along an axis with nothing between them, from operand `at` on.
    Joined {
        node: NodeId,
        column: usize,
        slot: usize,
        axis: usize,
        at: usize,
        backwards: bool,
    },
    /// One result.
    One {
        value: ValueId,
        column: usize,
        slot: usize,
        step: usize,
    },
}

fn exits(g: &Graph, c: &Columns) -> Vec<Exit> {
    let mut out = vec![];
    let mut joined: FxHashSet<NodeId> = FxHashSet::default();
    for (column, list) in c.list.iter().enumerate() {
        let Some(first) = list.nodes[0] else { continue };
        for slot in 0..g.node(first).outputs.len() {
            let values: Option<Vec<Option<ValueId>>> =
                (0..c.steps).map(|i| c.value(g, column, slot, i).map(Some)).collect();
            for (step, n) in list.nodes.iter().enumerate() {
                let Some(n) = n else { continue };
                let value = g.node(*n).outputs[slot];
                let mut alone = g.is_output(value);
                for u in g.users(value) {
                    if c.member.contains_key(&u) || joined.contains(&u) {
                        continue;
                    }
                    let node = g.node(u);
                    let found = values
                        .as_ref()
                        .filter(|_| node.op == "Concat")
                        .and_then(|v| run(g, c, u, v));
                    let axis = match node.attrs.get("axis") {
                        Some(Attr::Int(a)) => cameo_ir::op::normalize_axis(*a, g.fact(value).rank()).ok(),
                        _ => None,
                    };
                    match (axis, found) {
                        (Some(axis), Some((at, backwards))) => {
                            joined.insert(u);
                            out.push(Exit::Joined {
                                node: u,
                                column,
                                slot,
                                axis,
                                at,
                                backwards,
                            });
                        }
                        _ => alone = true,
                    }
                }
                let listed = |e: &Exit| matches!(e, Exit::One { value: v, .. } if *v == value);
                if alone && !out.iter().any(listed) {
                    out.push(Exit::One {
                        value,
                        column,
                        slot,
                        step,
                    });
                }
            }
        }
    }
    out
}

/// Where the operands of a node are these values one after the other, or backwards; the others are none of the loop.
fn run(g: &Graph, c: &Columns, n: NodeId, values: &[Option<ValueId>]) -> Option<(usize, bool)> {
    let inputs = &g.node(n).inputs;
    let mut windows = inputs.windows(values.len());
    let (at, backwards) = windows.by_ref().enumerate().find_map(|(at, w)| {
        let forward = w == values;
        (forward || w.iter().rev().eq(values)).then_some((at, !forward))
    })?;
    let mut others = inputs[..at].iter().chain(&inputs[at + values.len()..]).flatten();
    let outside = |v: &ValueId| g.producer(*v).is_none_or(|(n, _)| !c.member.contains_key(&n));
    others.all(outside).then_some((at, backwards))
}

/// Replaces the columns by a loop.
pub fn apply(rw: &mut Rewriter, c: &Columns) -> Outcome {
    let inputs = Inputs::of(c);
    let exits = exits(rw.graph(), c);
    let count = c.list.len() * c.steps;
    let joined = exits.iter().any(|e| matches!(e, Exit::Joined { .. }));
    if inputs.slices.is_empty() && !joined && count < MANY || exits.is_empty() {
        return Outcome::NoMatch;
    }
    // The last state is a result of its own, anything else of one step is cut out of all of them.
    let last = |column: usize, slot: usize, step: usize| {
        let state = inputs.states.iter().position(|s| (s.0, s.1) == (column, slot));
        state.filter(|_| step + 1 == c.steps)
    };
    let mut stacked: Vec<(usize, usize)> = vec![];
    for e in &exits {
        let (column, slot) = match e {
            Exit::Joined { column, slot, .. } => (*column, *slot),
            Exit::One { column, slot, step, .. } if last(*column, *slot, *step).is_none() => (*column, *slot),
            Exit::One { .. } => continue,
        };
        if !stacked.contains(&(column, slot)) {
            stacked.push((column, slot));
        }
    }
    let mut nodes: Vec<NodeId> = c.list.iter().flat_map(|l| &l.nodes).flatten().copied().collect();
    let mut old = vec![];
    for e in &exits {
        match e {
            Exit::Joined { node, .. } => {
                nodes.push(*node);
                old.push(rw.node(*node).outputs[0]);
            }
            Exit::One { value, .. } => old.push(*value),
        }
    }
    rw.replace_values(&old, &nodes, DETAIL, |rw| {
        let body = body(rw, c, &inputs, &stacked)?;
        let operands = operands(rw, c, &inputs)?;
        let parts = Parts {
            body: &Arc::new(body),
            states: inputs.states.len(),
            slices: inputs.slices.len(),
            length: &Dim::from(c.steps),
        };
        let Some(op) = Op::find("cameo::Scan") else {
            return invalid("no loops");
        };
        let outputs = parts.states + stacked.len();
        let results = rw.add_node(op, parts.attrs(), operands.into_iter().map(Some).collect(), outputs)?;
        let all = |column: usize, slot: usize| {
            let i = stacked.iter().position(|s| *s == (column, slot));
            i.map_or(results[0], |i| results[parts.states + i])
        };
        let mut new = vec![];
        for e in &exits {
            new.push(match e {
                Exit::One { column, slot, step, .. } => match last(*column, *slot, *step) {
                    Some(i) => results[i],
                    None => {
                        let index = rw.add_weight("", cameo_ir::Tensor::i64(&[], [*step as i64]));
                        rw.apply("Gather", &[("axis", Attr::Int(0))], &[all(*column, *slot), index])?
                    }
                },
                Exit::Joined {
                    node,
                    column,
                    slot,
                    axis,
                    at,
                    backwards,
                } => {
                    let mut v = all(*column, *slot);
                    if *backwards {
                        v = cut_to(rw, v, c.steps as i64 - 1, -1, c.steps)?;
                    }
                    // Time goes where the parts were joined, and is one axis with theirs.
                    let rank = rw.fact(v).rank();
                    let mut perm: Vec<usize> = (1..rank).collect();
                    perm.insert(*axis, 0);
                    if *axis > 0 {
                        v = rw.apply("Transpose", &[("perm", perm_attr(&perm))], &[v])?;
                    }
                    let inputs: Vec<ValueId> = rw.node(*node).inputs.iter().flatten().copied().collect();
                    let (before, rest) = inputs.split_at(*at);
                    let (parts, after) = rest.split_at(c.steps);
                    let mut shape = rw.fact(parts[0]).shape.clone();
                    shape[*axis] = shape[*axis].clone() * Dim::from(c.steps);
                    v = rw.apply("Reshape", &reshape_attrs(&shape), &[v])?;
                    if !before.is_empty() || !after.is_empty() {
                        let all = [before, &[v], after].concat();
                        v = rw.apply("Concat", &[("axis", Attr::Int(*axis as i64))], &all)?;
                    }
                    v
                }
            });
        }
        Ok(new)
    })
}

/// What the loop is called with.
fn operands(rw: &mut Rewriter, c: &Columns, inputs: &Inputs) -> Result<Vec<ValueId>, OpError> {
    let mut out = vec![];
    for (column, slot, init) in &inputs.states {
        let fact = state_fact(rw.graph(), c, *column, *slot)?;
        let given = rw.fact(*init).clone();
        if given.dtype != fact.dtype {
            return invalid(format!("the first state is {given}, the others are {fact}"));
        }
        out.push(if given.shape == fact.shape {
            *init
        } else {
            rw.apply("Expand", &[("shape", Attr::Dims(fact.shape))], &[*init])?
        });
    }
    for s in &inputs.slices {
        out.push(match s {
            Source::Cut(cut) => {
                let mut v = cut.of;
                if cut.axis > 0 {
                    let mut perm: Vec<usize> = (0..rw.fact(v).rank()).filter(|a| *a != cut.axis).collect();
                    perm.insert(0, cut.axis);
                    v = rw.apply("Transpose", &[("perm", perm_attr(&perm))], &[v])?;
                }
                cut_to(rw, v, cut.start, cut.step, c.steps)?
            }
            Source::Each(list) => {
                let mut parts = vec![];
                for v in list {
                    let shape: Vec<Dim> = std::iter::once(Dim::ONE)
                        .chain(rw.fact(*v).shape.iter().cloned())
                        .collect();
                    parts.push(rw.apply("Reshape", &reshape_attrs(&shape), &[*v])?);
                }
                rw.apply("Concat", &[("axis", Attr::Int(0))], &parts)?
            }
            _ => return invalid("not a slice"),
        });
    }
    // Weights are in the body.
    out.extend(inputs.wholes.iter().filter(|v| rw.constant(**v).is_none()));
    Ok(out)
}

/// Positions `start, start + step, …` along axis 0, `count` of them.
fn cut_to(rw: &mut Rewriter, v: ValueId, start: i64, step: i64, count: usize) -> Result<ValueId, OpError> {
    let extent = &rw.fact(v).shape[0];
    if start == 0 && step == 1 && extent.as_const() == Some(count as i64) {
        return Ok(v);
    }
    let end = start + step * count as i64;
    // Before the first one is nothing that an end could be.
    let end = if end < 0 { i64::MIN + 1 } else { end };
    let one = |d: i64| Attr::Dims(vec![Dim::from(d)]);
    let attrs = [
        ("axes", one(0)),
        ("ends", one(end)),
        ("starts", one(start)),
        ("steps", one(step)),
    ];
    rw.apply("Slice", &attrs, &[v])
}

fn state_fact(g: &Graph, c: &Columns, column: usize, slot: usize) -> Result<Fact, OpError> {
    match c.value(g, column, slot, 0) {
        Some(v) => Ok(Fact::new(g.fact(v).dtype, g.fact(v).shape.clone())),
        None => invalid("a state without a first step"),
    }
}

/// One step as a graph.
fn body(rw: &Rewriter, c: &Columns, inputs: &Inputs, stacked: &[(usize, usize)]) -> Result<Graph, OpError> {
    let g = rw.graph();
    let mut b = Graph::new("step");
    let mut given = vec![];
    for (i, (column, slot, _)) in inputs.states.iter().enumerate() {
        given.push(b.add_input(&format!("state{i}"), state_fact(g, c, *column, *slot)?));
    }
    for (i, s) in inputs.slices.iter().enumerate() {
        let name = format!("slice{i}");
        given.push(match s {
            Source::Cut(Cut { of, axis, keeps, .. }) => {
                let fact = g.fact(*of);
                let mut shape = fact.shape.clone();
                shape.remove(*axis);
                let v = b.add_input(&name, Fact::new(fact.dtype, shape.clone()));
                if *keeps {
                    shape.insert(*axis, Dim::ONE);
                    b.apply("Reshape", &reshape_attrs(&shape), &[v])?
                } else {
                    v
                }
            }
            Source::Each(list) => {
                let fact = g.fact(list[0]);
                b.add_input(&name, Fact::new(fact.dtype, fact.shape.clone()))
            }
            _ => return invalid("not a slice"),
        });
    }
    for (i, v) in inputs.wholes.iter().enumerate() {
        // Weights stay weights: they can be packed.
        given.push(match g.constant(*v) {
            Some(t) => b.add_weight(&g.value(*v).name, t.clone()),
            None => b.add_input(
                &format!("whole{i}"),
                Fact::new(g.fact(*v).dtype, g.fact(*v).shape.clone()),
            ),
        });
    }
    let mut made: FxHashMap<usize, Vec<ValueId>> = FxHashMap::default();
    // In the order of one step's nodes, which read each other as the columns do.
    let position: FxHashMap<NodeId, usize> = g.order().into_iter().zip(0..).collect();
    let mut sorted: Vec<usize> = (0..c.list.len()).collect();
    sorted.sort_by_key(|column| c.list[*column].nodes[1].map(|n| position[&n]));
    for column in sorted {
        let list = &c.list[column];
        let Some(model) = list.nodes[0] else {
            return invalid("a column without a first step");
        };
        let operand = |s: &Source| match s {
            Source::Column(k, slot) => made.get(k).and_then(|v| v.get(*slot)).copied(),
            s => inputs.position(s).map(|i| given[i]),
        };
        let operands = list.operands.iter().map(operand).collect();
        let origin = list
            .nodes
            .iter()
            .flatten()
            .fold(Origin::default(), |o, n| o.merge(&g.node(*n).origin));
        let node = g.node(model);
        let results = b.add_node(node.op, node.attrs.clone(), operands, node.outputs.len(), origin)?;
        for (new, old) in results.iter().zip(&node.outputs) {
            b.set_name(*new, &g.value(*old).name);
        }
        made.insert(column, results);
    }
    for (i, (column, slot, _)) in inputs.states.iter().enumerate() {
        b.add_output(&format!("state{i}"), made[column][*slot]);
    }
    for (i, (column, slot)) in stacked.iter().enumerate() {
        b.add_output(&format!("y{i}"), made[column][*slot]);
    }
    for (name, range) in &g.symbols {
        b.symbols.insert(name.clone(), *range);
    }
    // Only those symbols stay that something names.
    Ok(b.map_dims(&Dim::clone))
}
