//! Schedules that were measured: a small text file that `cameo tune` writes and `compile --tuning` reads.
//!
//! ```text
//! cameo-tuning-1 x86-64-v4
//! # 197 rows and more of 384 elements
//! m=197*N n=1536 k=384: tile 14x32 block 126
//! ```
//!
//! A line names products by their rows, columns and the length of their sums, in the symbols of the model, and gives the
//! register tile, rows by columns, and the rows of A that stay in the second cache. A line that does not fit a network, or a
//! tile that the target does not have, is no error: other products keep what the target's table says.

use std::collections::BTreeMap;
use std::fmt;

use cameo_ir::Dim;

use crate::program::ContractionSchedule;
use crate::targets::Target;

const FORMAT: &str = "cameo-tuning-1";

/// A register tile and the rows of A that are used with all panels before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Choice {
    pub rows: usize,
    pub columns: usize,
    pub block: usize,
}

/// Choices by [`key`], for one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    target: String,
    choices: BTreeMap<String, Choice>,
    /// What is taken where there is no choice, while choices are compared.
    pub otherwise: Option<Choice>,
}

/// What is wrong with a file, and in which line, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TuningError {
    pub line: usize,
    pub message: String,
}

impl fmt::Display for TuningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for TuningError {}

/// The name of products in a file.
#[must_use]
pub fn key(m: &Dim, n: &Dim, k: &[Dim]) -> String {
    format!("m={m} n={n} k={}", Dim::product(k))
}

impl Tuning {
    #[must_use]
    pub fn new(target: &Target) -> Self {
        Self {
            target: target.name.into(),
            choices: BTreeMap::new(),
            otherwise: None,
        }
    }

    pub fn choose(&mut self, key: &str, choice: Choice) {
        self.choices.insert(key.to_owned(), choice);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.choices.is_empty()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`TuningError`] for what is no line of such a file.
    pub fn parse(text: &str) -> Result<Self, TuningError> {
        let wrong = |line: usize, message: String| TuningError { line, message };
        let mut lines = text.lines().enumerate().map(|(i, l)| (i + 1, l.trim()));
        let target = lines.next().and_then(|(_, l)| l.strip_prefix(FORMAT));
        let Some(target) = target.map(str::trim).filter(|t| !t.is_empty()) else {
            let message = format!("a tuning file begins with `{FORMAT}` and a target, such as `{FORMAT} x86-64-v4`");
            return Err(wrong(1, message));
        };
        let mut out = Self {
            target: target.to_owned(),
            choices: BTreeMap::new(),
            otherwise: None,
        };
        for (number, line) in lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#')) {
            let parsed = line
                .split_once(": ")
                .and_then(|(key, choice)| Some((key, choice.parse().ok()?)));
            let Some((key, choice)) = parsed else {
                let message = format!("`{line}` is not of the form `m=M n=N k=K: tile 8x48 block 128`");
                return Err(wrong(number, message));
            };
            if out.choices.insert(key.to_owned(), choice).is_some() {
                return Err(wrong(number, format!("`{key}` is there twice")));
            }
        }
        Ok(out)
    }

    /// Changes a schedule of such products as the file says, if it has them and the target has the tile.
    pub(crate) fn apply(&self, s: &mut ContractionSchedule, target: &Target, m: &Dim, n: &Dim, k: &[Dim]) {
        if self.target != target.name {
            return;
        }
        let Some(c) = self.choices.get(&key(m, n, k)).copied().or(self.otherwise) else {
            return;
        };
        let fits = |t: &&crate::targets::Tile| t.mr == c.rows && t.nv * target.lanes == c.columns;
        if let Some(t) = target.tiles.iter().find(fits) {
            (s.mr, s.nv) = (t.mr, t.nv);
            s.mc = (c.block / t.mr).max(1) * t.mr;
        }
    }
}

impl std::str::FromStr for Choice {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let words: Vec<&str> = s.split_whitespace().collect();
        let ["tile", tile, "block", block] = words[..] else {
            return Err(());
        };
        let number = |s: &str| s.parse::<usize>().ok().filter(|n| (1..=1 << 20).contains(n)).ok_or(());
        let (rows, columns) = tile.split_once('x').ok_or(())?;
        Ok(Self {
            rows: number(rows)?,
            columns: number(columns)?,
            block: number(block)?,
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile {}x{} block {}", self.rows, self.columns, self.block)
    }
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FORMAT} {}", self.target)?;
        for (key, choice) in &self.choices {
            writeln!(f, "{key}: {choice}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Choices;
    use crate::program::KernelBody;
    use crate::targets::x86_64::{V3, V4};

    /// The schedule of a product of M rows of 384 with a weight of 384 by 1536.
    fn schedule(target: &Target, tuning: Option<&str>) -> ContractionSchedule {
        let text = r#"graph @g (%0 "x": f32[M,384]) symbols M=1.. {
          weight %1: f32[384,1536] = blob("w")
          %2 = MatMul(%0, %1)
          return %2 "y"
        }"#;
        let g = cameo_ir::text::parse(text, &|_, bytes| Some(vec![0; bytes].into())).expect("parses");
        let choices = Choices {
            tuning: tuning.map(|t| Arc::new(Tuning::parse(t).expect("parses"))),
            ..Choices::default()
        };
        let p = crate::partition(&g, target, choices).expect("partitions");
        match &p.kernels[0].body {
            KernelBody::Contraction(c) => c.schedule,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_chooses_schedules() {
        let file = "cameo-tuning-1 x86-64-v4\n\n# measured\nm=M n=1536 k=384: tile 14x32 block 30\n";
        let (before, after) = (schedule(&V4, None), schedule(&V4, Some(file)));
        assert_ne!((before.mr, before.nv), (14, 2));
        assert_eq!((after.mr, after.nv, after.mc), (14, 2, 28));
        // Other products, another processor, a tile that there is not.
        for (from, to) in [("n=1536", "n=1537"), ("v4", "v3"), ("14x32", "13x32")] {
            assert_eq!(schedule(&V4, Some(&file.replace(from, to))), before, "{to}");
        }
        assert_eq!(schedule(&V3, Some(file)), schedule(&V3, None));
    }

    #[test]
    fn files_are_read_as_they_are_written() {
        let mut t = Tuning::new(&V4);
        let choice = Choice {
            rows: 8,
            columns: 48,
            block: 128,
        };
        t.choose("m=B*S n=384 k=1536", choice);
        assert_eq!(Tuning::parse(&t.to_string()), Ok(t));
    }

    #[test]
    fn other_files_are_refused() {
        let error = |text: &str| Tuning::parse(text).expect_err(text).to_string();
        assert!(error("").starts_with("line 1: a tuning file begins with"));
        assert!(error("cameo-tuning-2 x86-64-v4").starts_with("line 1"));
        let with = |line: &str| error(&format!("cameo-tuning-1 x86-64-v4\n{line}"));
        for line in [
            "m=1 n=2 k=3",
            "m=1 n=2 k=3: tile 8 block 4",
            "m=1 n=2 k=3: tile 8x0 block 4",
            "m=1 n=2 k=3: tile 8x48 block -1",
        ] {
            assert!(with(line).starts_with("line 2: `m=1 n=2 k=3"), "{line}");
        }
        let line = "m=1 n=2 k=3: tile 8x48 block 4";
        assert!(with(&format!("{line}\n{line}")).contains("twice"));
    }
}
