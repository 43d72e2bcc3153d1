//! Conversions between element types, selection and clipping.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::binary::{larger, smaller};
use crate::ops::pointwise::{self, RESULT, working};
use crate::structured::{Binary, Body, Compute, ExprId};
use crate::{Bounds, DType, Dim, Fact, Tensor};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[&Cast, &CastLike, &BitCast, &Where, &Clip];

const CONVERTED: &[Param] = &[Param::new("output", Types::ANY).group(2)];

/// The fact of `x` as `to`.
fn converted(x: &Fact, to: DType) -> Fact {
    let mut out = Fact::new(to, x.shape.clone());
    if !to.is_float()
        && let Some(known) = &x.known
    {
        out.known = known.iter().map(|d| convert_dim(d, to)).collect();
    }
    out
}

fn convert_dim(d: &Dim, to: DType) -> Option<Dim> {
    if to != DType::Bool {
        return pointwise::fits(to, d).then(|| d.clone());
    }
    let (lo, hi) = Bounds::positive(&[]).range(d);
    match (lo, hi) {
        (0, 0) => Some(Dim::ZERO),
        _ if lo > 0 || hi < 0 => Some(Dim::ONE),
        (0, 1) => Some(d.clone()),
        _ => None,
    }
}

fn convert(x: &Tensor, to: DType) -> Tensor {
    match (x.dtype(), to) {
        (from, to) if from == to => x.clone(),
        // `u64` goes to floats by its value, to integers by its bits.
        (from, to) if from.is_float() || to.is_float() => Tensor::from_f64(to, x.shape(), x.to_f64()),
        _ => Tensor::from_i64(to, x.shape(), x.to_i64()),
    }
}

fn lower_cast(x: &Fact, to: DType) -> Lowering {
    Lowering::Compute(vec![Compute::map(to, &x.shape, |b, i| {
        let v = b.load(0, x.dtype, i.to_vec());
        b.cast(to, v)
    })])
}

struct Cast;

impl OpDef for Cast {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "Cast",
            "x as element type `to`; floats to integers truncate, to bool is x != 0",
            &[Param::new("input", Types::ANY)],
            CONVERTED,
            &[
                ("to", AttrDef::ReqDType),
                // Both concern 8-bit floats only.
                ("saturate", AttrDef::Int(1)),
                ("round_mode", AttrDef::Str("up")),
            ],
        )
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![converted(cx.fact(0)?, cx.dtype("to")?)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![convert(cx.tensor(0)?, cx.dtype("to")?)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        Ok(lower_cast(cx.fact(0)?, cx.dtype("to")?))
    }
}

struct CastLike;

impl OpDef for CastLike {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "CastLike",
            "x as the element type of the second operand",
            &[
                Param::new("input", Types::ANY),
                Param::new("target_type", Types::ANY).group(2),
            ],
            CONVERTED,
            &[("saturate", AttrDef::Int(1)), ("round_mode", AttrDef::Str("up"))],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![converted(cx.fact(0)?, cx.fact(1)?.dtype)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![convert(cx.tensor(0)?, cx.fact(1)?.dtype)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        Ok(lower_cast(cx.fact(0)?, cx.fact(1)?.dtype))
    }
}

struct BitCast;

impl BitCast {
    fn target(cx: &Cx) -> Result<DType, OpError> {
        let (from, to) = (cx.fact(0)?.dtype, cx.dtype("to")?);
        match from.size() == to.size() {
            true => Ok(to),
            false => invalid(format!("{from} and {to} have elements of different size")),
        }
    }
}

impl OpDef for BitCast {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "BitCast",
            "the bits of x as element type `to` of the same size; to bool: whether any is set",
            &[Param::new("input", Types::ANY)],
            CONVERTED,
            &[("to", AttrDef::ReqDType)],
        )
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::new(Self::target(cx)?, cx.fact(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, to) = (cx.tensor(0)?, Self::target(cx)?);
        if to == DType::Bool {
            return Ok(vec![Tensor::bool(x.shape(), x.bytes().iter().map(|b| *b != 0))]);
        }
        match Tensor::new(to, x.shape().to_vec(), x.bytes().clone()) {
            Ok(y) => Ok(vec![y]),
            Err(e) => invalid(format!("{} bytes, {:?} wanted", e.got, e.expected)),
        }
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, to) = (cx.fact(0)?, Self::target(cx)?);
        // Integers of one size are each other's bits; bodies have no other way to them.
        if x.dtype != to && (x.dtype.is_float() || to.is_float()) {
            return unsupported(format!(
                "the bits of {} as {to} are not compiled yet, unless x is constant",
                x.dtype
            ));
        }
        Ok(lower_cast(x, to))
    }
}

struct Where;

impl OpDef for Where {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "Where",
            "x where the condition holds, else y",
            &[
                Param::new("condition", Types::BOOL).group(2),
                Param::new("X", Types::ANY),
                Param::new("Y", Types::ANY),
            ],
            RESULT,
            &[],
        )
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        pointwise::infer(cx, cx.fact(1)?.dtype, |a| match a[0].as_const() {
            Some(0) => Some(a[2].clone()),
            Some(_) => Some(a[1].clone()),
            None => (a[1] == a[2]).then(|| a[1].clone()),
        })
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let t = cx.fact(1)?.dtype;
        if t.is_float() {
            pointwise::eval_floats(cx, t, |a| if a[0] == 0.0 { a[2] } else { a[1] })
        } else {
            pointwise::eval_integers(cx, t, |a| if a[0] == 0 { a[2] } else { a[1] })
        }
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        // Both sides go through the working type and back, which is exact.
        pointwise::lower(cx, cx.fact(1)?.dtype, |b, a| b.select(a[0], a[1], a[2]))
    }
}

struct Clip;

impl Clip {
    fn check(cx: &Cx) -> Result<(), OpError> {
        for (i, name) in [(1, "min"), (2, "max")] {
            if let Some(bound) = cx.arg(i)
                && !bound.fact.element_count().is_one()
            {
                return invalid(format!("{name} has shape {}, one element is wanted", bound.fact));
            }
        }
        Ok(())
    }

    /// `x` joined by `f` with bound `i`, where there is one.
    fn join(cx: &Cx, b: &mut Body, x: ExprId, i: usize, f: Binary) -> ExprId {
        let Some(bound) = cx.arg(i) else { return x };
        let v = b.load(i, bound.fact.dtype, vec![Dim::ZERO; bound.fact.rank()]);
        let v = b.cast(working(bound.fact.dtype), v);
        b.binary(f, x, v)
    }
}

impl OpDef for Clip {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "Clip",
            "min(max(x, min), max)",
            &[
                Param::new("input", Types::NUMBER),
                Param::new("min", Types::NUMBER).optional(),
                Param::new("max", Types::NUMBER).optional(),
            ],
            RESULT,
            &[],
        )
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::check(cx)?;
        let x = cx.fact(0)?;
        let mut out = Fact::new(x.dtype, x.shape.clone());
        // Known where the bounds are: outer `None` is a bound that is not known.
        let bound = |i: usize| match cx.arg(i) {
            None => Some(None),
            Some(a) => a.fact.known.as_ref().map(|k| k.first()),
        };
        if let (Some(known), Some(lo), Some(hi)) = (&x.known, bound(1), bound(2)) {
            let clip = |d: &Dim| {
                let d = lo.map_or_else(|| d.clone(), |lo| larger(d, lo));
                hi.map_or_else(|| d.clone(), |hi| smaller(&d, hi))
            };
            out.known = Some(known.iter().map(clip).collect());
        }
        Ok(vec![out])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let bound = |i: usize| if cx.has(i) { cx.tensor(i).map(Some) } else { Ok(None) };
        let (lo, hi) = (bound(1)?, bound(2)?);
        let out = if x.dtype().is_float() {
            let first = |t: Option<&Tensor>| t.and_then(|t| t.to_f64().first().copied());
            let (lo, hi) = (first(lo), first(hi));
            let clip = |x: f64| {
                let x = lo.filter(|lo| x < *lo || lo.is_nan()).unwrap_or(x);
                hi.filter(|hi| x > *hi || hi.is_nan()).unwrap_or(x)
            };
            Tensor::from_f64(x.dtype(), x.shape(), x.to_f64().into_iter().map(clip))
        } else {
            let first = |t: Option<&Tensor>| t.and_then(|t| pointwise::integers(t).first().copied());
            let (lo, hi) = (first(lo).unwrap_or(i128::MIN), first(hi).unwrap_or(i128::MAX));
            let v = pointwise::integers(x).into_iter().map(|x| x.max(lo).min(hi)).collect();
            pointwise::from_integers(x.dtype(), x.shape(), v)
        };
        Ok(vec![out])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let x = cx.fact(0)?;
        Ok(Lowering::Compute(vec![Compute::map(x.dtype, &x.shape, |b, i| {
            let v = b.load(0, x.dtype, i.to_vec());
            let v = b.cast(working(x.dtype), v);
            let v = Self::join(cx, b, v, 1, Binary::Max);
            let v = Self::join(cx, b, v, 2, Binary::Min);
            b.cast(x.dtype, v)
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
    fn every_cast() {
        for from in DType::ALL {
            for to in DType::ALL {
                let x = sample(from, &[3, 5], 1);
                // Negative floats as unsigned integers are not defined.
                if from.is_float() && !to.is_signed() && to != DType::Bool {
                    continue;
                }
                check("Cast", &[("to", Attr::DType(to))], std::slice::from_ref(&x), 1);
                check("CastLike", &[], &[x, sample(to, &[2], 1)], 1);
            }
        }
        let x = Some(Tensor::f32(&[5], [-2.7, -0.5, 0.5, 2.7, f32::NAN]));
        let cast = |t: DType| eval("Cast", &[("to", Attr::DType(t))], std::slice::from_ref(&x), 1)[0].to_i64();
        assert_eq!(cast(DType::I32)[..4], [-2, 0, 0, 2]);
        assert_eq!(cast(DType::Bool), [1, 1, 1, 1, 1]);
        let x = Some(Tensor::i64(&[2], [300, -1]));
        assert_eq!(
            eval("Cast", &[("to", Attr::DType(DType::U8))], &[x], 1)[0].to_i64(),
            [44, 255]
        );
    }

    #[test]
    fn bits() {
        for from in DType::ALL {
            for to in DType::ALL.into_iter().filter(|to| to.size() == from.size()) {
                check("BitCast", &[("to", Attr::DType(to))], &[sample(from, &[3, 5], 1)], 1);
            }
        }
        let x = Some(Tensor::f32(&[3], [1.0, -2.5, 0.0]));
        let bits = [("to", Attr::DType(DType::I32))];
        let y = eval("BitCast", &bits, std::slice::from_ref(&x), 1).remove(0);
        assert_eq!(y.to_i64(), [1_065_353_216, -1_071_644_672, 0]);
        let back = [("to", Attr::DType(DType::F32))];
        assert_eq!(eval("BitCast", &back, &[Some(y)], 1)[0].to_f64(), [1.0, -2.5, 0.0]);
        let f = Fact::new(DType::F32, vec![]);
        assert!(infer("BitCast", &[("to", Attr::DType(DType::I64))], &[f]).is_err());
    }

    #[test]
    fn selection() {
        for t in [DType::F32, DType::F16, DType::I64, DType::Bool, DType::U64] {
            for (c, x, y) in [
                (&[3, 4][..], &[3, 4][..], &[3, 4][..]),
                (&[3, 1], &[4], &[]),
                (&[], &[2, 1], &[1, 5]),
            ] {
                check(
                    "Where",
                    &[],
                    &[sample(DType::Bool, c, 1), sample(t, x, 2), sample(t, y, 3)],
                    1,
                );
            }
        }
        let f = |t: DType, n: usize| Fact::new(t, vec![Dim::from(n)]);
        assert!(infer("Where", &[], &[f(DType::I64, 2), f(DType::F32, 2), f(DType::F32, 2)]).is_err());
    }

    #[test]
    fn clipping() {
        for t in [DType::F32, DType::F16, DType::F64, DType::I32, DType::U8] {
            let bound = |v: f64| Some(Tensor::from_f64(t, &[], [v]));
            let x = || sample(t, &[3, 5], 1);
            check("Clip", &[], &[x()], 1);
            check("Clip", &[], &[x(), bound(1.0)], 1);
            check("Clip", &[], &[x(), None, bound(2.0)], 1);
            check("Clip", &[], &[x(), bound(1.0), bound(2.0)], 1);
            // Crossed bounds: the maximum wins.
            check("Clip", &[], &[x(), bound(3.0), bound(2.0)], 1);
        }
        let x = Some(Tensor::f32(&[3], [-1.0, f32::NAN, 9.0]));
        let six = [Some(Tensor::f32(&[], [0.0])), Some(Tensor::f32(&[1], [6.0]))];
        let got = eval("Clip", &[], &[x, six[0].clone(), six[1].clone()], 1)[0].to_f64();
        assert!(got[0] == 0.0 && got[1].is_nan() && got[2] == 6.0);
        let f = |n: usize| Fact::new(DType::F32, vec![Dim::from(n)]);
        assert!(infer("Clip", &[], &[f(2), f(2)]).is_err());
    }

    #[test]
    fn known_elements() {
        let s = Dim::sym("S");
        let c = |v: i64| Dim::from(v);
        let vec = |t: DType, k: &[Dim]| Fact::with_known(t, vec![Dim::from(k.len())], k.to_vec());
        let known = |op: &str, attrs: &[(&str, Attr)], f: &[Fact]| infer(op, attrs, f).expect("infers").remove(0).known;
        let x = vec(DType::I64, &[s.clone(), c(7)]);
        let to = |t: DType| [("to", Attr::DType(t))];
        assert_eq!(
            known("Cast", &to(DType::I32), std::slice::from_ref(&x)),
            Some(vec![s.clone(), c(7)])
        );
        assert_eq!(
            known("Cast", &to(DType::Bool), std::slice::from_ref(&x)),
            Some(vec![c(1), c(1)])
        );
        assert_eq!(known("Cast", &to(DType::F32), std::slice::from_ref(&x)), None);
        assert_eq!(
            known("Cast", &to(DType::U8), &[vec(DType::I64, &[c(-1)])]),
            None,
            "wraps"
        );
        let condition = vec(DType::Bool, &[c(1), c(0)]);
        let ones = vec(DType::I64, &[c(1), c(1)]);
        assert_eq!(
            known("Where", &[], &[condition, ones, x.clone()]),
            Some(vec![c(1), c(7)])
        );
        let least = Fact::with_known(DType::I64, vec![], vec![c(1)]);
        assert_eq!(known("Clip", &[], &[x, least]), Some(vec![s, c(7)]));
    }
}
