//! Moves Transposes through pointwise operations and reductions where that leaves fewer of them.
//!
//! ```text
//! %1 = Transpose(%0) {perm=[0,2,1]} : f32[N,C,T]
//! %2 = Relu(%1) : f32[N,C,T]                          →    %1 = Relu(%0) : f32[N,T,C]
//! %3 = Transpose(%2) {perm=[0,2,1]} : f32[N,T,C]
//! ```
//!
//! A Transpose is lifted towards its producers until every path ends in another Transpose, with which it merges, or in a
//! constant. Refused: where a value on the way is read by others, since it would be computed twice. The layout of
//! convolutions is not decided here but by the kernels.

use cameo_ir::op::{OpError, invalid, normalize_axis};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, Dim, Graph, NodeId, ValueId};

use crate::Pass;
use crate::pattern::{compose, is_identity, perm_attr, permutation};

pub const PASS: Pass = Pass {
    name: "transposes",
    doc: "moves transposes through pointwise operations where that leaves fewer",
    run,
};

fn run(rw: &mut Rewriter) {
    rw.fixpoint(|rw, n| match lift(rw, n) {
        Outcome::NoMatch => match join(rw, n) {
            Outcome::NoMatch => before_reduction(rw, n),
            o => o,
        },
        o => o,
    });
}

/// How far the search for other Transposes goes: pointwise chains between layers are a handful of nodes.
const MAX_DEPTH: usize = 16;

/// `Transpose(f(…Transpose(x)…))` → `f(…x…)`
fn lift(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let Some(perm) = permutation(rw.graph(), n) else {
        return Outcome::NoMatch;
    };
    let Some(y) = rw.input(n, 0) else {
        return Outcome::NoMatch;
    };
    if rw.graph().producer(y).is_none_or(|(p, _)| rw.node(p).op == "Transpose") {
        return Outcome::NoMatch;
    }
    let constants = rw.constants();
    let mut nodes = vec![n];
    match liftable(rw.graph(), &constants, y, &perm, &mut nodes, 0) {
        Err(Stop::NoPattern) => Outcome::NoMatch,
        Err(Stop::Shared) => rw.refuse(&nodes, "transposes cancel", "a value between them is read by others"),
        Ok(0) => Outcome::NoMatch,
        Ok(_) => rw.replace_one(&nodes, "transposes cancel", |rw| rebuild(rw, &constants, y, &perm)),
    }
}

enum Stop {
    NoPattern,
    Shared,
}

/// Number of Transposes with which one by `perm` at `v` would merge.
fn liftable(
    g: &Graph,
    constants: &[bool],
    v: ValueId,
    perm: &[usize],
    nodes: &mut Vec<NodeId>,
    depth: usize,
) -> Result<usize, Stop> {
    if constants[v.0 as usize] {
        return Ok(0);
    }
    let Some((n, _)) = g.producer(v) else {
        return Err(Stop::NoPattern);
    };
    let single = !g.is_output(v) && g.user_count(v) == 1;
    if let Some(inner) = permutation(g, n) {
        nodes.push(n);
        // A shared Transpose stays for the others: only one that vanishes here is a gain.
        return match single || is_identity(&compose(&inner, perm)) {
            true => Ok(1),
            false => Err(Stop::NoPattern),
        };
    }
    let node = g.node(n);
    if !node.op.schema().pointwise || node.outputs.len() != 1 || depth == MAX_DEPTH {
        return Err(Stop::NoPattern);
    }
    let mut found = 0;
    let mut between = vec![n];
    for input in node.inputs.iter().flatten() {
        if g.fact(*input).rank() == perm.len() || constants[input.0 as usize] {
            found += liftable(g, constants, *input, perm, &mut between, depth + 1)?;
        } else if !g.fact(*input).element_count().is_one() {
            return Err(Stop::NoPattern);
        }
    }
    nodes.extend(between);
    if found > 0 && !single {
        return Err(Stop::Shared);
    }
    Ok(found)
}

/// `v` transposed by `perm`, with nothing but merged Transposes.
fn rebuild(rw: &mut Rewriter, constants: &[bool], v: ValueId, perm: &[usize]) -> Result<ValueId, OpError> {
    let shape = rw.fact(v).shape.clone();
    if constants.get(v.0 as usize).copied().unwrap_or(false) || shape.len() < perm.len() {
        return constant(rw, v, &shape, perm);
    }
    let Some((n, _)) = rw.graph().producer(v) else {
        return invalid("nothing to transpose");
    };
    if let Some(inner) = permutation(rw.graph(), n) {
        let (Some(x), both) = (rw.input(n, 0), compose(&inner, perm)) else {
            return invalid("nothing to transpose");
        };
        return match is_identity(&both) {
            true => Ok(x),
            false => rw.apply("Transpose", &[("perm", perm_attr(&both))], &[x]),
        };
    }
    let mut inputs = rw.node(n).inputs.clone();
    for slot in &mut inputs {
        if let Some(v) = *slot {
            *slot = Some(rebuild(rw, constants, v, perm)?);
        }
    }
    let own = rw.node(n).origin.clone();
    Ok(rw.with_origin(own, |rw| rw.copy_with(n, inputs))?[0])
}

/// A constant or one-element operand, broadcast from the left, in the new order of axes.
fn constant(rw: &mut Rewriter, v: ValueId, shape: &[Dim], perm: &[usize]) -> Result<ValueId, OpError> {
    if shape.iter().all(Dim::is_one) {
        return Ok(v);
    }
    let mut full = vec![Dim::ONE; perm.len() - shape.len()];
    full.extend(shape.iter().cloned());
    let v = match full.len() == shape.len() {
        true => v,
        false => {
            let attrs = [("allowzero", Attr::Int(1)), ("shape", Attr::Dims(full.clone()))];
            rw.apply("Reshape", &attrs, &[v])?
        }
    };
    rw.apply("Transpose", &[("perm", perm_attr(perm))], &[v])
}

/// `f(Transpose(a, p), Transpose(b, p))` → `Transpose(f(a, b), p)`
fn join(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let g = rw.graph();
    let node = g.node(n);
    if !node.op.schema().pointwise || node.inputs.len() < 2 || node.outputs.len() != 1 {
        return Outcome::NoMatch;
    }
    let (mut nodes, mut perm, mut inputs) = (vec![n], None, vec![]);
    for v in &node.inputs {
        let Some(v) = *v else { return Outcome::NoMatch };
        if g.fact(v).element_count().is_one() {
            inputs.push(Some(v));
            continue;
        }
        let Some((t, p)) = g.producer(v).and_then(|(t, _)| Some((t, permutation(g, t)?))) else {
            return Outcome::NoMatch;
        };
        if perm.as_ref().is_some_and(|q| *q != p) || p.len() != g.fact(node.outputs[0]).rank() {
            return Outcome::NoMatch;
        }
        perm = Some(p);
        inputs.push(rw.input(t, 0));
        nodes.push(t);
    }
    let Some(perm) = perm.filter(|_| nodes.len() > 2) else {
        return Outcome::NoMatch;
    };
    // Operands of f that are one Transpose count once.
    let mut transposes = nodes[1..].to_vec();
    transposes.sort();
    transposes.dedup();
    let shared = transposes.iter().any(|t| {
        let v = g.node(*t).outputs[0];
        g.is_output(v) || g.users(v).iter().any(|u| *u != n)
    });
    if transposes.len() < 2 {
        return Outcome::NoMatch;
    }
    if shared {
        return rw.refuse(&nodes, "equal transposes", "a transposed operand is read by others");
    }
    rw.replace_one(&nodes, "equal transposes", |rw| {
        let y = rw.copy_with(n, inputs)?[0];
        rw.apply("Transpose", &[("perm", perm_attr(&perm))], &[y])
    })
}

/// `Reduce(Transpose(x))` → `Reduce(x)` where the axes that are left keep their order
fn before_reduction(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let g = rw.graph();
    let node = g.node(n);
    if !matches!(
        node.op.name(),
        "ReduceSum"
            | "ReduceMean"
            | "ReduceProd"
            | "ReduceMax"
            | "ReduceMin"
            | "ReduceL1"
            | "ReduceL2"
            | "ReduceSumSquare"
    ) {
        return Outcome::NoMatch;
    }
    let transpose = rw.input(n, 0).and_then(|v| g.producer(v)).map(|(t, _)| t);
    let Some((t, perm)) = transpose.and_then(|t| Some((t, permutation(g, t)?))) else {
        return Outcome::NoMatch;
    };
    let Ok(Some(axes)) = g.with_cx(n, |cx| cx.const_ints(1)) else {
        return Outcome::NoMatch;
    };
    let Ok(axes) = axes
        .iter()
        .map(|a| normalize_axis(*a, perm.len()))
        .collect::<Result<Vec<_>, _>>()
    else {
        return Outcome::NoMatch;
    };
    let keep = !matches!(node.attrs.get("keepdims"), Some(Attr::Int(0)));
    let left: Vec<usize> = (0..perm.len()).filter(|a| !axes.contains(a)).map(|a| perm[a]).collect();
    let in_place = (0..perm.len()).all(|a| axes.contains(&perm[a]) == axes.contains(&a));
    if axes.is_empty() || !left.is_sorted() || (keep && !in_place) {
        return Outcome::NoMatch;
    }
    let mut mapped: Vec<Dim> = axes.iter().map(|a| Dim::from(perm[*a])).collect();
    mapped.sort();
    let (op, mut attrs, x) = (node.op, node.attrs.clone(), rw.input(t, 0));
    attrs.insert("axes".into(), Attr::Dims(mapped));
    rw.replace(&[n, t], "reduction of a transpose", |rw| {
        rw.add_node(op, attrs, vec![x], 1)
    })
}

#[cfg(test)]
mod tests {
    use super::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn cancels_through_pointwise_work() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,C,T], %1 "z": f32[N,T,C]) symbols N=1.., C=1.., T=1.. {
              weight %2: f32[] = dense(2.0)
              %3 = Transpose(%0) {perm=[0,2,1]}
              %4 = Relu(%3)
              %5 = Mul(%4, %2)
              %6 = Transpose(%5) {perm=[0,2,1]}
              return %6 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,C,T], %1 "z": f32[N,T,C]) symbols N=1.., C=1.., T=1.. {
          weight %2: f32[] = dense(2.0)
          %3 = Relu(%0) : f32[N,C,T]
          %4 = Mul(%3, %2) : f32[N,C,T]
          return %4 "y"
        }
        "#);
    }

    #[test]
    fn merges_and_takes_constants_along() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,T,2,3]) symbols N=1.., T=1.. {
              weight %1: f32[3] = random
              %2 = Transpose(%0) {perm=[0,2,1,3]}
              %3 = Add(%2, %1)
              %4 = Transpose(%3) {perm=[0,1,3,2]}
              return %4 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,T,2,3]) symbols N=1.., T=1.. {
          weight %1: f32[3] = dense(1.0,-2.0,-2.0)
          %2 = Transpose(%0) {perm=[0,2,3,1]} : f32[N,2,3,T]
          %3 = Reshape(%1) {allowzero=1, shape=dims[1,1,1,3]} : f32[1,1,1,3]
          %4 = Transpose(%3) {perm=[0,1,3,2]} : f32[1,1,3,1]
          %5 = Add(%2, %4) : f32[N,2,3,T]
          return %5 "y"
        }
        "#);
    }

    #[test]
    fn equal_transposes_of_operands_are_done_once() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,T], %1 "z": f32[N,T]) symbols N=1.., T=1.. {
              %2 = Transpose(%0) {perm=[1,0]}
              %3 = Transpose(%1) {perm=[1,0]}
              %4 = Add(%2, %3)
              return %4 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,T], %1 "z": f32[N,T]) symbols N=1.., T=1.. {
          %2 = Add(%0, %1) : f32[N,T]
          %3 = Transpose(%2) {perm=[1,0]} : f32[T,N]
          return %3 "y"
        }
        "#);
    }

    #[test]
    fn reductions_read_through_transposes() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,H,W,C]) symbols N=1.., H=1.., W=1.., C=1.. {
              %1 = Transpose(%0) {perm=[0,3,1,2]}
              %2 = ReduceMean(%1) {axes=dims[2,3], keepdims=0}
              return %2 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,H,W,C]) symbols N=1.., H=1.., W=1.., C=1.. {
          %1 = ReduceMean(%0) {axes=dims[1,2], keepdims=0} : f32[N,C]
          return %1 "y"
        }
        "#);
    }

    #[test]
    fn shared_values_are_not_computed_twice() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,T]) symbols N=1.., T=1.. {
              %1 = Transpose(%0) {perm=[1,0]}
              %2 = Exp(%1)
              %3 = Transpose(%2) {perm=[1,0]}
              return %2 "y", %3 "z"
            }"#,
        );
        insta::assert_snapshot!(text, @"transposes cancel: a value between them is read by others");
    }
}
