//! The table of operations: one file per family, each with its constant list.

use crate::op::{Op, OpDef};

pub mod activations;
mod affine_grid;
mod antialias;
pub mod argmax;
pub mod attention;
pub mod binary;
pub mod blocks;
pub mod cast;
mod causal_conv;
mod center;
pub mod channel_norms;
pub mod chosen;
mod col2im;
pub(crate) mod composed;
mod compress;
pub mod contraction;
pub mod contrib;
pub mod conv;
mod conv_transpose;
pub mod counted;
pub mod custom;
mod deform_conv;
mod det;
pub mod draws;
mod einsum;
mod flex_attention;
mod fragment;
pub mod gather;
mod global_pool;
mod grid_sample;
pub mod images;
mod linear_attention;
pub mod logic;
pub mod losses;
pub mod ml;
pub mod movement;
pub mod norms;
pub mod packed;
mod pad;
pub(crate) mod pointwise;
pub mod pool;
pub mod quantize;
mod quantized_conv;
pub mod ragged;
mod recurrent;
pub mod reduce;
mod resample;
mod reshape;
pub mod resize;
pub mod response;
mod roi_align;
mod roi_pool;
mod rotary;
#[cfg(test)]
mod samples;
pub mod scan;
mod scatter;
mod sequences;
pub mod shape;
pub mod signal;
mod slice;
pub mod softmax;
mod strings;
mod suppression;
mod swiglu;
mod topk;
pub mod training;
mod twister;
pub mod unary;
mod unique;
mod unpool;
mod window;

/// All families. Within a family, documentation order.
pub const FAMILIES: &[(&str, &[&dyn OpDef])] = &[
    ("Pointwise, one operand", unary::OPS),
    ("Arithmetic", binary::OPS),
    ("Comparison, logic and bits", logic::OPS),
    ("Activations", activations::OPS),
    ("Casts and selection", cast::OPS),
    ("Reductions", reduce::OPS),
    ("Extreme positions", argmax::OPS),
    ("Softmax", softmax::OPS),
    ("Normalization", norms::OPS),
    ("Normalization per channel", channel_norms::OPS),
    ("Normalization by neighbours", response::OPS),
    ("Shapes and constants", shape::OPS),
    ("Data movement", movement::OPS),
    ("Joining, cutting and padding", blocks::OPS),
    ("Gather and scatter", gather::OPS),
    ("Strings", strings::OPS),
    ("Contractions", contraction::OPS),
    ("Losses", losses::OPS),
    ("Signals", signal::OPS),
    ("Random numbers", draws::OPS),
    ("Few bits", quantize::OPS),
    ("Elements that share bytes", packed::OPS),
    ("Attention", attention::OPS),
    ("Recurrent layers", recurrent::OPS),
    ("Convolution", conv::OPS),
    ("Pooling", pool::OPS),
    ("Resizing and sampling", resize::OPS),
    ("Results as long as data says", counted::OPS),
    ("Loops over time", scan::OPS),
    ("Sequences without padding", ragged::OPS),
    ("Images", images::OPS),
    ("Optimizers", training::OPS),
    ("Classical models", ml::OPS),
    ("Contributed", contrib::OPS),
    ("Supplied by the caller", custom::OPS),
];

/// Every operation.
pub fn all() -> impl Iterator<Item = Op> {
    FAMILIES.iter().flat_map(|(_, ops)| ops.iter().map(|o| Op(*o)))
}

/// The operation of that schema name.
pub fn find(name: &str) -> Option<Op> {
    all().find(|o| o.name() == name)
}
