//! Operators that are made of other nodes at import: derivatives, attention with graphs of its own, loops over a batch; bounds
//! that are computed of constants; and the oldest forms of operators.

use cameo_ir::{DType, Tensor, interp};
use cameo_onnx::proto::*;

use crate::models::*;

fn refused(m: &ModelProto) -> String {
    problems(m).join("\n")
}

fn run(m: &ModelProto, inputs: &[Tensor]) -> Vec<Vec<f64>> {
    let g = import(m).unwrap_or_else(|p| panic!("{p:?}"));
    let out = interp::run(&g, inputs).expect("runs");
    out.iter().map(Tensor::to_f64).collect()
}

/// A model with the derivatives of `y` by `a` and `b`.
fn differentiated(a: &[&str], b: &[&str], nodes: Vec<NodeProto>) -> ModelProto {
    let op = "ai.onnx.preview.training::Gradient";
    let attrs = vec![texts("xs", &["a", "b"]), text("y", "y")];
    let mut all = vec![node(op, &["a", "b"], &["da", "db"], attrs)];
    all.extend(nodes);
    let inputs = vec![value("a", DType::F64, a), value("b", DType::F64, b)];
    let mut m = model(18, graph(inputs, vec![], all, &["da", "db"]));
    m.opset_import.push(opset("ai.onnx.preview.training", 1));
    m
}

/// The derivatives are quotients of differences.
fn check_derivatives(a: &[usize], b: &[usize], nodes: Vec<NodeProto>) {
    let dims = |s: &[usize]| s.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (dims_a, dims_b) = (dims(a), dims(b));
    let [names_a, names_b] = [&dims_a, &dims_b].map(|v| v.iter().map(String::as_str).collect::<Vec<_>>());
    let m = differentiated(&names_a, &names_b, nodes.clone());
    let inputs = vec![value("a", DType::F64, &names_a), value("b", DType::F64, &names_b)];
    let plain = model(18, graph(inputs, vec![], nodes, &["y"]));
    let numbers = |shape: &[usize], from: f64| {
        let n: usize = shape.iter().product();
        (0..n).map(|i| from + 0.31 * i as f64).collect::<Vec<f64>>()
    };
    let at = [numbers(a, 0.4), numbers(b, 1.3)];
    let tensors = |at: &[Vec<f64>; 2]| {
        [
            Tensor::from_f64(DType::F64, a, at[0].iter().copied()),
            Tensor::from_f64(DType::F64, b, at[1].iter().copied()),
        ]
    };
    let got = run(&m, &tensors(&at));
    let sum = |at: &[Vec<f64>; 2]| run(&plain, &tensors(at))[0].iter().sum::<f64>();
    for which in 0..2 {
        for i in 0..at[which].len() {
            let (mut more, mut less) = (at.clone(), at.clone());
            more[which][i] += 1e-5;
            less[which][i] -= 1e-5;
            let want = (sum(&more) - sum(&less)) / 2e-5;
            let got = got[which][i];
            assert!((got - want).abs() < 1e-6 * want.abs().max(1.0), "{got} is not {want}");
        }
    }
}

#[test]
fn derivatives_go_back_through_nodes() {
    let one = |op: &str| {
        vec![
            node(op, &["a"], &["f"], vec![]),
            node("Mul", &["f", "b"], &["y"], vec![]),
        ]
    };
    for op in [
        "Neg",
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Sin",
        "Cos",
        "Tanh",
        "Sigmoid",
        "Relu",
    ] {
        check_derivatives(&[2, 3], &[2, 3], one(op));
    }
    for op in ["Add", "Sub", "Mul", "Div"] {
        let both = || {
            vec![
                node(op, &["a", "b"], &["f"], vec![]),
                node("Mul", &["f", "a"], &["y"], vec![]),
            ]
        };
        check_derivatives(&[2, 3], &[3], both());
        check_derivatives(&[2, 3], &[2, 1], both());
    }
    let product = vec![
        node("Transpose", &["a"], &["t"], vec![]),
        node("MatMul", &["t", "b"], &["p"], vec![]),
        node("Flatten", &["p"], &["f"], vec![]),
        node("Mul", &["f", "f"], &["y"], vec![]),
    ];
    check_derivatives(&[3, 2], &[3, 4], product);
    // Of what `y` is not computed of.
    check_derivatives(&[2], &[3], vec![node("Exp", &["a"], &["y"], vec![])]);
}

#[test]
fn derivatives_that_are_refused() {
    let m = differentiated(&["2"], &["2"], vec![node("Erf", &["a"], &["y"], vec![])]);
    assert!(refused(&m).contains("the derivative of `Erf`"), "{}", refused(&m));
    let mut m = differentiated(&["2"], &["2"], vec![node("Exp", &["a"], &["y"], vec![])]);
    if let Some(g) = &mut m.graph {
        g.node[0].input = strings(&["b", "a"]);
    }
    assert!(refused(&m).contains("`b` is given for `a`"), "{}", refused(&m));
}

/// `scores + 1 * (q - k)` by their positions.
fn relative(dtype: DType) -> GraphProto {
    let to = if dtype == DType::F16 { 10 } else { 1 };
    let weights = vec![
        weight("zero", &Tensor::i64(&[], [0])),
        weight("one", &Tensor::i64(&[], [1])),
        weight("two", &Tensor::i64(&[], [2])),
        weight("three", &Tensor::i64(&[], [3])),
        i64s("column", &[-1, 1]),
    ];
    let nodes = vec![
        node("Shape", &["s"], &["shape"], vec![]),
        node("Gather", &["shape", "two"], &["l"], vec![]),
        node("Gather", &["shape", "three"], &["n"], vec![]),
        node("Range", &["zero", "l", "one"], &["q"], vec![]),
        node("Range", &["zero", "n", "one"], &["k"], vec![]),
        node("Reshape", &["q", "column"], &["qc"], vec![]),
        node("Sub", &["qc", "k"], &["d"], vec![]),
        node("Cast", &["d"], &["df"], vec![int("to", to)]),
        node("Add", &["s", "df"], &["out"], vec![]),
    ];
    graph(vec![value("s", dtype, &["B", "H", "L", "S"])], weights, nodes, &["out"])
}

fn attention(dims: [[&str; 4]; 2], attrs: Vec<AttributeProto>) -> ModelProto {
    let [q, k] = dims;
    let inputs = vec![
        value("Q", DType::F32, &q),
        value("K", DType::F32, &k),
        value("V", DType::F32, &k),
    ];
    let nodes = vec![node("ai.onnx.preview::FlexAttention", &["Q", "K", "V"], &["Y"], attrs)];
    let mut m = model(23, graph(inputs, vec![], nodes, &["Y"]));
    m.opset_import.push(opset("ai.onnx.preview", 1));
    m
}

#[test]
fn graphs_change_scores_and_probabilities() {
    let doubled = || {
        let nodes = vec![node("Add", &["p", "p"], &["out"], vec![])];
        graph(
            vec![value("p", DType::F32, &["B", "H", "L", "S"])],
            vec![],
            nodes,
            &["out"],
        )
    };
    let m = attention(
        [["1", "2", "2", "4"], ["1", "1", "S", "4"]],
        vec![
            graph_attr("score_mod", relative(DType::F32)),
            graph_attr("prob_mod", doubled()),
        ],
    );
    let zeros = |shape: &[usize]| Tensor::f32(shape, vec![0.0; shape.iter().product()]);
    let v = Tensor::f32(&[1, 1, 2, 4], [1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0]);
    let y = &run(&m, &[zeros(&[1, 2, 2, 4]), zeros(&[1, 1, 2, 4]), v])[0];
    // Scores are 0 and -1 in row 0, 1 and 0 in row 1: the second key has the share 1 / (1 + e).
    let want = 2.0 * (1.0 + 2.0 / (1.0 + 1f64.exp()));
    assert!(
        y.len() == 16 && y.iter().all(|y| (y - want).abs() < 1e-5),
        "{y:?} {want}"
    );
    let half = attention(
        [["B", "2", "L", "4"], ["B", "2", "S", "4"]],
        vec![
            graph_attr("score_mod", relative(DType::F16)),
            int("softmax_precision", 10),
        ],
    );
    assert!(import(&half).is_ok());
    let shared = attention(
        [["B", "H", "L", "4"], ["B", "G", "S", "4"]],
        vec![graph_attr("prob_mod", doubled())],
    );
    let with = |heads: usize| [zeros(&[1, heads, 1, 4]), zeros(&[1, 2, 1, 4]), zeros(&[1, 2, 1, 4])];
    assert_eq!(run(&shared, &with(4))[0].len(), 16);
    let g = import(&shared).expect("imports");
    assert!(interp::run(&g, &with(3)).is_err());
    let other = attention(
        [["1", "2", "2", "4"], ["1", "1", "S", "4"]],
        vec![graph_attr("score_mod", relative(DType::F16))],
    );
    assert!(!problems(&other).is_empty());
    let less = || {
        let nodes = vec![node("ReduceSum", &["p"], &["out"], vec![])];
        graph(
            vec![value("p", DType::F32, &["B", "H", "L", "S"])],
            vec![],
            nodes,
            &["out"],
        )
    };
    let m = attention(
        [["1", "2", "2", "4"], ["1", "2", "3", "4"]],
        vec![graph_attr("prob_mod", less())],
    );
    assert!(refused(&m).contains("not the same"), "{}", refused(&m));
}

#[test]
fn a_scan_of_a_batch() {
    let body = graph(
        vec![value("h", DType::F32, &["2"]), value("x", DType::F32, &["2"])],
        vec![],
        vec![
            node("Add", &["h", "x"], &["next"], vec![]),
            node("Identity", &["next"], &["y"], vec![]),
        ],
        &["next", "y"],
    );
    let scan = |lengths: &'static str, back: i64| {
        let inputs = vec![
            value("n", DType::I64, &["B"]),
            value("h", DType::F32, &["B", "2"]),
            value("x", DType::F32, &["B", "T", "2"]),
        ];
        let attrs = vec![
            graph_attr("body", body.clone()),
            int("num_scan_inputs", 1),
            ints("directions", &[back]),
        ];
        let nodes = vec![node("Scan", &[lengths, "h", "x"], &["last", "all"], attrs)];
        model(8, graph(inputs, vec![], nodes, &["last", "all"]))
    };
    let inputs = [
        Tensor::i64(&[2], [2, 2]),
        Tensor::f32(&[2, 2], [0.0, 0.0, 10.0, 20.0]),
        Tensor::f32(&[2, 2, 2], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
    ];
    let out = run(&scan("", 0), &inputs);
    assert_eq!(out[0], [4.0, 6.0, 22.0, 34.0]);
    assert_eq!(out[1], [1.0, 2.0, 4.0, 6.0, 15.0, 26.0, 22.0, 34.0]);
    assert_eq!(
        run(&scan("", 1), &inputs)[1],
        [3.0, 4.0, 4.0, 6.0, 17.0, 28.0, 22.0, 34.0]
    );
    assert!(refused(&scan("n", 0)).contains("sequence_lens"));
}

/// Bounds may be results of nodes without inputs of the model.
#[test]
fn constants_are_computed_where_they_must_be_known() {
    let weights = vec![
        weight("n", &Tensor::i64(&[], [5])),
        f32s("zero", &[], &[0.0]),
        f32s("one", &[], &[1.0]),
    ];
    let nodes = vec![
        node("Cast", &["n"], &["f"], vec![int("to", 1)]),
        node("Range", &["zero", "f", "one"], &["r"], vec![]),
        node("Add", &["r", "x"], &["y"], vec![]),
    ];
    let m = model(13, graph(vec![value("x", DType::F32, &["5"])], weights, nodes, &["y"]));
    assert_eq!(run(&m, &[Tensor::f32(&[5], [0.0; 5])])[0], [0.0, 1.0, 2.0, 3.0, 4.0]);
}

/// An integer that a caller gives, as a float.
#[test]
fn a_range_to_a_converted_input() {
    let weights = vec![f32s("zero", &[], &[0.0]), f32s("one", &[], &[1.0])];
    let nodes = vec![
        node("Cast", &["n"], &["f"], vec![int("to", 1)]),
        node("Range", &["zero", "f", "one"], &["y"], vec![]),
    ];
    let m = model(13, graph(vec![value("n", DType::I32, &[])], weights, nodes, &["y"]));
    for n in [0, 3, -2] {
        let y = run(&m, &[Tensor::from_i64(DType::I32, &[], [n])]);
        assert_eq!(y[0].len() as i64, n.max(0));
    }
}

/// `start`, `start + delta` and so on: `ceil((limit - start) / delta)` of them, or none.
#[test]
fn a_loop_runs_as_often_as_a_rounded_quotient() {
    let body = graph(
        vec![
            value("i", DType::I64, &[]),
            value("going", DType::Bool, &[]),
            value("h", DType::I32, &[]),
        ],
        vec![],
        vec![
            node("Identity", &["going"], &["still"], vec![]),
            node("Add", &["h", "delta"], &["next"], vec![]),
            node("Identity", &["h"], &["here"], vec![]),
        ],
        &["still", "next", "here"],
    );
    let nodes = vec![
        node("Sub", &["limit", "start"], &["span"], vec![]),
        node("Cast", &["span"], &["span_f"], vec![int("to", 1)]),
        node("Cast", &["delta"], &["delta_f"], vec![int("to", 1)]),
        node("Div", &["span_f", "delta_f"], &["q"], vec![]),
        node("Ceil", &["q"], &["c"], vec![]),
        node("Relu", &["c"], &["r"], vec![]),
        node("Cast", &["r"], &["n"], vec![int("to", 7)]),
        node("Cast", &["r"], &["any"], vec![int("to", 9)]),
        node(
            "Loop",
            &["n", "any", "start"],
            &["last", "y"],
            vec![graph_attr("body", body)],
        ),
    ];
    let inputs = ["start", "limit", "delta"].map(|n| value(n, DType::I32, &[]));
    let m = model(18, graph(inputs.to_vec(), vec![], nodes, &["y"]));
    let one = |v: i64| Tensor::from_i64(DType::I32, &[], [v]);
    for (start, limit, delta, want) in [
        (10, 6, -3, vec![10.0, 7.0]),
        (1, 7, 2, vec![1.0, 3.0, 5.0]),
        (1, 8, 2, vec![1.0, 3.0, 5.0, 7.0]),
        (1, 8, -2, vec![]),
    ] {
        assert_eq!(run(&m, &[one(start), one(limit), one(delta)])[0], want);
    }
}

#[test]
fn a_declared_rank_says_what_an_index_has() {
    let inputs = || {
        vec![
            value("x", DType::F32, &["A", "B", "C"]),
            value("at", DType::I64, &["N", "K"]),
        ]
    };
    let nodes = || vec![node("GatherND", &["x", "at"], &["y"], vec![])];
    let mut m = model(13, graph(inputs(), vec![], nodes(), &["y"]));
    assert!(refused(&m).contains("the last extent of the indices must be known"));
    if let Some(g) = &mut m.graph {
        g.output = vec![value("y", DType::F32, &["N", "C"])];
    }
    let x = Tensor::f32(&[2, 2, 1], [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(run(&m, &[x, Tensor::i64(&[2, 2], [1, 0, 0, 1])])[0], [3.0, 2.0]);
}

#[test]
fn the_oldest_forms() {
    let at = |version, op: &str, dtype, attrs: Vec<AttributeProto>| {
        let nodes = vec![node(op, &["x"], &["y"], attrs)];
        model(
            version,
            graph(vec![value("x", dtype, &["2", "3"])], vec![], nodes, &["y"]),
        )
    };
    let x = Tensor::f32(&[2, 3], [-1.0, 2.0, -3.0, 4.0, -5.0, 6.0]);
    let old = at(1, "Relu", DType::F32, vec![ints("consumed_inputs", &[1])]);
    assert_eq!(run(&old, std::slice::from_ref(&x))[0], [0.0, 2.0, 0.0, 4.0, 0.0, 6.0]);
    let cast = at(5, "Cast", DType::F32, vec![text("to", "INT32")]);
    assert_eq!(
        run(&cast, std::slice::from_ref(&x))[0],
        [-1.0, 2.0, -3.0, 4.0, -5.0, 6.0]
    );
    let reshape = at(4, "Reshape", DType::F32, vec![ints("shape", &[3, -1])]);
    assert_eq!(
        import(&reshape).map(|g| g.fact(g.outputs()[0].1).to_string()),
        Ok("f32[3,2]".into())
    );
    let pad = at(1, "Pad", DType::F32, vec![ints("paddings", &[0, 1, 0, 0])]);
    assert_eq!(run(&pad, &[x])[0][..2], [0.0, -1.0]);
    assert!(import(&at(1, "Not", DType::Bool, vec![])).is_ok());
    let tile = refused(&at(5, "Tile", DType::F32, vec![]));
    assert!(tile.contains("(Tile, opset 5): Tile along one axis"), "{tile}");
}
