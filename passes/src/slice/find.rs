//! The structure of a residual network, found in its graph: skips, feed-forward blocks, heads, layers.

use std::collections::{BTreeMap, BTreeSet};

use cameo_ir::op::normalize_axis;
use cameo_ir::{Attr, Dim, Graph, NodeId, ValueId};

use crate::axes::Axis;

/// `state + branch`, where the branch is computed from the state with products with constants.
#[derive(Clone, Copy, Debug)]
pub struct Skip {
    pub add: NodeId,
    pub state: ValueId,
    pub branch: ValueId,
}

/// What is asked of a graph again and again.
pub struct Map<'g> {
    pub g: &'g Graph,
    pub order: Vec<NodeId>,
    constants: Vec<bool>,
    /// Position in `order` by node.
    position: BTreeMap<NodeId, usize>,
    pub skips: Vec<Skip>,
}

impl<'g> Map<'g> {
    pub fn new(g: &'g Graph) -> Self {
        let order = g.order();
        let mut map = Self {
            g,
            constants: g.constants(),
            position: order.iter().enumerate().map(|(i, n)| (*n, i)).collect(),
            order,
            skips: vec![],
        };
        map.skips = map.order.iter().filter_map(|n| map.skip(*n)).collect();
        map
    }

    fn constant(&self, v: ValueId) -> bool {
        self.constants[v.0 as usize]
    }

    fn input(&self, n: NodeId, slot: usize) -> Option<ValueId> {
        self.g.node(n).inputs.get(slot).copied().flatten()
    }

    fn op(&self, n: NodeId) -> &'static str {
        self.g.node(n).op.name()
    }

    fn at(&self, v: ValueId) -> Option<usize> {
        self.g.producer(v).map(|(n, _)| self.position[&n])
    }

    /// The extent of the last axis, where it is a number.
    pub fn width(&self, v: ValueId) -> Option<usize> {
        let d = self.g.fact(v).shape.last()?.as_const()?;
        usize::try_from(d).ok()
    }

    /// The nodes between `from` and `to`: those that `to` needs and that need `from`. `None` when `to` does not.
    pub fn between(&self, from: ValueId, to: ValueId) -> Option<BTreeSet<NodeId>> {
        let start = self.at(from);
        let (mut back, mut work) = (BTreeSet::new(), vec![to]);
        while let Some(v) = work.pop() {
            let Some((n, _)) = self.g.producer(v).filter(|_| v != from) else {
                continue;
            };
            // What stands before cannot need it.
            let position = self.position[&n];
            if start.is_none_or(|s| position > s) && back.insert(position) {
                work.extend(self.g.node(n).inputs.iter().flatten());
            }
        }
        let mut reached: BTreeSet<ValueId> = [from].into();
        let mut out = BTreeSet::new();
        for p in back {
            let node = self.g.node(self.order[p]);
            if node.inputs.iter().flatten().any(|v| reached.contains(v)) {
                reached.extend(&node.outputs);
                out.insert(self.order[p]);
            }
        }
        reached.contains(&to).then_some(out)
    }

    fn skip(&self, add: NodeId) -> Option<Skip> {
        if self.op(add) != "Add" {
            return None;
        }
        let (a, b) = (self.input(add, 0)?, self.input(add, 1)?);
        let same = self.g.fact(a).shape == self.g.fact(b).shape && self.g.fact(a).dtype.is_float();
        if !same || self.constant(a) || self.constant(b) || self.width(a).is_none_or(|n| n < 2) {
            return None;
        }
        [(a, b), (b, a)].into_iter().find_map(|(state, branch)| {
            let inside = self.between(state, branch)?;
            let linear = inside.iter().any(|n| self.linear(*n).is_some());
            linear.then_some(Skip { add, state, branch })
        })
    }

    /// The computed operand of a product with a constant matrix.
    fn linear(&self, n: NodeId) -> Option<ValueId> {
        let (x, w) = (self.input(n, 0)?, self.input(n, 1)?);
        let fits = match self.op(n) {
            "MatMul" => true,
            "Gemm" => !matches!(self.g.node(n).attrs.get("transA"), Some(Attr::Int(t)) if *t != 0),
            _ => false,
        };
        (fits && !self.constant(x) && self.constant(w) && self.g.fact(w).rank() == 2).then_some(x)
    }

    /// Whether the node leaves the last axis what it is: pointwise, a cut along it, or a reshape of the others.
    fn along(&self, n: NodeId) -> bool {
        let node = self.g.node(n);
        let Some(x) = self.input(n, 0) else { return false };
        let last = |v: ValueId| self.g.fact(v).shape.last().cloned();
        match self.op(n) {
            "Reshape" => last(x) == last(node.outputs[0]),
            // Packed gates.
            "Split" => {
                let axis = match node.attrs.get("axis") {
                    Some(Attr::Int(a)) => *a,
                    _ => 0,
                };
                let rank = self.g.fact(x).rank();
                normalize_axis(axis, rank).is_ok_and(|a| a + 1 == rank)
            }
            "Slice" => {
                self.g.fact(x).shape.split_last().map(|s| s.1) == {
                    let shape = &self.g.fact(node.outputs[0]).shape;
                    shape.split_last().map(|s| s.1)
                }
            }
            // Channels are axis 1.
            "BatchNormalization" => self.g.fact(x).rank() == 2,
            _ => node.op.schema().pointwise,
        }
    }

    /// Whether a pointwise node is affine in its one computed operand: no activation and no gate.
    fn affine(&self, n: NodeId) -> bool {
        let computed = self
            .g
            .node(n)
            .inputs
            .iter()
            .flatten()
            .filter(|v| !self.constant(**v))
            .count();
        computed < 2 && matches!(self.op(n), "Add" | "Sub" | "Mul" | "Div" | "Neg" | "Cast" | "Identity")
    }

    /// Whether `v` reaches a skip with nothing on the way but pointwise work and normalisations.
    fn returns(&self, mut v: ValueId) -> bool {
        loop {
            let users = self.g.users(v);
            let [user] = users[..] else { return false };
            if self.skips.iter().any(|s| s.add == user) {
                return true;
            }
            let norm =
                matches!(self.op(user), "LayerNormalization" | "RMSNormalization") && self.input(user, 0) == Some(v);
            let passes = norm || (self.along(user) && !matches!(self.op(user), "Split" | "Slice"));
            if !passes {
                return false;
            }
            v = self.g.node(user).outputs[0];
        }
    }

    /// The inner axes of feed-forward blocks, in their order: produced by products with constants, summed by one whose
    /// result goes back to the stream, with an activation or a gate between and only pointwise work.
    pub fn feed_forward(&self) -> Vec<(NodeId, Axis, usize)> {
        let mut out = vec![];
        for n in &self.order {
            let Some(x) = self.linear(*n) else { continue };
            let Some(width) = self.width(x) else { continue };
            if self.widened(x) && self.returns(self.g.node(*n).outputs[0]) {
                out.push((*n, Axis::of(x, self.g.fact(x).rank() - 1), width));
            }
        }
        out
    }

    fn widened(&self, x: ValueId) -> bool {
        let (mut work, mut seen, mut curved) = (vec![x], BTreeSet::new(), false);
        while let Some(v) = work.pop() {
            if self.constant(v) || !seen.insert(v) {
                continue;
            }
            let Some((n, _)) = self.g.producer(v) else { return false };
            if self.linear(n).is_some() {
                continue;
            }
            if !self.along(n) || self.skips.iter().any(|s| s.add == n) {
                return false;
            }
            let pointwise = self.g.node(n).op.schema().pointwise;
            curved |= pointwise && !self.affine(n);
            work.extend(self.g.node(n).inputs.iter().flatten());
        }
        curved
    }

    /// The head axes of attentions, in their order: the node, the axis, its extent, and how many query heads share each.
    pub fn heads(&self) -> Vec<(NodeId, Axis, usize, usize)> {
        let number = |d: &Dim| d.as_const().and_then(|n| usize::try_from(n).ok());
        let mut out = vec![];
        for n in &self.order {
            let node = self.g.node(*n);
            let attr = |name: &str| match node.attrs.get(name) {
                Some(Attr::Int(k)) => usize::try_from(*k).ok(),
                _ => None,
            };
            let extent = |slot: usize| {
                self.input(*n, slot)
                    .and_then(|v| self.g.fact(v).shape.get(1))
                    .and_then(number)
            };
            match self.op(*n) {
                "Attention" => {
                    let flat = self.input(*n, 0).is_some_and(|v| self.g.fact(v).rank() == 3);
                    let (q, k) = match flat {
                        true => (attr("q_num_heads"), attr("kv_num_heads")),
                        false => (extent(0), extent(1)),
                    };
                    if let (Some(q), Some(k)) = (q, k)
                        && k > 0
                        && q % k == 0
                    {
                        out.push((*n, Axis::inner(*n), k, q / k));
                    }
                }
                // Attention that was not recognised: probabilities times values.
                "MatMul" => {
                    let (Some(p), Some(v)) = (self.input(*n, 0), self.input(*n, 1)) else {
                        continue;
                    };
                    let soft = self.g.producer(p).is_some_and(|(s, _)| self.op(s) == "Softmax");
                    let y = node.outputs[0];
                    if soft
                        && !self.constant(v)
                        && self.g.fact(y).rank() == 4
                        && let Some(heads) = number(&self.g.fact(y).shape[1])
                    {
                        out.push((*n, Axis::of(y, 1), heads, 1));
                    }
                }
                _ => {}
            }
        }
        out
    }

    /// What a skip's branch does, as text: operations and the shapes of their results and weights, in order.
    fn signature(&self, skip: &Skip) -> String {
        let inside = self.between(skip.state, skip.branch).unwrap_or_default();
        let mut nodes: Vec<NodeId> = inside.into_iter().collect();
        nodes.sort_by_key(|n| self.position[n]);
        let mut out = String::new();
        for n in nodes {
            let node = self.g.node(n);
            out += node.op.name();
            for v in node.inputs.iter().flatten().filter(|v| self.constant(**v)) {
                out += &format!(" {}", self.g.fact(*v));
            }
            for v in &node.outputs {
                out += &format!(" {}", self.g.fact(*v));
            }
            out.push(';');
        }
        out
    }

    /// The values of the stream before each layer, and after the last one.
    ///
    /// # Errors
    /// The skip at which the layers stop being alike, with the reason.
    pub fn layers(&self) -> Result<Vec<ValueId>, (Option<NodeId>, String)> {
        let skips = &self.skips;
        let Some(last) = skips.last() else {
            return Err((
                None,
                "there is no residual stream: nothing is added to what it was computed from".into(),
            ));
        };
        for pair in skips.windows(2) {
            let after = self.g.node(pair[0].add).outputs[0];
            if after != pair[1].state && self.between(after, pair[1].state).is_none() {
                let reason = "the skip here does not follow the one before it: there are several streams".into();
                return Err((Some(pair[1].add), reason));
            }
        }
        let signatures: Vec<String> = skips.iter().map(|s| self.signature(s)).collect();
        let n = skips.len();
        // Also the way from one skip to the next is part of a layer.
        let ways: Vec<String> = skips
            .windows(2)
            .map(|p| self.way(self.g.node(p[0].add).outputs[0], p[1].state))
            .collect();
        let alike = |p: usize| {
            (p..n).all(|i| signatures[i] == signatures[i - p])
                && (p..n.saturating_sub(1)).all(|i| ways[i] == ways[i - p])
        };
        let Some(period) = (1..=n).find(|p| n.is_multiple_of(*p) && alike(*p)) else {
            return Err((None, "the blocks on the residual stream do not repeat".into()));
        };
        if period == n {
            let odd = (1..n).find(|i| signatures[*i] != signatures[0]);
            return Err((
                odd.map(|i| skips[i].add),
                "the blocks on the residual stream do not repeat".into(),
            ));
        }
        let mut out: Vec<ValueId> = skips.iter().step_by(period).map(|s| s.state).collect();
        // After the last skip comes what comes between layers: nothing, or a normalisation.
        let between = &ways[period - 1];
        let end = self.g.node(last.add).outputs[0];
        match self.end(end, between) {
            Some(v) => out.push(v),
            None => {
                let reason = format!(
                    "after the last layer there is no `{}` as after the others",
                    between.trim()
                );
                return Err((Some(last.add), reason));
            }
        }
        Ok(out)
    }

    /// The operations between two values.
    fn way(&self, from: ValueId, to: ValueId) -> String {
        if from == to {
            return String::new();
        }
        let state = Skip {
            add: NodeId(0),
            state: from,
            branch: to,
        };
        self.signature(&state)
    }

    /// The value that is reached from `v` by `way`.
    fn end(&self, v: ValueId, way: &str) -> Option<ValueId> {
        if way.is_empty() {
            return Some(v);
        }
        let near = self.at(v)?;
        // A way is a few nodes; it ends soon after it begins.
        let candidates = self.order[near + 1..].iter().take(WAY_MAX);
        candidates
            .flat_map(|n| self.g.node(*n).outputs.iter().copied())
            .find(|to| self.between(v, *to).is_some() && self.way(v, *to) == way)
    }
}

/// Normalisations that were not recognised have some ten nodes.
const WAY_MAX: usize = 64;
