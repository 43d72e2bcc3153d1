//! Convolutions of floats with channels as the last axis.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, optional, plus, reference, transpose};
use crate::ops::contrib::code_windows::{last, moved, second};
use crate::ops::contrib::linear::{ACTIVATION, activate, activated, conv_params, plain_attrs};
use crate::ops::fragment::Fragment;
use crate::ops::window::{AUTO_PAD, DILATIONS, PADS, STRIDES};
use crate::{DType, Tensor, ValueId};

const FLOAT: Types = Types::FLOAT;

/// As ONNX Runtime's optimizer writes it: the filters have their channels last, too, which its documentation does not say.
pub(super) const CONV: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::NhwcConv",
        "Conv of X and W with channels as the last axis of X, W and Y",
        &[
            Param::new("X", FLOAT),
            Param::new("W", FLOAT),
            Param::new("B", FLOAT).optional(),
        ],
        &[Param::new("Y", FLOAT)],
        &[
            AUTO_PAD,
            DILATIONS,
            ("group", AttrDef::Int(1)),
            ("kernel_shape", AttrDef::OptInts),
            PADS,
            STRIDES,
        ],
    ),
    build: |cx, g| {
        let w = g.required(cx, 1)?;
        let w = transpose(g, w, &second(cx.fact(1)?.rank())?)?;
        let y = convolved(cx, g, w)?;
        Ok(vec![transpose(g, y, &last(g.fact(y).rank()))?])
    },
    eval: |cx| {
        let w = moved(cx.tensor(1)?, second(cx.fact(1)?.rank())?)?;
        let y = eval_convolved(cx, &w)?;
        Ok(vec![Tensor::from_f64(cx.fact(0)?.dtype, y.shape(), y.to_f64())])
    },
};

pub(super) const FUSED_CONV: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::NhwcFusedConv",
        "activation(Conv(X, W, B) + Z) with channels as the last axis of X, Z and Y",
        &[
            Param::new("X", FLOAT),
            Param::new("W", FLOAT),
            Param::new("B", FLOAT).optional(),
            Param::new("Z", FLOAT).optional(),
        ],
        &[Param::new("Y", FLOAT)],
        &[
            ACTIVATION,
            ("activation_params", AttrDef::OptFloats),
            AUTO_PAD,
            DILATIONS,
            ("group", AttrDef::Int(1)),
            ("kernel_shape", AttrDef::OptInts),
            PADS,
            STRIDES,
        ],
    ),
    build: |cx, g| {
        let w = g.required(cx, 1)?;
        let y = convolved(cx, g, w)?;
        let y = transpose(g, y, &last(g.fact(y).rank()))?;
        if let Some(z) = cx.arg(3)
            && g.fact(y).shape != z.fact.shape
        {
            return invalid(format!("Z is {}, what it is added to {}", z.fact, g.fact(y)));
        }
        let wide = g.widen(y)?;
        let z = g.input(3);
        let sum = plus(g, wide, z)?;
        let y = activated(cx, g, sum, &conv_params(cx)?)?;
        Ok(vec![g.cast(y, cx.fact(0)?.dtype)?])
    },
    eval: |cx| {
        let y = eval_convolved(cx, cx.tensor(1)?)?;
        let mut v = y.to_f64();
        if let Some(z) = optional(cx, 3)? {
            v.iter_mut().zip(z.to_f64()).for_each(|(v, z)| *v += z);
        }
        activate(cx, &mut v, &conv_params(cx)?)?;
        Ok(vec![Tensor::from_f64(cx.fact(0)?.dtype, y.shape(), v)])
    },
};

/// The convolution, with channels as the second axis.
fn convolved(cx: &Cx, g: &mut Fragment, w: ValueId) -> Result<ValueId, OpError> {
    let x = g.required(cx, 0)?;
    let x = transpose(g, x, &second(cx.fact(0)?.rank())?)?;
    g.node("Conv", &plain_attrs(cx), &[Some(x), Some(w), g.input(2)])
}

/// The convolution in `f64`, with channels as the last axis.
fn eval_convolved(cx: &Cx, w: &Tensor) -> Result<Tensor, OpError> {
    let wide = |t: &Tensor| Tensor::from_f64(DType::F64, t.shape(), t.to_f64());
    let x = moved(&wide(cx.tensor(0)?), second(cx.fact(0)?.rank())?)?;
    let bias = optional(cx, 2)?.map(wide);
    let inputs = [Some(&x), Some(&wide(w)), bias.as_ref()];
    let y = reference("Conv", &plain_attrs(cx), &inputs, 1)?.remove(0);
    let rank = y.shape().len();
    moved(&y, last(rank))
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{infer, sample};
    use crate::{Attr, DType, Dim, Fact};

    #[test]
    fn convolutions() {
        for t in [DType::F32, DType::F16] {
            let s = |shape: &[usize], seed| sample(t, shape, seed);
            let attrs = [
                ("group", Attr::Int(2)),
                ("pads", Attr::Ints(vec![1, 0, 1, 2])),
                ("strides", Attr::Ints(vec![1, 2])),
            ];
            let x = s(&[2, 5, 6, 4], 1);
            let inputs = [x.clone(), s(&[6, 3, 2, 2], 2), s(&[6], 3)];
            check("com.microsoft::NhwcConv", &attrs, &inputs, 1);
            check("com.microsoft::NhwcConv", &attrs, &inputs[..2], 1);
            let mut attrs = attrs.to_vec();
            attrs.push(("activation", Attr::Str("LeakyRelu".into())));
            attrs.push(("activation_params", Attr::Floats(vec![0.25])));
            let inputs = [x, s(&[6, 2, 3, 2], 2), s(&[6], 3), s(&[2, 5, 4, 6], 4)];
            check("com.microsoft::NhwcFusedConv", &attrs, &inputs, 1);
        }
        let f = |shape: &[i64]| Fact::new(DType::F32, shape.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        assert!(infer("com.microsoft::NhwcConv", &[], &[f(&[3, 4]), f(&[2, 4])]).is_err());
    }
}
