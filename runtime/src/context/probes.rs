//! What is read of inputs before a run plans: elements that are dimensions, and contents that operators tell dimensions from.
//!
//! Law: what was planned from is compared before each run, so that a caller may write its inputs between two of them.
#![expect(unsafe_code, reason = "reads memory that the caller has bound")]

use super::{Context, Input, State};
use crate::Error;
use cameo_abi::{Buffer, REGION_INPUT, REGION_WEIGHTS};
use cameo_core::{Custom, InputElement, Tables, integer};

impl Context {
    /// A plan holds for the elements that give it dimensions: they may have changed since.
    pub(super) fn look_at_elements(&mut self) -> Result<(), Error> {
        let tables = self.tables();
        for e in tables.elements() {
            let name = tables.input(e.input as usize).name;
            let value = element(tables, &self.inputs, e).ok_or(Error::NotBound { name })?;
            if self.plan.symbols[e.symbol as usize] != value {
                self.state = State::Bound;
            }
        }
        Ok(())
    }

    /// A plan holds for the contents that operators gave shapes from: they may have changed since.
    pub(super) fn look_at_contents(&mut self) -> Result<(), Error> {
        let (tables, weights) = (self.tables(), self.model.weights());
        let mut first = 0;
        for (index, custom) in tables.customs().iter().enumerate() {
            let info = tables.custom(custom);
            let rank = |tensors: &mut dyn Iterator<Item = (u32, usize)>| tensors.map(|(_, rank)| rank).sum::<usize>();
            let (operands, results) = (rank(&mut info.inputs()), rank(&mut info.outputs()));
            if custom.reads_contents != 0 {
                let mut read = operand_buffers(tables, custom)
                    .iter()
                    .filter(|b| b.region == REGION_INPUT);
                let unbound = |b: &&Buffer| {
                    let input = &self.inputs[b.index as usize];
                    input.data.is_null() && !(input.shaped && input.bytes == 0)
                };
                if let Some(unbound) = read.find(unbound) {
                    let name = tables.input(unbound.index as usize).name;
                    return Err(Error::NotBound { name });
                }
                let planned = &self.plan.extents[first..first + operands + results];
                let (given, said) = planned.split_at(operands);
                let elements = |operand| contents(tables, custom, &self.inputs, weights, operand);
                if self.state >= State::Planned && !self.calls.agrees(index, given, said, &elements)? {
                    self.state = State::Bound;
                }
            }
            first += operands + results;
        }
        Ok(())
    }
}

/// The element of an input, 0 of one that is shorter; `None` when it is not bound.
pub(super) fn element(tables: Tables, inputs: &[Input], e: &InputElement) -> Option<i64> {
    let input = &inputs[e.input as usize];
    let dtype = tables.input(e.input as usize).dtype;
    let first = usize::try_from(e.at).ok()?.checked_mul(dtype.size())?;
    if input.bytes == 0 && input.shaped || !input.data.is_null() && first >= input.bytes {
        return Some(0);
    }
    if input.data.is_null() {
        return None;
    }
    // SAFETY: bound memory is as long as the binding said.
    let bytes = unsafe { std::slice::from_raw_parts(input.data, input.bytes) };
    integer(dtype, &bytes[first..])
}

/// Where the elements of an operand are before a run; null when there are none, or the operator does not read them.
pub(super) fn contents(
    tables: Tables,
    custom: &Custom,
    inputs: &[Input],
    weights: *const u8,
    operand: usize,
) -> *const u8 {
    match operand_buffers(tables, custom).get(operand) {
        Some(buffer) if custom.reads_contents != 0 => match buffer.region {
            // Memory of a cache has its rows only later.
            REGION_INPUT => match &inputs[buffer.index as usize] {
                input if input.is_text => input.data(),
                input => input.data,
            },
            REGION_WEIGHTS => weights.wrapping_add(buffer.offset as usize),
            _ => std::ptr::null(),
        },
        _ => std::ptr::null(),
    }
}

/// The buffers of the operands that are there.
fn operand_buffers(tables: Tables, custom: &Custom) -> &'static [Buffer] {
    // The first buffer of the step is the call.
    let first = tables.steps()[custom.step as usize].first_buffer as usize + 1;
    let count = tables.custom(custom).inputs().filter(|(dtype, _)| *dtype != 0).count();
    tables.buffers().get(first..first + count).unwrap_or_default()
}
