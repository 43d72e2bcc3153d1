//! Padding, by a constant or from the data.
//!
//! Law: padding by 0 is one load with a fill value; other constants are selected; padding from the data is an index map.

use crate::index::static_shape;
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid};
use crate::structured::{Binary, Combine, Compute, Expr, Scalar};
use crate::{Bounds, Dim, Fact, Tensor};

use super::blocks::carry;
use super::chosen::{any_symbolic, by_length, cut, listed, named, named_by_open, table, there, whole};
use super::gather::compare;
use super::movement::{axes_of, required_dims};

pub struct Pad;

#[derive(Clone, Copy, PartialEq, Eq)]
enum PadMode {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

impl Pad {
    fn mode(cx: &Cx) -> Result<PadMode, OpError> {
        match cx.str("mode")? {
            "constant" => Ok(PadMode::Constant),
            "reflect" => Ok(PadMode::Reflect),
            "edge" => Ok(PadMode::Edge),
            "wrap" => Ok(PadMode::Wrap),
            _ => cx.bad("mode"),
        }
    }

    /// Elements before and after each axis; negative ones cut.
    fn pads(cx: &Cx) -> Result<Vec<(Dim, Dim)>, OpError> {
        let rank = cx.fact(0)?.rank();
        if let Some((list, _)) = Self::open(cx)? {
            return Self::of_open(cx, &list, rank);
        }
        let list = required_dims(cx, 1)?;
        let axes = match cx.dims(3)? {
            Some(axes) if any_symbolic(&axes) => {
                if list.len() != 2 * axes.len() {
                    return invalid(format!("{} pads for {} axes", list.len(), axes.len()));
                }
                let none = vec![Dim::ZERO; rank];
                let (before, after) = list.split_at(axes.len());
                let sides = [before, after].map(|side| listed(&axes, side, &none));
                let [before, after] = sides;
                return Ok(before.into_iter().zip(after).collect());
            }
            Some(_) => axes_of(&cx.const_ints(3)?.unwrap_or_default(), rank)?,
            None => (0..rank).collect(),
        };
        if list.len() != 2 * axes.len() {
            return invalid(format!("{} pads for {} axes", list.len(), axes.len()));
        }
        let mut pads = vec![(Dim::ZERO, Dim::ZERO); rank];
        for (i, a) in axes.iter().enumerate() {
            pads[*a] = (list[i].clone(), list[axes.len() + i].clone());
        }
        Ok(pads)
    }

    /// The pads and their number, where only a run knows of how many axes they are.
    fn open(cx: &Cx) -> Result<Option<(Vec<Dim>, Dim)>, OpError> {
        Ok(cx.open_dims(1)?.and_then(|(list, length)| Some((list, length?))))
    }

    fn of_open(cx: &Cx, list: &[Dim], rank: usize) -> Result<Vec<(Dim, Dim)>, OpError> {
        let Some((axes, Some(length))) = cx.open_dims(3)? else {
            return invalid("the number of pads does not fit the axes");
        };
        let most = axes.len();
        let entry = |k: usize| list.get(k).cloned().unwrap_or(Dim::ZERO);
        // Those behind stand where those before end.
        let after = |k: usize| by_length(&length, most, |n| if n > k { entry(n + k) } else { Dim::ZERO });
        let (table, there) = (table(&axes, rank), there(&length, most));
        let side = |axis: usize, of: &dyn Fn(usize) -> Dim| {
            let each = (0..most).map(|k| there[k].clone() * whole(table[k][axis].clone()) * of(k));
            each.fold(Dim::ZERO, |sum, d| sum + d)
        };
        Ok((0..rank)
            .map(|axis| (side(axis, &|k| cut(&entry(k))), side(axis, &|k| cut(&after(k)))))
            .collect())
    }

    fn shape(cx: &Cx) -> Result<Vec<Dim>, OpError> {
        let mode = Self::mode(cx)?;
        let mut out = vec![];
        for (d, (before, after)) in cx.fact(0)?.shape.iter().zip(Self::pads(cx)?) {
            let padded = d.clone() + before + after;
            if padded.as_const().is_some_and(|c| c < 0) {
                return invalid(format!("pads cut {d} elements to {padded}"));
            }
            if mode != PadMode::Constant && d.is_zero() && !padded.is_zero() {
                return invalid("an empty axis has nothing to pad with");
            }
            out.push(if padded.has_elements() { whole(padded) } else { padded });
        }
        if cx
            .arg(2)
            .is_some_and(|v| v.fact.element_count().as_const().is_some_and(|n| n != 1))
        {
            return invalid("the padding value is not a scalar");
        }
        Ok(out)
    }

    /// The position in an axis of extent `d` that position `x`, which may lie outside, reads.
    fn position(mode: PadMode, x: i64, d: i64) -> Option<i64> {
        match mode {
            PadMode::Constant => (0..d).contains(&x).then_some(x),
            PadMode::Edge => Some(x.clamp(0, d - 1)),
            PadMode::Wrap => Some(x.rem_euclid(d)),
            PadMode::Reflect if d == 1 => Some(0),
            PadMode::Reflect => {
                let m = x.rem_euclid(2 * (d - 1));
                Some(m.min(2 * (d - 1) - m))
            }
        }
    }

    fn source(cx: &Cx, from: &[usize]) -> Result<impl Fn(&[usize]) -> Option<usize> + use<>, OpError> {
        let mode = Self::mode(cx)?;
        let before: Option<Vec<i64>> = Self::pads(cx)?.iter().map(|(b, _)| b.as_const()).collect();
        let from = from.to_vec();
        let Some(before) = before else {
            return invalid("symbolic pads of a static shape");
        };
        Ok(move |ix: &[usize]| {
            let mut at = 0;
            for ((i, b), d) in ix.iter().zip(&before).zip(&from) {
                at = at * d + Self::position(mode, *i as i64 - b, *d as i64)? as usize;
            }
            Some(at)
        })
    }
}

impl OpDef for Pad {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "Pad",
            "pads[i] elements before and pads[n+i] after axis axes[i]: a constant, or by `mode` from the data",
            &[
                Param::new("data", Types::MOVED),
                Param::new("pads", Types::I64).shape_like("pads"),
                Param::new("constant_value", Types::MOVED).optional(),
                Param::new("axes", Types::INDEX).shape_like("axes").optional(),
            ],
            &[Param::new("output", Types::MOVED)],
            &[("mode", AttrDef::OneOf(&["constant", "reflect", "edge", "wrap"]))],
        );
        &SCHEMA
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let (rank, mode) = (cx.fact(0)?.rank(), Self::mode(cx)?);
        let mut rules = match (Self::open(cx)?, cx.open_dims(3)?) {
            (Some((list, count)), Some((axes, Some(length)))) => {
                let twice = length.clone() + length.clone();
                let mut rules = named_by_open(&axes, &length, rank).1;
                rules.extend([(count.clone(), twice.clone()), (twice, count)]);
                rules.push((length, Dim::from(list.len() / 2)));
                rules
            }
            (None, Some((axes, None))) if any_symbolic(&axes) => named(&axes, rank).1,
            _ => vec![],
        };
        for (d, (before, after)) in cx.fact(0)?.shape.iter().zip(Self::pads(cx)?) {
            let padded = d.clone() + before + after;
            if padded.has_elements() {
                rules.push((Dim::ZERO, padded.clone()));
            }
            // An empty axis has nothing to pad with.
            if mode != PadMode::Constant && d.as_const().is_none() {
                rules.push((padded.minimum(&Dim::ONE), d.clone()));
            }
        }
        Ok(rules)
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let x = cx.fact(0)?;
        let mut out = Fact::new(x.dtype, Self::shape(cx)?);
        let value = match cx.arg(2) {
            None => Some(Dim::ZERO),
            Some(a) => a.fact.known.as_ref().and_then(|k| k.first().cloned()),
        };
        if let (Some(from), Some(known)) = (x.static_shape(), &x.known)
            && let Ok(source) = Self::source(cx, &from)
        {
            carry(&mut out, |ix| match source(ix) {
                Some(at) => known.get(at).cloned(),
                None => value.clone(),
            });
        }
        Ok(vec![out])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let shape = static_shape(&Fact::new(x.dtype(), Self::shape(cx)?))?;
        let fill = match cx.has(2) {
            true => Some(cx.tensor(2)?),
            false => None,
        };
        if fill.is_some_and(|t| t.len() != 1) {
            return invalid("the padding value is not a scalar");
        }
        Ok(vec![x.rearranged(&shape, fill, Self::source(cx, x.shape())?)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let x = cx.fact(0)?;
        let (mode, pads, shape) = (Self::mode(cx)?, Self::pads(cx)?, Self::shape(cx)?);
        let none = Bounds::positive(&[]);
        let zero_or_less = |d: &Dim| none.le(d, &Dim::ZERO);
        let value = cx.arg(2).map(|a| a.fact.rank());
        let compute = Compute::nest(x.dtype, &shape, &[], Combine::Add, |b, it, _| {
            let mut index = vec![];
            let mut outside = vec![];
            for (axis, (d, (before, after))) in x.shape.iter().zip(&pads).enumerate() {
                let at = it[axis].clone() - before.clone();
                let last = d.clone() - Dim::ONE;
                let (low, high) = (!zero_or_less(before), !zero_or_less(after));
                if !low && !high {
                    index.push(at);
                    continue;
                }
                index.push(match mode {
                    PadMode::Constant => {
                        outside.push((axis, low, high));
                        at
                    }
                    PadMode::Edge => at.maximum(&Dim::ZERO).minimum(&last),
                    PadMode::Wrap => at.modulo(d),
                    // One reflection at each end is enough for pads shorter than the axis.
                    PadMode::Reflect if none.le(before, &last) && none.le(after, &last) => {
                        let from_last = last.clone() - at.maximum(&-at.clone());
                        last.clone() - from_last.maximum(&-from_last.clone())
                    }
                    PadMode::Reflect => {
                        let period = (last.clone() + last).maximum(&Dim::ONE);
                        let m = at.modulo(&period);
                        m.minimum(&(period - m.clone()))
                    }
                });
            }
            if outside.is_empty() {
                return (b.load(0, x.dtype, index), it.to_vec());
            }
            let zero = if x.dtype.is_float() {
                Scalar::Float(0)
            } else {
                Scalar::Int(0)
            };
            let inside = b.push(Expr::Load {
                operand: 0,
                dtype: x.dtype,
                index: index.clone(),
                fill: Some(zero),
            });
            let Some(rank) = value else {
                return (inside, it.to_vec());
            };
            let mut test = None;
            for (axis, low, high) in outside {
                let at = &index[axis];
                let above = low.then(|| compare(b, Binary::Le, Dim::ZERO, at.clone()));
                let below = high.then(|| compare(b, Binary::Lt, at.clone(), x.shape[axis].clone()));
                for c in above.into_iter().chain(below) {
                    test = Some(test.map_or(c, |t| b.binary(Binary::And, t, c)));
                }
            }
            let value = b.load(2, x.dtype, vec![Dim::ZERO; rank]);
            let root = test.map_or(inside, |t| b.select(t, inside, value));
            (root, it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::ops::samples::sample;
    use crate::{Attr, DType};

    fn numbers(dtype: DType, shape: &[usize]) -> Tensor {
        sample(dtype, shape, 1).expect("always")
    }

    fn ints(v: &[i64]) -> Option<Tensor> {
        Some(Tensor::i64(&[v.len()], v.iter().copied()))
    }

    #[test]
    fn pads() {
        let mode = |m: &str| ("mode", Attr::Str(m.into()));
        for t in [DType::F32, DType::F64, DType::I32, DType::Bool, DType::F16] {
            let (x, v) = (Some(numbers(t, &[2, 3])), Some(Tensor::from_i64(t, &[], [5])));
            check("Pad", &[], &[x.clone(), ints(&[1, 0, 0, 2]), v], 1);
            check("Pad", &[], &[x, ints(&[1, -1, 2, 2])], 1);
        }
        let x = || Some(numbers(DType::F32, &[4, 3]));
        for m in ["constant", "reflect", "edge", "wrap"] {
            check("Pad", &[mode(m)], &[x(), ints(&[1, 2, 0, 2])], 1);
            check("Pad", &[mode(m)], &[x(), ints(&[5, 9]), None, ints(&[-2])], 1);
        }
        check(
            "Pad",
            &[],
            &[
                x(),
                ints(&[2, -1]),
                Some(Tensor::f32(&[1], [f32::INFINITY])),
                ints(&[1]),
            ],
            1,
        );
        let reflected = numbers_after(&[mode("reflect")], &[0, 1, 2, 3], &[2, 2]);
        assert_eq!(reflected, [2, 1, 0, 1, 2, 3, 2, 1]);
    }

    fn numbers_after(attrs: &[(&str, Attr)], x: &[i64], pads: &[i64]) -> Vec<i64> {
        let attrs = attrs
            .iter()
            .map(|(k, v)| (std::sync::Arc::from(*k), v.clone()))
            .collect();
        let op = crate::Op::find("Pad").expect("there");
        let out = crate::naive::run_node(op, &attrs, &[ints(x), ints(pads)], 1).expect("legal");
        out[0].to_i64()
    }
}
