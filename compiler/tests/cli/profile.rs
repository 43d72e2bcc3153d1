//! `compile --profile` and what the program then says of its steps. No time is compared with another, only with itself.

use std::path::Path;
use std::process::{Command, Output};

use cameo_npz::{Array, DType};
use serde_json::{Value, json};

use crate::{cameo, done, folder, linear, load, models, save, text};

/// A loop over time: a state times a weight and the slices of an input.
const LOOP: &str = r#"graph @looped (%0 "h": f32[2,8], %1 "x": f32[T,2,8]) symbols T=0.. {
    %2 = cameo::Scan(%0, %1) {body=graph @step (%0 "h": f32[2,8], %1 "x": f32[2,8]) {
        %2 = Tanh(%0) : f32[2,8] from "squash"
        %3 = Add(%2, %1) : f32[2,8] from "sum"
        return %3 "h"
    }, length=dims[T], slices=1, states=1} : f32[2,8]
    return %2 "y"
}
"#;

fn program(folder: &Path, name: &str, args: &[&str]) -> Output {
    let mut command = Command::new(folder.join(name));
    command
        .current_dir(folder)
        .args(args)
        .output()
        .expect("the program runs")
}

/// Runs a program with `--profile`; gives the profile and the table.
fn profile(folder: &Path, name: &str, args: &[&str]) -> (Value, String) {
    let out = program(folder, name, &[args, &["--profile", "p.json"]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let file = std::fs::read_to_string(folder.join("p.json")).expect("the profile");
    (serde_json::from_str(&file).expect("JSON"), text(&out.stdout))
}

fn number(v: &Value) -> f64 {
    v.as_f64().unwrap_or_else(|| panic!("{v} is no number"))
}

/// What every profile must agree with itself on.
fn check(p: &Value, runs: u64) {
    assert_eq!(p["format"], "cameo-profile-1");
    assert_eq!(p["fingerprint"].as_str().map(str::len), Some(16));
    assert_eq!(p["runs"], runs);
    let machine = &p["machine"];
    assert!(number(&machine["gflop_per_s"]) > 0.0 && machine["features"].is_array());
    let memory = machine["memory"].as_array().expect("working sets");
    let bytes: Vec<f64> = memory.iter().map(|m| number(&m["bytes"])).collect();
    assert!(bytes.is_sorted() && memory.iter().all(|m| number(&m["gb_per_s"]) > 0.0));

    let run = &p["run"];
    assert!(number(&run["min_ms"]) <= number(&run["median_ms"]) && number(&run["median_ms"]) <= number(&run["max_ms"]));
    let steps = p["steps"].as_array().expect("steps");
    let sum = |key: &str| steps.iter().map(|s| number(&s[key])).sum::<f64>();
    // Steps come one after the other, and nothing of a run is in two of them.
    let rounding = 1e-6 * (steps.len() + 1) as f64;
    assert!(sum("total_ms") <= number(&run["total_ms"]) + rounding, "{p:#}");
    let totals = &p["totals"];
    assert!(
        (sum("median_ms") - number(&totals["steps_ms"])).abs() <= rounding,
        "{p:#}"
    );
    assert!((sum("share") - 1.0).abs() <= rounding, "{p:#}");
    for key in ["flops", "bytes_read", "bytes_written"] {
        assert_eq!(sum(key), number(&totals[key]), "{key}");
    }
    for (i, s) in steps.iter().enumerate() {
        assert_eq!(s["step"], i);
        assert!(["nest", "contraction", "chain"].contains(&s["kind"].as_str().expect("a kind")));
        assert!(["compute", "memory"].contains(&s["limit"].as_str().expect("a limit")));
        let (shares, threads) = (number(&s["shares"]), number(&p["threads"]));
        assert!((1.0..=threads).contains(&shares), "{s}");
        // A share is a part of the call.
        assert!((0.0..=1.0 + 1e-5).contains(&number(&s["balance"])), "{s}");
        let bytes = number(&s["bytes_read"]) + number(&s["bytes_written"]);
        let intensity = number(&s["flops"]) / bytes;
        assert!(
            (number(&s["flops_per_byte"]) - intensity).abs() <= 1e-5 * intensity.max(1.0),
            "{s}"
        );
        for key in ["gflop_per_s", "gb_per_s", "roofline"] {
            assert!(number(&s[key]) >= 0.0, "{s}");
        }
    }
}

#[test]
fn every_step_is_timed() {
    let dir = folder();
    models::linear(dir.path());
    done(dir.path(), ["compile", "linear.onnx", "--profile", "-q", "-o", "timed"]);
    done(dir.path(), ["compile", "linear.onnx", "-q", "-o", "plain"]);
    save(
        &dir.path().join("x.npz"),
        "x",
        &[3, 2],
        &[1.0, 2.0, -3.0, 0.5, 0.0, 1.0],
    );

    let flags = [
        "--inputs",
        "x.npz",
        "--runs",
        "7",
        "--warmup",
        "2",
        "--threads",
        "2",
        "--outputs",
        "y.npz",
    ];
    let (p, table) = profile(dir.path(), "timed", &flags);
    check(&p, 7);
    assert_eq!((&p["model"], &p["symbols"]), (&json!("linear"), &json!({"N": 3})));
    assert_eq!((&p["threads"], &p["warmup"]), (&json!(2), &json!(2)));
    let [step] = &p["steps"].as_array().expect("steps")[..] else {
        panic!("{p:#}")
    };
    assert_eq!(step["nodes"], json!(["act", "bias", "mm"]));
    assert_eq!((&step["calls"], &step["kernel"]), (&json!(1), &json!(0)));
    // 3 rows of 2 results of 2 products and sums, and what is read and written of each row.
    assert!(number(&step["flops"]) >= 24.0);
    assert_eq!(step["bytes_written"], 24);
    let line = table.lines().find(|l| l.contains("act +2")).expect("the step");
    assert!(line.contains("k0") && line.contains("100.0%"), "{table}");
    assert!(table.contains("N = 3") && table.contains("outside of steps"), "{table}");
    // The results are as ever.
    let (_, y) = load(&dir.path().join("y.npz"), "y");
    assert_eq!(
        y,
        [linear([1.0, 2.0]), linear([-3.0, 0.5]), linear([0.0, 1.0])].concat()
    );

    // Without the flag it is a program like any other.
    let out = program(dir.path(), "timed", &["--inputs", "x.npz"]);
    assert_eq!(text(&out.stdout), "y: float32 [3, 2]\n");
    done(
        dir.path(),
        ["compile", "linear.onnx", "--profile", "-q", "-o", "again/timed"],
    );
    let bytes = |name: &str| std::fs::read(dir.path().join(name)).expect("was written");
    assert!(
        bytes("timed") == bytes("again/timed"),
        "equal compilations give equal bytes"
    );
    // Profilers and debuggers find the kernel's name.
    let has = |name: &str, text: &[u8]| bytes(name).windows(text.len()).any(|w| w == text);
    assert!(has("timed", b"\0linear_k0_contraction_act\0") && !has("plain", b"linear_k0"));
    // And lines of the listing beside it.
    assert!(has("timed", b"timed.kernels\0") && !has("plain", b"plain.kernels"));
    let listing = text(&bytes("timed.kernels"));
    assert!(
        listing.starts_with("; step 0: act bias mm\nk0 contraction "),
        "{listing}"
    );
    assert!(!dir.path().join("plain.kernels").exists());
    // Nothing of it is in other programs.
    assert!(bytes("plain").len() + 20_000 < bytes("timed").len());
}

#[test]
fn iterations_of_a_loop_are_calls() {
    let dir = folder();
    std::fs::write(dir.path().join("looped.ir"), LOOP).expect("writes the graph");
    done(dir.path(), ["compile", "looped.ir", "--profile", "-q", "-o", "looped"]);
    let array = |name: &str, shape: &[i64]| Array {
        name: name.into(),
        dtype: DType::F32,
        shape: shape.to_vec(),
        data: vec![0; 4 * shape.iter().product::<i64>() as usize],
    };
    let inputs = |t| [array("h", &[2, 8]), array("x", &[t, 2, 8])];
    let mut found = vec![];
    for t in [1, 5] {
        let all = inputs(t);
        let refs: Vec<_> = all.iter().map(Array::as_ref).collect();
        cameo_npz::write(&dir.path().join("x.npz"), &refs).expect("writes the inputs");
        let (p, _) = profile(dir.path(), "looped", &["--inputs", "x.npz", "--runs", "3"]);
        check(&p, 3);
        let step = p["steps"].as_array().expect("steps").iter();
        let step = step
            .clone()
            .find(|s| s["nodes"] == json!(["sum"]))
            .expect("the body's step");
        assert_eq!(step["calls"], t);
        found.push((
            number(&step["flops"]),
            number(&step["bytes_read"]),
            number(&step["bytes_written"]),
        ));
    }
    // A slice and a state in, a state out.
    assert_eq!((found[0].1, found[0].2), (128.0, 64.0));
    assert_eq!(found[1], (5.0 * found[0].0, 5.0 * 128.0, 5.0 * 64.0));
}

#[test]
fn timers_are_refused_where_there_are_none() {
    let dir = folder();
    models::linear(dir.path());
    done(
        dir.path(),
        ["compile", "linear.onnx", "--dim", "N=1", "-q", "-o", "plain"],
    );
    let out = program(dir.path(), "plain", &["--profile", "p.json"]);
    assert_eq!(out.status.code(), Some(2));
    let said = text(&out.stderr);
    assert_eq!(
        said,
        "plain: --profile: this program has no timers; compile the model with `cameo compile --profile`\n"
    );
    assert!(!dir.path().join("p.json").exists());
    for emit in ["shared", "static", "object", "rust"] {
        let out = cameo(
            dir.path(),
            ["compile", "linear.onnx", "--profile", "--emit", emit, "-o", "out"],
        );
        assert_eq!(out.status.code(), Some(2));
        assert!(
            text(&out.stderr).contains("`--profile` is for executables"),
            "{}",
            text(&out.stderr)
        );
        assert!(!dir.path().join("out").exists());
    }
    // Inputs of fixed shape are made up, as for a benchmark; others are asked for.
    done(
        dir.path(),
        [
            "compile",
            "linear.onnx",
            "--dim",
            "N=1",
            "--profile",
            "-q",
            "-o",
            "fixed",
        ],
    );
    check(&profile(dir.path(), "fixed", &["--runs", "1"]).0, 1);
    done(dir.path(), ["compile", "linear.onnx", "--profile", "-q", "-o", "any"]);
    let out = program(dir.path(), "any", &["--profile", "p.json"]);
    assert!(
        text(&out.stderr).contains("--profile needs --inputs FILE.npz"),
        "{}",
        text(&out.stderr)
    );
    let out = program(dir.path(), "fixed", &["--profile", "no/where.json"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("no/where.json"), "{}", text(&out.stderr));
}
