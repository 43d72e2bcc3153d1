//! Tensor messages of all storage forms to bytes.
//!
//! Law: the element count is checked against the data before anything is allocated; only typed fields, elements that share
//! bytes and sparse tensors are copied, and what sparse tensors may grow to is bounded by the size of the file.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use cameo_ir::{DType, Tensor, narrow};

use crate::error::Fault;
use crate::external::ExternalFiles;
use crate::proto::{SparseTensorProto, TensorProto};

/// Ranks above this are not tensors but attacks; NumPy stops at the same number.
pub(crate) const MAX_RANK: usize = 64;

/// Largest extent and largest element count: 2^40 elements are a terabyte and products of two still fit `i64`.
pub(crate) const MAX_ELEMENTS: u64 = 1 << 40;

/// The name of an ONNX element type.
pub(crate) fn type_name(n: i32) -> String {
    const NAMES: [&str; 29] = [
        "undefined",
        "float",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "int32",
        "int64",
        "string",
        "bool",
        "float16",
        "double",
        "uint32",
        "uint64",
        "complex64",
        "complex128",
        "bfloat16",
        "float8e4m3fn",
        "float8e4m3fnuz",
        "float8e5m2",
        "float8e5m2fnuz",
        "uint4",
        "int4",
        "float4e2m1",
        "float8e8m0",
        "uint2",
        "int2",
        "float6e2m3",
        "float6e3m2",
    ];
    let name = usize::try_from(n).ok().and_then(|i| NAMES.get(i));
    name.map_or_else(|| format!("number {n}"), |s| (*s).to_owned())
}

/// The element type of that number, or why not.
pub(crate) fn dtype(n: i32) -> Result<DType, Fault> {
    match DType::from_onnx(n) {
        Some(t) => Ok(t),
        None if n <= 0 || n > 28 => Err(Fault::invalid(format!("element type {} does not exist", type_name(n)))),
        None => Err(
            Fault::unsupported(format!("element type {} is not supported", type_name(n)))
                .hint("store or export these values in a supported element type"),
        ),
    }
}

/// Checks extents and gives them with their product.
pub(crate) fn shape(dims: &[i64]) -> Result<(Vec<usize>, usize), Fault> {
    if dims.len() > MAX_RANK {
        return Err(Fault::unsupported(format!(
            "rank {} is above the limit of {MAX_RANK}",
            dims.len()
        )));
    }
    let mut shape = Vec::with_capacity(dims.len());
    // Without the zeros: a tensor without elements must not smuggle in extents whose products overflow.
    let mut nonzero = 1u64;
    for d in dims {
        let n = u64::try_from(*d).map_err(|_| Fault::invalid(format!("the extent {d} in {dims:?} is negative")))?;
        nonzero = nonzero.saturating_mul(n.max(1));
        shape.push(n as usize);
    }
    if nonzero > MAX_ELEMENTS {
        return Err(Fault::invalid(format!("the shape {dims:?} is too large")));
    }
    let count = shape.iter().product();
    Ok((shape, count))
}

/// Reads tensors.
#[derive(Debug)]
pub(crate) struct Weights {
    files: ExternalFiles,
    /// Bytes that sparse tensors may still become.
    sparse_left: usize,
    /// Tensors that were copied, by where their messages lie: bodies of loops and functions are read many times.
    copied: BTreeMap<usize, Tensor>,
}

impl Weights {
    /// `model_size` in bytes.
    pub fn new(folder: Option<&Path>, model_size: usize) -> Self {
        Self {
            files: ExternalFiles::new(folder),
            // A small model may have a layer that is almost empty; a large one is not sparser than 1 in 256 overall.
            sparse_left: (64 << 20) + model_size.saturating_mul(256),
            copied: BTreeMap::new(),
        }
    }

    pub fn dense(&mut self, t: &TensorProto) -> Result<Tensor, Fault> {
        if !t.raw_data.is_empty() || t.data_location != 0 {
            return self.read(t);
        }
        let at = std::ptr::from_ref(t).addr();
        if let Some(t) = self.copied.get(&at) {
            return Ok(t.clone());
        }
        let read = self.read(t)?;
        self.copied.insert(at, read.clone());
        Ok(read)
    }

    fn read(&mut self, t: &TensorProto) -> Result<Tensor, Fault> {
        let dtype = dtype(t.data_type)?;
        let (shape, count) = shape(&t.dims)?;
        if dtype == DType::String {
            return strings(t, &shape, count);
        }
        if t.segment.is_some() {
            return Err(Fault::unsupported("tensors stored in segments are not supported"));
        }
        let data = match t.data_location {
            0 => inline(t, dtype, count)?,
            1 => self.files.slice(&t.external_data)?,
            n => return Err(Fault::invalid(format!("data location {n} does not exist"))),
        };
        let data = if dtype == DType::Bool { zero_or_one(data) } else { data };
        Tensor::from_packed(dtype, shape, data).map_err(|e| {
            Fault::invalid(format!(
                "{} elements of {dtype} need {} bytes, the data has {}",
                count,
                narrow::packed_len(dtype, count),
                e.got
            ))
        })
    }

    /// The dense form of a sparse tensor.
    pub fn sparse(&mut self, s: &SparseTensorProto) -> Result<Tensor, Fault> {
        let (Some(values), Some(indices)) = (&s.values, &s.indices) else {
            return Err(Fault::invalid("a sparse tensor needs values and indices"));
        };
        let (shape, count) = shape(&s.dims)?;
        let values = self.dense(values).map_err(|f| f.of("sparse values"))?;
        let indices = self.dense(indices).map_err(|f| f.of("sparse indices"))?;
        let (n, rank) = (values.len(), shape.len());
        let coordinates = match *indices.shape() {
            [k] if k == n => false,
            [k, r] if k == n && r == rank => true,
            _ => {
                return Err(Fault::invalid(format!(
                    "sparse indices {:?} do not fit {n} values of rank {rank}",
                    indices.shape()
                )));
            }
        };
        if indices.dtype() != DType::I64 {
            return Err(Fault::invalid(format!(
                "sparse indices are {}, not i64",
                indices.dtype()
            )));
        }
        let size = values.dtype().size();
        let bytes = count.saturating_mul(size);
        if bytes > self.sparse_left {
            return Err(
                Fault::unsupported(format!("the sparse tensor {:?} is too large to be made dense", s.dims))
                    .hint("store it as a dense tensor"),
            );
        }
        self.sparse_left -= bytes;
        let mut data = vec![0; bytes];
        let indices = indices.to_i64();
        for (i, value) in values.bytes().chunks_exact(size).enumerate() {
            let at = if coordinates {
                let row = &indices[i * rank..(i + 1) * rank];
                row.iter().zip(&shape).try_fold(0usize, |at, (x, d)| {
                    let x = usize::try_from(*x).ok().filter(|x| x < d)?;
                    Some(at * d + x)
                })
            } else {
                usize::try_from(indices[i]).ok().filter(|x| *x < count)
            };
            let Some(at) = at else {
                return Err(Fault::invalid(format!(
                    "sparse index {i} is outside the shape {:?}",
                    s.dims
                )));
            };
            data[at * size..(at + 1) * size].copy_from_slice(value);
        }
        Tensor::new(values.dtype(), shape, data.into()).map_err(|_| Fault::invalid("sparse tensor size"))
    }
}

/// A tensor of strings, which has a field of its own.
fn strings(t: &TensorProto, shape: &[usize], count: usize) -> Result<Tensor, Fault> {
    if t.data_location != 0 || !t.raw_data.is_empty() || t.segment.is_some() {
        return Err(Fault::invalid("strings are stored in `string_data` only"));
    }
    if t.string_data.len() != count {
        return Err(Fault::invalid(format!(
            "{count} elements of string wanted, `string_data` has {}",
            t.string_data.len()
        )));
    }
    let text = |b: &Bytes| std::str::from_utf8(b).map(str::to_owned);
    let texts: Result<Vec<String>, _> = t.string_data.iter().map(text).collect();
    let texts = texts.map_err(|_| Fault::unsupported("a string that is not UTF-8"))?;
    Tensor::strings(shape, texts.iter().map(String::as_str)).map_err(Fault::unsupported)
}

/// The bytes of a tensor that is stored in its message.
fn inline(t: &TensorProto, dtype: DType, count: usize) -> Result<Bytes, Fault> {
    let lists = [
        t.float_data.len(),
        t.int32_data.len(),
        t.int64_data.len(),
        t.double_data.len(),
        t.uint64_data.len(),
        t.string_data.len(),
    ];
    if !t.raw_data.is_empty() {
        if lists.iter().any(|n| *n > 0) {
            return Err(Fault::invalid("both raw and typed data are given"));
        }
        return Ok(t.raw_data.clone());
    }
    let (list, name) = match dtype {
        DType::F32 => (0, "float_data"),
        DType::I64 => (2, "int64_data"),
        DType::F64 => (3, "double_data"),
        DType::U32 | DType::U64 => (4, "uint64_data"),
        _ => (1, "int32_data"),
    };
    // Elements of less than a byte share the entries, as they do bytes.
    let entries = narrow::packed_len(dtype, count) / dtype.size();
    if lists[list] != entries {
        return Err(Fault::invalid(format!(
            "{count} elements of {dtype} wanted, `{name}` has {}",
            lists[list]
        )));
    }
    let narrow = |x: i64, (min, max): (i64, i64)| {
        if x < min || x > max {
            return Err(Fault::invalid(format!("the element {x} does not fit {dtype}")));
        }
        Ok(x)
    };
    let mut data = Vec::with_capacity(entries * dtype.size());
    match dtype {
        DType::F32 => t.float_data.iter().for_each(|x| data.extend(x.to_le_bytes())),
        DType::I64 => t.int64_data.iter().for_each(|x| data.extend(x.to_le_bytes())),
        DType::F64 => t.double_data.iter().for_each(|x| data.extend(x.to_le_bytes())),
        DType::U64 => t.uint64_data.iter().for_each(|x| data.extend(x.to_le_bytes())),
        DType::U32 => {
            for x in &t.uint64_data {
                let x = u32::try_from(*x).map_err(|_| Fault::invalid(format!("the element {x} does not fit u32")))?;
                data.extend(x.to_le_bytes());
            }
        }
        _ => {
            // Floats of 16 and 8 bits are stored as their bits, what shares bytes as those.
            let range = match dtype {
                DType::I8 => (-128, 127),
                DType::U8 => (0, 255),
                DType::I16 => (-32_768, 32_767),
                DType::Bool => (0, 1),
                t if t.is_narrow() => (0, 255),
                DType::I32 => (i32::MIN.into(), i32::MAX.into()),
                _ => (0, 65_535),
            };
            for x in &t.int32_data {
                data.extend(&narrow((*x).into(), range)?.to_le_bytes()[..dtype.size()]);
            }
        }
    }
    Ok(data.into())
}

/// Kernels rely on bools being 0 or 1.
fn zero_or_one(data: Bytes) -> Bytes {
    if data.iter().all(|b| *b <= 1) {
        return data;
    }
    data.iter().map(|b| u8::from(*b != 0)).collect::<Vec<u8>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights() -> Weights {
        Weights::new(None, 0)
    }

    fn typed(dtype: DType, dims: &[i64]) -> TensorProto {
        TensorProto {
            data_type: dtype as i32,
            dims: dims.to_vec(),
            ..TensorProto::default()
        }
    }

    #[test]
    fn every_type_is_read_from_raw_and_typed_fields() {
        for dtype in DType::ALL.into_iter().filter(|t| *t != DType::String) {
            let want = Tensor::from_i64(dtype, &[2], [1, 0]);
            let mut raw = typed(dtype, &[2]);
            raw.raw_data = want.packed();
            assert_eq!(weights().dense(&raw).expect("raw"), want);
            let mut t = typed(dtype, &[2]);
            match dtype {
                DType::F32 => t.float_data = vec![1.0, 0.0],
                DType::F64 => t.double_data = vec![1.0, 0.0],
                DType::I64 => t.int64_data = vec![1, 0],
                DType::U32 | DType::U64 => t.uint64_data = vec![1, 0],
                DType::F16 => t.int32_data = vec![0x3c00, 0],
                DType::BF16 => t.int32_data = vec![0x3f80, 0],
                _ if dtype.is_narrow() => t.int32_data = want.packed().iter().map(|b| i32::from(*b)).collect(),
                _ => t.int32_data = vec![1, 0],
            }
            assert_eq!(weights().dense(&t).expect("typed"), want, "{dtype}");
        }
        let mut t = typed(DType::I8, &[1]);
        t.int32_data = vec![-5];
        assert_eq!(weights().dense(&t).expect("negative").to_i64(), [-5]);
        t.int32_data = vec![-129];
        assert!(weights().dense(&t).is_err());
    }

    #[test]
    fn strings_have_a_field_of_their_own() {
        let mut t = typed(DType::String, &[2, 1]);
        t.string_data = vec!["ä".into(), "".into()];
        let read = weights().dense(&t).expect("strings");
        assert_eq!((read.shape(), read.to_texts()), (&[2, 1][..], Some(vec!["ä", ""])));
        t.string_data.push(vec![0xff].into());
        assert!(weights().dense(&t).expect_err("too many").message.contains("has 3"));
        t.dims = vec![3];
        assert!(weights().dense(&t).expect_err("bytes").message.contains("not UTF-8"));
        t.string_data.clear();
        t.raw_data = vec![0; 24].into();
        assert!(weights().dense(&t).is_err());
    }

    #[test]
    fn counts_are_checked_before_allocation() {
        for dims in [
            vec![i64::MAX],
            vec![1 << 30, 1 << 30],
            vec![-1],
            vec![1 << 39],
            vec![0, i64::MAX],
            vec![1; 100],
        ] {
            let mut t = typed(DType::F32, &dims);
            t.raw_data = vec![0; 8].into();
            assert!(weights().dense(&t).is_err(), "{dims:?}");
            t.raw_data = Bytes::new();
            t.float_data = vec![1.0];
            assert!(weights().dense(&t).is_err(), "{dims:?}");
        }
        assert!(weights().dense(&typed(DType::F32, &[3, 0])).expect("empty").is_empty());
    }

    #[test]
    fn elements_of_less_than_a_byte_share_it() {
        let mut t = typed(DType::I4, &[3]);
        t.raw_data = vec![0x8f, 0xf2].into();
        assert_eq!(weights().dense(&t).expect("raw").to_i64(), [-1, -8, 2]);
        t.raw_data = Bytes::new();
        t.int32_data = vec![0x8f, 0x02];
        assert_eq!(weights().dense(&t).expect("typed").to_i64(), [-1, -8, 2]);
        t.int32_data = vec![0x8f, 0x02, 0];
        assert!(weights().dense(&t).is_err());
        t.int32_data = vec![0x8f, 0x102];
        assert!(weights().dense(&t).is_err());
        let mut t = typed(DType::U2, &[5]);
        t.raw_data = vec![0b00_11_10_01, 2].into();
        assert_eq!(weights().dense(&t).expect("raw").to_i64(), [1, 2, 3, 0, 2]);
        t.raw_data = vec![0].into();
        assert!(weights().dense(&t).is_err());
    }

    #[test]
    fn bools_become_zero_or_one() {
        let mut t = typed(DType::Bool, &[3]);
        t.raw_data = vec![0, 1, 200].into();
        assert_eq!(weights().dense(&t).expect("bool").bytes()[..], [0, 1, 1]);
    }

    #[test]
    fn types_without_counterpart_are_named() {
        let e = weights().dense(&TensorProto {
            data_type: 14,
            ..TensorProto::default()
        });
        assert!(e.expect_err("complex").message.contains("complex64"));
        assert!(dtype(27).expect_err("float6").message.contains("float6e2m3"));
        assert!(dtype(99).expect_err("none").message.contains("does not exist"));
    }

    fn sparse(dims: &[i64], indices: &[i64], index_dims: &[i64]) -> SparseTensorProto {
        let n = index_dims[0];
        let mut values = typed(DType::F32, &[n]);
        values.float_data = (1..=n).map(|x| x as f32).collect();
        let mut ix = typed(DType::I64, index_dims);
        ix.int64_data = indices.to_vec();
        SparseTensorProto {
            values: Some(Box::new(values)),
            indices: Some(Box::new(ix)),
            dims: dims.to_vec(),
        }
    }

    #[test]
    fn sparse_tensors_become_dense() {
        let want = Tensor::f32(&[2, 3], [0.0, 0.0, 1.0, 2.0, 0.0, 0.0]);
        assert_eq!(weights().sparse(&sparse(&[2, 3], &[2, 3], &[2])).expect("linear"), want);
        let coordinates = sparse(&[2, 3], &[0, 2, 1, 0], &[2, 2]);
        assert_eq!(weights().sparse(&coordinates).expect("coordinates"), want);
        assert!(weights().sparse(&sparse(&[2, 3], &[2, 6], &[2])).is_err());
        assert!(weights().sparse(&sparse(&[2, 3], &[2, -1], &[2])).is_err());
        assert!(weights().sparse(&sparse(&[2, 3], &[0, 3, 1, 0], &[2, 2])).is_err());
        assert!(
            weights().sparse(&sparse(&[1 << 30, 4], &[0], &[1])).is_err(),
            "too large"
        );
    }
}
