//! Windows as code: see [`cameo_kernel::window`] for what they are.
//!
//! Windows next to each other are computed together: the terms of one sum wait for each other, those of neighbours do not,
//! and neighbours share weights and most of what they read. Row iterators run over what is inside of the input; at the left
//! and right border that differs between neighbours, and is written out where extents are known.

use cameo_ir::{Dim, Sym};
use cameo_kernel::program::{Nest, Reduction};
use cameo_kernel::window::{Tap, Window};

use super::body::{Frame, KernelCx, Lanes, identity, walk};
use super::nest::{Emit, RowPoint, Stage, shares};
use super::{Builder, Val};

/// Most windows that are computed together: their sums and what they read fit into registers.
const TOGETHER: i64 = 8;

/// Points of the last row iterator that are computed.
enum Points {
    /// Of each window: a range, written out.
    Known(Vec<(i64, i64)>),
    /// A loop, the same for all windows.
    Counted(Val, Val),
}

/// Consecutive windows along a row.
enum Segment {
    /// Together: the position of the first, and the points of each.
    Border(i64, Vec<(i64, i64)>),
    /// A range of whole windows, so many together.
    Inside(Val, Val, i64),
    /// A range of windows one by one.
    Single(Val, Val),
}

/// How many steps it takes to get to `x` or past it from 0.
fn up(x: i64, step: i64) -> i64 {
    let x = x.max(0);
    x / step + i64::from(x % step > 0)
}

/// Renders the nest for share `part` of `parts`.
pub fn emit(b: &Builder, cx: &KernelCx, nest: &Nest, w: &Window, lanes: u32, part: Val, parts: Val) {
    let e = Emit::new(cx, nest, lanes, b.i64(0));
    let n = nest.outer.len();
    let top = Frame::new(b, cx, vec![], None);
    let rows = top.dim(&Dim::product(&nest.outer[..w.along]));
    let width = top.dim(&nest.outer[n - 1]);
    let rows_of: Vec<usize> = (0..w.along).collect();
    shares(b, rows, width, lanes, (part, parts), |b, row, range| {
        let mut iters = vec![b.i64(0); n + nest.row.len()];
        walk(b, cx, row, &rows_of, &nest.outer, &mut iters);
        e.row(b, w, &iters, range);
    });
}

impl Emit<'_, '_> {
    /// All windows of a row, at a range of lanes.
    fn row(&self, b: &Builder, w: &Window, iters: &[Val], lanes: (Val, Val)) {
        let windows = |first: Val, count: i64| -> Vec<Vec<Val>> {
            let window = |i| {
                let mut iters = iters.to_vec();
                iters[w.along] = b.add(first, b.i64(i));
                iters
            };
            (0..count).map(window).collect()
        };
        let last = self.nest.row.len() - 1;
        for s in self.segments(b, w) {
            match s {
                Segment::Border(first, points) => {
                    let windows = windows(b.i64(first), points.len() as i64);
                    self.vectors(b, w, &windows, &Points::Known(points), lanes);
                }
                Segment::Inside(from, to, count) => b.for_each(from, to, b.i64(count), |b, first| {
                    let windows = windows(first, count);
                    let points = match &w.taps[last] {
                        Some(t) if !t.position.uses(&Sym::Iter(w.along as u32)) => {
                            let (lo, hi) = self.clip(b, t, last, &windows[0]);
                            Points::Counted(lo, hi)
                        }
                        _ => Points::Known(vec![(0, self.points(last)); windows.len()]),
                    };
                    self.vectors(b, w, &windows, &points, lanes);
                }),
                Segment::Single(from, to) => b.for_each(from, to, b.i64(1), |b, first| {
                    let windows = windows(first, 1);
                    let (lo, hi) = self.range(b, w, last, &windows[0]);
                    self.vectors(b, w, &windows, &Points::Counted(lo, hi), lanes);
                }),
            }
        }
    }

    /// How many points a row iterator has.
    fn points(&self, row: usize) -> i64 {
        self.nest.row[row].as_const().unwrap_or(0)
    }

    /// The windows of a row, from the left to the right.
    fn segments(&self, b: &Builder, w: &Window) -> Vec<Segment> {
        let last = self.nest.row.len() - 1;
        let extent = &self.nest.outer[w.along];
        let (zero, end) = (b.i64(0), Frame::new(b, self.cx, vec![], None).dim(extent));
        // Whole windows: as many together as cover the range with the fewest left over.
        let inside = |from: i64, to: i64| -> Vec<Segment> {
            let together = (TOGETHER / 2..=TOGETHER)
                .min_by_key(|j| ((to - from) % j, -j))
                .filter(|j| *j <= to - from)
                .unwrap_or((to - from).max(1));
            let whole = to - (to - from) % together;
            let rest = vec![(0, self.points(last)); (to - whole) as usize];
            let mut all = vec![Segment::Inside(b.i64(from), b.i64(whole), together)];
            if !rest.is_empty() {
                all.push(Segment::Border(whole, rest));
            }
            all
        };
        let counted = |from: Val, to: Val| {
            let whole = b.sub(to, b.rem_u(b.max(b.sub(to, from), zero), b.i64(TOGETHER)));
            [
                Segment::Inside(from, whole, TOGETHER),
                Segment::Inside(b.max(from, whole), to, 1),
            ]
        };
        let tap = w.taps[last]
            .as_ref()
            .filter(|t| t.position.uses(&Sym::Iter(w.along as u32)));
        let Some(tap) = tap else {
            return match extent.as_const() {
                Some(e) => inside(0, e),
                None => counted(zero, end).into(),
            };
        };
        let Some((stride, offset)) = tap.along(w.along) else {
            return vec![Segment::Single(zero, end)];
        };
        let reach = tap.step * (self.points(last) - 1);
        let (Some(extent), Some(input)) = (extent.as_const(), tap.extent.as_const()) else {
            let left = b.min(b.i64(up(-offset, stride)), end);
            let input = Frame::new(b, self.cx, vec![], None).dim(&tap.extent);
            let fits = b.max(b.sub(input, b.i64(offset + reach)), zero);
            let right = b.max(b.min(b.div_ceil(fits, b.i64(stride)), end), left);
            let [several, one] = counted(left, right);
            return vec![Segment::Single(zero, left), several, one, Segment::Single(right, end)];
        };
        // The points of each window that are inside, and the range of windows that have all.
        let range = |i: i64| {
            let at = stride * i + offset;
            let hi = up(input - at, tap.step).min(self.points(last));
            (up(-at, tap.step).min(hi), hi)
        };
        let ranges: Vec<(i64, i64)> = (0..extent).map(range).collect();
        let is_whole = |r: &(i64, i64)| *r == (0, self.points(last));
        let left = ranges.iter().position(is_whole).unwrap_or(ranges.len());
        let right = ranges.iter().rposition(is_whole).map_or(left, |r| r + 1);
        let border = |from: usize, to: usize| -> Vec<Segment> {
            (from..to)
                .step_by(TOGETHER as usize)
                .map(|i| Segment::Border(i as i64, ranges[i..to.min(i + TOGETHER as usize)].to_vec()))
                .collect()
        };
        if extent <= TOGETHER {
            return border(0, ranges.len());
        }
        let mut all = border(0, left);
        all.extend(inside(left as i64, right as i64));
        all.extend(border(right, ranges.len()));
        all
    }

    /// Points of a row iterator that are inside of the input.
    fn range(&self, b: &Builder, w: &Window, row: usize, iters: &[Val]) -> (Val, Val) {
        match &w.taps[row] {
            Some(t) => self.clip(b, t, row, iters),
            None => (b.i64(0), b.i64(self.points(row))),
        }
    }

    fn clip(&self, b: &Builder, t: &Tap, row: usize, iters: &[Val]) -> (Val, Val) {
        let f = Frame::new(b, self.cx, iters.to_vec(), None);
        let (zero, step, at) = (b.i64(0), b.i64(t.step), f.dim(&t.position));
        let up = |x: Val| b.min(b.div_ceil(b.max(x, zero), step), b.i64(self.points(row)));
        (up(b.sub(zero, at)), up(b.sub(f.dim(&t.extent), at)))
    }

    /// Windows at one vector of lanes after the other.
    fn vectors(&self, b: &Builder, w: &Window, windows: &[Vec<Val>], points: &Points, (lo, hi): (Val, Val)) {
        let n = self.nest.outer.len();
        let l = b.i64(i64::from(self.lanes));
        let at = |b: &Builder, first: Val, mask: Option<Val>| {
            let mut windows = windows.to_vec();
            windows.iter_mut().for_each(|w| w[n - 1] = first);
            let lanes = Lanes {
                iter: n - 1,
                count: self.lanes,
                mask,
            };
            self.sums(b, w, &windows, points, lanes);
        };
        let whole = b.add(lo, b.mul(b.div_u(b.sub(hi, lo), l), l));
        b.for_each(lo, whole, l, |b, first| at(b, first, None));
        let tail = b.cmp(super::Cmp::Lt, whole, hi);
        b.when(tail, |b| {
            let mask = b.mask_first(b.sub(hi, whole), self.lanes);
            at(b, whole, Some(mask));
        });
    }

    /// Windows next to each other, a point of each after the other.
    fn sums(&self, b: &Builder, w: &Window, windows: &[Vec<Val>], points: &Points, lanes: Lanes) {
        let nest = self.nest;
        let start = |r: &Reduction| b.splat(identity(b, r.combine, r.dtype), self.lanes);
        let acc: Vec<Val> = windows.iter().flat_map(|_| nest.reductions.iter().map(start)).collect();
        let acc = self.rows(b, w, windows, points, lanes, 0, &acc);
        for (iters, acc) in windows.iter().zip(acc.chunks(nest.reductions.len())) {
            let mut f = Frame::new(b, self.cx, iters.clone(), Some(lanes));
            f.guarded = false;
            f.reduced = acc.iter().copied().map(Some).collect();
            for s in &nest.stores {
                f.store(s.buffer, &s.index, s.root);
            }
        }
    }

    /// Loops over row iterators from `d` on.
    fn rows(
        &self,
        b: &Builder,
        w: &Window,
        windows: &[Vec<Val>],
        points: &Points,
        lanes: Lanes,
        d: usize,
        acc: &[Val],
    ) -> Vec<Val> {
        let nest = self.nest;
        let (n, each) = (nest.outer.len(), nest.reductions.len());
        let moved = |iters: &[Val], to: Val| {
            let mut iters = iters.to_vec();
            iters[n + d] = to;
            iters
        };
        if d + 1 < nest.row.len() {
            let (lo, hi) = self.range(b, w, d, &windows[0]);
            return b.for_(lo, hi, b.i64(1), acc, |b, at, acc| {
                let windows: Vec<Vec<Val>> = windows.iter().map(|w| moved(w, at)).collect();
                self.rows(b, w, &windows, points, lanes, d + 1, acc)
            });
        }
        let stage = Stage {
            reds: (0..each).collect(),
            stores: vec![],
            keep: vec![],
            kept: vec![],
        };
        let point = RowPoint {
            stage: &stage,
            guarded: false,
            reduced: &[],
        };
        let all = |b: &Builder, at: Val, wanted: &dyn Fn(usize) -> bool, acc: &[Val]| -> Vec<Val> {
            let one = |(i, (iters, acc)): (usize, (&Vec<Val>, &[Val]))| match wanted(i) {
                true => self.row_point(b, moved(iters, at), Some(lanes), &point, acc),
                false => acc.to_vec(),
            };
            windows.iter().zip(acc.chunks(each)).enumerate().flat_map(one).collect()
        };
        match points {
            Points::Counted(lo, hi) => b.for_(*lo, *hi, b.i64(1), acc, |b, at, acc| all(b, at, &|_| true, acc)),
            Points::Known(ranges) => (0..self.points(d)).fold(acc.to_vec(), |acc, t| {
                let wanted = |i: usize| (ranges[i].0..ranges[i].1).contains(&t);
                all(b, b.i64(t), &wanted, &acc)
            }),
        }
    }
}
