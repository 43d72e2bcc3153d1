//! Attention in ONNX Runtime's forms: one [`Attention`](crate::ops::attention) of the table with its operands brought
//! into shape.
//!
//! Laws: a padding mask is added to the logits as `mask_filter_value`, so a query of which all keys are masked attends to
//! all of them, as in ONNX Runtime.

use super::rotary::{turn, turned};
use super::{
    Composed, concat, count, differ, optional, plus, reference, refuse_attributes, refuse_inputs, reshape, slice,
    transpose,
};
use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::fragment::Fragment;
use crate::{Attr, Bounds, DType, Dim, Tensor, ValueId};

const FLOAT: Types = Types::FLOAT;
const FILTER: (&str, AttrDef) = ("mask_filter_value", AttrDef::Float(-10000.0));
const HEADS: (&str, AttrDef) = ("num_heads", AttrDef::ReqInt);
const SCALE: (&str, AttrDef) = ("scale", AttrDef::Float(0.0));
const CAUSAL: (&str, AttrDef) = ("unidirectional", AttrDef::Int(0));

const fn mask(name: &'static str) -> Param {
    Param::new(name, Types::INDEX).group(0).optional()
}

const fn maybe(name: &'static str) -> Param {
    Param::new(name, FLOAT).optional()
}

pub(super) const MULTI_HEAD: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::MultiHeadAttention",
        "Attention of query, key and value, each plus its part of bias; packed as [B,S,N,3,H] or [B,S,N,2,H] too",
        &[
            Param::new("query", FLOAT),
            maybe("key"),
            maybe("value"),
            maybe("bias"),
            mask("key_padding_mask"),
            maybe("attention_bias"),
            maybe("past_key"),
            maybe("past_value"),
            mask("past_sequence_length"),
            mask("cache_indirection"),
        ],
        &[
            Param::new("output", FLOAT),
            maybe("present_key"),
            maybe("present_value"),
            maybe("qk"),
        ],
        &[FILTER, HEADS, SCALE, CAUSAL],
    ),
    build: |cx, g| {
        refuse_inputs(cx, &[8, 9])?;
        if cx.outputs > 3 {
            return unsupported("output 3 (qk)");
        }
        let qkv = separate(cx, g)?;
        let qkv = biased(cx, g, qkv)?;
        let past = [g.input(6), g.input(7)];
        Ok(attend(cx, g, qkv, [4, 5], past)?.to_vec())
    },
    eval: |cx| {
        let qkv = eval_biased(cx, eval_separate(cx)?)?;
        eval_attend(cx, qkv, [4, 5], [optional(cx, 6)?.map(wide), optional(cx, 7)?.map(wide)])
    },
};

pub(super) const ATTENTION: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::Attention",
        "Attention of the three parts of input weights + bias",
        &[
            Param::new("input", FLOAT),
            Param::new("weights", FLOAT),
            maybe("bias"),
            mask("mask_index"),
            maybe("past"),
            maybe("attention_bias"),
            mask("past_sequence_length"),
        ],
        &[Param::new("output", FLOAT), maybe("present")],
        &[
            ("do_rotary", AttrDef::Int(0)),
            FILTER,
            HEADS,
            ("past_present_share_buffer", AttrDef::Int(0)),
            ("qkv_hidden_sizes", AttrDef::OptInts),
            ("rotary_embedding_dim", AttrDef::Int(0)),
            SCALE,
            CAUSAL,
        ],
    ),
    build: |cx, g| {
        refuse_inputs(cx, &[6])?;
        refuse_attributes(cx, &[("do_rotary", &[0]), ("past_present_share_buffer", &[0])])?;
        let qkv = projected(cx, g)?;
        let mut past = [None, None];
        if let Some(both) = g.input(4) {
            let shape = g.fact(both).shape.clone();
            if shape.len() != 5 {
                return invalid(format!("past is {}, not of rank 5", g.fact(both)));
            }
            for (i, p) in past.iter_mut().enumerate() {
                let one = slice(g, both, 0, Dim::from(i), Dim::from(i + 1))?;
                *p = Some(reshape(g, one, shape[1..].to_vec())?);
            }
        }
        let [y, k, v] = attend(cx, g, qkv, [3, 5], past)?;
        if cx.outputs < 2 {
            return Ok(vec![y]);
        }
        let mut both = [k, v];
        for x in &mut both {
            let mut shape = g.fact(*x).shape.clone();
            shape.insert(0, Dim::ONE);
            *x = reshape(g, *x, shape)?;
        }
        Ok(vec![y, concat(g, &both, 0)?])
    },
    eval: |cx| {
        let past = match optional(cx, 4)? {
            None => [None, None],
            Some(both) => {
                let v = both.to_f64();
                let part = |v: &[f64]| Tensor::from_f64(DType::F64, &both.shape()[1..], v.to_vec());
                let (k, v) = v.split_at(v.len() / 2);
                [Some(part(k)), Some(part(v))]
            }
        };
        let out = eval_attend(cx, eval_projected(cx)?, [3, 5], past)?;
        let both = [out[1].to_f64(), out[2].to_f64()].concat();
        let shape = [&[2], out[1].shape()].concat();
        let present = if cx.outputs > 1 {
            vec![Tensor::from_f64(out[1].dtype(), &shape, both)]
        } else {
            vec![]
        };
        Ok([vec![out[0].clone()], present].concat())
    },
};

pub(super) const GROUP_QUERY: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::GroupQueryAttention",
        "causal Attention with shared key heads; new keys follow the seqlens_k + 1 - S kept ones of each batch",
        &[
            Param::new("query", FLOAT),
            maybe("key"),
            maybe("value"),
            maybe("past_key"),
            maybe("past_value"),
            Param::new("seqlens_k", Types::INDEX).group(0),
            Param::new("total_sequence_length", Types::INDEX).shape_like("total_sequence_length"),
            maybe("cos_cache"),
            maybe("sin_cache"),
            mask("position_ids"),
            maybe("attention_bias"),
            maybe("head_sink"),
            maybe("k_scale").group(0),
            maybe("v_scale").group(0),
            maybe("q_norm_weight"),
            maybe("k_norm_weight"),
            mask("query_seqlens"),
        ],
        &[
            Param::new("output", FLOAT),
            maybe("present_key"),
            maybe("present_value"),
            maybe("output_qk"),
        ],
        &[
            ("causal", AttrDef::Int(1)),
            ("do_rotary", AttrDef::Int(0)),
            ("k_quant_type", AttrDef::Str("NONE")),
            ("kv_cache_bit_width", AttrDef::Int(0)),
            ("kv_num_heads", AttrDef::ReqInt),
            ("local_window_size", AttrDef::Int(-1)),
            HEADS,
            ("qk_norm_epsilon", AttrDef::Float(1e-6)),
            ("qk_output", AttrDef::Int(0)),
            ("rotary_interleaved", AttrDef::Int(0)),
            SCALE,
            ("sliding_window_cache", AttrDef::Int(0)),
            ("smooth_softmax", AttrDef::Int(-1)),
            ("softcap", AttrDef::Float(0.0)),
            ("v_quant_type", AttrDef::Str("NONE")),
        ],
    ),
    build: grouped,
    eval: eval_grouped,
};

/// The number of heads that an attribute gives.
fn head_count(cx: &Cx, name: &str) -> Result<i64, OpError> {
    match cx.int(name)? {
        n if n >= 1 => Ok(n),
        n => invalid(format!("attribute `{name}` is {n}")),
    }
}

/// `[batch, length, heads * size]` of query, key and value.
fn separate(cx: &Cx, g: &mut Fragment) -> Result<[ValueId; 3], OpError> {
    let q = g.required(cx, 0)?;
    let rank = |i: usize| cx.arg(i).map(|a| a.fact.rank());
    // Part `i` of `[batch, length, heads, parts, size]`.
    let part = |g: &mut Fragment, x: ValueId, i: usize| {
        let one = slice(g, x, 3, Dim::from(i), Dim::from(i + 1))?;
        let s = g.fact(x).shape.clone();
        reshape(g, one, vec![s[0].clone(), s[1].clone(), s[2].clone() * s[4].clone()])
    };
    let flat = |g: &mut Fragment, x: ValueId| {
        let s = g.fact(x).shape.clone();
        let x = transpose(g, x, &[0, 2, 1, 3])?;
        reshape(g, x, vec![s[0].clone(), s[2].clone(), s[1].clone() * s[3].clone()])
    };
    match (rank(0), rank(1), rank(2)) {
        (Some(5), None, None) => Ok([part(g, q, 0)?, part(g, q, 1)?, part(g, q, 2)?]),
        (Some(3), Some(5), None) => {
            let kv = g.required(cx, 1)?;
            Ok([q, part(g, kv, 0)?, part(g, kv, 1)?])
        }
        (Some(3), Some(3), Some(3)) => Ok([q, g.required(cx, 1)?, g.required(cx, 2)?]),
        (Some(3), Some(4), Some(4)) => {
            refuse_inputs(cx, &[3, 6])?;
            let (k, v) = (g.required(cx, 1)?, g.required(cx, 2)?);
            Ok([q, flat(g, k)?, flat(g, v)?])
        }
        (q, k, v) => unsupported(format!("query, key and value of ranks {q:?}, {k:?} and {v:?}")),
    }
}

/// Each with its part of the bias, in at least `f32`.
fn biased(cx: &Cx, g: &mut Fragment, qkv: [ValueId; 3]) -> Result<[ValueId; 3], OpError> {
    let mut start = Dim::ZERO;
    let mut out = qkv;
    for x in &mut out {
        *x = g.widen(*x)?;
        if let Some(bias) = g.input(3) {
            let size = g.fact(*x).shape[2].clone();
            let end = start.clone() + size;
            let part = slice(g, bias, 0, start, end.clone())?;
            *x = plus(g, *x, Some(part))?;
            start = end;
        }
    }
    if let Some(b) = cx.arg(3)
        && (b.fact.rank() != 1 || differ(&b.fact.shape[0], &start))
    {
        return invalid(format!("bias is {}, {start} elements are needed", b.fact));
    }
    Ok(out)
}

/// The widths of query, key and value.
fn widths(cx: &Cx) -> Result<[Dim; 3], OpError> {
    let w = cx.fact(1)?;
    if w.rank() != 2 {
        return invalid(format!("weights are {w}, not of rank 2"));
    }
    match cx.opt_ints("qkv_hidden_sizes")?.as_deref() {
        None | Some([]) => match w.shape[1].div_exact(&Dim::from(3i64)) {
            Some(d) => Ok([d.clone(), d.clone(), d]),
            None => invalid(format!("weights {w} do not divide into three")),
        },
        Some([q, k, v]) => Ok([Dim::from(*q), Dim::from(*k), Dim::from(*v)]),
        Some(other) => invalid(format!("attribute `qkv_hidden_sizes` is {other:?}")),
    }
}

fn projected(cx: &Cx, g: &mut Fragment) -> Result<[ValueId; 3], OpError> {
    if cx.fact(0)?.rank() != 3 {
        return invalid(format!("input is {}, not of rank 3", cx.fact(0)?));
    }
    let (x, w, bias) = (g.required(cx, 0)?, g.required(cx, 1)?, g.input(2));
    let (x, w) = (g.widen(x)?, g.widen(w)?);
    let all = g.binary("MatMul", x, w)?;
    let all = plus(g, all, bias)?;
    let [q, k, v] = widths(cx)?;
    let ends = [q.clone(), q.clone() + k.clone(), q.clone() + k.clone() + v];
    let starts = [Dim::ZERO, ends[0].clone(), ends[1].clone()];
    let mut out = [all; 3];
    for (x, (start, end)) in out.iter_mut().zip(starts.into_iter().zip(ends)) {
        *x = slice(g, all, 2, start, end)?;
    }
    Ok(out)
}

/// What is added to the logits, as it broadcasts against `[batch, heads, queries, keys]`.
fn added(
    cx: &Cx,
    g: &mut Fragment,
    [padding, bias]: [usize; 2],
    like: ValueId,
    keys: &Dim,
) -> Result<Option<ValueId>, OpError> {
    let batch = g.fact(like).shape[0].clone();
    let bias = match g.input(bias) {
        Some(b) => Some(g.cast(b, g.dtype(like))?),
        None => None,
    };
    let Some(m) = g.input(padding) else { return Ok(bias) };
    let shape = g.fact(m).shape.clone();
    let name = cx.schema.inputs[padding].name;
    if let Some(last) = shape.last()
        && shape.len() > 1
        && differ(last, keys)
    {
        return unsupported(format!("input {padding} ({name}) is {} for {keys} keys", g.fact(m)));
    }
    let seen = match shape.as_slice() {
        // Lengths of the batches. Other vectors also hold starts, and cannot be told apart where their extent is a symbol.
        [b] if *b == batch => {
            let lengths = reshape(g, m, vec![batch, Dim::ONE, Dim::ONE, Dim::ONE])?;
            let at = count(g, keys)?;
            let at = g.cast(at, g.dtype(m))?;
            g.binary("Less", at, lengths)?
        }
        [_, _] | [_, _, _] => {
            let rows = if shape.len() == 3 { shape[1].clone() } else { Dim::ONE };
            let m = reshape(g, m, vec![shape[0].clone(), Dim::ONE, rows, keys.clone()])?;
            let zero = g.number(m, 0.0);
            g.binary("Greater", m, zero)?
        }
        _ => return unsupported(format!("input {padding} ({name}) of shape {}", g.fact(m))),
    };
    let (zero, filter) = (g.number(like, 0.0), g.number(like, cx.float("mask_filter_value")?.into()));
    let mask = g.apply("Where", &[], &[seen, zero, filter])?;
    Ok(Some(plus(g, mask, bias)?))
}

/// Output and presents, in the type of the node.
fn attend(
    cx: &Cx,
    g: &mut Fragment,
    [q, k, v]: [ValueId; 3],
    masks: [usize; 2],
    past: [Option<ValueId>; 2],
) -> Result<[ValueId; 3], OpError> {
    let t = cx.fact(0)?.dtype;
    let n = head_count(cx, "num_heads")?;
    let mut old = [None; 2];
    for (o, p) in old.iter_mut().zip(past) {
        if let Some(p) = p {
            *o = Some(g.widen(p)?);
        }
    }
    let [queries, mut keys] = [g.fact(q).shape[1].clone(), g.fact(k).shape[1].clone()];
    let causal = cx.int("unidirectional")?;
    if causal != 0 && differ(&queries, &keys) {
        return unsupported(format!("attribute `unidirectional` with {queries} queries and {keys} new keys"));
    }
    if let Some(p) = old[0] {
        keys = g.fact(p).shape.get(2).cloned().unwrap_or(Dim::ZERO) + keys;
    }
    let mask = added(cx, g, masks, q, &keys)?;
    let inputs = [Some(q), Some(k), Some(v), mask, old[0], old[1]];
    let out = g.results("Attention", &attention_attrs(cx, n)?, &inputs, 3)?;
    Ok([g.cast(out[0], t)?, g.cast(out[1], t)?, g.cast(out[2], t)?])
}

fn attention_attrs(cx: &Cx, n: i64) -> Result<Vec<(&'static str, Attr)>, OpError> {
    let mut attrs = vec![
        ("is_causal", Attr::Int(cx.int("unidirectional")?)),
        ("kv_num_heads", Attr::Int(n)),
        ("q_num_heads", Attr::Int(n)),
    ];
    attrs.extend(scale(cx)?);
    Ok(attrs)
}

/// The scale; 0 asks for the default.
fn scale(cx: &Cx) -> Result<Option<(&'static str, Attr)>, OpError> {
    let s = cx.float("scale")?;
    Ok((s != 0.0).then_some(("scale", Attr::Float(s))))
}

fn wide(t: &Tensor) -> Tensor {
    Tensor::from_f64(DType::F64, t.shape(), t.to_f64())
}

fn reshaped(t: &Tensor, shape: &[usize]) -> Tensor {
    Tensor::from_f64(DType::F64, shape, t.to_f64())
}

/// Axes 1 and 2 of four exchanged.
fn swapped(t: &Tensor) -> Result<Tensor, OpError> {
    let perm = [("perm", Attr::Ints(vec![0, 2, 1, 3]))];
    Ok(reference("Transpose", &perm, &[Some(t)], 1)?.remove(0))
}

fn eval_separate(cx: &Cx) -> Result<[Tensor; 3], OpError> {
    let part = |x: &Tensor, i: usize| {
        let s = x.shape();
        let (parts, size) = (s[3], s[4]);
        let v = x.to_f64();
        let rows = v.chunks(size).skip(i).step_by(parts);
        Tensor::from_f64(DType::F64, &[s[0], s[1], s[2] * size], rows.flatten().copied().collect::<Vec<_>>())
    };
    let flat = |x: &Tensor| {
        let s = x.shape();
        Ok(reshaped(&swapped(&wide(x))?, &[s[0], s[2], s[1] * s[3]]))
    };
    let q = cx.tensor(0)?;
    match (optional(cx, 1)?, optional(cx, 2)?) {
        (Some(k), Some(v)) if k.shape().len() == 4 => Ok([wide(q), flat(k)?, flat(v)?]),
        (Some(k), Some(v)) => Ok([wide(q), wide(k), wide(v)]),
        (Some(kv), None) => Ok([wide(q), part(kv, 0), part(kv, 1)]),
        _ => Ok([part(q, 0), part(q, 1), part(q, 2)]),
    }
}

fn eval_biased(cx: &Cx, qkv: [Tensor; 3]) -> Result<[Tensor; 3], OpError> {
    let Some(bias) = optional(cx, 3)? else { return Ok(qkv) };
    let (bias, mut start) = (bias.to_f64(), 0);
    Ok(qkv.map(|x| {
        let size = x.shape()[2];
        let v: Vec<f64> = x.to_f64().iter().enumerate().map(|(i, v)| v + bias[start + i % size]).collect();
        start += size;
        Tensor::from_f64(DType::F64, x.shape(), v)
    }))
}

fn eval_projected(cx: &Cx) -> Result<[Tensor; 3], OpError> {
    let (x, w) = (wide(cx.tensor(0)?), wide(cx.tensor(1)?));
    let all = reference("MatMul", &[], &[Some(&x), Some(&w)], 1)?.remove(0);
    let total = w.shape()[1];
    let bias = optional(cx, 2)?.map_or(vec![0.0; total], Tensor::to_f64);
    let v = all.to_f64();
    let mut start = 0;
    let parts = widths(cx)?.map(|d| {
        let size = d.as_const().map_or(0, |d| d as usize);
        let rows = v.chunks(total).flat_map(|row| (start..start + size).map(|i| row[i] + bias[i]));
        let t = Tensor::from_f64(DType::F64, &[x.shape()[0], x.shape()[1], size], rows.collect::<Vec<_>>());
        start += size;
        t
    });
    Ok(parts)
}

fn eval_attend(
    cx: &Cx,
    [q, k, v]: [Tensor; 3],
    [padding, bias]: [usize; 2],
    past: [Option<Tensor>; 2],
) -> Result<Vec<Tensor>, OpError> {
    let n = head_count(cx, "num_heads")?;
    let before = past[0].as_ref().map_or(0, |p| p.shape()[2]);
    let (batch, queries, keys) = (q.shape()[0], q.shape()[1], before + k.shape()[1]);
    let filter = f64::from(cx.float("mask_filter_value")?);
    let mut mask = optional(cx, bias)?.map(wide);
    if let Some(p) = optional(cx, padding)? {
        let (rank, rows) = (p.shape().len(), p.to_i64());
        let seen = |b: usize, i: usize, j: usize| match rank {
            1 => (j as i64) < rows[b],
            2 => rows[b * keys + j] > 0,
            _ => rows[(b * queries + i) * keys + j] > 0,
        };
        let mut v = vec![];
        for b in 0..batch {
            for i in 0..queries {
                v.extend((0..keys).map(|j| if seen(b, i, j) { 0.0 } else { filter }));
            }
        }
        let fill = Tensor::from_f64(DType::F64, &[batch, 1, queries, keys], v);
        mask = Some(match mask {
            Some(m) => reference("Add", &[], &[Some(&fill), Some(&m)], 1)?.remove(0),
            None => fill,
        });
    }
    let inputs = [Some(&q), Some(&k), Some(&v), mask.as_ref(), past[0].as_ref(), past[1].as_ref()];
    let out = reference("Attention", &attention_attrs(cx, n)?, &inputs, 3)?;
    let t = cx.fact(0)?.dtype;
    Ok(out.iter().map(|o| Tensor::from_f64(t, o.shape(), o.to_f64())).collect())
}

/// Shapes of a GroupQueryAttention.
struct Grouped {
    /// Heads of queries, and of keys and values.
    heads: [i64; 2],
    batch: Dim,
    queries: Dim,
    size: Dim,
    /// Keys that `past_key` has room for.
    before: Option<Dim>,
    /// Keys of the longest batch, old and new.
    total: Dim,
}

impl Grouped {
    fn new(cx: &Cx) -> Result<Self, OpError> {
        refuse_inputs(cx, &[11, 12, 13, 14, 15, 16])?;
        refuse_attributes(
            cx,
            &[
                ("causal", &[1]),
                ("qk_output", &[0]),
                ("kv_cache_bit_width", &[0]),
                ("sliding_window_cache", &[0]),
                ("smooth_softmax", &[-1, 0]),
            ],
        )?;
        for name in ["k_quant_type", "v_quant_type"] {
            if cx.str(name)? != "NONE" {
                return unsupported(format!("attribute `{name}` is {:?}", cx.str(name)?));
            }
        }
        if cx.outputs > 3 {
            return unsupported("output 3 (output_qk)");
        }
        let heads = [head_count(cx, "num_heads")?, head_count(cx, "kv_num_heads")?];
        let q = cx.fact(0)?;
        if q.rank() != 3 {
            return invalid(format!("query is {q}, not of rank 3"));
        }
        if cx.has(1) != cx.has(2) || cx.has(3) != cx.has(4) || cx.has(7) != cx.has(8) {
            return invalid("key and value, past_key and past_value, cos_cache and sin_cache come together");
        }
        let parts = if cx.has(1) { heads[0] } else { heads[0] + 2 * heads[1] };
        let Some(size) = q.shape[2].div_exact(&Dim::from(parts)) else {
            return invalid(format!("query {q} does not divide into {parts} heads"));
        };
        let before = match cx.arg(3).map(|a| a.fact) {
            None => None,
            Some(p) if p.rank() == 4 => Some(p.shape[2].clone()),
            Some(p) => return invalid(format!("past_key is {p}, not of rank 4")),
        };
        let total = match cx.dims(6)?.as_deref() {
            Some([total]) => total.clone(),
            _ => return invalid("total_sequence_length must be one number"),
        };
        Ok(Self {
            heads,
            batch: q.shape[0].clone(),
            queries: q.shape[1].clone(),
            size,
            before,
            total,
        })
    }

    fn attrs(&self, cx: &Cx) -> Result<Vec<(&'static str, Attr)>, OpError> {
        let mut attrs = vec![
            ("is_causal", Attr::Int(1)),
            ("softcap", Attr::Float(cx.float("softcap")?)),
        ];
        // The window counts the query's own position.
        if let window @ 1.. = cx.int("local_window_size")? {
            attrs.push(("left_window_size", Attr::Int(window - 1)));
        }
        attrs.extend(scale(cx)?);
        Ok(attrs)
    }
}

/// A dim as a tensor of one number.
fn value(g: &mut Fragment, d: &Dim) -> Result<ValueId, OpError> {
    if let Some(d) = d.as_const() {
        return Ok(g.constant(Tensor::i64(&[1], [d])));
    }
    // Of a tensor that is never made only the shape is asked for.
    let shape = [("shape", Attr::Dims(vec![d.clone()]))];
    let none = g.apply("ConstantOfShape", &shape, &[])?;
    g.apply("Shape", &[], &[none])
}

fn grouped(cx: &Cx, g: &mut Fragment) -> Result<Vec<ValueId>, OpError> {
    let f = Grouped::new(cx)?;
    let t = cx.fact(0)?.dtype;
    let [nq, nk] = f.heads.map(Dim::from);
    let q = g.required(cx, 0)?;
    let (q, k, v) = match (g.input(1), g.input(2)) {
        (Some(k), Some(v)) => (q, k, v),
        _ => {
            let ends = [nq.clone(), nq.clone() + nk.clone(), nq.clone() + nk.clone() + nk.clone()];
            let ends = ends.map(|n| n * f.size.clone());
            let k = slice(g, q, 2, ends[0].clone(), ends[1].clone())?;
            let v = slice(g, q, 2, ends[1].clone(), ends[2].clone())?;
            (slice(g, q, 2, Dim::ZERO, ends[0].clone())?, k, v)
        }
    };
    let split = |g: &mut Fragment, x: ValueId, n: &Dim| {
        let x = g.widen(x)?;
        let shape = vec![f.batch.clone(), f.queries.clone(), n.clone(), f.size.clone()];
        reshape(g, x, shape)
    };
    let (mut q, mut k, v) = (split(g, q, &nq)?, split(g, k, &nk)?, split(g, v, &nk)?);
    let kept = kept(cx, g, &f)?;
    if cx.int("do_rotary")? != 0 {
        let (Some(cos), Some(sin)) = (g.input(7), g.input(8)) else {
            return invalid("attribute `do_rotary` wants cos_cache and sin_cache");
        };
        let at = match (g.input(9), kept) {
            (Some(at), _) => at,
            (None, kept) => {
                let steps = count(g, &f.queries)?;
                let steps = reshape(g, steps, vec![Dim::ONE, f.queries.clone()])?;
                match kept {
                    None => steps,
                    Some(kept) => {
                        let kept = reshape(g, kept, vec![f.batch.clone(), Dim::ONE])?;
                        g.binary("Add", kept, steps)?
                    }
                }
            }
        };
        let mut angles = [cos, sin];
        for a in &mut angles {
            *a = g.apply("Gather", &[], &[*a, at])?;
            let mut shape = g.fact(*a).shape.clone();
            shape.insert(2, Dim::ONE);
            *a = reshape(g, *a, shape)?;
        }
        let interleaved = cx.int("rotary_interleaved")? != 0;
        q = turn(g, q, angles, interleaved)?;
        k = turn(g, k, angles, interleaved)?;
    }
    let inner = [0, 2, 1, 3];
    let (q, mut k, mut v) = (transpose(g, q, &inner)?, transpose(g, k, &inner)?, transpose(g, v, &inner)?);
    let mut lengths = None;
    if let (Some(before), Some(kept)) = (&f.before, kept) {
        let [old_k, old_v] = [g.required(cx, 3)?, g.required(cx, 4)?];
        k = joined(g, &f, before, kept, old_k, k)?;
        v = joined(g, &f, before, kept, old_v, v)?;
        let new = value(g, &f.queries)?;
        lengths = Some(g.binary("Add", kept, new)?);
    }
    let bias = match g.input(10) {
        Some(b) => Some(g.cast(b, g.dtype(q))?),
        None => None,
    };
    let inputs = [Some(q), Some(k), Some(v), bias, None, None, lengths];
    let y = g.node("Attention", &f.attrs(cx)?, &inputs)?;
    let y = transpose(g, y, &inner)?;
    let y = reshape(g, y, vec![f.batch.clone(), f.queries.clone(), nq * f.size.clone()])?;
    Ok(vec![g.cast(y, t)?, g.cast(k, t)?, g.cast(v, t)?])
}

/// How many old keys each batch has; `None` where there are none.
fn kept(cx: &Cx, g: &mut Fragment, f: &Grouped) -> Result<Option<ValueId>, OpError> {
    let Some(before) = &f.before else { return Ok(None) };
    let last = g.required(cx, 5)?;
    let last = reshape(g, last, vec![f.batch.clone()])?;
    let last = g.cast(last, DType::I64)?;
    // The last position less the new ones before it.
    let new = value(g, &(f.queries.clone() - Dim::ONE))?;
    let all = g.binary("Sub", last, new)?;
    // Never more than there is room for, whatever the lengths say.
    let (zero, room) = (g.number(all, 0.0), value(g, before)?);
    let all = g.binary("Max", all, zero)?;
    let all = g.binary("Min", all, room)?;
    // A prompt has no old keys, however short its batches are.
    let rest = f.total.clone() - f.queries.clone();
    match rest.as_const() {
        Some(0) => Ok(Some(g.binary("Mul", all, zero)?)),
        Some(_) => Ok(Some(all)),
        None => {
            let rest = value(g, &rest)?;
            let prompt = g.binary("Equal", rest, zero)?;
            Ok(Some(g.apply("Where", &[], &[prompt, zero, all])?))
        }
    }
}

/// `[batch, heads, keys, size]` with the kept old keys, the new ones after them, then zeros.
fn joined(
    g: &mut Fragment,
    f: &Grouped,
    before: &Dim,
    kept: ValueId,
    old: ValueId,
    new: ValueId,
) -> Result<ValueId, OpError> {
    let old = g.cast(old, g.dtype(new))?;
    let keys = Bounds::positive(&[]).simplify(&before.maximum(&f.total));
    let both = concat(g, &[old, new], 2)?;
    let kept = reshape(g, kept, vec![f.batch.clone(), Dim::ONE, Dim::ONE, Dim::ONE])?;
    let at = count(g, &keys)?;
    let at = reshape(g, at, vec![keys.clone(), Dim::ONE])?;
    // How far behind the kept ones.
    let ahead = g.binary("Sub", at, kept)?;
    let (zero, room, count) = (g.number(ahead, 0.0), value(g, before)?, value(g, &f.queries)?);
    let moved = g.binary("Add", ahead, room)?;
    let is_old = g.binary("Less", ahead, zero)?;
    let row = g.apply("Where", &[], &[is_old, at, moved])?;
    let one = g.number(ahead, 1.0);
    let last = g.binary("Add", room, count)?;
    let last = g.binary("Sub", last, one)?;
    let row = g.binary("Min", row, last)?;
    let shape = vec![
        f.batch.clone(),
        Dim::from(f.heads[1]),
        keys,
        f.size.clone(),
    ];
    let row = g.apply("Expand", &[("shape", Attr::Dims(shape))], &[row])?;
    let all = g.apply("GatherElements", &[("axis", Attr::Int(2))], &[both, row])?;
    let there = g.binary("Less", ahead, count)?;
    let nothing = g.number(all, 0.0);
    g.apply("Where", &[], &[there, all, nothing])
}

fn eval_grouped(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    let f = Grouped::new(cx)?;
    let n = |d: &Dim| d.as_const().map_or(0, |d| d as usize);
    let [nq, nk] = f.heads.map(|h| h as usize);
    let (batch, queries, size) = (n(&f.batch), n(&f.queries), n(&f.size));
    // Head `h` of all heads of query, key and value in a row.
    let (q, k, v) = (cx.tensor(0)?.to_f64(), optional(cx, 1)?, optional(cx, 2)?);
    let (k, v) = (k.map(Tensor::to_f64), v.map(Tensor::to_f64));
    let head = |b: usize, i: usize, h: usize| -> Vec<f64> {
        let (x, heads, h) = match (&k, &v) {
            (Some(k), Some(v)) => match h {
                _ if h < nq => (&q, nq, h),
                _ if h < nq + nk => (k, nk, h - nq),
                _ => (v, nk, h - nq - nk),
            },
            _ => (&q, nq + 2 * nk, h),
        };
        let at = ((b * queries + i) * heads + h) * size;
        x[at..at + size].to_vec()
    };
    let last = cx.tensor(5)?.to_i64();
    let room = f.before.as_ref().map_or(0, n);
    let kept: Vec<usize> = last
        .iter()
        .map(|l| (l + 1 - queries as i64).clamp(0, room as i64) as usize)
        .map(|l| if f.total == f.queries { 0 } else { l })
        .collect();
    let angles = |row: usize| -> Result<[Vec<f64>; 2], OpError> {
        let mut out = [vec![], vec![]];
        for (o, i) in out.iter_mut().zip([7, 8]) {
            let t = cx.tensor(i)?;
            let half = t.shape()[1];
            *o = match t.to_f64().get(row * half..(row + 1) * half) {
                Some(row) => row.to_vec(),
                None => return invalid("a position outside of cos_cache"),
            };
        }
        Ok(out)
    };
    let positions = optional(cx, 9)?.map(Tensor::to_i64);
    let turns = cx.int("do_rotary")? != 0;
    let interleaved = cx.int("rotary_interleaved")? != 0;
    let keys = if f.before.is_some() { room.max(n(&f.total)) } else { queries };
    let mut queried = vec![];
    for b in 0..batch {
        for h in 0..nq {
            for i in 0..queries {
                let mut x = head(b, i, h);
                if turns {
                    let at = positions.as_ref().map_or(kept[b] + i, |p| p[b * queries + i] as usize);
                    let [c, s] = angles(at)?;
                    turned(&mut x, &c, &s, interleaved);
                }
                queried.extend(x);
            }
        }
    }
    let mut present = [vec![], vec![]];
    for (which, p) in present.iter_mut().enumerate() {
        let old = optional(cx, 3 + which)?.map(Tensor::to_f64);
        for b in 0..batch {
            for h in 0..nk {
                for j in 0..keys {
                    let Some(i) = j.checked_sub(kept[b]) else {
                        let at = ((b * nk + h) * room + j) * size;
                        p.extend_from_slice(&old.as_ref().map_or(&[][..], |o| &o[at..at + size]));
                        continue;
                    };
                    if i >= queries {
                        p.extend(std::iter::repeat_n(0.0, size));
                        continue;
                    }
                    let mut x = head(b, i, nq + which * nk + h);
                    if turns && which == 0 {
                        let at = positions.as_ref().map_or(j, |p| p[b * queries + i] as usize);
                        let [c, s] = angles(at)?;
                        turned(&mut x, &c, &s, interleaved);
                    }
                    p.extend(x);
                }
            }
        }
    }
    let q = Tensor::from_f64(DType::F64, &[batch, nq, queries, size], queried);
    let [k, v] = present.map(|p| Tensor::from_f64(DType::F64, &[batch, nk, keys, size], p));
    let lengths = kept.iter().map(|l| (l + queries) as i64);
    let lengths = Tensor::i64(&[batch], lengths);
    let lengths = f.before.is_some().then_some(&lengths);
    let bias = optional(cx, 10)?.map(wide);
    let inputs = [Some(&q), Some(&k), Some(&v), bias.as_ref(), None, None, lengths];
    let y = reference("Attention", &f.attrs(cx)?, &inputs, 1)?.remove(0);
    let y = swapped(&y)?;
    let t = cx.fact(0)?.dtype;
    Ok(vec![
        Tensor::from_f64(t, &[batch, queries, nq * size], y.to_f64()),
        Tensor::from_f64(t, k.shape(), k.to_f64()),
        Tensor::from_f64(t, v.shape(), v.to_f64()),
    ])
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn f(shape: &[usize], seed: u64) -> Option<Tensor> {
        sample(DType::F32, shape, seed)
    }

    fn ints(shape: &[usize], v: &[i64]) -> Option<Tensor> {
        Some(Tensor::from_i64(DType::I32, shape, v.iter().copied()))
    }

    #[test]
    fn separate_and_packed_operands() {
        let op = "com.microsoft::MultiHeadAttention";
        let heads = [("num_heads", Attr::Int(2))];
        let qkv = [f(&[2, 3, 8], 1), f(&[2, 5, 8], 2), f(&[2, 5, 6], 3)];
        check(op, &heads, &qkv, 1);
        let mut all = qkv.to_vec();
        all.push(f(&[22], 4));
        check(op, &heads, &all, 3);
        all.push(ints(&[2, 5], &[1, 1, 1, 0, 0, 0, 0, 0, 0, 0]));
        check(op, &heads, &all, 1);
        all.push(f(&[1, 2, 3, 5], 5));
        check(op, &heads, &all, 1);
        all[4] = ints(&[2], &[2, 5]);
        check(op, &heads, &all, 1);
        check(op, &heads, &[f(&[2, 3, 2, 3, 4], 1)], 1);
        check(op, &heads, &[f(&[2, 3, 8], 1), f(&[2, 5, 2, 2, 4], 2)], 1);
        check(op, &heads, &[f(&[2, 3, 8], 1), f(&[2, 2, 5, 4], 2), f(&[2, 2, 5, 4], 3)], 1);
        let causal = [
            ("num_heads", Attr::Int(2)),
            ("scale", Attr::Float(0.3)),
            ("unidirectional", Attr::Int(1)),
        ];
        let mut past = vec![f(&[2, 3, 8], 1), f(&[2, 3, 8], 2), f(&[2, 3, 8], 3)];
        past.extend([None, None, None, f(&[2, 2, 4, 4], 4), f(&[2, 2, 4, 4], 5)]);
        check(op, &causal, &past, 3);
    }

    #[test]
    fn projections() {
        let op = "com.microsoft::Attention";
        let heads = [("num_heads", Attr::Int(2))];
        let base = [f(&[2, 3, 5], 1), f(&[5, 24], 2), f(&[24], 3)];
        check(op, &heads, &base, 1);
        check(op, &heads, &base[..2], 2);
        let with = |m: Option<Tensor>| [&base[..], &[m]].concat();
        check(op, &heads, &with(ints(&[2], &[1, 3])), 1);
        check(op, &heads, &with(ints(&[2, 3], &[1, 0, 1, 0, 0, 1])), 1);
        let square = ints(&[2, 3, 3], &[1, 0, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1, 0]);
        check(op, &heads, &with(square), 1);
        let sizes = [("num_heads", Attr::Int(2)), ("qkv_hidden_sizes", Attr::Ints(vec![8, 8, 6]))];
        check(op, &sizes, &[f(&[2, 3, 5], 1), f(&[5, 22], 2), f(&[22], 3)], 1);
        let causal = [("num_heads", Attr::Int(2)), ("unidirectional", Attr::Int(1))];
        let mut past = base.to_vec();
        past.extend([None, f(&[2, 2, 2, 4, 4], 4), f(&[1, 2, 3, 7], 5)]);
        check(op, &causal, &past, 2);
    }

    #[test]
    fn groups() {
        let op = "com.microsoft::GroupQueryAttention";
        let attrs = |more: &[(&'static str, Attr)]| {
            let mut a = vec![("kv_num_heads", Attr::Int(2)), ("num_heads", Attr::Int(4))];
            a.extend_from_slice(more);
            a
        };
        let qkv = [f(&[2, 3, 16], 1), f(&[2, 3, 8], 2), f(&[2, 3, 8], 3)];
        let past = [f(&[2, 2, 5, 4], 4), f(&[2, 2, 5, 4], 5)];
        let total = |n: i64| ints(&[], &[n]);
        let prompt = [&qkv[..], &[None, None, ints(&[2], &[2, 2]), total(3)]].concat();
        check(op, &attrs(&[]), &prompt, 3);
        check(op, &attrs(&[("local_window_size", Attr::Int(2))]), &prompt, 1);
        // Behind all old keys, behind some of them, and in a buffer that has room already.
        for (lengths, n) in [([7, 7], 8), ([4, 7], 8), ([3, 4], 5), ([2, 2], 3)] {
            let inputs = [&qkv[..], &past, &[ints(&[2], &lengths), total(n)]].concat();
            check(op, &attrs(&[("softcap", Attr::Float(2.0))]), &inputs, 3);
            let turned = [&inputs[..], &[f(&[9, 2], 6), f(&[9, 2], 7)]].concat();
            for interleaved in [0, 1] {
                let turn = [("do_rotary", Attr::Int(1)), ("rotary_interleaved", Attr::Int(interleaved))];
                check(op, &attrs(&turn), &turned, 3);
            }
        }
        let packed = [f(&[2, 3, 32], 1), None, None, None, None, ints(&[2], &[2, 2]), total(3)];
        check(op, &attrs(&[]), &packed, 1);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let fact = |s: &[i64]| Fact::new(DType::F32, s.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        let attrs = [("do_rotary", Attr::Int(1)), ("num_heads", Attr::Int(2))];
        let e = infer("com.microsoft::Attention", &attrs, &[fact(&[1, 2, 4]), fact(&[4, 12])]).expect_err("rotary");
        assert_eq!(e.to_string(), "unsupported: attribute `do_rotary` is 1");
    }
}
