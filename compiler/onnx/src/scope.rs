//! What a name means at a node: a value, a weight that was not read yet, or nothing because of an earlier problem.

use std::collections::BTreeMap;

use cameo_ir::ValueId;

use crate::proto::{AttributeProto, OperatorSetIdProto, SparseTensorProto, TensorProto};

/// The meaning of a name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slot<'m> {
    Value(ValueId),
    /// A value of which data decides the rank: it may be without its first axes, of extent 1. Operators of the same graph that
    /// broadcast give the same for each of its ranks; nothing else may read it.
    Loose(ValueId),
    /// A sequence: its position in [`crate::import::Importer::lists`].
    List(usize),
    /// An optional of which only a run knows whether it holds something: its position in
    /// [`crate::import::Importer::optionals`].
    Optional(usize),
    /// An input of a function that the caller left out, or an optional that holds nothing.
    Absent,
    /// Could not be imported; whatever depends on it is not reported again.
    Failed,
    /// Initialisers are read when something needs them.
    Dense(&'m TensorProto),
    Sparse(&'m SparseTensorProto),
}

/// What surrounds a list of nodes.
#[derive(Debug, Default)]
pub(crate) struct Scope<'m> {
    /// Names, innermost subgraph last.
    layers: Vec<BTreeMap<&'m str, Slot<'m>>>,
    /// Opset version by domain; the default domain is `""`.
    pub opsets: BTreeMap<&'m str, i64>,
    /// Inside functions: the attributes that the caller gave or that have defaults.
    pub attrs: BTreeMap<&'m str, &'m AttributeProto>,
    /// `caller/` for each call or branch around.
    pub prefix: String,
    in_function: bool,
}

impl<'m> Scope<'m> {
    pub fn new(opsets: BTreeMap<&'m str, i64>) -> Self {
        Self {
            layers: vec![BTreeMap::new()],
            opsets,
            ..Self::default()
        }
    }

    /// The inside of a function, which sees nothing of its caller.
    pub fn of_function(opsets: BTreeMap<&'m str, i64>, prefix: String) -> Self {
        Self {
            prefix,
            in_function: true,
            ..Self::new(opsets)
        }
    }

    /// The inside of a body that becomes a graph of its own.
    pub fn body(&self, prefix: String) -> Self {
        Self {
            layers: vec![BTreeMap::new()],
            opsets: self.opsets.clone(),
            attrs: self.attrs.clone(),
            prefix,
            in_function: self.in_function,
        }
    }

    /// Whether this code may be there many times.
    pub fn in_function(&self) -> bool {
        self.in_function
    }

    /// Opens a subgraph, which sees all names around it.
    pub fn enter(&mut self) {
        self.layers.push(BTreeMap::new());
    }

    pub fn leave(&mut self) {
        self.layers.pop();
    }

    /// Gives a name its meaning in the innermost graph.
    pub fn set(&mut self, name: &'m str, slot: Slot<'m>) {
        if let Some(layer) = self.layers.last_mut() {
            layer.insert(name, slot);
        }
    }

    /// Replaces the meaning of a name where it is defined.
    pub fn update(&mut self, name: &'m str, slot: Slot<'m>) {
        if let Some(old) = self.layers.iter_mut().rev().find_map(|l| l.get_mut(name)) {
            *old = slot;
        }
    }

    pub fn get(&self, name: &str) -> Option<Slot<'m>> {
        self.layers.iter().rev().find_map(|l| l.get(name)).copied()
    }

    /// Whether the innermost graph defines the name.
    pub fn defines(&self, name: &str) -> bool {
        self.layers.last().is_some_and(|l| l.contains_key(name))
    }
}

/// The default domain has two names.
pub(crate) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// Versions by domain; of repeated entries the newest counts.
pub(crate) fn opsets(imports: &[OperatorSetIdProto]) -> BTreeMap<&str, i64> {
    let mut out = BTreeMap::new();
    for o in imports {
        let v = out.entry(domain(&o.domain)).or_insert(o.version);
        *v = o.version.max(*v);
    }
    out
}
