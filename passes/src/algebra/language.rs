//! The e-graph over the table of operations: one language for all of them.
//!
//! An e-node is an operation with an interned set of attributes, applied to e-classes; leaves are values from outside the
//! region and absent operands. The analysis carries the [`Fact`] of a class, which the operation's own `infer` gives, so
//! every class has one type and shape: a law that the rules are checked against before anything is united.

use std::sync::{Arc, LazyLock};

use cameo_ir::graph::infer;
use cameo_ir::op::Arg;
use cameo_ir::{Attrs, Dim, Fact, Graph, Op, Sym, Tensor, ValueId};
use egg::{Analysis, DidMerge, Id, Language};
use rustc_hash::FxHashMap;

use crate::pattern::splat;

/// The table of operations by number and by name.
pub struct OpTable {
    ops: Vec<Op>,
    numbers: FxHashMap<&'static str, u16>,
}

pub static OPS: LazyLock<OpTable> = LazyLock::new(|| {
    let ops: Vec<Op> = cameo_ir::ops::all().collect();
    let numbers = ops.iter().enumerate().map(|(i, o)| (o.name(), i as u16)).collect();
    OpTable { ops, numbers }
});

impl OpTable {
    pub fn number(&self, name: &str) -> Option<u16> {
        self.numbers.get(name).copied()
    }
    pub fn get(&self, number: u16) -> Op {
        self.ops[number as usize]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Head {
    /// An optional operand that is not given.
    Absent,
    /// A value that is computed outside the region, an input or a weight.
    Leaf(ValueId),
    /// Number of the operation and of its attributes.
    Op(u16, u32),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ENode {
    pub head: Head,
    pub children: Vec<Id>,
}

impl Language for ENode {
    type Discriminant = Head;
    fn discriminant(&self) -> Head {
        self.head
    }
    fn matches(&self, other: &Self) -> bool {
        self.head == other.head && self.children.len() == other.children.len()
    }
    fn children(&self) -> &[Id] {
        &self.children
    }
    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

/// A set of nodes of a region, by their place in it: names would be merged for every term.
pub type Nodes = u64;

/// What is known of an e-class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Data {
    /// `None` for the absent operand and for terms that do not type.
    pub fact: Option<Fact>,
    /// Depends on weights only.
    pub constant: bool,
    /// Every weight below is read by nothing else. Only meaningful for constants.
    pub private: bool,
    /// The value of all elements, for constants.
    pub splat: Option<f64>,
    /// The nodes of the region that the class comes from.
    pub origin: Nodes,
    /// The elements of small weights, which some operations type by.
    small: Option<Tensor>,
}

/// Attributes, leaves and the origin of what is being added.
#[derive(Default)]
pub struct Terms {
    attrs: Vec<Attrs>,
    numbers: FxHashMap<Attrs, u32>,
    leaves: FxHashMap<ValueId, Data>,
    nominal: Nominal,
    /// Given to classes that are made.
    pub origin: Nodes,
    /// Two classes of different types were united: the region must be left alone.
    pub contradiction: bool,
}

pub type EGraph = egg::EGraph<ENode, Terms>;

/// Symbols stand for 64 where costs are compared: long enough for per-element work to outweigh the cost per kernel, as it
/// does in use.
const NOMINAL: i64 = 64;

/// What symbols stand for where costs are compared.
pub type Nominal = Arc<FxHashMap<Arc<str>, i64>>;

pub fn nominal(g: &Graph) -> Nominal {
    let one =
        |(s, r): (&Arc<str>, &cameo_ir::graph::SymbolRange)| (s.clone(), NOMINAL.clamp(r.min.max(1), r.max.max(1)));
    Arc::new(g.symbols.iter().map(one).collect())
}

impl Terms {
    pub fn new(nominal: &Nominal) -> Self {
        Self {
            nominal: nominal.clone(),
            ..Self::default()
        }
    }

    pub fn attrs(&self, number: u32) -> &Attrs {
        &self.attrs[number as usize]
    }

    pub fn intern(&mut self, attrs: &Attrs) -> u32 {
        if let Some(n) = self.numbers.get(attrs) {
            return *n;
        }
        let n = self.attrs.len() as u32;
        self.attrs.push(attrs.clone());
        self.numbers.insert(attrs.clone(), n);
        n
    }

    /// Describes `v`, to be added as a leaf; `constants` are those of the graph.
    pub fn leaf(&mut self, g: &Graph, constants: &[bool], v: ValueId) -> ENode {
        self.leaves.entry(v).or_insert_with(|| {
            let weight = g.constant(v);
            let constant = constants[v.0 as usize];
            Data {
                fact: Some(g.fact(v).clone()),
                constant,
                private: constant && private(g, v, RECIPE_DEPTH),
                splat: weight.and_then(|_| splat(g, v)),
                origin: 0,
                small: weight.filter(|t| t.len() <= Fact::KNOWN_MAX).cloned(),
            }
        });
        ENode {
            head: Head::Leaf(v),
            children: vec![],
        }
    }

    /// An estimate of a dim, at least 1.
    pub fn estimate(&self, d: &Dim) -> u64 {
        let symbol = |s: &Sym| match s {
            Sym::Named(n) => Some(self.nominal.get(n).copied().unwrap_or(NOMINAL)),
            _ => None,
        };
        d.eval(&symbol).unwrap_or(NOMINAL).max(1) as u64
    }
}

/// Recipes of weights are a few nodes: fold, transpose, reshape.
const RECIPE_DEPTH: usize = 16;

/// Whether nothing else reads the constant `v` or what it is made of.
fn private(g: &Graph, v: ValueId, depth: usize) -> bool {
    let inputs = g.producer(v).map(|(n, _)| &g.node(n).inputs);
    let mut below = inputs.into_iter().flatten().flatten();
    g.user_count(v) == 1 && depth > 0 && below.all(|v| private(g, *v, depth - 1))
}

impl Analysis<ENode> for Terms {
    type Data = Data;

    fn make(egraph: &mut EGraph, enode: &ENode, _: Id) -> Data {
        let (op, attrs) = match enode.head {
            Head::Absent => return Data::default(),
            Head::Leaf(v) => return egraph.analysis.leaves.get(&v).cloned().unwrap_or_default(),
            Head::Op(op, attrs) => (OPS.get(op), egraph.analysis.attrs(attrs)),
        };
        let children: Vec<(Head, &Data)> = enode
            .children
            .iter()
            .map(|c| (egraph[*c].nodes[0].head, &egraph[*c].data))
            .collect();
        let args: Vec<Option<Arg>> = children
            .iter()
            .map(|(_, d)| {
                d.fact.as_ref().map(|fact| Arg {
                    fact,
                    constant: d.small.as_ref(),
                })
            })
            .collect();
        let typed = children.iter().all(|(h, d)| *h == Head::Absent || d.fact.is_some());
        let fact = typed
            .then(|| infer(op, attrs, &args, 1).ok())
            .flatten()
            .and_then(|f| f.into_iter().next());
        let mut given = children
            .iter()
            .filter(|(h, _)| *h != Head::Absent)
            .map(|(_, d)| d)
            .peekable();
        let fixed = fact.as_ref().is_some_and(|f| f.static_shape().is_some()) && given.peek().is_some();
        let (mut constant, mut private) = (fixed, fixed);
        for d in given {
            constant &= d.constant;
            private &= d.private;
        }
        Data {
            fact,
            constant,
            private: private && constant,
            splat: None,
            origin: egraph.analysis.origin,
            small: None,
        }
    }

    fn merge(&mut self, a: &mut Data, b: Data) -> DidMerge {
        let fact = match (&a.fact, &b.fact) {
            (Some(x), Some(y)) => {
                self.contradiction |= x.dtype != y.dtype || x.shape != y.shape;
                Some(if x.known.is_none() { y } else { x }.clone())
            }
            (x, y) => x.as_ref().or(y.as_ref()).cloned(),
        };
        let merged = Data {
            fact,
            constant: a.constant || b.constant,
            private: a.private && b.private,
            splat: a.splat.or(b.splat),
            origin: a.origin | b.origin,
            small: a.small.clone().or_else(|| b.small.clone()),
        };
        let did = DidMerge(merged != *a, merged != b);
        *a = merged;
        did
    }
}
