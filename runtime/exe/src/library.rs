//! Operators from libraries: `--op-library`, and those that the program was linked with.
#![expect(unsafe_code, reason = "loads code, and calls what lists its operators")]

use cameo_runtime::{Error, Operator};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `cameo_operators`: gives an array, and writes its length.
pub type Listing = unsafe extern "C" fn(count: *mut usize) -> *const Operator;

/// What a library calls it.
const LISTING: &CStr = c"cameo_operators";

/// All symbols at once, so that what is missing is said now. The same on Linux and Apple.
const RTLD_NOW: c_int = 2;

unsafe extern "C" {
    fn dlopen(file: *const c_char, mode: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *mut c_char;
}

/// The operators that a function lists.
///
/// # Safety
/// It is as `cameo.h` says, and its array stays.
pub unsafe fn listed(listing: Listing) -> &'static [Operator] {
    let mut count = 0;
    // SAFETY: the caller's promise.
    unsafe {
        let operators = listing(&raw mut count);
        if operators.is_null() || count == 0 {
            return &[];
        }
        std::slice::from_raw_parts(operators, count)
    }
}

/// Loads a library for as long as the process lives, and gives its operators.
///
/// # Safety
/// What the library does when it is loaded is harmless, and its `cameo_operators` is as `cameo.h` says.
///
/// # Errors
/// [`Error::LibraryFailed`].
pub unsafe fn load(path: &Path) -> Result<&'static [Operator], Error> {
    let failed = |reason: String| Error::LibraryFailed {
        path: path.display().to_string(),
        reason,
    };
    // Without a slash the system would look elsewhere.
    let file = if path.components().count() == 1 {
        Path::new(".").join(path)
    } else {
        path.to_owned()
    };
    let file = CString::new(file.as_os_str().as_bytes()).map_err(|error| failed(error.to_string()))?;
    // SAFETY: C strings; `dlerror` gives null or a C string that stays until the next call.
    unsafe {
        let said = || match dlerror() {
            said if said.is_null() => String::from("unknown error"),
            said => CStr::from_ptr(said).to_string_lossy().into_owned(),
        };
        let library = dlopen(file.as_ptr(), RTLD_NOW);
        if library.is_null() {
            return Err(failed(said()));
        }
        let listing = dlsym(library, LISTING.as_ptr());
        if listing.is_null() {
            return Err(failed(said()));
        }
        Ok(listed(std::mem::transmute::<*mut c_void, Listing>(listing)))
    }
}
