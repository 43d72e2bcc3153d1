//! What a user sees of a compilation: a line per phase, the time and work of each stage, the decisions of passes, and
//! dumps.
//!
//! The clock is read here only; the compiler itself never sees it.

use std::time::{Duration, Instant};

use cameo_ir::rewrite::Event as Decision;
use cameo_ir::rewrite::Outcome;
use indicatif::{ProgressBar, ProgressStyle};

use super::explain::{Decisions, Explain, forms};
use crate::dump::Dump;
use crate::{Diagnostics, Event, Product, Stage};

/// Stages that are no passes: what they do, the user wants.
const ASKED: [&str; 2] = [cameo_passes::slice::NAME, cameo_passes::varlen::NAME];

/// What a pass did, in numbers.
#[derive(Clone, Copy)]
struct Work {
    /// Nodes before and after it.
    nodes: [usize; 2],
    /// Changes, and candidates that were left alone.
    applied: usize,
    refused: usize,
}

/// Watches a compilation.
#[derive(Default)]
pub struct Observer {
    /// A line per phase.
    progress: bool,
    /// What passes did and left alone.
    explain: Option<Explain>,
    decisions: Decisions,
    dump: Option<Dump>,
    /// The first dump that could not be written; later ones are not tried.
    failed: Option<Diagnostics>,
    running: Vec<(Stage, Instant)>,
    /// Time that dumps took inside the running stages, which is not the stages'.
    elsewhere: Duration,
    took: Vec<(Stage, Duration, Option<Work>)>,
    /// Nodes of the last graph that a stage made.
    nodes: usize,
    bar: Option<ProgressBar>,
}

impl Observer {
    pub fn new(progress: bool, explain: Option<Explain>, dump: Option<Dump>) -> Self {
        Self {
            progress,
            explain,
            dump,
            ..Self::default()
        }
    }

    pub fn observe(&mut self, event: &Event) {
        match event {
            Event::Begin(stage) => {
                if self.progress && stage.is_phase() {
                    self.begin(*stage);
                }
                self.running.push((*stage, Instant::now()));
            }
            Event::End(stage, product) => {
                let end = Instant::now();
                let begin = self.running.pop().map_or(end, |(_, at)| at);
                let took = (end - begin).saturating_sub(if stage.is_phase() {
                    self.elsewhere
                } else {
                    Duration::ZERO
                });
                let work = self.work(product);
                self.took.push((*stage, took, work));
                if let Product::Graph(_, Some(report)) = product {
                    match self.explain {
                        Some(form) => {
                            for e in self.decisions.news(report) {
                                self.say(form, &form.line(e));
                            }
                        }
                        // What the user asked for, and what it did to the outputs.
                        None if self.progress && ASKED.contains(&stage.name) => {
                            let line = |e: &Decision| format!("{:10} {}", stage.name, e.detail);
                            report.events.iter().for_each(|e| self.say(Explain::Text, &line(e)));
                        }
                        None => {}
                    }
                }
                if let (Product::Program(program, _), Some(form)) = (product, self.explain) {
                    forms(program).iter().for_each(|e| self.say(form, &form.line(e)));
                }
                self.write(*stage, product);
                if self.progress && stage.is_phase() {
                    self.end(*stage, took);
                }
                self.elsewhere = if stage.is_phase() {
                    Duration::ZERO
                } else {
                    self.elsewhere + end.elapsed()
                };
            }
        }
    }

    /// What went wrong while dumping.
    pub fn finish(&mut self) -> Result<(), Diagnostics> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    /// The table of `--time-passes`: milliseconds of each stage; of a pass also the number of nodes before and after it,
    /// of its changes and of what it left alone.
    pub fn times(&self) -> String {
        let mut out = String::new();
        let mut total = Duration::ZERO;
        // A phase ends after its parts; it is shown before them.
        let mut parts: Vec<(Stage, Duration, Option<Work>)> = vec![];
        let line = |name: &str, d: Duration, w: Option<Work>| {
            let time = format!("{name:24} {:>9.1} ms", d.as_secs_f64() * 1e3);
            match w {
                None => time + "\n",
                Some(Work {
                    nodes: [before, after],
                    applied,
                    refused,
                }) => format!("{time}  {before:>6} → {after:<6} nodes {applied:>6} applied {refused:>6} refused\n"),
            }
        };
        for (stage, took, work) in &self.took {
            if !stage.is_phase() {
                parts.push((*stage, *took, *work));
                continue;
            }
            total += *took;
            out += &line(stage.name, *took, None);
            for (part, took, work) in parts.drain(..) {
                out += &line(&format!("  {}", part.name), took, work);
            }
        }
        out + &line("total", total, None)
    }

    /// Counts what a stage did to the graph; `None` when it is no pass.
    fn work(&mut self, product: &Product) -> Option<Work> {
        let Product::Graph(graph, report) = product else {
            return None;
        };
        let before = std::mem::replace(&mut self.nodes, graph.node_count());
        report.map(|r| Work {
            nodes: [before, self.nodes],
            applied: r.changes,
            refused: r
                .events
                .iter()
                .filter(|e| matches!(e.outcome, Outcome::Refused(_)))
                .count(),
        })
    }

    fn write(&mut self, stage: Stage, product: &Product) {
        if let (Some(dump), None) = (&mut self.dump, &self.failed) {
            self.failed = dump.write(stage, product).err();
        }
    }

    fn say(&self, form: Explain, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| form.print(line)),
            None => form.print(line),
        }
    }

    fn begin(&mut self, stage: Stage) {
        use std::io::IsTerminal;
        if !std::io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        bar.set_message(stage.name);
        // Fast enough to look alive, slow enough not to be work.
        bar.enable_steady_tick(Duration::from_millis(100));
        self.bar = Some(bar);
    }

    fn end(&mut self, stage: Stage, took: Duration) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        eprintln!("{:10} {:>7.2} s", stage.name, took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Phase;

    #[test]
    fn a_phase_stands_before_its_parts_in_the_table() {
        let mut o = Observer::default();
        let stage = |name| Stage {
            phase: Phase::Passes,
            name,
        };
        let phases = [Phase::Import, Phase::Passes].map(Stage::phase);
        let source = "graph @g (%0 \"x\": f32[2]) {\n %1 = Neg(%0)\n %2 = Neg(%0)\n return %1 \"y\", %2 \"z\"\n}";
        let before = cameo_ir::text::parse(source, &|_, _| None).expect("parses");
        let mut after = before.clone();
        let report = cameo_passes::run(cameo_passes::by_name("cse").expect("a pass"), &mut after);
        for e in [
            Event::Begin(phases[0]),
            Event::End(phases[0], Product::Graph(&before, None)),
            Event::Begin(phases[1]),
            Event::Begin(stage("cse")),
            Event::End(stage("cse"), Product::Graph(&after, Some(&report))),
            Event::End(phases[1], Product::None),
        ] {
            o.observe(&e);
        }
        let table = o.times();
        let words: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
        let names: Vec<&str> = words.iter().map(|l| l[0]).collect();
        assert_eq!(names, ["import", "passes", "cse", "total"]);
        // Times differ from run to run; the counts do not.
        let counts = "2 → 1 nodes 1 applied 0 refused";
        assert_eq!(words[2][3..], counts.split(' ').collect::<Vec<_>>(), "{table}");
    }
}
