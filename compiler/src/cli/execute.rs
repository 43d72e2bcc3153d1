//! Programs made from graphs, run as child processes.

use std::path::Path;
use std::process::Command;

use cameo_ir::{DType, Graph, Tensor};

use super::arrays;
use crate::{Diagnostic, Diagnostics, Options, Output, Target, pipeline};

/// What running gave.
pub enum Ran {
    /// The outputs by name.
    Outputs(Vec<(String, Tensor)>),
    /// The program ended with an error or a signal; what it said.
    Failed(String),
}

/// Compiles a graph as it is, without passes, and runs it on `inputs`.
pub fn run(
    graph: &Graph,
    target: &Target,
    options: &Options,
    inputs: &[Tensor],
    threads: u32,
) -> Result<Ran, Diagnostics> {
    let levels = pipeline::levels(graph, target.machines()?, options, &mut |_| {})?;
    let artifact = pipeline::generate(levels, options, &mut |_| {})?;
    let folder = tempfile::tempdir().map_err(|e| Diagnostic::io(format!("no temporary folder: {e}")))?;
    let exe = folder.path().join("model");
    artifact.write(&Output::new(&exe))?;
    let named: Vec<(String, &Tensor)> = graph
        .inputs()
        .iter()
        .map(|v| graph.value(*v).name.to_string())
        .zip(inputs)
        .collect();
    let (x, y) = (folder.path().join("x.npz"), folder.path().join("y.npz"));
    arrays::write(&x, &named)?;
    let mut command = Command::new(&exe);
    command
        .arg("--inputs")
        .arg(&x)
        .arg("--outputs")
        .arg(&y)
        .arg("--threads")
        .arg(threads.to_string());
    let done = command.output().map_err(|e| Diagnostic::file(&exe, &e))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        // The status tells a signal from an exit code.
        return Ok(Ran::Failed(if said.is_empty() {
            done.status.to_string()
        } else {
            said
        }));
    }
    read(&y, graph).map(Ran::Outputs)
}

fn read(path: &Path, graph: &Graph) -> Result<Vec<(String, Tensor)>, Diagnostics> {
    let all = cameo_npz::read(path).map_err(|e| Diagnostic::io(e.to_string()))?;
    let dtype = |name: &str| {
        let output = graph.outputs().iter().find(|(n, _)| **n == *name);
        output.map_or(DType::U8, |(_, v)| graph.fact(*v).dtype)
    };
    all.iter()
        .map(|a| Ok((a.name.clone(), arrays::tensor(a, dtype(&a.name))?)))
        .collect()
}
