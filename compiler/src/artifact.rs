//! Code for a model, and the files that it becomes.

use std::path::{Path, PathBuf};

use cameo_codegen::object::Arch;
use cameo_codegen::{ArtifactError, ArtifactOptions, ArtifactReport, CompileOptions, Compiled, Emit, Level, Machine};
use cameo_kernel::targets;

use crate::Options;
use crate::diagnostic::{Diagnostic, Diagnostics};

/// What code is generated for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `x86_64-…-linux-…` or `aarch64-…-linux-…`; the host's when absent.
    pub triple: Option<String>,
    /// `x86-64-v2` to `x86-64-v4`, `generic` (aarch64), `native`: the highest that this machine has, tuned for it, or [`MULTI`].
    pub cpu: String,
}

/// The processor of artefacts with code for every level of x86-64, of which the runtime takes the best that there is.
pub const MULTI: &str = "multi";

/// Best first.
const LEVELS: [&str; 3] = ["x86-64-v4", "x86-64-v3", "x86-64-v2"];

impl Default for Target {
    fn default() -> Self {
        Self {
            triple: None,
            cpu: "native".into(),
        }
    }
}

impl Target {
    /// The processor that is meant when none is named: this machine's, or one that most machines of another architecture are.
    pub fn usual_cpu(triple: Option<&str>) -> &'static str {
        match triple.and_then(|t| t.split('-').next()) {
            Some(arch) if arch != std::env::consts::ARCH && arch == "x86_64" => "x86-64-v3",
            Some(arch) if arch != std::env::consts::ARCH => "generic",
            _ => "native",
        }
    }

    /// The one machine in LLVM's terms.
    ///
    /// # Errors
    /// When triple or processor is not known, or means several machines.
    pub fn machine(&self) -> Result<Machine, Diagnostics> {
        if self.cpu == MULTI {
            let d = Diagnostic::invalid("the processor `multi` stands for several machines, and here is place for one");
            return Err(d
                .help("choose one of them: native, x86-64-v2, x86-64-v3 or x86-64-v4")
                .into());
        }
        machine(self.triple.as_deref(), &self.cpu)
    }

    /// All machines that there will be code for, best first.
    ///
    /// # Errors
    /// When triple or processor is not known, or the architecture has no levels.
    pub fn machines(&self) -> Result<Vec<Machine>, Diagnostics> {
        if self.cpu != MULTI {
            return Ok(vec![self.machine()?]);
        }
        let triple = self.triple.as_deref();
        let x86 = triple.map_or(cfg!(target_arch = "x86_64"), |t| t.starts_with("x86_64-"));
        if !x86 {
            let what = triple.unwrap_or("this machine's");
            let d = Diagnostic::invalid(format!(
                "the processor `multi` is for x86-64 and its levels, not for {what}"
            ));
            return Err(d.help("leave `--cpu` out, or choose another `--target`").into());
        }
        LEVELS.iter().map(|cpu| machine(triple, cpu)).collect()
    }
}

fn machine(triple: Option<&str>, cpu: &str) -> Result<Machine, Diagnostics> {
    Machine::new(triple, cpu).map_err(|e| Diagnostic::invalid(e.to_string()).into())
}

/// The facts that schedules for a machine are chosen by.
pub fn kernel_target(machine: &Machine) -> &'static cameo_kernel::Target {
    match (machine.arch, machine.vector_bits()) {
        (Arch::Aarch64, _) => &targets::aarch64::NEON,
        (Arch::X86_64, 512) => &targets::x86_64::V4,
        (Arch::X86_64, 256) => &targets::x86_64::V3,
        (Arch::X86_64, _) => &targets::x86_64::V2,
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
    /// Objects and static libraries with operators, to be linked into an executable.
    pub link: Vec<PathBuf>,
}

impl Output {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            embed_weights: false,
            threads_default: None,
            profile: false,
            link: vec![],
        }
    }
}

/// Code for a model, not yet linked.
pub struct Artifact {
    /// The machines that there is code for, best first, with their programs.
    pub levels: Vec<Level>,
    /// Names symbols, libraries and headers.
    pub name: String,
    pub emit: Emit,
    compiled: Compiled,
}

impl Artifact {
    /// Renders and compiles the kernels.
    pub(crate) fn generate(levels: Vec<Level>, options: &Options) -> Result<Self, Diagnostics> {
        let graph = || levels.first().map_or(String::new(), |l| l.program.name.to_string());
        let name = options.name.clone().unwrap_or_else(graph);
        let choices = CompileOptions {
            texts: options.keep_text,
            listing: options.listing.clone(),
            ..ArtifactOptions::new(&name, options.emit).compile_options()
        };
        let symbols = cameo_codegen::names::model(&name);
        let compiled = cameo_codegen::compile(&levels, &symbols, &choices).map_err(|e| diagnostic(&e, &levels))?;
        Ok(Self {
            levels,
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
            link: output.link.clone(),
            ..ArtifactOptions::new(&self.name, self.emit)
        };
        cameo_codegen::write_artifact(&self.levels, &self.compiled, &options, &output.path)
            .map_err(|e| diagnostic(&e, &self.levels))
    }

    /// Objects for who links many models at once, and the weights file that this one is opened with; its descriptor is
    /// `NAME_model`. For [`Emit::Object`].
    ///
    /// # Errors
    /// When the weights file cannot be written.
    pub fn objects(&self, weights: &Path) -> Result<Vec<Vec<u8>>, Diagnostics> {
        let options = ArtifactOptions::new(&self.name, self.emit);
        cameo_codegen::objects(&self.levels, &self.compiled, &options, weights)
            .map_err(|e| diagnostic(&e, &self.levels))
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

fn diagnostic(e: &ArtifactError, levels: &[Level]) -> Diagnostics {
    let d = match e {
        ArtifactError::Kernel { level, index, .. } => {
            // A kernel stands for the nodes of the first step that calls it.
            let d = Diagnostic::internal(e.to_string());
            let step = levels[*level].program.steps.iter().find(|s| s.kernel == *index);
            let name = step.and_then(|s| s.origin.names().first()).map(ToString::to_string);
            Diagnostic { node: name, ..d }
                .help("this is a bug in Cameo: please report it; `cameo reduce` makes it small")
        }
        ArtifactError::Tables(_) => Diagnostic::internal(e.to_string()),
        ArtifactError::Weight(_)
        | ArtifactError::Machine(_)
        | ArtifactError::NoRuntime { .. }
        | ArtifactError::ProfileOf(_)
        | ArtifactError::LinkOf(_)
        | ArtifactError::BuiltInOf(_)
        | ArtifactError::LevelsOf(_) => Diagnostic::invalid(e.to_string()),
        ArtifactError::File { .. }
        | ArtifactError::Linked { .. }
        | ArtifactError::NoTool { .. }
        | ArtifactError::Tool { .. } => Diagnostic::io(e.to_string()),
    };
    d.into()
}
