//! `cameo tune`: measures the schedules that products could have, and writes the best of them to a file.
//!
//! Every program that is tried has one register tile and one block in all of its products, and timers: one build and one run
//! measure a candidate in every step at once. What is chosen is better than the default by more than measurements differ, in
//! that step's own time, and is so again when both programs run in turns: machines have faster and slower minutes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cameo_codegen::Level;
use cameo_ir::{Graph, Tensor};
use cameo_kernel::tuning::{Choice, Tuning};
use serde_json::Value;

use super::compile::stem;
use super::{Done, Failure, TuneArgs, arrays, show};
use crate::{Diagnostic, Diagnostics, Options, Output, Target, artifact, pipeline};

/// What a candidate must be faster by: the same kernel differs by less from run to run.
const BETTER: f64 = 0.98;

/// A program measures for about this long.
const MEASURE: Duration = Duration::from_millis(400);

/// Rounds of the comparisons at the end.
const ROUNDS: usize = 5;

/// Milliseconds of the steps by the keys of their products; equal ones are summed.
type Steps = BTreeMap<String, f64>;

pub fn main(args: &TuneArgs) -> Done {
    let begin = Instant::now();
    if args.model.choices.tuning.is_some() {
        return Err(Failure::Usage(
            "`tune` measures against the processor's table: leave `--tuning` out".into(),
        ));
    }
    let options = args.model.options()?;
    let source = |d: Diagnostics| d.with_source(&args.model.model);
    let mut graph = pipeline::import(&args.model.model, &options, &mut |_| {})?;
    let mut inputs = arrays::feed(&graph, &args.feed).map_err(source)?;
    if args.feed.inputs.is_none() {
        inputs.iter_mut().for_each(small);
    }
    let folder = tempfile::tempdir().map_err(|e| Diagnostic::io(format!("no temporary folder: {e}")))?;
    let feeds = folder.path().join("x.npz");
    let names = graph.inputs().iter().map(|v| graph.value(*v).name.to_string());
    arrays::write(&feeds, &names.zip(&inputs).collect::<Vec<_>>())?;
    pipeline::optimize(&mut graph, &options, &mut |_| {}).map_err(source)?;
    let bench = Bench {
        graph,
        options,
        target: args.target.target(),
        threads: args.threads,
        feeds,
        folder: folder.path().to_owned(),
        op_library: args.op_library.clone(),
    };

    let target = artifact::kernel_target(&bench.target.machine()?);
    let first = bench
        .build(None, "default", true)
        .and_then(|p| bench.measure(&p))
        .map_err(source)?;
    if first.is_empty() {
        show("no step of this model is a product with a schedule to choose\n");
        return Ok(ExitCode::SUCCESS);
    }
    // All tiles first: blocks matter less.
    let mut candidates = vec![];
    for block in [1 << 20, 64, 192] {
        candidates.extend(target.tiles.iter().map(|t| Choice {
            rows: t.mr,
            columns: t.nv * target.lanes,
            block,
        }));
    }
    let mut best: BTreeMap<&str, (f64, Option<Choice>)> =
        first.iter().map(|(k, ms)| (k.as_str(), (*ms, None))).collect();
    let mut tried = 0;
    for candidate in &candidates {
        if begin.elapsed().as_secs_f64() > args.budget {
            break;
        }
        let mut all = Tuning::new(target);
        all.otherwise = Some(*candidate);
        let measured = bench
            .build(Some(all), "tried", true)
            .and_then(|p| bench.measure(&p))
            .map_err(source)?;
        for (name, now) in &measured {
            if let Some((ms, choice)) = best.get_mut(name.as_str())
                && *now < *ms * if choice.is_none() { BETTER } else { 1.0 }
            {
                (*ms, *choice) = (*now, Some(*candidate));
            }
        }
        tried += 1;
    }
    // Steps may share products: what the first chose stays.
    let mut choices: Vec<(&str, Choice)> = vec![];
    for (name, (_, choice)) in best {
        let shares = |(other, _): &(&str, Choice)| other.split("; ").any(|key| name.split("; ").any(|k| k == key));
        if let Some(choice) = choice.filter(|_| !choices.iter().any(shares)) {
            choices.push((name, choice));
        }
    }
    let (mut tuning, gains) = bench.confirm(target, &choices).map_err(source)?;
    show(&format!(
        "{tried} of {} candidates measured in {:.0} s, {} threads; steps with a better schedule: {} of {}\n",
        candidates.len(),
        begin.elapsed().as_secs_f64(),
        args.threads,
        gains.len(),
        first.len(),
    ));
    gains.iter().for_each(|gain| show(gain));
    if !tuning.is_empty() {
        let (default, tuned) = bench.compare(tuning.clone()).map_err(source)?;
        show(&format!(
            "the whole model: {default:.4} ms before, {tuned:.4} ms after, {:+.1} %\n",
            (tuned / default - 1.0) * 100.0
        ));
        if tuned > default {
            show("that is no gain: the file chooses nothing\n");
            tuning = Tuning::new(target);
        }
    }
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{}.tuning", stem(&args.model.model))));
    std::fs::write(&path, tuning.to_string()).map_err(|e| Diagnostic::file(&path, &e))?;
    Ok(ExitCode::SUCCESS)
}

/// Makes integers 0 or 1: made-up ones may be indices, of which these exist in most tables.
fn small(t: &mut Tensor) {
    if t.dtype().is_int() {
        let bits = t.to_i64().into_iter().map(|x| x & 1);
        *t = Tensor::from_i64(t.dtype(), t.shape(), bits.collect::<Vec<_>>());
    }
}

/// Programs of one graph that are run on one set of inputs.
struct Bench {
    graph: Graph,
    options: Options,
    target: Target,
    threads: u32,
    feeds: PathBuf,
    folder: PathBuf,
    op_library: Option<PathBuf>,
}

/// A program, and the keys of each step's products.
struct Built {
    exe: PathBuf,
    keys: Vec<String>,
}

impl Bench {
    fn build(&self, tuning: Option<Tuning>, name: &str, profile: bool) -> Result<Built, Diagnostics> {
        let options = Options {
            tuning: tuning.map(Arc::new),
            ..self.options.clone()
        };
        let machine = self.target.machine()?;
        let program = pipeline::partition(&self.graph, artifact::kernel_target(&machine), &options, &mut |_| {})?;
        let keys = (0..program.steps.len())
            .map(|step| program.products(step).join("; "))
            .collect();
        let artifact = pipeline::generate(vec![Level { program, machine }], &options, &mut |_| {})?;
        let exe = self.folder.join(name);
        artifact.write(&Output {
            profile,
            ..Output::new(&exe)
        })?;
        Ok(Built { exe, keys })
    }

    fn run(&self, exe: &Path, more: &[&str]) -> Result<String, Diagnostics> {
        let mut command = Command::new(exe);
        command.arg("--inputs").arg(&self.feeds);
        command.arg("--threads").arg(self.threads.to_string()).args(more);
        if let Some(library) = &self.op_library {
            command.arg("--op-library").arg(library);
        }
        let done = command.output().map_err(|e| Diagnostic::file(exe, &e))?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            return Err(Diagnostic::invalid(format!(
                "the program that was measured ended with {}: {said}",
                done.status
            ))
            .into());
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// The times of a program with timers.
    fn measure(&self, p: &Built) -> Result<Steps, Diagnostics> {
        let out = self.folder.join("profile.json");
        let path = out.to_string_lossy().into_owned();
        let profile = |runs: &str| -> Result<Value, Diagnostics> {
            self.run(&p.exe, &["--profile", &path, "--runs", runs])?;
            let text = std::fs::read(&out).map_err(|e| Diagnostic::file(&out, &e))?;
            serde_json::from_slice(&text).map_err(|e| Diagnostic::io(format!("{path}: {e}")).into())
        };
        let once = profile("3")?["run"]["median_ms"].as_f64().unwrap_or(1.0).max(0.01);
        let runs = (MEASURE.as_secs_f64() * 1e3 / once).clamp(5.0, 200.0) as u32;
        let profile = profile(&runs.to_string())?;
        let mut steps = Steps::new();
        for step in profile["steps"].as_array().into_iter().flatten() {
            let (at, ms) = (step["step"].as_u64(), step["median_ms"].as_f64());
            let key = at.and_then(|at| p.keys.get(usize::try_from(at).ok()?));
            if let (Some(key), Some(ms)) = (key.filter(|k| !k.is_empty()), ms) {
                *steps.entry(key.clone()).or_default() += ms;
            }
        }
        Ok(steps)
    }

    /// The choices that are better than the default when the program with all of them and that with none run in turns, and
    /// what each gains, in words.
    fn confirm(
        &self,
        target: &cameo_kernel::Target,
        choices: &[(&str, Choice)],
    ) -> Result<(Tuning, Vec<String>), Diagnostics> {
        let (mut tuning, mut gains) = (Tuning::new(target), vec![]);
        if choices.is_empty() {
            return Ok((tuning, gains));
        }
        let mut all = Tuning::new(target);
        for (name, choice) in choices {
            name.split("; ").for_each(|key| all.choose(key, *choice));
        }
        let programs = [
            self.build(None, "default", true)?,
            self.build(Some(all), "tried", true)?,
        ];
        let mut times: [BTreeMap<String, Vec<f64>>; 2] = Default::default();
        for _ in 0..ROUNDS {
            for (program, times) in programs.iter().zip(&mut times) {
                for (name, ms) in self.measure(program)? {
                    times.entry(name).or_default().push(ms);
                }
            }
        }
        for (name, choice) in choices {
            let [was, now] = [0, 1].map(|i| times[i].get(*name).map_or(f64::NAN, |t| median(t.clone())));
            if now < was * BETTER {
                name.split("; ").for_each(|key| tuning.choose(key, *choice));
                gains.push(format!("{was:10.4} {now:10.4} ms  {name}: {choice}\n"));
            }
        }
        Ok((tuning, gains))
    }

    /// Milliseconds of a run without tuning and with it.
    fn compare(&self, tuning: Tuning) -> Result<(f64, f64), Diagnostics> {
        let programs = [
            self.build(None, "default", false)?,
            self.build(Some(tuning), "tried", false)?,
        ];
        let mut times = [vec![], vec![]];
        for _ in 0..ROUNDS {
            for (program, times) in programs.iter().zip(&mut times) {
                let said = self.run(&program.exe, &["--bench", "--runs", "15", "--warmup", "3"])?;
                let line: Value = serde_json::from_str(said.lines().last().unwrap_or_default())
                    .map_err(|e| Diagnostic::io(format!("--bench: {e}")))?;
                times.push(line["median_ms"].as_f64().unwrap_or(f64::NAN));
            }
        }
        let [default, tuned] = times.map(median);
        Ok((default, tuned))
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
