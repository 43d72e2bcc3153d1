//! Sequences whose length only a run knows: one tensor has all of their tensors.
//!
//! `SplitToSequence` of a dynamic axis gives one, and so does a `Loop` that appends a tensor in each of its iterations, as
//! `torch.jit.script` writes `ys.append(y)`. Their length, a tensor at a position, all of them as one tensor, one more at the
//! end, and a body for each need nothing else of them. An output of the model is two: the elements of all tensors, one tensor
//! after the other, and their shapes.
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
#[derive(Clone, Debug)]
pub(crate) struct Stacked {
    pub of: ValueId,
    pub axis: usize,
    pub part: Part,
}

/// What each of them is.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// One index of the axis, which the tensor does not have.
    Index,
    /// So many indices; the last may have fewer.
    Slice(Dim),
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
    pub fn stacked_length(&mut self, s: &Stacked, origin: &Origin) -> Result<ValueId, Fault> {
        match &s.part {
            Part::Index => self.extent(s.of, s.axis, origin),
            Part::Slice(size) => {
                let count = self.slices(s, size);
                self.whole_number(&count, origin)
            }
            Part::Listed(sizes) => self.extent(*sizes, 0, origin),
        }
    }

    fn slices(&self, s: &Stacked, size: &Dim) -> Dim {
        (self.graph.fact(s.of).shape[s.axis].clone() + size.clone() - Dim::ONE).floor_div(size)
    }

    /// How much of the axis each tensor has, i64 of one axis; not of a sequence of indices.
    fn stacked_sizes(&mut self, s: &Stacked, origin: &Origin) -> Result<ValueId, Fault> {
        let size = match &s.part {
            Part::Index => return Err(Fault::unsupported("sizes of what has no axis")),
            Part::Listed(sizes) => return self.cast(*sizes, DType::I64, origin),
            Part::Slice(size) => size,
        };
        let starts = self.stacked_starts(s, size, origin)?;
        let all = self.extent(s.of, s.axis, origin)?;
        let left = self.apply("Sub", vec![], &[all, starts], origin)?;
        let size = self.whole_number(size, origin)?;
        self.apply("Min", vec![], &[left, size], origin)
    }

    /// Where each of the slices of a size begins, i64 of one axis.
    fn stacked_starts(&mut self, s: &Stacked, size: &Dim, origin: &Origin) -> Result<ValueId, Fault> {
        let count = self.slices(s, size);
        let all = self.numbers_to(&count, 0, origin)?;
        let size = self.whole_number(size, origin)?;
        self.apply("Mul", vec![], &[all, size], origin)
    }

    /// A sequence that is an output of the model, as two.
    pub fn stacked_output(&mut self, name: &str, s: &Stacked) -> Result<(), Fault> {
        let [elements, shapes] = self.stacked_flat(s, &Origin::new(name))?;
        self.graph.add_output(&format!("{name}[].elements"), elements);
        self.graph.add_output(&format!("{name}[].shapes"), shapes);
        Ok(())
    }

    /// The elements of all tensors, one tensor after the other, and the shapes of the tensors, `i64[tensors, rank]`.
    fn stacked_flat(&mut self, s: &Stacked, origin: &Origin) -> Result<[ValueId; 2], Fault> {
        let flat = |shape: &[Dim]| vec![Dim::product(shape)];
        let reshaped = |shape: Vec<Dim>| vec![("allowzero", Attr::Int(1)), ("shape", Attr::Dims(shape))];
        if let Part::Index = s.part {
            let rows = self.stacked_rows(s, origin)?;
            let shape = self.graph.fact(rows).shape.clone();
            let own = self.apply("Shape", vec![("start", Attr::Int(1))], &[rows], origin)?;
            let table = vec![shape[0].clone(), Dim::from(shape.len() - 1)];
            let table = self.apply("Expand", vec![("shape", Attr::Dims(table))], &[own], origin)?;
            return Ok([self.apply("Reshape", reshaped(flat(&shape)), &[rows], origin)?, table]);
        }
        let shape = self.graph.fact(s.of).shape.clone();
        let mut sizes = self.stacked_sizes(s, origin)?;
        if let Part::Listed(_) = s.part {
            // Who reads the shapes relies on them.
            let whole = self.extent(s.of, s.axis, origin)?;
            let sum = self.apply("ReduceSum", vec![("keepdims", Attr::Int(0))], &[sizes], origin)?;
            let size = self.apply("Abs", vec![], &[sizes], origin)?;
            let size = self.apply("ReduceSum", vec![("keepdims", Attr::Int(0))], &[size], origin)?;
            let [fits, none_below] = [sum, size].map(|v| self.apply("Equal", vec![], &[v, whole], origin));
            let fits = self.apply("And", vec![], &[fits?, none_below?], origin)?;
            let wrong = self.apply("Not", vec![], &[fits], origin)?;
            sizes = self.refused_where(sizes, wrong, origin)?;
        }
        let count = self.graph.fact(sizes).shape[0].clone();
        let mut columns = vec![];
        for axis in 0..shape.len() {
            let column = vec![count.clone(), Dim::ONE];
            columns.push(if axis == s.axis {
                self.apply("Reshape", reshaped(column), &[sizes], origin)?
            } else {
                let extent = self.extent(s.of, axis, origin)?;
                self.apply("Expand", vec![("shape", Attr::Dims(column))], &[extent], origin)?
            });
        }
        let table = self.variadic("Concat", vec![("axis", Attr::Int(1))], columns, origin)?;
        let elements = self.apply("Reshape", reshaped(flat(&shape)), &[s.of], origin)?;
        if shape[..s.axis].iter().all(Dim::is_one) {
            return Ok([elements, table]);
        }
        // Where there are n before the axis and m behind it, element (a, l, b), of a part that begins at s and is k long, is
        // number ((n - 1) s + a k + l) m + b.
        let (before, behind) = (Dim::product(&shape[..s.axis]), Dim::product(&shape[s.axis + 1..]));
        let along = self.numbers_to(&shape[s.axis], 0, origin)?;
        let [part, start] = self.row_of(sizes, along, origin)?;
        let size = self.apply("Gather", vec![("axis", Attr::Int(0))], &[sizes, part], origin)?;
        let others = self.whole_number(&(before.clone() - Dim::ONE), origin)?;
        let first = self.apply("Mul", vec![], &[start, others], origin)?;
        let first = self.apply("Add", vec![], &[first, along], origin)?;
        let rows = self.numbers_to(&before, 1, origin)?;
        let at = self.apply("Mul", vec![], &[rows, size], origin)?;
        let at = self.apply("Add", vec![], &[at, first], origin)?;
        let pairs = vec![before, shape[s.axis].clone(), Dim::ONE];
        let at = self.apply("Reshape", reshaped(pairs), &[at], origin)?;
        let width = self.whole_number(&behind, origin)?;
        let at = self.apply("Mul", vec![], &[at, width], origin)?;
        let columns = self.numbers_to(&behind, 0, origin)?;
        let at = self.apply("Add", vec![], &[at, columns], origin)?;
        let at = self.apply("Reshape", reshaped(flat(&shape)), &[at], origin)?;
        let placed = self.apply(
            "ScatterElements",
            vec![("axis", Attr::Int(0))],
            &[elements, at, elements],
            origin,
        )?;
        Ok([placed, table])
    }

    /// The numbers below one, with so many axes of 1 behind them.
    fn numbers_to(&mut self, end: &Dim, axes: usize, origin: &Origin) -> Result<ValueId, Fault> {
        let [zero, end, one] = [Dim::ZERO, end.clone(), Dim::ONE].map(|d| self.whole_number(&d, origin));
        let all = self.apply("Range", vec![], &[zero?, end?, one?], origin)?;
        let axes = Attr::Dims((1..=axes).map(Dim::from).collect());
        self.apply("Unsqueeze", vec![("axes", axes)], &[all], origin)
    }

    /// The tensor at a position, which a run checks.
    pub fn stacked_at(&mut self, s: &Stacked, position: ValueId, origin: &Origin) -> Result<ValueId, Fault> {
        let shape = match &s.part {
            Part::Index => vec![],
            Part::Slice(size) if *size == Dim::ONE => vec![Dim::ONE],
            Part::Slice(_) | Part::Listed(_) => return self.part_at(s, position, origin),
        };
        let at = self.apply("Reshape", vec![("shape", Attr::Dims(shape))], &[position], origin)?;
        self.apply("Gather", vec![("axis", Attr::Int(s.axis as i64))], &[s.of, at], origin)
    }

    /// [`Importer::stacked_at`] where the tensors are of different lengths: `lengths` of a list, or so many indices but for the
    /// last.
    fn part_at(&mut self, s: &Stacked, position: ValueId, origin: &Origin) -> Result<ValueId, Fault> {
        let list = |n: i64| vec![("shape", Attr::Dims(vec![Dim::from(n)]))];
        let at = self.apply("Reshape", list(1), &[position], origin)?;
        // A position is checked, and counted from the end where it is negative, where something is gathered by it.
        let own = |this: &mut Self, of: ValueId| this.apply("Gather", vec![("axis", Attr::Int(0))], &[of, at], origin);
        let (start, end) = match &s.part {
            Part::Index => return Err(Fault::unsupported("a part of what has no axis")),
            Part::Listed(_) => {
                let lengths = self.stacked_sizes(s, origin)?;
                let first = self.graph.add_weight("", Tensor::i64(&[], [0]));
                let ends = self.apply("CumSum", vec![], &[lengths, first], origin)?;
                let (end, length) = (own(self, ends)?, own(self, lengths)?);
                (self.apply("Sub", vec![], &[end, length], origin)?, end)
            }
            Part::Slice(size) => {
                let starts = self.stacked_starts(s, size, origin)?;
                let start = own(self, starts)?;
                let size = self.whole_number(size, origin)?;
                (start, self.apply("Add", vec![], &[start, size], origin)?)
            }
        };
        let axis = self.graph.add_weight("", Tensor::i64(&[1], [s.axis as i64]));
        self.apply("Slice", vec![], &[s.of, start, end, axis], origin)
    }

    /// All tensors along a first axis that they do not have.
    pub fn stacked_rows(&mut self, s: &Stacked, origin: &Origin) -> Result<ValueId, Fault> {
        let (mut of, axis) = (s.of, s.axis);
        match &s.part {
            Part::Index => {}
            Part::Slice(size) => {
                let mut shape = self.graph.fact(of).shape.clone();
                let Some(count) = shape[axis].div_exact(size) else {
                    return Err(open());
                };
                shape.splice(axis..=axis, [count, size.clone()]);
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
    pub fn stacked_joined(&mut self, s: &Stacked, axis: i64, new: bool, origin: &Origin) -> Result<ValueId, Fault> {
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
    pub fn stacked_append(&mut self, s: &Stacked, new: ValueId, origin: &Origin) -> Result<Stacked, Fault> {
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
                Slot::List(list) => match self.lists[*list].clone() {
                    List::Stacked(s) => self.stacked_rows(&s, &origin)?,
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
