//! Inputs whose elements decide shapes: shapes, axes, sizes and positions that a caller gives with each run.
//!
//! Each element of such an input is a symbol. Which inputs they are is seen where an operator needs to know its operand; then
//! the import begins again, so that what other inputs have stays data. A list of open length has as many elements as the
//! operator's ranks want: those are fixed, so is the length; where they only say how many there are at most, it stays open.

use std::collections::{BTreeMap, BTreeSet};

use cameo_ir::dim::{COUNTED, ELEMENT};
use cameo_ir::{DType, Dim, Fact, Op, Sym, ValueId};

use crate::DimBinding;
use crate::dims::dimension_names;
use crate::import::Importer;
use crate::proto::{GraphProto, NodeProto, TypeValue, ValueInfoProto};

/// Inputs by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Elements {
    /// Those whose elements are symbols.
    inputs: BTreeSet<String>,
    /// Lengths of lists that the model leaves open.
    lengths: BTreeMap<String, Length>,
    /// Extents, by their symbols, that the rank of a result decides.
    extents: BTreeMap<String, i64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    Exactly(i64),
    AtMost(i64),
}

impl Elements {
    /// Adds what an import wanted; whether that is more.
    pub fn extend(&mut self, wanted: Self) -> bool {
        let before = self.clone();
        self.inputs.extend(wanted.inputs);
        for (name, length) in wanted.lengths {
            self.lengths.entry(name).or_insert(length);
        }
        for (symbol, extent) in wanted.extents {
            self.extents.entry(symbol).or_insert(extent);
        }
        *self != before
    }

    /// Whether an import wanted more.
    pub fn covers(&self, wanted: &Self) -> bool {
        !self.clone().extend(wanted.clone())
    }

    /// Takes a name out; whether it was in.
    pub fn forget(&mut self, name: &str) -> bool {
        self.inputs.remove(name)
    }

    /// Fixes the lengths of lists, and what ranks decide.
    pub fn bind(&self, inputs: &[&ValueInfoProto], bindings: &mut Vec<(String, DimBinding)>) {
        for (symbol, extent) in &self.extents {
            if bindings.iter().all(|(bound, _)| bound != symbol) {
                bindings.push((symbol.clone(), DimBinding::Fixed(*extent)));
            }
        }
        for (name, length) in &self.lengths {
            let input = inputs.iter().find(|i| i.name == *name);
            let names = input.map(|i| dimension_names(i)).unwrap_or_default();
            let ([axis], Length::Exactly(length)) = (names.as_slice(), length) else {
                continue;
            };
            if bindings.iter().all(|(bound, _)| bound != axis) {
                bindings.push((axis.clone(), DimBinding::Fixed(*length)));
            }
        }
    }
}

/// Ranks that the model declares, by the names of values; what an element by element function of one operand is of has the
/// same.
pub(crate) fn declared_ranks(graph: &GraphProto) -> BTreeMap<&str, usize> {
    let values = graph.output.iter().chain(&graph.value_info);
    let rank = |v: &'_ ValueInfoProto| match v.r#type.as_ref()?.value.as_ref()? {
        TypeValue::Tensor(t) => Some(t.shape.as_ref()?.dim.len()),
        _ => None,
    };
    let mut ranks: BTreeMap<&str, usize> = values.filter_map(|v| Some((v.name.as_str(), rank(v)?))).collect();
    for node in graph.node.iter().rev() {
        let of_one = |op: Op| op.schema().pointwise && node.input.len() == 1 || op == "CastLike";
        if let ([x, ..], [y]) = (node.input.as_slice(), node.output.as_slice())
            && let Some(rank) = ranks.get(y.as_str()).copied()
            && Op::find(&node.op_type).is_some_and(of_one)
        {
            ranks.entry(x).or_insert(rank);
        }
    }
    ranks
}

impl<'m> Importer<'m> {
    /// The fact of an input with its elements as symbols, if they decide shapes.
    pub fn with_elements(&self, input: &str, fact: Fact) -> Fact {
        let wanted = self.elements.inputs.contains(input);
        let count = fact
            .element_count()
            .as_const()
            .or_else(|| match self.elements.lengths.get(input) {
                Some(Length::AtMost(n)) if fact.rank() == 1 => Some(*n),
                _ => None,
            });
        let Some(count) = count.filter(|_| wanted) else {
            return fact;
        };
        let plain = input.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        // Two inputs may be called the same but for what no symbol can have.
        let first = (0..)
            .map(|n| if n == 0 { plain.clone() } else { format!("{plain}_{n}") })
            .find(|name| !self.graph.symbols.contains_key(format!("{ELEMENT}{name}_0").as_str()));
        let name = first.unwrap_or(plain);
        let known = (0..count).map(|i| Dim::sym(&format!("{ELEMENT}{name}_{i}"))).collect();
        Fact {
            known: Some(known),
            ..fact
        }
    }

    /// Notes the inputs of the model that the elements of a value come from, if they are few integers.
    pub fn want_elements(&mut self, v: ValueId) {
        let mut seen = BTreeSet::new();
        let mut left = vec![v];
        while let Some(v) = left.pop() {
            let fact = self.graph.fact(v);
            let few = match fact.element_count().as_const() {
                Some(n) => (1..=Fact::KNOWN_MAX as i64).contains(&n),
                None => fact.rank() <= 1,
            };
            let float = matches!(fact.dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64);
            let whole = fact.dtype.is_int() || fact.dtype == DType::Bool;
            let read = float || whole && fact.dtype.bits() >= 8;
            // Scales are lists; other floats are data, however few they are.
            let input = self.graph.producer(v).is_none();
            if input && float && fact.rank() > 1 {
                continue;
            }
            if !few || !read || !seen.insert(v) {
                continue;
            }
            match self.graph.producer(v) {
                Some((n, _)) => {
                    let node = self.graph.node(n);
                    left.extend(node.inputs.iter().flatten());
                    if node.op.schema().pointwise {
                        self.as_long_as_others(&node.inputs.iter().copied().flatten().collect::<Vec<_>>());
                    }
                }
                None if fact.known.is_none() && !self.formals.contains(&v) && self.graph.inputs().contains(&v) => {
                    let name = self.graph.value(v).name.to_string();
                    if self.data.last().is_none_or(|data| !data.contains(&name)) {
                        self.wanted.inputs.insert(name);
                    }
                }
                None => {}
            }
        }
    }

    /// Notes that a list of open length, which is an input of the model, has as many numbers as those that it is combined with.
    fn as_long_as_others(&mut self, operands: &[ValueId]) {
        let length = |v: &ValueId| match self.graph.fact(*v).shape.as_slice() {
            [n] => n.as_const(),
            _ => None,
        };
        let Some(most) = operands.iter().filter_map(length).max().filter(|n| *n > 1) else {
            return;
        };
        for v in operands {
            self.want_exactly(*v, most);
        }
    }

    /// Notes the elements of a value, which is one number.
    pub fn want_number(&mut self, v: ValueId) {
        self.want_elements(v);
        self.want_exactly(v, 1);
    }

    /// Notes how long a list is that is an input of the model, if the model leaves it open.
    fn want_exactly(&mut self, v: ValueId, length: i64) {
        let fact = self.graph.fact(v);
        if fact.rank() == 1 && fact.static_shape().is_none() && self.graph.inputs().contains(&v) {
            let name = self.graph.value(v).name.to_string();
            self.wanted.lengths.entry(name).or_insert(Length::Exactly(length));
        }
    }

    /// Notes how long the list must be that input `i` of the node is, if that input of the model is of open length.
    pub fn want_length(&mut self, node: &'m NodeProto, op: Op, inputs: &[Option<ValueId>], i: usize) {
        let Some(Some(v)) = inputs.get(i).copied() else { return };
        let open = self.graph.fact(v).rank() == 1 && self.graph.fact(v).static_shape().is_none();
        if !open || !self.graph.inputs().contains(&v) {
            return;
        }
        if let Some(length) = self.length(node, op, inputs, i) {
            let name = self.graph.value(v).name.to_string();
            self.wanted.lengths.insert(name, length);
        }
    }

    /// Notes how many numbers an index of a `GatherND` has, where the model leaves it open but declares the result's rank.
    pub fn want_extent(&mut self, node: &'m NodeProto, op: Op, inputs: &[Option<ValueId>]) {
        let [Some(x), Some(indices)] = inputs else { return };
        let rank = node.output.first().and_then(|y| self.ranks.get(y.as_str()));
        let Some(rank) = rank.filter(|_| op == "GatherND") else {
            return;
        };
        let (x, indices) = (self.graph.fact(*x), self.graph.fact(*indices));
        let Some(Sym::Named(symbol)) = indices.shape.last().and_then(Dim::as_sym) else {
            return;
        };
        let batch = node
            .attribute
            .iter()
            .find(|a| a.name == "batch_dims")
            .map_or(0, |a| a.i);
        let named = (x.rank() + indices.rank()) as i64 - 1 - batch - *rank as i64;
        if !symbol.starts_with(COUNTED) && (1..=x.rank() as i64).contains(&named) {
            self.wanted.extents.insert(symbol.to_string(), named);
        }
    }

    fn length(&self, node: &'m NodeProto, op: Op, inputs: &[Option<ValueId>], i: usize) -> Option<Length> {
        let count = |i: usize| {
            let v = inputs.get(i).copied().flatten()?;
            self.graph.fact(v).element_count().as_const()
        };
        let rank = || Some(self.graph.fact(inputs.first().copied().flatten()?).rank() as i64);
        let declared = || {
            let rank = self.ranks.get(node.output.first()?.as_str())?;
            Some(*rank as i64)
        };
        // An operator about some of the axes says which.
        let of_axes = || {
            let axes = node.attribute.iter().find(|a| a.name == "axes");
            axes.map_or_else(rank, |a| Some(a.ints.len() as i64))
        };
        let name = op.schema().input(i)?.name;
        let exactly = match (op.name(), name) {
            ("Reshape", "shape") | ("ConstantOfShape" | "AffineGrid", _) => declared(),
            // A shape of fewer axes than the operand's gives its rank too.
            ("Expand", "shape") => match (declared()?, rank()?) {
                (wide, narrow) if wide <= narrow => return Some(Length::AtMost(wide)),
                (wide, _) => Some(wide),
            },
            ("Col2Im", _) => Some(declared()? - 2),
            ("MaxUnpool", _) => rank(),
            ("CenterCropPad", _) => of_axes(),
            ("Tile", "repeats") => rank(),
            ("Resize", "sizes" | "scales") => of_axes(),
            ("Resize", "roi") => Some(2 * of_axes()?),
            ("Pad", "pads") if inputs.len() > 3 => match count(3) {
                None => return Some(Length::AtMost(2 * rank()?)),
                Some(axes) => Some(2 * axes),
            },
            ("Pad", "pads") => Some(2 * rank()?),
            ("Pad", "axes") => match count(1) {
                None => return rank().map(Length::AtMost),
                Some(pads) => Some(pads / 2),
            },
            // Other operands of the list say it, or it is about some of the axes.
            ("Slice", _) => match (1..inputs.len()).find_map(count) {
                None => return rank().map(Length::AtMost),
                some => some,
            },
            ("Squeeze", "axes") => Some(rank()? - declared()?),
            ("Unsqueeze", "axes") => Some(declared()? - rank()?),
            ("Split", "split") => Some(node.output.len() as i64),
            (reduce, "axes") if reduce.starts_with("Reduce") => {
                let kept = node
                    .attribute
                    .iter()
                    .find(|a| a.name == "keepdims")
                    .is_none_or(|a| a.i != 0);
                if kept {
                    // The ranks are the same for any.
                    return rank().map(Length::AtMost);
                }
                Some(rank()? - declared()?).filter(|n| *n > 0)
            }
            ("OneHot" | "TopK" | "CumSum" | "CumProd" | "Trilu" | "Range", _) => Some(1),
            _ => None,
        };
        exactly.map(Length::Exactly)
    }
}
