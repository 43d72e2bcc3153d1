//! Random networks of layers, of which weights and masks are zero in places and results are read in parts.
//!
//! Every pass alone, and all of them, must keep what the interpreter computes, wherever that is finite: zero times infinity
//! counts as zero. `CAMEO_DISGUISES` is the number of networks, as for the disguises.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use cameo::pipeline::{self, Event, Product};
use cameo_ir::interp::{self, Binding};
use cameo_ir::random::Rng;
use cameo_ir::rewrite::{Outcome, Report};
use cameo_ir::shrink::shrink_within;
use cameo_ir::verify::verify;
use cameo_ir::{DType, Dim, Graph, Tensor, ValueId, text};
use cameo_tests::case::elements;

use super::cases;
use super::layers::Builder;

/// Passes that run alone.
const ALONE: &[&str] = &["dead_channels", "narrow", "fold_scales", "reparam", "one_hot"];

/// Rules that must apply, each in so many of a thousand networks at least.
const RULES: &[(&str, &str, usize)] = &[
    ("dead_channels", "dead channels", 100),
    ("dead_channels", "zeros", 20),
    ("narrow", "only what is read", 50),
    ("fold_scales", "scale into the weights behind it", 20),
    ("fold_scales", "shift through the products behind it", 10),
    ("reparam", "product of weights along an axis", 10),
    ("one_hot", "lookup", 10),
    ("one_hot", "lookup of pairs", 5),
];

/// Inputs for every symbol being `size`.
fn inputs(g: &Graph, size: i64, seed: u64) -> Vec<Tensor> {
    let mut r = Rng::new(seed);
    let binding: Binding = g
        .symbols
        .iter()
        .map(|(name, range)| (name.clone(), size.clamp(range.min, range.max.max(range.min))))
        .collect();
    let one = |v: &ValueId| {
        let fact = g.fact(*v);
        let extent = |d: &Dim| {
            cameo_ir::graph::bind_shape(std::slice::from_ref(d), &|n| binding.get(n).copied()).map_or(1, |s| s[0])
        };
        let shape: Vec<usize> = fact.shape.iter().map(extent).collect();
        elements(&mut r, fact.dtype, &shape, None)
    };
    g.inputs().iter().map(one).collect()
}

/// Equal wherever the first is finite, but for reordered arithmetic.
fn close(want: &Tensor, got: &Tensor) -> bool {
    let (w, g) = (want.to_f64(), got.to_f64());
    let tolerance = if want.dtype() == DType::F64 { 1e-6 } else { 1e-3 };
    let largest = w.iter().filter(|x| x.is_finite()).fold(1.0f64, |a, x| a.max(x.abs()));
    let near = |(a, b): (&f64, &f64)| !a.is_finite() || a == b || (a - b).abs() <= tolerance * largest;
    want.dtype() == got.dtype() && want.shape() == got.shape() && w.iter().zip(&g).all(near)
}

/// Whether errors of a few roundings stay small.
fn stable(g: &Graph, inputs: &[Tensor], want: &[Tensor]) -> bool {
    let mut r = Rng::new(1);
    let mut odd = false;
    (0..3).all(|_| {
        let disturbed = interp::run_disturbed(g, inputs, &mut |_, t| {
            let error = match t.dtype() {
                DType::F32 => 2f64.powi(-20),
                DType::F64 => 2f64.powi(-40),
                _ => return t,
            };
            // Zero times infinity, or too large for the tolerance.
            odd |= t
                .to_f64()
                .iter()
                .any(|x| x.is_nan() || (x.is_finite() && x.abs() > 1e30));
            let off: Vec<f64> = t
                .to_f64()
                .iter()
                .map(|x| x * (1.0 + error * r.range(-1, 1) as f64))
                .collect();
            Tensor::from_f64(t.dtype(), t.shape(), off)
        });
        disturbed.is_ok_and(|d| want.iter().zip(&d).all(|(w, d)| close(w, d)))
    }) && !odd
}

/// What is wrong with what became of `before`.
fn wrong(before: &Graph, after: &Graph) -> Option<String> {
    if let Err(errors) = verify(after) {
        return Some(format!("the verifier says {}", errors[0]));
    }
    let sizes: &[i64] = if before.symbols.is_empty() {
        &[1, 1]
    } else {
        &[0, 1, 2, 3]
    };
    for (seed, size) in sizes.iter().enumerate() {
        let inputs = inputs(before, *size, seed as u64);
        let Ok(want) = interp::run(before, &inputs) else {
            continue;
        };
        let got = match interp::run(after, &inputs) {
            Ok(got) => got,
            Err(e) => return Some(format!("of size {size} it fails: {e}")),
        };
        let off = want.iter().zip(&got).position(|(w, g)| !close(w, g));
        if let Some(i) = off
            && stable(before, &inputs, &want)
        {
            return Some(format!(
                "of size {size} output {i} is {:?}\nnot {:?}",
                got[i].to_f64(),
                want[i].to_f64()
            ));
        }
    }
    None
}

/// One pass, or all of them where there is no name; adds the rules that apply.
fn passed(g: &Graph, pass: &str, rules: &mut BTreeSet<(&'static str, String)>) -> Result<Graph, String> {
    let mut note = |report: &Report| {
        for e in report.events.iter().filter(|e| e.outcome == Outcome::Applied) {
            rules.insert((e.pass, e.detail.clone()));
        }
    };
    let mut after = g.clone();
    let run = || {
        if let Some(pass) = cameo_passes::by_name(pass) {
            note(&cameo_passes::run(pass, &mut after));
            return Ok(after);
        }
        let options = cameo::Options {
            verify: true,
            ..cameo::Options::default()
        };
        let done = pipeline::optimize(&mut after, &options, &mut |event| {
            if let Event::End(_, Product::Graph(_, Some(report))) = event {
                note(report);
            }
        });
        done.map(|()| after).map_err(|e| e.to_string())
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("it panics".into()))
}

fn problem(g: &Graph, pass: &str, rules: &mut BTreeSet<(&'static str, String)>) -> Option<String> {
    match passed(g, pass, rules) {
        Ok(after) => wrong(g, &after),
        Err(e) => Some(e),
    }
}

#[test]
fn networks_keep_their_meaning() {
    let mut counts: BTreeMap<(&'static str, String), usize> = BTreeMap::new();
    let mut found: BTreeMap<&str, Vec<(u64, String)>> = BTreeMap::new();
    let (mut all, mut finite) = (0, 0);
    for seed in 0..cases() {
        let g = Builder::new(seed ^ 0x0e75_0000).network();
        if g.outputs().is_empty() || verify(&g).is_err() || interp::run(&g, &inputs(&g, 2, 0)).is_err() {
            continue;
        }
        all += 1;
        let ends = interp::run(&g, &inputs(&g, 2, 0)).unwrap_or_default();
        finite += usize::from(ends.iter().flat_map(Tensor::to_f64).all(f64::is_finite));
        let mut rules = BTreeSet::new();
        for pass in ALONE.iter().copied().chain(["all"]) {
            let Some(what) = problem(&g, pass, &mut rules) else {
                continue;
            };
            let seen = found.entry(pass).or_default();
            let small = match seen.len() < 3 {
                true => shrink_within(&g, 300, &mut |g| problem(g, pass, &mut BTreeSet::new()).is_some()),
                false => g.clone(),
            };
            let what = problem(&small, pass, &mut BTreeSet::new()).unwrap_or(what);
            let after = passed(&small, pass, &mut BTreeSet::new()).map_or_else(|e| e, |g| text::print(&g));
            seen.push((seed, format!("{what}\n{}\nbecame\n{after}", text::print(&small))));
        }
        for rule in rules {
            *counts.entry(rule).or_default() += 1;
        }
    }
    println!("{all} networks, {finite} of them without infinities");
    for ((pass, detail), n) in &counts {
        println!("{n:6} {pass}: {detail}");
    }
    for (pass, all) in &found {
        let seeds: Vec<u64> = all.iter().map(|(seed, _)| *seed).collect();
        println!("{pass} is wrong {} times: {seeds:?}", all.len());
        for (seed, text) in all.iter().take(3) {
            println!("--- {pass}, network {seed}: {text}");
        }
    }
    assert!(found.is_empty(), "wrong results");
    for (pass, detail, least) in RULES {
        let n = counts.get(&(*pass, (*detail).to_owned())).copied().unwrap_or(0);
        assert!(n * 1000 >= least * all, "{pass}: {detail}: {n} of {all}");
    }
}
