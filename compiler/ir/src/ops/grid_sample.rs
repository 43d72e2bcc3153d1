//! `GridSample`: images read at positions that are data.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid};
use crate::ops::pointwise::working;
use crate::structured::{Binary, Body, Combine, Compute, Expr, ExprId, Scalar, Unary};
use crate::{DType, Dim, Fact, Tensor};

/// How a position between elements is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Nearest,
    Linear,
    /// Keys' cubic convolution with α = -3/4.
    Cubic,
}

/// What is outside of the image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

#[derive(Clone, Copy)]
struct Sampling {
    mode: Mode,
    padding: Padding,
    align_corners: bool,
}

const ALPHA: f64 = -0.75;

impl Sampling {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let mode = match cx.str("mode")? {
            "nearest" => Mode::Nearest,
            "linear" => Mode::Linear,
            "cubic" => Mode::Cubic,
            _ => return cx.bad("mode"),
        };
        let padding = match cx.str("padding_mode")? {
            "zeros" => Padding::Zeros,
            "border" => Padding::Border,
            "reflection" => Padding::Reflection,
            _ => return cx.bad("padding_mode"),
        };
        let align_corners = cx.int("align_corners")? != 0;
        Ok(Self {
            mode,
            padding,
            align_corners,
        })
    }

    /// Smallest and largest position of an axis, counted from the first element; `n` elements.
    fn borders(self, n: f64) -> [f64; 2] {
        if self.align_corners {
            [0.0, n - 1.0]
        } else {
            [-0.5, n - 0.5]
        }
    }

    /// Whether positions outside of the image stay there: taps are padded one by one. Of a border that is the same as moving
    /// the position onto it, except to cubic weights.
    const fn outside(self) -> bool {
        match self.padding {
            Padding::Zeros => true,
            Padding::Border => matches!(self.mode, Mode::Cubic),
            Padding::Reflection => false,
        }
    }

    /// Elements before the one at or below the position, and behind it, that are read.
    const fn taps(self) -> std::ops::Range<i64> {
        match self.mode {
            Mode::Nearest => 0..1,
            Mode::Linear => 0..2,
            Mode::Cubic => -1..3,
        }
    }

    /// Weights of the taps at `t` in 0..1 behind the element below.
    fn weights(self, t: f64) -> Vec<f64> {
        let far = |x: f64| ((ALPHA * x - 5.0 * ALPHA) * x + 8.0 * ALPHA) * x - 4.0 * ALPHA;
        let near = |x: f64| ((ALPHA + 2.0) * x - (ALPHA + 3.0)) * x * x + 1.0;
        match self.mode {
            Mode::Nearest => vec![1.0],
            Mode::Linear => vec![1.0 - t, t],
            Mode::Cubic => vec![far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)],
        }
    }
}

/// `x` thrown back at the borders until it is between them.
fn reflect(x: f64, [low, high]: [f64; 2]) -> f64 {
    let below = x < low;
    if (!below && x <= high) || high <= low {
        return x.clamp(low, high.max(low));
    }
    let (past, range) = (if below { low - x } else { x - high }, high - low);
    let times = (past / range).floor();
    let rest = past - times * range;
    if below == (times % 2.0 == 0.0) {
        low + rest
    } else {
        high - rest
    }
}

/// The body's form of the functions above, for one axis.
struct Axis<'a> {
    sampling: Sampling,
    work: DType,
    n: &'a Dim,
}

impl Axis<'_> {
    fn number(&self, b: &mut Body, v: f64) -> ExprId {
        b.float(self.work, v)
    }

    fn extent(&self, b: &mut Body) -> ExprId {
        let n = b.push(Expr::Index(self.n.clone()));
        b.cast(self.work, n)
    }

    fn add(&self, b: &mut Body, x: ExprId, v: f64) -> ExprId {
        let v = self.number(b, v);
        b.binary(Binary::Add, x, v)
    }

    fn scale(&self, b: &mut Body, x: ExprId, v: f64) -> ExprId {
        let v = self.number(b, v);
        b.binary(Binary::Mul, x, v)
    }

    fn borders(&self, b: &mut Body) -> [ExprId; 2] {
        let shift = if self.sampling.align_corners { 0.0 } else { 0.5 };
        let low = self.number(b, -shift);
        let n = self.extent(b);
        [low, self.add(b, n, shift - 1.0)]
    }

    /// From -1..1 to elements.
    fn position(&self, b: &mut Body, grid: ExprId) -> ExprId {
        let from_zero = self.add(b, grid, 1.0);
        let n = self.extent(b);
        if self.sampling.align_corners {
            let half = self.scale(b, from_zero, 0.5);
            let last = self.add(b, n, -1.0);
            return b.binary(Binary::Mul, half, last);
        }
        let wide = b.binary(Binary::Mul, from_zero, n);
        let wide = self.add(b, wide, -1.0);
        self.scale(b, wide, 0.5)
    }

    /// `x`, or the bound that it is beyond; a NaN is below.
    fn clamp(&self, b: &mut Body, x: ExprId, low: ExprId, high: ExprId) -> ExprId {
        let above = b.binary(Binary::Le, low, x);
        let x = b.select(above, x, low);
        let below = b.binary(Binary::Le, x, high);
        b.select(below, x, high)
    }

    fn reflect(&self, b: &mut Body, x: ExprId) -> ExprId {
        let [low, high] = self.borders(b);
        let (below, above) = (b.binary(Binary::Lt, x, low), b.binary(Binary::Lt, high, x));
        let (under, over) = (b.binary(Binary::Sub, low, x), b.binary(Binary::Sub, x, high));
        let past = b.select(below, under, over);
        let range = b.binary(Binary::Sub, high, low);
        let times = b.binary(Binary::Div, past, range);
        let times = b.unary(Unary::Floor, times);
        let whole = b.binary(Binary::Mul, times, range);
        let rest = b.binary(Binary::Sub, past, whole);
        let half = self.scale(b, times, 0.5);
        let floor = b.unary(Unary::Floor, half);
        let even = b.binary(Binary::Eq, half, floor);
        let (from_low, from_high) = (b.binary(Binary::Add, low, rest), b.binary(Binary::Sub, high, rest));
        let same = b.select(even, from_low, from_high);
        let other = b.select(even, from_high, from_low);
        let thrown = b.select(below, same, other);
        let outside = b.binary(Binary::Or, below, above);
        b.select(outside, thrown, x)
    }

    /// Elements that are read and their weights, for a number of the grid.
    fn taps(&self, b: &mut Body, grid: ExprId) -> Vec<(ExprId, Option<ExprId>)> {
        let (zero, n) = (self.number(b, 0.0), self.extent(b));
        let last = self.add(b, n, -1.0);
        let mut x = self.position(b, grid);
        if self.sampling.mode == Mode::Nearest {
            x = b.unary(Unary::Round, x);
        }
        match self.sampling.padding {
            _ if self.sampling.outside() => {
                // As far outside as all taps are, for what no integer can hold.
                let (low, high) = (self.number(b, -4.0), self.add(b, n, 4.0));
                x = self.clamp(b, x, low, high);
            }
            Padding::Reflection => x = self.reflect(b, x),
            _ => x = self.clamp(b, x, zero, last),
        }
        let below = b.unary(Unary::Floor, x);
        let t = b.binary(Binary::Sub, x, below);
        let weights = self.weights(b, t);
        let taps = self.sampling.taps().zip(weights);
        taps.map(|(k, weight)| {
            let mut at = self.add(b, below, k as f64);
            if self.sampling.padding == Padding::Reflection {
                at = self.reflect(b, at);
                // The element that a half is behind of, as conversion to an integer has it.
                at = b.unary(Unary::Floor, at);
            }
            if self.sampling.padding != Padding::Zeros {
                at = self.clamp(b, at, zero, last);
            }
            (b.cast(DType::I64, at), weight)
        })
        .collect()
    }

    fn weights(&self, b: &mut Body, t: ExprId) -> Vec<Option<ExprId>> {
        let one = self.number(b, 1.0);
        let polynomial = |b: &mut Body, x: ExprId, c: [f64; 4]| {
            let mut sum = self.number(b, c[0]);
            for c in &c[1..] {
                let product = b.binary(Binary::Mul, sum, x);
                sum = self.add(b, product, *c);
            }
            sum
        };
        let far = [ALPHA, -5.0 * ALPHA, 8.0 * ALPHA, -4.0 * ALPHA];
        let near = [ALPHA + 2.0, -(ALPHA + 3.0), 0.0, 1.0];
        match self.sampling.mode {
            Mode::Nearest => vec![None],
            Mode::Linear => vec![Some(b.binary(Binary::Sub, one, t)), Some(t)],
            Mode::Cubic => {
                let rest = b.binary(Binary::Sub, one, t);
                let (before, behind) = (b.binary(Binary::Add, t, one), b.binary(Binary::Add, rest, one));
                let terms = [(before, far), (t, near), (rest, near), (behind, far)];
                terms.map(|(x, c)| Some(polynomial(b, x, c))).into()
            }
        }
    }
}

pub struct GridSample;

impl OpDef for GridSample {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "GridSample",
            "X[n, c] at the positions grid[n, …], from -1 to 1 along each axis, the last axis first",
            &[Param::new("X", Types::FLOAT), Param::new("grid", Types::FLOAT).group(2)],
            &[Param::new("Y", Types::FLOAT)],
            &[
                ("align_corners", AttrDef::Int(0)),
                ("mode", AttrDef::OneOf(&["linear", "nearest", "cubic"])),
                ("padding_mode", AttrDef::OneOf(&["zeros", "border", "reflection"])),
            ],
        )
        .limits(&["the last extent of `grid` must be known"])
        .since(16);
        &S
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let (axes, grid) = (Dim::from(cx.fact(0)?.rank()) - Dim::from(2i64), cx.fact(1)?);
        let numbers = grid.shape.last().cloned().unwrap_or(Dim::ZERO);
        Ok(vec![(axes.clone(), numbers.clone()), (numbers, axes)])
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, grid) = (cx.fact(0)?, cx.fact(1)?);
        Sampling::of(cx)?;
        if x.rank() < 3 || grid.rank() != x.rank() {
            return invalid(format!(
                "{x} with a grid {grid}: both have a batch axis and as many axes"
            ));
        }
        let axes = x.rank() - 2;
        match grid.shape[axes + 1].as_const() {
            Some(n) if n == axes as i64 => {}
            Some(n) => return invalid(format!("the grid has {n} numbers for each position, {axes} are needed")),
            // It is what it must be: the run would say so too late.
            None => {}
        }
        let shape: Vec<Dim> = x.shape[..2].iter().chain(&grid.shape[1..=axes]).cloned().collect();
        Ok(vec![Fact::new(x.dtype, shape)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, grid, sampling) = (cx.tensor(0)?, cx.tensor(1)?, Sampling::of(cx)?);
        let (shape, numbers, positions) = (x.shape(), x.to_f64(), grid.to_f64());
        let (space, axes) = (&shape[2..], shape.len() - 2);
        if grid.shape()[axes + 1] != axes || grid.shape()[0] != shape[0] {
            return invalid("the grid has another batch, or number of coordinates, than the image");
        }
        let points: usize = grid.shape()[1..=axes].iter().product();
        let inner: usize = space.iter().product();
        // Positions are told in the precision that they are computed in.
        let round = |v: f64| {
            if x.dtype() == DType::F64 {
                v
            } else {
                f64::from(v as f32)
            }
        };
        let mut y = vec![];
        for n in 0..shape[0] {
            for c in 0..shape[1] {
                for p in 0..points {
                    // Elements of the image and their weights, axis by axis.
                    let mut all = vec![(Some(0usize), 1.0)];
                    for (axis, &extent) in space.iter().enumerate() {
                        let g = positions[(n * points + p) * axes + (axes - 1 - axis)];
                        let [low, high] = sampling.borders(extent as f64);
                        let last = extent as f64 - 1.0;
                        let mut at = if sampling.align_corners {
                            round(round((g + 1.0) / 2.0) * last)
                        } else {
                            round((round((g + 1.0) * extent as f64) - 1.0) / 2.0)
                        };
                        if sampling.mode == Mode::Nearest {
                            at = at.round_ties_even();
                        }
                        at = match sampling.padding {
                            _ if sampling.outside() => at,
                            Padding::Reflection => reflect(at, [low, high]),
                            _ => at.clamp(0.0, last.max(0.0)),
                        };
                        let taps: Vec<(Option<usize>, f64)> = sampling
                            .taps()
                            .zip(sampling.weights(at - at.floor()))
                            .map(|(k, w)| {
                                let i = at.floor() + k as f64;
                                let i = match sampling.padding {
                                    Padding::Zeros => i,
                                    Padding::Border => i.clamp(0.0, last.max(0.0)),
                                    Padding::Reflection => reflect(i, [low, high]).trunc().clamp(0.0, last.max(0.0)),
                                };
                                ((0.0..=last).contains(&i).then_some(i as usize), w)
                            })
                            .collect();
                        let step = |(at, v): &(Option<usize>, f64)| {
                            let (at, v) = (*at, *v);
                            taps.iter()
                                .map(|(i, w)| (at.zip(*i).map(|(a, i)| a * extent + i), v * w))
                                .collect::<Vec<_>>()
                        };
                        all = all.iter().flat_map(step).collect();
                    }
                    let image = (n * shape[1] + c) * inner;
                    y.push(
                        all.iter()
                            .filter_map(|(at, w)| Some(numbers[image + (*at)?] * w))
                            .sum::<f64>(),
                    );
                }
            }
        }
        let shape: Vec<usize> = shape[..2].iter().chain(&grid.shape()[1..=axes]).copied().collect();
        Ok(vec![Tensor::from_f64(x.dtype(), &shape, y)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, grid, sampling) = (cx.fact(0)?, cx.fact(1)?, Sampling::of(cx)?);
        let axes = x.rank() - 2;
        let work = working(x.dtype);
        let shape = &self.infer(cx)?[0].shape;
        let compute = Compute::nest(x.dtype, shape, &[], Combine::Add, |b, it, _| {
            let mut points: Vec<(Vec<Dim>, Option<ExprId>)> = vec![(it[..2].to_vec(), None)];
            for axis in 0..axes {
                let mut at = vec![it[0].clone()];
                at.extend(it[2..].iter().cloned());
                at.push(Dim::from(axes - 1 - axis));
                let position = b.load(1, grid.dtype, at);
                let position = b.cast(work, position);
                let of = Axis {
                    sampling,
                    work,
                    n: &x.shape[2 + axis],
                };
                let taps = of.taps(b, position);
                let mut more = vec![];
                for (index, weight) in &points {
                    for (place, w) in &taps {
                        let index = index.iter().cloned().chain([Dim::aux(*place)]).collect();
                        let weight = match (*weight, *w) {
                            (Some(x), Some(y)) => Some(b.binary(Binary::Mul, x, y)),
                            (x, y) => x.or(y),
                        };
                        more.push((index, weight));
                    }
                }
                points = more;
            }
            let mut sum: Option<ExprId> = None;
            for (index, weight) in points {
                let value = b.push(Expr::Load {
                    operand: 0,
                    dtype: x.dtype,
                    index,
                    fill: Some(Scalar::Float(0f64.to_bits())),
                });
                let mut term = b.cast(work, value);
                if let Some(w) = weight {
                    term = b.binary(Binary::Mul, term, w);
                }
                sum = Some(sum.map_or(term, |s| b.binary(Binary::Add, s, term)));
            }
            let sum = sum.unwrap_or_else(|| b.float(work, 0.0));
            (b.cast(x.dtype, sum), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}
