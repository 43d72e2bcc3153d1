//! Positions of extreme elements: the maximum is found first, then the smallest (or largest) index where it stands.

use std::cmp::Ordering;

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, normalize_axis};
use crate::ops::fragment::Fragment;
use crate::ops::pointwise::{integers, working};
use crate::structured::{Binary, Combine, Compute, Expr, Unary};
use crate::{Attr, DType, Dim, Fact, Tensor};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &Extreme {
        schema: &Schema::new("ArgMax", "index of the maximum along an axis", DATA, INDEX, ATTRS),
        reduction: "ReduceMax",
        wanted: Ordering::Greater,
    },
    &Extreme {
        schema: &Schema::new("ArgMin", "index of the minimum along an axis", DATA, INDEX, ATTRS),
        reduction: "ReduceMin",
        wanted: Ordering::Less,
    },
    &IndexOf,
    &super::topk::TopK,
    &super::topk::Place,
    &super::topk::AtPlace,
];

const DATA: &[Param] = &[Param::new("data", Types::NUMBER)];
const INDEX: &[Param] = &[Param::new("reduced", Types::I64).group(2)];
const ATTRS: &[(&str, AttrDef)] = &[
    ("axis", AttrDef::Int(0)),
    ("keepdims", AttrDef::Int(1)),
    ("select_last_index", AttrDef::Int(0)),
];

/// The attributes of all operations here.
struct Spec {
    axis: usize,
    keepdims: bool,
    last: bool,
}

impl Spec {
    fn new(cx: &Cx) -> Result<Self, OpError> {
        Ok(Self {
            axis: normalize_axis(cx.int("axis")?, cx.fact(0)?.rank())?,
            keepdims: cx.int("keepdims")? != 0,
            last: cx.int("select_last_index")? != 0,
        })
    }

    fn shape<T: Clone>(&self, shape: &[T], one: T) -> Vec<T> {
        let mut out = shape.to_vec();
        if self.keepdims {
            out[self.axis] = one;
        } else {
            out.remove(self.axis);
        }
        out
    }

    fn fact(&self, x: &Fact) -> Fact {
        Fact::new(DType::I64, self.shape(&x.shape, Dim::ONE))
    }

    /// Along the axis, for each row, the index that `pick` chooses among the linear positions of the row's elements.
    fn eval(&self, x: &Tensor, mut pick: impl FnMut(usize, &[usize]) -> i64) -> Tensor {
        let n = x.shape()[self.axis];
        let inner: usize = x.shape()[self.axis + 1..].iter().product();
        let rows: usize = x.shape()[..self.axis].iter().product::<usize>() * inner;
        let picked = (0..rows).map(|r| {
            let start = r / inner * n * inner + r % inner;
            let row: Vec<usize> = (0..n).map(|k| start + k * inner).collect();
            pick(r, &row)
        });
        Tensor::i64(&self.shape(x.shape(), 1), picked)
    }
}

/// `ArgMax` and `ArgMin`.
struct Extreme {
    schema: &'static Schema,
    reduction: &'static str,
    wanted: Ordering,
}

impl OpDef for Extreme {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Spec::new(cx)?.fact(cx.fact(0)?)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, spec) = (cx.tensor(0)?, Spec::new(cx)?);
        let best = |row: &[usize], order: &dyn Fn(usize, usize) -> Option<Ordering>| {
            let mut best = 0;
            for k in 1..row.len() {
                let o = order(row[k], row[best]);
                if o == Some(self.wanted) || (spec.last && o == Some(Ordering::Equal)) {
                    best = k;
                }
            }
            best as i64
        };
        let out = if x.dtype().is_float() {
            let v = x.to_f64();
            // A NaN is beyond all numbers, to either side.
            let order = |a: usize, b: usize| match (v[a].is_nan(), v[b].is_nan()) {
                (false, false) => v[a].partial_cmp(&v[b]),
                (true, true) => Some(Ordering::Equal),
                (true, false) => Some(self.wanted),
                (false, true) => None,
            };
            spec.eval(x, |_, row| best(row, &order))
        } else {
            let v = integers(x);
            spec.eval(x, |_, row| best(row, &|a, b| Some(v[a].cmp(&v[b]))))
        };
        Ok(vec![out])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let spec = Spec::new(cx)?;
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let extreme = g.reduce(self.reduction, x, &[spec.axis], true)?;
        let attrs = [
            ("axis", Attr::Int(spec.axis as i64)),
            ("keepdims", Attr::Int(spec.keepdims.into())),
            ("select_last_index", Attr::Int(spec.last.into())),
        ];
        let y = g.apply("cameo::IndexOf", &attrs, &[x, extreme])?;
        Ok(g.finish(&[y]))
    }
}

/// The first (or last) index along an axis at which `x` equals `value`, whose extent there is 1, or is NaN.
///
/// Where it stands nowhere the answer is still an index of the axis.
struct IndexOf;

impl OpDef for IndexOf {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::IndexOf",
            "first or last index along an axis where x is value or NaN",
            &[Param::new("data", Types::NUMBER), Param::new("value", Types::NUMBER)],
            INDEX,
            ATTRS,
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, value, spec) = (cx.fact(0)?, cx.fact(1)?, Spec::new(cx)?);
        let mut wanted = x.shape.clone();
        wanted[spec.axis] = Dim::ONE;
        if value.shape != wanted {
            return crate::op::invalid(format!("value {value} does not stand for an axis of {x}"));
        }
        Ok(vec![spec.fact(x)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, spec) = (cx.tensor(0)?, Spec::new(cx)?);
        let (v, wanted) = (x.to_f64(), cx.tensor(1)?.to_f64());
        Ok(vec![spec.eval(x, |r, row| {
            let mut hits = row
                .iter()
                .enumerate()
                .filter(|(_, i)| v[**i] == wanted[r] || v[**i].is_nan())
                .map(|(k, _)| k as i64);
            if spec.last {
                hits.next_back().unwrap_or(0)
            } else {
                hits.next().unwrap_or(row.len() as i64 - 1)
            }
        })])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, spec) = (cx.fact(0)?, Spec::new(cx)?);
        let extent = x.shape[spec.axis].clone();
        let mut kept = x.shape.clone();
        kept.remove(spec.axis);
        let combine = if spec.last { Combine::Max } else { Combine::Min };
        let mut c = Compute::reduce(DType::I64, &kept, std::slice::from_ref(&extent), combine, |b, p, r| {
            let mut index = p.to_vec();
            index.insert(spec.axis, r[0].clone());
            let v = b.load(0, x.dtype, index.clone());
            index[spec.axis] = Dim::ZERO;
            let wanted = b.load(1, x.dtype, index);
            let (v, wanted) = (b.cast(working(x.dtype), v), b.cast(working(x.dtype), wanted));
            let mut hit = b.binary(Binary::Eq, v, wanted);
            if x.dtype.is_float() {
                let missing = b.unary(Unary::IsNan, v);
                hit = b.binary(Binary::Or, hit, missing);
            }
            let here = b.push(Expr::Index(r[0].clone()));
            // An index that cannot win against a hit, and that is in range when there is none.
            let miss = if spec.last {
                Dim::ZERO
            } else {
                extent.clone() - Dim::ONE
            };
            let miss = b.push(Expr::Index(miss));
            b.select(hit, here, miss)
        });
        if spec.keepdims {
            c.store.insert(spec.axis, Dim::ZERO);
        }
        Ok(Lowering::Compute(vec![c]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};

    #[test]
    fn all_axes_and_ties() {
        for op in ["ArgMax", "ArgMin"] {
            for axis in -3..3 {
                for (keep, last) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let attrs = [
                        ("axis", Attr::Int(axis)),
                        ("keepdims", Attr::Int(keep)),
                        ("select_last_index", Attr::Int(last)),
                    ];
                    check(op, &attrs, &[sample(DType::F32, &[3, 1, 5], 1)], 1);
                    check(op, &attrs, &[sample(DType::I32, &[2, 16, 2], 1)], 1);
                }
            }
            check(op, &[], &[sample(DType::F16, &[7], 1)], 1);
            check(op, &[], &[sample(DType::U8, &[16, 2], 1)], 1);
        }
        let x = Some(Tensor::f32(&[4], [1.0, 3.0, 3.0, 0.0]));
        let last = [("select_last_index", Attr::Int(1))];
        assert_eq!(eval("ArgMax", &[], std::slice::from_ref(&x), 1)[0].to_i64(), [1]);
        assert_eq!(eval("ArgMax", &last, std::slice::from_ref(&x), 1)[0].to_i64(), [2]);
        assert_eq!(eval("ArgMin", &[], &[x], 1)[0].to_i64(), [3]);
        let x = Some(Tensor::f32(&[5], [1.0, f32::NAN, 9.0, f32::NAN, -9.0]));
        for op in ["ArgMax", "ArgMin"] {
            assert_eq!(eval(op, &[], std::slice::from_ref(&x), 1)[0].to_i64(), [1]);
            assert_eq!(eval(op, &last, std::slice::from_ref(&x), 1)[0].to_i64(), [3]);
            check(op, &[], std::slice::from_ref(&x), 1);
            check(op, &last, std::slice::from_ref(&x), 1);
        }
    }

    #[test]
    fn index_of_a_value() {
        let x = Some(Tensor::f32(&[2, 3], [1.0, 2.0, 1.0, 5.0, 5.0, 5.0]));
        let value = Some(Tensor::f32(&[2, 1], [1.0, 4.0]));
        for last in [0, 1] {
            let attrs = [("axis", Attr::Int(1)), ("select_last_index", Attr::Int(last))];
            check("cameo::IndexOf", &attrs, &[x.clone(), value.clone()], 1);
        }
        let f = |n: usize| Fact::new(DType::F32, vec![Dim::from(n)]);
        assert!(infer("cameo::IndexOf", &[], &[f(3), f(3)]).is_err());
        assert!(infer("ArgMax", &[("axis", Attr::Int(1))], &[f(3)]).is_err());
    }
}
