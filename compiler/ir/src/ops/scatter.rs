//! Writing at positions, running sums and masks by position.
//!
//! Law: scattering is turned round: each element asks all updates that could be meant for it, and takes the last one, or
//! joins them in order. That costs the extent of the updates for each element, needs no order of writes, and is right
//! when several updates meet. An index outside of its axis is found by gathering it from the positions that there are.

use crate::index::{self, element_count, linear, static_shape, strides};
use crate::op::{
    AttrDef, Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid, normalize_axis, unsupported,
};
use crate::structured::{Binary, Combine, Compute, Expr};
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId};

use super::chosen::{around, named};
use super::composed::reshape;
use super::fragment::Fragment;
use super::gather::{compare, need_axis, within, wrapped};
use super::movement::required_dims;
use super::pointwise::working;

/// How an update joins the element that is there.
#[derive(Clone, Copy)]
enum Reduction {
    None,
    Add,
    Mul,
    Min,
    Max,
}

const REDUCTION: (&str, AttrDef) = ("reduction", AttrDef::OneOf(&["none", "add", "mul", "min", "max"]));

impl Reduction {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let known = cx.str("reduction")?;
        if cx.fact(0)?.dtype == DType::String && known != "none" {
            return invalid(format!("strings are not joined by `{known}`"));
        }
        Ok(match known {
            "none" => Self::None,
            "add" => Self::Add,
            "mul" => Self::Mul,
            "min" => Self::Min,
            "max" => Self::Max,
            _ => return cx.bad("reduction"),
        })
    }

    fn float(self, old: f64, new: f64) -> f64 {
        match self {
            Self::None => new,
            Self::Add => old + new,
            Self::Mul => old * new,
            Self::Min if old.is_nan() || new.is_nan() => f64::NAN,
            Self::Max if old.is_nan() || new.is_nan() => f64::NAN,
            Self::Min => old.min(new),
            Self::Max => old.max(new),
        }
    }

    fn int(self, old: i64, new: i64) -> i64 {
        match self {
            Self::None => new,
            Self::Add => old.wrapping_add(new),
            Self::Mul => old.wrapping_mul(new),
            Self::Min => old.min(new),
            Self::Max => old.max(new),
        }
    }

    /// `data` with `updates[i]` written at position `places[i]`, in order.
    fn scatter(self, data: &Tensor, places: &[usize], updates: &Tensor) -> Result<Tensor, OpError> {
        if places.len() != updates.len() {
            return invalid(format!("{} updates for {} places", updates.len(), places.len()));
        }
        let t = data.dtype();
        if t.is_float() {
            let mut out = data.to_f64();
            for (p, u) in places.iter().zip(updates.to_f64()) {
                out[*p] = self.float(out[*p], u);
            }
            return Ok(Tensor::from_f64(t, data.shape(), out));
        }
        // With the highest bit flipped, u64 compares as i64 does.
        let flip = match self {
            Self::Min | Self::Max if t == DType::U64 => i64::MIN,
            _ => 0,
        };
        let mut out = data.to_i64();
        for (p, u) in places.iter().zip(updates.to_i64()) {
            out[*p] = self.int(out[*p] ^ flip, u ^ flip) ^ flip;
        }
        Ok(Tensor::from_i64(t, data.shape(), out))
    }
}

impl Reduction {
    /// `data` joined with the updates along the last axis that are meant for each element.
    fn join(self, f: &mut Fragment, hit: ValueId, updates: ValueId, data: ValueId) -> Result<ValueId, OpError> {
        let to = f.dtype(data);
        let (data, updates) = (f.widen(data)?, f.widen(updates)?);
        let last = f.fact(hit).rank() - 1;
        let (reduce, join) = match self {
            Self::None => return invalid("updates that replace are not joined"),
            Self::Add => ("ReduceSum", "Add"),
            Self::Mul => ("ReduceProd", "Mul"),
            Self::Min => ("ReduceMin", "Min"),
            Self::Max => ("ReduceMax", "Max"),
        };
        let other = match self {
            Self::Add => f.number(data, 0.0),
            Self::Mul => f.number(data, 1.0),
            _ => f.apply("Unsqueeze", &[("axes", Attr::Dims(vec![Dim::from(last)]))], &[data])?,
        };
        let meant = f.apply("Where", &[], &[hit, updates, other])?;
        let joined = f.reduce(reduce, meant, &[last], false)?;
        let out = f.binary(join, data, joined)?;
        f.cast(out, to)
    }
}

/// Numbers `0..` along axis `axis` of `data`, as axis `at` of `rank`.
fn counted(f: &mut Fragment, data: ValueId, axis: usize, at: usize, rank: usize) -> Result<ValueId, OpError> {
    let extent = f.fact(data).shape[axis].clone();
    let all = f.unary("Shape", data)?;
    let which = f.constant(Tensor::i64(&[], [axis as i64]));
    let limit = f.apply("Gather", &[("axis", Attr::Int(0))], &[all, which])?;
    let [zero, one] = [0, 1].map(|n| f.constant(Tensor::i64(&[], [n])));
    let numbers = f.apply("Range", &[], &[zero, limit, one])?;
    let mut shape = vec![Dim::ONE; rank];
    shape[at] = extent;
    reshape(f, numbers, shape)
}

/// Indices into `axis` of `data` as positions: negative ones count from the end, others outside are an error of the run.
fn positions(f: &mut Fragment, data: ValueId, axis: usize, indices: ValueId) -> Result<ValueId, OpError> {
    let all = counted(f, data, axis, 0, 1)?;
    f.apply("Gather", &[("axis", Attr::Int(0))], &[all, indices])
}

/// The position along the last axis of the last hit, and whether there is one; 0 where there is none.
fn last(f: &mut Fragment, hit: ValueId) -> Result<(ValueId, ValueId), OpError> {
    let axis = f.fact(hit).rank() - 1;
    let numbers = counted(f, hit, axis, axis, axis + 1)?;
    let [none, zero] = [-1, 0].map(|n| f.constant(Tensor::i64(&[], [n])));
    let meant = f.apply("Where", &[], &[hit, numbers, none])?;
    let last = f.reduce("ReduceMax", meant, &[axis], false)?;
    let written = f.binary("GreaterOrEqual", last, zero)?;
    Ok((f.binary("Max", last, zero)?, written))
}

/// The updates, or where it is open whether there are any one more of them, so that number 0 can be read in any case.
fn readable(f: &mut Fragment, updates: ValueId, axis: usize) -> Result<ValueId, OpError> {
    let Fact { shape, .. } = f.fact(updates).clone();
    if shape[axis].as_const().is_some_and(|n| n > 0) {
        return Ok(updates);
    }
    let mut pads = vec![Dim::ZERO; 2 * shape.len()];
    pads[shape.len() + axis] = Dim::ONE;
    f.node("Pad", &[("pads", Attr::Dims(pads))], &[Some(updates)])
}

pub struct ScatterElements;

impl OpDef for ScatterElements {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "ScatterElements",
            "data with [i,indices[i,j,k],k] = updates[i,j,k] (for axis 1)",
            &[
                Param::new("data", Types::COMPARED),
                Param::new("indices", Types::INDEX).group(2),
                Param::new("updates", Types::COMPARED),
            ],
            &[Param::new("output", Types::COMPARED)],
            &[("axis", AttrDef::Int(0)), REDUCTION],
        )
        .since(11);
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, indices, updates) = (cx.fact(0)?, cx.fact(1)?, cx.fact(2)?);
        Reduction::of(cx)?;
        within(&x.shape, &indices.shape, normalize_axis(cx.int("axis")?, x.rank())?)?;
        if indices.rank() != updates.rank() {
            return invalid(format!("indices {indices}, updates {updates}"));
        }
        Ok(vec![Fact::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, indices, updates) = (cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?);
        let axis = normalize_axis(cx.int("axis")?, x.shape().len())?;
        if indices.shape() != updates.shape() {
            return invalid(format!("indices {indices:?}, updates {updates:?}"));
        }
        let mut rows = vec![];
        for i in indices.to_i64() {
            rows.push(wrapped(i, x.shape()[axis])?);
        }
        let mut places = vec![];
        index::for_each(indices.shape(), |ix| {
            let mut at = ix.to_vec();
            at[axis] = rows[places.len()];
            places.push(linear(x.shape(), &at));
        });
        Ok(vec![Reduction::of(cx)?.scatter(x, &places, updates)?])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, indices) = (cx.fact(0)?, cx.fact(1)?);
        let (rank, axis) = (x.rank(), normalize_axis(cx.int("axis")?, x.rank())?);
        let mut f = Fragment::new(cx);
        let (data, mut updates) = (f.required(cx, 0)?, f.required(cx, 2)?);
        let at = f.required(cx, 1)?;
        let mut at = positions(&mut f, data, axis, at)?;
        // Beyond what the indices cover nothing is written.
        let missing: Vec<Dim> = (0..rank)
            .map(|d| match d == axis {
                true => Dim::ZERO,
                false => x.shape[d].clone() - indices.shape[d].clone(),
            })
            .collect();
        if missing.iter().any(|d| !d.is_zero()) {
            let pads = vec![Dim::ZERO; rank].into_iter().chain(missing).collect();
            let attrs = [("pads", Attr::Dims(pads))];
            let never = f.constant(Tensor::i64(&[], [-1]));
            at = f.node("Pad", &attrs, &[Some(at), None, Some(never)])?;
            updates = f.node("Pad", &attrs, &[Some(updates)])?;
        }
        // The updates along a last axis of their own.
        let mut perm: Vec<i64> = (0..rank as i64).filter(|d| *d != axis as i64).collect();
        perm.push(axis as i64);
        let open = [("axes", Attr::Dims(vec![Dim::from(axis)]))];
        let aside = |f: &mut Fragment, v: ValueId| {
            let turned = f.apply("Transpose", &[("perm", Attr::Ints(perm.clone()))], &[v])?;
            f.apply("Unsqueeze", &open, &[turned])
        };
        let meant = aside(&mut f, at)?;
        let here = counted(&mut f, data, axis, axis, rank + 1)?;
        let hit = f.binary("Equal", meant, here)?;
        let reduction = Reduction::of(cx)?;
        let out = match reduction {
            Reduction::None => {
                let (last, written) = last(&mut f, hit)?;
                let attrs = [("axis", Attr::Int(axis as i64))];
                let updates = readable(&mut f, updates, axis)?;
                let new = f.apply("GatherElements", &attrs, &[updates, last])?;
                f.apply("Where", &[], &[written, new, data])?
            }
            _ => {
                let updates = aside(&mut f, updates)?;
                reduction.join(&mut f, hit, updates, data)?
            }
        };
        Ok(f.finish(&[out]))
    }
}

pub struct ScatterNd;

impl ScatterNd {
    /// How many axes an index names, which the rank of the updates tells, too.
    fn named(cx: &Cx) -> Result<usize, OpError> {
        let (x, indices, updates) = (cx.fact(0)?, cx.fact(1)?, cx.fact(2)?);
        match indices.shape.last().map(Dim::as_const) {
            Some(Some(k)) if (0..=x.rank() as i64).contains(&k) => Ok(k as usize),
            Some(None) => match (indices.rank() + x.rank()).checked_sub(updates.rank() + 1) {
                Some(k) if k <= x.rank() => Ok(k),
                _ => invalid(format!("updates {updates} with indices {indices} into {x}")),
            },
            _ => invalid(format!("indices are {indices}")),
        }
    }
}

impl OpDef for ScatterNd {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "ScatterND",
            "data with the slices that the last axis of the indices names replaced by updates",
            &[
                Param::new("data", Types::COMPARED),
                Param::new("indices", Types::I64).group(0),
                Param::new("updates", Types::COMPARED),
            ],
            &[Param::new("output", Types::COMPARED)],
            &[REDUCTION],
        )
        .limits(&["the last extent of `indices` must be known"])
        .since(11);
        &SCHEMA
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let (named, last) = (Dim::from(Self::named(cx)?), cx.fact(1)?.shape.last().cloned());
        let last = last.unwrap_or(Dim::ZERO);
        Ok(vec![(named.clone(), last.clone()), (last, named)])
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, indices) = (cx.fact(0)?, cx.fact(1)?);
        Reduction::of(cx)?;
        match indices.shape.last().map(Dim::as_const) {
            None => return invalid("indices are a scalar"),
            Some(Some(k)) if k < 0 || k > x.rank() as i64 => return invalid(format!("{k} of {} axes", x.rank())),
            Some(Some(_)) => {}
            Some(None) => drop(Self::named(cx)?),
        }
        Ok(vec![Fact::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, indices, updates) = (cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?);
        let Some((named, outer)) = indices.shape().split_last() else {
            return invalid("indices are a scalar");
        };
        let (steps, slice) = (strides(x.shape()), &x.shape()[*named..]);
        let (Some(rows), Some(width)) = (element_count(outer), element_count(slice)) else {
            return invalid("too many elements");
        };
        if updates.len() != rows * width {
            return invalid(format!(
                "{} updates for {rows} slices of {width} elements",
                updates.len()
            ));
        }
        let list = indices.to_i64();
        let mut places = Vec::with_capacity(updates.len());
        for r in 0..rows {
            let mut at = 0;
            for k in 0..*named {
                at += wrapped(list[r * named + k], x.shape()[k])? * steps[k];
            }
            places.extend(at..at + width);
        }
        Ok(vec![Reduction::of(cx)?.scatter(x, &places, updates)?])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, indices) = (cx.fact(0)?, cx.fact(1)?);
        let Some((_, outer)) = indices.shape.split_last() else {
            return invalid("indices are a scalar");
        };
        let named = Self::named(cx)?;
        let rows = Dim::product(outer);
        let slice = &x.shape[named..];
        let shape = |dims: Vec<Dim>| [("shape", Attr::Dims(dims))];
        let mut f = Fragment::new(cx);
        let (data, updates) = (f.required(cx, 0)?, f.required(cx, 2)?);
        let all = f.required(cx, 1)?;
        let all = f.apply("Reshape", &shape(vec![rows.clone(), Dim::from(named)]), &[all])?;
        let flat = std::iter::once(rows.clone()).chain(slice.iter().cloned()).collect();
        let updates = f.apply("Reshape", &shape(flat), &[updates])?;
        // Over the named axes and the updates.
        let mut hit = f.constant(Tensor::bool(&vec![1; named + 1], [true]));
        for axis in 0..named {
            let which = f.constant(Tensor::i64(&[], [axis as i64]));
            let at = f.apply("Gather", &[("axis", Attr::Int(1))], &[all, which])?;
            let at = positions(&mut f, data, axis, at)?;
            let here = counted(&mut f, data, axis, axis, named + 1)?;
            let equal = f.binary("Equal", at, here)?;
            hit = f.binary("And", hit, equal)?;
        }
        let mut full = x.shape[..named].to_vec();
        full.push(rows);
        hit = f.apply("Expand", &shape(full), &[hit])?;
        let after: Vec<Dim> = (named..x.rank()).map(Dim::from).collect();
        let reduction = Reduction::of(cx)?;
        let out = match reduction {
            Reduction::None => {
                let (last, written) = last(&mut f, hit)?;
                let updates = readable(&mut f, updates, 0)?;
                let new = f.apply("Gather", &[("axis", Attr::Int(0))], &[updates, last])?;
                let written = f.apply("Unsqueeze", &[("axes", Attr::Dims(after))], &[written])?;
                f.apply("Where", &[], &[written, new, data])?
            }
            _ => {
                let mut perm: Vec<i64> = (1..=slice.len() as i64).collect();
                perm.push(0);
                let updates = f.apply("Transpose", &[("perm", Attr::Ints(perm))], &[updates])?;
                let hit = f.apply("Unsqueeze", &[("axes", Attr::Dims(after))], &[hit])?;
                reduction.join(&mut f, hit, updates, data)?
            }
        };
        Ok(f.finish(&[out]))
    }
}

/// Running sums or products.
pub struct Running(Combine);

pub const CUM_SUM: Running = Running(Combine::Add);
pub const CUM_PROD: Running = Running(Combine::Mul);

impl Running {
    /// The axis, where only a run knows it.
    fn chosen(cx: &Cx) -> Result<Option<Dim>, OpError> {
        Ok(match cx.dims(1)?.as_deref() {
            Some([axis]) if axis.as_const().is_none() => Some(axis.clone()),
            _ => None,
        })
    }

    fn flags(cx: &Cx) -> Result<(bool, bool), OpError> {
        Ok((cx.int("exclusive")? != 0, cx.int("reverse")? != 0))
    }

    fn is_product(&self) -> bool {
        self.0 == Combine::Mul
    }
}

/// `v[at]` become what is joined up to each, with or without itself.
fn run_along<T: Copy>(v: &mut [T], at: impl Iterator<Item = usize>, exclusive: bool, first: T, join: fn(T, T) -> T) {
    let mut so_far = first;
    for i in at {
        let next = join(so_far, v[i]);
        v[i] = if exclusive { so_far } else { next };
        so_far = next;
    }
}

impl OpDef for Running {
    fn schema(&self) -> &'static Schema {
        const INPUTS: &[Param] = &[
            Param::new("x", Types::NUMBER),
            Param::new("axis", Types::INDEX).shape_like("axis"),
        ];
        const OUTPUTS: &[Param] = &[Param::new("y", Types::NUMBER)];
        const ATTRS: &[(&str, AttrDef)] = &[("exclusive", AttrDef::Int(0)), ("reverse", AttrDef::Int(0))];
        static SUM: Schema = Schema::new("CumSum", "running sums along an axis", INPUTS, OUTPUTS, ATTRS)
            .limits(&["`axis` is the same for all runs"])
            .since(11);
        static PRODUCT: Schema = Schema::new("CumProd", "running products along an axis", INPUTS, OUTPUTS, ATTRS)
            .limits(&["`axis` is the same for all runs"])
            .since(26);
        if self.is_product() { &PRODUCT } else { &SUM }
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let x = cx.fact(0)?;
        if Self::chosen(cx)?.is_none() {
            need_axis(cx, 1, x.rank())?;
        }
        Ok(vec![Fact::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let axis = need_axis(cx, 1, x.shape().len())?;
        let (exclusive, reverse) = Self::flags(cx)?;
        let (n, step) = (x.shape()[axis], strides(x.shape())[axis]);
        let lines: Vec<usize> = (0..x.len()).filter(|i| i / step % n == 0).collect();
        let order = |first: usize| (0..n).map(move |k| first + step * if reverse { n - 1 - k } else { k });
        Ok(vec![if x.dtype().is_float() {
            let mut v = x.to_f64();
            let (first, join): (f64, fn(f64, f64) -> f64) = if self.is_product() {
                (1.0, |a, b| a * b)
            } else {
                (0.0, |a, b| a + b)
            };
            lines
                .iter()
                .for_each(|l| run_along(&mut v, order(*l), exclusive, first, join));
            Tensor::from_f64(x.dtype(), x.shape(), v)
        } else {
            let mut v = x.to_i64();
            let (first, join): (i64, fn(i64, i64) -> i64) = if self.is_product() {
                (1, i64::wrapping_mul)
            } else {
                (0, i64::wrapping_add)
            };
            lines
                .iter()
                .for_each(|l| run_along(&mut v, order(*l), exclusive, first, join));
            Tensor::from_i64(x.dtype(), x.shape(), v)
        }])
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let rank = cx.fact(0)?.rank();
        Ok(Self::chosen(cx)?.map(|axis| named(&[axis], rank).1).unwrap_or_default())
    }

    /// A masked reduction over the whole axis: quadratic work, but without order among the outputs.
    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let x = cx.fact(0)?;
        if let Some(axis) = Self::chosen(cx)? {
            let mut g = Fragment::new(cx);
            let shape = |dims: &[Dim]| [("shape", Attr::Dims(dims.to_vec())), ("allowzero", Attr::Int(1))];
            let data = g.required(cx, 0)?;
            let flat = g.apply("Reshape", &shape(&around(&x.shape, &axis)), &[data])?;
            let mut attrs: Vec<(&str, Attr)> = vec![("axis", Attr::Dims(vec![Dim::ONE]))];
            attrs.extend(["exclusive", "reverse"].map(|name| (name, Attr::Int(cx.int(name).unwrap_or(0)))));
            let y = g.apply(cx.schema.name, &attrs, &[flat])?;
            let y = g.apply("Reshape", &shape(&x.shape), &[y])?;
            return Ok(g.finish(&[y]));
        }
        let axis = need_axis(cx, 1, x.rank())?;
        let (exclusive, reverse) = Self::flags(cx)?;
        let wide = working(x.dtype);
        let reduced = [x.shape[axis].clone()];
        let compute = Compute::nest(x.dtype, &x.shape, &reduced, self.0, |b, it, over| {
            let mut at = it.to_vec();
            at[axis] = over[0].clone();
            let (low, high) = if reverse {
                (&it[axis], &over[0])
            } else {
                (&over[0], &it[axis])
            };
            let op = if exclusive { Binary::Lt } else { Binary::Le };
            let taken = compare(b, op, low.clone(), high.clone());
            let value = b.load(0, x.dtype, at);
            let value = b.cast(wide, value);
            let nothing = b.number(wide, if self.is_product() { 1.0 } else { 0.0 });
            (b.select(taken, value, nothing), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

pub struct Trilu;

impl Trilu {
    /// Whether the upper part stays, and the diagonal it starts from.
    fn part(cx: &Cx) -> Result<(bool, Dim), OpError> {
        if cx.fact(0)?.rank() < 2 {
            return invalid("a triangle needs two axes");
        }
        let k = match cx.dims(1)? {
            None => Dim::ZERO,
            Some(k) if k.len() == 1 => k[0].clone(),
            Some(k) => return invalid(format!("{} diagonals", k.len())),
        };
        Ok((cx.int("upper")? != 0, k))
    }
}

impl OpDef for Trilu {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "Trilu",
            "upper: 0 where j-i < k; lower: 0 where j-i > k",
            &[
                Param::new("input", Types::PLAIN),
                Param::new("k", Types::I64).shape_like("k").optional(),
            ],
            &[Param::new("output", Types::PLAIN)],
            &[("upper", AttrDef::Int(1))],
        )
        .since(14);
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::part(cx)?;
        let x = cx.fact(0)?;
        Ok(vec![Fact::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let (upper, k) = Self::part(cx)?;
        let Some(k) = k.as_const() else {
            return unsupported("a symbolic diagonal");
        };
        Ok(vec![x.rearranged(x.shape(), None, |ix| {
            let (i, j) = (ix[ix.len() - 2] as i64, ix[ix.len() - 1] as i64);
            let stays = if upper { j - i >= k } else { j - i <= k };
            stays.then(|| linear(x.shape(), ix))
        })])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let x = cx.fact(0)?;
        let (upper, k) = Self::part(cx)?;
        let compute = Compute::nest(x.dtype, &x.shape, &[], Combine::Add, |b, it, _| {
            let diagonal = it[it.len() - 1].clone() - it[it.len() - 2].clone();
            let (low, high) = if upper { (k, diagonal) } else { (diagonal, k) };
            let stays = compare(b, Binary::Le, low, high);
            let value = b.load(0, x.dtype, it.to_vec());
            let zero = b.number(x.dtype, 0.0);
            (b.select(stays, value, zero), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

pub struct OneHot;

impl OneHot {
    /// Where the new axis goes, and its extent.
    fn new_axis(cx: &Cx) -> Result<(usize, Dim), OpError> {
        let axis = normalize_axis(cx.int("axis")?, cx.fact(0)?.rank() + 1)?;
        // A float depth is never known to inference as a dim, only as a constant.
        let float = cx.arg(1).and_then(|a| a.constant).filter(|t| t.dtype().is_float());
        let depth = match float {
            Some(t) => t.to_i64().into_iter().map(Dim::from).collect(),
            None => required_dims(cx, 1)?,
        };
        match depth.as_slice() {
            [d] if d.as_const().is_none_or(|c| c >= 0) => Ok((axis, d.clone())),
            _ => invalid("depth must be one integer of at least 0"),
        }
    }
}

impl OpDef for OneHot {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "OneHot",
            "values[1] where the index along the new `axis` equals indices, else values[0]",
            &[
                Param::new("indices", Types::NUMBER).group(0),
                Param::new("depth", Types::NUMBER).shape_like("depth"),
                Param::new("values", Types::PLAIN),
            ],
            &[Param::new("output", Types::PLAIN)],
            &[("axis", AttrDef::Int(-1))],
        )
        .since(9);
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (axis, depth) = Self::new_axis(cx)?;
        let values = cx.fact(2)?;
        if values.rank() != 1 || values.shape[0].as_const().is_some_and(|c| c != 2) {
            return invalid(format!("values are {values}, not two elements"));
        }
        let mut shape = cx.fact(0)?.shape.clone();
        shape.insert(axis, depth);
        Ok(vec![Fact::new(values.dtype, shape)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (indices, values) = (cx.tensor(0)?, cx.tensor(2)?);
        let (axis, depth) = Self::new_axis(cx)?;
        let shape = static_shape(&self.infer(cx)?[0])?;
        let depth = depth.as_const().unwrap_or(0);
        let list = indices.to_i64();
        Ok(vec![values.rearranged(&shape, None, |ix| {
            let mut at = ix.to_vec();
            let here = at.remove(axis) as i64;
            let wanted = list[linear(indices.shape(), &at)];
            let hot = wanted == here || wanted < 0 && wanted.saturating_add(depth) == here;
            Some(usize::from(hot))
        })])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (indices, values) = (cx.fact(0)?, cx.fact(2)?);
        let (axis, depth) = Self::new_axis(cx)?;
        let shape = &self.infer(cx)?[0].shape;
        let compute = Compute::nest(values.dtype, shape, &[], Combine::Add, |b, it, _| {
            let mut at = it.to_vec();
            let here = at.remove(axis);
            let wanted = b.load(0, indices.dtype, at);
            let wanted = b.cast(DType::I64, wanted);
            let here = b.push(Expr::Index(here));
            let zero = b.int(DType::I64, 0);
            let depth = b.push(Expr::Index(depth));
            let counted = b.binary(Binary::Add, wanted, depth);
            let negative = b.binary(Binary::Lt, wanted, zero);
            let wanted = b.select(negative, counted, wanted);
            let hot = b.binary(Binary::Eq, wanted, here);
            let on = b.load(2, values.dtype, vec![Dim::ONE]);
            let off = b.load(2, values.dtype, vec![Dim::ZERO]);
            (b.select(hot, on, off), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
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

    fn scattered(op: &str, reduction: &str, inputs: &[Tensor]) -> Vec<f64> {
        let facts: Vec<Fact> = inputs.iter().map(Tensor::fact).collect();
        let args: Vec<_> = facts
            .iter()
            .zip(inputs)
            .map(|(fact, t)| {
                Some(Arg {
                    fact,
                    constant: Some(t),
                })
            })
            .collect();
        let attrs: Attrs = [("reduction".into(), Attr::Str(reduction.into()))].into();
        let op = Op::find(op).expect("there");
        let cx = Cx {
            schema: op.schema(),
            attrs: &attrs,
            inputs: &args,
            outputs: 1,
        };
        op.0.eval(&cx).expect("legal")[0].to_f64()
    }

    #[test]
    fn scatters() {
        let x = Tensor::f32(&[4], [1.0, 2.0, 3.0, 4.0]);
        let (ix, u) = (Tensor::i64(&[3], [-1, 0, 0]), Tensor::f32(&[3], [10.0, 20.0, 30.0]));
        let run = |r: &str| scattered("ScatterElements", r, &[x.clone(), ix.clone(), u.clone()]);
        assert_eq!(run("none"), [30.0, 2.0, 3.0, 10.0]);
        assert_eq!(run("add"), [51.0, 2.0, 3.0, 14.0]);
        assert_eq!(run("max"), [30.0, 2.0, 3.0, 10.0]);
        assert_eq!(run("min"), [1.0, 2.0, 3.0, 4.0]);
        let m = Tensor::i64(&[2, 2], [1, 2, 3, 4]);
        let nd = scattered(
            "ScatterND",
            "mul",
            &[m, Tensor::i64(&[1, 1], [1]), Tensor::i64(&[1, 2], [5, 6])],
        );
        assert_eq!(nd, [1.0, 2.0, 15.0, 24.0]);
    }

    #[test]
    fn eval_equals_loops() {
        for t in [DType::F32, DType::F64, DType::I32, DType::I64] {
            for (exclusive, reverse) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                let attrs = [("exclusive", Attr::Int(exclusive)), ("reverse", Attr::Int(reverse))];
                check(
                    "CumSum",
                    &attrs,
                    &[numbers(t, &[2, 5, 3]), Some(Tensor::i64(&[], [1]))],
                    1,
                );
            }
        }
        check(
            "CumSum",
            &[("axis", Attr::Ints(vec![-1]))],
            &[numbers(DType::F16, &[3, 1])],
            1,
        );
        for t in [DType::F32, DType::I64, DType::Bool] {
            for (upper, k) in [(1, 0), (0, 0), (1, 1), (0, -1), (1, -2), (0, 9)] {
                let attrs = [("upper", Attr::Int(upper))];
                check(
                    "Trilu",
                    &attrs,
                    &[numbers(t, &[2, 3, 4]), Some(Tensor::i64(&[], [k]))],
                    1,
                );
            }
        }
        check("Trilu", &[], &[numbers(DType::F32, &[1, 1])], 1);
        for t in [DType::F32, DType::F16, DType::I32, DType::Bool] {
            for r in ["none", "add", "mul", "min", "max"] {
                if t == DType::Bool && r != "none" {
                    continue;
                }
                let attrs = |axis: i64| vec![("axis", Attr::Int(axis)), ("reduction", Attr::Str(r.into()))];
                let repeated = Some(Tensor::i64(&[2, 3], [2, -1, 2, 0, 0, 1]));
                let all = [numbers(t, &[2, 4]), repeated.clone(), numbers(t, &[2, 3])];
                check("ScatterElements", &attrs(1), &all, 1);
                // Fewer rows than there are.
                let all = [numbers(t, &[3, 5]), repeated.clone(), numbers(t, &[2, 3])];
                check("ScatterElements", &attrs(0), &all, 1);
                let nd = &attrs(0)[1..];
                let pairs = Some(Tensor::i64(&[3, 2], [0, 1, -1, 0, 0, 1]));
                check(
                    "ScatterND",
                    nd,
                    &[numbers(t, &[2, 3]), pairs.clone(), numbers(t, &[3])],
                    1,
                );
                check(
                    "ScatterND",
                    nd,
                    &[numbers(t, &[2, 3, 2]), pairs, numbers(t, &[3, 2])],
                    1,
                );
                let rows = Some(Tensor::i64(&[2, 2, 1], [1, 0, 1, 2]));
                check("ScatterND", nd, &[numbers(t, &[3, 2]), rows, numbers(t, &[2, 2, 2])], 1);
            }
        }
        for axis in [-1, 0, 1] {
            let indices = Some(Tensor::i64(&[2, 2], [0, -1, 7, 2]));
            let values = Some(Tensor::f32(&[2], [0.5, 2.0]));
            let depth = Some(Tensor::i64(&[1], [3]));
            check("OneHot", &[("axis", Attr::Int(axis))], &[indices, depth, values], 1);
        }
    }
}
