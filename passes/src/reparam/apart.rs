//! Two products with matrices along one axis that is the last but one, or that views move in between: their product, where
//! it takes fewer multiplications.
//!
//! ```text
//! %1 = MatMul(a, %0) : f32[N,8,3]
//! %2 = Transpose(%1) {perm=[0,2,1]} : f32[N,3,8]      →      %2 = Transpose(%0) {perm=[0,2,1]} : f32[N,3,4]
//! %3 = MatMul(%2, b) : f32[N,3,2]                            %3 = MatMul(%2, aᵀ b) : f32[N,3,2]
//! ```
//!
//! Products along other axes may lie between as well: those of a transform of rows do not mind that of columns.

use cameo_ir::op::{OpError, invalid};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, DType, Dim, Graph, NodeId, ValueId};

use super::products::allowed;
use crate::fold_scales::{channel_axis, reshaped};
use crate::narrow::operands;
use crate::pattern::{perm_attr, reshape_attrs};

/// Nodes between the products: views of heads, a bias, products along two other axes.
const MAX_BETWEEN: usize = 8;

/// A product of `operand` with a constant matrix.
#[derive(Clone, Copy)]
struct Product {
    operand: ValueId,
    weight: ValueId,
    /// Whether the matrix is `[inputs, outputs]`, from the right, and not `[outputs, inputs]`, from the left.
    right: bool,
    inputs: i64,
    outputs: i64,
}

impl Product {
    fn of(g: &Graph, constants: &[bool], n: NodeId) -> Option<Self> {
        let node = g.node(n);
        let (&[Some(a), Some(b)], "MatMul") = (&node.inputs[..], node.op.name()) else {
            return None;
        };
        let right = constants[b.0 as usize];
        let (operand, weight) = if right { (a, b) } else { (b, a) };
        let [rows, columns] = &g.fact(weight).shape[..] else {
            return None;
        };
        let is = constants[weight.0 as usize] && !constants[operand.0 as usize];
        let (rows, columns) = (rows.as_const()?, columns.as_const()?);
        let (inputs, outputs) = if right { (rows, columns) } else { (columns, rows) };
        (is && g.fact(operand).rank() >= 2).then_some(Self {
            operand,
            weight,
            right,
            inputs,
            outputs,
        })
    }

    /// The axis of the operand that is summed, and of the result that is made.
    fn axis(&self, g: &Graph) -> usize {
        g.fact(self.operand).rank() - if self.right { 1 } else { 2 }
    }

    fn cost(inputs: i64, outputs: i64) -> u64 {
        inputs.unsigned_abs().saturating_mul(outputs.unsigned_abs())
    }
}

/// What lies between two products along an axis.
enum Step {
    /// A view or a product along another axis, which reads the axis in this operand and has it there in its result.
    Kept { node: NodeId, slot: usize, axis: usize },
    /// A sum with a constant that is the same along all other axes.
    Shift(ValueId),
}

/// `B · view(A · x)` → `(B A) · view(x)`
pub fn merge(rw: &mut Rewriter, constants: &[bool], n: NodeId) -> Outcome {
    let g = rw.graph();
    let Some(outer) = Product::of(g, constants, n) else {
        return Outcome::NoMatch;
    };
    let mut nodes = vec![n];
    let Some((inner, steps)) = behind(g, constants, &outer, &mut nodes) else {
        return Outcome::NoMatch;
    };
    // The others are `products`' business.
    if outer.right && inner.right && !steps.iter().any(|s| matches!(s, Step::Kept { .. })) {
        return Outcome::NoMatch;
    }
    let merged = Product::cost(inner.inputs, outer.outputs);
    let apart = Product::cost(inner.inputs, inner.outputs).saturating_add(Product::cost(outer.inputs, outer.outputs));
    let crossed = |s: &Step| matches!(s, Step::Kept { node, .. } if g.node(*node).op == "MatMul");
    if merged >= apart || (inner.inputs > inner.outputs && steps.iter().any(crossed)) {
        return Outcome::NoMatch;
    }
    let detail = "product of weights along an axis";
    if !matches!(g.fact(outer.operand).dtype, DType::F32 | DType::F64) {
        return rw.refuse(&nodes, detail, "the product would be rounded to a 16-bit weight");
    }
    let between = nodes[1..].iter().map(|n| g.node(*n).outputs[0]);
    if between.into_iter().any(|v| !rw.used_once(v)) {
        return rw.refuse(&nodes, detail, "the result between them is also read by others");
    }
    let iterations = merged.saturating_mul(inner.outputs.unsigned_abs());
    if iterations > allowed(g) {
        let reason = format!("the product of the weights takes {iterations} iterations");
        return rw.refuse(&nodes, detail, reason);
    }
    rw.replace_one(&nodes, detail, |rw| build(rw, &outer, &inner, &steps))
}

/// The product that makes the axis which `outer` sums, and what is between, the outermost first.
fn behind(g: &Graph, constants: &[bool], outer: &Product, nodes: &mut Vec<NodeId>) -> Option<(Product, Vec<Step>)> {
    let (mut v, mut axis) = (outer.operand, outer.axis(g));
    let (mut steps, mut crossed) = (vec![], false);
    while steps.len() <= MAX_BETWEEN {
        let (n, _) = g.producer(v)?;
        nodes.push(n);
        let op = g.node(n).op.name();
        match Product::of(g, constants, n) {
            Some(p) if p.axis(g) == axis => return Some((p, steps)),
            Some(_) => crossed = true,
            None if op == "MatMul" => return None,
            None => {}
        }
        match op {
            "Transpose" | "Reshape" | "MatMul" => {
                let [(slot, from)] = operands(g, constants, n, axis)?[..] else {
                    return None;
                };
                steps.push(Step::Kept { node: n, slot, axis });
                (v, axis) = (g.node(n).inputs[slot]?, from);
            }
            // The product along another axis would have to sum it.
            "Add" if !crossed => {
                let (a, b) = (g.node(n).inputs[0]?, g.node(n).inputs[1]?);
                let (x, c) = if constants[b.0 as usize] { (a, b) } else { (b, a) };
                let shape = &g.fact(v).shape;
                let along = channel_axis(&g.fact(c).shape, shape)?;
                if !constants[c.0 as usize] || g.fact(x).shape != *shape || along.is_some_and(|a| a != axis) {
                    return None;
                }
                steps.push(Step::Shift(c));
                v = x;
            }
            _ => return None,
        }
    }
    None
}

fn build(rw: &mut Rewriter, outer: &Product, inner: &Product, steps: &[Step]) -> Result<ValueId, OpError> {
    let turned = |rw: &mut Rewriter, w: ValueId, turn: bool| match turn {
        true => rw.apply("Transpose", &[("perm", perm_attr(&[1, 0]))], &[w]),
        false => Ok(w),
    };
    let first = turned(rw, inner.weight, inner.right != outer.right)?;
    let side = |w: ValueId, x: ValueId| if outer.right { [x, w] } else { [w, x] };
    let weight = rw.apply("MatMul", &[], &side(outer.weight, first))?;
    let (mut x, mut shift) = (inner.operand, None);
    for s in steps.iter().rev() {
        match *s {
            Step::Kept { node, slot, axis } => {
                let (origin, mut inputs) = (rw.node(node).origin.clone(), rw.node(node).inputs.clone());
                let mut shape = rw.fact(rw.node(node).outputs[0]).shape.clone();
                shape[axis] = Dim::from(inner.inputs);
                inputs[slot] = Some(x);
                x = rw.with_origin(origin, |rw| match rw.node(node).op == "Reshape" {
                    true => rw.apply("Reshape", &reshape_attrs(&shape), &[x]),
                    false => match rw.copy_with(node, inputs)?[..] {
                        [y] => Ok(y),
                        _ => invalid("one result is expected"),
                    },
                })?;
            }
            Step::Shift(c) => {
                let count = rw.fact(c).element_count();
                let c = reshaped(rw, c, &[count])?;
                shift = Some(match shift {
                    Some(s) => rw.apply("Add", &[], &[s, c])?,
                    None => c,
                });
            }
        }
    }
    let y = rw.apply("MatMul", &[], &side(weight, x))?;
    let Some(c) = shift else { return Ok(y) };
    let width = Dim::from(outer.inputs);
    let shape = if outer.right {
        vec![width]
    } else {
        vec![width, Dim::ONE]
    };
    let c = match rw.fact(c).shape[0] == shape[0] {
        true => c,
        false => rw.apply("Expand", &[("shape", Attr::Dims(shape[..1].to_vec()))], &[c])?,
    };
    let c = reshaped(rw, c, &shape)?;
    let bias = rw.apply("MatMul", &[], &side(outer.weight, c))?;
    rw.apply("Add", &[], &[y, bias])
}

#[cfg(test)]
mod tests {
    use crate::reparam::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn transforms_from_the_left_with_a_bias() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,3]) symbols N=1.. {
              weight %1: f32[4,2] = random
              weight %2: f32[4,1] = random
              weight %3: f32[2,4] = random
              weight %4: f32[] = dense(0.5)
              %5 = MatMul(%1, %0) from "a"
              %6 = Add(%5, %2) from "bias"
              %7 = Add(%6, %4) from "bias"
              %8 = MatMul(%3, %7) from "b"
              return %8 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,3]) symbols N=1.. {
          weight %1: f32[2,4] = dense(…)
          weight %2: f32[4,2] = dense(…)
          weight %3: f32[4,1] = dense(-1.75,-1.0,0.75,1.875)
          weight %4: f32[] = dense(0.5)
          %5 = MatMul(%1, %2) : f32[2,2] from "a", "b", "bias"
          %6 = MatMul(%5, %0) : f32[N,2,3] from "a", "b", "bias"
          %7 = Reshape(%3) {shape=dims[4]} : f32[4] from "a", "b", "bias"
          %8 = Reshape(%4) {shape=dims[1]} : f32[1] from "a", "b", "bias"
          %9 = Add(%7, %8) : f32[4] from "a", "b", "bias"
          %10 = Reshape(%9) {shape=dims[4,1]} : f32[4,1] from "a", "b", "bias"
          %11 = MatMul(%1, %10) : f32[2,1] from "a", "b", "bias"
          %12 = Add(%6, %11) : f32[N,2,3] from "a", "b", "bias"
          return %12 "y"
        }
        "#);
    }

    #[test]
    fn views_between_a_transform_and_a_layer() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,6]) symbols N=1.. {
              weight %1: f32[4,2] = random
              weight %2: f32[4,3] = random
              weight %3: f32[4] = random
              %4 = MatMul(%1, %0) from "a"
              %5 = Transpose(%4) {perm=[0,2,1]} from "view"
              %6 = Reshape(%5) {shape=dims[N,2,3,4]} from "view"
              %7 = Add(%6, %3) from "bias"
              %8 = MatMul(%7, %2) from "b"
              return %8 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,6]) symbols N=1.. {
          weight %1: f32[4,2] = dense(…)
          weight %2: f32[4,3] = dense(…)
          weight %3: f32[4] = dense(1.125,-1.375,-1.375,1.125)
          %4 = Transpose(%0) {perm=[0,2,1]} : f32[N,6,2] from "view"
          %5 = Reshape(%4) {shape=dims[N,2,3,2]} : f32[N,2,3,2] from "view"
          %6 = Transpose(%1) {perm=[1,0]} : f32[2,4] from "a", "b", "bias", "view"
          %7 = MatMul(%6, %2) : f32[2,3] from "a", "b", "bias", "view"
          %8 = MatMul(%5, %7) : f32[N,2,3,3] from "a", "b", "bias", "view"
          %9 = MatMul(%3, %2) : f32[3] from "a", "b", "bias", "view"
          %10 = Add(%8, %9) : f32[N,2,3,3] from "a", "b", "bias", "view"
          return %10 "y"
        }
        "#);
    }

    #[test]
    fn a_transform_of_blocks_and_its_inverse() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4,4]) symbols N=1.. {
              weight %1: f32[4,4] = random
              weight %2: f32[4,4] = random
              weight %3: f32[4,4] = random
              weight %4: f32[4,4] = random
              %5 = MatMul(%1, %0)
              %6 = MatMul(%5, %2)
              %7 = MatMul(%3, %6)
              %8 = MatMul(%7, %4)
              return %8 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,4,4]) symbols N=1.. {
          weight %1: f32[4,4] = dense(…)
          weight %2: f32[4,4] = dense(…)
          weight %3: f32[4,4] = dense(…)
          weight %4: f32[4,4] = dense(…)
          %5 = MatMul(%1, %2) : f32[4,4]
          %6 = MatMul(%5, %0) : f32[N,4,4]
          %7 = MatMul(%3, %4) : f32[4,4]
          %8 = MatMul(%6, %7) : f32[N,4,4]
          return %8 "y"
        }
        "#);
    }

    #[test]
    fn refuses_what_others_read_and_half_precision() {
        let one = |dtype: &str, between: &str, returned: &str| {
            refused(
                &PASS,
                &format!(
                    "graph @g (%0 \"x\": {dtype}[N,4,4]) symbols N=1.. {{\nweight %1: {dtype}[4,4] = random\nweight %2: \
                     {dtype}[4,4] = random\n%4 = MatMul(%1, %0)\n{between}\n%9 = \
                     MatMul(%2, %5)\nreturn %9 \"y\"{returned}\n}}"
                ),
            )
        };
        insta::assert_snapshot!(one("f32", "%6 = Transpose(%4)\n%5 = Transpose(%6)", ", %6 \"z\""), @"product of weights along an axis: the result between them is also read by others");
        insta::assert_snapshot!(one("f16", "%6 = Transpose(%4)\n%5 = Transpose(%6)", ""), @"product of weights along an axis: the product would be rounded to a 16-bit weight");
        // Another axis, and what is not linear.
        assert_eq!(one("f32", "%5 = Transpose(%4) {perm=[0,2,1]}", ""), "");
        assert_eq!(one("f32", "%5 = Relu(%4)", ""), "");
    }

    #[test]
    fn a_bottleneck_stays() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4,3]) symbols N=1.. {
              weight %1: f32[1,4] = random
              weight %2: f32[4,1] = random
              %3 = MatMul(%1, %0)
              %4 = MatMul(%2, %3)
              return %4 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"");
    }

    #[test]
    fn what_has_no_operands_is_no_product() {
        let text = r#"graph @g (%0 "x": f32[N]) symbols N=1.. {
          weight %1: f32[2,3] = random
          %2 = ConstantOfShape() {shape=dims[3,N], value=f32[1] dense(1.0)}
          %3 = MatMul(%1, %2)
          return %3 "y"
        }"#;
        assert_eq!(refused(&PASS, text), "");
    }
}
