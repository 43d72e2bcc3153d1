//! The order of a run: steps one after the other, those of a loop once per iteration.
//!
//! Each thread of a team walks on its own, so a cursor is plain numbers and reads nothing that a run changes.

use cameo_abi::{LOOP_DEPTH, Loop};

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// This step is to be done.
    Step(usize),
    /// The buffers of this loop move on, after its iteration of this number.
    Advance(usize, i64),
    /// They go back to where they were, from the iteration of this number, the last one.
    Rewind(usize, i64),
}

/// A walk over the steps `at..end`, neither of them inside of a loop.
pub struct Cursor<'a> {
    loops: &'a [Loop],
    dims: &'a [i64],
    at: usize,
    end: usize,
    /// The next loop that may begin: those before it begin earlier, or are under way.
    next: usize,
    /// Loops under way with their iterations, outermost first.
    open: [(usize, i64); LOOP_DEPTH],
    depth: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(loops: &'a [Loop], dims: &'a [i64], at: usize, end: usize) -> Self {
        Self {
            loops,
            dims,
            at,
            end,
            next: loops.iter().take_while(|l| (l.first_step as usize) < at).count(),
            open: [(0, 0); LOOP_DEPTH],
            depth: 0,
        }
    }

    fn end_of(&self, index: usize) -> usize {
        self.loops[index].first_step as usize + self.loops[index].step_count as usize
    }

    /// What comes at the end of the innermost loop.
    fn close(&mut self) -> Option<Event> {
        let (index, iteration) = self.open[self.depth - 1];
        if iteration + 1 < self.iterations(index) {
            self.open[self.depth - 1].1 = iteration + 1;
            self.at = self.loops[index].first_step as usize;
            self.next = index + 1;
            return Some(Event::Advance(index, iteration));
        }
        self.depth -= 1;
        Some(Event::Rewind(index, iteration))
    }

    fn iterations(&self, index: usize) -> i64 {
        self.dims[self.loops[index].count as usize]
    }
}

impl Iterator for Cursor<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.depth > 0 && self.at == self.end_of(self.open[self.depth - 1].0) {
            return self.close();
        }
        while let Some(l) = self.loops.get(self.next)
            && l.first_step as usize == self.at
            && self.at < self.end
        {
            if self.iterations(self.next) > 0 && self.depth < LOOP_DEPTH {
                self.open[self.depth] = (self.next, 0);
                self.depth += 1;
                self.next += 1;
                continue;
            }
            // Nothing of a loop without iterations is done, loops inside of it included.
            self.at = self.end_of(self.next);
            while self
                .loops
                .get(self.next)
                .is_some_and(|l| (l.first_step as usize) < self.at)
            {
                self.next += 1;
            }
            // The loop around it may end there too.
            if self.depth > 0 && self.at == self.end_of(self.open[self.depth - 1].0) {
                return self.close();
            }
        }
        if self.at >= self.end {
            return None;
        }
        self.at += 1;
        Some(Event::Step(self.at - 1))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec::Vec;

    fn looped(first_step: u32, step_count: u32, count: u32) -> Loop {
        Loop {
            first_step,
            step_count,
            count,
            first_move: 0,
            move_count: 0,
            reserved: 0,
        }
    }

    fn steps(loops: &[Loop], dims: &[i64], at: usize, end: usize) -> Vec<usize> {
        let step = |event| match event {
            Event::Step(s) => Some(s),
            _ => None,
        };
        Cursor::new(loops, dims, at, end).filter_map(step).collect()
    }

    #[test]
    fn loops_repeat_their_steps() {
        assert_eq!(steps(&[], &[], 0, 3), [0, 1, 2]);
        let one = [looped(1, 2, 0)];
        assert_eq!(steps(&one, &[2], 0, 4), [0, 1, 2, 1, 2, 3]);
        assert_eq!(steps(&one, &[0], 0, 4), [0, 3]);
        assert_eq!(steps(&one, &[2], 3, 4), [3]);
        assert_eq!(steps(&one, &[3], 1, 3), [1, 2, 1, 2, 1, 2]);
        // An inner loop that begins with the outer one, and one after it.
        let two = [looped(0, 3, 0), looped(0, 1, 1), looped(3, 1, 1)];
        assert_eq!(steps(&two, &[2, 2], 0, 5), [0, 0, 1, 2, 0, 0, 1, 2, 3, 3, 4]);
        assert_eq!(steps(&two, &[2, 0], 0, 5), [1, 2, 1, 2, 4]);
        assert_eq!(steps(&two, &[0, 2], 0, 5), [3, 3, 4]);
        // One without iterations at the end of the outer one.
        let last = [looped(0, 2, 0), looped(1, 1, 1)];
        assert_eq!(steps(&last, &[3, 0], 0, 3), [0, 0, 0, 2]);
    }

    #[test]
    fn moves_come_between_iterations_and_after_the_last() {
        let all: Vec<Event> = Cursor::new(&[looped(0, 1, 0)], &[2], 0, 1).collect();
        let expected = [
            Event::Step(0),
            Event::Advance(0, 0),
            Event::Step(0),
            Event::Rewind(0, 1),
        ];
        assert_eq!(all, expected);
    }
}
