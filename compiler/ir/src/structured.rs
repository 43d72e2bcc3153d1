//! The meaning of an operation as loops: iterators, index maps and a scalar body, all plain data.
//!
//! A [`Compute`] says for every point of an iteration space which scalar to write where:
//!
//! ```text
//! for i0 in 0..extents[0] … for i(p-1) in 0..extents[p-1]        parallel
//!   acc = identity
//!   for ip … in 0..extents[p..]                                  reduced by `combine`
//!     acc = combine(acc, body(i0, …))
//!   output[store(i0, …, i(p-1))] = acc
//! ```
//!
//! Matrix products, convolutions, poolings, reductions, pointwise work and data movement are all of this form; the
//! kernel room recognises contractions in it, fuses bodies and maps every index to an address. Laws: without `combine`
//! there are no reduction extents; `store` maps distinct parallel points to distinct outputs; all points of an output
//! are written by exactly one part of the lowering.

use rustc_hash::FxHashMap;

use crate::{DType, Dim, Real, Sym};

/// A scalar function of one argument. Float functions follow C99 in special cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unary {
    Neg,
    Abs,
    Sign,
    Exp,
    Log,
    Log1p,
    Sqrt,
    Reciprocal,
    Erf,
    /// x Φ(x) = x (1 + erf(x / √2)) / 2.
    Gelu,
    Tanh,
    Sigmoid,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Asinh,
    Acosh,
    Atanh,
    Floor,
    Ceil,
    /// Half to even.
    Round,
    /// Logical, of a bool.
    Not,
    /// Bitwise, of an integer.
    BitNot,
    IsNan,
    IsInf,
}

/// A scalar function of two arguments of the same type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    /// Integers: truncates toward zero; division by zero gives 0.
    Div,
    /// C `fmod` for floats; for integers the sign of the dividend.
    Rem,
    /// The sign of the divisor (Python `%`).
    Mod,
    Pow,
    /// NaN if either is NaN.
    Min,
    /// NaN if either is NaN.
    Max,
    /// Comparisons give bool.
    Eq,
    Lt,
    Le,
    And,
    Or,
    Xor,
    Shl,
    Shr,
}

impl Unary {
    /// What it makes of a known float; `None` where nothing is known then.
    pub fn of_real(self, x: &Dim) -> Option<Dim> {
        let op = match self {
            Self::Neg => Real::Neg,
            Self::Abs => Real::Abs,
            Self::Floor => Real::Floor,
            Self::Ceil => Real::Ceil,
            Self::Round => Real::Round,
            Self::Sqrt => Real::Sqrt,
            Self::Reciprocal => return Some(Dim::apply(Real::Div, &Dim::real(1.0), x)),
            _ => return None,
        };
        Some(Dim::map_real(op, x))
    }
}

impl Binary {
    /// What it makes of two known floats, before it is rounded.
    pub fn of_reals(self, a: &Dim, b: &Dim) -> Option<Dim> {
        let op = match self {
            Self::Add => Real::Add,
            Self::Sub => Real::Sub,
            Self::Mul => Real::Mul,
            Self::Div => Real::Div,
            Self::Min => Real::Min,
            Self::Max => Real::Max,
            _ => return None,
        };
        Some(Dim::apply(op, a, b))
    }
}

/// How a reduction joins two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Combine {
    Add,
    Mul,
    Min,
    Max,
    Or,
    And,
}

/// A constant by its bits, so that bodies compare and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scalar {
    /// `f64::to_bits`; rounded to the node's type.
    Float(u64),
    Int(i64),
}

/// Index of a node of a [`Body`].
pub type ExprId = u32;

/// One scalar operation; operands are earlier nodes of the same body.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    Const(DType, Scalar),
    /// An `i64` from iterators and dims.
    Index(Dim),
    /// Reads operand `operand` at `index`, one dim per axis.
    /// With `fill`, an index outside the operand reads as that constant; without, the index is in bounds by construction.
    Load {
        operand: u32,
        dtype: DType,
        index: Vec<Dim>,
        fill: Option<Scalar>,
    },
    Unary(Unary, ExprId),
    Binary(Binary, ExprId, ExprId),
    /// `if cond { a } else { b }`; both sides may be evaluated.
    Select(ExprId, ExprId, ExprId),
    /// ONNX `Cast`: float to int truncates, to bool is `!= 0`.
    Cast(DType, ExprId),
    /// The bits as those of another type of the same size; neither is bool.
    Bits(DType, ExprId),
    /// An index from data (`i64`): negative counts from the end; outside `0..extent` it is clamped and the run reports an error.
    CheckedIndex(ExprId, Dim),
}

/// A hash-consed scalar DAG. `Sym::Aux(n)` in an index is the value of node `n`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    nodes: Vec<Expr>,
    types: Vec<DType>,
    seen: FxHashMap<Expr, ExprId>,
}

impl Body {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn nodes(&self) -> &[Expr] {
        &self.nodes
    }

    pub fn get(&self, id: ExprId) -> &Expr {
        &self.nodes[id as usize]
    }

    pub fn dtype(&self, id: ExprId) -> DType {
        self.types[id as usize]
    }

    pub fn push(&mut self, e: Expr) -> ExprId {
        if let Some(id) = self.seen.get(&e) {
            return *id;
        }
        let t = match &e {
            Expr::Const(t, _) | Expr::Load { dtype: t, .. } | Expr::Cast(t, _) | Expr::Bits(t, _) => *t,
            Expr::Index(_) | Expr::CheckedIndex(..) => DType::I64,
            Expr::Unary(Unary::IsNan | Unary::IsInf | Unary::Not, _) => DType::Bool,
            Expr::Unary(_, a) => self.dtype(*a),
            Expr::Binary(Binary::Eq | Binary::Lt | Binary::Le, ..) => DType::Bool,
            Expr::Binary(_, a, _) | Expr::Select(_, a, _) => self.dtype(*a),
        };
        let id = self.nodes.len() as ExprId;
        self.nodes.push(e.clone());
        self.types.push(t);
        self.seen.insert(e, id);
        id
    }

    pub fn float(&mut self, t: DType, v: f64) -> ExprId {
        self.push(Expr::Const(t, Scalar::Float(v.to_bits())))
    }

    pub fn int(&mut self, t: DType, v: i64) -> ExprId {
        self.push(Expr::Const(t, Scalar::Int(v)))
    }

    /// The constant `v` in whatever type `t` is.
    pub fn number(&mut self, t: DType, v: f64) -> ExprId {
        if t.is_float() {
            self.float(t, v)
        } else {
            self.int(t, v as i64)
        }
    }

    pub fn load(&mut self, operand: usize, dtype: DType, index: Vec<Dim>) -> ExprId {
        self.push(Expr::Load {
            operand: operand as u32,
            dtype,
            index,
            fill: None,
        })
    }

    pub fn unary(&mut self, op: Unary, a: ExprId) -> ExprId {
        self.push(Expr::Unary(op, a))
    }

    pub fn binary(&mut self, op: Binary, a: ExprId, b: ExprId) -> ExprId {
        self.push(Expr::Binary(op, a, b))
    }

    pub fn select(&mut self, c: ExprId, a: ExprId, b: ExprId) -> ExprId {
        self.push(Expr::Select(c, a, b))
    }

    /// No node when the type is already right.
    pub fn cast(&mut self, t: DType, a: ExprId) -> ExprId {
        if self.dtype(a) == t {
            a
        } else {
            self.push(Expr::Cast(t, a))
        }
    }

    /// Copies `root` of `other` in, with its iterators replaced by `index` and its operands renumbered by `load`, which is
    /// given each load (operand, type, substituted index, fill) and returns the node that stands for it.
    pub fn inline(
        &mut self,
        other: &Self,
        root: ExprId,
        index: &[Dim],
        load: &mut dyn FnMut(&mut Self, u32, DType, Vec<Dim>, Option<Scalar>) -> ExprId,
    ) -> ExprId {
        let needed = other.reachable(&[root]);
        let mut map: Vec<ExprId> = vec![u32::MAX; other.nodes.len()];
        for (i, e) in other.nodes.iter().enumerate() {
            if !needed[i] {
                continue;
            }
            let dim = |d: &Dim| {
                d.subst(&|s| match s {
                    Sym::Iter(k) => index.get(*k as usize).cloned(),
                    Sym::Aux(k) => Some(Dim::aux(map[*k as usize])),
                    Sym::Named(_) => None,
                })
            };
            let m = |x: &ExprId| map[*x as usize];
            map[i] = match e {
                Expr::Const(..) => self.push(e.clone()),
                Expr::Index(d) => {
                    let d = dim(d);
                    self.push(Expr::Index(d))
                }
                Expr::Load {
                    operand,
                    dtype,
                    index,
                    fill,
                } => {
                    let ix = index.iter().map(dim).collect();
                    load(self, *operand, *dtype, ix, *fill)
                }
                Expr::Unary(o, a) => self.push(Expr::Unary(*o, m(a))),
                Expr::Binary(o, a, b) => self.push(Expr::Binary(*o, m(a), m(b))),
                Expr::Select(c, a, b) => self.push(Expr::Select(m(c), m(a), m(b))),
                Expr::Cast(t, a) => self.push(Expr::Cast(*t, m(a))),
                Expr::Bits(t, a) => self.push(Expr::Bits(*t, m(a))),
                Expr::CheckedIndex(a, d) => {
                    let (a, d) = (m(a), dim(d));
                    self.push(Expr::CheckedIndex(a, d))
                }
            };
        }
        map[root as usize]
    }

    /// The part that the roots need, with every dim mapped by `f`; and for each old node its new id (`u32::MAX`: dropped).
    pub fn rebuild(&self, roots: &[ExprId], f: &dyn Fn(&Dim) -> Dim) -> (Self, Vec<ExprId>) {
        self.rebuilt(roots, f, &|_, _| {})
    }

    /// Changes operand and index of every load; gives for each old node its new id.
    pub fn map_loads(&mut self, f: &dyn Fn(&mut u32, &mut Vec<Dim>)) -> Vec<ExprId> {
        let all: Vec<ExprId> = (0..self.nodes.len() as ExprId).collect();
        let (body, map) = self.rebuilt(&all, &Dim::clone, f);
        *self = body;
        map
    }

    fn rebuilt(
        &self,
        roots: &[ExprId],
        f: &dyn Fn(&Dim) -> Dim,
        load: &dyn Fn(&mut u32, &mut Vec<Dim>),
    ) -> (Self, Vec<ExprId>) {
        let live = self.reachable(roots);
        let mut out = Self::new();
        let mut map = vec![ExprId::MAX; self.nodes.len()];
        for (i, e) in self.nodes.iter().enumerate().filter(|(i, _)| live[*i]) {
            let dim = |d: &Dim| {
                let aux = d.subst(&|s| match s {
                    Sym::Aux(k) => Some(Dim::aux(map[*k as usize])),
                    _ => None,
                });
                f(&aux)
            };
            let m = |x: &ExprId| map[*x as usize];
            let new = match e {
                Expr::Const(..) => e.clone(),
                Expr::Index(d) => Expr::Index(dim(d)),
                Expr::Load {
                    operand,
                    dtype,
                    index,
                    fill,
                } => {
                    let (mut operand, mut index) = (*operand, index.iter().map(dim).collect());
                    load(&mut operand, &mut index);
                    Expr::Load {
                        operand,
                        dtype: *dtype,
                        index,
                        fill: *fill,
                    }
                }
                Expr::Unary(o, a) => Expr::Unary(*o, m(a)),
                Expr::Binary(o, a, b) => Expr::Binary(*o, m(a), m(b)),
                Expr::Select(c, a, b) => Expr::Select(m(c), m(a), m(b)),
                Expr::Cast(t, a) => Expr::Cast(*t, m(a)),
                Expr::Bits(t, a) => Expr::Bits(*t, m(a)),
                Expr::CheckedIndex(a, d) => Expr::CheckedIndex(m(a), dim(d)),
            };
            map[i] = out.push(new);
        }
        (out, map)
    }

    /// For each node whether the roots need it, through operands and through indices.
    pub fn reachable(&self, roots: &[ExprId]) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        for r in roots {
            live[*r as usize] = true;
        }
        for i in (0..self.nodes.len()).rev() {
            if live[i] {
                self.operands(i as ExprId, &mut |o| live[o as usize] = true);
            }
        }
        live
    }

    /// Calls `f` for each node that node `id` reads, those inside indices included.
    pub fn operands(&self, id: ExprId, f: &mut dyn FnMut(ExprId)) {
        let aux = |d: &Dim, f: &mut dyn FnMut(ExprId)| {
            d.visit(&mut |s| {
                if let Sym::Aux(k) = s {
                    f(*k);
                }
            });
        };
        match self.get(id) {
            Expr::Const(..) => {}
            Expr::Index(d) => aux(d, f),
            Expr::Load { index, .. } => index.iter().for_each(|d| aux(d, f)),
            Expr::Unary(_, a) | Expr::Cast(_, a) | Expr::Bits(_, a) => f(*a),
            Expr::Binary(_, a, b) => {
                f(*a);
                f(*b);
            }
            Expr::Select(c, a, b) => {
                f(*c);
                f(*a);
                f(*b);
            }
            Expr::CheckedIndex(a, d) => {
                f(*a);
                aux(d, f);
            }
        }
    }
}

/// One nest of loops that writes (part of) one output of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compute {
    /// Which output of the operation.
    pub output: usize,
    /// Element type written.
    pub dtype: DType,
    /// Extents of all iterators; the first `parallel` are parallel, the rest are reduced.
    pub extents: Vec<Dim>,
    pub parallel: usize,
    /// `Some` exactly when there are reduction iterators.
    pub combine: Option<Combine>,
    pub body: Body,
    pub root: ExprId,
    /// Output coordinates from the parallel iterators, one dim per axis.
    pub store: Vec<Dim>,
}

impl Compute {
    /// Pointwise over `shape`: `f` builds the body, given the iterators.
    pub fn map(dtype: DType, shape: &[Dim], f: impl FnOnce(&mut Body, &[Dim]) -> ExprId) -> Self {
        let iters: Vec<Dim> = (0..shape.len()).map(Dim::iter).collect();
        let mut body = Body::new();
        let root = f(&mut body, &iters);
        Self {
            output: 0,
            dtype,
            extents: shape.to_vec(),
            parallel: shape.len(),
            combine: None,
            body,
            root,
            store: iters,
        }
    }

    /// Over `shape`, reducing `reduced` by `combine`: `f` is given parallel and reduction iterators.
    pub fn reduce(
        dtype: DType,
        shape: &[Dim],
        reduced: &[Dim],
        combine: Combine,
        f: impl FnOnce(&mut Body, &[Dim], &[Dim]) -> ExprId,
    ) -> Self {
        let n = shape.len();
        let iters: Vec<Dim> = (0..n + reduced.len()).map(Dim::iter).collect();
        let mut body = Body::new();
        let root = f(&mut body, &iters[..n], &iters[n..]);
        let extents = shape.iter().chain(reduced).cloned().collect();
        let store = iters[..n].to_vec();
        Self {
            output: 0,
            dtype,
            extents,
            parallel: n,
            combine: Some(combine),
            body,
            root,
            store,
        }
    }

    /// Like [`Compute::reduce`] without iterators for axes of constant extent 1, whose index is 0; without a reduction when
    /// none of `reduced` remains. `f` gives the body's root and the output coordinates.
    pub fn nest(
        dtype: DType,
        parallel: &[Dim],
        reduced: &[Dim],
        combine: Combine,
        f: impl FnOnce(&mut Body, &[Dim], &[Dim]) -> (ExprId, Vec<Dim>),
    ) -> Self {
        let mut extents = vec![];
        let mut index = |axes: &[Dim]| -> Vec<Dim> {
            let mut out = Vec::with_capacity(axes.len());
            for d in axes {
                if d.is_one() {
                    out.push(Dim::ZERO);
                } else {
                    out.push(Dim::iter(extents.len()));
                    extents.push(d.clone());
                }
            }
            out
        };
        let outer = index(parallel);
        let inner = index(reduced);
        let n = parallel.iter().filter(|d| !d.is_one()).count();
        let mut body = Body::new();
        let (root, store) = f(&mut body, &outer, &inner);
        Self {
            output: 0,
            dtype,
            combine: (extents.len() > n).then_some(combine),
            extents,
            parallel: n,
            body,
            root,
            store,
        }
    }

    /// The operand read and its index map, when the body is a single plain load: pure data movement.
    pub fn as_movement(&self) -> Option<(u32, &[Dim])> {
        match self.body.get(self.root) {
            Expr::Load {
                operand,
                index,
                fill: None,
                dtype,
            } if self.combine.is_none() && *dtype == self.dtype => Some((*operand, index)),
            _ => None,
        }
    }
}
