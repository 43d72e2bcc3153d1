//! Who does which share of which step: threads take them as they come.
//!
//! Steps with several shares are turns. Each thread begins with its own part of the shares, so that it finds in its caches
//! what it wrote the step before, and goes on with what others have not taken: a thread that the system has put aside holds up
//! nobody unless it is in the middle of a share. The last to finish a share does what is not shared and opens the next turn.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Shares are taken in at most so many parts; with more, each part is every 32nd of them.
pub const LANES: u32 = 32;

/// The turn, and what of it has been taken.
#[derive(Default)]
pub struct Turns {
    /// Number of the turn in the high half, a bit for each part that is taken in the low half.
    ticket: AtomicU64,
    /// Parts of the turn that are finished.
    done: AtomicU32,
}

impl Turns {
    /// A part of this turn for the calling thread alone, the first free one from `preferred` on; `None` when all are taken.
    pub fn take(&self, turn: u32, parts: u32, preferred: u32) -> Option<u32> {
        let all = u32::MAX >> (LANES - parts);
        let mut ticket = self.ticket.load(Ordering::Acquire);
        loop {
            let free = all & !(ticket as u32);
            if (ticket >> 32) as u32 != turn || free == 0 {
                return None;
            }
            let ahead = free & u32::MAX << preferred;
            let part = if ahead == 0 { free } else { ahead }.trailing_zeros();
            match self
                .ticket
                .compare_exchange_weak(ticket, ticket | 1 << part, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some(part),
                Err(now) => ticket = now,
            }
        }
    }

    /// The turn that is open, or is about to be over.
    pub fn now(&self) -> u32 {
        (self.ticket.load(Ordering::Acquire) >> 32) as u32
    }

    /// A part that was taken is done; `true` when it was the last one: then whoever did it opens the next turn.
    pub fn finish(&self, parts: u32) -> bool {
        self.done.fetch_add(1, Ordering::AcqRel) + 1 == parts
    }

    /// Opens the turn behind this one, of which all parts are done.
    pub fn open_next(&self, turn: u32) {
        // Nobody has a part until the ticket changes.
        self.done.store(0, Ordering::Relaxed);
        self.ticket
            .store(u64::from(turn.wrapping_add(1)) << 32, Ordering::Release);
    }

    /// Whether all parts of the turn are done.
    pub fn passed(&self, turn: u32) -> bool {
        self.now() != turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_taken_once_and_the_last_one_opens_the_next_turn() {
        let turns = Turns::default();
        assert_eq!(turns.take(0, 3, 1), Some(1));
        assert_eq!(turns.take(0, 3, 1), Some(2));
        assert!(!turns.finish(3));
        assert_eq!(turns.take(0, 3, 2), Some(0));
        assert_eq!(turns.take(0, 3, 0), None);
        assert!(!turns.finish(3));
        assert!(turns.finish(3));
        assert!(!turns.passed(0));
        turns.open_next(0);
        assert!(turns.passed(0) && turns.now() == 1);
        // Who comes late finds nothing to do.
        assert_eq!(turns.take(0, 3, 2), None);
        assert_eq!(turns.take(1, LANES, LANES - 1), Some(LANES - 1));
    }
}
