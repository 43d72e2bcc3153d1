//! What is wrong with a model, for people: node, operator, opset, the graph around it and what to do.
//!
//! Laws: everything that is wrong is reported at once; every diagnostic that concerns a node names it as the ONNX file
//! does.

use std::fmt;
use std::path::Path;

use cameo_ir::Node;
use cameo_ir::op::OpError;
use cameo_onnx::{Problem, ProblemKind};

use crate::excerpt::Source;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The model or an option contradicts itself, the other, or the ONNX specification.
    Invalid,
    /// The model is right and Cameo cannot compile it.
    Unsupported,
    /// A file cannot be read or written, or a tool cannot be run.
    Io,
    /// A bug in Cameo.
    Internal,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::Io => "io",
            Self::Internal => "internal error",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub kind: Kind,
    /// The ONNX node's name, or `node #3` for one without.
    pub node: Option<String>,
    pub op: Option<String>,
    pub opset: Option<i64>,
    pub message: String,
    /// Lines of text IR; `>` marks the guilty one. Long lines are shown cut.
    pub excerpt: Option<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            node: None,
            op: None,
            opset: None,
            message: message.into(),
            excerpt: None,
            help: None,
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub fn io(message: impl Into<String>) -> Self {
        Self::new(Kind::Io, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// A file that an operation failed on.
    pub fn file(path: &Path, error: &dyn fmt::Display) -> Self {
        Self::io(format!("{}: {error}", path.display()))
    }

    pub fn from_op_error(e: &OpError) -> Self {
        match e {
            OpError::Invalid(m) => Self::invalid(m),
            OpError::Unsupported(_) | OpError::Unknown { .. } => Self::new(Kind::Unsupported, e.message())
                .help("leave this operator out of the export, or `--outputs` a value before it"),
        }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub fn excerpt(mut self, excerpt: impl Into<String>) -> Self {
        self.excerpt = Some(excerpt.into());
        self
    }

    /// Concerns a node of a graph.
    #[must_use]
    pub fn node(mut self, node: &Node) -> Self {
        self.node = node.origin.names().first().map(ToString::to_string);
        self.op = Some(node.op.name().to_owned());
        self
    }
}

impl From<Problem> for Diagnostic {
    fn from(p: Problem) -> Self {
        let kind = match p.kind {
            ProblemKind::Invalid => Kind::Invalid,
            ProblemKind::Unsupported => Kind::Unsupported,
            ProblemKind::Io => Kind::Io,
        };
        Self {
            kind,
            node: p.node,
            op: p.op,
            opset: p.opset,
            message: p.message,
            excerpt: None,
            help: p.hint,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Io => f.write_str("error: ")?,
            kind => write!(f, "error: {}: ", kind.name())?,
        }
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
        for line in self.excerpt.iter().flat_map(|e| e.lines()) {
            write!(f, "\n    {}", short(line))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// The line, cut where a terminal would have wrapped it twice: weights of 64 elements and long lists of origins are no help.
pub fn short(line: &str) -> String {
    const COLUMNS: usize = 160;
    match line.char_indices().nth(COLUMNS) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.into(),
    }
}

/// Everything that is wrong; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    pub fn from_problems(problems: Vec<Problem>) -> Self {
        problems.into_iter().map(Diagnostic::from).collect()
    }

    pub fn all(&self) -> &[Diagnostic] {
        &self.0
    }

    /// Adds what only the model file knows: opsets, operators as ONNX names them, and the ONNX nodes around a node that
    /// never became part of a graph.
    #[must_use]
    pub fn with_source(mut self, model: &Path) -> Self {
        let wanted = self
            .0
            .iter()
            .any(|d| d.node.is_some() && (d.opset.is_none() || d.excerpt.is_none()));
        if let Some(source) = wanted.then(|| Source::open(model)).flatten() {
            for d in self.0.iter_mut().take(EXCERPTS_MAX) {
                source.complete(d);
            }
        }
        self
    }
}

/// More excerpts than this are not read, and each costs a walk over the model.
const EXCERPTS_MAX: usize = 100;

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(iter: I) -> Self {
        let mut all: Vec<Diagnostic> = vec![];
        for d in iter {
            if !all.contains(&d) {
                all.push(d);
            }
        }
        if all.is_empty() {
            all.push(Diagnostic::internal("a phase failed and did not say why"));
        }
        Self(all)
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(d: Diagnostic) -> Self {
        Self(vec![d])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            d.fmt(f)?;
        }
        if self.0.len() > 1 {
            write!(f, "\n{} problems", self.0.len())?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_shows_place_reason_surroundings_and_remedy() {
        let mut d = Diagnostic::new(Kind::Unsupported, "no kernel")
            .excerpt("  a\n> b")
            .help("leave it out");
        d.node = Some("/l/Foo".into());
        d.op = Some("Foo".into());
        d.opset = Some(17);
        let want =
            "error: unsupported: node `/l/Foo` (Foo, opset 17): no kernel\n      a\n    > b\n  help: leave it out";
        assert_eq!(d.to_string(), want);
        let two: Diagnostics = [d.clone(), Diagnostic::io("no file"), d].into_iter().collect();
        assert_eq!(two.to_string(), format!("{want}\nerror: no file\n2 problems"));
    }
}
