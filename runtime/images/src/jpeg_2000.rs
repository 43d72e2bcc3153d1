//! What a JPEG 2000 code stream asks for, from its markers: its decoder takes memory for every tile, precinct and code block that
//! the head promises, and asks nobody (ISO/IEC 15444-1, annex A).

use crate::{MAX_BYTES, checked};

/// Samples of all components: a decoder has some 8 bytes for each.
const MAX_SAMPLES: u64 = MAX_BYTES / 8;

/// Tiles that the format can number.
const MAX_TILES: u64 = 65535;

/// Precincts and code blocks of all tiles: 134 million samples in blocks of 16 by 16.
const MAX_BLOCKS: u64 = 1 << 19;

const START: &[u8] = b"\xFF\x4F\xFF\x51";

/// Refuses what takes more memory than an image may.
///
/// # Errors
/// Why.
pub fn check(file: &[u8]) -> Result<(), String> {
    let start = file
        .windows(4)
        .position(|w| w == START)
        .ok_or("it has no code stream")?;
    let stream = &file[start + 2..];
    let (mut image, mut at, mut tile_end) = (None, 0, None);
    while let Some(marker) = number(stream, at, 2) {
        let segment = |offset, bytes| number(stream, at + 4 + offset, bytes).ok_or("its head is cut");
        match marker {
            // The end.
            0xFFD9 => break,
            // Data of a tile: the next one begins where the head of this one said.
            0xFF93 => match tile_end {
                Some(end) if end > at => {
                    at = end;
                    continue;
                }
                _ => break,
            },
            0xFF51 => {
                let extent = |i: usize| -> Result<u64, &str> {
                    Ok(segment(2 + 4 * i, 4)?.saturating_sub(segment(10 + 4 * i, 4)?))
                };
                let tiles = |i: usize| -> Result<u64, &str> {
                    let (end, first, size) = (segment(2 + 4 * i, 4)?, segment(26 + 4 * i, 4)?, segment(18 + 4 * i, 4)?);
                    Ok(end.saturating_sub(first).div_ceil(size.max(1)))
                };
                let components = segment(34, 2)?;
                let (width, height) = (extent(0)?, extent(1)?);
                checked(width, height)?;
                let samples = (width * height).saturating_mul(components);
                let tiles = tiles(0)?.saturating_mul(tiles(1)?);
                if samples > MAX_SAMPLES || tiles > MAX_TILES || tiles.saturating_mul(components) > MAX_BLOCKS {
                    return Err(format!("{samples} samples in {tiles} tiles are too many"));
                }
                image = Some((samples, tiles * components, components));
            }
            // How all components, or one, are coded.
            0xFF52 | 0xFF53 => {
                let (samples, tiles, components) = image.ok_or("its head is in disorder")?;
                // Where the flags are, and where the number of levels is.
                let (flags, base) = match (marker, components > 256) {
                    (0xFF52, _) => (0, 5),
                    (_, false) => (1, 2),
                    (_, true) => (2, 3),
                };
                let levels = segment(base, 1)?.min(32);
                let exponent = |i: usize| -> Result<u64, &str> { Ok((segment(base + i, 1)? & 15) + 2) };
                let mut block = exponent(1)? + exponent(2)?;
                let mut precincts = 0;
                if segment(flags, 1)? & 1 == 1 {
                    for level in 0..=levels {
                        let size = segment(base + 5 + level as usize, 1)?;
                        let area = (size & 15) + (size >> 4);
                        // Of a quarter of it each of three bands has its part.
                        block = block.min(area.saturating_sub(2));
                        precincts += samples >> (2 * (levels - level) + area).min(63);
                    }
                }
                let blocks = (samples >> block).saturating_mul(2);
                let least = tiles.saturating_mul(3 * levels + 1);
                if blocks.saturating_add(precincts).saturating_add(least) > MAX_BLOCKS * 2 {
                    return Err("it is divided into too many parts".to_owned());
                }
            }
            0xFF90 => {
                let length = segment(2, 4)?;
                tile_end = (length > 0).then(|| at.saturating_add(length as usize));
            }
            _ => {}
        }
        at += 2 + number(stream, at + 2, 2).ok_or("its head is cut")? as usize;
    }
    Ok(())
}

/// A number of so many bytes, the first one the highest.
fn number(bytes: &[u8], at: usize, count: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(count)?)?;
    Some(bytes.iter().fold(0, |sum, b| sum << 8 | u64::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of a code stream: extents, extents of tiles, components; levels, exponents of code blocks, precincts.
    fn head(image: [u32; 2], tile: [u32; 2], components: u16, coding: &[u8]) -> Vec<u8> {
        let mut out = START.to_vec();
        out.extend((38 + 3 * components).to_be_bytes());
        out.extend([0, 0]);
        for n in [image[0], image[1], 0, 0, tile[0], tile[1], 0, 0] {
            out.extend(n.to_be_bytes());
        }
        out.extend(components.to_be_bytes());
        out.extend([7, 1, 1].repeat(components.into()));
        let precincts = u8::from(coding.len() > 3);
        out.extend([0xFF, 0x52, 0, (12 + coding.len() - 3) as u8, precincts, 0, 0, 1, 0]);
        out.extend(coding[..3].iter().chain(&[0, 1]).chain(&coding[3..]));
        out.extend([0xFF, 0xD9]);
        out
    }

    #[test]
    fn large_demands_are_refused() {
        let plain = [5, 4, 4];
        let side = 11585;
        assert_eq!(check(&head([4000, 3000], [4000, 3000], 3, &plain)), Ok(()));
        assert_eq!(check(&head([4000, 3000], [512, 512], 3, &plain)), Ok(()));
        assert_eq!(check(&head([64, 64], [64, 64], 1, &[0, 0, 0, 0x77])), Ok(()));
        for (file, part) in [
            (head([side, side], [1, 1], 1, &plain), "tiles"),
            (head([side, side], [side, side], 3, &plain), "samples"),
            (head([side * 2, side], [side, side], 1, &plain), "pixels"),
            (head([side, side], [side, side], 1, &[5, 0, 0]), "too many parts"),
            (head([side, side], [side, side], 1, &[0, 4, 4, 0]), "too many parts"),
            (
                head([side, side], [side, side], 1, &[1, 4, 4, 0x11, 0x11]),
                "too many parts",
            ),
            (head([4, 4], [4, 4], 1, &plain)[..30].to_vec(), "cut"),
            (vec![1, 2, 3], "no code stream"),
        ] {
            let said = check(&file).expect_err(part);
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
