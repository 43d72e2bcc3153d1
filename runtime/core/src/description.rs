//! A checked view of the [`ModelDesc`] that the compiler wrote.
//!
//! Invariant: holding a [`Tables`] proves that magic, ABI version, every index, every name and every dtype of the
//! descriptor were checked, so that nothing after it needs to look again.
#![expect(
    unsafe_code,
    reason = "the descriptor's pointers become slices here and nowhere else"
)]

use crate::error::{Error, Side};
use crate::plan::Broken;
use crate::tensor::{byte_size, integer};
use cameo_abi::{
    ABI_VERSION, Buffer, Cache, Count, Custom, DType, EXTENT_CONST, EXTENT_DIM, EXTENT_GIVEN, EXTENT_SYMBOL, Extent,
    InputElement, Io, LOOP_DEPTH, Level, Loop, MAGIC, MOVE_BACK, ModelDesc, Move, REGION_ARENA, REGION_INPUT,
    REGION_OPERATOR, REGION_OUTPUT, REGION_WEIGHTS, Slice, Step, Str, Symbol,
};

/// The descriptor's tables as slices.
#[derive(Clone, Copy)]
pub struct Tables {
    desc: &'static ModelDesc,
    level: &'static Level,
}

/// One axis of an input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always this extent.
    Const(i64),
    /// A symbolic dimension, by its index.
    Symbol(usize),
    /// Computed from the symbols.
    Derived {
        /// Its index in the model's table of dims.
        index: usize,
        /// How, such as `2*S+1`.
        expression: &'static str,
    },
}

/// An input or output of a model.
#[derive(Clone, Copy, Debug)]
pub struct TensorInfo {
    pub name: &'static str,
    pub dtype: DType,
    pub extents: Extents,
}

/// A call of an operator that the caller supplies, or that is linked in.
#[derive(Clone, Copy, Debug)]
pub struct CustomInfo {
    /// `com.acme::Foo`.
    pub operator: &'static str,
    /// The ONNX node.
    pub node: &'static str,
    pub(crate) inputs: &'static [Io],
    pub(crate) outputs: &'static [Io],
}

impl CustomInfo {
    /// Element type and rank of each operand; element type 0: it is left out.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = (u32, usize)> + use<> {
        self.inputs.iter().map(|io| (io.dtype, io.shape.len))
    }

    /// Element type and rank of each result.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = (u32, usize)> + use<> {
        self.outputs.iter().map(|io| (io.dtype, io.shape.len))
    }

    /// Whether the operator must say how large something is.
    #[must_use]
    pub fn asks_for_shapes(&self) -> bool {
        let mut extents = self.outputs.iter().flat_map(|io| slice(io.shape));
        extents.any(|extent| extent.kind == EXTENT_GIVEN)
    }

    /// The axes of all operands, then of all results.
    pub(crate) fn extents(&self) -> impl Iterator<Item = &'static Extent> + use<> {
        self.inputs.iter().chain(self.outputs).flat_map(|io| slice(io.shape))
    }

    /// The axes of the results, each with the number of its result and its own.
    pub(crate) fn results(&self) -> impl Iterator<Item = (usize, usize, &'static Extent)> + use<> {
        let each = self.outputs.iter().enumerate();
        each.flat_map(|(output, io)| {
            slice(io.shape)
                .iter()
                .enumerate()
                .map(move |(axis, e)| (output, axis, e))
        })
    }
}

/// How an axis is known.
pub(crate) fn dim(extent: &'static Extent) -> Dim {
    match extent.kind {
        EXTENT_CONST => Dim::Const(extent.value),
        EXTENT_SYMBOL | EXTENT_GIVEN => Dim::Symbol(extent.value as usize),
        _ => Dim::Derived {
            index: extent.value as usize,
            expression: text(extent.name),
        },
    }
}

/// The axes of a [`TensorInfo`], outermost first.
#[derive(Clone, Copy, Debug)]
pub struct Extents(&'static [Extent]);

/// A symbolic dimension and the values that it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolInfo {
    pub name: &'static str,
    pub min: i64,
    /// `i64::MAX` when unbounded.
    pub max: i64,
}

impl Extents {
    /// Number of axes.
    #[must_use]
    pub const fn rank(&self) -> usize {
        self.0.len()
    }

    /// Each axis.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Dim> + DoubleEndedIterator + use<> {
        self.0.iter().map(dim)
    }
}

impl Tables {
    /// Checks the descriptor. The level is the last one, which asks least of the processor.
    ///
    /// # Safety
    /// When magic and version are right, the descriptor and all that it points to is what the compiler wrote: slices
    /// have their lengths, functions their types, and kernels keep to the contract of `cameo-abi`.
    ///
    /// # Errors
    /// [`Error::NotAModel`], [`Error::AbiMismatch`], [`Error::InvalidModel`].
    pub unsafe fn new<T>(desc: &'static ModelDesc) -> Result<Self, Error<T>> {
        if desc.magic != MAGIC {
            return Err(Error::NotAModel);
        }
        // Before any other field: their places depend on the version.
        if desc.abi_version != ABI_VERSION {
            return Err(Error::AbiMismatch {
                model: desc.abi_version,
                runtime: ABI_VERSION,
            });
        }
        let level = slice(desc.levels).last();
        let level = level.ok_or(Error::InvalidModel("there are no steps for any processor"))?;
        let tables = Self { desc, level };
        tables.check().map_err(Error::InvalidModel)?;
        Ok(tables)
    }

    /// The levels that there is code for, best first.
    #[must_use]
    pub fn levels(&self) -> &'static [Level] {
        slice(self.desc.levels)
    }

    /// What a level is called.
    #[must_use]
    pub fn level_name(&self, index: usize) -> &'static str {
        text(self.levels()[index].name)
    }

    /// The same tables with the kernels of the level of an index below the number of [`Tables::levels`].
    #[must_use]
    pub fn at_level(self, index: usize) -> Self {
        Self {
            level: &self.levels()[index],
            ..self
        }
    }

    /// The descriptor itself, for its plain numbers and functions.
    #[must_use]
    pub fn raw(&self) -> &'static ModelDesc {
        self.desc
    }

    /// Name of the model.
    #[must_use]
    pub fn name(&self) -> &'static str {
        text(self.desc.name)
    }

    /// Number of symbolic dimensions.
    #[must_use]
    pub fn symbol_count(&self) -> usize {
        self.desc.symbols.len
    }

    /// The symbolic dimension of an index below [`Tables::symbol_count`].
    #[must_use]
    pub fn symbol(&self, index: usize) -> SymbolInfo {
        let Symbol { name, min, max } = slice(self.desc.symbols)[index];
        SymbolInfo {
            name: text(name),
            min,
            max,
        }
    }

    /// Number of inputs.
    #[must_use]
    pub fn input_count(&self) -> usize {
        self.desc.inputs.len
    }

    /// Number of outputs.
    #[must_use]
    pub fn output_count(&self) -> usize {
        self.desc.outputs.len
    }

    /// The input of an index below [`Tables::input_count`].
    #[must_use]
    pub fn input(&self, index: usize) -> TensorInfo {
        tensor(&slice(self.desc.inputs)[index])
    }

    /// The output of an index below [`Tables::output_count`].
    #[must_use]
    pub fn output(&self, index: usize) -> TensorInfo {
        tensor(&slice(self.desc.outputs)[index])
    }

    /// What kernels are called with.
    #[must_use]
    pub fn buffers(&self) -> &'static [Buffer] {
        slice(self.desc.buffers)
    }

    /// The kernel calls of a run, in order.
    #[must_use]
    pub fn steps(&self) -> &'static [Step] {
        slice(self.level.steps)
    }

    /// The loops over steps, by first step.
    #[must_use]
    pub fn loops(&self) -> &'static [Loop] {
        slice(self.desc.loops)
    }

    /// What loops do to buffers.
    #[must_use]
    pub fn moves(&self) -> &'static [Move] {
        slice(self.desc.moves)
    }

    /// The symbols that runs read, by step.
    #[must_use]
    pub fn counts(&self) -> &'static [Count] {
        slice(self.desc.counts)
    }

    /// The outputs that are in the memory of an input.
    #[must_use]
    pub fn caches(&self) -> &'static [Cache] {
        slice(self.desc.caches)
    }

    /// The symbols that are elements of inputs.
    #[must_use]
    pub fn elements(&self) -> &'static [InputElement] {
        slice(self.desc.elements)
    }

    /// The steps that call operators.
    #[must_use]
    pub fn customs(&self) -> &'static [Custom] {
        slice(self.desc.customs)
    }

    /// The strings among the weights and constants.
    pub fn texts(&self) -> impl ExactSizeIterator<Item = &'static str> + use<> {
        slice(self.desc.texts).iter().map(|t| text(*t))
    }

    /// What a rule that does not hold is to callers.
    pub(crate) fn broken<T>(&self, broken: &Broken) -> Error<T> {
        match slice(self.desc.rules).get(broken.rule) {
            Some(rule) => Error::ShapeRule {
                rule: text(*rule),
                sides: Some(broken.sides),
            },
            None => Error::SizeOverflow,
        }
    }

    /// What an operator is called with: name, name of the ONNX node, operands (`None`: left out), results.
    #[must_use]
    pub fn custom(&self, custom: &Custom) -> CustomInfo {
        CustomInfo {
            operator: text(custom.operator),
            node: text(custom.node),
            inputs: slice(custom.inputs),
            outputs: slice(custom.outputs),
        }
    }

    /// Axes of all operands and results of all operators of the caller.
    #[must_use]
    pub fn custom_extent_count(&self) -> usize {
        let customs = self.customs().iter().map(|custom| self.custom(custom));
        customs.map(|info| info.extents().count()).sum()
    }

    /// The cache that an input is the first rows of.
    #[must_use]
    pub fn cache_of_input(&self, input: usize) -> Option<&'static Cache> {
        self.caches().iter().find(|cache| cache.input as usize == input)
    }

    /// The cache that an output is.
    #[must_use]
    pub fn cache_of_output(&self, output: usize) -> Option<&'static Cache> {
        self.caches().iter().find(|cache| cache.output as usize == output)
    }

    /// Kernel and ONNX nodes of a step, for people.
    #[must_use]
    pub fn step_name(&self, index: usize) -> &'static str {
        text(self.steps()[index].name)
    }

    /// Whether `bytes` bytes at `data` may be bound to input `index` as a tensor of this dtype and shape; the memory is not
    /// read. `data` may be null when `bytes` is 0.
    ///
    /// # Errors
    /// [`Error::UnknownIndex`], [`Error::WrongDtype`], [`Error::WrongRank`], [`Error::WrongExtent`],
    /// [`Error::WrongBytes`], [`Error::InvalidArgument`], [`Error::Misaligned`].
    pub fn check_input<T>(
        &self,
        index: usize,
        dtype: DType,
        shape: &[i64],
        data: *const u8,
        bytes: usize,
    ) -> Result<(), Error<T>> {
        let needed = self.check_tensor(index, dtype, shape, data, bytes)?;
        if bytes != needed {
            return Err(Error::WrongBytes {
                name: self.input(index).name,
                expected: needed,
                got: bytes,
            });
        }
        Ok(())
    }

    /// Whether `bytes` bytes at `data` may be bound to input `index` as the memory of a cache that has so far this shape;
    /// gives the number of rows that they have room for.
    ///
    /// # Errors
    /// Those of [`Tables::check_input`]; [`Error::InvalidArgument`] when the input is no cache.
    pub fn check_cache<T>(
        &self,
        index: usize,
        dtype: DType,
        shape: &[i64],
        data: *const u8,
        bytes: usize,
    ) -> Result<i64, Error<T>> {
        let needed = self.check_tensor(index, dtype, shape, data, bytes)?;
        let cache = self.cache_of_input(index).ok_or(Error::InvalidArgument(
            "this input is no cache: no output adds rows to it in place (see --in-place-cache of the compiler)",
        ))?;
        if bytes < needed {
            return Err(Error::WrongBytes {
                name: self.input(index).name,
                expected: needed,
                got: bytes,
            });
        }
        let others = shape
            .iter()
            .enumerate()
            .filter(|(axis, _)| *axis != cache.axis as usize);
        let row = byte_size(dtype, others.map(|(_, extent)| *extent)).unwrap_or(0);
        // Rows without elements need no room.
        Ok(bytes.checked_div(row).map_or(i64::MAX, |rows| rows as i64))
    }

    /// Whether a tensor may be bound to an input, but for the number of its bytes, which is given.
    fn check_tensor<T>(
        &self,
        index: usize,
        dtype: DType,
        shape: &[i64],
        data: *const u8,
        bytes: usize,
    ) -> Result<usize, Error<T>> {
        let count = self.input_count();
        if index >= count {
            return Err(Error::UnknownIndex {
                side: Side::Input,
                index,
                count,
            });
        }
        let info = self.input(index);
        let (name, rank) = (info.name, info.extents.rank());
        if dtype != info.dtype {
            return Err(Error::WrongDtype {
                side: Side::Input,
                name,
                expected: info.dtype,
                got: dtype,
            });
        }
        if shape.len() != rank {
            return Err(Error::WrongRank {
                name,
                expected: rank,
                got: shape.len(),
            });
        }
        if shape.iter().any(|&extent| extent < 0) {
            return Err(Error::InvalidArgument("an extent is negative"));
        }
        for (axis, (dim, &got)) in info.extents.iter().zip(shape).enumerate() {
            if let Dim::Const(expected) = dim
                && expected != got
            {
                return Err(Error::WrongExtent {
                    name,
                    axis,
                    expected,
                    got,
                });
            }
        }
        let needed = byte_size(dtype, shape.iter().copied());
        let needed = needed.ok_or(Error::InvalidArgument("an input is larger than the address space"))?;
        if data.is_null() && bytes > 0 {
            return Err(Error::InvalidArgument("the data of an input is null"));
        }
        if bytes > 0 && !(data as usize).is_multiple_of(dtype.alignment()) {
            return Err(Error::Misaligned {
                side: Side::Input,
                name,
                bytes: dtype.alignment(),
            });
        }
        Ok(needed)
    }

    fn check(&self) -> Result<(), &'static str> {
        let desc = self.desc;
        let symbols = slice(desc.symbols);
        checked_text(desc.name)?;
        for symbol in symbols {
            checked_text(symbol.name)?;
            if symbol.min > symbol.max {
                return Err("a symbol has an empty range");
            }
        }
        for io in slice(desc.inputs).iter().chain(slice(desc.outputs)) {
            self.check_tensor_of(io, false)?;
        }
        for buffer in self.buffers() {
            let legal = match buffer.region {
                REGION_ARENA => buffer.offset < desc.offset_count,
                REGION_WEIGHTS => buffer.offset <= desc.weight_bytes,
                REGION_INPUT => (buffer.index as usize) < desc.inputs.len,
                REGION_OUTPUT => (buffer.index as usize) < desc.outputs.len,
                REGION_OPERATOR => (buffer.index as usize) < desc.customs.len,
                _ => false,
            };
            if !legal {
                return Err("a buffer lies nowhere");
            }
        }
        for level in self.levels() {
            checked_text(level.name)?;
            if level.steps.len != self.level.steps.len {
                return Err("levels have different steps");
            }
        }
        for step in self.levels().iter().flat_map(|level| slice(level.steps)) {
            checked_text(step.name)?;
            let buffers = step.first_buffer as usize <= desc.buffers.len;
            if !buffers || u64::from(step.first_dim) > desc.dim_count || u64::from(step.work) >= desc.dim_count {
                return Err("a step points outside the tables");
            }
        }
        self.check_loops()?;
        self.check_counts()?;
        self.check_caches()?;
        self.check_elements()?;
        for text in slice(desc.texts).iter().chain(slice(desc.rules)) {
            checked_text(*text)?;
        }
        self.check_customs()
    }

    /// `given`: whether an operator may give its extents.
    fn check_tensor_of(&self, io: &Io, given: bool) -> Result<(), &'static str> {
        checked_text(io.name)?;
        DType::from_raw(io.dtype).ok_or("a tensor has an unknown dtype")?;
        for extent in slice(io.shape) {
            checked_text(extent.name)?;
            let limit = match extent.kind {
                EXTENT_CONST => i64::MAX as u64,
                EXTENT_SYMBOL => self.desc.symbols.len as u64,
                EXTENT_GIVEN if given => self.desc.symbols.len as u64,
                EXTENT_DIM => self.desc.dim_count,
                _ => return Err("an axis has an unknown kind of extent"),
            };
            if extent.value < 0 || extent.value as u64 >= limit {
                return Err("an axis has an extent out of range");
            }
        }
        Ok(())
    }

    fn check_customs(&self) -> Result<(), &'static str> {
        for custom in self.customs() {
            checked_text(custom.operator)?;
            checked_text(custom.node)?;
            if custom.step as usize >= self.level.steps.len {
                return Err("an operator is called by no step");
            }
            for io in slice(custom.inputs).iter().filter(|io| io.dtype != 0) {
                self.check_tensor_of(io, false)?;
            }
            for io in slice(custom.outputs) {
                self.check_tensor_of(io, true)?;
            }
        }
        Ok(())
    }

    fn check_caches(&self) -> Result<(), &'static str> {
        let desc = self.desc;
        let (inputs, outputs) = (slice(desc.inputs), slice(desc.outputs));
        for (index, cache) in self.caches().iter().enumerate() {
            let before = &self.caches()[..index];
            let taken = before
                .iter()
                .any(|c| c.input == cache.input || c.output == cache.output);
            let (input, output) = (inputs.get(cache.input as usize), outputs.get(cache.output as usize));
            let legal = input.zip(output).is_some_and(|(input, output)| {
                input.shape.len == output.shape.len
                    && input.dtype == output.dtype
                    && input.dtype != DType::String as u32
                    && (cache.axis as usize) < input.shape.len
            });
            if taken || !legal || cache.capacity as usize >= desc.symbols.len {
                return Err("a cache points outside the tables");
            }
        }
        Ok(())
    }

    fn check_elements(&self) -> Result<(), &'static str> {
        let inputs = slice(self.desc.inputs);
        let legal = |e: &InputElement| {
            let dtype = inputs.get(e.input as usize).and_then(|io| DType::from_raw(io.dtype));
            dtype.is_some_and(|dtype| integer(dtype, &[0; 8]).is_some()) && (e.symbol as usize) < self.desc.symbols.len
        };
        let given = |symbol: usize| self.elements().iter().any(|e| e.symbol as usize == symbol);
        let symbols = slice(self.desc.symbols).iter().enumerate();
        let negative = symbols.filter(|(_, symbol)| symbol.min < 0);
        if self.elements().iter().all(legal) && negative.into_iter().all(|(i, _)| given(i)) {
            Ok(())
        } else {
            Err("a symbol is no element of an input")
        }
    }

    fn check_counts(&self) -> Result<(), &'static str> {
        let desc = self.desc;
        let legal = |c: &Count| {
            (c.step as usize) <= self.steps().len()
                && (c.symbol as usize) < desc.symbols.len
                && (c.buffer as usize) < desc.buffers.len
                && u64::from(c.most) < desc.dim_count
        };
        let counts = self.counts();
        if counts.iter().all(legal) && counts.is_sorted_by_key(|c| c.step) {
            Ok(())
        } else {
            Err("a count points outside the tables")
        }
    }

    fn check_loops(&self) -> Result<(), &'static str> {
        let (loops, moves) = (self.loops(), self.moves());
        for (index, one) in loops.iter().enumerate() {
            let range = |l: &Loop| {
                let first = u64::from(l.first_step);
                first..first + u64::from(l.step_count)
            };
            let own = range(one);
            let inside = own.start < own.end && own.end <= self.steps().len() as u64;
            let moved = u64::from(one.first_move) + u64::from(one.move_count) <= moves.len() as u64;
            let rows = (one.rows as usize).checked_sub(1);
            let rows = rows.is_none_or(|at| self.counts().get(at).is_some_and(|c| c.step == one.first_step));
            let again = (one.again as usize).checked_sub(1);
            let again = again.is_none_or(|at| self.counts().get(at).is_some_and(|c| c.step == one.first_step));
            if !inside || !moved || !rows || !again || u64::from(one.count) >= self.desc.dim_count {
                return Err("a loop points outside the tables");
            }
            let mut depth = 1;
            for before in loops[..index].iter().map(range) {
                let around = before.start <= own.start && own.end <= before.end;
                depth += usize::from(around);
                if before.start > own.start || !around && before.end > own.start {
                    return Err("loops cross each other");
                }
            }
            if depth > LOOP_DEPTH {
                return Err("loops are too deep");
            }
        }
        let legal = |m: &Move| {
            (m.buffer as usize) < self.desc.buffers.len
                && u64::from(m.bytes) < self.desc.dim_count
                && m.kind <= MOVE_BACK
        };
        if moves.iter().all(legal) {
            Ok(())
        } else {
            Err("a move points outside the tables")
        }
    }
}

fn tensor(io: &'static Io) -> TensorInfo {
    // `check` saw the dtype; the fallback is never taken.
    let dtype = DType::from_raw(io.dtype).unwrap_or(DType::U8);
    TensorInfo {
        name: text(io.name),
        dtype,
        extents: Extents(slice(io.shape)),
    }
}

fn slice<T>(slice: Slice<T>) -> &'static [T] {
    if slice.len == 0 {
        return &[];
    }
    // SAFETY: the contract of `Tables::new`, the only way to a `Slice` in this file; the object's constants are static.
    unsafe { core::slice::from_raw_parts(slice.ptr, slice.len) }
}

fn checked_text(text: Str) -> Result<&'static str, &'static str> {
    core::str::from_utf8(slice(text)).map_err(|_| "a name is not UTF-8")
}

fn text(text: Str) -> &'static str {
    // `check` saw every name; the fallback is never taken.
    checked_text(text).unwrap_or_default()
}
