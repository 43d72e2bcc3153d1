//! Columns chosen, scaled, compared and filled in.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, concat, reshape, slice};
use crate::ops::ml::{NUMBERS, computed_in};
use crate::ops::pointwise::volume;
use crate::{Attr, DType, Dim, Fact, Tensor};

const X: &[Param] = &[Param::new("X", NUMBERS)];
const SAME: &[Param] = &[Param::new("Y", NUMBERS)];
const FLOAT: &[Param] = &[Param::new("Y", Types::of(&[DType::F32])).group(2)];

/// The extent of the last axis, the columns.
fn columns(x: &Fact) -> Result<&Dim, OpError> {
    match x.shape.last() {
        Some(d) => Ok(d),
        None => invalid(format!("{x} has no columns")),
    }
}

/// Refuses a list that is neither one number nor one for each column.
fn check_list(x: &Fact, name: &str, len: usize) -> Result<(), OpError> {
    let wanted = columns(x)?;
    let fits = len == 1 || wanted.as_const().is_none_or(|c| c == len as i64);
    if len == 0 || !fits {
        return invalid(format!("{len} numbers of {name} for {wanted} columns"));
    }
    Ok(())
}

/// The number for element `i` of a list as [`check_list`] wants it.
fn entry<T: Copy>(list: &[T], i: usize) -> T {
    list[i % list.len()]
}

/// What columns may be of.
const COLUMNS: Types = Types(NUMBERS.0 | Types::STRING.0);

pub(super) const ARRAY_FEATURE_EXTRACTOR: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::ArrayFeatureExtractor",
        "the columns Y of X; a vector is one row",
        &[Param::new("X", COLUMNS), Param::new("Y", Types::I64).group(2)],
        &[Param::new("Z", COLUMNS)],
        &[],
    ),
    build: |cx, g| {
        let (x, at) = (g.required(cx, 0)?, g.required(cx, 1)?);
        columns(g.fact(x))?;
        let count = g.fact(at).element_count();
        let at = reshape(g, at, vec![count.clone()])?;
        let z = g.apply("Gather", &[("axis", Attr::Int(-1))], &[x, at])?;
        if g.fact(z).rank() > 1 {
            return Ok(vec![z]);
        }
        Ok(vec![reshape(g, z, vec![Dim::ONE, count])?])
    },
    eval: |cx| {
        let (x, at) = (cx.tensor(0)?, cx.tensor(1)?.to_i64());
        let Some((columns, rows)) = x.shape().split_last() else {
            return invalid("X has no columns");
        };
        let n = *columns as i64;
        if let Some(bad) = at.iter().find(|i| !(-n..n).contains(*i)) {
            return invalid(format!("column {bad} of {columns}"));
        }
        let mut shape = if rows.is_empty() { vec![1] } else { rows.to_vec() };
        shape.push(at.len());
        volume(&shape)?;
        let source = |ix: &[usize]| {
            let row = ix[..ix.len() - 1].iter().zip(&shape).fold(0, |a, (i, d)| a * d + i);
            ix.last().map(|k| row * columns + at[*k].rem_euclid(n) as usize)
        };
        Ok(vec![x.rearranged(&shape, None, source)])
    },
};

/// How many columns the output has of each input.
fn widths(cx: &Cx) -> Result<Vec<Dim>, OpError> {
    let facts = cx.facts()?;
    let own = |x: &&Fact| match x.shape.as_slice() {
        [] => invalid(format!("{x} has no columns")),
        [n] => Ok(n.clone()),
        [_, rest @ ..] => Ok(Dim::product(rest)),
    };
    match cx.opt_ints("inputdimensions")? {
        None => facts.iter().map(own).collect(),
        Some(given) if given.len() != facts.len() => invalid(format!(
            "{} of `inputdimensions` for {} inputs",
            given.len(),
            facts.len()
        )),
        Some(given) => match given.iter().find(|n| **n < 0) {
            Some(n) => invalid(format!("{n} columns")),
            None => Ok(given.into_iter().map(Dim::from).collect()),
        },
    }
}

pub(super) const FEATURE_VECTORIZER: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::FeatureVectorizer",
        "the columns of all inputs, of each the first `inputdimensions`, filled up with zeros; a vector is one row",
        &[Param::new("X", NUMBERS).variadic().group(0)],
        &[Param::new("Y", Types::of(&[DType::F32])).group(2)],
        &[("inputdimensions", AttrDef::OptInts)],
    ),
    build: |cx, g| {
        let mut parts = vec![];
        for (i, width) in widths(cx)?.into_iter().enumerate() {
            let x = g.required(cx, i)?;
            let shape = match g.fact(x).shape.as_slice() {
                [n] => vec![Dim::ONE, n.clone()],
                [n, rest @ ..] => vec![n.clone(), Dim::product(rest)],
                [] => return invalid("a number has no columns"),
            };
            let mut x = reshape(g, x, shape.clone())?;
            if shape[1] != width {
                x = slice(g, x, 1, Dim::ZERO, width.clone())?;
                let missing = width.clone() - g.fact(x).shape[1].clone();
                let pads = vec![Dim::ZERO, Dim::ZERO, Dim::ZERO, missing];
                x = g.apply("Pad", &[("pads", Attr::Dims(pads))], &[x])?;
                x = reshape(g, x, vec![shape[0].clone(), width])?;
            }
            parts.push(g.cast(x, DType::F32)?);
        }
        Ok(vec![concat(g, &parts, 1)?])
    },
    eval: |cx| {
        let widths = widths(cx)?;
        let mut rows: Vec<Vec<f64>> = vec![];
        for (i, width) in widths.iter().enumerate() {
            let (x, width) = (cx.tensor(i)?, width.as_const().unwrap_or(0) as usize);
            let count = if x.shape().len() == 1 { 1 } else { x.shape()[0] };
            rows.resize(if i == 0 { count } else { rows.len() }, vec![]);
            if rows.len() != count {
                return invalid(format!("{count} rows, the others have {}", rows.len()));
            }
            let (v, own) = (x.to_f64(), x.len() / count.max(1));
            for (r, row) in rows.iter_mut().enumerate() {
                row.extend((0..width).map(|c| if c < own { v[r * own + c] } else { 0.0 }));
            }
        }
        let columns = widths.iter().map(|w| w.as_const().unwrap_or(0) as usize).sum();
        Ok(vec![Tensor::from_f64(
            DType::F32,
            &[rows.len(), columns],
            rows.concat(),
        )])
    },
};

pub(super) const BINARIZER: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::Binarizer",
        "1 where x > threshold, else 0",
        X,
        SAME,
        &[("threshold", AttrDef::Float(0.0))],
    ),
    build: |cx, g| {
        let x = g.required(cx, 0)?;
        let t = g.dtype(x);
        let x = g.cast(x, computed_in(t))?;
        let threshold = g.number(x, cx.float("threshold")?.into());
        let y = g.binary("Less", threshold, x)?;
        Ok(vec![g.cast(y, t)?])
    },
    eval: |cx| {
        let (x, threshold) = (cx.tensor(0)?, f64::from(cx.float("threshold")?));
        let v = x.to_f64().into_iter().map(|x| f64::from(u8::from(x > threshold)));
        Ok(vec![Tensor::from_f64(x.dtype(), x.shape(), v)])
    },
};

/// Offset and scale.
fn scaling(cx: &Cx) -> Result<[Vec<f32>; 2], OpError> {
    let offset = cx.opt_floats("offset")?.unwrap_or_else(|| vec![0.0]);
    let scale = cx.opt_floats("scale")?.unwrap_or_else(|| vec![1.0]);
    check_list(cx.fact(0)?, "offset", offset.len())?;
    check_list(cx.fact(0)?, "scale", scale.len())?;
    Ok([offset, scale])
}

pub(super) const SCALER: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::Scaler",
        "(x - offset) * scale per column",
        X,
        FLOAT,
        &[("offset", AttrDef::OptFloats), ("scale", AttrDef::OptFloats)],
    ),
    build: |cx, g| {
        let lists = scaling(cx)?;
        let x = g.required(cx, 0)?;
        let shape = g.fact(x).shape.clone();
        let mut y = g.cast(x, computed_in(g.dtype(x)))?;
        for (op, list) in ["Sub", "Mul"].into_iter().zip(lists) {
            let n = list.len();
            let list = Tensor::from_f64(g.dtype(y), &[n], list.into_iter().map(f64::from));
            let list = g.constant(list);
            y = g.binary(op, y, list)?;
        }
        let y = reshape(g, y, shape)?;
        Ok(vec![g.cast(y, DType::F32)?])
    },
    eval: |cx| {
        let [offset, scale] = scaling(cx)?;
        let x = cx.tensor(0)?;
        let one = |(i, x): (usize, f64)| (x - f64::from(entry(&offset, i))) * f64::from(entry(&scale, i));
        let v = x.to_f64().into_iter().enumerate().map(one);
        Ok(vec![Tensor::from_f64(DType::F32, x.shape(), v)])
    },
};

/// What a row is divided by at least.
const LEAST_NORM: f64 = 1e-30;

pub(super) const NORMALIZER: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::Normalizer",
        "each row over the maximum (MAX), sum (L1) or root of the sum of squares (L2) of its absolute values",
        X,
        FLOAT,
        &[("norm", AttrDef::OneOf(&["MAX", "L1", "L2"]))],
    ),
    build: |cx, g| {
        let x = g.required(cx, 0)?;
        columns(g.fact(x))?;
        let last = [g.fact(x).rank() - 1];
        let x = g.cast(x, computed_in(g.dtype(x)))?;
        let norm = match cx.str("norm")? {
            "MAX" => {
                let x = g.unary("Abs", x)?;
                g.reduce("ReduceMax", x, &last, true)?
            }
            "L1" => g.reduce("ReduceL1", x, &last, true)?,
            "L2" => g.reduce("ReduceL2", x, &last, true)?,
            _ => return cx.bad("norm"),
        };
        let least = g.number(norm, LEAST_NORM);
        let norm = g.binary("Max", norm, least)?;
        let y = g.binary("Div", x, norm)?;
        Ok(vec![g.cast(y, DType::F32)?])
    },
    eval: |cx| {
        let (x, norm) = (cx.tensor(0)?, cx.str("norm")?);
        let Some(columns) = x.shape().last() else {
            return invalid("X has no columns");
        };
        let mut v = x.to_f64();
        for row in v.chunks_mut((*columns).max(1)) {
            let size = match norm {
                // A NaN is the largest.
                "MAX" => row
                    .iter()
                    .fold(0.0, |a: f64, x| if a >= x.abs() || a.is_nan() { a } else { x.abs() }),
                "L1" => row.iter().map(|x| x.abs()).sum(),
                "L2" => row.iter().map(|x| x * x).sum::<f64>().sqrt(),
                _ => return cx.bad("norm"),
            };
            // A NaN stays one.
            let size = if size < LEAST_NORM { LEAST_NORM } else { size };
            row.iter_mut().for_each(|x| *x /= size);
        }
        Ok(vec![Tensor::from_f64(DType::F32, x.shape(), v)])
    },
};

/// What is replaced, and by what in each column; in the operand's type.
fn imputation(cx: &Cx) -> Result<(Tensor, Tensor), OpError> {
    let x = cx.fact(0)?;
    let (replaced, values) = if x.dtype.is_float() {
        let values = cx.opt_floats("imputed_value_floats")?.unwrap_or_default();
        let replaced = f64::from(cx.float("replaced_value_float")?);
        let values = Tensor::from_f64(x.dtype, &[values.len()], values.into_iter().map(f64::from));
        (Tensor::from_f64(x.dtype, &[], [replaced]), values)
    } else {
        let values = cx.opt_ints("imputed_value_int64s")?.unwrap_or_default();
        let replaced = cx.int("replaced_value_int64")?;
        let values = Tensor::from_i64(x.dtype, &[values.len()], values);
        (Tensor::from_i64(x.dtype, &[], [replaced]), values)
    };
    check_list(x, "imputed values", values.len())?;
    Ok((replaced, values))
}

pub(super) const IMPUTER: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::Imputer",
        "the column's imputed value where x is the replaced value (which may be NaN), else x",
        X,
        SAME,
        &[
            ("imputed_value_floats", AttrDef::OptFloats),
            ("imputed_value_int64s", AttrDef::OptInts),
            ("replaced_value_float", AttrDef::Float(0.0)),
            ("replaced_value_int64", AttrDef::Int(0)),
        ],
    ),
    build: |cx, g| {
        let (replaced, values) = imputation(cx)?;
        let x = g.required(cx, 0)?;
        let shape = g.fact(x).shape.clone();
        let missing = if replaced.scalar_f64().is_some_and(f64::is_nan) {
            g.unary("IsNaN", x)?
        } else {
            let replaced = g.constant(replaced);
            g.binary("Equal", x, replaced)?
        };
        let values = g.constant(values);
        let y = g.apply("Where", &[], &[missing, values, x])?;
        Ok(vec![reshape(g, y, shape)?])
    },
    eval: |cx| {
        let (replaced, values) = imputation(cx)?;
        let x = cx.tensor(0)?;
        let y = if x.dtype().is_float() {
            let (replaced, values) = (replaced.to_f64()[0], values.to_f64());
            let one = |(i, x): (usize, f64)| match x == replaced || x.is_nan() && replaced.is_nan() {
                true => entry(&values, i),
                false => x,
            };
            Tensor::from_f64(x.dtype(), x.shape(), x.to_f64().into_iter().enumerate().map(one))
        } else {
            let (replaced, values) = (replaced.to_i64()[0], values.to_i64());
            let one = |(i, x): (usize, i64)| if x == replaced { entry(&values, i) } else { x };
            Tensor::from_i64(x.dtype(), x.shape(), x.to_i64().into_iter().enumerate().map(one))
        };
        Ok(vec![y])
    },
};

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    const TYPES: [DType; 4] = [DType::F32, DType::F64, DType::I64, DType::I32];

    fn floats(name: &'static str, v: &[f32]) -> (&'static str, Attr) {
        (name, Attr::Floats(v.to_vec()))
    }

    #[test]
    fn chosen_columns() {
        let op = "ai.onnx.ml::ArrayFeatureExtractor";
        for t in TYPES {
            let at = || Some(Tensor::i64(&[3], [0, 4, 4]));
            check(op, &[], &[sample(t, &[2, 5], 1), at()], 1);
            check(
                op,
                &[],
                &[sample(t, &[2, 3, 5], 1), Some(Tensor::i64(&[1, 2], [3, 1]))],
                1,
            );
            check(op, &[], &[sample(t, &[5], 1), at()], 1);
        }
        let x = Some(Tensor::i64(&[3, 4], 0..12));
        let z = eval(op, &[], &[x, Some(Tensor::i64(&[2], [0, 1]))], 1).remove(0);
        assert_eq!((z.shape(), z.to_i64()), (&[3, 2][..], vec![0, 1, 4, 5, 8, 9]));
        assert!(infer(op, &[], &[Fact::new(DType::F32, vec![]), Tensor::i64(&[1], [0]).fact()]).is_err());
    }

    #[test]
    fn elements() {
        for t in TYPES {
            let x = || sample(t, &[4, 3], 1);
            check("ai.onnx.ml::Binarizer", &[("threshold", Attr::Float(0.5))], &[x()], 1);
            check("ai.onnx.ml::Scaler", &[], &[x()], 1);
            let per_column = [floats("offset", &[1.0, 2.0, -3.0]), floats("scale", &[0.5])];
            check("ai.onnx.ml::Scaler", &per_column, &[x()], 1);
            for norm in ["MAX", "L1", "L2"] {
                let norm = [("norm", Attr::Str(norm.into()))];
                check("ai.onnx.ml::Normalizer", &norm, &[x()], 1);
                check("ai.onnx.ml::Normalizer", &norm, &[sample(t, &[5], 1)], 1);
            }
            let values = [
                floats("imputed_value_floats", &[7.0, 8.0, 9.0]),
                ("imputed_value_int64s", Attr::Ints(vec![5])),
                ("replaced_value_int64", Attr::Int(3)),
            ];
            check("ai.onnx.ml::Imputer", &values, &[x()], 1);
        }
        let f = Fact::new(DType::F32, vec![Dim::sym("N"), Dim::from(3i64)]);
        let two = [floats("offset", &[1.0, 2.0])];
        assert!(infer("ai.onnx.ml::Scaler", &two, std::slice::from_ref(&f)).is_err());
        assert!(infer("ai.onnx.ml::Imputer", &[], &[f]).is_err());
    }

    #[test]
    fn values_by_hand() {
        let x = Some(Tensor::f32(&[2, 2], [3.0, -4.0, f32::NAN, 0.0]));
        let missing = [
            floats("imputed_value_floats", &[1.5, 2.5]),
            ("replaced_value_float", Attr::Float(f32::NAN)),
        ];
        check("ai.onnx.ml::Imputer", &missing, std::slice::from_ref(&x), 1);
        let y = eval("ai.onnx.ml::Imputer", &missing, std::slice::from_ref(&x), 1);
        assert_eq!(y[0].to_f64(), [3.0, -4.0, 1.5, 0.0]);
        let row = Some(Tensor::f32(&[1, 2], [3.0, -4.0]));
        let norm = |n: &str| {
            eval(
                "ai.onnx.ml::Normalizer",
                &[("norm", Attr::Str(n.into()))],
                std::slice::from_ref(&row),
                1,
            )
        };
        assert_eq!(norm("MAX")[0].to_f64(), [0.75, -1.0]);
        assert_eq!(norm("L2")[0].to_f32(), [0.6, -0.8]);
        let y = eval("ai.onnx.ml::Binarizer", &[], &[x], 1);
        assert_eq!(y[0].to_f64(), [1.0, 0.0, 0.0, 0.0]);
    }
}
