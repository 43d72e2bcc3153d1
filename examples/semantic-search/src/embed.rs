//! Text to unit vectors: tokenizer, batching, and the compiled model.

use minilm::{Inputs, Model, Tensor};
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};
use tokenizers::{Encoding, Tokenizer, TruncationParams};

/// Tokens of one text that the model was trained to read; the rest is cut off.
const MAX_TOKENS: usize = 256;

/// Texts per run. Short texts fill a few cores with this many; more only adds memory.
const BATCH: usize = 16;

/// Values of one embedding.
const WIDTH: usize = 384;

/// The sentence model with its tokenizer.
pub struct Embedder {
    tokenizer: Tokenizer,
    model: Model,
}

/// One row per text, in the order of the texts, and what it took.
pub struct Embeddings {
    values: Vec<f32>,
    pub tokens: usize,
    pub batches: usize,
    pub tokenizing: Duration,
    pub running: Duration,
}

impl Embeddings {
    /// The unit vector of text `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * WIDTH..][..WIDTH]
    }

    /// All rows in order.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(WIDTH)
    }
}

impl Embedder {
    /// Maps the weights (by default those that lie beside the generated crate) and parses the tokenizer.
    pub fn open(weights: Option<&Path>) -> Result<Self, Box<dyn Error>> {
        let mut tokenizer = Tokenizer::from_bytes(include_bytes!("../build/tokenizer.json")).map_err(plain)?;
        // The file asks for a fixed length of 128: padding every short text to that would be most of the work.
        tokenizer.with_padding(None);
        let truncation = TruncationParams {
            max_length: MAX_TOKENS,
            ..TruncationParams::default()
        };
        tokenizer.with_truncation(Some(truncation)).map_err(plain)?;
        Ok(Self {
            tokenizer,
            model: Model::open(weights)?,
        })
    }

    /// Embeds texts of any number and length. Texts of similar length share a batch, so that little is padding.
    pub fn embed(&mut self, texts: &[&str]) -> Result<Embeddings, Box<dyn Error>> {
        let start = Instant::now();
        let encodings = self.tokenizer.encode_batch(texts.to_vec(), true).map_err(plain)?;
        let tokens: Vec<&[u32]> = encodings.iter().map(Encoding::get_ids).collect();
        let tokenizing = start.elapsed();

        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&i| tokens[i].len());
        let mut embeddings = Embeddings {
            values: vec![0.0; texts.len() * WIDTH],
            tokens: tokens.iter().map(|ids| ids.len()).sum(),
            batches: order.len().div_ceil(BATCH),
            tokenizing,
            running: Duration::ZERO,
        };
        let start = Instant::now();
        for batch in order.chunks(BATCH) {
            let rows: Vec<&[u32]> = batch.iter().map(|&i| tokens[i]).collect();
            let vectors = run(&mut self.model, &rows)?;
            for (&i, vector) in batch.iter().zip(vectors.chunks_exact(WIDTH)) {
                embeddings.values[i * WIDTH..][..WIDTH].copy_from_slice(vector);
            }
        }
        embeddings.running = start.elapsed();
        Ok(embeddings)
    }
}

/// Runs one batch, padded at the right to its longest row; gives `rows.len()` unit vectors one after the other.
fn run<'model>(model: &'model mut Model, rows: &[&[u32]]) -> Result<&'model [f32], minilm::Error> {
    let width = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let padded = |of: fn(u32) -> i64| -> Vec<i64> {
        let row = |row: &&[u32]| -> Vec<i64> {
            let padding = std::iter::repeat_n(0, width - row.len());
            row.iter().map(|&id| of(id)).chain(padding).collect()
        };
        rows.iter().flat_map(row).collect()
    };
    let (ids, mask, kinds) = (padded(i64::from), padded(|_| 1), padded(|_| 0));
    let shape = [rows.len(), width];
    let outputs = model.run(&Inputs {
        input_ids: Tensor::new(&ids, shape),
        attention_mask: Tensor::new(&mask, shape),
        token_type_ids: Tensor::new(&kinds, shape),
    })?;
    Ok(outputs.sentence_embedding.data)
}

/// Drops `Send` and `Sync` from the type of a tokenizer's error, which `?` does not do.
fn plain(error: tokenizers::Error) -> Box<dyn Error> {
    error
}
