//! What becomes of an `If`.

use cameo_ir::{DType, Tensor};
use cameo_onnx::proto::*;

use crate::import::{shown, x};
use crate::models::*;

fn branches(condition: Vec<NodeProto>) -> ModelProto {
    let yes = graph(
        vec![],
        vec![f32s("w", &[1], &[2.0])],
        vec![node("Add", &["x", "w"], &["r"], vec![])],
        &["r"],
    );
    let no = graph(vec![], vec![], vec![node("Nope", &["x"], &["r"], vec![])], &["r"]);
    let mut nodes = condition;
    nodes.push(node(
        "If",
        &["c"],
        &["y"],
        vec![graph_attr("then_branch", yes), graph_attr("else_branch", no)],
    ));
    model(18, graph(x(&["B"]), vec![], nodes, &["y"]))
}

#[test]
fn known_branches_are_inlined() {
    let truth = tensor_attr("value", weight("", &Tensor::bool(&[], [true])));
    let m = branches(vec![node("Constant", &[], &["c"], vec![truth])]);
    assert_eq!(shown(&m), ["n_y/n_r: f32[B] = Add(x, [2])", "y = y"]);
}

#[test]
fn unknown_branches_are_reported_with_what_is_inside() {
    let lie = tensor_attr("value", weight("", &Tensor::bool(&[], [false])));
    let p = problems(&branches(vec![node("Constant", &[], &["c"], vec![lie])]));
    assert!(p.len() == 1 && p[0].contains("node `n_y/n_r` (Nope"), "{p:?}");
    let mut m = branches(vec![]);
    if let Some(g) = &mut m.graph {
        g.input.push(value("c", DType::Bool, &[]));
    }
    let p = problems(&m);
    assert!(p.len() == 1 && p[0].contains("node `n_y/n_r` (Nope"), "{p:?}");
}

#[test]
fn branches_that_data_decides() {
    let branch = |op: &str, inputs: &[&str]| {
        let weights = vec![f32s("w", &[1], &[2.0])];
        graph(vec![], weights, vec![node(op, inputs, &["r"], vec![])], &["r"])
    };
    let with = |no: GraphProto, condition: &str| {
        let yes = branch("Add", &["x", "w"]);
        let attrs = vec![graph_attr("then_branch", yes), graph_attr("else_branch", no)];
        let mut inputs = x(&["B"]);
        inputs.push(value("c", DType::Bool, &[]));
        model(
            18,
            graph(
                inputs,
                vec![],
                vec![
                    node("ReduceMax", &["x"], &["most"], vec![int("keepdims", 0)]),
                    node("Cast", &["most"], &["data"], vec![int("to", 9)]),
                    node("If", &[condition], &["y"], attrs),
                ],
                &["y"],
            ),
        )
    };
    let loops = shown(&with(branch("Identity", &["x"]), "data"));
    assert_eq!(
        loops.iter().filter(|l| l.contains("cameo::Scan")).count(),
        2,
        "{loops:?}"
    );
    // An input of the model decides before anything is sized.
    let loops = shown(&with(branch("Identity", &["w"]), "c"));
    assert!(loops.iter().any(|l| l.contains("element.c_0")), "{loops:?}");
    // Of different extents, each with room for the larger one; what is there is counted.
    let loops = shown(&with(branch("Identity", &["w"]), "data"));
    assert!(
        loops.iter().any(|l| l.contains("f32[count.number3] = cameo::Cut")),
        "{loops:?}"
    );
    let p = problems(&with(branch("Size", &["x"]), "data"));
    assert!(
        p.len() == 1 && p[0].contains("`y` is f32[B] of one branch and i64[] of the other"),
        "{p:?}"
    );
}

#[test]
fn branches_whose_ranks_data_decides() {
    let branch = |op: &str, inputs: &[&str]| {
        let one = weight("one", &Tensor::i64(&[1], [1]));
        graph(vec![], vec![one], vec![node(op, inputs, &["r"], vec![])], &["r"])
    };
    let with = |after: Vec<NodeProto>| {
        let (yes, no) = (branch("Neg", &["most"]), branch("Reshape", &["most", "one"]));
        let attrs = vec![graph_attr("then_branch", yes), graph_attr("else_branch", no)];
        let nodes = vec![
            node("ReduceMax", &["x"], &["most"], vec![int("keepdims", 0)]),
            node("Cast", &["most"], &["data"], vec![int("to", 9)]),
            node("If", &["data"], &["v"], attrs),
        ];
        let nodes = nodes.into_iter().chain(after).collect();
        model(15, graph(x(&["B"]), vec![], nodes, &["y"]))
    };
    // What broadcasts to more axes gives the same for both.
    let seen = shown(&with(vec![
        node("Exp", &["v"], &["e"], vec![]),
        node("Mul", &["e", "v"], &["m"], vec![]),
        node("Add", &["m", "x"], &["y"], vec![]),
    ]));
    assert!(seen.iter().any(|l| l.contains("f32[B] = Add")), "{seen:?}");
    let cases = [
        vec![node("Shape", &["v"], &["y"], vec![])],
        vec![node("Identity", &["v"], &["y"], vec![])],
        vec![node("Mul", &["v", "most"], &["y"], vec![])],
        // Told a type or a bound, not a shape.
        vec![node("CastLike", &["v", "x"], &["y"], vec![])],
        vec![node("Clip", &["v", "most"], &["y"], vec![])],
    ];
    for after in cases {
        let op = after[0].op_type.clone();
        let p = problems(&with(after));
        let named = p
            .iter()
            .any(|p| p.contains("is of one rank from one branch of an `If`"));
        assert!(p.len() == 1 && named, "{op}: {p:?}");
    }
    // A condition of a loop is not taken for none.
    let truth = branch("Identity", &["lt"]);
    let attrs = vec![
        graph_attr("then_branch", truth),
        graph_attr("else_branch", branch("Reshape", &["lt", "one"])),
    ];
    let nodes = vec![
        node("Cast", &["s"], &["lt"], vec![int("to", 9)]),
        node("If", &["data"], &["goes"], attrs),
        node("Add", &["s", "s"], &["next"], vec![]),
    ];
    let formals = vec![
        value("i", DType::I64, &[]),
        value("c", DType::Bool, &[]),
        value("s", DType::F32, &[]),
    ];
    let body = graph(formals, vec![], nodes, &["goes", "next"]);
    let (trips, yes) = (
        weight("trips", &Tensor::i64(&[], [3])),
        weight("yes", &Tensor::bool(&[], [true])),
    );
    let nodes = vec![
        node("ReduceMax", &["x"], &["most"], vec![int("keepdims", 0)]),
        node("Cast", &["most"], &["data"], vec![int("to", 9)]),
        node(
            "Loop",
            &["trips", "yes", "most"],
            &["last"],
            vec![graph_attr("body", body)],
        ),
        node("Add", &["last", "x"], &["y"], vec![]),
    ];
    let p = problems(&model(15, graph(x(&["B"]), vec![trips, yes], nodes, &["y"])));
    assert!(
        p.iter()
            .any(|p| p.contains("is of one rank from one branch of an `If`")),
        "{p:?}"
    );
}
