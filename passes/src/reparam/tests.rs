use super::PASS;
use crate::testing::{refused, rewrite};

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
fn depthwise_branches_with_strides() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,4,9]) symbols N=0.. {
          weight %1: f32[4,1,3] = random
          weight %2: f32[4,1,1] = random
          weight %3: f32[4,1,3] = random
          %4 = Conv(%0, %1) {group=4, pads=[1,1], strides=[2]}
          %5 = Conv(%0, %2) {group=4, strides=[2]}
          %6 = Conv(%0, %3) {group=4, auto_pad="SAME_UPPER", strides=[2]}
          %7 = Add(%5, %6)
          %8 = Add(%4, %7)
          return %8 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,4,9]) symbols N=0.. {
      weight %1: f32[4,1,1] = dense(-0.875,-1.875,1.375,-1.25)
      weight %2: f32[4,1,3] = dense(…)
      weight %3: f32[4,1,3] = dense(…)
      %4 = Pad(%1) {pads=dims[0,0,1,0,0,1]} : f32[4,1,3]
      %5 = Add(%4, %2) : f32[4,1,3]
      %6 = Add(%3, %5) : f32[4,1,3]
      %7 = Conv(%0, %6) {dilations=[1], group=4, pads=[1,1], strides=[2]} : f32[N,4,5]
      return %7 "y"
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

#[test]
fn a_scale_over_a_sum_goes_with_it() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,1,H]) symbols N=1.., H=1.. {
          weight %1: f32[2,1,2] = random
          weight %2: f32[2,1,1] = random
          weight %3: f32[1,2,1] = positive
          weight %4: f32[] = dense(0.5)
          %5 = Conv(%0, %1) {pads=[0,1]}
          %6 = Conv(%0, %2)
          %7 = Sub(%5, %6)
          %8 = Div(%7, %3)
          %9 = Sub(%4, %8)
          return %9 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,1,H]) symbols N=1.., H=1.. {
      weight %1: f32[2,1,1] = dense(-1.125,0.25)
      weight %2: f32[2,1,2] = dense(1.0,-2.0,-2.0,-2.0)
      weight %3: f32[1,2,1] = dense(2.375,1.375)
      weight %4: f32[] = dense(0.5)
      %5 = Pad(%1) {pads=dims[0,0,0,0,0,1]} : f32[2,1,2]
      %6 = Sub(%2, %5) : f32[2,1,2]
      %7 = Reshape(%3) {shape=dims[2,1,1]} : f32[2,1,1]
      %8 = Div(%6, %7) : f32[2,1,2]
      %9 = Neg(%8) : f32[2,1,2]
      %10 = Expand(%4) {shape=dims[2]} : f32[2]
      %11 = Conv(%0, %9, %10) {dilations=[1], group=1, pads=[0,1], strides=[1]} : f32[N,2,H]
      return %11 "y"
    }
    "#);
}

#[test]
fn a_mean_that_counts_its_padding() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,2,5,W]) symbols N=1.., W=1.. {
          weight %1: f32[2,1,3,3] = random
          weight %2: f32[2,1,1] = random
          %3 = Conv(%0, %1) {group=2, pads=[1,1,1,1]}
          %4 = AveragePool(%0) {kernel_shape=[3,2], pads=[1,0,1,1], count_include_pad=1}
          %5 = Mul(%4, %2)
          %6 = Add(%3, %5)
          return %6 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,2,5,W]) symbols N=1.., W=1.. {
      weight %1: f32[2,1,1] = dense(0.5,1.5)
      weight %2: f32[2,1,1,1] = dense(0.16666667,0.16666667)
      weight %3: f32[2,1,3,3] = dense(…)
      %4 = Reshape(%1) {shape=dims[2,1,1,1]} : f32[2,1,1,1]
      %5 = Mul(%2, %4) : f32[2,1,1,1]
      %6 = Expand(%5) {shape=dims[2,1,3,2]} : f32[2,1,3,2]
      %7 = Pad(%6) {pads=dims[0,0,0,1,0,0,0,0]} : f32[2,1,3,3]
      %8 = Add(%3, %7) : f32[2,1,3,3]
      %9 = Conv(%0, %8) {dilations=[1,1], group=2, pads=[1,1,1,1], strides=[1,1]} : f32[N,2,5,W]
      return %9 "y"
    }
    "#);
}

#[test]
fn groups_become_blocks() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,4,H]) symbols N=1.., H=1.. {
          weight %1: f32[8,4,1] = random
          weight %2: f32[8,2,1] = random
          weight %3: f32[8,1,1] = random
          %4 = Conv(%0, %1)
          %5 = Conv(%0, %2) {group=2}
          %6 = Conv(%0, %3) {group=4}
          %7 = Sub(%5, %4)
          %8 = Sub(%6, %7)
          return %8 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,4,H]) symbols N=1.., H=1.. {
      weight %1: f32[8,1,1] = dense(…)
      weight %2: f32[8,2,1] = dense(…)
      weight %3: f32[8,4,1] = dense(…)
      %4 = Reshape(%1) {shape=dims[1,4,2,1,1]} : f32[1,4,2,1,1]
      %5 = ConstantOfShape() {shape=dims[4,4], value=f32[1] dense(0.0)} : f32[4,4]
      %6 = EyeLike(%5) : f32[4,4]
      %7 = Reshape(%6) {shape=dims[4,1,4,1]} : f32[4,1,4,1]
      %8 = Mul(%4, %7) : f32[1,4,2,4,1]
      %9 = Reshape(%8) {shape=dims[8,4,1]} : f32[8,4,1]
      %10 = Reshape(%2) {shape=dims[1,2,4,1,2]} : f32[1,2,4,1,2]
      %11 = ConstantOfShape() {shape=dims[2,2], value=f32[1] dense(0.0)} : f32[2,2]
      %12 = EyeLike(%11) : f32[2,2]
      %13 = Reshape(%12) {shape=dims[2,1,2,1]} : f32[2,1,2,1]
      %14 = Mul(%10, %13) : f32[1,2,4,2,2]
      %15 = Reshape(%14) {shape=dims[8,4,1]} : f32[8,4,1]
      %16 = Sub(%15, %3) : f32[8,4,1]
      %17 = Sub(%9, %16) : f32[8,4,1]
      %18 = Conv(%0, %17) {dilations=[1], group=1, pads=[0,0], strides=[1]} : f32[N,8,H]
      return %18 "y"
    }
    "#);
}

#[test]
fn dilated_and_asymmetric_kernels() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,2,H,W]) symbols N=1.., H=1.., W=1.. {
          weight %1: f32[2,2,3,3] = random
          weight %2: f32[2,2,1,3] = random
          weight %3: f32[2,2,3,1] = random
          %4 = Conv(%0, %1) {pads=[2,1,2,1], dilations=[2,1]}
          %5 = Conv(%0, %2) {pads=[0,1,0,1], dilations=[3,1]}
          %6 = Conv(%0, %3) {pads=[2,0,2,0], dilations=[2,5]}
          %7 = Add(%4, %5)
          %8 = Add(%7, %6)
          return %8 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,2,H,W]) symbols N=1.., H=1.., W=1.. {
      weight %1: f32[2,2,1,3] = dense(…)
      weight %2: f32[2,2,3,3] = dense(…)
      weight %3: f32[2,2,3,1] = dense(…)
      %4 = Pad(%1) {pads=dims[0,0,1,0,0,0,1,0]} : f32[2,2,3,3]
      %5 = Add(%2, %4) : f32[2,2,3,3]
      %6 = Pad(%3) {pads=dims[0,0,0,1,0,0,0,1]} : f32[2,2,3,3]
      %7 = Add(%5, %6) : f32[2,2,3,3]
      %8 = Conv(%0, %7) {dilations=[2,1], group=1, pads=[2,1,2,1], strides=[1,1]} : f32[N,2,H,W]
      return %8 "y"
    }
    "#);
}

#[test]
fn other_addends_stay() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,2,H], %1 "z": f32[N,2,H]) symbols N=1.., H=1.. {
          weight %2: f32[2,2,1] = random
          weight %3: f32[2,2,3] = random
          %4 = Conv(%0, %2) from "a"
          %5 = Sub(%1, %4) from "sub"
          %6 = Conv(%0, %3) {pads=[1,1]} from "b"
          %7 = Conv(%1, %3) {pads=[1,1]} from "c"
          %8 = Sub(%5, %6) from "sub_1"
          %9 = Add(%8, %7) from "add"
          return %9 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,2,H], %1 "z": f32[N,2,H]) symbols N=1.., H=1.. {
      weight %2: f32[2,1,1] = dense(1.0,1.0)
      weight %3: f32[2,2,3] = dense(…)
      weight %4: f32[2,2,1] = dense(1.0,-2.0,-2.0,-2.0)
      %5 = Reshape(%2) {shape=dims[1,2,1,1,1]} : f32[1,2,1,1,1] from "a", "add", "b", "c", "sub", "sub_1"
      %6 = ConstantOfShape() {shape=dims[2,2], value=f32[1] dense(…)
      %7 = EyeLike(%6) : f32[2,2] from "a", "add", "b", "c", "sub", "sub_1"
      %8 = Reshape(%7) {shape=dims[2,1,2,1]} : f32[2,1,2,1] from "a", "add", "b", "c", "sub", "sub_1"
      %9 = Mul(%5, %8) : f32[1,2,1,2,1] from "a", "add", "b", "c", "sub", "sub_1"
      %10 = Reshape(%9) {shape=dims[2,2,1]} : f32[2,2,1] from "a", "add", "b", "c", "sub", "sub_1"
      %11 = Pad(%10) {pads=dims[0,0,1,0,0,1]} : f32[2,2,3] from "a", "add", "b", "c", "sub", "sub_1"
      %12 = Add(%11, %3) : f32[2,2,3] from "a", "add", "b", "c", "sub", "sub_1"
      %13 = Conv(%1, %12) {dilations=[1], group=1, pads=[1,1], strides=[1]} : f32[N,2,H] from "a", "add", "b", "c", "sub", "sub_1"
      %14 = Pad(%4) {pads=dims[0,0,1,0,0,1]} : f32[2,2,3] from "a", "b", "sub", "sub_1"
      %15 = Neg(%14) : f32[2,2,3] from "a", "b", "sub", "sub_1"
      %16 = Sub(%15, %3) : f32[2,2,3] from "a", "b", "sub", "sub_1"
      %17 = Conv(%0, %16) {dilations=[1], group=1, pads=[1,1], strides=[1]} : f32[N,2,H] from "a", "b", "sub", "sub_1"
      %18 = Add(%13, %17) : f32[N,2,H] from "a", "add", "b", "c", "sub", "sub_1"
      return %18 "y"
    }
    "#);
}

#[test]
fn products_with_matrices() {
    let text = rewrite(
        &PASS,
        r#"graph @g (%0 "x": f32[N,3]) symbols N=1.. {
          weight %1: f32[3,2] = random
          weight %2: f32[2] = random
          weight %3: f32[3,2] = random
          %4 = MatMul(%0, %1)
          %5 = Add(%4, %2)
          %6 = MatMul(%0, %3)
          %7 = Sub(%5, %6)
          return %7 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    graph @g (%0 "x": f32[N,3]) symbols N=1.. {
      weight %1: f32[3,2] = dense(…)
      weight %2: f32[3,2] = dense(…)
      weight %3: f32[2] = dense(-1.875,-0.875)
      %4 = Sub(%1, %2) : f32[3,2]
      %5 = MatMul(%0, %4) : f32[N,2]
      %6 = Add(%5, %3) : f32[N,2]
      return %6 "y"
    }
    "#);
}

#[test]
fn a_residual_connection_is_no_branch() {
    // The convolution reads something else, and the last sum broadcasts.
    let text = refused(
        &PASS,
        r#"graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=1.. {
          weight %1: f32[2,2,3] = random
          weight %2: f32[1,2,1] = random
          %3 = Relu(%0)
          %4 = Conv(%3, %1) {pads=[1,1]}
          %5 = Add(%4, %0)
          %6 = Conv(%5, %2)
          %7 = Add(%5, %6)
          return %7 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @"");
}

#[test]
fn refuses_other_strides() {
    let text = refused(
        &PASS,
        r#"graph @g (%0 "x": f32[N,2,5]) symbols N=1.. {
          weight %1: f32[2,2,3] = random
          weight %2: f32[2,2,1] = random
          %3 = Conv(%0, %1)
          %4 = Conv(%0, %2) {strides=[2]}
          %5 = Add(%3, %4)
          return %5 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @"sum of branches: their strides differ");
}

#[test]
fn refuses_taps_that_do_not_meet() {
    let text = refused(
        &PASS,
        r#"graph @g (%0 "x": f32[N,1,H,W]) symbols N=1.., H=1.., W=1.. {
          weight %1: f32[1,1,1,7] = random
          weight %2: f32[1,1,7,1] = random
          weight %3: f32[1,1,3,1] = random
          weight %4: f32[1,1,2,1] = random
          %5 = Conv(%0, %1) {pads=[0,3,0,3]}
          %6 = Conv(%0, %2) {pads=[3,0,3,0]}
          %7 = Add(%5, %6)
          %8 = Relu(%7)
          %9 = Conv(%8, %2) {pads=[3,0,3,0]}
          %10 = Conv(%8, %2) {pads=[6,0,6,0], dilations=[2,1]}
          %11 = Add(%9, %10)
          %12 = Relu(%11)
          %13 = Conv(%12, %3) {pads=[2,0,2,0], dilations=[2,1]}
          %14 = Conv(%12, %4) {pads=[1,0,1,0], dilations=[2,1]}
          %15 = Add(%13, %14)
          return %15 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @r#"
    sum of branches: one convolution takes 49 multiplications per position, the branches 14
    sum of branches: their dilations differ
    sum of branches: their taps lie between each other
    "#);
}

#[test]
fn refuses_groups_that_would_fill_with_zeros() {
    let text = refused(
        &PASS,
        r#"graph @g (%0 "x": f32[N,4,H]) symbols N=1.., H=1.. {
          weight %1: f32[4,1,3] = random
          weight %2: f32[4,4,1] = random
          %3 = Conv(%0, %1) {pads=[1,1], group=4}
          %4 = Conv(%0, %2)
          %5 = Add(%3, %4)
          return %5 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @"sum of branches: one convolution takes 48 multiplications per position, the branches 28");
}

#[test]
fn refuses_results_that_others_read() {
    let text = refused(
        &PASS,
        r#"graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=1.. {
          weight %1: f32[2,2,3] = random
          %2 = Conv(%0, %1) {pads=[1,1]}
          %3 = Add(%2, %0)
          %4 = Mul(%2, %3)
          return %4 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @"sum of branches: the result of a branch is also read by others");
}

#[test]
fn refuses_means_that_do_not_count_their_padding() {
    let text = refused(
        &PASS,
        r#"graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=1.. {
          weight %1: f32[2,1,3] = random
          %2 = Conv(%0, %1) {pads=[1,1], group=2}
          %3 = AveragePool(%0) {kernel_shape=[3], pads=[1,1]}
          %4 = Add(%2, %3)
          return %4 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @"sum of branches: AveragePool has means of fewer elements at the border");
}

#[test]
fn a_mean_alone_is_cheaper_than_a_convolution() {
    let text = refused(
        &PASS,
        r#"graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=1.. {
          %1 = AveragePool(%0) {kernel_shape=[3], pads=[1,1], count_include_pad=1}
          %2 = Sub(%1, %0)
          return %2 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @"sum of branches: means and their operands cost less than a convolution");
}

#[test]
fn refuses_weights_that_are_computed() {
    let text = refused(
        &PASS,
        r#"graph @g (%0 "x": f32[N,2,H], %1 "w": f32[2,2,3]) symbols N=1.., H=1.. {
          %2 = Conv(%0, %1) {pads=[1,1]}
          %3 = Add(%2, %0)
          return %3 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @"sum of branches: the weight or bias of Conv is not a constant");
}

#[test]
fn refuses_half_precision() {
    let text = refused(
        &PASS,
        r#"graph @g (%0 "x": f16[N,2,H]) symbols N=1.., H=1.. {
          weight %1: f16[2,2,3] = random
          %2 = Conv(%0, %1) {pads=[1,1]}
          %3 = Add(%2, %0)
          return %3 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @"sum of branches: a sum would be rounded to the 16-bit weight");
}

#[test]
fn unknown_channels_may_broadcast() {
    let text = refused(
        &PASS,
        r#"graph @g (%0 "x": f32[N,C,H]) symbols N=1.., C=1.., H=1.. {
          weight %1: f32[2,2,1] = random
          %2 = Conv(%0, %1)
          %3 = Add(%2, %0)
          return %3 "y"
        }"#,
    );
    insta::assert_snapshot!(text, @"");
}

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
