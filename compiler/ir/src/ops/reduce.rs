//! Reductions over axes.
//!
//! Sum, product, minimum and maximum are loops; all others are graphs of these and pointwise work. Law: 16-bit floats
//! accumulate in `f32`; integers wrap in their own type.

use crate::index::{for_each, linear};
use crate::op::{
    AttrDef, Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid, normalize_axis, unsupported,
};
use crate::ops::binary::{add, larger, multiply, smaller};
use crate::ops::chosen::{any_symbolic, left, named, named_by_open, picked, whole};
use crate::ops::fragment::Fragment;
use crate::ops::pointwise::{self, RESULT, int_range, working};
use crate::ops::unary::copy;
use crate::structured::{Binary, Combine, Compute, Unary};
use crate::{Attr, DType, Dim, Fact, Real, Tensor, ValueId};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &Primitive {
        schema: &schema("ReduceSum", "sum over axes", NUMBERS),
        combine: Combine::Add,
        float: |a, b| a + b,
        int: |a, b| a + b,
        known: add,
        real: Real::Add,
    },
    &Primitive {
        schema: &schema("ReduceProd", "product over axes", NUMBERS),
        combine: Combine::Mul,
        float: |a, b| a * b,
        int: i128::wrapping_mul,
        known: multiply,
        real: Real::Mul,
    },
    &Primitive {
        schema: &schema("ReduceMax", "maximum over axes", ANYTHING),
        combine: Combine::Max,
        float: |a, b| if a.is_nan() || a > b { a } else { b },
        int: i128::max,
        known: |a, b| Some(larger(a, b)),
        real: Real::Max,
    },
    &Primitive {
        schema: &schema("ReduceMin", "minimum over axes", ANYTHING),
        combine: Combine::Min,
        float: |a, b| if a.is_nan() || a < b { a } else { b },
        int: i128::min,
        known: |a, b| Some(smaller(a, b)),
        real: Real::Min,
    },
    &Derived {
        schema: &schema("ReduceMean", "mean over axes", NUMBERS),
        whole: None,
        reference: |v| v.iter().sum::<f64>() / v.len() as f64,
        graph: |g, x, over| {
            let wide = g.widen(x)?;
            g.mean(wide, &over.axes, over.keepdims)
        },
    },
    &Derived {
        schema: &schema("ReduceL1", "sum of |x| over axes", NUMBERS),
        whole: Some(|v, signed| {
            let size = |x: &i64| if signed { x.wrapping_abs() } else { *x };
            v.iter().map(size).fold(0, i64::wrapping_add)
        }),
        reference: |v| v.iter().map(|x| x.abs()).sum(),
        graph: |g, x, over| {
            let wide = g.widen(x)?;
            let a = g.unary("Abs", wide)?;
            over.apply(g, "ReduceSum", a)
        },
    },
    &Derived {
        schema: &schema("ReduceL2", "(sum of x^2)^(1/2) over axes", NUMBERS),
        whole: None,
        reference: |v| v.iter().map(|x| x * x).sum::<f64>().sqrt(),
        graph: |g, x, over| {
            let wide = as_float(g, x)?;
            let square = g.binary("Mul", wide, wide)?;
            let sum = over.apply(g, "ReduceSum", square)?;
            g.unary("Sqrt", sum)
        },
    },
    &Derived {
        schema: &schema("ReduceSumSquare", "sum of x^2 over axes", NUMBERS),
        whole: Some(|v, _| v.iter().map(|x| x.wrapping_mul(*x)).fold(0, i64::wrapping_add)),
        reference: |v| v.iter().map(|x| x * x).sum(),
        graph: |g, x, over| {
            let wide = g.widen(x)?;
            let square = g.binary("Mul", wide, wide)?;
            over.apply(g, "ReduceSum", square)
        },
    },
    &Derived {
        schema: &schema("ReduceLogSum", "ln of the sum over axes", NUMBERS),
        whole: None,
        reference: |v| v.iter().sum::<f64>().ln(),
        graph: |g, x, over| {
            let wide = as_float(g, x)?;
            let sum = over.apply(g, "ReduceSum", wide)?;
            g.unary("Log", sum)
        },
    },
    &Derived {
        schema: &schema("ReduceLogSumExp", "ln of the sum of e^x over axes", NUMBERS),
        whole: None,
        reference: log_sum_exp,
        graph: |g, x, over| {
            let x = as_float(g, x)?;
            let max = g.reduce("ReduceMax", x, &over.axes, true)?;
            // An infinite maximum is not taken off: infinity minus itself is not a number.
            let infinite = g.unary("IsInf", max)?;
            let zero = g.number(x, 0.0);
            let shift = g.apply("Where", &[], &[infinite, zero, max])?;
            let shifted = g.binary("Sub", x, shift)?;
            let e = g.unary("Exp", shifted)?;
            let sum = g.reduce("ReduceSum", e, &over.axes, true)?;
            let log = g.unary("Log", sum)?;
            let y = g.binary("Add", log, shift)?;
            if over.keepdims || over.axes.is_empty() {
                return Ok(y);
            }
            let axes = Attr::Dims(over.axes.iter().map(|a| Dim::from(*a)).collect());
            g.apply("Squeeze", &[("axes", axes)], &[y])
        },
    },
    &DivDim,
];

const AXES: Param = Param::new("axes", Types::I64).shape_like("axes").optional();
const NUMBERS: &[Param] = &[Param::new("data", Types::NUMBER), AXES];
const ANYTHING: &[Param] = &[Param::new("data", Types::PLAIN), AXES];

const fn schema(name: &'static str, doc: &'static str, inputs: &'static [Param]) -> Schema {
    Schema::new(
        name,
        doc,
        inputs,
        RESULT,
        &[("keepdims", AttrDef::Int(1)), ("noop_with_empty_axes", AttrDef::Int(0))],
    )
}

fn as_float(g: &mut Fragment, x: ValueId) -> Result<ValueId, OpError> {
    let wide = working(g.dtype(x));
    g.cast(x, if wide.is_float() { wide } else { DType::F64 })
}

fn log_sum_exp(v: &[f64]) -> f64 {
    let max = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let max = if max.is_infinite() { 0.0 } else { max };
    max + v.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

/// Which axes a reduction goes over and what stays of them.
pub(crate) struct Over {
    /// Sorted.
    pub axes: Vec<usize>,
    pub keepdims: bool,
}

impl Over {
    fn new(cx: &Cx) -> Result<Self, OpError> {
        let rank = cx.fact(0)?.rank();
        let given = cx.const_ints(1)?.unwrap_or_default();
        let mut axes: Vec<usize> = given
            .iter()
            .map(|a| normalize_axis(*a, rank))
            .collect::<Result<_, _>>()?;
        axes.sort_unstable();
        if axes.windows(2).any(|w| w[0] == w[1]) {
            return invalid(format!("axes {given:?} name an axis twice"));
        }
        if axes.is_empty() && cx.int("noop_with_empty_axes")? == 0 {
            axes = (0..rank).collect();
        }
        let keepdims = cx.int("keepdims")? != 0;
        Ok(Self { axes, keepdims })
    }

    fn apply(&self, g: &mut Fragment, op: &str, x: ValueId) -> Result<ValueId, OpError> {
        g.reduce(op, x, &self.axes, self.keepdims)
    }

    /// The shape that is left, an extent of `one` standing for a reduced axis that is kept.
    pub fn shape<T: Clone>(&self, shape: &[T], one: &T) -> Vec<T> {
        let kept = |(i, d): (usize, &T)| match (self.axes.contains(&i), self.keepdims) {
            (false, _) => Some(d.clone()),
            (true, true) => Some(one.clone()),
            (true, false) => None,
        };
        shape.iter().enumerate().filter_map(kept).collect()
    }

    /// For each element of the result, in row-major order, the positions of the elements that it comes from.
    pub fn groups(&self, shape: &[usize]) -> Vec<Vec<usize>> {
        let with_ones = Self {
            axes: self.axes.clone(),
            keepdims: true,
        };
        let result = with_ones.shape(shape, &1);
        let mut out = vec![vec![]; result.iter().product()];
        for_each(shape, |ix| {
            let at: Vec<usize> = ix
                .iter()
                .enumerate()
                .map(|(d, i)| if self.axes.contains(&d) { 0 } else { *i })
                .collect();
            out[linear(&result, &at)].push(linear(shape, ix));
        });
        out
    }

    /// The loops that reduce `x` (operand 0) by `combine`.
    fn compute(&self, x: &Fact, combine: Combine) -> Compute {
        if self.axes.is_empty() {
            return copy(x);
        }
        let split = |reduced: bool| -> Vec<Dim> {
            let picked = x
                .shape
                .iter()
                .enumerate()
                .filter(|(i, _)| self.axes.contains(i) == reduced);
            picked.map(|(_, d)| d.clone()).collect()
        };
        let mut c = Compute::reduce(x.dtype, &split(false), &split(true), combine, |b, kept, reduced| {
            let (mut kept, mut reduced) = (kept.iter(), reduced.iter());
            let index = (0..x.rank()).filter_map(|i| {
                let from = if self.axes.contains(&i) {
                    &mut reduced
                } else {
                    &mut kept
                };
                from.next().cloned()
            });
            let v = b.load(0, x.dtype, index.collect());
            b.cast(working(x.dtype), v)
        });
        if self.keepdims {
            let mut kept = c.store.into_iter();
            let store = (0..x.rank()).filter_map(|i| {
                if self.axes.contains(&i) {
                    Some(Dim::ZERO)
                } else {
                    kept.next()
                }
            });
            c.store = store.collect();
        }
        c
    }
}

/// A reduction over axes that only a run knows: those of [`APART`](super::chosen::APART) that are theirs.
struct Chosen {
    axes: Vec<Dim>,
    hits: Vec<Dim>,
    rules: Vec<Rule>,
    keepdims: bool,
}

impl Chosen {
    fn new(cx: &Cx) -> Result<Option<Self>, OpError> {
        let Some((axes, length)) = cx.open_dims(1)?.filter(|(axes, _)| any_symbolic(axes)) else {
            return Ok(None);
        };
        let rank = cx.fact(0)?.rank();
        let keepdims = cx.int("keepdims")? != 0;
        let (hits, rules) = match length {
            Some(_) if !keepdims => return unsupported("as many axes as a run says, which are not kept"),
            Some(length) => {
                let (mut hits, rules) = named_by_open(&axes, &length, rank);
                if cx.int("noop_with_empty_axes")? == 0 {
                    let none = Dim::ONE - length.minimum(&Dim::ONE);
                    hits.iter_mut().for_each(|hit| *hit = hit.clone() + none.clone());
                }
                (hits, rules)
            }
            None if axes.len() > rank => return invalid(format!("{} axes of rank {rank}", axes.len())),
            None => named(&axes, rank),
        };
        Ok(Some(Self {
            axes,
            hits,
            rules,
            keepdims,
        }))
    }

    fn rules(cx: &Cx) -> Result<Vec<Rule>, OpError> {
        Ok(Self::new(cx)?.map(|c| c.rules).unwrap_or_default())
    }

    fn shape(&self, shape: &[Dim]) -> Vec<Dim> {
        if self.keepdims {
            let kept = shape.iter().zip(&self.hits);
            return kept
                .map(|(d, hit)| whole(d.clone() - hit.clone() * (d.clone() - Dim::ONE)))
                .collect();
        }
        let was = left(&self.hits, self.axes.len());
        was.iter().map(|row| whole(picked(row, shape))).collect()
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let hits = ("hits", Attr::Dims(self.hits.clone()));
        let apart = g.apply("cameo::Apart", &[hits], &[x])?;
        let second = (0..self.hits.len()).map(|i| Dim::from(2 * i + 1)).collect();
        let attrs = [("axes", Attr::Dims(second)), ("keepdims", Attr::Int(0))];
        let mut y = g.apply(cx.schema.name, &attrs, &[apart])?;
        if !self.keepdims {
            y = g.apply("Squeeze", &[("axes", Attr::Dims(self.axes.clone()))], &[y])?;
        }
        Ok(g.finish(&[y]))
    }
}

/// A reduction that is a loop.
struct Primitive {
    schema: &'static Schema,
    combine: Combine,
    float: fn(f64, f64) -> f64,
    int: fn(i128, i128) -> i128,
    known: fn(&Dim, &Dim) -> Option<Dim>,
    real: Real,
}

impl Primitive {
    /// What an empty reduction gives.
    fn identity(&self, t: DType) -> f64 {
        let (lo, hi) = if t.is_float() {
            (f64::NEG_INFINITY, f64::INFINITY)
        } else {
            let (lo, hi) = int_range(t);
            (lo as f64, hi as f64)
        };
        match self.combine {
            Combine::Add | Combine::Or => 0.0,
            Combine::Mul | Combine::And => 1.0,
            Combine::Max => lo,
            Combine::Min => hi,
        }
    }

    fn known(&self, cx: &Cx, x: &Fact, over: &Over) -> Option<Vec<Dim>> {
        let (elements, shape) = match x.dtype.is_float() {
            // Floats that are all constants are data.
            true => (x.known.as_ref().and_then(|_| cx.reals(0))?, x.static_shape()?),
            false => (pointwise::in_range(x)?.clone(), x.static_shape()?),
        };
        let join = |a: &Dim, b: &Dim| match x.dtype.is_float() {
            true => pointwise::rounded(x.dtype, &Dim::apply(self.real, a, b)),
            false => (self.known)(a, b),
        };
        let groups = over.groups(&shape);
        let reduced = groups.iter().map(|g| {
            let mut values = g.iter().filter_map(|i| elements.get(*i));
            let first = values.next()?.clone();
            let joined = values.try_fold(first, |a, b| join(&a, b));
            joined.filter(|d| x.dtype.is_float() || pointwise::fits(x.dtype, d))
        });
        reduced.collect()
    }
}

impl OpDef for Primitive {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        Chosen::rules(cx)
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let x = cx.fact(0)?;
        if let Some(chosen) = Chosen::new(cx)? {
            return Ok(vec![Fact::new(x.dtype, chosen.shape(&x.shape))]);
        }
        let over = Over::new(cx)?;
        let mut out = Fact::new(x.dtype, over.shape(&x.shape, &Dim::ONE));
        out.known = self.known(cx, x, &over);
        Ok(vec![out])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, over) = (cx.tensor(0)?, Over::new(cx)?);
        let (t, shape) = (x.dtype(), over.shape(x.shape(), &1));
        let groups = over.groups(x.shape());
        let out = if t.is_float() {
            let v = x.to_f64();
            let reduce = |g: &Vec<usize>| g.iter().fold(self.identity(t), |a, i| (self.float)(a, v[*i]));
            Tensor::from_f64(t, &shape, groups.iter().map(reduce))
        } else {
            let v = pointwise::integers(x);
            let reduce = |g: &Vec<usize>| match g.split_first() {
                Some((first, rest)) => rest.iter().fold(v[*first], |a, i| (self.int)(a, v[*i])),
                None => (self.identity(t) as i128).min(int_range(t).1),
            };
            pointwise::from_integers(t, &shape, groups.iter().map(reduce).collect())
        };
        Ok(vec![out])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        if let Some(chosen) = Chosen::new(cx)? {
            return chosen.lower(cx);
        }
        let (x, over) = (cx.fact(0)?, Over::new(cx)?);
        let combine = match (self.combine, x.dtype) {
            (Combine::Max, DType::Bool) => Combine::Or,
            (Combine::Min, DType::Bool) => Combine::And,
            (c, _) => c,
        };
        Ok(Lowering::Compute(vec![over.compute(x, combine)]))
    }
}

/// A reduction that is a graph of primitive ones.
struct Derived {
    schema: &'static Schema,
    /// Of integers, where they are computed as such, modulo 2^64; of numbers with a sign or without.
    whole: Option<fn(&[i64], bool) -> i64>,
    reference: fn(&[f64]) -> f64,
    graph: fn(&mut Fragment, ValueId, &Over) -> Result<ValueId, OpError>,
}

impl OpDef for Derived {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        Chosen::rules(cx)
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let x = cx.fact(0)?;
        let shape = match Chosen::new(cx)? {
            Some(chosen) => chosen.shape(&x.shape),
            None => Over::new(cx)?.shape(&x.shape, &Dim::ONE),
        };
        Ok(vec![Fact::new(x.dtype, shape)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, over) = (cx.tensor(0)?, Over::new(cx)?);
        let v = x.to_f64();
        let groups = over.groups(x.shape());
        let reduce = |g: &Vec<usize>| (self.reference)(&g.iter().map(|i| v[*i]).collect::<Vec<_>>());
        if let Some(whole) = self.whole.filter(|_| !x.dtype().is_float()) {
            let (v, signed) = (x.to_i64(), x.dtype().is_signed());
            let sums = groups
                .iter()
                .map(|g| whole(&g.iter().map(|i| v[*i]).collect::<Vec<_>>(), signed));
            return Ok(vec![Tensor::from_i64(x.dtype(), &over.shape(x.shape(), &1), sums)]);
        }
        Ok(vec![Tensor::from_f64(
            x.dtype(),
            &over.shape(x.shape(), &1),
            groups.iter().map(reduce),
        )])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        if let Some(chosen) = Chosen::new(cx)? {
            return chosen.lower(cx);
        }
        let over = Over::new(cx)?;
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let y = (self.graph)(&mut g, x, &over)?;
        let y = g.cast(y, cx.fact(0)?.dtype)?;
        Ok(g.finish(&[y]))
    }
}

/// `x / d` for a dim `d`, which may be symbolic: the division of a mean; `x / √d` with `root`: that of attention logits.
struct DivDim;

impl DivDim {
    fn by(cx: &Cx) -> Result<Dim, OpError> {
        match cx.attrs.get("by") {
            Some(Attr::Dims(d)) if d.len() == 1 => Ok(d[0].clone()),
            _ => invalid("attribute `by` wants one dim"),
        }
    }
}

impl OpDef for DivDim {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::DivDim",
            "x / by, a dim, or x / sqrt(by) with root=1",
            &[Param::new("X", Types::NUMBER)],
            RESULT,
            &[("by", AttrDef::ReqDims), ("root", AttrDef::Int(0))],
        )
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::by(cx)?;
        let x = cx.fact(0)?;
        if cx.int("root")? != 0 && !x.dtype.is_float() {
            return invalid(format!("the root of a dim divides floats, not {x}"));
        }
        Ok(vec![Fact::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let Some(by) = Self::by(cx)?.as_const() else {
            return invalid("attribute `by` is not bound to a number");
        };
        let t = cx.fact(0)?.dtype;
        if t.is_float() {
            let by = if cx.int("root")? != 0 {
                (by as f64).sqrt()
            } else {
                by as f64
            };
            pointwise::eval_floats(cx, t, |a| a[0] / by)
        } else {
            pointwise::eval_integers(cx, t, |a| a[0].checked_div(by.into()).unwrap_or(0))
        }
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (by, t, root) = (Self::by(cx)?, cx.fact(0)?.dtype, cx.int("root")? != 0);
        pointwise::lower(cx, t, |b, a| {
            let work = working(t);
            let count = match by.as_const() {
                Some(c) if root => b.number(work, (c as f64).sqrt()),
                Some(c) => b.number(work, c as f64),
                None => {
                    let d = b.push(crate::structured::Expr::Index(by));
                    let d = b.cast(work, d);
                    if root { b.unary(Unary::Sqrt, d) } else { d }
                }
            };
            b.binary(Binary::Div, a[0], count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};

    fn axes(v: &[i64]) -> Option<Tensor> {
        Some(Tensor::i64(&[v.len()], v.iter().copied()))
    }

    #[test]
    fn all_reductions() {
        for op in OPS.iter().filter(|o| o.schema().name.starts_with("Reduce")) {
            let name = op.schema().name;
            for t in [DType::F32, DType::F64, DType::F16] {
                // The logarithm of a negative sum is not a number on both sides.
                check(name, &[], &[sample(t, &[2, 3, 5], 1), axes(&[1])], 1);
            }
            let x = || sample(DType::F32, &[2, 3, 5], 2);
            for keep in [0, 1] {
                let keep = ("keepdims", Attr::Int(keep));
                for a in [&[0][..], &[-1], &[0, 2], &[2, 1, 0], &[-2, -1], &[]] {
                    check(
                        name,
                        &[keep.clone(), ("noop_with_empty_axes", Attr::Int(1))],
                        &[x(), axes(a)],
                        1,
                    );
                }
                check(name, std::slice::from_ref(&keep), &[x()], 1);
                check(name, std::slice::from_ref(&keep), &[x(), axes(&[])], 1);
                check(
                    name,
                    &[keep.clone(), ("axes", Attr::Dims(vec![Dim::from(1i64)]))],
                    &[x()],
                    1,
                );
                check(name, std::slice::from_ref(&keep), &[sample(DType::F32, &[], 3)], 1);
                check(
                    name,
                    std::slice::from_ref(&keep),
                    &[sample(DType::F32, &[3, 1], 3), axes(&[1])],
                    1,
                );
            }
            for t in [DType::I32, DType::I64] {
                let positive = Tensor::from_i64(t, &[2, 3], [1, 2, 3, 4, 1, 2]);
                check(name, &[], &[Some(positive), axes(&[1])], 1);
            }
        }
        for op in ["ReduceMax", "ReduceMin"] {
            check(op, &[], &[sample(DType::Bool, &[4, 3], 1), axes(&[1])], 1);
            check(op, &[], &[sample(DType::U8, &[4, 3], 1), axes(&[0])], 1);
        }
    }

    #[test]
    fn empty_and_infinite() {
        let none = || sample(DType::F32, &[2, 0], 1);
        for (op, want) in [
            ("ReduceSum", 0.0),
            ("ReduceProd", 1.0),
            ("ReduceMax", f64::NEG_INFINITY),
            ("ReduceMin", f64::INFINITY),
            ("ReduceLogSumExp", f64::NEG_INFINITY),
        ] {
            check(op, &[], &[none(), axes(&[1])], 1);
            assert_eq!(eval(op, &[], &[none(), axes(&[1])], 1)[0].to_f64(), [want; 2], "{op}");
        }
        let x = Tensor::f32(
            &[3, 2],
            [1000.0, 1000.0, f32::NEG_INFINITY, f32::NEG_INFINITY, f32::INFINITY, 0.0],
        );
        check("ReduceLogSumExp", &[], &[Some(x.clone()), axes(&[1])], 1);
        let y = eval(
            "ReduceLogSumExp",
            &[("keepdims", Attr::Int(0))],
            &[Some(x), axes(&[1])],
            1,
        )[0]
        .to_f64();
        assert!(
            (y[0] - 1_000.693_147).abs() < 1e-3 && y[1] == f64::NEG_INFINITY && y[2] == f64::INFINITY,
            "{y:?}"
        );
    }

    #[test]
    fn halves_do_not_overflow_on_the_way() {
        let x = Tensor::from_f64(DType::F16, &[4], [60000.0; 4]);
        check("ReduceMean", &[], &[Some(x.clone())], 1);
        assert_eq!(eval("ReduceMean", &[], &[Some(x)], 1)[0].to_f64(), [60000.0]);
    }

    #[test]
    fn shapes_and_known_elements() {
        let (b, s) = (Dim::sym("B"), Dim::sym("S"));
        let x = Fact::new(DType::F32, vec![b.clone(), s.clone(), Dim::from(8i64)]);
        let attrs = |a: &[i64]| [("axes", Attr::Ints(a.to_vec()))];
        let y = infer("ReduceMean", &attrs(&[-1]), std::slice::from_ref(&x)).expect("infers");
        assert_eq!(y[0].shape, [b.clone(), s.clone(), Dim::ONE]);
        assert!(infer("ReduceMean", &attrs(&[3]), std::slice::from_ref(&x)).is_err());
        assert!(infer("ReduceMean", &attrs(&[0, -3]), &[x]).is_err(), "an axis twice");
        let shape = Fact::with_known(DType::I64, vec![Dim::from(2i64)], vec![b.clone(), s.clone()]);
        let y = infer("ReduceProd", &[("keepdims", Attr::Int(0))], &[shape]).expect("infers");
        assert_eq!(y[0].known, Some(vec![b * s]));
    }

    #[test]
    fn division_by_a_dim() {
        for t in [DType::F32, DType::F16, DType::I64] {
            check(
                "cameo::DivDim",
                &[("by", Attr::Dims(vec![Dim::from(3i64)]))],
                &[sample(t, &[2, 5], 1)],
                1,
            );
        }
        assert!(infer("cameo::DivDim", &[], &[Fact::new(DType::F32, vec![])]).is_err());
    }
}
