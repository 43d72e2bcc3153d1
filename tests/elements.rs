//! Inputs whose elements decide shapes: one program and one context, run after run with other elements, against the
//! interpreter; and what is refused.

use cameo_ir::{Tensor, interp};
use cameo_runtime::Status;
use cameo_tests::compare::difference;
use cameo_tests::model::{Choices, Model, run_in};
use cameo_tests::source;

fn numbers(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    Tensor::f32(shape, (0..count).map(|i| ((i * 37) % 29) as f32 / 16.0 - 0.9))
}

fn ints(list: &[i64]) -> Tensor {
    Tensor::i64(&[list.len()], list.iter().copied())
}

fn assert_same(got: &[Tensor], want: &[Tensor]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert_eq!(difference(want, got), None);
    }
}

/// Runs all inputs in one context, with passes and without.
fn agree(text: &str, runs: &[Vec<Tensor>], wrong: &[Vec<Tensor>]) {
    let graph = source::graph(text);
    for passes in [false, true] {
        let choices = Choices {
            passes,
            ..Choices::default()
        };
        let model = Model::new(&graph, &choices).unwrap_or_else(|e| panic!("{e}"));
        let mut context = model.context(2).expect("a context");
        for inputs in runs {
            let want = interp::run(&graph, inputs).expect("runs");
            let got = run_in(&mut context, inputs).unwrap_or_else(|e| panic!("{inputs:?}: {e}"));
            assert_same(&got, &want);
        }
        for inputs in wrong {
            assert!(interp::run(&graph, inputs).is_err(), "{inputs:?}");
            let refused = run_in(&mut context, inputs).expect_err("is refused");
            assert_eq!(refused.status(), Status::ShapeRule, "{inputs:?}: {refused}");
        }
        let again = run_in(&mut context, &runs[0]).expect("runs after an error");
        assert_same(&again, &interp::run(&graph, &runs[0]).expect("runs"));
    }
}

#[test]
fn axes_of_a_reduction() {
    let text = r#"graph @g (%0 "x": f32[N,3,4], %1 "axes": i64[2]=[element.axes_0,element.axes_1])
        symbols N=0.., element.axes_0=-9223372036854775808.., element.axes_1=-9223372036854775808.. {
        %2 = ReduceSum(%0, %1) {keepdims=0}
        %3 = ReduceMax(%0, %1) {keepdims=1}
        %4 = ReduceLogSumExp(%0, %1) {keepdims=0}
        return %2 "sum", %3 "max", %4 "soft"
    }"#;
    let with = |axes: &[i64]| vec![numbers(&[5, 3, 4]), ints(axes)];
    agree(
        text,
        &[with(&[0, 2]), with(&[1, 0]), with(&[-1, 1]), with(&[0, 2])],
        &[with(&[1, 1]), with(&[0, 3]), with(&[2, -1]), with(&[-4, 0])],
    );
}

#[test]
fn shapes_and_slices() {
    let text = r#"graph @g (%0 "x": f32[4,6], %1 "shape": i64[3]=[element.s_0,element.s_1,element.s_2],
        %2 "from": i64[1]=[element.f_0], %3 "to": i64[1]=[element.t_0], %4 "step": i64[1]=[element.p_0])
        symbols element.s_0=-9223372036854775808.., element.s_1=-9223372036854775808.., element.s_2=-9223372036854775808..,
        element.f_0=-9223372036854775808.., element.t_0=-9223372036854775808.., element.p_0=-9223372036854775808.. {
        weight %5: i64[1] = dense(1)
        %6 = Reshape(%0, %1)
        %7 = Slice(%0, %2, %3, %5, %4)
        return %6 "y", %7 "part"
    }"#;
    let with = |shape: &[i64], from: i64, to: i64, step: i64| {
        vec![numbers(&[4, 6]), ints(shape), ints(&[from]), ints(&[to]), ints(&[step])]
    };
    agree(
        text,
        &[
            with(&[2, 3, 4], 0, i64::MAX, 1),
            with(&[0, -1, 2], 1, -1, 2),
            with(&[-1, 1, 1], -1, i64::MIN, -1),
            with(&[4, 6, 1], 5, 0, -2),
            with(&[1, 1, 24], 9, 3, 1),
        ],
        &[
            with(&[5, 5, 1], 0, 6, 1),
            with(&[4, -1, 5], 0, 6, 1),
            with(&[4, 6, 1], 0, 6, 0),
        ],
    );
}

#[test]
fn one_axis_of_several() {
    let text = r#"graph @g (%0 "x": f32[2,3,N], %1 "axis": i64[]=[element.a_0], %2 "new": i64[1]=[element.n_0])
        symbols N=1.., element.a_0=-9223372036854775808.., element.n_0=-9223372036854775808.. {
        %3 = CumSum(%0, %1) {exclusive=1}
        %4 = Unsqueeze(%0, %2)
        %5 = Squeeze(%4, %2)
        return %3 "sums", %4 "wide", %5 "back"
    }"#;
    let with = |axis: i64, new: i64| vec![numbers(&[2, 3, 5]), Tensor::i64(&[], [axis]), ints(&[new])];
    agree(
        text,
        &[with(0, 0), with(-1, -1), with(1, 3), with(2, 1)],
        &[with(3, 0), with(0, 4)],
    );
}
