//! Products of 8-bit numbers whose results are floats or 8-bit numbers again.
//!
//! Laws: sums are exact in 32 bits; the left operand has one scale and one zero point, the right one has them for all of it
//! or for each column.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::composed::{Composed, differ, optional, plus, reference, refuse_attributes, reshape, transpose};
use crate::ops::contrib::codes::{code, codes, eval_number, number, rounded, scale};
use crate::ops::contrib::heads;
use crate::ops::fragment::Fragment;
use crate::ops::quantize::BYTES;
use crate::{DType, Dim, Fact, Tensor, ValueId};

const FLOAT: Types = Types::FLOAT;
const F32: Types = Types::of(&[DType::F32]);

pub(super) const TO_FLOAT: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::MatMulIntegerToFloat",
        "MatMulInteger of A and B, times a_scale * b_scale, plus bias",
        &[
            codes("A"),
            codes("B").group(2),
            Param::new("a_scale", FLOAT).group(3),
            Param::new("b_scale", FLOAT).group(3),
            codes("a_zero_point").optional(),
            codes("b_zero_point").group(2).optional(),
            Param::new("bias", FLOAT).group(3).optional(),
        ],
        &[Param::new("Y", FLOAT).group(3)],
        &[],
    ),
    build: |cx, g| {
        let (a, a_scale) = (g.required(cx, 0)?, number(cx, g, 2)?);
        let a_zero = match g.input(4) {
            Some(_) => Some(number(cx, g, 4)?),
            None => None,
        };
        let right = Right {
            b: 1,
            scale: 3,
            zero: 5,
        };
        Ok(vec![real(cx, g, [a, a_scale], a_zero, right, 6)?])
    },
    eval: |cx| {
        let a = differences(cx.tensor(0)?, &[eval_number(cx, 4)?.into()]);
        let right = Right {
            b: 1,
            scale: 3,
            zero: 5,
        };
        eval_real(cx, &a, eval_number(cx, 2)?.into(), right, 6)
    },
};

pub(super) const DYNAMIC: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::DynamicQuantizeMatMul",
        "MatMulInteger of what DynamicQuantizeLinear makes of A and of B, times both scales, plus bias",
        &[
            Param::new("A", F32),
            codes("B").group(2),
            Param::new("b_scale", F32),
            codes("b_zero_point").group(2).optional(),
            Param::new("bias", F32).optional(),
        ],
        &[Param::new("Y", F32)],
        &[],
    ),
    build: |cx, g| {
        let a = g.required(cx, 0)?;
        let [a, scale, zero] = g.results("DynamicQuantizeLinear", &[], &[Some(a)], 3)?[..] else {
            return invalid("DynamicQuantizeLinear has three results");
        };
        let right = Right {
            b: 1,
            scale: 2,
            zero: 3,
        };
        Ok(vec![real(cx, g, [a, scale], Some(zero), right, 4)?])
    },
    eval: |cx| {
        let parts = reference("DynamicQuantizeLinear", &[], &[Some(cx.tensor(0)?)], 3)?;
        let a = differences(&parts[0], &parts[2].to_f64());
        let right = Right {
            b: 1,
            scale: 2,
            zero: 3,
        };
        eval_real(cx, &a, parts[1].to_f64()[0], right, 4)
    },
};

/// The inputs that are the right operand.
#[derive(Clone, Copy)]
struct Right {
    b: usize,
    scale: usize,
    zero: usize,
}

/// Input `i`: one number, or one for each of the columns.
fn columns(cx: &Cx, g: &mut Fragment, i: usize, n: &Dim) -> Result<Option<ValueId>, OpError> {
    let Some(v) = g.input(i) else { return Ok(None) };
    match g.fact(v).shape.as_slice() {
        [] => Ok(Some(v)),
        [one] if one.is_one() => Ok(Some(reshape(g, v, vec![])?)),
        [each] if !differ(each, n) => Ok(Some(v)),
        _ => {
            let name = cx.schema.input(i).map_or("?", |p| p.name);
            unsupported(format!("input {i} ({name}) is {} for {n} columns", g.fact(v)))
        }
    }
}

/// The columns of the right operand.
fn width(b: &Fact) -> Result<Dim, OpError> {
    match b.shape.as_slice() {
        [.., _, n] => Ok(n.clone()),
        _ => invalid(format!("B is {b}, not a matrix")),
    }
}

/// The product of `a`, of one scale and zero point, as floats.
fn real(
    cx: &Cx,
    g: &mut Fragment,
    [a, a_scale]: [ValueId; 2],
    a_zero: Option<ValueId>,
    right: Right,
    bias: usize,
) -> Result<ValueId, OpError> {
    let (b, n) = (g.required(cx, right.b)?, width(cx.fact(right.b)?)?);
    let zero = columns(cx, g, right.zero, &n)?;
    let sum = g.node("MatMulInteger", &[], &[Some(a), Some(b), a_zero, zero])?;
    let t = cx.fact(right.scale)?.dtype;
    let (Some(b_scale), bias) = (columns(cx, g, right.scale, &n)?, columns(cx, g, bias, &n)?) else {
        return invalid("a scale is missing");
    };
    let (a_scale, b_scale) = (g.widen(a_scale)?, g.widen(b_scale)?);
    let factor = g.binary("Mul", a_scale, b_scale)?;
    let sum = g.cast(sum, g.dtype(factor))?;
    let y = g.binary("Mul", sum, factor)?;
    let y = plus(g, y, bias)?;
    g.cast(y, t)
}

/// The elements without their zero point, or those of their columns.
fn differences(x: &Tensor, zeros: &[f64]) -> Tensor {
    let v = x.to_f64().into_iter().enumerate();
    let v = v.map(|(i, v)| v - zeros[i % zeros.len()]);
    Tensor::from_f64(DType::F64, x.shape(), v)
}

/// The zero points of input `i`: one, or one for each of `n` columns.
fn eval_columns(cx: &Cx, i: usize, n: usize, absent: f64) -> Result<Vec<f64>, OpError> {
    match optional(cx, i)?.map(Tensor::to_f64) {
        None => Ok(vec![absent]),
        Some(v) if v.len() == 1 || v.len() == n => Ok(v),
        Some(v) => invalid(format!("input {i} has {} numbers for {n} columns", v.len())),
    }
}

/// [`real`], of numbers.
fn eval_real(cx: &Cx, a: &Tensor, a_scale: f64, right: Right, bias: usize) -> Result<Vec<Tensor>, OpError> {
    let b = cx.tensor(right.b)?;
    let n = b.shape().last().copied().unwrap_or(1);
    let [zeros, scales, bias] = [
        eval_columns(cx, right.zero, n, 0.0)?,
        eval_columns(cx, right.scale, n, 1.0)?,
        eval_columns(cx, bias, n, 0.0)?,
    ];
    let sum = &reference("MatMul", &[], &[Some(a), Some(&differences(b, &zeros))], 1)?[0];
    let column = |v: &[f64], i: usize| v[i % n % v.len()];
    let y = sum.to_f64().into_iter().enumerate();
    let y = y.map(|(i, v)| v * a_scale * column(&scales, i) + column(&bias, i));
    Ok(vec![Tensor::from_f64(cx.fact(right.scale)?.dtype, sum.shape(), y)])
}

pub(super) const GEMM: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QGemm",
        "alpha (A' B' + C) of what DequantizeLinear makes of A and B, where C has the scale of the product; QuantizeLinear of \
         it where y_scale is given",
        &[
            codes("A"),
            scale("a_scale"),
            codes("a_zero_point"),
            codes("B").group(3),
            scale("b_scale"),
            codes("b_zero_point").group(3),
            Param::new("C", Types::of(&[DType::I32])).group(0).optional(),
            scale("y_scale").optional(),
            codes("y_zero_point").group(0).optional(),
        ],
        &[Param::new("Y", Types(BYTES.0 | F32.0)).group(0)],
        &[
            ("alpha", AttrDef::Float(1.0)),
            ("transA", AttrDef::Int(0)),
            ("transB", AttrDef::Int(0)),
        ],
    ),
    build: |cx, g| {
        let t = gemm_type(cx)?;
        let (a, b) = (gemm_factor(cx, g, 0, "transA")?, gemm_factor(cx, g, 3, "transB")?);
        let n = g.fact(b).shape[1].clone();
        let (a_zero, b_zero) = (number(cx, g, 2)?, columns(cx, g, 5, &n)?);
        let mut sum = g.node("MatMulInteger", &[], &[Some(a), Some(b), Some(a_zero), b_zero])?;
        if let Some(c) = g.input(6) {
            let shape = g.fact(sum).shape.clone();
            sum = g.binary("Add", sum, c)?;
            if g.fact(sum).shape != shape {
                return invalid(format!("C is {}, what it is added to {shape:?}", g.fact(c)));
            }
        }
        let Some(b_scale) = columns(cx, g, 4, &n)? else {
            return invalid("a scale is missing");
        };
        let a_scale = number(cx, g, 1)?;
        let alpha = g.number(a_scale, cx.float("alpha")?.into());
        let factor = g.binary("Mul", alpha, a_scale)?;
        let mut factor = g.binary("Mul", factor, b_scale)?;
        if t != DType::F32 {
            let to = number(cx, g, 7)?;
            factor = g.binary("Div", factor, to)?;
        }
        let sum = g.cast(sum, DType::F32)?;
        let y = g.binary("Mul", sum, factor)?;
        Ok(vec![if t == DType::F32 { y } else { rounded(cx, g, y, 8, t)? }])
    },
    eval: |cx| {
        let t = gemm_type(cx)?;
        let turned = |x: &Tensor, by: &str| -> Result<Tensor, OpError> {
            match cx.int(by)? {
                0 => Ok(x.clone()),
                _ => Ok(reference("Transpose", &[], &[Some(x)], 1)?.remove(0)),
            }
        };
        let a = turned(&differences(cx.tensor(0)?, &[eval_number(cx, 2)?.into()]), "transA")?;
        let b = turned(cx.tensor(3)?, "transB")?;
        let n = b.shape()[1];
        let b = differences(&b, &eval_columns(cx, 5, n, 0.0)?);
        let mut sum = reference("MatMul", &[], &[Some(&a), Some(&b)], 1)?.remove(0);
        if let Some(c) = optional(cx, 6)? {
            let c = differences(c, &[0.0]);
            sum = reference("Add", &[], &[Some(&sum), Some(&c)], 1)?.remove(0);
        }
        let (scales, zero) = (eval_columns(cx, 4, n, 1.0)?, eval_number(cx, 8)?);
        let (first, to) = (cx.float("alpha")? * eval_number(cx, 1)?, eval_number(cx, 7)?);
        let y = sum.to_f64().into_iter().enumerate().map(|(i, v)| {
            // Ties are seen in the precision that they are computed in.
            let factor = first * scales[i % n % scales.len()] as f32;
            match t {
                DType::F32 => f64::from(v as f32 * factor),
                _ => code(v as f32 * (factor / to), zero, t) as f64,
            }
        });
        Ok(vec![Tensor::from_f64(t, sum.shape(), y)])
    },
};

/// The type of the result.
fn gemm_type(cx: &Cx) -> Result<DType, OpError> {
    match (cx.arg(7), cx.arg(8)) {
        (None, None) => Ok(DType::F32),
        (Some(_), Some(zero)) => Ok(zero.fact.dtype),
        _ => invalid("y_scale and y_zero_point come together"),
    }
}

fn gemm_factor(cx: &Cx, g: &mut Fragment, i: usize, turned: &str) -> Result<ValueId, OpError> {
    let x = g.required(cx, i)?;
    if g.fact(x).rank() != 2 {
        return invalid(format!("input {i} is {}, not a matrix", g.fact(x)));
    }
    match cx.int(turned)? {
        0 => Ok(x),
        _ => transpose(g, x, &[1, 0]),
    }
}

pub(super) const ATTENTION: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QAttention",
        "Attention of the three parts of MatMulIntegerToFloat of input and weight, plus bias",
        &[
            codes("input"),
            codes("weight").group(2),
            Param::new("bias", FLOAT).group(3),
            Param::new("input_scale", FLOAT).group(3),
            Param::new("weight_scale", FLOAT).group(3),
            heads::mask("mask_index"),
            codes("input_zero_point").optional(),
            codes("weight_zero_point").group(2).optional(),
            Param::new("past", FLOAT).group(3).optional(),
        ],
        &[
            Param::new("output", FLOAT).group(3),
            Param::new("present", FLOAT).group(3).optional(),
        ],
        &[
            ("do_rotary", AttrDef::Int(0)),
            heads::FILTER,
            heads::HEADS,
            ("past_present_share_buffer", AttrDef::Int(0)),
            heads::SCALE,
            heads::CAUSAL,
        ],
    ),
    build: |cx, g| {
        refuse_attributes(cx, &[("do_rotary", &[0]), ("past_present_share_buffer", &[0])])?;
        let w = cx.fact(1)?;
        if cx.fact(0)?.rank() != 3 || w.rank() != 2 {
            return invalid(format!("input {} and weight {w}, not of ranks 3 and 2", cx.fact(0)?));
        }
        let (x, x_scale) = (g.required(cx, 0)?, number(cx, g, 3)?);
        let zero = match g.input(6) {
            Some(_) => Some(number(cx, g, 6)?),
            None => None,
        };
        let all = real(cx, g, [x, x_scale], zero, WEIGHT, 2)?;
        let all = g.widen(all)?;
        let qkv = heads::parted(g, all, heads::thirds(w)?)?;
        let past = heads::past(g, 8)?;
        let out = heads::attend(cx, g, cx.fact(2)?.dtype, qkv, [5, usize::MAX], past)?;
        heads::with_present(cx, g, out)
    },
    eval: |cx| {
        let x = differences(cx.tensor(0)?, &[eval_number(cx, 6)?.into()]);
        let all = eval_real(cx, &x, eval_number(cx, 3)?.into(), WEIGHT, 2)?.remove(0);
        let qkv = heads::eval_parted(&all, heads::thirds(cx.fact(1)?)?);
        let past = heads::eval_past(cx, 8)?;
        let out = heads::eval_attend(cx, cx.fact(2)?.dtype, qkv, [5, usize::MAX], &past)?;
        Ok(heads::eval_with_present(cx, out))
    },
};

const WEIGHT: Right = Right {
    b: 1,
    scale: 4,
    zero: 7,
};

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn reals(v: &[f32]) -> Option<Tensor> {
        Some(Tensor::f32(&[v.len()], v.iter().copied()))
    }

    fn codes(t: DType, v: &[i64]) -> Option<Tensor> {
        Some(Tensor::from_i64(t, &[v.len()], v.iter().copied()))
    }

    #[test]
    fn floats() {
        for (t, u) in [(DType::U8, DType::I8), (DType::U8, DType::U8), (DType::I8, DType::I8)] {
            let (a, b) = (sample(t, &[2, 3, 4], 1), sample(u, &[4, 5], 2));
            let op = "com.microsoft::MatMulIntegerToFloat";
            check(op, &[], &[a.clone(), b.clone(), reals(&[0.5]), reals(&[0.25])], 1);
            let each = reals(&[0.25, 0.5, 1.0, 2.0, 0.125]);
            let all = [
                a,
                b.clone(),
                reals(&[0.5]),
                each.clone(),
                codes(t, &[3]),
                codes(u, &[1, 2, 0, 3, 1]),
                sample(DType::F32, &[5], 3),
            ];
            check(op, &[], &all, 1);
            let (op, x) = (
                "com.microsoft::DynamicQuantizeMatMul",
                sample(DType::F32, &[2, 3, 4], 4),
            );
            check(op, &[], &[x.clone(), b.clone(), reals(&[0.25])], 1);
            check(op, &[], &[x, b, each, codes(u, &[2]), sample(DType::F32, &[5], 3)], 1);
        }
        let nothing = Some(Tensor::f32(&[1, 2], [0.0, 0.0]));
        let b = Some(Tensor::from_i64(DType::U8, &[2, 1], [7, 9]));
        let y = eval(
            "com.microsoft::DynamicQuantizeMatMul",
            &[],
            &[nothing, b, reals(&[1.0])],
            1,
        );
        assert_eq!(y[0].to_f64(), [0.0]);
        let f = |t: DType, shape: &[i64]| Fact::new(t, shape.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        let inputs = [f(DType::F32, &[2, 4]), f(DType::I8, &[4, 5]), f(DType::F32, &[4])];
        let error = infer("com.microsoft::DynamicQuantizeMatMul", &[], &inputs).expect_err("4 scales");
        assert_eq!(
            error.to_string(),
            "unsupported: input 2 (b_scale) is f32[4] for 5 columns"
        );
    }

    #[test]
    fn gemm() {
        let flags = |names: &[&'static str]| -> Vec<(&'static str, Attr)> {
            let mut all: Vec<_> = names.iter().map(|n| (*n, Attr::Int(1))).collect();
            all.push(("alpha", Attr::Float(0.5)));
            all
        };
        for (t, u) in [(DType::U8, DType::I8), (DType::I8, DType::I8)] {
            let mut inputs = vec![
                sample(t, &[3, 4], 1),
                reals(&[0.5]),
                codes(t, &[3]),
                sample(u, &[4, 5], 2),
                reals(&[0.25, 0.5, 1.0, 2.0, 0.125]),
                codes(u, &[1, 2, 0, 3, 1]),
            ];
            check("com.microsoft::QGemm", &flags(&[]), &inputs, 1);
            inputs.extend([sample(DType::I32, &[5], 4), reals(&[0.3]), codes(u, &[4])]);
            check("com.microsoft::QGemm", &flags(&[]), &inputs, 1);
            (inputs[0], inputs[3]) = (sample(t, &[4, 3], 1), sample(u, &[5, 4], 2));
            check("com.microsoft::QGemm", &flags(&["transA", "transB"]), &inputs, 1);
        }
    }

    #[test]
    fn attention() {
        let heads = [("num_heads", Attr::Int(2)), ("unidirectional", Attr::Int(1))];
        let f = |shape: &[usize], seed| sample(DType::F32, shape, seed);
        let mut inputs = vec![
            sample(DType::U8, &[2, 3, 5], 1),
            sample(DType::I8, &[5, 24], 2),
            f(&[24], 3),
            reals(&[0.125]),
            reals(&[0.0625]),
        ];
        check("com.microsoft::QAttention", &heads, &inputs, 1);
        inputs.extend([
            Some(Tensor::from_i64(DType::I32, &[2, 5], [1, 1, 0, 1, 1, 0, 1, 1, 1, 1])),
            codes(DType::U8, &[3]),
            codes(DType::I8, &[1]),
            f(&[2, 2, 2, 2, 4], 4),
        ]);
        check("com.microsoft::QAttention", &heads, &inputs, 2);
    }
}
