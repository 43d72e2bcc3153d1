//! Running passes on text in tests: text in, text out, and both graphs must compute the same.

use cameo_ir::rewrite::Outcome;
use cameo_ir::{DType, Graph, Sym, Tensor, interp, text, verify};

use crate::Pass;

/// SplitMix64: numbers for tests, the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Multiples of 1/8 in ±2, so that short text is exact.
    fn eighths(&mut self) -> f64 {
        (self.next() % 33) as f64 / 8.0 - 2.0
    }

    pub fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        if dtype.is_float() {
            return Tensor::from_f64(dtype, shape, (0..n).map(|_| self.eighths()));
        }
        Tensor::from_i64(dtype, shape, (0..n).map(|_| (self.next() % 2) as i64))
    }
}

/// Parses a graph in which weights may be given as `= random` or, for positive ones, `= positive`.
pub fn graph(source: &str) -> Graph {
    let mut random = Random::new(7);
    let mut full = String::new();
    for line in source.lines() {
        let numbers = |n: usize, random: &mut Random, lift: f64| {
            let list: Vec<String> = (0..n)
                .map(|_| {
                    format!(
                        "{}",
                        if lift > 0.0 {
                            random.eighths().abs() + lift
                        } else {
                            random.eighths()
                        }
                    )
                })
                .collect();
            format!("dense({})", list.join(", "))
        };
        let count = |line: &str| -> usize {
            let shape = line
                .split_once('[')
                .and_then(|(_, r)| r.split_once(']'))
                .map_or("", |(s, _)| s);
            shape
                .split(',')
                .filter_map(|d| d.trim().parse::<usize>().ok())
                .product()
        };
        if let Some(head) = line.strip_suffix("= random") {
            full += &format!("{head}= {}\n", numbers(count(head), &mut random, 0.0));
        } else if let Some(head) = line.strip_suffix("= positive") {
            full += &format!("{head}= {}\n", numbers(count(head), &mut random, 0.5));
        } else {
            full += line;
            full.push('\n');
        }
    }
    text::parse(&full, &|_, _| None).unwrap_or_else(|e| panic!("{e}"))
}

/// The text of a graph with long constants left out.
pub fn show(g: &Graph) -> String {
    let mut out = String::new();
    for line in text::print(g).lines() {
        match line.split_once("dense(") {
            Some((head, list)) if list.matches(',').count() > 3 => out += &format!("{head}dense(…)"),
            _ => out += line,
        }
        out.push('\n');
    }
    out
}

/// Runs the pass and checks that the verifier is content and the results are the same; gives the text of the result.
pub fn rewrite(pass: &Pass, source: &str) -> String {
    let before = graph(source);
    let mut after = before.clone();
    crate::run(pass, &mut after);
    if let Err(e) = verify::verify(&after) {
        let all: Vec<String> = e.iter().map(ToString::to_string).collect();
        panic!("{}\nin\n{}", all.join("\n"), show(&after));
    }
    same(&before, &after);
    let text = show(&after);
    let again = crate::run(pass, &mut after);
    assert_eq!(again.changes, 0, "a second run must find nothing: {:?}", again.events);
    text
}

/// What the pass refuses, one line each. The graph must stay as it is.
pub fn refused(pass: &Pass, source: &str) -> String {
    let mut g = graph(source);
    let before = text::print(&g);
    let report = crate::run(pass, &mut g);
    assert_eq!(before, text::print(&g));
    let lines = report.events.into_iter().filter_map(|e| match e.outcome {
        Outcome::Refused(reason) => Some(format!("{}: {reason}\n", e.detail)),
        _ => None,
    });
    lines.collect()
}

/// Both graphs give the same results on random inputs of several sizes.
pub fn same(before: &Graph, after: &Graph) {
    let mut random = Random::new(1);
    for round in 0..3usize {
        let size = |s: &Sym| match s {
            Sym::Named(n) => before.symbols.get_index_of(n).map(|i| (2 + i + round) as i64),
            _ => None,
        };
        let inputs: Vec<Tensor> = before
            .inputs()
            .iter()
            .map(|v| {
                let fact = before.fact(*v);
                let shape: Option<Vec<usize>> = fact
                    .shape
                    .iter()
                    .map(|d| d.eval(&size).and_then(|d| usize::try_from(d).ok()))
                    .collect();
                random.tensor(fact.dtype, &shape.expect("inputs have symbols and numbers as extents"))
            })
            .collect();
        let want = interp::run(before, &inputs).unwrap_or_else(|e| panic!("before: {e}"));
        let got = interp::run(after, &inputs).unwrap_or_else(|e| panic!("after: {e}\n{}", show(after)));
        assert_eq!(want.len(), got.len());
        for (w, g) in want.iter().zip(&got) {
            assert_eq!((w.dtype(), w.shape()), (g.dtype(), g.shape()));
            for (a, b) in w.to_f64().into_iter().zip(g.to_f64()) {
                let close = (a - b).abs() <= 1e-5 * a.abs().max(1.0) || (a.is_nan() && b.is_nan()) || a == b;
                assert!(close, "{a} became {b}\n{}", show(after));
            }
        }
    }
}
