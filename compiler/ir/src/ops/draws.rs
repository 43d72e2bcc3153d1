//! Random numbers that are the same in every run.
//!
//! The generator is a hash of a counter ("Squares: a fast counter-based RNG", Widynski 2020, the form of five rounds that
//! gives 64 bits): the counter is the element's linear index, the key comes from the seed by the finalizer of splitmix64.
//! A uniform number is made of the hash's highest bits, as many as the element type's significand has. Uniform numbers of a
//! given seed are instead those of the Mersenne Twister, so that RandomUniform and Dropout give what ONNX's reference evaluator
//! does; rounded to a narrow type, one may be 1. Laws: elements do not depend on how the loops run; without a seed the key is
//! that of seed 0; nodes of the same seed draw the same numbers.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, reshape, slice};
use crate::ops::fragment::Fragment;
use crate::ops::pointwise::{volume, working};
use crate::ops::twister;
use crate::structured::{Binary, Body, Compute, Expr, ExprId};
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &RANDOM_UNIFORM,
    &RANDOM_UNIFORM_LIKE,
    &RANDOM_NORMAL,
    &RANDOM_NORMAL_LIKE,
    &BERNOULLI,
    &MULTINOMIAL,
    &DROPOUT,
    &Uniform,
];

/// The key of a seed: odd, with bits all over.
fn key(seed: i64) -> u64 {
    let mut z = (seed as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) | 1
}

/// The hash of a counter.
fn squares(counter: u64, key: u64) -> u64 {
    let mut x = counter.wrapping_mul(key);
    let (y, z) = (x, x.wrapping_add(key));
    let square = |x: u64, add: u64| x.wrapping_mul(x).wrapping_add(add);
    for add in [y, z, y] {
        x = square(x, add).rotate_left(32);
    }
    let last = square(x, z);
    last ^ (square(last.rotate_left(32), y) >> 32)
}

/// [`squares`] as a body.
fn squares_body(b: &mut Body, counter: ExprId, key: u64) -> ExprId {
    let t = DType::U64;
    let (key, half) = (b.int(t, key as i64), b.int(t, 32));
    let square = |b: &mut Body, x: ExprId, add: ExprId| {
        let x = b.binary(Binary::Mul, x, x);
        b.binary(Binary::Add, x, add)
    };
    let rotate = |b: &mut Body, x: ExprId| {
        let (high, low) = (b.binary(Binary::Shl, x, half), b.binary(Binary::Shr, x, half));
        b.binary(Binary::Or, high, low)
    };
    let y = b.binary(Binary::Mul, counter, key);
    let z = b.binary(Binary::Add, y, key);
    let mut x = y;
    for add in [y, z, y] {
        x = square(b, x, add);
        x = rotate(b, x);
    }
    let last = square(b, x, z);
    let x = rotate(b, last);
    let x = square(b, x, y);
    let x = b.binary(Binary::Shr, x, half);
    b.binary(Binary::Xor, last, x)
}

/// Bits of a significand.
const fn precision(t: DType) -> u32 {
    match t {
        DType::F64 => 53,
        DType::F16 => 11,
        DType::BF16 => 8,
        _ => 24,
    }
}

/// The uniform number in 0..1 that type `t` makes of a hash.
fn fraction(hash: u64, t: DType) -> f64 {
    let bits = precision(t);
    (hash >> (64 - bits)) as f64 / 2f64.powi(bits as i32)
}

/// `count` uniform numbers of type `t`, each `stride` counters behind the one before.
fn draw(seed: i64, t: DType, count: usize, stride: u64, offset: u64) -> Vec<f64> {
    let key = key(seed);
    let one = |i: u64| fraction(squares(i.wrapping_mul(stride).wrapping_add(offset), key), t);
    (0..count as u64).map(one).collect()
}

/// `cameo::Uniform`.
struct Uniform;

impl Uniform {
    fn spec(cx: &Cx) -> Result<Fact, OpError> {
        let dtype = cx.dtype("dtype")?;
        match cx.attrs.get("shape") {
            Some(Attr::Dims(shape)) if dtype.is_float() => shape_of(dtype, shape),
            _ => invalid("attributes `dtype` and `shape` are those of a tensor of floats"),
        }
    }
}

/// The fact of a tensor of that shape.
fn shape_of(dtype: DType, shape: &[Dim]) -> Result<Fact, OpError> {
    match shape.iter().find(|d| d.as_const().is_some_and(|c| c < 0)) {
        Some(d) => invalid(format!("an extent of {d}")),
        None => Ok(Fact::new(dtype, shape)),
    }
}

/// The extents, which have their values by now.
fn extents(fact: &Fact) -> Result<Vec<usize>, OpError> {
    let Some(shape) = fact.static_shape() else {
        return invalid(format!("{fact} is not bound to numbers"));
    };
    volume(&shape)?;
    Ok(shape)
}

impl OpDef for Uniform {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Uniform",
            "a random number in 0..1 for each element, by hashing offset + stride * its linear index",
            &[],
            &[Param::new("output", Types::FLOAT)],
            &[
                ("dtype", AttrDef::ReqDType),
                ("offset", AttrDef::Int(0)),
                ("seed", AttrDef::Int(0)),
                ("shape", AttrDef::ReqDims),
                ("stride", AttrDef::Int(1)),
            ],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Self::spec(cx)?])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let fact = Self::spec(cx)?;
        let shape = extents(&fact)?;
        let (stride, offset) = (cx.int("stride")? as u64, cx.int("offset")? as u64);
        let v = draw(cx.int("seed")?, fact.dtype, volume(&shape)?, stride, offset);
        Ok(vec![Tensor::from_f64(fact.dtype, &shape, v)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let fact = Self::spec(cx)?;
        let (key, stride, offset) = (key(cx.int("seed")?), cx.int("stride")?, cx.int("offset")?);
        let (bits, work) = (precision(fact.dtype), working(fact.dtype));
        Ok(Lowering::Compute(vec![Compute::map(
            fact.dtype,
            &fact.shape,
            |b, it| {
                let t = DType::U64;
                let at = it.iter().zip(&fact.shape);
                let index = at.fold(Dim::ZERO, |a, (i, d)| a * d.clone() + i.clone());
                let index = b.push(Expr::Index(index));
                let index = b.cast(t, index);
                let (stride, offset) = (b.int(t, stride), b.int(t, offset));
                let counter = b.binary(Binary::Mul, index, stride);
                let counter = b.binary(Binary::Add, counter, offset);
                let hash = squares_body(b, counter, key);
                let rest = b.int(t, i64::from(64 - bits));
                let high = b.binary(Binary::Shr, hash, rest);
                // Signed numbers become floats in fewer steps, and the sign bit is none of the highest any more.
                let high = b.cast(DType::I64, high);
                let high = b.cast(work, high);
                let scale = b.float(work, 2f64.powi(-(bits as i32)));
                let y = b.binary(Binary::Mul, high, scale);
                b.cast(fact.dtype, y)
            },
        )]))
    }
}

/// Random numbers in a fragment.
fn uniform(g: &mut Fragment, fact: &Fact, seed: i64, stride: i64, offset: i64) -> Result<ValueId, OpError> {
    let attrs = [
        ("dtype", Attr::DType(fact.dtype)),
        ("offset", Attr::Int(offset)),
        ("seed", Attr::Int(seed)),
        ("shape", Attr::Dims(fact.shape.clone())),
        ("stride", Attr::Int(stride)),
    ];
    g.apply("cameo::Uniform", &attrs, &[])
}

/// A seed that is a float, which stands for its bits.
fn float_seed(cx: &Cx) -> Result<i64, OpError> {
    Ok(cx.opt_float("seed")?.map_or(0, |s| i64::from(s.to_bits())))
}

/// The seed of the twister, where one is given: a float is cut to an integer, and NaN is none.
fn given_seed(cx: &Cx) -> Result<Option<i64>, OpError> {
    if let Some((_, AttrDef::OptInt)) = cx.schema.attrs.iter().find(|(name, _)| *name == "seed") {
        return cx.opt_int("seed");
    }
    Ok(cx.opt_float("seed")?.filter(|s| !s.is_nan()).map(|s| s as i64))
}

/// `count` uniform numbers of type `t`, by the twister where there is a seed.
fn seeded(cx: &Cx, t: DType, count: usize) -> Result<Vec<f64>, OpError> {
    Ok(match given_seed(cx)? {
        Some(seed) => twister::draw(seed, count),
        None => draw(0, t, count, 1, 0),
    })
}

/// [`seeded`] in a fragment.
fn seeded_uniform(cx: &Cx, g: &mut Fragment, t: DType, shape: &[Dim]) -> Result<ValueId, OpError> {
    match given_seed(cx)? {
        Some(seed) => {
            let u = twister::uniform(g, seed, shape)?;
            g.cast(u, t)
        }
        None => uniform(g, &Fact::new(t, shape), 0, 1, 0),
    }
}

/// What an operation that makes a tensor of nothing, or like another one, is to make.
fn wanted(cx: &Cx) -> Result<Fact, OpError> {
    let given = cx.opt_dtype("dtype")?;
    let fact = match cx.arg(0).map(|a| a.fact) {
        Some(like) => shape_of(given.unwrap_or(like.dtype), &like.shape)?,
        None => match cx.attrs.get("shape") {
            Some(Attr::Dims(shape)) => shape_of(given.unwrap_or(DType::F32), shape)?,
            _ => return invalid("attribute `shape` is missing or of the wrong kind"),
        },
    };
    match fact.dtype.is_float() {
        true => Ok(fact),
        false => invalid(format!(
            "random numbers of type {}: attribute `dtype` must be a float type",
            fact.dtype
        )),
    }
}

/// `x * factor + add` in the type that bodies compute in, as `dtype`.
fn scaled(g: &mut Fragment, x: ValueId, factor: f64, add: f64, dtype: DType) -> Result<ValueId, OpError> {
    let x = g.widen(x)?;
    let (factor, add) = (g.number(x, factor), g.number(x, add));
    let y = g.binary("Mul", x, factor)?;
    let y = g.binary("Add", y, add)?;
    g.cast(y, dtype)
}

/// The least number, and how far it is to the largest, as the attributes' type has it.
fn limits(cx: &Cx) -> Result<(f64, f64), OpError> {
    let (low, high) = (cx.float("low")?, cx.float("high")?);
    Ok((f64::from(low), f64::from(high - low)))
}

fn build_uniform(cx: &Cx, g: &mut Fragment) -> Result<Vec<ValueId>, OpError> {
    let fact = wanted(cx)?;
    let (low, width) = limits(cx)?;
    let u = seeded_uniform(cx, g, fact.dtype, &fact.shape)?;
    Ok(vec![scaled(g, u, width, low, fact.dtype)?])
}

fn eval_uniform(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    let fact = wanted(cx)?;
    let (low, width) = limits(cx)?;
    let shape = extents(&fact)?;
    let u = Tensor::from_f64(fact.dtype, &shape, seeded(cx, fact.dtype, volume(&shape)?)?).to_f64();
    // In the type that bodies compute in.
    let v = u.into_iter().map(|u| match working(fact.dtype) {
        DType::F64 => low + u * width,
        _ => f64::from(low as f32 + u as f32 * width as f32),
    });
    Ok(vec![Tensor::from_f64(fact.dtype, &shape, v)])
}

/// By Box and Muller: a radius from the even counters, an angle from the odd ones.
fn build_normal(cx: &Cx, g: &mut Fragment) -> Result<Vec<ValueId>, OpError> {
    let fact = wanted(cx)?;
    let (mean, scale, seed) = (cx.float("mean")?, cx.float("scale")?, float_seed(cx)?);
    let wide = Fact::new(working(fact.dtype), fact.shape.clone());
    let u = uniform(g, &wide, seed, 2, 0)?;
    // In 0..=1 without 0, which has no logarithm.
    let one = g.number(u, 1.0);
    let u = g.binary("Sub", one, u)?;
    let log = g.unary("Log", u)?;
    let factor = g.number(log, -2.0);
    let square = g.binary("Mul", log, factor)?;
    let radius = g.unary("Sqrt", square)?;
    let turn = uniform(g, &wide, seed, 2, 1)?;
    let whole = g.number(turn, 2.0 * std::f64::consts::PI);
    let angle = g.binary("Mul", turn, whole)?;
    let cos = g.unary("Cos", angle)?;
    let x = g.binary("Mul", radius, cos)?;
    Ok(vec![scaled(g, x, scale.into(), mean.into(), fact.dtype)?])
}

fn eval_normal(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    let fact = wanted(cx)?;
    let (mean, scale, seed) = (
        f64::from(cx.float("mean")?),
        f64::from(cx.float("scale")?),
        float_seed(cx)?,
    );
    let shape = extents(&fact)?;
    let (n, wide) = (volume(&shape)?, working(fact.dtype));
    let pairs = draw(seed, wide, n, 2, 0).into_iter().zip(draw(seed, wide, n, 2, 1));
    let normal = |(u, turn): (f64, f64)| (-2.0 * (1.0 - u).ln()).sqrt() * (2.0 * std::f64::consts::PI * turn).cos();
    Ok(vec![Tensor::from_f64(
        fact.dtype,
        &shape,
        pairs.map(|p| mean + scale * normal(p)),
    )])
}

const OUTPUT: &[Param] = &[Param::new("output", Types::FLOAT).group(2)];
const SEED: (&str, AttrDef) = ("seed", AttrDef::OptFloat);
const DTYPE: (&str, AttrDef) = ("dtype", AttrDef::OptDType);

const RANDOM_UNIFORM: Composed = Composed {
    schema: &Schema::new(
        "RandomUniform",
        "random numbers, evenly between low and high",
        &[],
        OUTPUT,
        &[
            DTYPE,
            ("high", AttrDef::Float(1.0)),
            ("low", AttrDef::Float(0.0)),
            SEED,
            ("shape", AttrDef::ReqDims),
        ],
    ),
    build: build_uniform,
    eval: eval_uniform,
};

const RANDOM_UNIFORM_LIKE: Composed = Composed {
    schema: &Schema::new(
        "RandomUniformLike",
        "RandomUniform in the shape of x",
        &[Param::new("input", Types::ANY)],
        OUTPUT,
        &[DTYPE, ("high", AttrDef::Float(1.0)), ("low", AttrDef::Float(0.0)), SEED],
    ),
    build: build_uniform,
    eval: eval_uniform,
};

const RANDOM_NORMAL: Composed = Composed {
    schema: &Schema::new(
        "RandomNormal",
        "random numbers, normal around mean with standard deviation scale",
        &[],
        OUTPUT,
        &[
            DTYPE,
            ("mean", AttrDef::Float(0.0)),
            ("scale", AttrDef::Float(1.0)),
            SEED,
            ("shape", AttrDef::ReqDims),
        ],
    ),
    build: build_normal,
    eval: eval_normal,
};

const RANDOM_NORMAL_LIKE: Composed = Composed {
    schema: &Schema::new(
        "RandomNormalLike",
        "RandomNormal in the shape of x",
        &[Param::new("input", Types::ANY)],
        OUTPUT,
        &[
            DTYPE,
            ("mean", AttrDef::Float(0.0)),
            ("scale", AttrDef::Float(1.0)),
            SEED,
        ],
    ),
    build: build_normal,
    eval: eval_normal,
};

const BERNOULLI: Composed = Composed {
    schema: &Schema::new(
        "Bernoulli",
        "1 with probability x, else 0",
        &[Param::new("input", Types::FLOAT)],
        &[Param::new("output", Types::ANY).group(2)],
        &[DTYPE, SEED],
    )
    .since(15),
    build: |cx, g| {
        let x = g.required(cx, 0)?;
        let to = cx.opt_dtype("dtype")?.unwrap_or(g.dtype(x));
        // In f64, where every probability is what it is.
        let shape = g.fact(x).shape.clone();
        let u = seeded_uniform(cx, g, DType::F64, &shape)?;
        let x = g.cast(x, DType::F64)?;
        let y = g.binary("Less", u, x)?;
        Ok(vec![g.cast(y, to)?])
    },
    eval: |cx| {
        let x = cx.tensor(0)?;
        let to = cx.opt_dtype("dtype")?.unwrap_or(x.dtype());
        let u = seeded(cx, DType::F64, x.len())?;
        let v = u.into_iter().zip(x.to_f64()).map(|(u, p)| f64::from(u8::from(u < p)));
        Ok(vec![Tensor::from_f64(to, x.shape(), v)])
    },
};

/// Element type and number of samples.
fn samples(cx: &Cx) -> Result<(DType, i64), OpError> {
    let (x, count) = (cx.fact(0)?, cx.int("sample_size")?);
    if x.rank() != 2 || x.shape[1].is_zero() {
        return invalid(format!("{x} is no batch of classes"));
    }
    if !(0..=i64::from(i32::MAX)).contains(&count) {
        return invalid(format!("{count} samples"));
    }
    let dtype = cx.opt_dtype("dtype")?.unwrap_or(DType::I32);
    match Types::INDEX.contains(dtype) {
        true => Ok((dtype, count)),
        false => invalid(format!("attribute `dtype` is {dtype}, it can be i32 or i64")),
    }
}

const MULTINOMIAL: Composed = Composed {
    schema: &Schema::new(
        "Multinomial",
        "classes drawn with probabilities Softmax(x): the first whose running sum of them is above a uniform number",
        &[Param::new("input", Types::FLOAT)],
        &[Param::new("output", Types::INDEX).group(2)],
        &[DTYPE, ("sample_size", AttrDef::Int(1)), SEED],
    )
    .since(7),
    build: |cx, g| {
        let (dtype, count) = samples(cx)?;
        let x = g.required(cx, 0)?;
        let x = g.cast(x, DType::F64)?;
        let most = g.reduce("ReduceMax", x, &[1], true)?;
        let x = g.binary("Sub", x, most)?;
        let x = g.unary("Exp", x)?;
        let total = g.reduce("ReduceSum", x, &[1], true)?;
        let sums = g.apply("CumSum", &[("axis", Attr::Dims(vec![Dim::ONE]))], &[x])?;
        let [batch, classes] = [0, 1].map(|a| g.fact(x).shape[a].clone());
        // Without the last, behind which there is no class.
        let sums = slice(g, sums, 1, Dim::ZERO, classes.clone() - Dim::ONE)?;
        let sums = reshape(g, sums, vec![batch.clone(), Dim::ONE, classes - Dim::ONE])?;
        let fact = Fact::new(DType::F64, vec![batch.clone(), Dim::from(count)]);
        let u = uniform(g, &fact, float_seed(cx)?, 1, 0)?;
        let at = g.binary("Mul", u, total)?;
        let at = reshape(g, at, vec![batch, Dim::from(count), Dim::ONE])?;
        let below = g.binary("LessOrEqual", sums, at)?;
        let below = g.cast(below, dtype)?;
        Ok(vec![g.reduce("ReduceSum", below, &[2], false)?])
    },
    eval: |cx| {
        let (dtype, count) = samples(cx)?;
        let x = cx.tensor(0)?;
        let (batch, classes, count) = (x.shape()[0], x.shape()[1], count as usize);
        let n = volume(&[batch, count])?;
        let (u, v) = (draw(float_seed(cx)?, DType::F64, n, 1, 0), x.to_f64());
        let class = |i: usize| {
            let row = &v[i / count * classes..][..classes];
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = row.iter().map(|x| (x - most).exp()).collect();
            let at = u[i] * weights.iter().sum::<f64>();
            let mut sum = 0.0;
            let passed = weights[..classes - 1].iter().filter(|w| {
                sum += **w;
                sum <= at
            });
            passed.count() as i64
        };
        Ok(vec![Tensor::from_i64(dtype, &[batch, count], (0..n).map(class))])
    },
};

/// Whether the model is trained; `None` where data says so.
fn training(cx: &Cx) -> Result<Option<bool>, OpError> {
    if let Some(ratio) = cx.arg(1)
        && !ratio.fact.element_count().is_one()
    {
        return invalid(format!("ratio is {}, one element is wanted", ratio.fact));
    }
    match cx.arg(2).map(|mode| mode.fact.known.as_deref()) {
        None => Ok(Some(false)),
        Some(Some([d])) if d.as_const().is_some() => Ok(Some(!d.is_zero())),
        Some(_) => Ok(None),
    }
}

const DROPOUT: Composed = Composed {
    schema: &Schema::new(
        "Dropout",
        "x, and a mask that is all true; in training mode x / (1 - ratio) where a random number is not below ratio, else 0",
        &[
            Param::new("data", Types::FLOAT),
            Param::new("ratio", Types::FLOAT).group(2).optional(),
            Param::new("training_mode", Types::BOOL).group(3).optional(),
        ],
        &[
            Param::new("output", Types::FLOAT),
            Param::new("mask", Types::BOOL).group(3).optional(),
        ],
        &[("seed", AttrDef::OptInt)],
    ),
    build: |cx, g| {
        let x = g.required(cx, 0)?;
        let (dtype, shape) = (g.dtype(x), g.fact(x).shape.clone());
        let mode = training(cx)?;
        if mode == Some(false) {
            let yes = g.constant(Tensor::bool(&[], [true]));
            let mask = g.apply("Expand", &[("shape", Attr::Dims(shape))], &[yes])?;
            let y = g.unary("Identity", x)?;
            return Ok(vec![y, mask]);
        }
        let wide = working(dtype);
        let ratio = match g.input(1) {
            Some(ratio) => {
                let ratio = reshape(g, ratio, vec![])?;
                g.cast(ratio, DType::F64)?
            }
            None => g.constant(Tensor::from_f64(DType::F64, &[], [0.5])),
        };
        let u = seeded_uniform(cx, g, DType::F64, &shape)?;
        let mask = g.binary("LessOrEqual", ratio, u)?;
        let one = g.number(ratio, 1.0);
        let kept = g.binary("Sub", one, ratio)?;
        let kept = g.cast(kept, wide)?;
        let x = g.widen(x)?;
        let y = g.binary("Div", x, kept)?;
        let zero = g.number(y, 0.0);
        let y = g.apply("Where", &[], &[mask, y, zero])?;
        if mode.is_some() {
            return Ok(vec![g.cast(y, dtype)?, mask]);
        }
        let mode = g.required(cx, 2)?;
        let mode = reshape(g, mode, vec![])?;
        let y = g.apply("Where", &[], &[mode, y, x])?;
        let off = g.unary("Not", mode)?;
        let mask = g.binary("Or", off, mask)?;
        Ok(vec![g.cast(y, dtype)?, mask])
    },
    eval: |cx| {
        let x = cx.tensor(0)?;
        let off = match training(cx)? {
            Some(on) => !on,
            None => cx.tensor(2)?.to_i64().first().is_none_or(|on| *on == 0),
        };
        if off {
            let mask = Tensor::bool(x.shape(), std::iter::repeat_n(true, x.len()));
            return Ok(vec![x.clone(), mask]);
        }
        let ratio = match cx.arg(1) {
            Some(_) => cx.tensor(1)?.scalar_f64().unwrap_or(0.5),
            None => 0.5,
        };
        let u = seeded(cx, DType::F64, x.len())?;
        let mask: Vec<bool> = u.into_iter().map(|u| ratio <= u).collect();
        let kept = x.to_f64().into_iter().zip(&mask);
        let y = kept.map(|(x, kept)| if *kept { x / (1.0 - ratio) } else { 0.0 });
        let y = Tensor::from_f64(x.dtype(), x.shape(), y);
        Ok(vec![y, Tensor::bool(x.shape(), mask)])
    },
};

#[cfg(test)]
mod tests {
    use super::{key, squares};
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn shape(d: &[i64]) -> (&'static str, Attr) {
        ("shape", Attr::Dims(d.iter().map(|d| Dim::from(*d)).collect()))
    }

    fn seed(s: f32) -> (&'static str, Attr) {
        ("seed", Attr::Float(s))
    }

    /// Mean and variance.
    fn moments(t: &Tensor) -> (f64, f64) {
        let (v, n) = (t.to_f64(), t.len() as f64);
        let mean = v.iter().sum::<f64>() / n;
        (mean, v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n)
    }

    #[test]
    fn hashes_are_spread() {
        let key = key(7);
        let all: Vec<u64> = (0..4096).map(|i| squares(i, key)).collect();
        for bit in 0..64 {
            let ones = all.iter().filter(|h| *h >> bit & 1 == 1).count();
            assert!((1850..2250).contains(&ones), "bit {bit}: {ones} of 4096");
        }
        assert_ne!(squares(0, key), squares(0, super::key(8)));
    }

    #[test]
    fn uniform() {
        for t in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let attrs = [shape(&[3, 5]), ("dtype", Attr::DType(t))];
            check("cameo::Uniform", &attrs, &[], 1);
            let more = [("low", Attr::Float(-2.0)), ("high", Attr::Float(5.0)), seed(3.5)];
            check("RandomUniform", &[&attrs[..], &more].concat(), &[], 1);
            check("RandomUniformLike", &more, &[sample(t, &[2, 1, 3], 1)], 1);
        }
        let one = ("stride", Attr::Int(-3));
        let attrs = [
            shape(&[4]),
            ("dtype", Attr::DType(DType::F32)),
            one,
            ("seed", Attr::Int(-1)),
        ];
        check("cameo::Uniform", &attrs, &[], 1);
        let many = eval("RandomUniform", &[shape(&[100, 100]), seed(1.0)], &[], 1).remove(0);
        let (mean, variance) = moments(&many);
        assert!(
            (mean - 0.5).abs() < 0.01 && (variance - 1.0 / 12.0).abs() < 0.003,
            "{mean} {variance}"
        );
        assert!(many.to_f64().iter().all(|x| (0.0..1.0).contains(x)));
        let other = eval("RandomUniform", &[shape(&[100, 100]), seed(2.0)], &[], 1).remove(0);
        assert_ne!(many, other);
    }

    /// Also where more than one state of the generator is used up.
    #[test]
    fn seeds_are_those_of_numpy() {
        let drawn = eval("RandomUniform", &[shape(&[2]), seed(0.9)], &[], 1).remove(0);
        assert_eq!(drawn.to_f64(), [0.548_813_5, 0.715_189_34].map(|x: f32| f64::from(x)));
        for n in [0, 1, 312, 313, 1000] {
            check("RandomUniformLike", &[seed(7.0)], &[sample(DType::F32, &[n], 1)], 1);
        }
        let many = [shape(&[70, 9]), seed(3.0), ("dtype", Attr::DType(DType::F64))];
        check("RandomUniform", &many, &[], 1);
    }

    #[test]
    fn normal() {
        for t in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let more = [("mean", Attr::Float(-2.0)), ("scale", Attr::Float(0.5)), seed(3.5)];
            let attrs = [shape(&[3, 5]), ("dtype", Attr::DType(t))];
            check("RandomNormal", &[&attrs[..], &more].concat(), &[], 1);
            check("RandomNormalLike", &more, &[sample(t, &[2, 1, 3], 1)], 1);
            let like = [sample(DType::I64, &[2, 3], 1)];
            check("RandomNormalLike", &[("dtype", Attr::DType(t))], &like, 1);
        }
        let many = eval("RandomNormal", &[shape(&[10000]), ("mean", Attr::Float(3.0))], &[], 1);
        let (mean, variance) = moments(&many[0]);
        assert!(
            (mean - 3.0).abs() < 0.03 && (variance - 1.0).abs() < 0.04,
            "{mean} {variance}"
        );
        let whole = Fact::new(DType::I64, vec![Dim::sym("N")]);
        assert!(infer("RandomNormalLike", &[], std::slice::from_ref(&whole)).is_err());
        let to = [("dtype", Attr::DType(DType::F32))];
        assert_eq!(
            infer("RandomNormalLike", &to, &[whole]).expect("infers")[0].shape,
            [Dim::sym("N")]
        );
        assert!(infer("RandomNormal", &[shape(&[-1])], &[]).is_err());
    }

    #[test]
    fn coins_and_classes() {
        let p = |t: DType| Some(Tensor::from_f64(t, &[2, 3], [0.0, 0.25, 0.5, 0.75, 1.0, 0.5]));
        for t in [DType::F32, DType::F64, DType::F16] {
            check("Bernoulli", &[], &[p(t)], 1);
            check(
                "Bernoulli",
                &[seed(2.0), ("dtype", Attr::DType(DType::Bool))],
                &[p(t)],
                1,
            );
            for n in [1, 4] {
                let attrs = [("sample_size", Attr::Int(n)), seed(2.0)];
                check("Multinomial", &attrs, &[sample(t, &[3, 5], 1)], 1);
                check("Multinomial", &attrs, &[sample(t, &[3, 1], 1)], 1);
                let long = [("dtype", Attr::DType(DType::I64)), attrs[0].clone()];
                check("Multinomial", &long, &[sample(t, &[1, 4], 1)], 1);
            }
        }
        let often = Some(Tensor::f32(&[10000], [0.25; 10000]));
        assert!((moments(&eval("Bernoulli", &[], &[often], 1)[0]).0 - 0.25).abs() < 0.02);
        let sure = Some(Tensor::f32(&[2], [0.0, 1.0]));
        assert_eq!(eval("Bernoulli", &[], &[sure], 1)[0].to_f64(), [0.0, 1.0]);
        // Classes of weight 1, 2 and 1.
        let x = Some(Tensor::f32(&[1, 3], [5.0, 5.0 + 2f32.ln(), 5.0]));
        let drawn = eval("Multinomial", &[("sample_size", Attr::Int(8000))], &[x], 1)[0].to_i64();
        let count = |c: i64| drawn.iter().filter(|d| **d == c).count();
        assert!(
            count(1).abs_diff(4000) < 200 && count(0).abs_diff(2000) < 200,
            "{} {}",
            count(0),
            count(1)
        );
        let none = Fact::new(DType::F32, vec![Dim::ONE, Dim::ZERO]);
        assert!(infer("Multinomial", &[], &[none]).is_err());
    }

    #[test]
    fn dropout() {
        let x = sample(DType::F32, &[2, 3], 7);
        let (half, flag) = (Tensor::f32(&[], [0.5]), |b: bool| Some(Tensor::bool(&[], [b])));
        check("Dropout", &[], std::slice::from_ref(&x), 1);
        check("Dropout", &[], &[x.clone(), Some(half.clone())], 2);
        check("Dropout", &[], &[x.clone(), None, flag(false)], 2);
        for t in [DType::F32, DType::F64, DType::F16] {
            let x = sample(t, &[3, 5], 1);
            check(
                "Dropout",
                &[("seed", Attr::Int(4))],
                &[x.clone(), Some(half.clone()), flag(true)],
                2,
            );
            check("Dropout", &[], &[x.clone(), None, flag(true)], 1);
            check("Dropout", &[], &[x, Some(Tensor::f32(&[1], [0.0])), flag(true)], 2);
        }
        let ones = Some(Tensor::f32(&[10000], [1.0; 10000]));
        let ratio = Some(Tensor::f32(&[], [0.2]));
        let y = eval("Dropout", &[], &[ones, ratio, flag(true)], 2);
        assert!(
            (moments(&y[0]).0 - 1.0).abs() < 0.02,
            "what is kept makes up for what is dropped"
        );
        let same = y[0]
            .to_f64()
            .into_iter()
            .zip(y[1].to_i64())
            .all(|(y, kept)| (y != 0.0) == (kept == 1));
        assert!(same && y[0].to_f64().iter().all(|y| *y == 0.0 || (y - 1.25).abs() < 1e-6));
        let fact = |t: DType| Fact::new(t, vec![]);
        let unknown = [fact(DType::F32), fact(DType::F32), fact(DType::Bool)];
        assert!(infer("Dropout", &[], &unknown).is_ok(), "data may say it");
    }
}
