//! Accuracy over dense sweeps, special values, and agreement of all widths.

use super::*;
use crate::harness::{Library, compile, erf as erf_f64, kernel};
use crate::{Linkage, Ty};

/// Every 997th bit pattern, without NaN: a prime step reaches all exponents with varying mantissas.
fn sweep() -> Vec<f32> {
    let mut values: Vec<f32> = (0..=u32::MAX)
        .step_by(997)
        .map(f32::from_bits)
        .filter(|value| !value.is_nan())
        .collect();
    values.truncate(values.len() / 16 * 16);
    values
}

/// A kernel that maps 16 lanes at a time.
fn mapped(cpu: &str, function: fn(&Builder, Val) -> Val) -> Library {
    kernel(cpu, |b, input, _, out, n| {
        b.for_each(b.i64(0), n, b.i64(16), |b, i| {
            let x = b.load(input, Elem::F32, i, 16);
            b.store(out, i, function(b, x));
        });
    })
}

fn run(library: &Library, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    library.run(x, &[0_f32; 0], &mut y, x.len());
    y
}

/// Distance in units of the last place of the exact result.
fn ulp(got: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if got == rounded || got.is_nan() && rounded.is_nan() {
        return 0.0;
    }
    if rounded.is_infinite() {
        return f64::INFINITY;
    }
    let unit = (rounded.abs().next_up() as f64 - rounded.abs() as f64).max(f64::from(f32::from_bits(1)));
    (f64::from(got) - exact).abs() / unit
}

/// Largest error over the sweep where `within` holds of argument and exact result.
fn worst(function: fn(&Builder, Val) -> Val, exact: fn(f64) -> f64, within: fn(f32, f64) -> bool) -> (f64, f32) {
    let x = sweep();
    let mut worst = (0.0, 0.0);
    // Without instructions that multiply and add, polynomials are rounded twice as often.
    for (cpu, more) in [("native", 0.0), ("x86-64-v2", 0.5)] {
        let y = run(&mapped(cpu, function), &x);
        for (&x, &y) in x.iter().zip(&y) {
            let reference = exact(f64::from(x));
            if within(x, reference) {
                let error = ulp(y, reference) - more;
                if error.is_nan() || error > worst.0 {
                    worst = (error, x);
                }
            }
        }
    }
    worst
}

fn normal(_: f32, y: f64) -> bool {
    y.abs() >= f64::from(f32::MIN_POSITIVE)
}

#[test]
fn exp_accuracy() {
    let worst = worst(exp, f64::exp, normal);
    assert!(worst.0 <= 1.0, "{worst:?}");
}

#[test]
fn exp2_accuracy() {
    let worst = worst(exp2, f64::exp2, normal);
    assert!(worst.0 <= 1.0, "{worst:?}");
}

#[test]
fn log_accuracy() {
    let worst = worst(log, f64::ln, |_, _| true);
    assert!(worst.0 <= 1.0, "{worst:?}");
}

#[test]
fn log1p_accuracy() {
    let worst = worst(log1p, f64::ln_1p, normal);
    assert!(worst.0 <= 1.5, "{worst:?}");
}

#[test]
fn tanh_accuracy() {
    let worst = worst(tanh, f64::tanh, normal);
    assert!(worst.0 <= 4.3, "{worst:?}");
}

#[test]
fn erf_accuracy() {
    let worst = worst(erf, erf_f64, normal);
    assert!(worst.0 <= 3.5, "{worst:?}");
}

#[test]
fn gelu_accuracy() {
    let exact = |x: f64| 0.5 * x * (1.0 + erf_f64(x * std::f64::consts::FRAC_1_SQRT_2));
    // Whole vectors.
    let far = [1e4, 3e38, -1e4, -3e38].repeat(4);
    let x: Vec<f32> = (0..1 << 20)
        .map(|i| (i as f32 - 524_288.0) / 40_000.0)
        .chain(far)
        .collect();
    for cpu in ["native", "x86-64-v2"] {
        let y = run(&mapped(cpu, gelu), &x);
        for (&x, &y) in x.iter().zip(&y) {
            // 1 + erf cancels where it is small.
            let right = if x < -6.0 { 0.0 } else { exact(f64::from(x)) };
            let error = (f64::from(y) - right).abs();
            assert!(
                error <= 1.1e-6 * right.max(1.0) && (x < 0.0 || error <= 8e-7 * right),
                "{cpu} {x}: {y}, not {right}"
            );
        }
    }
    let mut special = [0.0; 16];
    special[..5].copy_from_slice(&[f32::NAN, f32::INFINITY, 0.0, -0.0, 1e-30]);
    let special = run(&mapped("native", gelu), &special);
    assert!(special[0].is_nan());
    assert_eq!(special[1..5], [f32::INFINITY, 0.0, 0.0, 5e-31]);
}

#[test]
fn sigmoid_accuracy() {
    let worst = worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), normal);
    assert!(worst.0 <= 2.2, "{worst:?}");
}

#[test]
fn sin_and_cos_accuracy() {
    let sine = worst(sin, f64::sin, normal);
    assert!(sine.0 <= 1.6, "{sine:?}");
    let cosine = worst(cos, f64::cos, normal);
    assert!(cosine.0 <= 1.6, "{cosine:?}");
}

#[test]
fn pow_accuracy_and_special_cases() {
    let library = kernel("native", |b, x, y, out, n| {
        b.for_each(b.i64(0), n, b.i64(16), |b, i| {
            let result = pow(b, b.load(x, Elem::F32, i, 16), b.load(y, Elem::F32, i, 16));
            b.store(out, i, result);
        });
    });
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        2.0,
        -2.0,
        0.5,
        -0.5,
        3.0,
        -3.0,
        1.5,
        -1.5,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        1e-40,
        3e38,
        -3e38,
        16_777_217.0,
        1e-10,
    ];
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for a in special {
        for b in special {
            x.push(a);
            y.push(b);
        }
    }
    // Bases over all exponents against exponents that keep the result within range.
    let dense = sweep();
    for (i, &base) in dense.iter().step_by(4).enumerate() {
        if base > 0.0 && base.is_finite() {
            let target = (i % 2000) as f32 / 8.0 - 125.0;
            x.push(base);
            y.push(target / base.log2());
        }
    }
    x.truncate(x.len() / 16 * 16);
    y.truncate(x.len());
    let mut out = vec![0.0_f32; x.len()];
    library.run(&x, &y, &mut out, x.len());
    for ((&x, &y), &got) in x.iter().zip(&y).zip(&out) {
        let exact = f64::from(x).powf(f64::from(y));
        let error = ulp(got, exact);
        assert!(error <= 1.0, "pow({x:e}, {y:e}) is {got:e}, not {exact:e}");
        if exact == 0.0 {
            assert_eq!(got.is_sign_negative(), exact.is_sign_negative(), "pow({x:e}, {y:e})");
        }
    }
}

#[test]
fn special_values() {
    let x = [
        0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -1.0,
        1e-30,
        200.0,
        -200.0,
    ];
    let x: Vec<f32> = x
        .into_iter()
        .chain([f32::from_bits(0x7f80_0001), f32::from_bits(0xffc0_01ff)])
        .collect();
    let x: Vec<f32> = x.into_iter().chain(std::iter::repeat_n(0.0, 6)).collect();
    let same = |got: &[f32], want: &[f32]| {
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            assert!(
                got == want || got.is_nan() && want.is_nan(),
                "of {}: {got}, not {want}",
                x[i]
            );
        }
    };
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    same(
        &run(&mapped("native", exp), &x),
        &[1.0, inf, 0.0, nan, (-1_f32).exp(), 1.0, inf, 0.0, nan, nan],
    );
    same(
        &run(&mapped("native", exp2), &x),
        &[1.0, inf, 0.0, nan, 0.5, 1.0, inf, 0.0, nan, nan],
    );
    same(&run(&mapped("native", log), &x)[..5], &[-inf, inf, nan, nan, nan]);
    same(&run(&mapped("native", log), &x)[7..10], &[nan, nan, nan]);
    same(
        &run(&mapped("native", log1p), &x)[..6],
        &[0.0, inf, nan, nan, -inf, 1e-30],
    );
    same(&run(&mapped("native", tanh), &x)[..4], &[0.0, 1.0, -1.0, nan]);
    same(&run(&mapped("native", tanh), &x)[6..10], &[1.0, -1.0, nan, nan]);
    same(&run(&mapped("native", erf), &x)[..4], &[0.0, 1.0, -1.0, nan]);
    same(&run(&mapped("native", erf), &x)[6..10], &[1.0, -1.0, nan, nan]);
    same(&run(&mapped("native", sigmoid), &x)[..4], &[0.5, 1.0, 0.0, nan]);
    same(&run(&mapped("native", sin), &x)[..4], &[0.0, nan, nan, nan]);
    same(&run(&mapped("native", cos), &x)[..4], &[1.0, nan, nan, nan]);
}

/// Results never leave the function's range, whatever rounding does.
#[test]
fn bounded_functions_stay_bounded() {
    let x: Vec<f32> = (0..1 << 20).map(|i| (i as f32 - 524_288.0) / 40_000.0).collect();
    for function in [tanh, erf] {
        for cpu in ["native", "x86-64-v2"] {
            assert!(run(&mapped(cpu, function), &x).iter().all(|y| y.abs() <= 1.0), "{cpu}");
        }
    }
}

#[test]
fn every_width_and_type_agrees() {
    let functions: [fn(&Builder, Val) -> Val; 5] = [exp, log, tanh, sin, |b, x| rare(b, Rare::Atan, x)];
    let exact: [fn(f64) -> f64; 5] = [f64::exp, f64::ln, f64::tanh, f64::sin, f64::atan];
    for cpu in ["native", "x86-64-v3", "x86-64-v2"] {
        let library = compile(cpu, |module| {
            for (index, function) in functions.iter().enumerate() {
                for lanes in [0, 4, 16] {
                    for elem in [Elem::F32, Elem::F64] {
                        let name = format!("f{index}_{lanes}_{}", elem.suffix());
                        module.kernel(&name, &crate::harness::ARGS, None, Linkage::Export, |b, args| {
                            b.for_each(b.i64(0), args[3], b.i64(i64::from(lanes.max(1))), |b, i| {
                                b.store(args[2], i, function(b, b.load(args[0], elem, i, lanes)));
                            });
                            None
                        });
                    }
                }
            }
        });
        // 10⁶ in the last place takes the slow way of sin.
        let x: Vec<f64> = (0..16)
            .map(|i| if i == 15 { 1e6 } else { f64::from(i) * 0.37 + 0.01 })
            .collect();
        let x32: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        for (index, exact) in exact.iter().enumerate() {
            for lanes in [0, 4, 16] {
                let (mut y, mut y32) = (vec![0.0_f64; 16], vec![0.0_f32; 16]);
                library.call(&format!("f{index}_{lanes}_f64"), &x, &x, &mut y, 16);
                library.call(&format!("f{index}_{lanes}_f32"), &x32, &x32, &mut y32, 16);
                for i in 0..16 {
                    assert!(
                        y[i] == exact(x[i]) || (y[i] / exact(x[i]) - 1.0).abs() <= 1e-15,
                        "f64 {index} {lanes} {}",
                        x[i]
                    );
                    assert!(
                        ulp(y32[i], exact(f64::from(x32[i]))) <= 4.0,
                        "f32 {index} {lanes} {}",
                        x[i]
                    );
                }
            }
        }
    }
}

#[test]
fn halves_go_by_way_of_single() {
    for elem in [Elem::BF16, Elem::F16] {
        let library = kernel("native", |b, input, _, out, _| {
            let x = b.load(input, Elem::F32, b.i64(0), 16);
            let y = exp(b, b.resize_f(x, elem));
            assert_eq!(y.ty(), elem.x(16));
            b.store(out, b.i64(0), b.resize_f(y, Elem::F32));
        });
        let x: Vec<f32> = (0..16).map(|i| i as f32 / 4.0).collect();
        for (x, y) in x.iter().zip(run(&library, &x)) {
            assert!((y / x.exp() - 1.0).abs() < 1.0 / 256.0, "{elem:?} exp({x}) = {y}");
        }
    }
}

#[test]
fn called_symbols_are_listed() {
    let context = crate::Context::new();
    let mut module = crate::Module::new(&context);
    let unary: [fn(&Builder, Val) -> Val; 10] =
        [exp, exp2, log, log1p, tanh, erf, sin, cos, sigmoid, |b, x| b.rem(x, x)];
    use Rare::{Acos, Acosh, Asin, Asinh, Atan, Atanh, Cosh, Expm1, Log2, Log10, Sinh, Tan};
    let rares = [
        Acos, Acosh, Asin, Asinh, Atan, Atanh, Cosh, Expm1, Log10, Log2, Sinh, Tan,
    ];
    for (name, ty) in [("single", Ty::F32), ("double", Ty::F64)] {
        module.kernel(name, &[ty], Some(ty), Linkage::Export, |b, args| {
            let x = unary.iter().fold(args[0], |x, function| function(b, x));
            let x = rares.iter().fold(x, |x, &function| rare(b, function, x));
            Some(pow(b, x, x))
        });
    }
    for (symbol, _) in module.externals() {
        assert!(LIBM.contains(&symbol.as_str()), "{symbol} is called but not listed");
    }
}
