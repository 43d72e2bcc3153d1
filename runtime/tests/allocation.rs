//! A run allocates nothing after the first with the same shapes, on any thread.
//!
//! Without the test harness, whose main thread allocates while it waits; so this file answers its questions itself.
#![expect(unsafe_code, reason = "counts allocations")]

mod fake;

use cameo_runtime::{Context, ContextOptions, DType, Parallel};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs everything on the calling thread.
struct Alone;

// SAFETY: calls each task once.
unsafe impl Parallel for Alone {
    fn parallel(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(task);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let asked = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if !asked("--list") {
        later_runs_allocate_nothing();
    } else if !asked("--ignored") {
        println!("later_runs_allocate_nothing: test");
    }
}

fn later_runs_allocate_nothing() {
    let model = fake::open(fake::relay_model(30, |i| i % 4 != 1));
    let x = vec![1f32; 3000];
    let mut y = vec![0f32; 3000];
    for options in [
        ContextOptions { threads: 1, pool: None },
        ContextOptions { threads: 3, pool: None },
        ContextOptions {
            threads: 3,
            pool: Some(Box::new(Alone)),
        },
    ] {
        let mut context = Context::new(&model, options).unwrap();
        let mut round = |count: usize, own_output: bool| {
            let output = if own_output {
                std::ptr::null_mut()
            } else {
                y.as_mut_ptr().cast()
            };
            // SAFETY: both outlive the context.
            unsafe {
                context
                    .bind_input(0, DType::F32, &[count as i64], x.as_ptr().cast(), 4 * count)
                    .unwrap();
                context.bind_output(0, output, 4 * count).unwrap();
            }
            context.run().unwrap();
            assert_eq!(context.output(0).unwrap().elements::<f32>().unwrap()[count - 1], 31.0);
        };
        round(3000, true);
        let mut calls = || {
            let before = CALLS.load(Ordering::Relaxed);
            for _ in 0..100 {
                round(3000, true);
                round(3000, false);
                // Smaller shapes need no new memory either.
                round(1000, true);
            }
            CALLS.load(Ordering::Relaxed) - before
        };
        // A run waits for no thread that has not started yet, and starting a thread allocates.
        for _ in 0..1000 {
            if calls() == 0 {
                break;
            }
        }
        assert_eq!(calls(), 0);
    }
    let before = CALLS.load(Ordering::Relaxed);
    drop(vec![1]);
    assert!(CALLS.load(Ordering::Relaxed) > before, "the counter does not count");
}
