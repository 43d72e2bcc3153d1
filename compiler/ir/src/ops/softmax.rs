//! Softmax and its kin along one axis, as graphs of reductions and pointwise work, which is what kernels fuse.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, normalize_axis};
use crate::ops::fragment::Fragment;
use crate::ops::pointwise::{FLOATS, RESULT};
use crate::structured::{Binary, Compute, Expr};
use crate::{Attr, Dim, Fact, Tensor};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &AlongAxis {
        schema: &Schema::new("Softmax", "e^x / sum of e^x along an axis", FLOATS, RESULT, AXIS),
        kind: Kind::Softmax,
    },
    &AlongAxis {
        schema: &Schema::new("LogSoftmax", "ln of softmax along an axis", FLOATS, RESULT, AXIS),
        kind: Kind::LogSoftmax,
    },
    &AlongAxis {
        schema: &Schema::new(
            "Hardmax",
            "1 at the first maximum along an axis, else 0",
            FLOATS,
            RESULT,
            AXIS,
        ),
        kind: Kind::Hardmax,
    },
    &AtIndex,
];

const AXIS: &[(&str, AttrDef)] = &[("axis", AttrDef::Int(-1))];

fn axis(cx: &Cx) -> Result<usize, OpError> {
    normalize_axis(cx.int("axis")?, cx.fact(0)?.rank())
}

/// Applies `f` to each row along `axis`, in place.
pub(crate) fn each_row(shape: &[usize], axis: usize, v: &mut [f64], f: impl Fn(&mut [f64])) {
    let n = shape[axis];
    let inner: usize = shape[axis + 1..].iter().product();
    let outer: usize = shape[..axis].iter().product();
    let mut row = vec![0.0; n];
    for o in 0..outer {
        for i in 0..inner {
            let at = |k: usize| (o * n + k) * inner + i;
            for (k, r) in row.iter_mut().enumerate() {
                *r = v[at(k)];
            }
            f(&mut row);
            for (k, r) in row.iter().enumerate() {
                v[at(k)] = *r;
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Softmax,
    LogSoftmax,
    Hardmax,
}

struct AlongAxis {
    schema: &'static Schema,
    kind: Kind,
}

impl OpDef for AlongAxis {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        axis(cx)?;
        Ok(vec![cx.fact(0)?.clone()])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, axis) = (cx.tensor(0)?, axis(cx)?);
        let mut v = x.to_f64();
        each_row(x.shape(), axis, &mut v, |row| {
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
            let first = row.iter().position(|x| x.is_nan());
            let first = first.or_else(|| row.iter().position(|x| *x == max));
            for (k, x) in row.iter_mut().enumerate() {
                *x = match self.kind {
                    Kind::Softmax => (*x - max).exp() / sum,
                    Kind::LogSoftmax => *x - max - sum.ln(),
                    Kind::Hardmax => f64::from(u8::from(first == Some(k))),
                };
            }
        });
        Ok(vec![Tensor::from_f64(x.dtype(), x.shape(), v)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let axis = axis(cx)?;
        let t = cx.fact(0)?.dtype;
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        if let Kind::Hardmax = self.kind {
            let along = ("axis", Attr::Int(axis as i64));
            let index = g.apply("ArgMax", std::slice::from_ref(&along), &[x])?;
            let y = g.apply("cameo::AtIndex", &[along], &[x, index])?;
            return Ok(g.finish(&[y]));
        }
        let x = g.widen(x)?;
        let max = g.reduce("ReduceMax", x, &[axis], true)?;
        let shifted = g.binary("Sub", x, max)?;
        let e = g.unary("Exp", shifted)?;
        let sum = g.reduce("ReduceSum", e, &[axis], true)?;
        let y = if let Kind::LogSoftmax = self.kind {
            let log = g.unary("Log", sum)?;
            g.binary("Sub", shifted, log)?
        } else {
            let scale = g.unary("Reciprocal", sum)?;
            g.binary("Mul", e, scale)?
        };
        let y = g.cast(y, t)?;
        Ok(g.finish(&[y]))
    }
}

/// 1 where the position along an axis is the index given for the row, else 0, in the shape and type of `x`.
struct AtIndex;

impl OpDef for AtIndex {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::AtIndex",
            "1 where the position along an axis is `index`, else 0; of x only shape and type matter",
            &[Param::new("X", Types::PLAIN), Param::new("index", Types::I64).group(2)],
            RESULT,
            AXIS,
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, index, axis) = (cx.fact(0)?, cx.fact(1)?, axis(cx)?);
        let mut wanted = x.shape.clone();
        wanted[axis] = Dim::ONE;
        if index.shape != wanted {
            return crate::op::invalid(format!("index {index} does not stand for an axis of {x}"));
        }
        Ok(vec![Fact::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, axis, index) = (cx.tensor(0)?, axis(cx)?, cx.tensor(1)?.to_i64());
        let n = x.shape()[axis];
        let inner: usize = x.shape()[axis + 1..].iter().product();
        let v = (0..x.len()).map(|i| {
            let (row, k) = (i / (n * inner) * inner + i % inner, i / inner % n);
            i64::from(index[row] == k as i64)
        });
        Ok(vec![Tensor::from_i64(x.dtype(), x.shape(), v)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, axis) = (cx.fact(0)?, axis(cx)?);
        Ok(Lowering::Compute(vec![Compute::map(x.dtype, &x.shape, |b, i| {
            let mut at = i.to_vec();
            at[axis] = Dim::ZERO;
            let index = b.load(1, crate::DType::I64, at);
            let here = b.push(Expr::Index(i[axis].clone()));
            let hit = b.binary(Binary::Eq, here, index);
            let (one, zero) = (b.number(x.dtype, 1.0), b.number(x.dtype, 0.0));
            b.select(hit, one, zero)
        })]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};

    #[test]
    fn all_axes() {
        for op in ["Softmax", "LogSoftmax", "Hardmax"] {
            for axis in -3..3 {
                check(
                    op,
                    &[("axis", Attr::Int(axis))],
                    &[sample(DType::F32, &[2, 3, 5], 1)],
                    1,
                );
            }
            for t in [DType::F64, DType::F16, DType::BF16] {
                check(op, &[], &[sample(t, &[3, 7], 2)], 1);
            }
            check(op, &[], &[sample(DType::F32, &[4, 1], 3)], 1);
            check(op, &[], &[Some(Tensor::f32(&[3], [1000.0, 999.0, -1000.0]))], 1);
            check(op, &[], &[Some(Tensor::f32(&[3], [f32::NEG_INFINITY, 0.0, 0.0]))], 1);
        }
        assert!(
            infer("Softmax", &[], &[Fact::new(DType::F32, vec![])]).is_err(),
            "no axis"
        );
    }

    #[test]
    fn values_by_hand() {
        let x = Some(Tensor::f32(&[3], [0.0, std::f32::consts::LN_2, 0.0]));
        assert_eq!(
            eval("Softmax", &[], std::slice::from_ref(&x), 1)[0].to_f32(),
            [0.25, 0.5, 0.25]
        );
        assert_eq!(eval("Hardmax", &[], &[x], 1)[0].to_f32(), [0.0, 1.0, 0.0]);
        let x = Some(Tensor::f32(&[3], [2.0, f32::NAN, 3.0]));
        check("Hardmax", &[], std::slice::from_ref(&x), 1);
        assert_eq!(eval("Hardmax", &[], &[x], 1)[0].to_f32(), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn one_at_an_index() {
        for t in [DType::F32, DType::I32] {
            let index = Some(Tensor::i64(&[2, 1, 3], [0, 3, 1, 9, -1, 2]));
            check(
                "cameo::AtIndex",
                &[("axis", Attr::Int(1))],
                &[sample(t, &[2, 4, 3], 1), index],
                1,
            );
        }
    }
}
