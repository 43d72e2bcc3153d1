//! Sequences as inputs and outputs of a program.

use std::path::Path;

use cameo_npz::{Array, DType};

use crate::models::Model;
use crate::{cameo, done, folder, load, text};

fn arrays(path: &Path, all: &[(&str, &[f32])]) {
    let array = |(name, data): &(&str, &[f32])| Array {
        name: (*name).into(),
        dtype: DType::F32,
        shape: vec![data.len() as i64],
        data: data.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    let all: Vec<Array> = all.iter().map(array).collect();
    let views: Vec<_> = all.iter().map(Array::as_ref).collect();
    cameo_npz::write(path, &views).expect("writes the inputs");
}

#[test]
fn a_program_has_an_input_for_each_tensor() {
    let dir = folder();
    let dir = dir.path();
    Model::new("frames")
        .sequence("xs", &["N"])
        .input("new", &["M"])
        .node("SequenceInsert", "insert", &["xs", "new"], "more")
        .node("ConcatFromSequence", "join", &["more"], "all")
        .output("more", &[])
        .output("all", &["L"])
        .write(dir);
    let out = cameo(dir, ["compile", "-q", "frames.onnx"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("--items xs=3"), "{}", text(&out.stderr));

    done(
        dir,
        ["compile", "-q", "frames.onnx", "--items", "xs=[2],[?]", "-o", "frames"],
    );
    let inputs: [(&str, &[f32]); 3] = [("xs[1]", &[3.0, 4.0, 5.0]), ("new", &[6.0]), ("xs[0]", &[1.0, 2.0])];
    arrays(&dir.join("x.npz"), &inputs);
    let program = std::process::Command::new(dir.join("frames"))
        .args(["--inputs", "x.npz", "--outputs", "y.npz"])
        .current_dir(dir)
        .output()
        .expect("runs");
    assert!(program.status.success(), "{}", text(&program.stderr));
    let expected: [(&str, &[f32]); 4] = [
        ("more[0]", &[1.0, 2.0]),
        ("more[1]", &[3.0, 4.0, 5.0]),
        ("more[2]", &[6.0]),
        ("all", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    ];
    for (name, values) in expected {
        assert_eq!(load(&dir.join("y.npz"), name).1, values, "{name}");
    }
    // The header of a library has a name for each.
    done(
        dir,
        [
            "compile",
            "-q",
            "frames.onnx",
            "--items",
            "xs=2",
            "--emit",
            "shared",
            "-o",
            "lib",
        ],
    );
    let header = std::fs::read_to_string(dir.join("lib/frames.h")).expect("a header");
    assert!(header.contains("xs_0") && header.contains("more_2"), "{header}");
}
