//! `RoiAlign`: regions of images, sampled between elements and pooled.
//!
//! Laws: the loops over samples are as long as `sampling_ratio` says. Where each region has as many samples as it is large,
//! they are at least half an element apart, so few touch each element: means are then products of the image with two
//! matrices that hold how much of each row and column is taken, region by region, and maxima look at as many samples as
//! can lie on the image. Positions are computed in the order of ONNX's reference, in at least `f32`.

use crate::index::{for_each, static_shape};
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{count, differ, reshape, slice, transpose};
use crate::ops::fragment::Fragment;
use crate::ops::gather::wrapped;
use crate::ops::pointwise::working;
use crate::structured::{Binary, Body, Combine, Compute, Expr, ExprId, Scalar, Unary};
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId};

pub struct RoiAlign;

/// The attributes.
struct Form {
    maximum: bool,
    half_pixel: bool,
    scale: f32,
    /// Height and width of the result.
    output: [i64; 2],
    /// Samples of a bin along an axis; as many as it is large when absent.
    samples: Option<i64>,
}

impl Form {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let maximum = match cx.str("mode")? {
            "avg" => false,
            "max" => true,
            _ => return cx.bad("mode"),
        };
        let half_pixel = match cx.str("coordinate_transformation_mode")? {
            "half_pixel" => true,
            "output_half_pixel" => false,
            _ => return cx.bad("coordinate_transformation_mode"),
        };
        let output = [cx.int("output_height")?, cx.int("output_width")?];
        let samples = cx.int("sampling_ratio")?;
        // Nothing larger is meant, and all of it is an exact float.
        let sane = 0..=1 << 20;
        if !sane.contains(&samples) || output.iter().any(|n| *n < 1 || !sane.contains(n)) {
            return invalid(format!("{output:?} bins of {samples} samples"));
        }
        Ok(Self {
            maximum,
            half_pixel,
            scale: cx.float("spatial_scale")?,
            output,
            samples: (samples > 0).then_some(samples),
        })
    }

    /// How far positions are before those of the region.
    const fn offset(&self) -> f64 {
        if self.half_pixel { 0.5 } else { 0.0 }
    }
}

/// A region along one axis: where it starts, the length of a bin, and how many samples that has.
struct Span {
    start: f64,
    bin: f64,
    samples: f64,
}

impl OpDef for RoiAlign {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "RoiAlign",
            "the mean or maximum of samples of X[batch_indices[r]] in each bin of the region rois[r] = (x1, y1, x2, y2)",
            &[
                Param::new("X", Types::FLOAT),
                Param::new("rois", Types::FLOAT),
                Param::new("batch_indices", Types::I64).group(2),
            ],
            &[Param::new("Y", Types::FLOAT)],
            &[
                (
                    "coordinate_transformation_mode",
                    AttrDef::OneOf(&["half_pixel", "output_half_pixel"]),
                ),
                ("mode", AttrDef::OneOf(&["avg", "max"])),
                ("output_height", AttrDef::Int(1)),
                ("output_width", AttrDef::Int(1)),
                ("sampling_ratio", AttrDef::Int(0)),
                ("spatial_scale", AttrDef::Float(1.0)),
            ],
        ).since(10);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, rois, batch, form) = (cx.fact(0)?, cx.fact(1)?, cx.fact(2)?, Form::of(cx)?);
        if x.rank() != 4 || rois.rank() != 2 || batch.rank() != 1 {
            return invalid(format!("regions {rois} with batch indices {batch} of {x}"));
        }
        if differ(&rois.shape[0], &batch.shape[0]) || differ(&rois.shape[1], &Dim::from(4i64)) {
            return invalid(format!("regions {rois} with batch indices {batch}"));
        }
        let [height, width] = form.output.map(Dim::from);
        let shape = vec![rois.shape[0].clone(), x.shape[1].clone(), height, width];
        Ok(vec![Fact::new(x.dtype, shape)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, rois, form) = (cx.tensor(0)?, cx.tensor(1)?, Form::of(cx)?);
        let shape = static_shape(&self.infer(cx)?[0])?;
        let images = x.shape();
        let mut batch = vec![];
        for i in cx.tensor(2)?.to_i64() {
            batch.push(wrapped(i, images[0])?);
        }
        if rois.shape() != [batch.len(), 4] {
            return invalid(format!("{} batch indices for {:?}", batch.len(), rois.shape()));
        }
        let (values, corners) = (x.to_f64(), rois.to_f64());
        // Positions are told in the precision that they are computed in.
        let wide = x.dtype() == DType::F64;
        let round = |v: f64| if wide { v } else { f64::from(v as f32) };
        let span = |r: usize, axis: usize| {
            let corner = |i: usize| round(round(corners[r * 4 + i] * f64::from(form.scale)) - form.offset());
            let (start, end) = (corner(1 - axis), corner(3 - axis));
            let length = round(end - start);
            let length = if form.half_pixel { length } else { length.max(1.0) };
            let bin = round(length / form.output[axis] as f64);
            let samples = form.samples.map_or(bin.ceil(), |s| s as f64);
            Span { start, bin, samples }
        };
        // The two elements around a sample and their weights, if it is on the image.
        let around = |s: &Span, bin: usize, sample: usize, extent: usize| {
            let first = round(s.start + round(bin as f64 * s.bin));
            let at = round(first + round(round((sample as f64 + 0.5) * s.bin) / s.samples));
            if !(-1.0..=extent as f64).contains(&at) || extent == 0 {
                return None;
            }
            let at = at.clamp(0.0, (extent - 1) as f64);
            let low = at.floor() as usize;
            let part = at - at.floor();
            Some([(low, 1.0 - part), ((low + 1).min(extent - 1), part)])
        };
        // More samples than any that matter would take for ever.
        let most = 1e4;
        let mut y = Vec::with_capacity(shape.iter().product());
        let mut large = false;
        for_each(&shape, |ix| {
            let [rows, columns] = [span(ix[0], 0), span(ix[0], 1)];
            large |= rows.samples.max(columns.samples) > most;
            if large {
                return;
            }
            let plane = (batch[ix[0]] * images[1] + ix[1]) * images[2] * images[3];
            let [down, across] = [rows.samples.max(0.0) as usize, columns.samples.max(0.0) as usize];
            let (mut sum, mut best) = (0.0, f64::NEG_INFINITY);
            for i in 0..down {
                for j in 0..across {
                    let mut terms = vec![0.0];
                    if let (Some(v), Some(h)) = (
                        around(&rows, ix[2], i, images[2]),
                        around(&columns, ix[3], j, images[3]),
                    ) {
                        let pairs = v.iter().flat_map(|v| h.iter().map(move |h| (v, h)));
                        let term = |((a, p), (b, q)): (&(usize, f64), &(usize, f64))| {
                            p * q * values[plane + a * images[3] + b]
                        };
                        terms = pairs.map(term).collect();
                    }
                    sum += terms.iter().sum::<f64>();
                    best = terms.iter().copied().fold(best, f64::max);
                }
            }
            let count = (down * across).max(1) as f64;
            let empty = down * across == 0;
            y.push(match form.maximum {
                true if empty => 0.0,
                true => best,
                false => sum / count,
            });
        });
        if large {
            return invalid("a region has more samples than a reference can look at");
        }
        Ok(vec![Tensor::from_f64(x.dtype(), &shape, y)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let form = Form::of(cx)?;
        if form.samples.is_none() && !form.maximum {
            return means(cx, &form);
        }
        let (x, rois) = (cx.fact(0)?, cx.fact(1)?);
        let shape = &self.infer(cx)?[0].shape;
        let work = working(x.dtype);
        // One before and one behind the image, and some more for what rounding does.
        let enough = |extent: &Dim| extent.clone() * Dim::from(2i64) + Dim::from(8i64);
        let taken = match form.samples {
            Some(n) => [n, n].map(Dim::from),
            None => [enough(&x.shape[2]), enough(&x.shape[3])],
        };
        let combine = if form.maximum { Combine::Max } else { Combine::Add };
        let compute = Compute::nest(x.dtype, shape, &taken, combine, |b, it, over| {
            let image = b.load(2, DType::I64, vec![it[0].clone()]);
            let image = Dim::aux(b.push(Expr::CheckedIndex(image, x.shape[0].clone())));
            let axes = [0, 1].map(|axis| {
                let corner = |b: &mut Body, i: usize| {
                    let v = b.load(1, rois.dtype, vec![it[0].clone(), Dim::from(i)]);
                    b.cast(work, v)
                };
                let corners = [corner(b, 1 - axis), corner(b, 3 - axis)];
                let at = [&it[2 + axis], &over[axis]];
                sample(b, &form, axis, corners, at, &x.shape[2 + axis])
            });
            let zero = b.float(work, 0.0);
            let mut terms = vec![];
            for (row, down) in &axes[0].around {
                for (column, across) in &axes[1].around {
                    let index = vec![image.clone(), it[1].clone(), Dim::aux(*row), Dim::aux(*column)];
                    let value = b.push(Expr::Load {
                        operand: 0,
                        dtype: x.dtype,
                        index,
                        fill: Some(Scalar::Float(0)),
                    });
                    let value = b.cast(work, value);
                    let weight = b.binary(Binary::Mul, *down, *across);
                    terms.push(b.binary(Binary::Mul, weight, value));
                }
            }
            let join = if form.maximum { Binary::Max } else { Binary::Add };
            let joined = terms[1..].iter().fold(terms[0], |a, t| b.binary(join, a, *t));
            let valid = b.binary(Binary::And, axes[0].valid, axes[1].valid);
            let mut value = b.select(valid, joined, zero);
            if let [Some(down), Some(across)] = [axes[0].counted, axes[1].counted] {
                // Not one of the samples: nothing, or where there are none at all, zero.
                let none = b.binary(Binary::Or, down.none, across.none);
                let least = b.float(work, f64::NEG_INFINITY);
                let other = b.select(none, zero, least);
                let one_of = b.binary(Binary::And, down.one_of, across.one_of);
                value = b.select(one_of, value, other);
            } else if let Some(n) = form.samples
                && !form.maximum
            {
                let share = b.float(work, 1.0 / (n * n) as f64);
                value = b.binary(Binary::Mul, value, share);
            }
            (value, it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

/// A sample along one axis.
struct Sample {
    /// Elements that it is between, with their weights.
    around: [(ExprId, ExprId); 2],
    /// Whether it is on the image.
    valid: ExprId,
    counted: Option<Counted>,
}

/// Where the number of samples comes from the region.
#[derive(Clone, Copy)]
struct Counted {
    /// Whether this is one of them.
    one_of: ExprId,
    /// Whether there are none.
    none: ExprId,
}

/// The sample number `at[1]` that may be on the image, of bin `at[0]`.
fn sample(b: &mut Body, form: &Form, axis: usize, corners: [ExprId; 2], at: [&Dim; 2], extent: &Dim) -> Sample {
    let work = b.dtype(corners[0]);
    let number = |b: &mut Body, v: f64| b.float(work, v);
    let index = |b: &mut Body, d: Dim| {
        let d = b.push(Expr::Index(d));
        b.cast(work, d)
    };
    let (scale, offset) = (number(b, form.scale.into()), number(b, form.offset()));
    let [start, end] = corners.map(|c| {
        let scaled = b.binary(Binary::Mul, c, scale);
        b.binary(Binary::Sub, scaled, offset)
    });
    let [zero, half, one] = [0.0, 0.5, 1.0].map(|v| number(b, v));
    let mut length = b.binary(Binary::Sub, end, start);
    if !form.half_pixel {
        length = b.binary(Binary::Max, length, one);
    }
    let bins = number(b, form.output[axis] as f64);
    let bin = b.binary(Binary::Div, length, bins);
    let number_of_bin = index(b, at[0].clone());
    let before = b.binary(Binary::Mul, number_of_bin, bin);
    let first = b.binary(Binary::Add, start, before);
    let low = number(b, -1.0);
    let (mut which, mut counted) = (index(b, at[1].clone()), None);
    let samples = match form.samples {
        Some(n) => number(b, n as f64),
        None => {
            let wanted = b.unary(Unary::Ceil, bin);
            let some = b.binary(Binary::Max, wanted, one);
            // The first that may be on the image, and one before it.
            let apart = b.binary(Binary::Div, bin, some);
            let forward = b.binary(Binary::Lt, zero, apart);
            let apart = b.select(forward, apart, one);
            let missing = b.binary(Binary::Sub, low, first);
            let skipped = b.binary(Binary::Div, missing, apart);
            let skipped = b.unary(Unary::Floor, skipped);
            let skipped = b.binary(Binary::Sub, skipped, one);
            // Where none is on the image, the last stands for all of them.
            let most = b.binary(Binary::Sub, some, one);
            let skipped = b.binary(Binary::Min, skipped, most);
            let skipped = b.binary(Binary::Max, skipped, zero);
            which = b.binary(Binary::Add, which, skipped);
            counted = Some(Counted {
                one_of: b.binary(Binary::Lt, which, wanted),
                none: b.binary(Binary::Le, wanted, zero),
            });
            some
        }
    };
    let middle = b.binary(Binary::Add, which, half);
    let inside = b.binary(Binary::Mul, middle, bin);
    let inside = b.binary(Binary::Div, inside, samples);
    let place = b.binary(Binary::Add, first, inside);
    let (high, last) = (index(b, extent.clone()), index(b, extent.clone() - Dim::ONE));
    let (above, below) = (b.binary(Binary::Le, low, place), b.binary(Binary::Le, place, high));
    let valid = b.binary(Binary::And, above, below);
    // What is no number becomes 0.
    let positive = b.binary(Binary::Le, zero, place);
    let place = b.select(positive, place, zero);
    let within = b.binary(Binary::Le, place, last);
    let place = b.select(within, place, last);
    let floor = b.unary(Unary::Floor, place);
    let part = b.binary(Binary::Sub, place, floor);
    let rest = b.binary(Binary::Sub, one, part);
    let next = b.binary(Binary::Add, floor, one);
    let next = b.binary(Binary::Min, next, last);
    let [floor, next] = [floor, next].map(|v| b.cast(DType::I64, v));
    Sample {
        around: [(floor, rest), (next, part)],
        valid,
        counted,
    }
}

/// Samples that may touch an element: those on 2 elements of length, at least half an element apart, and one more at
/// each end for what rounding does.
const TOUCHING: i64 = 8;

/// Means of as many samples as the regions are large.
fn means(cx: &Cx, form: &Form) -> Result<Lowering, OpError> {
    let (x, rois) = (cx.fact(0)?, cx.fact(1)?);
    let mut g = Fragment::new(cx);
    let [image, regions, batch] = [g.required(cx, 0)?, g.required(cx, 1)?, g.required(cx, 2)?];
    let (image, regions) = (g.widen(image)?, g.widen(regions)?);
    let rows = shares(&mut g, form, 0, image, regions)?;
    let columns = shares(&mut g, form, 1, image, regions)?;
    let columns = transpose(&mut g, columns, &[0, 2, 1])?;
    let mut each = Fragment::empty("region");
    let mut cut =
        |g: &Fragment, v: ValueId, from: usize| each.operand(Fact::new(g.dtype(v), g.fact(v).shape[from..].to_vec()));
    let [down, across, of, whole] = [
        cut(&g, rows, 1),
        cut(&g, columns, 1),
        cut(&g, batch, 1),
        cut(&g, image, 0),
    ];
    let one = each.apply("Gather", &[("axis", Attr::Int(0))], &[whole, of])?;
    let narrow = each.binary("MatMul", one, across)?;
    let pooled = each.binary("MatMul", down, narrow)?;
    let y = g.scan(each, &[pooled], [0, 3], &rois.shape[0], &[rows, columns, batch, image])?[0];
    let y = g.cast(y, x.dtype)?;
    Ok(g.finish(&[y]))
}

/// How much of each row (or column) each bin takes: `[regions, bins, extent]`.
fn shares(g: &mut Fragment, form: &Form, axis: usize, image: ValueId, regions: ValueId) -> Result<ValueId, OpError> {
    let work = g.dtype(regions);
    let number_of = g.fact(regions).shape[0].clone();
    let extent = g.fact(image).shape[2 + axis].clone();
    let corner = |g: &mut Fragment, i: usize| {
        let v = slice(g, regions, 1, Dim::from(i), Dim::from(i + 1))?;
        let v = reshape(g, v, vec![number_of.clone(), Dim::ONE, Dim::ONE, Dim::ONE])?;
        let (scale, offset) = (g.number(v, form.scale.into()), g.number(v, form.offset()));
        let scaled = g.binary("Mul", v, scale)?;
        g.binary("Sub", scaled, offset)
    };
    let counting = |g: &mut Fragment, n: &Dim, shape: Vec<Dim>| {
        let v = count(g, n)?;
        let v = reshape(g, v, shape)?;
        g.cast(v, work)
    };
    let (start, end) = (corner(g, 1 - axis)?, corner(g, 3 - axis)?);
    let [low, zero, half, one] = [-1.0, 0.0, 0.5, 1.0].map(|v| g.number(regions, v));
    let mut length = g.binary("Sub", end, start)?;
    if !form.half_pixel {
        length = g.binary("Max", length, one)?;
    }
    let output = Dim::from(form.output[axis]);
    let bins = g.number(regions, form.output[axis] as f64);
    let bin = g.binary("Div", length, bins)?;
    let wanted = g.unary("Ceil", bin)?;
    let some = g.binary("Max", wanted, one)?;
    let apart = g.binary("Div", bin, some)?;
    let forward = g.binary("Greater", apart, zero)?;
    let apart = g.apply("Where", &[], &[forward, apart, one])?;

    let which = counting(g, &output, vec![output.clone(), Dim::ONE, Dim::ONE])?;
    let before = g.binary("Mul", which, bin)?;
    let first = g.binary("Add", start, before)?;
    let here = counting(g, &extent, vec![extent.clone(), Dim::ONE])?;
    // The first that touches this element, and one before it.
    let missing = g.binary("Sub", here, one)?;
    let missing = g.binary("Sub", missing, first)?;
    let skipped = g.binary("Div", missing, apart)?;
    let skipped = g.unary("Floor", skipped)?;
    let skipped = g.binary("Sub", skipped, one)?;
    let skipped = g.binary("Max", skipped, zero)?;
    let touching = Dim::from(TOUCHING);
    let which = counting(g, &touching, vec![touching.clone()])?;
    let which = g.binary("Add", skipped, which)?;

    let middle = g.binary("Add", which, half)?;
    let inside = g.binary("Mul", middle, bin)?;
    let inside = g.binary("Div", inside, some)?;
    let place = g.binary("Add", first, inside)?;
    let axes = [("start", 2 + axis as i64), ("end", 3 + axis as i64)].map(|(k, v)| (k, Attr::Int(v)));
    let high = g.apply("Shape", &axes, &[image])?;
    let high = g.cast(high, work)?;
    let last = g.binary("Sub", high, one)?;
    let mut meant = g.binary("Less", which, wanted)?;
    for test in [
        g.binary("LessOrEqual", low, place)?,
        g.binary("LessOrEqual", place, high)?,
    ] {
        meant = g.binary("And", meant, test)?;
    }
    let place = g.binary("Max", place, zero)?;
    let place = g.binary("Min", place, last)?;
    let away = g.binary("Sub", place, here)?;
    let away = g.unary("Abs", away)?;
    let share = g.binary("Sub", one, away)?;
    let share = g.binary("Max", share, zero)?;
    let share = g.binary("Div", share, some)?;
    let share = g.apply("Where", &[], &[meant, share, zero])?;
    g.reduce("ReduceSum", share, &[3], false)
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, sample};
    use crate::{Attr, DType, Tensor};

    fn form(mode: &str, shift: &str, samples: i64, scale: f32) -> Vec<(&'static str, Attr)> {
        vec![
            ("mode", Attr::Str(mode.into())),
            ("coordinate_transformation_mode", Attr::Str(shift.into())),
            ("sampling_ratio", Attr::Int(samples)),
            ("spatial_scale", Attr::Float(scale)),
            ("output_height", Attr::Int(2)),
            ("output_width", Attr::Int(3)),
        ]
    }

    /// Regions inside, over all edges, large, upside down and empty.
    fn regions(t: DType) -> Option<Tensor> {
        let corners = [
            [0.0, 0.0, 3.0, 5.0],
            [-3.0, -2.5, 9.0, 9.5],
            [1.25, 0.5, 2.0, 1.0],
            [-40.0, -30.0, 60.0, 50.0],
            [3.0, 4.0, 1.0, 2.0],
            [2.0, 2.0, 2.0, 2.0],
            [20.0, 0.0, 24.0, 3.0],
        ];
        Some(Tensor::from_f64(t, &[7, 4], corners.concat()))
    }

    #[test]
    fn regions_of_all_kinds() {
        for mode in ["avg", "max"] {
            for shift in ["half_pixel", "output_half_pixel"] {
                for (samples, scale) in [(0, 1.0), (2, 0.5), (0, 0.75), (3, 1.0)] {
                    let batch = || Some(Tensor::i64(&[7], [0, 1, 1, 0, 0, 1, 0]));
                    let attrs = form(mode, shift, samples, scale);
                    for t in [DType::F32, DType::F64, DType::F16] {
                        check(
                            "RoiAlign",
                            &attrs,
                            &[sample(t, &[2, 2, 5, 4], 1), regions(t), batch()],
                            1,
                        );
                    }
                }
            }
        }
        let one = [
            sample(DType::F32, &[1, 1, 1, 1], 1),
            regions(DType::F32),
            Some(Tensor::i64(&[7], [0; 7])),
        ];
        check("RoiAlign", &[], &one, 1);
    }

    #[test]
    fn values() {
        // A slope: a mean is its value in the middle of the bin.
        let x = Tensor::f32(&[1, 1, 4, 4], (0..16).map(|i| (i % 4) as f32));
        let rois = Tensor::f32(&[1, 4], [0.5, 0.5, 2.5, 2.5]);
        let attrs = form("avg", "output_half_pixel", 2, 1.0);
        let y = eval(
            "RoiAlign",
            &attrs,
            &[Some(x), Some(rois), Some(Tensor::i64(&[1], [0]))],
            1,
        )[0]
        .to_f32();
        let want = [5.0 / 6.0, 1.5, 13.0 / 6.0];
        assert!(
            y.iter().zip(want.iter().cycle()).all(|(y, w)| (y - w).abs() < 1e-6),
            "{y:?}"
        );
    }
}
