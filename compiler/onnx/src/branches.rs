//! `If` whose condition only a run knows: two loops that run once or not at all.

use std::collections::BTreeSet;

use cameo_ir::dim::COUNTED;
use cameo_ir::{Attr, DType, Dim, Fact, Graph, Origin, Sym, ValueId};

use crate::bodies::{Body, Held, of_sequences};
use crate::error::{Fault, Site};
use crate::functions::MAX_DEPTH;
use crate::import::Importer;
use crate::lists::item;
use crate::loops::Attributes;
use crate::open::open_axes;
use crate::proto::{GraphProto, NodeProto};
use crate::scope::{Scope, Slot};

impl<'m> Importer<'m> {
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
            match self.body(scope, site, branch, &[], &outputs)? {
                Some(body) => taken.push(body),
                None => return Ok(None),
            }
        }
        let known = match self.graph.fact(condition).known.as_deref() {
            Some([d]) => Some(d.maximum(&Dim::ZERO).minimum(&Dim::ONE)),
            _ => None,
        };
        let times = match &known {
            Some(d) => [(d.clone(), vec![]), (Dim::ONE - d.clone(), vec![])],
            None => self.counted_branches(condition, &origin)?,
        };
        let (mut held, mut only) = (vec![], vec![]);
        for (a, b) in taken[0].held.iter().zip(&taken[1].held) {
            let (of, by) = match (a, b) {
                (Held::Grown(..), _) | (_, Held::Grown(..)) => return Err(of_sequences()),
                (Held::Absent, b) if *b != Held::Absent => (*b, Some(1)),
                (a, Held::Absent) if *a != Held::Absent => (*a, Some(0)),
                (a, b) if a == b => (*a, None),
                _ => {
                    return Err(Fault::unsupported("the branches give sequences of different lengths")
                        .hint("where the condition is data, both must give as many tensors"));
                }
            };
            held.push(of);
            only.push(by);
        }
        if only.iter().any(Option::is_some) {
            let whole = [0, 1].map(|side| self.with_absent(&taken[side], &taken[1 - side], &origin));
            for (body, whole) in taken.iter_mut().zip(whole) {
                body.graph = whole?;
            }
        }
        let plain: Vec<bool> = held
            .iter()
            .zip(&only)
            .flat_map(|(held, only)| vec![*held == Held::Tensor && only.is_none(); held.outputs()])
            .collect();
        let presumed = known.as_ref().is_some_and(|d| self.presumed(d).is_some());
        // Of branches of which one is presumed, all may read what it gives.
        let presumable = known.as_ref().is_some_and(|d| self.presumable(d).is_some());
        let loose = match presumable {
            true => BTreeSet::new(),
            false => self.with_ranks(&mut taken, &plain, &origin)?,
        };
        let names = node.output.iter().zip(&held).flat_map(|(name, held)| match held {
            Held::Tensor => vec![name.clone()],
            held => (0..held.outputs()).map(|i| item(name, i)).collect(),
        });
        let (mut states, mut open) = (vec![], vec![]);
        for (i, name) in names.enumerate() {
            let [a, b] = [0, 1].map(|k| taken[k].graph.fact(taken[k].graph.outputs()[i].1));
            let counts = [a, b]
                .iter()
                .zip(&taken)
                .any(|(f, body)| counts_of(&body.graph, &f.shape));
            let chosen = |d: &Dim| {
                let pairs = a.shape.iter().zip(&b.shape);
                pairs
                    .map(|(a, b)| b.clone() + d.clone() * (a.clone() - b.clone()))
                    .collect()
            };
            // Known before the run begins, the condition decides about extents as well, unless one branch may be presumed.
            let shape = match &known {
                _ if a.shape == b.shape && !counts => Some(a.shape.clone()),
                Some(d) if a.rank() == b.rank() && !counts && !is_counted(d, a, b) && !presumed => Some(chosen(d)),
                _ => None,
            };
            let mut axes = vec![];
            // What the run of another import may know is not decided by data.
            let mut shape = shape.filter(|_| a.dtype == b.dtype);
            if shape.is_none() {
                self.want_number(condition);
            }
            if shape.is_none() && a.dtype == b.dtype && a.rank() == b.rank() {
                let told = !self.elements.covers(&self.wanted);
                let both = [
                    (&taken[0].graph, a.shape.as_slice()),
                    (&taken[1].graph, b.shape.as_slice()),
                ];
                if let Some(found) = open_axes(&both).filter(|_| !told && !presumed) {
                    let mut largest = a.shape.clone();
                    found.iter().for_each(|(axis, most)| largest[*axis] = most.clone());
                    (shape, axes) = (Some(largest), found);
                }
            }
            open.push(axes);
            let Some(shape) = shape else {
                return Err(
                    Fault::unsupported(format!("`{name}` is {a} of one branch and {b} of the other")).hint(
                        "where only a run knows the condition, both must give the same type and shape; if it asks for dimensions, \
                         bounding them may decide it: `--dim NAME=1..512`",
                    ),
                );
            };
            let like = Fact::new(a.dtype, shape);
            states.push(self.zeros(&like, &origin)?);
        }
        let results = states.len();
        for _ in open.iter().flatten() {
            states.push(self.zeros(&Fact::new(DType::I64, vec![]), &origin)?);
        }
        for (body, (length, flags)) in taken.into_iter().zip(times) {
            let facts: Vec<Fact> = states.iter().map(|v| self.graph.fact(*v).clone()).collect();
            let whole = self.with_extents(body.graph, &open, &origin)?;
            let graph = with_states(whole, &facts, flags.len());
            let (count, slices) = (states.len(), flags.len());
            let operands = states.iter().copied().chain(flags).chain(body.captured).collect();
            states = self.time(graph, count, slices, &length, operands, &origin)?;
        }
        let mut extents = &states[results..];
        let mut cut = vec![];
        for (v, axes) in states.iter().zip(&open) {
            let (own, rest) = extents.split_at(axes.len());
            cut.push(self.cut(*v, axes, own, &origin)?);
            extents = rest;
        }
        let mut left = cut.into_iter().enumerate();
        let mut slots = vec![];
        for (held, only) in held.into_iter().zip(only) {
            let slot = match held {
                Held::Absent => Some(Slot::Absent),
                Held::Tensor => left.next().map(|(i, v)| match loose.contains(&i) {
                    true => Slot::Loose(v),
                    false => Slot::Value(v),
                }),
                held => {
                    let items = left.by_ref().take(held.outputs()).map(|(_, v)| v).collect();
                    Some(self.new_list(items))
                }
            };
            let (Some(slot), Some(side)) = (slot, only) else {
                slots.extend(slot);
                continue;
            };
            let mut present = self.apply("Reshape", vec![("shape", Attr::Dims(vec![]))], &[condition], &origin)?;
            if side == 1 {
                present = self.apply("Not", vec![], &[present], &origin)?;
            }
            self.optionals.push((present, slot));
            slots.push(Slot::Optional(self.optionals.len() - 1));
        }
        Ok(Some(slots))
    }

    /// Gives the outputs of two branches the same rank where they have the same element type and all that one has more are
    /// leading axes of extent 1. Returns the outputs that have it so.
    fn with_ranks(&mut self, taken: &mut [Body], plain: &[bool], origin: &Origin) -> Result<BTreeSet<usize>, Fault> {
        let mut loose = BTreeSet::new();
        let [yes, no] = taken else { return Ok(loose) };
        for (i, _) in plain.iter().enumerate().filter(|(_, plain)| **plain) {
            let fact = |body: &Body| body.graph.fact(body.graph.outputs()[i].1).clone();
            let (a, b) = (fact(yes), fact(no));
            let (body, narrow, wide) = match a.rank() < b.rank() {
                true => (&mut *yes, a, b),
                false => (&mut *no, b, a),
            };
            let more = wide.rank() - narrow.rank();
            if more == 0 || narrow.dtype != wide.dtype || !wide.shape[..more].iter().all(Dim::is_one) {
                continue;
            }
            let shape = [&wide.shape[..more], &narrow.shape].concat();
            let around = std::mem::replace(&mut self.graph, body.graph.clone());
            let (name, v) = self.graph.outputs()[i].clone();
            let attrs = vec![("allowzero", Attr::Int(1)), ("shape", Attr::Dims(shape))];
            let made = self.apply("Reshape", attrs, &[v], origin);
            if let Ok(v) = &made {
                self.graph.add_output(&format!("{name}#rank"), *v);
            }
            let graph = std::mem::replace(&mut self.graph, around);
            made?;
            let mut order: Vec<usize> = (0..graph.outputs().len() - 1).collect();
            order[i] = graph.outputs().len() - 1;
            body.graph = graph.with_ends(&(0..graph.inputs().len()).collect::<Vec<_>>(), &order);
            loose.insert(i);
        }
        Ok(loose)
    }

    /// The graph of a branch that gives zeros for what only the other one has.
    fn with_absent(&mut self, own: &Body, other: &Body, origin: &Origin) -> Result<Graph, Fault> {
        let around = std::mem::replace(&mut self.graph, own.graph.clone());
        let mut order = vec![];
        let mut made = Ok(());
        let (mut at, mut there) = (0, 0);
        for (mine, theirs) in own.held.iter().zip(&other.held) {
            if *mine == Held::Absent {
                for (name, v) in &other.graph.outputs()[there..there + theirs.outputs()] {
                    let fact = other.graph.fact(*v).clone();
                    if counts_of(&other.graph, &fact.shape) {
                        made = Err(Fault::unsupported("an optional whose extents data decides"));
                        break;
                    }
                    match self.zeros(&fact, origin) {
                        Ok(zeros) => {
                            order.push(self.graph.outputs().len());
                            self.graph.add_output(&format!("{name}#absent"), zeros);
                        }
                        Err(f) => made = Err(f),
                    }
                }
            }
            order.extend(at..at + mine.outputs());
            at += mine.outputs();
            there += theirs.outputs();
        }
        let graph = std::mem::replace(&mut self.graph, around);
        made?;
        Ok(graph.with_ends(&(0..graph.inputs().len()).collect::<Vec<_>>(), &order))
    }

    /// How often each of two branches runs, and a list as long as that: how many bools of a list of one are true.
    fn counted_branches(&mut self, condition: ValueId, origin: &Origin) -> Result<[(Dim, Vec<ValueId>); 2], Fault> {
        let one = Attr::Dims(vec![Dim::ONE]);
        let yes = self.apply("Reshape", vec![("shape", one)], &[condition], origin)?;
        let no = self.apply("Not", vec![], &[yes], origin)?;
        let mut count = |flags| {
            let symbol = Attr::Str(self.new_symbol(COUNTED, "if"));
            let found = self.apply("NonZero", vec![("count", symbol)], &[flags], origin)?;
            let axes = Attr::Dims(vec![Dim::ZERO]);
            let list = self.apply("Squeeze", vec![("axes", axes)], &[found], origin)?;
            Ok::<_, Fault>((self.graph.fact(list).shape[0].clone(), vec![list]))
        };
        Ok([count(yes)?, count(no)?])
    }
}

/// A name whose value has a rank that data decides is read by what gives other results for each.
pub(crate) fn of_loose(name: &str) -> Fault {
    let what = format!("`{name}` is of one rank from one branch of an `If` and of another from the other");
    Fault::unsupported(what).hint(
        "where only a run knows the condition, both must give the same type and shape, unless it is read by operators of the \
         same graph that broadcast to the larger rank; if it asks for dimensions, bounding them may decide it: `--dim NAME=1..512`",
    )
}

/// Whether a run counts what decides extents: then nobody knows which of two is larger before.
fn is_counted(d: &Dim, a: &Fact, b: &Fact) -> bool {
    let mut found = false;
    for d in std::iter::once(d).chain(&a.shape).chain(&b.shape) {
        d.visit(&mut |s| found |= matches!(s, Sym::Named(name) if name.starts_with(COUNTED)));
    }
    found
}

/// Whether a graph counts what is in a shape of its own.
fn counts_of(g: &Graph, shape: &[Dim]) -> bool {
    g.counted()
        .any(|name| shape.iter().any(|d| d.uses(&Sym::Named(name.clone()))))
}

/// A body with inputs before its own, which it does not read: the states that it replaces, and numbers for each step.
fn with_states(mut g: Graph, states: &[Fact], numbers: usize) -> Graph {
    let own = g.inputs().len();
    for (i, fact) in states.iter().enumerate() {
        g.add_input(&format!("state{i}"), fact.clone());
    }
    for i in 0..numbers {
        g.add_input(&format!("step{i}"), Fact::new(DType::I64, vec![]));
    }
    let order: Vec<usize> = (own..own + states.len() + numbers).chain(0..own).collect();
    let outputs: Vec<usize> = (0..g.outputs().len()).collect();
    g.with_ends(&order, &outputs)
}
