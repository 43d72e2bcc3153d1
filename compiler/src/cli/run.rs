//! `cameo run`: a temporary program, run as a child process.

use std::process::{Command, ExitCode};

use super::observer::Observer;
use super::{Done, RunArgs};
use crate::{Diagnostic, Output, pipeline};

pub fn main(args: &RunArgs) -> Done {
    let model = &args.model.model;
    let options = args.model.options()?;
    let folder = tempfile::tempdir().map_err(|e| Diagnostic::io(format!("no temporary folder: {e}")))?;
    let exe = folder.path().join("model");
    let mut observer = Observer::new(!args.quiet, None, None);
    {
        let mut observe = |e: crate::Event| observer.observe(&e);
        let artifact = pipeline::run(model, &args.target.target(), &options, &mut observe)?;
        if let Some(artifact) = artifact {
            pipeline::link(&artifact, &Output::new(&exe), &mut observe)?;
        }
    }
    let mut command = Command::new(&exe);
    command.arg("--inputs").arg(&args.inputs);
    if let Some(outputs) = &args.outputs {
        command.arg("--outputs").arg(outputs);
    }
    if let Some(library) = &args.op_library {
        command.arg("--op-library").arg(library);
    }
    if let Some(n) = args.threads {
        command.arg("--threads").arg(n.to_string());
    }
    if args.bench {
        command.arg("--bench");
    }
    let status = command.status().map_err(|e| Diagnostic::file(&exe, &e))?;
    // The program has said what is wrong.
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
