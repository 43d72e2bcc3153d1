//! Inputs whose elements decide shapes: one program and one context, run after run with other elements, against the
//! interpreter; and what is refused.

use cameo_ir::{Tensor, interp};
use cameo_runtime::Status;
use cameo_tests::compare::assert_same;
use cameo_tests::model::{Choices, Model, run_in};
use cameo_tests::source;

fn numbers(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    Tensor::f32(shape, (0..count).map(|i| ((i * 37) % 29) as f32 / 16.0 - 0.9))
}

fn ints(list: &[i64]) -> Tensor {
    Tensor::i64(&[list.len()], list.iter().copied())
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
fn what_does_not_fit_is_said_with_the_node() {
    let says = |text: &str, inputs: &[Tensor], wanted: &str| {
        let model = Model::new(&source::graph(text), &Choices::default()).unwrap_or_else(|e| panic!("{e}"));
        let refused = model.run(inputs, 1).expect_err("is refused").to_string();
        let start = "a shape rule of the model does not hold for these inputs: ";
        assert_eq!(refused.strip_prefix(start), Some(wanted), "{refused}");
    };
    says(
        r#"graph @g (%0 "x": f32[N,4], %1 "y": f32[M,4]) symbols N=0.., M=0.. {
            %2 = Add(%0, %1) from "/Add"
            return %2 "sum"
        }"#,
        &[numbers(&[3, 4]), numbers(&[2, 4])],
        "M = N, or one of them 1, in node \"/Add\"; here they are 2 and 3",
    );
    says(
        r#"graph @g (%0 "x": f32[N,4], %1 "y": f32[2,4]) symbols N=0.. {
            %2 = Add(%0, %1) from "/Add"
            return %2 "sum"
        }"#,
        &[numbers(&[3, 4]), numbers(&[2, 4])],
        "N = 2 or N = 1 in node \"/Add\"; here they are 3 and 2",
    );
    says(
        r#"graph @g (%0 "x": f32[N,K], %1 "y": f32[M,4]) symbols N=0.., M=0.., K=0.. {
            %2 = MatMul(%0, %1) from "/MatMul"
            return %2 "product"
        }"#,
        &[numbers(&[3, 5]), numbers(&[6, 4])],
        "M = K in node \"/MatMul\"; here they are 6 and 5",
    );
    // The run counts it.
    says(
        r#"graph @g (%0 "x": f32[4], %1 "y": f32[3]) symbols count.n=0.. {
            weight %2: i64[1] = dense(0)
            %3 = NonZero(%0) {count="count.n"} from "/NonZero"
            %4 = Squeeze(%3, %2) from "/Squeeze"
            %5 = Gather(%0, %4) {axis=0} from "/Gather"
            %6 = Add(%5, %1) from "/Add"
            return %6 "sum"
        }"#,
        &[numbers(&[4]), numbers(&[3])],
        "count.n = 3 or count.n = 1 in node \"/Add\"",
    );
}

#[test]
fn quotients_by_no_extent_do_not_stop_the_process() {
    let g = source::graph(
        r#"graph @g (%0 "x": f32[N], %1 "y": f32[M]) symbols N=0.., M=0.. {
            weight %2: i64[1] = dense(3)
            weight %3: f32[3] = dense(7.0, 8.0, 9.0)
            %4 = Concat(%0, %3) {axis=0}
            %5 = Shape(%1)
            %6 = Div(%2, %5)
            %7 = Gather(%4, %6) {axis=0}
            return %7 "element"
        }"#,
    );
    let model = Model::new(&g, &Choices::default()).unwrap_or_else(|e| panic!("{e}"));
    let run = |n: usize, m: usize| model.run(&[numbers(&[n]), numbers(&[m])], 1);
    for (n, m) in [(1, 1), (0, 2), (4, 3), (0, 9)] {
        let want = interp::run(&g, &[numbers(&[n]), numbers(&[m])]).expect("runs");
        assert_same(&run(n, m).unwrap_or_else(|e| panic!("{n} {m}: {e}")), &want);
    }
    // No number divides by 0: any element, or an error.
    for n in [0, 1, 4] {
        let all: Vec<f32> = [numbers(&[n]).to_f32(), vec![7.0, 8.0, 9.0]].concat();
        let fine = |got: Vec<Tensor>| all.contains(&got[0].to_f32()[0]);
        assert!(run(n, 0).map_or_else(|e| e.status() == Status::ShapeRule, fine), "{n}");
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
            with(&[4, 6, 1], 2, i64::MAX, i64::MAX),
            with(&[4, 6, 1], 2, i64::MIN, i64::MIN),
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

#[test]
fn several_axes_that_are_cut_or_new() {
    let text = r#"graph @g (%0 "x": f32[5,4,N], %1 "from": i64[2]=[element.f_0,element.f_1], %2 "to": i64[2]=[element.t_0,element.t_1],
        %3 "axes": i64[2]=[element.a_0,element.a_1], %4 "steps": i64[2]=[element.p_0,element.p_1],
        %5 "new": i64[3]=[element.n_0,element.n_1,element.n_2])
        symbols N=1.., element.f_0=-9223372036854775808.., element.f_1=-9223372036854775808..,
        element.t_0=-9223372036854775808.., element.t_1=-9223372036854775808.., element.a_0=-9223372036854775808..,
        element.a_1=-9223372036854775808.., element.p_0=-9223372036854775808.., element.p_1=-9223372036854775808..,
        element.n_0=-9223372036854775808.., element.n_1=-9223372036854775808.., element.n_2=-9223372036854775808.. {
        %6 = Slice(%0, %1, %2, %3, %4)
        %7 = Unsqueeze(%0, %5)
        return %6 "part", %7 "wide"
    }"#;
    let with = |from: [i64; 2], to: [i64; 2], axes: [i64; 2], steps: [i64; 2], new: [i64; 3]| {
        let lists = [from, to, axes, steps].map(|l| ints(&l));
        let inputs = [numbers(&[5, 4, 6])].into_iter().chain(lists);
        inputs.chain([ints(&new)]).collect::<Vec<_>>()
    };
    agree(
        text,
        &[
            with([0, 1], [3, -1], [0, 1], [1, 1], [0, 1, 2]),
            with([-1, 9], [i64::MIN, 1], [-1, 0], [-2, -1], [5, 1, -4]),
            with([2, 1], [i64::MAX, 1], [2, 1], [3, 2], [3, -1, 4]),
            with([0, -1], [14, i64::MIN], [0, 1], [i64::MAX, i64::MIN], [0, 1, 2]),
        ],
        &[
            with([0, 1], [3, -1], [0, -3], [1, 1], [0, 1, 2]),
            with([0, 1], [3, -1], [0, 1], [1, 0], [0, 1, 2]),
            with([0, 1], [3, -1], [0, 1], [1, 1], [0, 1, 0]),
        ],
    );
}

#[test]
fn as_many_cuts_as_a_run_says() {
    let text = r#"graph @g (%0 "x": f32[5,4,6], %1 "from": i64[A]=[element.f_0,element.f_1,element.f_2],
        %2 "to": i64[B]=[element.t_0,element.t_1,element.t_2], %3 "axes": i64[C]=[element.a_0,element.a_1,element.a_2])
        symbols A=0.., B=0.., C=0.., element.f_0=-9223372036854775808.., element.f_1=-9223372036854775808..,
        element.f_2=-9223372036854775808.., element.t_0=-9223372036854775808.., element.t_1=-9223372036854775808..,
        element.t_2=-9223372036854775808.., element.a_0=-9223372036854775808.., element.a_1=-9223372036854775808..,
        element.a_2=-9223372036854775808.. {
        %4 = Slice(%0, %1, %2, %3)
        %5 = Slice(%0, %1, %2)
        return %4 "part", %5 "first"
    }"#;
    let with = |from: &[i64], to: &[i64], axes: &[i64]| vec![numbers(&[5, 4, 6]), ints(from), ints(to), ints(axes)];
    agree(
        text,
        &[
            with(&[1], &[-1], &[1]),
            with(&[0, 1], &[3, 9], &[2, 0]),
            with(&[0, 1, 2], &[3, 2, 6], &[0, -2, 2]),
        ],
        &[with(&[0, 1], &[3], &[2, 0]), with(&[0, 1], &[3, 9], &[2])],
    );
}

#[test]
fn axes_of_a_transform() {
    let text = r#"graph @g (%0 "x": f32[3,N,5,2], %1 "axis": i64[]=[element.a_0])
        symbols N=1.., element.a_0=-9223372036854775808.. {
        %2 = DFT(%0, _, %1)
        %3 = DFT(%0, _, %1) {inverse=1}
        %4 = Slice(%0) {starts=dims[0], ends=dims[1], axes=dims[3]}
        %5 = DFT(%4, _, %1) {onesided=1}
        return %2 "y", %3 "back", %5 "half"
    }"#;
    let with = |axis: i64| vec![numbers(&[3, 4, 5, 2]), Tensor::i64(&[], [axis])];
    agree(
        text,
        &[with(0), with(1), with(2), with(-2), with(-3)],
        &[with(3), with(-1), with(4)],
    );
}

#[test]
fn filters_as_wide_as_sizes_say() {
    let text = r#"graph @g (%0 "x": f32[2,9,7], %1 "sizes": i64[2]=[element.n_0,element.n_1])
        symbols element.n_0=-9223372036854775808.., element.n_1=-9223372036854775808.. {
        %2 = Resize(%0, _, _, %1) {antialias=1, axes=[1,2], mode="linear"}
        %3 = Resize(%0, _, _, %1) {antialias=1, axes=[1,2], exclude_outside=1, mode="cubic"}
        return %2 "y", %3 "z"
    }"#;
    let with = |sizes: [i64; 2]| vec![numbers(&[2, 9, 7]), ints(&sizes)];
    agree(text, &[with([4, 3]), with([9, 1]), with([2, 11])], &[]);
}

#[test]
fn pads_and_shapes_of_as_many_axes_as_a_run_says() {
    let text = r#"graph @g (%0 "x": f32[5,4,1], %1 "pads": i64[P]=[element.p_0,element.p_1,element.p_2,element.p_3],
        %2 "axes": i64[A]=[element.a_0,element.a_1], %3 "shape": i64[S]=[element.s_0,element.s_1,element.s_2])
        symbols P=0.., A=0.., S=0.., element.p_0=-9223372036854775808.., element.p_1=-9223372036854775808..,
        element.p_2=-9223372036854775808.., element.p_3=-9223372036854775808.., element.a_0=-9223372036854775808..,
        element.a_1=-9223372036854775808.., element.s_0=-9223372036854775808.., element.s_1=-9223372036854775808..,
        element.s_2=-9223372036854775808.. {
        %4 = Pad(%0, %1, _, %2)
        %5 = Expand(%0, %3)
        return %4 "y", %5 "wide"
    }"#;
    let with =
        |pads: &[i64], axes: &[i64], shape: &[i64]| vec![numbers(&[5, 4, 1]), ints(pads), ints(axes), ints(shape)];
    agree(
        text,
        &[
            with(&[1, 2], &[1], &[3]),
            with(&[1, 2, 0, -1], &[2, 0], &[1, 4, 2]),
            with(&[], &[], &[4, 1]),
            with(&[0, 1, 2, 3], &[-2, -1], &[]),
        ],
        &[
            with(&[1, 2, 3, 4], &[1], &[3]),
            with(&[1, 2, 3, 4], &[1, 1], &[3]),
            with(&[1, 2], &[3], &[3]),
        ],
    );
}

#[test]
fn a_shape_without_extents_changes_nothing() {
    let text = r#"graph @g (%0 "x": f32[3,1,5], %1 "shape": i64[S]=[element.s_0,element.s_1,element.s_2])
        symbols S=0.., element.s_0=-9223372036854775808.., element.s_1=-9223372036854775808..,
        element.s_2=-9223372036854775808.. {
        %2 = Expand(%0, %1)
        return %2 "y"
    }"#;
    let with = |shape: &[i64]| vec![numbers(&[3, 1, 5]), ints(shape)];
    agree(
        text,
        &[with(&[]), with(&[1]), with(&[2, 5]), with(&[3, 4, 1])],
        &[with(&[2]), with(&[0, 5, 2])],
    );
}

#[test]
fn numbers_that_do_not_fit_are_refused() {
    let text = r#"graph @g (%0 "x": f32[1,4], %1 "shape": i64[2]=[element.s_0,element.s_1], %2 "parts": i64[2]=[element.p_0,element.p_1])
        symbols element.s_0=-9223372036854775808.., element.s_1=-9223372036854775808..,
        element.p_0=-9223372036854775808.., element.p_1=-9223372036854775808.. {
        %3 = Expand(%0, %1)
        %4, %5 = Split(%0, %2) {axis=1}
        return %3 "wide", %4 "a", %5 "b"
    }"#;
    let with = |shape: &[i64], parts: &[i64]| vec![numbers(&[1, 4]), ints(shape), ints(parts)];
    agree(
        text,
        &[with(&[3, 4], &[1, 3]), with(&[1, 1], &[4, 0])],
        &[
            with(&[3, 2], &[1, 3]),
            with(&[1, 0], &[1, 3]),
            with(&[3, 4], &[1, 1]),
            with(&[3, 4], &[5, -1]),
        ],
    );
}

/// What is removed because its extent is 1, or stays because it is not, is presumed of each run.
#[test]
fn axes_of_extent_1() {
    let x = |n: usize, m: usize| vec![numbers(&[n, m])];
    for (squeeze, [a, b], wrong) in [
        ("Squeeze(%0) : f32[N,M]", [x(3, 2), x(2, 5)], x(3, 1)),
        ("Squeeze(%0) {axes=dims[1]} : f32[N]", [x(3, 1), x(1, 1)], x(3, 2)),
    ] {
        for then in ["Neg(%1)", "Shape(%1)"] {
            let text = format!(
                r#"graph @g (%0 "x": f32[N,M]) {{
                    %1 = {squeeze}
                    %2 = {then}
                    return %2 "y"
                }}"#
            );
            agree(&text, &[a.clone(), b.clone()], std::slice::from_ref(&wrong));
        }
    }
}

/// Extents that a run alone tells to be no equal ones, or none that broadcast.
#[test]
fn extents_that_do_not_fit() {
    let x = |n: usize| vec![numbers(&[n, 4])];
    let two = |n: usize, m: usize| vec![numbers(&[n, 4]), numbers(&[m, 4])];
    let one = [
        ("Expand(%0) {shape=dims[3,4]}", [x(3), x(1)], x(2)),
        ("Reshape(%0) {shape=dims[2,4]}", [x(2), x(2)], x(1)),
        ("Reshape(%0) {shape=dims[2,4]}", [x(2), x(2)], x(3)),
        ("Reshape(%0) {shape=dims[-1,8]}", [x(2), x(4)], x(3)),
    ];
    let both = [
        ("Concat(%0, %1) {axis=1}", [two(2, 2), two(5, 5)], two(2, 1)),
        ("Concat(%0, %1) {axis=1}", [two(2, 2), two(0, 0)], two(1, 2)),
        ("Mul(%0, %1)", [two(3, 1), two(1, 2)], two(2, 0)),
    ];
    let heads = [r#"%0 "x": f32[N,4]"#, r#"%0 "x": f32[N,4], %1 "y": f32[M,4]"#];
    for (head, cases) in heads.into_iter().zip([&one[..], &both[..]]) {
        for (op, [a, b], wrong) in cases {
            let text = format!(
                "graph @g ({head}) symbols N=0.., M=0.. {{\n  %2 = {op}\n  %3 = Neg(%2)\n  return %3 \"z\"\n}}"
            );
            let text = if head.contains("M,") {
                text
            } else {
                text.replace(", M=0..", "")
            };
            agree(&text, &[a.clone(), b.clone()], std::slice::from_ref(wrong));
        }
    }
    let product = r#"graph @g (%0 "x": f32[N,M], %1 "y": f32[K,4]) symbols N=0.., M=0.., K=0.. {
        %2 = MatMul(%0, %1)
        return %2 "z"
    }"#;
    let pair = |m: usize, k: usize| vec![numbers(&[2, m]), numbers(&[k, 4])];
    agree(
        product,
        &[pair(3, 3), pair(0, 0)],
        &[pair(3, 4), pair(4, 3), pair(1, 3)],
    );
}

/// `x[a*S+b : c*S+d : step]`, where no extent is presumed to be 0 and every one may be.
#[test]
fn slices_of_extents_that_are_0() {
    let cases: [([i64; 2], [i64; 2], i64); 16] = [
        ([0, -1], [0, 2], 1),
        ([0, -1], [0, END], 1),
        ([0, -1], [0, -END], -1),
        ([0, 0], [0, -1], 1),
        ([0, 1], [0, 2], 1),
        ([0, -2], [0, END], 2),
        ([0, -2], [1, -1], 1),
        ([0, -2], [0, -2], -1),
        ([0, 0], [1, -1], 1),
        ([1, -1], [0, END], 1),
        ([1, -2], [0, 2], 1),
        ([-1, 0], [0, END], 1),
        ([-1, 1], [0, -1], 2),
        ([-1, 1], [0, END], 2),
        ([1, 1], [-1, 1], -1),
        ([1, 0], [0, 1], -1),
    ];
    for (start, end, step) in cases {
        let text = format!(
            r#"graph @g (%0 "x": f32[M,N], %1 "s": f32[S]) symbols M=0.., N=0.., S=0.. {{
                weight %2: i64[1] = dense({})
                weight %3: i64[1] = dense({})
                weight %4: i64[1] = dense({})
                weight %5: i64[1] = dense({})
                weight %6: i64[1] = dense(0)
                weight %7: i64[1] = dense({step})
                %8 = Shape(%1)
                %9 = Mul(%8, %2)
                %10 = Add(%9, %3)
                %11 = Mul(%8, %4)
                %12 = Add(%11, %5)
                %13 = Slice(%0, %10, %12, %6, %7)
                return %13 "y"
            }}"#,
            start[0], start[1], end[0], end[1]
        );
        let model = Model::new(&source::graph(&text), &Choices::default()).unwrap_or_else(|e| panic!("{e}\n{text}"));
        for (m, n, s) in (0..4).flat_map(|m| [0, 2].into_iter().flat_map(move |n| [0, 1, 3].map(|s| (m, n, s)))) {
            let x = numbers(&[m, n]);
            let at = |v: [i64; 2]| v[0] * s as i64 + v[1];
            let rows = sliced(m as i64, at(start), at(end), step);
            let all = x.to_f32();
            let elements = rows.iter().flat_map(|&row| all[row * n..][..n].to_vec());
            let want = [Tensor::f32(&[rows.len(), n], elements)];
            match model.run(&[x, numbers(&[s])], 1) {
                Ok(got) => assert_same(&got, &want),
                Err(e) if m * s == 0 => assert_eq!(e.status(), Status::ShapeRule, "{m} {n} {s}: {e}\n{text}"),
                Err(e) => panic!("{m} {n} {s}: {e}\n{text}"),
            }
        }
    }
}

const END: i64 = i64::MAX;

/// The rows that a slice of `m` takes, as the operator's text says it.
fn sliced(m: i64, start: i64, end: i64, step: i64) -> Vec<usize> {
    let at = |v: i64| if v < 0 { v.saturating_add(m) } else { v };
    let (low, high) = if step < 0 { (-1, m - 1) } else { (0, m) };
    let end = at(end).min(high).max(low);
    let mut row = at(start).max(0).min(high);
    let mut rows = vec![];
    while (step > 0 && row < end) || (step < 0 && row > end) {
        rows.push(row as usize);
        row += step;
    }
    rows
}

/// What is not there is not read, wherever it would lie: positions around it are padded, indices of it are refused.
#[test]
fn tensors_without_elements_are_not_read() {
    let refused = |text: &str, inputs: &[Tensor]| {
        let model = Model::new(&source::graph(text), &Choices::default()).unwrap_or_else(|e| panic!("{e}"));
        let e = model.run(inputs, 1).expect_err(text);
        assert!(matches!(e.status(), Status::ShapeRule | Status::IndexOutOfRange), "{e}");
    };
    agree(
        r#"graph @g (%0 "x": i16[M,4,3]) symbols M=0.. {
            weight %1: i64[3] = dense(3,4,1)
            %2 = CenterCropPad(%0, %1)
            return %2 "y"
        }"#,
        &[0, 1, 5].map(|m| vec![Tensor::from_i64(cameo_ir::DType::I16, &[m, 4, 3], 0..m as i64 * 12)]),
        &[],
    );
    for (extents, axis) in [("M,64", 0), ("3,M,5", 1), ("70,M", 1)] {
        let text = format!(
            r#"graph @g (%0 "x": f32[{extents}], %1 "i": i64[N]) symbols M=0.., N=0.. {{
                %2 = Gather(%0, %1) {{axis={axis}}}
                return %2 "y"
            }}"#
        );
        let shape: Vec<usize> = extents.split(',').map(|e| e.parse().unwrap_or(0)).collect();
        let with = |list: &[i64]| vec![numbers(&shape), ints(list)];
        agree(&text, &[with(&[])], &[]);
        refused(&text, &with(&[0; 40]));
        refused(&text, &with(&[-1]));
    }
    for mode in ["nearest", "linear", "cubic"] {
        let text = format!(
            r#"graph @g (%0 "x": f32[H,W]) symbols H=0.., W=0.. {{
                weight %1: i64[2] = dense(6,70)
                %2 = Resize(%0, _, _, %1) {{mode="{mode}"}}
                return %2 "y"
            }}"#
        );
        refused(&text, &[numbers(&[0, 3])]);
        refused(&text, &[numbers(&[3, 0])]);
    }
}

/// The square root of -inf and -0 is not their power by 0.5.
#[test]
fn powers_by_one_half() {
    for (t, size) in [("f16", 67), ("f32", 67), ("f64", 5)] {
        let text = format!(
            r#"graph @g (%0 "x": {t}[N]) symbols N=0.. {{
                weight %1: {t}[] = dense(0.5)
                %2 = Pow(%0, %1)
                %3 = Reciprocal(%2)
                return %2 "y", %3 "inverse"
            }}"#
        );
        let some = [f64::NEG_INFINITY, -0.0, 0.0, 4.0, -1.0, f64::INFINITY, f64::NAN];
        let x = (0..size).map(|i| some[i % some.len()]);
        let dtype = source::graph(&text).fact(source::graph(&text).inputs()[0]).dtype;
        agree(&text, &[vec![Tensor::from_f64(dtype, &[size], x)]], &[]);
    }
}

/// A channel of -0 of a weight that is shown as it is.
#[test]
fn negative_zeros_stay() {
    let graph = source::graph(
        r#"graph @g (%0 "x": f32[N,1]) symbols N=0.. {
            weight %1: f32[16,1] = dense(1.0,-0.0,1.5,0.0,3.5,2.5,-0.5,2.0,-1.0,-0.0,-0.5,-1.0,-4.5,2.0,1.5,1.5)
            %2 = Concat(%0, %1) {axis=0}
            return %2 "y"
        }"#,
    );
    let model = Model::new(&graph, &Choices::new(true, "native")).unwrap_or_else(|e| panic!("{e}"));
    let got = model.run(&[numbers(&[1, 1])], 1).expect("runs");
    let signs: Vec<usize> = got[0]
        .to_f32()
        .iter()
        .enumerate()
        .filter(|(i, v)| *i > 0 && **v == 0.0 && v.is_sign_negative())
        .map(|(i, _)| i)
        .collect();
    assert_eq!(signs, [2, 10]);
}

/// Statistics of 16 bits are folded in 32: only the result is rounded.
#[test]
fn normalised_numbers_of_16_bits_are_rounded_once() {
    for t in ["f16", "bf16"] {
        let text = format!(
            r#"graph @g (%0 "x": {t}[N,4,3]) symbols N=0.. {{
                weight %1: {t}[4] = dense(4.5, -3.25, 2.125, 1.0)
                weight %2: {t}[4] = dense(3.5, -2.25, 1.5, 0.0)
                weight %3: {t}[4] = dense(0.75, 0.6875, -0.75, 0.5)
                weight %4: {t}[4] = dense(0.9375, 1.0625, 1.125, 0.0625)
                %5 = BatchNormalization(%0, %1, %2, %3, %4)
                return %5 "y"
            }}"#
        );
        let graph = source::graph(&text);
        let dtype = graph.fact(graph.inputs()[0]).dtype;
        let x = Tensor::from_f64(dtype, &[6, 4, 3], (0..72).map(|i| f64::from(i * 37 % 64) / 32.0 - 1.0));
        let model = Model::new(&graph, &Choices::new(true, "native")).unwrap_or_else(|e| panic!("{e}"));
        let got = model.run(std::slice::from_ref(&x), 1).expect("runs")[0].to_f64();
        let want = interp::run(&graph, &[x]).expect("runs")[0].to_f64();
        let digits = if t == "f16" { 11 } else { 8 };
        for (g, w) in got.iter().zip(want) {
            let unit = 2f64.powi(w.abs().max(1e-3).log2().floor() as i32 + 1 - digits);
            assert!((g - w).abs() <= unit, "{t}: {g} {w}");
        }
    }
}
