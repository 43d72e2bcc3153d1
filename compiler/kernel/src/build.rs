//! From groups to kernels and steps: storages, axis orders, bodies with every index resolved to a buffer.

use std::sync::Arc;

use cameo_ir::interp::{constant_cost, eval_constant};
use cameo_ir::op::OpError;
use cameo_ir::structured::{Body, Compute, Expr, ExprId, Scalar};
use cameo_ir::tensor::Texts;
use cameo_ir::{Bounds, DType, Dim, Fact, Graph, Origin, Sym, ValueId};
use rustc_hash::FxHashMap;

use crate::cache::Growing;
use crate::classify::{Class, Info};
use crate::expand::LowerError;
use crate::group::{Group, Groups};
use crate::nest::finish_nest;
use crate::order::{Rows, memory_extent};
use crate::program::{
    Buffer, Element, Io, Kernel, KernelBody, Kernels, Nest, NestSchedule, Place, Program, RED, Reduction, Requirement,
    Step, Storage, Store, Weight,
};
use crate::targets::Target;
use crate::{Choices, bounds};

/// A materialised value: where it is and in which axis order (outermost axis first).
#[derive(Clone, Debug)]
pub struct Placed {
    pub storage: usize,
    pub order: Vec<usize>,
}

pub struct Builder<'a> {
    pub info: &'a Info,
    pub target: &'a Target,
    pub choices: Choices,
    /// Of all weights as the model has them.
    pub(crate) weight_bytes: usize,
    pub program: Program,
    pub placed: FxHashMap<ValueId, Placed>,
    pub(crate) kernels: Kernels,
    /// The kernel that a value has its final elements from.
    pub(crate) kernel_of: FxHashMap<ValueId, usize>,
    weights: FxHashMap<Weight, usize>,
    /// The outputs of the model that a value is, and by output whether there is a storage for it.
    pub(crate) outputs: FxHashMap<ValueId, Vec<usize>>,
    pub(crate) written: Vec<bool>,
    scalars: FxHashMap<ValueId, Option<Scalar>>,
    pub(crate) growing: Vec<Growing>,
    /// Of values in the memory of a cache.
    pub(crate) rows: FxHashMap<ValueId, Rows>,
}

/// Cost of evaluating a scalar for the code of its readers, about a tenth of a second: statistics of a layer's weights are far
/// below.
const SCALAR_COST: u64 = 1 << 22;

/// Builds the whole program from formed groups.
pub fn build(info: &Info, groups: &Groups, target: &Target, choices: Choices) -> Result<Program, Vec<LowerError>> {
    let g = &info.graph;
    let io = |(name, fact): (&Arc<str>, &Fact)| Io {
        name: name.clone(),
        dtype: fact.dtype,
        shape: fact.shape.clone(),
    };
    let inputs = g.inputs().iter().map(|v| &g.value(*v).name).zip(&info.io[0]);
    let outputs = g.outputs().iter().map(|(name, _)| name).zip(&info.io[1]);
    let mut b = Builder {
        info,
        target,
        choices,
        weight_bytes: weight_bytes(g),
        program: Program {
            name: g.name.clone(),
            symbols: g.symbols.iter().map(|(n, r)| (n.clone(), *r)).collect(),
            inputs: inputs.map(io).collect(),
            outputs: outputs.map(io).collect(),
            storages: vec![],
            weights: vec![],
            kernels: vec![],
            steps: vec![],
            loops: vec![],
            counts: vec![],
            caches: vec![],
            elements: elements(g),
            customs: vec![],
            texts: texts(g).map_err(|e| vec![e])?,
            requirements: vec![],
            graph: g.clone(),
        },
        placed: FxHashMap::default(),
        kernels: Kernels::default(),
        kernel_of: FxHashMap::default(),
        weights: FxHashMap::default(),
        outputs: FxHashMap::default(),
        written: vec![false; g.outputs().len()],
        scalars: FxHashMap::default(),
        growing: vec![],
        rows: FxHashMap::default(),
    };
    let bounds = Bounds::of(&[]);
    for rule in info.rules.iter().filter(|r| !bounds.le(&r.a, &r.b)) {
        b.require(rule.clone());
    }
    if b.choices.in_place_cache {
        b.declare_caches().map_err(|e| vec![e])?;
    }
    for (i, (_, v)) in g.outputs().iter().enumerate() {
        b.outputs.entry(*v).or_default().push(i);
    }
    for (i, v) in g.inputs().iter().enumerate() {
        let storage = b.storage(*v, Place::Input(i));
        b.placed.insert(
            *v,
            Placed {
                storage,
                order: (0..g.fact(*v).rank()).collect(),
            },
        );
    }
    for group in &groups.groups {
        let done = match info.class(group.seed) {
            Class::Scan => {
                b.scan(group)?;
                Ok(())
            }
            Class::Ragged => {
                b.ragged(group)?;
                Ok(())
            }
            Class::Compact => b.compact(group),
            Class::Number => b.number(group),
            Class::Custom => b.custom(group),
            Class::Contraction => b.contraction(group),
            Class::Parts => b.parts(group),
            _ => b.nest(group),
        };
        done.map_err(|e| vec![e])?;
    }
    b.copy_outputs().map_err(|e| vec![e])?;
    b.order_customs().map_err(|e| vec![e])?;
    b.bound_storages().map_err(|e| vec![e])?;
    b.check_counted();
    b.program.kernels = b.kernels.list;
    Ok(b.program)
}

/// The strings of all constants, of those too that are made when weights are written.
fn texts(g: &Graph) -> Result<Texts, LowerError> {
    let (mut all, constant) = (Texts::default(), g.constants());
    let strings = g
        .value_ids()
        .filter(|v| constant[v.0 as usize] && g.fact(*v).dtype == DType::String);
    for v in strings {
        let known = eval_constant(g, v).map_err(|e| e.to_string());
        known.and_then(|t| all.join(t.texts())).map_err(|e| LowerError {
            op: "constant".to_owned(),
            origin: g
                .producer(v)
                .map_or_else(Origin::default, |(n, _)| g.node(n).origin.clone()),
            error: OpError::Unsupported(e),
        })?;
    }
    Ok(all)
}

fn elements(g: &Graph) -> Vec<Element> {
    let inputs = g.inputs().iter().enumerate();
    let all = inputs.flat_map(|(input, v)| g.fact(*v).elements().map(move |(symbol, at)| (symbol, input, at)));
    all.map(|(symbol, input, at)| Element {
        symbol: symbol.clone(),
        input,
        at,
    })
    .collect()
}

fn weight_bytes(g: &Graph) -> usize {
    let bytes = |v: ValueId| {
        let fact = g.fact(v);
        let shape = fact.static_shape().filter(|_| g.constant(v).is_some())?;
        Some(shape.iter().product::<usize>() * fact.dtype.size())
    };
    g.value_ids().filter_map(bytes).sum()
}

/// A kernel under construction.
pub struct Draft {
    pub buffers: Vec<Buffer>,
    pub storages: Vec<usize>,
    pub body: Body,
    /// Values computed by this kernel itself: their expression, wherever they are read.
    pub own: FxHashMap<ValueId, ExprId>,
    memo: FxHashMap<(ValueId, Vec<Dim>, Option<Scalar>), ExprId>,
    /// Extents of the kernel's iterators, for simplification.
    pub extents: Vec<Dim>,
    /// The iterator that lanes will most likely follow: weights are arranged along it.
    pub lane: Option<usize>,
}

impl Draft {
    pub fn new(extents: Vec<Dim>) -> Self {
        Self {
            buffers: vec![],
            storages: vec![],
            body: Body::new(),
            own: FxHashMap::default(),
            memo: FxHashMap::default(),
            extents,
            lane: None,
        }
    }

    pub fn buffer(&mut self, storage: usize, buffer: Buffer) -> usize {
        let known = self
            .storages
            .iter()
            .zip(&self.buffers)
            .position(|(s, b)| *s == storage && *b == buffer);
        known.unwrap_or_else(|| {
            self.storages.push(storage);
            self.buffers.push(buffer);
            self.buffers.len() - 1
        })
    }

    pub fn simplify(&self, index: &[Dim]) -> Vec<Dim> {
        let b = Bounds::of(&self.extents);
        index.iter().map(|d| b.simplify(d)).collect()
    }
}

impl Builder<'_> {
    pub fn storage(&mut self, v: ValueId, place: Place) -> usize {
        let value = self.info.graph.value(v);
        // A cache is where an input is; elsewhere is no room for more rows.
        let rows = self.rows.get(&v).filter(|_| matches!(place, Place::Input(_)));
        let shape = &value.fact.shape;
        let extents: Vec<Dim> = (0..shape.len()).map(|a| memory_extent(shape, a, rows)).collect();
        let elements = Dim::product(&extents);
        if let Place::Output(i) = place {
            self.written[i] = true;
        }
        self.program.storages.push(Storage {
            name: value.name.clone(),
            dtype: value.fact.dtype,
            elements,
            place,
        });
        self.program.storages.len() - 1
    }

    /// A weight's place in the weights section.
    pub fn weight(&mut self, w: Weight) -> usize {
        if let Some(s) = self.weights.get(&w) {
            return *s;
        }
        let storage = self.program.storages.len();
        self.program.storages.push(Storage {
            name: self.program.graph.value(w.value).name.clone(),
            dtype: w.dtype,
            elements: Dim::from(w.elements),
            place: Place::Weight(self.program.weights.len()),
        });
        self.program.weights.push(w.clone());
        self.weights.insert(w, storage);
        storage
    }

    /// Storage and buffer of a value that is not computed inside the kernel.
    pub fn stored(&mut self, v: ValueId) -> (usize, Buffer) {
        if let Some(p) = self.placed.get(&v) {
            return (p.storage, self.buffer_of(v, &p.order));
        }
        let fact = self.info.graph.fact(v);
        let order: Vec<usize> = (0..fact.rank()).collect();
        let elements = fact.static_shape().map_or(0, |s| s.iter().product());
        let storage = self.weight(Weight {
            value: v,
            dtype: fact.dtype,
            pack: None,
            elements,
        });
        (storage, self.buffer_of(v, &order))
    }

    pub fn error(&self, v: ValueId, message: String) -> LowerError {
        let (op, origin) = match self.info.graph.producer(v) {
            Some((n, _)) => (
                self.info.graph.node(n).op.to_string(),
                self.info.graph.node(n).origin.clone(),
            ),
            None => (String::new(), Origin::default()),
        };
        LowerError {
            op,
            origin,
            error: cameo_ir::OpError::Unsupported(message),
        }
    }

    /// The element of a constant that has one; `None` when it takes so long that it is better read like other weights.
    fn scalar(&mut self, v: ValueId) -> Result<Option<Scalar>, LowerError> {
        if let Some(s) = self.scalars.get(&v) {
            return Ok(*s);
        }
        if constant_cost(&self.info.graph, v).is_none_or(|cost| cost > SCALAR_COST) {
            self.scalars.insert(v, None);
            return Ok(None);
        }
        let t = eval_constant(&self.info.graph, v).map_err(|e| self.error(v, e.to_string()))?;
        let s = if t.dtype().is_float() {
            Scalar::Float(t.to_f64().first().copied().unwrap_or(0.0).to_bits())
        } else {
            Scalar::Int(t.to_i64().first().copied().unwrap_or(0))
        };
        self.scalars.insert(v, Some(s));
        Ok(Some(s))
    }

    /// The element of `v` at `index`, as an expression of the draft.
    pub fn expr(
        &mut self,
        d: &mut Draft,
        v: ValueId,
        index: &[Dim],
        fill: Option<Scalar>,
    ) -> Result<ExprId, LowerError> {
        if let Some(e) = d.own.get(&v) {
            return Ok(*e);
        }
        let key = (v, d.simplify(index), fill);
        if let Some(e) = d.memo.get(&key) {
            return Ok(*e);
        }
        let e = self.expr_uncached(d, v, &key.1, fill)?;
        d.memo.insert(key, e);
        Ok(e)
    }

    fn expr_uncached(
        &mut self,
        d: &mut Draft,
        v: ValueId,
        index: &[Dim],
        fill: Option<Scalar>,
    ) -> Result<ExprId, LowerError> {
        let dtype = self.info.graph.fact(v).dtype;
        if fill.is_none() {
            if let Some(dim) = self.info.known_dim(v) {
                let e = d.body.push(Expr::Index(dim));
                return Ok(d.body.cast(dtype, e));
            }
            let one = self.info.constant[v.0 as usize] && self.info.graph.fact(v).element_count().is_one();
            if one && let Some(s) = self.scalar(v)? {
                return Ok(d.body.push(Expr::Const(dtype, s)));
            }
        }
        if !self.placed.contains_key(&v) && !self.info.constant[v.0 as usize] {
            if let Some((src, map)) = self.info.view(v) {
                if fill.is_none() || self.info.keeps_padding(v, src, &map, index, &d.extents) {
                    let at: Vec<Dim> = map.iter().map(|m| m.at(index)).collect();
                    return self.expr(d, src, &at, fill);
                }
                self.materialize(v)?;
            } else if fill.is_none() {
                let Some((node, c)) = self.info.single(v) else {
                    return Err(self.error(v, "internal: a value is read before it is computed".into()));
                };
                let c: &Compute = c;
                if c.combine.is_some() {
                    return Err(self.error(v, "internal: a reduction is read before it is computed".into()));
                }
                return self.inline(d, node, c, index);
            } else {
                self.materialize(v)?;
            }
        }
        let (storage, buffer) = match self.arranged(d, v, index) {
            Some(found) => found,
            None => self.stored(v),
        };
        let operand = d.buffer(storage, buffer) as u32;
        Ok(d.body.push(Expr::Load {
            operand,
            dtype,
            index: index.to_vec(),
            fill,
        }))
    }

    /// The body of `c` with its iterators at `index`, loads resolved.
    pub fn inline(
        &mut self,
        d: &mut Draft,
        node: cameo_ir::NodeId,
        c: &Compute,
        index: &[Dim],
    ) -> Result<ExprId, LowerError> {
        let inputs = self.info.graph.node(node).inputs.clone();
        let mut body = std::mem::take(&mut d.body);
        let mut failed = None;
        let root = body.inline(&c.body, c.root, index, &mut |b, operand, dtype, at, fill| {
            std::mem::swap(&mut d.body, b);
            let r = match inputs[operand as usize] {
                Some(v) => self.expr(d, v, &at, fill),
                None => Err(self.error(ValueId(0), "internal: an absent operand is read".into())),
            };
            std::mem::swap(&mut d.body, b);
            r.unwrap_or_else(|e| {
                failed = Some(e);
                b.number(dtype, 0.0)
            })
        });
        d.body = body;
        match failed {
            None => Ok(root),
            Some(e) => Err(e),
        }
    }

    /// Gives a view (or an inlined value) memory: that of what it views, where it is all of it in some axis order, or else
    /// its own, by a copy kernel.
    pub fn materialize(&mut self, v: ValueId) -> Result<(), LowerError> {
        if self.placed.contains_key(&v) {
            return Ok(());
        }
        if let Some((placed, rows)) = self.whole_view(v) {
            self.rows.extend(rows.map(|rows| (v, rows)));
            self.placed.insert(v, placed);
            return Ok(());
        }
        let order: Vec<usize> = (0..self.info.graph.fact(v).rank()).collect();
        let storage = self.storage(v, Place::Arena);
        self.copy(v, storage, &order)?;
        self.placed.insert(v, Placed { storage, order });
        Ok(())
    }

    /// A kernel that writes `v` to `storage` in `order`.
    pub(crate) fn copy(&mut self, v: ValueId, storage: usize, order: &[usize]) -> Result<(), LowerError> {
        let shape = self.info.graph.fact(v).shape.clone();
        let outer: Vec<Dim> = order.iter().map(|a| shape[*a].clone()).collect();
        let mut index = vec![Dim::ZERO; shape.len()];
        for (i, a) in order.iter().enumerate() {
            index[*a] = Dim::iter(i);
        }
        let mut d = Draft::new(outer.clone());
        let root = self.expr(&mut d, v, &index, None)?;
        let buffer = self.buffer_of_copy(v, order);
        let buffer = d.buffer(storage, buffer);
        let origin = self
            .info
            .graph
            .producer(v)
            .map_or_else(Origin::default, |(n, _)| self.info.graph.node(n).origin.clone());
        self.push_map(d, outer, Store { buffer, index, root }, origin, vec![(v, storage)]);
        Ok(())
    }

    /// A step that stores one element at each point.
    pub(crate) fn push_map(
        &mut self,
        d: Draft,
        outer: Vec<Dim>,
        store: Store,
        origin: Origin,
        values: Vec<(ValueId, usize)>,
    ) {
        let nest = Nest {
            outer,
            row: vec![],
            body: Body::new(),
            reductions: vec![],
            stores: vec![store],
            temps: vec![],
            schedule: NestSchedule { vector: None },
        };
        self.push_nest(d, nest, origin, values);
    }

    /// Notes that the model is only valid where this holds. What several nodes need is there once.
    pub(crate) fn require(&mut self, r: Requirement) {
        let known = &mut self.program.requirements;
        if !known.iter().any(|k| (&k.a, &k.b) == (&r.a, &r.b)) {
            known.push(r);
        }
    }

    fn copy_outputs(&mut self) -> Result<(), LowerError> {
        for i in 0..self.program.outputs.len() {
            if self.written[i] {
                continue;
            }
            let v = self.info.graph.outputs()[i].1;
            let order: Vec<usize> = (0..self.info.graph.fact(v).rank()).collect();
            let storage = self.storage(v, Place::Output(i));
            self.copy(v, storage, &order)?;
        }
        Ok(())
    }

    fn parts(&mut self, g: &Group) -> Result<(), LowerError> {
        let node = g.seed;
        let outs = self.info.graph.node(node).outputs.clone();
        let origin = self.info.graph.node(node).origin.clone();
        for (slot, v) in outs.iter().enumerate() {
            if !g.exits.contains(v) {
                continue;
            }
            let grown = self.grow(node);
            let order = if grown.is_some() || self.free_output(*v).is_some() {
                (0..self.info.graph.fact(*v).rank()).collect()
            } else {
                self.inherited_order(g, *v)
            };
            let mut parts: Vec<Compute> = self.info.parts(node, slot).cloned().collect();
            let storage = match grown {
                // The first rows are there.
                Some(storage) => {
                    parts.retain(|c| c.as_movement().is_none_or(|(operand, _)| operand != 0));
                    storage
                }
                None => self.place(*v, order.clone()),
            };
            for (i, c) in parts.iter().enumerate() {
                let values = if i + 1 == parts.len() {
                    vec![(*v, storage)]
                } else {
                    vec![]
                };
                self.nest_of(
                    g,
                    &[(node, c)],
                    &[(*v, storage, order.clone())],
                    &c.extents[..c.parallel],
                    &c.extents[c.parallel..],
                    &origin,
                    values,
                )?;
            }
        }
        Ok(())
    }

    fn nest(&mut self, g: &Group) -> Result<(), LowerError> {
        let mut exits = vec![];
        let mut origin = Origin::default();
        for m in &g.members {
            origin = origin.merge(&self.info.graph.node(*m).origin);
        }
        for v in &g.exits {
            let order = if self.free_output(*v).is_some() {
                (0..self.info.graph.fact(*v).rank()).collect()
            } else {
                self.inherited_order(g, *v)
            };
            let storage = self.place(*v, order.clone());
            exits.push((*v, storage, order));
        }
        let loops: Vec<(cameo_ir::NodeId, Compute)> =
            g.members.iter().map(|m| (*m, self.info.loops[m][0].clone())).collect();
        let loops: Vec<(cameo_ir::NodeId, &Compute)> = loops.iter().map(|(n, c)| (*n, c)).collect();
        let values = exits.iter().map(|(v, s, _)| (*v, *s)).collect();
        self.nest_of(g, &loops, &exits, &g.outer.clone(), &g.row.clone(), &origin, values)
    }

    /// A nest over `outer` and `row` that computes the loops of the given nodes and stores the exits.
    fn nest_of(
        &mut self,
        g: &Group,
        nodes: &[(cameo_ir::NodeId, &Compute)],
        exits: &[(ValueId, usize, Vec<usize>)],
        outer: &[Dim],
        row: &[Dim],
        origin: &Origin,
        values: Vec<(ValueId, usize)>,
    ) -> Result<(), LowerError> {
        let Some((first, _, order)) = exits.first() else {
            return Ok(());
        };
        // Iterators in the memory order of the first exit.
        let lone = nodes.len() == 1;
        let coords_of = |v: ValueId| -> Vec<Dim> {
            if lone {
                nodes[0].1.store.clone()
            } else {
                g.coords[&v].clone()
            }
        };
        let coords = coords_of(*first);
        let mut sequence: Vec<usize> = vec![];
        for a in order {
            for i in 0..outer.len() {
                if !sequence.contains(&i) && coords[*a].uses(&Sym::Iter(i as u32)) {
                    sequence.push(i);
                }
            }
        }
        let missing: Vec<usize> = (0..outer.len()).filter(|i| !sequence.contains(i)).collect();
        let sequence: Vec<usize> = missing.into_iter().chain(sequence).collect();
        let mut sub = vec![Dim::ZERO; outer.len() + row.len()];
        for (new, old) in sequence.iter().enumerate() {
            sub[*old] = Dim::iter(new);
        }
        for (i, s) in sub.iter_mut().enumerate().skip(outer.len()) {
            *s = Dim::iter(i);
        }
        let outer: Vec<Dim> = sequence.iter().map(|i| outer[*i].clone()).collect();
        let mut d = Draft::new(outer.iter().chain(row).cloned().collect());
        // Windows and pointwise work put the innermost output axis into lanes.
        let window = row.iter().all(|e| e.as_const().is_some_and(|e| e <= 16));
        d.lane = (window && !outer.is_empty()).then(|| outer.len() - 1);
        let mut reductions = vec![];
        let mut flops = Dim::ZERO;
        for (node, c) in nodes {
            let iters: Vec<Dim> = if lone {
                sub.clone()
            } else {
                g.iters[node].iter().map(|x| x.at(&sub)).collect()
            };
            let root = self.inline(&mut d, *node, c, &iters)?;
            flops = flops + Dim::product(&c.extents);
            let own = match c.combine {
                None => root,
                // Accumulated in the type of the body, which for 16-bit floats is wider than the result.
                Some(combine) => {
                    let dtype = d.body.dtype(root);
                    reductions.push(Reduction { combine, dtype, root });
                    let operand = RED + reductions.len() as u32 - 1;
                    d.body.push(Expr::Load {
                        operand,
                        dtype,
                        index: vec![],
                        fill: None,
                    })
                }
            };
            let own = d.body.cast(c.dtype, own);
            let v = if lone {
                exits[0].0
            } else {
                self.info.graph.node(*node).outputs[0]
            };
            d.own.insert(v, own);
        }
        let mut stores = vec![];
        for (v, storage, order) in exits {
            let buffer = self.buffer_of(*v, order);
            let buffer = d.buffer(*storage, buffer);
            let index: Vec<Dim> = coords_of(*v).iter().map(|x| x.at(&sub)).collect();
            stores.push(Store {
                buffer,
                index,
                root: d.own[v],
            });
        }
        let nest = Nest {
            outer,
            row: row.to_vec(),
            body: Body::new(),
            reductions,
            stores,
            temps: vec![],
            schedule: NestSchedule { vector: None },
        };
        self.push_nest(d, nest, origin.clone(), values);
        if let Some(s) = self.program.steps.last_mut() {
            s.flops = flops;
        }
        Ok(())
    }

    fn push_nest(&mut self, d: Draft, mut nest: Nest, origin: Origin, values: Vec<(ValueId, usize)>) {
        nest.body = d.body;
        let domain = Dim::product(nest.outer.iter().chain(&nest.row));
        let kernel_buffers = d.buffers;
        let nest = finish_nest(nest, &kernel_buffers);
        let ops = nest.body.nodes().len().max(1);
        let flops = domain.clone();
        self.push(
            kernel_buffers,
            d.storages,
            KernelBody::Nest(nest),
            domain * Dim::from(ops),
            flops,
            origin,
            values,
        );
    }

    /// Adds a step, and its kernel unless an equal one is there. Model symbols become `d0, d1, …`.
    pub fn push(
        &mut self,
        buffers: Vec<Buffer>,
        storages: Vec<usize>,
        body: KernelBody,
        work: Dim,
        flops: Dim,
        origin: Origin,
        values: Vec<(ValueId, usize)>,
    ) {
        let kernel = Kernel { buffers, dims: 0, body };
        for (a, b) in bounds::requirements(&kernel) {
            let origin = origin.clone();
            self.require(Requirement { a, b, origin });
        }
        let (kernel, dims) = crate::flat::merge_axes(kernel).numbered();
        let kernel = self.kernels.number(kernel);
        for (v, _) in &values {
            self.kernel_of.insert(*v, kernel);
        }
        self.program.steps.push(Step {
            kernel,
            buffers: storages,
            dims,
            work,
            flops,
            origin,
            values,
        });
    }
}
