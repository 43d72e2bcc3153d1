//! Numbers of few bits: between them and floats, and products of them.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid, normalize_axis};
use crate::ops::composed::{differ, reshape, slice};
use crate::ops::fragment::Fragment;
use crate::ops::pointwise::working;
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId, narrow};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &QuantizeLinear,
    &DequantizeLinear,
    &DynamicQuantizeLinear,
    &MatMulInteger,
    &QLinearMatMul,
    &super::quantized_conv::CONV_INTEGER,
    &super::quantized_conv::QLINEAR_CONV,
];

const SMALL_FLOATS: Types = Types(Types::FLOAT8.0 | Types::of(&[DType::F4E2M1]).0);
/// What QuantizeLinear makes.
const QUANTIZED: Types =
    Types(Types::of(&[DType::U8, DType::I8, DType::U16, DType::I16]).0 | Types::FEW_BITS.0 | SMALL_FLOATS.0);
pub(super) const BYTES: Types = Types::of(&[DType::U8, DType::I8]);
const CODES: Types = Types(QUANTIZED.0 | Types::of(&[DType::I32]).0);
const MEASURED: Types = Types(Types::FLOAT.0 | Types::of(&[DType::I32]).0);
/// A scale that is a power of two may be stored as one.
const POWERS: Types = Types::of(&[DType::F8E8M0]);

/// Smallest and largest number of an integer type of at most 32 bits.
fn limits(t: DType) -> [f64; 2] {
    let bits = t.bits() as i32;
    if t.is_signed() {
        [-2f64.powi(bits - 1), 2f64.powi(bits - 1) - 1.0]
    } else {
        [0.0, 2f64.powi(bits) - 1.0]
    }
}

pub(super) fn saturated(x: f64, t: DType) -> f64 {
    let [low, high] = limits(t);
    x.clamp(low, high)
}

/// Which elements share a scale.
enum Sharing {
    All,
    /// Those of one index along this axis.
    Axis(usize),
    /// Along this axis, so many in a row.
    Blocks(usize, Dim),
}

impl Sharing {
    /// Of scales (input 1, and zero points like it) for input 0.
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let (x, scale) = (cx.fact(0)?, cx.fact(1)?);
        if cx.has(2) {
            let zero = cx.fact(2)?;
            // One of them may be a vector of one where the other is a scalar.
            let one = |f: &Fact| f.rank() == 1 && f.shape[0].as_const().is_none_or(|n| n == 1);
            let single = scale.rank() == 0 && one(zero) || zero.rank() == 0 && one(scale) && cx.int("block_size")? == 0;
            let apart = scale.shape.iter().zip(&zero.shape).any(|(a, b)| differ(a, b));
            if (zero.rank() != scale.rank() || apart) && !single {
                return invalid(format!("zero points {zero} with scales {scale}"));
            }
        }
        let block = cx.int("block_size")?;
        let scalar = cx.has(2) && cx.fact(2)?.rank() == 0;
        if block == 0 && (scale.rank() == 0 || scale.rank() == 1 && (scale.shape[0].is_one() || scalar)) {
            return Ok(Self::All);
        }
        let axis = normalize_axis(cx.int("axis")?, x.rank())?;
        if block == 0 && scale.rank() == 1 {
            return match (scale.shape[0].as_const(), x.shape[axis].as_const()) {
                (Some(a), Some(b)) if a != b => invalid(format!("{a} scales for an axis of {b}")),
                _ => Ok(Self::Axis(axis)),
            };
        }
        let fits = |(a, (s, e)): (usize, (&Dim, &Dim))| {
            a == axis || !matches!((s.as_const(), e.as_const()), (Some(s), Some(e)) if s != e)
        };
        if block < 1 || scale.rank() != x.rank() || !scale.shape.iter().zip(&x.shape).enumerate().all(fits) {
            return invalid(format!("scales {scale} do not fit {x} in blocks of {block}"));
        }
        let block = Dim::from(block);
        let blocks = x.shape[axis].ceil_div(&block);
        if differ(&scale.shape[axis], &blocks) {
            return invalid(format!("scales {scale} for {x} in {blocks} blocks of {block}"));
        }
        Ok(Self::Blocks(axis, block))
    }

    /// That there is a scale for each block, and no other.
    fn rules(cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let Self::Blocks(axis, block) = Self::of(cx)? else {
            return Ok(vec![]);
        };
        let (blocks, scales) = (cx.fact(0)?.shape[axis].ceil_div(&block), &cx.fact(1)?.shape[axis]);
        Ok(vec![(blocks.clone(), scales.clone()), (scales.clone(), blocks)])
    }

    /// For each element of input 0, which of the scales and zero points is its.
    fn index(&self, cx: &Cx) -> Result<Vec<usize>, OpError> {
        let (shape, mut scales) = (cx.tensor(0)?.shape(), cx.tensor(1)?.len());
        if cx.has(2) {
            scales = scales.min(cx.tensor(2)?.len());
        }
        let count = shape.iter().product::<usize>();
        let place = |axis: usize| {
            let inner: usize = shape[axis + 1..].iter().product();
            move |i: usize| (i / inner % shape[axis], inner)
        };
        let scale_of = |i: usize| match self {
            Self::All => 0,
            Self::Axis(axis) => place(*axis)(i).0,
            Self::Blocks(axis, block) => {
                let ((at, inner), block) = (place(*axis)(i), block.as_const().map_or(1, |b| b as usize));
                (i / inner / shape[*axis] * shape[*axis].div_ceil(block) + at / block) * inner + i % inner
            }
        };
        let index: Vec<usize> = (0..count).map(scale_of).collect();
        match index.iter().max() {
            Some(most) if *most >= scales => invalid(format!("{scales} scales or zero points are too few")),
            _ => Ok(index),
        }
    }

    /// Scales or zero points so that they broadcast to what they are for.
    fn spread(&self, g: &mut Fragment, v: ValueId, x: &Fact) -> Result<ValueId, OpError> {
        match self {
            Self::All => g.apply("Reshape", &[("shape", Attr::Dims(vec![]))], &[v]),
            Self::Axis(axis) => {
                let mut shape = vec![Dim::ONE; x.rank()];
                shape[*axis] = g.fact(v).element_count();
                reshape(g, v, shape)
            }
            Self::Blocks(axis, block) => {
                let behind = ("axes", Attr::Dims(vec![Dim::from(axis + 1)]));
                let v = g.apply("Unsqueeze", &[behind], &[v])?;
                let mut shape = g.fact(v).shape.clone();
                shape[axis + 1] = block.clone();
                let v = g.apply("Expand", &[("shape", Attr::Dims(shape.clone()))], &[v])?;
                shape.remove(axis + 1);
                shape[*axis] = shape[*axis].clone() * block.clone();
                let v = reshape(g, v, shape)?;
                // The last block may not be full.
                let v = slice(g, v, *axis, Dim::ZERO, x.shape[*axis].clone())?;
                g.fit(v, &x.shape)
            }
        }
    }
}

/// A quotient plus the zero point as a small float.
fn quantized_float(
    g: &mut Fragment,
    mut y: ValueId,
    zero: Option<ValueId>,
    to: &[(&str, Attr)],
) -> Result<ValueId, OpError> {
    if let Some(zero) = zero {
        let zero = g.cast(zero, g.dtype(y))?;
        y = g.binary("Add", y, zero)?;
    }
    g.apply("Cast", to, &[y])
}

/// `x / scale` rounded to the nearest, ties to even, plus the zero point, in the range of `t`.
pub(super) fn quantized(
    g: &mut Fragment,
    x: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
    t: DType,
) -> Result<ValueId, OpError> {
    let y = g.binary("Div", x, scale)?;
    quantized_quotient(g, y, zero, t)
}

fn quantized_quotient(g: &mut Fragment, y: ValueId, zero: Option<ValueId>, t: DType) -> Result<ValueId, OpError> {
    let mut y = g.unary("Round", y)?;
    if let Some(zero) = zero {
        let zero = g.cast(zero, g.dtype(y))?;
        y = g.binary("Add", y, zero)?;
    }
    let [low, high] = limits(t).map(|v| g.number(y, v));
    let y = g.node("Clip", &[], &[Some(y), Some(low), Some(high)])?;
    g.cast(y, t)
}

struct QuantizeLinear;

impl QuantizeLinear {
    fn result(cx: &Cx) -> Result<DType, OpError> {
        let told = cx.opt_dtype("output_dtype")?;
        match (cx.arg(2).map(|a| a.fact.dtype), told) {
            (Some(zero), Some(told)) if zero != told => {
                invalid(format!("output_dtype {told} and a zero point of {zero}"))
            }
            (Some(t), _) | (None, Some(t)) => Ok(t),
            (None, None) => Ok(DType::U8),
        }
    }
}

/// The types that quotients are computed in.
struct Division {
    work: DType,
    /// What operands and quotients are rounded to.
    half: Option<DType>,
}

impl Division {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let (x, told) = (cx.fact(0)?.dtype, cx.opt_dtype("precision")?);
        let half = |t| (working(t) != t).then_some(t);
        Ok(match told {
            Some(t) if !Types::FLOAT.contains(t) => return cx.bad("precision"),
            Some(t) => Self {
                work: working(t),
                half: half(t),
            },
            None => Self {
                work: if x.is_float() { working(x) } else { DType::F32 },
                half: half(cx.fact(1)?.dtype),
            },
        })
    }
}

impl OpDef for QuantizeLinear {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "QuantizeLinear",
            "round(x / y_scale) + y_zero_point in the range of its type; ties go to the even number; \
             small floats are rounded after the sum",
            &[
                Param::new("x", MEASURED),
                Param::new("y_scale", Types(MEASURED.0 | POWERS.0)).group(2),
                Param::new("y_zero_point", QUANTIZED).group(3).optional(),
            ],
            &[Param::new("y", QUANTIZED).group(3)],
            &[
                ("axis", AttrDef::Int(1)),
                ("block_size", AttrDef::Int(0)),
                ("output_dtype", AttrDef::OptDType),
                // Of the quotient; else that of y_scale.
                ("precision", AttrDef::OptDType),
                // As of Cast.
                ("saturate", AttrDef::Int(1)),
            ],
        )
        .limits(&["blocks are full"])
        .since(10);
        &S
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        Sharing::rules(cx)
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Division::of(cx)?;
        Sharing::of(cx)?;
        let t = Self::result(cx)?;
        if !QUANTIZED.contains(t) {
            return invalid(format!("output_dtype {t}"));
        }
        Ok(vec![Fact::new(t, cx.fact(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, t, division) = (cx.tensor(0)?, Self::result(cx)?, Division::of(cx)?);
        let rounded = |v: &Tensor| match division.half {
            Some(half) => Tensor::from_f64(half, v.shape(), v.to_f64()).to_f64(),
            None => v.to_f64(),
        };
        let scales = rounded(cx.tensor(1)?);
        let zeros = if cx.has(2) { Some(cx.tensor(2)?.to_f64()) } else { None };
        let index = Sharing::of(cx)?.index(cx)?;
        let single = division.work != DType::F64;
        let saturate = cx.int("saturate")? != 0 && Types::FLOAT8.contains(t);
        // Ties are seen in the precision of the quotient.
        let quotients = rounded(x).into_iter().zip(&index).map(|(x, i)| {
            if single {
                f64::from(x as f32 / scales[*i] as f32)
            } else {
                x / scales[*i]
            }
        });
        let quotients = Tensor::from_f64(division.work, x.shape(), quotients);
        let y = rounded(&quotients).into_iter().zip(index).map(|(quotient, i)| {
            let zero = zeros.as_ref().map_or(0.0, |z| z[i]);
            if !t.is_float() {
                return saturated(quotient.round_ties_even() + zero, t);
            }
            let sum = if single {
                f64::from((quotient + zero) as f32)
            } else {
                quotient + zero
            };
            if saturate {
                sum.clamp(-narrow::largest(t), narrow::largest(t))
            } else {
                sum
            }
        });
        Ok(vec![Tensor::from_f64(t, x.shape(), y)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (sharing, x, t) = (Sharing::of(cx)?, cx.fact(0)?, Self::result(cx)?);
        let division = Division::of(cx)?;
        let rounded = |g: &mut Fragment, v: ValueId| {
            let v = match division.half {
                Some(half) => g.cast(v, half)?,
                None => v,
            };
            g.cast(v, division.work)
        };
        let mut g = Fragment::new(cx);
        let v = g.required(cx, 0)?;
        let v = rounded(&mut g, v)?;
        let scale = g.required(cx, 1)?;
        let scale = rounded(&mut g, scale)?;
        let scale = sharing.spread(&mut g, scale, x)?;
        let v = g.binary("Div", v, scale)?;
        let v = rounded(&mut g, v)?;
        let zero = match g.input(2) {
            Some(zero) => Some(sharing.spread(&mut g, zero, x)?),
            None => None,
        };
        let y = if t.is_float() {
            let saturate = ("saturate", Attr::Int(cx.int("saturate")?));
            quantized_float(&mut g, v, zero, &[("to", Attr::DType(t)), saturate])?
        } else {
            quantized_quotient(&mut g, v, zero, t)?
        };
        Ok(g.finish(&[y]))
    }
}

struct DequantizeLinear;

impl OpDef for DequantizeLinear {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "DequantizeLinear",
            "(x - x_zero_point) * x_scale",
            &[
                Param::new("x", CODES),
                Param::new("x_scale", Types(Types::FLOAT.0 | POWERS.0)).group(2),
                Param::new("x_zero_point", CODES).optional(),
            ],
            &[Param::new("y", Types::FLOAT).group(3)],
            &[
                ("axis", AttrDef::Int(1)),
                ("block_size", AttrDef::Int(0)),
                ("output_dtype", AttrDef::OptDType),
            ],
        )
        .limits(&["blocks are full"])
        .since(10);
        &S
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        Sharing::rules(cx)
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Sharing::of(cx)?;
        let t = cx.opt_dtype("output_dtype")?.unwrap_or(cx.fact(1)?.dtype);
        if !Types::FLOAT.contains(t) {
            return invalid(format!("{t} as the type of the result"));
        }
        Ok(vec![Fact::new(t, cx.fact(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, scales) = (cx.tensor(0)?, cx.tensor(1)?);
        let zeros = if cx.has(2) { Some(cx.tensor(2)?.to_f64()) } else { None };
        let index = Sharing::of(cx)?.index(cx)?;
        let t = cx.opt_dtype("output_dtype")?.unwrap_or(scales.dtype());
        let scales = scales.to_f64();
        // Integers of 32 bits are exact, too.
        let y = x.to_f64().into_iter().zip(index);
        let y = y.map(|(x, i)| (x - zeros.as_ref().map_or(0.0, |z| z[i])) * scales[i]);
        Ok(vec![Tensor::from_f64(t, x.shape(), y)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (sharing, x) = (Sharing::of(cx)?, cx.fact(0)?);
        let t = cx.opt_dtype("output_dtype")?.unwrap_or(cx.fact(1)?.dtype);
        let mut g = Fragment::new(cx);
        let scale = g.required(cx, 1)?;
        let scale = if POWERS.contains(g.dtype(scale)) {
            g.cast(scale, DType::F32)?
        } else {
            g.widen(scale)?
        };
        let work = g.dtype(scale);
        let scale = sharing.spread(&mut g, scale, x)?;
        let mut v = g.required(cx, 0)?;
        if let Some(zero) = g.input(2) {
            // The difference fits, but for numbers of 32 bits, which have no zero point.
            let exact = if x.dtype.is_float() { work } else { DType::I32 };
            let zero = g.cast(zero, exact)?;
            let zero = sharing.spread(&mut g, zero, x)?;
            v = g.cast(v, exact)?;
            v = g.binary("Sub", v, zero)?;
        }
        let v = g.cast(v, work)?;
        let y = g.binary("Mul", v, scale)?;
        let y = g.cast(y, t)?;
        Ok(g.finish(&[y]))
    }
}

struct DynamicQuantizeLinear;

impl OpDef for DynamicQuantizeLinear {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "DynamicQuantizeLinear",
            "QuantizeLinear to 8 bits with scale and zero point from the range of x, which is made to contain 0",
            &[Param::new("x", Types::of(&[DType::F32]))],
            &[
                Param::new("y", Types::of(&[DType::U8])).group(2),
                Param::new("y_scale", Types::of(&[DType::F32])),
                Param::new("y_zero_point", Types::of(&[DType::U8])).group(2),
            ],
            &[],
        )
        .since(11);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let shape = cx.fact(0)?.shape.clone();
        let all = [
            Fact::new(DType::U8, shape),
            Fact::new(DType::F32, vec![]),
            Fact::new(DType::U8, vec![]),
        ];
        Ok(all.into_iter().take(cx.outputs).collect())
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let v: Vec<f32> = x.to_f64().into_iter().map(|v| v as f32).collect();
        let (low, high) = v
            .iter()
            .fold((0f32, 0f32), |(low, high), v| (low.min(*v), high.max(*v)));
        let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
        let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
        let y = v
            .iter()
            .map(|v| saturated(f64::from((v / scale).round_ties_even() + zero), DType::U8) as i64);
        let all = [
            Tensor::from_i64(DType::U8, x.shape(), y),
            Tensor::from_f64(DType::F32, &[], [f64::from(scale)]),
            Tensor::from_i64(DType::U8, &[], [zero as i64]),
        ];
        Ok(all.into_iter().take(cx.outputs).collect())
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let axes: Vec<usize> = (0..g.fact(x).rank()).collect();
        let (zero, steps) = (g.number(x, 0.0), g.number(x, 255.0));
        let low = g.reduce("ReduceMin", x, &axes, false)?;
        let low = g.binary("Min", low, zero)?;
        let high = g.reduce("ReduceMax", x, &axes, false)?;
        let high = g.binary("Max", high, zero)?;
        let range = g.binary("Sub", high, low)?;
        // Nothing but zeros has the scale 1, as in ONNX Runtime: it is divided by.
        let none = g.binary("Equal", range, zero)?;
        let range = g.apply("Where", &[], &[none, steps, range])?;
        let scale = g.binary("Div", range, steps)?;
        let below = g.unary("Neg", low)?;
        let point = quantized(&mut g, below, scale, None, DType::U8)?;
        let y = quantized(&mut g, x, scale, Some(point), DType::U8)?;
        Ok(g.finish(&[y, scale, point][..cx.outputs]))
    }
}

/// Rows of a matrix have zero points of their own if there is a vector of them; columns of the second operand.
fn centred(g: &mut Fragment, v: ValueId, zero: Option<ValueId>, rows: bool) -> Result<ValueId, OpError> {
    let wide = g.cast(v, DType::I32)?;
    let Some(zero) = zero else { return Ok(wide) };
    let mut zero = g.cast(zero, DType::I32)?;
    if rows && g.fact(zero).rank() == 1 && !g.fact(zero).shape[0].is_one() {
        zero = g.apply("Unsqueeze", &[("axes", Attr::Dims(vec![Dim::ONE]))], &[zero])?;
    }
    g.binary("Sub", wide, zero)
}

/// The value of a composition for constants.
fn eval_by_parts(op: &dyn OpDef, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    let Lowering::Decompose(graph) = op.lower(cx)? else {
        return invalid("not a composition");
    };
    let inputs: Vec<Tensor> = cx.inputs.iter().flatten().filter_map(|a| a.constant.cloned()).collect();
    crate::interp::run(&graph, &inputs).map_err(|e| OpError::Invalid(e.to_string()))
}

struct MatMulInteger;

impl OpDef for MatMulInteger {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "MatMulInteger",
            "MatMul of A - a_zero_point and B - b_zero_point in 32 bits",
            &[
                Param::new("A", BYTES),
                Param::new("B", BYTES).group(2),
                Param::new("a_zero_point", BYTES).optional(),
                Param::new("b_zero_point", BYTES).group(2).optional(),
            ],
            &[Param::new("Y", Types::of(&[DType::I32])).group(3)],
            &[],
        )
        .since(10);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let mut g = Fragment::new(cx);
        let y = Self::product(cx, &mut g)?;
        Ok(vec![g.fact(y).clone()])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        eval_by_parts(self, cx)
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let mut g = Fragment::new(cx);
        let y = Self::product(cx, &mut g)?;
        Ok(g.finish(&[y]))
    }
}

impl MatMulInteger {
    fn product(cx: &Cx, g: &mut Fragment) -> Result<ValueId, OpError> {
        let (a, b) = (g.required(cx, 0)?, g.required(cx, 1)?);
        let a = centred(g, a, g.input(2), true)?;
        let b = centred(g, b, g.input(3), false)?;
        g.binary("MatMul", a, b)
    }
}

struct QLinearMatMul;

impl OpDef for QLinearMatMul {
    fn schema(&self) -> &'static Schema {
        const SCALE: Param = Param::new("scale", Types::FLOAT).group(4);
        static S: Schema = Schema::new(
            "QLinearMatMul",
            "QuantizeLinear of the MatMul of what DequantizeLinear makes of a and b; summed in 32 bits",
            &[
                Param::new("a", BYTES),
                Param {
                    name: "a_scale",
                    ..SCALE
                },
                Param::new("a_zero_point", BYTES),
                Param::new("b", BYTES).group(2),
                Param {
                    name: "b_scale",
                    ..SCALE
                },
                Param::new("b_zero_point", BYTES).group(2),
                Param {
                    name: "y_scale",
                    ..SCALE
                },
                Param::new("y_zero_point", BYTES).group(3),
            ],
            &[Param::new("y", BYTES).group(3)],
            &[],
        )
        .since(10);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let mut g = Fragment::new(cx);
        let y = Self::product(cx, &mut g)?;
        Ok(vec![g.fact(y).clone()])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        eval_by_parts(self, cx)
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let mut g = Fragment::new(cx);
        let y = Self::product(cx, &mut g)?;
        Ok(g.finish(&[y]))
    }
}

impl QLinearMatMul {
    fn product(cx: &Cx, g: &mut Fragment) -> Result<ValueId, OpError> {
        let [a, b] = [g.required(cx, 0)?, g.required(cx, 3)?];
        let a = centred(g, a, g.input(2), true)?;
        let b = centred(g, b, g.input(5), false)?;
        let sum = g.binary("MatMul", a, b)?;
        let mut scales = vec![];
        for (i, rows) in [(1, true), (4, false), (6, false)] {
            let mut s = g.required(cx, i)?;
            s = g.widen(s)?;
            if rows && g.fact(s).rank() == 1 && !g.fact(s).shape[0].is_one() {
                s = g.apply("Unsqueeze", &[("axes", Attr::Dims(vec![Dim::ONE]))], &[s])?;
            }
            scales.push(s);
        }
        let sum = g.cast(sum, g.dtype(scales[0]))?;
        let factor = g.binary("Mul", scales[0], scales[1])?;
        let real = g.binary("Mul", sum, factor)?;
        quantized(g, real, scales[2], g.input(7), cx.fact(7)?.dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};

    const FLOATS: [DType; 5] = [
        DType::F8E4M3FN,
        DType::F8E4M3FNUZ,
        DType::F8E5M2,
        DType::F8E5M2FNUZ,
        DType::F4E2M1,
    ];
    const INTS: [DType; 4] = [DType::I4, DType::U4, DType::I2, DType::U2];

    fn scales(v: &[f64]) -> Option<Tensor> {
        Some(Tensor::from_f64(DType::F32, &[v.len()], v.iter().copied()))
    }

    #[test]
    fn narrow_types() {
        for t in FLOATS.into_iter().chain(INTS) {
            let attrs = [("output_dtype", Attr::DType(t)), ("axis", Attr::Int(0))];
            // So that some of it is out of range, and much of it between two numbers.
            let x = || {
                Some(Tensor::from_f64(
                    DType::F32,
                    &[2, 200],
                    (0..400).map(|i| (f64::from(i) - 190.0) * 3.3),
                ))
            };
            check("QuantizeLinear", &attrs, &[x(), scales(&[1.0, 0.75])], 1);
            let zero = Some(Tensor::from_i64(t, &[2], [1, 0]));
            check("QuantizeLinear", &attrs, &[x(), scales(&[60.0, 1.5]), zero.clone()], 1);
            for saturate in [0, 1] {
                let attrs = [("output_dtype", Attr::DType(t)), ("saturate", Attr::Int(saturate))];
                check("QuantizeLinear", &attrs, &[x(), scales(&[0.001])], 1);
            }
            let axis = [("axis", Attr::Int(0))];
            check(
                "DequantizeLinear",
                &axis,
                &[sample(t, &[2, 9], 1), scales(&[0.5, 3.0])],
                1,
            );
            check(
                "DequantizeLinear",
                &axis,
                &[sample(t, &[2, 9], 1), scales(&[0.5, 3.0]), zero],
                1,
            );
            let blocks = [("axis", Attr::Int(1)), ("block_size", Attr::Int(3))];
            let scale = sample(DType::F16, &[2, 3], 4);
            check("DequantizeLinear", &blocks, &[sample(t, &[2, 9], 1), scale], 1);
            let power = Some(Tensor::from_f64(DType::F8E8M0, &[], [0.25]));
            let to = [("output_dtype", Attr::DType(DType::F32))];
            check("DequantizeLinear", &to, &[sample(t, &[2, 9], 1), power], 1);
            let one = Some(Tensor::from_i64(t, &[1], [1]));
            let scalar = || Some(Tensor::from_f64(DType::F32, &[], [0.5]));
            check(
                "DequantizeLinear",
                &[],
                &[sample(t, &[2, 9], 1), scalar(), one.clone()],
                1,
            );
            check("QuantizeLinear", &[], &[x(), scalar(), one], 1);
        }
    }

    #[test]
    fn quotients_have_the_precision_of_the_scale() {
        // -11.498 is -11.5 in f16.
        let half = |v: &[f64]| Some(Tensor::from_f64(DType::F16, &[v.len()], v.iter().copied()));
        let operands = || [half(&[-11.234_375, 3.0]), half(&[0.977_050_781_25])];
        let codes = |precision: Option<DType>| {
            let mut attrs = vec![("output_dtype", Attr::DType(DType::I8))];
            attrs.extend(precision.map(|t| ("precision", Attr::DType(t))));
            check("QuantizeLinear", &attrs, &operands(), 1);
            eval("QuantizeLinear", &attrs, &operands(), 1)[0].to_i64()
        };
        assert_eq!(codes(None), [-12, 3]);
        assert_eq!(codes(Some(DType::F16)), [-12, 3]);
        assert_eq!(codes(Some(DType::F32)), [-11, 3]);
        let whole = [("precision", Attr::DType(DType::I8))];
        let facts = operands().map(|t| Fact::new(DType::F16, vec![t.expect("a tensor").shape()[0].into()]));
        assert!(infer("QuantizeLinear", &whole, &facts).is_err());
    }

    #[test]
    fn numbers_beyond_the_range() {
        let quantized = |t: DType, saturate: i64| {
            let attrs = [("output_dtype", Attr::DType(t)), ("saturate", Attr::Int(saturate))];
            let x = Some(Tensor::f32(&[4], [-1e6, -1.5, 2.5, 1e6]));
            eval("QuantizeLinear", &attrs, &[x, scales(&[1.0])], 1)[0].to_f64()
        };
        assert_eq!(quantized(DType::I4, 1), [-8.0, -2.0, 2.0, 7.0]);
        assert_eq!(quantized(DType::U2, 1), [0.0, 0.0, 2.0, 3.0]);
        assert_eq!(quantized(DType::F8E4M3FN, 1), [-448.0, -1.5, 2.5, 448.0]);
        assert_eq!(
            quantized(DType::F8E5M2, 0),
            [f64::NEG_INFINITY, -1.5, 2.5, f64::INFINITY]
        );
        assert_eq!(quantized(DType::F4E2M1, 0), [-6.0, -1.5, 2.0, 6.0]);
    }

    #[test]
    fn what_is_no_scale_or_result() {
        let f = |t: DType| Fact::new(t, vec![]);
        assert!(infer("DequantizeLinear", &[], &[f(DType::I4), f(DType::F8E8M0)]).is_err());
        assert!(infer("DequantizeLinear", &[], &[f(DType::F8E8M0), f(DType::F32)]).is_err());
        let to = [("output_dtype", Attr::DType(DType::F8E8M0))];
        assert!(infer("QuantizeLinear", &to, &[f(DType::F32), f(DType::F32)]).is_err());
        let two = Fact::new(DType::I4, vec![Dim::from(2i64)]);
        assert!(infer("QuantizeLinear", &[], &[f(DType::F32), f(DType::F32), two]).is_err());
    }
}
