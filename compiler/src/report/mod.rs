//! The page of `cameo inspect --report`: a compilation to look at, in one file that needs nothing else.
//!
//! ```text
//! page.html  with  page.css, page.js  and  one JSON: summary, graphs with their layout, steps, kernels, memory, decisions,
//!                                         profile
//! ```
//!
//! Laws: equal models give equal bytes; the page loads nothing and shows text from the model as text only; every number is
//! one that the compiler itself uses, and symbols stand for [`NOMINAL`] where a number is needed; what was measured is as the
//! program said it.

mod graph;
mod layout;
pub mod profile;

use std::collections::BTreeMap;
use std::sync::Arc;

use cameo_ir::rewrite::{Event, Outcome};
use cameo_ir::{Dim, Graph, Origin};
use cameo_kernel::memory::MemoryPlan;
use cameo_kernel::program::{Kernel, KernelBody, Place, Program};
use cameo_kernel::select::{NOMINAL, nominal};
use serde_json::{Value, json};

/// What a page is made of.
pub struct Report<'a> {
    /// What `cameo inspect --optimized --json` prints.
    pub summary: Value,
    pub before: &'a Graph,
    pub after: &'a Graph,
    /// Of `after`.
    pub program: &'a Program,
    pub plan: &'a MemoryPlan,
    /// In order.
    pub decisions: &'a [Event],
    /// What [`profile::read`] gave, or null.
    pub profile: Value,
}

/// The page.
pub fn page(r: &Report) -> String {
    let mut names = Names::default();
    let data = json!({
        "summary": r.summary,
        "nominal": NOMINAL,
        "graphs": [graph::describe(r.before, None, &mut names), graph::describe(r.after, Some(r.program), &mut names)],
        "steps": steps(r.program, &mut names),
        "kernels": kernels(r.program),
        "memory": memory(r.program, r.plan),
        "decisions": r.decisions.iter().map(|e| decision(e, &mut names)).collect::<Vec<_>>(),
        "profile": r.profile,
        "names": names.list,
    });
    // The only character by which text could end the element that holds it.
    let data = data.to_string().replace('<', "\\u003c");
    // The data come last: what they hold is not looked at again.
    include_str!("page.html")
        .replace("/* page.css */", include_str!("page.css"))
        .replace("/* page.js */", include_str!("page.js"))
        .replace("{data}", &data)
}

/// `applied` or `refused`, with the reason.
pub fn outcome(e: &Event) -> (&'static str, Option<&str>) {
    match &e.outcome {
        Outcome::Applied => ("applied", None),
        Outcome::Refused(why) => ("refused", Some(why)),
        Outcome::NoMatch => ("no match", None),
    }
}

/// Names of ONNX nodes, each once: they are long, and many lists hold the same.
#[derive(Default)]
struct Names {
    list: Vec<String>,
    numbers: BTreeMap<Arc<str>, usize>,
}

impl Names {
    fn of(&mut self, origin: &Origin) -> Vec<usize> {
        let number = |n: &Arc<str>| {
            *self.numbers.entry(n.clone()).or_insert_with(|| {
                self.list.push(n.to_string());
                self.list.len() - 1
            })
        };
        origin.names().iter().map(number).collect()
    }
}

fn decision(e: &Event, names: &mut Names) -> Value {
    let (outcome, reason) = outcome(e);
    json!({"pass": e.pass, "outcome": outcome, "rule": e.detail, "reason": reason, "nodes": names.of(&e.nodes)})
}

/// A dim as text and at the nominal sizes; `null` when that is no number.
fn dim(d: &Dim) -> Value {
    let n = nominal(d);
    json!([d.to_string(), (n != i64::MAX).then_some(n)])
}

fn steps(p: &Program, names: &mut Names) -> Vec<Value> {
    let mut out = vec![];
    for (i, step) in p.steps.iter().enumerate() {
        let kernel = &p.kernels[step.kernel];
        let traffic = p.traffic(i);
        let buffer = |(i, s): (usize, &usize)| {
            let storage = &p.storages[*s];
            let place = match storage.place {
                Place::Input(_) => "input",
                Place::Output(_) => "output",
                Place::Arena => "arena",
                Place::Weight(_) => "weight",
                Place::Operator(_) => "operator",
            };
            json!([
                *storage.name,
                place,
                storage.dtype.name(),
                dim(&p.bytes(*s)),
                kernel.writes(i)
            ])
        };
        out.push(json!({
            "kernel": step.kernel,
            "kind": kernel.body.kind(),
            "schedule": schedule(&kernel.body),
            "names": names.of(&step.origin),
            "flops": dim(&step.flops),
            "bytes": dim(&(traffic.read + traffic.written)),
            "dims": step.dims.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "buffers": step.buffers.iter().enumerate().map(buffer).collect::<Vec<_>>(),
        }));
    }
    out
}

fn schedule(body: &KernelBody) -> String {
    match body {
        KernelBody::Nest(n) => match n.schedule.vector {
            Some(v) => format!("vector($i{v})"),
            None => "scalar".into(),
        },
        KernelBody::Contraction(c) => c.schedule.to_string(),
        KernelBody::InOrder(_) => "in order".into(),
        KernelBody::Custom(_) => "called as it is".into(),
        KernelBody::Winograd(w) => format!("{}; {}", w.schedule.form(), w.schedule),
        KernelBody::Chain(c) => {
            let links: Vec<&str> = c.links.iter().map(KernelBody::kind).collect();
            let (rows, tile) = (c.schedule.rows, c.schedule.tile);
            format!("rows(m={rows}, {tile}); parallel(m); {}", links.join(" then "))
        }
    }
}

/// The kernels as dumps show them.
fn kernels(p: &Program) -> Vec<String> {
    let text = |kernel: &Kernel| cameo_kernel::print::kernel(kernel).trim_end().to_owned();
    p.kernels.iter().map(text).collect()
}

/// The arena over the steps, at the nominal sizes.
fn memory(p: &Program, plan: &MemoryPlan) -> Value {
    let lives = cameo_kernel::memory::lifetimes(p);
    let mut tensors = vec![];
    let mut spans: Vec<Vec<(i64, i64)>> = vec![vec![]; p.steps.len()];
    for (i, storage) in p.storages.iter().enumerate() {
        let (Some((from, to)), Some(Some(offset))) = (lives[i], plan.offsets.get(i)) else {
            continue;
        };
        let (at, bytes) = (nominal(offset), p.bytes(i));
        tensors.push(json!([*storage.name, from, to, at, dim(&bytes)]));
        for step in &mut spans[from..=to] {
            step.push((at, at.saturating_add(nominal(&bytes))));
        }
    }
    json!({
        "size": dim(&plan.size),
        "tensors": tensors,
        "alive": spans.into_iter().map(covered).collect::<Vec<_>>(),
    })
}

/// Bytes in at least one of the spans: a result may take over the place of an operand in the step that makes it.
fn covered(mut spans: Vec<(i64, i64)>) -> i64 {
    spans.sort_unstable();
    let (mut end, mut sum) = (0, 0);
    for (from, to) in spans {
        sum += (to - from.max(end)).max(0);
        end = end.max(to);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_place_that_is_taken_over_count_once() {
        assert_eq!(covered(vec![(64, 128), (0, 64), (64, 100)]), 128);
        assert_eq!(covered(vec![(0, 10), (20, 30)]), 20);
        assert_eq!(covered(vec![]), 0);
    }

    #[test]
    fn a_name_has_one_number() {
        let mut names = Names::default();
        let a = names.of(&Origin::new("a"));
        let both = names.of(&Origin::new("b").merge(&Origin::new("a")));
        assert_eq!((a, both), (vec![0], vec![0, 1]));
    }
}
