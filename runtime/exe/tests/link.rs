//! The static library as it travels: built with the `runtime` profile, linked by `cc` with a model written in C, run.

use cameo_npz::{Array, DType};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Largest stripped executable without weights, in bytes; the issue allows 1.5 MB with kernels.
const SIZE_LIMIT: u64 = 700_000;

fn library() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("staticlib");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "rustc",
        "--quiet",
        "--locked",
        "--profile",
        "runtime",
        "-p",
        "cameo-exe",
        "--crate-type",
        "staticlib",
    ]);
    let status = cargo
        .arg("--target-dir")
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "cargo rustc");
    target.join("runtime/libcameo_exe.a")
}

fn link(library: &Path, source: &str, flags: &[&str], to: &Path) {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-std=c99", "-Wall", "-Wextra", "-Werror", "-ffunction-sections"])
        .args(flags);
    cc.arg(format!("-I{}", concat!(env!("CARGO_MANIFEST_DIR"), "/../include")));
    cc.arg(format!("{tests}{source}")).arg(library);
    cc.args(["-lpthread", "-ldl", "-lm", "-Wl,--gc-sections", "-s", "-o"])
        .arg(to);
    let output = cc.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn run(program: &Path, dir: &Path, arguments: &str) -> Output {
    Command::new(program)
        .args(arguments.split_whitespace())
        .current_dir(dir)
        .output()
        .unwrap()
}

fn ok(program: &Path, dir: &Path, arguments: &str) -> String {
    let output = run(program, dir, arguments);
    assert!(
        output.status.success(),
        "{arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.stderr.is_empty(),
        "{arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Exit code and standard error, which must be one line.
fn error(program: &Path, dir: &Path, arguments: &str) -> (i32, String) {
    let output = run(program, dir, arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(output.stdout.is_empty());
    (output.status.code().unwrap(), text.trim_end().to_owned())
}

fn floats(name: &str, values: &[f32]) -> Array {
    let data = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
    Array {
        name: name.into(),
        dtype: DType::F32,
        shape: vec![values.len() as i64],
        data,
    }
}

fn write(path: &Path, arrays: &[Array]) {
    cameo_npz::write(path, &arrays.iter().map(Array::as_ref).collect::<Vec<_>>()).unwrap();
}

/// A weights file for the fake model, whose weight is 0.5.
fn weights() -> Vec<u8> {
    let mut file = b"CAMEOWTS".to_vec();
    file.extend_from_slice(&cameo_abi::ABI_VERSION.to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(&68u64.to_le_bytes());
    let mut weights = vec![0; 64];
    weights.extend_from_slice(&0.5f32.to_ne_bytes());
    let mut hasher = cameo_abi::WeightsHasher::default();
    hasher.update(&weights);
    // The number in fake_model.h.
    file.extend_from_slice(&hasher.finish().to_le_bytes());
    file.resize(64, 0);
    file.extend(weights);
    file
}

#[test]
fn executables_of_c_models() {
    let library = library();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();

    let embed = dir.join("embed");
    link(&library, "embed.c", &[], &embed);
    assert_eq!(ok(&embed, dir, ""), "ok\n");

    let main = dir.join("fake");
    link(&library, "main.c", &[], &main);
    let size = main.metadata().unwrap().len();
    println!("stripped executable: {size} bytes");
    assert!(size < SIZE_LIMIT, "{size} bytes");

    let a: Vec<f32> = (0..5000).map(|i| i as f32).collect();
    write(&dir.join("x.npz"), &[floats("b", &[1.0; 5000]), floats("a", &a)]);
    let missing = error(&main, dir, "--inputs x.npz");
    assert_eq!(missing.0, 1);
    assert!(
        missing.1.starts_with("fake: cannot open the weights file"),
        "{}",
        missing.1
    );
    std::fs::write(dir.join("fake.weights"), weights()).unwrap();
    assert_eq!(ok(&main, dir, "--inputs x.npz"), "c: float32 [5000]\n");
    assert_eq!(ok(&main, dir, "--inputs x.npz --outputs y.npz --threads 3"), "");
    let sums: Vec<f32> = a.iter().map(|a| a + 1.5).collect();
    assert_eq!(cameo_npz::read(&dir.join("y.npz")).unwrap(), [floats("c", &sums)]);

    std::fs::rename(dir.join("fake.weights"), dir.join("elsewhere")).unwrap();
    let bench = ok(
        &main,
        dir,
        "--inputs x.npz --bench --runs 7 --warmup 1 --threads 2 --weights elsewhere",
    );
    let keys = [
        "median_ms",
        "min_ms",
        "max_ms",
        "threads\": 2",
        "peak_rss_bytes",
        "runs\": 7",
    ];
    assert!(
        keys.iter().all(|key| bench.contains(key)) && bench.lines().count() == 1,
        "{bench}"
    );
    println!("{bench}");

    let describe = ok(&main, dir, "--describe");
    for part in [
        "{\"name\": \"a\", \"dtype\": \"float32\", \"shape\": [\"S\"]}",
        "{\"name\": \"c\", \"dtype\": \"float32\", \"shape\": [\"1*S\"]}",
        "{\"name\": \"S\", \"min\": 1, \"max\": 100000}",
        "\"arena_bytes\": 64,",
        "\"arena_at\": {\"S\": 1},",
        "\"weight_bytes\": 68,",
        "\"steps\": 2\n",
    ] {
        assert!(describe.contains(part), "{describe}");
    }
    let describe = ok(&main, dir, "--describe --inputs x.npz");
    assert!(
        describe.contains("\"arena_bytes\": 20032,\n") && describe.contains("{\"S\": 5000}"),
        "{describe}"
    );
    let help = ok(&main, dir, "--help");
    assert!(
        help.contains("  a: float32 [S]\n") && help.contains("  c: float32 [1*S]\n"),
        "{help}"
    );

    assert_eq!(
        ok(&main, dir, "--verify-weights --weights elsewhere"),
        "weights: 68 bytes, intact\n"
    );
    assert_eq!(
        ok(&main, dir, "--verify-weights --inputs x.npz --weights elsewhere"),
        "c: float32 [5000]\n"
    );
    let mut damaged = weights();
    damaged[100] ^= 4;
    std::fs::write(dir.join("damaged"), damaged).unwrap();
    assert_eq!(
        error(&main, dir, "--inputs x.npz --verify-weights --weights damaged"),
        (
            1,
            "fake: the weights file \"damaged\" has other bytes than were written".to_owned()
        )
    );

    write(&dir.join("one.npz"), &[floats("a", &[1.0])]);
    write(
        &dir.join("more.npz"),
        &[floats("a", &[1.0]), floats("b", &[1.0]), floats("d", &[1.0])],
    );
    write(
        &dir.join("differ.npz"),
        &[floats("a", &[1.0]), floats("b", &[1.0, 2.0])],
    );
    std::fs::write(dir.join("text.npz"), "not an archive, but longer than its end record").unwrap();
    for (arguments, code, message) in [
        ("", 2, "fake: --inputs FILE.npz is missing; --help lists all flags"),
        (
            "--thread 1",
            2,
            "fake: unknown argument \"--thread\"; --help lists all flags",
        ),
        (
            "--bench",
            2,
            "fake: --bench needs --inputs FILE.npz: the shape of input \"a\" is not fixed",
        ),
        (
            "--inputs one.npz",
            1,
            "fake: one.npz: there is no array \"b\", which is an input",
        ),
        ("--inputs more.npz", 1, "fake: more.npz: array \"d\" is not an input"),
        ("--inputs text.npz", 1, "fake: text.npz: is not a zip archive"),
        (
            "--inputs nowhere.npz",
            1,
            "fake: nowhere.npz: No such file or directory (os error 2)",
        ),
        (
            "--inputs x.npz --weights x.npz",
            1,
            "fake: the weights file \"x.npz\" does not start like a weights file",
        ),
        (
            "--inputs differ.npz --weights elsewhere",
            1,
            "fake: axis 0 of input \"b\" is dimension \"S\", which axis 0 of input \"a\" fixed to 1; got 2",
        ),
        (
            "--inputs x.npz --weights elsewhere --outputs no/where.npz",
            1,
            "fake: no/where.npz: No such file or directory (os error 2)",
        ),
    ] {
        assert_eq!(error(&main, dir, arguments), (code, message.to_owned()));
    }

    let embedded = dir.join("embedded");
    link(&library, "main.c", &["-DEMBEDDED"], &embedded);
    assert_eq!(
        ok(&embedded, dir, "--inputs x.npz --verify-weights"),
        "c: float32 [5000]\n"
    );
    assert!(ok(&embedded, dir, "--describe").contains("\"weights\": \"embedded\""));
}
