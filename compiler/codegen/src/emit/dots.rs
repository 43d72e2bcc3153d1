//! A few rows times rows: products summed along vectors of k, where a transposed copy of B would cost more.

use cameo_ir::{Bounds, Sym};
use cameo_kernel::program::{BOperand, Operand};

use super::body::Frame;
use super::contraction::Emit;
use super::panels::Panel;
use super::{Builder, Elem, Val};

impl Emit<'_, '_> {
    /// The operand that would be gathered, where its rows and A's are consecutive in k.
    pub(super) fn has_dots(&self) -> bool {
        let BOperand::Gathered(o) = &self.c.b else {
            return false;
        };
        let bounds = Bounds::of(&self.cx.extents);
        let k = Sym::Iter((self.nb + 2) as u32);
        let unit = |o: &Operand| {
            let offset = bounds.simplify(&self.cx.buffers[o.buffer].offset(&o.index));
            offset.affine_in(&k).is_some_and(|(step, _)| step.is_one())
        };
        self.c.k.len() == 1 && !self.c.a_fill && unit(o) && unit(&self.c.a)
    }

    /// A few rows: one vector of partial sums along k for each of as many columns as there are lanes.
    pub(super) fn dots(&self, b: &Builder, iters: &[Val], n_lo: Val, n_hi: Val, n: Val, m_lo: Val, m_hi: Val) {
        let c = self.c;
        let BOperand::Gathered(o) = &c.b else { return };
        let l = b.i64(i64::from(self.lanes));
        let (zero, one) = (b.i64(0), b.i64(1));
        let k_iter = self.nb + 2;
        let last = b.sub(n, one);
        let extent = Frame::new(b, self.cx, vec![], None).dim(&c.k[0]);
        let whole_k = b.mul(b.div_u(extent, l), l);
        let start = |b: &Builder, o: &Operand, at: &[Val]| {
            let mut at = at.to_vec();
            at[k_iter] = b.i64(0);
            let offset = self.cx.buffers[o.buffer].offset(&o.index);
            let offset = Frame::new(b, self.cx, at, None).dim(&Bounds::of(&self.cx.extents).simplify(&offset));
            b.gep(self.cx.ptrs[o.buffer], Elem::F32, offset)
        };
        let columns = |b: &Builder, n0: Val, mask: Option<Val>| {
            let rows_of_b: Vec<Val> = (0..self.lanes)
                .map(|j| {
                    let mut at = iters.to_vec();
                    at[self.nb + 1] = b.add(n0, b.i64(i64::from(j)));
                    if mask.is_some() {
                        at[self.nb + 1] = b.min(at[self.nb + 1], last);
                    }
                    start(b, o, &at)
                })
                .collect();
            b.for_each(m_lo, m_hi, one, |b, m| {
                let mut iters = iters.to_vec();
                (iters[self.nb], iters[self.nb + 1]) = (m, n0);
                let row_of_a = start(b, &c.a, &iters);
                let step = |b: &Builder, k: Val, mask: Option<Val>, acc: &[Val]| -> Vec<Val> {
                    let load = |ptr: Val| match mask {
                        Some(mask) => b.load_masked(ptr, Elem::F32, k, mask),
                        None => b.load(ptr, Elem::F32, k, self.lanes),
                    };
                    let x = load(row_of_a);
                    let columns = rows_of_b.iter().zip(acc);
                    columns.map(|(y, acc)| b.mul_add(x, load(*y), *acc)).collect()
                };
                let none = vec![b.splat(b.f32(0.0), self.lanes); self.lanes as usize];
                let acc = b.for_(zero, whole_k, l, &none, |b, k, acc| step(b, k, None, acc));
                // Once or not at all.
                let acc = b.for_(whole_k, extent, l, &acc, |b, k, acc| {
                    let mask = b.mask_first(b.sub(extent, k), self.lanes);
                    step(b, k, Some(mask), acc)
                });
                let mut sums = b.transpose(&acc);
                while sums.len() > 1 {
                    sums = sums.chunks(2).map(|x| b.add(x[0], x[1])).collect();
                }
                let panel = Panel {
                    ptr: self.cx.ptrs[o.buffer],
                    stride: None,
                    apart: l,
                    n0,
                    nv: 1,
                    mask,
                    ahead: None,
                };
                self.epilogue(b, &iters, panel, m, 1, &sums);
            });
        };
        let whole = b.add(n_lo, b.mul(b.div_u(b.sub(n_hi, n_lo), l), l));
        b.for_each(n_lo, whole, l, |b, n0| columns(b, n0, None));
        b.for_each(whole, n_hi, l, |b, n0| {
            let mask = b.mask_first(b.sub(n_hi, n0), self.lanes);
            columns(b, n0, Some(mask));
        });
    }
}
