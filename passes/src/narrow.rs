//! Products compute only the rows and columns that are read.
//!
//! ```text
//! weight %1: f32[64,64]                                    %2 = Slice(%1) {axes=[1], starts=[0], ends=[16]} // recipe
//! %2 = MatMul(%0, %1) : f32[N,64]                     →    %3 = MatMul(%0, %2) : f32[N,16]
//! %3 = Slice(%2) {axes=[1], starts=[0], ends=[16]}
//! ```
//!
//! A cosine transform of which low frequencies are kept, a Fourier transform of a real signal, the only token that a
//! classifier looks at: all readers of a value together take some elements of one of its axes. What they take is moved
//! towards the producers, through whatever ties that axis to one of each operand (see [`ties`](crate::axes::ties)), until
//! it meets a weight, which becomes a recipe, or a value that others read whole. Nothing is computed twice: a node is made
//! again only when all that read it are. Without a product on the way nothing would be saved, and the slices stay where
//! they are.
//!
//! Refused: values that others read whole.

use std::rc::Rc;

use cameo_ir::op::{OpError, invalid, normalize_axis};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, DType, Dim, Graph, NodeId, Tensor, ValueId};
use rustc_hash::FxHashMap;

use crate::Pass;
use crate::axes::ties::ties;
use crate::axes::{Axis, Place, Tie};
use crate::fold_scales::reshaped;
use crate::pattern::reshape_attrs;

pub const PASS: Pass = Pass {
    name: "narrow",
    doc: "computes only those rows and columns of products that are read",
    run,
};

const DETAIL: &str = "only what is read";

/// What has as many multiplications as its result has elements, times something.
const PRODUCTS: &[&str] = &["MatMul", "Gemm", "Einsum", "Conv", "ConvTranspose", "Attention"];

/// What elements may be taken before instead of after where ties say so, besides pointwise operations. Those of an
/// Attention leave its mask out.
const THROUGH: &[&str] = &[
    "Concat",
    "Conv",
    "Einsum",
    "Gemm",
    "LayerNormalization",
    "MatMul",
    "RMSNormalization",
    "Reshape",
    "Slice",
    "Softmax",
    "Transpose",
];

const SELECTIONS: &[&str] = &["Gather", "Slice", "Split"];

/// Nodes that are made again for one choice: some layers. Longer ways would be walked once per slice.
const MAX_NODES: usize = 256;

/// Elements of an axis that are looked at one by one: the largest vocabularies have some 2¹⁸.
const MAX_EXTENT: i64 = 1 << 20;

fn run(rw: &mut Rewriter) {
    rw.fixpoint(|rw, n| match SELECTIONS.contains(&rw.node(n).op.name()) {
        true => narrow(rw, n),
        false => Outcome::NoMatch,
    });
}

/// The elements of an axis that are read.
#[derive(Clone, PartialEq, Eq)]
enum Choice {
    /// Ascending.
    These(Rc<[usize]>),
    /// One of an axis of any extent, as Gather names it.
    One(i64),
}

impl Choice {
    fn extent(&self) -> Dim {
        match self {
            Self::These(all) => Dim::from(all.len()),
            Self::One(_) => Dim::ONE,
        }
    }
}

/// A result of a reader, and which elements it takes.
struct Part {
    reader: NodeId,
    result: ValueId,
    places: Vec<usize>,
}

/// A node that is made again.
struct Again {
    node: NodeId,
    /// Of its result.
    axis: usize,
    choice: Choice,
    /// Operands, their axis and what of it is needed.
    operands: Vec<(usize, usize, Choice)>,
}

/// What is made again.
struct Region {
    /// Consumers first.
    nodes: Vec<Again>,
    /// Whether a product is among them.
    saves: bool,
    /// Why there is none.
    reason: Option<String>,
}

fn narrow(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let constants = rw.constants();
    let g = rw.graph();
    let Some(v) = rw.input(n, 0).filter(|v| !constants[v.0 as usize]) else {
        return Outcome::NoMatch;
    };
    // Once for all that read the value.
    let selects = |r: &NodeId| SELECTIONS.contains(&g.node(*r).op.name());
    if g.users(v).into_iter().find(selects) != Some(n) {
        return Outcome::NoMatch;
    }
    for axis in 0..g.fact(v).rank() {
        let Some((choice, parts)) = choice(g, &constants, v, axis) else {
            continue;
        };
        let region = grow(g, &constants, v, axis, &choice);
        let mut nodes: Vec<NodeId> = parts.iter().map(|p| p.reader).collect();
        nodes.extend(region.nodes.iter().map(|a| a.node));
        nodes.dedup();
        if !region.saves {
            match region.reason {
                Some(reason) => return rw.refuse(&nodes, DETAIL, reason),
                None => continue,
            }
        }
        let readers: Vec<NodeId> = parts.iter().map(|p| p.reader).collect();
        if g.is_output(v) || g.users(v).iter().any(|u| !readers.contains(u)) {
            return rw.refuse(&nodes, DETAIL, "others read all of what is sliced");
        }
        let old: Vec<ValueId> = parts.iter().map(|p| p.result).collect();
        return rw.replace_values(&old, &nodes, DETAIL, |rw| {
            let left = rebuilt(rw, v, &region)?;
            parts.iter().map(|p| again(rw, p, left, axis, &choice)).collect()
        });
    }
    Outcome::NoMatch
}

/// What the selections among the readers of `v` take of `axis` together, if that is not all of it.
fn choice(g: &Graph, constants: &[bool], v: ValueId, axis: usize) -> Option<(Choice, Vec<Part>)> {
    let extent = g.fact(v).shape[axis].as_const();
    let mut parts = vec![];
    for reader in g.users(v) {
        parts.extend(taken(g, constants, v, axis, reader).into_iter().flatten());
    }
    let Some(extent) = extent.filter(|e| *e <= MAX_EXTENT) else {
        // The only reader takes one element.
        let [part] = &parts[..] else { return None };
        let index = gathered(g, part.reader, axis)?;
        return match index[..] {
            [i] if extent.is_none() => Some((Choice::One(i), parts)),
            _ => None,
        };
    };
    let mut read = vec![false; usize::try_from(extent).ok()?];
    for i in parts.iter().flat_map(|p| &p.places) {
        *read.get_mut(*i)? = true;
    }
    let all: Rc<[usize]> = (0..read.len()).filter(|i| read[*i]).collect();
    (!all.is_empty() && all.len() < read.len()).then_some((Choice::These(all), parts))
}

/// The constant indices of a Gather along `axis`.
fn gathered(g: &Graph, n: NodeId, axis: usize) -> Option<Vec<i64>> {
    let node = g.node(n);
    let rank = g.fact(node.inputs[0]?).rank();
    let given = match node.attrs.get("axis") {
        Some(Attr::Int(a)) => *a,
        _ => 0,
    };
    if node.op != "Gather" || normalize_axis(given, rank) != Ok(axis) {
        return None;
    }
    let indices = g.constant(node.inputs.get(1).copied()??)?;
    (indices.len() as i64 <= MAX_EXTENT).then(|| indices.to_i64())
}

/// What `reader` takes of `axis` of `v`, by results that are needed; `None` when it is no selection along this axis.
fn taken(g: &Graph, constants: &[bool], v: ValueId, axis: usize, reader: NodeId) -> Option<Vec<Part>> {
    let node = g.node(reader);
    if !SELECTIONS.contains(&node.op.name()) || node.inputs[0] != Some(v) || node.inputs[1..].contains(&Some(v)) {
        return None;
    }
    let part = |result, places| Part { reader, result, places };
    if node.op == "Gather" {
        let indices = gathered(g, reader, axis)?;
        let extent = g.fact(v).shape[axis].as_const();
        let places = indices.iter().map(|i| match extent {
            Some(e) => usize::try_from(if *i < 0 { i + e } else { *i }).ok(),
            None => Some(0),
        });
        return Some(vec![part(node.outputs[0], places.collect::<Option<_>>()?)]);
    }
    let of = Axis::of(v, axis);
    let mut out = vec![];
    for t in ties(g, constants, reader) {
        let Tie::Part {
            whole,
            part: to,
            start,
            step,
            len,
        } = t
        else {
            continue;
        };
        let Place::Value(result) = to.place else { continue };
        if whole != of || (g.user_count(result) == 0 && !g.is_output(result)) {
            continue;
        }
        let places = (0..len).map(|i| usize::try_from(start as i64 + step * i as i64).ok());
        out.push(part(result, places.collect::<Option<_>>()?));
    }
    (!out.is_empty()).then_some(out)
}

/// Everything behind `v` of which only elements along one axis are needed when only those of `axis` of `v` are.
fn grow(g: &Graph, constants: &[bool], v: ValueId, axis: usize, choice: &Choice) -> Region {
    let mut region = Region {
        nodes: vec![],
        saves: false,
        reason: None,
    };
    // How often elements of a value are asked for; when they are not the same ones, none are.
    let mut asked: FxHashMap<ValueId, (Option<(usize, Choice)>, usize)> = FxHashMap::default();
    let mut work = vec![(v, axis, choice.clone())];
    while let Some((v, axis, choice)) = work.pop() {
        let Some((n, _)) = g.producer(v) else { continue };
        let Some(operands) = needed(g, constants, n, axis, &choice).filter(|_| region.nodes.len() < MAX_NODES) else {
            continue;
        };
        asked.remove(&v);
        region.saves |= PRODUCTS.contains(&g.node(n).op.name());
        for (slot, axis, choice) in &operands {
            let Some(u) = g.node(n).inputs[*slot].filter(|u| !constants[u.0 as usize]) else {
                continue;
            };
            let this = (*axis, choice.clone());
            let (same, count) = asked.entry(u).or_insert((Some(this.clone()), 0));
            *count += 1;
            if *same != Some(this) {
                *same = None;
            }
            if *count == g.user_count(u) && !g.is_output(u) {
                work.extend(same.clone().map(|(a, c)| (u, a, c)));
            }
        }
        region.nodes.push(Again {
            node: n,
            axis,
            choice,
            operands,
        });
    }
    let mut stopped: Vec<ValueId> = asked.into_keys().collect();
    stopped.sort_unstable();
    region.reason = stopped.into_iter().find_map(|u| {
        let op = g.node(g.producer(u)?.0).op.name();
        let shared = PRODUCTS.contains(&op) && (g.is_output(u) || g.user_count(u) > 1);
        shared.then(|| format!("the result of {op} is also read by others"))
    });
    region
}

/// What of which operands is needed for `choice` of `axis` of the result.
fn needed(
    g: &Graph,
    constants: &[bool],
    n: NodeId,
    axis: usize,
    choice: &Choice,
) -> Option<Vec<(usize, usize, Choice)>> {
    if let Some(all) = operands(g, constants, n, axis) {
        return Some(all.into_iter().map(|(slot, a)| (slot, a, choice.clone())).collect());
    }
    let node = g.node(n);
    let places = match choice {
        Choice::These(all) => &all[..],
        // Through operations to which the extent makes no difference.
        Choice::One(_) if node.op == "Attention" => &[],
        Choice::One(_) => return None,
    };
    match node.op.name() {
        "Attention" => {
            let all = queries(g, n, axis)?;
            Some(all.into_iter().map(|(slot, a)| (slot, a, choice.clone())).collect())
        }
        "Reshape" => reshaped_from(g, constants, n, axis, places).map(|(a, c)| vec![(0, a, c)]),
        "Conv" if axis == 1 => {
            let mut out = vec![(1, 0, choice.clone())];
            out.extend(node.inputs.get(2).copied().flatten().map(|_| (2, 0, choice.clone())));
            let (groups, left) = groups(g, n, places)?;
            if left.len() < groups {
                let channels = usize::try_from(g.fact(node.inputs[0]?).shape[1].as_const()?).ok()? / groups;
                let own = left.iter().flat_map(|k| k * channels..(k + 1) * channels).collect();
                out.push((0, 1, Choice::These(own)));
            }
            Some(out)
        }
        "ConvTranspose" if axis == 1 && !matches!(node.attrs.get("group"), Some(Attr::Int(k)) if *k != 1) => {
            let mut out = vec![(1, 1, choice.clone())];
            out.extend(node.inputs.get(2).copied().flatten().map(|_| (2, 0, choice.clone())));
            Some(out)
        }
        _ => None,
    }
}

/// The queries, and their rows of the mask, of an attention in which positions decide nothing.
fn queries(g: &Graph, n: NodeId, axis: usize) -> Option<Vec<(usize, usize)>> {
    let node = g.node(n);
    let (&[y], Some(q)) = (&node.outputs[..], node.inputs[0]) else {
        return None;
    };
    let says = |name: &str, nothing: i64| matches!(node.attrs.get(name), Some(Attr::Int(i)) if *i != nothing);
    let windows = says("left_window_size", -1) || says("right_window_size", -1);
    // Past keys come before the queries, lengths cut the new ones off.
    let more = node.inputs.iter().skip(4).any(Option::is_some);
    if windows || says("is_causal", 0) || more || axis + 2 != g.fact(y).rank() {
        return None;
    }
    let mut out = vec![(0, axis)];
    if let Some(mask) = node.inputs.get(3).copied().flatten() {
        let shape = &g.fact(mask).shape;
        match shape.len().checked_sub(2).map(|a| (a, &shape[a])) {
            Some((a, rows)) if *rows == g.fact(q).shape[axis] => out.push((3, a)),
            Some((_, rows)) if !rows.is_one() => return None,
            _ => {}
        }
    }
    Some(out)
}

/// How many groups a convolution has, and those that are left of it with channels `places`: equally many of each.
fn groups(g: &Graph, n: NodeId, places: &[usize]) -> Option<(usize, Vec<usize>)> {
    let node = g.node(n);
    let groups = match node.attrs.get("group") {
        Some(Attr::Int(k)) => usize::try_from(*k).ok()?,
        _ => 1,
    };
    let channels = usize::try_from(g.fact(node.outputs[0]).shape[1].as_const()?).ok()?;
    let per = channels.checked_div(groups)?;
    let mut left: Vec<(usize, usize)> = vec![];
    for p in places {
        match left.last_mut() {
            Some((k, count)) if *k == p / per => *count += 1,
            _ => left.push((p / per, 1)),
        }
    }
    let even = left.iter().all(|(_, count)| *count == left[0].1);
    even.then(|| (groups, left.into_iter().map(|(k, _)| k).collect()))
}

/// The axis of the operand of a Reshape, and which elements of it, that are `places` of `axis` of the result.
fn reshaped_from(g: &Graph, constants: &[bool], n: NodeId, axis: usize, places: &[usize]) -> Option<(usize, Choice)> {
    let result = Axis::of(g.node(n).outputs[0], axis);
    let (from, to) = ties(g, constants, n).into_iter().find_map(|t| match t {
        Tie::Product(from, to) if to.iter().any(|(a, _)| *a == Some(result)) => Some((from, to)),
        _ => None,
    })?;
    let extents = |side: &[(Option<Axis>, Dim)]| -> Option<Vec<usize>> {
        let one = |(_, d): &(_, Dim)| usize::try_from(d.as_const()?).ok();
        side.iter().map(one).collect()
    };
    let (was, is) = (extents(&from)?, extents(&to)?);
    let total: usize = is.iter().product();
    if total as i64 > MAX_EXTENT || was.iter().product::<usize>() != total {
        return None;
    }
    // Row-major: an index along axis `i` of a side is the number of the element divided by what comes after.
    let digit = |side: &[usize], i: usize, e: usize| e / side[i + 1..].iter().product::<usize>() % side[i];
    let at = to.iter().position(|(a, _)| *a == Some(result))?;
    let mut read = vec![false; is[at]];
    for p in places {
        *read.get_mut(*p)? = true;
    }
    let left: Vec<usize> = (0..total).filter(|e| read[digit(&is, at, *e)]).collect();
    (0..was.len()).find_map(|i| {
        let mut some = vec![false; was[i]];
        left.iter().for_each(|e| some[digit(&was, i, *e)] = true);
        let kept: Rc<[usize]> = (0..was[i]).filter(|d| some[*d]).collect();
        // All elements at these places, and no others.
        let alone = kept.len() < was[i] && kept.len() * (total / was[i]) == left.len();
        alone.then_some((from[i].0?.axis, Choice::These(kept)))
    })
}

/// The operands that have an axis which is `axis` of the result, element by element, with that axis; `None` when the
/// result is not that of as many elements of them.
pub(crate) fn operands(g: &Graph, constants: &[bool], n: NodeId, axis: usize) -> Option<Vec<(usize, usize)>> {
    let node = g.node(n);
    let &[y] = &node.outputs[..] else { return None };
    let op = node.op.name();
    if !node.op.schema().pointwise && !THROUGH.contains(&op) {
        return None;
    }
    let result = Axis::of(y, axis);
    let all = ties(g, constants, n);
    let mut same: Vec<Axis> = vec![];
    for t in &all {
        match t {
            Tie::Equal(a, b) if *a == result => same.push(*b),
            Tie::Equal(a, b) if *b == result => same.push(*a),
            _ => {}
        }
    }
    let ends = |t: &Tie, axis: &Axis| match t {
        Tie::Equal(..) => false,
        Tie::Summed(a, b) => a == axis || b == axis,
        Tie::Product(a, b) => a.iter().chain(b).any(|(a, _)| a.as_ref() == Some(axis)),
        Tie::Part { whole, part, .. } => whole == axis || part == axis,
        Tie::Reduced(a, _) | Tie::Whole(a, _) => a == axis,
    };
    if all.iter().any(|t| ends(t, &result) || same.iter().any(|a| ends(t, a))) {
        return None;
    }
    let mut out = vec![];
    for a in &same {
        match a.place {
            Place::Weight(_, slot) => out.push((slot, a.axis)),
            Place::Inner(_) => return None,
            Place::Value(u) => {
                // An operand that is there twice is meant twice.
                let slots: Vec<usize> = (0..node.inputs.len()).filter(|s| node.inputs[*s] == Some(u)).collect();
                if same.iter().filter(|b| *b == a).count() != slots.len() {
                    return None;
                }
                out.extend(slots.into_iter().map(|s| (s, a.axis)));
            }
        }
    }
    out.sort_unstable();
    out.dedup();
    // No diagonals.
    let once = out.windows(2).all(|w| w[0].0 != w[1].0);
    (once && !out.is_empty()).then_some(out)
}

/// What is left of `v`.
fn rebuilt(rw: &mut Rewriter, v: ValueId, region: &Region) -> Result<ValueId, OpError> {
    let mut left: FxHashMap<ValueId, ValueId> = FxHashMap::default();
    for again in region.nodes.iter().rev() {
        let node = rw.node(again.node);
        let (op, mut attrs, mut inputs) = (node.op, node.attrs.clone(), node.inputs.clone());
        let (origin, y) = (node.origin.clone(), node.outputs[0]);
        if op == "Conv"
            && let Choice::These(places) = &again.choice
            && again.axis == 1
            && attrs.contains_key("group")
            && let Some((_, left)) = groups(rw.graph(), again.node, places)
        {
            attrs.insert("group".into(), Attr::Int(left.len() as i64));
        }
        if op == "Reshape" {
            let mut shape = rw.fact(y).shape.clone();
            shape[again.axis] = again.choice.extent();
            for (name, value) in reshape_attrs(&shape) {
                attrs.insert(name.into(), value);
            }
            inputs.truncate(1);
        }
        // An operand that is there twice is taken once.
        let mut cut: Vec<(ValueId, usize, ValueId)> = vec![];
        for (slot, axis, choice) in &again.operands {
            let Some(u) = inputs[*slot] else { continue };
            let made = cut
                .iter()
                .find(|(v, a, _)| *v == u && a == axis)
                .map(|(.., made)| *made);
            let made = match left.get(&u).copied().or(made) {
                Some(v) => v,
                None => rw.with_origin(origin.clone(), |rw| pick(rw, u, *axis, choice))?,
            };
            cut.push((u, *axis, made));
            inputs[*slot] = Some(made);
        }
        let made = rw.with_origin(origin, |rw| rw.add_node(op, attrs, inputs, 1))?[0];
        left.insert(y, made);
    }
    left.get(&v)
        .copied()
        .map_or_else(|| invalid("nothing was made again"), Ok)
}

/// The elements of `axis` of `v` that are read.
fn pick(rw: &mut Rewriter, v: ValueId, axis: usize, choice: &Choice) -> Result<ValueId, OpError> {
    match choice {
        Choice::These(all) => {
            let extent = rw.fact(v).shape[axis].clone();
            picked(rw, v, axis, &extent, all)
        }
        Choice::One(i) => gather(rw, v, axis, &[*i]),
    }
}

/// The elements `places` of `axis` of `v`, which has `extent` of them: a Slice where they lie at equal distances.
fn picked(rw: &mut Rewriter, v: ValueId, axis: usize, extent: &Dim, places: &[usize]) -> Result<ValueId, OpError> {
    let places: Vec<i64> = places.iter().map(|i| *i as i64).collect();
    let (Some(first), Some(last)) = (places.first(), places.last()) else {
        return invalid("nothing is taken");
    };
    let stride = places.get(1).map_or(1, |p| p - first);
    if stride == 0 || places.windows(2).any(|w| w[1] - w[0] != stride) {
        return gather(rw, v, axis, &places);
    }
    if stride == 1 && *extent == Dim::from(places.len()) {
        return Ok(v);
    }
    let end = last + stride.signum();
    // Before the first element: a negative end counts from the back, and stops there when it is too large.
    let end = match extent.as_const() {
        Some(e) if end < 0 => -e - 1,
        _ => end,
    };
    let list = |i: i64| Attr::Dims(vec![Dim::from(i)]);
    let mut attrs = vec![
        ("axes", list(axis as i64)),
        ("starts", list(*first)),
        ("ends", list(end)),
    ];
    if stride != 1 {
        attrs.push(("steps", list(stride)));
    }
    rw.apply("Slice", &attrs, &[v])
}

fn gather(rw: &mut Rewriter, v: ValueId, axis: usize, indices: &[i64]) -> Result<ValueId, OpError> {
    let indices = Tensor::from_i64(DType::I64, &[indices.len()], indices.iter().copied());
    let indices = rw.add_weight("", indices);
    rw.apply("Gather", &[("axis", Attr::Int(axis as i64))], &[v, indices])
}

/// The result of a reader of what is left.
fn again(rw: &mut Rewriter, part: &Part, left: ValueId, axis: usize, choice: &Choice) -> Result<ValueId, OpError> {
    let origin = rw.node(part.reader).origin.clone();
    let shape = rw.fact(part.result).shape.clone();
    rw.with_origin(origin, |rw| {
        let own = match choice {
            Choice::One(_) => left,
            Choice::These(all) => {
                let at = |i: &usize| all.binary_search(i).ok();
                let Some(places) = part.places.iter().map(at).collect::<Option<Vec<_>>>() else {
                    return invalid("an element is not there");
                };
                let extent = rw.fact(left).shape[axis].clone();
                picked(rw, left, axis, &extent, &places)?
            }
        };
        match rw.node(part.reader).op.name() {
            "Slice" => other_axes(rw, part.reader, own, axis),
            "Gather" => reshaped(rw, own, &shape),
            _ => Ok(own),
        }
    })
}

/// The slice `n` of all axes but `axis`, which has been done.
fn other_axes(rw: &mut Rewriter, n: NodeId, v: ValueId, axis: usize) -> Result<ValueId, OpError> {
    let rank = rw.fact(v).rank();
    let lists = rw.graph().with_cx(n, |cx| {
        let starts = cx.dims(1)?.unwrap_or_default();
        let counted = (0..starts.len()).map(Dim::from).collect();
        let ones = vec![Dim::ONE; starts.len()];
        let (ends, axes) = (cx.dims(2)?.unwrap_or_default(), cx.dims(3)?.unwrap_or(counted));
        Ok::<_, OpError>([starts, ends, axes, cx.dims(4)?.unwrap_or(ones)])
    })?;
    let others: Vec<usize> = (0..lists[2].len())
        .filter(|i| lists[2][*i].as_const().and_then(|a| normalize_axis(a, rank).ok()) != Some(axis))
        .collect();
    if others.is_empty() {
        return Ok(v);
    }
    let attrs = ["starts", "ends", "axes", "steps"].into_iter().zip(lists);
    let attrs: Vec<(&str, Attr)> = attrs
        .map(|(name, list)| (name, Attr::Dims(others.iter().map(|i| list[*i].clone()).collect())))
        .collect();
    rw.apply("Slice", &attrs, &[v])
}

#[cfg(test)]
mod tests {
    use super::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn low_frequencies_of_a_cosine_transform() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,8]) symbols N=1.. {
              weight %1: f32[8,8] = random
              weight %2: f32[8] = random
              %3 = MatMul(%0, %1) from "dct"
              %4 = Add(%3, %2) from "bias"
              %5 = Abs(%4) from "abs"
              %6 = Slice(%5) {axes=dims[1], starts=dims[0], ends=dims[3]} from "low"
              return %6 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,8]) symbols N=1.. {
          weight %1: f32[8,8] = dense(…)
          weight %2: f32[8] = dense(…)
          %3 = Slice(%1) {axes=dims[1], ends=dims[3], starts=dims[0]} : f32[8,3] from "dct"
          %4 = MatMul(%0, %3) : f32[N,3] from "dct"
          %5 = Slice(%2) {axes=dims[0], ends=dims[3], starts=dims[0]} : f32[3] from "bias"
          %6 = Add(%4, %5) : f32[N,3] from "bias"
          %7 = Abs(%6) : f32[N,3] from "abs"
          return %7 "y"
        }
        "#);
    }

    #[test]
    fn both_axes_of_a_transform_of_blocks() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,8,8]) symbols N=1.. {
              weight %1: f32[8,8] = random
              weight %2: f32[8,8] = random
              %3 = MatMul(%1, %0)
              %4 = MatMul(%3, %2)
              %5 = Slice(%4) {axes=dims[1,2], starts=dims[0,1], ends=dims[4,8], steps=dims[1,2]}
              return %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,8,8]) symbols N=1.. {
          weight %1: f32[8,8] = dense(…)
          weight %2: f32[8,8] = dense(…)
          %3 = Slice(%1) {axes=dims[0], ends=dims[4], starts=dims[0]} : f32[4,8]
          %4 = MatMul(%3, %0) : f32[N,4,8]
          %5 = Slice(%2) {axes=dims[1], ends=dims[8], starts=dims[1], steps=dims[2]} : f32[8,4]
          %6 = MatMul(%4, %5) : f32[N,4,4]
          return %6 "y"
        }
        "#);
    }

    #[test]
    fn the_token_that_a_classifier_reads() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,S,4]) symbols N=1.., S=1.. {
              weight %1: f32[4,6] = random
              weight %2: f32[6,4] = random
              weight %3: f32[4] = random
              weight %4: i64[] = dense(0)
              %5 = Abs(%0)
              %6 = MatMul(%5, %1)
              %7 = Gelu(%6)
              %8 = MatMul(%7, %2)
              %9 = Add(%8, %5)
              %10 = LayerNormalization(%9, %3)
              %11 = Gather(%10, %4) {axis=1}
              return %11 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,S,4]) symbols N=1.., S=1.. {
          weight %1: i64[1] = dense(0)
          weight %2: f32[4,6] = dense(…)
          weight %3: f32[6,4] = dense(…)
          weight %4: f32[4] = dense(-1.25,-0.25,1.0,0.5)
          weight %5: i64[] = dense(0)
          %6 = Gather(%0, %1) {axis=1} : f32[N,1,4]
          %7 = Abs(%6) : f32[N,1,4]
          %8 = MatMul(%7, %2) : f32[N,1,6]
          %9 = Gelu(%8) : f32[N,1,6]
          %10 = MatMul(%9, %3) : f32[N,1,4]
          %11 = Add(%10, %7) : f32[N,1,4]
          %12 = LayerNormalization(%11, %4) : f32[N,1,4]
          %13 = Reshape(%12) {shape=dims[N,4]} : f32[N,4]
          return %13 "y"
        }
        "#);
    }

    #[test]
    fn the_queries_of_an_attention() {
        let source = |attrs: &str| {
            format!(
                r#"graph @g (%0 "x": f32[N,S,4], %1 "m": f32[S,S]) symbols N=1.., S=1.. {{
                  weight %2: f32[4,4] = random
                  weight %3: f32[4,4] = random
                  weight %4: i64[1] = dense(-1)
                  %5 = MatMul(%0, %2)
                  %6 = Attention(%5, %0, %0, %1) {{q_num_heads=2, kv_num_heads=2{attrs}}}
                  %7 = Einsum(%6, %3) {{equation="nsi,io->nso"}}
                  %8 = Gather(%7, %4) {{axis=1}}
                  return %8 "y"
                }}"#
            )
        };
        insta::assert_snapshot!(rewrite(&PASS, &source("")), @r#"
        graph @g (%0 "x": f32[N,S,4], %1 "m": f32[S,S]) symbols N=1.., S=1.. {
          weight %2: i64[1] = dense(-1)
          weight %3: f32[4,4] = dense(…)
          weight %4: i64[1] = dense(-1)
          weight %5: f32[4,4] = dense(…)
          weight %6: i64[1] = dense(-1)
          %7 = Gather(%0, %2) {axis=1} : f32[N,1,4]
          %8 = MatMul(%7, %3) : f32[N,1,4]
          %9 = Gather(%1, %4) {axis=0} : f32[1,S]
          %10 = Attention(%8, %0, %0, %9) {kv_num_heads=2, q_num_heads=2} : f32[N,1,4]
          %11 = Einsum(%10, %5) {equation="nsi,io->nso"} : f32[N,1,4]
          return %11 "y"
        }
        "#);
        // Which key is the last that a query sees depends on its position.
        let causal = rewrite(&PASS, &source(", is_causal=1"));
        assert!(causal.contains("Attention(%6, %0, %0, %1)"), "{causal}");
    }

    #[test]
    fn results_of_a_split_that_nobody_reads() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,5]) symbols N=1.. {
              weight %1: f32[6,2,3] = random
              weight %2: f32[6] = random
              weight %3: f32[6,1,3] = random
              %4 = Conv(%0, %1, %2) {pads=[1,1]}
              %5 = Conv(%4, %3) {group=6}
              %6, %7, %8 = Split(%5) {axis=1, num_outputs=3}
              %9 = Exp(%8)
              return %6 "y", %9 "z"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,5]) symbols N=1.. {
          weight %1: f32[6,2,3] = dense(…)
          weight %2: i64[4] = dense(0,1,4,5)
          weight %3: f32[6] = dense(…)
          weight %4: i64[4] = dense(0,1,4,5)
          weight %5: f32[6,1,3] = dense(…)
          weight %6: i64[4] = dense(0,1,4,5)
          %7 = Gather(%1, %2) {axis=0} : f32[4,2,3]
          %8 = Gather(%3, %4) {axis=0} : f32[4]
          %9 = Conv(%0, %7, %8) {pads=[1,1]} : f32[N,4,5]
          %10 = Gather(%5, %6) {axis=0} : f32[4,1,3]
          %11 = Conv(%9, %10) {group=4} : f32[N,4,3]
          %12 = Slice(%11) {axes=dims[1], ends=dims[2], starts=dims[0]} : f32[N,2,3]
          %13 = Slice(%11) {axes=dims[1], ends=dims[4], starts=dims[2]} : f32[N,2,3]
          %14 = Exp(%13) : f32[N,2,3]
          return %12 "y", %14 "z"
        }
        "#);
    }

    #[test]
    fn several_readers_and_indices_in_any_order() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,3]) symbols N=1.. {
              weight %1: f32[8,3] = random
              weight %2: f32[8] = random
              weight %3: i64[2,2] = dense(5, 1, -3, 6)
              %4 = Gemm(%0, %1, %2) {transB=1}
              %5 = Gather(%4, %3) {axis=1}
              %6 = Slice(%4) {axes=dims[-1], starts=dims[2], ends=dims[-9], steps=dims[-1]}
              return %5 "y", %6 "z"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,3]) symbols N=1.. {
          weight %1: f32[8,3] = dense(…)
          weight %2: i64[5] = dense(…)
          weight %3: f32[8] = dense(…)
          weight %4: i64[5] = dense(…)
          weight %5: i64[4] = dense(3,1,3,4)
          weight %6: i64[2,2] = dense(5,1,-3,6)
          %7 = Gather(%1, %2) {axis=0} : f32[5,3]
          %8 = Gather(%3, %4) {axis=0} : f32[5]
          %9 = Gemm(%0, %7, %8) {transB=1} : f32[N,5]
          %10 = Gather(%9, %5) {axis=1} : f32[N,4]
          %11 = Reshape(%10) {shape=dims[N,2,2]} : f32[N,2,2]
          %12 = Slice(%9) {axes=dims[1], ends=dims[-6], starts=dims[2], steps=dims[-1]} : f32[N,3]
          return %11 "y", %12 "z"
        }
        "#);
    }

    #[test]
    fn the_low_band_of_a_wavelet_transform() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,3,4]) symbols N=1.. {
              weight %1: f32[6,1,2] = random
              weight %2: f32[6] = random
              %3 = Conv(%0, %1, %2) {group=3, strides=[2]}
              %4 = Reshape(%3) {shape=dims[N,3,2,2]}
              %5 = Slice(%4) {axes=dims[2], starts=dims[0], ends=dims[1]}
              return %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,3,4]) symbols N=1.. {
          weight %1: f32[6,1,2] = dense(…)
          weight %2: f32[6] = dense(…)
          %3 = Slice(%1) {axes=dims[0], ends=dims[5], starts=dims[0], steps=dims[2]} : f32[3,1,2]
          %4 = Slice(%2) {axes=dims[0], ends=dims[5], starts=dims[0], steps=dims[2]} : f32[3]
          %5 = Conv(%0, %3, %4) {group=3, strides=[2]} : f32[N,3,2]
          %6 = Reshape(%5) {shape=dims[N,3,1,2]} : f32[N,3,1,2]
          return %6 "y"
        }
        "#);
    }

    #[test]
    fn heads_and_groups_that_nobody_reads() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,3,4], %1 "z": f32[N,2,4]) symbols N=1.. {
              weight %2: f32[6,1,2] = random
              weight %3: f32[4,6] = random
              weight %4: f32[4,6] = random
              weight %5: i64[4] = dense(0, 1, 4, 5)
              weight %6: f32[2,3,2] = random
              %7 = MatMul(%0, %4)
              %8 = Reshape(%7) {shape=dims[N,3,2,3]}
              %9 = Slice(%8) {axes=dims[2], starts=dims[1], ends=dims[2]}
              %10 = Abs(%0)
              %11 = Conv(%10, %2) {group=3, strides=[2]}
              %12 = Gather(%11, %5) {axis=1}
              %13 = MatMul(%1, %3)
              %14 = Reshape(%13) {shape=dims[N,12]}
              %15 = Slice(%14) {axes=dims[1], starts=dims[6], ends=dims[12]}
              %16 = ConvTranspose(%1, %6) {strides=[2]}
              %17 = Slice(%16) {axes=dims[1], starts=dims[0], ends=dims[2]}
              return %9 "a", %12 "b", %15 "c", %17 "d"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,3,4], %1 "z": f32[N,2,4]) symbols N=1.. {
          weight %2: f32[4,6] = dense(…)
          weight %3: f32[6,1,2] = dense(…)
          weight %4: i64[4] = dense(0,1,4,5)
          weight %5: f32[4,6] = dense(…)
          weight %6: f32[2,3,2] = dense(…)
          weight %7: i64[4] = dense(0,1,4,5)
          %8 = Slice(%2) {axes=dims[1], ends=dims[6], starts=dims[3]} : f32[4,3]
          %9 = MatMul(%0, %8) : f32[N,3,3]
          %10 = Reshape(%9) {shape=dims[N,3,1,3]} : f32[N,3,1,3]
          %11 = Slice(%0) {axes=dims[1], ends=dims[3], starts=dims[0], steps=dims[2]} : f32[N,2,4]
          %12 = Abs(%11) : f32[N,2,4]
          %13 = Gather(%3, %4) {axis=0} : f32[4,1,2]
          %14 = Conv(%12, %13) {group=2, strides=[2]} : f32[N,4,2]
          %15 = Slice(%1) {axes=dims[1], ends=dims[2], starts=dims[1]} : f32[N,1,4]
          %16 = MatMul(%15, %5) : f32[N,1,6]
          %17 = Reshape(%16) {shape=dims[N,6]} : f32[N,6]
          %18 = Slice(%6) {axes=dims[1], ends=dims[2], starts=dims[0]} : f32[2,2,2]
          %19 = ConvTranspose(%1, %18) {strides=[2]} : f32[N,2,8]
          return %10 "a", %14 "b", %17 "c", %19 "d"
        }
        "#);
    }

    #[test]
    fn refuses_what_others_read() {
        let one = |returned: &str| {
            refused(
                &PASS,
                &format!(
                    "graph @g (%0 \"x\": f32[N,4]) symbols N=1.. {{\nweight %1: f32[4,8] = random\n%2 = MatMul(%0, %1)\n%3 = \
                     Relu(%2)\n%4 = Slice(%3) {{axes=dims[1], starts=dims[0], ends=dims[3]}}\nreturn %4 \"y\", {returned} \
                     \"z\"\n}}"
                ),
            )
        };
        insta::assert_snapshot!(one("%3"), @"only what is read: others read all of what is sliced");
        insta::assert_snapshot!(one("%2"), @"only what is read: the result of MatMul is also read by others");
    }

    #[test]
    fn where_nothing_is_saved_slices_stay() {
        let one = |made: &str, slice: &str| {
            refused(
                &PASS,
                &format!(
                    "graph @g (%0 \"x\": f32[N,4,4]) symbols N=1.. {{\nweight %1: f32[4,6] = random\n{made}\n%3 = \
                     {slice}\nreturn %3 \"y\"\n}}"
                ),
            )
        };
        let columns = "Slice(%2) {axes=dims[2], starts=dims[0], ends=dims[3]}";
        // No product, mixed elements, all of it.
        assert_eq!(one("%2 = Relu(%0)", columns), "");
        assert_eq!(one("%4 = MatMul(%0, %1)\n%2 = Softmax(%4)", columns), "");
        assert_eq!(
            one(
                "%4 = MatMul(%0, %1)\n%2 = Reshape(%4) {shape=dims[N,8,3]}",
                "Slice(%2) {axes=dims[1], starts=dims[0], ends=dims[3]}"
            ),
            ""
        );
        assert_eq!(
            one(
                "%2 = MatMul(%0, %1)",
                "Slice(%2) {axes=dims[2], starts=dims[5], ends=dims[-7], steps=dims[-1]}"
            ),
            ""
        );
        // Unequal parts of groups.
        let groups = "weight %5: f32[4,2,1] = random\n%2 = Conv(%0, %5) {group=2}";
        assert_eq!(
            one(groups, "Slice(%2) {axes=dims[1], starts=dims[0], ends=dims[3]}"),
            ""
        );
        // A diagonal.
        let diagonal = "Slice(%2) {axes=dims[1], starts=dims[0], ends=dims[3]}";
        assert_eq!(
            one("%4 = Abs(%0)\n%2 = Einsum(%4) {equation=\"nii->ni\"}", diagonal),
            ""
        );
        // Rows and columns of one value.
        assert_eq!(
            one(
                "%4 = Slice(%0) {axes=dims[0], starts=dims[0], ends=dims[1]}\n%5 = Abs(%4)\n%2 = MatMul(%5, %5)",
                columns
            ),
            ""
        );
    }

    #[test]
    fn no_element_of_an_axis_of_any_extent() {
        let text = r#"graph @g (%0 "x": f32[N,4]) symbols N=1.. {
          weight %1: f32[4,4] = random
          weight %2: i64[0] = dense()
          %3 = MatMul(%0, %1)
          %4 = Gather(%3, %2) {axis=0}
          return %4 "y"
        }"#;
        assert_eq!(refused(&PASS, text), "");
    }
}
