//! Functions of one operand, element by element.
//!
//! Most are functions of floats: a row of data naming the scalar function of the body and its `f64` reference.

use crate::naive::scalar;
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types};
use crate::ops::binary::{add, opposite};
use crate::ops::pointwise::{self, FLOATS, MOVED, RESULT};
use crate::structured::{Binary, Body, Compute, ExprId, Unary};
use crate::{DType, Dim, Fact, Tensor};

const SIGNED: Types = Types(Types::FLOAT.0 | Types::of(&[DType::I8, DType::I16, DType::I32, DType::I64]).0);

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &Arithmetic {
        schema: &Schema::new("Neg", "-x", &[Param::new("X", SIGNED)], RESULT, &[]).pointwise(),
        scalar: Unary::Neg,
        float: |x| -x,
        int: |x| -x,
        known: opposite,
    },
    &Arithmetic {
        schema: &Schema::new("Abs", "|x|", &[Param::new("X", Types::NUMBER)], RESULT, &[]).pointwise(),
        scalar: Unary::Abs,
        float: f64::abs,
        int: i128::abs,
        known: |d| Some(d.maximum(&opposite(d)?)),
    },
    &Arithmetic {
        schema: &Schema::new("Sign", "-1, 0 or 1", &[Param::new("X", Types::NUMBER)], RESULT, &[])
            .since(9)
            .pointwise(),
        scalar: Unary::Sign,
        float: |x| if x == 0.0 || x.is_nan() { x } else { x.signum() },
        int: i128::signum,
        known: |d| d.as_const().map(|c| Dim::from(c.signum())),
    },
    &Function {
        schema: &of_floats("Exp", "e^x"),
        scalar: Unary::Exp,
        reference: f64::exp,
    },
    &Function {
        schema: &of_floats("Log", "ln x"),
        scalar: Unary::Log,
        reference: f64::ln,
    },
    &Function {
        schema: &of_floats("Sqrt", "x^(1/2)"),
        scalar: Unary::Sqrt,
        reference: f64::sqrt,
    },
    &Function {
        schema: &of_floats("Reciprocal", "1 / x"),
        scalar: Unary::Reciprocal,
        reference: f64::recip,
    },
    &Function {
        schema: &of_floats("Erf", "2/sqrt(pi) * integral of e^(-t^2) for t in 0..x").since(9),
        scalar: Unary::Erf,
        reference: erf,
    },
    &Function {
        schema: &of_floats("Sin", "sin x").since(7),
        scalar: Unary::Sin,
        reference: f64::sin,
    },
    &Function {
        schema: &of_floats("Cos", "cos x").since(7),
        scalar: Unary::Cos,
        reference: f64::cos,
    },
    &Function {
        schema: &of_floats("Tan", "tan x").since(7),
        scalar: Unary::Tan,
        reference: f64::tan,
    },
    &Function {
        schema: &of_floats("Asin", "arcsin x").since(7),
        scalar: Unary::Asin,
        reference: f64::asin,
    },
    &Function {
        schema: &of_floats("Acos", "arccos x").since(7),
        scalar: Unary::Acos,
        reference: f64::acos,
    },
    &Function {
        schema: &of_floats("Atan", "arctan x").since(7),
        scalar: Unary::Atan,
        reference: f64::atan,
    },
    &Function {
        schema: &of_floats("Sinh", "sinh x").since(9),
        scalar: Unary::Sinh,
        reference: f64::sinh,
    },
    &Function {
        schema: &of_floats("Cosh", "cosh x").since(9),
        scalar: Unary::Cosh,
        reference: f64::cosh,
    },
    &Function {
        schema: &of_floats("Asinh", "arsinh x").since(9),
        scalar: Unary::Asinh,
        reference: scalar::asinh,
    },
    &Function {
        schema: &of_floats("Acosh", "arcosh x").since(9),
        scalar: Unary::Acosh,
        reference: scalar::acosh,
    },
    &Function {
        schema: &of_floats("Atanh", "artanh x").since(9),
        scalar: Unary::Atanh,
        reference: f64::atanh,
    },
    &Function {
        schema: &of_floats("Floor", "largest integer <= x"),
        scalar: Unary::Floor,
        reference: f64::floor,
    },
    &Function {
        schema: &of_floats("Ceil", "smallest integer >= x"),
        scalar: Unary::Ceil,
        reference: f64::ceil,
    },
    &Function {
        schema: &of_floats("Round", "nearest integer, halves to even").since(11),
        scalar: Unary::Round,
        reference: f64::round_ties_even,
    },
    &Not,
    &BitwiseNot,
    &IsNan,
    &IsInf,
    &Identity,
];

/// The schema of a function of one float.
pub(crate) const fn of_floats(name: &'static str, doc: &'static str) -> Schema {
    Schema::new(name, doc, FLOATS, RESULT, &[]).pointwise()
}

/// A function of one float that is one scalar function.
pub(crate) struct Function {
    pub schema: &'static Schema,
    pub scalar: Unary,
    pub reference: fn(f64) -> f64,
}

impl OpDef for Function {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        pointwise::infer_reals(cx, cx.fact(0)?.dtype, |a| self.scalar.of_real(&a[0]))
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        pointwise::eval_floats(cx, cx.fact(0)?.dtype, |a| (self.reference)(a[0]))
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        pointwise::lower(cx, cx.fact(0)?.dtype, |b, a| b.unary(self.scalar, a[0]))
    }
}

/// A function of one number, integers included.
struct Arithmetic {
    schema: &'static Schema,
    scalar: Unary,
    float: fn(f64) -> f64,
    int: fn(i128) -> i128,
    known: fn(&Dim) -> Option<Dim>,
}

impl OpDef for Arithmetic {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        match cx.fact(0)?.dtype {
            t if t.is_float() => pointwise::infer_reals(cx, t, |a| self.scalar.of_real(&a[0])),
            t => pointwise::infer(cx, t, |a| (self.known)(&a[0])),
        }
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let t = cx.fact(0)?.dtype;
        if t.is_float() {
            pointwise::eval_floats(cx, t, |a| (self.float)(a[0]))
        } else {
            pointwise::eval_integers(cx, t, |a| (self.int)(a[0]))
        }
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let t = cx.fact(0)?.dtype;
        pointwise::lower(cx, t, |b, a| match self.scalar {
            // Unsigned numbers have no sign to take off, and the scalar functions are those of signed ones.
            Unary::Abs if !t.is_signed() => a[0],
            Unary::Sign if !t.is_signed() => {
                let (zero, one) = (b.int(t, 0), b.int(t, 1));
                let is_zero = b.binary(Binary::Eq, a[0], zero);
                b.select(is_zero, zero, one)
            }
            f => b.unary(f, a[0]),
        })
    }
}

struct Not;

impl OpDef for Not {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new("Not", "not x", &[Param::new("X", Types::BOOL)], RESULT, &[]).pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        pointwise::infer(cx, DType::Bool, |a| Some(Dim::ONE - a[0].clone()))
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        pointwise::eval_integers(cx, DType::Bool, |a| i128::from(a[0] == 0))
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        pointwise::lower(cx, DType::Bool, |b, a| b.unary(Unary::Not, a[0]))
    }
}

struct BitwiseNot;

impl OpDef for BitwiseNot {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "BitwiseNot",
            "all bits of x flipped",
            &[Param::new("X", Types::INT)],
            RESULT,
            &[],
        )
        .since(18)
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let t = cx.fact(0)?.dtype;
        // Two's complement; for unsigned types the negative number does not fit and nothing is known.
        pointwise::infer(cx, t, |a| {
            add(&opposite(&a[0])?, &Dim::from(-1i64)).filter(|_| t.is_signed())
        })
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        pointwise::eval_integers(cx, cx.fact(0)?.dtype, |a| !a[0])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        pointwise::lower(cx, cx.fact(0)?.dtype, |b, a| b.unary(Unary::BitNot, a[0]))
    }
}

/// What may be no number.
const TESTED: &[Param] = &[Param::new("X", Types(Types::FLOAT.0 | Types::FLOAT8.0))];
const IS: &[Param] = &[Param::new("Y", Types::BOOL).group(2)];

/// `x` in a type that has comparisons.
fn comparable(b: &mut Body, x: ExprId) -> ExprId {
    if b.dtype(x).is_narrow() {
        b.cast(DType::F32, x)
    } else {
        x
    }
}

struct IsNan;

impl OpDef for IsNan {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new("IsNaN", "x is not a number", TESTED, IS, &[])
            .since(9)
            .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        pointwise::infer(cx, DType::Bool, |_| None)
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        pointwise::eval_floats(cx, DType::Bool, |a| f64::from(u8::from(a[0].is_nan())))
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        pointwise::lower(cx, DType::Bool, |b, a| {
            let x = comparable(b, a[0]);
            b.unary(Unary::IsNan, x)
        })
    }
}

struct IsInf;

impl IsInf {
    /// Whether negative and positive infinity count.
    fn signs(cx: &Cx) -> Result<(bool, bool), OpError> {
        Ok((cx.int("detect_negative")? != 0, cx.int("detect_positive")? != 0))
    }
}

impl OpDef for IsInf {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "IsInf",
            "x is infinite, of a sign that is asked for",
            TESTED,
            IS,
            &[
                ("detect_negative", AttrDef::Int(1)),
                ("detect_positive", AttrDef::Int(1)),
            ],
        )
        .since(10)
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::signs(cx)?;
        pointwise::infer(cx, DType::Bool, |_| None)
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (negative, positive) = Self::signs(cx)?;
        pointwise::eval_floats(cx, DType::Bool, |a| {
            f64::from(u8::from(
                a[0].is_infinite() && if a[0] > 0.0 { positive } else { negative },
            ))
        })
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let signs = Self::signs(cx)?;
        pointwise::lower(cx, DType::Bool, |b, a| {
            let x = comparable(b, a[0]);
            let t = b.dtype(x);
            let mut equals = |v: f64| {
                let c = b.float(t, v);
                b.binary(Binary::Eq, x, c)
            };
            match signs {
                (true, true) => b.unary(Unary::IsInf, x),
                (true, false) => equals(f64::NEG_INFINITY),
                (false, true) => equals(f64::INFINITY),
                (false, false) => b.int(DType::Bool, 0),
            }
        })
    }
}

struct Identity;

impl OpDef for Identity {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new("Identity", "x", &[Param::new("X", Types::MOVED)], MOVED, &[]).pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![cx.fact(0)?.clone()])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![cx.tensor(0)?.clone()])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        Ok(Lowering::Compute(vec![copy(cx.fact(0)?)]))
    }
}

/// Output 0 as a plain copy of operand 0.
pub(crate) fn copy(x: &Fact) -> Compute {
    Compute::map(x.dtype, &x.shape, |b, i| b.load(0, x.dtype, i.to_vec()))
}

/// The error function to full `f64` precision, by `erf x = 2/sqrt(pi) e^(-x^2) sum 2^n x^(2n+1) / (1*3*...*(2n+1))`
/// (Abramowitz and Stegun 7.1.6), whose terms all have one sign, so that nothing cancels.
pub fn erf(x: f64) -> f64 {
    // From here on `1 - erf x` is below half an ulp of 1.
    if x.abs() >= 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    // NaN ends the loop at once.
    while term.abs() > sum.abs() * f64::EPSILON / 4.0 {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};

    const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

    #[test]
    fn functions_of_floats() {
        for op in OPS
            .iter()
            .filter(|o| o.schema().inputs[0].types == Types::FLOAT && o.schema().name != "Dropout")
        {
            for t in FLOATS {
                check(op.schema().name, &[], &[sample(t, &[3, 5], 1)], 1);
            }
            check(op.schema().name, &[], &[sample(DType::F32, &[], 2)], 1);
            check(op.schema().name, &[], &[sample(DType::F32, &[0, 3], 2)], 1);
        }
    }

    #[test]
    fn functions_of_integers() {
        for t in [DType::I64, DType::I32, DType::I8] {
            for op in ["Neg", "Abs", "Sign", "BitwiseNot", "Identity"] {
                check(op, &[], &[sample(t, &[2, 7], 3)], 1);
            }
        }
        for t in [DType::U8, DType::U32, DType::U64] {
            for op in ["Abs", "Sign", "BitwiseNot", "Identity"] {
                check(op, &[], &[sample(t, &[9], 4)], 1);
            }
        }
        for op in ["Neg", "Abs", "Sign"] {
            check(op, &[], &[sample(DType::F32, &[4, 4], 5)], 1);
        }
        check("Not", &[], &[sample(DType::Bool, &[3, 1], 6)], 1);
        assert!(infer("Neg", &[], &[Fact::new(DType::U8, vec![])]).is_err(), "unsigned");
        assert!(
            infer("Exp", &[], &[Fact::new(DType::I32, vec![])]).is_err(),
            "not a float"
        );
    }

    #[test]
    fn special_values() {
        let x = Some(Tensor::f32(
            &[5],
            [f32::NEG_INFINITY, -1.0, 0.0, f32::INFINITY, f32::NAN],
        ));
        for (negative, positive, want) in [
            (1, 1, [1, 0, 0, 1, 0]),
            (0, 1, [0, 0, 0, 1, 0]),
            (1, 0, [1, 0, 0, 0, 0]),
        ] {
            let attrs = [
                ("detect_negative", Attr::Int(negative)),
                ("detect_positive", Attr::Int(positive)),
            ];
            check("IsInf", &attrs, std::slice::from_ref(&x), 1);
            assert_eq!(eval("IsInf", &attrs, std::slice::from_ref(&x), 1)[0].to_i64(), want);
        }
        check("IsNaN", &[], std::slice::from_ref(&x), 1);
        assert_eq!(eval("IsNaN", &[], &[x], 1)[0].to_i64(), [0, 0, 0, 0, 1]);
        let halves = Some(Tensor::f32(&[4], [0.5, 1.5, 2.5, -0.5]));
        assert_eq!(eval("Round", &[], &[halves], 1)[0].to_f64(), [0.0, 2.0, 2.0, 0.0]);
    }

    #[test]
    fn error_function() {
        // From Abramowitz and Stegun, table 7.1.
        for (x, want) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_8),
            (1.0, 0.842_700_792_9),
            (2.0, 0.995_322_265_0),
        ] {
            assert!((erf(x) - want).abs() < 1e-10, "erf {x} = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!(erf(7.0), 1.0);
        assert!((erf(5.999) - 1.0).abs() < 1e-15);
        assert!(erf(f64::NAN).is_nan());
    }

    #[test]
    fn known_elements() {
        let s = Dim::sym("S");
        let x = Fact::with_known(DType::I64, vec![Dim::from(2usize)], vec![s.clone(), Dim::from(-3i64)]);
        let known = |op: &str| {
            infer(op, &[], std::slice::from_ref(&x))
                .expect("infers")
                .remove(0)
                .known
        };
        assert_eq!(known("Neg"), Some(vec![-s.clone(), Dim::from(3i64)]));
        assert_eq!(known("Identity"), Some(vec![s.clone(), Dim::from(-3i64)]));
        assert_eq!(known("Sign"), None, "the sign of a symbol is not asked");
        assert_eq!(opposite(&(s + Dim::from(i64::MIN))), None);
        // It wraps around.
        let least = Fact::with_known(DType::I64, vec![Dim::ONE], vec![Dim::from(i64::MIN)]);
        for (op, there) in [
            ("Neg", None),
            ("Abs", None),
            ("BitwiseNot", None),
            ("Identity", Some(i64::MIN)),
        ] {
            let found = infer(op, &[], std::slice::from_ref(&least))
                .expect("infers")
                .remove(0)
                .known;
            assert_eq!(found, there.map(|v| vec![Dim::from(v)]), "{op}");
        }
    }
}
