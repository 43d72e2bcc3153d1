//! Comparison, logic and bits of two operands that broadcast together, element by element.
//!
//! Comparisons of known elements are decided where the ranges of the symbols allow it: exporters ask whether an extent
//! is -1. Others are symbolic too, 1 or 0: exporters also choose between two extents.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types};
use crate::ops::chosen::{brief, equal, negative};
use crate::ops::pointwise::{self, RESULT};
use crate::structured::{Binary, Unary};
use crate::{Bounds, DType, Dim, Fact, Tensor};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &Compare {
        schema: &Schema::new("Equal", "a == b", ANYTHING, TRUTH, &[])
            .pointwise()
            .commutative(),
        scalar: Binary::Eq,
        swap: false,
        float: |a, b| a == b,
        int: |a, b| a == b,
        decide: |lo, hi| match (lo, hi) {
            (0, 0) => Some(true),
            _ if lo > 0 || hi < 0 => Some(false),
            _ => None,
        },
        known: equal,
    },
    &Compare {
        schema: &Schema::new("Less", "a < b", NUMBERS, TRUTH, &[]).pointwise(),
        scalar: Binary::Lt,
        swap: false,
        float: |a, b| a < b,
        int: |a, b| a < b,
        decide: |lo, hi| decided(hi < 0, lo >= 0),
        known: |a, b| negative(&(a.clone() - b.clone())),
    },
    &Compare {
        schema: &Schema::new("LessOrEqual", "a <= b", NUMBERS, TRUTH, &[])
            .since(12)
            .pointwise(),
        scalar: Binary::Le,
        swap: false,
        float: |a, b| a <= b,
        int: |a, b| a <= b,
        decide: |lo, hi| decided(hi <= 0, lo > 0),
        known: |a, b| Dim::ONE - negative(&(b.clone() - a.clone())),
    },
    &Compare {
        schema: &Schema::new("Greater", "a > b", NUMBERS, TRUTH, &[]).pointwise(),
        scalar: Binary::Lt,
        swap: true,
        float: |a, b| a > b,
        int: |a, b| a > b,
        decide: |lo, hi| decided(lo > 0, hi <= 0),
        known: |a, b| negative(&(b.clone() - a.clone())),
    },
    &Compare {
        schema: &Schema::new("GreaterOrEqual", "a >= b", NUMBERS, TRUTH, &[])
            .since(12)
            .pointwise(),
        scalar: Binary::Le,
        swap: true,
        float: |a, b| a >= b,
        int: |a, b| a >= b,
        decide: |lo, hi| decided(lo >= 0, hi < 0),
        known: |a, b| Dim::ONE - negative(&(a.clone() - b.clone())),
    },
    &Bits {
        schema: &Schema::new("And", "a and b", TRUTHS, RESULT, &[])
            .pointwise()
            .commutative(),
        scalar: Binary::And,
        int: |a, b| a & b,
        known: |a, b| Some(a * b),
    },
    &Bits {
        schema: &Schema::new("Or", "a or b", TRUTHS, RESULT, &[])
            .pointwise()
            .commutative(),
        scalar: Binary::Or,
        int: |a, b| a | b,
        known: |a, b| Some(a.maximum(&b)),
    },
    &Bits {
        schema: &Schema::new("Xor", "a != b, of bools", TRUTHS, RESULT, &[])
            .pointwise()
            .commutative(),
        scalar: Binary::Xor,
        int: |a, b| a ^ b,
        known: |a, b| Some(equal(&(a + b), &Dim::ONE)),
    },
    &Bits {
        schema: &Schema::new("BitwiseAnd", "a & b", INTS, RESULT, &[])
            .since(18)
            .pointwise()
            .commutative(),
        scalar: Binary::And,
        int: |a, b| a & b,
        known: |_, _| None,
    },
    &Bits {
        schema: &Schema::new("BitwiseOr", "a | b", INTS, RESULT, &[])
            .since(18)
            .pointwise()
            .commutative(),
        scalar: Binary::Or,
        int: |a, b| a | b,
        known: |_, _| None,
    },
    &Bits {
        schema: &Schema::new("BitwiseXor", "a ^ b", INTS, RESULT, &[])
            .since(18)
            .pointwise()
            .commutative(),
        scalar: Binary::Xor,
        int: |a, b| a ^ b,
        known: |_, _| None,
    },
    &BitShift,
];

const NUMBERS: &[Param] = &[Param::new("A", Types::NUMBER), Param::new("B", Types::NUMBER)];
const ANYTHING: &[Param] = &[Param::new("A", Types::COMPARED), Param::new("B", Types::COMPARED)];
const TRUTHS: &[Param] = &[Param::new("A", Types::BOOL), Param::new("B", Types::BOOL)];
const INTS: &[Param] = &[Param::new("A", Types::INT), Param::new("B", Types::INT)];
const TRUTH: &[Param] = &[Param::new("C", Types::BOOL).group(2)];

fn decided(yes: bool, no: bool) -> Option<bool> {
    (yes || no).then_some(yes)
}

/// A comparison.
struct Compare {
    schema: &'static Schema,
    scalar: Binary,
    /// The scalar function is given `(b, a)`.
    swap: bool,
    float: fn(f64, f64) -> bool,
    int: fn(i128, i128) -> bool,
    /// The answer, when the range of `a - b` settles it.
    decide: fn(i64, i64) -> Option<bool>,
    /// 1 or 0 where it does not.
    known: fn(&Dim, &Dim) -> Dim,
}

impl OpDef for Compare {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        pointwise::infer(cx, DType::Bool, |a| {
            // An extent may be 0: whether there is anything at all is what a model asks.
            let (lo, hi) = Bounds::of(&[]).range(&(a[0].clone() - a[1].clone()));
            match (self.decide)(lo, hi) {
                Some(yes) => Some(Dim::from(i64::from(yes))),
                None => brief(a).then(|| (self.known)(&a[0], &a[1])),
            }
        })
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (shape, v) = if cx.fact(0)?.dtype.is_float() {
            pointwise::zip(cx, Tensor::to_f64, |a| (self.float)(a[0], a[1]))?
        } else {
            pointwise::zip(cx, pointwise::integers, |a| (self.int)(a[0], a[1]))?
        };
        Ok(vec![Tensor::bool(&shape, v)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        pointwise::lower(cx, DType::Bool, |b, a| {
            let (x, y) = if self.swap { (a[1], a[0]) } else { (a[0], a[1]) };
            b.binary(self.scalar, x, y)
        })
    }
}

/// Logic of bools or of the bits of integers.
struct Bits {
    schema: &'static Schema,
    scalar: Binary,
    int: fn(i128, i128) -> i128,
    /// Of ones and zeros.
    known: fn(Dim, Dim) -> Option<Dim>,
}

impl OpDef for Bits {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        pointwise::infer(cx, cx.fact(0)?.dtype, |a| {
            let (Some(x), Some(y)) = (a[0].as_const(), a[1].as_const()) else {
                return brief(a).then(|| (self.known)(a[0].clone(), a[1].clone())).flatten();
            };
            i64::try_from((self.int)(x.into(), y.into())).ok().map(Dim::from)
        })
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        pointwise::eval_integers(cx, cx.fact(0)?.dtype, |a| (self.int)(a[0], a[1]))
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        pointwise::lower(cx, cx.fact(0)?.dtype, |b, a| b.binary(self.scalar, a[0], a[1]))
    }
}

struct BitShift;

impl BitShift {
    fn left(cx: &Cx) -> Result<bool, OpError> {
        match cx.str("direction")? {
            "LEFT" => Ok(true),
            "RIGHT" => Ok(false),
            _ => cx.bad("direction"),
        }
    }
}

impl OpDef for BitShift {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "BitShift",
            "x shifted by y bits to the left or right; 0 from the width on, and -1 for what is negative and goes to the right",
            &[Param::new("X", Types::INT), Param::new("Y", Types::INT)],
            RESULT,
            &[("direction", AttrDef::ReqOneOf(&["LEFT", "RIGHT"]))],
        ).since(11)
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::left(cx)?;
        pointwise::infer(cx, cx.fact(0)?.dtype, |_| None)
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (left, t) = (Self::left(cx)?, cx.fact(0)?.dtype);
        let width = t.size() as i128 * 8;
        pointwise::eval_integers(cx, t, |a| match a[1] {
            n if n < 0 || n >= width => {
                if left {
                    0
                } else {
                    a[0] >> 127
                }
            }
            n if left => a[0] << n,
            n => a[0] >> n,
        })
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (left, t) = (Self::left(cx)?, cx.fact(0)?.dtype);
        pointwise::lower(cx, t, |b, a| {
            let (last, zero) = (b.int(t, t.size() as i64 * 8 - 1), b.int(t, 0));
            let (low, high) = (b.binary(Binary::Le, zero, a[1]), b.binary(Binary::Le, a[1], last));
            let inside = b.binary(Binary::And, low, high);
            // The scalar shift is given only amounts below the width.
            let amount = b.select(inside, a[1], zero);
            if left {
                let shifted = b.binary(Binary::Shl, a[0], amount);
                return b.select(inside, shifted, zero);
            }
            // It fills up with zeros, which are ones where all bits are turned before and after.
            let negative = b.binary(Binary::Lt, a[0], zero);
            let turned = b.unary(Unary::BitNot, a[0]);
            let x = b.select(negative, turned, a[0]);
            let shifted = b.binary(Binary::Shr, x, amount);
            let shifted = b.select(inside, shifted, zero);
            let turned = b.unary(Unary::BitNot, shifted);
            b.select(negative, turned, shifted)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, pairs, sample};

    #[test]
    fn comparisons_and_logic() {
        for op in ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"] {
            pairs(op, &[DType::F32, DType::F16, DType::I64, DType::U64]);
        }
        pairs("Equal", &[DType::Bool]);
        for op in ["And", "Or", "Xor"] {
            pairs(op, &[DType::Bool]);
        }
        for op in ["BitwiseAnd", "BitwiseOr", "BitwiseXor"] {
            pairs(op, &[DType::I32, DType::U8, DType::I64]);
        }
        for t in [DType::U8, DType::U32, DType::U64] {
            for d in ["LEFT", "RIGHT"] {
                let amounts = Tensor::from_i64(t, &[4], [0, 1, 7, 70]);
                check(
                    "BitShift",
                    &[("direction", Attr::Str(d.into()))],
                    &[sample(t, &[3, 4], 1), Some(amounts)],
                    1,
                );
            }
        }
    }

    #[test]
    fn unsigned_numbers() {
        let top = Some(Tensor::from_i64(DType::U64, &[1], [-1]));
        let one = Some(Tensor::from_i64(DType::U64, &[1], [1]));
        check("Less", &[], &[one.clone(), top.clone()], 1);
        assert_eq!(eval("Less", &[], &[one, top], 1)[0].to_i64(), [1]);
    }

    #[test]
    fn known_elements() {
        let (s, c) = (Dim::sym("S"), |v: i64| Dim::from(v));
        let vec = |k: &[Dim]| Fact::with_known(DType::I64, vec![Dim::from(k.len())], k.to_vec());
        let known = |op: &str, a: &[Dim], b: &[Dim]| infer(op, &[], &[vec(a), vec(b)]).expect("infers").remove(0).known;
        assert_eq!(known("Equal", std::slice::from_ref(&s), &[c(-1)]), Some(vec![c(0)]));
        assert_eq!(
            known("Equal", std::slice::from_ref(&s), std::slice::from_ref(&s)),
            Some(vec![c(1)])
        );
        let is_four = known("Equal", std::slice::from_ref(&s), &[c(4)]).expect("a formula")[0].clone();
        let at = |n: i64| is_four.eval(&|_| Some(n));
        assert_eq!([at(3), at(4), at(5)], [Some(0), Some(1), Some(0)]);
        assert_eq!(known("Greater", &[s.clone() + c(1)], &[c(0)]), Some(vec![c(1)]));
        let any = known("Greater", std::slice::from_ref(&s), &[c(0)]).expect("a formula")[0].clone();
        assert_eq!([0, 1, 5].map(|n| any.eval(&|_| Some(n))), [Some(0), Some(1), Some(1)]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let f = |t: DType| Fact::new(t, vec![Dim::from(2usize)]);
        assert!(infer("And", &[], &[f(DType::I32), f(DType::I32)]).is_err());
        let up = [("direction", Attr::Str("UP".into()))];
        assert!(infer("BitShift", &up, &[f(DType::U8), f(DType::U8)]).is_err());
    }
}
