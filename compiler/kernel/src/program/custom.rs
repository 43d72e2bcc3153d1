//! Steps that call operators of the caller, or functions that are linked in.

use std::sync::Arc;

use cameo_ir::{Attrs, ops};

use super::Io;

/// A step that calls an operator of the caller, or a function that is linked in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Custom {
    pub step: usize,
    /// `com.acme::Foo`.
    pub operator: Arc<str>,
    /// The operator's.
    pub attrs: Attrs,
    /// `None`: left out.
    pub inputs: Vec<Option<Io>>,
    pub outputs: Vec<Io>,
    /// The C name of the function: it may read operands that are there before the run.
    pub built_in: Option<Arc<str>>,
}

impl Custom {
    /// The symbols that the shapes of its operands have and other operators give.
    pub fn needed(&self) -> Vec<Arc<str>> {
        ops::custom::symbols(self.inputs.iter().flatten().flat_map(|io| &io.shape))
    }

    /// The symbols that it gives: extents of its results by themselves, which no operand has.
    pub fn given(&self) -> Vec<Arc<str>> {
        let needed = self.needed();
        let extents = self.outputs.iter().flat_map(|io| &io.shape);
        let all = ops::custom::symbols(extents.filter(|d| d.as_sym().is_some()));
        all.into_iter().filter(|s| !needed.contains(s)).collect()
    }
}
