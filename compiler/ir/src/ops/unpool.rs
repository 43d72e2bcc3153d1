//! Where the maxima of windows stand, and elements put back there.
//!
//! Laws: positions are those of the whole tensor in row-major order, or column-major within each image, and of equal
//! maxima the first one counts. An element that is put back stays in its own image; a position elsewhere is an error of the run.

use crate::index::{linear, linear_dim, static_shape};
use crate::op::{Attr, AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, count, differ, reshape};
use crate::ops::fragment::Fragment;
use crate::ops::gather::compare;
use crate::ops::movement::required_dims;
use crate::ops::pointwise::working;
use crate::ops::pool::{CEIL, KERNEL, MAXIMA, each_window, pooled, window_attrs};
use crate::ops::window::{AUTO_PAD, DILATIONS, PADS, STRIDES, kernel_shape, per_axis};
use crate::structured::{Binary, Combine, Compute, Expr, Scalar, Unary};
use crate::{DType, Dim, Fact, Tensor, ValueId};

/// What stands for no position.
const NOWHERE: i64 = i64::MAX;

/// `MaxPool` with both of its outputs.
pub(super) fn with_positions(cx: &Cx) -> Result<Lowering, OpError> {
    let mut g = Fragment::new(cx);
    let x = g.required(cx, 0)?;
    let attrs = window_attrs(cx);
    let y = g.apply("MaxPool", &attrs, &[x])?;
    let mut at = g.apply("cameo::MaxIndex", &attrs, &[x, y])?;
    let leaves = pooled(cx)?.0.leaves_input();
    let found = at;
    if cx.int("storage_order")? != 0 {
        at = column_major(&mut g, x, at)?;
    }
    if leaves {
        let [nowhere, none] = [NOWHERE, -1].map(|n| g.constant(Tensor::i64(&[], [n])));
        let padding = g.binary("Equal", found, nowhere)?;
        at = g.apply("Where", &[], &[padding, none, at])?;
    }
    Ok(g.finish(&[y, at]))
}

/// Row-major positions in images of `x` as column-major ones.
fn column_major(g: &mut Fragment, x: ValueId, at: ValueId) -> Result<ValueId, OpError> {
    let image = g.fact(x).shape[2..].to_vec();
    let all = Dim::product(&image);
    let numbers = count(g, &all)?;
    let numbers = reshape(g, numbers, image.iter().rev().cloned().collect())?;
    let numbers = g.unary("Transpose", numbers)?;
    let numbers = reshape(g, numbers, vec![all])?;
    let size = g.apply("Shape", &[], &[numbers])?;
    let inside = g.binary("Mod", at, size)?;
    let before = g.binary("Sub", at, inside)?;
    let inside = g.apply("Gather", &[("axis", Attr::Int(0))], &[numbers, inside])?;
    g.binary("Add", before, inside)
}

pub struct MaxIndex;

impl MaxIndex {
    fn check(cx: &Cx) -> Result<Fact, OpError> {
        let (of_maxima, y) = (pooled(cx)?.1, cx.fact(1)?);
        if of_maxima.rank() != y.rank() || of_maxima.shape.iter().zip(&y.shape).any(|(a, b)| differ(a, b)) {
            return invalid(format!("maxima {y} of windows {of_maxima}"));
        }
        Ok(Fact::new(DType::I64, of_maxima.shape))
    }
}

impl OpDef for MaxIndex {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::MaxIndex",
            "the first position in X of the maximum Y of each window; the largest integer where the window has no elements",
            &[Param::new("X", MAXIMA), Param::new("Y", MAXIMA)],
            &[Param::new("Indices", Types::I64).group(0)],
            &[AUTO_PAD, CEIL, DILATIONS, KERNEL, PADS, STRIDES],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Self::check(cx)?])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, y) = (cx.tensor(0)?, cx.tensor(1)?);
        let shape = static_shape(&Self::check(cx)?)?;
        if y.shape() != shape {
            return invalid(format!("maxima of shape {:?}, not {shape:?}", y.shape()));
        }
        let window = pooled(cx)?.0.concrete()?;
        let (v, most) = (x.to_f64(), y.to_f64());
        let at = each_window(&window, &shape, |ix, inside| {
            let wanted = most[linear(&shape, ix)];
            let first = inside.iter().find(|i| v[**i] == wanted || v[**i].is_nan());
            first.map_or(NOWHERE, |i| *i as i64)
        });
        Ok(vec![Tensor::i64(&shape, at)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, out, window) = (cx.fact(0)?, Self::check(cx)?, pooled(cx)?.0);
        let leaves = window.leaves_input();
        let zero = if x.dtype.is_float() {
            Scalar::Float(0)
        } else {
            Scalar::Int(0)
        };
        let compute = Compute::nest(DType::I64, &out.shape, &window.kernel, Combine::Min, |b, it, taps| {
            let mut at = it[..2].to_vec();
            at.extend((0..taps.len()).map(|i| window.position(i, &it[i + 2], &taps[i])));
            let value = b.push(Expr::Load {
                operand: 0,
                dtype: x.dtype,
                index: at.clone(),
                fill: leaves.then_some(zero),
            });
            let most = b.load(1, x.dtype, it.to_vec());
            let [value, most] = [value, most].map(|v| b.cast(working(x.dtype), v));
            let mut hit = b.binary(Binary::Eq, value, most);
            if x.dtype.is_float() {
                let none = b.unary(Unary::IsNan, value);
                hit = b.binary(Binary::Or, hit, none);
            }
            if leaves {
                for (p, d) in at[2..].iter().zip(&window.input) {
                    let low = compare(b, Binary::Le, Dim::ZERO, p.clone());
                    let high = compare(b, Binary::Lt, p.clone(), d.clone());
                    for test in [low, high] {
                        hit = b.binary(Binary::And, hit, test);
                    }
                }
            }
            let place = b.push(Expr::Index(linear_dim(&x.shape, &at)));
            let nowhere = b.int(DType::I64, NOWHERE);
            (b.select(hit, place, nowhere), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

pub(super) const MAX_UNPOOL: Composed = Composed {
    schema: &Schema::new(
        "MaxUnpool",
        "zeros with X at the positions I in the tensor that MaxPool made it of, and zeros behind that up to output_shape",
        &[
            Param::new("X", Types::FLOAT),
            Param::new("I", Types::I64).group(2),
            Param::new("output_shape", Types::I64).shape_like("output_shape").optional(),
        ],
        &[Param::new("output", Types::FLOAT)],
        &[("kernel_shape", AttrDef::ReqInts), PADS, STRIDES],
    ).since(9),
    build: |cx, g| {
        let (x, shape) = (cx.fact(0)?, unpooled(cx)?);
        let (planes, per) = (Dim::product(&x.shape[..2]), Dim::product(&x.shape[2..]));
        let size = Dim::product(&shape[2..]);
        let (values, places) = (g.required(cx, 0)?, g.required(cx, 1)?);
        let values = reshape(g, values, vec![planes.clone(), per.clone()])?;
        let places = reshape(g, places, vec![planes.clone(), per])?;
        let zero = g.number(values, 0.0);
        let flat = [("shape", Attr::Dims(vec![planes.clone(), size]))];
        let zeros = g.apply("Expand", &flat, &[zero])?;
        // Places within an image; those before it are as wrong as those behind it.
        let extent = g.apply("Shape", &[("start", Attr::Int(1))], &[zeros])?;
        let plane = count(g, &planes)?;
        let plane = reshape(g, plane, vec![planes, Dim::ONE])?;
        let start = g.binary("Mul", plane, extent)?;
        let places = g.binary("Sub", places, start)?;
        let [zero, beyond] = [0.0, f64::from(i32::MAX)].map(|v| g.number(places, v));
        let before = g.binary("Less", places, zero)?;
        let places = g.apply("Where", &[], &[before, beyond, places])?;
        let axis = [("axis", Attr::Int(1))];
        let filled = g.apply("ScatterElements", &axis, &[zeros, places, values])?;
        let mut y = reshape(g, filled, shape.clone())?;
        if let Some(wanted) = cx.dims(2)? {
            let behind = wanted.iter().zip(&shape).map(|(w, s)| w.clone() - s.clone());
            let pads = vec![Dim::ZERO; shape.len()].into_iter().chain(behind).collect();
            y = g.node("Pad", &[("pads", Attr::Dims(pads))], &[Some(y)])?;
        }
        Ok(vec![y])
    },
    eval: |cx| {
        let (x, places) = (cx.tensor(0)?, cx.tensor(1)?);
        let shape = static_shape(&Fact::new(x.dtype(), unpooled(cx)?))?;
        if x.shape() != places.shape() {
            return invalid(format!("positions {:?} of {:?}", places.shape(), x.shape()));
        }
        let (size, per) = (
            shape[2..].iter().product::<usize>(),
            x.shape()[2..].iter().product::<usize>(),
        );
        let mut from = vec![None; shape.iter().product()];
        for (i, p) in places.to_i64().into_iter().enumerate() {
            match usize::try_from(p).ok().filter(|p| *p / size.max(1) == i / per.max(1)) {
                Some(p) if p < from.len() => from[p] = Some(i),
                _ => return invalid(format!("position {p} is not in the image of its element")),
            }
        }
        let wanted = match cx.dims(2)? {
            Some(dims) => static_shape(&Fact::new(x.dtype(), dims))?,
            None => shape.clone(),
        };
        Ok(vec![x.rearranged(&wanted, None, |ix| {
            let inside = ix.iter().zip(&shape).all(|(i, d)| i < d);
            if inside { from[linear(&shape, ix)] } else { None }
        })])
    },
};

/// The shape of what was pooled, as far as windows tell.
fn unpooled(cx: &Cx) -> Result<Vec<Dim>, OpError> {
    let (x, places) = (cx.fact(0)?, cx.fact(1)?);
    let apart = x.shape.iter().zip(&places.shape).any(|(a, b)| differ(a, b));
    if x.rank() < 3 || x.rank() != places.rank() || apart {
        return invalid(format!("positions {places} of {x}"));
    }
    let n = x.rank() - 2;
    let Some(kernel) = kernel_shape(cx, n)? else {
        return invalid("attribute `kernel_shape` is missing");
    };
    let (strides, pads) = (per_axis(cx, "strides", n, 1, 1)?, per_axis(cx, "pads", 2 * n, 0, 0)?);
    let mut shape = x.shape[..2].to_vec();
    for i in 0..n {
        let whole = (x.shape[2 + i].clone() - Dim::ONE) * strides[i].clone() + kernel[i].clone();
        let d = whole - pads[i].clone() - pads[n + i].clone();
        if d.as_const().is_some_and(|d| d < 0) {
            return invalid(format!("axis {i} of the output has extent {d}"));
        }
        shape.push(d);
    }
    if cx.has(2) || cx.attrs.contains_key("output_shape") {
        let wanted = required_dims(cx, 2)?;
        let short = |(w, s): (&Dim, &Dim)| (w.clone() - s.clone()).as_const().is_some_and(|d| d < 0);
        let fits = wanted.len() == shape.len() && !differ(&wanted[0], &shape[0]) && !differ(&wanted[1], &shape[1]);
        if !fits || wanted.iter().zip(&shape).any(short) {
            return invalid(format!("output_shape {wanted:?} of what windows make {shape:?}"));
        }
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use crate::index;
    use crate::naive::check;
    use crate::ops::samples::{eval, sample};
    use crate::{Attr, DType, Tensor};

    fn ints(name: &'static str, v: &[i64]) -> (&'static str, Attr) {
        (name, Attr::Ints(v.to_vec()))
    }

    #[test]
    fn positions() {
        for order in [0, 1] {
            let order = || ("storage_order", Attr::Int(order));
            for t in [DType::F32, DType::F64, DType::F16, DType::I8, DType::U8] {
                let x = || [sample(t, &[2, 2, 6, 7], 1)];
                check("MaxPool", &[order(), ints("kernel_shape", &[2, 3])], &x(), 2);
                let padded = [
                    order(),
                    ints("kernel_shape", &[3, 3]),
                    ints("pads", &[1, 1, 1, 1]),
                    ints("strides", &[2, 2]),
                ];
                check("MaxPool", &padded, &x(), 2);
                let dilated = [order(), ints("kernel_shape", &[2, 2]), ints("dilations", &[3, 2])];
                check("MaxPool", &dilated, &x(), 2);
            }
            let x = [sample(DType::F32, &[1, 2, 3, 4, 5], 1)];
            check("MaxPool", &[order(), ints("kernel_shape", &[2, 2, 2])], &x, 2);
            let x = || {
                [Some(Tensor::f32(
                    &[1, 1, 4],
                    [f32::NAN, -1.0, f32::NEG_INFINITY, f32::NEG_INFINITY],
                ))]
            };
            check("MaxPool", &[order(), ints("kernel_shape", &[2])], &x(), 2);
            // The last window has no element.
            let beyond = [order(), ints("kernel_shape", &[1]), ints("pads", &[1, 1])];
            check("MaxPool", &beyond, &x(), 2);
        }
        let x = Some(Tensor::f32(&[1, 1, 5, 5], (1..26).map(|v| v as f32)));
        let attrs = [
            ints("kernel_shape", &[2, 2]),
            ints("strides", &[2, 2]),
            ("storage_order", Attr::Int(1)),
        ];
        let y = eval("MaxPool", &attrs, &[x], 2);
        assert_eq!((y[0].to_i64(), y[1].to_i64()), (vec![7, 9, 17, 19], vec![6, 16, 8, 18]));
    }

    #[test]
    fn there_and_back() {
        let attrs = [ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
        for t in [DType::F32, DType::F64, DType::F16] {
            let x = sample(t, &[2, 3, 4, 6], 1);
            let mut pooled = eval("MaxPool", &attrs, &[x], 2).into_iter();
            let (y, at) = (pooled.next(), pooled.next());
            check("MaxUnpool", &attrs, &[y.clone(), at.clone()], 1);
            let shape = Some(Tensor::i64(&[4], [2, 3, 5, 6]));
            check("MaxUnpool", &attrs, &[y, at, shape], 1);
        }
        let x = Some(Tensor::f32(&[1, 1, 2, 2], [5.0, 6.0, 7.0, 8.0]));
        let at = Some(Tensor::i64(&[1, 1, 2, 2], [5, 7, 13, 15]));
        let shape = Some(Tensor::i64(&[4], [1, 1, 5, 5]));
        let y = eval("MaxUnpool", &attrs, &[x, at, shape], 1)[0].to_i64();
        let mut want = vec![0; 25];
        index::for_each(&[2, 2], |ix| {
            want[(2 * ix[0] + 1) * 5 + 2 * ix[1] + 1] = 5 + 2 * ix[0] as i64 + ix[1] as i64;
        });
        assert_eq!(y, want);
    }
}
