//! Elementwise nests that read along one iterator and write along another, such as transposes: square tiles are read row
//! by row, transposed in registers, and written column by column. See [`cameo_kernel::nest::across`].

use cameo_ir::Dim;
use cameo_ir::structured::ExprId;
use cameo_kernel::nest::Across;
use cameo_kernel::program::Nest;

use super::body::{Frame, KernelCx, Lanes, walk};
use super::nest::shares;
use super::{Builder, Cmp, Val};

/// Renders the nest for share `part` of `parts`.
pub fn emit(b: &Builder, cx: &KernelCx, nest: &Nest, a: &Across, lanes: u32, part: Val, parts: Val) {
    let v = nest.outer.len() - 1;
    let others: Vec<usize> = (0..v).filter(|i| *i != a.from).collect();
    let top = Frame::new(b, cx, vec![], None);
    let (height, width) = (top.dim(&nest.outer[a.from]), top.dim(&nest.outer[v]));
    let (zero, l) = (b.i64(0), b.i64(i64::from(lanes)));
    let blocks = b.div_ceil(height, l);
    let rows = b.mul(top.dim(&Dim::product(others.iter().map(|i| &nest.outer[*i]))), blocks);
    shares(b, rows, width, lanes, (part, parts), |b, row, (lo, hi)| {
        let mut iters = vec![zero; v + 1];
        iters[a.from] = b.mul(b.rem_u(row, blocks), l);
        walk(b, cx, b.div_u(row, blocks), &others, &nest.outer, &mut iters);
        let tile = |b: &Builder, at: Val, whole: bool| {
            let mut iters = iters.clone();
            iters[v] = at;
            square(b, cx, nest, a, lanes, &iters, (height, hi), whole);
        };
        let high = b.cmp(Cmp::Le, b.add(iters[a.from], l), height);
        let whole = b.select(high, b.add(lo, b.mul(b.div_u(b.sub(hi, lo), l), l)), lo);
        b.for_each(lo, whole, l, |b, at| tile(b, at, true));
        b.for_each(whole, hi, l, |b, at| tile(b, at, false));
    });
}

/// One tile from `iters` on; one that is not `whole` ends where the iterators do.
fn square(
    b: &Builder,
    cx: &KernelCx,
    nest: &Nest,
    a: &Across,
    lanes: u32,
    iters: &[Val],
    (height, width): (Val, Val),
    whole: bool,
) {
    let (v, w) = (nest.outer.len() - 1, a.from);
    let along = |iter: usize, end: Val| Lanes {
        iter,
        count: lanes,
        mask: (!whole).then(|| b.mask_first(b.sub(end, iters[iter]), lanes)),
    };
    let (rows, columns) = (along(w, height), along(v, width));
    let moved = |i: usize, by: u32, end: Val| {
        let mut iters = iters.to_vec();
        let at = b.add(iters[i], b.i64(i64::from(by)));
        // What is read past the end is not written.
        iters[i] = if whole { at } else { b.min(at, b.sub(end, b.i64(1))) };
        iters
    };
    let squares: Vec<(ExprId, Vec<Val>)> = (a.loads.iter())
        .map(|e| {
            let row = |u: u32| {
                let f = Frame::new(b, cx, moved(v, u, width), Some(rows));
                f.spread(f.eval(*e))
            };
            (*e, b.transpose(&(0..lanes).map(row).collect::<Vec<_>>()))
        })
        .collect();
    for j in 0..lanes {
        let write = |b: &Builder| {
            let mut f = Frame::new(b, cx, moved(w, j, height), Some(columns));
            f.given.extend(squares.iter().map(|(e, s)| (*e, s[j as usize])));
            for s in &nest.stores {
                f.store(s.buffer, &s.index, s.root);
            }
        };
        if whole {
            write(b);
        } else {
            let here = b.cmp(Cmp::Lt, b.add(iters[w], b.i64(i64::from(j))), height);
            b.when(here, write);
        }
    }
}
