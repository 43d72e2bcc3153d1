//! Makes a graph that shows a problem smaller: delta debugging, for `cameo reduce` and the fuzz tests.
//!
//! A candidate is the graph without some nodes: what they computed and others read becomes an input (or a weight, where
//! the elements are known), what they read becomes an output. Then outputs are dropped, nodes are bypassed, attributes
//! are left out, symbols become constants and extents shrink, as long as the problem stays. Laws: every candidate
//! passes the verifier; the result is one for which `keep` answered yes (or the given graph); the order of attempts
//! depends on the graph alone; the number of calls is bounded.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::index;
use crate::verify::verify;
use crate::{Attr, Attrs, DType, Dim, Fact, Graph, NodeId, Sym, Tensor, ValueId};

/// At some 50 ms per compilation of a graph that gets small quickly, this is about a minute.
pub const MAX_CALLS: usize = 1000;

/// The smallest graph found for which `keep` is true. `keep` is taken to be true of `g`.
pub fn shrink(g: &Graph, keep: &mut dyn FnMut(&Graph) -> bool) -> Graph {
    shrink_within(g, MAX_CALLS, keep)
}

/// [`shrink`] with at most `calls` calls of `keep`.
pub fn shrink_within(g: &Graph, calls: usize, keep: &mut dyn FnMut(&Graph) -> bool) -> Graph {
    let mut s = Shrinker {
        best: g.clone(),
        calls,
        keep,
    };
    loop {
        let before = s.calls;
        let mut better = s.remove_nodes();
        better |= s.drop_outputs();
        better |= s.bypass_nodes();
        better |= s.drop_attrs();
        better |= s.fix_symbols();
        better |= s.shrink_extents();
        if !better || s.calls == 0 || s.calls == before {
            return s.best;
        }
    }
}

struct Shrinker<'k> {
    best: Graph,
    /// Left.
    calls: usize,
    keep: &'k mut dyn FnMut(&Graph) -> bool,
}

/// How a candidate differs from the graph.
struct Plan<'a> {
    removed: FxHashSet<NodeId>,
    /// Readers of the first value read the second.
    replaced: Option<(ValueId, ValueId)>,
    /// Outputs that are left out, by position.
    dropped: FxHashSet<usize>,
    attr_dropped: Option<(NodeId, Arc<str>)>,
    dim: &'a dyn Fn(&Dim) -> Dim,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self {
            removed: FxHashSet::default(),
            replaced: None,
            dropped: FxHashSet::default(),
            attr_dropped: None,
            dim: &Dim::clone,
        }
    }
}

impl Shrinker<'_> {
    /// Takes the candidate if it can be built and the problem stays.
    fn attempt(&mut self, plan: &Plan) -> bool {
        let Some(candidate) = build(&self.best, plan) else {
            return false;
        };
        if self.calls == 0 {
            return false;
        }
        self.calls -= 1;
        let kept = (self.keep)(&candidate);
        if kept {
            self.best = candidate;
        }
        kept
    }

    /// Halves, then quarters, … of the nodes in order.
    fn remove_nodes(&mut self) -> bool {
        let mut better = false;
        let mut chunk = self.best.node_count().div_ceil(2);
        while chunk > 0 {
            let mut end = self.best.node_count();
            while end > 0 {
                let start = end.saturating_sub(chunk);
                let removed = self.best.order()[start..end].iter().copied().collect();
                better |= self.attempt(&Plan {
                    removed,
                    ..Plan::default()
                });
                end = start.min(self.best.node_count());
            }
            chunk /= 2;
        }
        better
    }

    fn drop_outputs(&mut self) -> bool {
        let mut better = false;
        // Alone first: most problems show in one output.
        let mut at = self.best.outputs().len();
        while at > 0 && self.best.outputs().len() > 1 {
            at -= 1;
            let count = self.best.outputs().len();
            let all_but = |i: usize| (0..count).filter(|k| *k != i).collect();
            if count > 2
                && self.attempt(&Plan {
                    dropped: all_but(at),
                    ..Plan::default()
                })
            {
                return true;
            }
        }
        let mut at = self.best.outputs().len();
        while at > 0 {
            at -= 1;
            if self.best.outputs().len() > 1 {
                let dropped = [at].into_iter().collect();
                better |= self.attempt(&Plan {
                    dropped,
                    ..Plan::default()
                });
                at = at.min(self.best.outputs().len());
            }
        }
        better
    }

    /// Replaces results by operands of the same type and shape.
    fn bypass_nodes(&mut self) -> bool {
        let mut better = false;
        let mut at = 0;
        while let Some(n) = self.best.order().get(at).copied() {
            let node = self.best.node(n).clone();
            let fits = |v: &ValueId, x: &ValueId| {
                let (f, e) = (self.best.fact(*v), self.best.fact(*x));
                f.dtype == e.dtype && f.shape == e.shape
            };
            let pairs: Vec<(ValueId, ValueId)> = node
                .outputs
                .iter()
                .flat_map(|v| node.inputs.iter().flatten().map(move |x| (*v, *x)))
                .filter(|(v, x)| fits(v, x))
                .collect();
            let done = pairs.into_iter().any(|p| {
                self.attempt(&Plan {
                    replaced: Some(p),
                    ..Plan::default()
                })
            });
            better |= done;
            at += usize::from(!done);
        }
        better
    }

    fn drop_attrs(&mut self) -> bool {
        let mut better = false;
        for at in 0..self.best.node_count() {
            let Some(n) = self.best.order().get(at).copied() else {
                break;
            };
            let names: Vec<Arc<str>> = self.best.node(n).attrs.keys().cloned().collect();
            for name in names {
                // The node keeps its place, not its id.
                let Some(n) = self.best.order().get(at).copied() else {
                    break;
                };
                better |= self.attempt(&Plan {
                    attr_dropped: Some((n, name)),
                    ..Plan::default()
                });
            }
        }
        better
    }

    fn fix_symbols(&mut self) -> bool {
        let mut better = false;
        let names: Vec<Arc<str>> = self.best.symbols.keys().cloned().collect();
        for name in names {
            let (lo, hi) = self.best.symbol_range(&name);
            // 1 is special in broadcasting; 3 fills no vector.
            for value in [2, 3, 1].into_iter().filter(|v| (lo..=hi).contains(v)) {
                let fixed = |d: &Dim| {
                    d.subst(&|s| match s {
                        Sym::Named(n) if *n == name => Some(Dim::from(value)),
                        _ => None,
                    })
                };
                if self.attempt(&Plan {
                    dim: &fixed,
                    ..Plan::default()
                }) {
                    better = true;
                    break;
                }
            }
        }
        better
    }

    /// Replaces a constant extent everywhere by a smaller one.
    fn shrink_extents(&mut self) -> bool {
        let mut better = false;
        loop {
            let mut extents: Vec<i64> = self
                .best
                .value_ids()
                .filter(|v| self.best.producer(*v).is_none())
                .flat_map(|v| {
                    self.best
                        .fact(v)
                        .shape
                        .iter()
                        .filter_map(Dim::as_const)
                        .collect::<Vec<_>>()
                })
                .filter(|c| *c > 1)
                .collect();
            extents.sort_unstable_by(|a, b| b.cmp(a));
            extents.dedup();
            let mut steps = extents.into_iter().flat_map(|c| {
                [1, 2, 3, c / 2, c - 1]
                    .into_iter()
                    .filter(move |k| *k > 0 && *k < c)
                    .map(move |k| (c, k))
            });
            let smaller = steps.any(|(c, k)| {
                let dim = |d: &Dim| {
                    if d.as_const() == Some(c) {
                        Dim::from(k)
                    } else {
                        d.clone()
                    }
                };
                self.attempt(&Plan {
                    dim: &dim,
                    ..Plan::default()
                })
            });
            if !smaller {
                return better;
            }
            better = true;
        }
    }
}

/// The candidate; `None` when it would not be a sound graph with outputs, or is no different.
fn build(g: &Graph, plan: &Plan) -> Option<Graph> {
    let instead = |v: ValueId| match plan.replaced {
        Some((from, to)) if from == v => to,
        _ => v,
    };
    let kept = |n: &NodeId| !plan.removed.contains(n);
    let computed = |v: ValueId| g.producer(v).is_some_and(|(p, _)| kept(&p));

    let mut outputs: Vec<(Arc<str>, ValueId)> = vec![];
    let push = |outputs: &mut Vec<(Arc<str>, ValueId)>, name: Arc<str>, v: ValueId| {
        if computed(v) && !outputs.iter().any(|(_, o)| *o == v) {
            outputs.push((name, v));
        }
    };
    for (i, (name, v)) in g.outputs().iter().enumerate() {
        if !plan.dropped.contains(&i) {
            push(&mut outputs, name.clone(), instead(*v));
        }
    }
    let order = g.order();
    for n in order.iter().filter(|n| !kept(n)) {
        for v in g.node(*n).inputs.iter().flatten() {
            push(&mut outputs, fresh(g, "out", *v), instead(*v));
        }
    }
    if outputs.is_empty() {
        return None;
    }

    // Nodes that the outputs need.
    let mut needed: FxHashSet<NodeId> = FxHashSet::default();
    let mut stack: Vec<ValueId> = outputs.iter().map(|(_, v)| *v).collect();
    while let Some(v) = stack.pop() {
        if let Some((p, _)) = g.producer(v)
            && kept(&p)
            && needed.insert(p)
        {
            stack.extend(g.node(p).inputs.iter().flatten().map(|v| instead(*v)));
        }
    }
    let order: Vec<NodeId> = order.into_iter().filter(|n| needed.contains(n)).collect();
    let order = sorted(g, order, &instead);

    let mut out = Graph::new(&g.name);
    let mut map: FxHashMap<ValueId, ValueId> = FxHashMap::default();
    let read: Vec<ValueId> = order
        .iter()
        .flat_map(|n| g.node(*n).inputs.iter().flatten().map(|v| instead(*v)))
        .collect();
    for v in g.inputs().iter().filter(|v| read.contains(v)) {
        let new = out.add_input(&g.value(*v).name, mapped(g.fact(*v), plan.dim));
        map.insert(*v, new);
    }
    for v in read {
        if computed(v) || map.contains_key(&v) {
            continue;
        }
        let new = match (g.constant(v), constant_elements(g.fact(v))) {
            (Some(t), _) => out.add_weight(&g.value(v).name, cut(t, plan.dim)?),
            (None, Some(t)) => out.add_weight(&g.value(v).name, t),
            (None, None) => out.add_input(&fresh(g, "cut", v), mapped(g.fact(v), plan.dim)),
        };
        map.insert(v, new);
    }
    for n in order {
        let node = g.node(n);
        let inputs = node.inputs.iter().map(|v| v.map(|v| map[&instead(v)])).collect();
        let mut attrs: Attrs = node.attrs.clone();
        for a in attrs.values_mut() {
            if let Attr::Dims(d) = a {
                d.iter_mut().for_each(|d| *d = (plan.dim)(d));
            }
        }
        if let Some((at, name)) = &plan.attr_dropped
            && *at == n
        {
            attrs.remove(name);
        }
        let made = out
            .add_node(node.op, attrs, inputs, node.outputs.len(), node.origin.clone())
            .ok()?;
        for (old, new) in node.outputs.iter().zip(made) {
            out.set_name(new, &g.value(*old).name);
            map.insert(*old, new);
        }
    }
    for (name, v) in outputs {
        out.add_output(&name, map[&v]);
    }
    for (name, range) in &mut out.symbols {
        if let Some(r) = g.symbols.get(name) {
            *range = *r;
        }
    }
    let smaller = out.node_count() < g.node_count()
        || out.outputs().len() < g.outputs().len()
        || plan.attr_dropped.is_some()
        || size(&out) != size(g);
    (smaller && verify(&out).is_ok()).then_some(out)
}

/// Producers before consumers again, after a replacement.
fn sorted(g: &Graph, order: Vec<NodeId>, instead: &dyn Fn(ValueId) -> ValueId) -> Vec<NodeId> {
    let member: FxHashSet<NodeId> = order.iter().copied().collect();
    let mut done: FxHashSet<NodeId> = FxHashSet::default();
    let mut out = vec![];
    for root in order {
        let mut stack = vec![(root, false)];
        while let Some((n, ready)) = stack.pop() {
            if ready {
                out.push(n);
            } else if done.insert(n) {
                stack.push((n, true));
                let operands = g.node(n).inputs.iter().rev().flatten().map(|v| instead(*v));
                let producers = operands.filter_map(|v| g.producer(v)).map(|(p, _)| p);
                stack.extend(
                    producers
                        .filter(|p| member.contains(p) && !done.contains(p))
                        .map(|p| (p, false)),
                );
            }
        }
    }
    out
}

/// What shrinking extents makes smaller.
fn size(g: &Graph) -> Vec<Vec<Dim>> {
    let ends = g.value_ids().filter(|v| g.producer(*v).is_none());
    ends.map(|v| g.fact(v).shape.clone()).collect()
}

fn mapped(f: &Fact, dim: &dyn Fn(&Dim) -> Dim) -> Fact {
    Fact::new(f.dtype, f.shape.iter().map(dim).collect::<Vec<_>>())
}

/// The value's own name where it has one; unique by its number otherwise.
fn fresh(g: &Graph, prefix: &str, v: ValueId) -> Arc<str> {
    let name = &g.value(v).name;
    let taken =
        |n: &str| g.inputs().iter().any(|i| &*g.value(*i).name == n) || g.outputs().iter().any(|(o, _)| &**o == n);
    if name.is_empty() || taken(name) {
        format!("{prefix}_{}", v.0).into()
    } else {
        name.clone()
    }
}

/// The tensor, when all elements are known.
fn constant_elements(f: &Fact) -> Option<Tensor> {
    let shape = f.static_shape()?;
    let ints: Option<Vec<i64>> = f.known.as_ref()?.iter().map(Dim::as_const).collect();
    let ints = ints.filter(|v| v.len() == shape.iter().product::<usize>() && f.dtype != DType::Bool)?;
    Some(Tensor::from_i64(f.dtype, &shape, ints))
}

/// The leading part of a weight, of the mapped shape.
fn cut(t: &Tensor, dim: &dyn Fn(&Dim) -> Dim) -> Option<Tensor> {
    let shape: Option<Vec<usize>> = t
        .shape()
        .iter()
        .map(|d| dim(&Dim::from(*d)).as_const().and_then(|c| usize::try_from(c).ok()))
        .collect();
    let shape = shape?;
    if shape == t.shape() {
        return Some(t.clone());
    }
    if shape.iter().zip(t.shape()).any(|(n, o)| n > o) {
        return None;
    }
    let size = t.dtype().size();
    let mut data = vec![];
    index::for_each(&shape, |ix| {
        let at = index::linear(t.shape(), ix) * size;
        data.extend_from_slice(&t.bytes()[at..at + size]);
    });
    Tensor::new(t.dtype(), shape, data.into()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Options, graph};
    use crate::text::print;

    fn chain() -> Graph {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Fact::new(DType::F32, [Dim::sym("N"), Dim::from(40usize)]));
        let w = g.add_weight("w", Tensor::f32(&[40, 8], vec![1.0; 320]));
        let mut v = x;
        for _ in 0..6 {
            v = g.apply("Abs", &[], &[v]).expect("types");
        }
        v = g.apply("MatMul", &[], &[v, w]).expect("types");
        for _ in 0..6 {
            v = g.apply("Tanh", &[], &[v]).expect("types");
        }
        g.add_output("y", v);
        let z = g.apply("Exp", &[], &[x]).expect("types");
        g.add_output("z", z);
        g
    }

    fn has(g: &Graph, op: &str) -> bool {
        g.nodes().any(|(_, n)| n.op == op)
    }

    #[test]
    fn only_the_guilty_node_stays() {
        let small = shrink(&chain(), &mut |g| has(g, "MatMul"));
        assert_eq!(
            print(&small),
            "graph @g (%0 \"cut_2\": f32[1,1]) {\n  \
               weight %1 \"w\": f32[1,1] = dense(1.0)\n  \
               %2 = MatMul(%0, %1) : f32[1,1]\n  \
               return %2 \"out_8\"\n}\n"
        );
    }

    #[test]
    fn what_matters_stays() {
        // The problem needs two nodes that are far apart, the symbol and an extent above 5.
        let small = shrink(&chain(), &mut |g| {
            let wide = g
                .value_ids()
                .any(|v| g.fact(v).shape.iter().any(|d| d.as_const() > Some(5)));
            has(g, "Abs") && has(g, "Tanh") && !g.symbols.is_empty() && wide
        });
        assert_eq!(small.node_count(), 2, "{}", print(&small));
        assert!(small.symbols.contains_key("N"));
    }

    #[test]
    fn calls_are_bounded_and_the_result_is_always_good() {
        for seed in 0..30 {
            let g = graph(seed, &Options::default());
            let Some(op) = g.order().first().map(|n| g.node(*n).op) else {
                continue;
            };
            let mut calls = 0;
            let mut pred = |c: &Graph| {
                calls += 1;
                c.nodes().any(|(_, n)| n.op == op)
            };
            let small = shrink_within(&g, 50, &mut pred);
            assert!(calls <= 50);
            assert!(verify(&small).is_ok());
            assert!(small.nodes().any(|(_, n)| n.op == op));
            let again = shrink_within(&g, 50, &mut |c| c.nodes().any(|(_, n)| n.op == op));
            assert_eq!(print(&small), print(&again));
        }
    }
}
