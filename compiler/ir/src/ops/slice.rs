//! Slices: a part of each axis by steps, also backwards.
//!
//! Law: extents stay symbolic; a clamp remains in one only where no range decides it.

use crate::op::{AttrDef, Cx, OpError, Param, Rule, Schema, Types, invalid, unsupported};
use crate::{Bounds, Dim};

use super::chosen::{self, any_symbolic, equal, named, named_by_open, negative};
use super::movement::{DATA, OUT, View, axes_of};

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
        for c in cuts(cx, &PRESUMED)? {
            shape[c.axis] = c.extent;
        }
        Ok(shape)
    },
    source: |cx, from, _| {
        let mut map: Vec<(i64, i64)> = vec![(0, 1); from.len()];
        for c in cuts(cx, &PRESUMED)? {
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
        for c in cuts(cx, &PRESUMED)? {
            index[c.axis] = c.start + index[c.axis].clone() * c.step;
        }
        Ok(index)
    },
    rules: |cx| {
        let rank = cx.fact(0)?.rank();
        let lists = Lists::of(cx)?;
        let mut rules = lists.rules();
        let length = lists.length();
        if let Some(axes) = lists
            .axes
            .as_ref()
            .filter(|axes| any_symbolic(axes) || length.is_some())
        {
            let named = match length {
                Some(length) => named_by_open(axes, &length, rank),
                None => named(axes, rank),
            };
            rules.extend(named.1);
        }
        // Signs, extents and starts are those of a run only where what is presumed to have elements has some: `x[-S:]` counts
        // from the start where S is 0, and `x[-1:]` of an axis without elements has none either.
        let exact = Bounds::of(&[]);
        for v in lists.starts.iter().chain(&lists.ends) {
            let ((low, high), (least, most)) = (PRESUMED.range(v), exact.range(v));
            rules.extend((high < 0 && most >= 0).then(|| (v.clone(), Dim::from(-1i64))));
            rules.extend((low >= 0 && least < 0).then(|| (Dim::ZERO, v.clone())));
        }
        for (a, b) in cuts(cx, &PRESUMED)?.into_iter().zip(cuts(cx, &exact)?) {
            if a.extent != b.extent {
                rules.extend([(a.extent.clone(), b.extent.clone()), (b.extent.clone(), a.extent)]);
            }
            // Where nothing is taken, it may start anywhere.
            if a.start != b.start {
                let some = b.extent.minimum(&Dim::ONE);
                let (a, b) = (a.start * some.clone(), b.start * some);
                rules.extend([(a.clone(), b.clone()), (b, a)]);
            }
        }
        // No step is 0, of those that are there.
        let steps = lists.steps.iter().zip(lists.there());
        let steps = steps.filter(|(s, _)| s.as_const().is_none());
        rules.extend(steps.map(|(s, there)| (there * equal(&chosen::cut(s), &Dim::ZERO), Dim::ZERO)));
        Ok(rules)
    },
};

/// A slice that says how long it is, where that is no formula of what it is told.
pub(super) const CUT: View = View {
    schema: &Schema::new(
        "cameo::Cut",
        "extents[i] elements of axis axes[i], from starts[i] on",
        &[DATA],
        OUT,
        &[
            ("axes", AttrDef::ReqDims),
            ("extents", AttrDef::ReqDims),
            ("starts", AttrDef::ReqDims),
        ],
    ),
    shape: |cx| {
        let mut shape = cx.fact(0)?.shape.clone();
        for (axis, _, extent) in parts(cx)? {
            shape[axis] = extent;
        }
        Ok(shape)
    },
    source: |cx, from, to| {
        let mut starts = vec![0; from.len()];
        for (axis, start, extent) in parts(cx)? {
            let start = start.as_const().and_then(|s| usize::try_from(s).ok());
            match (start, extent.as_const()) {
                (Some(start), Some(_)) if start + to[axis] <= from[axis] => starts[axis] = start,
                _ => return invalid(format!("{extent} elements of axis {axis} from {from:?}")),
            }
        }
        let from = from.to_vec();
        Ok(Box::new(move |ix| {
            let axes = from.iter().zip(&starts).zip(ix);
            axes.fold(0, |a, ((d, start), i)| a * d + start + i)
        }))
    },
    index: |cx, _, _, it| {
        let mut index = it.to_vec();
        for (axis, start, _) in parts(cx)? {
            index[axis] = start + index[axis].clone();
        }
        Ok(index)
    },
    rules: |cx| {
        let x = cx.fact(0)?.shape.clone();
        let all = parts(cx)?.into_iter();
        Ok(all
            .map(|(axis, start, extent)| (start + extent, x[axis].clone()))
            .collect())
    },
};

/// Axis, start and extent of each part of a [`CUT`].
fn parts(cx: &Cx) -> Result<Vec<(usize, Dim, Dim)>, OpError> {
    let [axes, starts, extents] = ["axes", "starts", "extents"].map(|name| cx.dim_list(name));
    let (axes, starts, extents) = (axes?, starts?, extents?);
    let axes: Option<Vec<i64>> = axes.iter().map(Dim::as_const).collect();
    let axes = axes_of(&axes.unwrap_or_default(), cx.fact(0)?.rank())?;
    if axes.len() != starts.len() || axes.len() != extents.len() {
        return mismatch();
    }
    let all = axes.into_iter().zip(starts).zip(extents);
    Ok(all.map(|((axis, start), extent)| (axis, start, extent)).collect())
}

/// What a slice is told, one entry per axis that it cuts.
struct Lists {
    starts: Vec<Dim>,
    ends: Vec<Dim>,
    /// The first ones where there is none.
    axes: Option<Vec<Dim>>,
    steps: Vec<Dim>,
    /// Lengths of the lists that have as many entries as a run says.
    open: Vec<Dim>,
    /// Whether some list has a length of its own.
    fixed: bool,
}

impl Lists {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let (mut open, mut fixed, mut most) = (vec![], None, usize::MAX);
        let mut list = |i: usize| -> Result<Option<Vec<Dim>>, OpError> {
            let Some((list, length)) = cx.open_dims(i)? else {
                return Ok(None);
            };
            match length {
                Some(length) => open.push(length),
                None if fixed.is_some_and(|n| n != list.len()) => return mismatch(),
                None => fixed = Some(list.len()),
            }
            most = most.min(list.len());
            Ok(Some(list))
        };
        let (starts, ends, axes, steps) = (list(1)?, list(2)?, list(3)?, list(4)?);
        let (Some(mut starts), Some(mut ends)) = (starts, ends) else {
            return invalid("starts or ends are missing");
        };
        if fixed.is_some_and(|n| n > most) {
            return mismatch();
        }
        let (mut axes, mut steps) = (axes, steps.unwrap_or_else(|| vec![Dim::ONE; most]));
        for list in [&mut starts, &mut ends, &mut steps].into_iter().chain(&mut axes) {
            list.truncate(most);
        }
        Ok(Self {
            starts,
            ends,
            axes,
            steps,
            open,
            fixed: fixed.is_some(),
        })
    }

    /// How many entries there are, where only a run knows it.
    fn length(&self) -> Option<Dim> {
        self.open.first().filter(|_| !self.fixed).cloned()
    }

    fn there(&self) -> Vec<Dim> {
        match self.length() {
            Some(length) => chosen::there(&length, self.starts.len()),
            None => vec![Dim::ONE; self.starts.len()],
        }
    }

    /// Lists are of one length.
    fn rules(&self) -> Vec<Rule> {
        let most = Dim::from(self.starts.len());
        let length = self.length().unwrap_or_else(|| most.clone());
        let equal = |d: &Dim| [(d.clone(), length.clone()), (length.clone(), d.clone())];
        let mut rules: Vec<Rule> = self.open.iter().flat_map(equal).filter(|(a, b)| a != b).collect();
        rules.extend(self.length().map(|length| (length, most)));
        rules
    }
}

fn mismatch<T>() -> Result<T, OpError> {
    invalid("starts, ends, axes and steps have different lengths")
}

/// What is taken for granted of extents; the rules check it.
const PRESUMED: Bounds = Bounds::positive(&[]);

/// What a slice takes of one axis. Where `extent` is positive, `start + step*i` is in range for `i < extent`.
struct Cut {
    axis: usize,
    start: Dim,
    step: Dim,
    extent: Dim,
}

/// Exporters write this or more for "to the end", and its negative for "to the start"; no symbolic axis is longer.
const END: i64 = i32::MAX as i64;

fn cuts(cx: &Cx, b: &Bounds) -> Result<Vec<Cut>, OpError> {
    let x = &cx.fact(0)?.shape;
    let lists = Lists::of(cx)?;
    let n = lists.starts.len();
    if n > x.len() {
        return mismatch();
    }
    let one = |axis: usize, k: usize| cut(b, axis, &x[axis], &lists.starts[k], &lists.ends[k], &lists.steps[k]);
    let given = lists.axes.clone();
    let axes = given.unwrap_or_else(|| (0..n).map(Dim::from).collect());
    let numbers: Option<Vec<i64>> = axes.iter().map(Dim::as_const).collect();
    if let (Some(numbers), None) = (numbers, lists.length()) {
        let axes = axes_of(&numbers, x.len())?;
        return axes.into_iter().enumerate().map(|(k, axis)| one(axis, k)).collect();
    }
    // Every axis may be any of those that are cut. What it becomes then is chosen, not what it is told: that would be in each
    // formula many times.
    let table = chosen::table(&axes, x.len());
    let mut out = vec![];
    for (axis, d) in x.iter().enumerate() {
        let (mut start, mut step, mut extent) = (Dim::ZERO, Dim::ONE, d.clone());
        for (k, there) in lists.there().into_iter().enumerate() {
            let hit = there * chosen::whole(table[k][axis].clone());
            if hit.is_zero() {
                continue;
            }
            let cut = one(axis, k)?;
            start = start + hit.clone() * cut.start;
            step = step + hit.clone() * (cut.step - Dim::ONE);
            extent = extent + hit * (cut.extent - d.clone());
        }
        out.push(Cut {
            axis,
            start,
            step,
            extent: chosen::whole(extent),
        });
    }
    Ok(out)
}

fn cut(b: &Bounds, axis: usize, d: &Dim, start: &Dim, end: &Dim, step: &Dim) -> Result<Cut, OpError> {
    let legible = |v: &Dim| if v.has_elements() { chosen::cut(v) } else { v.clone() };
    let (start, end) = (&legible(start), &legible(end));
    // A step past the axis is as good as any longer one, with which sums and strides would overflow.
    let longest = d.as_const().map_or(END, |d| d.max(END));
    if let Some(step) = step.as_const() {
        let step = step.clamp(-longest, longest);
        let (first, extent) = span(b, d, start, end, step)?;
        return Ok(Cut {
            axis,
            start: first,
            step: Dim::from(step),
            extent,
        });
    }
    // Only a run knows in which direction.
    let step = step.maximum(&Dim::from(-longest)).minimum(&Dim::from(longest));
    let back = negative(&step);
    let size = step.maximum(&-step.clone()).maximum(&Dim::ONE);
    // Forwards positions are cut to 0..=d, backwards to -1..=d-1, of which a start is at least 0.
    let (low, high) = (-back.clone(), d.clone() - back.clone());
    let at = |v: &Dim| v.clone() + d.clone() * negative(v);
    let first = at(start).maximum(&Dim::ZERO).minimum(&high);
    let stop = at(end).minimum(&high).maximum(&low);
    let span = (stop - first.clone()) * (Dim::ONE - back * Dim::from(2i64));
    Ok(Cut {
        axis,
        start: first,
        extent: chosen::whole(span).ceil_div(&size),
        step,
    })
}

/// Where a slice of an axis begins, and how many elements it has.
fn span(b: &Bounds, d: &Dim, start: &Dim, end: &Dim, step: i64) -> Result<(Dim, Dim), OpError> {
    match step.checked_abs() {
        Some(s) if s > 0 => {
            let (first, span) = whole_span(b, d, start, end, step < 0);
            Ok((first, span.ceil_div(&Dim::from(s))))
        }
        _ => invalid(format!("step {step}")),
    }
}

/// Where a slice of an axis begins, and how many elements there are up to its end. Signs are as presumed.
fn whole_span(b: &Bounds, d: &Dim, start: &Dim, end: &Dim, back: bool) -> (Dim, Dim) {
    let sentinel = |v: &Dim| v.as_const().filter(|_| d.as_const().is_none());
    // Counts negative values from the end, also where only the run decides the sign: `min(max(-v,0),1)` is 1 below 0.
    let from_start = |v: &Dim| {
        let (low, high) = PRESUMED.range(v);
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
            _ => b.simplify(&from_start(start).maximum(&Dim::ZERO).minimum(&last)),
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
