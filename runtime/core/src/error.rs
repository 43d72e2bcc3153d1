//! Everything that can go wrong, as data: a [`Status`] code for programs and a one-line message for people.

use cameo_abi::DType;
use core::fmt;

/// The code of an [`Error`], the same in C (`CAMEO_*` in `cameo.h`).
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Success.
    Ok = 0,
    /// A null or misaligned pointer, a negative extent, or a call out of order.
    InvalidArgument = 1,
    /// No input or output of this name or index.
    UnknownName = 2,
    /// The tensor has another element type than the model.
    WrongDtype = 3,
    /// The tensor has another number of axes than the model.
    WrongRank = 4,
    /// An axis, or the number of bytes, is not what the model or the shape asks for.
    WrongSize = 5,
    /// Two axes that share a symbolic dimension differ.
    SymbolMismatch = 6,
    /// A symbolic dimension is outside the range that the model was compiled for.
    OutOfRange = 7,
    /// A caller's output buffer is smaller than the output.
    BufferTooSmall = 8,
    /// An input has not been bound.
    NotBound = 9,
    /// A shape rule of the model does not hold for these inputs, or a size overflows.
    ShapeRule = 10,
    /// A value that the model uses as an index is outside its axis, or one that it uses as a size is negative or too large.
    IndexOutOfRange = 11,
    /// The weights file cannot be opened.
    WeightsMissing = 12,
    /// The weights file is not one, is truncated, or (when it was verified) has other bytes than were written.
    WeightsCorrupt = 13,
    /// The weights file belongs to another model.
    WeightsMismatch = 14,
    /// The processor lacks instructions that the model was compiled for.
    CpuUnsupported = 15,
    /// Model and runtime come from different versions of Cameo.
    AbiMismatch = 16,
    /// The model's tables are inconsistent.
    InvalidModel = 17,
    /// The operating system gave no memory.
    OutOfMemory = 18,
    /// The operating system gave no thread.
    ThreadFailed = 19,
    /// An operator that the model needs is not supplied, or of another version of the interface.
    OperatorMissing = 20,
    /// An operator that was supplied failed, or gave a shape that the model excludes.
    OperatorFailed = 21,
    /// A string is not UTF-8, a null pointer, or cannot be told from another one.
    InvalidText = 22,
}

impl Status {
    /// Every code, in order of its number.
    pub const ALL: [Self; 23] = [
        Self::Ok,
        Self::InvalidArgument,
        Self::UnknownName,
        Self::WrongDtype,
        Self::WrongRank,
        Self::WrongSize,
        Self::SymbolMismatch,
        Self::OutOfRange,
        Self::BufferTooSmall,
        Self::NotBound,
        Self::ShapeRule,
        Self::IndexOutOfRange,
        Self::WeightsMissing,
        Self::WeightsCorrupt,
        Self::WeightsMismatch,
        Self::CpuUnsupported,
        Self::AbiMismatch,
        Self::InvalidModel,
        Self::OutOfMemory,
        Self::ThreadFailed,
        Self::OperatorMissing,
        Self::OperatorFailed,
        Self::InvalidText,
    ];

    /// The code in words.
    #[must_use]
    pub const fn as_c_str(self) -> &'static core::ffi::CStr {
        match self {
            Self::Ok => c"ok",
            Self::InvalidArgument => c"invalid argument",
            Self::UnknownName => c"unknown name or index",
            Self::WrongDtype => c"wrong dtype",
            Self::WrongRank => c"wrong rank",
            Self::WrongSize => c"wrong size",
            Self::SymbolMismatch => c"symbolic dimensions differ",
            Self::OutOfRange => c"symbolic dimension out of range",
            Self::BufferTooSmall => c"buffer too small",
            Self::NotBound => c"input not bound",
            Self::ShapeRule => c"shape rule violated",
            Self::IndexOutOfRange => c"index out of range",
            Self::WeightsMissing => c"weights missing",
            Self::WeightsCorrupt => c"weights corrupt",
            Self::WeightsMismatch => c"weights of another model",
            Self::CpuUnsupported => c"processor unsupported",
            Self::AbiMismatch => c"ABI mismatch",
            Self::InvalidModel => c"invalid model",
            Self::OutOfMemory => c"out of memory",
            Self::ThreadFailed => c"cannot start a thread",
            Self::OperatorMissing => c"operator missing",
            Self::OperatorFailed => c"operator failed",
            Self::InvalidText => c"invalid string",
        }
    }
}

/// Which list a tensor is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Input,
    Output,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Output => "output",
        })
    }
}

/// Why a call failed. `Display` gives one line that names the tensor, axis or file.
///
/// `T` is text that is made when the failure happens, such as a path: a `String` where there is an allocator. Nothing in
/// this crate makes such text, so its functions leave `T` to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error<T = &'static str> {
    InvalidArgument(&'static str),
    /// `data` of a tensor is not a multiple of its element size.
    Misaligned {
        side: Side,
        name: &'static str,
        bytes: usize,
    },
    UnknownName {
        side: Side,
        name: T,
    },
    UnknownIndex {
        side: Side,
        index: usize,
        count: usize,
    },
    WrongCount {
        expected: usize,
        got: usize,
    },
    UnknownDtype {
        raw: u32,
    },
    WrongDtype {
        side: Side,
        name: &'static str,
        expected: DType,
        got: DType,
    },
    WrongRank {
        name: &'static str,
        expected: usize,
        got: usize,
    },
    WrongExtent {
        name: &'static str,
        axis: usize,
        expected: i64,
        got: i64,
    },
    WrongBytes {
        name: &'static str,
        expected: usize,
        got: usize,
    },
    SymbolMismatch {
        symbol: &'static str,
        name: &'static str,
        axis: usize,
        got: i64,
        bound: SymbolBinding,
    },
    OutOfRange {
        symbol: &'static str,
        name: &'static str,
        axis: usize,
        min: i64,
        max: i64,
        got: i64,
    },
    BufferTooSmall {
        name: &'static str,
        needed: usize,
        capacity: usize,
    },
    /// The memory of an input that rows are added to has no room for them.
    CacheFull {
        name: &'static str,
        room: i64,
        needed: i64,
    },
    NotBound {
        name: &'static str,
    },
    /// What does not hold, and the two numbers that it is about where they are known.
    ShapeRule {
        rule: &'static str,
        sides: Option<[i64; 2]>,
    },
    /// A number that the model computes from the shapes, or a size, is larger than can be.
    SizeOverflow,
    /// A dimension that data gives was larger than it can be, or negative.
    CountOutOfRange {
        symbol: &'static str,
    },
    /// In the step of this name.
    IndexOutOfRange {
        step: &'static str,
    },
    WeightsMissing {
        path: T,
        reason: T,
    },
    WeightsCorrupt {
        path: T,
        reason: &'static str,
    },
    WeightsMismatch {
        path: T,
    },
    CpuUnsupported {
        feature: &'static str,
    },
    NotAModel,
    AbiMismatch {
        model: u32,
        runtime: u32,
    },
    InvalidModel(&'static str),
    OutOfMemory {
        bytes: usize,
    },
    ThreadFailed {
        reason: T,
    },
    /// What is wrong with it: it is not there, say.
    OperatorMissing {
        operator: &'static str,
        node: &'static str,
        reason: &'static str,
    },
    OperatorFailed {
        operator: &'static str,
        node: &'static str,
        message: T,
    },
    /// An operator gave a result an extent that the model excludes.
    OperatorShape {
        operator: &'static str,
        node: &'static str,
        output: usize,
        axis: usize,
        /// `None`: any that is not negative.
        expected: Option<i64>,
        got: i64,
    },
    /// A library of operators.
    LibraryFailed {
        path: T,
        reason: T,
    },
    /// What is wrong with a string of an input.
    InvalidText {
        name: &'static str,
        /// Row-major position.
        at: usize,
        reason: &'static str,
    },
}

/// The axis that gave a symbol its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolBinding {
    pub name: &'static str,
    pub axis: usize,
    pub value: i64,
}

impl<T> Error<T> {
    /// The code that C callers see.
    #[must_use]
    pub const fn status(&self) -> Status {
        match self {
            Self::InvalidArgument(_) | Self::Misaligned { .. } => Status::InvalidArgument,
            Self::UnknownName { .. } | Self::UnknownIndex { .. } | Self::WrongCount { .. } => Status::UnknownName,
            Self::UnknownDtype { .. } | Self::WrongDtype { .. } => Status::WrongDtype,
            Self::WrongRank { .. } => Status::WrongRank,
            Self::WrongExtent { .. } | Self::WrongBytes { .. } => Status::WrongSize,
            Self::SymbolMismatch { .. } => Status::SymbolMismatch,
            Self::OutOfRange { .. } => Status::OutOfRange,
            Self::BufferTooSmall { .. } | Self::CacheFull { .. } => Status::BufferTooSmall,
            Self::NotBound { .. } => Status::NotBound,
            Self::ShapeRule { .. } | Self::SizeOverflow => Status::ShapeRule,
            Self::CountOutOfRange { .. } => Status::OutOfRange,
            Self::IndexOutOfRange { .. } => Status::IndexOutOfRange,
            Self::WeightsMissing { .. } => Status::WeightsMissing,
            Self::WeightsCorrupt { .. } => Status::WeightsCorrupt,
            Self::WeightsMismatch { .. } => Status::WeightsMismatch,
            Self::CpuUnsupported { .. } => Status::CpuUnsupported,
            Self::NotAModel | Self::AbiMismatch { .. } => Status::AbiMismatch,
            Self::InvalidModel(_) => Status::InvalidModel,
            Self::OutOfMemory { .. } => Status::OutOfMemory,
            Self::ThreadFailed { .. } => Status::ThreadFailed,
            Self::OperatorMissing { .. } | Self::LibraryFailed { .. } => Status::OperatorMissing,
            Self::OperatorFailed { .. } | Self::OperatorShape { .. } => Status::OperatorFailed,
            Self::InvalidText { .. } => Status::InvalidText,
        }
    }
}

impl<T: AsRef<str>> fmt::Display for Error<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidArgument(what) => write!(f, "{what}"),
            Self::Misaligned { side, name, bytes } => {
                write!(
                    f,
                    "the data of {side} {name:?} must start at a multiple of {bytes} bytes"
                )
            }
            Self::UnknownName { side, name } => write!(f, "the model has no {side} {:?}", name.as_ref()),
            Self::UnknownIndex { side, index, count } => {
                write!(
                    f,
                    "the model has no {side} number {index}, it has {count} (counted from 0)"
                )
            }
            Self::WrongCount { expected, got } => write!(f, "the model takes {expected} inputs, got {got}"),
            Self::UnknownDtype { raw } => write!(f, "{raw} is not the number of a dtype"),
            Self::WrongDtype {
                side,
                name,
                expected,
                got,
            } => {
                write!(f, "{side} {name:?} has dtype {}, got {}", expected.name(), got.name())
            }
            Self::WrongRank { name, expected, got } => write!(f, "input {name:?} has {expected} axes, got {got}"),
            Self::WrongExtent {
                name,
                axis,
                expected,
                got,
            } => {
                write!(f, "axis {axis} of input {name:?} must be {expected}, got {got}")
            }
            Self::WrongBytes { name, expected, got } => {
                write!(f, "input {name:?} of this shape takes {expected} bytes, got {got}")
            }
            Self::SymbolMismatch {
                symbol,
                name,
                axis,
                got,
                bound,
            } => {
                let SymbolBinding {
                    name: first,
                    axis: first_axis,
                    value,
                } = bound;
                write!(
                    f,
                    "axis {axis} of input {name:?} is dimension {symbol:?}, which axis {first_axis} of input \
                     {first:?} fixed to {value}; got {got}"
                )
            }
            Self::OutOfRange {
                symbol,
                name,
                axis,
                min,
                max,
                got,
            } => {
                write!(
                    f,
                    "axis {axis} of input {name:?} is dimension {symbol:?}, compiled for "
                )?;
                match *max {
                    i64::MAX => write!(f, "at least {min}; got {got}"),
                    max => write!(f, "{min} to {max}; got {got}"),
                }
            }
            Self::BufferTooSmall { name, needed, capacity } => {
                write!(f, "output {name:?} needs {needed} bytes, its buffer has {capacity}")
            }
            Self::CacheFull { name, room, needed } => write!(
                f,
                "the memory of input {name:?} has room for {room} rows, the run needs {needed}"
            ),
            Self::NotBound { name } => write!(f, "input {name:?} is not bound"),
            Self::ShapeRule { rule, sides } => {
                write!(f, "a shape rule of the model does not hold for these inputs: {rule}")?;
                match sides {
                    Some([a, b]) => write!(f, "; here they are {a} and {b}"),
                    None => Ok(()),
                }
            }
            Self::SizeOverflow => write!(
                f,
                "a size that the model needs for these input shapes is larger than can be"
            ),
            Self::CountOutOfRange { symbol } => {
                write!(
                    f,
                    "dimension {symbol:?}, which the inputs' elements give, is out of range"
                )
            }
            Self::IndexOutOfRange { step } => {
                write!(
                    f,
                    "a value used as an index is outside its axis, or as a size is none that can be, in kernel {step:?}"
                )
            }
            Self::WeightsMissing { path, reason } => {
                let (path, reason) = (path.as_ref(), reason.as_ref());
                write!(f, "cannot open the weights file {path:?}: {reason}")
            }
            // Weights that are linked in have no path.
            Self::WeightsCorrupt { path, reason } if path.as_ref().is_empty() => {
                write!(f, "the weights section {reason}")
            }
            Self::WeightsCorrupt { path, reason } => write!(f, "the weights file {:?} {reason}", path.as_ref()),
            Self::WeightsMismatch { path } => {
                write!(f, "the weights file {:?} belongs to another model", path.as_ref())
            }
            Self::CpuUnsupported { feature } => {
                write!(
                    f,
                    "the model was compiled for processors with {feature}, which this one lacks"
                )
            }
            Self::NotAModel => write!(f, "the descriptor is not a Cameo model"),
            Self::AbiMismatch { model, runtime } => {
                write!(
                    f,
                    "the model was compiled for runtime ABI {model}, this runtime has {runtime}"
                )
            }
            Self::InvalidModel(what) => write!(f, "the model is damaged: {what}"),
            Self::OutOfMemory { bytes } => write!(f, "no memory for {bytes} bytes"),
            Self::ThreadFailed { reason } => write!(f, "cannot start a thread: {}", reason.as_ref()),
            Self::OperatorMissing { operator, node, reason } => {
                write!(f, "operator {operator}, which node {node:?} needs, {reason}")
            }
            Self::OperatorFailed {
                operator,
                node,
                message,
            } => {
                write!(f, "operator {operator} failed at node {node:?}: {}", message.as_ref())
            }
            Self::OperatorShape {
                operator,
                node,
                output,
                axis,
                expected,
                got,
            } => {
                write!(
                    f,
                    "operator {operator} at node {node:?} says that axis {axis} of result {output} is {got}, "
                )?;
                match expected {
                    Some(expected) => write!(f, "the model says {expected}"),
                    None => write!(f, "which is no extent"),
                }
            }
            Self::LibraryFailed { path, reason } => {
                write!(f, "cannot load operators from {:?}: {}", path.as_ref(), reason.as_ref())
            }
            Self::InvalidText { name, at, reason } => write!(f, "string {at} of input {name:?} {reason}"),
        }
    }
}

impl<T: AsRef<str> + fmt::Debug> core::error::Error for Error<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_dense_and_named() {
        for (number, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(status as usize, number);
            assert!(!status.as_c_str().is_empty());
        }
    }
}
