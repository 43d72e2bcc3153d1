//! Classical machine learning as far as it is about numbers: ONNX's domain `ai.onnx.ml`, and counts of sequences.
//!
//! Laws: each operation of ONNX is a composition of operations of the table; attributes that are texts (labels, keys) are not in
//! the schemas and so are refused by name; scores are computed in `f32`, of operands in `f64` and integers in `f64`.

use crate::DType;
use crate::op::{OpDef, Types};

mod features;
mod forest;
mod grams;
mod labels;
mod linear;
mod scores;
mod trees;

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &features::ARRAY_FEATURE_EXTRACTOR,
    &features::BINARIZER,
    &features::SCALER,
    &features::NORMALIZER,
    &features::IMPUTER,
    &labels::LABEL_ENCODER,
    &linear::LINEAR_REGRESSOR,
    &linear::LINEAR_CLASSIFIER,
    &trees::TREE_ENSEMBLE,
    &trees::TREE_ENSEMBLE_REGRESSOR,
    &trees::TREE_ENSEMBLE_CLASSIFIER,
    &grams::TF_IDF,
    &grams::Grams,
];

/// The types of operands.
const NUMBERS: Types = Types::of(&[DType::F32, DType::F64, DType::I64, DType::I32]);

/// The type in which operands of type `t` are computed with.
const fn computed_in(t: DType) -> DType {
    match t {
        DType::F32 | DType::F16 | DType::BF16 => DType::F32,
        _ => DType::F64,
    }
}
