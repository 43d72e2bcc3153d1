//! Sequences of different lengths in one tensor: turned around, and written into a cache.
//!
//! Laws: lengths and places are data, and what does not fit is an error of the run; both are one nest of loops that only
//! move elements.

use crate::index::{linear, static_shape};
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid, normalize_axis};
use crate::structured::{Binary, Combine, Compute, Expr, Scalar};
use crate::{DType, Dim, Fact, Tensor};

use super::composed::differ;

pub struct ReverseSequence;

impl ReverseSequence {
    /// Batch and time, which are the first two axes.
    fn axes(cx: &Cx) -> Result<(usize, usize), OpError> {
        let (x, lengths) = (cx.fact(0)?, cx.fact(1)?);
        let axes = match (cx.int("batch_axis")?, cx.int("time_axis")?) {
            (0, 1) => (0, 1),
            (1, 0) => (1, 0),
            (batch, time) => return invalid(format!("batch axis {batch} and time axis {time}")),
        };
        if x.rank() < 2 || lengths.rank() != 1 || differ(&lengths.shape[0], &x.shape[axes.0]) {
            return invalid(format!("lengths {lengths} for {x}"));
        }
        Ok(axes)
    }
}

impl OpDef for ReverseSequence {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "ReverseSequence",
            "the first sequence_lens[b] elements of each sequence backwards, the others as they are",
            &[
                Param::new("input", Types::MOVED),
                Param::new("sequence_lens", Types::I64).group(0),
            ],
            &[Param::new("Y", Types::MOVED)],
            &[("batch_axis", AttrDef::Int(1)), ("time_axis", AttrDef::Int(0))],
        )
        .since(10);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::axes(cx)?;
        let x = cx.fact(0)?;
        Ok(vec![Fact::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, (batch, time)) = (cx.tensor(0)?, Self::axes(cx)?);
        let steps = x.shape()[time];
        let lengths = cx.tensor(1)?.to_i64().into_iter();
        let lengths = lengths.map(|n| usize::try_from(n).ok().filter(|n| *n <= steps));
        let Some(lengths) = lengths.collect::<Option<Vec<usize>>>() else {
            return invalid(format!("a length is not in 0..={steps}"));
        };
        if lengths.len() != x.shape()[batch] {
            return invalid(format!("{} lengths for shape {:?}", lengths.len(), x.shape()));
        }
        Ok(vec![x.rearranged(x.shape(), None, |ix| {
            let mut at = ix.to_vec();
            if ix[time] < lengths[ix[batch]] {
                at[time] = lengths[ix[batch]] - 1 - ix[time];
            }
            Some(linear(x.shape(), &at))
        })])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, (batch, time)) = (cx.fact(0)?, Self::axes(cx)?);
        let compute = Compute::nest(x.dtype, &x.shape, &[], Combine::Add, |b, it, _| {
            let length = b.load(1, DType::I64, vec![it[batch].clone()]);
            let now = b.push(Expr::Index(it[time].clone()));
            let inside = b.binary(Binary::Lt, now, length);
            let mirrored = b.push(Expr::Index(Dim::aux(length) - Dim::ONE - it[time].clone()));
            let from = b.select(inside, mirrored, now);
            let mut index = it.to_vec();
            index[time] = Dim::aux(b.push(Expr::CheckedIndex(from, x.shape[time].clone())));
            (b.load(0, x.dtype, index), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

pub struct TensorScatter;

impl TensorScatter {
    /// The axis of the sequences, and whether writing goes on at its start.
    fn parts(cx: &Cx) -> Result<(usize, bool), OpError> {
        let (past, update) = (cx.fact(0)?, cx.fact(1)?);
        let axis = normalize_axis(cx.int("axis")?, past.rank())?;
        if axis == 0 {
            return invalid("axis 0 is that of the batch");
        }
        let circular = match cx.str("mode")? {
            "linear" => false,
            "circular" => true,
            _ => return cx.bad("mode"),
        };
        let misfit = |(i, (p, u)): (usize, (&Dim, &Dim))| {
            if i == axis {
                (p.clone() - u.clone()).as_const().is_some_and(|room| room < 0)
            } else {
                differ(p, u)
            }
        };
        if past.rank() != update.rank() || past.shape.iter().zip(&update.shape).enumerate().any(misfit) {
            return invalid(format!("an update {update} of {past}"));
        }
        if let Some(at) = cx.arg(2).map(|a| a.fact)
            && (at.rank() != 1 || differ(&at.shape[0], &past.shape[0]))
        {
            return invalid(format!("write indices {at} for {past}"));
        }
        Ok((axis, circular))
    }
}

impl OpDef for TensorScatter {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "TensorScatter",
            "past_cache with the update along `axis` from write_indices[b] on; circular: from its start after its end",
            &[
                Param::new("past_cache", Types::ANY),
                Param::new("update", Types::ANY),
                Param::new("write_indices", Types::I64).group(0).optional(),
            ],
            &[Param::new("present_cache", Types::ANY)],
            &[
                ("axis", AttrDef::Int(-2)),
                ("mode", AttrDef::OneOf(&["linear", "circular"])),
            ],
        )
        .since(24);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::parts(cx)?;
        let past = cx.fact(0)?;
        Ok(vec![Fact::new(past.dtype, past.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (past, update, (axis, circular)) = (cx.tensor(0)?, cx.tensor(1)?, Self::parts(cx)?);
        let shape = static_shape(cx.fact(0)?)?;
        let (room, length) = (shape[axis], update.shape()[axis]);
        let mut fitting = update.shape().to_vec();
        fitting[axis] = room;
        let at = if cx.has(2) {
            cx.tensor(2)?.to_i64()
        } else {
            vec![0; shape[0]]
        };
        if fitting != shape || length > room || at.len() != shape[0] {
            return invalid(format!("an update {:?} of {shape:?} at {at:?}", update.shape()));
        }
        if !circular && at.iter().any(|w| *w < 0 || *w > (room - length) as i64) {
            return invalid(format!("{length} elements written at {at:?} of {room}"));
        }
        let size = past.dtype().size();
        let mut bytes = past.bytes().to_vec();
        crate::index::for_each(update.shape(), |ix| {
            let mut to = ix.to_vec();
            let place = at[ix[0]].rem_euclid(room as i64) as usize + ix[axis];
            to[axis] = if circular { place % room } else { place };
            let (from, to) = (linear(update.shape(), ix) * size, linear(&shape, &to) * size);
            bytes[to..to + size].copy_from_slice(&update.bytes()[from..from + size]);
        });
        Tensor::new(past.dtype(), shape, bytes.into())
            .map(|t| vec![t])
            .or_else(|e| invalid(format!("{e:?}")))
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (past, update, (axis, circular)) = (cx.fact(0)?, cx.fact(1)?, Self::parts(cx)?);
        let (room, length) = (&past.shape[axis], &update.shape[axis]);
        let zero = if past.dtype.is_float() {
            Scalar::Float(0)
        } else {
            Scalar::Int(0)
        };
        let compute = Compute::nest(past.dtype, &past.shape, &[], Combine::Add, |b, it, _| {
            let now = it[axis].clone();
            let from = if cx.has(2) {
                let at = b.load(2, DType::I64, vec![it[0].clone()]);
                if circular {
                    let back = b.push(Expr::Index(now - Dim::aux(at)));
                    let room = b.push(Expr::Index(room.clone()));
                    Dim::aux(b.binary(Binary::Mod, back, room))
                } else {
                    // The last place is within the cache, and so is the first: a negative one would count from the end.
                    let none = b.int(DType::I64, 0);
                    let negative = b.binary(Binary::Lt, at, none);
                    let beyond = b.push(Expr::Index(room.clone()));
                    let last = b.push(Expr::Index(Dim::aux(at) + length.clone() - Dim::ONE));
                    let last = b.select(negative, beyond, last);
                    let last = b.push(Expr::CheckedIndex(last, room.clone()));
                    now - Dim::aux(last) + length.clone() - Dim::ONE
                }
            } else {
                now
            };
            let [low, high, at] = [Dim::ZERO, length.clone(), from.clone()].map(|d| b.push(Expr::Index(d)));
            let (low, high) = (b.binary(Binary::Le, low, at), b.binary(Binary::Lt, at, high));
            let written = b.binary(Binary::And, low, high);
            let mut index = it.to_vec();
            index[axis] = from;
            let new = b.push(Expr::Load {
                operand: 1,
                dtype: past.dtype,
                index,
                fill: Some(zero),
            });
            let old = b.load(0, past.dtype, it.to_vec());
            (b.select(written, new, old), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

#[cfg(test)]
mod tests {
    use crate::naive::{check, run_node};
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, Attrs, DType, Dim, Fact, Op, Tensor};

    fn ints(v: &[i64]) -> Option<Tensor> {
        Some(Tensor::i64(&[v.len()], v.iter().copied()))
    }

    fn axes(batch: i64, time: i64) -> [(&'static str, Attr); 2] {
        [("batch_axis", Attr::Int(batch)), ("time_axis", Attr::Int(time))]
    }

    #[test]
    fn reversed() {
        for t in [DType::F32, DType::F16, DType::I32, DType::Bool] {
            let x = || sample(t, &[4, 3, 2], 1);
            check("ReverseSequence", &[], &[x(), ints(&[4, 0, 3])], 1);
            check("ReverseSequence", &axes(0, 1), &[x(), ints(&[1, 2, 3, 0])], 1);
        }
        let x = || Some(Tensor::f32(&[4, 4], (0..16).map(|v| v as f32)));
        let y = eval("ReverseSequence", &axes(0, 1), &[x(), ints(&[1, 2, 3, 4])], 1)[0].to_i64();
        let want = [0, 1, 2, 3, 5, 4, 6, 7, 10, 9, 8, 11, 15, 14, 13, 12];
        assert_eq!(y, want);
        let f = Fact::new(DType::F32, [4, 4].map(Dim::from as fn(i64) -> Dim));
        let lengths = Fact::new(DType::I64, vec![Dim::from(4i64)]);
        assert!(infer("ReverseSequence", &axes(0, 0), &[f, lengths]).is_err());
        let op = Op::find("ReverseSequence").expect("there");
        assert!(run_node(op, &Attrs::new(), &[x(), ints(&[4, 5, 3, 2])], 1).is_err());
    }

    #[test]
    fn caches() {
        let mode = |m: &str| ("mode", Attr::Str(m.into()));
        let axis = |a: i64| ("axis", Attr::Int(a));
        for t in [DType::F32, DType::F16, DType::I32, DType::Bool] {
            let (past, new) = (|| sample(t, &[2, 3, 5, 2], 1), || sample(t, &[2, 3, 2, 2], 2));
            check("TensorScatter", &[], &[past(), new()], 1);
            check("TensorScatter", &[], &[past(), new(), ints(&[0, 3])], 1);
            check(
                "TensorScatter",
                &[mode("circular")],
                &[past(), new(), ints(&[4, -3])],
                1,
            );
            let wide = sample(t, &[2, 3, 5, 1], 2);
            check("TensorScatter", &[axis(3)], &[past(), wide, ints(&[1, 0])], 1);
        }
        let past = || Some(Tensor::f32(&[2, 4, 1], [1.0, 5.0, 8.0, 4.0, 1.0, 5.0, 8.0, 4.0]));
        let new = || Some(Tensor::f32(&[2, 2, 1], [5.0, 6.0, 1.0, 2.0]));
        let inputs = [past(), new(), ints(&[1, 3])];
        let y = eval("TensorScatter", &[mode("circular")], &inputs, 1)[0].to_i64();
        assert_eq!(y, [1, 5, 6, 4, 2, 5, 8, 1]);
        let op = Op::find("TensorScatter").expect("there");
        for at in [[3, 0], [-1, 0]] {
            assert!(
                run_node(op, &Attrs::new(), &[past(), new(), ints(&at)], 1).is_err(),
                "{at:?}"
            );
        }
    }
}
