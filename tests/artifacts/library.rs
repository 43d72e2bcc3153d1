//! A model's library through its C interface, with the runtime that is in it.
#![expect(unsafe_code, reason = "calls the functions of a library")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

pub struct Library(libloading::Library);

/// `cameo_options`
#[repr(C)]
struct Options {
    size: usize,
    threads: u32,
    parallel: *const c_void,
    user: *const c_void,
}

impl Library {
    pub fn load(path: &Path) -> Self {
        // SAFETY: the compiler wrote the library; its initialisers are those of Rust's standard library.
        Self(unsafe { libloading::Library::new(path) }.expect("loads"))
    }

    /// Makes a context of a model for that many threads, and ends it.
    pub fn open_and_close(&self, model: &str, weights: &Path, threads: u32) {
        type Open = unsafe extern "C" fn(*const c_void, *const c_char, *mut *mut c_void) -> c_int;
        type Create = unsafe extern "C" fn(*mut c_void, *const Options, *mut *mut c_void) -> c_int;
        type End = unsafe extern "C" fn(*mut c_void);
        let weights = CString::new(weights.as_os_str().as_encoded_bytes()).expect("a path");
        let options = Options {
            size: size_of::<Options>(),
            threads,
            parallel: ptr::null(),
            user: ptr::null(),
        };
        let (mut opened, mut context) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the types are those of `cameo.h`, and what the functions get lives until they are done.
        unsafe {
            let descriptor = self.0.get::<*const c_void>(model.as_bytes()).expect("a model");
            let open = self.0.get::<Open>(b"cameo_model_open").expect("a function");
            let create = self.0.get::<Create>(b"cameo_context_create").expect("a function");
            let destroy = self.0.get::<End>(b"cameo_context_destroy").expect("a function");
            let close = self.0.get::<End>(b"cameo_model_close").expect("a function");
            assert_eq!(open(*descriptor, weights.as_ptr(), &raw mut opened), 0);
            assert_eq!(create(opened, &raw const options, &raw mut context), 0);
            destroy(context);
            close(opened);
        }
    }
}

/// The thread-local keys that the process would make next: two, as Rust's standard library does not take the first of all.
pub fn next_keys() -> [u32; 2] {
    let mut keys = [0; 2];
    // SAFETY: nobody else knows the keys.
    unsafe {
        for key in &mut keys {
            assert_eq!(libc::pthread_key_create(key, None), 0);
        }
        for key in keys {
            libc::pthread_key_delete(key);
        }
    }
    keys
}
