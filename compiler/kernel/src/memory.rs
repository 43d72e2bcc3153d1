//! The memory plan: where in the arena each tensor lives, by lifetimes.
//!
//! Invariant: two tensors that are alive at the same step do not overlap. Tensors are packed at their nominal sizes; with
//! symbols the plan keeps who lies on whom, so that offsets are sums and maxima of sizes: dims, evaluated once per shape. A
//! result takes over the memory of an operand that dies in the same step when every element is read where, and before, it is
//! written.

use std::sync::Arc;

use cameo_ir::{Bounds, Dim, Sym};

use crate::program::{Place, Program};
use crate::select::{NOMINAL, nominal};

/// Alignment of every tensor in the arena: a cache line.
pub const ALIGN: i64 = 64;

#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// Byte offset of each storage in the arena; `None` for storages that live elsewhere or that nothing touches.
    pub offsets: Vec<Option<Dim>>,
    /// Bytes of the arena.
    pub size: Dim,
}

/// First and last step at which a storage holds something.
pub type Life = (usize, usize);

pub fn lifetimes(p: &Program) -> Vec<Option<Life>> {
    let mut out: Vec<Option<Life>> = vec![None; p.storages.len()];
    for (i, s) in p.steps.iter().enumerate() {
        for b in &s.buffers {
            let e = out[*b].get_or_insert((i, i));
            e.1 = i;
        }
    }
    let read = p.counts.iter().map(|c| (c.step, &c.symbol));
    let loops = p.loops.iter().filter_map(|l| Some((l.steps.end - 1, l.rows.as_ref()?)));
    for (step, symbol) in read.chain(loops) {
        let e = out[symbol.storage].get_or_insert((step, step));
        e.1 = e.1.max(step);
    }
    // What a loop finds or leaves is there in all of its iterations.
    for l in &p.loops {
        let (first, last) = (l.steps.start, l.steps.end - 1);
        for life in out.iter_mut().flatten() {
            let (from, to) = *life;
            if from < first && (first..last).contains(&to) {
                life.1 = last;
            }
            if to > last && (first + 1..=last).contains(&from) {
                life.0 = first;
            }
        }
    }
    out
}

/// For each storage the one whose memory it takes over, itself when none; already followed to the first owner.
fn owners(p: &Program, lives: &[Option<Life>]) -> Vec<usize> {
    let mut owner: Vec<usize> = (0..p.storages.len()).collect();
    // A slice is not a tensor to take over.
    let mut taken = vec![false; p.storages.len()];
    for m in p.loops.iter().flat_map(|l| &l.moves) {
        taken[p.steps[m.step].buffers[m.buffer]] = true;
    }
    for (at, step) in p.steps.iter().enumerate() {
        let kernel = &p.kernels[step.kernel];
        for (o, out) in step.buffers.iter().enumerate() {
            let born = lives[*out].is_some_and(|l| l.0 == at) && p.storages[*out].place == Place::Arena;
            if !born || taken[*out] || !kernel.writes(o) {
                continue;
            }
            let heir = step.buffers.iter().enumerate().find(|(i, from)| {
                let (a, b) = (&p.storages[**from], &p.storages[*out]);
                a.place == Place::Arena
                    && !taken[**from]
                    && lives[**from].is_some_and(|l| l.0 < at && l.1 == at)
                    && a.dtype.size() == b.dtype.size()
                    && a.elements == b.elements
                    && step.buffers.iter().filter(|x| x == from).count() == 1
                    && kernel.may_share(*i, o)
            });
            if let Some((_, from)) = heir {
                taken[*from] = true;
                owner[*out] = owner[*from];
            }
        }
    }
    owner
}

fn aligned(bytes: &Dim) -> Dim {
    bytes.ceil_div(&Dim::from(ALIGN)) * Dim::from(ALIGN)
}

/// A tensor this many times smaller than the largest may waste as much as it is.
const SMALL: i64 = 100;

/// The sizes, aligned. Small ones are rounded per element of a symbol: that leaves polynomials, which can be compared, where
/// rounding the whole size divides.
fn rounded(bytes: &[Dim], bounds: &Bounds) -> Vec<Dim> {
    let most = bytes.iter().max_by_key(|d| nominal(d));
    let round = |d: &Dim| {
        if d.as_const().is_some() {
            return None;
        }
        let mut out = Dim::ZERO;
        for (m, c) in d.terms() {
            let m = m.iter().fold(Dim::ONE, |a, atom| a * Dim::atom(atom.clone()));
            if bounds.range(&m).0 < 0 {
                return None;
            }
            out = out + m * Dim::from(c.checked_add(ALIGN - 1)?.div_euclid(ALIGN) * ALIGN);
        }
        bounds.le(&(out.clone() * Dim::from(SMALL)), most?).then_some(out)
    };
    bytes.iter().map(|d| round(d).unwrap_or_else(|| aligned(d))).collect()
}

/// What needs a place: storages with the steps in which their memory is in use, by themselves or by those that take it over,
/// and its bytes. Also the owner of each storage.
fn items(p: &Program) -> (Vec<(usize, Life, Dim)>, Vec<usize>) {
    let mut lives = lifetimes(p);
    let owner = owners(p, &lives);
    for i in 0..owner.len() {
        if let (Some(own), Some(heir)) = (lives[owner[i]], lives[i]) {
            lives[owner[i]] = Some((own.0.min(heir.0), own.1.max(heir.1)));
        }
    }
    let storages = p.storages.iter().enumerate();
    let items = storages
        .filter(|(i, s)| s.place == Place::Arena && owner[*i] == *i)
        .filter_map(|(i, _)| Some((i, lives[i]?, p.bytes(i))))
        .collect();
    (items, owner)
}

/// The most bytes that are in use at one step, at the sizes that `value` gives: no plan can do with fewer.
pub fn alive_bytes(p: &Program, value: Value) -> Option<i64> {
    let (items, _) = items(p);
    let lives: Vec<Life> = items.iter().map(|(_, life, _)| *life).collect();
    let sizes: Vec<i64> = items
        .iter()
        .map(|(_, _, bytes)| value(&aligned(bytes)))
        .collect::<Option<_>>()?;
    Some(in_use(&lives, &sizes).into_iter().max().unwrap_or(0))
}

/// The sum of the sizes that are alive at each step.
fn in_use(lives: &[Life], sizes: &[i64]) -> Vec<i64> {
    let steps = lives.iter().map(|l| l.1 + 1).max().unwrap_or(0);
    let mut sums = vec![0i64; steps];
    for (life, size) in lives.iter().zip(sizes) {
        for sum in &mut sums[life.0..=life.1] {
            *sum = sum.saturating_add(*size);
        }
    }
    sums
}

/// Plans the arena of a program.
pub fn plan(p: &Program) -> MemoryPlan {
    let (items, owner) = items(p);
    let lives: Vec<Life> = items.iter().map(|(_, life, _)| *life).collect();
    let bytes: Vec<Dim> = items.iter().map(|(_, _, bytes)| bytes.clone()).collect();
    let ranges = |name: &str| {
        p.symbols
            .iter()
            .find(|(n, _)| &**n == name)
            .map_or((0, i64::MAX), |(_, r)| (r.min.max(0), r.max))
    };
    let bounds = Bounds {
        extents: &[],
        named: &ranges,
    };
    let sizes = rounded(&bytes, &bounds);
    // Each size of the program may prefer another plan: with all symbols alike, or one of them 1, as a batch is.
    let names: Vec<Option<&Arc<str>>> = match &*p.symbols {
        [] | [_] => vec![None],
        some => std::iter::once(None)
            .chain(some.iter().map(|(n, _)| Some(n)))
            .take(MOST_PLANS)
            .collect(),
    };
    let value = |one: Option<&Arc<str>>, d: &Dim| {
        d.eval(&|s| {
            Some(if matches!(s, Sym::Named(n) if Some(n) == one) {
                1
            } else {
                NOMINAL
            })
        })
    };
    let least: Vec<i64> = names
        .iter()
        .map(|one| {
            let known: Option<Vec<i64>> = sizes.iter().map(|d| value(*one, d)).collect();
            known
                .and_then(|sizes| in_use(&lives, &sizes).into_iter().max())
                .unwrap_or(0)
        })
        .collect();
    // In thousandths of what is in use at once.
    let excess = |size: &Dim| {
        let each = names.iter().zip(&least).filter(|(_, least)| **least > 0);
        each.map(|(one, least)| value(*one, size).map_or(i64::MAX, |n| n.saturating_mul(1000) / least))
            .max()
    };
    let plans = names
        .iter()
        .filter_map(|one| stacked(&lives, &sizes, &bounds, &|d| value(*one, d)));
    let (places, size) = plans
        .min_by_key(|(_, size)| excess(size))
        .unwrap_or_else(|| slots(&lives, &sizes, &bounds));
    let mut offsets = vec![None; p.storages.len()];
    for ((i, _, _), at) in items.into_iter().zip(places) {
        offsets[i] = Some(at);
    }
    for i in 0..owner.len() {
        if owner[i] != i {
            offsets[i] = offsets[owner[i]].clone();
        }
    }
    MemoryPlan { offsets, size }
}

/// A dim at some values of the symbols.
type Value<'a> = &'a dyn Fn(&Dim) -> Option<i64>;

/// Plans that are compared: more symbols than this are rare.
const MOST_PLANS: usize = 4;

fn overlap(a: Life, b: Life) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

/// Looks at pairs of tensors that all attempts to pack them may take: some tenths of a second.
const MOST_PAIRS: usize = 100_000_000;

/// Attempts, if they are cheap: of the networks tried, none got better after more.
const MOST_ATTEMPTS: usize = 100;

/// Offsets of tensors of known sizes, and the end of the last one.
///
/// Each tensor goes into the smallest gap that holds it among those placed before that are alive with it. What decides is the
/// order: largest first; then those of the step with most bytes first, then of the next such step. Of the better one,
/// whatever reaches to the end goes first in the next attempt, until the end is where no plan can be below.
fn packed(lives: &[Life], sizes: &[i64]) -> (Vec<i64>, i64) {
    let n = lives.len();
    let alive = in_use(lives, sizes);
    let least = alive.iter().copied().max().unwrap_or(0);
    let mut by_size: Vec<usize> = (0..n).collect();
    // Ties by number keep it deterministic.
    by_size.sort_by_key(|&i| (std::cmp::Reverse(sizes[i]), i));
    let crowd = |i: usize| alive[lives[i].0..=lives[i].1].iter().copied().max();
    let mut by_crowd = by_size.clone();
    by_crowd.sort_by_key(|&i| std::cmp::Reverse(crowd(i)));
    let (mut order, mut best) = (by_size.clone(), fitted(lives, sizes, &by_size));
    let other = fitted(lives, sizes, &by_crowd);
    if other.1 < best.1 {
        (order, best) = (by_crowd, other);
    }
    let mut now = best.clone();
    for _ in 0..(MOST_PAIRS / (n * n).max(1)).min(MOST_ATTEMPTS) {
        if best.1 <= least {
            break;
        }
        let Some(top) = order.iter().position(|&i| now.0[i].saturating_add(sizes[i]) == now.1) else {
            break;
        };
        order[..=top].rotate_right(1);
        now = fitted(lives, sizes, &order);
        if now.1 < best.1 {
            best = now.clone();
        }
    }
    best
}

/// One attempt of [`packed`].
fn fitted(lives: &[Life], sizes: &[i64], order: &[usize]) -> (Vec<i64>, i64) {
    let (mut places, mut end) = (vec![0i64; lives.len()], 0i64);
    let mut busy: Vec<(i64, i64)> = vec![];
    for (placed, &i) in order.iter().enumerate() {
        busy.clear();
        let near = order[..placed].iter().filter(|&&j| overlap(lives[i], lives[j]));
        busy.extend(near.map(|&j| (places[j], places[j].saturating_add(sizes[j]))));
        busy.sort_unstable();
        let (mut at, mut best) = (0i64, None);
        for (from, to) in &busy {
            let gap = from - at;
            if gap >= sizes[i] && best.is_none_or(|(g, _): (i64, i64)| gap < g) {
                best = Some((gap, at));
            }
            at = at.max(*to);
        }
        places[i] = best.map_or(at, |(_, at)| at);
        end = end.max(places[i].saturating_add(sizes[i]));
    }
    (places, end)
}

/// Atoms of an offset, written out: so many that no network tried has half, and few enough to compare.
const MOST_ATOMS: usize = 256;

/// Packs the tensors at the sizes that `value` gives; then each lies on those that are alive with it and lay below it,
/// whatever the sizes are. Its offset is the largest of their ends: one of them in most networks, where all sizes grow alike.
/// `None` where a size has no value, or the offsets would be too large expressions.
fn stacked(lives: &[Life], sizes: &[Dim], bounds: &Bounds, value: Value) -> Option<(Vec<Dim>, Dim)> {
    let known: Vec<i64> = sizes.iter().map(value).collect::<Option<_>>()?;
    let (at, end) = packed(lives, &known);
    if sizes.iter().all(|s| s.as_const().is_some()) {
        return Some((at.into_iter().map(Dim::from).collect(), Dim::from(end)));
    }
    let mut upwards: Vec<usize> = (0..lives.len()).collect();
    upwards.sort_by_key(|&i| (at[i], i));
    let mut rank = vec![0; lives.len()];
    let (mut places, mut ends) = (vec![Dim::ZERO; lives.len()], vec![Dim::ZERO; lives.len()]);
    // The uppermost tensor so far at each step.
    let mut top: Vec<Option<usize>> = vec![None; lives.iter().map(|l| l.1 + 1).max().unwrap_or(0)];
    let surface = |top: &[Option<usize>], rank: &[usize], ends: &[Dim]| {
        let mut run: Vec<usize> = top.iter().copied().flatten().collect();
        run.dedup();
        // What lies below another one of the run lies below its neighbour, as lives have no gaps.
        let hidden =
            |j: usize, other: Option<&usize>| other.is_some_and(|&o| rank[o] > rank[j] && overlap(lives[j], lives[o]));
        let seen = (0..run.len()).filter(|&k| {
            let before = k.checked_sub(1).and_then(|k| run.get(k));
            !hidden(run[k], before) && !hidden(run[k], run.get(k + 1))
        });
        largest(seen.map(|k| &ends[run[k]]), bounds)
    };
    for (placed, &i) in upwards.iter().enumerate() {
        let steps = lives[i].0..=lives[i].1;
        rank[i] = placed;
        places[i] = surface(&top[steps.clone()], &rank, &ends)?;
        ends[i] = places[i].clone() + sizes[i].clone();
        top[steps].fill(Some(i));
    }
    let size = surface(&top, &rank, &ends)?;
    Some((places, size))
}

/// The maximum, without what is known to be at most another; `None` when it is too large an expression.
fn largest<'a>(dims: impl Iterator<Item = &'a Dim>, bounds: &Bounds) -> Option<Dim> {
    let mut most: Vec<&Dim> = vec![];
    for d in dims {
        if most.iter().any(|m| *m == d || bounds.le(d, m)) {
            continue;
        }
        most.retain(|m| !bounds.le(m, d));
        most.push(d);
        if most.iter().map(|m| m.atoms()).sum::<usize>() > MOST_ATOMS {
            return None;
        }
    }
    Some(
        most.into_iter()
            .fold(Dim::ZERO, |a, d| if a.is_zero() { d.clone() } else { a.maximum(d) }),
    )
}

/// Tensors whose lives are apart share a slot as large as the largest of them: small expressions, and more memory.
fn slots(lives: &[Life], sizes: &[Dim], bounds: &Bounds) -> (Vec<Dim>, Dim) {
    let larger = |a: &Dim, b: &Dim| {
        if a == b {
            a.clone()
        } else if a.atoms() + b.atoms() > MOST_ATOMS {
            // A proof would take longer than all else, and is not to be had.
            a.maximum(b)
        } else if bounds.le(b, a) {
            a.clone()
        } else if bounds.le(a, b) {
            b.clone()
        } else {
            a.maximum(b)
        }
    };
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(nominal(&sizes[i])), i));
    let mut slots: Vec<(Dim, Vec<usize>)> = vec![];
    for i in order {
        let free = slots
            .iter_mut()
            .find(|(_, members)| members.iter().all(|&j| !overlap(lives[i], lives[j])));
        match free {
            Some((size, members)) => {
                *size = larger(size, &sizes[i]);
                members.push(i);
            }
            None => slots.push((sizes[i].clone(), vec![i])),
        }
    }
    let (mut places, mut at) = (vec![Dim::ZERO; lives.len()], Dim::ZERO);
    for (size, members) in slots {
        members.into_iter().for_each(|i| places[i] = at.clone());
        at = at + size;
    }
    (places, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{block, evaluate};
    use cameo_ir::{DType, Fact, Graph};

    /// No two tensors that live at the same time may overlap, but for an operand and the result that takes it over.
    fn check(p: &Program, symbols: &[(&str, i64)]) {
        let plan = plan(p);
        let alive = alive_bytes(p, &|d| Some(evaluate(d, symbols))).expect("all symbols are given");
        assert!(0 < alive && alive <= evaluate(&plan.size, symbols), "{alive}");
        let lives = lifetimes(p);
        let owner = owners(p, &lives);
        let end = evaluate(&plan.size, symbols);
        let spans: Vec<(usize, Life, i64, i64)> = (0..p.storages.len())
            .filter(|i| p.storages[*i].place == Place::Arena)
            .filter_map(|i| {
                let at = evaluate(plan.offsets[i].as_ref()?, symbols);
                Some((i, lives[i]?, at, at + evaluate(&p.bytes(i), symbols)))
            })
            .collect();
        assert!(spans.len() > 2, "the test needs tensors");
        for (i, a, from, to) in &spans {
            assert!(from % ALIGN == 0 && *to <= end, "s{i} at {from}..{to} of {end}");
            for (j, b, from2, to2) in &spans {
                let together = a.0 <= b.1 && b.0 <= a.1;
                if i < j && together && from < to2 && from2 < to {
                    assert_eq!(owner[*i], owner[*j], "s{i} and s{j} overlap");
                    assert!(a.1 <= b.0 || b.1 <= a.0, "s{i} and s{j} both live on");
                }
            }
        }
    }

    #[test]
    fn live_tensors_never_overlap() {
        let symbolic = block(None);
        for s in [1, 7, 128, 500] {
            check(&symbolic, &[("B", 3), ("S", s)]);
        }
        check(&block(Some((2, 16))), &[]);
    }

    /// Lives and sizes, in kilobytes, as networks have them.
    fn live_sets() -> Vec<(&'static str, Vec<(Life, i64)>)> {
        let chain = |n: usize| (0..n).map(|i| ((i, i + 1), 100 + (i as i64 * 37) % 64)).collect();
        // Each level of the way down waits for its counterpart on the way up.
        let unet: Vec<(Life, i64)> = (0..8)
            .flat_map(|i| [((2 * i, 40 - 2 * i), 1024 >> i), ((2 * i, 2 * i + 1), 2048 >> i)])
            .chain((0..12).map(|i| ((16 + 2 * i, 18 + 2 * i), 24 << (i / 2))))
            .collect();
        let residual = (0..40)
            .flat_map(|i| {
                [
                    ((4 * i, 4 * i + 4), 64),
                    ((4 * i + 1, 4 * i + 2), 384),
                    ((4 * i + 2, 4 * i + 3), 384),
                ]
            })
            .collect();
        // Growing and shrinking ones: largest first alone leaves holes.
        let mixed = (0..60)
            .map(|i| ((i, i + 1 + i * 7 % 5), 16 + (i as i64 * i as i64 * 31) % 500))
            .collect();
        vec![
            ("chain", chain(50)),
            ("unet", unet),
            ("residual", residual),
            ("mixed", mixed),
        ]
    }

    #[test]
    fn packing_comes_close_to_what_is_alive() {
        for (name, set) in live_sets() {
            let (lives, sizes): (Vec<Life>, Vec<i64>) = set.into_iter().unzip();
            let (at, end) = packed(&lives, &sizes);
            apart(name, &lives, &at, &sizes);
            let least = in_use(&lives, &sizes).into_iter().max().expect("steps");
            assert!(end * 10 <= least * 11, "{name}: {end} of at least {least}");
        }
    }

    fn apart(name: &str, lives: &[Life], at: &[i64], sizes: &[i64]) {
        for i in 0..lives.len() {
            for j in 0..i {
                let free = at[i] + sizes[i] <= at[j] || at[j] + sizes[j] <= at[i];
                assert!(free || !overlap(lives[i], lives[j]), "{name}: {i} and {j} overlap");
            }
        }
    }

    /// Sizes that grow with the batch, with the length, with its square, or not at all.
    fn grown(sizes: &[i64]) -> Vec<Dim> {
        let (b, s) = (Dim::sym("B"), Dim::sym("S"));
        let grow = |(i, size): (usize, &i64)| match i % 7 {
            0 => Dim::from(size * 64),
            3 => b.clone() * s.clone() * s.clone() * Dim::from(size % 5 + 1),
            5 => s.clone() * Dim::from(4 * size + 1),
            _ => b.clone() * s.clone() * Dim::from(*size * 4),
        };
        sizes.iter().enumerate().map(grow).map(|d| aligned(&d)).collect()
    }

    const BOUNDS: Bounds = Bounds {
        extents: &[],
        named: &|_| (0, i64::MAX),
    };

    #[test]
    fn stacked_and_slotted_tensors_stay_apart_at_every_size() {
        let mut stacks = 0;
        for (name, set) in live_sets() {
            let (lives, sizes): (Vec<Life>, Vec<i64>) = set.into_iter().unzip();
            let sizes = grown(&sizes);
            let stack = stacked(&lives, &sizes, &BOUNDS, &|d| Some(nominal(d)));
            let plans = [stack, Some(slots(&lives, &sizes, &BOUNDS))];
            stacks += usize::from(plans[0].is_some());
            for (at, end) in plans.into_iter().flatten() {
                for (b, s) in [(0, 0), (1, 1), (1, 16), (3, 7), (1, 1000), (64, 2)] {
                    let value = |d: &Dim| evaluate(d, &[("B", b), ("S", s)]);
                    let known: Vec<i64> = sizes.iter().map(value).collect();
                    let at: Vec<i64> = at.iter().map(value).collect();
                    apart(name, &lives, &at, &known);
                    assert!(
                        at.iter()
                            .zip(&known)
                            .all(|(at, size)| at % ALIGN == 0 && at + size <= value(&end))
                    );
                }
            }
        }
        assert!(stacks > 0, "all offsets are large expressions");
    }

    #[test]
    fn tensors_that_grow_alike_are_stacked_as_they_are_packed() {
        for (name, set) in live_sets() {
            let (lives, sizes): (Vec<Life>, Vec<i64>) = set.into_iter().unzip();
            let sizes: Vec<Dim> = sizes.iter().map(|n| Dim::sym("S") * Dim::from(n * 1024)).collect();
            let (_, end) = stacked(&lives, &sizes, &BOUNDS, &|d| Some(nominal(d))).expect("small expressions");
            assert_eq!(end.atoms(), 1, "{name}: {end}");
            let known: Vec<i64> = sizes.iter().map(|d| evaluate(d, &[("S", 3)])).collect();
            let least = in_use(&lives, &known).into_iter().max().expect("steps");
            assert!(
                evaluate(&end, &[("S", 3)]) * 10 <= least * 11,
                "{name}: {end} of at least {least}"
            );
        }
    }

    #[test]
    fn small_tensors_are_rounded_to_polynomials_and_large_ones_are_not() {
        let times = |c: i64| Dim::sym("N") * Dim::from(c);
        let bytes = [times(100_000), times(20), times(2000), Dim::from(100i64)];
        let sizes: Vec<String> = rounded(&bytes, &BOUNDS).iter().map(ToString::to_string).collect();
        assert_eq!(
            sizes,
            [
                "99968*N+64*fdiv(32*N+63,64)",
                "64*N",
                "1984*N+64*fdiv(16*N+63,64)",
                "128"
            ]
        );
    }

    #[test]
    fn many_tensors_are_packed_in_few_attempts() {
        let n = 10_000;
        let lives: Vec<Life> = (0..n).map(|i| (i, (i + 1 + i % 7 * (i % 31)).min(n))).collect();
        let sizes: Vec<i64> = (0..n as i64).map(|i| 64 * (1 + i * 7919 % 1000)).collect();
        let (at, end) = packed(&lives, &sizes);
        let least = in_use(&lives, &sizes).into_iter().max().expect("steps");
        assert!(end < least * 2, "{end} of at least {least}");
        assert!(at.iter().all(|at| *at >= 0));
    }

    #[test]
    fn results_take_over_dying_operands() {
        let mut g = Graph::new("softmax");
        let x = g.add_input("x", Fact::new(DType::F32, [Dim::from(64i64), Dim::from(64i64)]));
        let w = g.add_weight(
            "",
            cameo_ir::Tensor::f32(&[64, 64], (0..64 * 64).map(|i| (i % 7) as f32)),
        );
        let logits = g.apply("MatMul", &[], &[x, w]).expect("legal");
        // Softmax may write where the logits were.
        let p = g.apply("Softmax", &[], &[logits]).expect("legal");
        let y = g.apply("MatMul", &[], &[w, p]).expect("legal");
        g.add_output("y", y);
        let p = crate::partition(&g, &crate::targets::x86_64::V4, crate::Choices::default()).expect("compiles");
        let lives = lifetimes(&p);
        let owner = owners(&p, &lives);
        assert!((0..owner.len()).any(|i| owner[i] != i));
    }
}
