//! Shapes as values, and tensors made from shapes.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::binary::larger;
use crate::ops::chosen::{self, negative};
use crate::ops::pointwise::{self, fits, integers, volume};
use crate::structured::{Binary, Body, Compute, Expr, ExprId};
use crate::{DType, Dim, Fact, Real, Tensor};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[&Shape, &Size, &ConstantOfShape, &Range, &EyeLike];

const INTEGERS: &[Param] = &[Param::new("shape", Types::I64).group(2)];

struct Shape;

impl Shape {
    /// The extents asked for, of any shape.
    fn extents<'a, T>(cx: &Cx, shape: &'a [T]) -> Result<&'a [T], OpError> {
        let rank = shape.len() as i64;
        let clamp = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
        let start = clamp(cx.int("start")?);
        let end = clamp(cx.opt_int("end")?.unwrap_or(rank));
        Ok(&shape[start..end.max(start)])
    }
}

impl OpDef for Shape {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "Shape",
            "the extents of x from axis `start` to `end`",
            &[Param::new("data", Types::MOVED)],
            INTEGERS,
            &[("end", AttrDef::OptInt), ("start", AttrDef::Int(0))],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let d = Self::extents(cx, &cx.fact(0)?.shape)?;
        Ok(vec![Fact::with_known(DType::I64, vec![Dim::from(d.len())], d.to_vec())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let d = Self::extents(cx, cx.tensor(0)?.shape())?;
        Ok(vec![Tensor::i64(&[d.len()], d.iter().map(|d| *d as i64))])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let d = Self::extents(cx, &cx.fact(0)?.shape)?;
        Ok(Lowering::Compute(vec![Compute::map(
            DType::I64,
            &[Dim::from(d.len())],
            |b, i| choose(b, &i[0], d),
        )]))
    }
}

/// The dim at position `at` of a short list.
fn choose(b: &mut Body, at: &Dim, dims: &[Dim]) -> ExprId {
    let Some((last, rest)) = dims.split_last() else {
        return b.int(DType::I64, 0);
    };
    let mut value = b.push(Expr::Index(last.clone()));
    let here = b.push(Expr::Index(at.clone()));
    for (k, d) in rest.iter().enumerate().rev() {
        let k = b.int(DType::I64, k as i64);
        let is = b.binary(Binary::Eq, here, k);
        let d = b.push(Expr::Index(d.clone()));
        value = b.select(is, d, value);
    }
    value
}

struct Size;

impl OpDef for Size {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "Size",
            "the number of elements of x",
            &[Param::new("data", Types::MOVED)],
            INTEGERS,
            &[],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::with_known(
            DType::I64,
            vec![],
            vec![cx.fact(0)?.element_count()],
        )])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![Tensor::i64(&[], [cx.tensor(0)?.len() as i64])])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let n = cx.fact(0)?.element_count();
        Ok(Lowering::Compute(vec![Compute::map(DType::I64, &[], |b, _| {
            b.push(Expr::Index(n))
        })]))
    }
}

struct ConstantOfShape;

impl ConstantOfShape {
    fn value(cx: &Cx) -> Result<Tensor, OpError> {
        match cx.opt_tensor("value")? {
            None => Ok(Tensor::f32(&[1], [0.0])),
            Some(t) if t.len() == 1 => Ok(t.clone()),
            Some(t) => invalid(format!("value has {} elements, one is wanted", t.len())),
        }
    }

    fn shape(cx: &Cx) -> Result<Vec<Dim>, OpError> {
        let Some(shape) = cx.dims(0)? else {
            return invalid("no shape is given");
        };
        if let Some(d) = shape.iter().find(|d| d.as_const().is_some_and(|c| c < 0)) {
            return invalid(format!("an extent of {d}"));
        }
        Ok(shape)
    }
}

impl OpDef for ConstantOfShape {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "ConstantOfShape",
            "a tensor of the given shape whose elements are all `value`",
            &[Param::new("input", Types::I64).shape_like("shape")],
            &[Param::new("output", Types::ANY)],
            &[("value", AttrDef::OptTensor)],
        )
        .since(9);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (shape, value) = (Self::shape(cx)?, Self::value(cx)?);
        let mut out = Fact::new(value.dtype(), shape);
        let small = out
            .static_shape()
            .map(|s| volume(&s))
            .transpose()?
            .filter(|n| *n <= Fact::KNOWN_MAX);
        if let (false, Some(n)) = (value.dtype().is_float(), small) {
            out.known = value.fact().known.map(|v| vec![v[0].clone(); n]);
        }
        Ok(vec![out])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let value = Self::value(cx)?;
        let Some(shape) = Fact::new(value.dtype(), Self::shape(cx)?).static_shape() else {
            return invalid("the shape is not bound to numbers");
        };
        let data = value.bytes().repeat(volume(&shape)?);
        match Tensor::new(value.dtype(), shape, data.into()) {
            Ok(t) => Ok(vec![t]),
            Err(e) => invalid(format!("{} bytes for the shape, {:?} wanted", e.got, e.expected)),
        }
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (shape, value) = (Self::shape(cx)?, Self::value(cx)?);
        let t = value.dtype();
        Ok(Lowering::Compute(vec![Compute::map(t, &shape, |b, _| {
            if t.is_float() {
                b.float(t, value.to_f64()[0])
            } else {
                b.int(t, value.to_i64()[0])
            }
        })]))
    }
}

/// `start` stays an operand even when it is known: it carries the element type.
struct Range;

impl Range {
    /// Start, limit and step of an integer range.
    fn bounds(cx: &Cx) -> Result<[Dim; 3], OpError> {
        let one = |i: usize, name: &str| match cx.dims(i)?.as_deref() {
            Some([d]) => Ok(d.clone()),
            Some(_) => invalid(format!("{name} wants one element")),
            None => invalid(format!("{name} is missing")),
        };
        Ok([one(0, "start")?, one(1, "limit")?, one(2, "delta")?])
    }

    fn length(cx: &Cx) -> Result<Dim, OpError> {
        if cx.fact(0)?.dtype.is_float() {
            if let Some([start, limit, delta]) = Self::reals(cx) {
                let span = Dim::apply(Real::Sub, &limit, &start);
                // Halves are exact as they are.
                let span = pointwise::rounded(cx.fact(0)?.dtype, &span).or(Some(span));
                let steps = span.map(|s| Dim::map_real(Real::Ceil, &Dim::apply(Real::Div, &s, &delta)));
                if let Some(n) = steps {
                    return Ok(larger(&Dim::map_real(Real::Whole, &n), &Dim::ZERO));
                }
            }
            let [start, limit, delta] = Self::floats(cx)?;
            let n = ((limit - start) / delta).ceil().max(0.0);
            // A range of more elements than f64 can count has no meaning.
            if !(0.0..9e15).contains(&n) {
                return invalid(format!("a range from {start} to {limit} by {delta}"));
            }
            return Ok(Dim::from(n as i64));
        }
        let [start, limit, delta] = Self::bounds(cx)?;
        let n = match delta.as_const() {
            Some(1..) => (limit - start).ceil_div(&delta),
            Some(c) if c < 0 && c > i64::MIN => (start - limit).ceil_div(&-delta),
            Some(_) => return invalid(format!("a step of {delta}")),
            None if !delta.has_elements() => return unsupported("a range whose step is symbolic"),
            // Only a run knows in which direction.
            None => Self::counted([start, limit, delta].map(|d| chosen::cut(&d))),
        };
        Ok(larger(&n, &Dim::ZERO))
    }

    /// Elements of a range whose direction only a run knows.
    fn counted([start, limit, delta]: [Dim; 3]) -> Dim {
        let size = delta.maximum(&-delta.clone()).maximum(&Dim::ONE);
        let span = limit - start;
        let n = chosen::choose(&negative(&delta), -span.clone(), span).ceil_div(&size);
        larger(&n, &Dim::ZERO)
    }

    /// Bounds and step of a range of floats that follow from what a run gives.
    fn reals(cx: &Cx) -> Option<[Dim; 3]> {
        let all = (0..3).map(|i| match cx.reals(i)?.as_slice() {
            [d] => Some(d.clone()),
            _ => None,
        });
        let all: Vec<Dim> = all.collect::<Option<_>>()?;
        let open = (0..3).any(|i| cx.arg(i).is_some_and(|a| a.constant.is_none()));
        <[Dim; 3]>::try_from(all).ok().filter(|_| open)
    }

    fn floats(cx: &Cx) -> Result<[f64; 3], OpError> {
        let unknown = |i: usize| OpError::Unknown {
            input: i,
            name: ["start", "limit", "delta"][i],
        };
        let open = |i: &usize| {
            cx.arg(*i)
                .is_some_and(|a| a.constant.is_none() && a.fact.known.is_none())
        };
        if let Some(i) = (0..3).find(open) {
            return Err(unknown(i));
        }
        let one = |i: usize| match cx.arg(i).and_then(|a| a.constant).map(Tensor::scalar_f64) {
            Some(Some(v)) => Ok(v),
            Some(None) => invalid(format!("input {i} wants one element")),
            None => Err(unknown(i)),
        };
        Ok([one(0)?, one(1)?, one(2)?])
    }
}

impl OpDef for Range {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "Range",
            "start, start + delta, ... before limit",
            &[
                Param::new("start", Types::NUMBER),
                Param::new("limit", Types::NUMBER).shape_like("limit"),
                Param::new("delta", Types::NUMBER).shape_like("delta"),
            ],
            &[Param::new("output", Types::NUMBER)],
            &[],
        )
        .limits(&["of which sign the step is must be known, unless it is an input of the model"])
        .since(11);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let t = cx.fact(0)?.dtype;
        for i in [1, 2] {
            if let Some(a) = cx.arg(i)
                && a.fact.dtype != t
            {
                return invalid(format!("input {i} is {}, start is {t}", a.fact.dtype));
            }
        }
        let length = Self::length(cx)?;
        let mut out = Fact::new(t, vec![length.clone()]);
        if let (false, Some(n)) = (t.is_float(), length.as_const())
            && n <= Fact::KNOWN_MAX as i64
        {
            let [start, _, delta] = Self::bounds(cx)?;
            let element = |k: i64| Some(start.clone() + delta.clone() * Dim::from(k)).filter(|d| fits(t, d));
            out.known = (0..n).map(element).collect();
        }
        Ok(vec![out])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let t = cx.fact(0)?.dtype;
        let n = Self::length(cx)?.as_const().and_then(|n| usize::try_from(n).ok());
        let Some(n) = n else {
            return invalid("the bounds are not bound to numbers");
        };
        volume(&[n])?;
        if t.is_float() {
            let [start, _, delta] = Self::floats(cx)?;
            return Ok(vec![Tensor::from_f64(
                t,
                &[n],
                (0..n).map(|k| start + k as f64 * delta),
            )]);
        }
        let start = integers(cx.tensor(0)?)[0];
        let delta = Self::bounds(cx)?[2].as_const().unwrap_or(1);
        Ok(vec![Tensor::from_i64(
            t,
            &[n],
            (0..n).map(|k| (start + k as i128 * i128::from(delta)) as i64),
        )])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let t = cx.fact(0)?.dtype;
        let length = Self::length(cx)?;
        if t.is_float() {
            let given = Self::reals(cx).is_some();
            let [start, _, delta] = if given { [0.0; 3] } else { Self::floats(cx)? };
            return Ok(Lowering::Compute(vec![Compute::map(t, &[length], |b, i| {
                // In f64, as the elements are defined by products, not by a running sum.
                let k = b.push(Expr::Index(i[0].clone()));
                let k = b.cast(DType::F64, k);
                let mut number = |operand: usize, v: f64| {
                    if !given {
                        return b.float(DType::F64, v);
                    }
                    let at = vec![Dim::ZERO; cx.arg(operand).map_or(0, |a| a.fact.rank())];
                    let v = b.load(operand, t, at);
                    b.cast(DType::F64, v)
                };
                let (delta, start) = (number(2, delta), number(0, start));
                let d = b.binary(Binary::Mul, k, delta);
                let v = b.binary(Binary::Add, d, start);
                b.cast(t, v)
            })]));
        }
        let [start, _, delta] = Self::bounds(cx)?;
        Ok(Lowering::Compute(vec![Compute::map(t, &[length], |b, i| {
            let v = b.push(Expr::Index(start + delta * i[0].clone()));
            b.cast(t, v)
        })]))
    }
}

struct EyeLike;

impl EyeLike {
    /// Element type and the diagonal's offset.
    fn spec(cx: &Cx) -> Result<(DType, i64), OpError> {
        let x = cx.fact(0)?;
        if x.rank() != 2 {
            return invalid(format!("{x} is not a matrix"));
        }
        Ok((cx.opt_dtype("dtype")?.unwrap_or(x.dtype), cx.int("k")?))
    }
}

impl OpDef for EyeLike {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "EyeLike",
            "1 on the k-th diagonal, else 0, in the shape of x",
            &[Param::new("input", Types::ANY)],
            &[Param::new("output", Types::ANY).group(2)],
            &[("dtype", AttrDef::OptDType), ("k", AttrDef::Int(0))],
        )
        .since(9);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (t, _) = Self::spec(cx)?;
        Ok(vec![Fact::new(t, cx.fact(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (t, k) = Self::spec(cx)?;
        let shape = cx.tensor(0)?.shape();
        let n = volume(shape)?;
        let on = |i: usize| (i % shape[1]) as i128 == (i / shape[1]) as i128 + i128::from(k);
        Ok(vec![Tensor::from_i64(t, shape, (0..n).map(|i| i64::from(on(i))))])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (t, k) = Self::spec(cx)?;
        Ok(Lowering::Compute(vec![Compute::map(t, &cx.fact(0)?.shape, |b, i| {
            let diagonal = b.push(Expr::Index(i[0].clone() + Dim::from(k)));
            let column = b.push(Expr::Index(i[1].clone()));
            let on = b.binary(Binary::Eq, diagonal, column);
            let (one, zero) = (b.number(t, 1.0), b.number(t, 0.0));
            b.select(on, one, zero)
        })]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};

    #[test]
    fn shapes() {
        let x = || sample(DType::F32, &[2, 1, 5], 1);
        check("Shape", &[], &[x()], 1);
        check("Size", &[], &[x()], 1);
        for (start, end) in [(0, 2), (-1, 3), (1, -1), (2, 1), (-9, 9)] {
            check(
                "Shape",
                &[("start", Attr::Int(start)), ("end", Attr::Int(end))],
                &[x()],
                1,
            );
        }
        check("Shape", &[], &[sample(DType::F32, &[], 1)], 1);
        let (b, s) = (Dim::sym("B"), Dim::sym("S"));
        let y = infer("Shape", &[], &[Fact::new(DType::F32, vec![b.clone(), s.clone()])]).expect("infers");
        assert_eq!(y[0].known, Some(vec![b, s]));
    }

    #[test]
    fn constants() {
        let shape = || Some(Tensor::i64(&[2], [3, 2]));
        check("ConstantOfShape", &[], &[shape()], 1);
        check("ConstantOfShape", &[("shape", Attr::Ints(vec![]))], &[], 1);
        for t in [DType::I64, DType::Bool, DType::F16, DType::U8] {
            check(
                "ConstantOfShape",
                &[("value", Attr::Tensor(Tensor::from_f64(t, &[1], [1.0])))],
                &[shape()],
                1,
            );
        }
        let refused = |d: i64| infer("ConstantOfShape", &[("shape", Attr::Ints(vec![d]))], &[]).is_err();
        assert!(refused(-1) && !refused(0));
        // Inference of a shape that no memory holds must not try to make it.
        assert!(!refused(i64::MAX / 16));
        assert!(refused(i64::MAX), "elements could not be counted in bytes");
    }

    #[test]
    fn ranges() {
        let range = |t: DType, b: [f64; 3]| b.map(|v| Some(Tensor::from_f64(t, &[], [v])));
        for b in [
            [0.0, 5.0, 1.0],
            [2.0, 9.0, 3.0],
            [5.0, 0.0, -2.0],
            [3.0, 3.0, 1.0],
            [5.0, 1.0, 1.0],
        ] {
            check("Range", &[], &range(DType::I64, b), 1);
            check("Range", &[], &range(DType::I32, b), 1);
        }
        assert_eq!(
            eval("Range", &[], &range(DType::I64, [5.0, 0.0, -2.0]), 1)[0].to_i64(),
            [5, 3, 1]
        );
        assert_eq!(
            eval("Range", &[], &range(DType::F32, [0.0, 1.0, 0.25]), 1)[0].to_f32(),
            [0.0, 0.25, 0.5, 0.75]
        );
        let scalar = |d: Dim| Fact::with_known(DType::I64, vec![], vec![d]);
        let (s, c) = (Dim::sym("S"), |v: i64| scalar(Dim::from(v)));
        let length = |f: &[Fact]| infer("Range", &[], f).map(|y| y[0].shape[0].clone());
        assert_eq!(length(&[c(0), scalar(s.clone()), c(1)]), Ok(s.clone()));
        assert_eq!(
            length(&[scalar(s.clone()), scalar(s.clone() * Dim::from(3i64)), c(2)]),
            Ok(s.clone())
        );
        assert!(length(&[c(0), c(4), c(0)]).is_err());
        assert!(length(&[c(0), c(4), scalar(s)]).is_err());
        assert!(length(&[c(0), c(4), c(i64::MIN)]).is_err());
        let y = infer("Range", &[], &[c(1), c(4), c(1)]).expect("infers");
        assert_eq!(y[0].known, Some([1i64, 2, 3].map(Dim::from).to_vec()));
    }

    #[test]
    fn diagonals() {
        for k in [-2, 0, 1, 9] {
            check("EyeLike", &[("k", Attr::Int(k))], &[sample(DType::F32, &[3, 4], 1)], 1);
        }
        check(
            "EyeLike",
            &[("dtype", Attr::DType(DType::I64))],
            &[sample(DType::Bool, &[3, 2], 1)],
            1,
        );
        assert!(infer("EyeLike", &[], &[Fact::new(DType::F32, vec![Dim::ONE])]).is_err());
    }
}
