//! What each operation ties together. An operation that is not here binds all its axes.

use cameo_ir::op::{Cx, OpError, normalize_axis};
use cameo_ir::{Attr, Dim, Graph, NodeId, ValueId};

use super::{Axis, Tie};
use crate::pattern::permutation;

/// The ties of node `n`. `constants` as [`Graph::constants`] says.
pub fn ties(g: &Graph, constants: &[bool], n: NodeId) -> Vec<Tie> {
    let of = Of { g, constants, n };
    // What cannot be read is not understood.
    let Ok(Some(known)) = g.with_cx(n, |cx| of.known(cx)) else {
        return of.bound("the operation may mix the elements");
    };
    let mut out = vec![];
    for t in known {
        // Axes of extent 1 broadcast or vanish: nothing can be cut off them.
        let one = |a: &Axis| of.extent(a).is_some_and(|d| d.is_one());
        match &t {
            Tie::Equal(a, b) | Tie::Summed(a, b) if one(a) && one(b) => {}
            Tie::Reduced(a, _) | Tie::Whole(a, _) if one(a) => {}
            _ => out.push(t),
        }
    }
    out
}

/// The extent of an axis that a shape has.
pub fn extent(g: &Graph, a: &Axis) -> Option<Dim> {
    let v = a.value(g)?;
    g.fact(v).shape.get(a.axis).cloned()
}

/// Pairs of runs of axes of two shapes that are reshaped into each other, the shortest ones.
fn groups(from: &[Dim], to: &[Dim]) -> Vec<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let (mut out, mut i, mut j) = (vec![], 0, 0);
    while i < from.len() || j < to.len() {
        // Axes of extent 1 belong to nobody.
        if i < from.len() && from[i].is_one() {
            i += 1;
            continue;
        }
        if j < to.len() && to[j].is_one() {
            j += 1;
            continue;
        }
        let (mut p, mut q) = (i + 1, j + 1);
        let shortest = (p..=from.len()).find_map(|a| {
            (q..=to.len())
                .find(|b| Dim::product(&from[i..a]) == Dim::product(&to[j..*b]))
                .map(|b| (a, b))
        });
        (p, q) = shortest.unwrap_or((from.len().max(p), to.len().max(q)));
        p = p.min(from.len());
        q = q.min(to.len());
        out.push((i..p, j..q));
        (i, j) = (p, q);
    }
    out
}

struct Of<'a> {
    g: &'a Graph,
    constants: &'a [bool],
    n: NodeId,
}

const INDEXED: &str = "its elements are chosen by indices";
const CUT_UP: &str = "it is cut up at places that depend on dimensions";
const COUNTED: &str = "what is summed up is usually divided by a number that counts the elements";

impl Of<'_> {
    fn operand(&self, slot: usize) -> Option<ValueId> {
        self.g.node(self.n).inputs.get(slot).copied().flatten()
    }

    fn result(&self, i: usize) -> Option<ValueId> {
        self.g.node(self.n).outputs.get(i).copied()
    }

    fn shape(&self, v: ValueId) -> &[Dim] {
        &self.g.fact(v).shape
    }

    fn rank(&self, slot: usize) -> usize {
        self.operand(slot).map_or(0, |v| self.shape(v).len())
    }

    fn input(&self, slot: usize, axis: usize) -> Option<Axis> {
        Axis::operand(self.g, self.constants, self.n, slot, axis)
    }

    fn output(&self, i: usize, axis: usize) -> Option<Axis> {
        self.result(i).map(|v| Axis::of(v, axis))
    }

    fn extent(&self, a: &Axis) -> Option<Dim> {
        extent(self.g, a)
    }

    /// All axes stay whole.
    fn bound(&self, reason: &'static str) -> Vec<Tie> {
        let node = self.g.node(self.n);
        let inputs = (0..node.inputs.len()).flat_map(|s| (0..self.rank(s)).filter_map(move |a| self.input(s, a)));
        let outputs = node
            .outputs
            .iter()
            .flat_map(|v| (0..self.shape(*v).len()).map(|a| Axis::of(*v, a)));
        inputs.chain(outputs).map(|a| Tie::Whole(a, reason)).collect()
    }

    /// `a` is broadcast along `b`.
    fn broadcast(&self, out: &mut Vec<Tie>, a: Option<Axis>, b: Option<Axis>) {
        let (Some(a), Some(b)) = (a, b) else { return };
        let (Some(d), Some(e)) = (self.extent(&a), self.extent(&b)) else {
            return;
        };
        if d == e {
            out.push(Tie::Equal(a, b));
        } else if !d.is_one() && !e.is_one() {
            let reason = "whether it is broadcast depends on dimensions";
            out.extend([Tie::Whole(a, reason), Tie::Whole(b, reason)]);
        }
    }

    /// Operand `slot` is broadcast to axes `0..rank` of result 0, aligned at the right.
    fn broadcast_right(&self, out: &mut Vec<Tie>, slot: usize, rank: usize) {
        let own = self.rank(slot);
        for a in 0..own.min(rank) {
            self.broadcast(out, self.input(slot, own - 1 - a), self.output(0, rank - 1 - a));
        }
    }

    /// Axes of operand 0 and result 0 that are the same.
    fn same(&self, out: &mut Vec<Tie>, axes: impl Iterator<Item = usize>) {
        for a in axes {
            self.broadcast(out, self.input(0, a), self.output(0, a));
        }
    }

    fn reduced(&self, out: &mut Vec<Tie>, axes: impl Iterator<Item = usize>, reason: Option<&'static str>) {
        out.extend(axes.filter_map(|a| self.input(0, a)).map(|a| Tie::Reduced(a, reason)));
    }

    fn known(&self, cx: &Cx) -> Result<Option<Vec<Tie>>, OpError> {
        let node = self.g.node(self.n);
        let op = node.op.name();
        let rank = self.rank(0);
        let result = self.result(0).map_or(0, |v| self.shape(v).len());
        let mut out = vec![];
        if node.op.schema().pointwise && node.outputs.len() == 1 {
            for slot in 0..node.inputs.len() {
                self.broadcast_right(&mut out, slot, result);
            }
            return Ok(Some(out));
        }
        match op {
            "Expand" => self.broadcast_right(&mut out, 0, result),
            "ConstantOfShape" => {}
            "Transpose" => {
                let Some(perm) = permutation(self.g, self.n) else {
                    return Ok(None);
                };
                for (to, from) in perm.into_iter().enumerate() {
                    self.broadcast(&mut out, self.input(0, from), self.output(0, to));
                }
            }
            "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => self.reshape(&mut out),
            "LayerNormalization" | "RMSNormalization" => {
                let axis = normalize_axis(cx.int("axis")?, rank)?;
                self.same(&mut out, 0..rank);
                self.broadcast_right(&mut out, 1, rank);
                self.broadcast_right(&mut out, 2, rank);
                for i in 1..node.outputs.len() {
                    (0..axis).for_each(|a| self.broadcast(&mut out, self.input(0, a), self.output(i, a)));
                }
                self.reduced(&mut out, axis..rank, None);
            }
            "Softmax" | "LogSoftmax" => {
                let axis = normalize_axis(cx.int("axis")?, rank)?;
                self.same(&mut out, 0..rank);
                self.reduced(&mut out, axis..axis + 1, None);
            }
            "BatchNormalization" if node.outputs.len() == 1 && cx.int("training_mode") == Ok(0) => {
                self.same(&mut out, 0..rank);
                for slot in 1..5 {
                    self.broadcast(&mut out, self.input(slot, 0), self.output(0, 1));
                }
            }
            "MatMul" => self.matmul(&mut out),
            "Gemm" => {
                let (a, b) = (cx.int("transA")? != 0, cx.int("transB")? != 0);
                let (a, b) = (usize::from(a), usize::from(b));
                self.broadcast(&mut out, self.input(0, a), self.output(0, 0));
                self.broadcast(&mut out, self.input(1, 1 - b), self.output(0, 1));
                out.extend(
                    self.input(0, 1 - a)
                        .zip(self.input(1, b))
                        .map(|(x, y)| Tie::Summed(x, y)),
                );
                self.broadcast_right(&mut out, 2, result);
            }
            "Einsum" => return Ok(self.einsum(cx.str("equation")?)),
            "Gather" => {
                let axis = normalize_axis(cx.int("axis")?, rank)?;
                let indices = self.rank(1);
                for a in (0..rank).filter(|a| *a != axis) {
                    let to = if a < axis { a } else { a + indices - 1 };
                    self.broadcast(&mut out, self.input(0, a), self.output(0, to));
                }
                for a in 0..indices {
                    self.broadcast(&mut out, self.input(1, a), self.output(0, axis + a));
                }
                out.extend(self.input(0, axis).map(|a| Tie::Whole(a, INDEXED)));
            }
            "Concat" => {
                let axis = normalize_axis(cx.int("axis")?, rank)?;
                for slot in 0..node.inputs.len() {
                    let others = (0..rank).filter(|a| *a != axis);
                    others.for_each(|a| self.broadcast(&mut out, self.input(slot, a), self.output(0, a)));
                }
                let parts = (0..node.inputs.len()).map(|s| self.input(s, axis)).collect();
                self.parts(&mut out, self.output(0, axis), parts);
            }
            "Split" => {
                let axis = normalize_axis(cx.int("axis")?, rank)?;
                for i in 0..node.outputs.len() {
                    let others = (0..rank).filter(|a| *a != axis);
                    others.for_each(|a| self.broadcast(&mut out, self.input(0, a), self.output(i, a)));
                }
                let parts = (0..node.outputs.len()).map(|i| self.output(i, axis)).collect();
                self.parts(&mut out, self.input(0, axis), parts);
            }
            "Slice" => self.slice(&mut out, cx)?,
            "Tile" => {
                let repeats = cx.dims(1)?.unwrap_or_default();
                for (a, r) in repeats.iter().enumerate() {
                    match r.is_one() {
                        true => self.broadcast(&mut out, self.input(0, a), self.output(0, a)),
                        false => self.whole(&mut out, a, "it is repeated"),
                    }
                }
            }
            "Pad" => {
                let pads = cx.dims(1)?.unwrap_or_default();
                if pads.len() != 2 * rank || cx.has(3) || node.attrs.contains_key("axes") {
                    return Ok(None);
                }
                for a in 0..rank {
                    match pads[a].is_zero() && pads[rank + a].is_zero() {
                        true => self.broadcast(&mut out, self.input(0, a), self.output(0, a)),
                        false => self.whole(&mut out, a, "it is padded"),
                    }
                }
            }
            "Attention" => return self.attention(cx),
            "cameo::Rotary" => {
                self.same(&mut out, 0..rank - 1);
                for slot in [1, 2] {
                    let own = self.rank(slot);
                    for a in 1..own.min(rank) {
                        self.broadcast(&mut out, self.input(slot, own - 1 - a), self.output(0, rank - 1 - a));
                    }
                    out.extend(
                        own.checked_sub(1)
                            .and_then(|a| self.input(slot, a))
                            .map(|a| Tie::Whole(a, "its elements are turned in pairs")),
                    );
                }
                self.whole(&mut out, rank - 1, "its elements are turned in pairs");
            }
            "Conv" => {
                let group = cx.int("group")?;
                let weight = self.operand(1).map_or(&[][..], |v| self.shape(v));
                let depthwise = group > 1
                    && weight.first().and_then(Dim::as_const) == Some(group)
                    && weight.get(1).is_some_and(Dim::is_one);
                if group == 1 {
                    out.extend(self.input(0, 1).zip(self.input(1, 1)).map(|(a, b)| Tie::Summed(a, b)));
                } else if depthwise {
                    self.broadcast(&mut out, self.input(0, 1), self.output(0, 1));
                } else {
                    return Ok(None);
                }
                self.same(&mut out, 0..1);
                self.broadcast(&mut out, self.input(1, 0), self.output(0, 1));
                self.broadcast(&mut out, self.input(2, 0), self.output(0, 1));
                for a in 2..rank {
                    self.whole(&mut out, a, "it is a spatial axis");
                    out.extend(self.input(1, a).map(|a| Tie::Whole(a, "it is a spatial axis")));
                }
            }
            "GlobalAveragePool" | "GlobalMaxPool" | "AveragePool" | "MaxPool" if node.outputs.len() == 1 => {
                self.same(&mut out, 0..2);
                (2..rank).for_each(|a| self.whole(&mut out, a, "it is a spatial axis"));
            }
            "ReduceMean" | "ReduceMax" | "ReduceMin" => self.reduction(&mut out, cx, None)?,
            "ReduceSum" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare" => self.reduction(&mut out, cx, Some(COUNTED))?,
            _ => return Ok(None),
        }
        Ok(Some(out))
    }

    /// Axis `a` of operand 0 and of the results stays whole.
    fn whole(&self, out: &mut Vec<Tie>, a: usize, reason: &'static str) {
        out.extend(self.input(0, a).map(|a| Tie::Whole(a, reason)));
        out.extend(self.output(0, a).map(|a| Tie::Whole(a, reason)));
    }

    fn reshape(&self, out: &mut Vec<Tie>) {
        let (Some(x), Some(y)) = (self.operand(0), self.result(0)) else {
            return;
        };
        let (from, to) = (self.shape(x), self.shape(y));
        for (p, q) in groups(from, to) {
            match (p.len(), q.len()) {
                (1, 1) if from[p.start] == to[q.start] => {
                    self.broadcast(out, self.input(0, p.start), self.output(0, q.start));
                }
                _ => {
                    let left = p.map(|a| (self.input(0, a), from[a].clone())).collect();
                    let right = q.map(|a| (self.output(0, a), to[a].clone())).collect();
                    out.push(Tie::Product(left, right));
                }
            }
        }
    }

    fn matmul(&self, out: &mut Vec<Tie>) {
        let (p, q) = (self.rank(0), self.rank(1));
        let Some(r) = self.result(0).map(|v| self.shape(v).len()) else {
            return;
        };
        let (rows, columns) = (p >= 2, q >= 2);
        // Axes of the result that are not of the batch.
        let own = usize::from(rows) + usize::from(columns);
        if rows {
            self.broadcast(out, self.input(0, p - 2), self.output(0, r - own));
        }
        if columns {
            self.broadcast(out, self.input(1, q - 1), self.output(0, r - 1));
        }
        for (slot, rank) in [(0, p), (1, q)] {
            for a in 2..rank {
                let to = (r - own).checked_sub(a - 1);
                self.broadcast(out, self.input(slot, rank - 1 - a), to.and_then(|a| self.output(0, a)));
            }
        }
        let inner = (
            p.checked_sub(1),
            if columns { q.checked_sub(2) } else { q.checked_sub(1) },
        );
        let inner = (
            inner.0.and_then(|a| self.input(0, a)),
            inner.1.and_then(|a| self.input(1, a)),
        );
        out.extend(inner.0.zip(inner.1).map(|(a, b)| Tie::Summed(a, b)));
    }

    /// Letters only, each of at most two operands where it is summed.
    fn einsum(&self, equation: &str) -> Option<Vec<Tie>> {
        let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = text.split_once("->")?;
        if !text.chars().all(|c| c.is_ascii_alphabetic() || ",->".contains(c)) {
            return None;
        }
        let mut out = vec![];
        let mut summed: Vec<(char, Vec<Axis>)> = vec![];
        for (slot, term) in left.split(',').enumerate() {
            for (a, letter) in term.chars().enumerate() {
                let axis = self.input(slot, a)?;
                match right.find(letter) {
                    Some(to) => self.broadcast(&mut out, Some(axis), self.output(0, to)),
                    None => match summed.iter_mut().find(|(l, _)| *l == letter) {
                        Some((_, axes)) => axes.push(axis),
                        None => summed.push((letter, vec![axis])),
                    },
                }
            }
        }
        for (_, axes) in summed {
            match axes[..] {
                [a] => out.push(Tie::Reduced(a, Some(COUNTED))),
                [a, b] if a.place != b.place && self.extent(&a) == self.extent(&b) => out.push(Tie::Summed(a, b)),
                _ => return None,
            }
        }
        Some(out)
    }

    /// `parts` lie one after the other in `whole`.
    fn parts(&self, out: &mut Vec<Tie>, whole: Option<Axis>, parts: Vec<Option<Axis>>) {
        let Some(whole) = whole else { return };
        let mut start = Some(0usize);
        for part in parts.into_iter().flatten() {
            let len = self
                .extent(&part)
                .and_then(|d| d.as_const())
                .and_then(|n| usize::try_from(n).ok());
            match (start, len) {
                (Some(start), Some(len)) => out.push(Tie::Part {
                    whole,
                    part,
                    start,
                    step: 1,
                    len,
                }),
                _ => out.extend([Tie::Whole(whole, CUT_UP), Tie::Whole(part, CUT_UP)]),
            }
            start = start.zip(len).map(|(s, n)| s + n);
        }
    }

    fn slice(&self, out: &mut Vec<Tie>, cx: &Cx) -> Result<(), OpError> {
        let (Some(x), Some(y)) = (self.operand(0), self.result(0)) else {
            return Ok(());
        };
        let (from, to) = (self.shape(x), self.shape(y));
        let starts = cx.dims(1)?.unwrap_or_default();
        let axes = match cx.const_ints(3)? {
            Some(list) => list,
            None => (0..starts.len() as i64).collect(),
        };
        let steps = cx.const_ints(4)?.unwrap_or_else(|| vec![1; starts.len()]);
        let mut cuts = vec![None; from.len()];
        for ((start, axis), step) in starts.iter().zip(&axes).zip(&steps) {
            cuts[normalize_axis(*axis, from.len())?] = Some((start.clone(), *step));
        }
        for (a, cut) in cuts.into_iter().enumerate() {
            let number = |d: &Dim| d.as_const().and_then(|n| usize::try_from(n).ok());
            let (whole, part) = (self.input(0, a), self.output(0, a));
            let Some((start, step)) = cut else {
                self.broadcast(out, whole, part);
                continue;
            };
            let (Some(whole), Some(part)) = (whole, part) else {
                continue;
            };
            match (number(&from[a]), number(&to[a]), start.as_const()) {
                (Some(n), Some(len), Some(s)) => {
                    let s = if s < 0 { s + n as i64 } else { s };
                    // Starts beyond the end are clamped: to the last element when going backwards.
                    let last = if step > 0 { n } else { n.saturating_sub(1) };
                    let start = s.clamp(0, last as i64);
                    out.push(Tie::Part {
                        whole,
                        part,
                        start: usize::try_from(start).unwrap_or(0),
                        step,
                        len,
                    });
                }
                _ if from[a] == to[a] && step == 1 => out.push(Tie::Equal(whole, part)),
                _ => out.extend([Tie::Whole(whole, CUT_UP), Tie::Whole(part, CUT_UP)]),
            }
        }
        Ok(())
    }

    fn reduction(&self, out: &mut Vec<Tie>, cx: &Cx, reason: Option<&'static str>) -> Result<(), OpError> {
        let rank = self.rank(0);
        let mut over = vec![false; rank];
        for a in cx.const_ints(1)?.unwrap_or_default() {
            over[normalize_axis(a, rank)?] = true;
        }
        if over.iter().all(|o| !o) && cx.int("noop_with_empty_axes")? == 0 {
            over.fill(true);
        }
        let keep = cx.int("keepdims")? != 0;
        let mut to = 0;
        for (a, over) in over.into_iter().enumerate() {
            if over {
                self.reduced(out, a..a + 1, reason);
                to += usize::from(keep);
            } else {
                self.broadcast(out, self.input(0, a), self.output(0, to));
                to += 1;
            }
        }
        Ok(())
    }

    /// Key heads are the inner axis; each of them serves a run of query heads.
    fn attention(&self, cx: &Cx) -> Result<Option<Vec<Tie>>, OpError> {
        let (Some(q), Some(k), Some(v), Some(y)) = (self.operand(0), self.operand(1), self.operand(2), self.result(0))
        else {
            return Ok(None);
        };
        let flat = self.shape(q).len() == 3;
        let heads = |v: ValueId, name: &str| match flat {
            true => Ok(cx.opt_int(name)?.map(Dim::from)),
            false => Ok::<_, OpError>(self.shape(v).get(1).cloned()),
        };
        let (Some(hq), Some(hk)) = (heads(q, "q_num_heads")?, heads(k, "kv_num_heads")?) else {
            return Ok(None);
        };
        let Some(group) = hq.div_exact(&hk) else {
            return Ok(None);
        };
        let inner = Axis::inner(self.n);
        let key_heads = || vec![(Some(inner), hk.clone())];
        let query_heads = || vec![(Some(inner), hk.clone()), (None, group.clone())];
        let mut out = vec![];
        let (sequence, size) = if flat { (1, 2) } else { (2, 3) };
        let widths = "its extent decides the scale of the logits";
        let mut tie = |axis: Option<Axis>, v: ValueId, heads: Vec<(Option<Axis>, Dim)>, n: &Dim| {
            let mut right = heads;
            let Some(d) = self.shape(v).get(if flat { 2 } else { 1 }) else {
                return;
            };
            if flat {
                right.push((None, d.div_exact(n).unwrap_or(Dim::ONE)));
            }
            out.push(Tie::Product(vec![(axis, d.clone())], right));
        };
        let along = if flat { 2 } else { 1 };
        tie(self.input(0, along), q, query_heads(), &hq);
        tie(self.input(1, along), k, key_heads(), &hk);
        tie(self.input(2, along), v, key_heads(), &hk);
        tie(self.output(0, along), y, query_heads(), &hq);
        for slot in 0..3 {
            self.broadcast(&mut out, self.input(slot, 0), self.output(0, 0));
        }
        let window = cx.int("left_window_size")? != -1 || cx.int("right_window_size")? != -1;
        match cx.int("is_causal")? != 0 || window {
            true => {
                let ends = self.input(0, sequence).into_iter().chain(self.output(0, sequence));
                out.extend(ends.map(|a| Tie::Whole(a, "the position of a query decides which keys it sees")));
            }
            false => self.broadcast(&mut out, self.input(0, sequence), self.output(0, sequence)),
        }
        for slot in [1, 2] {
            out.extend(
                self.input(slot, sequence)
                    .map(|a| Tie::Whole(a, "the softmax goes over it")),
            );
        }
        if !flat {
            self.broadcast(&mut out, self.input(2, size), self.output(0, size));
            for slot in [0, 1] {
                out.extend(self.input(slot, size).map(|a| Tie::Whole(a, widths)));
            }
        }
        // The mask has the shape of the logits, or fewer axes.
        let rank = self.rank(3);
        for a in 0..rank {
            let Some(axis) = self.input(3, a) else { continue };
            let Some(d) = self.extent(&axis).filter(|d| !d.is_one()) else {
                continue;
            };
            match rank - a {
                4 => self.broadcast(&mut out, Some(axis), self.output(0, 0)),
                3 => out.push(Tie::Product(vec![(Some(axis), d)], query_heads())),
                _ => out.push(Tie::Whole(axis, "it is an axis of the logits")),
            }
        }
        for (slot, width) in [(4, true), (5, false)] {
            for (a, d) in self.operand(slot).map_or(&[][..], |v| self.shape(v)).iter().enumerate() {
                let axis = self.input(slot, a);
                match a {
                    0 => self.broadcast(&mut out, axis, self.output(0, 0)),
                    1 => out.push(Tie::Product(vec![(axis, d.clone())], key_heads())),
                    3 if !width && !flat => self.broadcast(&mut out, axis, self.output(0, 3)),
                    _ => out.extend(axis.map(|a| Tie::Whole(a, widths))),
                }
            }
        }
        for i in 1..self.g.node(self.n).outputs.len() {
            for (a, d) in self.result(i).map_or(&[][..], |v| self.shape(v)).iter().enumerate() {
                let axis = self.output(i, a);
                match (a, i) {
                    (0, _) => self.broadcast(&mut out, axis, self.output(0, 0)),
                    (1, 3) => out.push(Tie::Product(vec![(axis, d.clone())], query_heads())),
                    (1, _) => out.push(Tie::Product(vec![(axis, d.clone())], key_heads())),
                    (3, 2) if !flat => self.broadcast(&mut out, axis, self.output(0, 3)),
                    _ => out.extend(axis.map(|a| Tie::Whole(a, widths))),
                }
            }
        }
        Ok(Some(out))
    }
}

/// The number of groups of a convolution.
pub fn group(g: &Graph, n: NodeId) -> i64 {
    match g.node(n).attrs.get("group") {
        Some(Attr::Int(k)) => *k,
        _ => 1,
    }
}
