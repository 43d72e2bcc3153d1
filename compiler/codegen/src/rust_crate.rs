//! `--emit rust`: the model as a Rust crate of its own, without dependencies and without `build.rs`.
//!
//! ```text
//! Cargo.toml          no dependencies
//! NAME.weights        mapped at run time
//! src/lib.rs          the typed interface
//! src/model.s         kernels and tables, taken in by `global_asm!`
//! src/abi.rs, src/cameo_core/, src/runtime/, src/libc.rs    the runtime's own sources, as modules
//! ```
//!
//! Law: everything in the assembly is named after the model, so that several such crates fit into one program.

use std::collections::BTreeSet;
use std::fmt::Write;

use cameo_ir::DType;
use cameo_kernel::program::Io;

use crate::artifact::{ArtifactError, Model, Output};
use crate::compile::Code;
use crate::header::{Tensor, comment, tensors, type_of};
use crate::object::Arch;

/// Sources of the runtime by their path in the crate.
const RUNTIME_SOURCES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/runtime_sources.rs"));

/// Stands for the C library's bindings.
const LIBC: &str = include_str!("rust_crate/libc.rs");

/// Writes the crate, without the weights.
pub fn write(model: &Model, output: &mut Output) -> Result<(), ArtifactError> {
    let name = model.facts.name;
    output.file("Cargo.toml", manifest(name).as_bytes())?;
    output.file("src/lib.rs", interface(model).as_bytes())?;
    output.file("src/model.s", assembly(model)?.as_bytes())?;
    output.file("src/libc.rs", LIBC.as_bytes())?;
    for (path, text) in RUNTIME_SOURCES {
        if *path != "runtime/c_api.rs" {
            output.file(&format!("src/{path}"), as_module(path, text).as_bytes())?;
        }
    }
    Ok(())
}

fn manifest(name: &str) -> String {
    format!(
        "# Written by the Cameo compiler.\n[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
         publish = false\nautobenches = false\nautobins = false\nautoexamples = false\nautotests = false\n\n\
         [dependencies]\n"
    )
}

/// A source of the runtime as a module of the generated crate.
fn as_module(path: &str, text: &str) -> String {
    // Its tests stay at home.
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut out = text.replace("#![no_std]\n", "");
    if let Some((module, _)) = path.split_once('/') {
        // Its own paths first: those of other crates begin with `crate`, too, when they are replaced.
        out = out
            .replace("crate::", &format!("crate::{module}::"))
            .replace("cameo_abi::", "crate::abi::");
        if module != "cameo_core" {
            out = out.replace("cameo_core::", "crate::cameo_core::");
        }
    }
    // The C interface would be defined twice in a program with two models.
    out = out.replace("pub mod c_api;\n", "");
    if out.contains("libc::") {
        out.push_str("\nuse crate::libc;\n");
    }
    out
}

/// All kernels and tables as one assembly text.
fn assembly(model: &Model) -> Result<String, ArtifactError> {
    let name = model.facts.name;
    let mut out = String::new();
    for (i, kernel) in model.compiled.kernels.iter().enumerate() {
        let Code::Assembly(text) = &kernel.code else {
            return Err(ArtifactError::Tables(format!(
                "{} was compiled to an object, not to assembly",
                kernel.symbol
            )));
        };
        append(&mut out, text, &format!("{name}_k{i}_"));
    }
    let tables = model.with_tables(|module| model.machine.emit_assembly(module))?;
    append(&mut out, &tables, &format!("{name}_tables_"));
    Ok(out)
}

/// Appends one assembly file, with `prefix` in its local labels: those of all files and of the crate's own code must differ.
fn append(out: &mut String, text: &str, prefix: &str) {
    for line in text.lines() {
        let directive = line.trim_start();
        // About files, not about code.
        if [".file", ".ident", ".addrsig", ".section\t\".note.GNU-stack\""]
            .iter()
            .any(|d| directive.starts_with(d))
        {
            continue;
        }
        let (mut quoted, mut escaped) = (false, false);
        for (i, c) in line.char_indices() {
            out.push(c);
            if c == 'L' && !quoted && line[..i].ends_with('.') && begins_symbol(line, i - 1) {
                out.push_str(prefix);
            }
            quoted ^= c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
        }
        out.push('\n');
    }
}

/// Whether the character at `at` begins a symbol.
fn begins_symbol(line: &str, at: usize) -> bool {
    let before = line[..at].chars().next_back();
    before.is_none_or(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '@')))
}

/// The type of an element in Rust: halves as bits, booleans as bytes of 0 or 1.
fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::F64 => "f64",
        DType::U8 | DType::Bool => "u8",
        t if t.is_narrow() => "u8",
        DType::U16 | DType::F16 | DType::BF16 => "u16",
        DType::U32 => "u32",
        DType::U64 => "u64",
        DType::I8 => "i8",
        DType::I16 => "i16",
        DType::I32 => "i32",
        DType::String => "Text<'a>",
        _ => "i64",
    }
}

/// The name of a type in the runtime's `DType`.
fn variant(dtype: DType) -> String {
    let name = format!("{dtype:?}");
    debug_assert!(cameo_abi::DType::ALL.iter().any(|d| format!("{d:?}") == name));
    name
}

fn tensor_type(io: &Io) -> String {
    format!("Tensor<'a, {}, {}>", element(io.dtype), io.shape.len())
}

/// The struct of inputs or outputs. Without fields it has no lifetime.
fn structure(name: &str, doc: &str, list: &[Tensor]) -> String {
    let mut out = format!("/// {doc}\n#[derive(Clone, Copy, Debug)]\n");
    // Writing to strings cannot fail, hence the discarded results.
    if list.is_empty() {
        let _ = writeln!(out, "pub struct {name};");
        return out;
    }
    let _ = writeln!(out, "pub struct {name}<'a> {{");
    for tensor in list {
        let _ = writeln!(
            out,
            "    /// `{}`: {}\n    pub {}: {},",
            comment(&tensor.io.name).replace('`', "'"),
            type_of(tensor.io).replace('[', "`[").replace(']', "]`"),
            tensor.field,
            tensor_type(tensor.io)
        );
    }
    out.push_str("}\n");
    out
}

/// `lib.rs`.
fn interface(model: &Model) -> String {
    let (program, facts) = (model.program, &model.facts);
    let name = facts.name;
    let inputs = tensors(&program.inputs, &mut BTreeSet::new());
    let outputs = tensors(&program.outputs, &mut BTreeSet::new());
    let lifetime = |list: &[Tensor]| if list.is_empty() { "" } else { "<'_>" };

    let mut bind = String::new();
    let mut views = vec![];
    for (i, tensor) in inputs.iter().enumerate() {
        let field = &tensor.field;
        let _ = writeln!(bind, "        let shape{i} = inputs.{field}.extents();");
        let view = format!("TensorView::new(inputs.{field}.data, &shape{i})");
        views.push(if tensor.io.dtype == DType::String {
            format!("TensorView::texts(inputs.{field}.data, &shape{i})")
        } else if same_element(tensor.io.dtype) {
            view
        } else {
            format!(
                "TensorView::from_bytes(DType::{}, {view}.bytes(), &shape{i})",
                variant(tensor.io.dtype)
            )
        });
    }
    let mut results = vec![];
    for (i, tensor) in outputs.iter().enumerate() {
        results.push(format!(
            "            {}: Tensor::{}(self.context.output({i})?),\n",
            tensor.field,
            if tensor.io.dtype == DType::String {
                "strings"
            } else {
                "output"
            }
        ));
    }
    let result = if outputs.is_empty() {
        "Outputs".to_owned()
    } else {
        format!("Outputs {{\n{}        }}", results.concat())
    };
    let use_inputs = if inputs.is_empty() {
        "        let Inputs = inputs;\n"
    } else {
        ""
    };

    let weights = match (facts.weight_bytes, facts.embedded) {
        (0, _) => "None".to_owned(),
        (_, true) => "None".to_owned(),
        (_, false) => format!("Some(Path::new(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/{name}.weights\")))"),
    };
    let default = match (facts.weight_bytes, facts.embedded) {
        (0, _) => "the model has none",
        (_, true) => "those that are linked in",
        (_, false) => "the file in this crate's folder",
    };
    let embed = if facts.embedded && facts.weight_bytes > 0 {
        let text = crate::link::weights_assembly(name, "WEIGHTS", crate::weights::HEADER_BYTES);
        let (before, after) = text.split_once("WEIGHTS").unwrap_or_default();
        // The assembler reads the file; the path is known where the crate is compiled.
        format!(
            "core::arch::global_asm!(\n    concat!({before:?}, env!(\"CARGO_MANIFEST_DIR\"), \"/{name}.weights\", {after:?}),\n    \
             options(raw)\n);\n"
        )
    } else {
        String::new()
    };
    let (arch, syntax) = match model.machine.arch {
        Arch::X86_64 => ("x86_64", "att_syntax, raw"),
        Arch::Aarch64 => ("aarch64", "raw"),
    };
    // Only tensors whose Rust type does not say it name their type.
    let dtype = if inputs.iter().any(|tensor| !same_element(tensor.io.dtype)) {
        "DType, "
    } else {
        ""
    };
    let title = comment(&program.name).replace('`', "'");
    let input_struct = structure(
        "Inputs",
        "What a run reads. Data is dense, row-major, and not copied.",
        &inputs,
    );
    let output_struct = structure("Outputs", "What a run gives, until the next one.", &outputs);
    let (inputs_life, outputs_life) = (lifetime(&inputs), lifetime(&outputs));
    let views = views.join(", ");
    // Only models that have strings have something for them.
    let has_strings = inputs
        .iter()
        .chain(&outputs)
        .any(|tensor| tensor.io.dtype == DType::String);
    let (text, strings) = if has_strings { (", Text", STRINGS) } else { ("", "") };
    // Whoever opens a model with operators of its own vouches for them.
    let custom = program.supplied().next().is_some();
    let when = |text: &'static str| if custom { text } else { "" };
    let (uses, used) = (
        when(", Operator, OperatorArguments, OperatorTensor, OPERATOR_VERSION"),
        when(", OpenOptions"),
    );
    let (unsafety, parameter, argument) = (when("unsafe "), when(", operators: &[Operator]"), when(", operators"));
    let safety = when(
        "    ///\n    /// # Safety\n    /// Names and functions of the operators are C strings and functions of the types in [`Operator`] that read and write \
         only what\n    /// they are given, and what `user` points to stays valid as long as the model.\n",
    );
    let (block, end) = if custom { ("unsafe { ", " }") } else { ("", "") };
    let open = if custom {
        format!(
            "let options = super::OpenOptions {{ level: None, operators }};\n        \
             // SAFETY: the compiler wrote the descriptor, which is constant data of this program; the caller's promise.\n        \
             unsafe {{ super::runtime::Model::open_with(&{name}_model, weights, &options) }}"
        )
    } else {
        format!(
            "// SAFETY: the compiler wrote the descriptor, which is constant data of this program.\n        \
             unsafe {{ super::runtime::Model::open(&{name}_model, weights) }}"
        )
    };
    let module = when("super::");
    let parameter_of_desc = parameter.replace("Operator", &format!("{module}Operator"));
    format!(
        r#"//! The model `{title}`, compiled by Cameo to native code.
//!
//! [`Model::open`] maps the weights, [`Model::run`] takes [`Inputs`] and gives [`Outputs`]. Wrong shapes and files are an
//! [`Error`]. The code is for {arch} Linux.
#![allow(non_snake_case, dead_code)]

#[cfg(not(all(target_arch = "{arch}", target_os = "linux", target_endian = "little")))]
compile_error!("this model was compiled for {arch} Linux");

#[allow(warnings, clippy::all, clippy::pedantic)]
mod abi;
#[allow(warnings, clippy::all, clippy::pedantic)]
mod cameo_core;
#[allow(warnings, clippy::all, clippy::pedantic)]
mod libc;
#[allow(warnings, clippy::all, clippy::pedantic)]
mod runtime;

pub use runtime::{{Error, Status{text}{uses}}};

use runtime::{{Context, ContextOptions, {dtype}Element, ModelDesc{used}, TensorView}};
use std::path::Path;

core::arch::global_asm!(include_str!("model.s"), options({syntax}));
{embed}
/// A dense row-major tensor of `RANK` axes. Halves and floats of 8 bits are their bits, booleans bytes of 0 or 1; elements
/// of less than a byte are packed, the first one in the lowest bits.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a, T, const RANK: usize> {{
    /// The elements.
    pub data: &'a [T],
    /// Extent of each axis, outermost first.
    pub shape: [usize; RANK],
}}

impl<'a, T, const RANK: usize> Tensor<'a, T, RANK> {{
    /// Whether `shape` fits `data` is checked by [`Model::run`].
    #[must_use]
    pub const fn new(data: &'a [T], shape: [usize; RANK]) -> Self {{
        Self {{ data, shape }}
    }}

    fn extents(&self) -> [i64; RANK] {{
        // What does not fit is no extent of any tensor: the runtime refuses negative ones.
        self.shape.map(|extent| i64::try_from(extent).unwrap_or(-1))
    }}
}}

impl<'a, T: Element, const RANK: usize> Tensor<'a, T, RANK> {{
    fn output(view: TensorView<'a>) -> Self {{
        let view = TensorView::from_bytes(T::DTYPE, view.bytes(), view.shape());
        Self {{
            data: view.elements().expect("the runtime aligns its outputs"),
            shape: std::array::from_fn(|axis| view.shape()[axis] as usize),
        }}
    }}
}}

{strings}{input_struct}
{output_struct}
/// The open model: weights, memory and threads. Dropping it gives everything back.
pub struct Model {{
    context: Context,
}}

#[allow(unsafe_code)]
mod desc {{
    unsafe extern "C" {{
        /// In `model.s`.
        static {name}_model: super::ModelDesc;
    }}

    pub {unsafety}fn open(weights: Option<&std::path::Path>{parameter_of_desc}) -> Result<super::runtime::Model, super::Error> {{
        {open}
    }}
}}

impl Model {{
    /// Opens the model on as many threads as the process may use. `weights` is the weights file; without it,
    /// {default}.
    ///
    /// # Errors
    /// What is wrong with the file or the processor.
{safety}    pub {unsafety}fn open(weights: Option<&Path>{parameter}) -> Result<Self, Error> {{
        {block}Self::open_with_threads(weights, 0{argument}){end}
    }}

    /// As [`Model::open`], on `threads` threads, the caller's included; 0: as many as the process may use.
    ///
    /// # Errors
    /// As [`Model::open`], or a thread cannot be started.
{safety}    pub {unsafety}fn open_with_threads(weights: Option<&Path>, threads: usize{parameter}) -> Result<Self, Error> {{
        let beside: Option<&Path> = {weights};
        Self::with(&{block}desc::open(weights.or(beside){argument}){end}?, threads)
    }}

    /// The same model for another caller, to run at the same time. Weights are shared.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn fork(&self) -> Result<Self, Error> {{
        Self::with(self.context.model(), self.context.threads())
    }}

    /// Threads of a run, the caller's included.
    #[must_use]
    pub fn threads(&self) -> usize {{
        self.context.threads()
    }}

    /// Computes the outputs.
    ///
    /// # Errors
    /// Which input does not fit the model, and how; or that memory ran out.
    pub fn run(&mut self, inputs: &Inputs{inputs_life}) -> Result<Outputs{outputs_life}, Error> {{
{use_inputs}{bind}        self.context.run_on(&[{views}])?;
        Ok({result})
    }}

    fn with(model: &runtime::Model, threads: usize) -> Result<Self, Error> {{
        let options = ContextOptions {{ threads, pool: None }};
        Ok(Self {{
            context: Context::new(model, options)?,
        }})
    }}
}}

impl std::fmt::Debug for Model {{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {{
        f.debug_struct("Model").field("threads", &self.threads()).finish_non_exhaustive()
    }}
}}
"#
    )
}

/// How outputs of strings are given.
const STRINGS: &str = "\
impl<'a, const RANK: usize> Tensor<'a, Text<'a>, RANK> {
    fn strings(view: TensorView<'a>) -> Self {
        Self {
            data: view.as_texts().expect(\"the runtime gives strings\"),
            shape: std::array::from_fn(|axis| view.shape()[axis] as usize),
        }
    }
}

";

/// Whether the Rust type says the model's type.
const fn same_element(dtype: DType) -> bool {
    !matches!(dtype, DType::Bool | DType::F16 | DType::BF16) && !dtype.is_narrow()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_labels_get_a_prefix() {
        let text = "\t.file\t\"k0\"\n.LBB0_1:\n\tjne\t.LBB0_1\n\tmovss\t.LCPI0_0(%rip), %xmm0\n\t.ascii\t\"a.L\\\"b \\\\\"\n\
                    \t.long\t.LBB0_2-.LJTI0_0\n\t.section\t.text.Lx\n\tlea\t$.L1\n";
        let mut out = String::new();
        append(&mut out, text, "m_k0_");
        assert_eq!(
            out,
            ".Lm_k0_BB0_1:\n\tjne\t.Lm_k0_BB0_1\n\tmovss\t.Lm_k0_CPI0_0(%rip), %xmm0\n\t.ascii\t\"a.L\\\"b \\\\\"\n\
             \t.long\t.Lm_k0_BB0_2-.Lm_k0_JTI0_0\n\t.section\t.text.Lx\n\tlea\t$.Lm_k0_1\n"
        );
    }

    #[test]
    fn runtime_sources_become_modules() {
        let text = "//! Doc.\n#![no_std]\npub mod c_api;\nuse crate::error::Error;\nuse cameo_abi::DType;\nuse cameo_core::Dim;\nlibc::mmap();\n\
                    \n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(
            as_module("runtime/mod.rs", text),
            "//! Doc.\nuse crate::runtime::error::Error;\nuse crate::abi::DType;\nuse crate::cameo_core::Dim;\nlibc::mmap();\n\n\
             use crate::libc;\n"
        );
        assert_eq!(
            as_module("cameo_core/run.rs", "use crate::error::Error;"),
            "use crate::cameo_core::error::Error;"
        );
        for path in ["cameo_core/mod.rs", "runtime/devices/cpu.rs"] {
            assert!(RUNTIME_SOURCES.iter().any(|(p, _)| *p == path), "{path}");
        }
    }
}
