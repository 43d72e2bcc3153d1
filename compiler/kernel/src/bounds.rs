//! Memory safety of kernels: every index is proven to stay in its buffer, or becomes a condition on the model's symbols.
//!
//! A model whose shapes contradict each other only for some values of its symbols (a table of 512 rows read at `S`
//! positions) compiles; running it with such values is an error before anything is read.

use cameo_ir::structured::Expr;
use cameo_ir::{Atom, Bounds, Dim, Sym};

use crate::program::{BOperand, Buffer, Kernel, KernelBody, RED};

/// Conditions `a <= b` under which all plain accesses of the kernel are in bounds. Loops that turn zero times access
/// nothing: where an extent may be 0, the condition holds then.
pub fn requirements(k: &Kernel) -> Vec<(Dim, Dim)> {
    let mut out = vec![];
    // `loops` are the iterators around the access, whether or not its index uses them.
    let mut check = |buffer: &Buffer, index: &[Dim], extents: &[Dim], loops: usize| {
        let b = Bounds::of(extents);
        let turns = turns(index, extents, loops);
        let mut require = |smaller: Dim, larger: Dim| {
            let (smaller, larger) = (as_computed(&smaller, &b), as_computed(&larger, &b));
            if !turns.is_zero() && !b.le(&smaller, &larger) {
                let need = (turns.clone() * (smaller - larger), Dim::ZERO);
                if !out.contains(&need) {
                    out.push(need);
                }
            }
        };
        for (i, extent) in index.iter().zip(&buffer.extents) {
            let last = extent.clone() - Dim::ONE;
            // Indices from data are checked where they are made.
            if i.has_data() {
                continue;
            }
            if !b.le(i, &last) {
                require(end(i, extents, true), last);
            }
            if !b.le(&Dim::ZERO, i) {
                require(Dim::ZERO, end(i, extents, false));
            }
        }
    };
    for link in k.body.links() {
        let extents = link.extents();
        let (parallel, body) = match link {
            KernelBody::Nest(n) => (n.outer.len(), &n.body),
            KernelBody::Contraction(c) => {
                if !c.a_fill {
                    check(&k.buffers[c.a.buffer], &c.a.index, &extents, extents.len());
                }
                if let BOperand::Direct(o) | BOperand::Gathered(o) = &c.b {
                    check(&k.buffers[o.buffer], &o.index, &extents, extents.len());
                }
                (c.batch.len() + 2, &c.epilogue)
            }
            // What is outside of the input is never read.
            KernelBody::Winograd(w) => (4, &w.epilogue),
            KernelBody::Chain(_) | KernelBody::InOrder(_) | KernelBody::Custom(_) => continue,
        };
        for e in body.nodes() {
            match e {
                Expr::Load {
                    operand,
                    index,
                    fill: None,
                    ..
                } if *operand < RED => {
                    check(&k.buffers[*operand as usize], index, &extents, parallel);
                }
                _ => {}
            }
        }
        for s in link.stores() {
            check(&k.buffers[s.buffer], &s.index, &extents, parallel);
        }
    }
    out
}

/// As kernels compute it, which divide by at least 1: where an extent of a loop is 0, nothing is accessed.
fn as_computed(d: &Dim, b: &Bounds) -> Dim {
    d.subst_atoms(&|atom| match atom {
        Atom::FloorDiv(x, y) if b.range(y).0 < 1 => {
            let quotient = as_computed(x, b).floor_div(&y.maximum(&Dim::ONE));
            match b.range(&quotient) {
                (lo, hi) if lo == hi => Some(Dim::from(lo)),
                _ => Some(quotient),
            }
        }
        _ => None,
    })
}

/// 1 when every loop around an access turns, else 0: the first `loops` iterators and those that the index uses.
fn turns(index: &[Dim], extents: &[Dim], loops: usize) -> Dim {
    let b = Bounds::of(extents);
    let around = |i: usize| i < loops || index.iter().any(|d| d.uses(&Sym::Iter(i as u32)));
    let maybe = extents
        .iter()
        .enumerate()
        .filter(|(i, e)| around(*i) && b.range(e).0 < 1);
    maybe.fold(Dim::ONE, |all, (_, e)| all * e.minimum(&Dim::ONE))
}

/// An index with every iterator at the end of its range where it is largest (or smallest).
fn end(index: &Dim, extents: &[Dim], largest: bool) -> Dim {
    let b = Bounds::of(extents);
    let mut out = index.clone();
    for (i, e) in extents.iter().enumerate() {
        let s = Sym::Iter(i as u32);
        // Quotients rise with their dividend; coefficients of quotients are positive in index maps.
        let (low, high) = out.affine_in(&s).map_or((0, 0), |(c, _)| b.range(&c));
        let at = |to: Dim| out.subst(&|x| (*x == s).then(|| to.clone()));
        let (first, last) = (at(Dim::ZERO), at(e.clone() - Dim::ONE));
        out = match (low >= 0, high <= 0, largest) {
            (true, _, true) | (false, true, false) => last,
            (true, _, false) | (false, true, true) => first,
            // It may go either way.
            (false, false, true) => first.maximum(&last),
            (false, false, false) => first.minimum(&last),
        };
    }
    out
}
