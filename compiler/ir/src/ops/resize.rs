//! Resampling of any axes: nearest, linear and cubic.
//!
//! Laws: coordinates are computed in `f32` from output positions, in the order that the ONNX formulas are written; rounded
//! positions are clamped into the input, so loads are always in range. Enlarging by a whole number with `nearest` is an
//! integer index map without any float arithmetic.

use crate::index::{self, linear, static_shape};
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid, unsupported};
use crate::structured::{Binary, Combine, Compute, Expr, ExprId};
use crate::{Attr, DType, Dim, Fact, Real, Tensor, ValueId};

use super::antialias;
use super::chosen::{choose, negative};
use super::fragment::Fragment;
use super::movement::axes_of;
use super::pointwise::{int_range, working};
use super::resample::{Axis, Coordinates, Given, Mode, Rounding, Sampling, tap_nodes, taps};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &Resize,
    &antialias::Filters,
    &super::grid_sample::GridSample,
    &super::affine_grid::AffineGrid,
    &super::roi_align::RoiAlign,
    &super::roi_pool::MaxRoiPool,
];

struct Resize;

struct Plan {
    shape: Vec<Dim>,
    axes: Vec<Axis>,
    sampling: Sampling,
    /// What `Crop` gives outside of the input.
    outside: f32,
    /// Whether each axis is filtered (`antialias`).
    filters: bool,
}

/// A float operand that is an attribute or a constant; empty counts as absent.
fn floats(cx: &Cx, input: usize, name: &'static str) -> Result<Option<Vec<f32>>, OpError> {
    let list = match (cx.opt_floats(name)?, cx.arg(input)) {
        (Some(v), _) => v,
        (None, None) => return Ok(None),
        (None, Some(a)) if a.fact.element_count().is_zero() => return Ok(None),
        (None, Some(a)) => match a.constant {
            Some(t) => t.to_f32(),
            None => return Err(OpError::Unknown { input, name }),
        },
    };
    Ok((!list.is_empty()).then_some(list))
}

/// The first `n` elements of an operand that only a run knows.
fn elements(cx: &Cx, operand: usize, n: usize) -> Vec<Given> {
    let dtype = cx.arg(operand).map_or(DType::F32, |a| a.fact.dtype);
    (0..n).map(|at| Given::Element { operand, at, dtype }).collect()
}

/// `floor(d * scale)`, of a known float.
fn scaled_by(d: &Dim, scale: &Dim) -> Dim {
    let product = Dim::apply(Real::Mul, &Dim::map_real(Real::Of, d), scale);
    let product = Dim::map_real(Real::Single, &product);
    Dim::map_real(Real::Whole, &Dim::map_real(Real::Floor, &product))
}

/// `floor(d * scale)`, in `f32`.
fn scaled(d: &Dim, scale: f32) -> Result<Dim, OpError> {
    if !(scale.is_finite() && scale > 0.0) {
        return invalid(format!("scale {scale}"));
    }
    Ok(scaled_by(d, &Dim::real(scale.into())))
}

impl Plan {
    fn new(cx: &Cx) -> Result<Self, OpError> {
        let x = &cx.fact(0)?.shape;
        let Some(coordinates) = Coordinates::named(cx.str("coordinate_transformation_mode")?) else {
            return cx.bad("coordinate_transformation_mode");
        };
        let mode = match cx.str("mode")? {
            "nearest" => Mode::Nearest(match cx.str("nearest_mode")? {
                "round_prefer_floor" => Rounding::PreferFloor,
                "round_prefer_ceil" => Rounding::PreferCeil,
                "floor" => Rounding::Floor,
                "ceil" => Rounding::Ceil,
                _ => return cx.bad("nearest_mode"),
            }),
            "linear" => Mode::Linear,
            "cubic" => Mode::Cubic {
                a: cx.float("cubic_coeff_a")?,
            },
            _ => return cx.bad("mode"),
        };
        let listed = match cx.opt_ints("axes")? {
            Some(list) => axes_of(&list, x.len())?,
            None => (0..x.len()).collect(),
        };
        let targets = Self::targets(cx, &listed)?;
        let roi = match coordinates {
            Coordinates::Crop => {
                let n = cx.arg(1).and_then(|a| a.fact.element_count().as_const());
                let given = match floats(cx, 1, "roi") {
                    Err(OpError::Unknown { .. }) if n.is_some() => n.map(|n| elements(cx, 1, n as usize)),
                    other => other?.map(|v| v.into_iter().map(Given::Number).collect()),
                };
                match given {
                    Some(v) if v.len() == 2 * listed.len() => Some(v),
                    _ => return invalid("roi must have two elements per axis"),
                }
            }
            _ => None,
        };
        let (mut shape, mut axes) = (x.clone(), vec![]);
        for (i, (axis, (output, scale))) in listed.iter().copied().zip(targets).enumerate() {
            let input = x[axis].clone();
            if output.as_const().is_some_and(|c| c < 0) || input.is_zero() && !output.is_zero() {
                return invalid(format!("axis {axis} of extent {input} resized to {output}"));
            }
            shape[axis] = output.clone();
            if roi.is_none() && input == output && scale.as_ref().is_none_or(|s| matches!(s, Given::Number(1.0))) {
                continue;
            }
            axes.push(Axis {
                axis,
                input,
                output,
                scale,
                roi: roi.as_ref().map_or((Given::Number(0.0), Given::Number(1.0)), |r| {
                    (r[i].clone(), r[listed.len() + i].clone())
                }),
            });
        }
        let crops = coordinates == Coordinates::Crop;
        let filters = cx.int("antialias")? != 0
            && !matches!(mode, Mode::Nearest(_))
            && !(crops && axes.iter().all(Axis::enlarges));
        if filters && crops {
            return unsupported("attribute `antialias` is 1 with `tf_crop_and_resize` to a smaller size");
        }
        Ok(Self {
            shape,
            axes,
            sampling: Sampling {
                mode,
                exclude_outside: cx.int("exclude_outside")? != 0,
                coordinates,
            },
            outside: cx.float("extrapolation_value")?,
            filters,
        })
    }

    /// How many elements the filter along an axis has; `None` without filters. Where an axis gets larger it is what is
    /// interpolated from: one way for all extents that a run may have.
    fn taps(&self, cx: &Cx, a: &Axis) -> Option<Dim> {
        if !self.filters {
            return None;
        }
        // Of a float, in parts that are exact for what `f32` has from 2^-9 on.
        const UNIT: i64 = 1 << 32;
        let parts = |x: &Dim| {
            let scaled = Dim::apply(Real::Mul, x, &Dim::real(UNIT as f64));
            Dim::map_real(Real::Whole, &Dim::map_real(Real::Floor, &scaled))
        };
        let unit = Dim::from(UNIT);
        let (scale, unit) = match &a.scale {
            Some(Given::Number(s)) => (parts(&Dim::real(f64::from(*s))), unit),
            Some(Given::Element { operand, at, .. }) => (parts(cx.reals(*operand)?.get(*at)?), unit),
            Some(Given::Ratio(a, b)) => (a.clone(), b.clone()),
            None => (a.output.clone(), a.input.clone()),
        };
        Some(antialias::taps(self.sampling.mode, &scale, &unit))
    }

    /// Positions with their weights for position `x` of an axis, with numbers.
    fn taps_at(&self, cx: &Cx, a: &Axis, x: usize) -> Vec<(usize, f64)> {
        let wide = |(p, w): (usize, f32)| (p, f64::from(w));
        let count = self.taps(cx, a).and_then(|n| usize::try_from(n.as_const()?).ok());
        let Some(count) = count else {
            return taps(self.sampling, a, x).into_iter().map(wide).collect();
        };
        let all = antialias::filter(self.sampling, a, count, x);
        let mut all: Vec<(usize, f64)> = all.into_iter().map(wide).collect();
        let total: f64 = all.iter().map(|(_, w)| w).sum();
        all.iter_mut().for_each(|(_, w)| *w /= total);
        all
    }

    /// Output extent and explicit scale of each listed axis.
    fn targets(cx: &Cx, listed: &[usize]) -> Result<Vec<(Dim, Option<Given>)>, OpError> {
        let x = &cx.fact(0)?.shape;
        let n = listed.len();
        let sizes = cx.dims(3)?.filter(|s| !s.is_empty());
        let reals = cx.reals(2).filter(|k| k.len() == n);
        if let (Some(reals), None, None) = (reals, &sizes, cx.arg(2).and_then(|a| a.constant)) {
            // A quotient of extents may turn out to be a number.
            let given = |(s, given): (&Dim, Given)| match s.as_const() {
                Some(bits) => Given::Number(f64::from_bits(bits as u64) as f32),
                None => given,
            };
            let given = reals.iter().zip(elements(cx, 2, n)).map(given);
            let scaled = listed.iter().zip(&reals).zip(given);
            return Ok(scaled
                .map(|((a, s), given)| (scaled_by(&x[*a], s), Some(given)))
                .collect());
        }
        let (scales, sizes) = match (floats(cx, 2, "scales")?, sizes) {
            (Some(s), None) if s.len() == n => (s, None),
            (None, Some(s)) if s.len() == n => (vec![], Some(s)),
            (None, None) => return invalid("neither scales nor sizes"),
            _ => return invalid(format!("{n} axes need {n} scales or {n} sizes, and not both")),
        };
        let Some(sizes) = sizes else {
            return listed
                .iter()
                .zip(scales)
                .map(|(a, s)| Ok((scaled(&x[*a], s)?, Some(Given::Number(s)))))
                .collect();
        };
        let pick: fn(f32, f32) -> f32 = match cx.str("keep_aspect_ratio_policy")? {
            "stretch" => return Ok(sizes.into_iter().map(|s| (s, None)).collect()),
            "not_larger" => f32::min,
            "not_smaller" => f32::max,
            _ => return cx.bad("keep_aspect_ratio_policy"),
        };
        let mut extents = vec![];
        for (a, s) in listed.iter().zip(&sizes) {
            match (x[*a].as_const(), s.as_const()) {
                (Some(d), Some(s)) if d > 0 && s > 0 => extents.push((d as f32, s as f32)),
                (Some(_), Some(_)) => return invalid(format!("axis {a} of extent {} resized to {s}", x[*a])),
                _ => {
                    return Ok(Self::in_proportion(
                        x,
                        listed,
                        &sizes,
                        cx.str("keep_aspect_ratio_policy")?,
                    ));
                }
            }
        }
        let scale = extents.iter().map(|(d, s)| s / d).reduce(pick).unwrap_or(1.0);
        // Halves round up.
        let size = |d: f32| Dim::from((d * scale + 0.5).floor() as i64);
        Ok(extents
            .iter()
            .map(|(d, _)| (size(*d), Some(Given::Number(scale))))
            .collect())
    }

    /// All axes by the smallest quotient of size and extent, or the largest one.
    fn in_proportion(x: &[Dim], listed: &[usize], sizes: &[Dim], policy: &str) -> Vec<(Dim, Option<Given>)> {
        let mut quotients = listed.iter().zip(sizes).map(|(a, size)| (size.clone(), x[*a].clone()));
        let first = quotients.next().unwrap_or((Dim::ONE, Dim::ONE));
        let (size, extent) = quotients.fold(first, |(s, d), (other_s, other_d)| {
            let more = other_s.clone() * d.clone() - s.clone() * other_d.clone();
            let other = negative(&if policy == "not_larger" { more } else { -more });
            (choose(&other, other_s, s), choose(&other, other_d, d))
        });
        // Of an empty axis there is no quotient, and `infer` refuses it where it can.
        let extent = extent.maximum(&Dim::ONE);
        let two = Dim::from(2i64);
        let scaled = |d: &Dim| {
            (d.clone() * size.clone() * two.clone() + extent.clone()).floor_div(&(extent.clone() * two.clone()))
        };
        listed
            .iter()
            .map(|a| (scaled(&x[*a]), Some(Given::Ratio(size.clone(), extent.clone()))))
            .collect()
    }
}

/// One element of an operand, as a list.
fn element(g: &mut Fragment, cx: &Cx, operand: usize, at: usize) -> Result<ValueId, OpError> {
    let all = g.required(cx, operand)?;
    let which = g.constant(Tensor::i64(&[1], [at as i64]));
    g.apply("Gather", &[("axis", Attr::Int(0))], &[all, which])
}

impl Plan {
    /// Axis after axis: weights along several are products of those along each.
    fn one_by_one(&self, cx: &Cx) -> Result<Lowering, OpError> {
        if self.sampling.coordinates == Coordinates::Crop {
            return unsupported(format!(
                "attribute `coordinate_transformation_mode` is `tf_crop_and_resize` with interpolation along {} axes",
                self.axes.len()
            ));
        }
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let t = g.dtype(x);
        let mut y = g.cast(x, if t.is_float() { working(t) } else { DType::F32 })?;
        let how = ["mode", "coordinate_transformation_mode", "nearest_mode"];
        let numbers = ["cubic_coeff_a", "extrapolation_value"];
        let mut axes: Vec<&Axis> = self.axes.iter().collect();
        if self.pixels(t) {
            axes.reverse();
        }
        for a in axes {
            if let Some(taps) = self.taps(cx, a) {
                let scale = match &a.scale {
                    Some(Given::Element { operand, at, .. }) => Some(element(&mut g, cx, *operand, *at)?),
                    _ => None,
                };
                y = antialias::shrink(&mut g, y, self.sampling, a, scale, &taps)?;
                if self.pixels(t) {
                    y = whole_pixels(&mut g, y, t)?;
                }
                continue;
            }
            let mut attrs: Vec<(&str, Attr)> = vec![("axes", Attr::Ints(vec![a.axis as i64]))];
            for name in how {
                attrs.push((name, Attr::Str(cx.str(name)?.into())));
            }
            for name in numbers {
                attrs.push((name, Attr::Float(cx.float(name)?)));
            }
            attrs.push(("exclude_outside", Attr::Int(cx.int("exclude_outside")?)));
            let mut inputs = vec![Some(y)];
            match &a.scale {
                Some(Given::Element { operand, at, .. }) => {
                    let one = element(&mut g, cx, *operand, *at)?;
                    inputs.extend([None, Some(one)]);
                }
                Some(Given::Number(s)) => attrs.push(("scales", Attr::Floats(vec![*s]))),
                Some(Given::Ratio(..)) | None => attrs.push(("sizes", Attr::Dims(vec![a.output.clone()]))),
            }
            y = g.node("Resize", &attrs, &inputs)?;
        }
        let y = g.cast(y, t)?;
        Ok(g.finish(&[y]))
    }

    /// Whether filters give integers: behind each axis, the last one first, they are rounded and cut to the type, as Pillow and ONNX
    /// Runtime do with images.
    fn pixels(&self, t: DType) -> bool {
        self.filters && !t.is_float()
    }

    /// What [`Plan::one_by_one`] gives of integers, with numbers: `tables` has positions and weights of each axis.
    fn of_pixels(&self, x: &Tensor, tables: &[Vec<Vec<(usize, f64)>>]) -> Vec<f64> {
        let (low, high) = int_range(x.dtype());
        let (mut shape, mut v) = (x.shape().to_vec(), x.to_f64());
        for (a, table) in self.axes.iter().zip(tables).rev() {
            let mut to = shape.clone();
            to[a.axis] = table.len();
            let mut out = Vec::with_capacity(to.iter().product());
            index::for_each(&to, |ix| {
                let mut at = ix.to_vec();
                let sum: f64 = table[ix[a.axis]]
                    .iter()
                    .map(|(p, w)| {
                        at[a.axis] = *p;
                        v[linear(&shape, &at)] * w
                    })
                    .sum();
                out.push((sum + f64::from(HALF)).floor().clamp(low as f64, high as f64));
            });
            (shape, v) = (to, out);
        }
        v
    }
}

/// Halves go up, also those that rounded weights put a little below.
const HALF: f32 = 0.5 + 1.0 / 4096.0;

/// The nearest integers of the type.
fn whole_pixels(g: &mut Fragment, x: ValueId, t: DType) -> Result<ValueId, OpError> {
    let half = g.constant(Tensor::f32(&[], [HALF]));
    let x = g.binary("Add", x, half)?;
    let mut x = g.unary("Floor", x)?;
    let (low, high) = int_range(t);
    // Wider types end at numbers that `f32` does not have, and pixels are smaller.
    let ends = [("Max", low), ("Min", high)].into_iter().filter(|_| t.bits() <= 16);
    for (op, end) in ends {
        let end = g.constant(Tensor::f32(&[], [end as f32]));
        x = g.binary(op, x, end)?;
    }
    Ok(x)
}

impl OpDef for Resize {
    fn schema(&self) -> &'static Schema {
        const FLOATS: Types = Types::of(&[DType::F32, DType::F64, DType::F16]);
        static SCHEMA: Schema = Schema::new(
            "Resize",
            "resampling to `sizes`, or by `scales`",
            &[
                Param::new("X", Types::NUMBER),
                Param::new("roi", FLOATS).group(0).optional(),
                Param::new("scales", FLOATS).group(0).optional(),
                Param::new("sizes", Types::I64).shape_like("sizes").optional(),
            ],
            &[Param::new("Y", Types::NUMBER)],
            &[
                ("antialias", AttrDef::Int(0)),
                ("axes", AttrDef::OptInts),
                (
                    "coordinate_transformation_mode",
                    AttrDef::OneOf(&[
                        "half_pixel",
                        "half_pixel_symmetric",
                        "pytorch_half_pixel",
                        "align_corners",
                        "asymmetric",
                        "tf_crop_and_resize",
                        "tf_half_pixel_for_nn",
                    ]),
                ),
                ("cubic_coeff_a", AttrDef::Float(-0.75)),
                ("exclude_outside", AttrDef::Int(0)),
                ("extrapolation_value", AttrDef::Float(0.0)),
                (
                    "keep_aspect_ratio_policy",
                    AttrDef::OneOf(&["stretch", "not_larger", "not_smaller"]),
                ),
                ("mode", AttrDef::OneOf(&["nearest", "linear", "cubic"])),
                (
                    "nearest_mode",
                    AttrDef::OneOf(&["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
                ),
                // Instead of the inputs of these names.
                ("roi", AttrDef::OptFloats),
                ("scales", AttrDef::OptFloats),
            ],
        )
        .limits(&[
            "`tf_crop_and_resize` without interpolation along several axes, and without `antialias` to a smaller size",
        ])
        .since(10);
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::new(cx.fact(0)?.dtype, Plan::new(cx)?.shape)])
    }

    /// An axis without elements has none to sample.
    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let sampled = cx.fact(0)?.shape.iter().zip(Plan::new(cx)?.shape);
        let sampled = sampled.filter(|(from, to)| *from != to && from.as_const().is_none());
        Ok(sampled
            .map(|(from, to)| (to.minimum(&Dim::ONE), from.clone()))
            .collect())
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let plan = Plan::new(cx)?;
        let shape = static_shape(&Fact::new(x.dtype(), plan.shape.as_slice()))?;
        // Axis by axis positions and weights, then the sum over all combinations.
        let tables: Vec<Vec<Vec<(usize, f64)>>> = plan
            .axes
            .iter()
            .map(|a| (0..shape[a.axis]).map(|o| plan.taps_at(cx, a, o)).collect())
            .collect();
        if plan.pixels(x.dtype()) {
            return Ok(vec![Tensor::from_f64(x.dtype(), &shape, plan.of_pixels(x, &tables))]);
        }
        let v = x.to_f64();
        let mut out = Vec::with_capacity(shape.iter().product());
        index::for_each(&shape, |ix| {
            let leaves = plan.sampling.coordinates == Coordinates::Crop
                && plan.axes.iter().any(|a| {
                    let at = a.at(plan.sampling.coordinates, ix[a.axis]);
                    at < 0.0 || at > (x.shape()[a.axis] - 1) as f32
                });
            if leaves {
                return out.push(plan.outside.into());
            }
            let mut points = vec![(ix.to_vec(), 1.0)];
            for (a, table) in plan.axes.iter().zip(&tables) {
                let mut more = vec![];
                for (at, weight) in &points {
                    for (p, w) in &table[ix[a.axis]] {
                        let mut at = at.clone();
                        at[a.axis] = *p;
                        // Weights of several axes are rounded as coordinates are; filters go axis by axis.
                        let all: f64 = weight * w;
                        more.push((at, if plan.filters { all } else { all as f32 as f64 }));
                    }
                }
                points = more;
            }
            out.push(points.iter().map(|(at, w)| v[linear(x.shape(), at)] * w).sum::<f64>());
        });
        if matches!(plan.sampling.mode, Mode::Nearest(_)) && !x.dtype().is_float() {
            // `f64` does not hold all 64-bit integers.
            let ints = x.to_i64();
            let mut exact = vec![];
            index::for_each(&shape, |ix| {
                let mut at = ix.to_vec();
                for (a, table) in plan.axes.iter().zip(&tables) {
                    at[a.axis] = table[ix[a.axis]][0].0;
                }
                exact.push(ints[linear(x.shape(), &at)]);
            });
            if plan.sampling.coordinates != Coordinates::Crop {
                return Ok(vec![Tensor::from_i64(x.dtype(), &shape, exact)]);
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), &shape, out)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let x = cx.fact(0)?;
        let plan = Plan::new(cx)?;
        // Loads multiply by the taps of every axis.
        let most = if matches!(plan.sampling.mode, Mode::Cubic { .. }) {
            2
        } else {
            4
        };
        if plan.filters || !matches!(plan.sampling.mode, Mode::Nearest(_)) && plan.axes.len() > most {
            return plan.one_by_one(cx);
        }
        let wide = if x.dtype.is_float() {
            working(x.dtype)
        } else {
            DType::F32
        };
        let compute = Compute::nest(x.dtype, &plan.shape, &[], Combine::Add, |b, it, _| {
            let mut outside: Option<ExprId> = None;
            let mut points: Vec<(Vec<Dim>, Option<ExprId>)> = vec![(it.to_vec(), None)];
            for a in &plan.axes {
                let exact = match plan.sampling.mode {
                    Mode::Nearest(r) => a.nearest_exactly(plan.sampling.coordinates, r, &it[a.axis]),
                    _ => None,
                };
                if let Some(at) = exact {
                    for (index, _) in &mut points {
                        index[a.axis] = at.clone();
                    }
                    continue;
                }
                let at = a.coordinate(b, plan.sampling.coordinates, &it[a.axis]);
                if plan.sampling.coordinates == Coordinates::Crop {
                    let zero = b.float(DType::F32, 0.0);
                    let last = b.push(Expr::Index(a.input.clone() - Dim::ONE));
                    let last = b.cast(DType::F32, last);
                    for test in [b.binary(Binary::Lt, at, zero), b.binary(Binary::Lt, last, at)] {
                        outside = Some(outside.map_or(test, |o| b.binary(Binary::Or, o, test)));
                    }
                }
                let taps = tap_nodes(b, plan.sampling, a, at);
                let mut more = vec![];
                for (index, weight) in &points {
                    for (place, w) in &taps {
                        let mut index = index.clone();
                        index[a.axis] = Dim::aux(*place);
                        let weight = match (*weight, *w) {
                            (Some(x), Some(y)) => Some(b.binary(Binary::Mul, x, y)),
                            (x, y) => x.or(y),
                        };
                        more.push((index, weight));
                    }
                }
                points = more;
            }
            let mut sum: Option<ExprId> = None;
            for (index, weight) in points {
                let value = b.load(0, x.dtype, index);
                let term = match weight {
                    None => value,
                    Some(w) => {
                        let (value, w) = (b.cast(wide, value), b.cast(wide, w));
                        b.binary(Binary::Mul, value, w)
                    }
                };
                sum = Some(sum.map_or(term, |s| b.binary(Binary::Add, s, term)));
            }
            let sum = sum.unwrap_or_else(|| b.number(x.dtype, 0.0));
            let mut root = b.cast(x.dtype, sum);
            if let Some(test) = outside {
                let value = b.number(x.dtype, plan.outside.into());
                root = b.select(test, value, root);
            }
            (root, it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::op::Arg;
    use crate::ops::samples::sample;
    use crate::{Attr, Attrs, Graph};

    fn numbers(dtype: DType, shape: &[usize]) -> Option<Tensor> {
        sample(dtype, shape, 1)
    }

    fn text(name: &'static str, v: &str) -> (&'static str, Attr) {
        (name, Attr::Str(v.into()))
    }

    fn scales(v: &[f32]) -> (&'static str, Attr) {
        ("scales", Attr::Floats(v.to_vec()))
    }

    fn sizes(v: &[i64]) -> (&'static str, Attr) {
        ("sizes", Attr::Dims(v.iter().map(|x| Dim::from(*x)).collect()))
    }

    const COORDINATES: [&str; 6] = [
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "tf_half_pixel_for_nn",
    ];

    #[test]
    fn eval_equals_loops() {
        for how in COORDINATES {
            let how = text("coordinate_transformation_mode", how);
            for target in [
                scales(&[1.0, 1.0, 2.0, 3.0]),
                scales(&[1.0, 1.0, 0.6, 1.7]),
                scales(&[1.0, 1.0, 0.25, 0.5]),
                sizes(&[1, 2, 9, 5]),
                sizes(&[1, 2, 1, 10]),
            ] {
                let x = || numbers(DType::F32, &[1, 2, 4, 5]);
                for round in ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"] {
                    let attrs = [
                        text("mode", "nearest"),
                        text("nearest_mode", round),
                        how.clone(),
                        target.clone(),
                    ];
                    check("Resize", &attrs, &[x()], 1);
                }
                check(
                    "Resize",
                    &[text("mode", "linear"), how.clone(), target.clone()],
                    &[x()],
                    1,
                );
                for outside in [0, 1] {
                    let attrs = [
                        text("mode", "cubic"),
                        how.clone(),
                        target.clone(),
                        ("exclude_outside", Attr::Int(outside)),
                    ];
                    check("Resize", &attrs, &[x()], 1);
                }
            }
        }
        let doubled = [text("mode", "linear"), scales(&[2.0, 2.0, 2.0])];
        for t in [DType::F64, DType::F16, DType::I32, DType::U8] {
            check(
                "Resize",
                &doubled,
                &[numbers(t, &[2, 3, 2])
                    .map(|x| Tensor::from_f64(t, &[2, 3, 2], x.to_f64().iter().map(|v| (v + 5.0) * 64.0 % 256.0)))],
                1,
            );
            check("Resize", &[scales(&[2.0, 1.5])], &[numbers(t, &[2, 3])], 1);
        }
        let some = ("axes", Attr::Ints(vec![-1, 1]));
        check(
            "Resize",
            &[some.clone(), sizes(&[3, 4])],
            &[numbers(DType::F32, &[2, 2, 1, 2])],
            1,
        );
        for policy in ["not_larger", "not_smaller"] {
            let attrs = [
                some.clone(),
                sizes(&[7, 9]),
                text("keep_aspect_ratio_policy", policy),
                text("mode", "linear"),
            ];
            check("Resize", &attrs, &[numbers(DType::F32, &[1, 3, 2, 4])], 1);
        }
        for (mode, roi) in [("nearest", [0.1, 0.9]), ("linear", [-0.5, 1.5]), ("linear", [0.8, 0.2])] {
            for n in [1, 6] {
                let attrs = [
                    text("mode", mode),
                    text("coordinate_transformation_mode", "tf_crop_and_resize"),
                    ("roi", Attr::Floats(roi.to_vec())),
                    ("axes", Attr::Ints(vec![1])),
                    ("extrapolation_value", Attr::Float(9.0)),
                    sizes(&[n]),
                ];
                check("Resize", &attrs, &[numbers(DType::F32, &[2, 5])], 1);
            }
        }
    }

    /// Expected values from the ONNX operator tests.
    #[test]
    fn onnx_examples() {
        let x = Tensor::f32(&[1, 1, 2, 2], [1.0, 2.0, 3.0, 4.0]);
        let run = |attrs: &[(&str, Attr)]| {
            let attrs: Attrs = attrs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect();
            let fact = x.fact();
            let args = [Some(Arg {
                fact: &fact,
                constant: Some(&x),
            })];
            let cx = Cx {
                schema: Resize.schema(),
                attrs: &attrs,
                inputs: &args,
                outputs: 1,
            };
            Resize.eval(&cx).expect("legal")[0].to_f32()
        };
        let up = run(&[text("mode", "linear"), scales(&[1.0, 1.0, 2.0, 2.0])]);
        assert_eq!(up[..8], [1.0, 1.25, 1.75, 2.0, 1.5, 1.75, 2.25, 2.5]);
        let up = run(&[scales(&[1.0, 1.0, 2.0, 3.0])]);
        assert_eq!(up[..12], [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
        let corners = [
            text("mode", "linear"),
            text("coordinate_transformation_mode", "align_corners"),
        ];
        let up = run(&[&corners[..], &[scales(&[1.0, 1.0, 2.0, 2.0])]].concat());
        assert!((up[1] - 4.0 / 3.0).abs() < 1e-6 && up[15] == 4.0, "{up:?}");
    }

    #[test]
    fn whole_factors_are_index_maps() {
        let mut g = Graph::new("t");
        let shape = vec![Dim::ONE, Dim::from(8i64), Dim::sym("H"), Dim::sym("W")];
        let x = g.add_input("x", Fact::new(DType::F32, shape));
        let y = g
            .apply("Resize", &[scales(&[1.0, 1.0, 2.0, 2.0])], &[x])
            .expect("legal");
        assert_eq!(g.fact(y).shape[2], Dim::sym("H") * Dim::from(2i64));
        let (n, _) = g.producer(y).expect("a node");
        let Ok(Lowering::Compute(c)) = g.with_cx(n, |cx| Resize.lower(cx)) else {
            panic!("one nest of loops");
        };
        let (_, index) = c[0].as_movement().expect("pure movement");
        assert_eq!(index[3].to_string(), "fdiv($i2,2)");
        let half = g
            .apply("Resize", &[scales(&[1.0, 1.0, 0.5, 0.5])], &[x])
            .expect("legal");
        assert_eq!(g.fact(half).shape[2], Dim::sym("H").floor_div(&Dim::from(2i64)));
    }

    #[test]
    fn hostile_targets_are_refused() {
        let refuse = |attrs: &[(&str, Attr)]| {
            let mut g = Graph::new("t");
            let x = g.add_input("x", Fact::new(DType::F32, [2, 3].map(Dim::from as fn(i64) -> Dim)));
            g.apply("Resize", attrs, &[x]).is_err()
        };
        assert!(refuse(&[]));
        assert!(refuse(&[scales(&[1.0])]));
        assert!(refuse(&[scales(&[1.0, f32::NAN])]));
        assert!(refuse(&[scales(&[1.0, -1.0])]));
        assert!(refuse(&[sizes(&[1, -1])]));
        assert!(refuse(&[sizes(&[1, 1]), scales(&[1.0, 1.0])]));
        assert!(refuse(&[sizes(&[1, 1]), text("mode", "best")]));
    }
}
