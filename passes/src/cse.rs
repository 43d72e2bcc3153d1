//! Computes equal things once: equal nodes are merged, and so are equal weights.
//!
//! ```text
//! %1 = Exp(%0) : f32[N]                 %1 = Exp(%0) : f32[N]
//! %2 = Exp(%0) : f32[N]            →    %2 = Add(%1, %1) : f32[N]
//! %3 = Add(%1, %2) : f32[N]
//! ```

use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attrs, NodeId, Op, Tensor, ValueId};
use rustc_hash::FxHashMap;

use crate::Pass;

pub const PASS: Pass = Pass {
    name: "cse",
    doc: "merges equal nodes and equal weights",
    run,
};

/// Weights up to this size are compared by content. Larger ones are equal only when they are the same bytes of the same
/// file: hashing hundreds of megabytes would take longer than all other passes together.
const COMPARED_BYTES: usize = 4096;

type Key = (Op, Attrs, Vec<Option<ValueId>>, usize);

fn run(rw: &mut Rewriter) {
    weights(rw);
    let mut seen: FxHashMap<Key, NodeId> = FxHashMap::default();
    // One walk in order suffices: when a node is reached, its operands are already the merged ones.
    rw.each(|rw, n| {
        let node = rw.node(n);
        let mut inputs = node.inputs.clone();
        if node.op.schema().commutative && inputs.len() == 2 {
            inputs.sort();
        }
        let key = (node.op, node.attrs.clone(), inputs, node.outputs.len());
        // Equal nodes that nobody reads vanish together.
        let first = seen.get(&key).copied().filter(|first| rw.graph().contains(*first));
        let Some(first) = first else {
            seen.insert(key, n);
            return Outcome::NoMatch;
        };
        if first == n {
            return Outcome::NoMatch;
        }
        let (origin, outputs) = (rw.node(n).origin.clone(), rw.node(first).outputs.clone());
        let outcome = rw.replace(&[n, first], "equal nodes", |_| Ok(outputs));
        if outcome == Outcome::Applied && rw.graph().contains(first) {
            rw.lend_origin(first, &origin);
        }
        outcome
    });
}

fn weights(rw: &mut Rewriter) {
    let mut by_content: FxHashMap<Tensor, ValueId> = FxHashMap::default();
    let mut by_place: FxHashMap<(*const u8, Vec<usize>, cameo_ir::DType), ValueId> = FxHashMap::default();
    for v in rw.graph().value_ids() {
        let Some(t) = rw.constant(v) else { continue };
        let first = if t.bytes().len() <= COMPARED_BYTES {
            *by_content.entry(t.clone()).or_insert(v)
        } else {
            let place = (t.bytes().as_ptr(), t.shape().to_vec(), t.dtype());
            *by_place.entry(place).or_insert(v)
        };
        if first != v {
            rw.replace_values(&[v], &[], "equal weights", |_| Ok(vec![first]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PASS;
    use crate::testing::rewrite;

    #[test]
    fn merges_nodes_and_weights() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {
              weight %1: f32[2] = dense(1.0, 2.0)
              weight %2: f32[2] = dense(1.0, 2.0)
              %3 = Mul(%0, %1) from "a"
              %4 = Mul(%2, %0) from "b"
              %5 = Exp(%3) from "c"
              %6 = Exp(%4) from "d"
              %7 = Sub(%5, %6)
              return %7 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2]) symbols N=1.. {
          weight %1: f32[2] = dense(1.0,2.0)
          %2 = Mul(%0, %1) : f32[N,2] from "a", "b"
          %3 = Exp(%2) : f32[N,2] from "c", "d"
          %4 = Sub(%3, %3) : f32[N,2]
          return %4 "y"
        }
        "#);
    }

    #[test]
    fn tells_attributes_apart() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,N]) symbols N=1.. {
              %1 = Softmax(%0) {axis=0}
              %2 = Softmax(%0) {axis=1}
              %3 = Sub(%1, %2)
              return %3 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,N]) symbols N=1.. {
          %1 = Softmax(%0) {axis=0} : f32[N,N]
          %2 = Softmax(%0) {axis=1} : f32[N,N]
          %3 = Sub(%1, %2) : f32[N,N]
          return %3 "y"
        }
        "#);
    }

    #[test]
    fn equal_nodes_that_nobody_reads_vanish() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {
              %1 = Exp(%0) from "a"
              %2 = Exp(%0) from "b"
              %3 = Exp(%0) from "c"
              return %3 "y"
            }"#,
        );
        assert_eq!(text.matches("Exp(").count(), 1, "{text}");
    }
}
