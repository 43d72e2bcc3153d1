//! Makes the nodes that a cut reaches again, with smaller weights and the attributes that go with them.
//!
//! Law: a weight becomes a recipe, a Slice where a run of elements is kept and else a Gather of constant indices; no
//! weight is read.

use std::sync::Arc;

use cameo_ir::op::{OpError, invalid, normalize_axis};
use cameo_ir::rewrite::Rewriter;
use cameo_ir::{Attr, Attrs, Dim, Fact, Graph, NodeId, Op, Origin, Tensor, ValueId};
use rustc_hash::FxHashMap;

use super::cut::{Cut, Net, Refusal};
use super::{Axis, Place, Tie, ties};
use crate::pattern::reshape_attrs;

/// Something that nodes and weights can be added to.
pub trait Maker {
    fn node(
        &mut self,
        op: Op,
        attrs: Attrs,
        inputs: Vec<Option<ValueId>>,
        outputs: usize,
        origin: &Origin,
    ) -> Result<Vec<ValueId>, OpError>;
    fn weight(&mut self, t: Tensor) -> ValueId;
    fn fact(&self, v: ValueId) -> &Fact;
}

impl Maker for Graph {
    fn node(
        &mut self,
        op: Op,
        attrs: Attrs,
        inputs: Vec<Option<ValueId>>,
        outputs: usize,
        origin: &Origin,
    ) -> Result<Vec<ValueId>, OpError> {
        self.add_node(op, attrs, inputs, outputs, origin.clone())
    }

    fn weight(&mut self, t: Tensor) -> ValueId {
        self.add_weight("", t)
    }

    fn fact(&self, v: ValueId) -> &Fact {
        self.fact(v)
    }
}

impl Maker for Rewriter<'_> {
    fn node(
        &mut self,
        op: Op,
        attrs: Attrs,
        inputs: Vec<Option<ValueId>>,
        outputs: usize,
        origin: &Origin,
    ) -> Result<Vec<ValueId>, OpError> {
        self.with_origin(origin.clone(), |rw| rw.add_node(op, attrs, inputs, outputs))
    }

    fn weight(&mut self, t: Tensor) -> ValueId {
        self.add_weight("", t)
    }

    fn fact(&self, v: ValueId) -> &Fact {
        self.fact(v)
    }
}

/// A node to be made again.
pub struct Step {
    pub node: NodeId,
    op: Op,
    attrs: Attrs,
    inputs: Vec<Option<ValueId>>,
    /// Weights to be cut: operand, axis, elements that stay.
    weights: Vec<(usize, usize, Vec<bool>)>,
    /// Of the results.
    shapes: Vec<Vec<Dim>>,
    origin: Origin,
}

/// The nodes that `cut` reaches, producers first.
pub fn plan(net: &mut Net, cut: &Cut) -> Result<Vec<Step>, Refusal> {
    let mut out = vec![];
    for n in net.g.order() {
        let node = net.g.node(n);
        let is_cut = |place: Place| {
            cut.range(Axis { place, axis: 0 }..)
                .next()
                .is_some_and(|(a, _)| a.place == place)
        };
        let slots = node.inputs.iter().enumerate();
        let values = slots.filter_map(|(i, v)| Some((i, (*v)?)));
        let reached = is_cut(Place::Inner(n))
            || node.outputs.iter().any(|v| is_cut(Place::Value(*v)))
            || values
                .clone()
                .any(|(i, v)| is_cut(Place::Weight(n, i)) || is_cut(Place::Value(v)));
        if !reached {
            continue;
        }
        let step = step(net, cut, n).map_err(|e| Refusal {
            node: Some(n),
            reason: e.to_string(),
        })?;
        out.push(step);
    }
    Ok(out)
}

/// The shape that a value has after the cut.
pub fn shape(g: &Graph, cut: &Cut, v: ValueId) -> Vec<Dim> {
    let axes = g.fact(v).shape.iter().enumerate();
    axes.map(|(a, d)| {
        cut.get(&Axis::of(v, a))
            .map_or_else(|| d.clone(), super::sets::Set::extent)
    })
    .collect()
}

fn step(net: &mut Net, cut: &Cut, n: NodeId) -> Result<Step, OpError> {
    let ties = net.ties(n);
    let g = net.g;
    let node = g.node(n);
    let shapes: Vec<Vec<Dim>> = node.outputs.iter().map(|v| shape(g, cut, *v)).collect();
    let (mut attrs, mut inputs) = (node.attrs.clone(), node.inputs.clone());
    let mut set = |name: &str, value: Attr| attrs.insert(Arc::from(name), value);
    match node.op.name() {
        "Reshape" => {
            for (name, value) in reshape_attrs(&shapes[0]) {
                set(name, value);
            }
            inputs.truncate(1);
        }
        "Expand" => {
            set("shape", Attr::Dims(shapes[0].clone()));
            inputs.truncate(1);
        }
        "ConstantOfShape" => {
            set("shape", Attr::Dims(shapes[0].clone()));
            inputs.clear();
        }
        "Split" => {
            let axis = g.with_cx(n, |cx| normalize_axis(cx.int("axis")?, shapes[0].len()))?;
            set("split", Attr::Dims(shapes.iter().map(|s| s[axis].clone()).collect()));
            attrs.remove("num_outputs");
            inputs.truncate(1);
        }
        "Slice" => {
            for (name, value) in slice_attrs(g, cut, n, &ties)? {
                set(name, Attr::Dims(value));
            }
            inputs.truncate(1);
        }
        "Attention" => {
            if let Some(heads) = cut.get(&Axis::inner(n)).and_then(|s| s.kept()) {
                let left = heads.iter().filter(|k| **k).count() as i64;
                for name in ["q_num_heads", "kv_num_heads"] {
                    if let Some(Attr::Int(h)) = node.attrs.get(name) {
                        // Query heads come in equal runs.
                        set(name, Attr::Int(h / heads.len() as i64 * left));
                    }
                }
            }
        }
        "Conv" if ties::group(g, n) > 1 => {
            let channels = shapes[0].get(1).and_then(Dim::as_const);
            match channels {
                Some(c) => set("group", Attr::Int(c)),
                None => return invalid("a depthwise convolution of unknown channels"),
            };
        }
        _ => {}
    }
    let mut weights = vec![];
    for (axis, set) in cut.range(
        Axis {
            place: Place::Weight(n, 0),
            axis: 0,
        }..,
    ) {
        let Place::Weight(of, slot) = axis.place else { break };
        if of != n {
            break;
        }
        match set.kept() {
            Some(kept) => weights.push((slot, axis.axis, kept.to_vec())),
            None => return invalid("a weight of unknown extent"),
        }
    }
    Ok(Step {
        node: n,
        op: node.op,
        attrs,
        inputs,
        weights,
        shapes,
        origin: node.origin.clone(),
    })
}

/// The slice that takes from what is left of its operand what is left of its result.
fn slice_attrs(g: &Graph, cut: &Cut, n: NodeId, ties: &[Tie]) -> Result<Vec<(&'static str, Vec<Dim>)>, OpError> {
    let lists = g.with_cx(n, |cx| {
        let starts = cx.dims(1)?.unwrap_or_default();
        let counted = (0..starts.len()).map(Dim::from).collect();
        let ones = vec![Dim::ONE; starts.len()];
        Ok::<_, OpError>((
            starts,
            cx.dims(2)?.unwrap_or_default(),
            cx.dims(3)?.unwrap_or(counted),
            cx.dims(4)?.unwrap_or(ones),
        ))
    })?;
    let (mut starts, mut ends, axes, mut steps) = lists;
    let rank = g.fact(g.node(n).outputs[0]).rank();
    for tie in ties {
        let Tie::Part {
            whole,
            part,
            start,
            step,
            len,
        } = tie
        else {
            continue;
        };
        let Some(kept) = cut.get(whole).and_then(|s| s.kept()) else {
            continue;
        };
        let of_part = cut.get(part).and_then(|s| s.kept());
        // Where each element that was before `i` is now.
        let rank_of = |i: usize| kept.iter().take(i).filter(|k| **k).count() as i64;
        let places: Vec<i64> = (0..*len)
            .filter(|i| of_part.is_none_or(|p| p.get(*i) == Some(&true)))
            .filter_map(|i| usize::try_from(*start as i64 + step * i as i64).ok())
            .map(rank_of)
            .collect();
        let (Some(first), Some(last)) = (places.first(), places.last()) else {
            return invalid("nothing is left of the slice");
        };
        let stride = places.get(1).map_or(1, |p| p - first);
        if places.windows(2).any(|w| w[1] - w[0] != stride) {
            return invalid("what is left lies at uneven distances");
        }
        let at = axes
            .iter()
            .position(|a| a.as_const().is_some_and(|a| normalize_axis(a, rank) == Ok(whole.axis)));
        let Some(at) = at else {
            return invalid("the axis is not sliced");
        };
        let end = last + stride.signum();
        starts[at] = Dim::from(*first);
        // Before the first element: a negative end counts from the back, and stops there when it is too large.
        ends[at] = Dim::from(if end < 0 { -(kept.len() as i64) - 1 } else { end });
        steps[at] = Dim::from(stride);
    }
    Ok(vec![
        ("starts", starts),
        ("ends", ends),
        ("axes", axes),
        ("steps", steps),
    ])
}

impl Step {
    /// Makes the node; `map` says what became of values. Adds the results to it.
    pub fn make(
        &self,
        maker: &mut impl Maker,
        map: &mut FxHashMap<ValueId, ValueId>,
        old: &[ValueId],
    ) -> Result<(), OpError> {
        let inputs = self.inputs(maker, map)?;
        let made = maker.node(self.op, self.attrs.clone(), inputs, self.shapes.len(), &self.origin)?;
        self.check(maker, &made)?;
        map.extend(old.iter().copied().zip(made));
        Ok(())
    }

    /// The operands that the node has after the cut.
    pub fn inputs(
        &self,
        maker: &mut impl Maker,
        map: &FxHashMap<ValueId, ValueId>,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        let now = |v: ValueId| map.get(&v).copied().unwrap_or(v);
        let mut inputs: Vec<Option<ValueId>> = self.inputs.iter().map(|v| v.map(now)).collect();
        for (slot, axis, kept) in &self.weights {
            if let Some(Some(v)) = inputs.get(*slot) {
                let v = taken(maker, *v, *axis, kept, &self.origin)?;
                inputs[*slot] = Some(v);
            }
        }
        Ok(inputs)
    }

    fn check(&self, maker: &impl Maker, made: &[ValueId]) -> Result<(), OpError> {
        for (v, shape) in made.iter().zip(&self.shapes) {
            if maker.fact(*v).shape != *shape {
                let fact = maker.fact(*v);
                return invalid(format!("the cut makes {fact} where other extents are needed"));
            }
        }
        Ok(())
    }
}

/// The elements of axis `axis` of a constant that are kept.
pub fn taken(
    maker: &mut impl Maker,
    v: ValueId,
    axis: usize,
    kept: &[bool],
    origin: &Origin,
) -> Result<ValueId, OpError> {
    let places: Vec<i64> = (0..kept.len()).filter(|i| kept[*i]).map(|i| i as i64).collect();
    let (Some(first), Some(last)) = (places.first(), places.last()) else {
        return invalid("nothing is left of a weight");
    };
    let (op, attrs, inputs) = if last - first + 1 == places.len() as i64 {
        let one = |n: i64| Attr::Dims(vec![Dim::from(n)]);
        let attrs = [
            ("axes", one(axis as i64)),
            ("starts", one(*first)),
            ("ends", one(last + 1)),
            ("steps", one(1)),
        ];
        ("Slice", attrs.to_vec(), vec![Some(v)])
    } else {
        let indices = maker.weight(Tensor::i64(&[places.len()], places));
        (
            "Gather",
            vec![("axis", Attr::Int(axis as i64))],
            vec![Some(v), Some(indices)],
        )
    };
    let Some(op) = Op::find(op) else {
        return invalid(format!("no operation `{op}`"));
    };
    let attrs = attrs.into_iter().map(|(k, v)| (Arc::from(k), v)).collect();
    Ok(maker.node(op, attrs, inputs, 1, origin)?[0])
}
