//! Slices that are written into a tensor one after the other are parts of a `Concat`.
//!
//! ```text
//! %4 = ScatterElements(%0, Expand(0), %1) {axis=1} : f32[B,2,8]
//! %5 = ScatterElements(%4, Expand(1), %2) {axis=1} : f32[B,2,8]    →    %4 = Concat(%1, %2) {axis=1} : f32[B,2,8]
//! ```
//!
//! The indices are the same number everywhere, and what is written is as large as the tensor but along the axis, where it is 1.

use cameo_ir::op::normalize_axis;
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, Dim, NodeId, ValueId};

use crate::pattern::splat;

/// One written slice: its node, where it is written to, what is written, and what is written there.
struct Write {
    node: NodeId,
    to: ValueId,
    at: i64,
    what: ValueId,
}

fn write(rw: &Rewriter, n: NodeId, axis: usize) -> Option<Write> {
    let node = rw.node(n);
    let (to, indices, what) = (rw.input(n, 0)?, rw.input(n, 1)?, rw.input(n, 2)?);
    let plain = match node.attrs.get("reduction") {
        None => true,
        Some(Attr::Str(s)) => &**s == "none",
        _ => false,
    };
    let (whole, part) = (&rw.fact(to).shape, &rw.fact(what).shape);
    let covers = part.len() == whole.len()
        && part
            .iter()
            .zip(whole)
            .enumerate()
            .all(|(i, (p, w))| if i == axis { p.is_one() } else { p == w });
    let at = splat(rw.graph(), indices)?;
    let extent = whole[axis].as_const()?;
    let at = if at < 0.0 { at as i64 + extent } else { at as i64 };
    (plain && covers && (0..extent).contains(&at) && along(rw, n) == Some(axis)).then_some(Write {
        node: n,
        to,
        at,
        what,
    })
}

fn along(rw: &Rewriter, n: NodeId) -> Option<usize> {
    let rank = rw.fact(rw.input(n, 0)?).rank();
    match rw.node(n).attrs.get("axis") {
        Some(Attr::Int(a)) => normalize_axis(*a, rank).ok(),
        None => normalize_axis(0, rank).ok(),
        _ => None,
    }
}

/// Rewrites the last of a chain of writes.
pub fn slices(rw: &mut Rewriter, n: NodeId) -> Outcome {
    if rw.node(n).op != "ScatterElements" {
        return Outcome::NoMatch;
    }
    let Some(axis) = along(rw, n) else {
        return Outcome::NoMatch;
    };
    let out = rw.node(n).outputs[0];
    let goes_on = |m: &NodeId| {
        rw.node(*m).op == "ScatterElements" && rw.input(*m, 0) == Some(out) && write(rw, *m, axis).is_some()
    };
    if rw.graph().users(out).iter().any(goes_on) && rw.used_once(out) {
        return Outcome::NoMatch;
    }
    let Some(extent) = rw.fact(out).shape[axis]
        .as_const()
        .and_then(|e| usize::try_from(e).ok())
    else {
        return Outcome::NoMatch;
    };
    let mut nodes = vec![];
    let mut base = out;
    // What lies at each position, the last write first.
    let mut written: std::collections::BTreeMap<i64, ValueId> = std::collections::BTreeMap::new();
    while let Some(w) = rw.producer_if(base, "ScatterElements").and_then(|m| write(rw, m, axis)) {
        if w.node != n && !rw.used_once(base) {
            break;
        }
        written.entry(w.at).or_insert(w.what);
        nodes.push(w.node);
        base = w.to;
    }
    if nodes.is_empty() {
        return Outcome::NoMatch;
    }
    rw.replace_one(&nodes, "written slices", |rw| {
        let mut parts = vec![];
        let mut at = 0;
        while at < extent as i64 {
            if let Some(v) = written.get(&at) {
                parts.push(*v);
                at += 1;
                continue;
            }
            let end = written.range(at..).next().map_or(extent as i64, |(k, _)| *k);
            let dims = |d: i64| Attr::Dims(vec![Dim::from(d)]);
            let attrs = [("axes", dims(axis as i64)), ("ends", dims(end)), ("starts", dims(at))];
            parts.push(rw.apply("Slice", &attrs, &[base])?);
            at = end;
        }
        rw.apply("Concat", &[("axis", Attr::Int(axis as i64))], &parts)
    })
}
