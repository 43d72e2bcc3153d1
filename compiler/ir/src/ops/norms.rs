//! Normalizations over rows.
//!
//! Mean and variance are found in two passes, the variance from the differences to the mean, so that nothing cancels.
//! Law: 16-bit floats are computed in `f32` throughout.

use crate::index::broadcasts_to;
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid, normalize_axis};
use crate::ops::fragment::Fragment;
use crate::ops::pointwise::{FLOATS, RESULT, working};
use crate::ops::reduce::Over;
use crate::{DType, Dim, Fact, Tensor, ValueId};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[&LayerNormalization, &RmsNormalization, &MeanVarianceNormalization];

pub(crate) const EPSILON: (&str, AttrDef) = ("epsilon", AttrDef::Float(1e-5));
pub(crate) const STASH: (&str, AttrDef) = ("stash_type", AttrDef::Int(1));

/// Differences to the mean over `axes`, and the mean.
pub(crate) fn center(g: &mut Fragment, x: ValueId, axes: &[usize]) -> Result<(ValueId, ValueId), OpError> {
    let mean = g.mean(x, axes, true)?;
    Ok((g.binary("Sub", x, mean)?, mean))
}

/// Mean of the squares over `axes`.
pub(crate) fn mean_square(g: &mut Fragment, x: ValueId, axes: &[usize]) -> Result<ValueId, OpError> {
    let square = g.binary("Mul", x, x)?;
    g.mean(square, axes, true)
}

/// `1 / sqrt(x + epsilon)`.
pub(crate) fn inverse_root(g: &mut Fragment, x: ValueId, epsilon: f64) -> Result<ValueId, OpError> {
    let e = g.number(x, epsilon);
    let sum = g.binary("Add", x, e)?;
    let root = g.unary("Sqrt", sum)?;
    g.unary("Reciprocal", root)
}

/// `x * scale + bias` in the type of `x`; scale and bias broadcast, a bias may be absent.
pub(crate) fn affine(g: &mut Fragment, x: ValueId, scale: ValueId, bias: Option<ValueId>) -> Result<ValueId, OpError> {
    let scale = parameter(g, x, scale)?;
    let y = g.binary("Mul", x, scale)?;
    let Some(bias) = bias else { return Ok(y) };
    let bias = parameter(g, x, bias)?;
    g.binary("Add", y, bias)
}

/// A parameter in the type of `x`, which does not widen it.
fn parameter(g: &mut Fragment, x: ValueId, p: ValueId) -> Result<ValueId, OpError> {
    let p = g.cast(p, g.dtype(x))?;
    let shape = g.fact(x).shape.clone();
    g.fit(p, &shape)
}

/// `(mean, 1 / sqrt(variance + epsilon))` of a row.
pub(crate) fn moments(row: &[f64], epsilon: f64) -> (f64, f64) {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// Value of a parameter that broadcasts to the trailing axes of `shape`, at linear position `i`.
fn parameter_at(shape: &[usize], p: &Tensor, i: usize) -> usize {
    let (mut rest, mut at, mut stride) = (i, 0, 1);
    for (k, d) in shape.iter().rev().enumerate() {
        let ix = rest % d;
        rest /= d;
        if let Some(e) = p.shape().len().checked_sub(k + 1).map(|j| p.shape()[j]) {
            at += if e == 1 { 0 } else { ix * stride };
            stride *= e;
        }
    }
    at
}

/// Checks that `p` may broadcast to `x` without widening it.
pub(crate) fn check_parameter(x: &Fact, p: &Fact) -> Result<(), OpError> {
    match broadcasts_to(&p.shape, &x.shape) {
        Ok(_) => Ok(()),
        Err(_) => invalid(format!("parameter {p} does not broadcast to {x}")),
    }
}

/// What layer and RMS normalization share: the first axis of a row, epsilon and the type that is computed in.
struct Rows {
    axis: usize,
    epsilon: f64,
    stash: DType,
    work: DType,
}

impl Rows {
    fn new(cx: &Cx) -> Result<Self, OpError> {
        let x = cx.fact(0)?;
        let n = cx.int("stash_type")?;
        let stash = i32::try_from(n)
            .ok()
            .and_then(DType::from_onnx)
            .filter(|t| t.is_float());
        let Some(stash) = stash else {
            return invalid(format!("stash_type {n} is not a float type"));
        };
        for i in 1..cx.inputs.len() {
            if let Some(p) = cx.arg(i) {
                check_parameter(x, p.fact)?;
            }
        }
        Ok(Self {
            axis: normalize_axis(cx.int("axis")?, x.rank())?,
            epsilon: cx.float("epsilon")?.into(),
            stash,
            work: working(x.dtype),
        })
    }

    fn axes(&self, rank: usize) -> Vec<usize> {
        (self.axis..rank).collect()
    }

    /// The shape with extent 1 in a row's axes.
    fn outer<T: Clone>(&self, shape: &[T], one: &T) -> Vec<T> {
        shape
            .iter()
            .enumerate()
            .map(|(i, d)| if i < self.axis { d.clone() } else { one.clone() })
            .collect()
    }
}

struct LayerNormalization;

impl OpDef for LayerNormalization {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "LayerNormalization",
            "(x - mean) / sqrt(variance + epsilon) * scale + bias, over the axes from `axis` on",
            &[
                Param::new("X", Types::FLOAT),
                Param::new("Scale", Types::FLOAT).group(2),
                Param::new("B", Types::FLOAT).group(2).optional(),
            ],
            &[
                Param::new("Y", Types::FLOAT),
                Param::new("Mean", Types::FLOAT).group(3).optional(),
                Param::new("InvStdDev", Types::FLOAT).group(3).optional(),
            ],
            &[("axis", AttrDef::Int(-1)), EPSILON, STASH],
        )
        .since(17);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, rows) = (cx.fact(0)?, Rows::new(cx)?);
        let moment = Fact::new(rows.stash, rows.outer(&x.shape, &Dim::ONE));
        let all = [Fact::new(x.dtype, x.shape.clone()), moment.clone(), moment];
        Ok(all.into_iter().take(cx.outputs).collect())
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, scale, rows) = (cx.tensor(0)?, cx.tensor(1)?, Rows::new(cx)?);
        let bias = if cx.has(2) { Some(cx.tensor(2)?) } else { None };
        let (s, b) = (scale.to_f64(), bias.map(Tensor::to_f64));
        let n: usize = x.shape()[rows.axis..].iter().product();
        let (mut y, mut means, mut inverses) = (x.to_f64(), vec![], vec![]);
        for (r, row) in y.chunks_mut(n.max(1)).enumerate() {
            let (mean, inverse) = moments(row, rows.epsilon);
            for (k, v) in row.iter_mut().enumerate() {
                let i = r * n + k;
                *v = (*v - mean) * inverse * s[parameter_at(x.shape(), scale, i)];
                if let (Some(t), Some(b)) = (bias, &b) {
                    *v += b[parameter_at(x.shape(), t, i)];
                }
            }
            means.push(mean);
            inverses.push(inverse);
        }
        let outer = rows.outer(x.shape(), &1);
        let rows_left: usize = outer.iter().product();
        // Rows without elements have no mean.
        means.resize(rows_left, f64::NAN);
        inverses.resize(rows_left, f64::NAN);
        let all = [
            Tensor::from_f64(x.dtype(), x.shape(), y),
            Tensor::from_f64(rows.stash, &outer, means),
            Tensor::from_f64(rows.stash, &outer, inverses),
        ];
        Ok(all.into_iter().take(cx.outputs).collect())
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (fact, rows) = (cx.fact(0)?, Rows::new(cx)?);
        let axes = rows.axes(fact.rank());
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let x = g.cast(x, rows.work)?;
        let (d, mean) = center(&mut g, x, &axes)?;
        let variance = mean_square(&mut g, d, &axes)?;
        let inverse = inverse_root(&mut g, variance, rows.epsilon)?;
        let y = g.binary("Mul", d, inverse)?;
        let (scale, bias) = (g.required(cx, 1)?, g.input(2));
        let y = affine(&mut g, y, scale, bias)?;
        let mut outputs = vec![g.cast(y, fact.dtype)?];
        for moment in [mean, inverse].into_iter().take(cx.outputs.saturating_sub(1)) {
            outputs.push(g.cast(moment, rows.stash)?);
        }
        Ok(g.finish(&outputs))
    }
}

struct RmsNormalization;

impl OpDef for RmsNormalization {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "RMSNormalization",
            "x / sqrt(mean of x^2 + epsilon) * scale, over the axes from `axis` on",
            &[
                Param::new("X", Types::FLOAT),
                Param::new("scale", Types::FLOAT).group(2),
            ],
            // The type is that of the scale.
            &[Param::new("Y", Types::FLOAT).group(2)],
            &[("axis", AttrDef::Int(-1)), EPSILON, STASH],
        )
        .since(23);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Rows::new(cx)?;
        Ok(vec![Fact::new(cx.fact(1)?.dtype, cx.fact(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, scale, rows) = (cx.tensor(0)?, cx.tensor(1)?, Rows::new(cx)?);
        let s = scale.to_f64();
        let n: usize = x.shape()[rows.axis..].iter().product();
        let mut y = x.to_f64();
        for (r, row) in y.chunks_mut(n.max(1)).enumerate() {
            let mean = row.iter().map(|v| v * v).sum::<f64>() / n as f64;
            let root = (mean + rows.epsilon).sqrt();
            for (k, v) in row.iter_mut().enumerate() {
                *v = *v / root * s[parameter_at(x.shape(), scale, r * n + k)];
            }
        }
        Ok(vec![Tensor::from_f64(scale.dtype(), x.shape(), y)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (fact, rows) = (cx.fact(0)?, Rows::new(cx)?);
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let x = g.cast(x, rows.work)?;
        let square = mean_square(&mut g, x, &rows.axes(fact.rank()))?;
        let inverse = inverse_root(&mut g, square, rows.epsilon)?;
        let y = g.binary("Mul", x, inverse)?;
        let scale = g.required(cx, 1)?;
        let y = affine(&mut g, y, scale, None)?;
        let y = g.cast(y, cx.fact(1)?.dtype)?;
        Ok(g.finish(&[y]))
    }
}

struct MeanVarianceNormalization;

/// Keeps a constant row finite; from the ONNX specification.
const MVN_EPSILON: f64 = 1e-9;

impl MeanVarianceNormalization {
    fn over(cx: &Cx) -> Result<Over, OpError> {
        let rank = cx.fact(0)?.rank();
        let mut axes: Vec<usize> = cx
            .ints("axes")?
            .into_iter()
            .map(|a| normalize_axis(a, rank))
            .collect::<Result<_, _>>()?;
        axes.sort_unstable();
        axes.dedup();
        Ok(Over { axes, keepdims: true })
    }
}

impl OpDef for MeanVarianceNormalization {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "MeanVarianceNormalization",
            "(x - mean) / (sqrt(variance) + 1e-9), over axes",
            FLOATS,
            RESULT,
            &[("axes", AttrDef::Ints(&[0, 2, 3]))],
        )
        .since(9);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::over(cx)?;
        Ok(vec![cx.fact(0)?.clone()])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, over) = (cx.tensor(0)?, Self::over(cx)?);
        let mut y = x.to_f64();
        for group in over.groups(x.shape()) {
            let n = group.len() as f64;
            let mean = group.iter().map(|i| y[*i]).sum::<f64>() / n;
            let variance = group.iter().map(|i| (y[*i] - mean).powi(2)).sum::<f64>() / n;
            for i in group {
                y[i] = (y[i] - mean) / (variance.sqrt() + MVN_EPSILON);
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), x.shape(), y)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (fact, over) = (cx.fact(0)?, Self::over(cx)?);
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let x = g.widen(x)?;
        let (d, _) = center(&mut g, x, &over.axes)?;
        let variance = mean_square(&mut g, d, &over.axes)?;
        let root = g.unary("Sqrt", variance)?;
        let epsilon = g.number(root, MVN_EPSILON);
        let spread = g.binary("Add", root, epsilon)?;
        let inverse = g.unary("Reciprocal", spread)?;
        let y = g.binary("Mul", d, inverse)?;
        let y = g.cast(y, fact.dtype)?;
        Ok(g.finish(&[y]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};

    #[test]
    fn rows() {
        for (axis, scale) in [(-1, &[5][..]), (1, &[3, 5]), (-2, &[1, 5]), (0, &[2, 3, 5])] {
            for t in [DType::F32, DType::F64, DType::F16] {
                let attrs = [("axis", Attr::Int(axis)), ("epsilon", Attr::Float(1e-3))];
                let (x, s, b) = (sample(t, &[2, 3, 5], 1), sample(t, scale, 2), sample(t, &[5], 3));
                check("LayerNormalization", &attrs, &[x.clone(), s.clone()], 1);
                check("LayerNormalization", &attrs, &[x.clone(), s.clone(), b.clone()], 1);
                check("LayerNormalization", &attrs, &[x.clone(), s.clone(), b], 3);
                check("RMSNormalization", &attrs, &[x, s], 1);
            }
        }
        let mixed = [sample(DType::F16, &[4, 6], 1), sample(DType::F32, &[6], 2)];
        check("LayerNormalization", &[], &mixed, 2);
        check("RMSNormalization", &[], &mixed, 1);
        let f = |s: &[usize]| Fact::new(DType::F32, s.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        assert!(infer("LayerNormalization", &[], &[f(&[2, 3]), f(&[4])]).is_err());
        assert!(infer("LayerNormalization", &[], &[f(&[2, 3]), f(&[2, 2, 3])]).is_err());
        assert!(
            infer(
                "RMSNormalization",
                &[("stash_type", Attr::Int(7))],
                &[f(&[2, 3]), f(&[3])]
            )
            .is_err()
        );
    }

    #[test]
    fn over_axes() {
        check(
            "MeanVarianceNormalization",
            &[],
            &[sample(DType::F32, &[2, 3, 4, 2], 1)],
            1,
        );
        check(
            "MeanVarianceNormalization",
            &[("axes", Attr::Ints(vec![-1]))],
            &[sample(DType::F32, &[4, 6], 1)],
            1,
        );
    }

    #[test]
    fn values_by_hand() {
        let x = Some(Tensor::f32(&[2], [1.0, 3.0]));
        let (scale, bias) = (
            Some(Tensor::f32(&[2], [2.0, 2.0])),
            Some(Tensor::f32(&[2], [10.0, 0.0])),
        );
        let y = eval(
            "LayerNormalization",
            &[("epsilon", Attr::Float(0.0))],
            &[x, scale, bias],
            3,
        );
        assert_eq!(y[0].to_f64(), [8.0, 2.0]);
        assert_eq!((y[1].to_f64(), y[2].to_f64()), (vec![2.0], vec![1.0]));
        let x = Some(Tensor::f32(&[1, 2], [3.0, 4.0]));
        let y = eval(
            "RMSNormalization",
            &[("epsilon", Attr::Float(0.0))],
            &[x, Some(Tensor::f32(&[], [12.5f32.sqrt()]))],
            1,
        );
        assert!((y[0].to_f64()[0] - 3.0).abs() < 1e-6);
    }

    #[test]
    fn symbolic_means() {
        let (b, s) = (Dim::sym("B"), Dim::sym("S"));
        let x = Fact::new(DType::F32, vec![b, s, Dim::from(8i64)]);
        let scale = Fact::new(DType::F32, vec![Dim::from(8i64)]);
        let y = infer("LayerNormalization", &[], &[x.clone(), scale]).expect("infers");
        assert_eq!(y[0], x);
    }
}
