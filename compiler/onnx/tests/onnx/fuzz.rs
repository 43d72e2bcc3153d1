//! Any bytes give a graph or problems: mutated models never panic, hang or fill the memory.
//!
//! `CAMEO_FUZZ` is the number of cases (3,000 without it). A failure names the case; the same number gives the same case.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cameo_onnx::{ImportOptions, import_bytes};
use prost::Message;

use crate::mutate::{case, folder};
use crate::seeds::seeds;

#[test]
fn the_seeds_import() {
    let dir = folder();
    let mut all = vec![];
    for m in seeds() {
        let imported = import_bytes(m.encode_to_vec().into(), Some(dir.path()), &ImportOptions::default());
        all.extend(imported.err().into_iter().flatten());
    }
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn mutated_models_give_graphs_or_problems() {
    let cases = std::env::var("CAMEO_FUZZ")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3_000u64);
    let dir = folder();
    let (seeds, ops) = (
        seeds(),
        cameo_ir::ops::all().map(cameo_ir::Op::name).collect::<Vec<_>>(),
    );
    let place = Arc::new(Mutex::new(String::new()));
    let hook = std::panic::take_hook();
    let at = place.clone();
    std::panic::set_hook(Box::new(move |info| {
        if let Ok(mut p) = at.lock() {
            *p = info.to_string().replace('\n', " ");
        }
    }));
    let (mut panics, mut slow, mut wrong, mut good) = (BTreeMap::<String, u64>::new(), vec![], vec![], 0);
    for number in 0..cases {
        let (bytes, options) = case(number, &seeds, &ops);
        let start = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| {
            import_bytes(bytes.into(), Some(dir.path()), &options)
        })) {
            Ok(Ok(g)) => {
                if let Err(e) = cameo_ir::verify::verify(&g) {
                    wrong.push((number, e));
                }
                good += 1;
            }
            Ok(Err(problems)) => assert!(!problems.is_empty(), "case {number}"),
            Err(_) => {
                let what = place.lock().map(|p| p.clone()).unwrap_or_default();
                panics.entry(what).or_insert(number);
            }
        }
        let took = start.elapsed();
        if took > Duration::from_secs(2) {
            slow.push((number, took));
        }
    }
    std::panic::set_hook(hook);
    for (what, number) in &panics {
        println!("case {number}: {what}");
    }
    assert!(panics.is_empty(), "{} panics", panics.len());
    assert!(slow.is_empty(), "{slow:?}");
    assert!(wrong.is_empty(), "graphs that the verifier refuses: {wrong:#?}");
    // Mutations that are always refused early would test nothing.
    assert!(good * 50 > cases, "only {good} of {cases} import");
    // Linux tells the most that the process ever held.
    if let Ok(status) = std::fs::read_to_string("/proc/self/status")
        && let Some(line) = status.lines().find(|l| l.starts_with("VmHWM:"))
        && let Some(kb) = line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok())
    {
        println!("{good} of {cases} import, {} MB at most", kb >> 10);
        assert!(kb < 512 << 10, "{line}");
    }
}
