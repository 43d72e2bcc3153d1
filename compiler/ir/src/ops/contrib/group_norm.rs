//! Normalizations of groups of channels, with a residual before and an activation behind.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::composed::{Composed, differ, optional, plus, reference, reshape, transpose};
use crate::ops::contrib::code_windows::{last, second};
use crate::ops::fragment::Fragment;
use crate::ops::norms::{EPSILON, moments};
use crate::{Attr, DType, Dim, Tensor, ValueId};

const FLOAT: Types = Types::FLOAT;
const ATTRS: &[(&str, AttrDef)] = &[
    ("activation", AttrDef::ReqInt),
    ("channels_last", AttrDef::Int(1)),
    EPSILON,
    ("groups", AttrDef::ReqInt),
];

pub(super) const GROUP: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::GroupNorm",
        "GroupNormalization, with channels as the last axis unless channels_last is 0, and Swish of it where activation is 1",
        &[
            Param::new("X", FLOAT),
            Param::new("gamma", FLOAT).group(2),
            Param::new("beta", FLOAT).group(2),
        ],
        &[Param::new("Y", FLOAT)],
        ATTRS,
    ),
    build: |cx, g| {
        let x = g.required(cx, 0)?;
        let x = g.widen(x)?;
        Ok(vec![normalized(cx, g, x)?])
    },
    eval: |cx| {
        let x = cx.tensor(0)?;
        eval_normalized(cx, x.shape(), &x.to_f64())
    },
};

pub(super) const SKIP: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::SkipGroupNorm",
        "GroupNorm of X + skip + bias, and the sum; skip may be one number for each channel of an image",
        &[
            Param::new("X", FLOAT),
            Param::new("gamma", FLOAT).group(2),
            Param::new("beta", FLOAT).group(2),
            Param::new("skip", FLOAT),
            Param::new("bias", FLOAT).optional(),
        ],
        &[Param::new("Y", FLOAT), Param::new("S", FLOAT).optional()],
        ATTRS,
    ),
    build: |cx, g| {
        let x = g.required(cx, 0)?;
        let shape = g.fact(x).shape.clone();
        let axis = channels(cx)?;
        let mut skip = g.required(cx, 3)?;
        let given = g.fact(skip).shape.clone();
        if given.len() == 2 {
            skip = reshape(g, skip, beside(&given, shape.len(), axis))?;
        }
        let x = g.widen(x)?;
        let mut sum = plus(g, x, Some(skip))?;
        if let Some(bias) = g.input(4) {
            let Some(n) = vector(cx, 4, &shape[axis])? else {
                return invalid("bias is not a vector");
            };
            let mut to = vec![Dim::ONE; shape.len()];
            to[axis] = n;
            let bias = reshape(g, bias, to)?;
            sum = plus(g, sum, Some(bias))?;
        }
        if g.fact(sum).shape != shape {
            return invalid(format!("input 3 (skip) is {} for {}", cx.fact(3)?, cx.fact(0)?));
        }
        let y = normalized(cx, g, sum)?;
        Ok(vec![y, g.cast(sum, cx.fact(0)?.dtype)?])
    },
    eval: |cx| {
        let (x, skip, axis) = (cx.tensor(0)?, cx.tensor(3)?, channels(cx)?);
        let (shape, given) = (x.shape(), skip.shape());
        let mut beside = given.to_vec();
        if let [images, channels] = given {
            beside = vec![1; shape.len()];
            (beside[0], beside[axis]) = (*images, *channels);
        }
        let mut terms = vec![Tensor::from_f64(DType::F64, &beside, skip.to_f64())];
        if let Some(bias) = optional(cx, 4)? {
            let mut along = vec![1; shape.len()];
            along[axis] = bias.len();
            terms.push(Tensor::from_f64(DType::F64, &along, bias.to_f64()));
        }
        let mut sum = Tensor::from_f64(DType::F64, shape, x.to_f64());
        for term in &terms {
            sum = reference("Add", &[], &[Some(&sum), Some(term)], 1)?.remove(0);
        }
        let sum = sum.to_f64();
        let mut out = eval_normalized(cx, shape, &sum)?;
        out.push(Tensor::from_f64(x.dtype(), shape, sum));
        Ok(out)
    },
};

/// The shape of numbers for each image and channel, given as two axes, beside an operand of so many.
fn beside(given: &[Dim], rank: usize, axis: usize) -> Vec<Dim> {
    let mut shape = vec![Dim::ONE; rank];
    shape[0] = given[0].clone();
    shape[axis] = given[1].clone();
    shape
}

/// The axis of channels.
fn channels(cx: &Cx) -> Result<usize, OpError> {
    let rank = cx.fact(0)?.rank();
    second(rank)?;
    Ok(if cx.int("channels_last")? != 0 { rank - 1 } else { 1 })
}

/// The extent of input `i`, a vector over `n` channels.
fn vector(cx: &Cx, i: usize, n: &Dim) -> Result<Option<Dim>, OpError> {
    let Some(arg) = cx.arg(i) else { return Ok(None) };
    match arg.fact.shape.as_slice() {
        [d] if !differ(d, n) => Ok(Some(n.clone())),
        _ => {
            let name = cx.schema.input(i).map_or("?", |p| p.name);
            invalid(format!("input {i} ({name}) is {} for {n} channels", arg.fact))
        }
    }
}

/// The groups of `x` normalized, in the type of the node.
fn normalized(cx: &Cx, g: &mut Fragment, x: ValueId) -> Result<ValueId, OpError> {
    let activation = cx.int("activation")?;
    if ![0, 1].contains(&activation) {
        return unsupported(format!("attribute `activation` is {activation}"));
    }
    let (axis, rank) = (channels(cx)?, g.fact(x).rank());
    let n = g.fact(x).shape[axis].clone();
    let mut inputs = vec![if axis == 1 { x } else { transpose(g, x, &second(rank)?)? }];
    for i in [1, 2] {
        vector(cx, i, &n)?;
        let v = g.required(cx, i)?;
        inputs.push(g.cast(v, g.dtype(x))?);
    }
    let attrs = [
        ("epsilon", Attr::Float(cx.float("epsilon")?)),
        ("num_groups", Attr::Int(cx.int("groups")?)),
    ];
    let mut y = g.apply("GroupNormalization", &attrs, &inputs)?;
    if axis != 1 {
        y = transpose(g, y, &last(rank))?;
    }
    if activation == 1 {
        y = g.unary("Swish", y)?;
    }
    g.cast(y, cx.fact(0)?.dtype)
}

/// [`normalized`], of numbers.
fn eval_normalized(cx: &Cx, shape: &[usize], x: &[f64]) -> Result<Vec<Tensor>, OpError> {
    let (axis, groups) = (channels(cx)?, cx.int("groups")? as usize);
    let (n, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    let image = x.len() / shape[0].max(1);
    let (gamma, beta) = (cx.tensor(1)?.to_f64(), cx.tensor(2)?.to_f64());
    let mut y = vec![0.0; x.len()];
    for first in (0..x.len()).step_by(image.max(1)) {
        for group in 0..groups {
            let members = first..first + image;
            let members: Vec<usize> = members.filter(|i| i / inner % n / (n / groups) == group).collect();
            let values: Vec<f64> = members.iter().map(|i| x[*i]).collect();
            let (mean, inverse) = moments(&values, cx.float("epsilon")?.into());
            for i in members {
                let channel = i / inner % n;
                let v = (x[i] - mean) * inverse * gamma[channel] + beta[channel];
                y[i] = if cx.int("activation")? == 1 {
                    v / (1.0 + (-v).exp())
                } else {
                    v
                };
            }
        }
    }
    Ok(vec![Tensor::from_f64(cx.fact(0)?.dtype, shape, y)])
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{infer, sample};
    use crate::{Attr, DType, Dim, Fact};

    fn attrs(activation: i64, last: i64) -> [(&'static str, Attr); 3] {
        [
            ("activation", Attr::Int(activation)),
            ("channels_last", Attr::Int(last)),
            ("groups", Attr::Int(3)),
        ]
    }

    #[test]
    fn groups() {
        for t in [DType::F32, DType::F16] {
            for (last, shape) in [(1, [2, 3, 4, 6]), (0, [2, 6, 3, 4])] {
                let (x, gamma, beta) = (sample(t, &shape, 1), sample(t, &[6], 2), sample(t, &[6], 3));
                for activation in [0, 1] {
                    let inputs = [x.clone(), gamma.clone(), beta.clone()];
                    check("com.microsoft::GroupNorm", &attrs(activation, last), &inputs, 1);
                }
                for skip in [&shape[..], &[2, 6]] {
                    let mut inputs = vec![x.clone(), gamma.clone(), beta.clone(), sample(t, skip, 4)];
                    check("com.microsoft::SkipGroupNorm", &attrs(1, last), &inputs, 2);
                    inputs.push(sample(t, &[6], 5));
                    check("com.microsoft::SkipGroupNorm", &attrs(0, last), &inputs, 2);
                }
            }
        }
        let f = |shape: &[i64]| Fact::new(DType::F32, shape.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        let inputs = [f(&[2, 3, 4, 6]), f(&[6]), f(&[6])];
        let error = infer("com.microsoft::GroupNorm", &attrs(2, 1), &inputs).expect_err("no such activation");
        assert_eq!(error.to_string(), "unsupported: attribute `activation` is 2");
    }
}
