//! Cameo's graph IR: operations, symbolic dims, tensors, the graph and its text form.
//!
//! This crate knows neither ONNX nor LLVM.

pub mod dim;
pub mod graph;
pub mod index;
pub mod interp;
pub mod naive;
pub mod narrow;
pub mod op;
pub mod ops;
pub mod random;
pub mod rewrite;
pub mod shrink;
pub mod structured;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;

pub use dim::{Atom, Bounds, Dim, Real, Sym};
pub use graph::{Def, Graph, Node, NodeId, Origin, SymbolRange, Value, ValueId};
pub use op::{Attr, Attrs, Op, OpError};
pub use tensor::Tensor;
pub use types::{DType, Fact};
