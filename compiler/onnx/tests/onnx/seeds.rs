//! Random numbers and the models that fuzzing starts from.

use cameo_ir::DType;
use cameo_ir::op::Arity;
use cameo_onnx::proto::*;

use crate::models::*;

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `n`; 0 when there is nothing below.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// A number that finds mistakes.
    pub fn hostile(&mut self) -> i64 {
        const ODD: [i64; 22] = [
            0,
            1,
            2,
            -1,
            -2,
            3,
            4,
            7,
            8,
            64,
            65,
            1 << 16,
            (1 << 31) - 1,
            1 << 31,
            1 << 32,
            1 << 40,
            1 << 62,
            i64::MAX,
            i64::MIN,
            i64::MAX - 1,
            i64::MIN + 1,
            -(1 << 31),
        ];
        if self.below(4) == 0 {
            self.next() as i64 >> self.below(64)
        } else {
            ODD[self.below(ODD.len())]
        }
    }
}

/// Models that between them use every kind of message and many kinds of operators.
pub fn seeds() -> Vec<ModelProto> {
    let image = || vec![value("x", DType::F32, &["B", "3", "H", "8"])];
    let conv = model(
        12,
        graph(
            image(),
            vec![f32s("w", &[4, 3, 3, 3], &[0.5; 108]), f32s("s", &[4], &[1.0; 4])],
            vec![
                node(
                    "Conv",
                    &["x", "w"],
                    &["a"],
                    vec![ints("pads", &[1; 4]), ints("strides", &[2, 2])],
                ),
                node(
                    "BatchNormalization",
                    &["a", "s", "s", "s", "s"],
                    &["b"],
                    vec![float("epsilon", 1e-5)],
                ),
                node("Clip", &["b", "", "six"], &["c"], vec![]),
                node("MaxPool", &["c"], &["d"], vec![ints("kernel_shape", &[2, 2])]),
                node("Pad", &["d", "pads"], &["e"], vec![]),
                node("Resize", &["e", "none", "scales"], &["f"], vec![text("mode", "linear")]),
                node("GlobalAveragePool", &["f"], &["g"], vec![]),
                node("Flatten", &["g"], &["h"], vec![]),
                node("Gemm", &["h", "m"], &["i"], vec![int("transB", 1), float("alpha", 2.0)]),
                node("Softmax", &["i"], &["y"], vec![int("axis", 0)]),
            ],
            &["y"],
        ),
    );
    let mut conv = conv;
    if let Some(g) = &mut conv.graph {
        g.initializer.extend([
            f32s("six", &[], &[6.0]),
            i64s("pads", &[0, 0, 1, 1, 0, 0, 1, 1]),
            f32s("none", &[0], &[]),
            f32s("scales", &[4], &[1.0, 1.0, 2.0, 2.0]),
            f32s("m", &[2, 4], &[0.1; 8]),
        ]);
    }
    let shapes = model(
        18,
        graph(
            vec![
                value("x", DType::F32, &["B", "S", "12"]),
                value("ids", DType::I64, &["B", "past + S"]),
                value("past", DType::F32, &["past", "S"]),
            ],
            vec![
                i64s("axes", &[0]),
                i64s("zero", &[0]),
                i64s("one", &[1]),
                i64s("tail", &[3, -1]),
                f32s("table", &[5, 6], &[0.25; 30]),
            ],
            vec![
                node("Shape", &["x"], &["s"], vec![]),
                node("Slice", &["s", "zero", "one"], &["b"], vec![]),
                node("Gather", &["s", "one"], &["n"], vec![int("axis", 0)]),
                node("Mul", &["b", "n"], &["bn"], vec![]),
                node("Div", &["bn", "n"], &["q"], vec![]),
                node("Concat", &["q", "tail"], &["to"], vec![int("axis", 0)]),
                node("Reshape", &["x", "to"], &["r"], vec![]),
                node("Transpose", &["r"], &["t"], vec![ints("perm", &[1, 0, 2])]),
                node("Expand", &["one", "n"], &["ones"], vec![]),
                node(
                    "ConstantOfShape",
                    &["b"],
                    &["fill"],
                    vec![tensor_attr("value", f32s("", &[1], &[2.0]))],
                ),
                node("Gather", &["table", "ids"], &["e"], vec![]),
                node("ReduceMean", &["e", "axes"], &["m"], vec![int("keepdims", 0)]),
                node("Split", &["t"], &["p1", "p2", "p3"], vec![int("num_outputs", 3)]),
                node("Cast", &["p1"], &["h"], vec![int("to", 10)]),
                node("Where", &["cond", "t", "t"], &["w"], vec![]),
                node("Unsqueeze", &["w", "axes"], &["u"], vec![]),
                node("Squeeze", &["u", "axes"], &["v"], vec![]),
                node("Tile", &["fill", "one"], &["tiled"], vec![]),
                node("ArgMax", &["v"], &["k"], vec![int("axis", 1)]),
                node("MatMul", &["v", "tv"], &["mm"], vec![]),
                node("Transpose", &["v"], &["tv"], vec![ints("perm", &[0, 2, 1])]),
                node(
                    "Constant",
                    &[],
                    &["cond"],
                    vec![tensor_attr("value", weight("", &cameo_ir::Tensor::bool(&[1], [true])))],
                ),
                node("LayerNormalization", &["mm", "g"], &["ln"], vec![int("axis", -1)]),
                node("Constant", &[], &["g"], vec![floats("value_floats", &[1.0])]),
            ],
            &["ones", "m", "h", "tiled", "k", "ln", "p2"],
        ),
    );
    let mut structure = model(
        17,
        graph(
            vec![value("x", DType::F32, &["2", "?"])],
            vec![external(
                "ext",
                &[1],
                &[("location", "w.bin"), ("offset", "4"), ("length", "4")],
            )],
            vec![
                node("local::F", &["x"], &["a"], vec![float("slope", 0.5)]),
                node("local::F", &["a", "ext"], &["b"], vec![]),
                node(
                    "Constant",
                    &[],
                    &["c"],
                    vec![tensor_attr("value", weight("", &cameo_ir::Tensor::bool(&[], [false])))],
                ),
                node(
                    "If",
                    &["c"],
                    &["y"],
                    vec![
                        graph_attr(
                            "then_branch",
                            graph(vec![], vec![], vec![node("Relu", &["b"], &["r"], vec![])], &["r"]),
                        ),
                        graph_attr(
                            "else_branch",
                            graph(
                                vec![],
                                vec![f32s("w", &[1], &[2.0])],
                                vec![node("Add", &["b", "w"], &["r"], vec![])],
                                &["r"],
                            ),
                        ),
                    ],
                ),
                node("Add", &["y", "sp"], &["z"], vec![]),
            ],
            &["z"],
        ),
    );
    if let Some(g) = &mut structure.graph {
        g.sparse_initializer = vec![sparse("sp", &[2, 1], &[1], &[3.0])];
    }
    let mut f = function(
        "F",
        &["p", "q"],
        &["r"],
        vec![
            node(
                "LeakyRelu",
                &["p"],
                &["l"],
                vec![reference("alpha", "slope", attribute_type::FLOAT)],
            ),
            node("local::G", &["l"], &["r"], vec![]),
        ],
    );
    f.attribute_proto = vec![float("slope", 0.25)];
    structure.functions = vec![
        f,
        function("G", &["p"], &["r"], vec![node("Neg", &["p"], &["r"], vec![])]),
    ];
    structure.opset_import.push(opset("local", 1));
    let row = graph(
        vec![value("s", DType::F32, &["3"]), value("e", DType::F32, &["3"])],
        vec![],
        vec![node("Add", &["s", "e"], &["t"], vec![])],
        &["t", "t"],
    );
    let step = graph(
        vec![
            value("i", DType::I64, &[]),
            value("cond", DType::Bool, &[]),
            value("h", DType::F32, &["3"]),
        ],
        vec![f32s("w", &[3], &[1.0, 2.0, 3.0])],
        vec![
            node("Gather", &["x", "i"], &["row"], vec![int("axis", 0)]),
            node("Mul", &["row", "w"], &["p"], vec![]),
            node("Sub", &["h", "p"], &["next"], vec![]),
        ],
        &["cond", "next", "p"],
    );
    let loops = model(
        16,
        graph(
            vec![value("x", DType::F32, &["T", "3"])],
            vec![
                f32s("h0", &[3], &[0.0; 3]),
                weight("four", &cameo_ir::Tensor::i64(&[], [4])),
            ],
            vec![
                node(
                    "Scan",
                    &["h0", "x"],
                    &["sum", "sums"],
                    vec![
                        graph_attr("body", row),
                        int("num_scan_inputs", 1),
                        ints("scan_input_axes", &[0]),
                    ],
                ),
                node(
                    "Loop",
                    &["four", "", "sum"],
                    &["last", "all"],
                    vec![graph_attr("body", step)],
                ),
            ],
            &["sums", "last", "all"],
        ),
    );
    vec![conv, shapes, structure, loops]
}

/// Operators with operands and attributes that their schemas allow by kind, and numbers that they should not allow.
pub fn wild(r: &mut Random) -> ModelProto {
    const TEXTS: [&str; 20] = [
        "nearest",
        "linear",
        "cubic",
        "half_pixel",
        "asymmetric",
        "align_corners",
        "tf_crop_and_resize",
        "constant",
        "reflect",
        "edge",
        "wrap",
        "SAME_UPPER",
        "SAME_LOWER",
        "VALID",
        "tanh",
        "CRD",
        "RIGHT",
        "ij,jk->ik",
        "...i->i...",
        "bidirectional",
    ];
    let small = |r: &mut Random| {
        if r.below(3) == 0 {
            r.hostile()
        } else {
            r.below(5) as i64 - 1
        }
    };
    let list = |r: &mut Random| (0..r.below(5)).map(|_| small(r)).collect::<Vec<i64>>();
    let extent = |r: &mut Random| match r.below(6) {
        0 => "B".to_owned(),
        1 => "S".to_owned(),
        2 => "?".to_owned(),
        3 => "1".to_owned(),
        _ => r.below(6).to_string(),
    };
    let mut pool: Vec<(String, DType)> = vec![];
    let mut g = graph(vec![], vec![], vec![], &[]);
    for i in 0..4 {
        let dims: Vec<String> = (0..r.below(6)).map(|_| extent(r)).collect();
        let dims: Vec<&str> = dims.iter().map(String::as_str).collect();
        let dtype = *r
            .pick(&[DType::F32, DType::F32, DType::I64, DType::Bool, DType::U8])
            .unwrap_or(&DType::F32);
        g.input.push(value(&format!("x{i}"), dtype, &dims));
        pool.push((format!("x{i}"), dtype));
    }
    for i in 0..5 {
        let elements = list(r);
        g.initializer.push(i64s(&format!("i{i}"), &elements));
        let shape: Vec<usize> = (0..r.below(5)).map(|_| r.below(5)).collect();
        let w = cameo_ir::Tensor::f32(&shape, (0..shape.iter().product()).map(|i| i as f32 - 2.0));
        g.initializer.push(weight(&format!("w{i}"), &w));
        pool.extend([(format!("i{i}"), DType::I64), (format!("w{i}"), DType::F32)]);
    }
    let ops: Vec<cameo_ir::Op> = cameo_ir::ops::all()
        .filter(|o| !o.name().starts_with("cameo::"))
        .collect();
    for i in 0..12 {
        let Some(op) = r.pick(&ops) else { break };
        let schema = op.schema();
        // Mostly what the schema takes, sometimes one more.
        let count = match schema.inputs.last() {
            Some(p) if p.arity == Arity::Variadic => schema.inputs.len() + r.below(3),
            _ => schema.inputs.len() + usize::from(r.below(16) == 0),
        };
        let mut dtype = DType::F32;
        let mut inputs = vec![];
        for i in 0..count {
            let Some(p) = schema.input(i) else {
                inputs.push(String::new());
                continue;
            };
            let leave_out = p.arity == Arity::Optional && r.below(4) == 0;
            let same = |t: DType| i == 0 || p.group != schema.inputs[0].group || t == dtype;
            let fits = |(_, t): &&(String, DType)| p.types.contains(*t) && same(*t) && !leave_out;
            let fitting: Vec<&(String, DType)> = pool.iter().filter(fits).collect();
            let (name, t) = r.pick(&fitting).map_or((String::new(), DType::F32), |x| (*x).clone());
            if i == 0 {
                dtype = t;
            }
            inputs.push(name);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let outputs: Vec<String> = (0..schema.outputs.len().max(1)).map(|o| format!("v{i}_{o}")).collect();
        let mut attrs = vec![];
        for (name, def) in schema.attrs {
            use cameo_ir::op::AttrDef as D;
            let given = format!("{def:?}").starts_with("Req") || r.below(2) == 0;
            if !given {
                continue;
            }
            attrs.push(match def {
                D::Int(_) | D::OptInt | D::ReqInt => int(name, small(r)),
                D::Float(_) | D::OptFloat => float(name, f32::from_bits(r.next() as u32)),
                D::Symbol(_) | D::Probe => continue,
                D::ReqStr => text(name, r.pick(&TEXTS).copied().unwrap_or("")),
                D::OneOf(list) | D::ReqOneOf(list) if r.below(4) > 0 => text(name, r.pick(list).copied().unwrap_or("")),
                D::OneOf(_) | D::ReqOneOf(_) => text(name, r.pick(&TEXTS).copied().unwrap_or("")),
                D::Floats(_) | D::OptFloats => floats(name, &[0.5, -1.0][..r.below(3)]),
                D::OptStrs => texts(name, &TEXTS[..r.below(3)]),
                D::OptStr => text(name, r.pick(&TEXTS).copied().unwrap_or("")),
                D::OptTensor | D::ReqTensor => tensor_attr(name, f32s("", &[1], &[2.0])),
                D::OptDType | D::ReqDType => int(name, r.below(29) as i64),
                D::Ints(_) | D::OptInts | D::ReqInts | D::OptDims | D::ReqDims | D::ReqGraph => ints(name, &list(r)),
            });
        }
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        g.node.push(node(op.name(), &inputs, &outputs, attrs));
        g.output.push(output(outputs[0]));
        pool.push((outputs[0].to_owned(), dtype));
    }
    model(if r.below(2) == 0 { 28 } else { 7 + r.below(22) as i64 }, g)
}
