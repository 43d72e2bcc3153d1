//! A model on `cameo-core` alone: its descriptor is a constant, and all memory is arrays of the caller.
#![expect(unsafe_code, reason = "kernels work on raw pointers")]

use cameo_abi::*;
use cameo_core::{Error, Given, Parallel, Plan, Run, Sizes, Tables, Working};

/// Most elements of these tests.
const S: usize = 40_000;

/// Aligned as weights, arena and scratch are.
#[repr(align(64))]
struct Aligned<T>(T);

static WEIGHTS: Aligned<[f32; 1]> = Aligned([3.0]);

const fn slice<T>(values: &'static [T]) -> Slice<T> {
    Slice {
        ptr: values.as_ptr(),
        len: values.len(),
    }
}

const fn text(text: &'static str) -> Str {
    slice(text.as_bytes())
}

const fn step(name: &'static str, first_buffer: u32) -> Step {
    Step {
        kernel: multiply,
        first_buffer,
        first_dim: 0,
        work: 1,
        reserved: 0,
        name: text(name),
    }
}

const fn buffer(region: u32, offset: u64) -> Buffer {
    Buffer {
        region,
        index: 0,
        offset,
    }
}

const SHAPE: Slice<Extent> = slice(&[Extent {
    kind: EXTENT_SYMBOL,
    reserved: 0,
    value: 0,
    name: text("S"),
}]);

const fn io(name: &'static str) -> Io {
    Io {
        name: text(name),
        dtype: DType::F32 as u32,
        reserved: 0,
        shape: SHAPE,
    }
}

/// x [S] f32 -> y [S] f32 = 9 x, with 3 x in the arena.
static MODEL: ModelDesc = ModelDesc {
    magic: MAGIC,
    abi_version: ABI_VERSION,
    default_threads: 0,
    name: text("nine"),
    symbols: slice(&[Symbol {
        name: text("S"),
        min: 1,
        max: S as i64,
    }]),
    inputs: slice(&[io("x")]),
    outputs: slice(&[io("y")]),
    buffers: slice(&[
        buffer(REGION_INPUT, 0),
        buffer(REGION_WEIGHTS, 0),
        buffer(REGION_ARENA, 0),
        buffer(REGION_WEIGHTS, 0),
        buffer(REGION_OUTPUT, 0),
    ]),
    levels: slice(&[Level {
        cpu_features: 0,
        name: text("any"),
        // The second one's input is the first one's output.
        steps: slice(&[step("first", 0), step("second", 2)]),
    }]),
    loops: slice(&[]),
    moves: slice(&[]),
    counts: slice(&[]),
    caches: slice(&[]),
    elements: slice(&[]),
    customs: slice(&[]),
    texts: slice(&[]),
    rules: slice(&[]),
    dim_count: 2,
    offset_count: 1,
    shape,
    weight_bytes: 4,
    weight_hash: 0,
    weights: WEIGHTS.0.as_ptr().cast(),
};

/// Dims are S and the work.
unsafe extern "C" fn shape(symbols: *const i64, dims: *mut i64, offsets: *mut i64, sizes: *mut i64) -> i32 {
    unsafe {
        let s = *symbols;
        dims.copy_from_nonoverlapping([s, s].as_ptr(), 2);
        *offsets = 0;
        sizes.copy_from_nonoverlapping([4 * s, 64].as_ptr(), 2);
    }
    0
}

unsafe extern "C" fn multiply(buffers: *const *mut u8, dims: *const i64, part: i64, parts: i64, _: *mut u8) -> i32 {
    unsafe {
        let (from, factor, to) = (*buffers, *(*buffers.add(1)).cast::<f32>(), *buffers.add(2));
        for i in *dims * part / parts..*dims * (part + 1) / parts {
            *to.cast::<f32>().add(i as usize) = factor * *from.cast::<f32>().add(i as usize);
        }
    }
    0
}

/// Does the tasks below this number, the last one first.
struct Upto(usize);

// SAFETY: calls each task at most once.
unsafe impl Parallel for Upto {
    fn parallel(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..count.min(self.0)).rev().for_each(task);
    }
}

fn tables() -> Tables {
    // SAFETY: the descriptor keeps the contract.
    unsafe { Tables::new::<&str>(&MODEL) }.unwrap()
}

fn evaluate(plan: &mut Plan, extents: &[i64]) -> Result<Sizes, Error> {
    plan.evaluate(Given {
        shape: |_| extents,
        rows: |_| None,
        elements: |_: &_| 0,
        operators: |_, _: &_, _: &mut _| Ok(()),
    })
}

#[test]
fn a_run_in_arrays() {
    let tables = tables();
    let (mut symbols, mut dims, mut offsets) = ([0; 1], [0; 2], [0; 1]);
    let mut arena = Box::new(Aligned([0f32; S]));
    let mut scratch = Aligned([0u8; 3 * 128]);
    let (mut x, mut y) = ([1f32; S], [0f32; S]);
    for (i, x) in x.iter_mut().enumerate() {
        *x = i as f32;
    }
    for (s, threads, expected_parts) in [(S, 3, [2, 2]), (7, 3, [1, 1]), (S, 1, [1, 1])] {
        y.fill(0.0);
        let extents = [s as i64];
        tables
            .check_input::<&str>(0, DType::F32, &extents, x.as_ptr().cast(), 4 * s)
            .unwrap();
        let mut plan = Plan::new::<&str>(tables, &mut symbols, &mut dims, &mut offsets, &mut []).unwrap();
        let sizes = evaluate(&mut plan, &extents).unwrap();
        let expected = Sizes {
            arena_bytes: 4 * s,
            scratch_bytes: 64,
        };
        assert_eq!(sizes, expected);
        let mut shape = [0];
        assert_eq!(plan.output::<&str>(0, &mut shape), Ok(4 * s));
        assert_eq!(shape, extents);
        let mut parts = [0; 2];
        plan.split(threads, &mut parts);
        assert_eq!(parts, expected_parts);
        let mut pointers = [std::ptr::null_mut(); 5];
        let output = y.as_mut_ptr().cast();
        plan.resolve(
            arena.0.as_mut_ptr().cast(),
            MODEL.weights,
            |_| x.as_ptr().cast(),
            |_| output,
            |_| std::ptr::null_mut(),
            &mut pointers,
        );
        let stride = sizes.scratch_stride().unwrap();
        assert!(stride * threads <= size_of_val(&scratch.0));
        for (pool, complete) in [(Upto(1), expected_parts == [1, 1]), (Upto(threads), true)] {
            let scratch = scratch.0.as_mut_ptr();
            let working = Working {
                parts: &parts,
                pointers: &mut pointers,
                iterations: &mut [],
                moved: &mut [],
                scratch,
                scratch_stride: stride,
                threads,
            };
            let plan = Plan::new::<&str>(tables, &mut symbols, &mut dims, &mut offsets, &mut []).unwrap();
            // SAFETY: the tables are the model's, and the memory is as large as they say.
            let mut run = unsafe { Run::new(plan, sizes, working) };
            assert_eq!(run.on::<&str>(&pool).is_ok(), complete);
            assert_eq!(run.failed_step(), None);
        }
        for (i, y) in y.into_iter().enumerate() {
            assert_eq!(y, if i < s { 9.0 * i as f32 } else { 0.0 }, "element {i} of {s}");
        }
    }
}

#[test]
fn wrong_arguments_are_errors() {
    let tables = tables();
    let x = [0f32; 4];
    let check = |index, dtype, shape: &[i64], bytes| {
        let checked = tables.check_input::<&str>(index, dtype, shape, x.as_ptr().cast(), bytes);
        checked.unwrap_err().to_string()
    };
    assert_eq!(
        check(1, DType::F32, &[4], 16),
        "the model has no input number 1, it has 1 (counted from 0)"
    );
    assert_eq!(
        check(0, DType::I32, &[4], 16),
        "input \"x\" has dtype float32, got int32"
    );
    assert_eq!(check(0, DType::F32, &[2, 2], 16), "input \"x\" has 1 axes, got 2");
    assert_eq!(
        check(0, DType::F32, &[4], 12),
        "input \"x\" of this shape takes 16 bytes, got 12"
    );

    let (mut one, mut two, mut other) = ([0; 1], [0; 2], [0; 1]);
    let short = Plan::new::<&str>(tables, &mut one, &mut [0; 1], &mut other, &mut []).map(|_| ());
    assert!(matches!(short, Err(Error::InvalidArgument(_))));
    let mut plan = Plan::new::<&str>(tables, &mut one, &mut two, &mut other, &mut []).unwrap();
    let large = evaluate(&mut plan, &[S as i64 + 1]).unwrap_err();
    assert_eq!(
        large.to_string(),
        "axis 0 of input \"x\" is dimension \"S\", compiled for 1 to 40000; got 40001"
    );

    let foreign = ModelDesc { magic: 0, ..MODEL };
    let foreign: &'static ModelDesc = Box::leak(Box::new(foreign));
    // SAFETY: without the magic number nothing else is read.
    assert_eq!(unsafe { Tables::new::<&str>(foreign) }.err(), Some(Error::NotAModel));
}

#[test]
fn a_range_without_an_end_has_a_beginning() {
    let error: Error<&str> = Error::OutOfRange {
        symbol: "N",
        name: "x",
        axis: 0,
        min: 1,
        max: i64::MAX,
        got: 0,
    };
    let said = "axis 0 of input \"x\" is dimension \"N\", compiled for at least 1; got 0";
    assert_eq!(error.to_string(), said);
}
