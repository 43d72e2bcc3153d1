//! The runtime that is linked into every compiled model: opens the model, maps its weights, binds tensors, evaluates
//! the shapes and runs the kernels on a few threads. From C it is `cameo.h` ([`c_api`]), from Rust [`Model`] and
//! [`Context`]. What a run needs of all this is in `cameo-core`; here are memory, files, threads and the C interface.
//!
//! Laws:
//! - A run allocates nothing once a run with the same shapes, and strings as long, has gone before. Only opening, creating contexts, growing the arena and
//!   errors allocate.
//! - Weights are mapped, never copied, and shared by all contexts of a model.
//! - No core is spun that the process was not given; waiting is bounded spinning, then sleep.
//! - The caller's floating-point state is as before after every call.
//! - Wrong use through the safe API or through C with valid pointers is an [`Error`], never undefined behaviour.
//!
//! Unsafe code lives where memory and threads are handed to kernels (`context`, `devices::cpu`, `pool`), where the
//! operating system is called (`sys`), where operators are (`operators`, `functions`), where weights are read (`weights`), where callers promise what a descriptor is
//! (`model`) and at the C boundary (`c_api`); everywhere else the workspace lint stands.

pub mod c_api;
mod context;
mod devices;
mod functions;
mod limits;
mod model;
mod operators;
mod plan;
mod pool;
mod sys;
mod texts;
mod weights;

pub use cameo_abi::{OPERATOR_VERSION, Operator, OperatorArguments, OperatorTensor};
pub use cameo_core::{
    DType, Dim, Element, Extents, ModelDesc, Parallel, Side, Sizes, Status, SymbolInfo, TensorInfo, TensorView, Text,
    byte_size,
};
pub use context::{Context, ContextOptions};
pub use limits::{allowed_cpus, peak_rss_bytes};
pub use model::{CacheInfo, Description, Model, OpenOptions};

/// Why a call failed; names and paths are strings.
pub type Error = cameo_core::Error<String>;
