//! Sequences whose length only a run knows: one tensor has all of their tensors.
//!
//! `SplitToSequence` of a dynamic axis gives one, and so does a `Loop` that appends a tensor in each of its iterations, as
//! `torch.jit.script` writes `ys.append(y)`. Their length, a tensor at a position, all of them as one tensor, one more at the
//! end, and a body for each need nothing else of them.
//!
//! Law: what would need the tensors one by one is refused.

use cameo_ir::op::normalize_axis;
use cameo_ir::{Attr, DType, Dim, Fact, Origin, Tensor, ValueId};

use crate::bodies::Formal;
use crate::error::{Fault, Site};
use crate::import::Importer;
use crate::proto::GraphProto;
use crate::scope::{Scope, Slot};

/// A sequence.
#[derive(Clone, Debug)]
pub(crate) enum List {
    /// Its tensors.
    Items(Vec<ValueId>),
    Stacked(Stacked),
    /// In the body of a loop: the sequence that is this state of it, and what the iteration has appended.
    Grown {
        state: usize,
        new: Vec<ValueId>,
    },
}

/// Tensors that are parts of one along an axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stacked {
    pub of: ValueId,
    pub axis: usize,
    pub part: Part,
}

/// What each of them is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// One index of the axis, which the tensor does not have.
    Index,
    /// So many indices; the last may have fewer.
    Slice(i64),
    /// As many indices as this list says.
    Listed(ValueId),
}

impl Stacked {
    /// Tensors of the shape that is left without the first axis.
    pub fn rows(of: ValueId) -> Self {
        Self {
            of,
            axis: 0,
            part: Part::Index,
        }
    }
}

/// What an operation cannot do without the tensors themselves.
pub(crate) fn open() -> Fault {
    Fault::unsupported("it needs each tensor of a sequence whose length only a run knows")
        .hint("fix the dimension that says how many there are: `--dim NAME=VALUE`")
}

impl<'m> Importer<'m> {
    pub fn new_stacked(&mut self, stacked: Stacked) -> Slot<'m> {
        self.add_list(List::Stacked(stacked))
    }

    /// How many tensors there are, an i64 scalar.
    pub fn stacked_length(&mut self, s: Stacked, origin: &Origin) -> Result<ValueId, Fault> {
        let (of, axis, size) = match s.part {
            Part::Index => (s.of, s.axis, 1),
            Part::Slice(n) => (s.of, s.axis, n),
            Part::Listed(sizes) => (sizes, 0, 1),
        };
        let ends = |end: usize| Attr::Int(end as i64);
        let extent = self.apply(
            "Shape",
            vec![("start", ends(axis)), ("end", ends(axis + 1))],
            &[of],
            origin,
        )?;
        let mut n = self.apply("Reshape", vec![("shape", Attr::Dims(vec![]))], &[extent], origin)?;
        if size > 1 {
            let [size, more] = [size, size - 1].map(|n| self.graph.add_weight("", Tensor::i64(&[], [n])));
            n = self.apply("Add", vec![], &[n, more], origin)?;
            n = self.apply("Div", vec![], &[n, size], origin)?;
        }
        Ok(n)
    }

    /// The tensor at a position, which a run checks.
    pub fn stacked_at(&mut self, s: Stacked, position: ValueId, origin: &Origin) -> Result<ValueId, Fault> {
        let shape = match s.part {
            Part::Index => vec![],
            Part::Slice(1) => vec![Dim::ONE],
            Part::Slice(_) | Part::Listed(_) => return self.part_at(s, position, origin),
        };
        let at = self.apply("Reshape", vec![("shape", Attr::Dims(shape))], &[position], origin)?;
        self.apply("Gather", vec![("axis", Attr::Int(s.axis as i64))], &[s.of, at], origin)
    }

    /// [`Importer::stacked_at`] where the tensors are of different lengths: `lengths` of a list, or so many indices but for the
    /// last.
    fn part_at(&mut self, s: Stacked, position: ValueId, origin: &Origin) -> Result<ValueId, Fault> {
        let list = |n: i64| vec![("shape", Attr::Dims(vec![Dim::from(n)]))];
        let at = self.apply("Reshape", list(1), &[position], origin)?;
        // A position is checked, and counted from the end where it is negative, where something is gathered by it.
        let own = |this: &mut Self, of: ValueId| this.apply("Gather", vec![("axis", Attr::Int(0))], &[of, at], origin);
        let (start, end) = match s.part {
            Part::Listed(lengths) => {
                let lengths = self.cast(lengths, DType::I64, origin)?;
                let first = self.graph.add_weight("", Tensor::i64(&[], [0]));
                let ends = self.apply("CumSum", vec![], &[lengths, first], origin)?;
                let (end, length) = (own(self, ends)?, own(self, lengths)?);
                (self.apply("Sub", vec![], &[end, length], origin)?, end)
            }
            Part::Index | Part::Slice(_) => {
                let size = if let Part::Slice(n) = s.part { n } else { 1 };
                let [zero, one] = [0, 1].map(|n| self.graph.add_weight("", Tensor::i64(&[], [n])));
                let size = self.graph.add_weight("", Tensor::i64(&[1], [size]));
                let count = self.stacked_length(s, origin)?;
                let all = self.apply("Range", vec![], &[zero, count, one], origin)?;
                let at = own(self, all)?;
                let start = self.apply("Mul", vec![], &[at, size], origin)?;
                (start, self.apply("Add", vec![], &[start, size], origin)?)
            }
        };
        let axis = self.graph.add_weight("", Tensor::i64(&[1], [s.axis as i64]));
        self.apply("Slice", vec![], &[s.of, start, end, axis], origin)
    }

    /// All tensors along a first axis that they do not have.
    pub fn stacked_rows(&mut self, s: Stacked, origin: &Origin) -> Result<ValueId, Fault> {
        let (mut of, axis) = (s.of, s.axis);
        match s.part {
            Part::Index => {}
            Part::Slice(size) => {
                let mut shape = self.graph.fact(of).shape.clone();
                let Some(count) = shape[axis].div_exact(&Dim::from(size)) else {
                    return Err(open());
                };
                shape.splice(axis..=axis, [count, Dim::from(size)]);
                let attrs = vec![("allowzero", Attr::Int(1)), ("shape", Attr::Dims(shape))];
                of = self.apply("Reshape", attrs, &[of], origin)?;
            }
            Part::Listed(_) => return Err(open()),
        }
        let rank = self.graph.fact(of).rank();
        let perm: Vec<usize> = [axis].into_iter().chain((0..rank).filter(|a| *a != axis)).collect();
        self.turned(of, &perm, origin)
    }

    /// All tensors one after the other along an axis, or along a new one.
    pub fn stacked_joined(&mut self, s: Stacked, axis: i64, new: bool, origin: &Origin) -> Result<ValueId, Fault> {
        let rank = self.graph.fact(s.of).rank();
        if !new && !matches!(s.part, Part::Index) && normalize_axis(axis, rank)? == s.axis {
            return Ok(s.of);
        }
        let rows = self.stacked_rows(s, origin)?;
        let rank = self.graph.fact(rows).rank();
        let axis = normalize_axis(axis, rank - usize::from(!new))?;
        let mut perm: Vec<usize> = (1..rank).collect();
        perm.insert(axis, 0);
        let turned = self.turned(rows, &perm, origin)?;
        if new {
            return Ok(turned);
        }
        let mut shape = self.graph.fact(turned).shape.clone();
        let both = shape[axis].clone() * shape[axis + 1].clone();
        shape.splice(axis..=axis + 1, [both]);
        let attrs = vec![("allowzero", Attr::Int(1)), ("shape", Attr::Dims(shape))];
        self.apply("Reshape", attrs, &[turned], origin)
    }

    /// The tensors of `before`, then those of `after`, which are stacked along a first axis.
    pub fn stacked_both(&mut self, before: ValueId, after: ValueId, origin: &Origin) -> Result<Stacked, Fault> {
        let [a, b] = [before, after].map(|v| self.graph.fact(v));
        if a.dtype != b.dtype || a.shape.get(1..) != b.shape.get(1..) {
            let [a, b] = [a, b].map(|f| Fact::new(f.dtype, f.shape.get(1..).unwrap_or_default().to_vec()));
            let both = format!("a sequence whose length only a run knows would have a tensor {a} and one {b}");
            return Err(Fault::unsupported(both).hint("they must have the same type and shape"));
        }
        let all = self.variadic("Concat", vec![("axis", Attr::Int(0))], vec![before, after], origin)?;
        Ok(Stacked::rows(all))
    }

    /// One more tensor at the end.
    pub fn stacked_append(&mut self, s: Stacked, new: ValueId, origin: &Origin) -> Result<Stacked, Fault> {
        let before = self.stacked_rows(s, origin)?;
        let axes = Attr::Dims(vec![Dim::ZERO]);
        let new = self.apply("Unsqueeze", vec![("axes", axes)], &[new], origin)?;
        self.stacked_both(before, new, origin)
    }

    /// A body for each tensor of sequences, and of tensors that are the same for all.
    pub fn stacked_map(
        &mut self,
        scope: &mut Scope<'m>,
        site: &Site,
        graph: &'m GraphProto,
        slots: &[Slot<'m>],
        results: usize,
    ) -> Result<Option<Vec<Slot<'m>>>, Fault> {
        let origin = Origin::new(&site.origin);
        let (mut operands, mut formals, mut order, mut rest) = (vec![], vec![], vec![], vec![]);
        for (i, slot) in slots.iter().enumerate() {
            let v = match slot {
                Slot::Value(v) => *v,
                Slot::List(list) => match self.lists[*list] {
                    List::Stacked(s) => self.stacked_rows(s, &origin)?,
                    _ => return Err(open()),
                },
                _ => return Err(Fault::invalid("a tensor is missing")),
            };
            let (fact, each) = (self.graph.fact(v), matches!(slot, Slot::List(_)));
            let shape = fact.shape[usize::from(each)..].to_vec();
            formals.push(Formal::Input(Fact::new(fact.dtype, shape)));
            if each { &mut order } else { &mut rest }.push(i);
            operands.push(v);
        }
        let Some(first) = order.first() else { return Err(open()) };
        let length = self.graph.fact(operands[*first]).shape[0].clone();
        let outputs: Vec<&'m str> = graph.output[..results].iter().map(|o| o.name.as_str()).collect();
        let Some(body) = self.body(scope, site, graph, &formals, &outputs)? else {
            return Ok(None);
        };
        let body = body.of_tensors()?;
        let slices = order.len();
        order.extend(rest);
        order.extend(operands.len()..operands.len() + body.captured.len());
        operands.extend(&body.captured);
        let operands = order.iter().map(|i| operands[*i]).collect();
        let all: Vec<usize> = (0..results).collect();
        let made = self.time(
            body.graph.with_ends(&order, &all),
            0,
            slices,
            &length,
            operands,
            &origin,
        )?;
        Ok(Some(
            made.into_iter().map(|v| self.new_stacked(Stacked::rows(v))).collect(),
        ))
    }
}
