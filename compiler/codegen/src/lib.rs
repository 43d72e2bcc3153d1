//! Code generation: kernels rendered as MLIR, lowered to LLVM, written as object code, linked into artefacts.
//!
//! ```text
//! compile:  Context ─▶ emit::Module ─(emit::Builder)─▶ MLIR text ─▶ lower ─▶ LLVM module ─▶ object::Machine ─▶ bytes
//! artifact: kernels + tables + weights + runtime ─▶ executable, library, object or Rust crate
//! ```
//!
//! Laws: kernels are rendered only through [`emit::Builder`]; no weights enter MLIR; the same calls give the same bytes.

pub mod archive;
pub mod artifact;
pub mod compile;
mod custom;
pub mod emit;
pub mod header;
pub mod level;
mod link;
pub mod lower;
pub mod names;
pub mod object;
pub mod profile;
mod rules;
mod rust_crate;
pub mod shape;
mod sys;
pub mod tables;
pub mod weights;

#[cfg(test)]
mod harness;
#[cfg(test)]
mod sample;

pub use artifact::{ArtifactError, ArtifactOptions, ArtifactReport, Emit, build, objects, write_artifact};
pub use compile::{CompileOptions, Compiled, compile};
pub use emit::{Builder, Elem, Linkage, Module, Ty, Val};
pub use level::Level;
pub use link::BUILT_IN;
pub use lower::{Context, LowerError, lower};
pub use object::{Machine, MachineError};
