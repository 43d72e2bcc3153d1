//! Models written by hand in Rust, as the compiler writes them into objects.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unsafe_code, reason = "kernels work on raw pointers")]

use cameo_abi::*;

/// Constant data of an object.
pub fn constant<T: 'static>(values: Vec<T>) -> Slice<T> {
    let values: &'static [T] = values.leak();
    Slice {
        ptr: values.as_ptr(),
        len: values.len(),
    }
}

pub fn text(text: &str) -> Str {
    constant(text.as_bytes().to_vec())
}

pub fn symbol(name: &str, min: i64, max: i64) -> Symbol {
    Symbol {
        name: text(name),
        min,
        max,
    }
}

pub fn fixed(value: i64) -> Extent {
    Extent {
        kind: EXTENT_CONST,
        reserved: 0,
        value,
        name: text(""),
    }
}

pub fn named(symbol: i64) -> Extent {
    Extent {
        kind: EXTENT_SYMBOL,
        reserved: 0,
        value: symbol,
        name: text(""),
    }
}

pub fn derived(dim: i64, expression: &str) -> Extent {
    Extent {
        kind: EXTENT_DIM,
        reserved: 0,
        value: dim,
        name: text(expression),
    }
}

pub fn io(name: &str, dtype: DType, shape: Vec<Extent>) -> Io {
    Io {
        name: text(name),
        dtype: dtype as u32,
        reserved: 0,
        shape: constant(shape),
    }
}

pub fn buffer(region: u32, index: u32, offset: u64) -> Buffer {
    Buffer { region, index, offset }
}

pub fn step(name: &str, kernel: KernelFn, first_buffer: u32, first_dim: u32, work: u32) -> Step {
    Step {
        kernel,
        first_buffer,
        first_dim,
        work,
        reserved: 0,
        name: text(name),
    }
}

/// The steps for every processor.
pub fn any(steps: Vec<Step>) -> Slice<Level> {
    constant(vec![Level {
        cpu_features: 0,
        name: text("any"),
        steps: constant(steps),
    }])
}

/// A copy of the model's first level.
pub fn first_level(desc: &ModelDesc) -> Level {
    // SAFETY: the models in this file have one.
    unsafe { *desc.levels.ptr }
}

/// The share of `0..count` that is `part` of `parts`.
pub fn share(count: i64, part: i64, parts: i64) -> std::ops::Range<usize> {
    (count * part / parts) as usize..(count * (part + 1) / parts) as usize
}

/// Gives the compiler's promise for these hand-written models.
pub fn open(desc: ModelDesc) -> cameo_runtime::Model {
    let desc: &'static ModelDesc = Box::leak(Box::new(desc));
    // SAFETY: the descriptors in this file keep the contract.
    unsafe { cameo_runtime::Model::open(desc, None) }.unwrap()
}

pub fn description(desc: ModelDesc) -> cameo_runtime::Description {
    let desc: &'static ModelDesc = Box::leak(Box::new(desc));
    // SAFETY: the descriptors in this file keep the contract.
    unsafe { cameo_runtime::Description::new(desc) }.unwrap()
}

// The relay model: x [S] f32 -> y [S] f32, y = x + (number of steps), reversed by each step. Every step reads what other
// threads wrote in the step before, so a step that begins too early shows.

/// S, and the work of a step that is parallel, and of one that is not.
unsafe extern "C" fn relay_shape(symbols: *const i64, dims: *mut i64, offsets: *mut i64, sizes: *mut i64) -> i32 {
    unsafe {
        let s = *symbols;
        let Some(bytes) = s.checked_mul(4).and_then(|bytes| bytes.checked_add(63)) else {
            return -1;
        };
        dims.copy_from_nonoverlapping([s, i64::MAX, 0].as_ptr(), 3);
        offsets.copy_from_nonoverlapping([0, bytes / 64 * 64].as_ptr(), 2);
        sizes.copy_from_nonoverlapping([bytes / 64 * 64 * 2, 256].as_ptr(), 2);
    }
    0
}

unsafe extern "C" fn relay(buffers: *const *mut u8, dims: *const i64, part: i64, parts: i64, scratch: *mut u8) -> i32 {
    unsafe {
        assert!(part < parts && (scratch as usize).is_multiple_of(ALIGNMENT));
        let s = *dims as usize;
        let (from, to) = ((*buffers).cast::<f32>(), (*buffers.add(1)).cast::<f32>());
        for i in share(s as i64, part, parts) {
            // By way of scratch, which would show if two threads shared it.
            scratch.cast::<f32>().write(*from.add(s - 1 - i));
            to.add(i).write(scratch.cast::<f32>().read() + 1.0);
        }
    }
    0
}

/// `steps` must be even, for outputs in the order of inputs. Step `i` is parallel where `parallel(i)`.
pub fn relay_model(steps: u32, parallel: impl Fn(u32) -> bool) -> ModelDesc {
    let last = steps - 1;
    let place = |i: u32| buffer(REGION_ARENA, 0, u64::from(i % 2));
    let mut buffers = Vec::new();
    let mut list = Vec::new();
    for i in 0..steps {
        list.push(step(
            &format!("relay{i}"),
            relay,
            buffers.len() as u32,
            0,
            if parallel(i) { 1 } else { 2 },
        ));
        buffers.push(if i == 0 { buffer(REGION_INPUT, 0, 0) } else { place(i) });
        buffers.push(if i == last {
            buffer(REGION_OUTPUT, 0, 0)
        } else {
            place(i + 1)
        });
    }
    ModelDesc {
        magic: MAGIC,
        abi_version: ABI_VERSION,
        default_threads: 0,
        name: text("relay"),
        symbols: constant(vec![symbol("S", 1, i64::MAX)]),
        inputs: constant(vec![io("x", DType::F32, vec![named(0)])]),
        outputs: constant(vec![io("y", DType::F32, vec![named(0)])]),
        buffers: constant(buffers),
        levels: any(list),
        loops: constant(vec![]),
        moves: constant(vec![]),
        counts: constant(vec![]),
        caches: constant(vec![]),
        elements: constant(vec![]),
        customs: constant(vec![]),
        texts: constant(vec![]),
        rules: constant(vec![]),
        dim_count: 3,
        offset_count: 2,
        shape: relay_shape,
        weight_bytes: 0,
        weight_hash: 0,
        weights: std::ptr::null(),
    }
}

// The same with `count` steps between the first and the last done by one step in a loop, which goes to and fro between two
// halves of the arena; `count` must be even. The outputs of all of them are stacked in `z [count, S] f32` too.

const COUNT: i64 = 6;

unsafe extern "C" fn loop_shape(symbols: *const i64, dims: *mut i64, offsets: *mut i64, sizes: *mut i64) -> i32 {
    let status = unsafe { relay_shape(symbols, dims, offsets, sizes) };
    unsafe {
        let half = *offsets.add(1);
        dims.add(3)
            .copy_from_nonoverlapping([COUNT, half, 4 * *symbols].as_ptr(), 3);
    }
    status
}

unsafe extern "C" fn relay_twice(
    buffers: *const *mut u8,
    dims: *const i64,
    part: i64,
    parts: i64,
    scratch: *mut u8,
) -> i32 {
    unsafe {
        let [from, to, also] = std::array::from_fn(|i| *buffers.add(i));
        relay([from, to].as_ptr(), dims, part, parts, scratch);
        relay([from, also].as_ptr(), dims, part, parts, scratch)
    }
}

/// The outer steps are parallel or not, and so are those of the loop.
pub fn loop_model(outer: bool, inner: bool) -> ModelDesc {
    let work = |parallel| if parallel { 1 } else { 2 };
    let arena = |half| buffer(REGION_ARENA, 0, half);
    let moved = |buffer, kind, bytes| Move {
        buffer,
        kind,
        bytes,
        reserved: 0,
    };
    ModelDesc {
        outputs: constant(vec![
            io("y", DType::F32, vec![named(0)]),
            io("z", DType::F32, vec![fixed(COUNT), named(0)]),
        ]),
        buffers: constant(vec![
            buffer(REGION_INPUT, 0, 0),
            arena(0),
            arena(0),
            arena(1),
            buffer(REGION_OUTPUT, 1, 0),
            arena(0),
            buffer(REGION_OUTPUT, 0, 0),
        ]),
        levels: any(vec![
            step("first", relay, 0, 0, work(outer)),
            step("loop", relay_twice, 2, 0, work(inner)),
            step("last", relay, 5, 0, work(outer)),
        ]),
        loops: constant(vec![Loop {
            first_step: 1,
            step_count: 1,
            count: 3,
            first_move: 0,
            move_count: 3,
            rows: 0,
            again: 0,
        }]),
        moves: constant(vec![
            moved(2, MOVE_FORTH, 4),
            moved(3, MOVE_BACK, 4),
            moved(4, MOVE_ADVANCE, 5),
        ]),
        dim_count: 6,
        shape: loop_shape,
        ..relay_model(2, |_| false)
    }
}

// The lookup model: table x [B, 3, S] f32, twice [2*S] f32, index [1] i64 -> y [S] f32 = weight * x[0, 0, :], and checks
// that the index is below S. S = 13 breaks its shape rule.

unsafe extern "C" fn lookup_shape(symbols: *const i64, dims: *mut i64, _: *mut i64, sizes: *mut i64) -> i32 {
    unsafe {
        let s = *symbols.add(1);
        dims.copy_from_nonoverlapping([s, 2 * s, 0].as_ptr(), 3);
        let sides = if s == 13 { [2 * s, 25] } else { [0, 0] };
        sizes.copy_from_nonoverlapping(sides.as_ptr(), 2);
        i32::from(s == 13)
    }
}

unsafe extern "C" fn lookup(buffers: *const *mut u8, dims: *const i64, part: i64, parts: i64, _: *mut u8) -> i32 {
    unsafe {
        let [x, index, weight, y] = std::array::from_fn(|i| *buffers.add(i));
        for i in share(*dims, part, parts) {
            y.cast::<f32>()
                .add(i)
                .write(*x.cast::<f32>().add(i) * *weight.cast::<f32>());
        }
        let index = *index.cast::<i64>();
        if (0..*dims).contains(&index) {
            0
        } else {
            KERNEL_INDEX_OUT_OF_RANGE
        }
    }
}

pub fn lookup_hash() -> u64 {
    let mut hasher = WeightsHasher::default();
    hasher.update(&lookup_weights());
    hasher.finish()
}

/// The weight is 2.5, in a file or linked in.
pub fn lookup_model(embedded: bool) -> ModelDesc {
    ModelDesc {
        magic: MAGIC,
        abi_version: ABI_VERSION,
        default_threads: 2,
        name: text("lookup"),
        symbols: constant(vec![symbol("B", 1, 8), symbol("S", 2, 512)]),
        inputs: constant(vec![
            io("x", DType::F32, vec![named(0), fixed(3), named(1)]),
            io("twice", DType::F32, vec![derived(1, "2*S")]),
            io("index", DType::I64, vec![fixed(1)]),
            io("mask", DType::Bool, vec![named(1)]),
        ]),
        outputs: constant(vec![io("y", DType::F32, vec![derived(0, "S")])]),
        buffers: constant(vec![
            buffer(REGION_INPUT, 0, 0),
            buffer(REGION_INPUT, 2, 0),
            buffer(REGION_WEIGHTS, 0, 64),
            buffer(REGION_OUTPUT, 0, 0),
        ]),
        levels: any(vec![step("lookup", lookup, 0, 0, 2)]),
        loops: constant(vec![]),
        moves: constant(vec![]),
        counts: constant(vec![]),
        caches: constant(vec![]),
        elements: constant(vec![]),
        customs: constant(vec![]),
        texts: constant(vec![]),
        rules: constant(vec![text("2*S <= 25 in node \"/Add\"")]),
        dim_count: 3,
        offset_count: 0,
        shape: lookup_shape,
        weight_bytes: 68,
        weight_hash: lookup_hash(),
        weights: if embedded {
            constant(lookup_weights()).ptr
        } else {
            std::ptr::null()
        },
    }
}

pub fn lookup_weights() -> Vec<u8> {
    let mut weights = vec![0; 64];
    weights.extend_from_slice(&2.5f32.to_ne_bytes());
    weights
}

/// A weights file.
pub fn weights_file(hash: u64, claimed: u64, weights: &[u8]) -> Vec<u8> {
    let mut file = WEIGHTS_MAGIC.to_le_bytes().to_vec();
    file.extend_from_slice(&ABI_VERSION.to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(&claimed.to_le_bytes());
    file.extend_from_slice(&hash.to_le_bytes());
    file.resize(size_of::<WeightsHeader>(), 0);
    file.extend_from_slice(weights);
    file
}

// The denormal model: y [S] f32 = smallest normal number / 2, on all threads.

unsafe extern "C" fn denormal(buffers: *const *mut u8, dims: *const i64, part: i64, parts: i64, _: *mut u8) -> i32 {
    unsafe {
        for i in share(*dims, part, parts) {
            (*buffers)
                .cast::<f32>()
                .add(i)
                .write(std::hint::black_box(f32::MIN_POSITIVE) / std::hint::black_box(2.0));
        }
    }
    0
}

pub fn denormal_model() -> ModelDesc {
    ModelDesc {
        name: text("denormal"),
        outputs: constant(vec![io("y", DType::F32, vec![derived(0, "S")])]),
        buffers: constant(vec![buffer(REGION_OUTPUT, 0, 0)]),
        levels: any(vec![step("denormal", denormal, 0, 0, 1)]),
        ..relay_model(2, |_| true)
    }
}

// The cache model: past [2,P,1] f32 -> all [2,P+1,1], in the memory of past; the new row is P and P + 0.5.

/// P, P+1, C, the work of a step on one thread.
unsafe extern "C" fn cache_shape(symbols: *const i64, dims: *mut i64, _: *mut i64, sizes: *mut i64) -> i32 {
    unsafe {
        let (p, c) = (*symbols, *symbols.add(1));
        dims.copy_from_nonoverlapping([p, p + 1, c, 0].as_ptr(), 4);
        sizes.copy_from_nonoverlapping([0, 64].as_ptr(), 2);
    }
    0
}

unsafe extern "C" fn next_row(buffers: *const *mut u8, dims: *const i64, _: i64, _: i64, _: *mut u8) -> i32 {
    unsafe {
        let (p, c) = (*dims as usize, *dims.add(2) as usize);
        let cache = (*buffers).cast::<f32>();
        cache.add(p).write(p as f32);
        cache.add(c + p).write(p as f32 + 0.5);
    }
    0
}

pub fn cache_model() -> ModelDesc {
    let shape = |rows| vec![fixed(2), rows, fixed(1)];
    ModelDesc {
        name: text("cache"),
        symbols: constant(vec![symbol("P", 0, i64::MAX), symbol("past.capacity", 1, i64::MAX)]),
        inputs: constant(vec![io("past", DType::F32, shape(named(0)))]),
        outputs: constant(vec![io("all", DType::F32, shape(derived(1, "P+1")))]),
        buffers: constant(vec![buffer(REGION_INPUT, 0, 0)]),
        levels: any(vec![step("next", next_row, 0, 0, 3)]),
        caches: constant(vec![Cache {
            input: 0,
            output: 0,
            axis: 1,
            capacity: 1,
        }]),
        elements: constant(vec![]),
        customs: constant(vec![]),
        texts: constant(vec![]),
        rules: constant(vec![]),
        dim_count: 4,
        offset_count: 0,
        shape: cache_shape,
        ..relay_model(2, |_| true)
    }
}

// The ragged model: n [B] i64, x [T] f32 -> y [T] f32, each of the sequences reversed, whose lengths are n; and z [P] f32, those
// elements of y that are positive. The kernels trust n.

/// B, T, L, P, T as the most, the work of a step with shares, bytes of a length and of L elements.
unsafe extern "C" fn ragged_shape(symbols: *const i64, dims: *mut i64, offsets: *mut i64, sizes: *mut i64) -> i32 {
    unsafe {
        let [b, t, l, p] = std::array::from_fn(|i| *symbols.add(i));
        dims.copy_from_nonoverlapping([b, t, l, p, t, i64::MAX, 8, 4 * l, 0].as_ptr(), 9);
        let bytes = (4 * t + 63) / 64 * 64;
        offsets.copy_from_nonoverlapping([0, bytes].as_ptr(), 2);
        sizes.copy_from_nonoverlapping([bytes + 64, 64].as_ptr(), 2);
    }
    0
}

unsafe extern "C" fn reversed(buffers: *const *mut u8, dims: *const i64, part: i64, parts: i64, _: *mut u8) -> i32 {
    unsafe {
        let l = *dims as usize;
        let (from, to) = ((*buffers).cast::<f32>(), (*buffers.add(1)).cast::<f32>());
        for i in share(l as i64, part, parts) {
            to.add(i).write(*from.add(l - 1 - i));
        }
    }
    0
}

unsafe extern "C" fn positive(buffers: *const *mut u8, dims: *const i64, part: i64, _: i64, _: *mut u8) -> i32 {
    unsafe {
        let [from, to, count] = std::array::from_fn(|i| *buffers.add(i));
        let mut found = 0;
        for i in 0..if part == 0 { *dims as usize } else { 0 } {
            let x = *from.cast::<f32>().add(i);
            if x > 0.0 {
                to.cast::<f32>().add(found).write(x);
                found += 1;
            }
        }
        count.cast::<i64>().write(found as i64);
    }
    0
}

unsafe extern "C" fn copied(buffers: *const *mut u8, dims: *const i64, part: i64, parts: i64, _: *mut u8) -> i32 {
    unsafe {
        let (from, to) = ((*buffers).cast::<f32>(), (*buffers.add(1)).cast::<f32>());
        for i in share(*dims, part, parts) {
            to.add(i).write(*from.add(i));
        }
    }
    0
}

/// Its steps have shares or not.
pub fn ragged_model(parallel: bool) -> ModelDesc {
    let work = if parallel { 5 } else { 8 };
    let moved = |buffer, bytes| Move {
        buffer,
        kind: MOVE_ADVANCE,
        bytes,
        reserved: 0,
    };
    let count = |step, symbol, buffer| Count {
        step,
        symbol,
        buffer,
        most: 4,
    };
    let arena = |offset| buffer(REGION_ARENA, 0, offset);
    ModelDesc {
        name: text("ragged"),
        symbols: constant(["B", "T", "L", "P"].map(|name| symbol(name, 0, i64::MAX)).to_vec()),
        inputs: constant(vec![
            io("n", DType::I64, vec![named(0)]),
            io("x", DType::F32, vec![named(1)]),
        ]),
        outputs: constant(vec![
            io("y", DType::F32, vec![named(1)]),
            io("z", DType::F32, vec![named(3)]),
        ]),
        buffers: constant(vec![
            buffer(REGION_INPUT, 1, 0),
            buffer(REGION_OUTPUT, 0, 0),
            buffer(REGION_OUTPUT, 0, 0),
            arena(0),
            arena(1),
            arena(0),
            buffer(REGION_OUTPUT, 1, 0),
            buffer(REGION_INPUT, 0, 0),
        ]),
        levels: any(vec![
            step("reversed", reversed, 0, 2, work),
            step("positive", positive, 2, 1, 8),
            step("copied", copied, 5, 3, work),
        ]),
        loops: constant(vec![Loop {
            first_step: 0,
            step_count: 1,
            count: 0,
            first_move: 0,
            move_count: 3,
            rows: 1,
            again: 0,
        }]),
        moves: constant(vec![moved(0, 7), moved(1, 7), moved(7, 6)]),
        counts: constant(vec![count(0, 2, 7), count(2, 3, 4)]),
        caches: constant(vec![]),
        elements: constant(vec![]),
        customs: constant(vec![]),
        texts: constant(vec![]),
        rules: constant(vec![]),
        dim_count: 9,
        offset_count: 2,
        shape: ragged_shape,
        ..relay_model(2, |_| false)
    }
}

// The custom model: x [S] f32 -> a::Half -> [n] f32 in the arena -> a::Half -> y [m] f32, and seen [1] i64 of the second one.

/// S, n, m, the work of a step on one thread.
unsafe extern "C" fn custom_shape(symbols: *const i64, dims: *mut i64, offsets: *mut i64, sizes: *mut i64) -> i32 {
    unsafe {
        let [s, n, m] = std::array::from_fn(|i| *symbols.add(i));
        dims.copy_from_nonoverlapping([s, n, m, 0].as_ptr(), 4);
        *offsets = 0;
        sizes.copy_from_nonoverlapping([4 * n, 64].as_ptr(), 2);
        if m > 1000 {
            sizes.copy_from_nonoverlapping([m, 1000].as_ptr(), 2);
        }
        i32::from(m > 1000)
    }
}

/// As the compiler writes it.
unsafe extern "C" fn call_operator(buffers: *const *mut u8, _: *const i64, _: i64, _: i64, _: *mut u8) -> i32 {
    unsafe {
        let call = (*buffers).cast::<OperatorCall>();
        ((*call).run)(call, buffers)
    }
}

fn terminated(text: &str) -> Str {
    let all = constant(format!("{text}\0").into_bytes());
    Slice {
        ptr: all.ptr,
        len: text.len(),
    }
}

pub fn custom_model() -> ModelDesc {
    let given = |symbol| Extent {
        kind: EXTENT_GIVEN,
        ..named(symbol)
    };
    let left_out = Io {
        dtype: 0,
        ..io("", DType::F32, vec![])
    };
    let attributes = || {
        constant(vec![Attribute {
            name: terminated("by").ptr.cast(),
            kind: ATTRIBUTE_INT,
            reserved: 0,
            count: 1,
            data: constant(vec![2i64]).ptr.cast(),
        }])
    };
    let custom = |step, node: &str, inputs, outputs| Custom {
        step,
        reads_contents: 0,
        operator: terminated("a::Half"),
        node: terminated(node),
        attributes: attributes(),
        inputs: constant(inputs),
        outputs: constant(outputs),
        built_in: None,
    };
    let symbols = ["S", "custom.n", "custom.m"].map(|name| symbol(name, 0, i64::MAX));
    ModelDesc {
        name: text("custom"),
        symbols: constant(symbols.into()),
        inputs: constant(vec![io("x", DType::F32, vec![named(0)])]),
        outputs: constant(vec![
            io("y", DType::F32, vec![named(2)]),
            io("seen", DType::I64, vec![fixed(1)]),
        ]),
        buffers: constant(vec![
            buffer(REGION_OPERATOR, 0, 0),
            buffer(REGION_INPUT, 0, 0),
            buffer(REGION_ARENA, 0, 0),
            buffer(REGION_OPERATOR, 1, 0),
            buffer(REGION_ARENA, 0, 0),
            buffer(REGION_OUTPUT, 0, 0),
            buffer(REGION_OUTPUT, 1, 0),
        ]),
        levels: any(vec![
            step("first", call_operator, 0, 0, 3),
            step("second", call_operator, 3, 0, 3),
        ]),
        customs: constant(vec![
            custom(
                0,
                "one",
                vec![io("x", DType::F32, vec![named(0)])],
                vec![io("t", DType::F32, vec![given(1)])],
            ),
            custom(
                1,
                "two",
                vec![io("t", DType::F32, vec![derived(1, "n")]), left_out],
                vec![
                    io("y", DType::F32, vec![given(2)]),
                    io("seen", DType::I64, vec![fixed(1)]),
                ],
            ),
        ]),
        rules: constant(vec![text("m <= 1000 in node \"/half/again\"")]),
        dim_count: 4,
        offset_count: 1,
        shape: custom_shape,
        ..relay_model(2, |_| false)
    }
}
