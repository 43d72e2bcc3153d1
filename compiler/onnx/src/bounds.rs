//! What inference may be asked to do.
//!
//! Law: the shapes of a hostile model, which could double in length at every node, stay small; so do ranks and extents.

use cameo_ir::{Atom, Attr, Attrs, Dim, Fact, Graph, Op, OpError, Origin, Tensor, ValueId, interp};

use crate::error::Fault;
use crate::import::Importer;
use crate::weights::{MAX_ELEMENTS, MAX_RANK};

/// Terms of all shapes together; a model of 10,000 nodes with shapes of 10 terms stays far below.
pub(crate) const SYMBOLIC: u64 = 1 << 22;

/// Terms of one value's shape and known elements. Real dims have a handful; one more operation at most squares this.
const SYMBOLIC_TERMS: u64 = 1 << 10;

/// The same with what is inside of atoms, which no operation multiplies.
const SYMBOLIC_VALUE: u64 = 1 << 12;

/// Terms of the product of a shape, which reshaping computes.
const SYMBOLIC_PRODUCT: u64 = 1 << 12;

impl Importer<'_> {
    /// Adds a node, within the limits of symbolic arithmetic.
    pub fn typed(
        &mut self,
        op: Op,
        attrs: &Attrs,
        inputs: Vec<Option<ValueId>>,
        outputs: usize,
        origin: &Origin,
    ) -> Result<Vec<ValueId>, Fault> {
        for (i, v) in inputs.iter().enumerate() {
            let Some(v) = v else { continue };
            let multiplied =
                op == "ReduceProd" || op == "CumProd" || op.schema().input(i).is_some_and(|p| p.attr.is_some());
            if multiplied
                && let Some(known) = &self.graph.fact(*v).known
                && product_terms(known) > SYMBOLIC_PRODUCT
            {
                return Err(too_complex());
            }
        }
        let mut given = inputs;
        let values = loop {
            let added = self
                .graph
                .add_node(op, attrs.clone(), given.clone(), outputs, origin.clone());
            let Err(OpError::Unknown { input, .. }) = &added else {
                break added?;
            };
            let Some(Some(v)) = given.get(*input).copied() else {
                break added?;
            };
            // What the operator must know may be computed of constants.
            match computed(&self.graph, v).filter(|_| self.graph.constant(v).is_none()) {
                Some(t) => given[*input] = Some(self.graph.add_weight("", t)),
                None => {
                    self.want_elements(v);
                    // What a run is told when it begins comes before what it computes.
                    if self.elements.covers(&self.wanted) {
                        let made = match op.name() {
                            "Range" => self.range_by_data(&given, origin)?,
                            "Slice" => self.cut_by_data(&given, origin)?,
                            _ => None,
                        };
                        if let Some(y) = made {
                            break vec![y];
                        }
                        if let Some(known) = self.counted(v, origin)? {
                            given[*input] = Some(known);
                            continue;
                        }
                    }
                    self.unknown = Some(*input);
                    break added?;
                }
            }
        };
        for v in &values {
            let cost = check_fact(self.graph.fact(*v))?;
            self.symbolic_left = self.symbolic_left.checked_sub(cost).ok_or_else(|| {
                self.stopped = true;
                too_complex()
            })?;
        }
        Ok(values)
    }
}

impl Importer<'_> {
    /// [`Importer::typed`] with one output and without absent operands.
    pub(crate) fn apply(
        &mut self,
        op: &str,
        attrs: Vec<(&str, Attr)>,
        inputs: &[ValueId],
        origin: &Origin,
    ) -> Result<ValueId, Fault> {
        let Some(op) = Op::find(op) else {
            return Err(Fault::unsupported(format!("operator `{op}`")));
        };
        let attrs = attrs.into_iter().map(|(k, a)| (k.into(), a)).collect();
        let inputs = inputs.iter().copied().map(Some).collect();
        Ok(self.typed(op, &attrs, inputs, 1, origin)?[0])
    }
}

/// The value, where it follows from constants and fixed extents in few steps.
pub(crate) fn computed(g: &Graph, v: ValueId) -> Option<Tensor> {
    const MOST: u64 = 1000;
    if let Some(cost) = interp::constant_cost(g, v) {
        return (cost < MOST).then(|| interp::eval_constant(g, v).ok()).flatten();
    }
    let (mut given, mut left, mut cost) = (vec![], vec![v], 0u64);
    while let Some(x) = left.pop() {
        if g.constant(x).is_some() {
            continue;
        }
        if let Some(t) = numbers(g.fact(x)) {
            given.push((x, t));
            continue;
        }
        let (n, _) = g.producer(x)?;
        cost = interp::cost(g, n).saturating_add(cost).saturating_add(1);
        if cost > MOST {
            return None;
        }
        left.extend(g.node(n).inputs.iter().flatten());
    }
    interp::eval_from(g, v, &given).ok()
}

/// Known elements that are all constants.
fn numbers(fact: &Fact) -> Option<Tensor> {
    let (known, shape) = (fact.known.as_ref()?, fact.static_shape()?);
    let all: Vec<i64> = known.iter().map(Dim::as_const).collect::<Option<_>>()?;
    Some(match fact.dtype.is_float() {
        true => Tensor::from_f64(
            fact.dtype,
            &shape,
            all.into_iter().map(|bits| f64::from_bits(bits as u64)),
        ),
        false => Tensor::from_i64(fact.dtype, &shape, all),
    })
}

fn too_complex() -> Fault {
    Fault::unsupported("the symbolic shapes are too complex")
        .hint("fix or bound dynamic dimensions, for example `--dim NAME=1`")
}

/// Bounds what the next operations can be asked to do with a value; gives its cost in terms.
fn check_fact(fact: &Fact) -> Result<u64, Fault> {
    if fact.rank() > MAX_RANK {
        return Err(Fault::unsupported(format!(
            "rank {} is above the limit of {MAX_RANK}",
            fact.rank()
        )));
    }
    let mut elements = 1u64;
    for d in &fact.shape {
        let Some(n) = d.as_const() else { continue };
        if n < 0 {
            return Err(Fault::invalid(format!("the result {fact} has a negative extent")));
        }
        elements = elements.saturating_mul(n.unsigned_abs().max(1));
    }
    if elements > MAX_ELEMENTS {
        return Err(Fault::unsupported(format!("the result {fact} is too large")));
    }
    let known = fact.known.as_deref().unwrap_or(&[]);
    let dims = || fact.shape.iter().chain(known);
    let cost: u64 = dims().map(size).sum();
    let terms: u64 = dims().map(|d| d.terms().len() as u64).sum();
    if terms > SYMBOLIC_TERMS || cost > SYMBOLIC_VALUE || product_terms(&fact.shape) > SYMBOLIC_PRODUCT {
        return Err(too_complex());
    }
    if dims().any(is_saturated) {
        return Err(Fault::invalid(
            "arithmetic on shapes leaves the range of 64-bit integers",
        ));
    }
    Ok(cost)
}

/// Whether a factor is so large that it may be what remained of an overflow. Constants alone may be: `ends` of slices are.
fn is_saturated(d: &Dim) -> bool {
    d.terms().iter().any(|(_, c)| c.unsigned_abs() > 1 << 62)
}

/// Terms and atoms of a dim, inner ones too. Bounded: what goes in was bounded before and one operation was applied.
fn size(d: &Dim) -> u64 {
    let atoms = |a: &Atom| match a {
        Atom::Sym(_) => 1,
        Atom::FloorDiv(x, y) | Atom::Min(x, y) | Atom::Max(x, y) | Atom::Broadcast(x, y) | Atom::Real(_, x, y) => {
            1 + size(x) + size(y)
        }
    };
    d.terms()
        .iter()
        .map(|(m, _)| 1 + m.iter().map(atoms).sum::<u64>())
        .sum()
}

/// Terms of the product of dims.
fn product_terms(dims: &[Dim]) -> u64 {
    dims.iter()
        .fold(1u64, |n, d| n.saturating_mul(d.terms().len().max(1) as u64))
}
