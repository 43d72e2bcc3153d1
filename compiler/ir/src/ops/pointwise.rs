//! What the pointwise families share: the type bodies compute in, broadcasting loads, and plain evaluation.
//!
//! Laws: bodies compute 16-bit floats in `f32`; integers stay in their own type and wrap; a known element is kept only
//! where it fits the element type.

use crate::index::{broadcast_facts, broadcast_index, broadcast_linear, broadcast_static, for_each};
use crate::op::{Cx, Lowering, OpError, Param, Types, invalid};
use crate::structured::{Body, Compute, ExprId};
use crate::{DType, Dim, Fact, Real, Tensor};

/// Operands and result of functions of floats.
pub(crate) const FLOATS: &[Param] = &[Param::new("X", Types::FLOAT)];
/// The result of a function whose element type is the operand's.
pub(crate) const RESULT: &[Param] = &[Param::new("Y", Types::ANY)];
/// The same where the operand may be strings.
pub(crate) const MOVED: &[Param] = &[Param::new("Y", Types::MOVED)];

/// The type in which a body computes elements of type `t`.
pub(crate) const fn working(t: DType) -> DType {
    match t {
        DType::F16 | DType::BF16 => DType::F32,
        _ => t,
    }
}

/// Inclusive range of an integer or bool type.
pub(crate) fn int_range(t: DType) -> (i128, i128) {
    match t {
        DType::Bool => (0, 1),
        _ if t.is_signed() => {
            let half = 1i128 << (t.bits() - 1);
            (-half, half - 1)
        }
        _ => (0, (1i128 << t.bits()) - 1),
    }
}

/// Number of elements, refused where the bytes could not be addressed.
pub(crate) fn volume(shape: &[usize]) -> Result<usize, OpError> {
    // 8 bytes is the widest element.
    let bytes = shape.iter().try_fold(8usize, |a, d| a.checked_mul(*d));
    match bytes {
        Some(b) if isize::try_from(b).is_ok() => Ok(b / 8),
        _ => invalid(format!("a tensor of shape {shape:?} is too large")),
    }
}

/// Facts of the inputs that are present.
fn present<'a>(cx: &Cx<'a>) -> Vec<&'a Fact> {
    cx.inputs.iter().flatten().map(|a| a.fact).collect()
}

/// The fact of a pointwise result: broadcast shape, and elements by `known` where those of all operands are known.
pub(crate) fn infer(cx: &Cx, dtype: DType, known: impl Fn(&[Dim]) -> Option<Dim>) -> Result<Vec<Fact>, OpError> {
    let facts = present(cx);
    let shape = broadcast_facts(&facts)?;
    let mut out = Fact::new(dtype, shape);
    if let Some(k) = known_elements(&facts, &out, known) {
        out.known = Some(k);
    }
    Ok(vec![out])
}

/// The fact of a pointwise result that is a float, with elements by `known` where those of all operands are known and not all
/// of them constants.
pub(crate) fn infer_reals(cx: &Cx, dtype: DType, known: impl Fn(&[Dim]) -> Option<Dim>) -> Result<Vec<Fact>, OpError> {
    let facts = present(cx);
    let mut out = Fact::new(dtype, broadcast_facts(&facts)?);
    let small = out
        .static_shape()
        .is_some_and(|s| volume(&s).is_ok_and(|n| n <= Fact::REALS_MAX));
    if small && facts.iter().any(|f| f.known.is_some()) {
        let reals: Option<Vec<Vec<Dim>>> = (0..cx.inputs.len())
            .filter(|i| cx.has(*i))
            .map(|i| cx.reals(i))
            .collect();
        out.known = reals.and_then(|all| {
            let operands = facts.iter().zip(&all).map(|(f, k)| Some((f.static_shape()?, k)));
            elementwise(&operands.collect::<Option<Vec<_>>>()?, &out, |a| {
                rounded(dtype, &known(a)?)
            })
        });
    }
    Ok(vec![out])
}

/// A known float, of `f64`, as one of another type; of few types what is known is of use.
pub(crate) fn rounded(to: DType, d: &Dim) -> Option<Dim> {
    match to {
        DType::F64 => Some(d.clone()),
        DType::F32 => Some(Dim::map_real(Real::Single, d)),
        _ => None,
    }
}

fn known_elements(facts: &[&Fact], out: &Fact, f: impl Fn(&[Dim]) -> Option<Dim>) -> Option<Vec<Dim>> {
    if out.dtype.is_float() {
        return None;
    }
    let operands: Vec<(Vec<usize>, &Vec<Dim>)> = facts
        .iter()
        .map(|x| Some((x.static_shape()?, in_range(x)?)))
        .collect::<Option<_>>()?;
    elementwise(&operands, out, |a| f(a).filter(|d| fits(out.dtype, d)))
}

/// The elements of a short result, of operands with their shapes.
fn elementwise(
    operands: &[(Vec<usize>, &Vec<Dim>)],
    out: &Fact,
    f: impl Fn(&[Dim]) -> Option<Dim>,
) -> Option<Vec<Dim>> {
    let shape = out.static_shape()?;
    if volume(&shape).ok()? > Fact::KNOWN_MAX {
        return None;
    }
    let mut elements = Some(vec![]);
    for_each(&shape, |ix| {
        let args: Option<Vec<Dim>> = operands
            .iter()
            .map(|(s, k)| k.get(broadcast_linear(s, ix)).cloned())
            .collect();
        match (&mut elements, args.and_then(|a| f(&a))) {
            (Some(v), Some(d)) => v.push(d),
            (e, _) => *e = None,
        }
    });
    elements
}

/// Whether a constant lies in the range of an integer type; of symbolic values it is taken for granted.
pub(crate) fn fits(t: DType, d: &Dim) -> bool {
    let (lo, hi) = int_range(t);
    d.as_const().is_none_or(|c| (lo..=hi).contains(&i128::from(c)))
}

/// The known elements, unless one is an unsigned number that wrapped around.
pub(crate) fn in_range(x: &Fact) -> Option<&Vec<Dim>> {
    let known = x.known.as_ref().filter(|_| !x.dtype.is_float());
    known.filter(|k| k.iter().all(|d| fits(x.dtype, d)))
}

/// Loads every present input at the broadcast index, in working type; absent inputs are skipped.
pub(crate) fn loads(cx: &Cx, body: &mut Body, shape: &[Dim], iters: &[Dim]) -> Vec<ExprId> {
    let mut out = vec![];
    for (i, arg) in cx.inputs.iter().enumerate() {
        if let Some(a) = arg {
            let x = body.load(i, a.fact.dtype, broadcast_index(&a.fact.shape, shape, iters));
            out.push(body.cast(working(a.fact.dtype), x));
        }
    }
    out
}

/// One loop nest over the broadcast shape; `f` is given the present inputs in working type, its result is cast to `dtype`.
pub(crate) fn lower(
    cx: &Cx,
    dtype: DType,
    f: impl FnOnce(&mut Body, &[ExprId]) -> ExprId,
) -> Result<Lowering, OpError> {
    let shape = broadcast_facts(&present(cx))?;
    Ok(Lowering::Compute(vec![Compute::map(dtype, &shape, |b, iters| {
        let args = loads(cx, b, &shape, iters);
        let y = f(b, &args);
        b.cast(dtype, y)
    })]))
}

/// Element values of a tensor of integers or bools.
pub(crate) fn integers(t: &Tensor) -> Vec<i128> {
    let unsigned = t.dtype() == DType::U64;
    t.to_i64()
        .into_iter()
        .map(|v| if unsigned { i128::from(v as u64) } else { i128::from(v) })
        .collect()
}

/// A tensor of integers or bools; values wrap.
pub(crate) fn from_integers(dtype: DType, shape: &[usize], v: Vec<i128>) -> Tensor {
    Tensor::from_i64(dtype, shape, v.into_iter().map(|x| x as i64))
}

/// Evaluates `f` on the broadcast elements of all inputs; `read` gives the elements of one.
pub(crate) fn zip<T: Copy, U>(
    cx: &Cx,
    read: impl Fn(&Tensor) -> Vec<T>,
    f: impl Fn(&[T]) -> U,
) -> Result<(Vec<usize>, Vec<U>), OpError> {
    let mut tensors = vec![];
    for i in 0..cx.inputs.len() {
        if cx.has(i) {
            tensors.push(cx.tensor(i)?);
        }
    }
    let shapes: Vec<&[usize]> = tensors.iter().map(|t| t.shape()).collect();
    let shape = broadcast_static(&shapes)?;
    let columns: Vec<Vec<T>> = tensors.iter().map(|t| read(t)).collect();
    let mut out = Vec::with_capacity(volume(&shape)?);
    let mut args = Vec::with_capacity(columns.len());
    if shapes.iter().all(|s| **s == *shape) {
        for i in 0..volume(&shape)? {
            args.clear();
            args.extend(columns.iter().map(|c| c[i]));
            out.push(f(&args));
        }
    } else {
        for_each(&shape, |ix| {
            args.clear();
            args.extend(columns.iter().zip(&shapes).map(|(c, s)| c[broadcast_linear(s, ix)]));
            out.push(f(&args));
        });
    }
    Ok((shape, out))
}

/// Evaluates a function of floats.
pub(crate) fn eval_floats(cx: &Cx, dtype: DType, f: impl Fn(&[f64]) -> f64) -> Result<Vec<Tensor>, OpError> {
    let (shape, v) = zip(cx, Tensor::to_f64, f)?;
    Ok(vec![Tensor::from_f64(dtype, &shape, v)])
}

/// Evaluates a function of exact integers; the result wraps.
pub(crate) fn eval_integers(cx: &Cx, dtype: DType, f: impl Fn(&[i128]) -> i128) -> Result<Vec<Tensor>, OpError> {
    let (shape, v) = zip(cx, integers, f)?;
    Ok(vec![from_integers(dtype, &shape, v)])
}
