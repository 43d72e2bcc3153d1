//! Convolutions of numbers of few bits.
//!
//! Laws: sums are exact in 32 bits; padding is the zero point, so it adds nothing. A weight may have a zero point and a scale
//! of its own for each output channel.

use crate::op::{Attr, AttrDef, Cx, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, differ, optional, reference, reshape};
use crate::ops::fragment::Fragment;
use crate::ops::quantize::{BYTES, quantized, saturated};
use crate::ops::window::{AUTO_PAD, DILATIONS, PADS, STRIDES};
use crate::{DType, Dim, Tensor, ValueId};

const ATTRS: &[(&str, AttrDef)] = &[
    AUTO_PAD,
    DILATIONS,
    ("group", AttrDef::Int(1)),
    ("kernel_shape", AttrDef::OptInts),
    PADS,
    STRIDES,
];
const I32: Types = Types::of(&[DType::I32]);
const SCALES: Types = Types::of(&[DType::F32]);

pub(super) const CONV_INTEGER: Composed = Composed {
    schema: &Schema::new(
        "ConvInteger",
        "Conv of x - x_zero_point and w - w_zero_point in 32 bits",
        &[
            Param::new("x", BYTES),
            Param::new("w", BYTES).group(2),
            Param::new("x_zero_point", BYTES).optional(),
            Param::new("w_zero_point", BYTES).group(2).optional(),
        ],
        &[Param::new("y", I32).group(3)],
        ATTRS,
    )
    .since(10),
    build: |cx, g| Ok(vec![sum(cx, g, [0, 2], [1, 3], None)?]),
    eval: |cx| {
        let (shape, sums) = sums(cx, [0, 2], [1, 3], None)?;
        Ok(vec![Tensor::from_i64(DType::I32, &shape, sums)])
    },
};

pub(super) const QLINEAR_CONV: Composed = Composed {
    schema: &Schema::new(
        "QLinearConv",
        "QuantizeLinear of the Conv of what DequantizeLinear makes of x and w; summed in 32 bits, where B is added",
        &[
            Param::new("x", BYTES),
            Param::new("x_scale", SCALES).group(4),
            Param::new("x_zero_point", BYTES),
            Param::new("w", BYTES).group(2),
            Param::new("w_scale", SCALES).group(4),
            Param::new("w_zero_point", BYTES).group(2),
            Param::new("y_scale", SCALES).group(4),
            Param::new("y_zero_point", BYTES).group(3),
            Param::new("B", I32).group(5).optional(),
        ],
        &[Param::new("y", BYTES).group(3)],
        ATTRS,
    )
    .since(10),
    build: |cx, g| {
        let sum = sum(cx, g, [0, 2], [3, 5], Some(8))?;
        let rank = g.fact(sum).rank();
        let scale = |g: &mut Fragment, i: usize, own: bool| {
            let s = g.required(cx, i)?;
            if own {
                spread(cx, g, s, 3, rank - 1)
            } else {
                single(g, s)
            }
        };
        let (x, w, y) = (scale(g, 1, false)?, scale(g, 4, true)?, scale(g, 6, false)?);
        let factor = g.binary("Mul", x, w)?;
        let factor = g.binary("Div", factor, y)?;
        let real = g.cast(sum, DType::F32)?;
        let real = g.binary("Mul", real, factor)?;
        let zero = g.required(cx, 7)?;
        let zero = single(g, zero)?;
        let one = g.number(real, 1.0);
        Ok(vec![quantized(g, real, one, Some(zero), cx.fact(7)?.dtype)?])
    },
    eval: |cx| {
        let (shape, sums) = sums(cx, [0, 2], [3, 5], Some(8))?;
        let [x, w, y] = [1, 4, 6].map(|i| cx.tensor(i).map(Tensor::to_f32));
        let (x, w, y, zero) = (x?, w?, y?, cx.tensor(7)?.to_i64());
        let channels = shape[1];
        if x.len() != 1 || y.len() != 1 || zero.len() != 1 || !(w.len() == 1 || w.len() == channels) {
            return invalid(format!("scales or zero points for {channels} channels"));
        }
        let inner = shape[2..].iter().product::<usize>().max(1);
        let t = cx.fact(7)?.dtype;
        let codes = sums.into_iter().enumerate().map(|(i, sum)| {
            // Ties are seen in the precision that they are computed in.
            let factor = x[0] * w[if w.len() == 1 { 0 } else { i / inner % channels }] / y[0];
            let real = (sum as f32 * factor).round_ties_even() + zero[0] as f32;
            saturated(real.into(), t) as i64
        });
        Ok(vec![Tensor::from_i64(t, &shape, codes)])
    },
};

/// One number, however it is written.
fn single(g: &mut Fragment, v: ValueId) -> Result<ValueId, OpError> {
    let fact = g.fact(v);
    if fact.rank() > 1 || fact.shape.iter().any(|d| differ(d, &Dim::ONE)) {
        return invalid(format!("{fact} where one number is wanted"));
    }
    reshape(g, v, vec![])
}

/// One number, or one for each row of the weight (input `w`), so that it broadcasts along the first of `rank` axes.
fn spread(cx: &Cx, g: &mut Fragment, v: ValueId, w: usize, rank: usize) -> Result<ValueId, OpError> {
    let (fact, rows) = (g.fact(v), cx.fact(w)?.shape.first());
    match (fact.shape.as_slice(), rows) {
        ([], _) => Ok(v),
        ([one], _) if one.is_one() => reshape(g, v, vec![]),
        ([n], Some(rows)) if !differ(n, rows) => {
            let mut shape = vec![Dim::ONE; rank];
            if let Some(first) = shape.first_mut() {
                *first = n.clone();
            }
            reshape(g, v, shape)
        }
        _ => invalid(format!("{fact} for the rows of {}", cx.fact(w)?)),
    }
}

/// The sum in 32 bits: `x` and `w` are an operand and its zero point each.
fn sum(cx: &Cx, g: &mut Fragment, x: [usize; 2], w: [usize; 2], bias: Option<usize>) -> Result<ValueId, OpError> {
    let (values, weight) = (g.required(cx, x[0])?, g.required(cx, w[0])?);
    let (mut values, mut weight) = (g.cast(values, DType::I32)?, g.cast(weight, DType::I32)?);
    if let Some(zero) = g.input(x[1]) {
        let zero = single(g, zero)?;
        let zero = g.cast(zero, DType::I32)?;
        values = g.binary("Sub", values, zero)?;
    }
    if let Some(zero) = g.input(w[1]) {
        let rank = g.fact(weight).rank();
        let zero = spread(cx, g, zero, w[0], rank)?;
        let zero = g.cast(zero, DType::I32)?;
        weight = g.binary("Sub", weight, zero)?;
    }
    let attrs: Vec<(&str, Attr)> = cx.attrs.iter().map(|(k, v)| (&**k, v.clone())).collect();
    let bias = bias.and_then(|i| g.input(i));
    g.node("cameo::IntegerConv", &attrs, &[Some(values), Some(weight), bias])
}

/// [`sum`], of numbers, and its shape.
fn sums(cx: &Cx, x: [usize; 2], w: [usize; 2], bias: Option<usize>) -> Result<(Vec<usize>, Vec<i64>), OpError> {
    let (values, weight) = (cx.tensor(x[0])?, cx.tensor(w[0])?);
    let rows = weight.shape().first().copied().unwrap_or(0);
    let centred = |t: &Tensor, zero: Option<&Tensor>, rows: usize| {
        let zero = zero.map_or_else(|| vec![0], Tensor::to_i64);
        if zero.len() != 1 && zero.len() != rows {
            return invalid(format!("{} zero points for {rows} channels", zero.len()));
        }
        let per = (t.len() / rows.max(1)).max(1);
        let of = |i: usize| zero[if zero.len() == 1 { 0 } else { i / per }];
        let v = t.to_i64().into_iter().enumerate().map(|(i, v)| (v - of(i)) as f64);
        // Floats of 64 bits hold all sums of products of bytes.
        Ok(Tensor::from_f64(DType::F64, t.shape(), v))
    };
    let values = centred(values, optional(cx, x[1])?, 1)?;
    let weight = centred(weight, optional(cx, w[1])?, rows)?;
    let bias = match bias {
        Some(i) => optional(cx, i)?.map(|b| Tensor::from_f64(DType::F64, b.shape(), b.to_f64())),
        None => None,
    };
    let attrs: Vec<(&str, Attr)> = cx.attrs.iter().map(|(k, v)| (&**k, v.clone())).collect();
    let y = reference("Conv", &attrs, &[Some(&values), Some(&weight), bias.as_ref()], 1)?.remove(0);
    let sums = y.to_f64().into_iter().map(|v| i64::from(v as i64 as i32));
    Ok((y.shape().to_vec(), sums.collect()))
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, sample};
    use crate::{Attr, DType, Tensor};

    fn ints(name: &'static str, v: &[i64]) -> (&'static str, Attr) {
        (name, Attr::Ints(v.to_vec()))
    }

    fn codes(t: DType, shape: &[usize], v: &[i64]) -> Option<Tensor> {
        Some(Tensor::from_i64(t, shape, v.iter().copied()))
    }

    #[test]
    fn integers() {
        for (t, u) in [(DType::U8, DType::I8), (DType::I8, DType::U8), (DType::U8, DType::U8)] {
            let (x, w) = (|| sample(t, &[2, 4, 5, 6], 1), || sample(u, &[4, 4, 3, 2], 2));
            let pads = || ints("pads", &[1, 0, 1, 2]);
            check("ConvInteger", &[], &[x(), w()], 1);
            check("ConvInteger", &[pads()], &[x(), w(), codes(t, &[], &[3])], 1);
            let each = codes(u, &[4], &[1, 2, 0, 3]);
            check(
                "ConvInteger",
                &[pads()],
                &[x(), w(), codes(t, &[1], &[3]), each.clone()],
                1,
            );
            let grouped = [("group", Attr::Int(2)), ints("strides", &[2, 1])];
            check(
                "ConvInteger",
                &grouped,
                &[x(), sample(u, &[4, 2, 3, 2], 2), None, each],
                1,
            );
        }
        let x = codes(DType::U8, &[1, 1, 3, 3], &[2, 3, 4, 5, 6, 7, 8, 9, 10]);
        let w = codes(DType::U8, &[2, 1, 2, 2], &[1; 8]);
        let inputs = [x, w, codes(DType::U8, &[], &[1]), codes(DType::U8, &[2], &[0, 1])];
        let y = eval("ConvInteger", &[], &inputs, 1)[0].to_i64();
        assert_eq!(y, [12, 16, 24, 28, 0, 0, 0, 0]);
    }

    #[test]
    fn quantized() {
        let real = |shape: &[usize], v: &[f32]| Some(Tensor::f32(shape, v.iter().copied()));
        for (t, u) in [(DType::U8, DType::I8), (DType::I8, DType::U8), (DType::U8, DType::U8)] {
            let inputs = |scale: Option<Tensor>, zero: Option<Tensor>| {
                vec![
                    sample(t, &[1, 2, 5, 4], 1),
                    real(&[], &[0.5]),
                    codes(t, &[], &[3]),
                    sample(u, &[3, 2, 2, 3], 2),
                    scale,
                    zero,
                    real(&[], &[0.75]),
                    codes(t, &[], &[5]),
                ]
            };
            let one = inputs(real(&[1], &[0.25]), codes(u, &[1], &[2]));
            check("QLinearConv", &[ints("pads", &[1, 1, 0, 1])], &one, 1);
            let mut each = inputs(real(&[3], &[0.25, 1.0, 0.125]), codes(u, &[3], &[2, 0, 1]));
            check("QLinearConv", &[], &each, 1);
            each.push(codes(DType::I32, &[3], &[100, -70, 5]));
            check("QLinearConv", &[ints("strides", &[2, 1])], &each, 1);
        }
        // The first of ONNX's numbers.
        let byte = |v: i64| codes(DType::U8, &[], &[v]);
        let inputs = [
            codes(DType::U8, &[1, 1, 1, 4], &[255, 174, 162, 25]),
            real(&[], &[0.003_692_047]),
            byte(132),
            codes(DType::U8, &[1, 1, 1, 1], &[0]),
            real(&[1], &[0.001_727_945_7]),
            codes(DType::U8, &[1], &[255]),
            real(&[], &[0.001_626_812_6]),
            byte(123),
        ];
        assert_eq!(eval("QLinearConv", &[], &inputs, 1)[0].to_i64(), [0, 81, 93, 230]);
    }
}
