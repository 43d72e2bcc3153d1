//! Activation functions: functions of one operand with attributes.
//!
//! Each is an entry with its `f64` reference and its scalar body. Bodies avoid overflow and cancellation (softplus is
//! `max(x,0) + log1p(e^-|x|)`).

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types};
use crate::ops::binary::larger;
use crate::ops::pointwise::{self, FLOATS, RESULT, working};
use crate::ops::unary::{Function, erf, of_floats};
use crate::structured::{Binary, Body, ExprId, Unary};
use crate::{DType, Dim, Fact, Real, Tensor};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &Relu,
    &Function {
        schema: &of_floats("Sigmoid", "1 / (1 + e^-x)"),
        scalar: Unary::Sigmoid,
        reference: sigmoid,
    },
    &Function {
        schema: &of_floats("Tanh", "tanh x"),
        scalar: Unary::Tanh,
        reference: f64::tanh,
    },
    &Activation {
        schema: &with_attrs(
            "LeakyRelu",
            "x where x >= 0, else alpha x",
            &[("alpha", AttrDef::Float(0.01))],
        ),
        reference: |x, p| if x < 0.0 { p[0] * x } else { x },
        body: |b, x, p| {
            let low = b.times(x, p[0]);
            b.if_negative(x, low, x)
        },
    },
    &Activation {
        schema: &with_attrs(
            "Elu",
            "x where x >= 0, else alpha (e^x - 1)",
            &[("alpha", AttrDef::Float(1.0))],
        ),
        reference: |x, p| if x < 0.0 { p[0] * x.exp_m1() } else { x },
        body: |b, x, p| {
            let e = b.exp_minus_one(x);
            let low = b.times(e, p[0]);
            b.if_negative(x, low, x)
        },
    },
    &Activation {
        schema: &with_attrs(
            "Selu",
            "gamma x where x > 0, else gamma alpha (e^x - 1)",
            &[
                ("alpha", AttrDef::Float(1.673_263_2)),
                ("gamma", AttrDef::Float(1.050_701)),
            ],
        ),
        reference: |x, p| p[1] * if x > 0.0 { x } else { p[0] * x.exp_m1() },
        body: |b, x, p| {
            let e = b.exp_minus_one(x);
            let low = b.times(e, p[0]);
            let y = b.if_negative(x, low, x);
            b.times(y, p[1])
        },
    },
    &Activation {
        schema: &with_attrs(
            "Celu",
            "max(0, x) + min(0, alpha (e^(x / alpha) - 1))",
            &[("alpha", AttrDef::Float(1.0))],
        )
        .since(12),
        // Minima and maxima of Rust drop NaNs.
        reference: |x, p| {
            if x.is_nan() {
                return x;
            }
            x.max(0.0) + (p[0] * (x / p[0]).exp_m1()).min(0.0)
        },
        body: |b, x, p| {
            let scaled = b.over(x, p[0]);
            let e = b.exp_minus_one(scaled);
            let low = b.times(e, p[0]);
            let (low, high) = (b.at_most(low, 0.0), b.at_least(x, 0.0));
            b.body.binary(Binary::Add, high, low)
        },
    },
    &Activation {
        schema: &with_attrs(
            "ThresholdedRelu",
            "x where x > alpha, else 0",
            &[("alpha", AttrDef::Float(1.0))],
        )
        .since(10),
        reference: |x, p| if x > p[0] { x } else { 0.0 },
        body: |b, x, p| {
            let (alpha, zero) = (b.number(p[0]), b.number(0.0));
            let above = b.body.binary(Binary::Lt, alpha, x);
            b.body.select(above, x, zero)
        },
    },
    &Activation {
        schema: &with_attrs(
            "HardSigmoid",
            "alpha x + beta between 0 and 1",
            &[("alpha", AttrDef::Float(0.2)), ("beta", AttrDef::Float(0.5))],
        ),
        reference: |x, p| (p[0] * x + p[1]).clamp(0.0, 1.0),
        body: |b, x, p| b.hard_sigmoid(x, p[0], p[1]),
    },
    &Activation {
        schema: &of_floats("HardSwish", "x (x/6 + 1/2 between 0 and 1)").since(14),
        reference: |x, _| x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        body: |b, x, _| {
            let gate = b.hard_sigmoid(x, 1.0 / 6.0, 0.5);
            b.body.binary(Binary::Mul, x, gate)
        },
    },
    &Activation {
        schema: &of_floats("Softplus", "ln(1 + e^x)"),
        reference: |x, _| softplus(x),
        body: |b, x, _| b.softplus(x),
    },
    &Activation {
        schema: &of_floats("Softsign", "x / (1 + |x|)"),
        reference: |x, _| x / (1.0 + x.abs()),
        body: |b, x, _| {
            let a = b.body.unary(Unary::Abs, x);
            let a = b.plus(a, 1.0);
            b.body.binary(Binary::Div, x, a)
        },
    },
    &Activation {
        schema: &of_floats("Mish", "x tanh(ln(1 + e^x))").since(18),
        reference: |x, _| x * softplus(x).tanh(),
        body: |b, x, _| {
            let s = b.softplus(x);
            let t = b.body.unary(Unary::Tanh, s);
            b.body.binary(Binary::Mul, x, t)
        },
    },
    &Activation {
        schema: &with_attrs("Swish", "x / (1 + e^(-alpha x))", &[("alpha", AttrDef::Float(1.0))]).since(24),
        reference: |x, p| x * sigmoid(p[0] * x),
        body: |b, x, p| {
            let scaled = b.times(x, p[0]);
            let gate = b.body.unary(Unary::Sigmoid, scaled);
            b.body.binary(Binary::Mul, x, gate)
        },
    },
    &Gelu,
    &Shrink,
    &super::swiglu::SWIGLU,
];

const fn with_attrs(name: &'static str, doc: &'static str, attrs: &'static [(&'static str, AttrDef)]) -> Schema {
    Schema::new(name, doc, FLOATS, RESULT, attrs).pointwise()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// A function of one float and of float attributes, which it is given in schema order.
struct Activation {
    schema: &'static Schema,
    reference: fn(f64, &[f64]) -> f64,
    body: fn(&mut Formula, ExprId, &[f64]) -> ExprId,
}

impl Activation {
    fn parameters(&self, cx: &Cx) -> Result<Vec<f64>, OpError> {
        self.schema
            .attrs
            .iter()
            .map(|(name, _)| Ok(cx.float(name)?.into()))
            .collect()
    }
}

impl OpDef for Activation {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        self.parameters(cx)?;
        pointwise::infer(cx, cx.fact(0)?.dtype, |_| None)
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let p = self.parameters(cx)?;
        pointwise::eval_floats(cx, cx.fact(0)?.dtype, |a| (self.reference)(a[0], &p))
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let p = self.parameters(cx)?;
        let t = cx.fact(0)?.dtype;
        pointwise::lower(cx, t, |body, a| {
            let dtype = working(t);
            (self.body)(&mut Formula { body, dtype }, a[0], &p)
        })
    }
}

/// A body under construction in which numbers are plain.
struct Formula<'a> {
    body: &'a mut Body,
    dtype: DType,
}

impl Formula<'_> {
    fn number(&mut self, v: f64) -> ExprId {
        self.body.float(self.dtype, v)
    }

    fn with(&mut self, f: Binary, x: ExprId, v: f64) -> ExprId {
        let v = self.number(v);
        self.body.binary(f, x, v)
    }

    fn plus(&mut self, x: ExprId, v: f64) -> ExprId {
        self.with(Binary::Add, x, v)
    }

    fn times(&mut self, x: ExprId, v: f64) -> ExprId {
        if v == 1.0 { x } else { self.with(Binary::Mul, x, v) }
    }

    fn over(&mut self, x: ExprId, v: f64) -> ExprId {
        if v == 1.0 { x } else { self.with(Binary::Div, x, v) }
    }

    fn at_least(&mut self, x: ExprId, v: f64) -> ExprId {
        self.with(Binary::Max, x, v)
    }

    fn at_most(&mut self, x: ExprId, v: f64) -> ExprId {
        self.with(Binary::Min, x, v)
    }

    fn if_negative(&mut self, x: ExprId, then: ExprId, other: ExprId) -> ExprId {
        let negative = self.with(Binary::Lt, x, 0.0);
        self.body.select(negative, then, other)
    }

    fn exp_minus_one(&mut self, x: ExprId) -> ExprId {
        let e = self.body.unary(Unary::Exp, x);
        self.with(Binary::Sub, e, 1.0)
    }

    fn hard_sigmoid(&mut self, x: ExprId, alpha: f64, beta: f64) -> ExprId {
        let line = self.times(x, alpha);
        let line = self.plus(line, beta);
        let line = self.at_least(line, 0.0);
        self.at_most(line, 1.0)
    }

    fn softplus(&mut self, x: ExprId) -> ExprId {
        let a = self.body.unary(Unary::Abs, x);
        let a = self.body.unary(Unary::Neg, a);
        let e = self.body.unary(Unary::Exp, a);
        let l = self.body.unary(Unary::Log1p, e);
        let high = self.at_least(x, 0.0);
        self.body.binary(Binary::Add, high, l)
    }
}

struct Relu;

impl OpDef for Relu {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new("Relu", "max(x, 0)", &[Param::new("X", Types::NUMBER)], RESULT, &[]).pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        match cx.fact(0)?.dtype {
            t if t.is_float() => pointwise::infer_reals(cx, t, |a| Some(Dim::apply(Real::Max, &a[0], &Dim::real(0.0)))),
            t => pointwise::infer(cx, t, |a| Some(larger(&a[0], &Dim::ZERO))),
        }
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let t = cx.fact(0)?.dtype;
        if t.is_float() {
            pointwise::eval_floats(cx, t, |a| if a[0] < 0.0 { 0.0 } else { a[0] })
        } else {
            pointwise::eval_integers(cx, t, |a| a[0].max(0))
        }
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let t = cx.fact(0)?.dtype;
        pointwise::lower(cx, t, |b, a| {
            let zero = b.number(working(t), 0.0);
            b.binary(Binary::Max, a[0], zero)
        })
    }
}

struct Gelu;

impl Gelu {
    /// Whether the tanh formula is asked for instead of the exact one.
    fn by_tanh(cx: &Cx) -> Result<bool, OpError> {
        match cx.str("approximate")? {
            "none" => Ok(false),
            "tanh" => Ok(true),
            _ => cx.bad("approximate"),
        }
    }
}

/// sqrt(2 / pi).
const TANH_SCALE: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
/// The cubic coefficient of the tanh formula, from the ONNX specification.
const TANH_CUBIC: f64 = 0.044715;

impl OpDef for Gelu {
    fn schema(&self) -> &'static Schema {
        static S: Schema = with_attrs(
            "Gelu",
            "x/2 (1 + erf(x / sqrt 2)), or x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) with approximate=tanh",
            &[("approximate", AttrDef::OneOf(&["none", "tanh"]))],
        )
        .since(20);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::by_tanh(cx)?;
        pointwise::infer(cx, cx.fact(0)?.dtype, |_| None)
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let by_tanh = Self::by_tanh(cx)?;
        pointwise::eval_floats(cx, cx.fact(0)?.dtype, |a| {
            let x = a[0];
            let s = if by_tanh {
                ((2.0 / std::f64::consts::PI).sqrt() * (x + TANH_CUBIC * x * x * x)).tanh()
            } else {
                erf(x / 2f64.sqrt())
            };
            0.5 * x * (1.0 + s)
        })
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let by_tanh = Self::by_tanh(cx)?;
        let t = cx.fact(0)?.dtype;
        pointwise::lower(cx, t, |body, a| {
            let x = a[0];
            let dtype = working(t);
            let mut b = Formula { body, dtype };
            if !by_tanh {
                return b.body.unary(Unary::Gelu, x);
            }
            // x + c x^3 = x (1 + c x^2)
            let square = b.body.binary(Binary::Mul, x, x);
            let inner = b.times(square, TANH_CUBIC);
            let inner = b.plus(inner, 1.0);
            let inner = b.body.binary(Binary::Mul, x, inner);
            let inner = b.times(inner, TANH_SCALE);
            let s = b.body.unary(Unary::Tanh, inner);
            let s = b.plus(s, 1.0);
            let half = b.times(x, 0.5);
            b.body.binary(Binary::Mul, half, s)
        })
    }
}

struct Shrink;

impl Shrink {
    fn parameters(cx: &Cx) -> Result<(f64, f64), OpError> {
        Ok((cx.float("bias")?.into(), cx.float("lambd")?.into()))
    }
}

impl OpDef for Shrink {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "Shrink",
            "x + bias where x < -lambd, x - bias where x > lambd, else 0",
            &[Param::new("X", Types::NUMBER)],
            RESULT,
            &[("bias", AttrDef::Float(0.0)), ("lambd", AttrDef::Float(0.5))],
        )
        .since(9)
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::parameters(cx)?;
        pointwise::infer(cx, cx.fact(0)?.dtype, |_| None)
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (bias, lambda) = Self::parameters(cx)?;
        pointwise::eval_floats(cx, cx.fact(0)?.dtype, |a| match a[0] {
            x if x < -lambda => x + bias,
            x if x > lambda => x - bias,
            _ => 0.0,
        })
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (bias, lambda) = Self::parameters(cx)?;
        let t = cx.fact(0)?.dtype;
        pointwise::lower(cx, t, |body, a| {
            // Integers meet fractional attributes: they are computed as f64.
            let dtype = if t.is_float() { working(t) } else { DType::F64 };
            let x = body.cast(dtype, a[0]);
            let mut b = Formula { body, dtype };
            let (low, high) = (b.plus(x, bias), b.plus(x, -bias));
            let (minus, plus, zero) = (b.number(-lambda), b.number(lambda), b.number(0.0));
            let below = b.body.binary(Binary::Lt, x, minus);
            let above = b.body.binary(Binary::Lt, plus, x);
            let upper = b.body.select(above, high, zero);
            b.body.select(below, low, upper)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};

    #[test]
    fn all_with_their_defaults() {
        for op in OPS.iter().filter(|op| op.schema().inputs.len() == 1) {
            for t in [DType::F32, DType::F64, DType::F16] {
                check(op.schema().name, &[], &[sample(t, &[4, 7], 1)], 1);
            }
            let far = Tensor::f32(&[6], [-1000.0, -88.0, -0.0, 0.0, 88.0, 1000.0]);
            check(op.schema().name, &[], &[Some(far)], 1);
            check(op.schema().name, &[], &[sample(DType::F32, &[], 1)], 1);
        }
    }

    #[test]
    fn attributes() {
        let x = || [sample(DType::F32, &[3, 5], 2)];
        let alpha = |v: f32| ("alpha", Attr::Float(v));
        for op in [
            "LeakyRelu",
            "Elu",
            "Selu",
            "Celu",
            "ThresholdedRelu",
            "HardSigmoid",
            "Swish",
        ] {
            check(op, &[alpha(0.3)], &x(), 1);
            check(op, &[alpha(1.7)], &x(), 1);
        }
        check("Selu", &[alpha(0.5), ("gamma", Attr::Float(2.0))], &x(), 1);
        check("HardSigmoid", &[("beta", Attr::Float(0.1))], &x(), 1);
        check("Gelu", &[("approximate", Attr::Str("tanh".into()))], &x(), 1);
        let shrink = [("bias", Attr::Float(1.5)), ("lambd", Attr::Float(1.5))];
        check("Shrink", &shrink, &x(), 1);
        check("Shrink", &shrink, &[sample(DType::I32, &[9], 3)], 1);
        check("Relu", &[], &[sample(DType::I64, &[9], 3)], 1);
        let bad = [("approximate", Attr::Str("sin".into()))];
        assert!(infer("Gelu", &bad, &[Fact::new(DType::F32, vec![])]).is_err());
    }

    #[test]
    fn values_by_hand() {
        let x = Some(Tensor::from_f64(DType::F64, &[3], [-1.0, 0.0, 2.0]));
        for (op, want) in [
            ("Gelu", [-0.158_655_253_931, 0.0, 1.954_499_736_104]),
            (
                "Softplus",
                [0.313_261_687_518, std::f64::consts::LN_2, 2.126_928_011_043],
            ),
            ("Mish", [-0.303_401_460_770, 0.0, 1.943_958_925_834]),
            ("HardSwish", [-0.333_333_333_333, 0.0, 1.666_666_666_667]),
            ("Elu", [-0.632_120_558_829, 0.0, 2.0]),
            ("Softsign", [-0.5, 0.0, 0.666_666_666_667]),
        ] {
            let got = eval(op, &[], std::slice::from_ref(&x), 1)[0].to_f64();
            for (g, w) in got.iter().zip(want) {
                assert!((g - w).abs() < 1e-6, "{op}: {got:?}");
            }
        }
    }
}
