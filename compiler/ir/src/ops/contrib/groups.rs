//! GroupQueryAttention: attention of a generation loop, with the positions of each batch and a cache of old keys.
//!
//! Laws: batches may keep different numbers of old keys, so where new ones go is data; a cache that has room for all of
//! them keeps its extent, another grows to the whole length, which must be known when the model is compiled.

use super::heads::{FLOAT, HEADS, SCALE, head_count, mask, maybe, scale, swapped, wide};
use super::rotary::{turn, turned};
use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::composed::{
    Composed, concat, count, differ, optional, reference, refuse_attributes, refuse_inputs, reshape, slice, transpose,
};
use crate::ops::fragment::Fragment;
use crate::{Attr, Bounds, DType, Dim, Tensor, ValueId};

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
            ("k_quant_type", AttrDef::OneOf(&["NONE"])),
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
            ("v_quant_type", AttrDef::OneOf(&["NONE"])),
        ],
    )
    .limits(&[
        "no quantised caches",
        "no `head_sink`, norms of q and k, `query_seqlens` and `output_qk`",
        "`causal` is 1",
    ]),
    build: grouped,
    eval: eval_grouped,
};

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
        if cx.outputs > 3 {
            return unsupported("output 3 (output_qk) is not supported");
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
        for a in [3, 4].into_iter().filter_map(|i| cx.arg(i)) {
            let want = [
                &q.shape[0],
                &Dim::from(heads[1]),
                before.as_ref().unwrap_or(&Dim::ZERO),
                &size,
            ];
            if a.fact.rank() != 4 || a.fact.shape.iter().zip(want).any(|(a, b)| differ(a, b)) {
                return invalid(format!("{} among old keys and values {want:?}", a.fact));
            }
        }
        for a in [7, 8, 9].into_iter().filter_map(|i| cx.arg(i)) {
            if a.fact.rank() != 2 {
                return invalid(format!("{} is not of rank 2", a.fact));
            }
        }
        if let Some(at) = cx.arg(9)
            && (differ(&at.fact.shape[0], &q.shape[0]) || differ(&at.fact.shape[1], &q.shape[1]))
        {
            return invalid(format!("position_ids are {} for query {q}", at.fact));
        }
        if let (Some(cos), Some(sin)) = (cx.arg(7), cx.arg(8))
            && cos.fact.shape.iter().zip(&sin.fact.shape).any(|(a, b)| differ(a, b))
        {
            return invalid(format!("cos_cache is {}, sin_cache {}", cos.fact, sin.fact));
        }
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
            let ends = [
                nq.clone(),
                nq.clone() + nk.clone(),
                nq.clone() + nk.clone() + nk.clone(),
            ];
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
    let (q, mut k, mut v) = (
        transpose(g, q, &inner)?,
        transpose(g, k, &inner)?,
        transpose(g, v, &inner)?,
    );
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
    let shape = vec![f.batch.clone(), Dim::from(f.heads[1]), keys, f.size.clone()];
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
    let angles = |at: i64| -> Result<[Vec<f64>; 2], OpError> {
        let row = usize::try_from(at).unwrap_or(usize::MAX);
        let mut out = [vec![], vec![]];
        for (o, i) in out.iter_mut().zip([7, 8]) {
            let t = cx.tensor(i)?;
            let half = t.shape()[1];
            *o = match t.to_f64().chunks(half.max(1)).nth(row) {
                Some(row) => row.to_vec(),
                None => return invalid("a position outside of cos_cache"),
            };
        }
        Ok(out)
    };
    let positions = optional(cx, 9)?.map(Tensor::to_i64);
    let turns = cx.int("do_rotary")? != 0;
    let interleaved = cx.int("rotary_interleaved")? != 0;
    let keys = if f.before.is_some() {
        room.max(n(&f.total))
    } else {
        queries
    };
    let mut queried = vec![];
    for b in 0..batch {
        for h in 0..nq {
            for i in 0..queries {
                let mut x = head(b, i, h);
                if turns {
                    let at = positions.as_ref().map_or((kept[b] + i) as i64, |p| p[b * queries + i]);
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
                        p.extend_from_slice(old.as_ref().map_or(&[][..], |o| &o[at..at + size]));
                        continue;
                    };
                    if i >= queries {
                        p.extend(std::iter::repeat_n(0.0, size));
                        continue;
                    }
                    let mut x = head(b, i, nq + which * nk + h);
                    if turns && which == 0 {
                        let at = positions.as_ref().map_or(j as i64, |p| p[b * queries + i]);
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
    use crate::ops::samples::sample;
    use crate::{Attr, DType, Tensor};

    fn f(shape: &[usize], seed: u64) -> Option<Tensor> {
        sample(DType::F32, shape, seed)
    }

    fn ints(shape: &[usize], v: &[i64]) -> Option<Tensor> {
        Some(Tensor::from_i64(DType::I32, shape, v.iter().copied()))
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
                let turn = [
                    ("do_rotary", Attr::Int(1)),
                    ("rotary_interleaved", Attr::Int(interleaved)),
                ];
                check(op, &attrs(&turn), &turned, 3);
            }
        }
        let packed = [f(&[2, 3, 32], 1), None, None, None, None, ints(&[2], &[2, 2]), total(3)];
        check(op, &attrs(&[]), &packed, 1);
    }
}
