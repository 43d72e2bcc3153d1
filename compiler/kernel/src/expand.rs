//! Replaces every operation that decomposes by its decomposition, recursively, until only loops are left.
//!
//! Nodes that depend on weights only stay as they are: they are recipes, evaluated when the weights are written. Only what
//! no compiler run should wait for is left to the program.

use cameo_ir::interp::cost;
use cameo_ir::op::{Lowering, OpError, Rule};
use cameo_ir::structured::Compute;
use cameo_ir::{Def, Graph, NodeId, Origin, ValueId};
use rustc_hash::FxHashMap;

/// Iterations that every node of a recipe may take: half a gigabyte of `f32`, made of nothing.
const RECIPE_ANY: u64 = 1 << 27;

/// Iterations per element of the model's weights that it may take beyond: to permute a table takes 1, to multiply a weight by
/// one of low rank some 16. A constant of terabytes in a small file is left to the program.
const RECIPE_PER_ELEMENT: u64 = 64;

/// A graph of loop nests: the loops of every node that is not constant.
pub struct Expanded {
    pub graph: Graph,
    pub loops: FxHashMap<NodeId, Vec<Compute>>,
    /// By value id: depends on weights only.
    pub constant: Vec<bool>,
    /// What must hold of the symbols.
    pub rules: Vec<Rule>,
    /// Iterations from which a node is not part of a recipe.
    recipe_max: u64,
}

/// A node that cannot be lowered.
#[derive(Clone, Debug)]
pub struct LowerError {
    pub op: String,
    pub origin: Origin,
    pub error: OpError,
}

/// Expands `graph`; reports every node that cannot be lowered.
pub fn expand(graph: &Graph) -> Result<Expanded, Vec<LowerError>> {
    let weights = graph.value_ids().filter_map(|v| graph.constant(v));
    let weights = weights.fold(0, |n: u64, t| n.saturating_add(t.len() as u64));
    let mut out = Expanded {
        graph: Graph::new(&graph.name),
        loops: FxHashMap::default(),
        constant: vec![],
        rules: vec![],
        recipe_max: RECIPE_ANY.max(weights.saturating_mul(RECIPE_PER_ELEMENT)),
    };
    let mut errors = vec![];
    let mut map: FxHashMap<ValueId, ValueId> = FxHashMap::default();
    for v in graph.inputs() {
        let value = graph.value(*v);
        map.insert(*v, out.graph.add_input(&value.name, value.fact.clone()));
    }
    out.graph.symbols = graph.symbols.clone();
    out.constant = vec![false; out.graph.value_count()];
    out.copy_nodes(graph, &mut map, None, &mut errors);
    for (name, v) in graph.outputs() {
        if let Some(v) = out.value(graph, &mut map, *v) {
            out.graph.add_output(name, v);
        }
    }
    if errors.is_empty() { Ok(out) } else { Err(errors) }
}

impl Expanded {
    fn value(&mut self, from: &Graph, map: &mut FxHashMap<ValueId, ValueId>, v: ValueId) -> Option<ValueId> {
        if let Some(m) = map.get(&v) {
            return Some(*m);
        }
        let Def::Weight(t) = &from.value(v).def else {
            return None;
        };
        let new = self.graph.add_weight(&from.value(v).name, t.clone());
        self.constant.push(true);
        map.insert(v, new);
        Some(new)
    }

    fn copy_nodes(
        &mut self,
        from: &Graph,
        map: &mut FxHashMap<ValueId, ValueId>,
        origin: Option<&Origin>,
        errors: &mut Vec<LowerError>,
    ) {
        for id in from.order() {
            let node = from.node(id);
            let origin = origin.unwrap_or(&node.origin);
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for v in &node.inputs {
                inputs.push(match v {
                    None => None,
                    Some(v) => match self.value(from, map, *v) {
                        Some(v) => Some(v),
                        // The producer failed and is reported; what depends on it is not.
                        None => break,
                    },
                });
            }
            if inputs.len() < node.inputs.len() {
                continue;
            }
            let constant = inputs.iter().flatten().all(|v| self.constant[v.0 as usize])
                && from.is_fixed(id)
                && cost(from, id) <= self.recipe_max;
            let outputs = node.outputs.len();
            let failed = |error| LowerError {
                op: node.op.to_string(),
                origin: origin.clone(),
                error,
            };
            let added = self
                .graph
                .add_node(node.op, node.attrs.clone(), inputs.clone(), outputs, origin.clone());
            let outs = match added {
                Ok(outs) => outs,
                Err(e) => {
                    errors.push(failed(e));
                    continue;
                }
            };
            self.constant.resize(self.graph.value_count(), constant);
            for (old, new) in node.outputs.iter().zip(&outs) {
                map.insert(*old, *new);
                let name = from.value(*old).name.clone();
                self.graph.set_name(*new, &name);
            }
            if constant {
                continue;
            }
            let Some((new_id, _)) = self.graph.producer(outs[0]) else {
                continue;
            };
            match self.graph.with_cx(new_id, |cx| node.op.0.rules(cx)) {
                Ok(rules) => self.rules.extend(rules),
                Err(e) => {
                    errors.push(failed(e));
                    continue;
                }
            }
            match self.graph.with_cx(new_id, |cx| node.op.0.lower(cx)) {
                Err(e) => errors.push(failed(e)),
                Ok(Lowering::Compute(loops)) => {
                    self.loops.insert(new_id, loops);
                }
                Ok(Lowering::Scan | Lowering::Ragged | Lowering::Compact) => {
                    self.loops.insert(new_id, vec![]);
                }
                // The node itself stays behind, unused: only its expansion is reached from the outputs.
                Ok(Lowering::Decompose(inner)) => {
                    let present: Vec<ValueId> = inputs.into_iter().flatten().collect();
                    let mut inner_map: FxHashMap<ValueId, ValueId> =
                        inner.inputs().iter().copied().zip(present).collect();
                    self.copy_nodes(&inner, &mut inner_map, Some(origin), errors);
                    for (i, (_, v)) in inner.outputs().iter().enumerate() {
                        if let Some(new) = self.value(&inner, &mut inner_map, *v) {
                            let name = from.value(node.outputs[i]).name.clone();
                            self.graph.set_name(new, &name);
                            map.insert(node.outputs[i], new);
                        }
                    }
                }
            }
        }
    }
}
