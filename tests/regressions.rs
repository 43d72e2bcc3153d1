//! Graphs that were once compiled to something else than they say, each with what it is about.
//!
//! Every graph is compiled as it is and after all passes, runs on one thread and on two, and is compared with the
//! interpreter.

use cameo_ir::random::Rng;
use cameo_ir::{DType, Graph, Tensor, interp};
use cameo_tests::case::elements;
use cameo_tests::source::graph;
use cameo_tests::{Choices, Model, difference};

/// What an input's elements are: around 0, or for integers 1 to 5.
fn inputs(g: &Graph) -> Vec<Tensor> {
    let mut r = Rng::new(7);
    let one = |v: &cameo_ir::ValueId| {
        let fact = g.fact(*v);
        let range = (fact.dtype == DType::I64).then_some((1.0, 5.0));
        elements(&mut r, fact.dtype, &fact.static_shape().expect("known extents"), range)
    };
    g.inputs().iter().map(one).collect()
}

fn check(source: &str) {
    let g = graph(source);
    let inputs = inputs(&g);
    let want = interp::run(&g, &inputs).expect("the graph has an answer");
    for passes in [false, true] {
        let model = Model::new(&g, &Choices::new(passes, "native")).unwrap_or_else(|e| panic!("{e}\n{source}"));
        for threads in [1, 2] {
            let got = model.run(&inputs, threads).unwrap_or_else(|e| panic!("{e}\n{source}"));
            for (i, (w, g)) in want.iter().zip(&got).enumerate() {
                if let Some(d) = difference(w, g) {
                    panic!("passes: {passes}, threads: {threads}, output {i} {d}\n{source}");
                }
            }
        }
    }
}

/// Each product would have taken the other one into its epilogue: two kernels that wait for each other.
#[test]
fn kernels_do_not_wait_for_each_other() {
    check(
        r#"graph @g (%0 "a": f32[8,8], %1 "b": f32[8,8]) {
  %2 "x" = MatMul(%0, %1)
  %3 "x1" = Tanh(%2)
  %4 "y" = MatMul(%1, %0)
  %5 "p" = Mul(%3, %4)
  %6 "y1" = Tanh(%4)
  %7 "xt" = Transpose(%2)
  %8 "q" = Add(%6, %7)
  return %5 "p", %8 "q"
}"#,
    );
}

/// The same with three kernels in a ring.
#[test]
fn kernels_do_not_wait_in_a_ring() {
    check(
        r#"graph @g (%0 "a": f32[8,8], %1 "b": f32[8,8], %2 "c": f32[8,8]) {
  %3 "x" = MatMul(%0, %1)
  %4 "y" = MatMul(%1, %0)
  %5 "z" = MatMul(%2, %0)
  %6 "yt" = Transpose(%4)
  %7 "zt" = Transpose(%5)
  %8 "xt" = Transpose(%3)
  %9 "x1" = Tanh(%3)
  %10 "p" = Mul(%9, %6)
  %11 "y1" = Tanh(%4)
  %12 "q" = Add(%11, %7)
  %13 "z1" = Tanh(%5)
  %14 "r" = Sub(%13, %8)
  return %10 "p", %12 "q", %14 "r"
}"#,
    );
}

/// The kernel of `x` stores `p` and then reads `d` for `q`: `p` must not lie where `d` is.
#[test]
fn a_result_is_not_stored_over_what_a_later_store_reads() {
    check(
        r#"graph @g (%0 "a": f32[8,8], %1 "b": f32[8,8]) {
  %2 "x" = MatMul(%0, %0)
  %3 "p" = Tanh(%2)
  %4 "r" = MatMul(%3, %3)
  %5 "d" = MatMul(%1, %0)
  %6 "q" = Add(%2, %5)
  %7 "s" = MatMul(%6, %6)
  return %4 "r", %7 "s"
}"#,
    );
}

/// A window of no points is not written out.
#[test]
fn reductions_of_nothing_are_neutral_elements() {
    check(
        r#"graph @g (%0 "a": f32[3,0]) {
  weight %1 "axes": i64[1] = dense(1)
  %2 "y" = ReduceSum(%0, %1)
  %3 "z" = ReduceProd(%0, %1)
  return %2 "y", %3 "z"
}"#,
    );
}

/// The last vector has lanes without an index: 5 - 0 would be outside the table.
#[test]
fn lanes_past_the_end_report_no_bad_index() {
    check(
        r#"graph @g (%0 "table": f32[5], %1 "i": i64[7]) {
  weight %2 "c": i64[] = dense(5)
  %3 "j" = Sub(%2, %1)
  %4 "y" = Gather(%0, %3)
  return %4 "y"
}"#,
    );
}

/// With a filter that is no weight the padded image must still be the side whose rows are checked.
#[test]
fn padded_convolutions_take_filters_at_run_time() {
    check(
        r#"graph @g (%0 "a": f32[2,3,8,9], %1 "w": f32[4,3,3,3]) {
  %2 "y" = Conv(%0, %1) {pads=[1,1,1,1]}
  return %2 "y"
}"#,
    );
    check(
        r#"graph @g (%0 "a": f32[2,4,30], %1 "w": f32[6,4,3], %2 "b": f32[6]) {
  %3 "y" = Conv(%0, %1, %2) {dilations=[2], pads=[1,2]}
  return %3 "y"
}"#,
    );
}

/// Nothing under the view of `e` moves along the columns.
#[test]
fn products_take_operands_that_repeat_along_columns() {
    check(
        r#"graph @g (%0 "a": f32[3,6], %1 "b": f32[6,1]) {
  weight %2 "shape": i64[2] = dense(6,20)
  %3 "e" = Expand(%1, %2)
  %4 "y" = MatMul(%0, %3)
  return %4 "y"
}"#,
    );
}

/// Outside the first 11 columns there is padding, not the columns that the split gave to another output.
#[test]
fn padding_begins_where_a_slice_ends() {
    for channels in [1, 5] {
        check(&format!(
            r#"graph @g (%0 "a": f32[2,8,8,16]) {{
  weight %1 "parts": i64[2] = dense(11,5)
  weight %2 "w": f32[{channels},8,3,3] = blob("w")
  %3 "p", %4 "q" = Split(%0, %1) {{axis=3}}
  %5 "y" = Conv(%3, %2) {{pads=[1,1,1,1]}}
  return %5 "y"
}}"#
        ));
    }
}

/// The axis that the padding is along exists only in the view.
#[test]
fn padding_reaches_along_inserted_axes() {
    check(
        r#"graph @g (%0 "a": f32[2,8,16]) {
  weight %1 "axes": i64[1] = dense(2)
  weight %2 "w": f32[5,8,3,3] = blob("w")
  %3 "p" = Unsqueeze(%0, %1)
  %4 "y" = Conv(%3, %2) {pads=[1,1,1,1]}
  return %4 "y"
}"#,
    );
}

/// A join of nothing has no loops at all.
#[test]
fn joins_of_empty_tensors() {
    check(
        r#"graph @g (%0 "a": f32[0,3], %1 "b": f32[0,3], %2 "c": f32[2,3]) {
  %3 "ab" = Concat(%0, %1) {axis=0}
  %4 "relu" = Relu(%3)
  %5 "abc" = Concat(%4, %2) {axis=0}
  return %4 "x", %5 "y"
}"#,
    );
}

/// The rows of a kernel that reads where data says: its first and last element say nothing of those between.
#[test]
fn offsets_leave_the_image_in_the_middle_of_a_row() {
    check(
        r#"graph @g (%0 "x": f32[2,2,6,9], %1 "w": f32[1,2,3,2], %2 "offset": f32[2,12,4,9]) {
  %3 "far" = Add(%2, %2)
  %4 "y" = DeformConv(%0, %1, %3) {dilations=[2,1], pads=[2,0,0,1]}
  return %4 "y"
}"#,
    );
}

/// Rows of 17 elements of 16 bits: the last one alone was stored as 32 bits, over the first of the next row.
#[test]
fn one_narrow_element_behind_whole_vectors() {
    check(
        r#"graph @g (%0 "x": bf16[19,2,17]) {
  %1 "y" = LogSoftmax(%0) {axis=1}
  return %1 "y"
}"#,
    );
}
