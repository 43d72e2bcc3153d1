//! Shape arithmetic becomes symbolic dims: an operand that says a shape, and whose elements are known as dims, moves into
//! its attribute, and an integer tensor whose elements are all known numbers becomes a weight.
//!
//! ```text
//! %1 = Shape(%0) : i64[3]                              // %0: f32[B,S,384]
//! %2 = Slice(%1, …) : i64[2]                     →     %1 = Reshape(%0) {shape=[B,S,12,32]} : f32[B,S,12,32]
//! %3 = Concat(%2, [12,32]) {axis=0} : i64[4]
//! %4 = Reshape(%0, %3) : f32[B,S,12,32]
//! ```
//!
//! What computed the shape dies with its last reader. Refused: nothing; an operand that is not known stays.

use cameo_ir::op::Arity;
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, Dim, NodeId, Tensor};

use crate::Pass;

pub const PASS: Pass = Pass {
    name: "known_shapes",
    doc: "moves known shape operands into attributes and turns known integers into weights",
    run,
};

fn run(rw: &mut Rewriter) {
    rw.fixpoint(|rw, n| match to_attributes(rw, n) {
        Outcome::NoMatch => to_weights(rw, n),
        outcome => outcome,
    });
}

fn to_attributes(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let node = rw.node(n);
    let (mut attrs, mut inputs) = (node.attrs.clone(), node.inputs.clone());
    let mut moved = false;
    for (param, slot) in node.op.schema().inputs.iter().zip(&mut inputs) {
        if let (Some(name), Some(v)) = (param.attr, *slot)
            && param.arity != Arity::Variadic
            && !rw.fact(v).dtype.is_float()
            && !rw.fact(v).is_open()
            && let Some(known) = &rw.fact(v).known
        {
            attrs.insert(name.into(), Attr::Dims(known.clone()));
            *slot = None;
            moved = true;
        }
    }
    if !moved {
        return Outcome::NoMatch;
    }
    let (op, outputs) = (node.op, node.outputs.len());
    rw.replace(&[n], "known operand", |rw| rw.add_node(op, attrs, inputs, outputs))
}

fn to_weights(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let g = rw.graph();
    let outputs = g.node(n).outputs.clone();
    let tensors: Vec<Option<Tensor>> = outputs
        .iter()
        .map(|v| {
            let fact = g.fact(*v);
            let known = fact.known.as_ref().filter(|_| !fact.dtype.is_float())?;
            let elements: Vec<i64> = known.iter().map(Dim::as_const).collect::<Option<_>>()?;
            let shape = fact.static_shape()?;
            let read = g.user_count(*v) > 0 && !g.is_output(*v);
            (read && shape.iter().product::<usize>() == elements.len())
                .then(|| Tensor::from_i64(fact.dtype, &shape, elements))
        })
        .collect();
    if tensors.iter().all(Option::is_none) {
        return Outcome::NoMatch;
    }
    rw.replace(&[n], "known integers", |rw| {
        let new = outputs.iter().zip(tensors);
        Ok(new.map(|(v, t)| t.map_or(*v, |t| rw.add_weight("", t))).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::PASS;
    use crate::testing::rewrite;

    #[test]
    fn a_computed_shape_becomes_an_attribute() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[B,S,12]) symbols B=1.., S=1.. {
              weight %1: i64[1] = dense(0)
              weight %2: i64[1] = dense(2)
              weight %3: i64[2] = dense(3, 4)
              %4 = Shape(%0)
              %5 = Slice(%4, %1, %2)
              %6 = Concat(%5, %3) {axis=0}
              %7 = Reshape(%0, %6)
              return %7 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[B,S,12]) symbols B=1.., S=1.. {
          weight %1: i64[1] = dense(0)
          weight %2: i64[1] = dense(2)
          weight %3: i64[2] = dense(3,4)
          %4 = Reshape(%0) {shape=dims[B,S,3,4]} : f32[B,S,3,4]
          return %4 "y"
        }
        "#);
    }

    #[test]
    fn known_numbers_become_weights() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[B,12], %1 "i": i64[B]) symbols B=1.. {
              weight %2: i64[1] = dense(1)
              %3 = Shape(%0)
              %4 = Gather(%3, %2) {axis=0}
              %5 = Add(%1, %4)
              return %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[B,12], %1 "i": i64[B]) symbols B=1.. {
          weight %2: i64[1] = dense(12)
          weight %3: i64[1] = dense(1)
          %4 = Add(%1, %2) : i64[B]
          return %4 "y"
        }
        "#);
    }
}
