//! Winograd convolutions: which contractions are 3×3 windows of stride 1, what their kernel is made of.
//!
//! ```text
//! for each block of tiles that stays in L2                 a tile: s×s outputs, (s+2)×(s+2) inputs
//!   V[p, tile, c] = (Bᵀ d B)[p]                            d: the inputs, p: one of (s+2)² points; c: channels, of every
//!                                                          tap along the axes beyond the two of the window
//!   for each panel of output channels
//!     M[p, tile, n] = Σc V[p, tile, c] U[p, n, c]          U = G w Gᵀ, made with the weights section
//!     y = Aᵀ M A, epilogue, stores                         y: the outputs
//! ```
//!
//! A product of s=4 takes a quarter of the direct form's multiplications. Its rounding error is that of numbers some ten
//! times larger than the result's: 2-4e-6 of the root mean square, against 1e-6; s=2 is as exact as the direct form.
//! Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308; points 0, ±1, ±2 and ∞.

use cameo_ir::structured::{Body, Compute, Expr};
use cameo_ir::{Bounds, DType, Dim, Sym, ValueId};

use crate::build::{Builder, Draft};
use crate::contraction::Side;
use crate::expand::LowerError;
use crate::group::Group;
use crate::nest::guards;
use crate::program::{
    ACC, BOperand, Buffer, Chain, Contraction, KernelBody, MAX_LANES, Operand, Pack, Place, Store, Weight, Windows,
    Winograd, WinogradSchedule,
};
use crate::select;

/// G of F(2×2, 3×3) and F(4×4, 3×3): what a row of three weights is at each point.
const G2: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];
const G4: [[f64; 3]; 6] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// G of F(side×side, 3×3).
#[must_use]
pub fn weight_transform(side: usize) -> &'static [[f64; 3]] {
    if side == 2 { &G2 } else { &G4 }
}

/// A 3×3 window of stride 1 in the iterators of a contraction's loops.
pub struct Window {
    /// Parallel iterators that are no window's.
    images: Vec<usize>,
    y: usize,
    x: usize,
    n: usize,
    /// Reduced iterators. A third window is a sum over its taps.
    channel: usize,
    depth: Option<usize>,
    /// The axes of A that y and x run along, and others along which elements may be outside.
    axes: [usize; 2],
    checked: Vec<usize>,
    /// The order of axes that A is copied to first, channels innermost.
    copy: Option<Vec<usize>>,
    /// Without its register tile of the panels.
    weight: Weight,
    schedule: WinogradSchedule,
}

impl Builder<'_> {
    /// The window that a contraction of A and the constant B with columns `n` is, if Winograd's form of it is faster.
    pub(crate) fn windows(&self, c: &Compute, a: &Side, b: &Side, n: usize) -> Option<Window> {
        if self.choices.exact_conv || !b.constant || !(3..=4).contains(&(c.extents.len() - c.parallel)) {
            return None;
        }
        let iter = |i: usize| Sym::Iter(i as u32);
        // `index = iterator + tap + constant` along one axis of A, which is that iterator's alone.
        let along = |tap: usize| -> Option<(usize, usize)> {
            let (axis, at) = a.index.iter().enumerate().find(|(_, d)| d.uses(&iter(tap)))?;
            let (one, rest) = at.affine_in(&iter(tap))?;
            let i = (0..c.parallel).find(|i| rest.uses(&iter(*i)))?;
            let (step, rest) = rest.affine_in(&iter(i))?;
            let free = |d: &Dim| (0..c.extents.len()).all(|i| !d.uses(&iter(i)));
            let once = |i: usize| a.index.iter().filter(|d| d.uses(&iter(i))).count() == 1;
            (one.is_one() && step.is_one() && free(&rest) && once(tap) && once(i)).then_some((axis, i))
        };
        let three = |i: &usize| c.extents[*i].as_const() == Some(3);
        let taps: Vec<usize> = (c.parallel..c.extents.len())
            .filter(|i| three(i) && along(*i).is_some())
            .collect();
        // The innermost two.
        let [.., ky, kx] = taps[..] else { return None };
        let mut others: Vec<usize> = (c.parallel..c.extents.len()).filter(|i| *i != ky && *i != kx).collect();
        // A single tap is none.
        others.sort_by_key(|i| c.extents[*i].is_one());
        if others.len() > 1 && c.extents[others[1]].is_one() {
            others.pop();
        }
        let (mut channel, mut depth) = (*others.first()?, others.get(1).copied());
        // The channel is the one that nothing else moves along.
        let alone = |i: usize| a.index.iter().any(|d| d.as_sym() == Some(&iter(i)));
        if depth.is_some_and(|d| alone(d) && !alone(channel)) {
            (channel, depth) = (depth?, Some(channel));
        }
        let ((ay, y), (ax, x)) = (along(ky)?, along(kx)?);
        let a_buffer = self.side_buffer(a);
        let may_be_outside = |axis: usize| {
            let one = Buffer {
                dtype: a_buffer.dtype,
                strides: vec![Dim::ONE],
                extents: vec![a_buffer.extents[axis].clone()],
            };
            a.fill && !guards(&one, &a.index[axis..=axis], &c.extents).is_empty()
        };
        let others = (0..a.index.len()).filter(|axis| ![ay, ax].contains(axis));
        let checked: Vec<usize> = others.filter(|axis| may_be_outside(*axis)).collect();
        let rest: Vec<usize> = (0..c.parallel)
            .filter(|i| ![y, x, n].contains(i) && !c.extents[*i].is_one())
            .collect();
        if ay == ax
            || checked.iter().any(|axis| a.index[*axis].uses(&iter(channel)))
            || depth.is_some_and(|i| [ay, ax].iter().any(|axis| a.index[*axis].uses(&iter(i))))
            || [y, x].contains(&n)
            || rest.iter().any(|i| b.uses(*i))
            || b.uses(y)
            || b.uses(x)
        {
            return None;
        }
        let bounds = Bounds::of(&c.extents);
        let at = bounds.simplify(&a_buffer.offset(&a.index));
        if rest.iter().any(|i| at.affine_in(&iter(*i)).is_none()) {
            return None;
        }
        let copy: Option<Vec<usize>> = if at.affine_in(&iter(channel))?.0.is_one() {
            None
        } else {
            let axis = a.index.iter().position(|d| d.as_sym() == Some(&iter(channel)))?;
            let alone = a.index.iter().filter(|d| d.uses(&iter(channel))).count() == 1;
            let others = (0..a.index.len()).filter(|i| *i != axis);
            alone.then(|| Some(others.chain([axis]).collect()))?
        };
        let size = |i: usize| c.extents[i].as_const().and_then(|e| usize::try_from(e).ok());
        let (channels, columns) = (size(channel)?, size(n)?);
        let depths = depth.map_or(Some(1), size)?;
        let from = bounds.simplify(&self.side_buffer(b).offset(&b.index));
        let stride = |i: usize| from.affine_in(&iter(i))?.0.as_const();
        let offset = (0..c.extents.len()).try_fold(from.clone(), |d, i| Some(d.affine_in(&iter(i))?.1))?;
        let schedule = select::winograd(
            self.target,
            &Dim::product(&rest.iter().map(|i| c.extents[*i].clone()).collect::<Vec<_>>()),
            [&c.extents[y], &c.extents[x]],
            columns,
            depths * channels,
            self.weight_bytes,
        )?;
        let points = (schedule.side + 2) * (schedule.side + 2);
        let panel = schedule.product.panel;
        let weight = Weight {
            value: b.value,
            dtype: DType::F32,
            pack: Some(Pack {
                batch: vec![],
                n: (columns, stride(n)?),
                k: vec![(depths, depth.map_or(Some(0), stride)?), (channels, stride(channel)?)],
                offset: offset.as_const()?,
                panel,
                windows: Some(Windows {
                    side: schedule.side,
                    strides: [stride(ky)?, stride(kx)?],
                }),
            }),
            elements: points * columns.div_ceil(panel) * panel * depths * channels,
        };
        Some(Window {
            images: rest,
            y,
            x,
            n,
            channel,
            depth,
            axes: [ay, ax],
            checked,
            copy,
            weight,
            schedule,
        })
    }

    /// Builds the kernel of a contraction group whose seed is such a window.
    pub(crate) fn winograd(
        &mut self,
        g: &Group,
        c: &Compute,
        a: &Side,
        w: &Window,
        exits: &[(ValueId, usize, Vec<usize>)],
    ) -> Result<(), LowerError> {
        let mut sub = vec![Dim::ZERO; c.extents.len()];
        let mut images = Dim::ONE;
        for i in w.images.iter().rev() {
            let at = Dim::iter(0).floor_div(&images);
            // The outermost needs no remainder.
            sub[*i] = if Some(i) == w.images.first() {
                at
            } else {
                at.modulo(&c.extents[*i])
            };
            images = images * c.extents[*i].clone();
        }
        let others = [Some(w.y), Some(w.x), Some(w.n), w.depth, Some(w.channel)];
        for (j, i) in others.iter().enumerate() {
            if let Some(i) = i {
                sub[*i] = Dim::iter(j + 1);
            }
        }
        let [height, width, n, depth, channels] = others.map(|i| i.map_or(Dim::ONE, |i| c.extents[i].clone()));
        let all = [&images, &height, &width, &n, &depth, &channels];
        let mut d = Draft::new(all.map(Dim::clone).into());
        let (storage, buffer) = match &w.copy {
            None => self.stored(a.value),
            Some(order) => {
                let storage = self.storage(a.value, Place::Arena);
                self.copy(a.value, storage, order)?;
                (storage, self.buffer_of_copy(a.value, order))
            }
        };
        let index: Vec<Dim> = a.index.iter().map(|i| i.at(&sub)).collect();
        let operand = Operand {
            buffer: d.buffer(storage, buffer),
            index: d.simplify(&index),
        };
        let elements = w.weight.elements;
        let storage = self.weight(w.weight.clone());
        let flat = Buffer {
            dtype: DType::F32,
            strides: vec![Dim::ONE],
            extents: vec![Dim::from(elements)],
        };
        let b = d.buffer(storage, flat);
        let (origin, stores) = self.epilogue(&mut d, g, &sub, exits)?;
        let flops = Dim::product(&c.extents) * Dim::from(2i64);
        let kernel = Winograd {
            images,
            height,
            width,
            n,
            depth,
            channels,
            a: operand,
            axes: w.axes,
            checked: w.checked.clone(),
            b,
            epilogue: std::mem::replace(&mut d.body, Body::new()),
            stores,
            schedule: w.schedule,
        };
        let (product, _) = kernel.product(0);
        let work = Dim::product(&product.batch) * product.m * product.n * Dim::product(&product.k) * Dim::from(2i64);
        let values = exits.iter().map(|(v, s, _)| (*v, *s)).collect();
        self.push(
            d.buffers,
            d.storages,
            KernelBody::Winograd(kernel),
            work,
            flops,
            origin,
            values,
        );
        Ok(())
    }
}

impl Winograd {
    /// Points per side of a tile.
    #[must_use]
    pub fn points(&self) -> usize {
        self.schedule.side + 2
    }

    /// Tiles along y and x of one image.
    #[must_use]
    pub fn tiles(&self) -> [Dim; 2] {
        let side = Dim::from(self.schedule.side);
        [self.height.ceil_div(&side), self.width.ceil_div(&side)]
    }

    /// The contractions, one per point, with the buffers of V and M: `first` and the one after it. They have the rows of all
    /// blocks and M the columns of one panel: whoever renders a part moves their addresses.
    #[must_use]
    pub fn product(&self, first: usize) -> (Contraction, [Buffer; 2]) {
        let [ty, tx] = self.tiles();
        let m = self.images.clone() * ty * tx;
        let all = Dim::from(self.points() * self.points());
        // Points are off powers of two apart, as rows are.
        let local = |row: Dim| Buffer {
            dtype: DType::F32,
            strides: vec![
                row.clone() * Dim::from(self.schedule.block) + Dim::from(MAX_LANES),
                row.clone(),
                Dim::ONE,
            ],
            extents: vec![all.clone(), m.clone(), row],
        };
        let s = self.schedule.product;
        let sum = self.depth.clone() * self.channels.clone();
        let buffers = [local(Chain::stride(&sum)), local(Dim::from(s.nv * s.lanes))];
        let mut epilogue = Body::new();
        let root = epilogue.push(Expr::Load {
            operand: ACC,
            dtype: DType::F32,
            index: vec![],
            fill: None,
        });
        let [point, tile, n, c] = [0, 1, 2, 3].map(Dim::iter);
        let product = Contraction {
            batch: vec![all],
            m,
            n: self.n.clone(),
            k: vec![sum],
            a: Operand {
                buffer: first,
                index: vec![point.clone(), tile.clone(), c],
            },
            a_fill: false,
            b: BOperand::Packed {
                buffer: self.b,
                batch: vec![true],
            },
            epilogue,
            stores: vec![Store {
                buffer: first + 1,
                index: vec![point, tile, n],
                root,
            }],
            schedule: s,
        };
        (product, buffers)
    }

    /// Elements of V, of M and of the inputs of one tile at the border of an image.
    #[must_use]
    pub fn scratch(&self) -> [Dim; 3] {
        let (_, [v, m]) = self.product(0);
        let all = Dim::from(self.points() * self.points());
        [
            v.strides[0].clone() * all.clone(),
            m.strides[0].clone() * all.clone(),
            self.border() * all,
        ]
    }

    /// Elements from one input of a border tile to the next.
    #[must_use]
    pub fn border(&self) -> Dim {
        let lanes = Dim::from(MAX_LANES);
        self.channels.ceil_div(&lanes) * lanes
    }

    pub(crate) fn scratch_bytes(&self) -> Dim {
        self.scratch().into_iter().fold(Dim::ZERO, |a, e| a + e) * Dim::from(4i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::x86_64::{V3, V4};
    use crate::{Choices, Program, Target};

    fn program(text: &str, target: &Target, choices: Choices) -> Program {
        let g = cameo_ir::text::parse(text, &|_, bytes| Some(vec![0; bytes].into())).expect("parses");
        crate::partition(&g, target, choices).expect("partitions")
    }

    /// The forms of the program's kernels that are no nests.
    fn forms(text: &str) -> Vec<String> {
        let form = |k: &crate::program::Kernel| match &k.body {
            KernelBody::Winograd(w) => Some(w.schedule.form()),
            KernelBody::Contraction(_) => Some("direct".into()),
            _ => None,
        };
        let p = program(text, &V4, Choices::default());
        p.kernels.iter().filter_map(form).collect()
    }

    /// A convolution `[images, channels, size, size] * [n, channels / group, kernel]`, channels innermost.
    fn conv(images: &str, size: &str, channels: usize, n: usize, kernel: &str, attrs: &str) -> String {
        format!(
            r#"graph @g (%0 "x": f32[{images},{size},{size},{channels}]) symbols B=1.., S=3.. {{
              weight %1: f32[{n},{channels},{kernel}] = blob("w")
              %2 = Transpose(%0) {{perm=[0,3,1,2]}}
              %3 = Conv(%2, %1) {{{attrs}}}
              %4 = Transpose(%3) {{perm=[0,2,3,1]}}
              return %4 "y"
            }}"#
        )
    }

    #[test]
    fn images_and_weights_choose_the_form() {
        let form = |images: &str, size: &str, channels: usize, n: usize| {
            forms(&conv(images, size, channels, n, "3,3", "pads=[1,1,1,1]"))
        };
        let (two, four) = (["winograd F(2x2,3x3)"], ["winograd F(4x4,3x3)"]);
        assert_eq!(form("1", "56", 64, 64), four);
        assert_eq!(form("B", "S", 16, 24), four);
        // The weights of F(4x4) would fill 38 MB; of many images each is used often enough.
        assert_eq!(form("1", "7", 512, 512), two);
        assert_eq!(form("64", "7", 512, 512), four);
        // Weights that are used once; transforms of few channels, which take longer than their products.
        assert_eq!(form("1", "2", 64, 64), ["direct"]);
        assert_eq!(form("1", "56", 3, 64), ["direct"]);
    }

    #[test]
    fn other_windows_are_sums_of_products() {
        let direct = |text: &str| assert_eq!(forms(text), ["direct"], "{text}");
        let of = |kernel: &str, attrs: &str| conv("1", "28", 32, 32, kernel, attrs);
        assert_eq!(forms(&of("3,3", "")), ["winograd F(4x4,3x3)"]);
        direct(&of("3,3", "strides=[2,2]"));
        direct(&of("3,3", "strides=[1,2]"));
        direct(&of("3,3", "dilations=[2,2]"));
        direct(&of("5,5", "pads=[2,2,2,2]"));
        direct(&of("3,1", "pads=[1,0,1,0]"));
        direct(&of("1,1", ""));
        direct(
            &of("3,3", "")
                .replace("f32[32,32,3,3]", "f32[32,8,3,3]")
                .replace("Conv(%2, %1) {", "Conv(%2, %1) {group=4"),
        );
        // The weight is not known.
        let weight = r#"weight %1: f32[32,32,3,3] = blob("w")"#;
        direct(
            &of("3,3", "")
                .replace(weight, "")
                .replace(r#"(%0 "x""#, r#"(%1 "w": f32[32,32,3,3], %0 "x""#),
        );
    }

    #[test]
    fn windows_of_more_axes_are_summed_over_their_taps() {
        let of = |kernel: &str, attrs: &str| {
            let text = format!(
                r#"graph @g (%0 "x": f32[2,32,9,12,12]) {{
                  weight %1: f32[32,32,{kernel}] = blob("w")
                  %2 = Conv(%0, %1) {{{attrs}}}
                  return %2 "y"
                }}"#
            );
            program(&text, &V4, Choices::default())
        };
        let products = |p: &Program| -> Vec<String> {
            let product = |k: &crate::program::Kernel| match &k.body {
                KernelBody::Winograd(w) => Some(format!("{} images, depth {}", w.images, w.depth)),
                _ => None,
            };
            p.kernels.iter().filter_map(product).collect()
        };
        assert_eq!(products(&of("3,3,3", "")), ["14 images, depth 3"]);
        assert_eq!(products(&of("1,3,3", "")), ["18 images, depth 1"]);
        assert_eq!(
            products(&of("5,3,3", "strides=[2,1,1], pads=[2,1,1,2,1,1]")),
            ["10 images, depth 5"]
        );
        // Along the first and the last axis.
        assert_eq!(products(&of("3,3,3", "strides=[1,2,1]")), ["10 images, depth 3"]);
        assert!(products(&of("3,3,3", "strides=[2,2,1]")).is_empty());
        assert!(products(&of("3,3,1", "")).is_empty());
    }

    #[test]
    fn channels_that_are_outside_are_copied_inside() {
        let text = r#"graph @g (%0 "x": f32[1,24,13,13]) {
          weight %1: f32[24,24,3,3] = blob("w")
          %2 = Conv(%0, %1)
          return %2 "y"
        }"#;
        let p = program(text, &V4, Choices::default());
        let w = p.steps.iter().find_map(|s| match &p.kernels[s.kernel].body {
            KernelBody::Winograd(w) => Some((w, s)),
            _ => None,
        });
        let (w, step) = w.expect("Winograd's form");
        assert!(p.kernels[step.kernel].buffers[w.a.buffer].strides[1].is_one());
        assert_eq!(p.storages[step.buffers[w.a.buffer]].place, Place::Arena);
    }

    #[test]
    fn exact_convolutions_are_a_choice() {
        let text = conv("1", "28", 32, 32, "3,3", "");
        let p = program(
            &text,
            &V4,
            Choices {
                exact_conv: true,
                ..Choices::default()
            },
        );
        assert!(matches!(p.kernels[0].body, KernelBody::Contraction(_)));
    }

    #[test]
    fn blocks_stay_in_l2_and_points_off_powers_of_two() {
        for target in [V3, V4, crate::targets::aarch64::NEON] {
            for channels in [16, 64, 256] {
                let p = program(
                    &conv("1", "56", channels, channels, "3,3", ""),
                    &target,
                    Choices::default(),
                );
                let KernelBody::Winograd(w) = &p.kernels[0].body else {
                    panic!("{} {channels}", target.name)
                };
                let bytes = w.scratch_bytes().as_const().expect("static");
                assert!(bytes <= target.l2 as i64 * 5 / 4, "{} {channels}: {bytes}", target.name);
                let s = w.schedule;
                assert_eq!(s.block % s.product.mr, 0);
                let (_, buffers) = w.product(0);
                assert!(
                    buffers
                        .iter()
                        .all(|b| b.strides[0].as_const().is_some_and(|s| s % 256 != 0))
                );
            }
        }
    }
}
