//! The threads of a context: the caller's own and the workers that it owns.
//!
//! Laws: waiting spins for a bounded time and then sleeps; with more threads than allowed processors it sleeps at once;
//! starting, synchronising and finishing a run allocate nothing.
#![expect(
    unsafe_code,
    reason = "workers borrow the run of the caller's thread, which waits for them"
)]

use crate::Error;
use crate::sys::Thread;
use cameo_core::{FlushDenormals, Run};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Spinning for shares that others have taken, about what putting a thread to sleep and waking it costs: at worst waiting costs twice that.
const SHARE_SPIN: Duration = Duration::from_micros(20);

/// Spinning for the next run: covers a caller that runs in a loop, not one that waits for its user.
const START_SPIN: Duration = Duration::from_micros(50);

/// Polls between two looks at the clock, each some tens of nanoseconds.
const POLLS: u32 = 32;

/// Low bits of [`Shared::start`] that hold the size of the team; the rest counts runs.
const TEAM_BITS: u32 = 16;

/// A team of this size tells the workers to end. No team is so large: see [`MAX_THREADS`].
const STOP: u64 = (1 << TEAM_BITS) - 1;

/// Most threads of a context: twice the cores of the largest machines, and far below [`STOP`].
pub const MAX_THREADS: usize = 1024;

/// Worker threads; the caller's thread is number 0, workers count from 1. Dropping it ends them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Thread>,
}

/// Own cache lines (two, as processors fetch pairs) for what one side writes and another polls.
#[repr(align(128))]
struct Apart<T>(T);

struct Shared {
    /// Number of the run and size of its team in one word, so that a worker that comes late never takes the number of
    /// one run and the team of the next. A team of nobody: the run is over.
    start: Apart<AtomicU64>,
    run: AtomicPtr<Run<'static>>,
    /// Workers that may look at the run.
    active: Apart<AtomicU32>,
    started: Gate,
    passed: Gate,
    finished: Gate,
    /// Whether there is a processor for each thread.
    may_spin: bool,
}

impl Pool {
    /// Starts `threads - 1` workers. `processors` is how many cores the process may use.
    pub fn new(threads: usize, processors: usize) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            start: Apart(AtomicU64::new(0)),
            run: AtomicPtr::new(std::ptr::null_mut()),
            active: Apart(AtomicU32::new(0)),
            started: Gate::default(),
            passed: Gate::default(),
            finished: Gate::default(),
            may_spin: threads <= processors,
        });
        // From here on dropping the pool ends the workers that did start.
        let mut pool = Self {
            shared,
            workers: Vec::with_capacity(threads.saturating_sub(1)),
        };
        for thread in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = Thread::start(move || shared.work(thread));
            pool.workers.push(worker.map_err(|error| Error::ThreadFailed {
                reason: error.to_string(),
            })?);
        }
        Ok(pool)
    }

    /// Does all steps and returns when they are complete.
    ///
    /// # Safety
    /// The contract of [`Run::new`] holds, for no fewer threads than the pool has.
    pub unsafe fn run(&mut self, run: &Run<'_>) {
        let _flush = FlushDenormals::new();
        let parallel_end = run.parallel_end();
        if parallel_end > 0 {
            let most = run.parts().iter().copied().max().unwrap_or(1);
            let team = most.min(self.workers.len() as u32 + 1);
            self.shared.begin(run, team);
            // SAFETY: the run is alive until this returns.
            unsafe { self.shared.walk(run, 0) };
            self.shared.end();
        }
        // SAFETY: the workers are done.
        unsafe { run.rest() };
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.announce(STOP);
        // Waits for each.
        self.workers.clear();
    }
}

impl Shared {
    /// Hands the run to the workers of its team.
    fn begin(&self, run: &Run<'_>, team: u32) {
        self.run
            .store(std::ptr::from_ref(run).cast_mut().cast(), Ordering::Relaxed);
        self.announce(u64::from(team));
    }

    fn announce(&self, team: u64) {
        let number = (self.start.0.load(Ordering::Relaxed) >> TEAM_BITS).wrapping_add(1);
        self.start.0.store(number << TEAM_BITS | team, Ordering::SeqCst);
        self.started.open();
    }

    /// Takes the run back: returns when no worker looks at it, and none will.
    fn end(&self) {
        let word = self.start.0.load(Ordering::Relaxed);
        // Either a worker sees that it comes too late, or this thread sees that it is there.
        self.start.0.store(word & !STOP, Ordering::SeqCst);
        self.finished
            .wait(self.spin(SHARE_SPIN), || self.active.0.load(Ordering::SeqCst) == 0);
    }

    /// # Safety
    /// The run is alive until this returns.
    unsafe fn walk(&self, run: &Run<'_>, thread: usize) {
        let wait = |ready: &dyn Fn() -> bool| self.passed.wait(self.spin(SHARE_SPIN), ready);
        // SAFETY: as the caller promised.
        unsafe { run.walk(thread, wait, || self.passed.open()) };
    }

    /// The life of a worker.
    fn work(&self, thread: usize) {
        let _flush = FlushDenormals::new();
        let mut seen = 0;
        loop {
            self.started
                .wait(self.spin(START_SPIN), || self.start.0.load(Ordering::Acquire) != seen);
            seen = self.start.0.load(Ordering::Acquire);
            let team = seen & STOP;
            if team == STOP {
                return;
            }
            if (thread as u64) < team {
                self.active.0.fetch_add(1, Ordering::SeqCst);
                if self.start.0.load(Ordering::SeqCst) == seen {
                    // SAFETY: the caller has not taken the run back, and waits in `end` until this worker has signed off
                    // below; until then the run is alive.
                    unsafe { self.walk(&*self.run.load(Ordering::Relaxed), thread) };
                }
                if self.active.0.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.finished.open();
                }
            }
        }
    }

    fn spin(&self, limit: Duration) -> Duration {
        if self.may_spin { limit } else { Duration::ZERO }
    }
}

/// A place to wait until some state changes; the state is kept elsewhere, in atomics.
#[derive(Default)]
struct Gate {
    sleepers: Apart<AtomicU32>,
    lock: Mutex<()>,
    bell: Condvar,
}

impl<T: Default> Default for Apart<T> {
    fn default() -> Self {
        Self(T::default())
    }
}

impl Gate {
    /// Returns when `ready` holds: spins for `spin`, then sleeps.
    fn wait(&self, spin: Duration, ready: impl Fn() -> bool) {
        if ready() {
            return;
        }
        if !spin.is_zero() {
            let begin = Instant::now();
            loop {
                for _ in 0..POLLS {
                    spin_loop();
                    if ready() {
                        return;
                    }
                }
                if begin.elapsed() >= spin {
                    break;
                }
            }
        }
        self.sleepers.0.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fence in `open`: either that thread sees this sleeper, or this one sees the new state.
        fence(Ordering::SeqCst);
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !ready() {
            guard = self.bell.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.sleepers.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Wakes the waiting threads; called after the state has changed.
    fn open(&self) {
        fence(Ordering::SeqCst);
        if self.sleepers.0.load(Ordering::Relaxed) > 0 {
            // A sleeper holds the lock from its last look at the state until it sleeps; passing through the lock keeps
            // the bell from ringing in between.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.bell.notify_all();
        }
    }
}
