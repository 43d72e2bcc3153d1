//! Chains: a contraction, the nest that reads its rows and the contraction that reads those become one kernel.
//!
//! ```text
//! k0 contraction   L[r, n] = Σ Q[r, k] K[n, k], epilogue         k0 chain, for each block of rows r
//! k1 nest          P[r, n] = softmax over n of L[r, n]       →      L, P: rows of scratch
//! k2 contraction   Y[r, d] = Σ P[r, n] V[n, d]                      Y
//! ```
//!
//! A factor of all of a row of P, such as one over the sum of a softmax, is left to Y, with the zeros of rows that have none.
//!
//! Attention is the case that matters: logits and probabilities, quadratic in the length, never reach memory. Nothing is
//! assumed of what the nest computes, only that all three walk the same rows in the same order and that nothing else
//! reads what is between them. The step runs where the last one did; what the first ones read is alive until then.

use cameo_ir::structured::{Binary, Body, Combine, Expr, ExprId, Scalar, Unary};
use cameo_ir::{Bounds, DType, Dim, Origin, Sym};

use crate::nest::{choose_temps, stages};
use crate::program::{
    ACC, BOperand, Buffer, Chain, ChainSchedule, Contraction, Kernel, KernelBody, Kernels, Nest, Place, Program, RED,
    Step, Store, slot,
};
use crate::select::nominal;
use crate::targets::Target;

/// Rows of a block where the length is short or unknown: what is gathered per block is used this often.
const ROWS: usize = 128;

/// Fewer rows than this do not make shares for all threads.
const FEW_ROWS: i64 = 8;

/// Elements of a row that are worth to be shared.
const LONG_ROW: i64 = 1024;

/// Replaces every chain in the program.
pub fn fuse(p: &mut Program, target: &Target) {
    let mut kernels = Kernels::default();
    let mut out = vec![];
    let mut gone = vec![false; p.steps.len()];
    let mut fused: Vec<Option<(Kernel, Step)>> = vec![];
    let touching = touching(p);
    for last in 0..p.steps.len() {
        let found = chain_ending_at(p, target, last, &gone, &touching).map(|(steps, kernel, step)| {
            steps.into_iter().for_each(|s| gone[s] = true);
            (kernel, step)
        });
        fused.push(found);
    }
    let mut place = vec![0; p.steps.len() + 1];
    for (i, step) in std::mem::take(&mut p.steps).into_iter().enumerate() {
        place[i] = out.len();
        match fused[i].take() {
            Some((kernel, mut step)) => {
                step.kernel = kernels.number(kernel);
                out.push(step);
            }
            None if gone[i] => {}
            None => {
                let kernel = kernels.number(p.kernels[step.kernel].clone());
                out.push(Step { kernel, ..step });
            }
        }
    }
    p.renumber(&place[..fused.len()], out.len());
    p.steps = out;
    p.kernels = kernels.list;
}

/// A step with its kernel's dims in the symbols of the model.
pub(crate) struct Whole {
    at: usize,
    pub kernel: Kernel,
}

impl Whole {
    pub fn new(p: &Program, at: usize) -> Self {
        let step = &p.steps[at];
        let dims = &step.dims;
        let kernel = p.kernels[step.kernel].clone().map_dims(&|d| {
            d.subst(&|s| match s {
                Sym::Named(n) => dims.get(slot(n)?).cloned(),
                _ => None,
            })
        });
        Self { at, kernel }
    }
}

/// By storage the steps that read or write it, each once.
fn touching(p: &Program) -> Vec<Vec<usize>> {
    let mut out: Vec<Vec<usize>> = vec![vec![]; p.storages.len()];
    for (i, step) in p.steps.iter().enumerate() {
        for s in &step.buffers {
            if out[*s].last() != Some(&i) {
                out[*s].push(i);
            }
        }
    }
    out
}

/// The only step that writes a storage of the arena, when `reader` is the only one that reads it.
fn only_writer(p: &Program, touching: &[Vec<usize>], storage: usize, reader: usize) -> Option<usize> {
    if p.storages[storage].place != Place::Arena || p.storages[storage].dtype != DType::F32 {
        return None;
    }
    let mut writer = None;
    for &i in &touching[storage] {
        let step = &p.steps[i];
        for (b, _) in step.buffers.iter().enumerate().filter(|(_, s)| **s == storage) {
            match p.kernels[step.kernel].writes(b) {
                true if writer.is_none() => writer = Some(i),
                false if i == reader => {}
                _ => return None,
            }
        }
    }
    writer.filter(|w| *w < reader)
}

/// A contraction's rows, when its addresses count them like one dense matrix.
struct Rows {
    batch: Dim,
    m: Dim,
}

impl Rows {
    fn of(c: &Contraction) -> Self {
        Self {
            batch: Dim::product(&c.batch),
            m: c.m.clone(),
        }
    }

    /// The number of the row at the iterators of `c`.
    fn number(c: &Contraction) -> Dim {
        counted(&c.batch.iter().chain([&c.m]).cloned().collect::<Vec<_>>())
    }
}

/// The position of iterators `0..` in a row-major walk over their extents; one with extent 1 is always 0.
pub(crate) fn counted(extents: &[Dim]) -> Dim {
    let step = |at: Dim, (i, e): (usize, &Dim)| if e.is_one() { at } else { at * e.clone() + Dim::iter(i) };
    extents.iter().enumerate().fold(Dim::ZERO, step)
}

fn chain_ending_at(
    p: &Program,
    target: &Target,
    last: usize,
    gone: &[bool],
    touching: &[Vec<usize>],
) -> Option<(Vec<usize>, Kernel, Step)> {
    let is_contraction = |i: usize| matches!(p.kernels[p.steps[i].kernel].body, KernelBody::Contraction(_));
    let KernelBody::Contraction(c) = &p.kernels[p.steps[last].kernel].body else {
        return None;
    };
    let probabilities = p.steps[last].buffers[c.a.buffer];
    let middle = only_writer(p, touching, probabilities, last)?;
    let KernelBody::Nest(n) = &p.kernels[p.steps[middle].kernel].body else {
        return None;
    };
    if n.row.len() != 1 || n.stores.len() != 1 {
        return None;
    }
    let first = p.steps[middle].buffers.iter().find_map(|s| {
        let writer = only_writer(p, touching, *s, middle)?;
        (is_contraction(writer) && p.storages[*s].elements == p.storages[probabilities].elements).then_some(writer)
    })?;
    // What a loop writes is there before its body is fused: bodies are programs of their own.
    if gone[first] || gone[middle] || [first, middle, last].into_iter().any(|s| p.in_loop(s)) {
        return None;
    }
    let parts = [first, middle, last].map(|at| Whole::new(p, at));
    let (kernel, storages) = link(p, target, &parts)?;
    let steps = [first, middle, last];
    let total = |f: fn(&Step) -> &Dim| steps.iter().fold(Dim::ZERO, |a, s| a + f(&p.steps[*s]).clone());
    let origin = steps
        .iter()
        .fold(Origin::default(), |o, s| o.merge(&p.steps[*s].origin));
    let step = Step {
        kernel: 0,
        buffers: storages,
        dims: vec![],
        work: total(|s| &s.work),
        flops: total(|s| &s.flops),
        origin,
        values: p.steps[last].values.clone(),
    };
    let (kernel, dims) = crate::flat::merge_axes(kernel).numbered();
    Some((steps.to_vec(), kernel, Step { dims, ..step }))
}

/// One kernel of three, with the storages that it takes; `None` when they do not walk the same rows.
fn link(p: &Program, target: &Target, parts: &[Whole; 3]) -> Option<(Kernel, Vec<usize>)> {
    let [first, middle, last] = parts;
    let (KernelBody::Contraction(a), KernelBody::Nest(n), KernelBody::Contraction(b)) =
        (&first.kernel.body, &middle.kernel.body, &last.kernel.body)
    else {
        return None;
    };
    let (rows, width) = (Rows::of(a), a.n.clone());
    let (other, [k]) = (Rows::of(b), b.k.as_slice()) else {
        return None;
    };
    let same = other.batch == rows.batch && other.m == rows.m && *k == width;
    let along_row = n.schedule.vector == Some(n.outer.len());
    if !same || !along_row || n.row != [width.clone()] || Dim::product(&n.outer) != rows.batch.clone() * rows.m.clone()
    {
        return None;
    }
    if a.a_fill || b.a_fill || a.stores.len() != 1 {
        return None;
    }
    // A thread has whole rows: a few long ones are shared along their length, by three kernels.
    let few = (rows.batch.clone() * rows.m.clone())
        .as_const()
        .is_some_and(|r| r < FEW_ROWS);
    if few && width.as_const().is_none_or(|w| w >= LONG_ROW) {
        return None;
    }
    // Every block walks the whole of both other operands; weights that do not stay in L2 are better walked by all rows
    // at once. Other operands belong to one batch.
    let small = |c: &Contraction| match c.b {
        BOperand::Packed { .. } => nominal(&(Dim::product(&c.k) * c.n.clone())) <= (target.plan().l2 / 8) as i64,
        _ => true,
    };
    if !small(a) || !small(b) {
        return None;
    }
    let logits = p.steps[first.at].buffers[a.stores[0].buffer];
    let probabilities = p.steps[last.at].buffers[b.a.buffer];
    let of = |w: &Whole, storage: usize| p.steps[w.at].buffers.iter().position(|s| *s == storage);
    // Each address of a local tensor must be `row * width + element`.
    let flat = [
        (Rows::number(a), Dim::iter(a.batch.len() + 1)),
        (counted(&n.outer), Dim::iter(n.outer.len())),
        (Rows::number(b), Dim::iter(b.batch.len() + 2)),
    ];
    let dense = |w: &Whole, buffer: usize, index: &[Dim], (row, element): &(Dim, Dim)| {
        let extents = w.kernel.body.extents();
        let bounds = Bounds::of(&extents);
        let at = bounds.simplify(&w.kernel.buffers[buffer].offset(index));
        at == bounds.simplify(&(row.clone() * width.clone() + element.clone()))
    };
    let once = |w: &Whole, storage: usize| p.steps[w.at].buffers.iter().filter(|s| **s == storage).count() == 1;
    if !once(middle, logits) || !once(last, probabilities) {
        return None;
    }
    let (read, write) = (of(middle, logits)?, n.stores[0].buffer);
    let loads_are_dense = n.body.nodes().iter().all(|e| match e {
        Expr::Load {
            operand, index, fill, ..
        } if *operand as usize == read => fill.is_none() && dense(middle, read, index, &flat[1]),
        _ => true,
    });
    if !loads_are_dense
        || !dense(first, a.stores[0].buffer, &a.stores[0].index, &flat[0])
        || !dense(middle, write, &n.stores[0].index, &flat[1])
        || !dense(last, b.a.buffer, &b.a.index, &flat[2])
    {
        return None;
    }
    // Only as operand A.
    let reads = |b: &Contraction, buffer: usize| {
        let other = match &b.b {
            BOperand::Packed { buffer, .. } => *buffer,
            BOperand::Direct(o) | BOperand::Gathered(o) => o.buffer,
        };
        let loads = |e: &Expr| matches!(e, Expr::Load { operand, .. } if *operand as usize == buffer);
        other == buffer || b.epilogue.nodes().iter().any(loads)
    };
    if reads(b, b.a.buffer) {
        return None;
    }

    let mut table = Table::default();
    let in_place = middle.kernel.may_share(read, write);
    let mut locals: Vec<Dim> = vec![width.clone(); if in_place { 1 } else { 2 }];
    let maps: Vec<Vec<usize>> = parts
        .iter()
        .map(|w| {
            let step = &p.steps[w.at];
            let each = step.buffers.iter().zip(&w.kernel.buffers);
            each.map(|(storage, buffer)| match *storage {
                s if s == logits => LOCAL,
                s if s == probabilities => LOCAL + locals.len() - 1,
                s => table.add(s, buffer),
            })
            .collect()
        })
        .collect();
    let params = table.buffers.len();
    let number = |b: usize| if b >= LOCAL { params + b - LOCAL } else { b };
    let mut links = vec![];
    for ((w, map), at) in parts.iter().zip(&maps).zip(&flat) {
        let mut body = w.kernel.body.clone();
        rename(&mut body, &|b| number(map[b]), &|b| map[b] >= LOCAL, at);
        links.push(body);
    }
    // The local rows and what is gathered share L2.
    let fit = (target.l2 / 2) as i64
        / nominal(&Chain::stride(&width))
            .saturating_mul(4 * locals.len() as i64)
            .max(1);
    if let [_, KernelBody::Nest(n), KernelBody::Contraction(b)] = &mut links[..]
        && scale_late(n, b, params + locals.len(), [&flat[1].0, &flat[2].0])
    {
        locals.push(Dim::ONE);
    }
    let mut buffers = table.buffers;
    for width in &locals {
        buffers.push(Buffer {
            dtype: DType::F32,
            strides: vec![Chain::stride(width), Dim::ONE],
            extents: vec![rows.batch.clone() * rows.m.clone(), width.clone()],
        });
    }
    // Only at the end of the rows may a contraction's last register tile be smaller.
    let tile = least_common_multiple(a.schedule.mr, b.schedule.mr);
    let most = usize::try_from(fit).unwrap_or(0).clamp(tile, ROWS);
    let body = KernelBody::Chain(Chain {
        links,
        batch: rows.batch,
        m: rows.m,
        locals,
        schedule: ChainSchedule {
            rows: most / tile * tile,
            tile,
        },
    });
    Some((Kernel { buffers, dims: 0, body }, table.storages))
}

/// Leaves a factor that is the same along the row, such as one over the sum of a softmax, to the contraction's results:
/// they are fewer, and the row is written in the pass that sums it. `factors` is the local buffer of factors, `rows` are
/// the numbers of a row in the nest and in the contraction.
fn scale_late(n: &mut Nest, c: &mut Contraction, factors: usize, rows: [&Dim; 2]) -> bool {
    let s = stages(n);
    let guarded = guarded(n);
    let store = guarded.unwrap_or(n.stores[0].root);
    let (x, factor, op) = match *n.body.get(store) {
        Expr::Binary(op @ (Binary::Mul | Binary::Div), x, y) if !s.full[y as usize] => (x, y, op),
        Expr::Binary(op @ Binary::Mul, x, y) if !s.full[x as usize] => (y, x, op),
        _ => return false,
    };
    // Only what was reduced is dear to wait for, and no pass may come after the row is written.
    let written = s.level[x as usize];
    let earlier = s.of_reduction.iter().all(|stage| *stage <= written);
    if !s.full[x as usize] || s.level[factor as usize] <= written || !earlier || n.body.dtype(store) != DType::F32 {
        return false;
    }
    let guarded = guarded.is_some();
    if guarded && !sums_exponentials(n, x, factor, op) {
        return false;
    }
    let at = |row: &Dim| vec![row.clone(), Dim::ZERO];
    let zero = |body: &mut Body| body.float(DType::F32, 0.0);
    let factor = if guarded {
        // Elements are NaN where the sum is no positive number, all of them: 0 says so.
        let infinity = n.body.float(DType::F32, f64::INFINITY);
        let finite = n.body.binary(Binary::Lt, factor, infinity);
        let zero = zero(&mut n.body);
        n.body.select(finite, factor, zero)
    } else {
        factor
    };
    n.stores[0].root = x;
    n.stores.push(Store {
        buffer: factors,
        index: at(rows[0]),
        root: factor,
    });
    n.temps = choose_temps(n);
    let iters: Vec<Dim> = (0..c.batch.len() + 2 + c.k.len()).map(Dim::iter).collect();
    let mut body = Body::new();
    for s in &mut c.stores {
        s.root = body.inline(&c.epilogue, s.root, &iters, &mut |b, operand, dtype, index, fill| {
            let load = b.push(Expr::Load {
                operand,
                dtype,
                index,
                fill,
            });
            if operand != ACC {
                return load;
            }
            let factor = b.push(Expr::Load {
                operand: factors as u32,
                dtype,
                index: at(rows[1]),
                fill: None,
            });
            let scaled = b.binary(op, load, factor);
            if !guarded {
                return scaled;
            }
            let zero = zero(b);
            let positive = b.binary(Binary::Lt, zero, factor);
            b.select(positive, scaled, zero)
        });
    }
    c.epilogue = body;
    true
}

/// What a nest stores, where that is 0 instead of NaN.
fn guarded(n: &Nest) -> Option<ExprId> {
    let Expr::Select(c, zero, x) = *n.body.get(n.stores[0].root) else {
        return None;
    };
    let is_nan = matches!(n.body.get(c), Expr::Unary(Unary::IsNan, of) if *of == x);
    let is_zero = matches!(n.body.get(zero), Expr::Const(_, Scalar::Float(0)));
    (is_nan && is_zero).then_some(x)
}

/// Whether `x` is an exponential, and `op` with `factor` divides by the sum of it along the row.
fn sums_exponentials(n: &Nest, x: ExprId, factor: ExprId, op: Binary) -> bool {
    let sum = match (op, n.body.get(factor)) {
        (Binary::Mul, Expr::Unary(Unary::Reciprocal, sum)) => *sum,
        (Binary::Div, _) => factor,
        _ => return false,
    };
    let Expr::Load { operand, .. } = n.body.get(sum) else {
        return false;
    };
    let reduction = operand.checked_sub(RED).and_then(|r| n.reductions.get(r as usize));
    matches!(n.body.get(x), Expr::Unary(Unary::Exp, _))
        && reduction.is_some_and(|r| r.combine == Combine::Add && r.root == x)
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    (1..=b).map(|i| i * a).find(|m| m % b == 0).unwrap_or(a * b)
}

/// Buffer numbers from here on are local tensors, until it is known how many others there are.
const LOCAL: usize = usize::MAX / 2;

/// The buffers of a kernel under construction with their storages.
#[derive(Default)]
struct Table {
    storages: Vec<usize>,
    buffers: Vec<Buffer>,
}

impl Table {
    fn add(&mut self, storage: usize, buffer: &Buffer) -> usize {
        let known = self.storages.iter().zip(&self.buffers);
        if let Some(i) = known.into_iter().position(|(s, b)| *s == storage && b == buffer) {
            return i;
        }
        self.storages.push(storage);
        self.buffers.push(buffer.clone());
        self.buffers.len() - 1
    }
}

/// Renumbers the buffers of a link; local ones are indexed by row and element instead.
fn rename(body: &mut KernelBody, number: &dyn Fn(usize) -> usize, local: &dyn Fn(usize) -> bool, at: &(Dim, Dim)) {
    let place = |buffer: &mut usize, index: &mut Vec<Dim>| {
        if local(*buffer) {
            *index = vec![at.0.clone(), at.1.clone()];
        }
        *buffer = number(*buffer);
    };
    let stores = |stores: &mut Vec<Store>| stores.iter_mut().for_each(|s| place(&mut s.buffer, &mut s.index));
    let loads = |operand: &mut u32, index: &mut Vec<Dim>| {
        if *operand >= RED {
            return;
        }
        let mut buffer = *operand as usize;
        place(&mut buffer, index);
        *operand = buffer as u32;
    };
    match body {
        KernelBody::Nest(Nest {
            body,
            stores: s,
            temps,
            reductions,
            ..
        }) => {
            let map = body.map_loads(&loads);
            stores(s);
            s.iter_mut().for_each(|s| s.root = map[s.root as usize]);
            temps.iter_mut().for_each(|t| *t = map[*t as usize]);
            reductions.iter_mut().for_each(|r| r.root = map[r.root as usize]);
        }
        KernelBody::Contraction(c) => {
            place(&mut c.a.buffer, &mut c.a.index);
            match &mut c.b {
                BOperand::Packed { buffer, .. } => *buffer = number(*buffer),
                BOperand::Direct(o) | BOperand::Gathered(o) => place(&mut o.buffer, &mut o.index),
            }
            let map = c.epilogue.map_loads(&loads);
            stores(&mut c.stores);
            c.stores.iter_mut().for_each(|s| s.root = map[s.root as usize]);
        }
        // Not links.
        KernelBody::Winograd(_) | KernelBody::Chain(_) | KernelBody::InOrder(_) | KernelBody::Custom(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::program::KernelBody;
    use crate::testing::program;

    /// The widths of the local tensors of attention whose probabilities go through `after`.
    fn locals(after: &str) -> Vec<String> {
        let p = program(&format!(
            r#"graph @g (%0 "q": f32[2,B,S,16], %1 "k": f32[2,B,16,S], %2 "v": f32[2,B,S,16]) symbols B=1.., S=1.. {{
              weight %3: f32[] = dense(1.5)
              weight %4: f32[] = dense(0.0)
              weight %5: f32[] = dense(1.0)
              %10 = MatMul(%0, %1)
              %11 = Softmax(%10)
              {after}
              %13 = MatMul(%12, %2)
              return %13 "y"
            }}"#
        ));
        let chain = p.steps.iter().find_map(|s| match &p.kernels[s.kernel].body {
            KernelBody::Chain(c) => Some(c),
            _ => None,
        });
        let locals = &chain.expect("a chain").locals;
        locals.iter().skip(1).map(ToString::to_string).collect()
    }

    #[test]
    fn results_are_divided_where_rows_only_differ_by_a_factor() {
        assert_eq!(locals("%12 = Identity(%11)"), ["1"]);
        // A row without any key is 0, not NaN.
        assert_eq!(locals("%9 = IsNaN(%11)\n %12 = Where(%9, %4, %11)"), ["1"]);
        assert_eq!(locals("%9 = IsNaN(%11)\n %12 = Where(%9, %5, %11)"), [""; 0]);
        // What is clipped depends on the sum.
        assert_eq!(locals("%9 = Mul(%11, %3)\n %12 = Clip(%9, %4, %5)"), [""; 0]);
    }
}
