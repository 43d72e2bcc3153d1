//! Rows of a table whose elements have few bits and a scale for each block.
//!
//! Laws: rows are taken first and scaled then, so that no table of floats comes to be; elements of less than a byte that are
//! stored as bytes lie along the last axis, low bits first.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, normalize_axis, unsupported};
use crate::ops::composed::{Composed, differ, optional, reshape, slice};
use crate::ops::contrib::quantized::unpack;
use crate::ops::fragment::Fragment;
use crate::{Attr, DType, Dim, Tensor, ValueId};

const DATA: Types = Types::of(&[DType::U8, DType::I4, DType::U4]);

pub(super) const GATHER: Composed = Composed {
    schema: &Schema::new(
        "com.microsoft::GatherBlockQuantized",
        "Gather of (data - zero_points) * scales, which are for blocks of block_size elements along quantize_axis; bytes hold \
         8 / bits elements",
        &[
            Param::new("data", DATA),
            Param::new("indices", Types::INDEX).group(2),
            Param::new("scales", Types::FLOAT).group(3),
            Param::new("zero_points", DATA).optional(),
        ],
        &[Param::new("output", Types::FLOAT).group(3)],
        &[
            ("bits", AttrDef::Int(4)),
            ("block_size", AttrDef::Int(128)),
            ("gather_axis", AttrDef::Int(0)),
            ("quantize_axis", AttrDef::Int(1)),
        ],
    ),
    build,
    eval,
};

struct Form {
    /// Bits of an element in a byte; 8 where elements are not packed.
    bits: i64,
    block: i64,
    gathered: usize,
    blocked: usize,
    /// Of a table without zero points.
    middle: f64,
}

impl Form {
    fn new(cx: &Cx) -> Result<Self, OpError> {
        let (data, scales) = (cx.fact(0)?, cx.fact(2)?);
        let rank = data.rank();
        let gathered = normalize_axis(cx.int("gather_axis")?, rank)?;
        let blocked = normalize_axis(cx.int("quantize_axis")?, rank)?;
        let bytes = data.dtype == DType::U8;
        let bits = match (bytes, cx.int("bits")?) {
            (true, bits @ (4 | 8)) => bits,
            (false, 4) => 8,
            (_, bits) => return unsupported(format!("attribute `bits` is {bits} for {}", data.dtype)),
        };
        if gathered == blocked || bytes && (gathered != 0 || blocked != rank - 1) {
            return unsupported(format!(
                "attributes `gather_axis` and `quantize_axis` are {gathered} and {blocked} for {data}"
            ));
        }
        let block = cx.int("block_size")?;
        if block < 16 || block.count_ones() != 1 || block > 1 << 30 {
            return invalid(format!("attribute `block_size` is {block}"));
        }
        let form = Self {
            bits,
            block,
            gathered,
            blocked,
            middle: if bytes { f64::from(1u32 << (bits - 1)) } else { 0.0 },
        };
        for (i, packed) in [(2, 1), (3, form.packed())] {
            let Some(arg) = cx.arg(i) else { continue };
            let blocks = form.elements(&data.shape[blocked]).ceil_div(&Dim::from(block));
            let fits = |(axis, (is, of)): (usize, (&Dim, &Dim))| {
                let wanted = if axis == blocked {
                    blocks.ceil_div(&Dim::from(packed))
                } else {
                    of.clone()
                };
                !differ(is, &wanted)
            };
            if arg.fact.rank() != rank || !arg.fact.shape.iter().zip(&data.shape).enumerate().all(fits) {
                let name = cx.schema.inputs[i].name;
                return invalid(format!(
                    "input {i} ({name}) is {}, scales {scales}, data {data}",
                    arg.fact
                ));
            }
        }
        Ok(form)
    }

    /// How many elements a byte holds.
    fn packed(&self) -> i64 {
        8 / self.bits
    }

    /// The elements of a blocked axis of such an extent.
    fn elements(&self, extent: &Dim) -> Dim {
        extent.clone() * Dim::from(self.packed())
    }
}

fn build(cx: &Cx, g: &mut Fragment) -> Result<Vec<ValueId>, OpError> {
    let f = Form::new(cx)?;
    let at = g.required(cx, 1)?;
    let axis = [("axis", Attr::Int(f.gathered as i64))];
    let rows = |g: &mut Fragment, i: usize| -> Result<ValueId, OpError> {
        let table = g.required(cx, i)?;
        g.apply("Gather", &axis, &[table, at])
    };
    // Where the blocks are among the axes of the result.
    let moved = if f.blocked < f.gathered { 0 } else { cx.fact(1)?.rank() };
    let blocked = (f.blocked + moved) - usize::from(f.blocked > f.gathered);
    let x = rows(g, 0)?;
    let x = unpack(g, x, f.bits)?;
    let scales = rows(g, 2)?;
    let scales = g.widen(scales)?;
    let work = g.dtype(scales);
    let x = g.cast(x, work)?;
    let extent = g.fact(x).shape[blocked].clone();
    let zeros = match g.input(3) {
        None => g.number(x, f.middle),
        Some(_) => {
            let zeros = rows(g, 3)?;
            let zeros = unpack(g, zeros, f.bits)?;
            let blocks = g.fact(scales).shape[blocked].clone();
            let zeros = slice(g, zeros, blocked, Dim::ZERO, blocks)?;
            let zeros = g.cast(zeros, work)?;
            spread(g, zeros, blocked, f.block, &extent)?
        }
    };
    let scales = spread(g, scales, blocked, f.block, &extent)?;
    let x = g.binary("Sub", x, zeros)?;
    let y = g.binary("Mul", x, scales)?;
    Ok(vec![g.cast(y, cx.fact(2)?.dtype)?])
}

/// What blocks have, for each of the `extent` elements of their axis.
fn spread(g: &mut Fragment, v: ValueId, axis: usize, block: i64, extent: &Dim) -> Result<ValueId, OpError> {
    let mut shape = g.fact(v).shape.clone();
    let behind = ("axes", Attr::Dims(vec![Dim::from(axis + 1)]));
    let v = g.apply("Unsqueeze", &[behind], &[v])?;
    let blocks = shape[axis].clone();
    shape.insert(axis + 1, Dim::from(block));
    let v = g.apply("Expand", &[("shape", Attr::Dims(shape.clone()))], &[v])?;
    shape.remove(axis + 1);
    shape[axis] = blocks * Dim::from(block);
    let v = reshape(g, v, shape)?;
    slice(g, v, axis, Dim::ZERO, extent.clone())
}

fn eval(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    let f = Form::new(cx)?;
    let (data, at, scales) = (cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?);
    let (packed, block) = (f.packed() as usize, f.block as usize);
    // Element `i` of the row of `v` at `axes`, where the blocked axis counts elements.
    let number = |v: &[i64], shape: &[usize], axes: &[usize], packed: usize| {
        let mut linear = 0;
        for (axis, (i, n)) in axes.iter().zip(shape).enumerate() {
            linear = linear * n + if axis == f.blocked { i / packed } else { *i };
        }
        let shift = f.bits as usize * (axes[f.blocked] % packed);
        if packed == 1 {
            v[linear]
        } else {
            v[linear] >> shift & ((1 << f.bits) - 1)
        }
    };
    let zeros = optional(cx, 3)?;
    let (x, z) = (data.to_i64(), zeros.map(Tensor::to_i64));
    let (s, picks) = (scales.to_f64(), at.to_i64());
    let mut extents = data.shape().to_vec();
    extents[f.blocked] *= packed;
    let shape = [&extents[..f.gathered], at.shape(), &extents[f.gathered + 1..]].concat();
    let (mut y, mut failed) = (vec![], None);
    crate::index::for_each(&shape, |ix| {
        let behind = f.gathered + at.shape().len();
        let pick = picks[crate::index::linear(at.shape(), &ix[f.gathered..behind])];
        let n = extents[f.gathered] as i64;
        let row = if pick < 0 { pick + n } else { pick };
        if !(0..n).contains(&row) {
            failed = Some(pick);
            return;
        }
        let axes = [&ix[..f.gathered], &[row as usize], &ix[behind..]].concat();
        let mut of = axes.clone();
        of[f.blocked] /= block;
        let scale = s[crate::index::linear(scales.shape(), &of)];
        let zero = match (&z, zeros) {
            (Some(z), Some(t)) => number(z, t.shape(), &of, packed) as f64,
            _ => f.middle,
        };
        y.push((number(&x, data.shape(), &axes, packed) as f64 - zero) * scale);
    });
    match failed {
        Some(pick) => invalid(format!("row {pick} of a table of {}", extents[f.gathered])),
        None => Ok(vec![Tensor::from_f64(scales.dtype(), &shape, y)]),
    }
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn attrs(bits: i64, gather: i64, quantize: i64) -> [(&'static str, Attr); 4] {
        [
            ("bits", Attr::Int(bits)),
            ("block_size", Attr::Int(16)),
            ("gather_axis", Attr::Int(gather)),
            ("quantize_axis", Attr::Int(quantize)),
        ]
    }

    fn bytes(shape: &[usize]) -> Option<Tensor> {
        let n = shape.iter().product::<usize>();
        Some(Tensor::from_i64(
            DType::U8,
            shape,
            (0..n).map(|i| (i * 89 % 256) as i64),
        ))
    }

    fn picks(shape: &[usize]) -> Option<Tensor> {
        let n = shape.iter().product::<usize>();
        Some(Tensor::i64(shape, (0..n).map(|i| (i as i64 * 3 + 1) % 9 - 4)))
    }

    #[test]
    fn tables() {
        let op = "com.microsoft::GatherBlockQuantized";
        let f = |shape: &[usize]| sample(DType::F32, shape, 3);
        for (bits, columns) in [(4, 20), (8, 40)] {
            let zeros = [3 * bits as usize / 8 + usize::from(bits == 4)];
            let inputs = [bytes(&[5, columns]), picks(&[2, 3]), f(&[5, 3]), bytes(&[5, zeros[0]])];
            check(op, &attrs(bits, 0, -1), &inputs[..3], 1);
            check(op, &attrs(bits, 0, -1), &inputs, 1);
        }
        for t in [DType::I4, DType::U4] {
            for (gather, quantize, scales) in [(0, 2, [5, 6, 3]), (1, 0, [1, 6, 35]), (2, 1, [5, 1, 35])] {
                let inputs = [
                    sample(t, &[5, 6, 35], 1),
                    picks(&[2]),
                    f(&scales),
                    sample(t, &scales, 2),
                ];
                check(op, &attrs(4, gather, quantize), &inputs[..3], 1);
                check(op, &attrs(4, gather, quantize), &inputs, 1);
            }
        }
        let fact = |t: DType, shape: &[i64]| Fact::new(t, shape.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        let inputs = [
            fact(DType::U8, &[5, 8]),
            fact(DType::I64, &[2]),
            fact(DType::F32, &[5, 2]),
        ];
        assert!(infer(op, &attrs(2, 0, 1), &inputs).is_err());
        assert!(infer(op, &attrs(4, 0, 1), &inputs).is_err());
        assert!(infer(op, &attrs(4, 1, 1), &inputs).is_err());
    }
}
