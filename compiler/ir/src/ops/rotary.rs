//! Rotary position embedding: pairs of elements of the last axis are turned by the angle of their position.
//!
//! Law: `y = x cos + turn(x) sin`, where `turn` gives the second element of each pair, negated, to the first and the first
//! to the second. Pairs are an element of the first half with that of the second, or neighbours when `interleaved`.

use crate::index::{broadcast_index, broadcast_linear, for_each, static_shape};
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::ops::pointwise::working;
use crate::structured::{Binary, Combine, Compute, Expr, Unary};
use crate::{DType, Dim, Fact, Tensor};

/// See the file's law.
pub struct Rotary;

impl Rotary {
    /// Half of the last axis.
    fn half(cx: &Cx) -> Result<Dim, OpError> {
        let x = cx.fact(0)?;
        let Some(half) = x.shape.last().and_then(|d| d.div_exact(&Dim::from(2i64))) else {
            return invalid(format!("the last axis of {x} does not divide into pairs"));
        };
        for i in [1, 2] {
            let f = cx.fact(i)?;
            let extra = x.rank().checked_sub(f.rank());
            let fits = |extra: usize| f.shape.iter().zip(&x.shape[extra..]).all(|(a, b)| a.is_one() || a == b);
            if !extra.is_some_and(fits) {
                return invalid(format!("{f} does not broadcast to {x}"));
            }
        }
        Ok(half)
    }
}

impl OpDef for Rotary {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Rotary",
            "x cos + turn(x) sin, where turn(x1, x2) = (-x2, x1) for pairs along the last axis",
            &[
                Param::new("X", Types::FLOAT),
                Param::new("cos", Types::FLOAT),
                Param::new("sin", Types::FLOAT),
            ],
            &[Param::new("Y", Types::FLOAT)],
            &[("interleaved", AttrDef::Int(0))],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::half(cx)?;
        let x = cx.fact(0)?;
        Ok(vec![Fact::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        Self::half(cx)?;
        let (x, cos, sin) = (cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?);
        let shape = static_shape(cx.fact(0)?)?;
        let (n, interleaved) = (shape[shape.len() - 1], cx.int("interleaved")? != 0);
        let (v, c, s) = (x.to_f64(), cos.to_f64(), sin.to_f64());
        let mut out = Vec::with_capacity(v.len());
        for_each(&shape, |ix| {
            let (at, d) = (out.len(), ix[ix.len() - 1]);
            let (second, distance) = if interleaved {
                (d % 2 == 1, 1)
            } else {
                (d >= n / 2, n / 2)
            };
            let turned = if second { v[at - distance] } else { -v[at + distance] };
            let of = |t: &Tensor, v: &[f64]| v[broadcast_linear(t.shape(), ix)];
            out.push(v[at] * of(cos, &c) + turned * of(sin, &s));
        });
        Ok(vec![Tensor::from_f64(x.dtype(), &shape, out)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (half, x) = (Self::half(cx)?, cx.fact(0)?);
        let interleaved = cx.int("interleaved")? != 0;
        let rank = x.rank();
        let two = Dim::from(2i64);
        // One iterator for the place in a pair and one for the pair: all addresses are affine.
        let mut extents = x.shape[..rank - 1].to_vec();
        extents.extend(if interleaved {
            [half.clone(), two.clone()]
        } else {
            [two.clone(), half.clone()]
        });
        let work = working(x.dtype);
        Ok(Lowering::Compute(vec![Compute::nest(
            x.dtype,
            &extents,
            &[],
            Combine::Add,
            |b, it, _| {
                let (lead, pair, place) = if interleaved {
                    (&it[..rank - 1], it[rank - 1].clone(), it[rank].clone())
                } else {
                    (&it[..rank - 1], it[rank].clone(), it[rank - 1].clone())
                };
                let position = |place: Dim| {
                    if interleaved {
                        pair.clone() * two.clone() + place
                    } else {
                        place * half.clone() + pair.clone()
                    }
                };
                let at = |place: Dim| lead.iter().cloned().chain([position(place)]).collect::<Vec<_>>();
                let here = at(place.clone());
                let load = |b: &mut crate::structured::Body, i: usize, dtype: DType, index: Vec<Dim>| {
                    let v = b.load(i, dtype, index);
                    b.cast(work, v)
                };
                let v = load(b, 0, x.dtype, here.clone());
                let other = load(b, 0, x.dtype, at(Dim::ONE - place.clone()));
                let [cos, sin] = [1, 2].map(|i| {
                    let f = cx.inputs[i].map_or(x, |a| a.fact);
                    load(b, i, f.dtype, broadcast_index(&f.shape, &x.shape, &here))
                });
                let negated = b.unary(Unary::Neg, other);
                let second = b.push(Expr::Index(place));
                let second = b.cast(DType::Bool, second);
                let turned = b.select(second, other, negated);
                let (straight, turned) = (b.binary(Binary::Mul, v, cos), b.binary(Binary::Mul, turned, sin));
                let y = b.binary(Binary::Add, straight, turned);
                (b.cast(x.dtype, y), here)
            },
        )]))
    }
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    #[test]
    fn evaluation_agrees_with_loops() {
        for interleaved in [0, 1] {
            let attrs = [("interleaved", Attr::Int(interleaved))];
            for t in [DType::F32, DType::F64, DType::F16] {
                let angles = |seed| sample(t, &[2, 1, 3, 8], seed);
                check(
                    "cameo::Rotary",
                    &attrs,
                    &[sample(t, &[2, 4, 3, 8], 1), angles(2), angles(3)],
                    1,
                );
            }
            let row = |seed| sample(DType::F32, &[3, 1], seed);
            check(
                "cameo::Rotary",
                &attrs,
                &[sample(DType::F32, &[3, 2], 1), row(2), row(3)],
                1,
            );
        }
    }

    #[test]
    fn a_quarter_turn() {
        let x = Some(Tensor::f32(&[4], [1.0, 2.0, 3.0, 4.0]));
        let number = |v: f32| Some(Tensor::f32(&[1], [v]));
        let turn = |i: i64| {
            let attrs = [("interleaved", Attr::Int(i))];
            eval("cameo::Rotary", &attrs, &[x.clone(), number(0.0), number(1.0)], 1)[0].to_f32()
        };
        assert_eq!(turn(0), [-3.0, -4.0, 1.0, 2.0]);
        assert_eq!(turn(1), [-2.0, 1.0, -4.0, 3.0]);
        let f = |n: i64| Fact::new(DType::F32, vec![Dim::from(n)]);
        assert!(infer("cameo::Rotary", &[], &[f(3), f(3), f(3)]).is_err());
        assert!(infer("cameo::Rotary", &[], &[f(4), f(4), f(2)]).is_err());
    }
}
