//! `Unique`: what occurs, once each.
//!
//! Laws: rows are compared in pairs, at the first place where they differ, so that nothing depends on an order of the
//! iterations. NaN equals NaN and is above all numbers; of equal rows the first is the one that is kept.

use std::cmp::Ordering;

use crate::dim::COUNTED;
use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, normalize_axis};
use crate::ops::composed::{Composed, count, reshape, transpose};
use crate::ops::compress::taken;
use crate::ops::counted::{COUNT, length};
use crate::ops::fragment::Fragment;
use crate::{Attr, DType, Dim, Tensor, ValueId};

pub(super) const UNIQUE: Composed = Composed {
    schema: &Schema::new(
        "Unique",
        "the distinct slices along axis (elements without one); where each is first, which one each slice is, how many are it",
        &[Param::new("X", Types::PLAIN)],
        &[
            Param::new("Y", Types::PLAIN),
            Param::new("indices", Types::I64).group(0).optional(),
            Param::new("inverse_indices", Types::I64).group(0).optional(),
            Param::new("counts", Types::I64).group(0).optional(),
        ],
        &[
            ("axis", AttrDef::OptInt),
            (COUNT, AttrDef::Symbol(COUNTED)),
            ("sorted", AttrDef::Int(1)),
        ],
    ).since(11),
    build,
    eval,
};

fn axis(cx: &Cx) -> Result<Option<usize>, OpError> {
    let axis = cx.opt_int("axis")?;
    axis.map(|a| normalize_axis(a, cx.fact(0)?.rank())).transpose()
}

fn unsqueeze(g: &mut Fragment, x: ValueId, axis: i64) -> Result<ValueId, OpError> {
    g.apply("Unsqueeze", &[("axes", Attr::Dims(vec![Dim::from(axis)]))], &[x])
}

/// Numbers to compare, one row for each slice: `[slices, elements of one]`.
fn rows(cx: &Cx, g: &mut Fragment, x: ValueId, axis: Option<usize>) -> Result<ValueId, OpError> {
    let shape = &cx.fact(0)?.shape;
    let (mut x, n, m) = match axis {
        None => (x, Dim::product(shape), Dim::ONE),
        Some(axis) => {
            let others = (0..shape.len()).filter(|a| *a != axis);
            let perm: Vec<i64> = [axis].into_iter().chain(others.clone()).map(|a| a as i64).collect();
            let m = Dim::product(others.map(|a| &shape[a]));
            (transpose(g, x, &perm)?, shape[axis].clone(), m)
        }
    };
    x = if g.dtype(x) == DType::Bool {
        g.cast(x, DType::U8)?
    } else {
        g.widen(x)?
    };
    if m.is_zero() {
        // Rows without elements are all equal, as rows of one zero are.
        let zero = g.number(x, 0.0);
        return g.apply("Expand", &[("shape", Attr::Dims(vec![n, Dim::ONE]))], &[zero]);
    }
    reshape(g, x, vec![n, m])
}

/// Whether elements are equal.
fn same(g: &mut Fragment, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
    let same = g.binary("Equal", a, b)?;
    if !g.dtype(a).is_float() {
        return Ok(same);
    }
    let (a, b) = (g.unary("IsNaN", a)?, g.unary("IsNaN", b)?);
    let both = g.binary("And", a, b)?;
    g.binary("Or", same, both)
}

/// Whether `a` comes before `b`.
fn less(g: &mut Fragment, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
    let less = g.binary("Less", a, b)?;
    if !g.dtype(a).is_float() {
        return Ok(less);
    }
    let (a, b) = (g.unary("IsNaN", a)?, g.unary("IsNaN", b)?);
    let number = g.unary("Not", a)?;
    let below = g.binary("And", number, b)?;
    g.binary("Or", less, below)
}

/// For each pair of rows, whether they are equal, and whether the first comes before the second.
fn pairs(g: &mut Fragment, rows: ValueId) -> Result<(ValueId, ValueId), OpError> {
    let m = g.fact(rows).shape[1].clone();
    if m.is_one() {
        let other = transpose(g, rows, &[1, 0])?;
        return Ok((same(g, rows, other)?, less(g, rows, other)?));
    }
    let (one, other) = (unsqueeze(g, rows, 1)?, unsqueeze(g, rows, 0)?);
    let equal = same(g, one, other)?;
    let (at, never) = (count(g, &m)?, g.constant(Tensor::i64(&[], [i64::MAX])));
    let at = g.apply("Where", &[], &[equal, never, at])?;
    let at = g.reduce("ReduceMin", at, &[2], false)?;
    let equal = g.binary("Equal", at, never)?;
    let zero = g.number(at, 0.0);
    let at = g.apply("Where", &[], &[equal, zero, at])?;
    // The other row differs at the same place.
    let mine = g.apply("GatherElements", &[("axis", Attr::Int(1))], &[rows, at])?;
    let theirs = transpose(g, mine, &[1, 0])?;
    Ok((equal, less(g, mine, theirs)?))
}

fn build(cx: &Cx, g: &mut Fragment) -> Result<Vec<ValueId>, OpError> {
    let (axis, sorted) = (axis(cx)?, cx.int("sorted")? != 0);
    length(cx.str(COUNT)?)?;
    let x = g.required(cx, 0)?;
    let rows = rows(cx, g, x, axis)?;
    let n = g.fact(rows).shape[0].clone();
    let (equal, less) = pairs(g, rows)?;
    let numbers = count(g, &n)?;
    let column = unsqueeze(g, numbers, 1)?;
    let earlier = g.binary("Greater", column, numbers)?;
    let again = g.binary("And", equal, earlier)?;
    let again = g.reduce("ReduceMax", again, &[1], false)?;
    let first = g.unary("Not", again)?;
    let attrs = [(COUNT, Attr::Str(cx.str(COUNT)?.into()))];
    let [positions, ranks] = g.results("cameo::Compact", &attrs, &[Some(first)], 2)?[..] else {
        return invalid("two results are two");
    };

    // Which of the results each row is: as many are before it as come before it in order.
    let zero = g.number(ranks, 0.0);
    let inverse = if sorted {
        let first = unsqueeze(g, first, 1)?;
        let before = g.binary("And", first, less)?;
        let before = g.cast(before, DType::I64)?;
        g.reduce("ReduceSum", before, &[0], false)?
    } else {
        let represents = g.binary("And", equal, first)?;
        let rank = g.apply("Where", &[], &[represents, ranks, zero])?;
        g.reduce("ReduceSum", rank, &[1], false)?
    };
    // 0, 1, … as long as data says: what is counted is known only to those who read it.
    let results = g.apply("Gather", &[("axis", Attr::Int(0))], &[ranks, positions])?;
    let results = unsqueeze(g, results, 1)?;
    let is_it = g.binary("Equal", results, inverse)?;
    let indices = if sorted {
        let never = g.constant(Tensor::i64(&[], [i64::MAX]));
        let at = g.apply("Where", &[], &[is_it, numbers, never])?;
        g.reduce("ReduceMin", at, &[1], false)?
    } else {
        positions
    };
    let ones = g.cast(is_it, DType::I64)?;
    let counts = g.reduce("ReduceSum", ones, &[1], false)?;
    let data = if axis.is_none() { reshape(g, x, vec![n])? } else { x };
    let along = [("axis", Attr::Int(axis.unwrap_or(0) as i64))];
    let y = g.apply("Gather", &along, &[data, indices])?;
    Ok(vec![y, indices, inverse, counts])
}

fn eval(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    let (x, axis) = (cx.tensor(0)?, axis(cx)?);
    let (outer, n, inner) = match axis {
        None => (1, x.len(), 1),
        Some(a) => (
            x.shape()[..a].iter().product(),
            x.shape()[a],
            x.shape()[a + 1..].iter().product::<usize>(),
        ),
    };
    // Where element `k` of a row is.
    let place = |row: usize, k: usize| k / inner * n * inner + row * inner + k % inner;
    let (floats, ints) = if x.dtype().is_float() {
        (x.to_f64(), vec![])
    } else {
        (vec![], x.to_i64())
    };
    let element = |a: usize, b: usize| match x.dtype() {
        t if t.is_float() => {
            let (a, b) = (floats[a], floats[b]);
            a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        }
        DType::U64 => (ints[a] as u64).cmp(&(ints[b] as u64)),
        _ => ints[a].cmp(&ints[b]),
    };
    let compare = |a: usize, b: usize| {
        let mut each = (0..outer * inner).map(|k| element(place(a, k), place(b, k)));
        each.find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
    };
    let mut found: Vec<usize> = vec![];
    for i in 0..n {
        if found.iter().all(|f| compare(*f, i).is_ne()) {
            found.push(i);
        }
    }
    if cx.int("sorted")? != 0 {
        found.sort_by(|a, b| compare(*a, *b));
    }
    let (mut inverse, mut counts) = (vec![], vec![0; found.len()]);
    for i in 0..n {
        for (r, f) in found.iter().enumerate() {
            if compare(*f, i).is_eq() {
                inverse.push(r as i64);
                counts[r] += 1;
            }
        }
    }
    let indices: Vec<i64> = found.iter().map(|i| *i as i64).collect();
    Ok(vec![
        taken(x, axis, &found)?,
        Tensor::i64(&[found.len()], indices),
        Tensor::i64(&[n], inverse),
        Tensor::i64(&[found.len()], counts),
    ])
}

#[cfg(test)]
mod tests {
    use crate::ops::samples::{eval, in_both_meanings, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn attrs(axis: Option<i64>, sorted: i64) -> Vec<(&'static str, Attr)> {
        let axis = axis.map(|a| ("axis", Attr::Int(a)));
        let rest = [("count", Attr::Str("count.n".into())), ("sorted", Attr::Int(sorted))];
        axis.into_iter().chain(rest).collect()
    }

    #[test]
    fn types_and_axes() {
        for t in [
            DType::F32,
            DType::F16,
            DType::BF16,
            DType::F64,
            DType::I64,
            DType::U8,
            DType::U64,
            DType::Bool,
        ] {
            for sorted in [0, 1] {
                // Few values, so that rows are equal.
                let few = |shape: &[usize]| {
                    let bits = sample(DType::I64, shape, 3)?.to_i64();
                    Some(Tensor::from_f64(t, shape, bits.iter().map(|b| (b & 1) as f64)))
                };
                in_both_meanings("Unique", &attrs(None, sorted), &[sample(t, &[3, 4], 1)], 4);
                for axis in [Some(0), Some(1), Some(-1), None] {
                    in_both_meanings("Unique", &attrs(axis, sorted), &[few(&[3, 5, 2])], 4);
                }
                in_both_meanings("Unique", &attrs(Some(0), sorted), &[few(&[6, 2])], 1);
            }
        }
        for sorted in [0, 1] {
            let x = [f32::NAN, 1.0, 0.0, f32::NAN, -0.0, f32::INFINITY];
            in_both_meanings("Unique", &attrs(None, sorted), &[Some(Tensor::f32(&[6], x))], 4);
            in_both_meanings("Unique", &attrs(Some(0), sorted), &[Some(Tensor::f32(&[3, 2], x))], 4);
            in_both_meanings("Unique", &attrs(None, sorted), &[Some(Tensor::f32(&[0], []))], 4);
            in_both_meanings("Unique", &attrs(Some(0), sorted), &[Some(Tensor::f32(&[0, 3], []))], 4);
            in_both_meanings("Unique", &attrs(None, sorted), &[Some(Tensor::f32(&[], [2.0]))], 4);
        }
    }

    #[test]
    fn values() {
        let of = |x: Tensor, axis, sorted| {
            let y = eval("Unique", &attrs(axis, sorted), &[Some(x)], 4);
            (
                y[0].shape().to_vec(),
                y[0].to_f32(),
                y[1].to_i64(),
                y[2].to_i64(),
                y[3].to_i64(),
            )
        };
        let x = || Tensor::f32(&[6], [2.0, 1.0, 1.0, 3.0, 4.0, 3.0]);
        let want = (
            vec![4],
            vec![1.0, 2.0, 3.0, 4.0],
            vec![1, 0, 3, 4],
            vec![1, 0, 0, 2, 3, 2],
            vec![2, 1, 2, 1],
        );
        assert_eq!(of(x(), None, 1), want);
        let want = (
            vec![4],
            vec![2.0, 1.0, 3.0, 4.0],
            vec![0, 1, 3, 4],
            vec![0, 1, 1, 2, 3, 2],
            vec![1, 2, 2, 1],
        );
        assert_eq!(of(x(), None, 0), want);
        let x = Tensor::f32(&[3, 3], [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0, 3.0, 4.0]);
        let want = (
            vec![2, 3],
            vec![1.0, 0.0, 0.0, 2.0, 3.0, 4.0],
            vec![0, 2],
            vec![0, 0, 1],
            vec![2, 1],
        );
        assert_eq!(of(x, Some(0), 1), want);
        let x = Tensor::f32(&[3, 3], [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0, 3.0, 3.0]);
        let want = (
            vec![3, 2],
            vec![0.0, 1.0, 0.0, 1.0, 3.0, 2.0],
            vec![1, 0],
            vec![1, 0, 0],
            vec![2, 1],
        );
        assert_eq!(of(x, Some(-1), 1), want);
        let row = [1.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0, 1.0];
        let x = Tensor::f32(&[2, 4, 2], row.into_iter().chain(row));
        let row = [0.0, 1.0, 1.0, 1.0, 2.0, 1.0];
        let want = (
            vec![2, 3, 2],
            [row, row].concat(),
            vec![1, 0, 2],
            vec![1, 0, 2, 0],
            vec![2, 1, 1],
        );
        assert_eq!(of(x, Some(1), 1), want);
        // Rows of no elements are one row.
        let y = eval("Unique", &attrs(Some(0), 1), &[Some(Tensor::f32(&[3, 0], []))], 4);
        assert_eq!((y[0].shape(), y[3].to_i64()), ([1, 0].as_slice(), vec![3]));
        let f = |s: &[i64]| Fact::new(DType::F32, s.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        assert!(infer("Unique", &attrs(Some(1), 1), &[f(&[3])]).is_err());
        assert!(infer("Unique", &attrs(Some(0), 1), &[f(&[3, 0])]).is_ok());
    }
}
