//! Bodies of loops, of branches and of `SequenceMap` as graphs of their own.
//!
//! A body of ONNX sees all names around it; here what it reads from around are its last inputs (weights stay weights).

use std::collections::{BTreeMap, BTreeSet};

use cameo_ir::{DType, Dim, Fact, Graph, Origin, Tensor, ValueId};

use crate::error::{Fault, Site};
use crate::growing;
use crate::import::Importer;
use crate::lists::item;
use crate::open::Open;
use crate::plan::captures;
use crate::proto::GraphProto;
use crate::scope::{Scope, Slot};
use crate::stacked::{List, Part, Stacked};

/// What a body's input is.
#[derive(Clone)]
pub(crate) enum Formal {
    Input(Fact),
    /// A tensor at the beginning of one of this type: some of its axes, with the numbers that say how much of them, and the
    /// largest of those. Each number is an input behind the first that it is of.
    Open(Fact, Vec<(usize, usize, Dim)>),
    /// The number of the iteration, of so many.
    Counter(Dim),
    /// Always true.
    Condition,
    /// The sequence that is this state of the loop, to append to.
    Grown(usize),
    /// What nothing reads.
    Unread,
}

/// What a result of a body is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Tensor,
    /// An optional that holds nothing.
    Absent,
    /// A sequence of so many tensors: so many outputs of the graph.
    Items(usize),
    /// The sequence that is this state, with so many tensors more.
    Grown(usize, usize),
}

impl Held {
    /// Outputs of the graph.
    pub fn outputs(self) -> usize {
        match self {
            Self::Tensor => 1,
            Self::Absent => 0,
            Self::Items(n) | Self::Grown(_, n) => n,
        }
    }
}

/// A body with the values around it that it reads, which are its last inputs.
pub(crate) struct Body {
    pub graph: Graph,
    pub captured: Vec<ValueId>,
    pub held: Vec<Held>,
}

impl Body {
    /// Where each result is a tensor.
    pub fn of_tensors(self) -> Result<Self, Fault> {
        match self.held.iter().all(|h| *h == Held::Tensor) {
            true => Ok(self),
            false => Err(of_sequences()),
        }
    }
}

pub(crate) fn of_sequences() -> Fault {
    Fault::unsupported("a loop over time that gives a sequence")
        .hint("it may append tensors to sequences, which nothing in it reads")
}

impl<'m> Importer<'m> {
    /// What is known of symbols around holds inside too.
    pub(crate) fn share_ranges(&self, body: &mut Graph) {
        for (name, range) in &mut body.symbols {
            if let Some(known) = self.graph.symbols.get(name) {
                *range = *known;
            }
        }
    }

    /// Imports a body as a graph of its own; `Ok(None)` when something in it failed and is reported.
    pub(crate) fn body(
        &mut self,
        scope: &mut Scope<'m>,
        site: &Site,
        graph: &'m GraphProto,
        formals: &[Formal],
        outputs: &[&'m str],
    ) -> Result<Option<Body>, Fault> {
        self.data.push(BTreeSet::new());
        let body = loop {
            let (problems, mut again) = (self.problems.clone(), false);
            let body = self.body_once(scope, site, graph, formals, outputs, &mut again);
            if body.is_err() || !again {
                break body;
            }
            // What it wanted to know is known now, or will not be.
            self.problems = problems;
        };
        self.data.pop();
        body
    }

    /// [`Importer::body`]; whether it wanted to know numbers that are dimensions around it from now on, or stay data.
    fn body_once(
        &mut self,
        scope: &mut Scope<'m>,
        site: &Site,
        graph: &'m GraphProto,
        formals: &[Formal],
        outputs: &[&'m str],
        again: &mut bool,
    ) -> Result<Option<Body>, Fault> {
        let mut inner = scope.body(format!("{}/", site.origin));
        let mut around: BTreeMap<&'m str, ()> = BTreeMap::new();
        captures(graph, &mut |name| {
            around.insert(name, ());
        });
        let (mut body, mut counters) = (Graph::new(&graph.name), vec![]);
        let (mut numbers, mut open): (BTreeMap<usize, ValueId>, _) = (BTreeMap::new(), vec![]);
        for (input, formal) in graph.input.iter().zip(formals.iter().cloned()) {
            let slot = match formal {
                Formal::Input(fact) => Slot::Value(body.add_input(&input.name, fact)),
                Formal::Open(fact, axes) => {
                    let v = body.add_input(&input.name, fact);
                    for (_, n, _) in &axes {
                        let name = format!("{}#{n}", input.name);
                        numbers
                            .entry(*n)
                            .or_insert_with(|| body.add_input(&name, growing::number()));
                    }
                    open.push((input.name.as_str(), v, axes));
                    Slot::Value(v)
                }
                Formal::Counter(count) => {
                    let v = body.add_input(&input.name, Fact::new(DType::I64, vec![]));
                    counters.push((v, count));
                    Slot::Value(v)
                }
                Formal::Condition => Slot::Value(body.add_weight(&input.name, Tensor::bool(&[], [true]))),
                Formal::Grown(state) => self.add_list(List::Grown { state, new: vec![] }),
                Formal::Unread => Slot::Absent,
            };
            if inner.defines(&input.name) {
                return Err(Fault::invalid(format!(
                    "the body's input `{}` is there twice",
                    input.name
                )));
            }
            inner.set(&input.name, slot);
        }
        let (mut captured, mut names): (Vec<ValueId>, Vec<String>) = (vec![], vec![]);
        for name in around.keys().copied() {
            match scope.get(name) {
                // A name of a subgraph further inside.
                None => {}
                Some(_) => {
                    let mut capture = |name: String, v: ValueId, graph: &Graph| match graph.constant(v) {
                        Some(t) => body.add_weight(&name, t.clone()),
                        None => {
                            let input = body.add_input(&name, graph.fact(v).clone());
                            captured.push(v);
                            names.push(name);
                            input
                        }
                    };
                    let slot = match self.slot(scope, name)? {
                        Slot::Value(v) => Slot::Value(capture(name.to_owned(), v, &self.graph)),
                        Slot::List(list) => {
                            let inside = match &self.lists[list] {
                                List::Items(items) => {
                                    let items = items.iter().enumerate();
                                    List::Items(items.map(|(i, v)| capture(item(name, i), *v, &self.graph)).collect())
                                }
                                List::Stacked(s) => List::Stacked(Stacked {
                                    of: capture(name.to_owned(), s.of, &self.graph),
                                    part: match &s.part {
                                        Part::Listed(v) => Part::Listed(capture(format!("{name}#"), *v, &self.graph)),
                                        part => part.clone(),
                                    },
                                    axis: s.axis,
                                }),
                                List::Grown { .. } => return Err(of_sequences()),
                            };
                            self.add_list(inside)
                        }
                        Slot::Optional(_) => {
                            return Err(Fault::unsupported(format!(
                                "`{name}` is an optional of which data decides whether it is there, read by a body"
                            )));
                        }
                        slot => slot,
                    };
                    inner.set(name, slot);
                }
            }
        }
        let own = body.inputs().len() - captured.len();
        for (v, input) in captured.iter().zip(&body.inputs()[own..]) {
            let counter = self.counters.iter().find(|(counter, _)| counter == v);
            counters.extend(counter.map(|(_, count)| (*input, count.clone())));
        }
        let outside = std::mem::replace(&mut self.graph, body);
        std::mem::swap(&mut self.counters, &mut counters);
        let mut formals = self.graph.inputs()[..own].iter().copied().collect();
        std::mem::swap(&mut self.formals, &mut formals);
        self.loop_depth += 1;
        let mut failed = false;
        for (name, v, axes) in open {
            let extents: Vec<ValueId> = axes.iter().map(|(_, n, _)| numbers[n]).collect();
            let axes: Vec<Open> = axes.into_iter().map(|(axis, _, most)| (axis, most)).collect();
            match self.cut(v, &axes, &extents, &Origin::new(&site.origin)) {
                Ok(v) => inner.update(name, Slot::Value(v)),
                Err(f) => {
                    self.problems.node(site, f);
                    failed = true;
                }
            }
        }
        self.initializers(graph, &mut inner);
        self.nodes(&mut inner, &graph.node, outputs, scope.in_function());
        self.loop_depth -= 1;
        let mut seen = BTreeSet::new();
        let mut held = vec![];
        for (i, name) in outputs.iter().enumerate() {
            let slot = self.slot(&mut inner, name);
            let list = match &slot {
                Ok(Slot::List(list)) => Some(self.lists[*list].clone()),
                _ => None,
            };
            held.push(match (&list, &slot) {
                (Some(List::Items(items)), _) => Held::Items(items.len()),
                (Some(List::Grown { state, new }), _) => Held::Grown(*state, new.len()),
                (_, Ok(Slot::Absent)) => Held::Absent,
                _ => Held::Tensor,
            });
            match slot {
                Ok(Slot::Value(v)) if seen.insert(*name) => self.graph.add_output(name, v),
                Ok(Slot::Value(v)) => self.graph.add_output(&format!("{name}#{i}"), v),
                Ok(Slot::List(_)) => match list {
                    Some(List::Items(items) | List::Grown { new: items, .. }) => {
                        for (k, v) in items.iter().enumerate() {
                            self.graph.add_output(&format!("{name}#{i}[{k}]"), *v);
                        }
                    }
                    _ => {
                        let what = "its body gives a sequence whose length only a run knows";
                        self.problems.node(site, Fault::unsupported(what));
                        failed = true;
                    }
                },
                Ok(Slot::Absent) => {}
                Ok(Slot::Optional(_)) => {
                    let what = format!("`{name}` is an optional, and whether it has an element depends on data");
                    self.problems.node(site, Fault::unsupported(what));
                    failed = true;
                }
                Ok(_) => failed = true,
                Err(f) => {
                    self.problems.node(site, f);
                    failed = true;
                }
            }
        }
        let mut graph = std::mem::replace(&mut self.graph, outside);
        self.counters = counters;
        self.formals = formals;
        // What decides shapes inside comes from around.
        let mut data = self.data.pop().unwrap_or_default();
        for (name, v) in names.iter().zip(&captured) {
            if self.wanted.forget(name.as_str()) {
                self.want_elements(*v);
                if !self.elements.covers(&self.wanted) {
                    continue;
                }
                let known = self.counted(*v, &Origin::new(&site.origin))?;
                match (known, around.keys().find(|around| **around == name.as_str())) {
                    (Some(known), Some(name)) => {
                        scope.update(name, Slot::Value(known));
                        *again = true;
                    }
                    _ => *again |= data.insert(name.clone()),
                }
            }
        }
        self.data.push(data);
        self.share_ranges(&mut graph);
        Ok((!failed).then_some(Body { graph, captured, held }))
    }
}
