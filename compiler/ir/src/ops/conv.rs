//! Convolutions of any rank.
//!
//! Laws: a convolution without bias is one reduction of a product of two loads, kernel positions outside and channels
//! innermost; reads have a fill value only where padding can be reached; axes of extent 1 have no iterator, so pointwise and
//! depthwise convolutions show as what they are. A bias is a broadcast addition afterwards.

use crate::index::{self, linear, static_shape};
use crate::op::{Attr, AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::structured::{Binary, Body, Combine, Compute, Expr, ExprId, Scalar};
use crate::{DType, Dim, Fact, Tensor};

use super::chosen::shared_out;
use super::composed::reshape;
use super::contraction::{Factors, Sum};
use super::fragment::Fragment;
use super::pointwise::working;
use super::window::{AUTO_PAD, DILATIONS, PADS, STRIDES, Window, kernel_shape};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &CONV,
    &super::conv_transpose::ConvTranspose,
    &super::deform_conv::DEFORM_CONV,
    &super::col2im::Col2Im,
    &INTEGER,
    &super::deform_conv::DeformedColumns,
];

/// A load of the input, with a fill value of 0 where reads can leave it, in the accumulator's type.
pub(super) fn read(b: &mut Body, t: DType, index: Vec<Dim>, filled: bool) -> ExprId {
    let zero = if t.is_float() { Scalar::Float(0) } else { Scalar::Int(0) };
    let x = b.push(Expr::Load {
        operand: 0,
        dtype: t,
        index,
        fill: filled.then_some(zero),
    });
    b.cast(working(t), x)
}

pub(super) fn weight(b: &mut Body, t: DType, index: Vec<Dim>) -> ExprId {
    let w = b.load(1, t, index);
    b.cast(working(t), w)
}

/// The convolution without its bias, then the bias added along axis 1.
pub(super) fn with_bias(cx: &Cx) -> Result<Lowering, OpError> {
    let mut g = Fragment::new(cx);
    let [x, w, bias] = [g.required(cx, 0)?, g.required(cx, 1)?, g.required(cx, 2)?];
    let attrs: Vec<(&str, Attr)> = cx.attrs.iter().map(|(k, v)| (&**k, v.clone())).collect();
    let y = g.apply(cx.schema.name, &attrs, &[x, w])?;
    let mut shape = vec![cx.fact(2)?.shape[0].clone()];
    shape.resize(cx.fact(0)?.rank() - 1, Dim::ONE);
    let bias = reshape(&mut g, bias, shape)?;
    let y = g.binary("Add", y, bias)?;
    Ok(g.finish(&[y]))
}

/// Adds a bias along axis 1 of a sum of shape `shape`.
pub(super) fn add_bias(cx: &Cx, sum: &mut Sum, shape: &[usize]) -> Result<(), OpError> {
    if !cx.has(2) {
        return Ok(());
    }
    let bias = cx.tensor(2)?;
    let inner: usize = shape[2..].iter().product();
    let channel = |i: usize| i / inner % shape[1];
    match sum {
        Sum::Float(s) => {
            let b = bias.to_f64();
            s.iter_mut().enumerate().for_each(|(i, y)| *y += b[channel(i)]);
        }
        Sum::Int(s) => {
            let b = bias.to_i64();
            s.iter_mut()
                .enumerate()
                .for_each(|(i, y)| *y = y.wrapping_add(b[channel(i)]));
        }
    }
    Ok(())
}

pub(super) fn check_bias(cx: &Cx, channels: &Dim) -> Result<(), OpError> {
    match cx.arg(2).map(|b| b.fact) {
        Some(f) if f.rank() != 1 => invalid(format!("the bias is {f}")),
        Some(f) if matches!((f.shape[0].as_const(), channels.as_const()), (Some(a), Some(b)) if a != b) => {
            invalid(format!("a bias of {} elements for {channels} channels", f.shape[0]))
        }
        _ => Ok(()),
    }
}

/// How the channels fall into groups.
pub(super) struct Groups {
    pub count: Dim,
    /// Input and output channels of one group.
    pub inputs: Dim,
    pub outputs: Dim,
}

pub(super) fn group_count(cx: &Cx) -> Result<Dim, OpError> {
    match cx.int("group")? {
        g if g > 0 => Ok(Dim::from(g)),
        g => invalid(format!("attribute `group` is {g}")),
    }
}

/// `channels / groups`, which must be exact.
pub(super) fn per_group(channels: &Dim, groups: &Dim) -> Result<Dim, OpError> {
    shared_out(channels, groups).map_or_else(|| invalid(format!("{channels} channels in {groups} groups")), Ok)
}

/// Input and weight of equal rank of at least 3.
pub(super) fn operands<'a>(cx: &Cx<'a>) -> Result<(&'a Fact, &'a Fact), OpError> {
    let (x, w) = (cx.fact(0)?, cx.fact(1)?);
    if x.rank() < 3 || x.rank() != w.rank() {
        return invalid(format!("input {x}, weight {w}"));
    }
    Ok((x, w))
}

/// The weight's spatial extents, which `kernel_shape` may repeat.
pub(super) fn kernel(cx: &Cx, w: &Fact) -> Result<Vec<Dim>, OpError> {
    let own = &w.shape[2..];
    match kernel_shape(cx, own.len())? {
        Some(k) if k.iter().zip(own).any(|(a, b)| b.as_const().is_some() && a != b) => {
            invalid(format!("kernel_shape {k:?}, weight {w}"))
        }
        Some(k) => Ok(k),
        None => Ok(own.to_vec()),
    }
}

struct Conv {
    schema: &'static Schema,
}

const CONV: Conv = Conv {
    schema: &schema(
        "Conv",
        "y[n,o,p] = B[o] + sum over c, k of X[n,c,p*stride+k*dilation-pad] * W[o,c,k], in groups of channels",
        &[
            Param::new("X", Types::FLOAT),
            Param::new("W", Types::FLOAT),
            Param::new("B", Types::FLOAT).optional(),
        ],
        &[Param::new("Y", Types::FLOAT)],
    ),
};

/// What convolutions of fewer bits become.
const INTEGER: Conv = Conv {
    schema: &schema(
        "cameo::IntegerConv",
        "Conv of integers of 32 bits",
        &[
            Param::new("X", Types::of(&[DType::I32])),
            Param::new("W", Types::of(&[DType::I32])),
            Param::new("B", Types::of(&[DType::I32])).optional(),
        ],
        &[Param::new("Y", Types::of(&[DType::I32]))],
    ),
};

const fn schema(name: &'static str, doc: &'static str, inputs: &'static [Param], outputs: &'static [Param]) -> Schema {
    Schema::new(
        name,
        doc,
        inputs,
        outputs,
        &[
            AUTO_PAD,
            DILATIONS,
            ("group", AttrDef::Int(1)),
            ("kernel_shape", AttrDef::OptInts),
            PADS,
            STRIDES,
        ],
    )
}

impl Conv {
    fn parts(cx: &Cx) -> Result<(Window, Groups), OpError> {
        let (x, w) = operands(cx)?;
        let count = group_count(cx)?;
        let groups = Groups {
            inputs: per_group(&x.shape[1], &count)?,
            outputs: per_group(&w.shape[0], &count)?,
            count,
        };
        let inputs = &w.shape[1];
        if matches!((inputs.as_const(), groups.inputs.as_const()), (Some(a), Some(b)) if a != b) {
            return invalid(format!("weight {w} for {} channels a group", groups.inputs));
        }
        // The weight's extent is a constant more often.
        let inputs = inputs.clone();
        check_bias(cx, &w.shape[0])?;
        Ok((
            Window::new(cx, &x.shape[2..], kernel(cx, w)?, false)?,
            Groups { inputs, ..groups },
        ))
    }
}

impl OpDef for Conv {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, w) = operands(cx)?;
        let (window, _) = Self::parts(cx)?;
        let mut shape = vec![x.shape[0].clone(), w.shape[0].clone()];
        shape.extend(window.output);
        Ok(vec![Fact::new(x.dtype, shape)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, w) = (cx.tensor(0)?, cx.tensor(1)?);
        let shape = static_shape(&self.infer(cx)?[0])?;
        let window = Self::parts(cx)?.0.concrete()?;
        let (channels, per) = (x.shape()[1], w.shape()[1]);
        let outputs = shape[1] / (channels / per.max(1)).max(1);
        let image: usize = window.input.iter().product();
        let taps: usize = window.kernel.iter().product();
        let factors = Factors::new(x, w);
        let mut sum = Sum::new(x.dtype(), shape.iter().product());
        index::for_each(&shape, |ix| {
            let at = linear(&shape, ix);
            let (n, o, first) = (ix[0], ix[1], ix[1] / outputs * per);
            index::for_each(&window.kernel, |k| {
                let Some(p) = window.inside(&ix[2..], k) else { return };
                let tap = linear(&window.kernel, k);
                for c in 0..per {
                    let (i, j) = ((n * channels + first + c) * image + p, (o * per + c) * taps + tap);
                    factors.accumulate(&mut sum, at, i, j);
                }
            });
        });
        add_bias(cx, &mut sum, &shape)?;
        Ok(vec![sum.tensor(x.dtype(), &shape)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        if cx.has(2) {
            return with_bias(cx);
        }
        let x = cx.fact(0)?;
        let (window, groups) = Self::parts(cx)?;
        let filled = window.leaves_input();
        // Output channels of one input channel each are one axis: lanes may run along all of it.
        let depthwise = groups.inputs.is_one() && !groups.count.is_one();
        let (count, outputs) = match depthwise {
            true => (groups.count.clone() * groups.outputs.clone(), Dim::ONE),
            false => (groups.count.clone(), groups.outputs.clone()),
        };
        let mut parallel = vec![x.shape[0].clone(), count, outputs.clone()];
        parallel.extend_from_slice(&window.output);
        let mut reduced = window.kernel.clone();
        reduced.push(groups.inputs.clone());
        let compute = Compute::nest(x.dtype, &parallel, &reduced, Combine::Add, |b, it, over| {
            let [n, g, o] = [&it[0], &it[1], &it[2]];
            let (places, (taps, c)) = (&it[3..], over.split_at(over.len() - 1));
            let channel = g.clone() * outputs.clone() + o.clone();
            let group = if depthwise {
                g.floor_div(&groups.outputs)
            } else {
                g.clone()
            };
            let mut from = vec![n.clone(), group * groups.inputs.clone() + c[0].clone()];
            from.extend((0..taps.len()).map(|i| window.position(i, &places[i], &taps[i])));
            let mut tap = vec![channel.clone(), c[0].clone()];
            tap.extend_from_slice(taps);
            let left = read(b, x.dtype, from, filled);
            let right = weight(b, x.dtype, tap);
            let mut store = vec![n.clone(), channel];
            store.extend_from_slice(places);
            (b.binary(Binary::Mul, left, right), store)
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
    use crate::{Attrs, Graph};

    fn numbers(dtype: DType, shape: &[usize]) -> Option<Tensor> {
        sample(dtype, shape, 1)
    }

    fn f(shape: &[usize]) -> Option<Tensor> {
        numbers(DType::F32, shape)
    }

    fn ints(name: &'static str, v: &[i64]) -> (&'static str, Attr) {
        (name, Attr::Ints(v.to_vec()))
    }

    fn auto(mode: &str) -> (&'static str, Attr) {
        ("auto_pad", Attr::Str(mode.into()))
    }

    fn group(n: i64) -> (&'static str, Attr) {
        ("group", Attr::Int(n))
    }

    fn loops(attrs: &[(&str, Attr)], x: &[i64], w: &[i64]) -> Compute {
        let shape = |s: &[i64]| -> Vec<Dim> {
            s.iter()
                .map(|d| if *d < 0 { Dim::sym("B") } else { Dim::from(*d) })
                .collect()
        };
        let facts = [x, w].map(|s| Fact::new(DType::F32, shape(s)));
        let args = facts.each_ref().map(|fact| Some(Arg { fact, constant: None }));
        let attrs: Attrs = attrs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect();
        let cx = Cx {
            schema: CONV.schema(),
            attrs: &attrs,
            inputs: &args,
            outputs: 1,
        };
        match CONV.lower(&cx).expect("legal") {
            Lowering::Compute(mut c) => c.remove(0),
            _ => {
                panic!("one nest of loops")
            }
        }
    }

    #[test]
    fn loops_show_the_kind() {
        let plain = loops(&[], &[-1, 16, 8, 8], &[32, 16, 1, 1]);
        assert_eq!(format!("{:?}", plain.extents), "[B, 32, 8, 8, 16]");
        let padded = loops(&[ints("pads", &[1, 1, 1, 1])], &[-1, 16, 8, 8], &[32, 16, 3, 3]);
        assert_eq!(format!("{:?}", padded.extents), "[B, 32, 8, 8, 3, 3, 16]");
        let depthwise = loops(&[group(16)], &[-1, 16, 8, 8], &[16, 1, 3, 3]);
        assert_eq!(format!("{:?}", depthwise.extents), "[B, 16, 6, 6, 3, 3]");
        let fills = |c: &Compute| {
            c.body
                .nodes()
                .iter()
                .any(|e| matches!(e, Expr::Load { fill: Some(_), .. }))
        };
        assert!(!fills(&plain) && fills(&padded) && !fills(&depthwise));
        let strided = loops(&[ints("strides", &[2, 2])], &[-1, 16, 8, -1], &[32, 16, 3, 3]);
        assert!(!fills(&strided), "floor leaves no window beyond the end");
    }

    #[test]
    fn of_integers() {
        let s = |shape: &[usize]| numbers(DType::I32, shape);
        let inputs = [s(&[2, 4, 5, 4]), s(&[6, 2, 3, 2]), s(&[6])];
        check(
            "cameo::IntegerConv",
            &[group(2), ints("pads", &[1, 0, 2, 1])],
            &inputs,
            1,
        );
    }

    #[test]
    fn convolutions() {
        for t in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let inputs = [numbers(t, &[2, 3, 5, 4]), numbers(t, &[4, 3, 3, 2]), numbers(t, &[4])];
            check("Conv", &[], &inputs, 1);
        }
        check(
            "Conv",
            &[ints("pads", &[1, 0, 2, 1])],
            &[f(&[1, 2, 5, 5]), f(&[3, 2, 3, 3]), None],
            1,
        );
        check(
            "Conv",
            &[ints("strides", &[2, 3]), ints("dilations", &[2, 1])],
            &[f(&[1, 2, 9, 8]), f(&[3, 2, 3, 2])],
            1,
        );
        check(
            "Conv",
            &[group(2), ints("kernel_shape", &[2])],
            &[f(&[2, 4, 6]), f(&[6, 2, 2])],
            1,
        );
        check(
            "Conv",
            &[group(4), ints("pads", &[1, 1])],
            &[f(&[1, 4, 6]), f(&[4, 1, 3]), f(&[4])],
            1,
        );
        check("Conv", &[group(2)], &[f(&[1, 2, 6]), f(&[6, 1, 3])], 1);
        check("Conv", &[], &[f(&[1, 2, 2, 3, 4]), f(&[2, 2, 1, 2, 2])], 1);
        check("Conv", &[], &[f(&[1, 1, 1, 1]), f(&[1, 1, 1, 1])], 1);
        for mode in ["SAME_UPPER", "SAME_LOWER", "VALID"] {
            check(
                "Conv",
                &[auto(mode), ints("strides", &[2, 1])],
                &[f(&[1, 2, 6, 5]), f(&[3, 2, 3, 2])],
                1,
            );
        }
        let refuse = |attrs: &[(&str, Attr)], w: &[i64]| {
            let mut g = Graph::new("t");
            let x = g.add_input(
                "x",
                Fact::new(DType::F32, [1, 4, 5, 5].map(Dim::from as fn(i64) -> Dim)),
            );
            let w = g.add_input(
                "w",
                Fact::new(DType::F32, w.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>()),
            );
            g.apply("Conv", attrs, &[x, w]).is_err()
        };
        assert!(!refuse(&[], &[2, 4, 3, 3]));
        assert!(refuse(&[], &[2, 3, 3, 3]));
        assert!(refuse(&[], &[2, 4, 6, 3]));
        assert!(refuse(&[], &[2, 4, 0, 3]));
        assert!(refuse(&[], &[2, 4, 3]));
        assert!(refuse(&[group(0)], &[2, 4, 3, 3]));
        assert!(refuse(&[group(3)], &[3, 1, 3, 3]));
        assert!(refuse(&[ints("strides", &[0, 1])], &[2, 4, 3, 3]));
        assert!(refuse(&[ints("pads", &[1, 1])], &[2, 4, 3, 3]));
    }
}
