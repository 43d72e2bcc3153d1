//! Normalizations that add a residual or look up embeddings first.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, count, differ, optional, plus, reference, refuse_attributes};
use crate::ops::fragment::Fragment;
use crate::ops::norms::{EPSILON, STASH, check_parameter, inverse_root, mean_square, moments};
use crate::ops::pointwise::working;
use crate::{Attr, DType, Dim, Tensor, ValueId};

const T: Param = Param::new("input", Types::FLOAT);
/// ONNX Runtime's default for what comes from BERT.
const SMALL_EPSILON: (&str, AttrDef) = ("epsilon", AttrDef::Float(1e-12));
const MOMENT: Types = Types::of(&[DType::F32]);

const SUMMED: &[Param] = &[
    Param::new("output", Types::FLOAT),
    Param::new("mean", MOMENT).group(0).optional(),
    Param::new("inv_std_var", MOMENT).group(0).optional(),
    Param::new("input_skip_bias_sum", Types::FLOAT).optional(),
];

pub(super) const SKIP_LAYER: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::SkipLayerNormalization",
        "LayerNormalization of input + skip + bias over the last axis, with gamma and beta",
        &[
            T,
            Param::new("skip", Types::FLOAT),
            Param::new("gamma", Types::FLOAT),
            Param::new("beta", Types::FLOAT).optional(),
            Param::new("bias", Types::FLOAT).optional(),
        ],
        SUMMED,
        &[SMALL_EPSILON],
    ),
    build: |cx, g| {
        let sum = summed(cx, g, 4)?;
        let (gamma, beta) = (g.required(cx, 2)?, g.input(3));
        let [y, mean, inverse] = layer(cx, g, sum, gamma, beta)?;
        finish(cx, g, [y, mean, inverse, sum])
    },
    eval: |cx| eval_skip(cx, 3, 4, true),
};

pub(super) const SKIP_SIMPLIFIED: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::SkipSimplifiedLayerNormalization",
        "RMSNormalization of input + skip + bias over the last axis, with gamma",
        &[
            T,
            Param::new("skip", Types::FLOAT),
            Param::new("gamma", Types::FLOAT),
            Param::new("bias", Types::FLOAT).optional(),
        ],
        SUMMED,
        &[SMALL_EPSILON],
    ),
    build: |cx, g| {
        let sum = summed(cx, g, 3)?;
        let last = [g.fact(sum).rank() - 1];
        let gamma = g.required(cx, 2)?;
        let gamma = g.cast(gamma, g.dtype(sum))?;
        let y = g.apply("RMSNormalization", &epsilon(cx)?, &[sum, gamma])?;
        let mean = g.mean(sum, &last, true)?;
        let square = mean_square(g, sum, &last)?;
        let inverse = inverse_root(g, square, cx.float("epsilon")?.into())?;
        finish(cx, g, [y, mean, inverse, sum])
    },
    eval: |cx| eval_skip(cx, usize::MAX, 3, false),
};

const SIMPLIFIED_INPUTS: &[Param] = &[
    Param::new("X", Types::FLOAT),
    Param::new("scale", Types::FLOAT).group(2),
];
const SIMPLIFIED_OUTPUTS: &[Param] = &[
    Param::new("Y", Types::FLOAT).group(2),
    Param::new("inv_std_var", Types::FLOAT).group(0).optional(),
];
const SIMPLIFIED_ATTRS: &[(&str, AttrDef)] = &[("axis", AttrDef::Int(-1)), EPSILON, STASH];

/// ONNX Runtime writes it into the default domain, where it is not one of ONNX's.
pub(super) const SIMPLIFIED: Composed = Composed {
    schema: &Schema::new(
        "SimplifiedLayerNormalization",
        "RMSNormalization under its older name",
        SIMPLIFIED_INPUTS,
        SIMPLIFIED_OUTPUTS,
        SIMPLIFIED_ATTRS,
    ),
    build: simplified,
    eval: eval_simplified,
};

pub(super) const SIMPLIFIED_CONTRIBUTED: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::SimplifiedLayerNormalization",
        "RMSNormalization under its older name",
        SIMPLIFIED_INPUTS,
        SIMPLIFIED_OUTPUTS,
        SIMPLIFIED_ATTRS,
    ),
    ..SIMPLIFIED
};

const IDS: Param = Param::new("input_ids", Types::INDEX).group(2);
const TABLE: Param = Param::new("word_embedding", Types::FLOAT);

pub(super) const EMBED_LAYER: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::EmbedLayerNormalization",
        "LayerNormalization of the sum of word, position and segment embeddings; how many keys the mask leaves",
        &[
            IDS,
            Param::new("segment_ids", Types::INDEX).group(2).optional(),
            TABLE,
            Param::new("position_embedding", Types::FLOAT),
            Param::new("segment_embedding", Types::FLOAT).optional(),
            Param::new("gamma", Types::FLOAT),
            Param::new("beta", Types::FLOAT),
            Param::new("mask", Types::INDEX).group(2).optional(),
            Param::new("position_ids", Types::INDEX).group(2).optional(),
        ],
        &[
            Param::new("output", Types::FLOAT),
            Param::new("mask_index", Types::INDEX).group(2).optional(),
            Param::new("embedding_sum", Types::FLOAT).optional(),
        ],
        &[SMALL_EPSILON, ("mask_index_type", AttrDef::Int(0))],
    )
    .limits(&["`mask_index_type` is 0 or 1"]),
    build: embed,
    eval: eval_embed,
};

fn epsilon(cx: &Cx) -> Result<[(&'static str, Attr); 1], OpError> {
    Ok([("epsilon", Attr::Float(cx.float("epsilon")?))])
}

/// `input + skip + bias` in the type that is computed in.
fn summed(cx: &Cx, g: &mut Fragment, bias: usize) -> Result<ValueId, OpError> {
    let x = cx.fact(0)?;
    if x.rank() < 2 {
        return invalid(format!("input {x} has no rows"));
    }
    for i in 1..cx.inputs.len() {
        if let Some(p) = cx.arg(i) {
            check_parameter(x, p.fact)?;
        }
    }
    let (input, skip, bias) = (g.required(cx, 0)?, g.required(cx, 1)?, g.input(bias));
    let input = g.widen(input)?;
    let sum = plus(g, input, Some(skip))?;
    plus(g, sum, bias)
}

/// The layer normalization of rows, their means and inverse deviations.
fn layer(
    cx: &Cx,
    g: &mut Fragment,
    x: ValueId,
    gamma: ValueId,
    beta: Option<ValueId>,
) -> Result<[ValueId; 3], OpError> {
    let inputs = [Some(x), Some(gamma), beta];
    let out = g.results("LayerNormalization", &epsilon(cx)?, &inputs, 3)?;
    Ok([out[0], out[1], out[2]])
}

fn finish(cx: &Cx, g: &mut Fragment, [y, mean, inverse, sum]: [ValueId; 4]) -> Result<Vec<ValueId>, OpError> {
    let t = cx.fact(0)?.dtype;
    Ok(vec![
        g.cast(y, t)?,
        g.cast(mean, DType::F32)?,
        g.cast(inverse, DType::F32)?,
        g.cast(sum, t)?,
    ])
}

/// Element `i` of what is added along the trailing axes.
fn broadcast(shape: &[usize], p: &Tensor) -> Result<Vec<f64>, OpError> {
    let zero = Tensor::from_f64(DType::F64, shape, vec![0.0; shape.iter().product()]);
    let wide = Tensor::from_f64(DType::F64, p.shape(), p.to_f64());
    Ok(reference("Add", &[], &[Some(&zero), Some(&wide)], 1)?[0].to_f64())
}

/// Rows normalized in `f64`, their means and inverse deviations.
fn rows(x: &[f64], size: usize, epsilon: f64, centered: bool) -> [Vec<f64>; 3] {
    let [mut y, mut means, mut inverses] = [const { vec![] }; 3];
    for row in x.chunks(size.max(1)) {
        let (mean, mut inverse) = moments(row, epsilon);
        if !centered {
            let square = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
            inverse = 1.0 / (square + epsilon).sqrt();
        }
        y.extend(row.iter().map(|v| (v - if centered { mean } else { 0.0 }) * inverse));
        means.push(mean);
        inverses.push(inverse);
    }
    [y, means, inverses]
}

fn eval_skip(cx: &Cx, beta: usize, bias: usize, centered: bool) -> Result<Vec<Tensor>, OpError> {
    let x = cx.tensor(0)?;
    let (t, shape) = (x.dtype(), x.shape());
    let mut sum = x.to_f64();
    for i in [1, bias] {
        if let Some(p) = optional(cx, i)? {
            sum.iter_mut().zip(broadcast(shape, p)?).for_each(|(s, v)| *s += v);
        }
    }
    let size = shape[shape.len() - 1];
    let [mut y, mean, inverse] = rows(&sum, size, cx.float("epsilon")?.into(), centered);
    let gamma = broadcast(shape, cx.tensor(2)?)?;
    y.iter_mut().zip(gamma).for_each(|(y, s)| *y *= s);
    if let Some(b) = optional(cx, beta)? {
        y.iter_mut().zip(broadcast(shape, b)?).for_each(|(y, v)| *y += v);
    }
    let mut outer = shape.to_vec();
    outer[shape.len() - 1] = 1;
    let left = outer.iter().product();
    let moment = |mut v: Vec<f64>| {
        // Rows without elements have no mean.
        v.resize(left, f64::NAN);
        Tensor::from_f64(DType::F32, &outer, v)
    };
    Ok(vec![
        Tensor::from_f64(t, shape, y),
        moment(mean),
        moment(inverse),
        Tensor::from_f64(t, shape, sum),
    ])
}

fn simplified(cx: &Cx, g: &mut Fragment) -> Result<Vec<ValueId>, OpError> {
    let (x, scale) = (g.required(cx, 0)?, g.required(cx, 1)?);
    let axis = cx.int("axis")?;
    let mut attrs = epsilon(cx)?.to_vec();
    attrs.extend([
        ("axis", Attr::Int(axis)),
        ("stash_type", Attr::Int(cx.int("stash_type")?)),
    ]);
    let y = g.apply("RMSNormalization", &attrs, &[x, scale])?;
    let rank = g.fact(x).rank();
    let axes: Vec<usize> = (crate::op::normalize_axis(axis, rank)?..rank).collect();
    let wide = g.widen(x)?;
    let square = mean_square(g, wide, &axes)?;
    let inverse = inverse_root(g, square, cx.float("epsilon")?.into())?;
    Ok(vec![y, inverse])
}

fn eval_simplified(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    let (x, scale) = (cx.tensor(0)?, cx.tensor(1)?);
    let shape = x.shape();
    let axis = crate::op::normalize_axis(cx.int("axis")?, shape.len())?;
    let size: usize = shape[axis..].iter().product();
    let [mut y, _, mut inverse] = rows(&x.to_f64(), size, cx.float("epsilon")?.into(), false);
    let gamma = broadcast(shape, scale)?;
    y.iter_mut().zip(gamma).for_each(|(y, s)| *y *= s);
    let outer: Vec<usize> = (0..shape.len()).map(|i| if i < axis { shape[i] } else { 1 }).collect();
    inverse.resize(outer.iter().product(), f64::NAN);
    Ok(vec![
        Tensor::from_f64(scale.dtype(), shape, y),
        Tensor::from_f64(working(x.dtype()), &outer, inverse),
    ])
}

fn embed(cx: &Cx, g: &mut Fragment) -> Result<Vec<ValueId>, OpError> {
    let ids = cx.fact(0)?;
    let t = cx.fact(2)?.dtype;
    if ids.rank() != 2 {
        return invalid(format!("input_ids are {ids}, not of rank 2"));
    }
    for i in 2..7 {
        if let Some(a) = cx.arg(i)
            && (a.fact.rank() != if i < 5 { 2 } else { 1 } || a.fact.shape.last() != cx.fact(2)?.shape.last())
        {
            return invalid(format!("input {i} ({}) is {}", cx.schema.inputs[i].name, a.fact));
        }
    }
    for i in [1, 7, 8] {
        let Some(a) = cx.arg(i) else { continue };
        // One row of positions serves all batches.
        let rows = |d: &Dim| i == 8 && d.is_one() || !differ(d, &ids.shape[0]);
        if a.fact.rank() != 2 || !rows(&a.fact.shape[0]) || differ(&a.fact.shape[1], &ids.shape[1]) {
            return invalid(format!("input {i} ({}) is {}", cx.schema.inputs[i].name, a.fact));
        }
    }
    if cx.has(1) != cx.has(4) {
        return invalid("segment_ids and segment_embedding come together");
    }
    refuse_attributes(cx, &[("mask_index_type", &[0, 1])])?;
    let words = g.apply("Gather", &[], &[g.required(cx, 2)?, g.required(cx, 0)?])?;
    let at = match g.input(8) {
        Some(given) => given,
        None => count(g, &ids.shape[1])?,
    };
    let positions = g.apply("Gather", &[], &[g.required(cx, 3)?, at])?;
    let words = g.widen(words)?;
    let mut sum = plus(g, words, Some(positions))?;
    if let (Some(at), Some(table)) = (g.input(1), g.input(4)) {
        let segments = g.apply("Gather", &[], &[table, at])?;
        sum = plus(g, sum, Some(segments))?;
    }
    let (gamma, beta) = (g.required(cx, 5)?, g.required(cx, 6)?);
    let [y, ..] = layer(cx, g, sum, gamma, Some(beta))?;
    let index = unmasked(cx, g)?;
    Ok(vec![g.cast(y, t)?, index, g.cast(sum, t)?])
}

/// How many keys the mask, input 7, leaves for each batch of input 0; 0 without one.
pub(super) fn unmasked(cx: &Cx, g: &mut Fragment) -> Result<ValueId, OpError> {
    let ids = cx.fact(0)?;
    let Some(mask) = g.input(7) else {
        let zero = g.constant(Tensor::from_i64(ids.dtype, &[], [0]));
        let shape = Attr::Dims(vec![ids.shape[0].clone()]);
        return g.apply("Expand", &[("shape", shape)], &[zero]);
    };
    let one = g.number(mask, 1.0);
    let kept = g.binary("Equal", mask, one)?;
    let kept = g.cast(kept, ids.dtype)?;
    g.reduce("ReduceSum", kept, &[1], false)
}

fn eval_embed(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    let (ids, table) = (cx.tensor(0)?, cx.tensor(2)?);
    let (batch, length, size) = (ids.shape()[0], ids.shape()[1], table.shape()[1]);
    let positions: Vec<i64> = match optional(cx, 8)? {
        Some(p) => {
            let rows = p.to_i64();
            (0..batch * length).map(|i| rows[i % rows.len()]).collect()
        }
        None => (0..batch * length).map(|i| (i % length) as i64).collect(),
    };
    let mut sum = vec![0.0; batch * length * size];
    let mut add = |table: &Tensor, at: &[i64]| -> Result<(), OpError> {
        let v = table.to_f64();
        for (i, s) in sum.iter_mut().enumerate() {
            let n = table.shape()[0] as i64;
            let row = at[i / size];
            let row = if row < 0 { row + n } else { row };
            if !(0..n).contains(&row) {
                return invalid(format!("row {row} of a table of {n}"));
            }
            *s += v[row as usize * size + i % size];
        }
        Ok(())
    };
    add(table, &ids.to_i64())?;
    add(cx.tensor(3)?, &positions)?;
    if let (Some(at), Some(segments)) = (optional(cx, 1)?, optional(cx, 4)?) {
        add(segments, &at.to_i64())?;
    }
    let [mut y, ..] = rows(&sum, size, cx.float("epsilon")?.into(), true);
    let (gamma, beta) = (cx.tensor(5)?.to_f64(), cx.tensor(6)?.to_f64());
    y.iter_mut()
        .enumerate()
        .for_each(|(i, y)| *y = *y * gamma[i % size] + beta[i % size]);
    let kept: Vec<i64> = match optional(cx, 7)? {
        Some(mask) => {
            let ones: Vec<i64> = mask.to_i64().into_iter().map(|m| i64::from(m == 1)).collect();
            (0..batch)
                .map(|b| ones[b * length..(b + 1) * length].iter().sum())
                .collect()
        }
        None => vec![0; batch],
    };
    let shape = [batch, length, size];
    Ok(vec![
        Tensor::from_f64(table.dtype(), &shape, y),
        Tensor::from_i64(ids.dtype(), &[batch], kept),
        Tensor::from_f64(table.dtype(), &shape, sum),
    ])
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::sample;
    use crate::{Attr, DType, Tensor};

    #[test]
    fn residuals() {
        for t in [DType::F32, DType::F64, DType::F16] {
            let s = |shape: &[usize], seed| sample(t, shape, seed);
            let (x, skip) = (s(&[2, 3, 5], 1), s(&[2, 3, 5], 2));
            let (gamma, beta, bias) = (s(&[5], 3), s(&[5], 4), s(&[5], 5));
            let epsilon = [("epsilon", Attr::Float(1e-3))];
            let inputs = [x.clone(), skip.clone(), gamma.clone(), beta.clone(), bias.clone()];
            let op = "com.microsoft::SkipLayerNormalization";
            check(op, &epsilon, &inputs, 4);
            check(op, &epsilon, &inputs[..4], 1);
            check(op, &epsilon, &[x.clone(), s(&[1, 3, 5], 2), gamma.clone()], 1);
            let op = "com.microsoft::SkipSimplifiedLayerNormalization";
            check(op, &epsilon, &[x.clone(), skip.clone(), gamma.clone(), bias], 4);
            check(op, &epsilon, &[x.clone(), skip, gamma.clone()], 1);
            for op in [
                "SimplifiedLayerNormalization",
                "com.microsoft::SimplifiedLayerNormalization",
            ] {
                check(op, &epsilon, &[x.clone(), gamma.clone()], 1);
                check(op, &[("axis", Attr::Int(1))], &[x.clone(), s(&[3, 5], 6)], 2);
            }
        }
    }

    #[test]
    fn embeddings() {
        let op = "com.microsoft::EmbedLayerNormalization";
        let ids = |shape: &[usize], v: &[i64]| Some(Tensor::from_i64(DType::I32, shape, v.to_vec()));
        let f = |shape: &[usize], seed| sample(DType::F32, shape, seed);
        let words = ids(&[2, 3], &[0, 6, 2, 5, 5, 1]);
        let mut inputs = vec![
            words.clone(),
            ids(&[2, 3], &[0, 1, 1, 0, 0, 1]),
            f(&[7, 4], 1),
            f(&[5, 4], 2),
            f(&[2, 4], 3),
            f(&[4], 4),
            f(&[4], 5),
            ids(&[2, 3], &[1, 1, 0, 1, 0, 0]),
        ];
        let epsilon = [("epsilon", Attr::Float(1e-3))];
        check(op, &epsilon, &inputs, 3);
        inputs.push(ids(&[2, 3], &[4, 1, 0, 2, 2, 3]));
        check(op, &epsilon, &inputs, 2);
        let plain = [
            words,
            None,
            inputs[2].clone(),
            inputs[3].clone(),
            None,
            inputs[5].clone(),
            inputs[6].clone(),
        ];
        check(op, &epsilon, &plain, 3);
    }
}
