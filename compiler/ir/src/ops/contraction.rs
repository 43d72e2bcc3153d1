//! Sums of products over shared axes.
//!
//! Law: each lowers to one reduction of a product of plain loads; the kernel room recognises contractions by that form
//! alone. Half types are multiplied and summed in `f32`.

use crate::index::{
    self, agree, broadcast_index, broadcast_linear, broadcast_shape, broadcast_static, joins, linear, static_shape,
};
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid};
use crate::structured::{Binary, Body, Combine, Compute, ExprId};
use crate::{DType, Dim, Fact, Tensor};

use super::fragment::Fragment;
use super::pointwise::working;

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[&MatMul, &Gemm, &super::einsum::Einsum, &super::det::DET];

/// What ONNX lets be multiplied: floats and the wide integers.
const TYPES: Types = Types(Types::FLOAT.0 | Types::of(&[DType::I32, DType::I64, DType::U32, DType::U64]).0);

/// The product of loads of operands `0..`, each at its index, in the accumulator's type.
pub(super) fn product(b: &mut Body, loads: &[(DType, Vec<Dim>)]) -> ExprId {
    let mut root = None;
    for (k, (t, at)) in loads.iter().enumerate() {
        let value = b.load(k, *t, at.clone());
        let value = b.cast(working(*t), value);
        root = Some(root.map_or(value, |r| b.binary(Binary::Mul, r, value)));
    }
    // Operations have at least one operand; a product of nothing is 1 all the same.
    root.unwrap_or_else(|| b.number(DType::F32, 1.0))
}

/// Accumulates in `f64` for floats, and wraps in 64 bits for integers.
pub(super) enum Sum {
    Float(Vec<f64>),
    Int(Vec<i64>),
}

impl Sum {
    pub(super) fn new(t: DType, len: usize) -> Self {
        if t.is_float() {
            Self::Float(vec![0.0; len])
        } else {
            Self::Int(vec![0; len])
        }
    }

    pub(super) fn tensor(self, t: DType, shape: &[usize]) -> Tensor {
        match self {
            Self::Float(v) => Tensor::from_f64(t, shape, v),
            Self::Int(v) => Tensor::from_i64(t, shape, v),
        }
    }
}

/// The elements of two factors, converted once.
pub(super) enum Factors {
    Float(Vec<f64>, Vec<f64>),
    Int(Vec<i64>, Vec<i64>),
}

impl Factors {
    pub(super) fn new(a: &Tensor, b: &Tensor) -> Self {
        if a.dtype().is_float() {
            Self::Float(a.to_f64(), b.to_f64())
        } else {
            Self::Int(a.to_i64(), b.to_i64())
        }
    }

    /// `sum[out] += a[i] * b[j]`.
    pub(super) fn accumulate(&self, sum: &mut Sum, out: usize, i: usize, j: usize) {
        match (self, sum) {
            (Self::Float(a, b), Sum::Float(s)) => s[out] += a[i] * b[j],
            (Self::Int(a, b), Sum::Int(s)) => s[out] = s[out].wrapping_add(a[i].wrapping_mul(b[j])),
            // Both are made from the same type.
            _ => {}
        }
    }
}

struct MatMul;

/// Two matrices with batch axes, as MatMul sees its operands.
struct Matrices {
    batch: Vec<Dim>,
    m: Option<Dim>,
    k: Dim,
    n: Option<Dim>,
}

impl Matrices {
    fn new(cx: &Cx) -> Result<Self, OpError> {
        let (a, b) = (cx.fact(0)?, cx.fact(1)?);
        let (m, k, a_batch) = match a.shape.as_slice() {
            [] => return invalid("a scalar factor"),
            [k] => (None, k, &[][..]),
            [batch @ .., m, k] => (Some(m.clone()), k, batch),
        };
        let (k2, n, b_batch) = match b.shape.as_slice() {
            [] => return invalid("a scalar factor"),
            [k] => (k, None, &[][..]),
            [batch @ .., k, n] => (k, Some(n.clone()), batch),
        };
        if matches!((k.as_const(), k2.as_const()), (Some(x), Some(y)) if x != y) {
            return invalid(format!("{a} times {b}: inner extents {k} and {k2}"));
        }
        let k = if k.as_const().is_some() { k } else { k2 };
        Ok(Self {
            batch: broadcast_shape(&[a_batch, b_batch])?,
            m,
            k: k.clone(),
            n,
        })
    }

    fn shape(&self) -> Vec<Dim> {
        self.batch.iter().chain(&self.m).chain(&self.n).cloned().collect()
    }
}

impl OpDef for MatMul {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "MatMul",
            "y[..,m,n] = sum over k of a[..,m,k] * b[..,k,n], numpy rules",
            &[Param::new("A", TYPES), Param::new("B", TYPES)],
            &[Param::new("Y", TYPES)],
            &[],
        );
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::new(cx.fact(0)?.dtype, Matrices::new(cx)?.shape())])
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let (a, b, batch) = (&cx.fact(0)?.shape, &cx.fact(1)?.shape, Matrices::new(cx)?.batch);
        let outer = |shape: &[Dim]| joins(&shape[..shape.len().saturating_sub(2)], &batch);
        let inner = agree(&a[a.len() - 1], &b[b.len().saturating_sub(2)]);
        Ok([outer(a), outer(b), inner].concat())
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (cx.tensor(0)?, cx.tensor(1)?);
        let shape = static_shape(&self.infer(cx)?[0])?;
        // Vectors become matrices with one row or one column.
        let mut a_shape = a.shape().to_vec();
        if a_shape.len() == 1 {
            a_shape.insert(0, 1);
        }
        let mut b_shape = b.shape().to_vec();
        if b_shape.len() == 1 {
            b_shape.push(1);
        }
        let (a_batch, rows) = a_shape.split_at(a_shape.len() - 2);
        let (b_batch, columns) = b_shape.split_at(b_shape.len() - 2);
        let (m, k, n) = (rows[0], rows[1], columns[1]);
        let batch = broadcast_static(&[a_batch, b_batch])?;
        let mut sum = Sum::new(a.dtype(), shape.iter().product());
        let factors = Factors::new(a, b);
        index::for_each(&batch, |ix| {
            let (first, a0, b0) = (
                linear(&batch, ix) * m * n,
                broadcast_linear(a_batch, ix) * m * k,
                broadcast_linear(b_batch, ix) * k * n,
            );
            for i in 0..m {
                for j in 0..n {
                    for x in 0..k {
                        factors.accumulate(&mut sum, first + i * n + j, a0 + i * k + x, b0 + x * n + j);
                    }
                }
            }
        });
        Ok(vec![sum.tensor(a.dtype(), &shape)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (a, b) = (cx.fact(0)?, cx.fact(1)?);
        let x = Matrices::new(cx)?;
        let rank = x.batch.len();
        let compute = Compute::nest(
            a.dtype,
            &x.shape(),
            std::slice::from_ref(&x.k),
            Combine::Add,
            |body, it, over| {
                let (batch, rest) = it.split_at(rank);
                let rows = usize::from(x.m.is_some());
                let at = |shape: &[Dim], inner: &[Dim]| {
                    let outer = &shape[..shape.len() - inner.len()];
                    let mut index = broadcast_index(outer, &x.batch, batch);
                    index.extend_from_slice(inner);
                    index
                };
                let k = &over[0];
                let left: Vec<Dim> = rest[..rows].iter().chain([k]).cloned().collect();
                let right: Vec<Dim> = [k].into_iter().chain(&rest[rows..]).cloned().collect();
                let root = product(body, &[(a.dtype, at(&a.shape, &left)), (b.dtype, at(&b.shape, &right))]);
                (root, it.to_vec())
            },
        );
        Ok(Lowering::Compute(vec![compute]))
    }
}

struct Gemm;

impl Gemm {
    fn transposed(cx: &Cx) -> Result<(bool, bool), OpError> {
        Ok((cx.int("transA")? != 0, cx.int("transB")? != 0))
    }
}

impl OpDef for Gemm {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "Gemm",
            "alpha * A B + beta * C with A and B transposed if asked",
            &[
                Param::new("A", TYPES),
                Param::new("B", TYPES),
                Param::new("C", TYPES).optional(),
            ],
            &[Param::new("Y", TYPES)],
            &[
                ("alpha", AttrDef::Float(1.0)),
                ("beta", AttrDef::Float(1.0)),
                ("transA", AttrDef::Int(0)),
                ("transB", AttrDef::Int(0)),
            ],
        );
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (a, b) = (cx.fact(0)?, cx.fact(1)?);
        let ([a0, a1], [b0, b1]) = (a.shape.as_slice(), b.shape.as_slice()) else {
            return invalid(format!("{a} and {b} are not both matrices"));
        };
        let (ta, tb) = Self::transposed(cx)?;
        let (m, k) = if ta { (a1, a0) } else { (a0, a1) };
        let (k2, n) = if tb { (b1, b0) } else { (b0, b1) };
        if matches!((k.as_const(), k2.as_const()), (Some(x), Some(y)) if x != y) {
            return invalid(format!("{a} times {b}: inner extents {k} and {k2}"));
        }
        let shape = vec![m.clone(), n.clone()];
        if let Some(c) = cx.arg(2) {
            let joint = broadcast_shape(&[&shape, &c.fact.shape])?;
            let grows = |(x, y): (&Dim, &Dim)| matches!((x.as_const(), y.as_const()), (Some(x), Some(y)) if x != y);
            if joint.len() != 2 || shape.iter().zip(&joint).any(grows) {
                return invalid(format!("C is {}, which does not broadcast to {shape:?}", c.fact));
            }
        }
        Ok(vec![Fact::new(a.dtype, shape)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (cx.tensor(0)?, cx.tensor(1)?);
        let shape = static_shape(&self.infer(cx)?[0])?;
        let (ta, tb) = Self::transposed(cx)?;
        let (m, n) = (shape[0], shape[1]);
        let k = a.shape()[usize::from(!ta)];
        let mut sum = Sum::new(a.dtype(), m * n);
        let factors = Factors::new(a, b);
        index::for_each(&[m, n, k], |ix| {
            let [i, j, x] = [ix[0], ix[1], ix[2]];
            let left = if ta { x * m + i } else { i * k + x };
            let right = if tb { j * k + x } else { x * n + j };
            factors.accumulate(&mut sum, i * n + j, left, right);
        });
        let (alpha, beta) = (cx.float("alpha")?, cx.float("beta")?);
        let c = match cx.has(2) {
            true => Some(cx.tensor(2)?),
            false => None,
        };
        match &mut sum {
            Sum::Float(s) => {
                let c = c.map(|c| (c.shape(), c.to_f64()));
                index::for_each(&shape, |ix| {
                    let y = &mut s[linear(&shape, ix)];
                    *y *= f64::from(alpha);
                    if let Some((from, c)) = &c
                        && beta != 0.0
                    {
                        *y += f64::from(beta) * c[broadcast_linear(from, ix)];
                    }
                });
            }
            Sum::Int(s) => {
                let (alpha, beta) = (alpha as i64, beta as i64);
                let c = c.map(|c| (c.shape(), c.to_i64()));
                index::for_each(&shape, |ix| {
                    let y = &mut s[linear(&shape, ix)];
                    let more = c.as_ref().map_or(0, |(from, c)| c[broadcast_linear(from, ix)]);
                    *y = y.wrapping_mul(alpha).wrapping_add(beta.wrapping_mul(more));
                });
            }
        }
        Ok(vec![sum.tensor(a.dtype(), &shape)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (ta, tb) = Self::transposed(cx)?;
        let mut g = Fragment::new(cx);
        let turned = |g: &mut Fragment, v, swap| if swap { g.unary("Transpose", v) } else { Ok(v) };
        let scaled = |g: &mut Fragment, v, by: f32| {
            if by == 1.0 {
                return Ok(v);
            }
            let by = g.number(v, f64::from(by));
            g.binary("Mul", v, by)
        };
        let (a, b) = (g.required(cx, 0)?, g.required(cx, 1)?);
        let a = turned(&mut g, a, ta)?;
        let b = turned(&mut g, b, tb)?;
        let y = g.binary("MatMul", a, b)?;
        let mut y = scaled(&mut g, y, cx.float("alpha")?)?;
        let beta = cx.float("beta")?;
        if let Some(c) = g.input(2)
            && beta != 0.0
        {
            let c = scaled(&mut g, c, beta)?;
            y = g.binary("Add", y, c)?;
        }
        Ok(g.finish(&[y]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::op::Arg;
    use crate::ops::samples::sample;
    use crate::{Attr, Attrs, Op};

    fn numbers(dtype: DType, shape: &[usize]) -> Option<Tensor> {
        sample(dtype, shape, 1)
    }

    fn loops(op: &str, facts: &[Fact]) -> Compute {
        let attrs = Attrs::new();
        let args: Vec<_> = facts.iter().map(|fact| Some(Arg { fact, constant: None })).collect();
        let op = Op::find(op).expect("there");
        let cx = Cx {
            schema: op.schema(),
            attrs: &attrs,
            inputs: &args,
            outputs: 1,
        };
        match op.0.lower(&cx).expect("legal") {
            Lowering::Compute(mut c) => c.remove(0),
            _ => {
                panic!("{op} is one nest of loops")
            }
        }
    }

    #[test]
    fn products() {
        for t in [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32, DType::I64] {
            check("MatMul", &[], &[numbers(t, &[3, 5]), numbers(t, &[5, 2])], 1);
            check("MatMul", &[], &[numbers(t, &[2, 1, 3, 4]), numbers(t, &[3, 4, 1])], 1);
        }
        let f = |shape: &[usize]| numbers(DType::F32, shape);
        check("MatMul", &[], &[f(&[4]), f(&[4])], 1);
        check("MatMul", &[], &[f(&[4]), f(&[2, 4, 3])], 1);
        check("MatMul", &[], &[f(&[2, 3, 4]), f(&[4])], 1);
        check("MatMul", &[], &[f(&[1, 1]), f(&[1, 1])], 1);
        check("MatMul", &[], &[f(&[1, 7]), f(&[7, 3])], 1);
        check("MatMul", &[], &[f(&[3, 1]), f(&[1, 3])], 1);
        check("MatMul", &[], &[f(&[3, 0]), f(&[0, 3])], 1);
    }

    #[test]
    fn products_keep_their_form() {
        let shape = |d: &[&str]| -> Vec<Dim> {
            d.iter()
                .map(|s| s.parse::<i64>().map_or_else(|_| Dim::sym(s), Dim::from))
                .collect()
        };
        let facts = [
            Fact::new(DType::F32, shape(&["B", "1", "S", "64"])),
            Fact::new(DType::F32, shape(&["64", "32"])),
        ];
        let c = loops("MatMul", &facts);
        assert_eq!(c.extents, shape(&["B", "S", "32", "64"]));
        assert_eq!((c.parallel, c.combine), (3, Some(Combine::Add)));
        assert_eq!(format!("{:?}", c.store), "[$i0, 0, $i1, $i2]");
        let outer = [
            Fact::new(DType::F32, shape(&["3", "1"])),
            Fact::new(DType::F32, shape(&["1", "3"])),
        ];
        assert_eq!(loops("MatMul", &outer).combine, None, "nothing to sum over");
    }

    #[test]
    fn gemm() {
        let (t, i) = (
            |n: &'static str, v| (n, Attr::Int(v)),
            |n: &'static str, v| (n, Attr::Float(v)),
        );
        for d in [DType::F32, DType::F64, DType::I32] {
            let x = |shape: &[usize]| numbers(d, shape);
            check("Gemm", &[], &[x(&[3, 4]), x(&[4, 2]), x(&[2])], 1);
            check("Gemm", &[t("transA", 1)], &[x(&[4, 3]), x(&[4, 2])], 1);
            check(
                "Gemm",
                &[t("transB", 1), i("alpha", 2.0), i("beta", 3.0)],
                &[x(&[3, 4]), x(&[2, 4]), x(&[3, 1])],
                1,
            );
            check("Gemm", &[i("beta", 0.0)], &[x(&[1, 4]), x(&[4, 1]), x(&[])], 1);
        }
        let scaled = [i("alpha", 0.5)];
        check(
            "Gemm",
            &scaled,
            &[numbers(DType::F16, &[2, 3]), numbers(DType::F16, &[3, 2]), None],
            1,
        );
    }
}
