//! What each value of the expanded graph is: known, a view of another value, or computed by loops of some shape.

use cameo_ir::graph::counted;
use cameo_ir::structured::{Binary, Combine, Compute, Expr, ExprId, Scalar};
use cameo_ir::{DType, Dim, Fact, Graph, NodeId, Op, Sym, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::expand::Expanded;
use crate::program::Requirement;

/// The loops of a node by how kernels treat them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Pure movement by an index map: no kernel of its own where its readers can follow the map.
    View,
    Elementwise,
    /// A sum of products of two operands that share only part of the iterators.
    Contraction,
    Reduction,
    /// Several loop nests that write one output.
    Parts,
    /// A loop over time with a body of its own.
    Scan,
    /// A loop over sequences with a body of its own.
    Ragged,
    Compact,
    /// An integer that becomes a dim.
    Number,
    /// A call of the caller's code.
    Custom,
}

impl Class {
    /// Of operations that have no loops of their own: they become steps of their own, and load all of their operands.
    fn whole(op: Op) -> Option<Self> {
        match op.name() {
            "cameo::Scan" | "cameo::While" => Some(Self::Scan),
            "cameo::Ragged" => Some(Self::Ragged),
            "cameo::Compact" => Some(Self::Compact),
            "cameo::Number" => Some(Self::Number),
            "cameo::Custom" => Some(Self::Custom),
            _ => None,
        }
    }
}

/// The expanded graph with the facts that grouping asks for.
pub struct Info {
    pub graph: Graph,
    pub loops: FxHashMap<NodeId, Vec<Compute>>,
    pub constant: Vec<bool>,
    /// What must hold of the symbols.
    pub rules: Vec<Requirement>,
    /// Inputs and outputs as callers see them.
    pub io: [Vec<Fact>; 2],
    /// Nodes that outputs need and that compute something, producers first.
    pub order: Vec<NodeId>,
    pub position: FxHashMap<NodeId, usize>,
    pub class: FxHashMap<NodeId, Class>,
    /// Whether a value is a contraction's, or views and pointwise work of one, by value id.
    follows: Vec<bool>,
    /// Live nodes that load a value, by value id; each once.
    pub users: Vec<Vec<NodeId>>,
    /// The nodes that count symbols.
    counting: FxHashMap<Sym, NodeId>,
    /// Live nodes whose dims have what a node counts; each once.
    pub sized: FxHashMap<NodeId, Vec<NodeId>>,
}

impl Info {
    pub fn new(e: Expanded) -> Self {
        let Expanded {
            graph,
            loops,
            constant,
            rules,
            inputs,
            outputs,
            ..
        } = e;
        let n = graph.value_count();
        let mut info = Self {
            graph,
            loops,
            constant,
            rules,
            io: [inputs, outputs],
            order: vec![],
            position: FxHashMap::default(),
            class: FxHashMap::default(),
            follows: vec![false; n],
            users: vec![vec![]; n],
            counting: FxHashMap::default(),
            sized: FxHashMap::default(),
        };
        for (n, node) in info.graph.nodes() {
            // What others were made of stays behind, and counts nothing.
            if Class::whole(node.op).is_some() {
                let names = counted(node.op, &node.attrs).map(|name| (Sym::Named(name.clone()), n));
                info.counting.extend(names);
            }
        }
        let mut live = vec![false; n];
        let mut stack: Vec<ValueId> = info.graph.outputs().iter().map(|(_, v)| *v).collect();
        while let Some(v) = stack.pop() {
            if std::mem::replace(&mut live[v.0 as usize], true) {
                continue;
            }
            if let Some((node, _)) = info.graph.producer(v) {
                stack.extend(info.sizing(node).into_iter().map(|n| info.graph.node(n).outputs[0]));
            }
            if info.is_known(v) {
                continue;
            }
            if let Some((node, _)) = info.graph.producer(v) {
                stack.extend(info.loads(node));
            }
        }
        for node in info.counted_order() {
            let outs = &info.graph.node(node).outputs;
            if !outs.iter().any(|v| live[v.0 as usize] && !info.is_known(*v)) {
                continue;
            }
            info.position.insert(node, info.order.len());
            info.order.push(node);
            let class = info.classify(node);
            info.class.insert(node, class);
            let loads = info.loads(node);
            let follows = match class {
                Class::Contraction => true,
                Class::View | Class::Elementwise => loads.iter().any(|v| info.follows[v.0 as usize]),
                _ => false,
            };
            for v in &info.graph.node(node).outputs {
                info.follows[v.0 as usize] = follows;
            }
            for v in loads {
                info.users[v.0 as usize].push(node);
            }
            for counting in info.sizing(node) {
                info.sized.entry(counting).or_default().push(node);
            }
        }
        info
    }

    /// All nodes, each behind those that it reads and those that count what its dims have.
    fn counted_order(&self) -> Vec<NodeId> {
        let order = self.graph.order();
        if self.counting.is_empty() {
            return order;
        }
        let (mut out, mut seen) = (vec![], FxHashSet::default());
        for root in order {
            let mut stack = vec![(root, false)];
            while let Some((n, done)) = stack.pop() {
                if done {
                    out.push(n);
                } else if seen.insert(n) {
                    stack.push((n, true));
                    let read = self.graph.node(n).inputs.iter().rev().flatten();
                    let made = read.filter_map(|v| self.graph.producer(*v)).map(|(n, _)| n);
                    stack.extend(made.chain(self.sizing(n)).map(|n| (n, false)));
                }
            }
        }
        out
    }

    /// The other nodes that count what dims of a node have.
    pub fn sizing(&self, node: NodeId) -> Vec<NodeId> {
        let mut out = vec![];
        if !self.counting.is_empty() {
            let mut look = |s: &Sym| match self.counting.get(s) {
                Some(n) if *n != node && !out.contains(n) => out.push(*n),
                _ => {}
            };
            self.graph.visit_dims(node, &mut |d| d.visit(&mut look));
        }
        out
    }

    /// Bytes known at compile time, or a single integer that is a dim: never computed by a kernel.
    pub fn is_known(&self, v: ValueId) -> bool {
        self.constant[v.0 as usize] || self.known_dim(v).is_some()
    }

    /// The dim that a one-element integer value equals.
    pub fn known_dim(&self, v: ValueId) -> Option<Dim> {
        let fact = self.graph.fact(v);
        match fact.known.as_deref() {
            Some([d]) if !fact.is_open() && !fact.dtype.is_float() && !self.constant[v.0 as usize] => Some(d.clone()),
            _ => None,
        }
    }

    /// Values that the loops of `node` load, each once, known ones left out.
    pub fn loads(&self, node: NodeId) -> Vec<ValueId> {
        let mut out = vec![];
        let mut seen = FxHashSet::default();
        let inputs = &self.graph.node(node).inputs;
        if Class::whole(self.graph.node(node).op).is_some() {
            out.extend(inputs.iter().flatten().filter(|v| !self.is_known(**v)));
            out.sort();
            out.dedup();
            return out;
        }
        for c in self.loops.get(&node).into_iter().flatten() {
            let live = c.body.reachable(&[c.root]);
            for (i, e) in c.body.nodes().iter().enumerate() {
                if let Expr::Load { operand, .. } = e
                    && live[i]
                    && let Some(v) = inputs[*operand as usize]
                    && !self.is_known(v)
                    && seen.insert(v)
                {
                    out.push(v);
                }
            }
        }
        out
    }

    /// The loops that compute output `slot` of a node.
    pub fn parts(&self, node: NodeId, slot: usize) -> impl Iterator<Item = &Compute> {
        self.loops[&node].iter().filter(move |c| c.output == slot)
    }

    /// The only loop nest of a value, with its node.
    pub fn single(&self, v: ValueId) -> Option<(NodeId, &Compute)> {
        let (node, slot) = self.graph.producer(v)?;
        let mut parts = self.parts(node, slot);
        match (parts.next(), parts.next()) {
            (Some(c), None) => Some((node, c)),
            _ => None,
        }
    }

    pub fn class(&self, node: NodeId) -> Class {
        self.class[&node]
    }

    /// For a value that is a view: what it views, and the index into that from its own iterators.
    pub fn view(&self, v: ValueId) -> Option<(ValueId, Vec<Dim>)> {
        if self.is_known(v) {
            return None;
        }
        let (node, c) = self.single(v)?;
        if self.class(node) != Class::View {
            return None;
        }
        let (operand, index) = movement(c)?;
        Some((self.graph.node(node).inputs[operand as usize]?, index))
    }

    fn classify(&self, node: NodeId) -> Class {
        let outs = self.graph.node(node).outputs.len();
        if let Some(class) = Class::whole(self.graph.node(node).op) {
            return class;
        }
        // It is larger than what is written.
        if self.graph.node(node).op == "cameo::Room" {
            return Class::Parts;
        }
        let loops = &self.loops[&node];
        let one_each = (0..outs).all(|i| loops.iter().filter(|c| c.output == i).count() == 1);
        let inputs = &self.graph.node(node).inputs;
        if one_each
            && loops
                .iter()
                .all(|c| movement(c).is_some_and(|(o, _)| inputs[o as usize].is_some_and(|v| !self.is_known(v))))
        {
            return Class::View;
        }
        // A result without elements has no loops at all.
        if outs > 1 || loops.len() != 1 {
            return Class::Parts;
        }
        let c = &loops[0];
        if c.combine.is_none() {
            // A store that is not the identity writes only part of the output or permutes it.
            let identity = c.store.iter().enumerate().all(|(i, d)| *d == Dim::iter(i));
            return if identity { Class::Elementwise } else { Class::Parts };
        }
        if self.factors(node).is_some() {
            Class::Contraction
        } else {
            Class::Reduction
        }
    }

    /// The operands of a contraction.
    pub fn factors(&self, node: NodeId) -> Option<[Factor; 2]> {
        let inputs = &self.graph.node(node).inputs;
        let of = |f: &Factor| inputs[f.operand as usize];
        let constant = |f: &Factor| of(f).is_some_and(|v| self.constant[v.0 as usize]);
        let [c] = self.loops.get(&node)?.as_slice() else {
            return None;
        };
        operands(c, &|matrix, vector| {
            let plain = !matrix.fill
                && matrix
                    .index
                    .iter()
                    .all(|d| d.is_zero() || matches!(d.as_sym(), Some(Sym::Iter(_))));
            constant(matrix) || plain && !constant(vector) && of(matrix).is_some_and(|v| !self.is_pointwise(v))
        })
    }

    /// Whether pointwise work that is no epilogue of a contraction computes a value: a nest that reads it takes it in.
    fn is_pointwise(&self, v: ValueId) -> bool {
        let mut v = v;
        let class = |v: ValueId| self.graph.producer(v).and_then(|(n, _)| self.class.get(&n));
        while class(v) == Some(&Class::View) {
            match self.view(v) {
                Some((of, _)) => v = of,
                None => return false,
            }
        }
        class(v) == Some(&Class::Elementwise) && !self.follows[v.0 as usize]
    }
}

/// Pure movement with an index that does not come from data: what is read, and its index in the coordinates of the output.
fn movement(c: &Compute) -> Option<(u32, Vec<Dim>)> {
    let (operand, index) = c.as_movement()?;
    // Each iterator is one coordinate of the output; an axis of extent 1 needs none.
    let mut axes: Vec<Option<Dim>> = vec![None; c.extents.len()];
    for (axis, d) in c.store.iter().enumerate() {
        match d.as_sym() {
            Some(Sym::Iter(i)) if axes[*i as usize].is_none() => axes[*i as usize] = Some(Dim::iter(axis)),
            _ if d.is_zero() => {}
            _ => return None,
        }
    }
    let axes: Vec<Dim> = axes.into_iter().collect::<Option<_>>()?;
    let plain = !index.iter().any(Dim::has_data);
    plain.then(|| (operand, index.iter().map(|d| d.at(&axes)).collect()))
}

/// A load as a contraction sees it.
#[derive(Clone, Debug)]
pub struct Factor {
    pub operand: u32,
    pub index: Vec<Dim>,
    pub fill: bool,
}

impl Factor {
    pub fn uses(&self, iter: usize) -> bool {
        self.index.iter().any(|d| d.uses(&Sym::Iter(iter as u32)))
    }
}

/// The two factors of an f32 sum of products whose iterators make it a contraction: every reduced iterator is in both
/// factors, and both have parallel iterators of their own, or only one has and `is_matrix` says that it is worth a kernel
/// beside the other one (a vector times a weight, a single query times keys). Anything else, such as a depthwise
/// convolution, is a batch of small products: a nest.
fn operands(c: &Compute, is_matrix: &dyn Fn(&Factor, &Factor) -> bool) -> Option<[Factor; 2]> {
    if c.combine != Some(Combine::Add) || c.dtype != DType::F32 {
        return None;
    }
    let Expr::Binary(Binary::Mul, a, b) = c.body.get(c.root) else {
        return None;
    };
    let factor = |id: ExprId| match c.body.get(id) {
        Expr::Load {
            operand,
            dtype: DType::F32,
            index,
            fill,
        } => {
            let plain = !index.iter().any(Dim::has_data);
            // Zero is the only fill that contributes nothing.
            let zero = fill.is_none_or(|f| f == Scalar::Float(0));
            (plain && zero).then(|| Factor {
                operand: *operand,
                index: index.clone(),
                fill: fill.is_some(),
            })
        }
        _ => None,
    };
    let f = [factor(*a)?, factor(*b)?];
    // Only the rows of A are checked against padding.
    if f[0].fill && f[1].fill {
        return None;
    }
    if (c.parallel..c.extents.len()).any(|i| !f[0].uses(i) || !f[1].uses(i)) {
        return None;
    }
    let own = |x: &Factor, y: &Factor| (0..c.parallel).any(|i| !c.extents[i].is_one() && x.uses(i) && !y.uses(i));
    let good = match (own(&f[0], &f[1]), own(&f[1], &f[0])) {
        (true, true) => true,
        (true, false) => is_matrix(&f[0], &f[1]),
        (false, true) => is_matrix(&f[1], &f[0]),
        (false, false) => false,
    };
    good.then_some(f)
}
