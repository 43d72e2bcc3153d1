//! What exporters spell out is recovered in every disguise, and what only looks like it is not.
//!
//! Every pattern is a small graph. Disguises change how it is said and keep what it means: nearly all must be recovered all
//! the same. Edits change what it means: whatever the passes make of those must still compute the edited graph. The
//! interpreter judges both. `CAMEO_DISGUISES` is the number of graphs of each kind (600 without it); the same number gives the
//! same graph.

#[path = "disguises/blocks.rs"]
mod blocks;
#[path = "disguises/edits.rs"]
mod edits;
#[path = "disguises/layers.rs"]
mod layers;
#[path = "disguises/movement.rs"]
mod movement;
#[path = "disguises/networks.rs"]
mod networks;
#[path = "disguises/patterns.rs"]
mod patterns;
#[path = "disguises/recurrences.rs"]
mod recurrences;

use std::collections::BTreeMap;

use cameo::{Options, pipeline};
use cameo_ir::random::{Rng, disturbed};
use cameo_ir::{DType, Graph, Tensor, interp};
use cameo_tests::case::elements;
use cameo_tests::source;

use edits::{Edited, disguise, edit};
use patterns::PATTERNS;

/// Of hundred disguised patterns so many are recovered.
const RECOVERED_PERCENT: usize = 95;

fn inputs(g: &Graph, seed: u64) -> Vec<Tensor> {
    let mut r = Rng::new(seed);
    let one = |v: &cameo_ir::ValueId| {
        let fact = g.fact(*v);
        let range = (fact.dtype == DType::Bool).then_some((0.0, 1.0));
        elements(&mut r, fact.dtype, &fact.static_shape().expect("known extents"), range)
    };
    g.inputs().iter().map(one).collect()
}

/// The graph after all passes, when it still computes the same on random inputs.
fn optimized(g: &Graph, text: &str) -> Graph {
    let mut after = g.clone();
    let options = Options {
        verify: true,
        ..Options::default()
    };
    pipeline::optimize(&mut after, &options, &mut |_| {}).unwrap_or_else(|e| panic!("{text}\n{e}"));
    for seed in 0..2 {
        let inputs = inputs(g, seed);
        let Ok(want) = interp::run(g, &inputs) else { continue };
        let got = interp::run(&after, &inputs).unwrap_or_else(|e| panic!("{text}\n{e}"));
        for (i, (w, o)) in want.iter().zip(&got).enumerate() {
            // Differences of equal numbers, poles: what is computed depends on the order of arithmetic.
            let noise = || disturbed(g, &inputs).is_none_or(|d| !same(w, &d[i]));
            if !same(w, o) && !noise() {
                panic!(
                    "output {i} is {:?}\nnot {:?}\n{text}\nbecame\n{}",
                    o.to_f64(),
                    w.to_f64(),
                    cameo_ir::text::print(&after)
                );
            }
        }
    }
    after
}

/// Equal but for reordered arithmetic. A row of attention without any key is NaN or, by the operator's rule, zeros.
fn same(want: &Tensor, got: &Tensor) -> bool {
    let (w, g) = (want.to_f64(), got.to_f64());
    let largest = w.iter().filter(|x| x.is_finite()).fold(1.0f64, |a, x| a.max(x.abs()));
    want.shape() == got.shape()
        && w.iter()
            .zip(&g)
            .all(|(a, b)| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-4 * largest)
}

fn cases() -> u64 {
    std::env::var("CAMEO_DISGUISES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(600)
}

fn count(g: &Graph, op: &str) -> usize {
    g.nodes().filter(|(_, n)| n.op == op).count()
}

#[test]
fn disguised_patterns_are_recovered() {
    let (mut kept, mut lost) = (0, BTreeMap::<&str, (usize, String)>::new());
    for seed in 0..cases() {
        let p = &PATTERNS[(seed % PATTERNS.len() as u64) as usize];
        let (mut r, mut g) = (Rng::new(seed), Edited::new(p.text));
        for _ in 0..r.range(1, 5) {
            disguise(&mut g, &mut r);
        }
        let text = g.text();
        let before = source::graph(&text);
        let after = optimized(&before, &text);
        let constants = after.constants();
        let left = after
            .nodes()
            .any(|(_, n)| p.gone.contains(&n.op.name()) && !constants[n.outputs[0].0 as usize]);
        if count(&after, p.op) == p.count && !left {
            kept += 1;
        } else {
            let e = lost.entry(p.name).or_insert((0, text));
            e.0 += 1;
        }
    }
    for (name, (times, text)) in &lost {
        println!("{name}: lost {times} times, first in\n{text}");
    }
    let percent = kept * 100 / cases() as usize;
    println!("{kept} of {} recovered", cases());
    assert!(percent >= RECOVERED_PERCENT, "{percent} %");
}

#[test]
fn changed_patterns_keep_their_meaning() {
    let (mut legal, mut fused) = (0, 0);
    for seed in 0..cases() {
        let p = &PATTERNS[(seed % PATTERNS.len() as u64) as usize];
        let (mut r, mut g) = (Rng::new(seed ^ 0x5eed), Edited::new(p.text));
        for _ in 0..r.range(0, 2) {
            disguise(&mut g, &mut r);
        }
        for _ in 0..r.range(1, 2) {
            edit(&mut g, &mut r);
        }
        let text = g.text();
        let Some(before) = source::try_graph(&text) else {
            continue;
        };
        legal += 1;
        fused += usize::from(count(&optimized(&before, &text), p.op) >= p.count);
    }
    println!("{legal} legal graphs, {fused} of them still with the operation");
    // Edits that are all refused early, or that all destroy the pattern, would test nothing.
    assert!(
        legal as u64 * 2 > cases() && fused * 10 > legal,
        "{legal} legal, {fused} fused"
    );
}
