//! Sequences and optionals: lists of tensors of known length.

use cameo_ir::{DType, Graph, Tensor, interp};
use cameo_onnx::proto::*;
use cameo_onnx::{ImportOptions, Problem};

use crate::models::*;

fn wrapped(of: ValueInfoProto, wrap: fn(ElementType) -> TypeValue) -> ValueInfoProto {
    let elem_type = of.r#type.map(Box::new);
    typed(&of.name, wrap(ElementType { elem_type }))
}

pub fn sequence(name: &str, dtype: DType, dims: &[&str]) -> ValueInfoProto {
    wrapped(value(name, dtype, dims), TypeValue::Sequence)
}

fn optional(of: ValueInfoProto) -> ValueInfoProto {
    wrapped(of, TypeValue::Optional)
}

fn with(m: &ModelProto, items: &[&str]) -> Result<Graph, Vec<Problem>> {
    let items = items.iter().map(|text| {
        let (name, items) = text.split_once('=').expect("NAME=ITEMS");
        (name.to_owned(), items.parse().expect("legal"))
    });
    import_with(
        m,
        &ImportOptions {
            items: items.collect(),
            ..ImportOptions::default()
        },
    )
}

fn said(result: Result<Graph, Vec<Problem>>) -> String {
    result.expect_err("is refused")[0].to_string()
}

fn names(g: &Graph) -> Vec<String> {
    g.outputs().iter().map(|(name, _)| name.to_string()).collect()
}

fn row(of: &[f32]) -> Tensor {
    Tensor::f32(&[of.len()], of.iter().copied())
}

fn numbers(out: &[Tensor]) -> Vec<Vec<f32>> {
    out.iter().map(Tensor::to_f32).collect()
}

/// Insert, erase and take at positions that inputs give.
fn edits() -> ModelProto {
    let inputs = vec![
        sequence("xs", DType::F32, &["?"]),
        value("new", DType::F32, &["?"]),
        value("at", DType::I64, &[]),
        value("gone", DType::I64, &[]),
    ];
    let nodes = vec![
        node("SequenceInsert", &["xs", "new", "at"], &["more"], vec![]),
        node("SequenceErase", &["xs", "gone"], &["left"], vec![]),
        node("SequenceAt", &["xs", "gone"], &["one"], vec![]),
        node("SequenceLength", &["more"], &["n"], vec![]),
    ];
    model(21, graph(inputs, vec![], nodes, &["more", "left", "one", "n"]))
}

#[test]
fn a_run_says_the_positions() {
    let g = with(&edits(), &["xs=2"]).expect("imports");
    assert_eq!(names(&g), ["more[0]", "more[1]", "more[2]", "left[0]", "one", "n"]);
    let (a, b, new) = (row(&[1.0, 2.0]), row(&[3.0, 4.0, 5.0]), row(&[9.0]));
    let run = |at: i64, gone: i64| {
        let at = [at, gone].map(|n| Tensor::i64(&[], [n]));
        let inputs = [a.clone(), b.clone(), new.clone(), at[0].clone(), at[1].clone()];
        interp::run(&g, &inputs)
    };
    for (at, gone, expected) in [
        (0, 0, [9.0, 1.0, 3.0, 3.0, 1.0]),
        (1, 1, [1.0, 9.0, 3.0, 1.0, 3.0]),
        (2, -2, [1.0, 3.0, 9.0, 3.0, 1.0]),
        (-1, -1, [1.0, 9.0, 3.0, 1.0, 3.0]),
        (-2, 1, [9.0, 1.0, 3.0, 1.0, 3.0]),
    ] {
        let out = run(at, gone).expect("runs");
        let firsts: Vec<f32> = numbers(&out[..5]).iter().map(|v| v[0]).collect();
        assert_eq!(firsts, expected, "{at} {gone}");
        let lengths: Vec<usize> = out[..5].iter().map(Tensor::len).collect();
        let length = |first: &f32| 1 + [9.0, 1.0, 3.0].iter().position(|f| f == first).expect("one");
        assert_eq!(lengths, firsts.iter().map(length).collect::<Vec<_>>());
        assert_eq!(out[5].to_i64(), [3]);
    }
    for (at, gone) in [(3, 0), (-3, 0), (0, 2), (0, -3)] {
        assert!(run(at, gone).is_err(), "{at} {gone}");
    }
}

#[test]
fn known_positions_leave_nothing() {
    let weights = vec![i64s("sizes", &[1, 3]), weight("minus", &Tensor::i64(&[], [-1]))];
    let nodes = vec![
        node("SplitToSequence", &["x", "sizes"], &["parts"], vec![int("axis", 1)]),
        node("SequenceAt", &["parts", "minus"], &["last"], vec![]),
        node("ConcatFromSequence", &["parts"], &["all"], vec![int("axis", 1)]),
        node("SplitToSequence", &["x"], &["rows"], vec![int("keepdims", 0)]),
    ];
    let g = graph(
        vec![value("x", DType::F32, &["2", "4"])],
        weights,
        nodes,
        &["last", "all", "rows"],
    );
    let g = import(&model(21, g)).expect("imports");
    assert_eq!(names(&g), ["last", "all", "rows[0]", "rows[1]"]);
    assert!(g.nodes().all(|(_, n)| n.op != "cameo::Member"));
    let x = Tensor::f32(&[2, 4], (0..8).map(|i| i as f32));
    let out = interp::run(&g, std::slice::from_ref(&x)).expect("runs");
    assert_eq!(out[0].to_f32(), [1.0, 2.0, 3.0, 5.0, 6.0, 7.0]);
    assert_eq!(out[1].to_f32(), x.to_f32());
    assert_eq!(
        (out[3].shape(), out[3].to_f32()),
        ([4].as_slice(), vec![4.0, 5.0, 6.0, 7.0])
    );
}

#[test]
fn a_body_for_each_tensor() {
    let body = graph(
        vec![value("a", DType::F32, &["?"]), value("b", DType::F32, &[])],
        vec![],
        vec![
            node("Mul", &["a", "b"], &["y"], vec![]),
            node("Shape", &["a"], &["s"], vec![]),
        ],
        &["y", "s"],
    );
    let map = node(
        "SequenceMap",
        &["xs", "b"],
        &["ys", "shapes"],
        vec![graph_attr("body", body)],
    );
    let inputs = vec![sequence("xs", DType::F32, &["N"]), value("b", DType::F32, &[])];
    let m = model(21, graph(inputs, vec![], vec![map], &["ys", "shapes"]));
    let g = with(&m, &["xs=[2],[?]"]).expect("imports");
    let out = interp::run(&g, &[row(&[1.0, 2.0]), row(&[3.0]), Tensor::f32(&[], [2.0])]).expect("runs");
    assert_eq!(numbers(&out[..2]), [vec![2.0, 4.0], vec![6.0]]);
    assert_eq!([out[2].to_i64(), out[3].to_i64()], [[2], [1]]);
    assert!(said(with(&m, &[])).contains("`--items xs=3`"));
    // No tensor at all is no output.
    assert!(with(&m, &["xs=0"]).expect("imports").outputs().is_empty());
}

/// `for i in 0..3 { xs.push(x[..i + 1]); sums.stack(sum of x[..i + 1]) }`
fn grown(trips: &str) -> ModelProto {
    let body = graph(
        vec![
            value("i", DType::I64, &[]),
            value("c", DType::Bool, &[]),
            sequence("xs", DType::F32, &["?"]),
        ],
        vec![i64s("zero", &[0]), i64s("one", &[1])],
        vec![
            node("Add", &["i", "one"], &["end"], vec![]),
            node("Slice", &["x", "zero", "end"], &["part"], vec![]),
            node("SequenceInsert", &["xs", "part"], &["more"], vec![]),
            node("ReduceSum", &["part", "zero"], &["sum"], vec![int("keepdims", 0)]),
            node("Identity", &["c"], &["on"], vec![]),
        ],
        &["on", "more", "sum"],
    );
    let nodes = vec![
        node("SequenceEmpty", &[], &["none"], vec![]),
        node(
            "Loop",
            &[trips, "", "none"],
            &["all", "sums"],
            vec![graph_attr("body", body)],
        ),
    ];
    let inputs = vec![value("x", DType::F32, &["3"]), value("n", DType::I64, &[])];
    let weights = vec![weight("three", &Tensor::i64(&[], [3]))];
    model(21, graph(inputs, weights, nodes, &["all", "sums"]))
}

#[test]
fn loops_may_grow_sequences() {
    let g = import(&grown("three")).expect("imports");
    assert_eq!(names(&g), ["all[0]", "all[1]", "all[2]", "sums"]);
    let out = interp::run(&g, &[row(&[1.0, 2.0, 4.0]), Tensor::i64(&[], [0])]).expect("runs");
    assert_eq!(
        numbers(&out),
        [vec![1.0], vec![1.0, 2.0], vec![1.0, 2.0, 4.0], vec![1.0, 3.0, 7.0]]
    );
    let said = said(import(&grown("")));
    assert!(said.contains("nothing ends"), "{said}");
    // As often as a run says.
    let g = import(&grown("n")).expect("imports");
    assert_eq!(names(&g), ["all[].elements", "all[].shapes", "sums"]);
    let out = interp::run(&g, &[row(&[1.0, 2.0, 4.0]), Tensor::i64(&[], [2])]).expect("runs");
    assert_eq!(numbers(&out), [vec![1.0, 1.0, 2.0], vec![1.0, 2.0], vec![1.0, 3.0]]);
}

#[test]
fn data_chooses_between_sequences() {
    let branch = |of: &str, outputs: &[&str]| {
        let nodes = vec![node("SequenceConstruct", &[of, "x"], &[outputs[0]], vec![])];
        graph(vec![], vec![], nodes, outputs)
    };
    let branches = vec![
        graph_attr("then_branch", branch("x", &["a"])),
        graph_attr("else_branch", branch("y", &["b"])),
    ];
    let inputs = vec![
        value("x", DType::F32, &["2"]),
        value("y", DType::F32, &["2"]),
        value("c", DType::Bool, &[]),
    ];
    let m = model(
        21,
        graph(inputs, vec![], vec![node("If", &["c"], &["r"], branches)], &["r"]),
    );
    let g = import(&m).expect("imports");
    for (c, first) in [(true, [1.0, 2.0]), (false, [3.0, 4.0])] {
        let inputs = [row(&[1.0, 2.0]), row(&[3.0, 4.0]), Tensor::bool(&[], [c])];
        let out = interp::run(&g, &inputs).expect("runs");
        assert_eq!(numbers(&out), [first, [1.0, 2.0]]);
    }
}

#[test]
fn data_decides_whether_an_optional_is_there() {
    let branch =
        |inputs: &[&str], name: &str| graph(vec![], vec![], vec![node("Optional", inputs, &[name], vec![])], &[name]);
    for reversed in [false, true] {
        let mut bodies = [branch(&["x"], "a"), branch(&[], "b")];
        if reversed {
            bodies.reverse();
        }
        let [yes, no] = bodies;
        let branches = vec![graph_attr("then_branch", yes), graph_attr("else_branch", no)];
        let inputs = vec![value("x", DType::F32, &["N"]), value("c", DType::Bool, &[])];
        let nodes = |more: Vec<NodeProto>| [vec![node("If", &["c"], &["o"], branches.clone())], more].concat();
        let all = |more: Vec<NodeProto>, outputs: &[&str]| {
            import(&model(21, graph(inputs.clone(), vec![], nodes(more), outputs))).expect("imports")
        };
        let run = |g: &Graph, c: bool| interp::run(g, &[row(&[1.0, 2.0]), Tensor::bool(&[], [c])]);
        let g = all(vec![], &["o"]);
        assert_eq!(names(&g), ["o", "o[].present"]);
        assert_eq!(numbers(&run(&g, !reversed).expect("runs")), [vec![1.0, 2.0], vec![1.0]]);
        assert_eq!(numbers(&run(&g, reversed).expect("runs"))[1], [0.0]);
        let g = all(
            vec![
                node("OptionalHasElement", &["o"], &["has"], vec![]),
                node("OptionalGetElement", &["o"], &["y"], vec![]),
            ],
            &["has", "y"],
        );
        assert_eq!(numbers(&run(&g, !reversed).expect("runs")), [vec![1.0], vec![1.0, 2.0]]);
        assert!(run(&g, reversed).is_err(), "there is none to get");
    }
}

#[test]
fn each_branch_has_an_optional_of_its_own() {
    let branch = |first: &[&str], second: &[&str], names: [&str; 2]| {
        let nodes = vec![
            node("Optional", first, &[names[0]], vec![]),
            node("Optional", second, &[names[1]], vec![]),
        ];
        graph(vec![], vec![], nodes, &names)
    };
    let branches = vec![
        graph_attr("then_branch", branch(&[], &["x"], ["a1", "b1"])),
        graph_attr("else_branch", branch(&["w"], &[], ["a2", "b2"])),
    ];
    let inputs = vec![
        value("x", DType::F32, &["2"]),
        value("w", DType::F32, &["3"]),
        value("c", DType::Bool, &[]),
    ];
    let nodes = vec![node("If", &["c"], &["a", "b"], branches)];
    let g = import(&model(21, graph(inputs, vec![], nodes, &["a", "b"]))).expect("imports");
    assert_eq!(names(&g), ["a", "a[].present", "b", "b[].present"]);
    for c in [true, false] {
        let inputs = [row(&[1.0, 2.0]), row(&[3.0, 4.0, 5.0]), Tensor::bool(&[], [c])];
        let out = numbers(&interp::run(&g, &inputs).expect("runs"));
        let (there, value) = if c {
            (2, vec![1.0, 2.0])
        } else {
            (0, vec![3.0, 4.0, 5.0])
        };
        assert_eq!(out[there], value);
        assert_eq!([out[1][0] == 0.0, out[3][0] == 0.0], [c, !c]);
    }
}

#[test]
fn optionals_are_there_or_not() {
    let m = |of: ValueInfoProto| {
        let nodes = vec![
            node("OptionalHasElement", &["o"], &["has"], vec![]),
            node("Identity", &["x"], &["y"], vec![]),
        ];
        model(
            21,
            graph(vec![of, value("x", DType::F32, &["1"])], vec![], nodes, &["has", "y"]),
        )
    };
    let has = |g: Graph| {
        let inputs: Vec<Tensor> = g.inputs().iter().map(|_| row(&[0.0])).collect();
        interp::run(&g, &inputs).expect("runs")[0].to_f64() == [1.0]
    };
    let tensor = m(optional(value("o", DType::F32, &["1"])));
    let list = m(optional(sequence("o", DType::F32, &["1"])));
    assert!(has(with(&tensor, &[]).expect("imports")));
    assert!(has(with(&list, &["o=2"]).expect("imports")));
    assert!(!has(with(&tensor, &["o=none"]).expect("imports")));
    assert!(!has(with(&list, &["o=none"]).expect("imports")));
    let get = node("OptionalGetElement", &["o"], &["y"], vec![]);
    let m = model(
        21,
        graph(
            vec![optional(value("o", DType::F32, &["1"]))],
            vec![],
            vec![get],
            &["y"],
        ),
    );
    assert!(with(&m, &[]).is_ok());
    assert!(said(with(&m, &["o=none"])).contains("the optional has no element"));
}

#[test]
fn what_does_not_fit_is_refused() {
    let m = edits();
    assert!(said(with(&m, &[])).contains("whose length must be known"));
    assert!(said(with(&m, &["xs=none"])).contains("it is no optional"));
    assert!(said(with(&m, &["xs=2", "new=2"])).contains("it is no sequence"));
    assert!(said(with(&m, &["xs=2", "ys=2"])).contains("there is no input `ys`"));
    assert!(said(with(&m, &["xs=[2,2],[2]"])).contains("same element type and rank"));
    let relu = node("Relu", &["xs"], &["y"], vec![]);
    let m = model(
        21,
        graph(vec![sequence("xs", DType::F32, &["2"])], vec![], vec![relu], &["y"]),
    );
    assert!(said(with(&m, &["xs=1"])).contains("`xs` is a sequence, a tensor is wanted"));
}
