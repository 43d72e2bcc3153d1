//! The network that is compiled, and its artefacts.

use std::path::{Path, PathBuf};

use cameo::{Emit, Options, Output, Target, pipeline};
use cameo_ir::{DType, Graph, Tensor};
use cameo_runtime::{Context, ContextOptions, Error, Model};
use cameo_tests::model::{open, optimized};
use cameo_tests::source;

/// Convolutions, an embedding, attention over 2 heads of 4 and functions of the C library, at `$B` and `$S`.
const NETWORK: &str = r#"graph @network (%0 "ids": i64[$B,$S], %1 "mask": f32[$B,1,1,$S], %2 "image": f32[$B,3,9,9]) $D {
    weight %10: f32[11,8] = blob("table")
    weight %11: f32[8,8] = blob("wq")
    weight %12: f32[8,8] = blob("wk")
    weight %13: f32[8,8] = blob("wv")
    weight %14: f32[8] = blob("gamma")
    weight %15: f32[8,3,3,3] = blob("conv")
    weight %16: f32[8,1,3,3] = blob("depthwise")
    weight %17: f32[8,8,1,1] = blob("pointwise")
    %20 = Gather(%10, %0) {axis=0}
    %21 = MatMul(%20, %11)
    %22 = Reshape(%21) {shape=dims[$B,$S,2,4]}
    %23 = Transpose(%22) {perm=[0,2,1,3]}
    %24 = MatMul(%20, %12)
    %25 = Reshape(%24) {shape=dims[$B,$S,2,4]}
    %26 = Transpose(%25) {perm=[0,2,3,1]}
    %27 = MatMul(%20, %13)
    %28 = Reshape(%27) {shape=dims[$B,$S,2,4]}
    %29 = Transpose(%28) {perm=[0,2,1,3]}
    %30 = MatMul(%23, %26)
    %31 = Add(%30, %1)
    %32 = Softmax(%31)
    %33 = MatMul(%32, %29)
    %34 = Transpose(%33) {perm=[0,2,1,3]}
    %35 = Reshape(%34) {shape=dims[$B,$S,8]}
    %36 = LayerNormalization(%35, %14)
    %37 = Atan(%36)
    %40 = Conv(%2, %15, %14) {pads=[1,1,1,1]}
    %41 = Relu(%40)
    %42 = Conv(%41, %16) {group=8, pads=[1,1,1,1]}
    %43 = Conv(%42, %17)
    %44 = Add(%43, %41)
    %45 = GlobalAveragePool(%44)
    %46 = Reshape(%45) {shape=dims[$B,1,8]}
    %47 = Add(%37, %46)
    return %47 "hidden", %45 "pooled"
}"#;

/// Another network of the same name.
pub fn other() -> Graph {
    source::graph(
        r#"graph @network (%0 "x": f32[8]) {
            weight %1: f32[8] = blob("other")
            %2 = Add(%0, %1)
            return %2 "y"
        }"#,
    )
}

/// Inputs in the network's order.
pub const NAMES: [&str; 3] = ["ids", "mask", "image"];

pub fn network(batch: &str, length: &str) -> Graph {
    let symbols = if batch == "B" { "symbols B=1.., S=1..64" } else { "" };
    let text = NETWORK
        .replace("$B", batch)
        .replace("$S", length)
        .replace("$D", symbols);
    source::graph(&text)
}

/// The network for every shape.
pub fn symbolic() -> Graph {
    network("B", "S")
}

pub fn inputs(batch: usize, length: usize) -> Vec<Tensor> {
    let ids = Tensor::from_f64(
        DType::I64,
        &[batch, length],
        (0..batch * length).map(|i| (i * 7 % 11) as f64),
    );
    let mask = Tensor::f32(&[batch, 1, 1, length], (0..batch * length).map(|i| -((i % 3) as f32)));
    let image = Tensor::f32(&[batch, 3, 9, 9], (0..batch * 243).map(|i| (i % 17) as f32 / 8.0 - 1.0));
    vec![ids, mask, image]
}

/// Compiles into a folder; gives the files that were written.
pub fn write(graph: &Graph, emit: Emit, folder: &Path) -> Vec<PathBuf> {
    let silent = &mut |_: cameo::Event| {};
    let target = Target {
        triple: None,
        cpu: "native".into(),
    };
    let options = Options {
        emit,
        ..Options::default()
    };
    let mut written = || {
        let graph = optimized(graph).expect("the passes run");
        let levels = pipeline::levels(&graph, target.machines()?, &Options::default(), silent)?;
        let artifact = pipeline::generate(levels, &options, silent)?;
        let path = if emit == Emit::Exe {
            folder.join("network")
        } else {
            folder.to_owned()
        };
        pipeline::link(&artifact, &Output::new(path), silent)
    };
    written().unwrap_or_else(|e| panic!("{e}")).files
}

/// A compiled network with its weights in a file, in a folder that lives as long.
pub struct Compiled {
    pub folder: tempfile::TempDir,
}

impl Compiled {
    pub fn new(graph: &Graph) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        write(graph, Emit::Shared, folder.path());
        Self { folder }
    }

    pub fn library(&self) -> PathBuf {
        self.folder.path().join("libnetwork.so")
    }

    pub fn weights(&self) -> PathBuf {
        self.folder.path().join("network.weights")
    }

    pub fn open_with(&self, weights: Option<&Path>) -> Result<Model, Error> {
        open(&self.library(), "network", weights)
    }

    pub fn context(&self, threads: usize) -> Context {
        let model = self.open_with(Some(&self.weights())).expect("opens");
        let options = ContextOptions {
            threads,
            ..ContextOptions::default()
        };
        Context::new(&model, options).expect("a context")
    }
}
