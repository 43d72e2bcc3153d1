//! Caches that grow in place: an output that is an input with more rows behind it stays in the input's memory.
//!
//! A decoder appends its newest keys and values to those of the tokens before; as a Concat that copies all of them at each
//! step. Here the caller's memory has room for `capacity` rows, of which the input is the first ones; a step writes the new
//! rows behind them, and whoever reads the output reads that memory.
//!
//! Invariant: steps write behind the rows of the input only, so what reads the input may run before or after.

use std::sync::Arc;

use cameo_ir::{DType, Dim, Graph, NodeId, OpError, Origin, SymbolRange, ValueId};

use crate::build::{Builder, Placed};
use crate::classify::{Class, Info};
use crate::expand::LowerError;
use crate::program::Cache;

/// An output that grows in place.
pub(crate) struct Growing {
    /// Adds the rows.
    node: NodeId,
    value: ValueId,
    cache: Cache,
}

/// All outputs that are an input with rows of other values behind it, each input's first.
pub(crate) fn growing(info: &Info) -> Vec<Growing> {
    let graph = &info.graph;
    let mut found: Vec<Growing> = vec![];
    for (output, (_, value)) in graph.outputs().iter().enumerate() {
        let Some((node, _)) = graph.producer(*value) else {
            continue;
        };
        let Some((input, axis)) = grown(info, node) else {
            continue;
        };
        if found.iter().any(|g| g.cache.input == input || g.value == *value) {
            continue;
        }
        let name = &graph.value(graph.inputs()[input]).name;
        let cache = Cache {
            input,
            output,
            axis,
            capacity: unused_symbol(graph, format!("{name}.capacity")),
        };
        found.push(Growing {
            node,
            value: *value,
            cache,
        });
    }
    found
}

/// The input that a node adds rows to, and their axis.
fn grown(info: &Info, node: NodeId) -> Option<(usize, usize)> {
    let n = info.graph.node(node);
    let strings = info.graph.fact(n.outputs[0]).dtype == DType::String;
    if n.op.name() != "Concat" || strings || info.class(node) != Class::Parts {
        return None;
    }
    let first = (*n.inputs.first()?)?;
    let input = info.graph.inputs().iter().position(|v| *v == first)?;
    let (before, after) = (&info.graph.fact(first).shape, &info.graph.fact(n.outputs[0]).shape);
    // The other extents are those of one memory.
    let mut axes = (0..before.len()).filter(|a| before[*a] != after[*a]);
    let axis = axes.next()?;
    axes.next().is_none().then_some((input, axis))
}

/// The name, or one with lines behind it that no symbol of the graph has.
fn unused_symbol(graph: &Graph, mut name: String) -> Arc<str> {
    while graph.symbols.keys().any(|symbol| **symbol == name) {
        name.push('_');
    }
    name.into()
}

impl Builder<'_> {
    /// Finds the outputs that grow in place, and declares their capacities.
    pub(crate) fn declare_caches(&mut self) -> Result<(), LowerError> {
        self.growing = growing(self.info);
        if self.growing.is_empty() {
            return Err(LowerError {
                op: String::new(),
                origin: Origin::default(),
                error: OpError::Unsupported(
                    "a cache in place: no output is the Concat of an input and rows behind it".to_owned(),
                ),
            });
        }
        for Growing { value, cache, .. } in &self.growing {
            // Memory for a row at least: what is indexed by it is never empty.
            let range = SymbolRange { min: 1, max: i64::MAX };
            self.program.symbols.push((cache.capacity.clone(), range));
            self.program.caches.push(cache.clone());
            let rows = (cache.axis, Dim::sym(&cache.capacity));
            let input = self.info.graph.inputs()[cache.input];
            self.rows.insert(input, rows.clone());
            self.rows.insert(*value, rows);
        }
        Ok(())
    }

    /// Puts what a node adds rows to and its result into one memory; `None` when it is no cache.
    pub(crate) fn grow(&mut self, node: NodeId) -> Option<usize> {
        let Growing { value, cache, .. } = self.growing.iter().find(|g| g.node == node)?;
        let storage = self.placed[&self.info.graph.inputs()[cache.input]].storage;
        let order = (0..self.info.graph.fact(*value).rank()).collect();
        self.written[cache.output] = true;
        self.placed.insert(*value, Placed { storage, order });
        Some(storage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Place;
    use crate::{Choices, Program, partition, targets};

    /// The program of nodes over a cache %0 of `[2,P,4]`, new rows %1 and a row %2.
    fn program(nodes: &str, outputs: &str) -> Result<Program, Vec<LowerError>> {
        let text = format!(
            r#"graph @g (%0 "past": f32[2,P,4], %1 "new": f32[2,S,4], %2 "q": f32[2,1,4]) symbols P=0.., S=1.. {{
              {nodes}
              return {outputs}
            }}"#
        );
        let g = cameo_ir::text::parse(&text, &|_, _| None).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let choices = Choices {
            in_place_cache: true,
            ..Choices::default()
        };
        partition(&g, &targets::x86_64::V4, choices)
    }

    #[test]
    fn only_new_rows_are_written() {
        let p = program("%3 = Concat(%0, %1) {axis=1}", r#"%3 "all""#).expect("partitions");
        let capacity: Arc<str> = "past.capacity".into();
        assert_eq!(
            p.caches,
            [Cache {
                input: 0,
                output: 0,
                axis: 1,
                capacity: capacity.clone()
            }]
        );
        assert_eq!(p.steps.len(), 1);
        assert_eq!(p.steps[0].flops, Dim::from(8i64) * Dim::sym("S"));
        let storage = |name: &str| p.storages.iter().find(|s| &*s.name == name).expect("is there");
        assert_eq!(storage("past").elements, Dim::from(8i64) * Dim::sym(&capacity));
        assert!(p.storages.iter().all(|s| s.place != Place::Output(0)));
    }

    #[test]
    fn readers_see_the_memory_itself() {
        // The logits of a row, through a transpose, of all rows and of the old ones.
        let nodes = "%3 = Concat(%0, %1) {axis=1}
              %4 = Transpose(%3) {perm=[0,2,1]}
              %5 = MatMul(%2, %4)
              %6 = Transpose(%0) {perm=[0,2,1]}
              %7 = MatMul(%2, %6)";
        let p = program(nodes, r#"%3 "all", %5 "logits", %7 "old""#).expect("partitions");
        assert_eq!(
            p.steps.len(),
            3,
            "{}",
            crate::print::program(&p, &crate::memory::plan(&p))
        );
        // A second output of the same value has memory of its own.
        let p = program(nodes, r#"%3 "all", %3 "copy", %5 "logits", %7 "old""#).expect("partitions");
        assert_eq!((p.steps.len(), p.caches.len()), (4, 1));
    }

    #[test]
    fn bodies_of_loops_have_none() {
        let nodes = "%3 = Concat(%0, %1) {axis=1}
              %4 = Unsqueeze(%2) {axes=[0]}
              %5, %6 = cameo::Scan(%2, %4) {body=graph @step (%0 \"h\": f32[2,1,4], %1 \"x\": f32[2,1,4]) {
                %2 = Add(%0, %1)
                %3 = Concat(%1, %2) {axis=1}
                return %2 \"h\", %3 \"y\"
              }, length=dims[1], slices=1, states=1}";
        let p = program(nodes, r#"%3 "all", %5 "last", %6 "each""#).expect("partitions");
        assert_eq!((p.caches.len(), p.loops.len()), (1, 1));
        assert!(p.storages.iter().any(|s| s.place == Place::Output(2)));
    }

    #[test]
    fn what_is_no_cache_is_refused() {
        let grows = |nodes: &str| program(nodes, r#"%9 "y""#).is_ok();
        assert!(grows("%9 = Concat(%0, %1, %2) {axis=-2}"));
        for nodes in [
            "%9 = Concat(%1, %0) {axis=1}\n%3 = Exp(%0)",
            "%3 = Exp(%0)\n%9 = Concat(%3, %1) {axis=1}",
            "%3 = Concat(%0, %1) {axis=1}\n%9 = Exp(%3)",
        ] {
            // New rows in front of the others are those of another cache.
            assert_eq!(grows(nodes), nodes.starts_with("%9"), "{nodes}");
        }
    }
}
