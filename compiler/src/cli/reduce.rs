//! `cameo reduce`: the smallest graph that still shows a fault.

use std::process::{Command, ExitCode};

use cameo_ir::shrink::shrink;
use cameo_ir::{Graph, text};

use super::{Done, Failure, ReduceArgs, arrays, diff, show};
use crate::{Diagnostic, Diagnostics, Kind, Options, ir_file, pipeline};

pub fn main(args: &ReduceArgs) -> Done {
    let options = args.known.options(Options::default())?;
    let graph = pipeline::import(&args.file, &options, &mut |_| {})?;
    let folder = tempfile::tempdir().map_err(|e| Diagnostic::io(format!("no temporary folder: {e}")))?;
    let candidate = folder.path().join("candidate.ir");
    let mut tried = 0;
    let mut report = |g: &Graph| {
        tried += 1;
        if !args.quiet {
            eprintln!("{tried:5}: {} nodes", g.node_count());
        }
    };
    let smallest = match &args.check {
        Some(command) => {
            let holds = |g: &Graph| -> Result<bool, Diagnostics> {
                ir_file::write(&candidate, g)?;
                let path = candidate.display().to_string();
                let line = if command.contains("{}") {
                    command.replace("{}", &path)
                } else {
                    format!("{command} {path}")
                };
                let status = Command::new("sh").arg("-c").arg(line).status();
                Ok(status.map_err(|e| Diagnostic::io(format!("sh: {e}")))?.success())
            };
            if !holds(&graph)? {
                return Err(Failure::Usage(
                    "the command fails for the whole graph already: nothing to reduce".into(),
                ));
            }
            shrink(&graph, &mut |g| {
                let kept = holds(g).unwrap_or(false);
                if kept {
                    report(g);
                }
                kept
            })
        }
        None => {
            let fault = fault(&graph, args)?;
            let Some(fault) = fault else {
                show("the compiled program agrees with the interpreter: nothing to reduce\n");
                return Ok(ExitCode::SUCCESS);
            };
            if !args.quiet {
                eprintln!("the fault: {}", fault.describe());
            }
            shrink(&graph, &mut |g| {
                let kept = matches!(self::fault(g, args), Ok(Some(f)) if f == fault);
                if kept {
                    report(g);
                }
                kept
            })
        }
    };
    match &args.output {
        Some(path) => ir_file::write(path, &smallest)?,
        None => show(&text::print(&smallest)),
    }
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with a graph, so that a smaller one is recognised by it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    /// The results differ.
    Departs,
    /// It is refused: kind and operator of the first diagnostic.
    Refused(Kind, Option<String>),
}

impl Fault {
    fn describe(&self) -> String {
        match self {
            Self::Departs => "the compiled program departs from the interpreter".into(),
            Self::Refused(kind, op) => format!("{} {}", kind.name(), op.as_deref().unwrap_or_default()),
        }
    }
}

fn fault(graph: &Graph, args: &ReduceArgs) -> Result<Option<Fault>, Diagnostics> {
    // Extents of dimensions that a smaller graph no longer has are no longer asked for.
    let at: Vec<(String, i64)> = args
        .at
        .iter()
        .filter(|(n, _)| graph.symbols.contains_key(n.as_str()))
        .cloned()
        .collect();
    let inputs = arrays::made_up(graph, &at, args.seed)?;
    let mut optimized = graph.clone();
    let options = Options::default();
    let found = pipeline::optimize(&mut optimized, &options, &mut |_| {})
        .and_then(|()| diff::compare(&optimized, &args.target.target(), &options, &inputs, 1));
    Ok(match found {
        Ok(c) => c
            .compared
            .iter()
            .any(|c| !c.agrees(args.tolerance.tolerance))
            .then_some(Fault::Departs),
        Err(d) => d.all().first().map(|d| Fault::Refused(d.kind, d.op.clone())),
    })
}
