//! Linking: the C compiler as a linker, and the runtime objects that travel with this compiler.
//!
//! Laws: the C compiler runs in the working folder on plain file names, so no path gets into its output; no build id, no
//! time, and no symbol table in what is final, unless it is to be profiled.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::artifact::{ArtifactError, HOST};
use crate::object::{Arch, Machine};

/// The functions of `cameo.h`.
static RUNTIME: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/runtime.o"));

/// The same and `cameo_exe_main`.
static EXE_RUNTIME: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/exe.o"));

/// The same and the timers of `--profile`.
static PROFILE_RUNTIME: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/profile.o"));

/// Operators that programs bring: the name that programs refer to, and an object that has a standard library of its own and
/// defines nothing else. They are linked only where that name is needed.
pub const BUILT_IN: [(&str, &[u8]); 1] = [(
    "cameo_image_decoder",
    include_bytes!(concat!(env!("OUT_DIR"), "/cameo_image_decoder.o")),
)];

/// The runtime for libraries, if it is there for the machine's architecture.
pub fn library_runtime(machine: &Machine) -> Option<&'static [u8]> {
    (machine.arch == HOST).then_some(RUNTIME)
}

/// The runtime for executables, with timers or without, if it is there for the machine's architecture.
pub fn executable_runtime(machine: &Machine, profile: bool) -> Option<&'static [u8]> {
    let runtime = if profile { PROFILE_RUNTIME } else { EXE_RUNTIME };
    (machine.arch == HOST).then_some(runtime)
}

/// The objects of the operators of these names with a file name each, if they are there for the machine's architecture.
pub fn built_in<'a>(
    machine: &Machine,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<Vec<(String, &'static [u8])>> {
    let object = |name: &str| {
        let (name, bytes) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
        (machine.arch == HOST).then(|| (format!("{name}.o"), *bytes))
    };
    names.into_iter().map(object).collect()
}

/// What the runtime needs of the system, and what nobody needs in a finished file.
const FINAL: [&str; 5] = ["-Wl,--gc-sections", "-Wl,--build-id=none", "-lpthread", "-ldl", "-lm"];

/// Without symbols.
const STRIPPED: &str = "-s";

/// The C compiler for a machine, working in one folder.
pub struct Linker<'a> {
    tool: PathBuf,
    folder: &'a Path,
}

impl<'a> Linker<'a> {
    pub fn new(machine: &Machine, tool: Option<&Path>, folder: &'a Path) -> Self {
        let default = match machine.arch {
            arch if arch == HOST => "cc",
            Arch::X86_64 => "x86_64-linux-gnu-gcc",
            Arch::Aarch64 => "aarch64-linux-gnu-gcc",
        };
        Self {
            tool: tool.unwrap_or(Path::new(default)).to_owned(),
            folder,
        }
    }

    pub fn assemble(&self, source: &str, object: &str) -> Result<(), ArtifactError> {
        self.run(&["-c", source, "-o", object])
    }

    /// One object of many.
    pub fn merge(&self, objects: &[&str], to: &str) -> Result<(), ArtifactError> {
        let mut arguments = vec!["-r", "-nostdlib", "-Wl,--build-id=none", "-o", to];
        arguments.extend(objects);
        self.run(&arguments)
    }

    /// An executable; with `symbols`, profilers and debuggers know its functions by name.
    pub fn executable(&self, objects: &[&str], to: &str, symbols: bool) -> Result<(), ArtifactError> {
        let mut arguments = vec!["-o", to];
        arguments.extend(objects);
        arguments.extend(FINAL);
        arguments.extend((!symbols).then_some(STRIPPED));
        self.run(&arguments)
    }

    /// A shared library called `soname` that exports what the version script `exports` says.
    pub fn shared(&self, objects: &[&str], exports: &str, soname: &str, to: &str) -> Result<(), ArtifactError> {
        let (script, soname) = (
            format!("-Wl,--version-script={exports}"),
            format!("-Wl,-soname,{soname}"),
        );
        let mut arguments = vec!["-shared", "-Wl,-z,defs", &script, &soname, "-o", to];
        arguments.extend(objects);
        arguments.extend(FINAL);
        arguments.push(STRIPPED);
        self.run(&arguments)
    }

    fn run(&self, arguments: &[&str]) -> Result<(), ArtifactError> {
        let output = Command::new(&self.tool)
            .args(arguments)
            .current_dir(self.folder)
            .output();
        let output = output.map_err(|error| ArtifactError::NoTool {
            tool: self.tool.clone(),
            error,
        })?;
        if output.status.success() {
            return Ok(());
        }
        Err(ArtifactError::Tool {
            command: format!("{} {}", self.tool.display(), arguments.join(" ")),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// Version script of a shared library: the C interface and the model.
pub fn exports(name: &str) -> String {
    format!("{{ global: cameo_*; {name}_model; local: *; }};\n")
}

/// Assembly that takes a weights file, without its first `skip` bytes, into a section of its own.
pub fn weights_assembly(name: &str, file: &str, skip: u64) -> String {
    // 2^6 is `cameo_abi::ALIGNMENT`.
    format!(
        "\t.section .cameo_weights,\"a\",@progbits\n\t.p2align 6\n\t.globl {name}_weights\n\t.hidden {name}_weights\n\
         \t.type {name}_weights, @object\n{name}_weights:\n\t.incbin \"{file}\", {skip}\n\
         \t.size {name}_weights, .-{name}_weights\n\t.section .note.GNU-stack,\"\",@progbits\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::global_symbols;

    #[test]
    fn timers_are_in_one_runtime_only() {
        let timers = |object: &[u8]| {
            let symbols = global_symbols(object).expect("an object");
            symbols.iter().filter(|s| s.starts_with("cameo_profile_")).count()
        };
        assert_eq!([RUNTIME, EXE_RUNTIME, PROFILE_RUNTIME].map(timers), [0, 0, 2]);
    }

    #[test]
    fn built_in_operators_define_nothing_else() {
        for (name, object) in BUILT_IN {
            assert_eq!(global_symbols(object).expect("an object"), [name]);
            for runtime in [RUNTIME, EXE_RUNTIME, PROFILE_RUNTIME] {
                assert!(!global_symbols(runtime).expect("an object").contains(&name));
            }
        }
    }
}
