//! Products and convolutions with what comes before and after them.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, optional, plus, reference, transpose};
use crate::ops::contrib::activations::fast_gelu;
use crate::ops::fragment::Fragment;
use crate::ops::norms::check_parameter;
use crate::ops::window::{AUTO_PAD, DILATIONS, PADS, STRIDES};
use crate::{Attr, DType, Tensor, ValueId};

/// What is applied to the result; the empty one is none.
pub(super) const ACTIVATION: (&str, AttrDef) = (
    "activation",
    AttrDef::OneOf(&["", "Relu", "Tanh", "Sigmoid", "LeakyRelu", "HardSigmoid", "Clip"]),
);

pub(super) const FUSED_MATMUL: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::FusedMatMul",
        "alpha A' B'; transA and transB swap the last two axes, transBatchA and transBatchB move axis 0 behind the batch",
        &[Param::new("A", Types::FLOAT), Param::new("B", Types::FLOAT)],
        &[Param::new("Y", Types::FLOAT)],
        &[
            ("alpha", AttrDef::Float(1.0)),
            ("transA", AttrDef::Int(0)),
            ("transB", AttrDef::Int(0)),
            ("transBatchA", AttrDef::Int(0)),
            ("transBatchB", AttrDef::Int(0)),
        ],
    ),
    build: |cx, g| {
        let y = product(cx, g)?;
        Ok(vec![g.cast(y, cx.fact(0)?.dtype)?])
    },
    eval: |cx| {
        let (shape, v) = eval_product(cx)?;
        Ok(vec![Tensor::from_f64(cx.fact(0)?.dtype, &shape, v)])
    },
};

/// `alpha A' B'`, wide where it is scaled.
fn product(cx: &Cx, g: &mut Fragment) -> Result<ValueId, OpError> {
    let (a, b) = (factor(cx, g, 0)?, factor(cx, g, 1)?);
    let y = g.binary("MatMul", a, b)?;
    let alpha = cx.float("alpha")?;
    if alpha == 1.0 {
        return Ok(y);
    }
    let y = g.widen(y)?;
    let alpha = g.number(y, alpha.into());
    g.binary("Mul", y, alpha)
}

/// [`product`], of numbers, and its shape.
fn eval_product(cx: &Cx) -> Result<(Vec<usize>, Vec<f64>), OpError> {
    let a = moved(cx.tensor(0)?, &permutation(cx, 0)?)?;
    let b = moved(cx.tensor(1)?, &permutation(cx, 1)?)?;
    let y = &reference("MatMul", &[], &[Some(&a), Some(&b)], 1)?[0];
    let alpha = f64::from(cx.float("alpha")?);
    Ok((y.shape().to_vec(), y.to_f64().into_iter().map(|v| v * alpha).collect()))
}

pub(super) const FUSED_MATMUL_ACTIVATION: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::FusedMatMulActivation",
        "activation(FusedMatMul(A, B))",
        &[Param::new("A", Types::FLOAT), Param::new("B", Types::FLOAT)],
        &[Param::new("Y", Types::FLOAT)],
        &[
            (
                ACTIVATION.0,
                AttrDef::ReqOneOf(&["Relu", "Tanh", "Sigmoid", "LeakyRelu", "HardSigmoid", "Clip"]),
            ),
            ("activation_alpha", AttrDef::OptFloat),
            ("activation_axis", AttrDef::OptInt),
            ("activation_beta", AttrDef::OptFloat),
            ("activation_gamma", AttrDef::OptFloat),
            ("alpha", AttrDef::Float(1.0)),
            ("transA", AttrDef::Int(0)),
            ("transB", AttrDef::Int(0)),
            ("transBatchA", AttrDef::Int(0)),
            ("transBatchB", AttrDef::Int(0)),
        ],
    ),
    build: |cx, g| {
        let y = product(cx, g)?;
        let wide = g.widen(y)?;
        let y = activated(cx, g, wide, &gemm_params(cx)?)?;
        Ok(vec![g.cast(y, cx.fact(0)?.dtype)?])
    },
    eval: |cx| {
        let (shape, mut v) = eval_product(cx)?;
        activate(cx, &mut v, &gemm_params(cx)?)?;
        Ok(vec![Tensor::from_f64(cx.fact(0)?.dtype, &shape, v)])
    },
};

pub(super) const GEMM_FAST_GELU: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::GemmFastGelu",
        "FastGelu of X W + bias",
        &[
            Param::new("X", Types::FLOAT),
            Param::new("W", Types::FLOAT),
            Param::new("bias", Types::FLOAT).optional(),
        ],
        &[Param::new("Y", Types::FLOAT)],
        &[],
    ),
    build: |cx, g| {
        let (x, w) = (g.required(cx, 0)?, g.required(cx, 1)?);
        let y = g.binary("MatMul", x, w)?;
        if let Some(bias) = cx.arg(2) {
            check_parameter(g.fact(y), bias.fact)?;
        }
        let y = g.widen(y)?;
        let bias = g.input(2);
        let y = plus(g, y, bias)?;
        let y = g.apply("Gelu", &[("approximate", Attr::Str("tanh".into()))], &[y])?;
        Ok(vec![g.cast(y, cx.fact(0)?.dtype)?])
    },
    eval: |cx| {
        let (x, w) = (moved(cx.tensor(0)?, &[])?, moved(cx.tensor(1)?, &[])?);
        let mut y = reference("MatMul", &[], &[Some(&x), Some(&w)], 1)?.remove(0);
        if let Some(bias) = optional(cx, 2)? {
            y = reference("Add", &[], &[Some(&y), Some(&moved(bias, &[])?)], 1)?.remove(0);
        }
        let v = y.to_f64().into_iter().map(fast_gelu);
        Ok(vec![Tensor::from_f64(cx.fact(0)?.dtype, y.shape(), v)])
    },
};

/// How the axes of a factor are rearranged.
pub(super) fn permutation(cx: &Cx, i: usize) -> Result<Vec<i64>, OpError> {
    let (swap, batch) = [("transA", "transBatchA"), ("transB", "transBatchB")][i];
    let rank = cx.fact(i)?.rank();
    let mut perm: Vec<i64> = (0..rank as i64).collect();
    if cx.int(batch)? != 0 {
        if rank < 3 {
            return invalid(format!("attribute `{batch}` wants at least 3 axes, not {rank}"));
        }
        perm[..rank - 1].rotate_left(1);
    }
    // A vector has nothing to swap.
    if cx.int(swap)? != 0 && rank > 1 {
        perm.swap(rank - 1, rank - 2);
    }
    Ok(perm)
}

pub(super) fn factor(cx: &Cx, g: &mut Fragment, i: usize) -> Result<ValueId, OpError> {
    let x = g.required(cx, i)?;
    let perm = permutation(cx, i)?;
    if perm.is_sorted() {
        Ok(x)
    } else {
        transpose(g, x, &perm)
    }
}

/// The factor in `f64`, so that its product is not rounded before it is scaled; without an order as it is.
pub(super) fn moved(x: &Tensor, perm: &[i64]) -> Result<Tensor, OpError> {
    let wide = Tensor::from_f64(DType::F64, x.shape(), x.to_f64());
    if perm.is_empty() {
        return Ok(wide);
    }
    let perm = [("perm", Attr::Ints(perm.to_vec()))];
    Ok(reference("Transpose", &perm, &[Some(&wide)], 1)?.remove(0))
}

pub(super) const FUSED_CONV: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::FusedConv",
        "activation(Conv(X, W, B) + Z)",
        &[
            Param::new("X", Types::FLOAT),
            Param::new("W", Types::FLOAT),
            Param::new("B", Types::FLOAT).optional(),
            Param::new("Z", Types::FLOAT).optional(),
        ],
        &[Param::new("Y", Types::FLOAT)],
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
        let (x, w) = (g.required(cx, 0)?, g.required(cx, 1)?);
        let y = g.node("Conv", &plain_attrs(cx), &[Some(x), Some(w), g.input(2)])?;
        if let Some(z) = cx.arg(3)
            && g.fact(y).shape != z.fact.shape
        {
            return invalid(format!("Z is {}, what it is added to {}", z.fact, g.fact(y)));
        }
        let t = g.dtype(y);
        let wide = g.widen(y)?;
        let z = g.input(3);
        let sum = plus(g, wide, z)?;
        let y = activated(cx, g, sum, &conv_params(cx)?)?;
        Ok(vec![g.cast(y, t)?])
    },
    eval: |cx| {
        let (x, w) = (cx.tensor(0)?, cx.tensor(1)?);
        let wide = |t: &Tensor| Tensor::from_f64(DType::F64, t.shape(), t.to_f64());
        let bias = optional(cx, 2)?.map(wide);
        let y = reference(
            "Conv",
            &plain_attrs(cx),
            &[Some(&wide(x)), Some(&wide(w)), bias.as_ref()],
            1,
        )?
        .remove(0);
        let mut v = y.to_f64();
        if let Some(z) = optional(cx, 3)? {
            v.iter_mut().zip(z.to_f64()).for_each(|(v, z)| *v += z);
        }
        activate(cx, &mut v, &conv_params(cx)?)?;
        Ok(vec![Tensor::from_f64(x.dtype(), y.shape(), v)])
    },
};

/// The attributes of the convolution or product alone.
pub(super) fn plain_attrs<'a>(cx: &Cx<'a>) -> Vec<(&'a str, Attr)> {
    let all = cx.attrs.iter().map(|(k, v)| (&**k, v.clone()));
    all.filter(|(k, _)| !k.starts_with("activation")).collect()
}

/// Parameters of the activation, as far as they are given.
pub(super) fn conv_params(cx: &Cx) -> Result<Vec<Option<f32>>, OpError> {
    let given = cx.opt_floats("activation_params")?.unwrap_or_default();
    Ok(given.into_iter().map(Some).collect())
}

/// The attribute `activation` of `x`.
pub(super) fn activated(cx: &Cx, g: &mut Fragment, x: ValueId, params: &[Option<f32>]) -> Result<ValueId, OpError> {
    let p = |i: usize| params.get(i).copied().flatten();
    let attrs = |names: &[&'static str]| -> Vec<(&'static str, Attr)> {
        let given = names.iter().enumerate();
        given.filter_map(|(i, n)| Some((*n, Attr::Float(p(i)?)))).collect()
    };
    match cx.str(ACTIVATION.0)? {
        "" => Ok(x),
        op @ ("Relu" | "Tanh" | "Sigmoid") => g.unary(op, x),
        "LeakyRelu" => g.apply("LeakyRelu", &attrs(&["alpha"]), &[x]),
        "HardSigmoid" => g.apply("HardSigmoid", &attrs(&["alpha", "beta"]), &[x]),
        "Clip" => {
            let bounds = [p(0).unwrap_or(f32::MIN), p(1).unwrap_or(f32::MAX)];
            let [low, high] = bounds.map(|b| g.number(x, b.into()));
            g.apply("Clip", &[], &[x, low, high])
        }
        _ => cx.bad(ACTIVATION.0),
    }
}

/// [`activated`], of numbers.
pub(super) fn activate(cx: &Cx, v: &mut [f64], params: &[Option<f32>]) -> Result<(), OpError> {
    let p = |i: usize, absent: f64| params.get(i).copied().flatten().map_or(absent, f64::from);
    let name = cx.str(ACTIVATION.0)?;
    for v in v {
        *v = match name {
            "Relu" => v.max(0.0),
            "Tanh" => v.tanh(),
            "Sigmoid" => 1.0 / (1.0 + (-*v).exp()),
            "LeakyRelu" if *v < 0.0 => *v * p(0, 0.01),
            "Clip" => v.max(p(0, f64::from(f32::MIN))).min(p(1, f64::from(f32::MAX))),
            "HardSigmoid" => (*v * p(0, 0.2) + p(1, 0.5)).clamp(0.0, 1.0),
            _ => *v,
        };
    }
    Ok(())
}

pub(super) const FUSED_GEMM: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::FusedGemm",
        "activation(alpha A' B' + beta C)",
        &[
            Param::new("A", Types::FLOAT),
            Param::new("B", Types::FLOAT),
            Param::new("C", Types::FLOAT).optional(),
        ],
        &[Param::new("Y", Types::FLOAT)],
        &[
            ACTIVATION,
            ("activation_alpha", AttrDef::OptFloat),
            ("activation_beta", AttrDef::OptFloat),
            ("activation_gamma", AttrDef::OptFloat),
            ("alpha", AttrDef::Float(1.0)),
            ("beta", AttrDef::Float(1.0)),
            ("transA", AttrDef::Int(0)),
            ("transB", AttrDef::Int(0)),
        ],
    ),
    build: |cx, g| {
        let (a, b) = (g.required(cx, 0)?, g.required(cx, 1)?);
        let y = g.node("Gemm", &plain_attrs(cx), &[Some(a), Some(b), g.input(2)])?;
        let t = g.dtype(y);
        let wide = g.widen(y)?;
        let y = activated(cx, g, wide, &gemm_params(cx)?)?;
        Ok(vec![g.cast(y, t)?])
    },
    eval: |cx| {
        let wide = |t: &Tensor| Tensor::from_f64(DType::F64, t.shape(), t.to_f64());
        let (a, b, c) = (wide(cx.tensor(0)?), wide(cx.tensor(1)?), optional(cx, 2)?.map(wide));
        let y = reference("Gemm", &plain_attrs(cx), &[Some(&a), Some(&b), c.as_ref()], 1)?.remove(0);
        let mut v = y.to_f64();
        activate(cx, &mut v, &gemm_params(cx)?)?;
        Ok(vec![Tensor::from_f64(cx.fact(0)?.dtype, y.shape(), v)])
    },
};

fn gemm_params(cx: &Cx) -> Result<Vec<Option<f32>>, OpError> {
    let names = ["activation_alpha", "activation_beta", "activation_gamma"];
    names.into_iter().map(|n| cx.opt_float(n)).collect()
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{infer, sample};
    use crate::{Attr, DType, Dim, Fact};

    fn flags(names: &[&'static str]) -> Vec<(&'static str, Attr)> {
        let mut out: Vec<_> = names.iter().map(|n| (*n, Attr::Int(1))).collect();
        out.push(("alpha", Attr::Float(0.5)));
        out
    }

    #[test]
    fn transposed_factors() {
        let op = "com.microsoft::FusedMatMul";
        for t in [DType::F32, DType::F64, DType::F16] {
            let s = |shape: &[usize], seed| sample(t, shape, seed);
            check(op, &[], &[s(&[3, 4], 1), s(&[4, 5], 2)], 1);
            check(op, &flags(&["transB"]), &[s(&[2, 3, 4], 1), s(&[2, 5, 4], 2)], 1);
            check(op, &flags(&["transA"]), &[s(&[2, 4, 3], 1), s(&[4, 5], 2)], 1);
            check(op, &flags(&["transBatchA"]), &[s(&[3, 2, 4], 1), s(&[2, 4, 5], 2)], 1);
            let all = ["transA", "transB", "transBatchA", "transBatchB"];
            check(op, &flags(&all), &[s(&[4, 2, 3], 1), s(&[5, 2, 4], 2)], 1);
        }
        let f = |s: &[i64]| Fact::new(DType::F32, s.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        assert!(infer(op, &flags(&["transBatchA"]), &[f(&[3, 4]), f(&[4, 5])]).is_err());
    }

    #[test]
    fn activated_products() {
        let op = "com.microsoft::FusedMatMulActivation";
        for t in [DType::F32, DType::F16] {
            let s = |shape: &[usize], seed| sample(t, shape, seed);
            let mut attrs = flags(&["transB"]);
            attrs.push(("activation", Attr::Str("Relu".into())));
            check(op, &attrs, &[s(&[2, 3, 4], 1), s(&[2, 5, 4], 2)], 1);
            let op = "com.microsoft::GemmFastGelu";
            check(op, &[], &[s(&[2, 3, 4], 1), s(&[4, 5], 2)], 1);
            check(op, &[], &[s(&[2, 3, 4], 1), s(&[4, 5], 2), s(&[5], 3)], 1);
        }
        let f = Fact::new(DType::F32, vec![Dim::from(4i64); 2]);
        let softmax = [("activation", Attr::Str("Softmax".into()))];
        let error = infer(op, &softmax, &[f.clone(), f]).expect_err("no such activation");
        assert!(
            error
                .to_string()
                .contains("`activation` is `Softmax`, it can be `Relu`"),
            "{error}"
        );
    }

    #[test]
    fn gemm() {
        let x = |shape: &[usize], seed| sample(DType::F32, shape, seed);
        let inputs = [x(&[3, 5], 1), x(&[4, 5], 2), x(&[4], 3)];
        for name in ["Relu", "Tanh", "LeakyRelu", "HardSigmoid"] {
            let attrs = [
                ("activation", Attr::Str(name.into())),
                ("activation_alpha", Attr::Float(0.25)),
                ("alpha", Attr::Float(0.5)),
                ("transB", Attr::Int(1)),
            ];
            check("com.microsoft::FusedGemm", &attrs, &inputs, 1);
        }
    }

    #[test]
    fn convolutions() {
        let op = "com.microsoft::FusedConv";
        let s = |shape: &[usize], seed| sample(DType::F32, shape, seed);
        let (x, w, b, z) = (
            s(&[1, 2, 5, 4], 1),
            s(&[3, 2, 3, 3], 2),
            s(&[3], 3),
            s(&[1, 3, 5, 4], 4),
        );
        let pads = ("pads", Attr::Ints(vec![1, 1, 1, 1]));
        for (name, params) in [
            ("Relu", vec![]),
            ("Tanh", vec![]),
            ("Sigmoid", vec![]),
            ("LeakyRelu", vec![0.2]),
            ("Clip", vec![0.0, 6.0]),
            ("HardSigmoid", vec![0.1, 0.4]),
        ] {
            let attrs = [
                pads.clone(),
                ("activation", Attr::Str(name.into())),
                ("activation_params", Attr::Floats(params)),
            ];
            check(op, &attrs, &[x.clone(), w.clone(), b.clone(), z.clone()], 1);
        }
        check(op, &[], &[x.clone(), w.clone()], 1);
        check(op, &[pads], &[x, w, None, z], 1);
        let f = |s: &[i64]| Fact::new(DType::F32, s.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        let strange = [("activation", Attr::Str("Gelu".into()))];
        let error = infer(op, &strange, &[f(&[1, 2, 5, 4]), f(&[3, 2, 3, 3])]).expect_err("no such activation");
        assert_eq!(
            error.to_string(),
            "unsupported: attribute `activation` is `Gelu`, it can be `Relu`, `Tanh`, `Sigmoid`, `LeakyRelu`, `HardSigmoid` or `Clip`"
        );
    }
}
