//! Small floats: every code, and every number next to where rounding changes.

use super::*;
use cameo_ir::DType;
use cameo_ir::narrow;

/// All values of a type, the middles between them, what is just beside both, and numbers far away.
fn singles(t: DType) -> Vec<f32> {
    let mut values: Vec<f32> = (0..1u32 << t.bits())
        .map(|code| narrow::decode(t, code as u8))
        .filter(|v| v.is_finite())
        .collect();
    values.sort_by(f32::total_cmp);
    // Beyond the largest number the next one would be; powers of two double.
    let most = narrow::largest(t) as f32;
    let step = most - values[values.len() - 2];
    values.extend([most + step, -most - step]);
    let middles: Vec<f32> = values.windows(2).map(|pair| pair[0] / 2.0 + pair[1] / 2.0).collect();
    values.extend(middles);
    values.extend([most + step / 2.0, -most - step / 2.0]);
    let beside = |v: &f32| {
        [
            f32::from_bits(v.to_bits() + 1),
            f32::from_bits(v.to_bits().wrapping_sub(1)),
        ]
    };
    values.extend(values.iter().flat_map(beside).collect::<Vec<f32>>());
    let mut state = 1u32;
    let random = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits(state)
    };
    values.extend((0..2000).map(random));
    values.extend(FLOATS);
    // Subnormal numbers are 0 in a run, and only the power of two has one.
    values.retain(|v| v.is_normal() || *v == 0.0 || v.is_infinite());
    values.push(f32::NAN);
    values
}

macro_rules! check_small {
    ($($t:ident)*) => { $(
        let codes: Vec<u8> = (0..=255).map(|code: u8| code & ((1u32 << DType::$t.bits()) - 1) as u8).collect();
        check_unary::<u8, f32>(
            Elem::I8,
            &codes,
            &[(|b, x| b.small_to_single(x, DType::$t), |x| narrow::decode(DType::$t, x))],
        );
        check_unary::<f32, u8>(
            Elem::F32,
            &singles(DType::$t),
            &[(|b, x| b.single_to_small(x, DType::$t), |x| narrow::encode(DType::$t, x.into()))],
        );
    )* };
}

#[test]
fn codes_and_singles() {
    check_small!(F8E4M3FN F8E4M3FNUZ F8E5M2 F8E5M2FNUZ F4E2M1 F8E8M0);
}

#[test]
fn doubles() {
    let codes: Vec<u8> = (0..=255).collect();
    check_unary::<u8, f64>(
        Elem::I8,
        &codes,
        &[(
            |b, x| b.power_to_double(x),
            |x| match x {
                255 => f64::NAN,
                _ => 2f64.powi(i32::from(x) - 127),
            },
        )],
    );
    // Rounded to an F32 these would be in the middle between two codes.
    let t = DType::F8E4M3FN;
    let mut values: Vec<f64> = singles(t).into_iter().map(f64::from).collect();
    values.retain(|v| v.is_finite());
    let beside = |v: &f64| [v * (1.0 + 2f64.powi(-40)), v * (1.0 - 2f64.powi(-40))];
    values.extend(values.iter().flat_map(beside).collect::<Vec<f64>>());
    values.extend([1e300, -1e300, 1e-300, f64::INFINITY, f64::NAN]);
    check_unary::<f64, u8>(
        Elem::F64,
        &values,
        &[(
            |b, x| b.single_to_small(b.to_odd_single(x), DType::F8E4M3FN),
            |x| narrow::encode(DType::F8E4M3FN, x),
        )],
    );
}
