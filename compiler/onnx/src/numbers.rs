//! Integers that a run computes and that decide shapes: the end of a slice, the limit of a range, a part of a new shape.
//!
//! ```text
//! n = ReduceSum(mask)                     n = ReduceSum(mask)
//! y = Slice(x, [0], [n], [1])      →      _, k = cameo::Number(n) {count=count.n, most=S}
//!                                         y = Slice(x, [0], [k], [1]) : f32[B,count.n]
//! ```
//!
//! What is known of a list stays known: `Concat(4, n)` is `4, count.n`. Laws: a number is one dimension wherever it is asked for;
//! it is not negative (slices and ranges are told how long they are); what it may be at most follows from how it is computed, or
//! is [`LONGEST`], for which memory is reserved and not used.

use std::collections::BTreeMap;

use cameo_ir::dim::COUNTED;
use cameo_ir::op::{AttrDef, OpDef, normalize_axis};
use cameo_ir::ops::counted::Number;
use cameo_ir::{Attr, Attrs, DType, Dim, Fact, Graph, Node, Op, Origin, Tensor, ValueId, interp};

use crate::bounds::computed;
use crate::error::Fault;
use crate::import::Importer;
use crate::integers::{at_least_none, counts, plain, same, summed_mask, upper};

/// The largest number that data may give where nothing bounds it.
pub(crate) const LONGEST: i64 = 1 << 16;

/// A list of more numbers is no shape.
const MAX_NUMBERS: i64 = 8;

/// Nodes on the way up to what a number is computed from.
const MAX_DEPTH: usize = 32;

/// Nodes to look at before a value counts as data.
const MAX_NODES: usize = 1000;

/// Operators that move integers, so that what is known of some remains known.
pub(crate) const MOVING: [&str; 12] = [
    "Cast",
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

/// Those that move integers to where other operands say, with the operands that they move.
const PICKING: [(&str, &[usize]); 6] = [
    ("GatherElements", &[0]),
    ("GatherND", &[0]),
    ("OneHot", &[2]),
    ("ScatterElements", &[0, 2]),
    ("ScatterND", &[0, 2]),
    ("Tile", &[0]),
];

/// Those of two integers where one is known.
const ARITHMETIC: [&str; 6] = ["Add", "Div", "Max", "Min", "Mul", "Sub"];

impl Importer<'_> {
    /// The same integers as dimensions that a run counts; `None` where they cannot be.
    pub(crate) fn counted(&mut self, v: ValueId, origin: &Origin) -> Result<Option<ValueId>, Fault> {
        let known = self.as_dims(v, MAX_DEPTH, origin)?;
        Ok(known.filter(|known| *known != v))
    }

    fn as_dims(&mut self, v: ValueId, depth: usize, origin: &Origin) -> Result<Option<ValueId>, Fault> {
        if let Some(known) = self.told(v, depth, &mut BTreeMap::new(), origin)? {
            return Ok(Some(known));
        }
        let fact = self.graph.fact(v);
        let few = fact.element_count().as_const().is_some_and(|n| n <= MAX_NUMBERS);
        if !few || depth == 0 || !fact.dtype.is_int() || fact.dtype.bits() < 8 {
            return Ok(None);
        }
        if let Some((n, k)) = self.graph.producer(v) {
            let node = self.graph.node(n).clone();
            let told = |v: &Option<ValueId>| v.is_some_and(|v| self.is_told(v));
            let others = || node.inputs[1..].iter().all(|v| v.is_none() || told(v));
            let op = node.op.name();
            let moves = MOVING.contains(&op) && (op == "Concat" || others());
            let counts = ARITHMETIC.contains(&op) && node.inputs.iter().any(told);
            if moves || counts {
                let mut known = vec![];
                for v in &node.inputs {
                    known.push(match v {
                        Some(v) => self.as_dims(*v, depth - 1, origin)?,
                        None => None,
                    });
                }
                if let Some(made) = self.made_of(&node, known, k, origin) {
                    return Ok(Some(made));
                }
            }
        }
        self.numbers_of(v, origin)
    }

    /// The same elements as dimensions, where they follow from shapes, constants and what a run is told when it begins.
    fn told(
        &mut self,
        v: ValueId,
        depth: usize,
        seen: &mut BTreeMap<ValueId, Option<ValueId>>,
        origin: &Origin,
    ) -> Result<Option<ValueId>, Fault> {
        let fact = self.graph.fact(v);
        if self.graph.constant(v).is_some() || fact.known.is_some() && !fact.is_open() {
            return Ok(Some(v));
        }
        if let Some(known) = seen.get(&v) {
            return Ok(*known);
        }
        seen.insert(v, None);
        let few = fact
            .element_count()
            .as_const()
            .is_some_and(|n| n <= Fact::KNOWN_MAX as i64);
        let (Some((n, k)), true) = (
            self.graph.producer(v).filter(|_| few && depth > 0),
            seen.len() < MAX_NODES,
        ) else {
            return Ok(None);
        };
        if let Some(t) = computed(&self.graph, v) {
            let known = self.graph.add_weight("", t);
            seen.insert(v, Some(known));
            return Ok(Some(known));
        }
        let node = self.graph.node(n).clone();
        let mut known = vec![];
        for x in &node.inputs {
            let Some(x) = x else {
                known.push(None);
                continue;
            };
            match self.told(*x, depth - 1, seen, origin)? {
                None => return Ok(None),
                told => known.push(told),
            }
        }
        let made = match PICKING.iter().find(|(op, _)| node.op == *op) {
            Some((_, moved)) => self.picked(v, &node, moved, &known, origin)?,
            None => self.made_of(&node, known, k, origin),
        };
        seen.insert(v, made);
        Ok(made)
    }

    /// The node's result of these operands, if it has known elements.
    fn made_of(&mut self, node: &Node, known: Vec<Option<ValueId>>, k: usize, origin: &Origin) -> Option<ValueId> {
        if node.inputs.iter().zip(&known).any(|(v, k)| v.is_some() != k.is_some()) || counts(node) {
            return None;
        }
        let made = self
            .graph
            .add_node(node.op, node.attrs.clone(), known, node.outputs.len(), origin.clone());
        let made = made.ok()?[k];
        self.graph.fact(made).known.is_some().then_some(made)
    }

    /// What an operator that only picks elements gives of known ones: it is asked which by what takes their place.
    fn picked(
        &mut self,
        v: ValueId,
        node: &Node,
        moved: &[usize],
        known: &[Option<ValueId>],
        origin: &Origin,
    ) -> Result<Option<ValueId>, Fault> {
        const FIRST: i64 = 1 << 40;
        let joins = |a: &Attr| !matches!(a, Attr::Str(way) if &**way == "none");
        if node.attrs.get("reduction").is_some_and(joins) {
            return Ok(None);
        }
        let (mut given, mut marked) = (vec![], vec![]);
        for (i, (x, known)) in node.inputs.iter().zip(known).enumerate() {
            let (Some(x), Some(known)) = (x, known) else { continue };
            if let Some(t) = computed(&self.graph, *x) {
                given.push((*x, t));
                continue;
            }
            // Where it goes must be a number.
            if !moved.contains(&i) {
                return Ok(None);
            }
            let fact = self.graph.fact(*known).clone();
            let (Some(shape), DType::I64) = (fact.static_shape(), fact.dtype) else {
                return Ok(None);
            };
            let count = shape.iter().product::<usize>() as i64;
            let first = FIRST + marked.len() as i64;
            marked.extend((0..count).map(|i| (*known, i)));
            given.push((*x, Tensor::i64(&shape, (first..first + count).collect::<Vec<_>>())));
        }
        let Ok(picked) = interp::eval_from(&self.graph, v, &given) else {
            return Ok(None);
        };
        let fact = self.graph.fact(v).clone();
        let mut all = vec![];
        for x in picked.to_i64() {
            let one = match usize::try_from(x - FIRST).ok().and_then(|i| marked.get(i)) {
                Some((of, i)) => self.element(*of, *i, origin)?,
                None => self.graph.add_weight("", Tensor::i64(&[], [x])),
            };
            all.push(self.reshaped(one, &[Dim::ONE], origin)?);
        }
        if all.is_empty() || fact.dtype != DType::I64 {
            return Ok(None);
        }
        let list = self.list_of(&all, origin)?;
        let made = self.reshaped(list, &fact.shape, origin)?;
        Ok(self.graph.fact(made).known.is_some().then_some(made))
    }

    /// Whether elements are known before a run, or when it begins.
    fn is_told(&self, v: ValueId) -> bool {
        self.graph.constant(v).is_some() || self.graph.fact(v).known.is_some() || computed(&self.graph, v).is_some()
    }

    /// Each integer as a dimension.
    fn numbers_of(&mut self, v: ValueId, origin: &Origin) -> Result<Option<ValueId>, Fault> {
        if !self.turns_count && self.turns(v, MAX_DEPTH) {
            return Ok(None);
        }
        let fact = self.graph.fact(v).clone();
        let Some(count) = fact.element_count().as_const() else {
            return Ok(None);
        };
        let most = upper(&self.graph, v, MAX_DEPTH).map_or(Dim::from(LONGEST), |d| d.maximum(&Dim::ZERO));
        let mut all = vec![];
        for i in 0..count {
            let x = self.element(v, i, origin)?;
            let known = self.number(x, &most, origin)?;
            all.push(self.reshaped(known, &[Dim::ONE], origin)?);
        }
        let list = self.list_of(&all, origin)?;
        let shaped = self.reshaped(list, &fact.shape, origin)?;
        self.cast(shaped, fact.dtype, origin).map(Some)
    }

    fn reshaped(&mut self, v: ValueId, shape: &[Dim], origin: &Origin) -> Result<ValueId, Fault> {
        match self.graph.fact(v).shape == shape {
            true => Ok(v),
            false => self.apply("Reshape", vec![("shape", Attr::Dims(shape.to_vec()))], &[v], origin),
        }
    }

    fn list_of(&mut self, all: &[ValueId], origin: &Origin) -> Result<ValueId, Fault> {
        match all {
            [one] => Ok(*one),
            all => self.apply("Concat", vec![("axis", Attr::Int(0))], all, origin),
        }
    }

    /// Element `i` of the integers as an `i64` of rank 0: what was joined is taken apart.
    fn element(&mut self, v: ValueId, i: i64, origin: &Origin) -> Result<ValueId, Fault> {
        let count = |g: &Graph, v: ValueId| g.fact(v).element_count().as_const();
        let (mut v, mut i) = (v, i);
        while let Some((n, _)) = self.graph.producer(v) {
            let node = self.graph.node(n);
            let one = count(&self.graph, v) == Some(1);
            match node.op.name() {
                "Concat" if self.graph.fact(v).rank() == 1 => {
                    let mut parts = node.inputs.iter().flatten();
                    let here = parts.find_map(|x| {
                        let n = count(&self.graph, *x).unwrap_or(i64::MAX);
                        let found = (i < n).then_some(*x);
                        i -= if found.is_some() { 0 } else { n };
                        found
                    });
                    let Some(here) = here else { break };
                    v = here;
                }
                "Unsqueeze" | "Squeeze" | "Reshape" | "Identity" if one => match node.inputs[0] {
                    Some(x) if count(&self.graph, x).is_some() => v = x,
                    _ => break,
                },
                _ => break,
            }
        }
        let wide = self.cast(v, DType::I64, origin)?;
        match count(&self.graph, wide) {
            Some(1) => self.reshaped(wide, &[], origin),
            Some(n) => {
                let flat = self.reshaped(wide, &[Dim::from(n)], origin)?;
                let at = self.graph.add_weight("", Tensor::i64(&[], [i]));
                self.apply("Gather", vec![("axis", Attr::Int(0))], &[flat, at], origin)
            }
            None => Err(Fault::unsupported("a list of integers whose length is not known")),
        }
    }

    /// A slice whose starts or ends are data: it begins where a number says, and is as long as another says.
    pub(crate) fn cut_by_data(
        &mut self,
        inputs: &[Option<ValueId>],
        origin: &Origin,
    ) -> Result<Option<ValueId>, Fault> {
        let [Some(x), Some(starts), Some(ends), rest @ ..] = inputs else {
            return Ok(None);
        };
        let x = *x;
        let ints = |v: Option<ValueId>| v.map(|v| computed(&self.graph, v).map(|t| t.to_i64()));
        let count = |v: &ValueId| self.graph.fact(*v).element_count().as_const();
        let listed = || rest.first().and_then(|axes| count(&(*axes)?));
        // One number of a list at an open position, which a run may find beyond the end, is as long as what it goes with.
        let count = count(starts).or_else(|| count(ends)).or_else(listed).unwrap_or(1);
        if count > MAX_NUMBERS {
            return Ok(None);
        }
        let axes = ints(rest.first().copied().flatten()).unwrap_or_else(|| Some((0..count).collect()));
        let steps = ints(rest.get(1).copied().flatten()).unwrap_or_else(|| Some(vec![1; count as usize]));
        let (Some(axes), Some(steps)) = (axes, steps) else {
            return Ok(None);
        };
        if axes.len() as i64 != count || steps.len() as i64 != count || steps.iter().any(|s| *s < 1) {
            return Ok(None);
        }
        let (Some(starts), Some(ends)) = (
            self.as_long_as(*starts, count, origin)?,
            self.as_long_as(*ends, count, origin)?,
        ) else {
            return Ok(None);
        };
        let zero = self.graph.add_weight("", Tensor::i64(&[], [0]));
        let (mut from, mut lengths, mut cut) = (vec![], vec![], vec![]);
        for (k, axis) in axes.iter().enumerate() {
            let axis = normalize_axis(*axis, self.graph.fact(x).rank())?;
            let extent = self.graph.fact(x).shape[axis].clone();
            let [start, end] = [starts, ends].map(|v| self.element(v, k as i64, origin));
            let (start, end) = (start?, end?);
            if !self.turns_count && (self.turns(start, MAX_DEPTH) || self.turns(end, MAX_DEPTH)) {
                return Ok(None);
            }
            let ones = [("start", Attr::Int(axis as i64)), ("end", Attr::Int(axis as i64 + 1))];
            let whole = self.apply("Shape", ones.into(), &[x], origin)?;
            let whole = self.reshaped(whole, &[], origin)?;
            let mut first = self.within(start, whole, zero, origin)?;
            let last = self.within(end, whole, zero, origin)?;
            let span = self.apply("Sub", vec![], &[last, first], origin)?;
            let span = self.apply("Max", vec![], &[span, zero], origin)?;
            if self.graph.fact(first).known.is_none() {
                first = self.number(first, &extent, origin)?;
            }
            let span = match self.graph.fact(span).known {
                None => self.number(span, &extent, origin)?,
                Some(_) => span,
            };
            for (list, v) in [(&mut from, first), (&mut lengths, span)] {
                list.extend(self.graph.fact(v).known.iter().flatten().cloned());
            }
            cut.push(Dim::from(axis));
        }
        let attrs = vec![
            ("axes", Attr::Dims(cut)),
            ("extents", Attr::Dims(lengths)),
            ("starts", Attr::Dims(from)),
        ];
        let y = self.apply("cameo::Cut", attrs, &[x], origin)?;
        if steps.iter().all(|s| *s == 1) {
            return Ok(Some(y));
        }
        // Every so many of them.
        let all = [vec![0; steps.len()], vec![i64::MAX; steps.len()], axes, steps];
        let list = |l: Vec<i64>| self.graph.add_weight("", Tensor::i64(&[l.len()], l));
        let operands: Vec<ValueId> = std::iter::once(y).chain(all.map(list)).collect();
        self.apply("Slice", vec![], &operands, origin).map(Some)
    }

    /// The list, which has so many elements: of one that only a run knows to be as long, the run checks it.
    fn as_long_as(&mut self, list: ValueId, count: i64, origin: &Origin) -> Result<Option<ValueId>, Fault> {
        let fact = self.graph.fact(list);
        let known = fact.element_count().as_const();
        if known.is_some_and(|known| known != count) || known.is_none() && (fact.rank(), count) != (1, 1) {
            return Ok(None);
        }
        if known.is_some() {
            return self.reshaped(list, &[Dim::from(count)], origin).map(Some);
        }
        let one = self.apply("Squeeze", vec![("axes", Attr::Dims(vec![Dim::ZERO]))], &[list], origin)?;
        self.reshaped(one, &[Dim::ONE], origin).map(Some)
    }

    /// A position on an axis of so many elements, of which negative ones count from the end.
    fn within(&mut self, at: ValueId, whole: ValueId, zero: ValueId, origin: &Origin) -> Result<ValueId, Fault> {
        let mut at = at;
        if !at_least_none(&self.graph, at, MAX_DEPTH) {
            let back = self.apply("Less", vec![], &[at, zero], origin)?;
            let counted = self.apply("Add", vec![], &[at, whole], origin)?;
            let from_start = self.apply("Where", vec![], &[back, counted, at], origin)?;
            at = self.apply("Max", vec![], &[from_start, zero], origin)?;
        }
        self.apply("Min", vec![], &[at, whole], origin)
    }

    /// A range whose ends are data, of as many numbers as a run says.
    pub(crate) fn range_by_data(
        &mut self,
        inputs: &[Option<ValueId>],
        origin: &Origin,
    ) -> Result<Option<ValueId>, Fault> {
        let [Some(start), Some(limit), Some(delta)] = inputs else {
            return Ok(None);
        };
        let dtype = self.graph.fact(*start).dtype;
        let mut given = vec![];
        for v in [start, limit, delta] {
            if self.graph.fact(*v).element_count().as_const() != Some(1) {
                return Ok(None);
            }
            if !self.turns_count && self.turns(*v, MAX_DEPTH) {
                return Ok(None);
            }
            given.push(self.reshaped(*v, &[], origin)?);
        }
        let [start, limit, delta] = given[..] else {
            return Ok(None);
        };
        let one = computed(&self.graph, delta).and_then(|t| t.scalar_f64()) == Some(1.0);
        let none = computed(&self.graph, start).and_then(|t| t.scalar_f64()) == Some(0.0);
        let span = match none {
            true => limit,
            false => self.apply("Sub", vec![], &[limit, start], origin)?,
        };
        let steps = match (one, dtype.is_float()) {
            (true, false) => span,
            (true, true) => self.apply("Ceil", vec![], &[span], origin)?,
            (false, true) => {
                let steps = self.apply("Div", vec![], &[span, delta], origin)?;
                self.apply("Ceil", vec![], &[steps], origin)?
            }
            (false, false) => {
                // Rounded up, which integer division does not do.
                let wide = [span, delta].map(|v| self.cast(v, DType::F64, origin));
                let [span, delta] = wide;
                let steps = self.apply("Div", vec![], &[span?, delta?], origin)?;
                self.apply("Ceil", vec![], &[steps], origin)?
            }
        };
        let steps = self.cast(steps, DType::I64, origin)?;
        let most = upper(&self.graph, steps, MAX_DEPTH).map_or(Dim::from(LONGEST), |d| d.maximum(&Dim::ZERO));
        let zero = self.graph.add_weight("", Tensor::i64(&[], [0]));
        let steps = match at_least_none(&self.graph, steps, MAX_DEPTH) {
            true => steps,
            false => self.apply("Max", vec![], &[steps, zero], origin)?,
        };
        let count = self.number(steps, &most, origin)?;
        let step = self.graph.add_weight("", Tensor::i64(&[], [1]));
        let numbers = self.apply("Range", vec![], &[zero, count, step], origin)?;
        let mut y = self.cast(numbers, dtype, origin)?;
        if !one {
            y = self.apply("Mul", vec![], &[y, delta], origin)?;
        }
        if !none {
            y = self.apply("Add", vec![], &[y, start], origin)?;
        }
        Ok(Some(y))
    }

    /// One integer as a dimension, the same for all who ask.
    pub(crate) fn number(&mut self, x: ValueId, most: &Dim, origin: &Origin) -> Result<ValueId, Fault> {
        let exact = most.as_const().is_some_and(|most| most <= 1 << 24);
        let plain = plain(&self.graph, x, exact);
        let wide = self.cast(plain, DType::I64, origin)?;
        let x = self.reshaped(wide, &[], origin)?;
        if let Some(mask) = summed_mask(&self.graph, x) {
            // As many as there are positions, which have a name of their own.
            let found = self.counting("NonZero", mask, origin)?;
            return self.extent(found, 1, origin);
        }
        let before = self.graph.nodes().find_map(|(_, node)| {
            let known = *node.outputs.get(1)?;
            let of = node.inputs[0].filter(|_| node.op == Number.schema().name)?;
            same(&self.graph, of, x, MAX_DEPTH).then_some(known)
        });
        if let Some(known) = before {
            return Ok(known);
        }
        let Some(op) = Op::find(Number.schema().name) else {
            return Err(Fault::unsupported("lengths that data gives"));
        };
        let symbol = Attr::Str(self.new_symbol(COUNTED, "number"));
        let attrs = [("count", symbol), ("most", Attr::Dims(vec![most.clone()]))];
        let attrs: Attrs = attrs.into_iter().map(|(k, a)| (k.into(), a)).collect();
        Ok(self.typed(op, &attrs, vec![Some(x)], 2, origin)?[1])
    }

    /// What an operator of one operand counts.
    fn counting(&mut self, op: &str, of: ValueId, origin: &Origin) -> Result<ValueId, Fault> {
        let before = Op::find(op).and_then(|op| self.counted_before(op, &Attrs::new(), &[Some(of)]));
        match before {
            Some(found) => Ok(found[0]),
            None => {
                let symbol = Attr::Str(self.new_symbol(COUNTED, op));
                self.apply(op, vec![("count", symbol)], &[of], origin)
            }
        }
    }

    /// What a node that counts the same gives: what is as long as one list is as long as the other then.
    pub(crate) fn counted_before(&self, op: Op, attrs: &Attrs, inputs: &[Option<ValueId>]) -> Option<Vec<ValueId>> {
        let counts = |def: &AttrDef| matches!(def, AttrDef::Symbol(_));
        let symbols = || {
            op.schema()
                .attrs
                .iter()
                .filter(|(_, def)| counts(def))
                .map(|(name, _)| *name)
        };
        symbols().next()?;
        let alike = |node: &Node| {
            let mut others = node.attrs.clone();
            symbols().for_each(|name| drop(others.remove(name)));
            let pairs = node.inputs.iter().zip(inputs);
            node.op == op
                && others == *attrs
                && node.inputs.len() == inputs.len()
                && pairs.into_iter().all(|pair| match pair {
                    (Some(a), Some(b)) => same(&self.graph, *a, *b, MAX_DEPTH),
                    (a, b) => a == b,
                })
        };
        self.graph
            .nodes()
            .find(|(_, node)| alike(node))
            .map(|(_, node)| node.outputs.clone())
    }

    /// Whether a value follows from the number of an iteration.
    fn turns(&self, v: ValueId, depth: usize) -> bool {
        if self.counters.iter().any(|(counter, _)| *counter == v) {
            return true;
        }
        let node = self.graph.producer(v).filter(|_| depth > 0);
        node.is_some_and(|(n, _)| {
            let operands = self.graph.node(n).inputs.iter().flatten();
            operands.copied().any(|x| self.turns(x, depth - 1))
        })
    }
}
