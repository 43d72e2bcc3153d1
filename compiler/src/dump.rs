//! Dumps: every stage of a compilation as a file.
//!
//! ```text
//! 00-import.ir  01-known_shapes.ir  …  14-partition.kernels  15-codegen.mlir  16-codegen.ll  weights/8d1c90ab34f0e652.bin
//! ```
//!
//! Invariant: every `.ir` file can be read back, and running the pass that the next `.ir` file is named after gives that
//! file (but `slice`, which is no pass: it needs the sizes that were asked for). A pass that changed nothing writes none.

use std::path::PathBuf;

use cameo_ir::text;

use crate::ir_file::{write_text, write_weights};
use crate::{Diagnostics, Product, Stage};

/// Where dumps go.
pub enum Destination {
    Folder(PathBuf),
    /// The texts one after the other, without large weights.
    Sink(fn(&str)),
}

/// Writes stages.
pub struct Dump {
    destination: Destination,
    /// When not empty: what these stages made, even where it is what was there before.
    only: Vec<String>,
    count: usize,
}

impl Dump {
    pub fn new(destination: Destination, only: Vec<String>) -> Self {
        Self {
            destination,
            only,
            count: 0,
        }
    }

    /// Writes what `stage` made.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&mut self, stage: Stage, product: &Product) -> Result<(), Diagnostics> {
        let chosen = self.only.iter().any(|s| s == stage.name);
        if !self.only.is_empty() && !chosen {
            return Ok(());
        }
        match product {
            Product::Graph(graph, report) => {
                if !chosen && report.is_some_and(|r| r.changes == 0) {
                    return Ok(());
                }
                self.file(stage, "ir", &text::print(graph))?;
                match &self.destination {
                    Destination::Folder(folder) => write_weights(folder, graph),
                    Destination::Sink(_) => Ok(()),
                }
            }
            Product::Program(program, plan) => {
                self.file(stage, "kernels", &cameo_kernel::print::program(program, plan))
            }
            Product::Code(artifact) => {
                for (extension, text) in artifact.texts() {
                    self.file(stage, extension, &text)?;
                }
                Ok(())
            }
            Product::None => Ok(()),
        }
    }

    fn file(&mut self, stage: Stage, extension: &str, text: &str) -> Result<(), Diagnostics> {
        match &self.destination {
            Destination::Folder(folder) => {
                let path = folder.join(format!("{:02}-{}.{extension}", self.count, stage.name));
                self.count += 1;
                write_text(&path, text)
            }
            Destination::Sink(show) => {
                show(text);
                Ok(())
            }
        }
    }
}
