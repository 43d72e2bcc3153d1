//! Constant factors and shifts before products: the products that read what they make take them.
//!
//! [`Search::takers`] finds all of them without changing anything, [`rebuilt`] makes them again.

use cameo_ir::op::{OpError, invalid};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, DType, Dim, Graph, NodeId, Origin, ValueId};
use rustc_hash::FxHashMap;

use super::factor::{Factor, constant_scaled};
use super::{INFINITE, channel_axis, infinite, reshaped};
use crate::axes::ties::ties;
use crate::axes::{Axis, Tie};

/// Nodes that are looked at behind one factor: the products of one value, each behind a view or two.
const MAX_NODES: usize = 32;

/// `f(x * c, w)` → `f(x, w * c)`
pub fn scale(rw: &mut Rewriter, n: NodeId) -> Outcome {
    fold(rw, n, "scale into the weights behind it")
}

/// `f(x * s + c, w)` → `f(x * s, w) + f(c, w)`
///
/// Only where `x` is scaled: what subtracts a mean before the scale may do so because the sums of a product with large
/// numbers would be rounded to nothing.
pub fn shift(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let scaled = |v: ValueId| rw.producer_if(v, "Mul").or_else(|| rw.producer_if(v, "Div")).is_some();
    match rw.node(n).inputs.iter().flatten().any(|v| scaled(*v)) {
        true => fold(rw, n, "shift through the products behind it"),
        false => Outcome::NoMatch,
    }
}

fn fold(rw: &mut Rewriter, n: NodeId, detail: &str) -> Outcome {
    let (Some(a), Some(b)) = (rw.input(n, 0), rw.input(n, 1)) else {
        return Outcome::NoMatch;
    };
    let constants = rw.constants();
    let is_constant = |v: ValueId| constants[v.0 as usize];
    let op = rw.node(n).op.name();
    let (x, value) = match (is_constant(a), is_constant(b)) {
        (false, true) => (a, b),
        (true, false) if op != "Div" => (b, a),
        _ => return Outcome::NoMatch,
    };
    let y = rw.node(n).outputs[0];
    let out = rw.fact(y);
    if out.shape != rw.fact(x).shape || !matches!(out.dtype, DType::F32 | DType::F64) {
        return Outcome::NoMatch;
    }
    let Some(axis) = channel_axis(&rw.fact(value).shape, &out.shape) else {
        return Outcome::NoMatch;
    };
    let mut search = Search {
        g: rw.graph(),
        constants: &constants,
        shifts: op == "Add",
        nodes: vec![n],
        takers: vec![],
        refused: None,
    };
    if !search.takers(y, axis) || search.takers.is_empty() {
        return Outcome::NoMatch;
    }
    let Search {
        nodes, takers, refused, ..
    } = search;
    if let Some(reason) = refused {
        return rw.refuse(&nodes, detail, reason);
    }
    if infinite(rw, op, value) {
        return rw.refuse(&nodes, detail, INFINITE);
    }
    let origin = rw.node(n).origin.clone();
    let old: Vec<ValueId> = takers.iter().map(|t| rw.node(t.node).outputs[0]).collect();
    rw.replace_values(&old, &nodes, detail, |rw| {
        let mut moved: FxHashMap<ValueId, ValueId> = [(y, x)].into_iter().collect();
        for n in &nodes[1..] {
            let (inputs, own) = (rw.node(*n).inputs.clone(), rw.node(*n).origin.clone());
            let Some(new) = inputs[0].and_then(|v| moved.get(&v)).copied() else {
                continue;
            };
            if takers.iter().any(|t| t.node == *n) {
                continue;
            }
            let made = rw.with_origin(own, |rw| {
                rw.copy_with(*n, [vec![Some(new)], inputs[1..].to_vec()].concat())
            })?;
            moved.insert(rw.node(*n).outputs[0], made[0]);
        }
        takers
            .iter()
            .map(|t| rebuilt(rw, t, &moved, op, value, &origin))
            .collect()
    })
}

/// A product that takes the factor or shift.
struct Taker {
    node: NodeId,
    /// The operand that is scaled, its axis, and the axis of the other that is summed with it.
    slot: usize,
    axis: Option<usize>,
    summed: usize,
}

struct Search<'a> {
    g: &'a Graph,
    constants: &'a [bool],
    shifts: bool,
    /// The factor, views of what it makes and products, in the order of the graph.
    nodes: Vec<NodeId>,
    takers: Vec<Taker>,
    /// Why one of the products cannot take it.
    refused: Option<String>,
}

impl Search<'_> {
    /// Whether all that reads `v` are products with weights, views aside.
    fn takers(&mut self, v: ValueId, axis: Option<usize>) -> bool {
        if self.g.is_output(v) {
            return false;
        }
        for n in self.g.users(v) {
            if self.nodes.len() == MAX_NODES || self.nodes.contains(&n) {
                return false;
            }
            self.nodes.push(n);
            let through = match self.g.node(n).op.name() {
                "Reshape" | "Transpose" => match self.behind(n, v, axis) {
                    Some(axis) => self.takers(self.g.node(n).outputs[0], axis),
                    None => false,
                },
                "MatMul" | "Gemm" | "Conv" => self.taker(n, v, axis).is_some(),
                _ => false,
            };
            if !through {
                return false;
            }
        }
        true
    }

    /// The axis of the result of a view that is `axis` of its operand.
    fn behind(&self, n: NodeId, v: ValueId, axis: Option<usize>) -> Option<Option<usize>> {
        let Some(axis) = axis else { return Some(None) };
        let (x, y) = (Axis::of(v, axis), self.g.node(n).outputs[0]);
        ties(self.g, self.constants, n).into_iter().find_map(|t| match t {
            Tie::Equal(a, b) if a == x && b == Axis::of(y, b.axis) => Some(Some(b.axis)),
            _ => None,
        })
    }

    fn taker(&mut self, n: NodeId, v: ValueId, axis: Option<usize>) -> Option<()> {
        let node = self.g.node(n);
        let op = node.op.name();
        let set = |name: &str| matches!(node.attrs.get(name), Some(Attr::Int(k)) if *k != 0);
        let slot = usize::from(node.inputs[0] != Some(v));
        let w = node.inputs[1 - slot]?;
        let (rank, weight) = (self.g.fact(v).rank(), self.g.fact(w));
        if !self.constants[w.0 as usize] || rank < 2 || weight.rank() < 2 {
            return None;
        }
        // The axis of the operand that is summed, and that of the weight.
        let (own, summed) = match (op, slot) {
            ("MatMul", 0) => (rank - 1, weight.rank() - 2),
            ("MatMul", _) => (rank - 2, weight.rank() - 1),
            ("Gemm", 0) => (usize::from(!set("transA")), usize::from(set("transB"))),
            ("Conv", 0) if !matches!(node.attrs.get("group"), Some(Attr::Int(k)) if *k != 1) => (1, 1),
            _ => return None,
        };
        if axis.is_some_and(|a| a != own) {
            return None;
        }
        if self.shifts && !self.shiftable(n, w) {
            return None;
        }
        // Recipes read the weight of the file as well.
        let other = |u: &NodeId| *u != n && !self.constants[self.g.node(*u).outputs[0].0 as usize];
        let mut users = self.g.users(w);
        if !self.shifts && (users.iter().any(other) || self.g.is_output(w)) {
            self.refused = Some(format!("others read the weight of {op}"));
        }
        users.retain(|u| *u == n);
        if users.len() != 1 {
            return None;
        }
        self.takers.push(Taker {
            node: n,
            slot,
            axis,
            summed,
        });
        Some(())
    }

    /// Whether what a constant adds to the product is a bias that costs no more than the constant does.
    fn shiftable(&mut self, n: NodeId, w: ValueId) -> bool {
        let node = self.g.node(n);
        let y = node.outputs[0];
        let is = |name: &str, x: f32| !matches!(node.attrs.get(name), Some(Attr::Float(v)) if *v != x);
        let bias = node.inputs.get(2).copied().flatten();
        if bias.is_some_and(|b| !self.constants[b.0 as usize]) {
            return false;
        }
        match node.op.name() {
            "Conv" => {
                let zeros = match node.attrs.get("pads") {
                    Some(Attr::Ints(p)) => p.iter().all(|p| *p == 0),
                    _ => true,
                };
                let given = match node.attrs.get("auto_pad") {
                    Some(Attr::Str(s)) => matches!(&s[..], "NOTSET" | "VALID"),
                    _ => true,
                };
                if !zeros || !given {
                    let reason = "the padding of Conv is zero, where what is shifted is not";
                    self.refused = Some(reason.into());
                }
                true
            }
            "Gemm" => {
                let set = matches!(node.attrs.get("transA"), Some(Attr::Int(k)) if *k != 0);
                is("alpha", 1.0) && is("beta", 1.0) && !set
            }
            _ => {
                // A sum with a constant takes the bias; else there is one sum for another.
                let users = self.g.users(y);
                let biased = matches!(&users[..], [u] if self.g.node(*u).op == "Add"
                    && self.g.node(*u).inputs.iter().flatten().any(|v| self.constants[v.0 as usize]));
                let count = |v: ValueId| self.g.fact(v).element_count().as_const();
                let narrows = match (&self.g.fact(w).shape[..], node.inputs[1] == Some(w)) {
                    ([i, o], true) | ([o, i], false) => o.as_const().zip(i.as_const()).is_some_and(|(o, i)| o <= i),
                    _ => false,
                };
                self.g.fact(w).rank() == 2 && count(w).is_some() && (biased || narrows)
            }
        }
    }
}

/// The product of what was there before the factor or shift.
fn rebuilt(
    rw: &mut Rewriter,
    t: &Taker,
    moved: &FxHashMap<ValueId, ValueId>,
    op: &'static str,
    value: ValueId,
    scale: &Origin,
) -> Result<ValueId, OpError> {
    let mut inputs = rw.node(t.node).inputs.clone();
    let (Some(v), Some(w)) = (inputs[t.slot], inputs[1 - t.slot]) else {
        return invalid("not a product");
    };
    let Some(x) = moved.get(&v) else {
        return invalid("the operand is not there");
    };
    inputs[t.slot] = Some(*x);
    let rank = rw.fact(w).rank();
    let origin = rw.node(t.node).origin.merge(scale);
    rw.with_origin(origin, |rw| {
        if op != "Add" {
            let f = Factor {
                op,
                value,
                axis: t.axis,
            };
            inputs[1 - t.slot] = Some(constant_scaled(rw, w, f, t.axis.map(|_| t.summed), rank)?);
            return Ok(rw.copy_with(t.node, inputs)?[0]);
        }
        // One number per element of the sum.
        let extent = rw.fact(w).shape[t.summed].clone();
        let c = reshaped(rw, value, &[rw.fact(value).element_count()])?;
        let c = match rw.fact(c).shape[0] == extent {
            true => c,
            false => rw.apply("Expand", &[("shape", Attr::Dims(vec![extent.clone()]))], &[c])?,
        };
        match (rw.node(t.node).op.name(), t.slot) {
            ("MatMul", 0) => {
                let bias = rw.apply("MatMul", &[], &[c, w])?;
                let y = rw.copy_with(t.node, inputs)?[0];
                rw.apply("Add", &[], &[y, bias])
            }
            ("MatMul", _) => {
                let c = reshaped(rw, c, &[extent, Dim::ONE])?;
                let bias = rw.apply("MatMul", &[], &[w, c])?;
                let y = rw.copy_with(t.node, inputs)?[0];
                rw.apply("Add", &[], &[y, bias])
            }
            (made, _) => {
                let letters = match (made, t.summed) {
                    ("Gemm", 0) => "mo,m->o",
                    ("Gemm", _) => "om,m->o",
                    _ => "omk,m->o",
                };
                let flat = match made {
                    "Gemm" => w,
                    _ => {
                        let shape = rw.fact(w).shape.clone();
                        let taps = Dim::product(&shape[2..]);
                        reshaped(rw, w, &[shape[0].clone(), extent, taps])?
                    }
                };
                let mut bias = rw.apply("Einsum", &[("equation", Attr::Str(letters.into()))], &[flat, c])?;
                inputs.resize(3, None);
                if let Some(b) = inputs[2] {
                    bias = rw.apply("Add", &[], &[b, bias])?;
                }
                inputs[2] = Some(bias);
                Ok(rw.copy_with(t.node, inputs)?[0])
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::fold_scales::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn a_normalization_before_products() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4,3]) symbols N=1.. {
              weight %1: f32[4] = random
              weight %2: f32[4] = positive
              weight %3: f32[4,2] = random
              weight %4: f32[4,5] = random
              weight %5: f32[5] = random
              %6 = Abs(%0)
              %7 = BatchNormalization(%6, %1, %1, %1, %2) from "bn"
              %8 = Transpose(%7) {perm=[0,2,1]} from "view"
              %9 = MatMul(%8, %3) from "a"
              %10 = Reshape(%8) {shape=dims[N*3,4]}
              %11 = MatMul(%10, %4) from "b"
              %12 = Add(%11, %5) from "bias"
              return %9 "y", %12 "z"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,4,3]) symbols N=1.. {
          weight %1: f32[4] = dense(1.625,0.75,2.375,1.375)
          weight %2: f32[] = dense(1e-5)
          weight %3: f32[4] = dense(1.0,-2.0,-2.0,-2.0)
          weight %4: f32[4,2] = dense(…)
          weight %5: f32[4,5] = dense(…)
          weight %6: f32[5] = dense(…)
          %7 = Abs(%0) : f32[N,4,3]
          %8 = Transpose(%7) {perm=[0,2,1]} : f32[N,3,4] from "view"
          %9 = Add(%1, %2) : f32[4] from "bn"
          %10 = Sqrt(%9) : f32[4] from "bn"
          %11 = Div(%3, %10) : f32[4] from "bn"
          %12 = Reshape(%11) {shape=dims[4,1]} : f32[4,1] from "bn"
          %13 = Mul(%4, %12) : f32[4,2] from "a", "bn"
          %14 = MatMul(%8, %13) : f32[N,3,2] from "a", "bn"
          %15 = Mul(%3, %11) : f32[4] from "bn"
          %16 = Sub(%3, %15) : f32[4] from "bn"
          %17 = Reshape(%16) {shape=dims[4,1]} : f32[4,1] from "bn"
          %18 = Reshape(%17) {shape=dims[4]} : f32[4] from "a", "bn"
          %19 = MatMul(%18, %4) : f32[2] from "a", "bn"
          %20 = Add(%14, %19) : f32[N,3,2] from "a", "bn"
          %21 = Reshape(%8) {shape=dims[3*N,4]} : f32[3*N,4]
          %22 = Mul(%5, %12) : f32[4,5] from "b", "bn"
          %23 = MatMul(%21, %22) : f32[3*N,5] from "b", "bn"
          %24 = Reshape(%17) {shape=dims[4]} : f32[4] from "b", "bn"
          %25 = MatMul(%24, %5) : f32[5] from "b", "bn"
          %26 = Add(%23, %25) : f32[3*N,5] from "b", "bn"
          %27 = Add(%26, %6) : f32[3*N,5] from "bias"
          return %20 "y", %27 "z"
        }
        "#);
    }

    #[test]
    fn scales_and_shifts_before_convolutions_and_classifiers() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H], %1 "z": f32[N,2]) symbols N=1.., H=3.. {
              weight %2: f32[2,1] = random
              weight %3: f32[3,2,2] = random
              weight %4: f32[3] = random
              weight %5: f32[3,2] = random
              weight %6: f32[] = dense(3.0)
              %7 = Mul(%0, %2)
              %8 = Add(%7, %2)
              %9 = Conv(%8, %3, %4)
              %10 = Div(%1, %6)
              %11 = Add(%10, %6)
              %12 = Gemm(%11, %5) {transB=1}
              return %9 "y", %12 "w"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,H], %1 "z": f32[N,2]) symbols N=1.., H=3.. {
          weight %2: f32[3,2,2] = dense(…)
          weight %3: f32[2,1] = dense(1.0,-2.0)
          weight %4: f32[3] = dense(1.375,-1.25,-1.875)
          weight %5: f32[3,2] = dense(…)
          weight %6: f32[] = dense(3.0)
          %7 = Mul(%2, %3) : f32[3,2,2]
          %8 = Reshape(%3) {shape=dims[2]} : f32[2]
          %9 = Einsum(%2, %8) {equation="omk,m->o"} : f32[3]
          %10 = Add(%4, %9) : f32[3]
          %11 = Conv(%0, %7, %10) : f32[N,3,H-1]
          %12 = Div(%5, %6) : f32[3,2]
          %13 = Reshape(%6) {shape=dims[1]} : f32[1]
          %14 = Expand(%13) {shape=dims[2]} : f32[2]
          %15 = Einsum(%5, %14) {equation="om,m->o"} : f32[3]
          %16 = Gemm(%1, %12, %15) {transB=1} : f32[N,3]
          return %11 "y", %16 "w"
        }
        "#);
    }

    #[test]
    fn a_matrix_from_the_left() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4,3]) symbols N=1.. {
              weight %1: f32[4,1] = random
              weight %2: f32[2,4] = random
              %3 = Mul(%0, %1)
              %4 = Add(%3, %1)
              %5 = MatMul(%2, %4)
              return %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,4,3]) symbols N=1.. {
          weight %1: f32[4,1] = dense(1.0,-2.0,-2.0,-2.0)
          weight %2: f32[2,4] = dense(…)
          %3 = Reshape(%1) {shape=dims[4]} : f32[4]
          %4 = Mul(%2, %3) : f32[2,4]
          %5 = MatMul(%4, %0) : f32[N,2,3]
          %6 = Reshape(%1) {shape=dims[4]} : f32[4]
          %7 = Reshape(%6) {shape=dims[4,1]} : f32[4,1]
          %8 = MatMul(%2, %7) : f32[2,1]
          %9 = Add(%5, %8) : f32[N,2,3]
          return %9 "y"
        }
        "#);
    }

    #[test]
    fn refuses_shared_weights_and_padded_shifts() {
        let one = |made: &str, returned: &str| {
            refused(
                &PASS,
                &format!(
                    "graph @g (%0 \"x\": f32[N,2,H], %1 \"z\": f32[N,2]) symbols N=1.., H=3.. {{\nweight %2: f32[2,1] = \
                     random\nweight %3: f32[2,2,3] = random\nweight %4: f32[2,2] = random\nweight %5: f32[2] = \
                     random\n{made}\nreturn {returned} \"y\", %9 \"w\"\n}}"
                ),
            )
        };
        insta::assert_snapshot!(one("%6 = Mul(%1, %5)\n%7 = MatMul(%6, %4)\n%9 = MatMul(%1, %4)", "%7"), @"scale into the weights behind it: others read the weight of MatMul");
        insta::assert_snapshot!(one("%6 = Mul(%0, %2)\n%7 = Add(%6, %2)\n%9 = Conv(%7, %3) {pads=[1,1]}", "%9"), @"shift through the products behind it: the padding of Conv is zero, where what is shifted is not");
        // A mean that is subtracted first; others that read what is scaled; another axis.
        assert_eq!(one("%6 = Add(%1, %5)\n%9 = MatMul(%6, %4)", "%9"), "");
        assert_eq!(one("%6 = Mul(%1, %5)\n%9 = MatMul(%6, %4)", "%6"), "");
        assert_eq!(
            one(
                "%6 = Mul(%0, %2)\n%9 = MatMul(%4, %6)\n%8 = Transpose(%6) {perm=[0,2,1]}\n%7 = MatMul(%6, %8)",
                "%7"
            ),
            ""
        );
    }

    #[test]
    fn refuses_infinite_factors() {
        let one = |op: &str, factor: &str, before: &str, after: &str| {
            refused(
                &PASS,
                &format!(
                    "graph @g (%0 \"x\": f32[N,2]) symbols N=1.. {{\nweight %1: f32[2,2] = random\nweight %2: f32[2] = \
                     dense({factor})\n%3 = {before}\n%4 = {op}(%3, %2)\n%5 = {after}\nreturn %5 \"y\"\n}}"
                ),
            )
        };
        let said = "it has elements that are not finite: sums of their products would have no value\n";
        let before = one("Mul", "inf, 1.0", "Exp(%0)", "MatMul(%4, %1)");
        assert_eq!(before, format!("scale into the weights behind it: {said}"));
        let after = one("Div", "0.0, 1.0", "MatMul(%0, %1)", "Exp(%4)");
        assert_eq!(after, format!("scale into weights: {said}"));
    }
}
