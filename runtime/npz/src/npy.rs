//! One `.npy` array: a Python dictionary as text, then the elements.
//!
//! Format: numpy's `numpy/lib/format.py`, versions 1.0 to 3.0. `bfloat16` has no numpy code of its own: the `ml_dtypes`
//! package saves it as the two-byte void `V2`, and so does this file. Its types of at most a byte are all saved as `V1`,
//! each element in the lowest bits of a byte: which of them it is the array does not say, and it is read as `uint8`
//! ([`crate::Array::into_dtype`]). Strings are of one width, in UTF-32 or in bytes, with zeros behind them.

use crate::Error;
use cameo_abi::DType;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Elements start at a multiple of this, as numpy writes them.
const ALIGNMENT: usize = 64;

/// numpy's own limit on axes is 64; it also bounds what a hostile header can ask for.
const MAX_RANK: usize = 64;

const CODES: [(&str, DType); 16] = [
    ("f4", DType::F32),
    ("u1", DType::U8),
    ("i1", DType::I8),
    ("u2", DType::U16),
    ("i2", DType::I16),
    ("i4", DType::I32),
    ("i8", DType::I64),
    ("b1", DType::Bool),
    ("f2", DType::F16),
    ("f8", DType::F64),
    ("u4", DType::U32),
    ("u8", DType::U64),
    ("V2", DType::BF16),
    // What newer `ml_dtypes` may write.
    ("bfloat16", DType::BF16),
    // Of an unknown type that is a byte; `ml_dtypes` has a code of its own for `float8_e5m2`.
    (BYTE, DType::U8),
    ("f1", DType::U8),
];

/// The code of the types that numpy has no name for, and that are a byte.
const BYTE: &str = "V1";

/// An array without its name.
pub struct Decoded {
    pub dtype: DType,
    pub shape: Vec<i64>,
    pub data: Vec<u8>,
}

/// Whether numpy has no name for a type that is no more than a byte.
pub fn is_nameless(dtype: DType) -> bool {
    dtype != DType::String && CODES.iter().all(|(_, of)| *of != dtype)
}

/// Strings as numpy has them: how many characters each has room for, and the elements.
pub fn encode(texts: &[&str]) -> (usize, Vec<u8>) {
    let width = texts.iter().map(|text| text.chars().count()).max().unwrap_or(0).max(1);
    let mut data = Vec::with_capacity(texts.len() * width * 4);
    for (i, text) in texts.iter().enumerate() {
        data.extend(text.chars().flat_map(|c| u32::from(c).to_le_bytes()));
        data.resize((i + 1) * width * 4, 0);
    }
    (width, data)
}

/// What a code of strings says: whether they are in UTF-32, and how many characters each has.
fn text_code(code: &str) -> Option<(bool, usize)> {
    let (wide, width) = match code.strip_prefix('U') {
        Some(width) => (true, width),
        None => (false, code.strip_prefix('S')?),
    };
    // Strings without any room would be as many as a header says.
    let width = width.parse().ok().filter(|width| *width > 0)?;
    Some((wide, width))
}

/// Elements of `size` bytes, in UTF-32 or in bytes, as [`crate::text_data`].
fn decode_texts(elements: &[u8], size: usize, wide: bool) -> Result<Vec<u8>, Error> {
    let mut texts = Vec::with_capacity(elements.len() / size);
    for element in elements.chunks_exact(size) {
        let text = if wide {
            let (characters, _) = element.as_chunks::<4>();
            let characters = characters.iter().map(|c| u32::from_le_bytes(*c));
            let text: Option<String> = characters.map(char::from_u32).collect();
            text.ok_or_else(|| Error("has a string with what is no character".to_owned()))?
        } else {
            let text = std::str::from_utf8(element);
            text.map_err(|_| Error("has a string that is not UTF-8".to_owned()))?
                .to_owned()
        };
        // numpy cannot tell these from what fills up either.
        texts.push(text.trim_end_matches('\0').to_owned());
    }
    Ok(crate::text_data(texts.iter().map(String::as_str)))
}

/// Everything before the elements: magic, version 1.0, dictionary, padding. `width` is the room for characters of strings.
pub fn header(dtype: DType, shape: &[i64], width: usize) -> Vec<u8> {
    let strings = format!("U{width}");
    let code = match dtype {
        DType::String => &strings,
        _ => CODES.iter().find(|(_, of)| *of == dtype).map_or(BYTE, |(code, _)| code),
    };
    let order = if dtype.size() == 1 { '|' } else { '<' };
    let mut text = format!("{{'descr': '{order}{code}', 'fortran_order': False, 'shape': (");
    for extent in shape {
        text.push_str(&format!("{extent}, "));
    }
    // A tuple of one needs its comma; longer ones must not end in a blank.
    if shape.len() > 1 {
        text.truncate(text.len() - 2);
    } else if shape.len() == 1 {
        text.truncate(text.len() - 1);
    }
    text.push_str("), }");
    let prefix = MAGIC.len() + 4;
    while !(prefix + text.len() + 1).is_multiple_of(ALIGNMENT) {
        text.push(' ');
    }
    text.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&[1, 0]);
    bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// Reads an array; big-endian and Fortran-order elements are converted.
pub fn decode(bytes: &[u8]) -> Result<Decoded, Error> {
    let (text, elements) = split(bytes).ok_or_else(|| Error("is not a .npy array".to_owned()))?;
    let header = Parser { rest: text }
        .dictionary()
        .ok_or_else(|| Error(format!("has a bad header {text:?}")))?;
    let (order, code) = header.descr.split_at_checked(1).unwrap_or_default();
    let (order, code) = if matches!(order, "<" | ">" | "|" | "=") {
        (order, code)
    } else {
        ("<", header.descr)
    };
    let number = CODES.iter().find(|(known, _)| *known == code).map(|(_, dtype)| *dtype);
    let (dtype, element, unit, wide) = match (number, text_code(code)) {
        (Some(dtype), _) => (dtype, dtype.size(), dtype.size(), None),
        (None, Some((true, width))) => (DType::String, width.saturating_mul(4), 4, Some(true)),
        (None, Some((false, width))) => (DType::String, width, 1, Some(false)),
        (None, None) => return Err(Error(format!("has dtype {:?}, which no model takes", header.descr))),
    };
    let count = header.shape.iter().try_fold(1usize, |count, &extent| {
        count.checked_mul(usize::try_from(extent).ok()?)
    });
    let size = count.and_then(|count| count.checked_mul(element));
    if size != Some(elements.len()) {
        let shape = &header.shape;
        return Err(Error(format!(
            "has {} bytes of elements, but shape {shape:?}",
            elements.len()
        )));
    }
    let mut data = elements.to_vec();
    if order == ">" {
        for element in data.chunks_exact_mut(unit) {
            element.reverse();
        }
    }
    if header.fortran && header.shape.len() > 1 {
        data = row_major(&data, &header.shape, element);
    }
    if let Some(wide) = wide {
        data = decode_texts(&data, element, wide)?;
    }
    Ok(Decoded {
        dtype,
        shape: header.shape,
        data,
    })
}

/// Header text and elements.
fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (length, rest) = match rest.first()? {
        1 => (
            usize::from(u16::from_le_bytes(rest.get(2..4)?.try_into().ok()?)),
            &rest[4..],
        ),
        2 | 3 => (
            u32::from_le_bytes(rest.get(2..6)?.try_into().ok()?) as usize,
            &rest[6..],
        ),
        _ => return None,
    };
    let (text, elements) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(text).ok()?, elements))
}

/// Column-major to row-major.
fn row_major(data: &[u8], shape: &[i64], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0; shape.len()];
    for _ in 0..data.len() / size {
        let mut at = 0;
        for axis in (0..shape.len()).rev() {
            at = at * shape[axis] as usize + index[axis];
        }
        out.extend_from_slice(&data[at * size..(at + 1) * size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] as usize {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// The dictionary's three entries.
struct Header<'a> {
    descr: &'a str,
    fortran: bool,
    shape: Vec<i64>,
}

/// Reads the one kind of Python literal that numpy writes.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn dictionary(mut self) -> Option<Header<'a>> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        self.token("{")?;
        while self.token("}").is_none() {
            let key = self.string()?;
            self.token(":")?;
            match key {
                "descr" => descr = Some(self.string()?),
                "fortran_order" => fortran = Some(self.boolean()?),
                "shape" => shape = Some(self.tuple()?),
                _ => return None,
            }
            if self.token(",").is_none() {
                self.token("}")?;
                break;
            }
        }
        Some(Header {
            descr: descr?,
            fortran: fortran?,
            shape: shape?,
        })
    }

    fn token(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(token)?;
        Some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_start();
        let quote = rest.chars().next().filter(|&quote| quote == '\'' || quote == '"')?;
        let (text, rest) = rest[1..].split_once(quote)?;
        self.rest = rest;
        Some(text)
    }

    fn boolean(&mut self) -> Option<bool> {
        if self.token("True").is_some() {
            Some(true)
        } else {
            self.token("False").map(|()| false)
        }
    }

    fn tuple(&mut self) -> Option<Vec<i64>> {
        self.token("(")?;
        let mut extents = Vec::new();
        while self.token(")").is_none() {
            let rest = self.rest.trim_start();
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            extents.push(rest[..digits].parse().ok()?);
            // Python 2 wrote long integers with a suffix.
            self.rest = rest[digits..].trim_start_matches('L');
            if self.token(",").is_none() {
                self.token(")")?;
                break;
            }
            if extents.len() > MAX_RANK {
                return None;
            }
        }
        Some(extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(dictionary: &str, elements: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x02\x00".to_vec();
        bytes.extend_from_slice(&(dictionary.len() as u32).to_le_bytes());
        bytes.extend_from_slice(dictionary.as_bytes());
        bytes.extend_from_slice(elements);
        bytes
    }

    #[test]
    fn header_is_padded_and_parses() {
        for shape in [&[][..], &[5], &[2, 3], &[1, 1, 1]] {
            let header = header(DType::F32, shape, 0);
            assert!(header.len().is_multiple_of(ALIGNMENT));
            assert_eq!(
                Parser {
                    rest: split(&header).unwrap().0
                }
                .dictionary()
                .unwrap()
                .shape,
                shape
            );
        }
        let text = String::from_utf8(header(DType::U8, &[5], 0)[10..].to_vec()).unwrap();
        assert!(
            text.starts_with("{'descr': '|u1', 'fortran_order': False, 'shape': (5,), }"),
            "{text}"
        );
    }

    #[test]
    fn fortran_order_is_converted() {
        let array = npy(
            "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }",
            &[1, 4, 2, 5, 3, 6],
        );
        assert_eq!(decode(&array).unwrap().data, [1, 2, 3, 4, 5, 6]);
        let array = npy(
            "{'shape':(2,1,2),'fortran_order':True,'descr':'<i2'}",
            &[1, 0, 3, 0, 2, 0, 4, 0],
        );
        assert_eq!(decode(&array).unwrap().data, [1, 0, 2, 0, 3, 0, 4, 0]);
    }

    #[test]
    fn big_endian_is_converted() {
        let array = npy(
            "{'descr': '>i2', 'fortran_order': False, 'shape': (2,), }",
            &[1, 2, 3, 4],
        );
        assert_eq!(decode(&array).unwrap().data, [2, 1, 4, 3]);
    }

    #[test]
    fn strings_of_one_width() {
        let dictionary = |descr: &str, fortran: &str| {
            format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': (2, 2), }}")
        };
        let wide = |text: &str| {
            text.chars()
                .flat_map(|c| u32::from(c).to_le_bytes())
                .collect::<Vec<u8>>()
        };
        let texts = |array: &[u8]| {
            let read = decode(array).unwrap();
            assert_eq!(read.dtype, DType::String);
            crate::texts(&read.data)
                .unwrap()
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let elements = wide("ab\0ä\0\0\0\0\0漢\0c");
        assert_eq!(
            texts(&npy(&dictionary("<U3", "False"), &elements)),
            ["ab", "ä", "", "漢\0c"]
        );
        assert_eq!(
            texts(&npy(&dictionary("<U3", "True"), &elements)),
            ["ab", "", "ä", "漢\0c"]
        );
        let turned: Vec<u8> = elements.chunks(4).flat_map(|c| c.iter().rev().copied()).collect();
        assert_eq!(
            texts(&npy(&dictionary(">U3", "False"), &turned)),
            ["ab", "ä", "", "漢\0c"]
        );
        assert_eq!(
            texts(&npy(&dictionary("|S2", "False"), "ab\0\0äc\0".as_bytes())),
            ["ab", "", "ä", "c"]
        );
        let refused = |descr: &str, elements: &[u8]| decode(&npy(&dictionary(descr, "False"), elements)).err().unwrap();
        assert!(refused("|S1", &[b'a', 0xff, b'b', b'c']).0.contains("not UTF-8"));
        assert!(refused("<U1", &[0xff; 16]).0.contains("no character"));
        for (descr, bytes) in [
            ("<U0", 0),
            ("|S0", 0),
            ("<U1", 15),
            ("<U4611686018427387905", 4),
            ("|O", 32),
        ] {
            assert!(
                decode(&npy(&dictionary(descr, "False"), &vec![0; bytes])).is_err(),
                "{descr}"
            );
        }
        let (width, data) = encode(&["ab", "", "漢"]);
        assert_eq!((width, data), (2, wide("ab\0\0漢\0")));
        assert_eq!(encode(&[]).0, 1);
    }

    #[test]
    fn bad_headers_are_refused() {
        for (dictionary, elements) in [
            ("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", 8),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", 4),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", 0),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4294967296), }",
                0,
            ),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", 4),
            ("{'descr': '<f4', 'shape': (1,), }", 4),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)", 4),
            ("{'descr': 'ä4', 'fortran_order': False, 'shape': (1,)}", 4),
            ("", 0),
        ] {
            assert!(decode(&npy(dictionary, &vec![0; elements])).is_err(), "{dictionary}");
        }
    }
}
