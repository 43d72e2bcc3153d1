//! Writes operators that runtimes contribute, and recurrent layers, as the standard operators that they are made of.
//!
//! ```text
//! %2 = com.microsoft::BiasGelu(%0, %1) : f32[B,S,8]        →    %2 = Add(%0, %1) : f32[B,S,8]
//!                                                               %3 = Gelu(%2) : f32[B,S,8]
//! ```
//!
//! A model that a runtime has optimized for itself is then one like any other, and every later pass sees what it knows:
//! a `FusedMatMul` before a softmax is part of attention, the activation of a `FusedConv` is an activation, and what a
//! recurrent layer does with all time steps at once is a product like others. How an operator is made is what it says itself
//! where kernels ask for it.

use std::sync::Arc;

use cameo_ir::op::{Lowering, OpError, invalid};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, Graph, NodeId, ValueId};
use rustc_hash::FxHashMap;

use crate::Pass;

pub const PASS: Pass = Pass {
    name: "contributed",
    doc: "writes contributed operators and recurrent layers as the operators that they are made of",
    run,
};

/// The domain of ONNX Runtime's operators.
const DOMAIN: &str = "com.microsoft::";

/// Of the standard operators, those that become loops over time.
const RECURRENT: [&str; 3] = ["GRU", "LSTM", "RNN"];

fn run(rw: &mut Rewriter) {
    rw.fixpoint(|rw, n| {
        let op = rw.node(n).op;
        if !op.name().starts_with(DOMAIN) && !RECURRENT.contains(&op.name()) {
            return Outcome::NoMatch;
        }
        let detail = format!("{op} as standard operators");
        match rw.graph().with_cx(n, |cx| op.0.lower(cx)) {
            Ok(Lowering::Decompose(inner)) => rw.replace(&[n], &detail, |rw| inline(rw, n, &inner)),
            Ok(_) => Outcome::NoMatch,
            Err(e) => rw.refuse(&[n], &detail, e.to_string()),
        }
    });
}

/// The nodes of `inner`, whose inputs are the present ones of `n`; gives the values of its outputs.
fn inline(rw: &mut Rewriter, n: NodeId, inner: &Graph) -> Result<Vec<ValueId>, OpError> {
    let present: Vec<ValueId> = rw.node(n).inputs.iter().flatten().copied().collect();
    let mut map: FxHashMap<ValueId, ValueId> = inner.inputs().iter().copied().zip(present).collect();
    let value = |rw: &mut Rewriter, map: &mut FxHashMap<ValueId, ValueId>, v: ValueId| {
        if let Some(m) = map.get(&v) {
            return Ok(*m);
        }
        let Some(t) = inner.constant(v) else {
            return invalid("a decomposition reads what it does not compute");
        };
        let new = rw.add_weight("", t.clone());
        map.insert(v, new);
        Ok(new)
    };
    for id in inner.order() {
        let node = inner.node(id);
        let mut inputs = vec![];
        for v in &node.inputs {
            inputs.push(match v {
                Some(v) => Some(value(rw, &mut map, *v)?),
                None => None,
            });
        }
        let mut attrs = node.attrs.clone();
        for attr in attrs.values_mut() {
            if let Attr::Graph(body) = attr {
                let mut known = Graph::clone(body);
                for (name, range) in &mut known.symbols {
                    *range = rw.graph().symbols.get(name).copied().unwrap_or(*range);
                }
                *body = Arc::new(known);
            }
        }
        let outputs = rw.add_node(node.op, attrs, inputs, node.outputs.len())?;
        map.extend(node.outputs.iter().copied().zip(outputs));
    }
    inner.outputs().iter().map(|(_, v)| value(rw, &mut map, *v)).collect()
}

#[cfg(test)]
mod tests {
    use super::PASS;
    use crate::testing::rewrite;

    #[test]
    fn fused_operators() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[B,S,8], %1 "skip": f32[B,S,8]) symbols B=1.., S=1.. {
              weight %2: f32[8] = random
              weight %3: f32[8] = random
              %4, %5, %6, %7 = com.microsoft::SkipLayerNormalization(%0, %1, %2, %3) from "skip"
              %8 = com.microsoft::BiasGelu(%4, %3) from "gelu"
              %9 = com.microsoft::FusedMatMul(%8, %7) {alpha=0.5, transB=1}
              return %9 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[B,S,8], %1 "skip": f32[B,S,8]) symbols B=1.., S=1.. {
          weight %2: f32[8] = dense(…)
          weight %3: f32[8] = dense(…)
          weight %4: f32[] = dense(0.5)
          %5 = Add(%0, %1) : f32[B,S,8] from "skip"
          %6, %7, %8 = LayerNormalization(%5, %2, %3) {epsilon=1e-12} : f32[B,S,8], f32[B,S,1], f32[B,S,1] from "skip"
          %9 = Add(%6, %3) : f32[B,S,8] from "gelu"
          %10 = Gelu(%9) : f32[B,S,8] from "gelu"
          %11 = Transpose(%5) {perm=[0,2,1]} : f32[B,8,S]
          %12 = MatMul(%10, %11) : f32[B,S,S]
          %13 = Mul(%12, %4) : f32[B,S,S]
          return %13 "y"
        }
        "#);
    }

    #[test]
    fn a_recurrent_layer_is_a_product_and_a_loop() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[T,B,8]) symbols B=1.., T=1.. {
              weight %1: f32[1,16,8] = random
              weight %2: f32[1,16,4] = random
              %3, %4, %5 = LSTM(%0, %1, %2) from "lstm"
              return %3 "y"
            }"#,
        );
        let of = |op: &str| text.matches(&format!("= {op}(")).count();
        // One product with all steps, one in each.
        assert_eq!((of("LSTM"), of("MatMul"), of("Tanh")), (0, 2, 2), "{text}");
        assert!(
            text.contains("= cameo::Scan(") && text.contains("symbols B=1.. {"),
            "{text}"
        );
    }
}
