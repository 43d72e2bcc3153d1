//! Transposed convolutions of any rank.
//!
//! Law: loops gather, one output at a time; where kernel and stride are equal, output positions split into input and kernel
//! positions and nothing is tested.

use crate::index::{self, linear, static_shape};
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::structured::{Binary, Combine, Compute};
use crate::{Dim, Fact, Tensor};

use super::contraction::{Factors, Sum};
use super::conv::{Groups, add_bias, check_bias, group_count, kernel, operands, per_group, read, weight, with_bias};
use super::gather::compare;
use super::pointwise::working;
use super::window::{AUTO_PAD, AutoPad, Concrete, DILATIONS, PADS, STRIDES, Window, dilated, per_axis};

pub struct ConvTranspose;

impl ConvTranspose {
    /// The window whose *input* is this operation's output, and the groups.
    fn parts(cx: &Cx) -> Result<(Window, Groups), OpError> {
        let (x, w) = operands(cx)?;
        let count = group_count(cx)?;
        let groups = Groups {
            inputs: per_group(&x.shape[1], &count)?,
            outputs: w.shape[1].clone(),
            count,
        };
        if matches!((x.shape[1].as_const(), w.shape[0].as_const()), (Some(a), Some(b)) if a != b) {
            return invalid(format!("weight {w} for {} channels", x.shape[1]));
        }
        check_bias(cx, &(groups.outputs.clone() * groups.count.clone()))?;
        let (input, n) = (&x.shape[2..], x.rank() - 2);
        let kernel = kernel(cx, w)?;
        if kernel.iter().any(|k| k.as_const().is_some_and(|c| c < 1)) {
            return invalid(format!("kernel extents {kernel:?}"));
        }
        let strides = per_axis(cx, "strides", n, 1, 1)?;
        let dilations = per_axis(cx, "dilations", n, 1, 1)?;
        let more = per_axis(cx, "output_padding", n, 0, 0)?;
        let wanted = match cx.opt_ints("output_shape")? {
            None => None,
            // Some exporters list all axes.
            Some(v) if v.len() == n + 2 => Some(v[2..].iter().map(|d| Dim::from(*d)).collect()),
            Some(_) => Some(per_axis(cx, "output_shape", n, 0, 0)?),
        };
        let auto = AutoPad::of(cx)?;
        let given = per_axis(cx, "pads", 2 * n, -(1 << 30), 0)?;
        let (mut begin, mut end, mut output) = (vec![], vec![], vec![]);
        for (i, d) in input.iter().enumerate() {
            let s = &strides[i];
            let full = (d.clone() - Dim::ONE) * s.clone() + more[i].clone() + dilated(&kernel[i], &dilations[i]);
            let target = match (&wanted, auto) {
                (Some(w), _) => Some(w[i].clone()),
                (None, AutoPad::Upper | AutoPad::Lower) => Some(d.clone() * s.clone()),
                (None, _) => None,
            };
            let (before, after, out) = match target {
                Some(out) => {
                    let total = (full.clone() - out.clone()).maximum(&Dim::ZERO);
                    let half = total.floor_div(&Dim::from(2i64));
                    let rest = total - half.clone();
                    let (before, after) = if auto == AutoPad::Upper {
                        (half, rest)
                    } else {
                        (rest, half)
                    };
                    (before, after, out)
                }
                None if auto == AutoPad::Valid => (Dim::ZERO, Dim::ZERO, full),
                None => {
                    let (before, after) = (given[i].clone(), given[n + i].clone());
                    let out = full - before.clone() - after.clone();
                    (before, after, out)
                }
            };
            if out.as_const().is_some_and(|c| c < 1) && d.as_const() != Some(0) {
                return invalid(format!("axis {i} of the output has extent {out}"));
            }
            begin.push(before);
            end.push(after);
            output.push(out);
        }
        let window = Window {
            input: output,
            kernel,
            strides,
            dilations,
            begin,
            end,
            output: input.to_vec(),
        };
        Ok((window, groups))
    }

    /// Whether kernel positions tile the output along axis `i`, so that each output has one of them.
    fn tiles(window: &Window, i: usize) -> bool {
        let whole = window.output[i].clone() * window.strides[i].clone();
        window.kernel[i] == window.strides[i]
            && window.dilations[i].is_one()
            && window.begin[i].is_zero()
            && window.input[i] == whole
    }
}

impl OpDef for ConvTranspose {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "ConvTranspose",
            "the gradient of Conv: y[n,o,p*stride+k*dilation-pad] += X[n,c,p] * W[c,o,k], in groups of channels",
            &[
                Param::new("X", Types::FLOAT),
                Param::new("W", Types::FLOAT),
                Param::new("B", Types::FLOAT).optional(),
            ],
            &[Param::new("Y", Types::FLOAT)],
            &[
                AUTO_PAD,
                DILATIONS,
                ("group", AttrDef::Int(1)),
                ("kernel_shape", AttrDef::OptInts),
                ("output_padding", AttrDef::OptInts),
                ("output_shape", AttrDef::OptInts),
                PADS,
                STRIDES,
            ],
        );
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let x = cx.fact(0)?;
        let (window, groups) = Self::parts(cx)?;
        let mut shape = vec![x.shape[0].clone(), groups.count * groups.outputs];
        shape.extend(window.input);
        Ok(vec![Fact::new(x.dtype, shape)])
    }

    /// Scatters, as the definition says; the loops gather.
    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, w) = (cx.tensor(0)?, cx.tensor(1)?);
        let shape = static_shape(&self.infer(cx)?[0])?;
        let window: Concrete = Self::parts(cx)?.0.concrete()?;
        let (channels, outputs) = (x.shape()[1], w.shape()[1]);
        let per = channels / (shape[1] / outputs.max(1)).max(1);
        let (image, taps): (usize, usize) = (window.input.iter().product(), window.kernel.iter().product());
        let factors = Factors::new(x, w);
        let mut sum = Sum::new(x.dtype(), shape.iter().product());
        index::for_each(x.shape(), |ix| {
            let (n, c) = (ix[0], ix[1]);
            index::for_each(&window.kernel, |k| {
                let Some(p) = window.inside(&ix[2..], k) else { return };
                for o in 0..outputs {
                    let at = (n * shape[1] + c / per.max(1) * outputs + o) * image + p;
                    let tap = (c * outputs + o) * taps + linear(&window.kernel, k);
                    factors.accumulate(&mut sum, at, linear(x.shape(), ix), tap);
                }
            });
        });
        add_bias(cx, &mut sum, &shape)?;
        Ok(vec![sum.tensor(x.dtype(), &shape)])
    }

    /// Each output gathers the inputs that reach it. Where strides leave gaps, a test selects the kernel positions that
    /// fit; where kernel and stride are equal, output positions split into input and kernel positions instead.
    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        if cx.has(2) {
            return with_bias(cx);
        }
        let x = cx.fact(0)?;
        let (window, groups) = Self::parts(cx)?;
        let n = window.kernel.len();
        let mut parallel = vec![x.shape[0].clone(), groups.count.clone(), groups.outputs.clone()];
        let mut reduced = vec![];
        for i in 0..n {
            if Self::tiles(&window, i) {
                parallel.extend([window.output[i].clone(), window.kernel[i].clone()]);
            } else {
                parallel.push(window.input[i].clone());
                reduced.push(window.kernel[i].clone());
            }
        }
        reduced.push(groups.inputs.clone());
        let compute = Compute::nest(x.dtype, &parallel, &reduced, Combine::Add, |b, it, over| {
            let (batch, g, o) = (&it[0], &it[1], &it[2]);
            let c = g.clone() * groups.inputs.clone() + over[over.len() - 1].clone();
            let (mut places, mut taps) = (it[3..].iter().cloned(), over.iter().cloned());
            let mut next = |tap: bool| if tap { taps.next() } else { places.next() }.unwrap_or(Dim::ZERO);
            let mut from = vec![batch.clone(), c.clone()];
            let mut kernel = vec![c, o.clone()];
            let mut store = vec![batch.clone(), g.clone() * groups.outputs.clone() + o.clone()];
            let (mut filled, mut fits) = (false, None);
            for i in 0..n {
                let s = &window.strides[i];
                let place = next(false);
                if Self::tiles(&window, i) {
                    let tap = next(false);
                    store.push(place.clone() * s.clone() + tap.clone());
                    from.push(place);
                    kernel.push(tap);
                    continue;
                }
                let tap = next(true);
                let reached = place.clone() + window.begin[i].clone() - tap.clone() * window.dilations[i].clone();
                store.push(place);
                kernel.push(tap);
                filled = true;
                from.push(reached.floor_div(s));
                if !s.is_one() {
                    let test = compare(b, Binary::Eq, reached.modulo(s), Dim::ZERO);
                    fits = Some(fits.map_or(test, |f| b.binary(Binary::And, f, test)));
                }
            }
            let wide = working(x.dtype);
            let mut left = read(b, x.dtype, from, filled);
            if let Some(fits) = fits {
                let zero = b.number(wide, 0.0);
                left = b.select(fits, left, zero);
            }
            let right = weight(b, x.dtype, kernel);
            (b.binary(Binary::Mul, left, right), store)
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::ops::samples::sample;
    use crate::{Attr, DType};

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

    #[test]
    fn transposed_convolutions() {
        let run = |attrs: &[(&str, Attr)], inputs: &[Option<Tensor>]| check("ConvTranspose", attrs, inputs, 1);
        run(&[], &[f(&[2, 3, 4, 3]), f(&[3, 2, 3, 3]), f(&[2])]);
        run(&[ints("strides", &[2, 2])], &[f(&[1, 2, 3, 4]), f(&[2, 3, 2, 2])]);
        run(
            &[ints("strides", &[3, 2]), ints("pads", &[1, 0, 1, 2])],
            &[f(&[1, 2, 3, 4]), f(&[2, 3, 3, 3])],
        );
        run(
            &[ints("strides", &[3, 2]), ints("output_padding", &[1, 1])],
            &[f(&[1, 2, 3, 4]), f(&[2, 1, 3, 2])],
        );
        run(
            &[ints("strides", &[3, 2]), ints("output_shape", &[10, 8])],
            &[f(&[1, 1, 3, 3]), f(&[1, 2, 3, 3])],
        );
        run(&[ints("dilations", &[2])], &[f(&[1, 2, 4]), f(&[2, 1, 3])]);
        run(
            &[group(2), ints("strides", &[2])],
            &[f(&[1, 4, 4]), f(&[4, 3, 3]), f(&[6])],
        );
        for mode in ["SAME_UPPER", "SAME_LOWER", "VALID"] {
            run(&[auto(mode), ints("strides", &[2])], &[f(&[1, 2, 4]), f(&[2, 1, 3])]);
        }
    }
}
