//! Semantic search: ranks the lines of a text file by how close their meaning is to a query.
//!
//! ```text
//! cargo run --release -- [--top K] [--weights FILE] QUERY FILE
//! ```
//!
//! The sentence model is a crate that `cameo` compiled from ONNX ([`minilm`]); there is no inference library here.

mod embed;
mod rank;

use embed::Embedder;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
Ranks the lines of a text file by meaning.

usage: cameo-example-semantic-search [OPTIONS] QUERY FILE

  --top K          lines to print (default 5)
  --weights FILE   the model's weights (default: where the model crate was generated)
  --help           this text

example: cameo-example-semantic-search \"How do I get a stain out?\" lines.txt
";

struct Arguments {
    query: String,
    file: PathBuf,
    top: usize,
    weights: Option<PathBuf>,
}

fn main() -> ExitCode {
    let start = Instant::now();
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("{message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match search(&arguments, start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None`: the user asked for help.
fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let (mut plain, mut top, mut weights) = (Vec::new(), 5, None);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--top" => top = value()?.parse().map_err(|_| "--top needs a whole number".to_owned())?,
            "--weights" => weights = Some(PathBuf::from(value()?)),
            _ if word.starts_with("--") => return Err(format!("unknown option {word}")),
            _ => plain.push(word),
        }
    }
    let Ok([query, file]) = <[String; 2]>::try_from(plain) else {
        return Err("expected a query and a file".to_owned());
    };
    Ok(Some(Arguments {
        query,
        file: file.into(),
        top,
        weights,
    }))
}

fn search(arguments: &Arguments, start: Instant) -> Result<(), Box<dyn Error>> {
    let text = std::fs::read_to_string(&arguments.file)
        .map_err(|error| format!("cannot read {}: {error}", arguments.file.display()))?;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut embedder = Embedder::open(arguments.weights.as_deref())?;
    let opened = start.elapsed();

    let query = embedder.embed(&[&arguments.query])?;
    let corpus = embedder.embed(&lines)?;

    for hit in rank::closest(query.row(0), &corpus, arguments.top) {
        println!("{:6.3}  {}", hit.score, lines[hit.line]);
    }
    println!();
    println!("open model and tokenizer  {:>8.1} ms", milliseconds(opened));
    println!(
        "embed the query           {:>8.1} ms",
        milliseconds(query.tokenizing + query.running)
    );
    println!(
        "embed {:>4} lines          {:>8.1} ms  ({} tokens in {} batches, tokenizing {:.1} ms)",
        lines.len(),
        milliseconds(corpus.tokenizing + corpus.running),
        corpus.tokens,
        corpus.batches,
        milliseconds(corpus.tokenizing),
    );
    println!("start to answer           {:>8.1} ms", milliseconds(start.elapsed()));
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Option<Arguments>, String> {
        parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments() {
        let parsed = words("--top 3 query lines.txt").unwrap().unwrap();
        assert_eq!((parsed.query.as_str(), parsed.top), ("query", 3));
        assert!(words("--help").unwrap().is_none());
        for wrong in [
            "query",
            "query lines.txt more",
            "--top x query lines.txt",
            "--top",
            "--best query lines.txt",
        ] {
            assert!(words(wrong).is_err(), "{wrong}");
        }
    }
}
