//! Results of bodies whose extents a run decides: branches of different lengths, states that grow.
//!
//! ```text
//! If(c) then x[k] else y[m]      →      each branch gives its result with room for max(most(k), most(m)), and k or m beside it;
//!                                       z = the first n, n = cameo::Number(what was beside it)
//! ```
//!
//! Law: a body's own counts do not leave it; what they are at most does.

use cameo_ir::dim::COUNTED;
use cameo_ir::dim::counts::{Most, at_most, growing};
use cameo_ir::ops::counted::counts;
use cameo_ir::{Attr, DType, Dim, Graph, Origin, Sym, Tensor, ValueId};

use crate::error::Fault;
use crate::import::Importer;
use crate::numbers::LONGEST;
use crate::plan::captures;
use crate::proto::GraphProto;
use crate::stacked::{Part, Stacked};

/// An axis whose extent data decides, and its largest extent.
pub(crate) type Open = (usize, Dim);

/// What the iterations of a loop give, along a first axis: filled up along open axes, with the real extents of each.
pub(crate) struct Rows {
    pub of: ValueId,
    pub axes: Vec<Open>,
    pub extents: Vec<ValueId>,
}

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
            // Those too that are counted outside: whether they broadcast matters only where the branch is taken.
            let mut counted: Vec<Most> = vec![];
            shape[axis].visit(&mut |s| match s {
                Sym::Named(name) if name.starts_with(COUNTED) => counted.push((name.clone(), Dim::ZERO)),
                _ => {}
            });
            let d = growing(&at_most(&shape[axis], &counts(g))?, &counted);
            if !most.contains(&d) {
                most.push(d);
            }
        }
        out.push((axis, most.into_iter().reduce(|a, b| a.maximum(&b))?));
    }
    Some(out)
}

/// What a body appends to a state in each iteration, and along which axis, where it does nothing else with it.
pub(crate) fn appended(graph: &GraphProto, i: usize) -> Option<(&str, i64)> {
    let (state, result) = (&graph.input.get(i + 2)?.name, &graph.output.get(i + 1)?.name);
    let node = graph.node.iter().find(|n| n.output.first() == Some(result))?;
    let [before, new] = node.input.as_slice() else {
        return None;
    };
    // Scripts cast it to what it is.
    let cast = graph
        .node
        .iter()
        .find(|n| n.op_type == "Cast" && n.output.first() == Some(before) && n.input[..] == [state.clone()]);
    if node.op_type != "Concat" || !node.domain.is_empty() || before != state && cast.is_none() || new == before {
        return None;
    }
    let reads = |name: &String| name == state || name == result || name == before;
    let others = graph
        .node
        .iter()
        .filter(|n| !std::ptr::eq(*n, node) && !cast.is_some_and(|c| std::ptr::eq(*n, c)));
    let mut read = others.into_iter().any(|n| n.input.iter().any(reads));
    for a in graph.node.iter().flat_map(|n| &n.attribute) {
        for inner in a.g.iter().map(|g| &**g).chain(&a.graphs) {
            captures(inner, &mut |name| {
                read |= name == state || name == result || name == before;
            });
        }
    }
    let given = graph.output.iter().filter(|o| reads(&o.name)).count();
    let axis = node.attribute.iter().find(|a| a.name == "axis")?.i;
    (!read && given == 1).then_some((new, axis))
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

    /// A body whose output has these extents but for one axis, where it counts them itself.
    pub(crate) fn shaped_as(
        &mut self,
        body: Graph,
        at: usize,
        shape: &[Dim],
        axis: usize,
        origin: &Origin,
    ) -> Result<Graph, Fault> {
        let (name, v) = body.outputs()[at].clone();
        let mut wanted = body.fact(v).shape.clone();
        let own = |d: &Dim| body.counted().any(|name| d.uses(&Sym::Named(name.clone())));
        for (i, d) in wanted
            .iter_mut()
            .enumerate()
            .filter(|(i, _)| *i != axis && *i < shape.len())
        {
            if own(d) {
                *d = shape[i].clone();
            }
        }
        if wanted == body.fact(v).shape {
            return Ok(body);
        }
        let attrs = vec![("allowzero", Attr::Int(1)), ("shape", Attr::Dims(wanted))];
        let around = std::mem::replace(&mut self.graph, body);
        let made = self.apply("Reshape", attrs, &[v], origin);
        let mut body = std::mem::replace(&mut self.graph, around);
        let mut order: Vec<usize> = (0..body.outputs().len()).collect();
        order[at] = order.len();
        body.add_output(&name, made?);
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

    /// A value at the beginning of one of the largest extents.
    pub(crate) fn filled_up(&mut self, v: ValueId, axes: &[Open], origin: &Origin) -> Result<ValueId, Fault> {
        let mut shape = self.graph.fact(v).shape.clone();
        for (axis, most) in axes {
            shape[*axis] = most.clone();
        }
        match shape == self.graph.fact(v).shape {
            true => Ok(v),
            false => self.apply("cameo::Room", vec![("shape", Attr::Dims(shape))], &[v], origin),
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

    /// As a sequence of tensors.
    pub(crate) fn sequence_of(&mut self, rows: &Rows, origin: &Origin) -> Result<Stacked, Fault> {
        let [(axis, _)] = rows.axes.as_slice() else {
            return match rows.axes.is_empty() {
                true => Ok(Stacked::rows(rows.of)),
                false => Err(Fault::unsupported(
                    "a sequence of tensors whose extents along several axes data decides",
                )),
            };
        };
        Ok(Stacked {
            of: self.one_behind_the_other(rows, *axis, origin)?,
            axis: *axis,
            part: Part::Listed(rows.extents[0]),
        })
    }

    /// Behind what there was before, along an axis.
    pub(crate) fn appended_to(
        &mut self,
        before: ValueId,
        axis: usize,
        rows: &Rows,
        origin: &Origin,
    ) -> Result<ValueId, Fault> {
        if rows.axes.iter().any(|(open, _)| *open != axis) {
            return Err(Fault::unsupported(
                "a state that grows along one axis, and data decides about another",
            ));
        }
        let new = self.one_behind_the_other(rows, axis, origin)?;
        self.variadic(
            "Concat",
            vec![("axis", Attr::Int(axis as i64))],
            vec![before, new],
            origin,
        )
    }

    /// As one tensor, of rows that all have the same extents.
    pub(crate) fn alike(&mut self, rows: &Rows, origin: &Origin) -> Result<ValueId, Fault> {
        let (mut behind, mut longest) = (vec![], vec![]);
        for ((axis, room), extents) in rows.axes.iter().zip(&rows.extents) {
            let [zero, wrong] = [0, -1].map(|n| self.graph.add_weight("", Tensor::i64(&[], [n])));
            let [most, least] = ["ReduceMax", "ReduceMin"]
                .map(|op| self.apply(op, vec![("keepdims", Attr::Int(0))], &[*extents], origin));
            let (most, least) = (most?, least?);
            // Rows that differ have no tensor: that is a number which a run refuses.
            let differ = self.apply("Greater", vec![], &[most, least], origin)?;
            let extent = self.apply("Max", vec![], &[most, zero], origin)?;
            longest.push(self.apply("Where", vec![], &[differ, wrong, extent], origin)?);
            behind.push((axis + 1, room.clone()));
        }
        self.cut(rows.of, &behind, &longest, origin)
    }

    /// Rows without a first axis, one behind the other along an axis of theirs.
    fn one_behind_the_other(&mut self, rows: &Rows, axis: usize, origin: &Origin) -> Result<ValueId, Fault> {
        let rank = self.graph.fact(rows.of).rank();
        if axis + 1 >= rank {
            return Err(Fault::invalid(format!("axis {axis} of {}", self.graph.fact(rows.of))));
        }
        let mut order = vec![0, axis + 1];
        order.extend((1..rank).filter(|a| *a != axis + 1));
        let turned = self.turned(rows.of, &order, origin)?;
        let mut shape = self.graph.fact(turned).shape.clone();
        let (count, each) = (shape.remove(0), shape.remove(0));
        let all = count * each.clone();
        shape.insert(0, all.clone());
        let list = vec![("allowzero", Attr::Int(1)), ("shape", Attr::Dims(shape))];
        let mut flat = self.apply("Reshape", list, &[turned], origin)?;
        if let [extents] = rows.extents.as_slice() {
            // What nothing bounds is as long altogether as one of it may be.
            let longest = Dim::from(LONGEST);
            let most = if each == longest { longest } else { all };
            let at = self.places(*extents, &each, &most, origin)?;
            flat = self.apply("Gather", vec![("axis", Attr::Int(0))], &[flat, at], origin)?;
        }
        let mut back: Vec<usize> = (1..rank - 1).collect();
        back.insert(axis, 0);
        self.turned(flat, &back, origin)
    }

    /// Where the elements of rows are that have room for `each`, one row behind the other: those that are there, at most `most`.
    fn places(&mut self, extents: ValueId, each: &Dim, most: &Dim, origin: &Origin) -> Result<ValueId, Fault> {
        let [zero, room] = [Dim::ZERO, each.clone()].map(|d| self.whole_number(&d, origin));
        let (zero, room) = (zero?, room?);
        let total = self.apply("ReduceSum", vec![("keepdims", Attr::Int(0))], &[extents], origin)?;
        let total = self.number(total, most, origin)?;
        let one = self.whole_number(&Dim::ONE, origin)?;
        let all = self.apply("Range", vec![], &[zero, total, one], origin)?;
        let [row, start] = self.row_of(extents, all, origin)?;
        let inside = self.apply("Sub", vec![], &[all, start], origin)?;
        let base = self.apply("Mul", vec![], &[row, room], origin)?;
        self.apply("Add", vec![], &[base, inside], origin)
    }

    /// Of places along rows of these extents, one behind the other: the number of the row, and where it begins.
    pub(crate) fn row_of(&mut self, extents: ValueId, places: ValueId, origin: &Origin) -> Result<[ValueId; 2], Fault> {
        let axes = || ("axes", Attr::Dims(vec![Dim::ONE]));
        let zero = self.whole_number(&Dim::ZERO, origin)?;
        let ends = self.apply("CumSum", vec![], &[extents, zero], origin)?;
        // As many rows as end before an element are before it.
        let column = self.apply("Unsqueeze", vec![axes()], &[places], origin)?;
        let before = self.apply("LessOrEqual", vec![], &[ends, column], origin)?;
        let before = self.cast(before, DType::I64, origin)?;
        let row = self.apply("ReduceSum", vec![axes(), ("keepdims", Attr::Int(0))], &[before], origin)?;
        let starts = self.apply("Sub", vec![], &[ends, extents], origin)?;
        let start = self.apply("Gather", vec![("axis", Attr::Int(0))], &[starts, row], origin)?;
        Ok([row, start])
    }

    /// A dim as an `i64`.
    pub(crate) fn whole_number(&mut self, d: &Dim, origin: &Origin) -> Result<ValueId, Fault> {
        if let Some(n) = d.as_const() {
            return Ok(self.graph.add_weight("", Tensor::i64(&[], [n])));
        }
        let zero = self.graph.add_weight("", Tensor::i64(&[], [0]));
        let like = self.apply("Expand", vec![("shape", Attr::Dims(vec![d.clone()]))], &[zero], origin)?;
        self.extent(like, 0, origin)
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
