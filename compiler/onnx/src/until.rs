//! Loops that data ends.
//!
//! ```text
//! while go(x) { x = f(x) }      →      cameo::While(start, 0, x) { steps = where(go(x'), turn + 2, turn + 1); turn + 1; x' = f(x) }
//! ```
//!
//! The body counts the steps: behind each of them it says how many there are as far as is known then.

use std::sync::Arc;

use cameo_ir::dim::COUNTED;
use cameo_ir::ops::scan::Turns;
use cameo_ir::{Dim, Graph, Op, Origin, Tensor, ValueId};

use crate::error::Fault;
use crate::import::Importer;
use crate::loops::{MAX_TURNS, Trips};

impl Importer<'_> {
    /// A loop that data may end, of a body with the number of the iteration, states and captured values, whose outputs are the
    /// condition and, by their numbers, states and what is stacked: final states, then what is stacked.
    pub(crate) fn until(
        &mut self,
        body: &Graph,
        states: usize,
        outputs: &[usize],
        trips: &Trips,
        operands: Vec<ValueId>,
        origin: &Origin,
    ) -> Result<Vec<ValueId>, Fault> {
        let number = |graph: &mut Graph, n: i64| graph.add_weight("", Tensor::i64(&[], [n]));
        // There is one more step where the condition holds, and never more than the node allows.
        let inputs: Vec<usize> = (0..body.inputs().len()).collect();
        let mut inside = body.with_ends(&inputs, &[&[0], outputs].concat());
        let (turn, going) = (inside.inputs()[0], inside.outputs()[0].1);
        let limit = trips.number.map(|v| match self.graph.constant(v) {
            Some(t) => (inside.add_weight("", Tensor::i64(&[], t.to_i64())), None),
            None => {
                let fact = self.graph.fact(v).clone();
                (inside.add_input("trips", fact), Some(v))
            }
        });
        let around = std::mem::replace(&mut self.graph, inside);
        let made = (|| {
            let [one, two] = [1, 2].map(|n| number(&mut self.graph, n));
            let next = self.apply("Add", vec![], &[turn, one], origin)?;
            let mut another = self.apply("Add", vec![], &[turn, two], origin)?;
            if let Some((limit, _)) = limit {
                let limit = self.scalar(limit, origin)?;
                another = self.apply("Min", vec![], &[another, limit], origin)?;
            }
            let going = self.scalar(going, origin)?;
            let steps = self.apply("Where", vec![], &[going, another, next], origin)?;
            self.graph.add_output("steps", steps);
            self.graph.add_output("turn", next);
            Ok::<_, Fault>(())
        })();
        let inside = std::mem::replace(&mut self.graph, around);
        made?;
        let (inputs, own) = (inside.inputs().len(), outputs.len());
        let order: Vec<usize> = [own + 1, own + 2].into_iter().chain(1..=own).collect();
        let body = Arc::new(inside.with_ends(&(0..inputs).collect::<Vec<_>>(), &order));

        let [zero, one] = [0, 1].map(|n| number(&mut self.graph, n));
        let mut first = one;
        if let Some(v) = trips.number {
            let limit = self.scalar(v, origin)?;
            let limit = self.apply("Max", vec![], &[limit, zero], origin)?;
            first = self.apply("Min", vec![], &[limit, one], origin)?;
        }
        if let Some(v) = trips.start {
            let start = self.scalar(v, origin)?;
            first = self.apply("Where", vec![], &[start, first, zero], origin)?;
        }
        let count = self.new_symbol(COUNTED, "loop");
        let turns = Turns {
            body: &body,
            states: states + 1,
            count: &count,
            most: &trips.most.clone().unwrap_or(Dim::from(MAX_TURNS)),
        };
        let Some(op) = Op::find("cameo::While") else {
            return Err(Fault::unsupported("loops that data ends"));
        };
        let given = limit.and_then(|(_, v)| v);
        let all = [first, zero].into_iter().chain(operands).chain(given);
        let made = self.typed(op, &turns.attrs(), all.map(Some).collect(), own + 1, origin)?;
        // But for the number of the iteration.
        Ok(made[1..].to_vec())
    }
}
