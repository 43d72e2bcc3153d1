//! What data decides the size of: kernels that count, loops over sequences, and how large all of it can become.
//!
//! ```text
//! positions, _ = Compact(flags) {count=T}     k: positions, ranks, n = compact(flags)
//! y = f(positions)                       →    count T = n; from here on dims with T are known
//!
//! y = Ragged(lengths, x) {rows=L}        →    k: lengths that add up
//!                                             loop: L = next length; the body's steps; x and y go on by L rows
//!
//! n = Number(x) {count=T, most=M}        →    k: n = x, if it is from 0 to M
//!                                             count T = n
//! ```
//!
//! Memory is planned for the largest value that each such symbol can have, so that nothing moves when it is known.

use std::cmp::Reverse;

use cameo_ir::dim::counts::{at_most, growing, largest};
use cameo_ir::ops::counted::Number;
use cameo_ir::ops::ragged::Parts;
use cameo_ir::{DType, Dim, OpError, Origin, Sym, ValueId};

use crate::build::Builder;
use crate::expand::LowerError;
use crate::group::Group;
use crate::program::{
    Buffer, Count, InOrder, Kernel, KernelBody, Loop, Place, Program, Requirement, Step, Symbol, Way,
};
use crate::scan::Bound;

impl Builder<'_> {
    pub(crate) fn compact(&mut self, g: &Group) -> Result<(), LowerError> {
        let node = self.info.graph.node(g.seed).clone();
        let (flags, outputs) = (node.inputs[0], &node.outputs);
        let Some(flags) = flags else {
            return Err(self.error(outputs[0], "internal: nothing to count".into()));
        };
        let n = self.info.graph.fact(flags).shape[0].clone();
        let mut storages = vec![self.dense(flags)?];
        for v in outputs {
            storages.push(if g.exits.contains(v) {
                self.place(*v, vec![0])
            } else {
                let elements = self.info.graph.fact(*v).element_count();
                self.add_storage("", DType::I64, elements)
            });
        }
        storages.push(self.add_storage("", DType::I64, Dim::ONE));
        let symbol = Symbol {
            name: counted_symbol(&node),
            storage: storages[storages.len() - 1],
            most: n.clone(),
        };
        // The kernel knows how much room there is for positions, not how much is needed.
        let each = std::slice::from_ref(&n);
        let buffers = [
            (DType::Bool, each),
            (DType::I64, each),
            (DType::I64, each),
            (DType::I64, &[]),
        ];
        let values = outputs
            .iter()
            .copied()
            .zip(storages[InOrder::OUTPUTS..].iter().copied());
        let values = values.filter(|(v, _)| g.exits.contains(v)).collect();
        self.in_order(
            &InOrder::Compact { n: n.clone() },
            &buffers,
            storages,
            node.origin,
            values,
        );
        let step = self.program.steps.len();
        self.program.counts.push(Count { step, symbol });
        Ok(())
    }

    /// What the number is is known behind the step that checks it.
    pub(crate) fn number(&mut self, g: &Group) -> Result<(), LowerError> {
        let node = self.info.graph.node(g.seed).clone();
        let checked = node.outputs[0];
        let Some(given) = node.inputs[0] else {
            return Err(self.error(checked, "internal: no number to check".into()));
        };
        let most = Number::most(&node.attrs).map_err(|e| self.error(checked, e.message()))?;
        let given = self.dense(given)?;
        let storage = match g.exits.contains(&checked) {
            true => self.place(checked, vec![]),
            false => self.add_storage("", DType::I64, Dim::ONE),
        };
        let symbol = Symbol {
            name: counted_symbol(&node),
            storage,
            most: most.clone(),
        };
        let check = InOrder::Number { most: most.clone() };
        let values = g.exits.iter().filter(|v| **v == checked).map(|v| (*v, storage));
        self.in_order(
            &check,
            &[(DType::I64, &[][..]); 2],
            vec![given, storage],
            node.origin.clone(),
            values.collect(),
        );
        let step = self.program.steps.len();
        self.program.counts.push(Count { step, symbol });
        Ok(())
    }

    fn in_order(
        &mut self,
        body: &InOrder,
        buffers: &[(DType, &[Dim])],
        storages: Vec<usize>,
        origin: Origin,
        values: Vec<(ValueId, usize)>,
    ) {
        let list = |(dtype, extents): &(DType, &[Dim])| Buffer {
            dtype: *dtype,
            strides: vec![Dim::ONE; extents.len()],
            extents: extents.to_vec(),
        };
        let kernel = Kernel {
            buffers: buffers.iter().map(list).collect(),
            dims: 0,
            body: KernelBody::InOrder(body.clone()),
        };
        let (kernel, dims) = kernel.numbered();
        let kernel = self.kernels.number(kernel);
        self.program.steps.push(Step {
            kernel,
            buffers: storages,
            dims,
            work: body.n(),
            flops: Dim::ZERO,
            origin,
            values,
        });
    }

    pub(crate) fn ragged(&mut self, g: &Group) -> Result<(), Vec<LowerError>> {
        let node = self.info.graph.node(g.seed).clone();
        let here = |error: OpError| LowerError {
            op: node.op.to_string(),
            origin: node.origin.clone(),
            error,
        };
        let one = |e| vec![e];
        let parts = Parts::of(&node.attrs).map_err(|e| one(here(e)))?;
        let operands: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        let Some((lengths, operands)) = operands.split_first() else {
            return Err(one(here(OpError::Invalid("it has no lengths".into()))));
        };
        let (inside, operands) = self.with_constants(parts.body, parts.slices, operands.to_vec());
        let body = self.body(&inside, &here)?;
        let bytes = |v: ValueId| {
            let fact = inside.fact(v);
            fact.element_count() * Dim::from(fact.dtype.size())
        };
        let sequences = self.info.graph.fact(*lengths).shape[0].clone();
        let given = self.dense(*lengths).map_err(one)?;
        let rows = Symbol {
            name: parts.rows.clone(),
            storage: self.add_storage("", DType::I64, sequences.clone()),
            most: parts.most.clone(),
        };
        let check = InOrder::Lengths {
            n: sequences.clone(),
            total: self.info.graph.fact(node.outputs[0]).shape[0].clone(),
            most: parts.most.clone(),
        };
        let each = [sequences.clone()];
        self.in_order(
            &check,
            &[(DType::I64, &each[..]); 2],
            vec![given, rows.storage],
            node.origin.clone(),
            vec![],
        );
        let mut inputs = vec![];
        for (i, (v, inner)) in operands.iter().zip(inside.inputs()).enumerate() {
            inputs.push(Bound {
                storage: self.dense(*v).map_err(one)?,
                way: (i < parts.slices).then(|| (Way::Advance, bytes(*inner))),
            });
        }
        let mut outputs = vec![];
        for (v, (_, inner)) in node.outputs.iter().zip(inside.outputs()) {
            outputs.push(if g.exits.contains(v) {
                Bound {
                    storage: self.place(*v, self.row_major(*v)),
                    way: Some((Way::Advance, bytes(*inner))),
                }
            } else {
                // Nobody reads it: every sequence may write to the same place.
                let fact = inside.fact(*inner);
                let storage = self.add_storage("", fact.dtype, fact.element_count());
                Bound { storage, way: None }
            });
        }
        let turn = Loop {
            steps: 0..0,
            count: sequences,
            moves: vec![],
            rows: Some(rows),
            again: false,
        };
        self.splice(body, turn, &inputs, &outputs, &node.origin)
            .map_err(|e| vec![e])
    }

    /// Makes rules about what is counted steps of their own, behind the last of the counts: what is planned is none of them.
    pub(crate) fn check_counted(&mut self) {
        let p = &mut self.program;
        // How often a loop runs is only known behind it. With the step, the number of loops that the rule is in.
        let own = |l: &Loop, c: &Count| l.again && l.steps.start == c.step && l.count == Dim::sym(&c.symbol.name);
        let known = |c: &Count| {
            if let Some(i) = p.loops.iter().position(|l| own(l, c)) {
                return (p.loops[i].steps.end, Reverse(depth(&p.loops, i) - 1));
            }
            let within = |l: &&Loop| l.steps.start < c.step && c.step <= l.steps.end;
            (c.step, Reverse(p.loops.iter().filter(within).count()))
        };
        let behind = |r: &Requirement| {
            let mut last = None;
            for d in [&r.a, &r.b] {
                d.visit(&mut |s| {
                    let here = |c: &&Count| matches!(s, Sym::Named(name) if *name == c.symbol.name);
                    last = last.max(p.counts.iter().filter(here).map(known).max());
                });
            }
            last
        };
        let (mut late, early): (Vec<_>, Vec<_>) = std::mem::take(&mut p.requirements)
            .into_iter()
            .map(|rule| (behind(&rule), rule))
            .partition(|(step, _)| step.is_some());
        p.requirements = early.into_iter().map(|(_, rule)| rule).collect();
        // At the end of loops the rules of inner ones come first.
        late.sort_by_key(|(step, _)| *step);
        let ends = p.loops.iter().enumerate().map(|(i, l)| {
            let (end, depth) = (l.steps.end, depth(&p.loops, i));
            let at_end = |last: &&(usize, Reverse<usize>)| last.0 == end && last.1.0 >= depth;
            let rules = late.iter().filter_map(|(last, _)| last.as_ref()).filter(at_end);
            (end - 1, rules.count() + 1)
        });
        let ends: Vec<(usize, usize)> = ends.collect();
        let steps = std::mem::take(&mut p.steps);
        let (mut place, mut at) = (vec![], 0);
        let counts: Vec<usize> = p.counts.iter().map(|c| c.step).collect();
        for (i, step) in steps.into_iter().map(Some).chain([None]).enumerate() {
            for (c, _) in self
                .program
                .counts
                .iter_mut()
                .zip(&counts)
                .filter(|(_, before)| **before == i)
            {
                c.step = at;
            }
            for (_, r) in late.iter().filter(|(last, _)| last.is_some_and(|(step, _)| step == i)) {
                let rule = InOrder::Rule {
                    a: r.a.clone(),
                    b: r.b.clone(),
                };
                self.in_order(&rule, &[], vec![], r.origin.clone(), vec![]);
            }
            at = self.program.steps.len() + 1;
            place.push(at - 1);
            self.program.steps.extend(step);
        }
        let kept: Vec<usize> = self.program.counts.iter().map(|c| c.step).collect();
        let steps = self.program.steps.len();
        self.program.renumber(&place, steps);
        for (l, (last, more)) in self.program.loops.iter_mut().zip(ends) {
            l.steps.end = place[last] + more;
        }
        for (c, step) in self.program.counts.iter_mut().zip(kept) {
            c.step = step;
        }
    }

    /// Gives tensors whose size a run decides room for the largest size.
    pub(crate) fn bound_storages(&mut self) -> Result<(), LowerError> {
        let program = &mut self.program;
        let mut symbols: Vec<_> = program.counted().map(|s| (s.name.clone(), s.most.clone())).collect();
        if symbols.is_empty() {
            return Ok(());
        }
        let all = symbols.clone();
        symbols.iter_mut().for_each(|(_, most)| *most = growing(most, &all));
        let rows = program.loops.iter_mut().filter_map(|l| l.rows.as_mut());
        for s in program.counts.iter_mut().map(|c| &mut c.symbol).chain(rows) {
            s.most = growing(&s.most, &all);
        }
        let refuse = |what: String| LowerError {
            op: String::new(),
            origin: Origin::default(),
            error: OpError::Unsupported(what),
        };
        let outputs = program.outputs.iter_mut().flat_map(|o| &mut o.shape);
        for d in outputs {
            *d = growing(d, &symbols);
        }
        for s in &mut program.storages {
            if matches!(s.place, Place::Output(_)) {
                s.elements = growing(&s.elements, &symbols);
            }
            // The runtime makes room for outputs with every count at its largest: that must be their largest size.
            let grows = |d: &Dim| at_most(d, &symbols) == Some(largest(d, &symbols));
            if matches!(s.place, Place::Output(_)) && !grows(&s.elements) {
                return Err(refuse(format!(
                    "an output of {} elements, of which no largest number is known",
                    s.elements
                )));
            }
            if s.place == Place::Arena {
                let most = at_most(&s.elements, &symbols);
                s.elements = most.ok_or_else(|| {
                    refuse(format!(
                        "a tensor of {} elements, of which no largest number is known",
                        s.elements
                    ))
                })?;
            }
        }
        used_late(program)
    }
}

/// How many loops a loop is one of: those around it come before it.
fn depth(loops: &[Loop], i: usize) -> usize {
    let steps = &loops[i].steps;
    let around = |o: &&Loop| o.steps.start <= steps.start && steps.end <= o.steps.end;
    loops[..=i].iter().filter(around).count()
}

fn counted_symbol(node: &cameo_ir::Node) -> std::sync::Arc<str> {
    let mut names = cameo_ir::graph::counted(node.op, &node.attrs);
    names.next().cloned().unwrap_or_default()
}

/// Steps come in the order of what they read; where one only has the size of what is counted, order is not enough.
fn used_late(p: &Program) -> Result<(), LowerError> {
    for c in &p.counts {
        let symbol = Sym::Named(c.symbol.name.clone());
        if let Some(early) = p.steps[..c.step]
            .iter()
            .find(|s| s.dims.iter().any(|d| d.uses(&symbol)))
        {
            return Err(LowerError {
                op: String::new(),
                origin: early.origin.clone(),
                error: OpError::Unsupported(format!("its size {} is counted behind it", c.symbol.name)),
            });
        }
        // One inside of a loop cannot say how often that runs.
        let early = p.loops.iter().find(|l| l.steps.start < c.step && l.count.uses(&symbol));
        if let Some(early) = early {
            return Err(LowerError {
                op: String::new(),
                origin: p.steps[early.steps.start].origin.clone(),
                error: OpError::Unsupported(format!("how often it runs, {}, is counted behind it", c.symbol.name)),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;
    use crate::testing::program;

    #[test]
    fn the_largest_size_is_planned_for() {
        let text = r#"graph @g (%0 "x": f32[N,8]) symbols N=1.., count.t=0.. {
            %1 = ReduceMax(%0) {axes=[1], keepdims=0} : f32[N]
            %2 = NonZero(%1) {count="count.t"} : i64[1,count.t]
            %3 = Squeeze(%2) {axes=[0]} : i64[count.t]
            %4 = Gather(%0, %3) {axis=0} : f32[count.t,8]
            %5 = Exp(%4) : f32[count.t,8]
            %6 = ReduceSum(%5) {axes=[0], keepdims=0} : f32[8]
            return %6 "y"
        }"#;
        let p = program(text);
        assert_eq!(p.counts.len(), 1);
        assert_eq!(p.counts[0].symbol.most.to_string(), "N");
        let plan = memory::plan(&p);
        let mut symbols = vec![];
        plan.size.visit(&mut |s| symbols.push(s.to_string()));
        assert!(symbols.iter().all(|s| s == "N"), "{}", plan.size);
        let uses = |s: &Step| s.dims.iter().any(|d| d.to_string().contains("count.t"));
        assert_eq!(p.steps.iter().position(uses), Some(p.counts[0].step));
    }
}
