//! Loops over time: a body that runs once per step and carries state from one step to the next.
//!
//! Law: the body is closed. It reads nothing but its inputs and its own weights, so that it can be looked at, rewritten and
//! compiled like any graph; what it needs from around it are operands of the node.

use std::sync::Arc;

use crate::interp;
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid, unsupported};
use crate::{Attr, Bounds, Dim, Fact, Graph, Sym, Tensor};

pub const OPS: &[&dyn OpDef] = &[&Scan];

/// `cameo::Scan`; the importer brings ONNX's `Scan` and counted `Loop`s to this form.
pub struct Scan;

/// A scan's body and what its operands are: first the initial states, then the tensors that are cut along axis 0, one slice
/// per step, then what every step reads whole. The body has one input for each, and as outputs the next states, then what
/// is stacked along axis 0.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    pub body: &'a Arc<Graph>,
    pub states: usize,
    pub slices: usize,
    /// Number of steps.
    pub length: &'a Dim,
}

impl<'a> Parts<'a> {
    /// The parts of a node of [`Scan`], from its attributes.
    pub fn of(attrs: &'a crate::Attrs) -> Result<Self, OpError> {
        let int = |name: &str| match attrs.get(name) {
            Some(Attr::Int(i)) => usize::try_from(*i).ok(),
            _ => None,
        };
        let (Some(Attr::Graph(body)), Some(states), Some(slices), Some(Attr::Dims(length))) =
            (attrs.get("body"), int("states"), int("slices"), attrs.get("length"))
        else {
            return invalid("attributes `body`, `states`, `slices` or `length` are of the wrong kind");
        };
        let [length] = length.as_slice() else {
            return invalid("`length` is one dim");
        };
        let (inputs, outputs) = (body.inputs().len(), body.outputs().len());
        if states + slices > inputs || states > outputs {
            return invalid(format!(
                "the body has {inputs} inputs and {outputs} outputs for {states} states and {slices} slices"
            ));
        }
        Ok(Self {
            body,
            states,
            slices,
            length,
        })
    }

    /// The attributes of a node with these parts.
    pub fn attrs(&self) -> crate::Attrs {
        let int = |n: usize| Attr::Int(n as i64);
        [
            ("body", Attr::Graph(self.body.clone())),
            ("length", Attr::Dims(vec![self.length.clone()])),
            ("slices", int(self.slices)),
            ("states", int(self.states)),
        ]
        .into_iter()
        .map(|(k, v)| (Arc::from(k), v))
        .collect()
    }

    /// What the body's input `i` is when the operand of the node is `whole`.
    fn cut(&self, i: usize, whole: &Fact) -> Option<Vec<Dim>> {
        if i < self.states || i >= self.states + self.slices {
            return Some(whole.shape.clone());
        }
        let (first, rest) = whole.shape.split_first()?;
        (first == self.length || first.as_const().zip(self.length.as_const()).is_none()).then(|| rest.to_vec())
    }
}

/// Whether extents may be equal: neither two different numbers, nor always apart as `S` and `S + 1` are.
fn compatible(a: &[Dim], b: &[Dim]) -> bool {
    let fits = |(a, b): (&Dim, &Dim)| {
        let (least, most) = Bounds::of(&[]).range(&(a.clone() - b.clone()));
        least <= 0 && most >= 0
    };
    a.len() == b.len() && a.iter().zip(b).all(fits)
}

impl OpDef for Scan {
    fn schema(&self) -> &'static Schema {
        const S: Schema = Schema::new(
            "cameo::Scan",
            "for t in 0..length: states, y[t] = body(states, x[t], w); Y = final states, y stacked along axis 0",
            &[Param::new("operands", Types::MOVED).variadic().group(0)],
            &[Param::new("results", Types::MOVED).variadic().group(0)],
            &[
                ("body", AttrDef::ReqGraph),
                ("length", AttrDef::ReqDims),
                ("slices", AttrDef::ReqInt),
                ("states", AttrDef::ReqInt),
            ],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let parts = Parts::of(cx.attrs)?;
        let body = parts.body;
        let facts = cx.facts()?;
        if facts.len() != body.inputs().len() {
            return invalid(format!(
                "{} operands given, the body has {} inputs",
                facts.len(),
                body.inputs().len()
            ));
        }
        if parts.length.as_const().is_some_and(|n| n < 0) {
            return invalid(format!("{} steps", parts.length));
        }
        for (i, (v, whole)) in body.inputs().iter().zip(&facts).enumerate() {
            let inner = body.fact(*v);
            let fits = parts.cut(i, whole).is_some_and(|cut| compatible(&cut, &inner.shape));
            if !fits || inner.dtype != whole.dtype {
                return invalid(format!("operand {i} is {whole}, the body's input is {inner}"));
            }
        }
        let mut out = vec![];
        for (i, (name, v)) in body.outputs().iter().enumerate() {
            let inner = body.fact(*v);
            if let Some(n) = body
                .counted()
                .find(|n| inner.shape.iter().any(|d| d.uses(&Sym::Named((*n).clone()))))
            {
                return unsupported(format!(
                    "the body's output `{name}` is {inner}: each step may count another {n}"
                ));
            }
            if i < parts.states {
                let state = facts[i];
                if inner.dtype != state.dtype || !compatible(&inner.shape, &state.shape) {
                    return invalid(format!("state {i} is {state}, the body's output `{name}` is {inner}"));
                }
                out.push(Fact::new(state.dtype, state.shape.clone()));
            } else {
                let shape = std::iter::once(parts.length.clone()).chain(inner.shape.iter().cloned());
                out.push(Fact::new(inner.dtype, shape.collect::<Vec<_>>()));
            }
        }
        Ok(out)
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let operands: Vec<Tensor> = (0..cx.inputs.len())
            .map(|i| cx.tensor(i).cloned())
            .collect::<Result<_, _>>()?;
        let parts = Parts::of(cx.attrs)?;
        run(&parts, &operands, &mut |body, inputs| {
            interp::run(body, inputs).map_err(|e| OpError::Invalid(format!("in the body: {e}")))
        })
    }

    fn lower(&self, _: &Cx) -> Result<Lowering, OpError> {
        Ok(Lowering::Scan)
    }
}

/// Runs a scan on known operands, step by step, the body by `step`.
pub(crate) fn run(
    parts: &Parts,
    operands: &[Tensor],
    step: &mut dyn FnMut(&Graph, &[Tensor]) -> Result<Vec<Tensor>, OpError>,
) -> Result<Vec<Tensor>, OpError> {
    let length = parts.length.as_const().and_then(|n| usize::try_from(n).ok());
    let Some(length) = length else {
        return invalid(format!("{} steps", parts.length));
    };
    let body: &Graph = parts.body;
    let (states, cut) = (parts.states, parts.states..parts.states + parts.slices);
    for t in &operands[cut.clone()] {
        if t.shape().first() != Some(&length) {
            return invalid(format!("an operand of shape {:?} for {length} steps", t.shape()));
        }
    }
    let mut state = operands[..states].to_vec();
    let mut stacked: Vec<Vec<u8>> = vec![vec![]; body.outputs().len() - states];
    for t in 0..length {
        let mut inputs = state;
        for (i, x) in operands.iter().enumerate().skip(states) {
            inputs.push(if cut.contains(&i) { slice(x, t) } else { x.clone() });
        }
        let mut outputs = step(body, &inputs)?;
        let stack = outputs.split_off(states);
        for (all, one) in stacked.iter_mut().zip(&stack) {
            all.extend_from_slice(one.bytes());
        }
        for (new, old) in outputs.iter().zip(&operands[..states]) {
            if new.shape() != old.shape() {
                return invalid(format!("a state of shape {:?} becomes {:?}", old.shape(), new.shape()));
            }
        }
        state = outputs;
    }
    let mut out = state;
    for ((_, v), bytes) in body.outputs()[states..].iter().zip(stacked) {
        let fact = body.fact(*v);
        // Where a symbol is left, the elements tell what one axis is.
        let mut shape = vec![length];
        let known: usize = fact
            .shape
            .iter()
            .filter_map(Dim::as_const)
            .map(|d| d.max(0) as usize)
            .product();
        let open = bytes.len() / (fact.dtype.size() * length.max(1) * known.max(1));
        for d in &fact.shape {
            shape.push(d.as_const().map_or(open, |d| d.max(0) as usize));
        }
        match Tensor::new(fact.dtype, shape, bytes.into()) {
            Ok(t) => out.push(t),
            Err(_) => return invalid(format!("slices are not all {fact}")),
        }
    }
    Ok(out)
}

/// Element `t` along axis 0.
fn slice(x: &Tensor, t: usize) -> Tensor {
    let shape = x.shape()[1..].to_vec();
    let bytes = shape.iter().product::<usize>() * x.dtype().size();
    let cut = x.bytes().slice(t * bytes..(t + 1) * bytes);
    Tensor::new(x.dtype(), shape, cut).unwrap_or_else(|_| x.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive;
    use crate::text;

    /// `h = a * h + x[t]`, `y[t] = h + w` over rows of symbolic length.
    const SOURCE: &str = r#"graph @g (%0 "h": f32[B], %1 "x": f32[T,B], %2 "a": f32[B]) symbols B=0.., T=0.. {
        %3, %4 = cameo::Scan(%0, %1, %2) {body=graph @step (%0 "h": f32[B], %1 "x": f32[B], %2 "a": f32[B]) symbols B=0.. {
            weight %3: f32[] = dense(10.0)
            %4 = Mul(%2, %0) : f32[B]
            %5 = Add(%4, %1) : f32[B]
            %6 = Add(%5, %3) : f32[B]
            return %5 "next", %6 "y"
        }, length=dims[T], slices=1, states=1} : f32[B], f32[T,B]
        return %3 "last", %4 "ys"
    }"#;

    fn graph() -> Graph {
        text::parse(SOURCE, &|_, _| None).expect("parses")
    }

    #[test]
    fn a_recurrence_runs_in_both_meanings() {
        let g = graph();
        crate::verify::verify(&g).expect("sound");
        let h = Tensor::f32(&[2], [1.0, 2.0]);
        let x = Tensor::f32(&[3, 2], [1.0, 0.0, 2.0, 0.0, 3.0, 1.0]);
        let a = Tensor::f32(&[2], [2.0, 0.5]);
        let all = [h.clone(), x, a.clone()];
        let out = interp::run(&g, &all).expect("runs");
        assert_eq!(out[0].to_f32(), [19.0, 1.25]);
        assert_eq!(out[1].to_f32(), [13.0, 11.0, 18.0, 10.5, 29.0, 11.25]);
        let symbols = |s: &str| Some(if s == "B" { 2 } else { 3 });
        assert_eq!(naive::run_graph(&g, &all, &symbols).expect("runs"), out);
        // No step: the state stays.
        let none = [h.clone(), Tensor::f32(&[0, 2], []), a];
        let out = interp::run(&g, &none).expect("runs");
        assert_eq!((out[0].to_f32(), out[1].shape()), (h.to_f32(), [0, 2].as_slice()));
    }

    #[test]
    fn bodies_that_do_not_fit_are_refused() {
        for (from, to) in [
            ("length=dims[T]", "length=dims[-1]"),
            ("slices=1", "slices=3"),
            ("states=1", "states=3"),
            (r#"%1 "x": f32[T,B]"#, r#"%1 "x": f32[T,3,B]"#),
            (r#"%1 "x": f32[T,B]"#, r#"%1 "x": i64[T,B]"#),
            (r#"return %5 "next""#, r#"return %3 "next""#),
        ] {
            let changed = SOURCE.replacen(from, to, 1);
            assert_ne!(changed, SOURCE);
            let sound = text::parse(&changed, &|_, _| None).map(|g| crate::verify::verify(&g));
            assert!(!matches!(sound, Ok(Ok(()))), "{from} -> {to}");
        }
    }
}
