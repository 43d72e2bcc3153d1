//! What a user sees of a compilation: a line per phase, the time of each stage, the decisions of passes, and dumps.
//!
//! The clock is read here only; the compiler itself never sees it.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::explain::Explain;
use super::show;
use crate::dump::Dump;
use crate::{Diagnostics, Event, Product, Stage};

/// Watches a compilation.
#[derive(Default)]
pub struct Observer {
    /// A line per phase.
    progress: bool,
    /// What passes did and left alone.
    explain: Option<Explain>,
    dump: Option<Dump>,
    /// The first dump that could not be written; later ones are not tried.
    failed: Option<Diagnostics>,
    running: Vec<(Stage, Instant)>,
    /// Time that dumps took inside the running stages, which is not the stages'.
    elsewhere: Duration,
    took: Vec<(Stage, Duration)>,
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
                self.took.push((*stage, took));
                if let (Some(form), Product::Graph(_, Some(report))) = (self.explain, product) {
                    report.events.iter().for_each(|e| self.say(form, &form.line(e)));
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

    /// The table of `--time-passes`.
    pub fn times(&self) -> String {
        let mut out = String::new();
        let mut total = Duration::ZERO;
        // A phase ends after its parts; it is shown before them.
        let mut parts: Vec<&(Stage, Duration)> = vec![];
        let line = |name: &str, d: Duration| format!("{name:24} {:>9.1} ms\n", d.as_secs_f64() * 1e3);
        for entry @ (stage, took) in &self.took {
            if !stage.is_phase() {
                parts.push(entry);
                continue;
            }
            total += *took;
            out += &line(stage.name, *took);
            for (part, took) in parts.drain(..) {
                out += &line(&format!("  {}", part.name), *took);
            }
        }
        out + &line("total", total)
    }

    fn write(&mut self, stage: Stage, product: &Product) {
        if let (Some(dump), None) = (&mut self.dump, &self.failed) {
            self.failed = dump.write(stage, product).err();
        }
    }

    /// Text is for people, like the progress; JSON is a result.
    fn say(&self, form: Explain, line: &str) {
        let print = || match form {
            Explain::Text => eprintln!("{line}"),
            Explain::Json => show(&format!("{line}\n")),
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
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
        let pass = Stage {
            phase: Phase::Passes,
            name: "cse",
        };
        let phase = Stage::phase(Phase::Passes);
        for e in [
            Event::Begin(phase),
            Event::Begin(pass),
            Event::End(pass, Product::None),
            Event::End(phase, Product::None),
        ] {
            o.observe(&e);
        }
        let table = o.times();
        let names: Vec<&str> = table.lines().filter_map(|l| l.split_whitespace().next()).collect();
        assert_eq!(names, ["passes", "cse", "total"]);
    }
}
