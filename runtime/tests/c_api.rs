//! The C interface: the header in C99 and C++11, and the functions with bad arguments.
#![expect(unsafe_code, reason = "calls the C interface")]

mod fake;

use cameo_abi::{DType, ModelDesc};
use cameo_runtime::Status;
use cameo_runtime::c_api::*;
use std::ffi::{CStr, c_void};
use std::process::Command;
use std::ptr;

fn last_error() -> String {
    // SAFETY: always a C string.
    unsafe { CStr::from_ptr(cameo_last_error()) }
        .to_str()
        .unwrap()
        .to_owned()
}

/// Runs in order; a second task is done before the first.
unsafe extern "C" fn parallel(
    user: *mut c_void,
    count: usize,
    task: unsafe extern "C" fn(*mut c_void, usize),
    argument: *mut c_void,
) {
    unsafe {
        *user.cast::<usize>() += count;
        for index in (0..count).rev() {
            task(argument, index);
        }
    }
}

/// The layout of `cameo_options`, `cameo_tensor_info`, … as C sees it is checked by the C program in `exe/tests`; here the
/// structs are read by offset.
#[test]
fn bind_run_get() {
    let desc: &'static ModelDesc = Box::leak(Box::new(fake::relay_model(4, |_| true)));
    unsafe {
        let mut model = ptr::null_mut();
        assert_eq!(cameo_model_open(desc, ptr::null(), &raw mut model), 0);
        assert_eq!(
            (
                cameo_input_count(model),
                cameo_output_count(model),
                cameo_symbol_count(model)
            ),
            (1, 1, 1)
        );
        let mut index = 9;
        assert_eq!(cameo_input_find(model, c"x".as_ptr(), &raw mut index), 0);
        assert_eq!(index, 0);
        assert_eq!(
            cameo_output_find(model, c"x".as_ptr(), &raw mut index),
            Status::UnknownName as i32
        );
        assert_eq!(last_error(), "the model has no output \"x\"");

        let mut tasks = 0usize;
        // cameo_options: size, threads and padding, parallel, user.
        let options = [32usize, 3, parallel as *const () as usize, (&raw mut tasks) as usize];
        let mut context = ptr::null_mut();
        assert_eq!(
            cameo_context_create(model, options.as_ptr().cast(), &raw mut context),
            0
        );
        assert_eq!(cameo_context_threads(context), 3);
        // Contexts outlive the handle of the model.
        cameo_model_close(model);

        let x = [1f32, 2.0, 3.0];
        let bind = |dtype: u32, shape: &[i64], rank: usize| {
            cameo_bind_input(context, 0, dtype, shape.as_ptr(), rank, x.as_ptr().cast(), 12)
        };
        assert_eq!(bind(99, &[3], 1), Status::WrongDtype as i32);
        assert_eq!(bind(DType::F32 as u32, &[3], usize::MAX), Status::WrongRank as i32);
        assert_eq!(bind(DType::F32 as u32, &[4], 1), Status::WrongSize as i32);
        assert_eq!(bind(DType::F32 as u32, &[3], 1), 0);
        assert_eq!(cameo_prepare(context), 0);
        let mut output = [0usize; 5];
        assert_eq!(cameo_output_get(context, 0, output.as_mut_ptr().cast()), 0);
        assert_eq!(output[..2], [0, 12]);
        assert_eq!(cameo_run(context), 0);
        assert_eq!(tasks, 12);
        assert_eq!(cameo_output_get(context, 0, output.as_mut_ptr().cast()), 0);
        assert_eq!(*(output[0] as *const [f32; 3]), [5.0, 6.0, 7.0]);
        assert_eq!((output[2] as u32, output[3]), (DType::F32 as u32, 1));
        assert_eq!(*(output[4] as *const i64), 3);
        cameo_context_destroy(context);
    }
}

#[test]
fn caches_grow_in_their_memory() {
    let desc: &'static ModelDesc = Box::leak(Box::new(fake::cache_model()));
    let mut memory = [-1f32; 2 * 4];
    let (data, bytes) = (memory.as_mut_ptr().cast::<c_void>(), size_of_val(&memory));
    unsafe {
        let (mut model, mut context) = (ptr::null_mut(), ptr::null_mut());
        assert_eq!(cameo_model_open(desc, ptr::null(), &raw mut model), 0);
        assert_eq!(cameo_context_create(model, ptr::null(), &raw mut context), 0);
        let bind = |rows: i64, bytes| {
            let shape = [2, rows, 1];
            cameo_bind_cache(context, 0, DType::F32 as u32, shape.as_ptr(), 3, data, bytes)
        };
        for rows in [0, 1, 2, 1, 2, 3] {
            assert_eq!((bind(rows, bytes), cameo_run(context)), (0, 0), "{}", last_error());
            // data, bytes, dtype, rank, shape of `cameo_output_info`.
            let mut info = [0usize; 5];
            assert_eq!(cameo_output_get(context, 0, info.as_mut_ptr().cast()), 0);
            assert_eq!(*(info[4] as *const i64).add(1), rows + 1);
            // The last one fills the memory: its rows are not apart.
            assert_eq!(info[0] != 0, rows == 3);
        }
        // In other memory it has not been computed.
        let (mut other, mut info) = ([7f32; 6], [1usize; 5]);
        let (to, size) = (other.as_mut_ptr().cast::<c_void>(), size_of_val(&other));
        let shape = [2, 3, 1];
        assert_eq!(
            cameo_bind_cache(context, 0, DType::F32 as u32, shape.as_ptr(), 3, to, size),
            0
        );
        assert_eq!(
            (cameo_prepare(context), cameo_run(context)),
            (Status::BufferTooSmall as i32, Status::BufferTooSmall as i32)
        );
        assert_eq!(
            (
                bind(3, bytes),
                cameo_run(context),
                cameo_output_get(context, 0, info.as_mut_ptr().cast())
            ),
            (0, 0, 0)
        );
        assert!(info[0] != 0);
        assert_eq!(
            (bind(3, bytes), cameo_output_get(context, 0, info.as_mut_ptr().cast())),
            (0, 0)
        );
        assert!(info[0] != 0);
        let mut room = [7f32; 10];
        let (to, size) = (room.as_mut_ptr().cast::<c_void>(), size_of_val(&room));
        assert_eq!(
            cameo_bind_cache(context, 0, DType::F32 as u32, shape.as_ptr(), 3, to, size),
            0
        );
        assert_eq!(
            (
                cameo_prepare(context),
                cameo_output_get(context, 0, info.as_mut_ptr().cast())
            ),
            (0, 0)
        );
        assert_eq!(info[0], 0);
        assert_eq!((bind(4, bytes), cameo_run(context)), (0, Status::BufferTooSmall as i32));
        assert_eq!(
            last_error(),
            "the memory of input \"past\" has room for 4 rows, the run needs 5"
        );
        assert_eq!(bind(3, 4), Status::WrongSize as i32);
        cameo_context_destroy(context);
        cameo_model_close(model);
    }
    assert_eq!(memory, [0.0, 1.0, 2.0, 3.0, 0.5, 1.5, 2.5, 3.5]);
}

#[test]
fn null_is_an_error() {
    let null = Status::InvalidArgument as i32;
    unsafe {
        let mut index = 0;
        let mut model = ptr::null_mut();
        let mut context = ptr::null_mut();
        assert_eq!(cameo_model_open(ptr::null(), ptr::null(), &raw mut model), null);
        assert_eq!(last_error(), "a pointer is null");
        assert_eq!(cameo_model_verify(ptr::null()), null);
        assert_eq!(cameo_input_count(ptr::null()), 0);
        assert_eq!(cameo_output_count(ptr::null()), 0);
        assert_eq!(cameo_symbol_count(ptr::null()), 0);
        assert_eq!(cameo_input_describe(ptr::null(), 0, ptr::null_mut()), null);
        assert_eq!(cameo_output_describe(ptr::null(), 0, ptr::null_mut()), null);
        assert_eq!(cameo_symbol_describe(ptr::null(), 0, ptr::null_mut()), null);
        assert_eq!(cameo_input_find(ptr::null(), c"".as_ptr(), &raw mut index), null);
        assert_eq!(cameo_output_find(ptr::null(), ptr::null(), &raw mut index), null);
        assert_eq!(cameo_context_create(ptr::null(), ptr::null(), &raw mut context), null);
        assert_eq!(cameo_context_threads(ptr::null()), 0);
        assert_eq!(
            cameo_bind_input(ptr::null_mut(), 0, 1, ptr::null(), 0, ptr::null(), 0),
            null
        );
        assert_eq!(
            cameo_bind_cache(ptr::null_mut(), 0, 1, ptr::null(), 0, ptr::null_mut(), 0),
            null
        );
        assert_eq!(cameo_bind_output(ptr::null_mut(), 0, ptr::null_mut(), 0), null);
        assert_eq!(cameo_prepare(ptr::null_mut()), null);
        assert_eq!(cameo_run(ptr::null_mut()), null);
        assert_eq!(cameo_output_get(ptr::null(), 0, ptr::null_mut()), null);
        cameo_model_close(ptr::null_mut());
        cameo_context_destroy(ptr::null_mut());

        let desc: &'static ModelDesc = Box::leak(Box::new(fake::lookup_model(false)));
        let status = cameo_model_open(desc, c"/nowhere/at all".as_ptr(), &raw mut model);
        assert_eq!(status, Status::WeightsMissing as i32);
        assert!(model.is_null());
        assert!(last_error().contains("/nowhere/at all"), "{}", last_error());
        let desc: &'static ModelDesc = Box::leak(Box::new(fake::lookup_model(true)));
        assert_eq!(cameo_model_open(desc, ptr::null(), &raw mut model), 0);
        assert_eq!(cameo_context_create(model, ptr::null(), ptr::null_mut()), null);
        assert_eq!(
            cameo_context_create(model, [0usize; 4].as_ptr().cast(), &raw mut context),
            null
        );
        assert_eq!(
            cameo_input_describe(model, 4, ptr::null_mut()),
            Status::UnknownName as i32
        );
        assert_eq!(cameo_input_describe(model, 3, ptr::null_mut()), null);
        cameo_model_close(model);
        assert_eq!(CStr::from_ptr(cameo_status_string(3)).to_str(), Ok("wrong dtype"));
        assert_eq!(CStr::from_ptr(cameo_status_string(-1)).to_str(), Ok("unknown status"));
        assert_eq!(CStr::from_ptr(cameo_version()).to_str(), Ok(env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn header_is_c99_and_cpp11_and_names_every_status() {
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("use.c");
    let text = "#include <cameo.h>\nint f(cameo_model *m);\nint f(cameo_model *m) {\n    \
                cameo_options o = CAMEO_OPTIONS_INIT;\n    cameo_context *c;\n    \
                return (int)cameo_context_create(m, &o, &c);\n}\n";
    std::fs::write(&source, text).unwrap();
    for (language, standard) in [("c", "-std=c99"), ("c++", "-std=c++11")] {
        let mut command = Command::new("cc");
        command.args([
            "-x",
            language,
            standard,
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
            "-fsyntax-only",
            "-I",
        ]);
        let Ok(output) = command.arg(include).arg(&source).output() else {
            eprintln!("skipped: no cc");
            return;
        };
        assert!(
            output.status.success(),
            "{language}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let header = std::fs::read_to_string(format!("{include}/cameo.h")).unwrap();
    for status in Status::ALL {
        assert!(
            header.contains(&format!(" = {}", status as i32)),
            "{status:?} is not in cameo.h"
        );
    }
}
