//! Walking dense row-major index spaces: shapes, strides and broadcasting, concrete and symbolic.

use crate::op::{OpError, Rule, invalid};
use crate::{Dim, Fact};

/// Row-major strides in elements.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        out[i - 1] = out[i] * shape[i];
    }
    out
}

/// The extents of a fact as numbers.
pub fn static_shape(fact: &Fact) -> Result<Vec<usize>, OpError> {
    match fact.static_shape() {
        Some(s) if element_count(&s).is_some() => Ok(s),
        Some(s) => invalid(format!("shape {s:?} has too many elements")),
        None => invalid(format!("{fact} has no static shape")),
    }
}

/// Number of elements; `None` where 8-byte elements would not fit the address space.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    let n = shape.iter().try_fold(1usize, |a, d| a.checked_mul(*d))?;
    n.checked_mul(8).filter(|b| isize::try_from(*b).is_ok()).map(|_| n)
}

/// Calls `f` with every index of `shape` in row-major order; once with the empty index for a scalar, never when empty.
pub fn for_each(shape: &[usize], mut f: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut ix = vec![0; shape.len()];
    loop {
        f(&ix);
        let mut d = shape.len();
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            ix[d] += 1;
            if ix[d] < shape[d] {
                break;
            }
            ix[d] = 0;
        }
    }
}

/// Linear position of `index` in a dense `shape`.
pub fn linear(shape: &[usize], index: &[usize]) -> usize {
    shape.iter().zip(index).fold(0, |a, (d, i)| a * d + i)
}

/// Linear position in an operand of shape `operand` that is broadcast (numpy rules) to the shape that `index` walks.
pub fn broadcast_linear(operand: &[usize], index: &[usize]) -> usize {
    let skip = index.len() - operand.len();
    operand
        .iter()
        .zip(&index[skip..])
        .fold(0, |a, (d, i)| a * d + if *d == 1 { 0 } else { *i })
}

/// The shape that numpy broadcasting gives.
pub fn broadcast_shape(shapes: &[&[Dim]]) -> Result<Vec<Dim>, OpError> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![Dim::ONE; rank];
    for s in shapes {
        for (o, d) in out[rank - s.len()..].iter_mut().zip(*s) {
            match o.broadcast(d) {
                Some(x) => *o = x,
                None => return invalid(format!("extents {o} and {d} do not broadcast")),
            }
        }
    }
    Ok(out)
}

/// [`broadcast_shape`] of facts.
pub fn broadcast_facts(facts: &[&Fact]) -> Result<Vec<Dim>, OpError> {
    let shapes: Vec<&[Dim]> = facts.iter().map(|f| f.shape.as_slice()).collect();
    broadcast_shape(&shapes)
}

/// The same with concrete shapes.
pub fn broadcast_static(shapes: &[&[usize]]) -> Result<Vec<usize>, OpError> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1usize; rank];
    for s in shapes {
        for (o, d) in out[rank - s.len()..].iter_mut().zip(*s) {
            if *o == 1 {
                *o = *d;
            } else if *d != 1 && *d != *o {
                return invalid(format!("extents {o} and {d} do not broadcast"));
            }
        }
    }
    Ok(out)
}

/// That an operand broadcasts to `to` without widening it: what must hold where that is not certain.
pub fn broadcasts_to(operand: &[Dim], to: &[Dim]) -> Result<Vec<Rule>, OpError> {
    let Some(skip) = to.len().checked_sub(operand.len()) else {
        return invalid(format!("shape {operand:?} does not broadcast to {to:?}"));
    };
    for (d, o) in operand.iter().zip(&to[skip..]) {
        match o.broadcast(d) {
            Some(both) if both == *o => {}
            Some(_) if d.as_const().is_none() || o.as_const().is_none() => {}
            _ => return invalid(format!("extents {d} and {o} do not broadcast to {o}")),
        }
    }
    Ok(joins(operand, to))
}

/// That each extent of an operand is 1 or that of `to`, where it is not certain.
pub fn joins(operand: &[Dim], to: &[Dim]) -> Vec<Rule> {
    let apart = |x: Dim| x.maximum(&-x.clone()).minimum(&Dim::ONE);
    // Axes that the result has not: of bounds, which are one element of any rank.
    let (more, operand) = operand.split_at(operand.len().saturating_sub(to.len()));
    let pairs = operand.iter().zip(&to[to.len() - operand.len()..]);
    let pairs = pairs
        .filter(|(d, o)| d != o && !d.is_one())
        .map(|(d, o)| (apart(d.clone() - o.clone()) * apart(d.clone() - Dim::ONE), Dim::ZERO));
    more.iter().flat_map(|d| agree(d, &Dim::ONE)).chain(pairs).collect()
}

/// That two extents are equal, where it is not certain.
pub fn agree(a: &Dim, b: &Dim) -> Vec<Rule> {
    match a == b {
        true => vec![],
        false => vec![(a.clone(), b.clone()), (b.clone(), a.clone())],
    }
}

/// Index into an operand of shape `operand` that is broadcast to `out`, whose iterators are `iters`.
///
/// An axis that may or may not be 1 at run time is indexed by `iter * min(extent - 1, 1)`.
pub fn broadcast_index(operand: &[Dim], out: &[Dim], iters: &[Dim]) -> Vec<Dim> {
    let skip = out.len() - operand.len();
    operand
        .iter()
        .zip(&out[skip..])
        .zip(&iters[skip..])
        .map(|((d, o), i)| {
            if d.is_one() {
                Dim::ZERO
            } else if d == o || d.is_cut_of(o) {
                // A table cut to the sequence: legal only where nothing is cut off, which the kernels' bounds require.
                i.clone()
            } else {
                i.clone() * (d.clone() - Dim::ONE).minimum(&Dim::ONE)
            }
        })
        .collect()
}

/// Row-major linear index of `index` in `shape`.
pub fn linear_dim(shape: &[Dim], index: &[Dim]) -> Dim {
    shape
        .iter()
        .zip(index)
        .fold(Dim::ZERO, |a, (d, i)| a * d.clone() + i.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_in_order() {
        let mut seen = vec![];
        for_each(&[2, 3], |i| seen.push(linear(&[2, 3], i)));
        assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
        let mut n = 0;
        for_each(&[], |_| n += 1);
        for_each(&[0, 2], |_| n += 10);
        assert_eq!(n, 1);
    }

    #[test]
    fn broadcasts() {
        let s = Dim::sym("S");
        let out = broadcast_shape(&[&[s.clone(), Dim::ONE], &[Dim::from(4i64)]]).expect("legal");
        assert_eq!(out, [s, Dim::from(4i64)]);
        assert_eq!(broadcast_linear(&[3, 1], &[5, 2, 7]), 2);
    }
}
