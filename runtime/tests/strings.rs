//! Strings in and out of hand-written models: handles inside, texts outside, functions of the runtime between.
#![allow(unsafe_code, reason = "binds memory as C callers do")]

mod fake;

use cameo_abi::{
    ATTRIBUTE_INT, Attribute, Custom, DType, ModelDesc, OperatorCall, REGION_INPUT, REGION_OPERATOR, REGION_OUTPUT,
    REGION_WEIGHTS, Slice,
};
use cameo_runtime::{Context, ContextOptions, Error, Model, Status, TensorView, Text};
use fake::{any, buffer, constant, io, named, step, symbol, text};

/// S, and the work of a step on one thread.
unsafe extern "C" fn shape(symbols: *const i64, dims: *mut i64, offsets: *mut i64, sizes: *mut i64) -> i32 {
    unsafe {
        dims.copy_from_nonoverlapping([*symbols, 0].as_ptr(), 2);
        *offsets = 0;
        sizes.copy_from_nonoverlapping([64i64, 64].as_ptr(), 2);
    }
    0
}

unsafe extern "C" fn call_operator(buffers: *const *mut u8, _: *const i64, _: i64, _: i64, _: *mut u8) -> i32 {
    unsafe {
        let call = (*buffers).cast::<OperatorCall>();
        ((*call).run)(call, buffers)
    }
}

/// `first [S] = the string of the weights`: copies handles as numbers.
unsafe extern "C" fn fill(buffers: *const *mut u8, dims: *const i64, _: i64, _: i64, _: *mut u8) -> i32 {
    unsafe {
        let (from, to) = ((*buffers).cast::<u64>(), (*buffers.add(1)).cast::<u64>());
        (0..*dims as usize).for_each(|i| *to.add(i) = *from);
    }
    0
}

/// A constant as it lies in weights.
#[repr(align(64))]
struct Weights([u64; 8]);

/// x [S] -> upper [S], in capitals, and constant [S], all "ready".
fn model() -> Model {
    let mut name = b"cameo::Case\0".to_vec();
    let operator = constant(std::mem::take(&mut name));
    let operator = Slice {
        ptr: operator.ptr,
        len: operator.len - 1,
    };
    let node = Slice {
        ptr: constant(b"node\0".to_vec()).ptr,
        len: 4,
    };
    let attributes = vec![Attribute {
        name: constant(b"upper\0".to_vec()).ptr.cast(),
        kind: ATTRIBUTE_INT,
        reserved: 0,
        count: 1,
        data: constant(vec![1i64]).ptr.cast(),
    }];
    let x = || io("x", DType::String, vec![named(0)]);
    let custom = Custom {
        step: 0,
        reads_contents: 0,
        operator,
        node,
        attributes: constant(attributes),
        inputs: constant(vec![x()]),
        outputs: constant(vec![x()]),
        built_in: None,
    };
    let weights: &'static Weights = Box::leak(Box::new(Weights([cameo_abi::text_handle(b"ready"); 8])));
    fake::open(ModelDesc {
        name: text("strings"),
        symbols: constant(vec![symbol("S", 0, i64::MAX)]),
        inputs: constant(vec![x()]),
        outputs: constant(vec![
            io("upper", DType::String, vec![named(0)]),
            io("constant", DType::String, vec![named(0)]),
        ]),
        buffers: constant(vec![
            buffer(REGION_OPERATOR, 0, 0),
            buffer(REGION_INPUT, 0, 0),
            buffer(REGION_OUTPUT, 0, 0),
            buffer(REGION_WEIGHTS, 0, 0),
            buffer(REGION_OUTPUT, 1, 0),
        ]),
        levels: any(vec![step("case", call_operator, 0, 0, 1), step("fill", fill, 3, 0, 1)]),
        customs: constant(vec![custom]),
        texts: constant(vec![text("ready")]),
        dim_count: 2,
        offset_count: 1,
        shape,
        weight_bytes: 64,
        weights: weights.0.as_ptr().cast(),
        ..fake::relay_model(2, |_| false)
    })
}

fn context(model: &Model) -> Context {
    Context::new(model, ContextOptions { threads: 2, pool: None }).unwrap()
}

fn texts(context: &Context, index: usize) -> Vec<&str> {
    context
        .output(index)
        .unwrap()
        .as_texts()
        .unwrap()
        .iter()
        .map(cameo_runtime::Text::as_str)
        .collect()
}

#[test]
fn texts_go_in_and_come_out() {
    let model = model();
    assert!(model.description().operators().is_empty(), "nobody needs to supply it");
    let mut context = context(&model);
    for words in [
        &["a", "", "straße"][..],
        &["b"],
        &[],
        &["漢字", "a", "ready", "a", "x y"],
    ] {
        let given: Vec<Text> = words.iter().map(|w| Text::new(w)).collect();
        context
            .run_on(&[TensorView::texts(&given, &[words.len() as i64])])
            .unwrap();
        let upper: Vec<String> = words.iter().map(|w| w.to_uppercase()).collect();
        assert_eq!(texts(&context, 0), upper);
        assert_eq!(texts(&context, 1), vec!["ready"; words.len()]);
    }
}

/// Binds strings as C has them and runs.
fn run(context: &mut Context, raw: &[cameo_abi::Text]) -> Result<(), Error> {
    let count = raw.len() as i64;
    // SAFETY: the strings outlive the run, and nothing runs behind it.
    let bound = unsafe { context.bind_input(0, DType::String, &[count], raw.as_ptr().cast(), size_of_val(raw)) };
    let result = bound.and_then(|()| context.run());
    context.unbind_inputs();
    result
}

fn raw(bytes: &[u8]) -> cameo_abi::Text {
    cameo_abi::Text {
        data: bytes.as_ptr().cast(),
        size: bytes.len(),
    }
}

#[test]
fn what_is_no_text_is_refused() {
    let model = model();
    let mut context = context(&model);
    let null = |size| cameo_abi::Text {
        data: std::ptr::null(),
        size,
    };
    for (bad, said) in [
        (raw(b"a\xff"), "string 1 of input \"x\" is not UTF-8"),
        (null(3), "string 1 of input \"x\" is a null pointer"),
    ] {
        let error = run(&mut context, &[raw(b"fine"), bad]).unwrap_err();
        assert_eq!(
            (error.status(), error.to_string().as_str()),
            (Status::InvalidText, said)
        );
        assert!(context.output(0).is_err(), "nothing was computed");
    }
    run(&mut context, &[null(0), raw("ä\0b".as_bytes())]).unwrap();
    assert_eq!(texts(&context, 0), ["", "Ä\0B"]);
    // Bytes that anybody may have made are no strings.
    let forged = [[1u64, 8]; 2];
    let bytes = TensorView::new(forged.as_flattened(), &[4]).bytes();
    let error = context
        .run_on(&[TensorView::from_bytes(DType::String, bytes, &[2])])
        .unwrap_err();
    assert!(error.to_string().contains("not as bytes"), "{error}");
}

#[test]
fn strings_may_change_where_they_are() {
    let model = model();
    let mut context = context(&model);
    let mut given = [raw(b"one"), raw(b"two")];
    // SAFETY: the memory outlives the context's use of it, and is not changed during a run.
    unsafe {
        context
            .bind_input(0, DType::String, &[2], given.as_ptr().cast(), 32)
            .unwrap();
    };
    context.run().unwrap();
    assert_eq!(texts(&context, 0), ["ONE", "TWO"]);
    given[1] = raw(b"three");
    let mut own = [raw(b""), raw(b"")];
    // SAFETY: as above.
    unsafe { context.bind_output(0, own.as_mut_ptr().cast(), 32).unwrap() };
    context.run().unwrap();
    assert_eq!(texts(&context, 0), ["ONE", "THREE"]);
    assert_eq!(own[1].size, 5, "{given:?}");
    // SAFETY: as above.
    let error = unsafe { context.bind_output(0, own.as_mut_ptr().cast(), 24) }.and_then(|()| context.run());
    assert_eq!(error.unwrap_err().status(), Status::BufferTooSmall);
}
