//! `cameo diff`: the compiled program against the reference interpreter, tensor by tensor.
//!
//! Every value that a kernel writes to memory becomes an output of the program; the interpreter runs the same graph. A
//! compiled kernel reads what compiled kernels wrote, so that the first tensor that departs is the fault's, and later
//! ones only inherit it.

use std::collections::BTreeMap;
use std::process::ExitCode;

use cameo_ir::ops::custom;
use cameo_ir::{DType, Dim, Graph, Sym, Tensor, ValueId, interp, text};

use super::arrays::{self, Difference, difference};
use super::execute::{Ran, run};
use super::{DiffArgs, Done, show};
use crate::diagnostic::short;
use crate::{Diagnostic, Diagnostics, Options, Target, artifact, pipeline};

pub fn main(args: &DiffArgs) -> Done {
    let options = args.known.options(args.choices.options()?)?;
    let mut graph = pipeline::import(&args.file, &options, &mut |_| {})?;
    pipeline::optimize(&mut graph, &options, &mut |_| {})?;
    let inputs = arrays::feed(&graph, &args.feed)?;
    let found = compare(&graph, &args.target.target(), &options, &inputs, args.threads)?;
    if args.all {
        for c in &found.compared {
            show(&format!("step {:4}  {}\n", c.step, c.summary()));
        }
    }
    let departs = |c: &&Compared| !c.agrees(args.tolerance.tolerance);
    let Some(first) = found.compared.iter().find(departs) else {
        let worst = found
            .compared
            .iter()
            .filter_map(|c| c.difference.as_ref())
            .map(|d| d.relative)
            .fold(0.0, f64::max);
        let n = found.compared.len();
        show(&format!(
            "{n} tensors agree; the largest relative difference is {worst:.2e}\n"
        ));
        return Ok(ExitCode::SUCCESS);
    };
    let count = found.compared.iter().filter(departs).count();
    show(&format!(
        "{count} of {} tensors depart; the first, written by step {}:\n",
        found.compared.len(),
        first.step
    ));
    show(&format!("  {}\n", first.summary()));
    if let Some((node, _)) = found.graph.producer(first.value) {
        let origin = &found.graph.node(node).origin;
        show(&format!(
            "  from {}\n",
            origin
                .names()
                .iter()
                .map(|n| format!("{n:?}"))
                .collect::<Vec<_>>()
                .join(", ")
        ));
        for line in text::print_around(&found.graph, node, 1).lines() {
            show(&format!("{}\n", short(line)));
        }
    }
    Ok(ExitCode::FAILURE)
}

/// The result of comparing.
pub struct Comparison {
    /// The graph of loops that was run.
    graph: Graph,
    /// In the order of execution.
    pub compared: Vec<Compared>,
}

/// One tensor.
pub struct Compared {
    step: usize,
    value: ValueId,
    name: String,
    /// `None` when type or shape differ.
    difference: Option<Difference>,
    /// What the interpreter has.
    expected: String,
}

impl Compared {
    pub fn agrees(&self, tolerance: f64) -> bool {
        // Not `>`: a difference that is not a number departs.
        self.difference.as_ref().is_some_and(|d| d.relative <= tolerance)
    }

    fn summary(&self) -> String {
        let name = if self.name.is_empty() {
            self.value.to_string()
        } else {
            format!("{} {:?}", self.value, self.name)
        };
        match &self.difference {
            Some(d) => format!(
                "{name}: {} relative difference {:.2e} at element {}: {} instead of {}",
                self.expected, d.relative, d.at, d.got, d.expected
            ),
            None => format!("{name}: another type or shape than {}", self.expected),
        }
    }
}

/// The graph and its inputs so that those of its program, in which elements that share bytes are bytes, tell all symbols.
fn as_bytes(graph: &Graph, inputs: &[Tensor]) -> Result<(Graph, Vec<Tensor>), Diagnostics> {
    if inputs.iter().all(|t| t.dtype().bits() >= 8) {
        return Ok((graph.clone(), inputs.to_vec()));
    }
    let binding = interp::bind(graph, inputs).map_err(|e| Diagnostic::invalid(e.to_string()))?;
    let value = |d: &Dim| {
        d.eval(&|s| match s {
            Sym::Named(n) => binding.get(n).copied(),
            _ => None,
        })
    };
    let graph = graph.map_dims(&|d| value(d).map_or_else(|| d.clone(), Dim::from));
    let bytes = |t: &Tensor| {
        if t.dtype().bits() >= 8 {
            return Some(t.clone());
        }
        let packed = t.packed();
        Tensor::new(DType::U8, vec![packed.len()], packed).ok()
    };
    let inputs: Option<Vec<Tensor>> = inputs.iter().map(bytes).collect();
    let inputs = inputs.ok_or_else(|| Diagnostic::internal("bytes that are no tensor"))?;
    Ok((graph, inputs))
}

/// Runs the graph both ways. A program that ends with an error is a diagnostic.
pub fn compare(
    graph: &Graph,
    target: &Target,
    options: &Options,
    inputs: &[Tensor],
    threads: u32,
) -> Result<Comparison, Diagnostics> {
    // The interpreter would say so, too, but behind a program that does not run without the caller's library.
    if let Some((_, node)) = graph
        .nodes()
        .find(|(_, node)| node.op.schema().external && !custom::is_own(&node.attrs))
    {
        let refused = custom::not_here(&node.attrs);
        return Err(Diagnostic::from_op_error(&refused).node(node).into());
    }
    let (graph, inputs) = &as_bytes(graph, inputs)?;
    let machine = target.machine()?;
    let program = pipeline::partition(graph, artifact::kernel_target(&machine), options, &mut |_| {})?;
    // The same loops with every tensor that they write as an output. Later writers of a value complete it.
    let mut loops = program.graph.clone();
    let mut steps: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (i, step) in program.steps.iter().enumerate() {
        for (v, _) in &step.values {
            steps.insert(*v, i);
        }
    }
    for (_, v) in program.graph.outputs() {
        steps.entry(*v).or_insert(program.steps.len());
    }
    let mut names: BTreeMap<ValueId, String> = BTreeMap::new();
    for v in steps.keys().filter(|v| program.graph.producer(**v).is_some()) {
        let name = format!("cameo value {}", v.0);
        loops.add_output(&name, *v);
        names.insert(*v, name);
    }
    let outputs = match run(&loops, target, options, inputs, threads)? {
        Ran::Outputs(outputs) => outputs,
        Ran::Failed(said) => return Err(Diagnostic::invalid(format!("the compiled program failed: {said}")).into()),
    };
    let mut got: BTreeMap<&str, &Tensor> = outputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let mut compared = vec![];
    let mut look = |v: ValueId, expected: &Tensor| {
        if let Some(t) = names.get(&v).and_then(|n| got.remove(n.as_str())) {
            compared.push(Compared {
                step: steps.get(&v).copied().unwrap_or(0),
                value: v,
                name: program.graph.value(v).name.to_string(),
                difference: difference(t, expected),
                expected: expected.fact().to_string(),
            });
        }
    };
    interp::run_observed(&program.graph, inputs, &mut look)
        .map_err(|e| Diagnostic::invalid(format!("the interpreter refuses the graph: {e}")))?;
    compared.sort_by_key(|c| (c.step, c.value));
    Ok(Comparison {
        graph: program.graph,
        compared,
    })
}
