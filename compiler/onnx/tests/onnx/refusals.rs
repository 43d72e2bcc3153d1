//! What is said of a node that is not supported: which attribute, element type, operator or opset it is, and what would do.

use cameo_ir::DType;
use cameo_onnx::proto::*;

use crate::models::*;

/// What is said of one node that reads `x` of that type; the place before the message is left out.
fn refused(version: i64, dtype: DType, op: &str, attrs: Vec<AttributeProto>) -> String {
    let domain = op.split_once("::").map(|(domain, _)| domain.to_owned());
    let inputs = vec![value("x", dtype, &["2", "3"])];
    let mut m = model(
        version,
        graph(inputs, vec![], vec![node(op, &["x"], &["y"], attrs)], &["y"]),
    );
    m.opset_import.extend(domain.map(|domain| opset(&domain, 1)));
    only(&m)
}

fn only(m: &ModelProto) -> String {
    let said = problems(m);
    let [line] = said.as_slice() else { panic!("{said:#?}") };
    let kind = line.split_once(": ").map_or("", |(kind, _)| kind);
    let message = line.split_once("): ").map_or(line.as_str(), |(_, message)| message);
    format!("{kind}: {message}")
}

#[test]
fn unknown_attributes() {
    assert_eq!(
        refused(20, DType::F32, "Gelu", vec![text("approximation", "tanh")]),
        "unsupported: attribute `approximation` is not supported  help: export without it, or with its default value left \
         out; known attributes of Gelu: `approximate`"
    );
    assert_eq!(
        refused(13, DType::F32, "Relu", vec![int("odd", 1)]),
        "unsupported: attribute `odd` is not supported  help: export without it, or with its default value left out; \
         known attributes of Relu: none"
    );
    // It was one until opset 12.
    assert_eq!(
        refused(13, DType::F32, "Unsqueeze", vec![ints("axes", &[0])]),
        "unsupported: attribute `axes` is not supported: it is an input in this opset  help: the model may say a newer \
         opset than the one it was written in"
    );
}

#[test]
fn unknown_values_of_attributes() {
    assert_eq!(
        refused(20, DType::F32, "Gelu", vec![text("approximate", "erf")]),
        "unsupported: attribute `approximate` is `erf`, it can be `none` or `tanh`"
    );
    let lstm = |attrs| {
        let weights = vec![f32s("w", &[1, 16, 3], &[0.0; 48]), f32s("r", &[1, 16, 4], &[0.0; 64])];
        let nodes = vec![node("LSTM", &["x", "w", "r"], &["y"], attrs)];
        only(&model(
            14,
            graph(vec![value("x", DType::F32, &["S", "2", "3"])], weights, nodes, &["y"]),
        ))
    };
    assert_eq!(
        lstm(vec![int("hidden_size", 4), text("direction", "backward")]),
        "unsupported: attribute `direction` is `backward`, it can be `forward`, `reverse` or `bidirectional`"
    );
    let activations = lstm(vec![texts("activations", &["Sigmoid", "Tanh", "Gelu"])]);
    assert!(
        activations.starts_with("unsupported: attribute `activations` has `Gelu`, it can have Relu, Tanh, Sigmoid"),
        "{activations}"
    );
    let packed = |attrs| refused(18, DType::F32, "com.microsoft::MatMulNBits", attrs);
    let missing = packed(vec![int("K", 3), int("N", 2), int("block_size", 16)]);
    assert_eq!(missing, "invalid: input 1 (B) is missing");
    // The empty text stands for the default.
    let conv = |pad| {
        let weights = vec![f32s("w", &[1, 1, 1], &[2.0])];
        let nodes = vec![node("Conv", &["x", "w"], &["y"], vec![text("auto_pad", pad)])];
        model(
            13,
            graph(vec![value("x", DType::F32, &["N", "1", "4"])], weights, nodes, &["y"]),
        )
    };
    assert!(import(&conv("")).is_ok());
    assert_eq!(
        only(&conv("SAME")),
        "unsupported: attribute `auto_pad` is `SAME`, it can be `NOTSET`, `SAME_UPPER`, `SAME_LOWER` or `VALID`"
    );
}

#[test]
fn attributes_of_the_wrong_type() {
    assert_eq!(
        refused(13, DType::F32, "Concat", vec![float("axis", 1.0)]),
        "invalid: attribute `axis`: it must be an integer, not a float"
    );
    assert_eq!(
        refused(20, DType::F32, "Gelu", vec![int("approximate", 1)]),
        "invalid: attribute `approximate`: it must be a text, not an integer"
    );
    // Also where it becomes an input.
    assert_eq!(
        refused(11, DType::F32, "Unsqueeze", vec![int("axes", 0)]),
        "invalid: attribute `axes`: it must be a list of integers, not an integer"
    );
    assert_eq!(
        refused(13, DType::F32, "Concat", vec![]),
        "invalid: attribute `axis` is missing"
    );
    let body = graph(vec![], vec![], vec![], &[]);
    assert_eq!(
        refused(13, DType::F32, "Softmax", vec![graph_attr("axis", body)]),
        "unsupported: attribute `axis`: its value is a graph"
    );
}

#[test]
fn element_types() {
    assert_eq!(
        refused(13, DType::I32, "Exp", vec![]),
        "unsupported: input 0 (X) is i32, it can be f32, f16, f64 or bf16"
    );
    assert_eq!(
        refused(13, DType::F32, "Not", vec![]),
        "unsupported: input 0 (X) is f32, it can be bool"
    );
    let inputs = || vec![value("a", DType::F32, &["2", "2"]), value("b", DType::F16, &["2", "2"])];
    let nodes = vec![node("MatMul", &["a", "b"], &["y"], vec![])];
    assert_eq!(
        only(&model(13, graph(inputs(), vec![], nodes, &["y"]))),
        "invalid: input 1 (B) is f16, input 0 (A) is f32: they must be of one type"
    );
    let nodes = vec![node("Gather", &["a", "b"], &["y"], vec![])];
    assert_eq!(
        only(&model(13, graph(inputs(), vec![], nodes, &["y"]))),
        "unsupported: input 1 (indices) is f16, it can be i32 or i64"
    );
    // Of types that Cameo does not have at all, inputs of the model are named.
    let mut complex = value("words", DType::F32, &["2"]);
    if let Some(TypeProto {
        value: Some(TypeValue::Tensor(t)),
        ..
    }) = &mut complex.r#type
    {
        t.elem_type = 14;
    }
    let m = model(
        13,
        graph(
            vec![complex],
            vec![],
            vec![node("Identity", &["words"], &["y"], vec![])],
            &["y"],
        ),
    );
    let said = problems(&m);
    assert!(
        said[0].starts_with("unsupported: input `words`: element type complex64 is not supported"),
        "{said:?}"
    );
}

#[test]
fn unknown_operators() {
    let near = |op| refused(13, DType::F32, op, vec![]);
    assert_eq!(
        near("MatMull"),
        "unsupported: unsupported operator `MatMull`  help: did you mean `MatMul`?"
    );
    assert_eq!(
        near("com.microsoft::Relu"),
        "unsupported: unsupported operator `com.microsoft::Relu`  help: did you mean `Relu`?"
    );
    assert_eq!(
        near("FastGelu"),
        "unsupported: unsupported operator `FastGelu`  help: did you mean `com.microsoft::FastGelu`?"
    );
    assert_eq!(
        near("my.company::Relu2"),
        "unsupported: unsupported operator `my.company::Relu2`: its domain `my.company` is not known  help: known are \
         `ai.onnx`, `ai.onnx.ml`, `ai.onnx.preview`, `ai.onnx.preview.training`, `com.microsoft`; export without it, add it \
         to the model as a function, or supply a kernel (`--custom-op`)"
    );
    let far = near("Nope");
    assert!(
        far.starts_with("unsupported: unsupported operator `Nope`  help: export with operators of the support table"),
        "{far}"
    );
}

#[test]
fn opsets_that_are_too_old_or_too_new() {
    let at = |version| {
        problems(&model(
            version,
            graph(vec![value("x", DType::F32, &["2"])], vec![], vec![], &["x"]),
        ))
    };
    assert_eq!(
        at(0),
        [
            "unsupported: opset 0; opsets 1 to 28 are supported  help: convert the model: \
          `onnx.version_converter.convert_version(model, 21)`"
        ]
    );
    assert_eq!(
        at(29),
        ["unsupported: opset 29; opsets 1 to 28 are supported  help: export with opset 28 or an older one"]
    );
    assert_eq!(
        refused(13, DType::F32, "Upsample", vec![floats("scales", &[1.0, 2.0])]),
        "unsupported: unsupported operator `Upsample`: opset 9 is the last one that has it  help: since then it is `Resize`"
    );
    let nodes = vec![node("ai.onnx.ml::Binarizer", &["x"], &["y"], vec![])];
    let mut m = model(
        18,
        graph(vec![value("x", DType::F32, &["2", "3"])], vec![], nodes, &["y"]),
    );
    m.opset_import.push(opset("ai.onnx.ml", 6));
    assert_eq!(
        only(&m),
        "unsupported: opset 6 of domain `ai.onnx.ml`; opsets 1 to 5 are supported  help: export with one of these versions"
    );
    m.opset_import[1].version = 5;
    assert!(import(&m).is_ok());
}

/// ONNX Runtime writes some operators into models of opsets before the one that brought them.
#[test]
fn operators_may_be_newer_than_the_opset() {
    let nodes = vec![node("LayerNormalization", &["x", "w"], &["y"], vec![])];
    let weights = vec![f32s("w", &[3], &[1.0; 3])];
    let m = model(
        11,
        graph(vec![value("x", DType::F32, &["N", "3"])], weights, nodes, &["y"]),
    );
    assert!(import(&m).is_ok());
}
