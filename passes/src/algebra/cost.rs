//! What a term costs, in units of bytes moved through memory.
//!
//! Estimates to compare alternatives with, not times. Symbols have nominal values.

use cameo_ir::{Attr, Fact};
use egg::Id;

use super::language::{EGraph, ENode, Head, OPS};
use crate::pattern::is_movement;

/// Prices of work, in bytes moved.
pub struct Costs {
    /// One more kernel: about 1 µs of synchronisation and address work, in which a core moves some 10 KB.
    pub kernel: u64,
    /// A vector unit does about this many floating-point operations while a byte comes from memory
    /// (100 GFLOP/s against 12 GB/s per core).
    pub flops_per_byte: u64,
    /// Pointwise work and movement is mostly done inside the kernels around it, and then moves nothing of its own: only
    /// one part in this many is counted.
    pub fused_share: u64,
    /// Operations of a pointwise function that is more than an instruction.
    pub function_flops: u64,
    /// A constant costs nothing at run time; the least cost makes the simpler one win.
    pub constant: u64,
}

pub const COSTS: Costs = Costs {
    kernel: 10_000,
    flops_per_byte: 8,
    fused_share: 4,
    function_flops: 16,
    constant: 1,
};

impl Costs {
    /// Of one e-node of class `id`, without its operands. Terms that do not type cannot be had.
    pub fn of(&self, g: &EGraph, id: Id, node: &ENode) -> Option<u64> {
        let Head::Op(op, attrs) = node.head else { return Some(0) };
        let data = &g[id].data;
        let out = data.fact.as_ref()?;
        if data.constant {
            return Some(self.constant);
        }
        let schema = OPS.get(op).schema();
        let facts: Vec<Option<&Fact>> = node.children.iter().map(|c| g[*c].data.fact.as_ref()).collect();
        let count = |f: &Fact| {
            f.shape
                .iter()
                .fold(1u64, |a, d| a.saturating_mul(g.analysis.estimate(d)))
        };
        let bytes = |f: &Fact| count(f).saturating_mul(f.dtype.size() as u64);
        let moved = facts
            .iter()
            .flatten()
            .fold(bytes(out), |a, f| a.saturating_add(bytes(f)));
        let per_element = match schema.name {
            name if is_movement(name) => 0,
            "MatMul" => {
                let inner = facts.first().copied().flatten().and_then(|f| f.shape.last());
                2 * inner.map_or(1, |d| g.analysis.estimate(d))
            }
            "Gemm" => {
                let transposed = matches!(g.analysis.attrs(attrs).get("transA"), Some(Attr::Int(1)));
                let inner = facts
                    .first()
                    .copied()
                    .flatten()
                    .and_then(|f| f.shape.get(usize::from(!transposed)));
                2 * inner.map_or(1, |d| g.analysis.estimate(d))
            }
            "Conv" | "ConvTranspose" => {
                let weight = facts.get(1).copied().flatten();
                let window = weight.map_or(&[][..], |f| f.shape.get(1..).unwrap_or(&[]));
                window
                    .iter()
                    .fold(2u64, |a, d| a.saturating_mul(g.analysis.estimate(d)))
            }
            "Add" | "Sub" | "Mul" | "Neg" | "Abs" | "Relu" | "Min" | "Max" | "Where" | "Not" | "And" | "Or" => 1,
            _ => self.function_flops,
        };
        let flops = count(out).saturating_mul(per_element);
        let share = if schema.pointwise || is_movement(schema.name) {
            self.fused_share
        } else {
            1
        };
        let kernel = self.kernel / share;
        Some(
            kernel
                .saturating_add(moved / share)
                .saturating_add(flops / self.flops_per_byte),
        )
    }
}
