//! Code for a model, and the files that it becomes.

use std::path::PathBuf;

use cameo_codegen::{ArtifactError, ArtifactOptions, ArtifactReport, CompileOptions, Compiled, Emit, Machine};
use cameo_kernel::{Program, targets};

use crate::Options;
use crate::diagnostic::{Diagnostic, Diagnostics};

/// What code is generated for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `x86_64-…-linux-…` or `aarch64-…-linux-…`; the host's when absent.
    pub triple: Option<String>,
    /// `x86-64-v3`, `x86-64-v4`, `generic` (aarch64), or `native`: the highest that this machine has, tuned for it.
    pub cpu: String,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            triple: None,
            cpu: "native".into(),
        }
    }
}

impl Target {
    /// The machine in LLVM's terms.
    ///
    /// # Errors
    /// When triple or processor is not known.
    pub fn machine(&self) -> Result<Machine, Diagnostics> {
        Machine::new(self.triple.as_deref(), &self.cpu).map_err(|e| Diagnostic::invalid(e.to_string()).into())
    }
}

/// The facts that schedules for a machine are chosen by.
pub fn kernel_target(machine: &Machine) -> &'static cameo_kernel::Target {
    match machine.vector_bits() {
        512 => &targets::x86_64::V4,
        256 => &targets::x86_64::V3,
        _ => &targets::aarch64::NEON,
    }
}

/// Where an artefact goes, and what may be chosen after code generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// A file for [`Emit::Exe`], else a folder.
    pub path: PathBuf,
    /// Put the weights into the program instead of a file beside it.
    pub embed_weights: bool,
    /// Threads when the user of the artefact says nothing; `None`: the CPUs that the process may use.
    pub threads_default: Option<u32>,
    /// Time every step when the program is asked to, and keep the kernels' symbols; of an executable only.
    pub profile: bool,
}

impl Output {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            embed_weights: false,
            threads_default: None,
            profile: false,
        }
    }
}

/// Code for a model, not yet linked.
pub struct Artifact {
    pub program: Program,
    pub machine: Machine,
    /// Names symbols, libraries and headers.
    pub name: String,
    pub emit: Emit,
    compiled: Compiled,
}

impl Artifact {
    /// Renders and compiles the kernels.
    pub(crate) fn generate(program: Program, machine: Machine, options: &Options) -> Result<Self, Diagnostics> {
        let name = options.name.clone().unwrap_or_else(|| program.name.to_string());
        let choices = CompileOptions {
            texts: options.keep_text,
            ..ArtifactOptions::new(&name, options.emit).compile_options()
        };
        let symbols = cameo_codegen::names::model(&name);
        let compiled =
            cameo_codegen::compile(&program, &machine, &symbols, &choices).map_err(|e| diagnostic(&e, &program))?;
        Ok(Self {
            program,
            machine,
            name,
            emit: options.emit,
            compiled,
        })
    }

    /// Writes the files of the form that the code was generated for.
    ///
    /// # Errors
    /// When a file cannot be written or the linker fails.
    pub fn write(&self, output: &Output) -> Result<ArtifactReport, Diagnostics> {
        let options = ArtifactOptions {
            embed_weights: output.embed_weights,
            // Zero is the runtime's word for "as many as the process may use".
            default_threads: output.threads_default.unwrap_or(0),
            profile: output.profile,
            ..ArtifactOptions::new(&self.name, self.emit)
        };
        cameo_codegen::write_artifact(&self.program, &self.compiled, &self.machine, &options, &output.path)
            .map_err(|e| diagnostic(&e, &self.program))
    }

    /// For dumps: file extensions and texts of all kernels, one after the other, when they were kept.
    pub fn texts(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![("mlir", String::new()), ("ll", String::new()), ("s", String::new())];
        for kernel in self.compiled.kernels.iter().filter_map(|k| k.texts.as_ref()) {
            for ((_, out), text) in all.iter_mut().zip([&kernel.mlir, &kernel.llvm, &kernel.assembly]) {
                out.push_str(text);
                out.push('\n');
            }
        }
        all.retain(|(_, text)| !text.is_empty());
        all
    }
}

fn diagnostic(e: &ArtifactError, program: &Program) -> Diagnostics {
    let d = match e {
        ArtifactError::Kernel { index, .. } => {
            // A kernel stands for the nodes of the first step that calls it.
            let d = Diagnostic::internal(e.to_string());
            let step = program.steps.iter().find(|s| s.kernel == *index);
            let name = step.and_then(|s| s.origin.names().first()).map(ToString::to_string);
            Diagnostic { node: name, ..d }
                .help("this is a bug in Cameo: please report it; `cameo reduce` makes it small")
        }
        ArtifactError::Tables(_) => Diagnostic::internal(e.to_string()),
        ArtifactError::Weight(_)
        | ArtifactError::Machine(_)
        | ArtifactError::NoRuntime { .. }
        | ArtifactError::ProfileOf(_) => Diagnostic::invalid(e.to_string()),
        ArtifactError::File { .. } | ArtifactError::NoTool { .. } | ArtifactError::Tool { .. } => {
            Diagnostic::io(e.to_string())
        }
    };
    d.into()
}
