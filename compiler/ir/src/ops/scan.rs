//! Loops over time: a body that runs once per step and carries state from one step to the next.
//!
//! Laws: of a [`While`], each step says how many there are at least, and once there is no other one, how many there are. The
//! body is closed: it reads nothing but its inputs and its own weights, so that it can be looked at, rewritten and compiled like
//! any graph; what it needs from around it are operands of the node.

use std::sync::Arc;

use crate::dim::COUNTED;
use crate::interp;
use crate::op::{AttrDef, Cx, Lowering, Op, OpDef, OpError, Param, Schema, Types, invalid, unsupported};
use crate::{Attr, Bounds, DType, Dim, Fact, Graph, Sym, Tensor, ValueId};

use super::counted::{self, COUNT};

pub const OPS: &[&dyn OpDef] = &[&Scan, &While];

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

/// Whether extents may be equal where none is 0: neither two different numbers, nor always apart as `S` and `2 * S` are.
fn compatible(a: &[Dim], b: &[Dim]) -> bool {
    let fits = |(a, b): (&Dim, &Dim)| {
        let (least, most) = Bounds::positive(&[]).range(&(a.clone() - b.clone()));
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
        results(&parts, body.outputs(), &facts)
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let parts = Parts::of(cx.attrs)?;
        run(&parts, &operands(cx)?, &mut |body, inputs| {
            interp::run(body, inputs).map_err(|e| OpError::Invalid(format!("in the body: {e}")))
        })
    }

    fn lower(&self, _: &Cx) -> Result<Lowering, OpError> {
        Ok(Lowering::Scan)
    }
}

fn operands(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    (0..cx.inputs.len()).map(|i| cx.tensor(i).cloned()).collect()
}

/// What a loop gives, of the body's outputs: final states, then what is stacked.
fn results(parts: &Parts, outputs: &[(Arc<str>, ValueId)], facts: &[&Fact]) -> Result<Vec<Fact>, OpError> {
    let body = parts.body;
    let mut out = vec![];
    for (i, (name, v)) in outputs.iter().enumerate() {
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
            // A branch that is not taken may give another shape.
            let fits = parts.length.is_zero() || compatible(&inner.shape, &state.shape);
            if inner.dtype != state.dtype {
                return invalid(format!("state {i} is {state}, the body's output `{name}` is {inner}"));
            }
            if !fits {
                return unsupported(format!("state {i} is {state}, the body's output `{name}` is {inner}"));
            }
            out.push(Fact::new(state.dtype, state.shape.clone()));
        } else {
            let shape = std::iter::once(parts.length.clone()).chain(inner.shape.iter().cloned());
            out.push(Fact::new(inner.dtype, shape.collect::<Vec<_>>()));
        }
    }
    Ok(out)
}

/// `cameo::While`: a loop of which each step says whether there is another one.
pub struct While;

/// Its body and what its operands are: first how many steps there are, as far as is known before the first one, then the initial
/// states, then what every step reads whole. The body has no input for the first; its outputs are how many steps there are, as
/// far as is known behind this one, then the next states, then what is stacked along axis 0.
#[derive(Clone, Copy, Debug)]
pub struct Turns<'a> {
    pub body: &'a Arc<Graph>,
    pub states: usize,
    /// The symbol that is the number of steps.
    pub count: &'a Arc<str>,
    /// The largest number of steps.
    pub most: &'a Dim,
}

impl<'a> Turns<'a> {
    /// The parts of a node of [`While`], from its attributes.
    pub fn of(attrs: &'a crate::Attrs) -> Result<Self, OpError> {
        let (Some(Attr::Graph(body)), Some(Attr::Int(states)), Some(Attr::Str(count)), Some(Attr::Dims(most))) = (
            attrs.get("body"),
            attrs.get("states"),
            attrs.get(COUNT),
            attrs.get("most"),
        ) else {
            return invalid("attributes `body`, `states`, `count` or `most` are of the wrong kind");
        };
        let ([most], Ok(states)) = (most.as_slice(), usize::try_from(*states)) else {
            return invalid("`most` is one dim, and `states` a number");
        };
        let (inputs, outputs) = (body.inputs().len(), body.outputs().len());
        if states > inputs || states + 1 > outputs {
            return invalid(format!(
                "the body has {inputs} inputs and {outputs} outputs for {states} states"
            ));
        }
        Ok(Self {
            body,
            states,
            count,
            most,
        })
    }

    /// The attributes of a node with these parts.
    pub fn attrs(&self) -> crate::Attrs {
        [
            ("body", Attr::Graph(self.body.clone())),
            (COUNT, Attr::Str(self.count.clone())),
            ("most", Attr::Dims(vec![self.most.clone()])),
            ("states", Attr::Int(self.states as i64)),
        ]
        .into_iter()
        .map(|(k, v)| (Arc::from(k), v))
        .collect()
    }

    /// As a scan of so many steps, but for the numbers of steps.
    pub fn scan<'b>(&self, length: &'b Dim) -> Parts<'b>
    where
        'a: 'b,
    {
        Parts {
            body: self.body,
            states: self.states,
            slices: 0,
            length,
        }
    }
}

impl OpDef for While {
    fn schema(&self) -> &'static Schema {
        const S: Schema = Schema::new(
            "cameo::While",
            "for t = 0.. while t < n: n, states, y[t] = body(states, w); Y = final states, y stacked along axis 0",
            &[Param::new("operands", Types::MOVED).variadic().group(0)],
            &[Param::new("results", Types::MOVED).variadic().group(0)],
            &[
                ("body", AttrDef::ReqGraph),
                (COUNT, AttrDef::Symbol(COUNTED)),
                ("most", AttrDef::ReqDims),
                ("states", AttrDef::ReqInt),
            ],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let turns = Turns::of(cx.attrs)?;
        let facts = cx.facts()?;
        let body = turns.body;
        let Some((first, operands)) = facts
            .split_first()
            .filter(|(_, rest)| rest.len() == body.inputs().len())
        else {
            return invalid(format!(
                "{} operands given, the body has {} inputs and there is a number of steps",
                facts.len(),
                body.inputs().len()
            ));
        };
        for (who, fact) in [("operand", *first), ("output", body.fact(body.outputs()[0].1))] {
            if fact.dtype != DType::I64 || fact.rank() > 0 {
                return invalid(format!("{who} 0 is {fact}, a number of steps is i64[]"));
            }
        }
        for (i, (v, whole)) in body.inputs().iter().zip(operands).enumerate() {
            let inner = body.fact(*v);
            if !compatible(&whole.shape, &inner.shape) || inner.dtype != whole.dtype {
                return invalid(format!("operand {} is {whole}, the body's input is {inner}", i + 1));
            }
        }
        let length = counted::length(turns.count)?;
        results(&turns.scan(&length), &body.outputs()[1..], operands)
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        run_while(&Turns::of(cx.attrs)?, &operands(cx)?, &mut |body, inputs| {
            interp::run(body, inputs).map_err(|e| OpError::Invalid(format!("in the body: {e}")))
        })
    }

    fn lower(&self, _: &Cx) -> Result<Lowering, OpError> {
        Ok(Lowering::Scan)
    }
}

type Step<'a> = &'a mut dyn FnMut(&Graph, &[Tensor]) -> Result<Vec<Tensor>, OpError>;

/// Runs a [`Scan`], or a [`While`], with these attributes on known operands, the body by `step`.
pub(crate) fn run_node(op: Op, attrs: &crate::Attrs, operands: &[Tensor], step: Step) -> Result<Vec<Tensor>, OpError> {
    match Turns::of(attrs) {
        Ok(turns) if op.name() == While.schema().name => run_while(&turns, operands, step),
        _ => run(&Parts::of(attrs)?, operands, step),
    }
}

fn run(parts: &Parts, operands: &[Tensor], step: Step) -> Result<Vec<Tensor>, OpError> {
    let length = parts.length.as_const().and_then(|n| usize::try_from(n).ok());
    let Some(length) = length else {
        return invalid(format!("{} steps", parts.length));
    };
    for t in &operands[parts.states..parts.states + parts.slices] {
        if t.shape().first() != Some(&length) {
            return invalid(format!("an operand of shape {:?} for {length} steps", t.shape()));
        }
    }
    let mut walk = Walk::new(parts, parts.body.outputs(), operands);
    for _ in 0..length {
        let outputs = step(parts.body, &walk.inputs())?;
        walk.take(outputs)?;
    }
    walk.results()
}

fn run_while(turns: &Turns, operands: &[Tensor], step: Step) -> Result<Vec<Tensor>, OpError> {
    let number = |t: Option<&Tensor>| t.and_then(|t| t.to_i64().first().copied()).unwrap_or(0);
    let most = turns.most.as_const().unwrap_or(i64::MAX);
    let (mut count, length) = (number(operands.first()), Dim::ZERO);
    let parts = turns.scan(&length);
    let mut walk = Walk::new(&parts, &turns.body.outputs()[1..], &operands[1..]);
    while (walk.steps as i64) < count {
        if count > most {
            return invalid(format!("{count} steps, at most {most} can be"));
        }
        let mut outputs = step(turns.body, &walk.inputs())?;
        count = number(Some(&outputs.remove(0)));
        walk.take(outputs)?;
    }
    if walk.steps as i64 != count.max(0) {
        return invalid(format!("{} steps were done, the last one says {count}", walk.steps));
    }
    walk.results()
}

/// A loop under way.
struct Walk<'a> {
    parts: &'a Parts<'a>,
    outputs: &'a [(Arc<str>, ValueId)],
    operands: &'a [Tensor],
    state: Vec<Tensor>,
    stacked: Vec<Vec<u8>>,
    /// Steps that were done.
    steps: usize,
}

impl<'a> Walk<'a> {
    fn new(parts: &'a Parts<'a>, outputs: &'a [(Arc<str>, ValueId)], operands: &'a [Tensor]) -> Self {
        Self {
            parts,
            outputs,
            operands,
            state: operands[..parts.states].to_vec(),
            stacked: vec![vec![]; outputs.len() - parts.states],
            steps: 0,
        }
    }

    /// What the next step reads.
    fn inputs(&self) -> Vec<Tensor> {
        let (states, slices) = (self.parts.states, self.parts.slices);
        let rest = self.operands.iter().enumerate().skip(states);
        let rest = rest.map(|(i, x)| {
            if i < states + slices {
                slice(x, self.steps)
            } else {
                x.clone()
            }
        });
        self.state.iter().cloned().chain(rest).collect()
    }

    /// Takes what a step gave.
    fn take(&mut self, mut outputs: Vec<Tensor>) -> Result<(), OpError> {
        let stack = outputs.split_off(self.parts.states);
        for (all, one) in self.stacked.iter_mut().zip(&stack) {
            all.extend_from_slice(one.bytes());
        }
        for (new, old) in outputs.iter().zip(self.operands) {
            if new.shape() != old.shape() {
                return invalid(format!("a state of shape {:?} becomes {:?}", old.shape(), new.shape()));
            }
        }
        self.state = outputs;
        self.steps += 1;
        Ok(())
    }

    fn results(self) -> Result<Vec<Tensor>, OpError> {
        let length = self.steps;
        let mut out = self.state;
        for ((_, v), bytes) in self.outputs[self.parts.states..].iter().zip(self.stacked) {
            let fact = self.parts.body.fact(*v);
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

    /// `h` doubles until it is at least 10; `y[t]` is what it was.
    const UNTIL: &str = r#"graph @g (%0 "h": f32[], %1 "n": i64[]) symbols count.w=0.. {
        weight %2: i64[] = dense(0)
        %3, %4, %5 = cameo::While(%1, %2, %0) {body=graph @step (%0 "t": i64[], %1 "h": f32[]) {
            weight %2: i64[] = dense(1)
            weight %3: f32[] = dense(10.0)
            weight %4: i64[] = dense(2)
            %5 = Add(%0, %2) : i64[]
            %6 = Add(%0, %4) : i64[]
            %7 = Add(%1, %1) : f32[]
            %8 = Less(%7, %3) : bool[]
            %9 = Where(%8, %6, %5) : i64[]
            return %9 "steps", %5 "next", %7 "h", %1 "y"
        }, count="count.w", most=dims[6], states=2} : i64[], f32[], f32[count.w]
        return %4 "last", %5 "ys"
    }"#;

    #[test]
    fn a_loop_that_data_ends_runs_in_both_meanings() {
        let g = text::parse(UNTIL, &|_, _| None).expect("parses");
        crate::verify::verify(&g).expect("sound");
        let run = |h: f32, n: i64| {
            let all = [Tensor::f32(&[], [h]), Tensor::i64(&[], [n])];
            let out = interp::run(&g, &all);
            if let Ok(out) = &out {
                assert_eq!(&naive::run_graph(&g, &all, &|_| None).expect("runs"), out);
            }
            out.map(|out| (out[0].to_f32()[0], out[1].to_f32()))
        };
        assert_eq!(run(1.5, 1).expect("runs"), (12.0, vec![1.5, 3.0, 6.0]));
        assert_eq!(run(20.0, 1).expect("runs"), (40.0, vec![20.0]));
        assert_eq!(run(1.5, 0).expect("runs"), (1.5, vec![]));
        assert!(run(0.001, 1).is_err(), "more steps than there can be");
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
