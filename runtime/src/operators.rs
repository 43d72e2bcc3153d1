//! Operators that the caller supplies, the runtime's own, and those that are linked into the program: which one each node
//! calls, and the calls of a context.
//!
//! Laws: an operator that a model needs is there when the model is open; it is called as `cameo.h` says, with shapes and
//! memory that the plan vouches for; once one has failed, no other is called in that run.
#![expect(unsafe_code, reason = "calls the caller's functions")]

use crate::Error;
use crate::functions;
use crate::texts::Texts;
use cameo_abi::{
    KERNEL_OPERATOR_FAILED, OPERATOR_VERSION, OWN_OPERATOR, Operator, OperatorArguments, OperatorCall, OperatorFn,
    OperatorTensor,
};
use cameo_core::{Custom, CustomInfo, Tables};
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of what an operator may say, the 0 included: a line or two.
const MESSAGE_BYTES: usize = 512;

/// No call has failed.
const NONE: usize = usize::MAX;

/// The functions of an operator.
#[derive(Clone, Copy)]
pub struct Supplied {
    shape: Option<OperatorFn>,
    compute: OperatorFn,
    user: *mut c_void,
}

// SAFETY: cameo.h asks that operators may be called from any thread, with their `user`.
unsafe impl Send for Supplied {}
// SAFETY: as above, by several at once.
unsafe impl Sync for Supplied {}

/// The operator of each of the model's calls.
///
/// # Safety
/// `operators` are as cameo.h asks.
///
/// # Errors
/// [`Error::OperatorMissing`].
pub unsafe fn choose(tables: Tables, operators: &[Operator]) -> Result<Arc<[Supplied]>, Error> {
    let one = |custom: &Custom| {
        let info = tables.custom(custom);
        let missing = |reason| Error::OperatorMissing {
            operator: info.operator,
            node: info.node,
            reason,
        };
        if info.operator.starts_with(OWN_OPERATOR) {
            let (shape, compute) = functions::find(info.operator).ok_or(missing("is not in this runtime"))?;
            // Which table of strings it is given, a context knows.
            let user = ptr::null_mut();
            return Ok(Supplied { shape, compute, user });
        }
        let named = |operator: &&Operator| {
            // SAFETY: the caller's promise.
            !operator.name.is_null() && unsafe { CStr::from_ptr(operator.name) }.to_bytes() == info.operator.as_bytes()
        };
        let found = custom.built_in.or_else(|| operators.iter().find(named));
        let found = found.ok_or(missing("is not supplied (cameo_model_open_with, or --op-library FILE)"))?;
        if found.version != OPERATOR_VERSION {
            return Err(missing("was made for another version of cameo.h"));
        }
        let compute = found.compute.ok_or(missing("is supplied without a compute function"))?;
        if found.shape.is_none() && info.asks_for_shapes() {
            return Err(missing("is supplied without a shape function"));
        }
        Ok(Supplied {
            shape: found.shape,
            compute,
            user: found.user,
        })
    };
    tables.customs().iter().map(one).collect()
}

/// The calls of one context, in the model's order.
pub struct Calls {
    tables: Tables,
    calls: Box<[UnsafeCell<Call>]>,
    /// The first one that failed in a run.
    failed: Box<AtomicUsize>,
}

#[repr(C)]
struct Call {
    /// What generated code sees; the first field.
    head: OperatorCall,
    index: usize,
    failed: *const AtomicUsize,
    operator: Supplied,
    arguments: OperatorArguments,
    inputs: Box<[OperatorTensor]>,
    outputs: Box<[OperatorTensor]>,
    /// Of all operands, then of all results.
    extents: Box<[i64]>,
    message: Box<[c_char; MESSAGE_BYTES]>,
}

impl Calls {
    /// `texts` is what the runtime's own operators are given; it outlives the calls.
    pub fn new(tables: Tables, operators: &[Supplied], texts: *mut Texts) -> Self {
        let failed = Box::new(AtomicUsize::new(NONE));
        let customs = tables.customs().iter().zip(operators).enumerate();
        let calls = customs.map(|(index, (custom, operator))| {
            let (info, mut operator) = (tables.custom(custom), *operator);
            if info.operator.starts_with(OWN_OPERATOR) {
                operator.user = texts.cast();
            }
            UnsafeCell::new(Call::new(index, custom, info, operator, &raw const *failed))
        });
        Self {
            tables,
            calls: calls.collect(),
            failed,
        }
    }

    /// The extents of the results of a call with operands of these extents; `outputs` has what is known of them. `elements` are
    /// those of each operand that is there; null, where they are not to be read.
    ///
    /// # Errors
    /// [`Error::OperatorFailed`].
    pub fn ask(
        &mut self,
        index: usize,
        inputs: &[i64],
        outputs: &mut [i64],
        elements: &dyn Fn(usize) -> *const u8,
    ) -> Result<(), Error> {
        outputs.copy_from_slice(self.extents(index, inputs, outputs, elements)?);
        Ok(())
    }

    /// Whether the operator still says the same of these operands and results.
    ///
    /// # Errors
    /// [`Error::OperatorFailed`].
    pub fn agrees(
        &mut self,
        index: usize,
        inputs: &[i64],
        outputs: &[i64],
        elements: &dyn Fn(usize) -> *const u8,
    ) -> Result<bool, Error> {
        Ok(self.extents(index, inputs, outputs, elements)? == outputs)
    }

    /// What the operator says of the extents of its results.
    fn extents(
        &mut self,
        index: usize,
        inputs: &[i64],
        outputs: &[i64],
        elements: &dyn Fn(usize) -> *const u8,
    ) -> Result<&[i64], Error> {
        // SAFETY: nothing runs while the calls are borrowed mutably.
        let call = unsafe { &mut *self.calls[index].get() };
        let (own_inputs, own_outputs) = call.extents.split_at_mut(inputs.len());
        own_inputs.copy_from_slice(inputs);
        own_outputs.copy_from_slice(outputs);
        if let Some(shape) = call.operator.shape {
            let operands = call.inputs.iter().filter(|tensor| tensor.dtype != 0).count();
            call.connect(|tensor| match tensor < operands {
                true => elements(tensor).cast_mut(),
                false => ptr::null_mut(),
            });
            // SAFETY: as cameo.h says, with memory of this call.
            let status = unsafe { shape(call.operator.user, &raw const call.arguments) };
            if status != 0 {
                return Err(self.error(index));
            }
        }
        // SAFETY: as above.
        let call = unsafe { &*self.calls[index].get() };
        Ok(&call.extents[inputs.len()..])
    }

    /// A run begins.
    pub fn begin(&mut self) {
        *self.failed.get_mut() = NONE;
    }

    /// What the operator said that failed in the run.
    pub fn failure(&mut self) -> Option<Error> {
        let index = *self.failed.get_mut();
        (index != NONE).then(|| self.error(index))
    }

    /// Where the call of an index is, for the table of pointers.
    pub fn pointer(&self, index: usize) -> *mut u8 {
        self.calls[index].get().cast()
    }

    fn error(&mut self, index: usize) -> Error {
        let info = self.tables.custom(&self.tables.customs()[index]);
        // SAFETY: nothing runs while the calls are borrowed mutably.
        let call = unsafe { &mut *self.calls[index].get() };
        // Whatever was written there, it ends.
        call.message[MESSAGE_BYTES - 1] = 0;
        // SAFETY: it ends within the array.
        let said = unsafe { CStr::from_ptr(call.message.as_ptr()) }.to_string_lossy();
        Error::OperatorFailed {
            operator: info.operator,
            node: info.node,
            message: if said.is_empty() {
                "it did not say why".into()
            } else {
                said.into_owned()
            },
        }
    }
}

impl Call {
    fn new(
        index: usize,
        custom: &'static Custom,
        info: CustomInfo,
        operator: Supplied,
        failed: *const AtomicUsize,
    ) -> Self {
        let tensor = |(dtype, rank)| OperatorTensor {
            dtype,
            reserved: 0,
            rank,
            shape: ptr::null_mut(),
            data: ptr::null_mut(),
        };
        let (inputs, outputs): (Box<[_]>, Box<[_]>) = (
            info.inputs().map(tensor).collect(),
            info.outputs().map(tensor).collect(),
        );
        let extents = inputs
            .iter()
            .chain(&outputs)
            .map(|tensor: &OperatorTensor| tensor.rank)
            .sum();
        Self {
            head: OperatorCall { run },
            index,
            failed,
            operator,
            arguments: OperatorArguments {
                node: custom.node.ptr.cast(),
                attributes: custom.attributes.ptr,
                attribute_count: custom.attributes.len,
                inputs: ptr::null(),
                input_count: inputs.len(),
                outputs: ptr::null(),
                output_count: outputs.len(),
                message: ptr::null_mut(),
                message_bytes: MESSAGE_BYTES,
            },
            inputs,
            outputs,
            extents: vec![0; extents].into(),
            message: Box::new([0; MESSAGE_BYTES]),
        }
    }

    /// Points the arguments to what belongs to them; `elements` are those of each tensor that is there.
    fn connect(&mut self, elements: impl Fn(usize) -> *mut u8) {
        let mut shape = self.extents.as_mut_ptr();
        let mut there = 0;
        for tensor in self.inputs.iter_mut().chain(&mut self.outputs) {
            tensor.shape = shape;
            shape = shape.wrapping_add(tensor.rank);
            tensor.data = ptr::null_mut();
            if tensor.dtype != 0 {
                tensor.data = elements(there).cast();
                there += 1;
            }
        }
        self.message[0] = 0;
        self.arguments.inputs = self.inputs.as_ptr();
        self.arguments.outputs = self.outputs.as_ptr();
        self.arguments.message = self.message.as_mut_ptr();
    }
}

/// What the step calls.
///
/// # Safety
/// `call` is a [`Call`] that nothing else uses meanwhile, and `buffers` are those of its step.
unsafe extern "C" fn run(call: *mut OperatorCall, buffers: *const *mut u8) -> i32 {
    // SAFETY: the caller's promise; the head is the first field.
    let call = unsafe { &mut *call.cast::<Call>() };
    // SAFETY: it lives as long as the calls.
    let failed = unsafe { &*call.failed };
    if failed.load(Ordering::Acquire) != NONE {
        return KERNEL_OPERATOR_FAILED;
    }
    // SAFETY: the compiler gave the step a buffer for each tensor that is there, behind that of the call.
    call.connect(|tensor| unsafe { *buffers.add(1 + tensor) });
    // SAFETY: as cameo.h says, with the step's memory, whose size the plan knows from the same extents.
    let status = unsafe { (call.operator.compute)(call.operator.user, &raw const call.arguments) };
    if status == 0 {
        return 0;
    }
    failed.store(call.index, Ordering::Release);
    KERNEL_OPERATOR_FAILED
}
