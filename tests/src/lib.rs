//! What the tests of compiled models share: a graph becomes a shared library, which runs in this process.
//!
//! Law: the tests see the compiler as its users do, through `cameo::pipeline` and the runtime's Rust interface.

pub mod allocations;
pub mod case;
pub mod compare;
pub mod model;
pub mod source;

pub use case::{Case, Form};
pub use compare::{assert_same, difference};
pub use model::{Choices, Model};
