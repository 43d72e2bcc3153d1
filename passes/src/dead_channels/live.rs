//! Where zeros are: elements of axes at which a tensor is known to have nothing but zeros, from weights forward.

use std::collections::BTreeMap;

use cameo_ir::op::Arg;
use cameo_ir::{DType, Graph, NodeId, Sym, Tensor, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::axes::cut::Net;
use crate::axes::sets::{Factor, Set};
use crate::axes::{Axis, Place, Tie, ties};
use crate::pattern::{is_movement, splat};

/// Elements of a long axis that are looked at before all are: reading a number of each row of all weights would be felt at
/// compile time. Of axes that lose an eighth of their elements one in seventy is missed.
const PROBES: usize = 32;

/// Nodes with more operands say nothing: all ties are walked for each.
const OPERANDS: usize = 256;

/// Elements of an axis, in no order that the zeros of a network might have, but the same ones each time.
fn probes(extent: usize) -> impl Iterator<Item = usize> {
    // A multiplicative congruential generator: numbers modulo a prime, times a primitive root.
    let numbers = std::iter::successors(Some(48_271u64), |x| Some(x * 48_271 % 2_147_483_647));
    numbers.map(move |x| (x % extent as u64) as usize).take(PROBES)
}

/// What is known of zeros. An axis that is not named may be nonzero everywhere.
#[derive(Default)]
pub struct Live {
    /// Elements that may be nonzero, of axes that have others.
    sets: FxHashMap<(ValueId, usize), Set>,
    /// Values that are zero everywhere.
    zero: FxHashSet<ValueId>,
}

impl Live {
    pub fn new(net: &mut Net) -> Self {
        let mut out = Self::default();
        let g = net.g;
        let shown = shown(g);
        for v in g.value_ids() {
            if let Some(t) = g.constant(v) {
                out.constant(v, t, shown.contains(&v));
            }
        }
        let blank = g.nodes().filter(|(_, n)| n.op == "ConstantOfShape");
        let blank: Vec<ValueId> = blank
            .map(|(_, n)| n.outputs[0])
            .filter(|v| splat(g, *v).is_some_and(|x| x.to_bits() == 0))
            .collect();
        out.zero.extend(blank);
        if out.sets.is_empty() && out.zero.is_empty() {
            return out;
        }
        for n in g.order() {
            let node = g.node(n);
            let any = node.inputs.iter().flatten().any(|v| out.knows(g, *v));
            if any && node.outputs.iter().all(|v| computes(g.fact(*v).dtype)) {
                let ties = net.ties(n);
                out.node(net, n, &ties);
            }
        }
        out
    }

    fn knows(&self, g: &Graph, v: ValueId) -> bool {
        self.zero.contains(&v) || (0..g.fact(v).rank()).any(|a| self.sets.contains_key(&(v, a)))
    }

    /// Whether no axis has zeros.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    pub fn is_zero(&self, v: ValueId) -> bool {
        self.zero.contains(&v)
    }

    /// The elements of an axis that may be nonzero; `None` is all.
    pub fn of(&self, g: &Graph, a: &Axis) -> Option<&Set> {
        self.sets.get(&(a.value(g)?, a.axis))
    }

    fn learn(&mut self, v: ValueId, axis: usize, set: Set) {
        if set.count() == 0 {
            self.zero.insert(v);
        } else if !set.is_full() {
            self.sets.insert((v, axis), set);
        }
    }

    /// Of what is `shown`, -0 is no zero.
    fn constant(&mut self, v: ValueId, t: &Tensor, shown: bool) {
        if !computes(t.dtype()) || t.is_empty() {
            return;
        }
        let size = t.dtype().size();
        let sign = if shown { 0xff } else { 0x7f };
        let zero = |bytes: &[u8]| {
            let mut numbers = bytes.chunks_exact(size);
            numbers.all(|c| c[size - 1] & sign == 0 && c[..size - 1].iter().all(|b| *b == 0))
        };
        if t.shape().iter().all(|e| *e == 1) {
            if zero(t.bytes()) {
                self.zero.insert(v);
            }
            return;
        }
        for (axis, extent) in t.shape().iter().enumerate().filter(|(_, e)| **e > 1) {
            let run = t.shape()[axis + 1..].iter().product::<usize>() * size;
            let blocks = t.bytes().len() / (run * extent);
            // Where weights are dense, the first number of each says so.
            let live = |i: usize| (0..blocks).any(|b| !zero(&t.bytes()[(b * extent + i) * run..][..run]));
            if *extent > PROBES && probes(*extent).all(live) {
                continue;
            }
            let kept: Vec<bool> = (0..*extent).map(live).collect();
            self.learn(v, axis, Set::new(kept));
        }
    }

    fn node(&mut self, net: &Net, n: NodeId, ties: &[Tie]) {
        let g = net.g;
        let node = g.node(n);
        if node.inputs.len() > OPERANDS {
            return;
        }
        let slots: Vec<usize> = (0..node.inputs.len()).filter(|s| node.inputs[*s].is_some()).collect();
        let given = |slot: usize| slots.contains(&slot);
        match node.op.name() {
            // Zero where any operand is.
            "Mul" | "MatMul" | "Einsum" | "RMSNormalization" => self.product(net, n, ties, &slots, None),
            "Gemm" | "Conv" => self.product(net, n, ties, &[0, 1], given(2).then_some(2)),
            // The largest of no elements is no zero.
            "ReduceMax" | "ReduceMin" | "GlobalMaxPool" if ties.iter().any(|t| ends_empty(g, t)) => {}
            // Only zeros go in.
            "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Transpose" | "Expand" | "Slice" | "Split" | "Tile"
            | "Gather" | "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceL1" | "ReduceL2"
            | "ReduceSumSquare" | "AveragePool" | "MaxPool" | "GlobalAveragePool" | "GlobalMaxPool" => {
                self.sum(net, n, ties, &[0]);
            }
            "Pad" => self.sum(net, n, ties, &[0, 2]),
            "Concat" => self.sum(net, n, ties, &slots),
            "Attention" if node.outputs.len() == 1 && !given(5) => self.sum(net, n, ties, &[2]),
            "LayerNormalization" if node.outputs.len() == 1 => {
                let affine: &[usize] = if given(2) { &[1, 2] } else { &[1] };
                self.sum(net, n, ties, affine);
            }
            "BatchNormalization" if node.outputs.len() == 1 => self.sum(net, n, ties, &[1, 2]),
            _ if node.op.schema().pointwise && node.outputs.len() == 1 => {
                let (numbers, tensors): (Vec<usize>, Vec<usize>) = slots
                    .iter()
                    .partition(|s| node.inputs[**s].is_some_and(|v| number(g, v).is_some()));
                if !tensors.is_empty() && keeps_zero(g, n, &numbers) {
                    self.sum(net, n, ties, &tensors);
                }
            }
            _ => {}
        }
    }

    /// Results are zero where any of `factors` is, but for what is added.
    fn product(&mut self, net: &Net, n: NodeId, ties: &[Tie], factors: &[usize], added: Option<usize>) {
        let g = net.g;
        let operand = |slot: usize| g.node(n).inputs.get(slot).copied().flatten();
        let infinite = |v: ValueId| splat(g, v).is_some_and(|x| !x.is_finite());
        if factors.iter().any(|s| operand(*s).is_some_and(infinite)) {
            return;
        }
        let nothing_meets = ties.iter().any(|t| match t {
            Tie::Summed(a, b) => match (self.of(g, a), self.of(g, b)) {
                (Some(a), Some(b)) => a.combined(b, true).is_some_and(|both| both.count() == 0),
                _ => false,
            },
            _ => false,
        });
        let zero = nothing_meets || factors.iter().any(|s| operand(*s).is_some_and(|v| self.is_zero(v)));
        let mut found: BTreeMap<Axis, Set> = BTreeMap::new();
        for slot in factors {
            for (axis, set) in self.carried(net, n, ties, *slot) {
                let both = match found.get(&axis) {
                    Some(other) => other.combined(&set, true),
                    None => Some(set),
                };
                found.extend(both.map(|s| (axis, s)));
            }
        }
        if let Some(slot) = added {
            if operand(slot).is_some_and(|v| self.is_zero(v)) {
                // Adds nothing.
            } else {
                let more = self.carried(net, n, ties, slot);
                if zero {
                    found = more;
                } else {
                    found = found
                        .into_iter()
                        .filter_map(|(a, s)| Some((a, s.combined(more.get(&a)?, false)?)))
                        .collect();
                }
                return self.learn_all(g, found);
            }
        }
        match zero {
            true => self.zero.extend(&g.node(n).outputs),
            false => self.learn_all(g, found),
        }
    }

    /// Results are zero where all of `slots` are.
    fn sum(&mut self, net: &Net, n: NodeId, ties: &[Tie], slots: &[usize]) {
        let g = net.g;
        let mut found: Option<BTreeMap<Axis, Set>> = None;
        for slot in slots {
            let Some(v) = g.node(n).inputs.get(*slot).copied().flatten() else {
                continue;
            };
            // Parts lie side by side: each says something of its own place only.
            if g.node(n).op == "Concat" || !self.is_zero(v) {
                let own = match self.is_zero(v) {
                    true => nothing(g, n, ties, v),
                    false => self.carried(net, n, ties, *slot),
                };
                found = Some(match found {
                    None => own,
                    Some(before) => before
                        .into_iter()
                        .filter_map(|(a, s)| Some((a, s.combined(own.get(&a)?, false)?)))
                        .collect(),
                });
            }
        }
        match found {
            None => self.zero.extend(&g.node(n).outputs),
            Some(found) => self.learn_all(g, found),
        }
    }

    fn learn_all(&mut self, g: &Graph, found: BTreeMap<Axis, Set>) {
        for (axis, set) in found {
            if let Some(v) = axis.value(g) {
                self.learn(v, axis.axis, set);
            }
        }
    }

    /// What operand `slot` alone says of the axes of the results. Of a part of an axis it says that the rest is zero.
    fn carried(&self, net: &Net, n: NodeId, ties: &[Tie], slot: usize) -> BTreeMap<Axis, Set> {
        let g = net.g;
        let Some(v) = g.node(n).inputs[slot] else {
            return BTreeMap::new();
        };
        let known: BTreeMap<Axis, Set> = (0..g.fact(v).rank())
            .filter_map(|a| Some((net.operand(n, slot, a)?, self.sets.get(&(v, a))?.clone())))
            .collect();
        let own = |a: &Axis| net.operand(n, slot, a.axis) == Some(*a);
        along(g, n, ties, known, &own, false)
    }
}

/// An operand that is zero everywhere: what that says of the axes that it is a part of.
fn nothing(g: &Graph, n: NodeId, ties: &[Tie], v: ValueId) -> BTreeMap<Axis, Set> {
    let own = |a: &Axis| a.value(g) == Some(v);
    along(g, n, ties, BTreeMap::new(), &own, true)
}

/// Follows ties from the axes of one operand (`own`) to those of the results. With `zero`, the operand is zero.
fn along(
    g: &Graph,
    n: NodeId,
    ties: &[Tie],
    mut known: BTreeMap<Axis, Set>,
    own: &dyn Fn(&Axis) -> bool,
    zero: bool,
) -> BTreeMap<Axis, Set> {
    let outputs = &g.node(n).outputs;
    let is_result = |a: &Axis| matches!(a.place, Place::Value(v) if outputs.contains(&v));
    let mut out: BTreeMap<Axis, Set> = BTreeMap::new();
    // Twice: through the heads of an attention.
    for _ in 0..2 {
        for t in ties {
            let mut found: Vec<(Axis, Set)> = vec![];
            match t {
                Tie::Equal(a, b) => {
                    found.extend(known.get(a).map(|s| (*b, s.clone())));
                    found.extend(known.get(b).map(|s| (*a, s.clone())));
                }
                Tie::Product(left, right) => {
                    for (from, to) in [(left, right), (right, left)] {
                        let factors: Vec<Factor> = from
                            .iter()
                            .map(|(a, d)| (d.clone(), a.and_then(|a| known.get(&a))))
                            .collect();
                        let extents: Vec<_> = to.iter().map(|(_, d)| d.clone()).collect();
                        if let Ok(Some(set)) = Set::merged(&factors)
                            && let Ok((parts, _)) = set.split(&extents)
                        {
                            found.extend(to.iter().zip(parts).filter_map(|((a, _), s)| Some(((*a)?, s?))));
                        }
                    }
                }
                Tie::Part {
                    whole,
                    part,
                    start,
                    step,
                    len,
                } => {
                    let at = |i: usize| usize::try_from(*start as i64 + step * i as i64).ok();
                    if own(whole) {
                        if let Some(w) = known.get(whole).and_then(|s| s.kept()) {
                            let kept = |i: usize| at(i).and_then(|i| w.get(i).copied()).unwrap_or(true);
                            found.push((*part, Set::new((0..*len).map(kept).collect::<Vec<_>>())));
                        }
                    } else if own(part) {
                        let extent = ties::extent(g, whole).and_then(|d| d.as_const());
                        let p = known.get(part).map(|s| s.kept());
                        if let (Some(extent), None | Some(Some(_))) = (extent.and_then(|e| usize::try_from(e).ok()), &p)
                        {
                            let mut kept = vec![false; extent];
                            for i in 0..*len {
                                if let Some(k) = at(i).and_then(|i| kept.get_mut(i)) {
                                    *k = !zero && p.flatten().is_none_or(|p| p.get(i) != Some(&false));
                                }
                            }
                            found.push((*whole, Set::new(kept)));
                        }
                    }
                }
                _ => {}
            }
            for (axis, set) in found {
                if is_result(&axis) {
                    // The same value may be several parts.
                    let all: Option<Set> = match out.remove(&axis) {
                        Some(before) => set.combined(&before, false),
                        None => Some(set),
                    };
                    out.extend(all.map(|s| (axis, s)));
                } else {
                    known.entry(axis).or_insert(set);
                }
            }
        }
    }
    out
}

/// Floats that are computed with: zeros of other types are not followed.
fn computes(t: DType) -> bool {
    t.is_float() && !t.is_narrow()
}

/// Values that reach an output as they are, so that signs of zeros are seen there.
fn shown(g: &Graph) -> FxHashSet<ValueId> {
    let mut out: FxHashSet<ValueId> = g.outputs().iter().map(|(_, v)| *v).collect();
    for n in g.order().into_iter().rev() {
        let node = g.node(n);
        let moves = is_movement(node.op.name()) || matches!(node.op.name(), "Expand" | "Tile" | "Pad" | "Gather");
        if moves && node.outputs.iter().any(|v| out.contains(v)) {
            out.extend(node.inputs.iter().flatten());
        }
    }
    out
}

/// The one number that an operand is, unless it is zero, which is a tensor like others.
fn number(g: &Graph, v: ValueId) -> Option<Tensor> {
    let number = splat(g, v).filter(|x| *x != 0.0)?;
    Some(Tensor::from_f64(g.fact(v).dtype, &[], [number]))
}

/// Whether an axis that ends here may have no elements.
fn ends_empty(g: &Graph, t: &Tie) -> bool {
    let (Tie::Reduced(a, _) | Tie::Whole(a, _)) = t else {
        return false;
    };
    let Some(d) = ties::extent(g, a) else { return true };
    let least = d.eval(&|s| match s {
        Sym::Named(name) => Some(g.symbol_range(name).0),
        _ => None,
    });
    // A single product grows with all of its symbols.
    d.terms().len() != 1 || least.is_none_or(|n| n < 1)
}

/// Whether a pointwise operation gives zero when all operands but `numbers` are.
fn keeps_zero(g: &Graph, n: NodeId, numbers: &[usize]) -> bool {
    let node = g.node(n);
    let inputs: Vec<Option<Tensor>> = node
        .inputs
        .iter()
        .enumerate()
        .map(|(slot, v)| {
            let v = (*v)?;
            match numbers.contains(&slot) {
                true => number(g, v),
                false => Some(Tensor::from_i64(g.fact(v).dtype, &[], [0])),
            }
        })
        .collect();
    let facts: Vec<_> = inputs.iter().map(|t| t.as_ref().map(Tensor::fact)).collect();
    let args: Vec<Option<Arg>> = facts
        .iter()
        .zip(&inputs)
        .map(|(fact, t)| {
            Some(Arg {
                fact: fact.as_ref()?,
                constant: t.as_ref(),
            })
        })
        .collect();
    let result = g.with_cx(n, |cx| node.op.0.eval(&cameo_ir::op::Cx { inputs: &args, ..*cx }));
    result.is_ok_and(|r| r.first().and_then(Tensor::scalar_f64) == Some(0.0))
}
