//! Models of a few kilobytes that say something huge: exponents, towers of shapes, chains, wide and deep nodes.

use cameo_ir::DType;
use cameo_onnx::proto::*;

use crate::models::*;

/// Repetitions of what would double each time: 2^48 of anything is too much.
const DOUBLINGS: usize = 48;
/// Length of chains: the call stack of a recursion per node would not hold.
const CHAIN: usize = 4000;
/// The same where the time goes with the square: saturation knows all sums of a chain, a split knows all its readers.
const SHORT: usize = CHAIN / 4;
/// Axes; what merges them goes with the third power. NumPy stopped at 32 for twenty years.
const AXES: usize = 32;

fn input() -> Vec<ValueInfoProto> {
    vec![value("v0", DType::F32, &["B", "8", "8"])]
}

/// `v1 = step(v0)`, `v2 = step(v1)`, …; `step` gets the index, the operand and the result.
fn repeat(
    name: &'static str,
    times: usize,
    weights: Vec<TensorProto>,
    step: impl Fn(usize, &str, &str) -> Vec<NodeProto>,
) -> (&'static str, ModelProto) {
    let nodes = (0..times).flat_map(|i| step(i, &format!("v{i}"), &format!("v{}", i + 1)));
    let g = graph(input(), weights, nodes.collect(), &[&format!("v{times}")]);
    (name, model(18, g))
}

/// Shape arithmetic: `n0` is the extent of the first axis; the last one is the length of the output.
fn shapes(name: &'static str, step: impl Fn(&str, &str, usize) -> Vec<NodeProto>) -> (&'static str, ModelProto) {
    let mut nodes = vec![node("Shape", &["v0"], &["n0"], vec![int("start", 0), int("end", 1)])];
    for i in 0..DOUBLINGS {
        nodes.extend(step(&format!("n{i}"), &format!("n{}", i + 1), i));
    }
    nodes.push(node("ConstantOfShape", &[&format!("n{DOUBLINGS}")], &["y"], vec![]));
    let weights = vec![i64s("one", &[1]), i64s("two", &[2]), i64s("three", &[3])];
    (name, model(18, graph(input(), weights, nodes, &["y"])))
}

/// One operator with hostile numbers, on `v0` and constants.
fn single(
    name: &'static str,
    op: &str,
    inputs: &[&str],
    weights: Vec<TensorProto>,
    attrs: Vec<AttributeProto>,
) -> (&'static str, ModelProto) {
    let nodes = vec![
        node(op, inputs, &["t"], attrs),
        node("Identity", &["t"], &["y"], vec![]),
    ];
    (name, model(18, graph(input(), weights, nodes, &["y"])))
}

/// An input whose first extent is this text.
fn extent(name: &'static str, text: &str) -> (&'static str, ModelProto) {
    let inputs = vec![value("v0", DType::F32, &[text, "4"])];
    let nodes = vec![
        node("Transpose", &["v0"], &["t"], vec![]),
        node("Relu", &["t"], &["y"], vec![]),
    ];
    (name, model(18, graph(inputs, vec![], nodes, &["y"])))
}

/// `F1` calls `F0` twice, `F2` calls `F1` twice, ….
fn functions() -> (&'static str, ModelProto) {
    let mut m = model(
        18,
        graph(
            input(),
            vec![],
            vec![node(&format!("local::F{DOUBLINGS}"), &["v0"], &["y"], vec![])],
            &["y"],
        ),
    );
    m.opset_import.push(opset("local", 1));
    m.functions.push(function(
        "F0",
        &["p"],
        &["r"],
        vec![node("Neg", &["p"], &["r"], vec![])],
    ));
    for i in 1..=DOUBLINGS {
        let op = format!("local::F{}", i - 1);
        let nodes = vec![node(&op, &["p"], &["q"], vec![]), node(&op, &["q"], &["r"], vec![])];
        m.functions.push(function(&format!("F{i}"), &["p"], &["r"], nodes));
    }
    ("functions that double", m)
}

/// Every model with its name.
pub fn models() -> Vec<(&'static str, ModelProto)> {
    const HUGE: i64 = 1 << 39;
    let binary = |op: &'static str| move |_: usize, x: &str, y: &str| vec![node(op, &[x, x], &[y], vec![])];
    let with_self = |op: &'static str, attrs: fn() -> Vec<AttributeProto>| {
        move |i: usize, x: &str, y: &str| {
            let t = format!("t{i}");
            vec![node(op, &[x], &[&t], attrs()), node("Add", &[&t, x], &[y], vec![])]
        }
    };
    let unary = |op: &'static str| move |_: usize, x: &str, y: &str| vec![node(op, &[x], &[y], vec![])];
    let constant = |op: &'static str| move |_: usize, x: &str, y: &str| vec![node(op, &[x, "w"], &[y], vec![])];
    let w = || f32s("w", &[8], &[0.5; 8]);
    let square = || f32s("w", &[8, 8], &[0.5; 64]);
    let factors = |n: usize| (0..n).map(|i| format!("(a{i} + b{i})")).collect::<Vec<_>>().join(" * ");
    let names: Vec<String> = (0..AXES).map(|i| format!("s{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let many: Vec<String> = (0..2 * SHORT).map(|i| format!("o{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let letters: String = ('a'..='z').chain('A'..='Z').collect();

    let mut all = vec![
        repeat("sums that double", DOUBLINGS, vec![], binary("Add")),
        repeat("products that double", DOUBLINGS, vec![], binary("Mul")),
        repeat("matrix products", DOUBLINGS, vec![], binary("MatMul")),
        repeat("concatenations that double", DOUBLINGS, vec![], |_, x, y| {
            vec![node("Concat", &[x, x], &[y], vec![int("axis", 1)])]
        }),
        repeat(
            "transposes and sums",
            DOUBLINGS,
            vec![],
            with_self("Transpose", || vec![ints("perm", &[0, 2, 1])]),
        ),
        repeat("exponentials and sums", DOUBLINGS, vec![], with_self("Exp", Vec::new)),
        repeat("softmaxes and sums", DOUBLINGS, vec![], with_self("Softmax", Vec::new)),
        repeat(
            "pools and sums",
            DOUBLINGS,
            vec![],
            with_self("AveragePool", || {
                vec![ints("kernel_shape", &[3]), ints("pads", &[1, 1])]
            }),
        ),
        repeat(
            "slices, concatenated",
            DOUBLINGS,
            vec![i64s("a", &[0]), i64s("b", &[4]), i64s("c", &[8]), i64s("axis", &[1])],
            |i, x, y| {
                let (s, t) = (format!("s{i}"), format!("t{i}"));
                vec![
                    node("Slice", &[x, "b", "c", "axis"], &[&s], vec![]),
                    node("Slice", &[x, "a", "b", "axis"], &[&t], vec![]),
                    node("Concat", &[&s, &t], &[y], vec![int("axis", 1)]),
                ]
            },
        ),
        repeat(
            "gathers",
            DOUBLINGS,
            vec![i64s("w", &[7, 6, 5, 4, 3, 2, 1, 0])],
            |_, x, y| vec![node("Gather", &[x, "w"], &[y], vec![int("axis", 1)])],
        ),
        repeat("a chain of Relu", CHAIN, vec![], unary("Relu")),
        repeat("a chain of Exp", CHAIN, vec![], unary("Exp")),
        repeat("a chain of Softmax", SHORT, vec![], unary("Softmax")),
        repeat("a chain of Add", SHORT, vec![w()], constant("Add")),
        repeat("a chain of Mul and Add", SHORT, vec![w()], |i, x, y| {
            vec![node(if i % 2 == 0 { "Mul" } else { "Add" }, &[x, "w"], &[y], vec![])]
        }),
        repeat("a chain of MatMul", SHORT, vec![square()], constant("MatMul")),
        repeat("a chain of Transpose", CHAIN, vec![], |_, x, y| {
            vec![node("Transpose", &[x], &[y], vec![ints("perm", &[1, 2, 0])])]
        }),
        repeat("a chain of Cast", CHAIN, vec![], |i, x, y| {
            vec![node(
                "Cast",
                &[x],
                &[y],
                vec![int("to", if i % 2 == 0 { 7 } else { 1 })],
            )]
        }),
        repeat(
            "a chain of Pad",
            SHORT,
            vec![i64s("w", &[0, 1, 0, 0, 1, 0])],
            constant("Pad"),
        ),
        shapes("extents that are squared", |x, y, _| {
            vec![node("Mul", &[x, x], &[y], vec![])]
        }),
        shapes("polynomials", |x, y, i| {
            let t = format!("t{i}");
            vec![
                node("Add", &[x, "one"], &[&t], vec![]),
                node("Mul", &[x, &t], &[y], vec![]),
            ]
        }),
        shapes("divisions in each other", |x, y, i| {
            let (s, t) = (format!("s{i}"), format!("t{i}"));
            vec![
                node("Mul", &[x, "three"], &[&s], vec![]),
                node("Add", &[&s, "one"], &[&t], vec![]),
                node("Div", &[&t, "two"], &[y], vec![]),
            ]
        }),
        shapes("divisions and sums", |x, y, i| {
            let t = format!("t{i}");
            vec![
                node("Div", &[x, "three"], &[&t], vec![]),
                node("Add", &[&t, x], &[y], vec![]),
            ]
        }),
        shapes("largest of sums", |x, y, i| {
            let (s, t) = (format!("s{i}"), format!("t{i}"));
            vec![
                node("Add", &[x, "one"], &[&s], vec![]),
                node("Div", &[x, "two"], &[&t], vec![]),
                node("Max", &[&s, &t], &[y], vec![]),
            ]
        }),
        shapes("largest and smallest of products", |x, y, i| {
            let (s, t) = (format!("s{i}"), format!("t{i}"));
            vec![
                node("Max", &[x, "three"], &[&s], vec![]),
                node("Min", &[x, "two"], &[&t], vec![]),
                node("Mul", &[&s, &t], &[y], vec![]),
            ]
        }),
        single(
            "a tensor of terabytes",
            "ConstantOfShape",
            &["w"],
            vec![i64s("w", &[HUGE])],
            vec![],
        ),
        single(
            "a tile of terabytes",
            "Tile",
            &["v0", "w"],
            vec![i64s("w", &[1, 1 << 18, 1 << 18])],
            vec![],
        ),
        single(
            "a constant tile of terabytes",
            "Tile",
            &["k", "w"],
            vec![w_named("k"), i64s("w", &[HUGE >> 3])],
            vec![],
        ),
        single(
            "an expansion of terabytes",
            "Expand",
            &["k", "w"],
            vec![w_named("k"), i64s("w", &[HUGE >> 3, 8])],
            vec![],
        ),
        single(
            "a pad of terabytes",
            "Pad",
            &["v0", "w"],
            vec![i64s("w", &[0, HUGE >> 8, 0, 0, 0, 0])],
            vec![],
        ),
        single(
            "a range",
            "Range",
            &["a", "b", "c"],
            scalars(&[("a", 0), ("b", HUGE), ("c", 1)]),
            vec![],
        ),
        single(
            "a long range",
            "Range",
            &["a", "b", "c"],
            scalars(&[("a", 0), ("b", 20_000_000), ("c", 1)]),
            vec![],
        ),
        single(
            "a large window",
            "MaxPool",
            &["v0"],
            vec![],
            vec![ints("kernel_shape", &[1 << 20]), ints("pads", &[1 << 20, 1 << 20])],
        ),
        single(
            "a large kernel",
            "Conv",
            &["v0", "w"],
            vec![f32s("w", &[1, 8, 1], &[1.0; 8])],
            vec![ints("dilations", &[i64::MAX]), ints("pads", &[HUGE, HUGE])],
        ),
        single(
            "a large neighbourhood",
            "LRN",
            &["v0"],
            vec![],
            vec![int("size", i64::MAX)],
        ),
        single(
            "many letters",
            "Einsum",
            &["v0"],
            vec![],
            vec![AttributeProto {
                s: format!("{letters}->").into_bytes().into(),
                ..text("equation", "")
            }],
        ),
        single(
            "one letter",
            "Einsum",
            &["v0", "v0", "v0", "v0", "v0"],
            vec![],
            vec![text("equation", "abc,acd,ade,aef,afg->abg")],
        ),
        extent(
            "an extent with a deep nest",
            &format!("{}S{}", "(".repeat(50_000), ")".repeat(50_000)),
        ),
        extent("an extent with many signs", &format!("{}S", "-".repeat(50_000))),
        extent("an extent with many factors", &factors(40)),
        extent("an extent with equal factors", &vec!["(a + b + c)"; 60].join(" * ")),
        extent(
            "an extent with many terms",
            &(0..5000).map(|i| format!("a{i}")).collect::<Vec<_>>().join(" + "),
        ),
        extent(
            "an extent of divisions",
            &format!("{}S{}", "(".repeat(200), " // 3 + S)".repeat(200)),
        ),
        functions(),
    ];
    // Shapes that are read through ever more reshapes.
    for (name, times) in [("reshapes and transposes", DOUBLINGS), ("a chain of them", SHORT)] {
        all.push(repeat(
            name,
            times,
            vec![i64s("a", &[0, 4, 16]), i64s("b", &[0, 16, 4])],
            |i, x, y| {
                let t = format!("t{i}");
                let to = if i % 2 == 0 { "a" } else { "b" };
                vec![
                    node("Reshape", &[x, to], &[&t], vec![]),
                    node("Transpose", &[&t], &[y], vec![ints("perm", &[0, 2, 1])]),
                ]
            },
        ));
    }
    // Each is an output: nothing is an intermediate value only.
    let steps: Vec<String> = (0..=SHORT).map(|i| format!("v{i}")).collect();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let mut nodes = vec![];
    for (i, pair) in steps.windows(2).enumerate() {
        nodes.push(node("Relu", &[pair[0]], &[pair[1]], vec![]));
        nodes.push(node(
            "ReduceSum",
            &[pair[1]],
            &[&format!("r{i}")],
            vec![int("keepdims", 0)],
        ));
    }
    let sums: Vec<String> = (0..SHORT).map(|i| format!("r{i}")).collect();
    let sums: Vec<&str> = sums.iter().map(String::as_str).collect();
    all.push(("a reduction of each", model(18, graph(input(), vec![], nodes, &sums))));
    // Constants that would be evaluated while compiling.
    let wide_weights: Vec<TensorProto> = ["c", "d", "e", "f"]
        .iter()
        .map(|n| f32s(n, &[1000], &[0.5; 1000]))
        .collect();
    let many_axes: Vec<usize> = vec![1; 4];
    let pool = vec![
        ints("kernel_shape", &[1 << 20, 1 << 20]),
        ints("pads", &[(1 << 20) - 1; 4]),
        ints("strides", &[1 << 20, 1 << 20]),
    ];
    let corner = |name: &str| f32s(name, &many_axes, &[1.0]);
    let to_zero = || node("ReduceSum", &["c"], &["s"], vec![int("keepdims", 0)]);
    let cases: Vec<(&'static str, Vec<TensorProto>, Vec<NodeProto>)> = vec![
        (
            "a sum of terabytes",
            vec![i64s("w", &[HUGE])],
            vec![node("ConstantOfShape", &["w"], &["c"], vec![]), to_zero()],
        ),
        (
            "a sum of gigabytes",
            vec![i64s("w", &[1 << 30])],
            vec![node("ConstantOfShape", &["w"], &["c"], vec![]), to_zero()],
        ),
        (
            "a sum of a constant matrix product",
            vec![i64s("w", &[4096, 4096])],
            vec![
                node("ConstantOfShape", &["w"], &["a"], vec![]),
                node("MatMul", &["a", "a"], &["c"], vec![]),
                to_zero(),
            ],
        ),
        (
            "an Einsum of constants",
            wide_weights,
            vec![node(
                "Einsum",
                &["c", "d", "e", "f"],
                &["s"],
                vec![text("equation", "a,b,c,d->")],
            )],
        ),
        (
            "a large window over a constant",
            vec![corner("a")],
            vec![node("AveragePool", &["a"], &["c"], pool), to_zero()],
        ),
        (
            "a large neighbourhood of a constant",
            vec![corner("a")],
            vec![node("LRN", &["a"], &["c"], vec![int("size", HUGE)]), to_zero()],
        ),
        (
            "a large step between constants",
            vec![corner("a")],
            vec![
                node(
                    "ConvTranspose",
                    &["a", "a"],
                    &["c"],
                    vec![
                        ints("strides", &[1 << 30, 1 << 30]),
                        ints("output_padding", &[1 << 20, 1 << 20]),
                        ints("pads", &[0, 0, 1 << 20, 1 << 20]),
                    ],
                ),
                to_zero(),
            ],
        ),
        (
            "a chain of constants",
            vec![f32s("c0", &[8], &[0.5; 8])],
            (0..CHAIN)
                .map(|i| node("Neg", &[&format!("c{i}")], &[&format!("c{}", i + 1)], vec![]))
                .chain([node(
                    "ReduceSum",
                    &[&format!("c{CHAIN}")],
                    &["s"],
                    vec![int("keepdims", 0)],
                )])
                .collect(),
        ),
        (
            "a chain of large constants",
            vec![i64s("w", &[1 << 22])],
            [node("ConstantOfShape", &["w"], &["c0"], vec![])]
                .into_iter()
                .chain((0..CHAIN).map(|i| node("Neg", &[&format!("c{i}")], &[&format!("c{}", i + 1)], vec![])))
                .chain([node(
                    "ReduceSum",
                    &[&format!("c{CHAIN}")],
                    &["s"],
                    vec![int("keepdims", 0)],
                )])
                .collect(),
        ),
    ];
    for (name, weights, mut nodes) in cases {
        nodes.push(node("Add", &["v0", "s"], &["y"], vec![]));
        all.push((name, model(18, graph(input(), weights, nodes, &["y"]))));
    }
    // Axes with a name each.
    let nodes = vec![
        node("Flatten", &["v0"], &["f"], vec![int("axis", AXES as i64 / 2)]),
        node("Relu", &["v0"], &["r"], vec![]),
        node("Add", &["r", "v0"], &["a"], vec![]),
        node("Transpose", &["a"], &["t"], vec![]),
        node("ReduceSum", &["t"], &["y"], vec![int("keepdims", 0)]),
    ];
    let axes = vec![value("v0", DType::F32, &names)];
    all.push(("many axes", model(18, graph(axes, vec![], nodes, &["f", "y"]))));
    // Two shapes of which every axis must be equal or 1.
    let nodes = vec![
        node("Add", &["v0", "u"], &["a"], vec![]),
        node("Mul", &["a", "w"], &["y"], vec![]),
    ];
    let other: Vec<String> = (0..AXES).map(|i| format!("u{i}")).collect();
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    let third: Vec<String> = (0..AXES).map(|i| format!("w{i}")).collect();
    let third: Vec<&str> = third.iter().map(String::as_str).collect();
    let axes = vec![
        value("v0", DType::F32, &names),
        value("u", DType::F32, &other),
        value("w", DType::F32, &third),
    ];
    all.push(("axes that meet", model(18, graph(axes, vec![], nodes, &["y"]))));
    let nodes = vec![
        node(
            "Split",
            &["v0"],
            &many,
            vec![int("axis", 1), int("num_outputs", 2 * SHORT as i64)],
        ),
        node("Concat", &many, &["y"], vec![int("axis", 1)]),
    ];
    let wide = vec![value("v0", DType::F32, &["B", "2000"])];
    all.push(("many pieces", model(18, graph(wide.clone(), vec![], nodes, &["y"]))));
    let mut nodes: Vec<NodeProto> = many.iter().map(|o| node("Exp", &["v0"], &[o], vec![])).collect();
    nodes.push(node("Sum", &many, &["y"], vec![]));
    all.push(("many summands", model(18, graph(wide.clone(), vec![], nodes, &["y"]))));
    let weights: Vec<TensorProto> = many
        .iter()
        .map(|o| f32s(&format!("w{o}"), &[1], &[o.len() as f32]))
        .collect();
    let nodes: Vec<NodeProto> = many
        .iter()
        .map(|o| node("Add", &["v0", &format!("w{o}")], &[o], vec![]))
        .collect();
    all.push(("many outputs", model(18, graph(wide, weights, nodes, &many))));
    all
}

fn w_named(name: &str) -> TensorProto {
    f32s(name, &[8], &[0.5; 8])
}

fn scalars(list: &[(&str, i64)]) -> Vec<TensorProto> {
    let scalar = |(name, n): &(&str, i64)| TensorProto {
        dims: vec![],
        ..i64s(name, &[*n])
    };
    list.iter().map(scalar).collect()
}
