//! Transcendental functions, lane by lane, for scalars and vectors of any width.
//!
//! F32 is computed here with FMA and polynomials; F16 and BF16 by way of F32; F64 and the rare functions call the C
//! library for each lane ([`LIBM`] lists the symbols). Coefficients are minimax fits made for this file (Lawson's
//! iteration on the relative error, rounded to F32).
//!
//! | function | largest error seen, ulp | over |
//! |---|---|---|
//! | `exp`, `exp2` | 1 | all finite results; results below 2⁻¹²⁶ are 0 |
//! | `log` | 1 | all positive numbers, subnormal ones too |
//! | `log1p` | 1.5 | x > -1 |
//! | `tanh` | 4.3 | everything |
//! | `erf` | 3.5 | everything |
//! | `gelu` | 8·10⁻⁷ of the result, for x < 0 1.1·10⁻⁶ | everything |
//! | `sigmoid` | 2.2 | results above 2⁻¹²⁶ |
//! | `sin`, `cos` | 1.6 | everything; beyond 10⁵ by the C library |
//! | `pow` | 1 | everything, with C99's special cases |
//!
//! Machines without FMA may be half a unit worse. The tests below measure these figures over every 997th bit pattern and assert them. NaN gives NaN everywhere.

use super::{Builder, Cmp, Elem, Ty, Val};

/// The C library functions that generated code may call, `f` variants included.
pub const LIBM: [&str; 37] = [
    "acos", "acosf", "acosh", "acoshf", "asin", "asinf", "asinh", "asinhf", "atan", "atanf", "atanh", "atanhf", "cos",
    "cosf", "cosh", "coshf", "erf", "exp", "exp2", "expm1", "expm1f", "fmod", "fmodf", "log", "log10", "log10f",
    "log1p", "log2", "log2f", "pow", "sin", "sinf", "sinh", "sinhf", "tan", "tanf", "tanh",
];

/// 1.5 · 2²³: adding it rounds an F32 below 2²² to an integer, which is then in the low bits.
const MAGIC_F32: f64 = 12_582_912.0;
/// 1.5 · 2⁵²: the same for F64.
const MAGIC_F64: f64 = 6_755_399_441_055_744.0;

/// eˣ.
pub fn exp(b: &Builder, x: Val) -> Val {
    on_single(b, "exp", x, |x| {
        let x = limited(b, x, 89.0);
        // x = n ln 2 + r with |r| ≤ ln 2 / 2; ln 2 in two parts, for n reaches 128.
        let shifted = b.fma(x, k(b, x, std::f64::consts::LOG2_E), k(b, x, MAGIC_F32));
        let n = b.sub(shifted, k(b, x, MAGIC_F32));
        let r = b.fma(n, k(b, x, -0.693_147_182_464_599_6), x);
        let r = b.fma(n, k(b, x, 1.904_654_212_125_933_6e-9), r);
        let p = horner(
            b,
            r,
            &[
                1.0,
                1.0,
                4.999999343e-01,
                1.666652040e-01,
                4.166839080e-02,
                8.368745246e-03,
                1.381453999e-03,
            ],
        );
        // The largest numbers whose results are finite, and the smallest whose results are normal.
        scale(b, x, p, (n, shifted), (-87.336_540_222_167_97, 88.722_831_726_074_22))
    })
}

/// 2ˣ.
pub fn exp2(b: &Builder, x: Val) -> Val {
    on_single(b, "exp2", x, |x| {
        let x = limited(b, x, 129.0);
        let shifted = b.add(x, k(b, x, MAGIC_F32));
        let n = b.sub(shifted, k(b, x, MAGIC_F32));
        let r = b.sub(x, n);
        let p = horner(
            b,
            r,
            &[
                1.0,
                6.931472030e-01,
                2.402264790e-01,
                5.550332162e-02,
                9.618438602e-03,
                1.339900367e-03,
                1.535325809e-04,
            ],
        );
        // 127.999992 is the F32 before 128.
        scale(b, x, p, (n, shifted), (-126.0, 127.999_992_370_605_47))
    })
}

/// `x`, or `limit` if that is smaller, where [`Builder::scaled`] then makes infinity of it.
fn limited(b: &Builder, x: Val, limit: f64) -> Val {
    if b.has_scaled(x) {
        b.min_fast(k(b, x, limit), x)
    } else {
        x
    }
}

/// `p · 2ⁿ` with `n` in the low bits of `shifted`, too: 0 below and infinity above the range of `x`, NaN for NaN.
fn scale(b: &Builder, x: Val, p: Val, (n, shifted): (Val, Val), (low, high): (f64, f64)) -> Val {
    if b.has_scaled(x) {
        let y = b.scaled(p, n);
        return b.select(b.cmp(Cmp::Lt, x, k(b, x, low)), k(b, x, 0.0), y);
    }
    let int = x.ty().with_elem(Elem::I32);
    // p is in [0.7, 1.5), so its exponent takes n up to 128 and down to -126 without leaving the normal numbers.
    let n = b.shl(b.bitcast(shifted, int), b.int(int, 23));
    let y = b.bitcast(b.add(b.bitcast(p, int), n), x.ty());
    let y = b.select(b.cmp(Cmp::Lt, x, k(b, x, low)), k(b, x, 0.0), y);
    // One masked addition: infinity for large x, NaN for NaN.
    b.select(b.cmp(Cmp::Le, x, k(b, x, high)), y, b.add(x, k(b, x, f64::INFINITY)))
}

/// Natural logarithm: -∞ for 0, NaN for negative numbers.
pub fn log(b: &Builder, x: Val) -> Val {
    on_single(b, "log", x, |x| {
        let int = x.ty().with_elem(Elem::I32);
        let i = |value: i64| b.int(int, value);
        // Subnormal numbers are scaled by 2²³ into the normal ones.
        let small = b.cmp(Cmp::Lt, x, k(b, x, f64::from(f32::MIN_POSITIVE)));
        let normal = b.select(small, b.mul(x, k(b, x, 8_388_608.0)), x);
        // normal = m 2ᵉ with m in [√½, √2): the exponent is counted from the bits of √½.
        let bits = b.bitcast(normal, int);
        let e = b.shr_s(
            b.sub(bits, i(i64::from(std::f32::consts::FRAC_1_SQRT_2.to_bits()))),
            i(23),
        );
        let m = b.bitcast(b.sub(bits, b.shl(e, i(23))), x.ty());
        let e = b.from_int_s(b.sub(e, b.select(small, i(23), i(0))), Elem::F32);
        let f = b.sub(m, k(b, x, 1.0));
        // log(1 + f) = f - f²/2 + f³ p(f), and e ln 2 in two parts.
        let p = horner(
            b,
            f,
            &[
                3.333333171e-01,
                -2.500082104e-01,
                2.000122688e-01,
                -1.662335714e-01,
                1.420175771e-01,
                -1.316018413e-01,
                1.276158017e-01,
                -7.634495919e-02,
            ],
        );
        let square = b.mul(f, f);
        let t = b.mul(b.mul(square, f), p);
        let t = b.fma(e, k(b, x, -1.904_654_212_125_933_6e-9), t);
        let t = b.add(b.fma(square, k(b, x, -0.5), t), f);
        let y = b.fma(e, k(b, x, 0.693_147_182_464_599_6), t);
        // Infinity and NaN as they are; 0 to -∞; what is left is negative.
        let y = b.select(b.cmp(Cmp::Lt, x, k(b, x, f64::INFINITY)), y, x);
        let y = b.select(b.cmp(Cmp::Eq, x, k(b, x, 0.0)), k(b, x, f64::NEG_INFINITY), y);
        b.select(b.cmp(Cmp::Lt, x, k(b, x, 0.0)), k(b, x, f64::NAN), y)
    })
}

/// log(1 + x), accurate near 0.
pub fn log1p(b: &Builder, x: Val) -> Val {
    on_single(b, "log1p", x, |x| {
        // What 1 + x lost by rounding comes back as a first-order term (Kahan).
        let one = k(b, x, 1.0);
        let u = b.add(x, one);
        let lost = b.div(b.sub(x, b.sub(u, one)), u);
        // Beyond 2²⁵ the term is nothing, and undefined at infinity and at -1.
        let inside = b.and(
            b.cmp(Cmp::Lt, x, k(b, x, 33_554_432.0)),
            b.cmp(Cmp::Gt, x, k(b, x, -1.0)),
        );
        b.add(log(b, u), b.select(inside, lost, k(b, x, 0.0)))
    })
}

/// Hyperbolic tangent: exactly ±1 from 8.1 on.
pub fn tanh(b: &Builder, x: Val) -> Val {
    on_single(b, "tanh", x, |x| {
        // The least number for which the quotient below is exactly 1.
        let x = clamp(b, x, 8.093_069_076_538_086);
        let s = b.mul(x, x);
        let p = horner(
            b,
            s,
            &[
                9.999999945e-01,
                1.309035545e-01,
                3.111064758e-03,
                1.122941246e-05,
                -2.053565497e-08,
                5.431262629e-11,
                -8.894117510e-14,
            ],
        );
        let q = horner(b, s, &[1.0, 4.642368352e-01, 2.452342702e-02, 2.556537735e-04]);
        b.div(b.mul(x, p), q)
    })
}

/// Error function: exactly ±1 from 3.74 on.
pub fn erf(b: &Builder, x: Val) -> Val {
    on_single(b, "erf", x, |x| {
        // The least number for which the polynomial below is exactly 1.
        let x = clamp(b, x, 3.739_428_997_039_795);
        // x times a polynomial in u = 2 x²/3.88² - 1, which is in [-1, 1], so that coefficients stay small.
        let u = b.fma(b.mul(x, x), k(b, x, 0.132_851_526_141_166_7), k(b, x, -1.0));
        let p = horner(
            b,
            u,
            &[
                3.644499512e-01,
                -1.819213303e-01,
                1.352990442e-01,
                -1.098801518e-01,
                9.072864070e-02,
                -7.355446250e-02,
                5.739990261e-02,
                -4.218959554e-02,
                2.856154914e-02,
                -1.887826433e-02,
                1.297521225e-02,
                -6.925356125e-03,
                1.882237507e-03,
                -1.278697302e-03,
                1.759006070e-03,
                -6.957427541e-04,
            ],
        );
        b.mul(x, p)
    })
}

/// x Φ(x), with the normal distribution's Φ: one polynomial for all of it takes a quarter fewer instructions than the error
/// function, whose precision is of no use here.
pub fn gelu(b: &Builder, x: Val) -> Val {
    if x.elem() == Elem::F64 {
        let erf = erf(b, b.mul(x, k(b, x, std::f64::consts::FRAC_1_SQRT_2)));
        return b.mul(b.mul(x, k(b, x, 0.5)), b.add(erf, k(b, x, 1.0)));
    }
    on_single(b, "erf", x, |x| {
        // Beyond ±5, Φ is 0 or 1 but for 3e-7. Numbers that are no larger than -5 times nearly 0 are nearly 0.
        let low = b.max_fast(k(b, x, -5.0), x);
        let near = b.min_fast(k(b, x, 5.0), low);
        // ½ + x times a polynomial in u = 2 x²/25 - 1, which is in [-1, 1], so that coefficients stay small.
        let u = b.fma(b.mul(near, near), k(b, x, 0.08), k(b, x, -1.0));
        let p = horner(
            b,
            u,
            &[
                1.413637847e-01,
                -7.029654831e-02,
                5.152148381e-02,
                -4.043613747e-02,
                3.142738715e-02,
                -2.331125177e-02,
                1.648091339e-02,
                -1.105277892e-02,
                6.228368729e-03,
                -2.810882870e-03,
                1.911318162e-03,
                -1.562839956e-03,
                5.371586885e-04,
            ],
        );
        b.mul(low, b.fma(near, p, k(b, x, 0.5)))
    })
}

/// 1 / (1 + e⁻ˣ).
pub fn sigmoid(b: &Builder, x: Val) -> Val {
    let one = b.float(x.ty(), 1.0);
    b.div(one, b.add(one, exp(b, b.neg(x))))
}

pub fn sin(b: &Builder, x: Val) -> Val {
    sin_cos(b, x, "sin", 0)
}

pub fn cos(b: &Builder, x: Val) -> Val {
    sin_cos(b, x, "cos", 1)
}

/// sin(x + quarter · π/2).
fn sin_cos(b: &Builder, x: Val, name: &str, quarter: i64) -> Val {
    on_single(b, name, x, |x| {
        let int = x.ty().with_elem(Elem::I32);
        // x = n π/2 + r with |r| ≤ π/4. With FMA, three parts of π/2 leave r good to its last bit for n < 2¹⁶.
        let shifted = b.fma(x, k(b, x, std::f64::consts::FRAC_2_PI), k(b, x, MAGIC_F32));
        let n = b.sub(shifted, k(b, x, MAGIC_F32));
        let r = b.fma(n, k(b, x, -1.570_796_370_506_286_6), x);
        let r = b.fma(n, k(b, x, 4.371_138_828_673_793e-8), r);
        let r = b.fma(n, k(b, x, 1.715_124_510_005_881_9e-15), r);
        let r2 = b.mul(r, r);
        let s = horner(b, r2, &[-1.666665454e-01, 8.332156050e-03, -1.951463134e-04]);
        let s = b.fma(b.mul(r2, r), s, r);
        let c = horner(b, r2, &[1.0, -0.5, 4.166664555e-02, -1.388730986e-03, 2.443241235e-05]);
        // Odd quadrants take the cosine; the second half of the circle is negative.
        let quadrant = b.add(b.bitcast(shifted, int), b.int(int, quarter));
        let odd = b.cmp(Cmp::Ne, b.and(quadrant, b.int(int, 1)), b.int(int, 0));
        let sign = b.shl(b.and(quadrant, b.int(int, 2)), b.int(int, 30));
        let y = b.bitcast(b.xor(b.bitcast(b.select(odd, c, s), int), sign), x.ty());
        // Large numbers, infinities and NaN are rare: the C library reduces them exactly.
        let inside = b.cmp(Cmp::Le, b.abs(x), k(b, x, 1e5));
        let library = |b: &Builder| vec![by_lane(b, &format!("{name}f"), &[x])];
        b.if_(b.all(inside), &[x.ty()], |_| vec![y], library)[0]
    })
}

/// xʸ with C99's special cases.
pub fn pow(b: &Builder, x: Val, y: Val) -> Val {
    let (x, y) = b.unify(x, y);
    match x.elem() {
        Elem::F64 => by_lane(b, "pow", &[x, y]),
        Elem::F32 => pow_single(b, x, y),
        half => {
            let (x, y) = (b.resize_f(x, Elem::F32), b.resize_f(y, Elem::F32));
            b.resize_f(pow_single(b, x, y), half)
        }
    }
}

/// 2^(y log₂|x|) in F64, where the logarithm has bits to spare, and the sign and special cases in F32.
fn pow_single(b: &Builder, x: Val, y: Val) -> Val {
    let wide = x.ty().with_elem(Elem::F64);
    let int = x.ty().with_elem(Elem::I64);
    let i = |value: i64| b.int(int, value);
    let w = |value: f64| b.float(wide, value);
    let magnitude = b.abs(x);

    // log₂|x| = e + 2 atanh(s) / ln 2 with s = (m - 1)/(m + 1), |s| ≤ 0.172: seven terms are good to 10⁻¹².
    let bits = b.bitcast(b.resize_f(magnitude, Elem::F64), int);
    let e = b.shr_s(
        b.sub(bits, i(std::f64::consts::FRAC_1_SQRT_2.to_bits().cast_signed())),
        i(52),
    );
    let m = b.bitcast(b.sub(bits, b.shl(e, i(52))), wide);
    // e as float through the bits, because AVX2 has no such conversion.
    let magic_bits = i(MAGIC_F64.to_bits().cast_signed());
    let e = b.sub(b.bitcast(b.add(e, magic_bits), wide), w(MAGIC_F64));
    let s = b.div(b.sub(m, w(1.0)), b.add(m, w(1.0)));
    let terms: [f64; 7] = std::array::from_fn(|term| 2.0 * std::f64::consts::LOG2_E / (2 * term + 1) as f64);
    let log2 = b.fma(s, horner(b, b.mul(s, s), &terms), e);
    let log2 = b.select(b.cmp(Cmp::Eq, magnitude, k(b, x, 0.0)), w(f64::NEG_INFINITY), log2);
    let infinite = b.cmp(Cmp::Eq, magnitude, k(b, x, f64::INFINITY));
    let log2 = b.select(infinite, w(f64::INFINITY), log2);

    // 2ᵗ; beyond ±200 an F32 is 0 or infinite anyway. The power series is good to 10⁻⁹ for |r| ≤ ½.
    let t = b.mul(b.resize_f(y, Elem::F64), log2);
    let t = b.min_fast(w(200.0), b.max_fast(w(-200.0), t));
    // 1 to any power is 1, where the product may have been 0 · ∞.
    let t = b.select(b.cmp(Cmp::Eq, magnitude, k(b, x, 1.0)), w(0.0), t);
    let shifted = b.add(t, w(MAGIC_F64));
    let r = b.sub(t, b.sub(shifted, w(MAGIC_F64)));
    let mut term = 1.0;
    let series: [f64; 9] = std::array::from_fn(|n| {
        if n > 0 {
            term *= std::f64::consts::LN_2 / n as f64;
        }
        term
    });
    let p = horner(b, r, &series);
    let n = b.shl(b.bitcast(shifted, int), i(52));
    let result = b.resize_f(b.bitcast(b.add(b.bitcast(p, int), n), wide), Elem::F32);

    // A negative base needs an integer exponent, and an odd one keeps its sign.
    let integer = b.cmp(Cmp::Eq, b.trunc(y), y);
    let half = b.mul(y, k(b, y, 0.5));
    let odd = b.and(integer, b.cmp(Cmp::Ne, b.trunc(half), half));
    let single_int = x.ty().with_elem(Elem::I32);
    let sign = b.and(b.bitcast(x, single_int), b.int(single_int, i64::from(i32::MIN)));
    let signed = b.bitcast(b.or(b.bitcast(result, single_int), sign), x.ty());
    let result = b.select(odd, signed, result);
    let negative = b.and(b.cmp(Cmp::Lt, x, k(b, x, 0.0)), b.not(infinite));
    let undefined = b.or(b.and(negative, b.not(integer)), b.or(b.is_nan(x), b.is_nan(y)));
    let result = b.select(undefined, k(b, x, f64::NAN), result);
    let one = b.or(b.cmp(Cmp::Eq, x, k(b, x, 1.0)), b.cmp(Cmp::Eq, y, k(b, y, 0.0)));
    b.select(one, k(b, x, 1.0), result)
}

/// A function that only the C library computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rare {
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    Cosh,
    Expm1,
    Log10,
    Log2,
    Sinh,
    Tan,
}

/// One of the [`Rare`] functions: a call for each lane.
pub fn rare(b: &Builder, function: Rare, x: Val) -> Val {
    let name = match function {
        Rare::Acos => "acos",
        Rare::Acosh => "acosh",
        Rare::Asin => "asin",
        Rare::Asinh => "asinh",
        Rare::Atan => "atan",
        Rare::Atanh => "atanh",
        Rare::Cosh => "cosh",
        Rare::Expm1 => "expm1",
        Rare::Log10 => "log10",
        Rare::Log2 => "log2",
        Rare::Sinh => "sinh",
        Rare::Tan => "tan",
    };
    on_single(b, name, x, |x| by_lane(b, &format!("{name}f"), &[x]))
}

/// `compute` for F32, by way of F32 for F16 and BF16, and the C library's `name` for F64.
fn on_single(b: &Builder, name: &str, x: Val, compute: impl FnOnce(Val) -> Val) -> Val {
    match x.elem() {
        Elem::F32 => compute(x),
        Elem::F64 => by_lane(b, name, &[x]),
        half => b.resize_f(compute(b.resize_f(x, Elem::F32)), half),
    }
}

/// Calls the C function for each lane: a loop over the stack, for unrolled calls would be most of a kernel's code.
fn by_lane(b: &Builder, function: &str, args: &[Val]) -> Val {
    let ty = args[0].ty();
    let scalar = ty.elem.x(0);
    let call = |args: &[Val]| {
        b.call(function, args, Some(scalar))
            .expect("C functions return a value")
    };
    if ty.is_scalar() {
        return call(args);
    }
    let start = b.i64(0);
    let slots: Vec<Val> = args.iter().map(|_| b.alloca(ty.elem, u64::from(ty.lanes))).collect();
    for (&slot, &arg) in slots.iter().zip(args) {
        b.store(slot, start, arg);
    }
    b.for_each(start, b.i64(i64::from(ty.lanes)), b.i64(1), |b, lane| {
        let lanes: Vec<Val> = slots.iter().map(|&slot| b.load(slot, ty.elem, lane, 0)).collect();
        b.store(slots[0], lane, call(&lanes));
    });
    b.load(slots[0], ty.elem, start, ty.lanes)
}

/// `c₀ + c₁ x + c₂ x² + …`
fn horner(b: &Builder, x: Val, coefficients: &[f64]) -> Val {
    let (&last, rest) = coefficients.split_last().expect("a polynomial has a coefficient");
    rest.iter().rev().fold(k(b, x, last), |sum, &coefficient| {
        b.mul_add(sum, x, k(b, x, coefficient))
    })
}

/// `x` in [-limit, limit]; NaN stays.
fn clamp(b: &Builder, x: Val, limit: f64) -> Val {
    b.min_fast(k(b, x, limit), b.max_fast(k(b, x, -limit), x))
}

/// A constant of the type of `like`.
fn k(b: &Builder, like: Val, value: f64) -> Val {
    let ty: Ty = like.ty();
    b.float(ty, value)
}

#[cfg(test)]
mod tests;
