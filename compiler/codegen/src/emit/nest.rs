//! Loop nests as code.
//!
//! The parallel iterators but the vector one are counted through as one range, split evenly over threads. Inside, either
//! the lanes are consecutive values of the last parallel iterator, or of the last row iterator, whose reductions end
//! with a horizontal step. Tails are masked.

use cameo_ir::structured::{Binary, Combine, Expr, ExprId};
use cameo_ir::{Bounds, Dim, Sym};
use cameo_kernel::nest::{Stages, across, guards, stages};
use cameo_kernel::program::Nest;
use cameo_kernel::select::nominal;
use cameo_kernel::window::window;
use std::collections::HashMap;

use super::body::{Frame, KernelCx, Lanes, combine, elem, horizontal, identity, walk};
use super::{Builder, Ty, Val};

/// Sums of a long row that are computed at the same time.
const SUMS: i64 = 4;

/// Rows of at most so many vectors are computed without loops.
const SHORT_ROW: i64 = 8;

/// Row loops of at most this many points are written out: window sizes up to 7x7.
const UNROLL: i64 = 49;

pub(super) struct Emit<'n, 'f> {
    pub nest: &'n Nest,
    pub cx: &'f KernelCx<'f>,
    stages: Stages,
    pub lanes: u32,
    scratch: Val,
}

/// Shares per thread below which the lanes of rows are shared as well.
const SHARES: i64 = 8;

/// Calls `body` with each row of share `part` of `parts`, and with a range of `width` that starts at whole vectors.
pub(super) fn shares(
    b: &Builder,
    rows: Val,
    width: Val,
    lanes: u32,
    (part, parts): (Val, Val),
    body: impl FnOnce(&Builder, Val, (Val, Val)),
) {
    let (one, l) = (b.i64(1), b.i64(i64::from(lanes)));
    let blocks = b.div_ceil(width, l);
    let wanted = b.div_ceil(b.mul(parts, b.i64(SHARES)), b.max(rows, one));
    let wanted = b.select(b.cmp(super::Cmp::Eq, parts, one), one, wanted);
    let chunks = b.max(b.min(wanted, blocks), one);
    let total = b.mul(rows, chunks);
    let first = |i: Val| b.div_u(b.mul(i, total), parts);
    b.for_each(first(part), first(b.add(part, one)), one, |b, unit| {
        let (row, chunk) = (b.div_u(unit, chunks), b.rem_u(unit, chunks));
        let edge = |i: Val| b.mul(b.div_u(b.mul(i, blocks), chunks), l);
        body(b, row, (edge(chunk), b.min(edge(b.add(chunk, one)), width)));
    });
}

/// First element and lanes of the vectors of a row. The last elements are one or two short vectors where they can be:
/// what a masked store leaves alone counts as written to the loads of the next row, when both are in one buffer.
fn pieces(extent: i64, lanes: u32) -> Vec<(i64, u32)> {
    let l = i64::from(lanes);
    let mut all: Vec<(i64, u32)> = (0..extent / l).map(|i| (i * l, lanes)).collect();
    let mut left = (extent % l) as u32;
    if left.count_ones() > 2 {
        all.push((extent - i64::from(left), lanes));
        return all;
    }
    while left > 0 {
        let count = 1 << left.ilog2();
        all.push((extent - i64::from(left), count));
        left -= count;
    }
    all
}

/// What of a nest is computed: half-open ranges of the counted iterators and, when lanes are along a parallel one, of that.
pub struct Part {
    pub counted: (Val, Val),
    pub lanes: Option<(Val, Val)>,
}

/// Renders the nest for share `part` of `parts`.
pub fn emit(b: &Builder, cx: &KernelCx, nest: &Nest, lanes: u32, part: Val, parts: Val, scratch: Val) {
    if let Some(w) = window(nest, cx.buffers) {
        super::window::emit(b, cx, nest, &w, lanes, part, parts);
        return;
    }
    if let Some(a) = across(nest, cx.buffers) {
        super::across::emit(b, cx, nest, &a, lanes, part, parts);
        return;
    }
    let n = nest.outer.len();
    let vector = nest.schedule.vector.filter(|v| *v < n);
    let counted: Vec<usize> = (0..n).filter(|i| Some(*i) != vector).collect();
    let top = Frame::new(b, cx, vec![], None);
    let rows = Dim::product(counted.iter().map(|i| &nest.outer[*i]));
    let zero = b.i64(0);
    // A single long row is split along its lanes.
    let split_lanes = vector.is_some() && nominal(&rows) < 8;
    let share = |b: &Builder, total: Val| {
        let lo = b.div_u(b.mul(part, total), parts);
        let hi = b.div_u(b.mul(b.add(part, b.i64(1)), total), parts);
        (lo, hi)
    };
    let total = top.dim(&rows);
    let (lo, hi) = if split_lanes { (zero, total) } else { share(b, total) };
    let lane_range = vector.map(|v| {
        let extent = top.dim(&nest.outer[v]);
        if !split_lanes {
            return (zero, extent);
        }
        let l = b.i64(i64::from(lanes));
        let blocks = b.div_u(b.add(extent, b.i64(i64::from(lanes) - 1)), l);
        let (lo, hi) = share(b, blocks);
        (b.mul(lo, l), b.min(b.mul(hi, l), extent))
    });
    let part = Part {
        counted: (lo, hi),
        lanes: lane_range,
    };
    emit_part(b, cx, nest, lanes, &part, scratch);
}

/// Renders one part of the nest.
pub fn emit_part(b: &Builder, cx: &KernelCx, nest: &Nest, lanes: u32, part: &Part, scratch: Val) {
    let e = Emit::new(cx, nest, lanes, scratch);
    let n = nest.outer.len();
    let vector = nest.schedule.vector.filter(|v| *v < n);
    let counted: Vec<usize> = (0..n).filter(|i| Some(*i) != vector).collect();
    let (zero, one) = (b.i64(0), b.i64(1));
    b.for_each(part.counted.0, part.counted.1, one, |b, w| {
        let mut iters = vec![zero; n + nest.row.len()];
        walk(b, cx, w, &counted, &nest.outer, &mut iters);
        match (vector, part.lanes) {
            (Some(v), Some((lo, hi))) => {
                let l = i64::from(lanes);
                // The part of the range that fills whole vectors.
                let whole = b.add(lo, b.mul(b.div_u(b.sub(hi, lo), b.i64(l)), b.i64(l)));
                b.for_each(lo, whole, b.i64(l), |b, at| {
                    let mut iters = iters.clone();
                    iters[v] = at;
                    e.point(
                        b,
                        &iters,
                        Some(Lanes {
                            iter: v,
                            count: lanes,
                            mask: None,
                        }),
                    );
                });
                let tail = b.cmp(super::Cmp::Lt, whole, hi);
                b.when(tail, |b| {
                    let mut iters = iters.clone();
                    iters[v] = whole;
                    let mask = b.mask_first(b.sub(hi, whole), lanes);
                    e.point(
                        b,
                        &iters,
                        Some(Lanes {
                            iter: v,
                            count: lanes,
                            mask: Some(mask),
                        }),
                    );
                });
            }
            _ => e.point(b, &iters, None),
        }
    });
}

impl<'n, 'f> Emit<'n, 'f> {
    pub fn new(cx: &'f KernelCx<'f>, nest: &'n Nest, lanes: u32, scratch: Val) -> Self {
        Self {
            nest,
            cx,
            stages: stages(nest),
            lanes,
            scratch,
        }
    }
}

impl Emit<'_, '_> {
    fn frame<'x, 'c>(&'x self, b: &'x Builder<'c>, iters: Vec<Val>, lanes: Option<Lanes>) -> Frame<'x, 'c> {
        Frame::new(b, self.cx, iters, lanes)
    }

    /// Everything for one point of the parallel iterators (or one vector of points).
    fn point(&self, b: &Builder, iters: &[Val], lanes: Option<Lanes>) {
        match self.interior(b, iters, lanes) {
            None => self.stages_at(b, iters, lanes, true),
            Some(inside) => {
                b.if_(
                    inside,
                    &[],
                    |b| {
                        self.stages_at(b, iters, lanes, false);
                        vec![]
                    },
                    |b| {
                        self.stages_at(b, iters, lanes, true);
                        vec![]
                    },
                );
            }
        }
    }

    /// A condition under which no read with `fill` leaves its buffer, whatever the row iterators; `None` when there is
    /// nothing to check or it differs from lane to lane.
    fn interior(&self, b: &Builder, iters: &[Val], lanes: Option<Lanes>) -> Option<Val> {
        let n = self.nest.outer.len();
        if self.nest.row.is_empty() {
            return None;
        }
        let bounds = Bounds::of(&self.cx.extents);
        let f = self.frame(b, iters.to_vec(), None);
        let mut all: Option<Val> = None;
        for e in self.nest.body.nodes() {
            let Expr::Load {
                operand,
                index,
                fill: Some(_),
                ..
            } = e
            else {
                continue;
            };
            for (d, extent) in guards(&self.cx.buffers[*operand as usize], index, &self.cx.extents) {
                // Where data says what is read, each point has a place of its own.
                if d.has_data() {
                    return None;
                }
                let (mut low, mut high) = (d.clone(), d);
                for (i, e) in self.nest.row.iter().enumerate() {
                    let s = Sym::Iter((n + i) as u32);
                    let (c, _) = low.affine_in(&s)?;
                    if bounds.range(&c).0 < 0 {
                        return None;
                    }
                    let at = |end: Dim| move |x: &Sym| (*x == s).then(|| end.clone());
                    low = low.subst(&at.clone()(Dim::ZERO));
                    high = high.subst(&at(e.clone() - Dim::ONE));
                }
                if lanes.is_some_and(|l| low.uses(&Sym::Iter(l.iter as u32))) {
                    return None;
                }
                let ok = b.and(
                    b.cmp(super::Cmp::Ge, f.dim(&low), b.i64(0)),
                    b.cmp(super::Cmp::Lt, f.dim(&high), f.dim(&extent)),
                );
                all = Some(all.map_or(ok, |a| b.and(a, ok)));
            }
        }
        all
    }

    fn stages_at(&self, b: &Builder, iters: &[Val], lanes: Option<Lanes>, guarded: bool) {
        let nest = self.nest;
        let stages = self.row_stages();
        let mut reduced: Vec<Option<Val>> = vec![None; nest.reductions.len()];
        if let Some(extent) = self.short_row() {
            reduced = self.short(b, iters, extent, guarded, &stages);
        } else {
            for stage in &stages {
                let results = self.run_stage(b, iters, lanes, guarded, stage, &reduced);
                for (r, v) in stage.reds.iter().zip(results) {
                    reduced[*r] = Some(v);
                }
            }
        }
        let mut f = self.frame(b, iters.to_vec(), lanes);
        f.guarded = guarded;
        f.reduced = reduced;
        for (s, in_row) in nest.stores.iter().zip(&self.stages.in_row) {
            if nest.row.is_empty() || !in_row {
                f.store(s.buffer, &s.index, s.root);
            }
        }
    }

    /// The passes over the row, in order.
    fn row_stages(&self) -> Vec<Stage> {
        let nest = self.nest;
        if nest.row.is_empty() {
            return vec![];
        }
        let level = |root: ExprId| self.stages.level[root as usize];
        let of_store = |s: usize| level(nest.stores[s].root);
        let stores: Vec<usize> = (0..nest.stores.len()).filter(|s| self.stages.in_row[*s]).collect();
        let reductions = 0..nest.reductions.len();
        let last = reductions.clone().map(|r| self.stages.of_reduction[r]);
        let last = last.chain(stores.iter().map(|s| of_store(*s))).max().unwrap_or(0);
        let mut kept: Vec<ExprId> = vec![];
        let mut all = vec![];
        for stage in 0..=last {
            let reds: Vec<usize> = reductions
                .clone()
                .filter(|r| self.stages.of_reduction[*r] == stage)
                .collect();
            let stores: Vec<usize> = stores.iter().copied().filter(|s| of_store(*s) == stage).collect();
            if reds.is_empty() && stores.is_empty() {
                continue;
            }
            // Values of this stage that later stages want.
            let roots = reds.iter().map(|r| nest.reductions[*r].root);
            let roots: Vec<ExprId> = roots.chain(stores.iter().map(|s| nest.stores[*s].root)).collect();
            let live = nest.body.reachable(&roots);
            let wanted = |t: &ExprId| live[*t as usize] && !kept.contains(t);
            let keep: Vec<ExprId> = nest.temps.iter().copied().filter(wanted).collect();
            all.push(Stage {
                reds,
                stores,
                keep: keep.clone(),
                kept: kept.clone(),
            });
            kept.extend(keep);
        }
        all
    }

    /// One pass over the row: returns the results of its reductions.
    fn run_stage(
        &self,
        b: &Builder,
        iters: &[Val],
        lanes: Option<Lanes>,
        guarded: bool,
        stage: &Stage,
        reduced: &[Option<Val>],
    ) -> Vec<Val> {
        let nest = self.nest;
        let n = nest.outer.len();
        let along_row = nest.schedule.vector.is_some_and(|v| v >= n);
        let width = if along_row {
            self.lanes
        } else {
            lanes.map_or(0, |l| l.count)
        };
        let inits: Vec<Val> = stage
            .reds
            .iter()
            .map(|r| {
                let red = &nest.reductions[*r];
                b.splat(identity(b, red.combine, red.dtype), width)
            })
            .collect();
        let at = RowPoint {
            stage,
            guarded,
            reduced,
        };
        let constant: Option<Vec<i64>> = nest.row.iter().map(Dim::as_const).collect();
        // An empty window has no first point to write out.
        let small = constant.filter(|c| !along_row && (1..=UNROLL).contains(&c.iter().product::<i64>()));
        let out = if let Some(extents) = small {
            let mut acc = inits;
            let mut index = vec![0; extents.len()];
            'walk: loop {
                let mut iters = iters.to_vec();
                for (i, x) in index.iter().enumerate() {
                    iters[n + i] = b.i64(*x);
                }
                acc = self.row_point(b, iters, lanes, &at, &acc);
                let mut d = extents.len();
                loop {
                    if d == 0 {
                        break 'walk;
                    }
                    d -= 1;
                    index[d] += 1;
                    if index[d] < extents[d] {
                        break;
                    }
                    index[d] = 0;
                }
            }
            acc
        } else {
            self.row_loops(b, iters, lanes, &at, 0, &inits)
        };
        if !along_row {
            return out;
        }
        stage
            .reds
            .iter()
            .zip(out)
            .map(|(r, v)| {
                let red = &nest.reductions[*r];
                horizontal(b, red.combine, red.dtype, v)
            })
            .collect()
    }

    fn row_loops(
        &self,
        b: &Builder,
        iters: &[Val],
        lanes: Option<Lanes>,
        at: &RowPoint,
        d: usize,
        acc: &[Val],
    ) -> Vec<Val> {
        let nest = self.nest;
        let n = nest.outer.len();
        let i = n + d;
        let (zero, one) = (b.i64(0), b.i64(1));
        let extent = self.frame(b, vec![], None).dim(&nest.row[d]);
        let last = d + 1 == nest.row.len();
        if !last {
            return b.for_(zero, extent, one, acc, |b, iv, acc| {
                let mut iters = iters.to_vec();
                iters[i] = iv;
                self.row_loops(b, &iters, lanes, at, d + 1, acc)
            });
        }
        if nest.schedule.vector != Some(i) {
            return b.for_(zero, extent, one, acc, |b, iv, acc| {
                let mut iters = iters.to_vec();
                iters[i] = iv;
                self.row_point(b, iters, lanes, at, acc)
            });
        }
        let l = i64::from(self.lanes);
        let whole = b.mul(b.div_u(extent, b.i64(l)), b.i64(l));
        let vector = |b: &Builder, first: Val, acc: &[Val]| {
            let mut iters = iters.to_vec();
            iters[i] = first;
            let lanes = Lanes {
                iter: i,
                count: self.lanes,
                mask: None,
            };
            self.row_point(b, iters, Some(lanes), at, acc)
        };
        let (mut start, mut acc) = (zero, acc.to_vec());
        if !acc.is_empty() {
            // The terms of one sum wait for each other: several sums, added up in the end.
            let count = acc.len();
            let reds = || at.stage.reds.iter().map(|r| &nest.reductions[*r]);
            let identities = reds().map(|r| b.splat(identity(b, r.combine, r.dtype), self.lanes));
            let identities: Vec<Val> = identities.collect();
            let several: Vec<Val> = (1..SUMS).fold(acc, |all, _| [all, identities.clone()].concat());
            let step = b.i64(SUMS * l);
            start = b.mul(b.div_u(extent, step), step);
            let several = b.for_(zero, start, step, &several, |b, iv, several| {
                let one = |(u, acc): (usize, &[Val])| vector(b, b.add(iv, b.i64(u as i64 * l)), acc);
                several.chunks(count).enumerate().flat_map(one).collect()
            });
            let join = |x: Vec<Val>, y: &[Val]| -> Vec<Val> {
                let pairs = reds().zip(x.iter().zip(y));
                pairs
                    .map(|(r, (x, y))| combine(b, r.combine, r.dtype, *x, *y))
                    .collect()
            };
            acc = several.chunks(count).skip(1).fold(several[..count].to_vec(), join);
        }
        let acc = b.for_(start, whole, b.i64(l), &acc, |b, iv, acc| vector(b, iv, acc));
        let tys: Vec<Ty> = acc.iter().map(|v| v.ty()).collect();
        let tail = b.cmp(super::Cmp::Lt, whole, extent);
        b.if_(
            tail,
            &tys,
            |b| {
                let mut iters = iters.to_vec();
                iters[i] = whole;
                let mask = b.mask_first(b.sub(extent, whole), self.lanes);
                self.row_point(
                    b,
                    iters,
                    Some(Lanes {
                        iter: i,
                        count: self.lanes,
                        mask: Some(mask),
                    }),
                    at,
                    &acc,
                )
            },
            |_| acc.clone(),
        )
    }

    /// One point (or vector of points) of the row: returns the advanced accumulators.
    pub fn row_point(
        &self,
        b: &Builder,
        iters: Vec<Val>,
        lanes: Option<Lanes>,
        at: &RowPoint,
        acc: &[Val],
    ) -> Vec<Val> {
        let nest = self.nest;
        let mut f = self.frame(b, iters, lanes);
        f.guarded = at.guarded;
        f.reduced = at.reduced.to_vec();
        let slots: HashMap<ExprId, Val> = at
            .stage
            .kept
            .iter()
            .chain(&at.stage.keep)
            .map(|t| (*t, self.slot(&f, *t)))
            .collect();
        let width = lanes.map_or(0, |l| l.count);
        for t in &at.stage.kept {
            let el = elem(nest.body.dtype(*t));
            let v = b.load(slots[t], el, b.i64(0), width);
            f.given.insert(*t, v);
        }
        for t in &at.stage.keep {
            let v = f.eval(*t);
            // Lanes past the tail are scratch too: no mask needed.
            b.store(slots[t], b.i64(0), b.splat(v, width));
        }
        let out = at
            .stage
            .reds
            .iter()
            .zip(acc)
            .map(|(r, a)| self.advance(&f, *r, *a))
            .collect();
        for s in &at.stage.stores {
            let s = &nest.stores[*s];
            f.store(s.buffer, &s.index, s.root);
        }
        out
    }

    /// An accumulator after the frame's point.
    fn advance(&self, f: &Frame, reduction: usize, acc: Val) -> Val {
        let b = f.b;
        let nest = self.nest;
        let red = &nest.reductions[reduction];
        let next = match nest.body.get(red.root) {
            Expr::Binary(Binary::Mul, x, y) if red.combine == Combine::Add && red.dtype.is_float() => {
                let (x, y) = (f.eval(*x), f.eval(*y));
                b.mul_add(b.splat(x, acc.lanes()), b.splat(y, acc.lanes()), acc)
            }
            _ => {
                let v = b.splat(f.eval(red.root), acc.lanes());
                combine(b, red.combine, red.dtype, acc, v)
            }
        };
        // Only along the row do masked lanes belong to other elements of the same result.
        match f.lanes {
            Some(Lanes {
                mask: Some(m), iter, ..
            }) if iter >= nest.outer.len() => b.select(m, next, acc),
            _ => next,
        }
    }

    /// The extent of a row of few vectors, which stays in registers.
    fn short_row(&self) -> Option<i64> {
        let nest = self.nest;
        let [extent] = &nest.row[..] else { return None };
        let along_row = nest.schedule.vector == Some(nest.outer.len());
        let most = SHORT_ROW * i64::from(self.lanes);
        extent.as_const().filter(|e| along_row && (1..=most).contains(e))
    }

    /// All stages of a short row: what one computes is there for the others.
    fn short(&self, b: &Builder, iters: &[Val], extent: i64, guarded: bool, stages: &[Stage]) -> Vec<Option<Val>> {
        let nest = self.nest;
        let row = nest.outer.len();
        let vector = |(at, count): (i64, u32)| {
            let mut iters = iters.to_vec();
            iters[row] = b.i64(at);
            let end = at + i64::from(count);
            let lanes = Lanes {
                iter: row,
                count,
                mask: (end > extent).then(|| b.mask_first(b.i64(extent - at), count)),
            };
            let mut f = self.frame(b, iters, Some(lanes));
            f.guarded = guarded;
            f.reduced = vec![None; nest.reductions.len()];
            f
        };
        let mut vectors: Vec<Frame> = pieces(extent, self.lanes).into_iter().map(vector).collect();
        let mut reduced = vec![None; nest.reductions.len()];
        for stage in stages {
            for r in &stage.reds {
                let red = &nest.reductions[*r];
                let count = |f: &Frame| f.lanes.map_or(0, |l| l.count);
                let equal = vectors.chunk_by(|x, y| count(x) == count(y)).map(|vectors| {
                    let start = b.splat(identity(b, red.combine, red.dtype), count(&vectors[0]));
                    let all = vectors.iter().fold(start, |acc, f| self.advance(f, *r, acc));
                    horizontal(b, red.combine, red.dtype, all)
                });
                reduced[*r] = equal.reduce(|x, y| combine(b, red.combine, red.dtype, x, y));
            }
            for f in &mut vectors {
                f.reduced.clone_from(&reduced);
                for s in &stage.stores {
                    let s = &nest.stores[*s];
                    f.store(s.buffer, &s.index, s.root);
                }
            }
        }
        reduced
    }

    /// Address of a temporary at the frame's row position.
    fn slot(&self, f: &Frame, t: ExprId) -> Val {
        let b = f.b;
        let nest = self.nest;
        let n = nest.outer.len();
        let which = nest.temps.iter().position(|x| *x == t).unwrap_or(0);
        let across = f.lanes.is_some_and(|l| l.iter < n);
        // The same formula as in the kernel's scratch size: rows of 8-byte elements with room for a masked tail.
        let lanes = if across {
            cameo_kernel::program::MAX_LANES as i64
        } else {
            1
        };
        let row = f.dim(&Dim::product(&nest.row));
        let size = b.add(b.mul(row, b.i64(lanes)), b.i64(cameo_kernel::program::MAX_LANES as i64));
        let base = b.gep(self.scratch, super::Elem::I64, b.mul(size, b.i64(which as i64)));
        let mut position = b.i64(0);
        for (i, e) in nest.row.iter().enumerate() {
            position = b.add(b.mul(position, f.dim(e)), f.iters[n + i]);
        }
        b.gep(base, elem(nest.body.dtype(t)), b.mul(position, b.i64(lanes)))
    }
}

pub(super) struct Stage {
    pub reds: Vec<usize>,
    pub stores: Vec<usize>,
    /// Temporaries that this stage computes, and those that earlier ones left.
    pub keep: Vec<ExprId>,
    pub kept: Vec<ExprId>,
}

pub(super) struct RowPoint<'a> {
    pub stage: &'a Stage,
    pub guarded: bool,
    pub reduced: &'a [Option<Val>],
}
