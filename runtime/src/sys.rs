//! The operating system: memory regions, threads, processor affinity.
//!
//! Invariant: a [`Region`] is valid for reads (and, when anonymous, writes) of its whole length until it is dropped,
//! and starts at a multiple of [`ALIGNMENT`].
#![expect(
    unsafe_code,
    reason = "mmap, affinity and threads that take no thread-local key have no safe interface"
)]

use crate::Error;
use cameo_abi::ALIGNMENT;
use std::fs::File;
use std::io;
use std::ptr::NonNull;

/// Size of a huge page on x86-64 and of the usual one on aarch64.
const HUGE_PAGE: usize = 2 << 20;

/// Stack of a thread; physical pages only where it is touched. What the standard library gives its threads.
const STACK: usize = 2 << 20;

/// Memory from the operating system, zeroed or of a file.
pub struct Region {
    /// Where the caller's bytes start.
    start: NonNull<u8>,
    bytes: usize,
    /// What was mapped, which may be more.
    mapping: (NonNull<u8>, usize),
}

// SAFETY: a region is plain memory; its owner decides who writes.
unsafe impl Send for Region {}
// SAFETY: as above; `Region` itself only hands out a pointer.
unsafe impl Sync for Region {}

impl Region {
    /// No memory; the pointer is aligned and must not be read.
    pub const fn empty() -> Self {
        // A dangling, non-null, aligned address, as `NonNull::dangling` is for its type.
        let start = NonNull::without_provenance(std::num::NonZero::new(ALIGNMENT).unwrap());
        Self {
            start,
            bytes: 0,
            mapping: (start, 0),
        }
    }

    /// Zeroed memory of at least `bytes`, physical pages only where it is touched. Where most of it never is (`sparse`), more than
    /// the machine has.
    pub fn anonymous(bytes: usize, sparse: bool) -> Result<Self, Error> {
        if bytes == 0 {
            return Ok(Self::empty());
        }
        let huge = huge_bytes(bytes);
        // Pages are aligned to at least `ALIGNMENT`; huge alignment needs room to slide. Untouched pages cost nothing.
        let (alignment, slack) = if huge > 0 {
            (HUGE_PAGE, HUGE_PAGE)
        } else {
            (ALIGNMENT, 0)
        };
        let mapped = bytes.max(huge).checked_add(slack).ok_or(Error::OutOfMemory { bytes })?;
        let base = map(
            mapped,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | if sparse { libc::MAP_NORESERVE } else { 0 },
            -1,
        )
        .ok_or(Error::OutOfMemory { bytes })?;
        let skip = base.as_ptr().align_offset(alignment);
        // SAFETY: `skip < alignment`, and the mapping is that much longer than `bytes`.
        let start = unsafe { base.add(skip) };
        let region = Self {
            start,
            bytes,
            mapping: (base, mapped),
        };
        #[cfg(target_os = "linux")]
        if huge > 0 {
            region.advise(huge, libc::MADV_HUGEPAGE);
        }
        Ok(region)
    }

    /// The first `bytes` of a file, shared with every process that maps it.
    ///
    /// The file must not be truncated while it is mapped: reading past its end would raise SIGBUS.
    pub fn file(file: &File, bytes: usize) -> Result<Self, Error> {
        use std::os::fd::AsRawFd;
        if bytes == 0 {
            return Ok(Self::empty());
        }
        let base = map(bytes, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd());
        let start = base.ok_or(Error::OutOfMemory { bytes })?;
        let region = Self {
            start,
            bytes,
            mapping: (start, bytes),
        };
        // Read ahead the whole file at once; huge pages where the file system has them.
        region.advise(bytes, libc::MADV_WILLNEED);
        #[cfg(target_os = "linux")]
        region.advise(bytes, libc::MADV_HUGEPAGE);
        Ok(region)
    }

    pub const fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// A hint for the first `bytes` of the mapping behind `start`; that it may fail changes nothing.
    fn advise(&self, bytes: usize, advice: libc::c_int) {
        // SAFETY: within the mapping, and the advice used here never changes contents.
        unsafe { libc::madvise(self.start.as_ptr().cast(), bytes, advice) };
    }
}

/// How many bytes of a region may be huge pages: the last one too where at least half of it is used. Touching one for the
/// first time takes about as long as touching 250 small pages.
const fn huge_bytes(bytes: usize) -> usize {
    let last = bytes % HUGE_PAGE;
    let more = if last < HUGE_PAGE / 2 { 0 } else { HUGE_PAGE };
    (bytes - last).saturating_add(more)
}

impl Drop for Region {
    fn drop(&mut self) {
        let (base, bytes) = self.mapping;
        if bytes > 0 {
            // SAFETY: exactly what `map` returned, and the owner is gone.
            unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
        }
    }
}

fn map(bytes: usize, protection: libc::c_int, flags: libc::c_int, file: libc::c_int) -> Option<NonNull<u8>> {
    // SAFETY: a new mapping at an address of the system's choice disturbs no other memory.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, file, 0) };
    if base == libc::MAP_FAILED {
        None
    } else {
        NonNull::new(base.cast())
    }
}

/// A running thread; dropping it waits for its end.
///
/// Not one of the standard library's: the first of those takes one of the process's thread-local keys (1,024 with glibc) and never
/// gives it back. Each model that is a library of its own has a standard library of its own, so that a process could not load
/// more models than that.
pub struct Thread(libc::pthread_t);

// SAFETY: any thread may wait for another one's end; only one does, as it takes the handle away.
unsafe impl Send for Thread {}
// SAFETY: a reference to it can do nothing.
unsafe impl Sync for Thread {}

impl Thread {
    /// Starts a thread that does `work`, which must not panic: that ends the process.
    pub fn start<F: FnOnce() + Send + 'static>(work: F) -> io::Result<Self> {
        extern "C" fn begin<F: FnOnce()>(work: *mut libc::c_void) -> *mut libc::c_void {
            // SAFETY: the box below, which is this thread's once it runs.
            let work = unsafe { Box::from_raw(work.cast::<F>()) };
            work();
            std::ptr::null_mut()
        }
        let work = Box::into_raw(Box::new(work));
        // SAFETY: plain data; the calls fill it before anybody reads it.
        let (mut attributes, mut thread) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        // SAFETY: `work` is the thread's from where it starts; where it does not, this is its only owner again.
        unsafe {
            let mut status = libc::pthread_attr_init(&raw mut attributes);
            if status == 0 {
                // Where the system refuses the size, its own does.
                libc::pthread_attr_setstacksize(&raw mut attributes, STACK);
                status = libc::pthread_create(&raw mut thread, &raw const attributes, begin::<F>, work.cast());
                libc::pthread_attr_destroy(&raw mut attributes);
            }
            if status != 0 {
                drop(Box::from_raw(work));
                return Err(io::Error::from_raw_os_error(status));
            }
            // For debuggers and profilers, which do without where this fails.
            #[cfg(target_os = "linux")]
            libc::pthread_setname_np(thread, c"cameo".as_ptr());
        }
        Ok(Self(thread))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // SAFETY: nobody else waits for this thread or has let go of it.
        unsafe { libc::pthread_join(self.0, std::ptr::null_mut()) };
    }
}

/// Processors on which this process may run.
#[cfg(target_os = "linux")]
pub fn affinity_count() -> usize {
    // 8192 processors, the largest CONFIG_NR_CPUS of Linux distributions.
    let mut mask = [0u64; 128];
    // SAFETY: the mask is as long as the length says.
    let status = unsafe { libc::sched_getaffinity(0, size_of_val(&mask), mask.as_mut_ptr().cast()) };
    if status != 0 {
        return std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    }
    mask.iter().map(|word| word.count_ones() as usize).sum::<usize>().max(1)
}

/// Processors on which this process may run.
#[cfg(not(target_os = "linux"))]
pub fn affinity_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Largest resident set that the operating system recorded, in bytes; includes what ran before `exec`.
pub fn resource_peak_bytes() -> u64 {
    // SAFETY: `rusage` is plain numbers, for which zero is a value, and `getrusage` fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    // Linux counts in KiB, Apple in bytes.
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    u64::try_from(usage.ru_maxrss).unwrap_or(0) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_zeroed_aligned_and_writable() {
        for (bytes, huge) in [
            (1, 0),
            (100, 0),
            (4096, 0),
            (1 << 20, 1),
            (3 << 20, 2),
            ((4 << 20) + 12345, 2),
        ] {
            assert_eq!(huge_bytes(bytes), huge * HUGE_PAGE);
            let region = Region::anonymous(bytes, false).unwrap();
            let alignment = if huge > 0 { HUGE_PAGE } else { ALIGNMENT };
            assert_eq!(region.as_ptr() as usize % alignment, 0);
            // SAFETY: the region has `bytes` bytes and this test is its only user.
            let memory = unsafe { std::slice::from_raw_parts_mut(region.as_ptr(), bytes) };
            assert!(memory.iter().all(|&byte| byte == 0));
            memory[bytes - 1] = 1;
        }
        assert_eq!(Region::empty().as_ptr() as usize % ALIGNMENT, 0);
        assert!(matches!(
            Region::anonymous(usize::MAX - 5, false),
            Err(Error::OutOfMemory { .. })
        ));
        assert!(matches!(
            Region::anonymous(1 << 60, false),
            Err(Error::OutOfMemory { .. })
        ));
    }
}
