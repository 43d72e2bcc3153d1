//! Sequences whose length only a run knows, and slices that move with a loop.

use cameo_ir::{DType, Graph, Tensor, interp};
use cameo_onnx::ImportOptions;
use cameo_onnx::proto::*;

use crate::lists::sequence;
use crate::models::*;

/// Nodes on `x`, of which a run says how many rows of 2 it has, and on an integer `at`.
fn of_rows(nodes: Vec<NodeProto>, outputs: &[&str]) -> ModelProto {
    let inputs = vec![value("x", DType::F32, &["N", "2"]), value("at", DType::I64, &[])];
    let weights = vec![i64s("zero", &[0]), weight("two", &Tensor::i64(&[], [2]))];
    model(21, graph(inputs, weights, nodes, outputs))
}

fn run(g: &Graph, rows: usize, at: i64) -> Option<Vec<(Vec<usize>, Vec<f64>)>> {
    let x = Tensor::f32(&[rows, 2], (0..2 * rows).map(|i| i as f32));
    let out = interp::run(g, &[x, Tensor::i64(&[], [at])]).ok()?;
    Some(out.iter().map(|t| (t.shape().to_vec(), t.to_f64())).collect())
}

fn said(m: &ModelProto) -> String {
    problems(m).first().cloned().unwrap_or_default()
}

#[test]
fn parts_of_a_dynamic_axis() {
    let split = |keep: i64| node("SplitToSequence", &["x"], &["rows"], vec![int("keepdims", keep)]);
    let all = |axis: i64, new: i64| vec![int("axis", axis), int("new_axis", new)];
    let ends = |split: NodeProto| {
        let nodes = vec![
            split,
            node("SequenceLength", &["rows"], &["n"], vec![]),
            node("SequenceAt", &["rows", "at"], &["one"], vec![]),
            node("ConcatFromSequence", &["rows"], &["flat"], all(0, 0)),
            node("ConcatFromSequence", &["rows"], &["columns"], all(-1, 1)),
        ];
        import(&of_rows(nodes, &["n", "one", "flat", "columns"])).expect("imports")
    };
    let without = run(&ends(split(0)), 3, -1).expect("runs");
    assert_eq!(without[0], (vec![], vec![3.0]));
    assert_eq!(without[1], (vec![2], vec![4.0, 5.0]));
    assert_eq!(without[2], (vec![6], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    assert_eq!(without[3], (vec![2, 3], vec![0.0, 2.0, 4.0, 1.0, 3.0, 5.0]));
    let with = run(&ends(split(1)), 3, 1).expect("runs");
    assert_eq!(with[1], (vec![1, 2], vec![2.0, 3.0]));
    assert_eq!(with[2], (vec![3, 2], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    assert_eq!(with[3], (vec![1, 2, 3], vec![0.0, 2.0, 4.0, 1.0, 3.0, 5.0]));
    assert!(run(&ends(split(0)), 3, 3).is_none(), "a position behind the last");
}

#[test]
fn parts_of_a_size_and_of_listed_sizes() {
    let nodes = vec![
        node("SplitToSequence", &["x", "two"], &["pairs"], vec![]),
        node("SequenceLength", &["pairs"], &["n"], vec![]),
        node("ConcatFromSequence", &["pairs"], &["all"], vec![int("axis", 0)]),
    ];
    let g = import(&of_rows(nodes, &["n", "all"])).expect("imports");
    for (rows, pairs) in [(0, 0.0), (4, 2.0), (5, 3.0)] {
        let out = run(&g, rows, 0).expect("runs");
        assert_eq!((out[0].1.as_slice(), out[1].1.len()), ([pairs].as_slice(), 2 * rows));
    }
    let inputs = vec![value("x", DType::F32, &["N", "2"]), value("sizes", DType::I64, &["P"])];
    let nodes = vec![
        node("SplitToSequence", &["x", "sizes"], &["parts"], vec![]),
        node("SequenceLength", &["parts"], &["n"], vec![]),
    ];
    let g = import(&model(21, graph(inputs, vec![], nodes, &["n"]))).expect("imports");
    let x = Tensor::f32(&[4, 2], [0.0; 8]);
    let out = interp::run(&g, &[x, Tensor::i64(&[3], [1, 1, 2])]).expect("runs");
    assert_eq!(out[0].to_i64(), [3]);
}

/// `for i in 0..n { total += x[i]; totals.append(total) }`, with what the body makes of `totals`.
fn totals(insert: NodeProto, begin: NodeProto) -> ModelProto {
    let body = graph(
        vec![
            value("i", DType::I64, &[]),
            value("c", DType::Bool, &[]),
            value("total", DType::F32, &["2"]),
            sequence("totals", DType::F32, &["2"]),
        ],
        vec![],
        vec![
            node("Identity", &["c"], &["on"], vec![]),
            node("SequenceAt", &["rows", "i"], &["row"], vec![]),
            node("Add", &["total", "row"], &["sum"], vec![]),
            insert,
        ],
        &["on", "sum", "more", "row"],
    );
    let nodes = vec![
        node("SplitToSequence", &["x"], &["rows"], vec![int("keepdims", 0)]),
        node("SequenceLength", &["rows"], &["n"], vec![]),
        node("ReduceSum", &["none", "zero"], &["start"], vec![int("keepdims", 0)]),
        node("Slice", &["x", "zero", "zero"], &["none"], vec![]),
        begin,
        node(
            "Loop",
            &["n", "", "start", "begin"],
            &["last", "all", "each"],
            vec![graph_attr("body", body)],
        ),
        node("SequenceLength", &["all"], &["count"], vec![]),
        node(
            "ConcatFromSequence",
            &["all"],
            &["stack"],
            vec![int("axis", 0), int("new_axis", 1)],
        ),
    ];
    of_rows(nodes, &["last", "stack", "count", "each"])
}

#[test]
fn a_loop_appends_to_a_sequence() {
    let append = |at: &[&str]| node("SequenceInsert", &[&["totals", "sum"], at].concat(), &["more"], vec![]);
    let empty = node("SequenceEmpty", &[], &["begin"], vec![]);
    let g = import(&totals(append(&[]), empty.clone())).expect("imports");
    let out = run(&g, 3, 0).expect("runs");
    assert_eq!(out[0].1, [6.0, 9.0]);
    assert_eq!(out[1], (vec![3, 2], vec![0.0, 1.0, 2.0, 4.0, 6.0, 9.0]));
    assert_eq!(out[2].1, [3.0]);
    assert_eq!(out[3].1, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(run(&g, 0, 0).expect("runs")[1].0, [0, 2]);
    // Behind what is in it before.
    let one = node("SequenceConstruct", &["start"], &["begin"], vec![]);
    let g = import(&totals(append(&[]), one.clone())).expect("imports");
    assert_eq!(
        run(&g, 2, 0).expect("runs")[1],
        (vec![3, 2], vec![0.0, 0.0, 0.0, 1.0, 2.0, 4.0])
    );
    // Left as it is.
    let same = node("Identity", &["totals"], &["more"], vec![]);
    assert_eq!(
        run(&import(&totals(same, one)).expect("imports"), 2, 0).expect("runs")[2].1,
        [1.0]
    );
    // In front.
    assert!(said(&totals(append(&["at"]), empty)).contains("needs each tensor of a sequence"));
}

#[test]
fn a_body_for_each_of_many() {
    let body = graph(
        vec![value("row", DType::F32, &["2"]), value("by", DType::F32, &[])],
        vec![],
        vec![
            node("Mul", &["row", "by"], &["y"], vec![]),
            node("ReduceSum", &["y", "around"], &["s"], vec![int("keepdims", 0)]),
        ],
        &["y", "s"],
    );
    let nodes = vec![
        node("SplitToSequence", &["x"], &["rows"], vec![int("keepdims", 0)]),
        node("Identity", &["zero"], &["around"], vec![]),
        node("Cast", &["at"], &["by"], vec![int("to", 1)]),
        node(
            "SequenceMap",
            &["rows", "by"],
            &["ys", "sums"],
            vec![graph_attr("body", body)],
        ),
        node("ConcatFromSequence", &["ys"], &["flat"], vec![int("axis", 0)]),
        node(
            "ConcatFromSequence",
            &["sums"],
            &["s"],
            vec![int("axis", 0), int("new_axis", 1)],
        ),
    ];
    let g = import(&of_rows(nodes, &["flat", "s"])).expect("imports");
    let out = run(&g, 2, 3).expect("runs");
    assert_eq!(out[0].1, [0.0, 3.0, 6.0, 9.0]);
    assert_eq!(out[1].1, [3.0, 15.0]);
}

#[test]
fn an_output_is_elements_and_shapes() {
    let split = |keep: i64| node("SplitToSequence", &["x"], &["rows"], vec![int("keepdims", keep)]);
    for (keep, shape) in [(0, vec![2.0]), (1, vec![1.0, 2.0])] {
        let g = import(&of_rows(vec![split(keep)], &["rows"])).expect("imports");
        let names: Vec<&str> = g.outputs().iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["rows[].elements", "rows[].shapes"]);
        let out = run(&g, 3, 0).expect("runs");
        assert_eq!(out[0], (vec![6], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
        assert_eq!(out[1], (vec![3, shape.len()], shape.repeat(3)));
        assert_eq!(run(&g, 0, 0).expect("runs")[1].0, [0, shape.len()]);
    }
    // Parts of columns: tensors are not where their elements were.
    let wide = |sizes: ValueInfoProto| {
        let inputs = vec![value("x", DType::F32, &["2", "N"]), sizes];
        let split = node("SplitToSequence", &["x", "sizes"], &["parts"], vec![int("axis", 1)]);
        import(&model(21, graph(inputs, vec![], vec![split], &["parts"]))).expect("imports")
    };
    let x = Tensor::f32(&[2, 5], (0..10).map(|i| i as f32));
    for (g, sizes) in [
        (
            wide(value("sizes", DType::I64, &["P"])),
            Tensor::i64(&[4], [2, 0, 2, 1]),
        ),
        (wide(value("sizes", DType::I64, &[])), Tensor::i64(&[], [2])),
    ] {
        let out = interp::run(&g, &[x.clone(), sizes.clone()]).expect("runs");
        assert_eq!(out[0].to_f64(), [0.0, 1.0, 5.0, 6.0, 2.0, 3.0, 7.0, 8.0, 4.0, 9.0]);
        let parts: &[i64] = if sizes.shape().is_empty() {
            &[2, 2, 1]
        } else {
            &[2, 0, 2, 1]
        };
        assert_eq!(
            out[1].to_i64(),
            parts.iter().flat_map(|n| [2, *n]).collect::<Vec<i64>>()
        );
        // Sizes are those of all columns.
        let wrong: &[i64] = if sizes.shape().is_empty() {
            &[-2]
        } else {
            &[2, 0, -1, 4]
        };
        let wrong = Tensor::i64(sizes.shape(), wrong.iter().copied());
        assert!(interp::run(&g, &[x.clone(), wrong]).is_err());
    }
}

#[test]
fn what_needs_each_tensor_is_refused() {
    let split = || node("SplitToSequence", &["x"], &["rows"], vec![]);
    let erase = node("SequenceErase", &["rows"], &["left"], vec![]);
    let n = node("SequenceLength", &["left"], &["n"], vec![]);
    let m = of_rows(vec![split(), erase, n], &["n"]);
    assert!(said(&m).contains("needs each tensor of a sequence"), "{}", said(&m));
    let at = node("SequenceAt", &["rows", "x"], &["y"], vec![]);
    let m = of_rows(vec![split(), at], &["y"]);
    assert!(said(&m).contains("not one integer"), "{}", said(&m));
}

/// `for i in 0..n-1 { total += x[i + first : i + last] }`
fn windows(first: i64, last: i64) -> ModelProto {
    let body = graph(
        vec![
            value("i", DType::I64, &[]),
            value("c", DType::Bool, &[]),
            value("total", DType::F32, &["?", "2"]),
        ],
        vec![i64s("first", &[first]), i64s("last", &[last]), i64s("axis", &[0])],
        vec![
            node("Identity", &["c"], &["on"], vec![]),
            node("Unsqueeze", &["i", "axis"], &["place"], vec![]),
            node("Add", &["place", "first"], &["from"], vec![]),
            node("Add", &["last", "place"], &["to"], vec![]),
            node("Slice", &["x", "from", "to", "axis"], &["part"], vec![]),
            node("Add", &["total", "part"], &["sum"], vec![]),
        ],
        &["on", "sum"],
    );
    let start = Tensor::f32(&[(last - first) as usize, 2], vec![0.0; 2 * (last - first) as usize]);
    let nodes = vec![node(
        "Loop",
        &["at", "", "start"],
        &["y"],
        vec![graph_attr("body", body)],
    )];
    let mut m = of_rows(nodes, &["y"]);
    if let Some(g) = &mut m.graph {
        g.initializer.push(weight("start", &start));
    }
    m
}

#[test]
fn slices_move_with_a_loop() {
    let g = import(&windows(0, 2)).expect("imports");
    assert_eq!(
        run(&g, 4, 3).expect("runs")[0],
        (vec![2, 2], vec![6.0, 9.0, 12.0, 15.0])
    );
    assert!(run(&g, 4, 4).is_none(), "the last slice is shorter");
    // From the end where it is negative: the first slice is empty, the others are not.
    let g = import(&windows(-1, 1)).expect("imports");
    assert!(run(&g, 4, 2).is_none(), "slices of different lengths");
}

#[test]
fn slices_of_copies_may_be_shorter() {
    // `for i in 0..3 { total += sum(x[2 i : 2 i + 2]) }` of 5 rows.
    let body = graph(
        vec![
            value("i", DType::I64, &[]),
            value("c", DType::Bool, &[]),
            value("total", DType::F32, &["2"]),
        ],
        vec![i64s("axis", &[0]), i64s("step", &[2])],
        vec![
            node("Identity", &["c"], &["on"], vec![]),
            node("Unsqueeze", &["i", "axis"], &["place"], vec![]),
            node("Mul", &["place", "step"], &["from"], vec![]),
            node("Add", &["from", "step"], &["to"], vec![]),
            node("Slice", &["x", "from", "to"], &["part"], vec![]),
            node("ReduceSum", &["part", "axis"], &["row"], vec![int("keepdims", 0)]),
            node("Add", &["total", "row"], &["sum"], vec![]),
        ],
        &["on", "sum"],
    );
    let looped = node("Loop", &["three", "", "start"], &["y"], vec![graph_attr("body", body)]);
    let weights = vec![
        weight("three", &Tensor::i64(&[], [3])),
        f32s("start", &[2], &[0.0, 0.0]),
    ];
    let inputs = vec![value("x", DType::F32, &["5", "2"])];
    let g = import(&model(21, graph(inputs, weights, vec![looped], &["y"]))).expect("imports");
    let x = Tensor::f32(&[5, 2], (0..10).map(|i| i as f32));
    assert_eq!(interp::run(&g, &[x]).expect("runs")[0].to_f32(), [20.0, 25.0]);
}

#[test]
fn branches_by_whether_there_is_anything() {
    let then = graph(
        vec![],
        vec![],
        vec![node("ReduceMax", &["x", "zero"], &["most"], vec![int("keepdims", 0)])],
        &["most"],
    );
    let none = graph(
        vec![],
        vec![],
        vec![node("ConstantOfShape", &["zero"], &["nothing"], vec![])],
        &["nothing"],
    );
    let nodes = vec![
        node("Size", &["x"], &["size"], vec![]),
        node("Greater", &["size", "at"], &["data"], vec![]),
        node("Sub", &["size", "size"], &["naught"], vec![]),
        node("Greater", &["size", "naught"], &["any"], vec![]),
        node(
            "If",
            &["any"],
            &["y"],
            vec![
                graph_attr("then_branch", then.clone()),
                graph_attr("else_branch", none.clone()),
            ],
        ),
    ];
    let m = of_rows(nodes.clone(), &["y"]);
    let g = import(&m).expect("imports");
    assert_eq!(g.symbol_range("N"), (1, i64::MAX), "a run without rows is refused");
    assert_eq!(run(&g, 2, 0).expect("runs")[0].1, [2.0, 3.0]);
    // What bounds decide is no question, and what data decides no presumption.
    let bounded = ImportOptions {
        dims: vec![("N".to_owned(), cameo_onnx::DimBinding::Range { min: 2, max: 9 })],
        ..ImportOptions::default()
    };
    assert_eq!(import_with(&m, &bounded).expect("imports").symbol_range("N"), (2, 9));
    let mut by_input = nodes;
    by_input[4].input[0] = "data".to_owned();
    let g = import(&of_rows(by_input.clone(), &["y"])).expect("imports");
    assert_eq!(run(&g, 2, 3).expect("runs")[0].1, [2.0, 3.0]);
    assert_eq!(run(&g, 2, 4).expect("runs")[0].1, [0f64; 0]);
    by_input[1] = node("Greater", &["most", "least"], &["data"], vec![]);
    by_input[2] = node("ReduceMax", &["x"], &["most"], vec![int("keepdims", 0)]);
    by_input[3] = node("ReduceMin", &["x"], &["least"], vec![int("keepdims", 0)]);
    let g = import(&of_rows(by_input, &["y"])).expect("imports");
    assert_eq!(run(&g, 2, 0).expect("runs")[0].1, [2.0, 3.0]);
}
