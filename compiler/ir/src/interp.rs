//! Runs a graph by the `eval` of its operations: the reference meaning of a model, plain and slow.
//!
//! Laws: symbols are bound by the shapes of the inputs and must agree everywhere; attributes that are dims are bound
//! before an operation sees them; every result must have the type, shape and known elements of its fact; a value is
//! freed after its last use, so that memory stays near that of the widest point of the graph.

use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::graph::{bind_shape, counted, infer, vanishes};
use crate::op::{Arg, Attrs, Cx, Lowering, OpError};
use crate::ops::custom;
use crate::ops::scan::Parts;
use crate::structured::Compute;
use crate::verify::Place;
use crate::{Attr, Dim, Fact, Graph, NodeId, Sym, Tensor, ValueId};

/// Why a graph could not be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunError {
    InputCount {
        expected: usize,
        got: usize,
    },
    /// Type, rank or extents of input `index` do not fit.
    Input {
        index: usize,
        name: Arc<str>,
        why: String,
    },
    /// A node failed.
    Node {
        place: Place,
        error: OpError,
    },
    /// The value cannot be computed from what is given.
    NoValue(ValueId),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InputCount { expected, got } => write!(f, "{got} inputs given, the graph has {expected}"),
            Self::Input { index, name, why } => write!(f, "input {index} {name:?}: {why}"),
            Self::Node { place, error } => write!(f, "{place}: {error}"),
            Self::NoValue(v) => write!(f, "{v} has no value: it depends on inputs or was removed"),
        }
    }
}

impl std::error::Error for RunError {}

/// Values of the model's symbols.
pub type Binding = IndexMap<Arc<str>, i64>;

/// The outputs of the graph for `inputs`, in the graph's order.
pub fn run(g: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
    run_observed(g, inputs, &mut |_, _| {})
}

/// All values of the graph, by [`ValueId`]; `None` for removed ones.
pub fn run_all(g: &Graph, inputs: &[Tensor]) -> Result<Vec<Option<Tensor>>, RunError> {
    let mut all: Vec<Option<Tensor>> = g.value_ids().map(|v| g.constant(v).cloned()).collect();
    for (v, t) in g.inputs().iter().zip(inputs) {
        all[v.0 as usize] = Some(t.clone());
    }
    run_observed(g, inputs, &mut |v, t| all[v.0 as usize] = Some(t.clone()))?;
    Ok(all)
}

/// [`run`], showing every node's results to `observe` as soon as they are there.
pub fn run_observed(
    g: &Graph,
    inputs: &[Tensor],
    observe: &mut dyn FnMut(ValueId, &Tensor),
) -> Result<Vec<Tensor>, RunError> {
    run_disturbed(g, inputs, &mut |v, t| {
        observe(v, &t);
        t
    })
}

/// [`run`], replacing every node's results by what `disturb` makes of them: to see how errors grow.
pub fn run_disturbed(
    g: &Graph,
    inputs: &[Tensor],
    disturb: &mut dyn FnMut(ValueId, Tensor) -> Tensor,
) -> Result<Vec<Tensor>, RunError> {
    let binding = bind(g, inputs)?;
    let mut values: Vec<Option<Tensor>> = vec![None; g.value_count()];
    for (v, t) in g.inputs().iter().zip(inputs) {
        values[v.0 as usize] = Some(t.clone());
    }
    let keep: Vec<ValueId> = g.outputs().iter().map(|(_, v)| *v).collect();
    execute(g, &g.order(), &keep, &binding, &mut values, disturb)?;
    keep.iter()
        .map(|v| {
            let t = g.constant(*v).or(values[v.0 as usize].as_ref());
            t.cloned().ok_or(RunError::NoValue(*v))
        })
        .collect()
}

/// The value of `v`, which depends on nothing but weights: how a recipe becomes bytes.
pub fn eval_constant(g: &Graph, v: ValueId) -> Result<Tensor, RunError> {
    if let Some(t) = g.constant(v) {
        return Ok(t.clone());
    }
    let order = cone(g, v)?;
    let mut values: Vec<Option<Tensor>> = vec![None; g.value_count()];
    execute(g, &order, &[v], &Binding::default(), &mut values, &mut |_, t| t)?;
    values[v.0 as usize].take().ok_or(RunError::NoValue(v))
}

/// The value of `v`, which depends on nothing but weights and the inputs that are given.
pub fn eval_from(g: &Graph, v: ValueId, given: &[(ValueId, Tensor)]) -> Result<Tensor, RunError> {
    let mut values: Vec<Option<Tensor>> = vec![None; g.value_count()];
    let mut binding = Binding::default();
    for (input, t) in given {
        for (d, n) in g.fact(*input).shape.iter().zip(t.shape()) {
            solve(d, *n as i64, &mut binding);
        }
        binding.extend(elements(g.fact(*input), t));
        values[input.0 as usize] = Some(t.clone());
    }
    if let Some(t) = g.constant(v).or(values[v.0 as usize].as_ref()) {
        return Ok(t.clone());
    }
    let order = cone_from(g, v, &|x| values[x.0 as usize].is_some())?;
    execute(g, &order, &[v], &binding, &mut values, &mut |_, t| t)?;
    values[v.0 as usize].take().ok_or(RunError::NoValue(v))
}

/// Loop iterations that evaluating a node with fixed shapes takes, about; its results are no larger. 0 when the node cannot
/// be lowered and nobody knows.
pub fn cost(g: &Graph, n: NodeId) -> u64 {
    match g.with_cx(n, |cx| g.node(n).op.0.lower(cx)) {
        Err(_) => 0,
        Ok(Lowering::Compute(loops)) => loops.iter().map(iterations).fold(0, u64::saturating_add),
        Ok(Lowering::Decompose(inner)) => {
            let parts = inner.nodes().map(|(n, _)| cost(&inner, n));
            parts.fold(0, u64::saturating_add)
        }
        // As many as data says, or the caller's code takes; what counts is not constant.
        Ok(Lowering::Compact | Lowering::Ragged | Lowering::Custom) => 0,
        Ok(Lowering::Scan) => {
            // One that data ends runs as often as data says.
            let Ok(parts) = Parts::of(&g.node(n).attrs) else {
                return 0;
            };
            let body = parts.body.nodes().map(|(n, _)| cost(parts.body, n));
            let length = parts
                .length
                .as_const()
                .map_or(u64::MAX, |n| u64::try_from(n).unwrap_or(0));
            length.saturating_mul(body.fold(1, u64::saturating_add))
        }
    }
}

fn iterations(c: &Compute) -> u64 {
    let extent = |d: &Dim| d.as_const().map_or(u64::MAX, |n| u64::try_from(n).unwrap_or(0));
    let all = c.extents.iter().map(extent);
    if all.clone().any(|n| n == 0) {
        0
    } else {
        all.fold(1, u64::saturating_mul)
    }
}

/// The same for [`eval_constant`]; `None` when the value is not constant.
pub fn constant_cost(g: &Graph, v: ValueId) -> Option<u64> {
    if g.constant(v).is_some() {
        return Some(0);
    }
    let order = cone(g, v).ok()?;
    Some(order.into_iter().map(|n| cost(g, n)).fold(0, u64::saturating_add))
}

/// The symbols that the shapes of `inputs` give, after checking that the inputs fit the graph.
pub fn bind(g: &Graph, inputs: &[Tensor]) -> Result<Binding, RunError> {
    if inputs.len() != g.inputs().len() {
        return Err(RunError::InputCount {
            expected: g.inputs().len(),
            got: inputs.len(),
        });
    }
    let wrong = |index: usize, why: String| RunError::Input {
        index,
        name: g.value(g.inputs()[index]).name.clone(),
        why,
    };
    let mut extents: Vec<(usize, &Dim, i64)> = vec![];
    for (i, (v, t)) in g.inputs().iter().zip(inputs).enumerate() {
        let fact = g.fact(*v);
        if fact.dtype != t.dtype() || fact.rank() != t.shape().len() {
            return Err(wrong(
                i,
                format!("wanted is {fact}, given {}{:?}", t.dtype(), t.shape()),
            ));
        }
        extents.extend(fact.shape.iter().zip(t.shape()).map(|(d, n)| (i, d, *n as i64)));
    }
    let mut binding = Binding::default();
    for (v, t) in g.inputs().iter().zip(inputs) {
        binding.extend(elements(g.fact(*v), t));
    }
    // One more symbol per round; `2*S+1` is solved too, once the rest of the dim is known.
    loop {
        let before = binding.len();
        for (_, d, n) in &extents {
            solve(d, *n, &mut binding);
        }
        if binding.len() == before {
            break;
        }
    }
    for (i, d, n) in extents {
        match value(d, &binding) {
            Some(v) if v == n => {}
            Some(v) => return Err(wrong(i, format!("an axis is {n}, wanted is {d} = {v}"))),
            None => return Err(wrong(i, format!("{d} cannot be told from the shapes of the inputs"))),
        }
        let mut out = None;
        d.visit(&mut |s| {
            if let Sym::Named(name) = s {
                let (lo, hi) = g.symbol_range(name);
                let v = binding[name];
                if v < lo || v > hi {
                    out = Some(format!("{name} = {v} is not in {lo}..{hi}"));
                }
            }
        });
        if let Some(why) = out {
            return Err(wrong(i, why));
        }
    }
    Ok(binding)
}

/// The symbols that are elements of an input, with their values.
pub(crate) fn elements(fact: &Fact, t: &Tensor) -> Vec<(Arc<str>, i64)> {
    if fact.known.is_none() {
        return vec![];
    }
    let values = known_elements(t);
    let known = fact.elements();
    known
        .map(|(name, i)| (name.clone(), values.get(i).copied().unwrap_or(0)))
        .collect()
}

/// The elements as [`Fact::known`] has them.
pub(crate) fn known_elements(t: &Tensor) -> Vec<i64> {
    if !t.dtype().is_float() {
        return t.to_i64();
    }
    let bits = |x| Dim::real(x).as_const().unwrap_or(0);
    t.to_f64().into_iter().map(bits).collect()
}

/// Whether a known element is a float that is exact only there: from 2^24 on, not every whole number is one of `f32`.
pub(crate) fn is_rounded(fact: &Fact, bits: i64) -> bool {
    fact.dtype.is_float() && f64::from_bits(bits as u64).abs() >= f64::from(1 << 24)
}

/// Attributes with their dims replaced by integers; `None` where a symbol is not bound.
pub fn bind_attrs(attrs: &Attrs, binding: &Binding) -> Option<Attrs> {
    bind_attrs_by(attrs, &|d| value(d, binding))
}

/// [`bind_attrs`] by the values of dims.
pub(crate) fn bind_attrs_by(attrs: &Attrs, value: &dyn Fn(&Dim) -> Option<i64>) -> Option<Attrs> {
    let mut out = attrs.clone();
    for a in out.values_mut() {
        match a {
            Attr::Dims(dims) => {
                for d in dims {
                    *d = Dim::from(value(d)?);
                }
            }
            // A body may name symbols that its own inputs do not tell.
            Attr::Graph(g) if !g.symbols.is_empty() => {
                *g = Arc::new(g.map_dims(&|d| value(d).map_or_else(|| d.clone(), Dim::from)));
            }
            _ => {}
        }
    }
    Some(out)
}

fn value(d: &Dim, binding: &Binding) -> Option<i64> {
    d.eval(&|s| match s {
        Sym::Named(n) => binding.get(n).copied(),
        _ => None,
    })
}

/// Binds the one unknown symbol of `d`, where `d = n` determines it.
fn solve(d: &Dim, n: i64, binding: &mut Binding) {
    let mut unknown = None;
    d.visit(&mut |s| {
        if let Sym::Named(name) = s
            && !binding.contains_key(name)
        {
            unknown = unknown.take().or_else(|| Some(s.clone()));
        }
    });
    let Some(Sym::Named(name)) = &unknown else { return };
    let Some((coeff, rest)) = d.affine_in(&Sym::Named(name.clone())) else {
        return;
    };
    if let (Some(c), Some(r)) = (value(&coeff, binding), value(&rest, binding))
        && c != 0
        && (n - r) % c == 0
    {
        binding.insert(name.clone(), (n - r) / c);
    }
}

/// The nodes that `v` needs, producers first.
fn cone(g: &Graph, v: ValueId) -> Result<Vec<NodeId>, RunError> {
    cone_from(g, v, &|_| false)
}

/// [`cone`], where some values are there already.
fn cone_from(g: &Graph, v: ValueId, there: &dyn Fn(ValueId) -> bool) -> Result<Vec<NodeId>, RunError> {
    let mut order = vec![];
    let mut seen = rustc_hash::FxHashSet::default();
    let Some((root, _)) = g.producer(v) else {
        return Err(RunError::NoValue(v));
    };
    let mut stack = vec![(root, false)];
    while let Some((n, done)) = stack.pop() {
        if done {
            order.push(n);
            continue;
        }
        if !seen.insert(n) {
            continue;
        }
        stack.push((n, true));
        for x in g.node(n).inputs.iter().flatten() {
            match g.producer(*x) {
                _ if there(*x) => {}
                Some((p, _)) => stack.push((p, false)),
                None if g.constant(*x).is_some() => {}
                None => return Err(RunError::NoValue(*x)),
            }
        }
    }
    Ok(order)
}

/// Runs `order`; results that nothing later in it reads and that are not in `keep` are dropped.
fn execute(
    g: &Graph,
    order: &[NodeId],
    keep: &[ValueId],
    binding: &Binding,
    values: &mut [Option<Tensor>],
    disturb: &mut dyn FnMut(ValueId, Tensor) -> Tensor,
) -> Result<(), RunError> {
    let mut binding = binding.clone();
    let mut last = vec![0usize; values.len()];
    for (at, n) in order.iter().enumerate() {
        for v in g.node(*n).inputs.iter().flatten() {
            last[v.0 as usize] = at;
        }
    }
    for v in keep {
        last[v.0 as usize] = usize::MAX;
    }
    for (at, n) in order.iter().enumerate() {
        let out = eval_node(g, *n, &mut binding, values)?;
        let node = g.node(*n);
        for (v, t) in node.outputs.iter().zip(out) {
            let t = disturb(*v, t);
            if last[v.0 as usize] > at {
                values[v.0 as usize] = Some(t);
            }
        }
        for v in node.inputs.iter().flatten() {
            if last[v.0 as usize] == at {
                values[v.0 as usize] = None;
            }
        }
    }
    Ok(())
}

/// What the node evaluates to; the symbols that it counts are bound.
fn eval_node(g: &Graph, n: NodeId, binding: &mut Binding, values: &[Option<Tensor>]) -> Result<Vec<Tensor>, RunError> {
    let node = g.node(n);
    let fail = |error| RunError::Node {
        place: Place::of(g, n),
        error,
    };
    let unbound = || {
        fail(OpError::Invalid(
            "an attribute has symbols that no input shape gives".into(),
        ))
    };
    if node.op.schema().external && !custom::is_own(&node.attrs) {
        return Err(fail(custom::not_here(&node.attrs)));
    }
    let mut attrs = bind_attrs(&node.attrs, binding).ok_or_else(unbound)?;
    if vanishes(node.op, &node.attrs, &attrs) {
        let fact = g.fact(node.outputs[0]);
        let shape = fact.shape.iter().map(|d| value(d, binding).map(Dim::from)).collect();
        attrs.insert("shape".into(), Attr::Dims(Option::ok_or_else(shape, unbound)?));
        attrs.insert("allowzero".into(), Attr::Int(1));
    }
    let mut tensors = vec![];
    for v in &node.inputs {
        tensors.push(match v {
            None => None,
            Some(v) => match g.constant(*v).or(values[v.0 as usize].as_ref()) {
                Some(t) => Some(t.clone()),
                None => return Err(RunError::NoValue(*v)),
            },
        });
    }
    let facts: Vec<Option<Fact>> = tensors.iter().map(|t| t.as_ref().map(Tensor::fact)).collect();
    let args: Vec<Option<Arg>> = facts
        .iter()
        .zip(&tensors)
        .map(|(f, t)| {
            f.as_ref().map(|fact| Arg {
                fact,
                constant: t.as_ref(),
            })
        })
        .collect();
    let cx = Cx {
        schema: node.op.schema(),
        attrs: &attrs,
        inputs: &args,
        outputs: node.outputs.len(),
    };
    // Extents that symbols left open may contradict each other here, and `eval` relies on them.
    infer(node.op, &attrs, &args, node.outputs.len()).map_err(fail)?;
    let out = node.op.0.eval(&cx).map_err(fail)?;
    if out.len() != node.outputs.len() {
        return Err(fail(OpError::Invalid(format!("evaluated to {} outputs", out.len()))));
    }
    let out = with_texts(out, &tensors.iter().flatten()).map_err(fail)?;
    let given = custom::given(node.op, &node.attrs);
    for symbol in counted(node.op, &node.attrs).chain(&given) {
        let results = node.outputs.iter().map(|v| g.fact(*v)).zip(&out);
        binding.extend(told(symbol, results).map(|n| (symbol.clone(), n)));
    }
    for (v, t) in node.outputs.iter().zip(&out) {
        check_result(g.fact(*v), t, binding).map_err(|why| fail(OpError::Invalid(why)))?;
    }
    Ok(out)
}

/// What a symbol is that results tell, by an extent or a known element.
pub(crate) fn told<'a>(symbol: &str, results: impl Iterator<Item = (&'a Fact, &'a Tensor)>) -> Option<i64> {
    let is = |d: &Dim| *d == Dim::sym(symbol);
    results.into_iter().find_map(|(fact, t)| {
        let extent = fact.shape.iter().position(is).and_then(|i| t.shape().get(i));
        let element = || fact.known.as_ref()?.iter().position(is);
        extent
            .map(|n| *n as i64)
            .or_else(|| element().and_then(|i| t.to_i64().get(i).copied()))
    })
}

/// Results with the texts that their strings may come from.
pub(crate) fn with_texts<'a>(
    out: Vec<Tensor>,
    operands: &(impl Iterator<Item = &'a Tensor> + Clone),
) -> Result<Vec<Tensor>, OpError> {
    let known = |t: Tensor| operands.clone().try_fold(t, |t, from| t.with_texts(from.texts()));
    out.into_iter()
        .map(|t| known(t).map_err(OpError::Unsupported))
        .collect()
}

fn check_result(fact: &Fact, t: &Tensor, binding: &Binding) -> Result<(), String> {
    let shape = bind_shape(&fact.shape, &|n| binding.get(n).copied());
    let fits = shape.as_deref().is_none_or(|s| s == t.shape()) && fact.rank() == t.shape().len();
    if t.dtype() != fact.dtype || !fits {
        return Err(format!(
            "evaluated to {}{:?}, inferred was {fact} = {shape:?}",
            t.dtype(),
            t.shape()
        ));
    }
    if let Some(known) = &fact.known {
        let real = known_elements(t);
        let equal = known
            .iter()
            .zip(&real)
            .all(|(d, x)| value(d, binding).is_none_or(|d| d == *x || is_rounded(fact, d)));
        if known.len() != real.len() || !equal {
            return Err(format!("evaluated to {real:?}, known was {known:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, SymbolRange};

    fn s() -> Dim {
        Dim::sym("S")
    }

    /// `y = Neg(Abs(x) + Abs(w))`, with `x: f32[S,2]`.
    fn graph() -> (Graph, [ValueId; 4]) {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Fact::new(DType::F32, [s(), Dim::from(2usize)]));
        let w = g.add_weight("w", Tensor::f32(&[2], [-10.0, 20.0]));
        let a = g.apply("Abs", &[], &[x]).expect("types");
        let r = g.apply("Abs", &[], &[w]).expect("types");
        let sum = g.apply("Add", &[], &[a, r]).expect("types");
        let y = g.apply("Neg", &[], &[sum]).expect("types");
        g.add_output("y", y);
        (g, [a, r, sum, y])
    }

    #[test]
    fn the_cost_of_constants_is_known_before() {
        let mut g = Graph::new("g");
        let n = g.add_weight("", Tensor::i64(&[1], [1 << 40]));
        let shape = Attr::Dims(vec![Dim::from(1i64 << 40)]);
        let c = g.apply("ConstantOfShape", &[("shape", shape)], &[]).expect("types");
        let r = g.apply("Neg", &[], &[c]).expect("types");
        g.add_output("y", r);
        assert_eq!(constant_cost(&g, n), Some(0));
        assert_eq!(constant_cost(&g, r), Some(1 << 41));
        let (g, [a, r, ..]) = graph();
        assert_eq!(constant_cost(&g, a), None, "an input's value");
        assert_eq!(constant_cost(&g, r), Some(2));
    }

    #[test]
    fn runs_and_shows_every_value() {
        let (g, [a, r, sum, y]) = graph();
        let x = Tensor::f32(&[1, 2], [1.0, -2.0]);
        assert_eq!(
            run(&g, std::slice::from_ref(&x)).expect("runs")[0].to_f32(),
            [-11.0, -22.0]
        );
        let all = run_all(&g, std::slice::from_ref(&x)).expect("runs");
        let of = |v: ValueId| all[v.0 as usize].as_ref().expect("there").to_f32();
        assert_eq!((of(a), of(r)), (vec![1.0, 2.0], vec![10.0, 20.0]));
        assert_eq!(of(sum), [11.0, 22.0]);
        let mut seen = vec![];
        run_observed(&g, &[x], &mut |v, _| seen.push(v)).expect("runs");
        assert_eq!(seen.len(), 4);
        assert_eq!(seen.last(), Some(&y));
    }

    #[test]
    fn outputs_may_be_inputs_and_weights() {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Fact::new(DType::F32, []));
        let w = g.add_weight("w", Tensor::f32(&[], [3.0]));
        g.add_output("a", x);
        g.add_output("b", w);
        let out = run(&g, &[Tensor::f32(&[], [1.0])]).expect("runs");
        assert_eq!((out[0].to_f32(), out[1].to_f32()), (vec![1.0], vec![3.0]));
    }

    #[test]
    fn refuses_wrong_inputs() {
        let (mut g, _) = graph();
        assert_eq!(run(&g, &[]), Err(RunError::InputCount { expected: 1, got: 0 }));
        let e = run(&g, &[Tensor::f32(&[1, 3], [0.0; 3])]).expect_err("extent");
        assert!(
            e.to_string().contains("input 0 \"x\": an axis is 3, wanted is 2"),
            "{e}"
        );
        assert!(run(&g, &[Tensor::i64(&[1, 2], [0; 2])]).is_err());
        g.symbols.insert("S".into(), SymbolRange { min: 1, max: 2 });
        let e = run(&g, &[Tensor::f32(&[3, 2], [0.0; 6])]).expect_err("range");
        assert!(e.to_string().contains("S = 3 is not in 1..2"), "{e}");
    }

    #[test]
    fn symbols_must_agree() {
        let mut g = Graph::new("g");
        let odd = s() * Dim::from(2usize) + Dim::ONE;
        g.add_input("a", Fact::new(DType::F32, [odd]));
        g.add_input("b", Fact::new(DType::F32, [s() * Dim::sym("T")]));
        g.add_input("c", Fact::new(DType::F32, [Dim::sym("T")]));
        let t = |n: usize| Tensor::f32(&[n], vec![0.0; n]);
        let b = bind(&g, &[t(7), t(6), t(2)]).expect("solvable");
        assert_eq!((b["S"], b["T"]), (3, 2));
        assert!(bind(&g, &[t(7), t(6), t(3)]).is_err());
        assert!(bind(&g, &[t(8), t(6), t(2)]).is_err());
    }

    #[test]
    fn failing_nodes_are_named() {
        let (mut g, [a, ..]) = graph();
        g.value_mut(a).fact.shape = vec![s(), Dim::from(5usize)];
        let (n, _) = g.producer(a).expect("a node");
        g.node_mut(n).origin = crate::Origin::new("/abs");
        let e = run(&g, &[Tensor::f32(&[1, 2], [0.0; 2])]).expect_err("wrong fact");
        assert!(
            e.to_string()
                .starts_with("n0 Abs (from \"/abs\"): invalid: evaluated to f32[1, 2]"),
            "{e}"
        );
    }

    #[test]
    fn weights_give_constants() {
        let (g, [_, r, sum, _]) = graph();
        assert_eq!(eval_constant(&g, r).expect("constant").to_f32(), [10.0, 20.0]);
        assert!(matches!(eval_constant(&g, sum), Err(RunError::NoValue(_))));
    }

    #[test]
    fn an_extent_that_happens_to_be_zero_is_none_to_copy() {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Fact::new(DType::F32, vec![s(), Dim::ONE]));
        let shape = Attr::Dims(vec![Dim::ONE, s()]);
        let y = g.apply("Reshape", &[("shape", shape)], &[x]).expect("fits");
        g.add_output("y", y);
        let nothing = [Tensor::f32(&[0, 1], [])];
        let run = |g: &Graph| run(g, &nothing).map(|y| y[0].shape().to_vec());
        assert_eq!(run(&g), Ok(vec![1, 0]));
        assert_eq!(
            run(&g.map_dims(&|d| if *d == s() { Dim::ZERO } else { d.clone() })),
            Ok(vec![1, 0])
        );
    }
}
