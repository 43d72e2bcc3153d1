//! Results of bodies whose extents a run decides: branches of different lengths, states that grow.
//!
//! ```text
//! If(c) then x[k] else y[m]      →      each branch gives its result filled up to max(most(k), most(m)), and k or m beside it;
//!                                       z = the first n, n = cameo::Number(what was beside it)
//! ```
//!
//! Law: a body's own counts do not leave it; what they are at most does.

use cameo_ir::dim::counts::at_most;
use cameo_ir::ops::counted::counts;
use cameo_ir::{Attr, Dim, Graph, Origin, Sym, Tensor, ValueId};

use crate::error::Fault;
use crate::import::Importer;

/// An axis whose extent data decides, and its largest extent.
pub(crate) type Open = (usize, Dim);

/// The axes whose extents differ among shapes, or are counted by the graph that computes them; `None` where a largest extent is
/// not known.
pub(crate) fn open_axes(results: &[(&Graph, &[Dim])]) -> Option<Vec<Open>> {
    let mut out = vec![];
    for axis in 0..results.first()?.1.len() {
        let mut most: Vec<Dim> = vec![];
        let mut open = false;
        for (g, shape) in results {
            let d = &shape[axis];
            open |= *d != results[0].1[axis] || g.counted().any(|name| d.uses(&Sym::Named(name.clone())));
        }
        if !open {
            continue;
        }
        for (g, shape) in results {
            let d = at_most(&shape[axis], &counts(g))?;
            if !most.contains(&d) {
                most.push(d);
            }
        }
        out.push((axis, most.into_iter().reduce(|a, b| a.maximum(&b))?));
    }
    Some(out)
}

impl Importer<'_> {
    /// A body whose outputs have the largest extents; behind them come the real ones, an `i64` for each open axis.
    pub(crate) fn with_extents(&mut self, body: Graph, open: &[Vec<Open>], origin: &Origin) -> Result<Graph, Fault> {
        let around = std::mem::replace(&mut self.graph, body);
        let made = self.fill(open, origin);
        let mut body = std::mem::replace(&mut self.graph, around);
        let (results, extents) = made?;
        let outputs = body.outputs().len();
        let mut order: Vec<usize> = (0..outputs).collect();
        for (i, v) in results.into_iter().enumerate() {
            let name = body.outputs()[i].0.clone();
            if v != body.outputs()[i].1 {
                order[i] = body.outputs().len();
                body.add_output(&format!("{name}#filled"), v);
            }
        }
        for (k, v) in extents.into_iter().enumerate() {
            order.push(body.outputs().len());
            body.add_output(&format!("extent{k}"), v);
        }
        let inputs: Vec<usize> = (0..body.inputs().len()).collect();
        Ok(body.with_ends(&inputs, &order))
    }

    fn fill(&mut self, open: &[Vec<Open>], origin: &Origin) -> Result<(Vec<ValueId>, Vec<ValueId>), Fault> {
        let (mut results, mut extents) = (vec![], vec![]);
        for (i, axes) in open.iter().enumerate() {
            let v = self.graph.outputs()[i].1;
            for (axis, _) in axes {
                extents.push(self.extent(v, *axis, origin)?);
            }
            results.push(self.filled_up(v, axes, origin)?);
        }
        Ok((results, extents))
    }

    /// A value with zeros behind it up to the largest extents.
    pub(crate) fn filled_up(&mut self, v: ValueId, axes: &[Open], origin: &Origin) -> Result<ValueId, Fault> {
        let shape = self.graph.fact(v).shape.clone();
        let mut pads = vec![Dim::ZERO; 2 * shape.len()];
        for (axis, most) in axes {
            pads[shape.len() + axis] = most.clone() - shape[*axis].clone();
        }
        if pads.iter().all(Dim::is_zero) {
            return Ok(v);
        }
        let padded = self.apply("Pad", vec![("pads", Attr::Dims(pads))], &[v], origin)?;
        // What it is padded by is no part of its name.
        let mut whole = shape;
        for (axis, most) in axes {
            whole[*axis] = most.clone();
        }
        match self.graph.fact(padded).shape == whole {
            true => Ok(padded),
            false => Err(Fault::unsupported(format!(
                "a result of shape {} that data decides",
                self.graph.fact(v)
            ))),
        }
    }

    /// An extent as a number.
    pub(crate) fn extent(&mut self, v: ValueId, axis: usize, origin: &Origin) -> Result<ValueId, Fault> {
        let ends = [("start", axis), ("end", axis + 1)].map(|(name, at)| (name, Attr::Int(at as i64)));
        let one = self.apply("Shape", ends.into(), &[v], origin)?;
        self.apply("Reshape", vec![("shape", Attr::Dims(vec![]))], &[one], origin)
    }

    /// What is left of a filled value, with the numbers that say so.
    pub(crate) fn cut(
        &mut self,
        v: ValueId,
        axes: &[Open],
        extents: &[ValueId],
        origin: &Origin,
    ) -> Result<ValueId, Fault> {
        let dims = |of: &mut dyn Iterator<Item = Dim>| Attr::Dims(of.collect());
        let mut lengths = vec![];
        for ((_, most), extent) in axes.iter().zip(extents) {
            let n = self.number(*extent, most, origin)?;
            lengths.extend(self.graph.fact(n).known.iter().flatten().cloned());
        }
        if axes.is_empty() {
            return Ok(v);
        }
        let attrs = vec![
            ("axes", dims(&mut axes.iter().map(|(axis, _)| Dim::from(*axis)))),
            ("extents", Attr::Dims(lengths)),
            ("starts", dims(&mut axes.iter().map(|_| Dim::ZERO))),
        ];
        self.apply("cameo::Cut", attrs, &[v], origin)
    }

    /// A zero of the type, in that shape.
    pub(crate) fn zeros(&mut self, like: &cameo_ir::Fact, origin: &Origin) -> Result<ValueId, Fault> {
        let zero = Tensor::from_f64(like.dtype, &[], [0.0]);
        let zero = self.graph.add_weight("", zero);
        self.apply(
            "Expand",
            vec![("shape", Attr::Dims(like.shape.clone()))],
            &[zero],
            origin,
        )
    }
}
