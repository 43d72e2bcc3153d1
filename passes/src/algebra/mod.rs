//! Algebra: all applications of the rules are explored together in an e-graph, and the cheapest form is kept.
//!
//! ```text
//! %3 = Mul(%0, %1) : f32[N,4]
//! %4 = Mul(%0, %2) : f32[N,4]         →     %3 = Add(%1, %2) : f32[N,4]
//! %5 = Add(%3, %4) : f32[N,4]               %4 = Mul(%0, %3) : f32[N,4]
//! ```
//!
//! The rules are in `rules/*.rules`, one line each. The graph is cut into regions of consecutive nodes; for each, an
//! e-graph is grown within limits of rounds and nodes (never of time: that would make results depend on the machine), and
//! terms are extracted by a cost that counts shared work once. A region changes only if that makes it cheaper. Refused:
//! regions in which the rules contradict each other's types, and extractions with cycles.

mod cost;
mod extract;
mod language;
mod rule;

use cameo_ir::op::{OpError, invalid};
use cameo_ir::rewrite::Rewriter;
use cameo_ir::{Attr, NodeId, ValueId};
use egg::{Id, Language};
use rustc_hash::{FxHashMap, FxHashSet};

use self::cost::COSTS;
use self::extract::Extraction;
use self::language::{EGraph, ENode, Head, OPS, Terms};
use self::rule::{RULES, Rule};
use crate::Pass;

pub const PASS: Pass = Pass {
    name: "algebra",
    doc: "explores algebraic rewrites in an e-graph and keeps the cheapest form",
    run,
};

/// Rewrites reach over a few nodes; larger regions cost more than linearly in extraction.
const REGION_NODES: usize = 500;
/// The rules settle in 2 to 4 rounds on all models seen.
const ROUNDS: usize = 8;
/// Twenty alternatives for each node of a full region.
const E_NODES: usize = 10_000;

fn run(rw: &mut Rewriter) {
    let rules = match RULES.as_ref() {
        Ok(rules) => rules,
        Err(e) => {
            rw.refuse(&[], "rules", e.clone());
            return;
        }
    };
    for region in regions(rw) {
        simplify(rw, rules, &region);
    }
}

/// Runs of consecutive nodes with one output each, so that no path leaves a region and comes back.
fn regions(rw: &Rewriter) -> Vec<Vec<NodeId>> {
    let mut out = vec![vec![]];
    for n in rw.graph().order() {
        let node = rw.node(n);
        let opaque = node.outputs.len() != 1 || node.attrs.values().any(|a| matches!(a, Attr::Graph(_)));
        let full = out.last().is_some_and(|r| r.len() == REGION_NODES);
        if opaque || full {
            out.push(vec![]);
        }
        if !opaque && let Some(region) = out.last_mut() {
            region.push(n);
        }
    }
    out.retain(|r| !r.is_empty());
    out
}

/// A region as an e-graph.
struct Region {
    egraph: EGraph,
    /// The class of each value of the graph that occurs.
    classes: FxHashMap<ValueId, Id>,
    /// Values that others read.
    roots: Vec<ValueId>,
}

fn load(rw: &Rewriter, region: &[NodeId]) -> Region {
    let g = rw.graph();
    let mut egraph = EGraph::new(Terms::new(g));
    let mut classes: FxHashMap<ValueId, Id> = FxHashMap::default();
    let inside: FxHashSet<NodeId> = region.iter().copied().collect();
    let mut roots = vec![];
    for n in region {
        let node = g.node(*n);
        let mut children = vec![];
        for v in &node.inputs {
            children.push(match v {
                None => egraph.add(ENode {
                    head: Head::Absent,
                    children: vec![],
                }),
                Some(v) => match classes.get(v) {
                    Some(id) => *id,
                    None => {
                        let leaf = egraph.analysis.leaf(g, *v);
                        let id = egraph.add(leaf);
                        classes.insert(*v, id);
                        id
                    }
                },
            });
        }
        let attrs = egraph.analysis.intern(&node.attrs);
        let op = OPS.number(node.op.name()).unwrap_or(u16::MAX);
        egraph.analysis.origin = node.origin.clone();
        let id = egraph.add(ENode {
            head: Head::Op(op, attrs),
            children,
        });
        egraph.analysis.origin = cameo_ir::Origin::default();
        let v = node.outputs[0];
        classes.insert(v, id);
        if g.is_output(v) || g.users(v).iter().any(|u| !inside.contains(u)) {
            roots.push(v);
        }
    }
    egraph.rebuild();
    Region { egraph, classes, roots }
}

/// Applies the rules until nothing new comes or a limit is reached; the names of those that found something.
fn saturate<'r>(egraph: &mut EGraph, rules: &'r [Rule]) -> Vec<&'r str> {
    let mut used = vec![];
    for _ in 0..ROUNDS {
        // Classes by the operations in them, in order.
        let mut by_op: FxHashMap<u16, Vec<Id>> = FxHashMap::default();
        let mut ids: Vec<Id> = egraph.classes().map(|c| c.id).collect();
        ids.sort_unstable();
        for id in ids {
            let mut ops: Vec<u16> = vec![];
            for node in &egraph[id].nodes {
                if let Head::Op(op, _) = node.head
                    && !ops.contains(&op)
                {
                    ops.push(op);
                    by_op.entry(op).or_default().push(id);
                }
            }
        }
        // All matches are found before any is applied, so that the order of rules does not matter.
        let mut found = vec![];
        for rule in rules {
            for id in by_op.get(&rule.root()).into_iter().flatten() {
                found.extend(rule.matches(egraph, *id).into_iter().map(|m| (rule, *id, m)));
            }
        }
        let mut news = false;
        for (rule, id, m) in found {
            if egraph.total_size() > E_NODES {
                break;
            }
            if rule.apply(egraph, id, &m) {
                news = true;
                if !used.contains(&rule.name.as_str()) {
                    used.push(rule.name.as_str());
                }
            }
        }
        egraph.rebuild();
        if !news || egraph.total_size() > E_NODES {
            break;
        }
    }
    used
}

fn simplify(rw: &mut Rewriter, rules: &[Rule], nodes: &[NodeId]) {
    let mut region = load(rw, nodes);
    let used = saturate(&mut region.egraph, rules);
    if used.is_empty() {
        return;
    }
    let Region { egraph, classes, roots } = &region;
    let detail = used.join(", ");
    if egraph.analysis.contradiction {
        rw.refuse(
            nodes,
            &detail,
            "internal error in pass `algebra`: types contradict each other",
        );
        return;
    }
    let extraction = Extraction::new(egraph, &COSTS);
    let mut plan = Plan {
        egraph,
        extraction: &extraction,
        originals: FxHashMap::default(),
        terms: FxHashMap::default(),
        built: FxHashMap::default(),
        open: FxHashSet::default(),
    };
    // Terms that exist already, with their values.
    for n in nodes {
        let node = rw.node(*n);
        let children = node
            .inputs
            .iter()
            .map(|v| v.and_then(|v| classes.get(&v)).map(|c| egraph.find(*c)));
        let v = node.outputs[0];
        if let Some(children) = children.collect::<Option<Vec<Id>>>() {
            let (op, id) = (OPS.number(node.op.name()), egraph.find(classes[&v]));
            for term in &egraph[id].nodes {
                if let Head::Op(o, a) = term.head
                    && Some(o) == op
                    && term.children == children
                    && *egraph.analysis.attrs(a) == node.attrs
                {
                    plan.originals.entry(term.clone()).or_insert(v);
                    plan.terms.insert(v, term.clone());
                }
            }
        }
    }
    let now = plan.price(classes);
    let Some(then) = plan.extracted_price(roots, classes) else {
        rw.refuse(nodes, &detail, "the cheapest terms need each other");
        return;
    };
    if then >= now {
        return;
    }
    let dying: Vec<NodeId> = nodes
        .iter()
        .copied()
        .filter(|n| !plan.keeps(rw, *n, roots, classes))
        .collect();
    rw.replace_values(roots, &dying, &detail, |rw| {
        roots.iter().map(|v| plan.value(rw, classes[v])).collect()
    });
}

/// How extracted terms become nodes.
struct Plan<'a> {
    egraph: &'a EGraph,
    extraction: &'a Extraction,
    /// Terms of the region as it is, and their values.
    originals: FxHashMap<ENode, ValueId>,
    /// The same the other way round: the term of each value.
    terms: FxHashMap<ValueId, ENode>,
    built: FxHashMap<Id, ValueId>,
    /// Classes under way, to find cycles.
    open: FxHashSet<Id>,
}

impl Plan<'_> {
    /// Cost of the region as it is; equal nodes count twice, as they do now.
    fn price(&self, classes: &FxHashMap<ValueId, Id>) -> u64 {
        let cost = |(v, term): (&ValueId, &ENode)| COSTS.of(self.egraph, self.egraph.find(classes[v]), term);
        // A sum does not depend on the order of the map.
        self.terms.iter().filter_map(cost).fold(0, u64::saturating_add)
    }

    /// Cost of the extracted terms, each once; `None` when they are cyclic or something has none.
    fn extracted_price(&self, roots: &[ValueId], classes: &FxHashMap<ValueId, Id>) -> Option<u64> {
        let (mut done, mut open) = (FxHashSet::default(), FxHashSet::default());
        let mut total = 0u64;
        for v in roots {
            self.walk(self.egraph.find(classes[v]), &mut done, &mut open, &mut total)?;
        }
        Some(total)
    }

    fn walk(&self, id: Id, done: &mut FxHashSet<Id>, open: &mut FxHashSet<Id>, total: &mut u64) -> Option<()> {
        if done.contains(&id) {
            return Some(());
        }
        if !open.insert(id) {
            return None;
        }
        let term = self.extraction.term(id)?;
        for c in term.children() {
            self.walk(self.egraph.find(*c), done, open, total)?;
        }
        *total = total.saturating_add(COSTS.of(self.egraph, id, term)?);
        open.remove(&id);
        done.insert(id);
        Some(())
    }

    /// Whether the node is among the extracted terms.
    fn keeps(&self, rw: &Rewriter, n: NodeId, roots: &[ValueId], classes: &FxHashMap<ValueId, Id>) -> bool {
        let v = rw.node(n).outputs[0];
        let term = classes
            .get(&v)
            .and_then(|id| self.extraction.term(self.egraph.find(*id)));
        let same = term.is_some_and(|t| self.originals.get(t) == Some(&v));
        same && (roots.contains(&v) || !rw.graph().users(v).is_empty())
    }

    /// The value of a class: an existing one where the extracted term is a node of the graph that reads the same values.
    fn value(&mut self, rw: &mut Rewriter, id: Id) -> Result<ValueId, OpError> {
        let id = self.egraph.find(id);
        if let Some(v) = self.built.get(&id) {
            return Ok(*v);
        }
        if !self.open.insert(id) {
            return invalid("the extracted terms are cyclic");
        }
        let Some(term) = self.extraction.term(id) else {
            return invalid("a class without a term");
        };
        let v = match term.head {
            Head::Absent => return invalid("an absent operand has no value"),
            Head::Leaf(v) => v,
            Head::Op(op, attrs) => {
                let mut inputs = vec![];
                for c in &term.children {
                    let absent = self.egraph[*c].nodes.iter().any(|n| n.head == Head::Absent);
                    inputs.push(if absent { None } else { Some(self.value(rw, *c)?) });
                }
                let existing = self.originals.get(term).copied();
                let same = existing.and_then(|v| rw.graph().producer(v)).filter(|(n, _)| {
                    let mut trimmed = inputs.clone();
                    trimmed.truncate(rw.node(*n).inputs.len());
                    rw.node(*n).inputs == trimmed
                });
                match (same, existing) {
                    (Some(_), Some(v)) => v,
                    _ => {
                        let attrs = self.egraph.analysis.attrs(attrs).clone();
                        let origin = self.egraph[id].data.origin.clone();
                        rw.with_origin(origin, |rw| rw.add_node(OPS.get(op), attrs, inputs, 1))?[0]
                    }
                }
            }
        };
        self.open.remove(&id);
        self.built.insert(id, v);
        Ok(v)
    }
}

#[cfg(test)]
mod tests {
    use super::PASS;
    use crate::testing::{Random, graph, rewrite, same};

    #[test]
    fn common_factors() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4], %1 "a": f32[N,4], %2 "b": f32[N,4]) symbols N=1.. {
              %3 = Mul(%0, %1) from "xa"
              %4 = Mul(%2, %0) from "bx"
              %5 = Add(%3, %4) from "sum"
              return %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,4], %1 "a": f32[N,4], %2 "b": f32[N,4]) symbols N=1.. {
          %3 = Add(%1, %2) : f32[N,4] from "bx", "sum", "xa"
          %4 = Mul(%0, %3) : f32[N,4] from "bx", "sum", "xa"
          return %4 "y"
        }
        "#);
    }

    #[test]
    fn shared_work_is_not_done_again() {
        // The products are needed anyway, so taking the factor out would only add work.
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4], %1 "a": f32[N,4], %2 "b": f32[N,4]) symbols N=1.. {
              %3 = Mul(%0, %1)
              %4 = Mul(%0, %2)
              %5 = Add(%3, %4)
              return %3 "p", %4 "q", %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,4], %1 "a": f32[N,4], %2 "b": f32[N,4]) symbols N=1.. {
          %3 = Mul(%0, %1) : f32[N,4]
          %4 = Mul(%0, %2) : f32[N,4]
          %5 = Add(%3, %4) : f32[N,4]
          return %3 "p", %4 "q", %5 "y"
        }
        "#);
    }

    #[test]
    fn constants_meet() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {
              weight %1: f32[2] = random
              weight %2: f32[2] = random
              weight %3: f32[2] = random
              %4 = Mul(%0, %1)
              %5 = Add(%4, %2)
              %6 = Mul(%5, %3)
              %7 = Add(%6, %2)
              return %7 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2]) symbols N=1.. {
          weight %1: f32[2] = dense(1.0,-2.0)
          weight %2: f32[2] = dense(-1.125,0.25)
          weight %3: f32[2] = dense(-2.0,-2.0)
          %4 = Mul(%1, %2) : f32[2]
          %5 = Mul(%0, %4) : f32[N,2]
          %6 = Mul(%3, %2) : f32[2]
          %7 = Add(%6, %3) : f32[2]
          %8 = Add(%5, %7) : f32[N,2]
          return %8 "y"
        }
        "#);
    }

    #[test]
    fn movement_cancels() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,3], %1 "z": f32[N,2,3]) symbols N=1.. {
              %2 = Transpose(%0) {perm=[0,2,1]}
              %3 = Transpose(%1) {perm=[0,2,1]}
              %4 = Add(%2, %3)
              %5 = Transpose(%4) {perm=[0,2,1]}
              return %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,3], %1 "z": f32[N,2,3]) symbols N=1.. {
          %2 = Add(%0, %1) : f32[N,2,3]
          return %2 "y"
        }
        "#);
    }

    #[test]
    fn products_of_one_operand_are_one_product() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {
              weight %1: f32[2,3] = random
              weight %2: f32[2,3] = random
              %3 = MatMul(%0, %1)
              %4 = MatMul(%0, %2)
              %5 = Add(%3, %4)
              return %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2]) symbols N=1.. {
          weight %1: f32[2,3] = dense(…)
          weight %2: f32[2,3] = dense(…)
          %3 = Add(%1, %2) : f32[2,3]
          %4 = MatMul(%0, %3) : f32[N,3]
          return %4 "y"
        }
        "#);
    }

    /// Random terms of the operations in the rules: the result computes the same, twice the same, within bounded time.
    #[test]
    fn random_terms_stay_equal() {
        for seed in 0..40 {
            let mut random = Random::new(seed);
            let mut lines = String::new();
            let mut values = vec![0, 1, 2, 3];
            for i in 4..40 {
                let mut pick = || values[(random.next() % values.len() as u64) as usize];
                let (a, b) = (pick(), pick());
                let op = match random.next() % 7 {
                    0 => format!("Neg(%{a})"),
                    1 | 2 => format!("Add(%{a}, %{b})"),
                    3 => format!("Sub(%{a}, %{b})"),
                    4 => format!("MatMul(%{a}, %{b})"),
                    5 => format!("Transpose(%{a}) {{perm=[1,0]}}"),
                    _ => format!("Mul(%{a}, %{b})"),
                };
                lines += &format!("  %{i} = {op}\n");
                // Recent values more often: deep terms.
                values.push(i);
                values.push(i);
            }
            // Values stay small: the comparison is absolute near zero.
            let source = format!(
                "graph @g (%0 \"x\": f32[2,2], %1 \"z\": f32[2,2]) {{\nweight %2: f32[2,2] = random\nweight %3: f32[2,2] = \
                 random\n{lines}  %40 = Tanh(%12)\n %41 = Tanh(%20)\n return %40 \"y\", %41 \"w\"\n}}\n"
            );
            let before = graph(&source);
            let (mut a, mut b) = (before.clone(), before.clone());
            crate::run(&PASS, &mut a);
            crate::run(&PASS, &mut b);
            assert_eq!(cameo_ir::text::print(&a), cameo_ir::text::print(&b));
            cameo_ir::verify::verify(&a).expect("a legal graph");
            same(&before, &a);
        }
    }
}
