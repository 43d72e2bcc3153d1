//! Normalizations with parameters per channel: batch, instance and group.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid};
use crate::ops::chosen::shared_out;
use crate::ops::composed::reshape;
use crate::ops::fragment::Fragment;
use crate::ops::norms::{EPSILON, STASH, affine, center, inverse_root, mean_square, moments};
use crate::ops::pointwise::{RESULT, working};
use crate::structured::{Binary, Compute, Unary};
use crate::{Attr, Dim, Fact, Tensor, ValueId};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[&BatchNormalization, &InstanceNormalization, &GroupNormalization];

/// A vector over channels (axis 1) of an operand of rank `rank`, with axes of extent 1 behind it.
fn over_channels(g: &mut Fragment, v: ValueId, rank: usize) -> Result<ValueId, OpError> {
    if rank <= 2 {
        return Ok(v);
    }
    let axes = Attr::Dims((1..rank - 1).map(Dim::from).collect());
    g.apply("Unsqueeze", &[("axes", axes)], &[v])
}

/// Refuses operands 1.. that are not vectors over the channels of operand 0.
fn check_channels(cx: &Cx) -> Result<(), OpError> {
    let x = cx.fact(0)?;
    if x.rank() < 2 {
        return invalid(format!("{x} has no channel axis"));
    }
    for i in 1..cx.inputs.len() {
        let v = cx.fact(i)?;
        // A symbol may turn out to be the number of channels.
        if v.rank() != 1
            || (v.shape[0] != x.shape[1] && v.shape[0].as_const().is_some() && x.shape[1].as_const().is_some())
        {
            return invalid(format!("input {i} is {v}, the input has {} channels", x.shape[1]));
        }
    }
    Ok(())
}

struct BatchNormalization;

impl OpDef for BatchNormalization {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "BatchNormalization",
            "(x - mean) / sqrt(var + epsilon) * scale + B per channel; in training mode mean and var are those of x",
            &[
                Param::new("X", Types::FLOAT),
                Param::new("scale", Types::FLOAT).group(2),
                Param::new("B", Types::FLOAT).group(2),
                Param::new("input_mean", Types::FLOAT).group(3),
                Param::new("input_var", Types::FLOAT).group(3),
            ],
            &[
                Param::new("Y", Types::FLOAT),
                Param::new("running_mean", Types::FLOAT).group(3).optional(),
                Param::new("running_var", Types::FLOAT).group(3).optional(),
            ],
            &[
                EPSILON,
                ("momentum", AttrDef::Float(0.9)),
                ("training_mode", AttrDef::Int(0)),
            ],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        check_channels(cx)?;
        cx.float("epsilon")?;
        cx.float("momentum")?;
        let x = cx.fact(0)?;
        let mut out = vec![Fact::new(x.dtype, x.shape.clone())];
        if cx.outputs > 1 && cx.int("training_mode")? == 0 {
            return invalid("running statistics are an output of the training mode only");
        }
        for _ in 1..cx.outputs.min(3) {
            out.push(Fact::new(cx.fact(3)?.dtype, vec![x.shape[1].clone()]));
        }
        Ok(out)
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let epsilon = f64::from(cx.float("epsilon")?);
        let [scale, bias, mean, var] = [1, 2, 3, 4].map(|i| cx.tensor(i).map(Tensor::to_f64));
        let (scale, bias, mut mean, mut var) = (scale?, bias?, mean?, var?);
        let (c, inner) = (x.shape()[1], x.shape()[2..].iter().product::<usize>());
        if [&scale, &bias, &mean, &var].iter().any(|v| v.len() != c) {
            return invalid(format!("parameters do not fit {c} channels"));
        }
        let mut running = vec![];
        if cx.int("training_mode")? != 0 {
            let momentum = f64::from(cx.float("momentum")?);
            let (old_mean, old_var) = (mean.clone(), var.clone());
            let v = x.to_f64();
            for k in 0..c {
                let channel: Vec<f64> = (0..v.len()).filter(|i| i / inner % c == k).map(|i| v[i]).collect();
                let n = channel.len() as f64;
                mean[k] = channel.iter().sum::<f64>() / n;
                var[k] = channel.iter().map(|x| (x - mean[k]).powi(2)).sum::<f64>() / n;
            }
            let t = cx.fact(3)?.dtype;
            let join = |old: &[f64], new: &[f64]| {
                let both = old.iter().zip(new);
                let joined = both.map(|(old, new)| old * momentum + new * (1.0 - momentum));
                Tensor::from_f64(t, &[c], joined)
            };
            running = vec![join(&old_mean, &mean), join(&old_var, &var)];
        }
        let y = x.to_f64().into_iter().enumerate().map(|(i, v)| {
            let k = i / inner % c;
            scale[k] * (v - mean[k]) / (var[k] + epsilon).sqrt() + bias[k]
        });
        let y = Tensor::from_f64(x.dtype(), x.shape(), y);
        Ok(std::iter::once(y).chain(running).take(cx.outputs).collect())
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let x = cx.fact(0)?;
        let epsilon = f64::from(cx.float("epsilon")?);
        if cx.int("training_mode")? != 0 {
            return lower_training(cx, epsilon);
        }
        let types = [
            x.dtype,
            cx.fact(1)?.dtype,
            cx.fact(2)?.dtype,
            cx.fact(3)?.dtype,
            cx.fact(4)?.dtype,
        ];
        let work = working(x.dtype);
        Ok(Lowering::Compute(vec![Compute::map(x.dtype, &x.shape, |b, i| {
            let [v, scale, bias, mean, var] = [0, 1, 2, 3, 4].map(|k: usize| {
                let at = if k == 0 { i.to_vec() } else { vec![i[1].clone()] };
                let v = b.load(k, types[k], at);
                b.cast(work, v)
            });
            let epsilon = b.float(work, epsilon);
            let spread = b.binary(Binary::Add, var, epsilon);
            let spread = b.unary(Unary::Sqrt, spread);
            let spread = b.unary(Unary::Reciprocal, spread);
            let factor = b.binary(Binary::Mul, scale, spread);
            let d = b.binary(Binary::Sub, v, mean);
            let y = b.binary(Binary::Mul, d, factor);
            let y = b.binary(Binary::Add, y, bias);
            b.cast(x.dtype, y)
        })]))
    }
}

/// Batch normalization by the statistics of the batch itself, which also move the running ones.
fn lower_training(cx: &Cx, epsilon: f64) -> Result<Lowering, OpError> {
    let fact = cx.fact(0)?;
    let axes: Vec<usize> = (0..fact.rank()).filter(|a| *a != 1).collect();
    let mut g = Fragment::new(cx);
    let x = g.required(cx, 0)?;
    let x = g.widen(x)?;
    let (d, mean) = center(&mut g, x, &axes)?;
    let var = mean_square(&mut g, d, &axes)?;
    let inverse = inverse_root(&mut g, var, epsilon)?;
    let y = g.binary("Mul", d, inverse)?;
    let [scale, bias] = [1, 2].map(|i| {
        let v = g.required(cx, i)?;
        over_channels(&mut g, v, fact.rank())
    });
    let y = affine(&mut g, y, scale?, Some(bias?))?;
    let mut outputs = vec![g.cast(y, fact.dtype)?];
    let momentum = f64::from(cx.float("momentum")?);
    for (i, new) in [(3, mean), (4, var)] {
        let old = g.required(cx, i)?;
        let dtype = g.dtype(old);
        let old = g.cast(old, working(fact.dtype))?;
        let new = reshape(&mut g, new, vec![fact.shape[1].clone()])?;
        let (keep, move_by) = (g.number(old, momentum), g.number(new, 1.0 - momentum));
        let old = g.binary("Mul", old, keep)?;
        let new = g.binary("Mul", new, move_by)?;
        let running = g.binary("Add", old, new)?;
        outputs.push(g.cast(running, dtype)?);
    }
    Ok(g.finish(&outputs[..cx.outputs.min(3)]))
}

struct InstanceNormalization;

impl OpDef for InstanceNormalization {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "InstanceNormalization",
            "(x - mean) / sqrt(variance + epsilon) * scale + B, per image and channel",
            &[
                Param::new("input", Types::FLOAT),
                Param::new("scale", Types::FLOAT),
                Param::new("B", Types::FLOAT),
            ],
            RESULT,
            &[EPSILON],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        check_channels(cx)?;
        cx.float("epsilon")?;
        let x = cx.fact(0)?;
        if x.rank() < 3 {
            return invalid(format!("{x} has no axes to normalize over"));
        }
        Ok(vec![Fact::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        // One group per channel.
        let channels = cx.tensor(0)?.shape()[1];
        eval_groups(cx, channels)
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let fact = cx.fact(0)?;
        let axes: Vec<usize> = (2..fact.rank()).collect();
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let x = g.widen(x)?;
        let y = normalized(&mut g, x, &axes, cx.float("epsilon")?.into())?;
        channel_affine(cx, g, y)
    }
}

/// `(x - mean) / sqrt(variance + epsilon)` over `axes`.
fn normalized(g: &mut Fragment, x: ValueId, axes: &[usize], epsilon: f64) -> Result<ValueId, OpError> {
    let (d, _) = center(g, x, axes)?;
    let variance = mean_square(g, d, axes)?;
    let inverse = inverse_root(g, variance, epsilon)?;
    g.binary("Mul", d, inverse)
}

/// Ends a fragment: `y` times input 1 plus input 2, both over channels, in the type of input 0.
fn channel_affine(cx: &Cx, mut g: Fragment, y: ValueId) -> Result<Lowering, OpError> {
    let fact = cx.fact(0)?;
    let scale = g.required(cx, 1)?;
    let scale = over_channels(&mut g, scale, fact.rank())?;
    let bias = g.required(cx, 2)?;
    let bias = over_channels(&mut g, bias, fact.rank())?;
    let y = affine(&mut g, y, scale, Some(bias))?;
    let y = g.cast(y, fact.dtype)?;
    Ok(g.finish(&[y]))
}

/// Group normalization with `groups` groups of channels.
fn eval_groups(cx: &Cx, groups: usize) -> Result<Vec<Tensor>, OpError> {
    let (x, scale, bias) = (cx.tensor(0)?, cx.tensor(1)?.to_f64(), cx.tensor(2)?.to_f64());
    let epsilon = f64::from(cx.float("epsilon")?);
    let (channels, inner) = (x.shape()[1], x.shape()[2..].iter().product::<usize>());
    let row = channels / groups.max(1) * inner;
    let mut y = x.to_f64();
    for (r, row) in y.chunks_mut(row.max(1)).enumerate() {
        let (mean, inverse) = moments(row, epsilon);
        let first = r * row.len();
        for (k, v) in row.iter_mut().enumerate() {
            let c = (first + k) / inner % channels;
            *v = (*v - mean) * inverse * scale[c] + bias[c];
        }
    }
    Ok(vec![Tensor::from_f64(x.dtype(), x.shape(), y)])
}

struct GroupNormalization;

impl GroupNormalization {
    /// Number of groups and channels in each.
    fn groups(cx: &Cx) -> Result<(i64, Dim), OpError> {
        let (x, groups) = (cx.fact(0)?, cx.int("num_groups")?);
        if groups < 1 {
            return invalid(format!("num_groups is {groups}"));
        }
        match shared_out(&x.shape[1], &Dim::from(groups)) {
            Some(each) => Ok((groups, each)),
            None => invalid(format!("{} channels are not {groups} equal groups", x.shape[1])),
        }
    }
}

impl OpDef for GroupNormalization {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "GroupNormalization",
            "(x - mean) / sqrt(variance + epsilon) * scale + bias, per image and group of channels",
            &[
                Param::new("X", Types::FLOAT),
                Param::new("scale", Types::FLOAT),
                Param::new("bias", Types::FLOAT),
            ],
            RESULT,
            &[EPSILON, ("num_groups", AttrDef::ReqInt), STASH],
        )
        .limits(&["the number of channels must be known, or be a multiple of that of groups"])
        .since(18);
        &S
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let (groups, each) = Self::groups(cx)?;
        Ok(vec![(cx.fact(0)?.shape[1].clone(), each * Dim::from(groups))])
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        check_channels(cx)?;
        Self::groups(cx)?;
        cx.float("epsilon")?;
        let x = cx.fact(0)?;
        Ok(vec![Fact::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (groups, _) = Self::groups(cx)?;
        eval_groups(cx, groups as usize)
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (fact, (groups, each)) = (cx.fact(0)?, Self::groups(cx)?);
        let mut split = fact.shape.clone();
        split.splice(1..2, [Dim::from(groups), each]);
        let axes: Vec<usize> = (2..split.len()).collect();
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let x = g.widen(x)?;
        let x = reshape(&mut g, x, split)?;
        let y = normalized(&mut g, x, &axes, cx.float("epsilon")?.into())?;
        let y = reshape(&mut g, y, fact.shape.clone())?;
        channel_affine(cx, g, y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};

    #[test]
    fn channels() {
        for t in [DType::F32, DType::F64, DType::F16] {
            for shape in [&[2, 4, 3, 5][..], &[1, 4, 7], &[3, 4]] {
                let channel = |seed| sample(t, &[4], seed);
                let variance = Some(Tensor::from_f64(t, &[4], [0.5, 1.0, 2.0, 4.0]));
                let x = sample(t, shape, 1);
                check(
                    "BatchNormalization",
                    &[("epsilon", Attr::Float(1e-2))],
                    &[x.clone(), channel(2), channel(3), channel(4), variance],
                    1,
                );
                if shape.len() < 3 {
                    continue;
                }
                check("InstanceNormalization", &[], &[x.clone(), channel(2), channel(3)], 1);
                for groups in [1, 2, 4] {
                    let attrs = [("num_groups", Attr::Int(groups))];
                    check("GroupNormalization", &attrs, &[x.clone(), channel(2), channel(3)], 1);
                }
            }
        }
        let f = |s: &[usize]| Fact::new(DType::F32, s.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        let groups = |n: i64| [("num_groups", Attr::Int(n))];
        assert!(infer("GroupNormalization", &groups(3), &[f(&[1, 4, 2]), f(&[4]), f(&[4])]).is_err());
        assert!(infer("GroupNormalization", &groups(0), &[f(&[1, 4, 2]), f(&[4]), f(&[4])]).is_err());
        assert!(infer("InstanceNormalization", &[], &[f(&[1, 4, 2]), f(&[3]), f(&[4])]).is_err());
    }

    #[test]
    fn training() {
        let attrs = [("training_mode", Attr::Int(1)), ("momentum", Attr::Float(0.75))];
        for t in [DType::F32, DType::F64, DType::F16] {
            for shape in [&[2, 4, 3, 5][..], &[3, 4, 2], &[3, 4]] {
                let channel = |seed| sample(t, &[4], seed);
                let variance = Some(Tensor::from_f64(t, &[4], [0.5, 1.0, 2.0, 4.0]));
                let inputs = [sample(t, shape, 1), channel(2), channel(3), channel(4), variance];
                check("BatchNormalization", &attrs, &inputs, 3);
                check("BatchNormalization", &attrs, &inputs, 1);
            }
        }
        let channel = |v: f32| Some(Tensor::f32(&[1], [v]));
        let x = Some(Tensor::f32(&[2, 1, 2], [1.0, 3.0, 5.0, 7.0]));
        // Mean 4 and variance 5.
        let inputs = [x, channel(1.0), channel(0.0), channel(0.0), channel(1.0)];
        let y = eval("BatchNormalization", &attrs, &inputs, 3);
        assert_eq!((y[1].to_f64(), y[2].to_f64()), (vec![1.0], vec![2.0]));
        assert!((y[0].to_f64()[0] + 3.0 / 5f64.sqrt()).abs() < 1e-5);
        let facts = inputs.map(|t| t.expect("made").fact());
        let inference = [("training_mode", Attr::Int(0))];
        assert!(infer("BatchNormalization", &inference, &facts).is_ok());
    }

    #[test]
    fn values_by_hand() {
        let channel = |v: [f32; 2]| Some(Tensor::f32(&[2], v));
        let x = Some(Tensor::f32(&[1, 2, 2], [1.0, 3.0, 5.0, 5.0]));
        let (scale, bias) = (channel([2.0, 4.0]), channel([10.0, 1.0]));
        let exact = [("epsilon", Attr::Float(0.0))];
        let inputs = [
            x.clone(),
            scale.clone(),
            bias.clone(),
            channel([1.0, 3.0]),
            channel([4.0, 16.0]),
        ];
        assert_eq!(
            eval("BatchNormalization", &exact, &inputs, 1)[0].to_f64(),
            [10.0, 12.0, 3.0, 3.0]
        );
        let small = [("epsilon", Attr::Float(1e-9))];
        let y = eval("InstanceNormalization", &small, &[x, scale, bias], 1)[0].to_f64();
        assert!(
            y.iter().zip([8.0, 12.0, 1.0, 1.0]).all(|(a, b)| (a - b).abs() < 1e-5),
            "{y:?}"
        );
    }
}
