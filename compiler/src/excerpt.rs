//! The ONNX nodes around a node, in the manner of the text IR: for diagnostics about nodes that never became a graph.
//!
//! Names stand where the text IR has numbers. The model is read again here, only once something is wrong with it.

use std::fmt::Write as _;
use std::path::Path;

use cameo_onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto};
use prost::Message;

use crate::diagnostic::Diagnostic;

/// A model as its file has it.
pub struct Source {
    model: ModelProto,
}

/// Larger files are not read a second time: an excerpt is not worth their memory.
const MAX_BYTES: u64 = 256 << 20;
/// Lines before and after the node: producers of its operands, readers of its results.
const MAX_NEIGHBOURS: usize = 4;
/// Names and attributes longer than this are cut; hostile files have longer ones.
const MAX_TEXT: usize = 80;
/// Operands, results and attributes shown per node.
const MAX_ITEMS: usize = 8;

impl Source {
    /// `None` when the file is too large or not a model.
    pub fn open(path: &Path) -> Option<Self> {
        if std::fs::metadata(path).ok()?.len() > MAX_BYTES {
            return None;
        }
        let bytes = std::fs::read(path).ok()?;
        Some(Self {
            model: ModelProto::decode(bytes::Bytes::from(bytes)).ok()?,
        })
    }

    fn graph(&self) -> Option<&GraphProto> {
        self.model.graph.as_deref()
    }

    /// Operators of the main graph with how often they occur, in name order.
    pub fn operators(&self) -> std::collections::BTreeMap<String, usize> {
        let mut out = std::collections::BTreeMap::new();
        for n in self.graph().iter().flat_map(|g| &g.node) {
            *out.entry(operator(n)).or_default() += 1;
        }
        out
    }

    /// Fills in what the diagnostic does not know yet and the file does.
    pub fn complete(&self, d: &mut Diagnostic) {
        let (Some(name), Some(graph)) = (&d.node, self.graph()) else {
            return;
        };
        let index = match name.strip_prefix("node #") {
            Some(i) => i.parse().ok().filter(|i| *i < graph.node.len()),
            None => graph.node.iter().position(|n| n.name == *name),
        };
        let Some(index) = index else { return };
        let node = &graph.node[index];
        if d.opset.is_none() {
            // A decomposed operation failed: the user knows the one in the file.
            d.op = Some(operator(node));
            d.opset = self.opset(&node.domain);
        }
        if d.excerpt.is_none() {
            d.excerpt = Some(around(graph, index));
        }
    }

    fn opset(&self, domain: &str) -> Option<i64> {
        let plain = |d: &str| if d == "ai.onnx" { String::new() } else { d.to_owned() };
        let of = self
            .model
            .opset_import
            .iter()
            .find(|o| plain(&o.domain) == plain(domain));
        of.map(|o| o.version)
    }
}

fn operator(n: &NodeProto) -> String {
    match n.domain.as_str() {
        "" | "ai.onnx" => cut(&n.op_type),
        d => cut(&format!("{d}::{}", n.op_type)),
    }
}

fn around(graph: &GraphProto, index: usize) -> String {
    let node = &graph.node[index];
    let feeds = |n: &NodeProto| n.output.iter().any(|o| !o.is_empty() && node.input.contains(o));
    let reads = |n: &NodeProto| n.input.iter().any(|i| !i.is_empty() && node.output.contains(i));
    let mut out = String::new();
    let near = |f: &dyn Fn(&NodeProto) -> bool, out: &mut String| {
        let mut found = graph
            .node
            .iter()
            .enumerate()
            .filter(|(i, n)| *i != index && f(n))
            .map(|(_, n)| n);
        for n in found.by_ref().take(MAX_NEIGHBOURS) {
            line(out, "  ", n);
        }
        if found.next().is_some() {
            out.push_str("  …\n");
        }
    };
    near(&feeds, &mut out);
    line(&mut out, "> ", node);
    near(&reads, &mut out);
    out
}

/// `%y = Conv(%x, %w, _) {kernel_shape=[3,3]} from "name"`.
fn line(out: &mut String, mark: &str, n: &NodeProto) {
    let name = |s: &String| {
        if s.is_empty() {
            "_".to_owned()
        } else {
            format!("%{}", cut(s))
        }
    };
    let list = |items: &[String]| {
        let mut shown: Vec<String> = items.iter().take(MAX_ITEMS).map(name).collect();
        if items.len() > MAX_ITEMS {
            shown.push("…".into());
        }
        shown.join(", ")
    };
    let _ = write!(out, "{mark}{} = {}({})", list(&n.output), operator(n), list(&n.input));
    if !n.attribute.is_empty() {
        let shown: Vec<String> = n.attribute.iter().take(MAX_ITEMS).map(attribute).collect();
        let more = if n.attribute.len() > MAX_ITEMS { ", …" } else { "" };
        let _ = write!(out, " {{{}{more}}}", shown.join(", "));
    }
    if !n.name.is_empty() {
        let _ = write!(out, " from {:?}", cut(&n.name));
    }
    out.push('\n');
}

fn attribute(a: &AttributeProto) -> String {
    let value = if !a.ref_attr_name.is_empty() {
        format!("@{}", a.ref_attr_name)
    } else if let Some(t) = &a.t {
        format!("tensor{:?}", &t.dims[..t.dims.len().min(MAX_ITEMS)])
    } else if a.g.is_some() {
        "graph".into()
    } else if !a.s.is_empty() {
        format!("{:?}", String::from_utf8_lossy(&a.s[..a.s.len().min(MAX_TEXT)]))
    } else if !a.ints.is_empty() {
        format!("{:?}", &a.ints[..a.ints.len().min(MAX_ITEMS)])
    } else if !a.floats.is_empty() {
        format!("{:?}", &a.floats[..a.floats.len().min(MAX_ITEMS)])
    } else if a.f != 0.0 {
        format!("{:?}", a.f)
    } else {
        a.i.to_string()
    };
    cut(&format!("{}={value}", a.name))
}

/// At most [`MAX_TEXT`] characters, none of which moves the cursor.
fn cut(s: &str) -> String {
    let mut out: String = s
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(MAX_TEXT)
        .collect();
    if s.chars().nth(MAX_TEXT).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, op: &str, input: &[&str], output: &[&str]) -> NodeProto {
        NodeProto {
            name: name.into(),
            op_type: op.into(),
            input: input.iter().map(ToString::to_string).collect(),
            output: output.iter().map(ToString::to_string).collect(),
            ..NodeProto::default()
        }
    }

    #[test]
    fn shows_producers_and_readers() {
        let graph = GraphProto {
            node: vec![
                node("a", "Relu", &["x"], &["h"]),
                node("b", "Foo", &["h", "", "w"], &["y"]),
                node("c", "Abs", &["z"], &["z2"]),
                node("", "Neg", &["y"], &["out"]),
            ],
            ..GraphProto::default()
        };
        let want = "  %h = Relu(%x) from \"a\"\n> %y = Foo(%h, _, %w) from \"b\"\n  %out = Neg(%y)\n";
        assert_eq!(around(&graph, 1), want);
    }

    #[test]
    fn long_and_hostile_names_are_cut() {
        let long = "x".repeat(1000);
        assert_eq!(cut(&long).chars().count(), MAX_TEXT + 1);
        assert_eq!(cut("a\u{1b}[2J"), "a?[2J");
    }
}
