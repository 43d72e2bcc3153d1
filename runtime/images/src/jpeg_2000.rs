//! What a JPEG 2000 code stream asks for, from its markers: its decoder takes memory for every tile, precinct and code block that
//! the head promises, and asks nobody (ISO/IEC 15444-1, annex A).

use crate::{MAX_BYTES, checked};

/// Samples of all components: a decoder has some 8 bytes for each.
const MAX_SAMPLES: u64 = MAX_BYTES / 8;

/// Tiles that the format can number.
const MAX_TILES: u64 = 65535;

/// Precincts and code blocks of all tiles: 134 million samples in blocks of 16 by 16.
const MAX_BLOCKS: u64 = 1 << 20;

/// Refuses what takes more memory than an image may.
///
/// # Errors
/// Why.
pub fn check(file: &[u8]) -> Result<(), String> {
    if file.starts_with(b"\xFF\x4F\xFF\x51") {
        return check_stream(file);
    }
    // Boxes of a JP2 file (annex I): which one is decoded, the decoder decides.
    let mut at = 0;
    while let (Some(size), Some(kind)) = (number(file, at, 4), file.get(at + 4..at + 8)) {
        let (head, size) = match size {
            0 => (8, u64::MAX),
            1 => (16, number(file, at + 8, 8).ok_or(CUT)?),
            size => (8, size),
        };
        if size < head {
            return Err("its boxes are damaged".to_owned());
        }
        let end = usize::try_from(size).map_or(file.len(), |size| at.saturating_add(size).min(file.len()));
        if kind == b"jp2c" {
            check_stream(&file[(at + head as usize).min(end)..end])?;
        }
        at = end;
    }
    Ok(())
}

const CUT: &str = "its head is cut";

/// What all components of an image have.
struct Image {
    samples: u64,
    /// Of all components.
    tiles: u64,
    components: u64,
}

fn check_stream(stream: &[u8]) -> Result<(), String> {
    // Behind the marker that begins it.
    let (mut image, mut at, mut tile_end) = (None, 2, None);
    while let Some(marker) = number(stream, at, 2) {
        let segment = |offset, bytes| number(stream, at + 4 + offset, bytes).ok_or(CUT);
        // The data of a tile end where its head said; without that they are the last.
        if let 0xFF93 | 0xFFD9 = marker {
            match tile_end.take() {
                Some(end) if end > at => at = end,
                Some(_) => return Err("its tiles are damaged".to_owned()),
                None => break,
            }
            continue;
        }
        let length = number(stream, at + 2, 2).ok_or(CUT)?;
        // Decoders go by what is in a segment, not by its length: the two must not differ.
        let means = match marker {
            0xFF51 => {
                image = Some(Image::read(&segment)?);
                38 + 3 * segment(34, 2)?
            }
            0xFF52 | 0xFF53 | 0xFF5E => {
                let image: &Image = image.as_ref().ok_or("its head is in disorder")?;
                let index = 1 + u64::from(image.components > 256);
                match marker {
                    0xFF52 => 12 + image.coding(&segment, 0, 5)?,
                    0xFF53 => 8 + index + image.coding(&segment, index as usize, index as usize + 1)?,
                    _ => 4 + index,
                }
            }
            // A whole number of step sizes.
            0xFF5C | 0xFF5D => {
                let wide = image.as_ref().is_some_and(|i: &Image| i.components > 256);
                let head = if marker == 0xFF5C { 0 } else { 1 + usize::from(wide) };
                let rest = length.checked_sub(3 + head as u64).ok_or(CUT)?;
                match segment(head, 1)? & 31 {
                    0 => length,
                    1 => length - rest + 2,
                    _ => length - rest % 2,
                }
            }
            0xFF90 => {
                let size = segment(2, 4)?;
                tile_end = (size > 0).then(|| at.saturating_add(size as usize));
                10
            }
            0xFF30..=0xFF3F => return Err("its head has a reserved marker".to_owned()),
            _ => length,
        };
        if length != means || length < 2 {
            return Err("its head is damaged".to_owned());
        }
        at += 2 + length as usize;
    }
    Ok(())
}

impl Image {
    fn read(segment: &impl Fn(usize, usize) -> Result<u64, &'static str>) -> Result<Self, String> {
        let (mut extents, mut tiles) = ([0, 0], 1u64);
        for (axis, extent) in extents.iter_mut().enumerate() {
            let of = |field: usize| segment(2 + 8 * field + 4 * axis, 4);
            let (end, start, size, first) = (of(0)?, of(1)?, of(2)?, of(3)?);
            *extent = end.saturating_sub(start);
            tiles = tiles.saturating_mul(end.saturating_sub(first).div_ceil(size.max(1)));
        }
        let [width, height] = extents;
        checked(width, height)?;
        let components = segment(34, 2)?;
        let samples = (width * height).saturating_mul(components);
        if samples > MAX_SAMPLES || tiles > MAX_TILES || tiles * components > MAX_BLOCKS {
            return Err(format!("{samples} samples in {tiles} tiles are too many"));
        }
        Ok(Self {
            samples,
            tiles: tiles * components,
            components,
        })
    }

    /// Refuses what is divided into too many parts, as if all components were coded in this way; else how many bytes the sizes
    /// of precincts take. `flags` and `levels` say where in the segment these are.
    fn coding(
        &self,
        segment: &impl Fn(usize, usize) -> Result<u64, &'static str>,
        flags: usize,
        levels: usize,
    ) -> Result<u64, String> {
        let count = segment(levels, 1)?;
        if count > 32 {
            return Err("its head is damaged".to_owned());
        }
        let mut block = (segment(levels + 1, 1)? & 15) + (segment(levels + 2, 1)? & 15) + 4;
        let (mut precincts, mut bytes) = (0, 0);
        if segment(flags, 1)? & 1 == 1 {
            bytes = count + 1;
            for level in 0..=count {
                let size = segment(levels + 5 + level as usize, 1)?;
                let area = (size & 15) + (size >> 4);
                // Of a quarter of it each of three bands has its part.
                block = block.min(area.saturating_sub(2));
                precincts += self.samples >> (2 * (count - level) + area).min(63);
            }
        }
        let least = self.tiles * (3 * count + 1);
        if (self.samples >> block) + precincts + least > MAX_BLOCKS {
            return Err("it is divided into too many parts".to_owned());
        }
        Ok(bytes)
    }
}

/// A number of so many bytes, the first one the highest.
fn number(bytes: &[u8], at: usize, count: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(count)?)?;
    Some(bytes.iter().fold(0, |sum, b| sum << 8 | u64::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A code stream without data: extents, extents of tiles, components; levels, exponents of code blocks, precincts.
    fn stream(image: [u32; 2], tile: [u32; 2], components: u16, coding: &[u8]) -> Vec<u8> {
        let mut out = b"\xFF\x4F\xFF\x51".to_vec();
        out.extend((38 + 3 * components).to_be_bytes());
        out.extend([0, 0]);
        for n in [image[0], image[1], 0, 0, tile[0], tile[1], 0, 0] {
            out.extend(n.to_be_bytes());
        }
        out.extend(components.to_be_bytes());
        out.extend([7, 1, 1].repeat(components.into()));
        out.extend(coded(0xFF52, &[0, 0, 1, 0], coding));
        out.extend([0xFF, 0xD9]);
        out
    }

    fn coded(marker: u16, between: &[u8], coding: &[u8]) -> Vec<u8> {
        let mut content = vec![u8::from(coding.len() > 3)];
        content.extend(between);
        content.extend(coding[..3].iter().chain(&[0, 1]).chain(&coding[3..]));
        let length = content.len() as u16 + 2;
        [&marker.to_be_bytes()[..], &length.to_be_bytes(), &content].concat()
    }

    fn in_boxes(streams: &[&[u8]]) -> Vec<u8> {
        let mut out = b"\0\0\0\x0CjP  \r\n\x87\n".to_vec();
        for stream in streams {
            out.extend((stream.len() as u32 + 8).to_be_bytes());
            out.extend(b"jp2c");
            out.extend(*stream);
        }
        out
    }

    #[test]
    fn large_demands_are_refused() {
        let plain = [5, 4, 4];
        let side = 11585;
        let good = stream([4000, 3000], [512, 512], 3, &plain);
        assert_eq!(check(&stream([4000, 3000], [4000, 3000], 3, &plain)), Ok(()));
        assert_eq!(check(&stream([64, 64], [64, 64], 1, &[0, 0, 0, 0x77])), Ok(()));
        assert_eq!(check(&good), Ok(()));
        assert_eq!(check(&in_boxes(&[&good])), Ok(()));
        let fine = stream([side, side], [side, side], 1, &[5, 0, 0]);
        // The second of two, behind one whose length says that it is part of it, and inside of a tile.
        let mut hidden = stream([side, side], [side, side], 1, &plain);
        let more = coded(0xFF52, &[0, 0, 1, 0], &[5, 0, 0]);
        let cod = hidden.len() - 14;
        hidden[cod + 1] += more.len() as u8;
        hidden.splice(hidden.len() - 2.., more.iter().copied());
        let mut later = stream([side, side], [side, side], 1, &plain);
        later.truncate(later.len() - 2);
        later.extend([0xFF, 0x90, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1]);
        later.extend(
            coded(0xFF53, &[], &[5, 0, 0])
                .iter()
                .enumerate()
                .flat_map(|(i, b)| match i {
                    // The component.
                    3 => vec![b + 1],
                    4 => vec![0, *b],
                    _ => vec![*b],
                }),
        );
        for (file, part) in [
            (stream([side, side], [1, 1], 1, &plain), "tiles"),
            (stream([side, side], [side, side], 3, &plain), "samples"),
            (stream([side * 2, side], [side, side], 1, &plain), "pixels"),
            (stream([side, side], [side, side], 1, &[0, 4, 4, 0]), "too many parts"),
            (
                stream([side, side], [side, side], 1, &[1, 4, 4, 0x11, 0x11]),
                "too many parts",
            ),
            (in_boxes(&[&good, &fine]), "too many parts"),
            (later, "too many parts"),
            (hidden, "damaged"),
            (fine, "too many parts"),
            (good[..30].to_vec(), "cut"),
        ] {
            let said = check(&file).expect_err(part);
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
