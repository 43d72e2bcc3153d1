//! `Scan`, and `Loop` with a number of iterations that is known: loops over time with closed bodies; `If` as two loops that
//! run once or not at all.
//!
//! Slices are cut along axis 0: other axes and directions are turned before and after. A sequence
//! that each iteration appends to is what a loop stacks. Refused: a `Loop` that ends when data says so, states whose shape changes.

use std::sync::Arc;

use cameo_ir::dim::COUNTED;
use cameo_ir::ops::scan::Parts;
use cameo_ir::{Attr, Bounds, DType, Dim, Fact, Graph, Op, Origin, Tensor, ValueId};

use crate::bodies::{Formal, Held, of_sequences};
use crate::bounds::computed;
use crate::error::{Fault, Site};
use crate::functions::MAX_DEPTH;
use crate::import::Importer;
use crate::lists::item;
use crate::plan::captures;
use crate::proto::{AttributeProto, GraphProto, NodeProto};
use crate::scope::{Scope, Slot};
use crate::stacked::{List, Stacked};

/// What inputs of a loop are called.
const TRIPS: &str = "the number of iterations";
const CONDITION: &str = "the condition";

/// What is said where there cannot be copies.
const UNCOUNTED: &str = "a loop with sequences whose number of iterations depends on data";

/// More copies of a loop's body are no program that anybody wants.
const MAX_COPIES: usize = 1 << 10;

pub(crate) type Attributes<'m> = [(&'m str, &'m AttributeProto)];

/// A state of a loop over time.
enum State {
    Tensor(ValueId),
    /// A sequence that grows, with what it has before, stacked along a first axis.
    Sequence(Option<ValueId>),
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

    /// An `If` whose condition is data: the results start as zeros and each branch is a loop that replaces them, of one
    /// iteration where it is taken and of none where it is not.
    pub fn either(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &Attributes<'m>,
        condition: ValueId,
        branches: [&'m GraphProto; 2],
    ) -> bool {
        let depth = self.functions.enter();
        let made = match depth {
            false => Err(Fault::unsupported(format!(
                "branches are nested deeper than {MAX_DEPTH}"
            ))),
            true => self.choice(scope, node, site, condition, branches),
        };
        if depth {
            self.functions.leave();
        }
        self.finish(scope, node, site, attrs, made)
    }

    fn choice(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        condition: ValueId,
        branches: [&'m GraphProto; 2],
    ) -> Result<Option<Vec<Slot<'m>>>, Fault> {
        let origin = Origin::new(&site.origin);
        let results = node.output.len();
        let mut taken = vec![];
        for branch in branches {
            if branch.output.len() < results || !branch.input.is_empty() {
                return Err(Fault::invalid(format!(
                    "{results} outputs wanted, a branch has {} and {} inputs",
                    branch.output.len(),
                    branch.input.len()
                )));
            }
            let outputs: Vec<&'m str> = branch.output[..results].iter().map(|o| o.name.as_str()).collect();
            match self.body(scope, site, branch, vec![], &outputs)? {
                Some(body) => taken.push(body),
                None => return Ok(None),
            }
        }
        // How often each branch runs is how many bools of a list of one are true.
        let one = Attr::Dims(vec![Dim::ONE]);
        let yes = self.apply("Reshape", vec![("shape", one)], &[condition], &origin)?;
        let no = self.apply("Not", vec![], &[yes], &origin)?;
        let mut counts = vec![];
        for flags in [yes, no] {
            let symbol = Attr::Str(self.new_symbol(COUNTED, "if"));
            let found = self.apply("NonZero", vec![("count", symbol)], &[flags], &origin)?;
            let axes = Attr::Dims(vec![Dim::ZERO]);
            counts.push(self.apply("Squeeze", vec![("axes", axes)], &[found], &origin)?);
        }
        let times: Vec<Dim> = counts.iter().map(|v| self.graph.fact(*v).shape[0].clone()).collect();
        let held = taken[0].held.clone();
        if held != taken[1].held {
            return Err(Fault::unsupported("the branches give sequences of different lengths")
                .hint("where the condition is data, both must give as many tensors"));
        }
        let names = node.output.iter().zip(&held).flat_map(|(name, held)| match held {
            Held::Tensor => vec![name.clone()],
            held => (0..held.outputs()).map(|i| item(name, i)).collect(),
        });
        let mut states = vec![];
        for (i, name) in names.enumerate() {
            let [a, b] = [0, 1].map(|k| taken[k].graph.fact(taken[k].graph.outputs()[i].1));
            if a.dtype != b.dtype || a.shape != b.shape {
                return Err(
                    Fault::unsupported(format!("`{name}` is {a} of one branch and {b} of the other")).hint(
                        "where only a run knows the condition, both must give the same type and shape; if it asks for dimensions, \
                         bounding them may decide it: `--dim NAME=1..512`",
                    ),
                );
            }
            let (shape, zero) = (a.shape.clone(), Tensor::from_f64(a.dtype, &[], [0.0]));
            let zero = self.graph.add_weight("", zero);
            states.push(self.apply("Expand", vec![("shape", Attr::Dims(shape))], &[zero], &origin)?);
        }
        for ((body, flags), length) in taken.into_iter().zip(counts).zip(times) {
            let facts: Vec<Fact> = states.iter().map(|v| self.graph.fact(*v).clone()).collect();
            let graph = with_states(body.graph, &facts);
            let operands = states.iter().copied().chain([flags]).chain(body.captured).collect();
            let count = states.len();
            states = self.time(graph, count, 1, &length, operands, &origin)?;
        }
        let mut left = states.into_iter();
        let mut slots = vec![];
        for held in held {
            match held {
                Held::Tensor => slots.extend(left.next().map(Slot::Value)),
                held => {
                    let items = left.by_ref().take(held.outputs()).collect();
                    slots.push(self.new_list(items));
                }
            }
        }
        Ok(Some(slots))
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
        let Some(body) = self.body(scope, site, graph, formals, &outputs)? else {
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

    /// A `Loop`: over time, or as copies of its body, which come first where sequences are in it.
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
        let problems = self.problems.clone();
        let mut made = |this: &mut Self, copies: bool| match copies {
            true => this.copies(scope, node, site, graph),
            false => this.repeat(scope, node, site, attrs),
        };
        let first = made(self, lists);
        if matches!(first, Ok(Some(_))) || self.stopped || self.loop_depth > 0 && !lists {
            return first;
        }
        // What cannot be over time, as states whose shapes change and extents that depend on the iteration, can be copies;
        // without a known number of them a loop over time may do.
        let refused = std::mem::replace(&mut self.problems, problems);
        let second = made(self, !lists);
        let uncounted = matches!(&first, Err(f) if f.message == UNCOUNTED);
        if matches!(second, Ok(Some(_))) || uncounted {
            return second;
        }
        self.problems = refused;
        first
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
        let unknown =
            || Fault::unsupported(UNCOUNTED).hint("the number of iterations must be known when the model is compiled");
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

    fn repeat(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &Attributes<'m>,
    ) -> Result<Option<Vec<Slot<'m>>>, Fault> {
        let endless = || {
            Fault::unsupported("a loop whose number of iterations depends on data")
                .hint("export a loop with a fixed number of iterations")
        };
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
        let trips = match inputs.first() {
            None | Some(&"") => return Err(endless()),
            Some(name) => match self.read(scope, name)? {
                Some(v) => v,
                None => return Ok(None),
            },
        };
        self.is_one_of(trips, DType::I64, TRIPS)?;
        let fact = self.graph.fact(trips);
        let count = computed(&self.graph, trips)
            .and_then(|t| t.to_i64().first().copied())
            .map(Dim::from);
        let known = fact.known.as_deref().and_then(|k| k.first().cloned());
        let mut formula = false;
        let Some(length) = count.or(known) else {
            self.want_number(trips);
            return Err(endless());
        };
        // An extent stays what other shapes call it.
        let mut length = match Bounds::of(&[]).range(&length) {
            (0.., _) => length,
            _ => length.maximum(&Dim::ZERO),
        };
        if let Some(name) = inputs.get(1).filter(|n| !n.is_empty()) {
            let Some(v) = self.read(scope, name)? else {
                return Ok(None);
            };
            self.is_one_of(v, DType::Bool, CONDITION)?;
            let first = self.graph.fact(v).known.as_deref().and_then(|k| k.first());
            match (truth(&self.graph, v), first) {
                (Some(true), _) => {}
                (Some(false), _) => (length, formula) = (Dim::ZERO, true),
                (None, Some(first)) => (length, formula) = (length * first.clone(), true),
                (None, None) => {
                    self.want_number(v);
                    return Err(endless());
                }
            }
        }
        let origin = Origin::new(&site.origin);
        let (mut carried, mut operands) = (vec![], vec![]);
        for name in &inputs[2..] {
            carried.push(match self.slot(scope, name)? {
                Slot::Failed => return Ok(None),
                Slot::Value(v) => {
                    operands.push(v);
                    State::Tensor(v)
                }
                Slot::List(list) => State::Sequence(match self.lists[list].clone() {
                    List::Items(items) if items.is_empty() => None,
                    List::Items(items) => Some(self.joined(items, 0, true, &origin)?),
                    List::Stacked(s) => Some(self.stacked_rows(s, &origin)?),
                    List::Grown { .. } => return Err(of_sequences()),
                }),
                _ => {
                    return Err(Fault::unsupported(format!(
                        "`{name}` is an optional that a loop may change"
                    )));
                }
            });
        }
        let tensors = operands.len();
        // The number of the iteration is a slice of all of them.
        let [zero, one] = [0, 1].map(|n| self.graph.add_weight("", Tensor::i64(&[], [n])));
        let numbers = if formula {
            let dims = |d: &Dim| Attr::Dims(vec![d.clone()]);
            let attrs = vec![("delta", dims(&Dim::ONE)), ("limit", dims(&length))];
            self.apply("Range", attrs, &[zero], &origin)?
        } else {
            let limit = match length.as_const() {
                Some(n) => self.graph.add_weight("", Tensor::i64(&[], [n])),
                None => self.apply("Reshape", vec![("shape", Attr::Dims(vec![]))], &[trips], &origin)?,
            };
            self.apply("Range", vec![], &[zero, limit, one], &origin)?
        };
        operands.push(numbers);

        let state = |(i, state): (usize, &State)| match state {
            State::Tensor(v) => Formal::Input(Fact::new(self.graph.fact(*v).dtype, self.graph.fact(*v).shape.clone())),
            State::Sequence(_) => Formal::Grown(i),
        };
        let mut formals = vec![Formal::Counter(length.clone()), Formal::Condition];
        formals.extend(carried.iter().enumerate().map(state));
        let outputs: Vec<&'m str> = graph.output.iter().map(|o| o.name.as_str()).collect();
        let Some(body) = self.body(scope, site, graph, formals, &outputs)? else {
            return Ok(None);
        };
        let (condition, held) = body.held.split_at(1);
        if condition[0] != Held::Tensor || truth(&body.graph, body.graph.outputs()[0].1) != Some(true) {
            return Err(endless());
        }
        // States are the graph's first outputs, then comes what is stacked: what grows, too.
        let (mut last, mut stacked, mut at) = (vec![], vec![], 1);
        for (i, held) in held.iter().enumerate() {
            match (carried.get(i), *held) {
                (Some(State::Tensor(_)), Held::Tensor) => last.push(at),
                (None, Held::Tensor) => stacked.push(at),
                (Some(State::Sequence(_)), Held::Grown(state, 0..=1)) if state == i => {
                    stacked.extend(at..at + held.outputs());
                }
                _ => return Err(of_sequences()),
            }
            at += held.outputs();
        }
        last.extend(stacked);
        operands.extend(&body.captured);
        let graph = ordered(&body.graph, tensors, &last);
        let made = self.time(graph, tensors, 1, &length, operands, &origin)?;
        let (last, stacked) = made.split_at(tensors);
        let (mut last, mut stacked) = (last.iter().copied(), stacked.iter().copied());
        let mut slots = vec![];
        for (i, held) in held.iter().enumerate() {
            let slot = match (carried.get(i), *held) {
                (Some(State::Tensor(_)), _) => last.next().map(Slot::Value),
                (Some(State::Sequence(_)), Held::Grown(_, 0)) => Some(self.slot(scope, inputs[2 + i])?),
                (Some(State::Sequence(before)), _) => match (before, stacked.next()) {
                    (Some(before), Some(v)) => {
                        let all = self.stacked_both(*before, v, &origin)?;
                        Some(self.new_stacked(all))
                    }
                    (None, v) => v.map(|v| self.new_stacked(Stacked::rows(v))),
                    _ => None,
                },
                (None, _) => stacked.next().map(Slot::Value),
            };
            slots.extend(slot);
        }
        Ok(Some(slots))
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

/// A body with inputs before its own, which it does not read: the states that it replaces, and one number for each step.
fn with_states(mut g: Graph, states: &[Fact]) -> Graph {
    let own = g.inputs().len();
    for (i, fact) in states.iter().enumerate() {
        g.add_input(&format!("state{i}"), fact.clone());
    }
    g.add_input("step", Fact::new(DType::I64, vec![]));
    let order: Vec<usize> = (own..own + states.len() + 1).chain(0..own).collect();
    let outputs: Vec<usize> = (0..g.outputs().len()).collect();
    g.with_ends(&order, &outputs)
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
