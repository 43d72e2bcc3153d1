//! What becomes of the scores of a row.

use std::f64::consts::{FRAC_2_PI, SQRT_2};

use crate::op::{AttrDef, Cx, OpError, invalid};
use crate::ops::fragment::Fragment;
use crate::{Attr, ValueId};

/// Attribute `post_transform`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Post {
    None,
    Softmax,
    Logistic,
    /// Softmax in which scores of 0 stay 0.
    SoftmaxZero,
    Probit,
}

/// Below this a score is 0 to [`Post::SoftmaxZero`].
const NOTHING: f64 = 1e-7;
/// The constant of Winitzki's approximation of the inverse error function.
const WINITZKI: f64 = 0.147;

pub(super) const POST: (&str, AttrDef) = (
    "post_transform",
    AttrDef::OneOf(&["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"]),
);

impl Post {
    pub(super) fn named(cx: &Cx) -> Result<Self, OpError> {
        match cx.str(POST.0)? {
            "NONE" => Ok(Self::None),
            "SOFTMAX" => Ok(Self::Softmax),
            "LOGISTIC" => Ok(Self::Logistic),
            "SOFTMAX_ZERO" => Ok(Self::SoftmaxZero),
            "PROBIT" => Ok(Self::Probit),
            _ => cx.bad(POST.0),
        }
    }

    pub(super) fn numbered(n: i64) -> Result<Self, OpError> {
        let all = [
            Self::None,
            Self::Softmax,
            Self::Logistic,
            Self::SoftmaxZero,
            Self::Probit,
        ];
        match usize::try_from(n).ok().and_then(|n| all.get(n)) {
            Some(post) => Ok(*post),
            None => invalid(format!("attribute `post_transform` is {n}")),
        }
    }

    /// Of a matrix of floats.
    pub(super) fn build(self, g: &mut Fragment, x: ValueId) -> Result<ValueId, OpError> {
        match self {
            Self::None => Ok(x),
            Self::Softmax => g.apply("Softmax", &[("axis", Attr::Int(1))], &[x]),
            Self::Logistic => g.unary("Sigmoid", x),
            Self::SoftmaxZero => {
                let most = g.reduce("ReduceMax", x, &[1], true)?;
                let above = g.binary("Sub", x, most)?;
                let power = g.unary("Exp", above)?;
                let down = g.unary("Neg", most)?;
                let down = g.unary("Exp", down)?;
                let scaled = g.binary("Mul", x, down)?;
                let size = g.unary("Abs", x)?;
                let (least, zero, half) = (g.number(x, NOTHING), g.number(x, 0.0), g.number(x, 0.5));
                let counts = g.binary("Less", least, size)?;
                let v = g.apply("Where", &[], &[counts, power, scaled])?;
                let sum = g.reduce("ReduceSum", v, &[1], true)?;
                let empty = g.binary("Equal", sum, zero)?;
                let y = g.binary("Div", v, sum)?;
                g.apply("Where", &[], &[empty, half, y])
            }
            Self::Probit => {
                let number = |g: &mut Fragment, v: f64| g.number(x, v);
                let (one, two, zero) = (number(g, 1.0), number(g, 2.0), number(g, 0.0));
                let double = g.binary("Mul", x, two)?;
                let p = g.binary("Sub", double, one)?;
                let (low, high) = (g.binary("Sub", one, p)?, g.binary("Add", one, p)?);
                let inside = g.binary("Mul", low, high)?;
                let log = g.unary("Log", inside)?;
                let (half, shift) = (number(g, 0.5), number(g, FRAC_2_PI / WINITZKI));
                let v = g.binary("Mul", log, half)?;
                let v = g.binary("Add", v, shift)?;
                let square = g.binary("Mul", v, v)?;
                let factor = number(g, 1.0 / WINITZKI);
                let rest = g.binary("Mul", log, factor)?;
                let root = g.binary("Sub", square, rest)?;
                let root = g.unary("Sqrt", root)?;
                let root = g.binary("Sub", root, v)?;
                let root = g.unary("Sqrt", root)?;
                let (up, down) = (number(g, SQRT_2), number(g, -SQRT_2));
                let negative = g.binary("Less", p, zero)?;
                let sign = g.apply("Where", &[], &[negative, down, up])?;
                let y = g.binary("Mul", sign, root)?;
                let certain = g.binary("Equal", inside, zero)?;
                g.apply("Where", &[], &[certain, zero, y])
            }
        }
    }

    /// Of one row.
    pub(super) fn eval(self, row: &mut [f64]) {
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match self {
            Self::None => {}
            Self::Logistic => row.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
            Self::Softmax | Self::SoftmaxZero => {
                for x in &mut *row {
                    let counts = self == Self::Softmax || x.abs() > NOTHING;
                    *x = if counts { (*x - most).exp() } else { *x * (-most).exp() };
                }
                let sum: f64 = row.iter().sum();
                row.iter_mut()
                    .for_each(|x| *x = if sum == 0.0 { 0.5 } else { *x / sum });
            }
            Self::Probit => {
                for x in row {
                    let p = 2.0 * *x - 1.0;
                    let inside = (1.0 - p) * (1.0 + p);
                    let log = inside.ln();
                    let v = FRAC_2_PI / WINITZKI + 0.5 * log;
                    let root = ((v * v - log / WINITZKI).sqrt() - v).sqrt();
                    *x = if inside == 0.0 {
                        0.0
                    } else {
                        SQRT_2 * if p < 0.0 { -root } else { root }
                    };
                }
            }
        }
    }
}

/// The place of the first maximum of a row.
pub(super) fn first_maximum(row: &[f64]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}
