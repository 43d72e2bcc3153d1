//! From graphs to kernels: partition, schedules and the memory plan.
//!
//! This crate knows neither ONNX nor LLVM nor passes. [`partition`] is the whole of it.

pub mod bounds;
pub mod build;
pub mod chain;
pub mod classify;
pub mod contraction;
pub mod expand;
pub mod flat;
pub mod group;
pub mod memory;
pub mod nest;
pub mod order;
pub mod print;
pub mod program;
mod scan;
pub mod select;
pub mod targets;

#[cfg(test)]
mod testing;

pub use expand::LowerError;
pub use program::Program;
pub use targets::Target;

use cameo_ir::Graph;

/// Groups the nodes of a graph into kernels for a target.
pub fn partition(graph: &Graph, target: &Target) -> Result<Program, Vec<LowerError>> {
    let info = classify::Info::new(expand::expand(graph)?);
    let groups = group::form(&info);
    let mut program = build::build(&info, &groups, target)?;
    chain::fuse(&mut program, target);
    Ok(program)
}

#[cfg(test)]
mod tests {
    use crate::program::{BOperand, KernelBody};
    use crate::testing::{block, convolutions};

    #[test]
    fn an_attention_block_becomes_few_kernels() {
        let p = block(None);
        // Three projections, attention, output with residual, norm.
        assert_eq!(
            p.steps.len(),
            6,
            "{}",
            crate::print::program(&p, &crate::memory::plan(&p))
        );
        let kinds: Vec<&str> = p
            .steps
            .iter()
            .map(|s| match &p.kernels[s.kernel].body {
                KernelBody::Nest(n) if n.row.is_empty() => "pointwise",
                KernelBody::Nest(_) => "row",
                KernelBody::Contraction(c) => match c.b {
                    BOperand::Packed { .. } => "packed",
                    BOperand::Direct(_) => "direct",
                    BOperand::Gathered(_) => "gathered",
                },
                KernelBody::Chain(_) => "chain",
            })
            .collect();
        assert_eq!(kinds.iter().filter(|k| **k == "packed").count(), 4);
        assert_eq!(kinds.iter().filter(|k| **k == "row").count(), 1);
        assert_eq!(kinds.iter().filter(|k| **k == "chain").count(), 1);
        // The projections differ only in their weights.
        assert!(p.kernels.len() <= 6);
        assert!(p.requirements.is_empty());
    }

    #[test]
    fn convolutions_keep_channels_innermost_and_absorb_what_follows() {
        let p = convolutions();
        // Convolution with ReLU, depthwise, pointwise with the residual, pooling, and the copy of nothing else.
        assert_eq!(
            p.steps.len(),
            4,
            "{}",
            crate::print::program(&p, &crate::memory::plan(&p))
        );
        for s in &p.steps {
            if let KernelBody::Contraction(c) = &p.kernels[s.kernel].body {
                let out = &c.stores[0];
                let strides = &p.kernels[s.kernel].buffers[out.buffer].strides;
                assert!(strides[1].is_one(), "channels are consecutive: {strides:?}");
            }
        }
    }
}
