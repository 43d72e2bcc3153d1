//! Element types and what is known of a value before it is computed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::dim::ELEMENT;
use crate::{Dim, Sym};

/// Element type of a tensor. Numbers are those of ONNX `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum DType {
    F32 = 1,
    U8 = 2,
    I8 = 3,
    U16 = 4,
    I16 = 5,
    I32 = 6,
    I64 = 7,
    Bool = 9,
    F16 = 10,
    F64 = 11,
    U32 = 12,
    U64 = 13,
    BF16 = 16,
}

impl DType {
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::Bool,
        Self::F16,
        Self::F64,
        Self::U32,
        Self::U64,
        Self::BF16,
    ];

    /// From the number in ONNX `TensorProto.DataType`.
    pub fn from_onnx(n: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|d| *d as i32 == n)
    }

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::BF16)
    }

    /// Signed or unsigned integer, not bool.
    pub const fn is_int(self) -> bool {
        !self.is_float() && !matches!(self, Self::Bool)
    }

    pub const fn is_signed(self) -> bool {
        self.is_float() || matches!(self, Self::I8 | Self::I16 | Self::I32 | Self::I64)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::Bool => "bool",
            Self::F16 => "f16",
            Self::F64 => "f64",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::BF16 => "bf16",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|d| d.name() == s).ok_or(())
    }
}

/// What is known of a value at compile time: type, shape and, for small integer tensors, the elements as dims.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fact {
    pub dtype: DType,
    /// Extent of each axis, outermost first; empty for a scalar.
    pub shape: Vec<Dim>,
    /// The elements in row-major order. Only for integer and bool tensors of at most [`Fact::KNOWN_MAX`] elements.
    pub known: Option<Vec<Dim>>,
}

impl Fact {
    /// Shapes have at most a few dozen elements; above this a tensor is data, not a shape.
    pub const KNOWN_MAX: usize = 64;

    pub fn new(dtype: DType, shape: impl Into<Vec<Dim>>) -> Self {
        Self {
            dtype,
            shape: shape.into(),
            known: None,
        }
    }

    /// With elements, which are dropped when there are too many of them.
    pub fn with_known(dtype: DType, shape: impl Into<Vec<Dim>>, known: Vec<Dim>) -> Self {
        let known = (known.len() <= Self::KNOWN_MAX && !dtype.is_float()).then_some(known);
        Self {
            dtype,
            shape: shape.into(),
            known,
        }
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The shape when no symbol is in it.
    pub fn static_shape(&self) -> Option<Vec<usize>> {
        self.shape
            .iter()
            .map(|d| d.as_const().and_then(|c| usize::try_from(c).ok()))
            .collect()
    }

    /// The symbols that stand for elements, with their positions: of an input, these elements are read when it is given.
    pub fn elements(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        let known = self.known.iter().flatten().enumerate();
        known.filter_map(|(i, d)| match d.as_sym() {
            Some(Sym::Named(name)) if name.starts_with(ELEMENT) => Some((name, i)),
            _ => None,
        })
    }

    pub fn element_count(&self) -> Dim {
        Dim::product(&self.shape)
    }
}

impl fmt::Display for Fact {
    /// `f32[B,S,384]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}
