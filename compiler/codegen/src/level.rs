//! Levels: the machines that one artefact has code for, best first, each with a program of the same plan.
//!
//! The runtime takes the first level that the processor has. Steps, memory and weights are those of all levels
//! ([`cameo_kernel::Target::plan`]); kernels are compiled for each, but for those that a newer machine does not run faster:
//! these exist once, for the last level.

use cameo_abi as abi;
use cameo_ir::structured::Expr;
use cameo_ir::{Bounds, Sym};
use cameo_kernel::Program;
use cameo_kernel::program::{Kernel, KernelBody, Nest, RED};

use crate::names;
use crate::object::{Arch, Machine};

/// A program and the machine that its schedules are for.
pub struct Level {
    pub program: Program,
    pub machine: Machine,
}

impl Level {
    /// The instruction sets that its code needs, as `abi::CPU_*` bits.
    #[must_use]
    pub fn cpu_features(&self) -> u64 {
        match (self.machine.arch, self.machine.vector_bits()) {
            (Arch::X86_64, 512) => abi::CPU_SSE42 | abi::CPU_AVX2_FMA | abi::CPU_AVX512,
            (Arch::X86_64, 256) => abi::CPU_SSE42 | abi::CPU_AVX2_FMA,
            (Arch::X86_64, _) => abi::CPU_SSE42,
            (Arch::Aarch64, _) => 0,
        }
    }
}

/// The symbol of every kernel of every level. With several levels it says which one it is of: `digits_k1_v3_contraction_conv2`.
#[must_use]
pub fn symbols(name: &str, levels: &[Level]) -> Vec<Vec<String>> {
    let of_level = |level: &Level| match levels {
        [_] => names::kernels(name, &level.program, None),
        _ => {
            let tag = level.machine.cpu.rsplit('-').next().unwrap_or_default();
            names::kernels(name, &level.program, Some(tag))
        }
    };
    let mut all: Vec<Vec<String>> = levels.iter().map(of_level).collect();
    let Some((shared, others)) = all.split_last_mut() else {
        return all;
    };
    let base = &levels[levels.len() - 1].program.kernels;
    for (level, symbols) in levels.iter().zip(others) {
        for (kernel, symbol) in level.program.kernels.iter().zip(symbols) {
            if moves_single_elements(kernel)
                && let Some(i) = base.iter().position(|k| k == kernel)
            {
                symbol.clone_from(&shared[i]);
            }
        }
    }
    all
}

/// Whether a kernel only moves elements (or computes with integers), and one by one: no machine does that in another way,
/// and the results are exact.
fn moves_single_elements(kernel: &Kernel) -> bool {
    let KernelBody::Nest(n) = &kernel.body else {
        return false;
    };
    let exact = |(i, e): (usize, &Expr)| match e {
        Expr::Load { operand, .. } => *operand < RED,
        Expr::Unary(..) | Expr::Binary(..) => !n.body.dtype(i as u32).is_float(),
        Expr::Const(..)
        | Expr::Index(_)
        | Expr::Select(..)
        | Expr::Cast(..)
        | Expr::Bits(..)
        | Expr::CheckedIndex(..) => true,
    };
    let moves = n.body.nodes().iter().enumerate().all(exact) && n.reductions.is_empty();
    moves && n.schedule.vector.is_none_or(|v| scattered(kernel, n, v))
}

/// Whether neighbouring lanes along iterator `v` are apart in memory, of some operand at least.
fn scattered(kernel: &Kernel, n: &Nest, v: usize) -> bool {
    let extents = kernel.body.extents();
    let bounds = Bounds::of(&extents);
    let lane = Sym::Iter(v as u32);
    let apart = |buffer: usize, index: &[cameo_ir::Dim]| {
        let at = bounds.simplify(&kernel.buffers[buffer].offset(index));
        at.uses(&lane) && !at.affine_in(&lane).is_some_and(|(step, _)| step.is_one())
    };
    let loads = n.body.nodes().iter().any(|e| match e {
        Expr::Load { operand, index, .. } => apart(*operand as usize, index),
        _ => false,
    });
    loads || n.stores.iter().any(|s| apart(s.buffer, &s.index))
}
