//! The compiler, from top to bottom: phases and passes in order, each with its reason.
//!
//! ```text
//! import ─▶ Graph ─ passes ─▶ Graph ─ partition ─▶ Program ─ codegen ─▶ Artifact ─ link ─▶ files
//! ```
//!
//! Invariant: after each pass values and nodes are numbered in print order, as a reader of the text form numbers them,
//! so that a pass does the same to a dump as it did here. Whoever wants to see the stages passes an observer; it cannot
//! change what happens.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use cameo_codegen::{ArtifactReport, Level, Machine};
use cameo_ir::op::OpError;
use cameo_ir::rewrite::Report;
use cameo_ir::verify::{VerifyError, verify};
use cameo_ir::{Graph, NodeId, ValueId, text};
use cameo_kernel::memory::{self, MemoryPlan};
use cameo_kernel::{Choices, LowerError, Program};
use cameo_onnx::ImportOptions;
use cameo_passes::slice::Slice;

use crate::artifact::{self, Artifact, Output, Target};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::{Options, ir_file};

/// Compiles a model; `None` when `options.stop_after` ends it before there is code.
pub fn run(
    model: &Path,
    target: &Target,
    options: &Options,
    observe: &mut dyn FnMut(Event),
) -> Result<Option<Artifact>, Diagnostics> {
    // The target is resolved first: a misspelt processor should not cost an import.
    let machines = target.machines()?;
    let stop = |phase| options.stop_after == Some(phase);

    // ONNX of all versions becomes one graph of Cameo's operations, with types, shapes and origins.
    let mut graph = import(model, options, observe)?;
    if stop(Phase::Import) {
        return Ok(None);
    }

    // The graph gets smaller and simpler; what it computes stays.
    optimize(&mut graph, options, observe).map_err(|d| d.with_source(model))?;
    if stop(Phase::Passes) {
        return Ok(None);
    }

    // Operations become kernels with schedules, for each machine, and every tensor a place in memory, the same for all.
    let levels = levels(&graph, machines, options, observe).map_err(|d| d.with_source(model))?;
    if stop(Phase::Partition) {
        return Ok(None);
    }

    // Kernels become machine code.
    let artifact = generate(levels, options, observe).map_err(|d| d.with_source(model))?;
    Ok(Some(artifact))
}

/// Reads a model: ONNX, or text IR (`*.ir`), which has its dimensions and outputs already.
pub fn import(model: &Path, options: &Options, observe: &mut dyn FnMut(Event)) -> Result<Graph, Diagnostics> {
    let stage = Stage::phase(Phase::Import);
    observe(Event::Begin(stage));
    let graph = if ir_file::is_text(model) {
        let fixed = !options.dims.is_empty() || options.outputs.is_some() || !options.frozen.is_empty();
        if fixed || !options.custom_ops.is_empty() || !options.items.is_empty() {
            let d = Diagnostic::invalid(format!(
                "{}: dimensions, inputs, outputs and operators of text IR are fixed",
                model.display()
            ));
            return Err(d.help("edit the text").into());
        }
        ir_file::read(model)?
    } else {
        let choices = ImportOptions {
            dims: options.dims.clone(),
            outputs: options.outputs.clone(),
            frozen: options.frozen.clone(),
            custom_ops: options.custom_ops.clone(),
            items: options.items.clone(),
        };
        let imported = cameo_onnx::import(model, &choices);
        imported.map_err(|problems| Diagnostics::from_problems(problems).with_source(model))?
    };
    let graph = numbered(&graph);
    check(&graph, stage, options).map_err(|d| d.with_source(model))?;
    observe(Event::End(stage, Product::Graph(&graph, None)));
    Ok(graph)
}

/// Runs the passes in their order, but for those that are disabled.
pub fn optimize(graph: &mut Graph, options: &Options, observe: &mut dyn FnMut(Event)) -> Result<(), Diagnostics> {
    let phase = Stage::phase(Phase::Passes);
    if let Some(name) = options
        .disabled_passes
        .iter()
        .find(|p| cameo_passes::by_name(p).is_none())
    {
        return Err(unknown_pass(name));
    }
    observe(Event::Begin(phase));
    let mut run = |pass| run_pass(pass, graph, options, observe);

    // What a runtime has fused for itself is taken apart, and recurrent layers: below, each thing has one name.
    run("contributed")?;
    // Shape arithmetic is in the way of everything else: afterwards shapes are attributes, and few nodes compute them.
    run("known_shapes")?;
    // Small results that depend on weights only become weights, so that patterns see numbers.
    run("fold_constants")?;
    // Many ways to say the same become one: fewer forms to recognise below.
    run("canonicalize")?;
    // Exporters repeat themselves, per layer and per head: one node per distinct result.
    run("cse")?;
    // Less to look at; afterwards "is read once" means what it says.
    run("dce")?;
    // Time steps that were written out are one loop: everything below sees each of them once. Layers that share their weights
    // are such steps too, but tokens are packed through all of a network.
    if !options.varlen {
        run("reroll")?;
    }
    // All need "is read once", and come before factors move, which would tear the formulas apart: normalisations,
    // activations, attention and rotary embeddings that exporters spelled out become one operation each.
    run("norms")?;
    run("activations")?;
    run("attention")?;
    run("rotary")?;
    // The smaller network that the user wants. Attention and normalisations say how their axes belong together, which
    // primitives do not; and weights are still tensors of the file, not yet recipes with factors of several axes in them.
    if let Some(wish) = &options.slice {
        slice(wish, graph, options, observe)?;
    }
    // Tokens only, when the user says so: needs attention as an operation, and comes before all that looks at costs.
    if options.varlen {
        varlen(graph, options, observe)?;
    }
    let mut run = |pass| run_pass(pass, graph, options, observe);
    // Needs the ties of attention and normalisations too, and masks that have not become factors of weights.
    run("dead_channels")?;
    // Rows of zeros with a one in them are not multiplied: they pick.
    run("one_hot")?;
    // Needs attention and normalisations as operations, through which elements can be taken, and comes before all that
    // compares the costs of products: what nobody reads of them is not computed.
    run("narrow")?;
    // Needs attention out of the way: what is left of products of three matrices is taken in the cheaper order.
    run("associate")?;
    // Needs canonical arithmetic: multiplications and additions of constants move into neighbouring weights.
    run("fold_scales")?;
    // Needs folded scales, so that the branches of a training-time block are linear: each sum of them is one convolution.
    run("reparam")?;
    // Needs cse, or copies of a transpose meet and do not cancel: transposes move together and vanish.
    run("transposes")?;
    // The search over equal expressions comes when the graph is small; it pays only where no rule above decides.
    run("algebra")?;
    // Needs scales and biases where they end up: the products that an attention reads are one.
    run("projections")?;
    // What the passes above left behind is simplified again, until nothing changes.
    for _ in 0..MAX_ROUNDS {
        let mut changes = 0;
        for pass in ["known_shapes", "fold_constants", "canonicalize", "cse", "dce"] {
            changes += run(pass)?;
        }
        if changes == 0 {
            break;
        }
    }
    observe(Event::End(phase, Product::None));
    Ok(())
}

/// The clean-up needs two rounds on every model tried; the bound only guards against passes that undo each other.
const MAX_ROUNDS: usize = 8;

/// Groups nodes into kernels, chooses their schedules and plans the memory.
pub fn partition(
    graph: &Graph,
    target: &cameo_kernel::Target,
    options: &Options,
    observe: &mut dyn FnMut(Event),
) -> Result<Program, Diagnostics> {
    let stage = Stage::phase(Phase::Partition);
    observe(Event::Begin(stage));
    let choices = Choices {
        exact_conv: options.exact_conv,
        in_place_cache: options.in_place_cache,
        tuning: options.tuning.clone(),
    };
    let program = cameo_kernel::partition(graph, target, choices).map_err(|errors| lower_errors(graph, errors))?;
    if let Some(name) = program.unknown_symbol() {
        let what = format!("{name}, which sizes depend on, comes from a node of which nothing else is used");
        return Err(Diagnostic::from_op_error(&OpError::Unsupported(what)).into());
    }
    let plan = memory::plan(&program);
    observe(Event::End(stage, Product::Program(&program, &plan)));
    Ok(program)
}

/// The programs for some machines, best first. They have one plan; observers see the first.
pub fn levels(
    graph: &Graph,
    machines: Vec<Machine>,
    options: &Options,
    observe: &mut dyn FnMut(Event),
) -> Result<Vec<Level>, Diagnostics> {
    let mut levels = vec![];
    for machine in machines {
        let target = artifact::kernel_target(&machine);
        let program = match levels.is_empty() {
            true => partition(graph, target, options, observe)?,
            false => partition(graph, target, options, &mut |_| {})?,
        };
        levels.push(Level { program, machine });
    }
    Ok(levels)
}

/// Renders the kernels and compiles them, with the tables that describe the model to the runtime.
pub fn generate(
    levels: Vec<Level>,
    options: &Options,
    observe: &mut dyn FnMut(Event),
) -> Result<Artifact, Diagnostics> {
    let stage = Stage::phase(Phase::Codegen);
    observe(Event::Begin(stage));
    let artifact = Artifact::generate(levels, options)?;
    observe(Event::End(stage, Product::Code(&artifact)));
    Ok(artifact)
}

/// Writes the artefact's files.
pub fn link(
    artifact: &Artifact,
    output: &Output,
    observe: &mut dyn FnMut(Event),
) -> Result<ArtifactReport, Diagnostics> {
    let stage = Stage::phase(Phase::Link);
    observe(Event::Begin(stage));
    let written = artifact.write(output)?;
    observe(Event::End(stage, Product::None));
    Ok(written)
}

/// Runs one pass by name, unless it is disabled; gives the number of changes.
pub fn run_pass(
    name: &'static str,
    graph: &mut Graph,
    options: &Options,
    observe: &mut dyn FnMut(Event),
) -> Result<usize, Diagnostics> {
    let stage = Stage {
        phase: Phase::Passes,
        name,
    };
    let Some(pass) = cameo_passes::by_name(name) else {
        return Err(unknown_pass(name));
    };
    if options.disabled_passes.iter().any(|p| p == name) {
        return Ok(0);
    }
    observe(Event::Begin(stage));
    let report = cameo_passes::run(pass, graph);
    *graph = numbered(graph);
    check(graph, stage, options)?;
    observe(Event::End(stage, Product::Graph(graph, Some(&report))));
    Ok(report.changes)
}

fn unknown_pass(name: &str) -> Diagnostics {
    Diagnostic::invalid(format!("there is no pass `{name}`"))
        .help(known_passes())
        .into()
}

/// Cuts the network that the user wants out of the graph. A stage like a pass, but it changes what is computed.
fn slice(
    wish: &Slice,
    graph: &mut Graph,
    options: &Options,
    observe: &mut dyn FnMut(Event),
) -> Result<(), Diagnostics> {
    let stage = Stage {
        phase: Phase::Passes,
        name: cameo_passes::slice::NAME,
    };
    observe(Event::Begin(stage));
    let report = cameo_passes::slice::slice(graph, wish)
        .map_err(|e| refused(graph, format!("`{}` cannot be cut: {}", e.what, e.reason), e.node))?;
    *graph = numbered(graph);
    check(graph, stage, options)?;
    observe(Event::End(stage, Product::Graph(graph, Some(&report))));
    Ok(())
}

/// Packs the tokens of padded sequences. A stage like a pass, but padding becomes zeros.
fn varlen(graph: &mut Graph, options: &Options, observe: &mut dyn FnMut(Event)) -> Result<(), Diagnostics> {
    let stage = Stage {
        phase: Phase::Passes,
        name: cameo_passes::varlen::NAME,
    };
    observe(Event::Begin(stage));
    let report = cameo_passes::varlen::varlen(graph)
        .map_err(|e| refused(graph, format!("tokens cannot be packed: {}", e.reason), e.node))?;
    *graph = numbered(graph);
    check(graph, stage, options)?;
    observe(Event::End(stage, Product::Graph(graph, Some(&report))));
    Ok(())
}

/// What a stage cannot do, shown at a node.
fn refused(graph: &Graph, message: String, node: Option<NodeId>) -> Diagnostic {
    let d = Diagnostic::invalid(message);
    match node.filter(|n| graph.contains(*n)) {
        Some(n) => d.excerpt(text::print_around(graph, n, 1)).node(graph.node(n)),
        None => d,
    }
}

/// The sentence that lists the passes.
pub fn known_passes() -> String {
    let names: Vec<&str> = cameo_passes::PASSES.iter().map(|p| p.name).collect();
    format!("the passes are {}", names.join(", "))
}

/// A coarse part of the compiler, as `--stop-after` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Import,
    Passes,
    Partition,
    Codegen,
    Link,
}

impl Phase {
    pub const ALL: [Self; 5] = [Self::Import, Self::Passes, Self::Partition, Self::Codegen, Self::Link];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Passes => "passes",
            Self::Partition => "partition",
            Self::Codegen => "codegen",
            Self::Link => "link",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Phase {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|p| p.name() == s)
            .ok_or_else(|| format!("the phases are {names}"))
    }
}

/// A phase as a whole (its name is the phase's), or one pass in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    pub phase: Phase,
    pub name: &'static str,
}

impl Stage {
    pub const fn phase(phase: Phase) -> Self {
        Self {
            phase,
            name: phase.name(),
        }
    }

    /// Whether this is a phase and not a part of one.
    pub fn is_phase(self) -> bool {
        self.name == self.phase.name()
    }
}

/// What an observer is told. Every `Begin` is followed by its `End`, unless there is an error.
pub enum Event<'a> {
    Begin(Stage),
    End(Stage, Product<'a>),
}

/// What a stage made.
pub enum Product<'a> {
    /// With what the pass did, when a pass made it.
    Graph(&'a Graph, Option<&'a Report>),
    Program(&'a Program, &'a MemoryPlan),
    Code(&'a Artifact),
    None,
}

/// The graph with values and nodes numbered in print order.
fn numbered(g: &Graph) -> Graph {
    let mut out = Graph::new(&g.name);
    out.symbols = g.symbols.clone();
    let mut new = vec![None; g.value_count()];
    for v in g.inputs() {
        let value = g.value(*v);
        new[v.0 as usize] = Some(out.add_input(&value.name, value.fact.clone()));
    }
    let order = g.order();
    let operands = order.iter().flat_map(|n| g.node(*n).inputs.iter().flatten().copied());
    let outputs = g.outputs().iter().map(|(_, v)| *v);
    for v in operands.chain(outputs).chain(g.value_ids()) {
        if new[v.0 as usize].is_none()
            && let Some(t) = g.constant(v)
        {
            new[v.0 as usize] = Some(out.add_weight(&g.value(v).name, t.clone()));
        }
    }
    for n in order {
        let node = g.node(n);
        let moved = |v: &Option<ValueId>| v.and_then(|v| new[v.0 as usize]);
        let inputs = node.inputs.iter().map(moved).collect();
        let facts = node.outputs.iter().map(|v| g.fact(*v).clone()).collect();
        let made = out.add_typed_node(node.op, node.attrs.clone(), inputs, facts, node.origin.clone());
        for (old, v) in node.outputs.iter().zip(made) {
            out.set_name(v, &g.value(*old).name);
            new[old.0 as usize] = Some(v);
        }
    }
    for (name, v) in g.outputs() {
        if let Some(v) = new[v.0 as usize] {
            out.add_output(name, v);
        }
    }
    out
}

/// Verifies the graph that a stage made.
fn check(graph: &Graph, stage: Stage, options: &Options) -> Result<(), Diagnostics> {
    if !options.verify && !cfg!(debug_assertions) {
        return Ok(());
    }
    let broken = |e: &VerifyError| {
        let d = Diagnostic::internal(format!("the graph is broken after `{}`: {e}", stage.name));
        let d = d.help("this is a bug in Cameo: please report it with the model or `cameo reduce` it first");
        match e.node().filter(|n| graph.contains(*n)) {
            Some(n) => d.excerpt(text::print_around(graph, n, 1)).node(graph.node(n)),
            None => d,
        }
    };
    verify(graph).map_err(|errors| errors.iter().map(broken).collect())
}

/// Names the nodes that have no kernel, with the graph around them.
fn lower_errors(graph: &Graph, errors: Vec<LowerError>) -> Diagnostics {
    let one = |e: LowerError| {
        let mut d = Diagnostic::from_op_error(&e.error);
        d.op = Some(e.op.clone());
        d.node = e.origin.names().first().map(ToString::to_string);
        let same = |op: bool| {
            graph
                .nodes()
                .find(|(_, n)| n.origin == e.origin && (!op || n.op.name() == e.op))
        };
        match same(true).or_else(|| same(false)) {
            Some((n, _)) => d.excerpt(text::print_around(graph, n, 1)),
            None => d,
        }
    };
    errors.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"graph @g (%0 "x": f32[N,3]) symbols N=1.. {
        weight %1: f32[3] = dense(1.0,2.0,3.0)
        %2 = Neg(%0) : f32[N,3] from "a"
        %3 = Add(%2, %1) : f32[N,3] from "b"
        %4 = Neg(%0) : f32[N,3] from "c"
        %5 = Mul(%3, %4) : f32[N,3] from "d"
        return %5 "y"
    }"#;

    fn graph() -> Graph {
        text::parse(SOURCE, &|_, _| None).expect("parses")
    }

    #[test]
    fn numbering_changes_nothing_that_is_printed() {
        let mut g = graph();
        let printed = text::print(&g);
        assert_eq!(text::print(&numbered(&g)), printed);
        // A pass leaves holes in the numbers; numbering closes them.
        cameo_passes::run(cameo_passes::by_name("cse").expect("a pass"), &mut g);
        let closed = numbered(&g);
        assert_eq!(text::print(&closed), text::print(&g));
        let read = text::parse(&text::print(&g), &|_, _| None).expect("parses");
        assert_eq!(closed.value_count(), read.value_count());
        assert!(closed.value_count() < g.value_count());
    }

    #[test]
    fn a_dump_of_a_stage_and_the_next_pass_give_the_next_stage() {
        let mut stages: Vec<(&str, String)> = vec![];
        let mut g = graph();
        optimize(&mut g, &Options::default(), &mut |e| {
            if let Event::End(s, Product::Graph(g, _)) = e {
                stages.push((s.name, text::print(g)));
            }
        })
        .expect("optimizes");
        assert!(stages.len() > 8);
        for pair in stages.windows(2) {
            let [(_, before), (pass, after)] = pair else {
                unreachable!()
            };
            let mut g = text::parse(before, &|_, _| None).expect("parses");
            run_pass(pass, &mut g, &Options::default(), &mut |_| {}).expect("runs");
            assert_eq!(&text::print(&g), after, "{pass}");
        }
    }

    #[test]
    fn an_unknown_pass_is_named_with_the_known_ones() {
        let e = run_pass("nothing", &mut graph(), &Options::default(), &mut |_| {}).expect_err("no such pass");
        let said = e.to_string();
        assert!(said.contains("`nothing`") && said.contains("fold_constants"), "{said}");
    }

    #[test]
    fn disabled_passes_do_not_run() {
        let mut options = Options {
            disabled_passes: vec!["cse".into(), "dce".into()],
            ..Options::default()
        };
        let mut names = vec![];
        optimize(&mut graph(), &options, &mut |e| {
            if let Event::End(s, Product::Graph(..)) = e {
                names.push(s.name);
            }
        })
        .expect("optimizes");
        assert!(
            names.contains(&"norms") && !names.contains(&"cse") && !names.contains(&"dce"),
            "{names:?}"
        );
        options.disabled_passes.push("nothing".into());
        let e = optimize(&mut graph(), &options, &mut |_| {}).expect_err("no such pass");
        assert!(e.to_string().contains("`nothing`"), "{e}");
    }

    #[test]
    fn phases_are_read_by_name() {
        for p in Phase::ALL {
            assert_eq!(p.name().parse(), Ok(p));
        }
        assert!("linking".parse::<Phase>().is_err());
    }
}
