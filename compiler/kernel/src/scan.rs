//! Loops over time: the body becomes a program of its own, whose steps run once per step of time.
//!
//! ```text
//! last, y = Scan(h, x, w)              copy h to half 0 of H
//!   h', y[t] = body(h, x[t], w)    →   loop t: the body's steps, with h = half t%2 of H, h' = the other half,
//!                                              x[t] and y[t] one slice further each time
//!                                      copy half T%2 of H to last
//! ```
//!
//! A loop that data ends begins with a count of its iterations, which each of them counts again. Kernels never see the time:
//! between two iterations the runtime moves the pointers that they are called with. What is cut
//! into slices is stored row-major, time outermost. Constants that every step reads are constants of the body, so that they
//! are packed as its kernels want them.

use std::sync::Arc;

use cameo_ir::index::agree;
use cameo_ir::op::Rule;
use cameo_ir::ops::scan::{Parts, Turns};
use cameo_ir::structured::Expr;
use cameo_ir::{Bounds, DType, Def, Dim, Graph, OpError, Origin, ValueId};
use rustc_hash::FxHashMap;

use crate::build::{Builder, Draft};
use crate::chain::counted;
use crate::expand::{Edges, LowerError};
use crate::group::Group;
use crate::program::{
    Buffer, Count, LOOP_DEPTH, Loop, Move, Place, Requirement, Step, Storage, Store, Symbol, Way, Weight,
};

/// Where a tensor of the body lies.
pub(crate) struct Bound {
    pub storage: usize,
    /// How it moves between iterations, and by how many bytes.
    pub way: Option<(Way, Dim)>,
}

/// 1 where a loop has iterations, else 0; 1 also where it is only known behind the loop.
fn runs(l: &Loop) -> Dim {
    if l.again || Bounds::of(&[]).range(&l.count).0 > 0 {
        return Dim::ONE;
    }
    l.count.minimum(&Dim::ONE)
}

impl Builder<'_> {
    pub(crate) fn scan(&mut self, g: &Group) -> Result<(), Vec<LowerError>> {
        let node = self.info.graph.node(g.seed).clone();
        let here = |error: OpError| LowerError {
            op: node.op.to_string(),
            origin: node.origin.clone(),
            error,
        };
        // One that data ends has a number of steps before its operands and its body's outputs.
        let turns = (node.op.name() == "cameo::While").then(|| Turns::of(&node.attrs));
        let turns = turns.transpose().map_err(|e| vec![here(e)])?;
        let length = turns.map(|t| Dim::sym(t.count));
        let given = match (&turns, &length) {
            (Some(turns), Some(length)) => Ok(turns.scan(length)),
            _ => Parts::of(&node.attrs),
        };
        let given = given.map_err(|e| vec![here(e)])?;
        let mut operands: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        let first = turns.map(|_| operands.remove(0));
        let own = usize::from(first.is_some());
        let (inside, operands) = self.with_constants(given.body, given.states + given.slices, operands);
        let parts = Parts { body: &inside, ..given };
        let body = self.body(parts.body, &here)?;
        let one = |e| vec![e];
        let bytes = |v: ValueId| {
            let fact = parts.body.fact(v);
            fact.element_count() * Dim::from(fact.dtype.size())
        };

        // Extents of which only a run can tell that they are equal.
        let equals = |inner: &[Dim], outer: &[Dim]| -> Vec<Rule> {
            inner.iter().zip(outer).flat_map(|(a, b)| agree(a, b)).collect()
        };
        let mut equal = vec![];
        for (i, (v, inner)) in operands.iter().zip(parts.body.inputs()).enumerate() {
            let shape = &self.info.graph.fact(*v).shape;
            let cut = (parts.states..parts.states + parts.slices).contains(&i);
            if cut {
                equal.extend(equals(&shape[..1], std::slice::from_ref(parts.length)));
            }
            equal.extend(equals(&parts.body.fact(*inner).shape, &shape[usize::from(cut)..]));
        }
        for (v, (_, inner)) in operands.iter().zip(&parts.body.outputs()[own..own + parts.states]) {
            equal.extend(equals(&parts.body.fact(*inner).shape, &self.info.graph.fact(*v).shape));
        }
        let turn = Loop {
            steps: 0..0,
            count: parts.length.clone(),
            moves: vec![],
            rows: None,
            again: turns.is_some(),
        };
        for (a, b) in equal {
            let origin = node.origin.clone();
            self.require_in(&turn, Requirement { a, b, origin });
        }

        let mut inputs = vec![];
        for (i, (v, inner)) in operands.iter().zip(parts.body.inputs()).enumerate() {
            inputs.push(if i < parts.states {
                let storage = self.halves(*v);
                self.copy(*v, storage, &self.row_major(*v)).map_err(one)?;
                Bound {
                    storage,
                    way: Some((Way::Forth, bytes(*inner))),
                }
            } else {
                let storage = self.dense(*v).map_err(one)?;
                let cut = i < parts.states + parts.slices;
                Bound {
                    storage,
                    way: cut.then(|| (Way::Advance, bytes(*inner))),
                }
            });
        }
        let mut outputs = vec![];
        let mut count = None;
        if let (Some(turns), Some(first)) = (turns, first) {
            // Each iteration writes the number of them where the first one was.
            let storage = self.add_storage("", DType::I64, Dim::ONE);
            self.copy(first, storage, &[]).map_err(one)?;
            outputs.push(Bound { storage, way: None });
            count = Some(Symbol {
                name: turns.count.clone(),
                storage,
                most: turns.most.clone(),
            });
        }
        for (i, (_, inner)) in parts.body.outputs()[own..].iter().enumerate() {
            outputs.push(if i < parts.states {
                // As large as the state that it replaces; a branch that is not taken would give another.
                Bound {
                    storage: inputs[i].storage,
                    way: Some((Way::Back, bytes(parts.body.inputs()[i]))),
                }
            } else if let v = node.outputs[i]
                && g.exits.contains(&v)
            {
                Bound {
                    storage: self.place(v, self.row_major(v)),
                    way: Some((Way::Advance, bytes(*inner))),
                }
            } else {
                // Nobody reads it: every iteration may write to the same place.
                let fact = parts.body.fact(*inner);
                let storage = self.add_storage("", fact.dtype, fact.element_count());
                Bound { storage, way: None }
            });
        }
        let step = self.program.steps.len();
        self.program.counts.extend(count.map(|symbol| Count { step, symbol }));
        self.splice(body, turn, &inputs, &outputs, &node.origin)
            .map_err(|e| vec![e])?;
        for (i, v) in node.outputs.iter().enumerate().take(parts.states) {
            if g.exits.contains(v) {
                self.last_half(*v, inputs[i].storage, parts.length, &node.origin);
            }
        }
        Ok(())
    }

    /// The program of a loop's body.
    pub(crate) fn body(
        &self,
        body: &Graph,
        here: &dyn Fn(OpError) -> LowerError,
    ) -> Result<crate::Program, Vec<LowerError>> {
        // The memory of a body's inputs is that of values outside.
        let choices = crate::Choices {
            in_place_cache: false,
            ..self.choices.clone()
        };
        let body = crate::partition_between(body, Edges::Apart, self.target, choices)?;
        let around = |l: &Loop| {
            body.loops
                .iter()
                .filter(|o| o.steps.start <= l.steps.start && l.steps.end <= o.steps.end)
                .count()
        };
        if body.loops.iter().map(around).max().unwrap_or(0) >= LOOP_DEPTH {
            let deep = format!("more than {LOOP_DEPTH} loops inside of each other");
            return Err(vec![here(OpError::Unsupported(deep))]);
        }
        Ok(body)
    }

    /// The body with those operands from `cut` on inside that are constants, and the operands that are left: every iteration
    /// reads them whole.
    pub(crate) fn with_constants(
        &self,
        from: &Graph,
        cut: usize,
        operands: Vec<ValueId>,
    ) -> (Arc<Graph>, Vec<ValueId>) {
        let around = &self.info.graph;
        let mut moved = Transplant::default();
        let mut body = Graph::new(&from.name);
        body.symbols = from.symbols.clone();
        for (name, range) in &mut body.symbols {
            if let Some(known) = around.symbols.get(name) {
                *range = *known;
            }
        }
        let mut new: FxHashMap<ValueId, ValueId> = FxHashMap::default();
        let mut left = vec![];
        for (i, (inner, v)) in from.inputs().iter().zip(operands).enumerate() {
            let value = from.value(*inner);
            let same = value.fact.shape == around.fact(v).shape;
            let here = if i >= cut && same && self.info.constant[v.0 as usize] {
                moved.value(around, &mut body, v)
            } else {
                left.push(v);
                body.add_input(&value.name, value.fact.clone())
            };
            new.insert(*inner, here);
        }
        for v in from.value_ids() {
            if let Some(t) = from.constant(v) {
                new.insert(v, body.add_weight(&from.value(v).name, t.clone()));
            }
        }
        for n in from.order() {
            let node = from.node(n);
            let inputs = node.inputs.iter().map(|v| v.map(|v| new[&v])).collect();
            let facts = node.outputs.iter().map(|v| from.fact(*v).clone()).collect();
            let made = body.add_typed_node(node.op, node.attrs.clone(), inputs, facts, node.origin.clone());
            for (old, v) in node.outputs.iter().zip(made) {
                body.set_name(v, &from.value(*old).name);
                new.insert(*old, v);
            }
        }
        for (name, v) in from.outputs() {
            body.add_output(name, new[v]);
        }
        (Arc::new(body), left)
    }

    /// Adds the body's steps as a loop.
    pub(crate) fn splice(
        &mut self,
        body: crate::Program,
        mut turn: Loop,
        inputs: &[Bound],
        outputs: &[Bound],
        origin: &Origin,
    ) -> Result<(), LowerError> {
        let mut moved = Transplant::default();
        let operators = self.program.customs.len();
        let places: Vec<Bound> = body
            .storages
            .iter()
            .map(|s| match s.place {
                Place::Input(i) => Bound {
                    storage: inputs[i].storage,
                    way: inputs[i].way.clone(),
                },
                Place::Output(i) => Bound {
                    storage: outputs[i].storage,
                    way: outputs[i].way.clone(),
                },
                Place::Arena => Bound {
                    storage: self.add_storage(&s.name, s.dtype, s.elements.clone()),
                    way: None,
                },
                Place::Operator(i) => Bound {
                    storage: self.operator(&s.name, operators + i),
                    way: None,
                },
                Place::Weight(w) => {
                    let weight = &body.weights[w];
                    let value = moved.value(&body.graph, &mut self.program.graph, weight.value);
                    let storage = self.weight(Weight {
                        value,
                        ..weight.clone()
                    });
                    Bound { storage, way: None }
                }
            })
            .collect();
        let first = self.program.steps.len();
        let mut moves = vec![];
        for (i, step) in body.steps.into_iter().enumerate() {
            let kernel = self.kernels.number(body.kernels[step.kernel].clone());
            for (buffer, s) in step.buffers.iter().enumerate() {
                if let Some((way, bytes)) = &places[*s].way {
                    moves.push(Move {
                        step: first + i,
                        buffer,
                        way: *way,
                        bytes: bytes.clone(),
                    });
                }
            }
            self.program.steps.push(Step {
                kernel,
                buffers: step.buffers.iter().map(|s| places[*s].storage).collect(),
                flops: step.flops * turn.count.clone(),
                origin: if step.origin.names().is_empty() {
                    origin.clone()
                } else {
                    step.origin
                },
                // They are not values of the graph.
                values: vec![],
                ..step
            });
        }
        let end = self.program.steps.len();
        if first < end {
            (turn.steps, turn.moves) = (first..end, moves);
            self.program.loops.push(turn.clone());
        }
        let here = |symbol: Symbol| Symbol {
            storage: places[symbol.storage].storage,
            ..symbol
        };
        for mut inner in body.loops {
            inner.steps = inner.steps.start + first..inner.steps.end + first;
            inner.moves.iter_mut().for_each(|m| m.step += first);
            inner.rows = inner.rows.map(here);
            self.program.loops.push(inner);
        }
        self.program.counts.extend(body.counts.into_iter().map(|c| Count {
            step: c.step + first,
            symbol: here(c.symbol),
        }));
        self.program.texts.join(&body.texts).map_err(|e| LowerError {
            op: "loop".to_owned(),
            origin: origin.clone(),
            error: OpError::Unsupported(e),
        })?;
        self.program.customs.extend(body.customs.into_iter().map(|mut c| {
            c.step += first;
            c
        }));
        for (name, range) in body.symbols {
            if !self.program.symbols.iter().any(|(known, _)| *known == name) {
                self.program.symbols.push((name, range));
            }
        }
        for r in body.requirements {
            self.require_in(&turn, r);
        }
        Ok(())
    }

    /// Requires something where a loop runs at all: of a branch only where it is taken.
    fn require_in(&mut self, l: &Loop, r: Requirement) {
        let runs = runs(l);
        self.require(Requirement {
            a: r.a * runs.clone(),
            b: r.b * runs,
            origin: r.origin,
        });
    }

    pub(crate) fn row_major(&self, v: ValueId) -> Vec<usize> {
        (0..self.info.graph.fact(v).rank()).collect()
    }

    pub(crate) fn add_storage(&mut self, name: &str, dtype: cameo_ir::DType, elements: Dim) -> usize {
        self.program.storages.push(Storage {
            name: name.into(),
            dtype,
            elements,
            place: Place::Arena,
        });
        self.program.storages.len() - 1
    }

    /// Memory for two tensors like `v`, one behind the other.
    fn halves(&mut self, v: ValueId) -> usize {
        let value = self.info.graph.value(v);
        let (name, fact) = (value.name.clone(), value.fact.clone());
        self.add_storage(&name, fact.dtype, fact.element_count() * Dim::from(2i64))
    }

    /// A kernel that writes the half that the last iteration wrote to where `v` is placed.
    fn last_half(&mut self, v: ValueId, halves: usize, length: &Dim, origin: &Origin) {
        let order = self.row_major(v);
        let to = self.place(v, order.clone());
        let buffer = self.buffer_of(v, &order);
        let outer = buffer.extents.clone();
        let index: Vec<Dim> = (0..outer.len()).map(Dim::iter).collect();
        let two = |first: Dim, rest: &[Dim]| std::iter::once(first).chain(rest.iter().cloned()).collect::<Vec<_>>();
        let from = Buffer {
            dtype: buffer.dtype,
            strides: two(Dim::product(&outer), &buffer.strides),
            extents: two(Dim::from(2i64), &outer),
        };
        let mut d = Draft::new(outer.clone());
        let operand = d.buffer(halves, from) as u32;
        let root = d.body.push(Expr::Load {
            operand,
            dtype: buffer.dtype,
            index: two(length.modulo(&Dim::from(2i64)), &index),
            fill: None,
        });
        let buffer = d.buffer(to, buffer);
        self.push_map(d, outer, Store { buffer, index, root }, origin.clone(), vec![(v, to)]);
    }

    /// Where the elements of `v` lie row-major, after a copy if they do not yet.
    pub(crate) fn dense(&mut self, v: ValueId) -> Result<usize, LowerError> {
        let shape = self.info.graph.fact(v).shape.clone();
        let (base, index) = self.info.resolve(v, (0..shape.len()).map(Dim::iter).collect());
        if self.placed.contains_key(&base) || self.info.constant[base.0 as usize] {
            let (storage, buffer) = self.stored(base);
            let bounds = Bounds::of(&shape);
            if bounds.simplify(&buffer.offset(&index)) == bounds.simplify(&counted(&shape)) {
                return Ok(storage);
            }
        }
        let storage = self.storage(v, Place::Arena);
        self.copy(v, storage, &self.row_major(v))?;
        Ok(storage)
    }
}

/// Constants of one graph that become constants of another, each once.
#[derive(Default)]
struct Transplant {
    new: FxHashMap<ValueId, ValueId>,
}

impl Transplant {
    fn value(&mut self, from: &Graph, to: &mut Graph, v: ValueId) -> ValueId {
        let mut stack = vec![v];
        while let Some(v) = stack.last().copied() {
            if self.new.contains_key(&v) {
                stack.pop();
                continue;
            }
            match &from.value(v).def {
                Def::Weight(t) => {
                    let w = to.add_weight(&from.value(v).name, t.clone());
                    self.new.insert(v, w);
                }
                Def::Node(n, _) => {
                    let node = from.node(*n);
                    let missing: Vec<ValueId> = node
                        .inputs
                        .iter()
                        .flatten()
                        .copied()
                        .filter(|i| !self.new.contains_key(i))
                        .collect();
                    if !missing.is_empty() {
                        stack.extend(missing);
                        continue;
                    }
                    let inputs = node.inputs.iter().map(|i| i.map(|i| self.new[&i])).collect();
                    let facts = node.outputs.iter().map(|o| from.fact(*o).clone()).collect();
                    let made = to.add_typed_node(node.op, node.attrs.clone(), inputs, facts, node.origin.clone());
                    self.new.extend(node.outputs.iter().copied().zip(made));
                }
                // Recipes depend on weights only.
                Def::Input(_) | Def::Removed => {
                    self.new.insert(v, v);
                }
            }
            stack.pop();
        }
        self.new[&v]
    }
}

#[cfg(test)]
mod tests {
    use crate::program::{BOperand, KernelBody};

    #[test]
    fn constants_that_every_step_reads_are_packed() {
        let ones = ["1.0"; 64].join(",");
        let packed = |w: &str| {
            let text = format!(
                r#"graph @g (%0 "h": f32[B,8], %1 "x": f32[T,B,8], %2 "m": f32[8,8]) symbols B=1.., T=1.. {{
                  weight %3: f32[8,8] = dense({ones})
                  %4 = Transpose({w}) {{perm=[1,0]}}
                  %5, %6 = cameo::Scan(%0, %1, %4) {{body=graph @step (%0 "h": f32[B,8], %1 "x": f32[B,8], %2 "w": f32[8,8]) symbols B=1.. {{
                      %3 = MatMul(%0, %2) : f32[B,8]
                      %4 = Add(%3, %1) : f32[B,8]
                      return %4 "next", %4 "y"
                  }}, length=dims[T], slices=1, states=1}}
                  return %6 "y"
                }}"#
            );
            let g = cameo_ir::text::parse(&text, &|_, _| None).expect("parses");
            let p = crate::partition(&g, &crate::targets::x86_64::V4, crate::Choices::default()).expect("compiles");
            let product = p.steps.iter().find_map(|s| match &p.kernels[s.kernel].body {
                KernelBody::Contraction(c) => Some(matches!(c.b, BOperand::Packed { .. })),
                _ => None,
            });
            product.expect("a contraction")
        };
        assert!(packed("%3"));
        assert!(!packed("%2"), "a matrix that an input gives is no constant");
    }
}
