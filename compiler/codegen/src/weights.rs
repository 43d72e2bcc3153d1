//! The weights section: where each weight lies, what its bytes are, and their hash.
//!
//! Laws: weights follow each other in the program's order, each at a multiple of [`cameo_abi::ALIGNMENT`], gaps are zero;
//! one weight at a time is in memory, and one that is a slice of the model file is written from there; the bytes do not
//! depend on the number of threads.

use std::fmt;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;

use cameo_abi::{ABI_VERSION, ALIGNMENT, WEIGHTS_MAGIC, WeightsHasher, WeightsHeader};
use cameo_ir::interp::{self, RunError};
use cameo_kernel::program::{Pack, Program, Weight};
use cameo_kernel::winograd::weight_transform;

/// Bytes of the header of a weights file.
pub const HEADER_BYTES: u64 = size_of::<WeightsHeader>() as u64;

/// Elements from which a weight is packed by two threads: below, starting one (some 50 µs) costs more than it saves.
const PARALLEL_FROM: usize = 1 << 18;

/// Where the weights lie in their section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Byte offset of each weight.
    pub offsets: Vec<u64>,
    /// Bytes of the section, a multiple of the alignment.
    pub bytes: u64,
}

/// Why a weight has no bytes.
#[derive(Debug)]
pub enum WeightError {
    /// The recipe of the value failed.
    Recipe {
        name: String,
        error: RunError,
    },
    /// The value is not what the program says of it; a defect of an earlier phase.
    Contradiction {
        name: String,
        what: String,
    },
    Write(io::Error),
}

impl fmt::Display for WeightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recipe { name, error } => write!(f, "cannot compute the weight {name:?}: {error}"),
            Self::Contradiction { name, what } => write!(f, "weight {name:?}: {what}"),
            Self::Write(error) => write!(f, "cannot write the weights: {error}"),
        }
    }
}

impl std::error::Error for WeightError {}

impl From<io::Error> for WeightError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// Places the weights.
#[must_use]
pub fn layout(weights: &[Weight]) -> Layout {
    let mut bytes = 0;
    let offsets = weights
        .iter()
        .map(|weight| {
            let at = bytes;
            bytes += ((weight.elements * weight.dtype.size()) as u64).next_multiple_of(ALIGNMENT as u64);
            at
        })
        .collect();
    Layout { offsets, bytes }
}

/// Writes header and weights at the writer's position; gives the hash of the weights, which is in the header too.
///
/// # Errors
/// See [`WeightError`].
pub fn write(program: &Program, out: &mut (impl Write + Seek)) -> Result<u64, WeightError> {
    let start = out.stream_position()?;
    out.write_all(&[0; HEADER_BYTES as usize])?;
    let mut hasher = WeightsHasher::default();
    let mut bytes = 0;
    for weight in &program.weights {
        bytes += with_bytes(program, weight, |data| {
            hasher.update(data);
            out.write_all(data)?;
            let padding = data.len().next_multiple_of(ALIGNMENT) - data.len();
            out.write_all(&[0; ALIGNMENT][..padding])?;
            Ok((data.len() + padding) as u64)
        })?;
    }
    let hash = hasher.finish();
    out.seek(SeekFrom::Start(start))?;
    out.write_all(&header(bytes, hash))?;
    out.seek(SeekFrom::Start(start + HEADER_BYTES + bytes))?;
    Ok(hash)
}

/// The first bytes of a weights file.
#[must_use]
pub fn header(bytes: u64, hash: u64) -> [u8; HEADER_BYTES as usize] {
    let mut out = [0; HEADER_BYTES as usize];
    let mut put = |at: usize, value: &[u8]| out[at..at + value.len()].copy_from_slice(value);
    put(std::mem::offset_of!(WeightsHeader, magic), &WEIGHTS_MAGIC.to_le_bytes());
    put(
        std::mem::offset_of!(WeightsHeader, abi_version),
        &ABI_VERSION.to_le_bytes(),
    );
    put(std::mem::offset_of!(WeightsHeader, bytes), &bytes.to_le_bytes());
    put(std::mem::offset_of!(WeightsHeader, hash), &hash.to_le_bytes());
    out
}

/// Computes the bytes of one weight and hands them to `take`.
fn with_bytes<T>(
    program: &Program,
    weight: &Weight,
    take: impl FnOnce(&[u8]) -> Result<T, WeightError>,
) -> Result<T, WeightError> {
    let name = || program.graph.value(weight.value).name.to_string();
    let contradiction = |what: String| WeightError::Contradiction { name: name(), what };
    let value = interp::eval_constant(&program.graph, weight.value)
        .map_err(|error| WeightError::Recipe { name: name(), error })?;
    if value.dtype() != weight.dtype {
        return Err(contradiction(format!(
            "is {}, expected {}",
            value.dtype(),
            weight.dtype
        )));
    }
    let Some(pack) = &weight.pack else {
        if value.len() != weight.elements {
            return Err(contradiction(format!(
                "has {} elements, expected {}",
                value.len(),
                weight.elements
            )));
        }
        return take(value.bytes());
    };
    let packed = match weight.dtype.size() {
        _ if pack.windows.is_some() => transformed(pack, value.bytes()),
        1 => packed::<1>(pack, value.bytes()),
        2 => packed::<2>(pack, value.bytes()),
        4 => packed::<4>(pack, value.bytes()),
        _ => packed::<8>(pack, value.bytes()),
    };
    let packed = packed.ok_or_else(|| contradiction("is packed from outside of its elements".to_owned()))?;
    if packed.len() != weight.elements * weight.dtype.size() {
        return Err(contradiction(format!(
            "takes {} bytes in panels, expected {} elements",
            packed.len(),
            weight.elements
        )));
    }
    take(&packed)
}

/// The panels of `pack` from row-major elements of `SIZE` bytes; `None` when an element of the source does not exist.
fn packed<const SIZE: usize>(pack: &Pack, source: &[u8]) -> Option<Vec<u8>> {
    let (source, _) = source.as_chunks::<SIZE>();
    if pack.panel == 0 || !in_bounds(pack, source.len()) {
        return None;
    }
    // Source offset of every k, relative to its column: a few thousand numbers, reused by all panels.
    let k = positions(&pack.k);
    let panels = pack.n.0.div_ceil(pack.panel);
    let bases = positions(&pack.batch);
    let block = k.len() * pack.panel;
    let elements = bases.len().checked_mul(panels)?.checked_mul(block)?;
    let mut out = vec![0; elements.checked_mul(SIZE)?];
    if out.is_empty() {
        return Some(out);
    }
    let fill = |blocks: Range<usize>, out: &mut [u8]| {
        for (i, out) in blocks.zip(out.chunks_exact_mut(block * SIZE)) {
            let first = i % panels * pack.panel;
            let columns = pack.panel.min(pack.n.0 - first);
            let base = pack.offset + bases[i / panels] + first as i64 * pack.n.1;
            let (out, _) = out.as_chunks_mut::<SIZE>();
            if pack.n.1 == 1 {
                copy_rows(out, source, base, &k, columns, pack.panel);
            } else {
                gather(out, source, base, &k, pack.n.1, columns, pack.panel);
            }
        }
    };
    let blocks = bases.len() * panels;
    if elements < PARALLEL_FROM || blocks == 1 {
        fill(0..blocks, &mut out);
    } else {
        let half = blocks / 2;
        let (left, right) = out.split_at_mut(half * block * SIZE);
        std::thread::scope(|scope| {
            scope.spawn(|| fill(0..half, left));
            fill(half..blocks, right);
        });
    }
    Some(out)
}

/// The panels of every point of transformed windows (see [`cameo_kernel::winograd`]), computed in `f64`.
fn transformed(pack: &Pack, source: &[u8]) -> Option<Vec<u8>> {
    let windows = pack.windows?;
    let (source, _) = source.as_chunks::<4>();
    let taps = windows.strides.map(|s| (3, s));
    let with_taps = Pack {
        k: pack.k.iter().copied().chain(taps).collect(),
        ..pack.clone()
    };
    if pack.panel == 0 || !in_bounds(&with_taps, source.len()) {
        return None;
    }
    let g = weight_transform(windows.side);
    let (k, taps) = (positions(&pack.k), positions(&taps));
    let panels = pack.n.0.div_ceil(pack.panel);
    let point = panels.checked_mul(k.len())?.checked_mul(pack.panel)?;
    let mut out = vec![0; point.checked_mul(g.len() * g.len() * 4)?];
    let (floats, _) = out.as_chunks_mut::<4>();
    for n in 0..pack.n.0 {
        let column = n / pack.panel * k.len() * pack.panel + n % pack.panel;
        for (row, at) in k.iter().enumerate() {
            let base = pack.offset + n as i64 * pack.n.1 + at;
            let w: [f64; 9] = std::array::from_fn(|i| f64::from(f32::from_le_bytes(source[(base + taps[i]) as usize])));
            // G w, then that times the transpose of G.
            for (i, gi) in g.iter().enumerate() {
                let half: [f64; 3] = std::array::from_fn(|x| (0..3).map(|y| gi[y] * w[y * 3 + x]).sum());
                for (j, gj) in g.iter().enumerate() {
                    let u: f64 = half.iter().zip(gj).map(|(a, b)| a * b).sum();
                    let at = (i * g.len() + j) * point + column + row * pack.panel;
                    floats[at] = (u as f32).to_le_bytes();
                }
            }
        }
    }
    Some(out)
}

/// Panel rows that are consecutive in the source.
fn copy_rows<const SIZE: usize>(
    out: &mut [[u8; SIZE]],
    source: &[[u8; SIZE]],
    base: i64,
    k: &[i64],
    columns: usize,
    panel: usize,
) {
    for (row, at) in out.chunks_exact_mut(panel).zip(k) {
        row[..columns].copy_from_slice(&source[(base + at) as usize..][..columns]);
    }
}

/// Any other panel: a transpose or gather, in blocks of so many k that a block of the panel stays in L1.
fn gather<const SIZE: usize>(
    out: &mut [[u8; SIZE]],
    source: &[[u8; SIZE]],
    base: i64,
    k: &[i64],
    stride: i64,
    columns: usize,
    panel: usize,
) {
    // A cache line of f32 of each column; with panels of 64 columns both sides are 4 KiB.
    const BLOCK: usize = 16;
    for (out, k) in out.chunks_mut(BLOCK * panel).zip(k.chunks(BLOCK)) {
        let consecutive = k.windows(2).all(|pair| pair[1] == pair[0] + 1);
        for column in 0..columns {
            let from = base + column as i64 * stride;
            if consecutive {
                let line = &source[(from + k[0]) as usize..][..k.len()];
                for (row, value) in line.iter().enumerate() {
                    out[row * panel + column] = *value;
                }
            } else {
                for (row, at) in k.iter().enumerate() {
                    out[row * panel + column] = source[(from + at) as usize];
                }
            }
        }
    }
}

/// `Σ index·stride` for every index of the axes, in row-major order.
fn positions(axes: &[(usize, i64)]) -> Vec<i64> {
    let mut out = vec![0];
    for (extent, stride) in axes {
        out = out
            .iter()
            .flat_map(|at| (0..*extent as i64).map(move |i| at + i * stride))
            .collect();
    }
    out
}

/// Whether every position that `pack` reads is an element of a source of `len` elements.
fn in_bounds(pack: &Pack, len: usize) -> bool {
    let axes = || pack.batch.iter().chain([&pack.n]).chain(&pack.k);
    if axes().any(|(extent, _)| *extent == 0) {
        return true;
    }
    let (mut low, mut high) = (i128::from(pack.offset), i128::from(pack.offset));
    for (extent, stride) in axes() {
        let reach = (*extent as i128 - 1) * i128::from(*stride);
        *(if reach < 0 { &mut low } else { &mut high }) += reach;
    }
    low >= 0 && high < len as i128
}

#[cfg(test)]
mod tests {
    use super::*;
    use cameo_ir::{DType, Tensor};
    use cameo_kernel::program::Windows;
    use std::io::Cursor;

    /// The definition of [`Pack`], element by element.
    fn plainly(pack: &Pack, source: &[f32]) -> Vec<f32> {
        let mut out = vec![];
        for b in positions(&pack.batch) {
            for panel in 0..pack.n.0.div_ceil(pack.panel) {
                for k in positions(&pack.k) {
                    for lane in 0..pack.panel {
                        let n = panel * pack.panel + lane;
                        let at = pack.offset + b + k + n as i64 * pack.n.1;
                        out.push(if n < pack.n.0 { source[at as usize] } else { 0.0 });
                    }
                }
            }
        }
        out
    }

    fn floats(n: usize) -> Vec<f32> {
        (0..n).map(|i| i as f32 + 0.5).collect()
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn check(pack: &Pack, len: usize) {
        let source = floats(len);
        let got = packed::<4>(pack, &bytes(&source)).unwrap();
        assert!(got == bytes(&plainly(pack, &source)), "{pack:?}");
    }

    #[test]
    fn panels_of_all_stride_patterns() {
        let pack = |batch: &[(usize, i64)], n, k: &[(usize, i64)], offset, panel| Pack {
            batch: batch.to_vec(),
            n,
            k: k.to_vec(),
            offset,
            panel,
            windows: None,
        };
        // [K, N]: rows are consecutive. [N, K]: a transpose.
        check(&pack(&[], (100, 1), &[(40, 100)], 0, 16), 4000);
        check(&pack(&[], (100, 40), &[(40, 1)], 0, 16), 4000);
        // Convolution weights [N, C, 3, 3] with k in the order (y, x, channel).
        check(&pack(&[], (33, 90), &[(3, 3), (3, 1), (10, 9)], 0, 32), 33 * 90);
        // Groups, a backwards axis, an offset.
        check(&pack(&[(2, 50), (3, 100)], (7, 1), &[(5, 7)], 3, 4), 300);
        check(&pack(&[], (6, -10), &[(10, 1)], 50, 4), 60);
        check(&pack(&[], (6, 1), &[(10, -6)], 54, 8), 60);
        // No k axis, and nothing at all.
        check(&pack(&[], (5, 1), &[], 0, 8), 5);
        check(&pack(&[], (0, 1), &[(4, 1)], 0, 8), 5);
        // Large enough for two threads, with an odd number of panels.
        check(&pack(&[], (720, 512), &[(512, 1)], 0, 48), 720 * 512);
    }

    #[test]
    fn windows_are_transformed() {
        // 3 channels, 5 columns in panels of 4; only one tap of the window of column n and channel c is not 0.
        for side in [2, 4] {
            let pack = Pack {
                batch: vec![],
                n: (5, 27),
                k: vec![(3, 9)],
                offset: 0,
                panel: 4,
                windows: Some(Windows { side, strides: [3, 1] }),
            };
            let g = weight_transform(side);
            let points = g.len();
            for (n, c, y, x) in [(0, 0, 0, 0), (3, 1, 1, 1), (4, 2, 2, 0), (1, 2, 1, 2)] {
                let mut source = [0f32; 5 * 27];
                source[n * 27 + c * 9 + y * 3 + x] = 2.0;
                let mut want = vec![0f32; points * points * 2 * 3 * 4];
                for i in 0..points {
                    for j in 0..points {
                        let at = (((i * points + j) * 2 + n / 4) * 3 + c) * 4 + n % 4;
                        want[at] = (2.0 * g[i][y] * g[j][x]) as f32;
                    }
                }
                let got = transformed(&pack, &bytes(&source)).expect("in bounds");
                // Compared as numbers: a product with a zero tap may be -0.
                let (got, _) = got.as_chunks::<4>();
                let got: Vec<f32> = got.iter().map(|b| f32::from_le_bytes(*b)).collect();
                assert_eq!(got, want, "{side}: {n} {c} {y} {x}");
            }
            assert!(transformed(&pack, &[0; 4 * 134]).is_none());
        }
    }

    #[test]
    fn positions_outside_are_refused() {
        let pack = Pack {
            batch: vec![],
            n: (4, 5),
            k: vec![(5, 1)],
            offset: 0,
            panel: 4,
            windows: None,
        };
        assert!(packed::<1>(&pack, &[0; 20]).is_some());
        assert!(packed::<1>(&pack, &[0; 19]).is_none());
        assert!(packed::<1>(&Pack { offset: -1, ..pack }, &[0; 20]).is_none());
    }

    #[test]
    fn files() {
        let mut program = crate::sample::program();
        let value = program
            .graph
            .add_weight("c", Tensor::bool(&[3, 2], [true, false, true, true, false, true]));
        let pack = Pack {
            batch: vec![],
            n: (3, 2),
            k: vec![(2, 1)],
            offset: 0,
            panel: 2,
            windows: None,
        };
        program.weights.push(Weight {
            value,
            dtype: DType::Bool,
            pack: Some(pack),
            elements: 8,
        });
        let layout = layout(&program.weights);
        assert_eq!(
            layout,
            Layout {
                offsets: vec![0, 64, 128],
                bytes: 192
            }
        );

        let mut file = Cursor::new(vec![]);
        let hash = write(&program, &mut file).unwrap();
        assert_eq!(file.position(), 64 + 192);
        let file = file.into_inner();
        assert_eq!(file[..64], header(192, hash));
        assert_eq!(&file[..8], b"CAMEOWTS");
        assert_eq!(file[16..24], 192u64.to_le_bytes());
        assert_eq!(file[24..32], hash.to_le_bytes());
        assert_eq!(file[64..80], bytes(&crate::sample::A));
        assert_eq!(file[128..144], bytes(&crate::sample::B));
        assert_eq!(file[192..200], [1, 1, 0, 1, 0, 0, 1, 0]);
        assert_eq!(file.len(), 256);
    }

    #[test]
    fn wrong_sizes_and_types_are_reported() {
        let mut program = crate::sample::program();
        program.weights[0].elements = 5;
        let error = write(&program, &mut Cursor::new(vec![])).unwrap_err();
        assert_eq!(error.to_string(), "weight \"a\": has 4 elements, expected 5");
        program.weights[0].dtype = DType::I32;
        let error = write(&program, &mut Cursor::new(vec![])).unwrap_err();
        assert_eq!(error.to_string(), "weight \"a\": is f32, expected i32");
    }
}
