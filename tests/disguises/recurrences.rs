//! Recurrences that an exporter wrote out step by step, in every spelling of slices and results.
//!
//! A step is disguised before it is repeated, as an exporter says the same thing in each; some graphs have disguises in a few
//! steps only.

use cameo_ir::random::Rng;

use super::edits::{Edited, Node, disguise, edit};
use super::{cases, count, optimized};
use crate::source;

/// Of hundred disguised recurrences so many become one loop.
const RECOVERED_PERCENT: usize = 95;

/// The same where some steps are said in another way than the others.
const OTHERWISE_PERCENT: usize = 85;

/// The pass leaves fewer steps as they are. Those that are whole count: from a state of zeros the first step is folded in part,
/// and what only a next step would read is missing in the last one.
const LEAST: usize = 8;

const MOST: usize = 14;

/// A step: `H0`, `H1`, … are its states, `X0`, `X1`, … its slices.
struct Recurrence {
    name: &'static str,
    /// Shapes of the states, with what each is after the step.
    states: &'static [(&'static [usize], &'static str)],
    /// Shapes of the slices, batch first.
    slices: &'static [&'static [usize]],
    weights: &'static str,
    /// Weights that are others in each step: layers.
    own: &'static [&'static str],
    step: &'static str,
    /// What a step adds to the result.
    y: &'static str,
}

const RECURRENCES: &[Recurrence] = &[
    Recurrence {
        name: "a plain cell",
        states: &[(&[2, 6], "%23")],
        slices: &[&[2, 5]],
        weights: r#"weight %2: f32[5,6] = blob("w")
          weight %3: f32[6,6] = blob("u")
          weight %4: f32[6] = blob("b")"#,
        own: &[],
        step: r#"%20 = MatMul(X0, %2)
          %21 = MatMul(H0, %3)
          %22 = Add(%20, %21)
          %24 = Add(%22, %4)
          %23 = Tanh(%24)"#,
        y: "%23",
    },
    Recurrence {
        name: "GRU",
        states: &[(&[2, 6], "%40")],
        slices: &[&[2, 5]],
        weights: r#"weight %2: f32[5,18] = blob("w")
          weight %3: f32[6,18] = blob("u")
          weight %4: f32[18] = blob("b")
          weight %5: f32[] = dense(1.0)"#,
        own: &[],
        step: r#"%20 = MatMul(X0, %2)
          %21 = Add(%20, %4)
          %22 = MatMul(H0, %3)
          %23 = Slice(%21) {axes=dims[1], ends=dims[6], starts=dims[0]}
          %24 = Slice(%21) {axes=dims[1], ends=dims[12], starts=dims[6]}
          %25 = Slice(%21) {axes=dims[1], ends=dims[18], starts=dims[12]}
          %26 = Slice(%22) {axes=dims[1], ends=dims[6], starts=dims[0]}
          %27 = Slice(%22) {axes=dims[1], ends=dims[12], starts=dims[6]}
          %28 = Slice(%22) {axes=dims[1], ends=dims[18], starts=dims[12]}
          %29 = Add(%23, %26)
          %30 = Sigmoid(%29)
          %31 = Add(%24, %27)
          %32 = Sigmoid(%31)
          %33 = Mul(%30, %28)
          %34 = Add(%25, %33)
          %35 = Tanh(%34)
          %36 = Sub(%5, %32)
          %37 = Mul(%36, %35)
          %38 = Mul(%32, H0)
          %40 = Add(%37, %38)"#,
        y: "%40",
    },
    Recurrence {
        name: "selective scan",
        states: &[(&[2, 3, 4], "%28")],
        slices: &[&[2, 3], &[2, 3], &[2, 4], &[2, 4]],
        weights: r#"weight %2: f32[3,4] = blob("a")
          weight %3: f32[3] = blob("d")"#,
        own: &[],
        step: r#"%20 = Unsqueeze(X1) {axes=dims[2]}
          %21 = Mul(%20, %2)
          %22 = Exp(%21)
          %23 = Mul(%22, H0)
          %24 = Mul(X1, X0)
          %25 = Unsqueeze(%24) {axes=dims[2]}
          %26 = Unsqueeze(X2) {axes=dims[1]}
          %27 = Mul(%25, %26)
          %28 = Add(%23, %27)
          %29 = Unsqueeze(X3) {axes=dims[2]}
          %30 = MatMul(%28, %29)
          %31 = Squeeze(%30) {axes=dims[2]}
          %32 = Mul(X0, %3)
          %33 = Add(%31, %32)"#,
        y: "%33",
    },
    Recurrence {
        name: "RWKV",
        states: &[(&[2, 6], "%38"), (&[2, 6], "%40"), (&[2, 6], "%32")],
        slices: &[&[2, 6], &[2, 6]],
        weights: r#"weight %2: f32[6] = blob("u")
          weight %3: f32[6] = blob("w")"#,
        own: &[],
        step: r#"%20 = Add(X0, %2)
          %21 = Max(H2, %20)
          %22 = Sub(H2, %21)
          %23 = Exp(%22)
          %24 = Sub(%20, %21)
          %25 = Exp(%24)
          %26 = Mul(%23, H0)
          %27 = Mul(%25, X1)
          %28 = Add(%26, %27)
          %29 = Mul(%23, H1)
          %30 = Add(%29, %25)
          %31 = Div(%28, %30)
          %41 = Add(H2, %3)
          %32 = Max(%41, X0)
          %33 = Sub(%41, %32)
          %34 = Exp(%33)
          %35 = Sub(X0, %32)
          %36 = Exp(%35)
          %37 = Mul(%34, H0)
          %42 = Mul(%36, X1)
          %38 = Add(%37, %42)
          %39 = Mul(%34, H1)
          %40 = Add(%39, %36)"#,
        y: "%31",
    },
    Recurrence {
        name: "a spiking neuron",
        states: &[(&[2, 6], "%24"), (&[2, 6], "%26")],
        slices: &[&[2, 6]],
        weights: r#"weight %2: f32[] = dense(0.875)
          weight %3: f32[] = dense(0.65)"#,
        own: &[],
        step: r#"%20 = Mul(H0, %2)
          %21 = Add(%20, X0)
          %22 = Mul(H1, %3)
          %24 = Sub(%21, %22)
          %25 = Greater(%24, %3)
          %26 = Cast(%25) {to=f32}"#,
        y: "%26",
    },
    Recurrence {
        name: "equal blocks",
        states: &[(&[2, 5, 8], "%40")],
        slices: &[],
        weights: r#"weight %2: f32[8,16] = blob("w")
          weight %3: f32[16] = blob("b")
          weight %4: f32[16,8] = blob("v")
          weight %5: f32[8] = blob("c")
          weight %6: f32[] = dense(1e-5)
          weight %7: f32[8] = blob("g")"#,
        own: &["%2", "%3", "%4", "%5", "%7"],
        step: r#"%20 = ReduceMean(H0) {axes=dims[-1]}
          %21 = Sub(H0, %20)
          %22 = Mul(%21, %21)
          %23 = ReduceMean(%22) {axes=dims[-1]}
          %24 = Add(%23, %6)
          %25 = Sqrt(%24)
          %26 = Div(%21, %25)
          %27 = Mul(%26, %7)
          %30 = MatMul(%27, %2)
          %31 = Add(%30, %3)
          %32 = Relu(%31)
          %33 = MatMul(%32, %4)
          %34 = Add(%33, %5)
          %40 = Add(H0, %34)"#,
        y: "%40",
    },
    Recurrence {
        name: "equal layers of attention",
        states: &[(&[2, 5, 8], "%40")],
        slices: &[],
        weights: r#"weight %2: f32[8,8] = blob("q")
          weight %3: f32[8,8] = blob("k")
          weight %4: f32[8,8] = blob("v")
          weight %5: f32[8,8] = blob("o")
          weight %6: f32[] = dense(0.35)
          weight %7: f32[8] = blob("b")"#,
        own: &["%2", "%3", "%4", "%5", "%7"],
        step: r#"%20 = MatMul(H0, %2)
          %21 = MatMul(H0, %3)
          %22 = MatMul(H0, %4)
          %23 = Transpose(%21) {perm=[0,2,1]}
          %24 = MatMul(%20, %23)
          %25 = Mul(%24, %6)
          %26 = Softmax(%25) {axis=-1}
          %27 = MatMul(%26, %22)
          %28 = MatMul(%27, %5)
          %29 = Add(%28, %7)
          %30 = Add(H0, %29)
          %40 = Tanh(%30)"#,
        y: "%40",
    },
];

fn extents(shape: &[usize]) -> String {
    let all: Vec<String> = shape.iter().map(ToString::to_string).collect();
    all.join(",")
}

/// How slices are taken.
#[derive(Clone, Copy)]
enum Cut {
    Gather,
    GatherFromEnd,
    GatherOne,
    Slice,
    SliceByWeights,
    Split,
    TimeFirst,
}

/// How results are joined.
#[derive(Clone, Copy)]
enum Join {
    Concat,
    ConcatReshaped,
    TimeFirst,
    Scatter,
    ScatterElements,
    Nothing,
}

const CUTS: &[Cut] = &[
    Cut::Gather,
    Cut::GatherFromEnd,
    Cut::GatherOne,
    Cut::Slice,
    Cut::SliceByWeights,
    Cut::Split,
    Cut::TimeFirst,
];

const JOINS: &[Join] = &[
    Join::Concat,
    Join::ConcatReshaped,
    Join::TimeFirst,
    Join::Scatter,
    Join::ScatterElements,
    Join::Nothing,
];

/// A graph that grows, for the things around the steps.
struct Writer {
    g: Edited,
    steps: usize,
}

impl Writer {
    fn op(&mut self, op: &str, args: &[&str], attrs: &str) -> String {
        let result = self.g.fresh();
        self.g.nodes.push(Node {
            result: result.clone(),
            op: op.into(),
            args: args.iter().map(ToString::to_string).collect(),
            attrs: format!(" {{{attrs}}}"),
        });
        result
    }

    fn weight(&mut self, rest: String) -> String {
        let v = self.g.fresh();
        self.g.weights.push((v.clone(), rest));
        v
    }

    fn index(&mut self, shape: &str, at: i64, times: usize) -> String {
        let all = vec![at.to_string(); times];
        self.weight(format!(": i64[{shape}] = dense({})", all.join(",")))
    }

    /// What all steps share, of a way to cut `x`: a tensor, or the parts of a split.
    fn whole(&mut self, cut: Cut, x: &str, rank: usize) -> Vec<String> {
        match cut {
            Cut::Split => {
                let parts: Vec<String> = (0..self.steps).map(|_| self.g.fresh()).collect();
                self.g.nodes.push(Node {
                    result: parts.join(", "),
                    op: "Split".into(),
                    args: vec![x.into()],
                    attrs: format!(" {{axis=1, num_outputs={}}}", self.steps),
                });
                parts
            }
            Cut::TimeFirst => {
                let mut perm: Vec<usize> = (0..=rank).collect();
                perm.swap(0, 1);
                vec![self.op("Transpose", &[x], &format!("perm=[{}]", extents(&perm)))]
            }
            _ => vec![x.into()],
        }
    }

    fn slice(&mut self, cut: Cut, whole: &[String], t: usize, shape: &[usize]) -> String {
        let x = &whole[0];
        match cut {
            Cut::Gather | Cut::GatherFromEnd => {
                let back = if matches!(cut, Cut::Gather) {
                    0
                } else {
                    self.steps as i64
                };
                let at = self.index("", t as i64 - back, 1);
                self.op("Gather", &[x, &at], "axis=1")
            }
            Cut::GatherOne => {
                let at = self.index("1", t as i64, 1);
                let v = self.op("Gather", &[x, &at], "axis=1");
                self.op("Squeeze", &[&v], "axes=dims[1]")
            }
            Cut::Slice => {
                let v = self.op(
                    "Slice",
                    &[x],
                    &format!("axes=dims[1], ends=dims[{}], starts=dims[{t}]", t + 1),
                );
                self.op("Squeeze", &[&v], "axes=dims[1]")
            }
            Cut::SliceByWeights => {
                let (from, to) = (self.index("1", t as i64, 1), self.index("1", t as i64 + 1, 1));
                let (axis, step) = (self.index("1", 1, 1), self.index("1", 1, 1));
                let v = self.op("Slice", &[x, &from, &to, &axis, &step], "");
                self.op("Reshape", &[&v], &format!("shape=dims[{}]", extents(shape)))
            }
            Cut::Split => self.op("Squeeze", &[&whole[t]], "axes=dims[1]"),
            Cut::TimeFirst => {
                let at = self.index("", t as i64, 1);
                self.op("Gather", &[x, &at], "axis=0")
            }
        }
    }

    /// The results of all steps as one tensor, batch first but for what is written time first.
    fn join(&mut self, join: Join, results: &[String], shape: &[usize]) -> Option<String> {
        let steps = self.steps;
        let mut long = shape.to_vec();
        long.insert(1, 1);
        let each = |w: &mut Self, axis: usize| -> Vec<String> {
            let attrs = format!("axes=dims[{axis}]");
            results.iter().map(|y| w.op("Unsqueeze", &[y], &attrs)).collect()
        };
        let all = |parts: &[String]| parts.iter().map(String::clone).collect::<Vec<_>>();
        match join {
            Join::Nothing => None,
            Join::Concat => {
                let parts = each(self, 1);
                Some(self.op("Concat", &refs(&all(&parts)), "axis=1"))
            }
            Join::ConcatReshaped => {
                let attrs = format!("shape=dims[{}]", extents(&long));
                let parts: Vec<String> = results.iter().map(|y| self.op("Reshape", &[y], &attrs)).collect();
                Some(self.op("Concat", &refs(&parts), "axis=1"))
            }
            Join::TimeFirst => {
                let parts = each(self, 0);
                Some(self.op("Concat", &refs(&parts), "axis=0"))
            }
            Join::Scatter => {
                let parts = each(self, 0);
                let shape = format!("{steps},{}", extents(shape));
                let mut y = self.weight(format!(": f32[{shape}] = blob(\"y\")"));
                for (t, part) in parts.iter().enumerate() {
                    let at = self.index("1,1", t as i64, 1);
                    y = self.op("ScatterND", &[&y, &at, part], "");
                }
                Some(y)
            }
            Join::ScatterElements => {
                let parts = each(self, 1);
                let mut whole = long.clone();
                whole[1] = steps;
                let mut y = self.weight(format!(": f32[{}] = blob(\"y\")", extents(&whole)));
                for (t, part) in parts.iter().enumerate() {
                    let at = self.index(&extents(&long), t as i64, long.iter().product());
                    y = self.op("ScatterElements", &[&y, &at, part], "axis=1");
                }
                Some(y)
            }
        }
    }
}

fn refs(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

/// A recurrence written out; its step disguised `disguises` times.
/// Also gives the number of steps that are whole.
fn unrolled(p: &Recurrence, steps: usize, disguises: i64, r: &mut Rng) -> (Edited, usize) {
    let mut step = Edited::new(&format!("{}\n{}", p.weights, p.step));
    for _ in 0..disguises {
        disguise(&mut step, r);
    }
    let local: Vec<String> = step.nodes.iter().map(|n| n.result.clone()).collect();
    let (own, shared): (Vec<_>, Vec<_>) = step.weights.iter().cloned().partition(|w| p.own.contains(&&*w.0));
    let mut w = Writer {
        g: Edited::new(""),
        steps,
    };
    w.g.next = 100_000;
    w.g.weights = shared;
    let mut inputs = vec![];
    let mut state: Vec<String> = vec![];
    let zeros = r.range(0, 3) == 0 && !p.slices.is_empty();
    for (shape, _) in p.states {
        let shape_text = extents(shape);
        state.push(if zeros {
            let all = vec!["0.0"; shape.iter().product()];
            w.weight(format!(": f32[{shape_text}] = dense({})", all.join(",")))
        } else {
            let v = format!("%{}", 900 + inputs.len());
            inputs.push(format!("{v} \"h{}\": f32[{shape_text}]", inputs.len()));
            v
        });
    }
    let cut = *r.pick(CUTS);
    let wholes: Vec<Vec<String>> = p
        .slices
        .iter()
        .map(|shape| {
            let v = format!("%{}", 900 + inputs.len());
            let mut whole = shape.to_vec();
            whole.insert(1, steps);
            inputs.push(format!("{v} \"x{}\": f32[{}]", inputs.len(), extents(&whole)));
            w.whole(cut, &v, shape.len())
        })
        .collect();
    let mut results = vec![];
    for t in 0..steps {
        let here = |v: &str| -> String {
            let n: usize = v[1..].parse().unwrap_or(0);
            format!("%{}", 1000 * (t + 1) + n)
        };
        for (name, rest) in &own {
            w.g.weights
                .push((here(name), rest.replace("blob(\"", &format!("blob(\"step{t}"))));
        }
        let slices: Vec<String> = p
            .slices
            .iter()
            .zip(&wholes)
            .map(|(shape, whole)| w.slice(cut, whole, t, shape))
            .collect();
        let place = |v: &String| -> String {
            let (kind, number) = v.split_at(1);
            match (kind, number.parse::<usize>()) {
                ("H", Ok(i)) => state[i].clone(),
                ("X", Ok(i)) => slices[i].clone(),
                _ if local.contains(v) || p.own.contains(&v.as_str()) => here(v),
                _ => v.clone(),
            }
        };
        for n in &step.nodes {
            w.g.nodes.push(Node {
                result: here(&n.result),
                args: n.args.iter().map(place).collect(),
                ..n.clone()
            });
        }
        results.push(here(p.y));
        state = p.states.iter().map(|(_, next)| here(next)).collect();
    }
    let shape = match p.slices.first() {
        // A selective scan gives what its slices are.
        Some(first) if p.states[0].0.len() > 2 => first,
        _ => p.states[0].0,
    };
    let join = *r.pick(JOINS);
    let joined = w.join(join, &results, shape);
    let left = joined.is_none() || r.range(0, 1) == 0;
    if left {
        w.g.outputs.extend(state);
    }
    if joined.is_none() && !w.g.outputs.contains(&results[steps - 1]) {
        w.g.outputs.push(results[steps - 1].clone());
    }
    w.g.outputs.extend(joined);
    w.g.head = format!("graph @g ({}) {{", inputs.join(", "));
    (w.g, steps - usize::from(zeros) - usize::from(!left))
}

/// One loop, or one after the other where a state does not need the others, and beside them no more than two steps and what cuts and joins.
fn recovered(text: &str, p: &Recurrence) -> Result<(), String> {
    let after = optimized(&source::graph(text), text);
    let constants = after.constants();
    let rest = after
        .nodes()
        .filter(|(_, n)| !constants[n.outputs[0].0 as usize])
        .count();
    let few = 2 * p.step.lines().count() + 4 * (p.slices.len() + 2);
    match count(&after, "cameo::Scan") {
        1.. if rest <= few => Ok(()),
        loops => Err(format!("{loops} loops, {rest} nodes")),
    }
}

#[test]
fn disguised_recurrences_become_loops() {
    // Disguised in all steps, and in some only.
    for (kind, percent) in [("all", RECOVERED_PERCENT), ("some", OTHERWISE_PERCENT)] {
        let (mut kept, mut all) = (0, 0);
        let mut lost = std::collections::BTreeMap::<&str, (usize, String)>::new();
        for seed in 0..cases() {
            let p = &RECURRENCES[(seed % RECURRENCES.len() as u64) as usize];
            let mut r = Rng::new(seed ^ 0x10f);
            let steps = r.range(4, MOST as i64) as usize;
            let each = r.range(0, 4);
            let (mut g, whole) = unrolled(p, steps, each, &mut r);
            if kind == "some" {
                for _ in 0..r.range(1, 3) {
                    disguise(&mut g, &mut r);
                }
            }
            let text = g.text();
            let found = recovered(&text, p);
            if whole < LEAST {
                continue;
            }
            all += 1;
            match found {
                Ok(()) => kept += 1,
                Err(why) => lost.entry(p.name).or_insert((0, format!("{why}\n{text}"))).0 += 1,
            }
        }
        for (name, (times, text)) in &lost {
            println!("{name}: lost {times} times, first in\n{text}");
        }
        println!("disguised in {kind} steps: {kept} of {all} became loops");
        assert!(kept * 100 >= all * percent, "{kept} of {all}");
    }
}

/// Changes one step: a number, the slice that it reads, or anything.
fn edit_a_step(g: &mut Edited, r: &mut Rng) {
    let pick = |r: &mut Rng, of: Vec<usize>| (!of.is_empty()).then(|| *r.pick(&of));
    match r.range(0, 3) {
        0 => {
            let with = (0..g.nodes.len()).filter(|i| g.nodes[*i].args.iter().any(|a| g.scalar(a).is_some()));
            if let Some(at) = pick(r, with.collect()) {
                let arg = g.nodes[at].args.iter().position(|a| g.scalar(a).is_some()).unwrap_or(0);
                let c = g.scalar(&g.nodes[at].args[arg]).unwrap_or(0.0);
                let changed = g.add_scalar(*r.pick(&[c * 1.25, -c, c + 0.5]));
                g.nodes[at].args[arg] = changed;
            }
        }
        1 => {
            // The slices of two steps are one.
            let cuts: Vec<usize> = (0..g.nodes.len())
                .filter(|i| matches!(&*g.nodes[*i].op, "Gather" | "Slice" | "Squeeze"))
                .collect();
            if let (Some(a), Some(b)) = (pick(r, cuts.clone()), pick(r, cuts))
                && g.nodes[a].op == g.nodes[b].op
            {
                let other = g.nodes[b].clone();
                g.nodes[a].attrs = other.attrs;
                if a > b {
                    g.nodes[a].args = other.args;
                }
            }
        }
        2 => {
            let with = (0..g.nodes.len()).filter(|i| g.nodes[*i].op == "Sub");
            if let Some(at) = pick(r, with.collect()) {
                g.nodes[at].args.reverse();
            }
        }
        _ => edit(g, r),
    }
}

#[test]
fn changed_recurrences_keep_their_meaning() {
    let (mut legal, mut loops) = (0, 0);
    for seed in 0..cases() {
        let p = &RECURRENCES[(seed % RECURRENCES.len() as u64) as usize];
        let mut r = Rng::new(seed ^ 0xed17);
        let steps = r.range(4, MOST as i64 + 8) as usize;
        let each = r.range(0, 2);
        let (mut g, _) = unrolled(p, steps, each, &mut r);
        for _ in 0..r.range(1, 2) {
            edit_a_step(&mut g, &mut r);
        }
        let text = g.text();
        let Some(before) = source::try_graph(&text) else {
            continue;
        };
        legal += 1;
        loops += usize::from(count(&optimized(&before, &text), "cameo::Scan") > 0);
    }
    println!("{legal} legal graphs, {loops} of them with a loop");
    assert!(
        legal as u64 * 2 > cases() && loops * 10 > legal,
        "{legal} legal, {loops} loops"
    );
}
