//! Problems: what is wrong, where, and what to do about it.
//!
//! Inside the crate an error is a [`Fault`], which knows no place; the place is added once, by whoever knows it.

use std::fmt;

use cameo_ir::OpError;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// The model contradicts itself or the ONNX specification, or an option contradicts the model.
    Invalid,
    /// The model is right and Cameo cannot compile it (yet).
    Unsupported,
    /// A file cannot be read.
    Io,
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::Io => "cannot read",
        })
    }
}

/// One thing that keeps a model from being imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub kind: ProblemKind,
    /// The node's name, or `node #i` (its position in its graph) when it has none. Inside functions
    /// `caller/inner`. `None` when the problem is not a node's.
    pub node: Option<String>,
    /// `Conv`, or `domain::Name` outside the default domain.
    pub op: Option<String>,
    /// The opset that the operator is read with.
    pub opset: Option<i64>,
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    /// ``unsupported: node `a/b` (Conv, opset 11): message``, then the hint on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind)?;
        if let Some(node) = &self.node {
            if node.contains("node #") {
                write!(f, "{node}")?;
            } else {
                write!(f, "node `{node}`")?;
            }
            match (&self.op, self.opset) {
                (Some(op), Some(v)) => write!(f, " ({op}, opset {v})")?,
                (Some(op), None) => write!(f, " ({op})")?,
                _ => {}
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  help: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// A problem that has no place yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub kind: ProblemKind,
    pub message: String,
    pub hint: Option<String>,
    /// The same cause was reported before; what depends on it fails silently.
    pub repeated: bool,
    /// How often a loop runs is not known here: another way may do without.
    pub uncounted: bool,
}

impl Fault {
    fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            repeated: false,
            uncounted: false,
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ProblemKind::Invalid, message)
    }

    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ProblemKind::Unsupported, message)
    }

    pub fn io(message: impl Into<String>) -> Self {
        Self::new(ProblemKind::Io, message)
    }

    /// See [`Fault::uncounted`].
    pub fn uncounted(message: impl Into<String>) -> Self {
        Self {
            uncounted: true,
            ..Self::unsupported(message)
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With `what` before the message.
    pub fn of(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// A problem of the model as a whole.
    pub fn at_model(self) -> Problem {
        Problem {
            kind: self.kind,
            node: None,
            op: None,
            opset: None,
            message: self.message,
            hint: self.hint,
        }
    }
}

impl From<OpError> for Fault {
    fn from(e: OpError) -> Self {
        match e {
            OpError::Invalid(m) => Self::invalid(m),
            OpError::Unsupported(_) | OpError::Unknown { .. } => Self::unsupported(e.message()),
        }
    }
}

/// Where a node stands, for problems and origins.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// As in [`Problem::node`].
    pub node: String,
    /// The name that the node's origin gets: its own, or `<op>_<index>`.
    pub origin: String,
    pub op: String,
    pub opset: Option<i64>,
}

/// The problems found so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems {
    found: Vec<Problem>,
    dropped: usize,
}

impl Problems {
    /// Nobody reads more; a hostile file must not turn its bytes into a hundredfold of messages.
    const MAX: usize = 10_000;

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub fn push(&mut self, p: Problem) {
        if self.found.len() < Self::MAX {
            self.found.push(p);
        } else {
            self.dropped += 1;
        }
    }

    pub fn model(&mut self, fault: Fault) {
        if !fault.repeated {
            self.push(fault.at_model());
        }
    }

    pub fn node(&mut self, site: &Site, fault: Fault) {
        if !fault.repeated {
            let mut p = fault.at_model();
            p.node = Some(site.node.clone());
            p.op = Some(site.op.clone());
            p.opset = site.opset;
            self.push(p);
        }
    }

    pub fn into_vec(mut self) -> Vec<Problem> {
        if self.dropped > 0 {
            let more = Fault::invalid(format!("{} more problems are not listed", self.dropped));
            self.found.push(more.at_model());
        }
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_a_sentence() {
        let mut p = Fault::unsupported("unsupported operator")
            .hint("leave it out")
            .at_model();
        assert_eq!(p.to_string(), "unsupported: unsupported operator\n  help: leave it out");
        p.node = Some("f/a".into());
        p.op = Some("Foo".into());
        p.opset = Some(13);
        p.hint = None;
        assert_eq!(
            p.to_string(),
            "unsupported: node `f/a` (Foo, opset 13): unsupported operator"
        );
        p.node = Some("node #3".into());
        assert_eq!(
            p.to_string(),
            "unsupported: node #3 (Foo, opset 13): unsupported operator"
        );
    }

    #[test]
    fn problems_are_bounded() {
        let mut all = Problems::default();
        for _ in 0..Problems::MAX + 5 {
            all.model(Fault::invalid("x"));
        }
        let v = all.into_vec();
        assert_eq!(v.len(), Problems::MAX + 1);
        assert!(v[Problems::MAX].message.starts_with("5 more"));
    }
}
