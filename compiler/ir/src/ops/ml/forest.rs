//! Decision trees as tables of nodes, walked by all rows and trees at once.
//!
//! A leaf is a node whose ways all lead to itself, so that every walk may take as many steps as the deepest tree has. Each
//! comparison is one of three, the others being those with their ways swapped; where NaN goes is a way of its own.

use std::collections::BTreeSet;

use crate::op::{Cx, OpError, invalid, unsupported};
use crate::ops::fragment::Fragment;
use crate::{Attr, DType, Dim, Tensor, ValueId};

/// What holds of an element for the first way to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Test {
    AtMost,
    Below,
    Equal,
}

impl Test {
    fn op(self) -> &'static str {
        match self {
            Self::AtMost => "LessOrEqual",
            Self::Below => "Less",
            Self::Equal => "Equal",
        }
    }

    fn holds(self, x: f64, split: f64) -> bool {
        match self {
            Self::AtMost => x <= split,
            Self::Below => x < split,
            Self::Equal => x == split,
        }
    }
}

/// A comparison as files say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    AtMost,
    Below,
    AtLeast,
    Above,
    Equal,
    Differs,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    test: Test,
    feature: usize,
    split: f64,
    /// Where to go when the test holds, when it does not, and when the element is NaN.
    yes: usize,
    no: usize,
    nan: usize,
    /// What a leaf adds to which target.
    pub gives: Vec<(usize, f64)>,
}

impl Node {
    /// The leaf that has place `at`.
    pub(super) fn leaf(at: usize) -> Self {
        Self {
            test: Test::AtMost,
            feature: 0,
            split: 0.0,
            yes: at,
            no: at,
            nan: at,
            gives: vec![],
        }
    }

    /// A comparison holds or, when `missing`, the element is NaN: to `hit`, else to `miss`.
    pub(super) fn branch(mode: Mode, feature: usize, split: f64, [hit, miss]: [usize; 2], missing: bool) -> Self {
        let (test, swapped) = match mode {
            Mode::AtMost => (Test::AtMost, false),
            Mode::Below => (Test::Below, false),
            Mode::AtLeast => (Test::Below, true),
            Mode::Above => (Test::AtMost, true),
            Mode::Equal => (Test::Equal, false),
            Mode::Differs => (Test::Equal, true),
        };
        let (yes, no) = if swapped { (miss, hit) } else { (hit, miss) };
        // NaN differs from everything, and compares with nothing.
        let nan = if missing || mode == Mode::Differs { hit } else { miss };
        Self {
            test,
            feature,
            split,
            yes,
            no,
            nan,
            gives: vec![],
        }
    }
}

/// How what the trees give is joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    Average,
    Sum,
    Min,
    Max,
}

impl Join {
    fn both(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Average | Self::Sum => a + b,
            Self::Min => a.min(b),
            Self::Max => a.max(b),
        }
    }

    /// What a target is that no tree gives anything.
    fn nothing(self) -> f64 {
        match self {
            Self::Average | Self::Sum => 0.0,
            Self::Min => f64::from(f32::MAX),
            Self::Max => f64::from(f32::MIN),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Forest {
    nodes: Vec<Node>,
    roots: Vec<usize>,
    targets: usize,
    join: Join,
    /// Steps of the longest walk.
    depth: usize,
    /// The type in which elements are compared and weights are added.
    work: DType,
}

/// Walks are written out step by step: longer ones are refused.
const MOST_STEPS: usize = 256;

impl Forest {
    pub(super) fn new(
        cx: &Cx,
        nodes: Vec<Node>,
        roots: Vec<usize>,
        targets: usize,
        join: Join,
        work: DType,
    ) -> Result<Self, OpError> {
        let x = cx.fact(0)?;
        if x.rank() != 2 {
            return invalid(format!("{x} is no matrix"));
        }
        if roots.is_empty() || targets == 0 || roots.iter().any(|r| *r >= nodes.len()) {
            return invalid("the trees have no roots, or give nothing");
        }
        let features = x.shape[1].as_const();
        for (i, n) in nodes.iter().enumerate() {
            if n.yes >= nodes.len() || n.no >= nodes.len() {
                return invalid(format!("node {i} leads to a node that there is not"));
            }
            if (n.yes == i) != (n.no == i) {
                return invalid(format!("node {i} leads to itself"));
            }
            if n.yes != i && features.is_some_and(|f| n.feature as i64 >= f) {
                return invalid(format!("node {i} reads feature {} of {x}", n.feature));
            }
            if let Some((t, _)) = n.gives.iter().find(|(t, _)| *t >= targets) {
                return invalid(format!("node {i} gives something to target {t} of {targets}"));
            }
        }
        if features == Some(0) {
            return invalid(format!("{x} has no features"));
        }
        // All nodes that a step leads to, until only leaves are left; longer than there are nodes only a circle is.
        let (mut level, mut depth) = (roots.iter().copied().collect::<BTreeSet<_>>(), 0);
        loop {
            let inner: Vec<usize> = level.iter().copied().filter(|i| nodes[*i].yes != *i).collect();
            if inner.is_empty() {
                break;
            }
            depth += 1;
            if depth > nodes.len() {
                return invalid("the nodes lead in a circle");
            }
            if depth > MOST_STEPS {
                return unsupported(format!("trees of more than {MOST_STEPS} levels"));
            }
            level = inner.iter().flat_map(|i| [nodes[*i].yes, nodes[*i].no]).collect();
        }
        Ok(Self {
            nodes,
            roots,
            targets,
            join,
            depth,
            work,
        })
    }

    /// A number of each node, looked up for the nodes at `at`: the roots when that is `None`.
    fn look_up(&self, g: &mut Fragment, at: Option<ValueId>, table: Vec<f64>, t: DType) -> Result<ValueId, OpError> {
        let Some(at) = at else {
            let of_roots = self.roots.iter().map(|r| table[*r]);
            return Ok(g.constant(Tensor::from_f64(t, &[self.roots.len()], of_roots)));
        };
        let table = g.constant(Tensor::from_f64(t, &[table.len()], table));
        g.apply("Gather", &[("axis", Attr::Int(0))], &[table, at])
    }

    fn table(&self, f: impl Fn(&Node) -> f64) -> Vec<f64> {
        self.nodes.iter().map(f).collect()
    }

    /// The nodes one step on, for each row and tree.
    fn step(&self, g: &mut Fragment, x: ValueId, at: Option<ValueId>) -> Result<ValueId, OpError> {
        let t = g.dtype(x);
        let feature = self.look_up(g, at, self.table(|n| n.feature as f64), DType::I64)?;
        let gather = if at.is_some() { "GatherElements" } else { "Gather" };
        let element = g.apply(gather, &[("axis", Attr::Int(1))], &[x, feature])?;
        let split = self.look_up(g, at, self.table(|n| n.split), t)?;
        let inner = || self.nodes.iter().enumerate().filter(|(i, n)| n.yes != *i);
        let tests: BTreeSet<Test> = inner().map(|(_, n)| n.test).collect();
        let mut holds = None;
        for test in tests {
            let here = g.binary(test.op(), element, split)?;
            holds = Some(match holds {
                None => here,
                Some(before) => {
                    let is = self.look_up(g, at, self.table(|n| f64::from(u8::from(n.test == test))), DType::Bool)?;
                    g.apply("Where", &[], &[is, here, before])?
                }
            });
        }
        let Some(holds) = holds else {
            return invalid("a step from leaves alone");
        };
        let yes = self.look_up(g, at, self.table(|n| n.yes as f64), DType::I64)?;
        let no = self.look_up(g, at, self.table(|n| n.no as f64), DType::I64)?;
        let next = g.apply("Where", &[], &[holds, yes, no])?;
        if inner().all(|(_, n)| n.nan == n.no) {
            return Ok(next);
        }
        let missing = g.unary("IsNaN", element)?;
        let nan = self.look_up(g, at, self.table(|n| n.nan as f64), DType::I64)?;
        g.apply("Where", &[], &[missing, nan, next])
    }

    /// What each target is given, for each row, in the working type.
    pub(super) fn build(&self, cx: &Cx, g: &mut Fragment) -> Result<ValueId, OpError> {
        let x = g.required(cx, 0)?;
        let x = g.cast(x, self.work)?;
        let rows = g.fact(x).shape[0].clone();
        let mut at = None;
        for _ in 0..self.depth {
            at = Some(self.step(g, x, at)?);
        }
        let at = match at {
            Some(at) => at,
            None => {
                let roots = g.constant(Tensor::i64(&[self.roots.len()], self.roots.iter().map(|r| *r as i64)));
                let shape = Attr::Dims(vec![rows, Dim::from(self.roots.len())]);
                g.apply("Expand", &[("shape", shape)], &[roots])?
            }
        };
        let mut weights = vec![self.join.nothing(); self.nodes.len() * self.targets];
        for (i, n) in self.nodes.iter().enumerate() {
            for (target, w) in &n.gives {
                let total = &mut weights[i * self.targets + target];
                *total = self.join.both(*total, *w);
            }
        }
        let weights = g.constant(Tensor::from_f64(self.work, &[self.nodes.len(), self.targets], weights));
        let given = g.apply("Gather", &[("axis", Attr::Int(0))], &[weights, at])?;
        let reduce = match self.join {
            Join::Average | Join::Sum => "ReduceSum",
            Join::Min => "ReduceMin",
            Join::Max => "ReduceMax",
        };
        let sum = g.reduce(reduce, given, &[1], false)?;
        if self.join != Join::Average {
            return Ok(sum);
        }
        let count = g.number(sum, self.roots.len() as f64);
        g.binary("Div", sum, count)
    }

    /// The same, one row and tree after the other.
    pub(super) fn eval(&self, cx: &Cx) -> Result<Vec<Vec<f64>>, OpError> {
        let x = cx.tensor(0)?;
        let features = x.shape()[1];
        if self
            .nodes
            .iter()
            .enumerate()
            .any(|(i, n)| n.yes != i && n.feature >= features)
        {
            return invalid(format!("there are only {features} features"));
        }
        let row = |row: &[f64]| {
            let mut out = vec![self.join.nothing(); self.targets];
            for root in &self.roots {
                let mut at = *root;
                while self.nodes[at].yes != at {
                    let n = &self.nodes[at];
                    let v = row[n.feature];
                    at = match (v.is_nan(), n.test.holds(v, n.split)) {
                        (true, _) => n.nan,
                        (_, true) => n.yes,
                        (_, false) => n.no,
                    };
                }
                for (target, w) in &self.nodes[at].gives {
                    out[*target] = self.join.both(out[*target], *w);
                }
            }
            if self.join == Join::Average {
                out.iter_mut().for_each(|v| *v /= self.roots.len() as f64);
            }
            out
        };
        Ok(x.to_f64().chunks(features.max(1)).map(row).collect())
    }
}
