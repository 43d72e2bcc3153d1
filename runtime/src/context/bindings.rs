//! What is bound to the inputs and outputs of a model.

use super::State;
use crate::sys::Region;

pub(super) struct Input {
    /// Null when not bound.
    pub data: *const u8,
    pub bytes: usize,
    pub shape: Vec<i64>,
    /// Whether `shape` was ever set.
    pub shaped: bool,
    /// For a cache, in whose memory the run writes.
    pub memory: Memory,
    /// The context's memory for a cache.
    pub own: Region,
    /// What kernels see of strings.
    pub handles: Vec<u64>,
    pub is_text: bool,
}

/// Where a run finds the rows of an input, and writes those behind them if it is a cache.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// In memory that is only read.
    Read,
    /// In the context's, where a run begins by copying it from memory that is only read.
    Copied,
    /// In memory of the caller with room for this many rows.
    Caller(i64),
    /// In the context's, with room for this many rows.
    Own(i64),
}

impl Memory {
    pub const fn room(self) -> Option<i64> {
        match self {
            Self::Read | Self::Copied => None,
            Self::Caller(rows) | Self::Own(rows) => Some(rows),
        }
    }
}

impl Input {
    /// Where kernels find it.
    pub fn data(&self) -> *const u8 {
        if self.memory == Memory::Copied {
            self.own.as_ptr()
        } else if self.is_text {
            self.handles.as_ptr().cast()
        } else {
            self.data
        }
    }

    pub fn set_shape(&mut self, shape: &[i64], memory: Memory, state: &mut State) {
        if !self.shaped || self.shape != shape || self.memory != memory {
            self.shape.copy_from_slice(shape);
            self.shaped = true;
            self.memory = memory;
            *state = State::Bound;
        }
    }

    pub fn set_data(&mut self, data: *const u8, bytes: usize, state: &mut State) {
        // Nothing lies somewhere.
        let data = if data.is_null() {
            Region::empty().as_ptr().cast_const()
        } else {
            data
        };
        if self.data != data {
            *state = (*state).min(State::Planned);
        }
        (self.data, self.bytes) = (data, bytes);
    }
}

pub(super) struct Output {
    /// The caller's buffer, null when the context owns the output.
    pub caller: *mut u8,
    pub capacity: usize,
    pub own: Region,
    /// Those of the last run, before a run the largest: the same where a run counts nothing.
    pub shape: Vec<i64>,
    pub bytes: usize,
    /// The most bytes for the shapes of the inputs.
    pub most: usize,
    /// What kernels write of strings.
    pub handles: Vec<u64>,
    pub is_text: bool,
}

impl Output {
    pub fn data(&self) -> *mut u8 {
        if self.caller.is_null() {
            self.own.as_ptr()
        } else {
            self.caller
        }
    }

    /// Where kernels write it.
    pub fn written(&mut self) -> *mut u8 {
        if self.is_text {
            self.handles.as_mut_ptr().cast()
        } else {
            self.data()
        }
    }
}
