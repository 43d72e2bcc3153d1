//! Graphs from text, without writing large weights out.

use bytes::Bytes;
use cameo_ir::random::Rng;
use cameo_ir::{Graph, text};

/// Reads a graph. `blob("NAME")` is random `f32` in -1..1 that depends on the name and the size.
///
/// The elements are sixteenths, so that printing and folding them is exact on every machine.
///
/// # Panics
/// When the text is not a graph.
pub fn graph(source: &str) -> Graph {
    text::parse(source, &|name, bytes| Some(weight(name, bytes))).unwrap_or_else(|e| panic!("{e}\n{source}"))
}

/// [`graph`] of text that may not be one.
pub fn try_graph(source: &str) -> Option<Graph> {
    text::parse(source, &|name, bytes| Some(weight(name, bytes))).ok()
}

fn weight(name: &str, bytes: usize) -> Bytes {
    let mut r = Rng::new(text::content_hash(name.as_bytes()));
    let mut one = || (r.range(-16, 16) as f32 / 16.0).to_le_bytes();
    (0..bytes / size_of::<f32>()).flat_map(|_| one()).collect()
}
