//! The part of the zip container that numpy uses: a central directory of stored or deflated members.
//!
//! Sizes come from the central directory only, because numpy writes placeholders into the local headers. Every member's
//! CRC-32 is checked. Layouts: PKWARE APPNOTE 4.3.

use crate::Error;
use std::borrow::Cow;
use std::io::Write;

const LOCAL_SIGNATURE: u32 = 0x0403_4b50;
const CENTRAL_SIGNATURE: u32 = 0x0201_4b50;
const END_SIGNATURE: u32 = 0x0605_4b50;

/// Fixed parts of the three records, in bytes.
const LOCAL_BYTES: usize = 30;
const CENTRAL_BYTES: usize = 46;
const END_BYTES: usize = 22;

const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// Bit 0 of the flags: the member is encrypted. Bit 11: the name is UTF-8.
const FLAG_ENCRYPTED: u16 = 1;
const FLAG_UTF8: u16 = 1 << 11;

/// 1 January 1980, the earliest date of the format: archives carry no clock.
const EPOCH_DATE: u16 = (1 << 5) | 1;

/// One member of an archive, as its central directory describes it.
pub struct Member {
    pub name: String,
    flags: u16,
    method: u16,
    crc: u32,
    packed: usize,
    unpacked: usize,
    header: usize,
}

/// Reads the central directory.
pub fn members(archive: &[u8]) -> Result<Vec<Member>, Error> {
    let end = end_record(archive)?;
    let (count, size, start) = (u16_at(end, 10)?, u32_at(end, 12)?, u32_at(end, 16)?);
    if count == u16::MAX || size == u32::MAX || start == u32::MAX {
        return Err(Error("is a zip64 archive, which is not supported".to_owned()));
    }
    let mut at = start as usize;
    let mut members = Vec::new();
    for _ in 0..count {
        let record = archive.get(at..).unwrap_or_default();
        if u32_at(record, 0)? != CENTRAL_SIGNATURE {
            return Err(Error("has a damaged central directory".to_owned()));
        }
        let name_bytes = usize::from(u16_at(record, 28)?);
        let rest = usize::from(u16_at(record, 30)?) + usize::from(u16_at(record, 32)?);
        let name = record
            .get(CENTRAL_BYTES..CENTRAL_BYTES + name_bytes)
            .and_then(|name| std::str::from_utf8(name).ok())
            .ok_or_else(|| Error("has a member name that is not UTF-8".to_owned()))?;
        let (packed, unpacked, header) = (u32_at(record, 20)?, u32_at(record, 24)?, u32_at(record, 42)?);
        if packed == u32::MAX || unpacked == u32::MAX || header == u32::MAX {
            return Err(Error(format!("member {name:?} needs zip64, which is not supported")));
        }
        members.push(Member {
            name: name.to_owned(),
            flags: u16_at(record, 8)?,
            method: u16_at(record, 10)?,
            crc: u32_at(record, 16)?,
            packed: packed as usize,
            unpacked: unpacked as usize,
            header: header as usize,
        });
        at += CENTRAL_BYTES + name_bytes + rest;
    }
    Ok(members)
}

impl Member {
    /// The member's bytes, unpacked and checked.
    pub fn content<'a>(&self, archive: &'a [u8]) -> Result<Cow<'a, [u8]>, Error> {
        if self.flags & FLAG_ENCRYPTED != 0 {
            return Err(Error("is encrypted".to_owned()));
        }
        let local = archive.get(self.header..).unwrap_or_default();
        if u32_at(local, 0)? != LOCAL_SIGNATURE {
            return Err(Error("has a damaged local header".to_owned()));
        }
        let start = LOCAL_BYTES + usize::from(u16_at(local, 26)?) + usize::from(u16_at(local, 28)?);
        let packed = local
            .get(start..)
            .and_then(|rest| rest.get(..self.packed))
            .ok_or_else(truncated)?;
        let content = match self.method {
            STORED if self.packed == self.unpacked => Cow::Borrowed(packed),
            STORED => return Err(Error("is stored with two different sizes".to_owned())),
            DEFLATED => Cow::Owned(self.inflate(packed)?),
            method => {
                return Err(Error(format!(
                    "is packed with method {method}; only stored and deflated are read"
                )));
            }
        };
        if crc32(&[&content]) != self.crc {
            return Err(Error("has a wrong checksum".to_owned()));
        }
        Ok(content)
    }

    fn inflate(&self, packed: &[u8]) -> Result<Vec<u8>, Error> {
        // One deflate symbol of at least two bits yields at most 258 bytes: a factor of 1032. A larger claim is a lie,
        // refused before memory is asked for.
        if self.unpacked > packed.len().saturating_mul(1032) {
            return Err(Error("claims more bytes than deflate can pack".to_owned()));
        }
        let mut content = vec![0; self.unpacked];
        let written =
            miniz_oxide::inflate::decompress_slice_iter_to_slice(&mut content, std::iter::once(packed), false, true)
                .map_err(|_| Error("has damaged deflated data".to_owned()))?;
        if written == self.unpacked {
            Ok(content)
        } else {
            Err(truncated())
        }
    }
}

/// Writes stored members one after another and the central directory at the end.
pub struct Writer<'a> {
    out: &'a mut dyn Write,
    directory: Vec<u8>,
    count: u16,
    at: u32,
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self {
            out,
            directory: Vec::new(),
            count: 0,
            at: 0,
        }
    }

    /// Appends a member whose content is the concatenation of `parts`.
    pub fn member(&mut self, name: &str, parts: &[&[u8]]) -> Result<(), Error> {
        let too_large = || Error(format!("{name:?} makes the archive need zip64, which is not supported"));
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let size = u32::try_from(bytes).map_err(|_| too_large())?;
        let name_bytes = u16::try_from(name.len()).map_err(|_| too_large())?;
        let record = LOCAL_BYTES as u32 + u32::from(name_bytes);
        let after = record
            .checked_add(size)
            .and_then(|record| self.at.checked_add(record))
            .ok_or_else(too_large)?;
        // The largest values stand for zip64, in sizes and in counts.
        if after == u32::MAX || self.count == u16::MAX - 1 {
            return Err(too_large());
        }

        let mut shared = Vec::with_capacity(26);
        for half in [20, FLAG_UTF8, STORED, 0, EPOCH_DATE] {
            shared.extend_from_slice(&half.to_le_bytes());
        }
        for word in [crc32(parts), size, size] {
            shared.extend_from_slice(&word.to_le_bytes());
        }
        shared.extend_from_slice(&name_bytes.to_le_bytes());
        shared.extend_from_slice(&0u16.to_le_bytes());

        self.put(&LOCAL_SIGNATURE.to_le_bytes())?;
        self.put(&shared)?;
        self.put(name.as_bytes())?;
        for part in parts {
            self.put(part)?;
        }

        self.directory.extend_from_slice(&CENTRAL_SIGNATURE.to_le_bytes());
        self.directory.extend_from_slice(&20u16.to_le_bytes());
        self.directory.extend_from_slice(&shared);
        // No comment, disk 0, no attributes.
        self.directory.extend_from_slice(&[0; 10]);
        self.directory.extend_from_slice(&self.at.to_le_bytes());
        self.directory.extend_from_slice(name.as_bytes());
        self.count += 1;
        self.at = after;
        Ok(())
    }

    /// Writes the central directory.
    pub fn finish(self) -> Result<(), Error> {
        let too_large = |_| Error("the archive needs zip64, which is not supported".to_owned());
        let size = u32::try_from(self.directory.len()).map_err(too_large)?;
        let mut end = END_SIGNATURE.to_le_bytes().to_vec();
        for half in [0, 0, self.count, self.count] {
            end.extend_from_slice(&half.to_le_bytes());
        }
        end.extend_from_slice(&size.to_le_bytes());
        end.extend_from_slice(&self.at.to_le_bytes());
        end.extend_from_slice(&0u16.to_le_bytes());
        let written = self
            .out
            .write_all(&self.directory)
            .and_then(|()| self.out.write_all(&end));
        written.map_err(|error| Error(error.to_string()))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(|error| Error(error.to_string()))
    }
}

/// The end record is last, behind it only a comment of at most 65,535 bytes.
fn end_record(archive: &[u8]) -> Result<&[u8], Error> {
    let last = archive
        .len()
        .checked_sub(END_BYTES)
        .ok_or_else(|| Error("is not a zip archive".to_owned()))?;
    (last.saturating_sub(usize::from(u16::MAX))..=last)
        .rev()
        .map(|at| &archive[at..])
        .find(|record| {
            let comment = u16_at(record, 20).unwrap_or(0);
            u32_at(record, 0) == Ok(END_SIGNATURE) && record.len() == END_BYTES + usize::from(comment)
        })
        .ok_or_else(|| Error("is not a zip archive".to_owned()))
}

fn truncated() -> Error {
    Error("is truncated".to_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Error> {
    let bytes = bytes.get(at..at + 2).ok_or_else(truncated)?;
    Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Error> {
    let bytes = bytes.get(at..at + 4).ok_or_else(truncated)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// CRC-32 (IEEE 802.3, reflected polynomial 0xEDB88320) of the concatenation.
fn crc32(parts: &[&[u8]]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    parts.iter().for_each(|part| sum.update(part));
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_standard_text() {
        assert_eq!(crc32(&[b"12345", b"6789"]), 0xCBF4_3926);
        // As long as several blocks and a rest, cut anywhere.
        let text: Vec<u8> = (0..100).collect();
        let whole = crc32(&[&text]);
        assert_eq!(whole, 0x58C9_32F5);
        for cut in 0..text.len() {
            assert_eq!(crc32(&[&text[..cut], &text[cut..]]), whole);
        }
    }

    /// `packed` as the only member of an archive, claiming the method and the unpacked size.
    fn archive(packed: &[u8], method: u16, unpacked: &[u8], claimed: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.member("m", &[packed]).unwrap();
        writer.finish().unwrap();
        let central = LOCAL_BYTES + 1 + packed.len();
        bytes[central + 10..central + 12].copy_from_slice(&method.to_le_bytes());
        bytes[central + 16..central + 20].copy_from_slice(&crc32(&[unpacked]).to_le_bytes());
        bytes[central + 24..central + 28].copy_from_slice(&claimed.to_le_bytes());
        bytes
    }

    fn content(archive: &[u8]) -> Result<Vec<u8>, Error> {
        members(archive)?[0].content(archive).map(Cow::into_owned)
    }

    #[test]
    fn deflated_member() {
        let text = b"cameo cameo cameo cameo cameo".repeat(40);
        let packed = miniz_oxide::deflate::compress_to_vec(&text, 6);
        assert!(packed.len() < text.len());
        let good = archive(&packed, DEFLATED, &text, text.len() as u32);
        assert_eq!(content(&good).unwrap(), text);
        let short = archive(&packed, DEFLATED, &text, text.len() as u32 - 1);
        assert!(content(&short).is_err());
        let long = archive(&packed, DEFLATED, &text, text.len() as u32 + 1);
        assert!(content(&long).is_err());
    }

    #[test]
    fn bombs_zip64_and_encryption_are_refused() {
        let bomb = archive(&[1, 2, 3], DEFLATED, &[], 1_000_000_000);
        assert!(content(&bomb).unwrap_err().0.contains("more bytes than deflate"));
        let zip64 = archive(&[1, 2, 3], STORED, &[1, 2, 3], u32::MAX);
        assert!(content(&zip64).unwrap_err().0.contains("zip64"));
        let mut encrypted = archive(&[1, 2, 3], STORED, &[1, 2, 3], 3);
        encrypted[LOCAL_BYTES + 4 + 8] |= 1;
        assert!(content(&encrypted).unwrap_err().0.contains("encrypted"));
    }
}
