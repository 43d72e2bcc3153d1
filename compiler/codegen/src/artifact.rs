//! What a compilation leaves behind: executable, library, object or Rust crate, with headers and weights.
//!
//! Laws: the same program, machine and options give the same bytes, wherever they are written; files appear whole or not
//! at all, by renaming, so that a program that runs from an older version keeps its files.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cameo_kernel::memory::{self, MemoryPlan};
use cameo_kernel::program::Program;
use inkwell::context::Context as LlvmContext;

use crate::compile::{Code, CompileOptions, Compiled, CompiledKernel, compile};
use crate::level::Level;
use crate::link::Linker;
use crate::lower::LowerError;
use crate::object::{Arch, Machine, MachineError};
use crate::tables::{self, Facts};
use crate::weights::{self, HEADER_BYTES, WeightError};
use crate::{archive, custom, header, link, names, profile, rust_crate};

#[cfg(test)]
mod tests;

/// Kinds of artefacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// `OUT`, and `OUT.weights`.
    Exe,
    /// `OUT/lib<name>.so`, `<name>.h`, `cameo.h`, `<name>.weights`.
    Shared,
    /// `OUT/lib<name>.a` with the runtime in it, and the same headers and weights.
    Static,
    /// `OUT/<name>.o` without the runtime, which lies beside it as `libcameo.a`, and the same headers and weights.
    Object,
    /// A Rust crate in `OUT`.
    Rust,
}

impl Emit {
    /// Every kind with its name on the command line.
    pub const ALL: [(&'static str, Self); 5] = [
        ("exe", Self::Exe),
        ("shared", Self::Shared),
        ("static", Self::Static),
        ("object", Self::Object),
        ("rust", Self::Rust),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, e)| *e == self).map_or("", |(name, _)| name)
    }
}

#[derive(Clone, Debug)]
pub struct ArtifactOptions {
    /// Name of the model, any text: symbols, files and crates are called by [`names::model`] of it.
    pub name: String,
    pub emit: Emit,
    /// Links the weights in, instead of a file beside.
    pub embed_weights: bool,
    /// Threads when the caller does not say; 0: as many as the process may use.
    pub default_threads: u32,
    /// Timers around every step and symbols for profilers; of executables only.
    pub profile: bool,
    /// The C compiler that links; by default `cc`, or `<arch>-linux-gnu-gcc` for another architecture.
    pub linker: Option<PathBuf>,
    /// Objects and static libraries that an executable is linked with: one of them has the `cameo_operators` of `cameo.h`.
    pub link: Vec<PathBuf>,
}

impl ArtifactOptions {
    #[must_use]
    pub fn new(name: &str, emit: Emit) -> Self {
        Self {
            name: name.to_owned(),
            emit,
            embed_weights: false,
            default_threads: 0,
            profile: false,
            linker: None,
            link: vec![],
        }
    }

    /// What [`write_artifact`] needs from [`compile`].
    #[must_use]
    pub fn compile_options(&self) -> CompileOptions {
        CompileOptions {
            assembly: self.emit == Emit::Rust,
            ..CompileOptions::default()
        }
    }
}

/// What was written.
#[derive(Clone, Debug)]
pub struct ArtifactReport {
    /// The main file first.
    pub files: Vec<PathBuf>,
    /// Of the weights section.
    pub weight_bytes: u64,
    pub weight_hash: u64,
    /// Phases with the time they took, for people.
    pub times: Vec<(&'static str, Duration)>,
}

#[derive(Debug)]
pub enum ArtifactError {
    /// Kernel `index` of a level's program does not compile; a defect of the compiler.
    Kernel {
        level: usize,
        index: usize,
        error: LowerError,
    },
    Machine(MachineError),
    /// The tables of the program cannot be made; a defect of an earlier phase.
    Tables(String),
    /// Timers belong to a command line.
    ProfileOf(Emit),
    /// Callers of libraries give operators themselves.
    LinkOf(Emit),
    /// A crate of sources has no place for an object.
    BuiltInOf(String),
    /// A file to be linked cannot be read.
    Linked {
        path: PathBuf,
        error: io::Error,
    },
    /// What has code for one machine only.
    LevelsOf(&'static str),
    Weight(WeightError),
    /// A file or folder cannot be written.
    File {
        path: PathBuf,
        error: io::Error,
    },
    /// The C compiler cannot be started.
    NoTool {
        tool: PathBuf,
        error: io::Error,
    },
    /// The C compiler failed.
    Tool {
        command: String,
        output: String,
    },
    /// No runtime for this target travels with the compiler.
    NoRuntime {
        triple: String,
    },
}

impl fmt::Display for ArtifactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel { index, error, .. } => write!(f, "kernel k{index}: {error}"),
            Self::Machine(error) => error.fmt(f),
            Self::Tables(what) => write!(f, "cannot write the model's tables: {what}"),
            Self::ProfileOf(emit) => write!(
                f,
                "timers are for executables: --profile and --emit {} exclude each other",
                emit.name()
            ),
            Self::LinkOf(emit) => write!(
                f,
                "--link is for executables: --emit {} leaves operators to the program that opens the model",
                emit.name()
            ),
            Self::BuiltInOf(function) => write!(
                f,
                "the model calls {function}, which is not in crates that --emit rust writes: choose another --emit"
            ),
            Self::Linked { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            Self::LevelsOf(what) => write!(
                f,
                "--cpu multi is for executables, libraries and crates: {what} is for one processor"
            ),
            Self::Weight(error) => error.fmt(f),
            Self::File { path, error } => write!(f, "cannot write {}: {error}", path.display()),
            Self::NoTool { tool, error } => {
                write!(
                    f,
                    "cannot start {}: {error}; linking needs a C compiler (Debian: gcc)",
                    tool.display()
                )
            }
            Self::Tool { command, output } => write!(f, "{command} failed:\n{}", output.trim_end()),
            Self::NoRuntime { triple } => write!(
                f,
                "no runtime library for {triple} travels with this compiler, only for its own architecture; \
                 --emit object and --emit rust need none"
            ),
        }
    }
}

impl std::error::Error for ArtifactError {}

impl From<MachineError> for ArtifactError {
    fn from(error: MachineError) -> Self {
        Self::Machine(error)
    }
}

impl From<WeightError> for ArtifactError {
    fn from(error: WeightError) -> Self {
        Self::Weight(error)
    }
}

/// Compiles a program, or one of each level, and writes the artefact: [`compile()`], then [`write_artifact`].
///
/// # Errors
/// See [`ArtifactError`].
pub fn build(levels: &[Level], options: &ArtifactOptions, out: &Path) -> Result<ArtifactReport, ArtifactError> {
    let start = Instant::now();
    let compiled = compile(levels, &names::model(&options.name), &options.compile_options())?;
    let time = start.elapsed();
    let mut report = write_artifact(levels, &compiled, options, out)?;
    report.times.insert(0, ("kernels", time));
    Ok(report)
}

/// Writes the artefact of programs whose kernels are compiled under the same name, with
/// [`ArtifactOptions::compile_options`]. `out` is the executable, or the folder, which is created.
///
/// # Errors
/// See [`ArtifactError`].
pub fn write_artifact(
    levels: &[Level],
    compiled: &Compiled,
    options: &ArtifactOptions,
    out: &Path,
) -> Result<ArtifactReport, ArtifactError> {
    if options.profile && options.emit != Emit::Exe {
        return Err(ArtifactError::ProfileOf(options.emit));
    }
    if !options.link.is_empty() && options.emit != Emit::Exe {
        return Err(ArtifactError::LinkOf(options.emit));
    }
    if levels.len() > 1 && options.emit == Emit::Object {
        return Err(ArtifactError::LevelsOf("an object"));
    }
    if levels.len() > 1 && options.profile {
        return Err(ArtifactError::LevelsOf("a profile"));
    }
    let (Some(Level { program, .. }), Some(Level { machine, .. })) = (levels.first(), levels.last()) else {
        return Err(ArtifactError::Tables("there is no program".to_owned()));
    };
    if !levels.iter().all(|l| l.program.same_plan(program)) {
        return Err(ArtifactError::Tables(
            "the levels' programs have different plans".to_owned(),
        ));
    }
    let name = names::model(&options.name);
    let plan = memory::plan(program);
    let mut times = Times::start();
    let mut output = Output::begin(out, options.emit)?;

    let (layout, hash) = write_weights(program, &output.work.path().join(WEIGHTS))?;
    times.lap("weights");

    let facts = Facts {
        name: &name,
        default_threads: options.default_threads,
        weight_offsets: &layout.offsets,
        weight_bytes: layout.bytes,
        weight_hash: hash,
        embedded: options.embed_weights,
        main: options.emit == Emit::Exe,
        profile: options.profile.then(|| profile::fingerprint(program, &plan)),
        operators: !options.link.is_empty(),
    };
    let model = Model {
        levels,
        program,
        plan: &plan,
        compiled,
        machine,
        facts,
    };
    if options.emit == Emit::Rust
        && let Some(function) = custom::built_in(program).first()
    {
        return Err(ArtifactError::BuiltInOf((*function).to_owned()));
    }
    match options.emit {
        Emit::Rust => rust_crate::write(&model, &mut output)?,
        Emit::Exe | Emit::Shared | Emit::Static | Emit::Object => native(&model, options, &mut output)?,
    }
    if let Some((file, text)) = compiled.listing.as_ref().filter(|_| options.profile) {
        output.put(LISTING, text.as_bytes())?;
        output.near(LISTING, file);
    }
    let embedded = options.embed_weights && options.emit != Emit::Rust;
    if layout.bytes > 0 && !embedded {
        match options.emit {
            Emit::Exe => output.beside(WEIGHTS, ".weights"),
            _ => output.take(WEIGHTS, &format!("{name}.weights")),
        }
    }
    let files = output.finish()?;
    times.lap("link");
    Ok(ArtifactReport {
        files,
        weight_bytes: layout.bytes,
        weight_hash: hash,
        times: times.list,
    })
}

/// The weights file in the working folder.
const WEIGHTS: &str = "weights";

/// The listing there.
const LISTING: &str = "listing";

/// All there is to know of a model that is being written.
pub(crate) struct Model<'a> {
    pub levels: &'a [Level],
    /// Of the first level, whose plan is that of all.
    pub program: &'a Program,
    pub plan: &'a MemoryPlan,
    pub compiled: &'a Compiled,
    /// Of the last level, which all that run the program have.
    pub machine: &'a Machine,
    pub facts: Facts<'a>,
}

impl Model<'_> {
    /// Objects of the kernels.
    fn kernels(&self) -> Result<Vec<&[u8]>, ArtifactError> {
        fn object(kernel: &CompiledKernel) -> Result<&[u8], ArtifactError> {
            match &kernel.code {
                Code::Object(bytes) => Ok(bytes),
                Code::Assembly(_) => Err(ArtifactError::Tables(format!(
                    "{} was compiled to assembly, not to an object",
                    kernel.symbol
                ))),
            }
        }
        self.compiled.kernels.iter().map(object).collect()
    }

    /// Gives the optimised module of the tables to `take`.
    pub fn with_tables<T>(
        &self,
        take: impl FnOnce(&inkwell::module::Module) -> Result<T, MachineError>,
    ) -> Result<T, ArtifactError> {
        let text = tables::text(self.levels, self.plan, &self.compiled.symbols, &self.facts)?;
        let llvm = LlvmContext::create();
        let module = tables::assemble(self.machine, &llvm, "tables", &text)?;
        Ok(take(&module)?)
    }
}

/// Kernels and tables of a model as objects, for those who link many models at once, and the weights file that it is opened
/// with. `compiled` is as for [`write_artifact`] with [`Emit::Object`]; the descriptor is `NAME_model`.
///
/// # Errors
/// See [`ArtifactError`].
pub fn objects(
    levels: &[Level],
    compiled: &Compiled,
    options: &ArtifactOptions,
    weights_file: &Path,
) -> Result<Vec<Vec<u8>>, ArtifactError> {
    let (Some(Level { program, .. }), Some(Level { machine, .. })) = (levels.first(), levels.last()) else {
        return Err(ArtifactError::Tables("there is no program".to_owned()));
    };
    let (layout, hash) = write_weights(program, weights_file)?;
    let model = Model {
        levels,
        program,
        plan: &memory::plan(program),
        compiled,
        machine,
        facts: Facts {
            name: &names::model(&options.name),
            default_threads: options.default_threads,
            weight_offsets: &layout.offsets,
            weight_bytes: layout.bytes,
            weight_hash: hash,
            embedded: false,
            main: false,
            profile: None,
            operators: false,
        },
    };
    let mut objects: Vec<Vec<u8>> = model.kernels()?.into_iter().map(<[u8]>::to_vec).collect();
    objects.push(model.with_tables(|module| machine.emit_object(module))?);
    Ok(objects)
}

/// Writes a weights file; gives where each weight is in it, and its hash.
fn write_weights(program: &Program, path: &Path) -> Result<(weights::Layout, u64), ArtifactError> {
    let file = fs::File::create(path).map_err(at(path))?;
    let mut file = io::BufWriter::new(file);
    let hash = weights::write(program, &mut file)?;
    file.into_inner().map_err(|error| at(path)(error.into_error()))?;
    Ok((weights::layout(&program.weights), hash))
}

/// Everything that the C compiler links.
fn native(model: &Model, options: &ArtifactOptions, output: &mut Output) -> Result<(), ArtifactError> {
    let (name, machine) = (model.facts.name, model.machine);
    let linker = Linker::new(machine, options.linker.as_deref(), output.work.path());
    let runtime = match options.emit {
        Emit::Exe => link::executable_runtime(machine, options.profile),
        _ => link::library_runtime(machine),
    };
    if runtime.is_none() && options.emit != Emit::Object {
        return Err(ArtifactError::NoRuntime {
            triple: machine.triple.clone(),
        });
    }

    let built_in = link::built_in(machine, custom::built_in(model.program));
    if built_in.is_none() && options.emit != Emit::Object {
        return Err(ArtifactError::NoRuntime {
            triple: machine.triple.clone(),
        });
    }
    let built_in = built_in.unwrap_or_default();

    let mut objects = vec![];
    for (i, bytes) in model.kernels()?.into_iter().enumerate() {
        objects.push(output.put(&format!("k{i}.o"), bytes)?);
    }
    let bytes = model.with_tables(|module| machine.emit_object(module))?;
    objects.push(output.put("tables.o", &bytes)?);
    let embedded = model.facts.embedded && model.facts.weight_bytes > 0;
    if embedded {
        output.put(
            "weights.s",
            link::weights_assembly(name, WEIGHTS, HEADER_BYTES).as_bytes(),
        )?;
        linker.assemble("weights.s", "weights.o")?;
    }
    let weights: &[&str] = if embedded { &["weights.o"] } else { &[] };
    let mut inputs: Vec<&str> = objects.iter().map(String::as_str).collect();
    if matches!(options.emit, Emit::Exe | Emit::Shared) {
        for (file, bytes) in &built_in {
            output.put(file, bytes)?;
            inputs.push(file);
        }
    }
    let runtime_members = |runtime: &[u8]| {
        let members = std::iter::once(("cameo_runtime.o".to_owned(), runtime.to_vec()));
        let built_in = built_in.iter().map(|(file, bytes)| (file.clone(), bytes.to_vec()));
        members.chain(built_in).collect::<Vec<_>>()
    };

    match options.emit {
        Emit::Exe => {
            inputs.extend(weights);
            output.put("exe.o", runtime.unwrap_or_default())?;
            inputs.push("exe.o");
            let linked = options.link.iter().enumerate();
            let linked = linked
                .map(|(i, path)| output.copy(path, i))
                .collect::<Result<Vec<_>, _>>()?;
            inputs.extend(linked.iter().map(String::as_str));
            linker.executable(&inputs, "linked", options.profile)?;
            output.take_as_out("linked");
            return Ok(());
        }
        Emit::Shared => {
            inputs.extend(weights);
            output.put("runtime.o", runtime.unwrap_or_default())?;
            inputs.push("runtime.o");
            output.put("exports", link::exports(name).as_bytes())?;
            linker.shared(&inputs, "exports", &format!("lib{name}.so"), "linked")?;
            output.take("linked", &format!("lib{name}.so"));
        }
        Emit::Static => {
            linker.merge(&inputs, "model.o")?;
            let mut members = vec![(format!("{name}.o"), output.read("model.o")?)];
            if embedded {
                members.push((format!("{name}_weights.o"), output.read("weights.o")?));
            }
            members.extend(runtime_members(runtime.unwrap_or_default()));
            output.archive(&members, &format!("lib{name}.a"))?;
        }
        Emit::Object => {
            inputs.extend(weights);
            linker.merge(&inputs, "model.o")?;
            output.take("model.o", &format!("{name}.o"));
            if let Some(runtime) = runtime {
                output.archive(&runtime_members(runtime), "libcameo.a")?;
            }
        }
        Emit::Rust => {}
    }
    let text = header::text(model.program, name, options.embed_weights);
    output.file(&format!("{name}.h"), text.as_bytes())?;
    output.file("cameo.h", header::CAMEO_H.as_bytes())
}

/// Files on their way: made in a working folder on the same file system, then renamed.
pub(crate) struct Output {
    pub work: tempfile::TempDir,
    out: PathBuf,
    /// Names in the working folder, and where they go.
    files: Vec<(String, PathBuf)>,
}

impl Output {
    fn begin(out: &Path, emit: Emit) -> Result<Self, ArtifactError> {
        let folder = match emit {
            Emit::Exe => out
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new(".")),
            _ => out,
        };
        fs::create_dir_all(folder).map_err(at(folder))?;
        let work = tempfile::Builder::new()
            .prefix(".cameo-")
            .tempdir_in(folder)
            .map_err(at(folder))?;
        Ok(Self {
            work,
            out: out.to_owned(),
            files: vec![],
        })
    }

    /// Writes a file of the working folder; gives its name.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<String, ArtifactError> {
        let path = self.work.path().join(name);
        fs::write(&path, bytes).map_err(at(&path))?;
        Ok(name.to_owned())
    }

    /// Takes a file to be linked into the working folder; gives its name there.
    fn copy(&self, path: &Path, number: usize) -> Result<String, ArtifactError> {
        let bytes = fs::read(path).map_err(|error| ArtifactError::Linked {
            path: path.to_owned(),
            error,
        })?;
        // Linkers tell kinds of files by what is in them.
        self.put(&format!("operators{number}.a"), &bytes)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ArtifactError> {
        let path = self.work.path().join(name);
        fs::read(&path).map_err(at(&path))
    }

    /// Writes a file of the output folder; `name` may have folders.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ArtifactError> {
        let temporary = format!("out{}", self.files.len());
        self.put(&temporary, bytes)?;
        self.take(&temporary, name);
        Ok(())
    }

    /// Moves a file of the working folder to the output folder in the end.
    fn take(&mut self, temporary: &str, name: &str) {
        self.files.push((temporary.to_owned(), self.out.join(name)));
    }

    /// Moves a file to the output path itself.
    fn take_as_out(&mut self, temporary: &str) {
        self.files.push((temporary.to_owned(), self.out.clone()));
    }

    /// Moves a file to the output path with something behind its name.
    fn beside(&mut self, temporary: &str, suffix: &str) {
        let mut path = self.out.clone().into_os_string();
        path.push(suffix);
        self.files.push((temporary.to_owned(), path.into()));
    }

    /// A file of this name in the folder of the output.
    fn near(&mut self, temporary: &str, name: &str) {
        self.files.push((temporary.to_owned(), self.out.with_file_name(name)));
    }

    fn archive(&mut self, members: &[(String, Vec<u8>)], name: &str) -> Result<(), ArtifactError> {
        let temporary = format!("out{}", self.files.len());
        let path = self.work.path().join(&temporary);
        let members: Vec<archive::Member> = members
            .iter()
            .map(|(name, data)| archive::Member {
                name: name.clone(),
                data,
            })
            .collect();
        let write = || {
            let mut file = io::BufWriter::new(fs::File::create(&path)?);
            archive::write(&mut file, &members)?;
            file.into_inner().map_err(io::IntoInnerError::into_error).map(drop)
        };
        write().map_err(at(&path))?;
        self.take(&temporary, name);
        Ok(())
    }

    fn finish(self) -> Result<Vec<PathBuf>, ArtifactError> {
        let mut written = vec![];
        for (temporary, path) in self.files {
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                fs::create_dir_all(folder).map_err(at(folder))?;
            }
            fs::rename(self.work.path().join(temporary), &path).map_err(at(&path))?;
            written.push(path);
        }
        Ok(written)
    }
}

/// Adds the path to an error.
fn at(path: &Path) -> impl FnOnce(io::Error) -> ArtifactError + use<> {
    let path = path.to_owned();
    move |error| ArtifactError::File { path, error }
}

struct Times {
    last: Instant,
    list: Vec<(&'static str, Duration)>,
}

impl Times {
    fn start() -> Self {
        Self {
            last: Instant::now(),
            list: vec![],
        }
    }

    fn lap(&mut self, phase: &'static str) {
        let now = Instant::now();
        self.list.push((phase, now - self.last));
        self.last = now;
    }
}

/// The architecture of this compiler, whose runtime travels with it.
pub(crate) const HOST: Arch = if cfg!(target_arch = "aarch64") {
    Arch::Aarch64
} else {
    Arch::X86_64
};
