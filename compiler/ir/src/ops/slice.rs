//! Slices: a part of each axis by steps, also backwards.
//!
//! Law: extents stay symbolic; a clamp remains in one only where no range decides it.

use crate::op::{Cx, OpError, Param, Schema, Types, invalid, unsupported};
use crate::{Bounds, Dim};

use super::chosen::{self, any_symbolic, equal, listed, named, negative};
use super::movement::{DATA, OUT, View, axes_of, required_dims};

pub(super) const SLICE: View = View {
    schema: &Schema::new(
        "Slice",
        "starts[i] to ends[i] (exclusive) by steps[i] on axis axes[i], as Python slices",
        &[
            DATA,
            Param::new("starts", Types::INDEX).shape_like("starts"),
            Param::new("ends", Types::INDEX).shape_like("ends"),
            Param::new("axes", Types::INDEX).shape_like("axes").optional(),
            Param::new("steps", Types::INDEX).shape_like("steps").optional(),
        ],
        OUT,
        &[],
    ),
    shape: |cx| {
        let mut shape = cx.fact(0)?.shape.clone();
        for c in cuts(cx)? {
            shape[c.axis] = c.extent;
        }
        Ok(shape)
    },
    source: |cx, from, _| {
        let mut map: Vec<(i64, i64)> = vec![(0, 1); from.len()];
        for c in cuts(cx)? {
            match c.start.as_const() {
                Some(start) => map[c.axis] = (start, c.step.as_const().unwrap_or(1)),
                None => return unsupported(format!("start {} of a slice of known extent", c.start)),
            }
        }
        let from = from.to_vec();
        Ok(Box::new(move |ix| {
            let axes = from.iter().zip(&map).zip(ix);
            axes.fold(0, |a, ((d, (start, step)), i)| {
                a * d + (start + step * *i as i64) as usize
            })
        }))
    },
    index: |cx, _, _, it| {
        let mut index = it.to_vec();
        for c in cuts(cx)? {
            index[c.axis] = c.start + index[c.axis].clone() * c.step;
        }
        Ok(index)
    },
    rules: |cx| {
        let rank = cx.fact(0)?.rank();
        let mut rules = vec![];
        if let Some(axes) = cx.dims(3)?.filter(|axes| any_symbolic(axes)) {
            rules.extend(named(&axes, rank).1);
        }
        // No step is 0.
        let steps = cx.dims(4)?.unwrap_or_default();
        let steps = steps.iter().filter(|s| s.as_const().is_none());
        rules.extend(steps.map(|s| (equal(&chosen::cut(s), &Dim::ZERO), Dim::ZERO)));
        Ok(rules)
    },
};

/// What a slice takes of one axis. Where `extent` is positive, `start + step*i` is in range for `i < extent`.
struct Cut {
    axis: usize,
    start: Dim,
    step: Dim,
    extent: Dim,
}

/// Exporters write this or more for "to the end", and its negative for "to the start"; no symbolic axis is longer.
const END: i64 = i32::MAX as i64;

fn cuts(cx: &Cx) -> Result<Vec<Cut>, OpError> {
    let x = &cx.fact(0)?.shape;
    let (starts, ends) = (required_dims(cx, 1)?, required_dims(cx, 2)?);
    let n = starts.len();
    let steps = cx.dims(4)?.unwrap_or_else(|| vec![Dim::ONE; n]);
    let axes = match cx.dims(3)? {
        Some(list) if any_symbolic(&list) => {
            if n > x.len() || [&ends, &list, &steps].iter().any(|l| l.len() != n) {
                return invalid("starts, ends, axes and steps have different lengths");
            }
            let whole: Vec<Dim> = vec![Dim::ZERO; x.len()];
            let starts = listed(&list, &starts, &whole);
            let ends = listed(&list, &ends, x);
            let steps = listed(&list, &steps, &vec![Dim::ONE; x.len()]);
            let all = x.iter().zip(starts.iter().zip(&ends)).zip(&steps).enumerate();
            return all
                .map(|(axis, ((d, (start, end)), step))| cut(axis, d, start, end, step))
                .collect();
        }
        Some(_) => axes_of(&cx.const_ints(3)?.unwrap_or_default(), x.len())?,
        None => (0..starts.len()).collect(),
    };
    if n > x.len() || ends.len() != n || axes.len() != n || steps.len() != n {
        return invalid("starts, ends, axes and steps have different lengths");
    }
    let mut out = vec![];
    for (i, axis) in axes.into_iter().enumerate() {
        out.push(cut(axis, &x[axis], &starts[i], &ends[i], &steps[i])?);
    }
    Ok(out)
}

fn cut(axis: usize, d: &Dim, start: &Dim, end: &Dim, step: &Dim) -> Result<Cut, OpError> {
    let legible = |v: &Dim| if v.has_elements() { chosen::cut(v) } else { v.clone() };
    let (start, end) = (&legible(start), &legible(end));
    if let Some(step) = step.as_const() {
        // A step past the axis is as good as any longer one, with which sums would overflow.
        let step = match d.as_const() {
            Some(d) if d > END => step,
            _ => step.clamp(-END, END),
        };
        let (first, extent) = span(d, start, end, step)?;
        return Ok(Cut {
            axis,
            start: first,
            step: Dim::from(step),
            extent,
        });
    }
    // Only a run knows in which direction.
    let step = chosen::cut(step);
    let back = negative(&step);
    let size = step.maximum(&-step.clone()).maximum(&Dim::ONE);
    // Forwards positions are cut to 0..=d, backwards to -1..=d-1.
    let (low, high) = (-back.clone(), d.clone() - back.clone());
    let [first, stop] = [start, end].map(|v| {
        let at = v.clone() + d.clone() * negative(v);
        at.minimum(&high).maximum(&low)
    });
    let span = (stop - first.clone()) * (Dim::ONE - back * Dim::from(2i64));
    Ok(Cut {
        axis,
        start: first,
        extent: chosen::whole(span).ceil_div(&size),
        step,
    })
}

/// Where a slice of an axis begins, and how many elements it has.
fn span(d: &Dim, start: &Dim, end: &Dim, step: i64) -> Result<(Dim, Dim), OpError> {
    match step.checked_abs() {
        Some(s) if s > 0 => {
            let (first, span) = whole_span(d, start, end, step < 0);
            Ok((first, span.ceil_div(&Dim::from(s))))
        }
        _ => invalid(format!("step {step}")),
    }
}

/// Where a slice of an axis begins, and how many elements there are up to its end.
fn whole_span(d: &Dim, start: &Dim, end: &Dim, back: bool) -> (Dim, Dim) {
    let b = Bounds::positive(&[]);
    let sentinel = |v: &Dim| v.as_const().filter(|_| d.as_const().is_none());
    // Counts negative values from the end, also where only the run decides the sign: `min(max(-v,0),1)` is 1 below 0.
    let from_start = |v: &Dim| {
        let (low, high) = b.range(v);
        let wrap = match () {
            () if low >= 0 => Dim::ZERO,
            () if high < 0 => d.clone(),
            () => d.clone() * (-v.clone()).maximum(&Dim::ZERO).minimum(&Dim::ONE),
        };
        v.clone() + wrap
    };
    if !back {
        let first = b.simplify(&from_start(start).maximum(&Dim::ZERO));
        let stop = match sentinel(end) {
            Some(e) if e >= END => d.clone(),
            _ => b.simplify(&from_start(end).minimum(d)),
        };
        let span = b.simplify(&(stop - first.clone()).maximum(&Dim::ZERO));
        (first, span)
    } else {
        let last = d.clone() - Dim::ONE;
        let first = match sentinel(start) {
            Some(s) if s >= END => last,
            _ => b.simplify(&from_start(start).minimum(&last)),
        };
        let stop = match sentinel(end) {
            Some(e) if e <= -END => Dim::from(-1i64),
            _ => b.simplify(&from_start(end).maximum(&Dim::from(-1i64))),
        };
        let span = b.simplify(&(first.clone() - stop).maximum(&Dim::ZERO));
        (first, span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::ops::samples::sample;
    use crate::{Attr, DType, Fact, Graph, Tensor};

    fn s(name: &str) -> Dim {
        Dim::sym(name)
    }

    fn c(v: i64) -> Dim {
        Dim::from(v)
    }

    fn numbers(dtype: DType, shape: &[usize]) -> Tensor {
        sample(dtype, shape, 1).expect("always")
    }

    fn ints(v: &[i64]) -> Tensor {
        Tensor::i64(&[v.len()], v.iter().copied())
    }

    /// The output fact of `op` for a symbolic input and constant shape-like operands.
    fn infer(op: &str, attrs: &[(&str, Attr)], shape: &[Dim], rest: &[&[Dim]]) -> Result<Fact, OpError> {
        let mut g = Graph::new("t");
        let mut inputs = vec![g.add_input("x", Fact::new(DType::F32, shape))];
        for r in rest {
            let fact = Fact::with_known(DType::I64, vec![Dim::from(r.len())], r.to_vec());
            inputs.push(g.add_input("r", fact));
        }
        let y = g.apply(op, attrs, &inputs)?;
        Ok(g.fact(y).clone())
    }

    #[test]
    fn slice_extents_stay_symbolic() {
        let cut = |from: i64, to: Dim| {
            infer("Slice", &[], &[s("S")], &[&[c(from)], &[to], &[c(0)]])
                .expect("legal")
                .shape[0]
                .to_string()
        };
        assert_eq!(cut(0, c(i64::MAX)), "S");
        assert_eq!(cut(1, c(i64::MAX)), "S-1");
        assert_eq!(cut(0, c(-1)), "S-1");
        assert_eq!(cut(0, s("S") - c(1)), "S-1");
        assert_eq!(cut(-1, c(END)), "1");
        assert_eq!(cut(0, c(1)), "1");
        let flip = infer(
            "Slice",
            &[],
            &[s("S") * s("T")],
            &[&[c(-1)], &[c(i64::MIN)], &[c(0)], &[c(-1)]],
        );
        assert_eq!(flip.expect("legal").shape[0], s("S") * s("T"));
        assert!(infer("Slice", &[], &[s("S")], &[&[c(0)], &[c(1)], &[c(0)], &[c(0)]]).is_err());
        assert!(infer("Slice", &[], &[s("S")], &[&[c(0)], &[c(1)], &[c(2)]]).is_err());
    }

    #[test]
    fn eval_equals_loops() {
        let x = || Some(numbers(DType::F32, &[2, 3, 4]));
        let slice = |starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]| {
            let inputs = [
                x(),
                Some(ints(starts)),
                Some(ints(ends)),
                Some(ints(axes)),
                Some(ints(steps)),
            ];
            check("Slice", &[], &inputs, 1);
        };
        slice(&[1], &[i64::MAX], &[1], &[1]);
        slice(&[0, -3], &[1, -1], &[0, 2], &[1, 1]);
        slice(&[3, 2], &[0, i64::MIN], &[2, 1], &[-2, -1]);
        slice(&[-100, 1], &[100, 9], &[1, 2], &[2, 3]);
        slice(&[2], &[1], &[1], &[1]);
        slice(&[0], &[2], &[1], &[i64::MAX]);
        slice(&[2], &[i64::MIN], &[1], &[i64::MIN]);
        check("Slice", &[], &[x(), Some(ints(&[1, 0])), Some(ints(&[2, 2]))], 1);
    }
}
