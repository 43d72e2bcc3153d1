//! `--explain`: what passes did, and what they left alone for which reason, a line each.

use std::collections::HashSet;

use cameo_ir::rewrite::{Event, Outcome, Report};
use cameo_kernel::Program;
use cameo_kernel::program::{KernelBody, Step};
use clap::ValueEnum;
use serde_json::json;

use super::show;
use crate::Phase;
use crate::report::outcome;

/// The form of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Explain {
    /// `pass: rule: applied [nodes]` or `pass: rule: left alone: reason [nodes]`
    Text,
    /// An object per line: pass, outcome (`applied` or `refused`), rule, reason (or null), nodes
    Json,
}

impl Explain {
    /// Prints a line of this form: text is for people and goes to standard error, like the progress; JSON is a result.
    pub fn print(self, line: &str) {
        match self {
            Self::Text => eprintln!("{line}"),
            Self::Json => show(&format!("{line}\n")),
        }
    }

    /// A pass's decision, without the line's end.
    pub fn line(self, e: &Event) -> String {
        let names: Vec<&str> = e.nodes.names().iter().map(|n| &**n).collect();
        let (outcome, reason) = outcome(e);
        match self {
            Self::Text => {
                let outcome = match &e.outcome {
                    Outcome::Refused(why) => format!("left alone: {why}"),
                    _ => outcome.to_owned(),
                };
                format!("{}: {}: {outcome} [{}]", e.pass, e.detail, names.join(", "))
            }
            Self::Json => {
                json!({"pass": e.pass, "outcome": outcome, "rule": e.detail, "reason": reason, "nodes": names})
                    .to_string()
            }
        }
    }
}

/// What the kernels do in another way than the operations say.
pub fn forms(program: &Program) -> Vec<Event> {
    let form = |step: &Step| match &program.kernels[step.kernel].body {
        KernelBody::Winograd(w) => Some(Event {
            pass: Phase::Partition.name(),
            outcome: Outcome::Applied,
            nodes: step.origin.clone(),
            detail: w.schedule.form(),
        }),
        _ => None,
    };
    program.steps.iter().filter_map(form).collect()
}

/// The decisions of a sequence of passes.
#[derive(Default)]
pub struct Decisions {
    refused: HashSet<Event>,
}

impl Decisions {
    /// What there is to tell of the next pass: what it applied, and what it left alone unless an earlier run of it has done
    /// so, for the same reason, already.
    pub fn news<'r>(&mut self, report: &'r Report) -> Vec<&'r Event> {
        let mut new = |e: &Event| !matches!(e.outcome, Outcome::Refused(_)) || self.refused.insert(e.clone());
        report.events.iter().filter(|e| new(e)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cameo_ir::Origin;

    #[test]
    fn a_decision_is_a_line() {
        let mut e = Event {
            pass: "fold_scales",
            outcome: Outcome::Applied,
            nodes: Origin::new("mm").merge(&Origin::new("a \"b\"")),
            detail: "scale into weights".into(),
        };
        assert_eq!(
            Explain::Text.line(&e),
            "fold_scales: scale into weights: applied [a \"b\", mm]"
        );
        let read = |e: &Event| serde_json::from_str::<serde_json::Value>(&Explain::Json.line(e)).expect("JSON");
        assert_eq!(
            read(&e),
            json!({"pass": "fold_scales", "outcome": "applied", "rule": "scale into weights", "reason": null,
                "nodes": ["a \"b\"", "mm"]})
        );
        e.outcome = Outcome::Refused("others read it".into());
        assert_eq!(
            Explain::Text.line(&e),
            "fold_scales: scale into weights: left alone: others read it [a \"b\", mm]"
        );
        assert_eq!(read(&e)["outcome"], "refused");
        assert_eq!(read(&e)["reason"], "others read it");
    }

    #[test]
    fn what_is_left_alone_again_is_told_once() {
        let event = |outcome| Event {
            pass: "cse",
            outcome,
            nodes: Origin::new("a"),
            detail: "equal nodes".into(),
        };
        let refused = |why: &str| event(Outcome::Refused(why.into()));
        let report = |events| Report { changes: 0, events };
        let mut decisions = Decisions::default();
        let first = report(vec![event(Outcome::Applied), refused("so")]);
        assert_eq!(decisions.news(&first).len(), 2);
        let second = report(vec![event(Outcome::Applied), refused("so"), refused("otherwise")]);
        assert_eq!(decisions.news(&second), [&second.events[0], &second.events[2]]);
    }
}
