//! What fits where, guessed from names and shapes.

use super::Rng;
use crate::op::AttrDef;
use crate::{Attr, DType, Dim, Fact, Tensor};

/// Number of recipes that [`related_shape`] knows.
pub const RECIPES: i64 = 11;

/// The types that models have.
pub const COMMON: [DType; 7] = [
    DType::F32,
    DType::F64,
    DType::F16,
    DType::I64,
    DType::I32,
    DType::U32,
    DType::Bool,
];

/// Shapes of weights that operations read together with an operand of this shape; symbols count as 1.
pub fn related_shape(r: &mut Rng, first: &Fact, recipe: i64) -> Option<Vec<usize>> {
    let s: Vec<usize> = first
        .shape
        .iter()
        .map(|d| d.as_const().map_or(1, |c| c as usize))
        .collect();
    let small = r.range(1, 6) as usize;
    // Within a node weights mostly follow one recipe: the four vectors of a batch normalization.
    let recipe = if r.chance(85) { recipe } else { r.range(0, RECIPES - 1) };
    let last = s.last().copied();
    Some(match recipe {
        0 => vec![],
        1 => s,
        2 => vec![last?],
        3 => vec![*s.get(1)?],
        4 => vec![last?, small],
        5 => vec![small, last?],
        6 => [s[..s.len().checked_sub(2)?].to_vec(), vec![last?, small]].concat(),
        // Filters of convolutions, full, pointwise and depthwise.
        7 => [
            vec![small, *s.get(1)?],
            s[2..].iter().map(|_| r.range(1, 3) as usize).collect(),
        ]
        .concat(),
        8 => [
            vec![*s.get(1)?, 1],
            s[2..].iter().map(|_| r.range(1, 3) as usize).collect(),
        ]
        .concat(),
        9 => vec![1],
        _ => s.iter().map(|d| if r.chance(50) { 1 } else { *d }).collect(),
    })
}

/// Elements of a shape-like operand, by the name of its attribute.
pub fn shape_like(r: &mut Rng, name: &str, first: Option<&Fact>) -> Option<Vec<Dim>> {
    let shape: &[Dim] = first.map_or(&[], |f| &f.shape);
    let rank = shape.len() as i64;
    let numbers = |r: &mut Rng, n: i64, lo: i64, hi: i64| (0..n).map(|_| Dim::from(r.range(lo, hi))).collect();
    Some(match name {
        "shape" => match r.range(0, 5) {
            0 => vec![Dim::from(-1i64)],
            1 if rank > 0 => vec![Dim::ZERO, Dim::from(-1i64)],
            2 => shape.to_vec(),
            3 => [vec![Dim::from(r.range(1, 3))], shape.to_vec()].concat(),
            // Two axes become one, or one two.
            4 if rank > 1 => {
                let at = r.range(0, rank - 2) as usize;
                let joined = shape[at].clone() * shape[at + 1].clone();
                [&shape[..at], &[joined], &shape[at + 2..]].concat()
            }
            _ => {
                let at = shape.iter().position(|d| d.as_const().is_some_and(|c| c > 1))?;
                let c = shape[at].as_const()?;
                let k = (2..=c).find(|k| c % k == 0)?;
                [&shape[..at], &[Dim::from(c / k), Dim::from(k)], &shape[at + 1..]].concat()
            }
        },
        "axes" if r.chance(30) || rank == 0 => return None,
        "axes" => {
            let mut axes: Vec<i64> = (0..rank).filter(|_| r.chance(50)).collect();
            axes.push(r.range(-rank, rank - 1));
            axes.truncate(2);
            axes.into_iter().map(Dim::from).collect()
        }
        "starts" => {
            let n = if r.chance(50) { 1 } else { rank };
            numbers(r, n, -2, 1)
        }
        "ends" => {
            let n = if r.chance(50) { 1 } else { rank };
            let end = |r: &mut Rng| *r.pick(&[1, 2, 3, -1, i64::MAX]);
            (0..n).map(|_| Dim::from(end(r))).collect()
        }
        "steps" if r.chance(60) => return None,
        "steps" => numbers(r, 1, -1, 2),
        "split" if r.chance(50) => return None,
        "split" => numbers(r, 2, 1, 4),
        "repeats" => numbers(r, rank, 1, 3),
        "pads" => numbers(r, rank * 2, 0, 2),
        "sizes" => numbers(r, rank, 1, 8),
        "k" | "axis" if r.chance(30) => return None,
        "k" | "axis" => numbers(r, 1, -1, 1),
        _ => numbers(r, 1, 1, 6),
    })
}

/// A value for an attribute, by its name; `None` leaves it out.
pub fn attribute(r: &mut Rng, name: &str, def: &AttrDef, rank: i64, inputs: usize) -> Option<Attr> {
    if !def.is_required() && r.chance(50) {
        return None;
    }
    let spatial = (rank - 2).max(0);
    let ints = |r: &mut Rng, n: i64, lo: i64, hi: i64| Attr::Ints((0..n).map(|_| r.range(lo, hi)).collect());
    let word = |r: &mut Rng, words: &[&str]| Attr::Str((*r.pick(words)).into());
    Some(match (name, def) {
        ("epsilon" | "momentum" | "seed" | "stash_type" | "training_mode" | "storage_order" | "saturate", _) => {
            return None;
        }
        ("axis", _) => Attr::Int(r.range(-rank.max(1), rank.max(1) - 1)),
        ("batch_dims" | "k" | "start" | "end", _) => Attr::Int(r.range(0, 2)),
        ("num_groups" | "size" | "blocksize" | "group" | "p" | "num_outputs", _) => Attr::Int(r.range(1, 3)),
        ("mode", _) => word(r, &["constant", "edge", "reflect", "wrap", "DCR", "CRD"]),
        ("approximate", _) => word(r, &["none", "tanh"]),
        ("auto_pad", _) => word(r, &["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
        ("direction", _) => word(r, &["LEFT", "RIGHT"]),
        ("reduction", _) => word(r, &["none", "add", "mul", "min", "max"]),
        ("equation", _) => word(
            r,
            &[
                "ij,jk->ik",
                "bij,bjk->bik",
                "bij->bji",
                "ij->",
                "bhid,bhjd->bhij",
                "i,j->ij",
                "ii->i",
            ],
        ),
        ("perm", _) => {
            let mut p: Vec<i64> = (0..rank).collect();
            for i in (1..p.len()).rev() {
                p.swap(i, r.range(0, i as i64) as usize);
            }
            Attr::Ints(p)
        }
        // Where there is a filter, its shape says it.
        ("kernel_shape", _) if inputs > 1 => return None,
        ("kernel_shape" | "pooled_shape", _) => ints(r, spatial, 1, 3),
        ("strides" | "dilations", _) => ints(r, spatial, 1, 2),
        ("pads", _) => ints(r, spatial * 2, 0, 1),
        ("axes", _) => Attr::Ints((0..rank).filter(|_| r.chance(60)).collect()),
        (_, AttrDef::Int(_)) => Attr::Int(r.range(0, 1)),
        (_, AttrDef::ReqInt) => Attr::Int(r.range(1, 3)),
        (_, AttrDef::Float(_) | AttrDef::OptFloat) => Attr::Float(r.range(1, 8) as f32 / 4.0),
        (_, AttrDef::ReqDType) => Attr::DType(*r.pick(&COMMON)),
        (_, AttrDef::OptTensor | AttrDef::ReqTensor) => Attr::Tensor(Tensor::f32(&[1], [r.normal() as f32])),
        (_, AttrDef::ReqDims) => Attr::Dims(vec![Dim::from(r.range(1, 4))]),
        _ => return None,
    })
}
