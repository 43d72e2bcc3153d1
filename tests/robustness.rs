//! Any bytes give a program or diagnostics: mutated model files through everything that `cameo inspect --optimized` does.
//!
//! `CAMEO_FUZZ` is the number of cases (2,000 without it), `CAMEO_FUZZ_FIRST` the first one's number,
//! `CAMEO_FUZZ_SEEDS` a folder with more models to mutate. The same number gives the same case. A case that ends the whole
//! process (stack overflow, hang) leaves its model in the target folder.

#[path = "robustness/growth.rs"]
mod growth;
#[expect(dead_code, reason = "the importer's tests build more kinds of models")]
#[path = "../compiler/onnx/tests/onnx/models.rs"]
mod models;
#[path = "../compiler/onnx/tests/onnx/mutate.rs"]
mod mutate;
#[path = "../compiler/onnx/tests/onnx/seeds.rs"]
mod seeds;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cameo::{Diagnostics, Options, pipeline};
use cameo_kernel::targets::x86_64;
use cameo_onnx::proto::ModelProto;
use prost::Message;

/// What a case may take: on usual machines none takes a second, and one that multiplies would not end.
const TIME: Duration = Duration::from_secs(4);
/// What the whole process may hold, in KiB.
const MEMORY: u64 = 512 << 10;
/// The watchdog ends the process after this, many times [`TIME`]: such a case would not end by itself.
const HANG: Duration = Duration::from_secs(30);

/// How far a case came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    Refused,
    Imported,
    Optimized,
    Program,
}

/// The library calls of `cameo inspect --optimized`, in its order.
fn inspect(model: &Path, options: &Options) -> (Stage, Option<Diagnostics>) {
    let silent = &mut |_: cameo::Event| {};
    let mut graph = match pipeline::import(model, options, silent) {
        Ok(graph) => graph,
        Err(problems) => {
            let _ = cameo::excerpt::Source::open(model).map(|s| s.operators());
            return (Stage::Refused, Some(problems));
        }
    };
    if let Err(problems) = pipeline::optimize(&mut graph, options, silent) {
        return (Stage::Imported, Some(problems));
    }
    match pipeline::partition(&graph, &x86_64::V4, &Options::default(), silent) {
        Ok(program) => {
            let flops = program
                .steps
                .iter()
                .fold(cameo_ir::Dim::ZERO, |a, s| a + s.flops.clone());
            assert!(!flops.to_string().is_empty());
            (Stage::Program, None)
        }
        Err(problems) => (Stage::Optimized, Some(problems.with_source(model))),
    }
}

/// The models that are mutated: small ones with many kinds of operators, and a real one.
fn all_seeds() -> Vec<ModelProto> {
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits/digits.onnx");
    let digits = std::fs::read(digits).expect("the example's model");
    let mut all = seeds::seeds();
    all.push(ModelProto::decode(bytes::Bytes::from(digits)).expect("a model"));
    let more = std::env::var_os("CAMEO_FUZZ_SEEDS").map(|d| std::fs::read_dir(d).expect("a folder"));
    let mut more: Vec<_> = more
        .into_iter()
        .flatten()
        .map(|e| e.expect("an entry").path())
        .collect();
    more.sort();
    for path in more {
        let model = std::fs::read(path).expect("a model");
        all.push(ModelProto::decode(bytes::Bytes::from(model)).expect("a model"));
    }
    all
}

fn variable(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// A line of `/proc/self/status`, in KiB; Linux only.
fn memory(line: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with(line))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Time that this thread had a core: other processes' work on the machine is not this one's fault. Elsewhere than on Linux the
/// time since `start`.
fn spent(start: Instant) -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = stat.and_then(|s| s.split_whitespace().next()?.parse().ok());
    nanoseconds.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// Ends the process, with the case's number, when a case takes too long or too much.
fn watch(running: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let now = running.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            // Beyond twice the limit nothing is learned by waiting, and other processes suffer.
            let fat = memory("VmRSS:").is_some_and(|kb| kb > 2 * MEMORY);
            if fat || since.elapsed() > HANG {
                eprintln!("case {now}: {}", if fat { "memory" } else { "hang" });
                std::process::abort();
            }
        }
    });
}

#[test]
fn the_seeds_become_programs() {
    let dir = mutate::folder();
    for (i, m) in all_seeds().iter().enumerate() {
        let path = dir.path().join("model.onnx");
        std::fs::write(&path, m.encode_to_vec()).expect("write");
        let (stage, problems) = inspect(&path, &Options::default());
        assert_eq!(
            stage,
            Stage::Program,
            "seed {i}: {}",
            problems.map(|p| p.to_string()).unwrap_or_default()
        );
    }
}

/// Small models whose meaning is large: what is exponential somewhere would not end here.
#[test]
fn what_grows_is_bounded() {
    let dir = mutate::folder();
    let path = dir.path().join("model.onnx");
    let running = Arc::new(AtomicU64::new(0));
    watch(running.clone());
    let (mut wrong, start) = (vec![], Instant::now());
    for (i, (name, m)) in growth::models().into_iter().enumerate() {
        // Before, so that the last line names what ends the process.
        println!("{name}");
        running.store(i as u64, Ordering::Relaxed);
        std::fs::write(&path, m.encode_to_vec()).expect("write");
        let before = spent(start);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let (stage, problems) = inspect(&path, &Options::default());
            (stage, problems.map(|p| p.to_string()))
        }));
        let took = spent(start) - before;
        let peak = memory("VmHWM:").map(|kb| kb >> 10);
        match result {
            Ok((stage, said)) => {
                let said = said.iter().flat_map(|s| s.lines()).next().unwrap_or_default();
                println!("    {stage:?}, {took:?}, {peak:?} MB {said:.200}");
                if took > TIME || said.contains("internal error") {
                    wrong.push((name, took));
                }
            }
            Err(_) => wrong.push((name, took)),
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    let peak = memory("VmHWM:");
    assert!(peak.is_none_or(|kb| kb < MEMORY), "{peak:?} KiB");
}

#[test]
fn mutated_models_are_inspected() {
    let (cases, first) = (variable("CAMEO_FUZZ", 2_000), variable("CAMEO_FUZZ_FIRST", 0));
    let dir = mutate::folder();
    let (seeds, ops) = (
        all_seeds(),
        cameo_ir::ops::all().map(cameo_ir::Op::name).collect::<Vec<_>>(),
    );
    let left = Path::new(env!("CARGO_TARGET_TMPDIR")).join("robustness.onnx");
    let path = dir.path().join("model.onnx");
    let running = Arc::new(AtomicU64::new(0));
    watch(running.clone());
    let place = Arc::new(Mutex::new(String::new()));
    let hook = std::panic::take_hook();
    let at = place.clone();
    std::panic::set_hook(Box::new(move |info| {
        if let Ok(mut p) = at.lock() {
            *p = info.to_string().replace('\n', " ");
        }
    }));
    let (mut panics, mut slow) = (BTreeMap::<String, (u64, u64)>::new(), vec![]);
    let (mut stages, mut internal) = (BTreeMap::<Stage, u64>::new(), BTreeMap::<String, u64>::new());
    let (mut worst, mut fat, start) = ((Duration::ZERO, 0), vec![], Instant::now());
    for number in first..first + cases {
        let (bytes, import) = mutate::case(number, &seeds, &ops);
        let options = Options {
            dims: import.dims,
            outputs: import.outputs,
            ..Options::default()
        };
        std::fs::write(&path, &bytes).expect("write");
        std::fs::write(&left, &bytes).expect("write");
        running.store(number, Ordering::Relaxed);
        let held = memory("VmHWM:");
        let before = spent(start);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let (stage, problems) = inspect(&path, &options);
            // What the user would see; it names things from the file.
            (stage, problems.map(|p| p.to_string()))
        }));
        let took = spent(start) - before;
        match result {
            Ok((stage, said)) => {
                *stages.entry(stage).or_default() += 1;
                assert_eq!(stage == Stage::Program, said.is_none(), "case {number}");
                let said = said.unwrap_or_default();
                if let Some(bug) = said.lines().find(|l| l.contains("internal error")) {
                    internal.entry(bug.to_owned()).or_insert(number);
                }
            }
            Err(_) => {
                let what = place.lock().map(|p| p.clone()).unwrap_or_default();
                panics.entry(what).or_insert((number, 0)).1 += 1;
            }
        }
        worst = worst.max((took, number));
        if took > TIME {
            slow.push((number, took));
        }
        // More than a case of this size can need; the whole process's limit is checked below.
        if let (Some(held), Some(after)) = (held, memory("VmHWM:"))
            && after > held + (32 << 10)
        {
            fat.push((number, (after - held) >> 10));
        }
    }
    std::panic::set_hook(hook);
    for (what, (number, times)) in &panics {
        println!("case {number} (and {} more): {what}", times - 1);
    }
    let peak = memory("VmHWM:");
    println!(
        "{cases} cases from {first}: {stages:?}; slowest {:?}; peak {:?} MB; growth {fat:?}",
        worst,
        peak.map(|kb| kb >> 10)
    );
    assert!(panics.is_empty(), "{} panics", panics.len());
    assert!(slow.is_empty(), "over {TIME:?}: {slow:?}");
    assert!(internal.is_empty(), "{internal:#?}");
    assert!(peak.is_none_or(|kb| kb < MEMORY), "{peak:?} KiB");
    // Mutations that are always refused early would test nothing.
    let programs = stages.get(&Stage::Program).copied().unwrap_or(0);
    assert!(programs * 50 > cases, "only {programs} of {cases} become programs");
}
