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
use crate::operators::Calls;
use crate::plan::PlanMemory;
use crate::pool::{MAX_THREADS, Pool};
use crate::sys::Region;
use crate::texts::Texts;
use bindings::{Input, Memory, Output};
use cameo_abi::OWN_OPERATOR;
use cameo_core::{
    DType, Given, InputElement, Parallel, Run, Side, Sizes, Tables, TensorView, Text, Working, byte_size,
};
use probes::{contents, element};
use std::cell::UnsafeCell;

mod bindings;
mod probes;
mod texts;

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
    /// Dropped before the table of strings, which they have a pointer to.
    calls: Calls,
    texts: Box<UnsafeCell<Texts>>,
    /// Whether there are strings in the model at all.
    has_texts: bool,
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
    /// Nothing: an input's shape changed, or an element that gives a dimension.
    Bound,
    /// The plan, the sizes of outputs and the memory.
    Planned,
    /// The table of pointers.
    Resolved,
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
            memory: Memory::Read,
            own: Region::empty(),
            handles: vec![],
            is_text: info.dtype == DType::String,
        });
        let outputs = description.outputs().map(|info| Output {
            caller: std::ptr::null_mut(),
            capacity: 0,
            own: Region::empty(),
            shape: vec![0; info.extents.rank()],
            bytes: 0,
            most: 0,
            handles: vec![],
            is_text: info.dtype == DType::String,
        });
        let (inputs, outputs): (Vec<_>, Vec<_>) = (inputs.collect(), outputs.collect());
        let texts = Box::new(UnsafeCell::new(Texts::new(model.texts().clone())));
        let operators = || tables.customs().iter().map(|custom| tables.custom(custom).operator);
        let has_texts = inputs.iter().any(|input: &Input| input.is_text)
            || outputs.iter().any(|output: &Output| output.is_text)
            || operators().any(|name| name.starts_with(OWN_OPERATOR));
        Ok(Self {
            model: model.clone(),
            threads,
            executor,
            inputs,
            outputs,
            plan: PlanMemory::new(tables),
            calls: Calls::new(tables, model.operators(), texts.get()),
            texts,
            has_texts,
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
    /// `data` must be a multiple of the element size, and may be null when `bytes` is 0. A cache is copied from there at the
    /// beginning of each run; see [`Context::bind_cache`] and [`Context::fill_cache`]. Strings are [`Text`]s, as C has them
    /// too: a run begins by reading all of them, refuses what is not UTF-8, and copies their bytes.
    ///
    /// # Safety
    /// `data` is valid for reads of `bytes` bytes, and what strings point to for theirs, and not written during a run, until the input is bound again, or
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
        let memory = if self.tables().cache_of_input(index).is_some() {
            Memory::Copied
        } else {
            Memory::Read
        };
        self.set_input(index, shape, memory, data, bytes);
        Ok(())
    }

    /// Notes a binding. The output of a cache is in its memory: where that is another one now, it has not been computed.
    fn set_input(&mut self, index: usize, shape: &[i64], memory: Memory, data: *const u8, bytes: usize) {
        let input = &mut self.inputs[index];
        let before = (input.memory, input.data, input.bytes);
        input.set_shape(shape, memory, &mut self.state);
        input.set_data(data, bytes, &mut self.state);
        let moved = before != (input.memory, input.data, input.bytes);
        if moved && memory != Memory::Read {
            self.ran = false;
        }
    }

    /// Binds a cache to the caller's memory of `bytes` bytes at `data`: an input of this shape, of which the model gives an
    /// output that is the input with more rows behind it. Along the axis of rows there is room for more than the input has,
    /// as many as fill the bytes; each row of the outer axes begins that many rows behind the one before. A run writes its
    /// rows behind those of the input, and the output is in this memory. To go on, bind it again with the output's shape;
    /// to take rows back, with a smaller one.
    ///
    /// # Safety
    /// `data` is valid for reads and writes of `bytes` bytes, and nothing else reads or writes it during a run or while a
    /// [`TensorView`] of the output is alive, until the input is bound again or the context is dropped.
    ///
    /// # Errors
    /// Those of [`Context::bind_input`]; [`Error::InvalidArgument`] when the input is no cache. That there is no room for the
    /// rows of a run is found when their number is known.
    pub unsafe fn bind_cache(
        &mut self,
        index: usize,
        dtype: DType,
        shape: &[i64],
        data: *mut u8,
        bytes: usize,
    ) -> Result<(), Error> {
        let room = self.tables().check_cache(index, dtype, shape, data, bytes)?;
        self.set_input(index, shape, Memory::Caller(room), data, bytes);
        Ok(())
    }

    /// Puts rows into the context's memory for a cache, with room for `room` rows in all. A run writes its rows behind them;
    /// [`Context::keep_rows`] makes these part of the input. [`Context::run_on`] takes no view of an input that is here.
    ///
    /// # Errors
    /// Those of [`Context::bind_input`]; [`Error::InvalidArgument`] when the input is no cache; [`Error::CacheFull`];
    /// [`Error::OutOfMemory`].
    pub fn fill_cache(&mut self, index: usize, rows: &TensorView<'_>, room: i64) -> Result<(), Error> {
        let (dtype, shape, bytes) = (rows.dtype(), rows.shape(), rows.bytes());
        let tables = self.tables();
        tables.check_input(index, dtype, shape, bytes.as_ptr(), bytes.len())?;
        tables.check_cache(index, dtype, shape, bytes.as_ptr(), bytes.len())?;
        let axis = tables.cache_of_input(index).map_or(0, |cache| cache.axis as usize);
        if room < shape[axis] {
            return Err(Error::CacheFull {
                name: tables.input(index).name,
                room,
                needed: shape[axis],
            });
        }
        let memory = cache_bytes(dtype, shape, axis, room)?;
        let input = &mut self.inputs[index];
        if memory > input.own.len() {
            // Both at once, so that nothing has changed when there is no memory.
            input.own = Region::anonymous(memory, false)?;
        }
        let own = input.own.as_ptr();
        self.set_input(index, shape, Memory::Own(room), own, memory);
        self.ran = false;
        // SAFETY: the memory was just sized, and is the context's alone.
        unsafe { spread(bytes, own, shape, axis, room, dtype.size()) };
        Ok(())
    }

    /// Rows that there is room for in the memory of a cache's input, for the last prepared shapes: where data gives a dimension,
    /// for the most that there can be.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the input is no cache, or before [`Context::prepare`].
    pub fn cache_room(&self, input: usize) -> Result<i64, Error> {
        match self.tables().cache_of_input(input) {
            Some(cache) if self.state >= State::Planned => Ok(self.plan.symbols[cache.capacity as usize]),
            _ => Err(Error::InvalidArgument("the input is no cache, or nothing is prepared")),
        }
    }

    /// Makes the rows that the last run wrote into the context's caches part of the inputs, for the next run to go on.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when there was no run, or it failed.
    pub fn keep_rows(&mut self) -> Result<(), Error> {
        if !self.ran {
            return Err(NOT_COMPUTED);
        }
        for cache in self.tables().caches() {
            let input = &mut self.inputs[cache.input as usize];
            if let Memory::Own(_) = input.memory {
                let shape = std::mem::take(&mut self.outputs[cache.output as usize].shape);
                input.set_shape(&shape, input.memory, &mut self.state);
                self.outputs[cache.output as usize].shape = shape;
            }
        }
        self.ran = false;
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
        if self.tables().cache_of_output(index).is_some() && !data.is_null() {
            return Err(Error::InvalidArgument(
                "this output is in the memory of an input that it adds rows to",
            ));
        }
        if !(data as usize).is_multiple_of(dtype.alignment()) {
            let name = self.tables().output(index).name;
            return Err(Error::Misaligned {
                side: Side::Output,
                name,
                bytes: dtype.alignment(),
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

    /// Forgets the memory of all inputs but for the context's own, and no shapes.
    pub fn unbind_inputs(&mut self) {
        for input in self
            .inputs
            .iter_mut()
            .filter(|input| !matches!(input.memory, Memory::Own(_)))
        {
            input.data = std::ptr::null();
        }
        self.state = self.state.min(State::Planned);
    }

    /// Evaluates shapes and gets memory, so that the shapes of outputs are known; [`Context::run`] does it when needed. Where
    /// elements or contents of inputs give dimensions, these inputs are read.
    ///
    /// # Errors
    /// [`Error::NotBound`], [`Error::OutOfRange`], [`Error::SymbolMismatch`], [`Error::WrongExtent`],
    /// [`Error::ShapeRule`], [`Error::BufferTooSmall`], [`Error::CacheFull`], [`Error::OutOfMemory`];
    /// [`Error::OperatorFailed`] and [`Error::OperatorShape`] of an operator that gives shapes; [`Error::InvalidText`].
    pub fn prepare(&mut self) -> Result<(), Error> {
        self.read_texts()?;
        self.look_at_elements()?;
        self.look_at_contents()?;
        if self.state < State::Planned {
            self.replan()?;
            self.state = State::Planned;
        }
        self.place_outputs()
    }

    /// Computes the outputs from the bound inputs.
    ///
    /// # Errors
    /// Those of [`Context::prepare`], [`Error::InvalidArgument`] when an output overlaps another tensor,
    /// [`Error::OperatorFailed`], and [`Error::IndexOutOfRange`] or [`Error::CountOutOfRange`] when data that is used as an index or gives a dimension is
    /// wrong; the outputs are meaningless then.
    pub fn run(&mut self) -> Result<(), Error> {
        self.prepare()?;
        if self.state < State::Resolved {
            self.resolve()?;
            self.state = State::Resolved;
        }
        self.ran = false;
        self.copy_caches();
        self.calls.begin();
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
        if let Some(error) = self.calls.failure() {
            return Err(error);
        }
        if let Some(symbol) = run.miscounted() {
            return Err(Error::CountOutOfRange {
                symbol: tables.symbol(symbol).name,
            });
        }
        if let Some(step) = run.failed_step() {
            let step = tables.step_name(step);
            return Err(match run.breaks_rule() {
                true => Error::ShapeRule {
                    rule: step,
                    sides: None,
                },
                false => Error::IndexOutOfRange { step },
            });
        }
        if !tables.counts().is_empty() {
            let plan = self.plan.plan(tables)?;
            for (index, output) in self.outputs.iter_mut().enumerate() {
                output.bytes = plan.output(index, &mut output.shape)?;
            }
        }
        self.tell_texts()?;
        self.ran = true;
        Ok(())
    }

    /// Binds all inputs but those of [`Context::fill_cache`], in the model's order, runs, and forgets them.
    ///
    /// # Errors
    /// Those of [`Context::bind_input`] and [`Context::run`]; [`Error::WrongCount`].
    pub fn run_on(&mut self, inputs: &[TensorView<'_>]) -> Result<(), Error> {
        self.ran = false;
        let given = |input: &Input| !matches!(input.memory, Memory::Own(_));
        let expected = self.inputs.iter().filter(|input| given(input)).count();
        if inputs.len() != expected {
            return Err(Error::WrongCount {
                expected,
                got: inputs.len(),
            });
        }
        let mut index = 0;
        let bound = inputs.iter().try_for_each(|view| {
            while !given(&self.inputs[index]) {
                index += 1;
            }
            let bytes = view.bytes();
            if view.dtype() == DType::String && view.as_texts().is_none() {
                return Err(Error::InvalidArgument("strings are given as `Text`s, not as bytes"));
            }
            index += 1;
            // SAFETY: the views outlive this call, and nothing runs between it and `unbind_inputs` below.
            unsafe { self.bind_input(index - 1, view.dtype(), view.shape(), bytes.as_ptr(), bytes.len()) }
        });
        let result = bound.and_then(|()| self.run());
        self.unbind_inputs();
        result
    }

    /// An output of the last run.
    ///
    /// # Errors
    /// [`Error::UnknownIndex`]; [`Error::InvalidArgument`] when there was no run, it failed, the output was bound or
    /// prepared for other shapes since, its memory is a cache that is no longer bound, or its rows are apart because there is room for more in a cache's memory.
    pub fn output(&self, index: usize) -> Result<TensorView<'_>, Error> {
        let dtype = self.output_dtype(index)?;
        if !self.ran {
            return Err(NOT_COMPUTED);
        }
        let output = &self.outputs[index];
        let data = match self.tables().cache_of_output(index) {
            Some(cache) => {
                let (axis, room) = (cache.axis as usize, self.plan.symbols[cache.capacity as usize]);
                let outer: i64 = output.shape[..axis].iter().product();
                if outer > 1 && room != output.shape[axis] {
                    return Err(Error::InvalidArgument(
                        "the rows of this output are apart: it is in the memory of an input that has room for more",
                    ));
                }
                let data = self.inputs[cache.input as usize].data();
                if data.is_null() {
                    return Err(Error::InvalidArgument(
                        "this output is in the memory of an input that is no longer bound",
                    ));
                }
                data
            }
            None => output.data().cast_const(),
        };
        // SAFETY: `place_outputs` or `replan` saw to it that the memory has `bytes` bytes; it is initialised by the system
        // or by the run, and stays until the context is borrowed mutably.
        let bytes = unsafe { std::slice::from_raw_parts(data, output.bytes) };
        if output.is_text {
            // SAFETY: the run has written them, to strings in the context's table, which stays as long.
            let texts = unsafe { std::slice::from_raw_parts(data.cast(), output.bytes / size_of::<Text<'_>>()) };
            return Ok(TensorView::texts(texts, &output.shape));
        }
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
        let (inputs, calls, weights) = (&self.inputs, &mut self.calls, self.model.weights());
        let sizes = plan.evaluate(Given {
            shape: |index: usize| &*inputs[index].shape,
            rows: |index: usize| inputs[index].memory.room(),
            elements: |e: &InputElement| element(tables, inputs, e).unwrap_or(0),
            operators: |index: usize, given: &[i64], wanted: &mut [i64]| {
                let custom = &tables.customs()[index];
                let elements = |operand| contents(tables, custom, inputs, weights, operand);
                calls.ask(index, given, wanted, &elements)
            },
        })?;
        for (index, output) in self.outputs.iter_mut().enumerate() {
            output.bytes = plan.output(index, &mut output.shape)?;
            let elsewhere = tables.cache_of_output(index).is_some();
            output.most = if elsewhere { 0 } else { output.bytes };
        }
        for cache in tables.caches() {
            let index = cache.input as usize;
            let input = &mut self.inputs[index];
            if input.memory == Memory::Copied {
                let dtype = tables.input(index).dtype;
                let bytes = cache_bytes(dtype, &input.shape, cache.axis as usize, plan.room(cache))?;
                grow(&mut input.own, bytes, false)?;
            }
        }
        plan.split(self.threads, &mut self.parts);

        self.plan.sizes = sizes;
        // Planned for the largest counts, which are rarely met.
        grow(&mut self.arena, sizes.arena_bytes, !tables.counts().is_empty())?;
        self.scratch_stride = sizes.scratch_stride().ok_or(Error::SizeOverflow)?;
        let scratch = self
            .scratch_stride
            .checked_mul(self.threads)
            .ok_or(Error::SizeOverflow)?;
        grow(&mut self.scratch, scratch, false)
    }

    /// Memory for the outputs: the caller's, if it is large enough, or the context's.
    fn place_outputs(&mut self) -> Result<(), Error> {
        let tables = self.tables();
        let sparse = !tables.counts().is_empty();
        for (index, output) in self.outputs.iter_mut().enumerate() {
            if output.grow_handles()? {
                self.state = self.state.min(State::Planned);
                self.ran = false;
            }
            if output.caller.is_null() {
                if output.most > output.own.len() {
                    self.state = self.state.min(State::Planned);
                    self.ran = false;
                    grow(&mut output.own, output.most, sparse)?;
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
        let outputs = &mut self.outputs;
        self.plan.plan(tables)?.resolve(
            self.arena.as_ptr(),
            self.model.weights(),
            |index| self.inputs[index].data(),
            |index| outputs[index].written(),
            |index| self.calls.pointer(index),
            &mut self.pointers,
        );
        Ok(())
    }

    /// Copies the caches that are bound as other inputs are to where rows can be written behind them.
    fn copy_caches(&mut self) {
        let tables = self.tables();
        for cache in tables.caches() {
            let index = cache.input as usize;
            let (input, axis) = (&self.inputs[index], cache.axis as usize);
            if input.memory != Memory::Copied {
                continue;
            }
            let room = self.plan.symbols[cache.capacity as usize];
            // SAFETY: bound memory is as long as the binding said, and `replan` sized the context's.
            unsafe {
                let rows = std::slice::from_raw_parts(input.data, input.bytes);
                spread(
                    rows,
                    input.own.as_ptr(),
                    &input.shape,
                    axis,
                    room,
                    tables.input(index).dtype.size(),
                );
            }
        }
    }

    /// Kernels write outputs before they have read all inputs, so the caller's buffers must be apart, and those of caches.
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
        for (index, input) in self.inputs.iter().enumerate() {
            if !matches!(input.memory, Memory::Caller(_)) {
                continue;
            }
            let written = range(input.data, input.bytes);
            let mut others = self.inputs.iter().enumerate().filter(|(i, _)| *i != index);
            let apart = |(_, other): (usize, &Input)| {
                let other = range(other.data, other.bytes);
                written.is_empty() || other.is_empty() || written.end <= other.start || other.end <= written.start
            };
            if !others.all(apart) {
                return Err(Error::InvalidArgument(
                    "the memory of a cache overlaps that of another input",
                ));
            }
        }
        Ok(())
    }
}

const NOT_COMPUTED: Error = Error::InvalidArgument("the outputs have not been computed: run first");

/// Bytes of the memory of a cache of this shape with room for so many rows along `axis`.
fn cache_bytes(dtype: DType, shape: &[i64], axis: usize, room: i64) -> Result<usize, Error> {
    let extents = shape.iter().enumerate();
    let extents = extents.map(|(a, extent)| if a == axis { room } else { *extent });
    byte_size(dtype, extents).ok_or(Error::SizeOverflow)
}

/// Copies a dense tensor to where there is room for `room` rows along `axis`.
///
/// # Safety
/// `to` is valid for writes of [`cache_bytes`] bytes, and apart from `rows`.
unsafe fn spread(rows: &[u8], to: *mut u8, shape: &[i64], axis: usize, room: i64, size: usize) {
    let inner = shape[axis + 1..].iter().product::<i64>() as usize * size;
    let (from, pitch) = (shape[axis] as usize * inner, room as usize * inner);
    if from == 0 {
        return;
    }
    for (i, chunk) in rows.chunks_exact(from).enumerate() {
        // SAFETY: the caller's promise: the outer index is below the product of the outer extents.
        unsafe { to.add(i * pitch).copy_from_nonoverlapping(chunk.as_ptr(), from) };
    }
}

/// Makes a region at least `bytes` long. The old one goes first, so that both are never resident.
fn grow(region: &mut Region, bytes: usize, sparse: bool) -> Result<(), Error> {
    if bytes > region.len() {
        *region = Region::empty();
        *region = Region::anonymous(bytes, sparse)?;
    }
    Ok(())
}
