//! Takes products of three matrices in the order that needs fewer FLOPs: linear attention.
//!
//! ```text
//! %3 = MatMul(%0, %1) : f32[B,S,S]                 %3 = MatMul(%1, %2) : f32[B,8,8]
//! %4 = MatMul(%3, %2) : f32[B,S,8]            →    %4 = MatMul(%0, %3) : f32[B,S,8]
//! ```
//!
//! `(A B) C = A (B C)`. Attention without softmax, whatever the feature maps of its queries and keys (`relu`, `elu + 1`), is
//! such a product, quadratic in the length only because of the order. What normalises its rows does not stand in the way:
//! factors that are the same along the sum move behind it, `(r ⊙ P) C = r ⊙ (P C)`, and sums and means of `P` along it, the
//! denominators, are products with sums of one operand, `sum(A B) = A sum(B)`. The mirror image, `C (A B)` with factors per
//! column, is treated alike. (Katharopoulos et al., "Transformers are RNNs", 2020, eq. 5.)
//!
//! An order is better when it needs fewer FLOPs at both ends of the range of every symbol, where an end at which all of it
//! takes less than [`SMALL`] does not count. Refused: a mask or a softmax between the products, an order that is worse for
//! some sizes, products that others read. Left to `reparam`: products of two weights.

use cameo_ir::op::{OpError, normalize_axis};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, DType, Dim, Graph, NodeId, Sym, ValueId};
use rustc_hash::FxHashMap;

use crate::Pass;
use crate::fold_scales::reshaped;

pub const PASS: Pass = Pass {
    name: "associate",
    doc: "takes products of three matrices in the order that needs fewer FLOPs",
    run,
};

const DETAIL: &str = "order of products";

/// FLOPs of which nobody feels how many there are: some 10 µs of one core.
const SMALL: f64 = 1e6;

/// Where symbols without an upper bound are taken to end: long texts, large images.
const FAR: i64 = 4096;

/// Nodes between two products, and symbols whose ends are tried in all combinations.
const MAX_BETWEEN: usize = 8;
const MAX_SYMBOLS: usize = 6;

fn run(rw: &mut Rewriter) {
    rw.fixpoint(|rw, n| match rw.node(n).op.name() {
        "MatMul" => match reorder(rw, n, LEFT) {
            Outcome::NoMatch => reorder(rw, n, RIGHT),
            done => done,
        },
        _ => Outcome::NoMatch,
    });
}

/// Which operand of the outer product is the inner one.
#[derive(Clone, Copy)]
struct Side {
    slot: usize,
    /// The axis of the inner product that the outer one sums over, counted from the end.
    axis: usize,
}

const LEFT: Side = Side { slot: 0, axis: 1 };
const RIGHT: Side = Side { slot: 1, axis: 2 };

/// What lies between the products.
struct Found {
    /// The nodes that are replaced, the outer product first.
    nodes: Vec<NodeId>,
    /// Operands of the inner product, and the outer one's other operand.
    a: ValueId,
    b: ValueId,
    c: ValueId,
    /// `Mul` or `Div`, and by what, the outermost first.
    factors: Vec<(&'static str, ValueId)>,
    /// Results of sums and means, which sums they are, and how many of the factors, from the innermost, they include.
    sums: Vec<(NodeId, usize)>,
}

/// Why a graph that looks like this is left alone; `None`: it does not look like it.
type Stop = Option<String>;

fn reorder(rw: &mut Rewriter, n: NodeId, side: Side) -> Outcome {
    let mut nodes = vec![n];
    match find(rw, n, side, &mut nodes) {
        Err(None) => Outcome::NoMatch,
        Err(Some(reason)) => rw.refuse(&nodes, DETAIL, reason),
        Ok(found) => {
            let y = rw.node(n).outputs[0];
            let sums = found.sums.iter().map(|(s, _)| rw.node(*s).outputs[0]);
            let old: Vec<ValueId> = [y].into_iter().chain(sums).collect();
            rw.replace_values(&old, &found.nodes, DETAIL, |rw| build(rw, side, &found, &old))
        }
    }
}

fn find(rw: &Rewriter, n: NodeId, side: Side, nodes: &mut Vec<NodeId>) -> Result<Found, Stop> {
    let (Some(p), Some(c)) = (rw.input(n, side.slot), rw.input(n, 1 - side.slot)) else {
        return Err(None);
    };
    let matrix = |v: ValueId| rw.fact(v).rank() >= 2 && matches!(rw.fact(v).dtype, DType::F32 | DType::F64);
    if !matrix(p) || !matrix(c) {
        return Err(None);
    }
    let inner = product_behind(rw, p).ok_or(None::<String>)?;
    let (Some(a), Some(b)) = (rw.input(inner, 0), rw.input(inner, 1)) else {
        return Err(None);
    };
    let constants = rw.constants();
    let constant = |v: ValueId| constants[v.0 as usize];
    // What is multiplied first in the other order.
    let (kept, joined) = if side.slot == 0 { (a, b) } else { (b, a) };
    if !matrix(a) || !matrix(b) || (constant(joined) && constant(c)) || (constant(kept) && constant(joined)) {
        return Err(None);
    }
    let saves = saves(rw.graph(), side, [a, b, c]);
    if saves == Saves::Never {
        return Err(None);
    }
    let mut found = Found {
        nodes: vec![],
        a,
        b,
        c,
        factors: vec![],
        sums: vec![],
    };
    // From the outer product down to the inner one.
    let (mut at, mut reader) = (p, n);
    loop {
        let Some((m, _)) = rw.graph().producer(at) else {
            return Err(None);
        };
        nodes.push(m);
        if rw.graph().is_output(at) {
            return Err(Some("what is between the products is an output".into()));
        }
        for user in rw.graph().users(at).into_iter().filter(|u| *u != reader) {
            if !sums_along(rw, user, side) {
                return Err(Some("what is between the products is also read by others".into()));
            }
            found.sums.push((user, found.factors.len()));
        }
        if m == inner {
            break;
        }
        match factor(rw, m, side) {
            Some((x, op, r)) => {
                found.factors.push((op, r));
                (at, reader) = (x, m);
            }
            None if rw.node(m).op == "Softmax" => return Err(Some("a softmax is between the products".into())),
            None => {
                let op = rw.node(m).op;
                return Err(Some(format!(
                    "between the products is {op}, which is no factor that is the same along the sum"
                )));
            }
        }
    }
    if saves == Saves::Sometimes {
        return Err(Some("the other order needs more FLOPs for some sizes".into()));
    }
    nodes.extend(found.sums.iter().map(|(s, _)| *s));
    found.nodes.clone_from(nodes);
    Ok(found)
}

/// The product whose result, of the same shape, only pointwise work or a softmax leads from to `v`.
fn product_behind(rw: &Rewriter, v: ValueId) -> Option<NodeId> {
    let mut at = v;
    for _ in 0..MAX_BETWEEN {
        let (n, _) = rw.graph().producer(at)?;
        let node = rw.node(n);
        match node.op.name() {
            "MatMul" => return Some(n),
            "Softmax" => {}
            _ if node.op.schema().pointwise && node.outputs.len() == 1 => {}
            _ => return None,
        }
        let shape = &rw.fact(at).shape;
        // The product's side of a sum or product is the one of its shape that is computed.
        let constants = rw.constants();
        let mut same = node.inputs.iter().flatten().copied().filter(|x| {
            rw.fact(*x).shape == *shape && rw.fact(*x).dtype == rw.fact(at).dtype && !constants[x.0 as usize]
        });
        at = same.next()?;
    }
    None
}

/// `x · r` or `x / r` with an `r` that is the same along the sum: `x`, the operation and `r`.
fn factor(rw: &Rewriter, n: NodeId, side: Side) -> Option<(ValueId, &'static str, ValueId)> {
    let (x, y) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let shape = &rw.fact(rw.node(n).outputs[0]).shape;
    let same = |r: ValueId| {
        let shape = &rw.fact(r).shape;
        shape.len() < side.axis || shape[shape.len() - side.axis].is_one()
    };
    match rw.node(n).op.name() {
        "Mul" if same(y) && rw.fact(x).shape == *shape => Some((x, "Mul", y)),
        "Mul" if same(x) && rw.fact(y).shape == *shape => Some((y, "Mul", x)),
        "Div" if same(y) && rw.fact(x).shape == *shape => Some((x, "Div", y)),
        _ => None,
    }
}

/// Whether `n` sums its operand, or takes its mean, along the sum of the outer product and nothing else.
fn sums_along(rw: &Rewriter, n: NodeId, side: Side) -> bool {
    let node = rw.node(n);
    if !matches!(node.op.name(), "ReduceSum" | "ReduceMean") || node.outputs.len() != 1 {
        return false;
    }
    let Some(rank) = rw.input(n, 0).map(|x| rw.fact(x).rank()) else {
        return false;
    };
    let axes = rw.graph().with_cx(n, |cx| cx.const_ints(1).ok().flatten());
    matches!(axes.as_deref(), Some([axis]) if normalize_axis(*axis, rank) == Ok(rank - side.axis))
}

fn build(rw: &mut Rewriter, side: Side, found: &Found, old: &[ValueId]) -> Result<Vec<ValueId>, OpError> {
    let Found { a, b, c, .. } = *found;
    // `kept` times what the sum is taken of.
    let outer = |rw: &mut Rewriter, inside: ValueId| match side.slot {
        0 => rw.apply("MatMul", &[], &[a, inside]),
        _ => rw.apply("MatMul", &[], &[inside, b]),
    };
    let mut replaced: FxHashMap<ValueId, ValueId> = FxHashMap::default();
    // Sums of the inner product first: factors may be made of them.
    let mut sums = found.sums.clone();
    sums.sort_by_key(|(_, outside)| std::cmp::Reverse(*outside));
    for (n, outside) in sums {
        let (op, y) = (rw.node(n).op.name(), rw.node(n).outputs[0]);
        let joined = if side.slot == 0 { b } else { a };
        let axis = (rw.fact(joined).rank() - side.axis) as i64;
        let axes = rw.add_weight("", cameo_ir::Tensor::from_i64(DType::I64, &[1], [axis]));
        let sum = rw.apply(op, &[("keepdims", Attr::Int(1))], &[joined, axes])?;
        let sum = outer(rw, sum)?;
        let sum = scaled(rw, sum, &found.factors[outside..], &replaced)?;
        let shape = rw.fact(y).shape.clone();
        replaced.insert(y, reshaped(rw, sum, &shape)?);
    }
    let inside = match side.slot {
        0 => rw.apply("MatMul", &[], &[b, c])?,
        _ => rw.apply("MatMul", &[], &[c, a])?,
    };
    let product = outer(rw, inside)?;
    replaced.insert(old[0], scaled(rw, product, &found.factors, &replaced)?);
    Ok(old.iter().map(|v| replaced.get(v).copied().unwrap_or(*v)).collect())
}

/// `v` with factors, of which some may be sums that are replaced themselves.
fn scaled(
    rw: &mut Rewriter,
    mut v: ValueId,
    factors: &[(&'static str, ValueId)],
    replaced: &FxHashMap<ValueId, ValueId>,
) -> Result<ValueId, OpError> {
    for (op, r) in factors.iter().rev() {
        let r = replaced.get(r).copied().unwrap_or(*r);
        v = rw.apply(op, &[], &[v, r])?;
    }
    Ok(v)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Saves {
    Always,
    Sometimes,
    Never,
}

/// Compares the FLOPs of both orders of the product of `A`, `B` and `C`, or `C`, `A` and `B`, at the ends of the ranges.
fn saves(g: &Graph, side: Side, [a, b, c]: [ValueId; 3]) -> Saves {
    let order = if side.slot == 0 { [a, b, c] } else { [c, a, b] };
    let mut shapes = order.map(|v| g.fact(v).shape.clone());
    // Batches that all have decide nothing.
    if shapes.iter().all(|s| s.len() == shapes[0].len()) {
        for i in 0..shapes[0].len() - 2 {
            if shapes.iter().all(|s| s[i] == shapes[0][i]) {
                shapes.iter_mut().for_each(|s| s[i] = Dim::ONE);
            }
        }
    }
    let [x, y, z] = &shapes;
    let (first, second) = (product(x, y), product(y, z));
    let (Some((left, xy)), Some((right, yz))) = (first, second) else {
        return Saves::Never;
    };
    let (Some((left_rest, _)), Some((right_rest, _))) = (product(&xy, z), product(x, &yz)) else {
        return Saves::Never;
    };
    let (left, right) = ([left, left_rest], [right, right_rest]);
    let (now, then) = if side.slot == 0 { (left, right) } else { (right, left) };
    let mut symbols: Vec<(std::sync::Arc<str>, [i64; 2])> = vec![];
    for d in now.iter().chain(&then).flatten() {
        d.visit(&mut |s| {
            if let Sym::Named(name) = s
                && !symbols.iter().any(|(n, _)| n == name)
            {
                let (min, max) = g.symbol_range(name);
                let max = if max == i64::MAX { FAR.max(min) } else { max };
                symbols.push((name.clone(), [min.max(1), max.max(1)]));
            }
        });
    }
    if symbols.len() > MAX_SYMBOLS {
        return Saves::Never;
    }
    let (mut better, mut worse) = (false, false);
    for corner in 0..1usize << symbols.len() {
        let value = |s: &Sym| match s {
            Sym::Named(n) => {
                let i = symbols.iter().position(|(m, _)| m == n)?;
                Some(symbols[i].1[corner >> i & 1])
            }
            _ => None,
        };
        let flops = |all: &[Vec<Dim>; 2]| -> Option<f64> {
            let one = |dims: &Vec<Dim>| dims.iter().try_fold(2.0, |p, d| Some(p * d.eval(&value)? as f64));
            Some(one(&all[0])? + one(&all[1])?)
        };
        let (Some(now), Some(then)) = (flops(&now), flops(&then)) else {
            return Saves::Never;
        };
        better |= then < now;
        worse |= then > now && then > SMALL;
    }
    match (better, worse) {
        (true, false) => Saves::Always,
        (true, true) => Saves::Sometimes,
        _ => Saves::Never,
    }
}

/// The extents of all loops of a product of two matrices, and the shape of its result.
fn product(x: &[Dim], y: &[Dim]) -> Option<(Vec<Dim>, Vec<Dim>)> {
    let ([lead_x @ .., m, k], [lead_y @ .., _, n]) = (x, y) else {
        return None;
    };
    let rank = lead_x.len().max(lead_y.len());
    let at = |lead: &[Dim], i: usize| match (i + lead.len()).checked_sub(rank) {
        Some(j) => lead[j].clone(),
        None => Dim::ONE,
    };
    let mut shape = vec![];
    for i in 0..rank {
        shape.push(match (at(lead_x, i), at(lead_y, i)) {
            (p, q) if p == q || q.is_one() => p,
            (p, q) if p.is_one() => q,
            _ => return None,
        });
    }
    shape.extend([m.clone(), n.clone()]);
    let mut loops = shape.clone();
    loops.push(k.clone());
    Some((loops, shape))
}

#[cfg(test)]
mod tests {
    use super::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn attention_with_feature_maps() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "q": f32[B,H,S,4], %1 "k": f32[B,H,S,4], %2 "v": f32[B,H,S,4]) symbols B=1.., H=1.., S=1.. {
              %3 = Relu(%0) from "phi_q"
              %4 = Relu(%1) from "phi_k"
              %5 = Transpose(%4) {perm=[0,1,3,2]}
              %6 = MatMul(%3, %5) from "qk"
              %7 = MatMul(%6, %2) from "pv"
              return %7 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "q": f32[B,H,S,4], %1 "k": f32[B,H,S,4], %2 "v": f32[B,H,S,4]) symbols B=1.., H=1.., S=1.. {
          %3 = Relu(%0) : f32[B,H,S,4] from "phi_q"
          %4 = Relu(%1) : f32[B,H,S,4] from "phi_k"
          %5 = Transpose(%4) {perm=[0,1,3,2]} : f32[B,H,4,S]
          %6 = MatMul(%5, %2) : f32[B,H,4,4] from "pv", "qk"
          %7 = MatMul(%3, %6) : f32[B,H,S,4] from "pv", "qk"
          return %7 "y"
        }
        "#);
    }

    #[test]
    fn denominators_are_sums_of_keys() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "q": f32[B,S,4], %1 "k": f32[B,S,4], %2 "v": f32[B,S,4]) symbols B=1.., S=1.. {
              weight %3: f32[] = dense(1.0)
              weight %4: f32[] = dense(0.001)
              weight %5: i64[1] = dense(-1)
              weight %6: f32[] = dense(0.5)
              %7 = Elu(%0)
              %8 = Add(%7, %3)
              %9 = Elu(%1)
              %10 = Add(%9, %3)
              %11 = Transpose(%10) {perm=[0,2,1]}
              %12 = MatMul(%8, %11)
              %13 = Mul(%12, %6)
              %14 = ReduceSum(%13, %5) {keepdims=1}
              %15 = Add(%14, %4)
              %16 = Div(%13, %15)
              %17 = MatMul(%16, %2)
              return %17 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "q": f32[B,S,4], %1 "k": f32[B,S,4], %2 "v": f32[B,S,4]) symbols B=1.., S=1.. {
          weight %3: f32[] = dense(1.0)
          weight %4: f32[] = dense(0.5)
          weight %5: i64[1] = dense(2)
          weight %6: f32[] = dense(0.001)
          weight %7: i64[1] = dense(-1)
          %8 = Elu(%0) : f32[B,S,4]
          %9 = Add(%8, %3) : f32[B,S,4]
          %10 = Elu(%1) : f32[B,S,4]
          %11 = Add(%10, %3) : f32[B,S,4]
          %12 = Transpose(%11) {perm=[0,2,1]} : f32[B,4,S]
          %13 = MatMul(%12, %2) : f32[B,4,4]
          %14 = MatMul(%9, %13) : f32[B,S,4]
          %15 = Mul(%14, %4) : f32[B,S,4]
          %16 = ReduceSum(%12, %5) {keepdims=1} : f32[B,4,1]
          %17 = MatMul(%9, %16) : f32[B,S,1]
          %18 = Mul(%17, %4) : f32[B,S,1]
          %19 = Add(%18, %6) : f32[B,S,1]
          %20 = Div(%15, %19) : f32[B,S,4]
          return %20 "y"
        }
        "#);
    }

    #[test]
    fn a_sum_may_be_the_divisor_itself_and_lose_its_axis() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "q": f32[S,4], %1 "k": f32[4,S], %2 "v": f32[S,4]) symbols S=1.. {
              weight %3: i64[1] = dense(1)
              %4 = Exp(%0)
              %5 = Exp(%1)
              %6 = MatMul(%4, %5)
              %7 = ReduceMean(%6, %3) {keepdims=1}
              %8 = ReduceSum(%6, %3) {keepdims=0}
              %9 = Div(%6, %7)
              %10 = MatMul(%9, %2)
              return %10 "y", %8 "z"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "q": f32[S,4], %1 "k": f32[4,S], %2 "v": f32[S,4]) symbols S=1.. {
          weight %3: i64[1] = dense(1)
          weight %4: i64[1] = dense(1)
          weight %5: i64[1] = dense(1)
          %6 = Exp(%0) : f32[S,4]
          %7 = Exp(%1) : f32[4,S]
          %8 = MatMul(%7, %2) : f32[4,4]
          %9 = MatMul(%6, %8) : f32[S,4]
          %10 = ReduceMean(%7, %3) {keepdims=1} : f32[4,1]
          %11 = MatMul(%6, %10) : f32[S,1]
          %12 = Div(%9, %11) : f32[S,4]
          %13 = ReduceSum(%7, %4) {keepdims=1} : f32[4,1]
          %14 = MatMul(%6, %13) : f32[S,1]
          %15 = Reshape(%14) {shape=dims[S]} : f32[S]
          return %12 "y", %15 "z"
        }
        "#);
    }

    #[test]
    fn the_mirror_image() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "q": f32[4,S], %1 "k": f32[S,4], %2 "v": f32[4,S]) symbols S=1.. {
              weight %3: i64[1] = dense(0)
              %4 = Exp(%0)
              %5 = Exp(%1)
              %6 = MatMul(%5, %4)
              %7 = ReduceSum(%6, %3) {keepdims=1}
              %8 = Div(%6, %7)
              %9 = MatMul(%2, %8)
              return %9 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "q": f32[4,S], %1 "k": f32[S,4], %2 "v": f32[4,S]) symbols S=1.. {
          weight %3: i64[1] = dense(0)
          weight %4: i64[1] = dense(0)
          %5 = Exp(%1) : f32[S,4]
          %6 = MatMul(%2, %5) : f32[4,4]
          %7 = Exp(%0) : f32[4,S]
          %8 = MatMul(%6, %7) : f32[4,S]
          %9 = ReduceSum(%5, %3) {keepdims=1} : f32[1,4]
          %10 = MatMul(%9, %7) : f32[1,S]
          %11 = Div(%8, %10) : f32[4,S]
          return %11 "y"
        }
        "#);
    }

    #[test]
    fn refuses_what_changes_along_the_sum() {
        let one = |between: &str| {
            refused(
                &PASS,
                &format!(
                    "graph @g (%0 \"q\": f32[B,S,4], %1 \"k\": f32[B,4,S], %2 \"v\": f32[B,S,4], %3 \"m\": f32[S,S], %4 \"c\": \
                     bool[S,S]) symbols B=1.., S=1.. {{\nweight %5: f32[] = dense(0.0)\n%6 = MatMul(%0, %1)\n{between}\n%8 = \
                     MatMul(%7, %2)\nreturn %8 \"y\"\n}}"
                ),
            )
        };
        insta::assert_snapshot!(one("%7 = Mul(%6, %3)"), @"order of products: between the products is Mul, which is no factor that is the same along the sum");
        insta::assert_snapshot!(one("%7 = Add(%6, %3)"), @"order of products: between the products is Add, which is no factor that is the same along the sum");
        insta::assert_snapshot!(one("%7 = Where(%4, %6, %5)"), @"order of products: between the products is Where, which is no factor that is the same along the sum");
        insta::assert_snapshot!(one("%7 = Softmax(%6)"), @"order of products: a softmax is between the products");
        insta::assert_snapshot!(one("%7 = Relu(%6)"), @"order of products: between the products is Relu, which is no factor that is the same along the sum");
    }

    #[test]
    fn refuses_what_others_read() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "q": f32[S,4], %1 "k": f32[4,S], %2 "v": f32[S,4]) symbols S=1.. {
              %3 = MatMul(%0, %1)
              %4 = MatMul(%3, %2)
              %5 = Exp(%3)
              return %4 "y", %5 "z"
            }"#,
        );
        insta::assert_snapshot!(text, @"order of products: what is between the products is also read by others");
    }

    #[test]
    fn refuses_what_is_worse_for_some_sizes() {
        // One query of a long text is dearer through a matrix of 512 by 512.
        let text = refused(
            &PASS,
            r#"graph @g (%0 "q": f32[S,512], %1 "k": f32[512,T], %2 "v": f32[T,512]) symbols S=1.., T=1.. {
              %3 = MatMul(%0, %1)
              %4 = MatMul(%3, %2)
              return %4 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"order of products: the other order needs more FLOPs for some sizes");
    }

    #[test]
    fn short_sequences_and_weights_stay() {
        // The last two products are of two weights.
        let text = refused(
            &PASS,
            r#"graph @g (%0 "q": f32[S,64], %1 "k": f32[64,S], %2 "v": f32[S,64]) symbols S=1..32 {
              weight %3: f32[64,64] = random
              weight %4: f32[64,2] = random
              %5 = MatMul(%0, %1)
              %6 = MatMul(%5, %2)
              %7 = MatMul(%6, %3)
              %8 = MatMul(%7, %4)
              return %8 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"");
    }
}
