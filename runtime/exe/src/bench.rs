//! `--bench`: times of repeated runs, and inputs for models that need none from a file.

use crate::{Failure, USAGE};
use cameo_npz::{Array, DType};
use cameo_runtime::{Description, Dim, Error, byte_size};
use std::time::Instant;

/// Milliseconds of each timed run, ascending.
pub struct Times(Vec<f64>);

/// Runs `warmup` times, then `runs` times with the clock on.
pub fn measure(warmup: usize, runs: usize, mut run: impl FnMut() -> Result<(), Error>) -> Result<Times, Error> {
    for _ in 0..warmup {
        run()?;
    }
    let mut times = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(Times(times))
}

/// The answer on one line; `times` has at least one run.
pub fn json(Times(times): &Times, threads: usize) -> String {
    let runs = times.len();
    let (median, min, max) = (median(times), times[0], times[runs - 1]);
    let peak = cameo_runtime::peak_rss_bytes();
    format!(
        "{{\"median_ms\": {median:.6}, \"min_ms\": {min:.6}, \"max_ms\": {max:.6}, \"threads\": {threads}, \
         \"peak_rss_bytes\": {peak}, \"runs\": {runs}}}\n"
    )
}

/// The middle of ascending times, of which there is at least one.
pub fn median(times: &[f64]) -> f64 {
    f64::midpoint(times[(times.len() - 1) / 2], times[times.len() / 2])
}

/// Inputs of fixed shape: empty strings, zeros for integers, which are valid as indices and masks, and the same pseudo-random numbers
/// in [-1, 1) every time for floats.
pub fn generated_inputs(description: &Description, flag: &str) -> Result<Vec<Array>, Failure> {
    let mut random = Random(0);
    description
        .inputs()
        .map(|info| {
            let shape = info.extents.iter().map(|dim| match dim {
                Dim::Const(extent) => Some(extent),
                Dim::Symbol(_) | Dim::Derived { .. } => None,
            });
            let shape: Option<Vec<i64>> = shape.collect();
            let shape = shape.ok_or_else(|| Failure {
                code: USAGE,
                message: format!(
                    "{flag} needs --inputs FILE.npz: the shape of input {:?} is not fixed",
                    info.name
                ),
            })?;
            let bytes = byte_size(info.dtype, shape.iter().copied());
            let bytes = bytes.ok_or_else(|| Failure::new(&format!("input {:?} is too large", info.name)))?;
            // An empty string is a length of eight bytes.
            let bytes = if info.dtype == DType::String { bytes / 2 } else { bytes };
            Ok(Array {
                name: info.name.to_owned(),
                dtype: info.dtype,
                data: random.fill(info.dtype, bytes),
                shape,
            })
        })
        .collect()
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1), in steps of 2^-52.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn fill(&mut self, dtype: DType, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        for element in data.chunks_exact_mut(dtype.size()) {
            match dtype {
                DType::F32 => element.copy_from_slice(&(self.uniform() as f32).to_ne_bytes()),
                DType::F64 => element.copy_from_slice(&self.uniform().to_ne_bytes()),
                DType::BF16 => {
                    let half = ((self.uniform() as f32).to_bits() >> 16) as u16;
                    element.copy_from_slice(&half.to_ne_bytes());
                }
                // Any sign and fraction under the exponent of [0.5, 1).
                DType::F16 => {
                    let half = (self.next() as u16 & 0x83FF) | 14 << 10;
                    element.copy_from_slice(&half.to_ne_bytes());
                }
                _ => {}
            }
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_times() {
        let line = |times: &[f64]| json(&Times(times.to_vec()), 2);
        assert!(line(&[1.0, 2.0, 9.0]).starts_with("{\"median_ms\": 2.000000, \"min_ms\": 1.000000, \"max_ms\": 9.0"));
        assert!(line(&[1.0, 2.0, 4.0, 9.0]).starts_with("{\"median_ms\": 3.000000"));
        assert!(line(&[1.0]).ends_with("\"runs\": 1}\n"));
    }

    #[test]
    fn generated_numbers_are_in_range_and_repeat() {
        for (dtype, decode) in [
            (
                DType::F32,
                (|b| f64::from(f32::from_ne_bytes(b.try_into().unwrap()))) as fn(&[u8]) -> f64,
            ),
            (DType::F64, |b| f64::from_ne_bytes(b.try_into().unwrap())),
            (DType::BF16, |b| {
                f64::from(f32::from_bits(
                    u32::from(u16::from_ne_bytes(b.try_into().unwrap())) << 16,
                ))
            }),
        ] {
            let data = Random(0).fill(dtype, 1000 * dtype.size());
            assert_eq!(data, Random(0).fill(dtype, 1000 * dtype.size()));
            let values: Vec<f64> = data.chunks_exact(dtype.size()).map(decode).collect();
            assert!(values.iter().all(|value| (-1.0..1.0).contains(value)));
            assert!(values.iter().any(|&value| value > 0.5) && values.iter().any(|&value| value < -0.5));
        }
        assert_eq!(Random(0).fill(DType::I64, 16), [0; 16]);
    }
}
