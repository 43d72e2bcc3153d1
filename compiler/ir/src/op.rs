//! What an operation is: its schema, shape rule, meaning (`eval`) and loops (`lower`), in one place per operation.
//!
//! Everything that treats operations uniformly reads the [`Schema`]: import, verification, printing and parsing, the egg
//! language, the support table and the fuzz generator. `eval` and `lower` state the meaning twice, independently; tests
//! compare them.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::structured::Compute;
use crate::{DType, Dim, Fact, Graph, Real, Tensor};

/// Why an operation cannot be typed, evaluated or lowered. The node's name is added by whoever knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpError {
    /// The model is wrong: ranks, types, extents or attributes contradict each other.
    Invalid(String),
    /// The model is right and Cameo cannot do it (yet).
    Unsupported(String),
    /// The same, as long as the elements of this input are not known: they decide shapes.
    Unknown { input: usize, name: &'static str },
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(m) => write!(f, "invalid: {m}"),
            Self::Unsupported(_) | Self::Unknown { .. } => write!(f, "unsupported: {}", self.message()),
        }
    }
}

impl std::error::Error for OpError {}

impl OpError {
    /// What is wrong, without its kind.
    pub fn message(&self) -> String {
        match self {
            Self::Invalid(m) | Self::Unsupported(m) => m.clone(),
            Self::Unknown { input, name } => format!("input {input} ({name}) must be known at compile time"),
        }
    }
}

/// Shorthand for [`OpError::Invalid`].
pub fn invalid<T>(message: impl Into<String>) -> Result<T, OpError> {
    Err(OpError::Invalid(message.into()))
}

/// Shorthand for [`OpError::Unsupported`].
pub fn unsupported<T>(message: impl Into<String>) -> Result<T, OpError> {
    Err(OpError::Unsupported(message.into()))
}

/// A set of element types, one bit per [`DType`] number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Types(pub u32);

impl Types {
    pub const fn of(types: &[DType]) -> Self {
        let (mut bits, mut i) = (0, 0);
        while i < types.len() {
            bits |= 1 << types[i] as u32;
            i += 1;
        }
        Self(bits)
    }
    pub const FLOAT: Self = Self::of(&[DType::F32, DType::F64, DType::F16, DType::BF16]);
    pub const INT: Self = Self::of(&[
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
    ]);
    pub const BOOL: Self = Self::of(&[DType::Bool]);
    pub const NUMBER: Self = Self(Self::FLOAT.0 | Self::INT.0);
    /// What bodies compute with.
    pub const PLAIN: Self = Self(Self::NUMBER.0 | Self::BOOL.0);
    pub const FLOAT8: Self = Self::of(&[DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F8E5M2FNUZ]);
    /// Integers of less than a byte.
    pub const FEW_BITS: Self = Self::of(&[DType::I4, DType::U4, DType::I2, DType::U2]);
    /// Without arithmetic: these are moved, and converted to others.
    pub const NARROW: Self = Self(Self::FLOAT8.0 | Self::FEW_BITS.0 | Self::of(&[DType::F8E8M0, DType::F4E2M1]).0);
    pub const ANY: Self = Self(Self::PLAIN.0 | Self::NARROW.0);
    pub const STRING: Self = Self::of(&[DType::String]);
    /// What can be moved, and be nothing else.
    pub const MOVED: Self = Self(Self::ANY.0 | Self::STRING.0);
    /// What can be compared for equality.
    pub const COMPARED: Self = Self(Self::PLAIN.0 | Self::STRING.0);
    pub const I64: Self = Self::of(&[DType::I64]);
    pub const INDEX: Self = Self::of(&[DType::I32, DType::I64]);

    pub const fn contains(self, t: DType) -> bool {
        self.0 >> t as u32 & 1 == 1
    }

    /// Sets that tables name instead of listing their types, the largest first.
    pub const NAMED: [(&'static str, Self); 5] = [
        ("any", Self::ANY),
        ("number", Self::NUMBER),
        ("float", Self::FLOAT),
        ("int", Self::INT),
        ("float8", Self::FLOAT8),
    ];

    /// The types, floats before others.
    pub fn list(self) -> Vec<DType> {
        let mut all: Vec<DType> = DType::ALL.into_iter().filter(|t| self.contains(*t)).collect();
        all.sort_by_key(|t| !t.is_float());
        all
    }
}

impl fmt::Display for Types {
    /// With names of sets: `float i32`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut rest, mut parts) = (*self, vec![]);
        for (name, set) in Self::NAMED {
            if rest.0 & set.0 == set.0 {
                parts.push(name);
                rest.0 &= !set.0;
            }
        }
        parts.extend(rest.list().iter().map(|t| t.name()));
        f.write_str(&parts.join(" "))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    One,
    Optional,
    /// Any number, at least one; only the last parameter.
    Variadic,
}

/// An input or output of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    pub name: &'static str,
    pub types: Types,
    pub arity: Arity,
    /// Parameters of the same nonzero group have the same element type.
    pub group: u8,
    /// Inputs only: the attribute that holds the elements (as dims) once they are known; then the input is absent.
    pub attr: Option<&'static str>,
}

impl Param {
    /// A required parameter of type group 1.
    pub const fn new(name: &'static str, types: Types) -> Self {
        Self {
            name,
            types,
            arity: Arity::One,
            group: 1,
            attr: None,
        }
    }
    pub const fn group(mut self, group: u8) -> Self {
        self.group = group;
        self
    }
    pub const fn optional(mut self) -> Self {
        self.arity = Arity::Optional;
        self
    }
    pub const fn variadic(mut self) -> Self {
        self.arity = Arity::Variadic;
        self
    }
    /// Of no type group, replaced by attribute `attr` once its elements are known.
    pub const fn shape_like(mut self, attr: &'static str) -> Self {
        self.attr = Some(attr);
        self.group = 0;
        self
    }
}

/// The kind of an attribute and its value when it is absent.
#[derive(Clone, Copy, Debug)]
pub enum AttrDef {
    Int(i64),
    Float(f32),
    /// A text that is one of these; the first when it is absent.
    OneOf(&'static [&'static str]),
    Ints(&'static [i64]),
    Floats(&'static [f32]),
    /// No default; may be absent.
    OptInt,
    OptFloat,
    OptInts,
    OptFloats,
    OptStr,
    OptStrs,
    OptTensor,
    OptDims,
    OptDType,
    /// Must be given.
    ReqInt,
    ReqInts,
    ReqStr,
    ReqOneOf(&'static [&'static str]),
    ReqTensor,
    ReqDType,
    ReqDims,
    ReqGraph,
    /// The name of a dimension that no operand's shape gives, which begins with this: importers invent it.
    Symbol(&'static str),
    /// The name of a dimension that a run tells from the contents of the first operand before it plans: importers invent it,
    /// where that operand is an input of the model. Without it the operand is constant.
    Probe,
}

impl AttrDef {
    /// What a value is, for messages and tables.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Int(_) | Self::OptInt | Self::ReqInt => "an integer",
            Self::Float(_) | Self::OptFloat => "a float",
            Self::ReqStr | Self::OptStr | Self::OneOf(_) | Self::ReqOneOf(_) => "a text",
            Self::Ints(_) | Self::OptInts | Self::ReqInts | Self::OptDims | Self::ReqDims => "a list of integers",
            Self::Floats(_) | Self::OptFloats => "a list of floats",
            Self::OptStrs => "a list of texts",
            Self::OptTensor | Self::ReqTensor => "a tensor",
            Self::OptDType | Self::ReqDType => "an element type",
            Self::ReqGraph => "a graph",
            Self::Symbol(_) | Self::Probe => "left out",
        }
    }

    /// Whether it is Cameo's own: models do not have it.
    pub const fn names_dim(self) -> bool {
        matches!(self, Self::Symbol(_) | Self::Probe)
    }

    pub const fn is_required(self) -> bool {
        matches!(
            self,
            Self::ReqInt
                | Self::ReqInts
                | Self::ReqStr
                | Self::ReqOneOf(_)
                | Self::ReqTensor
                | Self::ReqDType
                | Self::ReqDims
                | Self::ReqGraph
                | Self::Symbol(_)
        )
    }

    /// The texts that it may be, where not every text will do.
    pub const fn choices(self) -> Option<&'static [&'static str]> {
        match self {
            Self::OneOf(list) | Self::ReqOneOf(list) => Some(list),
            _ => None,
        }
    }
}

/// The table entry of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// As in ONNX; operations of other domains are written `domain::Name`, Cameo's own `cameo::Name`.
    pub name: &'static str,
    /// The meaning as a formula in one line, for the documentation.
    pub doc: &'static str,
    pub inputs: &'static [Param],
    pub outputs: &'static [Param],
    pub attrs: &'static [(&'static str, AttrDef)],
    /// `f(a, b) == f(b, a)`.
    pub commutative: bool,
    /// Output element `i` depends only on the inputs' (broadcast) elements `i`.
    pub pointwise: bool,
    /// The opset of its domain that brought it.
    pub since: i64,
    /// What is refused, and what must be known before a run beyond the elements of [`Param::attr`]; for the documentation.
    pub limits: &'static [&'static str],
    /// Code of the caller computes it when a program runs: nothing here can, and it has further attributes, which are that
    /// code's.
    pub external: bool,
}

impl Schema {
    pub const fn new(
        name: &'static str,
        doc: &'static str,
        inputs: &'static [Param],
        outputs: &'static [Param],
        attrs: &'static [(&'static str, AttrDef)],
    ) -> Self {
        Self {
            name,
            doc,
            inputs,
            outputs,
            attrs,
            commutative: false,
            pointwise: false,
            since: 1,
            limits: &[],
            external: false,
        }
    }
    pub const fn since(mut self, opset: i64) -> Self {
        self.since = opset;
        self
    }
    pub const fn limits(mut self, limits: &'static [&'static str]) -> Self {
        self.limits = limits;
        self
    }
    pub const fn pointwise(mut self) -> Self {
        self.pointwise = true;
        self
    }
    pub const fn commutative(mut self) -> Self {
        self.commutative = true;
        self
    }
    pub const fn external(mut self) -> Self {
        self.external = true;
        self
    }
    /// The attributes that models have, not Cameo's names of dimensions.
    pub fn model_attrs(&self) -> impl Iterator<Item = &'static (&'static str, AttrDef)> + use<> {
        self.attrs.iter().filter(|(_, def)| !def.names_dim())
    }
    /// The parameter that input `i` belongs to.
    pub fn input(&self, i: usize) -> Option<&Param> {
        self.inputs
            .get(i)
            .or_else(|| self.inputs.last().filter(|p| p.arity == Arity::Variadic))
    }
    /// The parameter that output `i` belongs to.
    pub fn output(&self, i: usize) -> Option<&Param> {
        self.outputs
            .get(i)
            .or_else(|| self.outputs.last().filter(|p| p.arity == Arity::Variadic))
    }
    /// Whether output `i` may be of a type, with these inputs.
    pub fn gives(&self, i: usize, dtype: DType, args: &[Option<Arg>]) -> bool {
        let Some(p) = self.output(i) else { return false };
        let same = |(i, a): (usize, &Option<Arg>)| match (self.input(i), a) {
            (Some(q), Some(a)) => p.group == 0 || p.group != q.group || a.fact.dtype == dtype,
            _ => true,
        };
        p.types.contains(dtype) && args.iter().enumerate().all(same)
    }
    pub fn attr(&self, name: &str) -> Option<AttrDef> {
        self.attrs.iter().find(|(n, _)| *n == name).map(|(_, d)| *d)
    }
    /// Empty in the default domain.
    pub fn domain(&self) -> &'static str {
        self.name.split_once("::").map_or("", |(domain, _)| domain)
    }
}

/// An attribute value.
#[derive(Clone, Debug)]
pub enum Attr {
    Int(i64),
    Float(f32),
    Str(Arc<str>),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strs(Vec<Arc<str>>),
    /// Symbolic integers: operands that became known (shapes, starts, pads).
    Dims(Vec<Dim>),
    DType(DType),
    Tensor(Tensor),
    Graph(Arc<Graph>),
}

impl PartialEq for Attr {
    fn eq(&self, o: &Self) -> bool {
        match (self, o) {
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::Ints(a), Self::Ints(b)) => a == b,
            (Self::Floats(a), Self::Floats(b)) => a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits())),
            (Self::Strs(a), Self::Strs(b)) => a == b,
            (Self::Dims(a), Self::Dims(b)) => a == b,
            (Self::DType(a), Self::DType(b)) => a == b,
            (Self::Tensor(a), Self::Tensor(b)) => a == b,
            // Subgraphs are never merged by value.
            (Self::Graph(a), Self::Graph(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Attr {}

impl Hash for Attr {
    fn hash<H: Hasher>(&self, h: &mut H) {
        match self {
            Self::Int(a) => a.hash(h),
            Self::Float(a) => a.to_bits().hash(h),
            Self::Str(a) => a.hash(h),
            Self::Ints(a) => a.hash(h),
            Self::Floats(a) => a.iter().for_each(|x| x.to_bits().hash(h)),
            Self::Strs(a) => a.hash(h),
            Self::Dims(a) => a.hash(h),
            Self::DType(a) => a.hash(h),
            Self::Tensor(a) => a.hash(h),
            Self::Graph(_) => {}
        }
    }
}

/// Attributes by name, in name order.
pub type Attrs = BTreeMap<Arc<str>, Attr>;

/// An input as the operation sees it.
#[derive(Clone, Copy, Debug)]
pub struct Arg<'a> {
    pub fact: &'a Fact,
    /// The elements, when they are known bytes (always in `eval`).
    pub constant: Option<&'a Tensor>,
}

/// What an operation is asked about: attributes and inputs. Absent optional inputs are `None`.
#[derive(Clone, Copy, Debug)]
pub struct Cx<'a> {
    pub schema: &'static Schema,
    pub attrs: &'a Attrs,
    pub inputs: &'a [Option<Arg<'a>>],
    /// How many outputs are wanted.
    pub outputs: usize,
}

impl<'a> Cx<'a> {
    pub fn arg(&self, i: usize) -> Option<Arg<'a>> {
        self.inputs.get(i).copied().flatten()
    }

    pub fn has(&self, i: usize) -> bool {
        self.arg(i).is_some()
    }

    pub fn fact(&self, i: usize) -> Result<&'a Fact, OpError> {
        match self.arg(i) {
            Some(a) => Ok(a.fact),
            None => invalid(format!(
                "input {i} ({}) is missing",
                self.schema.input(i).map_or("?", |p| p.name)
            )),
        }
    }

    /// Facts of all inputs; fails when one is missing.
    pub fn facts(&self) -> Result<Vec<&'a Fact>, OpError> {
        (0..self.inputs.len()).map(|i| self.fact(i)).collect()
    }

    /// The elements of input `i`; always there in `eval`.
    pub fn tensor(&self, i: usize) -> Result<&'a Tensor, OpError> {
        match self.arg(i).and_then(|a| a.constant) {
            Some(t) => Ok(t),
            None => invalid(format!(
                "input {i} ({}) has no value here",
                self.schema.input(i).map_or("?", |p| p.name)
            )),
        }
    }

    /// The attribute is none that the schema allows: whoever made the node was told so.
    pub(crate) fn bad<T>(&self, name: &str) -> Result<T, OpError> {
        invalid(format!("attribute `{name}` is missing or not of this operation's"))
    }

    pub fn opt_int(&self, name: &str) -> Result<Option<i64>, OpError> {
        match (self.attrs.get(name), self.schema.attr(name)) {
            (Some(Attr::Int(v)), _) => Ok(Some(*v)),
            (None, Some(AttrDef::Int(v))) => Ok(Some(v)),
            (None, Some(AttrDef::OptInt)) => Ok(None),
            _ => self.bad(name),
        }
    }

    pub fn int(&self, name: &str) -> Result<i64, OpError> {
        self.opt_int(name)?.map_or_else(|| self.bad(name), Ok)
    }

    pub fn opt_float(&self, name: &str) -> Result<Option<f32>, OpError> {
        match (self.attrs.get(name), self.schema.attr(name)) {
            (Some(Attr::Float(v)), _) => Ok(Some(*v)),
            (None, Some(AttrDef::Float(v))) => Ok(Some(v)),
            (None, Some(AttrDef::OptFloat)) => Ok(None),
            _ => self.bad(name),
        }
    }

    pub fn float(&self, name: &str) -> Result<f32, OpError> {
        self.opt_float(name)?.map_or_else(|| self.bad(name), Ok)
    }

    pub fn str(&self, name: &str) -> Result<&'a str, OpError> {
        match (self.attrs.get(name), self.schema.attr(name)) {
            (Some(Attr::Str(v)), _) => Ok(v),
            (None, Some(AttrDef::OneOf([v, ..]))) => Ok(v),
            _ => self.bad(name),
        }
    }

    /// A text that may be absent.
    pub fn opt_str(&self, name: &str) -> Result<Option<&'a str>, OpError> {
        match (self.attrs.get(name), self.schema.attr(name)) {
            (Some(Attr::Str(v)), _) => Ok(Some(v)),
            (None, Some(AttrDef::OptStr | AttrDef::Probe)) => Ok(None),
            _ => self.bad(name),
        }
    }

    pub fn opt_strs(&self, name: &str) -> Result<Option<&'a [Arc<str>]>, OpError> {
        match (self.attrs.get(name), self.schema.attr(name)) {
            (Some(Attr::Strs(v)), _) => Ok(Some(v)),
            (None, Some(AttrDef::OptStrs)) => Ok(None),
            _ => self.bad(name),
        }
    }

    pub fn opt_ints(&self, name: &str) -> Result<Option<Vec<i64>>, OpError> {
        match (self.attrs.get(name), self.schema.attr(name)) {
            (Some(Attr::Ints(v)), _) => Ok(Some(v.clone())),
            (None, Some(AttrDef::Ints(v))) => Ok(Some(v.to_vec())),
            (None, Some(AttrDef::OptInts)) => Ok(None),
            _ => self.bad(name),
        }
    }

    pub fn ints(&self, name: &str) -> Result<Vec<i64>, OpError> {
        self.opt_ints(name)?.map_or_else(|| self.bad(name), Ok)
    }

    /// An attribute of dims.
    pub fn dim_list(&self, name: &str) -> Result<Vec<Dim>, OpError> {
        match self.attrs.get(name) {
            Some(Attr::Dims(d)) => Ok(d.clone()),
            _ => self.bad(name),
        }
    }

    pub fn opt_floats(&self, name: &str) -> Result<Option<Vec<f32>>, OpError> {
        match (self.attrs.get(name), self.schema.attr(name)) {
            (Some(Attr::Floats(v)), _) => Ok(Some(v.clone())),
            (None, Some(AttrDef::Floats(v))) => Ok(Some(v.to_vec())),
            (None, Some(AttrDef::OptFloats)) => Ok(None),
            _ => self.bad(name),
        }
    }

    pub fn opt_dtype(&self, name: &str) -> Result<Option<DType>, OpError> {
        match (self.attrs.get(name), self.schema.attr(name)) {
            (Some(Attr::DType(v)), _) => Ok(Some(*v)),
            (None, Some(AttrDef::OptDType)) => Ok(None),
            _ => self.bad(name),
        }
    }

    pub fn dtype(&self, name: &str) -> Result<DType, OpError> {
        self.opt_dtype(name)?.map_or_else(|| self.bad(name), Ok)
    }

    pub fn opt_tensor(&self, name: &str) -> Result<Option<&'a Tensor>, OpError> {
        match (self.attrs.get(name), self.schema.attr(name)) {
            (Some(Attr::Tensor(v)), _) => Ok(Some(v)),
            (None, Some(AttrDef::OptTensor)) => Ok(None),
            _ => self.bad(name),
        }
    }

    /// The symbolic integers of a shape-like input: from its attribute once it has moved there, else from the input's
    /// known elements. `Ok(None)`: neither given; an input that is given but not known is an error (`Unsupported`).
    pub fn dims(&self, input: usize) -> Result<Option<Vec<Dim>>, OpError> {
        let Some(param) = self.schema.input(input) else {
            return Ok(None);
        };
        if let Some(name) = param.attr {
            match self.attrs.get(name) {
                Some(Attr::Dims(d)) => return Ok(Some(d.clone())),
                Some(Attr::Ints(v)) => return Ok(Some(v.iter().map(|x| Dim::from(*x)).collect())),
                Some(_) => return self.bad(name),
                None => {}
            }
        }
        let Some(arg) = self.arg(input) else { return Ok(None) };
        if let Some(k) = arg.fact.known.as_ref().filter(|_| !arg.fact.is_open()) {
            let floor = |d: &Dim| Dim::map_real(Real::Whole, &Dim::map_real(Real::Floor, d));
            return Ok(Some(match arg.fact.dtype.is_float() {
                true => k.iter().map(floor).collect(),
                false => k.clone(),
            }));
        }
        if arg.fact.element_count().is_zero() {
            return Ok(Some(vec![]));
        }
        if let Some(t) = arg.constant
            && !t.dtype().is_float()
        {
            return Ok(Some(t.to_i64().into_iter().map(Dim::from).collect()));
        }
        Err(OpError::Unknown {
            input,
            name: param.name,
        })
    }

    /// The floats of an operand as [`Dim::real`] has them: known ones, or those of a short constant.
    pub fn reals(&self, input: usize) -> Option<Vec<Dim>> {
        let arg = self.arg(input)?;
        let known = || arg.fact.known.clone().filter(|_| !arg.fact.is_open());
        let constant = || {
            let t = arg.constant.filter(|t| t.len() <= Fact::REALS_MAX)?;
            Some(t.to_f64().into_iter().map(Dim::real).collect())
        };
        arg.fact.dtype.is_float().then(|| constant().or_else(known)).flatten()
    }

    /// [`Cx::dims`] of a list that may be open, and its length if it is.
    pub fn open_dims(&self, input: usize) -> Result<Option<(Vec<Dim>, Option<Dim>)>, OpError> {
        match self.arg(input) {
            Some(Arg { fact, .. }) if fact.is_open() => {
                Ok(fact.known.clone().map(|list| (list, Some(fact.shape[0].clone()))))
            }
            _ => Ok(self.dims(input)?.map(|list| (list, None))),
        }
    }

    /// [`Cx::dims`] where all of them are constants.
    pub fn const_ints(&self, input: usize) -> Result<Option<Vec<i64>>, OpError> {
        let Some(dims) = self.dims(input)? else { return Ok(None) };
        let ints: Option<Vec<i64>> = dims.iter().map(Dim::as_const).collect();
        match ints {
            Some(v) => Ok(Some(v)),
            None => unsupported(format!(
                "input {input} ({}) depends on symbolic dimensions",
                self.schema.input(input).map_or("?", |p| p.name)
            )),
        }
    }
}

/// `axis` counted from the start; negative axes count from the end.
pub fn normalize_axis(axis: i64, rank: usize) -> Result<usize, OpError> {
    let r = rank as i64;
    if axis < -r || axis >= r {
        return invalid(format!("axis {axis} is out of range for rank {rank}"));
    }
    Ok((if axis < 0 { axis + r } else { axis }) as usize)
}

/// `(a, b)`: `a` is at most `b`.
pub type Rule = (Dim, Dim);

/// How an operation is computed.
#[derive(Clone, Debug)]
pub enum Lowering {
    /// Loops, one or more per output, all independent of each other.
    Compute(Vec<Compute>),
    /// A graph of simpler operations. Its inputs stand for the node's present inputs, in order.
    Decompose(Box<Graph>),
    /// A loop over time, as [`crate::ops::scan::Parts`] describes it.
    Scan,
    /// A loop over sequences, as [`crate::ops::ragged::Parts`] describes it.
    Ragged,
    /// [`crate::ops::counted::Compact`].
    Compact,
    /// A call of the caller's code or of a function that is linked in, as [`crate::ops::custom::Parts`] describes it.
    Custom,
}

/// An operation: schema and three functions. Implementations are constants without state.
pub trait OpDef: Sync {
    fn schema(&self) -> &'static Schema;
    /// Types and shapes of the outputs (`cx.outputs` of them), with known elements where they follow.
    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError>;
    /// The reference meaning, plain and slow. All inputs have values and all dims are constants.
    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError>;
    /// What must hold of the symbols beyond what [`OpDef::infer`] could refuse: a run begins by checking it.
    fn rules(&self, _: &Cx) -> Result<Vec<Rule>, OpError> {
        Ok(vec![])
    }
    /// The loops. Must not look at `constant`s except through [`Cx::dims`].
    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError>;
}

/// A reference into the table of operations. Equal when the names are.
#[derive(Clone, Copy)]
pub struct Op(pub &'static dyn OpDef);

impl Op {
    /// By schema name.
    pub fn find(name: &str) -> Option<Self> {
        crate::ops::find(name)
    }
    pub fn schema(self) -> &'static Schema {
        self.0.schema()
    }
    pub fn name(self) -> &'static str {
        self.0.schema().name
    }
}

impl PartialEq for Op {
    fn eq(&self, o: &Self) -> bool {
        self.name() == o.name()
    }
}

impl Eq for Op {}

impl PartialEq<&str> for Op {
    fn eq(&self, o: &&str) -> bool {
        self.name() == *o
    }
}

impl Hash for Op {
    fn hash<H: Hasher>(&self, h: &mut H) {
        self.name().hash(h);
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
