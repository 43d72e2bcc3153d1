//! Graphs as text that can be edited: disguises, which keep the meaning, and edits, which change it.

use cameo_ir::random::Rng;

/// A graph's text as lines that can be edited.
#[derive(Clone)]
pub struct Edited {
    pub head: String,
    /// Weights, then nodes: result and the rest of the line.
    pub weights: Vec<(String, String)>,
    pub nodes: Vec<Node>,
    pub outputs: Vec<String>,
    pub next: usize,
}

#[derive(Clone)]
pub struct Node {
    pub result: String,
    pub op: String,
    pub args: Vec<String>,
    pub attrs: String,
}

impl Edited {
    pub fn new(text: &str) -> Self {
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

    pub fn text(&self) -> String {
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

    pub fn fresh(&mut self) -> String {
        self.next += 1;
        format!("%{}", self.next)
    }

    /// The number of a scalar weight.
    pub fn scalar(&self, name: &str) -> Option<f64> {
        let (_, rest) = self.weights.iter().find(|(n, _)| n == name)?;
        let number = rest.strip_prefix(": f32[] = dense(")?.strip_suffix(')')?;
        number.parse().ok().filter(|v: &f64| v.is_finite())
    }

    pub fn add_scalar(&mut self, v: f64) -> String {
        let name = self.fresh();
        self.weights
            .push((name.clone(), format!(": f32[] = dense({:?})", v as f32)));
        name
    }

    /// Puts nodes before node `at`, the last of which its operand `arg` becomes.
    /// Whether `v` is true or false.
    fn is_condition(&self, v: &str) -> bool {
        let Some(n) = self.nodes.iter().find(|n| n.result == v) else {
            return false;
        };
        match &*n.op {
            "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Not" | "And" | "Or" => true,
            "Identity" | "Squeeze" | "Unsqueeze" | "Transpose" | "Reshape" => self.is_condition(&n.args[0]),
            _ => false,
        }
    }

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
pub fn disguise(g: &mut Edited, r: &mut Rng) {
    let at = r.range(0, g.nodes.len() as i64 - 1) as usize;
    let arg = r.range(0, g.nodes[at].args.len() as i64 - 1) as usize;
    let is_weight = |g: &Edited, v: &str| g.weights.iter().any(|(n, _)| n == v);
    // Conditions are no numbers, and operands that say where are not data.
    let movable = {
        let (op, v) = (g.nodes[at].op.clone(), g.nodes[at].args[arg].clone());
        !(is_weight(g, &v) || op == "Where" && arg == 0 || op == "Cast" || g.is_condition(&v))
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
pub fn edit(g: &mut Edited, r: &mut Rng) {
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
