//! Sees attention again in the primitives that exporters write it as.
//!
//! ```text
//! %3 = Transpose(%1) {perm=[0,1,3,2]} : f32[B,H,D,T]
//! %4 = MatMul(%0, %3) : f32[B,H,S,T]
//! %5 = Mul(%4, 0.125) : f32[B,H,S,T]            →    %3 = Attention(%0, %1, %2, mask) {guarded=0, scale=0.125}
//! %6 = Add(%5, mask) : f32[B,H,S,T]
//! %7 = Softmax(%6) : f32[B,H,S,T]
//! %8 = MatMul(%7, %2) : f32[B,H,S,D]
//! ```
//!
//! Read backwards from the second product: an optional guard against NaN, a softmax over the keys, masks (added, or
//! selected by a condition), an optional cap `c tanh(x/c)`, factors of the logits, the first product, and factors of queries
//! and keys. Keys and values that are repeated for groups of query heads are taken before the repetition. Any number of
//! leading axes, regrouped or not, becomes batch and head. Refused: values in between that others read, softmax along another axis, and
//! masks of both kinds where the selected number is not so low that adding it is the same.

mod masks;

use cameo_ir::op::{OpError, normalize_axis};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, DType, Dim, NodeId, ValueId};

use self::masks::{Kind, Mask, combined};
use crate::Pass;
use crate::fold_scales::reshaped;
use crate::pattern::{perm_attr, permutation, splat};

pub const PASS: Pass = Pass {
    name: "attention",
    doc: "recovers attention from products and softmax",
    run,
};

const DETAIL: &str = "attention";

fn run(rw: &mut Rewriter) {
    rw.fixpoint(|rw, n| match rw.node(n).op.name() {
        "MatMul" => fuse(rw, n),
        _ => Outcome::NoMatch,
    });
}

/// What the pattern found.
struct Found {
    /// The nodes that the operation replaces, the last product first.
    nodes: Vec<NodeId>,
    queries: ValueId,
    /// As the first product reads them: keys are columns.
    columns: ValueId,
    values: ValueId,
    /// Batch and heads.
    lead: [Dim; 2],
    /// The outermost first.
    masks: Vec<Mask>,
    scale: f64,
    softcap: f64,
    guarded: bool,
}

/// Why a graph that looks like attention is left alone; `None`: it does not look like it.
type Stop = Option<String>;

fn fuse(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let mut nodes = vec![n];
    match find(rw, n, &mut nodes) {
        Err(None) => Outcome::NoMatch,
        Err(Some(reason)) => rw.refuse(&nodes, DETAIL, reason),
        Ok(found) => {
            let nodes = found.nodes.clone();
            rw.replace_one(&nodes, DETAIL, |rw| build(rw, n, &found))
        }
    }
}

/// The single reader's view: the node that computes `v`, which nobody else may read.
fn inner(rw: &Rewriter, v: ValueId, what: &str) -> Result<NodeId, Stop> {
    let Some((n, _)) = rw.graph().producer(v) else {
        return Err(None);
    };
    if rw.used_once(v) {
        Ok(n)
    } else {
        Err(Some(format!("the {what} are also read by others")))
    }
}

fn find(rw: &Rewriter, n: NodeId, nodes: &mut Vec<NodeId>) -> Result<Found, Stop> {
    let (Some(mut p), Some(values)) = (rw.input(n, 0), rw.input(n, 1)) else {
        return Err(None);
    };
    // Where(IsNaN(p), 0, p)
    let mut guarded = false;
    if let Some(w) = rw.producer_if(p, "Where")
        && let (Some(c), Some(zero), Some(x)) = (rw.input(w, 0), rw.input(w, 1), rw.input(w, 2))
        && let Some(nan) = rw.producer_if(c, "IsNaN")
        && rw.input(nan, 0) == Some(x)
        && splat(rw.graph(), zero) == Some(0.0)
    {
        if !rw.used_once(p) || !rw.used_once(c) || rw.graph().is_output(x) || rw.graph().user_count(x) != 2 {
            return Err(Some("the probabilities are also read by others".into()));
        }
        nodes.extend([w, nan]);
        (p, guarded) = (x, true);
    }
    if let Some(r) = rw.producer_if(p, "Reshape")
        && let Some(x) = rw.input(r, 0)
        && keeps_matrices(rw, r)
        && rw.used_once(p)
        && rw.producer_if(x, "Softmax").is_some()
    {
        nodes.push(r);
        p = x;
    }
    let Some(softmax) = rw.producer_if(p, "Softmax") else {
        return Err(transposed(rw, p));
    };
    nodes.push(softmax);
    if !guarded && !rw.used_once(p) {
        return Err(Some("the probabilities are also read by others".into()));
    }
    let fact = rw.fact(p);
    let rank = fact.rank();
    if fact.dtype != DType::F32 || rank < 2 {
        return Err(Some(format!("{fact} is not a matrix of f32")));
    }
    let axis = match rw.node(softmax).attrs.get("axis") {
        Some(Attr::Int(a)) => *a,
        _ => -1,
    };
    if normalize_axis(axis, rank) != Ok(rank - 1) {
        return Err(Some("softmax is not along the keys".into()));
    }
    let mut found = Found {
        nodes: vec![],
        queries: values,
        columns: values,
        values,
        lead: [Dim::ONE, Dim::ONE],
        masks: vec![],
        scale: 1.0,
        softcap: 0.0,
        guarded,
    };
    let logits = rw.input(softmax, 0).ok_or(None)?;
    let mut at = logits;
    let mut finest = rw.fact(at).shape.clone();
    // From the softmax down to the product.
    loop {
        let m = inner(rw, at, "logits")?;
        let operand = |i: usize| rw.input(m, i).ok_or(None::<String>);
        let shape = rw.fact(at).shape.clone();
        let same = |v: ValueId| rw.fact(v).shape == shape;
        let plain = found.softcap == 0.0 && found.scale == 1.0;
        match rw.node(m).op.name() {
            "MatMul" => {
                nodes.push(m);
                (found.queries, found.columns) = (operand(0)?, operand(1)?);
                break;
            }
            "Add" | "Where" if !plain => return Err(Some("the logits are scaled or capped after a mask".into())),
            "Add" => {
                let (a, b) = (operand(0)?, operand(1)?);
                let (x, mask) = if same(a) && leads_to_product(rw, a) {
                    (a, b)
                } else if same(b) && leads_to_product(rw, b) {
                    (b, a)
                } else {
                    return Err(None);
                };
                nodes.push(m);
                found.masks.push(Mask {
                    value: mask,
                    kind: Kind::Add,
                    logits: shape.clone(),
                });
                at = x;
            }
            "Where" => {
                let (condition, a, b) = (operand(0)?, operand(1)?, operand(2)?);
                let (x, number, keep) = match (splat(rw.graph(), b), splat(rw.graph(), a)) {
                    (Some(number), _) if same(a) => (a, number, true),
                    (_, Some(number)) if same(b) => (b, number, false),
                    _ => return Err(None),
                };
                nodes.push(m);
                found.masks.push(Mask {
                    value: condition,
                    kind: Kind::Select { keep, number },
                    logits: shape.clone(),
                });
                at = x;
            }
            "Reshape" if keeps_matrices(rw, m) => {
                nodes.push(m);
                at = operand(0)?;
                if rw.fact(at).rank() > finest.len() {
                    finest.clone_from(&rw.fact(at).shape);
                }
            }
            "Mul" | "Div" => {
                let (x, factor) = scaled(rw, m).ok_or(None)?;
                nodes.push(m);
                // c · tanh(x / c)
                if let Some(t) = rw.producer_if(x, "Tanh")
                    && found.softcap == 0.0
                    && factor > 0.0
                {
                    inner(rw, x, "logits")?;
                    let capped = rw.input(t, 0).ok_or(None)?;
                    nodes.push(t);
                    let divisor = rw.graph().producer(capped).and_then(|(d, _)| Some((d, scaled(rw, d)?)));
                    // The cap's divisor and the scale of the logits may be one factor.
                    let inside = match divisor {
                        Some((d, (y, f))) => {
                            inner(rw, capped, "logits")?;
                            nodes.push(d);
                            at = y;
                            f
                        }
                        None => {
                            at = capped;
                            1.0
                        }
                    };
                    if found.scale != 1.0 {
                        return Err(Some("the capped logits are scaled".into()));
                    }
                    found.softcap = factor;
                    found.scale = inside * factor;
                    continue;
                }
                found.scale *= factor;
                at = x;
            }
            _ => return Err(None),
        }
    }
    // Factors of queries and keys.
    for side in [&mut found.queries, &mut found.columns] {
        while let Some((m, _)) = rw.graph().producer(*side)
            && let Some((x, factor)) = scaled(rw, m)
            && rw.used_once(*side)
        {
            nodes.push(m);
            found.scale *= factor;
            *side = x;
        }
    }
    let [batch, heads, ..] = folded(&finest);
    let whole = batch.clone() * heads.clone();
    for v in [found.queries, found.columns, values] {
        let fact = rw.fact(v);
        if fact.dtype != DType::F32 || fact.rank() < 2 {
            return Err(Some(format!("{fact} is not a matrix of f32")));
        }
        if Dim::product(&fact.shape[..fact.rank() - 2]) != whole {
            return Err(Some("queries, keys and values differ in batch or heads".into()));
        }
    }
    found.lead = [batch, heads];
    found.nodes.clone_from(nodes);
    Ok(found)
}

/// Whether a Reshape leaves the last two axes alone.
fn keeps_matrices(rw: &Rewriter, n: NodeId) -> bool {
    let Some(x) = rw.input(n, 0) else { return false };
    let (from, to) = (&rw.fact(x).shape, &rw.fact(rw.node(n).outputs[0]).shape);
    from.len() >= 2 && to.len() >= 2 && from[from.len() - 2..] == to[to.len() - 2..]
}

/// A softmax whose probabilities are multiplied the other way round is no attention that one kernel runs.
fn transposed(rw: &Rewriter, p: ValueId) -> Stop {
    let t = rw.producer_if(p, "Transpose")?;
    rw.producer_if(rw.input(t, 0)?, "Softmax")?;
    Some("the probabilities are transposed before the sum".into())
}

/// Whether only masks, factors and caps lie between a value and a product, so that it is the logits' side of a sum.
fn leads_to_product(rw: &Rewriter, v: ValueId) -> bool {
    let mut at = v;
    // Attention has a handful of nodes there.
    for _ in 0..8 {
        let Some((n, _)) = rw.graph().producer(at) else {
            return false;
        };
        let operand = |i| rw.input(n, i).filter(|x| rw.fact(*x).shape == rw.fact(at).shape);
        let next = match rw.node(n).op.name() {
            "MatMul" => return true,
            "Mul" | "Div" => scaled(rw, n).map(|(x, _)| x),
            "Tanh" => operand(0),
            "Reshape" if keeps_matrices(rw, n) => rw.input(n, 0),
            "Where" => [1, 2]
                .into_iter()
                .filter_map(operand)
                .find(|x| splat(rw.graph(), *x).is_none()),
            "Add" => [0, 1]
                .into_iter()
                .filter_map(operand)
                .find(|x| leads_to_product(rw, *x)),
            _ => None,
        };
        match next {
            Some(x) => at = x,
            None => return false,
        }
    }
    false
}

/// `x · c` or `x / c` for a number `c`: `x` and the factor. The shape stays that of `x`.
fn scaled(rw: &Rewriter, n: NodeId) -> Option<(ValueId, f64)> {
    let (a, b) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let g = rw.graph();
    let (x, factor) = match (rw.node(n).op.name(), splat(g, a), splat(g, b)) {
        ("Mul", _, Some(c)) => (a, c),
        ("Mul", Some(c), _) => (b, c),
        ("Div", _, Some(c)) if c != 0.0 => (a, 1.0 / c),
        _ => return None,
    };
    let shape = &rw.fact(rw.node(n).outputs[0]).shape;
    (rw.fact(x).shape == *shape && factor.is_finite() && factor != 0.0).then_some((x, factor))
}

/// The shape of rank 4 for one of any rank: leading axes become batch and heads.
fn folded(shape: &[Dim]) -> [Dim; 4] {
    let lead = shape.len() - 2;
    let heads = if lead == 0 { Dim::ONE } else { shape[lead - 1].clone() };
    let batch = Dim::product(&shape[..lead.saturating_sub(1)]);
    [batch, heads, shape[lead].clone(), shape[lead + 1].clone()]
}

fn build(rw: &mut Rewriter, n: NodeId, found: &Found) -> Result<ValueId, OpError> {
    let out = rw.fact(rw.node(n).outputs[0]).shape.clone();
    let keys = swapped(rw, found.columns)?;
    let (keys, values) = match (
        unrepeated(rw, keys, &found.lead),
        unrepeated(rw, found.values, &found.lead),
    ) {
        (Some(k), Some(v)) if rw.fact(k).shape[1] == rw.fact(v).shape[1] => (k, v),
        _ => (keys, found.values),
    };
    let mut inputs = vec![];
    for v in [found.queries, keys, values] {
        let shape = rw.fact(v).shape.clone();
        let heads = if v != found.queries && shape.len() == 4 && shape[0] == found.lead[0] {
            shape[1].clone()
        } else {
            found.lead[1].clone()
        };
        let [.., length, size] = folded(&shape);
        inputs.push(reshaped(rw, v, &[found.lead[0].clone(), heads, length, size])?);
    }
    let (mask, number) = combined(rw, &found.masks, &found.lead)?;
    inputs.extend(mask);
    let mut attrs = vec![("scale", Attr::Float(found.scale as f32))];
    attrs.push(("guarded", Attr::Int(if found.guarded { 2 } else { 0 })));
    if found.softcap != 0.0 {
        attrs.push(("softcap", Attr::Float(found.softcap as f32)));
    }
    if number != f64::NEG_INFINITY {
        attrs.push(("masked", Attr::Float(number as f32)));
    }
    let y = rw.apply("Attention", &attrs, &inputs)?;
    reshaped(rw, y, &out)
}

/// The transpose of the last two axes of `v`; of a transpose, what it transposes where that is it.
fn swapped(rw: &mut Rewriter, v: ValueId) -> Result<ValueId, OpError> {
    let rank = rw.fact(v).rank();
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank - 2, rank - 1);
    if let Some((t, _)) = rw.graph().producer(v)
        && permutation(rw.graph(), t).as_ref() == Some(&perm)
        && let Some(x) = rw.input(t, 0)
    {
        return Ok(x);
    }
    rw.apply("Transpose", &[("perm", perm_attr(&perm))], &[v])
}

/// `[B, H, T, D]` for `Reshape(Expand([B, H, 1, T, D] to [B, H, G, T, D]))` to `[B, H·G, T, D]`.
fn unrepeated(rw: &mut Rewriter, v: ValueId, lead: &[Dim; 2]) -> Option<ValueId> {
    let flat = rw.producer_if(v, "Reshape")?;
    let repeated = rw.input(flat, 0)?;
    let expand = rw.producer_if(repeated, "Expand")?;
    let single = rw.input(expand, 0)?;
    let (whole, many, one) = (&rw.fact(v).shape, &rw.fact(repeated).shape, &rw.fact(single).shape);
    let [b, h, t, d] = whole.as_slice() else { return None };
    if [b, h] != [&lead[0], &lead[1]] {
        return None;
    }
    let [mb, mh, mg, mt, md] = many.as_slice() else {
        return None;
    };
    let groups = [mb, mh, mt, md] == [b, &one.get(1)?.clone(), t, d] && mh.clone() * mg.clone() == *h;
    let from = [mb, mh, &Dim::ONE, mt, md];
    if !groups || one.iter().ne(from) || mg.as_const().is_none() || mh.as_const().is_none() {
        return None;
    }
    let shape = [mb, mh, mt, md].map(Clone::clone);
    if let Some(r) = rw.producer_if(single, "Reshape")
        && let Some(x) = rw.input(r, 0)
        && rw.fact(x).shape == shape
    {
        return Some(x);
    }
    reshaped(rw, single, &shape).ok()
}

#[cfg(test)]
mod tests {
    use super::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn scaled_and_masked() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "q": f32[B,2,S,4], %1 "k": f32[B,2,T,4], %2 "v": f32[B,2,T,3], %3 "mask": f32[B,1,1,T]) symbols B=1.., S=1.., T=1.. {
              weight %4: f32[] = dense(0.5)
              %5 = Transpose(%1) {perm=[0,1,3,2]}
              %6 = MatMul(%0, %5) from "qk"
              %7 = Mul(%6, %4)
              %8 = Add(%7, %3)
              %9 = Softmax(%8) {axis=3} from "softmax"
              %10 = MatMul(%9, %2) from "pv"
              return %10 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "q": f32[B,2,S,4], %1 "k": f32[B,2,T,4], %2 "v": f32[B,2,T,3], %3 "mask": f32[B,1,1,T]) symbols B=1.., S=1.., T=1.. {
          weight %4: f32[] = dense(0.5)
          %5 = Attention(%0, %1, %2, %3) {guarded=0, scale=0.5} : f32[B,2,S,3] from "pv", "qk", "softmax"
          return %5 "y"
        }
        "#);
    }

    /// Operands swapped, both sides scaled, a division, a condition, and a guard against rows without keys.
    #[test]
    fn in_disguise() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "q": f32[2,S,4], %1 "k": f32[2,4,T], %2 "v": f32[2,T,3], %3 "seen": bool[S,T]) symbols S=1.., T=1.. {
              weight %4: f32[] = dense(0.5)
              weight %5: f32[1,1] = dense(2.0)
              weight %6: f32[] = dense(-inf)
              weight %7: f32[] = dense(0.0)
              %8 = Mul(%4, %0)
              %9 = Mul(%1, %4)
              %10 = MatMul(%8, %9)
              %11 = Div(%10, %5)
              %12 = Where(%3, %11, %6)
              %13 = Softmax(%12)
              %14 = IsNaN(%13)
              %15 = Where(%14, %7, %13)
              %16 = MatMul(%15, %2)
              return %16 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "q": f32[2,S,4], %1 "k": f32[2,4,T], %2 "v": f32[2,T,3], %3 "seen": bool[S,T]) symbols S=1.., T=1.. {
          weight %4: f32[] = dense(0.5)
          weight %5: f32[1,1] = dense(2.0)
          weight %6: f32[] = dense(-inf)
          weight %7: f32[] = dense(0.0)
          %8 = Reshape(%0) {shape=dims[1,2,S,4]} : f32[1,2,S,4]
          %9 = Transpose(%1) {perm=[0,2,1]} : f32[2,T,4]
          %10 = Reshape(%9) {shape=dims[1,2,T,4]} : f32[1,2,T,4]
          %11 = Reshape(%2) {shape=dims[1,2,T,3]} : f32[1,2,T,3]
          %12 = Reshape(%3) {shape=dims[1,1,S,T]} : bool[1,1,S,T]
          %13 = Attention(%8, %10, %11, %12) {guarded=2, scale=0.125} : f32[1,2,S,3]
          %14 = Reshape(%13) {shape=dims[2,S,3]} : f32[2,S,3]
          return %14 "y"
        }
        "#);
    }

    /// Windows: logits are regrouped to add a mask per window, and back.
    #[test]
    fn regrouped_for_a_mask() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "q": f32[6*B,2,5,4], %1 "k": f32[6*B,2,4,5], %2 "v": f32[6*B,2,5,3], %3 "bias": f32[1,2,5,5], %4 "window": f32[1,6,1,5,5]) symbols B=1.. {
              %5 = MatMul(%0, %1)
              %6 = Add(%5, %3)
              %7 = Reshape(%6) {shape=dims[B,6,2,5,5]}
              %8 = Add(%7, %4)
              %9 = Reshape(%8) {shape=dims[6*B,2,5,5]}
              %10 = Softmax(%9)
              %11 = MatMul(%10, %2)
              return %11 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "q": f32[6*B,2,5,4], %1 "k": f32[6*B,2,4,5], %2 "v": f32[6*B,2,5,3], %3 "bias": f32[1,2,5,5], %4 "window": f32[1,6,1,5,5]) symbols B=1.. {
          %5 = Transpose(%1) {perm=[0,1,3,2]} : f32[6*B,2,5,4]
          %6 = Expand(%4) {shape=dims[B,6,1,5,5]} : f32[B,6,1,5,5]
          %7 = Reshape(%6) {shape=dims[6*B,1,5,5]} : f32[6*B,1,5,5]
          %8 = Add(%3, %7) : f32[6*B,2,5,5]
          %9 = Attention(%0, %5, %2, %8) {guarded=0, scale=1.0} : f32[6*B,2,5,3]
          return %9 "y"
        }
        "#);
    }

    #[test]
    fn grouped_heads_and_a_cap() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "q": f32[B,4,S,4], %1 "k": f32[B,2,T,4], %2 "v": f32[B,2,T,3]) symbols B=1.., S=1.., T=1.. {
              weight %3: f32[] = dense(0.25)
              weight %4: f32[] = dense(3.0)
              %5 = Reshape(%1) {shape=dims[B,2,1,T,4]}
              %6 = Expand(%5) {shape=dims[B,2,2,T,4]}
              %7 = Reshape(%6) {shape=dims[B,4,T,4]}
              %8 = Transpose(%7) {perm=[0,1,3,2]}
              %9 = Reshape(%2) {shape=dims[B,2,1,T,3]}
              %10 = Expand(%9) {shape=dims[B,2,2,T,3]}
              %11 = Reshape(%10) {shape=dims[B,4,T,3]}
              %12 = MatMul(%0, %8)
              %13 = Mul(%12, %3)
              %14 = Tanh(%13)
              %15 = Mul(%14, %4)
              %16 = Softmax(%15)
              %17 = MatMul(%16, %11)
              return %17 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "q": f32[B,4,S,4], %1 "k": f32[B,2,T,4], %2 "v": f32[B,2,T,3]) symbols B=1.., S=1.., T=1.. {
          weight %3: f32[] = dense(0.25)
          weight %4: f32[] = dense(3.0)
          %5 = Attention(%0, %1, %2) {guarded=0, scale=0.75, softcap=3.0} : f32[B,4,S,3]
          return %5 "y"
        }
        "#);
    }

    #[test]
    fn a_condition_beside_a_bias() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "q": f32[2,S,4], %1 "k": f32[2,4,S], %2 "v": f32[2,S,3], %3 "hidden": bool[1,S,S], %4 "bias": f32[2,S,1]) symbols S=1.. {
              weight %5: f32[] = dense(-3.4028235e38)
              %6 = MatMul(%0, %1)
              %7 = Add(%4, %6)
              %8 = Where(%3, %5, %7)
              %9 = Softmax(%8)
              %10 = MatMul(%9, %2)
              return %10 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "q": f32[2,S,4], %1 "k": f32[2,4,S], %2 "v": f32[2,S,3], %3 "hidden": bool[1,S,S], %4 "bias": f32[2,S,1]) symbols S=1.. {
          weight %5: f32[] = dense(-3.4028235e38)
          weight %6: f32[] = dense(0.0)
          weight %7: f32[] = dense(-3.4028235e38)
          %8 = Reshape(%0) {shape=dims[1,2,S,4]} : f32[1,2,S,4]
          %9 = Transpose(%1) {perm=[0,2,1]} : f32[2,S,4]
          %10 = Reshape(%9) {shape=dims[1,2,S,4]} : f32[1,2,S,4]
          %11 = Reshape(%2) {shape=dims[1,2,S,3]} : f32[1,2,S,3]
          %12 = Expand(%4) {shape=dims[2,S,S]} : f32[2,S,S]
          %13 = Reshape(%12) {shape=dims[1,2,S,S]} : f32[1,2,S,S]
          %14 = Where(%3, %5, %6) : f32[1,S,S]
          %15 = Reshape(%14) {shape=dims[1,1,S,S]} : f32[1,1,S,S]
          %16 = Add(%13, %15) : f32[1,2,S,S]
          %17 = Attention(%8, %10, %11, %16) {guarded=0, scale=1.0} : f32[1,2,S,3]
          %18 = Reshape(%17) {shape=dims[2,S,3]} : f32[2,S,3]
          return %18 "y"
        }
        "#);
    }

    #[test]
    fn refuses_what_others_read() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "q": f32[2,S,4], %1 "k": f32[2,4,T], %2 "v": f32[2,T,3]) symbols S=1.., T=1.. {
              %3 = MatMul(%0, %1)
              %4 = Softmax(%3)
              %5 = MatMul(%4, %2)
              return %5 "y", %4 "weights"
            }"#,
        );
        insta::assert_snapshot!(text, @"attention: the probabilities are also read by others");
        let text = refused(
            &PASS,
            r#"graph @g (%0 "q": f32[2,S,4], %1 "k": f32[2,4,T], %2 "v": f32[2,T,3]) symbols S=1.., T=1.. {
              %3 = MatMul(%0, %1)
              %4 = Softmax(%3)
              %5 = MatMul(%4, %2)
              return %5 "y", %3 "logits"
            }"#,
        );
        insta::assert_snapshot!(text, @"attention: the logits are also read by others");
    }

    #[test]
    fn refuses_look_alikes() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "q": f32[2,S,4], %1 "k": f32[2,4,S], %2 "v": f32[2,S,3]) symbols S=1.. {
              %3 = MatMul(%0, %1)
              %4 = Softmax(%3) {axis=1}
              %5 = MatMul(%4, %2)
              return %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"attention: softmax is not along the keys");
        let text = refused(
            &PASS,
            r#"graph @g (%0 "q": f32[2,S,4], %1 "k": f32[2,4,S], %2 "v": f32[2,S,3]) symbols S=1.. {
              %3 = MatMul(%0, %1)
              %4 = Softmax(%3)
              %5 = Transpose(%4) {perm=[0,2,1]}
              %6 = MatMul(%5, %2)
              return %6 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"attention: the probabilities are transposed before the sum");
        // A factor per query is no scale.
        let text = refused(
            &PASS,
            r#"graph @g (%0 "q": f32[2,S,4], %1 "k": f32[2,4,S], %2 "v": f32[2,S,3], %3 "t": f32[S,1]) symbols S=1.. {
              %4 = MatMul(%0, %1)
              %5 = Mul(%4, %3)
              %6 = Softmax(%5)
              %7 = MatMul(%6, %2)
              return %7 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"");
        let text = refused(
            &PASS,
            r#"graph @g (%0 "q": f32[2,S,4], %1 "k": f32[2,4,S], %2 "v": f32[2,S,3], %3 "m": f32[S,S]) symbols S=1.. {
              weight %4: f32[] = dense(0.5)
              %5 = MatMul(%0, %1)
              %6 = Add(%5, %3)
              %7 = Mul(%6, %4)
              %8 = Softmax(%7)
              %9 = MatMul(%8, %2)
              return %9 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"attention: the logits are scaled or capped after a mask");
        // Where all of a row is hidden, the low number decides nothing and the bias everything.
        let text = refused(
            &PASS,
            r#"graph @g (%0 "q": f32[2,S,4], %1 "k": f32[2,4,S], %2 "v": f32[2,S,3], %3 "m": f32[S,S], %4 "seen": bool[S,S]) symbols S=1.. {
              weight %5: f32[] = dense(-10000.0)
              %6 = MatMul(%0, %1)
              %7 = Add(%6, %3)
              %8 = Where(%4, %7, %5)
              %9 = Softmax(%8)
              %10 = MatMul(%9, %2)
              return %10 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"attention: unsupported: a mask selects -10000 where another is added, which is not the same as adding it");
        // Queries of one batch and keys of several.
        let text = refused(
            &PASS,
            r#"graph @g (%0 "q": f32[1,S,4], %1 "k": f32[B,4,S], %2 "v": f32[B,S,3]) symbols B=1.., S=1.. {
              %3 = MatMul(%0, %1)
              %4 = Softmax(%3)
              %5 = MatMul(%4, %2)
              return %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"attention: queries, keys and values differ in batch or heads");
    }
}
