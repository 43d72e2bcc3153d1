//! `cameo opt` and `cameo print`: text in, text out.

use std::process::ExitCode;

use cameo_ir::text;

use super::explain::Explain;
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
    let options = Options {
        verify: args.verify,
        ..Options::default()
    };
    let mut graph = pipeline::import(file, &options, &mut |_| {})?;
    for pass in passes {
        pipeline::run_pass(pass.name, &mut graph, &options, &mut |e| {
            if let (true, Event::End(_, Product::Graph(_, Some(report)))) = (args.explain, e) {
                report
                    .events
                    .iter()
                    .for_each(|e| eprintln!("{}", Explain::Text.line(e)));
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
    let options = Options {
        dims: args.dims.clone(),
        verify: true,
        ..Options::default()
    };
    let graph = pipeline::import(&args.file, &options, &mut |_| {})?;
    match &args.output {
        Some(path) => ir_file::write(path, &graph)?,
        None => show(&text::print(&graph)),
    }
    Ok(ExitCode::SUCCESS)
}
