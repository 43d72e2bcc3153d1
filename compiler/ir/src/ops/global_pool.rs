//! One value per channel from its whole image, and p-norms of any windows.
//!
//! Law: everything here decomposes into plain reductions and pointwise work.

use crate::index::static_shape;
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Schema, invalid};
use crate::{Dim, Fact, Tensor, ValueId};

use super::fragment::Fragment;
use super::pool::{X, Y};

pub(super) const P: (&str, AttrDef) = ("p", AttrDef::Int(2));

pub(super) fn power(cx: &Cx) -> Result<f64, OpError> {
    match cx.int("p")? {
        p if p > 0 => Ok(p as f64),
        p => invalid(format!("attribute `p` is {p}")),
    }
}

/// `(sum |x|^p)^(1/p)` with `sum` adding up.
pub(super) fn norm(
    cx: &Cx,
    sum: impl FnOnce(&mut Fragment, ValueId) -> Result<ValueId, OpError>,
) -> Result<Lowering, OpError> {
    let p = power(cx)?;
    let mut g = Fragment::new(cx);
    let x = g.required(cx, 0)?;
    let wide = g.widen(x)?;
    let powers = if p == 2.0 {
        g.binary("Mul", wide, wide)?
    } else {
        let absolute = g.unary("Abs", wide)?;
        let exponent = g.number(wide, p);
        if p == 1.0 {
            absolute
        } else {
            g.binary("Pow", absolute, exponent)?
        }
    };
    let sum = sum(&mut g, powers)?;
    let root = if p == 1.0 {
        sum
    } else if p == 2.0 {
        g.unary("Sqrt", sum)?
    } else {
        let exponent = g.number(sum, 1.0 / p);
        g.binary("Pow", sum, exponent)?
    };
    let y = g.cast(root, cx.fact(0)?.dtype)?;
    Ok(g.finish(&[y]))
}

/// One value per channel from its whole image.
pub(super) struct Global {
    pub schema: &'static Schema,
    pub eval: fn(&[f64], f64) -> f64,
    pub lower: fn(&Cx, &[usize]) -> Result<Lowering, OpError>,
}

pub(super) const GLOBAL_AVERAGE: Global = Global {
    schema: &Schema::new("GlobalAveragePool", "the mean of each channel", X, Y, &[]),
    eval: |v, _| v.iter().sum::<f64>() / v.len() as f64,
    lower: |cx, axes| {
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let wide = g.widen(x)?;
        let mean = g.mean(wide, axes, true)?;
        let y = g.cast(mean, cx.fact(0)?.dtype)?;
        Ok(g.finish(&[y]))
    },
};

pub(super) const GLOBAL_MAX: Global = Global {
    schema: &Schema::new("GlobalMaxPool", "the maximum of each channel", X, Y, &[]),
    eval: |v, _| {
        let max = |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) };
        v.iter().copied().fold(f64::NEG_INFINITY, max)
    },
    lower: |cx, axes| {
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let y = g.reduce("ReduceMax", x, axes, true)?;
        Ok(g.finish(&[y]))
    },
};

pub(super) const GLOBAL_LP: Global = Global {
    schema: &Schema::new("GlobalLpPool", "the p-norm of each channel", X, Y, &[P]),
    eval: |v, p| v.iter().map(|x| x.abs().powf(p)).sum::<f64>().powf(1.0 / p),
    lower: |cx, axes| norm(cx, |g, powers| g.reduce("ReduceSum", powers, axes, true)),
};

impl OpDef for Global {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let x = cx.fact(0)?;
        if x.rank() < 3 {
            return invalid(format!("{x} has no spatial axes"));
        }
        let mut shape = x.shape[..2].to_vec();
        shape.resize(x.rank(), Dim::ONE);
        Ok(vec![Fact::new(x.dtype, shape)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let p = match self.schema.attr("p") {
            Some(_) => power(cx)?,
            None => 1.0,
        };
        let shape = static_shape(&self.infer(cx)?[0])?;
        let image: usize = x.shape()[2..].iter().product();
        let v = x.to_f64();
        let channels = (0..shape.iter().product()).map(|c: usize| (self.eval)(&v[c * image..][..image], p));
        Ok(vec![Tensor::from_f64(x.dtype(), &shape, channels)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let axes: Vec<usize> = (2..cx.fact(0)?.rank()).collect();
        (self.lower)(cx, &axes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::ops::samples::sample;
    use crate::{Attr, DType};

    fn numbers(dtype: DType, shape: &[usize]) -> Option<Tensor> {
        sample(dtype, shape, 1)
    }

    fn one(name: &'static str, v: i64) -> (&'static str, Attr) {
        (name, Attr::Int(v))
    }

    #[test]
    fn whole_images() {
        for t in [DType::F32, DType::F64, DType::F16] {
            for op in ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"] {
                check(op, &[], &[numbers(t, &[2, 3, 4, 5])], 1);
                check(op, &[], &[numbers(t, &[1, 1, 1])], 1);
            }
        }
        check("GlobalLpPool", &[one("p", 3)], &[numbers(DType::F32, &[2, 3, 4])], 1);
    }
}
