//! What is added to the logits of attention for how far a key is from its query.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::composed::{Composed, count, differ, plus, reference, refuse_inputs, reshape, slice, transpose};
use crate::ops::contrib::heads::{self, HEADS, head_count, wide};
use crate::ops::fragment::Fragment;
use crate::{Attr, DType, Dim, Tensor, ValueId};

const FLOAT: Types = Types::FLOAT;

const fn length(name: &'static str) -> Param {
    Param::new(name, Types::I64).shape_like(name)
}

/// The buckets of T5: each near distance has its own, far ones share them on a logarithmic scale.
pub(super) const RELATIVE: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::RelativePositionBias",
        "y[0,h,q,k] = bias_table[b,h] for the bucket b of the distance k - q; the elements of the table lie head by head",
        &[
            Param::new("bias_table", FLOAT),
            length("query_length"),
            length("key_length"),
        ],
        &[Param::new("output", FLOAT)],
        &[("is_bidirectional", AttrDef::Int(0)), ("max_distance", AttrDef::ReqInt)],
    ),
    build: |cx, g| {
        let b = Buckets::new(cx)?;
        let [queries, keys] = [extent(cx, 1)?, extent(cx, 2)?];
        let (rows, columns) = (count(g, &queries)?, count(g, &keys)?);
        let rows = reshape(g, rows, vec![queries, Dim::ONE])?;
        let away = g.binary("Sub", columns, rows)?;
        let zero = g.number(away, 0.0);
        let (distance, first) = if b.both {
            let behind = g.binary("Greater", away, zero)?;
            let half = g.number(away, b.count as f64);
            (g.unary("Abs", away)?, g.apply("Where", &[], &[behind, half, zero])?)
        } else {
            let before = g.unary("Neg", away)?;
            (g.binary("Max", before, zero)?, zero)
        };
        let most = g.number(distance, b.most as f64);
        let distance = g.binary("Min", distance, most)?;
        let own = g.constant(Tensor::i64(&[b.most as usize + 1], (0..=b.most).map(|d| b.of(d))));
        let bucket = g.apply("Gather", &[], &[own, distance])?;
        let bucket = g.binary("Add", bucket, first)?;
        let table = g.required(cx, 0)?;
        let mut shape = g.fact(table).shape.clone();
        shape.reverse();
        let table = reshape(g, table, shape)?;
        let y = g.apply("Gather", &[("axis", Attr::Int(1))], &[table, bucket])?;
        Ok(vec![g.apply(
            "Unsqueeze",
            &[("axes", Attr::Dims(vec![Dim::ZERO]))],
            &[y],
        )?])
    },
    eval: |cx| {
        let b = Buckets::new(cx)?;
        let size = |i: usize| -> Result<i64, OpError> {
            let n = extent(cx, i)?.as_const();
            n.map(|n| n.max(0))
                .ok_or_else(|| OpError::Invalid("a length is not a number".into()))
        };
        let (queries, keys, table) = (size(1)?, size(2)?, cx.tensor(0)?);
        let (buckets, heads) = (table.shape()[0], table.shape()[1]);
        let bucket = |away: i64| {
            let distance = if b.both { away.abs() } else { (-away).max(0) };
            let own = b.of(distance);
            own + if b.both && away > 0 { b.count } else { 0 }
        };
        let v = table.to_f64();
        let mut y = vec![];
        for h in 0..heads {
            for q in 0..queries {
                y.extend((0..keys).map(|k| v[h * buckets + bucket(k - q) as usize]));
            }
        }
        let shape = [1, heads, queries as usize, keys as usize];
        Ok(vec![Tensor::from_f64(table.dtype(), &shape, y)])
    },
};

struct Buckets {
    both: bool,
    /// Those of one direction.
    count: i64,
    /// How many distances have a bucket of their own.
    exact: i64,
    most: i64,
}

impl Buckets {
    fn new(cx: &Cx) -> Result<Self, OpError> {
        let table = cx.fact(0)?;
        let both = cx.int("is_bidirectional")? != 0;
        let all = match table.shape.as_slice() {
            [buckets, _] => match buckets.as_const() {
                Some(all) => all,
                None => return unsupported(format!("{buckets} buckets")),
            },
            _ => return invalid(format!("bias_table is {table}, not of rank 2")),
        };
        let count = if both { all / 2 } else { all };
        let (exact, most) = (count / 2, cx.int("max_distance")?);
        if exact < 1 || most <= exact {
            return invalid(format!("{all} buckets for distances up to {most}"));
        }
        // Every distance has an element in a table.
        if most > 1 << 16 {
            return unsupported(format!("attribute `max_distance` is {most}"));
        }
        Ok(Self {
            both,
            count,
            exact,
            most,
        })
    }

    /// The bucket of a distance in its direction, in the precision that models are trained in: that decides where one ends.
    fn of(&self, distance: i64) -> i64 {
        if distance < self.exact {
            return distance;
        }
        let exact = self.exact as f32;
        let far = (distance as f32 / exact).ln() / (self.most as f32 / exact).ln();
        let far = (far * (self.count - self.exact) as f32) as i64;
        (self.exact + far).min(self.count - 1)
    }
}

/// The length that input `i` is.
fn extent(cx: &Cx, i: usize) -> Result<Dim, OpError> {
    match cx.dims(i)?.as_deref() {
        Some([n]) => Ok(n.clone()),
        _ => invalid(format!("input {i} ({}) is not one number", cx.schema.inputs[i].name)),
    }
}

pub(super) const GATED: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::GatedRelativePositionBias",
        "(u (r eco_a - 1) + 2) rel_pos, where u and r are Sigmoid of the sums of the halves of (query_layer + query_bias) \
         weight + bias, head by head",
        &[
            Param::new("query_layer", FLOAT),
            Param::new("query_bias", FLOAT),
            Param::new("rel_pos", FLOAT),
            Param::new("weight", FLOAT),
            Param::new("bias", FLOAT),
            Param::new("eco_a", FLOAT),
            heads::mask("token_offset"),
        ],
        &[Param::new("output", FLOAT)],
        &[HEADS],
    ),
    build: |cx, g| {
        refuse_inputs(cx, &[6])?;
        let (n, half) = gated(cx)?;
        let x = g.required(cx, 0)?;
        let shape = g.fact(x).shape.clone();
        let x = g.widen(x)?;
        let bias = g.input(1);
        let x = plus(g, x, bias)?;
        let Some(size) = shape[2].div_exact(&n) else {
            return unsupported(format!("{n} heads of {} elements", shape[2]));
        };
        let x = reshape(g, x, vec![shape[0].clone(), shape[1].clone(), n, size])?;
        let x = transpose(g, x, &[0, 2, 1, 3])?;
        let mut all = vec![];
        for i in 2..6 {
            let v = g.required(cx, i)?;
            all.push(g.cast(v, g.dtype(x))?);
        }
        let [positions, weight, bias, eco] = all[..] else {
            return invalid("an operand is missing");
        };
        let gates = g.binary("MatMul", x, weight)?;
        let gates = g.binary("Add", gates, bias)?;
        let gate = |g: &mut Fragment, start: Dim| -> Result<ValueId, OpError> {
            let part = slice(g, gates, 3, start.clone(), start + half.clone())?;
            let sum = g.reduce("ReduceSum", part, &[3], true)?;
            g.unary("Sigmoid", sum)
        };
        let (u, r) = (gate(g, Dim::ZERO)?, gate(g, half.clone())?);
        let r = g.binary("Mul", r, eco)?;
        let (one, two) = (g.number(r, 1.0), g.number(r, 2.0));
        let r = g.binary("Sub", r, one)?;
        let open = g.binary("Mul", u, r)?;
        let open = g.binary("Add", open, two)?;
        let y = g.binary("Mul", open, positions)?;
        Ok(vec![g.cast(y, cx.fact(0)?.dtype)?])
    },
    eval: |cx| {
        let (_, half) = gated(cx)?;
        let half = half.as_const().map_or(0, |h| h as usize);
        let n = head_count(cx, "num_heads")? as usize;
        let (q, bias) = (cx.tensor(0)?, cx.tensor(1)?.to_f64());
        let [batch, length, hidden] = q.shape()[..] else {
            return invalid("query_layer is not of rank 3");
        };
        let (size, x) = (hidden / n, q.to_f64());
        let (w, b, eco) = (cx.tensor(3)?.to_f64(), cx.tensor(4)?.to_f64(), cx.tensor(5)?.to_f64());
        let gate = |at: usize, h: usize, first: usize| {
            let column = |d: usize| {
                let part = (0..size).map(|k| h * size + k);
                let dot: f64 = part
                    .map(|k| (x[at * hidden + k] + bias[k]) * w[(k % size) * 2 * half + d])
                    .sum();
                dot + b[d]
            };
            let sum: f64 = (first..first + half).map(column).sum();
            1.0 / (1.0 + (-sum).exp())
        };
        let mut open = vec![];
        for i in 0..batch {
            for (h, eco) in eco.iter().enumerate() {
                open.extend((0..length).map(|s| {
                    let (u, r) = (gate(i * length + s, h, 0), gate(i * length + s, h, half));
                    u * (r * eco - 1.0) + 2.0
                }));
            }
        }
        let open = Tensor::from_f64(DType::F64, &[batch, n, length, 1], open);
        let y = &reference("Mul", &[], &[Some(&open), Some(&wide(cx.tensor(2)?))], 1)?[0];
        Ok(vec![Tensor::from_f64(q.dtype(), y.shape(), y.to_f64())])
    },
};

/// The number of heads, and the columns of a gate.
fn gated(cx: &Cx) -> Result<(Dim, Dim), OpError> {
    let n = Dim::from(head_count(cx, "num_heads")?);
    for (i, rank) in [(0, 3), (1, 1), (2, 4), (3, 2), (4, 1), (5, 4)] {
        if cx.fact(i)?.rank() != rank {
            let name = cx.schema.inputs[i].name;
            return unsupported(format!("input {i} ({name}) is {}, not of rank {rank}", cx.fact(i)?));
        }
    }
    let eco = &cx.fact(5)?.shape;
    let fits = [
        (&eco[0], &Dim::ONE),
        (&eco[1], &n),
        (&eco[2], &Dim::ONE),
        (&eco[3], &Dim::ONE),
    ];
    if fits.iter().any(|(a, b)| differ(a, b)) {
        return invalid(format!("eco_a is {} for {n} heads", cx.fact(5)?));
    }
    let (x, columns) = (cx.fact(0)?, &cx.fact(3)?.shape[1]);
    for (i, wanted) in [(1, &x.shape[2]), (4, columns)] {
        if differ(&cx.fact(i)?.shape[0], wanted) {
            let name = cx.schema.inputs[i].name;
            return invalid(format!("input {i} ({name}) is {} for {wanted} elements", cx.fact(i)?));
        }
    }
    match columns.div_exact(&Dim::from(2i64)) {
        Some(half) => Ok((n, half)),
        None if columns.as_const().is_some() => invalid(format!("{columns} columns are not two halves")),
        None => unsupported(format!("halves of {columns} columns")),
    }
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    #[test]
    fn distances() {
        let n = |v: i64| Some(Tensor::i64(&[1], [v]));
        for both in [0, 1] {
            let attrs = [("is_bidirectional", Attr::Int(both)), ("max_distance", Attr::Int(20))];
            let inputs = [sample(DType::F32, &[8, 3], 1), n(30), n(40)];
            check("com.microsoft::RelativePositionBias", &attrs, &inputs, 1);
        }
        let f = |t: DType, shape: &[i64]| Fact::new(t, shape.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        let attrs = [("max_distance", Attr::Int(2))];
        let facts = [f(DType::F32, &[8, 3]), f(DType::I64, &[1]), f(DType::I64, &[1])];
        assert!(infer("com.microsoft::RelativePositionBias", &attrs, &facts).is_err());
    }

    #[test]
    fn gates() {
        for t in [DType::F32, DType::F16] {
            let s = |shape: &[usize], seed| sample(t, shape, seed);
            let inputs = [
                s(&[2, 5, 6], 1),
                s(&[6], 2),
                s(&[1, 3, 5, 5], 3),
                s(&[2, 8], 4),
                s(&[8], 5),
                s(&[1, 3, 1, 1], 6),
            ];
            check(
                "com.microsoft::GatedRelativePositionBias",
                &[("num_heads", Attr::Int(3))],
                &inputs,
                1,
            );
        }
    }
}
