//! Linear models.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::composed::{Composed, concat, reshape};
use crate::ops::fragment::Fragment;
use crate::ops::ml::scores::{POST, Post, first_maximum};
use crate::ops::ml::{LABELS, NUMBERS, computed_in, labels};
use crate::{Attr, DType, Tensor, ValueId};

const FLOAT: Types = Types::of(&[DType::F32]);
const X: &[Param] = &[Param::new("X", NUMBERS)];

/// `x A' + b`: a row of coefficients for each of the targets.
struct Model {
    coefficients: Vec<f32>,
    intercepts: Vec<f32>,
    targets: usize,
    features: usize,
}

impl Model {
    fn of(cx: &Cx, targets: Option<usize>) -> Result<Self, OpError> {
        let x = cx.fact(0)?;
        let coefficients = cx.opt_floats("coefficients")?.unwrap_or_default();
        let intercepts = cx.opt_floats("intercepts")?.unwrap_or_default();
        if x.rank() != 2 {
            return invalid(format!("{x} is no matrix"));
        }
        let known = x.shape[1].as_const().and_then(|c| usize::try_from(c).ok());
        let targets = match (targets, known) {
            (Some(n), _) => n,
            (None, Some(features)) => coefficients.len() / features.max(1),
            (None, None) if !intercepts.is_empty() => intercepts.len(),
            (None, None) => return unsupported("coefficients of a symbolic number of features without intercepts"),
        };
        let features = known.unwrap_or(coefficients.len() / targets.max(1));
        if targets == 0 || features == 0 || targets.checked_mul(features) != Some(coefficients.len()) {
            return invalid(format!(
                "{} coefficients for {targets} targets of {}",
                coefficients.len(),
                x.shape[1]
            ));
        }
        if !intercepts.is_empty() && intercepts.len() != targets {
            return invalid(format!("{} intercepts for {targets} targets", intercepts.len()));
        }
        Ok(Self {
            coefficients,
            intercepts,
            targets,
            features,
        })
    }

    fn build(&self, cx: &Cx, g: &mut Fragment) -> Result<ValueId, OpError> {
        let x = g.required(cx, 0)?;
        let t = computed_in(g.dtype(x));
        let x = g.cast(x, t)?;
        let (n, k) = (self.targets, self.features);
        let columns = (0..k).flat_map(|f| (0..n).map(move |c| f64::from(self.coefficients[c * k + f])));
        let columns = Tensor::from_f64(t, &[k, n], columns);
        let columns = g.constant(columns);
        let y = g.binary("MatMul", x, columns)?;
        if self.intercepts.is_empty() {
            return Ok(y);
        }
        let intercepts = Tensor::from_f64(t, &[n], self.intercepts.iter().map(|v| f64::from(*v)));
        let intercepts = g.constant(intercepts);
        g.binary("Add", y, intercepts)
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Vec<f64>>, OpError> {
        let x = cx.tensor(0)?;
        if x.shape()[1] != self.features {
            return invalid(format!("{} features, the model has {}", x.shape()[1], self.features));
        }
        let score = |row: &[f64], c: usize| {
            let own = &self.coefficients[c * self.features..][..self.features];
            let sum: f64 = own.iter().zip(row).map(|(a, x)| f64::from(*a) * x).sum();
            sum + self.intercepts.get(c).map_or(0.0, |b| f64::from(*b))
        };
        let v = x.to_f64();
        let rows = v.chunks(self.features);
        Ok(rows
            .map(|row| (0..self.targets).map(|c| score(row, c)).collect())
            .collect())
    }
}

/// The rows as a matrix.
fn matrix(rows: &[Vec<f64>], columns: usize) -> Tensor {
    Tensor::from_f64(DType::F32, &[rows.len(), columns], rows.concat())
}

fn regressor(cx: &Cx) -> Result<(Model, Post), OpError> {
    let targets = cx.int("targets")?;
    let Ok(targets) = usize::try_from(targets) else {
        return invalid(format!("{targets} targets"));
    };
    Ok((Model::of(cx, Some(targets))?, Post::named(cx)?))
}

pub(super) const LINEAR_REGRESSOR: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::LinearRegressor",
        "post_transform(X coefficients' + intercepts)",
        X,
        &[Param::new("Y", FLOAT).group(2)],
        &[
            ("coefficients", AttrDef::OptFloats),
            ("intercepts", AttrDef::OptFloats),
            POST,
            ("targets", AttrDef::Int(1)),
        ],
    ),
    build: |cx, g| {
        let (model, post) = regressor(cx)?;
        let y = model.build(cx, g)?;
        let y = post.build(g, y)?;
        Ok(vec![g.cast(y, DType::F32)?])
    },
    eval: |cx| {
        let (model, post) = regressor(cx)?;
        let mut rows = model.eval(cx)?;
        rows.iter_mut().for_each(|row| post.eval(row));
        Ok(vec![matrix(&rows, model.targets)])
    },
};

/// The model, the labels (by number where there are none), and what becomes of the scores.
fn classifier(cx: &Cx) -> Result<(Model, Option<Tensor>, Post), OpError> {
    let model = Model::of(cx, None)?;
    let labels = labels(cx, "classlabels_ints", "classlabels_strings")?;
    if let Some(labels) = &labels
        && labels.len() != model.targets
        && (labels.len(), model.targets) != (2, 1)
    {
        return invalid(format!("{} labels for {} scores", labels.len(), model.targets));
    }
    if let Some(labels) = &labels
        && labels.dtype() == DType::String
        && labels.len() == 1
    {
        return unsupported("a single label that is a string");
    }
    Ok((model, labels, Post::named(cx)?))
}

pub(super) const LINEAR_CLASSIFIER: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::LinearClassifier",
        "scores post_transform(X coefficients' + intercepts), and the label of the largest",
        X,
        &[Param::new("Y", LABELS).group(3), Param::new("Z", FLOAT).group(2)],
        &[
            ("classlabels_ints", AttrDef::OptInts),
            ("classlabels_strings", AttrDef::OptStrs),
            ("coefficients", AttrDef::OptFloats),
            ("intercepts", AttrDef::OptFloats),
            // Says how the model was trained.
            ("multi_class", AttrDef::Int(0)),
            POST,
        ],
    )
    .limits(&[
        "no single label that is a string",
        "the number of features, or `intercepts`, must be known",
    ]),
    build: |cx, g| {
        let (model, labels, post) = classifier(cx)?;
        let mut scores = model.build(cx, g)?;
        let mut count = model.targets;
        if count == 1 && labels.as_ref().is_some_and(|l| l.len() == 2) {
            let other = g.unary("Neg", scores)?;
            scores = concat(g, &[other, scores], 1)?;
            count = 2;
        }
        let scores = post.build(g, scores)?;
        let label = if count > 1 {
            let place = [("axis", Attr::Int(1)), ("keepdims", Attr::Int(0))];
            let place = g.apply("ArgMax", &place, &[scores])?;
            match labels {
                Some(labels) => {
                    let labels = g.constant(labels);
                    g.apply("Gather", &[("axis", Attr::Int(0))], &[labels, place])?
                }
                None => place,
            }
        } else {
            let threshold = g.number(scores, single_threshold(post));
            let rows = g.fact(scores).shape[0].clone();
            let yes = g.binary("GreaterOrEqual", scores, threshold)?;
            let yes = reshape(g, yes, vec![rows])?;
            let label = labels.and_then(|l| l.to_i64().first().copied()).unwrap_or(1);
            let (label, zero) = (g.constant(Tensor::i64(&[], [label])), g.constant(Tensor::i64(&[], [0])));
            g.apply("Where", &[], &[yes, label, zero])?
        };
        Ok(vec![label, g.cast(scores, DType::F32)?])
    },
    eval: |cx| {
        let (model, labels, post) = classifier(cx)?;
        let mut rows = model.eval(cx)?;
        let doubled = model.targets == 1 && labels.as_ref().is_some_and(|l| l.len() == 2);
        for row in &mut rows {
            if doubled {
                row.insert(0, -row[0]);
            }
            post.eval(row);
        }
        let label = |row: &Vec<f64>| {
            let label = labels.as_ref().map_or(1, |l| l.to_i64()[0]);
            if row[0] >= single_threshold(post) { label } else { 0 }
        };
        let found = match &labels {
            _ if rows.iter().any(|row| row.len() == 1) => Tensor::i64(&[rows.len()], rows.iter().map(label)),
            None => Tensor::i64(&[rows.len()], rows.iter().map(|row| first_maximum(row) as i64)),
            Some(labels) => labels.rearranged(&[rows.len()], None, |at| Some(first_maximum(&rows[at[0]]))),
        };
        let columns = if doubled { 2 } else { model.targets };
        Ok(vec![found, matrix(&rows, columns)])
    },
};

/// From where on a single score means its label.
fn single_threshold(post: Post) -> f64 {
    if post == Post::None { 0.0 } else { 0.5 }
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    const POSTS: [&str; 5] = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"];

    fn model(coefficients: &[f32], intercepts: &[f32], post: &str) -> Vec<(&'static str, Attr)> {
        vec![
            ("coefficients", Attr::Floats(coefficients.to_vec())),
            ("intercepts", Attr::Floats(intercepts.to_vec())),
            ("post_transform", Attr::Str(post.into())),
        ]
    }

    #[test]
    fn regression() {
        let op = "ai.onnx.ml::LinearRegressor";
        for t in [DType::F32, DType::F64, DType::I64, DType::I32] {
            for post in &POSTS[..4] {
                let mut attrs = model(&[0.5, -1.0, 2.0, 0.25, 0.75, -0.5], &[1.0, -2.0], post);
                attrs.push(("targets", Attr::Int(2)));
                check(op, &attrs, &[sample(t, &[4, 3], 1)], 1);
            }
        }
        // Probabilities.
        let x = Some(Tensor::f32(&[5, 1], [0.0, 0.25, 0.5, 0.9, 1.0]));
        let attrs = model(&[1.0], &[], "PROBIT");
        check(op, &attrs, std::slice::from_ref(&x), 1);
        let y = eval(op, &attrs, &[x], 1)[0].to_f64();
        // Quantiles of the normal distribution, to the approximation's two digits.
        let close = y
            .iter()
            .zip([0.0, -0.674, 0.0, 1.282, 0.0])
            .all(|(a, b)| (a - b).abs() < 5e-3);
        assert!(close, "{y:?}");
        let attrs = model(&[2.0, -1.0], &[0.5], "NONE");
        let y = eval(op, &attrs, &[Some(Tensor::f32(&[1, 2], [3.0, 4.0]))], 1);
        assert_eq!(y[0].to_f64(), [2.5]);
    }

    #[test]
    fn classification() {
        let op = "ai.onnx.ml::LinearClassifier";
        let labels = |l: &[i64]| ("classlabels_ints", Attr::Ints(l.to_vec()));
        for post in &POSTS[..4] {
            let three = model(&[0.5, -1.0, 0.25, 0.75, -0.5, 1.5], &[1.0, -2.0, 0.125], post);
            let one = model(&[0.5, -1.0], &[0.25], post);
            for t in [DType::F32, DType::F64, DType::I64] {
                let x = || sample(t, &[5, 2], 1);
                check(op, &three, &[x()], 2);
                check(op, &[&three[..], &[labels(&[4, 5, 9])]].concat(), &[x()], 2);
                check(op, &one, &[x()], 2);
                check(op, &[&one[..], &[labels(&[7])]].concat(), &[x()], 2);
                check(op, &[&one[..], &[labels(&[3, 8])]].concat(), &[x()], 2);
            }
        }
        let two = [&model(&[1.0, -1.0], &[0.0], "LOGISTIC")[..], &[labels(&[3, 8])]].concat();
        let y = eval(op, &two, &[Some(Tensor::f32(&[2, 2], [1.0, 0.0, 0.0, 1.0]))], 2);
        assert_eq!(y[0].to_i64(), [8, 3]);
        let x = |d: Dim| Fact::new(DType::F32, vec![Dim::sym("N"), d]);
        assert!(infer(op, &two, &[x(Dim::from(3i64))]).is_err());
        let wrong = [&model(&[1.0, -1.0], &[0.0], "NONE")[..], &[labels(&[1, 2, 3])]].concat();
        assert!(infer(op, &wrong, &[x(Dim::from(2i64))]).is_err());
        assert!(infer(op, &two, &[Fact::new(DType::F32, vec![])]).is_err());
    }
}
