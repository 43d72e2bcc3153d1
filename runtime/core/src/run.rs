//! The steps of one run on the processor's cores.
//!
//! Step `s` is done in `parts[s]` shares, which the threads of the team take as they come (see [`Turns`]); a step begins when all
//! shares of the one before are done. Whoever finishes the last share goes on alone: it moves the pointers of loops, reads
//! symbols and does the steps of one share, up to the next step that is shared, and opens that. So one thread at a time knows
//! where the run is, and one that comes late, however late, finds what is to be done now. The shares of the steps behind a
//! symbol stay those of its largest value; loops behind it run as often as it says.
#![expect(unsafe_code, reason = "calls the model's kernels")]

use crate::cursor::{Cursor, Event, Order};
use crate::error::Error;
use crate::float::FlushDenormals;
use crate::plan::{Evaluated, Plan, Sizes};
use crate::turns::{LANES, Turns};
use cameo_abi::{Count, KERNEL_RULE_BROKEN, Loop, MOVE_ADVANCE, MOVE_BACK, MOVE_FORTH, Move, Step};
use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Scalar operations that are worth a thread. A barrier of spinning threads cost about 0.25 µs (two threads on an AVX-512
/// Xeon; turns took its place, and runs on an idle machine as long); vector code does some 20,000 scalar operations in twice
/// that time, so smaller shares would wait longer than they save.
const WORK_PER_THREAD: i64 = 20_000;

/// No step, or no count, has failed; no step is left to share.
const NO_STEP: usize = usize::MAX;

/// The first turn, in which nothing is done but to go to the first step that is shared.
const START: usize = NO_STEP - 1;

/// Shares for each thread where they are long: one that comes late, or is put aside, leaves its own to others.
const SHARES_PER_THREAD: i64 = 4;

/// Scalar operations of a share that is long: some 5 µs, far above what taking it costs.
const LONG_SHARE: i64 = 10 * WORK_PER_THREAD;

/// How many shares a step of this estimated work is done in.
pub fn parts_for(work: i64, threads: usize) -> u32 {
    let threads = i64::try_from(threads.max(1)).unwrap_or(i64::MAX);
    let few = (work / WORK_PER_THREAD).clamp(1, threads);
    let parts = match threads {
        1 => 1,
        _ => few.saturating_mul((work / few / LONG_SHARE).clamp(1, SHARES_PER_THREAD)),
    };
    u32::try_from(parts).unwrap_or(u32::MAX)
}

/// Threads of a caller, to run on instead of own ones.
///
/// # Safety
/// [`Parallel::parallel`] calls `task` at most once for each index below `count`, and returns only when no call is
/// under way.
pub unsafe trait Parallel: Send + Sync {
    /// Calls `task(0)` to `task(count - 1)`, in any order, on any threads, at the same time or not.
    fn parallel(&self, count: usize, task: &(dyn Fn(usize) + Sync));
}

/// Memory of the caller that a run works in, of the lengths that [`crate::Tables`] tells.
pub struct Working<'a> {
    /// In how many shares each step is done: [`Plan::split`].
    pub parts: &'a [u32],
    /// Where each buffer starts: [`Plan::resolve`]. As before after the run.
    pub pointers: &'a mut [*mut u8],
    /// One for each of [`crate::Tables::loops`], with any contents.
    pub iterations: &'a mut [i64],
    /// One for each of [`crate::Tables::moves`], with any contents.
    pub moved: &'a mut [i64],
    /// [`Sizes::scratch_stride`] bytes for each thread.
    pub scratch: *mut u8,
    pub scratch_stride: usize,
    pub threads: usize,
}

/// One run, shared by its team of threads.
pub struct Run<'a> {
    steps: &'a [Step],
    moves: &'a [Move],
    order: Order<'a>,
    parts: &'a [u32],
    buffers: &'a [Cell<*mut u8>],
    /// By move: how far forward the buffer is of where it was at first, in bytes.
    moved: &'a [Cell<i64>],
    tables: Evaluated,
    sizes: Sizes,
    scratch: *mut u8,
    scratch_stride: usize,
    threads: usize,
    failed: AtomicUsize,
    /// Whether it is a rule that has failed.
    broken: AtomicBool,
    miscounted: AtomicUsize,
    turns: Turns,
    /// Where the run is, for the one thread that opens the next turn.
    cursor: UnsafeCell<Cursor<'a>>,
    /// The steps of even and odd turns: of the turn that is open, and of the one before or behind it.
    shared: [AtomicUsize; 2],
}

// SAFETY: shares of a step touch disjoint outputs (contract of `KernelFn`) and have scratch of their own, turns order the
// steps, and pointers, tables and the cursor are used by the one thread that opens a turn.
unsafe impl Sync for Run<'_> {}

impl<'a> Run<'a> {
    /// A run of a model's steps.
    ///
    /// # Safety
    /// `plan` is evaluated, with `sizes` as the result, and `working` made for it; all of it stays valid and unshared while it
    /// runs.
    #[must_use]
    pub unsafe fn new(mut plan: Plan<'a>, sizes: Sizes, working: Working<'a>) -> Self {
        let Working {
            parts,
            pointers,
            iterations,
            moved,
            scratch,
            scratch_stride,
            threads,
        } = working;
        let tables = plan.tables();
        let steps = tables.steps();
        debug_assert_eq!(steps.len(), parts.len());
        let evaluated = plan.evaluated();
        moved.fill(0);
        let order = Order {
            loops: tables.loops(),
            iterations: Cell::from_mut(iterations).as_slice_of_cells(),
            counts: tables.counts(),
            steps: steps.len(),
        };
        let run = Self {
            steps,
            moves: tables.moves(),
            order,
            parts,
            buffers: Cell::from_mut(pointers).as_slice_of_cells(),
            moved: Cell::from_mut(moved).as_slice_of_cells(),
            tables: evaluated,
            sizes,
            scratch,
            scratch_stride,
            threads,
            failed: AtomicUsize::new(NO_STEP),
            broken: AtomicBool::new(false),
            miscounted: AtomicUsize::new(NO_STEP),
            turns: Turns::default(),
            cursor: UnsafeCell::new(Cursor::new(order, 0, parallel_end(parts, order.loops))),
            shared: [AtomicUsize::new(START), AtomicUsize::new(NO_STEP)],
        };
        // SAFETY: nobody else has the tables.
        unsafe { run.count_iterations() };
        run
    }

    /// Takes the iterations of all loops from the table of dims.
    ///
    /// # Safety
    /// Nothing else accesses the tables or walks meanwhile.
    unsafe fn count_iterations(&self) {
        for (iterations, l) in self.order.iterations.iter().zip(self.order.loops) {
            // SAFETY: `Tables` checked the index, and the caller's promise.
            iterations.set(unsafe { *self.tables.dims.add(l.count as usize) });
        }
    }

    /// Shares of each step.
    #[must_use]
    pub fn parts(&self) -> &[u32] {
        self.parts
    }

    /// One past the last step that has several shares, or past the loops that it is in.
    #[must_use]
    pub fn parallel_end(&self) -> usize {
        parallel_end(self.parts, self.order.loops)
    }

    fn events(&self, from: usize, to: usize) -> Cursor<'a> {
        Cursor::new(self.order, from, to)
    }

    /// The first step, in order, whose kernel reported an error.
    #[must_use]
    pub fn failed_step(&self) -> Option<usize> {
        Some(self.failed.load(Ordering::Acquire)).filter(|&step| step != NO_STEP)
    }

    /// Whether that is a rule, which its name says.
    #[must_use]
    pub fn breaks_rule(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// The first symbol, by its place in the model, that was counted as more than it can be.
    #[must_use]
    pub fn miscounted(&self) -> Option<usize> {
        let count = self.order.counts.get(self.miscounted.load(Ordering::Acquire))?;
        Some(count.symbol as usize)
    }

    /// Does all steps on a caller's threads: step by step, each in as many tasks as there are threads and parts for.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the pool left tasks out.
    pub fn on<T>(&mut self, pool: &dyn Parallel) -> Result<(), Error<T>> {
        let run = &*self;
        for event in run.events(0, run.parts.len()) {
            let Event::Step(step) = event else {
                // SAFETY: `Parallel` returned from every step before.
                unsafe { run.between(event) };
                continue;
            };
            let parts = run.parts[step] as usize;
            let tasks = parts.min(run.threads);
            let done = AtomicUsize::new(0);
            let task = |task: usize| {
                if task < tasks {
                    let _flush = FlushDenormals::new();
                    for part in parts * task / tasks..parts * (task + 1) / tasks {
                        // SAFETY: `Parallel` calls each index once, and returned from every step before.
                        unsafe { run.share(step, part, task) };
                    }
                    done.fetch_add(1, Ordering::AcqRel);
                }
            };
            if tasks == 1 {
                task(0);
            } else {
                pool.parallel(tasks, &task);
            }
            if done.load(Ordering::Acquire) != tasks {
                return Err(Error::InvalidArgument("the caller's pool did not run every task"));
            }
        }
        Ok(())
    }

    /// The steps up to [`Run::parallel_end`], together with the other threads that call it, as many as come: when it
    /// returns, these steps are complete. `wait` returns when a condition holds, and looks again whenever any thread has
    /// called `open`.
    ///
    /// # Safety
    /// The run outlives the call, and no other thread has this number.
    pub unsafe fn walk(&self, thread: usize, wait: impl Fn(&dyn Fn() -> bool), open: impl Fn()) {
        loop {
            let turn = self.turns.now();
            // By the time it is read the turn may be over: then nothing of it can be taken, and when this says that all is
            // done, it is.
            let step = self.shared[turn as usize % 2].load(Ordering::Acquire);
            let shares = match step {
                NO_STEP => return,
                START => 1,
                step => self.parts[step],
            };
            let parts = shares.min(LANES);
            let preferred = (thread * parts as usize / self.threads) as u32;
            while let Some(part) = self.turns.take(turn, parts, preferred) {
                if step != START {
                    for share in (part..shares).step_by(LANES as usize) {
                        // SAFETY: the part is this thread's alone, and all turns before are complete.
                        unsafe { self.share(step, share as usize, thread) };
                    }
                }
                if self.turns.finish(parts) {
                    // SAFETY: the turn is complete and the next one is not open.
                    let next = unsafe { self.go_on(thread) };
                    self.shared[turn.wrapping_add(1) as usize % 2].store(next, Ordering::Release);
                    self.turns.open_next(turn);
                    open();
                }
            }
            wait(&|| self.turns.passed(turn));
        }
    }

    /// Does what is not shared, up to the next step that is.
    ///
    /// # Safety
    /// No turn is open, and only one thread calls this.
    unsafe fn go_on(&self, thread: usize) -> usize {
        // SAFETY: the caller's promise.
        let cursor = unsafe { &mut *self.cursor.get() };
        for event in cursor {
            match event {
                Event::Step(step) if self.parts[step] > 1 => return step,
                // SAFETY: all steps before are complete.
                event => unsafe { self.happen(event, 0, thread) },
            }
        }
        NO_STEP
    }

    /// The steps behind [`Run::parallel_end`], which have one share each.
    ///
    /// # Safety
    /// All steps before are complete, and no other thread runs.
    pub unsafe fn rest(&self) {
        for event in self.events(self.parallel_end(), self.parts.len()) {
            // SAFETY: this is the only thread.
            unsafe { self.happen(event, 0, 0) };
        }
    }

    /// Share `part` of an event.
    ///
    /// # Safety
    /// That of [`Run::share`] or [`Run::between`].
    unsafe fn happen(&self, event: Event, part: usize, thread: usize) {
        match event {
            // SAFETY: as the caller promised.
            Event::Step(step) => unsafe { self.share(step, part, thread) },
            // SAFETY: as the caller promised.
            _ => unsafe { self.between(event) },
        }
    }

    /// Moves the buffers of a loop, or reads a symbol.
    ///
    /// # Safety
    /// No step is under way, and no other thread moves buffers or reads symbols.
    unsafe fn between(&self, event: Event) {
        let (index, iteration, back) = match event {
            Event::Step(_) => return,
            Event::Count(index) => {
                let count: &Count = &self.order.counts[index];
                let at = self.buffers[count.buffer as usize].get().cast::<i64>();
                // A second half of a state begins where the first ends, by what is counted from now on; no loop that this
                // concerns is under way.
                self.move_halves(false);
                // SAFETY: `Tables` checked the indices, and the compiler made sure that there is a number, which the steps
                // before have written. Nobody reads the tables now.
                let legal = unsafe {
                    // Where a step has failed nobody has written it.
                    let failed = self.failed.load(Ordering::Acquire) != NO_STEP;
                    let value = if failed { 0 } else { at.read() };
                    self.tables.count(count, value, self.sizes) || failed
                };
                self.move_halves(true);
                if !legal {
                    self.miscounted.fetch_min(index, Ordering::AcqRel);
                }
                // SAFETY: the caller's promise.
                unsafe { self.count_iterations() };
                return;
            }
            Event::Advance(index, iteration) => (index, iteration, false),
            Event::Rewind(index, iteration) => (index, iteration, true),
        };
        let Loop {
            first_move, move_count, ..
        } = self.order.loops[index];
        for at in first_move as usize..first_move as usize + move_count as usize {
            let (m, moved) = (&self.moves[at], &self.moved[at]);
            // SAFETY: `Tables` checked the index; nobody writes the table now.
            let bytes = unsafe { *self.tables.dims.add(m.bytes as usize) };
            let forward = match m.kind {
                _ if back => moved.get().wrapping_neg(),
                MOVE_ADVANCE => bytes,
                // Nothing is below the first half and above the second.
                kind if (kind == MOVE_FORTH) == (iteration % 2 != 0) => bytes.wrapping_neg(),
                _ => bytes,
            };
            moved.set(moved.get().wrapping_add(forward));
            let buffer = &self.buffers[m.buffer as usize];
            buffer.set(buffer.get().wrapping_offset(forward as isize));
        }
    }

    /// Moves the buffers that begin in a second half by the size of the first, or back to it.
    fn move_halves(&self, forward: bool) {
        for m in self.moves.iter().filter(|m| m.kind == MOVE_BACK) {
            // SAFETY: `Tables` checked the index; nobody writes the table now.
            let bytes = unsafe { *self.tables.dims.add(m.bytes as usize) } as isize;
            let buffer = &self.buffers[m.buffer as usize];
            buffer.set(buffer.get().wrapping_offset(if forward { bytes } else { -bytes }));
        }
    }

    /// Share `part` of one step.
    ///
    /// # Safety
    /// `part` is below the step's number of parts and done once, the steps before are complete, and `thread`, below the
    /// number of threads, is that of the calling thread alone.
    pub unsafe fn share(&self, step: usize, part: usize, thread: usize) {
        // Where a step has failed nothing runs any more: a rule that does not hold may be what keeps others in bounds.
        if self.failed.load(Ordering::Acquire) != NO_STEP {
            return;
        }
        let Step {
            kernel,
            first_buffer,
            first_dim,
            ..
        } = self.steps[step];
        // SAFETY: `Tables` checked that the step's slices begin inside the tables, and the compiler made them as long
        // as the kernel reads; scratch and shares as the caller promised.
        let status = unsafe {
            kernel(
                self.buffers.as_ptr().add(first_buffer as usize).cast(),
                self.tables.dims.add(first_dim as usize).cast_const(),
                part as i64,
                i64::from(self.parts[step]),
                self.scratch.add(thread * self.scratch_stride),
            )
        };
        if status != 0 {
            // Steps are one after the other: nobody fails in another one at the same time.
            self.broken.fetch_or(status == KERNEL_RULE_BROKEN, Ordering::AcqRel);
            self.failed.fetch_min(step, Ordering::AcqRel);
        }
    }
}

/// [`Run::parallel_end`].
fn parallel_end(parts: &[u32], loops: &[Loop]) -> usize {
    let last = parts.iter().rposition(|&parts| parts > 1);
    let end = last.map_or(0, |last| last + 1);
    let ends = loops.iter().filter_map(|l| {
        let first = l.first_step as usize;
        (first < end).then_some(first + l.step_count as usize)
    });
    ends.fold(end, usize::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_steps_get_few_threads() {
        assert_eq!(parts_for(0, 8), 1);
        assert_eq!(parts_for(-5, 8), 1);
        assert_eq!(parts_for(2 * WORK_PER_THREAD - 1, 8), 1);
        assert_eq!(parts_for(3 * WORK_PER_THREAD, 8), 3);
        assert_eq!(parts_for(8 * LONG_SHARE - 1, 8), 8);
        assert_eq!(parts_for(16 * LONG_SHARE, 8), 16);
        assert_eq!(parts_for(i64::MAX, 8), 32);
        assert_eq!(parts_for(i64::MAX, 1), 1);
        assert_eq!(parts_for(i64::MAX, 0), 1);
    }
}
