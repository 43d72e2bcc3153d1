//! A profile that a compiled program wrote, as data for the page. Only that of the same program says anything.

use std::path::Path;

use cameo_kernel::memory::MemoryPlan;
use cameo_kernel::program::Program;
use serde_json::Value;

use crate::{Diagnostic, Diagnostics};

/// What the programs of this compiler write.
const FORMAT: &str = "cameo-profile-1";

/// What the page shows of a step, numbers all of them, or `null` where there is none to tell.
const NUMBERS: [&str; 10] = [
    "calls",
    "shares",
    "median_ms",
    "share",
    "balance",
    "flops_per_byte",
    "gflop_per_s",
    "gb_per_s",
    "roofline",
    "total_ms",
];

/// Reads a profile of a program.
///
/// # Errors
/// When it cannot be read, is none, or is that of another program.
pub fn read(path: &Path, program: &Program, plan: &MemoryPlan) -> Result<Value, Diagnostics> {
    let bytes = std::fs::read(path).map_err(|e| Diagnostic::file(path, &e))?;
    parse(&bytes, program, plan).map_err(|(what, help)| {
        let d = Diagnostic::invalid(format!("{}: {what}", path.display()));
        d.help(help).into()
    })
}

/// The profile in a file, or what is wrong with it and what to do.
fn parse(bytes: &[u8], program: &Program, plan: &MemoryPlan) -> Result<Value, (String, &'static str)> {
    let foreign = |what: &str| (what.to_owned(), "`./model --profile FILE` writes one");
    let mut profile: Value = serde_json::from_slice(bytes).map_err(|_| foreign("this is no profile"))?;
    if profile["format"] != FORMAT {
        return Err(foreign("this is no profile of a program of this compiler"));
    }
    let fingerprint = format!("{:016x}", cameo_codegen::profile::fingerprint(program, plan));
    if profile["fingerprint"] != *fingerprint {
        let found = profile["fingerprint"].as_str().unwrap_or("none").to_owned();
        return Err((
            format!(
                "this is the profile of another program: its fingerprint is {found}, that of this one {fingerprint}"
            ),
            "give the same model, `--dim`, `--outputs`, `--slice`, `--freeze-input`, `--disable-pass`, `--cpu` and `--target` \
             as to `cameo compile --profile`, by the same compiler",
        ));
    }
    let number = |v: &Value| v.is_number() || v.is_null();
    let members = [&profile["run"], &profile["totals"], &profile["machine"]];
    let steps = profile["steps"].as_array().filter(|s| s.len() == program.steps.len());
    let whole = steps.is_some_and(|steps| {
        steps
            .iter()
            .all(|s| NUMBERS.iter().all(|key| s.get(key).is_some_and(number)))
    }) && members.iter().all(|v| v.is_object())
        && profile["symbols"].is_object();
    if !whole {
        return Err(foreign("the profile is damaged"));
    }
    // The page has them already.
    for step in profile["steps"].as_array_mut().into_iter().flatten() {
        step.as_object_mut().map(|s| s.remove("nodes"));
    }
    Ok(profile)
}
