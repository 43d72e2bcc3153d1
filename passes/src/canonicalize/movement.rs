//! Rules for operations that move or convert elements.

use cameo_ir::graph::infer;
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, DType, Dim, Graph, NodeId, ValueId};

use super::Rule;
use crate::pattern::{compose, is_identity, perm_attr, permutation, reshape_attrs, splat};

pub const RULES: &[Rule] = &[
    no_effect,
    as_reshape,
    reshape_of_reshape,
    transpose_of_transpose,
    expand_of_expand,
    cast_of_cast,
    concat_of_concat,
    expand_before_broadcast,
    expand_before_pointwise,
];

/// `f(x)` → `x`
fn no_effect(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let Some(x) = does_nothing(rw.graph(), n) else {
        return Outcome::NoMatch;
    };
    let out = rw.node(n).outputs[0];
    if rw.graph().is_output(out) && rw.graph().producer(x).is_none() {
        // An output that copies an input or a weight is work that someone wants done.
        return Outcome::NoMatch;
    }
    // Further outputs (the mask of Dropout) are not read.
    rw.replace_values(&[out], &[n], "no effect", |_| Ok(vec![x]))
}

fn does_nothing(g: &Graph, n: NodeId) -> Option<ValueId> {
    let node = g.node(n);
    let x = node.inputs.first().copied()??;
    let (is, was) = (g.fact(node.outputs[0]), g.fact(x));
    if is.shape != was.shape || is.dtype != was.dtype {
        return None;
    }
    let given = |slot: usize| node.inputs.get(slot).copied().flatten();
    let dims = |slot: usize| g.with_cx(n, |cx| cx.dims(slot)).ok();
    let nothing = match node.op.name() {
        "Identity" | "Cast" | "CastLike" | "Reshape" | "Flatten" | "Expand" => true,
        "Squeeze" | "Unsqueeze" => !presumes(g, n),
        // Repeating an empty axis is the only other way to keep a shape, and moves nothing either.
        "Tile" => true,
        "Dropout" => {
            let idle = |v: &ValueId| g.user_count(*v) == 0 && !g.is_output(*v);
            node.outputs[1..].iter().all(idle) && given(2).is_none_or(|v| splat(g, v) == Some(0.0))
        }
        "Transpose" => is_identity(&permutation(g, n)?),
        // A reversal keeps the shape too.
        "Slice" => dims(4)?.is_none_or(|steps| steps.iter().all(Dim::is_one)),
        // Cropping on one side and padding on the other keeps the shape too.
        "Pad" => dims(1)?.is_some_and(|pads| pads.iter().all(Dim::is_zero)),
        "Concat" | "Sum" | "Mean" | "Max" | "Min" => node.inputs.len() == 1,
        "Clip" => given(1).is_none() && given(2).is_none(),
        _ => false,
    };
    nothing.then_some(x)
}

/// Whether an operator checks something in each run, which nothing else would.
fn presumes(g: &Graph, n: NodeId) -> bool {
    let op = g.node(n).op;
    g.with_cx(n, |cx| op.0.rules(cx)).is_ok_and(|rules| !rules.is_empty())
}

/// Squeeze, Unsqueeze, Flatten, and Transposes that move only axes of extent 1 → `Reshape(x)`, and Reshape itself in its
/// canonical form.
fn as_reshape(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let g = rw.graph();
    let node = g.node(n);
    let shape = &g.fact(node.outputs[0]).shape;
    let attrs = reshape_attrs(shape);
    let fits = match node.op.name() {
        "Squeeze" | "Unsqueeze" => !presumes(g, n),
        "Flatten" => true,
        "Reshape" => {
            let same = node.attrs.len() == attrs.len()
                && attrs.iter().all(|(k, v)| node.attrs.get(*k) == Some(v))
                && node.inputs.len() == 1;
            !same
        }
        "Transpose" => permutation(g, n).is_some_and(|p| {
            let x = node.inputs[0].map(|x| &g.fact(x).shape);
            let moved: Vec<usize> = p
                .iter()
                .copied()
                .filter(|a| x.is_some_and(|x| !x[*a].is_one()))
                .collect();
            moved.is_sorted() && !is_identity(&p)
        }),
        _ => false,
    };
    let Some(x) = rw.input(n, 0).filter(|_| fits) else {
        return Outcome::NoMatch;
    };
    rw.replace_one(&[n], "as a reshape", |rw| rw.apply("Reshape", &attrs, &[x]))
}

/// `Reshape(Reshape(x))` → `Reshape(x)`
fn reshape_of_reshape(rw: &mut Rewriter, n: NodeId) -> Outcome {
    merge(rw, n, "Reshape", |rw, out, _| Some(reshape_attrs(&rw.fact(out).shape)))
}

/// `Expand(Expand(x))` → `Expand(x)`
fn expand_of_expand(rw: &mut Rewriter, n: NodeId) -> Outcome {
    merge(rw, n, "Expand", |rw, out, _| {
        Some(vec![("shape", Attr::Dims(rw.fact(out).shape.clone()))])
    })
}

/// `Transpose(Transpose(x, p), q)` → `Transpose(x, q after p)`
fn transpose_of_transpose(rw: &mut Rewriter, n: NodeId) -> Outcome {
    merge(rw, n, "Transpose", |rw, out, inner| {
        let (outer, _) = rw.graph().producer(out)?;
        let perm = compose(&permutation(rw.graph(), inner)?, &permutation(rw.graph(), outer)?);
        Some(vec![("perm", perm_attr(&perm))])
    })
}

/// `f(f(x))` → `f(x)` with the attributes that `attrs` gives for (outer result, inner node).
fn merge(
    rw: &mut Rewriter,
    n: NodeId,
    op: &str,
    attrs: impl FnOnce(&Rewriter, ValueId, NodeId) -> Option<Vec<(&'static str, Attr)>>,
) -> Outcome {
    if rw.node(n).op != op {
        return Outcome::NoMatch;
    }
    let Some(inner) = rw.input(n, 0).and_then(|v| rw.producer_if(v, op)) else {
        return Outcome::NoMatch;
    };
    let (out, x) = (rw.node(n).outputs[0], rw.input(inner, 0));
    let (Some(x), Some(attrs)) = (x, attrs(rw, out, inner)) else {
        return Outcome::NoMatch;
    };
    rw.replace_one(&[n, inner], "two in a row", |rw| rw.apply(op, &attrs, &[x]))
}

/// `Cast(Cast(x, t), u)` → `Cast(x, u)` where `t` holds every value of `x`'s type, and `CastLike` → `Cast`
fn cast_of_cast(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let node = rw.node(n);
    let to = rw.fact(node.outputs[0]).dtype;
    let mut attrs = vec![("to", Attr::DType(to))];
    for name in ["saturate", "round_mode"] {
        attrs.extend(node.attrs.get(name).map(|a| (name, a.clone())));
    }
    let Some(v) = rw.input(n, 0) else {
        return Outcome::NoMatch;
    };
    if node.op == "CastLike" {
        return rw.replace_one(&[n], "cast", |rw| rw.apply("Cast", &attrs, &[v]));
    }
    if node.op != "Cast" {
        return Outcome::NoMatch;
    }
    let Some((inner, x)) = rw.producer_if(v, "Cast").and_then(|i| Some((i, rw.input(i, 0)?))) else {
        return Outcome::NoMatch;
    };
    let (from, via) = (rw.fact(x).dtype, rw.fact(v).dtype);
    // The way back makes the largest number of infinity.
    if to == from && to == DType::F8E5M2 {
        return Outcome::NoMatch;
    }
    if !holds(via, from) {
        return rw.refuse(
            &[n, inner],
            "casts in a row",
            format!("{via} does not hold every {from}"),
        );
    }
    rw.replace_one(&[n, inner], "casts in a row", |rw| {
        if to == from {
            Ok(x)
        } else {
            rw.apply("Cast", &attrs, &[x])
        }
    })
}

/// Whether every value of type `small` is a value of type `big`.
fn holds(big: DType, small: DType) -> bool {
    use DType::{BF16, Bool, F8E8M0, F16, F32, F64};
    if big == small || small == Bool {
        return true;
    }
    if [big, small].contains(&DType::String) {
        return false;
    }
    // Bits of the largest integers that are all exact.
    let digits = |t| match t {
        F64 => 53,
        F32 => 24,
        F16 => 11,
        BF16 => 8,
        t if t.is_signed() => t.bits() - 1,
        t => t.bits(),
    };
    match (big, small) {
        (Bool, _) => false,
        (b, _) if b.is_small_float() => false,
        // Powers of two have a wide range; runs take the smallest one in `f32` for 0.
        (b, s) if s.is_small_float() => b == F64 || s != F8E8M0 && matches!(b, F32 | F16 | BF16),
        (F64, F16 | BF16 | F32) | (F32, F16 | BF16) => true,
        (b, s) if s.is_float() => b == s,
        (b, s) => (b.is_signed() || !s.is_signed()) && digits(b) >= digits(s),
    }
}

/// `Concat(Concat(a, b), c)` along one axis → `Concat(a, b, c)`
fn concat_of_concat(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let axis = |rw: &Rewriter, n: NodeId| match rw.node(n).attrs.get("axis") {
        Some(Attr::Int(a)) => {
            let rank = rw.fact(rw.node(n).outputs[0]).rank();
            cameo_ir::op::normalize_axis(*a, rank).ok()
        }
        _ => None,
    };
    if rw.node(n).op != "Concat" {
        return Outcome::NoMatch;
    }
    let (outer, mut inputs, mut nodes) = (axis(rw, n), vec![], vec![n]);
    for v in &rw.node(n).inputs {
        let inner = v.filter(|v| rw.used_once(*v)).and_then(|v| rw.producer_if(v, "Concat"));
        match inner {
            Some(i) if outer.is_some() && axis(rw, i) == outer => {
                inputs.extend(&rw.node(i).inputs);
                nodes.push(i);
            }
            _ => inputs.push(*v),
        }
    }
    if nodes.len() == 1 {
        return Outcome::NoMatch;
    }
    rw.replace(&nodes, "concatenations in a row", |rw| rw.copy_with(n, inputs))
}

/// `f(Expand(x), y)` → `f(x, y)` where f broadcasts to the same shape anyway
fn expand_before_broadcast(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let g = rw.graph();
    let node = g.node(n);
    if !node.op.schema().pointwise || node.inputs.len() < 2 {
        return Outcome::NoMatch;
    }
    for slot in 0..node.inputs.len() {
        let Some(expand) = node.inputs[slot].and_then(|v| rw.producer_if(v, "Expand")) else {
            continue;
        };
        let mut inputs = node.inputs.clone();
        inputs[slot] = rw.input(expand, 0);
        let facts = infer(node.op, &node.attrs, &g.args(&inputs), node.outputs.len());
        let same = facts.is_ok_and(|f| f.iter().zip(&node.outputs).all(|(f, v)| f.shape == g.fact(*v).shape));
        if same {
            return rw.replace(&[n, expand], "implicit broadcast", |rw| rw.copy_with(n, inputs));
        }
    }
    Outcome::NoMatch
}

/// `f(Expand(x), c)` → `Expand(f(x, c))`, which computes fewer elements
fn expand_before_pointwise(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let g = rw.graph();
    let node = g.node(n);
    if !node.op.schema().pointwise || node.outputs.len() != 1 {
        return Outcome::NoMatch;
    }
    let (mut inputs, mut old) = (node.inputs.clone(), vec![n]);
    for v in inputs.iter_mut().flatten() {
        if let Some(expand) = rw.producer_if(*v, "Expand") {
            *v = rw.input(expand, 0).unwrap_or(*v);
            old.push(expand);
        }
    }
    let shape = g.fact(node.outputs[0]).shape.clone();
    let smaller = |inputs: &[Option<ValueId>]| {
        let facts = infer(node.op, &node.attrs, &g.args(inputs), 1).ok()?;
        Some(facts.first()?.shape != shape)
    };
    if old.len() == 1 || smaller(&inputs) != Some(true) {
        return Outcome::NoMatch;
    }
    rw.replace(&old, "computed before it is repeated", |rw| {
        let y = rw.copy_with(n, inputs)?;
        Ok(vec![rw.apply("Expand", &[("shape", Attr::Dims(shape))], &y)?])
    })
}

#[cfg(test)]
mod tests {
    use crate::canonicalize::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn what_does_nothing_goes() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4]) symbols N=1.. {
              %1 = Identity(%0)
              %2 = Dropout(%1)
              %3 = Cast(%2) {to=f32}
              %4 = Transpose(%3) {perm=[0,1]}
              %5 = Concat(%4) {axis=0}
              %6 = Slice(%5) {starts=dims[0], ends=dims[N], axes=dims[0]}
              %7 = Pad(%6) {pads=dims[0,0,0,0]}
              %8 = Clip(%7)
              %9 = Expand(%8) {shape=dims[N,4]}
              %10 = Neg(%9)
              return %10 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,4]) symbols N=1.. {
          %1 = Neg(%0) : f32[N,4]
          return %1 "y"
        }
        "#);
    }

    #[test]
    fn reversal_and_shifting_keep_the_shape_and_stay() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[4]) {
              %1 = Slice(%0) {starts=dims[3], ends=dims[-5], axes=dims[0], steps=dims[-1]}
              %2 = Pad(%1) {pads=dims[1,-1]}
              return %2 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[4]) {
          %1 = Slice(%0) {axes=dims[0], ends=dims[-5], starts=dims[3], steps=dims[-1]} : f32[4]
          %2 = Pad(%1) {pads=dims[1,-1]} : f32[4]
          return %2 "y"
        }
        "#);
    }

    #[test]
    fn views_merge() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4,6]) symbols N=1.. {
              weight %1: i64[3] = dense(0, -1, 3)
              %2 = Unsqueeze(%0) {axes=dims[1]}
              %3 = Squeeze(%2) {axes=dims[1]}
              %4 = Flatten(%3) {axis=1}
              %5 = Reshape(%4, %1)
              %6 = Transpose(%5) {perm=[0,2,1]}
              %7 = Transpose(%6) {perm=[1,0,2]}
              %8 = Expand(%7) {shape=dims[1,1,1]}
              %9 = Transpose(%0) {perm=[2,1,0]}
              %10 = Relu(%9)
              return %7 "y", %10 "z"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,4,6]) symbols N=1.. {
          weight %1: i64[3] = dense(0,-1,3)
          %2 = Reshape(%0) {shape=dims[N,8,3]} : f32[N,8,3]
          %3 = Transpose(%2) {perm=[2,0,1]} : f32[3,N,8]
          %4 = Transpose(%0) {perm=[2,1,0]} : f32[6,4,N]
          %5 = Relu(%4) : f32[6,4,N]
          return %3 "y", %5 "z"
        }
        "#);
    }

    #[test]
    fn a_transpose_of_unit_axes_is_a_reshape() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[1,N,1,3]) symbols N=1.. {
              %1 = Transpose(%0) {perm=[1,0,3,2]}
              return %1 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[1,N,1,3]) symbols N=1.. {
          %1 = Reshape(%0) {shape=dims[N,1,3,1]} : f32[N,1,3,1]
          return %1 "y"
        }
        "#);
    }

    #[test]
    fn implicit_broadcasts() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4], %1 "m": f32[1,4]) symbols N=1.. {
              %2 = Expand(%1) {shape=dims[N,4]}
              %3 = Add(%0, %2)
              %4 = Add(%2, %2)
              return %3 "y", %4 "z"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,4], %1 "m": f32[1,4]) symbols N=1.. {
          %2 = Add(%0, %1) : f32[N,4]
          %3 = Add(%1, %1) : f32[1,4]
          %4 = Expand(%3) {shape=dims[N,4]} : f32[N,4]
          return %2 "y", %4 "z"
        }
        "#);
    }

    #[test]
    fn concatenations_merge() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4]) symbols N=1.. {
              %1 = Concat(%0, %0) {axis=1}
              %2 = Concat(%0, %1, %0) {axis=-1}
              return %2 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,4]) symbols N=1.. {
          %1 = Concat(%0, %0, %0, %0) {axis=-1} : f32[N,16]
          return %1 "y"
        }
        "#);
    }

    #[test]
    fn casts_merge_only_through_wider_types() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": i32[N]) symbols N=1.. {
              %1 = Cast(%0) {to=i64}
              %2 = Cast(%1) {to=f32}
              return %2 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": i32[N]) symbols N=1.. {
          %1 = Cast(%0) {to=f32} : f32[N]
          return %1 "y"
        }
        "#);
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N]) symbols N=1.. {
              %1 = Cast(%0) {to=i64}
              %2 = Cast(%1) {to=f32}
              return %2 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"casts in a row: i64 does not hold every f32");
    }

    #[test]
    fn types_that_hold_others() {
        use super::holds;
        use cameo_ir::DType::{BF16, Bool, F4E2M1, F8E4M3FN, F8E8M0, F16, F32, F64, I4, I8, I32, I64, U4, U8, U64};
        for (big, small) in [
            (F32, F16),
            (F64, I32),
            (F32, U8),
            (I64, I32),
            (I32, U8),
            (F16, I8),
            (I8, Bool),
            (F32, F8E4M3FN),
            (F16, F4E2M1),
            (I8, I4),
            (U8, U4),
            (BF16, U4),
        ] {
            assert!(holds(big, small), "{big} {small}");
        }
        for (big, small) in [
            (F16, F32),
            (F16, BF16),
            (F32, I32),
            (U8, I8),
            (I64, U64),
            (Bool, U8),
            (I64, F16),
            (F8E4M3FN, I4),
            (F8E4M3FN, F4E2M1),
            (F32, F8E8M0),
            (I4, U4),
            (U4, I4),
        ] {
            assert!(!holds(big, small), "{big} {small}");
        }
    }
}
