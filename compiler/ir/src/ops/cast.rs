//! Conversions between element types, selection and clipping.
//!
//! Law: what lies beyond a small float's range, and how its powers of two are rounded, is decided here; bodies convert to the
//! nearest value.

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::ops::binary::{larger, smaller};
use crate::ops::chosen::{brief, choose, equal};
use crate::ops::fragment::Fragment;
use crate::ops::pointwise::{self, MOVED, RESULT, working};
use crate::ops::strings::numbers;
use crate::structured::{Binary, Body, Compute, Expr, ExprId, Unary};
use crate::{Attr, Bounds, DType, Dim, Fact, Real, Tensor, narrow};

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[&Cast, &CastLike, &BitCast, &Where, &Clip];

const CONVERTED: &[Param] = &[Param::new("output", Types::MOVED).group(2)];

const STRINGS: &[&str] = &[
    "floats are written as C's `%.8g`; a string that is no number is an error of the run",
    "to and from strings: no operand as long as data says",
];

/// The fact of `x` as `to`.
fn converted(x: &Fact, to: DType) -> Fact {
    let mut out = Fact::new(to, x.shape.clone());
    if [x.dtype, to].contains(&DType::String) {
        return out;
    }
    let Some(known) = &x.known else { return out };
    let rounded = |d: &Dim| pointwise::rounded(to, d);
    out.known = match (x.dtype.is_float(), to.is_float()) {
        (false, false) => known.iter().map(|d| convert_dim(d, to)).collect(),
        (false, true) if known.len() > Fact::REALS_MAX => None,
        (false, true) => known.iter().map(|d| rounded(&Dim::map_real(Real::Of, d))).collect(),
        (true, true) => known.iter().map(rounded).collect(),
        (true, false) => {
            let one = |d: &Dim| {
                let up = Dim::map_real(Real::Ceil, &Dim::map_real(Real::Abs, d));
                Dim::apply(Real::Min, &up, &Dim::real(1.0))
            };
            let whole = |d: &Dim| Dim::map_real(Real::Whole, d);
            let whole = known
                .iter()
                .map(|d| if to == DType::Bool { whole(&one(d)) } else { whole(d) });
            whole.map(|d| pointwise::fits(to, &d).then_some(d)).collect()
        }
    };
    out
}

fn convert_dim(d: &Dim, to: DType) -> Option<Dim> {
    if to != DType::Bool {
        return pointwise::fits(to, d).then(|| d.clone());
    }
    let (lo, hi) = Bounds::of(&[]).range(d);
    match (lo, hi) {
        (0, 0) => Some(Dim::ZERO),
        _ if lo > 0 || hi < 0 => Some(Dim::ONE),
        (0, 1) => Some(d.clone()),
        _ => brief(std::slice::from_ref(d)).then(|| Dim::ONE - equal(d, &Dim::ZERO)),
    }
}

/// How a power of two is chosen for a number that is none.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Up,
    Down,
    /// Of two equally near ones the larger.
    Nearest,
}

/// What small floats do with numbers that they do not have.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// Beyond the largest number is the largest; else what the type has there.
    saturate: bool,
    /// Of `f8e8m0`.
    mode: Mode,
}

const ROUND_MODE: (&str, AttrDef) = ("round_mode", AttrDef::OneOf(&["up", "down", "nearest"]));

impl Manner {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let mode = match cx.str("round_mode")? {
            "up" => Mode::Up,
            "down" => Mode::Down,
            "nearest" => Mode::Nearest,
            _ => return cx.bad("round_mode"),
        };
        let saturate = cx.int("saturate")? != 0;
        Ok(Self { saturate, mode })
    }

    /// `x` as a value of `f8e8m0`, or NaN.
    fn power(self, x: f64) -> f64 {
        let (least, most) = (2f64.powi(-127), narrow::largest(DType::F8E8M0));
        let mut x = f64::from(x as f32).abs();
        if self.saturate {
            x = x.clamp(least, most);
        }
        if !(least..=most).contains(&x) {
            return f64::NAN;
        }
        let below = f64::from_bits(x.to_bits() >> 52 << 52);
        match self.mode {
            _ if x == below => below,
            Mode::Up => 2.0 * below,
            Mode::Nearest if x >= 1.5 * below => 2.0 * below,
            Mode::Down | Mode::Nearest => below,
        }
    }

    /// `v` as type `to`.
    pub(crate) fn cast(self, b: &mut Body, v: ExprId, to: DType) -> ExprId {
        let from = b.dtype(v);
        if from == to {
            return v;
        }
        if to == DType::F8E8M0 {
            return self.cast_power(b, v);
        }
        if !self.saturate || !Types::FLOAT8.contains(to) {
            return b.cast(to, v);
        }
        // Integers that are rounded on the way are far beyond the largest number.
        let wide = if from == DType::F64 { from } else { DType::F32 };
        let v = b.cast(wide, v);
        let most = narrow::largest(to);
        let (low, high) = (b.float(wide, -most), b.float(wide, most));
        let v = b.binary(Binary::Max, v, low);
        let v = b.binary(Binary::Min, v, high);
        b.cast(to, v)
    }

    /// The conversion of bodies goes to the nearest power: one step from it is the other neighbour.
    fn cast_power(self, b: &mut Body, v: ExprId) -> ExprId {
        let (t, to) = (DType::F32, DType::F8E8M0);
        let x = b.cast(t, v);
        let mut x = b.unary(Unary::Abs, x);
        let most = b.float(t, narrow::largest(to));
        if self.saturate {
            x = b.binary(Binary::Min, x, most);
        } else {
            // The smallest number is subnormal in `f32`; its double is not.
            let (double, least) = (b.binary(Binary::Add, x, x), b.float(t, 2f64.powi(-126)));
            let (above, below) = (b.binary(Binary::Le, least, double), b.binary(Binary::Le, x, most));
            let (inside, nan) = (b.binary(Binary::And, above, below), b.float(t, f64::NAN));
            x = b.select(inside, x, nan);
        }
        let nearest = b.cast(to, x);
        let (other, further) = match self.mode {
            Mode::Nearest => return nearest,
            Mode::Up => (2.0, true),
            Mode::Down => (0.5, false),
        };
        let near = b.cast(t, nearest);
        let other = b.float(t, other);
        let other = b.binary(Binary::Mul, near, other);
        let (low, high) = if further { (near, x) } else { (x, near) };
        let wrong = b.binary(Binary::Lt, low, high);
        let chosen = b.select(wrong, other, near);
        b.cast(to, chosen)
    }
}

fn convert(x: &Tensor, to: DType, how: Manner) -> Result<Tensor, OpError> {
    Ok(match (x.dtype(), to) {
        (from, to) if from == to => x.clone(),
        (_, DType::String) => numbers::printed(x)?,
        (DType::String, _) => return convert(&numbers::parsed(x, to)?, to, how),
        (_, DType::F8E8M0) => Tensor::from_f64(to, x.shape(), x.to_f64().into_iter().map(|v| how.power(v))),
        (_, to) if how.saturate && Types::FLOAT8.contains(to) => {
            let most = narrow::largest(to);
            Tensor::from_f64(to, x.shape(), x.to_f64().into_iter().map(|v| v.clamp(-most, most)))
        }
        // `u64` goes to floats by its value, to integers by its bits.
        (from, to) if from.is_float() || to.is_float() => Tensor::from_f64(to, x.shape(), x.to_f64()),
        _ => Tensor::from_i64(to, x.shape(), x.to_i64()),
    })
}

fn lower_cast(cx: &Cx, to: DType) -> Result<Lowering, OpError> {
    let (x, how) = (cx.fact(0)?, Manner::of(cx)?);
    if x.dtype != to && [x.dtype, to].contains(&DType::String) {
        let mut g = Fragment::new(cx);
        let v = g.required(cx, 0)?;
        let mut y = match to {
            DType::String => numbers::print(&mut g, v)?,
            to => numbers::parse(&mut g, v, to)?,
        };
        if g.dtype(y) != to {
            let manner = ["saturate", "round_mode"];
            let manner = manner
                .iter()
                .filter_map(|name| Some((*name, cx.attrs.get(*name)?.clone())));
            let attrs: Vec<(&str, Attr)> = manner.chain([("to", Attr::DType(to))]).collect();
            y = g.apply("Cast", &attrs, &[y])?;
        }
        return Ok(g.finish(&[y]));
    }
    Ok(Lowering::Compute(vec![Compute::map(to, &x.shape, |b, i| {
        let v = b.load(0, x.dtype, i.to_vec());
        how.cast(b, v, to)
    })]))
}

struct Cast;

impl OpDef for Cast {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "Cast",
            "x as element type `to`; floats to integers truncate, to bool is x != 0, to floats goes to the nearest value",
            &[Param::new("input", Types::MOVED)],
            CONVERTED,
            &[
                ("to", AttrDef::ReqDType),
                // To a float of 8 bits: beyond its largest number is the largest, else infinity or NaN.
                ("saturate", AttrDef::Int(1)),
                // To `f8e8m0`: to which power of two.
                ROUND_MODE,
            ],
        )
        .limits(STRINGS)
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Manner::of(cx)?;
        Ok(vec![converted(cx.fact(0)?, cx.dtype("to")?)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![convert(cx.tensor(0)?, cx.dtype("to")?, Manner::of(cx)?)?])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        lower_cast(cx, cx.dtype("to")?)
    }
}

struct CastLike;

impl OpDef for CastLike {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "CastLike",
            "x as the element type of the second operand",
            &[
                Param::new("input", Types::MOVED),
                Param::new("target_type", Types::MOVED).group(2),
            ],
            CONVERTED,
            &[("saturate", AttrDef::Int(1)), ROUND_MODE],
        )
        .limits(STRINGS)
        .since(15);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Manner::of(cx)?;
        Ok(vec![converted(cx.fact(0)?, cx.fact(1)?.dtype)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![convert(cx.tensor(0)?, cx.fact(1)?.dtype, Manner::of(cx)?)?])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        lower_cast(cx, cx.fact(1)?.dtype)
    }
}

struct BitCast;

impl BitCast {
    fn target(cx: &Cx) -> Result<DType, OpError> {
        let (from, to) = (cx.fact(0)?.dtype, cx.dtype("to")?);
        if to == DType::String {
            return invalid("attribute `to` is string, which is no bits of a number");
        }
        match from.size() == to.size() {
            true => Ok(to),
            false => invalid(format!("{from} and {to} have elements of different size")),
        }
    }
}

impl OpDef for BitCast {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "BitCast",
            "the bits of x as element type `to` of the same size; to bool: whether any is set",
            &[Param::new("input", Types::ANY)],
            &[Param::new("output", Types::ANY).group(2)],
            &[("to", AttrDef::ReqDType)],
        )
        .since(26)
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::new(Self::target(cx)?, cx.fact(0)?.shape.clone())])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, to) = (cx.tensor(0)?, Self::target(cx)?);
        if to == DType::Bool {
            return Ok(vec![Tensor::bool(x.shape(), x.bytes().iter().map(|b| *b != 0))]);
        }
        match Tensor::new(to, x.shape().to_vec(), x.bytes().clone()) {
            Ok(y) => Ok(vec![y]),
            Err(e) => invalid(format!("{} bytes, {:?} wanted", e.got, e.expected)),
        }
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (x, to) = (cx.fact(0)?, Self::target(cx)?);
        Ok(Lowering::Compute(vec![Compute::map(to, &x.shape, |b, i| {
            let v = b.load(0, x.dtype, i.to_vec());
            // A bool is no byte in a body.
            if x.dtype == DType::Bool || to == DType::Bool {
                let byte = if x.dtype == DType::Bool {
                    v
                } else {
                    b.push(Expr::Bits(DType::U8, v))
                };
                return match to {
                    DType::Bool => b.cast(DType::Bool, byte),
                    _ => {
                        let byte = b.cast(DType::U8, byte);
                        b.push(Expr::Bits(to, byte))
                    }
                };
            }
            b.push(Expr::Bits(to, v))
        })]))
    }
}

struct Where;

impl OpDef for Where {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "Where",
            "x where the condition holds, else y",
            &[
                Param::new("condition", Types::BOOL).group(2),
                Param::new("X", Types::MOVED),
                Param::new("Y", Types::MOVED),
            ],
            MOVED,
            &[],
        )
        .since(9)
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        pointwise::infer(cx, cx.fact(1)?.dtype, |a| match a[0].as_const() {
            Some(0) => Some(a[2].clone()),
            Some(_) => Some(a[1].clone()),
            None if a[1] == a[2] => Some(a[1].clone()),
            None => brief(a).then(|| choose(&a[0], a[1].clone(), a[2].clone())),
        })
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let t = cx.fact(1)?.dtype;
        if t.is_float() {
            pointwise::eval_floats(cx, t, |a| if a[0] == 0.0 { a[2] } else { a[1] })
        } else {
            pointwise::eval_integers(cx, t, |a| if a[0] == 0 { a[2] } else { a[1] })
        }
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        // Both sides go through the working type and back, which is exact.
        pointwise::lower(cx, cx.fact(1)?.dtype, |b, a| b.select(a[0], a[1], a[2]))
    }
}

struct Clip;

impl Clip {
    fn check(cx: &Cx) -> Result<(), OpError> {
        for (i, name) in [(1, "min"), (2, "max")] {
            if let Some(bound) = cx.arg(i)
                && !bound.fact.element_count().is_one()
            {
                return invalid(format!("{name} has shape {}, one element is wanted", bound.fact));
            }
        }
        Ok(())
    }

    /// `x` joined by `f` with bound `i`, where there is one.
    fn join(cx: &Cx, b: &mut Body, x: ExprId, i: usize, f: Binary) -> ExprId {
        let Some(bound) = cx.arg(i) else { return x };
        let v = b.load(i, bound.fact.dtype, vec![Dim::ZERO; bound.fact.rank()]);
        let v = b.cast(working(bound.fact.dtype), v);
        b.binary(f, x, v)
    }
}

impl OpDef for Clip {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "Clip",
            "min(max(x, min), max)",
            &[
                Param::new("input", Types::NUMBER),
                Param::new("min", Types::NUMBER).optional(),
                Param::new("max", Types::NUMBER).optional(),
            ],
            RESULT,
            &[],
        )
        .pointwise();
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        Self::check(cx)?;
        let x = cx.fact(0)?;
        let mut out = Fact::new(x.dtype, x.shape.clone());
        // Known where the bounds are: outer `None` is a bound that is not known.
        let bound = |i: usize| match cx.arg(i) {
            None => Some(None),
            Some(a) => a.fact.known.as_ref().map(|k| k.first()),
        };
        if x.dtype.is_float() {
            let end = |i: usize| cx.has(i).then(|| cx.reals(i).and_then(|k| k.into_iter().next()));
            out.known = x.known.as_ref().and_then(|known| {
                let (lo, hi) = (end(1), end(2));
                let cut = |d: Dim, op, end: &Option<Option<Dim>>| match end {
                    Some(end) => end.as_ref().map(|e| Dim::apply(op, &d, e)),
                    None => Some(d),
                };
                let clip = |d: &Dim| cut(cut(d.clone(), Real::Max, &lo)?, Real::Min, &hi);
                known.iter().map(clip).collect()
            });
        } else if let (Some(known), Some(lo), Some(hi)) = (&x.known, bound(1), bound(2)) {
            let clip = |d: &Dim| {
                let d = lo.map_or_else(|| d.clone(), |lo| larger(d, lo));
                hi.map_or_else(|| d.clone(), |hi| smaller(&d, hi))
            };
            out.known = Some(known.iter().map(clip).collect());
        }
        Ok(vec![out])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let bound = |i: usize| if cx.has(i) { cx.tensor(i).map(Some) } else { Ok(None) };
        let (lo, hi) = (bound(1)?, bound(2)?);
        let out = if x.dtype().is_float() {
            let first = |t: Option<&Tensor>| t.and_then(|t| t.to_f64().first().copied());
            let (lo, hi) = (first(lo), first(hi));
            let clip = |x: f64| {
                let x = lo.filter(|lo| x < *lo || lo.is_nan()).unwrap_or(x);
                hi.filter(|hi| x > *hi || hi.is_nan()).unwrap_or(x)
            };
            Tensor::from_f64(x.dtype(), x.shape(), x.to_f64().into_iter().map(clip))
        } else {
            let first = |t: Option<&Tensor>| t.and_then(|t| pointwise::integers(t).first().copied());
            let (lo, hi) = (first(lo).unwrap_or(i128::MIN), first(hi).unwrap_or(i128::MAX));
            let v = pointwise::integers(x).into_iter().map(|x| x.max(lo).min(hi)).collect();
            pointwise::from_integers(x.dtype(), x.shape(), v)
        };
        Ok(vec![out])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let x = cx.fact(0)?;
        Ok(Lowering::Compute(vec![Compute::map(x.dtype, &x.shape, |b, i| {
            let v = b.load(0, x.dtype, i.to_vec());
            let v = b.cast(working(x.dtype), v);
            let v = Self::join(cx, b, v, 1, Binary::Max);
            let v = Self::join(cx, b, v, 2, Binary::Min);
            b.cast(x.dtype, v)
        })]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};

    /// Strings are not converted.
    fn numbers() -> impl Iterator<Item = DType> {
        DType::ALL.into_iter().filter(|t| *t != DType::String)
    }

    #[test]
    fn every_cast() {
        for from in numbers() {
            for to in numbers() {
                let x = sample(from, &[3, 5], 1);
                // Negative floats as unsigned integers are not defined.
                if from.is_float() && !to.is_signed() && to != DType::Bool {
                    continue;
                }
                check("Cast", &[("to", Attr::DType(to))], std::slice::from_ref(&x), 1);
                check("CastLike", &[], &[x, sample(to, &[2], 1)], 1);
            }
        }
        let x = Some(Tensor::f32(&[5], [-2.7, -0.5, 0.5, 2.7, f32::NAN]));
        let cast = |t: DType| eval("Cast", &[("to", Attr::DType(t))], std::slice::from_ref(&x), 1)[0].to_i64();
        assert_eq!(cast(DType::I32)[..4], [-2, 0, 0, 2]);
        assert_eq!(cast(DType::Bool), [1, 1, 1, 1, 1]);
        let x = Some(Tensor::i64(&[2], [300, -1]));
        assert_eq!(
            eval("Cast", &[("to", Attr::DType(DType::U8))], &[x], 1)[0].to_i64(),
            [44, 255]
        );
    }

    /// All values of a narrow type, and of others what is at and between those of small floats.
    fn values(t: DType) -> Option<Tensor> {
        if t.is_narrow() {
            let n = 1usize << t.bits();
            return Some(if t.is_float() {
                Tensor::new(t, vec![n], (0..n).map(|c| c as u8).collect::<Vec<_>>().into()).expect("fits")
            } else {
                Tensor::from_i64(t, &[n], 0..n as i64)
            });
        }
        let numbers = (0..256).map(|c| f64::from(narrow::decode(DType::F8E5M2, c as u8)));
        let scaled = numbers.flat_map(|v| [v, v * 1.0625, v * 1.125, v * 1.9, v * 0.01]);
        let far = [
            0.0,
            -0.0,
            2f64.powi(-126),
            2f64.powi(127),
            1.5 * 2f64.powi(127),
            3e38,
            1e6,
            448.0,
            464.0,
            465.0,
            240.0,
            248.0,
        ];
        let mut r = crate::random::Rng::new(1);
        let random: Vec<f64> = (0..500)
            .map(|_| r.normal() * 2f64.powi(r.range(-20, 20) as i32))
            .collect();
        let all: Vec<f64> = scaled.chain(far).chain(random).collect();
        // Beyond the range of integers nothing is defined.
        let all = all
            .into_iter()
            .filter(|v| t.is_float() || v.is_finite() && v.abs() < 100.0 && (t.is_signed() || *v >= 0.0));
        let all: Vec<f64> = all.collect();
        Some(Tensor::from_f64(t, &[all.len()], all.iter().copied()))
    }

    #[test]
    fn narrow_casts() {
        for narrow in DType::ALL.into_iter().filter(|t| t.is_narrow()) {
            for other in numbers() {
                for saturate in [0, 1] {
                    for mode in ["up", "down", "nearest"] {
                        if narrow != DType::F8E8M0 && mode != "up" {
                            continue;
                        }
                        let attrs = |to: DType| {
                            let mode = ("round_mode", Attr::Str(mode.into()));
                            [("to", Attr::DType(to)), ("saturate", Attr::Int(saturate)), mode]
                        };
                        check("Cast", &attrs(narrow), &[values(other)], 1);
                        // Negative floats as unsigned integers, and infinite ones, are not defined.
                        if !narrow.is_float() || other.is_float() || other == DType::Bool {
                            check("Cast", &attrs(other), &[values(narrow)], 1);
                        }
                    }
                }
            }
        }
        let cast = |x: &[f32], to: DType, saturate: i64, mode: &str| {
            let mode = ("round_mode", Attr::Str(mode.into()));
            let attrs = [("to", Attr::DType(to)), ("saturate", Attr::Int(saturate)), mode];
            let x = Some(Tensor::f32(&[x.len()], x.iter().copied()));
            eval("Cast", &attrs, &[x], 1)[0].bytes().to_vec()
        };
        let far = [500.0, f32::INFINITY, -f32::INFINITY, f32::NAN, -0.0];
        assert_eq!(cast(&far, DType::F8E4M3FN, 1, "up"), [0x7e, 0x7e, 0xfe, 0x7f, 0x80]);
        assert_eq!(cast(&far, DType::F8E4M3FN, 0, "up"), [0x7f, 0x7f, 0xff, 0x7f, 0x80]);
        assert_eq!(cast(&far, DType::F8E4M3FNUZ, 1, "up"), [0x7f, 0x7f, 0xff, 0x80, 0]);
        assert_eq!(cast(&far, DType::F8E4M3FNUZ, 0, "up"), [0x80, 0x80, 0x80, 0x80, 0]);
        assert_eq!(cast(&far[1..], DType::F8E5M2, 1, "up"), [0x7b, 0xfb, 0x7e, 0x80]);
        assert_eq!(cast(&far[1..], DType::F8E5M2, 0, "up"), [0x7c, 0xfc, 0x7e, 0x80]);
        let powers = [0.0, 1.0, 1.1, 1.5, 3e38, f32::INFINITY, f32::NAN];
        let power = |saturate, mode| cast(&powers, DType::F8E8M0, saturate, mode);
        assert_eq!(power(1, "up"), [0, 127, 128, 128, 254, 254, 255]);
        assert_eq!(power(1, "down"), [0, 127, 127, 127, 254, 254, 255]);
        assert_eq!(power(0, "nearest"), [255, 127, 127, 128, 255, 255, 255]);
        let from = |t: DType, x: &[f32]| cast(x, t, 1, "up");
        assert_eq!(from(DType::I4, &[-9.0, -8.0, -1.0, 7.9, 8.0]), [7, 0xf8, 0xff, 7, 0xf8]);
        assert_eq!(from(DType::U2, &[-3.0, -1.0, 3.0]), [1, 3, 3]);
        assert_eq!(
            from(DType::F4E2M1, &[0.25, 0.75, -5.0, 100.0, f32::NAN]),
            [0, 2, 0xe, 7, 0]
        );
    }

    #[test]
    fn bits() {
        for from in numbers() {
            for to in numbers().filter(|to| to.size() == from.size()) {
                check("BitCast", &[("to", Attr::DType(to))], &[sample(from, &[3, 5], 1)], 1);
            }
        }
        let x = Some(Tensor::f32(&[3], [1.0, -2.5, 0.0]));
        let bits = [("to", Attr::DType(DType::I32))];
        let y = eval("BitCast", &bits, std::slice::from_ref(&x), 1).remove(0);
        assert_eq!(y.to_i64(), [1_065_353_216, -1_071_644_672, 0]);
        let back = [("to", Attr::DType(DType::F32))];
        assert_eq!(eval("BitCast", &back, &[Some(y)], 1)[0].to_f64(), [1.0, -2.5, 0.0]);
        let f = Fact::new(DType::F32, vec![]);
        assert!(infer("BitCast", &[("to", Attr::DType(DType::I64))], &[f]).is_err());
        let handle = [Fact::new(DType::I64, vec![])];
        assert!(infer("BitCast", &[("to", Attr::DType(DType::String))], &handle).is_err());
    }

    #[test]
    fn selection() {
        for t in [
            DType::F32,
            DType::F16,
            DType::I64,
            DType::Bool,
            DType::U64,
            DType::F8E5M2,
            DType::I4,
        ] {
            for (c, x, y) in [
                (&[3, 4][..], &[3, 4][..], &[3, 4][..]),
                (&[3, 1], &[4], &[]),
                (&[], &[2, 1], &[1, 5]),
            ] {
                check(
                    "Where",
                    &[],
                    &[sample(DType::Bool, c, 1), sample(t, x, 2), sample(t, y, 3)],
                    1,
                );
            }
        }
        let f = |t: DType, n: usize| Fact::new(t, vec![Dim::from(n)]);
        assert!(infer("Where", &[], &[f(DType::I64, 2), f(DType::F32, 2), f(DType::F32, 2)]).is_err());
    }

    #[test]
    fn clipping() {
        for t in [DType::F32, DType::F16, DType::F64, DType::I32, DType::U8] {
            let bound = |v: f64| Some(Tensor::from_f64(t, &[], [v]));
            let x = || sample(t, &[3, 5], 1);
            check("Clip", &[], &[x()], 1);
            check("Clip", &[], &[x(), bound(1.0)], 1);
            check("Clip", &[], &[x(), None, bound(2.0)], 1);
            check("Clip", &[], &[x(), bound(1.0), bound(2.0)], 1);
            // Crossed bounds: the maximum wins.
            check("Clip", &[], &[x(), bound(3.0), bound(2.0)], 1);
        }
        let x = Some(Tensor::f32(&[3], [-1.0, f32::NAN, 9.0]));
        let six = [Some(Tensor::f32(&[], [0.0])), Some(Tensor::f32(&[1], [6.0]))];
        let got = eval("Clip", &[], &[x, six[0].clone(), six[1].clone()], 1)[0].to_f64();
        assert!(got[0] == 0.0 && got[1].is_nan() && got[2] == 6.0);
        let f = |n: usize| Fact::new(DType::F32, vec![Dim::from(n)]);
        assert!(infer("Clip", &[], &[f(2), f(2)]).is_err());
    }

    #[test]
    fn known_elements() {
        let s = Dim::sym("S");
        let c = |v: i64| Dim::from(v);
        let vec = |t: DType, k: &[Dim]| Fact::with_known(t, vec![Dim::from(k.len())], k.to_vec());
        let known = |op: &str, attrs: &[(&str, Attr)], f: &[Fact]| infer(op, attrs, f).expect("infers").remove(0).known;
        let x = vec(DType::I64, &[s.clone(), c(7)]);
        let to = |t: DType| [("to", Attr::DType(t))];
        assert_eq!(
            known("Cast", &to(DType::I32), std::slice::from_ref(&x)),
            Some(vec![s.clone(), c(7)])
        );
        assert_eq!(
            known("Cast", &to(DType::Bool), &[vec(DType::I64, &[s.clone() + c(1), c(7)])]),
            Some(vec![c(1), c(1)])
        );
        let any = known("Cast", &to(DType::Bool), std::slice::from_ref(&x)).expect("a formula")[0].clone();
        assert_eq!([0, 1, 5].map(|n| any.eval(&|_| Some(n))), [Some(0), Some(1), Some(1)]);
        let floats = known("Cast", &to(DType::F32), std::slice::from_ref(&x)).expect("floats");
        assert_eq!(floats, [Dim::map_real(Real::Of, &s), Dim::real(7.0)]);
        let mut scaled = Fact::new(DType::F32, [c(2)]);
        let third = |d: &Dim| Dim::map_real(Real::Single, &Dim::apply(Real::Mul, d, &Dim::real(1.0 / 3.0)));
        scaled.known = Some(floats.iter().map(third).collect());
        let whole = known("Cast", &to(DType::I64), &[scaled]).expect("integers");
        assert_eq!(
            [0, 5, 6].map(|n| whole[0].eval(&|_| Some(n))),
            [Some(0), Some(1), Some(2)]
        );
        assert_eq!(whole[1], c(2));
        assert_eq!(
            known("Cast", &to(DType::U8), &[vec(DType::I64, &[c(-1)])]),
            None,
            "wraps"
        );
        let condition = vec(DType::Bool, &[c(1), c(0)]);
        let ones = vec(DType::I64, &[c(1), c(1)]);
        assert_eq!(
            known("Where", &[], &[condition, ones, x.clone()]),
            Some(vec![c(1), c(7)])
        );
        let least = Fact::with_known(DType::I64, vec![], vec![c(1)]);
        assert_eq!(known("Clip", &[], &[x, least]), Some(vec![s, c(7)]));
    }
}
