//! The LSTM that ONNX Runtime's dynamic quantization makes: products of 8-bit integers in a layer of floats.
//!
//! Law: X is quantized as a whole, up to where the longest sequence ends, and the states of all sequences together before
//! each step.

use super::{BIAS, Codes, INITIAL_H, LENGTHS, LSTM, LSTM_ATTRIBUTES, Y, Y_H, at, build, reference};
use crate::op::{Cx, OpError, Param, Schema, Types};
use crate::ops::composed::{Composed, count, reference as evaluated, reshape, slice};
use crate::ops::fragment::Fragment;
use crate::ops::quantize::BYTES;
use crate::{DType, Dim, Tensor, ValueId};

const F32: Types = Types::of(&[DType::F32]);

pub(super) const DYNAMIC_LSTM: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::DynamicQuantizeLSTM",
        "LSTM with W and R of 8-bit integers, of which the products are MatMulInteger of what DynamicQuantizeLinear makes of x and h",
        &[
            Param::new("X", F32),
            Param::new("W", BYTES).group(2),
            Param::new("R", BYTES).group(2),
            BIAS,
            LENGTHS,
            INITIAL_H,
            Param::new("initial_c", F32).optional(),
            Param::new("P", F32).optional(),
            Param::new("W_scale", F32),
            Param::new("W_zero_point", BYTES).group(2),
            Param::new("R_scale", F32),
            Param::new("R_zero_point", BYTES).group(2),
        ],
        &[Y, Y_H, Param::new("Y_c", F32).optional()],
        LSTM_ATTRIBUTES,
    ),
    build: |cx, g| build(cx, g, &LSTM),
    eval: |cx| {
        let seen = |x: &Tensor| -> Result<Vec<f64>, OpError> {
            let parts = evaluated("DynamicQuantizeLinear", &[], &[Some(x)], 3)?;
            let (scale, zero) = (parts[1].to_f64()[0], parts[2].to_f64()[0]);
            Ok(parts[0].to_f64().iter().map(|code| (code - zero) * scale).collect())
        };
        let x = seen(&read(cx)?)?;
        let [w, r] = [weights(cx, 0)?, weights(cx, 1)?];
        let states = |h: &[f64]| seen(&Tensor::from_f64(DType::F32, &[h.len()], h.iter().copied()));
        reference::eval_with(cx, &LSTM, [x, w, r], &states)
    },
};

/// X as the products see it: zeros where every sequence has ended, which no range of numbers changes with.
fn read(cx: &Cx) -> Result<Tensor, OpError> {
    let x = cx.tensor(0)?;
    let Some(longest) = cx.has(at::LENGTHS).then(|| cx.tensor(at::LENGTHS)).transpose()? else {
        return Ok(x.clone());
    };
    let longest = longest.to_i64().into_iter().max().unwrap_or(0);
    let [a, b, columns] = x.shape()[..] else {
        return Ok(x.clone());
    };
    let time = |i: usize| {
        if cx.int("layout") == Ok(1) {
            i / columns % b
        } else {
            i / columns / b
        }
    };
    let kept = x.to_f64().into_iter().enumerate();
    let kept = kept.map(|(i, v)| if (time(i) as i64) < longest { v } else { 0.0 });
    Ok(Tensor::from_f64(x.dtype(), &[a, b, columns], kept))
}

/// The same in the graph: `x` is `[time, batch, columns]`, the lengths `[batch, 1]`.
pub(super) fn within(g: &mut Fragment, x: ValueId, lengths: ValueId, time: &Dim) -> Result<ValueId, OpError> {
    let steps = count(g, time)?;
    let steps = reshape(g, steps, vec![time.clone(), Dim::ONE, Dim::ONE])?;
    let longest = g.reduce("ReduceMax", lengths, &[0, 1], false)?;
    let runs = g.binary("Less", steps, longest)?;
    let zero = g.number(x, 0.0);
    g.apply("Where", &[], &[runs, x, zero])
}

/// W (`i` is 0) or R (1) as reals, `[directions, gates * hidden, columns]`.
fn weights(cx: &Cx, i: usize) -> Result<Vec<f64>, OpError> {
    let codes = cx.tensor(i + 1)?;
    let [scale, zero] = [at::SCALES[i], at::SCALES[i] + 1].map(|i| cx.tensor(i).map(Tensor::to_f64));
    let (scale, zero, all) = (scale?, zero?, codes.to_f64());
    let [directions, columns, rows] = codes.shape()[..] else {
        return Ok(all);
    };
    let of = |list: &[f64], d: usize, row: usize| match list.len() == directions {
        true => list[d],
        false => list[d * rows + row],
    };
    let mut out = Vec::with_capacity(all.len());
    for d in 0..directions {
        for row in 0..rows {
            let (scale, zero) = (of(&scale, d, row), of(&zero, d, row));
            out.extend((0..columns).map(|c| (all[(d * columns + c) * rows + row] - zero) * scale));
        }
    }
    Ok(out)
}

/// Direction `d` of W (`i` is 0) or R (1), of this shape, with scale and zero point.
pub(super) fn part(
    cx: &Cx,
    g: &mut Fragment,
    i: usize,
    d: usize,
    shape: &[&Dim; 2],
) -> Result<(ValueId, Option<Codes>), OpError> {
    let mut own = |input: usize, shape: Option<Vec<Dim>>| {
        let v = g.required(cx, input)?;
        let v = slice(g, v, 0, Dim::from(d), Dim::from(d + 1))?;
        let shape = shape.unwrap_or_else(|| vec![g.fact(v).element_count()]);
        reshape(g, v, shape)
    };
    let v = own(i + 1, Some(shape.map(Clone::clone).to_vec()))?;
    Ok((
        v,
        Some((own(at::SCALES[i], None)?, Some(own(at::SCALES[i] + 1, None)?))),
    ))
}
