//! Fewer axes and symbols in a finished kernel, so that more kernels are the same and addresses are simpler.
//!
//! ```text
//! kernel contraction m 197*B n 384 …                              kernel contraction m d0 n 384 …      // d0 = 197*B
//!     A = b0[fdiv($i0,197), $i0-197*fdiv($i0,197), $i2]     →         A = b0[$i0, $i2]
//! ```
//!
//! A product over all tokens of a batch and one over their first tokens are then one kernel, called with different numbers.

use std::sync::Arc;

use cameo_ir::dim::ELEMENT;
use cameo_ir::structured::Expr;
use cameo_ir::{Atom, Bounds, Dim, Sym};

use crate::program::{BOperand, Kernel, KernelBody};

/// Merges neighbouring axes of a buffer where one index for both says it in fewer words at every access.
#[must_use]
pub fn merge_axes(mut kernel: Kernel) -> Kernel {
    let mut uses: Vec<Vec<Vec<Dim>>> = vec![vec![]; kernel.buffers.len()];
    kernel.body.visit_indices(&mut |b, index| uses[b].push(index.to_vec()));
    let fixed = fixed(&kernel);
    // Axes that became one with the next, which had that extent.
    let mut merged: Vec<Vec<(usize, Dim)>> = vec![vec![]; kernel.buffers.len()];
    for (b, buffer) in kernel.buffers.iter_mut().enumerate().filter(|(b, _)| !fixed[*b]) {
        for axis in (0..buffer.extents.len().saturating_sub(1)).rev() {
            let inner = buffer.extents[axis + 1].clone();
            let dense = buffer.strides[axis] == buffer.strides[axis + 1].clone() * inner.clone();
            let shorter = |index: &Vec<Dim>| {
                let apart = words(&index[axis]) + words(&index[axis + 1]);
                words(&(index[axis].clone() * inner.clone() + index[axis + 1].clone())) <= apart
            };
            if !(dense && uses[b].iter().all(shorter)) {
                continue;
            }
            uses[b].iter_mut().for_each(|index| merge(index, axis, &inner));
            buffer.extents[axis] = buffer.extents[axis].clone() * inner.clone();
            buffer.extents.remove(axis + 1);
            buffer.strides.remove(axis);
            merged[b].push((axis, inner));
        }
    }
    kernel.body.map_indices(&|b, index| {
        for (axis, inner) in &merged[b] {
            merge(index, *axis, inner);
        }
    });
    kernel
}

/// Buffers of which the axes mean something by themselves.
fn fixed(kernel: &Kernel) -> Vec<bool> {
    let mut out = vec![false; kernel.buffers.len()];
    // Rows of local tensors lie further apart than they are long.
    out[kernel.params()..].fill(true);
    for link in kernel.body.links() {
        let body = match link {
            KernelBody::Nest(n) => &n.body,
            KernelBody::Contraction(c) => {
                // What is outside of one axis may be inside of both.
                out[c.a.buffer] |= c.a_fill;
                if let BOperand::Packed { buffer, .. } = &c.b {
                    out[*buffer] = true;
                }
                &c.epilogue
            }
            KernelBody::Winograd(w) => {
                out[w.a.buffer] = true;
                out[w.b] = true;
                &w.epilogue
            }
            KernelBody::Chain(_) | KernelBody::InOrder(_) | KernelBody::Custom(_) => continue,
        };
        for e in body.nodes() {
            if let Expr::Load {
                operand, fill: Some(_), ..
            } = e
            {
                out[*operand as usize] = true;
            }
        }
    }
    out
}

/// Replaces what is computed of floats, which no kernel does, by symbols, and what each stands for.
#[must_use]
pub fn without_reals(kernel: Kernel) -> (Kernel, Vec<(Arc<str>, Dim)>) {
    let mut all: Vec<(Arc<str>, Dim)> = vec![];
    let position = |all: &[(Arc<str>, Dim)], a: &Atom| {
        let value = Dim::atom(a.clone());
        all.iter().position(|(_, other)| *other == value)
    };
    kernel.visit_dims(&mut |d| {
        let cell = std::cell::RefCell::new(&mut all);
        let _ = d.subst_atoms(&|a| {
            let all = &mut *cell.borrow_mut();
            if let Atom::Real(..) = a
                && position(all, a).is_none()
            {
                let value = Dim::atom(a.clone());
                // What may be negative says so; no model can have named it so.
                let start = if Bounds::of(&[]).range(&value).0 < 0 {
                    ELEMENT
                } else {
                    ""
                };
                all.push((format!("{start} real{}", all.len()).into(), value));
            }
            // Those inside of one are no dims of the kernel.
            matches!(a, Atom::Real(..)).then_some(Dim::ZERO)
        });
    });
    if all.is_empty() {
        return (kernel, all);
    }
    let kernel = kernel.map_dims(&|d| {
        d.subst_atoms(&|a| match a {
            Atom::Real(..) => Some(Dim::sym(&all[position(&all, a)?].0)),
            _ => None,
        })
    });
    (kernel, all)
}

/// Replaces the model's symbols by one, where they only occur as multiples of one product of them; and what it stands for.
#[must_use]
pub fn one_symbol(kernel: Kernel) -> (Kernel, Option<(Arc<str>, Dim)>) {
    let named = |a: &Atom| matches!(a, Atom::Sym(Sym::Named(_)));
    let signed = |a: &Atom| matches!(a, Atom::Sym(Sym::Named(n)) if n.starts_with(ELEMENT));
    let mut product: Option<Vec<Atom>> = None;
    let (mut factor, mut fits) = (0i64, true);
    kernel.visit_dims(&mut |d| {
        for (monomial, c) in d.terms() {
            let (own, rest): (Vec<Atom>, Vec<Atom>) = monomial.iter().cloned().partition(named);
            // Not inside of divisions.
            let hidden = |a: &Atom| {
                let mut any = false;
                Dim::atom(a.clone()).visit(&mut |s| any |= matches!(s, Sym::Named(_)));
                any
            };
            fits &= !rest.iter().any(hidden) && !own.iter().any(signed);
            if !own.is_empty() {
                fits &= product.get_or_insert_with(|| own.clone()) == &own;
                factor = gcd(factor, *c);
            }
        }
    });
    let Some(product) = product.filter(|p| fits && (p.len() > 1 || factor > 1)) else {
        return (kernel, None);
    };
    // No model can have named it so.
    let name: Arc<str> = " whole".into();
    let symbol = Dim::sym(&name);
    let kernel = kernel.map_dims(&|d| {
        if d.as_const().is_some() {
            return d.clone();
        }
        d.terms().iter().fold(Dim::ZERO, |sum, (monomial, c)| {
            let (own, rest): (Vec<Atom>, Vec<Atom>) = monomial.iter().cloned().partition(named);
            let start = match own.is_empty() {
                true => Dim::from(*c),
                false => symbol.clone() * Dim::from(c / factor),
            };
            sum + rest.into_iter().fold(start, |all, a| all * Dim::atom(a))
        })
    });
    let value = product.into_iter().fold(Dim::from(factor), |all, a| all * Dim::atom(a));
    (kernel, Some((name, value)))
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a.abs() } else { gcd(b, a % b) }
}

fn merge(index: &mut Vec<Dim>, axis: usize, inner: &Dim) {
    let last = index.remove(axis + 1);
    index[axis] = index[axis].clone() * inner.clone() + last;
}

/// The length of a formula.
fn words(d: &Dim) -> usize {
    let atom = |a: &Atom| match a {
        Atom::Sym(_) => 1,
        Atom::FloorDiv(a, b) | Atom::Min(a, b) | Atom::Max(a, b) | Atom::Broadcast(a, b) | Atom::Real(_, a, b) => {
            1 + words(a) + words(b)
        }
    };
    match d.as_const() {
        Some(c) => usize::from(c != 0),
        None => {
            let term = |(m, c): &(Vec<Atom>, i64)| m.iter().map(atom).sum::<usize>() + usize::from(c.abs() != 1);
            d.terms().iter().map(term).sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Program;
    use crate::targets::x86_64::V4;
    use cameo_ir::{Attr, DType, Fact, Graph, Tensor};

    /// Products of inputs of these shapes with matrices of their own.
    fn products(shapes: &[Vec<Dim>]) -> Program {
        let mut g = Graph::new("g");
        for (i, shape) in shapes.iter().enumerate() {
            let x = g.add_input(&format!("x{i}"), Fact::new(DType::F32, shape.clone()));
            let w = g.add_weight("", Tensor::f32(&[8, 8], (0..64).map(|k| (k * (i + 1)) as f32)));
            let y = g.apply("MatMul", &[], &[x, w]).expect("legal");
            g.add_output(&format!("y{i}"), y);
        }
        crate::partition(&g, &V4, crate::Choices::default()).expect("partitions")
    }

    #[test]
    fn rows_of_a_batch_and_rows_are_one_kernel() {
        let (b, s) = (Dim::sym("B"), Dim::sym("S"));
        let p = products(&[
            vec![b.clone(), 5i64.into(), 8i64.into()],
            vec![b.clone(), 8i64.into()],
            vec![b.clone(), s.clone(), 8i64.into()],
        ]);
        assert_eq!(p.kernels.len(), 1, "{:?}", p.kernels);
        let dims: Vec<&Dim> = p.steps.iter().flat_map(|s| &s.dims).collect();
        assert_eq!(dims, [&(b.clone() * Dim::from(5i64)), &b, &(b.clone() * s)]);
    }

    #[test]
    fn symbols_that_occur_apart_stay() {
        // Columns of S elements: the distance of rows is S, their number B.
        let mut g = Graph::new("g");
        let shape = vec![Dim::sym("B"), Dim::sym("S")];
        let x = g.add_input("x", Fact::new(DType::F32, shape));
        let y = g
            .apply("ReduceMax", &[("axes", Attr::Dims(vec![Dim::ONE]))], &[x])
            .expect("legal");
        g.add_output("y", y);
        let p = crate::partition(&g, &V4, crate::Choices::default()).expect("partitions");
        assert_eq!(p.steps[0].dims.len(), 2);
    }

    #[test]
    fn what_is_outside_of_one_axis_is_not_inside_of_both() {
        let mut g = Graph::new("g");
        let x = g.add_input(
            "x",
            Fact::new(DType::F32, vec![Dim::sym("B"), 3i64.into(), 4i64.into()]),
        );
        let pads = Attr::Dims([0i64, 0, 1, 0, 0, 1].map(Dim::from).to_vec());
        let padded = g.apply("Pad", &[("pads", pads)], &[x]).expect("legal");
        let flat = Attr::Dims(vec![Dim::sym("B") * Dim::from(18i64)]);
        let y = g.apply("Reshape", &[("shape", flat)], &[padded]).expect("legal");
        g.add_output("y", y);
        let p = crate::partition(&g, &V4, crate::Choices::default()).expect("partitions");
        let read = &p.kernels[p.steps[0].kernel].buffers[0];
        assert_eq!(read.extents.len(), 3);
    }

    #[test]
    fn shorter_formulas_win() {
        let (i, j) = (Dim::iter(0), Dim::iter(1));
        assert!(words(&i) + words(&j) < words(&(i.clone() * Dim::from(7i64) + j)));
        let (outer, inner) = (i.floor_div(&Dim::from(7i64)), i.modulo(&Dim::from(7i64)));
        let mut index = vec![outer, inner];
        merge(&mut index, 0, &Dim::from(7i64));
        assert_eq!(index, [i]);
    }
}
