//! Every kind of artefact, made of the sample program and used as a user would.

use super::*;
use crate::archive::{global_symbols, undefined_symbols};
use crate::sample;
use cameo_npz::{Array, DType};
use std::collections::BTreeSet;
use std::process::Command;

/// Rows of the test input: more than a vector, not a multiple of one.
const ROWS: usize = 37;

/// Symbols that a model may need from elsewhere: what LLVM calls by itself.
const ALLOWED: [&str; 4] = ["memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_"];

fn levels() -> Vec<Level> {
    sample::levels(&["x86-64-v3"])
}

fn options(emit: Emit) -> ArtifactOptions {
    ArtifactOptions::new("Sample.1", emit)
}

/// Code for all levels of processors.
fn all_levels() -> Vec<Level> {
    sample::levels(&["x86-64-v4", "x86-64-v3", "x86-64-v2"])
}

/// Writes an artefact into `folder`, which it names.
fn make(options: &ArtifactOptions, folder: &Path) -> ArtifactReport {
    make_for(&levels(), options, folder)
}

fn make_for(levels: &[Level], options: &ArtifactOptions, folder: &Path) -> ArtifactReport {
    let out = if options.emit == Emit::Exe {
        folder.join("sample")
    } else {
        folder.to_owned()
    };
    let report = build(levels, options, &out).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.weight_bytes, 128);
    report
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.collect()
}

fn input() -> Vec<f32> {
    (0..ROWS * sample::WIDTH).map(|i| i as f32 * 0.25 - 3.0).collect()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{error}");
    assert!(error.is_empty(), "{command:?}\n{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A C program that uses the typed header and the plain interface; prints `ok`.
fn c_program(weights: &str) -> String {
    let x: Vec<String> = input().iter().map(ToString::to_string).collect();
    let [y, z] = sample::expected(&input()).map(|v| v.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    format!(
        r#"#include "sample_1.h"
#include <stdio.h>
#define CHECK(condition) if (!(condition)) {{ printf("%s: %s\n", #condition, cameo_last_error()); return 1; }}
int main(void) {{
    static const float x[] = {{{x}}}, y[] = {{{y}}}, z[] = {{{z}}};
    cameo_model *model;
    cameo_context *context;
    sample_1_inputs inputs = {{{ROWS}, x}};
    sample_1_outputs outputs;
    CHECK(sample_1_open({weights}, &model) == CAMEO_OK);
    CHECK(cameo_context_create(model, NULL, &context) == CAMEO_OK);
    CHECK(sample_1_run(context, &inputs, &outputs) == CAMEO_OK);
    CHECK(outputs.out_1_shape[0] == {ROWS} && outputs.out_1_shape[1] == 4 && outputs.t2_shape[0] == 4 * {ROWS});
    for (int i = 0; i < 4 * {ROWS}; i++)
        CHECK(outputs.out_1[i] == y[i] && outputs.t2[i] == z[i]);
    CHECK(SAMPLE_1_INPUT_X == 0 && SAMPLE_1_OUTPUT_T2 == 1);
    inputs.S = 1001;
    CHECK(sample_1_run(context, &inputs, &outputs) == CAMEO_OUT_OF_RANGE);
    inputs.S = -1;
    CHECK(sample_1_run(context, &inputs, &outputs) == CAMEO_INVALID_ARGUMENT);
    cameo_context_destroy(context);
    cameo_model_close(model);
    puts("ok");
    return 0;
}}
"#,
        x = x.join(", ")
    )
}

/// Compiles and runs the C program with `arguments` behind its source.
fn use_from_c(folder: &Path, weights: &str, arguments: &[&str]) {
    fs::write(folder.join("use.c"), c_program(weights)).unwrap();
    let mut cc = Command::new("cc");
    cc.args([
        "-std=c99",
        "-pedantic",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-o",
        "use",
        "use.c",
    ])
    .args(arguments);
    run(cc.args(["-lpthread", "-ldl", "-lm"]).current_dir(folder));
    assert_eq!(
        run(Command::new(folder.join("use"))
            .env("LD_LIBRARY_PATH", folder)
            .current_dir(folder)),
        "ok\n"
    );
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

/// Runs the executable in `folder` and checks its answer.
fn use_executable(folder: &Path) {
    let array = |name: &str, shape: &[i64], values: &[f32]| Array {
        name: name.into(),
        dtype: DType::F32,
        shape: shape.to_vec(),
        data: bytes(values),
    };
    let (rows, width) = (ROWS as i64, sample::WIDTH as i64);
    let x = array("x", &[rows, width], &input());
    cameo_npz::write(&folder.join("x.npz"), &[x.as_ref()]).unwrap();
    let program = folder.join("sample");
    run(Command::new(&program)
        .args(["--inputs", "x.npz", "--outputs", "y.npz", "--threads", "2"])
        .current_dir(folder));
    let [y, z] = sample::expected(&input());
    let expected = [array("out \"1\"", &[rows, width], &y), array("2", &[rows * width], &z)];
    assert_eq!(cameo_npz::read(&folder.join("y.npz")).unwrap(), expected);
    let text = run(Command::new(&program).arg("--describe"));
    assert!(
        text.contains("\"S\", \"min\": 1, \"max\": 1000") && text.contains("\"steps\": 3"),
        "{text}"
    );
}

#[test]
fn executables() {
    let folder = tempfile::tempdir().unwrap();
    let report = make(&options(Emit::Exe), folder.path());
    assert_eq!(
        report.files,
        [folder.path().join("sample"), folder.path().join("sample.weights")]
    );
    assert_eq!(
        names(folder.path()),
        BTreeSet::from(["sample".to_owned(), "sample.weights".to_owned()])
    );
    use_executable(folder.path());
    // An executable without weights may have 1.5 MB.
    assert!(fs::metadata(folder.path().join("sample")).unwrap().len() < 700_000);
}

#[test]
fn executables_with_their_weights() {
    let folder = tempfile::tempdir().unwrap();
    let options = ArtifactOptions {
        embed_weights: true,
        ..options(Emit::Exe)
    };
    make(&options, folder.path());
    assert_eq!(names(folder.path()), BTreeSet::from(["sample".to_owned()]));
    use_executable(folder.path());
}

#[test]
fn static_libraries() {
    for embed_weights in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        make(
            &ArtifactOptions {
                embed_weights,
                ..options(Emit::Static)
            },
            folder.path(),
        );
        let mut expected =
            BTreeSet::from(["cameo.h", "libsample_1.a", "sample_1.h", "sample_1.weights"].map(str::to_owned));
        if embed_weights {
            expected.remove("sample_1.weights");
        }
        assert_eq!(names(folder.path()), expected);
        let weights = if embed_weights { "NULL" } else { "\"sample_1.weights\"" };
        use_from_c(folder.path(), weights, &["libsample_1.a"]);
    }
}

#[test]
fn several_levels_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    make_for(&all_levels(), &options(Emit::Exe), folder.path());
    use_executable(folder.path());
    let program = |arguments: &[&str]| {
        Command::new(folder.path().join("sample"))
            .args(arguments)
            .output()
            .unwrap()
    };
    let described = String::from_utf8(program(&["--describe"]).stdout).unwrap();
    assert!(
        described.contains("\"x86-64-v4\"") && described.contains("\"x86-64-v2\""),
        "{described}"
    );
    let x = folder.path().join("x.npz");
    let old = program(&["--inputs", x.to_str().unwrap(), "--cpu", "x86-64-v2"]);
    assert!(old.status.success(), "{old:?}");
    let unknown = program(&["--describe", "--cpu", "v9"]);
    let said = String::from_utf8(unknown.stderr).unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    assert_eq!(
        said,
        "sample: --cpu v9: this program has code for x86-64-v4, x86-64-v3, x86-64-v2\n"
    );

    let folder = tempfile::tempdir().unwrap();
    make_for(&all_levels(), &options(Emit::Static), folder.path());
    use_from_c(folder.path(), "\"sample_1.weights\"", &["libsample_1.a"]);

    let folder = tempfile::tempdir().unwrap();
    make_for(&all_levels(), &options(Emit::Shared), folder.path());
    use_from_c(folder.path(), "\"sample_1.weights\"", &["-L.", "-lsample_1"]);
}

#[test]
fn what_is_for_one_processor_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = |levels: &[Level], options: &ArtifactOptions| {
        build(levels, options, &folder.path().join("out"))
            .unwrap_err()
            .to_string()
    };
    let said = error(&all_levels(), &options(Emit::Object));
    assert!(
        said.contains("--cpu multi") && said.contains("an object is for one processor"),
        "{said}"
    );
    let profile = ArtifactOptions {
        profile: true,
        ..options(Emit::Exe)
    };
    assert!(error(&all_levels(), &profile).contains("a profile is for one processor"));
    // Programs of different plans are no levels.
    let mut levels = all_levels();
    levels[2].program.steps.pop();
    assert!(error(&levels, &options(Emit::Exe)).contains("different plans"));
    assert!(error(&[], &options(Emit::Exe)).contains("no program"));
    assert_eq!(names(folder.path()), BTreeSet::new());
}

#[test]
fn two_models_in_one_program() {
    let folder = tempfile::tempdir().unwrap();
    make(&options(Emit::Static), folder.path());
    make(
        &ArtifactOptions {
            name: "other".into(),
            ..options(Emit::Static)
        },
        folder.path(),
    );
    let use_other = "#include \"other.h\"\nconst void *other(void) { return &other_model; }\n";
    fs::write(folder.path().join("other.c"), use_other).unwrap();
    use_from_c(
        folder.path(),
        "\"sample_1.weights\"",
        &["other.c", "libsample_1.a", "libother.a"],
    );
}

#[test]
fn shared_libraries() {
    let folder = tempfile::tempdir().unwrap();
    make(
        &ArtifactOptions {
            embed_weights: true,
            ..options(Emit::Shared)
        },
        folder.path(),
    );
    use_from_c(folder.path(), "NULL", &["-L.", "-lsample_1"]);
    // Nothing but the interface is visible.
    let library = folder.path().join("libsample_1.so");
    let listing = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library));
    let exported: Vec<&str> = listing.lines().filter_map(|line| line.split(' ').next_back()).collect();
    assert!(exported.contains(&"sample_1_model") && exported.contains(&"cameo_run"));
    let strange = |name: &&&str| !name.starts_with("cameo_") && **name != "sample_1_model";
    assert_eq!(exported.iter().filter(strange).collect::<Vec<_>>(), [&""; 0]);
    assert!(!exported.contains(&"cameo_exe_main"));
}

#[test]
fn objects() {
    let folder = tempfile::tempdir().unwrap();
    make(
        &ArtifactOptions {
            embed_weights: true,
            ..options(Emit::Object)
        },
        folder.path(),
    );
    let object = fs::read(folder.path().join("sample_1.o")).unwrap();
    let needs = undefined_symbols(&object).unwrap();
    assert!(needs.iter().all(|name| ALLOWED.contains(name)), "{needs:?}");
    // All names begin with the model's, so that models do not clash.
    let gives = global_symbols(&object).unwrap();
    assert!(
        gives.contains(&"sample_1_model") && gives.iter().all(|name| name.starts_with("sample_1_")),
        "{gives:?}"
    );
    use_from_c(folder.path(), "NULL", &["sample_1.o", "libcameo.a"]);
}

#[test]
fn objects_for_another_architecture() {
    let folder = tempfile::tempdir().unwrap();
    let arm = [Level {
        program: sample::program(),
        machine: Machine::new(Some(crate::object::AARCH64_LINUX), "generic").unwrap(),
    }];
    let error = |emit| build(&arm, &options(emit), &folder.path().join("x")).unwrap_err();
    assert!(matches!(error(Emit::Static), ArtifactError::NoRuntime { .. }));
    assert!(
        error(Emit::Exe)
            .to_string()
            .contains("no runtime library for aarch64-unknown-linux-gnu")
    );
    // Assembly needs no tool of that architecture.
    build(&arm, &options(Emit::Rust), folder.path()).unwrap();
    let interface = fs::read_to_string(folder.path().join("src/lib.rs")).unwrap();
    assert!(interface.contains("target_arch = \"aarch64\"") && interface.contains("options(raw)"));
}

/// The program that the tests of the Rust crate run.
fn rust_program() -> String {
    let [y, z] = sample::expected(&input());
    format!(
        r#"use sample_1::{{Error, Inputs, Model, Tensor}};

fn main() -> Result<(), Error> {{
    let weights = std::env::args().nth(1);
    let mut model = Model::open(weights.as_deref().map(std::path::Path::new))?;
    let mut other = model.fork()?;
    let x: Vec<f32> = vec!{x:?};
    let inputs = Inputs {{ x: Tensor::new(&x, [{ROWS}, 4]) }};
    let outputs = model.run(&inputs)?;
    assert_eq!(outputs.out_1.shape, [{ROWS}, 4]);
    assert_eq!(outputs.out_1.data, {y:?});
    assert_eq!(outputs.t2.data, {z:?});
    assert_eq!(other.run(&inputs)?.t2.data, outputs.t2.data);
    let wrong = model.run(&Inputs {{ x: Tensor::new(&x, [1, 4]) }}).map(drop);
    println!("{{}}", wrong.unwrap_err());
    Ok(())
}}
"#,
        x = input()
    )
}

#[test]
fn rust_crates() {
    for embed_weights in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (krate, app) = (folder.path().join("model"), folder.path().join("app"));
        let levels = if embed_weights { levels() } else { all_levels() };
        build(
            &levels,
            &ArtifactOptions {
                embed_weights,
                ..options(Emit::Rust)
            },
            &krate,
        )
        .unwrap();
        fs::create_dir_all(app.join("src")).unwrap();
        let manifest = "[package]\nname = \"app\"\nedition = \"2024\"\n[dependencies]\nsample_1 = { path = \"../model\" }\n\
                        [workspace]\n";
        fs::write(app.join("Cargo.toml"), manifest).unwrap();
        fs::write(app.join("src/main.rs"), rust_program()).unwrap();
        let cargo = |arguments: &[&str]| {
            let mut cargo = Command::new(env!("CARGO"));
            cargo
                .args(["run", "--quiet", "--offline"])
                .args(arguments)
                .current_dir(&app);
            for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RUST") || name.starts_with("CARGO_"))
            {
                // The build around the test is not this one's; the toolchain and its home are.
                if !["RUSTUP_HOME", "CARGO_HOME", "RUSTUP_TOOLCHAIN"].contains(&&*name) {
                    cargo.env_remove(name);
                }
            }
            // `run` insists on an empty standard error, so this also says that there are no warnings.
            run(cargo.env("RUST_BACKTRACE", "0"))
        };
        let text = cargo(&[]);
        assert!(text.contains("\"x\""), "{text}");
        let profiles: &[&str] = if embed_weights { &[] } else { &["--release"] };
        assert_eq!(cargo(profiles), text);
    }
}

#[test]
fn artefacts_are_reproducible() {
    for emit in Emit::ALL.map(|(_, emit)| emit) {
        for embed_weights in [false, true] {
            let options = ArtifactOptions {
                embed_weights,
                ..options(emit)
            };
            let content = |threads: usize| {
                let folder = tempfile::tempdir().unwrap();
                // Another length of path each time.
                let inner = folder.path().join("x".repeat(threads * 9)).join("sample");
                let compile_options = CompileOptions {
                    threads,
                    ..options.compile_options()
                };
                let compiled = compile(&levels(), "sample_1", &compile_options).unwrap();
                let report = write_artifact(&levels(), &compiled, &options, &inner).unwrap();
                let read = |path: &PathBuf| {
                    let name = path.strip_prefix(inner.parent().unwrap()).unwrap().to_owned();
                    (name, fs::read(path).unwrap())
                };
                report.files.iter().map(read).collect::<Vec<_>>()
            };
            let (first, second) = (content(1), content(2));
            assert!(!first.is_empty());
            for (a, b) in first.iter().zip(&second) {
                assert!(a == b, "{emit:?} {embed_weights}: {} differs", a.0.display());
            }
            assert_eq!(first.len(), second.len());
        }
    }
}

#[test]
fn failures_leave_nothing_and_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sample");
    let fail = |options: &ArtifactOptions, out: &Path| build(&levels(), options, out).unwrap_err();
    let missing = ArtifactOptions {
        linker: Some("no-such-compiler".into()),
        ..options(Emit::Exe)
    };
    let error = fail(&missing, &out).to_string();
    assert!(
        error.starts_with("cannot start no-such-compiler") && error.contains("Debian: gcc"),
        "{error}"
    );
    let failing = ArtifactOptions {
        linker: Some("false".into()),
        ..options(Emit::Exe)
    };
    assert!(fail(&failing, &out).to_string().starts_with("false -o linked"));
    assert_eq!(names(folder.path()), BTreeSet::new());

    fs::write(&out, "a file").unwrap();
    let error = fail(&options(Emit::Static), &out);
    assert!(error.to_string().contains("cannot write"), "{error}");
    // An executable is replaced, also while it runs.
    make(&options(Emit::Exe), folder.path());
    use_executable(folder.path());
}
