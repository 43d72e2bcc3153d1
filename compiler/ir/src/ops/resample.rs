//! Where along an axis a resampled value comes from: coordinates, positions and weights.
//!
//! Laws: coordinates are computed in `f32`, in the order that the ONNX formulas are written, once with numbers and once as
//! body nodes; positions are clamped into the input.

use crate::structured::{Binary, Body, Expr, ExprId, Unary};
use crate::{DType, Dim};

use super::gather::compare;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    Crop,
    /// Of old TensorFlow; ONNX had it until opset 12, and exporters write it still. An axis that keeps its size stays, as in
    /// ONNX Runtime.
    TfHalfPixelForNn,
}

impl Coordinates {
    const NAMES: [(&'static str, Self); 7] = [
        ("half_pixel", Self::HalfPixel),
        ("half_pixel_symmetric", Self::HalfPixelSymmetric),
        ("pytorch_half_pixel", Self::PytorchHalfPixel),
        ("align_corners", Self::AlignCorners),
        ("asymmetric", Self::Asymmetric),
        ("tf_crop_and_resize", Self::Crop),
        ("tf_half_pixel_for_nn", Self::TfHalfPixelForNn),
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, c)| *c)
    }

    pub(super) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, c)| *c == self).map_or("", |(n, _)| n)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mode {
    Nearest(Rounding),
    Linear,
    Cubic { a: f32 },
}

/// A number of the operation.
#[derive(Clone)]
pub(super) enum Given {
    Number(f32),
    /// An element of an operand, which only a run knows.
    Element {
        operand: usize,
        at: usize,
        dtype: DType,
    },
    /// The quotient of two dims.
    Ratio(Dim, Dim),
}

impl Given {
    fn number(&self) -> Option<f32> {
        match self {
            Self::Number(v) => Some(*v),
            Self::Ratio(a, b) => Some(a.as_const()? as f32 / b.as_const()? as f32),
            Self::Element { .. } => None,
        }
    }

    fn node(&self, b: &mut Body) -> ExprId {
        const F: DType = DType::F32;
        match (self.number(), self) {
            (Some(v), _) => b.float(F, v.into()),
            (None, Self::Element { operand, at, dtype }) => {
                let v = b.load(*operand, *dtype, vec![Dim::from(*at)]);
                b.cast(F, v)
            }
            (None, Self::Ratio(x, y)) => {
                let [x, y] = [x, y].map(|d| {
                    let i = b.push(Expr::Index(d.clone()));
                    b.cast(F, i)
                });
                b.binary(Binary::Div, x, y)
            }
            (None, Self::Number(v)) => b.float(F, (*v).into()),
        }
    }
}

/// An axis that is resampled.
pub(super) struct Axis {
    pub axis: usize,
    pub input: Dim,
    pub output: Dim,
    /// Output positions per input position, where it is not `output / input`.
    pub scale: Option<Given>,
    /// The part of the axis that `Crop` takes, in fractions of it.
    pub roi: (Given, Given),
}

/// How coordinates become values.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Sampling {
    pub mode: Mode,
    /// Whether positions outside of the input count nothing; where a mode has two taps, they make no difference.
    pub exclude_outside: bool,
    pub coordinates: Coordinates,
}

impl Axis {
    /// Output over input extent, when it is a whole number and also the scale.
    pub(super) fn factor(&self) -> Option<i64> {
        let k = self.output.div_exact(&self.input)?.as_const()?;
        (k >= 1 && self.scale.as_ref().is_none_or(|s| s.number() == Some(k as f32))).then_some(k)
    }

    pub(super) fn enlarges(&self) -> bool {
        match (&self.scale, self.input.as_const(), self.output.as_const()) {
            (Some(s), ..) => s.number().is_some_and(|s| s >= 1.0),
            (None, Some(d), Some(o)) => o >= d,
            _ => self.factor().is_some(),
        }
    }

    /// Output positions per input position, with numbers.
    pub(super) fn scale_number(&self) -> f32 {
        let number = |d: &Dim| d.as_const().unwrap_or(0) as f32;
        let given = self.scale.as_ref().and_then(Given::number);
        given.unwrap_or_else(|| number(&self.output) / number(&self.input))
    }

    /// The same as a body node.
    pub(super) fn scale_node(&self, b: &mut Body) -> ExprId {
        match (&self.scale, self.input.as_const(), self.output.as_const()) {
            (Some(s), ..) => s.node(b),
            (None, Some(d), Some(o)) => b.float(DType::F32, f64::from(o as f32 / d as f32)),
            _ => Given::Ratio(self.output.clone(), self.input.clone()).node(b),
        }
    }

    /// The input coordinate of output position `x`, with numbers.
    pub(super) fn at(&self, how: Coordinates, x: usize) -> f32 {
        let number = |d: &Dim| d.as_const().unwrap_or(0) as f32;
        let (x, input, output) = (x as f32, number(&self.input), number(&self.output));
        let scale = self.scale_number();
        let end_of = |v: &Given| v.number().unwrap_or(0.0);
        let (start, end) = (end_of(&self.roi.0), end_of(&self.roi.1));
        let half_pixel = (x + 0.5) / scale - 0.5;
        match how {
            Coordinates::HalfPixel => half_pixel,
            Coordinates::HalfPixelSymmetric => {
                // In the order of ONNX's reference: what is rounded down is told apart by the last bit.
                let adjustment = output / (scale * input);
                input / 2.0 * (1.0 - adjustment) + (x + 0.5) / scale - 0.5
            }
            Coordinates::PytorchHalfPixel if output > 1.0 => half_pixel,
            Coordinates::PytorchHalfPixel => 0.0,
            Coordinates::AlignCorners if output == 1.0 => 0.0,
            Coordinates::AlignCorners => x * (input - 1.0) / (output - 1.0),
            Coordinates::Asymmetric => x / scale,
            Coordinates::TfHalfPixelForNn if scale == 1.0 => x,
            Coordinates::TfHalfPixelForNn => (x + 0.5) / scale,
            Coordinates::Crop if output > 1.0 => {
                start * (input - 1.0) + x * (end - start) * (input - 1.0) / (output - 1.0)
            }
            Coordinates::Crop => 0.5 * (start + end) * (input - 1.0),
        }
    }

    /// The same as a body node.
    pub(super) fn coordinate(&self, b: &mut Body, how: Coordinates, x: &Dim) -> ExprId {
        const F: DType = DType::F32;
        let number = |b: &mut Body, d: &Dim| match d.as_const() {
            Some(c) => b.float(F, f64::from(c as f32)),
            None => {
                let i = b.push(Expr::Index(d.clone()));
                b.cast(F, i)
            }
        };
        let last = |d: &Dim| d.clone() - Dim::ONE;
        // Where the output has one element, a quotient by it is taken of 0.
        let steps = last(&self.output).maximum(&Dim::ONE);
        let scale = |b: &mut Body| self.scale_node(b);
        let half_pixel = |b: &mut Body, offset: Option<ExprId>| {
            let (x, half, scale) = (number(b, x), b.float(F, 0.5), scale(b));
            let x = b.binary(Binary::Add, x, half);
            let mut x = b.binary(Binary::Div, x, scale);
            if let Some(offset) = offset {
                x = b.binary(Binary::Add, offset, x);
            }
            b.binary(Binary::Sub, x, half)
        };
        let unless_single = |b: &mut Body, many: ExprId, one: ExprId| match self.output.as_const() {
            Some(1) => one,
            Some(_) => many,
            None => {
                let test = compare(b, Binary::Lt, Dim::ONE, self.output.clone());
                b.select(test, many, one)
            }
        };
        match how {
            Coordinates::HalfPixel => half_pixel(b, None),
            Coordinates::HalfPixelSymmetric => {
                let (scale, input, output) = (scale(b), number(b, &self.input), number(b, &self.output));
                let exact = b.binary(Binary::Mul, scale, input);
                let adjustment = b.binary(Binary::Div, output, exact);
                let (one, two) = (b.float(F, 1.0), b.float(F, 2.0));
                let center = b.binary(Binary::Div, input, two);
                let rest = b.binary(Binary::Sub, one, adjustment);
                let offset = b.binary(Binary::Mul, center, rest);
                half_pixel(b, Some(offset))
            }
            Coordinates::PytorchHalfPixel => {
                let (many, one) = (half_pixel(b, None), b.float(F, 0.0));
                unless_single(b, many, one)
            }
            Coordinates::AlignCorners => {
                let (x, span, steps) = (number(b, x), number(b, &last(&self.input)), number(b, &steps));
                let x = b.binary(Binary::Mul, x, span);
                b.binary(Binary::Div, x, steps)
            }
            Coordinates::Asymmetric | Coordinates::TfHalfPixelForNn => {
                let (mut x, scale) = (number(b, x), scale(b));
                if how == Coordinates::TfHalfPixelForNn {
                    let (zero, half, one) = (b.float(F, 0.0), b.float(F, 0.5), b.float(F, 1.0));
                    let same = b.binary(Binary::Eq, scale, one);
                    let shift = b.select(same, zero, half);
                    x = b.binary(Binary::Add, x, shift);
                }
                b.binary(Binary::Div, x, scale)
            }
            Coordinates::Crop => {
                let (start, end) = (self.roi.0.node(b), self.roi.1.node(b));
                let (x, span, steps) = (number(b, x), number(b, &last(&self.input)), number(b, &steps));
                let part = b.binary(Binary::Sub, end, start);
                let moved = b.binary(Binary::Mul, x, part);
                let moved = b.binary(Binary::Mul, moved, span);
                let moved = b.binary(Binary::Div, moved, steps);
                let first = b.binary(Binary::Mul, start, span);
                let many = b.binary(Binary::Add, first, moved);
                let (half, both) = (b.float(F, 0.5), b.binary(Binary::Add, start, end));
                let middle = b.binary(Binary::Mul, half, both);
                let one = b.binary(Binary::Mul, middle, span);
                unless_single(b, many, one)
            }
        }
    }

    /// Integer form of nearest sampling when the axis grows by a whole factor `k`: `fdiv(x + shift, k)`, clamped where
    /// the shift leads outside.
    pub(super) fn nearest_exactly(&self, how: Coordinates, rounding: Rounding, x: &Dim) -> Option<Dim> {
        let k = self.factor()?;
        // The coordinate is (2x + offset) / 2k.
        let offset = match how {
            Coordinates::HalfPixel | Coordinates::HalfPixelSymmetric | Coordinates::PytorchHalfPixel => 1 - k,
            Coordinates::Asymmetric => 0,
            Coordinates::TfHalfPixelForNn => i64::from(k != 1),
            Coordinates::AlignCorners | Coordinates::Crop => return None,
        };
        let numerator = match rounding {
            Rounding::Floor => offset,
            Rounding::Ceil => offset + 2 * k - 1,
            Rounding::PreferFloor => offset + k - 1,
            Rounding::PreferCeil => offset + k,
        };
        let shift = numerator.div_euclid(2);
        let at = (x.clone() + Dim::from(shift)).floor_div(&Dim::from(k));
        Some(match shift {
            0 => at,
            _ => at.maximum(&Dim::ZERO).minimum(&(self.input.clone() - Dim::ONE)),
        })
    }

    /// A position held as a whole `f32`, as an `i64` within the input.
    pub(super) fn clamped(&self, b: &mut Body, position: ExprId) -> ExprId {
        let position = b.cast(DType::I64, position);
        let zero = b.push(Expr::Index(Dim::ZERO));
        let last = b.push(Expr::Index(self.input.clone() - Dim::ONE));
        let position = b.binary(Binary::Max, position, zero);
        b.binary(Binary::Min, position, last)
    }
}

/// The cubic's weight at a distance (Keys 1981).
pub(super) fn keys(a: f32, d: f32) -> f32 {
    match d {
        ..=1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
        ..2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
        _ => 0.0,
    }
}

/// The coefficients of its two parts, near and far, for Horner's rule.
const fn parts_of_keys(a: f32) -> [[f32; 4]; 2] {
    [[a + 2.0, -(a + 3.0), 0.0, 1.0], [a, -5.0 * a, 8.0 * a, -4.0 * a]]
}

/// A polynomial by Horner's rule.
fn polynomial(b: &mut Body, d: ExprId, coefficients: [f32; 4]) -> ExprId {
    let mut sum = b.float(DType::F32, coefficients[0].into());
    for c in &coefficients[1..] {
        let c = b.float(DType::F32, (*c).into());
        let product = b.binary(Binary::Mul, sum, d);
        sum = b.binary(Binary::Add, product, c);
    }
    sum
}

/// [`keys`] as a body node.
pub(super) fn keys_node(b: &mut Body, a: f32, d: ExprId) -> ExprId {
    const F: DType = DType::F32;
    let [near, far] = parts_of_keys(a).map(|c| polynomial(b, d, c));
    let (zero, one, two) = (b.float(F, 0.0), b.float(F, 1.0), b.float(F, 2.0));
    let (inner, inside) = (b.binary(Binary::Le, d, one), b.binary(Binary::Lt, d, two));
    let outer = b.select(inside, far, zero);
    b.select(inner, near, outer)
}

/// Weights of the four taps around a coordinate with fraction `f`.
fn cubic(a: f32, f: f32) -> [f32; 4] {
    let [near, far] = parts_of_keys(a).map(|[c3, c2, c1, c0]| move |d: f32| ((c3 * d + c2) * d + c1) * d + c0);
    [far(f + 1.0), near(f), near(1.0 - f), far(2.0 - f)]
}

/// Input positions with their weights for output position `x`.
pub(super) fn taps(how: Sampling, axis: &Axis, x: usize) -> Vec<(usize, f32)> {
    let at = axis.at(how.coordinates, x);
    let last = axis.input.as_const().unwrap_or(1) - 1;
    let clamp = |p: f32| (p as i64).clamp(0, last) as usize;
    let first = at.floor();
    let f = at - first;
    match how.mode {
        Mode::Nearest(r) => vec![(
            clamp(match r {
                Rounding::Floor => first,
                Rounding::Ceil => at.ceil(),
                Rounding::PreferFloor if f == 0.5 => first,
                Rounding::PreferFloor | Rounding::PreferCeil => (at + 0.5).floor(),
            }),
            1.0,
        )],
        Mode::Linear => vec![(clamp(first), 1.0 - f), (clamp(first + 1.0), f)],
        Mode::Cubic { a } => {
            let mut list: Vec<(f32, f32)> = cubic(a, f)
                .into_iter()
                .enumerate()
                .map(|(k, w)| (first + k as f32 - 1.0, w))
                .collect();
            if how.exclude_outside {
                list.retain(|(p, _)| (0.0..=last as f32).contains(p));
                let sum: f32 = list.iter().map(|(_, w)| w).sum();
                list.iter_mut().for_each(|(_, w)| *w /= sum);
            }
            list.into_iter().map(|(p, w)| (clamp(p), w)).collect()
        }
    }
}

/// Position nodes with their weights (none for the only tap) for the axis' output position `x`.
pub(super) fn tap_nodes(b: &mut Body, how: Sampling, axis: &Axis, at: ExprId) -> Vec<(ExprId, Option<ExprId>)> {
    const F: DType = DType::F32;
    if let Mode::Nearest(r) = how.mode {
        let half = b.float(F, 0.5);
        let rounded = match r {
            Rounding::Floor => b.unary(Unary::Floor, at),
            Rounding::Ceil => b.unary(Unary::Ceil, at),
            Rounding::PreferFloor => {
                let below = b.binary(Binary::Sub, at, half);
                b.unary(Unary::Ceil, below)
            }
            Rounding::PreferCeil => {
                let above = b.binary(Binary::Add, at, half);
                b.unary(Unary::Floor, above)
            }
        };
        return vec![(axis.clamped(b, rounded), None)];
    }
    let first = b.unary(Unary::Floor, at);
    let f = b.binary(Binary::Sub, at, first);
    let one = b.float(F, 1.0);
    let rest = b.binary(Binary::Sub, one, f);
    let place = |b: &mut Body, k: i64| {
        let k = b.float(F, k as f64);
        b.binary(Binary::Add, first, k)
    };
    let Mode::Cubic { a } = how.mode else {
        let second = place(b, 1);
        return vec![(axis.clamped(b, first), Some(rest)), (axis.clamped(b, second), Some(f))];
    };
    let [near, far] = parts_of_keys(a);
    let (before, after) = (b.binary(Binary::Add, f, one), b.binary(Binary::Add, rest, one));
    let mut weights = vec![];
    for (d, c) in [(before, far), (f, near), (rest, near), (after, far)] {
        weights.push(polynomial(b, d, c));
    }
    let places: Vec<ExprId> = (-1..3).map(|k| place(b, k)).collect();
    if how.exclude_outside {
        let (zero, low) = (b.float(F, 0.0), b.float(F, -0.5));
        let extent = b.push(Expr::Index(axis.input.clone()));
        let extent = b.cast(F, extent);
        let mut sum = zero;
        for (w, p) in weights.iter_mut().zip(&places) {
            let (above, below) = (b.binary(Binary::Lt, low, *p), b.binary(Binary::Lt, *p, extent));
            let inside = b.binary(Binary::And, above, below);
            *w = b.select(inside, *w, zero);
            sum = b.binary(Binary::Add, sum, *w);
        }
        for w in &mut weights {
            *w = b.binary(Binary::Div, *w, sum);
        }
    }
    let places: Vec<ExprId> = places.into_iter().map(|p| axis.clamped(b, p)).collect();
    places.into_iter().zip(weights.into_iter().map(Some)).collect()
}
