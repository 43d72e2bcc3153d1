//! Winograd convolutions as code: see [`cameo_kernel::winograd`] for what is computed.
//!
//! Lanes are channels, so both transforms are arithmetic on whole vectors. A block's V and M lie in the thread's scratch;
//! their addresses are moved back by the block's first tile and the panel's first column, so that the products count tiles
//! and columns as if all of them were there. A tile that reaches over the border of the image is transformed from a copy
//! with zeros around; what it computes outside of the output is not stored.

use std::cell::OnceCell;

use cameo_ir::Bounds;
use cameo_kernel::program::{Buffer, KernelBody, Winograd};

use super::body::{Frame, KernelCx, Lanes};
use super::contraction::{self, INLINE_EPILOGUE};
use super::{Builder, Cmp, Elem, Val};

struct Emit<'k, 'f> {
    w: &'k Winograd,
    cx: &'f KernelCx<'f>,
    lanes: u32,
    /// Inputs of a border tile.
    border: Val,
}

/// A buffer in scratch whose rows are tiles, and where its row of tile 0 would be.
struct Local<'k> {
    buffer: &'k Buffer,
    ptr: Val,
}

/// Renders the convolution for share `part` of `parts`.
pub fn emit(b: &Builder, cx: &KernelCx, w: &Winograd, part: Val, parts: Val, scratch: Val) {
    let f = Frame::new(b, cx, vec![], None);
    let first = cx.buffers.len();
    let (product, locals) = w.product(first);
    let all: Vec<Buffer> = cx.buffers.iter().chain(&locals).cloned().collect();
    let [v_size, m_size, _] = w.scratch().map(|e| f.dim(&e));
    let m_ptr = b.gep(scratch, Elem::F32, v_size);
    let e = Emit {
        w,
        cx,
        lanes: w.schedule.product.lanes as u32,
        border: b.gep(m_ptr, Elem::F32, m_size),
    };
    let (zero, one) = (b.i64(0), b.i64(1));
    let tile = w.schedule.product;
    let (tiles, n) = (f.dim(&product.m), f.dim(&w.n));
    let (mr, nr) = (b.i64(tile.mr as i64), b.i64((tile.nv * tile.lanes) as i64));
    // Rows of register tiles while every thread gets several, then panels too, whose threads transform the same inputs.
    let (rows, panels) = (b.div_ceil(tiles, mr), b.div_ceil(n, nr));
    // Panels lie by point, and are used point after point.
    let panel = b.i64(tile.panel as i64);
    let point = b.mul(b.mul(b.div_ceil(n, panel), panel), f.dim(&product.k[0]));
    let rows_only = b.cmp(Cmp::Ge, rows, b.mul(parts, b.i64(4)));
    let across = b.select(rows_only, one, b.min(panels, parts));
    let down = b.div_u(parts, across);
    let (i, j) = (b.div_u(part, across), b.rem_u(part, across));
    let share = |at: Val, of: Val, total: Val, unit: Val, end: Val| {
        let lo = b.mul(b.div_u(b.mul(at, total), of), unit);
        let hi = b.mul(b.div_u(b.mul(b.add(at, one), total), of), unit);
        (b.min(lo, end), b.min(hi, end))
    };
    let (lo, hi) = share(i, down, rows, mr, tiles);
    let (n_lo, n_hi) = share(j, across, panels, nr, n);
    // Blocks of equal height, whole register tiles each; threads beyond the grid have none.
    let count = b.sub(hi, lo);
    let blocks = b.max(b.div_ceil(count, b.i64(w.schedule.block as i64)), one);
    let height = b.max(b.mul(b.div_ceil(count, b.mul(blocks, mr)), mr), mr);
    b.for_each(lo, hi, height, |b, lo| {
        let hi = b.min(b.add(lo, height), hi);
        let moved = |ptr: Val, buffer: &Buffer, n0: Val| {
            let row = Frame::new(b, cx, vec![], None).dim(&buffer.strides[1]);
            b.gep(ptr, Elem::F32, b.sub(zero, b.add(b.mul(lo, row), n0)))
        };
        let v = Local {
            buffer: &locals[0],
            ptr: moved(scratch, &locals[0], zero),
        };
        e.transform(b, &v, lo, hi);
        b.for_each(n_lo, n_hi, nr, |b, n0| {
            let n1 = b.min(b.add(n0, nr), n_hi);
            let m = Local {
                buffer: &locals[1],
                ptr: moved(m_ptr, &locals[1], n0),
            };
            let inner = KernelCx {
                buffers: &all,
                ptrs: cx.ptrs.iter().copied().chain([v.ptr, m.ptr]).collect(),
                dims: cx.dims.clone(),
                extents: KernelBody::Contraction(product.clone()).extents(),
                status: cx.status,
                spare: OnceCell::new(),
                body: &product.epilogue,
                line: 0,
            };
            let points = (w.points() * w.points()) as i64;
            let part = contraction::Part {
                batch: (zero, b.i64(points)),
                m: (lo, hi),
                n: (n0, n1),
                next: Some(point),
                panels: None,
            };
            contraction::emit_part(b, &inner, &product, &part, e.border);
            e.outputs(b, &m, (lo, hi), (n0, n1));
        });
    });
}

impl Emit<'_, '_> {
    /// Iterators of the first output of a tile.
    fn place(&self, b: &Builder, t: Val) -> Vec<Val> {
        let f = Frame::new(b, self.cx, vec![], None);
        let [ty, tx] = self.w.tiles().map(|d| f.dim(&d));
        let side = b.i64(self.w.schedule.side as i64);
        let row = b.div_u(t, tx);
        let y = b.mul(b.rem_u(row, ty), side);
        let x = b.mul(b.rem_u(t, tx), side);
        vec![b.div_u(row, ty), y, x, b.i64(0), b.i64(0), b.i64(0)]
    }

    /// V of tiles `lo..hi`.
    fn transform(&self, b: &Builder, v: &Local, lo: Val, hi: Val) {
        let w = self.w;
        let (points, l) = (w.points(), i64::from(self.lanes));
        let input = &self.cx.buffers[w.a.buffer];
        let (ptr, p) = (self.cx.ptrs[w.a.buffer], b.i64(points as i64));
        let bounds = Bounds::of(&self.cx.extents);
        let offset = bounds.simplify(&input.offset(&w.a.index));
        let (zero, one) = (b.i64(0), b.i64(1));
        b.for_each(lo, hi, one, |b, t| {
            let place = self.place(b, t);
            let depth = Frame::new(b, self.cx, vec![], None).dim(&w.depth);
            b.for_each(zero, depth, one, |b, tap| {
                let mut at = place.clone();
                at[4] = tap;
                let f = Frame::new(b, self.cx, at, None);
                let first = b.gep(ptr, Elem::F32, f.dim(&offset));
                let at = w.axes.map(|a| f.dim(&w.a.index[a]));
                let size = w.axes.map(|a| f.dim(&input.extents[a]));
                let stride = w.axes.map(|a| f.dim(&input.strides[a]));
                let channels = f.dim(&w.channels);
                // What of the tile is in the image.
                let from = at.map(|a| b.max(b.sub(zero, a), zero));
                let to = [0, 1].map(|i| b.min(p, b.sub(size[i], at[i])));
                let whole =
                    [0, 1].map(|i| b.and(b.cmp(Cmp::Ge, at[i], zero), b.cmp(Cmp::Le, b.add(at[i], p), size[i])));
                let mut whole = b.and(whole[0], whole[1]);
                let mut to = to;
                for &axis in &w.checked {
                    let exists = b.cmp_u(Cmp::Lt, f.dim(&w.a.index[axis]), f.dim(&input.extents[axis]));
                    whole = b.and(whole, exists);
                    to[0] = b.select(exists, to[0], zero);
                }
                let step = f.dim(&w.border());
                b.when(b.not(whole), |b| {
                    b.clear(self.border, b.mul(step, b.i64((points * points * 4) as i64)));
                    b.for_each(from[0], to[0], one, |b, y| {
                        b.for_each(from[1], to[1], one, |b, x| {
                            let source = b.add(b.mul(y, stride[0]), b.mul(x, stride[1]));
                            let target = b.mul(b.add(b.mul(y, p), x), step);
                            self.vectors(b, channels, |b, c, mask| {
                                let d = load(b, first, b.add(source, c), l as u32, mask);
                                b.store(self.border, b.add(target, c), d);
                            });
                        });
                    });
                });
                let ptr = b.select(whole, first, self.border);
                let rows = b.select(whole, stride[0], b.mul(step, p));
                let columns = b.select(whole, stride[1], step);
                // The vectors of a tap may reach into those of the next one, which come later.
                let out = b.add(b.mul(t, f.dim(&v.buffer.strides[1])), b.mul(tap, channels));
                let out = b.gep(v.ptr, Elem::F32, out);
                let plane = f.dim(&v.buffer.strides[0]);
                let line: Vec<Val> = (0..points)
                    .map(|i| b.gep(ptr, Elem::F32, b.mul(rows, b.i64(i as i64))))
                    .collect();
                self.vectors(b, channels, |b, c, mask| {
                    let half: Vec<Vec<Val>> = (0..points)
                        .map(|j| {
                            let at = b.add(b.mul(columns, b.i64(j as i64)), c);
                            let d: Vec<Val> = line.iter().map(|row| load(b, *row, at, l as u32, mask)).collect();
                            input_transform(b, &d)
                        })
                        .collect();
                    for i in 0..points {
                        let d: Vec<Val> = half.iter().map(|column| column[i]).collect();
                        for (j, x) in input_transform(b, &d).into_iter().enumerate() {
                            let point = b.mul(plane, b.i64((i * points + j) as i64));
                            b.store(out, b.add(point, c), x);
                        }
                    }
                });
            });
        });
    }

    /// Calls `body` with the first of each vector of channels, and the mask of those that exist where that is not all.
    fn vectors(&self, b: &Builder, channels: Val, body: impl Fn(&Builder, Val, Option<Val>)) {
        let l = i64::from(self.lanes);
        let tail = self.w.channels.as_const().is_none_or(|c| c % l != 0);
        b.for_each(b.i64(0), channels, b.i64(l), |b, c| {
            let mask = tail.then(|| b.mask_first(b.sub(channels, c), self.lanes));
            body(b, c, mask);
        });
    }

    /// Outputs of tiles `lo..hi` at columns `n0..n1`.
    fn outputs(&self, b: &Builder, m: &Local, (lo, hi): (Val, Val), (n0, n1): (Val, Val)) {
        let w = self.w;
        let (points, side) = (w.points(), w.schedule.side);
        let l = i64::from(self.lanes);
        let tail = w.n.as_const().is_none_or(|n| n % l != 0);
        let slots = b.alloca(Elem::F32, (side * side) as u64 * u64::from(self.lanes));
        b.for_each(lo, hi, b.i64(1), |b, t| {
            let f = Frame::new(b, self.cx, vec![], None);
            let place = self.place(b, t);
            let rows = b.min(b.sub(f.dim(&w.height), place[1]), b.i64(side as i64));
            let columns = b.min(b.sub(f.dim(&w.width), place[2]), b.i64(side as i64));
            let whole = b.cmp(Cmp::Eq, b.add(rows, columns), b.i64(2 * side as i64));
            let from = b.gep(m.ptr, Elem::F32, b.mul(t, f.dim(&m.buffer.strides[1])));
            let plane = f.dim(&m.buffer.strides[0]);
            b.for_each(n0, n1, b.i64(l), |b, n| {
                let mask = tail.then(|| b.mask_first(b.sub(n1, n), self.lanes));
                let store = |b: &Builder, i: Val, j: Val, acc: Val| {
                    let at = vec![place[0], b.add(place[1], i), b.add(place[2], j), n, b.i64(0), b.i64(0)];
                    let lanes = Lanes {
                        iter: 3,
                        count: self.lanes,
                        mask,
                    };
                    let mut f = Frame::new(b, self.cx, at, Some(lanes));
                    f.acc = Some(acc);
                    for s in &w.stores {
                        f.store(s.buffer, &s.index, s.root);
                    }
                };
                let half: Vec<Vec<Val>> = (0..points)
                    .map(|j| {
                        let point = |i: usize| b.add(b.mul(plane, b.i64((i * points + j) as i64)), n);
                        let d: Vec<Val> = (0..points)
                            .map(|i| b.load(from, Elem::F32, point(i), self.lanes))
                            .collect();
                        output_transform(b, &d)
                    })
                    .collect();
                let y: Vec<Val> = (0..side)
                    .flat_map(|i| {
                        let d: Vec<Val> = half.iter().map(|column| column[i]).collect();
                        output_transform(b, &d)
                    })
                    .collect();
                let written_out = |b: &Builder| {
                    for (k, acc) in y.iter().enumerate() {
                        let [i, j] = [k / side, k % side].map(|i| b.i64(i as i64));
                        store(b, i, j, *acc);
                    }
                    vec![]
                };
                let in_loops = |b: &Builder| {
                    for (k, acc) in y.iter().enumerate() {
                        b.store(slots, b.i64(k as i64 * l), *acc);
                    }
                    b.for_each(b.i64(0), rows, b.i64(1), |b, i| {
                        b.for_each(b.i64(0), columns, b.i64(1), |b, j| {
                            let k = b.add(b.mul(i, b.i64(side as i64)), j);
                            let acc = b.load(slots, Elem::F32, b.mul(k, b.i64(l)), self.lanes);
                            store(b, i, j, acc);
                        });
                    });
                    vec![]
                };
                if w.epilogue.nodes().len() <= INLINE_EPILOGUE {
                    b.if_(whole, &[], written_out, in_loops);
                } else {
                    in_loops(b);
                }
            });
        });
    }
}

fn load(b: &Builder, ptr: Val, at: Val, lanes: u32, mask: Option<Val>) -> Val {
    match mask {
        Some(mask) => b.load_masked(ptr, Elem::F32, at, mask),
        None => b.load(ptr, Elem::F32, at, lanes),
    }
}

/// `Bᵀ d` for a row of 4 or 6 inputs. Points of opposite sign share their even and odd parts.
fn input_transform(b: &Builder, d: &[Val]) -> Vec<Val> {
    let times = |c: f32, x: Val, y: Val| b.mul_add(b.splat(b.f32(c), x.lanes()), x, y);
    if let [d0, d1, d2, d3] = *d {
        return vec![b.sub(d0, d2), b.add(d1, d2), b.sub(d2, d1), b.sub(d1, d3)];
    }
    let (even, odd) = (times(-4.0, d[2], d[4]), times(-4.0, d[1], d[3]));
    let (even2, odd2) = (b.sub(d[4], d[2]), b.sub(d[3], d[1]));
    vec![
        times(4.0, d[0], times(-5.0, d[2], d[4])),
        b.add(even, odd),
        b.sub(even, odd),
        times(2.0, odd2, even2),
        times(-2.0, odd2, even2),
        times(4.0, d[1], times(-5.0, d[3], d[5])),
    ]
}

/// `Aᵀ m` for a row of 4 or 6 points.
fn output_transform(b: &Builder, m: &[Val]) -> Vec<Val> {
    let times = |c: f32, x: Val, y: Val| b.mul_add(b.splat(b.f32(c), x.lanes()), x, y);
    if let [m0, m1, m2, m3] = *m {
        return vec![b.add(b.add(m0, m1), m2), b.sub(b.sub(m1, m2), m3)];
    }
    let (sum, difference) = (b.add(m[1], m[2]), b.sub(m[1], m[2]));
    let (sum2, difference2) = (b.add(m[3], m[4]), b.sub(m[3], m[4]));
    vec![
        b.add(b.add(m[0], sum), sum2),
        times(2.0, difference2, difference),
        times(4.0, sum2, sum),
        b.add(times(8.0, difference2, difference), m[5]),
    ]
}
