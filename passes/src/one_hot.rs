//! Products of one-hot rows and a table are lookups.
//!
//! ```text
//! %2 = ArgMax(%0) {axis=-1, keepdims=0} : i64[S]
//! %3 = OneHot(%2, 9, [0, 1]) : f32[S,9]            →    %2 = ArgMax(%0) {axis=-1, keepdims=0} : i64[S]
//! %4 = MatMul(%3, table) : f32[S,16]                    %3 = Gather(table, %2) {axis=0} : f32[S,16]
//! ```
//!
//! One-hot rows may also be written as a comparison with 0, 1, 2, …; casts in between make no difference. With the columns
//! of others such rows make a comparison, and with a table between them, a predicate of pairs, a lookup of pairs:
//!
//! ```text
//! MatMul(onehot(i), onehot(j)ᵀ)                       →    Cast(Equal(i, j))
//! MatMul(MatMul(onehot(i), table), onehot(j)ᵀ)        →    table[i, j]
//! ```
//!
//! Refused: indices that may lie outside of the table (their rows are zeros, a lookup would fail), and tables with elements
//! that are not finite (zero times infinity is not zero).

use cameo_ir::op::normalize_axis;
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, DType, Dim, NodeId, Tensor, ValueId};

use crate::Pass;
use crate::fold_scales::reshaped;
use crate::pattern::{permutation, reshape_attrs};

pub const PASS: Pass = Pass {
    name: "one_hot",
    doc: "makes lookups of products with one-hot rows",
    run,
};

const DETAIL: &str = "lookup";
const PAIRS: &str = "lookup of pairs";

/// Elements of a table that are looked at; larger ones are rare, and looking costs more than a product would.
const TABLE_MAX: usize = 1 << 22;

fn run(rw: &mut Rewriter) {
    rw.each(|rw, n| match rw.node(n).op == "MatMul" {
        true => match lookup(rw, n) {
            Outcome::NoMatch => pairs(rw, n),
            done => done,
        },
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

const OUTSIDE: &str = "an index may lie outside of the table";
const INFINITE: &str = "the table is large or has elements that are not finite";

/// The indices of the rows without views, if all of them are less than `width`.
fn within(rw: &Rewriter, found: &mut Rows, width: i64) -> Option<ValueId> {
    let skipped = ["Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape"];
    let index = plain(rw, found.indices, &skipped, &mut found.nodes);
    let m = rw
        .producer_if(index, "ArgMax")
        .or_else(|| rw.producer_if(index, "ArgMin"))?;
    let axis = match rw.node(m).attrs.get("axis") {
        Some(Attr::Int(a)) => *a,
        _ => 0,
    };
    let shape = &rw.fact(rw.input(m, 0)?).shape;
    let extent = shape[normalize_axis(axis, shape.len()).ok()?].as_const()?;
    (extent <= width).then_some(index)
}

fn finite(rw: &Rewriter, table: ValueId) -> bool {
    let t = rw.constant(table);
    t.is_some_and(|t| t.len() <= TABLE_MAX && t.to_f64().iter().all(|x| x.is_finite()))
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
    let Some(index) = within(rw, &mut found, width as i64) else {
        return rw.refuse(&found.nodes, DETAIL, OUTSIDE);
    };
    if !finite(rw, table) {
        return rw.refuse(&found.nodes, DETAIL, INFINITE);
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

/// One-hot rows that are the columns of `v`.
fn columns(rw: &Rewriter, v: ValueId, width: i64) -> Option<Rows> {
    let mut nodes = vec![];
    let v = plain(rw, v, &["Cast", "Identity"], &mut nodes);
    let t = rw.producer_if(v, "Transpose")?;
    let rank = rw.fact(v).rank();
    let mut swapped: Vec<usize> = (0..rank).collect();
    swapped.swap(rank.checked_sub(2)?, rank - 1);
    if permutation(rw.graph(), t)? != swapped {
        return None;
    }
    nodes.push(t);
    let found = rows(rw, rw.input(t, 0)?, width)?;
    nodes.extend(found.nodes);
    Some(Rows { nodes, ..found })
}

/// `onehot(i) onehot(j)ᵀ` → `i = j`, `T[i] onehot(j)ᵀ` → `T[i, j]`
fn pairs(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let (Some(a), Some(b)) = (rw.input(n, 0), rw.input(n, 1)) else {
        return Outcome::NoMatch;
    };
    let (left, right) = (rw.fact(a).shape.clone(), rw.fact(b).shape.clone());
    let ([.., _, k], [.., _, columns_of]) = (&left[..], &right[..]) else {
        return Outcome::NoMatch;
    };
    let (Some(width), columns_of) = (k.as_const(), columns_of.clone()) else {
        return Outcome::NoMatch;
    };
    let Some(mut second) = columns(rw, b, width) else {
        return Outcome::NoMatch;
    };
    let out = rw.fact(rw.node(n).outputs[0]).dtype;
    // Rows and columns as they are broadcast to the result.
    let mut down = left;
    let mut along = right;
    down.pop();
    down.push(Dim::ONE);
    along.truncate(along.len() - 2);
    along.extend([Dim::ONE, columns_of]);
    if let Some(mut first) = rows(rw, a, width) {
        let (i, j) = (within(rw, &mut first, width), within(rw, &mut second, width));
        let nodes = [vec![n], first.nodes, second.nodes].concat();
        let (Some(i), Some(j)) = (i, j) else {
            return rw.refuse(&nodes, PAIRS, OUTSIDE);
        };
        return rw.replace_one(&nodes, PAIRS, |rw| {
            let (i, j) = (reshaped(rw, i, &down)?, reshaped(rw, j, &along)?);
            let equal = rw.apply("Equal", &[], &[i, j])?;
            rw.apply("Cast", &[("to", Attr::DType(out))], &[equal])
        });
    }
    let mut nodes = vec![n];
    let Some((table, i)) = looked_up(rw, a, &mut nodes) else {
        return Outcome::NoMatch;
    };
    let j = within(rw, &mut second, width);
    nodes.extend(second.nodes);
    let Some(j) = j else {
        return rw.refuse(&nodes, PAIRS, OUTSIDE);
    };
    if !finite(rw, table) {
        return rw.refuse(&nodes, PAIRS, INFINITE);
    }
    rw.replace_one(&nodes, PAIRS, |rw| {
        let long = [("to", Attr::DType(DType::I64))];
        let i = match rw.fact(i).dtype {
            DType::I64 => i,
            _ => rw.apply("Cast", &long, &[i])?,
        };
        let count = rw.fact(table).element_count();
        let flat = reshaped(rw, table, &[count])?;
        let (i, j) = (reshaped(rw, i, &down)?, reshaped(rw, j, &along)?);
        // An index from the end stays one.
        let row = rw.add_weight("", Tensor::from_i64(DType::I64, &[], [width]));
        let start = rw.apply("Mul", &[], &[i, row])?;
        let place = rw.apply("Add", &[], &[start, j])?;
        rw.apply("Gather", &[("axis", Attr::Int(0))], &[flat, place])
    })
}

/// The table and the indices of the rows of `v`, views aside.
fn looked_up(rw: &Rewriter, v: ValueId, nodes: &mut Vec<NodeId>) -> Option<(ValueId, ValueId)> {
    let v = plain(rw, v, &["Identity", "Reshape"], nodes);
    let gather = rw.producer_if(v, "Gather")?;
    let (table, index) = (rw.input(gather, 0)?, rw.input(gather, 1)?);
    let first = !matches!(rw.node(gather).attrs.get("axis"), Some(Attr::Int(a)) if *a != 0 && *a != -2);
    nodes.push(gather);
    (first && rw.constant(table)?.shape().len() == 2).then_some((table, index))
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

    fn scores(score: &str, key: &str) -> String {
        format!(
            r#"graph @g (%0 "q": f32[B,S,4], %1 "k": f32[B,T,4], %20 "t": i64[B,T]) symbols B=1.., S=1.., T=1.. {{
              weight %2: i64[4] = dense(0, 1, 2, 3)
              weight %3: i64[] = dense(4)
              weight %4: f32[2] = dense(0.0, 1.0)
              weight %5: f32[4,4] = random
              %6 = ArgMax(%0) {{axis=2, keepdims=1}}
              %7 = Equal(%6, %2)
              %8 = Cast(%7) {{to=f32}}
              %9 = ArgMax(%1) {{axis=2, keepdims=0}}
              %10 = OneHot({key}, %3, %4)
              %11 = Transpose(%10) {{perm=[0,2,1]}}
              {score}
              return %14 "y"
            }}"#
        )
    }

    #[test]
    fn equal_categories_of_queries_and_keys() {
        let text = rewrite(&PASS, &scores("%14 = MatMul(%8, %11)", "%9"));
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "q": f32[B,S,4], %1 "k": f32[B,T,4], %2 "t": i64[B,T]) symbols B=1.., S=1.., T=1.. {
          weight %3: i64[4] = dense(0,1,2,3)
          weight %4: i64[] = dense(4)
          weight %5: f32[2] = dense(0.0,1.0)
          weight %6: f32[4,4] = dense(…)
          %7 = ArgMax(%0) {axis=2, keepdims=1} : i64[B,S,1]
          %8 = ArgMax(%1) {axis=2, keepdims=0} : i64[B,T]
          %9 = Reshape(%8) {shape=dims[B,1,T]} : i64[B,1,T]
          %10 = Equal(%7, %9) : bool[B,S,T]
          %11 = Cast(%10) {to=f32} : f32[B,S,T]
          return %11 "y"
        }
        "#);
    }

    #[test]
    fn a_predicate_of_queries_and_keys() {
        let text = rewrite(&PASS, &scores("%13 = MatMul(%8, %5)\n%14 = MatMul(%13, %11)", "%9"));
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "q": f32[B,S,4], %1 "k": f32[B,T,4], %2 "t": i64[B,T]) symbols B=1.., S=1.., T=1.. {
          weight %3: f32[4,4] = dense(…)
          weight %4: i64[] = dense(4)
          weight %5: i64[4] = dense(0,1,2,3)
          weight %6: i64[] = dense(4)
          weight %7: f32[2] = dense(0.0,1.0)
          %8 = Reshape(%3) {shape=dims[16]} : f32[16]
          %9 = ArgMax(%0) {axis=2, keepdims=1} : i64[B,S,1]
          %10 = Mul(%9, %4) : i64[B,S,1]
          %11 = ArgMax(%1) {axis=2, keepdims=0} : i64[B,T]
          %12 = Reshape(%11) {shape=dims[B,1,T]} : i64[B,1,T]
          %13 = Add(%10, %12) : i64[B,S,T]
          %14 = Gather(%8, %13) {axis=0} : f32[B,S,T]
          return %14 "y"
        }
        "#);
    }

    #[test]
    fn refuses_pairs_of_unknown_indices() {
        // Two equal indices outside would have the product zero.
        let said = refused(&PASS, &scores("%14 = MatMul(%8, %11)", "%20"));
        assert_eq!(said, "lookup of pairs: an index may lie outside of the table\n");
        // A table that is computed may have elements that are not finite.
        let said = refused(&PASS, &scores("%14 = MatMul(%0, %11)", "%9"));
        assert_eq!(said, "");
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
