//! Real models: set `CAMEO_ZOO` to a folder of `*.onnx` files. Without it there is nothing to do here.

use std::path::PathBuf;

use cameo_onnx::{ImportOptions, import};

use crate::independent::agree;

fn files() -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os("CAMEO_ZOO") else {
        return vec![];
    };
    let Ok(entries) = std::fs::read_dir(folder) else {
        return vec![];
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
        .collect();
    files.sort();
    files
}

#[test]
fn real_models_import() {
    let mut failed = vec![];
    for path in files() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match import(&path, &ImportOptions::default()) {
            Ok(g) => {
                if let Err(wrong) = cameo_ir::verify::verify(&g) {
                    panic!("{name}: {wrong:?}");
                }
                let facts: Vec<String> = g
                    .outputs()
                    .iter()
                    .map(|(n, v)| format!("{n}: {}", g.fact(*v)))
                    .collect();
                println!("{name}: {} nodes, {}", g.node_count(), facts.join(", "));
            }
            Err(problems) => {
                println!("{name}: {} problems", problems.len());
                problems.iter().take(2000).for_each(|p| println!("  {p}"));
                failed.push(name);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn both_decoders_read_real_models_alike() {
    for path in files() {
        println!("{}", path.display());
        agree(std::fs::read(path).expect("reads").into());
    }
}
