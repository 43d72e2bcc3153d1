//! Sequences of different lengths that lie one behind the other, without padding between them.
//!
//! Laws: the body is closed, as that of a Scan; it runs once per sequence, on the rows of that sequence. Attribute `rows`
//! names the symbol that stands for their number inside of the body. A length is at most `most`, and the lengths add up to the
//! extent of axis 0 of what is cut.

use std::sync::Arc;

use crate::interp;
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::{Attr, Attrs, Dim, Fact, Graph, Tensor};

pub const OPS: &[&dyn OpDef] = &[&Ragged];

/// `cameo::Ragged`.
pub struct Ragged;

/// What a node's operands are: the lengths, then the tensors that are cut along axis 0, then what every sequence reads whole.
/// The body has an input for each but the lengths; its outputs are laid one behind the other along axis 0.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    pub body: &'a Arc<Graph>,
    pub slices: usize,
    /// The symbol of the rows of a sequence.
    pub rows: &'a Arc<str>,
    pub most: &'a Dim,
}

impl<'a> Parts<'a> {
    /// The parts of a node of [`Ragged`], from its attributes.
    pub fn of(attrs: &'a Attrs) -> Result<Self, OpError> {
        let (Some(Attr::Graph(body)), Some(Attr::Int(slices)), Some(Attr::Str(rows)), Some(Attr::Dims(most))) = (
            attrs.get("body"),
            attrs.get("slices"),
            attrs.get("rows"),
            attrs.get("most"),
        ) else {
            return invalid("attributes `body`, `slices`, `rows` or `most` are of the wrong kind");
        };
        let [most] = most.as_slice() else {
            return invalid("`most` is one dim");
        };
        let slices = usize::try_from(*slices).unwrap_or(0);
        if slices == 0 || slices > body.inputs().len() {
            return invalid(format!("{slices} of {} operands are cut", body.inputs().len()));
        }
        Ok(Self {
            body,
            slices,
            rows,
            most,
        })
    }

    /// The attributes of a node with these parts.
    pub fn attrs(&self) -> Attrs {
        [
            ("body", Attr::Graph(self.body.clone())),
            ("most", Attr::Dims(vec![self.most.clone()])),
            ("rows", Attr::Str(self.rows.clone())),
            ("slices", Attr::Int(self.slices as i64)),
        ]
        .into_iter()
        .map(|(k, v)| (Arc::from(k), v))
        .collect()
    }

    /// What the body's input `i` is when the node's operand after the lengths is `whole`.
    fn cut(&self, i: usize, whole: &Fact) -> Option<Vec<Dim>> {
        if i >= self.slices {
            return Some(whole.shape.clone());
        }
        let (_, rest) = whole.shape.split_first()?;
        Some(
            std::iter::once(Dim::sym(self.rows))
                .chain(rest.iter().cloned())
                .collect(),
        )
    }
}

impl OpDef for Ragged {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Ragged",
            "for each sequence s of lengths[s] rows: y[s] = body(x[s], w); sequences lie one behind the other along axis 0",
            &[
                Param::new("lengths", Types::I64).group(0),
                Param::new("operands", Types::MOVED).variadic().group(0),
            ],
            &[Param::new("results", Types::MOVED).variadic().group(0)],
            &[
                ("body", AttrDef::ReqGraph),
                ("most", AttrDef::ReqDims),
                ("rows", AttrDef::ReqStr),
                ("slices", AttrDef::ReqInt),
            ],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let parts = Parts::of(cx.attrs)?;
        super::counted::length(parts.rows)?;
        let facts = cx.facts()?;
        let Some((lengths, operands)) = facts.split_first() else {
            return invalid("the lengths are missing");
        };
        if lengths.rank() != 1 || operands.len() != parts.body.inputs().len() {
            return invalid(format!(
                "{lengths} and {} operands for a body with {} inputs",
                operands.len(),
                parts.body.inputs().len()
            ));
        }
        for (i, (v, whole)) in parts.body.inputs().iter().zip(operands).enumerate() {
            let inner = parts.body.fact(*v);
            let fits = parts.cut(i, whole).is_some_and(|cut| cut == inner.shape);
            if !fits || inner.dtype != whole.dtype || i < parts.slices && whole.shape[0] != operands[0].shape[0] {
                return invalid(format!("operand {i} is {whole}, the body's input is {inner}"));
            }
        }
        let rows = Dim::sym(parts.rows);
        let outputs = parts.body.outputs().iter().map(|(name, v)| {
            let inner = parts.body.fact(*v);
            match inner.shape.split_first() {
                Some((first, rest))
                    if *first == rows && !rest.iter().any(|d| d.uses(&crate::Sym::Named(parts.rows.clone()))) =>
                {
                    let shape = std::iter::once(operands[0].shape[0].clone()).chain(rest.iter().cloned());
                    Ok(Fact::new(inner.dtype, shape.collect::<Vec<_>>()))
                }
                _ => invalid(format!("the body's output `{name}` is {inner}, not rows")),
            }
        });
        outputs.collect()
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let operands: Vec<Tensor> = (0..cx.inputs.len())
            .map(|i| cx.tensor(i).cloned())
            .collect::<Result<_, _>>()?;
        run(&Parts::of(cx.attrs)?, &operands, &mut |body, inputs, _| {
            interp::run(body, inputs).map_err(|e| OpError::Invalid(format!("in the body: {e}")))
        })
    }

    fn lower(&self, _: &Cx) -> Result<Lowering, OpError> {
        Ok(Lowering::Ragged)
    }
}

/// Runs it on known operands, sequence by sequence, the body by `one`, which is told the rows.
pub(crate) fn run(
    parts: &Parts,
    operands: &[Tensor],
    one: &mut dyn FnMut(&Graph, &[Tensor], i64) -> Result<Vec<Tensor>, OpError>,
) -> Result<Vec<Tensor>, OpError> {
    let (lengths, operands) = (operands[0].to_i64(), &operands[1..]);
    let total = operands[0].shape()[0];
    let most = parts.most.as_const().unwrap_or(i64::MAX);
    if lengths.iter().any(|n| !(0..=most).contains(n)) || lengths.iter().sum::<i64>() != total as i64 {
        return invalid(format!("lengths {lengths:?} for {total} rows, at most {most} each"));
    }
    let mut results: Vec<Vec<u8>> = vec![vec![]; parts.body.outputs().len()];
    let mut first = 0;
    for rows in lengths {
        let after = first + rows as usize;
        let inputs: Vec<Tensor> = operands
            .iter()
            .enumerate()
            .map(|(i, x)| {
                if i < parts.slices {
                    slice(x, first, after)
                } else {
                    x.clone()
                }
            })
            .collect();
        for (all, y) in results.iter_mut().zip(one(parts.body, &inputs, rows)?) {
            all.extend_from_slice(y.bytes());
        }
        first = after;
    }
    let body: &Graph = parts.body;
    let tensors = body.outputs().iter().zip(results).map(|((_, v), bytes)| {
        let fact = body.fact(*v);
        let rest: Option<Vec<usize>> = fact.shape[1..]
            .iter()
            .map(|d| d.as_const().and_then(|n| usize::try_from(n).ok()))
            .collect();
        let shape = rest.map(|rest| std::iter::once(total).chain(rest).collect::<Vec<_>>());
        match shape.map(|s| Tensor::new(fact.dtype, s, bytes.into())) {
            Some(Ok(t)) => Ok(t),
            _ => invalid(format!("results are not all {fact}")),
        }
    });
    tensors.collect()
}

/// Rows `from..to`.
fn slice(x: &Tensor, from: usize, to: usize) -> Tensor {
    let row = x.shape()[1..].iter().product::<usize>() * x.dtype().size();
    let shape: Vec<usize> = std::iter::once(to - from)
        .chain(x.shape()[1..].iter().copied())
        .collect();
    Tensor::new(x.dtype(), shape, x.bytes().slice(from * row..to * row)).unwrap_or_else(|_| x.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{naive, text, verify};

    /// Each row divided by the sum of its sequence.
    const SOURCE: &str = r#"graph @g (%0 "n": i64[B], %1 "x": f32[T,2], %2 "w": f32[2]) symbols B=0.., T=0.. {
        %3 = cameo::Ragged(%0, %1, %2) {body=graph @each (%0 "x": f32[count.l,2], %1 "w": f32[2]) symbols count.l=0.. {
            %2 = ReduceSum(%0) {axes=[0], keepdims=1} : f32[1,2]
            %3 = Div(%0, %2) : f32[count.l,2]
            %4 = Mul(%3, %1) : f32[count.l,2]
            return %4 "y"
        }, most=dims[5], rows="count.l", slices=1} : f32[T,2]
        return %3 "y"
    }"#;

    #[test]
    fn sequences_run_in_both_meanings() {
        let g = text::parse(SOURCE, &|_, _| None).expect("parses");
        verify::verify(&g).expect("sound");
        let n = Tensor::i64(&[3], [1, 0, 2]);
        let x = Tensor::f32(&[3, 2], [4.0, 5.0, 1.0, 6.0, 3.0, 2.0]);
        let w = Tensor::f32(&[2], [1.0, 8.0]);
        let all = [n, x.clone(), w.clone()];
        let out = interp::run(&g, &all).expect("runs");
        assert_eq!(out[0].to_f32(), [1.0, 8.0, 0.25, 6.0, 0.75, 2.0]);
        let symbols = |s: &str| (s != "count.l").then_some(3);
        assert_eq!(naive::run_graph(&g, &all, &symbols).expect("runs"), out);
        for wrong in [[1, 0, 3], [-1, 2, 2], [6, 0, 0]] {
            assert!(interp::run(&g, &[Tensor::i64(&[3], wrong), x.clone(), w.clone()]).is_err());
        }
    }

    #[test]
    fn bodies_that_do_not_fit_are_refused() {
        for (from, to) in [
            ("slices=1", "slices=2"),
            ("rows=\"count.l\"", "rows=\"l\""),
            ("return %4 \"y\"", "return %2 \"y\""),
            ("%1 \"x\": f32[T,2]", "%1 \"x\": f32[T,3]"),
        ] {
            let changed = SOURCE.replacen(from, to, 1);
            assert_ne!(changed, SOURCE);
            let sound = text::parse(&changed, &|_, _| None).map(|g| verify::verify(&g));
            assert!(!matches!(sound, Ok(Ok(()))), "{from} -> {to}");
        }
    }

    #[test]
    fn parts_are_the_attributes() {
        let g = text::parse(SOURCE, &|_, _| None).expect("parses");
        let (_, node) = g.nodes().next().expect("a node");
        assert_eq!(Parts::of(&node.attrs).expect("fits").attrs(), node.attrs);
    }
}
