//! Windows over few channels, such as a network's first convolution: which contractions they are, and the copy they read.
//!
//! A sum over a window's taps and a handful of channels spends more on where its rows are, and on whether they are inside,
//! than on products. So the input is copied once, with its padding around, lines of one channel after the other: then
//! windows along a line are evenly apart, and taps of the other axes and channels are one reduction.

use cameo_ir::structured::{Compute, Scalar};
use cameo_ir::{Bounds, Dim, Origin, Sym};

use crate::build::{Builder, Draft};
use crate::contraction::Side;
use crate::expand::LowerError;
use crate::program::{Buffer, Place, Storage, Store};
use crate::select::nominal;

/// What a row takes to be found at each tap, and for each panel of columns again, and what a copied element takes, in
/// cycles: with 16 to 32 channels and 27 taps, copying makes the whole convolution 1.3 times as fast.
const TAP: f64 = 3.0;
const COPY: f64 = 1.5;

/// Shorter lines fill no register tile.
const SHORT_LINE: i64 = 8;

/// A contraction along lines of a copy of operand A.
pub(crate) struct Lines {
    /// The iterators along a line: of windows, and of a window's taps.
    pub x: usize,
    pub tap: usize,
    pub storage: usize,
    pub buffer: Buffer,
    pub index: Vec<Dim>,
}

impl Builder<'_> {
    /// Copies operand A of a contraction for its windows, if there are some and their channels are few. `rows` are
    /// iterators of A alone, the innermost last, `n` is that of the columns.
    pub(crate) fn lines(
        &mut self,
        c: &Compute,
        a: &Side,
        rows: &[usize],
        n: usize,
    ) -> Result<Option<Lines>, LowerError> {
        let Some((x, tap, order)) = self.few_channels(c, a, rows, n) else {
            return Ok(None);
        };
        let bounds = Bounds::of(&c.extents);
        // What each axis is read from and to, in all windows.
        let end = |d: &Dim, last: bool| {
            let at = |s: &Sym| match s {
                Sym::Iter(i) if last => Some(c.extents[*i as usize].clone() - Dim::ONE),
                Sym::Iter(_) => Some(Dim::ZERO),
                _ => None,
            };
            bounds.simplify(&d.subst(&at))
        };
        let first: Vec<Dim> = a.index.iter().map(|d| end(d, false)).collect();
        let extents: Vec<Dim> = (a.index.iter().zip(&first))
            .map(|(d, first)| end(d, true) - first.clone() + Dim::ONE)
            .collect();
        let mut strides = vec![Dim::ONE; order.len()];
        let mut elements = Dim::ONE;
        for axis in order.iter().rev() {
            strides[*axis] = elements.clone();
            elements = elements * extents[*axis].clone();
        }
        let dtype = self.info.graph.fact(a.value).dtype;
        let buffer = Buffer {
            dtype,
            strides,
            extents: extents.clone(),
        };
        let storage = self.program.storages.len();
        self.program.storages.push(Storage {
            name: self.info.graph.value(a.value).name.clone(),
            dtype,
            elements,
            place: Place::Arena,
        });
        let outer: Vec<Dim> = order.iter().map(|i| extents[*i].clone()).collect();
        let mut index = vec![Dim::ZERO; order.len()];
        for (i, axis) in order.iter().enumerate() {
            index[*axis] = Dim::iter(i);
        }
        let mut d = Draft::new(outer.clone());
        let from: Vec<Dim> = index.iter().zip(&first).map(|(i, f)| i.clone() + f.clone()).collect();
        let root = self.expr(&mut d, a.value, &from, a.fill.then_some(Scalar::Float(0)))?;
        let store = Store {
            buffer: d.buffer(storage, buffer.clone()),
            index,
            root,
        };
        let producer = self.info.graph.producer(a.value);
        let origin = producer.map_or_else(Origin::default, |(n, _)| self.info.graph.node(n).origin.clone());
        self.push_map(d, outer, store, origin, vec![]);
        Ok(Some(Lines {
            x,
            tap,
            storage,
            buffer,
            index: (a.index.iter().zip(first))
                .map(|(i, first)| bounds.simplify(&(i.clone() - first)))
                .collect(),
        }))
    }

    /// Iterators of the windows and taps along a line, and the order of axes of the copy.
    fn few_channels(&self, c: &Compute, a: &Side, rows: &[usize], n: usize) -> Option<(usize, usize, Vec<usize>)> {
        if a.constant || !self.placed.contains_key(&a.value) {
            return None;
        }
        let iter = |i: usize| Sym::Iter(i as u32);
        let axes = |i: usize| -> Vec<usize> { (0..a.index.len()).filter(|x| a.index[*x].uses(&iter(i))).collect() };
        let all: Vec<usize> = (0..c.extents.len()).collect();
        // Each axis is a sum of iterators times positive numbers.
        let plain = |d: &Dim| {
            all.iter().all(|i| {
                d.affine_in(&iter(*i))
                    .is_some_and(|(c, _)| c.as_const().is_some_and(|c| c >= 0))
            })
        };
        if !a.index.iter().all(plain) {
            return None;
        }
        let x = *rows.last()?;
        let [line] = axes(x)[..] else { return None };
        let step = |i: usize| a.index[line].affine_in(&iter(i))?.0.as_const();
        let reduced = || c.parallel..c.extents.len();
        let mut taps = reduced().filter(|i| a.index[line].uses(&iter(*i)));
        let (Some(tap), None) = (taps.next(), taps.next()) else {
            return None;
        };
        // The channel is the one reduced iterator that no window moves along.
        let shared = |i: usize| axes(i).iter().any(|x| rows.iter().any(|r| a.index[*x].uses(&iter(*r))));
        let mut channels = reduced().filter(|i| !shared(*i));
        let channel = channels.next();
        let channel_axis = match channel {
            Some(i) => match axes(i)[..] {
                [axis] if axis != line => Some(axis),
                _ => return None,
            },
            None => None,
        };
        let count =
            |iters: &mut dyn Iterator<Item = usize>| -> f64 { iters.map(|i| nominal(&c.extents[i]) as f64).product() };
        let windows = count(&mut rows.iter().copied());
        let taps = count(&mut reduced().filter(|i| Some(*i) != channel));
        let elements = nominal(&self.info.graph.fact(a.value).element_count()) as f64;
        let plan = self.target.plan();
        let panel = plan.tiles.iter().map(|t| t.nv * plan.lanes).max().unwrap_or(1);
        let panels = (nominal(&c.extents[n]) as f64 / panel as f64).ceil();
        let good = channels.next().is_none()
            && axes(tap) == [line]
            && TAP * taps * panels * windows > COPY * elements
            && c.extents[tap].as_const().is_some_and(|e| e >= 2)
            && nominal(&c.extents[x]) >= SHORT_LINE
            // Windows that overlap: others are read once, and need no copy.
            && (a.fill || step(x)? < step(tap)? * c.extents[tap].as_const()?);
        let others = (0..a.index.len()).filter(|i| *i != line && Some(*i) != channel_axis);
        good.then(|| (x, tap, others.chain(channel_axis).chain([line]).collect()))
    }
}

#[cfg(test)]
mod tests {
    use crate::program::KernelBody;
    use crate::testing::program;

    /// The kinds of kernels of a convolution of `channels` channels, and the extents of the contraction's reduction.
    fn conv(channels: usize, size: &str, kernel: &str, attrs: &str) -> (Vec<&'static str>, Vec<String>) {
        let p = program(&format!(
            r#"graph @g (%0 "x": f32[N,{channels},{size}]) symbols N=1.., H=32.., W=32.. {{
              weight %1: f32[32,{channels},{kernel}] = blob("w")
              %2 = Conv(%0, %1) {{{attrs}}}
              %3 = Transpose(%2) {{perm=[0,2,3,1]}}
              return %3 "y"
            }}"#
        ));
        let k = p.steps.iter().find_map(|s| match &p.kernels[s.kernel].body {
            KernelBody::Contraction(c) => Some(c.k.iter().map(ToString::to_string).collect()),
            _ => None,
        });
        let kinds = p.steps.iter().map(|s| p.kernels[s.kernel].body.kind()).collect();
        (kinds, k.expect("a contraction"))
    }

    #[test]
    fn few_channels_are_copied_line_by_line() {
        for size in ["224,224", "H,W"] {
            let (kinds, k) = conv(3, size, "7,5", "strides=[2,2], pads=[3,2,3,2]");
            assert_eq!(kinds[..2], ["nest", "contraction"], "{size}");
            // Taps along the line, then lines and channels together.
            assert_eq!(k, ["5", "21"], "{size}");
        }
    }

    #[test]
    fn other_windows_are_read_in_place() {
        // Many channels; windows beside each other without padding; lines of few windows.
        assert_eq!(
            conv(16, "64,64", "3,3", "strides=[2,2], pads=[1,1,1,1]").0[0],
            "contraction"
        );
        assert_eq!(conv(3, "64,64", "4,4", "strides=[4,4]").0[0], "contraction");
        assert_eq!(
            conv(3, "64,12", "3,3", "strides=[2,2], pads=[1,1,1,1]").0[0],
            "contraction"
        );
    }
}
