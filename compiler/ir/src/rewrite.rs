//! The [`Rewriter`]: the only way a pass changes a graph.
//!
//! A change replaces values by new ones that mean the same. Laws: the new value has the type and shape of the old one;
//! new nodes carry the merged [`Origin`] of the nodes that they replace; graph outputs keep their names, and an output
//! that a node computes is not turned into an input or weight; a change that breaks a law is refused as a whole and
//! leaves no trace but an event. What became dead is removed at once. Every decision is logged, for `--explain`.

use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::graph::{counted, infer};
use crate::op::{OpError, invalid};
use crate::{Attr, Attrs, Fact, Graph, Node, NodeId, Op, Origin, Sym, Tensor, ValueId};

/// What a pass did with a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Applied,
    /// The pattern is not there. Not logged.
    NoMatch,
    /// The pattern is there and must not be replaced, for this reason.
    Refused(String),
}

/// A decision of a pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    pub pass: &'static str,
    /// [`Outcome::Applied`] or [`Outcome::Refused`].
    pub outcome: Outcome,
    /// The ONNX nodes that are concerned.
    pub nodes: Origin,
    /// The rule, in a few words.
    pub detail: String,
}

impl fmt::Display for Event {
    /// `fold_scales: scale into weights: refused, others read the weight of MatMul (from "a", "b")`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: ", self.pass, self.detail)?;
        match &self.outcome {
            Outcome::Applied => f.write_str("applied")?,
            Outcome::NoMatch => f.write_str("no match")?,
            Outcome::Refused(reason) => write!(f, "refused, {reason}")?,
        }
        for (i, name) in self.nodes.names().iter().enumerate() {
            write!(f, "{}{name:?}", if i == 0 { " (from " } else { ", " })?;
        }
        f.write_str(if self.nodes.names().is_empty() { "" } else { ")" })
    }
}

/// What a pass did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Number of applied changes.
    pub changes: usize,
    /// Decisions in order, without repeats.
    pub events: Vec<Event>,
}

/// Two rules that undo each other must not hang the compiler. Honest fixpoints take a round per level of nesting of a
/// pattern; the longest seen is below 10.
const MAX_ROUNDS: usize = 64;

/// Changes a graph on behalf of a pass.
pub struct Rewriter<'g> {
    graph: &'g mut Graph,
    pass: &'static str,
    /// Given to nodes that are added.
    origin: Origin,
    /// Nodes and weights added since the outermost `replace` began.
    born: Vec<NodeId>,
    born_weights: Vec<ValueId>,
    /// What [`Rewriter::constants`] said last, kept true by every change since.
    constants: OnceCell<Arc<Vec<bool>>>,
    changes: usize,
    events: Vec<Event>,
    seen: FxHashSet<Event>,
}

impl<'g> Rewriter<'g> {
    pub fn new(graph: &'g mut Graph, pass: &'static str) -> Self {
        Self {
            graph,
            pass,
            origin: Origin::default(),
            born: vec![],
            born_weights: vec![],
            constants: OnceCell::new(),
            changes: 0,
            events: vec![],
            seen: FxHashSet::default(),
        }
    }

    pub fn finish(self) -> Report {
        Report {
            changes: self.changes,
            events: self.events,
        }
    }

    /// Number of changes so far, for fixpoints.
    pub fn changes(&self) -> usize {
        self.changes
    }

    // ---- reading

    pub fn graph(&self) -> &Graph {
        self.graph
    }

    pub fn node(&self, n: NodeId) -> &Node {
        self.graph.node(n)
    }

    pub fn fact(&self, v: ValueId) -> &Fact {
        self.graph.fact(v)
    }

    pub fn constant(&self, v: ValueId) -> Option<&Tensor> {
        self.graph.constant(v)
    }

    /// [`Graph::constants`] of the graph as it is. Changes keep it up to date, so that a pass may ask for it at every node.
    pub fn constants(&self) -> Arc<Vec<bool>> {
        self.constants.get_or_init(|| Arc::new(self.graph.constants())).clone()
    }

    /// Operand `slot` of `n`, when present.
    pub fn input(&self, n: NodeId, slot: usize) -> Option<ValueId> {
        self.graph.node(n).inputs.get(slot).copied().flatten()
    }

    /// The node that computes `v`, when it is an `op`.
    pub fn producer_if(&self, v: ValueId, op: &str) -> Option<NodeId> {
        let (n, _) = self.graph.producer(v)?;
        (self.graph.node(n).op == op).then_some(n)
    }

    /// Whether exactly one operand of one node reads `v` and no graph output is `v`.
    pub fn used_once(&self, v: ValueId) -> bool {
        !self.graph.is_output(v) && self.graph.user_count(v) == 1
    }

    // ---- walking

    /// Asks `rule` about every node, producers first. Nodes that the rule adds are not visited.
    pub fn each(&mut self, mut rule: impl FnMut(&mut Self, NodeId) -> Outcome) {
        for n in self.graph.order() {
            if self.graph.contains(n) {
                rule(self, n);
            }
        }
    }

    /// [`Rewriter::each`] until nothing changes.
    pub fn fixpoint(&mut self, mut rule: impl FnMut(&mut Self, NodeId) -> Outcome) {
        for _ in 0..MAX_ROUNDS {
            let before = self.changes;
            self.each(&mut rule);
            if self.changes == before {
                return;
            }
        }
        self.log(
            Outcome::Refused("no fixpoint was reached".into()),
            Origin::default(),
            &format!("stopped after {MAX_ROUNDS} rounds"),
        );
    }

    /// Runs `pass` on the bodies that attributes hold, each with a rewriter of its own; takes over what they did.
    pub fn bodies(&mut self, pass: &dyn Fn(&mut Rewriter)) {
        let holders: Vec<NodeId> = self.graph.order();
        for n in holders {
            let graphs = self.graph.node(n).attrs.iter().filter_map(|(k, a)| match a {
                Attr::Graph(g) => Some((k.clone(), g.clone())),
                _ => None,
            });
            for (name, body) in graphs.collect::<Vec<_>>() {
                let mut body = Arc::unwrap_or_clone(body);
                let mut inner = Rewriter::new(&mut body, self.pass);
                pass(&mut inner);
                inner.bodies(pass);
                let report = inner.finish();
                for event in report.events {
                    if self.seen.insert(event.clone()) {
                        self.events.push(event);
                    }
                }
                if report.changes > 0 {
                    self.changes += report.changes;
                    self.graph.node_mut(n).attrs.insert(name, Attr::Graph(Arc::new(body)));
                }
            }
        }
    }

    // ---- adding, inside `replace`

    /// Adds a node.
    pub fn add_node(
        &mut self,
        op: Op,
        attrs: Attrs,
        mut inputs: Vec<Option<ValueId>>,
        outputs: usize,
    ) -> Result<Vec<ValueId>, OpError> {
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let out = self.graph.add_node(op, attrs, inputs, outputs, self.origin.clone())?;
        if let Some((n, _)) = out.first().and_then(|v| self.graph.producer(*v)) {
            self.born.push(n);
            if let Some(known) = self.constants.get_mut() {
                let constant = self.graph.computes_constant(n, known);
                Arc::make_mut(known).resize(self.graph.value_count(), constant);
            }
        }
        Ok(out)
    }

    /// Adds a node with one output by the name of its operation.
    pub fn apply(&mut self, op: &str, attrs: &[(&str, Attr)], inputs: &[ValueId]) -> Result<ValueId, OpError> {
        let Some(op) = Op::find(op) else {
            return invalid(format!("no operation `{op}`"));
        };
        let attrs = attrs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect();
        Ok(self.add_node(op, attrs, inputs.iter().copied().map(Some).collect(), 1)?[0])
    }

    /// Adds a copy of node `n` that reads `inputs`.
    pub fn copy_with(&mut self, n: NodeId, inputs: Vec<Option<ValueId>>) -> Result<Vec<ValueId>, OpError> {
        let Node { op, attrs, outputs, .. } = self.graph.node(n);
        let (op, attrs, outputs) = (*op, attrs.clone(), outputs.len());
        self.add_node(op, attrs, inputs, outputs)
    }

    pub fn add_weight(&mut self, name: &str, t: Tensor) -> ValueId {
        let v = self.graph.add_weight(name, t);
        self.born_weights.push(v);
        if let Some(known) = self.constants.get_mut() {
            Arc::make_mut(known).resize(self.graph.value_count(), true);
        }
        v
    }

    /// Runs `f` with `origin` as the origin of the nodes that it adds.
    pub fn with_origin<R>(&mut self, origin: Origin, f: impl FnOnce(&mut Self) -> R) -> R {
        let outer = std::mem::replace(&mut self.origin, origin);
        let r = f(self);
        self.origin = outer;
        r
    }

    // ---- changing

    /// Replaces the outputs of `old[0]` by the values that `build` returns, one per output. The other nodes of `old` are
    /// what the pattern absorbed: they lend their origins, and die if nothing else reads them.
    pub fn replace(
        &mut self,
        old: &[NodeId],
        detail: &str,
        build: impl FnOnce(&mut Self) -> Result<Vec<ValueId>, OpError>,
    ) -> Outcome {
        let Some(root) = old.first() else {
            return Outcome::NoMatch;
        };
        let outputs = self.graph.node(*root).outputs.clone();
        self.replace_values(&outputs, old, detail, build)
    }

    /// [`Rewriter::replace`] for a node with one output.
    pub fn replace_one(
        &mut self,
        old: &[NodeId],
        detail: &str,
        build: impl FnOnce(&mut Self) -> Result<ValueId, OpError>,
    ) -> Outcome {
        self.replace(old, detail, |rw| Ok(vec![build(rw)?]))
    }

    /// Makes every reader of each value of `old` read the value that `build` returns for it (possibly itself). New nodes
    /// that read an old value keep reading it.
    pub fn replace_values(
        &mut self,
        old: &[ValueId],
        nodes: &[NodeId],
        detail: &str,
        build: impl FnOnce(&mut Self) -> Result<Vec<ValueId>, OpError>,
    ) -> Outcome {
        let origin = self.origin_of(nodes);
        let (born, weights) = (self.born.len(), self.born_weights.len());
        let built = self.with_origin(origin.clone(), build);
        let checked = match built {
            Ok(new) => self.check(old, &new).map(|()| new),
            Err(e) => Err(e.to_string()),
        };
        let new = match checked {
            Ok(new) => new,
            Err(reason) => {
                for n in self.born.drain(born..).rev() {
                    self.graph.remove_node(n);
                }
                for w in self.born_weights.drain(weights..) {
                    self.graph.remove_weight(w);
                }
                return self.log(Outcome::Refused(reason), origin, detail);
            }
        };
        if old == new {
            return Outcome::NoMatch;
        }
        let born_now = self.born.split_off(born);
        let mut candidates: Vec<NodeId> = old
            .iter()
            .filter_map(|v| self.graph.producer(*v))
            .map(|(n, _)| n)
            .collect();
        let mut sharper = vec![];
        for (o, n) in old.iter().zip(&new) {
            if o == n {
                continue;
            }
            self.graph.replace_uses(*o, *n, &born_now);
            self.relearn(*o, *n);
            let known = self.graph.fact(*o).known.clone();
            let name = self.graph.value(*o).name.clone();
            let is_born = self.born_weights[weights..].contains(n)
                || self.graph.producer(*n).is_some_and(|(p, _)| born_now.contains(&p));
            let new_value = self.graph.value_mut(*n);
            match (&new_value.fact.known, known) {
                (None, Some(k)) => new_value.fact.known = Some(k),
                (Some(_), None) => sharper.push(*n),
                _ => {}
            }
            if is_born && new_value.name.is_empty() {
                new_value.name = name;
            }
            if self.graph.constant(*o).is_some() && self.graph.user_count(*o) == 0 {
                self.graph.remove_weight(*o);
            }
        }
        for v in sharper {
            self.refresh_users(v);
        }
        candidates.extend(nodes);
        candidates.extend(born_now);
        self.bury(candidates);
        self.born_weights.truncate(weights);
        self.changes += 1;
        self.log(Outcome::Applied, origin, detail)
    }

    /// Adds `origin` to that of `n`, which now also stands for other nodes.
    pub fn lend_origin(&mut self, n: NodeId, origin: &Origin) {
        let node = self.graph.node_mut(n);
        node.origin = node.origin.merge(origin);
    }

    /// Logs that `nodes` match and stay as they are.
    pub fn refuse(&mut self, nodes: &[NodeId], detail: &str, reason: impl Into<String>) -> Outcome {
        let origin = self.origin_of(nodes);
        self.log(Outcome::Refused(reason.into()), origin, detail)
    }

    /// Removes every node and weight that no output needs, be it for what it counts; returns how many.
    pub fn sweep(&mut self) -> usize {
        let graph = &self.graph;
        let mut counting: FxHashMap<&Arc<str>, ValueId> = FxHashMap::default();
        for (_, node) in graph.nodes() {
            counting.extend(counted(node.op, &node.attrs).map(|name| (name, node.outputs[0])));
        }
        let mut live = vec![false; graph.value_count()];
        let mut stack: Vec<ValueId> = graph.outputs().iter().map(|(_, v)| *v).collect();
        while let Some(v) = stack.pop() {
            if std::mem::replace(&mut live[v.0 as usize], true) {
                continue;
            }
            let Some((n, _)) = graph.producer(v) else { continue };
            stack.extend(graph.node(n).inputs.iter().flatten());
            if !counting.is_empty() {
                graph.visit_dims(n, &mut |d| {
                    d.visit(&mut |s| {
                        if let Sym::Named(name) = s {
                            stack.extend(counting.get(name));
                        }
                    });
                });
            }
        }
        let dead: Vec<NodeId> = self
            .graph
            .nodes()
            .filter(|(_, node)| !node.outputs.iter().any(|v| live[v.0 as usize]))
            .map(|(n, _)| n)
            .collect();
        let weights: Vec<ValueId> = self
            .graph
            .value_ids()
            .filter(|v| !live[v.0 as usize] && self.graph.constant(*v).is_some())
            .collect();
        for n in &dead {
            self.graph.remove_node(*n);
        }
        for w in &weights {
            self.graph.remove_weight(*w);
        }
        let count = dead.len() + weights.len();
        self.changes += count;
        count
    }

    // ---- parts

    fn origin_of(&self, nodes: &[NodeId]) -> Origin {
        let names = nodes
            .iter()
            .flat_map(|n| self.graph.node(*n).origin.names().iter().cloned());
        Origin::from_names(names)
    }

    fn log(&mut self, outcome: Outcome, nodes: Origin, detail: &str) -> Outcome {
        let event = Event {
            pass: self.pass,
            outcome: outcome.clone(),
            nodes,
            detail: detail.into(),
        };
        if self.seen.insert(event.clone()) {
            self.events.push(event);
        }
        outcome
    }

    fn check(&self, old: &[ValueId], new: &[ValueId]) -> Result<(), String> {
        let pass = self.pass;
        if old.len() != new.len() {
            return Err(format!(
                "internal error in pass `{pass}`: {} values stand for {}",
                new.len(),
                old.len()
            ));
        }
        for (o, n) in old.iter().zip(new) {
            let (was, is) = (self.graph.fact(*o), self.graph.fact(*n));
            if was.dtype != is.dtype || was.shape != is.shape {
                return Err(format!(
                    "internal error in pass `{pass}`: {o} is {was}, its replacement {is}"
                ));
            }
            if o != n && self.graph.is_output(*o) && self.graph.producer(*n).is_none() {
                return Err("a graph output must stay the result of a node".into());
            }
        }
        Ok(())
    }

    /// Keeps [`Rewriter::constants`] true after the readers of `old` read `new`.
    fn relearn(&mut self, old: ValueId, new: ValueId) {
        let Some(known) = self.constants.get_mut() else { return };
        match (known[old.0 as usize], known[new.0 as usize]) {
            (false, true) => {}
            // Rare enough to begin anew.
            (true, false) => {
                self.constants.take();
                return;
            }
            _ => return,
        }
        let known = Arc::make_mut(known);
        let mut work = self.graph.users(new);
        while let Some(n) = work.pop() {
            let news = self.graph.node(n).outputs.iter().any(|v| !known[v.0 as usize]);
            if news && self.graph.computes_constant(n, known) {
                for v in &self.graph.node(n).outputs {
                    known[v.0 as usize] = true;
                    work.extend(self.graph.users(*v));
                }
            }
        }
    }

    /// Infers again what depends on `v`, whose fact got more specific. A node that no longer types keeps its facts: the
    /// verifier will name it.
    fn refresh_users(&mut self, v: ValueId) {
        let mut work = self.graph.users(v);
        while let Some(n) = work.pop() {
            let node = self.graph.node(n);
            let outputs = node.outputs.clone();
            let args = self.graph.args(&node.inputs);
            let Ok(facts) = infer(node.op, &node.attrs, &args, outputs.len()) else {
                continue;
            };
            for (out, fact) in outputs.into_iter().zip(facts) {
                let old = self.graph.fact(out);
                let sharper = old.known.is_none() && fact.known.is_some();
                if sharper && old.dtype == fact.dtype && old.shape == fact.shape {
                    self.graph.value_mut(out).fact = fact;
                    work.extend(self.graph.users(out));
                }
            }
        }
    }

    /// Removes those of `work` that are dead, and what dies with them.
    fn bury(&mut self, mut work: Vec<NodeId>) {
        while let Some(n) = work.pop() {
            if !self.graph.contains(n) {
                continue;
            }
            let node = self.graph.node(n);
            // Shapes may have what it counts: [`Rewriter::sweep`] looks at all of them.
            let counts = counted(node.op, &node.attrs).next().is_some();
            let read = |v: &ValueId| self.graph.is_output(*v) || self.graph.user_count(*v) > 0;
            if counts || node.outputs.iter().any(read) {
                continue;
            }
            let producers: Vec<NodeId> = node
                .inputs
                .iter()
                .flatten()
                .filter_map(|v| self.graph.producer(*v))
                .map(|(p, _)| p)
                .collect();
            self.graph.remove_node(n);
            work.extend(producers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Dim};

    fn names(o: &[&str]) -> Origin {
        Origin::from_names(o.iter().map(|s| (*s).into()))
    }

    /// `y = Neg(Neg(x))` with origins a, b.
    fn twice() -> (Graph, Vec<NodeId>, ValueId) {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Fact::new(DType::F32, [Dim::sym("N"), Dim::from(3usize)]));
        let neg = Op::find("Neg").expect("in the table");
        let a = g
            .add_node(neg, Attrs::new(), vec![Some(x)], 1, Origin::new("a"))
            .expect("types")[0];
        let b = g
            .add_node(neg, Attrs::new(), vec![Some(a)], 1, Origin::new("b"))
            .expect("types")[0];
        g.set_name(b, "b_out");
        g.add_output("y", b);
        let nodes = [b, a].iter().map(|v| g.producer(*v).expect("a node").0).collect();
        (g, nodes, x)
    }

    #[test]
    fn merges_origins_and_removes_what_died() {
        let (mut g, nodes, x) = twice();
        let mut rw = Rewriter::new(&mut g, "test");
        let outcome = rw.replace_one(&nodes, "abs", |rw| rw.apply("Abs", &[], &[x]));
        assert_eq!(outcome, Outcome::Applied);
        let report = rw.finish();
        assert_eq!((report.changes, report.events.len()), (1, 1));
        assert_eq!(report.events[0].nodes, names(&["a", "b"]));
        assert_eq!(report.events[0].to_string(), r#"test: abs: applied (from "a", "b")"#);
        assert_eq!(g.node_count(), 1);
        let (name, y) = &g.outputs()[0];
        assert_eq!(&**name, "y");
        assert_eq!(&*g.value(*y).name, "b_out");
        let (n, _) = g.producer(*y).expect("a node");
        assert_eq!(g.node(n).origin, names(&["a", "b"]));
    }

    #[test]
    fn refuses_other_types_and_leaves_no_trace() {
        let (mut g, nodes, x) = twice();
        let mut rw = Rewriter::new(&mut g, "test");
        let outcome = rw.replace_one(&nodes, "isnan", |rw| rw.apply("IsNaN", &[], &[x]));
        let Outcome::Refused(reason) = outcome else {
            panic!("applied")
        };
        assert!(reason.contains("internal error in pass `test`"), "{reason}");
        assert_eq!(rw.finish().changes, 0);
        assert_eq!(g.node_count(), 2);
    }

    #[test]
    fn an_output_stays_computed() {
        let (mut g, nodes, x) = twice();
        let mut rw = Rewriter::new(&mut g, "test");
        let outcome = rw.replace_one(&nodes, "nothing", |_| Ok(x));
        assert!(matches!(outcome, Outcome::Refused(_)));
    }

    #[test]
    fn the_replacement_may_read_what_it_replaces() {
        let (mut g, nodes, _) = twice();
        let inner = g.node(nodes[1]).outputs[0];
        let mut rw = Rewriter::new(&mut g, "test");
        let outcome = rw.replace_one(&nodes[1..], "wrap", |rw| rw.apply("Abs", &[], &[inner]));
        assert_eq!(outcome, Outcome::Applied);
        assert_eq!(g.order().len(), 3);
        let ops: Vec<&str> = g.order().into_iter().map(|n| g.node(n).op.name()).collect();
        assert_eq!(ops, ["Neg", "Abs", "Neg"]);
    }

    #[test]
    fn readers_are_those_of_a_search() {
        let (mut g, nodes, x) = twice();
        let w = g.add_weight("w", Tensor::f32(&[3], [1.0, 2.0, 3.0]));
        let sum = g.apply("Add", &[], &[x, w]).expect("types");
        g.apply("Mul", &[], &[sum, sum]).expect("types");
        let searched = |g: &Graph| {
            for v in g.value_ids() {
                let operands = g.nodes().flat_map(|(n, node)| node.inputs.iter().map(move |i| (n, *i)));
                let found: Vec<NodeId> = operands.filter(|(_, i)| *i == Some(v)).map(|(n, _)| n).collect();
                assert_eq!((g.users(v), g.user_count(v)), (found.clone(), found.len()), "{v}");
            }
        };
        searched(&g);
        let mut rw = Rewriter::new(&mut g, "test");
        rw.replace_values(&[x], &[], "shifted", |_| Ok(vec![sum]));
        searched(rw.graph());
        rw.replace_one(&nodes[1..], "abs", |rw| rw.apply("Abs", &[], &[x]));
        searched(rw.graph());
        rw.sweep();
        searched(rw.graph());
    }

    #[test]
    fn what_is_constant_stays_known() {
        // Neg(Abs(w)) + Neg(x), of which pieces are exchanged.
        let mut g = Graph::new("g");
        let fact = Fact::new(DType::F32, [Dim::from(2usize)]);
        let x = g.add_input("x", fact);
        let w = g.add_weight("w", Tensor::f32(&[2], [1.0, 2.0]));
        let abs = g.apply("Abs", &[], &[w]).expect("types");
        let neg = g.apply("Neg", &[], &[x]).expect("types");
        let exp = g.apply("Exp", &[], &[neg]).expect("types");
        let sum = g.apply("Add", &[], &[abs, exp]).expect("types");
        g.add_output("y", sum);
        let mut rw = Rewriter::new(&mut g, "test");
        assert_eq!(*rw.constants(), rw.graph().constants());
        // A computed value becomes a weight, and with it all that reads it.
        rw.replace_values(&[neg], &[], "frozen", |rw| {
            Ok(vec![rw.add_weight("f", Tensor::f32(&[2], [0.0, 1.0]))])
        });
        assert!(rw.constants()[sum.0 as usize]);
        assert_eq!(*rw.constants(), rw.graph().constants());
        // And the other way round.
        let held = rw.constants();
        rw.replace_values(&[abs], &[], "thawed", |rw| Ok(vec![rw.apply("Sqrt", &[], &[x])?]));
        assert!(held[sum.0 as usize] && !rw.constants()[sum.0 as usize]);
        assert_eq!(*rw.constants(), rw.graph().constants());
    }

    #[test]
    fn sweeps_nodes_and_weights() {
        let (mut g, _, x) = twice();
        let w = g.add_weight("w", Tensor::f32(&[3], [1.0, 2.0, 3.0]));
        g.apply("Add", &[], &[x, w]).expect("types");
        let mut rw = Rewriter::new(&mut g, "test");
        assert_eq!(rw.sweep(), 2);
        assert_eq!(rw.sweep(), 0);
        assert_eq!(g.node_count(), 2);
    }
}
