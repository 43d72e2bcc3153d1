//! Arrays in numpy's `.npz` files, a zip archive with one `.npy` member per array, and in single `.npy` files.
//!
//! Laws: any input bytes give arrays or an [`Error`], never a panic; memory stays proportional to the file (a deflated
//! member cannot claim more than deflate can pack); the same arrays give the same bytes.
//!
//! Reads stored and deflated members, `.npy` versions 1 to 3, both byte orders, C and Fortran order. Writes stored
//! members, version 1.0, little endian, C order. Not covered: zip64 (files or members of 4 GiB and more), encryption,
//! structured dtypes and objects; each is refused by name.

mod npy;
mod zip;

use std::fmt;
use std::io::Write;
use std::path::Path;

pub use cameo_abi::DType;

/// A named dense array, row-major (C order), little endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// The key in the archive, without `.npy`.
    pub name: String,
    pub dtype: DType,
    /// Extent of each axis, outermost first.
    pub shape: Vec<i64>,
    /// Product of `shape` times the element size bytes: elements of less than a byte are in the lowest bits of one, as
    /// numpy has them. Strings are as [`text_data`] puts them.
    pub data: Vec<u8>,
}

/// Why an archive could not be read or written; the text names the member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Reads every array of the file at `path`, in the archive's order.
///
/// # Errors
/// When the file cannot be read or is not an archive of arrays that this crate covers.
pub fn read(path: &Path) -> Result<Vec<Array>, Error> {
    let bytes = std::fs::read(path).map_err(|error| Error(format!("{}: {error}", path.display())))?;
    read_bytes(&bytes).map_err(|error| Error(format!("{}: {error}", path.display())))
}

/// Reads every array of an archive in memory, in the archive's order.
///
/// # Errors
/// When the bytes are not an archive of arrays that this crate covers.
pub fn read_bytes(archive: &[u8]) -> Result<Vec<Array>, Error> {
    let mut arrays: Vec<Array> = Vec::new();
    for member in zip::members(archive)? {
        let name = member.name.strip_suffix(".npy").unwrap_or(&member.name).to_owned();
        let located = |error: Error| Error(format!("array {name:?}: {error}"));
        if arrays.iter().any(|array| array.name == name) {
            return Err(located(Error("appears twice".to_owned())));
        }
        let content = member.content(archive).map_err(located)?;
        let npy::Decoded { dtype, shape, data } = npy::decode(&content).map_err(located)?;
        arrays.push(Array {
            name,
            dtype,
            shape,
            data,
        });
    }
    Ok(arrays)
}

/// Reads the one array of an `.npy` file; its name is that of the file.
///
/// # Errors
/// When the file cannot be read or is not an array that this crate covers.
pub fn read_npy(path: &Path) -> Result<Array, Error> {
    let located = |error: &dyn fmt::Display| Error(format!("{}: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| located(&e))?;
    let npy::Decoded { dtype, shape, data } = npy::decode(&bytes).map_err(|e| located(&e))?;
    let name = path
        .file_stem()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    Ok(Array {
        name,
        dtype,
        shape,
        data,
    })
}

/// Borrowed form of [`Array`], to write without copying.
#[derive(Clone, Copy, Debug)]
pub struct ArrayRef<'a> {
    /// As [`Array::name`].
    pub name: &'a str,
    pub dtype: DType,
    /// As [`Array::shape`].
    pub shape: &'a [i64],
    /// As [`Array::data`].
    pub data: &'a [u8],
}

impl Array {
    /// The same bytes as elements of a type that numpy has no name for: those are read as `uint8`, and integers of few bits
    /// may be stored as `int8` too. Of any other type the array stays what it is.
    #[must_use]
    pub fn into_dtype(self, dtype: DType) -> Self {
        if npy::is_nameless(dtype) && matches!(self.dtype, DType::U8 | DType::I8) {
            Self { dtype, ..self }
        } else {
            self
        }
    }

    /// The elements as programs take them: those of less than a byte share bytes, the first one in the lowest bits.
    #[must_use]
    pub fn packed(&self) -> Vec<u8> {
        let bits = self.dtype.bits();
        if bits >= 8 {
            return self.data.clone();
        }
        let mask = (1u8 << bits) - 1;
        let byte = |group: &[u8]| group.iter().rev().fold(0u8, |byte, e| byte << bits | (e & mask));
        self.data.chunks(8 / bits).map(byte).collect()
    }

    /// Borrows the array.
    #[must_use]
    pub fn as_ref(&self) -> ArrayRef<'_> {
        ArrayRef {
            name: &self.name,
            dtype: self.dtype,
            shape: &self.shape,
            data: &self.data,
        }
    }
}

/// The way back from [`Array::packed`]: `count` elements in a byte each.
#[must_use]
pub fn unpacked(dtype: DType, bytes: &[u8], count: usize) -> Vec<u8> {
    let bits = dtype.bits();
    if bits >= 8 {
        return bytes.to_vec();
    }
    let mask = (1u8 << bits) - 1;
    let elements = bytes
        .iter()
        .flat_map(|b| (0..8 / bits).map(move |i| b >> (i * bits) & mask));
    elements.take(count).collect()
}

/// Strings one behind the other, each behind the number of its bytes in eight bytes.
#[must_use]
pub fn text_data<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut data = vec![];
    for text in texts {
        data.extend((text.len() as u64).to_le_bytes());
        data.extend(text.as_bytes());
    }
    data
}

/// The way back; `None` when these are no such strings.
#[must_use]
pub fn texts(mut data: &[u8]) -> Option<Vec<&str>> {
    let mut all = vec![];
    while let Some((length, rest)) = data.split_first_chunk() {
        let (text, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        all.push(std::str::from_utf8(text).ok()?);
        data = rest;
    }
    data.is_empty().then_some(all)
}

/// Writes the arrays to a new file at `path`, replacing an older one.
///
/// # Errors
/// When the file cannot be written, a name appears twice, or the archive would need zip64 (4 GiB and more).
pub fn write(path: &Path, arrays: &[ArrayRef<'_>]) -> Result<(), Error> {
    let located = |error: &dyn fmt::Display| Error(format!("{}: {error}", path.display()));
    let file = std::fs::File::create(path).map_err(|error| located(&error))?;
    let mut out = std::io::BufWriter::new(file);
    write_to(&mut out, arrays).map_err(|error| located(&error))?;
    out.flush().map_err(|error| located(&error))
}

/// Writes the arrays as an archive.
///
/// # Errors
/// When the writer fails, a name appears twice, or the archive would need zip64 (4 GiB and more).
pub fn write_to(out: &mut dyn Write, arrays: &[ArrayRef<'_>]) -> Result<(), Error> {
    let mut writer = zip::Writer::new(out);
    for (index, array) in arrays.iter().enumerate() {
        if arrays[..index].iter().any(|other| other.name == array.name) {
            return Err(Error(format!("array {:?} appears twice", array.name)));
        }
        let name = format!("{}.npy", array.name);
        if array.dtype == DType::String {
            let texts = texts(array.data).ok_or_else(|| Error(format!("array {:?} has no strings", array.name)))?;
            let (width, data) = npy::encode(&texts);
            writer.member(&name, &[&npy::header(array.dtype, array.shape, width), &data])?;
            continue;
        }
        writer.member(&name, &[&npy::header(array.dtype, array.shape, 0), array.data])?;
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Array> {
        vec![
            Array {
                name: "x".into(),
                dtype: DType::F32,
                shape: vec![2, 3],
                data: (0..24).collect(),
            },
            Array {
                name: "scalar".into(),
                dtype: DType::I64,
                shape: vec![],
                data: vec![7, 0, 0, 0, 0, 0, 0, 0],
            },
            Array {
                name: "empty/ö".into(),
                dtype: DType::Bool,
                shape: vec![0, 4],
                data: vec![],
            },
            Array {
                name: "half".into(),
                dtype: DType::BF16,
                shape: vec![1],
                data: vec![0x80, 0x3f],
            },
        ]
    }

    fn archive(arrays: &[Array]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_to(&mut bytes, &arrays.iter().map(Array::as_ref).collect::<Vec<_>>()).unwrap();
        bytes
    }

    #[test]
    fn round_trip() {
        assert_eq!(read_bytes(&archive(&sample())).unwrap(), sample());
    }

    #[test]
    fn every_dtype_round_trips() {
        let arrays: Vec<Array> = DType::ALL
            .iter()
            .map(|&dtype| {
                let data = match dtype {
                    DType::String => text_data(["ä", ""]),
                    _ => (0..2 * dtype.size()).map(|i| i as u8).collect(),
                };
                Array {
                    name: dtype.name().into(),
                    dtype,
                    shape: vec![2],
                    data,
                }
            })
            .collect();
        let back = read_bytes(&archive(&arrays)).unwrap();
        assert!(back.iter().zip(&arrays).all(|(b, a)| a.dtype.bits() <= 8 || b == a));
        let back: Vec<Array> = back.into_iter().zip(DType::ALL).map(|(a, t)| a.into_dtype(t)).collect();
        assert_eq!(back, arrays);
    }

    #[test]
    fn few_bits_share_bytes() {
        let of = |dtype, data: &[u8]| Array {
            name: "x".into(),
            dtype,
            shape: vec![data.len() as i64],
            data: data.to_vec(),
        };
        let x = of(DType::I4, &[1, 0xff, 7]);
        assert_eq!(x.packed(), [0xf1, 7]);
        assert_eq!(unpacked(DType::I4, &[0xf1, 7], 3), [1, 15, 7]);
        assert_eq!(of(DType::U2, &[1, 2, 3, 0, 2]).packed(), [0b0011_1001, 2]);
        assert_eq!(of(DType::F8E5M2, &[5, 200]).packed(), [5, 200]);
        assert_eq!(of(DType::F32, &[]).into_dtype(DType::I4).dtype, DType::F32);
        assert_eq!(of(DType::U8, &[]).into_dtype(DType::I8).dtype, DType::U8);
    }

    #[test]
    fn twice_the_same_name_is_refused() {
        let array = sample().remove(0);
        assert!(write_to(&mut Vec::new(), &[array.as_ref(), array.as_ref()]).is_err());
    }

    #[test]
    fn damage_is_an_error_or_the_same_arrays() {
        let good = archive(&sample());
        for length in 0..good.len() {
            assert!(read_bytes(&good[..length]).is_err(), "truncated to {length}");
        }
        let mut refused = 0;
        for position in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[position] ^= 1 << bit;
                refused += usize::from(read_bytes(&bad).is_err());
            }
        }
        assert!(
            refused > good.len() * 4,
            "only {refused} of {} bit flips were noticed",
            good.len() * 8
        );
    }
}
