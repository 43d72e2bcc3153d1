//! From input shapes to sizes: binds the symbols, evaluates the model's shape function, checks what depends on it.
#![expect(unsafe_code, reason = "calls the model's shape function")]

use crate::description::{Dim, Tables, dim};
use crate::error::{Error, SymbolBinding};
use crate::run::parts_for;
use crate::tensor::byte_size;
use cameo_abi::{
    ALIGNMENT, Cache, Count, EXTENT_GIVEN, InputElement, REGION_ARENA, REGION_INPUT, REGION_OPERATOR, REGION_WEIGHTS,
};

/// Marks a symbol that no axis has bound yet; extents are never negative.
const UNBOUND: i64 = i64::MIN;

/// Memory that a run needs beside weights, inputs and outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// For intermediate tensors.
    pub arena_bytes: usize,
    /// For each thread's packing and partial results.
    pub scratch_bytes: usize,
}

impl Sizes {
    /// From one thread's scratch to the next one's in bytes; `None` when it overflows.
    #[must_use]
    pub const fn scratch_stride(&self) -> Option<usize> {
        // Two lines apart, so that neighbours' last and first lines are never fetched as a pair.
        self.scratch_bytes.checked_next_multiple_of(2 * ALIGNMENT)
    }
}

/// The tables of one set of input shapes, in the caller's memory.
///
/// Invariant: they have the lengths that the descriptor names.
pub struct Plan<'a> {
    tables: Tables,
    symbols: &'a mut [i64],
    dims: &'a mut [i64],
    offsets: &'a mut [i64],
    extents: &'a mut [i64],
}

/// What a plan is evaluated for.
pub struct Given<Shape, Rows, Elements, Operators> {
    /// The shape of each input; ranks and constant axes are already checked.
    pub shape: Shape,
    /// In the memory of a cache's input is room for so many rows; `None`: for as many as its output has.
    pub rows: Rows,
    /// The values of the model's [`Tables::elements`].
    pub elements: Elements,
    /// Asks the operator of the [`Tables::customs`] of an index for the extents of its results: given are those of all
    /// operands, one behind the other, and where to write those of all results, which hold what is known of them.
    pub operators: Operators,
}

/// The tables of a plan while a run reads them and changes what it counts.
#[derive(Clone, Copy)]
pub(crate) struct Evaluated {
    tables: Tables,
    symbols: *mut i64,
    pub dims: *mut i64,
    offsets: *mut i64,
}

/// The shape function failed.
pub(crate) struct Broken {
    /// Index into `ModelDesc::rules`; none of it when a number overflows.
    pub rule: usize,
    /// The numbers that the rule is about.
    pub sides: [i64; 2],
}

impl Evaluated {
    /// Evaluates the shape function for the symbols.
    ///
    /// # Safety
    /// Nothing else accesses the tables meanwhile.
    unsafe fn evaluate(&self) -> Result<[i64; 2], Broken> {
        let mut sizes = [0i64; 2];
        // SAFETY: `Tables` holds the descriptor to its contract; each table has the length that the descriptor names.
        let status = unsafe { (self.tables.raw().shape)(self.symbols, self.dims, self.offsets, sizes.as_mut_ptr()) };
        match status {
            0 => Ok(sizes),
            _ => Err(Broken {
                rule: usize::try_from(status).map_or(usize::MAX, |number| number - 1),
                sides: sizes,
            }),
        }
    }

    /// The largest value of a count, from the symbols before it.
    ///
    /// # Safety
    /// As for [`Evaluated::evaluate`].
    unsafe fn most(&self, count: &Count) -> i64 {
        // SAFETY: `Tables` checked the index.
        unsafe { *self.dims.add(count.most as usize) }.max(0)
    }

    /// Evaluates with every count at its largest.
    ///
    /// # Safety
    /// As for [`Evaluated::evaluate`].
    unsafe fn at_most(&self) -> Result<[i64; 2], Broken> {
        for count in self.tables.counts() {
            // Whether rules hold is seen when all symbols are known.
            // SAFETY: the caller's promise, and `Tables` checked the index.
            unsafe {
                let _ = self.evaluate();
                *self.symbols.add(count.symbol as usize) = self.most(count);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.evaluate() }
    }

    /// Evaluates with a value that a run has counted; `false` when it is not legal, or the plan is too small for it. Then it
    /// counts as 0, for which there is memory everywhere, or else all counts are at their largest, as they were planned.
    ///
    /// # Safety
    /// As for [`Evaluated::evaluate`]; `planned` are the sizes that [`Plan::evaluate`] gave.
    pub unsafe fn count(&self, count: &Count, value: i64, planned: Sizes) -> bool {
        let fits = |size: i64, most: usize| usize::try_from(size).is_ok_and(|size| size <= most);
        // SAFETY: the caller's promise, and `Tables` checked the index.
        unsafe {
            let symbol = self.symbols.add(count.symbol as usize);
            if *symbol == value {
                return true;
            }
            let try_with = |value: i64| {
                *symbol = value;
                let sizes = self.evaluate();
                sizes.is_ok_and(|[arena, scratch]| {
                    fits(arena, planned.arena_bytes) && fits(scratch, planned.scratch_bytes)
                })
            };
            if (0..=self.most(count)).contains(&value) && try_with(value) {
                return true;
            }
            if !try_with(0) {
                let _ = self.at_most();
            }
        }
        false
    }
}

impl<'a> Plan<'a> {
    /// A plan in these tables, with what they contain: [`Tables::symbol_count`] symbols, `dim_count` dims and
    /// `offset_count` offsets of the [`cameo_abi::ModelDesc`], and [`Tables::custom_extent_count`] extents of operands and
    /// results of operators of the caller.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when a table has another length.
    pub fn new<T>(
        tables: Tables,
        symbols: &'a mut [i64],
        dims: &'a mut [i64],
        offsets: &'a mut [i64],
        extents: &'a mut [i64],
    ) -> Result<Self, Error<T>> {
        let desc = tables.raw();
        let lengths = [symbols.len(), dims.len(), offsets.len(), extents.len()].map(|length| length as u64);
        let counts = [tables.symbol_count(), tables.custom_extent_count()].map(|count| count as u64);
        if lengths != [counts[0], desc.dim_count, desc.offset_count, counts[1]] {
            return Err(Error::InvalidArgument(
                "the tables of a plan do not have the model's lengths",
            ));
        }
        Ok(Self {
            tables,
            symbols,
            dims,
            offsets,
            extents,
        })
    }

    /// Evaluates for what is given.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::SymbolMismatch`], [`Error::WrongExtent`], [`Error::ShapeRule`],
    /// [`Error::CacheFull`], [`Error::InvalidModel`], [`Error::OperatorShape`], and those of the operators.
    pub fn evaluate<'s, T, Shape, Rows, Elements, Operators>(
        &mut self,
        given: Given<Shape, Rows, Elements, Operators>,
    ) -> Result<Sizes, Error<T>>
    where
        Shape: Fn(usize) -> &'s [i64],
        Rows: Fn(usize) -> Option<i64>,
        Elements: Fn(&InputElement) -> i64,
        Operators: FnMut(usize, &[i64], &mut [i64]) -> Result<(), Error<T>>,
    {
        let Given {
            shape,
            rows,
            elements,
            operators,
        } = given;
        self.bind_symbols(&shape, &elements)?;
        self.ask_operators(operators)?;
        let mut sizes = self.evaluate_symbols()?;
        let caches = self.tables.caches();
        for cache in caches {
            let needed = self.rows(cache);
            let room = rows(cache.input as usize).unwrap_or(needed);
            if room < needed {
                return Err(Error::CacheFull {
                    name: self.tables.input(cache.input as usize).name,
                    room,
                    needed,
                });
            }
            self.symbols[cache.capacity as usize] = room;
        }
        if !caches.is_empty() {
            sizes = self.evaluate_symbols()?;
        }
        for input in 0..self.tables.input_count() {
            let info = self.tables.input(input);
            for (axis, (dim, &got)) in info.extents.iter().zip(shape(input)).enumerate() {
                if let Dim::Derived { index, .. } = dim
                    && self.dims[index] != got
                {
                    return Err(Error::WrongExtent {
                        name: info.name,
                        axis,
                        expected: self.dims[index],
                        got,
                    });
                }
            }
        }
        Ok(sizes)
    }

    /// Evaluates for the values of the symbols themselves that their table contains; those that a run counts become their
    /// largest.
    ///
    /// # Errors
    /// [`Error::ShapeRule`], [`Error::InvalidModel`].
    pub fn evaluate_symbols<T>(&mut self) -> Result<Sizes, Error<T>> {
        // SAFETY: the tables are borrowed mutably.
        let sizes = unsafe { self.evaluated().at_most() }.map_err(|broken| self.tables.broken(&broken))?;
        let [Ok(arena_bytes), Ok(scratch_bytes)] = sizes.map(usize::try_from) else {
            return Err(Error::SizeOverflow);
        };
        if self.offsets.iter().any(|&offset| offset < 0 || offset > sizes[0]) {
            return Err(Error::InvalidModel("a tensor lies outside the arena"));
        }
        Ok(Sizes {
            arena_bytes,
            scratch_bytes,
        })
    }

    /// Binds the symbols that operators of the caller give, one operator after the other.
    fn ask_operators<T>(
        &mut self,
        mut operators: impl FnMut(usize, &[i64], &mut [i64]) -> Result<(), Error<T>>,
    ) -> Result<(), Error<T>> {
        let mut first = 0;
        for (index, custom) in self.tables.customs().iter().enumerate() {
            let info = self.tables.custom(custom);
            // Whether rules hold is seen when all symbols are known.
            // SAFETY: the tables are borrowed mutably.
            let _ = unsafe { self.evaluated().evaluate() };
            let count = info.extents().count();
            for (i, extent) in info.extents().enumerate() {
                self.extents[first + i] = self.extent(dim(extent));
            }
            let results = info.results().count();
            let (inputs, outputs) = self.extents[first..first + count].split_at_mut(count - results);
            operators(index, inputs, outputs)?;
            for (i, (output, axis, extent)) in info.results().enumerate() {
                let got = self.extents[first + count - results + i];
                let known = (extent.kind != EXTENT_GIVEN).then(|| self.extent(dim(extent)));
                if got < 0 || known.is_some_and(|known| known != got) {
                    return Err(Error::OperatorShape {
                        operator: info.operator,
                        node: info.node,
                        output,
                        axis,
                        expected: known,
                        got,
                    });
                }
            }
            for (i, (.., extent)) in info.results().enumerate() {
                if extent.kind == EXTENT_GIVEN {
                    self.symbols[extent.value as usize] = self.extents[first + count - results + i];
                }
            }
            first += count;
        }
        Ok(())
    }

    /// The tables, for as long as the plan's borrow of them.
    pub(crate) fn evaluated(&mut self) -> Evaluated {
        Evaluated {
            tables: self.tables,
            symbols: self.symbols.as_mut_ptr(),
            dims: self.dims.as_mut_ptr(),
            offsets: self.offsets.as_mut_ptr(),
        }
    }

    pub(crate) fn tables(&self) -> Tables {
        self.tables
    }

    /// Writes the extents of an output under the evaluated symbols to `shape`, and gives its bytes.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] when it is larger than the address space.
    pub fn output<T>(&self, index: usize, shape: &mut [i64]) -> Result<usize, Error<T>> {
        let info = self.tables.output(index);
        for (extent, dim) in shape.iter_mut().zip(info.extents.iter()) {
            *extent = self.extent(dim);
        }
        byte_size(info.dtype, shape.iter().copied()).ok_or(Error::SizeOverflow)
    }

    /// Rows of a cache after a run, under the evaluated symbols.
    #[must_use]
    pub fn rows(&self, cache: &Cache) -> i64 {
        let extent = self
            .tables
            .output(cache.output as usize)
            .extents
            .iter()
            .nth(cache.axis as usize);
        extent.map_or(0, |dim| self.extent(dim))
    }

    /// Rows that there is room for in a cache, under the evaluated symbols.
    #[must_use]
    pub fn room(&self, cache: &Cache) -> i64 {
        self.symbols[cache.capacity as usize]
    }

    /// Writes to `parts` in how many shares each step is done by a team of `threads`.
    pub fn split(&self, threads: usize, parts: &mut [u32]) {
        for (parts, step) in parts.iter_mut().zip(self.tables.steps()) {
            *parts = parts_for(self.dims[step.work as usize], threads);
        }
    }

    /// Writes where each buffer of [`Tables::buffers`] starts to `pointers`, from where the arena, the weights section, each
    /// input and output and the [`cameo_abi::OperatorCall`] of each of [`Tables::customs`] start.
    pub fn resolve(
        &self,
        arena: *mut u8,
        weights: *const u8,
        input: impl Fn(usize) -> *const u8,
        mut output: impl FnMut(usize) -> *mut u8,
        operator: impl Fn(usize) -> *mut u8,
        pointers: &mut [*mut u8],
    ) {
        for (pointer, buffer) in pointers.iter_mut().zip(self.tables.buffers()) {
            let (index, offset) = (buffer.index as usize, buffer.offset as usize);
            *pointer = match buffer.region {
                REGION_ARENA => arena.wrapping_add(self.offsets[offset] as usize),
                REGION_WEIGHTS => weights.wrapping_add(offset).cast_mut(),
                REGION_INPUT => input(index).cast_mut(),
                REGION_OPERATOR => operator(index),
                _ => output(index),
            };
        }
    }

    /// The extent of an axis under the evaluated symbols.
    fn extent(&self, dim: Dim) -> i64 {
        match dim {
            Dim::Const(extent) => extent,
            Dim::Symbol(index) => self.symbols[index],
            Dim::Derived { index, .. } => self.dims[index],
        }
    }

    /// A symbol that no input axis names takes its smallest value; axes derived from it are checked afterwards.
    fn bind_symbols<'s, T>(
        &mut self,
        shape: &impl Fn(usize) -> &'s [i64],
        elements: &impl Fn(&InputElement) -> i64,
    ) -> Result<(), Error<T>> {
        let tables = self.tables;
        self.symbols.fill(UNBOUND);
        for input in 0..tables.input_count() {
            let info = tables.input(input);
            for (axis, (dim, &got)) in info.extents.iter().zip(shape(input)).enumerate() {
                let Dim::Symbol(index) = dim else { continue };
                let symbol = tables.symbol(index);
                if self.symbols[index] == UNBOUND {
                    if got < symbol.min || got > symbol.max {
                        let (min, max) = (symbol.min, symbol.max);
                        return Err(Error::OutOfRange {
                            symbol: symbol.name,
                            name: info.name,
                            axis,
                            min,
                            max,
                            got,
                        });
                    }
                    self.symbols[index] = got;
                } else if self.symbols[index] != got {
                    let bound = first_binding(tables, index, self.symbols[index]);
                    return Err(Error::SymbolMismatch {
                        symbol: symbol.name,
                        name: info.name,
                        axis,
                        got,
                        bound,
                    });
                }
            }
        }
        for index in 0..self.symbols.len() {
            if self.symbols[index] == UNBOUND {
                self.symbols[index] = tables.symbol(index).min;
            }
        }
        for element in tables.elements() {
            self.symbols[element.symbol as usize] = elements(element);
        }
        Ok(())
    }
}

/// The first axis of the inputs that names the symbol.
fn first_binding(tables: Tables, symbol: usize, value: i64) -> SymbolBinding {
    (0..tables.input_count())
        .map(|input| tables.input(input))
        .find_map(|info| {
            let axis = info.extents.iter().position(|dim| dim == Dim::Symbol(symbol))?;
            Some(SymbolBinding {
                name: info.name,
                axis,
                value,
            })
        })
        .unwrap_or(SymbolBinding {
            name: "",
            axis: 0,
            value,
        })
}
