//! Scalar bodies as code: dims to integers, expressions to values, one lane or a vector of them.
//!
//! A [`Frame`] is a point of the iteration space: the value of every iterator and, for one of them, the lanes that start
//! there. What does not depend on the lanes stays scalar and is computed once.

use cameo_abi::KERNEL_INDEX_OUT_OF_RANGE;
use cameo_ir::structured::{Binary, Body, Expr, ExprId, Scalar, Unary};
use cameo_ir::{Atom, Bounds, DType, Dim, Sym, narrow};
use cameo_kernel::nest::{guards, lane_offsets};
use cameo_kernel::program::{ACC, Buffer, RED, slot};
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;

use super::{Builder, Cmp, Elem, Reduce, Ty, Val, math};

/// How a tensor element is held in a register.
#[must_use]
pub const fn elem(t: DType) -> Elem {
    match t {
        DType::F32 => Elem::F32,
        DType::F64 => Elem::F64,
        DType::F16 => Elem::F16,
        DType::BF16 => Elem::BF16,
        // Strings by their handles.
        DType::I64 | DType::U64 | DType::String => Elem::I64,
        DType::I32 | DType::U32 => Elem::I32,
        DType::I16 | DType::U16 => Elem::I16,
        DType::I8 | DType::U8 => Elem::I8,
        DType::Bool => Elem::I1,
        // By their codes, integers extended: there is no arithmetic with them.
        _ => Elem::I8,
    }
}

/// A constant of a tensor's element type.
fn constant(b: &Builder, t: DType, v: Scalar) -> Val {
    let ty = elem(t).x(0);
    match v {
        Scalar::Float(bits) if t.is_small_float() => b.int(ty, narrow::encode(t, f64::from_bits(bits)).into()),
        Scalar::Int(v) if t.is_small_float() => b.int(ty, narrow::encode(t, v as f64).into()),
        Scalar::Float(bits) => b.float(ty, f64::from_bits(bits)),
        Scalar::Int(v) if t.is_float() => b.float(ty, v as f64),
        Scalar::Int(v) if t.is_narrow() => b.int(ty, narrow::wrapped(t, v).into()),
        Scalar::Int(v) => b.int(ty, v),
    }
}

/// Words of 8 bytes that one vector has at most.
const SPARE: u64 = 128;

/// What stays the same over the whole kernel.
pub struct KernelCx<'k> {
    pub buffers: &'k [Buffer],
    /// Base address of each buffer.
    pub ptrs: Vec<Val>,
    /// Values of `d0, d1, …`.
    pub dims: Vec<Val>,
    /// Extents of all iterators.
    pub extents: Vec<Dim>,
    /// Address of the `i32` error code.
    pub status: Val,
    /// Memory that may be read, whatever is there: [`SPARE`] words. Made for the first load of a buffer that may have no elements.
    pub spare: OnceCell<Val>,
    pub body: &'k Body,
    /// Of the body's first expression in the module's listing; 0: there is none.
    pub line: usize,
}

/// The iterator whose values fill the lanes, starting at its value in the frame, a multiple of their number.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    pub iter: usize,
    pub count: u32,
    /// Lanes that exist; all when `None`.
    pub mask: Option<Val>,
}

/// A point (or `lanes` consecutive points) of the iteration space.
pub struct Frame<'f, 'c> {
    pub b: &'f Builder<'c>,
    pub cx: &'f KernelCx<'f>,
    pub iters: Vec<Val>,
    pub lanes: Option<Lanes>,
    /// The sum that the epilogue of a contraction starts from.
    pub acc: Option<Val>,
    /// Results of reductions, where known.
    pub reduced: Vec<Option<Val>>,
    /// Expressions whose value is already there.
    pub given: HashMap<ExprId, Val>,
    /// Whether reads with `fill` are checked; `false` where the caller proved them inside.
    pub guarded: bool,
    memo: RefCell<HashMap<ExprId, Val>>,
    dims: RefCell<HashMap<(Dim, bool), Val>>,
}

impl<'f, 'c> Frame<'f, 'c> {
    #[must_use]
    pub fn new(b: &'f Builder<'c>, cx: &'f KernelCx<'f>, iters: Vec<Val>, lanes: Option<Lanes>) -> Self {
        Self {
            b,
            cx,
            iters,
            lanes,
            acc: None,
            reduced: vec![],
            given: HashMap::new(),
            guarded: true,
            memo: RefCell::default(),
            dims: RefCell::default(),
        }
    }

    fn count(&self) -> u32 {
        self.lanes.map_or(0, |l| l.count)
    }

    fn lane_sym(&self) -> Option<Sym> {
        self.lanes.map(|l| Sym::Iter(l.iter as u32))
    }

    /// Whether the value of a dim differs between lanes.
    fn varies(&self, d: &Dim) -> bool {
        let mut v = false;
        let lane = self.lane_sym();
        d.visit(&mut |s| {
            v |= Some(s) == lane.as_ref();
            if let Sym::Aux(k) = s {
                v |= self.eval(*k).lanes() > 0;
            }
        });
        v
    }

    /// A dim at the first lane.
    pub fn dim(&self, d: &Dim) -> Val {
        self.dim_as(d, false)
    }

    /// A dim in every lane.
    fn dim_lanes(&self, d: &Dim) -> Val {
        self.dim_as(d, true)
    }

    fn dim_as(&self, d: &Dim, lanes: bool) -> Val {
        if let Some(c) = d.as_const() {
            return self.b.i64(c);
        }
        let lanes = lanes && self.varies(d);
        let key = (d.clone(), lanes);
        if let Some(v) = self.dims.borrow().get(&key) {
            return *v;
        }
        let b = self.b;
        let mut sum: Option<Val> = None;
        for (monomial, coefficient) in d.terms() {
            let mut product: Option<Val> = None;
            for a in monomial {
                let v = self.atom(a, lanes);
                product = Some(match product {
                    None => v,
                    Some(p) => self.both(p, v, |x, y| b.mul(x, y)),
                });
            }
            let c = b.i64(*coefficient);
            let term = match product {
                None => c,
                Some(p) if *coefficient == 1 => p,
                Some(p) => self.both(p, c, |x, y| b.mul(x, y)),
            };
            sum = Some(match sum {
                None => term,
                Some(s) => self.both(s, term, |x, y| b.add(x, y)),
            });
        }
        let v = sum.unwrap_or_else(|| b.i64(0));
        self.dims.borrow_mut().insert(key, v);
        v
    }

    fn atom(&self, a: &Atom, lanes: bool) -> Val {
        let b = self.b;
        match a {
            Atom::Sym(Sym::Iter(i)) => {
                let base = self.iters[*i as usize];
                if lanes && self.lanes.is_some_and(|l| l.iter == *i as usize) {
                    let n = self.count();
                    return b.add(b.splat(base, n), b.iota(Elem::I64, n));
                }
                base
            }
            Atom::Sym(Sym::Named(name)) => {
                let i = slot(name).unwrap_or(usize::MAX);
                self.cx.dims.get(i).copied().unwrap_or_else(|| b.i64(0))
            }
            Atom::Sym(Sym::Aux(k)) => self.eval(*k),
            // Kernels are given numbers that follow from floats.
            Atom::Real(..) => b.i64(0),
            Atom::FloorDiv(x, y) => {
                let (vx, vy) = (self.dim_as(x, lanes), self.dim_as(y, lanes));
                // Nobody asks for a quotient by 0, but the processor must not stop at it.
                let vy = match Bounds::of(&self.cx.extents).range(y).0 {
                    1.. => vy,
                    _ => b.max(vy, b.splat(b.i64(1), vy.lanes())),
                };
                // Unsigned division is cheaper, and most dividends are counts.
                let positive = Bounds::of(&self.cx.extents).range(x).0 >= 0;
                self.both(vx, vy, |p, q| if positive { b.div_u(p, q) } else { b.div_floor(p, q) })
            }
            Atom::Min(x, y) => {
                let (x, y) = (self.dim_as(x, lanes), self.dim_as(y, lanes));
                self.both(x, y, |p, q| b.min(p, q))
            }
            Atom::Max(x, y) => {
                let (x, y) = (self.dim_as(x, lanes), self.dim_as(y, lanes));
                self.both(x, y, |p, q| b.max(p, q))
            }
            Atom::Broadcast(x, y) => {
                let (x, y) = (self.dim_as(x, lanes), self.dim_as(y, lanes));
                self.both(x, y, |p, q| {
                    let one = b.splat(b.i64(1), p.lanes());
                    let larger = b.select(b.cmp(Cmp::Eq, q, one), p, b.max(p, q));
                    b.select(b.cmp(Cmp::Eq, p, one), q, larger)
                })
            }
        }
    }

    /// Brings two values to the same number of lanes.
    fn both(&self, x: Val, y: Val, f: impl FnOnce(Val, Val) -> Val) -> Val {
        let n = x.lanes().max(y.lanes());
        f(self.b.splat(x, n), self.b.splat(y, n))
    }

    /// The value in all lanes of the frame.
    pub fn spread(&self, v: Val) -> Val {
        self.b.splat(v, self.count())
    }

    /// Code for an expression; scalar when it is the same in all lanes.
    pub fn eval(&self, id: ExprId) -> Val {
        if let Some(v) = self.given.get(&id) {
            return *v;
        }
        if let Some(v) = self.memo.borrow().get(&id) {
            return *v;
        }
        let line = if self.cx.line == 0 {
            0
        } else {
            self.cx.line + id as usize
        };
        let v = self.b.at_line(line, || self.compute(id));
        self.memo.borrow_mut().insert(id, v);
        v
    }

    fn compute(&self, id: ExprId) -> Val {
        let b = self.b;
        let body = self.cx.body;
        let t = body.dtype(id);
        match body.get(id) {
            Expr::Const(_, v) => constant(b, t, *v),
            Expr::Index(d) => self.dim_lanes(d),
            Expr::Load { operand: ACC, .. } => self.acc.unwrap_or_else(|| b.f32(0.0)),
            Expr::Load { operand, .. } if *operand >= RED => self
                .reduced
                .get((*operand - RED) as usize)
                .copied()
                .flatten()
                .unwrap_or_else(|| b.zero(elem(t).x(0))),
            Expr::Load {
                operand, index, fill, ..
            } => self.load(*operand as usize, index, fill.filter(|_| self.guarded)),
            Expr::Unary(op, a) => self.unary(*op, self.eval(*a), body.dtype(*a)),
            Expr::Binary(op, x, y) => {
                let from = body.dtype(*x);
                if from.is_float() && *op == Binary::Pow && self.number(*y) == Some(0.5) {
                    // The power of -0 is 0, and that of -∞ is ∞.
                    let x = self.eval(*x);
                    let root = b.abs(self.unary(Unary::Sqrt, x, from));
                    let least = b.splat(b.float(x.ty().elem.x(0), f64::NEG_INFINITY), x.lanes());
                    let most = b.splat(b.float(x.ty().elem.x(0), f64::INFINITY), x.lanes());
                    return b.select(b.cmp(Cmp::Eq, x, least), most, root);
                }
                if from.is_float() && matches!(op, Binary::Min | Binary::Max) {
                    // Against a number that is not NaN one instruction is enough; NaN in the other operand stays.
                    let limit = |e: ExprId| matches!(body.get(e), Expr::Const(_, Scalar::Float(bits)) if !f64::from_bits(*bits).is_nan());
                    let pair = if limit(*x) {
                        Some((*x, *y))
                    } else {
                        limit(*y).then_some((*y, *x))
                    };
                    if let Some((limit, x)) = pair {
                        let (l, v) = (self.eval(limit), self.eval(x));
                        let l = b.splat(l, v.lanes());
                        return if *op == Binary::Min {
                            b.min_fast(l, v)
                        } else {
                            b.max_fast(l, v)
                        };
                    }
                }
                self.both(self.eval(*x), self.eval(*y), |p, q| self.binary(*op, p, q, from))
            }
            Expr::Select(c, x, y) => {
                let (c, x, y) = (self.eval(*c), self.eval(*x), self.eval(*y));
                let n = c.lanes().max(x.lanes()).max(y.lanes());
                b.select(b.splat(c, n), b.splat(x, n), b.splat(y, n))
            }
            Expr::Cast(to, a) => self.cast(self.eval(*a), body.dtype(*a), *to),
            Expr::Bits(to, a) => {
                let v = self.eval(*a);
                b.bitcast(v, v.ty().with_elem(elem(*to)))
            }
            Expr::CheckedIndex(a, extent) => self.checked(self.eval(*a), extent),
        }
    }

    /// The float that an expression is, whatever it was converted to.
    fn number(&self, id: ExprId) -> Option<f64> {
        match self.cx.body.get(id) {
            Expr::Const(_, Scalar::Float(bits)) => Some(f64::from_bits(*bits)),
            Expr::Cast(to, a) if to.is_float() => self.number(*a),
            _ => None,
        }
    }

    fn checked(&self, v: Val, extent: &Dim) -> Val {
        let b = self.b;
        let n = v.lanes();
        let e = b.splat(self.dim(extent), n);
        let zero = b.splat(b.i64(0), n);
        let negative = b.cmp(Cmp::Lt, v, zero);
        let v = b.select(negative, b.add(v, e), v);
        let out = b.cmp_u(Cmp::Ge, v, e);
        // Lanes past the end hold whatever the index makes of nothing.
        let bad = match self.lanes.and_then(|l| l.mask) {
            Some(mask) if n > 0 => b.any(b.and(out, mask)),
            _ if n > 0 => b.any(out),
            _ => out,
        };
        let code = i64::from(KERNEL_INDEX_OUT_OF_RANGE);
        b.when(bad, |b| b.store(self.cx.status, b.i64(0), b.int(Ty::I32, code)));
        let last = b.sub(e, b.splat(b.i64(1), n));
        b.max(b.min(v, last), zero)
    }

    fn load(&self, operand: usize, index: &[Dim], fill: Option<Scalar>) -> Val {
        let b = self.b;
        let buffer = &self.cx.buffers[operand];
        let bounds = Bounds::of(&self.cx.extents);
        let offset = bounds.simplify(&buffer.offset(index));
        let (ptr, el) = (self.cx.ptrs[operand], elem(buffer.dtype));
        // A tensor without elements has none that could be read in place of what is not there: a padded position, or the
        // element that an index means which is refused.
        let vacant = buffer.extents.iter().filter(|e| bounds.range(e).0 < 1);
        let vacant: Vec<(Dim, Dim)> = vacant.map(|e| (Dim::ZERO, e.clone())).collect();
        let missing = !vacant.is_empty();
        let (checks, fill) = match fill {
            Some(_) => (guards(buffer, index, &self.cx.extents), fill),
            None if missing && index.iter().any(Dim::has_data) => (vacant, Some(Scalar::Int(0))),
            None => (vec![], None),
        };
        let mut ok: Option<Val> = None;
        for (d, extent) in &checks {
            let v = self.dim_lanes(d);
            // One unsigned comparison covers both ends.
            let e = b.splat(self.dim(extent), v.lanes());
            let c = b.cmp_u(Cmp::Lt, v, e);
            ok = Some(match ok {
                None => c,
                Some(o) => self.both(o, c, |x, y| b.and(x, y)),
            });
        }
        let ptr = match ok {
            Some(ok) if missing && ok.lanes() == 0 => {
                let spare = self.cx.spare.get_or_init(|| b.alloca(Elem::I64, SPARE));
                b.select(ok, ptr, *spare)
            }
            _ => ptr,
        };
        let value = self.load_at(ptr, el, &offset, ok);
        match (ok, fill) {
            (Some(ok), Some(fill)) => {
                let f = constant(b, buffer.dtype, fill);
                let n = ok.lanes().max(value.lanes());
                let ok = if ok.lanes() == 0 { ok } else { b.splat(ok, n) };
                b.select(ok, b.splat(value, n), b.splat(f, n))
            }
            _ => value,
        }
    }

    /// Reads at an element offset; where `ok` is false, lanes read nothing, and all of them together the start.
    fn load_at(&self, ptr: Val, el: Elem, offset: &Dim, ok: Option<Val>) -> Val {
        let b = self.b;
        let n = self.count();
        let safe = |at: Val| match ok {
            Some(ok) if ok.lanes() == 0 => b.select(ok, at, b.splat(b.i64(0), at.lanes())),
            _ => at,
        };
        let lane_ok = ok.filter(|o| o.lanes() > 0);
        if !self.varies(offset) && lane_ok.is_none() {
            return b.load(ptr, el, safe(self.dim(offset)), 0);
        }
        let mask = match (self.lanes.and_then(|l| l.mask), lane_ok) {
            (Some(m), Some(o)) => Some(b.and(m, o)),
            (m, o) => m.or(o),
        };
        if self.unit_stride(offset) {
            let at = safe(self.dim(offset));
            return match mask {
                Some(m) => b.load_masked(ptr, el, at, m),
                None => b.load(ptr, el, at, n),
            };
        }
        if let Some(lanes) = self
            .lanes
            .filter(|_| lane_ok.is_none() && !self.has_lane_values(offset))
            && let Some(offsets) = lane_offsets(offset, lanes.iter, n as usize)
            && offsets.is_sorted()
        {
            return self.load_shared(ptr, el, safe(self.dim(offset)), &offsets, lanes.mask);
        }
        let at = b.splat(safe(self.dim_lanes(offset)), n);
        b.gather(ptr, el, at, mask.unwrap_or_else(|| b.full_mask(n)))
    }

    /// Reads each element once that lanes share; `offsets` says which element a lane takes.
    fn load_shared(&self, ptr: Val, el: Elem, at: Val, offsets: &[i64], mask: Option<Val>) -> Val {
        let b = self.b;
        let n = offsets.len();
        let last = offsets.last().map_or(0, |o| *o as usize);
        let width = (last + 1).next_power_of_two() as u32;
        // An element is there if the first lane is that needs it or a later one: nothing else is read.
        let needs = |e: usize| offsets.partition_point(|o| (*o as usize) < e.min(last)) as i64;
        let lanes: Vec<i64> = (0..width as usize).map(needs).collect();
        let inside = (last + 1 < width as usize).then(|| b.mask_first(b.i64(last as i64 + 1), width));
        let wanted = mask.map(|m| b.shuffle(m, m, &lanes));
        let mask = match (inside, wanted) {
            (Some(i), Some(w)) => Some(b.and(i, w)),
            (i, w) => i.or(w),
        };
        let all = match mask {
            Some(m) => b.load_masked(ptr, el, at, m),
            None => b.load(ptr, el, at, width),
        };
        debug_assert_eq!(n, self.count() as usize);
        b.shuffle(all, all, offsets)
    }

    /// Whether the value of a dim depends on values that differ between lanes.
    fn has_lane_values(&self, d: &Dim) -> bool {
        let mut vector_aux = false;
        d.visit(&mut |s| {
            if let Sym::Aux(k) = s {
                vector_aux |= self.eval(*k).lanes() > 0;
            }
        });
        vector_aux
    }

    /// Whether consecutive lanes are consecutive elements.
    fn unit_stride(&self, offset: &Dim) -> bool {
        let Some(lane) = self.lane_sym() else { return false };
        !self.has_lane_values(offset) && offset.affine_in(&lane).is_some_and(|(c, _)| c.is_one())
    }

    /// Writes an expression's value at the coordinates.
    pub fn store(&self, buffer: usize, index: &[Dim], root: ExprId) {
        let value = self.eval(root);
        self.store_value(buffer, index, value);
    }

    pub fn store_value(&self, buffer: usize, index: &[Dim], value: Val) {
        let b = self.b;
        let bounds = Bounds::of(&self.cx.extents);
        let offset = bounds.simplify(&self.cx.buffers[buffer].offset(index));
        let ptr = self.cx.ptrs[buffer];
        let Some(lanes) = self.lanes.filter(|_| self.varies(&offset)) else {
            b.store(ptr, self.dim(&offset), value);
            return;
        };
        let value = b.splat(value, lanes.count);
        if self.unit_stride(&offset) {
            let at = self.dim(&offset);
            match lanes.mask {
                Some(m) => b.store_masked(ptr, at, value, m),
                None => b.store(ptr, at, value),
            }
            return;
        }
        let at = self.dim_lanes(&offset);
        b.scatter(ptr, at, value, lanes.mask.unwrap_or_else(|| b.full_mask(lanes.count)));
    }

    fn cast(&self, v: Val, from: DType, to: DType) -> Val {
        let b = self.b;
        if from == to {
            return v;
        }
        if from.is_narrow() || to.is_narrow() {
            return self.cast_narrow(v, from, to);
        }
        match (from, to) {
            (DType::Bool, _) => {
                if to.is_float() {
                    b.from_int_u(v, elem(to))
                } else {
                    b.resize_u(v, elem(to))
                }
            }
            (_, DType::Bool) => {
                let zero = b.zero(v.ty());
                b.cmp(Cmp::Ne, v, zero)
            }
            (f, t) if f.is_float() && t.is_float() => b.resize_f(v, elem(t)),
            (f, t) if f.is_float() => {
                if t.is_signed() {
                    b.to_int_s(v, elem(t))
                } else {
                    b.to_int_u(v, elem(t))
                }
            }
            (f, t) if t.is_float() => {
                if f.is_signed() {
                    b.from_int_s(v, elem(t))
                } else {
                    b.from_int_u(v, elem(t))
                }
            }
            (f, t) if f.is_signed() => b.resize_s(v, elem(t)),
            (_, t) => b.resize_u(v, elem(t)),
        }
    }

    /// [`Frame::cast`] from or to a type without arithmetic: by way of one that has.
    fn cast_narrow(&self, v: Val, from: DType, to: DType) -> Val {
        let b = self.b;
        if from.is_small_float() {
            return match to {
                // There is no 0, and the smallest number would be taken for one.
                DType::Bool if from == DType::F8E8M0 => b.splat(b.bool(true), v.lanes()),
                DType::F64 if from == DType::F8E8M0 => b.power_to_double(v),
                _ => self.cast(b.small_to_single(v, from), DType::F32, to),
            };
        }
        if from.is_narrow() {
            let byte = if from.is_signed() { DType::I8 } else { DType::U8 };
            return self.cast(v, byte, to);
        }
        if to.is_small_float() {
            return match from {
                // Rounding twice would not be to the nearest.
                DType::F64 if to != DType::F8E8M0 => b.single_to_small(b.to_odd_single(v), to),
                _ => b.single_to_small(self.cast(v, from, DType::F32), to),
            };
        }
        let byte = if from.is_float() {
            b.resize_s(self.cast(v, from, DType::I32), Elem::I8)
        } else {
            self.cast(v, from, DType::I8)
        };
        let spare = b.int(byte.ty(), 8 - to.bits() as i64);
        let high = b.shl(byte, spare);
        if to.is_signed() {
            b.shr_s(high, spare)
        } else {
            b.shr_u(high, spare)
        }
    }

    fn unary(&self, op: Unary, x: Val, t: DType) -> Val {
        use math::Rare;
        let b = self.b;
        let one = |x: Val| {
            b.splat(
                if t.is_float() {
                    b.float(elem(t).x(0), 1.0)
                } else {
                    b.int(elem(t).x(0), 1)
                },
                x.lanes(),
            )
        };
        match op {
            Unary::Neg => b.neg(x),
            Unary::Abs => {
                if t.is_signed() {
                    b.abs(x)
                } else {
                    x
                }
            }
            Unary::Sign => {
                let (zero, one) = (b.zero(x.ty()), one(x));
                if t.is_signed() {
                    let low = b.select(b.cmp(Cmp::Lt, x, zero), b.neg(one), zero);
                    let r = b.select(b.cmp(Cmp::Lt, zero, x), one, low);
                    // NaN has no sign.
                    if t.is_float() { b.select(b.is_nan(x), x, r) } else { r }
                } else {
                    b.select(b.cmp(Cmp::Eq, x, zero), zero, one)
                }
            }
            Unary::Exp => math::exp(b, x),
            Unary::Log => math::log(b, x),
            Unary::Log1p => math::log1p(b, x),
            Unary::Sqrt => b.sqrt(x),
            Unary::Reciprocal => {
                let one = one(x);
                b.div(one, x)
            }
            Unary::Erf => math::erf(b, x),
            Unary::Gelu => math::gelu(b, x),
            Unary::Tanh => math::tanh(b, x),
            Unary::Sigmoid => math::sigmoid(b, x),
            Unary::Sin => math::sin(b, x),
            Unary::Cos => math::cos(b, x),
            Unary::Tan => math::rare(b, Rare::Tan, x),
            Unary::Asin => math::rare(b, Rare::Asin, x),
            Unary::Acos => math::rare(b, Rare::Acos, x),
            Unary::Atan => math::rare(b, Rare::Atan, x),
            Unary::Sinh => math::rare(b, Rare::Sinh, x),
            Unary::Cosh => math::rare(b, Rare::Cosh, x),
            Unary::Asinh => math::rare(b, Rare::Asinh, x),
            Unary::Acosh => math::rare(b, Rare::Acosh, x),
            Unary::Atanh => math::rare(b, Rare::Atanh, x),
            Unary::Floor => b.floor(x),
            Unary::Ceil => b.ceil(x),
            Unary::Round => b.round_even(x),
            Unary::Not | Unary::BitNot => b.not(x),
            Unary::IsNan => b.is_nan(x),
            Unary::IsInf => {
                let inf = b.splat(b.float(elem(t).x(0), f64::INFINITY), x.lanes());
                b.cmp(Cmp::Eq, b.abs(x), inf)
            }
        }
    }

    fn binary(&self, op: Binary, x: Val, y: Val, t: DType) -> Val {
        let b = self.b;
        let signed = t.is_signed();
        let compare = |c, x, y| if signed { b.cmp(c, x, y) } else { b.cmp_u(c, x, y) };
        // Integer division by zero must not trap: it gives 0.
        let guarded = |f: &dyn Fn(Val, Val) -> Val| {
            let zero = b.zero(x.ty());
            let by_zero = b.cmp(Cmp::Eq, y, zero);
            let one = b.splat(b.int(elem(t).x(0), 1), y.lanes());
            // So must the smallest integer divided by -1, which is its own negation.
            let (minus, q) = if signed {
                let all = b.splat(b.int(elem(t).x(0), -1), y.lanes());
                let minus = b.cmp(Cmp::Eq, y, all);
                (Some(minus), b.select(b.or(by_zero, minus), one, y))
            } else {
                (None, b.select(by_zero, one, y))
            };
            let r = f(x, q);
            let r = b.select(by_zero, zero, r);
            (r, minus)
        };
        match op {
            Binary::Add => b.add(x, y),
            Binary::Sub => b.sub(x, y),
            Binary::Mul if t == DType::Bool => b.and(x, y),
            Binary::Mul => b.mul(x, y),
            Binary::Div if t.is_float() => b.div(x, y),
            Binary::Div => {
                let (r, minus) = guarded(&|p, q| if signed { b.div(p, q) } else { b.div_u(p, q) });
                minus.map_or(r, |m| b.select(m, b.sub(b.zero(x.ty()), x), r))
            }
            Binary::Rem if t.is_float() => b.rem(x, y),
            Binary::Rem => guarded(&|p, q| if signed { b.rem(p, q) } else { b.rem_u(p, q) }).0,
            Binary::Mod if t.is_float() => {
                let r = b.rem(x, y);
                let zero = b.zero(x.ty());
                let wrong = b.xor(b.cmp(Cmp::Lt, r, zero), b.cmp(Cmp::Lt, y, zero));
                let fix = b.and(wrong, b.cmp(Cmp::Ne, r, zero));
                b.select(fix, b.add(r, y), r)
            }
            Binary::Mod => guarded(&|p, q| if signed { b.rem_floor(p, q) } else { b.rem_u(p, q) }).0,
            Binary::Pow if t.is_float() => math::pow(b, x, y),
            Binary::Pow => {
                // Through f64, which is exact for the results that fit 53 bits.
                let (p, q) = (self.cast(x, t, DType::F64), self.cast(y, t, DType::F64));
                self.cast(math::pow(b, p, q), DType::F64, t)
            }
            Binary::Min if signed => b.min(x, y),
            Binary::Max if signed => b.max(x, y),
            Binary::Min => b.min_u(x, y),
            Binary::Max => b.max_u(x, y),
            Binary::Eq => b.cmp(Cmp::Eq, x, y),
            Binary::Lt => compare(Cmp::Lt, x, y),
            Binary::Le => compare(Cmp::Le, x, y),
            Binary::And => b.and(x, y),
            Binary::Or => b.or(x, y),
            Binary::Xor => b.xor(x, y),
            Binary::Shl | Binary::Shr => {
                // A shift by the width or more gives 0.
                let width = b.splat(b.int(elem(t).x(0), i64::from(elem(t).bits())), y.lanes());
                let zero = b.zero(x.ty());
                let ok = b.cmp_u(Cmp::Lt, y, width);
                let s = b.select(ok, y, zero);
                let r = if op == Binary::Shl { b.shl(x, s) } else { b.shr_u(x, s) };
                b.select(ok, r, zero)
            }
        }
    }
}

/// Writes the position of a row-major walk over the extents of `which` to those iterators.
pub fn walk(b: &Builder, cx: &KernelCx, position: Val, which: &[usize], extents: &[Dim], iters: &mut [Val]) {
    let mut rest = position;
    for (j, i) in which.iter().enumerate().rev() {
        if j == 0 {
            iters[*i] = rest;
        } else {
            let extent = Frame::new(b, cx, vec![], None).dim(&extents[*i]);
            iters[*i] = b.rem_u(rest, extent);
            rest = b.div_u(rest, extent);
        }
    }
}

/// The neutral element of a reduction.
pub fn identity(b: &Builder, combine: cameo_ir::structured::Combine, t: DType) -> Val {
    use cameo_ir::structured::Combine;
    let ty = elem(t).x(0);
    let bits = if t == DType::Bool { 1 } else { elem(t).bits() };
    match combine {
        Combine::Add | Combine::Or => b.zero(ty),
        Combine::Mul if t.is_float() => b.float(ty, 1.0),
        Combine::Mul => b.int(ty, 1),
        Combine::And if t == DType::Bool => b.bool(true),
        Combine::And => b.int(ty, -1),
        Combine::Min if t.is_float() => b.float(ty, f64::INFINITY),
        Combine::Max if t.is_float() => b.float(ty, f64::NEG_INFINITY),
        Combine::Min if t.is_signed() => b.int(ty, ((1u64 << (bits - 1)) - 1) as i64),
        Combine::Min => b.int(ty, -1),
        Combine::Max if t.is_signed() => b.int(ty, (-1i64) << (bits - 1)),
        Combine::Max => b.zero(ty),
    }
}

/// Joins two partial results.
pub fn combine(b: &Builder, c: cameo_ir::structured::Combine, t: DType, x: Val, y: Val) -> Val {
    use cameo_ir::structured::Combine;
    match c {
        Combine::Add => b.add(x, y),
        Combine::Mul => b.mul(x, y),
        Combine::Min if t.is_signed() => b.min(x, y),
        Combine::Max if t.is_signed() => b.max(x, y),
        Combine::Min => b.min_u(x, y),
        Combine::Max => b.max_u(x, y),
        Combine::Or => b.or(x, y),
        Combine::And => b.and(x, y),
    }
}

/// Joins the lanes of a partial result.
pub fn horizontal(b: &Builder, c: cameo_ir::structured::Combine, t: DType, x: Val) -> Val {
    use cameo_ir::structured::Combine;
    if x.lanes() == 0 {
        return x;
    }
    match (c, t.is_signed() || t.is_float()) {
        (Combine::Add, _) => b.reduce(Reduce::Add, x),
        (Combine::Mul, _) => b.reduce(Reduce::Mul, x),
        (Combine::Min, true) => b.reduce(Reduce::Min, x),
        (Combine::Max, true) => b.reduce(Reduce::Max, x),
        (Combine::Min, false) => b.reduce(Reduce::MinNum, x),
        (Combine::Max, false) => b.reduce(Reduce::MaxNum, x),
        (Combine::Or, _) => b.reduce(Reduce::Or, x),
        (Combine::And, _) => b.reduce(Reduce::And, x),
    }
}
