//! The structs that generated code and the runtime share.
//!
//! The compiler writes one [`ModelDesc`] into each object as constant data; the runtime only reads it. Everything is
//! `repr(C)`, pointers are non-null unless said, and every slice is a pointer with a length, so that the layout is the
//! same from LLVM, C and Rust. A change here raises [`ABI_VERSION`].
//!
//! How a run works: the caller's input shapes fix the symbols; [`ModelDesc::shape`] evaluates every symbolic quantity
//! once for these symbols into a table of `dims` and a table of byte `offsets`; the runtime resolves `buffers` into
//! pointers; then every [`Step`] runs in order, each on all threads, each thread working on its own part. The steps of a
//! [`Loop`] run once per iteration, and between iterations the pointers that its [`Move`]s name go on. A [`Count`] reads
//! a symbol that only data tells, and evaluates again what depends on it.
//!
//! A [`Custom`] is a step that calls an operator of the caller. Its results have extents that the operator gives
//! ([`EXTENT_GIVEN`]), from the shapes of its operands: before the shapes are evaluated for the run, they are evaluated with
//! what is known so far for each of them in turn. One that reads contents gives them from the elements of its operands, where
//! these are there before a run: then it is a probe of the inputs, asked again for each run. Operators that the compiler knows
//! are called in the same way, by their address ([`Custom::built_in`]).
#![no_std]

use core::ffi::{c_char, c_int, c_void};

/// Raised whenever a struct below changes.
pub const ABI_VERSION: u32 = 10;

/// `b"CAMEOMDL"` little endian: the first field of a [`ModelDesc`].
pub const MAGIC: u64 = u64::from_le_bytes(*b"CAMEOMDL");

/// The first eight bytes of a weights file, `b"CAMEOWTS"`.
pub const WEIGHTS_MAGIC: u64 = u64::from_le_bytes(*b"CAMEOWTS");

/// Alignment in bytes of every weight, of the weights section, of the arena and of every tensor in it.
pub const ALIGNMENT: usize = 64;

/// A constant array in the object.
#[repr(C)]
#[derive(Debug)]
pub struct Slice<T> {
    /// First element; dangling but aligned when `len` is 0.
    pub ptr: *const T,
    /// Number of elements.
    pub len: usize,
}

impl<T> Clone for Slice<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<T> {}

/// UTF-8 text in the object, not NUL-terminated.
pub type Str = Slice<u8>;

/// Element types, numbered as in ONNX `TensorProto.DataType`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    F32 = 1,
    U8 = 2,
    I8 = 3,
    U16 = 4,
    I16 = 5,
    I32 = 6,
    I64 = 7,
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
    /// Every element type.
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

    /// The element type of a number found in a descriptor, a header or a C call.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        let mut i = 0;
        while i < Self::ALL.len() {
            if Self::ALL[i] as u32 == raw {
                return Some(Self::ALL[i]);
            }
            i += 1;
        }
        None
    }

    /// Bits per element. Those of less than a byte are packed, the first one in the lowest bits; what is left of the last
    /// byte is 0 in outputs and not looked at in inputs.
    #[must_use]
    pub const fn bits(self) -> usize {
        match self {
            Self::U4 | Self::I4 | Self::F4E2M1 => 4,
            Self::U2 | Self::I2 => 2,
            _ => self.size() * 8,
        }
    }

    /// Bytes of the memory of a caller that an element is in: of a string, a [`Text`]. Kernels see strings as handles of eight
    /// bytes ([`text_handle`]).
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::F8E4M3FN | Self::F8E4M3FNUZ | Self::F8E5M2 | Self::F8E5M2FNUZ | Self::F8E8M0 => 1,
            Self::U4 | Self::I4 | Self::F4E2M1 | Self::U2 | Self::I2 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::String => 16,
        }
    }

    /// What the address of an element is a multiple of.
    #[must_use]
    pub const fn alignment(self) -> usize {
        match self {
            Self::String => 8,
            _ => self.size(),
        }
    }

    /// The name that numpy and its package `ml_dtypes` give it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::U8 => "uint8",
            Self::I8 => "int8",
            Self::U16 => "uint16",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::String => "string",
            Self::Bool => "bool",
            Self::F16 => "float16",
            Self::F64 => "float64",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::BF16 => "bfloat16",
            Self::F8E4M3FN => "float8_e4m3fn",
            Self::F8E4M3FNUZ => "float8_e4m3fnuz",
            Self::F8E5M2 => "float8_e5m2",
            Self::F8E5M2FNUZ => "float8_e5m2fnuz",
            Self::U4 => "uint4",
            Self::I4 => "int4",
            Self::F4E2M1 => "float4_e2m1fn",
            Self::F8E8M0 => "float8_e8m0fnu",
            Self::U2 => "uint2",
            Self::I2 => "int2",
        }
    }
}

/// `cameo_string`: a string in the memory of a caller, UTF-8 that nothing ends.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// May be null when there are no bytes.
    pub data: *const c_char,
    /// Number of bytes.
    pub size: usize,
}

/// The handle that a string is to kernels: a hash of its bytes, the same everywhere and always, and 0 for no bytes, so that
/// memory of zeros has empty strings.
///
/// Equal strings have equal handles. Different ones may, some day: whoever enters a string in a table of handles looks at
/// the bytes that are there, and refuses others. Strings of at most eight bytes and of one length never do.
#[must_use]
pub const fn text_handle(text: &[u8]) -> u64 {
    if text.is_empty() {
        return 0;
    }
    let mut hash = (text.len() as u64).wrapping_mul(WeightsHasher::FACTOR);
    let mut at = 0;
    while at < text.len() {
        let (mut word, mut byte) = (0, 0);
        while byte < 8 && at + byte < text.len() {
            word |= (text[at + byte] as u64) << (8 * byte);
            byte += 1;
        }
        WeightsHasher::mix(&mut hash, word);
        at += 8;
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(WeightsHasher::FACTOR);
    hash ^= hash >> 29;
    if hash == 0 { 1 } else { hash }
}

/// How the names of the runtime's own operators begin: those that no caller supplies.
pub const OWN_OPERATOR: &str = "cameo::";

/// How to find the extent of one axis of an input or output.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// One of the `EXTENT_*` constants.
    pub kind: u32,
    /// Reserved, 0.
    pub reserved: u32,
    /// The extent itself, an index into [`ModelDesc::symbols`], or an index into the `dims` table.
    pub value: i64,
    /// For people: the extent in terms of the symbols, such as `2*S+1`; empty for a constant.
    pub name: Str,
}

/// `value` is the extent.
pub const EXTENT_CONST: u32 = 0;
/// `value` is a symbol, which an axis of an input binds and an axis of an output repeats.
pub const EXTENT_SYMBOL: u32 = 1;
/// `value` is an index into the `dims` table (inputs: checked after the symbols are bound; outputs: the extent).
pub const EXTENT_DIM: u32 = 2;
/// Of results of a [`Custom`] only: `value` is a symbol, which is what the operator says. Where they have another kind, the
/// operator is held to it.
pub const EXTENT_GIVEN: u32 = 3;

/// An input or output of the model.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Io {
    pub name: Str,
    /// A [`DType`] value.
    pub dtype: u32,
    /// Reserved, 0.
    pub reserved: u32,
    /// One entry per axis, outermost first; dense row-major storage.
    pub shape: Slice<Extent>,
}

/// A symbolic dimension, bound by the shapes of the inputs, by a [`Count`], a [`Custom`] or the memory of a [`Cache`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Symbol {
    pub name: Str,
    /// Smallest legal value, negative only for an [`InputElement`].
    pub min: i64,
    /// Largest legal value, `i64::MAX` when unbounded.
    pub max: i64,
}

/// Where a buffer lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// One of the `REGION_*` constants.
    pub region: u32,
    /// Index of the input or output for [`REGION_INPUT`] and [`REGION_OUTPUT`], else 0.
    pub index: u32,
    /// [`REGION_WEIGHTS`]: byte offset from the start of the weights. [`REGION_ARENA`]: index into the `offsets`
    /// table, which holds the byte offset from the start of the arena. Else 0.
    pub offset: u64,
}

pub const REGION_ARENA: u32 = 0;
pub const REGION_WEIGHTS: u32 = 1;
pub const REGION_INPUT: u32 = 2;
pub const REGION_OUTPUT: u32 = 3;
/// No tensor, but the [`OperatorCall`] of the [`Custom`] of that index.
pub const REGION_OPERATOR: u32 = 4;

/// One kernel call. `buffers` and `dims` point at the step's own slice of the resolved tables.
///
/// The kernel does the share `part` of `parts` (`0 <= part < parts`) of its work; shares touch disjoint outputs. `scratch` is
/// private to the calling thread, [`ALIGNMENT`]-aligned, of the size that [`ShapeFn`] gave.
/// Returns 0, or a `KERNEL_*` error; memory stays in bounds in either case. The address of a buffer without elements may be
/// anything.
pub type KernelFn =
    unsafe extern "C" fn(buffers: *const *mut u8, dims: *const i64, part: i64, parts: i64, scratch: *mut u8) -> i32;

/// An index that came from data (Gather and the like) was outside its axis; it was clamped, or nothing was read.
pub const KERNEL_INDEX_OUT_OF_RANGE: i32 = 1;
/// An operator of the caller failed, or was not called because another one had.
pub const KERNEL_OPERATOR_FAILED: i32 = 2;
/// A rule about what the run has counted does not hold; the name of the step says it.
pub const KERNEL_RULE_BROKEN: i32 = 3;

/// One call of a kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub kernel: KernelFn,
    /// First entry of the step's slice in [`ModelDesc::buffers`].
    pub first_buffer: u32,
    /// First entry of the step's slice in the `dims` table.
    pub first_dim: u32,
    /// Index in the `dims` table of the estimated work, in scalar operations: small steps run on one thread.
    pub work: u32,
    /// Reserved, 0.
    pub reserved: u32,
    /// For profiles and messages: kernel name and the ONNX nodes that it computes.
    pub name: Str,
}

/// The steps as they are for one level of a processor family. Those of all levels differ in their kernels only.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Level {
    /// Instruction sets that the kernels need, one `CPU_*` bit each.
    pub cpu_features: u64,
    /// What the compiler calls it: `x86-64-v3`.
    pub name: Str,
    pub steps: Slice<Step>,
}

/// Steps that are done several times in a row. Loops are listed by first step, outer ones before inner ones; two loops are
/// either apart or one inside of the other, at most [`LOOP_DEPTH`] deep.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Loop {
    /// First step.
    pub first_step: u32,
    /// Number of steps, at least 1.
    pub step_count: u32,
    /// Index in the `dims` table of the number of iterations.
    pub count: u32,
    /// First of its moves in [`ModelDesc::moves`].
    pub first_move: u32,
    /// Number of moves.
    pub move_count: u32,
    /// One more than the index in [`ModelDesc::counts`] of what every iteration begins with; 0 where there is none. Other
    /// counts at its first step come before the loop.
    pub rows: u32,
    /// One more than the index in [`ModelDesc::counts`] of what is read again behind every iteration, of which the number of
    /// iterations follows; 0 where there is none. It is one that comes before the loop.
    pub again: u32,
}

/// Most loops inside of each other.
pub const LOOP_DEPTH: usize = 8;

/// What happens to a resolved buffer between two iterations of a loop. After the last one it is where it was at first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// Index into [`ModelDesc::buffers`].
    pub buffer: u32,
    /// One of the `MOVE_*` constants.
    pub kind: u32,
    /// Index in the `dims` table of the number of bytes.
    pub bytes: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

/// The next slice: forward by the bytes each time.
pub const MOVE_ADVANCE: u32 = 0;
/// The other one of two halves: forward after the first iteration, back after the second, and so on.
pub const MOVE_FORTH: u32 = 1;
/// The other one of two halves: back first.
pub const MOVE_BACK: u32 = 2;

/// A symbol that no input's shape gives: it is read from memory in the course of a run.
///
/// Until then it has its largest value. What lies where, how large the arena and the scratch of a thread are and how often
/// loops run does not depend on it, but for sizes that are then no larger. Counts are listed by step.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// It is read before this step, in each iteration of the loops that the step is in; when it is the number of steps, at
    /// the end.
    pub step: u32,
    /// Index into [`ModelDesc::symbols`].
    pub symbol: u32,
    /// Index into [`ModelDesc::buffers`] of the value, an `i64`.
    pub buffer: u32,
    /// Index in the `dims` table of its largest value, which depends on no symbol that is counted later.
    pub most: u32,
}

/// An output that is an input with more rows behind it, in the input's memory: there is room for more rows there than the
/// input has, and a run writes those behind it. Each input and each output is in at most one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Cache {
    /// Index of the input.
    pub input: u32,
    /// Index of the output. No [`Buffer`] names it.
    pub output: u32,
    /// The axis of rows.
    pub axis: u32,
    /// Index into [`ModelDesc::symbols`] of the number of rows that there is room for. No extent names it.
    pub capacity: u32,
}

/// A symbol that is an element of an input: a run begins by reading it, before anything is sized.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct InputElement {
    /// Index into [`ModelDesc::symbols`].
    pub symbol: u32,
    /// Index of the input, which has integers, bools or floats; floats are read as the bits of `f64`.
    pub input: u32,
    /// Row-major position in it.
    pub at: u64,
}

/// A step whose kernel is an operator that the caller supplies, one of the runtime's own ([`OWN_OPERATOR`]), or one that is
/// linked in. Those that give extents which another one's operands have
/// are listed before it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Custom {
    /// Index of the step. The first of its buffers is [`REGION_OPERATOR`], then come the operands that are there, then the
    /// results.
    pub step: u32,
    /// 1: when it is asked for shapes, operands that are inputs of the model or weights have their elements, and it is asked
    /// before each run. Else 0.
    pub reads_contents: u32,
    /// `com.acme::Foo`, with a 0 behind it.
    pub operator: Str,
    /// The ONNX node, with a 0 behind it.
    pub node: Str,
    pub attributes: Slice<Attribute>,
    /// The operands; of one that is left out `dtype` is 0.
    pub inputs: Slice<Io>,
    pub outputs: Slice<Io>,
    /// The operator, where the program brings it; null when the caller does.
    pub built_in: Option<&'static Operator>,
}

/// What a step of a [`Custom`] calls: the first thing that the first of its buffers points to.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OperatorCall {
    /// Takes its own address, and the buffers of the step. Returns what a kernel does.
    pub run: unsafe extern "C" fn(call: *mut Self, buffers: *const *mut u8) -> i32,
}

/// `cameo_attribute`: an attribute of a node, as an operator sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    pub name: *const c_char,
    /// One of the `ATTRIBUTE_*` constants.
    pub kind: u32,
    /// Reserved, 0.
    pub reserved: u32,
    /// Number of values; of a text, its bytes.
    pub count: usize,
    /// The values, by kind: `f32`, `i64`, a text with a 0 behind it, an [`OperatorTensor`], or pointers to such texts.
    pub data: *const c_void,
}

// Numbered as in ONNX `AttributeProto.AttributeType`.
pub const ATTRIBUTE_FLOAT: u32 = 1;
pub const ATTRIBUTE_INT: u32 = 2;
pub const ATTRIBUTE_STRING: u32 = 3;
pub const ATTRIBUTE_TENSOR: u32 = 4;
pub const ATTRIBUTE_FLOATS: u32 = 6;
pub const ATTRIBUTE_INTS: u32 = 7;
pub const ATTRIBUTE_STRINGS: u32 = 8;

/// `cameo_operator_tensor`: dense and row-major.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OperatorTensor {
    /// A [`DType`] value; 0: the operand is left out.
    pub dtype: u32,
    /// Reserved, 0.
    pub reserved: u32,
    pub rank: usize,
    pub shape: *mut i64,
    /// Null when shapes are asked for, but for operands of an operator that reads contents.
    pub data: *mut c_void,
}

/// `cameo_operator_call`: what an operator is asked to do.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OperatorArguments {
    pub node: *const c_char,
    pub attributes: *const Attribute,
    pub attribute_count: usize,
    pub inputs: *const OperatorTensor,
    pub input_count: usize,
    pub outputs: *const OperatorTensor,
    pub output_count: usize,
    /// Where to say why it failed.
    pub message: *mut c_char,
    pub message_bytes: usize,
}

/// Returns 0, or anything else when it failed.
pub type OperatorFn = unsafe extern "C" fn(user: *mut c_void, call: *const OperatorArguments) -> c_int;

/// `cameo_operator`: an operator that the caller supplies.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Operator {
    /// [`OPERATOR_VERSION`].
    pub version: u32,
    /// Reserved, 0.
    pub reserved: u32,
    pub name: *const c_char,
    /// Writes the shapes of the results. Null when models know them.
    pub shape: Option<OperatorFn>,
    /// Writes the elements of the results.
    pub compute: Option<OperatorFn>,
    pub user: *mut c_void,
}

/// Raised whenever one of the structs that operators see changes.
pub const OPERATOR_VERSION: u32 = 1;

/// Evaluates everything that depends on the symbols.
///
/// `symbols` has [`ModelDesc::symbols`]`.len` values. Fills `dims` ([`ModelDesc::dim_count`]), `offsets`
/// ([`ModelDesc::offset_count`]) and `sizes` (`[arena bytes, scratch bytes per thread]`). Returns 0; or where something does
/// not hold for these symbols one more than the index of a rule in [`ModelDesc::rules`], and in `sizes` the two numbers that it
/// is about; or -1 when a number overflows, or a size is larger than can be.
pub type ShapeFn = unsafe extern "C" fn(symbols: *const i64, dims: *mut i64, offsets: *mut i64, sizes: *mut i64) -> i32;

/// Everything the runtime knows of a compiled model.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ModelDesc {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`].
    pub abi_version: u32,
    /// Threads when the caller does not say; 0: as many as the process may use.
    pub default_threads: u32,
    pub name: Str,
    pub symbols: Slice<Symbol>,
    pub inputs: Slice<Io>,
    pub outputs: Slice<Io>,
    pub buffers: Slice<Buffer>,
    /// At least one, best first: the runtime takes the first one that the processor has, and refuses a processor without any.
    pub levels: Slice<Level>,
    pub loops: Slice<Loop>,
    pub moves: Slice<Move>,
    pub counts: Slice<Count>,
    pub caches: Slice<Cache>,
    pub elements: Slice<InputElement>,
    pub customs: Slice<Custom>,
    /// The strings among the weights and constants.
    pub texts: Slice<Str>,
    /// What must hold of the symbols, in words: `N <= 512 in node "/Gather"`.
    pub rules: Slice<Str>,
    pub dim_count: u64,
    pub offset_count: u64,
    pub shape: ShapeFn,
    /// Bytes of the weights section, without the header of a weights file.
    pub weight_bytes: u64,
    /// Identifies the weights: the same value is in the header of the weights file.
    pub weight_hash: u64,
    /// The weights section when it is linked in, null when it is a file of its own.
    pub weights: *const u8,
}

/// What an executable with timers has beside its [`ModelDesc`], which has one level whose steps call the kernels through the
/// timer then.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ProfileDesc {
    /// Identifies the program: the same for the same kernels, steps and memory.
    pub fingerprint: u64,
    /// One per step of the model.
    pub steps: Slice<ProfileStep>,
}

/// What a profile says of a step beside its times. Quantities are those of a run, all iterations of loops together.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ProfileStep {
    /// Number of the kernel in the program.
    pub kernel: u32,
    /// Index in the `dims` table of the FLOPs.
    pub flops: u32,
    /// Index in the `dims` table of the bytes that it reads.
    pub read: u32,
    /// Index in the `dims` table of the bytes that it writes.
    pub written: u32,
    /// What kind of kernel it is.
    pub kind: Str,
    /// The ONNX nodes that it computes.
    pub nodes: Slice<Str>,
}

/// All of x86-64-v3, and so on.
pub const CPU_AVX2_FMA: u64 = 1;
pub const CPU_AVX512: u64 = 2;
pub const CPU_SSE42: u64 = 4;

/// The first 64 bytes of a weights file; the weights follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightsHeader {
    /// [`WEIGHTS_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`].
    pub abi_version: u32,
    pub reserved: u32,
    /// Bytes that follow this header.
    pub bytes: u64,
    /// [`ModelDesc::weight_hash`] of the model that the weights belong to.
    pub hash: u64,
    pub padding: [u64; 4],
}

/// Identifies weights: 64 bits over the bytes of a weights section, word by word in four independent chains.
///
/// The compiler writes it into model and file, the runtime may compare it with the bytes. It tells models apart and finds
/// damage; it does not withstand an adversary.
#[derive(Clone, Debug)]
pub struct WeightsHasher {
    chains: [u64; 4],
    /// Units of [`ALIGNMENT`] bytes so far.
    lines: u64,
}

impl Default for WeightsHasher {
    fn default() -> Self {
        Self {
            chains: [1, 2, 3, 4],
            lines: 0,
        }
    }
}

impl WeightsHasher {
    /// Odd, with random-looking bits: the golden ratio's fraction.
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

    /// Takes the next weight, or a section as a whole: zeros up to a multiple of [`ALIGNMENT`] are added, as in the section.
    pub fn update(&mut self, bytes: &[u8]) {
        let (lines, rest) = bytes.as_chunks::<ALIGNMENT>();
        for line in lines {
            self.line(line);
        }
        if !rest.is_empty() {
            let mut last = [0; ALIGNMENT];
            last[..rest.len()].copy_from_slice(rest);
            self.line(&last);
        }
    }

    /// The hash of everything so far.
    #[must_use]
    pub fn finish(self) -> u64 {
        let mut hash = self.lines;
        for chain in self.chains {
            Self::mix(&mut hash, chain);
        }
        hash ^ hash >> 32
    }

    fn line(&mut self, line: &[u8; ALIGNMENT]) {
        let (words, _) = line.as_chunks::<8>();
        for four in words.chunks_exact(self.chains.len()) {
            for (chain, word) in self.chains.iter_mut().zip(four) {
                Self::mix(chain, u64::from_le_bytes(*word));
            }
        }
        self.lines += 1;
    }

    const fn mix(chain: &mut u64, word: u64) {
        // The multiplication moves bits up only: the high ones go down before it, and all turn after it.
        let x = *chain ^ word;
        *chain = (x ^ x >> 32).wrapping_mul(Self::FACTOR).rotate_left(29);
    }
}

// SAFETY: the pointers lead to constant data of the object, which nothing writes.
#[expect(unsafe_code, reason = "constant tables are shared between threads")]
unsafe impl<T: Sync> Sync for Slice<T> {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "constant tables are shared between threads")]
unsafe impl Sync for ModelDesc {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "constant tables are shared between threads")]
unsafe impl Sync for ProfileDesc {}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec;

    fn hash(weights: &[&[u8]]) -> u64 {
        let mut hasher = WeightsHasher::default();
        weights.iter().for_each(|weight| hasher.update(weight));
        hasher.finish()
    }

    #[test]
    fn handles_tell_strings_apart() {
        // The numbers are in weights: they may change with `ABI_VERSION` only.
        assert_eq!(text_handle(b""), 0);
        assert_eq!(text_handle(b"a"), 8_563_140_068_248_749_909);
        let mut all = vec![
            text_handle(b""),
            text_handle(b"\0"),
            text_handle(b"\0\0"),
            text_handle(&[0; 9]),
        ];
        for first in 0..=255u8 {
            for second in 1..=255u8 {
                all.push(text_handle(&[first, second]));
            }
            all.push(text_handle(&[[first; 8].as_slice(), b"tail"].concat()));
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn hashes_tell_weights_apart() {
        let mut all = vec![hash(&[]), hash(&[&[0]]), hash(&[&[0], &[0]]), hash(&[&[0; 200]])];
        let base = [7u8; 100];
        all.push(hash(&[&base]));
        for bit in 0..800 {
            let mut other = base;
            other[bit / 8] ^= 1 << (bit % 8);
            all.push(hash(&[&other]));
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_section_and_its_weights_have_the_same_hash() {
        let weights: [&[u8]; 4] = [&[1; 64], &[2; 5], &[], &[3; 130]];
        let mut section = vec![];
        for weight in weights {
            section.extend_from_slice(weight);
            section.resize(section.len().next_multiple_of(ALIGNMENT), 0);
        }
        assert_eq!(hash(&[&section]), hash(&weights));
        // The number is in files: it may change with `ABI_VERSION` only.
        assert_eq!(hash(&[&section]), 10_821_641_735_236_391_277);
    }
}
