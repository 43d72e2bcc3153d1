//! Algebra: all applications of the rules are explored together in an e-graph, and the cheapest form is kept.
//!
//! ```text
//! %3 = Mul(%0, %1) : f32[N,4]
//! %4 = Mul(%0, %2) : f32[N,4]         →     %3 = Add(%1, %2) : f32[N,4]
//! %5 = Add(%3, %4) : f32[N,4]               %4 = Mul(%0, %3) : f32[N,4]
//! ```
//!
//! The rules are in `rules/*.rules`, one line each. Nodes of the operations on their left sides, as far as they read each
//! other, are cut into regions, and a region is left alone unless some left side can match in it; what else there is are
//! leaves. For each region, an e-graph is grown within limits of rounds and nodes (never of time: that would make results
//! depend on the machine), and terms are extracted by a cost that counts shared work once. A region changes only if that
//! makes it cheaper; then it is looked at again, cut at other places. Refused: regions in which the rules contradict each
//! other's types, and extractions with cycles.

mod cost;
mod extract;
mod language;
mod rule;

use cameo_ir::op::{OpError, invalid};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, NodeId, Op, Origin, ValueId};
use egg::{Id, Language};
use rustc_hash::{FxHashMap, FxHashSet};

use self::cost::COSTS;
use self::extract::Extraction;
use self::language::{EGraph, ENode, Head, Nodes, Nominal, OPS, Terms, nominal};
use self::rule::{RULES, Rule};
use crate::Pass;

pub const PASS: Pass = Pass {
    name: "algebra",
    doc: "explores algebraic rewrites in an e-graph and keeps the cheapest form",
    run,
};

/// Rewrites reach over a few nodes, and extraction takes time with the square of a region. As many as a set of them holds.
const REGION_NODES: usize = Nodes::BITS as usize;
/// The rules settle in 2 to 4 rounds on all models seen.
const ROUNDS: usize = 8;
/// Eight alternatives for each node of a full region.
const E_NODES: usize = 8 * REGION_NODES;
/// A sweep makes a chain as much shorter as a region's becomes: thousands of nodes are a few after three of them, and the
/// last two find nothing.
const SWEEPS: usize = 16;

fn run(rw: &mut Rewriter) {
    match RULES.as_ref() {
        Ok(rules) => {
            explore(rw, rules);
        }
        Err(e) => {
            rw.refuse(&[], "rules", e.clone());
        }
    }
}

/// What the search cost, in numbers that are the same on every machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Work {
    regions: usize,
    /// In all e-graphs together.
    e_nodes: usize,
    /// Terms that were considered for their classes.
    offers: usize,
}

/// Simplifies region by region until nothing changes.
fn explore(rw: &mut Rewriter, rules: &[Rule]) -> Work {
    let mut work = Work::default();
    let nominal = nominal(rw.graph());
    let mut operations = FxHashSet::default();
    rules.iter().for_each(|r| r.operations(&mut operations));
    let operations: FxHashSet<Op> = operations.into_iter().map(|o| OPS.get(o)).collect();
    // Regions that were looked at and stayed.
    let mut settled: FxHashSet<Vec<NodeId>> = FxHashSet::default();
    let mut idle = 0;
    for sweep in 0..SWEEPS {
        // Where one sweep cuts, the next does not.
        let first = if sweep % 2 == 0 { REGION_NODES } else { REGION_NODES / 2 };
        let before = rw.changes();
        for region in regions(rw, rules, &operations, first) {
            // A region may lose nodes to one before it.
            if settled.contains(&region) || !region.iter().all(|n| rw.graph().contains(*n)) {
                continue;
            }
            work.regions += 1;
            if simplify(rw, rules, &nominal, &region, &mut work) != Outcome::Applied {
                settled.insert(region);
            }
        }
        idle = if rw.changes() == before { idle + 1 } else { 0 };
        if idle == 2 {
            break;
        }
    }
    work
}

/// Nodes of the given operations that are connected to each other, in pieces: of each set the first piece has at most
/// `first` nodes, the others have [`REGION_NODES`]. Pieces in which no left side can match are left out. The order and the
/// pieces depend on the text of the graph alone.
///
/// A path may leave a region and come back: terms of a class all read the same leaves, so that nothing extracted reads
/// what comes after it.
fn regions(rw: &Rewriter, rules: &[Rule], operations: &FxHashSet<Op>, first: usize) -> Vec<Vec<NodeId>> {
    let constants = rw.constants();
    let takes_part = |n: NodeId| {
        let node = rw.node(n);
        operations.contains(&node.op)
            && node.outputs.iter().all(|v| !constants[v.0 as usize])
            && node.outputs.len() == 1
            && !node.attrs.values().any(|a| matches!(a, Attr::Graph(_)))
    };
    let nodes: Vec<NodeId> = rw.graph().order().into_iter().filter(|n| takes_part(*n)).collect();
    let places: FxHashMap<NodeId, usize> = nodes.iter().enumerate().map(|(i, n)| (*n, i)).collect();
    // Sets of connected nodes, as trees of which the first node is the root.
    let mut parents: Vec<usize> = (0..nodes.len()).collect();
    fn root(parents: &mut [usize], mut i: usize) -> usize {
        while parents[i] != i {
            parents[i] = parents[parents[i]];
            i = parents[i];
        }
        i
    }
    for (i, n) in nodes.iter().enumerate() {
        for (p, _) in rw
            .node(*n)
            .inputs
            .iter()
            .flatten()
            .filter_map(|v| rw.graph().producer(*v))
        {
            if let Some(j) = places.get(&p) {
                let (a, b) = (root(&mut parents, i), root(&mut parents, *j));
                parents[a.max(b)] = a.min(b);
            }
        }
    }
    let mut out: Vec<(Vec<NodeId>, bool)> = vec![];
    // Of each set the piece that grows, and how far.
    let mut open: FxHashMap<usize, (usize, usize)> = FxHashMap::default();
    for (i, n) in nodes.iter().enumerate() {
        let set = root(&mut parents, i);
        let piece = match open.get(&set) {
            Some((piece, limit)) if out[*piece].0.len() < *limit => *piece,
            grown => {
                let limit = if grown.is_some() { REGION_NODES } else { first };
                out.push((vec![], false));
                open.insert(set, (out.len() - 1, limit));
                out.len() - 1
            }
        };
        let v = rw.node(*n).outputs[0];
        out[piece].0.push(*n);
        out[piece].1 |= rules.iter().any(|r| r.may_match(rw, &constants, v));
    }
    out.into_iter()
        .filter(|(_, hope)| *hope)
        .map(|(nodes, _)| nodes)
        .collect()
}

/// A region as an e-graph.
struct Region {
    egraph: EGraph,
    /// The class of each value of the graph that occurs.
    classes: FxHashMap<ValueId, Id>,
    /// Values that others read.
    roots: Vec<ValueId>,
}

fn load(rw: &Rewriter, nominal: &Nominal, region: &[NodeId]) -> Region {
    let g = rw.graph();
    let constants = rw.constants();
    let mut egraph = EGraph::new(Terms::new(nominal));
    let mut classes: FxHashMap<ValueId, Id> = FxHashMap::default();
    let inside: FxHashSet<NodeId> = region.iter().copied().collect();
    let mut roots = vec![];
    for (place, n) in region.iter().enumerate() {
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
                        let leaf = egraph.analysis.leaf(g, &constants, *v);
                        let id = egraph.add(leaf);
                        classes.insert(*v, id);
                        id
                    }
                },
            });
        }
        let attrs = egraph.analysis.intern(&node.attrs);
        let op = OPS.number(node.op.name()).unwrap_or(u16::MAX);
        egraph.analysis.origin = 1 << place;
        let id = egraph.add(ENode {
            head: Head::Op(op, attrs),
            children,
        });
        egraph.analysis.origin = 0;
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

fn simplify(rw: &mut Rewriter, rules: &[Rule], nominal: &Nominal, nodes: &[NodeId], work: &mut Work) -> Outcome {
    let mut region = load(rw, nominal, nodes);
    let used = saturate(&mut region.egraph, rules);
    work.e_nodes += region.egraph.total_size();
    if used.is_empty() {
        return Outcome::NoMatch;
    }
    let Region { egraph, classes, roots } = &region;
    let detail = used.join(", ");
    if egraph.analysis.contradiction {
        let reason = "internal error in pass `algebra`: types contradict each other";
        return rw.refuse(nodes, &detail, reason);
    }
    let extraction = Extraction::new(egraph, &COSTS);
    work.offers += extraction.offers;
    let mut plan = Plan {
        egraph,
        extraction: &extraction,
        origins: nodes.iter().map(|n| rw.node(*n).origin.clone()).collect(),
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
        return rw.refuse(nodes, &detail, "the cheapest terms need each other");
    };
    if then >= now {
        return Outcome::NoMatch;
    }
    let dying: Vec<NodeId> = nodes
        .iter()
        .copied()
        .filter(|n| !plan.keeps(rw, *n, roots, classes))
        .collect();
    rw.replace_values(roots, &dying, &detail, |rw| {
        roots.iter().map(|v| plan.value(rw, classes[v])).collect()
    })
}

/// How extracted terms become nodes.
struct Plan<'a> {
    egraph: &'a EGraph,
    extraction: &'a Extraction,
    /// Of the nodes of the region.
    origins: Vec<Origin>,
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
        same && (roots.contains(&v) || rw.graph().user_count(v) > 0)
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
                        let from = self.egraph[id].data.origin;
                        let names = (0..self.origins.len()).filter(|i| from & (1 << i) != 0);
                        let origin = Origin::from_names(names.flat_map(|i| self.origins[i].names().iter().cloned()));
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
    use cameo_ir::Graph;
    use cameo_ir::rewrite::Rewriter;

    use super::{PASS, RULES, Work, explore};
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

    /// A graph of `n` nodes on rows of four numbers: `next` writes the node after `before`, in which `%1` to `%4` are
    /// weights, `%5` is a matrix and `%6` the input.
    fn long(n: usize, mut next: impl FnMut(usize, &[usize]) -> String) -> Graph {
        let weights: String = (1..5)
            .map(|i| format!("weight %{i}: f32[4] = dense(0.5, 1.0, {i}.0, -1.0)\n"))
            .collect();
        let mut source =
            format!("graph @g (%6 \"x\": f32[N,4]) symbols N=1.. {{\n{weights}weight %5: f32[4,4] = random\n");
        let mut values = vec![6];
        for i in 7..7 + n {
            source += &format!("%{i} = {}\n", next(i, &values));
            values.push(i);
        }
        source += &format!("return %{} \"y\"\n}}\n", 6 + n);
        graph(&source)
    }

    fn chain(i: usize, values: &[usize]) -> String {
        format!(
            "{}(%{}, %{})",
            ["Mul", "Add"][i % 2],
            values[values.len() - 1],
            1 + i % 4
        )
    }

    fn diamonds(i: usize, values: &[usize]) -> String {
        let last = |k: usize| values[values.len().saturating_sub(k)];
        match i % 3 {
            0 => format!("Add(%{}, %{})", last(1), last(2)),
            1 => format!("Mul(%{}, %1)", last(1)),
            _ => format!("Mul(%{}, %2)", last(2)),
        }
    }

    fn mixed(random: &mut Random, values: &[usize]) -> String {
        let mut pick = |n: usize| (random.next() % n as u64) as usize;
        let recent = values.len().min(6);
        let (a, b) = (
            values[values.len() - 1 - pick(recent)],
            values[values.len() - 1 - pick(recent)],
        );
        match pick(12) {
            0 | 1 => format!("Mul(%{a}, %{})", 1 + pick(4)),
            2 | 3 => format!("Add(%{a}, %{})", 1 + pick(4)),
            4 | 5 => format!("Add(%{a}, %{b})"),
            6 => format!("Mul(%{a}, %{b})"),
            7 => format!("Sub(%{a}, %{b})"),
            8 => format!("Neg(%{a})"),
            9 => format!("MatMul(%{a}, %5)"),
            10 => format!("Relu(%{a})"),
            _ => format!("Softmax(%{a})"),
        }
    }

    fn searched(g: &mut Graph) -> Work {
        let rules = RULES.as_ref().unwrap_or_else(|e| panic!("{e}"));
        let mut rw = Rewriter::new(g, PASS.name);
        explore(&mut rw, rules)
    }

    #[test]
    fn the_work_is_linear_in_the_graph() {
        for n in [1_000, 10_000] {
            let mut random = Random::new(3);
            let graphs = [
                long(n, chain),
                long(n, diamonds),
                long(n, |_, values| mixed(&mut random, values)),
            ];
            for (kind, mut g) in graphs.into_iter().enumerate() {
                let work = searched(&mut g);
                cameo_ir::verify::verify(&g).expect("a legal graph");
                // A full e-graph has 8 for each node, and is searched again where it changed.
                assert!(work.e_nodes <= 40 * n, "kind {kind}, {n} nodes: {work:?}");
                assert!(work.offers <= 400 * n, "kind {kind}, {n} nodes: {work:?}");
                let constants = g.constants();
                let left = g.nodes().filter(|(_, n)| !constants[n.outputs[0].0 as usize]).count();
                assert!(kind == 2 || left <= 4, "kind {kind}: {left} nodes of {n} are left");
            }
        }
    }

    #[test]
    fn long_graphs_stay_equal() {
        let mut random = Random::new(5);
        for before in [
            long(40, chain),
            long(60, diamonds),
            long(150, |_, values| mixed(&mut random, values)),
        ] {
            let mut after = before.clone();
            crate::run(&PASS, &mut after);
            same(&before, &after);
        }
    }

    #[test]
    fn where_no_rule_can_match_nothing_is_searched() {
        // The residual sums of a network: Add over Add, but of nothing constant.
        let mut g = long(300, |i, values| {
            let last = values[values.len() - 1];
            match i % 3 {
                0 => format!("Add(%{}, %{last})", values[values.len().saturating_sub(3)]),
                1 => format!("MatMul(%{last}, %5)"),
                _ => format!("Relu(%{last})"),
            }
        });
        assert_eq!(searched(&mut g), Work::default());
    }
}
