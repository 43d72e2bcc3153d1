//! Products with weights of a few bits.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::composed::{
    Composed, concat, optional, plus, refuse_attributes, refuse_inputs, reshape, slice, transpose,
};
use crate::ops::fragment::Fragment;
use crate::{Attr, DType, Dim, Tensor, ValueId};

const BYTES: Types = Types::of(&[DType::U8]);
const ZEROS: Types = Types(Types::FLOAT.0 | BYTES.0);

/// The weight is a graph of its own, so that it is a recipe where bytes and scales are weights.
pub(super) const MATMUL_NBITS: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::MatMulNBits",
        "A W' + bias, where W[n,k] = (B[n,k] - zero_points[n,k/block_size]) * scales[n,k/block_size] of 4 or 8 bits",
        &[
            Param::new("A", Types::FLOAT),
            Param::new("B", BYTES).group(0),
            Param::new("scales", Types::FLOAT),
            Param::new("zero_points", ZEROS).group(0).optional(),
            Param::new("g_idx", Types::INDEX).group(0).optional(),
            Param::new("bias", Types::FLOAT).optional(),
        ],
        &[Param::new("Y", Types::FLOAT)],
        &[
            ("K", AttrDef::ReqInt),
            ("N", AttrDef::ReqInt),
            // How exactly the runtime may compute.
            ("accuracy_level", AttrDef::Int(0)),
            ("bits", AttrDef::Int(4)),
            ("block_size", AttrDef::ReqInt),
            ("weight_prepacked", AttrDef::Int(0)),
        ],
    )
    .limits(&[
        "`bits` is 4 or 8",
        "no `g_idx` and prepacked weights",
        "shapes of `B` and `bias` must be known",
    ]),
    build,
    eval,
};

struct Form {
    /// Rows of the weight, and elements of a row.
    n: i64,
    k: i64,
    bits: i64,
    block: i64,
    blocks: i64,
}

impl Form {
    fn new(cx: &Cx) -> Result<Self, OpError> {
        let [n, k, bits, block] = [cx.int("N")?, cx.int("K")?, cx.int("bits")?, cx.int("block_size")?];
        refuse_attributes(cx, &[("bits", &[4, 8]), ("weight_prepacked", &[0])])?;
        // Also keeps the products below in range.
        let fine = |v: i64| (1..=1 << 30).contains(&v);
        if ![n, k, block].into_iter().all(fine) || block % 2 != 0 {
            return invalid(format!("N={n}, K={k}, block_size={block}"));
        }
        refuse_inputs(cx, &[4])?;
        if let Some(bias) = cx.arg(5)
            && bias.fact.shape != [Dim::from(n)]
        {
            return unsupported(format!("input 5 (bias) is {}", bias.fact));
        }
        let blocks = (k + block - 1) / block;
        let b = cx.fact(1)?;
        let bytes = n * blocks * (block * bits / 8);
        if b.static_shape().map(|s| s.iter().product::<usize>() as i64) != Some(bytes) {
            return invalid(format!(
                "B is {b}, not the bytes of {n} rows of {blocks} blocks of {block}"
            ));
        }
        Ok(Self {
            n,
            k,
            bits,
            block,
            blocks,
        })
    }

    /// Bytes of the zero points of a row.
    fn zero_bytes(&self) -> i64 {
        (self.blocks * self.bits + 7) / 8
    }

    /// The zero point of unsigned numbers around it.
    fn middle(&self) -> f64 {
        (1i64 << (self.bits - 1)) as f64
    }
}

fn dims(shape: &[i64]) -> Vec<Dim> {
    shape.iter().map(|d| Dim::from(*d)).collect()
}

/// The numbers in bytes `[.., n]`, low bits first: `[.., n * 8 / bits]`.
pub(super) fn unpack(g: &mut Fragment, bytes: ValueId, bits: i64) -> Result<ValueId, OpError> {
    if bits == 8 {
        return Ok(bytes);
    }
    let mut shape = g.fact(bytes).shape.clone();
    shape.push(Dim::ONE);
    let bytes = reshape(g, bytes, shape.clone())?;
    let (mask, four) = (g.number(bytes, 15.0), g.number(bytes, 4.0));
    let low = g.binary("BitwiseAnd", bytes, mask)?;
    let high = g.apply("BitShift", &[("direction", Attr::Str("RIGHT".into()))], &[bytes, four])?;
    let both = concat(g, &[low, high], -1)?;
    shape.pop();
    if let Some(last) = shape.last_mut() {
        *last = last.clone() * Dim::from(2i64);
    }
    reshape(g, both, shape)
}

fn build(cx: &Cx, g: &mut Fragment) -> Result<Vec<ValueId>, OpError> {
    let f = Form::new(cx)?;
    let t = cx.fact(0)?.dtype;
    let [a, b, scales] = [g.required(cx, 0)?, g.required(cx, 1)?, g.required(cx, 2)?];
    let b = reshape(g, b, dims(&[f.n, f.blocks, f.block * f.bits / 8]))?;
    let w = unpack(g, b, f.bits)?;
    let scales = g.widen(scales)?;
    let scales = reshape(g, scales, dims(&[f.n, f.blocks, 1]))?;
    let w = g.cast(w, g.dtype(scales))?;
    let zero = match g.input(3) {
        None => g.number(w, f.middle()),
        Some(z) => {
            let z = if g.dtype(z) == DType::U8 {
                let z = reshape(g, z, dims(&[f.n, f.zero_bytes()]))?;
                let z = unpack(g, z, f.bits)?;
                slice(g, z, 1, Dim::ZERO, Dim::from(f.blocks))?
            } else {
                z
            };
            let z = g.cast(z, g.dtype(w))?;
            reshape(g, z, dims(&[f.n, f.blocks, 1]))?
        }
    };
    let w = g.binary("Sub", w, zero)?;
    let w = g.binary("Mul", w, scales)?;
    let w = reshape(g, w, dims(&[f.n, f.blocks * f.block]))?;
    let w = slice(g, w, 1, Dim::ZERO, Dim::from(f.k))?;
    let w = transpose(g, w, &[1, 0])?;
    let a = g.widen(a)?;
    let y = g.binary("MatMul", a, w)?;
    let bias = g.input(5);
    let y = plus(g, y, bias)?;
    Ok(vec![g.cast(y, t)?])
}

fn eval(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    let f = Form::new(cx)?;
    let [n, k, bits, block, blocks] = [f.n, f.k, f.bits, f.block, f.blocks].map(|v| v as usize);
    // Number `i` of a row of packed ones.
    let number = |row: &[i64], i: usize| {
        if bits == 8 {
            row[i]
        } else {
            row[i / 2] >> (4 * (i % 2)) & 15
        }
    };
    let (b, scales) = (cx.tensor(1)?.to_i64(), cx.tensor(2)?.to_f64());
    let row_bytes = blocks * block * bits / 8;
    let zeros = optional(cx, 3)?;
    let zero = |r: usize, j: usize| match zeros {
        None => f.middle(),
        Some(z) if z.dtype() == DType::U8 => {
            let per = f.zero_bytes() as usize;
            number(&z.to_i64()[r * per..(r + 1) * per], j) as f64
        }
        Some(z) => z.to_f64()[r * blocks + j],
    };
    let mut w = vec![];
    for r in 0..n {
        let row = &b[r * row_bytes..(r + 1) * row_bytes];
        let zero: Vec<f64> = (0..blocks).map(|j| zero(r, j)).collect();
        w.extend((0..k).map(|i| (number(row, i) as f64 - zero[i / block]) * scales[r * blocks + i / block]));
    }
    let a = cx.tensor(0)?;
    let Some((&inner, outer)) = a.shape().split_last() else {
        return invalid("a scalar factor");
    };
    if inner != k {
        return invalid(format!("A has rows of {inner}, K is {k}"));
    }
    let bias = optional(cx, 5)?.map_or(vec![0.0; n], Tensor::to_f64);
    let mut y = vec![];
    for row in a.to_f64().chunks(k.max(1)) {
        for r in 0..n {
            let dot: f64 = row.iter().zip(&w[r * k..]).map(|(a, w)| a * w).sum();
            y.push(dot + bias[r]);
        }
    }
    let shape: Vec<usize> = outer.iter().copied().chain([n]).collect();
    Ok(vec![Tensor::from_f64(a.dtype(), &shape, y)])
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::sample;
    use crate::{Attr, DType, Tensor};

    fn bytes(shape: &[usize], seed: usize) -> Option<Tensor> {
        let n = shape.iter().product::<usize>();
        Some(Tensor::from_i64(
            DType::U8,
            shape,
            (0..n).map(|i| ((i * 97 + seed * 31) % 256) as i64),
        ))
    }

    #[test]
    fn four_and_eight_bits() {
        let attrs = |k: i64, bits: i64| {
            [
                ("K", Attr::Int(k)),
                ("N", Attr::Int(3)),
                ("bits", Attr::Int(bits)),
                ("block_size", Attr::Int(16)),
            ]
        };
        let op = "com.microsoft::MatMulNBits";
        let f = |shape: &[usize], seed| sample(DType::F32, shape, seed);
        for k in [32usize, 40] {
            let blocks = k.div_ceil(16);
            for bits in [4usize, 8] {
                let attrs = attrs(k as i64, bits as i64);
                let (a, b, scales) = (f(&[2, 4, k], 1), bytes(&[3, blocks, 2 * bits], 1), f(&[3 * blocks], 2));
                check(op, &attrs, &[a.clone(), b.clone(), scales.clone()], 1);
                let zeros = bytes(&[3, (blocks * bits).div_ceil(8)], 2);
                check(
                    op,
                    &attrs,
                    &[a.clone(), b.clone(), scales.clone(), zeros, None, f(&[3], 3)],
                    1,
                );
                check(op, &attrs, &[a, b, scales, f(&[3, blocks], 5)], 1);
            }
        }
    }
}
