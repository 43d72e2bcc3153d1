//! `Det`: determinants of square matrices.
//!
//! Laws: a loop over the columns eliminates below the pivot, which is the largest element of its column; rows change places
//! at every step, so the sign is that of the places. A column of zeros makes the determinant zero, and nothing is divided by it.

use crate::op::{OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, count, differ, reshape};
use crate::ops::fragment::Fragment;
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId};

pub(super) const DET: Composed = Composed {
    schema: &Schema::new(
        "Det",
        "the determinant of each matrix of the last two axes",
        &[Param::new("X", Types::FLOAT)],
        &[Param::new("Y", Types::FLOAT)],
        &[],
    )
    .since(11),
    build: |cx, g| {
        let x = cx.fact(0)?;
        let Some((batch, rows, columns)) = split(&x.shape) else {
            return invalid(format!("{x} is no matrix"));
        };
        if differ(rows, columns) {
            return invalid(format!("{x} is not square"));
        }
        let count = Dim::product(batch);
        let matrices = g.required(cx, 0)?;
        let matrices = g.widen(matrices)?;
        let matrices = reshape(g, matrices, vec![count.clone(), rows.clone(), columns.clone()])?;
        let y = product_of_pivots(g, matrices)?;
        let y = reshape(g, y, batch.to_vec())?;
        Ok(vec![g.cast(y, x.dtype)?])
    },
    eval: |cx| {
        let x = cx.tensor(0)?;
        let Some((batch, rows, columns)) = split(x.shape()) else {
            return invalid("no matrix");
        };
        if rows != columns {
            return invalid(format!("a matrix of {rows} rows and {columns} columns"));
        }
        let (v, size) = (x.to_f64(), rows * columns);
        let matrices = 0..batch.iter().product::<usize>();
        let y = matrices.map(|i| determinant(v[i * size..][..size].to_vec(), *rows));
        Ok(vec![Tensor::from_f64(x.dtype(), batch, y)])
    },
};

/// The axes before the last two, and those.
fn split<T>(shape: &[T]) -> Option<(&[T], &T, &T)> {
    match shape {
        [batch @ .., rows, columns] => Some((batch, rows, columns)),
        _ => None,
    }
}

/// By elimination; the loops do the same for all matrices at once, by masks.
fn determinant(mut a: Vec<f64>, n: usize) -> f64 {
    let mut product = 1.0;
    for k in 0..n {
        let larger = |i: usize, j: usize| if a[j * n + k].abs() > a[i * n + k].abs() { j } else { i };
        let pivot = (k..n).fold(k, larger);
        if a[pivot * n + k] == 0.0 {
            return 0.0;
        }
        if pivot != k {
            product = -product;
            (0..n).for_each(|j| a.swap(k * n + j, pivot * n + j));
        }
        product *= a[k * n + k];
        for i in k + 1..n {
            let factor = a[i * n + k] / a[k * n + k];
            (k..n).for_each(|j| a[i * n + j] -= factor * a[k * n + j]);
        }
    }
    product
}

/// The loop: of matrices `[batch, rows, columns]`, one number each.
fn product_of_pivots(g: &mut Fragment, matrices: ValueId) -> Result<ValueId, OpError> {
    let shape = g.fact(matrices).shape.clone();
    let one = g.number(matrices, 1.0);
    let product = [("shape", Attr::Dims(vec![shape[0].clone(), Dim::ONE, Dim::ONE]))];
    let product = g.apply("Expand", &product, &[one])?;
    let steps = count(g, &shape[1])?;

    let mut step = Fragment::empty("eliminate");
    let inner = |step: &mut Fragment, g: &Fragment, v: ValueId| {
        let fact = g.fact(v);
        step.operand(Fact::new(fact.dtype, fact.shape.clone()))
    };
    let (a, so_far) = (inner(&mut step, g, matrices), inner(&mut step, g, product));
    let now = step.operand(Fact::new(DType::I64, vec![]));
    let next = eliminated(&mut step, a, so_far, now, &shape)?;
    let results = g.scan(step, &next, [2, 1], &shape[1], &[matrices, product, steps])?;
    Ok(results[1])
}

/// The matrix without what is below its pivot in column `now`, and the product with the pivot.
fn eliminated(
    s: &mut Fragment,
    a: ValueId,
    so_far: ValueId,
    now: ValueId,
    shape: &[Dim],
) -> Result<Vec<ValueId>, OpError> {
    let axis = |n: i64| [("axis", Attr::Int(n))];
    let along = |n: i64| ("axes", Attr::Dims(vec![Dim::from(n)]));
    let pick = |s: &mut Fragment, mask: ValueId, x: ValueId| {
        let zero = s.number(x, 0.0);
        let x = s.apply("Where", &[], &[mask, x, zero])?;
        s.apply("ReduceSum", &[along(1), ("keepdims", Attr::Int(1))], &[x])
    };
    let rows = count(s, &shape[1])?;
    let rows = reshape(s, rows, vec![shape[1].clone(), Dim::ONE])?;
    let column = s.apply("Gather", &axis(2), &[a, now])?;
    let column = s.apply("Unsqueeze", &[along(2)], &[column])?;
    // Rows above have had their turn.
    let (size, none) = (s.unary("Abs", column)?, s.number(column, -1.0));
    let open = s.binary("GreaterOrEqual", rows, now)?;
    let size = s.apply("Where", &[], &[open, size, none])?;
    let best = s.apply("ArgMax", &[("axis", Attr::Int(1)), ("keepdims", Attr::Int(1))], &[size])?;
    let (is_best, is_now) = (s.binary("Equal", rows, best)?, s.binary("Equal", rows, now)?);
    let (best_row, this_row) = (pick(s, is_best, a)?, pick(s, is_now, a)?);
    let pivot = pick(s, is_best, column)?;
    // Row `now` is not looked at any more: only its place is given away.
    let swapped = s.apply("Where", &[], &[is_best, this_row, a])?;
    let below = pick(s, is_now, column)?;
    let below = s.apply("Where", &[], &[is_best, below, column])?;
    let zero = s.number(pivot, 0.0);
    let one = s.number(pivot, 1.0);
    let nothing = s.binary("Equal", pivot, zero)?;
    let divisor = s.apply("Where", &[], &[nothing, one, pivot])?;
    let factor = s.binary("Div", below, divisor)?;
    let change = s.binary("Mul", factor, best_row)?;
    let reduced = s.binary("Sub", swapped, change)?;
    let (stays, minus) = (s.binary("Equal", best, now)?, s.unary("Neg", pivot)?);
    let signed = s.apply("Where", &[], &[stays, pivot, minus])?;
    let product = s.binary("Mul", so_far, signed)?;
    Ok(vec![reduced, product])
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{DType, Dim, Fact, Tensor};

    #[test]
    fn determinants() {
        for t in [DType::F32, DType::F64, DType::F16] {
            check("Det", &[], &[sample(t, &[2, 2], 1)], 1);
            check("Det", &[], &[sample(t, &[2, 3, 3, 3], 1)], 1);
        }
        check("Det", &[], &[sample(DType::F64, &[2, 5, 5], 1)], 1);
        check("Det", &[], &[sample(DType::F32, &[3, 1, 1], 1)], 1);
        check("Det", &[], &[Some(Tensor::f32(&[3, 3], [0.0; 9]))], 1);
        check("Det", &[], &[Some(Tensor::f32(&[2, 0, 0], []))], 1);
        let x = Tensor::f32(&[3, 2, 2], [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 2.0, 1.0, 1.0, 3.0, 3.0, 1.0]);
        let y = eval("Det", &[], &[Some(x)], 1)[0].to_f32();
        assert!(
            y.iter().zip([-2.0, -3.0, -8.0]).all(|(y, w)| (y - w).abs() < 1e-6),
            "{y:?}"
        );
        let f = |s: &[i64]| Fact::new(DType::F32, s.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        assert!(infer("Det", &[], &[f(&[2, 3])]).is_err());
        assert!(infer("Det", &[], &[f(&[3])]).is_err());
    }
}
