//! A dense tensor with static shape: a weight, a constant, or a value in the interpreter.
//!
//! The bytes are a slice of a mapped file or of memory, shared and never copied by cloning. They are little-endian and
//! row-major, and need not be aligned. Elements of less than a byte have one each ([`crate::narrow`]).

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use cameo_abi::text_handle;

use crate::{DType, Dim, Fact, narrow};

#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
    texts: Texts,
}

/// The texts behind the handles of strings, and maybe others.
///
/// A string is to kernels a number of 64 bits, a hash of its bytes and 0 for no bytes: moving and comparing numbers moves and
/// compares strings. What the texts are goes along with tensors. Equal handles are equal strings: a table never has two texts
/// for one.
#[derive(Clone, Default)]
pub struct Texts(Option<Arc<BTreeMap<u64, Arc<str>>>>);

impl Texts {
    /// # Errors
    /// Two of the texts cannot be told apart.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for text in texts {
            enter(&mut all, text_handle(text.as_bytes()), &text.into())?;
        }
        Ok(Self((!all.is_empty()).then(|| Arc::new(all))))
    }

    /// Those of both.
    ///
    /// # Errors
    /// Two of the texts cannot be told apart.
    pub fn join(&mut self, other: &Self) -> Result<(), String> {
        match (&mut self.0, &other.0) {
            (_, None) => {}
            (Some(own), Some(others)) if Arc::ptr_eq(own, others) => {}
            (Some(own), Some(others)) => {
                let all = Arc::make_mut(own);
                for (handle, text) in others.iter() {
                    enter(all, *handle, text)?;
                }
            }
            (own @ None, others) => own.clone_from(others),
        }
        Ok(())
    }

    pub fn get(&self, handle: u64) -> Option<&str> {
        match &self.0 {
            _ if handle == 0 => Some(""),
            Some(all) => all.get(&handle).map(|t| &**t),
            None => None,
        }
    }

    /// In the order of their handles.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().flat_map(|all| all.values())
    }
}

fn enter(all: &mut BTreeMap<u64, Arc<str>>, handle: u64, text: &Arc<str>) -> Result<(), String> {
    let there = all.entry(handle).or_insert_with(|| text.clone());
    if there == text {
        return Ok(());
    }
    Err(format!(
        "the strings {there:?} and {text:?} have the same handle and cannot be told apart"
    ))
}

// Handles tell tensors apart: which further texts are known does not.
impl PartialEq for Texts {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Texts {}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Hash for Texts {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// The byte count does not fit shape and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeMismatch {
    pub expected: Option<usize>,
    pub got: usize,
}

impl Tensor {
    pub fn new(dtype: DType, shape: Vec<usize>, data: Bytes) -> Result<Self, SizeMismatch> {
        let expected = shape.iter().try_fold(dtype.size(), |a, d| a.checked_mul(*d));
        if expected != Some(data.len()) {
            return Err(SizeMismatch {
                expected,
                got: data.len(),
            });
        }
        Ok(Self {
            dtype,
            shape,
            data,
            texts: Texts::default(),
        })
    }

    /// From bytes as files and callers have them: elements of less than a byte are packed.
    pub fn from_packed(dtype: DType, shape: Vec<usize>, data: Bytes) -> Result<Self, SizeMismatch> {
        if dtype.bits() >= 8 {
            return Self::new(dtype, shape, data);
        }
        let count = shape.iter().try_fold(1usize, |a, d| a.checked_mul(*d));
        match count {
            Some(n) if narrow::packed_len(dtype, n) == data.len() => {
                Self::new(dtype, shape, narrow::unpack(dtype, &data, n).into())
            }
            _ => Err(SizeMismatch {
                expected: count.map(|n| narrow::packed_len(dtype, n)),
                got: data.len(),
            }),
        }
    }

    /// The bytes as files and callers have them.
    pub fn packed(&self) -> Bytes {
        if self.dtype.bits() < 8 {
            narrow::pack(self.dtype, &self.data).into()
        } else {
            self.data.clone()
        }
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn bytes(&self) -> &Bytes {
        &self.data
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len() / self.dtype.size()
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Strings.
    ///
    /// # Errors
    /// Two of them cannot be told apart.
    ///
    /// # Panics
    /// When their number does not fit the shape.
    pub fn strings<'a>(shape: &[usize], texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let texts: Vec<&str> = texts.into_iter().collect();
        let handles = texts.iter().map(|t| text_handle(t.as_bytes()).to_le_bytes());
        let mut tensor = Self::from_chunks(DType::String, shape, handles);
        tensor.texts = Texts::of(texts)?;
        Ok(tensor)
    }

    /// The strings; `None` of other types, and where the text of a handle is not known.
    pub fn to_texts(&self) -> Option<Vec<&str>> {
        let of = |b: &[u8]| self.texts.get(le_u64(b));
        (self.dtype == DType::String).then(|| self.data.chunks_exact(8).map(of).collect::<Option<_>>())?
    }

    pub fn texts(&self) -> &Texts {
        &self.texts
    }

    /// With more texts: those that its elements may come from. Nothing for other types.
    ///
    /// # Errors
    /// Two of the texts cannot be told apart.
    pub fn with_texts(mut self, more: &Texts) -> Result<Self, String> {
        if self.dtype == DType::String {
            self.texts.join(more)?;
        }
        Ok(self)
    }

    /// The same bytes in another shape of equal element count.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Self, SizeMismatch> {
        self.like(shape, self.data.clone())
    }

    /// Of the same type, with elements that come from this one.
    pub fn like(&self, shape: Vec<usize>, data: Bytes) -> Result<Self, SizeMismatch> {
        let texts = self.texts.clone();
        Ok(Self {
            texts,
            ..Self::new(self.dtype, shape, data)?
        })
    }

    /// The tensor of `shape` whose element at each index is the one here at the linear position that `source` gives, or the
    /// element of `fill` (zero when absent) where it gives `None`.
    ///
    /// # Panics
    /// When a position is out of range.
    pub fn rearranged(
        &self,
        shape: &[usize],
        fill: Option<&Self>,
        mut source: impl FnMut(&[usize]) -> Option<usize>,
    ) -> Self {
        let size = self.dtype.size();
        let zero = [0u8; 8];
        let fill = fill.map_or(&zero[..size], |t| &t.data[..size]);
        let mut data = Vec::with_capacity(shape.iter().product::<usize>() * size);
        crate::index::for_each(shape, |ix| match source(ix) {
            Some(p) => data.extend_from_slice(&self.data[p * size..][..size]),
            None => data.extend_from_slice(fill),
        });
        Self {
            dtype: self.dtype,
            shape: shape.to_vec(),
            data: data.into(),
            texts: self.texts.clone(),
        }
    }

    pub fn fact(&self) -> Fact {
        let shape: Vec<Dim> = self.shape.iter().map(|d| Dim::from(*d)).collect();
        if self.dtype.is_float() || self.dtype == DType::String || self.len() > Fact::KNOWN_MAX {
            return Fact::new(self.dtype, shape);
        }
        Fact::with_known(self.dtype, shape, self.to_i64().into_iter().map(Dim::from).collect())
    }

    fn from_chunks<const N: usize>(dtype: DType, shape: &[usize], items: impl Iterator<Item = [u8; N]>) -> Self {
        let mut data = Vec::with_capacity(items.size_hint().0 * N);
        items.for_each(|b| data.extend_from_slice(&b));
        assert_eq!(
            data.len(),
            shape.iter().product::<usize>() * dtype.size(),
            "element count must fit the shape"
        );
        Self {
            dtype,
            shape: shape.to_vec(),
            data: data.into(),
            texts: Texts::default(),
        }
    }

    /// # Panics
    /// When the number of elements does not fit the shape.
    pub fn f32(shape: &[usize], v: impl IntoIterator<Item = f32>) -> Self {
        Self::from_chunks(DType::F32, shape, v.into_iter().map(f32::to_le_bytes))
    }

    /// # Panics
    /// As [`Tensor::f32`].
    pub fn i64(shape: &[usize], v: impl IntoIterator<Item = i64>) -> Self {
        Self::from_chunks(DType::I64, shape, v.into_iter().map(i64::to_le_bytes))
    }

    /// # Panics
    /// As [`Tensor::f32`].
    pub fn bool(shape: &[usize], v: impl IntoIterator<Item = bool>) -> Self {
        Self::from_chunks(DType::Bool, shape, v.into_iter().map(|b| [u8::from(b)]))
    }

    /// Converts from `f64`: floats round to nearest even ([`narrow::encode`]), integers truncate and saturate, bool is `!= 0`.
    /// Integers of less than a byte saturate as `i32` and wrap.
    ///
    /// # Panics
    /// As [`Tensor::f32`].
    pub fn from_f64(dtype: DType, shape: &[usize], v: impl IntoIterator<Item = f64>) -> Self {
        let mut data = vec![];
        for x in v {
            match dtype {
                DType::F32 => data.extend((x as f32).to_le_bytes()),
                DType::F64 => data.extend(x.to_le_bytes()),
                DType::F16 => data.extend(f32_to_f16(x as f32).to_le_bytes()),
                DType::BF16 => data.extend(f32_to_bf16(x as f32).to_le_bytes()),
                DType::U8 => data.push(x as u8),
                DType::I8 => data.extend((x as i8).to_le_bytes()),
                DType::U16 => data.extend((x as u16).to_le_bytes()),
                DType::I16 => data.extend((x as i16).to_le_bytes()),
                DType::U32 => data.extend((x as u32).to_le_bytes()),
                DType::I32 => data.extend((x as i32).to_le_bytes()),
                DType::U64 | DType::String => data.extend((x as u64).to_le_bytes()),
                DType::I64 => data.extend((x as i64).to_le_bytes()),
                DType::Bool => data.push(u8::from(x != 0.0)),
                _ if dtype.is_float() => data.push(narrow::encode(dtype, x)),
                _ => data.push(narrow::wrapped(dtype, (x as i32).into()) as u8),
            }
        }
        assert_eq!(
            data.len(),
            shape.iter().product::<usize>() * dtype.size(),
            "element count must fit the shape"
        );
        Self {
            dtype,
            shape: shape.to_vec(),
            data: data.into(),
            texts: Texts::default(),
        }
    }

    /// Converts from `i64`: integers wrap, floats round, bool is `!= 0`.
    ///
    /// # Panics
    /// As [`Tensor::f32`].
    pub fn from_i64(dtype: DType, shape: &[usize], v: impl IntoIterator<Item = i64>) -> Self {
        if dtype.is_float() {
            return Self::from_f64(dtype, shape, v.into_iter().map(|x| x as f64));
        }
        let mut data = vec![];
        for x in v {
            match dtype {
                DType::Bool => data.push(u8::from(x != 0)),
                _ if dtype.is_narrow() => data.push(narrow::wrapped(dtype, x) as u8),
                _ => data.extend(&x.to_le_bytes()[..dtype.size()]),
            }
        }
        assert_eq!(
            data.len(),
            shape.iter().product::<usize>() * dtype.size(),
            "element count must fit the shape"
        );
        Self {
            dtype,
            shape: shape.to_vec(),
            data: data.into(),
            texts: Texts::default(),
        }
    }

    /// All elements as `f64` (exact but for 64-bit integers beyond 2^53).
    pub fn to_f64(&self) -> Vec<f64> {
        let d = &self.data;
        match self.dtype {
            DType::F32 => d
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into())
                .collect(),
            DType::F64 => d.chunks_exact(8).map(|b| f64::from_bits(le_u64(b))).collect(),
            DType::F16 => d
                .chunks_exact(2)
                .map(|b| f16_to_f32(u16::from_le_bytes([b[0], b[1]])).into())
                .collect(),
            DType::BF16 => d
                .chunks_exact(2)
                .map(|b| bf16_to_f32(u16::from_le_bytes([b[0], b[1]])).into())
                .collect(),
            DType::U64 | DType::String => d.chunks_exact(8).map(|b| le_u64(b) as f64).collect(),
            t if t.is_float() => d.iter().map(|b| narrow::decode(t, *b).into()).collect(),
            _ => self.to_i64().into_iter().map(|x| x as f64).collect(),
        }
    }

    /// All elements as `f32`.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::F32 => self
                .data
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            _ => self.to_f64().into_iter().map(|x| x as f32).collect(),
        }
    }

    /// All elements as `i64` (floats truncate and saturate, `u64` wraps).
    pub fn to_i64(&self) -> Vec<i64> {
        let d = &self.data;
        match self.dtype {
            DType::U8 | DType::Bool => d.iter().map(|b| i64::from(*b)).collect(),
            DType::I8 => d.iter().map(|b| i64::from(*b as i8)).collect(),
            DType::U16 => d
                .chunks_exact(2)
                .map(|b| u16::from_le_bytes([b[0], b[1]]).into())
                .collect(),
            DType::I16 => d
                .chunks_exact(2)
                .map(|b| i16::from_le_bytes([b[0], b[1]]).into())
                .collect(),
            DType::U32 => d
                .chunks_exact(4)
                .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]).into())
                .collect(),
            DType::I32 => d
                .chunks_exact(4)
                .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]).into())
                .collect(),
            DType::U64 | DType::I64 | DType::String => d.chunks_exact(8).map(|b| le_u64(b) as i64).collect(),
            t if t.bits() < 8 && !t.is_float() => d.iter().map(|b| narrow::wrapped(t, i64::from(*b)).into()).collect(),
            _ => self.to_f64().into_iter().map(|x| x as i64).collect(),
        }
    }

    /// The element of a tensor that has exactly one.
    pub fn scalar_f64(&self) -> Option<f64> {
        (self.len() == 1).then(|| self.to_f64()[0])
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)?;
        match self.to_texts() {
            Some(texts) if texts.len() <= 16 => write!(f, " {texts:?}")?,
            None if self.len() <= 16 => write!(f, " {:?}", self.to_f64())?,
            _ => {}
        }
        Ok(())
    }
}

fn le_u64(b: &[u8]) -> u64 {
    let mut a = [0; 8];
    a.copy_from_slice(&b[..8]);
    u64::from_le_bytes(a)
}

/// IEEE 754 binary16, exact.
pub fn f16_to_f32(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    let (exp, man) = (u32::from(h >> 10) & 31, u32::from(h) & 0x3ff);
    match exp {
        0 => f32::from_bits(sign | (man as f32 * 2f32.powi(-24)).to_bits()),
        31 => f32::from_bits(sign | 0x7f80_0000 | (man << 13)),
        _ => f32::from_bits(sign | ((exp + 112) << 23) | (man << 13)),
    }
}

/// Rounds to nearest even; overflow gives infinity.
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let abs = bits & 0x7fff_ffff;
    if abs > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    // 65520 is halfway between the largest half and the next step: rounds to infinity.
    if abs >= 0x477f_f000 {
        return sign | 0x7c00;
    }
    if abs < 0x3880_0000 {
        // Subnormal: units of 2^-24, rounded by the float addition of 0.5 (whose ulp is 2^-24).
        let r = f32::from_bits(abs) + 0.5;
        return sign | (r.to_bits() - 0.5f32.to_bits()) as u16;
    }
    let round = 0xfff + ((abs >> 13) & 1);
    sign | ((abs - (112 << 23) + round) >> 13) as u16
}

/// Exact.
pub fn bf16_to_f32(b: u16) -> f32 {
    f32::from_bits(u32::from(b) << 16)
}

/// Rounds to nearest even.
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_round_trips() {
        for h in 0..=u16::MAX {
            let x = f16_to_f32(h);
            if !x.is_nan() {
                assert_eq!(f32_to_f16(x), h);
            }
        }
        assert_eq!(f32_to_f16(65520.0), 0x7c00);
        assert_eq!(f32_to_f16(2f32.powi(-25)), 0, "ties go to even");
        assert_eq!(f32_to_f16(2f32.powi(-25) * 1.5), 1);
    }

    #[test]
    fn strings_are_handles_with_texts() {
        let t = Tensor::strings(&[2, 2], ["a", "", "ünï", "a"]).expect("different");
        assert_eq!(t.to_texts().expect("known"), ["a", "", "ünï", "a"]);
        let handles = t.to_i64();
        assert_eq!((handles[0], handles[1]), (handles[3], 0));
        assert_eq!(t.fact(), Fact::new(DType::String, [2usize, 2].map(Dim::from)));
        // Texts go along, and do not make a difference.
        let bare = Tensor::new(DType::String, vec![4], t.bytes().clone()).expect("fits");
        assert_eq!((bare.to_texts(), &bare), (None, &t.reshaped(vec![4]).expect("fits")));
        let known = bare.with_texts(t.texts()).expect("the same texts");
        assert_eq!(known.to_texts().expect("known").len(), 4);
        assert_eq!(t.rearranged(&[1], None, |_| Some(2)).to_texts(), Some(vec!["ünï"]));
        let numbers = Tensor::i64(&[1], [7]).with_texts(t.texts()).expect("nothing to do");
        assert_eq!((numbers.to_texts(), numbers.texts().iter().count()), (None, 0));
        let zeros = Tensor::from_i64(DType::String, &[1], [0]);
        assert_eq!(zeros.to_texts(), Some(vec![""]));
    }

    #[test]
    fn two_texts_of_one_handle_are_refused() {
        let mut all = BTreeMap::new();
        enter(&mut all, 7, &"a".into()).expect("new");
        enter(&mut all, 7, &"a".into()).expect("the same");
        let said = enter(&mut all, 7, &"b".into()).expect_err("another");
        assert!(said.contains("\"a\" and \"b\""), "{said}");
    }

    #[test]
    fn facts_hold_small_integers() {
        let t = Tensor::i64(&[2], [3, -1]);
        assert_eq!(t.fact().known, Some(vec![Dim::from(3i64), Dim::from(-1i64)]));
        assert_eq!(Tensor::f32(&[1], [1.0]).fact().known, None);
        assert!(Tensor::new(DType::F32, vec![2], Bytes::from_static(&[0; 7])).is_err());
    }
}
