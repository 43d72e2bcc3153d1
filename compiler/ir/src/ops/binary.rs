//! Arithmetic of two or more operands that broadcast together, element by element.
//!
//! Integer arithmetic of known elements is carried on symbolically: shapes are computed with these operations. Division
//! of dims is floor division, so it is used only where both operands are provably not negative.

use crate::index::{broadcast_index, broadcast_linear, broadcasts_to, for_each};
use crate::naive::scalar;
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid};
use crate::ops::chosen::{brief, negative};
use crate::ops::pointwise::{self, RESULT, working};
use crate::structured::{Binary, Compute, ExprId};
use crate::{Bounds, DType, Dim, Fact, Real, Tensor};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &Fold {
        schema: &Schema::new("Add", "a + b", NUMBERS, RESULT, &[])
            .pointwise()
            .commutative(),
        scalar: Binary::Add,
        float: |a, b| a + b,
        int: |a, b| a + b,
        known: add,
        average: false,
    },
    &Fold {
        schema: &Schema::new("Sub", "a - b", NUMBERS, RESULT, &[]).pointwise(),
        scalar: Binary::Sub,
        float: |a, b| a - b,
        int: |a, b| a - b,
        known: |a, b| add(a, &opposite(b)?),
        average: false,
    },
    &Fold {
        schema: &Schema::new("Mul", "a * b", NUMBERS, RESULT, &[])
            .pointwise()
            .commutative(),
        scalar: Binary::Mul,
        float: |a, b| a * b,
        int: i128::wrapping_mul,
        known: multiply,
        average: false,
    },
    &Fold {
        schema: &Schema::new("Div", "a / b; of integers toward zero", NUMBERS, RESULT, &[]).pointwise(),
        scalar: Binary::Div,
        float: |a, b| a / b,
        int: |a, b| a.checked_div(b).unwrap_or(0),
        known: divide,
        average: false,
    },
    &Fold {
        schema: &Schema::new("Min", "the smallest; NaN if any is NaN", MANY, RESULT, &[])
            .pointwise()
            .commutative(),
        scalar: Binary::Min,
        float: |a, b| {
            if a.is_nan() {
                a
            } else if b < a || b.is_nan() {
                b
            } else {
                a
            }
        },
        int: i128::min,
        known: |a, b| Some(smaller(a, b)),
        average: false,
    },
    &Fold {
        schema: &Schema::new("Max", "the largest; NaN if any is NaN", MANY, RESULT, &[])
            .pointwise()
            .commutative(),
        scalar: Binary::Max,
        float: |a, b| {
            if a.is_nan() {
                a
            } else if b > a || b.is_nan() {
                b
            } else {
                a
            }
        },
        int: i128::max,
        known: |a, b| Some(larger(a, b)),
        average: false,
    },
    &Fold {
        schema: &Schema::new("Sum", "a + b + ...", MANY_FLOATS, RESULT, &[])
            .pointwise()
            .commutative(),
        scalar: Binary::Add,
        float: |a, b| a + b,
        int: |a, b| a + b,
        known: |_, _| None,
        average: false,
    },
    &Fold {
        schema: &Schema::new("Mean", "(a + b + ...) / count", MANY_FLOATS, RESULT, &[])
            .pointwise()
            .commutative(),
        scalar: Binary::Add,
        float: |a, b| a + b,
        int: |a, b| a + b,
        known: |_, _| None,
        average: true,
    },
    &Pow,
    &Mod,
    &PRelu,
];

const NUMBERS: &[Param] = &[Param::new("A", Types::NUMBER), Param::new("B", Types::NUMBER)];
const MANY: &[Param] = &[Param::new("data", Types::NUMBER).variadic()];
const MANY_FLOATS: &[Param] = &[Param::new("data", Types::FLOAT).variadic()];

/// Range of a dim of which the symbols are positive.
pub(crate) fn range(d: &Dim) -> (i64, i64) {
    Bounds::positive(&[]).range(d)
}

/// The sum; `None` where the elements would wrap around.
pub(crate) fn add(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a.as_const(), b.as_const()) {
        (Some(a), Some(b)) => a.checked_add(b).map(Dim::from),
        _ => unsaturated(a.clone() + b.clone()),
    }
}

/// A formula none of whose factors may have been cut to what fits.
fn unsaturated(d: Dim) -> Option<Dim> {
    let cut = d
        .terms()
        .iter()
        .any(|(_, factor)| matches!(*factor, i64::MIN | i64::MAX));
    (!cut).then_some(d)
}

/// The negative; the least integer has none.
pub(crate) fn opposite(d: &Dim) -> Option<Dim> {
    multiply(d, &Dim::from(-1i64))
}

/// The product; `None` where the elements would wrap around.
pub(crate) fn multiply(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a.as_const(), b.as_const()) {
        (Some(a), Some(b)) => a.checked_mul(b).map(Dim::from),
        _ => unsaturated(a.clone() * b.clone()),
    }
}

fn divide(a: &Dim, b: &Dim) -> Option<Dim> {
    if let (Some(x), Some(y)) = (a.as_const(), b.as_const()) {
        return x.checked_div(y).map(Dim::from);
    }
    let signed = range(a).0 < 0;
    // Where extents are taken apart, long formulas follow from each other.
    let is_long = || !a.has_elements() && !brief(&[a.clone(), b.clone()]);
    let (by, b) = (b, &divisor(b)?);
    if signed && is_long() {
        return None;
    }
    // Towards zero.
    let up = if signed {
        negative(a) * (b.clone() - Dim::ONE)
    } else {
        Dim::ZERO
    };
    let q = (a.clone() + up).floor_div(b);
    // What no number is divided by gives 0, as everywhere.
    Some(if by == b { q } else { q * by.minimum(&Dim::ONE) })
}

/// What a formula divides by where the divisor may be 0: then the result is no number that anyone asks for.
fn divisor(b: &Dim) -> Option<Dim> {
    match range(b).0 {
        1.. => Some(b.clone()),
        0 if !b.is_zero() => Some(b.maximum(&Dim::ONE)),
        _ => None,
    }
}

/// The minimum, without the atom where the ranges decide.
pub(crate) fn smaller(a: &Dim, b: &Dim) -> Dim {
    let (lo, hi) = range(&(a.clone() - b.clone()));
    match (lo, hi) {
        _ if hi <= 0 => a.clone(),
        _ if lo >= 0 => b.clone(),
        _ => a.minimum(b),
    }
}

/// The maximum, without the atom where the ranges decide.
pub(crate) fn larger(a: &Dim, b: &Dim) -> Dim {
    let rest = a.clone() - b.clone();
    // That no extent is 0 is presumed for the first one only: it stays in what is left, and a run checks it.
    match (range(&rest).0, Bounds::of(&[]).range(&rest).1) {
        (0.., _) => a.clone(),
        (_, ..=0) => b.clone(),
        _ => a.maximum(b),
    }
}

/// `f(f(a, b), c) ...` over one or more operands, divided by their number where `average`.
struct Fold {
    schema: &'static Schema,
    scalar: Binary,
    float: fn(f64, f64) -> f64,
    int: fn(i128, i128) -> i128,
    known: fn(&Dim, &Dim) -> Option<Dim>,
    average: bool,
}

impl OpDef for Fold {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let t = cx.fact(0)?.dtype;
        if t.is_float() {
            return pointwise::infer_reals(cx, t, |a| {
                let step = |x: Dim, y: &Dim| pointwise::rounded(t, &self.scalar.of_reals(&x, y)?);
                let plain = !self.average || a.len() == 1;
                plain.then(|| a[1..].iter().try_fold(a[0].clone(), step)).flatten()
            });
        }
        pointwise::infer(cx, t, |a| {
            a[1..].iter().try_fold(a[0].clone(), |x, y| (self.known)(&x, y))
        })
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let t = cx.fact(0)?.dtype;
        if !t.is_float() {
            return pointwise::eval_integers(cx, t, |a| a[1..].iter().fold(a[0], |x, y| (self.int)(x, *y)));
        }
        let by = if self.average { cx.inputs.len() as f64 } else { 1.0 };
        // Each step rounds to the type that it is computed in.
        let step = |x, y: &f64| scalar::nearest(working(t), (self.float)(x, *y));
        pointwise::eval_floats(cx, t, |a| a[1..].iter().fold(a[0], step) / by)
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        pointwise::lower(cx, cx.fact(0)?.dtype, |b, a| {
            let joined = a[1..].iter().fold(a[0], |x, y| b.binary(self.scalar, x, *y));
            if self.average && a.len() > 1 {
                let count = b.float(b.dtype(joined), a.len() as f64);
                b.binary(Binary::Div, joined, count)
            } else {
                joined
            }
        })
    }
}

struct Pow;

impl Pow {
    /// The type the power is computed in. Integers go through `f64`, as in C++ `std::pow`.
    fn working(base: DType, exponent: DType) -> DType {
        match (working(base), working(exponent)) {
            (DType::F32, e) if e != DType::F64 => DType::F32,
            _ => DType::F64,
        }
    }
}

impl OpDef for Pow {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "Pow",
            "x^y, in the type of x",
            &[Param::new("X", Types::NUMBER), Param::new("Y", Types::NUMBER).group(2)],
            RESULT,
            &[],
        )
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let t = cx.fact(0)?.dtype;
        if t.is_float() {
            return pointwise::infer_reals(cx, t, |a| match &a[1] {
                e if *e == Dim::real(2.0) => Some(Dim::apply(Real::Mul, &a[0], &a[0])),
                e if *e == Dim::real(0.5) => Some(Dim::map_real(Real::Sqrt, &a[0])),
                _ => None,
            });
        }
        pointwise::infer(cx, t, |a| {
            let (base, exponent) = (a[0].as_const()?, u32::try_from(a[1].as_const()?).ok()?);
            base.checked_pow(exponent).map(Dim::from)
        })
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        pointwise::eval_floats(cx, cx.fact(0)?.dtype, |a| a[0].powf(a[1]))
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let t = cx.fact(0)?.dtype;
        let work = Self::working(t, cx.fact(1)?.dtype);
        pointwise::lower(cx, t, |b, a| {
            let (x, y) = (b.cast(work, a[0]), b.cast(work, a[1]));
            b.binary(Binary::Pow, x, y)
        })
    }
}

struct Mod;

impl Mod {
    /// Whether the result has the sign of the dividend.
    fn truncates(cx: &Cx) -> Result<bool, OpError> {
        Ok(cx.int("fmod")? != 0)
    }
}

impl OpDef for Mod {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "Mod",
            "remainder of a / b, of the sign of b; with fmod=1 of the sign of a",
            NUMBERS,
            RESULT,
            &[("fmod", AttrDef::Int(0))],
        )
        .since(10)
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let truncates = Self::truncates(cx)?;
        pointwise::infer(cx, cx.fact(0)?.dtype, |a| {
            let by = divisor(&a[1])?;
            (!truncates || range(&a[0]).0 >= 0).then(|| a[0].modulo(&by))
        })
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let truncates = Self::truncates(cx)?;
        let t = cx.fact(0)?.dtype;
        if t.is_float() {
            return pointwise::eval_floats(cx, t, |a| {
                let r = a[0] % a[1];
                if !truncates && r != 0.0 && (r < 0.0) != (a[1] < 0.0) {
                    r + a[1]
                } else {
                    r
                }
            });
        }
        pointwise::eval_integers(cx, t, |a| {
            let r = a[0].checked_rem(a[1]).unwrap_or(0);
            if !truncates && r != 0 && (r < 0) != (a[1] < 0) {
                r + a[1]
            } else {
                r
            }
        })
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let scalar = if Self::truncates(cx)? { Binary::Rem } else { Binary::Mod };
        pointwise::lower(cx, cx.fact(0)?.dtype, |b, a| b.binary(scalar, a[0], a[1]))
    }
}

struct PRelu;

impl PRelu {
    fn check(cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let (x, slope) = (cx.fact(0)?, cx.fact(1)?);
        broadcasts_to(&slope.shape, &x.shape).or_else(|_| invalid(format!("slope {slope} does not broadcast to x {x}")))
    }
}

impl OpDef for PRelu {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "PRelu",
            "x where x >= 0, else slope * x; slope broadcasts to x",
            &[Param::new("X", Types::NUMBER), Param::new("slope", Types::NUMBER)],
            RESULT,
            &[],
        )
        .pointwise();
        &S
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        Self::check(cx)
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::check(cx)?;
        let x = cx.fact(0)?;
        Ok(vec![Fact::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, slope) = (cx.tensor(0)?, cx.tensor(1)?);
        let mut at = vec![];
        for_each(x.shape(), |ix| at.push(broadcast_linear(slope.shape(), ix)));
        let out = if x.dtype().is_float() {
            let s = slope.to_f64();
            let v = x
                .to_f64()
                .into_iter()
                .zip(at)
                .map(|(x, i)| if x < 0.0 { s[i] * x } else { x });
            Tensor::from_f64(x.dtype(), x.shape(), v)
        } else {
            let s = pointwise::integers(slope);
            let v = pointwise::integers(x)
                .into_iter()
                .zip(at)
                .map(|(x, i)| if x < 0 { s[i] * x } else { x });
            pointwise::from_integers(x.dtype(), x.shape(), v.collect())
        };
        Ok(vec![out])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, slope) = (cx.fact(0)?, cx.fact(1)?);
        let work = working(x.dtype);
        Ok(Lowering::Compute(vec![Compute::map(x.dtype, &x.shape, |b, i| {
            let v = b.load(0, x.dtype, i.to_vec());
            let v = b.cast(work, v);
            let s = b.load(1, x.dtype, broadcast_index(&slope.shape, &x.shape, i));
            let s = b.cast(work, s);
            let zero = b.number(work, 0.0);
            let negative = b.binary(Binary::Lt, v, zero);
            let scaled = b.binary(Binary::Mul, s, v);
            let y: ExprId = b.select(negative, scaled, v);
            b.cast(x.dtype, y)
        })]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, pairs, sample};

    #[test]
    fn arithmetic() {
        let types = [
            DType::F32,
            DType::F64,
            DType::F16,
            DType::I64,
            DType::I32,
            DType::U8,
            DType::U64,
        ];
        for op in ["Add", "Sub", "Mul", "Div", "Min", "Max"] {
            pairs(op, &types);
        }
        pairs("Pow", &[DType::F32, DType::F64, DType::I64]);
        pairs("Mod", &[DType::I64, DType::I32, DType::U8]);
        pairs("PRelu", &[]);
        for t in [DType::F32, DType::I32, DType::F16] {
            check("PRelu", &[], &[sample(t, &[2, 3, 4], 1), sample(t, &[3, 1], 2)], 1);
            check(
                "Mod",
                &[("fmod", Attr::Int(1))],
                &[sample(t, &[2, 9], 1), sample(t, &[9], 2)],
                1,
            );
        }
    }

    #[test]
    fn any_number_of_operands() {
        for op in ["Sum", "Mean", "Min", "Max"] {
            for n in 1..4 {
                let shapes: [&[usize]; 3] = [&[2, 1], &[3], &[1, 1]];
                let inputs: Vec<_> = shapes[..n]
                    .iter()
                    .enumerate()
                    .map(|(i, s)| sample(DType::F32, s, i as u64))
                    .collect();
                check(op, &[], &inputs, 1);
            }
        }
    }

    #[test]
    fn integers_by_hand() {
        let i = |v: &[i64]| Some(Tensor::i64(&[v.len()], v.iter().copied()));
        let (a, b) = (i(&[-7, 7, -7, 7, 5]), i(&[2, 2, -2, -2, 0]));
        let run = |op: &str, attrs: &[(&str, Attr)]| eval(op, attrs, &[a.clone(), b.clone()], 1)[0].to_i64();
        assert_eq!(run("Div", &[]), [-3, 3, 3, -3, 0]);
        assert_eq!(run("Mod", &[]), [1, 1, -1, -1, 0]);
        assert_eq!(run("Mod", &[("fmod", Attr::Int(1))]), [-1, 1, -1, 1, 0]);
        assert_eq!(
            eval("Pow", &[], &[i(&[2, -3]), i(&[10, 3])], 1)[0].to_i64(),
            [1024, -27]
        );
        let big = Some(Tensor::from_i64(DType::I32, &[1], [i64::from(i32::MAX)]));
        let one = Some(Tensor::from_i64(DType::I32, &[1], [1]));
        assert_eq!(eval("Add", &[], &[big, one], 1)[0].to_i64(), [i64::from(i32::MIN)]);
    }

    #[test]
    fn not_a_number_wins() {
        let (x, y) = (
            Some(Tensor::f32(&[2], [f32::NAN, 1.0])),
            Some(Tensor::f32(&[2], [1.0, f32::NAN])),
        );
        for op in ["Min", "Max"] {
            check(op, &[], &[x.clone(), y.clone()], 1);
            assert!(
                eval(op, &[], &[x.clone(), y.clone()], 1)[0]
                    .to_f64()
                    .iter()
                    .all(|v| v.is_nan())
            );
        }
    }

    #[test]
    fn known_elements() {
        let (s, c) = (Dim::sym("S"), |v: i64| Dim::from(v));
        let vec = |k: &[Dim]| Fact::with_known(DType::I64, vec![Dim::from(k.len())], k.to_vec());
        let known = |op: &str, a: &[Dim], b: &[Dim]| infer(op, &[], &[vec(a), vec(b)]).expect("infers").remove(0).known;
        assert_eq!(
            known("Add", &[s.clone(), c(1)], &[c(2)]),
            Some(vec![s.clone() + c(2), c(3)])
        );
        assert_eq!(
            known("Mul", std::slice::from_ref(&s), std::slice::from_ref(&s)),
            Some(vec![s.clone() * s.clone()])
        );
        assert_eq!(
            known("Div", &[s.clone() * c(6)], &[c(4)]),
            Some(vec![(s.clone() * c(6)).floor_div(&c(4))])
        );
        assert_eq!(known("Add", &[c(i64::MAX)], &[c(1)]), None, "wraps");
        assert_eq!(
            known("Sub", &[c(3)], std::slice::from_ref(&s)),
            Some(vec![c(3) - s.clone()])
        );
        assert_eq!(known("Div", &[c(-7)], &[c(2)]), Some(vec![c(-3)]));
        let half = known("Div", &[s.clone() - c(9)], &[c(2)]).expect("a formula");
        let at = |n| half[0].eval(&|_| Some(n));
        assert_eq!([4, 6, 9, 12, 13].map(at), [-2, -1, 0, 1, 2].map(Some));
        assert_eq!(known("Div", std::slice::from_ref(&s), &[c(0)]), None);
        assert_eq!(known("Max", std::slice::from_ref(&s), &[c(1)]), Some(vec![s.clone()]));
        assert_eq!(known("Mod", &[s.clone() * c(4) + c(3)], &[c(4)]), Some(vec![c(3)]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let f = |t: DType, s: &[usize]| Fact::new(t, s.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        assert!(infer("Add", &[], &[f(DType::F32, &[2]), f(DType::F32, &[3])]).is_err());
        assert!(infer("Add", &[], &[f(DType::F32, &[2]), f(DType::F64, &[2])]).is_err());
        assert!(infer("Mod", &[], &[f(DType::Bool, &[2]), f(DType::Bool, &[2])]).is_err());
        assert!(infer("PRelu", &[], &[f(DType::F32, &[2]), f(DType::F32, &[3, 2])]).is_err());
    }
}
