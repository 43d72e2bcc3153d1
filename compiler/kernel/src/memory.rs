//! The memory plan: where in the arena each tensor lives, by lifetimes.
//!
//! Invariant: two tensors that are alive at the same step do not overlap. Without symbols offsets are numbers found by
//! best fit, largest first. With symbols each tensor gets a slot, tensors with disjoint lifetimes share one, and a
//! slot's size is the maximum of its tensors' sizes: offsets are dims, evaluated once per shape. A result takes over the
//! memory of an operand that dies in the same step when every element is read where, and before, it is written.

use cameo_ir::{Bounds, Dim};

use crate::program::{Place, Program};
use crate::select::nominal;

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

/// What needs a place: storages with the steps in which their memory is in use, by themselves or by those that take it over,
/// and its size. Also the owner of each storage.
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
        .filter_map(|(i, _)| Some((i, lives[i]?, aligned(&p.bytes(i)))))
        .collect();
    (items, owner)
}

/// The most bytes that are in use at one step, at the sizes that `value` gives: no plan can do with fewer.
pub fn alive_bytes(p: &Program, value: &dyn Fn(&Dim) -> Option<i64>) -> Option<i64> {
    // What each step begins to use, and what is no longer used at it.
    let mut change = vec![0i64; p.steps.len() + 1];
    for (_, (from, to), size) in items(p).0 {
        let size = value(&size)?;
        change[from] = change[from].checked_add(size)?;
        change[to + 1] = change[to + 1].checked_sub(size)?;
    }
    let (mut alive, mut most) = (0i64, 0);
    for by in change {
        alive = alive.checked_add(by)?;
        most = most.max(alive);
    }
    Some(most)
}

/// Plans the arena of a program.
pub fn plan(p: &Program) -> MemoryPlan {
    let (mut items, owner) = items(p);
    // Largest first; ties by id keep it deterministic.
    items.sort_by_key(|(i, _, size)| (std::cmp::Reverse(nominal(size)), *i));
    let mut offsets = vec![None; p.storages.len()];
    let overlap = |a: Life, b: Life| a.0 <= b.1 && b.0 <= a.1;
    if items.iter().all(|(_, _, s)| s.as_const().is_some()) {
        let mut placed: Vec<(Life, i64, i64)> = vec![];
        let mut end = 0;
        for (i, life, size) in items {
            let size = size.as_const().unwrap_or(0);
            let mut busy: Vec<(i64, i64)> = placed
                .iter()
                .filter(|(l, _, _)| overlap(*l, life))
                .map(|(_, at, s)| (*at, at + s))
                .collect();
            busy.sort_unstable();
            let (mut at, mut best) = (0, None);
            for (from, to) in busy {
                let gap = from - at;
                if gap >= size && best.is_none_or(|(g, _)| gap < g) {
                    best = Some((gap, at));
                }
                at = at.max(to);
            }
            let at = best.map_or(at, |(_, at)| at);
            placed.push((life, at, size));
            end = end.max(at + size);
            offsets[i] = Some(Dim::from(at));
        }
        inherit(&mut offsets, &owner);
        return MemoryPlan {
            offsets,
            size: Dim::from(end),
        };
    }
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
    let larger = |a: &Dim, b: &Dim| {
        if bounds.le(b, a) {
            a.clone()
        } else if bounds.le(a, b) {
            b.clone()
        } else {
            a.maximum(b)
        }
    };
    let mut slots: Vec<(Dim, Vec<Life>, Vec<usize>)> = vec![];
    for (i, life, size) in items {
        let free = slots
            .iter()
            .position(|(_, lives, _)| lives.iter().all(|l| !overlap(*l, life)));
        match free {
            Some(s) => {
                slots[s].0 = larger(&slots[s].0, &size);
                slots[s].1.push(life);
                slots[s].2.push(i);
            }
            None => slots.push((size, vec![life], vec![i])),
        }
    }
    let mut at = Dim::ZERO;
    for (size, _, members) in slots {
        for i in members {
            offsets[i] = Some(at.clone());
        }
        at = at + size;
    }
    inherit(&mut offsets, &owner);
    MemoryPlan { offsets, size: at }
}

fn inherit(offsets: &mut [Option<Dim>], owner: &[usize]) {
    for i in 0..owner.len() {
        if owner[i] != i {
            offsets[i] = offsets[owner[i]].clone();
        }
    }
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
