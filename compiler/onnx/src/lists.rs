//! Sequences and optionals. Where it is known when a model is compiled how many tensors a sequence has, it is a list of values
//! (else it may be [`Stacked`]); an optional is what it holds or [`Slot::Absent`]. The graph has neither.
//!
//! An input of such a type becomes as many inputs as the user says (`--items`), `NAME[0]` and so on, and an output as many
//! outputs.

use std::str::FromStr;

use cameo_ir::op::normalize_axis;
use cameo_ir::ops::chosen;
use cameo_ir::{Attr, Attrs, DType, Dim, Fact, Op, Origin, Tensor, ValueId};

use crate::branches::of_loose;
use crate::error::{Fault, Site};
use crate::functions::MAX_DEPTH;
use crate::import::Importer;
use crate::integers;
use crate::proto::{
    AttributeProto, Dimension, DimensionValue, GraphProto, NodeProto, TensorShapeProto, TensorType, TypeProto,
    TypeValue, ValueInfoProto,
};
use crate::scope::{Scope, Slot};
use crate::stacked::{List, Part, Stacked, open as open_length};

/// Operators of sequences and optionals.
const OPERATORS: [&str; 12] = [
    "ConcatFromSequence",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
    "SplitToSequence",
];

/// A sequence longer than this is noise.
const MAX_ITEMS: usize = 1 << 10;

/// What an input that is a sequence or an optional holds.
///
/// As text `3`, so many tensors of the shape that the model declares; `[2,3],[?,N]`, tensors of these shapes, `?` being any
/// extent and `N` the dimension of that name; or `none`, an optional that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Items {
    Absent,
    Count(usize),
    Shapes(Vec<Vec<Extent>>),
}

/// An extent of a tensor of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    Fixed(i64),
    Named(String),
    Any,
}

impl FromStr for Items {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "none" {
            return Ok(Self::Absent);
        }
        let items = match text.parse() {
            Ok(count) => Self::Count(count),
            Err(_) => {
                let shapes = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
                let shapes =
                    shapes.ok_or_else(|| format!("expected a number, shapes ([2,3],[?,N]) or none, got {text:?}"))?;
                let between = |c: &str| c.trim() == ",";
                let mut parts = vec![];
                for (i, part) in shapes.split(['[', ']']).enumerate() {
                    match i % 2 {
                        0 => parts.push(shape(part)?),
                        _ if between(part) => {}
                        _ => return Err(format!("expected a comma between shapes, got {part:?}")),
                    }
                }
                Self::Shapes(parts)
            }
        };
        match items.count() {
            Some(n) if n > MAX_ITEMS => Err(format!("{n} tensors, at most {MAX_ITEMS} can be")),
            _ => Ok(items),
        }
    }
}

fn too_many(count: usize) -> Fault {
    Fault::unsupported(format!("a sequence of {count} tensors; at most {MAX_ITEMS} can be"))
}

fn shape(text: &str) -> Result<Vec<Extent>, String> {
    if text.trim().is_empty() {
        return Ok(vec![]);
    }
    let extent = |part: &str| match part.trim() {
        "?" => Ok(Extent::Any),
        "" => Err("an extent is missing".to_owned()),
        part => match part.parse() {
            Ok(n) if n >= 0 => Ok(Extent::Fixed(n)),
            Ok(n) => Err(format!("{n} is no extent")),
            Err(_) => Ok(Extent::Named(part.to_owned())),
        },
    };
    text.split(',').map(extent).collect()
}

impl Items {
    fn count(&self) -> Option<usize> {
        match self {
            Self::Absent => None,
            Self::Count(n) => Some(*n),
            Self::Shapes(shapes) => Some(shapes.len()),
        }
    }
}

/// An input of the model as the tensors that it is.
pub(crate) enum Given {
    Tensor(ValueInfoProto),
    List(Vec<ValueInfoProto>),
    Absent,
}

impl Given {
    pub fn tensors(&self) -> &[ValueInfoProto] {
        match self {
            Self::Tensor(t) => std::slice::from_ref(t),
            Self::List(list) => list,
            Self::Absent => &[],
        }
    }
}

/// The name of an item of a sequence that is an input or an output.
pub(crate) fn item(name: &str, i: usize) -> String {
    format!("{name}[{i}]")
}

/// What an input is, of which the user has said `items`.
pub(crate) fn given(input: &ValueInfoProto, items: Option<&Items>) -> Result<Given, Fault> {
    let mut kind = input.r#type.as_ref();
    let mut optional = false;
    if let Some(TypeValue::Optional(inner)) = kind.and_then(|t| t.value.as_ref()) {
        if items == Some(&Items::Absent) {
            return Ok(Given::Absent);
        }
        (optional, kind) = (true, inner.elem_type.as_deref());
    }
    let Some(TypeValue::Sequence(inner)) = kind.and_then(|t| t.value.as_ref()) else {
        let one = match items {
            None => None,
            Some(Items::Shapes(shapes)) if optional && shapes.len() == 1 => Some(&shapes[0]),
            Some(Items::Count(1)) if optional => None,
            Some(_) if optional => return Err(Fault::invalid("`--items`: it is one tensor or `none`")),
            Some(_) => return Err(Fault::invalid("`--items`: it is no sequence and no optional")),
        };
        let name = input.name.clone();
        return Ok(Given::Tensor(match one {
            Some(shape) => with_shape(&name, kind, shape),
            None => ValueInfoProto {
                name,
                r#type: kind.cloned(),
            },
        }));
    };
    let inner = inner.elem_type.as_deref();
    let list = match items {
        Some(Items::Count(n)) => (0..*n).map(|i| open(&item(&input.name, i), inner)).collect(),
        Some(Items::Shapes(shapes)) => {
            let each = shapes.iter().enumerate();
            each.map(|(i, shape)| with_shape(&item(&input.name, i), inner, shape))
                .collect()
        }
        Some(Items::Absent) => return Err(Fault::invalid("`--items`: it is no optional")),
        None => {
            let name = &input.name;
            return Err(Fault::unsupported("it is a sequence, whose length must be known").hint(format!(
                "say how many tensors it has, or of which shapes they are: `--items {name}=3` or `--items {name}=[2,3],[?,3]`"
            )));
        }
    };
    Ok(Given::List(list))
}

/// A tensor of a sequence, whose dimensions are not those of the others: names of the type say nothing.
fn open(name: &str, kind: Option<&TypeProto>) -> ValueInfoProto {
    let mut kind = kind.cloned();
    if let Some(TypeValue::Tensor(t)) = kind.as_mut().and_then(|t| t.value.as_mut()) {
        for d in t.shape.iter_mut().flat_map(|s| &mut s.dim) {
            if matches!(d.value, Some(DimensionValue::Param(_))) {
                d.value = None;
            }
        }
    }
    ValueInfoProto {
        name: name.to_owned(),
        r#type: kind,
    }
}

fn with_shape(name: &str, kind: Option<&TypeProto>, shape: &[Extent]) -> ValueInfoProto {
    let dim = |e: &Extent| Dimension {
        value: match e {
            Extent::Fixed(n) => Some(DimensionValue::Value(*n)),
            Extent::Named(name) => Some(DimensionValue::Param(name.clone())),
            Extent::Any => None,
        },
        ..Dimension::default()
    };
    let mut info = open(name, kind);
    if let Some(TypeValue::Tensor(TensorType { shape: s, .. })) = info.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        *s = Some(TensorShapeProto {
            dim: shape.iter().map(dim).collect(),
        });
    }
    info
}

fn int(attrs: &[(&str, &AttributeProto)], name: &str, default: i64) -> i64 {
    attrs.iter().find(|(n, _)| *n == name).map_or(default, |(_, a)| a.i)
}

impl<'m> Importer<'m> {
    /// Whether the node is about sequences and optionals.
    pub fn is_about_lists(&self, scope: &Scope<'m>, node: &NodeProto, op: &str) -> bool {
        let holds = |name: &String| matches!(scope.get(name), Some(Slot::List(_) | Slot::Optional(_)));
        OPERATORS.contains(&op) || op == "Identity" && node.input.first().is_some_and(holds)
    }

    pub fn new_list(&mut self, items: Vec<ValueId>) -> Slot<'m> {
        self.add_list(List::Items(items))
    }

    pub fn add_list(&mut self, list: List) -> Slot<'m> {
        self.lists.push(list);
        Slot::List(self.lists.len() - 1)
    }

    /// Imports such a node; `false`: its outputs have no meaning.
    pub fn about_lists(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &[(&'m str, &'m AttributeProto)],
    ) -> bool {
        let made = self.list_operator(scope, node, site, attrs);
        self.finish(scope, node, site, attrs, made)
    }

    fn list_operator(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &[(&'m str, &'m AttributeProto)],
    ) -> Result<Option<Vec<Slot<'m>>>, Fault> {
        let mut slots = Vec::with_capacity(node.input.len());
        for name in &node.input {
            match name.as_str() {
                "" => slots.push(Slot::Absent),
                name => match self.slot(scope, name)? {
                    Slot::Failed => return Ok(None),
                    slot => slots.push(slot),
                },
            }
        }
        let origin = Origin::new(&site.origin);
        let first = slots.first().copied().unwrap_or(Slot::Absent);
        let made = match site.op.as_str() {
            "Identity" | "Optional" => first,
            "OptionalGetElement" => match first {
                Slot::Absent => return Err(Fault::invalid("the optional has no element")),
                Slot::Optional(at) => self.held_by(at, &origin)?,
                slot => slot,
            },
            "OptionalHasElement" if let Slot::Optional(at) = first => Slot::Value(self.optionals[at].0),
            "OptionalHasElement" => {
                let has = !matches!(first, Slot::Absent);
                Slot::Value(self.graph.add_weight("", Tensor::bool(&[], [has])))
            }
            "SequenceEmpty" => self.new_list(vec![]),
            "SequenceConstruct" => {
                let items = slots.iter().map(|s| tensor(*s)).collect::<Result<_, _>>()?;
                self.new_list(items)
            }
            "SequenceLength" => Slot::Value(match self.stacked(first) {
                Some(s) => self.stacked_length(&s, &origin)?,
                None => {
                    let n = self.list(first)?.len() as i64;
                    self.graph.add_weight("", Tensor::i64(&[], [n]))
                }
            }),
            "SequenceAt" if let Some(s) = self.stacked(first) => {
                let at = self.whole(slots.get(1).copied())?;
                Slot::Value(self.stacked_at(&s, at, &origin)?)
            }
            "SequenceAt" => {
                let items = self.list(first)?;
                let at = self.position(slots.get(1).copied(), items.len(), items.len())?;
                Slot::Value(self.chosen(&items, &at, (&at, items.len()), &origin)?)
            }
            "SequenceErase" => {
                let items = self.list(first)?;
                if items.is_empty() {
                    return Err(Fault::invalid("the sequence has no tensor to erase"));
                }
                let at = match slots.get(1).copied() {
                    None | Some(Slot::Absent) => Dim::from(items.len()) - Dim::ONE,
                    at => self.position(at, items.len(), items.len())?,
                };
                let mut left = vec![];
                for i in 1..items.len() {
                    // Those from the position on move up.
                    left.push(self.chosen(&items[i - 1..=i], &reached(&at, i - 1), (&at, items.len()), &origin)?);
                }
                self.new_list(left)
            }
            "SequenceInsert" => {
                let new = tensor(slots.get(1).copied().unwrap_or(Slot::Absent))?;
                let at = slots.get(2).copied().filter(|s| !matches!(s, Slot::Absent));
                match (self.sequence(first)?, at) {
                    (List::Items(items), at) => self.inserted(&items, new, at, &origin)?,
                    (List::Stacked(s), None) => {
                        let more = self.stacked_append(&s, new, &origin)?;
                        self.new_stacked(more)
                    }
                    (List::Grown { state, new: mut all }, None) => {
                        all.push(new);
                        self.add_list(List::Grown { state, new: all })
                    }
                    _ => return Err(open_length()),
                }
            }
            "ConcatFromSequence" => {
                let (axis, new) = (int(attrs, "axis", 0), int(attrs, "new_axis", 0) != 0);
                Slot::Value(match self.stacked(first) {
                    Some(s) => self.stacked_joined(&s, axis, new, &origin)?,
                    None => {
                        let items = self.list(first)?;
                        self.joined(items, axis, new, &origin)?
                    }
                })
            }
            "SplitToSequence" => {
                let list = self.split(&slots, attrs, &origin)?;
                self.add_list(list)
            }
            "SequenceMap" => return self.map(scope, site, attrs, &slots, node.output.len()),
            op => return Err(Fault::unsupported(format!("operator `{op}`"))),
        };
        Ok(Some(vec![made]))
    }

    /// What an optional holds, which a run checks.
    fn held_by(&mut self, at: usize, origin: &Origin) -> Result<Slot<'m>, Fault> {
        let (present, held) = self.optionals[at];
        let missing = self.apply("Not", vec![], &[present], origin)?;
        match held {
            Slot::Value(v) => Ok(Slot::Value(self.refused_where(v, missing, origin)?)),
            held => {
                let items = self
                    .list(held)?
                    .into_iter()
                    .map(|v| self.refused_where(v, missing, origin));
                let items = items.collect::<Result<_, _>>()?;
                Ok(self.new_list(items))
            }
        }
    }

    /// A value that a run refuses where a bool is true.
    pub(crate) fn refused_where(&mut self, v: ValueId, wrong: ValueId, origin: &Origin) -> Result<ValueId, Fault> {
        // The first of two, or one behind them: where all are the same nobody asks which.
        let axes = ("axes", Attr::Dims(vec![Dim::ZERO]));
        let one = self.apply("Unsqueeze", vec![axes], &[v], origin)?;
        let both = self.variadic("Concat", vec![("axis", Attr::Int(0))], vec![one, one], origin)?;
        let index = self.cast(wrong, DType::I64, origin)?;
        let two = self.graph.add_weight("", Tensor::i64(&[], [2]));
        let index = self.apply("Mul", vec![], &[index, two], origin)?;
        self.apply("Gather", vec![("axis", Attr::Int(0))], &[both, index], origin)
    }

    fn sequence(&self, slot: Slot<'m>) -> Result<List, Fault> {
        match slot {
            Slot::List(i) => Ok(self.lists[i].clone()),
            Slot::Absent => Err(Fault::invalid("the sequence is missing")),
            _ => Err(Fault::invalid("a tensor is given, a sequence is wanted")),
        }
    }

    /// The tensors of a sequence.
    fn list(&self, slot: Slot<'m>) -> Result<Vec<ValueId>, Fault> {
        match self.sequence(slot)? {
            List::Items(items) => Ok(items),
            _ => Err(open_length()),
        }
    }

    fn stacked(&self, slot: Slot<'m>) -> Option<Stacked> {
        match self.sequence(slot) {
            Ok(List::Stacked(s)) => Some(s),
            _ => None,
        }
    }

    /// The tensors of a sequence with a new one among them, at the end where no position is given.
    fn inserted(
        &mut self,
        items: &[ValueId],
        new: ValueId,
        at: Option<Slot<'m>>,
        origin: &Origin,
    ) -> Result<Slot<'m>, Fault> {
        if items.len() >= MAX_ITEMS {
            return Err(too_many(items.len() + 1));
        }
        let at = match at {
            None => Dim::from(items.len()),
            at => self.position(at, items.len(), items.len() + 1)?,
        };
        let mut all = vec![];
        for i in 0..=items.len() {
            // What was there, the new one, or what was there before.
            let was = items.get(i).copied();
            let before = i.checked_sub(1).map(|i| items[i]);
            let three = [was.unwrap_or(new), new, before.unwrap_or(new)];
            let which = reached(&at, i) + i.checked_sub(1).map_or(Dim::ZERO, |i| reached(&at, i));
            all.push(self.chosen(&three, &which, (&at, items.len() + 1), origin)?);
        }
        Ok(self.new_list(all))
    }

    /// A position, which is one integer.
    fn whole(&self, slot: Option<Slot<'m>>) -> Result<ValueId, Fault> {
        let v = tensor(slot.unwrap_or(Slot::Absent))?;
        let fact = self.graph.fact(v);
        match fact.dtype.is_int() && fact.element_count().as_const().is_none_or(|n| n == 1) {
            true => Ok(v),
            false => Err(Fault::invalid(format!("the position is {fact}, not one integer"))),
        }
    }

    /// A position in a list of `length`, from its start; one that is known is below `end`.
    fn position(&mut self, slot: Option<Slot<'m>>, length: usize, end: usize) -> Result<Dim, Fault> {
        let v = self.whole(slot)?;
        let fact = self.graph.fact(v);
        let constant = self.graph.constant(v).map(Tensor::to_i64);
        let given = match (constant.as_deref(), fact.known.as_deref()) {
            (Some([at]), _) => Dim::from(*at),
            (None, Some([at])) => at.clone(),
            _ => {
                self.want_number(v);
                return Err(Fault::unsupported("a position in a sequence that depends on data")
                    .hint("positions must follow from shapes, constants and inputs"));
            }
        };
        let n = length as i64;
        match given.as_const() {
            Some(at) if at < -n || at >= end as i64 => Err(Fault::invalid(format!(
                "position {at} in a sequence of {length} tensors"
            ))),
            Some(at) => Ok(Dim::from(if at < 0 { at + n } else { at })),
            None => Ok(given.clone() + chosen::negative(&given) * Dim::from(n)),
        }
    }

    /// The tensor at a position of a list, which only a run knows; as a rule of it, a number is below another.
    fn chosen(
        &mut self,
        items: &[ValueId],
        at: &Dim,
        (number, below): (&Dim, usize),
        origin: &Origin,
    ) -> Result<ValueId, Fault> {
        if let Some(at) = at.as_const() {
            let item = usize::try_from(at).ok().and_then(|at| items.get(at));
            return item
                .copied()
                .ok_or_else(|| Fault::invalid(format!("position {at} in a sequence of {} tensors", items.len())));
        }
        if let [first, rest @ ..] = items
            && rest.iter().all(|v| v == first)
        {
            return Ok(*first);
        }
        let facts: Vec<Fact> = items.iter().map(|v| self.graph.fact(*v).clone()).collect();
        let Some(first) = facts.first() else {
            return Err(Fault::invalid("a position in an empty sequence"));
        };
        if let Some(other) = facts
            .iter()
            .find(|f| f.dtype != first.dtype || f.rank() != first.rank())
        {
            return Err(Fault::unsupported(format!(
                "one of several tensors of a sequence, which a run chooses, would be {first} or {other}"
            ))
            .hint("they must have the same element type and rank"));
        }
        let shapes: Vec<&[Dim]> = facts.iter().map(|f| f.shape.as_slice()).collect();
        let (start, shape) = chosen::member(&shapes, at);
        let mut flat = vec![];
        for (v, fact) in items.iter().zip(&facts) {
            let count = Attr::Dims(vec![fact.element_count()]);
            flat.push(self.apply(
                "Reshape",
                vec![("allowzero", Attr::Int(1)), ("shape", count)],
                &[*v],
                origin,
            )?);
        }
        let all = self.variadic("Concat", vec![("axis", Attr::Int(0))], flat, origin)?;
        let within = vec![Dim::ZERO, number.clone(), number.clone(), Dim::from(below) - Dim::ONE];
        let attrs = vec![
            ("start", Attr::Dims(vec![start])),
            ("shape", Attr::Dims(shape)),
            ("within", Attr::Dims(within)),
        ];
        self.apply("cameo::Member", attrs, &[all], origin)
    }

    pub fn variadic(
        &mut self,
        op: &str,
        attrs: Vec<(&str, Attr)>,
        of: Vec<ValueId>,
        origin: &Origin,
    ) -> Result<ValueId, Fault> {
        let op = Op::find(op).ok_or_else(|| Fault::unsupported(format!("operator `{op}`")))?;
        let attrs: Attrs = attrs.into_iter().map(|(k, a)| (k.into(), a)).collect();
        let results = self.typed(op, &attrs, of.into_iter().map(Some).collect(), 1, origin)?;
        Ok(results[0])
    }

    /// The tensors one after the other along an axis, or along a new one.
    pub fn joined(&mut self, mut items: Vec<ValueId>, axis: i64, new: bool, origin: &Origin) -> Result<ValueId, Fault> {
        let Some(first) = items.first() else {
            return Err(Fault::unsupported("an empty sequence as one tensor"));
        };
        let rank = self.graph.fact(*first).rank() + usize::from(new);
        let axis = normalize_axis(axis, rank)? as i64;
        if new {
            let axes = || vec![("axes", Attr::Dims(vec![Dim::from(axis)]))];
            for v in &mut items {
                *v = self.apply("Unsqueeze", axes(), &[*v], origin)?;
            }
        }
        self.variadic("Concat", vec![("axis", Attr::Int(axis))], items, origin)
    }

    fn split(
        &mut self,
        slots: &[Slot<'m>],
        attrs: &[(&'m str, &'m AttributeProto)],
        origin: &Origin,
    ) -> Result<List, Fault> {
        let x = tensor(slots.first().copied().unwrap_or(Slot::Absent))?;
        let shape = self.graph.fact(x).shape.clone();
        let axis = normalize_axis(int(attrs, "axis", 0), shape.len())?;
        let stacked = |part: Part| List::Stacked(Stacked { of: x, axis, part });
        let few = |n: &i64| n.unsigned_abs() as usize <= MAX_ITEMS;
        let extent = shape[axis].as_const();
        let mut single = false;
        let sizes: Vec<Dim> = match slots.get(1).copied() {
            None | Some(Slot::Absent) => {
                single = int(attrs, "keepdims", 1) == 0;
                let Some(n) = extent.filter(few) else {
                    return Ok(stacked(if single { Part::Index } else { Part::Slice(Dim::ONE) }));
                };
                vec![Dim::ONE; n as usize]
            }
            Some(slot) => {
                let v = tensor(slot)?;
                let fact = self.graph.fact(v).clone();
                let constant = self
                    .graph
                    .constant(v)
                    .map(|t| t.to_i64().into_iter().map(Dim::from).collect());
                match (constant.or(fact.known.clone().filter(|_| !fact.is_open())), fact.rank()) {
                    (Some(sizes), 1) => sizes,
                    (Some(size), 0) => {
                        let Some(size) = size[0].as_const() else {
                            return Ok(stacked(Part::Slice(size[0].clone())));
                        };
                        if size <= 0 {
                            return Err(Fault::invalid(format!("parts of {size}")));
                        }
                        let Some(n) = extent.filter(|n| few(&(n / size))) else {
                            // No axis is longer, and sums with it stay numbers.
                            return Ok(stacked(Part::Slice(Dim::from(size.min(1 << 40)))));
                        };
                        (0..n)
                            .step_by(size as usize)
                            .map(|at| Dim::from(size.min(n - at)))
                            .collect()
                    }
                    (Some(_), rank) => return Err(Fault::invalid(format!("`split` has rank {rank}"))),
                    (None, 1) if fact.static_shape().is_none() && fact.dtype.is_int() => {
                        // Sizes that are all the same, as exporters write it.
                        let each = integers::all_of(&self.graph, v)
                            .filter(|size| *size > 0 && fact.shape[0].clone() * Dim::from(*size) == shape[axis]);
                        return Ok(stacked(
                            each.map_or(Part::Listed(v), |size| Part::Slice(Dim::from(size))),
                        ));
                    }
                    (None, _) => {
                        self.want_elements(v);
                        return Err(Fault::unsupported("how many tensors the sequence has must be known")
                            .hint("`split` must be a constant, or an input of known length"));
                    }
                }
            }
        };
        if sizes.len() > MAX_ITEMS {
            return Err(too_many(sizes.len()));
        }
        if sizes.is_empty() {
            return match shape[axis].is_zero() {
                true => Ok(List::Items(vec![])),
                false => Err(Fault::invalid(format!("an axis of {} in no parts", shape[axis]))),
            };
        }
        let op = Op::find("Split").ok_or_else(|| Fault::unsupported("operator `Split`"))?;
        let count = sizes.len();
        let attrs = [("axis", Attr::Int(axis as i64)), ("split", Attr::Dims(sizes))];
        let attrs: Attrs = attrs.into_iter().map(|(k, a)| (k.into(), a)).collect();
        let mut parts = self.typed(op, &attrs, vec![Some(x)], count, origin)?;
        if single {
            let axes = Attr::Dims(vec![Dim::from(axis)]);
            for v in &mut parts {
                *v = self.apply("Squeeze", vec![("axes", axes.clone())], &[*v], origin)?;
            }
        }
        Ok(List::Items(parts))
    }

    /// A body for each tensor of a sequence, and of others beside it.
    fn map(
        &mut self,
        scope: &mut Scope<'m>,
        site: &Site,
        attrs: &[(&'m str, &'m AttributeProto)],
        slots: &[Slot<'m>],
        results: usize,
    ) -> Result<Option<Vec<Slot<'m>>>, Fault> {
        let graph = attrs
            .iter()
            .find(|(n, _)| *n == "body")
            .and_then(|(_, a)| a.g.as_deref());
        let Some(graph) = graph else {
            return Err(Fault::invalid("attribute `body` is missing"));
        };
        if graph.input.len() != slots.len() || graph.output.len() < results {
            return Err(Fault::invalid(format!(
                "{} inputs given, the body has {} inputs and {} outputs",
                slots.len(),
                graph.input.len(),
                graph.output.len()
            )));
        }
        let first = slots.first().copied().unwrap_or(Slot::Absent);
        if self.stacked(first).is_some() {
            if !self.functions.enter() {
                return Err(Fault::unsupported(format!("bodies are nested deeper than {MAX_DEPTH}")));
            }
            let made = self.stacked_map(scope, site, graph, slots, results);
            self.functions.leave();
            return made;
        }
        let count = self.list(first)?.len();
        let mut all = vec![vec![]; results];
        for i in 0..count {
            let mut given = vec![];
            for (formal, slot) in graph.input.iter().zip(slots) {
                let item = match slot {
                    Slot::List(_) => {
                        let items = self.list(*slot)?;
                        match items.get(i) {
                            Some(v) if items.len() == count => Slot::Value(*v),
                            _ => return Err(Fault::invalid("the sequences have different lengths")),
                        }
                    }
                    slot => *slot,
                };
                given.push((formal.name.as_str(), item));
            }
            let Some(values) = self.inlined(scope, site, graph, given, results)? else {
                return Ok(None);
            };
            for (list, slot) in all.iter_mut().zip(values) {
                list.push(tensor(slot)?);
            }
        }
        Ok(Some(all.into_iter().map(|list| self.new_list(list)).collect()))
    }

    /// The first outputs of a body that becomes part of the graph around it; `Ok(None)` when something in it failed and is
    /// reported.
    pub fn inlined(
        &mut self,
        scope: &mut Scope<'m>,
        site: &Site,
        graph: &'m GraphProto,
        given: Vec<(&'m str, Slot<'m>)>,
        results: usize,
    ) -> Result<Option<Vec<Slot<'m>>>, Fault> {
        if !self.functions.enter() {
            return Err(Fault::unsupported(format!("bodies are nested deeper than {MAX_DEPTH}")));
        }
        let outputs: Vec<&'m str> = graph.output[..results].iter().map(|o| o.name.as_str()).collect();
        let slots = self.inside(scope, site, graph, given, &outputs, true);
        self.functions.leave();
        let firm = |(slot, name): (Result<Slot<'m>, Fault>, &&'m str)| match slot {
            Ok(Slot::Loose(_)) => Err(of_loose(name)),
            slot => slot,
        };
        let slots = slots
            .into_iter()
            .zip(&outputs)
            .map(firm)
            .collect::<Result<Vec<_>, _>>()?;
        let failed = slots.iter().any(|s| matches!(s, Slot::Failed));
        Ok((!failed && !self.stopped).then_some(slots))
    }
}

/// 1 where a position is at most `i`.
fn reached(at: &Dim, i: usize) -> Dim {
    chosen::negative(&(at.clone() - Dim::from(i + 1)))
}

fn tensor(slot: Slot) -> Result<ValueId, Fault> {
    match slot {
        Slot::Value(v) => Ok(v),
        Slot::List(_) => Err(Fault::invalid("a sequence is given, a tensor is wanted")),
        _ => Err(Fault::invalid("a tensor is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_as_text() {
        let fixed = |v: &[i64]| v.iter().map(|n| Extent::Fixed(*n)).collect::<Vec<_>>();
        assert_eq!("3".parse(), Ok(Items::Count(3)));
        assert_eq!(" none ".parse(), Ok(Items::Absent));
        assert_eq!(
            "[2,3],[4]".parse(),
            Ok(Items::Shapes(vec![fixed(&[2, 3]), fixed(&[4])]))
        );
        assert_eq!("[]".parse(), Ok(Items::Shapes(vec![vec![]])));
        let open = vec![Extent::Any, Extent::Named("N".into())];
        assert_eq!("[ ?, N ]".parse(), Ok(Items::Shapes(vec![open])));
        for wrong in ["", "-1", "2,3", "[2", "[2][3]", "[2,],[3]", "[-1]", "99999"] {
            assert!(wrong.parse::<Items>().is_err(), "{wrong}");
        }
    }
}
