//! Means, maxima and convolutions of 8-bit numbers, with channels as the second or as the last axis.
//!
//! Laws: numbers mean what they do in [`codes`](super::codes); means of whole axes are exact sums in 32 bits, and a mean of a
//! window is one of floats, as in ONNX Runtime; channels that are last are moved to where the operations of the table have them.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, normalize_axis};
use crate::ops::composed::{Composed, optional, reference, transpose};
use crate::ops::contrib::codes::{
    self, Coded, code, codes, eval_meaning, eval_number, meaning, moved_code, number, rounded, scale, zero,
};
use crate::ops::fragment::Fragment;
use crate::ops::pool::{CEIL, KERNEL, MAXIMA, window_attrs};
use crate::ops::window::{AUTO_PAD, DILATIONS, PADS, STRIDES};
use crate::{Attr, DType, Dim, Tensor, ValueId};

const X: Coded = [0, 1, 2];
const LAST: (&str, AttrDef) = ("channels_last", AttrDef::Int(0));

pub(super) const REDUCE_MEAN: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QLinearReduceMean",
        "QuantizeLinear of the mean over axes of what DequantizeLinear makes of data",
        &[
            codes("data"),
            scale("data_scale"),
            zero("data_zero_point"),
            scale("reduced_scale"),
            zero("reduced_zero_point"),
        ],
        &[codes("reduced")],
        &[("axes", AttrDef::ReqInts), ("keepdims", AttrDef::ReqInt)],
    ),
    build: |cx, g| Ok(vec![mean(cx, g, &axes(cx)?, cx.int("keepdims")? != 0)?]),
    eval: |cx| eval_mean(cx, &axes(cx)?, cx.int("keepdims")? != 0),
};

pub(super) const GLOBAL_AVERAGE: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QLinearGlobalAveragePool",
        "QuantizeLinear of the GlobalAveragePool of what DequantizeLinear makes of X",
        &[
            codes("X"),
            scale("x_scale"),
            codes("x_zero_point"),
            scale("y_scale"),
            codes("y_zero_point"),
        ],
        &[codes("Y")],
        &[LAST],
    ),
    build: |cx, g| Ok(vec![mean(cx, g, &spatial(cx)?, true)?]),
    eval: |cx| eval_mean(cx, &spatial(cx)?, true),
};

pub(super) const AVERAGE: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QLinearAveragePool",
        "QuantizeLinear of the AveragePool of what DequantizeLinear makes of X",
        &[
            codes("X"),
            scale("x_scale"),
            zero("x_zero_point"),
            scale("y_scale"),
            zero("y_zero_point"),
        ],
        &[codes("Y")],
        &[
            AUTO_PAD,
            CEIL,
            LAST,
            ("count_include_pad", AttrDef::Int(0)),
            KERNEL,
            PADS,
            STRIDES,
        ],
    ),
    build: |cx, g| {
        let x = meaning(cx, g, X)?;
        let x = to_second(cx, g, x)?;
        let y = g.apply("AveragePool", &average_attrs(cx)?, &[x])?;
        let scale = number(cx, g, 3)?;
        let y = g.binary("Div", y, scale)?;
        let y = codes::moved(cx, g, y, 4, cx.fact(0)?.dtype)?;
        Ok(vec![to_last(cx, g, y)?])
    },
    eval: |cx| {
        let x = Tensor::f32(cx.tensor(0)?.shape(), eval_meaning(cx, X)?);
        let y = &reference("AveragePool", &average_attrs(cx)?, &[Some(&eval_second(cx, &x)?)], 1)?[0];
        let (scale, zero, t) = (eval_number(cx, 3)?, eval_number(cx, 4)?, cx.fact(0)?.dtype);
        let v = y.to_f32().into_iter().map(|v| moved_code(v / scale, zero, t));
        Ok(vec![eval_last(cx, &Tensor::from_i64(t, y.shape(), v))?])
    },
};

fn average_attrs(cx: &Cx) -> Result<Vec<(&'static str, Attr)>, OpError> {
    let mut attrs = window_attrs(cx);
    attrs.push(("count_include_pad", Attr::Int(cx.int("count_include_pad")?)));
    Ok(attrs)
}

pub(super) const NHWC_MAX: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::NhwcMaxPool",
        "MaxPool with channels as the last axis",
        &[Param::new("x", MAXIMA)],
        &[Param::new("y", MAXIMA)],
        &[AUTO_PAD, CEIL, DILATIONS, KERNEL, PADS, STRIDES],
    ),
    build: |cx, g| {
        let x = g.required(cx, 0)?;
        let x = transpose(g, x, &second(cx.fact(0)?.rank())?)?;
        let y = g.apply("MaxPool", &window_attrs(cx), &[x])?;
        let back = last(g.fact(y).rank());
        Ok(vec![transpose(g, y, &back)?])
    },
    eval: |cx| {
        let x = cx.tensor(0)?;
        let rank = x.shape().len();
        let x = moved(x, second(rank)?)?;
        let y = reference("MaxPool", &window_attrs(cx), &[Some(&x)], 1)?.remove(0);
        Ok(vec![moved(&y, last(rank))?])
    },
};

pub(super) const CONV: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QLinearConv",
        "QLinearConv of the default domain, with channels as the last axis of x and y where asked",
        &[
            codes("x"),
            scale("x_scale"),
            codes("x_zero_point"),
            codes("w").group(3),
            scale("w_scale"),
            codes("w_zero_point").group(3),
            scale("y_scale"),
            codes("y_zero_point").group(4),
            Param::new("B", Types::of(&[DType::I32])).group(5).optional(),
        ],
        &[codes("y").group(4)],
        &[
            AUTO_PAD,
            LAST,
            DILATIONS,
            ("group", AttrDef::Int(1)),
            ("kernel_shape", AttrDef::OptInts),
            PADS,
            STRIDES,
        ],
    ),
    build: |cx, g| {
        let x = g.required(cx, 0)?;
        let mut inputs = vec![Some(to_second(cx, g, x)?)];
        inputs.extend((1..9).map(|i| g.input(i)));
        let y = g.node("QLinearConv", &conv_attrs(cx), &inputs)?;
        Ok(vec![to_last(cx, g, y)?])
    },
    eval: |cx| {
        let x = eval_second(cx, cx.tensor(0)?)?;
        let mut inputs = vec![Some(&x)];
        for i in 1..9 {
            inputs.push(optional(cx, i)?);
        }
        let y = reference("QLinearConv", &conv_attrs(cx), &inputs, 1)?.remove(0);
        Ok(vec![eval_last(cx, &y)?])
    },
};

/// The attributes of the convolution proper.
fn conv_attrs<'a>(cx: &Cx<'a>) -> Vec<(&'a str, Attr)> {
    let all = cx.attrs.iter().map(|(k, v)| (&**k, v.clone()));
    all.filter(|(k, _)| *k != LAST.0).collect()
}

/// The order of axes that brings channels from the last place to the second.
pub(super) fn second(rank: usize) -> Result<Vec<i64>, OpError> {
    if rank < 3 {
        return invalid(format!("{rank} axes have no spatial ones among them"));
    }
    let rank = rank as i64;
    Ok([0, rank - 1].into_iter().chain(1..rank - 1).collect())
}

/// The order of axes that brings channels from the second place to the last.
pub(super) fn last(rank: usize) -> Vec<i64> {
    let spatial = 2..rank as i64;
    [0].into_iter().chain(spatial).chain([1]).collect()
}

pub(super) fn moved(x: &Tensor, perm: Vec<i64>) -> Result<Tensor, OpError> {
    Ok(reference("Transpose", &[("perm", Attr::Ints(perm))], &[Some(x)], 1)?.remove(0))
}

/// `x` with channels second, where `channels_last` says that they are not.
fn to_second(cx: &Cx, g: &mut Fragment, x: ValueId) -> Result<ValueId, OpError> {
    match cx.int(LAST.0)? {
        0 => Ok(x),
        _ => {
            let perm = second(g.fact(x).rank())?;
            transpose(g, x, &perm)
        }
    }
}

fn to_last(cx: &Cx, g: &mut Fragment, y: ValueId) -> Result<ValueId, OpError> {
    match cx.int(LAST.0)? {
        0 => Ok(y),
        _ => {
            let perm = last(g.fact(y).rank());
            transpose(g, y, &perm)
        }
    }
}

fn eval_second(cx: &Cx, x: &Tensor) -> Result<Tensor, OpError> {
    match cx.int(LAST.0)? {
        0 => Ok(x.clone()),
        _ => moved(x, second(x.shape().len())?),
    }
}

fn eval_last(cx: &Cx, y: &Tensor) -> Result<Tensor, OpError> {
    match cx.int(LAST.0)? {
        0 => Ok(y.clone()),
        _ => moved(y, last(y.shape().len())),
    }
}

/// The axes that are reduced, in order.
fn axes(cx: &Cx) -> Result<Vec<usize>, OpError> {
    let (list, rank) = (cx.ints("axes")?, cx.fact(0)?.rank());
    let axes: Result<Vec<usize>, OpError> = list.iter().map(|a| normalize_axis(*a, rank)).collect();
    let mut axes = axes?;
    axes.sort_unstable();
    axes.dedup();
    match (axes.len() == list.len(), axes.is_empty()) {
        (false, _) => invalid(format!("an axis is twice in {list:?}")),
        // None are all.
        (true, true) => Ok((0..rank).collect()),
        (true, false) => Ok(axes),
    }
}

fn spatial(cx: &Cx) -> Result<Vec<usize>, OpError> {
    let rank = cx.fact(0)?.rank();
    second(rank)?;
    let first = if cx.int(LAST.0)? == 0 { 2 } else { 1 };
    Ok((first..first + rank - 2).collect())
}

/// The sum in 32 bits times `(scale / new scale) / count`, in the new numbers.
fn mean(cx: &Cx, g: &mut Fragment, axes: &[usize], keep: bool) -> Result<ValueId, OpError> {
    let x = g.required(cx, 0)?;
    let mut x = g.cast(x, DType::I32)?;
    if g.input(2).is_some() {
        let zero = number(cx, g, 2)?;
        let zero = g.cast(zero, DType::I32)?;
        x = g.binary("Sub", x, zero)?;
    }
    let shape = g.fact(x).shape.clone();
    // Of nothing the mean is 0, so that it is a number.
    let count = Dim::product(axes.iter().map(|a| &shape[*a])).maximum(&Dim::ONE);
    let sum = g.reduce("ReduceSum", x, axes, keep)?;
    let sum = g.cast(sum, DType::F32)?;
    let (from, to) = (number(cx, g, 1)?, number(cx, g, 3)?);
    let factor = g.binary("Div", from, to)?;
    let factor = g.apply("cameo::DivDim", &[("by", Attr::Dims(vec![count]))], &[factor])?;
    let y = g.binary("Mul", sum, factor)?;
    rounded(cx, g, y, 4, cx.fact(0)?.dtype)
}

fn eval_mean(cx: &Cx, axes: &[usize], keep: bool) -> Result<Vec<Tensor>, OpError> {
    let x = cx.tensor(0)?;
    let zero = f64::from(eval_number(cx, 2)?);
    let wide = Tensor::from_f64(DType::F64, x.shape(), x.to_f64().into_iter().map(|v| v - zero));
    let attrs = [
        ("axes", Attr::Ints(axes.iter().map(|a| *a as i64).collect())),
        ("keepdims", Attr::Int(keep.into())),
    ];
    let sum = match axes {
        [] => wide,
        _ => reference("ReduceSum", &attrs, &[Some(&wide)], 1)?.remove(0),
    };
    let count: usize = axes.iter().map(|a| x.shape()[*a]).product();
    let factor = eval_number(cx, 1)? / eval_number(cx, 3)? / count.max(1) as f32;
    let (zero, t) = (eval_number(cx, 4)?, x.dtype());
    let y = sum.to_f64().into_iter().map(|v| code(v as f32 * factor, zero, t));
    Ok(vec![Tensor::from_i64(t, sum.shape(), y)])
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn real(v: f32) -> Option<Tensor> {
        Some(Tensor::f32(&[], [v]))
    }

    fn code(t: DType, v: i64) -> Option<Tensor> {
        Some(Tensor::from_i64(t, &[], [v]))
    }

    fn ints(name: &'static str, v: &[i64]) -> (&'static str, Attr) {
        (name, Attr::Ints(v.to_vec()))
    }

    #[test]
    fn means() {
        for t in [DType::U8, DType::I8] {
            let x = || sample(t, &[2, 3, 4, 5], 1);
            let all = || vec![x(), real(0.5), code(t, 3), real(0.3), code(t, 2)];
            for last in [0, 1] {
                let attrs = [("channels_last", Attr::Int(last))];
                check("com.microsoft::QLinearGlobalAveragePool", &attrs, &all(), 1);
            }
            for (axes, keep) in [(&[1, -1][..], 0), (&[2], 1), (&[], 0)] {
                let attrs = [ints("axes", axes), ("keepdims", Attr::Int(keep))];
                check("com.microsoft::QLinearReduceMean", &attrs, &all(), 1);
                check(
                    "com.microsoft::QLinearReduceMean",
                    &attrs,
                    &[x(), real(0.5), None, real(0.3)],
                    1,
                );
            }
        }
        let x = Some(Tensor::from_i64(DType::U8, &[1, 1, 4], [10, 20, 30, 42]));
        let y = eval(
            "com.microsoft::QLinearGlobalAveragePool",
            &[],
            &[x, real(0.5), code(DType::U8, 5), real(0.25), code(DType::U8, 1)],
            1,
        );
        assert_eq!(y[0].to_i64(), [42]);
    }

    #[test]
    fn windows() {
        for t in [DType::U8, DType::I8] {
            for last in [0, 1] {
                for (include, pads) in [(0, [1, 0, 1, 1]), (1, [1, 1, 0, 1])] {
                    let attrs = [
                        ("channels_last", Attr::Int(last)),
                        ("count_include_pad", Attr::Int(include)),
                        ints("kernel_shape", &[3, 2]),
                        ints("pads", &pads),
                        ints("strides", &[2, 1]),
                    ];
                    let inputs = [
                        sample(t, &[2, 5, 6, 5], 1),
                        real(0.5),
                        code(t, 3),
                        real(0.3),
                        code(t, 2),
                    ];
                    check("com.microsoft::QLinearAveragePool", &attrs, &inputs, 1);
                }
            }
            let attrs = [ints("kernel_shape", &[3, 2]), ints("pads", &[1, 0, 1, 1])];
            check("com.microsoft::NhwcMaxPool", &attrs, &[sample(t, &[2, 6, 5, 3], 1)], 1);
        }
        let flat = Fact::new(DType::U8, vec![Dim::from(3i64); 2]);
        assert!(infer("com.microsoft::NhwcMaxPool", &[ints("kernel_shape", &[])], &[flat]).is_err());
    }

    #[test]
    fn convolutions() {
        let t = DType::U8;
        for (last, shape) in [(0, [2, 3, 5, 4]), (1, [2, 5, 4, 3])] {
            let attrs = [("channels_last", Attr::Int(last)), ints("pads", &[1, 1, 0, 1])];
            let inputs = [
                sample(t, &shape, 1),
                real(0.5),
                code(t, 3),
                sample(DType::I8, &[4, 3, 2, 3], 2),
                Some(Tensor::f32(&[4], [0.25, 0.5, 0.3, 0.125])),
                Some(Tensor::from_i64(DType::I8, &[4], [0; 4])),
                real(0.75),
                code(t, 5),
                Some(Tensor::from_i64(DType::I32, &[4], [100, -70, 5, 0])),
            ];
            check("com.microsoft::QLinearConv", &attrs, &inputs, 1);
        }
    }
}
