//! The nearest of many unit vectors.

use crate::embed::Embeddings;

/// A line and its cosine similarity to the query, -1 to 1.
pub struct Hit {
    pub line: usize,
    pub score: f32,
}

/// The `top` rows of `corpus` nearest to `query`, best first; equal scores in the order of the lines.
pub fn closest(query: &[f32], corpus: &Embeddings, top: usize) -> Vec<Hit> {
    let mut hits: Vec<Hit> = corpus
        .rows()
        .map(|row| dot(query, row))
        .enumerate()
        .map(|(line, score)| Hit { line, score })
        .collect();
    hits.sort_by(|a, b| b.score.total_cmp(&a.score));
    hits.truncate(top);
    hits
}

/// Both sides have length 1, so this is the cosine of their angle.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
