//! Building the graphs that operations decompose into.

use std::sync::Arc;

use crate::index::broadcasts_to;
use crate::op::{Cx, Lowering, Op, OpError, invalid};
use crate::ops::pointwise::working;
use crate::ops::scan::Parts;
use crate::{Attr, DType, Dim, Fact, Graph, Origin, Tensor, ValueId};

/// A decomposition under construction.
pub(crate) struct Fragment {
    graph: Graph,
    inputs: Vec<Option<ValueId>>,
}

impl Fragment {
    /// With one graph input for each input of the node that is present.
    pub fn new(cx: &Cx) -> Self {
        let mut graph = Graph::new(cx.schema.name);
        let inputs = cx.inputs.iter().enumerate();
        let inputs = inputs
            .map(|(i, a)| a.map(|a| graph.add_input(&format!("in{i}"), a.fact.clone())))
            .collect();
        Self { graph, inputs }
    }

    /// The body of a loop, without inputs yet.
    pub fn empty(name: &str) -> Self {
        Self {
            graph: Graph::new(name),
            inputs: vec![],
        }
    }

    /// One more input.
    pub fn operand(&mut self, fact: Fact) -> ValueId {
        let v = self.graph.add_input(&format!("in{}", self.inputs.len()), fact);
        self.inputs.push(Some(v));
        v
    }

    /// Input `i` of the node.
    pub fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    /// Input `i` of the node, of which it is known that it is there.
    pub fn required(&self, cx: &Cx, i: usize) -> Result<ValueId, OpError> {
        cx.fact(i)?;
        self.input(i)
            .ok_or_else(|| OpError::Invalid(format!("input {i} is missing")))
    }

    pub fn fact(&self, v: ValueId) -> &Fact {
        self.graph.fact(v)
    }

    pub fn dtype(&self, v: ValueId) -> DType {
        self.fact(v).dtype
    }

    pub fn apply(&mut self, op: &str, attrs: &[(&str, Attr)], inputs: &[ValueId]) -> Result<ValueId, OpError> {
        self.graph.apply(op, attrs, inputs)
    }

    /// A node with one output of which inputs may be absent.
    pub fn node(&mut self, op: &str, attrs: &[(&str, Attr)], inputs: &[Option<ValueId>]) -> Result<ValueId, OpError> {
        Ok(self.results(op, attrs, inputs, 1)?[0])
    }

    /// The `outputs` results of a node of which inputs may be absent.
    pub fn results(
        &mut self,
        op: &str,
        attrs: &[(&str, Attr)],
        inputs: &[Option<ValueId>],
        outputs: usize,
    ) -> Result<Vec<ValueId>, OpError> {
        let Some(op) = Op::find(op) else {
            return invalid(format!("no operation `{op}`"));
        };
        let attrs = attrs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect();
        self.graph
            .add_node(op, attrs, inputs.to_vec(), outputs, Origin::default())
    }

    /// A loop of `length` steps whose body is `step` with the results `next`; of its operands, and so of the operands here, the
    /// first are states and the next are cut along their first axis. Gives the last states and what is stacked.
    pub fn scan(
        &mut self,
        step: Self,
        next: &[ValueId],
        [states, slices]: [usize; 2],
        length: &Dim,
        operands: &[ValueId],
    ) -> Result<Vec<ValueId>, OpError> {
        let parts = Parts {
            body: &Arc::new(step.closed(next)),
            states,
            slices,
            length,
        };
        let attrs = parts.attrs();
        let attrs: Vec<(&str, Attr)> = attrs.iter().map(|(k, v)| (&**k, v.clone())).collect();
        let operands: Vec<Option<ValueId>> = operands.iter().copied().map(Some).collect();
        self.results("cameo::Scan", &attrs, &operands, next.len())
    }

    pub fn constant(&mut self, t: Tensor) -> ValueId {
        self.graph.add_weight("", t)
    }

    pub fn unary(&mut self, op: &str, x: ValueId) -> Result<ValueId, OpError> {
        self.apply(op, &[], &[x])
    }

    pub fn binary(&mut self, op: &str, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
        self.apply(op, &[], &[a, b])
    }

    /// `x` of type `to`; no node when it is already.
    pub fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId, OpError> {
        if self.dtype(x) == to {
            return Ok(x);
        }
        self.apply("Cast", &[("to", Attr::DType(to))], &[x])
    }

    /// `x` in the type that bodies compute in: 16-bit floats become `f32`.
    pub fn widen(&mut self, x: ValueId) -> Result<ValueId, OpError> {
        let to = working(self.dtype(x));
        self.cast(x, to)
    }

    /// The number `v` as a scalar of the type of `like`.
    pub fn number(&mut self, like: ValueId, v: f64) -> ValueId {
        let t = Tensor::from_f64(self.dtype(like), &[], [v]);
        self.constant(t)
    }

    /// A reduction over `axes`; `x` itself where there are none.
    pub fn reduce(&mut self, op: &str, x: ValueId, axes: &[usize], keepdims: bool) -> Result<ValueId, OpError> {
        if axes.is_empty() {
            return Ok(x);
        }
        let axes = Attr::Dims(axes.iter().map(|a| Dim::from(*a)).collect());
        self.apply(op, &[("axes", axes), ("keepdims", Attr::Int(keepdims.into()))], &[x])
    }

    /// The mean over `axes`.
    pub fn mean(&mut self, x: ValueId, axes: &[usize], keepdims: bool) -> Result<ValueId, OpError> {
        let shape = &self.fact(x).shape;
        let count = Dim::product(axes.iter().filter_map(|a| shape.get(*a)));
        let sum = self.reduce("ReduceSum", x, axes, keepdims)?;
        self.apply("cameo::DivDim", &[("by", Attr::Dims(vec![count]))], &[sum])
    }

    /// `p` where it certainly broadcasts to `shape` without widening it; else made to.
    pub fn fit(&mut self, p: ValueId, shape: &[Dim]) -> Result<ValueId, OpError> {
        if broadcasts_to(&self.fact(p).shape, shape)?.is_empty() {
            return Ok(p);
        }
        self.apply("cameo::Fit", &[("shape", Attr::Dims(shape.to_vec()))], &[p])
    }

    /// A graph whose outputs are `outputs`.
    pub fn closed(mut self, outputs: &[ValueId]) -> Graph {
        for (i, v) in outputs.iter().enumerate() {
            self.graph.add_output(&format!("out{i}"), *v);
        }
        self.graph
    }

    /// The decomposition whose outputs are `outputs`.
    pub fn finish(self, outputs: &[ValueId]) -> Lowering {
        Lowering::Decompose(Box::new(self.closed(outputs)))
    }
}
