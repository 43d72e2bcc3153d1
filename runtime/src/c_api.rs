//! The C interface; `include/cameo.h` says what each function means.
//!
//! Laws: a null pointer or wrong number is a status code; a panic does not cross, because `extern "C"` aborts on it; the
//! message of the last failure on a thread stays until the next failure on that thread.
#![expect(unsafe_code, reason = "the boundary to C")]
#![expect(clippy::missing_safety_doc, reason = "the contract of each function is in cameo.h")]

use crate::Error;
use crate::context::{Context, ContextOptions};
use crate::model::{Model, OpenOptions};
use cameo_abi::Operator;
use cameo_core::{DType, Dim, ModelDesc, Parallel, Side, Status, TensorInfo};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::ptr;

/// `cameo_model`: the model and NUL-terminated copies of its names.
pub struct CModel {
    model: Model,
    inputs: Vec<CTensor>,
    outputs: Vec<CTensor>,
    symbols: Vec<CString>,
}

/// `cameo_context`.
pub struct CContext {
    context: Context,
}

struct CTensor {
    name: CString,
    dims: Box<[CDim]>,
    dtype: DType,
}

/// `cameo_dim`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CDim {
    extent: i64,
    symbol: i64,
}

/// `cameo_tensor_info`.
#[repr(C)]
pub struct CTensorInfo {
    name: *const c_char,
    dtype: u32,
    rank: usize,
    dims: *const CDim,
}

/// `cameo_symbol_info`.
#[repr(C)]
pub struct CSymbolInfo {
    name: *const c_char,
    min: i64,
    max: i64,
}

/// `cameo_output_info`.
#[repr(C)]
pub struct COutput {
    data: *const c_void,
    bytes: usize,
    dtype: u32,
    rank: usize,
    shape: *const i64,
}

type CTask = unsafe extern "C" fn(argument: *mut c_void, index: usize);
type CParallel = unsafe extern "C" fn(user: *mut c_void, count: usize, task: CTask, argument: *mut c_void);

/// `cameo_options`.
#[repr(C)]
pub struct COptions {
    size: usize,
    threads: u32,
    parallel: Option<CParallel>,
    user: *mut c_void,
}

thread_local! {
    static LAST_ERROR: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// A caller's pool, as `cameo_options` gives it.
struct CPool {
    parallel: CParallel,
    user: *mut c_void,
}

// SAFETY: cameo.h asks that `parallel` may be called with `user` from any thread.
unsafe impl Send for CPool {}
// SAFETY: as above.
unsafe impl Sync for CPool {}

// SAFETY: cameo.h asks the callback for exactly this.
unsafe impl Parallel for CPool {
    fn parallel(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        unsafe extern "C" fn call(argument: *mut c_void, index: usize) {
            // SAFETY: `argument` is the fat reference below, which outlives the call of `parallel`.
            let task = unsafe { *argument.cast::<&(dyn Fn(usize) + Sync)>() };
            task(index);
        }
        // SAFETY: the callback of the caller, used as cameo.h says.
        unsafe { (self.parallel)(self.user, count, call, ptr::from_ref(&task).cast_mut().cast()) };
    }
}

/// Remembers an error for `cameo_last_error` and gives its code.
fn fail(error: &Error) -> c_int {
    let message = CString::new(error.to_string().replace('\0', " ")).unwrap_or_default();
    // During the thread's end there is nobody to read it.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = Some(message));
    error.status() as c_int
}

fn status(result: Result<(), Error>) -> c_int {
    result.map_or_else(|error| fail(&error), |()| Status::Ok as c_int)
}

const NULL: Error = Error::InvalidArgument("a pointer is null");

impl CTensor {
    fn new(info: &TensorInfo) -> Self {
        let dims = info.extents.iter().map(|dim| match dim {
            Dim::Const(extent) => CDim { extent, symbol: -1 },
            Dim::Symbol(index) => CDim {
                extent: -1,
                symbol: index as i64,
            },
            Dim::Derived { .. } => CDim { extent: -1, symbol: -1 },
        });
        Self {
            name: terminated(info.name),
            dims: dims.collect(),
            dtype: info.dtype,
        }
    }

    fn info(&self) -> CTensorInfo {
        let Self { name, dims, dtype } = self;
        CTensorInfo {
            name: name.as_ptr(),
            dtype: *dtype as u32,
            rank: dims.len(),
            dims: dims.as_ptr(),
        }
    }
}

/// A name for C; it ends at a NUL, which no exporter writes.
fn terminated(name: &str) -> CString {
    CString::new(name.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_model_open(
    desc: *const ModelDesc,
    weights_path: *const c_char,
    out: *mut *mut CModel,
) -> c_int {
    // SAFETY: passes on what cameo.h asks for.
    unsafe { cameo_model_open_with(desc, weights_path, ptr::null(), 0, out) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_model_open_with(
    desc: *const ModelDesc,
    weights_path: *const c_char,
    operators: *const Operator,
    operator_count: usize,
    out: *mut *mut CModel,
) -> c_int {
    if desc.is_null() || out.is_null() || operators.is_null() && operator_count > 0 {
        return fail(&NULL);
    }
    // SAFETY: not null, and cameo.h asks for a descriptor that the compiler wrote, a C string, operators and a place to write.
    let opened = unsafe {
        *out = ptr::null_mut();
        let path = (!weights_path.is_null()).then(|| path(CStr::from_ptr(weights_path)));
        let operators = match operator_count {
            0 => &[],
            count => std::slice::from_raw_parts(operators, count),
        };
        let options = OpenOptions { level: None, operators };
        Model::open_with(&*desc, path.as_deref(), &options)
    };
    let model = match opened {
        Ok(model) => model,
        Err(error) => return fail(&error),
    };
    let description = *model.description();
    let inputs = description.inputs().map(|info| CTensor::new(&info)).collect();
    let outputs = description.outputs().map(|info| CTensor::new(&info)).collect();
    let symbols = description.symbols().map(|info| terminated(info.name)).collect();
    // SAFETY: not null.
    unsafe {
        *out = Box::into_raw(Box::new(CModel {
            model,
            inputs,
            outputs,
            symbols,
        }));
    };
    Status::Ok as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_model_verify(model: *const CModel) -> c_int {
    // SAFETY: null or from `cameo_model_open`.
    let Some(model) = (unsafe { model.as_ref() }) else {
        return fail(&NULL);
    };
    status(model.model.verify_weights())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_model_close(model: *mut CModel) {
    if !model.is_null() {
        // SAFETY: came from `cameo_model_open` and is given back once.
        drop(unsafe { Box::from_raw(model) });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_input_count(model: *const CModel) -> usize {
    // SAFETY: null or from `cameo_model_open`.
    unsafe { model.as_ref() }.map_or(0, |model| model.inputs.len())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_output_count(model: *const CModel) -> usize {
    // SAFETY: null or from `cameo_model_open`.
    unsafe { model.as_ref() }.map_or(0, |model| model.outputs.len())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_symbol_count(model: *const CModel) -> usize {
    // SAFETY: null or from `cameo_model_open`.
    unsafe { model.as_ref() }.map_or(0, |model| model.symbols.len())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_input_describe(model: *const CModel, index: usize, out: *mut CTensorInfo) -> c_int {
    // SAFETY: null or from `cameo_model_open`.
    let Some(model) = (unsafe { model.as_ref() }) else {
        return fail(&NULL);
    };
    // SAFETY: cameo.h asks for a place to write.
    unsafe { describe(&model.inputs, Side::Input, index, out) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_output_describe(model: *const CModel, index: usize, out: *mut CTensorInfo) -> c_int {
    // SAFETY: null or from `cameo_model_open`.
    let Some(model) = (unsafe { model.as_ref() }) else {
        return fail(&NULL);
    };
    // SAFETY: cameo.h asks for a place to write.
    unsafe { describe(&model.outputs, Side::Output, index, out) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_symbol_describe(model: *const CModel, index: usize, out: *mut CSymbolInfo) -> c_int {
    // SAFETY: null or from `cameo_model_open`.
    let Some(model) = (unsafe { model.as_ref() }) else {
        return fail(&NULL);
    };
    let Some(name) = model.symbols.get(index) else {
        return fail(&Error::InvalidArgument(
            "the model has no symbolic dimension of this index",
        ));
    };
    let Some(info) = model.model.description().symbols().nth(index) else {
        return fail(&NULL);
    };
    // SAFETY: cameo.h asks for a place to write.
    let Some(out) = (unsafe { out.as_mut() }) else {
        return fail(&NULL);
    };
    *out = CSymbolInfo {
        name: name.as_ptr(),
        min: info.min,
        max: info.max,
    };
    Status::Ok as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_input_find(model: *const CModel, name: *const c_char, out: *mut usize) -> c_int {
    // SAFETY: passes on what cameo.h asks for.
    unsafe { find(model, name, out, |model, name| model.description().input_index(name)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_output_find(model: *const CModel, name: *const c_char, out: *mut usize) -> c_int {
    // SAFETY: passes on what cameo.h asks for.
    unsafe { find(model, name, out, |model, name| model.description().output_index(name)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_context_create(
    model: *const CModel,
    options: *const COptions,
    out: *mut *mut CContext,
) -> c_int {
    // SAFETY: null or from `cameo_model_open`.
    let Some(model) = (unsafe { model.as_ref() }) else {
        return fail(&NULL);
    };
    if out.is_null() {
        return fail(&NULL);
    }
    // SAFETY: not null, and cameo.h asks for a place to write.
    unsafe { *out = ptr::null_mut() };
    // SAFETY: null or a `cameo_options`.
    let options = match unsafe { options.as_ref() } {
        None => ContextOptions::default(),
        // A later version may add fields behind these; this one knows no smaller one.
        Some(options) if options.size < size_of::<COptions>() => {
            return fail(&Error::InvalidArgument(
                "the size of the options is not set, see CAMEO_OPTIONS_INIT",
            ));
        }
        Some(&COptions {
            threads,
            parallel,
            user,
            ..
        }) => ContextOptions {
            threads: threads as usize,
            pool: parallel.map(|parallel| Box::new(CPool { parallel, user }) as Box<dyn Parallel>),
        },
    };
    match Context::new(&model.model, options) {
        Ok(context) => {
            // SAFETY: not null.
            unsafe { *out = Box::into_raw(Box::new(CContext { context })) };
            Status::Ok as c_int
        }
        Err(error) => fail(&error),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_context_destroy(context: *mut CContext) {
    if !context.is_null() {
        // SAFETY: came from `cameo_context_create` and is given back once.
        drop(unsafe { Box::from_raw(context) });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_context_threads(context: *const CContext) -> u32 {
    // SAFETY: null or from `cameo_context_create`.
    unsafe { context.as_ref() }.map_or(0, |context| context.context.threads() as u32)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_bind_input(
    context: *mut CContext,
    index: usize,
    dtype: u32,
    shape: *const i64,
    rank: usize,
    data: *const c_void,
    bytes: usize,
) -> c_int {
    // SAFETY: `data` stays valid, as cameo.h asks.
    unsafe {
        bind(context, index, dtype, shape, rank, |context, dtype, shape| {
            context.bind_input(index, dtype, shape, data.cast(), bytes)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_bind_cache(
    context: *mut CContext,
    index: usize,
    dtype: u32,
    shape: *const i64,
    rank: usize,
    data: *mut c_void,
    bytes: usize,
) -> c_int {
    // SAFETY: `data` stays valid and nobody else's, as cameo.h asks.
    unsafe {
        bind(context, index, dtype, shape, rank, |context, dtype, shape| {
            context.bind_cache(index, dtype, shape, data.cast(), bytes)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_bind_output(
    context: *mut CContext,
    index: usize,
    data: *mut c_void,
    capacity: usize,
) -> c_int {
    // SAFETY: null or from `cameo_context_create`.
    let Some(CContext { context }) = (unsafe { context.as_mut() }) else {
        return fail(&NULL);
    };
    // SAFETY: `data` stays valid, as cameo.h asks.
    status(unsafe { context.bind_output(index, data.cast(), capacity) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_prepare(context: *mut CContext) -> c_int {
    // SAFETY: null or from `cameo_context_create`.
    let Some(CContext { context }) = (unsafe { context.as_mut() }) else {
        return fail(&NULL);
    };
    status(context.prepare())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_run(context: *mut CContext) -> c_int {
    // SAFETY: null or from `cameo_context_create`.
    let Some(CContext { context }) = (unsafe { context.as_mut() }) else {
        return fail(&NULL);
    };
    status(context.run())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_output_get(context: *const CContext, index: usize, out: *mut COutput) -> c_int {
    // SAFETY: null or from `cameo_context_create`.
    let Some(CContext { context }) = (unsafe { context.as_ref() }) else {
        return fail(&NULL);
    };
    // SAFETY: cameo.h asks for a place to write.
    let Some(out) = (unsafe { out.as_mut() }) else {
        return fail(&NULL);
    };
    let (shape, bytes) = match context.output_shape(index) {
        Ok(shape) => shape,
        Err(error) => return fail(&error),
    };
    // Only the shape is known before a run.
    let data = context.output(index).map_or(ptr::null(), |view| view.bytes().as_ptr());
    let dtype = context
        .model()
        .description()
        .outputs()
        .nth(index)
        .map_or(0, |info| info.dtype as u32);
    *out = COutput {
        data: data.cast(),
        bytes,
        dtype,
        rank: shape.len(),
        shape: shape.as_ptr(),
    };
    Status::Ok as c_int
}

#[unsafe(no_mangle)]
pub extern "C" fn cameo_last_error() -> *const c_char {
    let message = LAST_ERROR.try_with(|last| last.borrow().as_ref().map_or(c"".as_ptr(), |message| message.as_ptr()));
    message.unwrap_or(c"".as_ptr())
}

#[unsafe(no_mangle)]
pub extern "C" fn cameo_status_string(code: c_int) -> *const c_char {
    let known = usize::try_from(code).ok().and_then(|code| Status::ALL.get(code));
    known.map_or(c"unknown status", |status| status.as_c_str()).as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn cameo_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

#[unsafe(no_mangle)]
pub extern "C" fn cameo_abi_version() -> u32 {
    cameo_abi::ABI_VERSION
}

/// Checks what C says of an input, and binds it.
///
/// # Safety
/// `context` is null or from `cameo_context_create`, and `shape` has `rank` values.
unsafe fn bind(
    context: *mut CContext,
    index: usize,
    dtype: u32,
    shape: *const i64,
    rank: usize,
    bind: impl FnOnce(&mut Context, DType, &[i64]) -> Result<(), Error>,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(CContext { context }) = (unsafe { context.as_mut() }) else {
        return fail(&NULL);
    };
    if shape.is_null() && rank > 0 {
        return fail(&NULL);
    }
    let Some(dtype) = DType::from_raw(dtype) else {
        return fail(&Error::UnknownDtype { raw: dtype });
    };
    // Before a slice is made of it: a rank that the model does not have may be any number.
    let expected = context.model().description().inputs().nth(index);
    if let Some(info) = expected.filter(|info| info.extents.rank() != rank) {
        return fail(&Error::WrongRank {
            name: info.name,
            expected: info.extents.rank(),
            got: rank,
        });
    }
    let shape = if expected.is_none() || rank == 0 {
        &[]
    } else {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(shape, rank) }
    };
    status(bind(context, dtype, shape))
}

/// # Safety
/// `out` is null or a place to write.
unsafe fn describe(tensors: &[CTensor], side: Side, index: usize, out: *mut CTensorInfo) -> c_int {
    let Some(tensor) = tensors.get(index) else {
        return fail(&Error::UnknownIndex {
            side,
            index,
            count: tensors.len(),
        });
    };
    // SAFETY: the caller's promise.
    let Some(out) = (unsafe { out.as_mut() }) else {
        return fail(&NULL);
    };
    *out = tensor.info();
    Status::Ok as c_int
}

/// # Safety
/// Each pointer is null or what cameo.h asks for.
unsafe fn find(
    model: *const CModel,
    name: *const c_char,
    out: *mut usize,
    index: impl FnOnce(&Model, &str) -> Result<usize, Error>,
) -> c_int {
    if model.is_null() || name.is_null() || out.is_null() {
        return fail(&NULL);
    }
    // SAFETY: not null, so what cameo.h asks for.
    let (model, name) = unsafe { (&(*model).model, CStr::from_ptr(name).to_string_lossy()) };
    match index(model, &name) {
        Ok(index) => {
            // SAFETY: not null.
            unsafe { *out = index };
            Status::Ok as c_int
        }
        Err(error) => fail(&error),
    }
}

#[cfg(unix)]
fn path(path: &CStr) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes()))
}

#[cfg(not(unix))]
fn path(path: &CStr) -> PathBuf {
    PathBuf::from(path.to_string_lossy().into_owned())
}
