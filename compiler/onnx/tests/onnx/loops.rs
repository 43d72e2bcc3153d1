//! Loops over time: bodies with what they capture, and loops that cannot be.

use cameo_ir::{DType, Tensor, interp};
use cameo_onnx::proto::*;

use crate::models::*;

fn bools(name: &str, b: bool) -> TensorProto {
    weight(name, &Tensor::bool(&[], [b]))
}

fn scalar(name: &str, n: i64) -> TensorProto {
    weight(name, &Tensor::i64(&[], [n]))
}

/// `h = h * i + x + w`, stacked before `x` is added; the condition goes through.
pub fn body(condition: NodeProto) -> GraphProto {
    let inputs = vec![
        value("i", DType::I64, &[]),
        value("cond", DType::Bool, &[]),
        value("h", DType::F32, &["2"]),
    ];
    graph(
        inputs,
        vec![],
        vec![
            condition,
            node("Cast", &["i"], &["f"], vec![int("to", 1)]),
            node("Mul", &["h", "f"], &["hf"], vec![]),
            node("Add", &["hf", "w"], &["y"], vec![]),
            node("Add", &["y", "x"], &["next"], vec![]),
        ],
        &["going", "next", "y"],
    )
}

/// A loop of three iterations around a body.
pub fn looped(body: GraphProto, inputs: &[&str]) -> ModelProto {
    model(
        18,
        graph(
            vec![value("x", DType::F32, &["2"]), value("n", DType::I64, &[])],
            vec![scalar("three", 3), bools("yes", true), f32s("w", &[2], &[1.0, 2.0])],
            vec![node("Loop", inputs, &["last", "ys"], vec![graph_attr("body", body)])],
            &["last", "ys"],
        ),
    )
}

fn through() -> NodeProto {
    node("Identity", &["cond"], &["going"], vec![])
}

#[test]
fn a_counted_loop_reads_what_is_around_it() {
    let g = import(&looped(body(through()), &["three", "yes", "x"])).expect("imports");
    let x = Tensor::f32(&[2], [1.0, 0.0]);
    let out = interp::run(&g, &[x, Tensor::i64(&[], [0])]).expect("runs");
    // i = 0: y = w, then y + x, and so on.
    assert_eq!(out[1].to_f32(), [1.0, 2.0, 3.0, 4.0, 9.0, 10.0]);
    assert_eq!(out[0].to_f32(), [10.0, 10.0]);
    assert_eq!(g.nodes().filter(|(_, n)| n.op == "cameo::Scan").count(), 1);
}

#[test]
fn a_run_may_say_how_often() {
    let g = import(&looped(body(through()), &["n", "yes", "x"])).expect("imports");
    let x = Tensor::f32(&[2], [1.0, 0.0]);
    for (n, last) in [(3, [10.0, 10.0]), (1, [2.0, 2.0]), (0, [1.0, 0.0]), (-1, [1.0, 0.0])] {
        let out = interp::run(&g, &[x.clone(), Tensor::i64(&[], [n])]).expect("runs");
        assert_eq!(out[0].to_f32(), last, "{n}");
        assert_eq!(out[1].shape(), [n.max(0) as usize, 2]);
    }
}

fn refused(m: &ModelProto) -> String {
    let problems = import(m).expect_err("is refused");
    problems
        .iter()
        .map(|p| format!("{}: {}\n", p.node.as_deref().unwrap_or(""), p.message))
        .collect()
}

#[test]
fn data_ends_loops() {
    let said = refused(&looped(body(through()), &["", "yes", "x"]));
    assert_eq!(said, "n_last: a loop that nothing ends\n");
    // Without a largest number of iterations there is room for many.
    let g = import(&looped(body(less()), &["", "yes", "x"])).expect("imports");
    assert!(cameo_ir::text::print(&g).to_string().contains("most=dims[65536]"));
    let g = import(&looped(body(less()), &["three", "yes", "x"])).expect("imports");
    let text = cameo_ir::text::print(&g).to_string();
    assert!(
        text.contains("cameo::While(") && text.contains("most=dims[3]"),
        "{text}"
    );
    for n in 0..5 {
        let out = interp::run(&g, &[Tensor::f32(&[2], [1.0, 0.0]), Tensor::i64(&[], [n])]).expect("runs");
        // It goes on behind iteration `i` where `i < n`.
        assert_eq!(out[1].shape(), [(n as usize + 1).min(3), 2]);
    }
}

#[test]
fn an_input_says_how_often_a_loop_in_a_loop_runs() {
    let inner = node(
        "Loop",
        &["n", "yes", "before"],
        &["after", "all"],
        vec![graph_attr("body", body(through()))],
    );
    let outer = graph(
        vec![
            value("turn", DType::I64, &[]),
            value("more", DType::Bool, &[]),
            value("before", DType::F32, &["2"]),
        ],
        vec![],
        vec![node("Identity", &["more"], &["again"], vec![]), inner],
        &["again", "after", "all"],
    );
    let g = import(&looped(outer, &["three", "yes", "x"])).expect("imports");
    let out = interp::run(&g, &[Tensor::f32(&[2], [1.0, 0.0]), Tensor::i64(&[], [2])]).expect("runs");
    assert_eq!(out[1].shape(), [3, 2, 2]);
}

fn less() -> NodeProto {
    node("Less", &["i", "n"], &["going"], vec![])
}

/// A body whose state grows.
fn growing() -> GraphProto {
    let mut g = body(through());
    g.node[3] = node("Add", &["x", "w"], &["y"], vec![]);
    g.node[4] = node("Concat", &["h", "x"], &["next"], vec![int("axis", 0)]);
    g
}

#[test]
fn a_known_number_of_iterations_lets_states_grow() {
    let g = import(&looped(growing(), &["three", "yes", "x"])).expect("imports");
    let out = interp::run(&g, &[Tensor::f32(&[2], [1.0, 0.0]), Tensor::i64(&[], [0])]).expect("runs");
    assert_eq!(out[0].to_f32(), [1.0, 0.0].repeat(4));
    assert_eq!(out[1].shape(), [3, 2]);
    // As often as a run says, none at all too. There is room for as much as that is.
    let g = import(&looped(growing(), &["n", "yes", "x"])).expect("imports");
    let text = cameo_ir::text::print(&g);
    assert!(text.contains("cameo::Room") && !text.contains("65536"), "{text}");
    for n in [0, 1, 4] {
        let out = interp::run(&g, &[Tensor::f32(&[2], [1.0, 0.0]), Tensor::i64(&[], [n])]).expect("runs");
        assert_eq!(out[0].to_f32(), [1.0, 0.0].repeat(n as usize + 1));
        assert_eq!(out[1].shape(), [n as usize, 2]);
    }
}

#[test]
fn bodies_that_do_not_fit_are_refused() {
    let said = refused(&looped(body(through()), &["three", "yes"]));
    assert!(said.contains("2 inputs given, the body has 3 inputs"), "{said}");
    // A condition is a tensor.
    let mut listed = growing();
    listed.node.push(node("SequenceEmpty", &[], &["none"], vec![]));
    listed.output[0] = value("none", DType::F32, &[]);
    let said = refused(&looped(listed, &["n", "yes", "x"]));
    assert!(said.contains("gives a sequence"), "{said}");
    // What is wrong inside is said with the place.
    let mut wrong = body(through());
    wrong.node[2] = node("Nonsense", &["h", "f"], &["hf"], vec![]);
    let said = refused(&looped(wrong, &["three", "yes", "x"]));
    assert_eq!(said, "n_last/n_hf: unsupported operator `Nonsense`\n");
}

#[test]
fn scans_turn_axes_and_directions() {
    let body = graph(
        vec![value("s", DType::F32, &["2"]), value("e", DType::F32, &["2"])],
        vec![],
        vec![
            node("Add", &["s", "e"], &["t"], vec![]),
            node("Identity", &["t"], &["u"], vec![]),
        ],
        &["t", "u"],
    );
    let attrs = vec![
        graph_attr("body", body),
        int("num_scan_inputs", 1),
        ints("scan_input_axes", &[1]),
        ints("scan_input_directions", &[1]),
        ints("scan_output_axes", &[-1]),
        ints("scan_output_directions", &[1]),
    ];
    let scan = |opset, attrs| {
        let inputs = vec![value("s0", DType::F32, &["2"]), value("x", DType::F32, &["2", "T"])];
        let nodes = vec![node("Scan", &["s0", "x"], &["last", "all"], attrs)];
        model(opset, graph(inputs, vec![], nodes, &["last", "all"]))
    };
    let g = import(&scan(11, attrs.clone())).expect("imports");
    let (s, x) = (
        Tensor::f32(&[2], [0.0, 10.0]),
        Tensor::f32(&[2, 3], [1.0, 2.0, 4.0, 1.0, 1.0, 1.0]),
    );
    let out = interp::run(&g, &[s, x]).expect("runs");
    assert_eq!(out[0].to_f32(), [7.0, 13.0]);
    assert_eq!(
        (out[1].shape(), out[1].to_f32()),
        ([2, 3].as_slice(), vec![7.0, 6.0, 4.0, 13.0, 12.0, 11.0])
    );
    assert!(refused(&scan(8, attrs.clone())).contains("Scan of opset 8"));
    let mut short = attrs;
    short[2] = ints("scan_input_axes", &[1, 1]);
    assert!(refused(&scan(11, short)).contains("attribute `scan_input_axes` has 2 entries for 1 tensors"));
}

#[test]
fn a_count_is_one_integer_and_a_condition_one_bool() {
    for (inputs, expected) in [
        (["yes", "yes", "x"], "the number of iterations is bool[], not one i64"),
        (["three", "three", "x"], "the condition is i64[], not one bool"),
        (["w", "yes", "x"], "the number of iterations is f32[2], not one i64"),
    ] {
        let said = refused(&looped(body(through()), &inputs));
        assert!(said.contains(expected), "{said}");
    }
}
