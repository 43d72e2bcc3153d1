//! Random graphs: interpreter on the graph = interpreter on the graph after all passes = compiled code, with and without
//! the passes.
//!
//! `CAMEO_FUZZ` is the number of graphs (150 without it), `CAMEO_FUZZ_FIRST` the first one's seed. The same seed gives the
//! same graph. What fails is shrunk and printed in the text form.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use cameo_ir::random::{self, Rng};
use cameo_ir::{Graph, Tensor, interp, shrink, text};
use cameo_tests::model::optimized;
use cameo_tests::{Choices, Model};

/// Compilations that shrinking may take: it is for a reader, half a minute is enough.
const SHRINK_CALLS: usize = 400;

/// Shapes and inputs that every graph is run with.
const RUNS: u64 = 3;

/// A kind of failure, so that shrinking does not wander from one defect to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Passes,
    PassesChangeResults,
    Compile,
    Run,
    Wrong,
}

type Failure = (Stage, String);

fn caught<T>(stage: Stage, f: impl FnOnce() -> Result<T, String>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|e| (stage, e)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err((stage, format!("panic: {}", text.unwrap_or_default())))
        }
    }
}

fn same(stage: Stage, want: &[Tensor], got: &[Tensor], inputs: &[Tensor]) -> Result<(), Failure> {
    for (i, (w, g)) in want.iter().zip(got).enumerate() {
        if !random::agree(w, g) {
            return Err((stage, format!("output {i}\nwant {w:?}\ngot  {g:?}\ninputs {inputs:?}")));
        }
    }
    Ok(())
}

/// The number of runs that had an answer to compare with.
fn check(g: &Graph, seed: u64) -> Result<usize, Failure> {
    // Narrower vectors have other tails; all run on the machines that tests run on.
    let cpu = match seed % 4 {
        0 => "x86-64-v3",
        2 => "x86-64-v2",
        _ => "native",
    };
    let passes = !seed.is_multiple_of(3);
    let better = caught(Stage::Passes, || optimized(g))?;
    let model = caught(Stage::Compile, || Model::new(g, &Choices::new(passes, cpu)))?;
    let mut r = Rng::new(seed);
    let mut compared = 0;
    for k in 0..RUNS {
        let binding = random::symbol_values(g, &mut r);
        let inputs = random::inputs(g, &mut r, &binding);
        let Some(want) = random::expected(g, &inputs) else {
            continue;
        };
        let again = caught(Stage::Passes, || {
            interp::run(&better, &inputs).map_err(|e| e.to_string())
        })?;
        same(Stage::PassesChangeResults, &want, &again, &inputs)?;
        let threads = 1 + (k % 2) as usize;
        let got = caught(Stage::Run, || {
            model.run(&inputs, threads).map_err(|e| format!("{e}, {inputs:?}"))
        })?;
        same(Stage::Wrong, &want, &got, &inputs)?;
        compared += 1;
    }
    Ok(compared)
}

/// What is wrong, with the smallest graph of which the same is wrong.
fn explain(g: &Graph, seed: u64, (stage, message): &Failure) -> String {
    let mut keep = |g: &Graph| check(g, seed).err().is_some_and(|f| f.0 == *stage);
    let small = shrink::shrink_within(g, SHRINK_CALLS, &mut keep);
    let message = check(&small, seed).err().map_or(message.clone(), |f| f.1);
    let message: String = message.chars().take(1500).collect();
    format!("seed {seed}: {stage:?}\n{}\n{message}\n", text::print(&small))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn random_graphs() {
    let (count, first) = (number("CAMEO_FUZZ", 150), number("CAMEO_FUZZ_FIRST", 0));
    let (mut compared, mut failures, mut stages) = (0, vec![], BTreeMap::new());
    for seed in first..first + count {
        let options = random::Options {
            nodes: 4 + (seed % 9) as usize,
            inputs: 1 + (seed % 3) as usize,
            ..random::Options::default()
        };
        let g = random::graph(seed, &options);
        match check(&g, seed) {
            Ok(n) => compared += n,
            Err(failure) => {
                let seen = stages.entry(failure.0).or_insert(0);
                *seen += 1;
                // One defect often shows many times.
                failures.push(if *seen <= 5 {
                    explain(&g, seed, &failure)
                } else {
                    format!("seed {seed}: {:?}", failure.0)
                });
                println!("{}", failures[failures.len() - 1]);
            }
        }
    }
    println!("{count} graphs, {compared} runs compared, failures {stages:?}");
    assert!(
        failures.is_empty(),
        "{} failures: {stages:?}\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(compared as u64 > count / 2, "few of the runs have answers: {compared}");
}
