//! Steps that call operators: of the caller, of the runtime, or functions that are linked in.

use std::sync::Arc;

use cameo_ir::{Attrs, ops};

use super::Io;

/// A step that calls an operator.
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
    /// The C name of the function that is linked in.
    pub built_in: Option<Arc<str>>,
    /// Whether it tells extents from the operands' contents, which are there before a run.
    pub reads_contents: bool,
}

impl Custom {
    /// Whether the caller supplies it: it is neither the runtime's own nor linked in.
    pub fn is_supplied(&self) -> bool {
        self.built_in.is_none() && !ops::custom::is_own_name(&self.operator)
    }

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
