//! Classical machine learning: ONNX's domain `ai.onnx.ml`, and counts of sequences.
//!
//! Laws: each operation of ONNX is a composition of operations of the table; strings are compared and looked up by their handles;
//! scores are computed in `f32`, of operands in `f64` and integers in `f64`.

use crate::op::{Cx, OpDef, OpError, Types, invalid};
use crate::{DType, Tensor};

mod categories;
mod features;
mod forest;
mod grams;
mod labels;
mod linear;
mod machine;
mod scores;
mod trees;

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &features::ARRAY_FEATURE_EXTRACTOR,
    &features::BINARIZER,
    &features::FEATURE_VECTORIZER,
    &features::SCALER,
    &features::NORMALIZER,
    &features::IMPUTER,
    &labels::LABEL_ENCODER,
    &categories::CATEGORY_MAPPER,
    &categories::ONE_HOT_ENCODER,
    &linear::LINEAR_REGRESSOR,
    &linear::LINEAR_CLASSIFIER,
    &machine::SVM_REGRESSOR,
    &machine::SVM_CLASSIFIER,
    &trees::TREE_ENSEMBLE,
    &trees::TREE_ENSEMBLE_REGRESSOR,
    &trees::TREE_ENSEMBLE_CLASSIFIER,
    &grams::TF_IDF,
    &grams::Grams,
];

/// What an operation of classes gives for each: integers or strings.
const LABELS: Types = Types::of(&[DType::I64, DType::String]);

/// A list of integers or strings, each with its attribute; `None`: neither is given, or an empty one.
fn labels(cx: &Cx, ints: &str, strings: &str) -> Result<Option<Tensor>, OpError> {
    let ints = cx.opt_ints(ints)?.filter(|l| !l.is_empty());
    let strings = cx.opt_strs(strings)?.filter(|l| !l.is_empty());
    match (ints, strings) {
        (None, None) => Ok(None),
        (Some(v), None) => Ok(Some(Tensor::i64(&[v.len()], v))),
        (None, Some(v)) => {
            let texts = Tensor::strings(&[v.len()], v.iter().map(|s| &**s));
            Ok(Some(texts.map_err(OpError::Unsupported)?))
        }
        (Some(_), Some(_)) => invalid("labels are given as integers and as strings"),
    }
}

/// The types of operands.
const NUMBERS: Types = Types::of(&[DType::F32, DType::F64, DType::I64, DType::I32]);

/// The type in which operands of type `t` are computed with.
const fn computed_in(t: DType) -> DType {
    match t {
        DType::F32 | DType::F16 | DType::BF16 => DType::F32,
        _ => DType::F64,
    }
}
