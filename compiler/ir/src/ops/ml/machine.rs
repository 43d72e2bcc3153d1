//! Support vector machines.
//!
//! Laws: what a kernel gives for each vector is computed once for all classes; classes are told from another in pairs, in the
//! order (0, 1), (0, 2), ..., (1, 2), ..., as libsvm does and ONNX Runtime, whose rules also decide where ONNX says nothing.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, concat, reshape, transpose};
use crate::ops::fragment::Fragment;
use crate::ops::ml::scores::{POST, Post, first_maximum};
use crate::ops::ml::{LABELS, NUMBERS, computed_in, labels};
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId};

const FLOAT: Types = Types::of(&[DType::F32]);
const X: &[Param] = &[Param::new("X", NUMBERS)];
const KERNEL: (&str, AttrDef) = ("kernel_type", AttrDef::OneOf(&["LINEAR", "POLY", "RBF", "SIGMOID"]));

/// How often probabilities are made better at most, and what error of `1 / classes` ends that: as libsvm does it, whose results
/// are no nearer to the minimum than this.
const TURNS: usize = 100;
const ERROR: f64 = 0.005;
/// Probabilities of pairs are never nearer to 0 and 1.
const NEAREST: f64 = 1e-7;

#[derive(Clone, Copy)]
enum Kernel {
    Linear,
    Poly,
    Rbf,
    Sigmoid,
}

/// A kernel of a row with each of some vectors.
struct Machine {
    kernel: Kernel,
    gamma: f64,
    constant: f64,
    degree: f64,
    vectors: Vec<f32>,
    count: usize,
    features: usize,
}

impl Machine {
    fn of(cx: &Cx, linear: bool, vectors: Vec<f32>, count: usize) -> Result<Self, OpError> {
        let x = cx.fact(0)?;
        let features = vectors.len() / count.max(1);
        if count == 0 || features == 0 || count * features != vectors.len() {
            return invalid(format!("{} numbers are not {count} vectors", vectors.len()));
        }
        match x.shape.last() {
            Some(d) if x.rank() <= 2 && d.as_const().is_none_or(|c| c == features as i64) => {}
            _ => return invalid(format!("{x} has no {features} features")),
        }
        let params = cx.opt_floats("kernel_params")?.unwrap_or_default();
        let param = |i: usize| params.get(i).map_or(0.0, |v| f64::from(*v));
        let kernel = match cx.str("kernel_type")? {
            _ if linear => Kernel::Linear,
            "LINEAR" => Kernel::Linear,
            "POLY" => Kernel::Poly,
            "RBF" => Kernel::Rbf,
            "SIGMOID" => Kernel::Sigmoid,
            _ => return cx.bad(KERNEL.0),
        };
        Ok(Self {
            kernel,
            gamma: param(0),
            constant: param(1),
            degree: param(2),
            vectors,
            count,
            features,
        })
    }

    /// `[rows, vectors]`.
    fn build(&self, cx: &Cx, g: &mut Fragment) -> Result<ValueId, OpError> {
        let x = g.required(cx, 0)?;
        let t = computed_in(g.dtype(x));
        let mut x = g.cast(x, t)?;
        if g.fact(x).rank() == 1 {
            x = reshape(g, x, vec![Dim::ONE, Dim::from(self.features)])?;
        }
        let all = self.vectors.iter().map(|v| f64::from(*v));
        let (n, k) = (self.count, self.features);
        if let Kernel::Rbf = self.kernel {
            let rows = g.fact(x).shape[0].clone();
            let x = reshape(g, x, vec![rows, Dim::ONE, Dim::from(k)])?;
            let vectors = g.constant(Tensor::from_f64(t, &[n, k], all));
            let apart = g.binary("Sub", x, vectors)?;
            let square = g.binary("Mul", apart, apart)?;
            let sum = g.reduce("ReduceSum", square, &[2], false)?;
            let gamma = g.number(sum, -self.gamma);
            let power = g.binary("Mul", sum, gamma)?;
            return g.unary("Exp", power);
        }
        let columns = (0..k).flat_map(|f| (0..n).map(move |c| f64::from(self.vectors[c * k + f])));
        let columns = g.constant(Tensor::from_f64(t, &[k, n], columns));
        let product = g.binary("MatMul", x, columns)?;
        if let Kernel::Linear = self.kernel {
            return Ok(product);
        }
        let [gamma, constant, degree] = [self.gamma, self.constant, self.degree].map(|v| g.number(product, v));
        let scaled = g.binary("Mul", product, gamma)?;
        let moved = g.binary("Add", scaled, constant)?;
        match self.kernel {
            Kernel::Poly => g.binary("Pow", moved, degree),
            _ => g.unary("Tanh", moved),
        }
    }

    /// What [`Machine::build`] gives, a list for each row.
    fn eval(&self, cx: &Cx) -> Result<Vec<Vec<f64>>, OpError> {
        let x = cx.tensor(0)?.to_f64();
        if cx.tensor(0)?.shape().last() != Some(&self.features) {
            return invalid(format!("{}, the machine has {} features", cx.fact(0)?, self.features));
        }
        let one = |row: &[f64], vector: &[f32]| {
            let pairs = row.iter().zip(vector).map(|(x, v)| (*x, f64::from(*v)));
            let product = |pairs: &mut dyn Iterator<Item = (f64, f64)>| pairs.map(|(x, v)| x * v).sum::<f64>();
            match self.kernel {
                Kernel::Linear => product(&mut { pairs }),
                Kernel::Poly => (product(&mut { pairs }) * self.gamma + self.constant).powf(self.degree),
                Kernel::Sigmoid => (product(&mut { pairs }) * self.gamma + self.constant).tanh(),
                Kernel::Rbf => (-self.gamma * pairs.map(|(x, v)| (x - v).powi(2)).sum::<f64>()).exp(),
            }
        };
        let rows = x.chunks(self.features);
        Ok(rows
            .map(|row| self.vectors.chunks(self.features).map(|v| one(row, v)).collect())
            .collect())
    }
}

/// `x w + b` of what the machine gives, a column for each of `b`; `x + b` where there is no `w`.
struct Sums {
    w: Option<Vec<f64>>,
    b: Vec<f64>,
}

impl Sums {
    fn build(&self, g: &mut Fragment, mut x: ValueId) -> Result<ValueId, OpError> {
        let (t, n) = (g.dtype(x), self.b.len());
        if let Some(w) = &self.w {
            let w = g.constant(Tensor::from_f64(t, &[w.len() / n, n], w.iter().copied()));
            x = g.binary("MatMul", x, w)?;
        }
        let b = g.constant(Tensor::from_f64(t, &[n], self.b.iter().copied()));
        g.binary("Add", x, b)
    }

    fn eval(&self, row: &[f64]) -> Vec<f64> {
        let n = self.b.len();
        let sum = |c: usize| match &self.w {
            Some(w) => row.iter().zip(w.chunks(n)).map(|(x, w)| x * w[c]).sum(),
            None => row[c],
        };
        (0..n).map(|c| sum(c) + self.b[c]).collect()
    }
}

/// The first number of a list that may not be empty.
fn first(list: &[f32], name: &str) -> Result<f64, OpError> {
    match list.first() {
        Some(v) => Ok(f64::from(*v)),
        None => invalid(format!("attribute `{name}` is empty")),
    }
}

fn regressor(cx: &Cx) -> Result<(Machine, Sums, bool), OpError> {
    let coefficients = cx.opt_floats("coefficients")?.unwrap_or_default();
    let rho = first(&cx.opt_floats("rho")?.unwrap_or_default(), "rho")?;
    let supports = usize::try_from(cx.int("n_supports")?).unwrap_or(0);
    let (machine, w) = if supports == 0 {
        (Machine::of(cx, true, coefficients, 1)?, None)
    } else {
        if coefficients.len() != supports {
            return invalid(format!("{} coefficients for {supports} vectors", coefficients.len()));
        }
        let vectors = cx.opt_floats("support_vectors")?.unwrap_or_default();
        let w = coefficients.iter().map(|v| f64::from(*v)).collect();
        (Machine::of(cx, false, vectors, supports)?, Some(w))
    };
    Ok((machine, Sums { w, b: vec![rho] }, cx.int("one_class")? != 0))
}

pub(super) const SVM_REGRESSOR: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::SVMRegressor",
        "kernel(X, support_vectors) coefficients + rho; one_class: whether it is above 0, as 1 or -1",
        X,
        &[Param::new("Y", FLOAT).group(2)],
        &[
            ("coefficients", AttrDef::OptFloats),
            ("kernel_params", AttrDef::OptFloats),
            KERNEL,
            ("n_supports", AttrDef::Int(0)),
            ("one_class", AttrDef::Int(0)),
            // Read by nobody: neither ONNX's reference nor ONNX Runtime.
            POST,
            ("rho", AttrDef::OptFloats),
            ("support_vectors", AttrDef::OptFloats),
        ],
    ),
    build: |cx, g| {
        let (machine, sums, one_class) = regressor(cx)?;
        let kernels = machine.build(cx, g)?;
        let mut y = sums.build(g, kernels)?;
        if one_class {
            let [zero, inside, outside] = [0.0, 1.0, -1.0].map(|v| g.number(y, v));
            let above = g.binary("Greater", y, zero)?;
            y = g.apply("Where", &[], &[above, inside, outside])?;
        }
        Ok(vec![g.cast(y, DType::F32)?])
    },
    eval: |cx| {
        let (machine, sums, one_class) = regressor(cx)?;
        let y: Vec<f64> = machine.eval(cx)?.iter().map(|row| sums.eval(row)[0]).collect();
        let side = |v: f64| if v > 0.0 { 1.0 } else { -1.0 };
        let y = y.into_iter().map(|v| if one_class { side(v) } else { v });
        Ok(vec![Tensor::from_f64(DType::F32, &[y.len(), 1], y)])
    },
};

/// How the scores of classes are told.
enum Rule {
    /// Each class has its own; where this is given, the second of two wins where the largest is at least so.
    Own { second: Option<f64> },
    /// Each pair of classes has one, above 0 for the first.
    Pairs {
        pairs: Vec<[usize; 2]>,
        sigmoids: Option<[Vec<f64>; 2]>,
    },
}

struct Classifier {
    machine: Machine,
    sums: Sums,
    labels: Tensor,
    rule: Rule,
    post: Post,
}

impl Classifier {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let list = |name: &str| Ok::<_, OpError>(cx.opt_floats(name)?.unwrap_or_default());
        let Some(labels) = labels(cx, "classlabels_ints", "classlabels_strings")? else {
            return invalid("there are no labels");
        };
        let (coefficients, rho) = (list("coefficients")?, list("rho")?);
        let [a, b] = [list("prob_a")?, list("prob_b")?];
        let supports = cx.opt_ints("vectors_per_class")?.unwrap_or_default();
        let supports: Option<Vec<usize>> = supports.iter().map(|n| usize::try_from(*n).ok()).collect();
        let Some(supports) = supports else {
            return invalid("attribute `vectors_per_class` has a negative number");
        };
        let post = Post::named(cx)?;
        let count = labels.len();
        let Some(vectors) = supports.iter().try_fold(0usize, |sum, n| sum.checked_add(*n)) else {
            return invalid("attribute `vectors_per_class` counts more vectors than there can be");
        };
        if vectors == 0 {
            let least = match coefficients.iter().all(|v| *v >= 0.0) {
                true => 0.5,
                false => f64::from(f32::from_bits(1)),
            };
            let second = (count == 2 && a.is_empty()).then_some(least);
            let machine = Machine::of(cx, true, coefficients, count)?;
            return Ok(Self {
                machine,
                sums: Sums {
                    w: None,
                    b: vec![first(&rho, "rho")?; count],
                },
                labels,
                rule: Rule::Own { second },
                post,
            });
        }
        let pairs: Vec<[usize; 2]> = (0..count).flat_map(|i| (i + 1..count).map(move |j| [i, j])).collect();
        if supports.len() != count || pairs.is_empty() {
            return invalid(format!("{} numbers of vectors for {count} classes", supports.len()));
        }
        if Some(coefficients.len()) != (count - 1).checked_mul(vectors) || rho.len() != pairs.len() {
            let (c, r) = (coefficients.len(), rho.len());
            return invalid(format!(
                "{c} coefficients and {r} of `rho` for {count} classes of {vectors} vectors"
            ));
        }
        if a.len() != b.len() || !a.is_empty() && a.len() != pairs.len() {
            return invalid(format!(
                "{} and {} of `prob_a` and `prob_b` for {count} classes",
                a.len(),
                b.len()
            ));
        }
        // Which class each vector is of: a pair reads the coefficients of its own.
        let class = supports
            .iter()
            .enumerate()
            .flat_map(|(class, n)| std::iter::repeat_n(class, *n));
        let weight = |(m, class): (usize, usize), [i, j]: [usize; 2]| match class {
            _ if class == i => f64::from(coefficients[(j - 1) * vectors + m]),
            _ if class == j => f64::from(coefficients[i * vectors + m]),
            _ => 0.0,
        };
        let w = class.enumerate().flat_map(|v| pairs.iter().map(move |p| (v, *p)));
        let w = w.map(|(v, p)| weight(v, p)).collect();
        let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
        Ok(Self {
            machine: Machine::of(cx, false, list("support_vectors")?, vectors)?,
            sums: Sums {
                w: Some(w),
                b: wide(&rho),
            },
            labels,
            rule: Rule::Pairs {
                sigmoids: (!a.is_empty()).then(|| [wide(&a), wide(&b)]),
                pairs,
            },
            post,
        })
    }

    /// Numbers of classes, and their scores.
    fn build(&self, cx: &Cx, g: &mut Fragment) -> Result<[ValueId; 2], OpError> {
        let kernels = self.machine.build(cx, g)?;
        let sums = self.sums.build(g, kernels)?;
        let best = |g: &mut Fragment, x: ValueId| {
            g.apply("ArgMax", &[("axis", Attr::Int(1)), ("keepdims", Attr::Int(0))], &[x])
        };
        let (place, scores) = match &self.rule {
            Rule::Own { second } => {
                let mut place = best(g, sums)?;
                if let Some(second) = second {
                    let most = g.reduce("ReduceMax", sums, &[1], false)?;
                    let (from, one) = (g.number(most, *second), g.constant(Tensor::i64(&[], [1])));
                    let wins = g.binary("GreaterOrEqual", most, from)?;
                    place = g.apply("Where", &[], &[wins, one, place])?;
                }
                (place, sums)
            }
            Rule::Pairs { pairs, sigmoids } => {
                let zero = g.number(sums, 0.0);
                let won = g.binary("Greater", sums, zero)?;
                let (yes, no) = (g.number(sums, 1.0), g.number(sums, 0.0));
                let won = g.apply("Where", &[], &[won, yes, no])?;
                let lost = g.binary("Sub", yes, won)?;
                let both = concat(g, &[won, lost], 1)?;
                let votes = [0, 1].into_iter().flat_map(|side| {
                    let classes = 0..self.labels.len();
                    pairs
                        .iter()
                        .flat_map(move |p| classes.clone().map(move |c| f64::from(u8::from(p[side] == c))))
                });
                let t = g.dtype(sums);
                let votes = Tensor::from_f64(t, &[2 * pairs.len(), self.labels.len()], votes);
                let votes = g.constant(votes);
                let votes = g.binary("MatMul", both, votes)?;
                let scores = match sigmoids {
                    Some(sigmoids) => probabilities(g, sums, self.labels.len(), sigmoids)?,
                    None if pairs.len() == 1 => {
                        let other = g.unary("Neg", sums)?;
                        concat(g, &[other, sums], 1)?
                    }
                    None => sums,
                };
                (best(g, votes)?, scores)
            }
        };
        Ok([place, self.post.build(g, scores)?])
    }

    fn eval(&self, row: &[f64]) -> (usize, Vec<f64>) {
        let sums = self.sums.eval(row);
        let (place, mut scores) = match &self.rule {
            Rule::Own { second } => {
                let best = first_maximum(&sums);
                let wins = second.is_some_and(|second| sums[best] >= second);
                (if wins { 1 } else { best }, sums)
            }
            Rule::Pairs { pairs, sigmoids } => {
                let mut votes = vec![0.0; self.labels.len()];
                for (p, s) in pairs.iter().zip(&sums) {
                    votes[p[usize::from(*s <= 0.0 || s.is_nan())]] += 1.0;
                }
                let scores = match sigmoids {
                    Some([a, b]) => {
                        let sums = sums.iter().zip(a.iter().zip(b));
                        let pairs: Vec<f64> = sums.map(|(s, (a, b))| 1.0 / (1.0 + (s * a + b).exp())).collect();
                        coupled(self.labels.len(), &pairs)
                    }
                    None if pairs.len() == 1 => vec![-sums[0], sums[0]],
                    None => sums,
                };
                (first_maximum(&votes), scores)
            }
        };
        self.post.eval(&mut scores);
        (place, scores)
    }
}

/// Probabilities of classes from those of pairs, `r[i][j]` of class `i` among `i` and `j`: the `p` of the sum 1 with the smallest
/// `sum over pairs of (r[j][i] p[i] - r[i][j] p[j])^2` (Wu, Lin and Weng, 2004, algorithm 2), one class after the other.
fn coupled(classes: usize, pairs: &[f64]) -> Vec<f64> {
    let mut r = vec![vec![0.0; classes]; classes];
    let places = (0..classes).flat_map(|i| (i + 1..classes).map(move |j| (i, j)));
    for ((i, j), v) in places.zip(pairs) {
        let v = v.clamp(NEAREST, 1.0 - NEAREST);
        (r[i][j], r[j][i]) = (v, 1.0 - v);
    }
    let q = |i: usize, j: usize| match i == j {
        true => r.iter().map(|row| row[i] * row[i]).sum::<f64>(),
        false => -r[j][i] * r[i][j],
    };
    let mut p = vec![1.0 / classes as f64; classes];
    for _ in 0..TURNS {
        let mut qp: Vec<f64> = (0..classes)
            .map(|i| (0..classes).map(|j| q(i, j) * p[j]).sum())
            .collect();
        let mut pqp: f64 = p.iter().zip(&qp).map(|(p, q)| p * q).sum();
        if qp.iter().all(|v| (v - pqp).abs() < ERROR / classes as f64) {
            break;
        }
        for i in 0..classes {
            let more = (pqp - qp[i]) / q(i, i);
            p[i] += more;
            pqp = (pqp + more * (more * q(i, i) + 2.0 * qp[i])) / (1.0 + more).powi(2);
            for j in 0..classes {
                qp[j] = (qp[j] + more * q(i, j)) / (1.0 + more);
                p[j] /= 1.0 + more;
            }
        }
    }
    p
}

/// [`coupled`] of the sigmoids of scores `[rows, pairs]`, for all rows at once: one whose error is small enough stays.
fn probabilities(
    g: &mut Fragment,
    scores: ValueId,
    classes: usize,
    [a, b]: &[Vec<f64>; 2],
) -> Result<ValueId, OpError> {
    let (t, rows, k) = (g.dtype(scores), g.fact(scores).shape[0].clone(), Dim::from(classes));
    let list = |g: &mut Fragment, v: &[f64]| g.constant(Tensor::from_f64(t, &[v.len()], v.iter().copied()));
    let (a, b) = (list(g, a), list(g, b));
    let [zero, one, low, high] = [0.0, 1.0, NEAREST, 1.0 - NEAREST].map(|v| g.number(scores, v));
    let v = g.binary("Mul", scores, a)?;
    let v = g.binary("Add", v, b)?;
    let v = g.unary("Neg", v)?;
    let v = g.unary("Sigmoid", v)?;
    let v = g.binary("Max", v, low)?;
    let v = g.binary("Min", v, high)?;
    let rest = g.binary("Sub", one, v)?;
    let none = g.apply(
        "Expand",
        &[("shape", Attr::Dims(vec![rows.clone(), Dim::ONE]))],
        &[zero],
    )?;
    let all = concat(g, &[v, rest, none], 1)?;
    // Where `r[i][j]` is in a row of those.
    let pairs = classes * (classes - 1) / 2;
    let number = |i: usize, j: usize| i * (2 * classes - i - 1) / 2 + j - i - 1;
    let place = |i: usize, j: usize| match i.cmp(&j) {
        std::cmp::Ordering::Less => number(i, j),
        std::cmp::Ordering::Greater => pairs + number(j, i),
        std::cmp::Ordering::Equal => 2 * pairs,
    };
    let places = (0..classes).flat_map(|i| (0..classes).map(move |j| place(i, j) as i64));
    let places = g.constant(Tensor::i64(&[classes * classes], places));
    let r = g.apply("Gather", &[("axis", Attr::Int(1))], &[all, places])?;
    let r = reshape(g, r, vec![rows.clone(), k.clone(), k.clone()])?;
    let across = transpose(g, r, &[0, 2, 1])?;
    let q = g.binary("Mul", r, across)?;
    let q = g.unary("Neg", q)?;
    let square = g.binary("Mul", r, r)?;
    let own = g.reduce("ReduceSum", square, &[1], false)?;
    let own = reshape(g, own, vec![rows.clone(), k.clone(), Dim::ONE])?;
    let diagonal = (0..classes * classes).map(|i| if i % (classes + 1) == 0 { 1.0 } else { 0.0 });
    let diagonal = Tensor::from_f64(t, &[classes, classes], diagonal);
    let units = g.constant(diagonal);
    let own = g.binary("Mul", own, units)?;
    let q = g.binary("Add", q, own)?;
    // A row of `q` for each class.
    let q = transpose(g, q, &[1, 0, 2])?;
    let even = g.number(scores, 1.0 / classes as f64);
    let p = g.apply("Expand", &[("shape", Attr::Dims(vec![rows, k]))], &[even])?;

    let mut turn = Fragment::empty("turn");
    let [p0, q0, units0] = [p, q, units].map(|v| turn.operand(g.fact(v).clone()));
    let p1 = better(&mut turn, p0, q0, units0, classes)?;
    let last = g.scan(turn, &[p1], [1, 0], &Dim::from(TURNS), &[p, q, units])?;
    Ok(last[0])
}

/// Probabilities `p` of rows after one turn through all classes; `q` has a matrix for each class.
fn better(g: &mut Fragment, p: ValueId, q: ValueId, units: ValueId, classes: usize) -> Result<ValueId, OpError> {
    let qp = g.binary("Mul", q, p)?;
    let qp = g.reduce("ReduceSum", qp, &[2], false)?;
    let qp = transpose(g, qp, &[1, 0])?;
    let pqp = g.binary("Mul", p, qp)?;
    let pqp = g.reduce("ReduceSum", pqp, &[1], true)?;
    let error = g.binary("Sub", qp, pqp)?;
    let error = g.unary("Abs", error)?;
    let error = g.reduce("ReduceMax", error, &[1], true)?;
    let least = g.number(error, ERROR / classes as f64);
    let done = g.binary("Less", error, least)?;

    let mut each = Fragment::empty("class");
    let cut = |g: &Fragment, v: ValueId| Fact::new(g.dtype(v), g.fact(v).shape[1..].to_vec());
    let [p0, qp0, pqp0] = [p, qp, pqp].map(|v| each.operand(g.fact(v).clone()));
    let [row, unit] = [q, units].map(|v| each.operand(cut(g, v)));
    let at = |e: &mut Fragment, v: ValueId| {
        let v = e.binary("Mul", v, unit)?;
        e.reduce("ReduceSum", v, &[1], true)
    };
    let (own, here) = (at(&mut each, row)?, at(&mut each, qp0)?);
    let short = each.binary("Sub", pqp0, here)?;
    let more = each.binary("Div", short, own)?;
    let (one, two) = (each.number(more, 1.0), each.number(more, 2.0));
    let scale = each.binary("Add", one, more)?;
    let moved = each.binary("Mul", more, unit)?;
    let p1 = each.binary("Add", p0, moved)?;
    let p1 = each.binary("Div", p1, scale)?;
    let twice = each.binary("Mul", two, here)?;
    let grown = each.binary("Mul", more, own)?;
    let grown = each.binary("Add", grown, twice)?;
    let grown = each.binary("Mul", grown, more)?;
    let pqp1 = each.binary("Add", pqp0, grown)?;
    let square = each.binary("Mul", scale, scale)?;
    let pqp1 = each.binary("Div", pqp1, square)?;
    let moved = each.binary("Mul", more, row)?;
    let qp1 = each.binary("Add", qp0, moved)?;
    let qp1 = each.binary("Div", qp1, scale)?;
    let last = g.scan(
        each,
        &[p1, qp1, pqp1],
        [3, 2],
        &Dim::from(classes),
        &[p, qp, pqp, q, units],
    )?;
    g.apply("Where", &[], &[done, p, last[0]])
}

pub(super) const SVM_CLASSIFIER: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::SVMClassifier",
        "scores of classes, of pairs of classes or probabilities, and the label that most pairs are for",
        X,
        &[Param::new("Y", LABELS).group(3), Param::new("Z", FLOAT).group(2)],
        &[
            ("classlabels_ints", AttrDef::OptInts),
            ("classlabels_strings", AttrDef::OptStrs),
            ("coefficients", AttrDef::OptFloats),
            ("kernel_params", AttrDef::OptFloats),
            KERNEL,
            POST,
            ("prob_a", AttrDef::OptFloats),
            ("prob_b", AttrDef::OptFloats),
            ("rho", AttrDef::OptFloats),
            ("support_vectors", AttrDef::OptFloats),
            ("vectors_per_class", AttrDef::OptInts),
        ],
    ),
    build: |cx, g| {
        let classifier = Classifier::of(cx)?;
        let [place, scores] = classifier.build(cx, g)?;
        let labels = g.constant(classifier.labels);
        let label = g.apply("Gather", &[("axis", Attr::Int(0))], &[labels, place])?;
        Ok(vec![label, g.cast(scores, DType::F32)?])
    },
    eval: |cx| {
        let classifier = Classifier::of(cx)?;
        let rows: Vec<(usize, Vec<f64>)> = classifier
            .machine
            .eval(cx)?
            .iter()
            .map(|row| classifier.eval(row))
            .collect();
        let columns = match &classifier.rule {
            Rule::Pairs { pairs, sigmoids: None } => pairs.len().max(2),
            _ => classifier.labels.len(),
        };
        let label = classifier
            .labels
            .rearranged(&[rows.len()], None, |at| Some(rows[at[0]].0));
        let scores = rows.iter().flat_map(|(_, scores)| scores.iter().copied());
        Ok(vec![
            label,
            Tensor::from_f64(DType::F32, &[rows.len(), columns], scores),
        ])
    },
};

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    const KERNELS: [(&str, [f32; 3]); 4] = [
        ("LINEAR", [0.0, 0.0, 0.0]),
        ("POLY", [0.5, 0.25, 3.0]),
        ("RBF", [0.125, 0.0, 0.0]),
        ("SIGMOID", [0.25, -0.5, 0.0]),
    ];

    fn floats(name: &'static str, v: &[f32]) -> (&'static str, Attr) {
        (name, Attr::Floats(v.to_vec()))
    }

    fn kernel((name, params): (&str, [f32; 3])) -> [(&'static str, Attr); 2] {
        [
            ("kernel_type", Attr::Str(name.into())),
            floats("kernel_params", &params),
        ]
    }

    #[test]
    fn regression() {
        let op = "ai.onnx.ml::SVMRegressor";
        for kind in KERNELS {
            let mut attrs = kernel(kind).to_vec();
            attrs.extend([
                ("n_supports", Attr::Int(2)),
                floats("support_vectors", &[1.0, -1.0, 0.5, 0.25, 2.0, -0.5]),
                floats("coefficients", &[0.75, -0.5]),
                floats("rho", &[0.125]),
            ]);
            for t in [DType::F32, DType::F64, DType::I64, DType::I32] {
                check(op, &attrs, &[sample(t, &[5, 3], 1)], 1);
            }
            attrs.push(("one_class", Attr::Int(1)));
            check(op, &attrs, &[sample(DType::F32, &[5, 3], 2)], 1);
        }
        let row = |v: [f32; 2]| Some(Tensor::f32(&[2], v));
        let linear = [floats("coefficients", &[2.0, -1.0]), floats("rho", &[0.5])];
        assert_eq!(eval(op, &linear, &[row([3.0, 4.0])], 1)[0].to_f64(), [2.5]);
        // exp(-((3 - 1)^2 + (4 - 3)^2) / 8) * 2 - 1
        let mut attrs = kernel(KERNELS[2]).to_vec();
        attrs.extend([
            ("n_supports", Attr::Int(1)),
            floats("support_vectors", &[1.0, 3.0]),
            floats("coefficients", &[2.0]),
            floats("rho", &[-1.0]),
        ]);
        let y = eval(op, &attrs, &[row([3.0, 4.0])], 1)[0].to_f64()[0];
        assert!((y - (2.0 * (-0.625f64).exp() - 1.0)).abs() < 1e-6, "{y}");
        let x = |columns: i64| Fact::new(DType::F32, vec![Dim::sym("N"), Dim::from(columns)]);
        assert!(infer(op, &attrs, &[x(3)]).is_err() && infer(op, &attrs, &[x(2)]).is_ok());
        assert!(infer(op, &attrs[..5], &[x(2)]).is_err(), "no rho");
    }

    /// Three classes of 2, 1 and 1 vectors.
    fn three(kind: (&str, [f32; 3]), probabilities: bool) -> Vec<(&'static str, Attr)> {
        let mut attrs = kernel(kind).to_vec();
        attrs.extend([
            ("classlabels_ints", Attr::Ints(vec![4, 5, 9])),
            ("vectors_per_class", Attr::Ints(vec![2, 1, 1])),
            floats("support_vectors", &[1.0, -1.0, 0.5, 0.25, 2.0, -0.5, -1.0, 1.5]),
            floats("coefficients", &[0.75, 0.5, -1.25, -1.0, 1.0, 0.25, 0.5, -0.5]),
            floats("rho", &[0.125, -0.25, 0.0625]),
        ]);
        if probabilities {
            attrs.extend([
                floats("prob_a", &[-1.5, -2.0, -0.75]),
                floats("prob_b", &[0.25, -0.125, 0.5]),
            ]);
        }
        attrs
    }

    #[test]
    fn classification() {
        let op = "ai.onnx.ml::SVMClassifier";
        for kind in KERNELS {
            for probabilities in [false, true] {
                for t in [DType::F32, DType::F64, DType::I32] {
                    check(op, &three(kind, probabilities), &[sample(t, &[5, 2], 1)], 2);
                }
            }
        }
        for post in ["SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"] {
            let post = [("post_transform", Attr::Str(post.into()))];
            let attrs = [&three(KERNELS[0], false)[..], &post].concat();
            check(op, &attrs, &[sample(DType::F32, &[5, 2], 1)], 2);
            let two = [&two()[..], &post].concat();
            check(op, &two, &[sample(DType::F32, &[5, 2], 1)], 2);
        }
        let x = Some(Tensor::f32(&[2, 2], [1.0, 0.0, -2.0, 1.0]));
        let out = eval(op, &two(), &[x], 2);
        // (x . (1, 0) - x . (0, 1)) + 1/2, above 0 for the first label.
        assert_eq!(out[0].to_i64(), [3, 8]);
        assert_eq!(out[1].to_f64(), [-1.5, 1.5, 2.5, -2.5]);
    }

    fn two() -> Vec<(&'static str, Attr)> {
        vec![
            ("classlabels_ints", Attr::Ints(vec![3, 8])),
            ("vectors_per_class", Attr::Ints(vec![1, 1])),
            floats("support_vectors", &[1.0, 0.0, 0.0, 1.0]),
            floats("coefficients", &[1.0, -1.0]),
            floats("rho", &[0.5]),
        ]
    }

    #[test]
    fn probabilities_are_of_all_classes() {
        let op = "ai.onnx.ml::SVMClassifier";
        let x = sample(DType::F32, &[7, 2], 3);
        let p = eval(op, &three(KERNELS[2], true), &[x], 2)[1].to_f64();
        for row in p.chunks(3) {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{row:?}");
        }
        // Pairs that agree with (1/2, 1/3, 1/6) are met, to the error that ends the search.
        let p = super::coupled(3, &[3.0 / 5.0, 3.0 / 4.0, 2.0 / 3.0]);
        let close = p
            .iter()
            .zip([1.0 / 2.0, 1.0 / 3.0, 1.0 / 6.0])
            .all(|(a, b)| (a - b).abs() < 0.01);
        assert!(close, "{p:?}");
    }

    #[test]
    fn a_class_has_its_own_score() {
        let op = "ai.onnx.ml::SVMClassifier";
        let linear = |coefficients: &[f32]| {
            let labels = vec![3, 8, 9][..coefficients.len() / 2].to_vec();
            vec![
                ("classlabels_ints", Attr::Ints(labels)),
                floats("coefficients", coefficients),
                floats("rho", &[0.0]),
            ]
        };
        let x = || Some(Tensor::f32(&[3, 2], [1.0, 0.0, 0.0, 1.0, 0.25, 0.0]));
        let label = |coefficients: &[f32]| {
            check(op, &linear(coefficients), &[x()], 2);
            eval(op, &linear(coefficients), &[x()], 2)[0].to_i64()
        };
        assert_eq!(label(&[1.0, 0.0, 0.0, 1.0, 0.5, 0.5]), [3, 8, 3]);
        // Of two the second wins where the largest is at least 1/2, or above 0 where coefficients have both signs.
        assert_eq!(label(&[1.0, 0.0, 0.0, 1.0]), [8, 8, 3]);
        assert_eq!(label(&[1.0, -1.0, 0.0, -2.0]), [8, 3, 8]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let op = "ai.onnx.ml::SVMClassifier";
        let x = Fact::new(DType::F32, vec![Dim::sym("N"), Dim::from(2i64)]);
        let refused = |attrs: &[(&str, Attr)]| infer(op, attrs, std::slice::from_ref(&x)).is_err();
        let all = three(KERNELS[0], true);
        let inferred = infer(op, &all, std::slice::from_ref(&x));
        assert!(inferred.is_ok(), "{inferred:?}");
        let mut many = all.clone();
        let most = i64::MAX;
        many[3] = ("vectors_per_class", Attr::Ints(vec![most, most, 6]));
        assert!(refused(&many), "more vectors than can be counted");
        for i in 2..all.len() {
            let without = [&all[..i], &all[i + 1..]].concat();
            // Without numbers of vectors each class has a score of its own, of other features.
            assert!(refused(&without), "without {}", all[i].0);
        }
    }
}
