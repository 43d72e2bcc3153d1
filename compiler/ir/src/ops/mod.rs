//! The table of operations: one file per family, each with its constant list.

use crate::op::{Op, OpDef};

pub mod activations;
pub mod argmax;
pub mod attention;
pub mod binary;
pub mod blocks;
pub mod cast;
pub mod channel_norms;
pub(crate) mod composed;
pub mod contraction;
pub mod contrib;
pub mod conv;
mod conv_transpose;
pub mod counted;
mod einsum;
mod fragment;
pub mod gather;
mod global_pool;
mod grid_sample;
pub mod logic;
pub mod losses;
pub mod movement;
pub mod norms;
pub mod packed;
mod pad;
pub(crate) mod pointwise;
pub mod pool;
pub mod quantize;
pub mod ragged;
mod recurrent;
pub mod reduce;
mod resample;
mod reshape;
pub mod resize;
pub mod response;
mod rotary;
#[cfg(test)]
mod samples;
pub mod scan;
mod scatter;
pub mod shape;
mod slice;
pub mod softmax;
mod topk;
pub mod unary;
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
    ("Contractions", contraction::OPS),
    ("Losses", losses::OPS),
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
    ("Contributed", contrib::OPS),
];

/// Every operation.
pub fn all() -> impl Iterator<Item = Op> {
    FAMILIES.iter().flat_map(|(_, ops)| ops.iter().map(|o| Op(*o)))
}

/// The operation of that schema name.
pub fn find(name: &str) -> Option<Op> {
    all().find(|o| o.name() == name)
}
