//! Joining, cutting and permuting blocks of tensors along axes.
//!
//! Laws: a join lowers to one plain copy per input and a cut to one per output, each an affine map, so that producers can
//! write, and consumers read, in place.

use crate::index::{self, agree, element_count, linear, static_shape};
use crate::op::{Attr, AttrDef, Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid, normalize_axis};
use crate::structured::{Combine, Compute};
use crate::{Dim, Fact, Tensor};

use super::fragment::Fragment;

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &Concat,
    &Split,
    &super::pad::Pad,
    &super::center::CenterCropPad,
    &DepthToSpace,
    &SpaceToDepth,
];

/// Elements that follow from known elements by `source`, for small results.
pub(super) fn carry(out: &mut Fact, mut element: impl FnMut(&[usize]) -> Option<Dim>) {
    let Some(shape) = out.static_shape() else { return };
    let most = if out.dtype.is_float() {
        Fact::REALS_MAX
    } else {
        Fact::KNOWN_MAX
    };
    if element_count(&shape).is_none_or(|n| n > most) {
        return;
    }
    let mut known = Some(vec![]);
    index::for_each(&shape, |ix| {
        let e = element(ix);
        known = known.take().and_then(|mut k| {
            k.push(e?);
            Some(k)
        });
    });
    out.known = known;
}

/// A known element of a fact with static shape, of these floats where it is one of them.
fn known_at(f: &Fact, reals: Option<&Vec<Dim>>, ix: &[usize]) -> Option<Dim> {
    let elements = reals.or(f.known.as_ref())?;
    elements.get(linear(&f.static_shape()?, ix)).cloned()
}

struct Concat;

impl Concat {
    fn axis(cx: &Cx) -> Result<usize, OpError> {
        normalize_axis(cx.int("axis")?, cx.fact(0)?.rank())
    }
}

impl OpDef for Concat {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "Concat",
            "the inputs one after another along `axis`",
            &[Param::new("inputs", Types::MOVED).variadic()],
            &[Param::new("output", Types::MOVED)],
            &[("axis", AttrDef::ReqInt)],
        );
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (facts, axis) = (cx.facts()?, Self::axis(cx)?);
        let mut shape = facts[0].shape.clone();
        for f in &facts[1..] {
            if f.rank() != shape.len() {
                return invalid(format!("ranks {} and {} in one join", shape.len(), f.rank()));
            }
            for (i, (o, d)) in shape.iter_mut().zip(&f.shape).enumerate() {
                match (o.as_const(), d.as_const()) {
                    _ if i == axis => *o = o.clone() + d.clone(),
                    (Some(a), Some(b)) if a != b => {
                        return invalid(format!("extents {a} and {b} of axis {i} in one join"));
                    }
                    (None, Some(_)) => *o = d.clone(),
                    _ => {}
                }
            }
        }
        let mut out = Fact::new(facts[0].dtype, shape);
        let lengths: Option<Vec<usize>> = facts.iter().map(|f| f.static_shape().map(|s| s[axis])).collect();
        // Constants alone are folded.
        let lengths = lengths.filter(|_| facts.iter().any(|f| f.known.is_some()));
        if let Some(lengths) = lengths {
            let reals: Vec<Option<Vec<Dim>>> = (0..facts.len()).map(|i| cx.reals(i)).collect();
            carry(&mut out, |ix| {
                let mut ix = ix.to_vec();
                for ((f, n), reals) in facts.iter().zip(&lengths).zip(&reals) {
                    match ix[axis].checked_sub(*n) {
                        Some(rest) => ix[axis] = rest,
                        None => return known_at(f, reals.as_ref(), &ix),
                    }
                }
                None
            });
        }
        Ok(vec![out])
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let (out, axis) = (&self.infer(cx)?[0], Self::axis(cx)?);
        let others = cx
            .facts()?
            .into_iter()
            .flat_map(|f| f.shape.iter().zip(&out.shape).enumerate());
        let others = others.filter(|(i, _)| *i != axis);
        Ok(others.flat_map(|(_, (d, o))| agree(d, o)).collect())
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let fact = &self.infer(cx)?[0];
        let (shape, axis) = (static_shape(fact)?, Self::axis(cx)?);
        let outer: usize = shape[..axis].iter().product();
        let mut bytes = vec![];
        for o in 0..outer {
            for i in 0..cx.inputs.len() {
                let t = cx.tensor(i)?;
                let row = t.bytes().len() / outer;
                bytes.extend_from_slice(&t.bytes()[o * row..][..row]);
            }
        }
        Tensor::new(fact.dtype, shape, bytes.into())
            .map(|t| vec![t])
            .or_else(|e| invalid(format!("{e:?}")))
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (facts, axis) = (cx.facts()?, Self::axis(cx)?);
        let mut parts = vec![];
        let mut offset = Dim::ZERO;
        for (k, f) in facts.into_iter().enumerate() {
            if !f.shape[axis].is_zero() {
                parts.push(Compute::nest(f.dtype, &f.shape, &[], Combine::Add, |b, it, _| {
                    let mut store = it.to_vec();
                    store[axis] = store[axis].clone() + offset.clone();
                    (b.load(k, f.dtype, it.to_vec()), store)
                }));
            }
            offset = offset + f.shape[axis].clone();
        }
        Ok(Lowering::Compute(parts))
    }
}

struct Split;

impl Split {
    /// The axis and the extent of each output along it.
    fn pieces(cx: &Cx) -> Result<(usize, Vec<Dim>), OpError> {
        let x = cx.fact(0)?;
        let axis = normalize_axis(cx.int("axis")?, x.rank())?;
        let whole = &x.shape[axis];
        if let Some(pieces) = cx.dims(1)? {
            let sum = pieces.iter().fold(Dim::ZERO, |a, d| a + d.clone());
            let negative = pieces.iter().filter_map(Dim::as_const).any(|c| c < 0);
            if negative
                || pieces.len() != cx.outputs
                || (sum.clone() - whole.clone()).as_const().is_some_and(|c| c != 0)
            {
                return invalid(format!("an axis of {whole} does not split into {pieces:?}"));
            }
            return Ok((axis, pieces));
        }
        let n = cx.opt_int("num_outputs")?.unwrap_or(cx.outputs as i64);
        if n < 1 || n as usize != cx.outputs {
            return invalid(format!("{n} pieces for {} outputs", cx.outputs));
        }
        let piece = whole.ceil_div(&Dim::from(n));
        let last = whole.clone() - piece.clone() * Dim::from(n - 1);
        // `last` may be negative where the axis is shorter than the pieces want; such a split has no meaning.
        if last.as_const().is_some_and(|c| c < 0) {
            return invalid(format!("an axis of {whole} does not split into {n} pieces"));
        }
        let mut pieces = vec![piece; cx.outputs - 1];
        pieces.push(last);
        Ok((axis, pieces))
    }
}

impl OpDef for Split {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "Split",
            "pieces of `axis`, of extents `split` or `num_outputs` equal ones with a smaller last",
            &[
                Param::new("input", Types::MOVED),
                Param::new("split", Types::I64).shape_like("split").optional(),
            ],
            &[Param::new("outputs", Types::MOVED).variadic()],
            &[("axis", AttrDef::Int(0)), ("num_outputs", AttrDef::OptInt)],
        );
        &SCHEMA
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let (axis, pieces) = Self::pieces(cx)?;
        if !pieces.iter().any(Dim::has_elements) {
            return Ok(vec![]);
        }
        // The pieces that a run reads are all of the axis.
        let whole = cx.fact(0)?.shape[axis].clone();
        let sum = pieces.iter().fold(Dim::ZERO, |a, d| a + d.clone());
        let each = pieces.into_iter().map(|d| (Dim::ZERO, d));
        Ok(each.chain([(whole.clone(), sum.clone()), (sum, whole)]).collect())
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let x = cx.fact(0)?;
        let (axis, pieces) = Self::pieces(cx)?;
        let mut offset = Some(0usize);
        let mut out = vec![];
        for p in pieces {
            let mut shape = x.shape.clone();
            shape[axis] = p.clone();
            let mut fact = Fact::new(x.dtype, shape);
            if let Some(offset) = offset {
                carry(&mut fact, |ix| {
                    let mut ix = ix.to_vec();
                    ix[axis] += offset;
                    known_at(x, None, &ix)
                });
            }
            offset = offset.zip(p.as_const()).map(|(o, p)| o + p as usize);
            out.push(fact);
        }
        Ok(out)
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let (axis, pieces) = Self::pieces(cx)?;
        let mut offset = 0;
        let mut out = vec![];
        for p in pieces {
            let mut fact = Fact::new(x.dtype(), cx.fact(0)?.shape.clone());
            fact.shape[axis] = p;
            let shape = static_shape(&fact)?;
            out.push(x.rearranged(&shape, None, |ix| {
                let mut ix = ix.to_vec();
                ix[axis] += offset;
                Some(linear(x.shape(), &ix))
            }));
            offset += shape[axis];
        }
        Ok(out)
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let x = cx.fact(0)?;
        let (axis, pieces) = Self::pieces(cx)?;
        let mut offset = Dim::ZERO;
        let mut parts = vec![];
        for (k, p) in pieces.into_iter().enumerate() {
            let mut shape = x.shape.clone();
            shape[axis] = p.clone();
            let mut part = Compute::nest(x.dtype, &shape, &[], Combine::Add, |b, it, _| {
                let mut index = it.to_vec();
                index[axis] = index[axis].clone() + offset.clone();
                (b.load(0, x.dtype, index), it.to_vec())
            });
            part.output = k;
            parts.push(part);
            offset = offset + p;
        }
        Ok(Lowering::Compute(parts))
    }
}

/// Input `[N,C,H,W]`, the block size and the output shape of the two block permutations.
fn block_shape(cx: &Cx, to_space: bool) -> Result<(Vec<Dim>, Dim, Vec<Dim>), OpError> {
    let x = &cx.fact(0)?.shape;
    let [n, c, h, w] = x.as_slice() else {
        return invalid(format!("rank {} where N, C, H, W is wanted", x.len()));
    };
    let size = cx.int("blocksize")?;
    // Larger blocks would overflow the extents.
    if !(1..=1 << 20).contains(&size) {
        return invalid(format!("block size {size}"));
    }
    let b = Dim::from(size);
    let divided = |d: &Dim, by: &Dim| match (d.div_exact(by), d.as_const()) {
        (Some(q), _) => Ok(q),
        (None, Some(_)) => invalid(format!("extent {d} is no multiple of {by}")),
        (None, None) => Ok(d.floor_div(by)),
    };
    let square = b.clone() * b.clone();
    let out = if to_space {
        vec![
            n.clone(),
            divided(c, &square)?,
            h.clone() * b.clone(),
            w.clone() * b.clone(),
        ]
    } else {
        vec![n.clone(), c.clone() * square, divided(h, &b)?, divided(w, &b)?]
    };
    Ok((x.clone(), b, out))
}

/// Reshape, Transpose, Reshape.
fn shuffled(cx: &Cx, apart: Vec<Dim>, perm: &[i64], out: Vec<Dim>) -> Result<Lowering, OpError> {
    let mut g = Fragment::new(cx);
    let x = g.required(cx, 0)?;
    let exactly = |shape| [("shape", Attr::Dims(shape)), ("allowzero", Attr::Int(1))];
    let x = g.apply("Reshape", &exactly(apart), &[x])?;
    let x = g.apply("Transpose", &[("perm", Attr::Ints(perm.to_vec()))], &[x])?;
    let x = g.apply("Reshape", &exactly(out), &[x])?;
    Ok(g.finish(&[x]))
}

/// Whether the block offsets are the outer part of the channel (`DCR`, else `CRD`).
fn depth_first(cx: &Cx) -> Result<bool, OpError> {
    match cx.str("mode")? {
        "DCR" => Ok(true),
        "CRD" => Ok(false),
        _ => cx.bad("mode"),
    }
}

const ATTRS: &[(&str, AttrDef)] = &[
    ("blocksize", AttrDef::ReqInt),
    ("mode", AttrDef::OneOf(&["DCR", "CRD"])),
];

struct DepthToSpace;

impl OpDef for DepthToSpace {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "DepthToSpace",
            "channels become blocks of `blocksize` x `blocksize` pixels",
            &[Param::new("input", Types::ANY)],
            &[Param::new("output", Types::ANY)],
            ATTRS,
        );
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        depth_first(cx)?;
        Ok(vec![Fact::new(cx.fact(0)?.dtype, block_shape(cx, true)?.2)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let shape = static_shape(&self.infer(cx)?[0])?;
        let (b, first) = (cx.int("blocksize")? as usize, depth_first(cx)?);
        Ok(vec![x.rearranged(&shape, None, |ix| {
            let (in_y, in_x) = (ix[2] % b, ix[3] % b);
            let c = if first {
                (in_y * b + in_x) * shape[1] + ix[1]
            } else {
                (ix[1] * b + in_y) * b + in_x
            };
            Some(linear(x.shape(), &[ix[0], c, ix[2] / b, ix[3] / b]))
        })])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, b, out) = block_shape(cx, true)?;
        let [n, c, h, w] = [&x[0], &out[1], &x[2], &x[3]].map(Clone::clone);
        let (apart, perm) = if depth_first(cx)? {
            (vec![n, b.clone(), b, c, h, w], [0, 3, 4, 1, 5, 2])
        } else {
            (vec![n, c, b.clone(), b, h, w], [0, 1, 4, 2, 5, 3])
        };
        shuffled(cx, apart, &perm, out)
    }
}

struct SpaceToDepth;

impl OpDef for SpaceToDepth {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "SpaceToDepth",
            "blocks of `blocksize` x `blocksize` pixels become channels",
            &[Param::new("input", Types::ANY)],
            &[Param::new("output", Types::ANY)],
            ATTRS,
        );
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        depth_first(cx)?;
        Ok(vec![Fact::new(cx.fact(0)?.dtype, block_shape(cx, false)?.2)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let shape = static_shape(&self.infer(cx)?[0])?;
        let (b, channels, first) = (cx.int("blocksize")? as usize, x.shape()[1], depth_first(cx)?);
        Ok(vec![x.rearranged(&shape, None, |ix| {
            let (offset, c) = match first {
                true => (ix[1] / channels, ix[1] % channels),
                false => (ix[1] % (b * b), ix[1] / (b * b)),
            };
            let at = [ix[0], c, ix[2] * b + offset / b, ix[3] * b + offset % b];
            Some(linear(x.shape(), &at))
        })])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, b, out) = block_shape(cx, false)?;
        let [n, c, h, w] = [&x[0], &x[1], &out[2], &out[3]].map(Clone::clone);
        let perm = if depth_first(cx)? {
            [0, 3, 5, 1, 2, 4]
        } else {
            [0, 1, 3, 5, 2, 4]
        };
        shuffled(cx, vec![n, c, h, b.clone(), w, b], &perm, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::ops::samples::sample;
    use crate::{DType, Graph};

    fn numbers(dtype: DType, shape: &[usize]) -> Tensor {
        sample(dtype, shape, 1).expect("always")
    }

    fn ints(v: &[i64]) -> Option<Tensor> {
        Some(Tensor::i64(&[v.len()], v.iter().copied()))
    }

    #[test]
    fn joins() {
        for (t, axis) in [(DType::F32, 1), (DType::I64, -2), (DType::Bool, 1), (DType::F16, 1)] {
            let x = |n| Some(numbers(t, &[2, n, 3]));
            check("Concat", &[("axis", Attr::Int(axis))], &[x(1), x(4), x(0), x(2)], 1);
        }
        check("Concat", &[("axis", Attr::Int(0))], &[ints(&[3, 4]), ints(&[5])], 1);
        let mut g = Graph::new("t");
        let (a, b) = (Dim::sym("A"), Dim::sym("B"));
        let u = g.add_input("u", Fact::with_known(DType::I64, vec![Dim::ONE], vec![a.clone()]));
        let v = g.add_input("v", Fact::with_known(DType::I64, vec![Dim::ONE], vec![b.clone()]));
        let y = g.apply("Concat", &[("axis", Attr::Int(0))], &[u, v, u]).expect("legal");
        assert_eq!(g.fact(y).known, Some(vec![a.clone(), b, a]));
        let x = g.add_input("x", Fact::new(DType::I64, vec![Dim::ONE, Dim::ONE]));
        assert!(g.apply("Concat", &[("axis", Attr::Int(0))], &[u, x]).is_err());
    }

    #[test]
    fn cuts() {
        let x = || Some(numbers(DType::F32, &[2, 7]));
        check("Split", &[("axis", Attr::Int(1))], &[x(), ints(&[3, 0, 4])], 3);
        check(
            "Split",
            &[("axis", Attr::Int(-1)), ("num_outputs", Attr::Int(3))],
            &[x(), None],
            3,
        );
        check("Split", &[], &[x()], 2);
        check("Split", &[], &[ints(&[5, 6, 7, 8])], 2);
        let mut g = Graph::new("t");
        let x = g.add_input("x", Fact::new(DType::F32, vec![Dim::from(7i64)]));
        assert!(g.apply("Split", &[("split", Attr::Ints(vec![6]))], &[x]).is_err());
    }

    #[test]
    fn blocks() {
        let x = || Some(numbers(DType::F32, &[2, 8, 2, 3]));
        for mode in ["DCR", "CRD"] {
            let attrs = [("blocksize", Attr::Int(2)), ("mode", Attr::Str(mode.into()))];
            check("DepthToSpace", &attrs, &[x()], 1);
            check("SpaceToDepth", &attrs, &[numbers(DType::I32, &[1, 3, 4, 6]).into()], 1);
        }
    }
}
