//! Before and after, and what must stay.

use super::PASS;
use crate::testing::{refused, rewrite};

#[test]
fn a_masked_hidden_layer_shrinks() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,4]) symbols N=1.. {
          weight %1: f32[4,8] = random
          weight %2: f32[8] = dense(1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0)
          weight %3: f32[8,4] = random
          %4 = MatMul(%0, %1)
          %5 = Relu(%4)
          %6 = Mul(%5, %2)
          %7 = MatMul(%6, %3)
          return %7 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,4]) symbols N=1.. {
      weight %1: f32[4,8] = dense(…)
      weight %2: i64[4] = dense(0,1,6,7)
      weight %3: f32[8] = dense(…)
      weight %4: i64[4] = dense(0,1,6,7)
      weight %5: f32[8,4] = dense(…)
      weight %6: i64[4] = dense(0,1,6,7)
      %7 = Gather(%1, %2) {axis=1} : f32[4,4]
      %8 = MatMul(%0, %7) : f32[N,4]
      %9 = Relu(%8) : f32[N,4]
      %10 = Gather(%3, %4) {axis=0} : f32[4]
      %11 = Mul(%9, %10) : f32[N,4]
      %12 = Gather(%5, %6) {axis=0} : f32[4,4]
      %13 = MatMul(%11, %12) : f32[N,4]
      return %13 "y"
    }
    "#);
}

#[test]
fn neurons_without_a_weight_that_leaves_go() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,4]) symbols N=1.. {
          weight %1: f32[4,3] = random
          weight %2: f32[3] = random
          weight %3: f32[3,2] = dense(1.0, 2.0, 0.0, 0.0, -1.0, 0.5)
          %4 = MatMul(%0, %1)
          %5 = Add(%4, %2)
          %6 = Sigmoid(%5)
          %7 = MatMul(%6, %3)
          return %7 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,4]) symbols N=1.. {
      weight %1: f32[4,3] = dense(…)
      weight %2: i64[2] = dense(0,2)
      weight %3: f32[3] = dense(-0.875,-1.875,1.375)
      weight %4: i64[2] = dense(0,2)
      weight %5: f32[3,2] = dense(…)
      weight %6: i64[2] = dense(0,2)
      %7 = Gather(%1, %2) {axis=1} : f32[4,2]
      %8 = MatMul(%0, %7) : f32[N,2]
      %9 = Gather(%3, %4) {axis=0} : f32[2]
      %10 = Add(%8, %9) : f32[N,2]
      %11 = Sigmoid(%10) : f32[N,2]
      %12 = Gather(%5, %6) {axis=0} : f32[2,2]
      %13 = MatMul(%11, %12) : f32[N,2]
      return %13 "y"
    }
    "#);
}

#[test]
fn a_head_without_values_goes() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[B,S,4]) symbols B=1.., S=1.. {
          weight %1: f32[4,4] = random
          weight %2: f32[4,4] = random
          weight %3: f32[4,4] = dense(0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 3.0, -1.0, 0.0, 0.0, -2.0, 1.0, 0.0, 0.0, 0.5, 1.0)
          weight %4: f32[4,4] = random
          %5 = MatMul(%0, %1)
          %6 = MatMul(%0, %2)
          %7 = MatMul(%0, %3)
          %8 = Attention(%5, %6, %7) {q_num_heads=2, kv_num_heads=2}
          %9 = MatMul(%8, %4)
          return %9 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[B,S,4]) symbols B=1.., S=1.. {
      weight %1: f32[4,4] = dense(…)
      weight %2: f32[4,4] = dense(…)
      weight %3: f32[4,4] = dense(…)
      weight %4: f32[4,4] = dense(…)
      %5 = Slice(%1) {axes=dims[1], ends=dims[4], starts=dims[2], steps=dims[1]} : f32[4,2]
      %6 = MatMul(%0, %5) : f32[B,S,2]
      %7 = Slice(%2) {axes=dims[1], ends=dims[4], starts=dims[2], steps=dims[1]} : f32[4,2]
      %8 = MatMul(%0, %7) : f32[B,S,2]
      %9 = Slice(%3) {axes=dims[1], ends=dims[4], starts=dims[2], steps=dims[1]} : f32[4,2]
      %10 = MatMul(%0, %9) : f32[B,S,2]
      %11 = Attention(%6, %8, %10) {kv_num_heads=1, q_num_heads=1} : f32[B,S,2]
      %12 = Slice(%4) {axes=dims[0], ends=dims[4], starts=dims[2], steps=dims[1]} : f32[2,4]
      %13 = MatMul(%11, %12) : f32[B,S,4]
      return %13 "y"
    }
    "#);
}

#[test]
fn normalisations_count_the_zeros_and_outputs_get_them_back() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,4]) symbols N=1.. {
          weight %1: f32[4,3] = dense(1.0, 0.0, 2.0, -1.0, 0.0, 0.5, 1.5, 0.0, 0.25, 1.0, 0.0, -0.5)
          weight %2: f32[3] = dense(1.0, 0.0, 2.0)
          weight %3: f32[3] = dense(0.5, 0.0, -2.0)
          %4 = MatMul(%0, %1)
          %5 = LayerNormalization(%4, %2, %3)
          %6 = RMSNormalization(%5, %2)
          %7 = ReduceMean(%6) {axes=dims[1]}
          return %6 "y", %7 "z"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,4]) symbols N=1.. {
      weight %1: f32[4,3] = dense(…)
      weight %2: i64[2] = dense(0,2)
      weight %3: f32[] = dense(0.33333334)
      weight %4: f32[] = dense(1.0)
      weight %5: f32[] = dense(0.33333334)
      weight %6: f32[] = dense(1e-5)
      weight %7: f32[3] = dense(1.0,0.0,2.0)
      weight %8: i64[2] = dense(0,2)
      weight %9: f32[3] = dense(0.5,0.0,-2.0)
      weight %10: i64[2] = dense(0,2)
      weight %11: i64[2] = dense(0,2)
      weight %12: f32[] = dense(1.2247449)
      weight %13: i64[3] = dense(0,2,1)
      weight %14: f32[] = dense(0.33333334)
      %15 = Gather(%1, %2) {axis=1} : f32[4,2]
      %16 = MatMul(%0, %15) : f32[N,2]
      %17 = ReduceSum(%16) {axes=dims[1]} : f32[N,1]
      %18 = Mul(%17, %3) : f32[N,1]
      %19 = Sub(%16, %18) : f32[N,2]
      %20 = ReduceSumSquare(%19) {axes=dims[1]} : f32[N,1]
      %21 = Mul(%18, %18) : f32[N,1]
      %22 = Mul(%21, %4) : f32[N,1]
      %23 = Add(%20, %22) : f32[N,1]
      %24 = Mul(%23, %5) : f32[N,1]
      %25 = Add(%24, %6) : f32[N,1]
      %26 = Sqrt(%25) : f32[N,1]
      %27 = Div(%19, %26) : f32[N,2]
      %28 = Gather(%7, %8) {axis=0} : f32[2]
      %29 = Mul(%27, %28) : f32[N,2]
      %30 = Gather(%9, %10) {axis=0} : f32[2]
      %31 = Add(%29, %30) : f32[N,2]
      %32 = Gather(%7, %11) {axis=0} : f32[2]
      %33 = Mul(%32, %12) : f32[2]
      %34 = RMSNormalization(%31, %33) {axis=-1, epsilon=1.5e-5} : f32[N,2]
      %35 = Pad(%34) {pads=dims[0,0,0,1]} : f32[N,3]
      %36 = Gather(%35, %13) {axis=1} : f32[N,3]
      %37 = ReduceSum(%34) {axes=dims[1]} : f32[N,1]
      %38 = Mul(%37, %14) : f32[N,1]
      return %36 "y", %38 "z"
    }
    "#);
}

#[test]
fn a_masked_layer_is_a_constant() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,4]) symbols N=1.. {
          weight %1: f32[4,4] = random
          weight %2: f32[] = dense(0.0)
          %3 = MatMul(%0, %1)
          %4 = Mul(%3, %2)
          %5 = Add(%0, %4)
          return %5 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,4]) symbols N=1.. {
      weight %1: f32[4,4] = dense(…)
      weight %2: f32[] = dense(0.0)
      %3 = ConstantOfShape() {shape=dims[N,4], value=f32[1] dense(0.0)} : f32[N,4]
      %4 = Add(%0, %3) : f32[N,4]
      return %4 "y"
    }
    "#);
}

#[test]
fn channels_of_convolutions_go_with_their_batch_normalisation() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,2,5,5]) symbols N=1.. {
          weight %1: f32[3,2,3,3] = random
          weight %2: f32[3] = dense(1.0, 0.0, 0.5)
          weight %3: f32[3] = dense(0.25, 0.0, -1.0)
          weight %4: f32[3] = random
          weight %5: f32[3] = positive
          weight %6: f32[3,1,3,3] = random
          weight %7: f32[2,3,1,1] = random
          %8 = Conv(%0, %1) {pads=[1,1,1,1]}
          %9 = BatchNormalization(%8, %2, %3, %4, %5)
          %10 = Relu(%9)
          %11 = Conv(%10, %6) {group=3, pads=[1,1,1,1]}
          %12 = Conv(%11, %7)
          return %12 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,2,5,5]) symbols N=1.. {
      weight %1: f32[3,2,3,3] = dense(…)
      weight %2: i64[2] = dense(0,2)
      weight %3: f32[3] = dense(1.0,0.0,0.5)
      weight %4: i64[2] = dense(0,2)
      weight %5: f32[3] = dense(0.25,0.0,-1.0)
      weight %6: i64[2] = dense(0,2)
      weight %7: f32[3] = dense(1.5,-0.75,0.625)
      weight %8: i64[2] = dense(0,2)
      weight %9: f32[3] = dense(2.0,1.0,1.5)
      weight %10: i64[2] = dense(0,2)
      weight %11: f32[3,1,3,3] = dense(…)
      weight %12: i64[2] = dense(0,2)
      weight %13: f32[2,3,1,1] = dense(…)
      weight %14: i64[2] = dense(0,2)
      %15 = Gather(%1, %2) {axis=0} : f32[2,2,3,3]
      %16 = Conv(%0, %15) {pads=[1,1,1,1]} : f32[N,2,5,5]
      %17 = Gather(%3, %4) {axis=0} : f32[2]
      %18 = Gather(%5, %6) {axis=0} : f32[2]
      %19 = Gather(%7, %8) {axis=0} : f32[2]
      %20 = Gather(%9, %10) {axis=0} : f32[2]
      %21 = BatchNormalization(%16, %17, %18, %19, %20) : f32[N,2,5,5]
      %22 = Relu(%21) : f32[N,2,5,5]
      %23 = Gather(%11, %12) {axis=0} : f32[2,1,3,3]
      %24 = Conv(%22, %23) {group=2, pads=[1,1,1,1]} : f32[N,2,5,5]
      %25 = Gather(%13, %14) {axis=1} : f32[2,2,1,1]
      %26 = Conv(%24, %25) : f32[N,2,5,5]
      return %26 "y"
    }
    "#);
}

#[test]
fn the_same_value_in_two_places_is_no_zero_in_either() {
    let text = refused(
        &PASS,
        r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {
          weight %1: f32[4,2] = random
          %2 = Concat(%0, %0) {axis=1}
          %3 = MatMul(%2, %1)
          return %3 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @"");
}

#[test]
fn what_something_else_needs_stays() {
    // A sigmoid of zero is not zero; a softmax counts zeros; an output shows the neuron; inputs are not cut.
    let hidden = |middle: &str, returns: &str| {
        format!(
            r#"graph @g (%0 "x": f32[N,4]) symbols N=1.. {{
          weight %1: f32[4,2] = dense(1.0, 0.0, 2.0, 0.0, -1.0, 0.0, 0.5, 0.0)
          weight %2: f32[2,2] = random
          weight %3: f32[4,2] = dense(1.0, 2.0, 0.0, 0.0, -1.0, 0.5, 0.0, 0.0)
          %4 = MatMul(%0, %1)
          {middle}
          %6 = MatMul(%5, %2)
          return %6 "y"{returns}
        }}"#
        )
    };
    insta::assert_snapshot!(refused(&PASS, &hidden("%5 = Sigmoid(%4)", "")), @"");
    insta::assert_snapshot!(refused(&PASS, &hidden("%5 = Softmax(%4)", "")), @"");
    insta::assert_snapshot!(refused(&PASS, &hidden("%5 = Add(%4, %4)\n%9 = Sigmoid(%4)", r#", %9 "z""#)), @"dead channels: all elements of a summed axis are needed: it is an output");
    insta::assert_snapshot!(refused(&PASS, &hidden("%5 = Add(%4, %4)\n%9 = CumSum(%4) {axis=dims[1]}", r#", %9 "z""#)), @"dead channels: all elements of a summed axis are needed at CumSum: the operation may mix the elements");
}

#[test]
fn one_channel_of_many_stays() {
    let mut columns = vec!["1.0"; 34];
    columns[3] = "0.0";
    columns[20] = "0.0";
    let text = refused(
        &PASS,
        &format!(
            r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {{
          weight %1: f32[2,34] = random
          weight %2: f32[34] = dense({})
          weight %3: f32[34,2] = random
          %4 = MatMul(%0, %1)
          %5 = Mul(%4, %2)
          %6 = MatMul(%5, %3)
          return %6 "y"
        }}"#,
            columns.join(", ")
        ),
    );
    insta::assert_snapshot!(text, @"dead channels: all elements of a summed axis are needed: too few elements would go to matter");
}

#[test]
fn padding_is_no_zero() {
    let said = refused(
        &PASS,
        r#"graph @g (%0 "x": f32[N,3]) symbols N=1.. {
          weight %1: f32[3,4] = dense(1.0, 0.0, 2.0, 0.0, 1.0, 0.0, 2.0, 0.0, 1.0, 0.0, 2.0, 0.0)
          weight %2: f32[] = dense(1.5)
          weight %3: f32[3] = dense(0.0, 0.0, 0.0)
          %4 = MatMul(%0, %1)
          %5 = Pad(%4, _, %2) {pads=dims[1,0,0,0]}
          %6 = Expand(%3) {shape=dims[N,3]}
          %7 = Pad(%6, _, %2) {pads=dims[0,0,0,1]}
          %8 = Exp(%7)
          return %5 "y", %8 "z"
        }"#,
    );
    assert!(!said.contains("zeros"), "{said}");
}

#[test]
fn the_largest_of_nothing_is_no_zero() {
    let one = |least: usize| {
        rewrite(
            &PASS,
            &format!(
                r#"graph @g (%0 "x": f32[B,1]) symbols B={least}.. {{
                  weight %1: f32[1,2] = dense(0.0, 0.0)
                  %2 = MatMul(%0, %1)
                  %3 = Relu(%2)
                  %4 = ReduceMax(%3) {{axes=dims[0]}}
                  return %4 "y"
                }}"#
            ),
        )
    };
    assert!(one(0).contains("ReduceMax") && !one(1).contains("ReduceMax"));
}

#[test]
fn slices_of_nothing_are_understood() {
    let text = r#"graph @g (%0 "x": f32[B,0]) symbols B=1.. {
      weight %1: f32[2,3] = dense(1.0, 0.0, 2.0, 1.0, 0.0, 2.0)
      %2 = Slice(%0) {starts=dims[-1], ends=dims[-5], axes=dims[1], steps=dims[-1]}
      return %2 "y", %1 "z"
    }"#;
    assert_eq!(refused(&PASS, text), "");
}

#[test]
fn queries_of_causal_attention_keep_their_positions() {
    let one = |attrs: &str| {
        rewrite(
            &PASS,
            &format!(
                r#"graph @g (%0 "x": f32[2,4,6]) {{
                  weight %1: f32[4,4,1] = dense(1.0, 0.0, 2.0, 1.0, 2.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.5, 1.0, 0.5, 0.0, 2.0, 2.0)
                  %2 = Attention(%0, %0, %0) {{q_num_heads=2, kv_num_heads=2{attrs}}}
                  %3 = Conv(%2, %1)
                  return %3 "y"
                }}"#
            ),
        )
    };
    assert!(one("").contains("Attention(%0") || one("").contains("[2,3,6]"));
    for attrs in [", is_causal=1", ", left_window_size=1", ", right_window_size=0"] {
        assert!(!one(attrs).contains("[2,3,6]"), "{}", one(attrs));
    }
}
