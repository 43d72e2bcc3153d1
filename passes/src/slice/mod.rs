//! Cuts a smaller network out of one whose weights hold several: the first elements of every tied axis, the first layers.
//!
//! ```text
//! --slice ffn=3
//!
//! %1 = MatMul(%0, w) : f32[N,8]               %1 = Slice(w) {axes=[1], ends=[3]} : f32[4,3]
//! %2 = Add(%1, b) : f32[N,8]                  %2 = MatMul(%0, %1) : f32[N,3]
//! %3 = Relu(%2) : f32[N,8]               →    %3 = Slice(b) {axes=[0], ends=[3]} : f32[3]
//! %4 = MatMul(%3, v) : f32[N,4]               %4 = Add(%2, %3) : f32[N,3]
//! %5 = Add(%0, %4) : f32[N,4]                 %5 = Relu(%4) : f32[N,3]  …  Slice(v) {axes=[0], ends=[3]} …
//! ```
//!
//! Nothing is found by name. The residual stream is what is added to something computed from it (a [`find::Skip`]);
//! `hidden` is the class of its last axes, `ffn` the class of axes between two products with constants on the way back to
//! it, `heads` the class of the head axes of an attention, and `layers` the runs of equal blocks on it. AutoDistil and
//! MatFormer train networks to be cut so. The result equals the network with cut weights: numbers that are not
//! elements of tensors (a scale, an epsilon) stay what they are. Refused, with the node: an axis that is an input's, that
//! an operation does not let shrink, that a reshape mixes with another, and structure that is not there or ambiguous. An
//! output may shrink; it is told.
//!
//! Not a pass: it changes what the graph computes. It runs on recognised attention and normalisations, whose ties are
//! known, and before factors move into weights, so that weights are still tensors of the file.

mod find;
mod spec;
#[cfg(test)]
mod tests;

use cameo_ir::rewrite::{Event, Outcome, Report, Rewriter};
use cameo_ir::{Fact, Graph, NodeId, Origin, ValueId};
use rustc_hash::FxHashMap;

use crate::axes::Axis;
use crate::axes::cut::{Cut, Net, Refusal, cut};
use crate::axes::rebuild::plan;
use crate::axes::sets::Set;
use find::Map;
pub use spec::{Sizes, Slice};

/// The name that the stage has in dumps and reports.
pub const NAME: &str = "slice";

/// Why a graph cannot be cut as wished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceError {
    /// The part of the wish: `hidden`, `heads`, `ffn` or `layers`.
    pub what: &'static str,
    /// A node of the graph that was given, where one shows the reason.
    pub node: Option<NodeId>,
    /// The ONNX nodes that it comes from.
    pub origin: Origin,
    pub op: Option<&'static str>,
    pub reason: String,
}

/// Cuts the graph.
///
/// # Errors
/// The first part of the wish that cannot be met; the graph is then in no particular state.
pub fn slice(g: &mut Graph, wish: &Slice) -> Result<Report, SliceError> {
    let before: Vec<Fact> = g.outputs().iter().map(|(_, v)| g.fact(*v).clone()).collect();
    let mut report = Report::default();
    // What is dead says nothing of the network.
    Rewriter::new(g, NAME).sweep();
    let parts: [(
        &'static str,
        Option<&Sizes>,
        fn(&mut Graph, &Sizes) -> Result<String, Refusal>,
    ); 4] = [
        ("layers", wish.layers.as_ref(), layers),
        ("heads", wish.heads.as_ref(), heads),
        ("ffn", wish.ffn.as_ref(), ffn),
        ("hidden", wish.hidden.as_ref(), hidden),
    ];
    for (what, sizes, apply) in parts {
        let Some(sizes) = sizes else { continue };
        match apply(g, sizes) {
            Ok(detail) => report.events.push(event(format!("{what}: {detail}"))),
            Err(r) => {
                let node = r.node.filter(|n| g.contains(*n)).map(|n| g.node(n));
                return Err(SliceError {
                    what,
                    node: r.node.filter(|n| g.contains(*n)),
                    origin: node.map(|n| n.origin.clone()).unwrap_or_default(),
                    op: node.map(|n| n.op.name()),
                    reason: r.reason,
                });
            }
        }
    }
    report.changes = report.events.len();
    for ((name, v), was) in g.outputs().iter().zip(&before) {
        let is = g.fact(*v);
        if is.shape != was.shape {
            report.events.push(event(format!("output `{name}`: {was} is now {is}")));
        }
    }
    Ok(report)
}

fn event(detail: String) -> Event {
    Event {
        pass: NAME,
        outcome: Outcome::Applied,
        nodes: Origin::default(),
        detail,
    }
}

fn refuse<T>(node: Option<NodeId>, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        node,
        reason: reason.into(),
    })
}

/// One size for each of `extents`, each with its node.
fn sizes(wish: &Sizes, extents: &[(NodeId, usize)], things: &str) -> Result<Vec<usize>, Refusal> {
    let each = match wish {
        Sizes::All(k) => vec![*k; extents.len()],
        Sizes::Each(list) if list.len() == extents.len() => list.clone(),
        Sizes::Each(list) => {
            let reason = format!("{} sizes are given for {} {things}", list.len(), extents.len());
            return refuse(None, reason);
        }
    };
    for (k, (node, extent)) in each.iter().zip(extents) {
        if k > extent {
            return refuse(Some(*node), format!("there are {extent}, not {k}"));
        }
    }
    Ok(each)
}

fn ffn(g: &mut Graph, wish: &Sizes) -> Result<String, Refusal> {
    let found = Map::new(g).feed_forward();
    if found.is_empty() {
        return refuse(None, "there is no feed-forward block on a residual stream");
    }
    let extents: Vec<(NodeId, usize)> = found.iter().map(|(n, _, k)| (*n, *k)).collect();
    let each = sizes(wish, &extents, "feed-forward blocks")?;
    let seeds: Vec<(Axis, Set)> = found
        .iter()
        .zip(&each)
        .map(|((_, a, n), k)| (*a, Set::first(*k, *n)))
        .collect();
    apply(g, &seeds)?;
    Ok(changes(extents.iter().map(|e| e.1).zip(each)))
}

fn heads(g: &mut Graph, wish: &Sizes) -> Result<String, Refusal> {
    let found = Map::new(g).heads();
    if found.is_empty() {
        return refuse(None, "there is no attention with a fixed number of heads");
    }
    let extents: Vec<(NodeId, usize)> = found.iter().map(|(n, _, k, group)| (*n, k * group)).collect();
    let each = sizes(wish, &extents, "attentions")?;
    let mut seeds = vec![];
    for ((n, axis, keys, group), k) in found.iter().zip(&each) {
        if k % group != 0 {
            let reason = format!("{k} query heads do not divide into runs of {group} that share a key head");
            return refuse(Some(*n), reason);
        }
        seeds.push((*axis, Set::first(k / group, *keys)));
    }
    apply(g, &seeds)?;
    Ok(changes(extents.iter().map(|e| e.1).zip(each)))
}

fn hidden(g: &mut Graph, wish: &Sizes) -> Result<String, Refusal> {
    let map = Map::new(g);
    let mut streams: Vec<(NodeId, usize)> = vec![];
    let mut axes = vec![];
    for s in &map.skips {
        let Some(width) = map.width(s.state) else { continue };
        if streams.iter().all(|(_, w)| *w != width) {
            streams.push((s.add, width));
        }
        axes.push(Axis::of(s.state, g.fact(s.state).rank() - 1));
    }
    match streams[..] {
        [] => {
            return refuse(
                None,
                "there is no residual stream: nothing is added to what it was computed from",
            );
        }
        [_] => {}
        [(_, a), (n, b), ..] => {
            let reason = format!("there are residual streams of extents {a} and {b}: which one is meant is ambiguous");
            return refuse(Some(n), reason);
        }
    }
    let each = sizes(wish, &streams, "residual streams")?;
    let set = Set::first(each[0], streams[0].1);
    let seeds: Vec<(Axis, Set)> = axes.into_iter().map(|a| (a, set.clone())).collect();
    apply(g, &seeds)?;
    Ok(changes(streams.iter().map(|e| e.1).zip(each)))
}

/// `3 of 1536 to 512`.
fn changes(pairs: impl Iterator<Item = (usize, usize)>) -> String {
    let mut counted: Vec<((usize, usize), usize)> = vec![];
    for p in pairs {
        match counted.iter_mut().find(|(q, _)| *q == p) {
            Some((_, n)) => *n += 1,
            None => counted.push((p, 1)),
        }
    }
    let text: Vec<String> = counted.iter().map(|((a, b), n)| format!("{n} of {a} to {b}")).collect();
    text.join(", ")
}

/// Keeps the first layers: what reads the stream after the last one reads it where they end.
fn layers(g: &mut Graph, wish: &Sizes) -> Result<String, Refusal> {
    let map = Map::new(g);
    let states = map.layers().or_else(|(node, reason)| refuse(node, reason))?;
    let count = states.len() - 1;
    let first = map.skips.first().map(|s| s.add);
    let Sizes::All(k) = wish else {
        return refuse(first, "one number of layers is wanted");
    };
    if *k > count {
        return refuse(first, format!("there are {count}, not {k}"));
    }
    if *k == count {
        return Ok(format!("{count} to {k}"));
    }
    let (from, to) = (states[count], states[*k]);
    let dropped: Vec<NodeId> = map.between(to, from).into_iter().flatten().collect();
    let (a, b) = (g.fact(from), g.fact(to));
    if a.shape != b.shape || a.dtype != b.dtype {
        return refuse(
            first,
            format!("the stream is {b} after layer {k} and {a} after the last one"),
        );
    }
    let mut rw = Rewriter::new(g, NAME);
    let outcome = rw.replace_values(&[from], &[], "layers", |_| Ok(vec![to]));
    if let Outcome::Refused(reason) = outcome {
        return refuse(first, reason);
    }
    rw.sweep();
    let left: Vec<NodeId> = dropped.into_iter().filter(|n| g.contains(*n)).collect();
    let output = |n: &NodeId| {
        let mut outputs = g.outputs().iter().map(|(name, v)| (name, g.producer(*v)));
        outputs
            .find(|(_, p)| p.is_some_and(|(p, _)| p == *n))
            .map(|(name, _)| (*n, name))
    };
    if let Some((n, name)) = left.iter().find_map(output) {
        let reason = format!("the output `{name}` is computed by a layer that would be dropped");
        return refuse(Some(n), reason);
    }
    if let Some(n) = left.first() {
        let reason = "something after the last layer reads this node of a layer that would be dropped";
        return refuse(Some(*n), reason);
    }
    Ok(format!("{count} to {k}"))
}

/// Cuts the seeds and what is tied to them.
fn apply(g: &mut Graph, seeds: &[(Axis, Set)]) -> Result<(), Refusal> {
    let seeds: Vec<(Axis, Set)> = seeds.iter().filter(|(_, s)| !s.is_full()).cloned().collect();
    let mut net = Net::new(g);
    let found = cut(&mut net, &seeds)?;
    let new = rebuilt(&mut net, &found)?;
    *g = new;
    Ok(())
}

/// The graph with the nodes that the cut reaches made again.
fn rebuilt(net: &mut Net, cut: &Cut) -> Result<Graph, Refusal> {
    let steps = plan(net, cut)?;
    let g = net.g;
    let steps: FxHashMap<NodeId, _> = steps.into_iter().map(|s| (s.node, s)).collect();
    let mut out = Graph::new(&g.name);
    out.symbols = g.symbols.clone();
    let mut map: FxHashMap<ValueId, ValueId> = FxHashMap::default();
    for v in g.inputs() {
        let value = g.value(*v);
        map.insert(*v, out.add_input(&value.name, value.fact.clone()));
    }
    for n in g.order() {
        let node = g.node(n);
        let weights = node.inputs.iter().flatten().copied();
        for v in weights.chain(g.outputs().iter().map(|(_, v)| *v)) {
            if let Some(t) = g.constant(v)
                && !map.contains_key(&v)
            {
                map.insert(v, out.add_weight(&g.value(v).name, t.clone()));
            }
        }
        match steps.get(&n) {
            Some(step) => {
                if let Err(e) = step.make(&mut out, &mut map, &node.outputs) {
                    return refuse(Some(n), e.to_string());
                }
            }
            None => {
                let inputs = node
                    .inputs
                    .iter()
                    .map(|v| v.and_then(|v| map.get(&v).copied()))
                    .collect();
                let facts = node.outputs.iter().map(|v| g.fact(*v).clone()).collect();
                let made = out.add_typed_node(node.op, node.attrs.clone(), inputs, facts, node.origin.clone());
                map.extend(node.outputs.iter().copied().zip(made));
            }
        }
        for v in &node.outputs {
            if let Some(new) = map.get(v) {
                out.set_name(*new, &g.value(*v).name);
            }
        }
    }
    for (name, v) in g.outputs() {
        match map.get(v) {
            Some(new) => out.add_output(name, *new),
            None => return refuse(None, format!("the output `{name}` has no value")),
        }
    }
    Ok(out)
}
