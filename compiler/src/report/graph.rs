//! A graph as data for the page: boxes in topological order with what is known of them, edges, and where they are drawn.

use std::collections::BTreeSet;

use cameo_ir::ops::FAMILIES;
use cameo_ir::{Attr, Dim, Graph, Node, ValueId};
use cameo_kernel::Program;
use serde_json::{Value, json};

use super::Names;
use super::layout::layout;

/// Characters of an attribute that are shown: a table of positions is not to be read here.
const ATTR_MAX: usize = 160;

/// The inputs, nodes and outputs of a graph; with a program, which of its steps compute each node.
pub fn describe(g: &Graph, program: Option<&Program>, names: &mut Names) -> Value {
    let steps = program.map(Steps::new);
    let mut boxes: Vec<Value> = vec![];
    let mut made_by: Vec<Option<usize>> = vec![None; g.value_count()];
    let mut edges: Vec<(usize, usize)> = vec![];
    for v in g.inputs() {
        made_by[v.0 as usize] = Some(boxes.len());
        boxes.push(json!({"kind": "input", "op": *g.value(*v).name, "out": [operand(g, *v)]}));
    }
    for n in g.order() {
        let node = g.node(n);
        for v in node.inputs.iter().flatten() {
            edges.extend(made_by[v.0 as usize].map(|from| (from, boxes.len())));
        }
        for v in &node.outputs {
            made_by[v.0 as usize] = Some(boxes.len());
        }
        let attrs: Vec<Value> = node.attrs.iter().map(|(k, a)| json!([**k, attribute(a)])).collect();
        let list = |v: &mut dyn Iterator<Item = Option<ValueId>>| -> Vec<Value> {
            v.map(|v| v.map_or(Value::Null, |v| operand(g, v))).collect()
        };
        boxes.push(json!({
            "kind": class(node.op.name()),
            "op": node.op.name(),
            "names": names.of(&node.origin),
            "attrs": attrs,
            "in": list(&mut node.inputs.iter().copied()),
            "out": list(&mut node.outputs.iter().copied().map(Some)),
            "steps": steps.as_ref().map(|s| s.of(g, node)),
        }));
    }
    for (name, v) in g.outputs() {
        edges.extend(made_by[v.0 as usize].map(|from| (from, boxes.len())));
        boxes.push(json!({"kind": "output", "op": **name, "in": [operand(g, *v)]}));
    }
    edges.sort_unstable();
    edges.dedup();
    let layout = layout(boxes.len(), &edges);
    json!({"boxes": boxes, "edges": edges, "at": layout.at, "trunks": layout.trunks})
}

/// Name, type, and whether it is a weight.
fn operand(g: &Graph, v: ValueId) -> Value {
    json!([*g.value(v).name, g.fact(v).to_string(), g.constant(v).is_some()])
}

fn attribute(a: &Attr) -> String {
    let dims = |d: &[Dim]| d.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let text = match a {
        Attr::Int(i) => i.to_string(),
        Attr::Float(f) => format!("{f:?}"),
        Attr::Str(s) => format!("{s:?}"),
        Attr::Ints(i) => format!("{i:?}"),
        Attr::Floats(f) => format!("{f:?}"),
        Attr::Strs(s) => format!("{s:?}"),
        Attr::Dims(d) => format!("[{}]", dims(d)),
        Attr::DType(t) => t.to_string(),
        Attr::Tensor(t) => t.fact().to_string(),
        Attr::Graph(g) => format!("a graph of {} nodes", g.node_count()),
    };
    match text.char_indices().nth(ATTR_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// Which colour an operation has.
fn class(op: &str) -> &'static str {
    let family = FAMILIES
        .iter()
        .find(|(_, ops)| ops.iter().any(|o| o.schema().name == op));
    match family.map_or("", |(name, _)| *name) {
        "Contractions" | "Convolution" | "Attention" => "contraction",
        "Reductions" | "Extreme positions" | "Softmax" | "Pooling" => "reduction",
        name if name.starts_with("Normalization") => "reduction",
        "Shapes and constants" | "Data movement" | "Joining, cutting and padding" | "Gather and scatter" | "Resize" => {
            "movement"
        }
        _ => "pointwise",
    }
}

/// The steps of a program, to be asked by node.
struct Steps<'a> {
    steps: Vec<(BTreeSet<&'a str>, BTreeSet<&'a str>)>,
}

impl<'a> Steps<'a> {
    fn new(p: &'a Program) -> Self {
        let names = |s: &'a cameo_kernel::program::Step| {
            let values = s.values.iter().map(|(v, _)| &*p.graph.value(*v).name);
            let origin = s.origin.names().iter().map(|n| &**n).collect();
            (origin, values.filter(|n| !n.is_empty()).collect())
        };
        Self {
            steps: p.steps.iter().map(names).collect(),
        }
    }

    /// The steps that stand for the node's ONNX nodes; of these, when there are, those that write one of its results.
    fn of(&self, g: &Graph, node: &Node) -> Vec<usize> {
        let names = node.origin.names();
        let all = |i: &usize| !names.is_empty() && names.iter().all(|n| self.steps[*i].0.contains(&**n));
        let stand: Vec<usize> = (0..self.steps.len()).filter(all).collect();
        let writes = |i: &usize| {
            node.outputs
                .iter()
                .any(|v| self.steps[*i].1.contains(&*g.value(*v).name))
        };
        let write: Vec<usize> = stand.iter().copied().filter(writes).collect();
        if write.is_empty() { stand } else { write }
    }
}
