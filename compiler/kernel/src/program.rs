//! What code generation is given: storages, kernels and the steps that call them, all plain data.
//!
//! A [`Program`] no longer knows operations. A kernel is a loop nest or a contraction over numbered buffers; its dims
//! are expressed in the model's symbols, renamed `d0, d1, …` so that equal kernels are equal data and are emitted once.
//! Invariant: steps are in an order in which every buffer is written before it is read.

use std::fmt;
use std::sync::Arc;

use cameo_ir::dim::{COUNTED, CUSTOM, ELEMENT};
use cameo_ir::structured::{Body, Combine, Expr, ExprId};
use cameo_ir::tensor::Texts;
use cameo_ir::{Bounds, DType, Dim, Graph, Origin, Sym, SymbolRange, ValueId};
use rustc_hash::FxHashMap;

use crate::tuning;

mod body;
mod custom;

pub use custom::Custom;

/// Operand number by which the epilogue of a contraction reads the accumulated sum.
pub const ACC: u32 = u32::MAX;
/// Operand numbers from here on read the results of a nest's reductions.
pub const RED: u32 = u32::MAX / 2;

#[derive(Clone, Debug)]
pub struct Program {
    pub name: Arc<str>,
    pub symbols: Vec<(Arc<str>, SymbolRange)>,
    pub inputs: Vec<Io>,
    pub outputs: Vec<Io>,
    pub storages: Vec<Storage>,
    pub weights: Vec<Weight>,
    pub kernels: Vec<Kernel>,
    pub steps: Vec<Step>,
    /// By first step, outer ones before inner ones.
    pub loops: Vec<Loop>,
    /// By step.
    pub counts: Vec<Count>,
    /// Outputs that stay in the memory of an input.
    pub caches: Vec<Cache>,
    /// Symbols that are elements of inputs.
    pub elements: Vec<Element>,
    /// Steps that call operators of the caller or of the runtime, each behind those that its shapes depend on.
    pub customs: Vec<Custom>,
    /// Those of all constants.
    pub texts: Texts,
    /// The model is only valid for symbols for which these hold: rules and index bounds that could not be proven.
    pub requirements: Vec<Requirement>,
    /// Holds the constants and the recipes that `weights` refer to.
    pub graph: Graph,
}

/// `a <= b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub a: Dim,
    pub b: Dim,
    /// The ONNX nodes that need it.
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Io {
    pub name: Arc<str>,
    pub dtype: DType,
    pub shape: Vec<Dim>,
}

/// An output that is an input with more rows behind it, in the input's memory: that has room for `capacity` rows, in which
/// the input and the output are dense but for the rows behind theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Index of the input.
    pub input: usize,
    /// Index of the output.
    pub output: usize,
    /// The axis of rows.
    pub axis: usize,
    /// The symbol that tells how many rows there is room for.
    pub capacity: Arc<str>,
}

/// A symbol that is an element of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub symbol: Arc<str>,
    /// Index of the input, which has integers or bools.
    pub input: usize,
    /// Row-major position.
    pub at: usize,
}

/// Memory for one tensor, dense in some axis order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    pub name: Arc<str>,
    pub dtype: DType,
    pub elements: Dim,
    pub place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Input(usize),
    Output(usize),
    Arena,
    /// Index into [`Program::weights`].
    Weight(usize),
    /// No tensor: what the runtime knows of the call, by index into [`Program::customs`].
    Operator(usize),
}

/// Constant bytes: a value of the graph that depends on weights only, possibly in another arrangement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Weight {
    pub value: ValueId,
    pub dtype: DType,
    /// `None`: row-major as it is.
    pub pack: Option<Pack>,
    /// Elements in the weights section.
    pub elements: usize,
}

/// Panels for a contraction: `[batch…][ceil(n/panel)][k…][panel]`, the last panel padded with zeros.
///
/// The source element is `offset + Σ index·stride` of the row-major value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pack {
    /// (extent, source stride) of each batch iterator, outermost first.
    pub batch: Vec<(usize, i64)>,
    pub n: (usize, i64),
    /// Outermost first.
    pub k: Vec<(usize, i64)>,
    pub offset: i64,
    pub panel: usize,
    /// `Some`: the elements are those of transformed 3×3 windows, all panels of one point after those of another.
    pub windows: Option<Windows>,
}

/// The windows of a convolution's weight, of which [`Winograd`] takes the transforms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Windows {
    /// Outputs per side of a tile.
    pub side: usize,
    /// Source strides along y and x.
    pub strides: [i64; 2],
}

/// A buffer that a kernel takes: how coordinates become an element offset.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Buffer {
    pub dtype: DType,
    /// One per axis, in elements.
    pub strides: Vec<Dim>,
    pub extents: Vec<Dim>,
}

impl Buffer {
    /// Element offset of coordinates.
    pub fn offset(&self, index: &[Dim]) -> Dim {
        index
            .iter()
            .zip(&self.strides)
            .fold(Dim::ZERO, |a, (i, s)| a + i.clone() * s.clone())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Parameters, in call order; outputs last.
    pub buffers: Vec<Buffer>,
    /// How many symbols `d0..` it takes.
    pub dims: usize,
    pub body: KernelBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelBody {
    Nest(Nest),
    Contraction(Contraction),
    Winograd(Winograd),
    Chain(Chain),
    InOrder(InOrder),
    /// Calls an operator of the caller. Buffers: the call, operands, and results from this one on.
    Custom(usize),
}

/// What is computed one element after the other, by one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InOrder {
    /// Numbers the flags that are set. Buffers: `n` flags, the positions of those that are set, how many are set before each
    /// flag, how many there are.
    Compact { n: Dim },
    /// Checks the lengths of sequences. Buffers: `n` lengths, the same where each is at most `most` and their sum `total`; else
    /// some for which that holds, and an error.
    Lengths { n: Dim, total: Dim, most: Dim },
    /// Checks an integer. Buffers: it, and the same where it is from 0 to `most`; else the nearest that is, and an error.
    Number { most: Dim },
    /// Checks that `a` is at most `b`. No buffers.
    Rule { a: Dim, b: Dim },
}

impl InOrder {
    /// Elements that it goes through.
    pub fn n(&self) -> Dim {
        match self {
            Self::Compact { n } | Self::Lengths { n, .. } => n.clone(),
            Self::Number { .. } | Self::Rule { .. } => Dim::ONE,
        }
    }

    /// Buffers from this one on are written.
    pub const OUTPUTS: usize = 1;
}

/// Kernels of which each reads the rows that the one before wrote, run block of rows by block: what is between them never
/// leaves a thread's scratch. Logits, softmax and weighted sum are one: attention without its matrix of logits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Nests and contractions. The parallel iterators of a nest, and batch and m of a contraction, count the same rows
    /// in the same order.
    pub links: Vec<KernelBody>,
    /// Rows are `batch * m`; a block lies in one batch.
    pub batch: Dim,
    pub m: Dim,
    /// Elements per row of each local tensor: the kernel's last buffers, indexed by row and element.
    pub locals: Vec<Dim>,
    pub schedule: ChainSchedule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainSchedule {
    /// Most rows of a block: their local tensors stay in L2.
    pub rows: usize,
    /// Blocks are whole multiples of this but the last.
    pub tile: usize,
}

/// Fewer rows do not pay for packing what they are multiplied with.
pub const PACKED_FROM: i64 = 16;

impl Chain {
    /// Elements from one row of a local tensor to the next: whole vectors, off powers of two.
    pub fn stride(width: &Dim) -> Dim {
        let lanes = Dim::from(MAX_LANES);
        (width.ceil_div(&lanes) + Dim::ONE) * lanes
    }

    /// Elements of the packed panels of a link's operand B, made once per batch: its rows are far apart in memory, and each
    /// block of rows reads all of it. `None`: it is packed already, or read once.
    #[must_use]
    pub fn panels(&self, link: &KernelBody) -> Option<Dim> {
        let KernelBody::Contraction(c) = link else { return None };
        let few = self.m.as_const().is_some_and(|m| m < PACKED_FROM);
        if matches!(c.b, BOperand::Packed { .. }) || c.a_fill || few {
            return None;
        }
        let width = Dim::from(c.schedule.nv * c.schedule.lanes);
        Some(c.n.ceil_div(&width) * width * Dim::product(&c.k))
    }

    /// Bytes of all links' panels, each in whole cache lines.
    #[must_use]
    pub fn panel_bytes(&self) -> Dim {
        let lanes = Dim::from(MAX_LANES);
        let whole = |e: Dim| e.ceil_div(&lanes) * lanes.clone() * Dim::from(4i64);
        self.links
            .iter()
            .filter_map(|l| self.panels(l))
            .map(whole)
            .fold(Dim::ZERO, |a, b| a + b)
    }

    /// Bytes of the local tensors of one block; they are f32.
    pub fn local_bytes(&self) -> Dim {
        let row = self.locals.iter().fold(Dim::ZERO, |a, w| a + Self::stride(w));
        row * Dim::from(4 * self.schedule.rows)
    }
}

/// Writes `root` to `buffer` at `index`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    pub buffer: usize,
    pub index: Vec<Dim>,
    pub root: ExprId,
}

/// One reduction of a nest; its result is read as operand `RED + i`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduction {
    pub combine: Combine,
    pub dtype: DType,
    pub root: ExprId,
}

/// Parallel loops over `outer`; inside, loops over `row` for the reductions and for stores that depend on row iterators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nest {
    /// Extents of iterators `0..outer.len()`, outermost in memory first.
    pub outer: Vec<Dim>,
    /// Extents of the following iterators.
    pub row: Vec<Dim>,
    pub body: Body,
    pub reductions: Vec<Reduction>,
    pub stores: Vec<Store>,
    /// Expressions over row iterators that several stages use and that are dear: kept in scratch after the first.
    pub temps: Vec<ExprId>,
    pub schedule: NestSchedule,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NestSchedule {
    /// Iterator whose consecutive values go into vector lanes.
    pub vector: Option<usize>,
}

/// `acc[b, m, n] = Σk A[b, m, k] · B[b, n, k]`, then an epilogue on `acc`.
///
/// Iterators: `batch.len()` batch ones, then m, n, then those of k, outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contraction {
    pub batch: Vec<Dim>,
    pub m: Dim,
    pub n: Dim,
    pub k: Vec<Dim>,
    /// Index of A over batch, m and k iterators; with `a_fill`, out-of-range reads are 0.
    pub a: Operand,
    pub a_fill: bool,
    pub b: BOperand,
    pub epilogue: Body,
    pub stores: Vec<Store>,
    pub schedule: ContractionSchedule,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    pub buffer: usize,
    pub index: Vec<Dim>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BOperand {
    /// Panels of a weight (see [`Pack`]); `batch[i]` says whether B depends on batch iterator `i`.
    Packed { buffer: usize, batch: Vec<bool> },
    /// Consecutive n are consecutive in memory.
    Direct(Operand),
    /// Anything else: each panel is copied to scratch before use.
    Gathered(Operand),
}

/// Register tile and cache block of a contraction, in the order of its loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContractionSchedule {
    /// f32 lanes of a vector.
    pub lanes: usize,
    /// Rows of the register tile.
    pub mr: usize,
    /// Vectors per row of the register tile.
    pub nv: usize,
    /// Columns of a panel of a packed operand: a part of a tile, or several tiles.
    pub panel: usize,
    /// Rows of A that are used with all panels before the next rows: they stay in L2.
    pub mc: usize,
    /// Above 1, the outermost batch iterator, of this extent, counts parts of the only reduction: see [`crate::split`].
    pub split: usize,
}

/// A 3×3 convolution of stride 1 as Winograd's F(s×s, 3×3) (Lavin and Gray, arXiv:1509.09308): tiles of (s+2)² inputs are
/// transformed, multiplied with transformed weights as (s+2)² contractions over the channels, and transformed back to s²
/// outputs, then an epilogue on each.
///
/// Windows of three axes and more are sums over the taps along the others. Iterators: image, y, x, output channel, tap, input
/// channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Winograd {
    pub images: Dim,
    pub height: Dim,
    pub width: Dim,
    pub n: Dim,
    pub depth: Dim,
    pub channels: Dim,
    /// Index of the first element of an output's window; channels are consecutive. What is outside along `axes` is 0.
    pub a: Operand,
    /// The axes of A that y and x run along.
    pub axes: [usize; 2],
    /// Other axes of A along which elements may be outside: those are 0, too.
    pub checked: Vec<usize>,
    /// Buffer of the transformed weight: panels by point.
    pub b: usize,
    pub epilogue: Body,
    pub stores: Vec<Store>,
    pub schedule: WinogradSchedule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WinogradSchedule {
    /// Outputs per side of a tile: 2 or 4.
    pub side: usize,
    /// Most tiles of a block, whose transforms stay in L2.
    pub block: usize,
    /// Of the contractions: tiles are their rows.
    pub product: ContractionSchedule,
}

/// Most loops inside of each other that a program may have.
pub const LOOP_DEPTH: usize = 8;

/// Steps that run `count` times in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    pub steps: std::ops::Range<usize>,
    pub count: Dim,
    pub moves: Vec<Move>,
    /// What an iteration begins with: a symbol becomes the next element of a list.
    pub rows: Option<Symbol>,
    /// Whether `count`, a symbol that is counted right before the loop, is read again behind every iteration.
    pub again: bool,
}

/// A symbol that is read in the course of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    pub name: Arc<str>,
    /// Where its `i64` value is.
    pub storage: usize,
    /// Its largest value, without symbols that are counted later.
    pub most: Dim,
}

/// A symbol that is known from a step on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The first step that may use it; the number of steps when there is none.
    pub step: usize,
    pub symbol: Symbol,
}

/// A buffer of a step that lies elsewhere in the next iteration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub step: usize,
    pub buffer: usize,
    pub way: Way,
    pub bytes: Dim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Further by the bytes each time.
    Advance,
    /// In the first of two halves, then the second, then the first again.
    Forth,
    /// In the second of two halves first.
    Back,
}

/// A call of a kernel.
#[derive(Clone, Debug)]
pub struct Step {
    pub kernel: usize,
    /// Storages, one per kernel buffer.
    pub buffers: Vec<usize>,
    /// Values of `d0, d1, …` in the model's symbols.
    pub dims: Vec<Dim>,
    /// Estimated scalar operations.
    pub work: Dim,
    /// FLOPs in the sense of the literature: multiply and add count one each.
    pub flops: Dim,
    pub origin: Origin,
    /// Values of the graph that the step materialises, with their storages: what `cameo diff` compares.
    pub values: Vec<(ValueId, usize)>,
}

impl WinogradSchedule {
    /// The name of the form: `winograd F(4x4,3x3)`.
    #[must_use]
    pub fn form(&self) -> String {
        format!("winograd F({0}x{0},3x3)", self.side)
    }
}

impl fmt::Display for WinogradSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block(tiles={}); {}", self.block, self.product)
    }
}

impl fmt::Display for ContractionSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.nv * self.lanes;
        write!(
            f,
            "block(m={}); panel(n={}); tile(m={}, n={n}); vector(n, {}); parallel(m, n)",
            self.mc, self.panel, self.mr, self.lanes
        )?;
        match self.split {
            1 => Ok(()),
            parts => write!(f, "; split(k, {parts})"),
        }
    }
}

/// Kernels by number, equal ones once.
#[derive(Default)]
pub struct Kernels {
    pub list: Vec<Kernel>,
    numbers: FxHashMap<String, usize>,
}

impl Kernels {
    /// The number of a kernel, which is added unless an equal one is there.
    pub fn number(&mut self, kernel: Kernel) -> usize {
        let next = self.list.len();
        let number = *self.numbers.entry(format!("{kernel:?}")).or_insert(next);
        if number == next {
            self.list.push(kernel);
        }
        number
    }
}

/// Which of a step's dims a symbol of a kernel stands for.
pub fn slot(symbol: &str) -> Option<usize> {
    let number = symbol.strip_prefix(ELEMENT).unwrap_or(symbol);
    number.strip_prefix('d')?.parse().ok()
}

impl Step {
    /// A dim of the kernel in the model's symbols.
    pub fn bind(&self, dim: &Dim) -> Dim {
        dim.subst(&|symbol| {
            let Sym::Named(name) = symbol else { return None };
            self.dims.get(slot(name)?).cloned()
        })
    }
}

impl Program {
    /// Whether the step runs more than once.
    pub fn in_loop(&self, step: usize) -> bool {
        self.loops.iter().any(|l| l.steps.contains(&step))
    }

    /// Whether the other one differs in nothing but its kernels: the same steps in the same memory, with the same weights.
    pub fn same_plan(&self, other: &Self) -> bool {
        let steps = |p: &Self| p.steps.len();
        let same = |(a, b): (&Step, &Step)| {
            (&a.buffers, &a.dims, &a.work, &a.flops) == (&b.buffers, &b.dims, &b.work, &b.flops)
        };
        (&self.symbols, &self.inputs, &self.outputs) == (&other.symbols, &other.inputs, &other.outputs)
            && (&self.storages, &self.weights, &self.loops) == (&other.storages, &other.weights, &other.loops)
            && (&self.requirements, &self.counts, steps(self)) == (&other.requirements, &other.counts, steps(other))
            && (&self.caches, &self.elements, &self.customs) == (&other.caches, &other.elements, &other.customs)
            && self.steps.iter().zip(&other.steps).all(same)
    }

    /// The products of a step by their names in tuning files, in the symbols of the model.
    pub fn products(&self, step: usize) -> Vec<String> {
        let step = &self.steps[step];
        let name = |body: &KernelBody| match body {
            KernelBody::Contraction(c) => {
                let bound = |d: &Dim| step.bind(d);
                Some(tuning::key(&bound(&c.m), &bound(&c.n), &[bound(&Dim::product(&c.k))]))
            }
            _ => None,
        };
        match &self.kernels[step.kernel].body {
            KernelBody::Chain(c) => c.links.iter().filter_map(name).collect(),
            body => name(body).into_iter().collect(),
        }
    }

    /// The symbols that a run reads, in the order in which it first does.
    pub fn counted(&self) -> impl Iterator<Item = &Symbol> {
        let loops = self
            .loops
            .iter()
            .filter_map(|l| Some((l.steps.start, l.rows.as_ref()?)));
        let mut all: Vec<(usize, &Symbol)> = self.counts.iter().map(|c| (c.step, &c.symbol)).chain(loops).collect();
        all.sort_by_key(|(step, _)| *step);
        all.into_iter().map(|(_, symbol)| symbol)
    }

    /// The calls of operators that the caller must supply.
    pub fn supplied(&self) -> impl Iterator<Item = &Custom> {
        self.customs.iter().filter(|c| c.is_supplied())
    }

    /// A symbol that sizes depend on although no input's shape has it and nothing counts or gives it.
    pub fn unknown_symbol(&self) -> Option<Arc<str>> {
        let given: Vec<Arc<str>> = self.customs.iter().flat_map(Custom::given).collect();
        let known: Vec<&Arc<str>> = self.counted().map(|s| &s.name).chain(&given).collect();
        let inputs: Vec<Dim> = self.inputs.iter().flat_map(|io| io.shape.clone()).collect();
        let mut found = None;
        let mut look = |d: &Dim| {
            d.visit(&mut |s| {
                if let Sym::Named(name) = s
                    && (name.starts_with(COUNTED) || name.starts_with(CUSTOM))
                    && !known.contains(&name)
                    && !inputs.iter().any(|i| i.uses(s))
                {
                    found.get_or_insert_with(|| name.clone());
                }
            });
        };
        self.steps.iter().flat_map(|s| &s.dims).for_each(&mut look);
        self.outputs.iter().flat_map(|io| &io.shape).for_each(&mut look);
        self.loops.iter().map(|l| &l.count).for_each(&mut look);
        self.requirements.iter().for_each(|r| {
            look(&r.a);
            look(&r.b);
        });
        found
    }

    /// Moves loops and counts to where their steps are now: step `i` is step `place[i]`.
    pub(crate) fn renumber(&mut self, place: &[usize], steps: usize) {
        for l in &mut self.loops {
            // Steps of loops stay as they are.
            l.steps = place[l.steps.start]..place[l.steps.start] + l.steps.len();
            l.moves.iter_mut().for_each(|m| m.step = place[m.step]);
        }
        for c in &mut self.counts {
            c.step = place.get(c.step).copied().unwrap_or(steps);
        }
        self.customs.iter_mut().for_each(|c| c.step = place[c.step]);
    }

    /// Storage bytes, symbolic.
    pub fn bytes(&self, storage: usize) -> Dim {
        let s = &self.storages[storage];
        s.elements.clone() * Dim::from(s.dtype.size())
    }
}

impl Kernel {
    /// Calls `f` with every dim of the kernel.
    pub fn visit_dims(&self, f: &mut dyn FnMut(&Dim)) {
        // Mapping visits everything; the result is dropped.
        let cell = std::cell::RefCell::new(f);
        let _ = self.clone().map_dims(&|d| {
            (cell.borrow_mut())(d);
            d.clone()
        });
    }

    /// The kernel with the model's symbols renamed to `d0, d1, …` in order of first use, those that are elements of inputs to
    /// `element.d0`, …, and what those stand for.
    #[must_use]
    pub fn numbered(self) -> (Self, Vec<Dim>) {
        let (kernel, mut replaced) = crate::flat::without_reals(self);
        let (kernel, whole) = crate::flat::one_symbol(kernel);
        // What one stands for may name others.
        let whole = whole.map(|(name, value)| {
            let inner = |s: &Sym| replaced.iter().find(|(n, _)| matches!(s, Sym::Named(o) if o == n));
            (name, value.subst(&|s| inner(s).map(|(_, v)| v.clone())))
        });
        replaced.extend(whole);
        let mut symbols: Vec<Arc<str>> = vec![];
        kernel.visit_dims(&mut |d| {
            d.visit(&mut |s| {
                if let Sym::Named(n) = s
                    && !symbols.contains(n)
                {
                    symbols.push(n.clone());
                }
            });
        });
        let mut kernel = kernel.map_dims(&|d| {
            d.subst(&|s| match s {
                Sym::Named(n) => {
                    let i = symbols.iter().position(|x| x == n)?;
                    // What may be negative still says so.
                    let start = if n.starts_with(ELEMENT) { ELEMENT } else { "" };
                    Some(Dim::sym(&format!("{start}d{i}")))
                }
                _ => None,
            })
        });
        kernel.dims = symbols.len();
        let value = |n: &Arc<str>| match replaced.iter().find(|(name, _)| name == n) {
            Some((_, value)) => value.clone(),
            None => Dim::sym(n),
        };
        (kernel, symbols.iter().map(value).collect())
    }

    /// The kernel with every dim replaced; `f` must be injective.
    #[must_use]
    pub fn map_dims(mut self, f: &dyn Fn(&Dim) -> Dim) -> Self {
        let all = |v: &mut Vec<Dim>| v.iter_mut().for_each(|d| *d = f(d));
        for b in &mut self.buffers {
            all(&mut b.strides);
            all(&mut b.extents);
        }
        self.body.map_dims(f);
        self
    }

    /// Whether buffer `b` is written.
    pub fn writes(&self, b: usize) -> bool {
        if let KernelBody::InOrder(_) = self.body {
            return b >= InOrder::OUTPUTS;
        }
        if let KernelBody::Custom(results) = self.body {
            return b >= results;
        }
        self.body.stores().iter().any(|s| s.buffer == b)
    }

    /// How many of `buffers` the caller gives; the others are local.
    pub fn params(&self) -> usize {
        match &self.body {
            KernelBody::Chain(c) => self.buffers.len() - c.locals.len(),
            _ => self.buffers.len(),
        }
    }

    /// Whether buffers `from` (read) and `to` (written) may be the same memory: each element of `from` is only read by
    /// the point that then writes the same place of `to`, and never after that, which includes the stores that come
    /// later at the same point.
    pub fn may_share(&self, from: usize, to: usize) -> bool {
        let stores = self.body.stores();
        if self.writes(from) || stores.iter().filter(|s| s.buffer == to).count() != 1 {
            return false;
        }
        let Some(at) = stores.iter().position(|s| s.buffer == to) else {
            return false;
        };
        let store = stores[at];
        let body: &Body = match &self.body {
            // Rows of one link are read by others that come later.
            KernelBody::Chain(_) | KernelBody::InOrder(_) | KernelBody::Custom(_) => return false,
            KernelBody::Nest(n) => &n.body,
            KernelBody::Contraction(c) => {
                let other = match &c.b {
                    BOperand::Packed { buffer, .. } => *buffer,
                    BOperand::Direct(o) | BOperand::Gathered(o) => o.buffer,
                };
                if c.a.buffer == from || other == from {
                    return false;
                }
                &c.epilogue
            }
            // Tiles of the input overlap.
            KernelBody::Winograd(w) if w.a.buffer == from || w.b == from => return false,
            KernelBody::Winograd(w) => &w.epilogue,
        };
        let extents = self.body.extents();
        let bounds = Bounds::of(&extents);
        let written = bounds.simplify(&self.buffers[to].offset(&store.index));
        let same = body.nodes().iter().all(|e| match e {
            Expr::Load {
                operand, index, fill, ..
            } if *operand as usize == from => {
                fill.is_none() && bounds.simplify(&self.buffers[from].offset(index)) == written
            }
            _ => true,
        });
        let after: Vec<ExprId> = stores[at + 1..].iter().map(|s| s.root).collect();
        let later = body.reachable(&after);
        let free = body.nodes().iter().zip(later).all(|(e, live)| match e {
            Expr::Load { operand, .. } => !live || *operand as usize != from,
            _ => true,
        });
        // The store must come in the last pass over the row: earlier passes are followed by reads.
        let last = match &self.body {
            KernelBody::Nest(n) if !n.row.is_empty() => {
                let s = crate::nest::stages(n);
                let level = s.level[store.root as usize];
                s.full[store.root as usize]
                    && s.of_reduction.iter().all(|r| *r < level)
                    && n.stores
                        .iter()
                        .all(|o| !s.full[o.root as usize] || s.level[o.root as usize] <= level)
            }
            _ => true,
        };
        same && free && last
    }
}

/// Widest vector of any target, in lanes.
pub const MAX_LANES: usize = 16;
