//! The strings of a model and of a run, by the handles that kernels see.
//!
//! Laws: a handle is the hash of its string ([`cameo_abi::text_handle`]); two strings with one handle are an error, never
//! confused. Strings of a run are forgotten when the next one begins: their memory stays, and grows only for a run whose
//! strings have more bytes than any before it.

use cameo_abi::text_handle;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Most bytes of all strings of a run, so that a loop that joins strings ends with an error before the machine does.
const MOST_BYTES: usize = 1 << 32;

/// What may be wrong with a string that is new.
pub const COLLISION: &str = "has the same handle as another string, and cannot be told from it";
const TOO_MANY: &str = "is one too many: the strings of a run take more than 4 GiB, or there is no memory for them";

/// By handles, which are hashes already.
type ByHandle<T> = HashMap<u64, T, Scatter>;

/// Handles are hashes already, but anybody can make strings of chosen ones: where they lie in a table, nobody foresees.
#[derive(Clone, Copy)]
struct Scatter(u64);

impl Default for Scatter {
    fn default() -> Self {
        // Where the system put the program and when that was: no more is to be had without asking it for random numbers.
        let place = (&raw const HERE).addr() as u64;
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos() as u64);
        Self(place.rotate_left(32) ^ time)
    }
}

static HERE: u8 = 0;

impl BuildHasher for Scatter {
    type Hasher = Handle;

    fn build_hasher(&self) -> Handle {
        Handle(self.0)
    }
}

struct Handle(u64);

impl Hasher for Handle {
    fn finish(&self) -> u64 {
        let product = u128::from(self.0) * 0x9e37_79b9_7f4a_7c15;
        (product >> 64) as u64 ^ product as u64
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, handle: u64) {
        self.0 ^= handle;
    }
}

/// Those of a model's weights and constants.
#[derive(Default)]
pub struct Constants(ByHandle<&'static str>);

impl Constants {
    /// `None`: two of them cannot be told apart.
    pub fn new(texts: impl Iterator<Item = &'static str>) -> Option<Self> {
        let mut all = ByHandle::default();
        for text in texts {
            if *all.entry(text_handle(text.as_bytes())).or_insert(text) != text {
                return None;
            }
        }
        Some(Self(all))
    }
}

/// Those that a context knows.
pub struct Texts {
    constants: Arc<Constants>,
    /// Of a run, one behind the other.
    bytes: String,
    places: ByHandle<Range<usize>>,
}

impl Texts {
    pub fn new(constants: Arc<Constants>) -> Self {
        Self {
            constants,
            bytes: String::new(),
            places: ByHandle::default(),
        }
    }

    /// A run begins: nothing but constants is known.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
    }

    /// The string of a handle.
    pub fn get(&self, handle: u64) -> Option<&str> {
        if handle == 0 {
            return Some("");
        }
        match self.places.get(&handle) {
            Some(place) => Some(&self.bytes[place.clone()]),
            None => self.constants.0.get(&handle).copied(),
        }
    }

    /// The handle of a string, which is known from now on.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn enter(&mut self, text: &str) -> Result<u64, &'static str> {
        let start = self.bytes.len();
        self.reserve(text.len())?;
        self.bytes.push_str(text);
        self.finish(start)
    }

    /// The handle of strings that are known, one behind the other.
    ///
    /// # Errors
    /// As [`Texts::enter`].
    pub fn join(&mut self, handles: &[u64]) -> Result<u64, &'static str> {
        let start = self.bytes.len();
        for handle in handles {
            let place = self.places.get(handle).cloned();
            let constant = self.constants.0.get(handle).copied();
            match (place, constant) {
                (Some(place), _) => {
                    self.reserve(place.len())?;
                    self.bytes.extend_from_within(place);
                }
                (None, Some(text)) => {
                    self.reserve(text.len())?;
                    self.bytes.push_str(text);
                }
                (None, None) if *handle == 0 => {}
                (None, None) => return Err(UNKNOWN),
            }
        }
        self.finish(start)
    }

    /// The handle of a part of a string that is known.
    ///
    /// # Errors
    /// As [`Texts::enter`].
    pub fn part(&mut self, handle: u64, part: Range<usize>) -> Result<u64, &'static str> {
        let start = self.bytes.len();
        self.reserve(part.len())?;
        match (self.places.get(&handle).cloned(), self.constants.0.get(&handle)) {
            (Some(place), _) => self
                .bytes
                .extend_from_within(place.start + part.start..place.start + part.end),
            (None, Some(text)) => self.bytes.push_str(&text[part]),
            (None, None) if part.is_empty() => {}
            (None, None) => return Err(UNKNOWN),
        }
        self.finish(start)
    }

    fn reserve(&mut self, more: usize) -> Result<(), &'static str> {
        if more > MOST_BYTES - self.bytes.len().min(MOST_BYTES) {
            return Err(TOO_MANY);
        }
        self.bytes.try_reserve(more).map_err(|_| TOO_MANY)
    }

    /// What lies behind `start` is a string.
    fn finish(&mut self, start: usize) -> Result<u64, &'static str> {
        let text = &self.bytes[start..];
        let handle = text_handle(text.as_bytes());
        let known = self.get(handle).map(|known| known == text);
        if let Some(same) = known {
            self.bytes.truncate(start);
            return if same { Ok(handle) } else { Err(COLLISION) };
        }
        self.places.try_reserve(1).map_err(|_| TOO_MANY)?;
        self.places.insert(handle, start..self.bytes.len());
        Ok(handle)
    }
}

/// Kernels make no handles of their own.
const UNKNOWN: &str = "is not known: the model is damaged";

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Texts {
        let constants = Constants::new(["constant", "", "ä"].into_iter()).expect("different");
        Texts::new(Arc::new(constants))
    }

    #[test]
    fn what_is_entered_is_found() {
        let mut t = texts();
        let a = t.enter("a string").expect("new");
        assert_eq!(t.enter("a string"), Ok(a));
        assert_eq!(t.bytes.len(), 8, "equal strings are there once");
        assert_eq!(t.enter(""), Ok(0));
        let constant = t.enter("constant").expect("known");
        assert_eq!(
            (t.get(a), t.get(constant), t.get(0)),
            (Some("a string"), Some("constant"), Some(""))
        );
        assert_eq!(t.bytes.len(), 8, "constants are the model's");
        let joined = t.join(&[constant, 0, a, a]).expect("new");
        assert_eq!(t.get(joined), Some("constanta stringa string"));
        let part = t.part(joined, 5..9).expect("new");
        assert_eq!(t.get(part), Some("anta"));
        let umlaut = t.enter("ä").expect("known");
        assert_eq!(t.part(umlaut, 0..0), Ok(0));
        assert_eq!(t.join(&[12]), Err(UNKNOWN));
        t.clear();
        assert_eq!(
            (t.get(a), t.get(joined), t.get(constant)),
            (None, None, Some("constant"))
        );
    }

    #[test]
    fn one_handle_of_two_strings_is_refused() {
        let mut t = texts();
        let real = text_handle(b"victim");
        t.bytes.push_str("other");
        t.places.insert(real, 0..5);
        assert_eq!(t.enter("victim"), Err(COLLISION));
        assert_eq!(t.get(real), Some("other"));
    }
}
