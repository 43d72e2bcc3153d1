//! Scalars with the exact semantics of every element type: rounding after each operation, integers that wrap.

use crate::structured::{Binary, Combine, Scalar, Unary};
use crate::tensor::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::{DType, Tensor, narrow};

/// A scalar: floats of every type as the `f64` of the same value, integers by their value, `u64` by its bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Num {
    F(f64),
    I(i64),
}

impl Num {
    pub fn f(self) -> f64 {
        match self {
            Self::F(x) => x,
            Self::I(x) => x as f64,
        }
    }

    pub fn i(self) -> i64 {
        match self {
            Self::F(x) => x as i64,
            Self::I(x) => x,
        }
    }
}

fn round(t: DType, x: f64) -> Num {
    Num::F(nearest(t, x))
}

/// The value of float type `t` that is nearest to `x`.
pub(crate) fn nearest(t: DType, x: f64) -> f64 {
    match t {
        DType::F32 => f64::from(x as f32),
        DType::F16 => f64::from(f16_to_f32(f32_to_f16(x as f32))),
        DType::BF16 => f64::from(bf16_to_f32(f32_to_bf16(x as f32))),
        _ if t.is_small_float() => f64::from(narrow::decode(t, narrow::encode(t, x))),
        _ => x,
    }
}

/// Beyond this, arsinh and arcosh are `ln 2x` to the last bit; the library's overflow where `2x` does.
const LARGE: f64 = (1u64 << 54) as f64;

pub(crate) fn asinh(x: f64) -> f64 {
    if x.abs() > LARGE {
        (x.abs().ln() + std::f64::consts::LN_2).copysign(x)
    } else {
        x.asinh()
    }
}

pub(crate) fn acosh(x: f64) -> f64 {
    if x > LARGE {
        x.ln() + std::f64::consts::LN_2
    } else {
        x.acosh()
    }
}

/// `x` modulo the range of integer type `t`.
fn wrap(t: DType, x: i64) -> Num {
    Num::I(match t {
        DType::Bool => i64::from(x != 0),
        DType::U8 => i64::from(x as u8),
        DType::I8 => i64::from(x as i8),
        DType::U16 => i64::from(x as u16),
        DType::I16 => i64::from(x as i16),
        DType::U32 => i64::from(x as u32),
        DType::I32 => i64::from(x as i32),
        _ if t.is_narrow() => i64::from(narrow::wrapped(t, x)),
        _ => x,
    })
}

pub fn constant(t: DType, s: Scalar) -> Num {
    match (s, t.is_float()) {
        (Scalar::Float(b), true) => round(t, f64::from_bits(b)),
        (Scalar::Float(b), false) => cast(DType::F64, t, Num::F(f64::from_bits(b))),
        (Scalar::Int(v), true) => round(t, v as f64),
        (Scalar::Int(v), false) => wrap(t, v),
    }
}

pub fn cast(from: DType, to: DType, x: Num) -> Num {
    if from == to {
        return x;
    }
    match (x, to) {
        (Num::F(v), DType::Bool) => Num::I(i64::from(v != 0.0)),
        (Num::F(v), _) if to.is_float() => round(to, v),
        // Out of range saturates, as `Tensor::from_f64` does.
        (Num::F(v), DType::U8) => Num::I(i64::from(v as u8)),
        (Num::F(v), DType::I8) => Num::I(i64::from(v as i8)),
        (Num::F(v), DType::U16) => Num::I(i64::from(v as u16)),
        (Num::F(v), DType::I16) => Num::I(i64::from(v as i16)),
        (Num::F(v), DType::U32) => Num::I(i64::from(v as u32)),
        (Num::F(v), DType::I32) => Num::I(i64::from(v as i32)),
        (Num::F(v), DType::U64) => Num::I((v as u64) as i64),
        (Num::F(v), _) if to.is_narrow() => wrap(to, (v as i32).into()),
        (Num::F(v), _) => Num::I(v as i64),
        (Num::I(v), _) if !to.is_float() => wrap(to, v),
        (Num::I(v), _) if from == DType::U64 => round(to, v as u64 as f64),
        (Num::I(v), _) => round(to, v as f64),
    }
}

/// The bits of `x` as those of another type of the same size.
pub fn bits(from: DType, to: DType, x: Num) -> Num {
    let given = match x {
        Num::F(v) => Tensor::from_f64(from, &[], [v]),
        Num::I(v) => Tensor::from_i64(from, &[], [v]),
    };
    match Tensor::new(to, vec![], given.bytes().clone()) {
        Ok(t) if to.is_float() => Num::F(t.to_f64().first().copied().unwrap_or(0.0)),
        Ok(t) => Num::I(t.to_i64().first().copied().unwrap_or(0)),
        Err(_) => x,
    }
}

pub fn unary(op: Unary, t: DType, a: Num) -> Num {
    if let Num::I(x) = a {
        return match op {
            Unary::Neg => wrap(t, x.wrapping_neg()),
            Unary::Abs if t == DType::U64 => a,
            Unary::Abs => wrap(t, x.wrapping_abs()),
            Unary::Sign if t == DType::U64 => Num::I(i64::from(x != 0)),
            Unary::Sign => Num::I(x.signum()),
            Unary::Not => Num::I(i64::from(x == 0)),
            Unary::BitNot => wrap(t, !x),
            Unary::IsNan | Unary::IsInf => Num::I(0),
            // Rounding; everything else was refused by `check_types`.
            _ => a,
        };
    }
    let x = a.f();
    let y = match op {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sign if x == 0.0 || x.is_nan() => x,
        Unary::Sign => x.signum(),
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Log1p => x.ln_1p(),
        Unary::Sqrt => x.sqrt(),
        Unary::Reciprocal => 1.0 / x,
        Unary::Erf => erf(x),
        Unary::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tan => x.tan(),
        Unary::Asin => x.asin(),
        Unary::Acos => x.acos(),
        Unary::Atan => x.atan(),
        Unary::Sinh => x.sinh(),
        Unary::Cosh => x.cosh(),
        Unary::Asinh => asinh(x),
        Unary::Acosh => acosh(x),
        Unary::Atanh => x.atanh(),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::IsNan => return Num::I(i64::from(x.is_nan())),
        Unary::IsInf => return Num::I(i64::from(x.is_infinite())),
        Unary::Not | Unary::BitNot => x,
    };
    round(t, y)
}

/// `erf(x) = 2/sqrt(pi) exp(-x²) sum 2^n x^(2n+1) / (2n+1)!!` (DLMF 7.6.2): all terms positive, so nothing cancels.
fn erf(x: f64) -> f64 {
    // 1 - erf(6) is 2e-17, below half an ulp of 1.
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > sum.abs() * f64::EPSILON * 0.25 {
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
}

pub fn binary(op: Binary, t: DType, a: Num, b: Num) -> Num {
    match (a, b) {
        (Num::I(x), Num::I(y)) => binary_int(op, t, x, y),
        _ => binary_float(op, t, a.f(), b.f()),
    }
}

fn binary_float(op: Binary, t: DType, x: f64, y: f64) -> Num {
    let truth = |b: bool| Num::I(i64::from(b));
    let z = match op {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
        Binary::Rem => x % y,
        Binary::Mod => {
            let r = x % y;
            if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
        }
        Binary::Pow => x.powf(y),
        Binary::Min | Binary::Max if x.is_nan() || y.is_nan() => f64::NAN,
        Binary::Min => x.min(y),
        Binary::Max => x.max(y),
        Binary::Eq => return truth(x == y),
        Binary::Lt => return truth(x < y),
        Binary::Le => return truth(x <= y),
        Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr => f64::NAN,
    };
    round(t, z)
}

fn binary_int(op: Binary, t: DType, x: i64, y: i64) -> Num {
    let wide = t == DType::U64;
    let (ux, uy) = (x as u64, y as u64);
    let less = if wide { ux < uy } else { x < y };
    let bits = 8 * t.size() as u64;
    wrap(
        t,
        match op {
            Binary::Add => x.wrapping_add(y),
            Binary::Sub => x.wrapping_sub(y),
            Binary::Mul => x.wrapping_mul(y),
            Binary::Div | Binary::Rem | Binary::Mod if y == 0 => 0,
            Binary::Div if wide => (ux / uy) as i64,
            Binary::Div => x.wrapping_div(y),
            Binary::Rem | Binary::Mod if wide => (ux % uy) as i64,
            Binary::Rem => x.wrapping_rem(y),
            Binary::Mod => {
                let r = x.wrapping_rem(y);
                if r != 0 && (r < 0) != (y < 0) { r + y } else { r }
            }
            Binary::Pow => power(t, x, y),
            Binary::Min => {
                if less {
                    x
                } else {
                    y
                }
            }
            Binary::Max => {
                if less {
                    y
                } else {
                    x
                }
            }
            Binary::Eq => return Num::I(i64::from(x == y)),
            Binary::Lt => return Num::I(i64::from(less)),
            Binary::Le => return Num::I(i64::from(less || x == y)),
            Binary::And => x & y,
            Binary::Or => x | y,
            Binary::Xor => x ^ y,
            Binary::Shl | Binary::Shr if uy >= bits => 0,
            Binary::Shl => x << y,
            Binary::Shr if wide => (ux >> uy) as i64,
            Binary::Shr => x >> y,
        },
    )
}

/// Wrapping power; a negative exponent gives the reciprocal truncated toward zero.
fn power(t: DType, x: i64, y: i64) -> i64 {
    if y < 0 && t != DType::U64 {
        return match x {
            1 => 1,
            -1 if y % 2 == 0 => 1,
            -1 => -1,
            _ => 0,
        };
    }
    let (mut base, mut e, mut out) = (x, y as u64, 1i64);
    while e > 0 {
        if e & 1 == 1 {
            out = out.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        e >>= 1;
    }
    out
}

pub fn combine(k: Combine, t: DType, a: Num, b: Num) -> Num {
    let op = match k {
        Combine::Add => Binary::Add,
        Combine::Mul => Binary::Mul,
        Combine::Min => Binary::Min,
        Combine::Max => Binary::Max,
        Combine::Or => Binary::Or,
        Combine::And => Binary::And,
    };
    binary(op, t, a, b)
}

/// The value that [`Combine`] leaves unchanged; the result of an empty reduction.
pub fn identity(k: Combine, t: DType) -> Num {
    let lowest = |t: DType| match t {
        DType::I8 => i64::from(i8::MIN),
        DType::I16 => i64::from(i16::MIN),
        DType::I32 => i64::from(i32::MIN),
        DType::I64 => i64::MIN,
        _ => 0,
    };
    match k {
        Combine::Add | Combine::Or if t.is_float() => Num::F(0.0),
        Combine::Add | Combine::Or => Num::I(0),
        Combine::Mul if t.is_float() => Num::F(1.0),
        Combine::Mul => Num::I(1),
        Combine::And => wrap(t, -1),
        Combine::Min if t.is_float() => Num::F(f64::INFINITY),
        // All bits but those of the lowest value: the highest one.
        Combine::Min if t.is_signed() => Num::I(!lowest(t)),
        Combine::Min => wrap(t, -1),
        Combine::Max if t.is_float() => Num::F(f64::NEG_INFINITY),
        Combine::Max => Num::I(lowest(t)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_wrap_and_floats_round() {
        assert_eq!(binary(Binary::Add, DType::U8, Num::I(250), Num::I(10)), Num::I(4));
        assert_eq!(binary(Binary::Div, DType::I32, Num::I(-7), Num::I(2)), Num::I(-3));
        assert_eq!(binary(Binary::Mod, DType::I32, Num::I(-7), Num::I(2)), Num::I(1));
        assert_eq!(binary(Binary::Div, DType::I64, Num::I(1), Num::I(0)), Num::I(0));
        assert_eq!(binary(Binary::Lt, DType::U64, Num::I(1), Num::I(-1)), Num::I(1));
        assert_eq!(
            binary(Binary::Add, DType::F32, Num::F(16_777_216.0), Num::F(1.0)),
            Num::F(16_777_216.0)
        );
        assert_eq!(
            binary(Binary::Mul, DType::F16, Num::F(60000.0), Num::F(2.0)),
            Num::F(f64::INFINITY)
        );
        assert_eq!(cast(DType::F32, DType::U8, Num::F(-3.0)), Num::I(0));
        assert_eq!(unary(Unary::Round, DType::F32, Num::F(2.5)), Num::F(2.0));
    }

    #[test]
    fn erf_agrees_with_tables() {
        // Abramowitz and Stegun, table 7.1.
        for (x, y) in [
            (0.5, 0.520_499_877_8),
            (1.0, 0.842_700_792_9),
            (2.0, 0.995_322_265_0),
            (0.0, 0.0),
        ] {
            assert!((erf(x) - y).abs() < 1e-10 && (erf(-x) + y).abs() < 1e-10, "{x}");
        }
    }

    #[test]
    fn empty_reductions_give_the_identity() {
        assert_eq!(identity(Combine::Min, DType::I8), Num::I(127));
        assert_eq!(identity(Combine::Max, DType::I32), Num::I(i32::MIN.into()));
        assert_eq!(identity(Combine::Min, DType::U16), Num::I(65535));
        assert_eq!(identity(Combine::And, DType::Bool), Num::I(1));
    }
}
