//! Shrinking by filters that are as wide as what becomes one element: from where and with which weight each output position reads.
//!
//! Law: a filter of `taps` elements around a coordinate holds all that have a weight; positions outside of the input are those of
//! its ends, or count nothing.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::structured::{Binary, Body, Compute, Expr, ExprId, Unary};
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId};

use super::composed::reshape;
use super::fragment::Fragment;
use super::resample::{Axis, Coordinates, Given, Mode, Sampling, keys, keys_node};

/// How many elements a filter has, where the scale is the quotient of the two.
pub(super) fn taps(mode: Mode, scale: &Dim, unit: &Dim) -> Dim {
    let reach = if matches!(mode, Mode::Linear) { 1i64 } else { 2 };
    let scale = scale.minimum(unit).maximum(&Dim::ONE);
    (unit.clone() * Dim::from(reach)).ceil_div(&scale) * Dim::from(2i64)
}

/// The weight at a distance in output positions.
fn weight(mode: Mode, d: f32) -> f32 {
    match mode {
        Mode::Cubic { a } => keys(a, d),
        _ => (1.0 - d).max(0.0),
    }
}

/// Positions with their weights, which sum up to anything, for output position `x`.
pub(super) fn filter(how: Sampling, axis: &Axis, taps: usize, x: usize) -> Vec<(usize, f32)> {
    let at = axis.at(how.coordinates, x);
    let scale = axis.scale_number().min(1.0);
    let last = axis.input.as_const().unwrap_or(1) - 1;
    let first = at.floor() as i64 + 1 - (taps / 2) as i64;
    let one = |p: i64| {
        let inside = (0..=last).contains(&p);
        let w = if inside || !how.exclude_outside {
            weight(how.mode, ((p as f32 - at) * scale).abs())
        } else {
            0.0
        };
        (p.clamp(0, last) as usize, w)
    };
    (first..first + taps as i64).map(one).collect()
}

/// `x` resampled along one axis; `scale` has what an element of an operand is.
pub(super) fn shrink(
    g: &mut Fragment,
    x: ValueId,
    how: Sampling,
    axis: &Axis,
    scale: Option<ValueId>,
    taps: &Dim,
) -> Result<ValueId, OpError> {
    let one = |d: &Dim| Attr::Dims(vec![d.clone()]);
    let mut attrs = vec![
        ("coordinates", Attr::Str(how.coordinates.name().into())),
        ("exclude_outside", Attr::Int(how.exclude_outside.into())),
        ("input", one(&axis.input)),
        ("output", one(&axis.output)),
        ("taps", one(taps)),
    ];
    match &axis.scale {
        Some(Given::Number(s)) => attrs.push(("scale", Attr::Float(*s))),
        Some(Given::Ratio(a, b)) => attrs.push(("ratio", Attr::Dims(vec![a.clone(), b.clone()]))),
        Some(Given::Element { .. }) | None => {}
    }
    if let Mode::Cubic { a } = how.mode {
        attrs.push(("cubic", Attr::Float(a)));
    }
    let table = g.results("cameo::Filters", &attrs, &[scale], 2)?;
    // Sums in the type of what is summed: their order makes no difference that is seen there.
    let weights = g.cast(table[0], g.dtype(x))?;
    let total = g.reduce("ReduceSum", weights, &[1], true)?;
    let weights = g.binary("Div", weights, total)?;
    let rank = g.fact(x).rank();
    let mut shape = vec![axis.output.clone(), taps.clone()];
    shape.resize(1 + rank - axis.axis, Dim::ONE);
    let weights = reshape(g, weights, shape)?;
    let read = g.apply("Gather", &[("axis", Attr::Int(axis.axis as i64))], &[x, table[1]])?;
    let parts = g.binary("Mul", read, weights)?;
    g.reduce("ReduceSum", parts, &[axis.axis + 1], false)
}

/// `cameo::Filters`.
pub(super) struct Filters;

/// What the filters are of.
struct Spec {
    how: Sampling,
    axis: Axis,
    taps: Dim,
}

impl Spec {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let one = |name: &str| match cx.dim_list(name)?.as_slice() {
            [d] => Ok(d.clone()),
            _ => cx.bad(name),
        };
        let ratio = match cx.attrs.get("ratio") {
            None => None,
            Some(Attr::Dims(d)) if d.len() == 2 => Some(Given::Ratio(d[0].clone(), d[1].clone())),
            Some(_) => return cx.bad("ratio"),
        };
        let scale = match (cx.arg(0), cx.opt_float("scale")?) {
            (Some(a), _) if !a.fact.element_count().is_one() => {
                return invalid(format!("{} is no scale", a.fact));
            }
            (Some(a), _) => Some(match a.constant.and_then(Tensor::scalar_f64) {
                Some(v) => Given::Number(v as f32),
                None => Given::Element {
                    operand: 0,
                    at: 0,
                    dtype: a.fact.dtype,
                },
            }),
            (None, Some(s)) => Some(Given::Number(s)),
            (None, None) => ratio,
        };
        let mode = match cx.opt_float("cubic")? {
            None => Mode::Linear,
            Some(a) => Mode::Cubic { a },
        };
        let Some(coordinates) = Coordinates::named(cx.str("coordinates")?) else {
            return cx.bad("coordinates");
        };
        Ok(Self {
            how: Sampling {
                mode,
                exclude_outside: cx.int("exclude_outside")? != 0,
                coordinates,
            },
            axis: Axis {
                axis: 0,
                input: one("input")?,
                output: one("output")?,
                scale,
                roi: (Given::Number(0.0), Given::Number(1.0)),
            },
            taps: one("taps")?,
        })
    }

    fn shape(&self) -> Vec<Dim> {
        vec![self.axis.output.clone(), self.taps.clone()]
    }

    /// The coordinate of a row, and the position of an element of its filter as a whole `f32`.
    fn position(&self, b: &mut Body, it: &[Dim]) -> (ExprId, ExprId) {
        let at = self.axis.coordinate(b, self.how.coordinates, &it[0]);
        let floor = b.unary(Unary::Floor, at);
        let shift = it[1].clone() + Dim::ONE - self.taps.floor_div(&Dim::from(2i64));
        let shift = b.push(Expr::Index(shift));
        let shift = b.cast(DType::F32, shift);
        (at, b.binary(Binary::Add, floor, shift))
    }

    fn weight(&self, b: &mut Body, it: &[Dim]) -> ExprId {
        const F: DType = DType::F32;
        let (at, position) = self.position(b, it);
        let (scale, zero, one) = (self.axis.scale_node(b), b.float(F, 0.0), b.float(F, 1.0));
        let scale = b.binary(Binary::Min, scale, one);
        let d = b.binary(Binary::Sub, position, at);
        let d = b.binary(Binary::Mul, d, scale);
        let d = b.unary(Unary::Abs, d);
        let w = match self.how.mode {
            Mode::Cubic { a } => keys_node(b, a, d),
            _ => {
                let rest = b.binary(Binary::Sub, one, d);
                b.binary(Binary::Max, rest, zero)
            }
        };
        if !self.how.exclude_outside {
            return w;
        }
        let last = b.push(Expr::Index(self.axis.input.clone() - Dim::ONE));
        let last = b.cast(F, last);
        let (above, below) = (
            b.binary(Binary::Le, zero, position),
            b.binary(Binary::Le, position, last),
        );
        let inside = b.binary(Binary::And, above, below);
        b.select(inside, w, zero)
    }
}

impl OpDef for Filters {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Filters",
            "for each output position of a smaller axis, weights of input positions, and these positions",
            &[Param::new("scale", Types::FLOAT).optional()],
            &[
                Param::new("weights", Types::FLOAT),
                Param::new("positions", Types::I64).group(2),
            ],
            &[
                (
                    "coordinates",
                    AttrDef::OneOf(&[
                        "half_pixel",
                        "half_pixel_symmetric",
                        "pytorch_half_pixel",
                        "align_corners",
                        "asymmetric",
                    ]),
                ),
                // The cubic's coefficient; without, filters are triangles.
                ("cubic", AttrDef::OptFloat),
                ("exclude_outside", AttrDef::Int(0)),
                ("input", AttrDef::ReqDims),
                ("output", AttrDef::ReqDims),
                // Two extents whose quotient is the scale; else it is that of output and input.
                ("ratio", AttrDef::OptDims),
                ("scale", AttrDef::OptFloat),
                ("taps", AttrDef::ReqDims),
            ],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let shape = Spec::of(cx)?.shape();
        Ok(vec![
            Fact::new(DType::F32, shape.as_slice()),
            Fact::new(DType::I64, shape),
        ])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let spec = Spec::of(cx)?;
        let Some(shape) = Fact::new(DType::F32, spec.shape()).static_shape() else {
            return invalid("extents are not bound to numbers");
        };
        super::pointwise::volume(&shape)?;
        let rows = (0..shape[0]).flat_map(|x| filter(spec.how, &spec.axis, shape[1], x));
        let (positions, weights): (Vec<i64>, Vec<f32>) = rows.map(|(p, w)| (p as i64, w)).unzip();
        Ok(vec![Tensor::f32(&shape, weights), Tensor::i64(&shape, positions)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let spec = Spec::of(cx)?;
        let shape = spec.shape();
        let weights = Compute::map(DType::F32, &shape, |b, it| spec.weight(b, it));
        let mut positions = Compute::map(DType::I64, &shape, |b, it| {
            let (_, position) = spec.position(b, it);
            spec.axis.clamped(b, position)
        });
        positions.output = 1;
        Ok(Lowering::Compute(vec![weights, positions]))
    }
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, sample};
    use crate::{Attr, DType, Tensor};

    /// Expected values from the ONNX operator tests.
    #[test]
    fn onnx_examples() {
        let x = || Some(Tensor::f32(&[1, 1, 4, 4], (1..17).map(|v| v as f32)));
        let run = |mode: &str| {
            let attrs = [
                ("antialias", Attr::Int(1)),
                ("mode", Attr::Str(mode.into())),
                ("scales", Attr::Floats(vec![1.0, 1.0, 0.6, 0.6])),
            ];
            eval("Resize", &attrs, &[x()], 1)[0].to_f32()
        };
        for (mode, want) in [
            ("linear", [2.875, 4.5, 9.375, 11.0]),
            ("cubic", [2.5180721, 4.2858863, 9.589329, 11.357142]),
        ] {
            let got = run(mode);
            assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4), "{got:?}");
        }
    }

    #[test]
    fn eval_equals_loops() {
        for mode in ["linear", "cubic"] {
            for (how, outside) in [("half_pixel", 0), ("align_corners", 1), ("pytorch_half_pixel", 1)] {
                let attrs = [
                    ("antialias", Attr::Int(1)),
                    ("coordinate_transformation_mode", Attr::Str(how.into())),
                    ("exclude_outside", Attr::Int(outside)),
                    ("mode", Attr::Str(mode.into())),
                ];
                let scales = ("scales", Attr::Floats(vec![1.0, 0.3, 1.7, 0.6]));
                let x = || sample(DType::F32, &[2, 7, 3, 5], 1);
                check("Resize", &[&attrs[..], &[scales]].concat(), &[x()], 1);
                let sizes = Some(Tensor::i64(&[4], [2, 2, 3, 1]));
                check("Resize", &attrs, &[x(), None, None, sizes], 1);
            }
        }
    }
}
