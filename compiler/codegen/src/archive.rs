//! Static libraries: the `ar` format with the index that linkers read, written here because `cc` is the only tool that
//! a user must have. (Format: the System V variant, `man 5 ar` of binutils.)
//!
//! Law: the bytes depend on names and contents of the members alone; time, owner and mode are constants.

use std::io::{self, Write};

/// A member: file name and bytes.
pub struct Member<'a> {
    pub name: String,
    pub data: &'a [u8],
}

/// Writes a static library. Members are indexed by the symbols that they define, if they are 64-bit little-endian ELF.
///
/// # Errors
/// Those of the writer; [`io::ErrorKind::InvalidInput`] when a member with symbols starts beyond 4 GiB, which the index
/// cannot say.
pub fn write(out: &mut impl Write, members: &[Member]) -> io::Result<()> {
    let symbols: Vec<Vec<&str>> = members
        .iter()
        .map(|member| global_symbols(member.data).unwrap_or_default())
        .collect();
    // Names of more than 15 bytes live in a member of their own.
    let mut long_names = String::new();
    let names: Vec<String> = members
        .iter()
        .map(|member| {
            if member.name.len() <= 15 {
                return format!("{}/", member.name);
            }
            let at = long_names.len();
            long_names.push_str(&member.name);
            long_names.push_str("/\n");
            format!("/{at}")
        })
        .collect();

    let count: usize = symbols.iter().map(Vec::len).sum();
    let index_bytes = 4 + 4 * count + symbols.iter().flatten().map(|name| name.len() + 1).sum::<usize>();
    let padded = |bytes: usize| HEADER + bytes.next_multiple_of(2);
    let mut at = MAGIC.len()
        + padded(index_bytes)
        + if long_names.is_empty() {
            0
        } else {
            padded(long_names.len())
        };
    let mut index = Vec::with_capacity(index_bytes);
    index.extend((count as u32).to_be_bytes());
    for (member, symbols) in members.iter().zip(&symbols) {
        let place = u32::try_from(at);
        if place.is_err() && !symbols.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a static library may not exceed 4 GiB",
            ));
        }
        for _ in symbols {
            index.extend(place.unwrap_or(0).to_be_bytes());
        }
        at += padded(member.data.len());
    }
    for name in symbols.iter().flatten() {
        index.extend(name.as_bytes());
        index.push(0);
    }

    out.write_all(MAGIC)?;
    member(out, "/", &index)?;
    if !long_names.is_empty() {
        member(out, "//", long_names.as_bytes())?;
    }
    for (name, one) in names.iter().zip(members) {
        member(out, name, one.data)?;
    }
    Ok(())
}

const MAGIC: &[u8] = b"!<arch>\n";

/// Bytes of a member's header.
const HEADER: usize = 60;

fn member(out: &mut impl Write, name: &str, data: &[u8]) -> io::Result<()> {
    // Name, time, owner, group, mode, size.
    let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 644, data.len());
    debug_assert_eq!(header.len(), HEADER);
    out.write_all(header.as_bytes())?;
    out.write_all(data)?;
    out.write_all(&b"\n"[..data.len() % 2])
}

/// Names that an object defines for others; `None` when it is no 64-bit little-endian ELF object.
#[must_use]
pub fn global_symbols(object: &[u8]) -> Option<Vec<&str>> {
    symbols(object, |defined, global| defined && global)
}

/// Names that an object needs from others; `None` as in [`global_symbols`].
#[must_use]
pub fn undefined_symbols(object: &[u8]) -> Option<Vec<&str>> {
    symbols(object, |defined, global| !defined && global)
}

fn symbols(object: &[u8], wanted: impl Fn(bool, bool) -> bool) -> Option<Vec<&str>> {
    /// `sh_type` of the symbol table.
    const SYMTAB: u64 = 2;
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(object.get(at..at.checked_add(bytes)?)?);
        Some(u64::from_le_bytes(word))
    };
    // 64-bit, little-endian.
    if object.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let sections = number(0x28, 8)? as usize;
    // Field `at` of section header `index`.
    let field = |index: usize, at: usize, bytes: usize| {
        number(index.checked_mul(64)?.checked_add(at)?.checked_add(sections)?, bytes)
    };
    let count = match number(0x3C, 2)? as usize {
        // Too many for 16 bits: the number is in section 0.
        0 => field(0, 0x20, 8)? as usize,
        count => count,
    };
    let table = (0..count)
        .map_while(|i| Some((i, field(i, 4, 4)?)))
        .find(|(_, kind)| *kind == SYMTAB)?
        .0;
    let span = |index: usize| -> Option<&[u8]> {
        let (offset, size) = (field(index, 0x18, 8)?, field(index, 0x20, 8)?);
        object.get(offset as usize..offset.checked_add(size)? as usize)
    };
    let strings = span(field(table, 0x28, 4)? as usize)?;
    let mut names = vec![];
    for symbol in span(table)?.chunks_exact(24) {
        let name = u32::from_le_bytes(symbol[..4].try_into().ok()?) as usize;
        let (binding, section) = (symbol[4] >> 4, u16::from_le_bytes([symbol[6], symbol[7]]));
        // Bindings 1 and 2: global and weak.
        if name != 0 && wanted(section != 0, (1..=2).contains(&binding)) {
            let text = strings.get(name..)?;
            let end = text.iter().position(|byte| *byte == 0)?;
            names.push(std::str::from_utf8(&text[..end]).ok()?);
        }
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format() {
        let mut out = vec![];
        let members = [
            Member {
                name: "short.o".into(),
                data: b"abc",
            },
            Member {
                name: "a_rather_long_name.o".into(),
                data: b"",
            },
        ];
        write(&mut out, &members).unwrap();
        let header = |name: &str, size: usize| format!("{name:<16}0           0     0     644     {size:<10}`\n");
        let text = [
            "!<arch>\n",
            &header("/", 4),
            "\0\0\0\0",
            &header("//", 22),
            "a_rather_long_name.o/\n",
            &header("short.o/", 3),
            "abc\n",
            &header("/0", 0),
        ];
        assert_eq!(String::from_utf8(out).unwrap(), text.concat());
    }

    #[test]
    fn strange_objects_have_no_symbols() {
        assert_eq!(global_symbols(b"text"), None);
        let mut object = crate::harness::object(&crate::Machine::new(None, "x86-64-v3").unwrap(), |module| {
            module.kernel("k", &crate::harness::ARGS, None, crate::Linkage::Export, |_, _| None);
        });
        assert_eq!(global_symbols(&object).unwrap(), ["k"]);
        for at in (0..64).chain((64..object.len()).step_by(7)) {
            let byte = object[at];
            object[at] = !byte;
            // No panic is all that is asked.
            let _ = (
                global_symbols(&object).is_some(),
                undefined_symbols(&object[..at]).is_some(),
            );
            object[at] = byte;
        }
    }
}
