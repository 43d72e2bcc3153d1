//! The weights of an open model: linked in, or a mapped file whose header was checked.
//!
//! Opening checks the header, not every byte: reading all weights at each start would cost more than the mapping saves.
//! [`Weights::verify`] reads them all.

use crate::Error;
use crate::sys::Region;
use cameo_abi::{ABI_VERSION, ModelDesc, WEIGHTS_MAGIC, WeightsHasher, WeightsHeader};
use std::fs::File;
use std::io::Read;
use std::path::Path;

const HEADER_BYTES: usize = size_of::<WeightsHeader>();

/// Where the weights section starts, kept mapped.
pub struct Weights {
    start: *const u8,
    /// The file that is mapped; empty for weights that are linked in.
    path: String,
    _mapping: Region,
}

#[expect(unsafe_code, reason = "a pointer to constant data may cross threads")]
// SAFETY: the weights are constant data, which nothing writes.
unsafe impl Send for Weights {}
#[expect(unsafe_code, reason = "a pointer to constant data may cross threads")]
// SAFETY: as above.
unsafe impl Sync for Weights {}

impl Weights {
    /// Maps the file at `path` if one is given, else takes the weights that are linked in.
    pub fn open(desc: &ModelDesc, path: Option<&Path>) -> Result<Self, Error> {
        match path {
            _ if desc.weight_bytes == 0 => Ok(Self {
                start: Region::empty().as_ptr(),
                path: String::new(),
                _mapping: Region::empty(),
            }),
            Some(path) => Self::map(desc, path),
            None if !desc.weights.is_null() => Ok(Self {
                start: desc.weights,
                path: String::new(),
                _mapping: Region::empty(),
            }),
            None => Err(Error::WeightsMissing {
                path: String::new(),
                reason: "no path was given".to_owned(),
            }),
        }
    }

    /// First byte of the weights section.
    pub const fn as_ptr(&self) -> *const u8 {
        self.start
    }

    /// Reads every byte and compares their hash with the one in the descriptor, with which they were opened.
    pub fn verify(&self, desc: &ModelDesc) -> Result<(), Error> {
        let mut hasher = WeightsHasher::default();
        #[expect(unsafe_code, reason = "the weights are memory behind a pointer")]
        // SAFETY: `open` saw that the mapping has as many bytes, or the compiler promises it; `Region::empty` is never null
        // and stands for no bytes. Nothing writes them.
        hasher.update(unsafe { std::slice::from_raw_parts(self.start, desc.weight_bytes as usize) });
        if desc.weight_bytes > 0 && hasher.finish() != desc.weight_hash {
            return Err(Error::WeightsCorrupt {
                path: self.path.clone(),
                reason: "has other bytes than were written",
            });
        }
        Ok(())
    }

    fn map(desc: &ModelDesc, path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let missing = |error: std::io::Error| Error::WeightsMissing {
            path: name.clone(),
            reason: error.to_string(),
        };
        let corrupt = |reason| Error::WeightsCorrupt {
            path: name.clone(),
            reason,
        };
        let mut file = File::open(path).map_err(missing)?;
        let metadata = file.metadata().map_err(missing)?;
        if !metadata.is_file() {
            return Err(corrupt("is not a file"));
        }
        let mut bytes = [0; HEADER_BYTES];
        file.read_exact(&mut bytes)
            .map_err(|_| corrupt("is shorter than its header"))?;
        let header = Header::parse(&bytes);
        if header.magic != WEIGHTS_MAGIC {
            return Err(corrupt("does not start like a weights file"));
        }
        if header.abi_version != ABI_VERSION {
            return Err(Error::AbiMismatch {
                model: header.abi_version,
                runtime: ABI_VERSION,
            });
        }
        if header.hash != desc.weight_hash || header.bytes != desc.weight_bytes {
            return Err(Error::WeightsMismatch { path: name });
        }
        let whole = header.bytes.checked_add(HEADER_BYTES as u64);
        if whole != Some(metadata.len()) {
            return Err(corrupt("is truncated or has bytes behind its end"));
        }
        let mapping = Region::file(&file, metadata.len() as usize)?;
        Ok(Self {
            start: mapping.as_ptr().wrapping_add(HEADER_BYTES),
            path: name,
            _mapping: mapping,
        })
    }
}

/// The fields of [`WeightsHeader`] that are looked at.
struct Header {
    magic: u64,
    abi_version: u32,
    bytes: u64,
    hash: u64,
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self {
            magic: word(std::mem::offset_of!(WeightsHeader, magic)),
            // The reserved half above it is not looked at.
            abi_version: word(std::mem::offset_of!(WeightsHeader, abi_version)) as u32,
            bytes: word(std::mem::offset_of!(WeightsHeader, bytes)),
            hash: word(std::mem::offset_of!(WeightsHeader, hash)),
        }
    }
}
