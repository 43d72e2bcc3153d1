//! `cameo compile`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::explain::Explain;
use super::observer::Observer;
use super::{CompileArgs, Done, Failure, Form, show};
use crate::artifact::MULTI;
use crate::dump::{Destination, Dump};
use crate::{Emit, Output, Phase, pipeline};

pub fn main(args: &CompileArgs) -> Done {
    for name in &args.dump_ir_after {
        let known = [
            Phase::Import.name(),
            cameo_passes::slice::NAME,
            cameo_passes::varlen::NAME,
        ]
        .contains(&&**name);
        if !known && cameo_passes::by_name(name).is_none() {
            return Err(Failure::Usage(format!(
                "there is no pass `{name}`: {}",
                pipeline::known_passes()
            )));
        }
    }
    if args.explain == Some(Explain::Json) && args.dump_ir.is_none() && !args.dump_ir_after.is_empty() {
        let message = "`--explain=json` and `--dump-ir-after` both write to standard output: add `--dump-ir DIR`";
        return Err(Failure::Usage(message.into()));
    }
    if args.profile && args.emit.emit() != Emit::Exe {
        let message =
            "`--profile` is for executables: libraries, objects and crates have no command line to ask them with";
        return Err(Failure::Usage(message.into()));
    }
    if !args.link.is_empty() && args.emit.emit() != Emit::Exe {
        let message =
            "`--link` is for executables: programs that open a model of a library give it operators themselves";
        return Err(Failure::Usage(message.into()));
    }
    if args.target.cpu.as_deref() == Some(MULTI) && (args.profile || args.emit == Form::Object) {
        let what = if args.profile { "`--profile`" } else { "`--emit object`" };
        let message = format!("`--cpu multi` and {what} exclude each other: {what} is for one processor");
        return Err(Failure::Usage(message));
    }
    let dump = match &args.dump_ir {
        Some(folder) => Some(Destination::Folder(folder.clone())),
        None => (!args.dump_ir_after.is_empty()).then_some(Destination::Sink(show)),
    };
    let dump = dump.map(|to| Dump::new(to, args.dump_ir_after.clone()));
    let mut observer = Observer::new(!args.quiet, args.explain, dump);
    let compiled = build(args, &mut observer);
    // A dump that could not be written is told also when the compilation failed later.
    let dumped = observer.finish();
    compiled?;
    dumped?;
    if args.time_passes {
        eprint!("{}", observer.times());
    }
    Ok(ExitCode::SUCCESS)
}

fn build(args: &CompileArgs, observer: &mut Observer) -> Result<(), Failure> {
    let model = &args.model.model;
    let mut observe = |e: crate::Event| observer.observe(&e);
    let artifact = pipeline::run(model, &args.target.target(), &args.options()?, &mut observe)?;
    let Some(artifact) = artifact.filter(|_| args.stop_after != Some(Phase::Codegen)) else {
        return Ok(());
    };
    let path = args.output();
    let output = Output {
        embed_weights: args.embed_weights,
        threads_default: args.threads_default,
        profile: args.profile,
        link: args.link.clone(),
        ..Output::new(path)
    };
    let written = pipeline::link(&artifact, &output, &mut observe)?;
    if !args.quiet {
        for path in &written.files {
            let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
            eprintln!("{:10} {:>9} {}", "wrote", size(bytes), path.display());
        }
    }
    Ok(())
}

/// The model's name: that of its file.
pub fn stem(model: &Path) -> String {
    model
        .file_stem()
        .map_or_else(|| "model".into(), |s| s.to_string_lossy().into_owned())
}

/// In the current folder, named like the model: never over the model itself.
pub fn default_output(model: &Path) -> PathBuf {
    let name = stem(model);
    if model == Path::new(&name) {
        PathBuf::from(format!("{name}.out"))
    } else {
        PathBuf::from(name)
    }
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_named_like_the_model() {
        assert_eq!(default_output(Path::new("a/b.onnx")), Path::new("b"));
        assert_eq!(default_output(Path::new("b")), Path::new("b.out"));
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(
            [12, 1_234, 90_868_376, 1_500_000_000].map(size),
            ["12 B", "1.2 kB", "90.9 MB", "1.50 GB"]
        );
    }
}
