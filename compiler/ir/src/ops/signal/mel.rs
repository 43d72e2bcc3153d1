//! `MelWeightMatrix`: triangles over the bins of a spectrum, evenly spaced on the mel scale.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::ops::pointwise::volume;
use crate::ops::signal::{extent, required_number};
use crate::structured::{Binary, Body, Compute, Expr, ExprId, Unary};
use crate::{DType, Dim, Fact, Tensor};

/// `mel(f) = 2595 log10(1 + f / 700)`, in natural logarithms.
const SCALE: f64 = 2595.0 / std::f64::consts::LN_10;
const CORNER: f64 = 700.0;

pub(super) struct MelWeightMatrix;

/// What the matrix depends on, but for the edges.
struct Spec {
    dtype: DType,
    bands: Dim,
    length: Dim,
    rate: Dim,
}

impl Spec {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        for i in [3, 4] {
            let edge = cx.fact(i)?;
            if !edge.element_count().is_one() {
                return invalid(format!("input {i} is {edge}, one element is wanted"));
            }
        }
        Ok(Self {
            dtype: cx.opt_dtype("output_datatype")?.unwrap_or(DType::F32),
            bands: required_number(cx, 0, 0)?,
            length: required_number(cx, 1, 0)?,
            rate: required_number(cx, 2, 1)?,
        })
    }

    fn shape(&self) -> Vec<Dim> {
        let bins = self.length.floor_div(&Dim::from(2i64)) + Dim::ONE;
        vec![bins, self.bands.clone()]
    }
}

/// A number of the body, in `f64`.
fn index(b: &mut Body, d: Dim) -> ExprId {
    let d = b.push(Expr::Index(d));
    b.cast(DType::F64, d)
}

/// The place of an edge on the mel scale.
fn mel(b: &mut Body, edge: ExprId) -> ExprId {
    let (corner, scale) = (b.float(DType::F64, CORNER), b.float(DType::F64, SCALE));
    let ratio = b.binary(Binary::Div, edge, corner);
    let log = b.unary(Unary::Log1p, ratio);
    b.binary(Binary::Mul, scale, log)
}

/// The bin in which point `k` of those that the bands are between lies: a whole number.
fn bin(b: &mut Body, spec: &Spec, [low, step]: [ExprId; 2], k: Dim) -> ExprId {
    let t = DType::F64;
    let k = index(b, k);
    let place = b.binary(Binary::Mul, k, step);
    let place = b.binary(Binary::Add, place, low);
    let scale = b.float(t, SCALE);
    let place = b.binary(Binary::Div, place, scale);
    let power = b.unary(Unary::Exp, place);
    let (one, corner) = (b.float(t, 1.0), b.float(t, CORNER));
    let power = b.binary(Binary::Sub, power, one);
    let hertz = b.binary(Binary::Mul, corner, power);
    let (length, rate) = (index(b, spec.length.clone() + Dim::ONE), index(b, spec.rate.clone()));
    let scaled = b.binary(Binary::Mul, length, hertz);
    let bin = b.binary(Binary::Div, scaled, rate);
    b.unary(Unary::Floor, bin)
}

/// `(to - from) / (end - start)`.
fn share(b: &mut Body, [from, to]: [ExprId; 2], [start, end]: [ExprId; 2]) -> ExprId {
    let part = b.binary(Binary::Sub, to, from);
    let whole = b.binary(Binary::Sub, end, start);
    b.binary(Binary::Div, part, whole)
}

impl OpDef for MelWeightMatrix {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "MelWeightMatrix",
            "for each band a triangle of height 1 over the bins of a spectrum, between points even on the mel scale",
            &[
                Param::new("num_mel_bins", Types::INDEX).shape_like("num_mel_bins"),
                Param::new("dft_length", Types::INDEX).shape_like("dft_length"),
                Param::new("sample_rate", Types::INDEX).shape_like("sample_rate"),
                Param::new("lower_edge_hertz", Types::FLOAT),
                Param::new("upper_edge_hertz", Types::FLOAT),
            ],
            &[Param::new("output", Types::NUMBER).group(2)],
            &[("output_datatype", AttrDef::OptDType)],
        )
        .since(17);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let spec = Spec::of(cx)?;
        Ok(vec![Fact::new(spec.dtype, spec.shape())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let spec = Spec::of(cx)?;
        let shape = spec.shape().iter().map(extent).collect::<Result<Vec<_>, _>>()?;
        let (bins, bands) = (shape[0], shape[1]);
        let (length, rate) = (extent(&spec.length)? as f64, extent(&spec.rate)? as f64);
        let edge = |i: usize| -> Result<f64, OpError> {
            let hertz = cx.tensor(i)?.scalar_f64().unwrap_or(f64::NAN);
            Ok(SCALE * (hertz / CORNER).ln_1p())
        };
        let (low, high) = (edge(3)?, edge(4)?);
        let step = (high - low) / (bands as f64 + 2.0);
        let points: Vec<f64> = (0..bands + 2)
            .map(|k| {
                let hertz = CORNER * (((low + k as f64 * step) / SCALE).exp() - 1.0);
                ((length + 1.0) * hertz / rate).floor()
            })
            .collect();
        let mut out = vec![0.0; volume(&shape)?];
        for j in 0..bins {
            for i in 0..bands {
                let (left, center, right, at) = (points[i], points[i + 1], points[i + 2], j as f64);
                out[j * bands + i] = if at == center && (left == center || center < right) {
                    1.0
                } else if left < center && left <= at && at <= center {
                    (at - left) / (center - left)
                } else if center <= at && at < right {
                    (right - at) / (right - center)
                } else {
                    0.0
                };
            }
        }
        Ok(vec![Tensor::from_f64(spec.dtype, &shape, out)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let spec = Spec::of(cx)?;
        let (low, high) = (cx.fact(3)?, cx.fact(4)?);
        let compute = Compute::map(spec.dtype, &spec.shape(), |b, it| {
            let t = DType::F64;
            let [low, high] = [(3, low), (4, high)].map(|(i, fact)| {
                let edge = b.load(i, fact.dtype, vec![Dim::ZERO; fact.rank()]);
                let edge = b.cast(t, edge);
                mel(b, edge)
            });
            let span = b.binary(Binary::Sub, high, low);
            let parts = index(b, spec.bands.clone() + Dim::from(2i64));
            let points = [low, b.binary(Binary::Div, span, parts)];
            let [left, center, right] = [0i64, 1, 2].map(|k| bin(b, &spec, points, it[1].clone() + Dim::from(k)));
            let at = index(b, it[0].clone());
            let (zero, one) = (b.float(t, 0.0), b.float(t, 1.0));
            let and = |b: &mut Body, x: ExprId, y: ExprId| b.binary(Binary::And, x, y);
            // Up to the center, and down from it.
            let up = b.binary(Binary::Le, left, at);
            let before = b.binary(Binary::Le, at, center);
            let rising = b.binary(Binary::Lt, left, center);
            let up = and(b, up, before);
            let up = and(b, up, rising);
            let behind = b.binary(Binary::Le, center, at);
            let down = b.binary(Binary::Lt, at, right);
            let down = and(b, behind, down);
            let same = b.binary(Binary::Eq, left, center);
            let here = b.binary(Binary::Eq, at, center);
            let peak = and(b, same, here);
            let rise = share(b, [left, at], [left, center]);
            let fall = share(b, [at, right], [center, right]);
            let y = b.select(down, fall, zero);
            let y = b.select(up, rise, y);
            let y = b.select(peak, one, y);
            b.cast(spec.dtype, y)
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn int(v: i64) -> Option<Tensor> {
        Some(Tensor::i64(&[], [v]))
    }

    fn edges(t: DType, low: f64, high: f64) -> [Option<Tensor>; 2] {
        [low, high].map(|v| Some(Tensor::from_f64(t, &[], [v])))
    }

    #[test]
    fn triangles() {
        let op = "MelWeightMatrix";
        let [low, high] = edges(DType::F32, 0.0, 8192.0 / 2.0);
        // ONNX's example: 8 bands over a transform of length 16.
        let inputs = [int(8), int(16), int(8192), low, high];
        check(op, &[], &inputs, 1);
        let got = eval(op, &[], &inputs, 1).remove(0);
        assert_eq!(got.shape(), [9, 8]);
        let rows: [[f64; 8]; 9] = [
            [1., 1., 0., 0., 0., 0., 0., 0.],
            [0., 0., 1., 1., 0., 0., 0., 0.],
            [0., 0., 0., 0., 1., 0., 0., 0.],
            [0., 0., 0., 0., 0., 1., 0., 0.],
            [0., 0., 0., 0., 0., 0., 1., 0.],
            [0., 0., 0., 0., 0., 0., 0., 1.],
            [0.; 8],
            [0.; 8],
            [0.; 8],
        ];
        assert_eq!(got.to_f64(), rows.concat());
        for t in [DType::F64, DType::F16, DType::BF16] {
            let [low, high] = edges(t, 20.0, 3000.0);
            let attrs = [("output_datatype", Attr::DType(t))];
            check(op, &attrs, &[int(5), int(101), int(7000), low, high], 1);
        }
    }

    #[test]
    fn odd_inputs() {
        let op = "MelWeightMatrix";
        let count = |d: Dim| Fact::with_known(DType::I64, vec![], vec![d]);
        let (n, hertz) = (Dim::sym("N"), Fact::new(DType::F32, vec![]));
        let facts = [
            count(Dim::sym("M")),
            count(n.clone()),
            count(Dim::from(8i64)),
            hertz.clone(),
            hertz,
        ];
        let half = n.floor_div(&Dim::from(2i64)) + Dim::ONE;
        assert_eq!(infer(op, &[], &facts).expect("infers")[0].shape, [half, Dim::sym("M")]);
        let mut bad = facts.clone();
        bad[2] = count(Dim::ZERO);
        assert!(infer(op, &[], &bad).is_err());
        bad = facts;
        bad[3] = Fact::new(DType::F32, vec![Dim::from(2i64)]);
        assert!(infer(op, &[], &bad).is_err());
        let [low, high] = edges(DType::F32, 0.0, 100.0);
        check(op, &[], &[int(0), int(0), int(1), low, high], 1);
    }
}
