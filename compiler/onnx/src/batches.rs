//! `Scan` of opset 8, whose tensors have a batch axis before that of time: a loop over the batch whose body is the loop over time.

use cameo_ir::{Fact, Graph, Origin, ValueId};

use crate::bodies::{Body, Formal};
use crate::error::{Fault, Site};
use crate::import::Importer;
use crate::loops::{Attributes, list, scanned};
use crate::proto::NodeProto;
use crate::scope::Scope;

impl<'m> Importer<'m> {
    pub(crate) fn scan_batch(
        &mut self,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        site: &Site,
        attrs: &Attributes<'m>,
    ) -> Result<Option<Vec<ValueId>>, Fault> {
        let inputs = match node.input.split_first() {
            Some((lengths, inputs)) if lengths.is_empty() => inputs,
            Some(_) => {
                return Err(Fault::unsupported("Scan of opset 8 with input 0 (sequence_lens)")
                    .hint("convert the model to opset 9 or later"));
            }
            None => return Err(Fault::invalid("input 0 (sequence_lens) is missing")),
        };
        let (graph, states, count) = scanned(attrs, inputs.len())?;
        let back = list(attrs, "directions", count)?;
        let Some(mut operands) = self.read_all(scope, inputs.iter().map(String::as_str))? else {
            return Ok(None);
        };
        let facts: Vec<Fact> = operands.iter().map(|v| self.graph.fact(*v).clone()).collect();
        let leading = |i: usize| 1 + usize::from(i >= states);
        if let Some((_, fact)) = facts.iter().enumerate().find(|(i, f)| f.rank() < leading(*i)) {
            return Err(Fault::invalid(format!("{fact} has no axes of batch and time")));
        }
        let formals = facts.iter().enumerate().map(|(i, f)| {
            let shape = f.shape[leading(i)..].to_vec();
            Formal::Input(Fact::new(f.dtype, shape))
        });
        let formals: Vec<Formal> = formals.collect();
        let outputs: Vec<&'m str> = graph.output.iter().map(|o| o.name.as_str()).collect();
        let Some(body) = self.body(scope, site, graph, &formals, &outputs)? else {
            return Ok(None);
        };
        let body = body.of_tensors()?;
        let captured = body.captured.clone();
        let origin = Origin::new(&site.origin);
        let around = facts.iter().map(|f| Fact::new(f.dtype, f.shape[1..].to_vec()));
        let around: Vec<Fact> = around
            .chain(captured.iter().map(|v| self.graph.fact(*v).clone()))
            .collect();
        let outside = std::mem::replace(&mut self.graph, Graph::new(&graph.name));
        let made = self.scan_one(body, &around, states, &back, &origin);
        let mut one = std::mem::replace(&mut self.graph, outside);
        for (i, v) in made?.into_iter().enumerate() {
            one.add_output(&format!("y{i}"), v);
        }
        self.share_ranges(&mut one);
        let (batch, slices) = (facts[0].shape[0].clone(), operands.len());
        operands.extend(captured);
        self.time(one, 0, slices, &batch, operands, &origin).map(Some)
    }

    /// The loop over time of one element of the batch, in a graph of its own whose inputs are `facts`.
    fn scan_one(
        &mut self,
        body: Body,
        facts: &[Fact],
        states: usize,
        back: &[i64],
        origin: &Origin,
    ) -> Result<Vec<ValueId>, Fault> {
        let mut operands = vec![];
        for (i, fact) in facts.iter().enumerate() {
            let v = self.graph.add_input(&format!("x{i}"), fact.clone());
            let backwards = i >= states && back.get(i - states).is_some_and(|b| *b != 0);
            operands.push(self.reversed(v, backwards, origin)?);
        }
        let length = facts[states].shape[0].clone();
        self.time(body.graph, states, back.len(), &length, operands, origin)
    }
}
