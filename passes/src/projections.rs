//! One product instead of several makes what an attention reads.
//!
//! ```text
//! %1 = MatMul(%0, q) : f32[B,S,8]            %1 = Concat(q, k, v) {axis=1} : f32[8,24]       // recipe
//! %2 = MatMul(%0, k) : f32[B,S,8]            %2 = MatMul(%0, %1) : f32[B,S,24]
//! %3 = MatMul(%0, v) : f32[B,S,8]      →     %3, %4, %5 = Split(%2) {axis=-1, split=[8,8,8]}
//! %4 = Attention(%1, %2, %3) {…}             %6 = Attention(%3, %4, %5) {…}
//! ```
//!
//! The operand is read once and threads meet once, which shows where there are few rows; with many, nothing is lost. Biases are joined with the weights; views, caches, rotary embeddings and
//! normalisations may lie between. Not taken: products with other readers than these, which pointwise work may follow: it
//! is done where the product is made.

use cameo_ir::op::invalid;
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, DType, Dim, NodeId, Op, Tensor, ValueId};

use crate::Pass;
use crate::pattern::is_movement;

pub const PASS: Pass = Pass {
    name: "projections",
    doc: "joins the products that make what an attention reads",
    run,
};

const DETAIL: &str = "one product for an attention";

/// Nodes between a product and the attention.
const MAX_BETWEEN: usize = 16;

fn run(rw: &mut Rewriter) {
    rw.each(|rw, n| match rw.node(n).op == "Attention" {
        true => join(rw, n),
        false => Outcome::NoMatch,
    });
}

/// A product with a constant matrix, and what is added to it.
struct Projection {
    nodes: Vec<NodeId>,
    operand: ValueId,
    weight: ValueId,
    bias: Option<ValueId>,
    /// With the bias.
    result: ValueId,
}

/// What may lie between: it reads elements where they are, or needs whole rows of them.
fn between(op: &str) -> bool {
    is_movement(op)
        || matches!(
            op,
            "Expand" | "cameo::Rotary" | "RMSNormalization" | "LayerNormalization"
        )
}

fn join(rw: &mut Rewriter, attention: NodeId) -> Outcome {
    let mut found: Vec<Projection> = vec![];
    let mut work: Vec<ValueId> = (0..3).rev().filter_map(|slot| rw.input(attention, slot)).collect();
    let mut steps = 0;
    while let Some(v) = work.pop() {
        if let Some(p) = projection(rw, v) {
            if found.iter().all(|f| f.result != p.result) {
                found.push(p);
            }
        } else if let Some((n, _)) = rw.graph().producer(v)
            && between(rw.node(n).op.name())
            && steps < 3 * MAX_BETWEEN
        {
            steps += 1;
            // Frequencies and scales are not rows.
            let rows = if rw.node(n).op == "Concat" {
                rw.node(n).inputs.len()
            } else {
                1
            };
            work.extend((0..rows).rev().filter_map(|slot| rw.input(n, slot)));
        }
    }
    // Those of the first operand that has several; keys and values of another sequence are two of another one.
    let Some(operand) = found
        .iter()
        .map(|p| p.operand)
        .find(|v| found.iter().filter(|p| p.operand == *v).count() > 1)
    else {
        return Outcome::NoMatch;
    };
    found.retain(|p| p.operand == operand);
    let nodes: Vec<NodeId> = found.iter().flat_map(|p| p.nodes.iter().copied()).collect();
    let last = |p: &Projection| p.nodes[p.nodes.len() - 1];
    let read = |n: NodeId| n == attention || rw.node(n).op == "Attention" || between(rw.node(n).op.name());
    let g = rw.graph();
    if let Some(other) = found
        .iter()
        .find_map(|p| g.users(p.result).into_iter().find(|u| !read(*u)))
    {
        let reason = format!(
            "{} reads one of the products and may be done where it is made",
            g.node(other).op.name()
        );
        return rw.refuse(&nodes, DETAIL, reason);
    }
    if let Some(p) = found.iter().find(|p| g.is_output(p.result)) {
        return rw.refuse(&[last(p)], DETAIL, "one of the products is an output");
    }
    let results: Vec<ValueId> = found.iter().map(|p| p.result).collect();
    rw.replace_values(&results, &nodes, DETAIL, |rw| {
        let widths: Vec<Dim> = found.iter().map(|p| rw.fact(p.weight).shape[1].clone()).collect();
        let weights: Vec<ValueId> = found.iter().map(|p| p.weight).collect();
        let all = rw.apply("Concat", &[("axis", Attr::Int(1))], &weights)?;
        let mut y = rw.apply("MatMul", &[], &[operand, all])?;
        if found.iter().any(|p| p.bias.is_some()) {
            let biases: Vec<ValueId> = found
                .iter()
                .zip(&widths)
                .map(|(p, width)| match p.bias {
                    Some(b) => b,
                    None => {
                        let n = width.as_const().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
                        let dtype = rw.fact(p.weight).dtype;
                        rw.add_weight("", Tensor::from_f64(dtype, &[n], std::iter::repeat_n(0.0, n)))
                    }
                })
                .collect();
            let bias = rw.apply("Concat", &[("axis", Attr::Int(0))], &biases)?;
            y = rw.apply("Add", &[], &[y, bias])?;
        }
        let Some(split) = Op::find("Split") else {
            return invalid("no operation `Split`");
        };
        let attrs = [("axis", Attr::Int(-1)), ("split", Attr::Dims(widths))];
        let attrs = attrs.into_iter().map(|(k, v)| (k.into(), v)).collect();
        rw.add_node(split, attrs, vec![Some(y)], found.len())
    })
}

/// The product that makes `v`, with or without a bias.
fn projection(rw: &Rewriter, v: ValueId) -> Option<Projection> {
    let constants = rw.constants();
    let constant = |v: &ValueId| constants[v.0 as usize];
    let g = rw.graph();
    let (n, _) = g.producer(v)?;
    let node = g.node(n);
    let (mut nodes, mut bias, mut product) = (vec![n], None, n);
    if node.op == "Add" {
        let (a, b) = (rw.input(n, 0)?, rw.input(n, 1)?);
        let (x, c) = if constant(&b) { (a, b) } else { (b, a) };
        product = rw
            .producer_if(x, "MatMul")
            .filter(|_| constant(&c) && rw.used_once(x))?;
        bias = Some(c);
        nodes.insert(0, product);
    }
    let node = g.node(product);
    let (operand, weight) = (rw.input(product, 0)?, rw.input(product, 1)?);
    let (w, x) = (g.fact(weight), g.fact(operand));
    let flat = w.rank() == 2 && w.static_shape().is_some() && x.rank() >= 2;
    let fits = bias.is_none_or(|b| g.fact(b).shape == w.shape[1..]);
    let is = node.op == "MatMul" && constant(&weight) && !constant(&operand);
    (is && flat && fits && matches!(w.dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16)).then_some(
        Projection {
            nodes,
            operand,
            weight,
            bias,
            result: v,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn queries_keys_and_values_are_one_product() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[B,S,4]) symbols B=1.., S=1.. {
              weight %1: f32[4,4] = random
              weight %2: f32[4,2] = random
              weight %3: f32[4,2] = random
              weight %4: f32[4] = random
              %5 = MatMul(%0, %1)
              %6 = Add(%4, %5)
              %7 = MatMul(%0, %2)
              %8 = MatMul(%0, %3)
              %9 = Attention(%6, %7, %8) {q_num_heads=2, kv_num_heads=1}
              return %9 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[B,S,4]) symbols B=1.., S=1.. {
          weight %1: f32[4,4] = dense(…)
          weight %2: f32[4,2] = dense(…)
          weight %3: f32[4,2] = dense(…)
          weight %4: f32[4] = dense(1.0,1.75,1.375,-0.875)
          weight %5: f32[2] = dense(0.0,0.0)
          weight %6: f32[2] = dense(0.0,0.0)
          %7 = Concat(%1, %2, %3) {axis=1} : f32[4,8]
          %8 = MatMul(%0, %7) : f32[B,S,8]
          %9 = Concat(%4, %5, %6) {axis=0} : f32[8]
          %10 = Add(%8, %9) : f32[B,S,8]
          %11, %12, %13 = Split(%10) {axis=-1, split=dims[4,2,2]} : f32[B,S,4], f32[B,S,2], f32[B,S,2]
          %14 = Attention(%11, %12, %13) {kv_num_heads=1, q_num_heads=2} : f32[B,S,4]
          return %14 "y"
        }
        "#);
    }

    #[test]
    fn keys_and_values_of_another_sequence_through_a_cache() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[B,S,4], %1 "m": f32[B,T,4], %2 "past": f32[B,2,P,2]) symbols B=1.., S=1.., T=1.., P=0.. {
              weight %3: f32[4,4] = random
              weight %4: f32[4,4] = random
              weight %5: f32[4,4] = random
              %6 = MatMul(%0, %3)
              %7 = MatMul(%1, %4)
              %8 = MatMul(%1, %5)
              %9 = Reshape(%6) {shape=dims[B,S,2,2]}
              %10 = Transpose(%9) {perm=[0,2,1,3]}
              %11 = Reshape(%7) {shape=dims[B,T,2,2]}
              %12 = Transpose(%11) {perm=[0,2,1,3]}
              %13 = Concat(%2, %12) {axis=2}
              %14 = Reshape(%8) {shape=dims[B,T,2,2]}
              %15 = Transpose(%14) {perm=[0,2,1,3]}
              %16 = Concat(%2, %15) {axis=2}
              %17 = Attention(%10, %13, %16)
              return %17 "y", %16 "present"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[B,S,4], %1 "m": f32[B,T,4], %2 "past": f32[B,2,P,2]) symbols B=1.., S=1.., T=1.., P=0.. {
          weight %3: f32[4,4] = dense(…)
          weight %4: f32[4,4] = dense(…)
          weight %5: f32[4,4] = dense(…)
          %6 = MatMul(%0, %3) : f32[B,S,4]
          %7 = Reshape(%6) {shape=dims[B,S,2,2]} : f32[B,S,2,2]
          %8 = Transpose(%7) {perm=[0,2,1,3]} : f32[B,2,S,2]
          %9 = Concat(%4, %5) {axis=1} : f32[4,8]
          %10 = MatMul(%1, %9) : f32[B,T,8]
          %11, %12 = Split(%10) {axis=-1, split=dims[4,4]} : f32[B,T,4], f32[B,T,4]
          %13 = Reshape(%11) {shape=dims[B,T,2,2]} : f32[B,T,2,2]
          %14 = Transpose(%13) {perm=[0,2,1,3]} : f32[B,2,T,2]
          %15 = Concat(%2, %14) {axis=2} : f32[B,2,P+T,2]
          %16 = Reshape(%12) {shape=dims[B,T,2,2]} : f32[B,T,2,2]
          %17 = Transpose(%16) {perm=[0,2,1,3]} : f32[B,2,T,2]
          %18 = Concat(%2, %17) {axis=2} : f32[B,2,P+T,2]
          %19 = Attention(%8, %15, %18) : f32[B,2,S,2]
          return %19 "y", %18 "present"
        }
        "#);
    }

    #[test]
    fn refuses_products_that_others_read() {
        let graph = |more: &str, returns: &str| {
            format!(
                r#"graph @g (%0 "x": f32[B,S,4]) symbols B=1.., S=1.. {{
              weight %1: f32[4,4] = random
              weight %2: f32[4,4] = random
              %3 = MatMul(%0, %1)
              %4 = MatMul(%0, %2)
              %5 = Attention(%0, %3, %4) {{q_num_heads=2, kv_num_heads=2}}
              {more}
              return %5 "y"{returns}
            }}"#
            )
        };
        insta::assert_snapshot!(refused(&PASS, &graph("%6 = Sigmoid(%4)", r#", %6 "z""#)), @"one product for an attention: Sigmoid reads one of the products and may be done where it is made");
        insta::assert_snapshot!(refused(&PASS, &graph("", r#", %3 "z""#)), @"one product for an attention: one of the products is an output");
        // Different operands, and a weight that is an input.
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[B,S,4], %1 "w": f32[4,4]) symbols B=1.., S=1.. {
              weight %2: f32[4,4] = random
              weight %3: f32[4,4] = random
              %4 = Neg(%0)
              %5 = MatMul(%0, %2)
              %6 = MatMul(%4, %3)
              %7 = MatMul(%0, %1)
              %8 = Attention(%5, %6, %7) {q_num_heads=2, kv_num_heads=2}
              return %8 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"");
    }
}
