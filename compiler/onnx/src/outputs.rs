//! What a model gives: tensors, those of its sequences, and whether its optionals hold something.

use std::collections::BTreeSet;

use crate::bodies::of_sequences;
use crate::error::Fault;
use crate::import::Importer;
use crate::lists::item;
use crate::scope::{Scope, Slot};
use crate::stacked::List;

impl<'m> Importer<'m> {
    /// Makes the values of these names outputs of the graph.
    pub fn outputs(&mut self, scope: &mut Scope<'m>, roots: Vec<&'m str>) {
        let mut seen = BTreeSet::new();
        for name in roots {
            if !seen.insert(name) {
                self.problems
                    .model(Fault::invalid(format!("output `{name}` is there twice")));
                continue;
            }
            let mut slot = self.slot(scope, name);
            let mut present = None;
            if let Ok(Slot::Optional(at)) = slot {
                let (there, held) = self.optionals[at];
                present = Some(there);
                slot = Ok(held);
            }
            match slot {
                Ok(Slot::Value(v)) => self.graph.add_output(name, v),
                Ok(Slot::List(list)) => match self.lists[list].clone() {
                    List::Items(items) => {
                        for (i, v) in items.iter().enumerate() {
                            self.graph.add_output(&item(name, i), *v);
                        }
                    }
                    List::Stacked(s) => {
                        if let Err(f) = self.stacked_output(name, &s) {
                            self.problems.model(f.of(&format!("output `{name}`")));
                        }
                    }
                    List::Grown { .. } => self.problems.model(of_sequences().of(&format!("output `{name}`"))),
                },
                Ok(Slot::Absent) => {
                    let absent =
                        format!("output `{name}` is an optional without an element, or an input that was left out");
                    self.problems.model(Fault::invalid(absent));
                }
                Ok(_) => {}
                Err(f) => self.problems.model(f.of(&format!("output `{name}`"))),
            }
            if let Some(there) = present {
                self.graph.add_output(&format!("{name}[].present"), there);
            }
        }
    }
}
