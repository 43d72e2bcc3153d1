//! Every family of builder operations, rendered, compiled, run, and compared with the same in Rust.

mod small;
mod structure;

use super::*;
use crate::harness::{ARGS, compile};
use std::fmt::Debug;

/// AVX-512 or what the host has, and the least that is supported.
const CPUS: [&str; 3] = ["native", "x86-64-v3", "x86-64-v2"];

/// Equality in which NaN is NaN and -0 is not +0.
trait Same: Copy + Debug + Default {
    fn same(self, other: Self) -> bool;
}

macro_rules! same {
    ($($int:ty)*) => { $(impl Same for $int { fn same(self, other: Self) -> bool { self == other } })* };
}
same!(u8 u16 u32 u64 i8 i16 i32 i64 bool);

impl Same for f32 {
    fn same(self, other: Self) -> bool {
        self.to_bits() == other.to_bits() || self.is_nan() && other.is_nan()
    }
}

impl Same for f64 {
    fn same(self, other: Self) -> bool {
        self.to_bits() == other.to_bits() || self.is_nan() && other.is_nan()
    }
}

type Binary<T, O> = (fn(&Builder, Val, Val) -> Val, fn(T, T) -> O);
type Unary<T, O> = (fn(&Builder, Val) -> Val, fn(T) -> O);

/// All pairs of `values` through each operation, as scalars and as vectors of 4 and 16 lanes.
fn check_binary<T: Same, O: Same>(elem: Elem, values: &[T], operations: &[Binary<T, O>]) {
    check_binary_on(&CPUS, elem, values, operations);
}

fn check_binary_on<T: Same, O: Same>(cpus: &[&str], elem: Elem, values: &[T], operations: &[Binary<T, O>]) {
    let pairs: Vec<(T, T)> = values
        .iter()
        .flat_map(|&a| values.iter().map(move |&b| (a, b)))
        .collect();
    let length = pairs.len().next_multiple_of(16);
    let pair = |i: usize| pairs[i % pairs.len()];
    let (a, b): (Vec<T>, Vec<T>) = (0..length).map(pair).unzip();
    for cpu in cpus {
        let library = compile(cpu, |module| {
            for (index, (operation, _)) in operations.iter().enumerate() {
                for lanes in [0, 4, 16] {
                    module.kernel(&format!("f{index}_{lanes}"), &ARGS, None, Linkage::Export, |b, args| {
                        b.for_each(b.i64(0), args[3], b.i64(i64::from(lanes.max(1))), |b, i| {
                            let (x, y) = (b.load(args[0], elem, i, lanes), b.load(args[1], elem, i, lanes));
                            b.store(args[2], i, operation(b, x, y));
                        });
                        None
                    });
                }
            }
        });
        for (index, (_, reference)) in operations.iter().enumerate() {
            for lanes in [0, 4, 16] {
                let mut out = vec![O::default(); length];
                library.call(&format!("f{index}_{lanes}"), &a, &b, &mut out, length);
                for i in 0..length {
                    let want = reference(a[i], b[i]);
                    assert!(
                        out[i].same(want),
                        "{cpu} {index} x{lanes} of {:?}, {:?}: {:?} not {want:?}",
                        a[i],
                        b[i],
                        out[i]
                    );
                }
            }
        }
    }
}

fn check_unary<T: Same, O: Same>(elem: Elem, values: &[T], operations: &[Unary<T, O>]) {
    let length = values.len().next_multiple_of(16);
    let a: Vec<T> = (0..length).map(|i| values[i % values.len()]).collect();
    for cpu in CPUS {
        let library = compile(cpu, |module| {
            for (index, (operation, _)) in operations.iter().enumerate() {
                for lanes in [0, 16] {
                    module.kernel(&format!("f{index}_{lanes}"), &ARGS, None, Linkage::Export, |b, args| {
                        b.for_each(b.i64(0), args[3], b.i64(i64::from(lanes.max(1))), |b, i| {
                            b.store(args[2], i, operation(b, b.load(args[0], elem, i, lanes)));
                        });
                        None
                    });
                }
            }
        });
        for (index, (_, reference)) in operations.iter().enumerate() {
            for lanes in [0, 16] {
                let mut out = vec![O::default(); length];
                library.call(&format!("f{index}_{lanes}"), &a, &a, &mut out, length);
                for i in 0..length {
                    let want = reference(a[i]);
                    assert!(
                        out[i].same(want),
                        "{cpu} {index} x{lanes} of {:?}: {:?} not {want:?}",
                        a[i],
                        out[i]
                    );
                }
            }
        }
    }
}

const FLOATS: [f32; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.5,
    -2.5,
    3.5,
    0.1,
    -7.75,
    1e30,
    -1e30,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    4_294_967_040.0,
    -129.5,
];

#[test]
fn integer_arithmetic() {
    let values = [0_i32, 1, -1, 2, 7, -7, 8, 100, -100, i32::MAX, i32::MIN, 31];
    check_binary::<i32, i32>(
        Elem::I32,
        &values,
        &[
            (|b, x, y| b.add(x, y), i32::wrapping_add),
            (|b, x, y| b.sub(x, y), i32::wrapping_sub),
            (|b, x, y| b.mul(x, y), i32::wrapping_mul),
            (|b, x, y| b.min(x, y), i32::min),
            (|b, x, y| b.max(x, y), i32::max),
            (|b, x, y| b.min_u(x, y), |x, y| (x as u32).min(y as u32) as i32),
            (|b, x, y| b.max_u(x, y), |x, y| (x as u32).max(y as u32) as i32),
            (|b, x, y| b.and(x, y), |x, y| x & y),
            (|b, x, y| b.or(x, y), |x, y| x | y),
            (|b, x, y| b.xor(x, y), |x, y| x ^ y),
            (|b, x, _| b.not(x), |x, _| !x),
            (|b, x, _| b.neg(x), |x, _| x.wrapping_neg()),
            (|b, x, _| b.abs(x), |x, _| x.wrapping_abs()),
            (|b, x, y| b.shl(x, b.and(y, b.int(y.ty(), 31))), |x, y| x << (y & 31)),
            (|b, x, y| b.shr_s(x, b.and(y, b.int(y.ty(), 31))), |x, y| x >> (y & 31)),
            (
                |b, x, y| b.shr_u(x, b.and(y, b.int(y.ty(), 31))),
                |x, y| ((x as u32) >> (y & 31)) as i32,
            ),
            (|b, x, _| b.div_floor(x, b.int(x.ty(), 8)), |x, _| x.div_euclid(8)),
            (|b, x, _| b.rem_floor(x, b.int(x.ty(), 8)), |x, _| x.rem_euclid(8)),
            (|b, x, _| b.div_u(x, b.int(x.ty(), 7)), |x, _| ((x as u32) / 7) as i32),
            (|b, x, _| b.rem_u(x, b.int(x.ty(), 7)), |x, _| ((x as u32) % 7) as i32),
        ],
    );
    // Divisors are never 0, and the one quotient that overflows is left out.
    let values = [1_i64, -1, 2, 3, -3, 7, -7, 8, 100, -100, 1 << 40, -(1 << 40)];
    check_binary::<i64, i64>(
        Elem::I64,
        &values,
        &[
            (|b, x, y| b.div(x, y), |x, y| x / y),
            (|b, x, y| b.rem(x, y), |x, y| x % y),
            (|b, x, y| b.div_floor(x, y), |x, y| (x as f64 / y as f64).floor() as i64),
            (|b, x, y| b.div_ceil(x, y), |x, y| (x as f64 / y as f64).ceil() as i64),
            (
                |b, x, y| b.rem_floor(x, y),
                |x, y| x - (x as f64 / y as f64).floor() as i64 * y,
            ),
            (|b, x, y| b.div_u(x, y), |x, y| (x as u64 / y as u64) as i64),
            (|b, x, y| b.rem_u(x, y), |x, y| (x as u64 % y as u64) as i64),
        ],
    );
    check_binary::<i8, i8>(
        Elem::I8,
        &[0, 1, -1, 127, -128, 13, 64],
        &[
            (|b, x, y| b.mul(x, y), i8::wrapping_mul),
            (|b, x, y| b.max(x, y), i8::max),
        ],
    );
}

#[test]
fn float_arithmetic() {
    fn minimum(x: f32, y: f32) -> f32 {
        if x.is_nan() || y.is_nan() { f32::NAN } else { x.min(y) }
    }
    check_binary::<f32, f32>(
        Elem::F32,
        &FLOATS,
        &[
            (|b, x, y| b.add(x, y), |x, y| x + y),
            (|b, x, y| b.sub(x, y), |x, y| x - y),
            (|b, x, y| b.mul(x, y), |x, y| x * y),
            (|b, x, y| b.div(x, y), |x, y| x / y),
            (|b, x, y| b.rem(x, y), |x, y| x % y),
            // Zeros count as equal.
            (|b, x, y| b.abs(b.min(x, y)), |x, y| minimum(x, y).abs()),
            (|b, x, y| b.abs(b.max(x, y)), |x, y| minimum(-x, -y).abs()),
            (|b, x, y| b.min_fast(x, y), |x, y| if x < y { x } else { y }),
            (|b, x, y| b.max_fast(x, y), |x, y| if x > y { x } else { y }),
            (|b, x, y| b.copysign(x, y), f32::copysign),
            (
                |b, x, y| b.contracted(|| b.add(b.mul(x, b.float(x.ty(), 2.0)), y)),
                |x, y| x * 2.0 + y,
            ),
            (|b, x, y| b.abs(b.min_num(x, y)), |x, y| x.min(y).abs()),
            (|b, x, y| b.abs(b.max_num(x, y)), |x, y| x.max(y).abs()),
        ],
    );
    let fused = |b: &Builder, x, y| b.fma(x, y, x);
    check_binary_on::<f32, f32>(&CPUS[..2], Elem::F32, &FLOATS, &[(fused, |x, y| x.mul_add(y, x))]);
    let by_f64 = |x: f32, y: f32| f64::from(x).mul_add(y.into(), x.into()) as f32;
    check_binary_on::<f32, f32>(&CPUS[2..], Elem::F32, &FLOATS, &[(fused, by_f64)]);
    check_unary::<f32, f32>(
        Elem::F32,
        &FLOATS,
        &[
            (|b, x| b.neg(x), |x| -x),
            (|b, x| b.abs(x), f32::abs),
            (|b, x| b.sqrt(x), f32::sqrt),
            (|b, x| b.floor(x), f32::floor),
            (|b, x| b.ceil(x), f32::ceil),
            (|b, x| b.trunc(x), f32::trunc),
            (|b, x| b.round_even(x), f32::round_ties_even),
            (|b, x| b.add(x, b.f32(1.5)), |x| x + 1.5),
        ],
    );
    check_binary::<f64, f64>(
        Elem::F64,
        &[0.0, 1.0, -2.5, 1e300, f64::INFINITY, f64::NAN],
        &[
            (|b, x, y| b.add(x, y), |x, y| x + y),
            (|b, x, y| b.div(x, y), |x, y| x / y),
        ],
    );
}

#[test]
fn comparison_and_selection() {
    check_binary::<f32, bool>(
        Elem::F32,
        &FLOATS,
        &[
            (|b, x, y| b.cmp(Cmp::Eq, x, y), |x, y| x == y),
            (|b, x, y| b.cmp(Cmp::Ne, x, y), |x, y| x != y),
            (|b, x, y| b.cmp(Cmp::Lt, x, y), |x, y| x < y),
            (|b, x, y| b.cmp(Cmp::Le, x, y), |x, y| x <= y),
            (|b, x, y| b.cmp(Cmp::Gt, x, y), |x, y| x > y),
            (|b, x, y| b.cmp(Cmp::Ge, x, y), |x, y| x >= y),
            (|b, x, _| b.is_nan(x), |x, _| x.is_nan()),
            (
                |b, x, y| b.not(b.cmp(Cmp::Lt, x, y)),
                |x: f32, y: f32| x.partial_cmp(&y) != Some(std::cmp::Ordering::Less),
            ),
        ],
    );
    check_binary::<i16, bool>(
        Elem::I16,
        &[0, 1, -1, i16::MAX, i16::MIN, 300],
        &[
            (|b, x, y| b.cmp(Cmp::Lt, x, y), |x, y| x < y),
            (|b, x, y| b.cmp(Cmp::Ge, x, y), |x, y| x >= y),
            (|b, x, y| b.cmp(Cmp::Ne, x, y), |x, y| x != y),
            (|b, x, y| b.cmp_u(Cmp::Lt, x, y), |x, y| (x as u16) < y as u16),
            (|b, x, y| b.cmp_u(Cmp::Le, x, y), |x, y| x as u16 <= y as u16),
            (|b, x, y| b.cmp_u(Cmp::Gt, x, y), |x, y| x as u16 > y as u16),
            (|b, x, y| b.cmp_u(Cmp::Ge, x, y), |x, y| x as u16 >= y as u16),
        ],
    );
    check_binary::<i32, i32>(
        Elem::I32,
        &[0, 5, -5, 100],
        &[(
            |b, x, y| b.select(b.cmp(Cmp::Gt, x, y), x, b.int(Ty::I32, 9)),
            |x, y| if x > y { x } else { 9 },
        )],
    );
}

#[test]
fn conversions() {
    check_unary::<f32, i32>(Elem::F32, &FLOATS, &[(|b, x| b.to_int_s(x, Elem::I32), |x| x as i32)]);
    check_unary::<f32, u32>(Elem::F32, &FLOATS, &[(|b, x| b.to_int_u(x, Elem::I32), |x| x as u32)]);
    check_unary::<f32, i8>(
        Elem::F32,
        &FLOATS,
        &[(|b, x| b.convert(x, Elem::I8, true), |x| x as i8)],
    );
    check_unary::<f32, u8>(
        Elem::F32,
        &FLOATS,
        &[(|b, x| b.convert(x, Elem::I8, false), |x| x as u8)],
    );
    check_unary::<f32, i64>(Elem::F32, &FLOATS, &[(|b, x| b.to_int_s(x, Elem::I64), |x| x as i64)]);
    check_unary::<f32, f64>(Elem::F32, &FLOATS, &[(|b, x| b.resize_f(x, Elem::F64), f64::from)]);
    check_unary::<f32, bool>(
        Elem::F32,
        &FLOATS,
        &[(|b, x| b.convert(x, Elem::I1, true), |x| x != 0.0)],
    );
    check_unary::<f32, i32>(
        Elem::F32,
        &[0.0, 2.9, -2.9, 100.0],
        &[
            (|b, x| b.to_int_in_range(x, Elem::I32), |x| x as i32),
            (|b, x| b.bitcast(x, x.ty().with_elem(Elem::I32)), |x| x.to_bits() as i32),
        ],
    );
    let ints = [0, 1, -1, 255, 256, -32_768, i32::MAX, i32::MIN, 16_777_217];
    check_unary::<i32, f32>(
        Elem::I32,
        &ints,
        &[
            (|b, x| b.from_int_s(x, Elem::F32), |x| x as f32),
            (|b, x| b.from_int_u(x, Elem::F32), |x| x as u32 as f32),
        ],
    );
    check_unary::<i32, f64>(
        Elem::I32,
        &ints,
        &[(|b, x| b.convert(x, Elem::F64, false), |x| f64::from(x as u32))],
    );
    check_unary::<i32, i64>(
        Elem::I32,
        &ints,
        &[
            (|b, x| b.resize_s(x, Elem::I64), i64::from),
            (|b, x| b.resize_u(x, Elem::I64), |x| i64::from(x as u32)),
        ],
    );
    check_unary::<i32, i8>(Elem::I32, &ints, &[(|b, x| b.resize_s(x, Elem::I8), |x| x as i8)]);
    check_unary::<i32, bool>(Elem::I32, &ints, &[(|b, x| b.convert(x, Elem::I1, true), |x| x != 0)]);
    check_unary::<i8, f32>(
        Elem::I8,
        &[0, 1, -1, 127, -128],
        &[
            (|b, x| b.convert(x, Elem::F32, true), f32::from),
            (|b, x| b.convert(x, Elem::F32, false), |x| f32::from(x as u8)),
        ],
    );
    check_unary::<u8, i32>(Elem::I1, &[0, 1], &[(|b, x| b.convert(x, Elem::I32, true), i32::from)]);
    check_unary::<u8, f32>(Elem::I1, &[0, 1], &[(|b, x| b.convert(x, Elem::F32, true), f32::from)]);
    check_unary::<i64, f32>(
        Elem::I64,
        &[0, -5, 1 << 40, i64::MIN],
        &[(|b, x| b.from_int_s(x, Elem::F32), |x| x as f32)],
    );
}

/// bfloat16 as its bits, rounded to nearest even.
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        (bits >> 16) as u16 | 0x40
    } else {
        ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
    }
}

#[test]
fn half_floats() {
    let values: Vec<f32> = FLOATS
        .into_iter()
        .chain([1.003_906_3, 1.011_718_8, 3.4e38, 1e-40, 65_504.0, 1e-7])
        .collect();
    check_unary::<f32, u16>(Elem::F32, &values, &[(|b, x| b.resize_f(x, Elem::BF16), to_bf16)]);
    let halves: Vec<u16> = values.iter().map(|&x| to_bf16(x)).collect();
    check_unary::<u16, f32>(
        Elem::BF16,
        &halves,
        &[
            (|b, x| b.resize_f(x, Elem::F32), |x| f32::from_bits(u32::from(x) << 16)),
            (
                |b, x| b.resize_f(b.add(x, b.float(x.ty(), 1.0)), Elem::F32),
                |x| f32::from_bits(u32::from(to_bf16(f32::from_bits(u32::from(x) << 16) + 1.0)) << 16),
            ),
        ],
    );
    // 1 + 2⁻¹¹ is halfway between two F16 and goes to the even one; 65520 is the first that overflows.
    // The unit of subnormal ones is 2⁻²⁴.
    fn to_f16(x: f32) -> f32 {
        let exponent = (x.abs().to_bits() >> 23) as i32 - 127;
        let unit = 2f64.powi(exponent.max(-14) - 10);
        match x.abs() {
            65_520.0.. => f32::INFINITY.copysign(x),
            _ => ((f64::from(x) / unit).round_ties_even() * unit) as f32,
        }
    }
    let unit = 2f32.powi(-24);
    let mut singles = vec![
        1.0,
        1.000_488_3,
        1.001_464_8,
        65_504.0,
        65_519.9,
        65_520.0,
        -0.0,
        0.1,
        -f32::INFINITY,
        f32::NAN,
    ];
    singles.extend([0.5, 0.6, 1.0, 1.5, 2.5, 1023.5, 1024.0, 1024.5].map(|n| n * unit));
    singles.extend([-3.7e-5, 1e-9, 1e30, -1e-30]);
    let there_and_back = |b: &Builder, x| b.resize_f(b.resize_f(x, Elem::F16), Elem::F32);
    check_unary::<f32, f32>(Elem::F32, &singles, &[(there_and_back, to_f16)]);
}
