//! Operators that the user supplies.

use cameo_ir::{Attr, DType, Tensor};
use cameo_onnx::proto::*;
use cameo_onnx::{ImportOptions, Problem};

use crate::loops::{body, looped};
use crate::models::*;

fn options(declared: &[&str]) -> ImportOptions {
    ImportOptions {
        custom_ops: declared.iter().map(|text| text.parse().expect(text)).collect(),
        ..ImportOptions::default()
    }
}

/// A model with the node `y, z = Foo(x, i)`.
fn custom(inputs: &[&str], attrs: Vec<AttributeProto>) -> ModelProto {
    let all = vec![value("x", DType::F32, &["N", "3"]), value("i", DType::I64, &["N"])];
    let custom = node("Foo", inputs, &["y", "z"], attrs);
    model(18, graph(all, vec![], vec![custom], &["y", "z"]))
}

fn messages(problems: Result<cameo_ir::Graph, Vec<Problem>>) -> Vec<String> {
    problems.expect_err("refused").iter().map(ToString::to_string).collect()
}

#[test]
fn results_are_of_the_declared_types() {
    let attrs = || vec![float("alpha", 0.5), texts("names", &["a", "b"]), ints("axes", &[1, 2])];
    let g = import_with(
        &custom(&["x", "", "i"], attrs()),
        &options(&["Foo(any, f32?, i64...) -> =2[2], =0"]),
    );
    let g = g.expect("imports");
    let facts: Vec<String> = g.outputs().iter().map(|(_, v)| g.fact(*v).to_string()).collect();
    assert_eq!(facts, ["i64[custom.foo1_0_0,custom.foo1_0_1]", "f32[N,3]"]);
    let (_, n) = g.nodes().next().expect("a node");
    assert_eq!((n.op.name(), n.inputs.len(), n.inputs[1]), ("cameo::Custom", 3, None));
    assert_eq!(n.attrs["alpha"], Attr::Float(0.5));
    assert_eq!(n.attrs["axes"], Attr::Ints(vec![1, 2]));
    assert_eq!(n.attrs["cameo.operator"], Attr::Str("Foo".into()));
    // Operands that are left out at the end keep their places.
    let g = import_with(
        &custom(&["x"], vec![]),
        &options(&["Foo(any, f32?, i64?) -> f16[0], =0"]),
    )
    .expect("imports");
    let (_, n) = g.nodes().next().expect("a node");
    assert_eq!(n.inputs.len(), 3);
}

#[test]
fn the_model_may_declare_them() {
    let mut m = custom(&["x"], vec![]);
    let g = m.graph.as_mut().expect("a graph");
    g.output[0] = value("y", DType::F16, &["N", "7", "M"]);
    g.output[1] = value("z", DType::Bool, &[]);
    let g = import_with(&m, &options(&["Foo"])).expect("imports");
    let facts: Vec<String> = g.outputs().iter().map(|(_, v)| g.fact(*v).to_string()).collect();
    assert_eq!(facts, ["f16[N,7,custom.foo1_0_2]", "bool[]"]);
}

#[test]
fn what_is_declared_wins() {
    // Over an operator that Cameo knows, and over a function of the model.
    let relu = model(
        18,
        graph(
            vec![value("x", DType::F32, &["N"])],
            vec![],
            vec![node("Relu", &["x"], &["y"], vec![])],
            &["y"],
        ),
    );
    let g = import_with(&relu, &options(&["Relu(f32) -> f32[1]"])).expect("imports");
    assert_eq!(g.nodes().next().expect("a node").1.op.name(), "cameo::Custom");
    let mut m = model(
        18,
        graph(
            vec![value("x", DType::F32, &["N"])],
            vec![],
            vec![node("local::F", &["x"], &["y"], vec![])],
            &["y"],
        ),
    );
    m.functions = vec![function("F", &["a"], &["b"], vec![node("Neg", &["a"], &["b"], vec![])])];
    m.functions[0].domain = "local".into();
    m.opset_import.push(opset("local", 1));
    let name = |o: &ImportOptions| {
        let g = import_with(&m, o).expect("imports");
        g.nodes().next().expect("a node").1.op.name()
    };
    assert_eq!(name(&options(&[])), "Neg");
    assert_eq!(name(&options(&["local::F(f32) -> =0"])), "cameo::Custom");
}

#[test]
fn what_does_not_fit_is_told() {
    let declared = options(&["Foo(f32, i64?) -> f32[1], =1"]);
    let said = |inputs: &[&str], attrs| messages(import_with(&custom(inputs, attrs), &declared)).join("\n");
    for (inputs, part) in [
        (&["x", "x"][..], "operand 1 is f32, declared is i64"),
        (&["x", "i", "i"], "3 operands given, 2 declared"),
        (&["", "i"], "operand 0 is missing"),
        (&["x"], "like operand 1, which is left out"),
    ] {
        let said = said(inputs, vec![]);
        assert!(said.contains(part), "{inputs:?}: {said}");
    }
    let table = Tensor::f32(&[1 << 15], vec![0.0; 1 << 15]);
    let attrs = vec![
        int("cameo.types", 1),
        text("mode", "a\0b"),
        tensor_attr("table", weight("", &table)),
        graph_attr("body", graph(vec![], vec![], vec![], &[])),
    ];
    let said = said(&["x", "i"], attrs);
    assert!(said.contains("attribute `body`: its value is a graph"), "{said}");
    let attrs = vec![
        int("cameo.types", 1),
        text("mode", "a\0b"),
        tensor_attr("table", weight("", &table)),
    ];
    let said = messages(import_with(&custom(&["x", "i"], attrs), &declared));
    assert_eq!(said.len(), 3, "all at once: {said:?}");
    assert!(
        said.iter()
            .any(|s| s.contains("attribute `table`") && s.contains("make it an input")),
        "{said:?}"
    );
}

#[test]
fn loops_have_no_shapes_of_their_own() {
    let times = |n: &str| {
        let mut b = body(node("Identity", &["cond"], &["going"], vec![]));
        b.node[4] = node("t::Mix", &["y", "x"], &["next"], vec![]);
        looped(b, &[n, "yes", "x"])
    };
    let told = |n: &str, op: &str| import_with(&times(n), &options(&[op]));
    let g = told("n", "t::Mix(f32, f32) -> =0").expect("imports");
    assert_eq!(g.fact(g.outputs()[0].1).to_string(), "f32[2]");
    // Of three iterations each has its own.
    assert!(told("three", "t::Mix(f32, f32) -> f32[1]").is_ok());
    let said = messages(told("n", "t::Mix(f32, f32) -> f32[1]"));
    assert!(
        said[0].contains("inside of a loop") && said[0].contains("=0"),
        "{said:?}"
    );
}

/// A grey map of one row of two pixels.
const MAP: &[u8] = b"P5 2 1 255\n\x07\xFF";

fn decoder() -> NodeProto {
    node("ImageDecoder", &["x"], &["y"], vec![text("pixel_format", "BGR")])
}

fn file(dims: &[&str]) -> ValueInfoProto {
    value("x", DType::U8, dims)
}

#[test]
fn sizes_of_images_are_names_where_a_run_reads_them() {
    let fact = |m: &ModelProto| {
        let g = import(m).expect("imports");
        g.fact(g.outputs()[0].1).to_string()
    };
    let given = model(20, graph(vec![file(&["N"])], vec![], vec![decoder()], &["y"]));
    assert_eq!(fact(&given), "u8[custom.imagedecoder1,custom.imagedecoder2,3]");
    let bytes = Tensor::from_packed(DType::U8, vec![MAP.len()], MAP.to_vec().into()).expect("bytes");
    let constant = model(20, graph(vec![], vec![weight("x", &bytes)], vec![decoder()], &["y"]));
    assert_eq!(fact(&constant), "u8[1,2,3]");
}

#[test]
fn sizes_of_images_that_no_run_can_read_before_are_refused() {
    let said = |m: &ModelProto| messages(import(m)).join("\n");
    let computed = vec![node("Abs", &["a"], &["x"], vec![]), decoder()];
    let inputs = vec![value("a", DType::U8, &["N"])];
    let computed = said(&model(20, graph(inputs, vec![], computed, &["y"])));
    assert!(
        computed.contains("must be an input of the model, outside of loops, or constant"),
        "{computed}"
    );
    let nothing = Tensor::from_packed(DType::U8, vec![3], b"abc".to_vec().into()).expect("bytes");
    let nothing = said(&model(
        20,
        graph(vec![], vec![weight("x", &nothing)], vec![decoder()], &["y"]),
    ));
    assert!(
        nothing.contains("the image cannot be decoded: it is no BMP"),
        "{nothing}"
    );
}
