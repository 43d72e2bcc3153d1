//! Products of one-hot rows and a table are lookups.
//!
//! ```text
//! %2 = ArgMax(%0) {axis=-1, keepdims=0} : i64[S]
//! %3 = OneHot(%2, 9, [0, 1]) : f32[S,9]            →    %2 = ArgMax(%0) {axis=-1, keepdims=0} : i64[S]
//! %4 = MatMul(%3, table) : f32[S,16]                    %3 = Gather(table, %2) {axis=0} : f32[S,16]
//! ```
//!
//! One-hot rows may also be written as a comparison with 0, 1, 2, …; casts in between make no difference. Refused: indices
//! that may lie outside of the table (their rows are zeros, a lookup would fail), and tables with elements that are not
//! finite (zero times infinity is not zero).

use cameo_ir::op::normalize_axis;
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, NodeId, ValueId};

use crate::Pass;
use crate::pattern::reshape_attrs;

pub const PASS: Pass = Pass {
    name: "one_hot",
    doc: "makes lookups of products with one-hot rows",
    run,
};

const DETAIL: &str = "lookup";

/// Elements of a table that are looked at; larger ones are rare, and looking costs more than a product would.
const TABLE_MAX: usize = 1 << 22;

fn run(rw: &mut Rewriter) {
    rw.each(|rw, n| match rw.node(n).op == "MatMul" {
        true => lookup(rw, n),
        false => Outcome::NoMatch,
    });
}

/// One-hot rows: the nodes that make them, and the indices, with or without a last axis of extent 1.
struct Rows {
    nodes: Vec<NodeId>,
    indices: ValueId,
}

/// Skips casts and views that keep the elements in order.
fn plain(rw: &Rewriter, mut v: ValueId, ops: &[&str], nodes: &mut Vec<NodeId>) -> ValueId {
    while let Some((n, _)) = rw.graph().producer(v)
        && ops.iter().any(|op| rw.node(n).op == *op)
        && let Some(x) = rw.input(n, 0)
    {
        nodes.push(n);
        v = x;
    }
    v
}

fn rows(rw: &Rewriter, v: ValueId, width: i64) -> Option<Rows> {
    let mut nodes = vec![];
    let v = plain(rw, v, &["Cast", "Identity"], &mut nodes);
    let (n, _) = rw.graph().producer(v)?;
    let rank = rw.fact(v).rank();
    nodes.push(n);
    if rw.node(n).op == "OneHot" {
        let axis = match rw.node(n).attrs.get("axis") {
            Some(Attr::Int(a)) => *a,
            _ => -1,
        };
        let depth = rw.graph().with_cx(n, |cx| cx.const_ints(1).ok().flatten())?;
        let values = rw.constant(rw.input(n, 2)?)?.to_f64();
        let fits = normalize_axis(axis, rank) == Ok(rank.checked_sub(1)?) && depth == [width] && values == [0.0, 1.0];
        let indices = rw.input(n, 0)?;
        return fits.then_some(Rows { nodes, indices });
    }
    if rw.node(n).op != "Equal" {
        return None;
    }
    let (a, b) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let counts = |v: ValueId| {
        let t = rw.constant(v)?;
        let last = t.shape().last().copied();
        let counted = t.len() as i64 == width && last == Some(t.len());
        (counted && t.to_f64().iter().enumerate().all(|(i, x)| *x == i as f64)).then_some(())
    };
    let indices = match (counts(a), counts(b)) {
        (None, Some(())) => a,
        (Some(()), None) => b,
        _ => return None,
    };
    // Every row compares one index with all numbers.
    let shape = &rw.fact(indices).shape;
    (shape.len() == rank && shape.last().is_some_and(cameo_ir::Dim::is_one)).then_some(Rows { nodes, indices })
}

fn lookup(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let (Some(hot), Some(table)) = (rw.input(n, 0), rw.input(n, 1)) else {
        return Outcome::NoMatch;
    };
    let Some(t) = rw.constant(table) else {
        return Outcome::NoMatch;
    };
    let &[width, _] = t.shape() else {
        return Outcome::NoMatch;
    };
    let Some(mut found) = rows(rw, hot, width as i64) else {
        return Outcome::NoMatch;
    };
    found.nodes.insert(0, n);
    let index = plain(
        rw,
        found.indices,
        &["Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape"],
        &mut found.nodes,
    );
    let within = rw
        .producer_if(index, "ArgMax")
        .or_else(|| rw.producer_if(index, "ArgMin"))
        .is_some_and(|m| {
            let axis = match rw.node(m).attrs.get("axis") {
                Some(Attr::Int(a)) => *a,
                _ => 0,
            };
            let shape = rw.input(m, 0).map(|x| rw.fact(x).shape.clone()).unwrap_or_default();
            let axis = normalize_axis(axis, shape.len()).ok();
            axis.and_then(|a| shape[a].as_const())
                .is_some_and(|e| e <= width as i64)
        });
    if !within {
        return rw.refuse(&found.nodes, DETAIL, "an index may lie outside of the table");
    }
    let finite = rw
        .constant(table)
        .is_some_and(|t| t.len() <= TABLE_MAX && t.to_f64().iter().all(|x| x.is_finite()));
    if !finite {
        return rw.refuse(
            &found.nodes,
            DETAIL,
            "the table is large or has elements that are not finite",
        );
    }
    let shape = rw.fact(rw.node(n).outputs[0]).shape.clone();
    rw.replace_one(&found.nodes, DETAIL, |rw| {
        let v = rw.apply("Gather", &[("axis", Attr::Int(0))], &[table, index])?;
        match rw.fact(v).shape == shape {
            true => Ok(v),
            false => rw.apply("Reshape", &reshape_attrs(&shape), &[v]),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{refused, rewrite};

    fn hot(indices: &str, axis: i64, depth: usize, table: &str) -> String {
        format!(
            r#"graph @g (%0 "x": f32[S,9], %1 "i": i64[S]) symbols S=1.. {{
              weight %2: i64[] = dense({depth})
              weight %3: f32[2] = dense(0.0, 1.0)
              weight %4: f32[{depth},3] = {table}
              %5 = {indices}
              %6 = OneHot(%5, %2, %3) {{axis={axis}}}
              %7 = MatMul(%6, %4)
              return %7 "y"
            }}"#
        )
    }

    #[test]
    fn one_hot_rows_of_a_maximum() {
        let text = rewrite(&PASS, &hot("ArgMax(%0) {axis=-1, keepdims=0}", -1, 9, "random"));
        assert!(text.contains("Gather(") && !text.contains("MatMul"), "{text}");
        // A table may be longer than the maxima can be.
        let text = rewrite(&PASS, &hot("ArgMax(%0) {axis=-1, keepdims=0}", -1, 11, "random"));
        assert!(text.contains("Gather("), "{text}");
    }

    #[test]
    fn comparisons_with_positions() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[B,S,4]) symbols B=1.., S=1.. {
              weight %1: i64[4] = dense(0, 1, 2, 3)
              weight %2: f32[4,3] = random
              %3 = ArgMax(%0) {axis=2, keepdims=1}
              %4 = Equal(%1, %3)
              %5 = Cast(%4) {to=f32}
              %6 = MatMul(%5, %2)
              return %6 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[B,S,4]) symbols B=1.., S=1.. {
          weight %1: f32[4,3] = dense(…)
          weight %2: i64[4] = dense(0,1,2,3)
          %3 = ArgMax(%0) {axis=2, keepdims=1} : i64[B,S,1]
          %4 = Gather(%1, %3) {axis=0} : f32[B,S,1,3]
          %5 = Reshape(%4) {shape=dims[B,S,3]} : f32[B,S,3]
          return %5 "y"
        }
        "#);
    }

    #[test]
    fn refuses_what_is_no_lookup() {
        let said = refused(&PASS, &hot("Neg(%1)", -1, 9, "random"));
        assert_eq!(said, "lookup: an index may lie outside of the table\n");
        let said = refused(&PASS, &hot("ArgMax(%0) {axis=-1, keepdims=0}", -1, 5, "random"));
        assert_eq!(said, "lookup: an index may lie outside of the table\n");
        let list = format!("dense(inf{})", ", 1.0".repeat(26));
        let said = refused(&PASS, &hot("ArgMax(%0) {axis=-1, keepdims=0}", -1, 9, &list));
        assert_eq!(said, "lookup: the table is large or has elements that are not finite\n");
        // Numbers that are not 0, 1, 2.
        let other = r#"graph @g (%0 "x": f32[S,4]) symbols S=1.. {
          weight %1: i64[4] = dense(0, 1, 3, 2)
          weight %2: f32[4,3] = random
          %3 = ArgMax(%0) {axis=1, keepdims=1}
          %4 = Equal(%1, %3)
          %5 = Cast(%4) {to=f32}
          %6 = MatMul(%5, %2)
          return %6 "y"
        }"#;
        assert_eq!(refused(&PASS, other), "");
    }
}
