//! `--explain`: what passes did, and what they left alone for which reason, a line each.

use cameo_ir::rewrite::{Event, Outcome};
use clap::ValueEnum;
use serde_json::json;

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
}
