//! Operators that Cameo does not know, from the model to a program with the kernel in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use cameo_npz::{Array, DType};

use crate::models::{Model, int_attr};
use crate::{cameo, done, folder, load, save, text};

/// The example's, from this crate.
fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/custom_op")
        .join(file)
}

const FRAMES: &str = "com.acme::Frames(f32) -> f32[2], i64[1]";

/// Operators of tests: `t::Twice` of halves, which needs no shape function, and `t::Sum` of any number of tensors.
const OPERATORS: &str = r#"
#include <cameo.h>
#include <stdio.h>
#include <string.h>

static int twice(void *user, const cameo_operator_call *call) {
    const uint16_t *x = call->inputs[0].data;
    uint16_t *y = call->outputs[0].data;
    int64_t count = 1;
    (void)user;
    if (call->inputs[0].dtype != CAMEO_FLOAT16 || call->outputs[0].dtype != CAMEO_FLOAT16) {
        snprintf(call->message, call->message_bytes, "not of halves");
        return 1;
    }
    for (size_t i = 0; i < call->inputs[0].rank; i++)
        count *= call->inputs[0].shape[i];
    /* One more in the exponent. */
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i] & 0x7fff ? (uint16_t)(x[i] + 0x400) : x[i];
    return 0;
}

static int sum_shape(void *user, const cameo_operator_call *call) {
    (void)user;
    call->outputs[0].shape[0] = call->inputs[0].shape[0];
    return 0;
}

static int sum(void *user, const cameo_operator_call *call) {
    float *y = call->outputs[0].data;
    (void)user;
    for (int64_t i = 0; i < call->outputs[0].shape[0]; i++) {
        y[i] = 0;
        for (size_t k = 0; k < call->input_count; k++)
            if (call->inputs[k].dtype)
                y[i] += ((const float *)call->inputs[k].data)[i];
    }
    return 0;
}

static const cameo_operator operators[] = {
    CAMEO_OPERATOR("t::Twice", NULL, twice, NULL),
    CAMEO_OPERATOR("t::Sum", sum_shape, sum, NULL),
};

const cameo_operator *cameo_operators(size_t *count);

const cameo_operator *cameo_operators(size_t *count) {
    *count = 2;
    return operators;
}
"#;

/// Compiles C with `cameo.h`.
fn cc(folder: &Path, source: &Path, flags: &[&str], to: &str) {
    let out = Command::new("cc")
        .args(["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC"])
        .args(flags)
        .arg(concat!("-I", env!("CARGO_MANIFEST_DIR"), "/../runtime/include"))
        .arg(source)
        .args(["-lm", "-o", to])
        .current_dir(folder)
        .output()
        .expect("cc runs");
    assert!(out.status.success(), "{}", text(&out.stderr));
}

fn operators(folder: &Path) {
    let source = folder.join("operators.c");
    std::fs::write(&source, OPERATORS).expect("writes");
    cc(folder, &source, &["-shared"], "operators.so");
}

/// Runs a program; exit code and standard error.
fn run(folder: &Path, program: &str, arguments: &str) -> (Option<i32>, String) {
    let out = Command::new(folder.join(program))
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("runs");
    (out.status.code(), text(&out.stderr).trim().to_owned())
}

fn signal(folder: &Path, file: &str, samples: &[f32]) {
    save(&folder.join(file), "signal", &[samples.len() as i64], samples);
}

fn energy(samples: &[f32]) -> Vec<f32> {
    let frames = samples.windows(4).step_by(2);
    frames.map(|f| f.iter().map(|x| x * x).sum::<f32>().sqrt()).collect()
}

fn starts(path: &Path) -> Vec<i64> {
    let all = cameo_npz::read(path).expect("reads");
    let a = all.into_iter().find(|a| a.name == "starts").expect("the output");
    a.data
        .chunks_exact(8)
        .map(|b| i64::from_le_bytes(b.try_into().expect("eight")))
        .collect()
}

#[test]
fn a_program_finds_its_operators_in_a_library_or_in_itself() {
    let dir = folder();
    let dir = dir.path();
    let frames = example("frames.c");
    cc(dir, &frames, &["-shared"], "frames.so");
    cc(dir, &frames, &["-c"], "frames.o");
    let model = example("frames.onnx");
    let model = model.to_str().expect("text");
    done(
        dir,
        [
            "compile",
            "-q",
            model,
            "--custom-op",
            FRAMES,
            "--cpu",
            "multi",
            "-o",
            "apart",
        ],
    );
    // The model declares the results.
    let declared = ["--custom-op", "com.acme::Frames"];
    done(
        dir,
        [
            &[
                "compile",
                "-q",
                model,
                "--link",
                "frames.o",
                "--profile",
                "-o",
                "linked",
            ],
            &declared[..],
        ]
        .concat(),
    );

    for samples in [11, 4, 3, 400] {
        let x: Vec<f32> = (0..samples).map(|i| ((i * 7) % 11) as f32 - 4.0).collect();
        signal(dir, "x.npz", &x);
        let programs = [
            ("apart", "--op-library frames.so "),
            ("linked", ""),
            ("linked", "--op-library ./frames.so "),
        ];
        for (program, library) in programs {
            let line = format!("{library}--inputs x.npz --outputs y.npz --threads 2");
            assert_eq!(run(dir, program, &line), (Some(0), String::new()));
            let y = dir.join("y.npz");
            let (shape, values) = load(&y, "energy");
            assert_eq!(shape, [values.len() as i64]);
            let want = energy(&x);
            assert_eq!(values.len(), want.len());
            assert!(
                values.iter().zip(&want).all(|(v, w)| (v - w).abs() < 1e-5),
                "{values:?} {want:?}"
            );
            assert_eq!(starts(&y), (0..want.len() as i64).map(|i| 2 * i).collect::<Vec<_>>());
        }
    }
    let described = Command::new(dir.join("apart"))
        .arg("--describe")
        .output()
        .expect("runs");
    assert!(
        text(&described.stdout).contains("\"com.acme::Frames\""),
        "{}",
        text(&described.stdout)
    );
    // Timers are around the call as around other kernels.
    let timed = run(dir, "linked", "--inputs x.npz --profile times.json --runs 2 --warmup 0");
    assert_eq!(timed.0, Some(0), "{}", timed.1);
    let times = std::fs::read_to_string(dir.join("times.json")).expect("was written");
    assert!(times.contains("\"custom\""), "{times}");
    done(
        dir,
        [
            "run",
            "-q",
            model,
            "--custom-op",
            FRAMES,
            "--op-library",
            "frames.so",
            "--inputs",
            "x.npz",
        ],
    );

    // What goes wrong is one line.
    let failed = |program: &str, line: &str, parts: &[&str]| {
        let (code, said) = run(dir, program, line);
        assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    };
    signal(dir, "nan.npz", &[0.0, 1.0, 2.0, f32::NAN, 4.0]);
    failed(
        "apart",
        "--op-library frames.so --inputs nan.npz",
        &["operator com.acme::Frames failed at node \"cut\": sample 3 is no number"],
    );
    failed(
        "apart",
        "--inputs x.npz",
        &["com.acme::Frames", "\"cut\"", "is not supplied", "--op-library"],
    );
    failed(
        "apart",
        "--inputs x.npz --op-library none.so",
        &["cannot load operators from \"none.so\""],
    );
    std::fs::write(dir.join("empty.c"), "extern int nothing;\n").expect("writes");
    cc(dir, &dir.join("empty.c"), &["-shared"], "empty.so");
    failed(
        "apart",
        "--inputs x.npz --op-library empty.so",
        &["empty.so", "cameo_operators"],
    );
}

#[test]
fn a_library_is_given_its_operators_when_it_is_opened() {
    let dir = folder();
    let dir = dir.path();
    let model = example("frames.onnx");
    let model = model.to_str().expect("text");
    done(
        dir,
        [
            "compile",
            "-q",
            model,
            "--custom-op",
            FRAMES,
            "--emit",
            "static",
            "-o",
            "out",
        ],
    );
    let program = r#"
#include "frames.h"
#include <stdio.h>

const cameo_operator *cameo_operators(size_t *count);

int main(void) {
    static const float signal[6] = {3, 0, 4, 0, 12, 0};
    cameo_model *model;
    cameo_context *context;
    size_t count;
    const cameo_operator *operators = cameo_operators(&count);
    frames_inputs inputs = {.N = 6, .signal = signal};
    frames_outputs outputs;
    int missing = cameo_model_open(&frames_model, NULL, &model);
    if (frames_open(NULL, operators, count, &model) != CAMEO_OK ||
        cameo_context_create(model, NULL, &context) != CAMEO_OK ||
        frames_run(context, &inputs, &outputs) != CAMEO_OK) {
        puts(cameo_last_error());
        return 1;
    }
    printf("%d %d %.1f %.2f %d\n", missing, (int)outputs.energy_shape[0], (double)outputs.energy[0],
           (double)outputs.energy[1], (int)outputs.starts[1]);
    cameo_context_destroy(context);
    cameo_model_close(model);
    return 0;
}
"#;
    std::fs::write(dir.join("main.c"), program).expect("writes");
    let frames = example("frames.c");
    let more = [
        "-Iout",
        frames.to_str().expect("text"),
        "out/libframes.a",
        "-lpthread",
        "-ldl",
    ];
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "main.c"])
        .args(more);
    let built = cc
        .args(["-lm", "-o", "main"])
        .current_dir(dir)
        .output()
        .expect("cc runs");
    assert!(built.status.success(), "{}", text(&built.stderr));
    let out = Command::new(dir.join("main")).output().expect("runs");
    // CAMEO_OPERATOR_MISSING first.
    assert_eq!(text(&out.stdout), "20 2 5.0 12.65 2\n");
}

#[test]
fn halves_left_out_operands_and_loops() {
    let dir = folder();
    let dir = dir.path();
    operators(dir);
    // Of text IR: the operator in the body of a loop, and one with operands that are left out.
    let node = |operands: &str, name: &str, extents: &str, ty: &str| {
        format!(
            "cameo::Custom({operands}) {{cameo.extents=dims[{extents}], cameo.operator=\"{name}\", cameo.ranks=[1], \
             cameo.types=strs[\"{ty}\"]}}"
        )
    };
    let source = format!(
        "graph @g (%0 \"x\": f32[N], %1 \"s\": f32[T,2]) symbols N=1.., T=1.. {{\n  \
         %2 = Cast(%0) {{to=f16}}\n  %3 = {}\n  %4 = Cast(%3) {{to=f32}}\n  %5 = {}\n  %6 = Add(%5, %4)\n  \
         weight %7: f32[2] = dense(1,0)\n  \
         %8, %9 = cameo::Scan(%7, %1) {{body=graph @b (%0 \"h\": f32[2], %1 \"t\": f32[2]) {{\n    %2 = {}\n    \
         %3 = Neg(%2)\n    return %2 \"next\", %3 \"out\"\n  }}, length=dims[T], slices=1, states=1}}\n  \
         return %4 \"twice\", %6 \"more\", %8 \"last\", %9 \"all\"\n}}\n",
        node("%2", "t::Twice", "N", "f16"),
        node("%0, _, %4", "t::Sum", "custom.n", "f32"),
        node("%0, %1", "t::Sum", "2", "f32"),
    );
    std::fs::write(dir.join("g.ir"), source).expect("writes");
    done(dir, ["compile", "-q", "g.ir", "-o", "g"]);
    for (n, t) in [(3usize, 4usize), (1, 1), (70, 2)] {
        let x: Vec<f32> = (0..n).map(|i| i as f32 / 2.0 - 1.0).collect();
        let s: Vec<f32> = (0..2 * t).map(|i| i as f32).collect();
        let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect();
        let array = |name: &str, shape: &[usize], v: &[f32]| Array {
            name: name.into(),
            dtype: DType::F32,
            shape: shape.iter().map(|n| *n as i64).collect(),
            data: bytes(v),
        };
        let arrays = [array("x", &[n], &x), array("s", &[t, 2], &s)];
        cameo_npz::write(&dir.join("x.npz"), &arrays.each_ref().map(Array::as_ref)).expect("writes");
        let line = "--op-library operators.so --inputs x.npz --outputs y.npz";
        assert_eq!(run(dir, "g", line), (Some(0), String::new()));
        let y = dir.join("y.npz");
        let twice: Vec<f32> = x.iter().map(|x| 2.0 * x).collect();
        assert_eq!(load(&y, "twice").1, twice);
        assert_eq!(load(&y, "more").1, x.iter().map(|x| 5.0 * x).collect::<Vec<_>>());
        let mut state = [1.0, 0.0];
        let mut all = vec![];
        for step in s.chunks(2) {
            state = [state[0] + step[0], state[1] + step[1]];
            all.extend(state.map(|v: f32| -v));
        }
        assert_eq!((load(&y, "last").1, load(&y, "all").1), (state.to_vec(), all));
    }
}

#[test]
fn what_is_declared_is_checked() {
    let dir = folder();
    let dir = dir.path();
    let frames = example("frames.onnx");
    let refused = |model: &Path, custom: Option<&str>, parts: &[&str]| {
        let mut line = vec!["compile", "-q", model.to_str().expect("text"), "-o", "m"];
        line.extend(custom.iter().flat_map(|c| ["--custom-op", c]));
        let out = cameo(dir, line);
        let said = text(&out.stderr);
        assert!(
            !out.status.success() && parts.iter().all(|part| said.contains(part)),
            "{said}"
        );
    };
    refused(
        &frames,
        None,
        &["unsupported operator `com.acme::Frames`", "--custom-op"],
    );
    refused(
        &frames,
        Some("com.acme::Other"),
        &["unsupported operator `com.acme::Frames`"],
    );
    refused(
        &frames,
        Some("com.acme::Frames(f16) -> f32[2], i64[1]"),
        &["operand 0 is f32, declared is f16"],
    );
    refused(
        &frames,
        Some("com.acme::Frames(f32, i64) -> f32[2], i64[1]"),
        &["operand 1 is missing"],
    );
    refused(
        &frames,
        Some("com.acme::Frames(f32) -> f32[2]"),
        &["2 results wanted, 1 declared"],
    );
    refused(
        &frames,
        Some("com.acme::Frames(f32) ->"),
        &["--custom-op", "TYPE[RANK]"],
    );
    // The model says nothing of what is between its nodes.
    let plain = Model::new("plain").input("x", &["N"]).output("y", &["N"]);
    let plain = plain.custom("t::Twice", "a", &["x"], &["h"], vec![int_attr("k", 3)]);
    let plain = plain.node("Neg", "b", &["h"], "y").write(dir);
    refused(
        &plain,
        Some("t::Twice"),
        &["declares no element type and rank of result 0, `h`", "--custom-op"],
    );
    // Sizes that data decides.
    let counted = Model::new("counted").input("x", &["N"]).output("y", &["M"]);
    let counted = counted.node("NonZero", "n", &["x"], "i");
    let counted = counted.custom("t::Sum", "a", &["i"], &["y"], vec![]).write(dir);
    refused(&counted, Some("t::Sum(i64) -> f32[1]"), &["as long as data says"]);

    let plain = plain.to_str().expect("text");
    let twice = ["--custom-op", "t::Twice(f32) -> =0"];
    let printed = done(dir, [&["print", plain], &twice[..]].concat());
    assert!(
        printed.contains("cameo.extents=dims[N]") && printed.contains("k=3"),
        "{printed}"
    );
    let inspected = done(dir, [&["inspect", plain, "--optimized"], &twice[..]].concat());
    assert!(inspected.contains("cameo::Custom"), "{inspected}");
    // Nobody but the program can compute it.
    std::fs::write(dir.join("plain.ir"), printed).expect("writes");
    let out = cameo(dir, ["diff", "plain.ir"]);
    let said = text(&out.stderr);
    assert!(
        !out.status.success() && said.contains("t::Twice is supplied by whoever runs"),
        "{said}"
    );
    let out = cameo(
        dir,
        [&["compile", plain, "--emit", "shared", "--link", "x.a"], &twice[..]].concat(),
    );
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    let out = cameo(
        dir,
        [&["compile", "-q", plain, "--link", "none.a", "-o", "m"], &twice[..]].concat(),
    );
    assert!(
        text(&out.stderr).contains("cannot read none.a"),
        "{}",
        text(&out.stderr)
    );
}
