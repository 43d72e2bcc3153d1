//! ONNX in, [`cameo_ir::Graph`] out.
//!
//! Laws: any input bytes give a graph or problems, never a panic, a hang or unbounded memory; all problems are reported
//! at once, each with its node, operator, opset and what to do; weights stay slices of the mapped file; equal bytes and
//! options give equal graphs.
//!
//! | room | what |
//! |---|---|
//! | `proto` | the protobuf messages, as far as Cameo reads them |
//! | `census` | bounds what decoding allocates |
//! | `external` | mapped files and external data (this crate's only unsafe) |
//! | `weights` | tensors of all storage forms to bytes |
//! | `dims` | input types, named dimensions and `--dim` |
//! | `custom` | operators that the user supplies |
//! | `attributes` | attribute messages to the values that a schema wants |
//! | `operators` | which operators of which opsets are read, and what is said of others |
//! | `opset` | one function per change of an operator, old form to newest form |
//! | `plan` | which nodes a graph's outputs need, in which order |
//! | `scope` | what a name means: values, weights not yet read, captures of subgraphs |
//! | `functions` | model-local functions and constant branches, inlined |
//! | `loops`, `batches` | loops over time, and branches that data chooses |
//! | `moving` | slices whose place is the number of the iteration |
//! | `bodies` | bodies of both as graphs of their own |
//! | `lists`, `stacked` | sequences and optionals, of which no graph has any |
//! | `attention` | attention with graphs that change scores |
//! | `numbers` | integers of a run that decide shapes |
//! | `integers` | what is known of integers before a run |
//! | `open` | results of bodies whose extents a run decides |
//! | `until` | loops that data ends |
//! | `gradient` | the derivatives of nodes |
//! | `bounds` | limits of what inference is asked to do |
//! | `import` | the walk that ties them together |

mod attention;
mod attributes;
mod batches;
mod bodies;
mod bounds;
mod branches;
mod census;
mod custom;
mod dims;
mod elements;
mod error;
mod external;
mod functions;
mod gradient;
mod growing;
mod import;
mod integers;
mod lists;
mod loops;
mod moving;
mod numbers;
mod open;
pub mod operators;
pub mod opset;
mod outputs;
mod plan;
pub mod proto;
mod scope;
mod stacked;
mod until;
mod weights;

use std::path::Path;

use bytes::Bytes;
use cameo_ir::{Graph, Tensor};

pub use custom::CustomOp;
pub use error::{Problem, ProblemKind};
pub use lists::{Extent, Items};

/// Oldest and newest opset of the default domain that is understood.
pub const OPSETS: std::ops::RangeInclusive<i64> = 1..=28;

/// IR versions of the file format that are understood. Before 3 a model did not say which opset it uses.
pub const IR_VERSIONS: std::ops::RangeInclusive<i64> = 3..=14;

/// What is fixed or known of a dynamic dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DimBinding {
    /// `--dim B=1`: the symbol becomes a constant.
    Fixed(i64),
    /// `--dim S=1..512`: inclusive bounds.
    Range { min: i64, max: i64 },
}

impl DimBinding {
    /// Whether the dimension may be `n`.
    pub const fn allows(self, n: i64) -> bool {
        match self {
            Self::Fixed(m) => m == n,
            Self::Range { min, max } => min <= n && n <= max,
        }
    }
}

/// Choices of the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Dimensions by the name they have in the file, or by the name that was invented for them (`<input>_d<axis>`).
    pub dims: Vec<(String, DimBinding)>,
    /// Values that become the outputs instead of the model's own; any value of the main graph may be named.
    pub outputs: Option<Vec<String>>,
    /// Inputs that become weights with these elements. A dimension of theirs with a name has their extent everywhere.
    pub frozen: Vec<(String, Tensor)>,
    /// Operators that whoever runs the program supplies.
    pub custom_ops: Vec<CustomOp>,
    /// What inputs hold that are sequences or optionals, by name.
    pub items: Vec<(String, Items)>,
}

/// Reads a model file. The file is mapped and stays mapped as long as the graph's weights live; it must not change
/// meanwhile.
///
/// # Errors
/// Every problem that was found.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Graph, Vec<Problem>> {
    let bytes = external::map_file(path).map_err(|f| vec![f.at_model()])?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    import_bytes(bytes, Some(folder.unwrap_or(Path::new("."))), options)
}

/// Reads a model from memory. External data is looked for in `folder`; without one it is refused.
///
/// # Errors
/// As [`import`].
pub fn import_bytes(model: Bytes, folder: Option<&Path>, options: &ImportOptions) -> Result<Graph, Vec<Problem>> {
    let size = model.len();
    let model = proto::decode(model).map_err(|f| vec![f.at_model()])?;
    import::model(&model, size, folder, options)
}
