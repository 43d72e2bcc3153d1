//! Axes that only a run knows, in the algebra of dims.
//!
//! Which axis a number names is a row of ones and zeros; extents and indices are sums over it. Where the numbers are constants,
//! everything here is too.
//!
//! Law: numbers that name no axis, or one twice, break the rule that [`named`] gives.

use crate::index::{element_count, linear};
use crate::op::{AttrDef, Cx, OpError, Rule, Schema, invalid};
use crate::{Attr, Bounds, Dim};

use super::movement::{DATA, OUT, View};

/// 1 where the two are equal, else 0. Extents may be 0: a list may have no elements.
pub(crate) fn equal(a: &Dim, b: &Dim) -> Dim {
    let (more, less) = (a.clone() - b.clone(), b.clone() - a.clone());
    match Bounds::of(&[]).range(&more) {
        (0.., _) => Dim::ONE - more.minimum(&Dim::ONE),
        (_, ..=0) => Dim::ONE - less.minimum(&Dim::ONE),
        _ => (Dim::ONE - less.maximum(&more)).maximum(&Dim::ZERO),
    }
}

/// 1 below 0, else 0.
pub fn negative(d: &Dim) -> Dim {
    (-d.clone()).maximum(&Dim::ZERO).minimum(&Dim::ONE)
}

/// `yes` where `which` is 1, `no` where it is 0.
pub(crate) fn choose(which: &Dim, yes: Dim, no: Dim) -> Dim {
    which.clone() * (yes - no.clone()) + no
}

/// Whether an answer about them is short enough to be a formula.
pub(crate) fn brief(of: &[Dim]) -> bool {
    of.iter().map(Dim::atoms).sum::<usize>() <= 32
}

/// A number that a caller gives, cut to what cannot overflow when extents are added to it: no extent is as large.
pub(crate) fn cut(d: &Dim) -> Dim {
    const MOST: i64 = 1 << 60;
    match d.as_const() {
        Some(c) => Dim::from(c.clamp(-MOST, MOST)),
        None => d.maximum(&Dim::from(-MOST)).minimum(&Dim::from(MOST)),
    }
}

/// For each axis, whether the number names it, from the start or from the end.
///
/// Of a number that names one it is the axis with the same remainder: the floor of `(number - axis) / rank` goes up there.
fn names(axis: &Dim, rank: usize) -> Vec<Dim> {
    let below = |i: usize| (axis.clone() - Dim::from(i)).floor_div(&Dim::from(rank));
    (0..rank).map(|i| below(i) - below(i + 1)).collect()
}

/// For each of the listed numbers and each axis, whether it names it.
pub(crate) fn table(list: &[Dim], rank: usize) -> Vec<Vec<Dim>> {
    list.iter().map(|a| names(a, rank)).collect()
}

/// For each axis, whether it is named, and the rules that the list must keep to: its numbers name axes, and none twice.
pub(crate) fn named(list: &[Dim], rank: usize) -> (Vec<Dim>, Vec<Rule>) {
    named_by(list, &vec![Dim::ONE; list.len()], rank)
}

/// For each of at most `most` numbers, whether a list of this length has it.
pub(crate) fn there(length: &Dim, most: usize) -> Vec<Dim> {
    let has = |k: usize| (length.clone() - Dim::from(k)).maximum(&Dim::ZERO).minimum(&Dim::ONE);
    (0..most).map(has).collect()
}

/// What `of` gives for the length that a list has, which is `most` at most.
pub(crate) fn by_length(length: &Dim, most: usize, of: impl Fn(usize) -> Dim) -> Dim {
    (0..=most).fold(Dim::ZERO, |sum, n| sum + equal(length, &Dim::from(n)) * of(n))
}

/// [`named`] by the first `length` numbers of a list.
pub(crate) fn named_by_open(list: &[Dim], length: &Dim, rank: usize) -> (Vec<Dim>, Vec<Rule>) {
    let (hits, mut rules) = named_by(list, &there(length, list.len()), rank);
    rules.push((length.clone(), Dim::from(list.len())));
    (hits, rules)
}

/// [`named`] by those numbers that are there.
fn named_by(list: &[Dim], there: &[Dim], rank: usize) -> (Vec<Dim>, Vec<Rule>) {
    let table = table(list, rank);
    let hit = |i: usize| {
        let rows = table.iter().zip(there);
        rows.fold(Dim::ZERO, |sum, (row, there)| sum + there.clone() * row[i].clone())
    };
    let hits: Vec<Dim> = (0..rank).map(hit).collect();
    let (low, high) = (Dim::ZERO - Dim::from(rank), Dim::from(rank) - Dim::ONE);
    let inside = list.iter().zip(there).flat_map(|(a, there)| {
        let a = there.clone() * cut(a);
        [(low.clone(), a.clone()), (a, high.clone())]
    });
    let mut rules: Vec<Rule> = inside.collect();
    if list.len() > 1 {
        rules.extend(hits.iter().map(|hit| (hit.clone(), Dim::ONE)));
    }
    (hits, rules)
}

/// How much each of `parts` has of `n`, if they can have the same.
pub(crate) fn shared_out(n: &Dim, parts: &Dim) -> Option<Dim> {
    n.div_exact(parts).or_else(|| {
        let unknown = (n.as_const().is_none() || parts.as_const().is_none()) && !parts.is_zero();
        unknown.then(|| n.floor_div(&parts.maximum(&Dim::ONE)))
    })
}

/// The extent as one atom, so that products of several stay short. It must be one of at least 0.
pub(crate) fn whole(d: Dim) -> Dim {
    if d.as_const().is_some() {
        d
    } else {
        d.maximum(&Dim::ZERO)
    }
}

/// What is listed for each axis: the number of `values` whose axis it is, or `absent`.
pub(crate) fn listed(list: &[Dim], values: &[Dim], absent: &[Dim]) -> Vec<Dim> {
    let table = table(list, absent.len());
    let of = |i: usize| {
        let rows = table.iter().zip(values);
        let all = rows.fold(absent[i].clone(), |old, (row, value)| choose(&row[i], cut(value), old));
        // As one atom: nothing is below twice of what numbers are cut to.
        match all.as_const() {
            None if list.len() > 1 => all.maximum(&Dim::from(i64::MIN / 2)),
            _ => all,
        }
    };
    (0..absent.len()).map(of).collect()
}

/// `gone` of the axes vanish, those that `hits` says: for each axis that is left, which one it was.
pub(crate) fn left(hits: &[Dim], gone: usize) -> Vec<Vec<Dim>> {
    // Sums of the differences that hits are cancel.
    let mut before = vec![Dim::ZERO];
    for hit in hits {
        let last = before[before.len() - 1].clone();
        before.push(last + Dim::ONE - hit.clone());
    }
    // Whether more than `j` of the axes before axis `i` are left.
    let more = |i: usize, j: usize| match before[i].clone() - Dim::from(j) {
        _ if i <= j => Dim::ZERO,
        _ if i > j + gone => Dim::ONE,
        // Here it is one of both.
        more if gone == 1 => more,
        more => more.maximum(&Dim::ZERO).minimum(&Dim::ONE),
    };
    let rank = hits.len();
    (0..rank - gone.min(rank))
        .map(|j| (0..rank).map(|i| more(i + 1, j) - more(i, j)).collect())
        .collect()
}

/// The sum of what `row` says.
pub(crate) fn picked(row: &[Dim], of: &[Dim]) -> Dim {
    let all = row.iter().zip(of);
    all.fold(Dim::ZERO, |sum, (one, d)| sum + one.clone() * d.clone())
}

/// The extents before an axis, of it, and after it, each as one.
pub(crate) fn around(shape: &[Dim], axis: &Dim) -> [Dim; 3] {
    let hits = names(axis, shape.len());
    let each = |of: &dyn Fn(usize) -> Dim| {
        let all = hits.iter().enumerate().map(|(i, hit)| hit.clone() * of(i));
        all.fold(Dim::ZERO, |sum, d| sum + d)
    };
    [
        whole(each(&|i| Dim::product(&shape[..i]))),
        whole(each(&|i| shape[i].clone())),
        whole(each(&|i| Dim::product(&shape[i + 1..]))),
    ]
}

/// Where the one at a position begins among tensors of these shapes, of the same rank, that lie one after the other, and its
/// shape. The position must be one of a tensor.
pub fn member(shapes: &[&[Dim]], at: &Dim) -> (Dim, Vec<Dim>) {
    let Some(first) = shapes.first() else {
        return (Dim::ZERO, vec![]);
    };
    if shapes.iter().all(|s| s == first) {
        return (at.clone() * Dim::product(*first), first.to_vec());
    }
    let hits: Vec<Dim> = (0..shapes.len()).map(|i| equal(at, &Dim::from(i))).collect();
    let mut starts = vec![Dim::ZERO];
    for shape in shapes {
        starts.push(starts[starts.len() - 1].clone() + Dim::product(*shape));
    }
    let extent = |axis: usize| match &first[axis] {
        same if shapes.iter().all(|s| s[axis] == *same) => same.clone(),
        _ => {
            let of: Vec<Dim> = shapes.iter().map(|s| s[axis].clone()).collect();
            whole(picked(&hits, &of))
        }
    };
    (picked(&hits, &starts), (0..first.len()).map(extent).collect())
}

/// Whether some of them are not constants.
pub(crate) fn any_symbolic(list: &[Dim]) -> bool {
    list.iter().any(|d| d.as_const().is_none())
}

fn hits(cx: &Cx) -> Result<Vec<Dim>, OpError> {
    match cx.attrs.get("hits") {
        Some(Attr::Dims(d)) if d.len() == cx.fact(0)?.rank() => Ok(d.clone()),
        _ => invalid("attribute `hits` wants one dim per axis"),
    }
}

/// A tensor among the elements of several.
pub(super) const MEMBER: View = View {
    schema: &Schema::new(
        "cameo::Member",
        "the elements from `start` on, as a tensor of `shape`; in `within` no first number of a pair is above the second",
        &[DATA],
        OUT,
        &[
            ("shape", AttrDef::ReqDims),
            ("start", AttrDef::ReqDims),
            ("within", AttrDef::ReqDims),
        ],
    ),
    shape: |cx| {
        if cx.fact(0)?.rank() != 1 || cx.dim_list("start")?.len() != 1 {
            return invalid("elements in a row and one start are wanted");
        }
        cx.dim_list("shape")
    },
    source: |cx, from, to| {
        let start = cx.dim_list("start")?[0].as_const();
        let start = start.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        let needed = element_count(to).and_then(|n| n.checked_add(start));
        if needed.is_none_or(|n| n > from[0]) {
            return invalid(format!("{to:?} from {start} on, of {} elements", from[0]));
        }
        let to = to.to_vec();
        Ok(Box::new(move |ix| start + linear(&to, ix)))
    },
    index: |cx, _, to, it| {
        let linear = to
            .iter()
            .zip(it)
            .fold(Dim::ZERO, |sum, (d, i)| sum * d.clone() + i.clone());
        Ok(vec![cx.dim_list("start")?[0].clone() + linear])
    },
    rules: |cx| {
        let (start, within) = (cx.dim_list("start")?[0].clone(), cx.dim_list("within")?);
        let end = start.clone() + Dim::product(&cx.dim_list("shape")?);
        let pairs = within.chunks_exact(2).map(|p| (p[0].clone(), p[1].clone()));
        let inside = [(Dim::ZERO, start), (end, cx.fact(0)?.shape[0].clone())];
        Ok(inside.into_iter().chain(pairs).collect())
    },
};

/// Every axis as two, one of which has extent 1.
pub(super) const APART: View = View {
    schema: &Schema::new(
        "cameo::Apart",
        "each axis as two: itself and 1, or 1 and itself where hits is 1",
        &[DATA],
        OUT,
        &[("hits", AttrDef::ReqDims)],
    ),
    shape: |cx| {
        let both = cx.fact(0)?.shape.iter().zip(hits(cx)?).flat_map(|(d, hit)| {
            let more = hit * (d.clone() - Dim::ONE);
            [whole(d.clone() - more.clone()), whole(Dim::ONE + more)]
        });
        Ok(both.collect())
    },
    source: |_, from, to| super::reshape::same_order(from, to),
    index: |_, from, _, it| {
        Ok((0..from.len())
            .map(|i| it[2 * i].clone() + it[2 * i + 1].clone())
            .collect())
    },
    rules: |_| Ok(vec![]),
};

/// The axes but the last one, of which the one that is hit goes behind the others.
struct Move {
    hits: Vec<Dim>,
    was: Vec<Vec<Dim>>,
    back: bool,
}

impl Move {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let hits = match cx.attrs.get("hits") {
            Some(Attr::Dims(d)) if d.len() + 1 == cx.fact(0)?.rank() && !d.is_empty() => d.clone(),
            _ => return invalid("attribute `hits` wants one dim per axis but the last"),
        };
        Ok(Self {
            was: left(&hits, 1),
            hits,
            back: cx.int("back")? != 0,
        })
    }

    /// What belongs to the axes, in the order that they have after the move.
    fn moved(&self, of: &[Dim]) -> Vec<Dim> {
        let rows = self.was.iter().chain([&self.hits]);
        rows.map(|row| picked(row, of)).chain(of.last().cloned()).collect()
    }

    /// The other way around.
    fn before(&self, of: &[Dim]) -> Vec<Dim> {
        let rows: Vec<&Vec<Dim>> = self.was.iter().chain([&self.hits]).collect();
        let column = |i: usize| rows.iter().map(|row| row[i].clone()).collect::<Vec<_>>();
        let axes = (0..self.hits.len()).map(|i| picked(&column(i), of));
        axes.chain(of.last().cloned()).collect()
    }
}

/// The axis that only a run knows goes behind all but the last, or back from there.
pub(super) const MOVED: View = View {
    schema: &Schema::new(
        "cameo::Moved",
        "the axis whose hits is 1 as the last but one, the others in their order; with back=1 from there to where hits is 1",
        &[DATA],
        OUT,
        &[("back", AttrDef::Int(0)), ("hits", AttrDef::ReqDims)],
    ),
    shape: |cx| {
        let (how, x) = (Move::of(cx)?, &cx.fact(0)?.shape);
        let shape = if how.back { how.before(x) } else { how.moved(x) };
        Ok(shape.into_iter().map(whole).collect())
    },
    source: |cx, from, _| {
        let how = Move::of(cx)?;
        let Some(axis) = how.hits.iter().position(Dim::is_one) else {
            return invalid("no axis is hit");
        };
        let (last, from) = (how.hits.len() - 1, from.to_vec());
        let (take, put) = if how.back { (axis, last) } else { (last, axis) };
        Ok(Box::new(move |ix| {
            let mut at = ix.to_vec();
            let i = at.remove(take);
            at.insert(put, i);
            crate::index::linear(&from, &at)
        }))
    },
    index: |cx, _, _, it| {
        let how = Move::of(cx)?;
        Ok(if how.back { how.moved(it) } else { how.before(it) })
    },
    rules: |_| Ok(vec![]),
};
