//! Each normalisation in several spellings, and what only looks like one.

use super::{FORMULAS, LOOK_ALIKES, PASS};
use crate::formula::Formula;
use crate::testing::{refused, rewrite};

#[test]
fn formulas_are_well_formed() {
    for text in FORMULAS.iter().map(|f| f.1).chain(LOOK_ALIKES.iter().map(|f| f.1)) {
        assert_eq!(Formula::parse(text).err(), None, "{text}");
    }
}

#[test]
fn layer_normalization() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,S,3]) symbols N=1.., S=1.. {
          weight %1: f32[] = dense(1e-5)
          weight %2: f32[3] = random
          weight %3: f32[3] = random
          %4 = ReduceMean(%0) {axes=dims[-1], keepdims=1} from "mean"
          %5 = Sub(%0, %4) from "difference"
          %6 = Mul(%5, %5) from "square"
          %7 = ReduceMean(%6) {axes=dims[-1], keepdims=1} from "variance"
          %8 = Add(%7, %1) from "epsilon"
          %9 = Sqrt(%8) from "root"
          %10 = Div(%5, %9) from "quotient"
          %11 = Mul(%10, %2) from "scale"
          %12 = Add(%11, %3) from "bias"
          return %12 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,S,3]) symbols N=1.., S=1.. {
      weight %1: f32[3] = dense(1.0,-2.0,-2.0)
      weight %2: f32[3] = dense(-2.0,-1.125,0.25)
      weight %3: f32[] = dense(1e-5)
      weight %4: f32[] = dense(1.0)
      %5 = LayerNormalization(%0, %1, %2) {axis=-1, epsilon=1e-5} : f32[N,S,3] from "bias", "difference", "epsilon", "mean", "quotient", "root", "scale", "square", "variance"
      return %5 "y"
    }
    "#);
}

#[test]
fn layer_normalization_in_disguise() {
    // The reciprocal, sums over the number of elements, operands swapped, several axes, one bias for all.
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,2,3]) symbols N=1.. {
          weight %1: f32[1] = dense(0.001)
          weight %2: f32[] = dense(6.0)
          weight %3: f32[2,1] = random
          weight %4: f32[] = dense(2.0)
          weight %5: f32[] = dense(0.16666667)
          %6 = ReduceSum(%0) {axes=dims[2,1], keepdims=1}
          %7 = Div(%6, %2)
          %8 = Sub(%0, %7)
          %9 = Pow(%8, %4)
          %10 = Mul(%9, %5)
          %11 = ReduceSum(%10) {axes=dims[-2,-1], keepdims=1}
          %12 = Add(%1, %11)
          %13 = Sqrt(%12)
          %14 = Reciprocal(%13)
          %15 = Mul(%14, %3)
          %16 = Mul(%15, %8)
          %17 = Add(%2, %16)
          return %17 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,2,3]) symbols N=1.. {
      weight %1: f32[2,1] = dense(1.0,-2.0)
      weight %2: f32[] = dense(6.0)
      weight %3: f32[1] = dense(0.001)
      weight %4: f32[] = dense(2.0)
      weight %5: f32[] = dense(0.16666667)
      %6 = LayerNormalization(%0, %1, %2) {axis=-2, epsilon=0.001} : f32[N,2,3]
      return %6 "y"
    }
    "#);
}

#[test]
fn variance_as_a_difference_of_means() {
    // One of them loses its axis and gets it back.
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,3]) symbols N=1.. {
          weight %1: f32[] = dense(0.001)
          %3 = ReduceMean(%0) {axes=dims[-1], keepdims=0}
          %4 = Reshape(%3) {shape=dims[N,1]}
          %5 = Mul(%0, %0)
          %6 = ReduceMean(%5) {axes=dims[-1], keepdims=1}
          %7 = Mul(%4, %4)
          %8 = Sub(%6, %7)
          %9 = Add(%8, %1)
          %10 = Sqrt(%9)
          %11 = Sub(%0, %4)
          %12 = Div(%11, %10)
          return %12 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,3]) symbols N=1.. {
      weight %1: f32[] = dense(1.0)
      weight %2: f32[] = dense(0.001)
      %3 = LayerNormalization(%0, %1) {axis=-1, epsilon=0.001} : f32[N,3]
      return %3 "y"
    }
    "#);
}

#[test]
fn as_keras_writes_it() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,3]) symbols N=1.. {
          weight %1: f32[] = dense(0.001)
          weight %2: f32[3] = random
          weight %3: f32[3] = random
          %4 = ReduceMean(%0) {axes=dims[1], keepdims=1}
          %5 = Sub(%0, %4)
          %6 = Mul(%5, %5)
          %7 = ReduceMean(%6) {axes=dims[1], keepdims=1}
          %8 = Add(%7, %1)
          %9 = Sqrt(%8)
          %10 = Reciprocal(%9)
          %11 = Mul(%10, %2)
          %12 = Mul(%0, %11)
          %13 = Mul(%4, %11)
          %14 = Sub(%3, %13)
          %15 = Add(%12, %14)
          return %15 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,3]) symbols N=1.. {
      weight %1: f32[3] = dense(1.0,-2.0,-2.0)
      weight %2: f32[3] = dense(-2.0,-1.125,0.25)
      weight %3: f32[] = dense(0.001)
      %4 = LayerNormalization(%0, %1, %2) {axis=-1, epsilon=0.001} : f32[N,3]
      return %4 "y"
    }
    "#);
}

#[test]
fn rms_normalization() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,S,3]) symbols N=1.., S=1.. {
          weight %1: f32[] = dense(1e-6)
          weight %2: f32[] = dense(1.0)
          weight %3: f32[3] = random
          %4 = Mul(%0, %0)
          %5 = ReduceMean(%4) {axes=dims[-1], keepdims=1}
          %6 = Add(%5, %1)
          %7 = Sqrt(%6)
          %8 = Div(%2, %7)
          %9 = Mul(%0, %8)
          %10 = Mul(%9, %3)
          return %10 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,S,3]) symbols N=1.., S=1.. {
      weight %1: f32[3] = dense(1.0,-2.0,-2.0)
      weight %2: f32[] = dense(1e-6)
      weight %3: f32[] = dense(1.0)
      weight %4: f32[] = dense(1.0)
      %5 = RMSNormalization(%0, %1) {axis=-1, epsilon=1e-6} : f32[N,S,3]
      return %5 "y"
    }
    "#);
}

#[test]
fn rms_normalization_of_products_without_a_scale() {
    // A power for the root; the normalised value is a product, and so is what it is multiplied by.
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,3], %1 "g": f32[N,3]) symbols N=1.. {
          weight %2: f32[] = dense(0.001)
          weight %3: f32[] = dense(-0.5)
          weight %4: f32[] = dense(2.0)
          %5 = Mul(%0, %1)
          %6 = Pow(%5, %4)
          %7 = ReduceMean(%6) {axes=dims[-1], keepdims=1}
          %8 = Add(%2, %7)
          %9 = Pow(%8, %3)
          %10 = Mul(%9, %5)
          %11 = Mul(%10, %1)
          return %11 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,3], %1 "g": f32[N,3]) symbols N=1.. {
      weight %2: f32[] = dense(1.0)
      weight %3: f32[] = dense(0.001)
      weight %4: f32[] = dense(-0.5)
      weight %5: f32[] = dense(2.0)
      %6 = Mul(%0, %1) : f32[N,3]
      %7 = RMSNormalization(%6, %2) {axis=-1, epsilon=0.001} : f32[N,3]
      %8 = Mul(%7, %1) : f32[N,3]
      return %8 "y"
    }
    "#);
}

#[test]
fn the_scale_may_come_first() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,3]) symbols N=1.. {
          weight %1: f32[] = dense(0.001)
          weight %2: f32[3] = random
          %3 = Mul(%0, %0)
          %4 = ReduceMean(%3) {axes=dims[-1], keepdims=1}
          %5 = Add(%4, %1)
          %6 = Sqrt(%5)
          %7 = Div(%2, %6)
          %8 = Mul(%0, %7)
          return %8 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,3]) symbols N=1.. {
      weight %1: f32[3] = dense(1.0,-2.0,-2.0)
      weight %2: f32[] = dense(0.001)
      %3 = RMSNormalization(%0, %1) {axis=-1, epsilon=0.001} : f32[N,3]
      return %3 "y"
    }
    "#);
}

#[test]
fn two_layers_share_a_normalization() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,3]) symbols N=1.. {
          weight %1: f32[] = dense(0.001)
          weight %2: f32[3] = random
          weight %3: f32[3] = random
          %4 = Mul(%0, %0)
          %5 = ReduceMean(%4) {axes=dims[-1], keepdims=1}
          %6 = Add(%5, %1)
          %7 = Sqrt(%6)
          %8 = Div(%0, %7)
          %9 = Mul(%8, %2)
          %10 = Mul(%8, %3)
          return %9 "y", %10 "z"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,3]) symbols N=1.. {
      weight %1: f32[] = dense(1.0)
      weight %2: f32[3] = dense(1.0,-2.0,-2.0)
      weight %3: f32[3] = dense(-2.0,-1.125,0.25)
      weight %4: f32[] = dense(0.001)
      %5 = RMSNormalization(%0, %1) {axis=-1, epsilon=0.001} : f32[N,3]
      %6 = Mul(%5, %2) : f32[N,3]
      %7 = Mul(%5, %3) : f32[N,3]
      return %6 "y", %7 "z"
    }
    "#);
    let source = r#"graph @g (%0 "x": f32[N,3]) symbols N=1.. {
      weight %1: f32[] = dense(1.0)
      weight %2: f32[3] = random
      %3 = RMSNormalization(%0, %1)
      %4 = Mul(%3, %2)
      return %3 "y", %4 "z"
    }"#;
    insta::assert_snapshot!(refused(&PASS, source), @"scale of a normalization: the result of RMSNormalization is also read by others");
}

#[test]
fn group_normalization_as_pytorch_writes_it() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,4,H,W]) symbols N=1.., H=1.., W=1.. {
          weight %1: f32[2] = dense(1.0, 1.0)
          weight %2: f32[2] = dense(0.0, 0.0)
          weight %3: f32[4,1,1] = random
          weight %4: f32[4,1,1] = random
          %5 = Reshape(%0) {shape=dims[N,2,2*H*W]}
          %6 = InstanceNormalization(%5, %1, %2) {epsilon=0.001}
          %7 = Reshape(%6) {shape=dims[N,4,H,W]}
          %8 = Mul(%7, %3)
          %9 = Add(%8, %4)
          return %9 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,4,H,W]) symbols N=1.., H=1.., W=1.. {
      weight %1: f32[4,1,1] = dense(1.0,-2.0,-2.0,-2.0)
      weight %2: f32[4,1,1] = dense(-1.125,0.25,-1.875,-0.875)
      weight %3: f32[2] = dense(1.0,1.0)
      weight %4: f32[2] = dense(0.0,0.0)
      weight %5: f32[] = dense(1.0)
      weight %6: f32[] = dense(0.0)
      %7 = Reshape(%1) {shape=dims[4]} : f32[4]
      %8 = Reshape(%2) {shape=dims[4]} : f32[4]
      %9 = GroupNormalization(%0, %7, %8) {epsilon=0.001, num_groups=2} : f32[N,4,H,W]
      return %9 "y"
    }
    "#);
}

#[test]
fn group_normalization_by_means() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,4,H]) symbols N=1.., H=1.. {
          weight %1: f32[] = dense(0.001)
          weight %2: f32[1,4,1] = random
          %3 = Reshape(%0) {shape=dims[N,2,2,H]}
          %4 = ReduceMean(%3) {axes=dims[2,3], keepdims=1}
          %5 = Sub(%3, %4)
          %6 = Mul(%5, %5)
          %7 = ReduceMean(%6) {axes=dims[2,3], keepdims=1}
          %8 = Add(%7, %1)
          %9 = Sqrt(%8)
          %10 = Div(%5, %9)
          %11 = Reshape(%10) {shape=dims[N,4,H]}
          %12 = Mul(%11, %2)
          return %12 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,4,H]) symbols N=1.., H=1.. {
      weight %1: f32[1,4,1] = dense(1.0,-2.0,-2.0,-2.0)
      weight %2: f32[] = dense(0.0)
      weight %3: f32[] = dense(0.001)
      weight %4: f32[] = dense(1.0)
      weight %5: f32[] = dense(1.0)
      %6 = Reshape(%1) {shape=dims[4]} : f32[4]
      %7 = Expand(%2) {shape=dims[4]} : f32[4]
      %8 = GroupNormalization(%0, %6, %7) {epsilon=0.001, num_groups=2} : f32[N,4,H]
      return %8 "y"
    }
    "#);
}

#[test]
fn groups_that_are_not() {
    let source = r#"graph @g (%0 "x": f32[2,4,3]) {
      weight %1: f32[4] = random
      weight %2: f32[2] = random
      %3 = Reshape(%0) {shape=dims[1,4,6]}
      %4 = InstanceNormalization(%3, %1, %1)
      %5 = Reshape(%4) {shape=dims[2,4,3]}
      %6 = Reshape(%0) {shape=dims[2,2,6]}
      %7 = InstanceNormalization(%6, %2, %2)
      %8 = Reshape(%7) {shape=dims[2,4,3]}
      return %5 "y", %8 "z"
    }"#;
    insta::assert_snapshot!(refused(&PASS, source), @r#"
    group normalization: it joins rows of several images
    group normalization: its scale and bias differ between groups
    "#);
}

/// RMS normalisation with this scale, mean and root.
fn rms(scale: &str, mean: &str, root: &str, results: &str) -> String {
    format!(
        r#"graph @g (%0 "x": f32[N,3,K], %1 "e": f32[]) symbols N=1.., K=1.. {{
          weight %2: f32[] = dense(0.001)
          weight %3: {scale}
          %4 = Mul(%0, %0)
          %5 = {mean}
          {root}
          %8 = Div(%0, %7)
          %9 = Mul(%8, %3)
          return %9 "y"{results}
        }}"#
    )
}

#[test]
fn refusals() {
    let (scale, mean) = ("f32[3,1] = random", "ReduceMean(%4) {axes=dims[1,2], keepdims=1}");
    let root = "%6 = Add(%5, %2)\n%7 = Sqrt(%6)";
    // Others read a part.
    insta::assert_snapshot!(refused(&PASS, &rms(scale, mean, root, r#", %5 "mean square""#)), @"RMSNormalization: the result of ReduceMean is also read by others");
    // Other axes than the last ones.
    let middle = "ReduceMean(%4) {axes=dims[1], keepdims=1}";
    insta::assert_snapshot!(refused(&PASS, &rms(scale, middle, root, "")), @"RMSNormalization: it normalizes axes [1] of 3, which are not the last ones");
    // An operand for epsilon.
    let operand = "%6 = Add(%5, %1)\n%7 = Sqrt(%6)";
    insta::assert_snapshot!(refused(&PASS, &rms(scale, mean, operand, "")), @"RMSNormalization: epsilon is not a constant");
    // L2 norms.
    let total = "ReduceSum(%4) {axes=dims[1], keepdims=1}";
    insta::assert_snapshot!(refused(&PASS, &rms(scale, total, "%7 = Sqrt(%5)", "")), @"LpNormalization: it gives 0 for a row of zeros, where the formula gives NaN");
    let floor = "%6 = Sqrt(%5)\n%7 = Max(%6, %2)";
    insta::assert_snapshot!(refused(&PASS, &rms(scale, total, floor, "")), @"LpNormalization: it has no smallest norm");
    // An epsilon that widens.
    let source = r#"graph @g (%0 "x": f32[N,K]) symbols N=1.., K=1.. {
      weight %1: f32[2,1] = dense(0.001, 0.001)
      %2 = Mul(%0, %0)
      %3 = ReduceMean(%2) {axes=dims[1], keepdims=1}
      %4 = Add(%3, %1)
      %5 = Sqrt(%4)
      %6 = Div(%0, %5)
      return %6 "y"
    }"#;
    insta::assert_snapshot!(refused(&PASS, source), @"RMSNormalization: its numbers or its scale broadcast it to a larger shape");
    // A scale that widens, as K may be 1.
    let source = r#"graph @g (%0 "x": f32[N,K]) symbols N=1.., K=1.. {
      weight %1: f32[] = dense(1.0)
      weight %2: f32[3] = random
      %3 = RMSNormalization(%0, %1)
      %4 = Mul(%3, %2)
      return %4 "y"
    }"#;
    insta::assert_snapshot!(refused(&PASS, source), @"scale of a normalization: it broadcasts the result to a larger shape");
    // Epsilon next to the root.
    let source = r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {
      weight %1: f32[] = dense(0.001)
      %2 = ReduceMean(%0) {axes=dims[1], keepdims=1}
      %3 = Sub(%0, %2)
      %4 = Mul(%3, %3)
      %5 = ReduceMean(%4) {axes=dims[1], keepdims=1}
      %6 = Sqrt(%5)
      %7 = Add(%6, %1)
      %8 = Div(%3, %7)
      return %8 "y"
    }"#;
    insta::assert_snapshot!(refused(&PASS, source), @"LayerNormalization: epsilon is added to the root, not below it");
}

#[test]
fn look_alikes_stay() {
    for (variance, numerator) in [
        // A mean of something else, a sum, no difference to the mean.
        ("ReduceMean(%0) {axes=dims[1], keepdims=1}", "%4"),
        ("ReduceSum(%5) {axes=dims[1], keepdims=1}", "%4"),
        ("ReduceMean(%5) {axes=dims[1], keepdims=1}", "%0"),
    ] {
        let source = format!(
            r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {{
              weight %1: f32[] = dense(0.001)
              %2 = ReduceMean(%0) {{axes=dims[1], keepdims=1}}
              %4 = Sub(%0, %2)
              %5 = Mul(%4, %4)
              %6 = {variance}
              %7 = Add(%6, %1)
              %8 = Sqrt(%7)
              %9 = Div({numerator}, %8)
              return %9 "y"
            }}"#
        );
        assert_eq!(refused(&PASS, &source), "", "{source}");
    }
}
