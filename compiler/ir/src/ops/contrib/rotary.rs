//! Rotary position embeddings: pairs of elements turned by angles that depend on the position.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::chosen::shared_out;
use crate::ops::composed::{Composed, concat, count, differ, optional, refuse_attributes, reshape, slice};
use crate::ops::fragment::Fragment;
use crate::{Dim, Tensor, ValueId};

const POSITIONS: Param = Param::new("position_ids", Types::INDEX).group(0);
const COS: Param = Param::new("cos_cache", Types::FLOAT);
const SIN: Param = Param::new("sin_cache", Types::FLOAT);
const TURNED: &[Param] = &[Param::new("Y", Types::FLOAT)];
const INTERLEAVED: (&str, AttrDef) = ("interleaved", AttrDef::Int(0));
const HEADS: (&str, AttrDef) = ("num_heads", AttrDef::Int(0));
const WIDTH: (&str, AttrDef) = ("rotary_embedding_dim", AttrDef::Int(0));

/// Inputs of an operation of this file: positions, cosines, sines.
type Slots = [usize; 3];

pub(super) const CONTRIBUTED: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::RotaryEmbedding",
        "pairs of elements of each head turned by the angles of rows position_ids",
        &[Param::new("input", Types::FLOAT), POSITIONS, COS, SIN],
        TURNED,
        &[
            INTERLEAVED,
            ("is_packed_batching", AttrDef::Int(0)),
            HEADS,
            WIDTH,
            ("scale", AttrDef::Float(1.0)),
        ],
    )
    .limits(&["`scale` is 1", "no packed batches"]),
    build: |cx, g| {
        refuse_attributes(cx, &[("is_packed_batching", &[0])])?;
        if cx.float("scale")? != 1.0 {
            return unsupported(format!("attribute `scale` is {}, it can be 1", cx.float("scale")?));
        }
        build(cx, g, [1, 2, 3])
    },
    eval: |cx| eval(cx, [1, 2, 3]),
};

pub(super) const ROTARY: Composed = Composed {
    schema: &Schema::new(
        "RotaryEmbedding",
        "pairs of elements of each head turned by the angles of rows position_ids, or of rows given per position",
        &[Param::new("X", Types::FLOAT), COS, SIN, POSITIONS.optional()],
        TURNED,
        &[INTERLEAVED, HEADS, WIDTH],
    )
    .since(23),
    build: |cx, g| build(cx, g, [3, 1, 2]),
    eval: |cx| eval(cx, [3, 1, 2]),
};

/// How many heads a flat input has.
fn heads(cx: &Cx, half: &Dim) -> Result<Dim, OpError> {
    let (n, hidden) = (cx.int("num_heads")?, &cx.fact(0)?.shape[2]);
    match n {
        1.. => Ok(Dim::from(n)),
        0 if cx.int("rotary_embedding_dim")? == 0 => match hidden.div_exact(&(half.clone() * Dim::from(2i64))) {
            Some(n) => Ok(n),
            None => invalid(format!("{hidden} elements are not heads of twice {half}")),
        },
        _ => invalid(format!("attribute `num_heads` is {n}")),
    }
}

fn build(cx: &Cx, g: &mut Fragment, [at, cos, sin]: Slots) -> Result<Vec<ValueId>, OpError> {
    let x = g.required(cx, 0)?;
    let (t, shape) = (g.dtype(x), cx.fact(0)?.shape.clone());
    let table = cx.fact(cos)?;
    let Some(half) = table.shape.last().cloned() else {
        return invalid("cos_cache is a scalar");
    };
    let sines = cx.fact(sin)?;
    if sines.rank() != table.rank() || sines.shape.iter().zip(&table.shape).any(|(a, b)| differ(a, b)) {
        return invalid(format!("cos_cache is {table}, sin_cache {sines}"));
    }
    let width = cx.int("rotary_embedding_dim")?;
    if width != 0 && half.as_const().is_some_and(|h| 2 * h != width) {
        return invalid(format!("cos_cache is {table} for {width} elements"));
    }
    let (flat, batch, length) = match shape.as_slice() {
        [b, s, _] => (true, b, s),
        [b, _, s, _] => (false, b, s),
        _ => return invalid(format!("input {} has neither 3 nor 4 axes", cx.fact(0)?)),
    };
    let positions = match (g.input(at), table.rank()) {
        (None, 3) => None,
        (Some(p), 2) if g.fact(p).rank() == 2 => Some(p),
        (Some(p), 2) if g.fact(p).shape == [Dim::ONE] => {
            let steps = count(g, length)?;
            let steps = g.cast(steps, g.dtype(p))?;
            Some(g.binary("Add", steps, p)?)
        }
        (Some(p), 2) => return unsupported(format!("position_ids are {}", g.fact(p))),
        _ => return invalid(format!("cos_cache is {table}")),
    };
    let mut angles = [g.required(cx, cos)?, g.required(cx, sin)?];
    for a in &mut angles {
        if let Some(p) = positions {
            *a = g.apply("Gather", &[], &[*a, p])?;
        }
        // A position for all of the batch stays one.
        let rows = g.fact(*a).shape.clone();
        let rows = if rows.len() == 2 { Dim::ONE } else { rows[0].clone() };
        let axes = if flat {
            [rows, length.clone(), Dim::ONE, half.clone()]
        } else {
            [rows, Dim::ONE, length.clone(), half.clone()]
        };
        *a = reshape(g, *a, axes.to_vec())?;
    }
    let split = if flat {
        let n = heads(cx, &half)?;
        let Some(size) = shared_out(&shape[2], &n) else {
            return invalid(format!("{} elements in {n} heads", shape[2]));
        };
        reshape(g, x, vec![batch.clone(), length.clone(), n, size])?
    } else {
        x
    };
    let y = turn(g, split, angles, cx.int("interleaved")? != 0)?;
    let y = reshape(g, y, shape.clone())?;
    Ok(vec![g.cast(y, t)?])
}

/// The first elements of the last axis turned by angles that broadcast against them, in at least `f32`.
pub(super) fn turn(g: &mut Fragment, x: ValueId, angles: [ValueId; 2], interleaved: bool) -> Result<ValueId, OpError> {
    let x = g.widen(x)?;
    let shape = g.fact(x).shape.clone();
    let last = shape.len() - 1;
    let two = Dim::from(2i64);
    let half = g.fact(angles[0]).shape[last].clone();
    let width = half.clone() * two.clone();
    let [cos, sin] = [g.cast(angles[0], g.dtype(x))?, g.cast(angles[1], g.dtype(x))?];
    let turned = slice(g, x, last, Dim::ZERO, width.clone())?;
    let mut part = shape.clone();
    part[last] = half.clone();
    let pairs = |side: &[Dim]| [side, std::slice::from_ref(&two)].concat();
    let [a, b] = if interleaved {
        let both = reshape(g, turned, pairs(&part))?;
        let a = slice(g, both, last + 1, Dim::ZERO, Dim::ONE)?;
        let b = slice(g, both, last + 1, Dim::ONE, two.clone())?;
        [reshape(g, a, part.clone())?, reshape(g, b, part.clone())?]
    } else {
        [
            slice(g, turned, last, Dim::ZERO, half.clone())?,
            slice(g, turned, last, half, width.clone())?,
        ]
    };
    let mut product = |x, y| g.binary("Mul", x, y);
    let [ac, bs, bc, as_] = [product(a, cos)?, product(b, sin)?, product(b, cos)?, product(a, sin)?];
    let (a, b) = (g.binary("Sub", ac, bs)?, g.binary("Add", bc, as_)?);
    let mut parts = if interleaved {
        let mut single = part.clone();
        single.push(Dim::ONE);
        let [a, b] = [reshape(g, a, single.clone())?, reshape(g, b, single)?];
        let both = concat(g, &[a, b], -1)?;
        part[last] = width.clone();
        vec![reshape(g, both, part)?]
    } else {
        vec![a, b]
    };
    if shape[last] != width {
        parts.push(slice(g, x, last, width, shape[last].clone())?);
    }
    match parts.as_slice() {
        [one] => Ok(*one),
        all => concat(g, all, -1),
    }
}

/// The same on the elements of one head.
pub(super) fn turned(x: &mut [f64], cos: &[f64], sin: &[f64], interleaved: bool) {
    for (i, (c, s)) in cos.iter().zip(sin).enumerate() {
        let [p, q] = if interleaved {
            [2 * i, 2 * i + 1]
        } else {
            [i, i + cos.len()]
        };
        (x[p], x[q]) = (x[p] * c - x[q] * s, x[q] * c + x[p] * s);
    }
}

fn eval(cx: &Cx, [at, cos, sin]: Slots) -> Result<Vec<Tensor>, OpError> {
    let (x, cos, sin) = (cx.tensor(0)?, cx.tensor(cos)?, cx.tensor(sin)?);
    let Some(&half) = cos.shape().last() else {
        return invalid("cos_cache is a scalar");
    };
    let interleaved = cx.int("interleaved")? != 0;
    let n = heads_of(cx, x, half)?;
    let (length, size) = match *x.shape() {
        [_, s, d] => (s, d / n.max(1)),
        [_, _, s, h] => (s, h),
        _ => return invalid("neither 3 nor 4 axes"),
    };
    let positions: Option<Vec<usize>> = optional(cx, at)?.map(|p| {
        let rows = p.to_i64().into_iter();
        // What is no row is not found below.
        rows.map(|r| usize::try_from(r).unwrap_or(usize::MAX / 2)).collect()
    });
    let (c, s) = (cos.to_f64(), sin.to_f64());
    let mut v = x.to_f64();
    for (r, head) in v.chunks_mut(size.max(1)).enumerate() {
        let step = if x.shape().len() == 3 {
            r / n % length
        } else {
            r % length
        };
        let batch = r / (n * length);
        let row = match &positions {
            None => batch * length + step,
            Some(p) if p.len() == 1 => p[0] + step,
            Some(p) => p[(batch * length + step) % p.len()],
        };
        let rows = |t: &[f64]| t.chunks(half.max(1)).nth(row).map(<[f64]>::to_vec);
        match (rows(&c), rows(&s)) {
            (Some(c), Some(s)) => turned(head, &c, &s, interleaved),
            _ => return invalid("a position outside of the table"),
        }
    }
    Ok(vec![Tensor::from_f64(x.dtype(), x.shape(), v)])
}

fn heads_of(cx: &Cx, x: &Tensor, half: usize) -> Result<usize, OpError> {
    match *x.shape() {
        [_, n, _, _] => Ok(n),
        [_, _, d] => match cx.int("num_heads")? {
            0 => Ok(d / (2 * half).max(1)),
            n => Ok(n as usize),
        },
        _ => invalid("neither 3 nor 4 axes"),
    }
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::sample;
    use crate::{Attr, DType, Tensor};

    #[test]
    fn pairs_are_turned() {
        for t in [DType::F32, DType::F64, DType::F16] {
            let s = |shape: &[usize], seed| sample(t, shape, seed);
            let at = |shape: &[usize], v: &[i64]| Some(Tensor::i64(shape, v.iter().copied()));
            let table = [s(&[9, 4], 2), s(&[9, 4], 3)];
            for interleaved in [0, 1] {
                let i = ("interleaved", Attr::Int(interleaved));
                let op = "com.microsoft::RotaryEmbedding";
                let [cos, sin] = table.clone();
                let rows = at(&[2, 3], &[0, 4, 8, 1, 2, 3]);
                let inputs = |x, p: &Option<Tensor>| [x, p.clone(), cos.clone(), sin.clone()];
                check(op, std::slice::from_ref(&i), &inputs(s(&[2, 3, 16], 1), &rows), 1);
                check(op, std::slice::from_ref(&i), &inputs(s(&[2, 5, 3, 8], 1), &rows), 1);
                check(
                    op,
                    std::slice::from_ref(&i),
                    &inputs(s(&[2, 3, 16], 1), &at(&[1], &[4])),
                    1,
                );
                let part = [
                    i.clone(),
                    ("num_heads", Attr::Int(2)),
                    ("rotary_embedding_dim", Attr::Int(8)),
                ];
                check(op, &part, &inputs(s(&[2, 3, 24], 1), &rows), 1);
                let op = "RotaryEmbedding";
                let heads = [i.clone(), ("num_heads", Attr::Int(2))];
                check(op, &heads, &[s(&[2, 3, 16], 1), cos.clone(), sin.clone(), rows], 1);
                check(op, &[i], &[s(&[2, 5, 3, 10], 1), s(&[2, 3, 4], 4), s(&[2, 3, 4], 5)], 1);
            }
        }
    }
}
