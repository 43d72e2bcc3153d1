//! Rearrangements of one tensor: every output element is one input element.
//!
//! Laws: each operation lowers to a single plain load whose index map is as affine as it can be, so that consumers absorb
//! it; each carries known elements along, so that shape arithmetic stays symbolic.

use crate::index::{broadcast_index, broadcast_shape, broadcasts_to, element_count, joins, static_shape, strides};
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid, normalize_axis};
use crate::structured::{Combine, Compute};
use crate::{Dim, Fact, Tensor};

use super::chosen::{by_length, whole};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &super::reshape::RESHAPE,
    &TRANSPOSE,
    &super::reshape::SQUEEZE,
    &super::reshape::UNSQUEEZE,
    &super::reshape::FLATTEN,
    &EXPAND,
    &super::slice::SLICE,
    &super::slice::CUT,
    &TILE,
    &FIT,
    &super::chosen::APART,
    &super::chosen::MEMBER,
    &super::chosen::MOVED,
];

/// The linear input position of an output index.
pub(super) type Source = Box<dyn Fn(&[usize]) -> usize>;

/// A rearrangement as data.
pub(super) struct View {
    pub schema: &'static Schema,
    /// The output's shape.
    pub shape: fn(&Cx) -> Result<Vec<Dim>, OpError>,
    /// From concrete input and output shapes.
    pub source: fn(&Cx, &[usize], &[usize]) -> Result<Source, OpError>,
    /// Input index from input shape, output shape and output iterators.
    pub index: fn(&Cx, &[Dim], &[Dim], &[Dim]) -> Result<Vec<Dim>, OpError>,
    /// As [`OpDef::rules`].
    pub rules: fn(&Cx) -> Result<Vec<Rule>, OpError>,
}

/// Where shapes say everything.
pub(super) const NO_RULES: fn(&Cx) -> Result<Vec<Rule>, OpError> = |_| Ok(vec![]);

impl OpDef for View {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let x = cx.fact(0)?;
        let mut out = Fact::new(x.dtype, (self.shape)(cx)?);
        if let (Some(known), Some(from), Some(to)) = (&x.known, x.static_shape(), out.static_shape())
            && element_count(&to).is_some_and(|n| n <= Fact::KNOWN_MAX)
            && element_count(&from) == Some(known.len())
        {
            let source = (self.source)(cx, &from, &to)?;
            let mut elements = vec![];
            crate::index::for_each(&to, |ix| elements.push(known[source(ix)].clone()));
            out.known = Some(elements);
        }
        Ok(vec![out])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let broken = |(a, b): &Rule| matches!((a.as_const(), b.as_const()), (Some(a), Some(b)) if a > b);
        if let Some((a, b)) = (self.rules)(cx)?.iter().find(|rule| broken(rule)) {
            return invalid(format!("{a} must not be above {b}"));
        }
        let shape = static_shape(&Fact::new(x.dtype(), (self.shape)(cx)?))?;
        let source = (self.source)(cx, x.shape(), &shape)?;
        Ok(vec![x.rearranged(&shape, None, |ix| Some(source(ix)))])
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        (self.rules)(cx)
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let x = cx.fact(0)?;
        let shape = (self.shape)(cx)?;
        let mut refused = None;
        let compute = Compute::nest(x.dtype, &shape, &[], Combine::Add, |b, it, _| {
            let index = (self.index)(cx, &x.shape, &shape, it).unwrap_or_else(|e| {
                refused = Some(e);
                vec![Dim::ZERO; x.rank()]
            });
            (b.load(0, x.dtype, index), it.to_vec())
        });
        refused.map_or(Ok(Lowering::Compute(vec![compute])), Err)
    }
}

pub(super) const DATA: Param = Param::new("data", Types::MOVED);
pub(super) const OUT: &[Param] = &[Param::new("output", Types::MOVED)];

/// The elements of a shape-like input that must be given.
pub(super) fn required_dims(cx: &Cx, input: usize) -> Result<Vec<Dim>, OpError> {
    let name = cx.schema.input(input).map_or("?", |p| p.name);
    cx.dims(input)?
        .map_or_else(|| invalid(format!("input {input} ({name}) is missing")), Ok)
}

/// The axes that a shape-like input lists, from the start, without repeats.
pub(super) fn axes_of(list: &[i64], rank: usize) -> Result<Vec<usize>, OpError> {
    let mut axes = vec![];
    for a in list {
        let a = normalize_axis(*a, rank)?;
        if axes.contains(&a) {
            return invalid(format!("axis {a} is listed twice"));
        }
        axes.push(a);
    }
    Ok(axes)
}

const TRANSPOSE: View = View {
    schema: &Schema::new(
        "Transpose",
        "axis i of the output is axis perm[i] of the input; reversed by default",
        &[DATA],
        OUT,
        &[("perm", AttrDef::OptInts)],
    ),
    shape: |cx| {
        let x = &cx.fact(0)?.shape;
        Ok(permutation(cx)?.into_iter().map(|p| x[p].clone()).collect())
    },
    source: |cx, from, _| {
        let perm = permutation(cx)?;
        let strides = strides(from);
        Ok(Box::new(move |ix| {
            perm.iter().zip(ix).map(|(p, i)| strides[*p] * i).sum()
        }))
    },
    index: |cx, from, _, it| {
        let mut index = vec![Dim::ZERO; from.len()];
        for (p, i) in permutation(cx)?.into_iter().zip(it) {
            index[p] = i.clone();
        }
        Ok(index)
    },
    rules: NO_RULES,
};

fn permutation(cx: &Cx) -> Result<Vec<usize>, OpError> {
    let rank = cx.fact(0)?.rank();
    match cx.opt_ints("perm")? {
        None => Ok((0..rank).rev().collect()),
        Some(perm) if perm.len() == rank => axes_of(&perm, rank),
        Some(perm) => invalid(format!("attribute `perm` is {perm:?} for rank {rank}")),
    }
}

const EXPAND: View = View {
    schema: &Schema::new(
        "Expand",
        "broadcast with `shape`",
        &[DATA, Param::new("shape", Types::I64).shape_like("shape")],
        OUT,
        &[],
    )
    .since(8),
    shape: |cx| {
        let shape = match cx.open_dims(1)? {
            Some((list, Some(length))) => aligned(&list, &length),
            _ => required_dims(cx, 1)?,
        };
        if let Some(c) = shape.iter().filter_map(Dim::as_const).find(|c| *c < 0) {
            return invalid(format!("extent {c}"));
        }
        broadcast_shape(&[&cx.fact(0)?.shape, &shape])
    },
    source: |_, from, _| {
        let from = from.to_vec();
        Ok(Box::new(move |ix| crate::index::broadcast_linear(&from, ix)))
    },
    index: |_, from, to, it| Ok(broadcast_index(from, to, it)),
    rules: |cx| {
        let (shape, mut rules) = match cx.open_dims(1)? {
            Some((list, Some(length))) => {
                let fits = (length.clone(), Dim::from(list.len()));
                let each = list.iter().map(|d| (Dim::ZERO, d.clone()));
                (aligned(&list, &length), each.chain([fits]).collect::<Vec<_>>())
            }
            _ => (required_dims(cx, 1)?, vec![]),
        };
        // A number that a run reads is 1 or the extent, where that is a number.
        let pairs = cx.fact(0)?.shape.iter().rev().zip(shape.into_iter().rev());
        for (d, s) in pairs.filter(|(d, s)| s.has_elements() && d.as_const().is_some_and(|d| d > 1)) {
            let more = (s.clone() - Dim::ONE).maximum(&Dim::ZERO).minimum(&Dim::ONE);
            rules.extend([(Dim::ONE, s.clone()), (s.clone(), d.clone()), (d.clone() * more, s)]);
        }
        let to = (EXPAND.shape)(cx)?;
        rules.extend(joins(&cx.fact(0)?.shape, &to));
        Ok(rules)
    },
};

/// A shape of which only a run knows how many of the last axes it has: 1 before them.
fn aligned(list: &[Dim], length: &Dim) -> Vec<Dim> {
    let most = list.len();
    let extent = |i: usize| {
        by_length(length, most, |n| {
            (i + n).checked_sub(most).map_or(Dim::ONE, |k| list[k].clone())
        })
    };
    (0..most).map(extent).map(whole).collect()
}

/// [`EXPAND`] where `shape` is the result's, whatever the symbols are.
const FIT: View = View {
    schema: &Schema::new(
        "cameo::Fit",
        "broadcast to `shape`, which it must not widen",
        &[DATA],
        OUT,
        &[("shape", AttrDef::ReqDims)],
    ),
    shape: |cx| {
        let shape = cx.dim_list("shape")?;
        broadcasts_to(&cx.fact(0)?.shape, &shape)?;
        Ok(shape)
    },
    source: EXPAND.source,
    index: EXPAND.index,
    rules: |cx| broadcasts_to(&cx.fact(0)?.shape, &cx.dim_list("shape")?),
};

const TILE: View = View {
    schema: &Schema::new(
        "Tile",
        "axis i repeated repeats[i] times",
        &[DATA, Param::new("repeats", Types::I64).shape_like("repeats")],
        OUT,
        &[],
    ),
    shape: |cx| {
        let (x, repeats) = (&cx.fact(0)?.shape, required_dims(cx, 1)?);
        if repeats.len() != x.len() {
            return invalid(format!("{} repeats for rank {}", repeats.len(), x.len()));
        }
        if let Some(c) = repeats.iter().filter_map(Dim::as_const).find(|c| *c < 0) {
            return invalid(format!("{c} repeats"));
        }
        Ok(x.iter().zip(repeats).map(|(d, r)| d.clone() * r).collect())
    },
    source: |_, from, _| {
        let from = from.to_vec();
        Ok(Box::new(move |ix| {
            from.iter().zip(ix).fold(0, |a, (d, i)| a * d + i % (*d).max(1))
        }))
    },
    index: |_, from, to, it| {
        let axes = from.iter().zip(to).zip(it);
        Ok(axes
            .map(|((d, o), i)| match d {
                d if d == o => i.clone(),
                d if d.is_one() => Dim::ZERO,
                // Nothing divides by the extent where there are no elements.
                d => i.modulo(&d.maximum(&Dim::ONE)),
            })
            .collect())
    },
    rules: NO_RULES,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::ops::samples::sample;
    use crate::{Attr, Attrs, DType};

    fn numbers(dtype: DType, shape: &[usize]) -> Tensor {
        sample(dtype, shape, 1).expect("always")
    }

    fn ints(v: &[i64]) -> Tensor {
        Tensor::i64(&[v.len()], v.iter().copied())
    }

    #[test]
    fn values() {
        let run = |op: &str, attrs: Attrs, inputs: &[Tensor]| {
            let facts: Vec<Fact> = inputs.iter().map(Tensor::fact).collect();
            let args = facts.iter().zip(inputs);
            let args: Vec<_> = args
                .map(|(fact, t)| {
                    Some(crate::op::Arg {
                        fact,
                        constant: Some(t),
                    })
                })
                .collect();
            let op = crate::Op::find(op).expect("there");
            let cx = Cx {
                schema: op.schema(),
                attrs: &attrs,
                inputs: &args,
                outputs: 1,
            };
            op.0.eval(&cx).expect("legal")[0].to_i64()
        };
        let x = Tensor::i64(&[2, 3], 0..6);
        assert_eq!(
            run("Transpose", Attrs::new(), std::slice::from_ref(&x)),
            [0, 3, 1, 4, 2, 5]
        );
        assert_eq!(
            run(
                "Slice",
                Attrs::new(),
                &[x.clone(), ints(&[-1]), ints(&[-9]), ints(&[1]), ints(&[-2])]
            ),
            [2, 0, 5, 3]
        );
        assert_eq!(
            run("Tile", Attrs::new(), &[x.clone(), ints(&[1, 2])]),
            [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
        );
        assert_eq!(
            run(
                "Expand",
                Attrs::new(),
                &[Tensor::i64(&[2, 1], [4, 5]), ints(&[1, 1, 3])]
            ),
            [4, 4, 4, 5, 5, 5]
        );
    }

    #[test]
    fn eval_equals_loops() {
        for t in [
            DType::F32,
            DType::F64,
            DType::F16,
            DType::I64,
            DType::I32,
            DType::U8,
            DType::Bool,
        ] {
            let x = Some(numbers(t, &[2, 3, 4]));
            check("Reshape", &[], &[x.clone(), Some(ints(&[6, -1]))], 1);
            check("Transpose", &[("perm", Attr::Ints(vec![2, 0, 1]))], &[x], 1);
        }
        let x = || Some(numbers(DType::F32, &[2, 3, 4]));
        for to in [
            vec![4, 6],
            vec![0, 12],
            vec![-1],
            vec![2, 1, 3, 2, 2],
            vec![24, 1],
            vec![3, 8],
        ] {
            check("Reshape", &[], &[x(), Some(ints(&to))], 1);
        }
        check("Reshape", &[("shape", Attr::Ints(vec![0, -1]))], &[x()], 1);
        check(
            "Reshape",
            &[("allowzero", Attr::Int(1))],
            &[Some(numbers(DType::F32, &[0, 3])), Some(ints(&[3, 0]))],
            1,
        );
        check("Reshape", &[], &[Some(numbers(DType::F32, &[1])), Some(ints(&[]))], 1);
        check("Transpose", &[], &[x()], 1);
        check("Squeeze", &[], &[Some(numbers(DType::F32, &[1, 3, 1])), None], 1);
        check(
            "Squeeze",
            &[],
            &[Some(numbers(DType::F32, &[1, 3, 1])), Some(ints(&[-1]))],
            1,
        );
        check("Unsqueeze", &[], &[x(), Some(ints(&[0, -1]))], 1);
        check("Unsqueeze", &[], &[x(), Some(ints(&[4, 1]))], 1);
        for axis in [-1, 0, 1, 2, 3] {
            check("Flatten", &[("axis", Attr::Int(axis))], &[x()], 1);
        }
        check(
            "Expand",
            &[],
            &[Some(numbers(DType::I32, &[3, 1])), Some(ints(&[2, 1, 5]))],
            1,
        );
        check("Tile", &[], &[x(), Some(ints(&[1, 2, 3]))], 1);
    }
}
