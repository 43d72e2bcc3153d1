//! `AffineGrid`: the positions that an affine map gives to the elements of an image, as `GridSample` wants them.
//!
//! Law: an axis of one element that is aligned at its corners lies at -1, as ONNX's own function has it.

use crate::index::{for_each, static_shape};
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::differ;
use crate::ops::movement::required_dims;
use crate::ops::pointwise::working;
use crate::structured::{Binary, Body, Combine, Compute, Expr};
use crate::{Dim, Fact, Tensor};

pub struct AffineGrid;

impl AffineGrid {
    /// The extents of the image.
    fn extents(cx: &Cx) -> Result<Vec<Dim>, OpError> {
        let (theta, size) = (cx.fact(0)?, required_dims(cx, 1)?);
        let n = size.len().saturating_sub(2);
        if theta.rank() != 3 || !(2..=3).contains(&n) {
            return invalid(format!("maps {theta} for images of size {size:?}"));
        }
        let wanted = [size[0].clone(), Dim::from(n), Dim::from(n + 1)];
        if theta.shape.iter().zip(&wanted).any(|(a, b)| differ(a, b)) {
            return invalid(format!("maps {theta}, wanted is {wanted:?}"));
        }
        if size.iter().any(|d| d.as_const().is_some_and(|d| d < 0)) {
            return invalid(format!("an image of size {size:?}"));
        }
        Ok(size[2..].to_vec())
    }
}

impl OpDef for AffineGrid {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "AffineGrid",
            "theta[n] (x, y, 1) for the elements of an image, whose corners are at -1 and 1, the last axis first",
            &[
                Param::new("theta", Types::FLOAT),
                Param::new("size", Types::I64).shape_like("size"),
            ],
            &[Param::new("grid", Types::FLOAT)],
            &[("align_corners", AttrDef::Int(0))],
        )
        .since(20);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (theta, extents) = (cx.fact(0)?, Self::extents(cx)?);
        let mut shape = vec![theta.shape[0].clone()];
        let n = Dim::from(extents.len());
        shape.extend(extents);
        shape.push(n);
        Ok(vec![Fact::new(theta.dtype, shape)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let theta = cx.tensor(0)?;
        let shape = static_shape(&self.infer(cx)?[0])?;
        let n = shape.len() - 2;
        let corners = cx.int("align_corners")? != 0;
        let of_batch = required_dims(cx, 1)?[0].as_const() == Some(shape[0] as i64);
        if theta.shape()[1..] != [n, n + 1] || !of_batch {
            return invalid(format!("maps of shape {:?} for {n} axes", theta.shape()));
        }
        let maps = theta.to_f64();
        let mut grid = vec![];
        for_each(&shape, |ix| {
            let row = &maps[(ix[0] * n + ix[n + 1]) * (n + 1)..][..n + 1];
            let place = |axis: usize| {
                let (i, extent) = (ix[1 + axis] as f64, shape[1 + axis] as f64);
                if corners {
                    2.0 * i / (extent - 1.0).max(1.0) - 1.0
                } else {
                    (2.0 * i + 1.0) / extent - 1.0
                }
            };
            let sum: f64 = (0..n).map(|j| row[j] * place(n - 1 - j)).sum();
            grid.push(sum + row[n]);
        });
        Ok(vec![Tensor::from_f64(theta.dtype(), &shape, grid)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (theta, extents) = (cx.fact(0)?, Self::extents(cx)?);
        let (n, corners) = (extents.len(), cx.int("align_corners")? != 0);
        let work = working(theta.dtype);
        let shape = &self.infer(cx)?[0].shape;
        let compute = Compute::nest(theta.dtype, shape, &[], Combine::Add, |b, it, _| {
            let entry = |b: &mut Body, j: usize| {
                let v = b.load(0, theta.dtype, vec![it[0].clone(), it[n + 1].clone(), Dim::from(j)]);
                b.cast(work, v)
            };
            let mut sum = entry(b, n);
            for j in 0..n {
                let axis = n - 1 - j;
                let twice = it[1 + axis].clone() * Dim::from(2i64);
                let (from_start, length) = if corners {
                    (twice, (extents[axis].clone() - Dim::ONE).maximum(&Dim::ONE))
                } else {
                    (twice + Dim::ONE, extents[axis].clone())
                };
                let [from_start, length] = [from_start, length].map(|d| {
                    let d = b.push(Expr::Index(d));
                    b.cast(work, d)
                });
                let one = b.float(work, 1.0);
                let place = b.binary(Binary::Div, from_start, length);
                let place = b.binary(Binary::Sub, place, one);
                let factor = entry(b, j);
                let product = b.binary(Binary::Mul, factor, place);
                sum = b.binary(Binary::Add, sum, product);
            }
            (b.cast(theta.dtype, sum), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn size(v: &[i64]) -> Option<Tensor> {
        Some(Tensor::i64(&[v.len()], v.iter().copied()))
    }

    #[test]
    fn grids() {
        for corners in [0, 1] {
            let attrs = [("align_corners", Attr::Int(corners))];
            for t in [DType::F32, DType::F64, DType::F16, DType::BF16] {
                check(
                    "AffineGrid",
                    &attrs,
                    &[sample(t, &[2, 2, 3], 1), size(&[2, 3, 5, 4])],
                    1,
                );
            }
            let maps = || sample(DType::F32, &[2, 3, 4], 1);
            check("AffineGrid", &attrs, &[maps(), size(&[2, 3, 2, 3, 4])], 1);
            check("AffineGrid", &attrs, &[maps(), size(&[2, 3, 1, 3, 1])], 1);
        }
    }

    #[test]
    fn values() {
        // Halved and shifted along the last axis.
        let theta = || Some(Tensor::f32(&[1, 2, 3], [0.5, 0.0, 1.0, 0.0, 1.0, 0.0]));
        let run = |corners: i64| {
            let attrs = [("align_corners", Attr::Int(corners))];
            eval("AffineGrid", &attrs, &[theta(), size(&[1, 1, 2, 2])], 1)[0].to_f32()
        };
        assert_eq!(run(1), [0.5, -1.0, 1.5, -1.0, 0.5, 1.0, 1.5, 1.0]);
        assert_eq!(run(0), [0.75, -0.5, 1.25, -0.5, 0.75, 0.5, 1.25, 0.5]);
        let f = Fact::new(DType::F32, [1, 3, 3].map(Dim::from as fn(i64) -> Dim));
        let size = Fact::with_known(
            DType::I64,
            vec![Dim::from(4i64)],
            [1, 1, 2, 2].map(Dim::from as fn(i64) -> Dim).to_vec(),
        );
        assert!(infer("AffineGrid", &[], &[f, size]).is_err());
    }
}
