//! Kernels to code, each in a module of its own, on all processors of this machine.
//!
//! Law: what becomes of a kernel depends on the kernel, the machine and the model's name alone, so neither the number of
//! threads nor their timing shows in the result.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cameo_kernel::Program;
use cameo_kernel::print::KernelLines;
use cameo_kernel::program::KernelBody;
use inkwell::context::Context as LlvmContext;

use crate::artifact::ArtifactError;
use crate::emit::Linkage;
use crate::emit::kernel::emit;
use crate::level::{self, Level};
use crate::object::{Machine, MachineError, llvm_text};
use crate::{Context, Module, lower};

/// Threads beyond this many find no work: a model has some dozens of different kernels.
const MOST_THREADS: usize = 16;

/// Stack of a compiling thread. LLVM recurses over expressions; its own main threads have 8 MiB.
const STACK_BYTES: usize = 32 << 20;

/// What to make of the kernels.
#[derive(Clone, Debug, Default)]
pub struct CompileOptions {
    /// Assembly text instead of objects.
    pub assembly: bool,
    /// Keep the text of every stage for dumps.
    pub texts: bool,
    /// 0: as many as there are processors.
    pub threads: usize,
    /// Name of a listing of the kernels, whose lines debug information tells of each instruction.
    pub listing: Option<String>,
}

/// The compiled kernels of all levels, in the order of levels and of their programs; what levels share is there once.
#[derive(Debug, Default)]
pub struct Compiled {
    pub kernels: Vec<CompiledKernel>,
    /// By level and kernel of its program.
    pub symbols: Vec<Vec<String>>,
    /// Time per stage, summed over threads, for people.
    pub times: StageTimes,
    /// With [`CompileOptions::listing`]: its name and text.
    pub listing: Option<(String, String)>,
}

#[derive(Clone, Debug)]
pub enum Code {
    Object(Vec<u8>),
    Assembly(String),
}

#[derive(Clone, Debug)]
pub struct CompiledKernel {
    /// Symbol, which names files too.
    pub symbol: String,
    pub code: Code,
    /// With [`CompileOptions::texts`].
    pub texts: Option<KernelTexts>,
}

/// A kernel after each stage.
#[derive(Clone, Debug)]
pub struct KernelTexts {
    /// As rendered.
    pub mlir: String,
    /// Optimised.
    pub llvm: String,
    pub assembly: String,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct StageTimes {
    /// Rendering MLIR.
    pub emit: Duration,
    /// MLIR to LLVM IR.
    pub lower: Duration,
    pub optimize: Duration,
    /// Instruction selection, register allocation, encoding.
    pub code: Duration,
}

/// Compiles every kernel of every level. Symbols begin with `name`, a C identifier (see [`crate::names::model`]).
///
/// # Errors
/// The first kernel's that fails, in the program's order.
pub fn compile(levels: &[Level], name: &str, options: &CompileOptions) -> Result<Compiled, ArtifactError> {
    let symbols = level::symbols(name, levels);
    let of_level = |l: usize| (0..levels[l].program.kernels.len()).map(move |i| (l, i));
    // What a level shares is compiled with the last one. Calls of the caller's code are in the tables.
    let is_own = |&(l, i): &(usize, usize)| {
        let shared = l + 1 < levels.len() && symbols[levels.len() - 1].contains(&symbols[l][i]);
        !shared && !matches!(levels[l].program.kernels[i].body, KernelBody::Custom(_))
    };
    let mut order: Vec<(usize, usize)> = (0..levels.len()).flat_map(of_level).filter(is_own).collect();
    let count = order.len();
    // Longest first, so that the threads end together.
    order.sort_by_key(|&(l, i)| (std::cmp::Reverse(effort(&levels[l].program.kernels[i].body)), l, i));
    let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if options.threads == 0 {
        processors()
    } else {
        options.threads
    };
    let threads = threads.clamp(1, MOST_THREADS).min(count.max(1));

    let next = AtomicUsize::new(0);
    let queue = || order.get(next.fetch_add(1, Ordering::Relaxed)).copied();
    let programs: Vec<&Program> = levels.iter().map(|l| &l.program).collect();
    // A target machine belongs to its thread.
    let spelled: Vec<(&str, &str)> = levels
        .iter()
        .map(|l| (&*l.machine.triple, respelled(&l.machine)))
        .collect();
    let listing = options.listing.as_ref().zip(levels.first());
    let listing = listing.map(|(name, level)| (name.clone(), cameo_kernel::print::listing(&level.program)));
    let lines = listing.as_ref().map(|(_, listing)| &*listing.kernels);
    let (programs, spelled, named) = (&*programs, &*spelled, &*symbols);
    let mut results = std::thread::scope(|scope| {
        let mut others = vec![];
        for _ in 1..threads {
            let work = || {
                let again = |(triple, cpu): &(&str, &str)| Machine::new(Some(triple), cpu);
                let machines = spelled.iter().map(again).collect::<Result<Vec<_>, _>>()?;
                Ok(Worker::new(programs, machines.iter().collect(), named, options, lines).run(&queue))
            };
            let thread = std::thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, work);
            // Without the thread, the others do its share.
            others.extend(thread);
        }
        let machines = levels.iter().map(|l| &l.machine).collect();
        let mut results = vec![Ok(Worker::new(programs, machines, named, options, lines).run(&queue))];
        for thread in others {
            results.push(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    })
    .into_iter()
    .collect::<Result<Vec<(Results, StageTimes)>, MachineError>>()?;

    let mut times = StageTimes::default();
    let mut kernels: Results = vec![];
    for (done, spent) in &mut results {
        kernels.append(done);
        times.emit += spent.emit;
        times.lower += spent.lower;
        times.optimize += spent.optimize;
        times.code += spent.code;
    }
    kernels.sort_by_key(|(i, _)| *i);
    let kernels = kernels
        .into_iter()
        .map(|(_, kernel)| kernel)
        .collect::<Result<_, _>>()?;
    Ok(Compiled {
        kernels,
        listing: listing.map(|(name, listing)| (name, listing.text)),
        symbols,
        times,
    })
}

/// How to ask [`Machine::new`] for the same machine again.
fn respelled(machine: &Machine) -> &str {
    // Only `native` is tuned for something.
    if machine.tune.is_none() { &machine.cpu } else { "native" }
}

/// A guess at the time that a kernel takes to compile; only its order matters.
fn effort(kernel: &KernelBody) -> usize {
    match kernel {
        KernelBody::Nest(nest) => nest.body.nodes().len() * (1 + nest.reductions.len() + nest.stores.len()),
        // A micro-kernel for each height of the tile, the epilogue in each.
        KernelBody::Contraction(c) => c.schedule.mr * (c.schedule.mr * c.schedule.nv + 4 * c.epilogue.nodes().len()),
        KernelBody::Winograd(w) => {
            let (tile, outputs) = (w.schedule.product, w.schedule.side * w.schedule.side);
            tile.mr * tile.mr * tile.nv + 4 * outputs * w.epilogue.nodes().len()
        }
        KernelBody::Chain(c) => c.links.iter().map(effort).sum(),
        KernelBody::InOrder(_) | KernelBody::Custom(_) => 1,
    }
}

/// By level and number.
type Results = Vec<((usize, usize), Result<CompiledKernel, ArtifactError>)>;

/// One thread's share.
struct Worker<'a> {
    programs: &'a [&'a Program],
    /// This thread's own.
    machines: Vec<&'a Machine>,
    symbols: &'a [Vec<String>],
    options: &'a CompileOptions,
    /// Of the first level's kernels in the listing.
    lines: Option<&'a [KernelLines]>,
    context: Context,
    times: StageTimes,
}

impl<'a> Worker<'a> {
    fn new(
        programs: &'a [&'a Program],
        machines: Vec<&'a Machine>,
        symbols: &'a [Vec<String>],
        options: &'a CompileOptions,
        lines: Option<&'a [KernelLines]>,
    ) -> Self {
        Self {
            programs,
            machines,
            symbols,
            options,
            lines,
            context: Context::new(),
            times: StageTimes::default(),
        }
    }

    fn run(mut self, queue: &dyn Fn() -> Option<(usize, usize)>) -> (Results, StageTimes) {
        let mut results = vec![];
        while let Some((level, index)) = queue() {
            results.push(((level, index), self.kernel(level, index)));
        }
        (results, self.times)
    }

    fn kernel(&mut self, level: usize, index: usize) -> Result<CompiledKernel, ArtifactError> {
        let mut start = Instant::now();
        let mut lap = |time: &mut Duration| {
            let now = Instant::now();
            *time += now - start;
            start = now;
        };
        let machine = self.machines[level];
        let symbol = &self.symbols[level][index];
        let mut module = Module::new(&self.context).with(machine.features());
        let lines = self.lines.filter(|_| level == 0).map(|lines| &lines[index]);
        if let (Some(_), Some(listing)) = (lines, &self.options.listing) {
            module = module.with_lines(listing);
        }
        let lanes = machine.vector_bits() / 32;
        let kernel = &self.programs[level].kernels[index];
        emit(&mut module, symbol, kernel, lanes, Linkage::Hidden, lines);
        let mlir = self.options.texts.then(|| {
            module.seal();
            crate::lower::text(&module)
        });
        lap(&mut self.times.emit);
        let llvm = LlvmContext::create();
        let module = lower(module, &llvm).map_err(|error| ArtifactError::Kernel { level, index, error })?;
        let file = format!("k{index}");
        module.set_name(&file);
        module.set_source_file_name(&file);
        lap(&mut self.times.lower);
        machine.optimize(&module)?;
        lap(&mut self.times.optimize);
        let assembly = self.options.assembly || self.options.texts;
        let assembly = if assembly {
            Some(machine.emit_assembly(&module)?)
        } else {
            None
        };
        let texts = mlir.zip(assembly.clone()).map(|(mlir, assembly)| KernelTexts {
            mlir,
            llvm: llvm_text(&module),
            assembly,
        });
        let code = match assembly {
            Some(text) if self.options.assembly => Code::Assembly(text),
            _ => Code::Object(machine.emit_object(&module)?),
        };
        lap(&mut self.times.code);
        let symbol = symbol.clone();
        Ok(CompiledKernel { symbol, code, texts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{global_symbols, undefined_symbols};

    fn objects(threads: usize) -> Vec<Vec<u8>> {
        let options = CompileOptions {
            threads,
            ..CompileOptions::default()
        };
        let compiled = compile(&crate::sample::levels(&["x86-64-v3"]), "m", &options).unwrap();
        let object = |kernel: CompiledKernel| match kernel.code {
            Code::Object(bytes) => bytes,
            Code::Assembly(text) => panic!("{text}"),
        };
        compiled.kernels.into_iter().map(object).collect()
    }

    #[test]
    fn threads_do_not_show() {
        let one = objects(1);
        assert_eq!(one.len(), 2);
        assert!(one == objects(2));
        for (object, symbol) in one.iter().zip(["m_k0_nest_first", "m_k1_nest_second"]) {
            assert_eq!(global_symbols(object).unwrap(), [symbol]);
            assert_eq!(undefined_symbols(object).unwrap(), [""; 0]);
        }
    }

    #[test]
    fn texts_on_request() {
        let options = CompileOptions {
            texts: true,
            ..CompileOptions::default()
        };
        let compiled = compile(&crate::sample::levels(&["x86-64-v3"]), "m", &options).unwrap();
        let texts = compiled.kernels[1].texts.as_ref().unwrap();
        assert!(
            texts.mlir.contains("@m_k1_nest_second")
                && texts.llvm.contains("@m_k1_nest_second")
                && texts.assembly.contains("m_k1_nest_second:")
        );
        assert!(matches!(compiled.kernels[1].code, Code::Object(_)));
    }

    #[test]
    fn lines_change_no_instruction() {
        let compiled = |listing: Option<&str>| {
            let options = CompileOptions {
                texts: true,
                listing: listing.map(str::to_owned),
                ..CompileOptions::default()
            };
            compile(&crate::sample::levels(&["x86-64-v3"]), "m", &options).unwrap()
        };
        let (plain, lined) = (compiled(None), compiled(Some("m.kernels")));
        assert!(plain.listing.is_none());
        let (file, listing) = lined.listing.as_ref().unwrap();
        assert_eq!(file, "m.kernels");
        let instructions = |text: &str| -> Vec<String> {
            let code = text.lines().filter(|line| line.starts_with("  "));
            code.map(|line| line.split(", !").next().unwrap_or_default().to_owned())
                .collect()
        };
        for (a, b) in plain.kernels.iter().zip(&lined.kernels) {
            let (a, b) = (a.texts.as_ref().unwrap(), b.texts.as_ref().unwrap());
            assert!(!a.llvm.contains("!dbg"));
            assert_eq!(instructions(&a.llvm), instructions(&b.llvm));
            // Each line that debug information names computes something.
            let lines = b.llvm.split("!DILocation(line: ").skip(1);
            let lines: Vec<usize> = lines.map(|l| l.split(',').next().unwrap().parse().unwrap()).collect();
            assert!(lines.iter().any(|l| *l > 0));
            for line in lines.into_iter().filter(|l| *l > 0) {
                let text = listing.lines().nth(line - 1).unwrap();
                assert!(
                    text.starts_with('k') || text.starts_with("    e"),
                    "line {line}: {text}"
                );
            }
        }
    }

    #[test]
    fn native_machines_are_made_twice() {
        let machine = Machine::new(None, "native").unwrap();
        let again = Machine::new(Some(&machine.triple), respelled(&machine)).unwrap();
        assert_eq!((&machine.cpu, &machine.tune), (&again.cpu, &again.tune));
    }
}
