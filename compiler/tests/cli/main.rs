//! The program `cameo`, as its users call it: every command on tiny models.

mod custom;
mod items;
mod models;
mod profile;
mod report;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cameo_npz::{Array, DType};
use serde_json::Value;

/// Runs `cameo` in `folder`.
fn cameo<S: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cameo"));
    command.current_dir(folder).args(args).output().expect("cameo runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `cameo`, which must succeed; gives standard output.
fn done<S: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = S>) -> String {
    let out = cameo(folder, args);
    assert!(out.status.success(), "{}", text(&out.stderr));
    text(&out.stdout)
}

fn json<S: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = S>) -> (Value, Option<i32>) {
    let out = cameo(folder, args);
    let value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&out.stderr)));
    (value, out.status.code())
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn save(path: &Path, name: &str, shape: &[i64], data: &[f32]) {
    let data = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    let array = Array {
        name: name.into(),
        dtype: DType::F32,
        shape: shape.to_vec(),
        data,
    };
    cameo_npz::write(path, &[array.as_ref()]).expect("writes the inputs");
}

fn load(path: &Path, name: &str) -> (Vec<i64>, Vec<f32>) {
    let all = cameo_npz::read(path).expect("reads the outputs");
    let a = all.into_iter().find(|a| a.name == name).expect("the output");
    let data = a
        .data
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    (a.shape, data)
}

/// The `.ir` files of a dump, in order.
fn stages(dump: &Path) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = std::fs::read_dir(dump)
        .expect("the dump")
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "ir"))
        .collect();
    out.sort();
    out
}

fn stage_name(path: &Path) -> String {
    let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
    stem.split_once('-').expect("a number and a name").1.to_owned()
}

/// `relu(x · w + b)` of [`models::linear`].
fn linear(x: [f32; 2]) -> [f32; 2] {
    [x[0] + 2.0 * x[1] + 0.5, -x[0] + 3.0 * x[1] - 0.5].map(|v| v.max(0.0))
}

#[test]
fn inspect_tells_what_is_in_a_model() {
    let dir = folder();
    models::linear(dir.path());
    let (found, code) = json(dir.path(), ["inspect", "linear.onnx", "--json"]);
    assert_eq!(code, Some(0));
    assert_eq!(found["ops"], serde_json::json!({"Add": 1, "MatMul": 1, "Relu": 1}));
    assert_eq!(
        found["inputs"],
        serde_json::json!([{"name": "x", "dtype": "f32", "shape": ["N", 2]}])
    );
    assert_eq!(
        found["outputs"],
        serde_json::json!([{"name": "y", "dtype": "f32", "shape": ["N", 2]}])
    );
    assert_eq!(found["symbols"], serde_json::json!({"N": {"min": 0, "max": null}}));
    assert_eq!((&found["parameters"], &found["weight_bytes"]), (&6.into(), &24.into()));
    assert_eq!(
        (&found["unsupported"], &found["kernels"]),
        (&serde_json::json!([]), &Value::Null)
    );

    let (found, _) = json(
        dir.path(),
        ["inspect", "linear.onnx", "--json", "--optimized", "--dim", "N=1..7"],
    );
    assert_eq!(found["kernels"], 1);
    assert_eq!(found["symbols"], serde_json::json!({"N": {"min": 1, "max": 7}}));
    let (found, _) = json(dir.path(), ["inspect", "linear.onnx", "--json", "--dim", "N=5"]);
    assert_eq!(found["inputs"][0]["shape"], serde_json::json!([5, 2]));
    // 5 rows of 2 results of 2 products and sums; then bias and relu.
    assert!(
        found["flops"].as_i64().is_some_and(|n| (40..=70).contains(&n)),
        "{}",
        found["flops"]
    );

    let (found, _) = json(
        dir.path(),
        ["inspect", "linear.onnx", "--json", "--optimized", "--at", "N=5"],
    );
    assert!(
        found["flops"].as_i64().is_some_and(|n| (40..=70).contains(&n)),
        "{}",
        found["flops"]
    );
    // One kernel from the input to the output.
    assert_eq!((&found["arena_bytes"], &found["alive_bytes"]), (&0.into(), &0.into()));
    let refused = cameo(dir.path(), ["inspect", "linear.onnx", "--at", "M=5"]);
    assert_eq!(refused.status.code(), Some(1));
    let refused = text(&refused.stderr);
    assert!(
        refused.contains("--at M: there is no such dimension") && refused.contains("are N"),
        "{refused}"
    );

    let shown = done(dir.path(), ["inspect", "linear.onnx"]);
    for line in [
        "input       x: f32[N,2]",
        "dimension   N = 0..",
        "parameters  6 (24 B)",
        "supported   yes",
    ] {
        assert!(shown.contains(line), "{line:?} is missing in\n{shown}");
    }
}

#[test]
fn everything_unsupported_is_reported_at_once() {
    let dir = folder();
    models::strange(dir.path());
    let (found, code) = json(dir.path(), ["inspect", "strange.onnx", "--json"]);
    assert_eq!(code, Some(1));
    let named: Vec<(&str, &str, i64)> = found["unsupported"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|p| {
            (
                p["node"].as_str().unwrap_or(""),
                p["op"].as_str().unwrap_or(""),
                p["opset"].as_i64().unwrap_or(0),
            )
        })
        .collect();
    assert_eq!(named, [("first_stranger", "Foo", 17), ("node #3", "Bar", 17)]);
    assert_eq!(
        found["ops"],
        serde_json::json!({"Abs": 1, "Bar": 1, "Foo": 1, "Relu": 1})
    );

    // The compiler says the same, with the nodes around and what to do.
    let out = cameo(dir.path(), ["compile", "strange.onnx"]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    for part in [
        "error: unsupported: node `first_stranger` (Foo, opset 17)",
        "node #3 (Bar, opset 17)",
        "  %a = Relu(%x) from \"before\"",
        "> %b = Foo(%a) from \"first_stranger\"",
        "help: ",
        "2 problems",
    ] {
        assert!(said.contains(part), "{part:?} is missing in\n{said}");
    }
}

#[test]
fn exit_codes_tell_whose_mistake_it_is() {
    let dir = folder();
    models::linear(dir.path());
    let code = |args: &[&str]| cameo(dir.path(), args).status.code();
    assert_eq!(code(&["compile", "missing.onnx"]), Some(1));
    assert_eq!(code(&["inspect", "linear.onnx", "--dim", "Q=1"]), Some(1));
    assert_eq!(code(&["compile", "linear.onnx", "--cpu", "pentium"]), Some(1));
    std::fs::write(dir.path().join("noise.onnx"), b"this is not a model").expect("writes");
    assert_eq!(code(&["inspect", "noise.onnx"]), Some(1));
    assert_eq!(code(&["compile"]), Some(2));
    assert_eq!(code(&["compile", "linear.onnx", "--emit", "wasm"]), Some(2));
    assert_eq!(code(&["compile", "linear.onnx", "--dump-ir-after", "nothing"]), Some(2));
    assert_eq!(code(&["opt", "x.ir", "--passes", "nothing"]), Some(2));
    assert_eq!(code(&["inspect"]), Some(2));
    assert_eq!(code(&["--version"]), Some(0));
}

#[test]
fn every_stage_of_a_dump_follows_from_the_one_before() {
    let dir = folder();
    models::busy(dir.path());
    done(
        dir.path(),
        [
            "compile",
            "busy.onnx",
            "--dump-ir",
            "dump",
            "--stop-after",
            "partition",
            "--verify",
            "-q",
        ],
    );
    let dump = dir.path().join("dump");
    let stages = stages(&dump);
    let names: Vec<String> = stages.iter().map(|p| stage_name(p)).collect();
    assert_eq!(names[0], "import");
    for pass in ["known_shapes", "fold_constants", "cse", "fold_scales", "transposes"] {
        assert!(names.iter().any(|n| n == pass), "{pass} changed nothing: {names:?}");
    }
    assert!(dump.join("weights").is_dir(), "96 elements are not inline");
    for pair in stages.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        let printed = done(
            dir.path(),
            [
                "opt".as_ref(),
                before.as_os_str(),
                "--passes".as_ref(),
                stage_name(after).as_ref(),
            ],
        );
        assert_eq!(
            printed,
            std::fs::read_to_string(after).expect("reads"),
            "{}",
            after.display()
        );
        // Printing is canonical.
        let again = done(dir.path(), ["print".as_ref(), before.as_os_str()]);
        assert_eq!(again, std::fs::read_to_string(before).expect("reads"));
    }
    let kernels = std::fs::read_dir(&dump)
        .expect("the dump")
        .flatten()
        .map(|e| e.file_name());
    assert!(
        kernels
            .into_iter()
            .any(|n| n.to_string_lossy().ends_with("-partition.kernels"))
    );
}

#[test]
fn one_stage_goes_to_standard_output() {
    let dir = folder();
    models::busy(dir.path());
    let args = [
        "compile",
        "busy.onnx",
        "--dump-ir-after",
        "import",
        "--stop-after",
        "import",
        "-q",
    ];
    let printed = done(dir.path(), args);
    assert!(printed.starts_with("graph @busy ("), "{printed}");
    assert_eq!(printed, done(dir.path(), ["print", "busy.onnx"]));
    assert!(!dir.path().join("busy").exists(), "nothing was to be compiled");
}

#[test]
fn progress_is_plain_lines_and_quiet_is_silent() {
    let dir = folder();
    models::linear(dir.path());
    let out = cameo(
        dir.path(),
        ["compile", "linear.onnx", "--stop-after", "partition", "--time-passes"],
    );
    let said = text(&out.stderr);
    for phase in ["import ", "passes ", "partition ", "  fold_scales ", "total "] {
        assert!(
            said.lines().any(|l| l.starts_with(phase)),
            "{phase:?} is missing in\n{said}"
        );
    }
    assert!(!said.contains('\u{1b}'), "escapes although this is no terminal");
    let out = cameo(
        dir.path(),
        ["compile", "linear.onnx", "--stop-after", "partition", "-q"],
    );
    assert_eq!((text(&out.stderr), text(&out.stdout)), (String::new(), String::new()));
}

#[test]
fn opt_explains_as_json() {
    let dir = folder();
    models::busy(dir.path());
    let passes = [
        "opt",
        "busy.onnx",
        "--passes",
        "canonicalize,cse,dce,canonicalize",
        "--explain=json",
    ];
    let lines = done(dir.path(), passes.into_iter().chain(["-o", "after.ir"]));
    let decisions: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).expect("an object"))
        .collect();
    assert!(
        decisions
            .iter()
            .any(|d| d["pass"] == "cse" && d["outcome"] == "applied"),
        "{lines}"
    );
    let refused: Vec<&Value> = decisions.iter().filter(|d| d["outcome"] == "refused").collect();
    for (i, d) in refused.iter().enumerate() {
        assert!(!refused[..i].contains(d), "told twice: {d}");
    }
    assert!(dir.path().join("after.ir").exists());
    // The graph would be on standard output as well.
    assert_eq!(cameo(dir.path(), passes).status.code(), Some(2));
}

#[test]
fn a_pass_can_be_left_out() {
    let dir = folder();
    models::busy(dir.path());
    let said = |more: &[&str]| {
        let args = ["compile", "busy.onnx", "--stop-after", "passes", "--time-passes"];
        text(&cameo(dir.path(), args.iter().chain(more).copied()).stderr)
    };
    let ran = |said: &str, pass: &str| said.lines().any(|l| l.split_whitespace().next() == Some(pass));
    let without = said(&["--disable-pass", "cse", "--disable-pass", "algebra"]);
    assert!(ran(&said(&[]), "cse") && ran(&without, "dce"), "{without}");
    assert!(!ran(&without, "cse") && !ran(&without, "algebra"), "{without}");
    let out = cameo(dir.path(), ["compile", "busy.onnx", "--disable-pass", "cake"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(
        text(&out.stderr).contains("the passes are activations"),
        "{}",
        text(&out.stderr)
    );
}

#[test]
fn a_compiled_program_computes() {
    let dir = folder();
    models::linear(dir.path());
    done(dir.path(), ["compile", "linear.onnx", "-o", "lin", "-q"]);
    let rows: [[f32; 2]; 3] = [[1.0, 2.0], [-3.0, 0.25], [0.0, -1.0]];
    save(&dir.path().join("x.npz"), "x", &[3, 2], rows.as_flattened());
    let run = Command::new(dir.path().join("lin"))
        .current_dir(dir.path())
        .args(["--inputs", "x.npz", "--outputs", "y.npz", "--threads", "2"])
        .output()
        .expect("the program runs");
    assert!(run.status.success(), "{}", text(&run.stderr));
    let want: Vec<f32> = rows.into_iter().flat_map(linear).collect();
    assert_eq!(load(&dir.path().join("y.npz"), "y"), (vec![3, 2], want.clone()));

    done(
        dir.path(),
        ["run", "linear.onnx", "--inputs", "x.npz", "--outputs", "z.npz", "-q"],
    );
    assert_eq!(load(&dir.path().join("z.npz"), "y"), (vec![3, 2], want));
    // Text IR runs like the model that it was printed from.
    done(dir.path(), ["print", "linear.onnx", "-o", "linear.ir"]);
    done(
        dir.path(),
        ["run", "linear.ir", "--inputs", "x.npz", "--outputs", "t.npz", "-q"],
    );
    assert_eq!(
        load(&dir.path().join("t.npz"), "y"),
        load(&dir.path().join("z.npz"), "y")
    );
    // The program's own complaint arrives.
    save(&dir.path().join("bad.npz"), "x", &[3, 5], &[0.0; 15]);
    let bad = cameo(dir.path(), ["run", "linear.onnx", "--inputs", "bad.npz", "-q"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(!bad.stderr.is_empty());
}

#[test]
fn code_for_several_processors() {
    let dir = folder();
    models::linear(dir.path());
    let compile = ["compile", "linear.onnx", "-q", "--cpu", "multi"];
    let with = |more: &[&'static str]| [&compile[..], more].concat();
    done(dir.path(), with(&["-o", "lin"]));
    save(&dir.path().join("x.npz"), "x", &[1, 2], &[1.0, 2.0]);
    for level in [&[][..], &["--cpu", "x86-64-v2"]] {
        let run = Command::new(dir.path().join("lin"))
            .current_dir(dir.path())
            .args(["--inputs", "x.npz", "--outputs", "y.npz"])
            .args(level)
            .output()
            .expect("the program runs");
        assert!(run.status.success(), "{}", text(&run.stderr));
        assert_eq!(load(&dir.path().join("y.npz"), "y").1, linear([1.0, 2.0]));
    }
    // Where there is place for one processor, or the processor has no levels.
    for (more, code, said) in [
        (
            &["--emit", "object"][..],
            2,
            "`--cpu multi` and `--emit object` exclude each other",
        ),
        (&["--profile"], 2, "`--cpu multi` and `--profile` exclude each other"),
        (
            &["--target", "aarch64-unknown-linux-gnu"],
            1,
            "`multi` is for x86-64 and its levels, not for aarch64",
        ),
        (
            &["--target", "wasm32-unknown-unknown"],
            1,
            "`multi` is for x86-64 and its levels, not for wasm32",
        ),
    ] {
        let out = cameo(dir.path(), with(more));
        assert_eq!(out.status.code(), Some(code), "{more:?}");
        assert!(text(&out.stderr).contains(said), "{}", text(&out.stderr));
    }
    let out = cameo(dir.path(), ["inspect", "linear.onnx", "--optimized", "--cpu", "multi"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("choose one of them: native, x86-64-v2"),
        "{}",
        text(&out.stderr)
    );
}

#[test]
fn schedules_are_measured_and_taken() {
    let dir = folder();
    models::linear(dir.path());
    save(&dir.path().join("x.npz"), "x", &[1, 2], &[1.0, 2.0]);
    let tune = ["tune", "linear.onnx", "--inputs", "x.npz", "--budget", "0"];
    let said = done(dir.path(), tune);
    assert!(
        said.starts_with("0 of ") || said.contains("no step of this model"),
        "{said}"
    );
    let with = |file: &str, text: &str| {
        std::fs::write(dir.path().join(file), text).expect("written");
        cameo(
            dir.path(),
            [
                "run",
                "linear.onnx",
                "-q",
                "--inputs",
                "x.npz",
                "--outputs",
                "y.npz",
                "--tuning",
                file,
            ],
        )
    };
    for (more, said) in [(["--budget", "nan"], ""), (["--tuning", "x"], "leave `--tuning` out")] {
        let out = cameo(
            dir.path(),
            ["tune", "linear.onnx", "--inputs", "x.npz"].into_iter().chain(more),
        );
        assert_eq!(out.status.success(), said.is_empty(), "{}", text(&out.stderr));
        assert!(text(&out.stderr).contains(said), "{}", text(&out.stderr));
    }
    // Any choice computes the same.
    let out = with(
        "all.tuning",
        "cameo-tuning-1 x86-64-v3\nm=1 n=2 k=2: tile 12x8 block 24\n",
    );
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(load(&dir.path().join("y.npz"), "y").1, linear([1.0, 2.0]));
    let out = with("bad.tuning", "cameo-tuning-1 x86-64-v3\nm=1: what\n");
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("bad.tuning: line 2: `m=1: what` is not of the form"),
        "{}",
        text(&out.stderr)
    );
}

#[test]
fn another_architecture_needs_no_processor_named() {
    let dir = folder();
    models::linear(dir.path());
    let arch = if cfg!(target_arch = "aarch64") {
        "x86_64"
    } else {
        "aarch64"
    };
    let triple = format!("{arch}-unknown-linux-gnu");
    // As far as machine code: what links it is a package of its own.
    let command = [
        "compile",
        "linear.onnx",
        "-q",
        "--stop-after",
        "codegen",
        "--target",
        &triple,
    ];
    done(dir.path(), command);
    let wrong = cameo(dir.path(), [&command[..], &["--cpu", "native"]].concat());
    assert!(text(&wrong.stderr).contains("native"), "{}", text(&wrong.stderr));
}

#[test]
fn two_compilations_give_the_same_bytes() {
    let dir = folder();
    models::busy(dir.path());
    for out in ["a", "b"] {
        std::fs::create_dir(dir.path().join(out)).expect("a folder");
        done(dir.path(), ["compile", "busy.onnx", "-q", "-o", &format!("{out}/busy")]);
    }
    for file in ["busy", "busy.weights"] {
        let read = |d: &str| std::fs::read(dir.path().join(d).join(file)).expect("reads");
        assert!(read("a") == read("b"), "{file} differs");
    }
}

#[test]
fn every_form_is_written() {
    let dir = folder();
    models::linear(dir.path());
    for (form, files) in [
        ("shared", &["liblinear.so", "linear.h", "cameo.h", "linear.weights"][..]),
        ("static", &["liblinear.a", "linear.h", "cameo.h", "linear.weights"]),
        ("object", &["linear.o", "linear.h", "cameo.h", "linear.weights"]),
        ("rust", &["Cargo.toml", "src/lib.rs"]),
    ] {
        done(dir.path(), ["compile", "linear.onnx", "-q", "--emit", form, "-o", form]);
        for file in files {
            assert!(dir.path().join(form).join(file).is_file(), "{form}: {file}");
        }
    }
    done(
        dir.path(),
        ["compile", "linear.onnx", "-q", "--embed-weights", "-o", "alone"],
    );
    assert!(dir.path().join("alone").is_file() && !dir.path().join("alone.weights").exists());
}

#[test]
fn inputs_can_be_frozen() {
    let dir = folder();
    models::linear(dir.path());
    let elements: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut npy = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    npy.extend(
        format!(
            "{:<117}\n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }"
        )
        .into_bytes(),
    );
    npy.extend(elements);
    std::fs::write(dir.path().join("x.npy"), npy).expect("writes");
    let (found, code) = json(
        dir.path(),
        ["inspect", "linear.onnx", "--json", "--freeze-input", "x=x.npy"],
    );
    assert_eq!((code, &found["inputs"]), (Some(0), &serde_json::json!([])));
    assert_eq!(found["outputs"][0]["shape"], serde_json::json!([2, 2]));
    done(
        dir.path(),
        [
            "compile",
            "linear.onnx",
            "-q",
            "--freeze-input",
            "x=x.npy",
            "-o",
            "frozen",
        ],
    );
    for (name, said) in [
        ("q=x.npy", "there is no input `q` to freeze"),
        ("x=none.npy", "none.npy"),
    ] {
        let out = cameo(
            dir.path(),
            ["compile", "linear.onnx", "-q", "--freeze-input", name, "-o", "frozen"],
        );
        assert_eq!(out.status.code(), Some(1));
        assert!(text(&out.stderr).contains(said), "{}", text(&out.stderr));
    }
}

/// A feed-forward block on a residual stream, whose inner axis has these biases.
fn block(biases: &[f32]) -> String {
    let n = biases.len();
    let list = |v: Vec<f32>| v.iter().map(|x| format!("{x:?}")).collect::<Vec<_>>().join(",");
    // Rows and columns of the larger block begin as those of the smaller one.
    let up = (0..2)
        .flat_map(|r| (0..n).map(move |c| (r + 2 * c) as f32 - 1.0))
        .collect();
    let down = (0..n).flat_map(|r| [r as f32, 1.0]).collect();
    format!(
        r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {{
          weight %1: f32[2,{n}] = dense({})
          weight %2: f32[{n}] = dense({})
          weight %3: f32[{n},2] = dense({})
          %4 = MatMul(%0, %1) : f32[N,{n}] from "up"
          %5 = Add(%4, %2) : f32[N,{n}] from "bias"
          %6 = Relu(%5) : f32[N,{n}]
          %7 = MatMul(%6, %3) : f32[N,2] from "down"
          %8 = Add(%0, %7) : f32[N,2] from "skip"
          return %8 "y"
        }}"#,
        list(up),
        list(biases.to_vec()),
        list(down),
    )
}

#[test]
fn a_smaller_network_is_cut_out() {
    let dir = folder();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("writes");
    let small = block(&[0.5, -0.25]);
    write("large.ir", &block(&[0.5, -0.25, 3.0, -1.0]));
    let x = [1.0, -2.0, 0.5, 0.25, 3.0, 2.0];
    save(&dir.path().join("x.npz"), "x", &[3, 2], &x);
    let run = [
        "run",
        "large.ir",
        "-q",
        "--inputs",
        "x.npz",
        "--outputs",
        "y.npz",
        "--slice",
        "ffn=2",
    ];
    done(dir.path(), run);
    let graph = cameo_ir::text::parse(&small, &|_, _| None).expect("parses");
    let want = cameo_ir::interp::run(&graph, &[cameo_ir::Tensor::f32(&[3, 2], x)]).expect("runs");
    assert_eq!(load(&dir.path().join("y.npz"), "y"), (vec![3, 2], want[0].to_f32()));
    // What was done is told, and the stage can be dumped.
    let args = [
        "compile",
        "large.ir",
        "--slice",
        "ffn=3",
        "--dump-ir-after",
        "slice",
        "--stop-after",
        "passes",
    ];
    let out = cameo(dir.path(), args);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("ffn: 1 of 4 to 3"), "{}", text(&out.stderr));
    assert!(
        text(&out.stdout).contains("Relu(%7) : f32[N,3]"),
        "{}",
        text(&out.stdout)
    );
    let (found, code) = json(dir.path(), ["inspect", "large.ir", "--json", "--slice", "ffn=3"]);
    assert_eq!((code, &found["optimized"]), (Some(0), &true.into()));
    for (wish, status, said) in [
        (
            "ffn=5",
            1,
            "node `down` (MatMul): `ffn` cannot be cut: there are 4, not 5",
        ),
        ("hidden=1", 1, "which is the input `x`"),
        ("width=1", 2, "there is no `width`"),
    ] {
        let out = cameo(dir.path(), ["compile", "large.ir", "-q", "--slice", wish]);
        assert_eq!(out.status.code(), Some(status), "{wish}");
        assert!(text(&out.stderr).contains(said), "{}", text(&out.stderr));
    }
}

#[test]
fn diff_finds_agreement_node_by_node() {
    let dir = folder();
    models::busy(dir.path());
    let shown = done(dir.path(), ["diff", "busy.onnx", "--at", "N=2", "--at", "S=5", "--all"]);
    assert!(shown.lines().any(|l| l.contains("tensors agree")), "{shown}");
    // The same graph as text, with inputs from a file.
    done(dir.path(), ["print", "busy.onnx", "-o", "busy.ir"]);
    let x: Vec<f32> = (0..2 * 3 * 12).map(|i| i as f32 / 10.0).collect();
    save(&dir.path().join("x.npz"), "x", &[2, 3, 12], &x);
    let shown = done(dir.path(), ["diff", "busy.ir", "--inputs", "x.npz"]);
    assert!(shown.contains("tensors agree"), "{shown}");
    // Nothing is as exact as no difference at all.
    let strict = cameo(dir.path(), ["diff", "busy.onnx", "--tolerance=-1"]);
    assert_eq!(strict.status.code(), Some(1), "{}", text(&strict.stderr));
    let said = text(&strict.stdout);
    assert!(
        said.contains("depart; the first, written by step 0") && said.contains("> "),
        "{said}"
    );
}

#[test]
fn reduce_keeps_what_the_command_wants() {
    let dir = folder();
    models::busy(dir.path());
    let args = [
        "reduce",
        "busy.onnx",
        "--check",
        "grep -q Relu {}",
        "-o",
        "small.ir",
        "-q",
    ];
    done(dir.path(), args);
    let small = std::fs::read_to_string(dir.path().join("small.ir")).expect("reads");
    assert_eq!(small.matches(" = Relu(").count(), 1, "{small}");
    assert_eq!(small.lines().count(), 4, "{small}");
    let nothing = done(dir.path(), ["reduce", "busy.onnx", "-q"]);
    assert!(nothing.contains("nothing to reduce"), "{nothing}");
}

#[test]
fn text_with_a_mistake_is_shown_under_its_line() {
    let dir = folder();
    std::fs::write(
        dir.path().join("bad.ir"),
        "graph @g (%0 \"x\": f32[2]) {\n  %1 = Nope(%0)\n  return %1 \"y\"\n}\n",
    )
    .expect("writes");
    let out = cameo(dir.path(), ["print", "bad.ir"]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    assert!(
        said.contains("bad.ir:2:") && said.contains("Nope") && said.contains('^'),
        "{said}"
    );
}

#[test]
fn the_operators_are_listed() {
    let dir = folder();
    let plain = done(dir.path(), ["inspect", "--ops"]);
    assert!(plain.contains("X, W, B?: float → Y: as X"), "{plain}");
    let conv = done(dir.path(), ["inspect", "--ops", "Conv"]);
    assert!(conv.contains("group         an integer, 1 when absent"), "{conv}");
    let typo = cameo(dir.path(), ["inspect", "--ops", "Convolution"]);
    assert_eq!(typo.status.code(), Some(2));
    assert!(text(&typo.stderr).contains("there is no operator `Convolution`"));
    assert!(done(dir.path(), ["opt", "--list"]).contains("fold_scales"));
}

#[test]
fn the_page_of_operators_is_what_is_printed() {
    let house = Path::new(env!("CARGO_MANIFEST_DIR"));
    let printed = done(Path::new("."), ["inspect", "--ops", "--markdown"]);
    let page = std::fs::read_to_string(house.join("OPERATORS.md")).expect("OPERATORS.md");
    assert!(
        page == printed,
        "write it again: cameo inspect --ops --markdown > compiler/OPERATORS.md"
    );
    // The README has the page's summary.
    let readme = std::fs::read_to_string(house.join("../README.md")).expect("README.md");
    let section = readme.split("<!-- domains: as in compiler/OPERATORS.md -->\n").nth(1);
    let section = section.and_then(|s| s.split("<!-- end of domains -->").next());
    let section = section.expect("the table's marks");
    assert!(section.starts_with("| Domain |") && page.contains(section), "{section}");
}
