//! Small floats, lane by lane: between the bytes that hold their codes and F32.
//!
//! Laws: as [`cameo_ir::narrow`] has it, bit by bit; only integer operations, and float operations on numbers that are not
//! subnormal, which a run takes for 0.

use cameo_ir::DType;
use cameo_ir::narrow::{Format, Specials};

use super::{Builder, Cmp, Elem, Val};

/// Bits of an F32's fraction, and what its exponent is added to.
const FRACTION: u32 = 23;
const BIAS: i32 = 127;
const INFINITY: i64 = 0x7f80_0000;
const NAN: i64 = 0x7fc0_0000;

impl Builder<'_> {
    /// The value of a code as F32.
    pub fn small_to_single(&self, x: Val, t: DType) -> Val {
        let code = self.resize_u(x, Elem::I32);
        let int = |value: i64| self.int(code.ty(), value);
        let single = x.ty().with_elem(Elem::F32);
        let Some(f) = Format::of(t) else {
            // An exponent alone; 0 is the subnormal number below the smallest normal one.
            let power = self.shl(code, int(FRACTION.into()));
            let power = self.select(self.cmp(Cmp::Eq, code, int(0)), int(1 << (FRACTION - 1)), power);
            let power = self.select(self.cmp(Cmp::Eq, code, int(0xff)), int(NAN), power);
            return self.bitcast(power, single);
        };
        let (sign, rest) = (
            self.and(code, int(f.sign().into())),
            self.and(code, int(i64::from(f.sign()) - 1)),
        );
        let normal = self.shl(rest, int((FRACTION - f.fraction).into()));
        let normal = self.add(normal, int(i64::from(BIAS - f.bias) << FRACTION));
        let unit = 2f64.powi(1 - f.bias - f.fraction as i32);
        let small = self.mul(self.from_int_s(rest, Elem::F32), self.float(single, unit));
        let small = self.bitcast(small, code.ty());
        let mut magnitude = self.select(self.cmp(Cmp::Lt, rest, int(1 << f.fraction)), small, normal);
        let nan = match f.specials {
            Specials::Exponent => {
                let infinite = self.cmp(Cmp::Eq, rest, int(f.overflow().into()));
                magnitude = self.select(infinite, int(INFINITY), magnitude);
                Some(self.cmp(Cmp::Gt, rest, int(f.overflow().into())))
            }
            Specials::Ones => Some(self.cmp(Cmp::Eq, rest, int(f.nan().into()))),
            Specials::NegativeZero => Some(self.cmp(Cmp::Eq, code, int(f.nan().into()))),
            Specials::Nothing => None,
        };
        if let Some(nan) = nan {
            magnitude = self.select(nan, int(NAN), magnitude);
        }
        let sign = self.shl(sign, int((31 - f.exponent - f.fraction).into()));
        self.bitcast(self.or(magnitude, sign), single)
    }

    /// The code of the value next to an F32.
    pub fn single_to_small(&self, x: Val, t: DType) -> Val {
        let bits = self.bitcast(x, x.ty().with_elem(Elem::I32));
        let int = |value: i64| self.int(bits.ty(), value);
        let rest = self.and(bits, int(0x7fff_ffff));
        let Some(f) = Format::of(t) else {
            // Up from the middle; the subnormal numbers of F32 are nearer together.
            let code = self.shr_u(self.add(rest, int(1 << (FRACTION - 1))), int(FRACTION.into()));
            let low = self.cmp(Cmp::Ge, rest, int(3 << (FRACTION - 2)));
            let low = self.select(low, int(1), int(0));
            let code = self.select(self.cmp(Cmp::Lt, rest, int(1 << FRACTION)), low, code);
            return self.resize_u(self.min_u(code, int(0xff)), Elem::I8);
        };
        let dropped = FRACTION - f.fraction;
        // Just under half of the lowest kept bit, and the rest of that half if the kept bit is odd.
        let odd = self.and(self.shr_u(rest, int(dropped.into())), int(1));
        let rounded = self.add(rest, self.add(odd, int((1 << (dropped - 1)) - 1)));
        let normal = self.sub(rounded, int(i64::from(BIAS - f.bias) << FRACTION));
        let normal = self.shr_s(normal, int(dropped.into()));
        // Next to this number the unit of an F32 is that of subnormal codes: an addition rounds to it.
        let near = self.float(x.ty(), 2f64.powi(1 - f.bias - f.fraction as i32 + FRACTION as i32));
        let shifted = self.bitcast(self.add(self.bitcast(rest, x.ty()), near), bits.ty());
        let small = self.sub(shifted, self.bitcast(near, bits.ty()));
        let least = int(i64::from(BIAS + 1 - f.bias) << FRACTION);
        let code = self.select(self.cmp(Cmp::Lt, rest, least), small, normal);
        let beyond = self.cmp(Cmp::Gt, code, int(f.largest().into()));
        let code = self.select(beyond, int(f.overflow().into()), code);
        let code = self.select(self.cmp(Cmp::Gt, rest, int(INFINITY)), int(f.nan().into()), code);
        let sign = self.shr_u(bits, int((31 - f.exponent - f.fraction).into()));
        let sign = self.and(sign, int(f.sign().into()));
        let signed = self.or(code, sign);
        let code = match f.specials {
            Specials::NegativeZero => self.select(self.cmp(Cmp::Eq, code, int(0)), code, signed),
            // Nothing at all, instead of NaN.
            Specials::Nothing => self.select(self.cmp(Cmp::Gt, rest, int(INFINITY)), code, signed),
            Specials::Exponent | Specials::Ones => signed,
        };
        self.resize_u(code, Elem::I8)
    }

    /// A power of two as F64, in which the smallest one is not subnormal.
    pub fn power_to_double(&self, x: Val) -> Val {
        let code = self.resize_u(x, Elem::I64);
        let int = |value: i64| self.int(code.ty(), value);
        let power = self.shl(self.add(code, int(1023 - 127)), int(52));
        let nan = self.cmp(Cmp::Eq, code, int(0xff));
        let power = self.select(nan, int(0x7ff8_0000_0000_0000), power);
        self.bitcast(power, x.ty().with_elem(Elem::F64))
    }

    /// An F64 as an F32 that small floats round to the same: what is cut off shows in the last bit.
    pub fn to_odd_single(&self, x: Val) -> Val {
        let bits = self.bitcast(x, x.ty().with_elem(Elem::I64));
        let int = |value: i64| self.int(bits.ty(), value);
        let cut = int((1 << 29) - 1);
        let inexact = self.cmp(Cmp::Ne, self.and(bits, cut), int(0));
        let kept = self.and(bits, self.not(cut));
        let kept = self.or(kept, self.select(inexact, int(1 << 29), int(0)));
        self.resize_f(self.bitcast(kept, x.ty()), Elem::F32)
    }
}
