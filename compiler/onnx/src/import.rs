//! The walk over a model: inputs, weights, nodes, outputs.
//!
//! Laws: a node that fails makes its outputs [`Slot::Failed`]; what depends on them is still checked for its operator, so
//! that one run lists everything, but is not reported for its inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use cameo_ir::dim::CUSTOM;
use cameo_ir::op::{Arity, AttrDef};
use cameo_ir::{Attr, Attrs, DType, Dim, Fact, Graph, Op, Origin, Tensor, ValueId, narrow};

use crate::attention::is_modified;
use crate::attributes;
use crate::bounds;
use crate::branches::of_loose;
use crate::custom::{CustomOp, declared};
use crate::dims::{Symbols, bind_frozen, symbol_names};
use crate::elements::{Elements, declared_ranks};
use crate::error::{Fault, Problem, Problems, Site};
use crate::functions::Functions;
use crate::gradient::GRADIENT;
use crate::lists::{Given, given};
use crate::operators::{known, unknown, version};
use crate::opset::{self, Draft};
use crate::plan::plan;
use crate::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorType, ValueInfoProto, attribute_type};
use crate::scope::{Scope, Slot, domain, opsets};
use crate::stacked::List;
use crate::weights::Weights;
use crate::{IR_VERSIONS, ImportOptions, OPSETS};

/// Everything that grows while a model is imported.
pub(crate) struct Importer<'m> {
    pub graph: Graph,
    pub problems: Problems,
    pub weights: Weights,
    pub functions: Functions<'m>,
    /// What inlining may still cost, in names and elements looked at.
    pub inlining_left: usize,
    /// What symbolic arithmetic may still cost, in terms.
    pub symbolic_left: u64,
    /// Names given to dimensions that nodes count.
    pub counted: usize,
    /// Inputs whose elements decide shapes: each element is a symbol, which a run reads.
    pub elements: Elements,
    /// Inputs that should be among them.
    pub wanted: Elements,
    /// The operand whose elements the operator that was refused last wants to know.
    pub unknown: Option<usize>,
    /// What the model says of the ranks of its values.
    pub ranks: BTreeMap<&'m str, usize>,
    /// The same with element types and shapes.
    pub declared: BTreeMap<&'m str, &'m TensorType>,
    pub lists: Vec<List>,
    /// Optionals that data decides about: whether there is something, and what.
    pub optionals: Vec<(ValueId, Slot<'m>)>,
    /// Operators that the user supplies.
    pub custom_ops: &'m [CustomOp],
    /// In bodies of a `Loop`, the number of the iteration, and how many there are.
    pub counters: Vec<(ValueId, Dim)>,
    /// Whether what follows from the number of an iteration may be a dimension of its own.
    pub turns_count: bool,
    /// The inputs of the body around the node that are not captured.
    pub formals: BTreeSet<ValueId>,
    /// Captured values that stay data, by name, of each body around the node.
    pub data: Vec<BTreeSet<String>>,
    /// Bodies of loops around the node.
    pub loop_depth: usize,
    /// A limit was hit; it is reported and nothing more is read.
    pub stopped: bool,
}

/// Inlined functions of real models cost some 100,000; ten times that still takes about a second.
const INLINING: usize = 1 << 20;

pub(crate) fn model(
    model: &ModelProto,
    size: usize,
    folder: Option<&Path>,
    options: &ImportOptions,
) -> Result<Graph, Vec<Problem>> {
    let mut problems = Problems::default();
    let Some(graph) = &model.graph else {
        problems.model(Fault::invalid("the model has no graph").hint("this is not an ONNX model"));
        return Err(problems.into_vec());
    };
    check_versions(model, graph, &mut problems);
    if !problems.is_empty() {
        unknown_operators(model, graph, &options.custom_ops, &mut problems);
        return Err(problems.into_vec());
    }
    // Which inputs decide shapes is seen where they do: then it begins again with their elements as symbols, so that what
    // other inputs have stays data.
    let mut elements = Elements::default();
    loop {
        let mut importer = Importer {
            graph: Graph::new(&graph.name),
            functions: Functions::new(&model.functions, &mut problems),
            problems: std::mem::take(&mut problems),
            weights: Weights::new(folder, size),
            inlining_left: INLINING,
            symbolic_left: bounds::SYMBOLIC,
            counted: 0,
            elements: elements.clone(),
            wanted: Elements::default(),
            unknown: None,
            ranks: declared_ranks(graph),
            declared: declared(graph),
            lists: vec![],
            optionals: vec![],
            custom_ops: &options.custom_ops,
            counters: vec![],
            turns_count: true,
            formals: BTreeSet::new(),
            data: vec![],
            loop_depth: 0,
            stopped: false,
        };
        importer.main(graph, opsets(&model.opset_import), options);
        if importer.problems.is_empty() {
            return Ok(importer.graph);
        }
        if !elements.extend(importer.wanted) {
            return Err(importer.problems.into_vec());
        }
    }
}

fn check_versions(model: &ModelProto, graph: &GraphProto, problems: &mut Problems) {
    let v = model.ir_version;
    if !IR_VERSIONS.contains(&v) {
        problems.model(
            Fault::unsupported(format!(
                "IR version {v}; versions {} to {} are supported",
                IR_VERSIONS.start(),
                IR_VERSIONS.end()
            ))
            .hint("save the model again with a current `onnx` package"),
        );
    }
    match opsets(&model.opset_import).get("") {
        Some(v) if OPSETS.contains(v) => {}
        Some(v) => problems.model(
            Fault::unsupported(format!(
                "opset {v}; opsets {} to {} are supported",
                OPSETS.start(),
                OPSETS.end()
            ))
            .hint(if v > OPSETS.end() {
                format!("export with opset {} or an older one", OPSETS.end())
            } else {
                "convert the model: `onnx.version_converter.convert_version(model, 21)`".to_owned()
            }),
        ),
        None if graph.node.iter().any(|n| domain(&n.domain).is_empty()) => {
            problems.model(Fault::invalid(
                "the model does not say which opset it uses (`opset_import`)",
            ));
        }
        None => {}
    }
}

/// The operators that no opset version would make known: reported also where nothing else of the model is read.
fn unknown_operators(model: &ModelProto, graph: &GraphProto, custom: &[CustomOp], problems: &mut Problems) {
    let opsets = opsets(&model.opset_import);
    for (i, node) in graph.node.iter().enumerate() {
        let site = site("", node, i, &opsets);
        let local = model
            .functions
            .iter()
            .any(|f| f.name == node.op_type && domain(&f.domain) == domain(&node.domain));
        if !local && !known(&site) && custom.iter().all(|c| c.name != site.op) {
            problems.node(&site, unknown(&site.op));
        }
    }
}

/// `Conv`, or `domain::Name` outside the default domain.
pub(crate) fn schema_name(node: &NodeProto) -> String {
    match domain(&node.domain) {
        "" => node.op_type.clone(),
        d => format!("{d}::{}", node.op_type),
    }
}

pub(crate) fn site(prefix: &str, node: &NodeProto, index: usize, opsets: &BTreeMap<&str, i64>) -> Site {
    let named = !node.name.is_empty();
    let (shown, origin) = if named {
        (node.name.clone(), node.name.clone())
    } else {
        (format!("node #{index}"), format!("{}_{index}", node.op_type))
    };
    Site {
        node: format!("{prefix}{shown}"),
        origin: format!("{prefix}{origin}"),
        op: schema_name(node),
        opset: opsets.get(domain(&node.domain)).copied(),
    }
}

/// The tensor as elements of a type that files of arrays have no name for, where it may be that: those are stored as bytes.
fn stored_as(t: &Tensor, dtype: DType) -> Tensor {
    if !dtype.is_narrow() || !matches!(t.dtype(), DType::U8 | DType::I8) {
        return t.clone();
    }
    let bytes = if dtype.bits() < 8 {
        narrow::pack(dtype, t.bytes()).into()
    } else {
        t.bytes().clone()
    };
    Tensor::from_packed(dtype, t.shape().to_vec(), bytes).unwrap_or_else(|_| t.clone())
}

/// Whether the elements of an input may be those of the tensor.
fn fits(t: &Tensor, fact: &Fact) -> bool {
    let extents = fact.shape.iter().zip(t.shape());
    let agree = |(d, n): (&Dim, &usize)| d.as_const().is_none_or(|c| usize::try_from(c) == Ok(*n));
    t.dtype() == fact.dtype && t.shape().len() == fact.rank() && extents.into_iter().all(agree)
}

impl<'m> Importer<'m> {
    fn main(&mut self, graph: &'m GraphProto, opsets: BTreeMap<&'m str, i64>, options: &ImportOptions) {
        let mut scope = Scope::new(opsets);
        self.initializers(graph, &mut scope);
        self.inputs(graph, &mut scope, options);
        let mut roots: Vec<&'m str> = vec![];
        match &options.outputs {
            None => roots.extend(graph.output.iter().map(|o| o.name.as_str())),
            Some(wanted) => {
                for name in wanted {
                    match find_value(graph, name) {
                        Some(n) => roots.push(n),
                        None => self.problems.model(
                            Fault::invalid(format!("there is no value `{name}` to be an output")).hint(format!(
                                "the model's outputs are {}",
                                list(graph.output.iter().map(|o| o.name.as_str()))
                            )),
                        ),
                    }
                }
            }
        }
        self.nodes(&mut scope, &graph.node, &roots, false);
        if roots.is_empty() {
            self.problems.model(Fault::invalid("the model has no outputs"));
        }
        self.outputs(&mut scope, roots);
    }

    /// Initialisers get their names; their bytes are looked at when something needs them.
    pub fn initializers(&mut self, graph: &'m GraphProto, scope: &mut Scope<'m>) {
        let dense = graph.initializer.iter().map(|t| (t.name.as_str(), Slot::Dense(t)));
        let sparse = graph.sparse_initializer.iter().map(|s| {
            let name = s.values.as_ref().map_or("", |v| v.name.as_str());
            (name, Slot::Sparse(s))
        });
        for (name, slot) in dense.chain(sparse) {
            if name.is_empty() || scope.defines(name) {
                self.problems
                    .model(Fault::invalid(format!("initializer `{name}` has no name of its own")));
            } else {
                scope.set(name, slot);
            }
        }
    }

    fn inputs(&mut self, graph: &'m GraphProto, scope: &mut Scope<'m>, options: &ImportOptions) {
        // Inputs with an initialiser are weights: before IR version 4 all weights were written so, and later it means a
        // default that callers may replace, which a compiled model does not offer.
        let formals: Vec<&'m ValueInfoProto> = graph.input.iter().filter(|i| !scope.defines(&i.name)).collect();
        for (name, _) in &options.items {
            if formals.iter().all(|i| i.name != *name) {
                let names = list(formals.iter().map(|i| i.name.as_str()));
                let fault = Fault::invalid(format!("`--items`: there is no input `{name}`"));
                self.problems
                    .model(fault.hint(format!("the model's inputs are {names}")));
            }
        }
        // Sequences and optionals are the tensors that they hold.
        let mut held = vec![];
        for input in formals {
            let items = options.items.iter().rfind(|(name, _)| *name == input.name);
            match given(input, items.map(|(_, items)| items)) {
                Ok(given) => held.push((input.name.as_str(), given)),
                Err(f) => {
                    self.problems.model(f.of(&format!("input `{}`", input.name)));
                    scope.set(&input.name, Slot::Failed);
                }
            }
        }
        let inputs: Vec<&ValueInfoProto> = held.iter().flat_map(|(_, given)| given.tensors()).collect();
        for (name, _) in &options.frozen {
            if inputs.iter().all(|i| i.name != *name) {
                let fault = Fault::invalid(format!("there is no input `{name}` to freeze"));
                let names = list(inputs.iter().map(|i| i.name.as_str()));
                self.problems
                    .model(fault.hint(format!("the model's inputs are {names}")));
            }
        }
        let mut bindings = options.dims.clone();
        for fault in bind_frozen(&inputs, &options.frozen, &mut bindings) {
            self.problems.model(fault);
        }
        self.elements.bind(&inputs, &mut bindings);
        let mut symbols = Symbols::new(&bindings, &inputs);
        for (name, given) in &held {
            if name.is_empty() || scope.defines(name) {
                self.problems
                    .model(Fault::invalid(format!("input `{name}` has no name of its own")));
                continue;
            }
            let values: Option<Vec<ValueId>> = given
                .tensors()
                .iter()
                .map(|input| self.input(input, &mut symbols, &options.frozen))
                .collect();
            let slot = match (given, values) {
                (_, None) => Slot::Failed,
                (Given::Absent, _) => Slot::Absent,
                (Given::Tensor(_), Some(values)) => Slot::Value(values[0]),
                (Given::List(_), Some(values)) => self.new_list(values),
            };
            scope.set(name, slot);
        }
        for fault in symbols.finish(&mut self.graph) {
            self.problems.model(fault);
        }
    }

    /// An input of the graph, or a weight where it is frozen; `None`: something is wrong with it and is reported.
    fn input(&mut self, input: &ValueInfoProto, symbols: &mut Symbols, frozen: &[(String, Tensor)]) -> Option<ValueId> {
        let fact = match symbols.fact(input) {
            Ok(fact) => fact,
            Err(f) => {
                self.problems.model(f.of(&format!("input `{}`", input.name)));
                return None;
            }
        };
        let Some((name, t)) = frozen.iter().find(|f| f.0 == input.name) else {
            let fact = self.with_elements(&input.name, fact);
            return Some(self.graph.add_input(&input.name, fact));
        };
        if !fits(&stored_as(t, fact.dtype), &fact) {
            let given = t.fact();
            let fault = format!("input `{name}` is {fact}, what it is to be frozen as is {given}");
            self.problems.model(Fault::invalid(fault));
            return None;
        }
        Some(self.graph.add_weight(name, stored_as(t, fact.dtype)))
    }

    /// The meaning of a name: never a weight that was not read.
    pub fn slot(&mut self, scope: &mut Scope<'m>, name: &'m str) -> Result<Slot<'m>, Fault> {
        match scope.get(name) {
            Some(slot @ (Slot::List(_) | Slot::Optional(_) | Slot::Absent)) => Ok(slot),
            _ => Ok(self.read(scope, name)?.map_or(Slot::Failed, Slot::Value)),
        }
    }

    /// [`Importer::read`] of all of them; `Ok(None)` where one has no meaning.
    pub fn read_all(
        &mut self,
        scope: &mut Scope<'m>,
        names: impl IntoIterator<Item = &'m str>,
    ) -> Result<Option<Vec<ValueId>>, Fault> {
        let each = names.into_iter().map(|name| self.read(scope, name).transpose());
        each.collect::<Option<_>>().transpose()
    }

    /// The value of a name, reading its weight if that has not happened. `Ok(None)`: absent or failed before.
    pub fn read(&mut self, scope: &mut Scope<'m>, name: &'m str) -> Result<Option<ValueId>, Fault> {
        let read = match scope.get(name) {
            Some(Slot::Value(v)) => return Ok(Some(v)),
            Some(Slot::Absent | Slot::Failed) => return Ok(None),
            Some(Slot::List(_)) => {
                return Err(Fault::invalid(format!("`{name}` is a sequence, a tensor is wanted")));
            }
            Some(Slot::Optional(_)) => {
                return Err(Fault::invalid(format!("`{name}` is an optional, a tensor is wanted")));
            }
            Some(Slot::Loose(_)) => return Err(of_loose(name)),
            None if self.stopped => return Ok(None),
            None => return Err(Fault::invalid(format!("value `{name}` is not defined"))),
            Some(Slot::Dense(t)) => self.weights.dense(t),
            Some(Slot::Sparse(s)) => self.weights.sparse(s),
        };
        match read {
            Ok(t) => {
                let v = self.graph.add_weight(name, t);
                scope.update(name, Slot::Value(v));
                Ok(Some(v))
            }
            Err(f) => {
                self.problems.model(f.of(&format!("initializer `{name}`")));
                scope.update(name, Slot::Failed);
                Ok(None)
            }
        }
    }

    /// Imports the nodes that `roots` need. `inlined`: costs count against the limit of inlining.
    pub fn nodes(&mut self, scope: &mut Scope<'m>, nodes: &'m [NodeProto], roots: &[&'m str], inlined: bool) {
        let plan = plan(nodes, roots);
        if inlined {
            self.spend(plan.cost);
        }
        for (i, fault) in plan.faults {
            let site = site(&scope.prefix, &nodes[i], i, &scope.opsets);
            self.problems.node(&site, fault);
        }
        for i in plan.order {
            if self.stopped {
                return;
            }
            self.node(scope, &nodes[i], i, &plan.used);
        }
    }

    pub fn spend(&mut self, cost: usize) {
        match self.inlining_left.checked_sub(cost) {
            Some(left) => self.inlining_left = left,
            None if !self.stopped => {
                self.stopped = true;
                self.problems.model(
                    Fault::unsupported("inlining the model's functions gives too many nodes")
                        .hint("functions that call functions that call functions multiply; export without them"),
                );
            }
            None => {}
        }
    }

    fn node(&mut self, scope: &mut Scope<'m>, node: &'m NodeProto, index: usize, used: &BTreeSet<&'m str>) {
        let site = site(&scope.prefix, node, index, &scope.opsets);
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            if scope.defines(name) {
                self.problems
                    .node(&site, Fault::invalid(format!("its output `{name}` is already defined")));
                return;
            }
        }
        if !self.dispatch(scope, node, &site, used) {
            for name in node.output.iter().filter(|n| !n.is_empty()) {
                if !scope.defines(name) {
                    scope.set(name, Slot::Failed);
                }
            }
        }
    }

    /// `false`: the outputs that have no meaning now are failed.
    fn dispatch(&mut self, scope: &mut Scope<'m>, node: &'m NodeProto, site: &Site, used: &BTreeSet<&'m str>) -> bool {
        let attrs = resolve(scope, node);
        if scope.in_function() {
            self.spend(attrs.iter().map(|(_, a)| attributes::copied_elements(a)).sum());
        }
        if self.custom_op(site).is_some() {
            return self.operator(scope, node, site, &attrs, used);
        }
        if let Some(f) = self.functions.find(node) {
            return self.call(scope, node, site, &attrs, f);
        }
        match site.op.as_str() {
            "Constant" => self.constant(scope, node, site, &attrs),
            "If" => self.branch(scope, node, site, &attrs),
            "Loop" | "Scan" => self.over_time(scope, node, site, &attrs),
            op if self.is_about_lists(scope, node, op) => self.about_lists(scope, node, site, &attrs),
            GRADIENT => self.gradient(scope, node, site, &attrs),
            "ai.onnx.preview::FlexAttention" if is_modified(&attrs) => {
                self.modified_attention(scope, node, site, &attrs)
            }
            _ => self.operator(scope, node, site, &attrs, used),
        }
    }

    /// Names the unsupported operators of subgraphs that are not imported.
    pub fn unknown_inside(&mut self, scope: &Scope<'m>, around: &Site, attrs: &[(&'m str, &'m AttributeProto)]) {
        for (_, a) in attrs {
            for graph in crate::plan::subgraphs(a) {
                for (i, node) in graph.node.iter().enumerate() {
                    let site = site(&format!("{}/", around.origin), node, i, &scope.opsets);
                    if self.functions.find(node).is_none() && self.custom_op(&site).is_none() && !known(&site) {
                        self.problems.node(&site, unknown(&site.op));
                    }
                    let inner: Vec<_> = node.attribute.iter().map(|a| (a.name.as_str(), a)).collect();
                    self.unknown_inside(scope, &site, &inner);
                }
            }
        }
    }

    fn constant(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &[(&'m str, &'m AttributeProto)],
    ) -> bool {
        let tensor = match attrs {
            [(name, a)] => constant_value(name, a, &mut self.weights),
            _ => Err(Fault::invalid(format!("{} attributes given, one wanted", attrs.len()))),
        };
        let tensor = match tensor {
            Ok(t) => t,
            Err(f) => {
                self.problems.node(site, f);
                return false;
            }
        };
        let Some(name) = node.output.first() else { return true };
        let v = self.graph.add_weight(name, tensor);
        scope.set(name, Slot::Value(v));
        true
    }

    fn operator(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &[(&'m str, &'m AttributeProto)],
        used: &BTreeSet<&'m str>,
    ) -> bool {
        let custom = self.custom_op(site);
        if custom.is_none() && !known(site) {
            self.problems.node(site, unknown(&site.op));
            return false;
        }
        if let Err(f) = version(site) {
            self.problems.node(site, f);
            return false;
        }
        let mut ok = true;
        let mut values = Attrs::new();
        for (name, a) in attrs {
            match attributes::value(a, &mut self.weights) {
                Ok(v) => {
                    if values.insert((*name).into(), v).is_some() {
                        let twice = Fault::invalid(format!("attribute `{name}` is given twice"));
                        self.problems.node(site, twice);
                        ok = false;
                    }
                }
                Err(f) => {
                    self.problems.node(site, f.of(&format!("attribute `{name}`")));
                    ok = false;
                }
            }
        }
        let mut inputs = Vec::with_capacity(node.input.len());
        // Before opset 7 axes are counted from the first one.
        let new = site.opset.is_some_and(|version| version >= 7) && domain(&node.domain).is_empty();
        let broadcasts = custom.is_none()
            && new
            && (site.op == "CastLike" || Op::find(&site.op).is_some_and(|op| op.schema().pointwise));
        // What only tells a type or a bound is of any rank.
        let sized = |i: usize| i == 0 || !matches!(&*site.op, "CastLike" | "Clip");
        // The largest rank of operands that are broadcast, and that of those whose rank data decides.
        let (mut rank, mut loose) = (0, None);
        for (i, name) in node.input.iter().enumerate() {
            if let Some(Slot::Loose(v)) = scope.get(name)
                && broadcasts
            {
                if sized(i) {
                    loose = loose.max(Some(self.graph.fact(v).rank()));
                }
                inputs.push(Some(v));
                continue;
            }
            if name.is_empty() || matches!(scope.get(name), Some(Slot::Absent)) {
                inputs.push(None);
                continue;
            }
            match self.read(scope, name) {
                Ok(Some(v)) => {
                    if sized(i) {
                        rank = rank.max(self.graph.fact(v).rank());
                    }
                    inputs.push(Some(v));
                }
                Ok(None) => ok = false,
                Err(f) => {
                    self.problems.node(site, f);
                    ok = false;
                }
            }
        }
        let firm = loose.is_none_or(|loose| loose <= rank);
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        if !ok {
            return false;
        }
        let added = match custom {
            Some(custom) => self.add_custom(custom, node, site, values, inputs),
            None => self.add(node, site, values, inputs, used),
        };
        match added {
            Ok(outputs) => {
                for (name, v) in node.output.iter().zip(outputs) {
                    if !name.is_empty() {
                        self.graph.set_name(v, name);
                        scope.set(name, if firm { Slot::Value(v) } else { Slot::Loose(v) });
                    }
                }
                // Outputs that nothing reads were not asked for.
                true
            }
            Err(faults) => {
                for f in faults {
                    self.problems.node(site, f);
                }
                false
            }
        }
    }

    /// A name for a dimension that no input gives.
    pub fn new_symbol(&mut self, prefix: &str, op: &str) -> Arc<str> {
        loop {
            self.counted += 1;
            let name: Arc<str> = format!("{prefix}{}{}", op.to_lowercase(), self.counted).into();
            if !self.graph.symbols.contains_key(&name) {
                return name;
            }
        }
    }

    /// Raises the node to the newest opset and adds it to the graph.
    fn add(
        &mut self,
        node: &'m NodeProto,
        site: &Site,
        attrs: Attrs,
        inputs: Vec<Option<ValueId>>,
        used: &BTreeSet<&str>,
    ) -> Result<Vec<ValueId>, Vec<Fault>> {
        let wanted = |name: &String| !name.is_empty() && used.contains(name.as_str());
        let read = node.output.iter().rposition(wanted).map_or(1, |i| i + 1);
        let given = node.output.iter().rposition(|n| !n.is_empty()).map_or(1, |i| i + 1);
        // A variadic operator has as many outputs as it says; others leave out what nobody reads.
        let variadic = Op::find(&site.op)
            .and_then(|op| op.schema().outputs.last())
            .is_some_and(|p| p.arity == Arity::Variadic);
        let one = |f: Fault| vec![f];
        let mut draft = Draft {
            graph: &mut self.graph,
            op: site.op.clone(),
            attrs,
            inputs,
            outputs: if variadic { given } else { read },
            origin: Origin::new(&site.origin),
            after: vec![],
        };
        if domain(&node.domain).is_empty() {
            let Some(version) = site.opset else {
                return Err(one(Fault::invalid("no opset is given for the default domain")));
            };
            opset::raise(&mut draft, version).map_err(|e| one(e.into()))?;
        }
        let Draft {
            op,
            attrs,
            inputs,
            outputs,
            origin,
            after,
            ..
        } = draft;
        if op == "Slice"
            && let Some(moving) = self.moving(&inputs, &origin).map_err(one)?
        {
            return Ok(vec![moving]);
        }
        // A program gives tensors: the maps' keys are an attribute, the same for all rows.
        if op == "ai.onnx.ml::ZipMap" {
            let values = inputs.first().copied().flatten();
            return values
                .map(|v| vec![v])
                .ok_or_else(|| one(Fault::invalid("the values are missing")));
        }
        let Some(op) = Op::find(&op) else {
            return Err(one(unknown(&op)));
        };
        let mut attrs = attributes::adapt(op.schema(), attrs)?;
        if let Some(values) = self.counted_before(op, &attrs, &inputs) {
            return Ok(values);
        }
        for (name, def) in op.schema().attrs {
            let prefix = match def {
                AttrDef::Symbol(prefix) => prefix,
                AttrDef::Probe if self.is_there_before(&inputs) => CUSTOM,
                _ => continue,
            };
            attrs.insert((*name).into(), Attr::Str(self.new_symbol(prefix, op.name())));
        }
        // Outputs that the schema requires are computed whether somebody reads them or not.
        let required = op.schema().outputs.iter().filter(|p| p.arity == Arity::One).count();
        let outputs = outputs.max(required);
        let given = inputs.clone();
        let mut values = self.typed(op, &attrs, inputs, outputs, &origin).map_err(|f| {
            if let Some(i) = self.unknown.take() {
                self.want_length(node, op, &given, i);
            }
            self.want_extent(node, op, &given);
            one(with_hint(f, &self.graph))
        })?;
        for (op, more) in after {
            let Some(op) = Op::find(op) else {
                return Err(one(unknown(op)));
            };
            let inputs = values.first().copied().into_iter().chain(more).map(Some).collect();
            let last = self.typed(op, &Attrs::new(), inputs, 1, &origin).map_err(one)?;
            values.splice(..values.len().min(1), last);
        }
        Ok(values)
    }
}

fn with_hint(fault: Fault, graph: &Graph) -> Fault {
    let symbolic = ["symbolic", "known at compile time", "must be known"];
    if fault.hint.is_some() || !symbolic.iter().any(|s| fault.message.contains(s)) {
        return fault;
    }
    let names = symbol_names(graph);
    if names.is_empty() {
        return fault;
    }
    fault.hint(format!(
        "fixing a dynamic dimension may help: --dim NAME=VALUE, where the names are {}",
        names.join(", ")
    ))
}

/// The attributes of a node, references to the caller's attributes followed; references to nothing are left out.
fn resolve<'m>(scope: &Scope<'m>, node: &'m NodeProto) -> Vec<(&'m str, &'m AttributeProto)> {
    let follow = |a: &'m AttributeProto| match a.ref_attr_name.as_str() {
        "" => Some((a.name.as_str(), a)),
        r => scope.attrs.get(r).map(|target| (a.name.as_str(), *target)),
    };
    node.attribute.iter().filter_map(follow).collect()
}

fn constant_value(name: &str, a: &AttributeProto, weights: &mut Weights) -> Result<cameo_ir::Tensor, Fault> {
    use cameo_ir::{Attr, Tensor};
    let kind = attributes::kind(a);
    // `value_int` of 0 without a type cannot be told from nothing.
    let value = match (name, kind) {
        ("value_int", attribute_type::UNDEFINED) => Attr::Int(a.i),
        ("value_float", attribute_type::UNDEFINED) => Attr::Float(a.f),
        ("value_string", attribute_type::UNDEFINED) => Attr::Str("".into()),
        _ => attributes::value(a, weights).map_err(|f| f.of(&format!("attribute `{name}`")))?,
    };
    match (name, value) {
        ("value" | "sparse_value", Attr::Tensor(t)) => Ok(t),
        ("value_int", Attr::Int(x)) => Ok(Tensor::i64(&[], [x])),
        ("value_ints", Attr::Ints(v)) => Ok(Tensor::i64(&[v.len()], v)),
        ("value_float", Attr::Float(x)) => Ok(Tensor::f32(&[], [x])),
        ("value_floats", Attr::Floats(v)) => Ok(Tensor::f32(&[v.len()], v)),
        ("value_string", Attr::Str(s)) => Tensor::strings(&[], [&*s]).map_err(Fault::unsupported),
        ("value_strings", Attr::Strs(v)) => {
            Tensor::strings(&[v.len()], v.iter().map(|s| &**s)).map_err(Fault::unsupported)
        }
        _ => Err(Fault::invalid(format!(
            "attribute `{name}` is not one of this operation's"
        ))),
    }
}

/// The file's spelling of a value of the main graph.
fn find_value<'m>(graph: &'m GraphProto, name: &str) -> Option<&'m str> {
    let nodes = graph.node.iter().flat_map(|n| &n.output);
    let inputs = graph.input.iter().map(|i| &i.name);
    let weights = graph.initializer.iter().map(|t| &t.name);
    let mut all = nodes.chain(inputs).chain(weights);
    all.find(|n| !n.is_empty() && *n == name).map(String::as_str)
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}
