//! Typed views of the bytes that a model takes and gives.
#![expect(
    unsafe_code,
    reason = "the one place where slices of elements and slices of bytes are the same memory"
)]

use cameo_abi::DType;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;

/// A string that a tensor has, in the layout that the C interface has it in: borrowed UTF-8.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text<'a> {
    raw: cameo_abi::Text,
    /// Holding it proves that the bytes are UTF-8 and live as long.
    of: PhantomData<&'a str>,
}

// SAFETY: as `&str`, which it is made of.
unsafe impl Send for Text<'_> {}
// SAFETY: as above.
unsafe impl Sync for Text<'_> {}

impl<'a> Text<'a> {
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self {
            raw: cameo_abi::Text {
                data: text.as_ptr().cast(),
                size: text.len(),
            },
            of: PhantomData,
        }
    }

    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        // SAFETY: made of a `&'a str`.
        unsafe { core::str::from_utf8_unchecked(core::slice::from_raw_parts(self.raw.data.cast(), self.raw.size)) }
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self::new(text)
    }
}

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text<'_> {}

impl PartialEq<str> for Text<'_> {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

/// A Rust type that is the storage of a [`DType`].
///
/// # Safety
/// Every bit pattern is a value, there is no padding, and [`Element::DTYPE`] has the same size.
pub unsafe trait Element: Copy + 'static {
    /// The element type that it stores.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($ty:ty => $dtype:ident),*) => { $(
        // SAFETY: plain numbers of the same width.
        unsafe impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
        }
    )* };
}

elements!(f32 => F32, f64 => F64, u8 => U8, i8 => I8, u16 => U16, i16 => I16, i32 => I32, i64 => I64, u32 => U32,
          u64 => U64);

/// The integer, or bool as 0 or 1, or the bits of a float as `f64`, that these bytes begin with, in the machine's order; `None`
/// for other types and for fewer bytes. What is beyond `i64` is its largest.
#[must_use]
pub fn integer(dtype: DType, bytes: &[u8]) -> Option<i64> {
    macro_rules! first {
        ($ty:ty) => {
            Some(i64::try_from(<$ty>::from_ne_bytes(*bytes.first_chunk()?)).unwrap_or(i64::MAX))
        };
    }
    // All NaNs are one.
    let bits = |x: f64| (if x.is_nan() { f64::NAN } else { x }).to_bits() as i64;
    match dtype {
        DType::I64 => first!(i64),
        DType::I32 => first!(i32),
        DType::I16 => first!(i16),
        DType::I8 => first!(i8),
        DType::U64 => first!(u64),
        DType::U32 => first!(u32),
        DType::U16 => first!(u16),
        DType::U8 => first!(u8),
        DType::Bool => Some(i64::from(*bytes.first()? != 0)),
        DType::BF16 => Some(bits(
            f32::from_bits(u32::from(u16::from_ne_bytes(*bytes.first_chunk()?)) << 16).into(),
        )),
        DType::F16 => Some(bits(half(u16::from_ne_bytes(*bytes.first_chunk()?)))),
        DType::F32 => Some(bits(f32::from_ne_bytes(*bytes.first_chunk()?).into())),
        DType::F64 => Some(bits(f64::from_ne_bytes(*bytes.first_chunk()?))),
        _ => None,
    }
}

/// The number that has these bits as a float of 16 bits with five of exponent.
fn half(bits: u16) -> f64 {
    let (field, fraction) = (u64::from(bits >> 10 & 31), u64::from(bits & 1023));
    let size = match field {
        // Without the leading one, in steps of 2^-24.
        0 => fraction as f64 / 16_777_216.0,
        31 if fraction == 0 => f64::INFINITY,
        31 => f64::NAN,
        _ => f64::from_bits((field + 1008) << 52 | fraction << 42),
    };
    if bits >> 15 == 0 { size } else { -size }
}

/// A borrowed dense row-major tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    dtype: DType,
    shape: &'a [i64],
    bytes: &'a [u8],
    /// Whether the bytes are known to be [`Text`]s: others, which anybody could have made, lead nowhere.
    are_texts: bool,
}

impl<'a> TensorView<'a> {
    /// Elements of a Rust type. Whether `shape` fits `elements` is checked where the view is used.
    #[must_use]
    pub fn new<T: Element>(elements: &'a [T], shape: &'a [i64]) -> Self {
        // SAFETY: `Element` types have no padding, so all their bytes are initialised; the lifetime is the same.
        let bytes = unsafe { core::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) };
        Self {
            dtype: T::DTYPE,
            shape,
            bytes,
            are_texts: false,
        }
    }

    /// Strings. Whether `shape` fits them is checked where the view is used.
    #[must_use]
    pub const fn texts(texts: &'a [Text<'a>], shape: &'a [i64]) -> Self {
        // SAFETY: `Text` is a pointer and a size without padding; the lifetime is the same.
        let bytes = unsafe { core::slice::from_raw_parts(texts.as_ptr().cast(), size_of_val(texts)) };
        Self {
            dtype: DType::String,
            shape,
            bytes,
            are_texts: true,
        }
    }

    /// The strings; `None` of any other type, and of bytes that were not made by [`TensorView::texts`].
    #[must_use]
    pub fn as_texts(&self) -> Option<&'a [Text<'a>]> {
        // SAFETY: made of such a slice.
        self.are_texts.then(|| unsafe {
            core::slice::from_raw_parts(self.bytes.as_ptr().cast(), self.bytes.len() / size_of::<Text<'_>>())
        })
    }

    /// Elements of any type as bytes in the machine's order; booleans are bytes of 0 or 1, halves are two bytes, elements of
    /// less than a byte are packed ([`DType::bits`]). Strings are no bytes: a context refuses such a view of them.
    #[must_use]
    pub const fn from_bytes(dtype: DType, bytes: &'a [u8], shape: &'a [i64]) -> Self {
        Self {
            dtype,
            shape,
            bytes,
            are_texts: false,
        }
    }

    /// Element type.
    #[must_use]
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extent of each axis, outermost first.
    #[must_use]
    pub const fn shape(&self) -> &'a [i64] {
        self.shape
    }

    /// The storage.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements, or `None` when `T` is not the storage of this dtype or the bytes are not aligned for it.
    #[must_use]
    pub fn elements<T: Element>(&self) -> Option<&'a [T]> {
        if T::DTYPE != self.dtype || !self.bytes.as_ptr().cast::<T>().is_aligned() {
            return None;
        }
        // SAFETY: aligned as just checked, every bit pattern is a `T`, and the length is rounded down.
        Some(unsafe { core::slice::from_raw_parts(self.bytes.as_ptr().cast(), self.bytes.len() / size_of::<T>()) })
    }
}

/// Bytes of a dense tensor, `None` when an extent is negative or the product overflows the address space.
pub fn byte_size(dtype: DType, shape: impl IntoIterator<Item = i64>) -> Option<usize> {
    // Of elements that share bytes, the bytes are as good as counted by elements: there are fewer of them.
    let mut bytes = dtype.size();
    let mut empty = false;
    for extent in shape {
        let extent = usize::try_from(extent).ok()?;
        empty |= extent == 0;
        // Zero extents count last, so that an overflow elsewhere in the shape does not depend on their position.
        bytes = bytes
            .checked_mul(extent.max(1))
            .filter(|&bytes| bytes <= isize::MAX as usize)?;
    }
    let shared = dtype.size() * 8 / dtype.bits();
    Some(if empty { 0 } else { bytes.div_ceil(shared) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views() {
        let view = TensorView::new(&[1.5f32, 2.5], &[2]);
        assert_eq!(view.bytes().len(), 8);
        assert_eq!(view.elements::<f32>().unwrap(), [1.5, 2.5]);
        assert!(view.elements::<i32>().is_none());
        let words = [0u64; 2];
        let bytes = &TensorView::new(&words, &[2]).bytes()[1..9];
        assert!(
            TensorView::from_bytes(DType::F32, bytes, &[2])
                .elements::<f32>()
                .is_none()
        );
    }

    #[test]
    fn strings() {
        let texts = [Text::new("ä"), Text::from("")];
        let view = TensorView::texts(&texts, &[2]);
        assert_eq!((view.dtype(), view.bytes().len()), (DType::String, 32));
        assert_eq!(view.as_texts().unwrap(), texts);
        assert_eq!((&*texts[0], texts[0] == *"ä"), ("ä", true));
        assert!(
            TensorView::from_bytes(DType::String, view.bytes(), &[2])
                .as_texts()
                .is_none()
        );
        assert!(TensorView::new(&[1u64, 1], &[1]).as_texts().is_none());
    }

    #[test]
    fn elements_as_integers() {
        let bits = |x: f64| x.to_bits() as i64;
        let all = [
            (DType::I8, integer(DType::I8, &[0xff]), -1),
            (DType::U64, integer(DType::U64, &[0xff; 8]), i64::MAX),
            (DType::F32, integer(DType::F32, &(-0.75f32).to_ne_bytes()), bits(-0.75)),
            (DType::BF16, integer(DType::BF16, &0x3fc0u16.to_ne_bytes()), bits(1.5)),
            (DType::F16, integer(DType::F16, &0xc100u16.to_ne_bytes()), bits(-2.5)),
            (
                DType::F16,
                integer(DType::F16, &0x0001u16.to_ne_bytes()),
                bits(2f64.powi(-24)),
            ),
            (
                DType::F64,
                integer(DType::F64, &(-f64::NAN).to_ne_bytes()),
                bits(f64::NAN),
            ),
        ];
        for (dtype, got, expected) in all {
            assert_eq!(got, Some(expected), "{dtype:?}");
        }
        assert_eq!(integer(DType::F32, &[0; 3]), None);
    }

    #[test]
    fn sizes() {
        assert_eq!(byte_size(DType::F32, [2, 3]), Some(24));
        assert_eq!(byte_size(DType::F64, []), Some(8));
        assert_eq!(byte_size(DType::U8, [0, 5]), Some(0));
        assert_eq!(byte_size(DType::I4, [3, 5]), Some(8));
        assert_eq!(byte_size(DType::U2, []), Some(1));
        assert_eq!(byte_size(DType::U2, [8, 0]), Some(0));
        assert_eq!(byte_size(DType::F8E5M2, [3, 5]), Some(15));
        assert_eq!(byte_size(DType::U8, [-1]), None);
        assert_eq!(byte_size(DType::U8, [1 << 40, 1 << 40, 0]), None);
    }
}
