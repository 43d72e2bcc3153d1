//! The table of errors as C callers see it: each mistake with a compiled model, and the number that `cameo.h` has for it.
//!
//! `errors.rs` has the messages; here everything goes through the C functions.
#![expect(unsafe_code, reason = "calls the C interface")]

mod fake;

use cameo_abi::{DType, ModelDesc};
use cameo_runtime::Status;
use cameo_runtime::c_api::*;
use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::ptr;

/// What a caller does with the lookup model, right unless a case changes it.
#[derive(Clone)]
struct Caller {
    /// Bytes of the weights file; `None`: there is none.
    file: Option<Vec<u8>>,
    verify: bool,
    input: &'static CStr,
    dtype: DType,
    x: Vec<i64>,
    twice: Vec<i64>,
    mask: Vec<i64>,
    bind_mask: bool,
    index: i64,
    /// Of the buffer for the output.
    capacity: usize,
}

fn right() -> Caller {
    Caller {
        file: Some(fake::weights_file(fake::lookup_hash(), 68, &fake::lookup_weights())),
        verify: true,
        input: c"x",
        dtype: DType::F32,
        x: vec![2, 3, 5],
        twice: vec![10],
        mask: vec![5],
        bind_mask: true,
        index: 4,
        capacity: 64,
    }
}

/// The right caller with one change to its weights file.
fn damaged(change: impl Fn(&mut Vec<u8>)) -> Caller {
    let mut caller = right();
    caller.file.iter_mut().for_each(change);
    caller
}

/// Opens, verifies, binds and runs.
fn call(caller: &Caller, dir: &Path) -> Result<(), i32> {
    let path = dir.join("weights");
    match &caller.file {
        Some(bytes) => std::fs::write(&path, bytes).unwrap(),
        None => drop(std::fs::remove_file(&path)),
    }
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let desc: &'static ModelDesc = Box::leak(Box::new(fake::lookup_model(false)));
    let ok = |code: i32| if code == 0 { Ok(()) } else { Err(code) };
    // Larger than every input of the cases.
    let data = [1f32; 1024];
    let data = data.as_ptr().cast::<c_void>();
    let mut y = [0f32; 16];
    // SAFETY: the descriptor keeps its contract and all memory outlives the calls.
    unsafe {
        let mut model = ptr::null_mut();
        ok(cameo_model_open(desc, path.as_ptr(), &raw mut model))?;
        let result = (|| {
            if caller.verify {
                ok(cameo_model_verify(model))?;
            }
            let mut first = 0;
            ok(cameo_input_find(model, caller.input.as_ptr(), &raw mut first))?;
            let mut context = ptr::null_mut();
            ok(cameo_context_create(model, ptr::null(), &raw mut context))?;
            let bind = |index, dtype: DType, shape: &[i64], data| {
                let bytes = shape.iter().product::<i64>() as usize * dtype.size();
                let dtype = dtype as u32;
                ok(cameo_bind_input(
                    context,
                    index,
                    dtype,
                    shape.as_ptr(),
                    shape.len(),
                    data,
                    bytes,
                ))
            };
            let result = (|| {
                bind(first, caller.dtype, &caller.x, data)?;
                bind(1, DType::F32, &caller.twice, data)?;
                bind(2, DType::I64, &[1], (&raw const caller.index).cast())?;
                if caller.bind_mask {
                    bind(3, DType::Bool, &caller.mask, data)?;
                }
                ok(cameo_bind_output(context, 0, y.as_mut_ptr().cast(), caller.capacity))?;
                ok(cameo_run(context))
            })();
            cameo_context_destroy(context);
            result
        })();
        cameo_model_close(model);
        result
    }
}

#[test]
fn every_mistake_has_its_code() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(call(&right(), dir.path()), Ok(()));
    let cases = [
        ("wrong name", Caller { input: c"X", ..right() }, Status::UnknownName),
        (
            "wrong dtype",
            Caller {
                dtype: DType::I32,
                ..right()
            },
            Status::WrongDtype,
        ),
        (
            "wrong rank",
            Caller {
                x: vec![2, 3, 5, 1],
                ..right()
            },
            Status::WrongRank,
        ),
        (
            "wrong fixed axis",
            Caller {
                x: vec![2, 4, 5],
                ..right()
            },
            Status::WrongSize,
        ),
        (
            "wrong computed axis",
            Caller {
                twice: vec![11],
                ..right()
            },
            Status::WrongSize,
        ),
        (
            "symbols differ",
            Caller {
                mask: vec![6],
                ..right()
            },
            Status::SymbolMismatch,
        ),
        (
            "symbol too large",
            Caller {
                x: vec![9, 3, 5],
                ..right()
            },
            Status::OutOfRange,
        ),
        (
            "symbol too small",
            Caller {
                x: vec![2, 3, 1],
                twice: vec![2],
                mask: vec![1],
                ..right()
            },
            Status::OutOfRange,
        ),
        (
            "unbound input",
            Caller {
                bind_mask: false,
                ..right()
            },
            Status::NotBound,
        ),
        (
            "small output buffer",
            Caller {
                capacity: 19,
                ..right()
            },
            Status::BufferTooSmall,
        ),
        (
            "shape rule",
            Caller {
                x: vec![2, 3, 13],
                twice: vec![26],
                mask: vec![13],
                ..right()
            },
            Status::ShapeRule,
        ),
        (
            "index out of range",
            Caller { index: 5, ..right() },
            Status::IndexOutOfRange,
        ),
        (
            "no weights file",
            Caller { file: None, ..right() },
            Status::WeightsMissing,
        ),
        ("empty weights", damaged(Vec::clear), Status::WeightsCorrupt),
        (
            "truncated header",
            damaged(|file| file.truncate(40)),
            Status::WeightsCorrupt,
        ),
        (
            "truncated weights",
            damaged(|file| file.truncate(131)),
            Status::WeightsCorrupt,
        ),
        ("longer weights", damaged(|file| file.push(0)), Status::WeightsCorrupt),
        ("wrong magic", damaged(|file| file[7] ^= 1), Status::WeightsCorrupt),
        ("wrong ABI", damaged(|file| file[8] ^= 2), Status::AbiMismatch),
        ("wrong size", damaged(|file| file[16] ^= 1), Status::WeightsMismatch),
        ("wrong hash", damaged(|file| file[24] ^= 1), Status::WeightsMismatch),
        (
            "first bit flipped",
            damaged(|file| file[64] ^= 1),
            Status::WeightsCorrupt,
        ),
        (
            "last bit flipped",
            damaged(|file| file[131] ^= 0x80),
            Status::WeightsCorrupt,
        ),
    ];
    for (mistake, caller, status) in &cases {
        assert_eq!(call(caller, dir.path()), Err(*status as i32), "{mistake}");
    }
    // Unless asked, nobody reads the weights before they are needed.
    let unverified = Caller {
        verify: false,
        ..damaged(|file| file[64] ^= 1)
    };
    assert_eq!(call(&unverified, dir.path()), Ok(()));
}

#[test]
fn weights_that_are_linked_in_are_verified() {
    let verify = |desc: ModelDesc| {
        let desc: &'static ModelDesc = Box::leak(Box::new(desc));
        let mut model = ptr::null_mut();
        // SAFETY: the descriptors keep their contract.
        unsafe {
            assert_eq!(cameo_model_open(desc, ptr::null(), &raw mut model), 0);
            let code = cameo_model_verify(model);
            cameo_model_close(model);
            code
        }
    };
    assert_eq!(verify(fake::lookup_model(true)), 0);
    assert_eq!(verify(fake::relay_model(2, |_| true)), 0, "no weights, no damage");
    let mut other = fake::lookup_weights();
    other[67] ^= 1;
    let damaged = ModelDesc {
        weights: fake::constant(other).ptr,
        ..fake::lookup_model(true)
    };
    assert_eq!(verify(damaged), Status::WeightsCorrupt as i32);
    // SAFETY: always a C string.
    let said = unsafe { CStr::from_ptr(cameo_last_error()) };
    assert_eq!(
        said.to_str(),
        Ok("the weights section has other bytes than were written")
    );
}
