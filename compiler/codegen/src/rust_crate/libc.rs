//! The few functions and constants of the C library that the runtime uses, for Linux on x86-64 and aarch64.
//!
//! Not part of the compiler: it is written into generated crates, which depend on no other crate.
#![allow(non_camel_case_types)]

pub use core::ffi::{c_char, c_int, c_long, c_ulong, c_void};

pub const PROT_READ: c_int = 1;
pub const PROT_WRITE: c_int = 2;
pub const MAP_PRIVATE: c_int = 2;
pub const MAP_ANONYMOUS: c_int = 0x20;
pub const MAP_NORESERVE: c_int = 0x4000;
pub const MAP_FAILED: *mut c_void = !0 as *mut c_void;
pub const MADV_WILLNEED: c_int = 3;
pub const MADV_HUGEPAGE: c_int = 14;
pub const RUSAGE_SELF: c_int = 0;

#[repr(C)]
pub struct cpu_set_t {
    bits: [u64; 16],
}

pub type pthread_t = c_ulong;

/// As large as that of aarch64, the larger one.
#[repr(C)]
pub struct pthread_attr_t {
    opaque: [u64; 8],
}

#[repr(C)]
pub struct timeval {
    pub tv_sec: c_long,
    pub tv_usec: c_long,
}

#[repr(C)]
pub struct rusage {
    pub ru_utime: timeval,
    pub ru_stime: timeval,
    pub ru_maxrss: c_long,
    others: [c_long; 13],
}

unsafe extern "C" {
    pub fn mmap(
        address: *mut c_void,
        length: usize,
        protection: c_int,
        flags: c_int,
        file: c_int,
        offset: i64,
    ) -> *mut c_void;
    pub fn munmap(address: *mut c_void, length: usize) -> c_int;
    pub fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    pub fn sched_getaffinity(process: c_int, size: usize, mask: *mut cpu_set_t) -> c_int;
    pub fn getrusage(who: c_int, usage: *mut rusage) -> c_int;
    pub fn pthread_attr_init(attributes: *mut pthread_attr_t) -> c_int;
    pub fn pthread_attr_setstacksize(attributes: *mut pthread_attr_t, bytes: usize) -> c_int;
    pub fn pthread_attr_destroy(attributes: *mut pthread_attr_t) -> c_int;
    pub fn pthread_create(
        thread: *mut pthread_t,
        attributes: *const pthread_attr_t,
        start: extern "C" fn(*mut c_void) -> *mut c_void,
        argument: *mut c_void,
    ) -> c_int;
    pub fn pthread_join(thread: pthread_t, value: *mut *mut c_void) -> c_int;
    pub fn pthread_setname_np(thread: pthread_t, name: *const c_char) -> c_int;
}
