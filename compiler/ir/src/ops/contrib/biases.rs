//! A bias in the same node as what follows it.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, normalize_axis, unsupported};
use crate::ops::composed::{Composed, differ, optional, plus, reference, reshape, slice};
use crate::ops::fragment::Fragment;
use crate::ops::norms::check_parameter;
use crate::ops::unary::erf;
use crate::{Attr, DType, Dim, Tensor, ValueId};

const FLOAT: Types = Types::FLOAT;

pub(super) const ADD: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::BiasAdd",
        "X + bias + skip",
        &[
            Param::new("X", FLOAT),
            Param::new("bias", FLOAT),
            Param::new("skip", FLOAT),
        ],
        &[Param::new("Y", FLOAT)],
        &[],
    ),
    build: |cx, g| {
        let sum = summed(cx, g, &[1, 2])?;
        Ok(vec![g.cast(sum, cx.fact(0)?.dtype)?])
    },
    eval: |cx| Ok(vec![eval_summed(cx, &[1, 2], cx.fact(0)?.dtype)?]),
};

pub(super) const SPLIT_GELU: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::BiasSplitGelu",
        "a Gelu(b) of the halves a and b of the last axis of X + bias",
        &[Param::new("X", FLOAT), Param::new("bias", FLOAT)],
        &[Param::new("Y", FLOAT)],
        &[],
    ),
    build: |cx, g| {
        let x = cx.fact(0)?;
        let Some(axis) = x.rank().checked_sub(1) else {
            return invalid("a scalar has no halves");
        };
        let all = x.shape[axis].clone();
        let half = match all.div_exact(&Dim::from(2i64)) {
            Some(half) => half,
            None if all.as_const().is_some() => return invalid(format!("{all} elements are not two halves")),
            None => return unsupported(format!("halves of {all} elements")),
        };
        let sum = summed(cx, g, &[1])?;
        let a = slice(g, sum, axis, Dim::ZERO, half.clone())?;
        let b = slice(g, sum, axis, half, all)?;
        let b = g.unary("Gelu", b)?;
        let y = g.binary("Mul", a, b)?;
        Ok(vec![g.cast(y, x.dtype)?])
    },
    eval: |cx| {
        let sum = eval_summed(cx, &[1], DType::F64)?;
        let mut shape = sum.shape().to_vec();
        let Some(last) = shape.last_mut() else {
            return invalid("a scalar has no halves");
        };
        *last /= 2;
        let half = *last;
        let v = sum.to_f64();
        let rows = v.chunks((2 * half).max(1));
        let y = rows.flat_map(|row| {
            let gelu = |x: f64| 0.5 * x * (1.0 + erf(x / 2f64.sqrt()));
            (0..half).map(move |i| row[i] * gelu(row[half + i]))
        });
        Ok(vec![Tensor::from_f64(cx.fact(0)?.dtype, &shape, y.collect::<Vec<_>>())])
    },
};

/// Where the bias is broadcast follows from its shape.
pub(super) const SOFTMAX: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::BiasSoftmax",
        "the Softmax of data + bias over all axes from `axis` on",
        &[Param::new("data", FLOAT), Param::new("bias", FLOAT)],
        &[Param::new("output", FLOAT)],
        &[("axis", AttrDef::Int(1)), ("is_inner_broadcast", AttrDef::ReqInt)],
    ),
    build: |cx, g| {
        cx.int("is_inner_broadcast")?;
        let axis = normalize_axis(cx.int("axis")?, cx.fact(0)?.rank())?;
        let sum = summed(cx, g, &[1])?;
        let y = softmax_behind(g, sum, axis)?;
        Ok(vec![g.cast(y, cx.fact(0)?.dtype)?])
    },
    eval: |cx| {
        let sum = eval_summed(cx, &[1], DType::F64)?;
        let axis = normalize_axis(cx.int("axis")?, sum.shape().len())?;
        let size: usize = sum.shape()[axis..].iter().product();
        let mut v = sum.to_f64();
        for row in v.chunks_mut(size.max(1)) {
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.iter_mut().for_each(|e| *e = (*e - most).exp());
            let total: f64 = row.iter().sum();
            row.iter_mut().for_each(|e| *e /= total);
        }
        Ok(vec![Tensor::from_f64(cx.fact(0)?.dtype, sum.shape(), v)])
    },
};

/// The softmax over all axes from `axis` on together.
pub(super) fn softmax_behind(g: &mut Fragment, x: ValueId, axis: usize) -> Result<ValueId, OpError> {
    let shape = g.fact(x).shape.clone();
    if axis + 1 == shape.len() {
        return g.apply("Softmax", &[("axis", Attr::Int(-1))], &[x]);
    }
    let (outer, inner) = shape.split_at(axis);
    let rows = reshape(g, x, vec![Dim::product(outer), Dim::product(inner)])?;
    let y = g.apply("Softmax", &[("axis", Attr::Int(1))], &[rows])?;
    reshape(g, y, shape)
}

pub(super) const DROPOUT: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::BiasDropout",
        "Dropout of data + bias, plus residual",
        &[
            Param::new("data", FLOAT),
            Param::new("bias", FLOAT),
            Param::new("residual", FLOAT).optional(),
            Param::new("ratio", FLOAT).group(2).optional(),
            Param::new("training_mode", Types::BOOL).group(3).optional(),
        ],
        &[
            Param::new("output", FLOAT),
            Param::new("mask", Types::BOOL).group(3).optional(),
        ],
        &[("seed", AttrDef::OptInt)],
    ),
    build: |cx, g| {
        if let Some(residual) = cx.arg(2) {
            check_parameter(cx.fact(0)?, residual.fact)?;
        }
        let sum = summed(cx, g, &[1])?;
        let inputs = [Some(sum), g.input(3), g.input(4)];
        let out = g.results("Dropout", &seed(cx), &inputs, 2)?;
        let y = plus(g, out[0], g.input(2))?;
        Ok(vec![g.cast(y, cx.fact(0)?.dtype)?, out[1]])
    },
    eval: |cx| {
        let sum = eval_summed(cx, &[1], DType::F64)?;
        let inputs = [Some(&sum), optional(cx, 3)?, optional(cx, 4)?];
        let mut out = reference("Dropout", &seed(cx), &inputs, 2)?;
        if let Some(residual) = optional(cx, 2)? {
            out[0] = reference("Add", &[], &[Some(&out[0]), Some(&wide(residual))], 1)?.remove(0);
        }
        let y = Tensor::from_f64(cx.fact(0)?.dtype, out[0].shape(), out[0].to_f64());
        Ok(vec![y, out.remove(1)])
    },
};

fn seed(cx: &Cx) -> Vec<(&'static str, Attr)> {
    let seed = cx.attrs.get("seed").cloned();
    seed.map(|s| ("seed", s)).into_iter().collect()
}

fn wide(t: &Tensor) -> Tensor {
    Tensor::from_f64(DType::F64, t.shape(), t.to_f64())
}

/// Input 0 plus others that broadcast to it, in the type that is computed in.
fn summed(cx: &Cx, g: &mut Fragment, others: &[usize]) -> Result<ValueId, OpError> {
    let x = g.required(cx, 0)?;
    let mut sum = g.widen(x)?;
    for i in others {
        let fact = cx.fact(*i)?;
        if let (Some(a), Some(b)) = (fact.shape.last(), cx.fact(0)?.shape.last())
            && differ(a, b)
            && !a.is_one()
        {
            let name = cx.schema.input(*i).map_or("?", |p| p.name);
            return invalid(format!("input {i} ({name}) is {fact} for {}", cx.fact(0)?));
        }
        check_parameter(cx.fact(0)?, fact)?;
        sum = plus(g, sum, g.input(*i))?;
    }
    Ok(sum)
}

/// [`summed`], of numbers.
fn eval_summed(cx: &Cx, others: &[usize], t: DType) -> Result<Tensor, OpError> {
    let mut sum = wide(cx.tensor(0)?);
    for i in others {
        sum = reference("Add", &[], &[Some(&sum), Some(&wide(cx.tensor(*i)?))], 1)?.remove(0);
    }
    Ok(Tensor::from_f64(t, sum.shape(), sum.to_f64()))
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    #[test]
    fn sums() {
        for t in [DType::F32, DType::F64, DType::F16] {
            let s = |shape: &[usize], seed| sample(t, shape, seed);
            let (x, bias, skip) = (s(&[2, 3, 8], 1), s(&[8], 2), s(&[2, 3, 8], 3));
            check(
                "com.microsoft::BiasAdd",
                &[],
                &[x.clone(), bias.clone(), skip.clone()],
                1,
            );
            check("com.microsoft::BiasSplitGelu", &[], &[x.clone(), bias.clone()], 1);
            check("com.microsoft::BiasDropout", &[], &[x.clone(), bias.clone()], 2);
            let off = Some(Tensor::bool(&[], [false]));
            check("com.microsoft::BiasDropout", &[], &[x, bias, skip, None, off], 2);
        }
        let f = |shape: &[i64]| Fact::new(DType::F32, shape.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        assert!(infer("com.microsoft::BiasSplitGelu", &[], &[f(&[2, 7]), f(&[7])]).is_err());
        let error = infer("com.microsoft::BiasAdd", &[], &[f(&[2, 7]), f(&[3]), f(&[2, 7])]).expect_err("too short");
        assert_eq!(error.to_string(), "invalid: input 1 (bias) is f32[3] for f32[2,7]");
    }

    #[test]
    fn rows_of_several_axes() {
        for (axis, bias) in [
            (3, [2, 1, 1, 5]),
            (-1, [1, 1, 4, 5]),
            (2, [2, 1, 4, 5]),
            (1, [1, 3, 4, 5]),
        ] {
            let attrs = [("axis", Attr::Int(axis)), ("is_inner_broadcast", Attr::Int(1))];
            let inputs = [sample(DType::F32, &[2, 3, 4, 5], 1), sample(DType::F32, &bias, 2)];
            check("com.microsoft::BiasSoftmax", &attrs, &inputs, 1);
        }
    }
}
