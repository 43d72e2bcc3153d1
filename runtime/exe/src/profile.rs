//! `--profile`: how long each step takes, and how near that is to what the machine can do.
//!
//! In a program that `cameo compile --profile` wrote, steps call their kernels through [`cameo_profile_step`], once per share,
//! as the runtime would have called the kernel: how work is divided does not change. A call of a step lasts from the begin of
//! its first share to the end of its last one. Other programs refer to nothing of this file, so the linker leaves it out.
//!
//! FLOPs and bytes are those that the compiler counts; the roof is measured (see [`crate::roofline`]).
#![expect(unsafe_code, reason = "called from the model's steps, and calls their kernels")]

use crate::arguments::Arguments;
use crate::bench::median;
use crate::describe::quoted;
use crate::library::Listing;
use crate::roofline::Machine;
use crate::{Failure, Profile, exit_code, put};
use cameo_abi::{KernelFn, ModelDesc, ProfileDesc, ProfileStep, Slice, Str};
use cameo_runtime::{Context, TensorView};
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int};
use std::fmt::Write as _;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// Kernels in the table for people.
const ROWS: usize = 20;

/// Characters of a node's name in it: the end, where names differ.
const NAME: usize = 36;

/// The clock's zero, and one timer per step; set by `--profile`.
static TIMERS: OnceLock<(Instant, Box<[Timer]>)> = OnceLock::new();

/// Of one step, in nanoseconds. Relaxed operations do: the last share of a call synchronises with the others by `done`, and
/// the next call comes after it.
#[repr(align(128))]
#[derive(Default)]
struct Timer {
    /// When the call's first share began: as `!time`, so that zero is later than anything.
    begun: AtomicU64,
    /// When the last one of those that are done ended.
    ended: AtomicU64,
    done: AtomicU32,
    shares: AtomicU32,
    /// Of all calls since they were taken.
    calls: AtomicU64,
    wall: AtomicU64,
    busy: AtomicU64,
}

impl Timer {
    /// Share `begun..ended` of a call with `shares` of them.
    fn share(&self, shares: u32, begun: u64, ended: u64) {
        self.begun.fetch_max(!begun, Ordering::Relaxed);
        self.ended.fetch_max(ended, Ordering::Relaxed);
        self.busy.fetch_add(ended.saturating_sub(begun), Ordering::Relaxed);
        if self.done.fetch_add(1, Ordering::AcqRel) + 1 < shares {
            return;
        }
        let begun = !self.begun.swap(0, Ordering::Relaxed);
        let wall = self.ended.swap(0, Ordering::Relaxed).saturating_sub(begun);
        self.done.store(0, Ordering::Relaxed);
        self.shares.store(shares, Ordering::Relaxed);
        self.wall.fetch_add(wall, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Release);
    }

    /// Calls, nanoseconds from begin to end, and of all shares, since this was last asked.
    fn take(&self) -> [u64; 3] {
        [&self.calls, &self.wall, &self.busy].map(|n| n.swap(0, Ordering::Acquire))
    }
}

/// Calls a kernel for step `step` and measures it.
///
/// # Safety
/// That of the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_profile_step(
    step: usize,
    kernel: KernelFn,
    buffers: *const *mut u8,
    dims: *const i64,
    part: i64,
    parts: i64,
    scratch: *mut u8,
) -> i32 {
    // SAFETY: the caller's promise.
    let call = || unsafe { kernel(buffers, dims, part, parts, scratch) };
    let Some((zero, timer)) = TIMERS.get().and_then(|(zero, timers)| Some((zero, timers.get(step)?))) else {
        return call();
    };
    let now = || u64::try_from(zero.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let begun = now();
    let status = call();
    timer.share(u32::try_from(parts).unwrap_or(1), begun, now());
    status
}

/// `main` of an executable with timers; returns the exit code.
///
/// # Safety
/// As [`crate::cameo_exe_main`]; the compiler wrote `profile` for the same model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_profile_main(
    argc: c_int,
    argv: *const *const c_char,
    desc: &'static ModelDesc,
    operators: Option<Listing>,
    profile: &'static ProfileDesc,
) -> c_int {
    let run = |context: &mut Context, inputs: &[TensorView<'_>], arguments: &Arguments, out: &mut dyn Write| {
        run(profile, context, inputs, arguments, out)
    };
    // Opaque, or the optimiser, which sees no other profile, makes it a part of every program.
    let profile: Option<Profile<'_>> = std::hint::black_box(Some(&run));
    // SAFETY: the caller's promise.
    unsafe { exit_code(argc, argv, desc, operators, profile) }
}

/// What was measured of a step.
struct Step {
    facts: &'static ProfileStep,
    calls: u64,
    shares: u32,
    /// Of each run, ascending, in milliseconds.
    times: Vec<f64>,
    /// Of all shares together, per share that the step has.
    busy: f64,
    flops: f64,
    read: f64,
    written: f64,
}

/// What is said of a step, or of all of them.
struct Rates {
    /// FLOPs a second.
    flops: f64,
    /// Bytes a second.
    bytes: f64,
    /// The time that the machine needs at least, in the time that was needed.
    roofline: f64,
    /// What the machine needs that time for.
    limit: &'static str,
}

fn run(
    profile: &'static ProfileDesc,
    context: &mut Context,
    inputs: &[TensorView<'_>],
    arguments: &Arguments,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let facts = slice(profile.steps);
    let machine = Machine::measure(context.threads());
    let timers = || facts.iter().map(|_| Timer::default()).collect();
    let (_, timers) = TIMERS.get_or_init(|| (Instant::now(), timers()));

    let mut runs = vec![];
    let mut taken: Vec<Vec<[u64; 3]>> = vec![vec![]; timers.len()];
    for run in 0..arguments.warmup + arguments.runs {
        let start = Instant::now();
        context.run_on(inputs)?;
        let time = start.elapsed().as_secs_f64() * 1e3;
        let timed = run >= arguments.warmup;
        for (timer, taken) in timers.iter().zip(&mut taken) {
            let counts = timer.take();
            taken.extend(timed.then_some(counts));
        }
        runs.extend(timed.then_some(time));
    }

    let dim = |index: u32| context.dim(index as usize).unwrap_or(0) as f64;
    let steps: Vec<Step> = facts
        .iter()
        .zip(timers)
        .zip(&taken)
        .map(|((facts, timer), taken)| {
            let shares = timer.shares.load(Ordering::Relaxed);
            let mut times: Vec<f64> = taken.iter().map(|[_, wall, _]| *wall as f64 / 1e6).collect();
            times.sort_by(f64::total_cmp);
            Step {
                facts,
                calls: taken.first().map_or(0, |[calls, ..]| *calls),
                shares,
                times,
                busy: taken.iter().map(|[.., busy]| *busy as f64 / 1e6).sum::<f64>() / f64::from(shares.max(1)),
                flops: dim(facts.flops),
                read: dim(facts.read),
                written: dim(facts.written),
            }
        })
        .collect();
    let shapes: Vec<&[i64]> = inputs.iter().map(TensorView::shape).collect();
    let description = context.model().description();
    let symbols: Vec<(&str, i64)> = description
        .symbols()
        .map(|symbol| symbol.name)
        .zip(description.bind_symbols(&shapes)?)
        .collect();
    let measured = Measured {
        name: description.name(),
        fingerprint: profile.fingerprint,
        symbols,
        threads: context.threads(),
        warmup: arguments.warmup,
        runs,
        steps,
        machine,
    };
    if let Some(path) = &arguments.profile {
        let written = std::fs::write(path, measured.json());
        written.map_err(|error| Failure::new(&format!("{}: {error}", path.display())))?;
    }
    put(out, &measured.table())
}

/// A profile, to be told.
struct Measured {
    name: &'static str,
    fingerprint: u64,
    symbols: Vec<(&'static str, i64)>,
    threads: usize,
    warmup: usize,
    /// Milliseconds of each run, in their order.
    runs: Vec<f64>,
    steps: Vec<Step>,
    machine: Machine,
}

impl Step {
    fn median(&self) -> f64 {
        median(&self.times)
    }

    fn bytes(&self) -> f64 {
        self.read + self.written
    }

    /// Seconds that the machine needs for it at least: the computation's and the memory's. Which memory, a single call decides.
    fn bounds(&self, machine: &Machine) -> [f64; 2] {
        let calls = self.calls.max(1) as f64;
        machine
            .bounds(self.flops / calls, self.bytes() / calls)
            .map(|seconds| seconds * calls)
    }
}

impl Measured {
    /// Milliseconds of all steps, of each the median.
    fn steps_ms(&self) -> f64 {
        self.steps.iter().map(Step::median).sum()
    }

    /// The rates of steps that take `ms` together.
    fn rates(&self, steps: &[&Step], ms: f64) -> Rates {
        let seconds = ms / 1e3;
        let sum = |of: &dyn Fn(&Step) -> f64| steps.iter().map(|s| of(s)).sum::<f64>();
        let bound = |i: usize| sum(&|s| s.bounds(&self.machine)[i]);
        Rates {
            flops: sum(&|s| s.flops) / seconds,
            bytes: sum(&Step::bytes) / seconds,
            roofline: sum(&|s| s.bounds(&self.machine).into_iter().fold(0.0, f64::max)) / seconds,
            limit: if bound(0) > bound(1) { "compute" } else { "memory" },
        }
    }

    fn json(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_json(&mut out);
        out
    }

    fn write_json(&self, out: &mut String) -> std::fmt::Result {
        let symbols: Vec<String> = self
            .symbols
            .iter()
            .map(|(n, v)| format!("{}: {v}", quoted(n)))
            .collect();
        let mut sorted = self.runs.clone();
        sorted.sort_by(f64::total_cmp);
        let features: Vec<String> = cpu_features().iter().map(|f| quoted(f)).collect();
        let bandwidth = self.machine.bandwidth.iter();
        let bandwidth: Vec<String> = bandwidth
            .map(|(bytes, speed)| format!("{{\"bytes\": {bytes}, \"gb_per_s\": {}}}", number(speed / 1e9)))
            .collect();
        writeln!(
            out,
            "{{\n  \"format\": \"cameo-profile-1\",\n  \"model\": {},",
            quoted(self.name)
        )?;
        writeln!(out, "  \"fingerprint\": \"{:016x}\",", self.fingerprint)?;
        writeln!(
            out,
            "  \"symbols\": {{{}}},\n  \"threads\": {},",
            symbols.join(", "),
            self.threads
        )?;
        writeln!(out, "  \"runs\": {},\n  \"warmup\": {},", self.runs.len(), self.warmup)?;
        writeln!(
            out,
            "  \"machine\": {{\n    \"arch\": {}, \"processors\": {}, \"features\": [{}],\n    \"gflop_per_s\": {},\n    \
             \"memory\": [{}]\n  }},",
            quoted(std::env::consts::ARCH),
            cameo_runtime::allowed_cpus(),
            features.join(", "),
            number(self.machine.flops / 1e9),
            bandwidth.join(", ")
        )?;
        writeln!(
            out,
            "  \"run\": {{\"median_ms\": {}, \"min_ms\": {}, \"max_ms\": {}, \"total_ms\": {}}},",
            number(median(&sorted)),
            number(sorted[0]),
            number(sorted[sorted.len() - 1]),
            number(sorted.iter().sum())
        )?;
        let ms = self.steps_ms();
        write!(out, "  \"totals\": {{\"steps_ms\": {}, ", number(ms))?;
        self.write_amounts(out, &self.steps.iter().collect::<Vec<_>>(), ms)?;
        out.push_str("},\n  \"steps\": [");
        for (i, step) in self.steps.iter().enumerate() {
            let nodes: Vec<String> = slice(step.facts.nodes).iter().map(|n| quoted(text(*n))).collect();
            let (median, total) = (step.median(), step.times.iter().sum::<f64>());
            write!(
                out,
                "{}\n    {{\"step\": {i}, \"kernel\": {}, \"kind\": {}, \"nodes\": [{}],\n     \"calls\": {}, \"shares\": {}, \
                 \"median_ms\": {}, \"total_ms\": {}, \"share\": {}, \"balance\": {},\n     ",
                if i == 0 { "" } else { "," },
                step.facts.kernel,
                quoted(text(step.facts.kind)),
                nodes.join(", "),
                step.calls,
                step.shares,
                number(median),
                number(total),
                number(median / ms),
                number(step.busy / total),
            )?;
            self.write_amounts(out, &[step], median)?;
            out.push('}');
        }
        out.push_str("\n  ]\n}\n");
        Ok(())
    }

    /// What steps that take `ms` together compute and move, as members of an object.
    fn write_amounts(&self, out: &mut String, steps: &[&Step], ms: f64) -> std::fmt::Result {
        let rates = self.rates(steps, ms);
        let sum = |of: fn(&Step) -> f64| steps.iter().map(|s| of(s)).sum::<f64>();
        let (flops, read, written) = (sum(|s| s.flops), sum(|s| s.read), sum(|s| s.written));
        write!(
            out,
            "\"flops\": {flops:.0}, \"bytes_read\": {read:.0}, \"bytes_written\": {written:.0}, \"flops_per_byte\": {}, \
             \"gflop_per_s\": {}, \"gb_per_s\": {}, \"roofline\": {}, \"limit\": \"{}\"",
            number(flops / (read + written)),
            number(rates.flops / 1e9),
            number(rates.bytes / 1e9),
            number(rates.roofline),
            rates.limit
        )
    }

    fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_table(&mut out);
        out
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let mut sorted = self.runs.clone();
        sorted.sort_by(f64::total_cmp);
        let (run, ms) = (median(&sorted), self.steps_ms());
        let symbols: String = self.symbols.iter().map(|(n, v)| format!(", {n} = {v}")).collect();
        writeln!(
            out,
            "{}: {run:.4} ms a run (median of {}), {} threads{symbols}",
            self.name,
            self.runs.len(),
            self.threads
        )?;
        let speeds = [self.machine.bandwidth.first(), self.machine.bandwidth.last()];
        let [near, far] = speeds.map(|speed| speed.map_or(0.0, |(_, speed)| speed / 1e9));
        writeln!(
            out,
            "machine: {:.0} GFLOP/s, {near:.0} GB/s from the first cache, {far:.1} GB/s from memory\n",
            self.machine.flops / 1e9
        )?;
        writeln!(
            out,
            "{:<6} {:<11} {:>6} {:>6} {:>10} {:>7} {:>9} {:>8} {:>8}  ONNX nodes",
            "kernel", "kind", "steps", "calls", "ms", "share", "GFLOP/s", "GB/s", "roofline"
        )?;
        let row = |steps: &[&Step]| {
            let median = time(steps);
            let rates = self.rates(steps, median);
            format!(
                "{:>6} {:>6} {median:>10.4} {:>6.1}% {:>9.1} {:>8.1} {:>7.1}%",
                steps.len(),
                steps.iter().map(|s| s.calls).sum::<u64>(),
                percent(median / ms),
                shown(rates.flops / 1e9),
                shown(rates.bytes / 1e9),
                percent(rates.roofline)
            )
        };
        let kernels = self.kernels();
        let (top, rest) = kernels.split_at(kernels.len().min(ROWS));
        for steps in top {
            let (facts, row) = (steps[0].facts, row(steps));
            let nodes = steps.iter().map(|s| slice(s.facts.nodes).len()).sum();
            let node = shortened(slice(facts.nodes).first().map_or("", |n| text(*n)), nodes);
            writeln!(
                out,
                "{:<6} {:<11} {row}  {node}",
                format!("k{}", facts.kernel),
                text(facts.kind)
            )?;
        }
        if !rest.is_empty() {
            let label = format!("{} more kernels", rest.len());
            writeln!(out, "{label:<18} {}", row(&rest.concat()))?;
        }
        writeln!(out, "{:<18} {}", "all", row(&kernels.concat()))?;
        writeln!(out, "{:<32} {:>10.4}", "outside of steps", (run - ms).max(0.0))
    }

    /// The steps of each kernel, the one that takes longest first.
    fn kernels(&self) -> Vec<Vec<&Step>> {
        let mut all: BTreeMap<u32, Vec<&Step>> = BTreeMap::new();
        for step in &self.steps {
            all.entry(step.facts.kernel).or_default().push(step);
        }
        let mut all: Vec<Vec<&Step>> = all.into_values().collect();
        // Those that take as long stay in their order.
        all.sort_by(|a, b| time(b).total_cmp(&time(a)));
        all
    }
}

/// Milliseconds of steps, of each the median.
fn time(steps: &[&Step]) -> f64 {
    steps.iter().map(|s| s.median()).sum()
}

/// The end of a name, and how many more names than it there are in all.
fn shortened(name: &str, all: usize) -> String {
    let cut = name.char_indices().rev().nth(NAME - 1).map_or(0, |(at, _)| at);
    let dots = if cut > 0 { "…" } else { "" };
    let more = match all {
        0 | 1 => String::new(),
        _ => format!(" +{}", all - 1),
    };
    format!("{dots}{}{more}", &name[cut..])
}

/// A JSON number; what is none (a rate of a step that took no time) is `null`.
fn number(x: f64) -> String {
    if x.is_finite() {
        format!("{x:.6}")
    } else {
        "null".to_owned()
    }
}

/// The same for people.
fn shown(x: f64) -> f64 {
    if x.is_finite() { x } else { 0.0 }
}

fn percent(x: f64) -> f64 {
    100.0 * shown(x)
}

/// Instruction sets that decide what kernels are fast.
fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let all = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let all: [(&str, bool); 0] = [];
    all.iter()
        .filter(|(_, present)| *present)
        .map(|(name, _)| *name)
        .collect()
}

fn slice<T>(slice: Slice<T>) -> &'static [T] {
    if slice.len == 0 {
        return &[];
    }
    // SAFETY: a constant table that the compiler wrote, by the contract of `cameo_profile_main`.
    unsafe { std::slice::from_raw_parts(slice.ptr, slice.len) }
}

fn text(text: Str) -> &'static str {
    std::str::from_utf8(slice(text)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_lasts_from_its_first_share_to_its_last() {
        let timer = Timer::default();
        timer.share(3, 120, 150);
        timer.share(3, 100, 130);
        assert_eq!(timer.take(), [0, 0, 60], "the call is not done");
        timer.share(3, 110, 140);
        timer.share(1, 1000, 1001);
        assert_eq!(timer.take(), [2, 50 + 1, 31]);
        assert_eq!(timer.take(), [0, 0, 0]);
    }

    #[test]
    fn names_are_shortened_at_the_front() {
        assert_eq!(shortened("", 0), "");
        assert_eq!(shortened("conv1", 1), "conv1");
        assert_eq!(shortened("conv1", 3), "conv1 +2");
        let long = shortened("/encoder/layer.0/attention/self/query/MatMul", 1);
        assert_eq!(long, "…/layer.0/attention/self/query/MatMul");
        assert_eq!(long.chars().count(), NAME + 1);
        assert_eq!(shortened(&"ü".repeat(50), 1).chars().count(), NAME + 1);
    }

    #[test]
    fn numbers_that_are_none_are_null() {
        assert_eq!([0.5, f64::INFINITY, f64::NAN].map(number), ["0.500000", "null", "null"]);
    }
}
