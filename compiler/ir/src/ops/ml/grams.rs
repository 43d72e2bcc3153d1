//! `TfIdfVectorizer` of integers: how often rows contain given sequences of tokens, with gaps.
//!
//! Every sequence is compared with every place of a row, which costs their product; nothing depends on an order.

use std::collections::BTreeSet;

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::composed::{Composed, concat, reshape};
use crate::ops::gather::compare;
use crate::ops::ml::labels;
use crate::structured::{Binary, Combine, Compute, Expr, Scalar};
use crate::{Attr, DType, Dim, Fact, Tensor};

/// Tokens: numbers of words, or words.
const TOKENS: Types = Types(Types::INDEX.0 | Types::STRING.0);

/// `cameo::Grams`.
pub(super) struct Grams;

impl Grams {
    fn spec<'a>(cx: &Cx<'a>) -> Result<(&'a Fact, &'a Dim, usize, i64), OpError> {
        let (x, grams, skips) = (cx.fact(0)?, cx.fact(1)?, cx.int("skips")?);
        if x.rank() != 2 || grams.rank() != 2 {
            return invalid(format!("rows {x} and sequences {grams}: matrices are wanted"));
        }
        if !(0..=i64::from(i32::MAX)).contains(&skips) {
            return invalid(format!("{skips} skips"));
        }
        match grams.shape[1].as_const().map(usize::try_from) {
            Some(Ok(n @ 1..=64)) => Ok((x, &grams.shape[0], n, skips)),
            _ => unsupported(format!("sequences of {} tokens", grams.shape[1])),
        }
    }
}

impl OpDef for Grams {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Grams",
            "y[b, m] = at how many i and steps 1..=skips+1 x[b, i + k step] is grams[m, k] for all k",
            &[Param::new("x", TOKENS), Param::new("grams", TOKENS)],
            &[Param::new("y", Types::I64).group(2)],
            &[("skips", AttrDef::Int(0))],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, count, _, _) = Self::spec(cx)?;
        Ok(vec![Fact::new(DType::I64, vec![x.shape[0].clone(), count.clone()])])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (_, _, n, skips) = Self::spec(cx)?;
        let (x, grams) = (cx.tensor(0)?, cx.tensor(1)?);
        let (rows, length, count) = (x.shape()[0], x.shape()[1], grams.shape()[0]);
        let (v, wanted) = (x.to_i64(), grams.to_i64());
        let mut out = vec![];
        for row in (0..rows).map(|b| &v[b * length..][..length]) {
            for gram in (0..count).map(|m| &wanted[m * n..][..n]) {
                let steps = 1..=skips as usize + 1;
                let found = steps.map(|step| {
                    let same = |i: &usize| gram.iter().enumerate().all(|(k, t)| row.get(i + k * step) == Some(t));
                    (0..length).filter(same).count() as i64
                });
                out.push(found.sum());
            }
        }
        Ok(vec![Tensor::i64(&[rows, count], out)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, count, n, skips) = Self::spec(cx)?;
        let (t, length) = (x.dtype, &x.shape[1]);
        let reduced = [length.clone(), Dim::from(skips + 1)];
        let parallel = [x.shape[0].clone(), count.clone()];
        let compute = Compute::nest(DType::I64, &parallel, &reduced, Combine::Add, |b, it, over| {
            let at = |k: usize| over[0].clone() + Dim::from(k) * (over[1].clone() + Dim::ONE);
            let mut all = compare(b, Binary::Lt, at(n - 1), length.clone());
            for k in 0..n {
                let token = b.push(Expr::Load {
                    operand: 0,
                    dtype: t,
                    index: vec![it[0].clone(), at(k)],
                    fill: Some(Scalar::Int(0)),
                });
                let wanted = b.load(1, t, vec![it[1].clone(), Dim::from(k)]);
                let same = b.binary(Binary::Eq, token, wanted);
                all = b.binary(Binary::And, all, same);
            }
            let (one, zero) = (b.int(DType::I64, 1), b.int(DType::I64, 0));
            (b.select(all, one, zero), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

/// The sequences of one length.
struct Group {
    length: usize,
    /// Row by row, and where in the result the count of each row goes.
    tokens: Vec<i64>,
    places: Vec<usize>,
    skips: i64,
}

struct Vectorizer {
    groups: Vec<Group>,
    /// What its strings are, so that another one of the same handle is an error.
    pool: Tensor,
    size: usize,
    /// A factor for each element of the result.
    weights: Option<Vec<f64>>,
    /// Whether it counts only if a sequence is there at all.
    once: bool,
}

impl Vectorizer {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        if cx.fact(0)?.rank() > 2 {
            return invalid(format!("{} is neither a row nor a batch of rows", cx.fact(0)?));
        }
        let (once, weighted) = match cx.str("mode")? {
            "TF" => (false, false),
            "IDF" => (true, true),
            "TFIDF" => (false, true),
            _ => return cx.bad("mode"),
        };
        let (starts, indexes) = (cx.ints("ngram_counts")?, cx.ints("ngram_indexes")?);
        let texts = labels(cx, "pool_int64s", "pool_strings")?;
        let texts = texts.unwrap_or_else(|| Tensor::i64(&[0], []));
        if (texts.dtype() == DType::String) != (cx.fact(0)?.dtype == DType::String) && !texts.is_empty() {
            return invalid(format!(
                "a pool of {} for tokens of {}",
                texts.dtype(),
                cx.fact(0)?.dtype
            ));
        }
        // Strings by their handles.
        let pool = texts.to_i64();
        let (least, most) = (cx.int("min_gram_length")?, cx.int("max_gram_length")?);
        let mut places = vec![];
        for i in &indexes {
            match usize::try_from(*i) {
                Ok(i) if i < 1 << 24 => places.push(i),
                _ => return invalid(format!("index {i}")),
            }
        }
        if places.iter().collect::<BTreeSet<_>>().len() != places.len() {
            return unsupported("attribute `ngram_indexes` has several sequences of the same index");
        }
        let size = places.iter().max().map_or(0, |m| m + 1);
        let (mut groups, mut rest) = (vec![], places.as_slice());
        for (i, start) in starts.iter().enumerate() {
            let length = i + 1;
            let end = starts.get(length).map_or(pool.len() as i64, |e| *e);
            let tokens = usize::try_from(*start)
                .ok()
                .zip(usize::try_from(end).ok())
                .and_then(|(start, end)| pool.get(start..end))
                .filter(|tokens| tokens.len() % length == 0 && tokens.len() / length <= rest.len());
            let Some(tokens) = tokens else {
                return invalid(format!(
                    "sequences of {length} from {start} to {end} in a pool of {}",
                    pool.len()
                ));
            };
            let (own, others) = rest.split_at(tokens.len() / length);
            rest = others;
            if !own.is_empty() && (least..=most).contains(&(length as i64)) {
                groups.push(Group {
                    length,
                    tokens: tokens.to_vec(),
                    places: own.to_vec(),
                    // Single tokens have nothing to skip.
                    skips: if length == 1 { 0 } else { cx.int("max_skip_count")? },
                });
            }
        }
        if !rest.is_empty() || size == 0 {
            return invalid(format!("{} indexes for the sequences of the pool", places.len()));
        }
        let weights = cx.opt_floats("weights")?.filter(|w| weighted && !w.is_empty());
        if weights.as_ref().is_some_and(|w| w.len() < size) {
            return invalid(format!("too few weights for {size} results"));
        }
        let weights = weights.map(|w| w.into_iter().take(size).map(f64::from).collect());
        Ok(Self {
            groups,
            pool: texts,
            size,
            weights,
            once,
        })
    }
}

pub(super) const TF_IDF: Composed = Composed {
    schema: &Schema::new(
        "TfIdfVectorizer",
        "how often each sequence of the pool is in a row (TF), whether it is (IDF), or how often times its weight (TFIDF)",
        &[Param::new("X", TOKENS)],
        &[Param::new("Y", Types::of(&[DType::F32])).group(2)],
        &[
            ("max_gram_length", AttrDef::ReqInt),
            ("max_skip_count", AttrDef::ReqInt),
            ("min_gram_length", AttrDef::ReqInt),
            ("mode", AttrDef::ReqOneOf(&["TF", "IDF", "TFIDF"])),
            ("ngram_counts", AttrDef::ReqInts),
            ("ngram_indexes", AttrDef::ReqInts),
            ("pool_int64s", AttrDef::OptInts),
            ("pool_strings", AttrDef::OptStrs),
            ("weights", AttrDef::OptFloats),
        ],
    ).limits(&["each sequence has an index of its own", "sequences of at most 64 tokens"]).since(9),
    build: |cx, g| {
        let model = Vectorizer::of(cx)?;
        let x = g.required(cx, 0)?;
        let (t, shape) = (g.dtype(x), g.fact(x).shape.clone());
        let rows = if shape.len() == 2 { shape[0].clone() } else { Dim::ONE };
        let length = shape.last().cloned().unwrap_or(Dim::ONE);
        let x = reshape(g, x, vec![rows.clone(), length])?;
        let (mut counts, mut source) = (vec![], vec![None; model.size]);
        let mut column = 0;
        for group in &model.groups {
            let count = group.places.len();
            let grams = Tensor::from_i64(t, &[count, group.length], group.tokens.iter().copied());
            let grams = grams.with_texts(model.pool.texts()).map_err(OpError::Unsupported)?;
            let grams = g.constant(grams);
            counts.push(g.apply("cameo::Grams", &[("skips", Attr::Int(group.skips))], &[x, grams])?);
            for p in &group.places {
                source[*p] = Some(column);
                column += 1;
            }
        }
        // What no sequence belongs to is the column of zeros behind all.
        let zero = g.constant(Tensor::i64(&[1, 1], [0]));
        let zeros = [("shape", Attr::Dims(vec![rows, Dim::ONE]))];
        counts.push(g.apply("Expand", &zeros, &[zero])?);
        let counts = concat(g, &counts, 1)?;
        let source = source.into_iter().map(|s| s.unwrap_or(column));
        let source = g.constant(Tensor::i64(&[model.size], source));
        let counts = g.apply("Gather", &[("axis", Attr::Int(1))], &[counts, source])?;
        let mut y = g.cast(counts, DType::F32)?;
        if model.once {
            let one = g.number(y, 1.0);
            y = g.binary("Min", y, one)?;
        }
        if let Some(weights) = &model.weights {
            let weights = Tensor::from_f64(DType::F32, &[model.size], weights.iter().copied());
            let weights = g.constant(weights);
            y = g.binary("Mul", y, weights)?;
        }
        let mut shape = shape;
        shape.pop();
        shape.push(Dim::from(model.size));
        Ok(vec![reshape(g, y, shape)?])
    },
    eval: |cx| {
        let model = Vectorizer::of(cx)?;
        let x = cx.tensor(0)?;
        let length = x.shape().last().copied().unwrap_or(1);
        let rows = if x.shape().len() == 2 { x.shape()[0] } else { 1 };
        let (v, mut out) = (x.to_i64(), vec![]);
        for row in (0..rows).map(|b| &v[b * length..][..length]) {
            let mut counts = vec![0.0_f64; model.size];
            for group in &model.groups {
                for step in 1..=group.skips as usize + 1 {
                    for start in 0..length {
                        let found = (0..group.length).map(|k| row.get(start + k * step).copied());
                        let Some(found) = found.collect::<Option<Vec<i64>>>() else {
                            break;
                        };
                        let grams = group.tokens.chunks(group.length).zip(&group.places);
                        grams
                            .filter(|(g, _)| **g == *found)
                            .for_each(|(_, p)| counts[*p] += 1.0);
                    }
                }
            }
            for (p, count) in counts.into_iter().enumerate() {
                let count = if model.once { count.min(1.0) } else { count };
                out.push(count * model.weights.as_ref().map_or(1.0, |w| w[p]));
            }
        }
        let mut shape = x.shape().to_vec();
        shape.pop();
        shape.push(model.size);
        Ok(vec![Tensor::from_f64(DType::F32, &shape, out)])
    },
};

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    type Attributes = Vec<(&'static str, Attr)>;

    fn model(mode: &str, [least, most, skips]: [i64; 3]) -> Attributes {
        vec![
            ("mode", Attr::Str(mode.into())),
            ("min_gram_length", Attr::Int(least)),
            ("max_gram_length", Attr::Int(most)),
            ("max_skip_count", Attr::Int(skips)),
            ("ngram_counts", Attr::Ints(vec![0, 4])),
            ("ngram_indexes", Attr::Ints(vec![0, 1, 2, 3, 4, 5, 6])),
            ("pool_int64s", Attr::Ints(vec![2, 3, 5, 4, 5, 6, 7, 8, 6, 7])),
        ]
    }

    #[test]
    fn counts() {
        let op = "TfIdfVectorizer";
        let tokens = [1, 1, 3, 3, 3, 7, 8, 6, 7, 5, 6, 8];
        let row = || Some(Tensor::from_i64(DType::I32, &[12], tokens));
        let batch = || Some(Tensor::i64(&[2, 6], tokens));
        for (mode, sizes) in [
            ("TF", [2, 2, 0]),
            ("IDF", [1, 2, 5]),
            ("TFIDF", [1, 1, 5]),
            ("TF", [2, 2, 5]),
        ] {
            let mut attrs = model(mode, sizes);
            check(op, &attrs, &[row()], 1);
            check(op, &attrs, &[batch()], 1);
            attrs.push(("weights", Attr::Floats((0..7).map(|i| i as f32 / 2.0).collect())));
            check(op, &attrs, &[batch()], 1);
            check(op, &attrs, &[Some(Tensor::i64(&[3, 1], [2, 3, 9]))], 1);
        }
        // ONNX's examples.
        let of = |x: Option<Tensor>, sizes| eval(op, &model("TF", sizes), &[x], 1)[0].to_f64();
        assert_eq!(of(row(), [2, 2, 0]), [0., 0., 0., 0., 1., 1., 1.]);
        assert_eq!(of(row(), [2, 2, 5]), [0., 0., 0., 0., 1., 3., 1.]);
        assert_eq!(of(row(), [1, 2, 5]), [0., 3., 1., 0., 1., 3., 1.]);
        let both = [0., 3., 0., 0., 0., 0., 0., 0., 0., 1., 0., 1., 1., 1.];
        assert_eq!(of(batch(), [1, 2, 5]), both);
    }

    #[test]
    fn gaps() {
        let x = Some(Tensor::i64(&[2, 7], [1, 2, 1, 2, 3, 1, 2, 0, 0, 0, 0, 0, 0, 0]));
        let grams = Some(Tensor::i64(&[3, 2], [1, 2, 0, 0, 3, 2]));
        for skips in [0, 1, 3, 9] {
            check(
                "cameo::Grams",
                &[("skips", Attr::Int(skips))],
                &[x.clone(), grams.clone()],
                1,
            );
        }
        let y = eval("cameo::Grams", &[], &[x, grams], 1);
        assert_eq!(y[0].to_i64(), [3, 0, 0, 0, 6, 0]);
    }

    #[test]
    fn broken_pools_are_refused() {
        let x = Fact::new(DType::I64, vec![Dim::sym("N")]);
        let changed = |name: &str, v: Attr| {
            let mut attrs = model("TF", [1, 2, 0]);
            attrs.iter_mut().filter(|a| a.0 == name).for_each(|a| a.1 = v.clone());
            infer("TfIdfVectorizer", &attrs, std::slice::from_ref(&x))
        };
        assert!(changed("mode", Attr::Str("TF".into())).is_ok());
        assert!(changed("mode", Attr::Str("X".into())).is_err());
        assert!(changed("ngram_counts", Attr::Ints(vec![0, 5])).is_err());
        assert!(changed("ngram_counts", Attr::Ints(vec![0, 99])).is_err());
        assert!(changed("ngram_indexes", Attr::Ints(vec![0; 7])).is_err());
        assert!(changed("ngram_indexes", Attr::Ints(vec![1])).is_err());
        assert!(changed("pool_int64s", Attr::Ints(vec![])).is_err());
    }
}
