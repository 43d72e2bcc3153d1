//! The largest or smallest elements in order: first the place of each element among those of its row, then which element has
//! each place. Both look at all pairs, so that nothing depends on an order of the iterations.

use std::cmp::Ordering;

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid, normalize_axis};
use crate::ops::fragment::Fragment;
use crate::ops::gather::compare;
use crate::ops::movement::required_dims;
use crate::structured::{Binary, Body, Combine, Compute, Expr, ExprId, Unary};
use crate::{Attr, DType, Dim, Fact, Tensor};

pub struct TopK;
/// The place of each element among those of its row.
pub struct Place;
/// Which element of its row has each of the first places.
pub struct AtPlace;

/// How elements are ordered: numbers by size, NaN above all, equal ones by where they stand.
fn order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

fn axis(cx: &Cx) -> Result<usize, OpError> {
    normalize_axis(cx.int("axis")?, cx.fact(0)?.rank())
}

/// For each row along `axis`, the linear positions of its elements.
fn rows(shape: &[usize], axis: usize) -> Vec<Vec<usize>> {
    let inner: usize = shape[axis + 1..].iter().product();
    let rows = shape[..axis].iter().product::<usize>() * inner;
    let row = |r: usize| {
        let start = r / inner * shape[axis] * inner + r % inner;
        (0..shape[axis]).map(|k| start + k * inner).collect()
    };
    (0..rows).map(row).collect()
}

/// The positions in a row, the wanted ones first.
fn sorted(x: &Tensor, row: &[usize], largest: bool) -> Vec<usize> {
    let by = |o: Ordering| if largest { o.reverse() } else { o };
    let mut at: Vec<usize> = (0..row.len()).collect();
    if x.dtype().is_float() {
        let v = x.to_f64();
        at.sort_by(|a, b| by(order(v[row[*a]], v[row[*b]])));
    } else {
        // What is too large for a signed number is compared without its sign.
        let unsigned = x.dtype() == DType::U64;
        let v = x.to_i64();
        let key = |i: usize| {
            let n = v[row[i]];
            if unsigned { i128::from(n as u64) } else { i128::from(n) }
        };
        at.sort_by(|a, b| by(key(*a).cmp(&key(*b))));
    }
    at
}

impl OpDef for TopK {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "TopK",
            "the K largest (or smallest) elements along an axis in order, and where they stand",
            &[
                Param::new("X", Types::NUMBER),
                Param::new("K", Types::I64).shape_like("k"),
            ],
            &[
                Param::new("Values", Types::NUMBER),
                Param::new("Indices", Types::I64).group(2),
            ],
            &[
                ("axis", AttrDef::Int(-1)),
                ("largest", AttrDef::Int(1)),
                ("sorted", AttrDef::Int(1)),
            ],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, axis) = (cx.fact(0)?, axis(cx)?);
        let mut shape = x.shape.clone();
        shape[axis] = Self::count(cx)?;
        if let (Some(k), Some(n)) = (shape[axis].as_const(), x.shape[axis].as_const())
            && (k < 0 || k > n)
        {
            return invalid(format!("{k} of {n} elements"));
        }
        let all = [Fact::new(x.dtype, shape.clone()), Fact::new(DType::I64, shape)];
        Ok(all.into_iter().take(cx.outputs).collect())
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, axis, largest) = (cx.tensor(0)?, axis(cx)?, cx.int("largest")? != 0);
        let Some(k) = Self::count(cx)?.as_const() else {
            return invalid("K is not known");
        };
        let (k, n) = (usize::try_from(k).unwrap_or(0), x.shape()[axis]);
        if k > n {
            return invalid(format!("{k} of {n} elements"));
        }
        let mut shape = x.shape().to_vec();
        shape[axis] = k;
        let from = rows(x.shape(), axis);
        let (mut at, mut places) = (vec![0; shape.iter().product()], vec![0; shape.iter().product()]);
        for (from, to) in from.iter().zip(rows(&shape, axis)) {
            for (i, to) in sorted(x, from, largest).into_iter().zip(to) {
                (at[to], places[to]) = (from[i], i as i64);
            }
        }
        let size = x.dtype().size();
        let bytes: Vec<u8> = at
            .iter()
            .flat_map(|i| &x.bytes()[i * size..][..size])
            .copied()
            .collect();
        let values = Tensor::new(x.dtype(), shape.clone(), bytes.into());
        let values = values.map_err(|e| OpError::Invalid(format!("{e:?}")))?;
        Ok([values, Tensor::i64(&shape, places)]
            .into_iter()
            .take(cx.outputs)
            .collect())
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let axis = ("axis", Attr::Int(axis(cx)? as i64));
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let largest = ("largest", Attr::Int(cx.int("largest")?));
        let place = g.apply("cameo::Place", &[axis.clone(), largest], &[x])?;
        let count = ("count", Attr::Dims(vec![Self::count(cx)?]));
        let at = g.apply("cameo::AtPlace", &[axis.clone(), count], &[place])?;
        let values = g.apply("GatherElements", &[axis], &[x, at])?;
        Ok(g.finish(&[values, at][..cx.outputs]))
    }
}

impl TopK {
    fn count(cx: &Cx) -> Result<Dim, OpError> {
        match required_dims(cx, 1)?.as_slice() {
            [k] => Ok(k.clone()),
            other => invalid(format!("{} numbers for K", other.len())),
        }
    }
}

impl OpDef for Place {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Place",
            "how many elements of the row are larger (or smaller), or equal and before it",
            &[Param::new("x", Types::NUMBER)],
            &[Param::new("place", Types::I64).group(2)],
            &[("axis", AttrDef::ReqInt), ("largest", AttrDef::Int(1))],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        axis(cx)?;
        Ok(vec![Fact::new(DType::I64, cx.fact(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, axis, largest) = (cx.tensor(0)?, axis(cx)?, cx.int("largest")? != 0);
        let mut places = vec![0; x.len()];
        for row in rows(x.shape(), axis) {
            for (place, i) in sorted(x, &row, largest).into_iter().enumerate() {
                places[row[i]] = place as i64;
            }
        }
        Ok(vec![Tensor::i64(x.shape(), places)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, axis, largest) = (cx.fact(0)?, axis(cx)?, cx.int("largest")? != 0);
        let reduced = [x.shape[axis].clone()];
        let compute = Compute::nest(DType::I64, &x.shape, &reduced, Combine::Add, |b, it, over| {
            let mut other = it.to_vec();
            other[axis] = over[0].clone();
            let mine = b.load(0, x.dtype, it.to_vec());
            let theirs = b.load(0, x.dtype, other);
            let (high, low) = if largest { (theirs, mine) } else { (mine, theirs) };
            let (mut wins, mut same) = (b.binary(Binary::Lt, low, high), b.binary(Binary::Eq, low, high));
            if x.dtype.is_float() {
                let (above, below) = (b.unary(Unary::IsNan, high), b.unary(Unary::IsNan, low));
                let number = b.unary(Unary::Not, below);
                let alone = b.binary(Binary::And, above, number);
                wins = b.binary(Binary::Or, wins, alone);
                let both = b.binary(Binary::And, above, below);
                same = b.binary(Binary::Or, same, both);
            }
            let before = compare(b, Binary::Lt, over[0].clone(), it[axis].clone());
            let tie = b.binary(Binary::And, same, before);
            let wins = b.binary(Binary::Or, wins, tie);
            (one_if(b, wins), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

fn one_if(b: &mut Body, condition: ExprId) -> ExprId {
    let (one, zero) = (b.int(DType::I64, 1), b.int(DType::I64, 0));
    b.select(condition, one, zero)
}

impl AtPlace {
    fn count(cx: &Cx) -> Result<Dim, OpError> {
        match cx.attrs.get("count") {
            Some(Attr::Dims(count)) if count.len() == 1 => Ok(count[0].clone()),
            _ => invalid("attribute `count` is one dimension"),
        }
    }
}

impl OpDef for AtPlace {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::AtPlace",
            "which element of the row has place 0, 1, … (0 where none has it)",
            &[Param::new("place", Types::I64)],
            &[Param::new("index", Types::I64)],
            &[("axis", AttrDef::ReqInt), ("count", AttrDef::ReqDims)],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let mut shape = cx.fact(0)?.shape.clone();
        shape[axis(cx)?] = Self::count(cx)?;
        Ok(vec![Fact::new(DType::I64, shape)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, axis) = (cx.tensor(0)?, axis(cx)?);
        let Some(count) = Self::count(cx)?.as_const() else {
            return invalid("the count is not known");
        };
        let mut shape = x.shape().to_vec();
        shape[axis] = usize::try_from(count).unwrap_or(0);
        let (places, mut out) = (x.to_i64(), vec![0; shape.iter().product()]);
        for (from, to) in rows(x.shape(), axis).into_iter().zip(rows(&shape, axis)) {
            for (k, to) in to.into_iter().enumerate() {
                let at = from.iter().zip(0..).filter(|(i, _)| places[**i] == k as i64);
                out[to] = at.map(|(_, i)| i).sum();
            }
        }
        Ok(vec![Tensor::i64(&shape, out)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, axis) = (cx.fact(0)?, axis(cx)?);
        let shape = &self.infer(cx)?[0].shape;
        let reduced = [x.shape[axis].clone()];
        let compute = Compute::nest(DType::I64, shape, &reduced, Combine::Add, |b, it, over| {
            let mut at = it.to_vec();
            at[axis] = over[0].clone();
            let place = b.load(0, DType::I64, at);
            let wanted = b.push(Expr::Index(it[axis].clone()));
            // More places than elements are an error of the run.
            let wanted = b.push(Expr::CheckedIndex(wanted, x.shape[axis].clone()));
            let here = b.binary(Binary::Eq, place, wanted);
            let (index, zero) = (b.push(Expr::Index(over[0].clone())), b.int(DType::I64, 0));
            (b.select(here, index, zero), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}
