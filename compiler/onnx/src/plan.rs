//! Which nodes of a list its outputs need, and in which order.
//!
//! ONNX wants nodes sorted; files that are not are sorted here. Nodes that no output needs are not imported.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Fault;
use crate::proto::{AttributeProto, GraphProto, NodeProto};

/// The answer.
pub(crate) struct Plan<'m> {
    /// Positions of the needed nodes, producers first; the order of the file where that is such an order.
    pub order: Vec<usize>,
    /// Names that some node or output reads.
    pub used: BTreeSet<&'m str>,
    /// What is wrong with the list itself, by node.
    pub faults: Vec<(usize, Fault)>,
    /// Names that were looked at.
    pub cost: usize,
}

/// Calls `f` for every name that the node reads, those that its subgraphs capture included (and, harmlessly, some that
/// they define themselves).
fn reads<'m>(node: &'m NodeProto, f: &mut dyn FnMut(&'m str)) {
    node.input.iter().filter(|n| !n.is_empty()).for_each(|n| f(n));
    if node.op_type == "Gradient" {
        // It names what it differentiates.
        let named = node.attribute.iter().filter(|a| a.name == "y");
        named.filter_map(|a| std::str::from_utf8(&a.s).ok()).for_each(f);
        return;
    }
    for a in &node.attribute {
        subgraphs(a).for_each(|g| captures(g, f));
    }
}

pub(crate) fn subgraphs(a: &AttributeProto) -> impl Iterator<Item = &GraphProto> {
    a.g.as_deref().into_iter().chain(&a.graphs)
}

/// The names that a graph defines.
pub(crate) fn defined(graph: &GraphProto) -> BTreeSet<&str> {
    let formals = graph.input.iter().map(|i| i.name.as_str());
    let weights = graph.initializer.iter().map(|t| t.name.as_str());
    let sparse = graph.sparse_initializer.iter().filter_map(|t| t.values.as_ref());
    let computed = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
    let all = formals.chain(weights).chain(sparse.map(|t| t.name.as_str()));
    all.chain(computed).collect()
}

/// Calls `f` for every name that the nodes and outputs of a graph read from around it.
pub(crate) fn captures<'m>(graph: &'m GraphProto, f: &mut dyn FnMut(&'m str)) {
    let own = defined(graph);
    let mut outside = |name: &'m str| {
        if !own.contains(name) {
            f(name);
        }
    };
    graph.node.iter().for_each(|n| reads(n, &mut outside));
    graph.output.iter().for_each(|o| outside(&o.name));
}

/// Plans a list of nodes whose results `roots` are wanted.
pub(crate) fn plan<'m>(nodes: &'m [NodeProto], roots: &[&'m str]) -> Plan<'m> {
    let mut plan = Plan {
        order: vec![],
        used: roots.iter().copied().collect(),
        faults: vec![],
        cost: nodes.len() + roots.len(),
    };
    let mut producers: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, node) in nodes.iter().enumerate() {
        plan.cost += node.output.len();
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            if producers.contains_key(name.as_str()) {
                plan.faults
                    .push((i, Fault::invalid(format!("value `{name}` is computed a second time"))));
            } else {
                producers.insert(name, i);
            }
        }
    }
    let mut needs: Vec<Vec<usize>> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let mut mine = vec![];
        reads(node, &mut |name| {
            plan.cost += 1;
            plan.used.insert(name);
            mine.extend(producers.get(name));
        });
        mine.sort_unstable();
        mine.dedup();
        needs.push(mine);
    }
    // Depth first, by hand: the chain of nodes can be longer than the stack is deep.
    let (mut state, mut order) = (vec![State::New; nodes.len()], vec![]);
    for root in roots.iter().filter_map(|r| producers.get(r)) {
        if state[*root] != State::New {
            continue;
        }
        state[*root] = State::Open;
        let mut stack = vec![(*root, 0)];
        while let Some((n, next)) = stack.pop() {
            let Some(&child) = needs[n].get(next) else {
                state[n] = State::Done;
                order.push(n);
                continue;
            };
            stack.push((n, next + 1));
            match state[child] {
                State::New => {
                    state[child] = State::Open;
                    stack.push((child, 0));
                }
                State::Open => {
                    plan.faults
                        .push((child, Fault::invalid("the node depends on its own result")));
                    return plan;
                }
                State::Done => {}
            }
        }
    }
    let sorted = (0..nodes.len()).filter(|i| state[*i] == State::Done);
    let in_order = sorted.clone().all(|i| needs[i].iter().all(|p| *p < i));
    plan.order = if in_order { sorted.collect() } else { order };
    plan
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Open,
    Done,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            input: inputs.iter().map(|s| (*s).into()).collect(),
            output: outputs.iter().map(|s| (*s).into()).collect(),
            ..NodeProto::default()
        }
    }

    #[test]
    fn only_what_is_needed_in_file_order() {
        let nodes = [
            node(&["x"], &["a"]),
            node(&["x"], &["dead"]),
            node(&["x"], &["b"]),
            node(&["b", "a"], &["y"]),
        ];
        let p = plan(&nodes, &["y"]);
        assert_eq!(p.order, [0, 2, 3]);
        assert!(p.used.contains("a") && p.used.contains("y") && !p.used.contains("dead"));
    }

    #[test]
    fn unsorted_lists_are_sorted() {
        let nodes = [node(&["a"], &["y"]), node(&["x"], &["a"])];
        assert_eq!(plan(&nodes, &["y"]).order, [1, 0]);
    }

    #[test]
    fn captures_count_as_reads() {
        let mut branch = node(&["c"], &["y"]);
        branch.attribute.push(AttributeProto {
            g: Some(Box::new(GraphProto {
                node: vec![node(&["a"], &["z"])],
                ..GraphProto::default()
            })),
            ..AttributeProto::default()
        });
        let nodes = [node(&["x"], &["a"]), branch];
        assert_eq!(plan(&nodes, &["y"]).order, [0, 1]);
    }

    #[test]
    fn cycles_and_repeats_are_faults() {
        let cycle = [node(&["b"], &["a"]), node(&["a"], &["b"])];
        let p = plan(&cycle, &["b"]);
        assert!(p.faults[0].1.message.contains("own result"));
        let repeat = [node(&["x"], &["a"]), node(&["x"], &["a"])];
        let p = plan(&repeat, &["a"]);
        assert_eq!((p.faults[0].0, p.order), (1, vec![0]));
    }
}
