//! `Scan` and `Loop`: loops over time with closed bodies.
//!
//! Slices are cut along axis 0: other axes and directions are turned before and after. A sequence that each iteration appends
//! to is what a loop stacks. Where data ends a loop, the body counts its steps.

use std::sync::Arc;

use cameo_ir::ops::scan::Parts;
use cameo_ir::{Attr, Bounds, DType, Dim, Fact, Graph, Op, Origin, Tensor, ValueId};

use crate::bodies::{Formal, Held, of_sequences};
use crate::bounds::computed;
use crate::error::{Fault, Site};
use crate::functions::MAX_DEPTH;
use crate::growing::Growing;
use crate::import::Importer;
use crate::numbers::LONGEST;
use crate::open::{Open, Rows, appended, open_axes};
use crate::plan::captures;
use crate::proto::{AttributeProto, GraphProto, NodeProto};
use crate::scope::{Scope, Slot};
use crate::stacked::List;

/// What inputs of a loop are called.
const TRIPS: &str = "the number of iterations";
const CONDITION: &str = "the condition";

/// Iterations of a loop that nothing bounds: a run of more fails.
pub(crate) const MAX_TURNS: i64 = 1 << 24;

/// From here on a number of iterations means that something else ends the loop.
const ENDLESS: i64 = 1 << 31;

/// More copies of a loop's body are no program that anybody wants.
const MAX_COPIES: usize = 1 << 10;

/// A body is read anew for each thing that is learned of its states' shapes.
const MAX_LESSONS: usize = 16;

pub(crate) type Attributes<'m> = [(&'m str, &'m AttributeProto)];

/// How a `Loop` becomes nodes.
enum Way {
    /// Its body once for each iteration.
    Copies,
    /// Over time, where only the number of iterations ends it.
    Counted,
    /// The same, with extents that depend on the iteration: copies have each its own instead.
    Turning,
    /// Over time, and data may end it.
    Until,
}

/// How often a `Loop` runs, as far as its inputs tell.
pub(crate) struct Trips {
    /// Its largest number of iterations; `None` without one that is known before.
    pub most: Option<Dim>,
    /// The number, and whether there is a first iteration, where the node gives them.
    pub number: Option<ValueId>,
    pub start: Option<ValueId>,
    /// Whether `most` is no longer what `number` says.
    formula: bool,
    /// Whether data decides how often, up to `most`, or whether there is a first iteration.
    open: bool,
}

fn endless() -> Fault {
    Fault::uncounted("a loop whose number of iterations depends on data")
        .hint("export a loop with a fixed number of iterations")
}

/// A state of a loop over time.
pub(crate) enum State {
    Tensor(ValueId),
    /// A sequence that grows, with what it has before, stacked along a first axis.
    Sequence(Option<ValueId>),
    /// A tensor that each iteration only appends to along this axis, with what it is before.
    Appended(ValueId, usize),
}

fn body_of<'m>(attrs: &Attributes<'m>) -> Result<&'m GraphProto, Fault> {
    let body = attrs
        .iter()
        .find(|(n, _)| *n == "body")
        .and_then(|(_, a)| a.g.as_deref());
    body.ok_or_else(|| Fault::invalid("attribute `body` is missing"))
}

/// The body of a `Scan` with its numbers of states and of slices.
pub(crate) fn scanned<'m>(attrs: &Attributes<'m>, inputs: usize) -> Result<(&'m GraphProto, usize, usize), Fault> {
    let graph = body_of(attrs)?;
    let count = attrs.iter().find(|(n, _)| *n == "num_scan_inputs").map(|(_, a)| a.i);
    let count = count
        .and_then(|c| usize::try_from(c).ok())
        .filter(|c| (1..=inputs).contains(c));
    let Some(count) = count else {
        return Err(Fault::invalid("attribute `num_scan_inputs` does not fit the inputs"));
    };
    let states = inputs - count;
    if graph.input.len() != inputs || graph.output.len() < states {
        return Err(Fault::invalid(format!(
            "{inputs} inputs given, the body has {} inputs and {} outputs",
            graph.input.len(),
            graph.output.len()
        )));
    }
    Ok((graph, states, count))
}

/// A list of integers, one per slice: the attribute, or zeros.
pub(crate) fn list(attrs: &Attributes, name: &str, count: usize) -> Result<Vec<i64>, Fault> {
    match attrs.iter().find(|(n, _)| *n == name) {
        None => Ok(vec![0; count]),
        Some((_, a)) if a.ints.len() == count => Ok(a.ints.clone()),
        Some((_, a)) => Err(Fault::invalid(format!(
            "attribute `{name}` has {} entries for {count} tensors",
            a.ints.len()
        ))),
    }
}

impl<'m> Importer<'m> {
    /// `false`: the node's outputs have no meaning.
    pub fn over_time(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &Attributes<'m>,
    ) -> bool {
        let depth = self.functions.enter();
        let made = match depth {
            false => Err(Fault::unsupported(format!("loops are nested deeper than {MAX_DEPTH}"))),
            true if site.op == "Loop" => self.iterate(scope, node, site, attrs),
            true => self.scan(scope, node, site, attrs).map(of_values),
        };
        if depth {
            self.functions.leave();
        }
        self.finish(scope, node, site, attrs, made)
    }

    /// Gives the outputs of a node what was made of it; `false`: they have no meaning.
    pub fn finish(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &Attributes<'m>,
        made: Result<Option<Vec<Slot<'m>>>, Fault>,
    ) -> bool {
        match made {
            Ok(Some(results)) => {
                for (name, slot) in node.output.iter().zip(results).filter(|(n, _)| !n.is_empty()) {
                    if let Slot::Value(v) = slot
                        && self.graph.producer(v).is_some()
                    {
                        self.graph.set_name(v, name);
                    }
                    scope.set(name, slot);
                }
                true
            }
            // What it depends on failed and is reported.
            Ok(None) => false,
            Err(fault) => {
                self.problems.node(site, fault);
                self.unknown_inside(scope, site, attrs);
                false
            }
        }
    }

    fn scan(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &Attributes<'m>,
    ) -> Result<Option<Vec<ValueId>>, Fault> {
        if site.opset.is_some_and(|v| v < 9) {
            return self.scan_batch(scope, node, site, attrs);
        }
        let (graph, states, count) = scanned(attrs, node.input.len())?;
        let stacked = graph.output.len() - states;
        let (axes, back) = (
            list(attrs, "scan_input_axes", count)?,
            list(attrs, "scan_input_directions", count)?,
        );
        let out_axes = list(attrs, "scan_output_axes", stacked)?;
        let out_back = list(attrs, "scan_output_directions", stacked)?;
        let origin = Origin::new(&site.origin);
        let mut operands = vec![];
        for (i, name) in node.input.iter().enumerate() {
            let Some(mut v) = self.read(scope, name)? else {
                return Ok(None);
            };
            if i >= states {
                let rank = self.graph.fact(v).rank();
                let axis = cameo_ir::op::normalize_axis(axes[i - states], rank)?;
                v = self.turned(v, &(0..rank).filter(|a| *a != axis).fold(vec![axis], push), &origin)?;
                v = self.reversed(v, back[i - states] != 0, &origin)?;
            }
            operands.push(v);
        }
        let length = self.graph.fact(operands[states]).shape[0].clone();
        let formals = operands.iter().enumerate().map(|(i, v)| {
            let fact = self.graph.fact(*v);
            let shape = fact.shape[usize::from(i >= states)..].to_vec();
            Formal::Input(Fact::new(fact.dtype, shape))
        });
        let formals: Vec<Formal> = formals.collect();
        let outputs: Vec<&'m str> = graph.output.iter().map(|o| o.name.as_str()).collect();
        let Some(body) = self.body(scope, site, graph, &formals, &outputs)? else {
            return Ok(None);
        };
        let body = body.of_tensors()?;
        operands.extend(&body.captured);
        let mut results = self.time(body.graph, states, count, &length, operands, &origin)?;
        for (i, v) in results[states..].iter_mut().enumerate() {
            let rank = self.graph.fact(*v).rank();
            let axis = cameo_ir::op::normalize_axis(out_axes[i], rank)?;
            *v = self.reversed(*v, out_back[i] != 0, &origin)?;
            let mut perm: Vec<usize> = (1..rank).collect();
            perm.insert(axis, 0);
            *v = self.turned(*v, &perm, &origin)?;
        }
        Ok(Some(results))
    }

    /// A `Loop`: over time, or as copies of its body, which come first where sequences are in it, or until data ends it.
    fn iterate(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &Attributes<'m>,
    ) -> Result<Option<Vec<Slot<'m>>>, Fault> {
        let graph = body_of(attrs)?;
        let mut lists = false;
        let mut look = |name: &str| lists |= matches!(scope.get(name), Some(Slot::List(_) | Slot::Absent));
        node.input.iter().for_each(|name| look(name));
        captures(graph, &mut look);
        // What cannot be over time, as states whose shapes change and extents that depend on the iteration, can be copies;
        // without a known number of them a loop over time may do, or one that data ends. Loops inside of others are tried in
        // one way: the ways of each would multiply.
        let ways: &[Way] = match (lists, self.loop_depth > 0) {
            (true, true) => &[Way::Copies, Way::Until],
            (true, false) => &[Way::Copies, Way::Turning, Way::Until],
            (false, true) => &[Way::Until],
            (false, false) => &[Way::Counted, Way::Copies, Way::Turning, Way::Until],
        };
        let problems = self.problems.clone();
        let mut refused = None;
        for way in ways {
            let turns = std::mem::replace(&mut self.turns_count, !matches!(way, Way::Counted));
            let made = match way {
                Way::Copies => self.copies(scope, node, site, graph),
                Way::Counted | Way::Turning => self.repeat(scope, node, site, attrs, false),
                Way::Until => self.repeat(scope, node, site, attrs, true),
            };
            self.turns_count = turns;
            if matches!(made, Ok(Some(_))) || self.stopped {
                return made;
            }
            let said = std::mem::replace(&mut self.problems, problems.clone());
            // What goes furthest says most.
            if refused.is_none() || !matches!(&made, Err(f) if f.uncounted) {
                refused = Some((made, said));
            }
        }
        let Some((made, said)) = refused else { return Ok(None) };
        self.problems = said;
        made
    }

    /// How often a loop runs, which is one i64, and whether it does, which is one bool.
    fn is_one_of(&self, v: ValueId, dtype: DType, what: &str) -> Result<(), Fault> {
        let fact = self.graph.fact(v);
        match fact.dtype == dtype && fact.element_count().as_const().is_none_or(|n| n == 1) {
            true => Ok(()),
            false => Err(Fault::invalid(format!("{what} is {fact}, not one {dtype}"))),
        }
    }

    /// The body once for each iteration: their number must be known.
    fn copies(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        graph: &'m GraphProto,
    ) -> Result<Option<Vec<Slot<'m>>>, Fault> {
        let mut states = vec![];
        for name in &node.input {
            match name.as_str() {
                "" => states.push(Slot::Absent),
                name => states.push(self.slot(scope, name)?),
            }
        }
        if states.iter().any(|s| matches!(s, Slot::Failed)) {
            return Ok(None);
        }
        if states.len() < 2 || graph.input.len() != states.len() || graph.output.len() + 1 < states.len() {
            return Err(Fault::invalid(format!(
                "{} inputs given, the body has {} inputs and {} outputs",
                states.len(),
                graph.input.len(),
                graph.output.len()
            )));
        }
        let unknown = || {
            Fault::uncounted("a loop with sequences whose number of iterations depends on data")
                .hint("the number of iterations must be known when the model is compiled")
        };
        let condition = states.remove(1);
        let trips = states.remove(0);
        if let Slot::Value(v) = trips {
            self.is_one_of(v, DType::I64, TRIPS)?;
        }
        let count = match trips {
            Slot::Value(v) => match (
                self.graph.constant(v).map(Tensor::to_i64).as_deref(),
                &self.graph.fact(v).known,
            ) {
                (Some([n]), _) => Some(*n),
                (_, Some(known)) => known.first().and_then(Dim::as_const),
                _ => None,
            },
            _ => Some(i64::MAX),
        };
        let goes_on = |this: &Self, slot: Slot| match slot {
            Slot::Value(v) => {
                this.is_one_of(v, DType::Bool, CONDITION)?;
                truth(&this.graph, v).ok_or_else(unknown)
            }
            _ => Ok(true),
        };
        let mut goes = goes_on(self, condition)?;
        let mut count = match goes {
            true => count.ok_or_else(unknown)?,
            false => 0,
        };
        let results = graph.output.len();
        let mut stacked = vec![vec![]; results - 1 - states.len()];
        let mut i = 0;
        while goes && count > 0 {
            if i as usize >= MAX_COPIES && count >= ENDLESS {
                return Err(unknown());
            }
            if i as usize >= MAX_COPIES {
                return Err(Fault::unsupported(format!(
                    "a loop with sequences of more than {MAX_COPIES} iterations"
                )));
            }
            let number = self.graph.add_weight("", Tensor::i64(&[], [i]));
            let still = self.graph.add_weight("", Tensor::bool(&[], [true]));
            let all = [number, still]
                .into_iter()
                .map(Slot::Value)
                .chain(states.iter().copied());
            let given = graph.input.iter().map(|f| f.name.as_str()).zip(all).collect();
            let Some(mut slots) = self.inlined(scope, site, graph, given, results)? else {
                return Ok(None);
            };
            goes = goes_on(self, slots.remove(0))?;
            for (list, slot) in stacked.iter_mut().zip(slots.split_off(states.len())) {
                match slot {
                    Slot::Value(v) => list.push(v),
                    _ => return Err(Fault::invalid("a loop stacks tensors, a sequence is given")),
                }
            }
            states = slots;
            (i, count) = (i + 1, count - 1);
        }
        let origin = Origin::new(&site.origin);
        for list in stacked {
            states.push(Slot::Value(self.joined(list, 0, true, &origin)?));
        }
        Ok(Some(states))
    }

    /// What the first two inputs of a `Loop` say; `Ok(None)` when one of them failed and is reported.
    fn trips(&mut self, scope: &mut Scope<'m>, inputs: &[&'m str]) -> Result<Option<Trips>, Fault> {
        let mut trips = Trips {
            most: None,
            number: None,
            start: None,
            formula: false,
            open: false,
        };
        if let Some(name) = inputs.first().filter(|n| !n.is_empty()) {
            let Some(v) = self.read(scope, name)? else {
                return Ok(None);
            };
            self.is_one_of(v, DType::I64, TRIPS)?;
            trips.number = Some(v);
            let fact = self.graph.fact(v);
            let count = computed(&self.graph, v)
                .and_then(|t| t.to_i64().first().copied())
                .map(Dim::from);
            let known = fact.known.as_deref().and_then(|k| k.first().cloned());
            trips.most = match count.or(known) {
                None => {
                    self.want_first(v)?;
                    trips.open = true;
                    self.least_operand(v).map(|most| most.maximum(&Dim::ZERO))
                }
                Some(length) if length.as_const().is_some_and(|n| n >= ENDLESS) => None,
                // An extent stays what other shapes call it.
                Some(length) => Some(match Bounds::of(&[]).range(&length) {
                    (0.., _) => length,
                    _ => length.maximum(&Dim::ZERO),
                }),
            };
        }
        if let Some(name) = inputs.get(1).filter(|n| !n.is_empty()) {
            let Some(v) = self.read(scope, name)? else {
                return Ok(None);
            };
            self.is_one_of(v, DType::Bool, CONDITION)?;
            trips.start = Some(v);
            let first = self.graph.fact(v).known.as_deref().and_then(|k| k.first().cloned());
            match (truth(&self.graph, v), first, trips.most.clone()) {
                (Some(true), ..) => {}
                (Some(false), ..) => (trips.most, trips.formula) = (Some(Dim::ZERO), true),
                (None, Some(first), Some(most)) => (trips.most, trips.formula) = (Some(most * first), true),
                (None, Some(_), None) => trips.open = true,
                (None, None, _) => {
                    self.want_first(v)?;
                    trips.open = true;
                }
            }
        }
        Ok(Some(trips))
    }

    /// The operand of a minimum that is known.
    fn least_operand(&self, v: ValueId) -> Option<Dim> {
        let (n, _) = self.graph.producer(v)?;
        let node = self.graph.node(n);
        let known = |v: &ValueId| match (self.graph.constant(*v), self.graph.fact(*v).known.as_deref()) {
            (Some(t), _) => t.to_i64().first().copied().map(Dim::from),
            (_, Some([d])) => Some(d.clone()),
            _ => None,
        };
        let least = || node.inputs.iter().flatten().find_map(known);
        (node.op == "Min").then(least).flatten()
    }

    /// Notes the elements of a value; an error where it may be known then.
    fn want_first(&mut self, v: ValueId) -> Result<(), Fault> {
        // Names inside of a body are not those of the model's inputs.
        if self.loop_depth > 0 {
            return Ok(());
        }
        self.want_number(v);
        match self.elements.clone().extend(self.wanted.clone()) {
            true => Err(endless()),
            false => Ok(()),
        }
    }

    /// A `Loop` over time; where `until`, data may end it.
    fn repeat(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &Attributes<'m>,
        until: bool,
    ) -> Result<Option<Vec<Slot<'m>>>, Fault> {
        let graph = body_of(attrs)?;
        let inputs: Vec<&'m str> = node.input.iter().map(String::as_str).collect();
        let states = inputs.len().saturating_sub(2);
        if graph.input.len() != states + 2 || graph.output.len() < states + 1 {
            return Err(Fault::invalid(format!(
                "{} inputs given, the body has {} inputs and {} outputs",
                inputs.len(),
                graph.input.len(),
                graph.output.len()
            )));
        }
        let Some(mut trips) = self.trips(scope, &inputs)? else {
            return Ok(None);
        };
        if !until && (trips.most.is_none() || trips.open) {
            return Err(endless());
        }
        let length = trips.most.clone().unwrap_or(Dim::from(MAX_TURNS));
        let origin = Origin::new(&site.origin);
        let mut carried = vec![];
        let mut outputs: Vec<&'m str> = graph.output.iter().map(|o| o.name.as_str()).collect();
        for (i, name) in inputs[2..].iter().enumerate() {
            carried.push(match self.slot(scope, name)? {
                Slot::Failed => return Ok(None),
                Slot::Value(v) if let Some((new, axis)) = appended(graph, i) => {
                    outputs[i + 1] = new;
                    State::Appended(v, cameo_ir::op::normalize_axis(axis, self.graph.fact(v).rank())?)
                }
                Slot::Value(v) => State::Tensor(v),
                Slot::List(list) => State::Sequence(match self.lists[list].clone() {
                    List::Items(items) if items.is_empty() => None,
                    List::Items(items) => Some(self.joined(items, 0, true, &origin)?),
                    List::Stacked(s) => Some(self.stacked_rows(&s, &origin)?),
                    List::Grown { .. } => return Err(of_sequences()),
                }),
                _ => {
                    return Err(Fault::unsupported(format!(
                        "`{name}` is an optional that a loop may change"
                    )));
                }
            });
        }
        let few = length.as_const().is_some_and(|n| n <= MAX_COPIES as i64);
        let (mut growing, mut turns) = (Growing::new(carried.len()), 0);
        let body = loop {
            let state = |(i, state): (usize, &State)| match state {
                State::Tensor(v) => growing.formal(i, self.graph.fact(*v)),
                State::Sequence(_) => Formal::Grown(i),
                State::Appended(..) => Formal::Unread,
            };
            let mut formals = vec![Formal::Counter(length.clone()), Formal::Condition];
            formals.extend(carried.iter().enumerate().map(state));
            let Some(body) = self.body(scope, site, graph, &formals, &outputs)? else {
                return Ok(None);
            };
            // Where copies may do, extents that may be equal must be.
            if !until && few && !self.keeps_shapes(&body.graph, &carried, &body.held[1..]) {
                return Err(Fault::uncounted("a state changes its shape"));
            }
            if body.held[0] != Held::Tensor {
                return Err(of_sequences());
            }
            if !growing.learn(&self.graph, &body, &carried, trips.most.as_ref()) {
                break body;
            }
            turns += 1;
            if turns > MAX_LESSONS {
                return Err(Fault::unsupported(
                    "a loop with too many states that change their shapes in turn",
                ));
            }
        };
        let mut operands = growing.begin(self, &carried, &origin)?;
        let tensors = operands.len();
        let held = &body.held[1..];
        let sure = truth(&body.graph, body.graph.outputs()[0].1) == Some(true);
        let ends = !sure || trips.open || trips.most.is_none();
        if ends && !until {
            return Err(endless());
        }
        if sure && trips.most.is_none() && trips.number.is_none() {
            return Err(Fault::unsupported("a loop that nothing ends"));
        }
        // States are the graph's first outputs, then comes what is stacked: what grows, too.
        let (mut states, mut stacked, mut grown, mut at) = (vec![], vec![], vec![], 1);
        for (i, held) in held.iter().enumerate() {
            match (carried.get(i), *held) {
                (Some(State::Tensor(_)), Held::Tensor) => states.push((i, at)),
                (None, Held::Tensor) => stacked.push(at),
                (Some(State::Appended(before, axis)), Held::Tensor) => {
                    stacked.push(at);
                    grown.push((at, *before, *axis));
                }
                (Some(State::Sequence(_)), Held::Grown(state, 0..=1)) if state == i => {
                    stacked.extend(at..at + held.outputs());
                }
                _ => return Err(of_sequences()),
            }
            at += held.outputs();
        }
        if ends && trips.most.is_none() && !stacked.is_empty() {
            trips.number.into_iter().for_each(|v| self.want_number(v));
            if !self.elements.covers(&self.wanted) {
                return Err(endless());
            }
            trips.most = Some(Dim::from(LONGEST));
        }
        // Along other axes it is what there was before, whatever data says of it.
        let mut inside = body.graph;
        for (at, before, axis) in grown {
            let shape = self.graph.fact(before).shape.clone();
            inside = self.shaped_as(inside, at, &shape, axis, &origin)?;
        }
        // What an iteration gives may have extents of its own.
        let mut open = vec![vec![]; inside.outputs().len()];
        for at in &stacked {
            let fact = inside.fact(inside.outputs()[*at].1);
            let axes = open_axes(&[(&inside, &fact.shape)]);
            open[*at] =
                axes.ok_or_else(|| Fault::unsupported(format!("an iteration gives {fact}, of no largest size")))?;
        }
        for (i, at) in &states {
            open[*at] = growing.open(*i);
        }
        // Behind the outputs come the extents of all open axes.
        let outputs = inside.outputs().len();
        let extents = |at: usize| {
            let first = outputs + open[..at].iter().map(Vec::len).sum::<usize>();
            first..first + open[at].len()
        };
        let mut last = vec![];
        for (i, at) in states {
            last.push(at);
            last.extend(growing.own(i).into_iter().map(|(k, _)| extents(at).start + k));
        }
        last.extend(&stacked);
        last.extend(stacked.iter().flat_map(|at| extents(*at)));
        let graph = self.with_extents(inside, &open, &origin)?;
        let open: Vec<Vec<Open>> = stacked.iter().map(|at| open[*at].clone()).collect();
        let made = if ends {
            operands.extend(&body.captured);
            self.until(&graph, tensors, &last, &trips, operands, &origin)?
        } else {
            operands.push(self.numbers(&trips, &length, &origin)?);
            operands.extend(&body.captured);
            let graph = ordered(&graph, tensors, &last);
            self.time(graph, tensors, 1, &length, operands, &origin)?
        };
        let (last, stacked) = made.split_at(tensors);
        let (stacked, mut extents) = stacked.split_at(open.len());
        let mut rows = vec![];
        for (v, axes) in stacked.iter().zip(open) {
            let (own, rest) = extents.split_at(axes.len());
            rows.push(Rows {
                of: *v,
                axes,
                extents: own.to_vec(),
            });
            extents = rest;
        }
        let last = growing.end(self, &carried, last, &origin)?;
        let (mut last, mut stacked) = (last.into_iter(), rows.into_iter());
        let mut slots = vec![];
        for (i, held) in held.iter().enumerate() {
            let slot = match (carried.get(i), *held) {
                (Some(State::Tensor(_)), _) => last.next().map(Slot::Value),
                (Some(State::Sequence(_)), Held::Grown(_, 0)) => Some(self.slot(scope, inputs[2 + i])?),
                (Some(State::Sequence(before)), _) => match (before, stacked.next()) {
                    (Some(before), Some(rows)) if rows.axes.is_empty() => {
                        let all = self.stacked_both(*before, rows.of, &origin)?;
                        Some(self.new_stacked(all))
                    }
                    (None, Some(rows)) => {
                        let all = self.sequence_of(&rows, &origin)?;
                        Some(self.new_stacked(all))
                    }
                    (Some(_), Some(_)) => return Err(of_sequences()),
                    _ => None,
                },
                (Some(State::Appended(before, axis)), _) => match stacked.next() {
                    Some(rows) => Some(Slot::Value(self.appended_to(*before, *axis, &rows, &origin)?)),
                    None => None,
                },
                (None, _) => match stacked.next() {
                    Some(rows) => Some(Slot::Value(self.alike(&rows, &origin)?)),
                    None => None,
                },
            };
            slots.extend(slot);
        }
        Ok(Some(slots))
    }

    /// Whether the states of a loop are as they were behind an iteration, as far as can be told.
    fn keeps_shapes(&self, body: &Graph, carried: &[State], held: &[Held]) -> bool {
        let mut at = 1;
        carried.iter().zip(held).all(|(state, held)| {
            let output = at;
            at += held.outputs();
            match state {
                State::Tensor(v) => {
                    let after = body.outputs().get(output).map(|(_, o)| &body.fact(*o).shape);
                    *held != Held::Tensor || after == Some(&self.graph.fact(*v).shape)
                }
                State::Sequence(_) | State::Appended(..) => true,
            }
        })
    }

    /// The numbers of all iterations: that of one is a slice.
    fn numbers(&mut self, trips: &Trips, length: &Dim, origin: &Origin) -> Result<ValueId, Fault> {
        let [zero, one] = [0, 1].map(|n| self.graph.add_weight("", Tensor::i64(&[], [n])));
        let limit = match (length.as_const(), trips.number) {
            (Some(n), _) => self.graph.add_weight("", Tensor::i64(&[], [n])),
            (None, Some(number)) if !trips.formula => self.scalar(number, origin)?,
            _ => {
                let dims = |d: &Dim| Attr::Dims(vec![d.clone()]);
                let attrs = vec![("delta", dims(&Dim::ONE)), ("limit", dims(length))];
                return self.apply("Range", attrs, &[zero], origin);
            }
        };
        self.apply("Range", vec![], &[zero, limit, one], origin)
    }

    /// One element as a scalar.
    pub(crate) fn scalar(&mut self, v: ValueId, origin: &Origin) -> Result<ValueId, Fault> {
        match self.graph.fact(v).rank() {
            0 => Ok(v),
            _ => self.apply("Reshape", vec![("shape", Attr::Dims(vec![]))], &[v], origin),
        }
    }

    /// The loop itself: final states, then what is stacked.
    pub(crate) fn time(
        &mut self,
        body: Graph,
        states: usize,
        slices: usize,
        length: &Dim,
        operands: Vec<ValueId>,
        origin: &Origin,
    ) -> Result<Vec<ValueId>, Fault> {
        let outputs = body.outputs().len();
        let parts = Parts {
            body: &Arc::new(body),
            states,
            slices,
            length,
        };
        let Some(op) = Op::find("cameo::Scan") else {
            return Err(Fault::unsupported("loops"));
        };
        self.typed(
            op,
            &parts.attrs(),
            operands.into_iter().map(Some).collect(),
            outputs,
            origin,
        )
    }

    /// `v` with its axes in this order.
    pub(crate) fn turned(&mut self, v: ValueId, perm: &[usize], origin: &Origin) -> Result<ValueId, Fault> {
        if perm.iter().enumerate().all(|(i, a)| i == *a) {
            return Ok(v);
        }
        let perm = Attr::Ints(perm.iter().map(|a| *a as i64).collect());
        self.apply("Transpose", vec![("perm", perm)], &[v], origin)
    }

    /// `v` backwards along axis 0.
    pub(crate) fn reversed(&mut self, v: ValueId, back: bool, origin: &Origin) -> Result<ValueId, Fault> {
        if !back {
            return Ok(v);
        }
        let one = |d: i64| Attr::Dims(vec![Dim::from(d)]);
        let attrs = vec![
            ("axes", one(0)),
            ("ends", one(i64::MIN + 1)),
            ("starts", one(-1)),
            ("steps", one(-1)),
        ];
        self.apply("Slice", attrs, &[v], origin)
    }
}

pub(crate) fn of_values<'m>(made: Option<Vec<ValueId>>) -> Option<Vec<Slot<'m>>> {
    made.map(|values| values.into_iter().map(Slot::Value).collect())
}

fn push(mut list: Vec<usize>, axis: usize) -> Vec<usize> {
    list.push(axis);
    list
}

/// Whether a value is known to be true, or false.
fn truth(g: &Graph, v: ValueId) -> Option<bool> {
    computed(g, v)?.scalar_f64().map(|x| x != 0.0)
}

/// The body of a `Loop` in the order of a scan: states, the number of the iteration, captured values; these outputs of it.
fn ordered(g: &Graph, states: usize, outputs: &[usize]) -> Graph {
    let mut order: Vec<usize> = (1..=states).collect();
    order.push(0);
    order.extend(states + 1..g.inputs().len());
    g.with_ends(&order, outputs)
}
