//! Scaled dot-product attention, as a graph of two products and a softmax, which the kernels run as one.
//!
//! Laws: logits are `softcap(scale * Q Kᵀ) + mask`; a query that may attend to no key gives zeros, unless `guarded` is 0, when
//! it gives NaN as a bare softmax does; with 2 every probability that is NaN is zero. Query heads share key heads in equal
//! runs.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid};
use crate::ops::chosen::shared_out;
use crate::ops::composed::{differ, reshape};
use crate::ops::fragment::Fragment;
use crate::ops::pointwise::working;
use crate::structured::{Binary, Expr};
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &Attention,
    &super::flex_attention::FLEX_ATTENTION,
    &Masked,
    &super::rotary::Rotary,
];

/// Inputs of Attention.
const MASK: usize = 3;
const PAST_KEY: usize = 4;
const PAST_VALUE: usize = 5;
const LENGTHS: usize = 6;

struct Attention;

/// Shapes and attributes of an Attention.
struct Form {
    /// Inputs are `[batch, length, heads * size]` instead of `[batch, heads, length, size]`.
    flat: bool,
    batch: Dim,
    /// Heads of queries, and of keys and values.
    heads: [Dim; 2],
    /// Queries, new keys, all keys.
    queries: Dim,
    new: Dim,
    keys: Dim,
    /// Elements of a query or key, and of a value.
    size: Dim,
    width: Dim,
    /// `None`: one over the root of `size`.
    scale: Option<f32>,
    softcap: f32,
    causal: bool,
    /// Keys before and after the query's position that are seen; all when `None`.
    window: [Option<i64>; 2],
    guarded: i64,
    masked: f64,
    /// What the fourth output is: the products, with the cap, with the mask, or the probabilities.
    mode: i64,
}

impl Form {
    fn new(cx: &Cx) -> Result<Self, OpError> {
        let [q, k, v] = [cx.fact(0)?, cx.fact(1)?, cx.fact(2)?];
        let flat = q.rank() == 3;
        if ![3, 4].contains(&q.rank()) || k.rank() != q.rank() || v.rank() != q.rank() {
            return invalid(format!(
                "queries {q}, keys {k} and values {v} must all have rank 3 or all 4"
            ));
        }
        let given = |name: &str| match cx.opt_int(name)? {
            Some(n) if n < 1 => invalid(format!("attribute `{name}` is {n}")),
            n => Ok(n.map(Dim::from)),
        };
        let heads = [given("q_num_heads")?, given("kv_num_heads")?];
        let split = |f: &Fact, h: &Option<Dim>| -> Result<[Dim; 3], OpError> {
            if !flat {
                return Ok([f.shape[1].clone(), f.shape[2].clone(), f.shape[3].clone()]);
            }
            let Some(h) = h else {
                return invalid("inputs of rank 3 need q_num_heads and kv_num_heads");
            };
            match shared_out(&f.shape[2], h) {
                Some(size) => Ok([h.clone(), f.shape[1].clone(), size]),
                None => invalid(format!("{f} does not divide into {h} heads")),
            }
        };
        let [hq, queries, size] = split(q, &heads[0])?;
        let [hk, new, key_size] = split(k, &heads[1])?;
        let [hv, values, width] = split(v, &heads[1])?;
        if differ(&size, &key_size) || differ(&hk, &hv) || differ(&new, &values) {
            return invalid(format!("queries {q}, keys {k} and values {v} do not fit together"));
        }
        if hq != hk && shared_out(&hq, &hk).is_none() {
            return invalid(format!("{hq} query heads cannot share {hk} key heads"));
        }
        if cx.has(PAST_KEY) != cx.has(PAST_VALUE) {
            return invalid("past_key and past_value come together");
        }
        if cx.has(PAST_KEY) && cx.has(LENGTHS) {
            return invalid("past_key and nonpad_kv_seqlen exclude each other");
        }
        let past = if cx.has(PAST_KEY) {
            let f = cx.fact(PAST_KEY)?;
            if f.rank() != 4 {
                return invalid(format!("past_key is {f}, not of rank 4"));
            }
            let old = cx.fact(PAST_VALUE)?;
            let same = |f: &Fact, size: &Dim| {
                let want = [&q.shape[0], &hk, &cx.fact(PAST_KEY)?.shape[2], size];
                Ok(f.rank() == 4 && !f.shape.iter().zip(want).any(|(a, b)| differ(a, b)))
            };
            if !same(f, &size)? || !same(old, &width)? {
                return invalid(format!("past_key {f} and past_value {old} do not fit"));
            }
            f.shape[2].clone()
        } else {
            Dim::ZERO
        };
        if cx.has(LENGTHS) {
            check_lengths(cx.fact(LENGTHS)?, &q.shape[0])?;
        }
        if cx.has(MASK) {
            let m = cx.fact(MASK)?;
            let logits = [&q.shape[0], &hq, &queries];
            let (rank, last) = (m.rank(), past.clone() + new.clone());
            let fits = (1..=4).contains(&rank)
                && m.shape
                    .iter()
                    .rev()
                    .skip(1)
                    .zip(logits.into_iter().rev())
                    .all(|(a, b)| a.is_one() || !differ(a, b))
                && (last - m.shape[rank - 1].clone()).as_const().is_none_or(|d| d >= 0);
            if !fits {
                return invalid(format!("the mask {m} does not fit queries {q} and keys {k}"));
            }
        }
        if differ(&q.shape[0], &k.shape[0]) || differ(&q.shape[0], &v.shape[0]) {
            return invalid(format!("queries {q}, keys {k} and values {v} differ in batch"));
        }
        let window = |name: &str| match cx.int(name)? {
            -1 => Ok(None),
            n if n >= 0 => Ok(Some(n)),
            n => invalid(format!("attribute `{name}` is {n}")),
        };
        let mode = cx.int("qk_matmul_output_mode")?;
        if !(0..=3).contains(&mode) {
            return invalid(format!("attribute `qk_matmul_output_mode` is {mode}"));
        }
        Ok(Self {
            flat,
            batch: q.shape[0].clone(),
            heads: [hq, hk],
            queries,
            keys: past + new.clone(),
            new,
            size,
            width,
            scale: cx.opt_float("scale")?,
            softcap: cx.float("softcap")?,
            causal: cx.int("is_causal")? != 0,
            window: [window("left_window_size")?, window("right_window_size")?],
            guarded: cx.int("guarded")?,
            masked: cx.float("masked")?.into(),
            mode,
        })
    }

    /// Query heads that share a key head, when there may be several.
    fn group(&self) -> Option<Dim> {
        let group = shared_out(&self.heads[0], &self.heads[1])?;
        (!group.is_one() && !group.is_zero()).then_some(group)
    }

    /// Numbers that must be multiples of others, where that is not certain.
    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let [hq, hk] = &self.heads;
        let mut pairs = vec![(hq.clone(), hk)];
        if self.flat {
            for (i, h) in [hq, hk, hk].into_iter().enumerate() {
                pairs.push((cx.fact(i)?.shape[2].clone(), h));
            }
        }
        let rule = |(n, of): (Dim, &Dim)| Some((n.clone(), shared_out(&n, of)? * of.clone()));
        Ok(pairs.into_iter().filter_map(rule).filter(|(a, b)| a != b).collect())
    }

    /// Whether positions decide what is seen.
    fn positional(&self, cx: &Cx) -> bool {
        self.causal || self.window.iter().any(Option::is_some) || cx.has(LENGTHS)
    }
}

fn check_lengths(lengths: &Fact, batch: &Dim) -> Result<(), OpError> {
    if lengths.rank() != 1 || differ(&lengths.shape[0], batch) {
        return invalid(format!("{lengths} are not the lengths of {batch} batches"));
    }
    Ok(())
}

/// Attributes of [`Masked`] in the order of their names.
fn masked_attrs(form: &Form) -> Vec<(&'static str, Attr)> {
    let bound = |w: Option<i64>| Attr::Int(w.unwrap_or(-1));
    vec![
        ("causal", Attr::Int(form.causal.into())),
        ("left", bound(form.window[0])),
        ("offset", Attr::Dims(vec![form.keys.clone() - form.new.clone()])),
        ("right", bound(form.window[1])),
    ]
}

impl OpDef for Attention {
    fn schema(&self) -> &'static Schema {
        const LENGTH: Param = Param::new("nonpad_kv_seqlen", Types::I64).group(0).optional();
        static S: Schema = Schema::new(
            "Attention",
            "softmax over keys of (softcap(scale Q K') + mask), times V",
            &[
                Param::new("Q", Types::FLOAT),
                Param::new("K", Types::FLOAT),
                Param::new("V", Types::FLOAT).group(2),
                Param::new("attn_mask", Types(Types::FLOAT.0 | Types::BOOL.0))
                    .group(0)
                    .optional(),
                Param::new("past_key", Types::FLOAT).optional(),
                Param::new("past_value", Types::FLOAT).group(2).optional(),
                LENGTH,
            ],
            &[
                Param::new("Y", Types::FLOAT),
                Param::new("present_key", Types::FLOAT).optional(),
                Param::new("present_value", Types::FLOAT).group(2).optional(),
                Param::new("qk_matmul_output", Types::FLOAT).optional(),
            ],
            &[
                // Cameo's own: 0 nothing is special, 1 a query without keys gives zeros, 2 so does NaN.
                ("guarded", AttrDef::Int(1)),
                ("is_causal", AttrDef::Int(0)),
                ("kv_num_heads", AttrDef::OptInt),
                ("left_window_size", AttrDef::Int(-1)),
                // Cameo's own: the logits where a boolean mask is false.
                ("masked", AttrDef::Float(f32::NEG_INFINITY)),
                ("q_num_heads", AttrDef::OptInt),
                ("qk_matmul_output_mode", AttrDef::Int(0)),
                ("right_window_size", AttrDef::Int(-1)),
                ("scale", AttrDef::OptFloat),
                ("softcap", AttrDef::Float(0.0)),
                // All of it is computed in at least f32.
                ("softmax_precision", AttrDef::OptInt),
            ],
        )
        .limits(&[
            "numbers of heads that differ must be known",
            "a mask has 1 axis of heads or one for each query head",
        ])
        .since(23);
        &S
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        Form::new(cx)?.rules(cx)
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let f = Form::new(cx)?;
        let (t, [hq, hk]) = (cx.fact(0)?.dtype, f.heads.clone());
        let y = if f.flat {
            vec![f.batch.clone(), f.queries.clone(), hq.clone() * f.width.clone()]
        } else {
            vec![f.batch.clone(), hq.clone(), f.queries.clone(), f.width.clone()]
        };
        let cache = |size: &Dim| vec![f.batch.clone(), hk.clone(), f.keys.clone(), size.clone()];
        let all = [
            Fact::new(t, y),
            Fact::new(t, cache(&f.size)),
            Fact::new(cx.fact(2)?.dtype, cache(&f.width)),
            Fact::new(t, vec![f.batch.clone(), hq, f.queries.clone(), f.keys.clone()]),
        ];
        Ok(all.into_iter().take(cx.outputs).collect())
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (f, facts) = (Form::new(cx)?, self.infer(cx)?);
        let n = |d: &Dim| {
            d.as_const()
                .and_then(|d| usize::try_from(d).ok())
                .map_or_else(|| invalid("an unbound dimension"), Ok)
        };
        let (batch, hq, hk) = (n(&f.batch)?, n(&f.heads[0])?, n(&f.heads[1])?);
        let (queries, new, keys, size, width) = (n(&f.queries)?, n(&f.new)?, n(&f.keys)?, n(&f.size)?, n(&f.width)?);
        let past = keys - new;
        let scale = f.scale.map_or(1.0 / (size as f64).sqrt(), f64::from);
        let values = |i: usize| cx.tensor(i).map(Tensor::to_f64);
        let (q, k, v) = (values(0)?, values(1)?, values(2)?);
        let at = |b: usize, h: usize, i: usize, c: usize, heads: usize, length: usize, size: usize| {
            if f.flat {
                ((b * length + i) * heads + h) * size + c
            } else {
                ((b * heads + h) * length + i) * size + c
            }
        };
        // Both caches as [batch, head, key, element].
        let cache = |x: &[f64], before: usize, size: usize| -> Result<Vec<f64>, OpError> {
            let old = if past > 0 || cx.has(before) {
                values(before)?
            } else {
                vec![]
            };
            let mut out = Vec::with_capacity(batch * hk * keys * size);
            for b in 0..batch {
                for h in 0..hk {
                    for j in 0..keys {
                        for c in 0..size {
                            out.push(match j.checked_sub(past) {
                                None => old[((b * hk + h) * past + j) * size + c],
                                Some(j) => x[at(b, h, j, c, hk, new, size)],
                            });
                        }
                    }
                }
            }
            Ok(out)
        };
        let (k, v) = (cache(&k, PAST_KEY, size)?, cache(&v, PAST_VALUE, width)?);
        let mask = if cx.has(MASK) { Some(cx.tensor(MASK)?) } else { None };
        let with_mask = |b: usize, h: usize, i: usize, j: usize, logit: f64| -> f64 {
            let Some(m) = mask else { return logit };
            let full = [b, h, i, j];
            let mut linear = 0;
            for (a, extent) in m.shape().iter().enumerate() {
                let x = full[4 - m.shape().len() + a];
                if a + 1 == m.shape().len() && x >= *extent {
                    return f64::NEG_INFINITY;
                }
                linear = linear * extent + if *extent == 1 { 0 } else { x };
            }
            match m.dtype() {
                DType::Bool if m.to_i64()[linear] == 0 => f.masked,
                DType::Bool => logit,
                _ => logit + m.to_f64()[linear],
            }
        };
        let lengths = if cx.has(LENGTHS) {
            Some(cx.tensor(LENGTHS)?.to_i64())
        } else {
            None
        };
        let (mut y, mut qk) = (vec![0.0; batch * hq * queries * width], vec![]);
        for b in 0..batch {
            let offset = lengths.as_ref().map_or(past as i64, |l| l[b] - queries as i64);
            for h in 0..hq {
                let shared = h / (hq / hk).max(1);
                for i in 0..queries {
                    let position = offset + i as i64;
                    let mut shown = vec![];
                    let mut row: Vec<f64> = (0..keys)
                        .map(|j| {
                            let dot: f64 = (0..size)
                                .map(|c| {
                                    q[at(b, h, i, c, hq, queries, size)] * k[((b * hk + shared) * keys + j) * size + c]
                                })
                                .sum();
                            let scaled = dot * scale;
                            let cap = f64::from(f.softcap);
                            let capped = if cap > 0.0 { (scaled / cap).tanh() * cap } else { scaled };
                            let key = j as i64;
                            let seen = (!f.causal || key <= position)
                                && f.window[0].is_none_or(|w| position - key <= w)
                                && f.window[1].is_none_or(|w| key - position <= w)
                                && lengths.as_ref().is_none_or(|l| key < l[b]);
                            let masked = if seen {
                                with_mask(b, h, i, j, capped)
                            } else {
                                f64::NEG_INFINITY
                            };
                            shown.push([scaled, capped, masked]);
                            masked
                        })
                        .collect();
                    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    if max == f64::NEG_INFINITY && f.guarded != 0 {
                        row.fill(0.0);
                    } else {
                        row.iter_mut().for_each(|x| *x = (*x - max).exp());
                        let sum: f64 = row.iter().sum();
                        row.iter_mut().for_each(|x| *x /= sum);
                        if f.guarded == 2 {
                            row.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = 0.0);
                        }
                    }
                    for c in 0..width {
                        y[at(b, h, i, c, hq, queries, width)] = (0..keys)
                            .map(|j| row[j] * v[((b * hk + shared) * keys + j) * width + c])
                            .sum();
                    }
                    qk.extend(shown.iter().zip(&row).map(|(s, p)| s.get(f.mode as usize).unwrap_or(p)));
                }
            }
        }
        let all = [y, k, v, qk];
        let tensors = facts.iter().zip(all).map(|(fact, values)| {
            let shape = crate::index::static_shape(fact)?;
            Ok(Tensor::from_f64(fact.dtype, &shape, values))
        });
        tensors.collect()
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let f = Form::new(cx)?;
        let (t, tv) = (cx.fact(0)?.dtype, cx.fact(2)?.dtype);
        let mut g = Fragment::new(cx);
        let [q, k, v] = [g.required(cx, 0)?, g.required(cx, 1)?, g.required(cx, 2)?];
        let [hq, hk] = f.heads.clone();
        let q = heads(&mut g, &f, q, &hq, &f.queries)?;
        let mut k = heads(&mut g, &f, k, &hk, &f.new)?;
        let mut v = heads(&mut g, &f, v, &hk, &f.new)?;
        if let (Some(pk), Some(pv)) = (g.input(PAST_KEY), g.input(PAST_VALUE)) {
            let axis = [("axis", Attr::Int(2))];
            k = g.apply("Concat", &axis, &[pk, k])?;
            v = g.apply("Concat", &axis, &[pv, v])?;
        }
        let caches = [k, v];
        let (q, k, v) = (g.widen(q)?, g.widen(k)?, g.widen(v)?);
        // Query heads that share a key head are an axis of their own.
        let group = f.group();
        let shared = group.is_some();
        let (q, k, v) = if let Some(group) = &group {
            let keys = |size: &Dim| vec![f.batch.clone(), hk.clone(), Dim::ONE, f.keys.clone(), size.clone()];
            let queries = [
                f.batch.clone(),
                hk.clone(),
                group.clone(),
                f.queries.clone(),
                f.size.clone(),
            ];
            (
                reshape(&mut g, q, queries.to_vec())?,
                reshape(&mut g, k, keys(&f.size))?,
                reshape(&mut g, v, keys(&f.width))?,
            )
        } else {
            (q, k, v)
        };
        let kt = swap_last(&mut g, k)?;
        let products = g.binary("MatMul", q, kt)?;
        let scaled = scale(&mut g, &f, products)?;
        let capped = if f.softcap > 0.0 {
            let cap = g.number(scaled, f.softcap.into());
            let x = g.binary("Div", scaled, cap)?;
            let x = g.unary("Tanh", x)?;
            g.binary("Mul", x, cap)?
        } else {
            scaled
        };
        let mut logits = capped;
        if let Some(mask) = g.input(MASK) {
            let mask = self.mask(&mut g, &f, mask, group.as_ref())?;
            logits = if g.dtype(mask) == DType::Bool {
                let masked = g.number(logits, f.masked);
                g.apply("Where", &[], &[mask, logits, masked])?
            } else {
                let mask = g.cast(mask, g.dtype(logits))?;
                g.binary("Add", logits, mask)?
            };
        }
        if f.positional(cx) {
            let lengths = g.input(LENGTHS);
            let inputs: Vec<ValueId> = std::iter::once(logits).chain(lengths).collect();
            logits = g.apply("cameo::Masked", &masked_attrs(&f), &inputs)?;
        }
        let p = probabilities(&mut g, logits, f.guarded)?;
        let y = g.binary("MatMul", p, v)?;
        let whole = |size: &Dim| vec![f.batch.clone(), hq.clone(), f.queries.clone(), size.clone()];
        let mut y = if shared {
            reshape(&mut g, y, whole(&f.width))?
        } else {
            y
        };
        if f.flat {
            y = g.apply("Transpose", &[("perm", Attr::Ints(vec![0, 2, 1, 3]))], &[y])?;
            y = reshape(
                &mut g,
                y,
                vec![f.batch.clone(), f.queries.clone(), hq.clone() * f.width.clone()],
            )?;
        }
        let mut outputs = vec![g.cast(y, t)?];
        if cx.outputs > 1 {
            outputs.push(g.cast(caches[0], t)?);
        }
        if cx.outputs > 2 {
            outputs.push(g.cast(caches[1], tv)?);
        }
        if cx.outputs > 3 {
            let shown = [scaled, capped, logits, p][f.mode as usize];
            let shown = if shared {
                reshape(&mut g, shown, whole(&f.keys))?
            } else {
                shown
            };
            outputs.push(g.cast(shown, t)?);
        }
        Ok(g.finish(&outputs))
    }
}

impl Attention {
    /// The mask as it broadcasts against the logits.
    fn mask(&self, g: &mut Fragment, f: &Form, mask: ValueId, group: Option<&Dim>) -> Result<ValueId, OpError> {
        let shape = g.fact(mask).shape.clone();
        let Some(last) = shape.last() else {
            return invalid("the mask is a scalar");
        };
        if shape.len() > 4 {
            return invalid(format!("the mask {} has more axes than the logits", g.fact(mask)));
        }
        let mut mask = mask;
        let short = f.keys.clone() - last.clone();
        if f.masked > f64::NEG_INFINITY {
            // Only passes ask for this, of masks for every key.
            let mut whole = shape.clone();
            whole[shape.len() - 1] = f.keys.clone();
            mask = g.fit(mask, &whole)?;
        } else if !short.is_zero() {
            // Keys that the mask does not reach are not seen.
            let bool = g.dtype(mask) == DType::Bool;
            let x = if bool {
                let zero = g.constant(Tensor::from_f64(DType::F32, &[], [0.0]));
                let never = g.number(zero, f64::NEG_INFINITY);
                g.apply("Where", &[], &[mask, zero, never])?
            } else {
                mask
            };
            let mut pads = vec![Dim::ZERO; 2 * shape.len()];
            pads[2 * shape.len() - 1] = short;
            let fill = g.number(x, f64::NEG_INFINITY);
            mask = g.node("Pad", &[("pads", Attr::Dims(pads))], &[Some(x), None, Some(fill)])?;
        }
        let Some(group) = group else { return Ok(mask) };
        let shape = g.fact(mask).shape.clone();
        let mut full = vec![Dim::ONE; 4 - shape.len()];
        full.extend(shape);
        let (key_heads, group) = if full[1].is_one() {
            (Dim::ONE, Dim::ONE)
        } else {
            if full[1] != f.heads[0] {
                // It is for one head or for all.
                let all = [Dim::ONE, f.heads[0].clone(), Dim::ONE, Dim::ONE];
                mask = g.apply("Expand", &[("shape", Attr::Dims(all.to_vec()))], &[mask])?;
            }
            (f.heads[1].clone(), group.clone())
        };
        full.splice(1..2, [key_heads, group]);
        reshape(g, mask, full)
    }
}

/// `[batch, heads, length, size]` of an input.
fn heads(g: &mut Fragment, f: &Form, x: ValueId, heads: &Dim, length: &Dim) -> Result<ValueId, OpError> {
    if !f.flat {
        return Ok(x);
    }
    let size = shared_out(&g.fact(x).shape[2], heads).unwrap_or(Dim::ONE);
    let x = reshape(g, x, vec![f.batch.clone(), length.clone(), heads.clone(), size])?;
    g.apply("Transpose", &[("perm", Attr::Ints(vec![0, 2, 1, 3]))], &[x])
}

fn swap_last(g: &mut Fragment, x: ValueId) -> Result<ValueId, OpError> {
    let rank = g.fact(x).rank() as i64;
    let perm = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
    g.apply("Transpose", &[("perm", Attr::Ints(perm))], &[x])
}

fn scale(g: &mut Fragment, f: &Form, x: ValueId) -> Result<ValueId, OpError> {
    let factor = match (f.scale, f.size.as_const()) {
        (Some(1.0), _) => return Ok(x),
        (Some(s), _) => g.number(x, s.into()),
        (None, Some(size)) => g.number(x, 1.0 / (size as f64).sqrt()),
        (None, None) => {
            let root = [("by", Attr::Dims(vec![f.size.clone()])), ("root", Attr::Int(1))];
            return g.apply("cameo::DivDim", &root, &[x]);
        }
    };
    g.binary("Mul", x, factor)
}

/// Softmax along the last axis.
fn probabilities(g: &mut Fragment, logits: ValueId, guarded: i64) -> Result<ValueId, OpError> {
    if guarded != 1 {
        let p = g.apply("Softmax", &[("axis", Attr::Int(-1))], &[logits])?;
        if guarded == 0 {
            return Ok(p);
        }
        let nan = g.unary("IsNaN", p)?;
        let zero = g.number(p, 0.0);
        return g.apply("Where", &[], &[nan, zero, p]);
    }
    let axes = [g.fact(logits).rank() - 1];
    // Without keys the maximum is minus infinity; any finite number in its place gives e^-inf = 0 everywhere, and a sum
    // of which only zeros are a part of. Every other sum is at least 1.
    let max = g.reduce("ReduceMax", logits, &axes, true)?;
    let least = g.number(max, f64::from(f32::MIN));
    let max = g.binary("Max", max, least)?;
    let x = g.binary("Sub", logits, max)?;
    let e = g.unary("Exp", x)?;
    let sum = g.reduce("ReduceSum", e, &axes, true)?;
    let tiny = g.number(sum, 1e-30);
    let sum = g.binary("Max", sum, tiny)?;
    let inverse = g.unary("Reciprocal", sum)?;
    g.binary("Mul", e, inverse)
}

/// Logits, minus infinity where the positions of query and key forbid it.
struct Masked;

impl Masked {
    fn offset(cx: &Cx) -> Result<Dim, OpError> {
        match cx.attrs.get("offset") {
            Some(Attr::Dims(d)) if d.len() == 1 => Ok(d[0].clone()),
            _ => invalid("attribute `offset` wants one dim"),
        }
    }
}

impl OpDef for Masked {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Masked",
            "x at [.., query, key] that sees the key, else minus infinity; query i is at position i + offset",
            &[
                Param::new("X", Types::FLOAT),
                Param::new("lengths", Types::I64).group(0).optional(),
            ],
            &[Param::new("Y", Types::FLOAT)],
            &[
                ("causal", AttrDef::Int(0)),
                ("left", AttrDef::Int(-1)),
                ("offset", AttrDef::ReqDims),
                ("right", AttrDef::Int(-1)),
            ],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::offset(cx)?;
        let x = cx.fact(0)?;
        if x.rank() < 3 {
            return invalid(format!("{x} has no batch, query and key axes"));
        }
        if cx.has(1) {
            check_lengths(cx.fact(1)?, &x.shape[0])?;
        }
        Ok(vec![Fact::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let Some(offset) = Self::offset(cx)?.as_const() else {
            return invalid("attribute `offset` is not bound to a number");
        };
        self.infer(cx)?;
        let (causal, left, right) = (cx.int("causal")? != 0, cx.int("left")?, cx.int("right")?);
        let lengths = if cx.has(1) { Some(cx.tensor(1)?.to_i64()) } else { None };
        let rank = x.shape().len();
        let (queries, keys) = (x.shape()[rank - 2], x.shape()[rank - 1]);
        let per_batch: usize = x.shape()[1..].iter().product();
        let mut v = x.to_f64();
        for (at, v) in v.iter_mut().enumerate() {
            let length = lengths.as_ref().map(|l| l[at / per_batch]);
            let (i, j) = ((at / keys % queries) as i64, (at % keys) as i64);
            let position = i + length.map_or(offset, |l| l - queries as i64);
            let seen = (!causal || j <= position)
                && (left < 0 || position - j <= left)
                && (right < 0 || j - position <= right)
                && length.is_none_or(|l| j < l);
            if !seen {
                *v = f64::NEG_INFINITY;
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), x.shape(), v)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, offset) = (cx.fact(0)?, Self::offset(cx)?);
        let (causal, left, right) = (cx.int("causal")? != 0, cx.int("left")?, cx.int("right")?);
        let lengths = cx.has(1);
        let rank = x.rank();
        Ok(Lowering::Compute(vec![crate::structured::Compute::map(
            x.dtype,
            &x.shape,
            |b, it| {
                let v = b.load(0, x.dtype, it.to_vec());
                let v = b.cast(working(x.dtype), v);
                let (query, key) = (it[rank - 2].clone(), it[rank - 1].clone());
                // How far the key is ahead of the query, as data when lengths are.
                let length = lengths.then(|| b.load(1, DType::I64, vec![it[0].clone()]));
                let ahead = match length {
                    None => b.push(Expr::Index(key.clone() - query - offset)),
                    Some(l) => {
                        let at = b.push(Expr::Index(key.clone() - query + x.shape[rank - 2].clone()));
                        b.binary(Binary::Sub, at, l)
                    }
                };
                let mut tests = vec![];
                if causal {
                    let zero = b.int(DType::I64, 0);
                    tests.push((ahead, zero));
                }
                if right >= 0 {
                    let most = b.int(DType::I64, right);
                    tests.push((ahead, most));
                }
                if left >= 0 {
                    let most = b.int(DType::I64, -left);
                    tests.push((most, ahead));
                }
                if let Some(l) = length {
                    let next = b.push(Expr::Index(key + Dim::ONE));
                    tests.push((next, l));
                }
                let seen: Vec<_> = tests.into_iter().map(|(x, y)| b.binary(Binary::Le, x, y)).collect();
                let never = b.float(working(x.dtype), f64::NEG_INFINITY);
                let v = seen.into_iter().fold(v, |v, s| b.select(s, v, never));
                b.cast(x.dtype, v)
            },
        )]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::ops::samples::{eval, sample};

    fn float(shape: &[usize], seed: u64) -> Option<Tensor> {
        sample(DType::F32, shape, seed)
    }

    fn qkv(hq: usize, hk: usize, s: usize, t: usize) -> Vec<Option<Tensor>> {
        vec![
            float(&[2, hq, s, 4], 1),
            float(&[2, hk, t, 4], 2),
            float(&[2, hk, t, 3], 3),
        ]
    }

    #[test]
    fn evaluation_agrees_with_loops() {
        check("Attention", &[], &qkv(2, 2, 3, 5), 1);
        check("Attention", &[("scale", Attr::Float(0.3))], &qkv(1, 1, 1, 4), 4);
        let mut inputs = qkv(2, 2, 3, 5);
        inputs.push(sample(DType::Bool, &[3, 5], 5));
        check("Attention", &[("masked", Attr::Float(-2.5))], &inputs, 1);
        // Grouped heads, masks of both kinds and several ranks.
        for mask in [
            float(&[3, 5], 4),
            float(&[1, 4, 1, 5], 4),
            sample(DType::Bool, &[2, 1, 3, 5], 5),
            sample(DType::Bool, &[4, 3, 4], 5),
        ] {
            let mut inputs = qkv(4, 2, 3, 5);
            inputs.push(mask);
            for mode in 0..4 {
                let attrs = [
                    ("qk_matmul_output_mode", Attr::Int(mode)),
                    ("softcap", Attr::Float(1.5)),
                ];
                check("Attention", &attrs, &inputs, 4);
            }
        }
        // A cache, causal and with a window.
        let mut inputs = qkv(2, 1, 3, 3);
        inputs.extend([None, float(&[2, 1, 4, 4], 6), float(&[2, 1, 4, 3], 7)]);
        check("Attention", &[("is_causal", Attr::Int(1))], &inputs, 3);
        let window = [("left_window_size", Attr::Int(2)), ("right_window_size", Attr::Int(1))];
        check("Attention", &window, &inputs, 3);
        // Flat inputs.
        let flat = vec![float(&[2, 3, 8], 1), float(&[2, 5, 4], 2), float(&[2, 5, 6], 3)];
        let counts = [("kv_num_heads", Attr::Int(1)), ("q_num_heads", Attr::Int(2))];
        check("Attention", &counts, &flat, 2);
        // Lengths per batch; of the first no key is seen by the first query.
        let mut inputs = qkv(2, 2, 3, 5);
        let lengths = Tensor::from_i64(DType::I64, &[2], [2, 5]);
        inputs.extend([None, None, None, Some(lengths)]);
        check("Attention", &[("is_causal", Attr::Int(1))], &inputs, 1);
    }

    #[test]
    fn a_query_without_keys() {
        let mut inputs = qkv(1, 1, 2, 2);
        inputs.push(Some(Tensor::bool(&[2, 2], [false, false, true, true])));
        let y = eval("Attention", &[], &inputs, 1)[0].to_f64();
        assert!(
            y[..3].iter().all(|x| *x == 0.0) && y.iter().all(|x| x.is_finite()),
            "{y:?}"
        );
        check("Attention", &[], &inputs, 1);
        let bare = [("guarded", Attr::Int(0))];
        let y = eval("Attention", &bare, &inputs, 1)[0].to_f64();
        assert!(y[0].is_nan() && y[3].is_finite());
        let all = [("guarded", Attr::Int(2))];
        assert_eq!(eval("Attention", &all, &inputs, 1)[0].to_f64()[..3], [0.0; 3]);
        check("Attention", &all, &inputs, 1);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let f = |s: &[i64]| Fact::new(DType::F32, s.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        let infer = |q: &[i64], k: &[i64]| crate::ops::samples::infer("Attention", &[], &[f(q), f(k), f(k)]);
        assert!(infer(&[1, 3, 2, 4], &[1, 3, 2, 4]).is_ok());
        assert!(infer(&[1, 3, 2, 4], &[1, 2, 2, 4]).is_err());
        assert!(infer(&[1, 2, 2, 4], &[1, 2, 2, 5]).is_err());
        assert!(infer(&[1, 2, 8], &[1, 2, 8]).is_err());
    }
}
