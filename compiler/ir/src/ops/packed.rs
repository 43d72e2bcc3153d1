//! Elements of less than a byte between the bytes that they share and a byte of their own.
//!
//! Files and callers have them packed, the first one in the lowest bits of a byte; inside of programs each is a byte
//! ([`crate::narrow`]). The partition puts these operations at inputs and outputs.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::fragment::Fragment;
use crate::ops::pointwise::volume;
use crate::structured::{Binary, Body, Compute, Expr, ExprId, Scalar, Unary};
use crate::{Attr, DType, Dim, Fact, Tensor, narrow};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[&Unpack, &Pack];

const SHARED: Types = Types(Types::FEW_BITS.0 | Types::of(&[DType::F4E2M1]).0);

/// Bytes that elements of a tensor of that shape share.
pub fn bytes(t: DType, shape: &[Dim]) -> Dim {
    let per_byte = Dim::from(8 / t.bits());
    (Dim::product(shape) + per_byte.clone() - Dim::ONE).floor_div(&per_byte)
}

struct Unpack;

impl Unpack {
    fn result(cx: &Cx) -> Result<Fact, OpError> {
        let to = cx.dtype("to")?;
        let shape = match cx.attrs.get("shape") {
            Some(Attr::Dims(shape)) => shape.clone(),
            _ => return invalid("no shape is given"),
        };
        if !SHARED.contains(to) {
            return invalid(format!("elements of {to} do not share bytes"));
        }
        if let Some(d) = shape.iter().find(|d| d.as_const().is_some_and(|c| c < 0)) {
            return invalid(format!("an extent of {d}"));
        }
        let x = cx.fact(0)?;
        let wanted = bytes(to, &shape);
        if x.shape != [wanted.clone()] {
            let open = x.rank() == 1 && (x.shape[0].as_const().is_none() || wanted.as_const().is_none());
            let message = format!("{x} for elements in {wanted} bytes");
            return if open { unsupported(message) } else { invalid(message) };
        }
        Ok(Fact::new(to, shape))
    }
}

impl OpDef for Unpack {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Unpack",
            "the elements of a tensor of type `to` from the bytes that they share, the first one in the lowest bits",
            &[Param::new("input", Types::of(&[DType::U8]))],
            &[Param::new("output", SHARED).group(2)],
            &[("to", AttrDef::ReqDType), ("shape", AttrDef::ReqDims)],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Self::result(cx)?])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let fact = Self::result(cx)?;
        let Some(shape) = fact.static_shape() else {
            return invalid("the shape is not bound to numbers");
        };
        volume(&shape)?;
        match Tensor::from_packed(fact.dtype, shape, cx.tensor(0)?.bytes().clone()) {
            Ok(t) => Ok(vec![t]),
            Err(e) => invalid(format!("{} bytes for {fact}", e.got)),
        }
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let fact = Self::result(cx)?;
        let (to, bits) = (fact.dtype, fact.dtype.bits());
        Ok(Lowering::Compute(vec![Compute::map(to, &fact.shape, |b, it| {
            let mut at = Dim::ZERO;
            for (i, extent) in it.iter().zip(&fact.shape) {
                at = at * extent.clone() + i.clone();
            }
            let byte = at.floor_div(&Dim::from(8 / bits));
            let shift = (at - byte.clone() * Dim::from(8 / bits)) * Dim::from(bits);
            let shift = b.push(Expr::Index(shift));
            let shift = b.cast(DType::U8, shift);
            let byte = b.load(0, DType::U8, vec![byte]);
            let rest = b.binary(Binary::Shr, byte, shift);
            let mask = b.int(DType::U8, (1 << bits) - 1);
            let code = b.binary(Binary::And, rest, mask);
            if to == DType::F4E2M1 {
                value(b, code)
            } else {
                b.cast(to, code)
            }
        })]))
    }
}

/// The number of an `f4e2m1` by its code. Twice its magnitude is whole: 0, 1, 2, 3, 4, 6, 8, 12.
fn value(b: &mut Body, code: ExprId) -> ExprId {
    let t = DType::I32;
    let code = b.cast(t, code);
    let [zero, one, two, three, eight] = [0, 1, 2, 3, 8].map(|v| b.int(t, v));
    let fraction = b.binary(Binary::And, code, one);
    let exponent = b.binary(Binary::Shr, code, one);
    let exponent = b.binary(Binary::And, exponent, three);
    let shift = b.binary(Binary::Sub, exponent, one);
    let shift = b.binary(Binary::Max, shift, zero);
    let units = b.binary(Binary::Add, fraction, two);
    let normal = b.binary(Binary::Shl, units, shift);
    let subnormal = b.binary(Binary::Eq, exponent, zero);
    let doubled = b.select(subnormal, fraction, normal);
    let (doubled, half) = (b.cast(DType::F32, doubled), b.float(DType::F32, 0.5));
    let magnitude = b.binary(Binary::Mul, doubled, half);
    let negative = b.unary(Unary::Neg, magnitude);
    let sign = b.binary(Binary::And, code, eight);
    let positive = b.binary(Binary::Eq, sign, zero);
    let v = b.select(positive, magnitude, negative);
    b.cast(DType::F4E2M1, v)
}

/// The way back.
fn code(b: &mut Body, v: ExprId) -> ExprId {
    let (t, f) = (DType::I32, DType::F32);
    let v = b.cast(f, v);
    let magnitude = b.unary(Unary::Abs, v);
    let two = b.float(f, 2.0);
    let doubled = b.binary(Binary::Mul, magnitude, two);
    let mut rest = b.cast(t, doubled);
    for (doubled, code) in [(6, 5), (8, 6), (12, 7)] {
        let (is, code) = (b.int(t, doubled), b.int(t, code));
        let is = b.binary(Binary::Eq, rest, is);
        rest = b.select(is, code, rest);
    }
    // -0 is told from 0 by what 1 divided by it is.
    let (inverse, zero) = (b.unary(Unary::Reciprocal, v), b.float(f, 0.0));
    let negative = b.binary(Binary::Lt, inverse, zero);
    let (eight, none) = (b.int(t, 8), b.int(t, 0));
    let sign = b.select(negative, eight, none);
    let code = b.binary(Binary::Or, rest, sign);
    b.cast(DType::U8, code)
}

struct Pack;

impl OpDef for Pack {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Pack",
            "the bytes that the elements of x share, the first one in the lowest bits; what is left of the last byte is 0",
            &[Param::new("x", SHARED)],
            &[Param::new("output", Types::of(&[DType::U8])).group(2)],
            &[],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let x = cx.fact(0)?;
        Ok(vec![Fact::new(DType::U8, vec![bytes(x.dtype, &x.shape)])])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let packed = x.packed();
        match Tensor::new(DType::U8, vec![narrow::packed_len(x.dtype(), x.len())], packed) {
            Ok(t) => Ok(vec![t]),
            Err(e) => invalid(format!("{} bytes for {}", e.got, x.fact())),
        }
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let x = cx.fact(0)?;
        if x.rank() != 1 {
            let mut g = Fragment::new(cx);
            let v = g.required(cx, 0)?;
            let flat = Attr::Dims(vec![x.element_count()]);
            let v = g.apply("Reshape", &[("shape", flat), ("allowzero", Attr::Int(1))], &[v])?;
            let y = g.unary("cameo::Pack", v)?;
            return Ok(g.finish(&[y]));
        }
        let (t, bits) = (x.dtype, x.dtype.bits());
        let size = bytes(t, &x.shape);
        Ok(Lowering::Compute(vec![Compute::map(DType::U8, &[size], |b, it| {
            let mask = b.int(DType::U8, (1 << bits) - 1);
            let mut byte = b.int(DType::U8, 0);
            for k in 0..8 / bits {
                let element = b.push(Expr::Load {
                    operand: 0,
                    dtype: t,
                    index: vec![it[0].clone() * Dim::from(8 / bits) + Dim::from(k)],
                    fill: Some(if t.is_float() { Scalar::Float(0) } else { Scalar::Int(0) }),
                });
                let code = if t == DType::F4E2M1 {
                    code(b, element)
                } else {
                    let wide = b.cast(DType::U8, element);
                    b.binary(Binary::And, wide, mask)
                };
                let shift = b.int(DType::U8, (k * bits) as i64);
                let code = b.binary(Binary::Shl, code, shift);
                byte = b.binary(Binary::Or, byte, code);
            }
            byte
        })]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer};

    /// Every code, in some shape.
    fn all(t: DType, shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        let codes: Vec<u8> = (0..n).map(|i| (i * 7 % (1 << t.bits())) as u8).collect();
        let packed = narrow::pack(t, &codes);
        Tensor::from_packed(t, shape.to_vec(), packed.into()).expect("fits")
    }

    #[test]
    fn packing_and_unpacking() {
        for t in [DType::I4, DType::U4, DType::F4E2M1, DType::I2, DType::U2] {
            for shape in [&[16][..], &[], &[17], &[3, 5], &[2, 3, 4], &[0, 3], &[1, 1, 2]] {
                let x = all(t, shape);
                check("cameo::Pack", &[], &[Some(x.clone())], 1);
                let packed = eval("cameo::Pack", &[], &[Some(x.clone())], 1).remove(0);
                assert_eq!(packed.bytes(), &x.packed());
                let dims = Attr::Dims(shape.iter().map(|d| Dim::from(*d)).collect());
                let attrs = [("to", Attr::DType(t)), ("shape", dims)];
                check("cameo::Unpack", &attrs, &[Some(packed.clone())], 1);
                assert_eq!(eval("cameo::Unpack", &attrs, &[Some(packed)], 1), [x]);
            }
        }
    }

    #[test]
    fn sizes_are_checked() {
        let bytes = |n: usize| Fact::new(DType::U8, vec![Dim::from(n)]);
        let attrs = |t: DType, n: i64| [("to", Attr::DType(t)), ("shape", Attr::Dims(vec![Dim::from(n)]))];
        let unpack = |t, n, x| infer("cameo::Unpack", &attrs(t, n), &[x]);
        assert!(unpack(DType::I4, 3, bytes(2)).is_ok());
        assert!(unpack(DType::I4, 5, bytes(2)).is_err());
        assert!(unpack(DType::I4, -1, bytes(0)).is_err());
        assert!(unpack(DType::I8, 2, bytes(2)).is_err());
        assert!(unpack(DType::U2, 5, Fact::new(DType::U8, vec![])).is_err());
    }
}
