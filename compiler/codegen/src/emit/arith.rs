//! Arithmetic, comparison and selection, lane by lane.
//!
//! Laws: integers wrap, and whether they have a sign is said by the operation; float operations are IEEE and are fused
//! only by [`Builder::fma`], [`Builder::mul_add`] or inside [`Builder::contracted`]; F16 and BF16 are computed in F32 and rounded (to nearest
//! even) after each operation.

use super::builder::wrap;
use super::{Builder, Elem, Val};

/// An order relation. Integers are compared as signed (unsigned in [`Builder::cmp_u`]); floats are ordered, so all but
/// `Ne` are false when a NaN takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// An integer operation with two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Int {
    Add,
    Sub,
    Mul,
    DivS,
    DivU,
    RemS,
    RemU,
    And,
    Or,
    Xor,
    Shl,
    ShrS,
    ShrU,
    MinS,
    MaxS,
    MinU,
    MaxU,
}

impl Int {
    const fn name(self) -> &'static str {
        match self {
            Self::Add => "arith.addi",
            Self::Sub => "arith.subi",
            Self::Mul => "arith.muli",
            Self::DivS => "arith.divsi",
            Self::DivU => "arith.divui",
            Self::RemS => "arith.remsi",
            Self::RemU => "arith.remui",
            Self::And => "arith.andi",
            Self::Or => "arith.ori",
            Self::Xor => "arith.xori",
            Self::Shl => "arith.shli",
            Self::ShrS => "arith.shrsi",
            Self::ShrU => "arith.shrui",
            Self::MinS => "arith.minsi",
            Self::MaxS => "arith.maxsi",
            Self::MinU => "arith.minui",
            Self::MaxU => "arith.maxui",
        }
    }

    /// The result for constants, before wrapping; `None` where the operation has none (division by 0, wide shifts).
    fn fold(self, elem: Elem, a: i64, b: i64) -> Option<i64> {
        let (ua, ub) = (unsigned(elem, a), unsigned(elem, b));
        let shift = u32::try_from(b).ok().filter(|&shift| shift < elem.bits());
        // Truth values are kept as 0 and 1, which is not how a signed bit reads: leave those to LLVM.
        let signed = elem != Elem::I1;
        match self {
            Self::Add => Some(a.wrapping_add(b)),
            Self::Sub => Some(a.wrapping_sub(b)),
            Self::Mul => Some(a.wrapping_mul(b)),
            Self::DivS => a.checked_div(b).filter(|_| signed),
            Self::RemS => a.checked_rem(b).filter(|_| signed),
            Self::DivU => ua.checked_div(ub).map(u64::cast_signed),
            Self::RemU => ua.checked_rem(ub).map(u64::cast_signed),
            Self::And => Some(a & b),
            Self::Or => Some(a | b),
            Self::Xor => Some(a ^ b),
            Self::Shl => shift.map(|shift| a << shift),
            Self::ShrS => shift.filter(|_| signed).map(|shift| a >> shift),
            Self::ShrU => shift.map(|shift| (ua >> shift).cast_signed()),
            Self::MinS => Some(a.min(b)).filter(|_| signed),
            Self::MaxS => Some(a.max(b)).filter(|_| signed),
            Self::MinU => Some(ua.min(ub).cast_signed()),
            Self::MaxU => Some(ua.max(ub).cast_signed()),
        }
    }

    /// Whether `x op constant` is `x` (then `Some(true)`) or the constant (`Some(false)`).
    fn identity(self, elem: Elem, constant: i64) -> Option<bool> {
        let ones = wrap(elem, -1);
        match (self, constant) {
            (Self::Add | Self::Sub | Self::Or | Self::Xor | Self::Shl | Self::ShrS | Self::ShrU | Self::MaxU, 0) => {
                Some(true)
            }
            (Self::Mul | Self::DivU, 1) => Some(true),
            (Self::DivS, 1) => (elem != Elem::I1).then_some(true),
            (Self::Mul | Self::And | Self::MinU, 0) => Some(false),
            (Self::And | Self::MinU, c) if c == ones => Some(true),
            (Self::Or | Self::MaxU, c) if c == ones => Some(false),
            _ => None,
        }
    }

    const fn commutes(self) -> bool {
        matches!(
            self,
            Self::Add
                | Self::Mul
                | Self::And
                | Self::Or
                | Self::Xor
                | Self::MinS
                | Self::MaxS
                | Self::MinU
                | Self::MaxU
        )
    }
}

/// The bits of an integer constant read as unsigned.
pub(super) fn unsigned(elem: Elem, value: i64) -> u64 {
    match elem.bits() {
        64 => value.cast_unsigned(),
        bits => value.cast_unsigned() & ((1 << bits) - 1),
    }
}

impl Builder<'_> {
    // Integers and floats.

    pub fn add(&self, a: Val, b: Val) -> Val {
        self.either(a, b, Int::Add, "arith.addf")
    }

    pub fn sub(&self, a: Val, b: Val) -> Val {
        self.either(a, b, Int::Sub, "arith.subf")
    }

    pub fn mul(&self, a: Val, b: Val) -> Val {
        self.either(a, b, Int::Mul, "arith.mulf")
    }

    /// Float quotient; for integers truncated toward 0 ([`Builder::div_u`] is much cheaper where nothing is negative).
    pub fn div(&self, a: Val, b: Val) -> Val {
        self.either(a, b, Int::DivS, "arith.divf")
    }

    /// C's remainder, with the sign of `a`: `%`, `fmod`.
    pub fn rem(&self, a: Val, b: Val) -> Val {
        self.either(a, b, Int::RemS, "arith.remf")
    }

    /// Minimum; signed for integers, NaN if either float is NaN. Zeros count as equal.
    pub fn min(&self, a: Val, b: Val) -> Val {
        if a.ty.elem.is_int() || self.features.minimum {
            return self.either(a, b, Int::MinS, "arith.minimumf");
        }
        self.or_nan(a, b, Self::min_fast)
    }

    /// Maximum; signed for integers, NaN if either float is NaN. Zeros count as equal.
    pub fn max(&self, a: Val, b: Val) -> Val {
        if a.ty.elem.is_int() || self.features.minimum {
            return self.either(a, b, Int::MaxS, "arith.maximumf");
        }
        self.or_nan(a, b, Self::max_fast)
    }

    /// `fast`, which is NaN where `b` is, and where `a` is, too.
    fn or_nan(&self, a: Val, b: Val, fast: fn(&Self, Val, Val) -> Val) -> Val {
        let (a, b) = self.unify(a, b);
        self.select(self.is_nan(a), a, fast(self, a, b))
    }

    /// C's `fmin`: the number, if one of the two is NaN.
    pub fn min_num(&self, a: Val, b: Val) -> Val {
        self.float_binary("arith.minnumf", a, b)
    }

    /// C's `fmax`: the number, if one of the two is NaN.
    pub fn max_num(&self, a: Val, b: Val) -> Val {
        self.float_binary("arith.maxnumf", a, b)
    }

    /// `a < b ? a : b`: one instruction on x86. `b` if either is NaN, so `min_fast(limit, x)` passes NaN on.
    pub fn min_fast(&self, a: Val, b: Val) -> Val {
        let (a, b) = self.unify(a, b);
        self.select(self.cmp(Cmp::Lt, a, b), a, b)
    }

    /// `a > b ? a : b`: one instruction on x86. `b` if either is NaN, so `max_fast(0, x)` is a `relu` that passes NaN on.
    pub fn max_fast(&self, a: Val, b: Val) -> Val {
        let (a, b) = self.unify(a, b);
        self.select(self.cmp(Cmp::Gt, a, b), a, b)
    }

    pub fn neg(&self, x: Val) -> Val {
        if x.ty.elem.is_int() {
            self.sub(self.zero(x.ty), x)
        } else {
            self.float_unary("arith.negf", x)
        }
    }

    /// Absolute value; the most negative integer stays itself.
    pub fn abs(&self, x: Val) -> Val {
        if x.ty.elem.is_int() {
            self.op1("math.absi", &[x], x.ty, &[])
        } else {
            self.float_unary("math.absf", x)
        }
    }

    // Integers.

    pub fn div_u(&self, a: Val, b: Val) -> Val {
        self.int_binary(Int::DivU, a, b)
    }

    pub fn rem_u(&self, a: Val, b: Val) -> Val {
        self.int_binary(Int::RemU, a, b)
    }

    /// Signed quotient rounded toward minus infinity.
    pub fn div_floor(&self, a: Val, b: Val) -> Val {
        let (a, b) = self.unify(a, b);
        if let Some(shift) = self.as_int(b).and_then(power_of_two) {
            return self.shr_s(a, self.int(a.ty, shift));
        }
        let quotient = self.div(a, b);
        let rest = self.sub(a, self.mul(quotient, b));
        // Truncation was upward when something is left over and the signs differ.
        let inexact = self.cmp(Cmp::Ne, rest, self.zero(a.ty));
        let opposite = self.cmp(Cmp::Lt, self.xor(rest, b), self.zero(a.ty));
        let down = self.sub(quotient, self.int(a.ty, 1));
        self.select(self.and(inexact, opposite), down, quotient)
    }

    /// Signed quotient rounded toward plus infinity.
    pub fn div_ceil(&self, a: Val, b: Val) -> Val {
        let (a, b) = self.unify(a, b);
        if let (Some(a_int), Some(b_int)) = (self.as_int(a), self.as_int(b))
            && b_int > 0
        {
            let up = i64::from(a_int.rem_euclid(b_int) != 0);
            return self.int(a.ty, a_int.div_euclid(b_int) + up);
        }
        let quotient = self.div(a, b);
        let rest = self.sub(a, self.mul(quotient, b));
        let inexact = self.cmp(Cmp::Ne, rest, self.zero(a.ty));
        let same = self.cmp(Cmp::Ge, self.xor(rest, b), self.zero(a.ty));
        let up = self.add(quotient, self.int(a.ty, 1));
        self.select(self.and(inexact, same), up, quotient)
    }

    /// Signed remainder with the sign of `b`: what [`Builder::div_floor`] leaves.
    pub fn rem_floor(&self, a: Val, b: Val) -> Val {
        let (a, b) = self.unify(a, b);
        if let Some(shift) = self.as_int(b).and_then(power_of_two) {
            return self.and(a, self.int(a.ty, (1 << shift) - 1));
        }
        let rest = self.rem(a, b);
        let inexact = self.cmp(Cmp::Ne, rest, self.zero(a.ty));
        let opposite = self.cmp(Cmp::Lt, self.xor(rest, b), self.zero(a.ty));
        self.select(self.and(inexact, opposite), self.add(rest, b), rest)
    }

    pub fn min_u(&self, a: Val, b: Val) -> Val {
        self.int_binary(Int::MinU, a, b)
    }

    pub fn max_u(&self, a: Val, b: Val) -> Val {
        self.int_binary(Int::MaxU, a, b)
    }

    pub fn and(&self, a: Val, b: Val) -> Val {
        self.int_binary(Int::And, a, b)
    }

    pub fn or(&self, a: Val, b: Val) -> Val {
        self.int_binary(Int::Or, a, b)
    }

    pub fn xor(&self, a: Val, b: Val) -> Val {
        self.int_binary(Int::Xor, a, b)
    }

    /// All bits inverted: for truth values, the negation.
    pub fn not(&self, x: Val) -> Val {
        self.xor(x, self.int(x.ty, -1))
    }

    /// `a << b`; `b` is less than the width.
    pub fn shl(&self, a: Val, b: Val) -> Val {
        self.int_binary(Int::Shl, a, b)
    }

    /// `a >> b` that copies the sign; `b` is less than the width.
    pub fn shr_s(&self, a: Val, b: Val) -> Val {
        self.int_binary(Int::ShrS, a, b)
    }

    /// `a >> b` that brings in zeros; `b` is less than the width.
    pub fn shr_u(&self, a: Val, b: Val) -> Val {
        self.int_binary(Int::ShrU, a, b)
    }

    // Floats.

    /// `a * b + c` of F32 (or shorter), rounded once; on a machine without the instruction by way of F64, in which the product
    /// is exact.
    pub fn fma(&self, a: Val, b: Val, c: Val) -> Val {
        let (a, b) = self.unify(a, b);
        let (a, c) = self.unify(a, c);
        let (b, c) = self.unify(b, c);
        self.in_single(&[a, b, c], |wide| {
            if self.features.fma {
                return self.op1("math.fma", wide, wide[0].ty, &[]);
            }
            let double: Vec<Val> = wide.iter().map(|x| self.resize_f(*x, Elem::F64)).collect();
            let sum = self.add(self.mul(double[0], double[1]), double[2]);
            self.resize_f(sum, wide[0].ty.elem)
        })
    }

    /// `a * b + c` in as few instructions as there are: rounded once, or twice on a machine that multiplies and adds
    /// separately.
    pub fn mul_add(&self, a: Val, b: Val, c: Val) -> Val {
        if self.features.fma {
            self.fma(a, b, c)
        } else {
            self.add(self.mul(a, b), c)
        }
    }

    /// Whether there is an instruction for [`Builder::scaled`] of such values.
    pub fn has_scaled(&self, x: Val) -> bool {
        self.features.scale && x.ty == Elem::F32.x(16)
    }

    /// `p · 2ⁿ` for whole `n`.
    pub fn scaled(&self, p: Val, n: Val) -> Val {
        let (all, nearest) = (self.int(Elem::I16.x(0), -1), self.int(Elem::I32.x(0), 4));
        let name = "llvm.x86.avx512.mask.scalef.ps.512";
        self.intrinsic(name, &[p, n, p, all, nearest], Some(p.ty))
            .expect("the intrinsic has a result")
    }

    pub fn sqrt(&self, x: Val) -> Val {
        self.float_unary("math.sqrt", x)
    }

    pub fn floor(&self, x: Val) -> Val {
        self.float_unary("math.floor", x)
    }

    pub fn ceil(&self, x: Val) -> Val {
        self.float_unary("math.ceil", x)
    }

    /// To the nearest integer, ties to even.
    pub fn round_even(&self, x: Val) -> Val {
        self.float_unary("math.roundeven", x)
    }

    /// Toward 0.
    pub fn trunc(&self, x: Val) -> Val {
        self.float_unary("math.trunc", x)
    }

    /// The magnitude of `x` with the sign of `sign`.
    pub fn copysign(&self, x: Val, sign: Val) -> Val {
        self.float_binary("math.copysign", x, sign)
    }

    // Truth values.

    /// Truth value of each lane: see [`Cmp`].
    pub fn cmp(&self, relation: Cmp, a: Val, b: Val) -> Val {
        let (a, b) = self.unify(a, b);
        if a.ty.elem.is_float() {
            // arith's numbering of the ordered relations, and of `une`.
            let predicate = match relation {
                Cmp::Eq => 1,
                Cmp::Gt => 2,
                Cmp::Ge => 3,
                Cmp::Lt => 4,
                Cmp::Le => 5,
                Cmp::Ne => 13,
            };
            return self.cmp_float(predicate, a, b);
        }
        if let (Some(a_int), Some(b_int)) = (self.as_int(a), self.as_int(b))
            && a.ty.elem != Elem::I1
        {
            return self.int(a.ty.with_elem(Elem::I1), i64::from(relation.holds(a_int, b_int)));
        }
        let predicate = match relation {
            Cmp::Eq => 0,
            Cmp::Ne => 1,
            Cmp::Lt => 2,
            Cmp::Le => 3,
            Cmp::Gt => 4,
            Cmp::Ge => 5,
        };
        self.cmp_int(predicate, a, b)
    }

    /// [`Builder::cmp`] of integers without sign.
    pub fn cmp_u(&self, relation: Cmp, a: Val, b: Val) -> Val {
        let (a, b) = self.unify(a, b);
        if let (Some(a_int), Some(b_int)) = (self.as_int(a), self.as_int(b)) {
            let holds = relation.holds(unsigned(a.ty.elem, a_int), unsigned(a.ty.elem, b_int));
            return self.int(a.ty.with_elem(Elem::I1), i64::from(holds));
        }
        let predicate = match relation {
            Cmp::Eq => 0,
            Cmp::Ne => 1,
            Cmp::Lt => 6,
            Cmp::Le => 7,
            Cmp::Gt => 8,
            Cmp::Ge => 9,
        };
        self.cmp_int(predicate, a, b)
    }

    pub fn is_nan(&self, x: Val) -> Val {
        self.cmp_float(14, x, x)
    }

    /// `cond ? yes : no`, lane by lane; a scalar condition chooses between whole vectors.
    pub fn select(&self, cond: Val, yes: Val, no: Val) -> Val {
        let (yes, no) = self.unify(yes, no);
        let (yes, no) = match cond.ty.lanes {
            lanes if lanes > 0 && yes.ty.is_scalar() => (self.splat(yes, lanes), self.splat(no, lanes)),
            _ => (yes, no),
        };
        match self.as_int(cond) {
            Some(0) => no,
            Some(_) => yes,
            None if yes == no => yes,
            // LLVM would select BF16 by way of F32, and round back with a library function.
            None if yes.ty.elem == Elem::BF16 => {
                let [yes_bits, no_bits] = [yes, no].map(|v| self.bitcast(v, v.ty.with_elem(Elem::I16)));
                let bits = self.op1("arith.select", &[cond, yes_bits, no_bits], yes_bits.ty, &[]);
                self.bitcast(bits, yes.ty)
            }
            None => self.op1("arith.select", &[cond, yes, no], yes.ty, &[]),
        }
    }

    /// Two operands as the same type: a scalar is spread to the lanes of the other.
    pub(super) fn unify(&self, a: Val, b: Val) -> (Val, Val) {
        let (a, b) = match (a.ty.lanes, b.ty.lanes) {
            (0, lanes) if lanes > 0 => (self.splat(a, lanes), b),
            (lanes, 0) if lanes > 0 => (a, self.splat(b, lanes)),
            _ => (a, b),
        };
        assert_eq!(a.ty, b.ty, "operands differ in type");
        (a, b)
    }

    fn either(&self, a: Val, b: Val, int: Int, float: &str) -> Val {
        if a.ty.elem.is_int() {
            self.int_binary(int, a, b)
        } else {
            self.float_binary(float, a, b)
        }
    }

    fn int_binary(&self, operation: Int, a: Val, b: Val) -> Val {
        let (a, b) = self.unify(a, b);
        let elem = a.ty.elem;
        assert!(elem.is_int(), "{operation:?} of {elem:?}");
        let (known_a, known_b) = (self.as_int(a), self.as_int(b));
        if let (Some(a_int), Some(b_int)) = (known_a, known_b)
            && let Some(result) = operation.fold(elem, a_int, b_int)
        {
            return self.int(a.ty, result);
        }
        match known_b.and_then(|constant| operation.identity(elem, constant)) {
            Some(true) => return a,
            Some(false) => return b,
            None => {}
        }
        if operation.commutes() {
            match known_a.and_then(|constant| operation.identity(elem, constant)) {
                Some(true) => return b,
                Some(false) => return a,
                None => {}
            }
        }
        self.op1(operation.name(), &[a, b], a.ty, &[])
    }

    fn float_unary(&self, name: &str, x: Val) -> Val {
        self.in_single(&[x], |wide| self.op1(name, wide, wide[0].ty, &[]))
    }

    fn float_binary(&self, name: &str, a: Val, b: Val) -> Val {
        let (a, b) = self.unify(a, b);
        let flags = if self.contract.get() {
            vec![("fastmath", self.parsed("#arith.fastmath<contract>"))]
        } else {
            vec![]
        };
        self.in_single(&[a, b], |wide| self.op1(name, wide, wide[0].ty, &flags))
    }

    /// Computes on F32 instead of F16 or BF16, and rounds the result back.
    fn in_single(&self, operands: &[Val], compute: impl FnOnce(&[Val]) -> Val) -> Val {
        let elem = operands[0].ty.elem;
        assert!(elem.is_float(), "a float operation on {elem:?}");
        let wide: Vec<Val> = operands.iter().map(|&x| self.widen(x)).collect();
        let result = compute(&wide);
        if elem.is_half() {
            self.resize_f(result, elem)
        } else {
            result
        }
    }

    /// F16 and BF16 as F32.
    pub(super) fn widen(&self, x: Val) -> Val {
        if x.ty.elem.is_half() {
            self.resize_f(x, Elem::F32)
        } else {
            x
        }
    }

    fn cmp_float(&self, predicate: i64, a: Val, b: Val) -> Val {
        let (a, b) = (self.widen(a), self.widen(b));
        let attribute = self.int_attribute(64, predicate);
        self.op1(
            "arith.cmpf",
            &[a, b],
            a.ty.with_elem(Elem::I1),
            &[("predicate", attribute)],
        )
    }

    fn cmp_int(&self, predicate: i64, a: Val, b: Val) -> Val {
        let attribute = self.int_attribute(64, predicate);
        self.op1(
            "arith.cmpi",
            &[a, b],
            a.ty.with_elem(Elem::I1),
            &[("predicate", attribute)],
        )
    }
}

impl Cmp {
    fn holds<T: Copy + PartialOrd>(self, a: T, b: T) -> bool {
        match self {
            Self::Eq => a == b,
            Self::Ne => a != b,
            Self::Lt => a < b,
            Self::Le => a <= b,
            Self::Gt => a > b,
            Self::Ge => a >= b,
        }
    }
}

/// The exponent of a positive power of two.
fn power_of_two(value: i64) -> Option<i64> {
    (value > 0 && value.cast_unsigned().is_power_of_two()).then(|| i64::from(value.trailing_zeros()))
}
