//! Model-local functions and constant branches: inlined where they are called.
//!
//! Invariant: a function never runs inside itself, and what inlining costs in total is bounded.

use std::collections::BTreeMap;

use cameo_ir::{Bounds, DType, Dim, Sym, ValueId};

use crate::error::{Fault, Problems, Site};
use crate::import::Importer;
use crate::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto};
use crate::scope::{Scope, Slot, domain, opsets};

/// Calls and branches inside each other. Exporters nest by module, a dozen deep.
pub(crate) const MAX_DEPTH: usize = 64;

/// The functions of a model by domain, name and overload.
#[derive(Debug, Default)]
pub(crate) struct Functions<'m> {
    by_name: BTreeMap<(&'m str, &'m str, &'m str), &'m FunctionProto>,
    /// Those being inlined, and `None` for each branch.
    stack: Vec<Option<&'m FunctionProto>>,
}

impl<'m> Functions<'m> {
    pub fn new(functions: &'m [FunctionProto], problems: &mut Problems) -> Self {
        let mut by_name = BTreeMap::new();
        for f in functions {
            let key = (domain(&f.domain), f.name.as_str(), f.overload.as_str());
            if by_name.insert(key, f).is_some() {
                problems.model(Fault::invalid(format!("function `{}` is defined twice", f.name)));
            }
        }
        Self { by_name, stack: vec![] }
    }

    /// Notes that a branch or a body is being imported; `false` when it would be too deep.
    pub fn enter(&mut self) -> bool {
        let fits = self.stack.len() < MAX_DEPTH;
        if fits {
            self.stack.push(None);
        }
        fits
    }

    pub fn leave(&mut self) {
        self.stack.pop();
    }

    /// The function that a node calls. A function goes before an operator of the same name: the file knows what it means.
    pub fn find(&self, node: &NodeProto) -> Option<&'m FunctionProto> {
        if self.by_name.is_empty() {
            return None;
        }
        let key = (domain(&node.domain), node.op_type.as_str(), node.overload.as_str());
        self.by_name.get(&key).copied()
    }
}

/// What decides a conditional.
enum Condition {
    Known(bool),
    /// One bool that only a run knows.
    Data(ValueId),
}

impl<'m> Importer<'m> {
    /// Inlines a call.
    pub fn call(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &[(&'m str, &'m AttributeProto)],
        f: &'m FunctionProto,
    ) -> bool {
        if let Err(fault) = self.check_call(node, f) {
            self.problems.node(site, fault);
            return false;
        }
        let mut versions = scope.opsets.clone();
        versions.extend(opsets(&f.opset_import));
        let mut inner = Scope::of_function(versions, format!("{}/", site.origin));
        inner.attrs = f.attribute_proto.iter().map(|a| (a.name.as_str(), a)).collect();
        for (name, a) in attrs {
            if !f.attribute.iter().any(|n| n == name) && !f.attribute_proto.iter().any(|d| d.name == *name) {
                let stranger = Fault::invalid(format!("function `{}` has no attribute `{name}`", f.name));
                self.problems.node(site, stranger);
                return false;
            }
            inner.attrs.insert(name, a);
        }
        for (i, formal) in f.input.iter().enumerate() {
            let slot = match node.input.get(i).map(String::as_str) {
                None | Some("") => Slot::Absent,
                Some(actual) => self.slot(scope, actual).unwrap_or_else(|fault| {
                    self.problems.node(site, fault);
                    Slot::Failed
                }),
            };
            inner.set(formal, slot);
        }
        let results: Vec<(&'m String, &'m str)> = node
            .output
            .iter()
            .zip(f.output.iter().map(String::as_str))
            .filter(|(actual, _)| !actual.is_empty())
            .collect();
        let roots: Vec<&str> = results.iter().map(|(_, formal)| *formal).collect();
        self.spend(1 + f.input.len() + f.attribute_proto.len());
        self.functions.stack.push(Some(f));
        self.nodes(&mut inner, &f.node, &roots, true);
        for (actual, formal) in results {
            let slot = self.result(&mut inner, formal, actual, site);
            scope.set(actual, slot);
        }
        self.functions.stack.pop();
        true
    }

    fn check_call(&self, node: &NodeProto, f: &'m FunctionProto) -> Result<(), Fault> {
        if self.functions.stack.len() >= MAX_DEPTH {
            return Err(Fault::unsupported(format!("calls are nested deeper than {MAX_DEPTH}")));
        }
        if self.functions.stack.iter().flatten().any(|g| std::ptr::eq(*g, f)) {
            return Err(Fault::invalid(format!("function `{}` calls itself", f.name)));
        }
        for (what, given, taken) in [
            ("inputs", node.input.len(), f.input.len()),
            ("outputs", node.output.len(), f.output.len()),
        ] {
            if given > taken {
                return Err(Fault::invalid(format!(
                    "{given} {what} given, function `{}` has {taken}",
                    f.name
                )));
            }
        }
        Ok(())
    }

    /// A conditional: where the condition is known, the branch that is taken becomes part of the graph around it.
    pub fn branch(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &[(&'m str, &'m AttributeProto)],
    ) -> bool {
        let graph = |name: &str| {
            let attr = attrs.iter().find(|(n, _)| *n == name);
            attr.and_then(|(_, a)| a.g.as_deref())
        };
        let (Some(yes), Some(no), Some(condition)) = (graph("then_branch"), graph("else_branch"), node.input.first())
        else {
            let f = Fault::invalid("a condition, `then_branch` and `else_branch` are wanted");
            self.problems.node(site, f);
            return false;
        };
        let taken = match self.condition(scope, condition) {
            Ok(Some(Condition::Known(true))) => yes,
            Ok(Some(Condition::Known(false))) => no,
            Ok(Some(Condition::Data(v))) => {
                let problems = self.problems.clone();
                if self.either(scope, node, site, attrs, v, [yes, no]) {
                    return true;
                }
                let Some(taken) = self.presume(v) else { return false };
                self.problems = problems;
                if taken { yes } else { no }
            }
            Ok(None) => {
                self.unknown_inside(scope, site, attrs);
                return false;
            }
            Err(fault) => {
                self.problems.node(site, fault);
                self.unknown_inside(scope, site, attrs);
                return false;
            }
        };
        if node.output.len() > taken.output.len() {
            let f = Fault::invalid(format!(
                "{} outputs wanted, the branch has {}",
                node.output.len(),
                taken.output.len()
            ));
            self.problems.node(site, f);
            return false;
        }
        if !self.functions.enter() {
            let f = Fault::unsupported(format!("branches are nested deeper than {MAX_DEPTH}"));
            self.problems.node(site, f);
            return false;
        }
        let slots = self.subgraph(scope, node, site, taken);
        self.functions.leave();
        for (name, slot) in slots {
            scope.set(name, slot);
        }
        true
    }

    fn subgraph(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        graph: &'m GraphProto,
    ) -> Vec<(&'m str, Slot<'m>)> {
        let inlined = scope.in_function();
        let results: Vec<(&'m str, &'m str)> = node
            .output
            .iter()
            .zip(&graph.output)
            .filter(|(actual, _)| !actual.is_empty())
            .map(|(actual, o)| (actual.as_str(), o.name.as_str()))
            .collect();
        let roots: Vec<&str> = results.iter().map(|(_, inner)| *inner).collect();
        let slots = self.inside(scope, site, graph, vec![], &roots, inlined);
        let named = results.into_iter().zip(slots);
        named
            .map(|((actual, _), slot)| (actual, self.known_as(slot, actual, site)))
            .collect()
    }

    /// The meanings of `roots` in a graph that becomes part of the one around it, where `given` are its inputs.
    pub fn inside(
        &mut self,
        scope: &mut Scope<'m>,
        site: &Site,
        graph: &'m GraphProto,
        given: Vec<(&'m str, Slot<'m>)>,
        roots: &[&'m str],
        inlined: bool,
    ) -> Vec<Result<Slot<'m>, Fault>> {
        scope.enter();
        let prefix = std::mem::replace(&mut scope.prefix, format!("{}/", site.origin));
        for (name, slot) in given {
            scope.set(name, slot);
        }
        self.initializers(graph, scope);
        self.nodes(scope, &graph.node, roots, inlined);
        let of = |name: &&'m str| match scope.get(name) {
            Some(slot @ Slot::Loose(_)) => Ok(slot),
            _ => self.slot(scope, name),
        };
        let slots = roots.iter().map(of).collect();
        scope.leave();
        scope.prefix = prefix;
        slots
    }

    /// The meaning outside of a value that a body computes.
    fn result(&mut self, scope: &mut Scope<'m>, inner: &'m str, outer: &str, site: &Site) -> Slot<'m> {
        let slot = self.slot(scope, inner);
        self.known_as(slot, outer, site)
    }

    fn known_as(&mut self, slot: Result<Slot<'m>, Fault>, outer: &str, site: &Site) -> Slot<'m> {
        match slot {
            Ok(Slot::Value(v)) => {
                if self.graph.producer(v).is_some() {
                    self.graph.set_name(v, outer);
                }
                Slot::Value(v)
            }
            Ok(slot) => slot,
            Err(f) => {
                self.problems.node(site, f);
                Slot::Failed
            }
        }
    }

    /// The value of a condition; `Ok(None)` when it failed before.
    fn condition(&mut self, scope: &mut Scope<'m>, name: &'m str) -> Result<Option<Condition>, Fault> {
        let Some(v) = self.read(scope, name)? else {
            return Ok(None);
        };
        let fact = self.graph.fact(v);
        if fact.dtype != DType::Bool {
            return Err(Fault::invalid(format!("the condition is {fact}, not bool")));
        }
        let constant = self
            .graph
            .constant(v)
            .and_then(cameo_ir::Tensor::scalar_f64)
            .map(|x| x != 0.0);
        let known = match fact.known.as_deref() {
            Some([d]) => decided(d, &|name| self.graph.symbol_range(name)),
            _ => None,
        };
        match constant.or(known) {
            Some(b) => Ok(Some(Condition::Known(b))),
            None if fact.element_count().as_const().is_none_or(|n| n == 1) => Ok(Some(Condition::Data(v))),
            None => Err(Fault::invalid(format!("the condition is {fact}, not one bool"))),
        }
    }

    /// What a condition is where no dimension is 0, or else where none is 0 or 1, if that decides it: then a run takes no
    /// others from now on.
    ///
    /// For branches that cannot be one: `if boxes.numel() == 0: return empty` has a shape of its own, and `x.squeeze(1)` has
    /// a rank of its own where there is one element.
    fn presume(&mut self, condition: ValueId) -> Option<bool> {
        let [d] = self.graph.fact(condition).known.as_deref()? else {
            return None;
        };
        let d = d.clone();
        let (taken, extent) = self.presumable(&d)?;
        for (name, range) in &mut self.graph.symbols {
            if d.uses(&Sym::Named(name.clone())) {
                range.min = range.min.max(least(name, extent));
            }
        }
        Some(taken)
    }

    /// Which branch [`Importer::presume`] would take, and the extent that it would ask for.
    pub fn presumable(&self, condition: &Dim) -> Option<(bool, i64)> {
        let mut extents = [1, 2].into_iter();
        extents.find_map(|extent| Some((self.decided(condition, extent)?, extent)))
    }

    /// See [`Importer::presume`].
    pub fn presumed(&self, condition: &Dim) -> Option<bool> {
        self.decided(condition, 1)
    }

    /// Whether it can be only one of both where extents are at least this, and may be.
    fn decided(&self, condition: &Dim, extent: i64) -> Option<bool> {
        let named = |name: &str| {
            let (min, max) = self.graph.symbol_range(name);
            (min.max(least(name, extent)), max)
        };
        let mut may_be = true;
        condition.visit(&mut |s| {
            if let Sym::Named(name) = s {
                let (min, max) = named(name);
                may_be &= min <= max;
            }
        });
        // Symbols of a body are those of the graph around, which would not hear of it.
        let heard = self.loop_depth == 0 && !self.stopped;
        (heard && may_be).then(|| decided(condition, &named)).flatten()
    }
}

/// The least value of a dimension where extents of inputs are at least this.
fn least(name: &str, extent: i64) -> i64 {
    match (Bounds::positive(&[]).named)(name).0 {
        1 => extent,
        least => least,
    }
}

/// Whether a formula that is 1 or 0 can be only one of them.
fn decided(d: &Dim, named: &dyn Fn(&str) -> (i64, i64)) -> Option<bool> {
    match (Bounds { extents: &[], named }).range(d) {
        (0, 0) => Some(false),
        (least, most) if least > 0 || most < 0 => Some(true),
        _ => None,
    }
}
