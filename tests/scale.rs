//! Large graphs: work grows with the number of nodes, not with its square.
//!
//! The measure is the memory that the compiler takes from the allocator, which is the same on every machine: it shows what
//! copies or collects something for each pair of nodes. What only looks at each pair does not show, but for the time of these
//! tests.

use std::fmt::Write;
use std::sync::Mutex;

use cameo::{Options, pipeline};
use cameo_ir::Graph;
use cameo_kernel::targets::x86_64;
use cameo_tests::allocations;
use cameo_tests::source;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Nodes of the large graphs. The largest real models that come as one file have a third.
const NODES: usize = 10_000;

/// The small ones are so much smaller.
const TIMES: usize = 4;

/// The work may grow by a quarter more than the graph: tables double when they are full.
const SLACK_PERCENT: usize = 125;

/// A graph's text while it grows.
#[derive(Default)]
struct Text {
    weights: String,
    nodes: String,
    count: usize,
    next: usize,
}

impl Text {
    fn fresh(&mut self) -> String {
        self.next += 1;
        format!("%{}", 10 + self.next)
    }

    fn weight(&mut self, shape: &str) -> String {
        let v = self.fresh();
        let _ = writeln!(self.weights, "weight {v}: f32[{shape}] = blob(\"w{}\")", self.next);
        v
    }

    fn number(&mut self, dtype: &str, n: &str) -> String {
        let v = self.fresh();
        let _ = writeln!(self.weights, "weight {v}: {dtype}[] = dense({n})");
        v
    }

    fn op(&mut self, op: &str, operands: &[&str], attrs: &str) -> String {
        let v = self.fresh();
        self.count += 1;
        let _ = writeln!(self.nodes, "{v} = {op}({}) {{{attrs}}}", operands.join(", "));
        v
    }

    fn dense(&mut self, x: &str, from: usize, to: usize) -> String {
        let (w, b) = (self.weight(&format!("{from},{to}")), self.weight(&to.to_string()));
        let y = self.op("MatMul", &[x, &w], "");
        self.op("Add", &[&y, &b], "")
    }

    fn norm(&mut self, x: &str, width: usize) -> String {
        let (small, scale) = (self.number("f32", "1e-5"), self.weight(&width.to_string()));
        let mean = self.op("ReduceMean", &[x], "axes=dims[-1]");
        let centred = self.op("Sub", &[x, &mean], "");
        let squared = self.op("Mul", &[&centred, &centred], "");
        let variance = self.op("ReduceMean", &[&squared], "axes=dims[-1]");
        let variance = self.op("Add", &[&variance, &small], "");
        let deviation = self.op("Sqrt", &[&variance], "");
        let y = self.op("Div", &[&centred, &deviation], "");
        self.op("Mul", &[&y, &scale], "")
    }

    fn part(&mut self, x: &str, from: usize, to: usize) -> String {
        self.op(
            "Slice",
            &[x],
            &format!("axes=dims[-1], ends=dims[{to}], starts=dims[{from}]"),
        )
    }

    fn finish(self, inputs: &str, y: &str) -> Graph {
        let (weights, nodes) = (self.weights, self.nodes);
        source::graph(&format!(
            "graph @g ({inputs}) symbols B=1.. {{\n{weights}{nodes}return {y} \"y\"\n}}"
        ))
    }
}

/// More elements than the loop over equal layers stacks: layers stay layers.
const WIDTH: usize = 40;

fn pointwise(nodes: usize) -> Graph {
    let mut t = Text::default();
    let mut x = "%0".to_owned();
    for op in ["Relu", "Mul", "Tanh", "Add", "Sigmoid"]
        .into_iter()
        .cycle()
        .take(nodes)
    {
        x = match op {
            "Mul" | "Add" => {
                let w = t.weight("40");
                t.op(op, &[&x, &w], "")
            }
            _ => t.op(op, &[&x], ""),
        };
    }
    t.finish("%0 \"x\": f32[B,40]", &x)
}

fn blocks(nodes: usize) -> Graph {
    let mut t = Text::default();
    let mut x = "%0".to_owned();
    while t.count < nodes {
        let h = t.norm(&x, WIDTH);
        let h = t.dense(&h, WIDTH, 2 * WIDTH);
        let h = t.op("Relu", &[&h], "");
        let h = t.dense(&h, 2 * WIDTH, WIDTH);
        x = t.op("Add", &[&x, &h], "");
    }
    t.finish("%0 \"x\": f32[B,40]", &x)
}

fn attention(nodes: usize) -> Graph {
    let mut t = Text::default();
    let mut x = "%0".to_owned();
    while t.count < nodes {
        let h = t.norm(&x, WIDTH);
        let [q, k, v] = [(); 3].map(|()| {
            let p = t.dense(&h, WIDTH, WIDTH);
            let p = t.op("Reshape", &[&p], "shape=dims[B,16,2,20]");
            t.op("Transpose", &[&p], "perm=[0,2,1,3]")
        });
        let k = t.op("Transpose", &[&k], "perm=[0,1,3,2]");
        let logits = t.op("MatMul", &[&q, &k], "");
        let p = t.op("Softmax", &[&logits], "axis=-1");
        let o = t.op("MatMul", &[&p, &v], "");
        let o = t.op("Transpose", &[&o], "perm=[0,2,1,3]");
        let o = t.op("Reshape", &[&o], "shape=dims[B,16,40]");
        let o = t.dense(&o, WIDTH, WIDTH);
        x = t.op("Add", &[&x, &o], "");
    }
    t.finish("%0 \"x\": f32[B,16,40]", &x)
}

/// Parallel branches that meet in one node.
fn wide(nodes: usize, join: &str, attrs: &str) -> Graph {
    let mut t = Text::default();
    let mut parts = vec![];
    while t.count < nodes {
        let w = t.weight("8");
        let y = t.op("Mul", &["%0", &w], "");
        let y = t.op("Tanh", &[&y], "");
        let y = t.dense(&y, 8, 4);
        parts.push(t.op("Relu", &[&y], ""));
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let y = t.op(join, &parts, attrs);
    t.finish("%0 \"x\": f32[B,8]", &y)
}

/// Every branch is computed where the parts are joined.
fn joined(nodes: usize) -> Graph {
    let mut t = Text::default();
    let mut parts = vec![];
    while t.count < nodes {
        let w = t.weight("8");
        let y = t.op("Mul", &["%0", &w], "");
        parts.push(t.op("Tanh", &[&y], ""));
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let y = t.op("Concat", &parts, "axis=1");
    t.finish("%0 \"x\": f32[B,8]", &y)
}

/// Gated cells over time; with weights of their own the steps stay apart.
fn cells(nodes: usize, own: bool) -> Graph {
    let mut t = Text::default();
    let steps = nodes / 22;
    let weights = |t: &mut Text| [t.weight("40,120"), t.weight("40,120"), t.weight("120")];
    let (all, one) = (weights(&mut t), t.number("f32", "1.0"));
    let (mut h, mut parts) = ("%0".to_owned(), vec![]);
    for step in 0..steps {
        let [w, u, b] = if own { weights(&mut t) } else { all.clone() };
        let at = t.number("i64", &step.to_string());
        let x = t.op("Gather", &["%1", &at], "axis=1");
        let x = t.op("MatMul", &[&x, &w], "");
        let x = t.op("Add", &[&x, &b], "");
        let s = t.op("MatMul", &[&h, &u], "");
        let [r, z] = [0, 40].map(|i| {
            let (x, s) = (t.part(&x, i, i + 40), t.part(&s, i, i + 40));
            let sum = t.op("Add", &[&x, &s], "");
            t.op("Sigmoid", &[&sum], "")
        });
        let (x, s) = (t.part(&x, 80, 120), t.part(&s, 80, 120));
        let s = t.op("Mul", &[&r, &s], "");
        let c = t.op("Add", &[&x, &s], "");
        let c = t.op("Tanh", &[&c], "");
        let rest = t.op("Sub", &[&one, &z], "");
        let (c, old) = (t.op("Mul", &[&rest, &c], ""), t.op("Mul", &[&z, &h], ""));
        h = t.op("Add", &[&c, &old], "");
        parts.push(t.op("Unsqueeze", &[&h], "axes=dims[1]"));
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let y = t.op("Concat", &parts, "axis=1");
    t.finish(&format!("%0 \"h\": f32[B,40], %1 \"x\": f32[B,{steps},40]"), &y)
}

fn turned_halves(nodes: usize) -> Graph {
    let mut t = Text::default();
    let mut x = "%0".to_owned();
    while t.count < nodes {
        let (a, b) = (t.part(&x, 0, 20), t.part(&x, 20, 40));
        let b = t.op("Neg", &[&b], "");
        let y = t.op("Concat", &[&b, &a], "axis=1");
        let w = t.weight("40");
        let (p, q) = (t.op("Mul", &[&x, &w], ""), t.op("Mul", &[&y, &w], ""));
        let y = t.op("Add", &[&p, &q], "");
        let y = t.dense(&y, WIDTH, WIDTH);
        x = t.op("Add", &[&x, &y], "");
    }
    t.finish("%0 \"x\": f32[B,40]", &x)
}

/// Bytes that all passes and the partition allocate.
fn work(mut g: Graph) -> usize {
    let before = allocations::bytes();
    let silent = &mut |_: cameo::Event| {};
    pipeline::optimize(&mut g, &Options::default(), silent).expect("passes");
    pipeline::partition(&g, &x86_64::V4, &Options::default(), silent).expect("a program");
    allocations::bytes() - before
}

/// Tests at the same time would be counted together.
static ALONE: Mutex<()> = Mutex::new(());

fn linear(make: impl Fn(usize) -> Graph) {
    let _alone = ALONE.lock();
    let (small, large) = (make(NODES / TIMES), make(NODES));
    let nodes = large.node_count();
    assert!(nodes.abs_diff(NODES) * 50 < NODES, "{nodes} nodes");
    let (few, many) = (work(small), work(large));
    println!("{} kB for {nodes} nodes, {} kB for a fraction", many >> 10, few >> 10);
    assert!(
        many * 100 <= few * TIMES * SLACK_PERCENT,
        "{many} is more than {TIMES} times {few}"
    );
}

#[test]
fn chains_of_pointwise_operations() {
    linear(pointwise);
}

#[test]
fn residual_blocks() {
    linear(blocks);
}

#[test]
fn transformer_blocks() {
    linear(attention);
}

#[test]
fn branches_that_are_joined() {
    linear(|n| wide(n, "Concat", "axis=1"));
}

#[test]
fn branches_that_are_summed() {
    linear(|n| wide(n, "Sum", ""));
}

#[test]
fn pointwise_branches_that_are_joined() {
    linear(joined);
}

#[test]
fn steps_of_one_cell() {
    linear(|n| cells(n, false));
}

#[test]
fn steps_of_many_cells() {
    linear(|n| cells(n, true));
}

#[test]
fn halves_that_are_turned() {
    linear(turned_halves);
}
