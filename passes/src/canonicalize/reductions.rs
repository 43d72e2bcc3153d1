//! Rules for reductions and pooling.

use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, Dim, NodeId};

use super::Rule;
use crate::pattern::reshape_attrs;

pub const RULES: &[Rule] = &[global_pool, reduce_one];

/// `GlobalAveragePool(x)` → `ReduceMean(x)` over the spatial axes, likewise the maximum
fn global_pool(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let op = match rw.node(n).op.name() {
        "GlobalAveragePool" => "ReduceMean",
        "GlobalMaxPool" => "ReduceMax",
        _ => return Outcome::NoMatch,
    };
    let Some(x) = rw.input(n, 0) else {
        return Outcome::NoMatch;
    };
    let axes = (2..rw.fact(x).rank()).map(Dim::from).collect();
    let attrs = [("axes", Attr::Dims(axes)), ("keepdims", Attr::Int(1))];
    rw.replace_one(&[n], "global pooling", |rw| rw.apply(op, &attrs, &[x]))
}

/// A sum, mean, product, maximum or minimum over axes of extent 1 → `Reshape(x)`
fn reduce_one(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let g = rw.graph();
    let node = g.node(n);
    if !matches!(
        node.op.name(),
        "ReduceSum" | "ReduceMean" | "ReduceProd" | "ReduceMax" | "ReduceMin"
    ) {
        return Outcome::NoMatch;
    }
    let Some(x) = rw.input(n, 0) else {
        return Outcome::NoMatch;
    };
    let shape = g.fact(node.outputs[0]).shape.clone();
    // As many elements out as in, all extents that differ from 1 in place: nothing was joined.
    let kept = |s: &[Dim]| s.iter().filter(|d| !d.is_one()).cloned().collect::<Vec<_>>();
    if kept(&shape) != kept(&g.fact(x).shape) {
        return Outcome::NoMatch;
    }
    rw.replace_one(&[n], "reduction of single elements", |rw| {
        rw.apply("Reshape", &reshape_attrs(&shape), &[x])
    })
}

#[cfg(test)]
mod tests {
    use crate::canonicalize::PASS;
    use crate::testing::rewrite;

    #[test]
    fn global_pooling_is_a_reduction() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,3,H,4]) symbols N=1.., H=1.. {
              %1 = GlobalAveragePool(%0)
              return %1 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,3,H,4]) symbols N=1.., H=1.. {
          %1 = ReduceMean(%0) {axes=dims[2,3], keepdims=1} : f32[N,3,1,1]
          return %1 "y"
        }
        "#);
    }

    #[test]
    fn reducing_single_elements_is_a_reshape() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,1,4]) symbols N=1.. {
              %1 = ReduceSum(%0) {axes=dims[1], keepdims=0}
              %2 = ReduceMax(%0) {axes=dims[2], keepdims=0}
              return %1 "y", %2 "z"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,1,4]) symbols N=1.. {
          %1 = Reshape(%0) {shape=dims[N,4]} : f32[N,4]
          %2 = ReduceMax(%0) {axes=dims[2], keepdims=0} : f32[N,1]
          return %1 "y", %2 "z"
        }
        "#);
    }
}
