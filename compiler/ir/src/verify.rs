//! The verifier: finds everything that is wrong with a graph.
//!
//! Checked are the invariants of [`crate::graph`]: the graph is acyclic; edges are exactly the operands; every value has
//! one definition, which agrees with the place it names; facts are those that the operations infer (the known elements
//! may be better or worse known, but not contradict), of types that their schemas have; outputs and operands exist and
//! were not removed; symbols are declared with a range that is not empty; names of inputs and of outputs are unique.

use std::fmt;
use std::sync::Arc;

use petgraph::Direction;
use petgraph::algo::toposort;
use petgraph::stable_graph::NodeIndex;
use petgraph::visit::EdgeRef;
use rustc_hash::FxHashSet;

use crate::dim::ELEMENT;
use crate::graph::infer;
use crate::op::OpError;
use crate::{Attr, Def, Dim, Fact, Graph, NodeId, Op, Origin, Sym, ValueId};

/// A node, as messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub node: NodeId,
    pub op: Op,
    pub origin: Origin,
}

impl Place {
    pub fn of(g: &Graph, node: NodeId) -> Self {
        let n = g.node(node);
        Self {
            node,
            op: n.op,
            origin: n.origin.clone(),
        }
    }
}

impl fmt::Display for Place {
    /// `n12 Gather (from "/emb/Gather")`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.node, self.op)?;
        for (i, name) in self.origin.names().iter().enumerate() {
            write!(f, "{}{name:?}", if i == 0 { " (from " } else { ", " })?;
        }
        f.write_str(if self.origin.names().is_empty() { "" } else { ")" })
    }
}

/// Something that is wrong with a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyError {
    /// The node depends on its own result.
    Cycle(Place),
    /// The edges into the node are not its operands.
    Edges(Place),
    /// The operand in this slot does not exist or was removed.
    Operand { place: Place, slot: usize, value: ValueId },
    /// A value's definition is not where it says.
    Definition { value: ValueId, why: String },
    /// The operation refuses its operands or attributes.
    Op { place: Place, error: OpError },
    /// The stored fact is not the inferred one.
    Fact {
        place: Place,
        output: usize,
        stored: Fact,
        inferred: Fact,
    },
    /// A fact contradicts itself or the bytes of its weight.
    Value { value: ValueId, why: String },
    /// A graph output does not exist or was removed.
    Output { name: Arc<str>, value: ValueId },
    /// A symbol is not declared, or its range is empty.
    Symbol { name: Arc<str>, at: String },
    /// Two inputs, or two outputs, have the same name.
    Name(Arc<str>),
    /// Something is wrong with a graph in an attribute.
    Subgraph {
        place: Place,
        attr: Arc<str>,
        error: Box<Self>,
    },
}

impl VerifyError {
    /// The node that is to blame, where one is.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Cycle(p) | Self::Edges(p) => Some(p.node),
            Self::Operand { place, .. }
            | Self::Op { place, .. }
            | Self::Fact { place, .. }
            | Self::Subgraph { place, .. } => Some(place.node),
            _ => None,
        }
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cycle(p) => write!(f, "{p} depends on itself"),
            Self::Edges(p) => write!(f, "{p}: edges and operands differ"),
            Self::Operand { place, slot, value } => {
                write!(f, "{place}: operand {slot} is {value}, which does not exist")
            }
            Self::Definition { value, why } | Self::Value { value, why } => write!(f, "{value}: {why}"),
            Self::Op { place, error } => write!(f, "{place}: {error}"),
            Self::Fact {
                place,
                output,
                stored,
                inferred,
            } => {
                write!(f, "{place}: output {output} is stored as {stored}")?;
                elements(f, stored)?;
                write!(f, ", inferred is {inferred}")?;
                elements(f, inferred)
            }
            Self::Output { name, value } => write!(f, "output {name:?} is {value}, which does not exist"),
            Self::Symbol { name, at } => write!(f, "symbol {name:?}: {at}"),
            Self::Name(n) => write!(f, "the name {n:?} is used twice"),
            Self::Subgraph { place, attr, error } => write!(f, "{place}: in `{attr}`: {error}"),
        }
    }
}

fn elements(f: &mut fmt::Formatter<'_>, fact: &Fact) -> fmt::Result {
    match &fact.known {
        Some(k) => write!(f, " = {k:?}"),
        None => Ok(()),
    }
}

impl std::error::Error for VerifyError {}

/// Checks a graph; reports everything that is wrong, in the order of values, then nodes.
pub fn verify(g: &Graph) -> Result<(), Vec<VerifyError>> {
    let symbols = g.symbols.keys().cloned().collect();
    let mut v = Verifier {
        g,
        symbols,
        errors: vec![],
    };
    v.run();
    if v.errors.is_empty() { Ok(()) } else { Err(v.errors) }
}

struct Verifier<'g> {
    g: &'g Graph,
    /// Declared here or around.
    symbols: FxHashSet<Arc<str>>,
    errors: Vec<VerifyError>,
}

impl Verifier<'_> {
    fn run(&mut self) {
        let g = self.g;
        for (name, r) in &g.symbols {
            if r.min > r.max || r.min < 0 && !name.starts_with(ELEMENT) {
                self.errors.push(VerifyError::Symbol {
                    name: name.clone(),
                    at: format!("the range {}..{} is not a range of extents", r.min, r.max),
                });
            }
        }
        let real = g.inputs().iter().filter(|v| (v.0 as usize) < g.value_count());
        self.names(real.map(|v| g.value(*v).name.clone()));
        self.names(g.outputs().iter().map(|(n, _)| n.clone()));
        for (i, v) in g.inputs().iter().enumerate() {
            if !(self.exists(*v) && matches!(g.value(*v).def, Def::Input(k) if k as usize == i)) {
                self.definition(*v, format!("is listed as input {i} and defined elsewhere"));
            }
        }
        for v in g.value_ids() {
            self.value(v);
        }
        if let Err(cycle) = toposort(g.dag(), None) {
            let n = NodeId(cycle.node_id().index() as u32);
            self.errors.push(VerifyError::Cycle(Place::of(g, n)));
        }
        let nodes: Vec<NodeId> = g.nodes().map(|(n, _)| n).collect();
        for n in nodes {
            self.node(n);
        }
        for (name, v) in g.outputs() {
            if !self.usable(*v) {
                self.errors.push(VerifyError::Output {
                    name: name.clone(),
                    value: *v,
                });
            }
        }
    }

    fn exists(&self, v: ValueId) -> bool {
        (v.0 as usize) < self.g.value_count()
    }

    fn usable(&self, v: ValueId) -> bool {
        self.exists(v) && !matches!(self.g.value(v).def, Def::Removed)
    }

    fn definition(&mut self, value: ValueId, why: impl Into<String>) {
        self.errors.push(VerifyError::Definition { value, why: why.into() });
    }

    fn names(&mut self, names: impl Iterator<Item = Arc<str>>) {
        let mut seen = FxHashSet::default();
        for n in names {
            if !n.is_empty() && !seen.insert(n.clone()) {
                self.errors.push(VerifyError::Name(n));
            }
        }
    }

    fn declared<'d>(&mut self, dims: impl IntoIterator<Item = &'d Dim>, at: impl Fn() -> String) {
        let mut missing = vec![];
        for d in dims {
            d.visit(&mut |s| {
                let name: Arc<str> = match s {
                    Sym::Named(n) if self.symbols.contains(n) => return,
                    Sym::Named(n) => n.clone(),
                    other => other.to_string().into(),
                };
                if !missing.contains(&name) {
                    missing.push(name);
                }
            });
        }
        for name in missing {
            self.errors.push(VerifyError::Symbol {
                name,
                at: format!("used by {} and not declared", at()),
            });
        }
    }

    fn value(&mut self, v: ValueId) {
        let g = self.g;
        let fact = g.fact(v);
        let mut wrong = vec![];
        match &g.value(v).def {
            Def::Removed => return,
            Def::Input(i) => {
                if g.inputs().get(*i as usize) != Some(&v) {
                    self.definition(v, format!("says it is input {i}"));
                }
                if let Some(known) = &fact.known
                    && !fact.is_open()
                    && fact.element_count() != Dim::from(known.len())
                {
                    wrong.push(format!("has {} elements that are known", known.len()));
                }
            }
            Def::Weight(t) => {
                let real = t.fact();
                if real.dtype != fact.dtype || real.shape != fact.shape {
                    wrong.push(format!("is stored as {fact}, the weight is {real}"));
                } else if fact.known.is_some() && fact.known != real.known {
                    wrong.push("known elements are not those of the weight".into());
                }
            }
            Def::Node(n, i) => {
                if !g.contains(*n) || g.node(*n).outputs.get(*i as usize) != Some(&v) {
                    self.definition(v, format!("says it is output {i} of {n}"));
                }
            }
        }
        if fact.shape.iter().any(|d| d.as_const().is_some_and(|c| c < 0)) {
            wrong.push(format!("{fact} has a negative extent"));
        }
        if let Some(known) = &fact.known
            && fact.element_count().as_const().is_some_and(|c| c != known.len() as i64)
        {
            wrong.push(format!("{fact} has {} known elements", known.len()));
        }
        self.errors
            .extend(wrong.into_iter().map(|why| VerifyError::Value { value: v, why }));
        self.declared(fact.shape.iter().chain(fact.known.iter().flatten()), || v.to_string());
    }

    fn node(&mut self, n: NodeId) {
        let g = self.g;
        let node = g.node(n);
        for (i, v) in node.outputs.iter().enumerate() {
            if !(self.exists(*v) && matches!(g.value(*v).def, Def::Node(m, k) if m == n && k as usize == i)) {
                self.definition(*v, format!("is listed as output {i} of {n} and defined elsewhere"));
            }
        }
        for (name, a) in &node.attrs {
            match a {
                Attr::Dims(d) => self.declared(d, || format!("attribute `{name}` of {}", Place::of(g, n))),
                Attr::Graph(sub) => {
                    let mut inner = Verifier {
                        g: sub,
                        symbols: self.symbols.iter().chain(sub.symbols.keys()).cloned().collect(),
                        errors: vec![],
                    };
                    inner.run();
                    self.errors
                        .extend(inner.errors.into_iter().map(|e| VerifyError::Subgraph {
                            place: Place::of(g, n),
                            attr: name.clone(),
                            error: Box::new(e),
                        }));
                }
                _ => {}
            }
        }
        let mut sound = true;
        for (slot, v) in node.inputs.iter().enumerate() {
            if let Some(v) = v
                && !self.usable(*v)
            {
                sound = false;
                self.errors.push(VerifyError::Operand {
                    place: Place::of(g, n),
                    slot,
                    value: *v,
                });
            }
        }
        if !sound {
            return;
        }
        let mut edges: Vec<(ValueId, NodeId)> = g
            .dag()
            .edges_directed(NodeIndex::new(n.0 as usize), Direction::Incoming)
            .map(|e| (*e.weight(), NodeId(e.source().index() as u32)))
            .collect();
        let mut operands: Vec<(ValueId, NodeId)> = node
            .inputs
            .iter()
            .flatten()
            .filter_map(|v| g.producer(*v).map(|(p, _)| (*v, p)))
            .collect();
        edges.sort();
        operands.sort();
        if edges != operands {
            self.errors.push(VerifyError::Edges(Place::of(g, n)));
        }
        let args = g.args(&node.inputs);
        match infer(node.op, &node.attrs, &args, node.outputs.len()) {
            Err(error) => self.errors.push(VerifyError::Op {
                place: Place::of(g, n),
                error,
            }),
            Ok(facts) => {
                let schema = node.op.schema();
                for (i, fact) in facts.iter().enumerate() {
                    if !schema.gives(i, fact.dtype, &args) {
                        self.errors.push(VerifyError::Op {
                            place: Place::of(g, n),
                            error: OpError::Invalid(format!("output {i} is {fact}, against the schema")),
                        });
                    }
                }
                for (output, (v, inferred)) in node.outputs.iter().zip(facts).enumerate() {
                    if self.exists(*v) && contradicts(g.fact(*v), &inferred) {
                        self.errors.push(VerifyError::Fact {
                            place: Place::of(g, n),
                            output,
                            stored: g.fact(*v).clone(),
                            inferred,
                        });
                    }
                }
            }
        }
    }
}

fn contradicts(stored: &Fact, inferred: &Fact) -> bool {
    if stored.dtype != inferred.dtype || stored.shape != inferred.shape {
        return true;
    }
    let (Some(a), Some(b)) = (&stored.known, &inferred.known) else {
        return false;
    };
    // Equal values may be written in two ways; a constant difference is none of them.
    let differ = |(x, y): (&Dim, &Dim)| (x.clone() - y.clone()).as_const().is_some_and(|d| d != 0);
    a.len() != b.len() || a.iter().zip(b).any(differ)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, SymbolRange, Tensor};

    /// `y = Neg(Abs(x))`.
    fn sound() -> (Graph, [ValueId; 3]) {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Fact::new(DType::F32, [Dim::sym("N")]));
        let a = g.apply("Abs", &[], &[x]).expect("types");
        let y = g.apply("Neg", &[], &[a]).expect("types");
        g.add_output("y", y);
        (g, [x, a, y])
    }

    #[track_caller]
    fn one(g: &Graph) -> VerifyError {
        let mut e = verify(g).expect_err("must be refused");
        assert_eq!(e.len(), 1, "{e:?}");
        e.remove(0)
    }

    #[test]
    fn accepts_sound_graphs() {
        assert_eq!(verify(&sound().0), Ok(()));
        assert_eq!(verify(&Graph::default()), Ok(()));
    }

    #[test]
    fn finds_wrong_facts() {
        let (mut g, [_, a, _]) = sound();
        g.value_mut(a).fact.shape = vec![Dim::from(3usize)];
        let errors = verify(&g).expect_err("wrong");
        // The node itself, and its user, whose stored shape no longer follows.
        assert_eq!(errors.len(), 2);
        assert!(matches!(errors[0], VerifyError::Fact { output: 0, .. }), "{errors:?}");
        assert!(errors[0].to_string().contains("stored as f32[3], inferred is f32[N]"));
    }

    #[test]
    fn finds_operations_that_refuse() {
        let (mut g, [_, a, _]) = sound();
        let (n, _) = g.producer(a).expect("a node");
        g.node_mut(n).attrs.insert("axis".into(), Attr::Int(0));
        let e = one(&g);
        assert!(matches!(e, VerifyError::Op { .. }), "{e}");
        assert!(e.to_string().contains("n0 Abs: invalid: attribute `axis`"), "{e}");
    }

    #[test]
    fn finds_edges_that_are_not_operands() {
        let (mut g, [x, _, y]) = sound();
        let (n, _) = g.producer(y).expect("a node");
        g.node_mut(n).inputs[0] = Some(x);
        assert!(matches!(one(&g), VerifyError::Edges(_)));
    }

    #[test]
    fn finds_cycles() {
        let (mut g, [_, a, y]) = sound();
        let (n, _) = g.producer(a).expect("a node");
        g.set_input(n, 0, Some(y));
        assert!(matches!(one(&g), VerifyError::Cycle(_)));
    }

    #[test]
    fn finds_removed_operands_and_outputs() {
        let (mut g, [_, a, _]) = sound();
        let (n, _) = g.producer(a).expect("a node");
        g.remove_node(n);
        assert!(matches!(one(&g), VerifyError::Operand { slot: 0, .. }));
        let (mut g, [_, _, y]) = sound();
        let (n, _) = g.producer(y).expect("a node");
        g.remove_node(n);
        assert!(matches!(one(&g), VerifyError::Output { .. }));
        let (mut g, _) = sound();
        g.add_output("z", ValueId(77));
        assert!(matches!(one(&g), VerifyError::Output { .. }));
    }

    #[test]
    fn finds_second_definitions() {
        let (mut g, [x, a, _]) = sound();
        g.value_mut(a).def = Def::Input(0);
        let errors = verify(&g).expect_err("wrong");
        assert!(
            errors
                .iter()
                .any(|e| matches!(e, VerifyError::Definition { value, .. } if *value == a))
        );
        let (mut g, _) = sound();
        g.value_mut(x).def = Def::Removed;
        assert!(verify(&g).is_err());
    }

    #[test]
    fn finds_undeclared_symbols_and_empty_ranges() {
        let (mut g, _) = sound();
        g.symbols.clear();
        let errors = verify(&g).expect_err("undeclared");
        assert!(
            errors.iter().all(|e| matches!(e, VerifyError::Symbol { .. })),
            "{errors:?}"
        );
        let (mut g, _) = sound();
        g.symbols.insert("N".into(), SymbolRange { min: 4, max: 3 });
        assert!(matches!(one(&g), VerifyError::Symbol { .. }));
    }

    #[test]
    fn finds_wrong_weights_and_elements() {
        let (mut g, _) = sound();
        let w = g.add_weight("w", Tensor::i64(&[2], [1, 2]));
        g.value_mut(w).fact.known = Some(vec![Dim::ONE, Dim::ONE]);
        assert!(matches!(one(&g), VerifyError::Value { .. }));
        g.value_mut(w).fact = Fact::new(DType::F32, [Dim::from(2usize)]);
        assert!(matches!(one(&g), VerifyError::Value { .. }));
        let (mut g, [x, ..]) = sound();
        g.value_mut(x).fact.shape = vec![Dim::from(-1i64)];
        assert!(
            verify(&g)
                .expect_err("negative")
                .iter()
                .any(|e| matches!(e, VerifyError::Value { .. }))
        );
    }

    #[test]
    fn finds_names_used_twice() {
        let (mut g, [_, a, _]) = sound();
        g.add_output("y", a);
        assert_eq!(one(&g), VerifyError::Name("y".into()));
    }
}
