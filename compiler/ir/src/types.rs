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
    /// A text, by its handle: [`crate::tensor::Texts`].
    String = 8,
    Bool = 9,
    F16 = 10,
    F64 = 11,
    U32 = 12,
    U64 = 13,
    BF16 = 16,
    F8E4M3FN = 17,
    F8E4M3FNUZ = 18,
    F8E5M2 = 19,
    F8E5M2FNUZ = 20,
    U4 = 21,
    I4 = 22,
    F4E2M1 = 23,
    F8E8M0 = 24,
    U2 = 25,
    I2 = 26,
}

impl DType {
    pub const ALL: [Self; 24] = [
        Self::F32,
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::String,
        Self::Bool,
        Self::F16,
        Self::F64,
        Self::U32,
        Self::U64,
        Self::BF16,
        Self::F8E4M3FN,
        Self::F8E4M3FNUZ,
        Self::F8E5M2,
        Self::F8E5M2FNUZ,
        Self::U4,
        Self::I4,
        Self::F4E2M1,
        Self::F8E8M0,
        Self::U2,
        Self::I2,
    ];

    /// From the number in ONNX `TensorProto.DataType`.
    pub fn from_onnx(n: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|d| *d as i32 == n)
    }

    /// Bytes of one element where each has its own: those of less than a byte do so inside of programs only (see
    /// [`crate::narrow`]).
    pub const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::F8E4M3FN | Self::F8E4M3FNUZ | Self::F8E5M2 | Self::F8E5M2FNUZ | Self::F8E8M0 => 1,
            Self::U4 | Self::I4 | Self::F4E2M1 | Self::U2 | Self::I2 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::I64 | Self::U64 | Self::F64 | Self::String => 8,
        }
    }

    /// Bits of one element where they are packed.
    pub const fn bits(self) -> usize {
        match self {
            Self::U4 | Self::I4 | Self::F4E2M1 => 4,
            Self::U2 | Self::I2 => 2,
            _ => self.size() * 8,
        }
    }

    /// Of a type without arithmetic: a float of at most eight bits, or an integer of less.
    pub const fn is_narrow(self) -> bool {
        self.is_small_float() || self.bits() < 8
    }

    /// A float of at most eight bits.
    pub const fn is_small_float(self) -> bool {
        matches!(
            self,
            Self::F8E4M3FN | Self::F8E4M3FNUZ | Self::F8E5M2 | Self::F8E5M2FNUZ | Self::F8E8M0 | Self::F4E2M1
        )
    }

    /// Whether elements are real numbers, narrow types included.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::BF16) || self.is_small_float()
    }

    /// Signed or unsigned integer, not bool.
    pub const fn is_int(self) -> bool {
        !self.is_float() && !matches!(self, Self::Bool | Self::String)
    }

    pub const fn is_signed(self) -> bool {
        self.is_float() || matches!(self, Self::I8 | Self::I16 | Self::I32 | Self::I64 | Self::I4 | Self::I2)
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
            Self::String => "string",
            Self::Bool => "bool",
            Self::F16 => "f16",
            Self::F64 => "f64",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::BF16 => "bf16",
            Self::F8E4M3FN => "f8e4m3fn",
            Self::F8E4M3FNUZ => "f8e4m3fnuz",
            Self::F8E5M2 => "f8e5m2",
            Self::F8E5M2FNUZ => "f8e5m2fnuz",
            Self::U4 => "u4",
            Self::I4 => "i4",
            Self::F4E2M1 => "f4e2m1",
            Self::F8E8M0 => "f8e8m0",
            Self::U2 => "u2",
            Self::I2 => "i2",
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
    /// The elements in row-major order, of integer and bool tensors of at most [`Fact::KNOWN_MAX`] elements. Of floats that
    /// follow from extents and elements of inputs, and of those of inputs that give scales and bounds, the bits of `f64`, as
    /// [`Dim::real`] has them.
    /// Of a list whose length is a symbol, as many as it has at most: those that it lacks are 0.
    pub known: Option<Vec<Dim>>,
}

impl Fact {
    /// Shapes have at most a few dozen elements; above this a tensor is data, not a shape.
    pub const KNOWN_MAX: usize = 64;

    /// Floats that are known at most: scales of axes.
    pub const REALS_MAX: usize = 16;

    pub fn new(dtype: DType, shape: impl Into<Vec<Dim>>) -> Self {
        Self {
            dtype,
            shape: shape.into(),
            known: None,
        }
    }

    /// With elements, which are dropped when there are too many of them.
    pub fn with_known(dtype: DType, shape: impl Into<Vec<Dim>>, known: Vec<Dim>) -> Self {
        let numbers = !dtype.is_float() && dtype != DType::String;
        let known = (known.len() <= Self::KNOWN_MAX && numbers).then_some(known);
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

    /// Whether this is a list of which some known elements may be missing.
    pub fn is_open(&self) -> bool {
        self.known.is_some() && self.rank() == 1 && self.shape[0].as_const().is_none()
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
