//! What a run of a compiled model needs, without operating system and without allocator: checks the descriptor, binds
//! symbols from shapes, evaluates the shape function, resolves buffers into pointers, runs the steps.
//!
//! All tables and tensors are memory of the caller, whose sizes [`Tables`] and [`Sizes`] give. The order of calls is
//! [`Tables::new`], [`Tables::check_input`] or [`Tables::check_cache`], [`Plan::evaluate`], [`Plan::resolve`], [`Run::on`]; `cameo-runtime` adds the
//! memory, weights files, threads and the C interface.
//!
//! Laws:
//! - Nothing here allocates, blocks or calls the operating system; it builds where there is none.
//! - The caller's floating-point state is as before after every call.
//! - Wrong arguments are an [`Error`], which is data; what cannot be checked is asked for by `unsafe`.
//!
//! Unsafe code lives where the descriptor's pointers are read (`description`), where the model's code is called (`plan`,
//! `run`), where a control register is written (`float`) and where bytes become typed slices and strings (`tensor`); everywhere else
//! the workspace lint stands.
#![no_std]

mod cursor;
mod description;
mod error;
mod float;
mod plan;
mod run;
mod tensor;
mod turns;

pub use cameo_abi::{Cache, Custom, DType, InputElement, ModelDesc};
pub use description::{CustomInfo, Dim, Extents, SymbolInfo, Tables, TensorInfo};
pub use error::{Error, Side, Status, SymbolBinding};
pub use float::FlushDenormals;
pub use plan::{Given, Plan, Sizes};
pub use run::{Parallel, Run, Working};
pub use tensor::{Element, TensorView, Text, byte_size, integer};
