//! Attention in ONNX Runtime's forms: one [`Attention`](crate::ops::attention) of the table with its operands brought
//! into shape.
//!
//! Laws: a padding mask is added to the logits as `mask_filter_value`, so a query of which all keys are masked attends to
//! all of them, as in ONNX Runtime.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::composed::{
    Composed, concat, count, differ, optional, plus, reference, refuse_attributes, refuse_inputs, reshape, slice,
    transpose,
};
use crate::ops::fragment::Fragment;
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId};

pub(super) const FLOAT: Types = Types::FLOAT;
pub(super) const FILTER: (&str, AttrDef) = ("mask_filter_value", AttrDef::Float(-10000.0));
pub(super) const HEADS: (&str, AttrDef) = ("num_heads", AttrDef::ReqInt);
pub(super) const SCALE: (&str, AttrDef) = ("scale", AttrDef::Float(0.0));
pub(super) const CAUSAL: (&str, AttrDef) = ("unidirectional", AttrDef::Int(0));

pub(super) const fn mask(name: &'static str) -> Param {
    Param::new(name, Types::INDEX).group(0).optional()
}

pub(super) const fn maybe(name: &'static str) -> Param {
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
    )
    .limits(&[
        "no `past_sequence_length`, `cache_indirection` and `qk`",
        "`unidirectional` for as many queries as new keys",
    ]),
    build: |cx, g| {
        refuse_inputs(cx, &[8, 9])?;
        if cx.outputs > 3 {
            return unsupported("output 3 (qk) is not supported");
        }
        let qkv = separate(cx, g)?;
        let qkv = biased(cx, g, qkv)?;
        let past = [g.input(6), g.input(7)];
        Ok(attend(cx, g, cx.fact(0)?.dtype, qkv, [4, 5], past)?.to_vec())
    },
    eval: |cx| {
        let qkv = eval_biased(cx, eval_separate(cx)?)?;
        let past = [optional(cx, 6)?.map(wide), optional(cx, 7)?.map(wide)];
        eval_attend(cx, cx.fact(0)?.dtype, qkv, [4, 5], &past)
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
    )
    .limits(&[
        "no `past_sequence_length`, `do_rotary` and shared buffers",
        "`unidirectional` for as many queries as new keys",
    ]),
    build: |cx, g| {
        refuse_inputs(cx, &[6])?;
        refuse_attributes(cx, &[("do_rotary", &[0]), ("past_present_share_buffer", &[0])])?;
        let qkv = projected(cx, g)?;
        let past = past(g, 4)?;
        let t = cx.fact(0)?.dtype;
        let out = attend(cx, g, t, qkv, [3, 5], past)?;
        with_present(cx, g, out)
    },
    eval: |cx| {
        let out = eval_attend(cx, cx.fact(0)?.dtype, eval_projected(cx)?, [3, 5], &eval_past(cx, 4)?)?;
        Ok(eval_with_present(cx, out))
    },
};

/// Old keys and values of input `i`, which has both.
pub(super) fn past(g: &mut Fragment, i: usize) -> Result<[Option<ValueId>; 2], OpError> {
    let mut past = [None, None];
    if let Some(both) = g.input(i) {
        let shape = g.fact(both).shape.clone();
        if shape.len() != 5 {
            return invalid(format!("past is {}, not of rank 5", g.fact(both)));
        }
        for (i, p) in past.iter_mut().enumerate() {
            let one = slice(g, both, 0, Dim::from(i), Dim::from(i + 1))?;
            *p = Some(reshape(g, one, shape[1..].to_vec())?);
        }
    }
    Ok(past)
}

/// The results of a node whose second one has keys and values.
pub(super) fn with_present(cx: &Cx, g: &mut Fragment, [y, k, v]: [ValueId; 3]) -> Result<Vec<ValueId>, OpError> {
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
}

/// [`past`], of numbers.
pub(super) fn eval_past(cx: &Cx, i: usize) -> Result<[Option<Tensor>; 2], OpError> {
    let Some(both) = optional(cx, i)? else {
        return Ok([None, None]);
    };
    let v = both.to_f64();
    let part = |v: &[f64]| Tensor::from_f64(DType::F64, &both.shape()[1..], v.to_vec());
    let (k, v) = v.split_at(v.len() / 2);
    Ok([Some(part(k)), Some(part(v))])
}

/// [`with_present`], of numbers.
pub(super) fn eval_with_present(cx: &Cx, out: Vec<Tensor>) -> Vec<Tensor> {
    let both = [out[1].to_f64(), out[2].to_f64()].concat();
    let shape = [&[2], out[1].shape()].concat();
    let present = (cx.outputs > 1).then(|| Tensor::from_f64(out[1].dtype(), &shape, both));
    out.into_iter().take(1).chain(present).collect()
}

/// The number of heads that an attribute gives.
pub(super) fn head_count(cx: &Cx, name: &str) -> Result<i64, OpError> {
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
    let n = Dim::from(head_count(cx, "num_heads")?);
    for (i, axis) in [(0, 2), (1, 2), (1, 1), (2, 1)] {
        let packed = axis == 2;
        if let Some(a) = cx.arg(i)
            && a.fact.rank() == if packed { 5 } else { 4 }
            && differ(&a.fact.shape[axis], &n)
        {
            return invalid(format!("input {i} is {} for {n} heads", a.fact));
        }
    }
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
        None | Some([]) => thirds(w),
        Some([q, k, v]) => Ok([Dim::from(*q), Dim::from(*k), Dim::from(*v)]),
        Some(other) => invalid(format!("attribute `qkv_hidden_sizes` is {other:?}")),
    }
}

/// Equal widths of query, key and value, of a weight of rank 2.
pub(super) fn thirds(w: &Fact) -> Result<[Dim; 3], OpError> {
    match w.shape[1].div_exact(&Dim::from(3i64)) {
        Some(d) => Ok([d.clone(), d.clone(), d]),
        None => invalid(format!("weights {w} do not divide into three")),
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
    parted(g, all, widths(cx)?)
}

/// Query, key and value of those widths, which lie side by side.
pub(super) fn parted(g: &mut Fragment, all: ValueId, [q, k, v]: [Dim; 3]) -> Result<[ValueId; 3], OpError> {
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
        [b, .., _] if shape.len() < 4 && !differ(b, &batch) => {
            let rows = if shape.len() == 3 { shape[1].clone() } else { Dim::ONE };
            if shape.len() == 3 && differ(&rows, &g.fact(like).shape[1]) {
                return invalid(format!("{name} is {} for {} queries", g.fact(m), g.fact(like).shape[1]));
            }
            let m = reshape(g, m, vec![shape[0].clone(), Dim::ONE, rows, keys.clone()])?;
            let zero = g.number(m, 0.0);
            g.binary("Greater", m, zero)?
        }
        _ => return unsupported(format!("input {padding} ({name}) of shape {}", g.fact(m))),
    };
    let (zero, filter) = (
        g.number(like, 0.0),
        g.number(like, cx.float("mask_filter_value")?.into()),
    );
    let mask = g.apply("Where", &[], &[seen, zero, filter])?;
    Ok(Some(plus(g, mask, bias)?))
}

/// Output and presents, of type `t`.
pub(super) fn attend(
    cx: &Cx,
    g: &mut Fragment,
    t: DType,
    [q, k, v]: [ValueId; 3],
    masks: [usize; 2],
    past: [Option<ValueId>; 2],
) -> Result<[ValueId; 3], OpError> {
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
        return unsupported(format!(
            "attribute `unidirectional` with {queries} queries and {keys} new keys"
        ));
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
pub(super) fn scale(cx: &Cx) -> Result<Option<(&'static str, Attr)>, OpError> {
    let s = cx.float("scale")?;
    Ok((s != 0.0).then_some(("scale", Attr::Float(s))))
}

pub(super) fn wide(t: &Tensor) -> Tensor {
    Tensor::from_f64(DType::F64, t.shape(), t.to_f64())
}

fn reshaped(t: &Tensor, shape: &[usize]) -> Tensor {
    Tensor::from_f64(DType::F64, shape, t.to_f64())
}

/// Axes 1 and 2 of four exchanged.
pub(super) fn swapped(t: &Tensor) -> Result<Tensor, OpError> {
    let perm = [("perm", Attr::Ints(vec![0, 2, 1, 3]))];
    Ok(reference("Transpose", &perm, &[Some(t)], 1)?.remove(0))
}

fn eval_separate(cx: &Cx) -> Result<[Tensor; 3], OpError> {
    let part = |x: &Tensor, i: usize| {
        let s = x.shape();
        let (parts, size) = (s[3], s[4]);
        let v = x.to_f64();
        let rows = v.chunks(size.max(1)).skip(i).step_by(parts.max(1));
        Tensor::from_f64(
            DType::F64,
            &[s[0], s[1], s[2] * size],
            rows.flatten().copied().collect::<Vec<_>>(),
        )
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
    if bias.len() != qkv.iter().map(|x| x.shape()[2]).sum::<usize>() {
        return invalid(format!("a bias of {} numbers", bias.len()));
    }
    Ok(qkv.map(|x| {
        let size = x.shape()[2];
        let v: Vec<f64> = x
            .to_f64()
            .iter()
            .enumerate()
            .map(|(i, v)| v + bias[start + i % size])
            .collect();
        start += size;
        Tensor::from_f64(DType::F64, x.shape(), v)
    }))
}

fn eval_projected(cx: &Cx) -> Result<[Tensor; 3], OpError> {
    let (x, w) = (wide(cx.tensor(0)?), wide(cx.tensor(1)?));
    let all = reference("MatMul", &[], &[Some(&x), Some(&w)], 1)?.remove(0);
    let total = w.shape()[1];
    let bias = optional(cx, 2)?.map_or(vec![0.0; total], Tensor::to_f64);
    if bias.len() != total {
        return invalid(format!("a bias of {} numbers for {total} columns", bias.len()));
    }
    let v = all.to_f64();
    let v: Vec<f64> = v.iter().enumerate().map(|(i, v)| v + bias[i % total]).collect();
    Ok(eval_parted(&Tensor::from_f64(DType::F64, all.shape(), v), widths(cx)?))
}

/// [`parted`], of numbers.
pub(super) fn eval_parted(all: &Tensor, widths: [Dim; 3]) -> [Tensor; 3] {
    let (v, shape) = (all.to_f64(), all.shape());
    let mut start = 0;
    widths.map(|d| {
        let size = d.as_const().map_or(0, |d| d as usize);
        let part = start..start + size;
        let rows = v.chunks(shape[2].max(1)).flat_map(|row| row[part.clone()].to_vec());
        let rows: Vec<f64> = rows.collect();
        start += size;
        Tensor::from_f64(DType::F64, &[shape[0], shape[1], size], rows)
    })
}

pub(super) fn eval_attend(
    cx: &Cx,
    t: DType,
    [q, k, v]: [Tensor; 3],
    [padding, bias]: [usize; 2],
    past: &[Option<Tensor>; 2],
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
    let inputs = [
        Some(&q),
        Some(&k),
        Some(&v),
        mask.as_ref(),
        past[0].as_ref(),
        past[1].as_ref(),
    ];
    let out = reference("Attention", &attention_attrs(cx, n)?, &inputs, 3)?;
    Ok(out.iter().map(|o| Tensor::from_f64(t, o.shape(), o.to_f64())).collect())
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
        check(
            op,
            &heads,
            &[f(&[2, 3, 8], 1), f(&[2, 2, 5, 4], 2), f(&[2, 2, 5, 4], 3)],
            1,
        );
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
        let sizes = [
            ("num_heads", Attr::Int(2)),
            ("qkv_hidden_sizes", Attr::Ints(vec![8, 8, 6])),
        ];
        check(op, &sizes, &[f(&[2, 3, 5], 1), f(&[5, 22], 2), f(&[22], 3)], 1);
        let causal = [("num_heads", Attr::Int(2)), ("unidirectional", Attr::Int(1))];
        let mut past = base.to_vec();
        past.extend([None, f(&[2, 2, 2, 4, 4], 4), f(&[1, 2, 3, 7], 5)]);
        check(op, &causal, &past, 2);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let fact = |s: &[i64]| Fact::new(DType::F32, s.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        let attrs = [("do_rotary", Attr::Int(1)), ("num_heads", Attr::Int(2))];
        let e = infer("com.microsoft::Attention", &attrs, &[fact(&[1, 2, 4]), fact(&[4, 12])]).expect_err("rotary");
        assert_eq!(e.to_string(), "unsupported: attribute `do_rotary` is 1, it can be 0");
    }
}
