//! Einstein sums of any operands.
//!
//! Law: one reduction of a product of loads, the output's axes parallel and all others summed.

use std::collections::BTreeMap;

use crate::index::{self, broadcast_index, broadcast_linear, linear, static_shape};
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::structured::{Combine, Compute};
use crate::{DType, Dim, Fact, Tensor};

use super::contraction::{Sum, product};

pub struct Einsum;

/// A parsed equation: the axes of the whole iteration space, and which of them each operand and the output have.
struct Equation {
    /// Extents: the output's axes first, then the summed ones.
    extents: Vec<Dim>,
    output: usize,
    /// For each operand the axis of the space that each of its axes is.
    operands: Vec<Vec<usize>>,
}

/// An axis of an equation: a letter, or one of those that `...` stands for, counted from the right.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Ellipsis(usize),
    Letter(char),
}

impl Equation {
    fn new(cx: &Cx) -> Result<Self, OpError> {
        let text: String = cx.str("equation")?.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((l, r)) => (l, Some(r)),
            None => (text.as_str(), None),
        };
        let terms: Vec<&str> = left.split(',').collect();
        let facts = cx.facts()?;
        if terms.len() != facts.len() {
            return invalid(format!(
                "`{text}` has {} operands, {} are given",
                terms.len(),
                facts.len()
            ));
        }
        let mut extent: BTreeMap<Label, Dim> = BTreeMap::new();
        let mut uses: BTreeMap<Label, usize> = BTreeMap::new();
        let mut labels = vec![];
        let mut widest = 0;
        for (term, fact) in terms.iter().zip(facts) {
            let letters = term.replace("...", "").chars().count();
            let Some(hidden) = fact.rank().checked_sub(letters) else {
                return invalid(format!("`{term}` for an operand {fact}"));
            };
            let list = Self::labels(term, hidden)?;
            if list.len() != fact.rank() {
                return invalid(format!("`{term}` for an operand {fact}"));
            }
            widest = widest.max(hidden);
            for (l, d) in list.iter().zip(&fact.shape) {
                let e = extent.entry(*l).or_insert(Dim::ONE);
                match e.broadcast(d) {
                    Some(x) => *e = x,
                    None => return invalid(format!("extents {e} and {d} in `{text}`")),
                }
                *uses.entry(*l).or_insert(0) += 1;
            }
            labels.push(list);
        }
        let output = match right {
            Some(r) => Self::labels(r, widest)?,
            // Ellipsis axes, outermost first, then the letters that occur once.
            None => {
                let hidden = (0..widest).rev().map(Label::Ellipsis);
                let once = uses.iter().filter(|(l, n)| matches!(l, Label::Letter(_)) && **n == 1);
                hidden.chain(once.map(|(l, _)| *l)).collect()
            }
        };
        let mut order: Vec<Label> = vec![];
        for l in &output {
            if !extent.contains_key(l) || order.contains(l) {
                return invalid(format!("an axis of the output of `{text}` repeats or is in no operand"));
            }
            order.push(*l);
        }
        for l in labels.iter().flatten() {
            if !order.contains(l) {
                order.push(*l);
            }
        }
        let place = |l: &Label| order.iter().position(|x| x == l).unwrap_or(0);
        Ok(Self {
            extents: order.iter().map(|l| extent[l].clone()).collect(),
            output: output.len(),
            operands: labels.iter().map(|list| list.iter().map(place).collect()).collect(),
        })
    }

    fn labels(term: &str, hidden: usize) -> Result<Vec<Label>, OpError> {
        let mut out = vec![];
        for (i, part) in term.split("...").enumerate() {
            if i == 1 {
                out.extend((0..hidden).rev().map(Label::Ellipsis));
            }
            if i > 1 || !part.chars().all(|c| c.is_ascii_alphabetic()) {
                return invalid(format!("term `{term}`"));
            }
            out.extend(part.chars().map(Label::Letter));
        }
        Ok(out)
    }
}

impl OpDef for Einsum {
    fn schema(&self) -> &'static Schema {
        static SCHEMA: Schema = Schema::new(
            "Einsum",
            "the sum of products that `equation` says in Einstein's notation",
            &[Param::new("Inputs", Types::NUMBER).variadic()],
            &[Param::new("Output", Types::NUMBER)],
            &[("equation", AttrDef::ReqStr)],
        )
        .since(12);
        &SCHEMA
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let e = Equation::new(cx)?;
        Ok(vec![Fact::new(cx.fact(0)?.dtype, &e.extents[..e.output])])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let e = Equation::new(cx)?;
        let t = cx.fact(0)?.dtype;
        let space = static_shape(&Fact::new(t, e.extents.as_slice()))?;
        let shape = &space[..e.output];
        let mut terms = vec![];
        for (k, axes) in e.operands.iter().enumerate() {
            let x = cx.tensor(k)?;
            terms.push((axes, x.shape(), x.to_f64(), x.to_i64()));
        }
        let mut sum = Sum::new(t, shape.iter().product());
        index::for_each(&space, |ix| {
            let at = linear(shape, &ix[..shape.len()]);
            let places = terms.iter().map(|(axes, from, floats, ints)| {
                let i: Vec<usize> = axes.iter().map(|a| ix[*a]).collect();
                let i = broadcast_linear(from, &i);
                (floats[i], ints[i])
            });
            match &mut sum {
                Sum::Float(s) => s[at] += places.map(|p| p.0).product::<f64>(),
                Sum::Int(s) => s[at] = s[at].wrapping_add(places.fold(1, |a, p| i64::wrapping_mul(a, p.1))),
            }
        });
        Ok(vec![sum.tensor(t, shape)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let e = Equation::new(cx)?;
        let facts = cx.facts()?;
        let (outer, summed) = e.extents.split_at(e.output);
        let compute = Compute::nest(facts[0].dtype, outer, summed, Combine::Add, |b, it, over| {
            let all: Vec<&Dim> = it.iter().chain(over).collect();
            let loads: Vec<(DType, Vec<Dim>)> = facts
                .iter()
                .zip(&e.operands)
                .map(|(f, axes)| {
                    let extents: Vec<Dim> = axes.iter().map(|a| e.extents[*a].clone()).collect();
                    let iters: Vec<Dim> = axes.iter().map(|a| all[*a].clone()).collect();
                    (f.dtype, broadcast_index(&f.shape, &extents, &iters))
                })
                .collect();
            (product(b, &loads), it.to_vec())
        });
        Ok(Lowering::Compute(vec![compute]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::check;
    use crate::ops::samples::sample;
    use crate::{Attr, Graph};

    fn numbers(dtype: DType, shape: &[usize]) -> Option<Tensor> {
        sample(dtype, shape, 1)
    }

    #[test]
    fn einsum() {
        let f = |shape: &[usize]| numbers(DType::F32, shape);
        let run =
            |eq: &str, inputs: &[Option<Tensor>]| check("Einsum", &[("equation", Attr::Str(eq.into()))], inputs, 1);
        run("ij,jk->ik", &[f(&[2, 3]), f(&[3, 4])]);
        run("ij,jk", &[f(&[2, 3]), f(&[3, 4])]);
        run("b i d, b j d -> b i j", &[f(&[2, 3, 4]), f(&[2, 5, 4])]);
        run("...ij,...jk->...ik", &[f(&[2, 1, 3, 4]), f(&[5, 4, 2])]);
        run("ii->i", &[f(&[3, 3])]);
        run("ii", &[f(&[3, 3])]);
        run("ij->ji", &[f(&[2, 3])]);
        run("...i->i...", &[f(&[2, 3, 4])]);
        run("i,j->ij", &[f(&[2]), f(&[3])]);
        run("ij,jk,kl->il", &[f(&[2, 3]), f(&[3, 4]), f(&[4, 2])]);
        run("bhwc,hkc->bhwk", &[f(&[2, 3, 2, 4]), f(&[3, 5, 4])]);
        run("ij,ij->", &[numbers(DType::I64, &[2, 3]), numbers(DType::I64, &[2, 3])]);
        let refuse = |eq: &str| {
            let mut g = Graph::new("t");
            let x = g.add_input("x", Fact::new(DType::F32, vec![Dim::from(2i64), Dim::from(3i64)]));
            g.apply("Einsum", &[("equation", Attr::Str(eq.into()))], &[x]).is_err()
        };
        for eq in [
            "ii->i", "ijk->i", "ij->ii", "ij->k", "i j,k", "i1->i", "......ij", "i", "->",
        ] {
            assert!(refuse(eq), "{eq}");
        }
    }
}
