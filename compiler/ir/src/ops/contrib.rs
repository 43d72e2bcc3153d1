//! Operators that ONNX Runtime's optimizers write into models: several operations of the table in one node.
//!
//! Laws: each is a composition of operations of the table, so it types as they do and has no loops of its own; what ONNX
//! Runtime admits and Cameo does not is refused by the name of the input or attribute. The source is ONNX Runtime's
//! `docs/ContribOperators.md` and, where that is silent, what its CPU provider computes.

use crate::op::OpDef;

mod activations;
mod biases;
mod code_windows;
mod coded_embedding;
mod codes;
mod experts;
mod gather_blocks;
mod group_norm;
mod groups;
mod heads;
mod integer_products;
mod linear;
mod nhwc;
mod norms;
mod position_bias;
mod quantized;
mod renamed;
mod rotary;

/// The operations of this family.
pub const OPS: &[&dyn OpDef] = &[
    &activations::FAST_GELU,
    &activations::BIAS_GELU,
    &activations::QUICK_GELU,
    &activations::GELU,
    &biases::ADD,
    &biases::SPLIT_GELU,
    &biases::SOFTMAX,
    &biases::DROPOUT,
    &norms::SKIP_LAYER,
    &norms::SKIP_SIMPLIFIED,
    &norms::SIMPLIFIED,
    &norms::SIMPLIFIED_CONTRIBUTED,
    &norms::EMBED_LAYER,
    &coded_embedding::EMBED_LAYER,
    &group_norm::GROUP,
    &group_norm::SKIP,
    &linear::FUSED_MATMUL,
    &linear::FUSED_MATMUL_ACTIVATION,
    &renamed::TRANSPOSE_MATMUL,
    &linear::FUSED_CONV,
    &linear::FUSED_GEMM,
    &linear::GEMM_FAST_GELU,
    &nhwc::CONV,
    &nhwc::FUSED_CONV,
    &quantized::MATMUL_NBITS,
    &gather_blocks::GATHER,
    &experts::MOE,
    &experts::QMOE,
    &codes::ADD,
    &codes::MUL,
    &codes::SIGMOID,
    &codes::LEAKY_RELU,
    &codes::SOFTMAX,
    &codes::WHERE,
    &codes::CONCAT,
    &code_windows::REDUCE_MEAN,
    &code_windows::GLOBAL_AVERAGE,
    &code_windows::AVERAGE,
    &code_windows::NHWC_MAX,
    &code_windows::CONV,
    &integer_products::TO_FLOAT,
    &integer_products::DYNAMIC,
    &integer_products::GEMM,
    &integer_products::ATTENTION,
    &renamed::QUANTIZE,
    &renamed::DEQUANTIZE,
    &heads::MULTI_HEAD,
    &heads::ATTENTION,
    &groups::GROUP_QUERY,
    &position_bias::RELATIVE,
    &position_bias::GATED,
    &rotary::CONTRIBUTED,
    &rotary::ROTARY,
    &renamed::GATHER_ND,
    &renamed::TRILU,
    &renamed::PAD,
    &renamed::EXPAND_DIMS,
    &renamed::RANGE,
    &renamed::CDIST,
    &renamed::GRID_SAMPLE,
    &renamed::CONV_TRANSPOSE,
];
