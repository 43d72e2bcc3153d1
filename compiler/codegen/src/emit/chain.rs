//! Chains as code: for each block of rows of this thread's share, one link after the other.
//!
//! Blocks are as large as the schedule allows while every thread gets several. Local tensors lie at the start of the
//! thread's scratch, one block high: their addresses are moved back by the block's first row, so that links count rows as
//! they would in memory. What a link needs of scratch for itself comes behind.

use std::cell::OnceCell;

use cameo_ir::structured::Body;
use cameo_kernel::program::{Chain, Kernel, KernelBody, MAX_LANES, PACKED_FROM};

use super::body::{Frame, KernelCx};
use super::{Builder, Cmp, Elem, Val, contraction, nest, panels};

/// Blocks per thread that even out what each takes.
const SHARES: i64 = 4;

/// Lines of the links in the module's listing, if there is one: what each does, and its first expression.
pub struct Lines<'a> {
    pub heads: &'a [usize],
    pub bodies: &'a [usize],
}

/// Renders the chain for share `part` of `parts`. `cx` is that of the whole kernel, its parameters in order.
pub fn emit(
    b: &Builder,
    cx: &KernelCx,
    kernel: &Kernel,
    chain: &Chain,
    lanes: u32,
    lines: &Lines,
    part: Val,
    parts: Val,
    scratch: Val,
) {
    let top = Frame::new(b, cx, vec![], None);
    let (zero, one) = (b.i64(0), b.i64(1));
    let (batch, m) = (top.dim(&chain.batch), top.dim(&chain.m));
    let tile = b.i64(chain.schedule.tile as i64);
    // Enough blocks for the scratch, and for the threads where there are few batches.
    let least = b.div_ceil(m, b.i64(chain.schedule.rows as i64));
    let wanted = b.div_ceil(b.mul(parts, b.i64(SHARES)), b.max(batch, one));
    let blocks = b.max(least, b.min(wanted, b.div_ceil(m, tile)));
    let height = b.mul(b.div_ceil(m, b.mul(b.max(blocks, one), tile)), tile);
    let height = b.max(height, tile);
    let blocks = b.div_ceil(m, height);
    let total = b.mul(batch, blocks);
    let lo = b.div_u(b.mul(part, total), parts);
    let hi = b.div_u(b.mul(b.add(part, one), total), parts);
    let local_bytes = top.dim(&chain.local_bytes());
    let many = b.cmp(Cmp::Ge, m, b.i64(PACKED_FROM));
    let panels = b.gep(scratch, Elem::I8, local_bytes);
    let rest = b.gep(panels, Elem::I8, top.dim(&chain.panel_bytes()));
    b.for_each(lo, hi, one, |b, w| {
        let (batch, block) = (b.div_u(w, blocks), b.rem_u(w, blocks));
        // The first block of a batch, or of this share.
        let fresh = b.or(b.cmp(Cmp::Eq, block, zero), b.cmp(Cmp::Eq, w, lo));
        let mut panels = panels;
        let m_lo = b.mul(block, height);
        let m_hi = b.min(b.add(m_lo, height), m);
        let first = b.add(b.mul(batch, m), m_lo);
        let mut ptrs = cx.ptrs.clone();
        let mut at = zero;
        let inner = Frame::new(b, cx, vec![], None);
        for width in &chain.locals {
            let stride = inner.dim(&Chain::stride(width));
            ptrs.push(b.gep(scratch, Elem::F32, b.sub(at, b.mul(first, stride))));
            at = b.add(at, b.mul(stride, b.i64(chain.schedule.rows as i64)));
        }
        for (i, link) in chain.links.iter().enumerate() {
            let body: &Body = match link {
                KernelBody::Nest(n) => &n.body,
                KernelBody::Contraction(c) => &c.epilogue,
                // Not links.
                KernelBody::Winograd(_) | KernelBody::Chain(_) | KernelBody::InOrder(_) | KernelBody::Custom(_) => {
                    continue;
                }
            };
            let cx = KernelCx {
                buffers: &kernel.buffers,
                ptrs: ptrs.clone(),
                dims: cx.dims.clone(),
                extents: link.extents(),
                status: cx.status,
                spare: OnceCell::new(),
                body,
                line: lines.bodies.get(i).copied().unwrap_or(0),
            };
            let head = lines.heads.get(i).copied().unwrap_or(0);
            b.at_line(head, || match link {
                KernelBody::Nest(n) => {
                    let rows = nest::Part {
                        counted: (first, b.add(b.mul(batch, m), m_hi)),
                        lanes: None,
                    };
                    nest::emit_part(b, &cx, n, lanes, &rows, rest);
                }
                KernelBody::Contraction(c) => {
                    let columns = Frame::new(b, &cx, vec![], None).dim(&c.n);
                    let part = |b: &Builder, panels: Option<Val>| {
                        let rows = contraction::Part {
                            batch: (batch, b.add(batch, one)),
                            m: (m_lo, m_hi),
                            n: (zero, columns),
                            next: None,
                            panels,
                        };
                        contraction::emit_part(b, &cx, c, &rows, rest);
                    };
                    let Some(elements) = chain.panels(link) else {
                        return part(b, None);
                    };
                    let here = panels;
                    let elements = Frame::new(b, &cx, vec![], None).dim(&elements);
                    let lanes = b.i64(MAX_LANES as i64);
                    panels = b.gep(here, Elem::F32, b.mul(b.div_ceil(elements, lanes), lanes));
                    let packed = |b: &Builder| {
                        b.when(fresh, |b| panels::pack(b, &cx, c, batch, here));
                        part(b, Some(here));
                        vec![]
                    };
                    let as_it_is = |b: &Builder| {
                        part(b, None);
                        vec![]
                    };
                    b.if_(many, &[], packed, as_it_is);
                }
                KernelBody::Winograd(_) | KernelBody::Chain(_) | KernelBody::InOrder(_) | KernelBody::Custom(_) => {}
            });
        }
    });
}
