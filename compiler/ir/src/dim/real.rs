//! Arithmetic of floats in dims: sizes that exporters compute as `floor(H * 0.7)` or `sqrt(N)`.
//!
//! A float is a [`Dim`] whose value is the bits of an `f64`; functions of floats are atoms into which nothing but this file
//! looks. Numbers of `f32` are rounded after each step ([`Real::Single`]): `f64` has more than twice as many bits, so that this
//! is what computing in `f32` gives.
//!
//! Law: where exact arithmetic decides, integers remain. Whole numbers below 2^24 and halves, quarters and so on of them are
//! exact in `f32`, and a quotient of two of them is rounded up or down as the exact one is: `ceil(S / 3)` is `fdiv(S+2,3)`.

use super::{Atom, Bounds, Dim};

/// A function of one or two floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Real {
    /// The float of an integer.
    Of,
    /// The integer of a float, toward zero; the nearest one where it has none, and 0 for NaN.
    Whole,
    /// The nearest number of `f32`.
    Single,
    Neg,
    Abs,
    Floor,
    Ceil,
    /// Half to even.
    Round,
    Sqrt,
    Add,
    Sub,
    Mul,
    Div,
    /// NaN if either is NaN.
    Min,
    /// NaN if either is NaN.
    Max,
}

/// Whole numbers that factors may be, and numerators of those that are not whole: their products with extents are exact.
const FACTOR: f64 = 65536.0;
const NUMERATOR: u64 = 256;
/// Denominators that are as good as exact, as powers of two.
const DENOMINATOR: i64 = 20;

impl Real {
    pub const ALL: [Self; 15] = [
        Self::Of,
        Self::Whole,
        Self::Single,
        Self::Neg,
        Self::Abs,
        Self::Floor,
        Self::Ceil,
        Self::Round,
        Self::Sqrt,
        Self::Add,
        Self::Sub,
        Self::Mul,
        Self::Div,
        Self::Min,
        Self::Max,
    ];

    /// How texts call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Of => "real",
            Self::Whole => "whole",
            Self::Single => "rsingle",
            Self::Neg => "rneg",
            Self::Abs => "rabs",
            Self::Floor => "rfloor",
            Self::Ceil => "rceil",
            Self::Round => "rround",
            Self::Sqrt => "rsqrt",
            Self::Add => "radd",
            Self::Sub => "rsub",
            Self::Mul => "rmul",
            Self::Div => "rdiv",
            Self::Min => "rmin",
            Self::Max => "rmax",
        }
    }

    pub const fn is_binary(self) -> bool {
        matches!(
            self,
            Self::Add | Self::Sub | Self::Mul | Self::Div | Self::Min | Self::Max
        )
    }

    /// The value, of bits as [`Dim::real`] has them; what has one operand ignores the second.
    pub fn apply(self, a: i64, b: i64) -> i64 {
        match self {
            Self::Of => bits(a as f64),
            Self::Whole => number(a) as i64,
            _ => bits(self.of(number(a), number(b))),
        }
    }

    /// The float, of floats.
    fn of(self, x: f64, y: f64) -> f64 {
        match self {
            Self::Of | Self::Whole => x,
            Self::Single => f64::from(x as f32),
            Self::Neg => -x,
            Self::Abs => x.abs(),
            Self::Floor => x.floor(),
            Self::Ceil => x.ceil(),
            Self::Round => x.round_ties_even(),
            Self::Sqrt => x.sqrt(),
            Self::Add => x + y,
            Self::Sub => x - y,
            Self::Mul => x * y,
            Self::Div => x / y,
            Self::Min | Self::Max if x.is_nan() || y.is_nan() => f64::NAN,
            Self::Min => x.min(y),
            Self::Max => x.max(y),
        }
    }

    /// The call, with operands that are written by `dim` where they are no constant floats.
    pub(crate) fn text(self, a: &Dim, b: &Dim, dim: &dyn Fn(&Dim) -> String) -> String {
        let operand = |d: &Dim| match d.as_const() {
            Some(c) if self != Self::Of => format!("{:?}", number(c)),
            _ => dim(d),
        };
        if self.is_binary() {
            format!("{}({},{})", self.name(), operand(a), operand(b))
        } else {
            format!("{}({})", self.name(), operand(a))
        }
    }
}

fn bits(x: f64) -> i64 {
    // All NaNs are one.
    (if x.is_nan() { f64::NAN } else { x }).to_bits() as i64
}

fn number(bits: i64) -> f64 {
    f64::from_bits(bits as u64)
}

impl Dim {
    /// A float.
    pub fn real(x: f64) -> Self {
        Self::from(bits(x))
    }

    /// The function of a float; the second operand of what has two.
    pub fn apply(op: Real, a: &Self, b: &Self) -> Self {
        if let (Some(x), Some(y)) = (a.as_const(), b.as_const()) {
            return Self::from(op.apply(x, y));
        }
        simplified(op, a, b).unwrap_or_else(|| call(op, a, b))
    }

    /// The function of one float.
    pub fn map_real(op: Real, a: &Self) -> Self {
        Self::apply(op, a, &Self::ZERO)
    }
}

fn call(op: Real, a: &Dim, b: &Dim) -> Dim {
    let b = if op.is_binary() { b.clone() } else { Dim::ZERO };
    Dim::atom(Atom::Real(op, a.clone(), b))
}

/// The function and its operands that a dim is.
fn parts(d: &Dim) -> Option<(Real, &Dim, &Dim)> {
    match d.terms() {
        [(m, 1)] => match m.as_slice() {
            [Atom::Real(op, a, b)] => Some((*op, a, b)),
            _ => None,
        },
        _ => None,
    }
}

fn of(d: &Dim) -> Dim {
    Dim::map_real(Real::Of, d)
}

fn is_positive(d: &Dim) -> bool {
    Bounds::positive(&[]).range(d).0 >= 1
}

/// A constant as an integer over a power of two, both small.
fn dyadic(x: f64) -> Option<(Dim, Dim)> {
    if x == 0.0 {
        return Some((Dim::ZERO, Dim::ONE));
    }
    if x.fract() == 0.0 && x.abs() < FACTOR {
        return Some((Dim::from(x as i64), Dim::ONE));
    }
    let field = (x.to_bits() >> 52 & 2047) as i64;
    let fraction = x.to_bits() & ((1 << 52) - 1) | 1 << 52;
    let zeros = i64::from(fraction.trailing_zeros());
    let (numerator, exponent) = (fraction >> zeros, field - 1075 + zeros);
    let small = numerator <= NUMERATOR && (-DENOMINATOR..0).contains(&exponent);
    let numerator = if x < 0.0 { -(numerator as i64) } else { numerator as i64 };
    small.then(|| (Dim::from(numerator), Dim::from(1i64 << -exponent)))
}

/// The float as a quotient of integers, of which the second is positive.
fn fraction(x: &Dim) -> Option<(Dim, Dim)> {
    if let Some(c) = x.as_const() {
        return dyadic(number(c));
    }
    let integer = |d: &Dim| fraction(d).and_then(|(n, by)| by.is_one().then_some(n));
    match parts(x)? {
        (Real::Single, y, _) => fraction(y),
        (Real::Of, d, _) => Some((d.clone(), Dim::ONE)),
        (Real::Div, y, z) => {
            let (n, by) = (integer(y)?, integer(z)?);
            is_positive(&by).then_some((n, by))
        }
        _ => None,
    }
}

/// The float as an integer over a power of two.
fn exact(x: &Dim) -> Option<(Dim, i64)> {
    let (n, by) = fraction(x)?;
    let by = by.as_const()?;
    (by.count_ones() == 1 && by <= 1 << DENOMINATOR).then_some((n, by))
}

fn quotient(n: &Dim, by: &Dim) -> Option<Dim> {
    if by.is_zero() {
        return None;
    }
    if let Some(q) = n.div_exact(by) {
        return Some(of(&q));
    }
    match by.as_const() {
        Some(c) if c < 0 => quotient(&-n.clone(), &Dim::from(c.checked_neg()?)),
        _ => Some(call(Real::Div, &of(n), &of(by))),
    }
}

fn is_whole(x: &Dim) -> bool {
    match (x.as_const(), parts(x)) {
        (Some(c), _) => number(c).fract() == 0.0,
        (_, Some((Real::Of | Real::Floor | Real::Ceil | Real::Round, ..))) => true,
        (_, Some((Real::Neg | Real::Abs | Real::Single, y, _))) => is_whole(y),
        (_, Some((Real::Min | Real::Max, y, z))) => is_whole(y) && is_whole(z),
        _ => false,
    }
}

fn is_single(x: &Dim) -> bool {
    if exact(x).is_some() {
        return true;
    }
    match (x.as_const(), parts(x)) {
        (Some(c), _) => bits(Real::Single.of(number(c), 0.0)) == c,
        (_, Some((Real::Single, ..))) => true,
        (_, Some((Real::Neg | Real::Abs | Real::Floor | Real::Ceil | Real::Round, y, _))) => is_single(y),
        (_, Some((Real::Min | Real::Max, y, z))) => is_single(y) && is_single(z),
        _ => false,
    }
}

/// The same without this function, or with integers in its place; `None` where it is needed.
fn simplified(op: Real, a: &Dim, b: &Dim) -> Option<Dim> {
    let is_one = |d: &Dim| d.as_const().is_some_and(|c| number(c) == 1.0);
    let not_negative = |d: &Dim| Bounds::of(&[]).range(d).0 >= 0;
    match op {
        Real::Of => match parts(a)? {
            (Real::Whole, x, _) => is_whole(x).then(|| x.clone()),
            _ => None,
        },
        Real::Whole => {
            let (n, by) = fraction(a)?;
            (by.is_one() || not_negative(&n)).then(|| n.floor_div(&by))
        }
        Real::Single => is_single(a).then(|| a.clone()),
        Real::Floor | Real::Ceil | Real::Round if is_whole(a) => Some(a.clone()),
        Real::Floor => fraction(a).map(|(n, by)| of(&n.floor_div(&by))),
        Real::Ceil => fraction(a).map(|(n, by)| of(&n.ceil_div(&by))),
        Real::Round | Real::Sqrt => None,
        Real::Neg => exact(a).and_then(|(n, by)| quotient(&-n, &Dim::from(by))),
        Real::Abs => exact(a).and_then(|(n, _)| not_negative(&n).then(|| a.clone())),
        Real::Add | Real::Sub => {
            let ((n, by), (m, other)) = (exact(a)?, exact(b)?);
            let m = if op == Real::Sub { -m } else { m };
            let common = by.max(other);
            let sum = n * Dim::from(common / by) + m * Dim::from(common / other);
            quotient(&sum, &Dim::from(common))
        }
        Real::Mul if is_one(a) => Some(b.clone()),
        Real::Mul | Real::Div if is_one(b) => Some(a.clone()),
        Real::Mul => {
            let ((n, by), (m, other)) = (exact(a)?, exact(b)?);
            quotient(&(n * m), &Dim::from(by * other))
        }
        Real::Div => {
            let ((n, by), (m, other)) = (exact(a)?, exact(b)?);
            quotient(&(n * Dim::from(other)), &(m * Dim::from(by)))
        }
        Real::Min | Real::Max => {
            let ((n, by), (m, other)) = (exact(a)?, exact(b)?);
            let extreme = || if op == Real::Min { n.minimum(&m) } else { n.maximum(&m) };
            (by == 1 && other == 1).then(|| of(&extreme()))
        }
    }
}

impl Bounds<'_> {
    /// Inclusive range of a float.
    pub fn real(&self, x: &Dim) -> (f64, f64) {
        let ends = match (x.as_const(), parts(x)) {
            (Some(c), _) => vec![number(c)],
            (_, Some((Real::Of, d, _))) => {
                let (lo, hi) = self.range(d);
                vec![lo as f64, hi as f64]
            }
            // Up to the origin it falls.
            (_, Some((Real::Abs, y, _))) => {
                let (lo, hi) = self.real(y);
                let least = if lo <= 0.0 && hi >= 0.0 { 0.0 } else { lo.abs() };
                vec![least, lo.abs(), hi.abs()]
            }
            (_, Some((Real::Sqrt, y, _))) => {
                let (lo, hi) = self.real(y);
                vec![lo.max(0.0).sqrt(), hi.sqrt()]
            }
            (_, Some((Real::Div, _, z))) if matches!(self.real(z), (lo, hi) if lo <= 0.0 && hi >= 0.0) => {
                vec![f64::NAN]
            }
            // The others have their extremes at ends.
            (_, Some((op, y, z))) if op != Real::Whole => {
                let ((a, b), (c, d)) = (self.real(y), if op.is_binary() { self.real(z) } else { (0.0, 0.0) });
                [(a, c), (a, d), (b, c), (b, d)].map(|(x, y)| op.of(x, y)).to_vec()
            }
            _ => vec![f64::NAN],
        };
        if ends.iter().any(|x| x.is_nan()) {
            return (f64::NEG_INFINITY, f64::INFINITY);
        }
        ends.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), x| {
            (lo.min(*x), hi.max(*x))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sym;

    fn s(n: &str) -> Dim {
        Dim::sym(n)
    }

    fn x(n: &str) -> Dim {
        of(&s(n))
    }

    fn single(op: Real, a: &Dim, b: &Dim) -> Dim {
        Dim::map_real(Real::Single, &Dim::apply(op, a, b))
    }

    fn whole(op: Real, a: &Dim) -> Dim {
        Dim::map_real(Real::Whole, &Dim::map_real(op, a))
    }

    #[test]
    fn exact_numbers_stay_integers() {
        let half = single(Real::Mul, &x("H"), &Dim::real(0.5));
        assert_eq!(whole(Real::Floor, &half), s("H").floor_div(&Dim::from(2i64)));
        assert_eq!(whole(Real::Ceil, &half), s("H").ceil_div(&Dim::from(2i64)));
        let twice = single(Real::Mul, &x("H"), &Dim::real(2.0));
        assert_eq!(whole(Real::Floor, &twice), s("H") * Dim::from(2i64));
        assert_eq!(single(Real::Div, &twice, &x("H")), Dim::real(2.0));
        let third = single(Real::Div, &x("S"), &Dim::real(3.0));
        assert_eq!(whole(Real::Ceil, &third).to_string(), "fdiv(S+2,3)");
        let shifted = single(Real::Add, &half, &Dim::real(0.5));
        assert_eq!(whole(Real::Floor, &shifted), s("H").ceil_div(&Dim::from(2i64)));
        let ratio = single(Real::Div, &x("S"), &x("T"));
        assert_eq!(whole(Real::Floor, &ratio), s("S").floor_div(&s("T")));
    }

    #[test]
    fn others_are_computed_as_floats_are() {
        let scaled = whole(Real::Floor, &single(Real::Mul, &x("H"), &Dim::real(0.7f32.into())));
        assert_eq!(
            scaled.to_string(),
            "whole(rfloor(rsingle(rmul(real(H),0.699999988079071))))"
        );
        let root = whole(Real::Round, &single(Real::Sqrt, &x("H"), &Dim::ZERO));
        for n in 0..3000i64 {
            let at = |d: &Dim| d.eval(&|_| Some(n));
            assert_eq!(at(&scaled), Some((n as f32 * 0.7).floor() as i64), "{n}");
            assert_eq!(at(&root), Some((n as f32).sqrt().round_ties_even() as i64), "{n}");
        }
        // 10 * 0.7 is rounded up to 7.
        assert_eq!(scaled.subst(&|_: &Sym| Some(Dim::from(10i64))), Dim::from(7i64));
        let bounds = Bounds::of(&[]);
        assert!(bounds.range(&scaled).0 == 0 && bounds.range(&root).0 == 0);
        let rest = whole(Real::Floor, &single(Real::Sub, &x("H"), &Dim::real(4.0)));
        assert_eq!(rest, s("H") - Dim::from(4i64));
    }

    #[test]
    fn twice_as_many_bits_round_as_floats_of_32_bits() {
        let mut seed = 1u64;
        let mut next = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            f32::from_bits((seed >> 32) as u32)
        };
        for _ in 0..100_000 {
            let (x, y) = (next(), next());
            let ours = |op: Real| Real::Single.of(op.of(x.into(), y.into()), 0.0) as f32;
            let pairs = [
                (ours(Real::Add), x + y),
                (ours(Real::Sub), x - y),
                (ours(Real::Mul), x * y),
                (ours(Real::Div), x / y),
                (ours(Real::Sqrt), x.sqrt()),
            ];
            for (a, b) in pairs {
                assert!(
                    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
                    "{x} {y}: {a} {b}"
                );
            }
        }
    }
}
