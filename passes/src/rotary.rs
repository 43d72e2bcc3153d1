//! Sees rotary position embedding in the movement and arithmetic that exporters write it as.
//!
//! ```text
//! %3 = Slice(%0) {axes=[3], starts=[32]} : f32[B,H,S,32]
//! %4 = Neg(%3) : f32[B,H,S,32]
//! %5 = Slice(%0) {axes=[3], ends=[32]} : f32[B,H,S,32]         →    %3 = Rotary(%0, %1, %2) : f32[B,H,S,64]
//! %6 = Concat(%4, %5) {axis=3} : f32[B,H,S,64]
//! %7 = Mul(%6, %2) : f32[B,H,S,64]
//! %8 = Mul(%0, %1) : f32[B,H,S,64]
//! %9 = Add(%8, %7) : f32[B,H,S,64]
//! ```
//!
//! Also with neighbours as pairs, taken apart by slices of step 2 and stacked, and with the two halves computed apart, `x1 c - x2 s`
//! and `x2 c + x1 s`. Refused: halves that are not turned against each other (a sign or an order is another), and values in
//! between that others read.

use cameo_ir::op::{OpError, normalize_axis};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, Dim, NodeId, ValueId};

use crate::Pass;
use crate::pattern::splat;

pub const PASS: Pass = Pass {
    name: "rotary",
    doc: "recovers rotary position embeddings",
    run,
};

const DETAIL: &str = "rotary embedding";

fn run(rw: &mut Rewriter) {
    rw.fixpoint(|rw, n| match rw.node(n).op.name() {
        "Add" => whole(rw, n),
        "Concat" => halves(rw, n),
        _ => Outcome::NoMatch,
    });
}

/// Elements `start, start + step, …` of the last axis of a value, half as many as it has.
#[derive(Clone, PartialEq)]
struct Part {
    of: ValueId,
    start: Dim,
    step: Dim,
}

/// `v` as half of the elements of something.
fn part(rw: &Rewriter, v: ValueId) -> Option<Part> {
    let (n, slot) = rw.graph().producer(v)?;
    let x = rw.input(n, 0)?;
    let shape = &rw.fact(x).shape;
    let last = shape.len().checked_sub(1)?;
    let half = shape[last].div_exact(&Dim::from(2i64))?;
    if rw.fact(v).rank() != shape.len() || rw.fact(v).shape[last] != half {
        return None;
    }
    let axis = |d: &Dim| d.as_const().and_then(|a| normalize_axis(a, last + 1).ok());
    match rw.node(n).op.name() {
        "Slice" => rw.graph().with_cx(n, |cx| {
            let list = |i| cx.dims(i).ok().flatten();
            let (starts, axes) = (list(1)?, list(3));
            let one = starts.len() == 1 && axes.is_none_or(|a| a.len() == 1 && axis(&a[0]) == Some(last));
            let step = list(4).map_or(Dim::ONE, |s| s.first().cloned().unwrap_or(Dim::ONE));
            let start = match starts.first()?.as_const() {
                Some(s) if s < 0 => shape[last].clone() + Dim::from(s),
                _ => starts[0].clone(),
            };
            (one && step.as_const().is_some_and(|s| s > 0)).then_some(Part { of: x, start, step })
        }),
        "Split" => {
            let along = match rw.node(n).attrs.get("axis") {
                Some(Attr::Int(a)) => *a,
                _ => 0,
            };
            let two = rw.node(n).outputs.len() == 2 && normalize_axis(along, last + 1) == Ok(last);
            two.then(|| Part {
                of: x,
                start: half * Dim::from(slot),
                step: Dim::ONE,
            })
        }
        _ => None,
    }
}

/// `-v'` for a `v` that is that.
fn negated(rw: &Rewriter, v: ValueId) -> Option<(NodeId, ValueId)> {
    let (n, _) = rw.graph().producer(v)?;
    let (a, b) = (rw.input(n, 0)?, rw.input(n, 1));
    match (rw.node(n).op.name(), b) {
        ("Neg", _) => Some((n, a)),
        ("Mul", Some(b)) if splat(rw.graph(), b) == Some(-1.0) => Some((n, a)),
        ("Mul", Some(b)) if splat(rw.graph(), a) == Some(-1.0) => Some((n, b)),
        _ => None,
    }
}

/// What a value is the turned form of.
struct Turned {
    nodes: Vec<NodeId>,
    x: ValueId,
    interleaved: bool,
}

/// `v` as `(-x2, x1)`. `Err` with a reason: it looks like that and is not.
fn turned(rw: &Rewriter, v: ValueId) -> Result<Turned, Option<&'static str>> {
    let mut nodes = vec![];
    let mut at = v;
    // Stacked neighbours are reshaped to the axis that they came from.
    let stacked = rw.producer_if(at, "Reshape");
    if let Some(r) = stacked {
        nodes.push(r);
        at = rw.input(r, 0).ok_or(None)?;
    }
    let concat = rw.producer_if(at, "Concat").ok_or(None)?;
    nodes.push(concat);
    let rank = rw.fact(at).rank();
    let axis = match rw.node(concat).attrs.get("axis") {
        Some(Attr::Int(a)) => normalize_axis(*a, rank).map_err(|_| None)?,
        _ => return Err(None),
    };
    let [Some(mut first), Some(mut second)] = rw.node(concat).inputs[..] else {
        return Err(None);
    };
    if axis + 1 != rank {
        return Err(None);
    }
    if stacked.is_some() {
        for side in [&mut first, &mut second] {
            let r = rw.producer_if(*side, "Reshape").ok_or(None)?;
            if !rw.fact(*side).shape.last().is_some_and(Dim::is_one) {
                return Err(None);
            }
            nodes.push(r);
            *side = rw.input(r, 0).ok_or(None)?;
        }
    }
    let sign = negated(rw, first);
    let (n, minus) = match sign {
        Some(found) => found,
        // The other one is negated: turned the other way, with the sine's sign this is another formula.
        None if negated(rw, second).is_some_and(|(_, x)| part(rw, x).is_some()) => {
            return Err(Some("the second half is negated instead of the first"));
        }
        None => return Err(None),
    };
    nodes.push(n);
    let (p, q) = (part(rw, minus).ok_or(None)?, part(rw, second).ok_or(None)?);
    if p.of != q.of || rw.fact(v).shape != rw.fact(p.of).shape {
        return Err(None);
    }
    let half = rw
        .fact(p.of)
        .shape
        .last()
        .and_then(|d| d.div_exact(&Dim::from(2i64)))
        .ok_or(None)?;
    let interleaved = stacked.is_some();
    let wanted = if interleaved {
        [Dim::ONE, Dim::from(2i64)]
    } else {
        [half, Dim::ONE]
    };
    if q.start != Dim::ZERO || [p.start, p.step] != wanted || q.step != wanted[1] {
        return Err(Some("the halves are in another order"));
    }
    Ok(Turned {
        nodes,
        x: p.of,
        interleaved,
    })
}

/// `x cos + turn(x) sin`
fn whole(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let (Some(a), Some(b)) = (rw.input(n, 0), rw.input(n, 1)) else {
        return Outcome::NoMatch;
    };
    for (straight, bent) in [(a, b), (b, a)] {
        let (Some(m), Some(t)) = (rw.producer_if(straight, "Mul"), rw.producer_if(bent, "Mul")) else {
            return Outcome::NoMatch;
        };
        for slot in [0, 1] {
            let (Some(v), Some(sin)) = (rw.input(t, slot), rw.input(t, 1 - slot)) else {
                continue;
            };
            let found = match turned(rw, v) {
                Ok(found) => found,
                Err(None) => continue,
                Err(Some(reason)) => return rw.refuse(&[n, m, t], DETAIL, reason),
            };
            let Some(cos) = [0, 1].into_iter().find_map(|i| {
                let other = rw.input(m, 1 - i);
                other.filter(|_| rw.input(m, i) == Some(found.x))
            }) else {
                continue;
            };
            let mut nodes = vec![n, m, t];
            nodes.extend(found.nodes.iter().copied());
            if !rw.used_once(straight) || !rw.used_once(bent) {
                return rw.refuse(&nodes, DETAIL, "a product is also read by others");
            }
            if rw.fact(rw.node(n).outputs[0]).shape != rw.fact(found.x).shape {
                return rw.refuse(&nodes, DETAIL, "the angles have more axes than what is turned");
            }
            return rw.replace_one(&nodes, DETAIL, |rw| apply(rw, found.x, cos, sin, found.interleaved));
        }
    }
    Outcome::NoMatch
}

fn apply(rw: &mut Rewriter, x: ValueId, cos: ValueId, sin: ValueId, interleaved: bool) -> Result<ValueId, OpError> {
    let attrs: &[(&str, Attr)] = if interleaved {
        &[("interleaved", Attr::Int(1))]
    } else {
        &[]
    };
    rw.apply("cameo::Rotary", attrs, &[x, cos, sin])
}

/// `Concat(x1 c - x2 s, x2 c + x1 s)`
fn halves(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let [Some(first), Some(second)] = rw.node(n).inputs[..] else {
        return Outcome::NoMatch;
    };
    let rank = rw.fact(first).rank();
    let last = matches!(rw.node(n).attrs.get("axis"), Some(Attr::Int(a)) if normalize_axis(*a, rank).is_ok_and(|a| a + 1 == rank));
    let (Some(d), Some(s)) = (rw.producer_if(first, "Sub"), rw.producer_if(second, "Add")) else {
        return Outcome::NoMatch;
    };
    if !last {
        return Outcome::NoMatch;
    }
    let product = |rw: &Rewriter, m: NodeId, i: usize| {
        let v = rw.input(m, i)?;
        let p = rw.producer_if(v, "Mul")?;
        let (a, b) = (rw.input(p, 0)?, rw.input(p, 1)?);
        // Half of something, times what is not.
        match (part(rw, a), part(rw, b)) {
            (Some(h), None) => Some((p, h, b)),
            (None, Some(h)) => Some((p, h, a)),
            _ => None,
        }
    };
    let (Some(x1c), Some(x2s)) = (product(rw, d, 0), product(rw, d, 1)) else {
        return Outcome::NoMatch;
    };
    for i in [0, 1] {
        let (Some(x2c), Some(x1s)) = (product(rw, s, i), product(rw, s, 1 - i)) else {
            return Outcome::NoMatch;
        };
        let x = x1c.1.of;
        if x1c.1 != x1s.1 || x2s.1 != x2c.1 || x1c.2 != x2c.2 || x2s.2 != x1s.2 || x2s.1.of != x {
            continue;
        }
        let nodes = vec![n, d, s, x1c.0, x2s.0, x2c.0, x1s.0];
        let half = rw.fact(x).shape.last().and_then(|d| d.div_exact(&Dim::from(2i64)));
        let in_order = x1c.1.start.is_zero() && Some(&x2s.1.start) == half.as_ref() && x1c.1.step.is_one();
        if !in_order {
            return rw.refuse(&nodes, DETAIL, "the halves are in another order");
        }
        if ![first, second].into_iter().all(|v| rw.used_once(v)) {
            return rw.refuse(&nodes, DETAIL, "a half is also read by others");
        }
        let (cos, sin) = (x1c.2, x2s.2);
        return rw.replace_one(&nodes, DETAIL, |rw| {
            let mut twice = |v: ValueId| {
                // One number for all pairs broadcasts as it is.
                if rw.fact(v).shape.last().is_none_or(Dim::is_one) {
                    return Ok(v);
                }
                rw.apply("Concat", &[("axis", Attr::Int(-1))], &[v, v])
            };
            let (cos, sin) = (twice(cos)?, twice(sin)?);
            apply(rw, x, cos, sin, false)
        });
    }
    Outcome::NoMatch
}

#[cfg(test)]
mod tests {
    use super::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn halves_turned_as_a_whole() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[B,2,S,8], %1 "cos": f32[B,1,S,8], %2 "sin": f32[B,1,S,8]) symbols B=1.., S=1.. {
              %3 = Mul(%0, %1)
              %4 = Slice(%0) {axes=dims[3], ends=dims[9223372036854775807], starts=dims[4], steps=dims[1]} from "x2"
              %5 = Neg(%4)
              %6 = Slice(%0) {axes=dims[3], ends=dims[4], starts=dims[0], steps=dims[1]}
              %7 = Concat(%5, %6) {axis=-1}
              %8 = Mul(%7, %2)
              %9 = Add(%3, %8) from "sum"
              return %9 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[B,2,S,8], %1 "cos": f32[B,1,S,8], %2 "sin": f32[B,1,S,8]) symbols B=1.., S=1.. {
          %3 = cameo::Rotary(%0, %1, %2) : f32[B,2,S,8] from "sum"
          return %3 "y"
        }
        "#);
    }

    #[test]
    fn with_operands_swapped_and_a_split() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[S,2,8], %1 "cos": f32[S,1,8], %2 "sin": f32[S,1,8]) symbols S=1.. {
              weight %3: f32[] = dense(-1.0)
              %4, %5 = Split(%0) {axis=2, split=dims[4,4]}
              %6 = Mul(%3, %5)
              %7 = Concat(%6, %4) {axis=2}
              %8 = Mul(%2, %7)
              %9 = Mul(%1, %0)
              %10 = Add(%8, %9)
              return %10 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[S,2,8], %1 "cos": f32[S,1,8], %2 "sin": f32[S,1,8]) symbols S=1.. {
          weight %3: f32[] = dense(-1.0)
          %4 = cameo::Rotary(%0, %1, %2) : f32[S,2,8]
          return %4 "y"
        }
        "#);
    }

    #[test]
    fn neighbours() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[S,2,8], %1 "cos": f32[S,1,8], %2 "sin": f32[S,1,8]) symbols S=1.. {
              %3 = Slice(%0) {axes=dims[2], ends=dims[8], starts=dims[1], steps=dims[2]}
              %4 = Neg(%3)
              %5 = Reshape(%4) {shape=dims[S,2,4,1]}
              %6 = Slice(%0) {axes=dims[2], ends=dims[8], starts=dims[0], steps=dims[2]}
              %7 = Reshape(%6) {shape=dims[S,2,4,1]}
              %8 = Concat(%5, %7) {axis=3}
              %9 = Reshape(%8) {shape=dims[S,2,8]}
              %10 = Mul(%9, %2)
              %11 = Mul(%0, %1)
              %12 = Add(%11, %10)
              return %12 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[S,2,8], %1 "cos": f32[S,1,8], %2 "sin": f32[S,1,8]) symbols S=1.. {
          %3 = cameo::Rotary(%0, %1, %2) {interleaved=1} : f32[S,2,8]
          return %3 "y"
        }
        "#);
    }

    #[test]
    fn halves_computed_apart() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[B,S,8], %1 "cos": f32[S,4], %2 "sin": f32[S,4]) symbols B=1.., S=1.. {
              %3, %4 = Split(%0) {axis=-1, split=dims[4,4]}
              %5 = Mul(%3, %1)
              %6 = Mul(%4, %2)
              %7 = Sub(%5, %6)
              %8 = Mul(%2, %3)
              %9 = Mul(%4, %1)
              %10 = Add(%8, %9)
              %11 = Concat(%7, %10) {axis=2}
              return %11 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[B,S,8], %1 "cos": f32[S,4], %2 "sin": f32[S,4]) symbols B=1.., S=1.. {
          %3 = Concat(%1, %1) {axis=-1} : f32[S,8]
          %4 = Concat(%2, %2) {axis=-1} : f32[S,8]
          %5 = cameo::Rotary(%0, %3, %4) : f32[B,S,8]
          return %5 "y"
        }
        "#);
    }

    #[test]
    fn refuses_other_turns() {
        let graph = |first: &str, second: &str, out: &str| {
            format!(
                r#"graph @g (%0 "x": f32[S,8], %1 "cos": f32[S,8], %2 "sin": f32[S,8]) symbols S=1.. {{
                  %3, %4 = Split(%0) {{axis=1, split=dims[4,4]}}
                  %5 = {first}
                  %6 = {second}
                  %7 = Concat(%5, %6) {{axis=1}}
                  %8 = Mul(%7, %2)
                  %9 = Mul(%0, %1)
                  %10 = Add(%9, %8)
                  return {out}
                }}"#
            )
        };
        let text = refused(&PASS, &graph("Relu(%4)", "Neg(%3)", r#"%10 "y""#));
        insta::assert_snapshot!(text, @"rotary embedding: the second half is negated instead of the first");
        let text = refused(&PASS, &graph("Neg(%3)", "Identity(%4)", r#"%10 "y""#));
        insta::assert_snapshot!(text, @"");
        let text = refused(&PASS, &graph("Neg(%4)", "Relu(%3)", r#"%10 "y""#));
        insta::assert_snapshot!(text, @"");
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[S,8], %1 "cos": f32[S,8], %2 "sin": f32[S,8]) symbols S=1.. {
              %3, %4 = Split(%0) {axis=1, split=dims[4,4]}
              %5 = Neg(%3)
              %6 = Concat(%5, %4) {axis=1}
              %7 = Mul(%6, %2)
              %8 = Mul(%0, %1)
              %9 = Add(%8, %7)
              return %9 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"rotary embedding: the halves are in another order");
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[S,8], %1 "cos": f32[S,8], %2 "sin": f32[S,8]) symbols S=1.. {
              %3, %4 = Split(%0) {axis=1, split=dims[4,4]}
              %5 = Neg(%4)
              %6 = Concat(%5, %3) {axis=1}
              %7 = Mul(%6, %2)
              %8 = Mul(%0, %1)
              %9 = Add(%8, %7)
              return %9 "y", %7 "turned"
            }"#,
        );
        insta::assert_snapshot!(text, @"rotary embedding: a product is also read by others");
    }
}
