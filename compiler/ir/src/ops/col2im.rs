//! `Col2Im`: blocks of an image added where they came from.
//!
//! Law: loops gather, one element of the image at a time, over the positions in a block; blocks are columns of the input.

use crate::index::{self, linear, linear_dim, static_shape};
use crate::op::{Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid};
use crate::structured::{Binary, Combine, Compute, Expr, Scalar};
use crate::{Dim, Fact, Tensor};

use super::composed::differ;
use super::contraction::Sum;
use super::conv::per_group;
use super::gather::compare;
use super::movement::required_dims;
use super::pointwise::working;
use super::window::{DILATIONS, PADS, STRIDES, Window, dilated, per_axis};

pub struct Col2Im;

impl Col2Im {
    /// The blocks as windows over the image, and the number of channels.
    fn parts(cx: &Cx) -> Result<(Window, Dim), OpError> {
        let x = cx.fact(0)?;
        let (image, block) = (required_dims(cx, 1)?, required_dims(cx, 2)?);
        let n = image.len();
        if x.rank() != 3 || n == 0 || block.len() != n {
            return invalid(format!("{x} as blocks {block:?} of an image {image:?}"));
        }
        let below = |list: &[Dim], least: i64| list.iter().any(|d| d.as_const().is_some_and(|d| d < least));
        if below(&image, 0) || below(&block, 1) {
            return invalid(format!("blocks {block:?} of an image {image:?}"));
        }
        let strides = per_axis(cx, "strides", n, 1, 1)?;
        let dilations = per_axis(cx, "dilations", n, 1, 1)?;
        let pads = per_axis(cx, "pads", 2 * n, 0, 0)?;
        let count = |i: usize| {
            let room = image[i].clone() + pads[i].clone() + pads[n + i].clone() - dilated(&block[i], &dilations[i]);
            room.floor_div(&strides[i]) + Dim::ONE
        };
        let output: Vec<Dim> = (0..n).map(count).collect();
        if below(&output, 0) || differ(&Dim::product(&output), &x.shape[2]) {
            return invalid(format!("{} blocks, the image has {output:?}", x.shape[2]));
        }
        let each = Dim::product(&block);
        let channels = match each.has_elements() {
            true => x.shape[1].floor_div(&each.maximum(&Dim::ONE)),
            false => per_group(&x.shape[1], &each)?,
        };
        let window = Window {
            input: image,
            kernel: block,
            strides,
            dilations,
            begin: pads[..n].to_vec(),
            end: pads[n..].to_vec(),
            output,
        };
        Ok((window, channels))
    }
}

impl OpDef for Col2Im {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "Col2Im",
            "y[n,c,p*stride+k*dilation-pad] += input[n,c*K+k,p] for the blocks p of an image and positions k in a block",
            &[
                Param::new("input", Types::NUMBER),
                Param::new("image_shape", Types::I64).shape_like("image_shape"),
                Param::new("block_shape", Types::I64).shape_like("block_shape"),
            ],
            &[Param::new("output", Types::NUMBER)],
            &[DILATIONS, PADS, STRIDES],
        ).since(18);
        &S
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let x = cx.fact(0)?;
        let (window, channels) = Self::parts(cx)?;
        let each = Dim::product(&window.kernel);
        let blocks = Dim::product(&window.output);
        let equal = |a: &Dim, b: &Dim| [(a.clone(), b.clone()), (b.clone(), a.clone())];
        let mut rules = vec![];
        if each.has_elements() {
            rules.extend(equal(&(channels * each), &x.shape[1]));
        }
        if blocks.has_elements() {
            rules.extend(equal(&blocks, &x.shape[2]));
        }
        Ok(rules)
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let x = cx.fact(0)?;
        let (window, channels) = Self::parts(cx)?;
        let mut shape = vec![x.shape[0].clone(), channels];
        shape.extend(window.input);
        Ok(vec![Fact::new(x.dtype, shape)])
    }

    /// Scatters, as the definition says; the loops gather.
    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let shape = static_shape(&self.infer(cx)?[0])?;
        let blocks = static_shape(&Fact::new(x.dtype(), Self::parts(cx)?.0.output))?;
        let window = Self::parts(cx)?.0.concrete()?;
        let (taps, columns): (usize, usize) = (window.kernel.iter().product(), blocks.iter().product());
        let image: usize = window.input.iter().product();
        if x.shape() != [shape[0], shape[1] * taps, columns] {
            return invalid(format!("input of shape {:?} for {columns} blocks of {taps}", x.shape()));
        }
        let mut sum = Sum::new(x.dtype(), shape.iter().product());
        let (floats, ints) = match &sum {
            Sum::Float(_) => (x.to_f64(), vec![]),
            Sum::Int(_) => (vec![], x.to_i64()),
        };
        for plane in 0..shape[0] * shape[1] {
            index::for_each(&window.kernel, |k| {
                index::for_each(&blocks, |p| {
                    let Some(place) = window.inside(p, k) else { return };
                    let from = (plane * taps + linear(&window.kernel, k)) * columns + linear(&blocks, p);
                    match &mut sum {
                        Sum::Float(s) => s[plane * image + place] += floats[from],
                        Sum::Int(s) => {
                            let s = &mut s[plane * image + place];
                            *s = s.wrapping_add(ints[from]);
                        }
                    }
                });
            });
        }
        Ok(vec![sum.tensor(x.dtype(), &shape)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let x = cx.fact(0)?;
        let (window, channels) = Self::parts(cx)?;
        let mut parallel = vec![x.shape[0].clone(), channels];
        parallel.extend_from_slice(&window.input);
        let compute = Compute::nest(x.dtype, &parallel, &window.kernel, Combine::Add, |b, it, over| {
            let (mut blocks, mut fits) = (vec![], None);
            for (i, tap) in over.iter().enumerate() {
                let stride = &window.strides[i];
                let reached = it[2 + i].clone() + window.begin[i].clone() - tap.clone() * window.dilations[i].clone();
                let block = reached.floor_div(stride);
                let mut tests = vec![
                    compare(b, Binary::Le, Dim::ZERO, block.clone()),
                    compare(b, Binary::Lt, block.clone(), window.output[i].clone()),
                ];
                if !stride.is_one() {
                    tests.push(compare(b, Binary::Eq, reached.modulo(stride), Dim::ZERO));
                }
                for test in tests {
                    fits = Some(fits.map_or(test, |f| b.binary(Binary::And, f, test)));
                }
                blocks.push(block);
            }
            let taps = Dim::product(&window.kernel);
            let row = it[1].clone() * taps + linear_dim(&window.kernel, over);
            let zero = if x.dtype.is_float() {
                Scalar::Float(0)
            } else {
                Scalar::Int(0)
            };
            let value = b.push(Expr::Load {
                operand: 0,
                dtype: x.dtype,
                index: vec![it[0].clone(), row, linear_dim(&window.output, &blocks)],
                fill: Some(zero),
            });
            let value = b.cast(working(x.dtype), value);
            let none = b.number(working(x.dtype), 0.0);
            let root = fits.map_or(value, |f| b.select(f, value, none));
            (root, it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn ints(v: &[i64]) -> Option<Tensor> {
        Some(Tensor::i64(&[v.len()], v.iter().copied()))
    }

    fn attr(name: &'static str, v: &[i64]) -> (&'static str, Attr) {
        (name, Attr::Ints(v.to_vec()))
    }

    #[test]
    fn blocks() {
        let run = |attrs: &[(&str, Attr)], x: Option<Tensor>, image: &[i64], block: &[i64]| {
            check("Col2Im", attrs, &[x, ints(image), ints(block)], 1);
        };
        for t in [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32, DType::U8] {
            run(&[], sample(t, &[2, 12, 12], 1), &[4, 5], &[2, 2]);
        }
        let x = |shape: &[usize]| sample(DType::F32, shape, 1);
        run(&[attr("strides", &[2, 2])], x(&[1, 9, 4]), &[5, 5], &[3, 3]);
        run(&[attr("pads", &[0, 1, 0, 1])], x(&[1, 5, 15]), &[5, 5], &[1, 5]);
        run(&[attr("dilations", &[1, 5])], x(&[1, 4, 5]), &[6, 6], &[2, 2]);
        run(
            &[attr("strides", &[2]), attr("pads", &[1, 2])],
            x(&[2, 6, 4]),
            &[6],
            &[3],
        );
        run(&[], x(&[1, 10, 12]), &[3, 4, 5], &[1, 1, 5]);
        run(&[], x(&[1, 1, 1]), &[1, 1], &[1, 1]);
    }

    #[test]
    fn values() {
        let rows = [0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
        let x = Tensor::f32(&[1, 9, 4], rows.iter().flat_map(|r| [*r; 4]));
        let y = eval(
            "Col2Im",
            &[attr("strides", &[2, 2])],
            &[Some(x), ints(&[5, 5]), ints(&[3, 3])],
            1,
        );
        let want = [
            [0, 1, 1, 1, 1],
            [1, 0, 1, 0, 0],
            [0, 2, 1, 2, 1],
            [1, 0, 1, 0, 0],
            [0, 1, 0, 1, 0],
        ];
        assert_eq!(y[0].to_i64(), want.concat());
        let refused = |x: [i64; 3]| {
            let two = |v: i64| Fact::with_known(DType::I64, vec![Dim::from(2i64)], vec![Dim::from(v); 2]);
            let x = Fact::new(DType::F32, x.map(Dim::from as fn(i64) -> Dim));
            infer("Col2Im", &[], &[x, two(5), two(3)]).is_err()
        };
        assert!(!refused([1, 9, 9]));
        assert!(refused([1, 9, 4]));
        assert!(refused([1, 8, 9]));
    }
}
