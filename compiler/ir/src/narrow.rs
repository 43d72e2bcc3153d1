//! Element types of at most eight bits that have no arithmetic of their own: small floats, and integers of less than a
//! byte.
//!
//! Laws: a program holds each of their elements in a byte of its own, integers extended by their sign, floats of four bits
//! as their code; in files and in the memory of callers elements of less than a byte are packed, the first one in the lowest
//! bits, and what is left of the last byte is 0. Conversions round once, to nearest even (`f8e8m0`: ties go up).

use crate::DType;

/// How a small float stores numbers: sign, exponent and fraction, as IEEE 754 has them, subnormal numbers included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bits of the exponent.
    pub exponent: u32,
    /// Bits of the fraction.
    pub fraction: u32,
    pub bias: i32,
    pub specials: Specials,
}

/// Which codes are no numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// Those with the largest exponent: infinity and NaN.
    Exponent,
    /// NaN is all ones but for the sign; there is no infinity.
    Ones,
    /// NaN is where -0 would be; there is no infinity.
    NegativeZero,
    /// None.
    Nothing,
}

impl Format {
    /// That of a small float; `f8e8m0`, which has an exponent alone, is none of them.
    pub const fn of(t: DType) -> Option<Self> {
        let (exponent, fraction, bias, specials) = match t {
            DType::F8E4M3FN => (4, 3, 7, Specials::Ones),
            DType::F8E4M3FNUZ => (4, 3, 8, Specials::NegativeZero),
            DType::F8E5M2 => (5, 2, 15, Specials::Exponent),
            DType::F8E5M2FNUZ => (5, 2, 16, Specials::NegativeZero),
            DType::F4E2M1 => (2, 1, 1, Specials::Nothing),
            _ => return None,
        };
        Some(Self {
            exponent,
            fraction,
            bias,
            specials,
        })
    }

    /// The bit of the sign; codes below it are the positive numbers in their order.
    pub const fn sign(self) -> u32 {
        1 << (self.exponent + self.fraction)
    }

    /// The code of the largest number.
    pub const fn largest(self) -> u32 {
        match self.specials {
            Specials::Exponent => self.infinity() - 1,
            Specials::Ones => self.sign() - 2,
            Specials::NegativeZero | Specials::Nothing => self.sign() - 1,
        }
    }

    const fn infinity(self) -> u32 {
        self.sign() - (1 << self.fraction)
    }

    /// What is beyond the largest number, without its sign.
    pub const fn overflow(self) -> u32 {
        match self.specials {
            Specials::Exponent => self.infinity(),
            Specials::Ones => self.sign() - 1,
            Specials::NegativeZero => self.sign(),
            Specials::Nothing => self.largest(),
        }
    }

    /// NaN; 0 where there is none.
    pub const fn nan(self) -> u32 {
        match self.specials {
            Specials::Exponent => self.infinity() | 1 << (self.fraction - 1),
            Specials::Ones => self.sign() - 1,
            Specials::NegativeZero => self.sign(),
            Specials::Nothing => 0,
        }
    }

    /// Whether there is a negative zero, and NaN has a sign.
    pub const fn signed_specials(self) -> bool {
        !matches!(self.specials, Specials::NegativeZero)
    }

    fn decode(self, code: u32) -> f32 {
        let (negative, rest) = (code & self.sign() != 0, code & (self.sign() - 1));
        let magnitude = match self.specials {
            Specials::Exponent if rest == self.infinity() => f32::INFINITY,
            Specials::Exponent if rest > self.infinity() => f32::NAN,
            Specials::Ones if rest == self.sign() - 1 => f32::NAN,
            Specials::NegativeZero if code == self.sign() => return f32::NAN,
            _ => {
                let (exponent, fraction) = (rest >> self.fraction, rest & ((1 << self.fraction) - 1));
                let (exponent, units) = match exponent {
                    0 => (1, fraction),
                    e => (e, fraction | 1 << self.fraction),
                };
                units as f32 * 2f32.powi(exponent as i32 - self.bias - self.fraction as i32)
            }
        };
        if negative { -magnitude } else { magnitude }
    }

    fn encode(self, x: f64) -> u32 {
        let sign = if x.is_sign_negative() { self.sign() } else { 0 };
        let code = if x.is_nan() {
            self.nan()
        } else if x.is_infinite() {
            self.overflow()
        } else {
            // The exponent of the number, or that of subnormal ones; in its units the fraction is whole.
            let own = ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023;
            let exponent = own.max(1 - self.bias);
            let units = (x.abs() * 2f64.powi(self.fraction as i32 - exponent)).round_ties_even();
            // Far beyond the largest number; the code would not fit.
            if exponent > 64 {
                self.overflow()
            } else {
                let code = (((exponent + self.bias - 1) as u32) << self.fraction) + units as u32;
                if code > self.largest() { self.overflow() } else { code }
            }
        };
        match self.specials {
            Specials::NegativeZero if code == 0 || code == self.sign() => code,
            // Nothing at all, instead of NaN.
            Specials::Nothing if x.is_nan() => 0,
            _ => code | sign,
        }
    }
}

/// The value of a code.
///
/// # Panics
/// When `t` is no small float.
pub fn decode(t: DType, code: u8) -> f32 {
    match Format::of(t) {
        Some(format) => format.decode(u32::from(code)),
        None => {
            assert_eq!(t, DType::F8E8M0, "no small float");
            match code {
                0xff => f32::NAN,
                // Subnormal in `f32`.
                0 => f32::from_bits(1 << 22),
                _ => f32::from_bits(u32::from(code) << 23),
            }
        }
    }
}

/// The code of the nearest value. Beyond the largest one it is infinity, or NaN where there is none; `f4e2m1` has neither
/// and takes its largest number, and 0 for NaN. `f8e8m0` takes magnitudes, and its smallest number for those below.
///
/// # Panics
/// When `t` is no small float.
pub fn encode(t: DType, x: f64) -> u8 {
    match Format::of(t) {
        Some(format) => format.encode(x) as u8,
        None => {
            assert_eq!(t, DType::F8E8M0, "no small float");
            let bits = (x as f32).to_bits() & 0x7fff_ffff;
            if bits < 1 << 23 {
                // Subnormal in `f32`: up from ¾ of its smallest normal number.
                u8::from(bits >= 3 << 21)
            } else {
                ((bits + (1 << 22)) >> 23).min(0xff) as u8
            }
        }
    }
}

/// The largest number of a small float.
///
/// # Panics
/// When `t` is none.
pub fn largest(t: DType) -> f64 {
    match Format::of(t) {
        Some(format) => format.decode(format.largest()).into(),
        None => decode(t, 0xfe).into(),
    }
}

/// `x` modulo the range of an integer of less than a byte, as the byte that holds it.
pub const fn wrapped(t: DType, x: i64) -> i8 {
    let spare = 8 - t.bits() as u32;
    let high = (x as u8) << spare;
    if t.is_signed() {
        high as i8 >> spare
    } else {
        (high >> spare) as i8
    }
}

/// Bytes that `count` elements take in files and in the memory of callers.
pub const fn packed_len(t: DType, count: usize) -> usize {
    let per_byte = 8 / t.bits();
    if per_byte < 2 {
        count * t.size()
    } else {
        count.div_ceil(per_byte)
    }
}

/// Elements of less than a byte as files have them.
pub fn pack(t: DType, elements: &[u8]) -> Vec<u8> {
    let mask = ((1u32 << t.bits()) - 1) as u8;
    let byte = |group: &[u8]| group.iter().rev().fold(0u8, |byte, e| byte << t.bits() | (e & mask));
    elements.chunks(8 / t.bits()).map(byte).collect()
}

/// The first `count` elements of less than a byte from what [`pack`] gives.
pub fn unpack(t: DType, packed: &[u8], count: usize) -> Vec<u8> {
    let bits = t.bits();
    let code = |i: usize, byte: u8| (byte >> (i * bits)) & ((1u32 << bits) - 1) as u8;
    let elements = packed.iter().flat_map(|b| (0..8 / bits).map(move |i| code(i, *b)));
    elements.take(count).map(|code| held(t, code)).collect()
}

/// A code as the byte that a program holds.
fn held(t: DType, code: u8) -> u8 {
    if t.is_float() {
        code
    } else {
        wrapped(t, i64::from(code)) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: [DType; 6] = [
        DType::F8E4M3FN,
        DType::F8E4M3FNUZ,
        DType::F8E5M2,
        DType::F8E5M2FNUZ,
        DType::F8E8M0,
        DType::F4E2M1,
    ];

    /// The definition: (-1)^s · 1.f · 2^(e - bias), and 0.f · 2^(1 - bias) where e is 0; what is no number by the tables of
    /// the formats.
    fn plainly(t: DType, code: u32) -> f64 {
        if t == DType::F8E8M0 {
            return if code == 255 {
                f64::NAN
            } else {
                2f64.powi(code as i32 - 127)
            };
        }
        let (exponent, fraction, bias) = match t {
            DType::F8E4M3FN => (4, 3, 7),
            DType::F8E4M3FNUZ => (4, 3, 8),
            DType::F8E5M2 => (5, 2, 15),
            DType::F8E5M2FNUZ => (5, 2, 16),
            _ => (2, 1, 1),
        };
        match (t, code) {
            (DType::F8E4M3FN, 0x7f | 0xff) | (DType::F8E4M3FNUZ | DType::F8E5M2FNUZ, 0x80) => return f64::NAN,
            (DType::F8E5M2, 0x7c) => return f64::INFINITY,
            (DType::F8E5M2, 0xfc) => return f64::NEG_INFINITY,
            (DType::F8E5M2, 0x7d..=0x7f | 0xfd..=0xff) => return f64::NAN,
            _ => {}
        }
        let f = f64::from(code & ((1 << fraction) - 1)) / f64::from(1u32 << fraction);
        let e = (code >> fraction) as i32 & ((1 << exponent) - 1);
        let magnitude = match e {
            0 => f * 2f64.powi(1 - bias),
            _ => (1.0 + f) * 2f64.powi(e - bias),
        };
        if code >> (exponent + fraction) & 1 == 1 {
            -magnitude
        } else {
            magnitude
        }
    }

    fn codes(t: DType) -> std::ops::Range<u32> {
        0..1 << t.bits()
    }

    #[test]
    fn every_code_has_its_value() {
        for t in SMALL {
            for code in codes(t) {
                let (got, want) = (f64::from(decode(t, code as u8)), plainly(t, code));
                assert!(
                    got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                    "{t} {code:#x}: {got} {want}"
                );
                let back = encode(t, got);
                assert!(
                    back == code as u8 || got.is_nan() && f64::from(decode(t, back)).is_nan(),
                    "{t} {code:#x}"
                );
            }
        }
        let limits = SMALL.map(largest);
        assert_eq!(limits[..4], [448.0, 240.0, 57344.0, 57344.0]);
        assert_eq!((limits[4], limits[5]), (2f64.powi(127), 6.0));
    }

    /// The code of the nearest number by search; of two, that of the even code. Beyond the largest by half a step: overflow.
    fn nearest(t: DType, x: f64) -> f64 {
        let mut finite: Vec<(f64, u32)> = codes(t)
            .map(|c| (plainly(t, c), c))
            .filter(|(v, _)| v.is_finite() && !v.is_sign_negative())
            .collect();
        finite.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (last, before) = (finite[finite.len() - 1], finite[finite.len() - 2]);
        // The number that would follow.
        finite.push((2.0 * last.0 - before.0, last.1 + 1));
        let best = finite.iter().min_by(|a, b| {
            let distance = |v: f64| (v - x.abs()).abs();
            distance(a.0).total_cmp(&distance(b.0)).then((a.1 & 1).cmp(&(b.1 & 1)))
        });
        let (value, code) = *best.expect("some");
        let value = match t {
            DType::F4E2M1 => value.min(last.0),
            _ if code <= last.1 => value,
            DType::F8E5M2 => f64::INFINITY,
            _ => f64::NAN,
        };
        value.copysign(x)
    }

    #[test]
    fn rounding_is_to_the_nearest() {
        for t in SMALL.into_iter().filter(|t| *t != DType::F8E8M0) {
            let mut values: Vec<f64> = codes(t).map(|c| plainly(t, c)).filter(|v| v.is_finite()).collect();
            values.sort_by(f64::total_cmp);
            let beyond = largest(t) * 1.07;
            values.extend([beyond, -beyond, largest(t) * 4.0]);
            let mut at = values.clone();
            at.extend(values.windows(2).map(|p| (p[0] + p[1]) / 2.0));
            // Just beside each of them, too: what an `f32` in between would round away.
            let beside = |x: &f64| [x * (1.0 - 2f64.powi(-40)), x * (1.0 + 2f64.powi(-40)), x * 1.3, x * 0.9];
            at.extend(at.iter().flat_map(beside).collect::<Vec<_>>());
            for x in at {
                let (got, want) = (f64::from(decode(t, encode(t, x))), nearest(t, x));
                assert!(got == want || got.is_nan() && want.is_nan(), "{t} {x}: {got} {want}");
            }
            for x in [1e300, -1e300, f64::INFINITY] {
                assert_eq!(encode(t, x), encode(t, f64::INFINITY.copysign(x)), "{t} {x}");
            }
        }
        assert_eq!(encode(DType::F8E5M2, f64::NEG_INFINITY), 0xfc);
        assert_eq!(encode(DType::F8E4M3FNUZ, -0.0), 0);
        assert_eq!(encode(DType::F8E5M2FNUZ, -1e-30), 0);
        assert_eq!(encode(DType::F8E4M3FN, -0.0), 0x80);
        assert_eq!(encode(DType::F4E2M1, f64::NAN), 0);
        assert_eq!(encode(DType::F4E2M1, -1e9), 0xf);
    }

    #[test]
    fn exponents_round_up_from_the_middle() {
        let code = |x: f64| encode(DType::F8E8M0, x);
        assert_eq!((code(1.0), code(1.49), code(1.5), code(2.0)), (127, 127, 128, 128));
        assert_eq!(
            (code(0.0), code(2f64.powi(-127)), code(2f64.powi(-127) * 1.5)),
            (0, 0, 1)
        );
        assert_eq!((code(2f64.powi(127) * 1.4), code(2f64.powi(127) * 1.5)), (254, 255));
        assert_eq!((code(f64::INFINITY), code(f64::NAN)), (255, 255));
    }

    #[test]
    fn integers_wrap() {
        for t in [DType::I4, DType::U4, DType::I2, DType::U2] {
            let n = 1i64 << t.bits();
            for x in -40..40 {
                let y = i64::from(wrapped(t, x));
                let range = if t.is_signed() { -n / 2..n / 2 } else { 0..n };
                assert!(range.contains(&y) && (y - x) % n == 0, "{t} {x} {y}");
            }
        }
    }

    #[test]
    fn elements_are_packed_from_the_lowest_bits() {
        assert_eq!(pack(DType::U4, &[1, 2, 3]), [0x21, 0x03]);
        assert_eq!(pack(DType::I4, &[0xff, 0xf8]), [0x8f]);
        assert_eq!(pack(DType::U2, &[1, 2, 3, 0, 1]), [0b00_11_10_01, 1]);
        for t in DType::ALL.into_iter().filter(|t| t.bits() < 8) {
            let all: Vec<u8> = codes(t).chain([1]).map(|c| held(t, c as u8)).collect();
            for n in 0..=all.len() {
                let packed = pack(t, &all[..n]);
                assert_eq!(packed.len(), packed_len(t, n));
                assert_eq!(unpack(t, &packed, n), all[..n], "{t}");
            }
        }
    }
}
