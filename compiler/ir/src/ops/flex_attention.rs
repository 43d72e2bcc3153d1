//! `FlexAttention` of ONNX's preview domain; where it has graphs that change scores or probabilities, the importer writes it as
//! other operations.
//!
//! Law: it is [`Attention`](crate::ops::attention) of operands of rank 4 without a mask; probabilities are computed in at
//! least `f32`, whatever `softmax_precision` allows.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::composed::{Composed, differ};
use crate::{Attr, Tensor};

pub(super) const FLEX_ATTENTION: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.preview::FlexAttention",
        "Softmax(scale Q K') V, in heads; a head of K and V is shared by a group of query heads",
        &[
            Param::new("Q", Types::FLOAT),
            Param::new("K", Types::FLOAT),
            Param::new("V", Types::FLOAT),
        ],
        &[Param::new("Y", Types::FLOAT)],
        &[("scale", AttrDef::OptFloat), ("softmax_precision", AttrDef::OptInt)],
    )
    .limits(&["`softmax_precision` is 1, 10, 11 or 16"]),
    build: |cx, g| {
        check(cx)?;
        let qkv = [g.required(cx, 0)?, g.required(cx, 1)?, g.required(cx, 2)?];
        let scale = cx.opt_float("scale")?.map(|s| ("scale", Attr::Float(s)));
        let attrs: Vec<(&str, Attr)> = scale.into_iter().collect();
        Ok(vec![g.apply("Attention", &attrs, &qkv)?])
    },
    eval,
};

/// Refuses operands that do not fit together.
fn check(cx: &Cx) -> Result<(), OpError> {
    let [q, k, v] = [cx.fact(0)?, cx.fact(1)?, cx.fact(2)?];
    if [q, k, v].iter().any(|f| f.rank() != 4) {
        return invalid(format!("Q is {q}, K {k} and V {v}: all must be of rank 4"));
    }
    let pairs = [
        (&q.shape[0], &k.shape[0]),
        (&q.shape[0], &v.shape[0]),
        (&k.shape[1], &v.shape[1]),
        (&k.shape[2], &v.shape[2]),
        (&q.shape[3], &k.shape[3]),
    ];
    if pairs.into_iter().any(|(a, b)| differ(a, b)) {
        return invalid(format!("Q {q}, K {k} and V {v} do not fit together"));
    }
    if cx.opt_float("scale")?.is_some_and(|s| s.is_nan() || s < 0.0) {
        // Its square root is taken.
        return invalid("attribute `scale` is negative");
    }
    match cx.opt_int("softmax_precision")? {
        // The numbers of float, half, double and bfloat16 in ONNX.
        None | Some(1 | 10 | 11 | 16) => Ok(()),
        Some(n) => unsupported(format!(
            "attribute `softmax_precision` is {n}, it can be 1, 10, 11 or 16"
        )),
    }
}

fn eval(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    check(cx)?;
    let [q, k, v] = [cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?];
    let ([batch, heads, queries, size], [_, shared, keys, _], [.., width]) = (q.shape(), k.shape(), v.shape()) else {
        return invalid("operands of rank 4");
    };
    let (batch, heads, queries, size) = (*batch, *heads, *queries, *size);
    let (shared, keys, width) = (*shared, *keys, *width);
    if shared == 0 || heads % shared != 0 {
        return invalid(format!("{heads} query heads cannot share {shared} key heads"));
    }
    let scale = cx.opt_float("scale")?.map_or(1.0 / (size as f64).sqrt(), f64::from);
    let [a, b, c] = [q, k, v].map(Tensor::to_f64);
    let mut y = vec![];
    for row in 0..batch * heads * queries {
        let (n, h) = (row / queries / heads, row / queries % heads);
        let of = (n * shared + h / (heads / shared)) * keys;
        let score = |j: usize| {
            (0..size)
                .map(|i| a[row * size + i] * b[(of + j) * size + i])
                .sum::<f64>()
                * scale
        };
        let scores: Vec<f64> = (0..keys).map(score).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
        let total: f64 = weights.iter().sum();
        let read = |i: usize| {
            (0..keys)
                .map(|j| weights[j] / total * c[(of + j) * width + i])
                .sum::<f64>()
        };
        y.extend((0..width).map(read));
    }
    Ok(vec![Tensor::from_f64(q.dtype(), &[batch, heads, queries, width], y)])
}

#[cfg(test)]
mod tests {
    use crate::Dim;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Fact, Tensor};

    const OP: &str = "ai.onnx.preview::FlexAttention";

    #[test]
    fn heads() {
        for t in [DType::F32, DType::F64, DType::F16] {
            let s = |shape: &[usize], seed| sample(t, shape, seed);
            let scale = [("scale", Attr::Float(0.1))];
            check(
                OP,
                &scale,
                &[s(&[2, 4, 5, 8], 1), s(&[2, 4, 3, 8], 2), s(&[2, 4, 3, 6], 3)],
                1,
            );
            check(
                OP,
                &[],
                &[s(&[2, 4, 5, 8], 1), s(&[2, 2, 3, 8], 2), s(&[2, 2, 3, 6], 3)],
                1,
            );
        }
        let ones = |shape: &[usize]| Some(Tensor::f32(shape, vec![1.0; shape.iter().product()]));
        let v = Some(Tensor::f32(&[1, 1, 2, 1], [1.0, 3.0]));
        let y = eval(OP, &[], &[ones(&[1, 1, 1, 4]), ones(&[1, 1, 2, 4]), v], 1)[0].to_f32();
        assert_eq!(y, [2.0]);
        let f = |s: [i64; 4]| Fact::new(DType::F32, s.map(Dim::from as fn(i64) -> Dim));
        assert!(infer(OP, &[], &[f([1, 2, 3, 4]), f([1, 2, 3, 5]), f([1, 2, 3, 4])]).is_err());
        assert!(infer(OP, &[], &[f([1, 3, 3, 4]), f([1, 2, 3, 4]), f([1, 2, 3, 4])]).is_err());
    }
}
