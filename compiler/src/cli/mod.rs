//! The command line: flags, help and what each command does, one file per command.
//!
//! Laws: results go to standard output, everything else to standard error; exit code 1 means that something is wrong with
//! the model or its files, 2 that the command line is; `-q` silences all but errors.

mod arrays;
mod compile;
mod diff;
mod execute;
mod explain;
mod inspect;
mod observer;
mod operators;
mod passes;
mod reduce;
mod run;
mod tune;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};

use cameo_kernel::tuning::Tuning;

use self::explain::Explain;
use crate::{CustomOp, Diagnostic, Diagnostics, DimBinding, Emit, Items, Options, Phase, Slice, Target, pipeline};

/// Runs the command line; `args` begin with the program's name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line = match Line::try_parse_from(args) {
        Ok(line) => line,
        Err(e) => {
            // Help and version are errors to clap; a closed pipe is nobody's.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let done = match line.command {
        Command::Compile(a) => compile::main(&a),
        Command::Run(a) => run::main(&a),
        Command::Tune(a) => tune::main(&a),
        Command::Inspect(a) => inspect::main(&a),
        Command::Opt(a) => passes::main(&a),
        Command::Print(a) => passes::print(&a),
        Command::Diff(a) => diff::main(&a),
        Command::Reduce(a) => reduce::main(&a),
    };
    match done {
        Ok(code) => code,
        Err(Failure::Usage(message)) => {
            eprintln!("error: {message}\n\nFor more information, try '--help'.");
            ExitCode::from(2)
        }
        Err(Failure::Model(diagnostics)) => {
            eprintln!("{diagnostics}");
            ExitCode::FAILURE
        }
    }
}

/// Why a command did not do what it was asked.
enum Failure {
    /// The command line makes no sense.
    Usage(String),
    Model(Diagnostics),
}

impl From<Diagnostics> for Failure {
    fn from(d: Diagnostics) -> Self {
        Self::Model(d)
    }
}

impl From<Diagnostic> for Failure {
    fn from(d: Diagnostic) -> Self {
        Self::Model(d.into())
    }
}

type Done = Result<ExitCode, Failure>;

/// Writes to standard output; a reader that went away (`| head`) is no error.
fn show(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[derive(Parser)]
#[command(name = "cameo", version, about, long_about = None, after_help = EXAMPLES, max_term_width = 100)]
/// Compiles neural networks ahead of time: an ONNX file goes in, a native program comes out.
struct Line {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  cameo compile model.onnx -o model          the executable `model` and its weights `model.weights`
  ./model --inputs x.npz --outputs y.npz     run it; `./model --help` says more
  cameo inspect model.onnx                   what is in a model, and can it be compiled?
  cameo diff model.onnx --inputs x.npz       is the compiled program right?

Each command has its own examples: `cameo help compile`.
Exit codes: 0 done, 1 something is wrong with the model or its files, 2 with the command line.";

#[derive(Subcommand)]
enum Command {
    Compile(CompileArgs),
    Run(RunArgs),
    Tune(TuneArgs),
    Inspect(InspectArgs),
    Opt(OptArgs),
    Print(PrintArgs),
    Diff(DiffArgs),
    Reduce(ReduceArgs),
}

/// Which model, and what is known of it.
#[derive(Args)]
struct ModelArgs {
    /// The model: an ONNX file, or text IR (`*.ir`)
    model: PathBuf,
    #[command(flatten)]
    known: KnownArgs,
    #[command(flatten)]
    choices: ChoiceArgs,
    #[command(flatten)]
    part: PartArgs,
}

/// What the user knows of a model.
#[derive(Args)]
struct KnownArgs {
    /// Fix a dynamic dimension (`B=1`) or bound it (`S=1..512`, both ends included); may be repeated
    #[arg(long = "dim", value_name = "NAME=N|NAME=A..B", value_parser = dim)]
    dims: Vec<(String, DimBinding)>,
    /// Make an input a constant with the elements of a NumPy `.npy` file: what depends on it alone is computed at compile
    /// time, if that is no work for minutes; may be repeated
    #[arg(long = "freeze-input", value_name = "NAME=FILE", value_parser = freeze)]
    frozen: Vec<(String, PathBuf)>,
    /// What an input holds that is a sequence or an optional: so many tensors (`3`) of the shape that the model declares,
    /// tensors of these shapes (`[2,3],[?,N]`), or `none`. The program has an input for each, `NAME[0]`, `NAME[1]` and so on;
    /// may be repeated
    #[arg(long = "items", value_name = "NAME=ITEMS", value_parser = items)]
    items: Vec<(String, Items)>,
    /// An operator that Cameo does not know and whoever runs the program supplies (`cameo.h` says how), with what it takes and
    /// gives: `com.acme::Foo(f32, i64?, any...) -> f32[3], =0, =1[2]`. Of operands the element type or `any`, `?` for one that
    /// may be left out, `...` for any number of the last one. Of results the element type and the number of axes; `=0` is of the
    /// type and shape of operand 0, `=1[2]` of the type of operand 1. The name alone: the model declares the results
    /// (`value_info`). May be repeated
    #[arg(long = "custom-op", value_name = "OPERATOR", value_parser = custom_op)]
    custom_ops: Vec<CustomOp>,
}

impl KnownArgs {
    /// Adds to other options.
    fn options(&self, others: Options) -> Result<Options, Diagnostics> {
        let read = |(name, path): &(String, PathBuf)| Ok((name.clone(), arrays::single(path)?));
        Ok(Options {
            dims: self.dims.clone(),
            frozen: self.frozen.iter().map(read).collect::<Result<_, Diagnostics>>()?,
            items: self.items.clone(),
            custom_ops: self.custom_ops.clone(),
            ..others
        })
    }
}

impl ModelArgs {
    fn options(&self) -> Result<Options, Diagnostics> {
        self.known.options(Options {
            slice: self.part.slice.clone(),
            varlen: self.part.varlen,
            ..self.choices.options()?
        })
    }
}

#[derive(Args)]
struct ChoiceArgs {
    /// Leave a pass out, to find the one that is to blame or to see what it is worth (`cameo opt --list` names them); may be
    /// repeated. The program may then be slower, and a model that needs the pass is refused
    #[arg(long = "disable-pass", value_name = "PASS", value_parser = pass)]
    disabled: Vec<String>,
    /// Compute convolutions as plain sums of products only: without it, 3×3 windows take Winograd's form where it is
    /// faster, whose results differ by some 1e-6 of their size
    #[arg(long)]
    exact_conv: bool,
    /// Let outputs that are an input with more rows behind it (`past` and `present` of a decoder) stay in the input's memory,
    /// to which a step adds its rows: the caller gives memory with room for them (`cameo_bind_cache`)
    #[arg(long)]
    in_place_cache: bool,
    /// Take schedules from a file that `cameo tune` wrote, for the products that it names
    #[arg(long, value_name = "FILE")]
    tuning: Option<PathBuf>,
}

impl ChoiceArgs {
    /// Options with these choices.
    fn options(&self) -> Result<Options, Diagnostics> {
        let tuning = match &self.tuning {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| Diagnostic::file(path, &e))?;
                let parsed = Tuning::parse(&text);
                Some(parsed.map_err(|e| Diagnostic::invalid(format!("{}: {e}", path.display())))?)
            }
            None => None,
        };
        Ok(Options {
            disabled_passes: self.disabled.clone(),
            exact_conv: self.exact_conv,
            in_place_cache: self.in_place_cache,
            tuning: tuning.map(Arc::new),
            ..Options::default()
        })
    }
}

/// What of the network is computed.
#[derive(Args)]
struct PartArgs {
    /// Cut a smaller network out of one that was trained for it: the first `hidden` elements of the residual stream,
    /// `heads` of each attention, `ffn` inner elements of each feed-forward block, the first `layers`; those that are not
    /// named stay. `ffn` and `heads` may be a list, one for each: `ffn=[512,1024]`
    #[arg(long, value_name = "NAME=N,...")]
    slice: Option<Slice>,
    /// Compute only the tokens that the attention mask leaves of padded sequences: what the model says of padding becomes
    /// zeros. For models whose attentions are all masked by one input
    #[arg(long)]
    varlen: bool,
}

/// For which machine.
#[derive(Args)]
struct TargetArgs {
    /// Instruction set: `x86-64-v2` (SSE4.2), `x86-64-v3` (AVX2), `x86-64-v4` (AVX-512), `native`, the highest that this machine
    /// has, tuned for this machine, or `multi`: code for all three, of which the program takes the best that it can when it
    /// starts (executables, libraries and crates); on aarch64 `generic` [default: native; for a `--target` of another
    /// architecture than this machine's, x86-64-v3 or generic]
    #[arg(long, value_name = "CPU")]
    cpu: Option<String>,
    /// Target triple, such as `aarch64-unknown-linux-gnu`; by default this machine's
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
}

impl TargetArgs {
    fn target(&self) -> Target {
        let triple = self.target.clone();
        let cpu = self
            .cpu
            .clone()
            .unwrap_or_else(|| Target::usual_cpu(triple.as_deref()).to_owned());
        Target { triple, cpu }
    }
}

/// Compile a model
#[derive(Args)]
#[command(after_help = COMPILE_EXAMPLES)]
struct CompileArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// What to write [executable: a file; else: a folder]; by default named like the model, in the current folder
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// The form of the program
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Form::Exe)]
    emit: Form,
    /// Put the weights into the program instead of a file beside it
    #[arg(long)]
    embed_weights: bool,
    /// Link an object or static library into the executable that has the operators of `--custom-op` (`cameo_operators` of
    /// `cameo.h`); may be repeated. Else the program is told a shared library: `./model --op-library libfoo.so`
    #[arg(long, value_name = "FILE")]
    link: Vec<PathBuf>,
    /// Values that become the outputs instead of the model's own: names in the ONNX file, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    outputs: Vec<String>,
    /// Threads the program uses when it is not told; by default the CPUs that the process may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads_default: Option<u32>,
    /// Time every step when the executable is run with `--profile FILE`, and keep the names of its kernels, with the ONNX node
    /// that each begins with, for `perf` and `gdb`; these also show the lines of `OUTPUT.kernels`, which is written beside the
    /// program: what the kernels compute and for which ONNX nodes. Kernels and their division among threads stay the same;
    /// without this nothing of it is in the program
    #[arg(long)]
    profile: bool,
    /// Write every stage into this folder: graphs (which can be read back), kernels, MLIR, LLVM IR, weights
    #[arg(long, value_name = "DIR")]
    dump_ir: Option<PathBuf>,
    /// Only the graph after this pass (or `import`); to standard output without `--dump-ir`; may be repeated
    #[arg(long, value_name = "PASS")]
    dump_ir_after: Vec<String>,
    /// End after this phase: import, passes, partition, codegen or link
    #[arg(long, value_name = "PHASE")]
    stop_after: Option<Phase>,
    /// Print how long each phase and pass took; of a pass also the number of nodes before and after it, of changes, and of
    /// candidates that it left alone
    #[arg(long)]
    time_passes: bool,
    /// Check the graph after every pass
    #[arg(long)]
    verify: bool,
    /// Print what each pass did, what it left alone (told once) for which reason, and the convolutions in Winograd's form:
    /// as text, or (`--explain=json`) as an object per line to standard output
    #[arg(long, value_enum, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    explain: Option<Explain>,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

impl CompileArgs {
    /// The file that is written.
    fn output(&self) -> PathBuf {
        self.output
            .clone()
            .unwrap_or_else(|| compile::default_output(&self.model.model))
    }

    /// Name of the listing that profilers and debuggers show lines of.
    fn listing(&self) -> Option<String> {
        let output = self.output();
        let name = output.file_name().filter(|_| self.profile)?;
        Some(format!("{}.kernels", name.to_string_lossy()))
    }

    fn options(&self) -> Result<Options, Diagnostics> {
        Ok(Options {
            outputs: (!self.outputs.is_empty()).then(|| self.outputs.clone()),
            verify: self.verify,
            stop_after: self.stop_after,
            name: Some(compile::stem(&self.model.model)),
            emit: self.emit.emit(),
            listing: self.listing(),
            keep_text: self.dump_ir.is_some() && self.dump_ir_after.is_empty(),
            ..self.model.options()?
        })
    }
}

const COMPILE_EXAMPLES: &str = "\
Examples:
  cameo compile minilm.onnx -o minilm
      the executable `minilm` and `minilm.weights`
  cameo compile minilm.onnx --dim B=1 --dim S=1..512 --cpu x86-64-v3 -o minilm
      one text at a time, at most 512 tokens, for any processor with AVX2
  cameo compile minilm.onnx --cpu multi -o minilm
      one program for every x86-64 processor since 2009, as fast on each as one for it alone
  cameo compile clip.onnx --freeze-input input_ids=classes.npy -o clip
      the branch that reads `input_ids` alone is computed now and gone from the program
  cameo compile bert.onnx --slice hidden=384,heads=6,ffn=1536,layers=6 -o small
      the first half of every axis and of the layers, of weights that were trained to be cut
  cameo compile bert.onnx --varlen
      padded texts, of which only the tokens are computed
  cameo compile llama.onnx --in-place-cache --emit shared
      a decoder that adds keys and values to the caller's memory and never copies those of the tokens before
  cameo compile digits.onnx --emit static --embed-weights -o out/
      `out/libdigits.a` and `out/digits.h` for a C program
  cameo compile minilm.onnx --emit rust -o model/
      a Rust crate named `minilm`
  cameo compile model.onnx --custom-op 'com.acme::Foo(f32) -> f32[3]' -o model && ./model --op-library libfoo.so ...
      a model with an operator of your own
  cameo compile minilm.onnx --profile -o minilm && ./minilm --inputs x.npz --profile steps.json
      how long each step takes, and how near that is to what this machine can do
  cameo compile digits.onnx --dump-ir dump/ --stop-after passes
      the graph after every pass that changed it
  cameo compile digits.onnx --explain=json -q > decisions.jsonl
      what the passes did and left alone, an object per line
  cameo compile digits.onnx --dump-ir-after fold_scales --stop-after passes -q
      one of them, to standard output";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// An executable
    Exe,
    /// A shared library with a C header
    Shared,
    /// A static library with a C header
    Static,
    /// An object file with a C header, without the runtime library
    Object,
    /// A Rust crate
    Rust,
}

impl Form {
    fn emit(self) -> Emit {
        match self {
            Self::Exe => Emit::Exe,
            Self::Shared => Emit::Shared,
            Self::Static => Emit::Static,
            Self::Object => Emit::Object,
            Self::Rust => Emit::Rust,
        }
    }
}

/// Measure schedules for a model on this machine, and write the best of them to a file
#[derive(Args)]
#[command(after_help = "\
Examples:
  cameo tune minilm.onnx --inputs x.npz && cameo compile minilm.onnx --tuning minilm.tuning -o minilm
  cameo tune minilm.onnx --at B=1 --at S=128 --threads 2 --budget 30 -o two.tuning")]
struct TuneArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    feed: FeedArgs,
    /// Threads of the programs that are measured
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Try no other schedule after so many seconds; what was chosen is then compared with the default, some seconds more
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    budget: f64,
    /// Shared library with the operators of `--custom-op`
    #[arg(long, value_name = "FILE")]
    op_library: Option<PathBuf>,
    /// What to write; by default named like the model, with `.tuning`, in the current folder
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Compile a model to a temporary program and run it
#[derive(Args)]
#[command(after_help = "\
Examples:
  cameo run digits.onnx --inputs x.npz --outputs y.npz
  cameo run digits.onnx --inputs x.npz --bench --threads 2")]
struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// NumPy `.npz` with one array per input
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// Where the outputs go, as `.npz`
    #[arg(long, value_name = "FILE")]
    outputs: Option<PathBuf>,
    /// Threads; by default the CPUs that the process may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Shared library with the operators of `--custom-op`
    #[arg(long, value_name = "FILE")]
    op_library: Option<PathBuf>,
    /// Time it; one line of JSON
    #[arg(long)]
    bench: bool,
    /// Print nothing but errors and results
    #[arg(short, long)]
    quiet: bool,
}

/// Show what is in a model, and everything in it that cannot be compiled
#[derive(Args)]
#[command(after_help = "\
Examples:
  cameo inspect model.onnx
  cameo inspect model.onnx --optimized --json    after all passes, with the number of kernels
  cameo inspect model.onnx --explain             what each pass does and leaves alone
  cameo inspect model.onnx --report model.html   graphs, kernels, memory as a page
  cameo inspect model.onnx --report model.html --profile steps.json    with measured times
  cameo inspect --ops                            the operators that Cameo supports
  cameo inspect --ops Conv                       all of one: formula, element types, attributes

The exit code is 1 when the model cannot be compiled.")]
struct InspectArgs {
    /// The model: an ONNX file, or text IR (`*.ir`)
    #[arg(required_unless_present = "ops")]
    model: Option<PathBuf>,
    #[command(flatten)]
    known: KnownArgs,
    #[command(flatten)]
    choices: ChoiceArgs,
    /// As of `compile`; what is left after all passes is shown
    #[arg(long, value_name = "NAME=N,...")]
    slice: Option<Slice>,
    /// As of `compile`, after all passes
    #[arg(long)]
    varlen: bool,
    /// Values that become the outputs instead of the model's own, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    outputs: Vec<String>,
    #[command(flatten)]
    target: TargetArgs,
    /// After all passes, with the number of kernels and the memory of a run
    #[arg(long)]
    optimized: bool,
    /// Extent of a dynamic dimension at which FLOPs and memory are told; may be repeated
    #[arg(long = "at", value_name = "NAME=N", value_parser = extent, conflicts_with_all = ["explain", "report", "ops"])]
    at: Vec<(String, i64)>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// What each pass does, what it leaves alone (told once) for which reason, and the convolutions in Winograd's form: as
    /// text, or (`--explain=json`) as an object per line
    #[arg(
        long, value_enum, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "text",
        conflicts_with_all = ["json", "optimized", "report", "ops"],
    )]
    explain: Option<Explain>,
    /// Write a page for a browser, complete in one file: the graph before and after all passes, the kernels, the memory
    /// over time, the decisions of the passes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "optimized", "ops"])]
    report: Option<PathBuf>,
    /// With `--report`: also how long each step took, from the file that `./model --profile FILE` wrote, when the model was
    /// compiled with `--profile` and the same options
    #[arg(long, value_name = "FILE", requires = "report")]
    profile: Option<PathBuf>,
    /// The table of supported operators: opsets, inputs, outputs, limits; with a name, everything about that one
    #[arg(long, value_name = "NAME", num_args = 0..=1)]
    ops: Option<Option<String>>,
    /// With `--ops`, without a name: as a page of Markdown
    #[arg(long, requires = "ops")]
    markdown: bool,
}

/// Run passes on a graph in text form
#[derive(Args)]
#[command(after_help = "\
Examples:
  cameo opt dump/00-import.ir --passes known_shapes,cse
  cameo opt dump/00-import.ir --passes known_shapes -o after/01-known_shapes.ir

Large weights are read from, and written to, the folder `weights` beside the text. `cameo opt --list` names the passes.")]
struct OptArgs {
    /// The graph: text IR, as `--dump-ir` writes it, or an ONNX file
    #[arg(required_unless_present = "list")]
    file: Option<PathBuf>,
    /// Passes to run, in this order, separated by commas
    #[arg(long, value_name = "PASSES", value_delimiter = ',', required_unless_present = "list")]
    passes: Vec<String>,
    /// Where the result goes; standard output by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Check the graph after every pass
    #[arg(long)]
    verify: bool,
    /// Print what each pass did, and what it left alone for which reason: as text, or (`--explain=json`, with `--output`) as
    /// an object per line to standard output
    #[arg(long, value_enum, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    explain: Option<Explain>,
    /// List the passes
    #[arg(long)]
    list: bool,
}

/// Print a model as text IR
#[derive(Args)]
#[command(after_help = "\
Examples:
  cameo print model.onnx
  cameo print dump/07-transposes.ir              checks it and prints it in canonical form
  cameo print model.onnx -o model.ir             with its weights in the folder `weights` beside it")]
struct PrintArgs {
    /// The graph: an ONNX file or text IR
    file: PathBuf,
    #[command(flatten)]
    known: KnownArgs,
    /// Where the text goes; standard output by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// With which inputs a graph is run.
#[derive(Args)]
struct FeedArgs {
    /// NumPy `.npz` with one array per input; by default made-up numbers
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// Extent of a dynamic dimension of made-up inputs; small by default
    #[arg(long = "at", value_name = "NAME=N", value_parser = extent, conflicts_with = "inputs")]
    at: Vec<(String, i64)>,
    /// Seed of made-up inputs
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "inputs")]
    seed: u64,
}

/// How far results may differ.
#[derive(Args)]
struct ToleranceArgs {
    /// Largest difference allowed, relative to max(1, largest magnitude in the tensor)
    #[arg(long, value_name = "X", default_value_t = 1e-4)]
    tolerance: f64,
}

/// Compare the compiled program with the reference interpreter, node by node
#[derive(Args)]
#[command(after_help = "\
Examples:
  cameo diff model.onnx --inputs x.npz
  cameo diff model.onnx --at B=2 --at S=16       with made-up inputs of these extents
  cameo diff model.onnx --disable-pass algebra   is it that pass?

Every tensor that the compiled program keeps in memory is compared with the interpreter's, in the order of execution. The
first one that departs is printed with the graph around it; the exit code is then 1.")]
struct DiffArgs {
    /// The model: an ONNX file or text IR
    file: PathBuf,
    #[command(flatten)]
    known: KnownArgs,
    #[command(flatten)]
    choices: ChoiceArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    feed: FeedArgs,
    #[command(flatten)]
    tolerance: ToleranceArgs,
    /// Threads of the compiled program
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: u32,
    /// Print every tensor that was compared
    #[arg(long)]
    all: bool,
}

/// Shrink a graph that shows a fault
#[derive(Args)]
#[command(after_help = "\
Examples:
  cameo reduce model.onnx -o small.ir
      while the compiled program differs from the interpreter, or is refused or ends for the same reason
  cameo reduce bad.ir --check 'cameo opt {} --passes transposes --verify 2>&1 | grep -q broken' -o small.ir
      while the command succeeds; {} stands for the file with the candidate")]
struct ReduceArgs {
    /// The graph: an ONNX file or text IR
    file: PathBuf,
    /// A smaller graph is kept while this shell command exits with 0; `{}` stands for its file
    #[arg(long, value_name = "COMMAND")]
    check: Option<String>,
    /// Where the result goes; standard output by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    known: KnownArgs,
    /// Extent of a dynamic dimension of the made-up inputs; small by default
    #[arg(long = "at", value_name = "NAME=N", value_parser = extent)]
    at: Vec<(String, i64)>,
    /// Seed of the made-up inputs
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    tolerance: ToleranceArgs,
    /// Print nothing but errors and the result
    #[arg(short, long)]
    quiet: bool,
}

/// `B=1` or `S=1..512`.
fn freeze(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok((name.into(), file.into())),
        _ => Err("expected NAME=FILE.npy".into()),
    }
}

fn dim(text: &str) -> Result<(String, DimBinding), String> {
    let (name, value) = text.rsplit_once('=').ok_or("expected NAME=N or NAME=A..B")?;
    let number = |s: &str| {
        s.trim()
            .parse::<i64>()
            .map_err(|_| format!("{s:?} is not a whole number"))
    };
    let binding = match value.split_once("..") {
        Some((min, max)) => DimBinding::Range {
            min: number(min)?,
            max: number(max.trim_start_matches('='))?,
        },
        None => DimBinding::Fixed(number(value)?),
    };
    let (min, max) = match binding {
        DimBinding::Fixed(n) => (n, n),
        DimBinding::Range { min, max } => (min, max),
    };
    if name.is_empty() {
        return Err("the name is missing".into());
    }
    if min < 0 || max < min {
        return Err(format!("{min}..{max} is not a range of extents"));
    }
    Ok((name.into(), binding))
}

/// The name of a pass.
fn pass(text: &str) -> Result<String, String> {
    match cameo_passes::by_name(text) {
        Some(p) => Ok(p.name.into()),
        None => Err(pipeline::known_passes()),
    }
}

/// `xs=3`, `xs=[2,3],[4]` or `x=none`.
fn items(text: &str) -> Result<(String, Items), String> {
    match text.rsplit_once('=') {
        Some((name, items)) if !name.is_empty() => Ok((name.into(), items.parse()?)),
        _ => Err("expected NAME=ITEMS".into()),
    }
}

fn custom_op(text: &str) -> Result<CustomOp, String> {
    text.parse()
}

/// `B=2`.
fn extent(text: &str) -> Result<(String, i64), String> {
    match dim(text)? {
        (name, DimBinding::Fixed(n)) => Ok((name, n)),
        _ => Err("expected one number".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        Line::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for c in Line::command().get_subcommands() {
            let help = c.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("cameo {}", c.get_name())), "{}", c.get_name());
            for a in c.get_arguments() {
                assert!(a.get_help().is_some(), "{} {}", c.get_name(), a.get_id());
            }
        }
    }

    #[test]
    fn dimensions_are_read() {
        assert_eq!(dim("B=1"), Ok(("B".into(), DimBinding::Fixed(1))));
        assert_eq!(
            dim("S=1..512"),
            Ok(("S".into(), DimBinding::Range { min: 1, max: 512 }))
        );
        assert_eq!(dim("a=b=3"), Ok(("a=b".into(), DimBinding::Fixed(3))));
        for bad in [
            "B",
            "B=",
            "=1",
            "B=x",
            "B=-1",
            "B=5..2",
            "B=1..",
            "B=99999999999999999999",
        ] {
            assert!(dim(bad).is_err(), "{bad}");
        }
        assert!(extent("B=1..2").is_err());
    }

    #[test]
    fn a_wrong_command_line_ends_with_2_and_help_with_0() {
        let run = |args: &[&str]| main(args.iter().map(OsString::from));
        let code = |c: ExitCode| format!("{c:?}");
        assert_eq!(code(run(&["cameo", "compile"])), code(ExitCode::from(2)));
        assert_eq!(
            code(run(&["cameo", "compile", "x.onnx", "--dim", "B"])),
            code(ExitCode::from(2))
        );
        assert_eq!(code(run(&["cameo", "help"])), code(ExitCode::SUCCESS));
    }
}
