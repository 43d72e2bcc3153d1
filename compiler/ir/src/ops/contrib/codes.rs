//! Arithmetic of 8-bit numbers that each have a scale and a zero point.
//!
//! Laws: an operand means `(x - zero) * scale`; a result is divided by its scale, rounded to the nearest, ties to even, moved
//! by its zero point and kept in the range of its type, as QuantizeLinear does. Sums, products and means of windows are
//! moved before they are rounded, as ONNX Runtime does it. Scales and zero points are one number each.

use crate::index::{broadcast_linear, broadcast_static, for_each};
use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, normalize_axis, unsupported};
use crate::ops::composed::{Composed, concat, differ, reference, reshape};
use crate::ops::contrib::biases::softmax_behind;
use crate::ops::fragment::Fragment;
use crate::ops::quantize::{BYTES, quantized, saturated};
use crate::{Attr, DType, Dim, Tensor, ValueId};

/// An operand: the inputs that are its elements, its scale and its zero point.
pub(super) type Coded = [usize; 3];

const F32: Types = Types::of(&[DType::F32]);

pub(super) const fn codes(name: &'static str) -> Param {
    Param::new(name, BYTES)
}

pub(super) const fn scale(name: &'static str) -> Param {
    Param::new(name, F32).group(2)
}

pub(super) const fn zero(name: &'static str) -> Param {
    codes(name).optional()
}

/// Input `i`, which is one number, as a scalar.
pub(super) fn number(cx: &Cx, g: &mut Fragment, i: usize) -> Result<ValueId, OpError> {
    let v = g.required(cx, i)?;
    let fact = g.fact(v);
    if fact.rank() > 1 || fact.shape.iter().any(|d| differ(d, &Dim::ONE)) {
        let name = cx.schema.input(i).map_or("?", |p| p.name);
        return unsupported(format!("input {i} ({name}) is {fact}, not one number"));
    }
    reshape(g, v, vec![])
}

/// `x - zero` as floats, which is exact.
pub(super) fn centred(cx: &Cx, g: &mut Fragment, [x, _, zero]: Coded) -> Result<ValueId, OpError> {
    let x = g.required(cx, x)?;
    let x = g.cast(x, DType::F32)?;
    if g.input(zero).is_none() {
        return Ok(x);
    }
    let zero = number(cx, g, zero)?;
    let zero = g.cast(zero, DType::F32)?;
    g.binary("Sub", x, zero)
}

/// `(x - zero) * scale`.
pub(super) fn meaning(cx: &Cx, g: &mut Fragment, operand: Coded) -> Result<ValueId, OpError> {
    let x = centred(cx, g, operand)?;
    let scale = number(cx, g, operand[1])?;
    g.binary("Mul", x, scale)
}

/// `y / scale` rounded, plus the zero point, as numbers of type `t`.
pub(super) fn coded(
    cx: &Cx,
    g: &mut Fragment,
    y: ValueId,
    [scale, zero]: [usize; 2],
    t: DType,
) -> Result<ValueId, OpError> {
    let scale = number(cx, g, scale)?;
    finish(cx, g, y, scale, zero, t)
}

/// `y`, which has been divided by the scale, plus the zero point, rounded: where the zero point is odd, ties go the other
/// way than in [`rounded`].
pub(super) fn moved(cx: &Cx, g: &mut Fragment, y: ValueId, zero: usize, t: DType) -> Result<ValueId, OpError> {
    let one = g.number(y, 1.0);
    if g.input(zero).is_none() {
        return quantized(g, y, one, None, t);
    }
    let zero = number(cx, g, zero)?;
    let zero = g.cast(zero, g.dtype(y))?;
    let y = g.binary("Add", y, zero)?;
    quantized(g, y, one, None, t)
}

/// [`coded`], of what has been divided by the scale.
pub(super) fn rounded(cx: &Cx, g: &mut Fragment, y: ValueId, zero: usize, t: DType) -> Result<ValueId, OpError> {
    let one = g.number(y, 1.0);
    finish(cx, g, y, one, zero, t)
}

fn finish(cx: &Cx, g: &mut Fragment, y: ValueId, scale: ValueId, zero: usize, t: DType) -> Result<ValueId, OpError> {
    let zero = match g.input(zero) {
        Some(_) => Some(number(cx, g, zero)?),
        None => None,
    };
    quantized(g, y, scale, zero, t)
}

/// The one number that input `i` is; 0 where it is absent.
pub(super) fn eval_number(cx: &Cx, i: usize) -> Result<f32, OpError> {
    if !cx.has(i) {
        return Ok(0.0);
    }
    match cx.tensor(i)?.to_f64()[..] {
        [v] => Ok(v as f32),
        _ => invalid(format!("input {i} is not one number")),
    }
}

/// [`centred`], of numbers.
pub(super) fn eval_centred(cx: &Cx, [x, _, zero]: Coded) -> Result<Vec<f32>, OpError> {
    let zero = eval_number(cx, zero)?;
    Ok(cx.tensor(x)?.to_f64().into_iter().map(|v| v as f32 - zero).collect())
}

/// [`meaning`], of numbers: ties are seen in the precision that they are computed in.
pub(super) fn eval_meaning(cx: &Cx, operand: Coded) -> Result<Vec<f32>, OpError> {
    let scale = eval_number(cx, operand[1])?;
    Ok(eval_centred(cx, operand)?.into_iter().map(|v| v * scale).collect())
}

/// The code of what has been divided by the scale.
pub(super) fn code(y: f32, zero: f32, t: DType) -> i64 {
    saturated((y.round_ties_even() + zero).into(), t) as i64
}

/// The code of what has been divided by the scale, as [`moved`] rounds it.
pub(super) fn moved_code(y: f32, zero: f32, t: DType) -> i64 {
    saturated((y + zero).round_ties_even().into(), t) as i64
}

/// The codes of `y`.
pub(super) fn eval_coded(
    cx: &Cx,
    shape: &[usize],
    y: impl IntoIterator<Item = f32>,
    [scale, zero]: [usize; 2],
    t: DType,
) -> Result<Vec<Tensor>, OpError> {
    let (scale, zero) = (eval_number(cx, scale)?, eval_number(cx, zero)?);
    let v = y.into_iter().map(|v| code(v / scale, zero, t));
    Ok(vec![Tensor::from_i64(t, shape, v)])
}

const A: Coded = [0, 1, 2];
const B: Coded = [3, 4, 5];
const PAIR: &[Param] = &[
    codes("A"),
    scale("A_scale"),
    zero("A_zero_point"),
    codes("B"),
    scale("B_scale"),
    zero("B_zero_point"),
    scale("C_scale"),
    zero("C_zero_point"),
];

/// The sum is of operands that have been brought to the scale of the result, as in ONNX Runtime: that decides ties.
pub(super) const ADD: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QLinearAdd",
        "QuantizeLinear of the sum of what DequantizeLinear makes of A and B",
        PAIR,
        &[codes("C")],
        &[],
    ),
    build: |cx, g| {
        let to = number(cx, g, 6)?;
        let mut terms = vec![];
        for operand in [A, B] {
            let x = centred(cx, g, operand)?;
            let from = number(cx, g, operand[1])?;
            let factor = g.binary("Div", from, to)?;
            terms.push(g.binary("Mul", x, factor)?);
        }
        let sum = g.binary("Add", terms[0], terms[1])?;
        Ok(vec![moved(cx, g, sum, 7, cx.fact(0)?.dtype)?])
    },
    eval: |cx| eval_pair(cx, |[a, b], [s, t, to]| a * (s / to) + b * (t / to)),
};

pub(super) const MUL: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QLinearMul",
        "QuantizeLinear of the product of what DequantizeLinear makes of A and B",
        PAIR,
        &[codes("C")],
        &[],
    ),
    build: |cx, g| {
        let (a, b) = (centred(cx, g, A)?, centred(cx, g, B)?);
        let product = g.binary("Mul", a, b)?;
        let [s, t, to] = [number(cx, g, 1)?, number(cx, g, 4)?, number(cx, g, 6)?];
        let factor = g.binary("Mul", s, t)?;
        let factor = g.binary("Div", factor, to)?;
        let y = g.binary("Mul", product, factor)?;
        Ok(vec![moved(cx, g, y, 7, cx.fact(0)?.dtype)?])
    },
    eval: |cx| eval_pair(cx, |[a, b], [s, t, to]| (a * b) * (s * t / to)),
};

/// `f` of two elements without their zero points and of the three scales.
fn eval_pair(cx: &Cx, f: impl Fn([f32; 2], [f32; 3]) -> f32) -> Result<Vec<Tensor>, OpError> {
    let (a, b) = (cx.tensor(0)?.shape(), cx.tensor(3)?.shape());
    let shape = broadcast_static(&[a, b])?;
    let (x, y) = (eval_centred(cx, A)?, eval_centred(cx, B)?);
    let scales = [eval_number(cx, 1)?, eval_number(cx, 4)?, eval_number(cx, 6)?];
    let (zero, t) = (eval_number(cx, 7)?, cx.fact(0)?.dtype);
    let mut out = vec![];
    for_each(&shape, |ix| {
        let both = [x[broadcast_linear(a, ix)], y[broadcast_linear(b, ix)]];
        out.push(moved_code(f(both, scales), zero, t));
    });
    Ok(vec![Tensor::from_i64(t, &shape, out)])
}

const ONE: &[Param] = &[
    codes("X"),
    scale("X_scale"),
    zero("X_zero_point"),
    scale("Y_scale"),
    zero("Y_zero_point"),
];

pub(super) const SIGMOID: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QLinearSigmoid",
        "QuantizeLinear of the Sigmoid of what DequantizeLinear makes of X",
        ONE,
        &[codes("Y")],
        &[],
    ),
    build: |cx, g| {
        let x = meaning(cx, g, A)?;
        let y = g.unary("Sigmoid", x)?;
        Ok(vec![coded(cx, g, y, [3, 4], cx.fact(0)?.dtype)?])
    },
    eval: |cx| {
        let y = eval_meaning(cx, A)?.into_iter().map(|v| 1.0 / (1.0 + (-v).exp()));
        eval_coded(cx, cx.tensor(0)?.shape(), y, [3, 4], cx.fact(0)?.dtype)
    },
};

pub(super) const LEAKY_RELU: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QLinearLeakyRelu",
        "QuantizeLinear of the LeakyRelu of what DequantizeLinear makes of X",
        ONE,
        &[codes("Y")],
        &[("alpha", AttrDef::Float(0.01))],
    ),
    build: |cx, g| {
        let x = meaning(cx, g, A)?;
        let y = g.apply("LeakyRelu", &[("alpha", Attr::Float(cx.float("alpha")?))], &[x])?;
        Ok(vec![coded(cx, g, y, [3, 4], cx.fact(0)?.dtype)?])
    },
    eval: |cx| {
        let alpha = cx.float("alpha")?;
        let y = eval_meaning(cx, A)?.into_iter();
        let y = y.map(|v| if v < 0.0 { v * alpha } else { v });
        eval_coded(cx, cx.tensor(0)?.shape(), y, [3, 4], cx.fact(0)?.dtype)
    },
};

pub(super) const WHERE: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QLinearWhere",
        "QuantizeLinear of what DequantizeLinear makes of X where the condition holds, and of Y elsewhere",
        &[
            Param::new("condition", Types::BOOL).group(3),
            codes("X"),
            scale("x_scale"),
            codes("x_zero_point"),
            codes("Y"),
            scale("y_scale"),
            codes("y_zero_point"),
            scale("z_scale"),
            codes("z_zero_point"),
        ],
        &[codes("Z")],
        &[],
    ),
    build: |cx, g| {
        let condition = g.required(cx, 0)?;
        let (x, y) = (meaning(cx, g, [1, 2, 3])?, meaning(cx, g, [4, 5, 6])?);
        let z = g.apply("Where", &[], &[condition, x, y])?;
        Ok(vec![coded(cx, g, z, [7, 8], cx.fact(1)?.dtype)?])
    },
    eval: |cx| {
        let wide = |operand: Coded| -> Result<Tensor, OpError> {
            Ok(Tensor::f32(cx.tensor(operand[0])?.shape(), eval_meaning(cx, operand)?))
        };
        let (x, y) = (wide([1, 2, 3])?, wide([4, 5, 6])?);
        let z = &reference("Where", &[], &[Some(cx.tensor(0)?), Some(&x), Some(&y)], 1)?[0];
        eval_coded(cx, z.shape(), z.to_f32(), [7, 8], cx.fact(1)?.dtype)
    },
};

pub(super) const CONCAT: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QLinearConcat",
        "QuantizeLinear of what DequantizeLinear makes of the inputs, which are three operands each, joined along an axis",
        &[
            scale("Y_scale"),
            codes("Y_zero_point"),
            Param::new("inputs", Types(BYTES.0 | F32.0)).group(0).variadic(),
        ],
        &[codes("Y")],
        &[("axis", AttrDef::ReqInt)],
    ),
    build: |cx, g| {
        let mut parts = vec![];
        for operand in joined(cx)? {
            parts.push(meaning(cx, g, operand)?);
        }
        let y = concat(g, &parts, cx.int("axis")?)?;
        Ok(vec![coded(cx, g, y, [0, 1], cx.fact(1)?.dtype)?])
    },
    eval: |cx| {
        let mut parts = vec![];
        for operand in joined(cx)? {
            parts.push(Tensor::f32(cx.tensor(operand[0])?.shape(), eval_meaning(cx, operand)?));
        }
        let parts: Vec<_> = parts.iter().map(Some).collect();
        let axis = [("axis", Attr::Int(cx.int("axis")?))];
        let y = &reference("Concat", &axis, &parts, 1)?[0];
        eval_coded(cx, y.shape(), y.to_f32(), [0, 1], cx.fact(1)?.dtype)
    },
};

/// The operands that are joined.
fn joined(cx: &Cx) -> Result<Vec<Coded>, OpError> {
    let n = cx.inputs.len().saturating_sub(2);
    if n == 0 || !n.is_multiple_of(3) {
        return invalid(format!("{n} inputs are not triples of elements, scale and zero point"));
    }
    let all: Vec<Coded> = (0..n / 3).map(|i| [0, 1, 2].map(|k| 2 + 3 * i + k)).collect();
    for i in all.iter().flatten() {
        let (is, wanted) = (cx.fact(*i)?.dtype, if i % 3 == 0 { F32 } else { BYTES });
        if !wanted.contains(is) {
            return invalid(format!("input {i} (inputs) is of type {is}"));
        }
    }
    Ok(all)
}

/// ONNX Runtime multiplies by the whole number below `1 / y_scale`.
pub(super) const SOFTMAX: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QLinearSoftmax",
        "the Softmax of what DequantizeLinear makes of X, times floor(1 / y_scale), rounded, plus y_zero_point; before opset \
         13 over all axes from `axis` on",
        &[
            codes("X"),
            scale("X_scale"),
            zero("x_zero_point"),
            scale("y_scale"),
            codes("y_zero_point"),
        ],
        &[codes("Y")],
        &[("axis", AttrDef::OptInt), ("opset", AttrDef::ReqInt)],
    ),
    build: |cx, g| {
        let (axis, coerced) = softmax_axis(cx)?;
        let x = meaning(cx, g, A)?;
        let y = if coerced {
            softmax_behind(g, x, axis)?
        } else {
            g.apply("Softmax", &[("axis", Attr::Int(axis as i64))], &[x])?
        };
        let step = number(cx, g, 3)?;
        let steps = g.unary("Reciprocal", step)?;
        let steps = g.unary("Floor", steps)?;
        let y = g.binary("Mul", y, steps)?;
        Ok(vec![rounded(cx, g, y, 4, cx.fact(0)?.dtype)?])
    },
    eval: |cx| {
        let (axis, coerced) = softmax_axis(cx)?;
        let x = cx.tensor(0)?;
        let inner: usize = x.shape()[axis + usize::from(!coerced)..].iter().product();
        let (inner, length) = if coerced { (1, inner) } else { (inner, x.shape()[axis]) };
        let v = eval_meaning(cx, A)?;
        let steps = (1.0 / eval_number(cx, 3)?).floor();
        let (zero, t) = (eval_number(cx, 4)?, x.dtype());
        let y = (0..v.len()).map(|i| {
            let first = i / (length * inner) * length * inner + i % inner;
            let row = || (0..length).map(|k| f64::from(v[first + k * inner]));
            let most = row().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row().map(|e| (e - most).exp()).sum();
            let share = (f64::from(v[i]) - most).exp() / sum;
            code(share as f32 * steps, zero, t)
        });
        Ok(vec![Tensor::from_i64(t, x.shape(), y)])
    },
};

/// The axis, and whether all behind it count as one with it.
fn softmax_axis(cx: &Cx) -> Result<(usize, bool), OpError> {
    let coerced = cx.int("opset")? < 13;
    let axis = cx.opt_int("axis")?.unwrap_or(if coerced { 1 } else { -1 });
    Ok((normalize_axis(axis, cx.fact(0)?.rank())?, coerced))
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
        Some(Tensor::from_i64(t, &[1], [v]))
    }

    #[test]
    fn pairs() {
        for t in [DType::U8, DType::I8] {
            for op in ["com.microsoft::QLinearAdd", "com.microsoft::QLinearMul"] {
                let (a, b) = (sample(t, &[2, 3, 5], 1), sample(t, &[3, 1], 2));
                let mut all = vec![
                    a,
                    real(0.5),
                    code(t, 3),
                    b,
                    real(0.75),
                    code(t, 1),
                    real(0.25),
                    code(t, 2),
                ];
                check(op, &[], &all, 1);
                (all[2], all[5], all[7]) = (None, None, None);
                check(op, &[], &all, 1);
            }
        }
        let bytes = |v: &[i64]| Some(Tensor::from_i64(DType::U8, &[v.len()], v.iter().copied()));
        let inputs = [
            bytes(&[10, 200, 0]),
            real(0.5),
            code(DType::U8, 8),
            bytes(&[5, 250, 1]),
            real(1.0),
            None,
            real(0.25),
        ];
        let y = eval("com.microsoft::QLinearAdd", &[], &inputs, 1);
        assert_eq!(y[0].to_i64(), [24, 255, 0]);
        let y = eval("com.microsoft::QLinearMul", &[], &inputs, 1);
        assert_eq!(y[0].to_i64(), [20, 255, 0]);
    }

    #[test]
    fn activations() {
        for t in [DType::U8, DType::I8] {
            let inputs = [
                sample(t, &[3, 7], 1),
                real(0.5),
                code(t, 3),
                real(0.0078125),
                code(t, 2),
            ];
            check("com.microsoft::QLinearSigmoid", &[], &inputs, 1);
            check(
                "com.microsoft::QLinearLeakyRelu",
                &[("alpha", Attr::Float(0.125))],
                &inputs,
                1,
            );
            check(
                "com.microsoft::QLinearLeakyRelu",
                &[],
                &[inputs[0].clone(), real(0.5), None, real(0.25)],
                1,
            );
            for (axis, opset) in [(1, 12), (1, 13), (-1, 13), (0, 11)] {
                let inputs = [sample(t, &[2, 3, 4], 1), real(0.5), None, real(1.0 / 256.0), code(t, 0)];
                let attrs = [("axis", Attr::Int(axis)), ("opset", Attr::Int(opset))];
                check("com.microsoft::QLinearSoftmax", &attrs, &inputs, 1);
            }
        }
    }

    #[test]
    fn choices_and_joints() {
        for t in [DType::U8, DType::I8] {
            let (x, y) = (sample(t, &[2, 3, 5], 1), sample(t, &[5], 2));
            let which = sample(DType::Bool, &[3, 1], 3);
            let inputs = [
                which,
                x.clone(),
                real(0.5),
                code(t, 3),
                y,
                real(0.75),
                code(t, 1),
                real(0.3),
                code(t, 2),
            ];
            check("com.microsoft::QLinearWhere", &[], &inputs, 1);
            let axis = [("axis", Attr::Int(-2))];
            let inputs = [
                real(0.3),
                code(t, 2),
                x,
                real(0.5),
                code(t, 3),
                sample(t, &[2, 1, 5], 4),
                real(0.3),
                code(t, 2),
            ];
            check("com.microsoft::QLinearConcat", &axis, &inputs, 1);
        }
    }

    #[test]
    fn several_scales_are_refused() {
        let f = |t: DType, n: i64| Fact::new(t, vec![Dim::from(n)]);
        let inputs = [
            f(DType::U8, 4),
            f(DType::F32, 4),
            f(DType::U8, 1),
            f(DType::F32, 1),
            f(DType::U8, 1),
        ];
        let error = infer("com.microsoft::QLinearSigmoid", &[], &inputs).expect_err("one for each");
        assert_eq!(
            error.to_string(),
            "unsupported: input 1 (X_scale) is f32[4], not one number"
        );
        let axis = [("axis", Attr::Int(0))];
        assert!(infer("com.microsoft::QLinearConcat", &axis, &inputs[3..]).is_err());
    }
}
