//! Mixtures of experts: of many small networks, each row is computed by the few that a router gives most weight.
//!
//! Laws: the weights of a row are its `k` largest probabilities, and 0 for the other experts; then all experts together are
//! two products, the sum over experts among the second one's. So every expert is computed for every row.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::composed::{
    Composed, count, differ, optional, plus, refuse_attributes, refuse_inputs, reshape, slice, transpose,
};
use crate::ops::contrib::activations::fast_gelu;
use crate::ops::contrib::quantized::unpack;
use crate::ops::fragment::Fragment;
use crate::{Attr, Dim, Tensor, ValueId};

const FLOAT: Types = Types::FLOAT;
const BYTES: Types = Types::of(&[crate::DType::U8]);
const ALPHA: (&str, AttrDef) = ("activation_alpha", AttrDef::Float(1.0));
const BETA: (&str, AttrDef) = ("activation_beta", AttrDef::Float(0.0));
const KIND: (&str, AttrDef) = (
    "activation_type",
    AttrDef::OneOf(&["relu", "gelu", "silu", "swiglu", "identity"]),
);
const CHOSEN: (&str, AttrDef) = ("k", AttrDef::Int(1));
const NORMALIZE: (&str, AttrDef) = ("normalize_routing_weights", AttrDef::Int(0));
const FUSION: (&str, AttrDef) = ("swiglu_fusion", AttrDef::Int(0));
const LIMIT: (&str, AttrDef) = ("swiglu_limit", AttrDef::OptFloat);
const AFTER: (&str, AttrDef) = ("swiglu_limit_after_activation", AttrDef::Int(0));
const SPARSE: (&str, AttrDef) = ("use_sparse_mixer", AttrDef::Int(0));

const fn maybe(name: &'static str, types: Types, group: u8) -> Param {
    Param::new(name, types).group(group).optional()
}

/// The inputs that are a layer of all experts.
#[derive(Clone, Copy)]
struct Layer {
    weight: usize,
    /// Of weights of few bits, and where their zero points are.
    scales: Option<[usize; 2]>,
    bias: usize,
}

const PLAIN: [Layer; 3] = [
    Layer {
        weight: 2,
        scales: None,
        bias: 3,
    },
    Layer {
        weight: 4,
        scales: None,
        bias: 5,
    },
    Layer {
        weight: 6,
        scales: None,
        bias: 7,
    },
];
const CODED: [Layer; 3] = [
    Layer {
        weight: 2,
        scales: Some([3, 11]),
        bias: 4,
    },
    Layer {
        weight: 5,
        scales: Some([6, 12]),
        bias: 7,
    },
    Layer {
        weight: 8,
        scales: Some([9, 13]),
        bias: 10,
    },
];

pub(super) const MOE: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::MoE",
        "the sum over the k experts that router_probs gives most, times the Softmax of it, of fc2(activation(fc1(x)) fc3(x))",
        &[
            Param::new("input", FLOAT),
            Param::new("router_probs", FLOAT),
            Param::new("fc1_experts_weights", FLOAT),
            maybe("fc1_experts_bias", FLOAT, 1),
            Param::new("fc2_experts_weights", FLOAT),
            maybe("fc2_experts_bias", FLOAT, 1),
            maybe("fc3_experts_weights", FLOAT, 1),
            maybe("fc3_experts_bias", FLOAT, 1),
        ],
        &[Param::new("output", FLOAT)],
        &[ALPHA, BETA, KIND, CHOSEN, NORMALIZE, FUSION, LIMIT, AFTER, SPARSE],
    ),
    build: |cx, g| build(cx, g, PLAIN, None),
    eval: |cx| eval(cx, PLAIN, None),
};

pub(super) const QMOE: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::QMoE",
        "MoE of weights (w - zero point) * scale of 4 or 8 bits, with a scale for each row or block of it; router_weights \
         are mixed instead of router_probs; chosen probabilities are divided by their sum",
        &[
            Param::new("input", FLOAT),
            Param::new("router_probs", FLOAT),
            Param::new("fc1_experts_weights", BYTES).group(2),
            maybe("fc1_scales", FLOAT, 3),
            maybe("fc1_experts_bias", FLOAT, 1),
            Param::new("fc2_experts_weights", BYTES).group(2),
            maybe("fc2_scales", FLOAT, 3),
            maybe("fc2_experts_bias", FLOAT, 1),
            maybe("fc3_experts_weights", BYTES, 2),
            maybe("fc3_scales", FLOAT, 3),
            maybe("fc3_experts_bias", FLOAT, 1),
            maybe("fc1_zero_points", BYTES, 2),
            maybe("fc2_zero_points", BYTES, 2),
            maybe("fc3_zero_points", BYTES, 2),
            maybe("router_weights", FLOAT, 1),
            maybe("fc1_global_scale", FLOAT, 4),
            maybe("fc2_global_scale", FLOAT, 4),
            maybe("fc1_act_scale", FLOAT, 4),
            maybe("fc2_act_scale", FLOAT, 4),
            maybe("fc1_act_block_scale", FLOAT, 4),
            maybe("fc2_act_block_scale", FLOAT, 4),
        ],
        &[Param::new("output", FLOAT)],
        &[
            // How exactly the runtime may compute.
            ("accuracy_level", AttrDef::Int(0)),
            ALPHA,
            BETA,
            KIND,
            ("block_size", AttrDef::Int(0)),
            ("expert_weight_bits", AttrDef::Int(4)),
            ("fc2_expert_weight_bits", AttrDef::OptInt),
            CHOSEN,
            NORMALIZE,
            ("quant_type", AttrDef::OneOf(&["int"])),
            FUSION,
            LIMIT,
            AFTER,
            SPARSE,
            ("weights_prepacked", AttrDef::Int(-1)),
        ],
    ),
    build: |cx, g| build(cx, g, CODED, Some(14)),
    eval: |cx| eval(cx, CODED, Some(14)),
};

/// What a network does between its layers.
#[derive(Clone, Copy, PartialEq)]
enum Activation {
    Relu,
    Gelu,
    Silu,
    Identity,
    /// The gate and the linear part alternate in one layer, lie behind each other in it, or are layers of their own.
    SwigluMixed,
    SwigluHalves,
    SwigluApart,
}

impl Activation {
    fn of(cx: &Cx, layers: [Layer; 3]) -> Result<Self, OpError> {
        refuse_attributes(cx, &[(SPARSE.0, &[0]), (AFTER.0, &[0])])?;
        if layers[0].scales.is_some() {
            refuse_inputs(cx, &[15, 16, 17, 18, 19, 20])?;
            refuse_attributes(cx, &[("weights_prepacked", &[-1, 0])])?;
            let bits = cx.int("expert_weight_bits")?;
            refuse_attributes(
                cx,
                &[("expert_weight_bits", &[4, 8]), ("fc2_expert_weight_bits", &[bits])],
            )?;
        }
        let third = cx.has(layers[2].weight);
        let kind = match (cx.str(KIND.0)?, cx.int(FUSION.0)?) {
            ("swiglu", 0) => Self::SwigluApart,
            ("swiglu", 1) => Self::SwigluMixed,
            ("swiglu", 2) => Self::SwigluHalves,
            ("relu", _) => Self::Relu,
            ("gelu", _) => Self::Gelu,
            ("silu", _) => Self::Silu,
            ("identity", _) => Self::Identity,
            (other, fusion) => {
                return unsupported(format!(
                    "attributes `activation_type` and `swiglu_fusion` are {other:?} and {fusion}"
                ));
            }
        };
        match (kind, third) {
            (Self::SwigluApart, false) => invalid("attribute `swiglu_fusion` is 0 without a third layer"),
            (Self::SwigluMixed | Self::SwigluHalves, true) => invalid("a third layer of a fused swiglu"),
            _ => Ok(kind),
        }
    }

    /// Elements of the first layer for each of the second.
    fn fused(self) -> i64 {
        if matches!(self, Self::SwigluMixed | Self::SwigluHalves) {
            2
        } else {
            1
        }
    }
}

/// Extents, checked: experts, and elements of rows and between the layers.
struct Sizes {
    rows: Dim,
    experts: Dim,
    hidden: Dim,
    inner: Dim,
}

impl Sizes {
    fn of(cx: &Cx, layers: [Layer; 3], fused: i64) -> Result<Self, OpError> {
        let (x, router) = (cx.fact(0)?, cx.fact(1)?);
        let packed = if layers[0].scales.is_some() {
            8 / cx.int("expert_weight_bits")?
        } else {
            1
        };
        let (Some((hidden, outer)), [_, experts]) = (x.shape.split_last(), router.shape.as_slice()) else {
            return invalid(format!("input {x} with router_probs {router}"));
        };
        let second = cx.fact(layers[1].weight)?;
        let [_, _, inner] = second.shape.as_slice() else {
            return invalid(format!("fc2_experts_weights are {second}, not of rank 3"));
        };
        let sizes = Self {
            rows: Dim::product(outer),
            experts: experts.clone(),
            hidden: hidden.clone(),
            inner: inner.clone() * Dim::from(packed),
        };
        let wide = sizes.inner.clone() * Dim::from(fused);
        for (layer, [n, k]) in layers.into_iter().zip([
            [&wide, &sizes.hidden],
            [&sizes.hidden, &sizes.inner],
            [&sizes.inner, &sizes.hidden],
        ]) {
            for (i, wanted) in [(layer.weight, vec![experts, n, k]), (layer.bias, vec![experts, n])] {
                let Some(arg) = cx.arg(i) else { continue };
                let packed = if i == layer.weight { packed } else { 1 };
                let extent = |(axis, d): (usize, &Dim)| d.clone() * Dim::from(if axis == 2 { packed } else { 1 });
                let is: Vec<Dim> = arg.fact.shape.iter().enumerate().map(extent).collect();
                if is.len() != wanted.len() || is.iter().zip(wanted).any(|(a, b)| differ(a, b)) {
                    let name = cx.schema.inputs[i].name;
                    return invalid(format!(
                        "input {i} ({name}) is {} for {experts} experts of {n} x {k}",
                        arg.fact
                    ));
                }
            }
        }
        if differ(&router.shape[0], &sizes.rows) {
            return invalid(format!("router_probs are {router} for {} rows", sizes.rows));
        }
        Ok(sizes)
    }
}

/// The weights `[experts, n, k]` of a layer in the type that is computed in.
fn weights(cx: &Cx, g: &mut Fragment, layer: Layer) -> Result<ValueId, OpError> {
    let w = g.required(cx, layer.weight)?;
    let Some([scales, zeros]) = layer.scales else {
        return g.widen(w);
    };
    let (bits, block) = (cx.int("expert_weight_bits")?, cx.int("block_size")?);
    let w = unpack(g, w, bits)?;
    let shape = g.fact(w).shape.clone();
    let scales = g.required(cx, scales)?;
    let scales = g.widen(scales)?;
    // Along the last axis: blocks of the weight, and how many elements share a scale.
    let (blocks, each) = if block > 0 {
        let Some(blocks) = shape[2].div_exact(&Dim::from(block)) else {
            return unsupported(format!("attribute `block_size` is {block} for rows of {}", shape[2]));
        };
        (blocks, Dim::from(block))
    } else {
        (Dim::ONE, shape[2].clone())
    };
    let parts = vec![shape[0].clone(), shape[1].clone(), blocks.clone(), Dim::ONE];
    let zero = match g.input(zeros) {
        None => g.number(scales, f64::from(1u32 << (bits - 1))),
        Some(z) => {
            let of = if block > 0 { blocks } else { shape[1].clone() };
            let bytes = of.ceil_div(&Dim::from(8 / bits));
            if g.fact(z).shape.last().is_none_or(|d| differ(d, &bytes)) {
                let name = cx.schema.inputs[zeros].name;
                return invalid(format!(
                    "input {zeros} ({name}) is {}, not rows of {bytes} bytes",
                    g.fact(z)
                ));
            }
            let z = unpack(g, z, bits)?;
            let last = g.fact(z).rank() - 1;
            let z = slice(g, z, last, Dim::ZERO, of)?;
            let z = g.cast(z, g.dtype(scales))?;
            reshape(g, z, parts.clone())?
        }
    };
    let scales = reshape(g, scales, parts.clone())?;
    let mut split = parts;
    split[3] = each;
    let w = g.cast(w, g.dtype(scales))?;
    let w = reshape(g, w, split)?;
    let w = g.binary("Sub", w, zero)?;
    let w = g.binary("Mul", w, scales)?;
    reshape(g, w, shape)
}

/// What a layer makes of the rows, of each expert: `[rows, experts, n]`.
fn first(cx: &Cx, g: &mut Fragment, x: ValueId, layer: Layer, experts: &Dim) -> Result<ValueId, OpError> {
    let w = weights(cx, g, layer)?;
    let s = g.fact(w).shape.clone();
    let all = experts.clone() * s[1].clone();
    let w = reshape(g, w, vec![all.clone(), s[2].clone()])?;
    let w = transpose(g, w, &[1, 0])?;
    let w = g.cast(w, g.dtype(x))?;
    let mut y = g.binary("MatMul", x, w)?;
    if let Some(bias) = g.input(layer.bias) {
        let bias = reshape(g, bias, vec![all])?;
        y = plus(g, y, Some(bias))?;
    }
    let rows = g.fact(x).shape[0].clone();
    reshape(g, y, vec![rows, experts.clone(), s[1].clone()])
}

/// The share of each expert in each row, 0 for those that are not chosen: that is its probability, or its element of another input.
fn shares(cx: &Cx, g: &mut Fragment, sizes: &Sizes, other: Option<usize>) -> Result<ValueId, OpError> {
    let router = g.required(cx, 1)?;
    let router = g.widen(router)?;
    let all = g.apply("Softmax", &[("axis", Attr::Int(-1))], &[router])?;
    let k = Dim::from(cx.int(CHOSEN.0)?);
    let top = g.results("TopK", &[("k", Attr::Dims(vec![k]))], &[Some(all)], 2)?;
    let (mut most, at) = (top[0], top[1]);
    if let Some(weights) = other.and_then(|i| g.input(i)) {
        if g.fact(weights).shape != g.fact(router).shape {
            return invalid(format!(
                "router_weights are {}, router_probs {}",
                g.fact(weights),
                g.fact(router)
            ));
        }
        let weights = g.widen(weights)?;
        most = g.apply("GatherElements", &[("axis", Attr::Int(1))], &[weights, at])?;
    }
    if normalized(cx, other)? {
        let sum = g.reduce("ReduceSum", most, &[1], true)?;
        most = g.binary("Div", most, sum)?;
    }
    let behind = [("axes", Attr::Dims(vec![Dim::from(2i64)]))];
    let (most, at) = (
        g.apply("Unsqueeze", &behind, &[most])?,
        g.apply("Unsqueeze", &behind, &[at])?,
    );
    let each = count(g, &sizes.experts)?;
    let hit = g.binary("Equal", at, each)?;
    let zero = g.number(most, 0.0);
    let parts = g.apply("Where", &[], &[hit, most, zero])?;
    g.reduce("ReduceSum", parts, &[1], false)
}

/// Whether the shares of a row add up to 1. ONNX Runtime makes those of QMoE do so whatever the attribute says.
fn normalized(cx: &Cx, other: Option<usize>) -> Result<bool, OpError> {
    Ok(cx.int(NORMALIZE.0)? != 0 || other.is_some_and(|i| !cx.has(i)))
}

fn build(cx: &Cx, g: &mut Fragment, layers: [Layer; 3], other: Option<usize>) -> Result<Vec<ValueId>, OpError> {
    let kind = Activation::of(cx, layers)?;
    let sizes = Sizes::of(cx, layers, kind.fused())?;
    let input = g.required(cx, 0)?;
    let shape = g.fact(input).shape.clone();
    let x = g.widen(input)?;
    let x = reshape(g, x, vec![sizes.rows.clone(), sizes.hidden.clone()])?;
    let share = shares(cx, g, &sizes, other)?;
    let h = first(cx, g, x, layers[0], &sizes.experts)?;
    let third = match cx.has(layers[2].weight) {
        true => Some(first(cx, g, x, layers[2], &sizes.experts)?),
        false => None,
    };
    let h = activated(cx, g, kind, h, third, &sizes)?;
    let [rows, experts, inner] = [&sizes.rows, &sizes.experts, &sizes.inner].map(Dim::clone);
    let each = reshape(g, share, vec![rows.clone(), experts.clone(), Dim::ONE])?;
    let h = g.binary("Mul", h, each)?;
    let all = experts * inner;
    let h = reshape(g, h, vec![rows, all.clone()])?;
    let w = weights(cx, g, layers[1])?;
    let w = transpose(g, w, &[0, 2, 1])?;
    let w = reshape(g, w, vec![all, sizes.hidden.clone()])?;
    let w = g.cast(w, g.dtype(h))?;
    let mut y = g.binary("MatMul", h, w)?;
    if let Some(bias) = g.input(layers[1].bias) {
        let bias = g.cast(bias, g.dtype(share))?;
        let bias = g.binary("MatMul", share, bias)?;
        y = plus(g, y, Some(bias))?;
    }
    let y = reshape(g, y, shape)?;
    Ok(vec![g.cast(y, cx.fact(0)?.dtype)?])
}

/// What the second layer is given: `[rows, experts, inner]`.
fn activated(
    cx: &Cx,
    g: &mut Fragment,
    kind: Activation,
    h: ValueId,
    third: Option<ValueId>,
    sizes: &Sizes,
) -> Result<ValueId, OpError> {
    let (mut gate, mut linear) = match kind {
        Activation::SwigluMixed => {
            let [rows, experts, inner] = [&sizes.rows, &sizes.experts, &sizes.inner].map(Dim::clone);
            let pairs = reshape(
                g,
                h,
                vec![rows.clone(), experts.clone(), inner.clone(), Dim::from(2i64)],
            )?;
            let part = |g: &mut Fragment, i: i64| -> Result<ValueId, OpError> {
                let one = slice(g, pairs, 3, Dim::from(i), Dim::from(i + 1))?;
                reshape(g, one, vec![rows.clone(), experts.clone(), inner.clone()])
            };
            (part(g, 0)?, Some(part(g, 1)?))
        }
        Activation::SwigluHalves => {
            let (inner, both) = (sizes.inner.clone(), g.fact(h).shape[2].clone());
            (
                slice(g, h, 2, Dim::ZERO, inner.clone())?,
                Some(slice(g, h, 2, inner, both)?),
            )
        }
        _ => (h, third),
    };
    let swiglu = matches!(
        kind,
        Activation::SwigluMixed | Activation::SwigluHalves | Activation::SwigluApart
    );
    if let (true, Some(limit), Some(l)) = (swiglu, cx.opt_float(LIMIT.0)?, linear) {
        let (low, high) = (g.number(gate, (-limit).into()), g.number(gate, limit.into()));
        gate = g.binary("Min", gate, high)?;
        linear = Some(g.apply("Clip", &[], &[l, low, high])?);
    }
    let alpha = if swiglu { cx.float(ALPHA.0)? } else { 1.0 };
    let gate = match kind {
        Activation::Relu => g.unary("Relu", gate)?,
        Activation::Gelu => g.apply("Gelu", &[("approximate", Attr::Str("tanh".into()))], &[gate])?,
        Activation::Identity => gate,
        _ => g.apply("Swish", &[("alpha", Attr::Float(alpha))], &[gate])?,
    };
    let Some(mut linear) = linear else { return Ok(gate) };
    if swiglu && cx.float(BETA.0)? != 0.0 {
        let beta = g.number(linear, cx.float(BETA.0)?.into());
        linear = g.binary("Add", linear, beta)?;
    }
    g.binary("Mul", gate, linear)
}

/// The weights of a layer, and its extents `[n, k]`.
fn eval_weights(cx: &Cx, layer: Layer) -> Result<(Vec<f64>, usize, usize), OpError> {
    let w = cx.tensor(layer.weight)?;
    let (n, k) = (w.shape()[1], w.shape()[2]);
    let Some([scales, zeros]) = layer.scales else {
        return Ok((w.to_f64(), n, k));
    };
    let (bits, block) = (cx.int("expert_weight_bits")?, cx.int("block_size")?.max(0) as usize);
    let packed = (8 / bits) as usize;
    let (k, bytes) = (k * packed, w.to_i64());
    // Number `i` of a row of so many, of which each begins with a byte of its own.
    let number = |v: &[i64], row: usize, size: usize, i: usize| {
        let byte = v[row * size.div_ceil(packed) + i / packed];
        (byte >> (bits as usize * (i % packed)) & ((1 << bits) - 1)) as f64
    };
    let scales = cx.tensor(scales)?.to_f64();
    let zeros = optional(cx, zeros)?.map(Tensor::to_i64);
    let blocks = k.checked_div(block).unwrap_or(1);
    let mut out = vec![];
    for row in 0..w.shape()[0] * n {
        for i in 0..k {
            let at = i.checked_div(block).unwrap_or(0);
            let zero = match &zeros {
                None => f64::from(1u32 << (bits - 1)),
                Some(z) if block > 0 => number(z, row, blocks, at),
                Some(z) => number(z, row / n, n, row % n),
            };
            out.push((number(&bytes, row, k, i) - zero) * scales[row * blocks + at]);
        }
    }
    Ok((out, n, k))
}

fn eval(cx: &Cx, layers: [Layer; 3], other: Option<usize>) -> Result<Vec<Tensor>, OpError> {
    let kind = Activation::of(cx, layers)?;
    let (x, router) = (cx.tensor(0)?, cx.tensor(1)?);
    let (experts, hidden) = (router.shape()[1], x.shape()[x.shape().len() - 1]);
    let k = cx.int(CHOSEN.0)? as usize;
    let logits = router.to_f64();
    let mixed = match other {
        Some(i) => optional(cx, i)?.map(Tensor::to_f64),
        None => None,
    };
    let layer = |l: Layer| -> Result<_, OpError> {
        let (w, n, k) = eval_weights(cx, l)?;
        let bias = optional(cx, l.bias)?.map(Tensor::to_f64);
        Ok(move |x: &[f64], e: usize| -> Vec<f64> {
            let row = |j: usize| x.iter().zip(&w[(e * n + j) * k..]).map(|(a, b)| a * b).sum::<f64>();
            (0..n)
                .map(|j| row(j) + bias.as_ref().map_or(0.0, |b| b[e * n + j]))
                .collect()
        })
    };
    let (one, two) = (layer(layers[0])?, layer(layers[1])?);
    let three = match cx.has(layers[2].weight) {
        true => Some(layer(layers[2])?),
        false => None,
    };
    let [alpha, beta] = [f64::from(cx.float(ALPHA.0)?), f64::from(cx.float(BETA.0)?)];
    let limit = cx.opt_float(LIMIT.0)?.map_or(f64::INFINITY, f64::from);
    let swish = |v: f64, alpha: f64| v / (1.0 + (-alpha * v).exp());
    let pair = |gate: f64, linear: f64| swish(gate.min(limit), alpha) * (linear.clamp(-limit, limit) + beta);
    let mut y = vec![0.0; x.len()];
    for (t, row) in x.to_f64().chunks(hidden.max(1)).enumerate() {
        let own = &logits[t * experts..(t + 1) * experts];
        let most = own.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let all: Vec<f64> = own.iter().map(|v| (v - most).exp()).collect();
        let sum: f64 = all.iter().sum();
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|a, b| all[*b].total_cmp(&all[*a]));
        let share = |e: usize| mixed.as_ref().map_or(all[e] / sum, |m| m[t * experts + e]);
        let total: f64 = order[..k].iter().map(|e| share(*e)).sum();
        for e in &order[..k] {
            let (h, third) = (one(row, *e), three.as_ref().map(|l| l(row, *e)));
            let half = h.len() / 2;
            let plain = |f: &dyn Fn(f64) -> f64| -> Vec<f64> {
                let linear = |j: usize| third.as_ref().map_or(1.0, |l| l[j]);
                h.iter().enumerate().map(|(j, v)| f(*v) * linear(j)).collect()
            };
            let a: Vec<f64> = match (kind, &third) {
                (Activation::SwigluMixed, _) => (0..half).map(|j| pair(h[2 * j], h[2 * j + 1])).collect(),
                (Activation::SwigluHalves, _) => (0..half).map(|j| pair(h[j], h[half + j])).collect(),
                (Activation::SwigluApart, Some(l)) => h.iter().zip(l).map(|(g, l)| pair(*g, *l)).collect(),
                (Activation::Relu, _) => plain(&|v| v.max(0.0)),
                (Activation::Gelu, _) => plain(&fast_gelu),
                (Activation::Identity, _) => plain(&|v| v),
                _ => plain(&|v| swish(v, 1.0)),
            };
            let share = share(*e) / if normalized(cx, other)? { total } else { 1.0 };
            let out = two(&a, *e);
            y[t * hidden..].iter_mut().zip(out).for_each(|(y, v)| *y += share * v);
        }
    }
    Ok(vec![Tensor::from_f64(x.dtype(), x.shape(), y)])
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn kind(name: &'static str, fusion: i64) -> Vec<(&'static str, Attr)> {
        vec![
            ("activation_type", Attr::Str(name.into())),
            ("k", Attr::Int(2)),
            ("swiglu_fusion", Attr::Int(fusion)),
        ]
    }

    fn bytes(shape: &[usize]) -> Option<Tensor> {
        let n = shape.iter().product::<usize>();
        Some(Tensor::from_i64(
            DType::U8,
            shape,
            (0..n).map(|i| (i * 89 % 256) as i64),
        ))
    }

    #[test]
    fn experts() {
        let op = "com.microsoft::MoE";
        let f = |shape: &[usize], seed| sample(DType::F32, shape, seed);
        let (x, router) = (f(&[2, 3, 4], 1), f(&[6, 5], 2));
        for (name, fusion, n) in [
            ("relu", 0, 6),
            ("gelu", 0, 6),
            ("silu", 0, 6),
            ("identity", 0, 6),
            ("swiglu", 1, 12),
            ("swiglu", 2, 12),
        ] {
            let mut inputs = vec![
                x.clone(),
                router.clone(),
                f(&[5, n, 4], 3),
                f(&[5, n], 4),
                f(&[5, 4, 6], 5),
            ];
            check(op, &kind(name, fusion), &inputs, 1);
            inputs.push(f(&[5, 4], 6));
            let mut attrs = kind(name, fusion);
            attrs.push(("normalize_routing_weights", Attr::Int(1)));
            if name == "swiglu" {
                attrs.push(("activation_alpha", Attr::Float(1.5)));
                attrs.push(("activation_beta", Attr::Float(0.5)));
                attrs.push(("swiglu_limit", Attr::Float(2.0)));
            }
            check(op, &attrs, &inputs, 1);
        }
        for name in ["silu", "swiglu"] {
            let two = [f(&[5, 6, 4], 3), None, f(&[5, 4, 6], 5), None];
            let inputs = [
                vec![x.clone(), router.clone()],
                two.to_vec(),
                vec![f(&[5, 6, 4], 7), f(&[5, 6], 8)],
            ]
            .concat();
            check(op, &kind(name, 0), &inputs, 1);
        }
    }

    #[test]
    fn experts_of_few_bits() {
        let op = "com.microsoft::QMoE";
        let f = |shape: &[usize], seed| sample(DType::F32, shape, seed);
        for bits in [4, 8] {
            let pack = 8 / bits;
            let (x, router, other) = (f(&[3, 32], 1), f(&[3, 4], 2), f(&[3, 4], 9));
            for block in [0, 16] {
                let mut attrs = kind("swiglu", 1);
                attrs.push(("block_size", Attr::Int(block)));
                attrs.push(("expert_weight_bits", Attr::Int(bits as i64)));
                let zeros = |n: usize, k: usize| match block {
                    0 => bytes(&[4, n.div_ceil(pack)]),
                    _ => bytes(&[4, n, (k / 16).div_ceil(pack)]),
                };
                // Small, so that sums stay so.
                let scale = |n: usize, k: usize, seed| {
                    let shape = if block > 0 { vec![4, n, k / 16] } else { vec![4, n] };
                    let of = f(&shape, seed).map(|t| t.to_f64().into_iter().map(|v| v / 512.0));
                    of.map(|v| Tensor::from_f64(DType::F32, &shape, v))
                };
                let mut inputs = vec![
                    x.clone(),
                    router.clone(),
                    bytes(&[4, 96, 32 / pack]),
                    scale(96, 32, 3),
                    f(&[4, 96], 4),
                    bytes(&[4, 32, 48 / pack]),
                    scale(32, 48, 5),
                    None,
                ];
                check(op, &attrs, &inputs, 1);
                inputs.extend([None, None, None, zeros(96, 32), zeros(32, 48), None, other.clone()]);
                check(op, &attrs, &inputs, 1);
            }
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let f = |shape: &[i64]| Fact::new(DType::F32, shape.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        let facts = [f(&[3, 4]), f(&[3, 5]), f(&[5, 6, 4]), f(&[5, 6]), f(&[5, 4, 6])];
        let mixer = [("use_sparse_mixer", Attr::Int(1))];
        let error = infer("com.microsoft::MoE", &mixer, &facts).expect_err("a mixer");
        assert_eq!(
            error.to_string(),
            "unsupported: attribute `use_sparse_mixer` is 1, it can be 0"
        );
    }
}
