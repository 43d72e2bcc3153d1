//! The command line: one table of flags that parsing and help both read.

use crate::{Failure, USAGE};
use cameo_runtime::{Description, Dim};
use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Help,
    Run(Arguments),
}

/// The flags' values.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    pub inputs: Option<PathBuf>,
    pub outputs: Option<PathBuf>,
    pub weights: Option<PathBuf>,
    /// 0: as many as the process may use.
    pub threads: usize,
    /// The level of the code to run; the best when absent.
    pub cpu: Option<String>,
    pub bench: bool,
    pub runs: usize,
    pub warmup: usize,
    pub profile: Option<PathBuf>,
    pub describe: bool,
    pub verify_weights: bool,
    pub op_library: Option<PathBuf>,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            inputs: None,
            outputs: None,
            weights: None,
            threads: 0,
            cpu: None,
            bench: false,
            // Enough for a steady median, little enough to wait for.
            runs: 50,
            warmup: 5,
            profile: None,
            describe: false,
            verify_weights: false,
            op_library: None,
        }
    }
}

/// What follows a flag.
enum Takes {
    Nothing(fn(&mut Arguments)),
    File(fn(&mut Arguments) -> &mut Option<PathBuf>),
    Name(fn(&mut Arguments) -> &mut Option<String>),
    /// The smallest legal number.
    Number(usize, fn(&mut Arguments) -> &mut usize),
}

struct Flag {
    name: &'static str,
    takes: Takes,
    help: &'static str,
}

const FLAGS: [Flag; 12] = [
    Flag {
        name: "--inputs",
        takes: Takes::File(|to| &mut to.inputs),
        help: "numpy .npz, one array per input",
    },
    Flag {
        name: "--outputs",
        takes: Takes::File(|to| &mut to.outputs),
        help: "where the outputs go, as .npz",
    },
    Flag {
        name: "--threads",
        takes: Takes::Number(1, |to| &mut to.threads),
        help: "threads; default: the CPUs that this process may use",
    },
    Flag {
        name: "--cpu",
        takes: Takes::Name(|to| &mut to.cpu),
        help: "take this code of a program with several (`--describe`: levels); default: the best",
    },
    Flag {
        name: "--bench",
        takes: Takes::Nothing(|to| to.bench = true),
        help: "time it; one line of JSON",
    },
    Flag {
        name: "--runs",
        takes: Takes::Number(1, |to| &mut to.runs),
        help: "timed runs of --bench and --profile; default 50",
    },
    Flag {
        name: "--warmup",
        takes: Takes::Number(0, |to| &mut to.warmup),
        help: "runs before them; default 5",
    },
    Flag {
        name: "--profile",
        takes: Takes::File(|to| &mut to.profile),
        help: "time every step: a table, and the file as JSON; needs `cameo compile --profile`",
    },
    Flag {
        name: "--describe",
        takes: Takes::Nothing(|to| to.describe = true),
        help: "print inputs, outputs, dimensions and memory as JSON",
    },
    Flag {
        name: "--weights",
        takes: Takes::File(|to| &mut to.weights),
        help: "weights file; default: this executable's name with .weights",
    },
    Flag {
        name: "--verify-weights",
        takes: Takes::Nothing(|to| to.verify_weights = true),
        help: "first read all weights and check that no byte is damaged",
    },
    Flag {
        name: "--op-library",
        takes: Takes::File(|to| &mut to.op_library),
        help: "shared library with the operators that the model leaves to its caller (`--describe`: operators)",
    },
];

/// Reads the arguments behind the program's name.
pub fn parse(arguments: &[OsString]) -> Result<Request, Failure> {
    let usage = |message: String| Failure {
        code: USAGE,
        message: format!("{message}; --help lists all flags"),
    };
    let mut parsed = Arguments::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--help" || argument == "-h" {
            return Ok(Request::Help);
        }
        let Some(flag) = FLAGS.iter().find(|flag| argument == flag.name) else {
            return Err(usage(format!("unknown argument {argument:?}")));
        };
        let mut value = || rest.next().ok_or_else(|| usage(format!("{} needs a value", flag.name)));
        match flag.takes {
            Takes::Nothing(set) => set(&mut parsed),
            Takes::File(of) => *of(&mut parsed) = Some(value()?.into()),
            Takes::Name(of) => *of(&mut parsed) = Some(value()?.to_string_lossy().into_owned()),
            Takes::Number(least, of) => {
                let value = value()?;
                let number = value
                    .to_str()
                    .and_then(|text| text.parse().ok())
                    .filter(|number| *number >= least);
                let wrong = || usage(format!("{} takes a number from {least}, got {value:?}", flag.name));
                *of(&mut parsed) = number.ok_or_else(wrong)?;
            }
        }
    }
    if parsed.bench && parsed.profile.is_some() {
        // Timers would be in the times of the benchmark.
        return Err(usage("--bench and --profile exclude each other".to_owned()));
    }
    Ok(Request::Run(parsed))
}

/// The help text, with the model's own inputs in it.
pub fn help(description: &Description) -> String {
    let mut text = format!("{}: a model compiled by Cameo\n\nFlags:\n", description.name());
    // Writing to a string cannot fail.
    let _ = write_help(&mut text, description);
    text
}

fn write_help(text: &mut String, description: &Description) -> std::fmt::Result {
    for flag in &FLAGS {
        let value = match flag.takes {
            Takes::Nothing(_) => "",
            Takes::File(_) => " FILE",
            Takes::Name(_) => " NAME",
            Takes::Number(..) => " N",
        };
        writeln!(text, "  {:<16} {}", format!("{}{value}", flag.name), flag.help)?;
    }
    writeln!(text, "  {:<16} this text\n", "--help")?;
    let symbols: Vec<_> = description.symbols().map(|symbol| symbol.name).collect();
    for (title, tensors) in [
        ("Inputs", description.inputs().collect::<Vec<_>>()),
        ("Outputs", description.outputs().collect()),
    ] {
        writeln!(text, "{title}:")?;
        for info in tensors {
            let shape: Vec<String> = info
                .extents
                .iter()
                .map(|dim| match dim {
                    Dim::Const(extent) => extent.to_string(),
                    Dim::Symbol(index) => symbols[index].to_owned(),
                    Dim::Derived { expression, .. } => expression.to_owned(),
                })
                .collect();
            writeln!(text, "  {}: {} [{}]", info.name, info.dtype.name(), shape.join(", "))?;
        }
    }
    writeln!(
        text,
        "\nExamples:\n  --inputs x.npz --outputs y.npz --threads 2\n  --inputs x.npz --bench --runs 100"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, String> {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        parse(&arguments).map_err(|failure| {
            assert_eq!(failure.code, USAGE);
            failure.message
        })
    }

    #[test]
    fn all_flags() {
        let line = "--inputs x --outputs y --weights w --threads 3 --cpu c --bench --runs 7 --warmup 0 --describe --verify-weights --op-library o";
        let all = Arguments {
            inputs: Some("x".into()),
            outputs: Some("y".into()),
            weights: Some("w".into()),
            threads: 3,
            cpu: Some("c".into()),
            bench: true,
            runs: 7,
            warmup: 0,
            profile: None,
            describe: true,
            verify_weights: true,
            op_library: Some("o".into()),
        };
        assert_eq!(parsed(line), Ok(Request::Run(all)));
        assert_eq!(parsed(""), Ok(Request::Run(Arguments::default())));
        let profile = Arguments {
            profile: Some("p".into()),
            ..Arguments::default()
        };
        assert_eq!(parsed("--profile p"), Ok(Request::Run(profile)));
        assert_eq!(parsed("--bench --help --nonsense"), Ok(Request::Help));
    }

    #[test]
    fn wrong_lines() {
        for (line, message) in [
            ("--input x", "unknown argument \"--input\"; --help lists all flags"),
            ("x.npz", "unknown argument \"x.npz\"; --help lists all flags"),
            ("--inputs", "--inputs needs a value; --help lists all flags"),
            (
                "--profile p --bench",
                "--bench and --profile exclude each other; --help lists all flags",
            ),
            (
                "--threads 0",
                "--threads takes a number from 1, got \"0\"; --help lists all flags",
            ),
            (
                "--runs -1",
                "--runs takes a number from 1, got \"-1\"; --help lists all flags",
            ),
            (
                "--warmup many",
                "--warmup takes a number from 0, got \"many\"; --help lists all flags",
            ),
        ] {
            assert_eq!(parsed(line), Err(message.to_owned()), "{line}");
        }
    }
}
