//! Conversion between number types, lane by lane.
//!
//! Laws: floats round to nearest even; float to integer saturates and takes NaN to 0 unless the name says otherwise; no
//! conversion calls a library function.

use super::arith::unsigned;
use super::builder::Const;
use super::{Builder, Cmp, Elem, Ty, Val};

impl Builder<'_> {
    /// An integer made wider by its sign, or narrower.
    pub fn resize_s(&self, x: Val, elem: Elem) -> Val {
        self.resize(x, elem, true)
    }

    /// An integer made wider by zeros, or narrower.
    pub fn resize_u(&self, x: Val, elem: Elem) -> Val {
        self.resize(x, elem, false)
    }

    /// A float of another width, rounded to nearest even. F64 reaches F16 and BF16 by way of F32.
    pub fn resize_f(&self, x: Val, elem: Elem) -> Val {
        let from = x.ty.elem;
        assert!(
            from.is_float() && elem.is_float(),
            "{from:?} to {elem:?} is no float conversion"
        );
        if from == elem {
            return x;
        }
        if let Some(Const::Float(bits)) = self.known(x)
            && !from.is_half()
            && !(from == Elem::F32 && elem == Elem::F64)
        {
            return self.float(x.ty.with_elem(elem), f64::from_bits(bits));
        }
        match (from, elem) {
            (Elem::BF16, _) => self.resize_f(self.widen_bf16(x), elem),
            (Elem::F32, Elem::BF16) => self.narrow_bf16(x),
            (Elem::F16, Elem::F32) if !self.features.fma => self.widen_f16(x),
            (Elem::F32, Elem::F16) if !self.features.fma => self.narrow_f16(x),
            (Elem::F16, Elem::F64 | Elem::BF16) | (Elem::F64, Elem::F16 | Elem::BF16) => {
                self.resize_f(self.resize_f(x, Elem::F32), elem)
            }
            _ if elem.bits() > from.bits() => self.op1("arith.extf", &[x], x.ty.with_elem(elem), &[]),
            _ => self.op1("arith.truncf", &[x], x.ty.with_elem(elem), &[]),
        }
    }

    /// A signed integer as float.
    pub fn from_int_s(&self, x: Val, elem: Elem) -> Val {
        self.int_to_float("arith.sitofp", x, elem)
    }

    /// An integer without sign (or a truth value) as float.
    pub fn from_int_u(&self, x: Val, elem: Elem) -> Val {
        self.int_to_float("arith.uitofp", x, elem)
    }

    /// A float toward 0 as signed integer; saturates, NaN is 0.
    pub fn to_int_s(&self, x: Val, elem: Elem) -> Val {
        self.float_to_int("llvm.fptosi.sat", x, elem)
    }

    /// A float toward 0 as integer without sign; saturates, NaN is 0.
    pub fn to_int_u(&self, x: Val, elem: Elem) -> Val {
        self.float_to_int("llvm.fptoui.sat", x, elem)
    }

    /// A float that is known to be in range toward 0 as signed integer: one instruction. Out of range the result is
    /// undefined.
    pub fn to_int_in_range(&self, x: Val, elem: Elem) -> Val {
        let wide = self.widen(x);
        self.op1("arith.fptosi", &[wide], x.ty.with_elem(elem), &[])
    }

    /// Conversion between any two number types, as ONNX's `Cast` and Rust's `as` have it; `signed` says how the integers
    /// that take part are read. To a truth value: whether it is not 0.
    pub fn convert(&self, x: Val, elem: Elem, signed: bool) -> Val {
        let from = x.ty.elem;
        match (from.is_float(), elem.is_float()) {
            _ if from == elem => x,
            _ if elem == Elem::I1 => self.cmp(Cmp::Ne, x, self.zero(x.ty)),
            _ if from == Elem::I1 && !elem.is_float() => self.resize_u(x, elem),
            (true, true) => self.resize_f(x, elem),
            (true, false) if signed => self.to_int_s(x, elem),
            (true, false) => self.to_int_u(x, elem),
            (false, true) if signed && from != Elem::I1 => self.from_int_s(x, elem),
            (false, true) => self.from_int_u(x, elem),
            (false, false) => self.resize(x, elem, signed),
        }
    }

    /// The same bits as another type of the same total width.
    pub fn bitcast(&self, x: Val, ty: Ty) -> Val {
        let bits = |ty: Ty| ty.elem.bits() * ty.lanes.max(1);
        assert_eq!(bits(x.ty), bits(ty), "a bitcast keeps the width");
        if x.ty == ty {
            x
        } else {
            self.op1("llvm.bitcast", &[x], ty, &[])
        }
    }

    fn resize(&self, x: Val, elem: Elem, signed: bool) -> Val {
        let from = x.ty.elem;
        assert!(
            from.is_int() && elem.is_int(),
            "{from:?} to {elem:?} is no integer conversion"
        );
        let ty = x.ty.with_elem(elem);
        if from == elem {
            return x;
        }
        if let Some(value) = self.as_int(x) {
            let value = match (signed, from) {
                (true, Elem::I1) => -value,
                (true, _) => value,
                (false, _) => unsigned(from, value).cast_signed(),
            };
            return self.int(ty, value);
        }
        let name = match elem.bits() > from.bits() {
            true if signed => "arith.extsi",
            true => "arith.extui",
            false => "arith.trunci",
        };
        self.op1(name, &[x], ty, &[])
    }

    fn int_to_float(&self, name: &str, x: Val, elem: Elem) -> Val {
        let wide = if elem.is_half() { Elem::F32 } else { elem };
        let result = self.op1(name, &[x], x.ty.with_elem(wide), &[]);
        self.resize_f(result, elem)
    }

    fn float_to_int(&self, intrinsic: &str, x: Val, elem: Elem) -> Val {
        let wide = self.widen(x);
        let ty = x.ty.with_elem(elem);
        let name = format!("{intrinsic}.{}.{}", ty.suffix(), wide.ty.suffix());
        self.intrinsic(&name, &[wide], Some(ty))
            .expect("the intrinsic returns a value")
    }

    /// F16 on a machine without the instruction: exponent and fraction move to their places in F32.
    fn widen_f16(&self, x: Val) -> Val {
        let bits = self.resize_u(self.bitcast(x, x.ty.with_elem(Elem::I16)), Elem::I32);
        let int = |value| self.int(bits.ty, value);
        let single = x.ty.with_elem(Elem::F32);
        let (sign, rest) = (self.and(bits, int(0x8000)), self.and(bits, int(0x7fff)));
        // The exponents' biases are 15 and 127; those of infinity and NaN are all ones in both.
        let bias = int((127 - 15) << 23);
        let normal = self.add(self.shl(rest, int(13)), bias);
        let special = self.cmp(Cmp::Ge, rest, int(0x7c00));
        let finite = self.select(special, self.add(normal, bias), normal);
        // Subnormal numbers count 2⁻²⁴: their bits in place would be subnormal too, which a run takes for 0.
        let small = self.mul(self.from_int_s(rest, Elem::F32), self.float(single, 2f64.powi(-24)));
        let small = self.bitcast(small, bits.ty);
        let magnitude = self.select(self.cmp(Cmp::Lt, rest, int(0x0400)), small, finite);
        self.bitcast(self.or(magnitude, self.shl(sign, int(16))), single)
    }

    /// The way back, to nearest even.
    fn narrow_f16(&self, x: Val) -> Val {
        let bits = self.bitcast(x, x.ty.with_elem(Elem::I32));
        let int = |value| self.int(bits.ty, value);
        let (sign, rest) = (
            self.and(self.shr_u(bits, int(16)), int(0x8000)),
            self.and(bits, int(0x7fff_ffff)),
        );
        // Just under half of the lowest kept bit, and the rest of that half if the kept bit is odd.
        let odd = self.and(self.shr_u(rest, int(13)), int(1));
        let biased = self.sub(self.add(rest, self.add(odd, int(0xfff))), int((127 - 15) << 23));
        let normal = self.shr_u(biased, int(13));
        // Next to ½ the unit of an F32 is the 2⁻²⁴ that subnormal halves count: an addition rounds to it.
        let half = self.float(x.ty, 0.5);
        let shifted = self.add(self.bitcast(rest, x.ty), half);
        let small = self.sub(self.bitcast(shifted, bits.ty), self.bitcast(half, bits.ty));
        let finite = self.select(self.cmp(Cmp::Lt, rest, int(0x3880_0000)), small, normal);
        // From 65520 on infinity; a NaN keeps its upper bits, made quiet.
        let finite = self.select(self.cmp(Cmp::Ge, rest, int(0x477f_f000)), int(0x7c00), finite);
        let quiet = self.or(self.and(self.shr_u(rest, int(13)), int(0x7fff)), int(0x7e00));
        let magnitude = self.select(self.cmp(Cmp::Gt, rest, int(0x7f80_0000)), quiet, finite);
        let short = self.resize_u(self.or(magnitude, sign), Elem::I16);
        self.bitcast(short, x.ty.with_elem(Elem::F16))
    }

    /// BF16 is the upper half of F32.
    fn widen_bf16(&self, x: Val) -> Val {
        let bits = self.resize_u(self.bitcast(x, x.ty.with_elem(Elem::I16)), Elem::I32);
        let upper = self.shl(bits, self.int(bits.ty, 16));
        self.bitcast(upper, x.ty.with_elem(Elem::F32))
    }

    /// Rounds to nearest even on the bits: without AVX512-BF16 LLVM would call a library function for each lane.
    fn narrow_bf16(&self, x: Val) -> Val {
        let bits = self.bitcast(x, x.ty.with_elem(Elem::I32));
        let int = |value| self.int(bits.ty, value);
        // Adds just under half of the lowest kept bit, and the rest of that half if the kept bit is odd.
        let odd = self.and(self.shr_u(bits, int(16)), int(1));
        let rounded = self.shr_u(self.add(bits, self.add(odd, int(0x7fff))), int(16));
        // A NaN keeps its upper bits, made quiet: rounding could carry it into an infinity.
        let quiet = self.or(self.shr_u(bits, int(16)), int(0x40));
        let half = self.resize_u(self.select(self.is_nan(x), quiet, rounded), Elem::I16);
        self.bitcast(half, x.ty.with_elem(Elem::BF16))
    }
}
