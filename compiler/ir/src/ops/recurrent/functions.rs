//! The functions that recurrent layers may name, with their parameters.
//!
//! Law: `activation_alpha` and `activation_beta` hold the parameters of the functions that have one, in the order of the
//! functions, as ONNX Runtime takes them; a list that is short is filled with the functions' own defaults, one that is long
//! is refused.

use super::{ACTIVATION_ALPHA, ACTIVATION_BETA, ACTIVATIONS};
use crate::op::{Cx, OpError, invalid, unsupported};
use crate::ops::fragment::Fragment;
use crate::{Attr, ValueId};

/// A function with its parameters.
pub(super) struct Function {
    kind: &'static Kind,
    alpha: f32,
    beta: f32,
}

struct Kind {
    name: &'static str,
    /// Defaults of the parameters that it has.
    alpha: Option<f32>,
    beta: Option<f32>,
    reference: fn(f64, f64, f64) -> f64,
    apply: fn(&mut Fragment, ValueId, f32, f32) -> Result<ValueId, OpError>,
}

/// Section "Activation functions" of ONNX's RNN; where it has no default, ONNX Runtime's.
const KINDS: &[Kind] = &[
    Kind {
        name: "Relu",
        alpha: None,
        beta: None,
        reference: |x, _, _| x.max(0.0),
        apply: |g, x, _, _| g.unary("Relu", x),
    },
    Kind {
        name: "Tanh",
        alpha: None,
        beta: None,
        reference: |x, _, _| x.tanh(),
        apply: |g, x, _, _| g.unary("Tanh", x),
    },
    Kind {
        name: "Sigmoid",
        alpha: None,
        beta: None,
        reference: |x, _, _| 1.0 / (1.0 + (-x).exp()),
        apply: |g, x, _, _| g.unary("Sigmoid", x),
    },
    Kind {
        name: "Affine",
        alpha: Some(1.0),
        beta: Some(0.0),
        reference: |x, a, b| a * x + b,
        apply: |g, x, a, b| {
            let [a, b] = [a, b].map(|v| g.number(x, v.into()));
            let x = g.binary("Mul", x, a)?;
            g.binary("Add", x, b)
        },
    },
    Kind {
        name: "LeakyRelu",
        alpha: Some(0.01),
        beta: None,
        reference: |x, a, _| if x < 0.0 { a * x } else { x },
        apply: |g, x, a, _| g.apply("LeakyRelu", &[("alpha", Attr::Float(a))], &[x]),
    },
    Kind {
        name: "ThresholdedRelu",
        alpha: Some(1.0),
        beta: None,
        reference: |x, a, _| if x > a { x } else { 0.0 },
        apply: |g, x, a, _| g.apply("ThresholdedRelu", &[("alpha", Attr::Float(a))], &[x]),
    },
    Kind {
        name: "ScaledTanh",
        alpha: Some(1.0),
        beta: Some(1.0),
        reference: |x, a, b| a * (b * x).tanh(),
        apply: |g, x, a, b| {
            let [a, b] = [a, b].map(|v| g.number(x, v.into()));
            let x = g.binary("Mul", x, b)?;
            let x = g.unary("Tanh", x)?;
            g.binary("Mul", x, a)
        },
    },
    Kind {
        name: "HardSigmoid",
        alpha: Some(0.2),
        beta: Some(0.5),
        reference: |x, a, b| (a * x + b).clamp(0.0, 1.0),
        apply: |g, x, a, b| {
            let attrs = [("alpha", Attr::Float(a)), ("beta", Attr::Float(b))];
            g.apply("HardSigmoid", &attrs, &[x])
        },
    },
    Kind {
        name: "Elu",
        alpha: Some(1.0),
        beta: None,
        reference: |x, a, _| if x < 0.0 { a * x.exp_m1() } else { x },
        apply: |g, x, a, _| g.apply("Elu", &[("alpha", Attr::Float(a))], &[x]),
    },
    Kind {
        name: "Softsign",
        alpha: None,
        beta: None,
        reference: |x, _, _| x / (1.0 + x.abs()),
        apply: |g, x, _, _| g.unary("Softsign", x),
    },
    Kind {
        name: "Softplus",
        alpha: None,
        beta: None,
        reference: |x, _, _| x.max(0.0) + (-x.abs()).exp().ln_1p(),
        apply: |g, x, _, _| g.unary("Softplus", x),
    },
];

impl Function {
    pub(super) fn apply(&self, g: &mut Fragment, x: ValueId) -> Result<ValueId, OpError> {
        (self.kind.apply)(g, x, self.alpha, self.beta)
    }

    pub(super) fn of(&self, x: f64) -> f64 {
        (self.kind.reference)(x, self.alpha.into(), self.beta.into())
    }
}

/// The functions of each direction.
pub(super) fn of(cx: &Cx, defaults: &[&str], directions: usize) -> Result<Vec<Vec<Function>>, OpError> {
    let count = defaults.len() * directions;
    let names: Vec<&str> = match cx.opt_strs(ACTIVATIONS.0)? {
        None => defaults.iter().copied().cycle().take(count).collect(),
        Some(names) => names.iter().map(|n| &**n).collect(),
    };
    if names.len() != count {
        let given = names.len();
        return invalid(format!("attribute `activations` has {given} entries, not {count}"));
    }
    let list = |name: &str| Ok(cx.opt_floats(name)?.unwrap_or_default().into_iter());
    let (mut alphas, mut betas) = (list(ACTIVATION_ALPHA.0)?, list(ACTIVATION_BETA.0)?);
    let parameter = |list: &mut std::vec::IntoIter<f32>, default: Option<f32>| {
        default.map_or(0.0, |default| list.next().unwrap_or(default))
    };
    let mut all = vec![];
    for name in names {
        let Some(kind) = KINDS.iter().find(|k| k.name.eq_ignore_ascii_case(name)) else {
            let known: Vec<&str> = KINDS.iter().map(|k| k.name).collect();
            return unsupported(format!(
                "attribute `activations` has `{name}`, it can have {}",
                known.join(", ")
            ));
        };
        all.push(Function {
            kind,
            alpha: parameter(&mut alphas, kind.alpha),
            beta: parameter(&mut betas, kind.beta),
        });
    }
    for (name, left) in [(ACTIVATION_ALPHA.0, alphas.len()), (ACTIVATION_BETA.0, betas.len())] {
        if left > 0 {
            return invalid(format!("attribute `{name}` has {left} entries that no function takes"));
        }
    }
    let mut out = vec![];
    while !all.is_empty() {
        let rest = all.split_off(defaults.len());
        out.push(std::mem::replace(&mut all, rest));
    }
    Ok(out)
}
