//! Contractions as code: a register tile of `mr` rows by `nv` vectors, all of k in registers.
//!
//! ```text
//! for batch of this thread's share
//!   for block of rows that stays in L2
//!     for panel of columns                 (B: packed weight, direct rows, or copied to scratch here)
//!       for tile of rows                   acc[mr][nv] += A[row, k] (broadcast) * B[k, vector]
//!         epilogue and stores
//! ```
//!
//! Rows are found through addresses computed per tile and, for windows, per kernel tap: a convolution is a contraction
//! whose row addresses are not evenly spaced. A row outside the padded input reads from a row of zeros instead.

use cameo_ir::{Bounds, Dim, Sym};
use cameo_kernel::nest::guards;
use cameo_kernel::program::{BOperand, Contraction};

use super::body::{Frame, KernelCx, Lanes, walk};
use super::panels::Panel;
use super::{Builder, Cmp, Elem, Val};

/// Epilogues of more expression nodes than this run in a loop over the tile instead of once per vector of it: written
/// out 24 times they would fill the instruction cache.
pub(super) const INLINE_EPILOGUE: usize = 16;

/// So few rows take the products of whole rows of A and B: that costs less than to transpose B for them.
const FEW_ROWS: i64 = 4;

pub(super) struct Emit<'k, 'f> {
    pub(super) c: &'k Contraction,
    pub(super) cx: &'f KernelCx<'f>,
    pub(super) scratch: Val,
    pub(super) lanes: u32,
    /// Batch iterators, m, n, then k.
    pub(super) nb: usize,
    pub(super) next: Option<Val>,
    pub(super) panels: Option<Val>,
}

/// The panel after this one is fetched while this one is used: an even part of it by each row tile, so that a weight that
/// comes from memory costs no waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    /// Address that the current tile begins with.
    from: Val,
    /// Elements to go on with each k, in 256ths.
    step: Val,
}

/// What of a contraction is computed: half-open ranges of batches, rows and columns.
pub struct Part {
    pub batch: (Val, Val),
    pub m: (Val, Val),
    pub n: (Val, Val),
    /// Elements from a packed panel to the one that is used after it; none: as they lie in memory.
    pub next: Option<Val>,
    /// Where [`pack`](super::panels::pack) left the panels of B.
    pub panels: Option<Val>,
}

/// Renders the contraction for share `part` of `parts`.
pub fn emit(b: &Builder, cx: &KernelCx, c: &Contraction, part: Val, parts: Val, scratch: Val) {
    let f = Frame::new(b, cx, vec![], None);
    let (zero, one) = (b.i64(0), b.i64(1));
    let batch = f.dim(&Dim::product(&c.batch));
    let m = f.dim(&c.m);
    let n = f.dim(&c.n);
    let mr = b.i64(c.schedule.mr as i64);
    let nr = b.i64((c.schedule.nv * c.schedule.lanes) as i64);
    let tiles = b.div_ceil(m, mr);
    let panels = b.div_ceil(n, nr);
    // Whole batches first, then rows while every thread gets several tiles, then columns.
    let by_batch = match c.schedule.split {
        1 => b.cmp(Cmp::Ge, batch, b.mul(parts, b.i64(2))),
        _ => b.bool(true),
    };
    let rows_first = b.cmp(Cmp::Ge, tiles, b.mul(parts, b.i64(4)));
    let gathered = matches!(c.b, BOperand::Gathered(_));
    // A gathered panel is copied once per thread that uses it: columns are split before rows.
    let by_rows = if gathered {
        let narrow = b.cmp(Cmp::Lt, panels, parts);
        b.and(b.not(by_batch), b.and(rows_first, narrow))
    } else {
        b.and(b.not(by_batch), rows_first)
    };
    let by_columns = b.and(b.not(by_batch), b.not(by_rows));
    let share = |active: Val, total: Val| {
        let lo = b.div_u(b.mul(part, total), parts);
        let hi = b.div_u(b.mul(b.add(part, one), total), parts);
        (b.select(active, lo, zero), b.select(active, hi, total))
    };
    let (b_lo, b_hi) = share(by_batch, batch);
    let (t_lo, t_hi) = share(by_rows, tiles);
    let (p_lo, p_hi) = share(by_columns, panels);
    let (m_lo, m_hi) = (b.mul(t_lo, mr), b.min(b.mul(t_hi, mr), m));
    let (n_lo, n_hi) = (b.mul(p_lo, nr), b.min(b.mul(p_hi, nr), n));
    let part = Part {
        batch: (b_lo, b_hi),
        m: (m_lo, m_hi),
        n: (n_lo, n_hi),
        next: None,
        panels: None,
    };
    emit_part(b, cx, c, &part, scratch);
}

/// Renders one part of the contraction.
pub fn emit_part(b: &Builder, cx: &KernelCx, c: &Contraction, part: &Part, scratch: Val) {
    let e = Emit {
        next: part.next,
        panels: part.panels,
        ..Emit::new(cx, c, scratch)
    };
    let f = Frame::new(b, cx, vec![], None);
    let one = b.i64(1);
    let n = f.dim(&c.n);
    let mr = b.i64(c.schedule.mr as i64);
    let ((m_lo, m_hi), (n_lo, n_hi)) = (part.m, part.n);
    let gathered = matches!(c.b, BOperand::Gathered(_));
    let mc = b.i64(c.schedule.mc as i64);
    if c.a_fill {
        // The row of zeros that padding reads, of one innermost reduction.
        let inner = f.dim(c.k.last().unwrap_or(&Dim::ONE));
        b.clear(scratch, b.mul(inner, b.i64(4)));
    }
    b.for_each(part.batch.0, part.batch.1, one, |b, w| {
        let iters = e.batch(b, w);
        let blocks = |b: &Builder, lo: Val, hi: Val| e.columns(b, &iters, n_lo, n_hi, n, lo, hi);
        if gathered {
            let dots = |b: &Builder| e.dots(b, &iters, n_lo, n_hi, n, m_lo, m_hi);
            match c.m.as_const() {
                Some(m) if e.has_dots() && m <= FEW_ROWS => dots(b),
                None if e.has_dots() => {
                    // Not how many are in this block: results must not depend on the number of threads.
                    let few = b.cmp(Cmp::Le, f.dim(&c.m), b.i64(FEW_ROWS));
                    b.when(few, |b| dots(b));
                    b.when(b.not(few), |b| blocks(b, m_lo, m_hi));
                }
                _ => blocks(b, m_lo, m_hi),
            }
        } else {
            // Blocks of equal height, whole tiles each.
            let count = b.sub(m_hi, m_lo);
            let number = b.max(b.div_ceil(count, mc), one);
            let height = b.mul(b.div_ceil(count, b.mul(number, mr)), mr);
            let height = b.max(height, mr);
            b.for_each(m_lo, m_hi, height, |b, lo| {
                let hi = b.min(b.add(lo, height), m_hi);
                blocks(b, lo, hi);
            });
        }
    });
}

impl<'k, 'f> Emit<'k, 'f> {
    pub(super) fn new(cx: &'f KernelCx<'f>, c: &'k Contraction, scratch: Val) -> Self {
        Self {
            c,
            cx,
            scratch,
            lanes: c.schedule.lanes as u32,
            nb: c.batch.len(),
            next: None,
            panels: None,
        }
    }
}

impl Emit<'_, '_> {
    /// The iterators at the start of a batch.
    pub(super) fn batch(&self, b: &Builder, batch: Val) -> Vec<Val> {
        let mut iters = vec![b.i64(0); self.nb + 2 + self.c.k.len()];
        let all: Vec<usize> = (0..self.nb).collect();
        walk(b, self.cx, batch, &all, &self.c.batch, &mut iters);
        iters
    }

    fn columns(&self, b: &Builder, iters: &[Val], n_lo: Val, n_hi: Val, n: Val, m_lo: Val, m_hi: Val) {
        let c = self.c;
        let nr = (c.schedule.nv * c.schedule.lanes) as i64;
        let l = c.schedule.lanes as i64;
        let whole = b.mul(b.div_u(n_hi, b.i64(nr)), b.i64(nr));
        let whole = b.max(whole, n_lo);
        b.for_each(n_lo, whole, b.i64(nr), |b, n0| {
            let panel = self.panel(b, iters, n0, c.schedule.nv, None, n);
            self.rows(b, iters, panel, m_lo, m_hi);
        });
        match c.n.as_const() {
            // The width of the last panel is known: one tile of just as many vectors as it needs.
            Some(n) if n % nr == 0 => {}
            Some(n) => {
                let left = n % nr;
                let nv = ((left + l - 1) / l) as usize;
                let mask = (left % l != 0).then(|| b.mask_first(b.i64(left % l), self.lanes));
                let here = b.cmp(Cmp::Lt, whole, n_hi);
                b.when(here, |b| {
                    let panel = self.panel(b, iters, whole, nv, mask, b.i64(n));
                    self.rows(b, iters, panel, m_lo, m_hi);
                });
            }
            // Otherwise vector by vector, each masked.
            None => b.for_each(whole, n_hi, b.i64(l), |b, n0| {
                let mask = b.mask_first(b.sub(n_hi, n0), self.lanes);
                let panel = self.panel(b, iters, n0, 1, Some(mask), n);
                self.rows(b, iters, panel, m_lo, m_hi);
            }),
        }
    }

    fn rows(&self, b: &Builder, iters: &[Val], panel: Panel, m_lo: Val, m_hi: Val) {
        let mr = self.c.schedule.mr;
        let step = b.i64(mr as i64);
        let count = b.sub(m_hi, m_lo);
        let whole = b.add(m_lo, b.mul(b.div_u(count, step), step));
        b.for_each(m_lo, whole, step, |b, m0| {
            let ahead = self.ahead(b, &panel, m0, m_lo, count);
            self.tile(b, iters, Panel { ahead, ..panel }, m0, mr);
        });
        match self.c.m.as_const() {
            // All tiles are whole but the very last, whose height is known.
            Some(m) => {
                let left = (m as usize) % mr;
                if left > 0 {
                    let here = b.cmp(Cmp::Lt, whole, m_hi);
                    b.when(here, |b| self.tile(b, iters, panel, whole, left));
                }
            }
            None => {
                let mut at = whole;
                let mut size = mr.next_power_of_two() / 2;
                while size > 0 {
                    let left = b.sub(m_hi, at);
                    let here = b.cmp(Cmp::Ge, left, b.i64(size as i64));
                    b.when(here, |b| self.tile(b, iters, panel, at, size));
                    at = b.select(here, b.add(at, b.i64(size as i64)), at);
                    size /= 2;
                }
            }
        }
    }

    /// What the tile at row `m0` of `count` from `m_lo` on fetches of the next panel.
    fn ahead(&self, b: &Builder, panel: &Panel, m0: Val, m_lo: Val, count: Val) -> Option<Ahead> {
        let c = self.c;
        let BOperand::Packed { .. } = c.b else {
            return None;
        };
        let width = c.schedule.nv * c.schedule.lanes;
        // A single tile reads as fast as it would fetch, and a part of a panel comes with the others.
        if c.m.as_const().is_some_and(|m| m <= c.schedule.mr as i64) || width < c.schedule.panel {
            return None;
        }
        let k = Frame::new(b, self.cx, vec![], None).dim(&Dim::product(&c.k));
        let elements = b.mul(k, b.i64(width as i64));
        let done = b.div_u(b.mul(b.sub(m0, m_lo), elements), count);
        let next = self.next.unwrap_or(elements);
        let from = b.gep(panel.ptr, Elem::F32, b.add(next, done));
        let step = b.div_u(b.i64((width * c.schedule.mr * 256) as i64), count);
        Some(Ahead { from, step })
    }

    /// One register tile: `mr` rows from `m0`, all of k, then the epilogue.
    fn tile(&self, b: &Builder, iters: &[Val], panel: Panel, m0: Val, mr: usize) {
        let zero = b.splat(b.f32(0.0), self.lanes);
        let acc = vec![zero; mr * panel.nv];
        let mut iters = iters.to_vec();
        iters[self.nb] = m0;
        iters[self.nb + 1] = panel.n0;
        let acc = self.taps(b, &iters, panel, mr, 0, b.i64(0), &acc);
        self.epilogue(b, &iters, panel, m0, mr, &acc);
    }

    /// Loops over the outer k iterators (kernel taps), carrying the tile.
    fn taps(&self, b: &Builder, iters: &[Val], panel: Panel, mr: usize, d: usize, row: Val, acc: &[Val]) -> Vec<Val> {
        let c = self.c;
        if d + 1 >= c.k.len() {
            return self.inner(b, iters, panel, mr, row, acc);
        }
        let extent = Frame::new(b, self.cx, vec![], None).dim(&c.k[d]);
        b.for_(b.i64(0), extent, b.i64(1), acc, |b, iv, acc| {
            let mut iters = iters.to_vec();
            iters[self.nb + 2 + d] = iv;
            let row = b.add(b.mul(row, extent), iv);
            self.taps(b, &iters, panel, mr, d + 1, row, acc)
        })
    }

    /// The innermost reduction.
    fn inner(&self, b: &Builder, iters: &[Val], panel: Panel, mr: usize, row: Val, acc: &[Val]) -> Vec<Val> {
        let c = self.c;
        let f0 = Frame::new(b, self.cx, iters.to_vec(), None);
        let bounds = Bounds::of(&self.cx.extents);
        let a_buffer = &self.cx.buffers[c.a.buffer];
        let offset = bounds.simplify(&a_buffer.offset(&c.a.index));
        let a_ptr = self.cx.ptrs[c.a.buffer];
        let k_iter = self.nb + 2 + c.k.len().saturating_sub(1);
        let has_k = !c.k.is_empty();
        let k_sym = Sym::Iter(k_iter as u32);
        let (step, base) = if has_k {
            offset.affine_in(&k_sym).unwrap_or((Dim::ZERO, offset.clone()))
        } else {
            (Dim::ZERO, offset.clone())
        };
        let extent = if has_k { f0.dim(&c.k[c.k.len() - 1]) } else { b.i64(1) };
        let checks = if c.a_fill {
            guards(a_buffer, &c.a.index, &self.cx.extents)
        } else {
            vec![]
        };
        let unit = step.is_one();
        let step = f0.dim(&step);
        // Row addresses; evenly spaced ones from one base, so that they need one register.
        let m_sym = Sym::Iter(self.nb as u32);
        let even = base.affine_in(&m_sym).filter(|_| checks.is_empty());
        let mut rows = Vec::with_capacity(mr);
        for r in 0..mr {
            let mut at = iters.to_vec();
            at[self.nb] = b.add(iters[self.nb], b.i64(r as i64));
            let f = Frame::new(b, self.cx, at, None);
            let start = match &even {
                Some((stride, _)) => b.add(f0.dim(&base), b.mul(f0.dim(stride), b.i64(r as i64))),
                None => f.dim(&base),
            };
            let mut ok: Option<Val> = None;
            for (d, e) in &checks {
                let inside = b.cmp_u(Cmp::Lt, f.dim(d), f.dim(e));
                ok = Some(ok.map_or(inside, |o| b.and(o, inside)));
            }
            rows.push(match ok {
                None => (b.gep(a_ptr, Elem::F32, start), step, None),
                Some(ok) => {
                    let inside = b.gep(a_ptr, Elem::F32, b.select(ok, start, b.i64(0)));
                    if unit {
                        (b.select(ok, inside, self.scratch), step, None)
                    } else {
                        // Zeros are consecutive: a row outside stays at the first of them.
                        (
                            b.select(ok, inside, self.scratch),
                            b.select(ok, step, b.i64(0)),
                            Some(ok),
                        )
                    }
                }
            });
        }
        // B: consecutive panel rows, or rows of the operand itself.
        let (b_ptr, b_step) = match (&c.b, panel.stride) {
            (_, Some(s)) => (b.gep(panel.ptr, Elem::F32, b.mul(b.mul(row, extent), s)), s),
            (BOperand::Direct(o), None) => {
                let offset = bounds.simplify(&self.cx.buffers[o.buffer].offset(&o.index));
                let (step, base) = if has_k {
                    offset.affine_in(&k_sym).unwrap_or((Dim::ZERO, offset.clone()))
                } else {
                    (Dim::ZERO, offset)
                };
                (b.gep(panel.ptr, Elem::F32, f0.dim(&base)), f0.dim(&step))
            }
            (_, None) => (panel.ptr, b.i64(0)),
        };
        let masked = panel.mask.filter(|_| panel.stride.is_none());
        let (from, to) = match c.schedule.split {
            1 => (b.i64(0), extent),
            parts => {
                let bound = |part: Val| b.div_u(b.mul(part, extent), b.i64(parts as i64));
                (bound(iters[0]), bound(b.add(iters[0], b.i64(1))))
            }
        };
        let ahead = panel.ahead.map(|a| {
            let begin = b.mul(b.mul(row, extent), a.step);
            (a, begin)
        });
        b.for_(from, to, b.i64(1), acc, |b, k, acc| {
            if let Some((a, begin)) = ahead {
                let at = b.shr_u(b.add(begin, b.mul(k, a.step)), b.i64(8));
                b.prefetch(a.from, Elem::F32, at);
            }
            let at = b.mul(k, b_step);
            let columns: Vec<Val> = (0..panel.nv)
                .map(|v| {
                    let at = b.add(at, b.mul(panel.apart, b.i64(v as i64)));
                    match masked {
                        Some(m) if v + 1 == panel.nv => b.load_masked(b_ptr, Elem::F32, at, m),
                        _ => b.load(b_ptr, Elem::F32, at, self.lanes),
                    }
                })
                .collect();
            let mut out = Vec::with_capacity(acc.len());
            for (r, (ptr, step, _)) in rows.iter().enumerate() {
                let x = b.load(*ptr, Elem::F32, b.mul(k, *step), 0);
                let x = b.splat(x, self.lanes);
                for (v, y) in columns.iter().enumerate() {
                    out.push(b.mul_add(x, *y, acc[r * panel.nv + v]));
                }
            }
            out
        })
    }

    pub(super) fn epilogue(&self, b: &Builder, iters: &[Val], panel: Panel, m0: Val, mr: usize, acc: &[Val]) {
        let c = self.c;
        let l = i64::from(self.lanes);
        let store = |b: &Builder, r: Val, v: Val, mask: Option<Val>, acc: Val| {
            let mut at = iters.to_vec();
            at[self.nb] = b.add(m0, r);
            at[self.nb + 1] = b.add(panel.n0, b.mul(v, b.i64(l)));
            let mut f = Frame::new(
                b,
                self.cx,
                at,
                Some(Lanes {
                    iter: self.nb + 1,
                    count: self.lanes,
                    mask,
                }),
            );
            f.acc = Some(acc);
            for s in &c.stores {
                f.store(s.buffer, &s.index, s.root);
            }
        };
        if c.epilogue.nodes().len() <= INLINE_EPILOGUE || mr * panel.nv <= 2 {
            for r in 0..mr {
                for v in 0..panel.nv {
                    let mask = panel.mask.filter(|_| v + 1 == panel.nv);
                    store(b, b.i64(r as i64), b.i64(v as i64), mask, acc[r * panel.nv + v]);
                }
            }
            return;
        }
        let nv = panel.nv as i64;
        let tile = b.alloca(Elem::F32, (mr as u64) * (panel.nv as u64) * u64::from(self.lanes));
        for (i, a) in acc.iter().enumerate() {
            b.store(tile, b.i64(i as i64 * l), *a);
        }
        // The vectors that are whole, then the masked last column of the tile.
        let whole = if panel.mask.is_some() { nv - 1 } else { nv };
        b.for_each(b.i64(0), b.i64(mr as i64), b.i64(1), |b, r| {
            b.for_each(b.i64(0), b.i64(whole), b.i64(1), |b, v| {
                let at = b.mul(b.add(b.mul(r, b.i64(nv)), v), b.i64(l));
                store(b, r, v, None, b.load(tile, Elem::F32, at, self.lanes));
            });
            if let Some(mask) = panel.mask {
                let v = b.i64(nv - 1);
                let at = b.mul(b.add(b.mul(r, b.i64(nv)), v), b.i64(l));
                store(b, r, v, Some(mask), b.load(tile, Elem::F32, at, self.lanes));
            }
        });
    }
}
