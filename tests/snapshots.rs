//! What the compiler makes of small graphs, as text: the graph after the passes, the kernels with their schedules, and
//! the MLIR of three kernels. A change of these texts is not wrong in itself, but somebody should have looked at it:
//! `INSTA_UPDATE=always cargo nextest run -p cameo-tests --test snapshots` accepts it.
//!
//! The target is made up, with four lanes and a tile of two rows, so that unrolled code stays readable.

use cameo_codegen::emit::kernel::emit;
use cameo_codegen::{Context, Linkage, Module};
use cameo_ir::{Graph, text};
use cameo_kernel::targets::Tile;
use cameo_kernel::{Choices, Program, Target, memory, partition, print};
use cameo_tests::model::optimized;
use cameo_tests::source;

const TINY: Target = Target {
    name: "tiny",
    plan: None,
    lanes: 4,
    panel: 4,
    registers: 16,
    tiles: &[Tile {
        mr: 2,
        nv: 1,
        efficiency: 90,
    }],
    l2: 64 << 10,
    l3: 1 << 20,
};

/// Self-attention over 3 heads of 4 as an exporter writes it: shapes are computed, the mask is made of integers.
const ATTENTION: &str = r#"graph @attention (%0 "x": f32[B,S,12], %1 "mask": i64[B,S]) symbols B=1.., S=1..64 {
    weight %2: i64[2] = dense(3,4)
    weight %3: i64[1] = dense(-1)
    weight %4: i64[2] = dense(1,2)
    weight %5: f32[] = dense(1.0)
    weight %6: f32[] = dense(-10000.0)
    weight %7: f32[] = dense(0.5)
    weight %8 "wq": f32[12,12] = blob("wq")
    weight %9 "wk": f32[12,12] = blob("wk")
    weight %10 "wv": f32[12,12] = blob("wv")
    weight %11 "bq": f32[12] = blob("bq")
    weight %12 "wo": f32[12,12] = blob("wo")
    weight %13 "gamma": f32[12] = blob("gamma")
    weight %14 "beta": f32[12] = blob("beta")
    %20 = Shape(%0) {end=2} from "/shape"
    %21 = Concat(%20, %2) {axis=0} from "/split"
    %22 = Shape(%0) {end=2} from "/shape_1"
    %23 = Concat(%22, %3) {axis=0} from "/join"
    %30 = MatMul(%0, %8) from "/q"
    %31 = Add(%30, %11) from "/q/bias"
    %32 = Reshape(%31, %21) from "/q/heads"
    %33 = Transpose(%32) {perm=[0,2,1,3]} from "/q/transpose"
    %40 = MatMul(%0, %9) from "/k"
    %41 = Reshape(%40, %21) from "/k/heads"
    %42 = Transpose(%41) {perm=[0,2,1,3]} from "/k/transpose"
    %43 = Transpose(%42) {perm=[0,1,3,2]} from "/k/transpose_1"
    %50 = MatMul(%0, %10) from "/v"
    %51 = Reshape(%50, %21) from "/v/heads"
    %52 = Transpose(%51) {perm=[0,2,1,3]} from "/v/transpose"
    %60 = Unsqueeze(%1, %4) from "/mask/unsqueeze"
    %61 = Cast(%60) {to=f32} from "/mask/cast"
    %62 = Sub(%5, %61) from "/mask/sub"
    %63 = Mul(%62, %6) from "/mask/mul"
    %70 = MatMul(%33, %43) from "/logits"
    %71 = Mul(%70, %7) from "/scale"
    %72 = Add(%71, %63) from "/masked"
    %73 = Softmax(%72) from "/softmax"
    %74 = MatMul(%73, %52) from "/context"
    %75 = Transpose(%74) {perm=[0,2,1,3]} from "/transpose"
    %76 = Reshape(%75, %23) from "/reshape"
    %77 = MatMul(%76, %12) from "/o"
    %78 = Add(%77, %0) from "/residual"
    %79 = LayerNormalization(%78, %13, %14) from "/norm"
    return %79 "y"
}"#;

/// A convolution block with normalisation, depthwise convolution and residual.
const CONVOLUTIONS: &str = r#"graph @convolutions (%0 "image": f32[N,3,6,6]) symbols N=1.. {
    weight %1 "w1": f32[4,3,3,3] = blob("w1")
    weight %2 "scale": f32[4] = dense(0.5,1.0,1.5,2.0)
    weight %3 "bias": f32[4] = dense(0.0,0.25,-0.25,0.5)
    weight %4 "mean": f32[4] = dense(0.0,0.5,0.0,-0.5)
    weight %5 "variance": f32[4] = dense(0.25,1.0,4.0,0.0625)
    weight %6 "w2": f32[4,1,3,3] = blob("w2")
    weight %7 "w3": f32[4,4,1,1] = blob("w3")
    weight %8: i64[2] = dense(0,-1)
    %20 = Conv(%0, %1) {pads=[1,1,1,1], strides=[2,2]} from "conv1"
    %21 = BatchNormalization(%20, %2, %3, %4, %5) {epsilon=0.0} from "bn1"
    %22 = Relu(%21) from "relu1"
    %23 = Conv(%22, %6) {group=4, pads=[1,1,1,1]} from "conv2"
    %24 = Conv(%23, %7) from "conv3"
    %25 = Add(%24, %22) from "residual"
    %26 = GlobalAveragePool(%25) from "pool"
    %27 = Reshape(%26, %8) from "flatten"
    return %27 "features"
}"#;

/// A residual block whose windows take Winograd's form.
const WINOGRAD: &str = r#"graph @winograd (%0 "image": f32[N,6,H,9]) symbols N=1.., H=1.. {
    weight %1 "w0": f32[16,6,1,1] = blob("w0")
    weight %2 "w1": f32[24,16,3,3] = blob("w1")
    weight %3 "b1": f32[24] = blob("b1")
    weight %4 "w2": f32[16,24,3,3] = blob("w2")
    %10 = Conv(%0, %1) from "conv0"
    %11 = Conv(%10, %2, %3) {pads=[1,1,1,1]} from "conv1"
    %12 = Relu(%11) from "relu1"
    %13 = Conv(%12, %4) {pads=[1,1,1,1]} from "conv2"
    %14 = Add(%13, %10) from "residual"
    return %14 "y"
}"#;

const SOFTMAX: &str = r#"graph @softmax (%0 "x": f32[N,10]) symbols N=1.. {
    %1 = Softmax(%0)
    return %1 "y"
}"#;

const LINEAR: &str = r#"graph @linear (%0 "x": f32[N,5]) symbols N=1.. {
    weight %1: f32[5,4] = blob("w")
    weight %2: f32[4] = blob("bias")
    %3 = MatMul(%0, %1)
    %4 = Add(%3, %2)
    %5 = Relu(%4)
    return %5 "y"
}"#;

const DEPTHWISE: &str = r#"graph @depthwise (%0 "x": f32[1,4,9]) {
    weight %1: f32[4,1,3] = blob("w")
    %2 = Conv(%0, %1) {group=4, pads=[1,1]}
    return %2 "y"
}"#;

fn after_passes(source: &str) -> Graph {
    optimized(&source::graph(source)).unwrap_or_else(|e| panic!("{e}"))
}

fn program(source: &str) -> Program {
    partition(&after_passes(source), &TINY, Choices::default()).unwrap_or_else(|e| panic!("{e:?}"))
}

/// The program's kernels as text.
fn kernels(source: &str) -> String {
    let program = program(source);
    print::program(&program, &memory::plan(&program))
}

/// MLIR of a program with one kernel.
fn mlir(source: &str) -> String {
    let program = program(source);
    assert_eq!(program.kernels.len(), 1, "kernels");
    let context = Context::new();
    let mut module = Module::new(&context);
    let (lanes, linkage) = (TINY.lanes as u32, Linkage::Hidden);
    emit(&mut module, "cameo_k0", &program.kernels[0], lanes, linkage, None);
    module.seal();
    cameo_codegen::lower::text(&module)
}

#[test]
fn graphs_after_the_passes() {
    insta::assert_snapshot!("attention_graph", text::print(&after_passes(ATTENTION)));
    insta::assert_snapshot!("convolutions_graph", text::print(&after_passes(CONVOLUTIONS)));
}

#[test]
fn programs() {
    insta::assert_snapshot!("attention_program", kernels(ATTENTION));
    insta::assert_snapshot!("convolutions_program", kernels(CONVOLUTIONS));
    insta::assert_snapshot!("winograd_program", kernels(WINOGRAD));
}

#[test]
fn mlir_of_a_row_of_softmax() {
    insta::assert_snapshot!("softmax_mlir", mlir(SOFTMAX));
}

#[test]
fn mlir_of_a_contraction_with_bias_and_relu() {
    insta::assert_snapshot!("linear_mlir", mlir(LINEAR));
}

#[test]
fn mlir_of_a_depthwise_window() {
    insta::assert_snapshot!("depthwise_mlir", mlir(DEPTHWISE));
}
