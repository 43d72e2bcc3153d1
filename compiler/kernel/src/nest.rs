//! Scheduling of loop nests: merge iterators that walk memory together, choose the vector iterator, choose temporaries.

use cameo_ir::structured::{Binary, Body, Expr, ExprId, Unary};
use cameo_ir::{Atom, Bounds, Dim, Sym};

use crate::program::{Buffer, Nest, RED, Store};
use crate::select::nominal;

/// Completes a nest whose body, reductions and stores are set.
pub fn finish_nest(mut nest: Nest, buffers: &[Buffer]) -> Nest {
    let roots: Vec<ExprId> = nest
        .stores
        .iter()
        .map(|s| s.root)
        .chain(nest.reductions.iter().map(|r| r.root))
        .collect();
    let (body, map) = nest.body.rebuild(&roots, &Dim::clone);
    nest.body = body;
    remap(&mut nest, &map);
    drop_ones(&mut nest);
    merge(&mut nest, buffers);
    nest.schedule.vector = choose_vector(&mut nest, buffers);
    nest.temps = choose_temps(&nest);
    nest
}

fn remap(nest: &mut Nest, map: &[ExprId]) {
    nest.stores.iter_mut().for_each(|s| s.root = map[s.root as usize]);
    nest.reductions.iter_mut().for_each(|r| r.root = map[r.root as usize]);
}

/// Replaces iterators; `sub[i]` stands for iterator `i`.
fn substitute(nest: &mut Nest, sub: &[Dim], outer: Vec<Dim>, row: Vec<Dim>) {
    let roots: Vec<ExprId> = nest
        .stores
        .iter()
        .map(|s| s.root)
        .chain(nest.reductions.iter().map(|r| r.root))
        .collect();
    let extents: Vec<Dim> = outer.iter().chain(&row).cloned().collect();
    let bounds = Bounds::of(&extents);
    let f = |d: &Dim| bounds.simplify(&d.at(sub));
    let (body, map) = nest.body.rebuild(&roots, &f);
    nest.body = body;
    for s in &mut nest.stores {
        s.index.iter_mut().for_each(|d| *d = f(d));
    }
    remap(nest, &map);
    nest.outer = outer;
    nest.row = row;
}

/// Iterators of extent 1 are the constant 0. A reduction keeps at least one row iterator.
fn drop_ones(nest: &mut Nest) {
    let n = nest.outer.len();
    let all: Vec<Dim> = nest.outer.iter().chain(&nest.row).cloned().collect();
    let keep_row = nest.row.iter().all(Dim::is_one).then_some(n);
    let keep: Vec<bool> = all
        .iter()
        .enumerate()
        .map(|(i, d)| !d.is_one() || Some(i) == keep_row)
        .collect();
    if keep.iter().all(|k| *k) {
        return;
    }
    let mut next = 0;
    let sub: Vec<Dim> = keep
        .iter()
        .map(|k| {
            next += usize::from(*k);
            if *k { Dim::iter(next - 1) } else { Dim::ZERO }
        })
        .collect();
    let pick = |r: std::ops::Range<usize>| {
        all[r.clone()]
            .iter()
            .zip(&keep[r])
            .filter(|(_, k)| **k)
            .map(|(d, _)| d.clone())
            .collect()
    };
    let (outer, row) = (pick(0..n), pick(n..all.len()));
    substitute(nest, &sub, outer, row);
}

/// Every linear address of the nest, and every other dim that looks at iterators.
fn addresses(nest: &Nest, buffers: &[Buffer]) -> (Vec<Dim>, Vec<Dim>) {
    let extents: Vec<Dim> = nest.outer.iter().chain(&nest.row).cloned().collect();
    let bounds = Bounds::of(&extents);
    let (mut linear, mut other) = (vec![], vec![]);
    for e in nest.body.nodes() {
        match e {
            Expr::Load { operand, .. } if *operand >= RED => {}
            Expr::Load {
                operand, index, fill, ..
            } => {
                linear.push(bounds.simplify(&buffers[*operand as usize].offset(index)));
                if fill.is_some() {
                    other.extend(
                        guards(&buffers[*operand as usize], index, &extents)
                            .into_iter()
                            .map(|(d, _)| d),
                    );
                }
            }
            Expr::Index(d) | Expr::CheckedIndex(_, d) => other.push(d.clone()),
            _ => {}
        }
    }
    for s in &nest.stores {
        linear.push(bounds.simplify(&buffers[s.buffer].offset(&s.index)));
    }
    (linear, other)
}

/// Coordinates that are not provably inside the buffer, with the extents they have to stay in.
pub fn guards(buffer: &Buffer, index: &[Dim], extents: &[Dim]) -> Vec<(Dim, Dim)> {
    let b = Bounds::of(extents);
    index
        .iter()
        .zip(&buffer.extents)
        .filter(|(i, e)| !(b.le(&Dim::ZERO, i) && b.le(i, &((*e).clone() - Dim::ONE))))
        .map(|(i, e)| (i.clone(), e.clone()))
        .collect()
}

/// Whether iterators `i` and `i + 1` step through all memory like one iterator.
fn merges(linear: &[Dim], other: &[Dim], i: usize, inner: &Dim) -> bool {
    let (a, b) = (Sym::Iter(i as u32), Sym::Iter(i as u32 + 1));
    other.iter().all(|d| !d.uses(&a) && !d.uses(&b))
        && linear.iter().all(|d| match (d.affine_in(&a), d.affine_in(&b)) {
            (Some((ca, _)), Some((cb, _))) => ca == cb * inner.clone(),
            _ => false,
        })
}

/// How far from that in the first lane the others' values of a dim are, when that is the same for each vector of `lanes`
/// consecutive values of an iterator that starts at a multiple of `lanes`, and less than `lanes`: `i/2`, `4*(i/4)+1`.
#[must_use]
pub fn lane_offsets(d: &Dim, iter: usize, lanes: usize) -> Option<Vec<i64>> {
    let s = Sym::Iter(iter as u32);
    let mut divided = false;
    for (monomial, _) in d.terms() {
        divided |= monomial.iter().any(|a| matches!(a, Atom::FloorDiv(x, _) if x.uses(&s)));
    }
    if !divided {
        return None;
    }
    let at = |lane: usize| {
        let value = Dim::iter(iter) * Dim::from(lanes) + Dim::from(lane);
        d.subst(&|x: &Sym| (*x == s).then(|| value.clone()))
    };
    let first = at(0);
    let offset = |lane: usize| {
        (at(lane) - first.clone())
            .as_const()
            .filter(|o| (0..lanes as i64).contains(o))
    };
    (0..lanes).map(offset).collect()
}

/// Makes one iterator of each run of outer and of row iterators that step through all memory like one.
fn merge(nest: &mut Nest, buffers: &[Buffer]) {
    let (n, (linear, other)) = (nest.outer.len(), addresses(nest, buffers));
    let all: Vec<Dim> = nest.outer.iter().chain(&nest.row).cloned().collect();
    let (mut outer, mut row, mut sub) = (vec![], vec![], vec![]);
    let mut first = 0;
    while first < all.len() {
        let goes_on = |i: usize| i + 1 != n && i + 1 < all.len() && merges(&linear, &other, i, &all[i + 1]);
        let last = (first..).find(|i| !goes_on(*i)).unwrap_or(first);
        // Each is a digit of the one: divisions of divisions, as merging two at a time makes them, grow out of hand where
        // the extents are sums.
        let it = Dim::iter(outer.len() + row.len());
        let quotients: Vec<Dim> = (first..=last)
            .map(|i| it.floor_div(&Dim::product(&all[i + 1..=last])))
            .collect();
        sub.push(quotients[0].clone());
        let rest = quotients.windows(2).zip(&all[first + 1..=last]);
        sub.extend(rest.map(|(q, extent)| q[1].clone() - extent.clone() * q[0].clone()));
        let merged = Dim::product(&all[first..=last]);
        if first < n { &mut outer } else { &mut row }.push(merged);
        first = last + 1;
    }
    if outer.len() + row.len() < all.len() {
        substitute(nest, &sub, outer, row);
    }
}

/// The iterator along which memory is consecutive most often; an outer one is moved last.
fn choose_vector(nest: &mut Nest, buffers: &[Buffer]) -> Option<usize> {
    let n = nest.outer.len();
    let (linear, other) = addresses(nest, buffers);
    let extents: Vec<Dim> = nest.outer.iter().chain(&nest.row).cloned().collect();
    let bounds = Bounds::of(&extents);
    let score = |i: usize| -> i64 {
        let s = Sym::Iter(i as u32);
        let mut total = 0;
        for d in &linear {
            total += match d.affine_in(&s) {
                Some((c, _)) if c.is_one() => 4,
                Some((c, _)) if c.is_zero() => 1,
                // Loaded at once, then moved to their lanes.
                _ if lane_offsets(d, i, 4).is_some() => 2,
                // Gathered lane by lane.
                _ => -4,
            };
        }
        // Written lane by lane, which takes longer still.
        for s in &nest.stores {
            let at = bounds.simplify(&buffers[s.buffer].offset(&s.index));
            let apart = at
                .affine_in(&Sym::Iter(i as u32))
                .is_none_or(|(c, _)| !c.is_one() && !c.is_zero());
            total -= i64::from(apart);
        }
        // A guard that differs from lane to lane makes every access masked.
        total -= other.iter().filter(|d| d.uses(&s)).count() as i64;
        // Short vectors waste lanes.
        if nominal(&extents[i]) < 4 { total - 8 } else { total }
    };
    let mut best: Option<(i64, usize)> = None;
    let candidates = (n..n + nest.row.len()).rev().take(1).chain((0..n).rev());
    for i in candidates {
        let s = score(i);
        if best.is_none_or(|(b, _)| s > b) {
            best = Some((s, i));
        }
    }
    let (_, i) = best?;
    if i >= n {
        return Some(i);
    }
    // The vector iterator becomes the innermost outer one.
    let mut sequence: Vec<usize> = (0..n).filter(|j| *j != i).collect();
    sequence.push(i);
    let mut sub = vec![Dim::ZERO; extents.len()];
    for (new, old) in sequence.iter().enumerate() {
        sub[*old] = Dim::iter(new);
    }
    for (j, s) in sub.iter_mut().enumerate().skip(n) {
        *s = Dim::iter(j);
    }
    let outer = sequence.iter().map(|j| nest.outer[*j].clone()).collect();
    let row = nest.row.clone();
    substitute(nest, &sub, outer, row);
    Some(n - 1)
}

/// An elementwise nest that writes along its lanes but reads along another iterator.
pub struct Across {
    pub from: usize,
    /// The loads that are along it.
    pub loads: Vec<ExprId>,
}

/// Shorter iterators leave most of a square tile empty.
const SHORT: i64 = 8;

#[must_use]
pub fn across(nest: &Nest, buffers: &[Buffer]) -> Option<Across> {
    let n = nest.outer.len();
    let v = nest.schedule.vector.filter(|v| *v + 1 == n)?;
    if !nest.row.is_empty() || nominal(&nest.outer[v]) < SHORT {
        return None;
    }
    let extents = &nest.outer;
    let bounds = Bounds::of(extents);
    let unit = |d: &Dim, i: usize| d.affine_in(&Sym::Iter(i as u32)).is_some_and(|(c, _)| c.is_one());
    // Loads of 32-bit numbers that step by more than one along the lanes.
    let apart = nest.body.nodes().iter().enumerate().filter_map(|(e, x)| match x {
        Expr::Load {
            operand, index, dtype, ..
        } if *operand < RED && dtype.size() == 4 => {
            let offset = bounds.simplify(&buffers[*operand as usize].offset(index));
            let (step, _) = offset.affine_in(&Sym::Iter(v as u32))?;
            (!offset.has_data() && !step.is_zero() && !step.is_one()).then_some((e as ExprId, offset))
        }
        _ => None,
    });
    let apart: Vec<(ExprId, Dim)> = apart.collect();
    let is_along = |i: &usize| nominal(&extents[*i]) >= SHORT && apart.iter().any(|(_, d)| unit(d, *i));
    let from = (0..v).rev().find(is_along)?;
    let loads = apart.iter().filter(|(_, d)| unit(d, from)).map(|(e, _)| *e).collect();
    Some(Across { from, loads })
}

/// For each node: in which stage its value is first there, and whether it depends on row iterators.
///
/// Stage 0 needs no reduction; stage `s + 1` needs the results of reductions of stage `s`.
pub struct Stages {
    pub level: Vec<usize>,
    pub full: Vec<bool>,
    /// By reduction: the stage whose loop computes it.
    pub of_reduction: Vec<usize>,
    /// By store: whether it writes along the row, be it one value everywhere.
    pub in_row: Vec<bool>,
}

pub fn stages(nest: &Nest) -> Stages {
    let n = nest.outer.len();
    let nodes = nest.body.nodes();
    let (mut level, mut full) = (vec![0; nodes.len()], vec![false; nodes.len()]);
    let mut of_reduction = vec![0; nest.reductions.len()];
    let row = |d: &Dim| (n..n + nest.row.len()).any(|i| d.uses(&Sym::Iter(i as u32)));
    // Operands come first in a body, but a reduction's root may come after a use of nothing of it: two passes settle
    // chains of reductions because each reduction's root precedes the load of its result.
    for i in 0..nodes.len() {
        nest.body.operands(i as ExprId, &mut |o| {
            level[i] = level[i].max(level[o as usize]);
            full[i] |= full[o as usize];
        });
        match &nodes[i] {
            Expr::Load { operand, .. } if *operand >= RED => {
                let r = (*operand - RED) as usize;
                of_reduction[r] = level[nest.reductions[r].root as usize];
                level[i] = of_reduction[r] + 1;
            }
            Expr::Load { index, .. } => full[i] |= index.iter().any(&row),
            Expr::Index(d) => full[i] |= row(d),
            _ => {}
        }
    }
    for (r, red) in nest.reductions.iter().enumerate() {
        of_reduction[r] = level[red.root as usize];
    }
    let in_row = |s: &Store| full[s.root as usize] || s.index.iter().any(&row);
    Stages {
        in_row: nest.stores.iter().map(in_row).collect(),
        level,
        full,
        of_reduction,
    }
}

/// Nodes worth keeping: over the row, needed in several stages, and dear.
pub(crate) fn choose_temps(nest: &Nest) -> Vec<ExprId> {
    if nest.row.is_empty() {
        return vec![];
    }
    let s = stages(nest);
    let nodes = nest.body.nodes();
    let mut used = vec![0u64; nodes.len()];
    let roots = nest
        .reductions
        .iter()
        .enumerate()
        .map(|(r, red)| (red.root, s.of_reduction[r]));
    let stores = nest
        .stores
        .iter()
        .zip(&s.in_row)
        .filter(|(_, in_row)| **in_row)
        .map(|(st, _)| (st.root, s.level[st.root as usize]));
    for (root, stage) in roots.chain(stores) {
        for (i, live) in nest.body.reachable(&[root]).into_iter().enumerate() {
            if live {
                used[i] |= 1 << stage.min(63);
            }
        }
    }
    let dear = dear(&nest.body);
    let candidate: Vec<bool> = (0..nodes.len())
        .map(|i| s.full[i] && used[i].count_ones() > 1 && dear[i])
        .collect();
    // Only the outermost of nested candidates with the same stages.
    let mut inner = vec![false; nodes.len()];
    for i in (0..nodes.len()).rev() {
        if candidate[i] || inner[i] {
            nest.body
                .operands(i as ExprId, &mut |o| inner[o as usize] |= used[o as usize] == used[i]);
        }
    }
    (0..nodes.len())
        .filter(|i| candidate[*i] && !inner[*i])
        .map(|i| i as ExprId)
        .collect()
}

/// Whether computing a node again costs more than storing and loading it: a function call or division is in it.
fn dear(body: &Body) -> Vec<bool> {
    let mut out = vec![false; body.nodes().len()];
    for (i, e) in body.nodes().iter().enumerate() {
        let mut d = match e {
            Expr::Unary(op, _) => !matches!(
                op,
                Unary::Neg
                    | Unary::Abs
                    | Unary::Not
                    | Unary::BitNot
                    | Unary::IsNan
                    | Unary::IsInf
                    | Unary::Floor
                    | Unary::Ceil
                    | Unary::Round
            ),
            Expr::Binary(op, ..) => matches!(op, Binary::Pow | Binary::Mod | Binary::Rem | Binary::Div),
            Expr::CheckedIndex(..) => true,
            _ => false,
        };
        body.operands(i as ExprId, &mut |o| d |= out[o as usize]);
        out[i] = d;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::KernelBody;
    use crate::targets::x86_64::V4;
    use cameo_ir::{DType, Fact, Graph};

    #[test]
    fn merged_extents_that_are_sums_are_divided_once() {
        // As the sizes of images behind a convolution are.
        let size = |name: &str| Dim::sym(name).floor_div(&Dim::from(2i64)) + Dim::ONE;
        let mut shape: Vec<Dim> = ["N", "C"].map(Dim::sym).to_vec();
        shape.extend(["D", "H", "W"].map(size));
        let mut g = Graph::new("g");
        let x = g.add_input("x", Fact::new(DType::F32, shape.clone()));
        // One number for each image.
        shape[1..].fill(Dim::ONE);
        let y = g.add_input("y", Fact::new(DType::F32, shape));
        let z = g.apply("Add", &[], &[x, y]).expect("legal");
        g.add_output("z", z);
        let p = crate::partition(&g, &V4, crate::Choices::default()).expect("partitions");
        let mut divided = 0;
        p.kernels[0].body.visit_indices(&mut |_, index| {
            for (x, _) in index.iter().flat_map(Dim::floor_divs) {
                let iterates = (0..9).any(|i| x.uses(&Sym::Iter(i)));
                assert!(!iterates || x == Dim::iter(1), "{x}");
                divided += usize::from(iterates);
            }
        });
        let KernelBody::Nest(nest) = &p.kernels[0].body else {
            panic!("no nest: {:?}", p.kernels[0]);
        };
        assert_eq!((p.kernels.len(), nest.outer.len() + nest.row.len()), (1, 2));
        assert!(divided > 0);
    }

    #[test]
    fn lanes_that_share_elements_are_known() {
        let (i, two, four) = (Dim::iter(1), Dim::from(2i64), Dim::from(4i64));
        let base = Dim::iter(0) * Dim::from(7i64);
        let half = base.clone() + i.floor_div(&two);
        assert_eq!(lane_offsets(&half, 1, 8), Some(vec![0, 0, 1, 1, 2, 2, 3, 3]));
        let blocks = i.floor_div(&four) * four.clone() + Dim::iter(2);
        assert_eq!(lane_offsets(&blocks, 1, 8), Some(vec![0, 0, 0, 0, 4, 4, 4, 4]));
        // Every other element is too far; a third of the lanes falls differently into each vector; nothing is divided.
        assert_eq!(lane_offsets(&(i.clone() * two), 1, 8), None);
        assert_eq!(lane_offsets(&i.floor_div(&Dim::from(3i64)), 1, 8), None);
        assert_eq!(lane_offsets(&base, 1, 8), None);
    }
}
