//! Files of images as pixels: BMP, JPEG, JPEG 2000, PNG, PNM, TIFF and WebP, told apart by their first bytes.
//!
//! Laws: any bytes give pixels or an error, in memory that [`MAX_PIXELS`] bounds; [`size`] and [`decode`] agree. JPEG is decoded
//! as libjpeg-turbo does, bit by bit: ONNX defines the upsampling of colours by it.

use image::{ImageReader, Limits};
use libjpeg_turbo_rs::{DecodeLimits, DecodeWarning, Decoder, PixelFormat};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

mod c_api;
mod jpeg_2000;

/// Pixels of an image: beyond what cameras take; Pillow warns from 89 million on and refuses 179 million.
pub const MAX_PIXELS: u64 = 1 << 27;

/// Bytes that a decoder may have at one time: four channels of 16 bits.
const MAX_BYTES: u64 = 8 * MAX_PIXELS;

/// What a pixel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Rgb,
    Bgr,
    Grayscale,
}

impl Format {
    /// Every format with ONNX's name of it.
    pub const ALL: [(&'static str, Self); 3] = [("RGB", Self::Rgb), ("BGR", Self::Bgr), ("Grayscale", Self::Grayscale)];

    /// The format of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, format)| *format)
    }

    /// Bytes of a pixel.
    #[must_use]
    pub const fn channels(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Grayscale => 1,
        }
    }
}

/// Pixels in rows from the top, each from the left, without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    pub height: usize,
    pub width: usize,
    pub bytes: Vec<u8>,
}

/// Height and width, from the head of the file.
///
/// # Errors
/// Why it cannot be decoded, as far as its head tells.
pub fn size(file: &[u8]) -> Result<[usize; 2], String> {
    guarded(|| match Kind::of(file) {
        Kind::Jpeg => jpeg(file).and_then(|d| checked(d.header().width() as u64, d.header().height() as u64)),
        Kind::Jpeg2000 => jpeg_2000(file).map(|(_, size)| size),
        Kind::Other => {
            let (width, height) = reader(file)?.into_dimensions().map_err(|e| e.to_string())?;
            checked(width.into(), height.into())
        }
    })
}

/// All of it. What is not seen (opacity) is left out, what more than 8 bits tell is rounded, and the image is not turned as its
/// metadata may ask.
///
/// # Errors
/// Why it cannot be decoded.
pub fn decode(file: &[u8], format: Format) -> Result<Pixels, String> {
    let [height, width] = size(file)?;
    let mut bytes = guarded(|| match Kind::of(file) {
        Kind::Jpeg => {
            let image = jpeg(file)?.with_output_format(PixelFormat::Rgb).decode_image();
            let image = image.map_err(|e| e.to_string())?;
            let cut = |w: &DecodeWarning| matches!(w, DecodeWarning::TruncatedData { .. });
            match image.warnings.iter().find(|w| cut(w)) {
                Some(warning) => Err(warning.to_string()),
                None => Ok(image.data),
            }
        }
        Kind::Jpeg2000 => {
            let (image, _) = jpeg_2000(file)?;
            let mut memory = hayro_jpeg2000::DecoderContext::default();
            let decoded = image.decode(&mut memory).map_err(|e| e.to_string())?;
            let channels = decoded.components().len();
            Ok(colours(
                &decoded.data_u8(),
                channels,
                image.color_space().num_channels(),
            ))
        }
        Kind::Other => Ok(reader(file)?
            .decode()
            .map_err(|e| e.to_string())?
            .into_rgb8()
            .into_raw()),
    })?;
    if bytes.len() != height * width * 3 {
        return Err("it has not as many pixels as its head says".to_owned());
    }
    match format {
        Format::Rgb => {}
        Format::Bgr => bytes
            .as_chunks_mut::<3>()
            .0
            .iter_mut()
            .for_each(|pixel| pixel.reverse()),
        Format::Grayscale => bytes = bytes.as_chunks().0.iter().map(luma).collect(),
    }
    Ok(Pixels { height, width, bytes })
}

/// Who decodes it.
enum Kind {
    Jpeg,
    Jpeg2000,
    Other,
}

impl Kind {
    fn of(file: &[u8]) -> Self {
        // Of a JP2 file, and of a bare code stream.
        let heads: [&[u8]; 2] = [b"\x00\x00\x00\x0CjP  ", b"\xFF\x4F\xFF\x51"];
        if file.starts_with(b"\xFF\xD8\xFF") {
            Self::Jpeg
        } else if heads.iter().any(|head| file.starts_with(head)) {
            Self::Jpeg2000
        } else {
            Self::Other
        }
    }
}

fn jpeg(file: &[u8]) -> Result<Decoder<'_>, String> {
    let limits = DecodeLimits {
        max_pixels: MAX_PIXELS,
        max_memory: Some(MAX_BYTES),
        ..DecodeLimits::default()
    };
    Decoder::new_with_limits(file, limits).map_err(|e| e.to_string())
}

/// The image, not decoded yet, with height and width.
fn jpeg_2000(file: &[u8]) -> Result<(hayro_jpeg2000::Image<'_>, [usize; 2]), String> {
    jpeg_2000::check(file)?;
    let settings = hayro_jpeg2000::DecodeSettings::default();
    let image = hayro_jpeg2000::Image::new(file, &settings).map_err(|e| e.to_string())?;
    let size = checked(image.width().into(), image.height().into())?;
    match image.color_space().num_channels() {
        1 | 3 => Ok((image, size)),
        n => Err(format!("its pixels have {n} colours")),
    }
}

fn reader(file: &[u8]) -> Result<ImageReader<Cursor<&[u8]>>, String> {
    let reader = ImageReader::new(Cursor::new(file)).with_guessed_format();
    let mut reader = reader.map_err(|e| e.to_string())?;
    if reader.format().is_none() {
        return Err("it is no BMP, JPEG, JPEG 2000, PNG, PNM, TIFF or WebP file".to_owned());
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    Ok(reader)
}

fn checked(width: u64, height: u64) -> Result<[usize; 2], String> {
    match width.checked_mul(height) {
        Some(pixels) if pixels <= MAX_PIXELS => Ok([height as usize, width as usize]),
        _ => Err(format!("{width} x {height} pixels are more than {MAX_PIXELS}")),
    }
}

/// Red, green and blue of pixels with so many channels, of which the first `colours` are colours.
fn colours(bytes: &[u8], channels: usize, colours: u8) -> Vec<u8> {
    let pixels = bytes.chunks_exact(channels.max(1));
    match colours {
        3 if channels >= 3 => pixels.flat_map(|p| [p[0], p[1], p[2]]).collect(),
        _ => pixels.flat_map(|p| [p[0]; 3]).collect(),
    }
}

/// The luma of ITU-R BT.601, in parts of 2^16, rounded to nearest.
fn luma([r, g, b]: &[u8; 3]) -> u8 {
    let sum = 19595 * u32::from(*r) + 38470 * u32::from(*g) + 7471 * u32::from(*b);
    ((sum + (1 << 15)) >> 16) as u8
}

/// A decoder that panics has found bytes that its author did not think of.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("its decoder failed".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bitmap of 2 x 2 pixels: from below, as files have it, blue and green, then red and white.
    fn bmp() -> Vec<u8> {
        let mut file = b"BM".to_vec();
        let words: [u32; 13] = [70, 0, 54, 40, 2, 2, 1 | 24 << 16, 0, 16, 2835, 2835, 0, 0];
        file.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        file.extend([255, 0, 0, 0, 255, 0, 0, 0]);
        file.extend([0, 0, 255, 255, 255, 255, 0, 0]);
        file
    }

    #[test]
    fn formats_say_what_a_pixel_is() {
        assert_eq!(size(&bmp()), Ok([2, 2]));
        let bytes = |format| decode(&bmp(), format).expect("an image").bytes;
        assert_eq!(bytes(Format::Rgb), [255, 0, 0, 255, 255, 255, 0, 0, 255, 0, 255, 0]);
        assert_eq!(bytes(Format::Bgr), [0, 0, 255, 255, 255, 255, 255, 0, 0, 0, 255, 0]);
        assert_eq!(bytes(Format::Grayscale), [76, 255, 29, 150]);
    }

    #[test]
    fn portable_maps_of_each_kind() {
        let grey = decode(b"P5 3 1 255\n\x00\x80\xFF", Format::Rgb).expect("an image");
        assert_eq!((grey.height, grey.width), (1, 3));
        assert_eq!(grey.bytes, [0, 0, 0, 128, 128, 128, 255, 255, 255]);
        let bits = decode(b"P1 2 2\n1 0\n0 1\n", Format::Grayscale).expect("an image");
        assert_eq!(bits.bytes, [0, 255, 255, 0]);
        let colours = decode(b"P3 1 2 255\n1 2 3\n4 5 6\n", Format::Bgr).expect("an image");
        assert_eq!(
            ((colours.height, colours.width), colours.bytes),
            ((2, 1), vec![3, 2, 1, 6, 5, 4])
        );
    }

    #[test]
    fn what_is_no_image_says_so() {
        for (file, part) in [
            (&b""[..], "it is no BMP"),
            (b"GIF89a", "The image format Gif is not supported"),
            (b"\xFF\xD8\xFF", ""),
            (b"\xFF\x4F\xFF\x51", ""),
            (b"\x89PNG\r\n\x1A\n", ""),
            (b"P6 20000 20000 255\n", "20000 x 20000 pixels are more"),
        ] {
            let why = size(file).expect_err("no image");
            assert!(why.contains(part) && !why.is_empty(), "{why}");
            assert!(decode(file, Format::Rgb).is_err());
        }
    }

    #[test]
    fn half_a_file_is_an_error() {
        let file = bmp();
        for end in 0..file.len() - 2 {
            // The last two bytes fill a row up.
            assert!(decode(&file[..end], Format::Rgb).is_err(), "{end} bytes");
        }
    }
}
