//! Small networks and awkward shapes, compiled and compared with the interpreter, before and after the passes.
//!
//! `{…}` in a source is filled in by the test; `blob("NAME")` is a random weight (see [`cameo_tests::source`]).

use cameo_ir::random::Rng;
use cameo_ir::{Graph, Tensor, interp};
use cameo_runtime::Status;
use cameo_tests::case::elements;
use cameo_tests::{Choices, Model, difference, source};

/// Values of symbols, by name.
type Sizes<'a> = &'a [(&'a str, i64)];

/// Random inputs: integers in `0..=most`, floats near N(0,1).
fn inputs(g: &Graph, sizes: Sizes, most: i64) -> Vec<Tensor> {
    let mut r = Rng::new(11);
    let value = |n: &str| sizes.iter().find(|s| s.0 == n).map(|s| s.1);
    let one = |v: &cameo_ir::ValueId| {
        let fact = g.fact(*v);
        let shape = cameo_ir::graph::bind_shape(&fact.shape, &value).expect("every symbol has a size");
        let range = fact.dtype.is_int().then_some((0.0, most as f64));
        elements(&mut r, fact.dtype, &shape, range)
    };
    g.inputs().iter().map(one).collect()
}

/// Compiles the graph without passes, and with them for every level of processors that this machine has, and compares it with
/// the interpreter at each of the sizes, on one thread and on two.
fn check_up_to(text: &str, all: &[Sizes], most: i64) {
    let g = source::graph(text);
    let compiled = |passes, cpu| Model::new(&g, &Choices::new(passes, cpu)).unwrap_or_else(|e| panic!("{text}\n{e}"));
    let multi = compiled(true, cameo::artifact::MULTI);
    let levels = multi
        .description()
        .levels()
        .filter_map(|level| multi.at_level(level).ok());
    for (i, model) in [compiled(false, "x86-64-v3")].into_iter().chain(levels).enumerate() {
        let passes = i > 0;
        for sizes in all {
            let inputs = inputs(&g, sizes, most);
            let want = interp::run(&g, &inputs).unwrap_or_else(|e| panic!("{sizes:?}: {e}"));
            let got = model
                .run(&inputs, 1)
                .unwrap_or_else(|e| panic!("{text}\n{sizes:?}: {e}"));
            for (i, (w, g)) in want.iter().zip(&got).enumerate() {
                if let Some(d) = difference(w, g) {
                    let d: String = d.chars().take(1000).collect();
                    panic!("{text}\n{sizes:?} passes {passes}: output {i}: {d}");
                }
            }
            let again = model
                .run(&inputs, 2)
                .unwrap_or_else(|e| panic!("{sizes:?}, 2 threads: {e}"));
            for (i, (one, two)) in got.iter().zip(&again).enumerate() {
                // Threads share out work, never a sum.
                assert_eq!(
                    one.bytes(),
                    two.bytes(),
                    "{text}\n{sizes:?}: output {i} differs on two threads"
                );
            }
        }
    }
}

fn check(text: &str, all: &[Sizes]) {
    check_up_to(text, all, 7);
}

#[test]
fn transformer_block() {
    let text = r#"graph @block (%0 "ids": i64[B,S], %1 "mask": i64[B,S]) symbols B=1.., S=1..32 {
        weight %10: f32[19,24] = blob("words")
        weight %11: f32[32,24] = blob("positions")
        weight %12: f32[24] = blob("gamma")
        weight %13: f32[24] = blob("beta")
        weight %14: f32[24,24] = blob("wq")
        weight %15: f32[24,24] = blob("wk")
        weight %16: f32[24,24] = blob("wv")
        weight %17: f32[24,24] = blob("wo")
        weight %18: f32[24,56] = blob("up")
        weight %19: f32[56,24] = blob("down")
        weight %20: f32[56] = blob("up bias")
        weight %21: f32[] = dense(0.35355338)
        weight %22: f32[] = dense(-10000.0)
        weight %23: f32[] = dense(1.0)
        weight %24: i64[1] = dense(0)
        weight %25: i64[1] = dense(1)
        weight %26: i64[2] = dense(1,2)
        %30 = Gather(%10, %0)
        %31 = Shape(%0) {start=1}
        %32 = Slice(%11, %24, %31, %24)
        %33 = Add(%30, %32)
        %34 = LayerNormalization(%33, %12, %13)
        %35 = MatMul(%34, %14)
        %36 = Reshape(%35) {shape=dims[B,S,3,8]}
        %37 = Transpose(%36) {perm=[0,2,1,3]}
        %38 = MatMul(%34, %15)
        %39 = Reshape(%38) {shape=dims[B,S,3,8]}
        %40 = Transpose(%39) {perm=[0,2,3,1]}
        %41 = MatMul(%34, %16)
        %42 = Reshape(%41) {shape=dims[B,S,3,8]}
        %43 = Transpose(%42) {perm=[0,2,1,3]}
        %44 = MatMul(%37, %40)
        %45 = Mul(%44, %21)
        %46 = Cast(%1) {to=f32}
        %47 = Unsqueeze(%46, %26)
        %48 = Sub(%23, %47)
        %49 = Mul(%48, %22)
        %50 = Add(%45, %49)
        %51 = Softmax(%50) {axis=-1}
        %52 = MatMul(%51, %43)
        %53 = Transpose(%52) {perm=[0,2,1,3]}
        %54 = Reshape(%53) {shape=dims[B,S,24]}
        %55 = MatMul(%54, %17)
        %56 = Add(%55, %33)
        %57 = LayerNormalization(%56, %12, %13)
        %58 = MatMul(%57, %18)
        %59 = Add(%58, %20)
        %60 = Gelu(%59)
        %61 = MatMul(%60, %19)
        %62 = Add(%61, %57)
        %63 = LayerNormalization(%62, %12, %13)
        %64 = ReduceMean(%63, %25) {keepdims=0}
        return %63 "states", %64 "pooled"
    }"#;
    let sizes: &[Sizes] = &[
        &[("B", 1), ("S", 1)],
        &[("B", 3), ("S", 7)],
        &[("B", 2), ("S", 17)],
        &[("B", 1), ("S", 32)],
    ];
    check_up_to(text, sizes, 1);
}

/// The number of kernels that the graph becomes after all passes.
fn kernels(text: &str) -> usize {
    let mut g = source::graph(text);
    cameo::pipeline::optimize(&mut g, &cameo::Options::default(), &mut |_| {}).expect("optimizes");
    let machine = cameo::Target::default().machine().expect("this machine");
    let target = cameo::artifact::kernel_target(&machine);
    let program =
        cameo::pipeline::partition(&g, target, &cameo::Options::default(), &mut |_| {}).expect("kernels for all");
    program.kernels.len()
}

/// Softmax that is stretched and clipped, and attention times a gate (Bondarenko et al., "Quantizable Transformers", 2023,
/// eq. 4 and 5): one kernel each, and the product of the gate.
#[test]
fn attention_with_clipped_probabilities_and_gates() {
    let head = r#"graph @g (%0 "q": f32[B,2,S,16], %1 "k": f32[B,2,S,16], %2 "v": f32[B,2,S,16]) symbols B=1.., S=1.. {
        weight %3: f32[] = dense(0.25)
        weight %4: f32[] = dense(1.03)
        weight %5: f32[] = dense(-0.03)
        weight %6: f32[] = dense(0.0)
        weight %7: f32[] = dense(1.0)
        weight %8: f32[2,16,1] = blob("gate")
        %9 = Transpose(%1) {perm=[0,1,3,2]}
        %10 = MatMul(%0, %9)
        %11 = Mul(%10, %3)
        %12 = Softmax(%11)"#;
    let sizes: &[Sizes] = &[&[("B", 1), ("S", 1)], &[("B", 2), ("S", 19)], &[("B", 1), ("S", 150)]];
    let clipped = format!(
        "{head}
        %13 = Mul(%12, %4)
        %14 = Add(%13, %5)
        %15 = Clip(%14, %6, %7)
        %16 = MatMul(%15, %2)
        return %16 \"y\"
    }}"
    );
    assert_eq!(kernels(&clipped), 1);
    check(&clipped, sizes);
    let gated = format!(
        "{head}
        %13 = MatMul(%12, %2)
        %14 = MatMul(%0, %8)
        %15 = Sigmoid(%14)
        %16 = Mul(%13, %15)
        return %16 \"y\"
    }}"
    );
    assert_eq!(kernels(&gated), 2);
    check(&gated, sizes);
}

/// Attention without softmax is linear in the length: nothing of `S * S` elements is left.
#[test]
fn linear_attention() {
    let text = r#"graph @g (%0 "q": f32[B,2,S,16], %1 "k": f32[B,2,S,16], %2 "v": f32[B,2,S,16]) symbols B=1.., S=1.. {
        weight %3: f32[] = dense(1e-6)
        weight %4: i64[1] = dense(-1)
        %5 = Relu(%0)
        %6 = Relu(%1)
        %7 = Transpose(%6) {perm=[0,1,3,2]}
        %8 = MatMul(%5, %7)
        %9 = ReduceSum(%8, %4) {keepdims=1}
        %10 = Add(%9, %3)
        %11 = Div(%8, %10)
        %12 = MatMul(%11, %2)
        return %12 "y"
    }"#;
    let mut g = source::graph(text);
    cameo::pipeline::optimize(&mut g, &cameo::Options::default(), &mut |_| {}).expect("optimizes");
    for (_, n) in g.nodes() {
        let shape = &g.fact(n.outputs[0]).shape;
        assert!(
            shape.iter().filter(|d| d.as_const().is_none()).count() <= 2,
            "{} {shape:?}",
            n.op
        );
    }
    check(
        text,
        &[&[("B", 1), ("S", 1)], &[("B", 2), ("S", 37)], &[("B", 1), ("S", 300)]],
    );
}

#[test]
fn convolutional_network() {
    let text = r#"graph @net (%0 "image": f32[B,3,H,H]) symbols B=1.., H=8.. {
        weight %10: f32[16,3,3,3] = blob("stem")
        weight %11: f32[16] = blob("scale")
        weight %12: f32[16] = blob("shift")
        weight %13: f32[16] = blob("mean")
        weight %14: f32[16] = dense(0.5,0.6,0.7,0.8,0.9,1.0,1.1,1.2,1.3,1.4,1.5,1.6,1.7,1.8,1.9,2.0)
        weight %15: f32[16,1,3,3] = blob("depthwise")
        weight %16: f32[16,16,1,1] = blob("pointwise")
        weight %17: f32[16,4,1,1] = blob("expand")
        weight %18: f32[4,16,1,1] = blob("squeeze")
        weight %19: f32[4] = blob("squeeze bias")
        weight %20: f32[8,16,1,3] = blob("wide")
        weight %21: f32[8,16,3,1] = blob("tall")
        weight %22: f32[10,32] = blob("head")
        weight %23: f32[10] = blob("head bias")
        %30 = Conv(%0, %10) {strides=[2,2], pads=[1,1,1,1]}
        %31 = BatchNormalization(%30, %11, %12, %13, %14)
        %32 = Relu(%31)
        %33 = Conv(%32, %15) {group=16, pads=[1,1,1,1]}
        %34 = BatchNormalization(%33, %11, %12, %13, %14)
        %35 = HardSwish(%34)
        %36 = GlobalAveragePool(%35)
        %37 = Conv(%36, %18, %19)
        %38 = Relu(%37)
        %39 = Conv(%38, %17)
        %40 = HardSigmoid(%39)
        %41 = Mul(%35, %40)
        %42 = Conv(%41, %16)
        %43 = BatchNormalization(%42, %11, %12, %13, %14)
        %44 = Add(%43, %32)
        %45 = MaxPool(%44) {kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]}
        %46 = Conv(%45, %20) {pads=[0,1,0,1]}
        %47 = Conv(%45, %21) {pads=[1,0,1,0]}
        %48 = AveragePool(%45) {kernel_shape=[3,3], pads=[1,1,1,1]}
        %49 = Concat(%46, %48, %47) {axis=1}
        %50 = Relu(%49)
        %51 = GlobalAveragePool(%50)
        %52 = Flatten(%51)
        %53 = Gemm(%52, %22, %23) {transB=1}
        %54 = Softmax(%53)
        return %54 "probabilities", %49 "features"
    }"#;
    let sizes: &[Sizes] = &[
        &[("B", 1), ("H", 8)],
        &[("B", 2), ("H", 13)],
        &[("B", 1), ("H", 19)],
        &[("B", 3), ("H", 32)],
    ];
    check(text, sizes);
}

/// Windows of three axes in Winograd's form: pads, steps and gaps along the first, tails of channels, few of which a tap has,
/// and pads along an axis of a single tap.
#[test]
fn winograd_volumes() {
    let text = r#"graph @net (%0 "volume": f32[B,20,D,H,W]) symbols B=1.., D=3.., H=3.., W=2.. {
        weight %1: f32[] = dense(0.01)
        weight %10: f32[24,20,3,3,3] = blob("w0")
        weight %11: f32[24] = blob("b0")
        weight %12: f32[36,24,2,3,3] = blob("w1")
        weight %13: f32[16,36,5,3,3] = blob("w2")
        weight %14: f32[16,24,3,3,3] = blob("w3")
        weight %15: f32[16,24,1,3,3] = blob("w4")
        weight %16: f32[32,24,3,1,3] = blob("w5")
        %20 = Conv(%0, %10, %11) {pads=[1,1,1,1,1,1]}
        %21 = Mul(%20, %1)
        %22 = Relu(%21)
        %23 = Conv(%22, %12) {pads=[2,1,0,1,1,2], dilations=[3,1,1]}
        %24 = Mul(%23, %1)
        %25 = Conv(%24, %13) {pads=[2,1,1,4,1,1], strides=[2,1,1]}
        %26 = Conv(%22, %14) {pads=[1,1,1,1,1,1], strides=[1,2,1]}
        %27 = Mul(%26, %1)
        %28 = Conv(%22, %15) {pads=[0,1,1,2,1,1]}
        %29 = Mul(%28, %1)
        %30 = Conv(%22, %16) {pads=[1,1,0,1,2,1]}
        %31 = Mul(%30, %1)
        return %25 "y", %22 "features", %27 "other", %29 "flat", %31 "across"
    }"#;
    let sizes: &[Sizes] = &[
        &[("B", 1), ("D", 3), ("H", 3), ("W", 2)],
        &[("B", 2), ("D", 5), ("H", 9), ("W", 14)],
        &[("B", 1), ("D", 8), ("H", 12), ("W", 7)],
    ];
    check(text, sizes);
    let text = text.replace("[B,20,D,H,W]", "[2,20,4,10,8]");
    check(&text.replace("symbols B=1.., D=3.., H=3.., W=2..", ""), &[&[]]);
}

/// Convolutions in Winograd's form with what may surround them: odd sizes and pads, a residual that dies, one that is read
/// again, a long epilogue, tails of channels, an upsampled input.
#[test]
fn winograd_convolutions() {
    let text = r#"graph @net (%0 "image": f32[B,6,H,W]) symbols B=1.., H=3.., W=2.. {
        weight %1: f32[] = dense(0.02)
        weight %10: f32[32,6,1,1] = blob("w0")
        weight %11: f32[32,32,3,3] = blob("w1")
        weight %12: f32[32] = blob("b1")
        weight %13: f32[20,32,3,3] = blob("w2")
        weight %14: f32[40,20,3,3] = blob("w3")
        weight %15: f32[40] = blob("b3")
        weight %16: f32[32,40,3,3] = blob("w4")
        %20 = Mul(%0, %1)
        %21 = Conv(%20, %10)
        %22 = Conv(%21, %11, %12) {pads=[1,1,1,1]}
        %23 = Add(%22, %21)
        %24 = Relu(%23)
        %25 = Mul(%24, %1)
        %26 = Conv(%25, %13) {pads=[2,0,1,3]}
        %27 = Gelu(%26)
        %28 = Mul(%27, %1)
        %29 = Conv(%28, %14, %15) {pads=[0,1,1,1]}
        %30 = Sigmoid(%29)
        %31 = Mul(%29, %30)
        %32 = Mul(%31, %1)
        %33 = Resize(%32) {scales=floats[1.0,1.0,2.0,2.0], coordinate_transformation_mode="asymmetric", nearest_mode="floor"}
        %34 = Conv(%33, %16) {pads=[1,1,1,1]}
        return %34 "y", %24 "features"
    }"#;
    let sizes: &[Sizes] = &[
        &[("B", 1), ("H", 3), ("W", 2)],
        &[("B", 2), ("H", 13), ("W", 6)],
        &[("B", 1), ("H", 33), ("W", 29)],
        &[("B", 5), ("H", 8), ("W", 8)],
    ];
    check(text, sizes);
    for fixed in [["1", "14", "14"], ["3", "7", "9"]] {
        let [b, h, w] = fixed;
        let text = text.replace("[B,6,H,W]", &format!("[{b},6,{h},{w}]"));
        check(&text.replace("symbols B=1.., H=3.., W=2..", ""), &[&[]]);
    }
}

/// Convolutions that differ in one thing each, over odd sizes.
/// Depthwise windows, several outputs of a channel, pooling and first convolutions, at sizes where windows are larger than
/// the image, where borders meet, and where lanes are left over.
#[test]
fn windows() {
    let pool = "kernel_shape=[3,3], pads=[1,1,1,1]";
    let window = |c: &str, op: &str| {
        format!(
            r#"graph @net (%0 "image": f32[B,H,W,{c}]) symbols B=1.., H=3.., W=2.. {{
              weight %1: f32[40,1,3,3] = blob("w3")
              weight %2: f32[40,1,7,5] = blob("w75")
              weight %3: f32[80,1,3,3] = blob("w2x")
              weight %4: f32[120,1,3,3] = blob("w3x")
              weight %5: f32[24,3,3,3] = blob("first")
              weight %6: f32[20,3,5,7] = blob("first57")
              weight %7: f32[24,3,4,3] = blob("line")
              %10 = Transpose(%0) {{perm=[0,3,1,2]}}
              %11 = {op}
              %12 = Transpose(%11) {{perm=[0,2,3,1]}}
              %13 = Relu(%12)
              return %13 "y"
            }}"#
        )
    };
    let depthwise = [
        "Conv(%10, %1) {group=40, pads=[1,1,1,1]}",
        "Conv(%10, %1) {group=40, pads=[0,2,1,1], strides=[2,1], dilations=[1,2]}",
        "Conv(%10, %1) {group=40, pads=[1,1,1,1], strides=[2,2]}",
        "Conv(%10, %2) {group=40, pads=[3,2,3,2]}",
        "Conv(%10, %2) {group=40, pads=[6,4,6,4], strides=[1,3]}",
        "Conv(%10, %3) {group=40, pads=[1,1,1,1]}",
        "Conv(%10, %3) {group=40, pads=[1,0,2,1], strides=[1,2]}",
        "Conv(%10, %4) {group=40, pads=[1,1,1,1]}",
        &format!("MaxPool(%10) {{{pool}, strides=[2,2]}}"),
        &format!("MaxPool(%10) {{{pool}, ceil_mode=1, strides=[2,2]}}"),
        &format!("AveragePool(%10) {{{pool}}}"),
        &format!("AveragePool(%10) {{{pool}, count_include_pad=1, strides=[1,2]}}"),
    ]
    .map(|op| window("40", op));
    let first = [
        "Conv(%10, %5) {pads=[1,1,1,1], strides=[2,2]}",
        "Conv(%10, %6) {pads=[2,3,2,3]}",
        "Conv(%10, %6) {pads=[4,6,3,2], strides=[3,2], dilations=[1,2]}",
        "Conv(%10, %7) {pads=[3,1,3,1], strides=[2,1]}",
    ]
    .map(|op| window("3", op));
    let sizes: &[Sizes] = &[
        &[("B", 1), ("H", 7), ("W", 7)],
        &[("B", 2), ("H", 9), ("W", 19)],
        &[("B", 1), ("H", 14), ("W", 14)],
        &[("B", 3), ("H", 30), ("W", 33)],
    ];
    for text in depthwise.iter().chain(&first) {
        check(text, sizes);
        for fixed in [["2", "7", "7"], ["1", "9", "23"]] {
            let [b, h, w] = fixed;
            let text = text.replace("[B,H,W,", &format!("[{b},{h},{w},"));
            check(&text.replace("symbols B=1.., H=3.., W=2..", ""), &[&[]]);
        }
    }
}

/// Elementwise work between values of opposite order, whose tiles are transposed.
#[test]
fn reading_across() {
    let text = r#"graph @net (%0 "x": f32[B,S,T], %1 "y": f32[B,T,S], %2 "z": i32[B,S,T]) symbols B=1.., S=1.., T=1.. {
        %3 = Transpose(%0) {perm=[0,2,1]}
        %4 = Add(%3, %1)
        %5 = Tanh(%4)
        %6 = Transpose(%2) {perm=[2,0,1]}
        %7 = Neg(%6)
        return %5 "a", %7 "b"
    }"#;
    let sizes: &[Sizes] = &[
        &[("B", 1), ("S", 1), ("T", 1)],
        &[("B", 3), ("S", 16), ("T", 32)],
        &[("B", 2), ("S", 19), ("T", 45)],
        &[("B", 1), ("S", 200), ("T", 7)],
    ];
    check(text, sizes);
    for [s, t] in [["48", "64"], ["21", "40"], ["3", "130"]] {
        let text = text.replace("B,S,T", &format!("B,{s},{t}"));
        let text = text.replace("B,T,S", &format!("B,{t},{s}"));
        check(&text.replace(", S=1.., T=1..", ""), &[&[("B", 1)], &[("B", 3)]]);
    }
}

/// Rows of a few vectors, with every kind of end.
#[test]
fn short_rows() {
    for length in [1, 3, 7, 8, 12, 24, 40, 49, 63, 64, 100, 128, 129] {
        let text = format!(
            r#"graph @net (%0 "x": f32[B,S,{length}]) symbols B=1.., S=1.. {{
              weight %1: f32[{length}] = blob("scale")
              weight %2: f32[{length}] = blob("bias")
              weight %3: f32[] = dense(0.5)
              %4 = Mul(%0, %3)
              %5 = LayerNormalization(%4, %1, %2)
              %6 = Softmax(%4)
              %7 = Add(%5, %6)
              return %7 "y"
            }}"#
        );
        check(&text, &[&[("B", 1), ("S", 1)], &[("B", 2), ("S", 21)]]);
    }
}

#[test]
fn convolutions() {
    let shapes: &[(&str, &str, &str)] = &[
        ("2,3,11,13", "5,3,3,3", "strides=[2,1]"),
        ("1,3,17,9", "7,3,3,2", "dilations=[2,3], pads=[2,1,1,2]"),
        ("1,8,7,7", "12,4,3,3", "group=2, pads=[1,1,1,1]"),
        ("2,8,9,9", "24,1,3,3", "group=8, pads=[1,1,1,1]"),
        ("1,6,14,15", "6,1,7,7", "group=6, pads=[3,3,3,3]"),
        (
            "1,6,15,14",
            "6,1,5,5",
            "group=6, pads=[2,2,2,2], strides=[2,2], dilations=[1,1]",
        ),
        ("2,5,23", "9,5,4", "pads=[1,2], strides=[3]"),
        ("1,4,19", "4,1,3", "group=4, dilations=[2], pads=[2,2]"),
        ("1,40,1,1", "17,40,1,1", ""),
        ("3,17,5,5", "33,17,1,1", "strides=[2,2]"),
        ("1,3,1,20", "4,3,1,5", "pads=[0,2,0,2]"),
        ("1,1,20,1", "1,1,3,1", ""),
        ("1,2,3,3", "2,2,3,3", ""),
        ("1,2,3,3", "2,2,5,5", "pads=[3,3,3,3]"),
        ("1,20,6,6", "20,20,3,3", "auto_pad=\"SAME_UPPER\", strides=[2,2]"),
    ];
    for (x, w, attrs) in shapes {
        let out = w.split(',').next().expect("channels");
        check(
            &format!(
                "graph @conv (%0: f32[{x}]) {{
                    weight %1: f32[{w}] = blob(\"w\")
                    weight %2: f32[{out}] = blob(\"b\")
                    %3 = Conv(%0, %1, %2) {{{attrs}}}
                    %4 = Relu(%3)
                    return %4 \"y\"
                }}"
            ),
            &[&[]],
        );
    }
}

/// The tails of tiles: every extent around the sizes of registers and tiles, as one graph per pair.
#[test]
fn contraction_tails() {
    const EXTENTS: [usize; 12] = [1, 2, 3, 5, 7, 8, 13, 15, 16, 17, 19, 31];
    for (i, m) in EXTENTS.iter().enumerate() {
        let (mut nodes, mut weights, mut results, mut params) = (String::new(), String::new(), vec![], vec![]);
        for (j, n) in EXTENTS.iter().enumerate() {
            let k = EXTENTS[(i * 5 + j * 7) % EXTENTS.len()];
            let at = 10 * j;
            params.push(format!(
                "%{at} \"a{j}\": f32[{m},{k}], %{} \"b{j}\": f32[{k},{n}]",
                at + 1
            ));
            params.push(format!("%{} \"c{j}\": f32[{n},{k}]", at + 2));
            weights += &format!("weight %{}: f32[{k},{n}] = blob(\"w{j}\")\n", at + 3);
            weights += &format!("weight %{}: f32[{n}] = blob(\"v{j}\")\n", at + 4);
            nodes += &format!("%{} = MatMul(%{at}, %{})\n", at + 5, at + 1);
            nodes += &format!("%{} = Gemm(%{at}, %{}, %{}) {{transB=1}}\n", at + 6, at + 2, at + 4);
            nodes += &format!("%{} = MatMul(%{at}, %{})\n", at + 7, at + 3);
            nodes += &format!("%{} = Add(%{}, %{})\n", at + 8, at + 7, at + 4);
            nodes += &format!("%{} = Gelu(%{})\n", at + 9, at + 8);
            for y in [5, 6, 9] {
                results.push(format!("%{} \"y{}\"", at + y, at + y));
            }
        }
        let (params, results) = (params.join(", "), results.join(", "));
        check(
            &format!("graph @tails ({params}) {{\n{weights}{nodes}return {results}\n}}"),
            &[&[]],
        );
    }
}

#[test]
fn contractions_with_symbols() {
    let text = r#"graph @products (%0 "a": f32[B,M,K], %1 "b": f32[B,K,N], %2 "c": f32[N,K], %3 "d": f32[2,1,M,24]) {
        weight %10: f32[3,24,37] = blob("w")
        weight %11: f32[37] = blob("bias")
        %20 = MatMul(%0, %1)
        %21 = Transpose(%2)
        %22 = MatMul(%0, %21)
        %23 = MatMul(%3, %10)
        %24 = Add(%23, %11)
        %25 = Sigmoid(%24)
        %26 = Einsum(%0, %0) {equation="bmk,bmk->bm"}
        return %20 "ab", %22 "ac", %25 "dw", %26 "squares"
    }"#;
    check(
        text,
        &[
            &[("B", 1), ("M", 1), ("N", 1), ("K", 1)],
            &[("B", 2), ("M", 7), ("N", 17), ("K", 5)],
            &[("B", 3), ("M", 15), ("N", 50), ("K", 33)],
            &[("B", 1), ("M", 64), ("N", 1), ("K", 64)],
        ],
    );
}

/// Reductions along the vector and across it, chained, with several results per loop.
#[test]
fn reductions_and_groups_with_several_results() {
    let text = r#"graph @groups (%0 "x": f32[B,S,T]) {
        weight %10: i64[1] = dense(-1)
        weight %11: i64[1] = dense(1)
        weight %12: i64[1] = dense(0)
        weight %13: f32[] = dense(0.5)
        %20 = Exp(%0)
        %21 = ReduceSum(%20, %10)
        %22 = ReduceMax(%20, %11)
        %23 = ReduceMean(%20, %12) {keepdims=0}
        %24 = Div(%20, %21)
        %25 = Sub(%24, %22)
        %26 = Mul(%25, %13)
        %27 = Softmax(%26) {axis=1}
        %28 = ReduceL2(%27, %10) {keepdims=0}
        %29 = Transpose(%27) {perm=[2,0,1]}
        %30 = Softmax(%29)
        %31 = ReduceSum(%30)
        return %20 "exp", %24 "normalized", %25 "shifted", %23 "mean", %28 "norms", %30 "softmax", %31 "all"
    }"#;
    check(
        text,
        &[
            &[("B", 1), ("S", 1), ("T", 1)],
            &[("B", 2), ("S", 3), ("T", 17)],
            &[("B", 3), ("S", 33), ("T", 5)],
            &[("B", 1), ("S", 16), ("T", 32)],
        ],
    );
}

/// Rows of equal elements: what is stored along a row need not differ along it.
#[test]
fn rows_of_one_value() {
    let text = r#"graph @rows (%0 "x": f32[B,1], %1 "y": f32[]) {
        weight %10: f32[] = dense(1.5)
        %20 = Expand(%0) {shape=dims[B,19]}
        %21 = LpNormalization(%20)
        %22 = LogSoftmax(%20)
        %23 = Expand(%1) {shape=dims[3,B]}
        %24 = RMSNormalization(%23, %10)
        %25 = Softmax(%23) {axis=0}
        return %21 "norm", %22 "log", %24 "rms", %25 "softmax"
    }"#;
    check(text, &[&[("B", 1)], &[("B", 2)], &[("B", 21)]]);
}

/// What an output may be: an input, a weight, a view, another output again.
#[test]
fn outputs_of_every_kind() {
    let text = r#"graph @outputs (%0 "x": f32[S,6], %1 "n": i64[S]) {
        weight %10: f32[5] = dense(1.0,2.0,3.0,4.0,5.0)
        weight %11: f32[3] = dense(-1.0,0.0,1.0)
        weight %12: i64[2] = dense(-1,3)
        %20 = Reshape(%0, %12)
        %21 = Neg(%0)
        %22 = Neg(%11)
        %23 = Shape(%0)
        %24 = Identity(%1)
        %25 = Transpose(%21)
        return %0 "x again", %10 "weight", %20 "view", %21 "one", %21 "two", %22 "folded", %23 "shape", %24 "copy", %25 "turned", %0 "and again"
    }"#;
    check(text, &[&[("S", 1)], &[("S", 5)], &[("S", 40)]]);
}

/// Joined and cut tensors, and movement that becomes part of its consumers.
#[test]
fn views_through_views() {
    let text = r#"graph @views (%0 "x": f32[B,S,12], %1 "y": f32[B,S,4]) {
        weight %10: i64[3] = dense(4,6,2)
        weight %11: i64[2] = dense(0,1)
        weight %12: i64[2] = dense(9223372036854775807,9223372036854775807)
        weight %13: i64[2] = dense(2,1)
        weight %14: i64[2] = dense(2,1)
        weight %15: f32[12,5] = blob("w")
        %20, %21, %22 = Split(%0, %10) {axis=-1}
        %23 = Concat(%22, %1, %21) {axis=-1}
        %24 = Transpose(%23) {perm=[1,0,2]}
        %25 = Slice(%24, %11, %12, %13, %14)
        %26 = Relu(%25)
        %27 = Transpose(%23) {perm=[0,2,1]}
        %28 = Reshape(%27) {shape=dims[B,3,4,S]}
        %29 = Transpose(%28) {perm=[0,3,2,1]}
        %30 = Reshape(%29) {shape=dims[B,S,12]}
        %31 = MatMul(%30, %15)
        %32 = Tile(%1) {repeats=dims[1,2,3]}
        %33 = ReduceSum(%32)
        %34 = DepthToSpace(%28) {blocksize=1}
        return %20 "cut", %26 "sliced", %31 "product", %33 "sum", %34 "same"
    }"#;
    let empty: Sizes = &[("B", 1), ("S", 1)];
    check(text, &[empty, &[("B", 2), ("S", 3)], &[("B", 3), ("S", 17)]]);
}

/// A tensor without elements gives an empty result or an error, never a crash.
#[test]
fn empty_tensors() {
    let text = r#"graph @empty (%0 "past": f32[1,2,P,4], %1 "now": f32[1,2,S,4]) {
        %10 = Concat(%0, %1) {axis=2}
        %11 = Transpose(%10) {perm=[0,1,3,2]}
        %12 = MatMul(%1, %11)
        %13 = Softmax(%12)
        %14 = MatMul(%13, %10)
        %15 = Relu(%0)
        return %14 "y", %10 "next", %15 "same"
    }"#;
    check(
        text,
        &[&[("P", 0), ("S", 3)], &[("P", 5), ("S", 1)], &[("P", 17), ("S", 2)]],
    );
    let rows = r#"graph @rows (%0 "x": f32[S,6]) {
        weight %1: f32[6,20] = blob("w")
        weight %2: i64[1] = dense(-1)
        %3 = MatMul(%0, %1)
        %4 = Softmax(%3)
        %5 = ReduceSum(%0, %2)
        %6 = Transpose(%0)
        return %4 "y", %5 "sums", %6 "turned"
    }"#;
    check(rows, &[&[("S", 0)], &[("S", 9)]]);
}

/// A table of 16 rows read at `S` positions: sizes that would read past its end are refused.
#[test]
fn broken_shape_rules_are_errors() {
    let text = r#"graph @positions (%0 "ids": i64[1,S]) {
        weight %10: f32[30,4] = blob("words")
        weight %11: f32[16,4] = blob("positions")
        weight %12: i64[1] = dense(0)
        %20 = Gather(%10, %0)
        %21 = Shape(%0) {start=1}
        %22 = Slice(%11, %12, %21, %12)
        %23 = Add(%20, %22)
        return %23 "y"
    }"#;
    let g = source::graph(text);
    for passes in [false, true] {
        let model = Model::new(
            &g,
            &Choices {
                passes,
                ..Choices::default()
            },
        )
        .expect("compiles");
        let status = |s, most| model.run(&inputs(&g, &[("S", s)], most), 1).map_err(|e| e.status());
        assert!(status(16, 29).is_ok());
        assert_eq!(status(17, 29).err(), Some(Status::ShapeRule));
        assert_eq!(status(600, 29).err(), Some(Status::ShapeRule));
        // Wrong data is found where it is read; the context stays usable.
        let ids = Tensor::i64(&[1, 3], [0, 30, 1]);
        assert_eq!(
            model.run(&[ids], 2).map_err(|e| e.status()).err(),
            Some(Status::IndexOutOfRange)
        );
        let ids = Tensor::i64(&[1, 3], [0, -30, 29]);
        assert!(model.run(&[ids], 2).is_ok());
    }
}

/// Extents that only the run knows to be equal.
#[test]
fn symbols_that_do_not_fit_together_are_errors() {
    let text = r#"graph @sum (%0 "x": f32[S,4], %1 "y": f32[T,4]) {
        %2 = Add(%0, %1)
        return %2 "z"
    }"#;
    let g = source::graph(text);
    let model = Model::new(&g, &Choices::default()).expect("compiles");
    let run = |s, t| {
        let inputs = inputs(&g, &[("S", s), ("T", t)], 0);
        let got = model.run(&inputs, 1).map_err(|e| e.status())?;
        let want = interp::run(&g, &inputs).expect("legal");
        assert_eq!(difference(&want[0], &got[0]), None);
        Ok(())
    };
    assert_eq!(run(3, 3), Ok(()));
    assert_eq!(run(1, 5), Ok(()));
    assert_eq!(run(5, 1), Ok(()));
    assert_eq!(run(2, 3), Err(Status::ShapeRule));
}

#[test]
fn loops_over_time() {
    // A product with the state, a slice of a transposed input, one result that nobody reads, and a sum of a state of rank 0.
    let mixed = r#"graph @mixed (%0 "h": f32[B,8], %1 "x": f32[B,T,8], %2 "n": f32[]) symbols B=0.., T=0.. {
        weight %3: f32[8,5] = blob("head")
        %4 = Transpose(%1) {perm=[1,0,2]} : f32[T,B,8]
        %5, %6, %7, %8 = cameo::Scan(%0, %2, %4, %1) {body=graph @step (%0 "h": f32[B,8], %1 "n": f32[], %2 "x": f32[B,8], %3 "all": f32[B,T,8]) symbols B=0.., T=0.. {
            weight %4: f32[8,8] = blob("mix")
            weight %5: f32[] = dense(0.5)
            %6 = MatMul(%0, %4) : f32[B,8]
            %7 = Mul(%6, %5) : f32[B,8]
            %8 = Add(%7, %2) : f32[B,8]
            %9 = Tanh(%8) : f32[B,8]
            %10 = ReduceSum(%3) {axes=dims[1], keepdims=0} : f32[B,8]
            %11 = Sub(%9, %10) : f32[B,8]
            %12 = Add(%1, %5) : f32[]
            %13 = ReduceSum(%9) {axes=dims[1], keepdims=1} : f32[B,1]
            return %9 "h", %12 "n", %11 "y", %13 "unread"
        }, length=dims[T], slices=1, states=2} : f32[B,8], f32[], f32[T,B,8], f32[T,B,1]
        %9 = MatMul(%7, %3) : f32[T,B,5]
        %10 = Transpose(%9) {perm=[1,0,2]} : f32[B,T,5]
        return %5 "h", %6 "n", %10 "y", %7 "stacked"
    }"#;
    let sizes: [Sizes; 6] = [
        &[("B", 2), ("T", 5)],
        &[("B", 33), ("T", 4)],
        &[("B", 1), ("T", 1)],
        &[("B", 2), ("T", 0)],
        &[("B", 0), ("T", 3)],
        &[("B", 300), ("T", 6)],
    ];
    check(mixed, &sizes);
    // One loop inside of the other; states pass through unchanged, are swapped, and start from weights.
    let nested = r#"graph @nested (%0 "x": f32[T,U,6], %1 "a": f32[6], %2 "b": f32[6]) symbols T=0.., U=0.. {
        weight %3: f32[6] = dense(1.0,2.0,3.0,4.0,5.0,6.0)
        %4, %5, %6, %7 = cameo::Scan(%3, %1, %2, %0) {body=graph @outer (%0 "s": f32[6], %1 "a": f32[6], %2 "b": f32[6], %3 "x": f32[U,6]) symbols U=0.. {
            %4, %5 = cameo::Scan(%0, %3, %1) {body=graph @inner (%0 "s": f32[6], %1 "x": f32[6], %2 "a": f32[6]) {
                weight %3: f32[] = dense(0.25)
                %4 = Mul(%0, %3) : f32[6]
                %5 = Add(%4, %1) : f32[6]
                %6 = Max(%5, %2) : f32[6]
                return %5 "s", %6 "y"
            }, length=dims[U], slices=1, states=1} : f32[6], f32[U,6]
            %6 = ReduceMax(%5) {axes=dims[1], keepdims=0} : f32[U]
            return %4 "s", %2 "a", %1 "b", %6 "y"
        }, length=dims[T], slices=1, states=3} : f32[6], f32[6], f32[6], f32[T,U]
        return %4 "s", %5 "a", %6 "b", %7 "y"
    }"#;
    let sizes: [Sizes; 4] = [
        &[("T", 3), ("U", 4)],
        &[("T", 4), ("U", 1)],
        &[("T", 0), ("U", 3)],
        &[("T", 5), ("U", 7)],
    ];
    check(nested, &sizes);
}
