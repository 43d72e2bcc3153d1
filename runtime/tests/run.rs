//! Runs of hand-written models: results, threads, pools, floating-point state, memory.

mod fake;

use cameo_runtime::{Context, ContextOptions, Parallel, TensorView};
use std::sync::atomic::{AtomicUsize, Ordering};

fn threads(threads: usize) -> ContextOptions {
    ContextOptions { threads, pool: None }
}

fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| i as f32).collect()
}

/// One run of the relay and whether it gave `x + steps`.
fn relay_is_right(context: &mut Context, count: usize, steps: u32) -> bool {
    let x = ramp(count);
    context.run_on(&[TensorView::new(&x, &[count as i64])]).unwrap();
    let y = context.output(0).unwrap();
    assert_eq!(y.shape(), [count as i64]);
    let y = y.elements::<f32>().unwrap();
    y.len() == count && y.iter().zip(&x).all(|(y, x)| *y == x + steps as f32)
}

#[test]
fn steps_see_what_other_threads_wrote() {
    let patterns: [fn(u32) -> bool; 5] = [|_| true, |_| false, |i| i % 2 == 0, |i| i % 7 > 2, |i| i == 5];
    for parallel in patterns {
        let model = fake::open(fake::relay_model(40, parallel));
        // Up to 13 threads on any machine: more than it has processors, so waiting sleeps.
        for count in [1, 2, 3, 13] {
            let mut context = Context::new(&model, threads(count)).unwrap();
            assert_eq!(context.threads(), count);
            for round in 0..20 {
                assert!(
                    relay_is_right(&mut context, 64 + round * 3, 40),
                    "{count} threads, round {round}"
                );
            }
        }
    }
}

#[test]
fn loops_go_to_and_fro_and_on() {
    for (outer, inner) in [(true, true), (true, false), (false, true), (false, false)] {
        let model = fake::open(fake::loop_model(outer, inner));
        for count in [1, 2, 5] {
            let mut context = Context::new(&model, threads(count)).unwrap();
            // Twice, because loops put their pointers back.
            for n in [64, 64, 7] {
                assert!(relay_is_right(&mut context, n, 8), "{count} threads, {outer} {inner}");
                let z = context.output(1).unwrap();
                assert_eq!(z.shape(), [6, n as i64]);
                let z = z.elements::<f32>().unwrap();
                for (i, z) in z.iter().enumerate() {
                    let (relays, at) = (i / n + 2, i % n);
                    let x = if relays % 2 == 0 { at } else { n - 1 - at };
                    assert_eq!(*z, (x + relays) as f32, "element {i}");
                }
            }
        }
        let options = ContextOptions {
            threads: 3,
            pool: Some(Box::new(Scoped)),
        };
        let mut context = Context::new(&model, options).unwrap();
        assert!(relay_is_right(&mut context, 100, 8));
    }
}

#[test]
fn dimensions_that_data_gives() {
    for parallel in [true, false] {
        let model = fake::open(fake::ragged_model(parallel));
        for count in [1, 2, 5] {
            let mut context = Context::new(&model, threads(count)).unwrap();
            // Again with other numbers in the same shapes, and in others.
            for lengths in [
                [3, 0, 40, 1],
                [11, 11, 11, 11],
                [0, 0, 0, 44],
                [0, 0, 0, 0],
                [5, 1, 1, 200],
            ] {
                let total = lengths.iter().sum();
                let shape = [total];
                let x: Vec<f32> = (0..total).map(|i| (i * 37 % 101) as f32 - 30.0).collect();
                let inputs = [TensorView::new(&lengths, &[4]), TensorView::new(&x, &shape)];
                context.run_on(&inputs).unwrap();
                let mut expected = vec![];
                for &n in &lengths {
                    let first = expected.len();
                    expected.extend(x[first..first + n as usize].iter().rev());
                }
                let y = context.output(0).unwrap();
                assert_eq!(y.elements::<f32>().unwrap(), expected, "{count} threads, {lengths:?}");
                let positive: Vec<f32> = expected.into_iter().filter(|x| *x > 0.0).collect();
                let z = context.output(1).unwrap();
                assert_eq!(z.shape(), [positive.len() as i64]);
                assert_eq!(z.elements::<f32>().unwrap(), positive);
            }
            // More than there are: nothing of that sequence is done.
            let x = [1f32; 6];
            let inputs = [TensorView::new(&[2i64, 7, -1], &[3]), TensorView::new(&x, &[6])];
            let error = context.run_on(&inputs).unwrap_err().to_string();
            assert_eq!(
                error,
                "dimension \"L\", which the inputs' elements give, is out of range"
            );
            let inputs = [TensorView::new(&[2i64, 4, 0], &[3]), TensorView::new(&x, &[6])];
            context.run_on(&inputs).unwrap();
        }
    }
}

#[test]
fn many_contexts_at_once() {
    let model = fake::open(fake::relay_model(20, |i| i % 3 != 0));
    std::thread::scope(|scope| {
        for caller in 0..6 {
            let model = model.clone();
            scope.spawn(move || {
                let mut context = Context::new(&model, threads(1 + caller % 3)).unwrap();
                for round in 0..50 {
                    assert!(relay_is_right(&mut context, 1 + 17 * round + caller, 20));
                }
            });
        }
    });
}

#[test]
fn a_context_moves_between_threads() {
    let model = fake::open(fake::relay_model(4, |_| true));
    let mut context = Context::new(&model, threads(2)).unwrap();
    assert!(relay_is_right(&mut context, 100, 4));
    let mut context = std::thread::spawn(move || {
        assert!(relay_is_right(&mut context, 100, 4));
        context
    })
    .join()
    .unwrap();
    drop(model);
    assert!(relay_is_right(&mut context, 5000, 4));
}

#[test]
fn large_arenas() {
    let model = fake::open(fake::relay_model(4, |_| true));
    let mut context = Context::new(&model, threads(2)).unwrap();
    for count in [10, 2_000_000, 10, 3_000_001] {
        assert!(relay_is_right(&mut context, count, 4));
    }
    let (shape, bytes) = context.output_shape(0).unwrap();
    assert_eq!((shape, bytes), (&[3_000_001][..], 12_000_004));
}

/// Runs the tasks backwards on the calling thread: none of them at the same time.
struct Backwards(std::sync::Arc<AtomicUsize>);

#[expect(unsafe_code, reason = "calls each task once")]
// SAFETY: calls each task once and returns after the last.
unsafe impl Parallel for Backwards {
    fn parallel(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        self.0.fetch_add(count, Ordering::Relaxed);
        (0..count).rev().for_each(task);
    }
}

/// A thread for each task.
struct Scoped;

#[expect(unsafe_code, reason = "calls each task once")]
// SAFETY: calls each task once and the scope ends after the last.
unsafe impl Parallel for Scoped {
    fn parallel(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for index in 0..count {
                scope.spawn(move || task(index));
            }
        });
    }
}

/// Forgets one task.
struct Lazy;

#[expect(unsafe_code, reason = "calls each task at most once")]
// SAFETY: calls each task at most once and returns after the last.
unsafe impl Parallel for Lazy {
    fn parallel(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        (1..count).for_each(task);
    }
}

#[test]
fn on_the_callers_threads() {
    let model = fake::open(fake::relay_model(10, |i| i % 2 == 0));
    let tasks = std::sync::Arc::new(AtomicUsize::new(0));
    let pool = Box::new(Backwards(std::sync::Arc::clone(&tasks)));
    let mut context = Context::new(
        &model,
        ContextOptions {
            threads: 5,
            pool: Some(pool),
        },
    )
    .unwrap();
    assert!(relay_is_right(&mut context, 333, 10));
    assert_eq!(tasks.load(Ordering::Relaxed), 25);

    let mut context = Context::new(
        &model,
        ContextOptions {
            threads: 3,
            pool: Some(Box::new(Scoped)),
        },
    )
    .unwrap();
    assert!(relay_is_right(&mut context, 333, 10));

    let mut context = Context::new(
        &model,
        ContextOptions {
            threads: 3,
            pool: Some(Box::new(Lazy)),
        },
    )
    .unwrap();
    assert!(context.run_on(&[TensorView::new(&[1.0f32], &[1])]).is_err());
}

#[test]
fn default_threads_are_bounded() {
    let allowed = cameo_runtime::allowed_cpus();
    let context = Context::new(&fake::open(fake::relay_model(2, |_| true)), ContextOptions::default()).unwrap();
    assert_eq!(context.threads(), allowed);
    let one = cameo_abi::ModelDesc {
        default_threads: 1,
        ..fake::relay_model(2, |_| true)
    };
    let context = Context::new(&fake::open(one), ContextOptions::default()).unwrap();
    assert_eq!(context.threads(), 1);
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn denormals_are_flushed_on_every_thread_and_only_there() {
    let halve = || std::hint::black_box(f32::MIN_POSITIVE) / std::hint::black_box(2.0);
    let model = fake::open(fake::denormal_model());
    let own = (1..=3).map(threads);
    let callers = std::iter::once(ContextOptions {
        threads: 3,
        pool: Some(Box::new(Scoped)),
    });
    for options in own.chain(callers) {
        let mut context = Context::new(&model, options).unwrap();
        assert!(halve() > 0.0);
        context.run_on(&[TensorView::new(&[0f32; 30], &[30])]).unwrap();
        assert!(halve() > 0.0, "the caller's state was not restored");
        assert_eq!(context.output(0).unwrap().elements::<f32>().unwrap(), [0.0; 30]);
    }
}

#[test]
fn idle_workers_sleep() {
    let model = fake::open(fake::relay_model(4, |_| true));
    let mut context = Context::new(&model, threads(3)).unwrap();
    assert!(relay_is_right(&mut context, 100, 4));
    let ticks = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields: Vec<u64> = stat
            .rsplit(") ")
            .next()
            .unwrap()
            .split(' ')
            .map(|f| f.parse().unwrap_or(0))
            .collect();
        fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0)
    };
    let before = ticks();
    std::thread::sleep(std::time::Duration::from_millis(300));
    // 30 ticks of 10 ms would be one busy thread; other tests of this process may run meanwhile only outside nextest.
    if std::env::var_os("NEXTEST").is_some() {
        assert!(ticks() - before <= 3, "workers spin while there is nothing to do");
    }
    assert!(relay_is_right(&mut context, 100, 4));
}
