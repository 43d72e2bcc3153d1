//! What can be asked of any kind of kernel, and changed in it.

use cameo_ir::Dim;
use cameo_ir::structured::ExprId;

use super::{BOperand, InOrder, KernelBody, MAX_LANES, RED, Store};

impl KernelBody {
    /// What it is called in dumps, reports, profiles and symbols.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Nest(_) => "nest",
            Self::Contraction(_) => "contraction",
            Self::Winograd(_) => "winograd",
            Self::Chain(_) => "chain",
            Self::InOrder(InOrder::Compact { .. }) => "compact",
            Self::InOrder(InOrder::Lengths { .. }) => "lengths",
            Self::InOrder(InOrder::Number { .. }) => "number",
            Self::InOrder(InOrder::Rule { .. }) => "rule",
            Self::Custom(_) => "custom",
        }
    }

    /// Extents of all iterators, in their order; a chain has none of its own, and what the caller's code does is not known.
    pub fn extents(&self) -> Vec<Dim> {
        match self {
            Self::Nest(n) => n.outer.iter().chain(&n.row).cloned().collect(),
            Self::Contraction(c) => c.batch.iter().chain([&c.m, &c.n]).chain(&c.k).cloned().collect(),
            Self::Winograd(w) => [&w.images, &w.height, &w.width, &w.n, &w.depth, &w.channels]
                .map(Dim::clone)
                .into(),
            Self::Chain(_) | Self::Custom(_) => vec![],
            Self::InOrder(o) => vec![o.n()],
        }
    }

    /// The kernel itself, or the links of a chain.
    pub fn links(&self) -> &[Self] {
        match self {
            Self::Chain(c) => &c.links,
            _ => std::slice::from_ref(self),
        }
    }

    pub fn stores(&self) -> Vec<&Store> {
        match self {
            Self::Nest(n) => n.stores.iter().collect(),
            Self::Contraction(c) => c.stores.iter().collect(),
            Self::Winograd(w) => w.stores.iter().collect(),
            Self::Chain(c) => c.links.iter().flat_map(Self::stores).collect(),
            Self::InOrder(_) | Self::Custom(_) => vec![],
        }
    }

    /// Calls `f` with buffer and index of every access.
    pub fn visit_indices(&self, f: &mut dyn FnMut(usize, &[Dim])) {
        // Mapping visits everything; the result is dropped.
        let cell = std::cell::RefCell::new(f);
        self.clone().map_indices(&|b, index| (cell.borrow_mut())(b, index));
    }

    /// Changes the index of every access to a buffer.
    pub fn map_indices(&mut self, f: &dyn Fn(usize, &mut Vec<Dim>)) {
        // Results of reductions are operands without axes.
        let load = |operand: &mut u32, index: &mut Vec<Dim>| {
            if *operand < RED {
                f(*operand as usize, index);
            }
        };
        match self {
            Self::Nest(n) => {
                let map = n.body.map_loads(&load);
                n.temps.iter_mut().for_each(|t| *t = map[*t as usize]);
                n.reductions.iter_mut().for_each(|r| r.root = map[r.root as usize]);
                for s in &mut n.stores {
                    f(s.buffer, &mut s.index);
                    s.root = map[s.root as usize];
                }
            }
            Self::Contraction(c) => {
                f(c.a.buffer, &mut c.a.index);
                if let BOperand::Direct(o) | BOperand::Gathered(o) = &mut c.b {
                    f(o.buffer, &mut o.index);
                }
                let map = c.epilogue.map_loads(&load);
                for s in &mut c.stores {
                    f(s.buffer, &mut s.index);
                    s.root = map[s.root as usize];
                }
            }
            Self::Winograd(w) => {
                f(w.a.buffer, &mut w.a.index);
                let map = w.epilogue.map_loads(&load);
                for s in &mut w.stores {
                    f(s.buffer, &mut s.index);
                    s.root = map[s.root as usize];
                }
            }
            Self::Chain(c) => c.links.iter_mut().for_each(|l| l.map_indices(f)),
            Self::InOrder(_) | Self::Custom(_) => {}
        }
    }

    pub(super) fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        let all = |v: &mut Vec<Dim>| v.iter_mut().for_each(|d| *d = f(d));
        match self {
            Self::Nest(n) => {
                all(&mut n.outer);
                all(&mut n.row);
                let roots: Vec<ExprId> = n
                    .stores
                    .iter()
                    .map(|s| s.root)
                    .chain(n.reductions.iter().map(|r| r.root))
                    .collect();
                let (body, map) = n.body.rebuild(&roots, f);
                n.body = body;
                n.temps.iter_mut().for_each(|t| *t = map[*t as usize]);
                n.reductions.iter_mut().for_each(|r| r.root = map[r.root as usize]);
                for s in &mut n.stores {
                    all(&mut s.index);
                    s.root = map[s.root as usize];
                }
            }
            Self::Contraction(c) => {
                all(&mut c.batch);
                all(&mut c.k);
                c.m = f(&c.m);
                c.n = f(&c.n);
                all(&mut c.a.index);
                if let BOperand::Direct(o) | BOperand::Gathered(o) = &mut c.b {
                    all(&mut o.index);
                }
                let roots: Vec<ExprId> = c.stores.iter().map(|s| s.root).collect();
                let (body, map) = c.epilogue.rebuild(&roots, f);
                c.epilogue = body;
                for s in &mut c.stores {
                    all(&mut s.index);
                    s.root = map[s.root as usize];
                }
            }
            Self::Winograd(w) => {
                for d in [
                    &mut w.images,
                    &mut w.height,
                    &mut w.width,
                    &mut w.n,
                    &mut w.depth,
                    &mut w.channels,
                ] {
                    *d = f(d);
                }
                all(&mut w.a.index);
                let roots: Vec<ExprId> = w.stores.iter().map(|s| s.root).collect();
                let (body, map) = w.epilogue.rebuild(&roots, f);
                w.epilogue = body;
                for s in &mut w.stores {
                    all(&mut s.index);
                    s.root = map[s.root as usize];
                }
            }
            Self::Chain(c) => {
                c.links.iter_mut().for_each(|l| l.map_dims(f));
                all(&mut c.locals);
                c.batch = f(&c.batch);
                c.m = f(&c.m);
            }
            Self::Custom(_) => {}
            Self::InOrder(InOrder::Compact { n }) => *n = f(n),
            Self::InOrder(InOrder::Lengths { n, total, most }) => [n, total, most].into_iter().for_each(|d| *d = f(d)),
            Self::InOrder(InOrder::Number { most }) => *most = f(most),
            Self::InOrder(InOrder::Rule { a, b }) => [a, b].into_iter().for_each(|d| *d = f(d)),
        }
    }

    /// Bytes of private memory that a thread needs, in `d0, d1, …`.
    pub fn scratch_bytes(&self) -> Dim {
        match self {
            Self::Nest(n) => {
                let lanes = if n.schedule.vector.is_some_and(|v| v < n.outer.len()) {
                    MAX_LANES
                } else {
                    1
                };
                let row = Dim::product(&n.row) * Dim::from(lanes) + Dim::from(MAX_LANES);
                // Temporaries are at most 8 bytes wide and start on their own cache line.
                row * Dim::from(8 * n.temps.len())
            }
            Self::Contraction(c) => {
                let panel = match &c.b {
                    BOperand::Gathered(_) => Dim::product(&c.k) * Dim::from(4 * c.schedule.nv * c.schedule.lanes),
                    _ => Dim::ZERO,
                };
                // A row of zeros for padding, in whole cache lines before the panel.
                let zeros = if c.a_fill {
                    c.k.last().cloned().unwrap_or(Dim::ONE).ceil_div(&Dim::from(16i64)) * Dim::from(64i64)
                } else {
                    Dim::ZERO
                };
                panel + zeros
            }
            Self::Winograd(w) => w.scratch_bytes(),
            // The links run one after another and share what is behind the local tensors.
            Self::Chain(c) => {
                let links = c.links.iter().map(Self::scratch_bytes);
                c.local_bytes() + c.panel_bytes() + links.fold(Dim::ZERO, |a, b| a.maximum(&b))
            }
            Self::InOrder(_) | Self::Custom(_) => Dim::ZERO,
        }
    }
}
