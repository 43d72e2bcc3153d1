//! A context: the bindings, memory and threads of one caller of a model.
//!
//! Laws: inputs and caller's outputs are used in place; memory grows when shapes need more and never during a run;
//! running again with the same shapes allocates nothing; a failed call leaves the context usable.
#![expect(
    unsafe_code,
    reason = "binds the caller's memory and hands resolved pointers to kernels"
)]

use crate::Error;
use crate::devices::cpu::Executor;
use crate::limits::allowed_cpus;
use crate::model::Model;
use crate::plan::PlanMemory;
use crate::pool::{MAX_THREADS, Pool};
use crate::sys::Region;
use cameo_core::{DType, Parallel, Run, Side, Sizes, Tables, TensorView, Working};

/// How a context runs.
#[derive(Default)]
pub struct ContextOptions {
    /// Threads, the caller's included; 0: as many as the process may use, at most what the model asks for.
    pub threads: usize,
    /// The caller's threads; without it the context starts `threads - 1` of its own.
    pub pool: Option<Box<dyn Parallel>>,
}

/// Runs a [`Model`] for one caller at a time. Contexts of one model run at the same time on different threads.
pub struct Context {
    model: Model,
    threads: usize,
    executor: Executor,
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    plan: PlanMemory,
    parts: Vec<u32>,
    iterations: Vec<i64>,
    moved: Vec<i64>,
    arena: Region,
    scratch: Region,
    scratch_stride: usize,
    pointers: Vec<*mut u8>,
    state: State,
    /// Whether the outputs hold the results of a run, of the shapes that they have.
    ran: bool,
}

// SAFETY: the raw pointers lead to memory that the context owns, to constant weights, and to the caller's bindings,
// whose validity does not depend on the thread.
unsafe impl Send for Context {}

/// What is up to date, each including those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// Nothing: an input's shape changed.
    Bound,
    /// The plan, the sizes of outputs and the memory.
    Planned,
    /// The table of pointers.
    Resolved,
}

struct Input {
    /// Null when not bound.
    data: *const u8,
    bytes: usize,
    shape: Vec<i64>,
    /// Whether `shape` was ever set.
    shaped: bool,
}

struct Output {
    /// The caller's buffer, null when the context owns the output.
    caller: *mut u8,
    capacity: usize,
    own: Region,
    /// Those of the last run, before a run the largest: the same where a run counts nothing.
    shape: Vec<i64>,
    bytes: usize,
    /// The most bytes for the shapes of the inputs.
    most: usize,
}

impl Output {
    fn data(&self) -> *mut u8 {
        if self.caller.is_null() {
            self.own.as_ptr()
        } else {
            self.caller
        }
    }
}

impl Context {
    /// A context without bindings.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for more than 1024 threads, [`Error::ThreadFailed`].
    pub fn new(model: &Model, options: ContextOptions) -> Result<Self, Error> {
        let tables = model.description().tables();
        let processors = allowed_cpus();
        let threads = match (options.threads, tables.raw().default_threads as usize) {
            (0, 0) => processors.min(MAX_THREADS),
            (0, most) => processors.min(most).min(MAX_THREADS),
            (threads, _) => threads,
        };
        if threads > MAX_THREADS {
            return Err(Error::InvalidArgument("a context has at most 1024 threads"));
        }
        let executor = match options.pool {
            Some(pool) => Executor::Caller(pool),
            None => Executor::Own(Pool::new(threads, processors)?),
        };
        let description = model.description();
        let inputs = description.inputs().map(|info| Input {
            data: std::ptr::null(),
            bytes: 0,
            shape: vec![0; info.extents.rank()],
            shaped: false,
        });
        let outputs = description.outputs().map(|info| Output {
            caller: std::ptr::null_mut(),
            capacity: 0,
            own: Region::empty(),
            shape: vec![0; info.extents.rank()],
            bytes: 0,
            most: 0,
        });
        Ok(Self {
            model: model.clone(),
            threads,
            executor,
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            plan: PlanMemory::new(tables),
            parts: vec![1; tables.steps().len()],
            iterations: vec![0; tables.loops().len()],
            moved: vec![0; tables.moves().len()],
            arena: Region::empty(),
            scratch: Region::empty(),
            scratch_stride: 0,
            pointers: vec![std::ptr::null_mut(); tables.buffers().len()],
            state: State::Bound,
            ran: false,
        })
    }

    /// The model that it runs.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Threads of a run, the caller's included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Binds an input to the caller's memory: `bytes` bytes at `data`, dense, row-major, in the machine's byte order.
    /// `data` must be a multiple of the element size, and may be null when `bytes` is 0.
    ///
    /// # Safety
    /// `data` is valid for reads of `bytes` bytes, and not written during a run, until the input is bound again, or
    /// [`Context::unbind_inputs`] is called, or the context is dropped.
    ///
    /// # Errors
    /// [`Error::UnknownIndex`], [`Error::WrongDtype`], [`Error::WrongRank`], [`Error::WrongExtent`],
    /// [`Error::WrongBytes`], [`Error::InvalidArgument`], [`Error::Misaligned`].
    pub unsafe fn bind_input(
        &mut self,
        index: usize,
        dtype: DType,
        shape: &[i64],
        data: *const u8,
        bytes: usize,
    ) -> Result<(), Error> {
        self.tables().check_input(index, dtype, shape, data, bytes)?;
        let input = &mut self.inputs[index];
        if !input.shaped || input.shape != shape {
            input.shape.copy_from_slice(shape);
            input.shaped = true;
            self.state = State::Bound;
        }
        let data = if data.is_null() {
            Region::empty().as_ptr().cast_const()
        } else {
            data
        };
        if input.data != data {
            self.state = self.state.min(State::Planned);
        }
        input.data = data;
        input.bytes = bytes;
        Ok(())
    }

    /// Binds an output to the caller's memory of `capacity` bytes; null gives it back to the context.
    ///
    /// # Safety
    /// `data` is valid for writes of `capacity` bytes, and nothing else reads or writes it during a run or while a
    /// [`TensorView`] of the output is alive, until the output is bound again or the context is dropped.
    ///
    /// # Errors
    /// [`Error::UnknownIndex`], [`Error::Misaligned`]. That it is too small is found when the size is known, by
    /// [`Context::prepare`] or [`Context::run`].
    pub unsafe fn bind_output(&mut self, index: usize, data: *mut u8, capacity: usize) -> Result<(), Error> {
        let dtype = self.output_dtype(index)?;
        if !(data as usize).is_multiple_of(dtype.size()) {
            let name = self.tables().output(index).name;
            return Err(Error::Misaligned {
                side: Side::Output,
                name,
                bytes: dtype.size(),
            });
        }
        let output = &mut self.outputs[index];
        if output.caller != data || output.capacity != capacity {
            output.caller = data;
            output.capacity = capacity;
            self.state = self.state.min(State::Planned);
            self.ran = false;
        }
        Ok(())
    }

    /// Forgets the memory of all inputs, but not their shapes.
    pub fn unbind_inputs(&mut self) {
        for input in &mut self.inputs {
            input.data = std::ptr::null();
        }
        self.state = self.state.min(State::Planned);
    }

    /// Evaluates shapes and gets memory, so that the shapes of outputs are known; [`Context::run`] does it when needed.
    ///
    /// # Errors
    /// [`Error::NotBound`], [`Error::OutOfRange`], [`Error::SymbolMismatch`], [`Error::WrongExtent`],
    /// [`Error::ShapeRule`], [`Error::BufferTooSmall`], [`Error::OutOfMemory`].
    pub fn prepare(&mut self) -> Result<(), Error> {
        if self.state < State::Planned {
            self.replan()?;
            self.state = State::Planned;
        }
        self.place_outputs()
    }

    /// Computes the outputs from the bound inputs.
    ///
    /// # Errors
    /// Those of [`Context::prepare`], [`Error::InvalidArgument`] when an output overlaps another tensor, and
    /// [`Error::IndexOutOfRange`] or [`Error::CountOutOfRange`] when data that is used as an index or gives a dimension is
    /// wrong; the outputs are meaningless then.
    pub fn run(&mut self) -> Result<(), Error> {
        self.prepare()?;
        if self.state < State::Resolved {
            self.resolve()?;
            self.state = State::Resolved;
        }
        self.ran = false;
        let tables = self.model.description().tables();
        let sizes = self.plan.sizes;
        let working = Working {
            parts: &self.parts,
            pointers: &mut self.pointers,
            iterations: &mut self.iterations,
            moved: &mut self.moved,
            scratch: self.scratch.as_ptr(),
            scratch_stride: self.scratch_stride,
            threads: self.threads,
        };
        // SAFETY: `resolve` filled the pointers from this plan, and `replan` sized the scratch for `threads` threads.
        let mut run = unsafe { Run::new(self.plan.plan(tables)?, sizes, working) };
        // SAFETY: the executor has `threads` threads.
        unsafe { self.executor.run(&mut run)? };
        if let Some(symbol) = run.miscounted() {
            return Err(Error::CountOutOfRange {
                symbol: tables.symbol(symbol).name,
            });
        }
        if let Some(step) = run.failed_step() {
            return Err(Error::IndexOutOfRange {
                step: tables.step_name(step),
            });
        }
        if !tables.counts().is_empty() {
            let plan = self.plan.plan(tables)?;
            for (index, output) in self.outputs.iter_mut().enumerate() {
                output.bytes = plan.output(index, &mut output.shape)?;
            }
        }
        self.ran = true;
        Ok(())
    }

    /// Binds all inputs, in the model's order, runs, and forgets them.
    ///
    /// # Errors
    /// Those of [`Context::bind_input`] and [`Context::run`]; [`Error::WrongCount`].
    pub fn run_on(&mut self, inputs: &[TensorView<'_>]) -> Result<(), Error> {
        self.ran = false;
        if inputs.len() != self.inputs.len() {
            return Err(Error::WrongCount {
                expected: self.inputs.len(),
                got: inputs.len(),
            });
        }
        let bound = inputs.iter().enumerate().try_for_each(|(index, view)| {
            let bytes = view.bytes();
            // SAFETY: the views outlive this call, and nothing runs between it and `unbind_inputs` below.
            unsafe { self.bind_input(index, view.dtype(), view.shape(), bytes.as_ptr(), bytes.len()) }
        });
        let result = bound.and_then(|()| self.run());
        self.unbind_inputs();
        result
    }

    /// An output of the last run.
    ///
    /// # Errors
    /// [`Error::UnknownIndex`]; [`Error::InvalidArgument`] when there was no run, it failed, or the output was bound or
    /// prepared for other shapes since.
    pub fn output(&self, index: usize) -> Result<TensorView<'_>, Error> {
        let dtype = self.output_dtype(index)?;
        if !self.ran {
            return Err(Error::InvalidArgument("the outputs have not been computed: run first"));
        }
        let output = &self.outputs[index];
        // SAFETY: `place_outputs` saw to it that the memory has `bytes` bytes; it is initialised by the system or by
        // the run, and stays until the context is borrowed mutably.
        let bytes = unsafe { std::slice::from_raw_parts(output.data(), output.bytes) };
        Ok(TensorView::from_bytes(dtype, bytes, &output.shape))
    }

    /// Shape and bytes of an output after [`Context::prepare`]: the largest, where data gives a dimension, until
    /// [`Context::run`] has computed it; then those of the last run, while the inputs keep their shapes.
    ///
    /// # Errors
    /// [`Error::UnknownIndex`]; [`Error::InvalidArgument`] before [`Context::prepare`].
    pub fn output_shape(&self, index: usize) -> Result<(&[i64], usize), Error> {
        self.output_dtype(index)?;
        if self.state < State::Planned {
            return Err(Error::InvalidArgument(
                "the shapes of outputs are not known: prepare or run first",
            ));
        }
        Ok((&self.outputs[index].shape, self.outputs[index].bytes))
    }

    /// Memory of the last prepared shapes.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.plan.sizes
    }

    /// A quantity of the last prepared shapes, by its index in the model's table of dims.
    #[must_use]
    pub fn dim(&self, index: usize) -> Option<i64> {
        self.plan.dims.get(index).copied()
    }

    fn tables(&self) -> Tables {
        self.model.description().tables()
    }

    fn output_dtype(&self, index: usize) -> Result<DType, Error> {
        let count = self.outputs.len();
        if index >= count {
            return Err(Error::UnknownIndex {
                side: Side::Output,
                index,
                count,
            });
        }
        Ok(self.tables().output(index).dtype)
    }

    /// Everything that depends on the shapes of the inputs.
    fn replan(&mut self) -> Result<(), Error> {
        self.ran = false;
        let tables = self.tables();
        if let Some(index) = self.inputs.iter().position(|input| !input.shaped) {
            return Err(Error::NotBound {
                name: tables.input(index).name,
            });
        }
        let mut plan = self.plan.plan(tables)?;
        let sizes = plan.evaluate(|index| &self.inputs[index].shape)?;
        for (index, output) in self.outputs.iter_mut().enumerate() {
            output.bytes = plan.output(index, &mut output.shape)?;
            output.most = output.bytes;
        }
        plan.split(self.threads, &mut self.parts);

        self.plan.sizes = sizes;
        grow(&mut self.arena, sizes.arena_bytes)?;
        self.scratch_stride = sizes.scratch_stride().ok_or(Error::ShapeRule)?;
        let scratch = self.scratch_stride.checked_mul(self.threads).ok_or(Error::ShapeRule)?;
        grow(&mut self.scratch, scratch)
    }

    /// Memory for the outputs: the caller's, if it is large enough, or the context's.
    fn place_outputs(&mut self) -> Result<(), Error> {
        let tables = self.tables();
        for (index, output) in self.outputs.iter_mut().enumerate() {
            if output.caller.is_null() {
                if output.most > output.own.len() {
                    self.state = self.state.min(State::Planned);
                    self.ran = false;
                    grow(&mut output.own, output.most)?;
                }
            } else if output.capacity < output.most {
                let (needed, capacity) = (output.most, output.capacity);
                return Err(Error::BufferTooSmall {
                    name: tables.output(index).name,
                    needed,
                    capacity,
                });
            }
        }
        Ok(())
    }

    /// Fills the table of pointers.
    fn resolve(&mut self) -> Result<(), Error> {
        let tables = self.tables();
        if let Some(index) = self.inputs.iter().position(|input| input.data.is_null()) {
            return Err(Error::NotBound {
                name: tables.input(index).name,
            });
        }
        self.check_overlap()?;
        self.plan.plan(tables)?.resolve(
            self.arena.as_ptr(),
            self.model.weights(),
            |index| self.inputs[index].data,
            |index| self.outputs[index].data(),
            &mut self.pointers,
        );
        Ok(())
    }

    /// Kernels write outputs before they have read all inputs, so the caller's buffers must be apart.
    fn check_overlap(&self) -> Result<(), Error> {
        let range = |data: *const u8, bytes: usize| data as usize..(data as usize).saturating_add(bytes);
        for (index, output) in self
            .outputs
            .iter()
            .enumerate()
            .filter(|(_, output)| !output.caller.is_null())
        {
            let written = range(output.caller, output.most);
            let apart = |other: std::ops::Range<usize>| {
                written.is_empty() || other.is_empty() || written.end <= other.start || other.end <= written.start
            };
            let from_inputs = self.inputs.iter().all(|input| apart(range(input.data, input.bytes)));
            let from_outputs = self.outputs[..index]
                .iter()
                .all(|other| apart(range(other.data(), other.most)));
            if !from_inputs || !from_outputs {
                return Err(Error::InvalidArgument(
                    "the buffer of an output overlaps that of another tensor",
                ));
            }
        }
        Ok(())
    }
}

/// Makes a region at least `bytes` long. The old one goes first, so that both are never resident.
fn grow(region: &mut Region, bytes: usize) -> Result<(), Error> {
    if bytes > region.len() {
        *region = Region::empty();
        *region = Region::anonymous(bytes)?;
    }
    Ok(())
}
