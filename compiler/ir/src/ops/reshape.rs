//! The same elements in row-major order under another shape.
//!
//! Law: axes are matched in the smallest groups with equal element counts, so that divisions appear in an index map only
//! where an axis really is taken apart in another way.

use crate::index::{agree, element_count, linear, linear_dim};
use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, normalize_axis};
use crate::{Bounds, Dim, Sym};

use super::binary::range;
use super::chosen::{any_symbolic, equal, left, named, picked, whole};
use super::movement::{DATA, NO_RULES, OUT, Source, View, axes_of, required_dims};

pub(super) const RESHAPE: View = View {
    schema: &Schema::new(
        "Reshape",
        "the same elements in row-major order; 0 copies an extent, -1 is what remains",
        &[DATA, Param::new("shape", Types::INDEX).shape_like("shape")],
        OUT,
        &[("allowzero", AttrDef::Int(0))],
    ),
    shape: reshape_shape,
    source: |_, from, to| same_order(from, to),
    index: |_, from, to, it| Ok(reshape_index(from, to, it)),
    rules: |cx| {
        let to = Dim::product(&reshape_shape(cx)?);
        Ok(agree(&cx.fact(0)?.element_count(), &to))
    },
};

pub(super) fn same_order(from: &[usize], to: &[usize]) -> Result<Source, OpError> {
    if element_count(from) != element_count(to) {
        return invalid(format!("{from:?} and {to:?} have different element counts"));
    }
    let to = to.to_vec();
    Ok(Box::new(move |ix| linear(&to, ix)))
}

fn reshape_shape(cx: &Cx) -> Result<Vec<Dim>, OpError> {
    let input = &cx.fact(0)?.shape;
    let copies = cx.int("allowzero")? == 0;
    let (mut out, mut rest_at) = (vec![], None);
    let given = required_dims(cx, 1)?;
    // A number that is an extent for certain means itself.
    let special = |d: &Dim| d.has_elements() && range(d).0 < i64::from(copies);
    if given.iter().any(special) {
        return Ok(chosen_shape(input, &given, copies));
    }
    for (i, d) in given.into_iter().enumerate() {
        match d.as_const() {
            Some(0) if copies => match input.get(i) {
                Some(d) => out.push(d.clone()),
                None => return invalid(format!("axis {i} to copy is not in the input's shape {input:?}")),
            },
            Some(-1) if rest_at.is_none() => {
                rest_at = Some(i);
                out.push(Dim::ONE);
            }
            Some(c) if c < 0 => return invalid(format!("extent {c} at axis {i}")),
            _ => out.push(d),
        }
    }
    let Some(at) = rest_at else {
        let (a, b) = (Dim::product(input), Dim::product(&out));
        if a.as_const().is_some() && b.as_const().is_some() && a != b {
            return invalid(format!("{input:?} cannot become {out:?}"));
        }
        return Ok(out);
    };
    // Equal extents cancel first: sums such as S+1 divide only themselves.
    let (mut over, mut under) = (input.clone(), vec![]);
    for d in &out {
        match over.iter().position(|x| x == d) {
            Some(i) => drop(over.remove(i)),
            None => under.push(d.clone()),
        }
    }
    let (over, under) = (Dim::product(&over), Dim::product(&under));
    out[at] = match (over.div_exact(&under), under.as_const()) {
        (Some(q), _) => q,
        (None, Some(c)) if c <= 0 || over.as_const().is_some() => {
            return invalid(format!("{input:?} cannot become {out:?} with -1 at axis {at}"));
        }
        // The model vouches that it is exact.
        (None, _) => over.floor_div(&under),
    };
    Ok(out)
}

/// The shape where only a run knows which of its numbers are 0 or -1.
fn chosen_shape(input: &[Dim], given: &[Dim], copies: bool) -> Vec<Dim> {
    let minus = Dim::from(-1i64);
    let rest: Vec<Dim> = given.iter().map(|d| equal(d, &minus)).collect();
    // With 1 for what remains. Products of the sums that these are would have very many terms: a maximum is one atom.
    let plain = given.iter().zip(&rest).enumerate().map(|(i, (d, rest))| {
        let copied = match input.get(i) {
            Some(x) if copies => equal(d, &Dim::ZERO) * x.clone(),
            _ => Dim::ZERO,
        };
        let extent = d.clone() + copied + rest.clone() * Dim::from(2i64);
        whole(extent)
    });
    let plain: Vec<Dim> = plain.collect();
    let remains = Dim::product(input).floor_div(&Dim::product(&plain).maximum(&Dim::ONE));
    let shape = plain.into_iter().zip(rest);
    shape
        .map(|(d, rest)| whole(d + rest * (remains.clone() - Dim::ONE)))
        .collect()
}

/// Index into a row-major array of shape `input` of the element that an array of shape `output` with the same elements has
/// at `iters`.
///
/// Axes are matched in the smallest groups with equal element counts; divisions appear only within a group. Where the
/// counts cannot be proven equal, the position is clamped into the input.
pub(crate) fn reshape_index(input: &[Dim], output: &[Dim], iters: &[Dim]) -> Vec<Dim> {
    let mut extents = vec![];
    for (d, it) in output.iter().zip(iters) {
        if let Some(Sym::Iter(i)) = it.as_sym() {
            let i = *i as usize;
            extents.resize(extents.len().max(i + 1), Dim::ONE);
            extents[i] = d.clone();
        }
    }
    let bounds = Bounds::positive(&extents);
    let prefixes = |shape: &[Dim]| {
        let mut out = vec![Dim::ONE];
        for d in shape {
            out.push(out[out.len() - 1].clone() * d.clone());
        }
        out
    };
    let (p, q) = (prefixes(input), prefixes(output));
    let (mut i, mut j) = (0, 0);
    let mut index = vec![];
    while i < input.len() || j < output.len() {
        let (ni, nj) = (i..p.len())
            .flat_map(|a| (j..q.len()).map(move |b| (a, b)))
            .find(|(a, b)| (*a, *b) != (i, j) && p[*a] == q[*b])
            .unwrap_or((input.len(), output.len()));
        group_index(&input[i..ni], &output[j..nj], &iters[j..nj], &bounds, &mut index);
        (i, j) = (ni, nj);
    }
    index
}

fn group_index(input: &[Dim], output: &[Dim], iters: &[Dim], bounds: &Bounds, index: &mut Vec<Dim>) {
    // Equal inner axes correspond whatever the outer ones do.
    let tail = input
        .iter()
        .rev()
        .zip(output.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (input, inner_in) = input.split_at(input.len() - tail);
    let (output, _) = output.split_at(output.len() - tail);
    let (iters, inner) = iters.split_at(iters.len() - tail);
    let count = Dim::product(input);
    let mut position = linear_dim(output, iters);
    let last = count.clone() - Dim::ONE;
    if count != Dim::product(output) && !bounds.le(&position, &last) {
        position = position.minimum(&last);
    }
    // Where an axis that data decides has no elements nothing is read, and nothing must divide by it.
    let divisor = |d: Dim| {
        if bounds.range(&d).0 < 1 {
            d.maximum(&Dim::ONE)
        } else {
            d
        }
    };
    let mut outermost = true;
    for (k, d) in input.iter().enumerate() {
        if d.is_one() {
            index.push(Dim::ZERO);
            continue;
        }
        let q = bounds.simplify(&position.floor_div(&divisor(Dim::product(&input[k + 1..]))));
        let modulo = |q: Dim| bounds.simplify(&q.modulo(&divisor(d.clone())));
        index.push(if outermost { q } else { modulo(q) });
        outermost = false;
    }
    for (d, it) in inner_in.iter().zip(inner) {
        index.push(if d.is_one() { Dim::ZERO } else { it.clone() });
    }
}

const AXES: Param = Param::new("axes", Types::I64).shape_like("axes");

pub(super) const SQUEEZE: View = View {
    schema: &Schema::new(
        "Squeeze",
        "removes axes of extent 1 (all of them, or `axes`)",
        &[DATA, AXES.optional()],
        OUT,
        &[],
    )
    .limits(&["without `axes` an extent that only a run knows remains, and must not be 1"]),
    shape: |cx| {
        let x = &cx.fact(0)?.shape;
        if let Some(axes) = chosen_axes(cx)? {
            let was = left(&named(&axes, x.len()).0, axes.len());
            return Ok(was.iter().map(|row| whole(picked(row, x))).collect());
        }
        let gone = squeezed(cx)?;
        Ok((0..x.len())
            .filter(|i| !gone.contains(i))
            .map(|i| x[i].clone())
            .collect())
    },
    source: |_, from, to| same_order(from, to),
    index: |cx, from, _, it| {
        if let Some(axes) = chosen_axes(cx)? {
            let was = left(&named(&axes, from.len()).0, axes.len());
            let column = |i: usize| was.iter().map(|row| row[i].clone()).collect::<Vec<_>>();
            return Ok((0..from.len()).map(|i| picked(&column(i), it)).collect());
        }
        let gone = squeezed(cx)?;
        let mut it = it.iter();
        Ok((0..from.len())
            .map(|i| if gone.contains(&i) { None } else { it.next() })
            .map(|i| i.cloned().unwrap_or(Dim::ZERO))
            .collect())
    },
    rules: |cx| {
        let x = &cx.fact(0)?.shape;
        let Some(axes) = chosen_axes(cx)? else {
            let gone = squeezed(cx)?;
            let open = (0..x.len()).filter(|i| x[*i].as_const().is_none());
            if cx.const_ints(1)?.is_none() {
                return Ok(open.map(|i| (equal(&x[i], &Dim::ONE), Dim::ZERO)).collect());
            }
            let one = |i: usize| [(x[i].clone(), Dim::ONE), (Dim::ONE, x[i].clone())];
            return Ok(open.filter(|i| gone.contains(i)).flat_map(one).collect());
        };
        let (hits, rules) = named(&axes, x.len());
        let ones = hits.into_iter().zip(x).map(|(hit, d)| (hit.clone() * d.clone(), hit));
        Ok(ones.chain(rules).collect())
    },
};

/// The numbers of the axes where only a run knows them.
fn chosen_axes(cx: &Cx) -> Result<Option<Vec<Dim>>, OpError> {
    let axes = cx.dims(1)?.filter(|axes| any_symbolic(axes));
    match axes {
        Some(axes) if axes.len() > 64 => invalid(format!("{} axes", axes.len())),
        axes => Ok(axes),
    }
}

fn squeezed(cx: &Cx) -> Result<Vec<usize>, OpError> {
    let x = &cx.fact(0)?.shape;
    let Some(list) = cx.const_ints(1)? else {
        return Ok((0..x.len()).filter(|i| x[*i].is_one()).collect());
    };
    let axes = axes_of(&list, x.len())?;
    for a in &axes {
        if let Some(c) = x[*a].as_const()
            && c != 1
        {
            return invalid(format!("axis {a} to remove has extent {c}"));
        }
    }
    Ok(axes)
}

pub(super) const UNSQUEEZE: View = View {
    schema: &Schema::new(
        "Unsqueeze",
        "inserts axes of extent 1 so that they become `axes`",
        &[DATA, AXES],
        OUT,
        &[],
    ),
    shape: |cx| {
        let x = &cx.fact(0)?.shape;
        if let Some(axes) = chosen_axes(cx)? {
            let (new, _) = named(&axes, x.len() + axes.len());
            let was = left(&new, axes.len());
            let column = |i: usize| was.iter().map(|row| row[i].clone()).collect::<Vec<_>>();
            let extents = (0..new.len()).map(|i| whole(picked(&column(i), x) + new[i].clone()));
            return Ok(extents.collect());
        }
        let new = unsqueezed(cx)?;
        let mut old = x.iter();
        Ok((0..x.len() + new.len())
            .map(|i| if new.contains(&i) { None } else { old.next() })
            .map(|d| d.cloned().unwrap_or(Dim::ONE))
            .collect())
    },
    source: |_, from, to| same_order(from, to),
    index: |cx, _, _, it| {
        if let Some(axes) = chosen_axes(cx)? {
            let was = left(&named(&axes, it.len()).0, axes.len());
            return Ok(was.iter().map(|row| picked(row, it)).collect());
        }
        let new = unsqueezed(cx)?;
        Ok((0..it.len())
            .filter(|i| !new.contains(i))
            .map(|i| it[i].clone())
            .collect())
    },
    rules: |cx| {
        let rank = cx.fact(0)?.rank();
        Ok(chosen_axes(cx)?
            .map(|axes| named(&axes, rank + axes.len()).1)
            .unwrap_or_default())
    },
};

fn unsqueezed(cx: &Cx) -> Result<Vec<usize>, OpError> {
    let rank = cx.fact(0)?.rank();
    match cx.const_ints(1)? {
        // Repeats are refused, so more axes than this cannot be valid; the check bounds the work on hostile lists.
        Some(list) if list.len() > 64 => invalid(format!("{} axes to insert", list.len())),
        Some(list) => axes_of(&list, rank + list.len()),
        None => invalid("input 1 (axes) is missing"),
    }
}

pub(super) const FLATTEN: View = View {
    schema: &Schema::new(
        "Flatten",
        "a matrix: axes before `axis` by the rest",
        &[DATA],
        OUT,
        &[("axis", AttrDef::Int(1))],
    ),
    shape: |cx| {
        let x = &cx.fact(0)?.shape;
        let axis = cx.int("axis")?;
        let at = if axis == x.len() as i64 {
            x.len()
        } else {
            normalize_axis(axis, x.len())?
        };
        Ok(vec![Dim::product(&x[..at]), Dim::product(&x[at..])])
    },
    source: |_, from, to| same_order(from, to),
    index: |_, from, to, it| Ok(reshape_index(from, to, it)),
    rules: NO_RULES,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attr, DType, Fact, Graph};

    fn s(name: &str) -> Dim {
        Dim::sym(name)
    }

    fn c(v: i64) -> Dim {
        Dim::from(v)
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
    fn reshape_index_stays_affine() {
        let it: Vec<Dim> = (0..4).map(Dim::iter).collect();
        let (b, q) = (s("B"), s("S"));
        let split = [b.clone(), q.clone(), c(12), c(64)];
        let merged = [b.clone(), q.clone(), c(768)];
        assert_eq!(
            reshape_index(&merged, &split, &it),
            [it[0].clone(), it[1].clone(), it[2].clone() * c(64) + it[3].clone()]
        );
        let rows = [b.clone() * q.clone(), c(768)];
        assert_eq!(
            reshape_index(&rows, &merged, &it[..3]),
            [it[0].clone() * q.clone() + it[1].clone(), it[2].clone()]
        );
        assert_eq!(
            reshape_index(&merged, &rows, &it[..2]).last(),
            Some(&it[1]),
            "a division stays in its group"
        );
        assert_eq!(
            reshape_index(&split, &merged, &it[..3]),
            [
                it[0].clone(),
                it[1].clone(),
                it[2].floor_div(&c(64)),
                it[2].modulo(&c(64))
            ]
        );
        let column = [c(1), b, c(1)];
        assert_eq!(
            reshape_index(&column[1..2], &column, &[c(0), it[0].clone(), c(0)]),
            [it[0].clone()]
        );
    }

    #[test]
    fn reshape_shapes() {
        let x = [s("B"), s("S"), c(384)];
        let ok = |to: &[Dim]| infer("Reshape", &[], &x, &[to]).expect("legal").shape;
        assert_eq!(ok(&[c(0), c(0), c(12), c(-1)]), [s("B"), s("S"), c(12), c(32)]);
        assert_eq!(ok(&[c(-1), c(384)]), [s("B") * s("S"), c(384)]);
        assert_eq!(ok(&[s("B"), c(-1), c(96)]), [s("B"), s("S") * c(4), c(96)]);
        let odd = infer("Reshape", &[], &[s("S") + c(1), c(6)], &[&[c(-1), s("S") + c(1)]]).expect("legal");
        assert_eq!(odd.shape, [c(6), s("S") + c(1)]);
        let err = |shape: &[Dim], to: &[Dim]| infer("Reshape", &[], shape, &[to]).is_err();
        assert!(err(&[c(6)], &[c(4), c(-1)]));
        assert!(err(&[c(6)], &[c(4)]));
        assert!(err(&[c(6)], &[c(-1), c(-1)]));
        assert!(err(&[c(6)], &[c(6), c(0)]));
        assert!(err(&[c(6)], &[c(-2)]));
        let mut g = Graph::new("t");
        let v = g.add_input("v", Fact::with_known(DType::I64, vec![c(2)], vec![s("B"), c(7)]));
        let y = g
            .apply("Reshape", &[("shape", Attr::Dims(vec![c(2), c(1)]))], &[v])
            .expect("legal");
        assert_eq!(g.fact(y).known, Some(vec![s("B"), c(7)]));
    }
}
