//! `cameo inspect`: what is in a model, and everything in it that cannot be compiled.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use cameo_ir::{Dim, Fact, Graph, Sym};
use cameo_kernel::Program;
use cameo_kernel::memory::{self, MemoryPlan};
use serde_json::{Value, json};

use super::compile::size;
use super::explain::{Decisions, Explain, forms};
use super::{Done, Failure, InspectArgs, arrays, operators, show};
use crate::excerpt::Source;
use crate::report::{self, Report};
use crate::{Diagnostic, Diagnostics, Event, Options, Product, artifact, ir_file, pipeline};

pub fn main(args: &InspectArgs) -> Done {
    if let Some(name) = &args.ops {
        show(&match name {
            Some(name) => operators::one(name).map_err(Failure::Usage)?,
            None if args.markdown => operators::markdown(),
            None => operators::plain(),
        });
        return Ok(ExitCode::SUCCESS);
    }
    let Some(model) = &args.model else {
        return Err(Failure::Usage("a model is missing".into()));
    };
    if let Some(form) = args.explain {
        return explain(model, args, form);
    }
    if let Some(path) = &args.report {
        return report(model, args, path);
    }
    let found = look(model, args)?;
    show(&if args.json {
        format!("{:#}\n", found.json())
    } else {
        found.text()
    });
    if let Some(problems) = &found.problems {
        if !args.json {
            eprintln!("{problems}");
        }
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// What is known of a model, as far as it could be read.
#[derive(Default)]
struct Found {
    optimized: bool,
    graph: Option<Graph>,
    program: Option<Program>,
    plan: Option<MemoryPlan>,
    ops: BTreeMap<String, usize>,
    /// Extents at which quantities are told.
    at: Vec<(String, i64)>,
    problems: Option<Diagnostics>,
}

/// Prints the decisions of the passes and the forms of kernels; no code is generated.
fn explain(model: &Path, args: &InspectArgs, form: Explain) -> Done {
    let options = options(args)?;
    let mut graph = pipeline::import(model, &options, &mut |_| {})?;
    let mut told = Decisions::default();
    pipeline::optimize(&mut graph, &options, &mut |e| {
        if let Event::End(_, Product::Graph(_, Some(report))) = e {
            told.news(report)
                .into_iter()
                .for_each(|e| show(&format!("{}\n", form.line(e))));
        }
    })
    .map_err(|d| d.with_source(model))?;
    let machine = args.target.target().machine()?;
    // What has no kernel is told by `cameo inspect` itself.
    if let Ok(program) = pipeline::partition(&graph, artifact::kernel_target(&machine), &options, &mut |_| {}) {
        forms(&program)
            .iter()
            .for_each(|e| show(&format!("{}\n", form.line(e))));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the page of `--report`.
fn report(model: &Path, args: &InspectArgs, path: &Path) -> Done {
    let options = options(args)?;
    let machine = args.target.target().machine()?;
    let silent = &mut |_: Event| {};
    let before = pipeline::import(model, &options, silent)?;
    let mut after = before.clone();
    let (mut told, mut decisions) = (Decisions::default(), vec![]);
    pipeline::optimize(&mut after, &options, &mut |e| {
        if let Event::End(_, Product::Graph(_, Some(report))) = e {
            decisions.extend(told.news(report).into_iter().cloned());
        }
    })
    .map_err(|d| d.with_source(model))?;
    let mut plan = None;
    let program = pipeline::partition(&after, artifact::kernel_target(&machine), &options, &mut |e| {
        if let Event::End(_, Product::Program(_, p)) = e {
            plan = Some(p.clone());
        }
    })
    .map_err(|d| d.with_source(model))?;
    decisions.extend(forms(&program));
    let found = Found {
        optimized: true,
        ops: ops(&after),
        program: Some(program),
        plan,
        graph: Some(after),
        ..Found::default()
    };
    let (Some(after), Some(program), Some(plan)) = (&found.graph, &found.program, &found.plan) else {
        return Err(Diagnostic::internal("the partition said nothing of its memory").into());
    };
    let profile = match &args.profile {
        Some(path) => report::profile::read(path, program, plan)?,
        None => Value::Null,
    };
    let page = report::page(&Report {
        summary: found.json(),
        before: &before,
        after,
        program,
        plan,
        decisions: &decisions,
        profile,
    });
    ir_file::write_text(path, &page)?;
    eprintln!("{:10} {:>9} {}", "wrote", size(page.len() as u64), path.display());
    Ok(ExitCode::SUCCESS)
}

fn options(args: &InspectArgs) -> Result<Options, Diagnostics> {
    args.known.options(Options {
        slice: args.slice.clone(),
        varlen: args.varlen,
        outputs: (!args.outputs.is_empty()).then(|| args.outputs.clone()),
        ..args.choices.options()?
    })
}

/// How many nodes there are of each operator.
fn ops(graph: &Graph) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for (_, node) in graph.nodes() {
        *out.entry(node.op.name().to_owned()).or_default() += 1;
    }
    out
}

fn look(model: &Path, args: &InspectArgs) -> Result<Found, Diagnostics> {
    let options = options(args)?;
    // A wrong target is the user's mistake, not the model's.
    let machine = args.target.target().machine()?;
    // Only the passes know enough to cut and to pack.
    let optimized = args.optimized || args.slice.is_some() || args.varlen;
    let mut found = Found {
        optimized,
        at: args.at.clone(),
        ..Found::default()
    };
    let silent = &mut |_: Event| {};
    let mut graph = match pipeline::import(model, &options, silent) {
        Ok(graph) => graph,
        Err(problems) => {
            // Nothing but the operators can be told of a model that is no graph.
            found.ops = Source::open(model).map(|s| s.operators()).unwrap_or_default();
            found.problems = Some(problems);
            return Ok(found);
        }
    };
    if let Some((name, _)) = args.at.iter().find(|(name, _)| !graph.symbols.contains_key(&**name)) {
        return Err(arrays::no_dimension(&graph, name).into());
    }
    if optimized {
        found.problems = pipeline::optimize(&mut graph, &options, silent)
            .err()
            .map(|d| d.with_source(model));
    }
    found.ops = ops(&graph);
    if found.problems.is_none() {
        let plan = &mut found.plan;
        match pipeline::partition(&graph, artifact::kernel_target(&machine), &options, &mut |e| {
            if let Event::End(_, Product::Program(_, p)) = e {
                *plan = Some(p.clone());
            }
        }) {
            Ok(program) => found.program = Some(program),
            Err(problems) => found.problems = Some(problems.with_source(model)),
        }
    }
    found.graph = Some(graph);
    Ok(found)
}

impl Found {
    /// A dim at the extents that are given.
    fn at(&self, dim: &Dim) -> Dim {
        dim.subst(&|s| match s {
            Sym::Named(name) => self.at.iter().find(|(n, _)| **n == **name).map(|(_, v)| Dim::from(*v)),
            _ => None,
        })
    }

    /// FLOPs of a run, multiplications and additions counted one each.
    fn flops(&self) -> Option<Dim> {
        let program = self.program.as_ref()?;
        let sum = program.steps.iter().fold(Dim::ZERO, |a, s| a + s.flops.clone());
        Some(self.at(&sum))
    }

    /// Bytes of the arena, and the most of them that are in use at one step: where they are known.
    fn memory(&self) -> Option<(i64, i64)> {
        let (program, plan) = (self.program.as_ref().filter(|_| self.optimized)?, self.plan.as_ref()?);
        let value = |dim: &Dim| self.at(dim).as_const();
        Some((value(&plan.size)?, memory::alive_bytes(program, &value)?))
    }

    /// Elements of the weights.
    fn parameters(&self) -> usize {
        let weights = self
            .graph
            .iter()
            .flat_map(|g| g.value_ids().filter_map(|v| g.constant(v)));
        weights.map(cameo_ir::Tensor::len).sum()
    }

    /// Bytes of the weights section once there are kernels; before, those in the model.
    fn weight_bytes(&self) -> usize {
        match &self.program {
            Some(p) if self.optimized => p.weights.iter().map(|w| w.elements * w.dtype.size()).sum(),
            _ => {
                let weights = self
                    .graph
                    .iter()
                    .flat_map(|g| g.value_ids().filter_map(|v| g.constant(v)));
                weights.map(|t| t.bytes().len()).sum()
            }
        }
    }

    fn kernels(&self) -> Option<usize> {
        self.program
            .as_ref()
            .filter(|_| self.optimized)
            .map(|p| p.kernels.len())
    }

    fn inputs(&self) -> Vec<(&str, &Fact)> {
        let of = |g: &'_ Graph| g.inputs().to_vec();
        let g = self.graph.as_ref();
        g.iter()
            .flat_map(|g| of(g).into_iter().map(|v| (&*g.value(v).name, g.fact(v))))
            .collect()
    }

    fn outputs(&self) -> Vec<(&str, &Fact)> {
        self.graph
            .iter()
            .flat_map(|g| g.outputs().iter().map(|(n, v)| (&**n, g.fact(*v))))
            .collect()
    }

    fn json(&self) -> Value {
        let dim = |d: &Dim| d.as_const().map_or_else(|| json!(d.to_string()), |n| json!(n));
        let io = |all: Vec<(&str, &Fact)>| -> Vec<Value> {
            let one = |(name, fact): (&str, &Fact)| {
                let shape: Vec<Value> = fact.shape.iter().map(dim).collect();
                json!({"name": name, "dtype": fact.dtype.name(), "shape": shape})
            };
            all.into_iter().map(one).collect()
        };
        let symbols: serde_json::Map<String, Value> = self
            .graph
            .iter()
            .flat_map(|g| &g.symbols)
            .map(|(n, r)| {
                (
                    n.to_string(),
                    json!({"min": r.min, "max": (r.max != i64::MAX).then_some(r.max)}),
                )
            })
            .collect();
        let problem = |d: &Diagnostic| {
            let kind = d.kind.name();
            json!({"kind": kind, "node": d.node, "op": d.op, "opset": d.opset, "message": d.message, "help": d.help})
        };
        let problems: Vec<Value> = self.problems.iter().flat_map(Diagnostics::all).map(problem).collect();
        json!({
            "name": self.graph.as_ref().map_or("", |g| &*g.name),
            "optimized": self.optimized,
            "inputs": io(self.inputs()),
            "outputs": io(self.outputs()),
            "symbols": symbols,
            "parameters": self.parameters(),
            "weight_bytes": self.weight_bytes(),
            "flops": self.flops().as_ref().map(dim),
            "arena_bytes": self.memory().map(|(arena, _)| arena),
            "alive_bytes": self.memory().map(|(_, alive)| alive),
            "nodes": self.ops.values().sum::<usize>(),
            "ops": self.ops,
            "kernels": self.kernels(),
            "steps": self.program.as_ref().filter(|_| self.optimized).map(|p| p.steps.len()),
            "unsupported": problems,
        })
    }

    fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        if let Some(g) = &self.graph {
            writeln!(
                out,
                "model       {}{}",
                g.name,
                if self.optimized { ", after all passes" } else { "" }
            )?;
            for (what, all) in [("input", self.inputs()), ("output", self.outputs())] {
                for (name, fact) in all {
                    writeln!(out, "{what:11} {name}: {fact}")?;
                }
            }
            for (name, r) in &g.symbols {
                let max = if r.max == i64::MAX {
                    String::new()
                } else {
                    r.max.to_string()
                };
                writeln!(out, "dimension   {name} = {}..{max}", r.min)?;
            }
            writeln!(
                out,
                "parameters  {} ({})",
                grouped(self.parameters()),
                size(self.weight_bytes() as u64)
            )?;
            if let Some(flops) = self.flops() {
                match flops.as_const() {
                    Some(n) => writeln!(out, "FLOPs       {}", grouped(usize::try_from(n).unwrap_or(0)))?,
                    None => writeln!(out, "FLOPs       {flops}")?,
                }
            }
            if let Some((arena, alive)) = self.memory() {
                let [arena, alive] = [arena, alive].map(|n| size(u64::try_from(n).unwrap_or(0)));
                writeln!(out, "arena       {arena}, of which {alive} are in use at once")?;
            }
        }
        writeln!(out, "nodes       {}", self.ops.values().sum::<usize>())?;
        let mut ops: Vec<(&String, &usize)> = self.ops.iter().collect();
        ops.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), *name));
        for (name, n) in ops {
            writeln!(out, "  {n:>8}  {name}")?;
        }
        if let (Some(n), Some(p)) = (self.kernels(), &self.program) {
            writeln!(out, "kernels     {n}, called {} times", p.steps.len())?;
        }
        if self.problems.is_none() {
            writeln!(out, "supported   yes")?;
        }
        Ok(())
    }
}

/// `22713216` as `22,713,216`.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_come_in_groups_of_three() {
        assert_eq!(
            [0, 12, 123, 1234, 1_234_567].map(grouped),
            ["0", "12", "123", "1,234", "1,234,567"]
        );
    }
}
