//! Losses of classification.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::ops::fragment::Fragment;
use crate::{Attr, Dim, Fact, Tensor, ValueId};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[&NegativeLogLikelihoodLoss, &SoftmaxCrossEntropyLoss];

const ATTRS: &[(&str, AttrDef)] = &[
    ("ignore_index", AttrDef::OptInt),
    ("reduction", AttrDef::OneOf(&["mean", "sum", "none"])),
];

/// What becomes of the losses of all positions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reduction {
    None,
    Sum,
    /// Over the weights of all positions.
    Mean,
}

impl Reduction {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        match cx.str("reduction")? {
            "none" => Ok(Self::None),
            "sum" => Ok(Self::Sum),
            "mean" => Ok(Self::Mean),
            _ => cx.bad("reduction"),
        }
    }
}

/// The fact of the loss, after a look at classes (axis 1 of input 0), labels (input 1) and weights (input 2).
fn infer_loss(cx: &Cx) -> Result<Fact, OpError> {
    let (x, labels) = (cx.fact(0)?, cx.fact(1)?);
    if x.rank() < 2 || labels.rank() + 1 != x.rank() {
        return invalid(format!(
            "labels {labels} for {x}: classes are axis 1 of the one and no axis of the other"
        ));
    }
    let differ = |(a, b): (&Dim, &Dim)| matches!((a.as_const(), b.as_const()), (Some(a), Some(b)) if a != b);
    let positions = x.shape[..1].iter().chain(&x.shape[2..]);
    if positions.zip(&labels.shape).any(differ) {
        return invalid(format!("labels {labels} for {x}: they are not at the same positions"));
    }
    if let Some(weights) = cx.arg(2).map(|a| a.fact)
        && (weights.rank() != 1 || differ((&weights.shape[0], &x.shape[1])))
    {
        return invalid(format!("weights {weights} are no vector over the classes of {x}"));
    }
    cx.opt_int("ignore_index")?;
    let shape = match Reduction::of(cx)? {
        Reduction::None => labels.shape.clone(),
        _ => vec![],
    };
    Ok(Fact::new(x.dtype, shape))
}

/// The loss for `x`, logarithms of probabilities.
fn eval_loss(cx: &Cx, x: &[f64]) -> Result<Tensor, OpError> {
    let (fact, labels) = (cx.tensor(0)?, cx.tensor(1)?);
    let shape = fact.shape();
    let positions: Vec<usize> = shape[..1].iter().chain(&shape[2..]).copied().collect();
    let fits = positions == labels.shape() && (!cx.has(2) || cx.tensor(2)?.shape() == [shape[1]]);
    if !fits {
        return invalid("labels or weights do not fit the scores");
    }
    let (classes, inner) = (shape[1], shape[2..].iter().product::<usize>());
    let weights = if cx.has(2) { Some(cx.tensor(2)?.to_f64()) } else { None };
    let ignored = cx.opt_int("ignore_index")?;
    let (mut losses, mut total) = (vec![], 0.0);
    for (i, label) in labels.to_i64().into_iter().enumerate() {
        if ignored == Some(label) {
            losses.push(0.0);
            continue;
        }
        let Some(class) = usize::try_from(label).ok().filter(|c| *c < classes) else {
            return invalid(format!("label {label} of {classes} classes"));
        };
        let weight = weights.as_ref().map_or(1.0, |w| w[class]);
        losses.push(-weight * x[(i / inner * classes + class) * inner + i % inner]);
        total += weight;
    }
    let sum: f64 = losses.iter().sum();
    Ok(match Reduction::of(cx)? {
        Reduction::None => Tensor::from_f64(fact.dtype(), labels.shape(), losses),
        Reduction::Sum => Tensor::from_f64(fact.dtype(), &[], [sum]),
        Reduction::Mean => Tensor::from_f64(fact.dtype(), &[], [sum / total]),
    })
}

/// The loss for `x`, logarithms of probabilities in the type that bodies compute in.
fn lower_loss(cx: &Cx, g: &mut Fragment, x: ValueId) -> Result<ValueId, OpError> {
    let one = Attr::Dims(vec![Dim::ONE]);
    let (mut labels, dtype) = (g.required(cx, 1)?, cx.fact(0)?.dtype);
    let ignored = match cx.opt_int("ignore_index")? {
        Some(index) => {
            let index = g.number(labels, index as f64);
            Some(g.binary("Equal", labels, index)?)
        }
        None => None,
    };
    if let Some(ignored) = ignored {
        // Any class, so that what is not looked at is no error.
        let zero = g.number(labels, 0.0);
        labels = g.apply("Where", &[], &[ignored, zero, labels])?;
    }
    // Negative ones are not counted from the end here: they are as wrong as those above the last class.
    let (zero, none) = (g.number(labels, 0.0), g.number(labels, f64::from(i32::MAX)));
    let negative = g.binary("Less", labels, zero)?;
    labels = g.apply("Where", &[], &[negative, none, labels])?;
    let at = g.apply("Unsqueeze", &[("axes", one.clone())], &[labels])?;
    let picked = g.apply("GatherElements", &[("axis", Attr::Int(1))], &[x, at])?;
    let picked = g.apply("Squeeze", &[("axes", one)], &[picked])?;
    let mut loss = g.unary("Neg", picked)?;
    let zero = g.number(loss, 0.0);
    let mut weight = match g.input(2) {
        Some(weights) => {
            let weights = g.cast(weights, g.dtype(loss))?;
            Some(g.apply("Gather", &[("axis", Attr::Int(0))], &[weights, labels])?)
        }
        None => None,
    };
    if let Some(weight) = weight {
        loss = g.binary("Mul", loss, weight)?;
    }
    if let Some(ignored) = ignored {
        let some = weight.unwrap_or_else(|| g.number(loss, 1.0));
        weight = Some(g.apply("Where", &[], &[ignored, zero, some])?);
        loss = g.apply("Where", &[], &[ignored, zero, loss])?;
    }
    let axes: Vec<usize> = (0..g.fact(loss).rank()).collect();
    let loss = match (Reduction::of(cx)?, weight) {
        (Reduction::None, _) => loss,
        (Reduction::Sum, _) => g.reduce("ReduceSum", loss, &axes, false)?,
        (Reduction::Mean, None) => g.mean(loss, &axes, false)?,
        (Reduction::Mean, Some(weight)) => {
            let sum = g.reduce("ReduceSum", loss, &axes, false)?;
            let total = g.reduce("ReduceSum", weight, &axes, false)?;
            g.binary("Div", sum, total)?
        }
    };
    g.cast(loss, dtype)
}

struct NegativeLogLikelihoodLoss;

impl OpDef for NegativeLogLikelihoodLoss {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "NegativeLogLikelihoodLoss",
            "-weight[c] * input[n, c, …] for the labels c = target[n, …]; their sum or weighted mean",
            &[
                Param::new("input", Types::FLOAT),
                Param::new("target", Types::INDEX).group(2),
                Param::new("weight", Types::FLOAT).optional(),
            ],
            &[Param::new("loss", Types::FLOAT)],
            ATTRS,
        )
        .since(12);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![infer_loss(cx)?])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![eval_loss(cx, &cx.tensor(0)?.to_f64())?])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let x = g.widen(x)?;
        let loss = lower_loss(cx, &mut g, x)?;
        Ok(g.finish(&[loss]))
    }
}

struct SoftmaxCrossEntropyLoss;

impl OpDef for SoftmaxCrossEntropyLoss {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "SoftmaxCrossEntropyLoss",
            "NegativeLogLikelihoodLoss of LogSoftmax(scores) over the classes, axis 1",
            &[
                Param::new("scores", Types::FLOAT),
                Param::new("labels", Types::INDEX).group(2),
                Param::new("weights", Types::FLOAT).optional(),
            ],
            &[
                Param::new("output", Types::FLOAT),
                Param::new("log_prob", Types::FLOAT).optional(),
            ],
            ATTRS,
        )
        .since(12);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (loss, x) = (infer_loss(cx)?, cx.fact(0)?);
        let all = [loss, Fact::new(x.dtype, x.shape.clone())];
        Ok(all.into_iter().take(cx.outputs).collect())
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let (classes, inner) = (x.shape()[1], x.shape()[2..].iter().product::<usize>());
        let mut logs = x.to_f64();
        for image in logs.chunks_mut((classes * inner).max(1)) {
            for i in 0..inner {
                let column = || (0..classes).map(|c| c * inner + i);
                let most = column().map(|c| image[c]).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = column().map(|c| (image[c] - most).exp()).sum();
                column().for_each(|c| image[c] -= most + sum.ln());
            }
        }
        let all = [eval_loss(cx, &logs)?, Tensor::from_f64(x.dtype(), x.shape(), logs)];
        Ok(all.into_iter().take(cx.outputs).collect())
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let x = g.widen(x)?;
        let logs = g.apply("LogSoftmax", &[("axis", Attr::Int(1))], &[x])?;
        let mut outputs = vec![lower_loss(cx, &mut g, logs)?];
        if cx.outputs > 1 {
            outputs.push(g.cast(logs, cx.fact(0)?.dtype)?);
        }
        Ok(g.finish(&outputs))
    }
}
