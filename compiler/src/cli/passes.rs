//! `cameo opt` and `cameo print`: text in, text out.

use std::process::ExitCode;

use cameo_ir::text;

use super::explain::{Decisions, Explain};
use super::{Done, Failure, OptArgs, PrintArgs, show};
use crate::{Event, Options, Product, ir_file, pipeline};

pub fn main(args: &OptArgs) -> Done {
    if args.list {
        for p in cameo_passes::PASSES {
            show(&format!("{:16} {}\n", p.name, p.doc));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Some(file) = &args.file else {
        return Err(Failure::Usage("a file is missing".into()));
    };
    // All names are checked before any work is done.
    let mut passes = vec![];
    for name in &args.passes {
        let pass = cameo_passes::by_name(name);
        let unknown = || Failure::Usage(format!("there is no pass `{name}`: {}", pipeline::known_passes()));
        passes.push(pass.ok_or_else(unknown)?);
    }
    if args.explain == Some(Explain::Json) && args.output.is_none() {
        let message = "`--explain=json` and the graph both go to standard output: add `--output FILE`";
        return Err(Failure::Usage(message.into()));
    }
    let options = Options {
        verify: args.verify,
        ..Options::default()
    };
    let mut graph = pipeline::import(file, &options, &mut |_| {})?;
    let mut told = Decisions::default();
    for pass in passes {
        pipeline::run_pass(pass.name, &mut graph, &options, &mut |e| {
            if let (Some(form), Event::End(_, Product::Graph(_, Some(report)))) = (args.explain, e) {
                told.news(report).into_iter().for_each(|e| form.print(&form.line(e)));
            }
        })?;
    }
    match &args.output {
        Some(path) => ir_file::write(path, &graph)?,
        None => show(&text::print(&graph)),
    }
    Ok(ExitCode::SUCCESS)
}

pub fn print(args: &PrintArgs) -> Done {
    let options = args.known.options(Options {
        verify: true,
        ..Options::default()
    })?;
    let graph = pipeline::import(&args.file, &options, &mut |_| {})?;
    match &args.output {
        Some(path) => ir_file::write(path, &graph)?,
        None => show(&text::print(&graph)),
    }
    Ok(ExitCode::SUCCESS)
}
