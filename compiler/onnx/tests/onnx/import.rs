//! What becomes of a model, and what is said of a model that cannot be imported.

use cameo_ir::{DType, Tensor};
use cameo_onnx::proto::*;
use cameo_onnx::{DimBinding, ImportOptions, ProblemKind};
use prost::Message;

use crate::models::*;

pub fn x(dims: &[&str]) -> Vec<ValueInfoProto> {
    vec![value("x", DType::F32, dims)]
}

/// Imports a model of opset 18 with one input.
fn lines(
    inputs: Vec<ValueInfoProto>,
    weights: Vec<TensorProto>,
    nodes: Vec<NodeProto>,
    outputs: &[&str],
) -> Vec<String> {
    shown(&model(18, graph(inputs, weights, nodes, outputs)))
}

pub fn shown(m: &ModelProto) -> Vec<String> {
    match import(m) {
        Ok(g) => show(&g),
        Err(p) => panic!("{p:#?}"),
    }
}

#[test]
fn nodes_weights_and_outputs() {
    let got = lines(
        x(&["B", "2"]),
        vec![f32s("w", &[2], &[1.0, 2.0]), f32s("unused", &[1], &[0.0])],
        vec![
            node("Add", &["x", "w"], &["a"], vec![]),
            node("Relu", &["a"], &["y"], vec![]),
            node("Neg", &["a"], &["dead"], vec![]),
        ],
        &["y", "a", "w", "x"],
    );
    assert_eq!(
        got,
        [
            "n_a: f32[B,2] = Add(x, [1, 2])",
            "n_y: f32[B,2] = Relu(a)",
            "y = y, a = a, w = [1, 2], x = x"
        ]
    );
}

#[test]
fn unnamed_nodes_are_named_by_operator_and_position() {
    let mut n = node("Relu", &["x"], &["y"], vec![]);
    n.name.clear();
    assert_eq!(lines(x(&["1"]), vec![], vec![n], &["y"])[0], "Relu_0: f32[1] = Relu(x)");
}

#[test]
fn inputs_with_an_initializer_are_weights() {
    let mut inputs = x(&["1"]);
    inputs.push(value("w", DType::F32, &["1"]));
    let mut m = model(
        9,
        graph(
            inputs,
            vec![f32s("w", &[1], &[3.0])],
            vec![node("Add", &["x", "w"], &["y"], vec![])],
            &["y"],
        ),
    );
    m.ir_version = 3;
    assert_eq!(import(&m).expect("imports").inputs().len(), 1);
}

#[test]
fn constants_of_every_form_are_weights() {
    let w = Tensor::f32(&[1], [5.0]);
    for (a, want) in [
        (tensor_attr("value", weight("", &w)), "[5]"),
        (sparse_attr("sparse_value", sparse("", &[3], &[1], &[5.0])), "[0, 5, 0]"),
        (float("value_float", 5.0), "[5]"),
        (floats("value_floats", &[5.0, 6.0]), "[5, 6]"),
    ] {
        let nodes = vec![
            node("Constant", &[], &["c"], vec![a]),
            node("Add", &["x", "c"], &["y"], vec![]),
        ];
        assert_eq!(
            lines(x(&["1"]), vec![], nodes, &["y"])[0]
                .rsplit_once("Add")
                .expect("Add")
                .1,
            format!("(x, {want})")
        );
    }
    for (a, want) in [(int("value_int", 7), vec![]), (ints("value_ints", &[7]), vec![1])] {
        let g = import(&model(
            13,
            graph(vec![], vec![], vec![node("Constant", &[], &["y"], vec![a])], &["y"]),
        ));
        let g = g.expect("imports");
        let t = g.constant(g.outputs()[0].1).expect("weight");
        assert_eq!((t.shape(), t.to_i64()), (&want[..], vec![7]));
    }
    let c = |a| {
        problems(&model(
            13,
            graph(vec![], vec![], vec![node("Constant", &[], &["y"], vec![a])], &["y"]),
        ))
    };
    for (a, want) in [
        (text("value_string", "sä"), &["sä"][..]),
        (texts("value_strings", &["a", ""]), &["a", ""][..]),
    ] {
        let g = import(&model(
            13,
            graph(vec![], vec![], vec![node("Constant", &[], &["y"], vec![a])], &["y"]),
        ));
        let g = g.expect("imports");
        let t = g.constant(g.outputs()[0].1).expect("weight");
        assert_eq!(t.to_texts().expect("strings"), want);
    }
    assert!(c(int("other", 1))[0].contains("`other`"));
}

#[test]
fn sparse_initializers_become_dense() {
    let mut g = graph(
        x(&["3"]),
        vec![],
        vec![node("Add", &["x", "s"], &["y"], vec![])],
        &["y"],
    );
    g.sparse_initializer = vec![sparse("s", &[3], &[2], &[4.0])];
    assert_eq!(shown(&model(13, g))[0], "n_y: f32[3] = Add(x, [0, 0, 4])");
}

#[test]
fn unsorted_nodes_are_sorted() {
    let nodes = vec![
        node("Relu", &["a"], &["y"], vec![]),
        node("Neg", &["x"], &["a"], vec![]),
    ];
    assert_eq!(lines(x(&["1"]), vec![], nodes, &["y"]).len(), 3);
}

#[test]
fn all_problems_are_listed_at_once() {
    let mut unnamed = node("Missing", &["x"], &["c"], vec![]);
    unnamed.name.clear();
    let mut inputs = x(&["2"]);
    inputs.push(typed("seq", TypeValue::Sequence(ElementType::default())));
    let nodes = vec![
        node("Nope", &["x"], &["a"], vec![]),
        node("Relu", &["a"], &["silent"], vec![]),
        node("AlsoNope", &["silent"], &["b"], vec![]),
        unnamed,
        node("com.microsoft::Strange", &["x"], &["d"], vec![]),
        node("Relu", &["x"], &["e"], vec![int("odd", 1)]),
        node("Add", &["x", "w3"], &["f"], vec![]),
        node("Relu", &["nowhere"], &["h"], vec![]),
        node("Relu", &["bad"], &["i"], vec![]),
        node("Relu", &["bad"], &["j"], vec![]),
    ];
    let mut bad = f32s("bad", &[1], &[0.0]);
    bad.dims = vec![5];
    let weights = vec![f32s("w3", &[3], &[0.0; 3]), bad];
    let outputs = ["a", "b", "c", "d", "e", "f", "h", "i", "j", "silent"];
    let mut m = model(13, graph(inputs, weights, nodes, &outputs));
    m.opset_import.push(opset("com.microsoft", 1));
    let found = problems(&m);
    let mut starts = vec![
        "unsupported: input `seq`: it is a sequence, whose length must be known",
        "unsupported: node `n_a` (Nope, opset 13): unsupported operator `Nope`",
        "unsupported: node `n_b` (AlsoNope, opset 13): unsupported operator `AlsoNope`",
        "unsupported: node #3 (Missing, opset 13): unsupported operator `Missing`",
        "unsupported: node `n_d` (com.microsoft::Strange, opset 1): unsupported operator",
        "unsupported: node `n_e` (Relu, opset 13): attribute `odd` is not supported",
        "invalid: node `n_f` (Add, opset 13): ",
        "invalid: node `n_h` (Relu, opset 13): value `nowhere` is not defined",
        "invalid: initializer `bad`: 5 elements of f32 need 20 bytes, the data has 4",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for line in &found {
        let at = starts.iter().position(|s| line.starts_with(s));
        starts.remove(at.unwrap_or_else(|| panic!("{line}")));
    }
    assert!(found[1].contains("help: "), "{}", found[1]);
}

#[test]
fn contributed_operators_need_no_opset_of_their_domain() {
    let nodes = || {
        vec![
            node("com.microsoft::QuickGelu", &["x"], &["a"], vec![]),
            node("SimplifiedLayerNormalization", &["a", "w"], &["y"], vec![]),
        ]
    };
    let weights = || vec![f32s("w", &[2], &[1.0, 2.0])];
    let mut m = model(18, graph(x(&["B", "2"]), weights(), nodes(), &["y"]));
    let without = shown(&m);
    m.opset_import.push(opset("com.microsoft", 1));
    assert_eq!(without, shown(&m));
    assert!(
        without.iter().any(|l| l.contains("com.microsoft::QuickGelu")),
        "{without:?}"
    );
}

#[test]
fn versions_are_checked() {
    let g = || graph(x(&["1"]), vec![], vec![node("Nope", &["x"], &["y"], vec![])], &["y"]);
    for v in [-1, 0, 29, i64::MAX] {
        let p = problems(&model(v, g()));
        assert!(
            p[0].starts_with(&format!("unsupported: opset {v}; opsets 1 to 28")),
            "{p:?}"
        );
        assert!(p[1].contains("unsupported operator `Nope`"), "{p:?}");
    }
    let mut m = model(13, g());
    m.ir_version = 15;
    assert!(problems(&m)[0].contains("IR version 15"));
    m.ir_version = 8;
    m.opset_import.clear();
    assert!(problems(&m)[0].contains("does not say which opset"));
}

#[test]
fn the_default_domain_has_two_names() {
    let mut m = model(
        13,
        graph(
            x(&["1"]),
            vec![],
            vec![node("ai.onnx::Relu", &["x"], &["y"], vec![])],
            &["y"],
        ),
    );
    m.opset_import = vec![opset("ai.onnx", 13)];
    assert_eq!(shown(&m)[0], "n_y: f32[1] = Relu(x)");
}

#[test]
fn structure_errors() {
    let p = |nodes: Vec<NodeProto>, outputs: &[&str]| problems(&model(18, graph(x(&["1"]), vec![], nodes, outputs)));
    let relu = |i: &str, o: &str| node("Relu", &[i], &[o], vec![]);
    assert!(p(vec![relu("b", "a"), relu("a", "b")], &["b"])[0].contains("its own result"));
    assert!(p(vec![relu("x", "a"), relu("x", "a")], &["a"])[0].contains("a second time"));
    let again = node("Constant", &[], &["x"], vec![int("value_int", 1)]);
    assert!(p(vec![again], &["x"])[0].contains("already defined"));
    assert!(p(vec![], &["q"])[0].contains("output `q`: value `q` is not defined"));
    assert!(p(vec![], &[])[0].contains("no outputs"));
    assert!(p(vec![], &["x", "x"])[0].contains("there twice"));
    let empty = problems(&ModelProto {
        ir_version: 8,
        ..ModelProto::default()
    });
    assert!(empty[0].contains("no graph"));
}

#[test]
fn dimensions_are_fixed_and_bounded() {
    let m = model(
        18,
        graph(
            vec![value("x", DType::F32, &["B", "seq len", "?"])],
            vec![],
            vec![node("Relu", &["x"], &["y"], vec![])],
            &["y"],
        ),
    );
    let options = |dims: &[(&str, DimBinding)]| ImportOptions {
        dims: dims.iter().map(|(n, b)| ((*n).to_owned(), *b)).collect(),
        ..ImportOptions::default()
    };
    let g = import_with(
        &m,
        &options(&[
            ("B", DimBinding::Fixed(1)),
            ("seq len", DimBinding::Range { min: 1, max: 512 }),
        ]),
    );
    let g = g.expect("imports");
    assert_eq!(g.fact(g.inputs()[0]).to_string(), "f32[1,seq_len,x_d2]");
    assert_eq!(g.symbol_range("seq_len"), (1, 512));
    let e = import_with(&m, &options(&[("Q", DimBinding::Fixed(1))])).expect_err("unknown");
    assert_eq!(
        e[0].hint.as_deref(),
        Some("the model's dynamic dimensions are B, seq_len, x_d2")
    );
}

#[test]
fn outputs_can_be_chosen() {
    let nodes = vec![
        node("Relu", &["x"], &["a"], vec![]),
        node("Nope", &["a"], &["y"], vec![]),
    ];
    let m = model(18, graph(x(&["1"]), vec![], nodes, &["y"]));
    let options = |o: &[&str]| ImportOptions {
        outputs: Some(strings(o)),
        ..ImportOptions::default()
    };
    let g = import_with(&m, &options(&["a"])).expect("the other node is not needed");
    assert_eq!(show(&g), ["n_a: f32[1] = Relu(x)", "a = a"]);
    let e = import_with(&m, &options(&["q"])).expect_err("unknown");
    assert_eq!(e[0].hint.as_deref(), Some("the model's outputs are `y`"));
}

#[test]
fn inputs_can_be_frozen() {
    let inputs = || vec![value("x", DType::F32, &["B", "2"]), value("t", DType::F32, &["B", "S"])];
    let nodes = vec![node("MatMul", &["x", "t"], &["y"], vec![])];
    let m = model(18, graph(inputs(), vec![], nodes, &["y"]));
    let frozen = |shape: &[usize], dims: &[(&str, DimBinding)]| ImportOptions {
        dims: dims.iter().map(|(n, b)| ((*n).to_owned(), *b)).collect(),
        frozen: vec![(
            "t".into(),
            Tensor::f32(shape, (0..shape.iter().product::<usize>()).map(|i| i as f32)),
        )],
        ..ImportOptions::default()
    };
    // `B` is 2 for both inputs, and only one of them is left.
    let g = import_with(&m, &frozen(&[2, 3], &[])).expect("imports");
    assert_eq!(g.inputs().len(), 1);
    assert_eq!(g.fact(g.inputs()[0]).to_string(), "f32[2,2]");
    let bounds = ("B", DimBinding::Range { min: 3, max: 4 });
    let e = import_with(&m, &frozen(&[2, 3], &[bounds])).expect_err("contradicts");
    assert!(e[0].message.contains("B = 2"), "{e:?}");
    let e = import_with(&m, &frozen(&[2], &[])).expect_err("another rank");
    assert!(e[0].message.contains("is to be frozen as is f32[2]"), "{e:?}");
    let unknown = ImportOptions {
        frozen: vec![("q".into(), Tensor::f32(&[], [0.0]))],
        ..ImportOptions::default()
    };
    let e = import_with(&m, &unknown).expect_err("unknown");
    assert_eq!(e[0].hint.as_deref(), Some("the model's inputs are `x`, `t`"));
}

#[test]
fn functions_are_inlined() {
    let mut m = model(
        18,
        graph(
            x(&["2", "3"]),
            vec![],
            vec![
                node("local::Outer", &["x"], &["a"], vec![int("which", 1)]),
                node("local::Outer", &["a"], &["y"], vec![]),
            ],
            &["y"],
        ),
    );
    let mut outer = function(
        "Outer",
        &["p", "left_out"],
        &["r"],
        vec![
            node("Relu", &["p"], &["q"], vec![]),
            node(
                "local::Inner",
                &["q", "left_out"],
                &["r"],
                vec![reference("axis", "which", attribute_type::INT)],
            ),
        ],
    );
    outer.attribute_proto = vec![int("which", 0)];
    let mut inner = function(
        "Inner",
        &["p", "other"],
        &["r"],
        vec![node(
            "Softmax",
            &["p"],
            &["r"],
            vec![reference("axis", "axis", attribute_type::INT)],
        )],
    );
    inner.attribute = strings(&["axis"]);
    m.functions = vec![outer, inner];
    m.opset_import.push(opset("local", 1));
    let g = import(&m).expect("imports");
    assert_eq!(
        show(&g),
        [
            "n_a/n_q: f32[2,3] = Relu(x)",
            "n_a/n_r/n_r: f32[2,3] = Softmax(q)",
            "n_y/n_q: f32[2,3] = Relu(a)",
            "n_y/n_r/n_r: f32[2,3] = Softmax(q)",
            "y = y"
        ]
    );
    let axes: Vec<i64> = g
        .order()
        .into_iter()
        .filter(|n| g.node(*n).op == "Softmax")
        .filter_map(|n| g.with_cx(n, |cx| cx.int("axis").ok()))
        .collect();
    assert_eq!(axes, [1, 0], "given, then the default");
}

#[test]
fn functions_are_bounded() {
    let one = || {
        graph(
            x(&["1"]),
            vec![],
            vec![node("local::F0", &["x"], &["y"], vec![])],
            &["y"],
        )
    };
    let twice = |next: &str| vec![node(next, &["p"], &["q"], vec![]), node(next, &["q"], &["r"], vec![])];
    let mut m = model(18, one());
    m.functions = vec![function("F0", &["p"], &["r"], twice("local::F0"))];
    assert!(problems(&m)[0].contains("function `F0` calls itself"));
    // Doubles forty times.
    m.functions = (0..40)
        .map(|i| function(&format!("F{i}"), &["p"], &["r"], twice(&format!("local::F{}", i + 1))))
        .collect();
    m.functions.push(function("F40", &["p"], &["r"], twice("Relu")));
    let p = problems(&m);
    assert!(p.iter().any(|p| p.contains("too many nodes")), "{p:?}");
    // A chain deeper than the limit.
    m.functions = (0..100)
        .map(|i| {
            let next = format!("local::F{}", i + 1);
            function(
                &format!("F{i}"),
                &["p"],
                &["r"],
                vec![node(&next, &["p"], &["r"], vec![])],
            )
        })
        .collect();
    assert!(problems(&m)[0].contains("nested deeper than 64"));
}

#[test]
fn problems_in_functions_name_the_call() {
    let mut m = model(
        18,
        graph(
            x(&["1"]),
            vec![],
            vec![node("local::F", &["x"], &["y"], vec![])],
            &["y"],
        ),
    );
    m.functions = vec![function(
        "F",
        &["p"],
        &["r"],
        vec![node("Nope", &["p"], &["r"], vec![])],
    )];
    assert!(problems(&m)[0].starts_with("unsupported: node `n_y/n_r` (Nope, opset 18)"));
    m.functions[0].input.clear();
    assert!(problems(&m)[0].contains("1 inputs given, function `F` has 0"));
}

#[test]
fn old_opsets_are_raised() {
    let g = graph(
        x(&["B", "4"]),
        vec![],
        vec![
            node("Unsqueeze", &["x"], &["a"], vec![ints("axes", &[0])]),
            node(
                "ReduceSum",
                &["a"],
                &["b"],
                vec![ints("axes", &[0]), int("keepdims", 0)],
            ),
            node("Softmax", &["b"], &["c"], vec![]),
            node("Clip", &["c"], &["d"], vec![float("min", 0.0)]),
            node(
                "Slice",
                &["d"],
                &["y"],
                vec![ints("starts", &[1]), ints("ends", &[3]), ints("axes", &[1])],
            ),
        ],
        &["y"],
    );
    assert_eq!(
        shown(&model(7, g)),
        [
            "n_a: f32[1,B,4] = Unsqueeze(x, [0])",
            "n_b: f32[B,4] = ReduceSum(a, [0])",
            "n_c: f32[B,4] = Softmax(b)",
            "n_d: f32[B,4] = Clip(c, [0])",
            "n_y: f32[B,2] = Slice(d, [1], [3], [1])",
            "y = y"
        ]
    );
}

#[test]
fn external_data_is_mapped() {
    let dir = tempfile::tempdir().expect("folder");
    let mut file = vec![0u8; 8];
    file.extend([1.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()));
    std::fs::write(dir.path().join("w.bin"), file).expect("write");
    let m = |entries: &[(&str, &str)]| {
        let weights = vec![external("w", &[2], entries)];
        model(
            18,
            graph(
                x(&["2"]),
                weights,
                vec![node("Add", &["x", "w"], &["y"], vec![])],
                &["y"],
            ),
        )
    };
    let path = dir.path().join("m.onnx");
    let import = |m: ModelProto| {
        std::fs::write(&path, m.encode_to_vec()).expect("write");
        cameo_onnx::import(&path, &ImportOptions::default())
    };
    let good = [("location", "w.bin"), ("offset", "8"), ("length", "8")];
    assert_eq!(
        show(&import(m(&good)).expect("imports"))[0],
        "n_y: f32[2] = Add(x, [1, 2])"
    );
    let p = import(m(&[("location", "../w.bin")])).expect_err("leaves");
    assert_eq!(p[0].kind, ProblemKind::Invalid);
    assert!(p[0].message.starts_with("initializer `w`: external data"), "{}", p[0]);
    let p = import(m(&[("location", "w.bin")])).expect_err("too long");
    assert!(p[0].message.contains("need 8 bytes, the data has 16"), "{}", p[0]);
    let p = cameo_onnx::import(&dir.path().join("absent"), &ImportOptions::default()).expect_err("absent");
    assert_eq!(p[0].kind, ProblemKind::Io);
    assert_eq!(problems(&m(&good)).len(), 1, "no folder, no external data");
}

/// Protobuf libraries that count in 32 bits refuse such files.
#[test]
#[cfg(target_pointer_width = "64")]
fn files_over_two_gigabytes() {
    use prost::encoding::encode_varint;
    use std::io::{Seek, SeekFrom, Write};
    let elements = 600u64 << 20;
    let bytes = elements * 4;
    let field = |tag: u8, length: u64| {
        let mut key = vec![tag << 3 | 2];
        encode_varint(length, &mut key);
        key
    };
    let mut header = f32s("w", &[0], &[]);
    header.dims = vec![elements as i64];
    let mut header = header.encode_to_vec();
    header.extend(field(9, bytes));
    let tensor = header.len() as u64 + bytes;
    let rest = graph(
        x(&["1"]),
        vec![],
        vec![node("Add", &["x", "w"], &["y"], vec![])],
        &["y"],
    )
    .encode_to_vec();
    let mut start = model(18, GraphProto::default());
    start.graph = None;
    let mut start = start.encode_to_vec();
    let key = field(5, tensor);
    start.extend(field(7, rest.len() as u64 + key.len() as u64 + tensor));
    start.extend(rest);
    start.extend(key);
    start.extend(header);
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("large.onnx");
    // The weights are a hole in the file: nothing of that size is written or read.
    let mut file = std::fs::File::create(&path).expect("create");
    file.write_all(&start).expect("write");
    file.set_len(start.len() as u64 + bytes).expect("extend");
    file.seek(SeekFrom::End(-4)).expect("seek");
    file.write_all(&7.0f32.to_le_bytes()).expect("write");
    let g = cameo_onnx::import(&path, &ImportOptions::default()).expect("imports");
    let w = g.value_ids().find_map(|v| g.constant(v)).expect("weight");
    assert_eq!(w.len() as u64, elements);
    assert_eq!(w.bytes()[bytes as usize - 4..], 7.0f32.to_le_bytes());
}

#[test]
fn symbolic_shapes_cannot_explode() {
    // Each node squares the shape's length: (B+1)^(2^n).
    let mut nodes = vec![
        node("Shape", &["x"], &["s0"], vec![]),
        node("Add", &["s0", "one"], &["s1"], vec![]),
    ];
    for i in 1..40 {
        let (a, b) = (format!("s{i}"), format!("s{}", i + 1));
        nodes.push(node("Mul", &[&a, &a], &[&b], vec![]));
    }
    let m = model(18, graph(x(&["B"]), vec![i64s("one", &[1])], nodes, &["s40"]));
    // Formulas end where a factor would not fit: the run computes the rest, which wraps around.
    let g = import(&m).expect("imports");
    let known = |name: &str| {
        let found = g.value_ids().find(|v| *g.value(*v).name == *name).expect("is there");
        g.fact(found).known.is_some()
    };
    assert!(known("s4") && !known("s8") && !known("s40"));
    // 64 sums, of which one operator would compute the product.
    let sums: Vec<i64> = (1..=64).collect();
    let nodes = vec![
        node("Shape", &["x"], &["s"], vec![]),
        node("Add", &["s", "many"], &["t"], vec![]),
        node("Reshape", &["x", "t"], &["y"], vec![]),
    ];
    let p = problems(&model(18, graph(x(&["B"]), vec![i64s("many", &sums)], nodes, &["y"])));
    assert!(p[0].contains("too complex"), "{p:?}");
}

#[test]
fn arithmetic_on_shapes_cannot_overflow() {
    let numbers = [i64::MIN, i64::MAX, -1, 0, 1, 7];
    for op in [
        "Add", "Sub", "Mul", "Div", "Mod", "Pow", "Max", "Min", "Range", "BitShift",
    ] {
        for a in numbers {
            for b in numbers {
                let scalar = |v| weight("", &Tensor::i64(&[], [v]));
                let constant = |name: &str, v| node("Constant", &[], &[name], vec![tensor_attr("value", scalar(v))]);
                let inputs: &[&str] = if op == "Range" { &["a", "b", "b"] } else { &["a", "b"] };
                let nodes = vec![
                    constant("a", a),
                    constant("b", b),
                    node("Shape", &["x"], &["s"], vec![]),
                    node(op, inputs, &["y"], vec![]),
                    node(op, &["s", "b", "b"][..inputs.len()], &["z"], vec![]),
                    node("Neg", &["y"], &["n"], vec![]),
                    node("Abs", &["y"], &["p"], vec![]),
                    node("CumSum", &["s", "b"], &["c"], vec![]),
                    node("ReduceProd", &["s"], &["r"], vec![]),
                ];
                // Graph or problems; what counts is to come back.
                let outputs = ["y", "z", "n", "p", "c", "r"];
                let _ = import(&model(18, graph(x(&["B", "4"]), vec![], nodes, &outputs)));
            }
        }
    }
}
