//! When two results are the same.

use cameo_ir::{DType, Tensor};

/// What may be between the reference and a result, relative to the largest of the element, 1, and an eighth of the
/// largest element (a sum that cancels has the error of its terms).
///
/// The reference computes in `f64` and rounds once per operation; loops add in another order, and the vectorised
/// functions are good to a few units in the last place.
pub const fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-9,
        DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
        _ => 0.0,
    }
}

/// # Panics
/// When the results differ.
pub fn assert_same(got: &[Tensor], want: &[Tensor]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert_eq!(difference(want, got), None);
    }
}

/// The first element that is too far off, in words; `None` when the results agree.
pub fn difference(want: &Tensor, got: &Tensor) -> Option<String> {
    if (want.dtype(), want.shape()) != (got.dtype(), got.shape()) {
        let (t, s) = (got.dtype(), got.shape());
        return Some(format!("is {t}{s:?}, wanted is {}{:?}", want.dtype(), want.shape()));
    }
    if !want.dtype().is_float() {
        let (w, g) = (want.to_i64(), got.to_i64());
        let at = w.iter().zip(&g).position(|(a, b)| a != b)?;
        return Some(format!(
            "element {at} is {}, wanted is {}\ngot  {g:?}\nwant {w:?}",
            g[at], w[at]
        ));
    }
    let bound = tolerance(want.dtype());
    let (w, g) = (want.to_f64(), got.to_f64());
    let finite = w.iter().map(|x| x.abs()).filter(|x| x.is_finite());
    let floor = (finite.fold(0f64, f64::max) / 8.0).max(1.0);
    let far =
        |(a, b): (&f64, &f64)| !(a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= bound * a.abs().max(floor));
    let at = w.iter().zip(&g).position(far)?;
    Some(format!(
        "element {at} is {}, wanted is {}\ngot  {g:?}\nwant {w:?}",
        g[at], w[at]
    ))
}
