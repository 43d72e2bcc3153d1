//! What the machine can do at most, measured just before a profile: FLOPs a second in registers, and bytes a second from
//! memory.
//!
//! Both are for as many threads as the program runs on, all at the same time, and the best of several tries: what others do
//! on the machine must not lower the roof. How fast bytes come depends on where they are, so it is measured for working sets
//! from the first cache to main memory, each read again and again; the roof of a step is that of the smallest working set
//! that its bytes fit into.
#![expect(unsafe_code, reason = "loops whose speed no optimiser may change are assembly")]

use std::sync::Barrier;
use std::time::Instant;

/// Bytes of the working sets, of all threads together.
const WORKING_SETS: [usize; 7] = [64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20];

/// Bytes that all threads together read in a try, at least: a millisecond's worth of the first cache.
const BYTES_PER_TRY: usize = 256 << 20;

/// Rounds of twelve fused multiplications and additions in a try, some milliseconds' worth.
const ROUNDS: u64 = 1 << 20;

const TRIES: usize = 9;

/// The roof.
pub struct Machine {
    /// FLOPs a second.
    pub flops: f64,
    /// Bytes of a working set, ascending, and bytes that are read from it a second.
    pub bandwidth: Vec<(usize, f64)>,
}

impl Machine {
    /// Measures it on this many threads; takes about a second.
    pub fn measure(threads: usize) -> Self {
        // More would only take turns.
        let threads = threads.min(cameo_runtime::allowed_cpus());
        let vectors = Vectors::widest();
        let flops = each(&tries(threads, || (), |()| compute(vectors, ROUNDS)));
        let read = |bytes: usize| {
            let lines = (bytes / threads / size_of::<Line>()).next_multiple_of(LINES).max(LINES);
            let passes = (BYTES_PER_TRY / threads / (lines * size_of::<Line>())).max(1);
            let work = |data: &Vec<Line>| {
                (0..passes).for_each(|_| read(vectors, data));
                (passes * size_of_val(&**data)) as f64
            };
            together(&tries(threads, || vec![Line([1; 8]); lines], work))
        };
        Self {
            flops,
            bandwidth: WORKING_SETS.map(|bytes| (bytes, read(bytes))).to_vec(),
        }
    }

    /// Bytes a second for a step that moves this many.
    pub fn bandwidth_for(&self, bytes: f64) -> f64 {
        let fits = self.bandwidth.iter().find(|(set, _)| bytes <= *set as f64);
        fits.or(self.bandwidth.last())
            .map_or(f64::INFINITY, |(_, speed)| *speed)
    }

    /// Seconds that the computation and the memory need at least.
    pub fn bounds(&self, flops: f64, bytes: f64) -> [f64; 2] {
        [flops / self.flops, bytes / self.bandwidth_for(bytes)]
    }
}

/// When a try began and ended, and what was done in it.
type Try = (Instant, Instant, f64);

/// Runs `work` on `threads` threads at once, each on its own state.
fn tries<S>(threads: usize, state: impl Fn() -> S + Sync, work: impl Fn(&S) -> f64 + Sync) -> Vec<[Try; TRIES]> {
    let barrier = Barrier::new(threads);
    let one = || {
        let state = state();
        [(); TRIES].map(|()| {
            barrier.wait();
            let start = Instant::now();
            let done = work(&state);
            (start, Instant::now(), done)
        })
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(one)).collect();
        let mut all = vec![one()];
        all.extend(others.into_iter().filter_map(|thread| thread.join().ok()));
        all
    })
}

/// What is done per second. A clock may be coarse, but not that coarse.
fn rate((start, end, done): Try) -> f64 {
    done / (end - start).as_secs_f64().max(1e-9)
}

/// What threads do per second that share nothing: of each the best try, since another process may take one of them away at
/// any time.
fn each(threads: &[[Try; TRIES]]) -> f64 {
    let best = |tries: &[Try; TRIES]| tries.iter().copied().map(rate).fold(0.0, f64::max);
    threads.iter().map(best).sum()
}

/// What threads do per second that share the memory: all of them in the same try, the best one.
fn together(threads: &[[Try; TRIES]]) -> f64 {
    let one = |i: usize| {
        let tries = threads.iter().map(|tries| tries[i]);
        tries
            .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1), a.2 + b.2))
            .map_or(0.0, rate)
    };
    (0..TRIES).map(one).fold(0.0, f64::max)
}

/// A cache line.
#[derive(Clone)]
#[repr(align(64))]
struct Line([u64; 8]);

/// Lines that a round of [`read`] takes.
const LINES: usize = 8;

/// The widest vectors of floats that this processor multiplies and adds at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vectors {
    /// What the compiler makes of a loop.
    Any,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Vectors {
    fn widest() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            return Self::Avx512;
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Self::Avx2;
        }
        Self::Any
    }
}

/// Multiplies and adds in registers; gives the number of FLOPs.
fn compute(vectors: Vectors, rounds: u64) -> f64 {
    /// Twelve chains: as many as hide a latency of four cycles on up to three units.
    #[cfg(target_arch = "x86_64")]
    macro_rules! chains {
        ($vector:literal) => {
            // SAFETY: `Vectors::widest` found the instructions; only the registers that are named change.
            unsafe {
                chains!(@ $vector "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11")
            }
        };
        (@ $vector:literal $($chain:literal)*) => {
            std::arch::asm!(
                $(concat!("vxorps xmm", $chain, ", xmm", $chain, ", xmm", $chain),)*
                "vxorps xmm12, xmm12, xmm12",
                "2:",
                $(concat!("vfmadd231ps ", $vector, $chain, ", ", $vector, "12, ", $vector, "12"),)*
                "dec {rounds}",
                "jnz 2b",
                "vzeroupper",
                rounds = inout(reg) rounds => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _,
                options(nomem, nostack),
            )
        };
    }
    let lanes = match vectors {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => {
            chains!("zmm");
            16.0
        }
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => {
            chains!("ymm");
            8.0
        }
        Vectors::Any => {
            let mut chains = [[1.0f32; 4]; 12];
            let factor = std::hint::black_box(0.5f32);
            for _ in 0..rounds {
                chains
                    .as_flattened_mut()
                    .iter_mut()
                    .for_each(|x| *x = *x * factor + factor);
            }
            std::hint::black_box(chains);
            4.0
        }
    };
    2.0 * 12.0 * lanes * rounds as f64
}

/// Reads memory from front to back; there is a multiple of [`LINES`], at least one.
fn read(vectors: Vectors, data: &[Line]) {
    #[cfg(target_arch = "x86_64")]
    macro_rules! loads {
        ($vector:literal, $($at:literal)*) => {{
            let range = data.as_ptr_range();
            // SAFETY: `Vectors::widest` found the instructions; a round reads `LINES` lines, of which there is a multiple.
            unsafe {
                std::arch::asm!(
                    "2:",
                    $(concat!("vmovups ", $vector, "0, [{at} + ", $at, "]"),)*
                    "add {at}, 512",
                    "cmp {at}, {end}",
                    "jb 2b",
                    "vzeroupper",
                    at = inout(reg) range.start => _,
                    end = in(reg) range.end,
                    out("xmm0") _,
                    options(readonly, nostack),
                );
            }
        }};
    }
    match vectors {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => loads!("zmm", "0" "64" "128" "192" "256" "320" "384" "448"),
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => {
            loads!("ymm", "0" "32" "64" "96" "128" "160" "192" "224" "256" "288" "320" "352" "384" "416" "448" "480");
        }
        Vectors::Any => {
            let sum = data.iter().flat_map(|line| line.0).fold(0u64, u64::wrapping_add);
            std::hint::black_box(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roof_is_that_of_the_memory_that_the_bytes_fit_into() {
        let machine = Machine {
            flops: 1e9,
            bandwidth: vec![(1000, 100.0), (10_000, 10.0)],
        };
        assert_eq!(machine.bounds(2e9, 0.0), [2.0, 0.0]);
        assert_eq!(machine.bounds(0.0, 1000.0), [0.0, 10.0]);
        assert_eq!(machine.bounds(0.0, 1001.0), [0.0, 100.1]);
        assert_eq!(machine.bounds(0.0, 1e6), [0.0, 1e5], "beyond the last: main memory");
    }

    #[test]
    fn every_kind_of_vectors_counts_what_it_does() {
        let data = vec![Line([1; 8]); 3 * LINES];
        let mut kinds = vec![Vectors::Any];
        kinds.extend(Some(Vectors::widest()).filter(|v| *v != Vectors::Any));
        for vectors in kinds {
            read(vectors, &data);
            let flops = compute(vectors, 10);
            assert!(flops >= 960.0 && flops == compute(vectors, 20) / 2.0);
        }
    }

    #[test]
    fn threads_that_share_are_counted_together() {
        let start = Instant::now();
        let at = |from: u64, to: u64, done: f64| {
            let ms = std::time::Duration::from_millis;
            [(); TRIES].map(|()| (start + ms(from), start + ms(to), done))
        };
        // One after the other.
        let tries = [at(0, 500, 1.0), at(500, 1000, 3.0)];
        assert_eq!((each(&tries), together(&tries)), (8.0, 4.0));
        let measured = super::tries(2, || 3.0, |state| *state);
        assert_eq!(measured.len(), 2);
        assert!(together(&measured) > 0.0 && each(&measured).is_finite());
    }
}
