//! Structural re-parameterisation: the branches of a training-time block become the one convolution that they are.
//!
//! ```text
//! %1 = Conv(%0, a) {pads=[1,1,1,1]} : f32[N,8,H,W]         // 3×3
//! %2 = Conv(%0, b) : f32[N,8,H,W]                          // 1×1
//! %3 = Mul(%0, s) : f32[N,8,H,W]                           // what is left of a batch normalisation
//! %4 = Add(%1, %2) : f32[N,8,H,W]                     →    %5 = Conv(%0, a + pad(b) + pad(diag(s))) {pads=[1,1,1,1]}
//! %5 = Add(%4, %3) : f32[N,8,H,W]
//! ```
//!
//! An addend is a branch when it is a convolution with a constant weight, a mean of windows, a product with a constant
//! matrix or the identity, with constant scales and shifts after it; branches that read one value add up, kernel by kernel
//! and bias by bias. Kernels are widened by zeros, groups by zero blocks, so that they fit. Two such maps in a row become
//! their product, alone or as a branch of a sum, and windows that are written out before a product become a convolution.
//! Weights become recipes. The result is exact but for rounding. It never takes more multiplications than the branches did:
//! else they stay. Refused, too: branches whose results others read (they would be computed twice), means that count fewer
//! elements at the border and a bias before padding (neither is the same everywhere), and 16-bit types (rounding the merged
//! weight costs accuracy).

mod apart;
mod branch;
mod products;
mod recipe;
mod sums;
mod unfold;
mod window;

use cameo_ir::rewrite::{Outcome, Rewriter};

use crate::Pass;

pub const PASS: Pass = Pass {
    name: "reparam",
    doc: "merges parallel and consecutive linear branches into one convolution or matrix product",
    run,
};

fn run(rw: &mut Rewriter) {
    rw.fixpoint(|rw, n| match rw.node(n).op.name() {
        "Add" | "Sub" | "Mul" | "Div" | "Neg" => sums::merge(rw, &rw.constants(), n),
        "MatMul" => match unfold::merge(rw, &rw.constants(), n) {
            Outcome::NoMatch => match products::merge(rw, &rw.constants(), n) {
                Outcome::NoMatch => apart::merge(rw, &rw.constants(), n),
                done => done,
            },
            done => done,
        },
        "Conv" | "Gemm" => products::merge(rw, &rw.constants(), n),
        _ => Outcome::NoMatch,
    });
}

#[cfg(test)]
mod tests {
    use crate::reparam::PASS;
    use crate::testing::rewrite;

    #[test]
    fn a_training_time_block_of_three_branches() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H,W]) symbols N=1.., H=1.., W=1.. {
              weight %1: f32[2,2,3,3] = random
              weight %2: f32[2,2,1,1] = random
              weight %3: f32[2] = random
              weight %4: f32[2,1,1] = random
              weight %5: f32[2,1,1] = random
              %6 = Conv(%0, %1, %3) {pads=[1,1,1,1]} from "3x3"
              %7 = Conv(%0, %2) from "1x1"
              %8 = Mul(%0, %4) from "norm"
              %9 = Add(%8, %5) from "norm"
              %10 = Add(%9, %7) from "add"
              %11 = Add(%10, %6) from "add_1"
              %12 = Relu(%11)
              return %12 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,H,W]) symbols N=1.., H=1.., W=1.. {
          weight %1: f32[2,1,1] = dense(-0.75,-0.25)
          weight %2: f32[2,1,1,1] = dense(1.0,1.0)
          weight %3: f32[2,2,1,1] = dense(-1.0,0.25,-1.5,1.875)
          weight %4: f32[2,2,3,3] = dense(…)
          weight %5: f32[2,1,1] = dense(1.0,0.75)
          weight %6: f32[2] = dense(-1.875,-0.75)
          %7 = Reshape(%1) {shape=dims[2,1,1,1]} : f32[2,1,1,1] from "1x1", "add", "norm"
          %8 = Mul(%2, %7) : f32[2,1,1,1] from "1x1", "add", "norm"
          %9 = Reshape(%8) {shape=dims[1,2,1,1,1]} : f32[1,2,1,1,1] from "1x1", "add", "norm"
          %10 = ConstantOfShape() {shape=dims[2,2], value=f32[1] dense(0.0)} : f32[2,2] from "1x1", "add", "norm"
          %11 = EyeLike(%10) : f32[2,2] from "1x1", "add", "norm"
          %12 = Reshape(%11) {shape=dims[2,1,2,1]} : f32[2,1,2,1] from "1x1", "add", "norm"
          %13 = Mul(%9, %12) : f32[1,2,1,2,1] from "1x1", "add", "norm"
          %14 = Reshape(%13) {shape=dims[2,2,1,1]} : f32[2,2,1,1] from "1x1", "add", "norm"
          %15 = Add(%14, %3) : f32[2,2,1,1] from "1x1", "add", "norm"
          %16 = Pad(%15) {pads=dims[0,0,1,1,0,0,1,1]} : f32[2,2,3,3] from "1x1", "3x3", "add", "add_1", "norm"
          %17 = Add(%16, %4) : f32[2,2,3,3] from "1x1", "3x3", "add", "add_1", "norm"
          %18 = Reshape(%5) {shape=dims[2]} : f32[2] from "1x1", "add", "norm"
          %19 = Add(%18, %6) : f32[2] from "1x1", "3x3", "add", "add_1", "norm"
          %20 = Conv(%0, %17, %19) {dilations=[1,1], group=1, pads=[1,1,1,1], strides=[1,1]} : f32[N,2,H,W] from "1x1", "3x3", "add", "add_1", "norm"
          %21 = Relu(%20) : f32[N,2,H,W]
          return %21 "y"
        }
        "#);
    }

    #[test]
    fn a_mixer_with_layer_scale() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "z": f32[N,2,H]) symbols N=1.., H=1.. {
              weight %1: f32[2,1,3] = random
              weight %2: f32[2] = random
              weight %3: f32[2,1] = random
              weight %4: f32[2,1] = random
              weight %5: f32[2,1] = random
              %6 = Relu(%0)
              %7 = Conv(%6, %1, %2) {pads=[1,1], group=2}
              %8 = Mul(%6, %3)
              %9 = Add(%8, %4)
              %10 = Sub(%7, %9)
              %11 = Mul(%10, %5)
              %12 = Add(%6, %11)
              return %12 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "z": f32[N,2,H]) symbols N=1.., H=1.. {
          weight %1: f32[2,1,1] = dense(1.0,1.0)
          weight %2: f32[2,1] = dense(-1.75,-1.0)
          weight %3: f32[2,1,1] = dense(1.0,1.0)
          weight %4: f32[2,1,3] = dense(…)
          weight %5: f32[2,1] = dense(-0.875,-1.875)
          weight %6: f32[2,1] = dense(0.75,1.875)
          weight %7: f32[2] = dense(-1.875,-0.875)
          %8 = Relu(%0) : f32[N,2,H]
          %9 = Pad(%1) {pads=dims[0,0,1,0,0,1]} : f32[2,1,3]
          %10 = Reshape(%2) {shape=dims[2,1,1]} : f32[2,1,1]
          %11 = Mul(%3, %10) : f32[2,1,1]
          %12 = Pad(%11) {pads=dims[0,0,1,0,0,1]} : f32[2,1,3]
          %13 = Sub(%4, %12) : f32[2,1,3]
          %14 = Reshape(%5) {shape=dims[2,1,1]} : f32[2,1,1]
          %15 = Mul(%13, %14) : f32[2,1,3]
          %16 = Add(%9, %15) : f32[2,1,3]
          %17 = Reshape(%6) {shape=dims[2]} : f32[2]
          %18 = Sub(%7, %17) : f32[2]
          %19 = Reshape(%5) {shape=dims[2]} : f32[2]
          %20 = Mul(%18, %19) : f32[2]
          %21 = Conv(%8, %16, %20) {dilations=[1], group=2, pads=[1,1], strides=[1]} : f32[N,2,H]
          return %21 "y"
        }
        "#);
    }
}
