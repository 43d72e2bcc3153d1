//! Operators of ONNX in ONNX Runtime's domain: older than ONNX's own, or with more types than these once had.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::composed::{Composed, optional, reference};
use crate::ops::fragment::Fragment;
use crate::ops::window::{AUTO_PAD, DILATIONS, STRIDES};
use crate::{Attr, DType, Dim, Tensor, ValueId};

const CODES: Types = Types::of(&[DType::U8, DType::I8, DType::U16, DType::I16, DType::I4, DType::U4]);
const MEASURED: Types = Types::of(&[DType::F32, DType::F16]);
const AXIS: (&str, AttrDef) = ("axis", AttrDef::Int(1));

pub(super) const QUANTIZE: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QuantizeLinear",
        "QuantizeLinear of the default domain",
        &[
            Param::new("x", MEASURED),
            Param::new("y_scale", MEASURED),
            Param::new("y_zero_point", CODES).group(2).optional(),
        ],
        &[Param::new("y", CODES).group(2)],
        &[AXIS],
    ),
    build: |cx, g| Ok(vec![node(cx, g, "QuantizeLinear", &divided_in_float(cx))?]),
    eval: |cx| eval(cx, "QuantizeLinear", &divided_in_float(cx)),
};

pub(super) const DEQUANTIZE: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::DequantizeLinear",
        "DequantizeLinear of the default domain",
        &[
            Param::new("x", Types(CODES.0 | Types::of(&[DType::I32]).0)),
            Param::new("x_scale", MEASURED).group(2),
            Param::new("x_zero_point", Types(CODES.0 | Types::of(&[DType::I32]).0)).optional(),
        ],
        &[Param::new("y", MEASURED).group(2)],
        &[AXIS],
    ),
    build: |cx, g| Ok(vec![node(cx, g, "DequantizeLinear", &attrs(cx))?]),
    eval: |cx| eval(cx, "DequantizeLinear", &attrs(cx)),
};

pub(super) const GATHER_ND: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::GatherND",
        "GatherND of the default domain",
        &[
            Param::new("data", Types::ANY),
            Param::new("indices", Types::INDEX).group(0),
        ],
        &[Param::new("output", Types::ANY)],
        &[],
    ),
    build: |cx, g| {
        let (x, at) = (g.required(cx, 0)?, g.required(cx, 1)?);
        let at = g.cast(at, DType::I64)?;
        Ok(vec![g.binary("GatherND", x, at)?])
    },
    eval: |cx| {
        let at = cx.tensor(1)?;
        let at = Tensor::i64(at.shape(), at.to_i64());
        reference("GatherND", &[], &[Some(cx.tensor(0)?), Some(&at)], 1)
    },
};

pub(super) const TRILU: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::Trilu",
        "Trilu of the default domain",
        &[
            Param::new("X", Types::PLAIN),
            Param::new("k", Types::I64).shape_like("k").optional(),
        ],
        &[Param::new("Y", Types::PLAIN)],
        &[("upper", AttrDef::Int(1))],
    ),
    build: |cx, g| Ok(vec![node(cx, g, "Trilu", &attrs(cx))?]),
    eval: |cx| eval(cx, "Trilu", &attrs(cx)),
};

pub(super) const PAD: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::Pad",
        "Pad of the default domain",
        &[
            Param::new("data", Types::FLOAT),
            Param::new("pads", Types::I64).shape_like("pads"),
            Param::new("value", Types::FLOAT).optional(),
        ],
        &[Param::new("output", Types::FLOAT)],
        &[("mode", AttrDef::OneOf(&["constant", "reflect", "edge", "wrap"]))],
    ),
    build: |cx, g| Ok(vec![node(cx, g, "Pad", &attrs(cx))?]),
    eval: |cx| eval(cx, "Pad", &attrs(cx)),
};

pub(super) const EXPAND_DIMS: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::ExpandDims",
        "Unsqueeze of one axis",
        &[
            Param::new("X", Types::ANY),
            Param::new("axis", Types::of(&[DType::I32])).shape_like("axis"),
        ],
        &[Param::new("Y", Types::ANY)],
        &[],
    ),
    build: |cx, g| {
        let x = g.required(cx, 0)?;
        Ok(vec![g.apply("Unsqueeze", &new_axis(cx)?, &[x])?])
    },
    eval: |cx| reference("Unsqueeze", &new_axis(cx)?, &[Some(cx.tensor(0)?)], 1),
};

fn new_axis(cx: &Cx) -> Result<[(&'static str, Attr); 1], OpError> {
    match cx.const_ints(1)?.as_deref() {
        Some([axis]) => Ok([("axes", Attr::Dims(vec![Dim::from(*axis)]))]),
        Some(many) => invalid(format!("input 1 (axis) is {many:?}")),
        None => invalid("input 1 (axis) is missing"),
    }
}

pub(super) const RANGE: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::Range",
        "Range of the default domain, by 1 where delta is absent",
        &[
            Param::new("start", Types::NUMBER),
            Param::new("limit", Types::NUMBER).shape_like("limit"),
            Param::new("delta", Types::NUMBER).shape_like("delta").optional(),
        ],
        &[Param::new("Y", Types::NUMBER)],
        &[],
    ),
    build: |cx, g| {
        let attrs = attrs(cx);
        let mut inputs = vec![];
        for i in 0..3 {
            // Floats count where they are constants only.
            let known = cx.arg(i).and_then(|a| a.constant).cloned();
            inputs.push(known.map(|t| g.constant(t)).or_else(|| g.input(i)));
        }
        if inputs[2].is_none() && !cx.attrs.contains_key("delta") {
            inputs[2] = Some(g.constant(Tensor::from_f64(cx.fact(0)?.dtype, &[], [1.0])));
        }
        Ok(vec![g.node("Range", &attrs, &inputs)?])
    },
    eval: |cx| {
        let one = Tensor::from_f64(cx.fact(0)?.dtype, &[], [1.0]);
        let mut inputs = all(cx)?;
        inputs.resize(3, None);
        if inputs[2].is_none() && !cx.attrs.contains_key("delta") {
            inputs[2] = Some(&one);
        }
        reference("Range", &attrs(cx), &inputs, 1)
    },
};

/// The differences are squared and added up as they are, which is more exact than the square of a difference as a product.
pub(super) const CDIST: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::CDist",
        "the distance of each row of A from each row of B: the root of the sum of squared differences, or that sum",
        &[Param::new("A", Types::FLOAT), Param::new("B", Types::FLOAT)],
        &[Param::new("C", Types::FLOAT)],
        &[("metric", AttrDef::OneOf(&["sqeuclidean", "euclidean"]))],
    ),
    build: |cx, g| {
        let root = rooted(cx)?;
        let rows = |g: &mut Fragment, i: usize, axis: i64| -> Result<ValueId, OpError> {
            let x = g.required(cx, i)?;
            if g.fact(x).rank() != 2 {
                return invalid(format!("input {i} is {}, not a matrix", g.fact(x)));
            }
            g.apply("Unsqueeze", &[("axes", Attr::Dims(vec![Dim::from(axis)]))], &[x])
        };
        let (a, b) = (rows(g, 0, 1)?, rows(g, 1, 0)?);
        let difference = g.binary("Sub", a, b)?;
        let square = g.binary("Mul", difference, difference)?;
        let sum = g.reduce("ReduceSum", square, &[2], false)?;
        Ok(vec![if root { g.unary("Sqrt", sum)? } else { sum }])
    },
    eval: |cx| {
        let (a, b, root) = (cx.tensor(0)?, cx.tensor(1)?, rooted(cx)?);
        let size = a.shape()[1];
        if b.shape()[1] != size {
            return invalid(format!("rows of {size} and of {} elements", b.shape()[1]));
        }
        let (x, y) = (a.to_f64(), b.to_f64());
        let (m, n) = (a.shape()[0], b.shape()[0]);
        let distance = |i: usize, j: usize| {
            let squares = (0..size).map(|k| (x[i * size + k] - y[j * size + k]).powi(2));
            let sum: f64 = squares.sum();
            if root { sum.sqrt() } else { sum }
        };
        let all = (0..m).flat_map(|i| (0..n).map(move |j| (i, j)));
        Ok(vec![Tensor::from_f64(
            a.dtype(),
            &[m, n],
            all.map(|(i, j)| distance(i, j)),
        )])
    },
};

fn rooted(cx: &Cx) -> Result<bool, OpError> {
    match cx.str("metric")? {
        "euclidean" => Ok(true),
        "sqeuclidean" => Ok(false),
        _ => cx.bad("metric"),
    }
}

pub(super) const GRID_SAMPLE: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::GridSample",
        "GridSample of the default domain, with the older names of its modes",
        &[Param::new("X", Types::FLOAT), Param::new("Grid", Types::FLOAT)],
        &[Param::new("Y", Types::FLOAT)],
        &[
            ("align_corners", AttrDef::Int(0)),
            ("mode", AttrDef::OneOf(&["bilinear", "nearest", "bicubic"])),
            ("padding_mode", AttrDef::OneOf(&["zeros", "border", "reflection"])),
        ],
    ),
    build: |cx, g| {
        let (x, grid) = (g.required(cx, 0)?, g.required(cx, 1)?);
        // Images of two axes only.
        if g.fact(grid).rank() != 4 || g.fact(grid).shape[3].as_const() != Some(2) {
            return unsupported(format!("input 1 (Grid) is {}", g.fact(grid)));
        }
        Ok(vec![g.apply("GridSample", &sampling(cx)?, &[x, grid])?])
    },
    eval: |cx| reference("GridSample", &sampling(cx)?, &all(cx)?, 1),
};

fn sampling(cx: &Cx) -> Result<[(&'static str, Attr); 3], OpError> {
    let mode = match cx.str("mode")? {
        "bilinear" => "linear",
        "bicubic" => "cubic",
        "nearest" => "nearest",
        _ => return cx.bad("mode"),
    };
    Ok([
        ("align_corners", Attr::Int(cx.int("align_corners")?)),
        ("mode", Attr::Str(mode.into())),
        ("padding_mode", Attr::Str(cx.str("padding_mode")?.into())),
    ])
}

pub(super) const CONV_TRANSPOSE: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::ConvTransposeWithDynamicPads",
        "ConvTranspose with its pads as an operand",
        &[
            Param::new("X", Types::FLOAT),
            Param::new("W", Types::FLOAT),
            Param::new("Pads", Types::I64).shape_like("Pads").optional(),
            Param::new("B", Types::FLOAT).optional(),
        ],
        &[Param::new("Y", Types::FLOAT)],
        &[
            AUTO_PAD,
            DILATIONS,
            ("group", AttrDef::Int(1)),
            ("kernel_shape", AttrDef::OptInts),
            ("output_padding", AttrDef::OptInts),
            STRIDES,
        ],
    ),
    build: |cx, g| {
        let inputs = [g.input(0), g.input(1), g.input(3)];
        Ok(vec![g.node("ConvTranspose", &padded(cx)?, &inputs)?])
    },
    eval: |cx| {
        let inputs = [optional(cx, 0)?, optional(cx, 1)?, optional(cx, 3)?];
        reference("ConvTranspose", &padded(cx)?, &inputs, 1)
    },
};

/// The attributes with the pads among them.
fn padded<'a>(cx: &Cx<'a>) -> Result<Vec<(&'a str, Attr)>, OpError> {
    let mut attrs = attrs(cx);
    attrs.retain(|(k, _)| *k != "Pads");
    attrs.extend(cx.const_ints(2)?.map(|pads| ("pads", Attr::Ints(pads))));
    Ok(attrs)
}

pub(super) const TRANSPOSE_MATMUL: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::TransposeMatMul",
        "FusedMatMul under its older name",
        &[Param::new("A", Types::FLOAT), Param::new("B", Types::FLOAT)],
        &[Param::new("Y", Types::FLOAT)],
        super::linear::FUSED_MATMUL.schema.attrs,
    ),
    ..super::linear::FUSED_MATMUL
};

fn attrs<'a>(cx: &Cx<'a>) -> Vec<(&'a str, Attr)> {
    cx.attrs.iter().map(|(k, v)| (&**k, v.clone())).collect()
}

fn all<'a>(cx: &Cx<'a>) -> Result<Vec<Option<&'a Tensor>>, OpError> {
    (0..cx.inputs.len()).map(|i| optional(cx, i)).collect()
}

/// The division is that of QuantizeLinear before opset 23.
fn divided_in_float<'a>(cx: &Cx<'a>) -> Vec<(&'a str, Attr)> {
    let mut out = attrs(cx);
    out.push(("precision", Attr::DType(DType::F32)));
    out
}

/// The operation `op` of the same operands.
fn node(cx: &Cx, g: &mut Fragment, op: &str, attrs: &[(&str, Attr)]) -> Result<ValueId, OpError> {
    let inputs: Vec<_> = (0..cx.inputs.len()).map(|i| g.input(i)).collect();
    g.node(op, attrs, &inputs)
}

fn eval(cx: &Cx, op: &str, attrs: &[(&str, Attr)]) -> Result<Vec<Tensor>, OpError> {
    reference(op, attrs, &all(cx)?, 1)
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn ints(t: DType, shape: &[usize], v: &[i64]) -> Option<Tensor> {
        Some(Tensor::from_i64(t, shape, v.iter().copied()))
    }

    #[test]
    fn numbers_of_few_bits() {
        let scale = || Some(Tensor::f32(&[3], [0.5, 0.25, 2.0]));
        for t in [DType::U8, DType::I16, DType::U16, DType::I4, DType::U4] {
            let zero = ints(t, &[3], &[1, 0, 3]);
            let x = sample(DType::F32, &[2, 3, 4], 1);
            check("com.microsoft::QuantizeLinear", &[], &[x, scale(), zero.clone()], 1);
            let x = sample(t, &[3, 4], 1);
            let axis = [("axis", Attr::Int(0))];
            check("com.microsoft::DequantizeLinear", &axis, &[x, scale(), zero], 1);
        }
        let one = Some(Tensor::f32(&[], [0.5]));
        check(
            "com.microsoft::QuantizeLinear",
            &[],
            &[sample(DType::F32, &[5], 1), one.clone()],
            1,
        );
        check(
            "com.microsoft::DequantizeLinear",
            &[],
            &[sample(DType::I32, &[5], 1), one],
            1,
        );
    }

    #[test]
    fn movement() {
        let x = sample(DType::F32, &[4, 5], 1);
        check(
            "com.microsoft::GatherND",
            &[],
            &[x.clone(), ints(DType::I32, &[3, 1], &[0, 3, -1])],
            1,
        );
        check(
            "com.microsoft::Trilu",
            &[("upper", Attr::Int(0))],
            &[x.clone(), ints(DType::I64, &[], &[1])],
            1,
        );
        check("com.microsoft::Trilu", &[], std::slice::from_ref(&x), 1);
        let value = Some(Tensor::f32(&[1], [2.5]));
        check(
            "com.microsoft::Pad",
            &[],
            &[x.clone(), ints(DType::I64, &[4], &[1, 0, 2, 1]), value],
            1,
        );
        check("com.microsoft::ExpandDims", &[], &[x, ints(DType::I32, &[], &[-1])], 1);
    }

    #[test]
    fn ranges() {
        let i = |v: i64| ints(DType::I32, &[], &[v]);
        check("com.microsoft::Range", &[], &[i(2), i(9)], 1);
        check("com.microsoft::Range", &[], &[i(9), i(2), i(-3)], 1);
        let f = |v: f32| Some(Tensor::f32(&[], [v]));
        let y = eval("com.microsoft::Range", &[], &[f(0.5), f(3.0)], 1);
        assert_eq!(y[0].to_f64(), [0.5, 1.5, 2.5]);
    }

    #[test]
    fn images() {
        let s = |shape: &[usize], seed| sample(DType::F32, shape, seed);
        let grid = Some(Tensor::f32(
            &[1, 2, 2, 2],
            [-0.5, 0.25, 0.75, -1.0, 0.0, 0.5, 1.5, 0.125],
        ));
        for mode in ["bilinear", "bicubic", "nearest"] {
            let attrs = [("mode", Attr::Str(mode.into()))];
            check(
                "com.microsoft::GridSample",
                &attrs,
                &[s(&[1, 2, 4, 5], 1), grid.clone()],
                1,
            );
        }
        let op = "com.microsoft::ConvTransposeWithDynamicPads";
        let attrs = [("strides", Attr::Ints(vec![2, 1]))];
        let pads = ints(DType::I64, &[4], &[1, 0, 1, 1]);
        let inputs = [s(&[1, 2, 3, 4], 1), s(&[2, 3, 3, 2], 2), pads, s(&[3], 3)];
        check(op, &attrs, &inputs, 1);
        check(op, &attrs, &inputs[..2], 1);
    }

    #[test]
    fn distances() {
        for metric in ["euclidean", "sqeuclidean"] {
            let attrs = [("metric", Attr::Str(metric.into()))];
            for t in [DType::F32, DType::F64] {
                check(
                    "com.microsoft::CDist",
                    &attrs,
                    &[sample(t, &[3, 5], 1), sample(t, &[4, 5], 2)],
                    1,
                );
            }
        }
        let f = Fact::new(DType::F32, vec![Dim::from(3i64); 2]);
        let other = [("metric", Attr::Str("cosine".into()))];
        let error = infer("com.microsoft::CDist", &other, &[f.clone(), f]).expect_err("another metric");
        assert_eq!(
            error.to_string(),
            "unsupported: attribute `metric` is `cosine`, it can be `sqeuclidean` or `euclidean`"
        );
    }

    #[test]
    fn the_older_product() {
        let s = |shape: &[usize], seed| sample(DType::F32, shape, seed);
        let attrs = [("alpha", Attr::Float(0.5)), ("transB", Attr::Int(1))];
        check(
            "com.microsoft::TransposeMatMul",
            &attrs,
            &[s(&[3, 4], 1), s(&[5, 4], 2)],
            1,
        );
    }
}
