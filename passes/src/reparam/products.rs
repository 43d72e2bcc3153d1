//! Two linear maps in a row: their product, where it takes fewer multiplications.

use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Graph, NodeId};

use super::branch::{After, Branch, Conv, Form, Kernel, Map, Matrix, Search};
use super::sums::{built, gcd};
use super::window::Window;
use crate::pattern::splat;

/// Iterations that the product of two weights may take: what a recipe may take always, and per element of the model's
/// weights. Beyond, the program would multiply them in every run.
const PRODUCT_ANY: u64 = 1 << 27;
const PRODUCT_PER_ELEMENT: u64 = 64;

/// `Conv(Conv(x, a), b)` → `Conv(x, b∘a)`, `(x a) b` → `x (a b)`
pub fn merge(rw: &mut Rewriter, constants: &[bool], n: NodeId) -> Outcome {
    let search = Search {
        g: rw.graph(),
        constants,
    };
    let outer = search.branch(rw.node(n).outputs[0], true, 0);
    let Some(product) = composed(&search, &outer) else {
        return Outcome::NoMatch;
    };
    if product.branch.cost() >= product.branch.apart() {
        return Outcome::NoMatch;
    }
    let (nodes, detail) = (product.branch.nodes.clone(), "product of weights");
    match product.problem {
        Some(reason) => rw.refuse(&nodes, detail, reason),
        None => {
            let form = match &product.branch.map {
                Map::Conv(c) => Some(&c.form),
                _ => None,
            };
            rw.replace_one(&nodes, detail, |rw| built(rw, form, &[&product.branch]))
        }
    }
}

/// Two maps as one.
pub struct Product {
    pub branch: Branch,
    /// Why it must not stand for them.
    pub problem: Option<String>,
}

/// `outer` after the map that its source comes from, when both are of one kind. Of two convolutions one is pointwise: the
/// taps of others multiply.
pub fn composed(search: &Search, outer: &Branch) -> Option<Product> {
    let between = outer.source;
    let inner = search.branch(between, true, 0);
    let channels = match outer.map {
        Map::MatMul(_) => search.g.fact(between).rank() - 1,
        _ => 1,
    };
    let steps = inner.after.iter().chain(&outer.after);
    if !steps.filter_map(After::axis).all(|a| a == channels) {
        return None;
    }
    let bare = Branch {
        after: vec![],
        ..outer.clone()
    };
    let kernel = Kernel::Product(Box::new(inner.clone()), Box::new(bare));
    let (map, iterations, mut problem) = match (&inner.map, &outer.map) {
        (Map::Conv(a), Map::Conv(b)) => {
            let (a, b) = (&a.form, &b.form);
            let window = if b.window.is_pointwise() {
                a.window.clone()
            } else if a.window.is_pointwise() && narrows(&b.window) {
                b.window.clone()
            } else {
                return None;
            };
            let form = Form {
                group: gcd(a.group, b.group),
                inputs: a.inputs,
                outputs: b.outputs,
                window,
            };
            let middle = (a.outputs / form.group.max(1)).unsigned_abs();
            let problem = (b.window.is_padded() && shifts(search.g, &inner))
                .then(|| "the padding between them is zero, where the first has a bias".to_string());
            let iterations = form.cost().saturating_mul(middle);
            let bias = None;
            (Map::Conv(Conv { kernel, bias, form }), iterations, problem)
        }
        (Map::MatMul(a), Map::MatMul(b)) => {
            let (inputs, outputs) = (a.inputs, b.outputs);
            let m = Matrix {
                kernel,
                transposed: false,
                inputs,
                outputs,
            };
            let iterations =
                (inputs.unsigned_abs().saturating_mul(outputs.unsigned_abs())).saturating_mul(a.outputs.unsigned_abs());
            (Map::MatMul(m), iterations, None)
        }
        _ => return None,
    };
    if search.is_coarse(outer.value) {
        problem = Some("the product would be rounded to a 16-bit weight".into());
    }
    if !search.read_once(between) {
        problem = Some("the result between them is also read by others".into());
    }
    if iterations > allowed(search.g) {
        problem = Some(format!("the product of the weights takes {iterations} iterations"));
    }
    let nodes = outer.nodes.iter().chain(&inner.nodes).copied().collect();
    let branch = Branch {
        source: inner.source,
        map,
        nodes,
        ..outer.clone()
    };
    Some(Product { branch, problem })
}

/// Whether there are no more windows than elements.
fn narrows(w: &Window) -> bool {
    (0..w.kernel.len()).all(|i| w.begin[i] + w.end[i] <= w.dilations[i] * (w.kernel[i] - 1))
}

/// Whether a branch adds something to a product that is zero.
fn shifts(g: &Graph, b: &Branch) -> bool {
    let bias = match &b.map {
        Map::Conv(c) => match &c.kernel {
            Kernel::Product(inner, outer) => shifts(g, inner) || shifts(g, outer),
            _ => c.bias.is_some_and(|v| splat(g, v) != Some(0.0)),
        },
        Map::MatMul(m) => match &m.kernel {
            Kernel::Product(inner, outer) => shifts(g, inner) || shifts(g, outer),
            _ => false,
        },
        Map::Identity => false,
    };
    bias || b.after.iter().any(|a| matches!(a, After::Shift { .. }))
}

pub fn allowed(g: &Graph) -> u64 {
    let weights = g.value_ids().filter_map(|v| g.constant(v));
    let elements = weights.fold(0, |n: u64, t| n.saturating_add(t.len() as u64));
    PRODUCT_ANY.max(elements.saturating_mul(PRODUCT_PER_ELEMENT))
}

#[cfg(test)]
mod tests {
    use crate::reparam::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn consecutive_convolutions_multiply_where_that_is_less() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=3.. {
              weight %1: f32[6,2,1] = random
              weight %2: f32[3,6,3] = random
              weight %3: f32[3] = random
              weight %4: f32[3,3,1] = random
              weight %5: f32[3] = random
              %6 = Conv(%0, %1) from "a"
              %7 = Conv(%6, %2, %3) {pads=[1,1], strides=[2]} from "b"
              %8 = Conv(%7, %4, %5) from "c"
              return %8 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=3.. {
          weight %1: f32[3,3,1] = dense(…)
          weight %2: f32[3,6,3] = dense(…)
          weight %3: f32[6,2,1] = dense(…)
          weight %4: f32[3] = dense(-0.125,0.875,1.125)
          weight %5: f32[3] = dense(0.0,-1.25,1.25)
          %6 = Reshape(%1) {shape=dims[1,3,3,1]} : f32[1,3,3,1] from "a", "b", "c"
          %7 = Reshape(%2) {shape=dims[1,3,6,3]} : f32[1,3,6,3] from "a", "b"
          %8 = Reshape(%3) {shape=dims[1,6,2,1]} : f32[1,6,2,1] from "a", "b"
          %9 = Einsum(%7, %8) {equation="gomk,gmcl->gockl"} : f32[1,3,2,3,1] from "a", "b"
          %10 = Reshape(%9) {shape=dims[3,2,3]} : f32[3,2,3] from "a", "b"
          %11 = Reshape(%10) {shape=dims[1,3,2,3]} : f32[1,3,2,3] from "a", "b", "c"
          %12 = Einsum(%6, %11) {equation="gomk,gmcl->gockl"} : f32[1,3,2,1,3] from "a", "b", "c"
          %13 = Reshape(%12) {shape=dims[3,2,3]} : f32[3,2,3] from "a", "b", "c"
          %14 = Reshape(%1) {shape=dims[1,3,3,1]} : f32[1,3,3,1] from "a", "b", "c"
          %15 = Reshape(%4) {shape=dims[1,3]} : f32[1,3] from "a", "b", "c"
          %16 = Einsum(%14, %15) {equation="gomk,gm->go"} : f32[1,3] from "a", "b", "c"
          %17 = Reshape(%16) {shape=dims[3]} : f32[3] from "a", "b", "c"
          %18 = Add(%17, %5) : f32[3] from "a", "b", "c"
          %19 = Conv(%0, %13, %18) {dilations=[1], group=1, pads=[1,1], strides=[2]} : f32[N,3,fdiv(H+1,2)] from "a", "b", "c"
          return %19 "y"
        }
        "#);
    }

    #[test]
    fn a_bias_before_a_convolution_without_padding() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4,H]) symbols N=1.., H=3.. {
              weight %1: f32[8,2,1] = random
              weight %2: f32[8] = random
              weight %3: f32[4,4,3] = random
              weight %4: f32[] = dense(0.5)
              %5 = Conv(%0, %1, %2) {group=2}
              %6 = Mul(%5, %4)
              %7 = Conv(%6, %3) {group=2, dilations=[1]}
              return %7 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,4,H]) symbols N=1.., H=3.. {
          weight %1: f32[4,4,3] = dense(…)
          weight %2: f32[8,2,1] = dense(…)
          weight %3: f32[] = dense(0.5)
          weight %4: f32[8] = dense(…)
          %5 = Reshape(%1) {shape=dims[2,2,4,3]} : f32[2,2,4,3]
          %6 = Mul(%2, %3) : f32[8,2,1]
          %7 = Reshape(%6) {shape=dims[2,4,2,1]} : f32[2,4,2,1]
          %8 = Einsum(%5, %7) {equation="gomk,gmcl->gockl"} : f32[2,2,2,3,1]
          %9 = Reshape(%8) {shape=dims[4,2,3]} : f32[4,2,3]
          %10 = Reshape(%1) {shape=dims[2,2,4,3]} : f32[2,2,4,3]
          %11 = Mul(%4, %3) : f32[8]
          %12 = Reshape(%11) {shape=dims[2,4]} : f32[2,4]
          %13 = Einsum(%10, %12) {equation="gomk,gm->go"} : f32[2,2]
          %14 = Reshape(%13) {shape=dims[4]} : f32[4]
          %15 = Conv(%0, %9, %14) {dilations=[1], group=2, pads=[0,0], strides=[1]} : f32[N,4,H-2]
          return %15 "y"
        }
        "#);
    }

    #[test]
    fn refuses_a_bias_before_padding_and_what_others_read() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=1.. {
              weight %1: f32[6,2,1] = random
              weight %2: f32[6] = random
              weight %3: f32[3,6,3] = random
              %4 = Conv(%0, %1, %2)
              %5 = Conv(%4, %3) {pads=[1,1]}
              %6 = Conv(%0, %1)
              %7 = Conv(%6, %3) {pads=[1,1]}
              return %5 "y", %6 "z", %7 "w"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        product of weights: the padding between them is zero, where the first has a bias
        product of weights: the result between them is also read by others
        "#);
    }

    #[test]
    fn a_depthwise_and_a_pointwise_convolution_stay() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4,H]) symbols N=1.., H=1.. {
              weight %1: f32[4,1,3] = random
              weight %2: f32[8,4,1] = random
              weight %3: f32[4,8,1] = random
              %4 = Conv(%0, %1) {group=4, pads=[1,1]}
              %5 = Conv(%4, %2)
              %6 = Relu(%5)
              %7 = Conv(%6, %3)
              return %7 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"");
    }

    #[test]
    fn an_adapter_of_low_rank_goes_into_its_weight() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[B,S,4]) symbols B=1.., S=1.. {
              weight %1: f32[4,4] = random
              weight %2: f32[4] = random
              weight %3: f32[4,1] = random
              weight %4: f32[1,4] = random
              weight %5: f32[] = dense(2.0)
              %6 = MatMul(%0, %1) from "base"
              %7 = Add(%6, %2) from "bias"
              %8 = MatMul(%0, %3) from "a"
              %9 = MatMul(%8, %4) from "b"
              %10 = Mul(%9, %5) from "scale"
              %11 = Add(%7, %10) from "add"
              return %11 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[B,S,4]) symbols B=1.., S=1.. {
          weight %1: f32[4,1] = dense(1.125,-1.375,-1.375,1.125)
          weight %2: f32[1,4] = dense(1.25,-0.5,-1.25,-0.125)
          weight %3: f32[] = dense(2.0)
          weight %4: f32[4,4] = dense(…)
          weight %5: f32[4] = dense(-1.875,-1.0,0.5,1.5)
          %6 = MatMul(%1, %2) : f32[4,4] from "a", "add", "b", "base", "bias", "scale"
          %7 = Mul(%6, %3) : f32[4,4] from "a", "add", "b", "base", "bias", "scale"
          %8 = Add(%4, %7) : f32[4,4] from "a", "add", "b", "base", "bias", "scale"
          %9 = MatMul(%0, %8) : f32[B,S,4] from "a", "add", "b", "base", "bias", "scale"
          %10 = Add(%9, %5) : f32[B,S,4] from "a", "add", "b", "base", "bias", "scale"
          return %10 "y"
        }
        "#);
    }

    #[test]
    fn two_matrices_in_a_row() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {
              weight %1: f32[2,6] = random
              weight %2: f32[6] = random
              weight %3: f32[6,3] = random
              %4 = MatMul(%0, %1)
              %5 = Add(%4, %2)
              %6 = MatMul(%5, %3)
              return %6 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2]) symbols N=1.. {
          weight %1: f32[2,6] = dense(…)
          weight %2: f32[6,3] = dense(…)
          weight %3: f32[6] = dense(…)
          %4 = MatMul(%1, %2) : f32[2,3]
          %5 = MatMul(%0, %4) : f32[N,3]
          %6 = MatMul(%3, %2) : f32[3]
          %7 = Add(%5, %6) : f32[N,3]
          return %7 "y"
        }
        "#);
    }

    #[test]
    fn a_low_rank_product_stays() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4]) symbols N=1.. {
              weight %1: f32[4,1] = random
              weight %2: f32[1,4] = random
              weight %3: f32[4,4] = random
              %4 = MatMul(%0, %1)
              %5 = MatMul(%4, %2)
              %6 = MatMul(%0, %3)
              %7 = Add(%5, %6)
              return %4 "a", %7 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"sum of branches: the result between them is also read by others");
    }

    #[test]
    fn a_pointwise_convolution_and_a_mean_are_a_branch() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=3.. {
              weight %1: f32[2,2,3] = random
              weight %2: f32[2,2,1] = random
              weight %3: f32[2] = random
              %4 = Conv(%0, %1)
              %5 = Conv(%0, %2, %3)
              %6 = AveragePool(%5) {kernel_shape=[3]}
              %7 = Add(%4, %6)
              return %7 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=3.. {
          weight %1: f32[2,1,1] = dense(0.33333334,0.33333334)
          weight %2: f32[2,2,1] = dense(-0.875,-1.875,1.375,-1.25)
          weight %3: f32[2,2,3] = dense(…)
          weight %4: f32[2,1,1] = dense(0.33333334,0.33333334)
          weight %5: f32[2] = dense(-1.875,-1.0)
          %6 = Expand(%1) {shape=dims[2,1,3]} : f32[2,1,3]
          %7 = Reshape(%6) {shape=dims[1,2,1,1,3]} : f32[1,2,1,1,3]
          %8 = ConstantOfShape() {shape=dims[2,2], value=f32[1] dense(0.0)} : f32[2,2]
          %9 = EyeLike(%8) : f32[2,2]
          %10 = Reshape(%9) {shape=dims[2,1,2,1]} : f32[2,1,2,1]
          %11 = Mul(%7, %10) : f32[1,2,1,2,3]
          %12 = Reshape(%11) {shape=dims[2,2,3]} : f32[2,2,3]
          %13 = Reshape(%12) {shape=dims[1,2,2,3]} : f32[1,2,2,3]
          %14 = Reshape(%2) {shape=dims[1,2,2,1]} : f32[1,2,2,1]
          %15 = Einsum(%13, %14) {equation="gomk,gmcl->gockl"} : f32[1,2,2,3,1]
          %16 = Reshape(%15) {shape=dims[2,2,3]} : f32[2,2,3]
          %17 = Add(%3, %16) : f32[2,2,3]
          %18 = Expand(%4) {shape=dims[2,1,3]} : f32[2,1,3]
          %19 = Reshape(%18) {shape=dims[2,1,1,3]} : f32[2,1,1,3]
          %20 = Reshape(%5) {shape=dims[2,1]} : f32[2,1]
          %21 = Einsum(%19, %20) {equation="gomk,gm->go"} : f32[2,1]
          %22 = Reshape(%21) {shape=dims[2]} : f32[2]
          %23 = Conv(%0, %17, %22) {dilations=[1], group=1, pads=[0,0], strides=[1]} : f32[N,2,H-2]
          return %23 "y"
        }
        "#);
    }

    #[test]
    fn an_adapter_beside_a_layer_of_a_classifier() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4]) symbols N=1.. {
              weight %1: f32[3,4] = random
              weight %2: f32[3] = random
              weight %3: f32[4,1] = random
              weight %4: f32[3,1] = random
              weight %5: f32[1] = random
              %6 = Gemm(%0, %1, %2) {transB=1}
              %7 = Gemm(%0, %3, %5)
              %8 = Gemm(%7, %4) {transB=1}
              %9 = Add(%6, %8)
              return %9 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,4]) symbols N=1.. {
          weight %1: f32[3,4] = dense(…)
          weight %2: f32[3,1] = dense(1.5,1.125,-1.375)
          weight %3: f32[4,1] = dense(-1.25,-1.875,-1.0,0.5)
          weight %4: f32[1] = dense(-1.375)
          weight %5: f32[3] = dense(-0.875,-1.875,1.375)
          %6 = Transpose(%1) {perm=[1,0]} : f32[4,3]
          %7 = Transpose(%2) {perm=[1,0]} : f32[1,3]
          %8 = MatMul(%3, %7) : f32[4,3]
          %9 = Add(%6, %8) : f32[4,3]
          %10 = MatMul(%0, %9) : f32[N,3]
          %11 = Reshape(%4) {shape=dims[]} : f32[]
          %12 = Expand(%11) {shape=dims[1]} : f32[1]
          %13 = Transpose(%2) {perm=[1,0]} : f32[1,3]
          %14 = MatMul(%12, %13) : f32[3]
          %15 = Add(%5, %14) : f32[3]
          %16 = Add(%10, %15) : f32[N,3]
          return %16 "y"
        }
        "#);
    }

    #[test]
    fn refuses_to_multiply_half_precision() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f16[N,2], %1 "w": f32[2,6], %2 "u": f32[N,2]) symbols N=1.. {
              weight %3: f16[2,6] = random
              weight %4: f16[6,3] = random
              weight %5: f32[6,3] = random
              %6 = MatMul(%0, %3)
              %7 = MatMul(%6, %4)
              %8 = MatMul(%2, %1)
              %9 = MatMul(%8, %5)
              return %7 "y", %9 "z"
            }"#,
        );
        insta::assert_snapshot!(text, @"product of weights: the product would be rounded to a 16-bit weight");
    }

    #[test]
    fn a_bias_per_row_stays() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[3,2]) {
              weight %1: f32[2,6] = random
              weight %2: f32[3,1] = random
              weight %3: f32[6,3] = random
              %4 = Gemm(%0, %1, %2)
              %5 = Gemm(%4, %3)
              return %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"");
    }
}
