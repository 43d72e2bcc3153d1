//! Maxima, means and norms of sliding windows and of whole images.
//!
//! Laws: windows reduce in one nest of loops whose reads have the identity as fill value; a mean is a sum and a pointwise
//! division by the count, which is an index expression where windows are cut; whole images are plain reductions.

use crate::index::{self, linear, static_shape};
use crate::op::{Attr, AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::structured::{Binary, Combine, Compute, Expr, Scalar};
use crate::{Bounds, DType, Dim, Fact, Tensor};

use super::fragment::Fragment;
use super::global_pool::{P, norm, power};
use super::pointwise::working;
use super::window::{AUTO_PAD, Concrete, DILATIONS, PADS, STRIDES, Window, kernel_shape};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &MaxPool,
    &AveragePool,
    &LpPool,
    &super::global_pool::GLOBAL_AVERAGE,
    &super::global_pool::GLOBAL_MAX,
    &super::global_pool::GLOBAL_LP,
    &super::unpool::MAX_UNPOOL,
    &SumPool,
    &PoolMean,
    &super::unpool::MaxIndex,
];

pub(super) const CEIL: (&str, AttrDef) = ("ceil_mode", AttrDef::Int(0));
pub(super) const KERNEL: (&str, AttrDef) = ("kernel_shape", AttrDef::ReqInts);
/// What maxima are taken of.
pub(super) const MAXIMA: Types = Types(Types::FLOAT.0 | Types::of(&[DType::I8, DType::U8]).0);
pub(super) const X: &[Param] = &[Param::new("X", Types::FLOAT)];
pub(super) const Y: &[Param] = &[Param::new("Y", Types::FLOAT)];

/// The windows over `spatial`.
fn windows(cx: &Cx, spatial: &[Dim]) -> Result<Window, OpError> {
    match kernel_shape(cx, spatial.len())? {
        Some(kernel) => Window::new(cx, spatial, kernel, cx.int("ceil_mode")? != 0),
        None => invalid("attribute `kernel_shape` is missing"),
    }
}

/// The input's windows and the output's fact.
pub(super) fn pooled(cx: &Cx) -> Result<(Window, Fact), OpError> {
    let x = cx.fact(0)?;
    if x.rank() < 3 {
        return invalid(format!("{x} has no spatial axes"));
    }
    let window = windows(cx, &x.shape[2..])?;
    let shape: Vec<Dim> = x.shape[..2].iter().chain(&window.output).cloned().collect();
    Ok((window, Fact::new(x.dtype, shape)))
}

/// One value per window from the elements inside it: `f` is given the output index and linear input positions.
pub(super) fn each_window<T>(window: &Concrete, shape: &[usize], mut f: impl FnMut(&[usize], &[usize]) -> T) -> Vec<T> {
    let image: usize = window.input.iter().product();
    let mut out = vec![];
    index::for_each(shape, |ix| {
        let first = linear(&shape[..2], &ix[..2]) * image;
        let mut inside = vec![];
        index::for_each(&window.kernel, |k| {
            inside.extend(window.inside(&ix[2..], k).map(|p| first + p));
        });
        out.push(f(ix, &inside));
    });
    out
}

/// Windows joined by `combine`, with `fill` in the padding.
fn reduced(x: &Fact, out: &Fact, window: &Window, combine: Combine, fill: Scalar) -> Lowering {
    let filled = window.leaves_input();
    let compute = Compute::nest(x.dtype, &out.shape, &window.kernel, combine, |b, it, taps| {
        let mut at = it[..2].to_vec();
        at.extend((0..taps.len()).map(|i| window.position(i, &it[i + 2], &taps[i])));
        let value = b.push(Expr::Load {
            operand: 0,
            dtype: x.dtype,
            index: at,
            fill: filled.then_some(fill),
        });
        (b.cast(working(x.dtype), value), it.to_vec())
    });
    Lowering::Compute(vec![compute])
}

struct MaxPool;

/// The least value of a type.
fn lowest(t: DType) -> Scalar {
    match t {
        t if t.is_float() => Scalar::Float(f64::NEG_INFINITY.to_bits()),
        DType::I8 => Scalar::Int(i8::MIN.into()),
        _ => Scalar::Int(0),
    }
}

impl OpDef for MaxPool {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "MaxPool",
            "the maximum of each window, and where in the input it is",
            &[Param::new("X", MAXIMA)],
            &[
                Param::new("Y", MAXIMA),
                Param::new("Indices", Types::I64).group(0).optional(),
            ],
            &[
                AUTO_PAD,
                CEIL,
                DILATIONS,
                KERNEL,
                PADS,
                ("storage_order", AttrDef::Int(0)),
                STRIDES,
            ],
        );
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let y = pooled(cx)?.1;
        let indices = Fact::new(DType::I64, y.shape.clone());
        Ok([y, indices].into_iter().take(cx.outputs).collect())
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let (window, fact) = pooled(cx)?;
        let (window, shape) = (window.concrete()?, static_shape(&fact)?);
        let v = x.to_f64();
        let lowest = match lowest(x.dtype()) {
            Scalar::Float(b) => f64::from_bits(b),
            Scalar::Int(i) => i as f64,
        };
        // The first of equal maxima; NaN is greater than all.
        let best = each_window(&window, &shape, |_, inside| {
            inside.iter().copied().reduce(|a, b| {
                if v[b] > v[a] || v[b].is_nan() && !v[a].is_nan() {
                    b
                } else {
                    a
                }
            })
        });
        let y = Tensor::from_f64(x.dtype(), &shape, best.iter().map(|b| b.map_or(lowest, |b| v[b])));
        let mut out = vec![y];
        if cx.outputs > 1 {
            let image: usize = window.input.iter().product();
            let columns_first = cx.int("storage_order")? != 0;
            let number = |at: usize| {
                if !columns_first {
                    return at as i64;
                }
                let (mut rest, mut position) = (at % image, 0);
                let mut scale = image;
                for d in window.input.iter().rev() {
                    scale /= d;
                    position += rest % d * scale;
                    rest /= d;
                }
                (at / image * image + position) as i64
            };
            out.push(Tensor::i64(&shape, best.iter().map(|b| b.map_or(-1, number))));
        }
        Ok(out)
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        if cx.outputs > 1 {
            return super::unpool::with_positions(cx);
        }
        let x = cx.fact(0)?;
        let (window, out) = pooled(cx)?;
        Ok(reduced(x, &out, &window, Combine::Max, lowest(x.dtype)))
    }
}

/// How many positions of each window along each axis count in a mean: those in the input, or with `padding` also those in
/// the padding.
fn counted(window: &Concrete, o: &[usize], padding: bool) -> i64 {
    let mut count = 0;
    index::for_each(&window.kernel, |k| {
        let at = window.position(o, k);
        count += i64::from(at.iter().enumerate().all(|(i, p)| {
            let (mut low, mut high) = (0, window.input[i] as i64);
            if padding {
                low -= window.begin[i];
                high += window.end[i];
            }
            (low..high).contains(p)
        }));
    });
    count.max(1)
}

struct AveragePool;

impl OpDef for AveragePool {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "AveragePool",
            "the mean of each window, padding counted if asked",
            X,
            Y,
            &[
                AUTO_PAD,
                CEIL,
                ("count_include_pad", AttrDef::Int(0)),
                DILATIONS,
                KERNEL,
                PADS,
                STRIDES,
            ],
        );
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![pooled(cx)?.1])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let (window, fact) = pooled(cx)?;
        let (window, shape) = (window.concrete()?, static_shape(&fact)?);
        let (v, padding) = (x.to_f64(), cx.int("count_include_pad")? != 0);
        let means = each_window(&window, &shape, |ix, inside| {
            inside.iter().map(|p| v[*p]).sum::<f64>() / counted(&window, &ix[2..], padding) as f64
        });
        Ok(vec![Tensor::from_f64(x.dtype(), &shape, means)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let mut g = Fragment::new(cx);
        let x = g.required(cx, 0)?;
        let wide = g.widen(x)?;
        let mut attrs = window_attrs(cx);
        let sum = g.apply("cameo::SumPool", &attrs, &[wide])?;
        attrs.push(("count_include_pad", Attr::Int(cx.int("count_include_pad")?)));
        attrs.push(("extents", Attr::Dims(cx.fact(0)?.shape[2..].to_vec())));
        let mean = g.apply("cameo::PoolMean", &attrs, &[sum])?;
        let y = g.cast(mean, cx.fact(0)?.dtype)?;
        Ok(g.finish(&[y]))
    }
}

/// The attributes that say the windows.
pub(super) fn window_attrs(cx: &Cx) -> Vec<(&'static str, Attr)> {
    [AUTO_PAD, CEIL, DILATIONS, KERNEL, PADS, STRIDES]
        .into_iter()
        .filter_map(|(name, _)| cx.attrs.get(name).map(|v| (name, v.clone())))
        .collect()
}

struct SumPool;

impl OpDef for SumPool {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "cameo::SumPool",
            "the sum of each window",
            X,
            Y,
            &[AUTO_PAD, CEIL, DILATIONS, KERNEL, PADS, STRIDES],
        );
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![pooled(cx)?.1])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let (window, fact) = pooled(cx)?;
        let (window, shape) = (window.concrete()?, static_shape(&fact)?);
        let v = x.to_f64();
        let sums = each_window(&window, &shape, |_, inside| inside.iter().map(|p| v[*p]).sum::<f64>());
        Ok(vec![Tensor::from_f64(x.dtype(), &shape, sums)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (window, out) = pooled(cx)?;
        Ok(reduced(cx.fact(0)?, &out, &window, Combine::Add, Scalar::Float(0)))
    }
}

struct PoolMean;

impl PoolMean {
    fn window(cx: &Cx) -> Result<Window, OpError> {
        let x = cx.fact(0)?;
        match cx.attrs.get("extents") {
            Some(Attr::Dims(d)) if d.len() + 2 == x.rank() => {
                let window = windows(cx, d)?;
                let differ =
                    |(a, b): (&Dim, &Dim)| matches!((a.as_const(), b.as_const()), (Some(a), Some(b)) if a != b);
                match window.output.iter().zip(&x.shape[2..]).any(differ) {
                    true => invalid(format!("sums {x} of windows {:?}", window.output)),
                    false => Ok(window),
                }
            }
            _ => invalid("attribute `extents` must have one dim per spatial axis"),
        }
    }
}

impl OpDef for PoolMean {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "cameo::PoolMean",
            "sums of windows over spatial `extents`, each divided by the count of its elements",
            X,
            Y,
            &[
                AUTO_PAD,
                CEIL,
                ("count_include_pad", AttrDef::Int(0)),
                DILATIONS,
                ("extents", AttrDef::ReqDims),
                KERNEL,
                PADS,
                STRIDES,
            ],
        );
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::window(cx)?;
        let x = cx.fact(0)?;
        Ok(vec![Fact::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let (window, padding) = (Self::window(cx)?.concrete()?, cx.int("count_include_pad")? != 0);
        let mut v = x.to_f64();
        index::for_each(x.shape(), |ix| {
            v[linear(x.shape(), ix)] /= counted(&window, &ix[2..], padding) as f64;
        });
        Ok(vec![Tensor::from_f64(x.dtype(), x.shape(), v)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let x = cx.fact(0)?;
        let (window, padding) = (Self::window(cx)?, cx.int("count_include_pad")? != 0);
        let extents: Vec<Dim> = x.shape.iter().filter(|d| !d.is_one()).cloned().collect();
        let bounds = Bounds::positive(&extents);
        let compute = Compute::nest(x.dtype, &x.shape, &[], Combine::Add, |b, it, _| {
            let mut count = Dim::ONE;
            for i in 0..window.kernel.len() {
                // Kernel positions k of this window with low <= first + k*dilation < high.
                let first = window.position(i, &it[i + 2], &Dim::ZERO);
                let (mut low, mut high) = (Dim::ZERO, window.input[i].clone());
                if padding {
                    low = low - window.begin[i].clone();
                    high = high + window.end[i].clone();
                }
                let step = &window.dilations[i];
                let before = |limit: Dim| {
                    bounds
                        .simplify(&(limit - first.clone()).maximum(&Dim::ZERO))
                        .ceil_div(step)
                };
                let stop = bounds.simplify(&before(high).minimum(&window.kernel[i]));
                count = count * bounds.simplify(&(stop - before(low)).maximum(&Dim::ONE));
            }
            let wide = working(x.dtype);
            let sum = b.load(0, x.dtype, it.to_vec());
            let sum = b.cast(wide, sum);
            let root = match count.as_const() {
                Some(c) => {
                    let share = b.float(wide, 1.0 / c as f64);
                    b.binary(Binary::Mul, sum, share)
                }
                None => {
                    let count = b.push(Expr::Index(count));
                    let count = b.cast(wide, count);
                    b.binary(Binary::Div, sum, count)
                }
            };
            (b.cast(x.dtype, root), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

struct LpPool;

impl OpDef for LpPool {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "LpPool",
            "the p-norm of each window",
            X,
            Y,
            &[AUTO_PAD, CEIL, DILATIONS, KERNEL, P, PADS, STRIDES],
        );
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        power(cx)?;
        Ok(vec![pooled(cx)?.1])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, p) = (cx.tensor(0)?, power(cx)?);
        let (window, fact) = pooled(cx)?;
        let (window, shape) = (window.concrete()?, static_shape(&fact)?);
        let v = x.to_f64();
        let norms = each_window(&window, &shape, |_, inside| {
            inside.iter().map(|i| v[*i].abs().powf(p)).sum::<f64>().powf(1.0 / p)
        });
        Ok(vec![Tensor::from_f64(x.dtype(), &shape, norms)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        norm(cx, |g, powers| g.apply("cameo::SumPool", &window_attrs(cx), &[powers]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::ops::samples::sample;
    use crate::{Attrs, Graph, Op};

    fn numbers(dtype: DType, shape: &[usize]) -> Option<Tensor> {
        sample(dtype, shape, 1)
    }

    fn ints(name: &'static str, v: &[i64]) -> (&'static str, Attr) {
        (name, Attr::Ints(v.to_vec()))
    }

    fn one(name: &'static str, v: i64) -> (&'static str, Attr) {
        (name, Attr::Int(v))
    }

    /// The window variants that every pooling must handle.
    fn variants() -> Vec<Vec<(&'static str, Attr)>> {
        let auto = |m: &str| ("auto_pad", Attr::Str(m.into()));
        vec![
            vec![ints("kernel_shape", &[2, 3])],
            vec![ints("kernel_shape", &[1, 1])],
            vec![
                ints("kernel_shape", &[3, 3]),
                ints("pads", &[1, 1, 1, 1]),
                ints("strides", &[2, 2]),
            ],
            vec![
                ints("kernel_shape", &[3, 2]),
                ints("pads", &[0, 1, 1, 0]),
                one("ceil_mode", 1),
                ints("strides", &[2, 3]),
            ],
            vec![
                ints("kernel_shape", &[2, 2]),
                ints("strides", &[3, 3]),
                one("ceil_mode", 1),
            ],
            vec![
                ints("kernel_shape", &[2, 3]),
                ints("dilations", &[3, 2]),
                ints("pads", &[1, 2, 1, 2]),
            ],
            vec![
                ints("kernel_shape", &[3, 2]),
                ints("strides", &[2, 2]),
                auto("SAME_UPPER"),
            ],
            vec![
                ints("kernel_shape", &[2, 3]),
                ints("strides", &[1, 2]),
                auto("SAME_LOWER"),
            ],
            vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2]), auto("VALID")],
        ]
    }

    #[test]
    fn windows_of_all_kinds() {
        for attrs in variants() {
            for t in [DType::F32, DType::F64, DType::F16] {
                let x = || numbers(t, &[2, 2, 6, 7]);
                check("MaxPool", &attrs, &[x()], 1);
                check("cameo::SumPool", &attrs, &[x()], 1);
                check("LpPool", &attrs, &[x()], 1);
                for include in [0, 1] {
                    let mut attrs = attrs.clone();
                    attrs.push(one("count_include_pad", include));
                    check("AveragePool", &attrs, &[x()], 1);
                }
            }
            check("MaxPool", &attrs, &[numbers(DType::I8, &[1, 2, 6, 7])], 1);
            check("MaxPool", &attrs, &[numbers(DType::U8, &[1, 1, 6, 7])], 1);
        }
        let x = || numbers(DType::F32, &[1, 2, 5]);
        check("MaxPool", &[ints("kernel_shape", &[3])], &[x()], 1);
        for p in [1, 3] {
            check("LpPool", &[ints("kernel_shape", &[2]), one("p", p)], &[x()], 1);
        }
    }

    #[test]
    fn indices_of_maxima() {
        let x = Tensor::f32(&[1, 1, 2, 3], [1.0, 5.0, 5.0, 7.0, 0.0, 2.0]);
        let run = |order| {
            let attrs: Attrs = [
                ("kernel_shape".into(), Attr::Ints(vec![2, 2])),
                ("storage_order".into(), Attr::Int(order)),
            ]
            .into();
            let (fact, op) = (x.fact(), Op::find("MaxPool").expect("there"));
            let args = [Some(crate::op::Arg {
                fact: &fact,
                constant: Some(&x),
            })];
            let cx = Cx {
                schema: op.schema(),
                attrs: &attrs,
                inputs: &args,
                outputs: 2,
            };
            let out = op.0.eval(&cx).expect("legal");
            (out[0].to_i64(), out[1].to_i64())
        };
        assert_eq!(run(0), (vec![7, 5], vec![3, 1]));
        assert_eq!(run(1), (vec![7, 5], vec![1, 2]));
    }

    #[test]
    fn means_of_whole_windows_multiply_by_a_constant() {
        let shape = [Dim::sym("N"), Dim::from(4i64), Dim::from(8i64), Dim::from(8i64)];
        let mut g = Graph::new("t");
        let x = g.add_input("x", Fact::new(DType::F32, shape.map(|d| d)));
        let attrs = [ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
        let y = g.apply("AveragePool", &attrs, &[x]).expect("legal");
        let (n, _) = g.producer(y).expect("a node");
        let Ok(Lowering::Decompose(inner)) = g.with_cx(n, |cx| AveragePool.lower(cx)) else {
            panic!("a mean decomposes");
        };
        let mean = inner
            .order()
            .into_iter()
            .find(|n| inner.node(*n).op == "cameo::PoolMean")
            .expect("there");
        let Ok(Lowering::Compute(c)) = inner.with_cx(mean, |cx| PoolMean.lower(cx)) else {
            panic!("one nest of loops");
        };
        assert!(
            !c[0].body.nodes().iter().any(|e| matches!(e, Expr::Index(_))),
            "{:?}",
            c[0].body
        );
    }

    #[test]
    fn hostile_windows_are_refused() {
        let refuse = |attrs: &[(&str, Attr)]| {
            let mut g = Graph::new("t");
            let x = g.add_input(
                "x",
                Fact::new(DType::F32, [1, 1, 4, 4].map(Dim::from as fn(i64) -> Dim)),
            );
            g.apply("MaxPool", attrs, &[x]).is_err()
        };
        assert!(refuse(&[]));
        assert!(refuse(&[ints("kernel_shape", &[0, 1])]));
        assert!(refuse(&[ints("kernel_shape", &[5, 1])]));
        assert!(refuse(&[ints("kernel_shape", &[2])]));
        assert!(refuse(&[ints("kernel_shape", &[2, 2]), ints("strides", &[0, 1])]));
        assert!(refuse(&[
            ints("kernel_shape", &[2, 2]),
            ints("dilations", &[i64::MAX, 1])
        ]));
        assert!(refuse(&[
            ints("kernel_shape", &[2, 2]),
            ints("pads", &[i64::MIN, 0, 0, 0])
        ]));
    }
}
