//! Evaluates nodes whose operands are all weights, where the result is small.
//!
//! ```text
//! weight %1: f32[64] = …                     weight %1: f32[64] = …
//! %2 = Sqrt(%1) : f32[64]              →     %2 = Mul(%0, %1) : f32[N,64]
//! %3 = Mul(%0, %2) : f32[N,64]
//! ```
//!
//! Larger constants stay as constant subgraphs: recipes, which are evaluated one tensor at a time while the weights file
//! is written, so that compiling never holds the weights in memory. Refused: results larger than their operands (Expand,
//! Tile, ConstantOfShape): the kernels that read them make them for nothing.

use cameo_ir::interp::cost;
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, Dim, NodeId};

use crate::Pass;
use crate::pattern::is_movement;

pub const PASS: Pass = Pass {
    name: "fold_constants",
    doc: "evaluates constant nodes with small results",
    run,
};

/// A page: scalars, per-channel vectors, index lists. Everything of this size together is small beside the graph.
const ALWAYS_BYTES: usize = 4 << 10;
/// Cheap operations that consume their operands may be folded up to this size: per-channel vectors of the widest layers
/// seen (16 K channels of f32).
const CHEAP_BYTES: usize = 64 << 10;
/// The reference evaluator is slow (about 100 MB/s); more operand bytes than this would be felt at compile time.
const OPERAND_BYTES: usize = 1 << 20;
/// Loop iterations: a reduction of that many bytes is below, a product of several long vectors is not.
const ITERATIONS: u64 = 1 << 22;

fn run(rw: &mut Rewriter) {
    // Producers come first, so one walk folds whole chains.
    rw.each(fold);
}

fn fold(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let g = rw.graph();
    let node = g.node(n);
    let symbolic = |a: &Attr| matches!(a, Attr::Dims(d) if d.iter().any(|d| d.as_const().is_none()));
    if node.outputs.iter().any(|v| g.is_output(*v))
        || node.inputs.iter().flatten().any(|v| g.constant(*v).is_none())
        || node.attrs.values().any(|a| symbolic(a) || matches!(a, Attr::Graph(_)))
    {
        return Outcome::NoMatch;
    }
    let mut result = 0usize;
    for v in &node.outputs {
        let fact = g.fact(*v);
        let Some(bytes) = bytes(fact.dtype.size(), &fact.shape) else {
            return Outcome::NoMatch;
        };
        result = result.saturating_add(bytes);
    }
    let size = |v: &cameo_ir::ValueId| g.constant(*v).map_or(0, |t| t.bytes().len());
    let operands: usize = node.inputs.iter().flatten().map(size).sum();
    let dying: usize = node
        .inputs
        .iter()
        .flatten()
        .filter(|v| rw.used_once(**v))
        .map(size)
        .sum();
    let op = node.op.name();
    let growing = matches!(
        op,
        "Expand" | "Tile" | "ConstantOfShape" | "EyeLike" | "OneHot" | "Pad" | "Resize"
    );
    // One element costs nothing, whatever made it.
    if growing && result > operands.max(8) {
        let reason = format!("the result has {result} bytes, the operands {operands}");
        return rw.refuse(&[n], "growing constant", reason);
    }
    let cheap = node.op.schema().pointwise || is_movement(op);
    let small = result <= ALWAYS_BYTES && operands <= OPERAND_BYTES;
    let consuming = cheap && result <= CHEAP_BYTES && result <= dying;
    if !small && !consuming {
        return Outcome::NoMatch;
    }
    let cost = cost(g, n);
    if cost > ITERATIONS {
        return rw.refuse(&[n], "slow constant", format!("evaluating it takes {cost} iterations"));
    }
    let values = g.with_cx(n, |cx| node.op.0.eval(cx));
    rw.replace(&[n], "constant", |rw| {
        let tensors = values?;
        Ok(tensors.into_iter().map(|t| rw.add_weight("", t)).collect())
    })
}

fn bytes(size: usize, shape: &[Dim]) -> Option<usize> {
    shape
        .iter()
        .try_fold(size, |a, d| a.checked_mul(usize::try_from(d.as_const()?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn chains_of_small_constants_become_weights() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {
              weight %1: f32[2] = dense(4.0, 9.0)
              %2 = Sqrt(%1)
              %3 = Neg(%2)
              %4 = Mul(%0, %3)
              return %4 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2]) symbols N=1.. {
          weight %1: f32[2] = dense(-2.0,-3.0)
          weight %2: f32[2] = dense(4.0,9.0)
          weight %3: f32[2] = dense(2.0,3.0)
          %4 = Mul(%0, %1) : f32[N,2]
          return %4 "y"
        }
        "#);
    }

    #[test]
    fn growing_constants_stay() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[64,64]) {
              weight %1: f32[1,64] = random
              %2 = Expand(%1) {shape=dims[64,64]}
              %3 = Mul(%0, %2)
              return %3 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"growing constant: the result has 16384 bytes, the operands 256");
    }

    #[test]
    fn slow_constants_stay() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[2]) {
              weight %1: f32[1000] = random
              %2 = Einsum(%1, %1, %1) {equation="a,b,c->"}
              %3 = Mul(%0, %2)
              return %3 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"slow constant: evaluating it takes 1000000000 iterations");
    }

    #[test]
    fn large_results_stay_as_recipes() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[1,2048]) {
              weight %1: f32[1,2] = random
              weight %2: f32[2,1] = positive
              %3 = Tile(%1) {repeats=dims[1,1024]}
              %4 = Sqrt(%2)
              %5 = Mul(%3, %4)
              %6 = Mul(%0, %5)
              return %6 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[1,2048]) {
          weight %1: f32[1,2] = dense(1.0,-2.0)
          weight %2: f32[2,1] = dense(1.5811388,1.5811388)
          weight %3: f32[2,1] = dense(2.5,2.5)
          %4 = Tile(%1) {repeats=dims[1,1024]} : f32[1,2048]
          %5 = Mul(%4, %2) : f32[2,2048]
          %6 = Mul(%0, %5) : f32[2,2048]
          return %6 "y"
        }
        "#);
    }
}
