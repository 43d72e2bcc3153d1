//! `DeformConv`: convolutions that read each position of the kernel from a place that data moves.
//!
//! Laws: what is read becomes columns first, each element once for all output channels; the sum is a matrix product with
//! them. Between elements is linear interpolation, outside of the input are zeros.

use crate::index::{self, linear, static_shape};
use crate::op::{Attr, AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, differ, optional, reshape};
use crate::ops::conv::{group_count, kernel, operands, per_group};
use crate::ops::fragment::Fragment;
use crate::ops::pointwise::working;
use crate::ops::window::{Concrete, DILATIONS, PADS, STRIDES, Window};
use crate::structured::{Binary, Body, Combine, Compute, Expr, ExprId, Scalar, Unary};
use crate::{DType, Dim, Fact, Tensor, ValueId};

const OFFSET_GROUP: (&str, AttrDef) = ("offset_group", AttrDef::Int(1));

pub(super) const DEFORM_CONV: Composed = Composed {
    schema: &Schema::new(
        "DeformConv",
        "Conv, whose reads are moved by offset[n,(g,k,axis),p] and weighed by mask[n,(g,k),p], in groups g of channels",
        &[
            Param::new("X", Types::FLOAT),
            Param::new("W", Types::FLOAT),
            Param::new("offset", Types::FLOAT),
            Param::new("B", Types::FLOAT).optional(),
            Param::new("mask", Types::FLOAT).optional(),
        ],
        &[Param::new("Y", Types::FLOAT)],
        &[
            DILATIONS,
            ("group", AttrDef::Int(1)),
            ("kernel_shape", AttrDef::OptInts),
            OFFSET_GROUP,
            PADS,
            STRIDES,
        ],
    )
    .since(19),
    build,
    eval,
};

fn build(cx: &Cx, g: &mut Fragment) -> Result<Vec<ValueId>, OpError> {
    let (x, w) = operands(cx)?;
    let groups = group_count(cx)?;
    let (inputs, outputs) = (per_group(&x.shape[1], &groups)?, per_group(&w.shape[0], &groups)?);
    if differ(&inputs, &w.shape[1]) {
        return invalid(format!("weight {w} for {inputs} channels a group"));
    }
    let taps = kernel(cx, w)?;
    let mut attrs = vec![
        ("kernel", Attr::Dims(taps.clone())),
        ("offset_group", Attr::Int(cx.int("offset_group")?)),
    ];
    for name in ["dilations", "pads", "strides"] {
        attrs.extend(cx.attrs.get(name).map(|v| (name, v.clone())));
    }
    let mut wide = vec![];
    for i in [0, 2, 4] {
        wide.push(match g.input(i) {
            Some(v) => Some(g.widen(v)?),
            None => None,
        });
    }
    let columns = g.node("cameo::DeformedColumns", &attrs, &wide)?;
    let places = g.fact(columns).shape[2 + taps.len()..].to_vec();
    let depth = inputs * Dim::product(&taps);
    let shape = vec![x.shape[0].clone(), groups.clone(), depth.clone(), Dim::product(&places)];
    let columns = reshape(g, columns, shape)?;
    let weight = g.required(cx, 1)?;
    let weight = g.widen(weight)?;
    let weight = reshape(g, weight, vec![groups, outputs, depth])?;
    let y = g.binary("MatMul", weight, columns)?;
    let mut shape = vec![x.shape[0].clone(), w.shape[0].clone()];
    shape.extend(places.iter().cloned());
    let mut y = reshape(g, y, shape)?;
    if let Some(bias) = g.input(3) {
        let fact = g.fact(bias);
        if fact.rank() != 1 || differ(&fact.shape[0], &w.shape[0]) {
            return invalid(format!("bias {fact} for weight {w}"));
        }
        let mut shape = vec![Dim::ONE; 1 + places.len()];
        shape[0] = w.shape[0].clone();
        let bias = g.widen(bias)?;
        let bias = reshape(g, bias, shape)?;
        y = g.binary("Add", y, bias)?;
    }
    Ok(vec![g.cast(y, x.dtype)?])
}

fn eval(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    let [x, w, offset] = [cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?];
    let (bias, mask) = (optional(cx, 3)?, optional(cx, 4)?);
    let taps = kernel(cx, cx.fact(1)?)?;
    let window = Window::new(cx, &cx.fact(0)?.shape[2..], taps, false)?;
    let output = static_shape(&Fact::new(x.dtype(), window.output.clone()))?;
    let reads = Reads::new(cx, x, offset, mask, window.concrete()?, &output)?;
    let ([batch, channels, ..], [outputs, per, own @ ..]) = (x.shape(), w.shape()) else {
        return invalid("input and weight have a batch and channels");
    };
    let (batch, channels, outputs, per) = (*batch, *channels, *outputs, *per);
    let groups = usize::try_from(cx.int("group")?).unwrap_or(0).max(1);
    if per * groups != channels || outputs % groups != 0 || own != reads.window.kernel {
        return invalid(format!("weight {:?} for {channels} channels", w.shape()));
    }
    if bias.is_some_and(|b| b.shape() != [outputs]) {
        return invalid(format!("a bias that is not of {outputs} channels"));
    }
    let (weights, bias) = (w.to_f64(), bias.map(Tensor::to_f64));
    let (size, count) = (own.iter().product::<usize>(), output.iter().product::<usize>());
    let mut y = vec![0.0; batch * outputs * count];
    for n in 0..batch {
        for o in 0..outputs {
            index::for_each(&output, |p| {
                let mut sum = bias.as_ref().map_or(0.0, |b| b[o]);
                index::for_each(own, |k| {
                    for c in 0..per {
                        let weight = weights[(o * per + c) * size + linear(own, k)];
                        sum += weight * reads.at(n, o / (outputs / groups) * per + c, k, p);
                    }
                });
                y[(n * outputs + o) * count + linear(&output, p)] = sum;
            });
        }
    }
    let shape: Vec<usize> = [batch, outputs].into_iter().chain(output).collect();
    Ok(vec![Tensor::from_f64(x.dtype(), &shape, y)])
}

/// What is read, as numbers.
struct Reads {
    values: Vec<f64>,
    offsets: Vec<f64>,
    mask: Option<Vec<f64>>,
    window: Concrete,
    output: Vec<usize>,
    channels: usize,
    groups: usize,
    round: fn(f64) -> f64,
}

impl Reads {
    fn new(
        cx: &Cx,
        x: &Tensor,
        offset: &Tensor,
        mask: Option<&Tensor>,
        window: Concrete,
        output: &[usize],
    ) -> Result<Self, OpError> {
        let [batch, channels, ..] = x.shape() else {
            return invalid("an input without channels");
        };
        let groups = usize::try_from(cx.int("offset_group")?).unwrap_or(0);
        let taps: usize = window.kernel.iter().product();
        let shape = |count: usize| -> Vec<usize> {
            let first = [*batch, groups * taps * count];
            first.into_iter().chain(output.iter().copied()).collect()
        };
        let fits = offset.shape() == shape(output.len()) && mask.is_none_or(|m| m.shape() == shape(1));
        if !fits || groups == 0 || channels % groups != 0 {
            return invalid(format!(
                "offsets {:?} of {groups} groups for {:?}",
                offset.shape(),
                x.shape()
            ));
        }
        Ok(Self {
            values: x.to_f64(),
            offsets: offset.to_f64(),
            mask: mask.map(Tensor::to_f64),
            window,
            output: output.to_vec(),
            channels: *channels,
            groups,
            // Places are told in the precision that they are computed in.
            round: if x.dtype() == DType::F64 {
                |v| v
            } else {
                |v| f64::from(v as f32)
            },
        })
    }

    /// What output position `p` reads for position `k` of the kernel in channel `c`.
    fn at(&self, n: usize, c: usize, k: &[usize], p: &[usize]) -> f64 {
        let (input, axes) = (&self.window.input, k.len());
        let (count, taps) = (
            self.output.iter().product::<usize>(),
            self.window.kernel.iter().product::<usize>(),
        );
        let group = n * self.groups + c / (self.channels / self.groups);
        let tap = group * taps + linear(&self.window.kernel, k);
        let place = linear(&self.output, p);
        // Elements that it is between, axis by axis.
        let mut terms = vec![(Some(0), 1.0)];
        for (axis, whole) in self.window.position(p, k).into_iter().enumerate() {
            let at = (self.round)(whole as f64 + self.offsets[(tap * axes + axis) * count + place]);
            let (low, part) = (at.floor(), at - at.floor());
            let inside = |v: f64| (v >= 0.0 && v < input[axis] as f64).then_some(v as usize);
            let around = [(inside(low), 1.0 - part), (inside(low + 1.0), part)];
            let more = |(at, weight): (Option<usize>, f64)| {
                around.map(|(i, w)| (at.zip(i).map(|(a, i)| a * input[axis] + i), weight * w))
            };
            terms = terms.into_iter().flat_map(more).collect();
        }
        let image = (n * self.channels + c) * input.iter().product::<usize>();
        let read = |(at, weight): (Option<usize>, f64)| at.map_or(0.0, |at| weight * self.values[image + at]);
        let sum: f64 = terms.into_iter().map(read).sum();
        sum * self.mask.as_ref().map_or(1.0, |m| m[tap * count + place])
    }
}

pub struct DeformedColumns;

impl DeformedColumns {
    /// The windows, and the number of channels that are moved together.
    fn parts(cx: &Cx) -> Result<(Window, Dim), OpError> {
        let (x, offset) = (cx.fact(0)?, cx.fact(1)?);
        let taps = match cx.attrs.get("kernel") {
            Some(Attr::Dims(d)) if x.rank() > 2 && d.len() + 2 == x.rank() => d.clone(),
            _ => return invalid(format!("a kernel of {x} must have one dim for each spatial axis")),
        };
        let groups = match cx.int("offset_group")? {
            n if n > 0 => Dim::from(n),
            n => return invalid(format!("attribute `offset_group` is {n}")),
        };
        let together = per_group(&x.shape[1], &groups)?;
        let window = Window::new(cx, &x.shape[2..], taps, false)?;
        let rows = groups * Dim::product(&window.kernel);
        let mut wanted = vec![x.shape[0].clone(), rows.clone() * Dim::from(window.kernel.len())];
        wanted.extend_from_slice(&window.output);
        let apart = |f: &Fact, wanted: &[Dim]| {
            f.rank() != wanted.len() || f.shape.iter().zip(wanted).any(|(a, b)| differ(a, b))
        };
        if apart(offset, &wanted) {
            return invalid(format!("offsets {offset}, wanted is {wanted:?}"));
        }
        wanted[1] = rows;
        if let Some(mask) = cx.arg(2)
            && apart(mask.fact, &wanted)
        {
            return invalid(format!("mask {}, wanted is {wanted:?}", mask.fact));
        }
        Ok((window, together))
    }
}

impl OpDef for DeformedColumns {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::DeformedColumns",
            "what DeformConv reads of X: [n, c, positions in the kernel, output positions]",
            &[
                Param::new("X", Types::FLOAT),
                Param::new("offset", Types::FLOAT),
                Param::new("mask", Types::FLOAT).optional(),
            ],
            &[Param::new("Y", Types::FLOAT)],
            &[DILATIONS, ("kernel", AttrDef::ReqDims), OFFSET_GROUP, PADS, STRIDES],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, (window, _)) = (cx.fact(0)?, Self::parts(cx)?);
        let shape = x.shape[..2].iter().chain(&window.kernel).chain(&window.output);
        Ok(vec![Fact::new(x.dtype, shape.cloned().collect::<Vec<_>>())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, offset) = (cx.tensor(0)?, cx.tensor(1)?);
        let shape = static_shape(&self.infer(cx)?[0])?;
        let window = Self::parts(cx)?.0.concrete()?;
        let axes = window.kernel.len();
        let reads = Reads::new(cx, x, offset, optional(cx, 2)?, window, &shape[2 + axes..])?;
        let mut y = vec![];
        index::for_each(&shape, |ix| {
            let (k, p) = ix[2..].split_at(axes);
            y.push(reads.at(ix[0], ix[1], k, p));
        });
        Ok(vec![Tensor::from_f64(x.dtype(), &shape, y)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, (window, together)) = (cx.fact(0)?, Self::parts(cx)?);
        let axes = window.kernel.len();
        let work = working(x.dtype);
        let groups = Dim::from(cx.int("offset_group")?);
        let mut parallel = vec![x.shape[0].clone(), groups, together.clone()];
        parallel.extend_from_slice(&window.kernel);
        parallel.extend_from_slice(&window.output);
        let compute = Compute::nest(x.dtype, &parallel, &[], Combine::Add, |b, it, _| {
            let (k, p) = it[3..].split_at(axes);
            let channel = it[1].clone() * together.clone() + it[2].clone();
            let tap = index::linear_dim(&window.kernel, k) + it[1].clone() * Dim::product(&window.kernel);
            let of = |b: &mut Body, operand: usize, row: Dim| {
                let at = [it[0].clone(), row].into_iter().chain(p.iter().cloned());
                let v = b.load(operand, x.dtype, at.collect());
                b.cast(work, v)
            };
            let mut terms: Vec<(Vec<Dim>, Option<ExprId>)> = vec![(vec![it[0].clone(), channel.clone()], None)];
            for axis in 0..axes {
                let moved = of(b, 1, tap.clone() * Dim::from(axes) + Dim::from(axis));
                let whole = b.push(Expr::Index(window.position(axis, &p[axis], &k[axis])));
                let whole = b.cast(work, whole);
                let place = b.binary(Binary::Add, whole, moved);
                let around = between(b, place, &window.input[axis]);
                let more = |(index, weight): (Vec<Dim>, Option<ExprId>), b: &mut Body| {
                    around.map(|(at, w)| {
                        let index = index.iter().cloned().chain([Dim::aux(at)]).collect();
                        let weight = weight.map_or(w, |v| b.binary(Binary::Mul, v, w));
                        (index, Some(weight))
                    })
                };
                terms = terms.into_iter().flat_map(|t| more(t, b)).collect();
            }
            let mut sum = b.float(work, 0.0);
            for (index, weight) in terms {
                let value = b.push(Expr::Load {
                    operand: 0,
                    dtype: x.dtype,
                    index,
                    fill: Some(Scalar::Float(0)),
                });
                let mut value = b.cast(work, value);
                if let Some(weight) = weight {
                    value = b.binary(Binary::Mul, value, weight);
                }
                sum = b.binary(Binary::Add, sum, value);
            }
            if cx.has(2) {
                let mask = of(b, 2, tap);
                sum = b.binary(Binary::Mul, sum, mask);
            }
            let store = [it[0].clone(), channel].into_iter().chain(it[3..].iter().cloned());
            (b.cast(x.dtype, sum), store.collect())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

/// The elements that a place is between, and their weights.
fn between(b: &mut Body, place: ExprId, extent: &Dim) -> [(ExprId, ExprId); 2] {
    let work = b.dtype(place);
    // As far outside as both are, for what no integer can hold.
    let low = b.float(work, -4.0);
    let high = b.push(Expr::Index(extent.clone() + Dim::from(4i64)));
    let high = b.cast(work, high);
    let above = b.binary(Binary::Le, low, place);
    let place = b.select(above, place, low);
    let below = b.binary(Binary::Le, place, high);
    let place = b.select(below, place, high);
    let floor = b.unary(Unary::Floor, place);
    let one = b.float(work, 1.0);
    let part = b.binary(Binary::Sub, place, floor);
    let rest = b.binary(Binary::Sub, one, part);
    let next = b.binary(Binary::Add, floor, one);
    let [floor, next] = [floor, next].map(|v| b.cast(DType::I64, v));
    [(floor, rest), (next, part)]
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, sample};
    use crate::{Attr, DType, Tensor};

    fn ints(name: &'static str, v: &[i64]) -> (&'static str, Attr) {
        (name, Attr::Ints(v.to_vec()))
    }

    #[test]
    fn deformed() {
        for t in [DType::F32, DType::F64, DType::F16] {
            let s = |shape: &[usize], seed| sample(t, shape, seed);
            let (x, w) = (|| s(&[2, 4, 4, 5], 1), || s(&[6, 4, 2, 3], 2));
            check("DeformConv", &[], &[x(), w(), s(&[2, 12, 3, 3], 3)], 1);
            let inputs = [x(), w(), s(&[2, 12, 3, 3], 3), s(&[6], 4), s(&[2, 6, 3, 3], 5)];
            check("DeformConv", &[], &inputs, 1);
            let attrs = [
                ("group", Attr::Int(2)),
                ("offset_group", Attr::Int(2)),
                ints("pads", &[1, 0, 1, 1]),
                ints("strides", &[2, 1]),
                ints("dilations", &[1, 2]),
            ];
            let inputs = [
                x(),
                s(&[6, 2, 2, 3], 2),
                s(&[2, 24, 3, 2], 3),
                None,
                s(&[2, 12, 3, 2], 5),
            ];
            check("DeformConv", &attrs, &inputs, 1);
        }
        let s = |shape: &[usize], seed| sample(DType::F32, shape, seed);
        check(
            "DeformConv",
            &[],
            &[s(&[1, 2, 6], 1), s(&[3, 2, 3], 2), s(&[1, 3, 4], 3)],
            1,
        );
        let space = [s(&[1, 1, 2, 3, 2], 1), s(&[2, 1, 1, 2, 1], 2), s(&[1, 6, 2, 2, 2], 3)];
        check("DeformConv", &[], &space, 1);
    }

    #[test]
    fn values() {
        let x = Some(Tensor::f32(&[1, 1, 3, 3], (0..9).map(|v| v as f32)));
        let ones = |shape: &[usize]| vec![1.0; shape.iter().product()];
        let w = Some(Tensor::f32(&[1, 1, 2, 2], ones(&[1, 1, 2, 2])));
        let mut offset = vec![0.0; 32];
        (offset[0], offset[5 * 4 + 1]) = (0.5, -0.1);
        let mut mask = vec![1.0; 16];
        mask[2 * 4 + 3] = 0.2;
        let inputs = [
            x,
            w,
            Some(Tensor::f32(&[1, 8, 2, 2], offset)),
            Some(Tensor::f32(&[1], [1.0])),
            Some(Tensor::f32(&[1, 4, 2, 2], mask)),
        ];
        let y = eval("DeformConv", &[ints("kernel_shape", &[2, 2])], &inputs, 1)[0].to_f32();
        assert!(
            y.iter()
                .zip([10.5, 12.9, 21.0, 19.4])
                .all(|(y, w)| (y - w).abs() < 1e-5),
            "{y:?}"
        );
    }
}
