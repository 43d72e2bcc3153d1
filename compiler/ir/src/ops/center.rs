//! `CenterCropPad`: axes cut or padded with zeros to given extents, equally at both ends.
//!
//! Law: the lowering is one load, which has a fill value only where padding may be.

use crate::index::static_shape;
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::structured::{Combine, Compute, Expr, Scalar};
use crate::{Bounds, Dim, Fact, Tensor};

use super::movement::{axes_of, required_dims};

pub struct CenterCropPad;

impl CenterCropPad {
    /// The new extents.
    fn shape(cx: &Cx) -> Result<Vec<Dim>, OpError> {
        let (x, wanted) = (cx.fact(0)?, required_dims(cx, 1)?);
        let axes = match cx.opt_ints("axes")? {
            Some(list) => axes_of(&list, x.rank())?,
            None => (0..x.rank()).collect(),
        };
        if axes.len() != wanted.len() {
            return invalid(format!("{} extents for {} axes", wanted.len(), axes.len()));
        }
        let mut shape = x.shape.clone();
        for (axis, d) in axes.into_iter().zip(wanted) {
            if d.as_const().is_some_and(|d| d < 0) {
                return invalid(format!("extent {d}"));
            }
            shape[axis] = d;
        }
        Ok(shape)
    }

    /// How many elements are cut from, and put before, the start of an axis.
    fn before(from: &Dim, to: &Dim) -> (Dim, Dim) {
        let two = Dim::from(2i64);
        let bounds = Bounds::positive(&[]);
        let half = |more: &Dim, less: &Dim| {
            let difference = (more.clone() - less.clone()).maximum(&Dim::ZERO);
            bounds.simplify(&difference).floor_div(&two)
        };
        (half(from, to), half(to, from))
    }
}

impl OpDef for CenterCropPad {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "CenterCropPad",
            "the middle of input_data, or zeros around it, so that axes axes[i] have the extents shape[i]",
            &[
                Param::new("input_data", Types::ANY),
                Param::new("shape", Types::INDEX).shape_like("shape"),
            ],
            &[Param::new("output_data", Types::ANY)],
            &[("axes", AttrDef::OptInts)],
        )
        .since(18);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::new(cx.fact(0)?.dtype, Self::shape(cx)?)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let shape = static_shape(&self.infer(cx)?[0])?;
        Ok(vec![x.rearranged(&shape, None, |ix| {
            let mut axes = ix.iter().zip(x.shape()).zip(&shape);
            axes.try_fold(0, |at, ((i, from), to)| {
                let i = if from >= to {
                    i + (from - to) / 2
                } else {
                    i.checked_sub((to - from) / 2).filter(|i| i < from)?
                };
                Some(at * from + i)
            })
        })])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, shape) = (cx.fact(0)?, Self::shape(cx)?);
        let bounds = Bounds::positive(&[]);
        let zero = if x.dtype.is_float() {
            Scalar::Float(0)
        } else {
            Scalar::Int(0)
        };
        let padded = x.shape.iter().zip(&shape).any(|(from, to)| !bounds.le(to, from));
        let compute = Compute::nest(x.dtype, &shape, &[], Combine::Add, |b, it, _| {
            let axes = x.shape.iter().zip(&shape).zip(it);
            let index = axes.map(|((from, to), i)| {
                let (cut, put) = Self::before(from, to);
                i.clone() + cut - put
            });
            let index = index.collect();
            let load = b.push(Expr::Load {
                operand: 0,
                dtype: x.dtype,
                index,
                fill: padded.then_some(zero),
            });
            (load, it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, sample};
    use crate::{Attr, DType, Tensor};

    fn ints(v: &[i64]) -> Option<Tensor> {
        Some(Tensor::i64(&[v.len()], v.iter().copied()))
    }

    #[test]
    fn middles() {
        for t in [DType::F32, DType::F16, DType::I32, DType::Bool] {
            let x = || sample(t, &[6, 5, 3], 1);
            for to in [[3, 2, 3], [9, 8, 3], [4, 8, 2], [6, 5, 3]] {
                check("CenterCropPad", &[], &[x(), ints(&to)], 1);
            }
            check(
                "CenterCropPad",
                &[("axes", Attr::Ints(vec![-1, 0]))],
                &[x(), ints(&[6, 3])],
                1,
            );
        }
        let x = Some(Tensor::i64(&[2, 5], 0..10));
        let y = eval("CenterCropPad", &[], &[x, ints(&[3, 2])], 1)[0].to_i64();
        assert_eq!(y, [1, 2, 6, 7, 0, 0]);
    }
}
