//! Panels of operand B: where the columns of a tile lie, and the copies that make them consecutive.

use cameo_ir::{Bounds, Dim, Sym};
use cameo_kernel::program::{BOperand, Contraction, Operand};

use super::body::{Frame, KernelCx};
use super::contraction::{Ahead, Emit};
use super::{Builder, Elem, Val};

/// Columns of B for one tile: `k` rows of vectors, the lanes of which are consecutive columns.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    /// Address of the first element.
    pub(super) ptr: Val,
    /// Elements between consecutive k; `None`: by the operand's own index.
    pub(super) stride: Option<Val>,
    /// Elements between the vectors of one k.
    pub(super) apart: Val,
    pub(super) n0: Val,
    pub(super) nv: usize,
    /// Columns that exist in the last vector; all when `None`.
    pub(super) mask: Option<Val>,
    /// What of the panel behind it in memory to fetch meanwhile.
    pub(super) ahead: Option<Ahead>,
}

/// Copies all of B at a batch to panels of whole tiles.
pub fn pack(b: &Builder, cx: &KernelCx, c: &Contraction, batch: Val, to: Val) {
    let (BOperand::Direct(o) | BOperand::Gathered(o)) = &c.b else {
        return;
    };
    let e = Emit::new(cx, c, to);
    let iters = e.batch(b, batch);
    let f = Frame::new(b, cx, vec![], None);
    let (n, k) = (f.dim(&c.n), f.dim(&Dim::product(&c.k)));
    let width = b.i64((c.schedule.nv * c.schedule.lanes) as i64);
    b.for_each(b.i64(0), n, width, |b, n0| {
        let to = b.gep(to, Elem::F32, b.mul(n0, k));
        e.gather(b, &iters, o, to, n0, c.schedule.nv, n);
    });
}

impl Emit<'_, '_> {
    /// Readies the panel of B that starts at column `n0`.
    pub(super) fn panel(&self, b: &Builder, iters: &[Val], n0: Val, nv: usize, mask: Option<Val>, n: Val) -> Panel {
        let c = self.c;
        let l = c.schedule.lanes as i64;
        let width = c.schedule.nv as i64 * l;
        if let Some(panels) = self.panels {
            let k = Frame::new(b, self.cx, vec![], None).dim(&Dim::product(&c.k));
            let left = b.rem_u(n0, b.i64(width));
            return Panel {
                ptr: b.gep(panels, Elem::F32, b.add(b.mul(b.sub(n0, left), k), left)),
                stride: Some(b.i64(width)),
                apart: b.i64(l),
                n0,
                nv,
                mask,
                ahead: None,
            };
        }
        match &c.b {
            BOperand::Packed { buffer, batch } => {
                let width = c.schedule.panel as i64;
                let f = Frame::new(b, self.cx, iters.to_vec(), None);
                let k = f.dim(&Dim::product(&c.k));
                let mut linear = b.i64(0);
                for (i, uses) in batch.iter().enumerate() {
                    if *uses {
                        linear = b.add(b.mul(linear, f.dim(&c.batch[i])), iters[i]);
                    }
                }
                let panels = b.div_ceil(n, b.i64(width));
                let index = b.add(b.mul(linear, panels), b.div_u(n0, b.i64(width)));
                let mut offset = b.mul(b.mul(index, k), b.i64(width));
                // Each vector has panels of its own, or a tile is a part of one panel.
                let apart = if width == l {
                    b.mul(k, b.i64(width))
                } else {
                    offset = b.add(offset, b.rem_u(n0, b.i64(width)));
                    b.i64(l)
                };
                let ptr = b.gep(self.cx.ptrs[*buffer], Elem::F32, offset);
                // Padded with zeros, so the last vector may be read whole.
                Panel {
                    ptr,
                    stride: Some(b.i64(width)),
                    apart,
                    n0,
                    nv,
                    mask,
                    ahead: None,
                }
            }
            BOperand::Direct(o) => Panel {
                ptr: self.cx.ptrs[o.buffer],
                stride: None,
                apart: b.i64(l),
                n0,
                nv,
                mask,
                ahead: None,
            },
            BOperand::Gathered(o) => {
                self.gather(b, iters, o, self.scratch_panel(b), n0, nv, n);
                Panel {
                    ptr: self.scratch_panel(b),
                    stride: Some(b.i64((nv * c.schedule.lanes) as i64)),
                    apart: b.i64(l),
                    n0,
                    nv,
                    mask,
                    ahead: None,
                }
            }
        }
    }

    fn scratch_panel(&self, b: &Builder) -> Val {
        if !self.c.a_fill {
            return self.scratch;
        }
        let f = Frame::new(b, self.cx, vec![], None);
        let inner = f.dim(self.c.k.last().unwrap_or(&Dim::ONE));
        b.gep(self.scratch, Elem::F32, b.mul(b.div_ceil(inner, b.i64(16)), b.i64(16)))
    }

    /// Copies a panel of B as `[k][nv * lanes]`. Columns past the end repeat the last one, or are 0.
    fn gather(&self, b: &Builder, iters: &[Val], o: &Operand, to: Val, n0: Val, nv: usize, n: Val) {
        let c = self.c;
        let l = c.schedule.lanes as i64;
        let (n_iter, k0) = (self.nb + 1, self.nb + 2);
        let bounds = Bounds::of(&self.cx.extents);
        let offset = bounds.simplify(&self.cx.buffers[o.buffer].offset(&o.index));
        let inner = k0 + c.k.len() - 1;
        let inner_step = offset.affine_in(&Sym::Iter(inner as u32)).map(|(c, _)| c);
        let last = b.sub(n, b.i64(1));
        let width = b.i64(nv as i64 * l);
        let from = self.cx.ptrs[o.buffer];
        let columns_are_consecutive = matches!(c.b, BOperand::Direct(_));
        let column = |b: &Builder, iters: &[Val], j: usize| {
            let mut iters = iters.to_vec();
            iters[n_iter] = b.min(b.add(n0, b.i64(j as i64)), last);
            Frame::new(b, self.cx, iters, None).dim(&offset)
        };
        self.k_loops(b, iters, 0, b.i64(0), &mut |b, iters, row| {
            // Along the innermost k iterator, `row` being the position of its first value.
            let extent = Frame::new(b, self.cx, vec![], None).dim(&c.k[c.k.len() - 1]);
            if columns_are_consecutive {
                b.for_each(b.i64(0), extent, b.i64(1), |b, k| {
                    let mut iters = iters.to_vec();
                    (iters[inner], iters[n_iter]) = (k, n0);
                    let first = Frame::new(b, self.cx, iters, None).dim(&offset);
                    for v in (0..nv as i64).map(|v| b.i64(v * l)) {
                        let mask = b.mask_first(b.sub(b.sub(n, n0), v), self.lanes);
                        let x = b.load_masked(from, Elem::F32, b.add(first, v), mask);
                        b.store(to, b.add(b.mul(b.add(row, k), width), v), x);
                    }
                });
                return;
            }
            let mut done = b.i64(0);
            if inner_step.as_ref().is_some_and(Dim::is_one) {
                // Rows of B are consecutive in k: transpose squares in registers.
                done = b.mul(b.div_u(extent, b.i64(l)), b.i64(l));
                b.for_each(b.i64(0), done, b.i64(l), |b, k| {
                    let mut iters = iters.to_vec();
                    iters[inner] = k;
                    for v in 0..nv {
                        let rows: Vec<Val> = (0..l as usize)
                            .map(|j| {
                                let at = column(b, &iters, v * l as usize + j);
                                b.load(from, Elem::F32, at, self.lanes)
                            })
                            .collect();
                        for (i, x) in b.transpose(&rows).into_iter().enumerate() {
                            let at = b.mul(b.add(b.add(row, k), b.i64(i as i64)), width);
                            b.store(to, b.add(at, b.i64(v as i64 * l)), x);
                        }
                    }
                });
            }
            b.for_each(done, extent, b.i64(1), |b, k| {
                let mut iters = iters.to_vec();
                iters[inner] = k;
                for j in 0..nv * l as usize {
                    let at = column(b, &iters, j);
                    let x = b.load(from, Elem::F32, at, 0);
                    let to_at = b.add(b.mul(b.add(row, k), width), b.i64(j as i64));
                    b.store(to, to_at, x);
                }
            });
        });
    }

    /// Loops over all k iterators but the innermost; `body` is given the row number of the innermost's first value.
    fn k_loops(&self, b: &Builder, iters: &[Val], d: usize, row: Val, body: &mut dyn FnMut(&Builder, &[Val], Val)) {
        let c = self.c;
        let f = Frame::new(b, self.cx, vec![], None);
        let extent = f.dim(&c.k[d]);
        if d + 1 == c.k.len() {
            body(b, iters, b.mul(row, extent));
            return;
        }
        b.for_each(b.i64(0), extent, b.i64(1), |b, iv| {
            let mut iters = iters.to_vec();
            iters[self.nb + 2 + d] = iv;
            let row = b.add(b.mul(row, extent), iv);
            self.k_loops(b, &iters, d + 1, row, body);
        });
    }
}
