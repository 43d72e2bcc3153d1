//! `CausalConvWithState`: a convolution along time, channel by channel, that goes on where the last call stopped.
//!
//! Law: it is a depthwise convolution of the state and the input joined; without a state there are zeros in its place.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, concat, differ, optional, reshape, slice};
use crate::ops::fragment::Fragment;
use crate::{Attr, DType, Dim, Tensor, ValueId};

const FLOATS: Types = Types::of(&[DType::F32, DType::F16, DType::BF16]);

pub(super) const CAUSAL_CONV: Composed = Composed {
    schema: &Schema::new(
        "CausalConvWithState",
        "y[n,c,t] = bias[c] + sum over k of weight[c,0,k] * x[n,c,t+k-K+1], x going on to the left in past_state",
        &[
            Param::new("input", FLOATS),
            Param::new("weight", FLOATS),
            Param::new("bias", FLOATS).optional(),
            Param::new("past_state", FLOATS).optional(),
        ],
        &[
            Param::new("output", FLOATS),
            Param::new("present_state", FLOATS).optional(),
        ],
        &[("activation", AttrDef::OneOf(&["none", "silu", "swish"]))],
    )
    .limits(&["the number of channels must be known"])
    .since(27),
    build,
    eval,
};

/// Whether the result goes through `Swish`.
fn activated(cx: &Cx) -> Result<bool, OpError> {
    match cx.str("activation")? {
        "none" => Ok(false),
        "silu" | "swish" => Ok(true),
        _ => cx.bad("activation"),
    }
}

fn build(cx: &Cx, g: &mut Fragment) -> Result<Vec<ValueId>, OpError> {
    let (x, w) = (cx.fact(0)?, cx.fact(1)?);
    if x.rank() != 3 || w.rank() != 3 || differ(&x.shape[1], &w.shape[0]) || differ(&w.shape[1], &Dim::ONE) {
        return invalid(format!("input {x}, weight {w}"));
    }
    let kept = w.shape[2].clone() - Dim::ONE;
    let state = [x.shape[0].clone(), x.shape[1].clone(), kept.clone()];
    if let Some(past) = cx.arg(3).map(|a| a.fact)
        && (past.rank() != 3 || past.shape.iter().zip(&state).any(|(a, b)| differ(a, b)))
    {
        return invalid(format!("past_state is {past}, not {state:?}"));
    }
    let (input, weight) = (g.required(cx, 0)?, g.required(cx, 1)?);
    let joined = match g.input(3) {
        Some(past) => concat(g, &[past, input], 2)?,
        None => {
            let mut pads = vec![Dim::ZERO; 6];
            pads[2] = kept.clone();
            g.node("Pad", &[("pads", Attr::Dims(pads))], &[Some(input)])?
        }
    };
    let bias = g.input(2);
    let mut y = match w.shape[0].as_const().or_else(|| x.shape[1].as_const()) {
        Some(channels) => {
            let group = [("group", Attr::Int(channels))];
            g.node("Conv", &group, &[Some(joined), Some(weight), bias])?
        }
        None => by_taps(g, joined, weight, bias, &x.shape)?,
    };
    if activated(cx)? {
        let wide = g.widen(y)?;
        let open = g.unary("Swish", wide)?;
        y = g.cast(open, x.dtype)?;
    }
    let length = x.shape[2].clone();
    let present = slice(g, joined, 2, length.clone(), length + kept)?;
    Ok(vec![y, present])
}

/// The same for a number of channels that only a run knows, which no group of a convolution can have.
fn by_taps(
    g: &mut Fragment,
    joined: ValueId,
    weight: ValueId,
    bias: Option<ValueId>,
    shape: &[Dim],
) -> Result<ValueId, OpError> {
    let dtype = g.dtype(joined);
    let lines = g.fact(joined).shape.clone();
    let taps = g.fact(weight).shape[2].clone();
    let flat = reshape(g, joined, vec![shape[0].clone() * lines[1].clone(), lines[2].clone()])?;
    let one = |d: Dim| Attr::Dims(vec![d]);
    let frames = [("length", one(taps.clone())), ("step", one(Dim::ONE))];
    let frames = g.apply("cameo::Frames", &frames, &[flat])?;
    let open = [shape[0].clone(), lines[1].clone(), shape[2].clone(), taps];
    let frames = reshape(g, frames, open.to_vec())?;
    let (frames, weight) = (g.widen(frames)?, g.widen(weight)?);
    let weight = g.fit(weight, &[lines[1].clone(), Dim::ONE, open[3].clone()])?;
    let products = g.binary("Mul", frames, weight)?;
    let sum = g.reduce("ReduceSum", products, &[3], false)?;
    let sum = match bias {
        Some(bias) => {
            let bias = g.widen(bias)?;
            let bias = reshape(g, bias, vec![lines[1].clone(), Dim::ONE])?;
            g.binary("Add", sum, bias)?
        }
        None => sum,
    };
    g.cast(sum, dtype)
}

fn eval(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    let (x, w) = (cx.tensor(0)?, cx.tensor(1)?);
    let ([batch, channels, length], [_, _, taps]) = (x.shape(), w.shape()) else {
        return invalid("input and weight have three axes");
    };
    let (batch, channels, length) = (*batch, *channels, *length);
    let Some(kept) = taps.checked_sub(1) else {
        return invalid("a kernel without elements");
    };
    let (bias, past) = (optional(cx, 2)?, optional(cx, 3)?);
    let fits = w.shape() == [channels, 1, *taps]
        && bias.is_none_or(|b| b.shape() == [channels])
        && past.is_none_or(|p| p.shape() == [batch, channels, kept]);
    if !fits || channels == 0 {
        return invalid(format!("input {:?}, weight {:?}", x.shape(), w.shape()));
    }
    let swish = activated(cx)?;
    let (new, weights) = (x.to_f64(), w.to_f64());
    let (bias, past) = (bias.map(Tensor::to_f64), past.map(Tensor::to_f64));
    let (mut y, mut present) = (vec![], vec![]);
    for row in 0..batch * channels {
        let mut line: Vec<f64> = match &past {
            Some(p) => p[row * kept..][..kept].to_vec(),
            None => vec![0.0; kept],
        };
        line.extend_from_slice(&new[row * length..][..length]);
        let channel = row % channels;
        for t in 0..length {
            let products = (0..*taps).map(|k| weights[channel * taps + k] * line[t + k]);
            let sum = products.sum::<f64>() + bias.as_ref().map_or(0.0, |b| b[channel]);
            y.push(if swish { sum / (1.0 + (-sum).exp()) } else { sum });
        }
        present.extend_from_slice(&line[length..]);
    }
    Ok(vec![
        Tensor::from_f64(x.dtype(), x.shape(), y),
        Tensor::from_f64(x.dtype(), &[batch, channels, kept], present),
    ])
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    #[test]
    fn streams() {
        let op = "CausalConvWithState";
        for t in [DType::F32, DType::F16, DType::BF16] {
            let s = |shape: &[usize], seed| sample(t, shape, seed);
            let (x, w) = (|| s(&[2, 3, 5], 1), || s(&[3, 1, 4], 2));
            check(op, &[], &[x(), w()], 2);
            check(op, &[], &[x(), w(), s(&[3], 3), s(&[2, 3, 3], 4)], 2);
            for name in ["silu", "swish"] {
                check(
                    op,
                    &[("activation", Attr::Str(name.into()))],
                    &[x(), w(), s(&[3], 3)],
                    1,
                );
            }
            // Shorter than the kernel, and a kernel without a past.
            check(op, &[], &[s(&[2, 3, 1], 1), w(), None, s(&[2, 3, 3], 4)], 2);
            check(op, &[], &[x(), s(&[3, 1, 1], 2)], 2);
        }
        let x = Some(Tensor::f32(&[1, 1, 3], [1.0, 2.0, 3.0]));
        let w = Some(Tensor::f32(&[1, 1, 2], [10.0, 1.0]));
        let past = Some(Tensor::f32(&[1, 1, 1], [4.0]));
        let y = eval(op, &[], &[x, w, None, past], 2);
        assert_eq!((y[0].to_f32(), y[1].to_f32()), (vec![41.0, 12.0, 23.0], vec![3.0]));
        let f = |s: &[i64]| Fact::new(DType::F32, s.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        assert!(infer(op, &[], &[f(&[1, 3, 5]), f(&[3, 3, 2])]).is_err());
        assert!(infer(op, &[], &[f(&[1, 3, 5]), f(&[2, 1, 2])]).is_err());
    }
}
