//! From graphs to kernels: partition, schedules and the memory plan.
//!
//! This crate knows neither ONNX nor LLVM nor passes. [`partition`] is the whole of it.

pub mod bounds;
pub mod build;
mod cache;
pub mod chain;
pub mod classify;
pub mod contraction;
mod counted;
mod custom;
pub mod expand;
pub mod flat;
pub mod group;
mod lines;
pub mod memory;
pub mod nest;
pub mod order;
pub mod print;
pub mod program;
mod scan;
pub mod select;
pub mod split;
pub mod targets;
pub mod traffic;
pub mod tuning;
pub mod window;
pub mod winograd;

#[cfg(test)]
mod testing;

use std::sync::Arc;

use expand::Edges;
pub use expand::LowerError;
pub use program::Program;
pub use targets::Target;

use cameo_ir::Graph;

/// What may be chosen about kernels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// Convolutions are sums of products, never Winograd's form.
    pub exact_conv: bool,
    /// Outputs that are an input with more rows behind it stay in the input's memory ([`program::Cache`]).
    pub in_place_cache: bool,
    /// Schedules that were measured.
    pub tuning: Option<Arc<tuning::Tuning>>,
}

/// Groups the nodes of a graph into kernels for a target.
pub fn partition(graph: &Graph, target: &Target, choices: Choices) -> Result<Program, Vec<LowerError>> {
    partition_between(graph, Edges::Packed, target, choices)
}

/// [`partition`] of a model or of a loop's body.
fn partition_between(
    graph: &Graph,
    edges: Edges,
    target: &Target,
    choices: Choices,
) -> Result<Program, Vec<LowerError>> {
    let info = classify::Info::new(expand::expand(graph, edges)?);
    let groups = group::form(&info);
    let mut program = build::build(&info, &groups, target, choices)?;
    chain::fuse(&mut program, target);
    split::reductions(&mut program, target);
    Ok(program)
}

#[cfg(test)]
mod tests {
    use crate::program::{BOperand, KernelBody};
    use crate::testing::{block, convolutions, program};

    /// What the kernels of a graph in text form are.
    fn kinds(text: &str) -> Vec<&'static str> {
        let p = program(text);
        let kind = |s: &crate::program::Step| p.kernels[s.kernel].body.kind();
        p.steps.iter().map(kind).collect()
    }

    #[test]
    fn a_single_query_is_a_row() {
        let text = |head: &str, tail: &str| {
            format!(
                r#"graph @g (%0 "q": f32[2,4,1,8], %1 "k": f32[2,4,S,8], %2 "v": f32[2,4,S,8]) symbols S=1.. {{
                  {head}
                  {tail}
                  return %9 "y"
                }}"#
            )
        };
        let attention = "%9 = Attention(%0, %1, %2)";
        assert_eq!(kinds(&text("", attention)), ["chain"]);
        // A matrix that a nest computes needs no memory when its reader is a nest too.
        let product = "%4 = Exp(%2)
            %9 = MatMul(%3, %4)";
        let row = r#"%3 = ReduceSum(%1) {axes=[3], keepdims=0}"#;
        let row = format!("{row}\n%5 = Unsqueeze(%3) {{axes=[2]}}");
        assert_eq!(kinds(&text(&row, &product.replace("%3", "%5"))), ["nest", "nest"]);
        let plain = "%9 = MatMul(%5, %2)";
        assert_eq!(kinds(&text(&row, plain)), ["nest", "contraction"]);
    }

    #[test]
    fn lanes_run_where_they_are_filled() {
        // Seven series, each an innermost column: the weight's 64 columns fill vectors.
        let layer = |n: usize| {
            format!(
                r#"graph @g (%0 "x": f32[32,{n}]) {{
                  weight %1: f32[64,32] = blob("w")
                  %2 = MatMul(%1, %0)
                  return %2 "y"
                }}"#
            )
        };
        let packed = |text: &str| {
            let p = program(text);
            p.kernels
                .iter()
                .any(|k| matches!(&k.body, KernelBody::Contraction(c) if matches!(c.b, BOperand::Packed { .. })))
        };
        assert!(packed(&layer(7)));
        assert!(!packed(&layer(16)));
    }

    #[test]
    fn windows_read_through_transposes_and_reshapes() {
        for batch in ["1", "2", "B"] {
            let kinds = kinds(&format!(
                r#"graph @g (%0 "x": f32[{batch},64,16]) symbols B=1.. {{
                  weight %1: f32[16,1,3,3] = blob("w")
                  %2 = Relu(%0)
                  %3 = Transpose(%2) {{perm=[0,2,1]}}
                  %4 = Reshape(%3) {{shape=dims[{batch},16,8,8]}}
                  %5 = Conv(%4, %1) {{group=16, pads=[1,1,1,1]}}
                  %6 = Reshape(%5) {{shape=dims[{batch},16,64]}}
                  %7 = Transpose(%6) {{perm=[0,2,1]}}
                  return %7 "y"
                }}"#
            ));
            // What is before the window, the window, and the output.
            assert_eq!(kinds, ["nest", "nest", "nest"], "{batch}");
        }
    }

    #[test]
    fn levels_differ_in_schedules_only() {
        use crate::targets::{aarch64::NEON, x86_64};
        let window = r#"graph @g (%0 "x": f32[1,64,14,14]) {
          weight %1: f32[128,64,3,3] = blob("w")
          %2 = Conv(%0, %1) {pads=[1,1,1,1]}
          return %2 "y"
        }"#;
        // Few columns, and a sum that is split or not by how many tiles there are.
        let long = |n: usize, m: usize| {
            format!(
                r#"graph @g (%0 "x": f32[{m},4096]) {{
                  weight %1: f32[4096,{n}] = blob("w")
                  %2 = MatMul(%0, %1)
                  return %2 "y"
                }}"#
            )
        };
        let texts = [window.to_owned(), long(8, 1), long(24, 40), long(100, 7), long(37, 60)];
        for text in texts {
            let g = cameo_ir::text::parse(&text, &|_, bytes| Some(vec![0; bytes].into())).expect("parses");
            let at = |t| crate::partition(&g, t, crate::Choices::default()).expect("partitions");
            let v4 = at(&x86_64::V4);
            for level in [&x86_64::V3, &x86_64::V2] {
                let other = at(level);
                assert!(v4.same_plan(&other), "{} {text}", level.name);
                assert_ne!(v4.kernels, other.kernels, "{} {text}", level.name);
            }
            // Another architecture has a plan of its own: other panels.
            assert!(!v4.same_plan(&at(&NEON)), "{text}");
        }
    }

    #[test]
    fn tiles_fit_panels() {
        use crate::targets::{aarch64::NEON, x86_64};
        for target in [x86_64::V4, x86_64::V3, x86_64::V2, NEON] {
            assert_eq!(target.panel, target.plan().panel, "{}", target.name);
            for t in target.tiles {
                // A tile is a part of one panel, or each of its vectors has one of its own.
                let part = target.panel % (t.nv * target.lanes) == 0;
                assert!(part || target.lanes == target.panel, "{} {t:?}", target.name);
            }
        }
    }

    #[test]
    fn windows_over_data_are_no_contraction() {
        let text = r#"graph @g (%0 "x": f32[1,6,9,9], %1 "w": f32[6,1,3,3]) {
          %2 = Conv(%0, %1) {group=6, pads=[1,1,1,1]}
          return %2 "y"
        }"#;
        assert_eq!(kinds(text), ["nest"]);
        assert_eq!(kinds(&text.replace(", pads=[1,1,1,1]", "")), ["nest"]);
    }

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
                KernelBody::Winograd(_) => "winograd",
                KernelBody::Chain(_) => "chain",
                KernelBody::InOrder(_) => "in order",
                KernelBody::Custom(_) => "custom",
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
        // The input with its channels innermost, convolution with ReLU, depthwise, pointwise with the residual, pooling, and
        // the copy of nothing else.
        assert_eq!(
            p.steps.len(),
            5,
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
