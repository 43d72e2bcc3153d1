//! Graphs in files: text IR, with its large weights in the folder `weights` beside it.

use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cameo_ir::{Graph, text};

use crate::{Diagnostic, Diagnostics};

/// Folder of large weights, beside the text.
pub const WEIGHTS: &str = "weights";

/// Reads text IR.
///
/// # Errors
/// When a file cannot be read, the text is not a graph, or the verifier refuses it; mistakes are shown under their lines.
pub fn read(path: &Path) -> Result<Graph, Diagnostics> {
    let source = std::fs::read_to_string(path).map_err(|e| Diagnostic::file(path, &e))?;
    let folder = path.parent().unwrap_or(Path::new("")).join(WEIGHTS);
    let blob = |name: &str, len: usize| {
        // A name is a hash: nothing that could leave the folder.
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric());
        let bytes = plain.then(|| std::fs::read(blob_path(&folder, name)).ok()).flatten()?;
        (bytes.len() == len).then(|| Bytes::from(bytes))
    };
    text::parse(&source, &blob).map_err(|errors| {
        let one = |e: &text::ParseError| {
            let mut lines = e.to_string();
            lines.insert_str(0, &format!("{}:", path.display()));
            Diagnostic::invalid(lines)
        };
        errors.0.iter().map(one).collect()
    })
}

/// Whether the file is named as text IR. ONNX files may be named in any other way.
pub fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "ir")
}

fn blob_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.bin"))
}

/// Writes text IR with its weights beside it.
pub fn write(path: &Path, graph: &Graph) -> Result<(), Diagnostics> {
    write_text(path, &text::print(graph))?;
    write_weights(path.parent().unwrap_or(Path::new("")), graph)
}

/// Writes a text file, with the folders that it needs.
pub fn write_text(path: &Path, text: &str) -> Result<(), Diagnostics> {
    let io = |e: std::io::Error| Diagnostics::from(Diagnostic::file(path, &e));
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    std::fs::write(path, text).map_err(io)
}

/// Writes the weights that are not there yet: a name is the hash of the bytes.
pub fn write_weights(folder: &Path, graph: &Graph) -> Result<(), Diagnostics> {
    let blobs = text::blobs(graph);
    let folder = folder.join(WEIGHTS);
    if !blobs.is_empty() {
        std::fs::create_dir_all(&folder).map_err(|e| Diagnostic::file(&folder, &e))?;
    }
    for (name, bytes) in blobs {
        let path = blob_path(&folder, &name);
        if std::fs::metadata(&path).is_ok_and(|m| m.len() == bytes.len() as u64) {
            continue;
        }
        let write = || std::fs::File::create(&path)?.write_all(&bytes);
        write().map_err(|e| Diagnostic::file(&path, &e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cameo_ir::{Attr, DType, Dim, Fact, Tensor};

    #[test]
    fn large_weights_come_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut g = Graph::new("g");
        let x = g.add_input("x", Fact::new(DType::F32, [Dim::sym("N"), Dim::from(100i64)]));
        let w = g.add_weight("w", Tensor::f32(&[100], (0..100).map(|i| i as f32)));
        let y = g.apply("Add", &[], &[x, w]).expect("adds");
        let y = g.apply("Softmax", &[("axis", Attr::Int(-1))], &[y]).expect("softmax");
        g.add_output("y", y);
        let path = dir.path().join("sub/g.ir");
        write(&path, &g).expect("writes");
        let back = read(&path).expect("reads");
        assert_eq!(text::print(&back), text::print(&g));
        assert_eq!(text::blobs(&back), text::blobs(&g));
        // Without its weights the text is refused, with the file's name.
        std::fs::remove_dir_all(dir.path().join("sub/weights")).expect("removes");
        let said = read(&path).expect_err("no weights").to_string();
        assert!(said.contains("g.ir:"), "{said}");
    }
}
