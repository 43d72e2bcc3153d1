//! Normalizations by the size of neighbours: local response over channels, and Lp norms.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid, normalize_axis};
use crate::ops::fragment::Fragment;
use crate::ops::pointwise::{FLOATS, RESULT, working};
use crate::ops::softmax::each_row;
use crate::structured::{Combine, Compute, Expr, Scalar};
use crate::{Attr, Dim, Fact, Tensor};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[&Lrn, &WindowSum, &LpNormalization];

struct Lrn;

struct LrnSpec {
    size: i64,
    alpha: f64,
    beta: f64,
    bias: f64,
}

impl LrnSpec {
    fn new(cx: &Cx) -> Result<Self, OpError> {
        let (x, size) = (cx.fact(0)?, cx.int("size")?);
        if x.rank() < 2 {
            return invalid(format!("{x} has no channel axis"));
        }
        window(size)?;
        Ok(Self {
            size,
            alpha: cx.float("alpha")?.into(),
            beta: cx.float("beta")?.into(),
            bias: cx.float("bias")?.into(),
        })
    }
}

/// How many elements of a window of `size` lie before the middle one.
fn window(size: i64) -> Result<i64, OpError> {
    if size < 1 {
        return invalid(format!("a window of size {size}"));
    }
    Ok((size - 1) / 2)
}

impl OpDef for Lrn {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "LRN",
            "x / (bias + alpha/size * sum of x^2 over a window of channels)^beta",
            FLOATS,
            RESULT,
            &[
                ("alpha", AttrDef::Float(1e-4)),
                ("beta", AttrDef::Float(0.75)),
                ("bias", AttrDef::Float(1.0)),
                ("size", AttrDef::ReqInt),
            ],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        LrnSpec::new(cx)?;
        Ok(vec![cx.fact(0)?.clone()])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, spec) = (cx.tensor(0)?, LrnSpec::new(cx)?);
        let mut y = x.to_f64();
        each_row(x.shape(), 1, &mut y, |row| {
            let old = row.to_vec();
            let n = old.len() as i64;
            for (c, v) in row.iter_mut().enumerate() {
                let first = (c as i64 - (spec.size - 1) / 2).clamp(0, n);
                let end = (c as i64).saturating_add(spec.size / 2 + 1).clamp(first, n);
                let sum: f64 = old[first as usize..end as usize].iter().map(|x| x * x).sum();
                *v /= (spec.bias + spec.alpha / spec.size as f64 * sum).powf(spec.beta);
            }
        });
        Ok(vec![Tensor::from_f64(x.dtype(), x.shape(), y)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (fact, spec) = (cx.fact(0)?, LrnSpec::new(cx)?);
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let x = g.widen(x)?;
        let square = g.binary("Mul", x, x)?;
        let attrs = [("axis", Attr::Int(1)), ("size", Attr::Int(spec.size))];
        let sum = g.apply("cameo::WindowSum", &attrs, &[square])?;
        let (alpha, bias) = (g.number(x, spec.alpha / spec.size as f64), g.number(x, spec.bias));
        let scaled = g.binary("Mul", sum, alpha)?;
        let base = g.binary("Add", scaled, bias)?;
        let exponent = g.number(x, -spec.beta);
        let factor = g.binary("Pow", base, exponent)?;
        let y = g.binary("Mul", x, factor)?;
        let y = g.cast(y, fact.dtype)?;
        Ok(g.finish(&[y]))
    }
}

/// The sum over a sliding window along one axis, zeros outside; an even window reaches one further to the end.
struct WindowSum;

impl WindowSum {
    /// Axis, size and elements before the middle.
    fn spec(cx: &Cx) -> Result<(usize, i64, i64), OpError> {
        let size = cx.int("size")?;
        Ok((
            normalize_axis(cx.int("axis")?, cx.fact(0)?.rank())?,
            size,
            window(size)?,
        ))
    }
}

impl OpDef for WindowSum {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::WindowSum",
            "sum over a window of `size` along an axis, centred, zeros outside",
            &[Param::new("X", Types::FLOAT)],
            RESULT,
            &[("axis", AttrDef::ReqInt), ("size", AttrDef::ReqInt)],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::spec(cx)?;
        Ok(vec![cx.fact(0)?.clone()])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, (axis, size, before)) = (cx.tensor(0)?, Self::spec(cx)?);
        let mut y = x.to_f64();
        each_row(x.shape(), axis, &mut y, |row| {
            let old = row.to_vec();
            for (c, v) in row.iter_mut().enumerate() {
                let c = c as i64;
                let inside = |k: &i64| *k >= c - before && *k - c < size - before;
                *v = (0..old.len() as i64).filter(inside).map(|k| old[k as usize]).sum();
            }
        });
        Ok(vec![Tensor::from_f64(x.dtype(), x.shape(), y)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, (axis, size, before)) = (cx.fact(0)?, Self::spec(cx)?);
        let c = Compute::reduce(x.dtype, &x.shape, &[Dim::from(size)], Combine::Add, |b, i, r| {
            let mut index = i.to_vec();
            index[axis] = i[axis].clone() + r[0].clone() - Dim::from(before);
            let v = b.push(Expr::Load {
                operand: 0,
                dtype: x.dtype,
                index,
                fill: Some(Scalar::Float(0f64.to_bits())),
            });
            b.cast(working(x.dtype), v)
        });
        Ok(Lowering::Compute(vec![c]))
    }
}

struct LpNormalization;

impl LpNormalization {
    fn spec(cx: &Cx) -> Result<(usize, i64), OpError> {
        let p = cx.int("p")?;
        if p != 1 && p != 2 {
            return invalid(format!("p={p} is neither 1 nor 2"));
        }
        Ok((normalize_axis(cx.int("axis")?, cx.fact(0)?.rank())?, p))
    }
}

impl OpDef for LpNormalization {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "LpNormalization",
            "x / (sum of |x|^p)^(1/p) along an axis, 0 where the norm is 0",
            FLOATS,
            RESULT,
            &[("axis", AttrDef::Int(-1)), ("p", AttrDef::Int(2))],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::spec(cx)?;
        Ok(vec![cx.fact(0)?.clone()])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, (axis, p)) = (cx.tensor(0)?, Self::spec(cx)?);
        let mut y = x.to_f64();
        each_row(x.shape(), axis, &mut y, |row| {
            let norm = if p == 1 {
                row.iter().map(|v| v.abs()).sum::<f64>()
            } else {
                row.iter().map(|v| v * v).sum::<f64>().sqrt()
            };
            for v in row {
                *v = if norm == 0.0 { 0.0 } else { *v / norm };
            }
        });
        Ok(vec![Tensor::from_f64(x.dtype(), x.shape(), y)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (fact, (axis, p)) = (cx.fact(0)?, Self::spec(cx)?);
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let x = g.widen(x)?;
        let norm = g.reduce(if p == 1 { "ReduceL1" } else { "ReduceL2" }, x, &[axis], true)?;
        let zero = g.number(x, 0.0);
        let none = g.binary("Equal", norm, zero)?;
        let inverse = g.unary("Reciprocal", norm)?;
        let factor = g.apply("Where", &[], &[none, zero, inverse])?;
        let y = g.binary("Mul", x, factor)?;
        let y = g.cast(y, fact.dtype)?;
        Ok(g.finish(&[y]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};

    #[test]
    fn local_response() {
        for size in [1, 2, 3, 4, 9] {
            let attrs = [
                ("size", Attr::Int(size)),
                ("alpha", Attr::Float(0.5)),
                ("bias", Attr::Float(2.0)),
            ];
            check("LRN", &attrs, &[sample(DType::F32, &[2, 5, 2, 3], 1)], 1);
            check("LRN", &attrs, &[sample(DType::F16, &[1, 4], 1)], 1);
            let attrs = [("axis", Attr::Int(-1)), ("size", Attr::Int(size))];
            check("cameo::WindowSum", &attrs, &[sample(DType::F32, &[3, 5], 1)], 1);
        }
        let x = Some(Tensor::f32(&[4], [1.0, 2.0, 4.0, 8.0]));
        let sum = |n: i64| {
            eval(
                "cameo::WindowSum",
                &[("axis", Attr::Int(0)), ("size", Attr::Int(n))],
                std::slice::from_ref(&x),
                1,
            )[0]
            .to_f64()
        };
        assert_eq!(sum(3), [3.0, 7.0, 14.0, 12.0]);
        assert_eq!(sum(2), [3.0, 6.0, 12.0, 8.0]);
        assert!(
            infer(
                "LRN",
                &[("size", Attr::Int(0))],
                &[Fact::new(DType::F32, vec![Dim::ONE, Dim::ONE])]
            )
            .is_err()
        );
    }

    #[test]
    fn lp_norms() {
        for p in [1, 2] {
            for axis in [0, 1, -1] {
                let attrs = [("p", Attr::Int(p)), ("axis", Attr::Int(axis))];
                check("LpNormalization", &attrs, &[sample(DType::F32, &[3, 4], 1)], 1);
                check("LpNormalization", &attrs, &[sample(DType::F16, &[3, 4], 1)], 1);
            }
        }
        let x = Some(Tensor::f32(&[2, 2], [3.0, -4.0, 0.0, 0.0]));
        check("LpNormalization", &[], std::slice::from_ref(&x), 1);
        assert_eq!(eval("LpNormalization", &[], &[x], 1)[0].to_f32(), [0.6, -0.8, 0.0, 0.0]);
        assert!(
            infer(
                "LpNormalization",
                &[("p", Attr::Int(3))],
                &[Fact::new(DType::F32, vec![Dim::ONE])]
            )
            .is_err()
        );
    }
}
