//! Reading and writing at positions that come from data.
//!
//! Laws: a position from data is a checked index unless inference knows it and it is in range; then the lowering is a plain
//! affine load. Negative positions count from the end. What inference knows of the data is carried along.

use crate::index::{self, element_count, linear, static_shape, strides};
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid, normalize_axis, unsupported};
use crate::structured::{Binary, Body, Combine, Compute, Expr, ExprId};
use crate::{Bounds, DType, Dim, Fact, Tensor};

use super::movement::required_dims;

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &Gather,
    &GatherElements,
    &GatherNd,
    &super::scatter::ScatterElements,
    &super::scatter::ScatterNd,
    &super::scatter::CUM_SUM,
    &super::scatter::CUM_PROD,
    &super::scatter::Trilu,
    &super::scatter::OneHot,
    &super::sequences::ReverseSequence,
    &super::sequences::TensorScatter,
];

/// The position that `index` names in an axis of extent `d`.
pub(super) fn wrapped(index: i64, d: usize) -> Result<usize, OpError> {
    let at = if index < 0 {
        index.saturating_add(d as i64)
    } else {
        index
    };
    match usize::try_from(at) {
        Ok(a) if a < d => Ok(a),
        _ => invalid(format!("index {index} is out of range for extent {d}")),
    }
}

/// A position read from operand `operand` at `at`, checked against `extent`.
fn checked(b: &mut Body, operand: usize, dtype: DType, at: Vec<Dim>, extent: &Dim) -> Dim {
    let index = b.load(operand, dtype, at);
    let index = b.cast(DType::I64, index);
    Dim::aux(b.push(Expr::CheckedIndex(index, extent.clone())))
}

/// `index` counted from the start, when it is provably within `0..extent`.
fn proven(index: &Dim, extent: &Dim) -> Option<Dim> {
    let b = Bounds::positive(&[]);
    let last = extent.clone() - Dim::ONE;
    [index.clone(), index.clone() + extent.clone()]
        .into_iter()
        .find(|i| b.le(&Dim::ZERO, i) && b.le(i, &last))
}

struct Gather;

impl Gather {
    fn axis(cx: &Cx) -> Result<usize, OpError> {
        normalize_axis(cx.int("axis")?, cx.fact(0)?.rank())
    }

    /// Known positions as one affine map of the indices' iterators.
    fn affine(indices: &Fact, extent: &Dim, it: &[Dim]) -> Option<Dim> {
        let known = indices.known.as_ref()?;
        let at: Option<Vec<Dim>> = known.iter().map(|k| proven(k, extent)).collect();
        match at?.as_slice() {
            [one] => Some(one.clone()),
            list @ [first, second, ..] if it.len() == 1 => {
                let step = second.clone() - first.clone();
                let even = list.windows(2).all(|w| w[1].clone() - w[0].clone() == step);
                even.then(|| first.clone() + it[0].clone() * step)
            }
            _ => None,
        }
    }
}

impl OpDef for Gather {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "Gather",
            "data[.., indices[..], ..] along `axis`",
            &[
                Param::new("data", Types::MOVED),
                Param::new("indices", Types::INDEX).group(0),
            ],
            &[Param::new("output", Types::MOVED)],
            &[("axis", AttrDef::Int(0))],
        );
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, indices, axis) = (cx.fact(0)?, cx.fact(1)?, Self::axis(cx)?);
        let mut shape = x.shape[..axis].to_vec();
        shape.extend_from_slice(&indices.shape);
        shape.extend_from_slice(&x.shape[axis + 1..]);
        let mut out = Fact::new(x.dtype, shape);
        let at: Option<Vec<i64>> = indices.known.iter().flatten().map(Dim::as_const).collect();
        if let (Some(known), Some(from), Some(to), Some(_), Some(at)) =
            (&x.known, x.static_shape(), out.static_shape(), &indices.known, at)
            && element_count(&to).is_some_and(|n| n <= Fact::KNOWN_MAX)
            && element_count(&from) == Some(known.len())
        {
            let ixs = &to[axis..axis + indices.rank()];
            let mut elements = Some(vec![]);
            index::for_each(&to, |ix| {
                let mut source = ix[..axis].to_vec();
                let row = at.get(linear(ixs, &ix[axis..axis + ixs.len()]));
                // A wrong index is reported by `eval` or the run.
                match row.and_then(|i| wrapped(*i, from[axis]).ok()) {
                    Some(i) => source.push(i),
                    None => return elements = None,
                }
                source.extend_from_slice(&ix[axis + ixs.len()..]);
                if let Some(e) = &mut elements {
                    e.push(known[linear(&from, &source)].clone());
                }
            });
            out.known = elements;
        }
        Ok(vec![out])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, indices, axis) = (cx.tensor(0)?, cx.tensor(1)?, Self::axis(cx)?);
        let shape = static_shape(&self.infer(cx)?[0])?;
        let mut rows = vec![];
        for i in indices.to_i64() {
            rows.push(wrapped(i, x.shape()[axis])?);
        }
        let outer: usize = x.shape()[..axis].iter().product();
        let inner = x.shape()[axis + 1..].iter().product::<usize>() * x.dtype().size();
        let mut bytes = Vec::with_capacity(outer * rows.len() * inner);
        for o in 0..outer {
            for r in &rows {
                let at = (o * x.shape()[axis] + r) * inner;
                bytes.extend_from_slice(&x.bytes()[at..][..inner]);
            }
        }
        Tensor::new(x.dtype(), shape, bytes.into())
            .map(|t| vec![t])
            .or_else(|e| invalid(format!("{e:?}")))
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, indices, axis) = (cx.fact(0)?, cx.fact(1)?, Self::axis(cx)?);
        let shape = &self.infer(cx)?[0].shape;
        let compute = Compute::nest(x.dtype, shape, &[], Combine::Add, |b, it, _| {
            let (rows, after) = it[axis..].split_at(indices.rank());
            let extent = &x.shape[axis];
            let row = Self::affine(indices, extent, rows)
                .unwrap_or_else(|| checked(b, 1, indices.dtype, rows.to_vec(), extent));
            let at = it[..axis].iter().cloned().chain([row]).chain(after.iter().cloned());
            (b.load(0, x.dtype, at.collect()), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

struct GatherElements;

impl GatherElements {
    fn axis(cx: &Cx) -> Result<usize, OpError> {
        let (x, indices) = (cx.fact(0)?, cx.fact(1)?);
        let axis = normalize_axis(cx.int("axis")?, x.rank())?;
        within(&x.shape, &indices.shape, axis)?;
        Ok(axis)
    }
}

/// Checks that indices of shape `indices` stay within `data` on the axes that they do not name.
pub(super) fn within(data: &[Dim], indices: &[Dim], axis: usize) -> Result<(), OpError> {
    if data.len() != indices.len() {
        return invalid(format!(
            "data of rank {}, indices of rank {}",
            data.len(),
            indices.len()
        ));
    }
    let bad = |(i, (d, n)): (usize, (&Dim, &Dim))| {
        i != axis && matches!((d.as_const(), n.as_const()), (Some(d), Some(n)) if n > d)
    };
    match data.iter().zip(indices).enumerate().any(bad) {
        true => invalid(format!("indices {indices:?} are larger than the data {data:?}")),
        false => Ok(()),
    }
}

impl OpDef for GatherElements {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "GatherElements",
            "y[i,j,k] = data[i,indices[i,j,k],k] (for axis 1)",
            &[
                Param::new("data", Types::MOVED),
                Param::new("indices", Types::INDEX).group(0),
            ],
            &[Param::new("output", Types::MOVED)],
            &[("axis", AttrDef::Int(0))],
        )
        .since(11);
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::axis(cx)?;
        Ok(vec![Fact::new(cx.fact(0)?.dtype, cx.fact(1)?.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, indices, axis) = (cx.tensor(0)?, cx.tensor(1)?, Self::axis(cx)?);
        let mut rows = vec![];
        for i in indices.to_i64() {
            rows.push(wrapped(i, x.shape()[axis])?);
        }
        let mut next = rows.into_iter();
        Ok(vec![x.rearranged(indices.shape(), None, |ix| {
            let mut at = ix.to_vec();
            at[axis] = next.next()?;
            Some(linear(x.shape(), &at))
        })])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, indices, axis) = (cx.fact(0)?, cx.fact(1)?, Self::axis(cx)?);
        let compute = Compute::nest(x.dtype, &indices.shape, &[], Combine::Add, |b, it, _| {
            let mut at = it.to_vec();
            at[axis] = checked(b, 1, indices.dtype, it.to_vec(), &x.shape[axis]);
            (b.load(0, x.dtype, at), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

struct GatherNd;

impl GatherNd {
    /// Batch axes and axes that an index names.
    fn split(cx: &Cx) -> Result<(usize, usize), OpError> {
        let (x, indices) = (cx.fact(0)?, cx.fact(1)?);
        let batch = cx.int("batch_dims")?;
        let Some(named) = indices.shape.last() else {
            return invalid("indices are a scalar");
        };
        let Some(named) = named.as_const() else {
            return unsupported("the last extent of the indices must be known");
        };
        let (rank, irank) = (x.rank() as i64, indices.rank() as i64);
        if batch < 0 || batch >= irank || named < 1 || named > rank - batch {
            return invalid(format!("{batch} batch axes and {named} named ones of {rank}"));
        }
        Ok((batch as usize, named as usize))
    }
}

impl OpDef for GatherNd {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "GatherND",
            "the last axis of the indices names positions in the data after `batch_dims` common axes",
            &[
                Param::new("data", Types::MOVED),
                Param::new("indices", Types::I64).group(0),
            ],
            &[Param::new("output", Types::MOVED)],
            &[("batch_dims", AttrDef::Int(0))],
        )
        .limits(&["the last extent of `indices` must be known"])
        .since(11);
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, indices) = (cx.fact(0)?, cx.fact(1)?);
        let (batch, named) = Self::split(cx)?;
        for (a, b) in x.shape[..batch].iter().zip(&indices.shape) {
            if matches!((a.as_const(), b.as_const()), (Some(a), Some(b)) if a != b) {
                return invalid(format!("batch extents {a} and {b}"));
            }
        }
        let mut shape = indices.shape[..indices.rank() - 1].to_vec();
        shape.extend_from_slice(&x.shape[batch + named..]);
        Ok(vec![Fact::new(x.dtype, shape)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, indices) = (cx.tensor(0)?, cx.tensor(1)?);
        let (batch, named) = Self::split(cx)?;
        let shape = static_shape(&self.infer(cx)?[0])?;
        let outer = indices.shape().len() - 1;
        let places = indices.to_i64();
        let steps = strides(x.shape());
        let mut failed = None;
        let out = x.rearranged(&shape, None, |ix| {
            let first = linear(&indices.shape()[..outer], &ix[..outer]) * named;
            let mut at: usize = ix[..batch].iter().zip(&steps).map(|(i, s)| i * s).sum();
            for k in 0..named {
                match wrapped(places[first + k], x.shape()[batch + k]) {
                    Ok(i) => at += i * steps[batch + k],
                    Err(e) => {
                        failed = Some(e);
                        return None;
                    }
                }
            }
            Some(
                at + ix[outer..]
                    .iter()
                    .zip(&steps[batch + named..])
                    .map(|(i, s)| i * s)
                    .sum::<usize>(),
            )
        });
        failed.map_or(Ok(vec![out]), Err)
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, indices) = (cx.fact(0)?, cx.fact(1)?);
        let (batch, named) = Self::split(cx)?;
        let shape = &self.infer(cx)?[0].shape;
        let outer = indices.rank() - 1;
        let compute = Compute::nest(x.dtype, shape, &[], Combine::Add, |b, it, _| {
            let mut at = it[..batch].to_vec();
            for k in 0..named {
                let mut place = it[..outer].to_vec();
                place.push(Dim::from(k));
                at.push(checked(b, 1, indices.dtype, place, &x.shape[batch + k]));
            }
            at.extend_from_slice(&it[outer..]);
            (b.load(0, x.dtype, at), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

/// A comparison of an index with an index.
pub(super) fn compare(b: &mut Body, op: Binary, x: Dim, y: Dim) -> ExprId {
    let x = b.push(Expr::Index(x));
    let y = b.push(Expr::Index(y));
    b.binary(op, x, y)
}

pub(super) fn need_axis(cx: &Cx, input: usize, rank: usize) -> Result<usize, OpError> {
    match required_dims(cx, input)?.as_slice() {
        [one] => match one.as_const() {
            Some(a) => normalize_axis(a, rank),
            None => unsupported("a symbolic axis"),
        },
        list => invalid(format!("{} axes where one is wanted", list.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::op::Arg;
    use crate::ops::samples::sample;
    use crate::{Attr, Attrs, Graph, Op};

    fn numbers(dtype: DType, shape: &[usize]) -> Tensor {
        sample(dtype, shape, 1).expect("always")
    }

    fn axis(a: i64) -> (&'static str, Attr) {
        ("axis", Attr::Int(a))
    }

    #[test]
    fn eval_equals_loops() {
        for t in [DType::F32, DType::I64, DType::Bool, DType::F16] {
            let x = || Some(numbers(t, &[3, 4, 2]));
            check(
                "Gather",
                &[axis(1)],
                &[x(), Some(Tensor::i64(&[2, 2], [0, -1, 3, 1]))],
                1,
            );
            check("Gather", &[axis(-1)], &[x(), Some(Tensor::i64(&[], [1]))], 1);
            check(
                "Gather",
                &[],
                &[x(), Some(Tensor::from_i64(DType::I32, &[3], [0, 1, 2]))],
                1,
            );
            let places = Some(Tensor::i64(&[2, 1, 2], [0, 3, -1, 2]));
            check("GatherElements", &[axis(1)], &[x(), places], 1);
            check("GatherND", &[], &[x(), Some(Tensor::i64(&[2, 2], [0, 1, -1, 3]))], 1);
            let batched = Some(Tensor::i64(&[3, 1, 1], [0, 1, -4]));
            check("GatherND", &[("batch_dims", Attr::Int(1))], &[x(), batched], 1);
        }
        check(
            "Gather",
            &[],
            &[Some(Tensor::i64(&[3], [5, 6, 7])), Some(Tensor::i64(&[1], [-1]))],
            1,
        );
    }

    #[test]
    fn shapes_stay_known() {
        let mut g = Graph::new("t");
        let s = Dim::sym("S");
        let shape = g.add_input(
            "x",
            Fact::with_known(DType::I64, vec![Dim::from(2usize)], vec![Dim::ONE, s.clone()]),
        );
        let i = g.add_weight("i", Tensor::i64(&[], [1]));
        let y = g.apply("Gather", &[], &[shape, i]).expect("legal");
        assert_eq!(g.fact(y).known, Some(vec![s]));
    }

    #[test]
    fn known_indices_are_affine() {
        let lowered = |extent: Dim, indices: &[i64], scalar: bool| {
            let x = Fact::new(DType::F32, vec![extent, Dim::from(8usize)]);
            let shape: &[usize] = if scalar { &[] } else { &[indices.len()] };
            let i = Tensor::i64(shape, indices.iter().copied()).fact();
            let args = [&x, &i].map(|fact| Some(Arg { fact, constant: None }));
            let (op, attrs) = (Op::find("Gather").expect("there"), Attrs::new());
            let cx = Cx {
                schema: op.schema(),
                attrs: &attrs,
                inputs: &args,
                outputs: 1,
            };
            match op.0.lower(&cx).expect("legal") {
                Lowering::Compute(c) => c[0].as_movement().map(|(_, ix)| format!("{ix:?}")).unwrap_or_default(),
                _ => String::new(),
            }
        };
        assert_eq!(lowered(Dim::from(5usize), &[-2], true), "[3, $i0]");
        assert_eq!(lowered(Dim::sym("S"), &[0], true), "[0, $i0]");
        assert_eq!(lowered(Dim::sym("S"), &[-1], true), "[S-1, $i0]");
        assert_eq!(lowered(Dim::from(9usize), &[1, 3, 5], false), "[2*$i0+1, $i1]");
        assert!(lowered(Dim::sym("S"), &[7], true).contains("$x"), "may be out of range");
    }

    #[test]
    fn wrong_indices_are_refused() {
        let inputs = [Tensor::i64(&[3], [5, 6, 7]), Tensor::i64(&[1], [3])];
        let facts: Vec<Fact> = inputs.iter().map(Tensor::fact).collect();
        let args: Vec<_> = facts
            .iter()
            .zip(&inputs)
            .map(|(fact, t)| {
                Some(Arg {
                    fact,
                    constant: Some(t),
                })
            })
            .collect();
        let (op, attrs) = (Op::find("Gather").expect("there"), Attrs::new());
        let cx = Cx {
            schema: op.schema(),
            attrs: &attrs,
            inputs: &args,
            outputs: 1,
        };
        assert!(op.0.eval(&cx).is_err());
        let known = op.0.infer(&cx).expect("inference does not look at values");
        assert_eq!(known[0].known, None);
    }
}
