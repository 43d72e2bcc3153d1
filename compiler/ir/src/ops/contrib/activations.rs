//! Activations with a bias in the same node.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types};
use crate::ops::composed::{Composed, plus};
use crate::ops::fragment::Fragment;
use crate::ops::norms::check_parameter;
use crate::ops::pointwise::{self, FLOATS, RESULT};
use crate::ops::unary::erf;
use crate::{Attr, Tensor, ValueId};

const BIASED: &[Param] = &[
    Param::new("X", Types::FLOAT),
    Param::new("bias", Types::FLOAT).optional(),
];

pub(super) const FAST_GELU: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::FastGelu",
        "Gelu of X + bias by the tanh formula",
        BIASED,
        RESULT,
        &[],
    ),
    build: |cx, g| activation(cx, g, "Gelu", &[("approximate", Attr::Str("tanh".into()))]),
    eval: |cx| eval(cx, fast_gelu),
};

pub(super) fn fast_gelu(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

pub(super) const BIAS_GELU: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::BiasGelu",
        "Gelu of A + B",
        &[Param::new("A", Types::FLOAT), Param::new("B", Types::FLOAT)],
        RESULT,
        &[],
    ),
    build: |cx, g| activation(cx, g, "Gelu", &[]),
    eval: |cx| eval(cx, gelu),
};

pub(super) const QUICK_GELU: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QuickGelu",
        "x / (1 + e^(-alpha x))",
        FLOATS,
        RESULT,
        &[("alpha", AttrDef::Float(1.702))],
    ),
    build: |cx, g| activation(cx, g, "Swish", &[("alpha", Attr::Float(cx.float("alpha")?))]),
    eval: |cx| {
        let alpha = f64::from(cx.float("alpha")?);
        eval(cx, |x| x / (1.0 + (-alpha * x).exp()))
    },
};

pub(super) const GELU: Composed = Composed {
    schema: &Schema::new("com.microsoft::Gelu", "x/2 (1 + erf(x / sqrt 2))", FLOATS, RESULT, &[]),
    build: |cx, g| activation(cx, g, "Gelu", &[]),
    eval: |cx| eval(cx, gelu),
};

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / 2f64.sqrt()))
}

/// `op` of the sum of all inputs, of which the first has the result's shape.
fn activation(cx: &Cx, g: &mut Fragment, op: &str, attrs: &[(&str, Attr)]) -> Result<Vec<ValueId>, OpError> {
    let x = g.required(cx, 0)?;
    let t = g.dtype(x);
    if let Some(bias) = cx.arg(1) {
        check_parameter(cx.fact(0)?, bias.fact)?;
    }
    let x = g.widen(x)?;
    let bias = g.input(1);
    let x = plus(g, x, bias)?;
    let y = g.apply(op, attrs, &[x])?;
    Ok(vec![g.cast(y, t)?])
}

fn eval(cx: &Cx, f: impl Fn(f64) -> f64) -> Result<Vec<Tensor>, OpError> {
    pointwise::eval_floats(cx, cx.fact(0)?.dtype, |a| f(a.iter().sum()))
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{infer, sample};
    use crate::{Attr, DType, Dim, Fact};

    #[test]
    fn with_and_without_a_bias() {
        for t in [DType::F32, DType::F64, DType::F16] {
            let (x, bias) = (sample(t, &[2, 3, 7], 1), sample(t, &[7], 2));
            for op in ["com.microsoft::FastGelu", "com.microsoft::BiasGelu"] {
                check(op, &[], &[x.clone(), bias.clone()], 1);
            }
            for op in [
                "com.microsoft::FastGelu",
                "com.microsoft::QuickGelu",
                "com.microsoft::Gelu",
            ] {
                check(op, &[], std::slice::from_ref(&x), 1);
            }
            let alpha = [("alpha", Attr::Float(0.5))];
            check("com.microsoft::QuickGelu", &alpha, &[x], 1);
        }
        let f = |s: &[i64]| Fact::new(DType::F32, s.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        assert!(infer("com.microsoft::BiasGelu", &[], &[f(&[2, 3]), f(&[4])]).is_err());
    }
}
