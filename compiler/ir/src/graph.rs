//! The graph: nodes and values behind id newtypes, over petgraph.
//!
//! Invariant: an edge leads from the producer of a value to each node that reads it, once per operand. Invariant: every
//! value has exactly one definition. Invariant: facts are those that the operations' `infer` gives; the verifier
//! checks it. Building adds nodes; everything else changes a graph only through [`crate::rewrite::Rewriter`].

use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;

use crate::op::{Arg, Arity, AttrDef, Attrs, Cx, Op, OpError, Schema, invalid, unsupported};
use crate::ops::custom;
use crate::{Attr, Dim, Fact, Tensor};

/// Names a node; printed `n12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// Names a value; printed `%12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// The ONNX nodes that a node comes from: sorted names without repeats, the first 256 of them.
///
/// Which they are does not depend on the order of merges. A chain of thousands of nodes that become one would otherwise
/// take memory with the square of its length; an attention block, the most that a reader wants to see, has some 50.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin(Arc<[Arc<str>]>);

impl Origin {
    const MAX_NAMES: usize = 256;

    pub fn new(name: &str) -> Self {
        Self([Arc::from(name)].into())
    }

    pub fn from_names(names: impl IntoIterator<Item = Arc<str>>) -> Self {
        let mut v: Vec<_> = names.into_iter().collect();
        v.sort();
        v.dedup();
        v.truncate(Self::MAX_NAMES);
        Self(v.into())
    }

    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        if other.0.is_empty() || self == other {
            return self.clone();
        }
        Self::from_names(self.0.iter().chain(other.0.iter()).cloned())
    }

    pub fn names(&self) -> &[Arc<str>] {
        &self.0
    }
}

/// An operation applied to values.
#[derive(Clone, Debug)]
pub struct Node {
    pub op: Op,
    pub attrs: Attrs,
    /// `None` for an absent optional input.
    pub inputs: Vec<Option<ValueId>>,
    pub outputs: Vec<ValueId>,
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum Def {
    /// Input `i` of the graph.
    Input(u32),
    /// Known bytes.
    Weight(Tensor),
    /// Output of a node.
    Node(NodeId, u32),
    /// Its node was removed; nothing reads it.
    Removed,
}

#[derive(Clone, Debug)]
pub struct Value {
    /// Name in the ONNX file where it has one; unique among inputs and outputs only.
    pub name: Arc<str>,
    pub fact: Fact,
    pub def: Def,
}

/// Inclusive range of a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolRange {
    pub min: i64,
    pub max: i64,
}

impl Default for SymbolRange {
    fn default() -> Self {
        Self { min: 0, max: i64::MAX }
    }
}

impl SymbolRange {
    /// Of an element of an input.
    pub const ELEMENT: Self = Self {
        min: i64::MIN,
        max: i64::MAX,
    };
}

/// A model or a part of one.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub name: Arc<str>,
    dag: StableDiGraph<Node, ValueId>,
    values: Vec<Value>,
    /// Of each value the nodes that read it, sorted, once per operand: edges know it only of what nodes compute, and a
    /// weight may have thousands of readers.
    readers: Vec<Vec<NodeId>>,
    inputs: Vec<ValueId>,
    outputs: Vec<(Arc<str>, ValueId)>,
    /// Model dimensions, in order of first appearance in the inputs.
    pub symbols: IndexMap<Arc<str>, SymbolRange>,
}

impl Graph {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    // ---- reading

    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Names and values; one value may be several outputs.
    pub fn outputs(&self) -> &[(Arc<str>, ValueId)] {
        &self.outputs
    }

    pub fn value(&self, v: ValueId) -> &Value {
        &self.values[v.0 as usize]
    }

    pub fn fact(&self, v: ValueId) -> &Fact {
        &self.value(v).fact
    }

    pub fn node(&self, n: NodeId) -> &Node {
        &self.dag[NodeIndex::new(n.0 as usize)]
    }

    pub fn contains(&self, n: NodeId) -> bool {
        self.dag.contains_node(NodeIndex::new(n.0 as usize))
    }

    pub fn node_count(&self) -> usize {
        self.dag.node_count()
    }

    /// Upper bound (exclusive) of value ids.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    pub fn value_ids(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..self.values.len() as u32).map(ValueId)
    }

    /// The node that computes `v`, with the output's position.
    pub fn producer(&self, v: ValueId) -> Option<(NodeId, usize)> {
        match self.value(v).def {
            Def::Node(n, i) => Some((n, i as usize)),
            _ => None,
        }
    }

    /// The bytes of a weight.
    pub fn constant(&self, v: ValueId) -> Option<&Tensor> {
        match &self.value(v).def {
            Def::Weight(t) => Some(t),
            _ => None,
        }
    }

    /// Nodes that read `v`, sorted, once per operand that reads it.
    pub fn users(&self, v: ValueId) -> Vec<NodeId> {
        self.readers[v.0 as usize].clone()
    }

    /// How many operands `v` is.
    pub fn user_count(&self, v: ValueId) -> usize {
        self.readers[v.0 as usize].len()
    }

    pub fn is_output(&self, v: ValueId) -> bool {
        self.outputs.iter().any(|(_, o)| *o == v)
    }

    /// Nodes by id.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.dag
            .node_indices()
            .map(|i| (NodeId(i.index() as u32), &self.dag[i]))
    }

    /// The petgraph underneath, for its algorithms.
    pub fn dag(&self) -> &StableDiGraph<Node, ValueId> {
        &self.dag
    }

    /// All nodes so that producers come before consumers, and what counts a dimension before what has it: depth first from the
    /// outputs in operand order, then what no output needs. Independent of ids, so that equal graphs print equally.
    pub fn order(&self) -> Vec<NodeId> {
        let mut seen = vec![0u8; self.dag.node_indices().map(|i| i.index() + 1).max().unwrap_or(0)];
        let mut out = Vec::with_capacity(self.node_count());
        let roots = self
            .outputs
            .iter()
            .filter_map(|(_, v)| self.producer(*v))
            .map(|(n, _)| n);
        let rest = self.dag.node_indices().map(|i| NodeId(i.index() as u32));
        let mut counting: rustc_hash::FxHashMap<&str, NodeId> = rustc_hash::FxHashMap::default();
        for (n, node) in self.nodes() {
            counting.extend(counted(node.op, &node.attrs).map(|name| (&**name, n)));
        }
        let sizes = |n: NodeId| {
            let mut out: Vec<NodeId> = vec![];
            if !counting.is_empty() {
                self.visit_dims(n, &mut |d| {
                    d.visit(&mut |s| {
                        if let crate::Sym::Named(name) = s {
                            out.extend(counting.get(&**name).filter(|c| **c != n).copied());
                        }
                    });
                });
            }
            out
        };
        for root in roots.chain(rest) {
            let mut stack = vec![(root, 0usize)];
            while let Some((n, next)) = stack.pop() {
                if next == 0 {
                    if seen[n.0 as usize] != 0 {
                        continue;
                    }
                    seen[n.0 as usize] = 1;
                }
                let inputs = &self.node(n).inputs;
                let operand = (next..inputs.len()).find_map(|i| {
                    let (p, _) = self.producer(inputs[i]?)?;
                    (seen[p.0 as usize] == 0).then_some((i, p))
                });
                let child = operand.or_else(|| {
                    let p = sizes(n).into_iter().find(|p| seen[p.0 as usize] == 0)?;
                    Some((inputs.len(), p))
                });
                match child {
                    Some((i, p)) => {
                        stack.push((n, i + 1));
                        stack.push((p, 0));
                    }
                    None => out.push(n),
                }
            }
        }
        out
    }

    /// For each value id whether it depends on nothing but weights, so that it can be computed at compile time.
    pub fn constants(&self) -> Vec<bool> {
        let mut out: Vec<bool> = self.values.iter().map(|v| matches!(v.def, Def::Weight(_))).collect();
        for n in self.order() {
            let constant = self.computes_constant(n, &out);
            for v in &self.node(n).outputs {
                out[v.0 as usize] = constant;
            }
        }
        out
    }

    /// Whether the results of `n` are constant, when those of its operands are as `known` says.
    pub(crate) fn computes_constant(&self, n: NodeId, known: &[bool]) -> bool {
        let node = self.node(n);
        let bodies = node.attrs.values().any(|a| matches!(a, Attr::Graph(_)));
        !bodies && node.inputs.iter().flatten().all(|v| known[v.0 as usize]) && self.is_fixed(n)
    }

    /// Whether the compiler can compute the node, given its operands: it can compute the operation, and nothing of it has
    /// symbols, neither the shapes of its results nor its attributes.
    pub fn is_fixed(&self, n: NodeId) -> bool {
        let node = self.node(n);
        // Shapes can hide in attributes: a result whose extents or attributes have symbols is not constant.
        !node.op.schema().external
            && node.outputs.iter().all(|v| self.fact(*v).static_shape().is_some())
            && node.attrs.values().all(|a| match a {
                Attr::Dims(d) => d.iter().all(|d| d.as_const().is_some()),
                Attr::Graph(g) => g.symbols.is_empty(),
                _ => true,
            })
    }

    /// The arguments of a node, as its operation sees them.
    pub fn args(&self, inputs: &[Option<ValueId>]) -> Vec<Option<Arg<'_>>> {
        inputs
            .iter()
            .map(|v| {
                v.map(|v| Arg {
                    fact: self.fact(v),
                    constant: self.constant(v),
                })
            })
            .collect()
    }

    /// Calls `f` with the context of a node.
    pub fn with_cx<R>(&self, n: NodeId, f: impl FnOnce(&Cx) -> R) -> R {
        let node = self.node(n);
        let args = self.args(&node.inputs);
        f(&Cx {
            schema: node.op.schema(),
            attrs: &node.attrs,
            inputs: &args,
            outputs: node.outputs.len(),
        })
    }

    /// The symbols that nodes of the graph count.
    pub fn counted(&self) -> impl Iterator<Item = &Arc<str>> {
        self.nodes().flat_map(|(_, node)| counted(node.op, &node.attrs))
    }

    /// Calls `f` for every dim that a node's operands, results and attributes have; those of bodies are left out.
    pub fn visit_dims(&self, n: NodeId, f: &mut dyn FnMut(&Dim)) {
        let node = self.node(n);
        for v in node.inputs.iter().flatten().chain(&node.outputs) {
            let fact = self.fact(*v);
            fact.shape.iter().chain(fact.known.iter().flatten()).for_each(&mut *f);
        }
        for a in node.attrs.values() {
            if let Attr::Dims(dims) = a {
                dims.iter().for_each(&mut *f);
            }
        }
    }

    /// Range of a named dimension.
    pub fn symbol_range(&self, name: &str) -> (i64, i64) {
        self.symbols.get(name).map_or((0, i64::MAX), |r| (r.min, r.max))
    }

    // ---- building

    fn add_value(&mut self, name: &str, fact: Fact, def: Def) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(Value {
            name: name.into(),
            fact,
            def,
        });
        self.readers.push(vec![]);
        id
    }

    /// Symbols of the shape that are new get the default range, those that are elements theirs.
    pub fn add_input(&mut self, name: &str, fact: Fact) -> ValueId {
        for d in &fact.shape {
            d.visit(&mut |s| {
                if let crate::Sym::Named(n) = s {
                    self.symbols.entry(n.clone()).or_default();
                }
            });
        }
        for (symbol, _) in fact.elements() {
            self.symbols.entry(symbol.clone()).or_insert(SymbolRange::ELEMENT);
        }
        let v = self.add_value(name, fact, Def::Input(self.inputs.len() as u32));
        self.inputs.push(v);
        v
    }

    pub fn add_weight(&mut self, name: &str, t: Tensor) -> ValueId {
        self.add_value(name, t.fact(), Def::Weight(t))
    }

    pub fn add_output(&mut self, name: &str, v: ValueId) {
        self.outputs.push((name.into(), v));
    }

    /// Adds a node with `outputs` outputs after type checking and shape inference.
    pub fn add_node(
        &mut self,
        op: Op,
        attrs: Attrs,
        inputs: Vec<Option<ValueId>>,
        outputs: usize,
        origin: Origin,
    ) -> Result<Vec<ValueId>, OpError> {
        let facts = {
            let args = self.args(&inputs);
            infer(op, &attrs, &args, outputs)?
        };
        Ok(self.add_typed_node(op, attrs, inputs, facts, origin))
    }

    /// Adds a node whose output facts the caller vouches for (the parser, which verifies afterwards).
    pub fn add_typed_node(
        &mut self,
        op: Op,
        attrs: Attrs,
        inputs: Vec<Option<ValueId>>,
        facts: Vec<Fact>,
        origin: Origin,
    ) -> Vec<ValueId> {
        for name in counted(op, &attrs) {
            self.symbols.entry(name.clone()).or_default();
        }
        for name in custom::given(op, &attrs) {
            self.symbols.entry(name).or_default();
        }
        let ix = self.dag.add_node(Node {
            op,
            attrs,
            inputs: inputs.clone(),
            outputs: vec![],
            origin,
        });
        let id = NodeId(ix.index() as u32);
        for v in inputs.into_iter().flatten() {
            self.add_reader(v, id);
            if let Some((p, _)) = self.producer(v) {
                self.dag.add_edge(NodeIndex::new(p.0 as usize), ix, v);
            }
        }
        let outs: Vec<ValueId> = facts
            .into_iter()
            .enumerate()
            .map(|(i, f)| self.add_value("", f, Def::Node(id, i as u32)))
            .collect();
        self.dag[ix].outputs.clone_from(&outs);
        outs
    }

    /// [`Graph::add_node`] by name for an operation with one output: the way decompositions and tests build graphs.
    pub fn apply(&mut self, op: &str, attrs: &[(&str, Attr)], inputs: &[ValueId]) -> Result<ValueId, OpError> {
        let Some(op) = Op::find(op) else {
            return invalid(format!("no operation `{op}`"));
        };
        let attrs = attrs.iter().map(|(k, v)| (Arc::from(*k), v.clone())).collect();
        let out = self.add_node(
            op,
            attrs,
            inputs.iter().copied().map(Some).collect(),
            1,
            Origin::default(),
        )?;
        Ok(out[0])
    }

    pub fn set_name(&mut self, v: ValueId, name: &str) {
        self.values[v.0 as usize].name = name.into();
    }

    /// The graph with these of its inputs and outputs, in this order. Inputs that are left out must not be read.
    #[must_use]
    pub fn with_ends(&self, inputs: &[usize], outputs: &[usize]) -> Self {
        let mut out = self.clone();
        out.inputs = inputs.iter().map(|i| self.inputs[*i]).collect();
        for v in &self.inputs {
            out.values[v.0 as usize].def = match out.inputs.iter().position(|i| i == v) {
                Some(i) => Def::Input(i as u32),
                None => Def::Removed,
            };
        }
        out.outputs = outputs.iter().map(|i| self.outputs[*i].clone()).collect();
        out
    }

    /// The graph with every dim of facts and attributes replaced, those of bodies too; `f` keeps what dims are equal. Its
    /// symbols are those that are left.
    #[must_use]
    pub fn map_dims(&self, f: &dyn Fn(&Dim) -> Dim) -> Self {
        let mut out = self.clone();
        let all = |dims: &mut Vec<Dim>| dims.iter_mut().for_each(|d| *d = f(d));
        let mut left = rustc_hash::FxHashSet::default();
        let mut note = |dims: &[Dim]| {
            dims.iter().for_each(|d| {
                d.visit(&mut |s| {
                    if let crate::Sym::Named(n) = s {
                        left.insert(n.clone());
                    }
                });
            });
        };
        for v in &mut out.values {
            all(&mut v.fact.shape);
            note(&v.fact.shape);
            if let Some(known) = &mut v.fact.known {
                all(known);
                note(known);
            }
        }
        for node in out.dag.node_weights_mut() {
            let given = node.attrs.clone();
            for a in node.attrs.values_mut() {
                match a {
                    Attr::Dims(d) => {
                        all(d);
                        note(d);
                    }
                    Attr::Graph(g) => *g = Arc::new(g.map_dims(f)),
                    _ => {}
                }
            }
            if vanishes(node.op, &given, &node.attrs) {
                let fact = &out.values[node.outputs[0].0 as usize].fact;
                node.attrs.insert("shape".into(), Attr::Dims(fact.shape.clone()));
                node.attrs.insert("allowzero".into(), Attr::Int(1));
            }
        }
        out.symbols.retain(|n, _| left.contains(n));
        out
    }

    // ---- changing: only for the rewriter

    pub(crate) fn node_mut(&mut self, n: NodeId) -> &mut Node {
        &mut self.dag[NodeIndex::new(n.0 as usize)]
    }

    pub(crate) fn value_mut(&mut self, v: ValueId) -> &mut Value {
        &mut self.values[v.0 as usize]
    }

    /// Makes operand `slot` of `n` read `new` (or nothing).
    pub(crate) fn set_input(&mut self, n: NodeId, slot: usize, new: Option<ValueId>) {
        let ix = NodeIndex::new(n.0 as usize);
        let old = std::mem::replace(&mut self.dag[ix].inputs[slot], new);
        if let Some(v) = old {
            self.remove_reader(v, n);
            // A node has few operands, its producer may have many readers.
            let mut edges = self.dag.edges_directed(ix, Direction::Incoming);
            if let Some(e) = edges.find(|e| *e.weight() == v).map(|e| e.id()) {
                self.dag.remove_edge(e);
            }
        }
        if let Some(v) = new {
            self.add_reader(v, n);
            if let Some((p, _)) = self.producer(v) {
                self.dag.add_edge(NodeIndex::new(p.0 as usize), ix, v);
            }
        }
    }

    fn add_reader(&mut self, v: ValueId, n: NodeId) {
        let all = &mut self.readers[v.0 as usize];
        all.insert(all.partition_point(|r| *r <= n), n);
    }

    /// Forgets one operand of `n` that is `v`.
    fn remove_reader(&mut self, v: ValueId, n: NodeId) {
        let all = &mut self.readers[v.0 as usize];
        if let Ok(at) = all.binary_search(&n) {
            all.remove(at);
        }
    }

    /// Makes every reader of `old`, graph outputs included, read `new`, but for the nodes of `except`.
    pub(crate) fn replace_uses(&mut self, old: ValueId, new: ValueId, except: &[NodeId]) {
        let mut users = self.users(old);
        users.dedup();
        for n in users.into_iter().filter(|n| !except.contains(n)) {
            for slot in 0..self.node(n).inputs.len() {
                if self.node(n).inputs[slot] == Some(old) {
                    self.set_input(n, slot, Some(new));
                }
            }
        }
        for (_, o) in &mut self.outputs {
            if *o == old {
                *o = new;
            }
        }
    }

    pub(crate) fn remove_node(&mut self, n: NodeId) {
        if let Some(node) = self.dag.remove_node(NodeIndex::new(n.0 as usize)) {
            for v in node.inputs.into_iter().flatten() {
                self.remove_reader(v, n);
            }
            for v in node.outputs {
                self.values[v.0 as usize].def = Def::Removed;
            }
        }
    }

    /// Drops a weight that nothing reads.
    pub(crate) fn remove_weight(&mut self, v: ValueId) {
        self.values[v.0 as usize].def = Def::Removed;
    }
}

/// Whether an extent that a Reshape is given has become the number 0, which would mean "as the operand".
pub(crate) fn vanishes(op: Op, given: &Attrs, now: &Attrs) -> bool {
    let shape = |attrs: &Attrs| match attrs.get("shape") {
        Some(Attr::Dims(d)) if op == "Reshape" => d.clone(),
        _ => vec![],
    };
    shape(given)
        .iter()
        .zip(shape(now))
        .any(|(d, n)| n.is_zero() && !d.is_zero())
}

/// Checks operands and attributes against the schema, then asks the operation for the facts of its outputs.
pub fn infer(op: Op, attrs: &Attrs, args: &[Option<Arg>], outputs: usize) -> Result<Vec<Fact>, OpError> {
    let schema = op.schema();
    check(schema, attrs, args, outputs)?;
    let facts = op.0.infer(&Cx {
        schema,
        attrs,
        inputs: args,
        outputs,
    })?;
    if facts.len() != outputs {
        return invalid(format!("{outputs} outputs wanted, the operation has {}", facts.len()));
    }
    Ok(facts)
}

fn check(schema: &Schema, attrs: &Attrs, args: &[Option<Arg>], outputs: usize) -> Result<(), OpError> {
    let mut groups = [None; 8];
    for (i, a) in args.iter().enumerate() {
        let Some(p) = schema.input(i) else {
            return invalid(format!(
                "{} inputs given, at most {} taken",
                args.len(),
                schema.inputs.len()
            ));
        };
        let Some(a) = a else { continue };
        if !p.types.contains(a.fact.dtype) {
            return unsupported(format!(
                "input {i} ({}) is {}, it can be {}",
                p.name,
                a.fact.dtype,
                either(p.types.list().iter().map(|t| t.name().to_owned()))
            ));
        }
        if p.group > 0 {
            let g = &mut groups[p.group as usize & 7];
            match *g {
                Some((first, t)) if t != a.fact.dtype => {
                    return invalid(format!(
                        "input {i} ({}) is {}, input {first} ({}) is {t}: they must be of one type",
                        p.name,
                        a.fact.dtype,
                        schema.input(first).map_or("?", |p| p.name)
                    ));
                }
                Some(_) => {}
                None => *g = Some((i, a.fact.dtype)),
            }
        }
    }
    for (i, p) in schema.inputs.iter().enumerate() {
        let given = args.get(i).is_some_and(Option::is_some) || p.attr.is_some_and(|name| attrs.contains_key(name));
        if !given && p.arity != Arity::Optional {
            return invalid(format!("input {i} ({}) is missing", p.name));
        }
    }
    for (i, p) in schema.outputs.iter().enumerate() {
        if i >= outputs && p.arity != Arity::Optional {
            return invalid(format!("output {i} ({}) is missing", p.name));
        }
    }
    for (name, value) in attrs {
        let shape_like = schema.inputs.iter().any(|p| p.attr == Some(&**name));
        let def = schema.attr(name);
        if !shape_like && !schema.external && def.is_none() {
            return invalid(format!("attribute `{name}` is not one of this operation's"));
        }
        if let (Attr::Str(s), Some(list)) = (value, def.and_then(AttrDef::choices))
            && !list.contains(&&**s)
        {
            // The empty one stands for the first.
            let list = list.iter().filter(|s| !s.is_empty()).map(|s| format!("`{s}`"));
            return unsupported(format!("attribute `{name}` is `{s}`, it can be {}", either(list)));
        }
    }
    for (name, def) in schema.attrs {
        if def.is_required() && !attrs.contains_key(*name) {
            return invalid(format!("attribute `{name}` is missing"));
        }
    }
    Ok(())
}

/// `a, b or c`.
fn either(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    match names.pop() {
        Some(last) if names.is_empty() => last,
        Some(last) => format!("{} or {last}", names.join(", ")),
        None => String::new(),
    }
}

/// The symbols that a node counts, or a run tells from its operand.
pub fn counted(op: Op, attrs: &Attrs) -> impl Iterator<Item = &Arc<str>> {
    let named = |(name, def): &(&str, AttrDef)| match (def, attrs.get(*name)) {
        (AttrDef::Symbol(_) | AttrDef::Probe, Some(Attr::Str(symbol))) => Some(symbol),
        _ => None,
    };
    op.schema().attrs.iter().filter_map(named)
}

/// The facts of a shape with symbols replaced by values.
pub fn bind_shape(shape: &[Dim], symbols: &dyn Fn(&str) -> Option<i64>) -> Option<Vec<usize>> {
    shape
        .iter()
        .map(|d| {
            d.eval(&|s| match s {
                crate::Sym::Named(n) => symbols(n),
                _ => None,
            })
            .and_then(|v| usize::try_from(v).ok())
        })
        .collect()
}
