//! `--cpu multi`: one artefact with code for every level of x86-64.
#![cfg(target_arch = "x86_64")]

use std::collections::BTreeSet;

use cameo::artifact::MULTI;
use cameo::{Emit, Options, Output, Target, pipeline};
use cameo_codegen::archive::{global_symbols, undefined_symbols};
use cameo_codegen::emit::math::LIBM;
use cameo_ir::random::Rng;
use cameo_ir::{DType, Graph, Tensor, interp};
use cameo_runtime::Error;
use cameo_tests::case::elements;
use cameo_tests::model::optimized;
use cameo_tests::{Choices, Model, difference, source};

const LEVELS: [&str; 3] = ["x86-64-v4", "x86-64-v3", "x86-64-v2"];

/// Packed weights whose columns fill no panel of any level, Winograd's form, a long row that is summed in parts, softmax,
/// halves, and elements that are only moved.
const NETWORK: &str = r#"graph @net (%0 "image": f32[2,5,11,13], %1 "row": f32[1,3000], %2 "half": f16[2,7]) {
    weight %10: f32[37,5,3,3] = blob("stem")
    weight %11: f32[40,37,3,3] = blob("body")
    weight %12: f32[40,1,3,3] = blob("depthwise")
    weight %13: f32[21,40,1,1] = blob("pointwise")
    weight %14: f32[3000,3] = blob("long")
    weight %15: f32[7,9] = blob("small")
    weight %16: f32[7] = blob("wide")
    weight %17: f32[] = dense(0.03)
    %20 = Conv(%0, %10) {pads=[1,1,1,1]}
    %21 = Relu(%20)
    %22 = Conv(%21, %11) {pads=[1,1,1,1]}
    %23 = Sigmoid(%22)
    %24 = Conv(%23, %12) {group=40, pads=[1,1,1,1]}
    %25 = Conv(%24, %13)
    %34 = Mul(%25, %17)
    %26 = Softmax(%34) {axis=1}
    %27 = MatMul(%1, %14)
    %28 = Cast(%2) {to=f32}
    %29 = Add(%28, %16)
    %30 = MatMul(%29, %15)
    %31 = Erf(%30)
    %32 = Cast(%29) {to=f16}
    %33 = Transpose(%0) {perm=[3,1,0,2]}
    return %26 "classes", %27 "sums", %31 "mixed", %32 "rounded", %33 "moved"
}"#;

fn inputs(g: &Graph) -> Vec<Tensor> {
    let mut r = Rng::new(5);
    let one = |v: &cameo_ir::ValueId| {
        let fact = g.fact(*v);
        elements(&mut r, fact.dtype, &fact.static_shape().expect("no symbols"), None)
    };
    g.inputs().iter().map(one).collect()
}

fn compiled(g: &Graph, cpu: &'static str) -> Model {
    Model::new(g, &Choices::new(true, cpu)).unwrap_or_else(|e| panic!("{e}"))
}

/// The level of an artefact for several, where this machine has it.
fn at_level(model: &Model, level: &str) -> Option<Model> {
    match model.at_level(level) {
        Err(Error::CpuUnsupported { .. }) => None,
        opened => Some(opened.unwrap_or_else(|e| panic!("{level}: {e}"))),
    }
}

#[test]
fn every_level_computes_what_a_build_for_it_alone_does() {
    let g = source::graph(NETWORK);
    let inputs = inputs(&g);
    let want = interp::run(&g, &inputs).expect("runs");
    let multi = compiled(&g, MULTI);
    assert_eq!(multi.description().levels().collect::<Vec<_>>(), LEVELS);
    let mut ran = vec![];
    for cpu in LEVELS {
        let Some(level) = at_level(&multi, cpu) else { continue };
        let alone = compiled(&g, cpu);
        assert_eq!(alone.description().levels().collect::<Vec<_>>(), [cpu]);
        for threads in [1, 2] {
            let got = level.run(&inputs, threads).expect("runs");
            for (i, (w, g)) in want.iter().zip(&got).enumerate() {
                assert_eq!(difference(w, g), None, "{cpu}: output {i}");
            }
            let other = alone.run(&inputs, threads).expect("runs");
            for (i, (a, b)) in got.iter().zip(&other).enumerate() {
                assert_eq!(
                    a.bytes(),
                    b.bytes(),
                    "{cpu}: output {i} is not that of a build for it alone"
                );
            }
        }
        ran.push(cpu);
    }
    // What is taken without being asked is the best.
    assert!(ran.contains(&"x86-64-v2"));
    let best = at_level(&multi, ran[0]).expect("it ran").run(&inputs, 1).expect("runs");
    let taken = multi.run(&inputs, 1).expect("runs");
    assert!(best.iter().zip(&taken).all(|(a, b)| a.bytes() == b.bytes()));
    assert!(matches!(multi.at_level("x86-64-v5"), Err(Error::InvalidArgument(_))));
}

/// Everything in the files of an artefact, by name.
fn files(g: &Graph, cpu: &str, emit: Emit) -> Vec<(String, Vec<u8>)> {
    let silent = &mut |_: cameo::Event| {};
    let target = Target {
        triple: None,
        cpu: cpu.into(),
    };
    let options = Options {
        name: Some("net".into()),
        emit,
        ..Options::default()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let g = optimized(g).expect("the passes run");
    let mut written = || {
        let levels = pipeline::levels(&g, target.machines()?, &options, silent)?;
        let artifact = pipeline::generate(levels, &options, silent)?;
        pipeline::link(&artifact, &Output::new(folder.path().join("net")), silent)
    };
    let report = written().unwrap_or_else(|e| panic!("{e}"));
    let read = |path: &std::path::PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, std::fs::read(path).expect("the file was just written"))
    };
    report.files.iter().map(read).collect()
}

fn bytes<'a>(files: &'a [(String, Vec<u8>)], name: &str) -> &'a [u8] {
    let found = files.iter().find(|(n, _)| n == name);
    &found.unwrap_or_else(|| panic!("no {name}")).1
}

#[test]
fn levels_share_weights_and_what_they_cannot_do_faster() {
    let g = source::graph(NETWORK);
    let [multi, one] = [MULTI, "x86-64-v3"].map(|cpu| files(&g, cpu, Emit::Static));
    assert!(bytes(&multi, "net.weights") == bytes(&one, "net.weights"));
    let kernels = |files: &[(String, Vec<u8>)]| {
        // The archive's first object is the model.
        let archive = bytes(files, "libnet.a");
        let first = archive.windows(4).position(|w| w == b"\x7fELF").expect("an object");
        let symbols = global_symbols(&archive[first..]).expect("an object");
        let kernels = symbols.into_iter().filter(|s| s.contains("_k"));
        kernels.map(str::to_owned).collect::<BTreeSet<String>>()
    };
    let (all, alone) = (kernels(&multi), kernels(&one));
    // Without the level, so that they can be compared.
    let of = |level: &str| -> BTreeSet<String> {
        let tag = format!("_{level}_");
        all.iter()
            .filter(|s| s.contains(&tag))
            .map(|s| s.replacen(&tag, "_", 1))
            .collect()
    };
    let [v4, v3, v2] = ["v4", "v3", "v2"].map(of);
    assert_eq!(all.len(), v4.len() + v3.len() + v2.len(), "{all:?}");
    assert!(
        v4.iter().any(|s| s.contains("winograd")) && v3.iter().any(|s| s.contains("winograd")),
        "{all:?}"
    );
    assert_eq!(v2, alone);
    let shared: Vec<_> = v2.iter().filter(|s| !v4.contains(*s) && !v3.contains(*s)).collect();
    assert!(
        !shared.is_empty() && shared.iter().all(|s| s.contains("nest")),
        "{all:?}"
    );
    assert_eq!(v3.len() + shared.len(), v2.len());
}

#[test]
fn code_for_all_levels_is_small() {
    let g = source::graph(NETWORK);
    let [multi, v4, v3, v2] = [MULTI, LEVELS[0], LEVELS[1], LEVELS[2]].map(|cpu| {
        let files = files(&g, cpu, Emit::Exe);
        bytes(&files, "net").len()
    });
    for one in [v4, v3, v2] {
        assert!(2 * multi < 5 * one, "{multi} of {one}");
    }
}

/// What a processor has no instruction for, LLVM may take from a library that is not there.
#[test]
fn the_oldest_level_needs_no_library_for_what_it_lacks() {
    let files = files(&source::graph(NETWORK), LEVELS[2], Emit::Object);
    let needed = undefined_symbols(bytes(&files, "net.o")).expect("an object");
    let memory = ["memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_"];
    let strange: Vec<_> = needed
        .iter()
        .filter(|s| !memory.contains(s) && !LIBM.contains(s))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn only_x86_64_has_levels() {
    let machines = |cpu: &str, triple: Option<&str>| {
        let target = Target {
            triple: triple.map(Into::into),
            cpu: cpu.into(),
        };
        target.machines().map(|m| m.len()).map_err(|e| e.to_string())
    };
    assert_eq!(machines(MULTI, None), Ok(3));
    assert_eq!(machines("x86-64-v2", None), Ok(1));
    for triple in ["aarch64-unknown-linux-gnu", "wasm32-wasip1"] {
        let said = machines(MULTI, Some(triple)).expect_err("one level only");
        assert!(said.contains("is for x86-64") && said.contains(triple), "{said}");
    }
    let one = Target {
        triple: None,
        cpu: MULTI.into(),
    };
    assert!(one.machine().is_err());
}

#[test]
fn halves_are_halves_without_instructions_for_them() {
    let g = source::graph(
        r#"graph @g (%0 "x": f32[4096]) {
        %1 = Cast(%0) {to=f16}
        return %1 "y"
    }"#,
    );
    let values = (0..4096).map(|i| f32::from_bits(0x3200_0000 + i * 0x1_6001));
    let x = vec![Tensor::f32(&[4096], values)];
    let want = interp::run(&g, &x).expect("runs");
    assert_eq!(want[0].dtype(), DType::F16);
    let got = compiled(&g, "x86-64-v2").run(&x, 1).expect("runs");
    assert_eq!(want[0].bytes(), got[0].bytes());
}
