//! Operations that are graphs of other operations, and the words to write such graphs with.
//!
//! Laws: a composition types as its parts do and has no loops of its own; its evaluation says its meaning once more, by itself.

use crate::graph;
use crate::op::{Arg, Cx, Lowering, Op, OpDef, OpError, Schema, invalid, unsupported};
use crate::ops::fragment::Fragment;
use crate::{Attr, Attrs, Dim, Fact, Tensor, ValueId};

/// An operation that is nothing but operations of the table.
pub(crate) struct Composed {
    pub schema: &'static Schema,
    /// All outputs that are wanted, in the types that the operation promises.
    pub build: fn(&Cx, &mut Fragment) -> Result<Vec<ValueId>, OpError>,
    pub eval: fn(&Cx) -> Result<Vec<Tensor>, OpError>,
}

impl Composed {
    fn parts(&self, cx: &Cx) -> Result<(Fragment, Vec<ValueId>), OpError> {
        let mut g = Fragment::new(cx);
        let mut outputs = (self.build)(cx, &mut g)?;
        outputs.truncate(cx.outputs);
        Ok((g, outputs))
    }
}

impl OpDef for Composed {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (g, outputs) = self.parts(cx)?;
        let fact = |v: &ValueId| Fact::new(g.dtype(*v), g.fact(*v).shape.clone());
        Ok(outputs.iter().map(fact).collect())
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let mut out = (self.eval)(cx)?;
        out.truncate(cx.outputs);
        Ok(out)
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (g, outputs) = self.parts(cx)?;
        Ok(g.finish(&outputs))
    }
}

/// The reference values of an operation of the table.
pub(crate) fn reference(
    op: &str,
    attrs: &[(&str, Attr)],
    inputs: &[Option<&Tensor>],
    outputs: usize,
) -> Result<Vec<Tensor>, OpError> {
    let Some(op) = Op::find(op) else {
        return invalid(format!("no operation `{op}`"));
    };
    let attrs: Attrs = attrs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect();
    let facts: Vec<Option<Fact>> = inputs.iter().map(|t| t.map(Tensor::fact)).collect();
    let args: Vec<Option<Arg>> = facts
        .iter()
        .zip(inputs)
        .map(|(f, t)| f.as_ref().map(|fact| Arg { fact, constant: *t }))
        .collect();
    graph::infer(op, &attrs, &args, outputs)?;
    op.0.eval(&Cx {
        schema: op.schema(),
        attrs: &attrs,
        inputs: &args,
        outputs,
    })
}

/// The operand, when there is one.
pub(crate) fn optional<'a>(cx: &Cx<'a>, i: usize) -> Result<Option<&'a Tensor>, OpError> {
    if cx.has(i) { cx.tensor(i).map(Some) } else { Ok(None) }
}

/// Refuses inputs by their names.
pub(crate) fn refuse_inputs(cx: &Cx, inputs: &[usize]) -> Result<(), OpError> {
    match inputs.iter().find(|i| cx.has(**i)) {
        None => Ok(()),
        Some(i) => unsupported(format!(
            "input {i} ({}) is not supported",
            cx.schema.input(*i).map_or("?", |p| p.name)
        )),
    }
}

/// Refuses attributes that are neither absent nor their neutral value.
pub(crate) fn refuse_attributes(cx: &Cx, neutral: &[(&str, &[i64])]) -> Result<(), OpError> {
    for (name, fine) in neutral {
        if let Some(v) = cx.opt_int(name)?
            && !fine.contains(&v)
        {
            let fine: Vec<String> = fine.iter().map(ToString::to_string).collect();
            return unsupported(format!("attribute `{name}` is {v}, it can be {}", fine.join(" or ")));
        }
    }
    Ok(())
}

/// Whether two extents are different numbers.
pub(crate) fn differ(a: &Dim, b: &Dim) -> bool {
    (a.clone() - b.clone()).as_const().is_some_and(|d| d != 0)
}

pub(crate) fn reshape(g: &mut Fragment, x: ValueId, shape: Vec<Dim>) -> Result<ValueId, OpError> {
    if g.fact(x).shape == shape {
        return Ok(x);
    }
    let attrs = [("allowzero", Attr::Int(1)), ("shape", Attr::Dims(shape))];
    g.apply("Reshape", &attrs, &[x])
}

pub(crate) fn transpose(g: &mut Fragment, x: ValueId, perm: &[i64]) -> Result<ValueId, OpError> {
    g.apply("Transpose", &[("perm", Attr::Ints(perm.to_vec()))], &[x])
}

/// The elements of `axis` from `start` up to `end`.
pub(crate) fn slice(g: &mut Fragment, x: ValueId, axis: usize, start: Dim, end: Dim) -> Result<ValueId, OpError> {
    if start.is_zero() && g.fact(x).shape.get(axis) == Some(&end) {
        return Ok(x);
    }
    let one = |d: Dim| Attr::Dims(vec![d]);
    let attrs = [
        ("starts", one(start)),
        ("ends", one(end)),
        ("axes", one(Dim::from(axis))),
    ];
    g.apply("Slice", &attrs, &[x])
}

pub(crate) fn concat(g: &mut Fragment, parts: &[ValueId], axis: i64) -> Result<ValueId, OpError> {
    g.apply("Concat", &[("axis", Attr::Int(axis))], parts)
}

/// `0, 1, ...` below `limit`.
pub(crate) fn count(g: &mut Fragment, limit: &Dim) -> Result<ValueId, OpError> {
    let zero = g.constant(Tensor::i64(&[], [0]));
    let attrs = [
        ("delta", Attr::Dims(vec![Dim::ONE])),
        ("limit", Attr::Dims(vec![limit.clone()])),
    ];
    g.apply("Range", &attrs, &[zero])
}

/// `x + y` where there is a `y`.
pub(crate) fn plus(g: &mut Fragment, x: ValueId, y: Option<ValueId>) -> Result<ValueId, OpError> {
    let Some(y) = y else { return Ok(x) };
    let y = g.cast(y, g.dtype(x))?;
    g.binary("Add", x, y)
}
