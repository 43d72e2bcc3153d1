//! Kernels to code, each in a module of its own, on all processors.
//!
//! Law: what becomes of a kernel depends on the kernel, the machine and the model's name alone, so neither the number of
//! threads nor their timing shows in the result.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cameo_kernel::Program;
use cameo_kernel::program::KernelBody;
use inkwell::context::Context as LlvmContext;

use crate::artifact::ArtifactError;
use crate::emit::kernel::{emit_kernels, symbol};
use crate::names;
use crate::object::{Machine, MachineError, llvm_text};
use crate::{Context, Module, lower};

/// Threads beyond this many find no work: a model has some dozens of different kernels.
const MOST_THREADS: usize = 16;

/// Stack of a compiling thread. LLVM recurses over expressions; its own main threads have 8 MiB.
const STACK_BYTES: usize = 32 << 20;

/// What to make of the kernels.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompileOptions {
    /// Assembly text instead of objects.
    pub assembly: bool,
    /// Keep the text of every stage for dumps.
    pub texts: bool,
    /// 0: as many as there are processors.
    pub threads: usize,
}

/// The compiled kernels of a program, in its order.
#[derive(Debug, Default)]
pub struct Compiled {
    pub kernels: Vec<CompiledKernel>,
    /// Time per stage, summed over threads, for people.
    pub times: StageTimes,
}

#[derive(Clone, Debug)]
pub enum Code {
    Object(Vec<u8>),
    Assembly(String),
}

#[derive(Clone, Debug)]
pub struct CompiledKernel {
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

/// Compiles every kernel of a program. Symbols begin with `name`, a C identifier (see [`crate::names::model`]).
///
/// # Errors
/// The first kernel's that fails, in the program's order.
pub fn compile(
    program: &Program,
    machine: &Machine,
    name: &str,
    options: &CompileOptions,
) -> Result<Compiled, ArtifactError> {
    let count = program.kernels.len();
    let mut order: Vec<usize> = (0..count).collect();
    // Longest first, so that the threads end together.
    order.sort_by_key(|&i| (std::cmp::Reverse(effort(&program.kernels[i].body)), i));
    let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if options.threads == 0 {
        processors()
    } else {
        options.threads
    };
    let threads = threads.clamp(1, MOST_THREADS).min(count.max(1));

    let next = AtomicUsize::new(0);
    let queue = || order.get(next.fetch_add(1, Ordering::Relaxed)).copied();
    let (triple, cpu) = (&*machine.triple, respelled(machine));
    let symbols = &*names::kernels(name, program);
    let mut results = std::thread::scope(|scope| {
        let mut others = vec![];
        for _ in 1..threads {
            // A target machine belongs to its thread.
            let work = || {
                let machine = Machine::new(Some(triple), cpu)?;
                Ok(Worker::new(program, &machine, symbols, options).run(&queue))
            };
            let thread = std::thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, work);
            // Without the thread, the others do its share.
            others.extend(thread);
        }
        let mut results = vec![Ok(Worker::new(program, machine, symbols, options).run(&queue))];
        for thread in others {
            results.push(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    })
    .into_iter()
    .collect::<Result<Vec<(Results, StageTimes)>, MachineError>>()?;

    let mut times = StageTimes::default();
    let mut kernels: Vec<(usize, Result<CompiledKernel, ArtifactError>)> = vec![];
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
    Ok(Compiled { kernels, times })
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
    }
}

type Results = Vec<(usize, Result<CompiledKernel, ArtifactError>)>;

/// One thread's share.
struct Worker<'a> {
    program: &'a Program,
    machine: &'a Machine,
    /// Of the kernels.
    symbols: &'a [String],
    options: CompileOptions,
    context: Context,
    times: StageTimes,
}

impl<'a> Worker<'a> {
    fn new(program: &'a Program, machine: &'a Machine, symbols: &'a [String], options: &CompileOptions) -> Self {
        Self {
            program,
            machine,
            symbols,
            options: *options,
            context: Context::new(),
            times: StageTimes::default(),
        }
    }

    fn run(mut self, queue: &dyn Fn() -> Option<usize>) -> (Results, StageTimes) {
        let mut results = vec![];
        while let Some(index) = queue() {
            results.push((index, self.kernel(index)));
        }
        (results, self.times)
    }

    fn kernel(&mut self, index: usize) -> Result<CompiledKernel, ArtifactError> {
        let mut start = Instant::now();
        let mut lap = |time: &mut Duration| {
            let now = Instant::now();
            *time += now - start;
            start = now;
        };
        let mut module = Module::new(&self.context);
        emit_kernels(&mut module, self.program, [index], self.machine.vector_bits() / 32);
        let mlir = self.options.texts.then(|| {
            module.seal();
            crate::lower::text(&module)
        });
        lap(&mut self.times.emit);
        let llvm = LlvmContext::create();
        let module = lower(module, &llvm).map_err(|error| ArtifactError::Kernel { index, error })?;
        // Two models in one program must not share symbols.
        if let Some(function) = module.get_function(&symbol(index)) {
            function.as_global_value().set_name(&self.symbols[index]);
        }
        let file = format!("k{index}");
        module.set_name(&file);
        module.set_source_file_name(&file);
        lap(&mut self.times.lower);
        self.machine.optimize(&module)?;
        lap(&mut self.times.optimize);
        let assembly = self.options.assembly || self.options.texts;
        let assembly = if assembly {
            Some(self.machine.emit_assembly(&module)?)
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
            _ => Code::Object(self.machine.emit_object(&module)?),
        };
        lap(&mut self.times.code);
        Ok(CompiledKernel { code, texts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{global_symbols, undefined_symbols};

    fn objects(threads: usize) -> Vec<Vec<u8>> {
        let program = crate::sample::program();
        let machine = Machine::new(None, "x86-64-v3").unwrap();
        let options = CompileOptions {
            threads,
            ..CompileOptions::default()
        };
        let compiled = compile(&program, &machine, "m", &options).unwrap();
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
        let program = crate::sample::program();
        let machine = Machine::new(None, "x86-64-v3").unwrap();
        let options = CompileOptions {
            texts: true,
            ..CompileOptions::default()
        };
        let compiled = compile(&program, &machine, "m", &options).unwrap();
        let texts = compiled.kernels[1].texts.as_ref().unwrap();
        assert!(
            texts.mlir.contains("@cameo_k1")
                && texts.llvm.contains("@m_k1_nest_second")
                && texts.assembly.contains("m_k1_nest_second:")
        );
        assert!(matches!(compiled.kernels[1].code, Code::Object(_)));
    }

    #[test]
    fn native_machines_are_made_twice() {
        let machine = Machine::new(None, "native").unwrap();
        let again = Machine::new(Some(&machine.triple), respelled(&machine)).unwrap();
        assert_eq!((&machine.cpu, &machine.tune), (&again.cpu, &again.tune));
    }
}
