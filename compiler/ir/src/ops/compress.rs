//! `Compress`: the slices that flags select.
//!
//! Laws: flags may be fewer than slices, what has no flag is left out; a flag that is set where there is no slice is an error
//! of the run.

use crate::dim::COUNTED;
use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, normalize_axis};
use crate::ops::composed::{Composed, reshape};
use crate::ops::counted::{COUNT, length};
use crate::{Attr, Tensor};

pub(super) const COMPRESS: Composed = Composed {
    schema: &Schema::new(
        "Compress",
        "the slices along axis (elements of the flattened input without one) whose flag is set, in order",
        &[
            Param::new("input", Types::COMPARED),
            Param::new("condition", Types::BOOL).group(2),
        ],
        &[Param::new("output", Types::COMPARED)],
        &[("axis", AttrDef::OptInt), (COUNT, AttrDef::Symbol(COUNTED))],
    )
    .since(9),
    build: |cx, g| {
        let (x, condition, axis) = (cx.fact(0)?, cx.fact(1)?, axis(cx)?);
        length(cx.str(COUNT)?)?;
        if condition.rank() != 1 {
            return invalid(format!("{condition} is no list of flags"));
        }
        let (mut data, flags) = (g.required(cx, 0)?, g.required(cx, 1)?);
        if axis.is_none() {
            data = reshape(g, data, vec![x.element_count()])?;
        }
        let count = [(COUNT, Attr::Str(cx.str(COUNT)?.into()))];
        let at = g.results("cameo::Compact", &count, &[Some(flags)], 2)?[0];
        let along = [("axis", Attr::Int(axis.unwrap_or(0) as i64))];
        Ok(vec![g.apply("Gather", &along, &[data, at])?])
    },
    eval: |cx| {
        let (x, axis) = (cx.tensor(0)?, axis(cx)?);
        let flags = cx.tensor(1)?.to_i64();
        let rows: Vec<usize> = (0..flags.len()).filter(|i| flags[*i] != 0).collect();
        Ok(vec![taken(x, axis, &rows)?])
    },
};

fn axis(cx: &Cx) -> Result<Option<usize>, OpError> {
    let axis = cx.opt_int("axis")?;
    axis.map(|a| normalize_axis(a, cx.fact(0)?.rank())).transpose()
}

/// Those slices along an axis, or elements where there is none.
pub(super) fn taken(x: &Tensor, axis: Option<usize>, rows: &[usize]) -> Result<Tensor, OpError> {
    let shape = axis.map_or_else(|| vec![x.len()], |_| x.shape().to_vec());
    let axis = axis.unwrap_or(0);
    if let Some(i) = rows.iter().find(|i| **i >= shape[axis]) {
        return invalid(format!("slice {i} of {}", shape[axis]));
    }
    let outer: usize = shape[..axis].iter().product();
    let inner = shape[axis + 1..].iter().product::<usize>() * x.dtype().size();
    let starts = (0..outer).flat_map(|o| rows.iter().map(move |r| (o, r)));
    let bytes: Vec<u8> = starts
        .flat_map(|(o, r)| &x.bytes()[(o * shape[axis] + r) * inner..][..inner])
        .copied()
        .collect();
    let mut out = shape;
    out[axis] = rows.len();
    Tensor::new(x.dtype(), out, bytes.into()).or_else(|e| invalid(format!("{e:?}")))
}

#[cfg(test)]
mod tests {
    use crate::ops::samples::{eval, in_both_meanings, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn attrs(axis: Option<i64>) -> Vec<(&'static str, Attr)> {
        let axis = axis.map(|a| ("axis", Attr::Int(a)));
        axis.into_iter()
            .chain([("count", Attr::Str("count.n".into()))])
            .collect()
    }

    #[test]
    fn slices() {
        for t in [DType::F32, DType::F16, DType::BF16, DType::I64, DType::U8, DType::Bool] {
            for (axis, flags) in [
                (None, 12),
                (None, 5),
                (Some(0), 3),
                (Some(1), 2),
                (Some(-2), 1),
                (Some(-1), 0),
            ] {
                let inputs = [sample(t, &[3, 2, 2], 1), sample(DType::Bool, &[flags], 2)];
                in_both_meanings("Compress", &attrs(axis), &inputs, 1);
            }
        }
        let none = [sample(DType::F32, &[0, 4], 1), sample(DType::Bool, &[4], 2)];
        in_both_meanings("Compress", &attrs(Some(1)), &none, 1);
        in_both_meanings(
            "Compress",
            &attrs(None),
            &[sample(DType::F32, &[], 1), sample(DType::Bool, &[1], 3)],
            1,
        );
    }

    #[test]
    fn values() {
        let x = || Some(Tensor::f32(&[3, 2], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        let of = |axis, flags: &[bool]| {
            let flags = Some(Tensor::bool(&[flags.len()], flags.iter().copied()));
            let y = eval("Compress", &attrs(axis), &[x(), flags], 1).remove(0);
            (y.shape().to_vec(), y.to_f32())
        };
        assert_eq!(
            of(Some(0), &[false, true, true]),
            (vec![2, 2], vec![3.0, 4.0, 5.0, 6.0])
        );
        assert_eq!(of(Some(1), &[false, true]), (vec![3, 1], vec![2.0, 4.0, 6.0]));
        assert_eq!(of(Some(-1), &[false, true]), (vec![3, 1], vec![2.0, 4.0, 6.0]));
        assert_eq!(of(None, &[false, true, false, false, true]), (vec![2], vec![2.0, 5.0]));
        let f = |t, s: &[i64]| Fact::new(t, s.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        let refused = |axis, flags: &[i64]| {
            infer(
                "Compress",
                &attrs(axis),
                &[f(DType::F32, &[3, 2]), f(DType::Bool, flags)],
            )
            .is_err()
        };
        assert!(refused(Some(2), &[3]) && refused(Some(0), &[3, 1]));
        assert!(!refused(Some(0), &[2]));
    }
}
