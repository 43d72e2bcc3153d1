//! Executes lowered operations literally: nested loops over the extents of each [`Compute`], one scalar at a time.
//!
//! This is the definition of what loops mean, against which `eval` and the compiled code are tested. Laws: every node of
//! a body that the root needs is evaluated at every point (both sides of a select too), so a load that leaves its
//! operand is found even where its value is not used; a reduction accumulates in the type of the body's root and
//! converts when it stores; each output element is written exactly once.

use std::cell::RefCell;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::graph::{bind_shape, counted, infer};
use crate::index;
use crate::interp::{bind_attrs_by, elements, told, with_texts};
use crate::op::{Arg, Attrs, Cx, Lowering, Op, OpError, invalid};
use crate::ops::{custom, ragged, scan};
use crate::structured::{Binary, Body, Compute, Expr, Unary};
use crate::{Atom, DType, Dim, Fact, Graph, Sym, Tensor};

#[cfg(test)]
mod check;
pub(crate) mod scalar;

#[cfg(test)]
pub use check::check;
use scalar::{Num, binary, cast, combine, constant, identity, unary};

/// The values of the model's symbols.
pub type Symbols<'a> = &'a dyn Fn(&str) -> Option<i64>;

/// Runs what `op` lowers to on concrete inputs. Elements are visible to `lower` only for shape-like operands.
pub fn run_node(op: Op, attrs: &Attrs, inputs: &[Option<Tensor>], outputs: usize) -> Result<Vec<Tensor>, OpError> {
    let all: Vec<Option<Fact>> = inputs.iter().map(|t| t.as_ref().map(Tensor::fact)).collect();
    let mut visible = all.clone();
    for (i, f) in visible.iter_mut().enumerate() {
        let shape_like = op.schema().input(i).is_some_and(|p| p.attr.is_some());
        if let Some(f) = f
            && !shape_like
        {
            f.known = None;
        }
    }
    match run_with_facts(op, attrs, inputs, &visible, outputs, &|_| None) {
        // An operation may need elements that its schema does not call shape-like.
        Err(OpError::Unsupported(_) | OpError::Unknown { .. }) => {
            run_with_facts(op, attrs, inputs, &all, outputs, &|_| None)
        }
        other => other,
    }
}

/// Runs what `op` lowers to when it is told `facts`, which may be symbolic.
pub fn run_with_facts(
    op: Op,
    attrs: &Attrs,
    inputs: &[Option<Tensor>],
    facts: &[Option<Fact>],
    outputs: usize,
    symbols: Symbols,
) -> Result<Vec<Tensor>, OpError> {
    let args: Vec<Option<Arg>> = facts
        .iter()
        .map(|f| f.as_ref().map(|fact| Arg { fact, constant: None }))
        .collect();
    let out = infer(op, attrs, &args, outputs)?;
    let lowering = op.0.lower(&Cx {
        schema: op.schema(),
        attrs,
        inputs: &args,
        outputs,
    })?;
    run_lowering(&lowering, inputs, &out, symbols)
}

/// Runs a lowering whose outputs are of the given facts.
pub fn run_lowering(
    lowering: &Lowering,
    inputs: &[Option<Tensor>],
    outputs: &[Fact],
    symbols: Symbols,
) -> Result<Vec<Tensor>, OpError> {
    match lowering {
        Lowering::Compute(parts) => run_computes(parts, inputs, outputs, symbols),
        Lowering::Decompose(g) => {
            let present: Vec<Tensor> = inputs.iter().flatten().cloned().collect();
            let got = run_graph(g, &present, symbols)?;
            for (t, f) in got.iter().zip(outputs) {
                // What the decomposition counts is not known out here.
                let shape = bind_shape(&f.shape, symbols).unwrap_or_else(|| t.shape().to_vec());
                if t.dtype() != f.dtype || t.shape() != shape {
                    return invalid(format!(
                        "the decomposition gives {}{:?}, inference says {f} = {shape:?}",
                        t.dtype(),
                        t.shape()
                    ));
                }
            }
            if got.len() != outputs.len() {
                return invalid(format!(
                    "the decomposition has {} outputs, wanted are {}",
                    got.len(),
                    outputs.len()
                ));
            }
            Ok(got)
        }
        Lowering::Scan | Lowering::Ragged | Lowering::Compact | Lowering::Custom => invalid("is run with its node"),
    }
}

/// Runs every node of a graph by what it lowers to, with the facts that the graph holds.
pub fn run_graph(g: &Graph, inputs: &[Tensor], symbols: Symbols) -> Result<Vec<Tensor>, OpError> {
    if inputs.len() != g.inputs().len() {
        return invalid(format!(
            "{} inputs given, the graph has {}",
            inputs.len(),
            g.inputs().len()
        ));
    }
    let mut values: Vec<Option<Tensor>> = g.value_ids().map(|v| g.constant(v).cloned()).collect();
    let found: RefCell<FxHashMap<Arc<str>, i64>> = RefCell::default();
    for (v, t) in g.inputs().iter().zip(inputs) {
        found.borrow_mut().extend(elements(g.fact(*v), t));
        let want = concrete(&g.fact(*v).shape, symbols)?;
        if t.dtype() != g.fact(*v).dtype || t.shape() != want {
            return invalid(format!(
                "input {v} is {}{:?}, the graph says {} = {want:?}",
                t.dtype(),
                t.shape(),
                g.fact(*v)
            ));
        }
        values[v.0 as usize] = Some(t.clone());
    }
    let around = symbols;
    let symbols: Symbols = &|s| found.borrow().get(s).copied().or_else(|| around(s));
    for n in g.order() {
        let node = g.node(n);
        let args: Vec<Option<Tensor>> = node
            .inputs
            .iter()
            .map(|v| v.and_then(|v| values[v.0 as usize].clone()))
            .collect();
        let facts: Vec<Fact> = node.outputs.iter().map(|v| g.fact(*v).clone()).collect();
        let named = |e: OpError| match e {
            OpError::Invalid(m) => OpError::Invalid(format!("{}: {m}", node.op)),
            _ => OpError::Unsupported(format!("{}: {}", node.op, e.message())),
        };
        for (a, b) in g.with_cx(n, |cx| node.op.0.rules(cx)).map_err(named)? {
            let both = concrete_ints(&[a.clone(), b.clone()], symbols);
            if both.is_none_or(|v| v[0] > v[1]) {
                return invalid(format!("{}: {a} is above {b}", node.op));
            }
        }
        let lowering = g.with_cx(n, |cx| node.op.0.lower(cx)).map_err(named)?;
        let out = match &lowering {
            Lowering::Scan => {
                let value = |d: &Dim| {
                    d.eval(&|s| match s {
                        Sym::Named(n) => symbols(n),
                        _ => None,
                    })
                };
                let Some(attrs) = bind_attrs_by(&node.attrs, &value) else {
                    return invalid(format!("{}: its length has no value here", node.op));
                };
                let present: Vec<Tensor> = args.into_iter().flatten().collect();
                scan::run_node(node.op, &attrs, &present, &mut |body, inputs| {
                    run_graph(body, inputs, symbols)
                })
            }
            Lowering::Ragged => {
                let present: Vec<Tensor> = args.into_iter().flatten().collect();
                let parts = ragged::Parts::of(&node.attrs)?;
                let most = parts.most.subst(&|s| match s {
                    Sym::Named(n) => symbols(n).map(Dim::from),
                    _ => None,
                });
                ragged::run(
                    &ragged::Parts { most: &most, ..parts },
                    &present,
                    &mut |body, inputs, rows| {
                        run_graph(body, inputs, &|s| {
                            if s == &**parts.rows { Some(rows) } else { symbols(s) }
                        })
                    },
                )
            }
            Lowering::Custom if !custom::is_own(&node.attrs) => Err(custom::not_here(&node.attrs)),
            // Its loops depend on each other, or the runtime has them.
            Lowering::Compact | Lowering::Custom => {
                let arg_facts: Vec<Option<Fact>> = args.iter().map(|t| t.as_ref().map(Tensor::fact)).collect();
                let both = arg_facts.iter().zip(&args);
                let inputs: Vec<Option<Arg>> = both
                    .map(|(fact, t)| {
                        fact.as_ref().map(|fact| Arg {
                            fact,
                            constant: t.as_ref(),
                        })
                    })
                    .collect();
                node.op.0.eval(&Cx {
                    schema: node.op.schema(),
                    attrs: &node.attrs,
                    inputs: &inputs,
                    outputs: facts.len(),
                })
            }
            _ => run_lowering(&lowering, &args, &facts, symbols),
        };
        let texts = node
            .inputs
            .iter()
            .flatten()
            .filter_map(|v| values[v.0 as usize].as_ref());
        let out = with_texts(out.map_err(named)?, &texts)?;
        for symbol in counted(node.op, &node.attrs).chain(&custom::given(node.op, &node.attrs)) {
            let length = told(symbol, facts.iter().zip(&out));
            found.borrow_mut().extend(length.map(|n| (symbol.clone(), n)));
        }
        for (v, t) in node.outputs.iter().zip(out) {
            values[v.0 as usize] = Some(t);
        }
    }
    g.outputs()
        .iter()
        .map(|(name, v)| match &values[v.0 as usize] {
            Some(t) => Ok(t.clone()),
            None => invalid(format!("output `{name}` has no value")),
        })
        .collect()
}

/// Runs loops that together write all elements of all outputs. Operand `i` is `inputs[i]`.
pub fn run_computes(
    parts: &[Compute],
    inputs: &[Option<Tensor>],
    outputs: &[Fact],
    symbols: Symbols,
) -> Result<Vec<Tensor>, OpError> {
    let operands: Vec<Option<Operand>> = inputs.iter().map(|t| t.as_ref().map(Operand::new)).collect();
    let mut buffers = vec![];
    for f in outputs {
        let shape = concrete(&f.shape, symbols)?;
        let Some(len) = shape.iter().try_fold(1usize, |a, d| a.checked_mul(*d)) else {
            return invalid(format!("{shape:?} has too many elements"));
        };
        buffers.push(Buffer {
            dtype: f.dtype,
            shape,
            data: vec![None; len],
        });
    }
    for (i, c) in parts.iter().enumerate() {
        run_compute(c, &operands, &mut buffers, symbols).map_err(|e| match e {
            OpError::Invalid(m) => OpError::Invalid(format!("part {i}: {m}")),
            other => other,
        })?;
    }
    buffers.into_iter().enumerate().map(|(i, b)| b.finish(i)).collect()
}

fn concrete_ints(dims: &[Dim], symbols: Symbols) -> Option<Vec<i64>> {
    let of = |s: &Sym| match s {
        Sym::Named(n) => symbols(n),
        _ => None,
    };
    dims.iter().map(|d| d.eval(&of)).collect()
}

fn concrete(shape: &[Dim], symbols: Symbols) -> Result<Vec<usize>, OpError> {
    match bind_shape(shape, symbols) {
        Some(s) => Ok(s),
        None => invalid(format!("extents {shape:?} have no value here")),
    }
}

struct Operand {
    dtype: DType,
    shape: Vec<usize>,
    data: Vec<Num>,
}

impl Operand {
    fn new(t: &Tensor) -> Self {
        let data = if t.dtype().is_float() {
            t.to_f64().into_iter().map(Num::F).collect()
        } else {
            t.to_i64().into_iter().map(Num::I).collect()
        };
        Self {
            dtype: t.dtype(),
            shape: t.shape().to_vec(),
            data,
        }
    }
}

struct Buffer {
    dtype: DType,
    shape: Vec<usize>,
    data: Vec<Option<Num>>,
}

impl Buffer {
    fn finish(self, output: usize) -> Result<Tensor, OpError> {
        if let Some(at) = self.data.iter().position(Option::is_none) {
            return invalid(format!(
                "element {at} of output {output} {:?} is never written",
                self.shape
            ));
        }
        let data = self.data.into_iter().flatten();
        Ok(if self.dtype.is_float() {
            Tensor::from_f64(self.dtype, &self.shape, data.map(Num::f))
        } else {
            Tensor::from_i64(self.dtype, &self.shape, data.map(Num::i))
        })
    }
}

/// A dim in which only iterators and data-dependent indices are left.
enum Index {
    Affine { constant: i64, terms: Vec<(usize, i64)> },
    Other(Dim),
}

impl Index {
    fn new(d: &Dim, symbols: Symbols) -> Self {
        let d = d.subst(&|s| match s {
            Sym::Named(n) => symbols(n).map(Dim::from),
            _ => None,
        });
        if let Some(constant) = d.as_const() {
            return Self::Affine {
                constant,
                terms: vec![],
            };
        }
        let (mut constant, mut terms) = (0, vec![]);
        for (m, c) in d.terms() {
            match m.as_slice() {
                [] => constant = *c,
                [Atom::Sym(Sym::Iter(i))] => terms.push((*i as usize, *c)),
                _ => return Self::Other(d),
            }
        }
        Self::Affine { constant, terms }
    }

    fn at(&self, point: &[usize], nodes: &[Num]) -> Option<i64> {
        match self {
            Self::Affine { constant, terms } => terms.iter().try_fold(*constant, |a, (i, c)| {
                a.checked_add((*point.get(*i)? as i64).checked_mul(*c)?)
            }),
            Self::Other(d) => d.eval(&|s| match s {
                Sym::Iter(i) => point.get(*i as usize).map(|x| *x as i64),
                Sym::Aux(k) => nodes.get(*k as usize).map(|n| n.i()),
                Sym::Named(_) => None,
            }),
        }
    }

    fn get(&self, point: &[usize], nodes: &[Num]) -> Result<i64, OpError> {
        match (self.at(point, nodes), self) {
            (Some(v), _) => Ok(v),
            (None, Self::Other(d)) => invalid(format!("{d} has no value at {point:?}")),
            (None, Self::Affine { .. }) => {
                invalid(format!("an index at {point:?} overflows or uses an unknown iterator"))
            }
        }
    }
}

fn run_compute(
    c: &Compute,
    operands: &[Option<Operand>],
    buffers: &mut [Buffer],
    symbols: Symbols,
) -> Result<(), OpError> {
    if c.parallel > c.extents.len() || c.combine.is_none() && c.parallel != c.extents.len() {
        return invalid(format!(
            "{} of {} iterators are parallel with combine {:?}",
            c.parallel,
            c.extents.len(),
            c.combine
        ));
    }
    let Some(out) = buffers.get_mut(c.output) else {
        return invalid(format!("there is no output {}", c.output));
    };
    if out.dtype != c.dtype || out.shape.len() != c.store.len() {
        return invalid(format!(
            "writes {} of rank {}, the output is {}{:?}",
            c.dtype,
            c.store.len(),
            out.dtype,
            out.shape
        ));
    }
    if c.root as usize >= c.body.nodes().len() {
        return invalid("the root is not a node of the body");
    }
    let body = Program::new(c, operands, symbols)?;
    let extents = concrete(&c.extents, symbols)?;
    let store: Vec<Index> = c.store.iter().map(|d| Index::new(d, symbols)).collect();
    let (parallel, reduced) = extents.split_at(c.parallel);
    let acc_type = c.body.dtype(c.root);

    let mut nodes = vec![Num::I(0); c.body.nodes().len()];
    let mut point = vec![0; extents.len()];
    let mut failed = Ok(());
    index::for_each(parallel, |p| {
        if failed.is_err() {
            return;
        }
        point[..p.len()].copy_from_slice(p);
        let mut acc = c.combine.map(|k| identity(k, acc_type));
        index::for_each(reduced, |r| {
            if failed.is_err() {
                return;
            }
            point[p.len()..].copy_from_slice(r);
            match (body.run(&point, &mut nodes), c.combine, acc) {
                (Ok(x), Some(k), Some(a)) => acc = Some(combine(k, acc_type, a, x)),
                (Ok(x), ..) => acc = Some(x),
                (Err(e), ..) => failed = Err(e),
            }
        });
        if failed.is_ok() {
            failed = write(c, out, &store, p, cast(acc_type, c.dtype, acc.unwrap_or(Num::I(0))));
        }
    });
    failed
}

fn write(c: &Compute, out: &mut Buffer, store: &[Index], p: &[usize], x: Num) -> Result<(), OpError> {
    let mut at = 0;
    for (i, (ix, extent)) in store.iter().zip(&out.shape).enumerate() {
        let k = ix.get(p, &[])?;
        match usize::try_from(k) {
            Ok(k) if k < *extent => at = at * extent + k,
            _ => {
                return invalid(format!(
                    "point {p:?} stores at {k} of axis {i}, extent {extent} ({:?})",
                    c.store
                ));
            }
        }
    }
    match out.data[at].replace(x) {
        None => Ok(()),
        Some(_) => invalid(format!(
            "element {at} of output {} {:?} is written twice",
            c.output, out.shape
        )),
    }
}

/// A body with its indices prepared.
struct Program<'a> {
    body: &'a Body,
    root: usize,
    operands: &'a [Option<Operand>],
    live: Vec<bool>,
    /// The dims of each node: of an `Index`, a `Load` or a `CheckedIndex`.
    dims: Vec<Vec<Index>>,
}

impl<'a> Program<'a> {
    fn new(c: &'a Compute, operands: &'a [Option<Operand>], symbols: Symbols) -> Result<Self, OpError> {
        let body = &c.body;
        let live = body.reachable(&[c.root]);
        let mut dims = vec![];
        for (i, e) in body.nodes().iter().enumerate() {
            check_types(body, i as u32, operands)?;
            dims.push(match e {
                Expr::Index(d) | Expr::CheckedIndex(_, d) => vec![Index::new(d, symbols)],
                Expr::Load { index, .. } => index.iter().map(|d| Index::new(d, symbols)).collect(),
                _ => vec![],
            });
        }
        Ok(Self {
            body,
            root: c.root as usize,
            operands,
            live,
            dims,
        })
    }

    fn run(&self, point: &[usize], nodes: &mut [Num]) -> Result<Num, OpError> {
        for (i, e) in self.body.nodes().iter().enumerate() {
            if !self.live[i] {
                continue;
            }
            let dtype = self.body.dtype(i as u32);
            let at = |x: &u32| nodes[*x as usize];
            nodes[i] = match e {
                Expr::Const(_, s) => constant(dtype, *s),
                Expr::Index(_) => Num::I(self.dims[i][0].get(point, nodes)?),
                Expr::Load {
                    operand, index, fill, ..
                } => {
                    let at = self.position(*operand, &self.dims[i], point, nodes)?;
                    match (at, fill, self.operands[*operand as usize].as_ref()) {
                        (Some(at), _, Some(o)) => o.data[at],
                        (_, Some(fill), _) => constant(dtype, *fill),
                        (..) => {
                            return invalid(format!("point {point:?} loads outside operand {operand}: {index:?}"));
                        }
                    }
                }
                Expr::Unary(op, a) => unary(*op, self.body.dtype(*a), at(a)),
                Expr::Binary(op, a, b) => binary(*op, self.body.dtype(*a), at(a), at(b)),
                Expr::Select(c, a, b) => {
                    if at(c).i() != 0 {
                        at(a)
                    } else {
                        at(b)
                    }
                }
                Expr::Cast(t, a) => cast(self.body.dtype(*a), *t, at(a)),
                Expr::Bits(t, a) => scalar::bits(self.body.dtype(*a), *t, at(a)),
                Expr::CheckedIndex(a, _) => {
                    let extent = self.dims[i][0].get(point, nodes)?;
                    let k = nodes[*a as usize].i();
                    if k < -extent || k >= extent {
                        return invalid(format!("index {k} is out of range for extent {extent}"));
                    }
                    Num::I(if k < 0 { k + extent } else { k })
                }
            };
        }
        Ok(nodes[self.root])
    }

    /// Where a load reads; `None` outside the operand.
    fn position(&self, operand: u32, dims: &[Index], point: &[usize], nodes: &[Num]) -> Result<Option<usize>, OpError> {
        let Some(o) = self.operands.get(operand as usize).and_then(Option::as_ref) else {
            return invalid(format!("operand {operand} is absent"));
        };
        let mut at = 0;
        for (ix, extent) in dims.iter().zip(&o.shape) {
            match usize::try_from(ix.get(point, nodes)?) {
                Ok(k) if k < *extent => at = at * extent + k,
                _ => return Ok(None),
            }
        }
        Ok(Some(at))
    }
}

/// The typing rules of bodies, which [`Body::push`] does not check.
fn check_types(body: &Body, id: u32, operands: &[Option<Operand>]) -> Result<(), OpError> {
    let bad = |why: String| invalid(format!("body node {id} {:?}: {why}", body.get(id)));
    let mut forward = None;
    body.operands(id, &mut |o| {
        if o >= id {
            forward = Some(o);
        }
    });
    if let Some(o) = forward {
        return bad(format!("reads node {o}, which comes later"));
    }
    let index_dims: &[Dim] = match body.get(id) {
        Expr::Index(d) | Expr::CheckedIndex(_, d) => std::slice::from_ref(d),
        Expr::Load { index, .. } => index,
        _ => &[],
    };
    let mut aux_type = None;
    for d in index_dims {
        d.visit(&mut |s| {
            if let Sym::Aux(k) = s
                && body.dtype(*k) != DType::I64
            {
                aux_type = Some(*k);
            }
        });
    }
    if let Some(k) = aux_type {
        return bad(format!("the index reads node {k}, which is {}", body.dtype(k)));
    }
    match body.get(id) {
        Expr::Load {
            operand, dtype, index, ..
        } => match operands.get(*operand as usize).and_then(Option::as_ref) {
            None => bad("the operand is absent".into()),
            Some(o) if o.dtype != *dtype => bad(format!("the operand is {}", o.dtype)),
            Some(o) if o.shape.len() != index.len() => bad(format!("the operand has rank {}", o.shape.len())),
            Some(_) => Ok(()),
        },
        Expr::Binary(op, a, b) => {
            let (s, t) = (body.dtype(*a), body.dtype(*b));
            if s != t {
                return bad(format!("operands are {s} and {t}"));
            }
            match op {
                Binary::And | Binary::Or | Binary::Xor if s.is_float() => bad(format!("of {s}")),
                Binary::Shl | Binary::Shr if !s.is_int() => bad(format!("of {s}")),
                _ => Ok(()),
            }
        }
        Expr::Select(c, a, b) => {
            if body.dtype(*c) != DType::Bool {
                return bad(format!("the condition is {}", body.dtype(*c)));
            }
            if body.dtype(*a) != body.dtype(*b) {
                return bad(format!("the sides are {} and {}", body.dtype(*a), body.dtype(*b)));
            }
            Ok(())
        }
        Expr::Unary(Unary::Not, a) if body.dtype(*a) != DType::Bool => bad(format!("of {}", body.dtype(*a))),
        Expr::Unary(Unary::BitNot, a) if !body.dtype(*a).is_int() => bad(format!("of {}", body.dtype(*a))),
        Expr::Unary(op, a) if !defined_for_int(*op) && !body.dtype(*a).is_float() => {
            bad(format!("of {}", body.dtype(*a)))
        }
        Expr::CheckedIndex(a, _) if body.dtype(*a) != DType::I64 => bad(format!("of {}", body.dtype(*a))),
        _ => Ok(()),
    }
}

fn defined_for_int(op: Unary) -> bool {
    matches!(
        op,
        Unary::Neg
            | Unary::Abs
            | Unary::Sign
            | Unary::Floor
            | Unary::Ceil
            | Unary::Round
            | Unary::Not
            | Unary::BitNot
            | Unary::IsNan
            | Unary::IsInf
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structured::{Combine, Scalar};

    fn c(v: i64) -> Dim {
        Dim::from(v)
    }

    #[test]
    fn a_matrix_product_is_a_sum_of_products() {
        let m = Compute::reduce(DType::F32, &[c(2), c(2)], &[c(3)], Combine::Add, |b, p, r| {
            let x = b.load(0, DType::F32, vec![p[0].clone(), r[0].clone()]);
            let y = b.load(1, DType::F32, vec![r[0].clone(), p[1].clone()]);
            b.binary(Binary::Mul, x, y)
        });
        let x = Tensor::f32(&[2, 3], [1., 2., 3., 4., 5., 6.]);
        let y = Tensor::f32(&[3, 2], [1., 0., 0., 1., 1., 1.]);
        let out = Fact::new(DType::F32, [c(2), c(2)]);
        let got = run_computes(&[m], &[Some(x), Some(y)], &[out], &|_| None).expect("runs");
        assert_eq!(got[0].to_f32(), [4., 5., 10., 11.]);
    }

    #[test]
    fn laws_of_loops_are_checked() {
        let out = Fact::new(DType::F32, [c(3)]);
        let run = |m: Compute| {
            let x = Tensor::f32(&[3], [1., 2., 3.]);
            run_computes(&[m], &[Some(x)], std::slice::from_ref(&out), &|_| None)
        };
        let load = |d: fn(&Dim) -> Dim| move |b: &mut Body, i: &[Dim]| -> u32 { b.load(0, DType::F32, vec![d(&i[0])]) };
        assert!(run(Compute::map(DType::F32, &[c(3)], load(Clone::clone))).is_ok());
        let outside = run(Compute::map(DType::F32, &[c(3)], load(|i| i.clone() + Dim::ONE)));
        assert!(format!("{outside:?}").contains("loads outside"), "{outside:?}");
        let missing = run(Compute::map(DType::F32, &[c(2)], load(Clone::clone)));
        assert!(format!("{missing:?}").contains("never written"), "{missing:?}");
        let mut twice = Compute::map(DType::F32, &[c(3)], load(Clone::clone));
        twice.store = vec![Dim::iter(0).floor_div(&c(2))];
        let twice = run(twice);
        assert!(format!("{twice:?}").contains("written twice"), "{twice:?}");
        let wrong = run(Compute::map(DType::F32, &[c(3)], |b, i| {
            b.load(0, DType::F64, i.to_vec())
        }));
        assert!(format!("{wrong:?}").contains("the operand is f32"), "{wrong:?}");
    }

    #[test]
    fn fill_and_checked_indices() {
        let padded = Compute::map(DType::F32, &[c(4)], |b, i| {
            b.push(Expr::Load {
                operand: 0,
                dtype: DType::F32,
                index: vec![i[0].clone() - Dim::ONE],
                fill: Some(Scalar::Float(9f64.to_bits())),
            })
        });
        let x = Tensor::f32(&[2], [1., 2.]);
        let got = run_computes(&[padded], &[Some(x.clone())], &[Fact::new(DType::F32, [c(4)])], &|_| {
            None
        });
        assert_eq!(got.expect("runs")[0].to_f32(), [9., 1., 2., 9.]);

        let gather = Compute::map(DType::F32, &[c(2)], |b, i| {
            let k = b.load(1, DType::I64, i.to_vec());
            let k = b.push(Expr::CheckedIndex(k, Dim::sym("N")));
            b.load(0, DType::F32, vec![Dim::aux(k)])
        });
        let run = |ix: [i64; 2]| {
            let ix = Tensor::i64(&[2], ix);
            let out = [Fact::new(DType::F32, [c(2)])];
            run_computes(
                std::slice::from_ref(&gather),
                &[Some(x.clone()), Some(ix)],
                &out,
                &|n| (n == "N").then_some(2),
            )
        };
        assert_eq!(run([-1, 0]).expect("runs")[0].to_f32(), [2., 1.]);
        assert!(run([2, 0]).is_err());
    }
}
