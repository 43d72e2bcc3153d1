//! The text form of graphs: dumps, tests and error messages are written in it, and every dump can be read back.
//!
//! ```text
//! graph @bert (%0 "ids": i64[B,S], %1: f32[B,S]) symbols B=1.., S=1..512 {
//!   weight %2 "emb": f32[30522,384] = blob("8d1c90ab34f0e652")
//!   weight %3: i64[1] = dense(-1)
//!   %4 "rows" = Gather(%2, %0) {axis=0} : f32[B,S,384] from "/emb/Gather"
//!   %5, %6 = Split(%4, _) {axis=-1, num_outputs=2} : f32[B,S,192], f32[B,S,192] from "/a", "/b"
//!   return %5 "y", %6 "z"
//! }
//! ```
//!
//! Laws: values are numbered in print order (inputs, weights, nodes), so that equal graphs print equally; `_` is an
//! absent operand; after `:` come the facts of the outputs, with known elements as `i64[2]=[B,S]`. A reader may leave
//! facts and known elements out: they are inferred. Weights of up to [`INLINE_MAX`] elements are written out, exactly;
//! larger ones are named by the hash of their bytes and stored beside the text. `//` begins a comment.
//!
//! Attribute values: `1`, `1.0` (a float has a point, an exponent, `inf` or `nan`), `"s"`, `[1,2]`, `floats[1.0]`,
//! `strs["a"]`, `dims[B,2*S+1]`, `f32` (a type), `f32[2] dense(1.0,2.0)` (a tensor), `graph … { … }`. Dims are sums of
//! products of integers, symbols (quoted where they are not identifiers), `fdiv(a,b)`, `min(a,b)`, `max(a,b)` and
//! `bcast(a,b)`.

mod lex;
mod parse;
mod print;
#[cfg(test)]
mod round_trip;

pub use parse::{ParseError, ParseErrors, parse};
pub use print::{blobs, print, print_around};

/// Weights of up to so many elements are written inline: shapes, axes and scales, which a reader wants to see.
pub const INLINE_MAX: usize = 64;

/// 64-bit hash of bytes, to name a blob by its content. Not cryptographic.
///
/// Four lanes take 8 bytes each in turn, little-endian: `lane = rotl((lane ^ word) * K, 29)`. The tail is padded with
/// zeros to 32 bytes; the length and then the lanes are folded in the same way, and the bits are mixed as in the
/// finalizer of MurmurHash3. Both steps are invertible in the lane, so that a single changed word always changes it. The
/// four chains run side by side in the processor, so that reading memory is the limit.
pub fn content_hash(bytes: &[u8]) -> u64 {
    // Odd, so that multiplying is invertible: 2^64 / golden ratio.
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    const STRIPE: usize = 32;
    let step = |lane: u64, word: u64| (lane ^ word).wrapping_mul(K).rotate_left(29);
    // Different starts, so that swapped lanes differ.
    let mut lanes = [K, K.rotate_left(16), K.rotate_left(32), K.rotate_left(48)];
    let mut take = |stripe: &[u8]| {
        for (lane, word) in lanes.iter_mut().zip(stripe.chunks_exact(8)) {
            let mut w = [0; 8];
            w.copy_from_slice(word);
            *lane = step(*lane, u64::from_le_bytes(w));
        }
    };
    let mut stripes = bytes.chunks_exact(STRIPE);
    stripes.by_ref().for_each(&mut take);
    let mut tail = [0; STRIPE];
    tail[..stripes.remainder().len()].copy_from_slice(stripes.remainder());
    take(&tail);
    let mut h = lanes.into_iter().fold(bytes.len() as u64, step);
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_tell_bytes_and_lengths_apart() {
        let mut seen = rustc_hash::FxHashSet::default();
        for n in 0..100 {
            assert!(seen.insert(content_hash(&vec![0; n])), "zeros of length {n}");
            for i in 0..n {
                let mut v = vec![0; n];
                v[i] = 1;
                assert!(seen.insert(content_hash(&v)), "one at {i} of {n}");
            }
        }
        // Names of files written by one version are read by the next: the value is part of the format.
        assert_eq!(content_hash(b"cameo"), 2_583_574_979_617_940_873);
    }
}
