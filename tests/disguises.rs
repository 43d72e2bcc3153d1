//! What exporters spell out is recovered in every disguise, and what only looks like it is not.
//!
//! Every pattern is a small graph. Disguises change how it is said and keep what it means: nearly all must be recovered all
//! the same. Edits change what it means: whatever the passes make of those must still compute the edited graph. The
//! interpreter judges both. `CAMEO_DISGUISES` is the number of graphs of each kind (600 without it); the same number gives the
//! same graph.

use std::collections::BTreeMap;

use cameo::{Options, pipeline};
use cameo_ir::random::Rng;
use cameo_ir::{DType, Graph, Tensor, interp};
use cameo_tests::case::elements;
use cameo_tests::source;

/// Of hundred disguised patterns so many are recovered.
const RECOVERED_PERCENT: usize = 95;

/// A pattern and the operation that it is, as often as it occurs; nothing of `gone` may be left.
struct Pattern {
    name: &'static str,
    text: &'static str,
    op: &'static str,
    count: usize,
    gone: &'static [&'static str],
}

const PATTERNS: &[Pattern] = &[
    Pattern {
        name: "attention with an added mask",
        text: r#"graph @g (%0 "q": f32[2,3,5,4], %1 "k": f32[2,3,7,4], %2 "v": f32[2,3,7,6], %3 "mask": f32[2,1,1,7]) {
  weight %4: f32[] = dense(0.5)
  %10 = Transpose(%1) {perm=[0,1,3,2]}
  %11 = MatMul(%0, %10)
  %12 = Mul(%11, %4)
  %13 = Add(%12, %3)
  %14 = Softmax(%13) {axis=-1}
  %15 = MatMul(%14, %2)
  return %15 "y"
}"#,
        op: "Attention",
        count: 1,
        gone: &["Softmax", "MatMul"],
    },
    Pattern {
        name: "attention with a condition, both sides scaled, grouped heads",
        text: r#"graph @g (%0 "q": f32[1,4,5,4], %1 "k": f32[1,2,7,4], %2 "v": f32[1,2,7,6], %3 "seen": bool[1,1,5,7]) {
  weight %4: f32[] = dense(0.75)
  weight %5: f32[] = dense(-inf)
  weight %6: f32[] = dense(0.0)
  %10 = Unsqueeze(%1) {axes=dims[2]}
  %11 = Expand(%10) {shape=dims[1,2,2,7,4]}
  %12 = Reshape(%11) {shape=dims[1,4,7,4]}
  %13 = Transpose(%12) {perm=[0,1,3,2]}
  %14 = Unsqueeze(%2) {axes=dims[2]}
  %15 = Expand(%14) {shape=dims[1,2,2,7,6]}
  %16 = Reshape(%15) {shape=dims[1,4,7,6]}
  %17 = Mul(%0, %4)
  %18 = Mul(%13, %4)
  %19 = MatMul(%17, %18)
  %20 = Where(%3, %19, %5)
  %21 = Softmax(%20) {axis=3}
  %22 = IsNaN(%21)
  %23 = Where(%22, %6, %21)
  %24 = MatMul(%23, %16)
  return %24 "y"
}"#,
        op: "Attention",
        count: 1,
        gone: &["Softmax", "MatMul"],
    },
    Pattern {
        name: "LayerNormalization",
        text: r#"graph @g (%0 "x": f32[3,5,8]) {
  weight %1: f32[] = dense(2.0)
  weight %2: f32[] = dense(1e-5)
  weight %3 "scale": f32[8] = blob("scale")
  weight %4 "bias": f32[8] = blob("bias")
  %10 = ReduceMean(%0) {axes=dims[-1]}
  %11 = Sub(%0, %10)
  %12 = Pow(%11, %1)
  %13 = ReduceMean(%12) {axes=dims[-1]}
  %14 = Add(%13, %2)
  %15 = Sqrt(%14)
  %16 = Div(%11, %15)
  %17 = Mul(%16, %3)
  %18 = Add(%17, %4)
  return %18 "y"
}"#,
        op: "LayerNormalization",
        count: 1,
        gone: &["Sqrt", "ReduceMean"],
    },
    Pattern {
        name: "RMSNormalization",
        text: r#"graph @g (%0 "x": f32[3,5,8]) {
  weight %2: f32[] = dense(1e-6)
  weight %3 "scale": f32[8] = blob("scale")
  %12 = Mul(%0, %0)
  %13 = ReduceMean(%12) {axes=dims[2]}
  %14 = Add(%13, %2)
  %15 = Sqrt(%14)
  %16 = Reciprocal(%15)
  %17 = Mul(%0, %16)
  %18 = Mul(%17, %3)
  return %18 "y"
}"#,
        op: "RMSNormalization",
        count: 1,
        gone: &["Sqrt", "ReduceMean"],
    },
    Pattern {
        name: "Gelu by erf",
        text: r#"graph @g (%0 "x": f32[3,5,8]) {
  weight %1: f32[] = dense(1.4142135)
  weight %2: f32[] = dense(1.0)
  weight %3: f32[] = dense(0.5)
  %10 = Div(%0, %1)
  %11 = Erf(%10)
  %12 = Add(%11, %2)
  %13 = Mul(%0, %12)
  %14 = Mul(%13, %3)
  return %14 "y"
}"#,
        op: "Gelu",
        count: 1,
        gone: &["Erf"],
    },
    Pattern {
        name: "Gelu by tanh",
        text: r#"graph @g (%0 "x": f32[3,5,8]) {
  weight %1: f32[] = dense(3.0)
  weight %2: f32[] = dense(0.044715)
  weight %3: f32[] = dense(0.7978846)
  weight %4: f32[] = dense(1.0)
  weight %5: f32[] = dense(0.5)
  %10 = Pow(%0, %1)
  %11 = Mul(%10, %2)
  %12 = Add(%0, %11)
  %13 = Mul(%12, %3)
  %14 = Tanh(%13)
  %15 = Add(%14, %4)
  %16 = Mul(%0, %5)
  %17 = Mul(%16, %15)
  return %17 "y"
}"#,
        op: "Gelu",
        count: 1,
        gone: &["Tanh"],
    },
    Pattern {
        name: "SiLU",
        text: r#"graph @g (%0 "x": f32[3,5,8]) {
  %10 = Sigmoid(%0)
  %11 = Mul(%0, %10)
  return %11 "y"
}"#,
        op: "Swish",
        count: 1,
        gone: &["Sigmoid"],
    },
    Pattern {
        name: "rotary embedding",
        text: r#"graph @g (%0 "x": f32[2,3,5,8], %1 "cos": f32[2,1,5,8], %2 "sin": f32[2,1,5,8]) {
  %10 = Slice(%0) {axes=dims[3], ends=dims[4], starts=dims[0]}
  %11 = Slice(%0) {axes=dims[3], ends=dims[8], starts=dims[4]}
  %12 = Neg(%11)
  %13 = Concat(%12, %10) {axis=-1}
  %14 = Mul(%0, %1)
  %15 = Mul(%13, %2)
  %16 = Add(%14, %15)
  return %16 "y"
}"#,
        op: "cameo::Rotary",
        count: 1,
        gone: &["Concat"],
    },
    Pattern {
        name: "a block of three branches",
        text: r#"graph @g (%0 "x": f32[2,4,6,6]) {
  weight %1 "w3": f32[4,4,3,3] = blob("w3")
  weight %2 "w1": f32[4,4,1,1] = blob("w1")
  weight %3 "g": f32[4] = dense(1.5,0.5,-0.75,1.25)
  weight %4 "b": f32[4] = dense(0.25,-0.5,0.75,1.0)
  weight %5 "m": f32[4] = dense(0.5,-0.25,0.125,0.75)
  weight %6 "v": f32[4] = dense(1.5,0.5,0.75,2.0)
  %10 = Conv(%0, %1) {pads=[1,1,1,1]}
  %11 = BatchNormalization(%10, %3, %4, %5, %6)
  %12 = Conv(%0, %2)
  %13 = BatchNormalization(%12, %4, %3, %5, %6)
  %14 = BatchNormalization(%0, %3, %5, %4, %6)
  %15 = Add(%11, %13)
  %16 = Add(%15, %14)
  return %16 "y"
}"#,
        op: "Conv",
        count: 1,
        gone: &["BatchNormalization"],
    },
];

/// A graph's text as lines that can be edited.
#[derive(Clone)]
struct Edited {
    head: String,
    /// Weights, then nodes: result and the rest of the line.
    weights: Vec<(String, String)>,
    nodes: Vec<Node>,
    outputs: Vec<String>,
    next: usize,
}

#[derive(Clone)]
struct Node {
    result: String,
    op: String,
    args: Vec<String>,
    attrs: String,
}

impl Edited {
    fn new(text: &str) -> Self {
        let mut out = Self {
            head: String::new(),
            weights: vec![],
            nodes: vec![],
            outputs: vec![],
            next: 100,
        };
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("weight ") {
                let at = rest.find([' ', ':']).expect("a type");
                out.weights.push((rest[..at].into(), rest[at..].into()));
            } else if let Some(rest) = line.strip_prefix("return ") {
                out.outputs = rest
                    .split(", ")
                    .map(|o| o.split(' ').next().unwrap_or("").into())
                    .collect();
            } else if let Some((result, rest)) = line.split_once(" = ") {
                let (op, rest) = rest.split_once('(').expect("operands");
                let (args, attrs) = rest.split_once(')').expect("operands");
                out.nodes.push(Node {
                    result: result.into(),
                    op: op.into(),
                    args: args.split(", ").map(Into::into).collect(),
                    attrs: attrs.into(),
                });
            } else if line.starts_with("graph") {
                out.head = line.into();
            }
        }
        out
    }

    fn text(&self) -> String {
        let mut out = format!("{}\n", self.head);
        for (name, rest) in &self.weights {
            out += &format!("  weight {name}{rest}\n");
        }
        for n in &self.nodes {
            out += &format!("  {} = {}({}){}\n", n.result, n.op, n.args.join(", "), n.attrs);
        }
        let outputs: Vec<String> = self
            .outputs
            .iter()
            .enumerate()
            .map(|(i, o)| format!("{o} \"y{i}\""))
            .collect();
        out + &format!("  return {}\n}}", outputs.join(", "))
    }

    fn fresh(&mut self) -> String {
        self.next += 1;
        format!("%{}", self.next)
    }

    /// The number of a scalar weight.
    fn scalar(&self, name: &str) -> Option<f64> {
        let (_, rest) = self.weights.iter().find(|(n, _)| n == name)?;
        let number = rest.strip_prefix(": f32[] = dense(")?.strip_suffix(')')?;
        number.parse().ok().filter(|v: &f64| v.is_finite())
    }

    fn add_scalar(&mut self, v: f64) -> String {
        let name = self.fresh();
        self.weights
            .push((name.clone(), format!(": f32[] = dense({:?})", v as f32)));
        name
    }

    /// Puts nodes before node `at`, the last of which its operand `arg` becomes.
    fn insert(&mut self, at: usize, arg: usize, ops: &[(&str, &str)]) {
        let mut v = self.nodes[at].args[arg].clone();
        for (i, (op, attrs)) in ops.iter().enumerate() {
            let result = self.fresh();
            let node = Node {
                result: result.clone(),
                op: (*op).into(),
                args: vec![v],
                attrs: (*attrs).into(),
            };
            self.nodes.insert(at + i, node);
            v = result;
        }
        self.nodes[at + ops.len()].args[arg] = v;
    }
}

/// Says something else the same way. Some choices change nothing.
fn disguise(g: &mut Edited, r: &mut Rng) {
    let at = r.range(0, g.nodes.len() as i64 - 1) as usize;
    let arg = r.range(0, g.nodes[at].args.len() as i64 - 1) as usize;
    let is_weight = |g: &Edited, v: &str| g.weights.iter().any(|(n, _)| n == v);
    // Conditions are no numbers, and operands that say where are not data.
    let movable = {
        let (op, v) = (g.nodes[at].op.clone(), g.nodes[at].args[arg].clone());
        !(is_weight(g, &v) || op == "Where" && arg == 0)
    };
    let number = |g: &Edited, op: &str| {
        let n = &g.nodes[at];
        (n.op == op).then(|| g.scalar(&n.args[n.args.len() - 1])).flatten()
    };
    match r.range(0, 8) {
        0 if matches!(&*g.nodes[at].op, "Add" | "Mul") => g.nodes[at].args.swap(0, 1),
        1 => g.insert(at, arg, &[("Identity", "")]),
        2 if movable => g.insert(at, arg, &[("Neg", ""), ("Neg", "")]),
        3 if movable => g.insert(
            at,
            arg,
            &[("Unsqueeze", " {axes=dims[0]}"), ("Squeeze", " {axes=dims[0]}")],
        ),
        4 if movable => g.insert(at, arg, &[("Transpose", ""), ("Transpose", "")]),
        5 if movable => g.insert(at, arg, &[("Cast", " {to=f32}")]),
        6 => {
            if let Some(c) = number(g, "Mul") {
                let inner = g.add_scalar(c * 2.0);
                let last = g.nodes[at].args.len() - 1;
                g.nodes[at].args[last] = inner;
                let half = g.add_scalar(0.5);
                let result = g.nodes[at].result.clone();
                let middle = g.fresh();
                g.nodes[at].result.clone_from(&middle);
                let node = Node {
                    result,
                    op: "Mul".into(),
                    args: vec![half, middle],
                    attrs: String::new(),
                };
                g.nodes.insert(at + 1, node);
            }
        }
        7 => {
            for (from, to) in [("Mul", "Div"), ("Div", "Mul")] {
                if let Some(c) = number(g, from) {
                    let inverse = g.add_scalar(1.0 / c);
                    let last = g.nodes[at].args.len() - 1;
                    g.nodes[at].op = to.into();
                    g.nodes[at].args[last] = inverse;
                    break;
                }
            }
        }
        8 => {
            if let Some(c) = number(g, "Add") {
                let negative = g.add_scalar(-c);
                g.nodes[at].op = "Sub".into();
                g.nodes[at].args[1] = negative;
            }
        }
        _ => {}
    }
}

/// Changes what the graph means, or which of its values others see; what comes out may not even be legal.
fn edit(g: &mut Edited, r: &mut Rng) {
    let at = r.range(0, g.nodes.len() as i64 - 1) as usize;
    match r.range(0, 7) {
        0 => {
            let scalars: Vec<String> = g
                .weights
                .iter()
                .map(|w| w.0.clone())
                .filter(|w| g.scalar(w).is_some())
                .collect();
            if scalars.is_empty() {
                return;
            }
            let name = r.pick(&scalars).clone();
            let c = g.scalar(&name).unwrap_or(0.0);
            let v = *r.pick(&[c * 1.25, -c, c + 0.5, c * 1.001]);
            for w in &mut g.weights {
                if w.0 == name {
                    w.1 = format!(": f32[] = dense({:?})", v as f32);
                }
            }
        }
        1 => {
            let others: &[&str] = match &*g.nodes[at].op {
                "Add" => &["Sub", "Mul", "Max"],
                "Sub" => &["Add"],
                "Mul" => &["Div", "Add"],
                "Div" => &["Mul"],
                "ReduceMean" => &["ReduceMax", "ReduceSum", "ReduceL2"],
                "Erf" | "Tanh" | "Sigmoid" => &["Tanh", "Erf", "Sigmoid", "Softplus"],
                "Softmax" => &["LogSoftmax", "Hardmax"],
                "Sqrt" => &["Abs"],
                "Neg" => &["Abs", "Identity"],
                _ => return,
            };
            g.nodes[at].op = (*r.pick(others)).into();
        }
        2 => g.nodes[at].args.reverse(),
        3 => {
            let (from, to) = *r.pick(&[
                ("-1", "1"),
                ("[-1]", "[1]"),
                ("[2]", "[1]"),
                ("axis=3", "axis=2"),
                ("[0,1,3,2]", "[0,1,2,3]"),
                ("[1,1,1,1]", "[0,1,1,2]"),
                ("starts=dims[4]", "starts=dims[3]"),
                ("axis=-1", "axis=0"),
            ]);
            g.nodes[at].attrs = g.nodes[at].attrs.replace(from, to);
        }
        4 => {
            let seen = g.nodes[at].result.clone();
            if !g.outputs.contains(&seen) {
                g.outputs.push(seen);
            }
        }
        5 => {
            // Another value of the graph.
            let values: Vec<String> = g.nodes[..at]
                .iter()
                .map(|n| n.result.clone())
                .chain((0..4).map(|i| format!("%{i}")))
                .collect();
            let arg = r.range(0, g.nodes[at].args.len() as i64 - 1) as usize;
            g.nodes[at].args[arg] = r.pick(&values).clone();
        }
        6 => {
            // Something in between.
            let op = *r.pick(&["Abs", "Relu", "Exp"]);
            let arg = r.range(0, g.nodes[at].args.len() as i64 - 1) as usize;
            g.insert(at, arg, &[(op, "")]);
        }
        _ => {
            // A weight that differs from channel to channel where there was one number.
            let scalars: Vec<usize> = (0..g.weights.len())
                .filter(|i| g.scalar(&g.weights[*i].0).is_some())
                .collect();
            if !scalars.is_empty() {
                let i = *r.pick(&scalars);
                let n = *r.pick(&[5usize, 7, 8]);
                let numbers: Vec<String> = (0..n).map(|i| format!("{:?}", 0.5 + i as f32 / 8.0)).collect();
                g.weights[i].1 = format!(": f32[{n}] = dense({})", numbers.join(","));
            }
        }
    }
}

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
        for (i, (w, g)) in want.iter().zip(&got).enumerate() {
            if !same(w, g) {
                panic!(
                    "output {i} is {:?}\nnot {:?}\n{text}\nbecame\n{}",
                    g.to_f64(),
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
