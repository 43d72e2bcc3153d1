//! Steps of optimizers, from ONNX's preview of training.
//!
//! The operands after rate and step count are groups: all tensors, then all their gradients, then their moments. Laws: the
//! tensors are updated independently; what depends on the step count alone is computed in `f64`, where it does not cancel.

use crate::op::{AttrDef, Cx, OpDef, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, differ, reshape};
use crate::ops::fragment::Fragment;
use crate::{DType, Tensor, ValueId};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[&ADAGRAD, &ADAM, &MOMENTUM];

const FLOATS: Types = Types::of(&[DType::F32, DType::F64]);

const INPUTS: &[Param] = &[
    Param::new("R", FLOATS),
    Param::new("T", Types::I64).group(2),
    Param::new("inputs", FLOATS).group(0).variadic(),
];
const OUTPUTS: &[Param] = &[Param::new("outputs", FLOATS).group(0).variadic()];
const NORM: (&str, AttrDef) = ("norm_coefficient", AttrDef::Float(0.0));

/// How many tensors there are, each with `size - 1` others that belong to it; and how many results there are.
fn tensors(cx: &Cx, size: usize) -> Result<usize, OpError> {
    let facts = cx.facts()?;
    for (name, scalar) in ["R", "T"].iter().zip(&facts) {
        if !scalar.element_count().is_one() {
            return invalid(format!("{name} is {scalar}, one element is wanted"));
        }
    }
    let given = facts.len().saturating_sub(2);
    if given == 0 || given % size != 0 {
        return invalid(format!(
            "{given} tensors given, {size} are wanted for each that is updated"
        ));
    }
    let count = given / size;
    let wanted = count * (size - 1);
    if cx.outputs != wanted {
        return invalid(format!("{} results wanted, there are {wanted}", cx.outputs));
    }
    for (i, other) in facts.iter().enumerate().skip(2 + count) {
        let x = facts[2 + (i - 2) % count];
        let same = x.dtype == other.dtype && x.rank() == other.rank();
        if !same || x.shape.iter().zip(&other.shape).any(|(a, b)| differ(a, b)) {
            return invalid(format!("input {i} is {other}, what it belongs to is {x}"));
        }
    }
    Ok(count)
}

/// The node's rate and step count as scalars in `f64`.
fn schedule(cx: &Cx, g: &mut Fragment) -> Result<[ValueId; 2], OpError> {
    let [rate, step] = [0, 1].map(|i| {
        let v = g.required(cx, i)?;
        let v = reshape(g, v, vec![])?;
        g.cast(v, DType::F64)
    });
    Ok([rate?, step?])
}

/// `a * x + b * y`.
fn mixed(g: &mut Fragment, (a, x): (f64, ValueId), (b, y): (f64, ValueId)) -> Result<ValueId, OpError> {
    let mut scaled = |c: f64, v: ValueId| {
        if c == 1.0 {
            return Ok(v);
        }
        let c = g.number(v, c);
        g.binary("Mul", v, c)
    };
    let (x, y) = (scaled(a, x)?, scaled(b, y)?);
    g.binary("Add", x, y)
}

/// `x` where the step count is above 0, else `first`.
fn after_first(g: &mut Fragment, step: ValueId, x: ValueId, first: ValueId) -> Result<ValueId, OpError> {
    let zero = g.number(step, 0.0);
    let later = g.binary("Less", zero, step)?;
    g.apply("Where", &[], &[later, x, first])
}

/// The results of all tensors, in groups: `update` is given a tensor and those that belong to it.
fn build<const N: usize>(
    cx: &Cx,
    g: &mut Fragment,
    size: usize,
    mut update: impl FnMut(&mut Fragment, &[ValueId]) -> Result<[ValueId; N], OpError>,
) -> Result<Vec<ValueId>, OpError> {
    let count = tensors(cx, size)?;
    let mut groups = vec![vec![]; N];
    for i in 0..count {
        let own = (0..size).map(|k| g.required(cx, 2 + k * count + i));
        let own = own.collect::<Result<Vec<_>, _>>()?;
        // Extents that are equal say so, lest sums of them have yet others.
        let shape = g.fact(own[0]).shape.clone();
        let own = own.into_iter().map(|v| reshape(g, v, shape.clone()));
        let own = own.collect::<Result<Vec<_>, _>>()?;
        for (group, v) in groups.iter_mut().zip(update(g, &own)?) {
            group.push(v);
        }
    }
    Ok(groups.concat())
}

/// [`build`], of numbers: `update` is given rate, step count and the elements of a tensor and those that belong to it.
fn eval<const N: usize>(
    cx: &Cx,
    size: usize,
    update: impl Fn(f64, f64, &[f64]) -> [f64; N],
) -> Result<Vec<Tensor>, OpError> {
    let count = tensors(cx, size)?;
    let scalar = |i: usize| Ok::<_, OpError>(cx.tensor(i)?.scalar_f64().unwrap_or(f64::NAN));
    let (rate, step) = (scalar(0)?, scalar(1)?);
    let mut groups = vec![vec![]; N];
    for i in 0..count {
        let x = cx.tensor(2 + i)?;
        let own = (0..size).map(|k| Ok(cx.tensor(2 + k * count + i)?.to_f64()));
        let own = own.collect::<Result<Vec<_>, OpError>>()?;
        if own.iter().any(|v| v.len() != x.len()) {
            return invalid(format!("what belongs to tensor {i} has another size"));
        }
        let mut results = vec![vec![]; N];
        for e in 0..x.len() {
            let elements: Vec<f64> = own.iter().map(|v| v[e]).collect();
            for (result, v) in results.iter_mut().zip(update(rate, step, &elements)) {
                result.push(v);
            }
        }
        for (group, v) in groups.iter_mut().zip(results) {
            group.push(Tensor::from_f64(x.dtype(), x.shape(), v));
        }
    }
    Ok(groups.concat())
}

const ADAGRAD: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.preview.training::Adagrad",
        "g = norm X + G; H' = H + g^2; X' = X - R / (1 + T decay) g / (sqrt(H') + epsilon)",
        INPUTS,
        OUTPUTS,
        &[
            ("decay_factor", AttrDef::Float(0.0)),
            ("epsilon", AttrDef::Float(1e-6)),
            NORM,
        ],
    ),
    build: |cx, g| {
        tensors(cx, 3)?;
        let [rate, step] = schedule(cx, g)?;
        let (decay, one) = (g.number(step, cx.float("decay_factor")?.into()), g.number(step, 1.0));
        let decay = g.binary("Mul", step, decay)?;
        let decay = g.binary("Add", one, decay)?;
        let rate = g.binary("Div", rate, decay)?;
        let (norm, epsilon) = (cx.float("norm_coefficient")?, cx.float("epsilon")?);
        build(cx, g, 3, |g, own| {
            let (x, h) = (own[0], own[2]);
            let gradient = mixed(g, (norm.into(), x), (1.0, own[1]))?;
            let square = g.binary("Mul", gradient, gradient)?;
            let h = g.binary("Add", h, square)?;
            let rate = g.cast(rate, g.dtype(x))?;
            let x = descended(g, x, [rate, gradient, h], epsilon.into())?;
            Ok([x, h])
        })
    },
    eval: |cx| {
        let (decay, epsilon) = (f64::from(cx.float("decay_factor")?), f64::from(cx.float("epsilon")?));
        let norm = f64::from(cx.float("norm_coefficient")?);
        eval(cx, 3, |rate, step, own| {
            let gradient = norm * own[0] + own[1];
            let h = own[2] + gradient * gradient;
            [
                own[0] - rate / (1.0 + step * decay) * gradient / (h.sqrt() + epsilon),
                h,
            ]
        })
    },
};

/// `x - rate * v / (sqrt(h) + epsilon)`.
fn descended(g: &mut Fragment, x: ValueId, [rate, v, h]: [ValueId; 3], epsilon: f64) -> Result<ValueId, OpError> {
    let root = g.unary("Sqrt", h)?;
    let epsilon = g.number(root, epsilon);
    let root = g.binary("Add", root, epsilon)?;
    let v = g.binary("Mul", v, rate)?;
    let step = g.binary("Div", v, root)?;
    g.binary("Sub", x, step)
}

const ADAM: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.preview.training::Adam",
        "g = norm X + G; V' = alpha V + (1 - alpha) g; H' = beta H + (1 - beta) g^2; \
         X' = (1 - post) (X - R sqrt(1 - beta^T) / (1 - alpha^T) V' / (sqrt(H') + epsilon))",
        INPUTS,
        OUTPUTS,
        &[
            ("alpha", AttrDef::Float(0.9)),
            ("beta", AttrDef::Float(0.999)),
            ("epsilon", AttrDef::Float(1e-6)),
            NORM,
            ("norm_coefficient_post", AttrDef::Float(0.0)),
        ],
    ),
    build: |cx, g| {
        tensors(cx, 4)?;
        let (alpha, beta) = (f64::from(cx.float("alpha")?), f64::from(cx.float("beta")?));
        let (norm, epsilon) = (cx.float("norm_coefficient")?, cx.float("epsilon")?);
        let post = f64::from(cx.float("norm_coefficient_post")?);
        let [rate, step] = schedule(cx, g)?;
        // What the moments lack because they started from 0.
        let mut lack = |c: f64| {
            let c = g.number(step, c);
            let power = g.binary("Pow", c, step)?;
            let one = g.number(power, 1.0);
            g.binary("Sub", one, power)
        };
        let (of_v, of_h) = (lack(alpha)?, lack(beta)?);
        let of_h = g.unary("Sqrt", of_h)?;
        let corrected = g.binary("Mul", rate, of_h)?;
        let corrected = g.binary("Div", corrected, of_v)?;
        let rate = after_first(g, step, corrected, rate)?;
        build(cx, g, 4, |g, own| {
            let x = own[0];
            let gradient = mixed(g, (norm.into(), x), (1.0, own[1]))?;
            let square = g.binary("Mul", gradient, gradient)?;
            let v = mixed(g, (alpha, own[2]), (1.0 - alpha, gradient))?;
            let h = mixed(g, (beta, own[3]), (1.0 - beta, square))?;
            let rate = g.cast(rate, g.dtype(x))?;
            let mut x = descended(g, x, [rate, v, h], epsilon.into())?;
            if post != 0.0 {
                let kept = g.number(x, 1.0 - post);
                x = g.binary("Mul", x, kept)?;
            }
            Ok([x, v, h])
        })
    },
    eval: |cx| {
        let (alpha, beta) = (f64::from(cx.float("alpha")?), f64::from(cx.float("beta")?));
        let (norm, epsilon) = (
            f64::from(cx.float("norm_coefficient")?),
            f64::from(cx.float("epsilon")?),
        );
        let post = f64::from(cx.float("norm_coefficient_post")?);
        eval(cx, 4, |rate, step, own| {
            let gradient = norm * own[0] + own[1];
            let v = alpha * own[2] + (1.0 - alpha) * gradient;
            let h = beta * own[3] + (1.0 - beta) * gradient * gradient;
            let rate = match step > 0.0 {
                true => rate * (1.0 - beta.powf(step)).sqrt() / (1.0 - alpha.powf(step)),
                false => rate,
            };
            [(1.0 - post) * (own[0] - rate * v / (h.sqrt() + epsilon)), v, h]
        })
    },
};

/// Whether the step looks ahead.
fn nesterov(cx: &Cx) -> Result<bool, OpError> {
    match cx.str("mode")? {
        "standard" => Ok(false),
        "nesterov" => Ok(true),
        _ => cx.bad("mode"),
    }
}

const MOMENTUM: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.preview.training::Momentum",
        "g = norm X + G; V' = alpha V + beta g (g at step 0); X' = X - R V', nesterov: X - R (g + alpha V')",
        INPUTS,
        OUTPUTS,
        &[
            ("alpha", AttrDef::OptFloat),
            ("beta", AttrDef::OptFloat),
            ("mode", AttrDef::ReqOneOf(&["standard", "nesterov"])),
            ("norm_coefficient", AttrDef::OptFloat),
        ],
    ),
    build: |cx, g| {
        tensors(cx, 3)?;
        let (alpha, beta) = (f64::from(cx.float("alpha")?), f64::from(cx.float("beta")?));
        let (norm, ahead) = (f64::from(cx.float("norm_coefficient")?), nesterov(cx)?);
        let [rate, step] = schedule(cx, g)?;
        let (beta, one) = (g.number(step, beta), g.number(step, 1.0));
        let beta = after_first(g, step, beta, one)?;
        build(cx, g, 3, |g, own| {
            let (x, t) = (own[0], g.dtype(own[0]));
            let gradient = mixed(g, (norm, x), (1.0, own[1]))?;
            let (rate, beta) = (g.cast(rate, t)?, g.cast(beta, t)?);
            let added = g.binary("Mul", gradient, beta)?;
            let v = mixed(g, (alpha, own[2]), (1.0, added))?;
            let direction = if ahead {
                mixed(g, (alpha, v), (1.0, gradient))?
            } else {
                v
            };
            let step = g.binary("Mul", direction, rate)?;
            Ok([g.binary("Sub", x, step)?, v])
        })
    },
    eval: |cx| {
        let (alpha, beta) = (f64::from(cx.float("alpha")?), f64::from(cx.float("beta")?));
        let (norm, ahead) = (f64::from(cx.float("norm_coefficient")?), nesterov(cx)?);
        eval(cx, 3, |rate, step, own| {
            let gradient = norm * own[0] + own[1];
            let v = alpha * own[2] + if step > 0.0 { beta } else { 1.0 } * gradient;
            let direction = if ahead { gradient + alpha * v } else { v };
            [own[0] - rate * direction, v]
        })
    },
};

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn float(name: &'static str, v: f32) -> (&'static str, Attr) {
        (name, Attr::Float(v))
    }

    fn momentum(mode: &str) -> Vec<(&'static str, Attr)> {
        vec![
            float("alpha", 0.95),
            float("beta", 0.85),
            float("norm_coefficient", 0.001),
            ("mode", Attr::Str(mode.into())),
        ]
    }

    fn scalars(t: DType, rate: f64, step: i64) -> [Option<Tensor>; 2] {
        [Some(Tensor::from_f64(t, &[], [rate])), Some(Tensor::i64(&[], [step]))]
    }

    /// Moments are never negative.
    fn positive(t: DType, shape: &[usize], seed: u64) -> Option<Tensor> {
        let x = sample(t, shape, seed).expect("made");
        Some(Tensor::from_f64(t, shape, x.to_f64().iter().map(|v| v.abs())))
    }

    #[test]
    fn steps() {
        for t in [DType::F32, DType::F64] {
            for step in [0, 1, 5] {
                let shapes = [&[2, 3][..], &[4], &[]];
                for count in [1, 2, 3] {
                    let group = |seed: u64| shapes[..count].iter().map(move |s| sample(t, s, seed));
                    let moment = |seed: u64| shapes[..count].iter().map(move |s| positive(t, s, seed));
                    let three: Vec<_> = scalars(t, 0.1, step)
                        .into_iter()
                        .chain(group(1).chain(group(2)).chain(moment(3)))
                        .collect();
                    let ada = [float("norm_coefficient", 0.01), float("decay_factor", 0.1)];
                    check("ai.onnx.preview.training::Adagrad", &ada, &three, 2 * count);
                    for mode in ["standard", "nesterov"] {
                        let op = "ai.onnx.preview.training::Momentum";
                        check(op, &momentum(mode), &three, 2 * count);
                    }
                    let four: Vec<_> = three.into_iter().chain(moment(4)).collect();
                    let adam = [float("norm_coefficient", 0.01), float("norm_coefficient_post", 0.2)];
                    check("ai.onnx.preview.training::Adam", &adam, &four, 3 * count);
                }
            }
        }
    }

    #[test]
    fn values_by_hand() {
        let one = |v: f32| Some(Tensor::f32(&[1], [v]));
        let [rate, step] = scalars(DType::F32, 0.5, 0);
        let exact = [float("epsilon", 0.0)];
        let inputs = [rate.clone(), step.clone(), one(1.0), one(3.0), one(16.0)];
        let y = eval("ai.onnx.preview.training::Adagrad", &exact, &inputs, 2);
        // H' is 25, X' is 1 - 0.5 * 3 / 5.
        assert!((y[0].to_f64()[0] - 0.7).abs() < 1e-6 && y[1].to_f64() == [25.0]);
        let plain = [float("alpha", 0.5), float("beta", 9.0), float("norm_coefficient", 0.0)];
        for (mode, want) in [("standard", -4.5), ("nesterov", -3.25)] {
            let attrs = [&plain[..], &[("mode", Attr::Str(mode.into()))]].concat();
            let y = eval("ai.onnx.preview.training::Momentum", &attrs, &inputs, 2);
            // At step 0 beta is 1: V' is 8 + 3.
            assert_eq!((y[0].to_f64()[0], y[1].to_f64()[0]), (want, 11.0), "{mode}");
        }
        let attrs = [float("alpha", 0.5), float("beta", 0.75), float("epsilon", 0.0)];
        let inputs = [rate, step, one(1.0), one(2.0), one(4.0), one(20.0)];
        let y = eval("ai.onnx.preview.training::Adam", &attrs, &inputs, 3);
        // V' is 3, H' is 16.
        assert_eq!(y.iter().map(|t| t.to_f64()[0]).collect::<Vec<_>>(), [0.625, 3.0, 16.0]);
    }

    #[test]
    fn odd_inputs() {
        let f = |n: i64| Fact::new(DType::F32, vec![Dim::from(n)]);
        let scalars = [Fact::new(DType::F32, vec![]), Fact::new(DType::I64, vec![])];
        let with = |more: &[Fact]| [&scalars[..], more].concat();
        let op = "ai.onnx.preview.training::Adagrad";
        assert!(infer(op, &[], &with(&[])).is_err());
        assert!(infer(op, &[], &with(&[f(2), f(2)])).is_err());
        assert!(infer(op, &[], &with(&[f(2), f(3), f(2)])).is_err());
        assert!(infer(op, &[], &[f(2), f(2), f(2), f(2), f(2)]).is_err());
    }
}
