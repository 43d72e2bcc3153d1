//! Embeddings from tables of 8-bit numbers, normalized.
//!
//! Law: rows are taken first and given their meaning then, so that no table of floats comes to be.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, count, differ, optional, plus, reference};
use crate::ops::contrib::codes::{Coded, eval_meaning, number};
use crate::ops::contrib::norms::unmasked;
use crate::ops::fragment::Fragment;
use crate::ops::quantize::BYTES;
use crate::{Attr, DType, Tensor, ValueId};

const F32: Types = Types::of(&[DType::F32]);

const fn ids(name: &'static str) -> Param {
    Param::new(name, Types::INDEX)
}

const fn codes(name: &'static str) -> Param {
    Param::new(name, BYTES).group(2)
}

const fn scale(name: &'static str) -> Param {
    Param::new(name, F32).group(3)
}

const WORDS: Coded = [2, 8, 13];
const POSITIONS: Coded = [3, 9, 14];
const SEGMENTS: Coded = [4, 10, 15];
const GAMMA: Coded = [5, 11, 16];
const BETA: Coded = [6, 12, 17];

pub(super) const EMBED_LAYER: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QEmbedLayerNormalization",
        "EmbedLayerNormalization of what DequantizeLinear makes of tables and parameters",
        &[
            ids("input_ids"),
            ids("segment_ids").optional(),
            codes("word_embedding_quant"),
            codes("position_embedding_quant"),
            codes("segment_embedding").optional(),
            codes("gamma_quant"),
            codes("beta_quant"),
            ids("mask").optional(),
            scale("word_embedding_scale"),
            scale("position_embedding_scale"),
            scale("segment_embedding_scale").optional(),
            scale("gamma_scale"),
            scale("beta_scale"),
            codes("word_embedding_zero_point"),
            codes("position_embedding_zero_point"),
            codes("segment_embedding_zero_point").optional(),
            codes("gamma_zero_point"),
            codes("beta_zero_point"),
        ],
        &[Param::new("layernorm_out", F32).group(3), ids("mask_index_out")],
        &[("epsilon", AttrDef::Float(1e-12))],
    ),
    build,
    eval,
};

fn build(cx: &Cx, g: &mut Fragment) -> Result<Vec<ValueId>, OpError> {
    let x = cx.fact(0)?;
    if x.rank() != 2 {
        return invalid(format!("input_ids are {x}, not of rank 2"));
    }
    for i in [1, 7] {
        if let Some(a) = cx.arg(i)
            && (a.fact.rank() != 2 || a.fact.shape.iter().zip(&x.shape).any(|(a, b)| differ(a, b)))
        {
            return invalid(format!("input {i} ({}) is {}", cx.schema.inputs[i].name, a.fact));
        }
    }
    for i in 2..7 {
        if let Some(a) = cx.arg(i)
            && (a.fact.rank() != if i < 5 { 2 } else { 1 } || a.fact.shape.last() != cx.fact(2)?.shape.last())
        {
            return invalid(format!("input {i} ({}) is {}", cx.schema.inputs[i].name, a.fact));
        }
    }
    if cx.has(1) != cx.has(4) {
        return invalid("segment_ids and segment_embedding come together");
    }
    let at = g.required(cx, 0)?;
    let words = rows(cx, g, WORDS, Some(at))?;
    let at = count(g, &x.shape[1])?;
    let positions = rows(cx, g, POSITIONS, Some(at))?;
    let mut sum = plus(g, words, Some(positions))?;
    if let Some(at) = g.input(1) {
        let segments = rows(cx, g, SEGMENTS, Some(at))?;
        sum = plus(g, sum, Some(segments))?;
    }
    let (gamma, beta) = (rows(cx, g, GAMMA, None)?, rows(cx, g, BETA, None)?);
    let y = g.apply("LayerNormalization", &epsilon(cx)?, &[sum, gamma, beta])?;
    Ok(vec![y, unmasked(cx, g)?])
}

/// `(x - zero) * scale` of the rows of a table, or of all of it.
fn rows(cx: &Cx, g: &mut Fragment, [x, scale, zero]: Coded, at: Option<ValueId>) -> Result<ValueId, OpError> {
    let mut x = g.required(cx, x)?;
    if let Some(at) = at {
        x = g.apply("Gather", &[], &[x, at])?;
    }
    let (scale, zero) = (number(cx, g, scale)?, number(cx, g, zero)?);
    g.apply("DequantizeLinear", &[], &[x, scale, zero])
}

fn epsilon(cx: &Cx) -> Result<[(&'static str, Attr); 1], OpError> {
    Ok([("epsilon", Attr::Float(cx.float("epsilon")?))])
}

fn eval(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    let wide = |operand: Coded| -> Result<Option<Tensor>, OpError> {
        if !cx.has(operand[0]) {
            return Ok(None);
        }
        Ok(Some(Tensor::f32(
            cx.tensor(operand[0])?.shape(),
            eval_meaning(cx, operand)?,
        )))
    };
    let tables = [
        wide(WORDS)?,
        wide(POSITIONS)?,
        wide(SEGMENTS)?,
        wide(GAMMA)?,
        wide(BETA)?,
    ];
    let mut inputs = vec![Some(cx.tensor(0)?), optional(cx, 1)?];
    inputs.extend(tables.iter().map(Option::as_ref));
    inputs.push(optional(cx, 7)?);
    reference("com.microsoft::EmbedLayerNormalization", &epsilon(cx)?, &inputs, 2)
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::sample;
    use crate::{Attr, DType, Tensor};

    #[test]
    fn embeddings() {
        let ids = |v: &[i64]| Some(Tensor::from_i64(DType::I32, &[2, 3], v.iter().copied()));
        for t in [DType::U8, DType::I8] {
            let scale = |v: f32| Some(Tensor::f32(&[], [v]));
            let zero = |v: i64| Some(Tensor::from_i64(t, &[], [v]));
            let s = |shape: &[usize], seed| sample(t, shape, seed);
            let words = ids(&[0, 4, 2, 1, 1, 3]);
            let mut inputs = vec![
                words,
                None,
                s(&[5, 4], 1),
                s(&[6, 4], 2),
                None,
                s(&[4], 3),
                s(&[4], 4),
                None,
            ];
            inputs.extend([scale(0.5), scale(0.25), None, scale(0.125), scale(0.75)]);
            inputs.extend([zero(3), zero(1), None, zero(0), zero(2)]);
            let epsilon = [("epsilon", Attr::Float(1e-3))];
            check("com.microsoft::QEmbedLayerNormalization", &epsilon, &inputs, 2);
            (inputs[1], inputs[4]) = (ids(&[0, 1, 1, 0, 0, 1]), s(&[2, 4], 5));
            (inputs[7], inputs[10], inputs[15]) = (ids(&[1, 1, 0, 1, 0, 0]), scale(0.5), zero(1));
            check("com.microsoft::QEmbedLayerNormalization", &epsilon, &inputs, 2);
        }
    }
}
