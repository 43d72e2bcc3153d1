//! Cameo: an ONNX file in, a native program out.
//!
//! ```no_run
//! use cameo::{Options, Output, Target, compile};
//! let artifact = compile("model.onnx".as_ref(), &Target::default(), &Options::default())?;
//! artifact.write(&Output::new("model"))?;
//! # Ok::<(), cameo::Diagnostics>(())
//! ```
//!
//! Laws: equal models, targets and options give equal bytes; any input gives an artefact or [`Diagnostics`] that name the
//! ONNX nodes, all of them at once. The order of phases and passes is in [`pipeline`]; the map is in `ARCHITECTURE.md`.

use std::path::Path;
use std::sync::Arc;

pub mod artifact;
pub mod cli;
pub mod diagnostic;
pub mod dump;
pub mod excerpt;
pub mod ir_file;
pub mod pipeline;
pub mod report;

pub use artifact::{Artifact, Output, Target};
pub use cameo_codegen::{ArtifactReport, Emit};
pub use cameo_ir::Tensor;
pub use cameo_kernel::tuning::Tuning;
pub use cameo_onnx::{CustomOp, DimBinding, Items};
pub use cameo_passes::slice::{Sizes, Slice};
pub use diagnostic::{Diagnostic, Diagnostics, Kind};
pub use pipeline::{Event, Phase, Product, Stage};

/// What the user may choose about a model, apart from the machine and the artefact's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Dimensions that are fixed or bounded, by their name in the model.
    pub dims: Vec<(String, DimBinding)>,
    /// Values that become the outputs instead of the model's own.
    pub outputs: Option<Vec<String>>,
    /// Inputs that become weights with these elements; what depends on them alone is computed at compile time.
    pub frozen: Vec<(String, Tensor)>,
    /// Operators that whoever runs the program supplies.
    pub custom_ops: Vec<CustomOp>,
    /// What inputs hold that are sequences or optionals.
    pub items: Vec<(String, Items)>,
    /// The smaller network that is cut out of the model's and compiled instead.
    pub slice: Option<Slice>,
    /// Only the tokens that the attention mask leaves are computed; results of padding are zeros.
    pub varlen: bool,
    /// Names symbols, libraries and headers; the graph's name when absent. Any text: what no C identifier holds is replaced.
    pub name: Option<String>,
    /// The form that code is generated for.
    pub emit: Emit,
    /// Passes that are left out, by name: to find the one that is to blame, or to see what it is worth. What depends on one
    /// may then be slower, or not be compiled at all.
    pub disabled_passes: Vec<String>,
    /// Convolutions are sums of products, never Winograd's form, whose results differ by some 1e-6 of their size.
    pub exact_conv: bool,
    /// Outputs that are an input with more rows behind it stay in the input's memory
    /// ([`cameo_kernel::program::Cache`]).
    pub in_place_cache: bool,
    /// Name of a listing of the kernels, beside a profiled executable, whose lines debug information tells.
    pub listing: Option<String>,
    /// Schedules that were measured on a machine, as `cameo tune` writes them.
    pub tuning: Option<Arc<Tuning>>,
    /// Verify the graph after every pass; builds with debug assertions always do.
    pub verify: bool,
    /// Keep MLIR and LLVM IR as text, for dumps.
    pub keep_text: bool,
    /// Nothing after this phase is done.
    pub stop_after: Option<Phase>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dims: vec![],
            outputs: None,
            frozen: vec![],
            custom_ops: vec![],
            items: vec![],
            slice: None,
            varlen: false,
            name: None,
            emit: Emit::Exe,
            disabled_passes: vec![],
            exact_conv: false,
            in_place_cache: false,
            listing: None,
            tuning: None,
            verify: false,
            keep_text: false,
            stop_after: None,
        }
    }
}

/// Compiles a model file. Linking, the last phase, is [`Artifact::write`].
///
/// # Errors
/// Every problem of the first phase that found one.
pub fn compile(model: &Path, target: &Target, options: &Options) -> Result<Artifact, Diagnostics> {
    let compiled = pipeline::run(model, target, options, &mut |_| {})?;
    compiled.ok_or_else(|| Diagnostics::from(Diagnostic::invalid("`stop_after` leaves no artefact to write")))
}
