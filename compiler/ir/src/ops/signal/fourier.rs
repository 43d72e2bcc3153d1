//! Fourier transforms: products with a table of the unit circle.
//!
//! The table holds what each part (real, imaginary) of an input adds to each part of an output, inverse scale included, so
//! that one matrix product does all. Zeros behind a signal add nothing: rows of the table that meet them are left out.

use std::f64::consts::PI;

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid, normalize_axis};
use crate::ops::chosen::{named, whole};
use crate::ops::composed::{Composed, differ, reshape, slice, transpose};
use crate::ops::fragment::Fragment;
use crate::ops::pointwise::{volume, working};
use crate::ops::signal::{dimension, extent, number, required_number};
use crate::structured::{Binary, Compute, Expr, Unary};
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId};

const FLOATS: &[Param] = &[Param::new("output", Types::FLOAT)];

fn two() -> Dim {
    Dim::from(2i64)
}

/// `cameo::FourierTable`.
pub(super) struct Table;

/// What the table is of.
struct Spec {
    dtype: DType,
    length: Dim,
    rows: Dim,
    columns: Dim,
    /// Parts of an input, parts of an output: 1 when they are real.
    parts: [i64; 2],
    inverse: bool,
}

impl Spec {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let dtype = cx.dtype("dtype")?;
        let parts = match cx.ints("parts")?[..] {
            [from @ (1 | 2), to @ (1 | 2)] => [from, to],
            _ => return invalid("attribute `parts` is two numbers of 1 or 2"),
        };
        if !dtype.is_float() {
            return invalid(format!("a table of {dtype}"));
        }
        Ok(Self {
            dtype,
            length: dimension(cx, "length")?,
            rows: dimension(cx, "rows")?,
            columns: dimension(cx, "columns")?,
            parts,
            inverse: cx.int("inverse")? != 0,
        })
    }

    fn shape(&self) -> Vec<Dim> {
        let [from, to] = self.parts.map(Dim::from);
        vec![self.rows.clone() * from, self.columns.clone() * to]
    }

    /// Whether the inputs are the first half of a symmetric spectrum, so that all but its ends count twice.
    fn folded(&self) -> bool {
        self.inverse && self.parts[1] == 1
    }
}

impl OpDef for Table {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::FourierTable",
            "e^(-2 pi i n k / length) (inverse: conjugated, over length), as real matrices from parts of n to parts of k",
            &[],
            FLOATS,
            &[
                ("columns", AttrDef::ReqDims),
                ("dtype", AttrDef::ReqDType),
                ("inverse", AttrDef::Int(0)),
                ("length", AttrDef::ReqDims),
                ("parts", AttrDef::ReqInts),
                ("rows", AttrDef::ReqDims),
            ],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let spec = Spec::of(cx)?;
        Ok(vec![Fact::new(spec.dtype, spec.shape())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let spec = Spec::of(cx)?;
        let (length, rows, columns) = (extent(&spec.length)?, extent(&spec.rows)?, extent(&spec.columns)?);
        let [from, to] = spec.parts.map(|p| p as usize);
        let shape = [rows * from, columns * to];
        let mut out = vec![0.0; volume(&shape)?];
        for n in 0..rows {
            let once = n == 0 || 2 * n == length;
            let scale = match (spec.inverse, spec.folded() && !once) {
                (false, _) => 1.0,
                (true, false) => 1.0 / length as f64,
                (true, true) => 2.0 / length as f64,
            };
            for k in 0..columns {
                let turn = if length == 0 { 0 } else { n * k % length };
                let angle = 2.0 * PI * turn as f64 / length as f64;
                let (sin, cos) = (if spec.inverse { angle } else { -angle }).sin_cos();
                for (d, c, v) in [(0, 0, cos), (0, 1, sin), (1, 0, -sin), (1, 1, cos)] {
                    if d < from && c < to {
                        out[(n * from + d) * shape[1] + k * to + c] = scale * v;
                    }
                }
            }
        }
        Ok(vec![Tensor::from_f64(spec.dtype, &shape, out)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let spec = Spec::of(cx)?;
        let [from, to] = spec.parts.map(Dim::from);
        let compute = Compute::map(spec.dtype, &spec.shape(), |b, it| {
            let t = DType::F64;
            let (n, k) = (it[0].floor_div(&from), it[1].floor_div(&to));
            let (d, c) = (it[0].modulo(&from), it[1].modulo(&to));
            let length = b.push(Expr::Index(spec.length.clone()));
            let (input, output) = (b.push(Expr::Index(n.clone())), b.push(Expr::Index(k)));
            let turn = b.binary(Binary::Mul, input, output);
            let turn = b.binary(Binary::Rem, turn, length);
            // All parts are cosines: sines are a quarter turn later or earlier, which whole numbers say exactly.
            let four = b.int(DType::I64, 4);
            let quarters = b.binary(Binary::Mul, turn, four);
            let sign = Dim::from(if spec.inverse { 1i64 } else { -1 });
            let shift = b.push(Expr::Index(sign * (c - d) * spec.length.clone()));
            let quarters = b.binary(Binary::Sub, quarters, shift);
            let quarters = b.cast(t, quarters);
            let quarter = b.float(t, PI / 2.0);
            let angle = b.binary(Binary::Mul, quarters, quarter);
            let whole = b.cast(t, length);
            let angle = b.binary(Binary::Div, angle, whole);
            let mut y = b.unary(Unary::Cos, angle);
            if spec.inverse {
                y = b.binary(Binary::Div, y, whole);
            }
            if spec.folded() {
                let (zero, input) = (b.int(DType::I64, 0), b.push(Expr::Index(n.clone())));
                let double = b.push(Expr::Index(n * two()));
                let first = b.binary(Binary::Eq, input, zero);
                let last = b.binary(Binary::Eq, double, length);
                let once = b.binary(Binary::Or, first, last);
                let twice = b.binary(Binary::Add, y, y);
                y = b.select(once, y, twice);
            }
            b.cast(spec.dtype, y)
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

/// A transform along one axis: its length, how many inputs there are, and how many outputs.
struct Transform {
    length: Dim,
    columns: Dim,
    parts: [i64; 2],
    inverse: bool,
}

impl Transform {
    /// Of the last two axes of `x`, taken together: the product with the table, without what is behind `length`.
    fn apply(&self, g: &mut Fragment, x: ValueId) -> Result<ValueId, OpError> {
        let mut shape = g.fact(x).shape.clone();
        let axis = shape.len() - 2;
        let rows = shape[axis].clone();
        let one = |d: &Dim| Attr::Dims(vec![d.clone()]);
        let table = g.apply(
            "cameo::FourierTable",
            &[
                ("columns", one(&self.columns)),
                ("dtype", Attr::DType(g.dtype(x))),
                ("inverse", Attr::Int(self.inverse.into())),
                ("length", one(&self.length)),
                ("parts", Attr::Ints(self.parts.to_vec())),
                ("rows", one(&rows)),
            ],
            &[],
        )?;
        let [from, to] = self.parts.map(Dim::from);
        shape.truncate(axis);
        let mut flat = shape.clone();
        flat.push(rows * from);
        let x = reshape(g, x, flat)?;
        let y = g.binary("MatMul", x, table)?;
        shape.extend([self.columns.clone(), to]);
        reshape(g, y, shape)
    }

    /// `sum x[n] e^(-+2 pi i n k / length)` of one signal of complex numbers, written out.
    fn eval(&self, signal: &[[f64; 2]]) -> Result<Vec<[f64; 2]>, OpError> {
        let (length, columns) = (extent(&self.length)?, extent(&self.columns)?);
        let halved = self.inverse && self.parts[1] == 1;
        let known = if halved { length / 2 + 1 } else { length };
        let at = |n: usize| {
            // The other half of a symmetric spectrum is the conjugate of the first, the other way around.
            let mirrored = n >= known;
            let [re, im] = signal
                .get(if mirrored { length - n } else { n })
                .copied()
                .unwrap_or_default();
            [re, if mirrored { -im } else { im }]
        };
        let one = |k: usize| {
            let mut sum = [0.0; 2];
            for n in 0..length {
                let angle = 2.0 * PI * (n * k % length) as f64 / length as f64;
                let (sin, cos) = (if self.inverse { angle } else { -angle }).sin_cos();
                let [re, im] = at(n);
                sum[0] += re * cos - im * sin;
                sum[1] += re * sin + im * cos;
            }
            sum.map(|v| if self.inverse { v / length as f64 } else { v })
        };
        Ok((0..columns).map(one).collect())
    }
}

/// Numbers of a signal's elements: 1 real ones, 2 complex ones, or what a run makes of them with [`complete`].
fn parts(x: &Fact) -> Result<i64, OpError> {
    match x.shape.last().map(Dim::as_const) {
        Some(Some(d @ (1 | 2))) if x.rank() > 1 => Ok(d),
        Some(None) if x.rank() > 1 => Ok(2),
        _ => invalid(format!(
            "{x} is no signal: its last axis is the parts of a number, 1 or 2"
        )),
    }
}

/// With an imaginary part of zero where only a run knows whether there is one.
fn complete(g: &mut Fragment, x: ValueId) -> Result<ValueId, OpError> {
    let rank = g.fact(x).rank();
    let last = g.fact(x).shape[rank - 1].clone();
    if last.as_const().is_some() {
        return Ok(x);
    }
    let mut pads = vec![Dim::ZERO; 2 * rank];
    pads[2 * rank - 1] = two() - last;
    g.node("Pad", &[("pads", Attr::Dims(pads))], &[Some(x)])
}

fn complex(v: &[f64]) -> [f64; 2] {
    [v[0], v.get(1).copied().unwrap_or(0.0)]
}

/// The axis and what is done along it.
fn dft(cx: &Cx) -> Result<(usize, Transform), OpError> {
    let x = cx.fact(0)?;
    let from = parts(x)?;
    let axis = match cx.const_ints(2)?.as_deref() {
        None => x.rank() - 2,
        Some([a]) => normalize_axis(*a, x.rank())?,
        Some(other) => return invalid(format!("{} numbers for axis", other.len())),
    };
    if axis + 1 == x.rank() {
        return invalid("the last axis is the parts of a number, not a signal");
    }
    let (inverse, onesided) = (cx.int("inverse")? != 0, cx.int("onesided")? != 0);
    let given = number(cx, 1, 1)?.map(whole);
    let length = given.clone().unwrap_or_else(|| match inverse && onesided {
        true if x.shape[axis].has_elements() => whole((x.shape[axis].clone() - Dim::ONE) * two()),
        true => (x.shape[axis].clone() - Dim::ONE) * two(),
        false => x.shape[axis].clone(),
    });
    // One number is half of no spectrum.
    let least = i64::from(given.is_none() && inverse && onesided);
    if length.as_const().is_some_and(|n| n < least) {
        return invalid(format!("a transform of length {length}"));
    }
    let transform = Transform {
        columns: match onesided && !inverse {
            true => length.floor_div(&two()) + Dim::ONE,
            false => length.clone(),
        },
        length,
        parts: [from, if inverse && onesided { 1 } else { 2 }],
        inverse,
    };
    Ok((axis, transform))
}

/// The number of the axis where only a run knows it, and for each axis whether it is that.
fn chosen_axis(cx: &Cx) -> Result<Option<(Dim, Vec<Dim>)>, OpError> {
    let rank = cx.fact(0)?.rank();
    match cx.dims(2)?.as_deref() {
        Some([a]) if a.as_const().is_none() && rank > 1 => {
            Ok(Some((a.clone(), named(std::slice::from_ref(a), rank).0)))
        }
        _ => Ok(None),
    }
}

/// Along an axis that only a run knows: it becomes the last but one, and goes back.
fn along(cx: &Cx, g: &mut Fragment, hits: &[Dim]) -> Result<ValueId, OpError> {
    let x = g.required(cx, 0)?;
    let signal = &hits[..hits.len() - 1];
    let hits = ("hits", Attr::Dims(signal.to_vec()));
    let x = g.apply("cameo::Moved", std::slice::from_ref(&hits), &[x])?;
    let last = Dim::from(signal.len()) - Dim::ONE;
    let mut attrs: Vec<(&str, Attr)> = vec![("axis", Attr::Dims(vec![last]))];
    for name in ["inverse", "onesided"] {
        attrs.push((name, Attr::Int(cx.int(name)?)));
    }
    if let Some(length) = number(cx, 1, 1)? {
        attrs.push(("dft_length", Attr::Dims(vec![length])));
    }
    let y = g.apply("DFT", &attrs, &[x])?;
    g.apply("cameo::Moved", &[("back", Attr::Int(1)), hits], &[y])
}

/// `DFT`.
pub(super) struct Dft;

impl OpDef for Dft {
    fn schema(&self) -> &'static Schema {
        DFT.schema()
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        DFT.infer(cx)
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        DFT.eval(cx)
    }

    /// An axis of the signal is named, and numbers have one part or two.
    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let parts = cx.fact(0)?.shape.last().filter(|d| d.as_const().is_none());
        let parts = parts
            .into_iter()
            .flat_map(|d| [(Dim::ONE, d.clone()), (d.clone(), two())]);
        let Some((axis, hits)) = chosen_axis(cx)? else {
            return Ok(parts.collect());
        };
        let mut rules = named(&[axis], hits.len()).1;
        rules.extend(parts);
        rules.extend(hits.last().map(|parts| (parts.clone(), Dim::ZERO)));
        Ok(rules)
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        DFT.lower(cx)
    }
}

const DFT: Composed = Composed {
    schema: &Schema::new(
        "DFT",
        "y[k] = sum x[n] e^(-2 pi i n k / N); inverse: e^(+…) / N; the last axis holds real and imaginary part",
        &[
            Param::new("input", Types::FLOAT),
            Param::new("dft_length", Types::INDEX)
                .shape_like("dft_length")
                .optional(),
            Param::new("axis", Types::I64).shape_like("axis").optional(),
        ],
        FLOATS,
        &[("inverse", AttrDef::Int(0)), ("onesided", AttrDef::Int(0))],
    )
    .since(17),
    build: |cx, g| {
        if let Some((_, hits)) = chosen_axis(cx)? {
            return Ok(vec![along(cx, g, &hits)?]);
        }
        let (axis, transform) = dft(cx)?;
        let x = g.required(cx, 0)?;
        let dtype = g.dtype(x);
        let x = g.widen(x)?;
        let x = complete(g, x)?;
        let most = match transform.parts[1] {
            1 => transform.length.floor_div(&two()) + Dim::ONE,
            _ => transform.length.clone(),
        };
        let used = g.fact(x).shape[axis].minimum(&most);
        let x = slice(g, x, axis, Dim::ZERO, used)?;
        // The signal's axis goes before the last one, and back.
        let rank = g.fact(x).rank();
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        perm[axis..rank - 1].rotate_left(1);
        let moved = axis + 2 != rank;
        let x = if moved { transpose(g, x, &perm)? } else { x };
        let mut y = transform.apply(g, x)?;
        if moved {
            perm = (0..rank as i64).collect();
            perm[axis..rank - 1].rotate_right(1);
            y = transpose(g, y, &perm)?;
        }
        Ok(vec![g.cast(y, dtype)?])
    },
    eval: |cx| {
        let (axis, transform) = dft(cx)?;
        let x = cx.tensor(0)?;
        let (from, to) = (transform.parts[0] as usize, transform.parts[1] as usize);
        let columns = extent(&transform.columns)?;
        let rank = x.shape().len();
        let (count, inner) = (x.shape()[axis], x.shape()[axis + 1..rank - 1].iter().product::<usize>());
        let outer: usize = x.shape()[..axis].iter().product();
        let mut shape = x.shape().to_vec();
        (shape[axis], shape[rank - 1]) = (columns, to);
        let mut out = vec![0.0; volume(&shape)?];
        let v = x.to_f64();
        for o in 0..outer {
            for i in 0..inner {
                let element = |n: usize| complex(&v[((o * count + n) * inner + i) * from..][..from]);
                let length = extent(&transform.length)?;
                let signal: Vec<[f64; 2]> = (0..count.min(length)).map(element).collect();
                for (k, y) in transform.eval(&signal)?.into_iter().enumerate() {
                    out[((o * columns + k) * inner + i) * to..][..to].copy_from_slice(&y[..to]);
                }
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), &shape, out)])
    },
};

/// `cameo::Frames`.
pub(super) struct Frames;

/// How many frames of `length` are in a signal.
fn frames(signal: &Dim, length: &Dim, step: &Dim) -> Result<Dim, OpError> {
    if step.as_const().is_some_and(|s| s < 1) {
        return invalid(format!("a step of {step}"));
    }
    let behind = signal.clone() - length.clone();
    if behind.as_const().is_some_and(|d| d < 0) {
        return invalid(format!("a frame of {length} in a signal of {signal}"));
    }
    Ok(behind.floor_div(step) + Dim::ONE)
}

impl OpDef for Frames {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Frames",
            "y[b, f, n, …] = x[b, f * step + n, …] for n below length",
            &[Param::new("x", Types::ANY)],
            &[Param::new("y", Types::ANY)],
            &[("length", AttrDef::ReqDims), ("step", AttrDef::ReqDims)],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let x = cx.fact(0)?;
        if x.rank() < 2 {
            return invalid(format!("{x} is no batch of signals"));
        }
        let length = dimension(cx, "length")?;
        let count = frames(&x.shape[1], &length, &dimension(cx, "step")?)?;
        let mut shape = vec![x.shape[0].clone(), count, length];
        shape.extend_from_slice(&x.shape[2..]);
        Ok(vec![Fact::new(x.dtype, shape)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let step = extent(&dimension(cx, "step")?)?;
        let shape = self.infer(cx)?[0]
            .shape
            .iter()
            .map(extent)
            .collect::<Result<Vec<_>, _>>()?;
        volume(&shape)?;
        let inner: usize = shape[3..].iter().product();
        let source = |ix: &[usize]| {
            let rest = ix[3..].iter().zip(&shape[3..]).fold(0, |a, (i, d)| a * d + i);
            Some((ix[0] * x.shape()[1] + ix[1] * step + ix[2]) * inner + rest)
        };
        Ok(vec![x.rearranged(&shape, None, source)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, step) = (cx.fact(0)?, dimension(cx, "step")?);
        let shape = self.infer(cx)?.remove(0).shape;
        let compute = Compute::map(x.dtype, &shape, |b, it| {
            let mut at = vec![it[0].clone(), it[1].clone() * step + it[2].clone()];
            at.extend_from_slice(&it[3..]);
            b.load(0, x.dtype, at)
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

/// The step, and what is done to each frame.
fn stft(cx: &Cx) -> Result<(Dim, Transform), OpError> {
    let x = cx.fact(0)?;
    // Real signals may do without the axis of parts, as `torch.stft` has them.
    let from = match x.rank() {
        2 => 1,
        3 => parts(x)?,
        _ => return invalid(format!("{x} is no batch of signals")),
    };
    let step = required_number(cx, 1, 1)?;
    let given = number(cx, 3, 1)?;
    let length = match cx.arg(2).map(|a| a.fact) {
        Some(window) if window.rank() != 1 => return invalid(format!("{window} is no window")),
        Some(window) => match given {
            Some(length) if differ(&length, &window.shape[0]) => {
                return invalid(format!("{window} for frames of {length}"));
            }
            _ => window.shape[0].clone(),
        },
        None => given.unwrap_or_else(|| x.shape[1].clone()),
    };
    let transform = Transform {
        columns: match cx.int("onesided")? {
            0 => length.clone(),
            _ => length.floor_div(&two()) + Dim::ONE,
        },
        length,
        parts: [from, 2],
        inverse: false,
    };
    frames(&x.shape[1], &transform.length, &step)?;
    Ok((step, transform))
}

pub(super) const STFT: Composed = Composed {
    schema: &Schema::new(
        "STFT",
        "the DFT of each frame of frame_length elements times the window, frame_step elements apart",
        &[
            Param::new("signal", Types::FLOAT),
            Param::new("frame_step", Types::INDEX).shape_like("frame_step"),
            Param::new("window", Types::FLOAT).optional(),
            Param::new("frame_length", Types::INDEX)
                .shape_like("frame_length")
                .optional(),
        ],
        FLOATS,
        &[("onesided", AttrDef::Int(1))],
    )
    .limits(&["whether the signal is real or complex must be known"])
    .since(17),
    build: |cx, g| {
        let (step, transform) = stft(cx)?;
        let x = g.required(cx, 0)?;
        let dtype = g.dtype(x);
        let mut x = g.widen(x)?;
        if let [batch, count] = g.fact(x).shape.as_slice() {
            let shape = vec![batch.clone(), count.clone(), Dim::ONE];
            x = reshape(g, x, shape)?;
        }
        let x = complete(g, x)?;
        let attrs = [
            ("length", Attr::Dims(vec![transform.length.clone()])),
            ("step", Attr::Dims(vec![step])),
        ];
        let mut x = g.apply("cameo::Frames", &attrs, &[x])?;
        if let Some(window) = g.input(2) {
            let window = g.cast(window, working(dtype))?;
            let window = reshape(g, window, vec![transform.length.clone(), Dim::ONE])?;
            x = g.binary("Mul", x, window)?;
        }
        let y = transform.apply(g, x)?;
        Ok(vec![g.cast(y, dtype)?])
    },
    eval: |cx| {
        let (step, transform) = stft(cx)?;
        let x = cx.tensor(0)?;
        let (batch, count) = (x.shape()[0], x.shape()[1]);
        let from = x.shape().get(2).copied().unwrap_or(1);
        let (length, step) = (extent(&transform.length)?, extent(&step)?);
        let window = match cx.arg(2) {
            Some(_) => cx.tensor(2)?.to_f64(),
            None => vec![1.0; length],
        };
        let frames = (count - length) / step + 1;
        let (v, mut out) = (x.to_f64(), vec![]);
        for b in 0..batch {
            for f in 0..frames {
                let element = |n: usize| {
                    let at = (b * count + f * step + n) * from;
                    complex(&v[at..at + from]).map(|v| v * window[n])
                };
                let signal: Vec<[f64; 2]> = (0..length).map(element).collect();
                out.extend(transform.eval(&signal)?.concat());
            }
        }
        let shape = [batch, frames, extent(&transform.columns)?, 2];
        Ok(vec![Tensor::from_f64(x.dtype(), &shape, out)])
    },
};

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn int(v: i64) -> Option<Tensor> {
        Some(Tensor::i64(&[], [v]))
    }

    fn flags(inverse: i64, onesided: i64) -> [(&'static str, Attr); 2] {
        [("inverse", Attr::Int(inverse)), ("onesided", Attr::Int(onesided))]
    }

    fn close(got: &Tensor, want: &[f64]) {
        let v = got.to_f64();
        let same = v.len() == want.len() && v.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(same, "{got:?} {want:?}");
    }

    #[test]
    fn known_transforms() {
        let x = Some(Tensor::f32(&[4, 1], [1.0, 2.0, 0.0, -1.0]));
        let y = eval("DFT", &[], std::slice::from_ref(&x), 1);
        close(&y[0], &[2.0, 0.0, 1.0, -3.0, 0.0, 0.0, 1.0, 3.0]);
        let back = eval("DFT", &flags(1, 0), &[Some(y[0].clone())], 1);
        close(&back[0], &[1.0, 0.0, 2.0, 0.0, 0.0, 0.0, -1.0, 0.0]);
        let half = eval("DFT", &flags(0, 1), &[x], 1);
        close(&half[0], &[2.0, 0.0, 1.0, -3.0, 0.0, 0.0]);
        let back = eval("DFT", &flags(1, 1), &[Some(half[0].clone())], 1);
        close(&back[0], &[1.0, 2.0, 0.0, -1.0]);
    }

    #[test]
    fn transforms() {
        for (inverse, onesided) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let attrs = flags(inverse, onesided);
            for t in [DType::F32, DType::F64, DType::F16, DType::BF16] {
                check("DFT", &attrs, &[sample(t, &[2, 5, 2], 1)], 1);
            }
            for parts in [1, 2] {
                let x = || sample(DType::F32, &[2, 7, 3, parts], 1);
                for axis in [0, 1, 2, -2, -3] {
                    check("DFT", &attrs, &[x(), None, int(axis)], 1);
                    for length in [1, 2, 5, 6, 9] {
                        check("DFT", &attrs, &[x(), int(length), int(axis)], 1);
                    }
                }
            }
        }
        check("DFT", &[], &[sample(DType::F32, &[6, 2], 1)], 1);
    }

    #[test]
    fn long_transforms_stay_accurate() {
        let n = 1000;
        let x = Some(Tensor::f32(&[n, 1], (0..n).map(|i| if i == n - 1 { 1.0 } else { 0.0 })));
        let y = &eval("DFT", &[], std::slice::from_ref(&x), 1)[0].to_f64();
        // The last element alone: e^(2 pi i k / n).
        let at = |k: usize| 2.0 * std::f64::consts::PI * k as f64 / n as f64;
        assert!((0..n).all(|k| (y[2 * k] - at(k).cos()).abs() < 1e-6 && (y[2 * k + 1] - at(k).sin()).abs() < 1e-6));
    }

    #[test]
    fn odd_inputs() {
        let f = |s: &[Dim]| Fact::new(DType::F32, s.to_vec());
        let (n, c) = (Dim::sym("N"), |v: i64| Dim::from(v));
        let y = infer("DFT", &flags(0, 1), &[f(&[c(2), n.clone(), c(1)])]).expect("infers");
        assert_eq!(y[0].shape, [c(2), n.floor_div(&c(2)) + Dim::ONE, c(2)]);
        assert!(infer("DFT", &[], &[f(&[c(2)])]).is_err());
        assert!(infer("DFT", &[], &[f(&[c(2), c(3)])]).is_err());
        // A run makes complex numbers of it.
        let y = infer("DFT", &[], &[f(&[c(2), n])]).expect("infers");
        assert_eq!(y[0].shape, [c(2), c(2)]);
        let axis = |a: i64| Tensor::i64(&[], [a]).fact();
        assert!(infer("DFT", &[], &[f(&[c(4), c(2)]), axis(4), axis(-1)]).is_err());
        assert!(infer("DFT", &[], &[f(&[c(4), c(2)]), axis(0)]).is_err());
    }

    #[test]
    fn frames() {
        let attrs = |length: i64, step: i64| {
            [
                ("length", Attr::Dims(vec![Dim::from(length)])),
                ("step", Attr::Dims(vec![Dim::from(step)])),
            ]
        };
        check("cameo::Frames", &attrs(3, 2), &[sample(DType::F32, &[2, 8, 2], 1)], 1);
        check("cameo::Frames", &attrs(1, 5), &[sample(DType::I64, &[1, 8], 1)], 1);
        let x = sample(DType::F32, &[1, 2], 1).expect("made");
        assert!(infer("cameo::Frames", &attrs(3, 1), &[x.fact()]).is_err());
        assert!(infer("cameo::Frames", &attrs(1, 0), &[x.fact()]).is_err());
    }

    #[test]
    fn short_time() {
        for t in [DType::F32, DType::F64, DType::F16] {
            for (onesided, parts) in [(0, 1), (0, 2), (1, 1)] {
                let attrs = [("onesided", Attr::Int(onesided))];
                let x = || sample(t, &[2, 13, parts], 1);
                check("STFT", &attrs, &[x(), int(3), sample(t, &[5], 2)], 1);
                check("STFT", &attrs, &[x(), int(2), sample(t, &[4], 2), int(4)], 1);
                check("STFT", &attrs, &[x(), int(4), None, int(6)], 1);
                check("STFT", &attrs, &[x(), int(4)], 1);
            }
        }
        // Two frames of a signal of period 4.
        let x = Some(Tensor::f32(&[1, 6, 1], [1.0, 2.0, 0.0, -1.0, 1.0, 2.0]));
        let y = eval("STFT", &[], &[x, int(2), None, int(4)], 1);
        assert_eq!(y[0].shape(), [1, 2, 3, 2]);
        close(&y[0], &[2., 0., 1., -3., 0., 0., 2., 0., -1., 3., 0., 0.]);
        let f = Fact::new(DType::F32, vec![Dim::ONE, Dim::from(5i64), Dim::ONE]);
        let window = Fact::new(DType::F32, vec![Dim::from(7i64)]);
        assert!(infer("STFT", &[], &[f, Tensor::i64(&[], [1]).fact(), window]).is_err());
    }
}
