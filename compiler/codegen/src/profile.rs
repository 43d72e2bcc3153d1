//! Timers: what `cameo compile --profile` adds to the tables of an executable.
//!
//! ```text
//! step ──▶ NAME_s3 ──▶ cameo_profile_step(3, NAME_k1, …) ──▶ NAME_k1      instead of      step ──▶ NAME_k1
//! ```
//!
//! Kernels, their schedules and the way that steps are divided among threads are the same with timers and without.

use std::fmt::Write;

use cameo_abi::WeightsHasher;
use cameo_kernel::memory::MemoryPlan;
use cameo_kernel::print;
use cameo_kernel::program::Program;

use crate::tables::{Strings, constant};

/// Identifies a program by its kernels with their schedules, its steps and its memory; not by its weights.
#[must_use]
pub fn fingerprint(program: &Program, plan: &MemoryPlan) -> u64 {
    let mut hasher = WeightsHasher::default();
    hasher.update(print::program(program, plan).as_bytes());
    hasher.finish()
}

/// The structs of `cameo_abi`, field by field, and the timer.
pub(crate) const TYPES: &str = "\
%ProfileStep = type { i32, i32, i32, i32, %Slice, %Slice }
%ProfileDesc = type { i64, %Slice }
declare i32 @cameo_profile_step(i64, ptr, ptr, ptr, i64, i64, ptr)
";

/// What step `step` calls instead of `kernel`.
pub(crate) fn timed(out: &mut String, name: &str, step: usize, kernel: &str) -> String {
    let symbol = format!("{name}_s{step}");
    // Writing to strings cannot fail.
    let _ = write!(
        out,
        "define internal i32 @{symbol}(ptr %b, ptr %d, i64 %part, i64 %parts, ptr %s) {{\n  \
           %r = tail call i32 @cameo_profile_step(i64 {step}, ptr @{kernel}, ptr %b, ptr %d, i64 %part, i64 %parts, ptr %s)\n  \
           ret i32 %r\n}}\n"
    );
    symbol
}

/// The descriptor `<name>_profile`; `places` has the indices of FLOPs, read and written bytes of each step.
pub(crate) fn descriptor(
    out: &mut String,
    strings: &mut Strings,
    name: &str,
    program: &Program,
    places: &[[u32; 3]],
    fingerprint: u64,
) {
    let mut rows = vec![];
    for (i, (step, [flops, read, written])) in program.steps.iter().zip(places).enumerate() {
        let nodes = step.origin.names().iter();
        let nodes: Vec<String> = nodes.map(|node| strings.add(name, node)).collect();
        let nodes = constant(out, name, &format!("nodes{i}"), "%Slice", &nodes);
        let kind = strings.add(name, program.kernels[step.kernel].body.kind());
        rows.push(format!(
            "%ProfileStep {{ i32 {}, i32 {flops}, i32 {read}, i32 {written}, {kind}, {nodes} }}",
            step.kernel
        ));
    }
    let steps = constant(out, name, "profile_steps", "%ProfileStep", &rows);
    let _ = writeln!(
        out,
        "@{name}_profile = internal constant %ProfileDesc {{ i64 {fingerprint}, {steps} }}, align 8"
    );
}
