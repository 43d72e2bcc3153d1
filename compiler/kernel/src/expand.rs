//! Replaces every operation that decomposes by its decomposition, recursively, until only loops are left.
//!
//! Nodes that depend on weights only stay as they are: they are recipes, evaluated when the weights are written. Only what
//! no compiler run should wait for is left to the program.
//!
//! Inputs and outputs whose elements share bytes are bytes here, with the operations beside them that take them apart and
//! put them together.

use cameo_ir::index::joins;
use cameo_ir::interp::cost;
use cameo_ir::op::{Lowering, OpError, Rule};
use cameo_ir::ops::packed;
use cameo_ir::structured::Compute;
use cameo_ir::{Attr, Attrs, DType, Def, Fact, Graph, NodeId, Op, Origin, ValueId};
use rustc_hash::FxHashMap;

use crate::program::Requirement;

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
    pub rules: Vec<Requirement>,
    /// The inputs as callers see them.
    pub inputs: Vec<Fact>,
    /// The outputs as callers see them.
    pub outputs: Vec<Fact>,
    /// Iterations from which a node is not part of a recipe.
    recipe_max: u64,
}

/// How elements of less than a byte are in the inputs and outputs of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edges {
    /// Those of a model: packed.
    Packed,
    /// Those of a loop's body: as between other operations.
    Apart,
}

/// A node that cannot be lowered.
#[derive(Clone, Debug)]
pub struct LowerError {
    pub op: String,
    pub origin: Origin,
    pub error: OpError,
}

/// Expands `graph`; reports every node that cannot be lowered.
pub fn expand(graph: &Graph, edges: Edges) -> Result<Expanded, Vec<LowerError>> {
    let weights = graph.value_ids().filter_map(|v| graph.constant(v));
    let weights = weights.fold(0, |n: u64, t| n.saturating_add(t.len() as u64));
    let shares_bytes = |fact: &Fact| edges == Edges::Packed && fact.dtype.bits() < 8;
    let facts = |values: &mut dyn Iterator<Item = ValueId>| values.map(|v| graph.fact(v).clone()).collect();
    let mut out = Expanded {
        graph: Graph::new(&graph.name),
        loops: FxHashMap::default(),
        constant: vec![],
        rules: vec![],
        inputs: facts(&mut graph.inputs().iter().copied()),
        outputs: facts(&mut graph.outputs().iter().map(|(_, v)| *v)),
        recipe_max: RECIPE_ANY.max(weights.saturating_mul(RECIPE_PER_ELEMENT)),
    };
    let mut errors = vec![];
    let mut map: FxHashMap<ValueId, ValueId> = FxHashMap::default();
    for v in graph.inputs() {
        let value = graph.value(*v);
        let mut fact = value.fact.clone();
        if shares_bytes(&fact) {
            fact = Fact::new(DType::U8, vec![packed::bytes(fact.dtype, &fact.shape)]);
        }
        map.insert(*v, out.graph.add_input(&value.name, fact));
    }
    out.graph.symbols = graph.symbols.clone();
    out.constant = vec![false; out.graph.value_count()];
    for v in graph.inputs() {
        let fact = graph.fact(*v);
        if shares_bytes(fact) {
            let shape = ("shape".into(), Attr::Dims(fact.shape.clone()));
            let attrs = Attrs::from_iter([("to".into(), Attr::DType(fact.dtype)), shape]);
            if let Some(apart) = out.at_edge("cameo::Unpack", attrs, map[v], &mut errors) {
                map.insert(*v, apart);
            }
        }
    }
    out.copy_nodes(graph, &mut map, None, &mut errors);
    for (name, v) in graph.outputs() {
        let Some(mut new) = out.value(graph, &mut map, *v) else {
            continue;
        };
        if shares_bytes(graph.fact(*v)) {
            match out.at_edge("cameo::Pack", Attrs::default(), new, &mut errors) {
                Some(together) => new = together,
                None => continue,
            }
        }
        out.graph.add_output(name, new);
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
            let added = self
                .graph
                .add_node(node.op, node.attrs.clone(), inputs.clone(), outputs, origin.clone());
            let outs = match added {
                Ok(outs) => outs,
                Err(e) => {
                    errors.push(failed(node.op, origin, e));
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
            let present: Vec<ValueId> = inputs.into_iter().flatten().collect();
            for (i, new) in self.lower(&outs, present, origin, errors) {
                map.insert(node.outputs[i], new);
            }
        }
    }

    /// A node between an input or output of the program and the value that is computed with.
    fn at_edge(&mut self, op: &str, attrs: Attrs, v: ValueId, errors: &mut Vec<LowerError>) -> Option<ValueId> {
        let (op, origin) = (Op::find(op)?, Origin::default());
        let name = self.graph.value(v).name.clone();
        match self.graph.add_node(op, attrs, vec![Some(v)], 1, origin.clone()) {
            Err(e) => {
                errors.push(failed(op, &origin, e));
                None
            }
            Ok(outs) => {
                let constant = self.constant[v.0 as usize];
                self.constant.resize(self.graph.value_count(), constant);
                self.graph.set_name(outs[0], &name);
                if constant {
                    return Some(outs[0]);
                }
                let replaced = self.lower(&outs, vec![v], &origin, errors);
                Some(replaced.first().map_or(outs[0], |(_, new)| *new))
            }
        }
    }

    /// Finds the loops of a node that is new. Of a composition: what its outputs are, by their number.
    fn lower(
        &mut self,
        outs: &[ValueId],
        inputs: Vec<ValueId>,
        origin: &Origin,
        errors: &mut Vec<LowerError>,
    ) -> Vec<(usize, ValueId)> {
        let Some((id, _)) = outs.first().and_then(|v| self.graph.producer(*v)) else {
            return vec![];
        };
        let op = self.graph.node(id).op;
        match self.graph.with_cx(id, |cx| op.0.rules(cx)) {
            Ok(mut rules) => {
                if op.schema().pointwise {
                    let to = &self.graph.fact(outs[0]).shape;
                    let operands = inputs.iter().map(|v| &self.graph.fact(*v).shape);
                    rules.extend(operands.flat_map(|from| joins(from, to)));
                }
                let here = |(a, b): Rule| Requirement {
                    a,
                    b,
                    origin: origin.clone(),
                };
                self.rules.extend(rules.into_iter().map(here));
            }
            Err(e) => {
                errors.push(failed(op, origin, e));
                return vec![];
            }
        }
        match self.graph.with_cx(id, |cx| op.0.lower(cx)) {
            Err(e) => errors.push(failed(op, origin, e)),
            Ok(Lowering::Compute(loops)) => {
                self.loops.insert(id, loops);
            }
            Ok(Lowering::Scan | Lowering::Ragged | Lowering::Compact | Lowering::Custom) => {
                self.loops.insert(id, vec![]);
            }
            // The node itself stays behind, unused: only its expansion is reached from the outputs.
            Ok(Lowering::Decompose(inner)) => {
                let mut inner_map: FxHashMap<ValueId, ValueId> = inner.inputs().iter().copied().zip(inputs).collect();
                self.copy_nodes(&inner, &mut inner_map, Some(origin), errors);
                let mut replaced = vec![];
                for (i, (_, v)) in inner.outputs().iter().enumerate() {
                    if let Some(new) = self.value(&inner, &mut inner_map, *v) {
                        let name = self.graph.value(outs[i]).name.clone();
                        self.graph.set_name(new, &name);
                        replaced.push((i, new));
                    }
                }
                return replaced;
            }
        }
        vec![]
    }
}

fn failed(op: Op, origin: &Origin, error: OpError) -> LowerError {
    LowerError {
        op: op.to_string(),
        origin: origin.clone(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use cameo_ir::{DType, Dim};

    use crate::program::Place;
    use crate::testing::program;

    #[test]
    fn elements_that_share_bytes_are_apart_between_the_edges() {
        let p = program(
            r#"graph @g (%0 "x": i4[S,3], %1 "v": f8e5m2[S]) symbols S=1.. {
              weight %2: u2[3] = dense(1,2,3)
              %3 = Transpose(%0) {perm=[1,0]}
              return %3 "y", %0 "z", %2 "w", %1 "v"
            }"#,
        );
        let s = Dim::sym("S");
        let inputs: Vec<_> = p.inputs.iter().map(|io| (io.dtype, io.shape.clone())).collect();
        let three = Dim::from(3usize);
        assert_eq!(inputs[0], (DType::I4, vec![s.clone(), three.clone()]));
        assert_eq!(p.outputs[0].shape, [three.clone(), s.clone()]);
        assert_eq!((p.outputs[1].dtype, p.outputs[2].dtype), (DType::I4, DType::U2));
        let bytes = (s.clone() * three + Dim::ONE).floor_div(&Dim::from(2usize));
        let storage = |place: Place| {
            let found = p.storages.iter().find(|s| s.place == place).expect("a storage");
            (found.dtype, found.elements.clone())
        };
        assert_eq!(storage(Place::Input(0)), (DType::U8, bytes.clone()));
        assert_eq!(storage(Place::Output(0)), (DType::U8, bytes.clone()));
        assert_eq!(storage(Place::Output(1)), (DType::U8, bytes));
        assert_eq!(storage(Place::Output(2)), (DType::U8, Dim::ONE));
        assert_eq!(storage(Place::Input(1)), (DType::F8E5M2, s));
    }
}
