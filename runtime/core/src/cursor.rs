//! The order of a run: steps one after the other, those of a loop once per iteration.
//!
//! What a run changes of what the order follows from is how often a loop runs: that may follow from a count before the loop, or
//! from one behind each of its iterations. So a cursor goes no further than to a count before that has happened. A count at a
//! loop's first step is from before the loop, unless each of its iterations begins with it.

use core::cell::Cell;

use cameo_abi::{Count, LOOP_DEPTH, Loop};

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// This step is to be done.
    Step(usize),
    /// The buffers of this loop move on, after its iteration of this number.
    Advance(usize, i64),
    /// They go back to where they were, from the iteration of this number, the last one.
    Rewind(usize, i64),
    /// The symbol of this count is to be read.
    Count(usize),
}

/// What the order follows from.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    pub loops: &'a [Loop],
    /// How often each loop runs.
    pub iterations: &'a [Cell<i64>],
    pub counts: &'a [Count],
    /// Number of steps.
    pub steps: usize,
}

/// A walk over the steps `at..end`, neither of them inside of a loop.
pub struct Cursor<'a> {
    order: Order<'a>,
    at: usize,
    end: usize,
    /// The next count that may come.
    count: usize,
    /// One more than the count that an iteration begins with, when it has just begun.
    rows: usize,
    /// The count behind the iteration that ends has come.
    counted: bool,
    /// The next loop that may begin: those before it begin earlier, or are under way.
    next: usize,
    /// Loops under way with their iterations, outermost first.
    open: [(usize, i64); LOOP_DEPTH],
    depth: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(order: Order<'a>, at: usize, end: usize) -> Self {
        Self {
            order,
            at,
            end,
            count: first_count(order.counts, at),
            rows: 0,
            counted: false,
            next: order.loops.iter().take_while(|l| (l.first_step as usize) < at).count(),
            open: [(0, 0); LOOP_DEPTH],
            depth: 0,
        }
    }

    fn end_of(&self, index: usize) -> usize {
        let l = &self.order.loops[index];
        l.first_step as usize + l.step_count as usize
    }

    /// What comes at the end of the innermost loop.
    fn close(&mut self) -> Option<Event> {
        let (index, iteration) = self.open[self.depth - 1];
        let again = (self.order.loops[index].again as usize).checked_sub(1);
        self.counted = !self.counted && again.is_some();
        if let (true, Some(count)) = (self.counted, again) {
            return Some(Event::Count(count));
        }
        if iteration + 1 < self.iterations(index) {
            self.open[self.depth - 1].1 = iteration + 1;
            let first = self.order.loops[index].first_step;
            self.at = first as usize;
            self.count = self.order.counts.partition_point(|c| c.step <= first);
            self.next = index + 1;
            self.rows = self.order.loops[index].rows as usize;
            return Some(Event::Advance(index, iteration));
        }
        self.depth -= 1;
        Some(Event::Rewind(index, iteration))
    }

    fn iterations(&self, index: usize) -> i64 {
        self.order.iterations[index].get()
    }
}

impl Iterator for Cursor<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let loops = self.order.loops;
        loop {
            if let Some(count) = core::mem::take(&mut self.rows).checked_sub(1) {
                return Some(Event::Count(count));
            }
            if self.depth > 0 && self.at == self.end_of(self.open[self.depth - 1].0) {
                return self.close();
            }
            if let Some(c) = self.order.counts.get(self.count)
                && c.step as usize == self.at
                && (self.at < self.end || self.at == self.order.steps)
            {
                self.count += 1;
                if loops.iter().any(|l| l.rows as usize == self.count) {
                    continue;
                }
                return Some(Event::Count(self.count - 1));
            }
            let begins = |l: &Loop| l.first_step as usize == self.at && self.at < self.end;
            if !loops.get(self.next).is_some_and(begins) {
                break;
            }
            if self.iterations(self.next) > 0 && self.depth < LOOP_DEPTH {
                self.open[self.depth] = (self.next, 0);
                self.depth += 1;
                self.rows = loops[self.next].rows as usize;
                self.next += 1;
                continue;
            }
            // Nothing of a loop without iterations is done, loops inside of it included.
            self.at = self.end_of(self.next);
            self.count = first_count(self.order.counts, self.at);
            while loops.get(self.next).is_some_and(|l| (l.first_step as usize) < self.at) {
                self.next += 1;
            }
        }
        if self.at >= self.end {
            return None;
        }
        self.at += 1;
        Some(Event::Step(self.at - 1))
    }
}

/// The first count at this step or behind it.
fn first_count(counts: &[Count], step: usize) -> usize {
    counts.partition_point(|c| (c.step as usize) < step)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn looped(first_step: u32, step_count: u32, count: u32) -> Loop {
        Loop {
            first_step,
            step_count,
            count,
            first_move: 0,
            move_count: 0,
            rows: 0,
            again: 0,
        }
    }

    /// `dims` has the iterations of all loops by `count`.
    fn events(loops: &[Loop], counts: &[Count], dims: &[i64], at: usize, end: usize) -> Vec<Event> {
        let iterations: Vec<Cell<i64>> = loops.iter().map(|l| Cell::new(dims[l.count as usize])).collect();
        let order = Order {
            loops,
            iterations: &iterations,
            counts,
            steps: end,
        };
        Cursor::new(order, at, end).collect()
    }

    fn steps(loops: &[Loop], dims: &[i64], at: usize, end: usize) -> Vec<usize> {
        let step = |event| match event {
            Event::Step(s) => Some(s),
            _ => None,
        };
        events(loops, &[], dims, at, end).into_iter().filter_map(step).collect()
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
        let all = events(&[looped(0, 1, 0)], &[], &[2], 0, 1);
        let expected = [
            Event::Step(0),
            Event::Advance(0, 0),
            Event::Step(0),
            Event::Rewind(0, 1),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn a_loop_may_count_itself_behind_each_iteration() {
        let count = |step| Count {
            step,
            symbol: 0,
            buffer: 0,
            most: 0,
        };
        let again = Loop {
            again: 1,
            ..looped(1, 1, 0)
        };
        let (counts, iterations) = ([count(1), count(2)], [Cell::new(9)]);
        let order = Order {
            loops: &[again],
            iterations: &iterations,
            counts: &counts,
            steps: 3,
        };
        let mut seen = vec![];
        for event in Cursor::new(order, 0, 3) {
            let turns = seen.iter().filter(|e| **e == Event::Step(1)).count() as i64;
            if event == Event::Count(0) {
                // One more each time, up to 2.
                iterations[0].set((turns + 1).min(2));
            }
            seen.push(event);
        }
        let expected = [
            Event::Step(0),
            Event::Count(0),
            Event::Step(1),
            Event::Count(0),
            Event::Advance(0, 0),
            Event::Step(1),
            Event::Count(0),
            Event::Rewind(0, 1),
            Event::Count(1),
            Event::Step(2),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn counts_come_before_their_step_and_the_loops_that_begin_there() {
        let counts = [0, 1, 2, 3].map(|step| Count {
            step,
            symbol: 0,
            buffer: 0,
            most: 0,
        });
        let all = events(&[looped(1, 1, 0)], &counts, &[2], 0, 3);
        let expected = [
            Event::Count(0),
            Event::Step(0),
            Event::Count(1),
            Event::Step(1),
            Event::Advance(0, 0),
            Event::Step(1),
            Event::Rewind(0, 1),
            Event::Count(2),
            Event::Step(2),
            Event::Count(3),
        ];
        assert_eq!(all, expected);
        // Nothing of a loop that does not run.
        let all = events(&[looped(1, 1, 0)], &counts[1..], &[0], 0, 3);
        let counted = [Event::Step(0), Event::Count(0), Event::Count(1)];
        assert_eq!(all, [&counted[..], &[Event::Step(2), Event::Count(2)]].concat());
        // What iterations begin with comes in each of them, and not where there are none.
        let rows = Loop {
            rows: 1,
            ..looped(1, 1, 0)
        };
        let all = events(&[rows], &counts[1..2], &[2], 0, 2);
        let expected = [
            Event::Step(0),
            Event::Count(0),
            Event::Step(1),
            Event::Advance(0, 0),
            Event::Count(0),
            Event::Step(1),
            Event::Rewind(0, 1),
        ];
        assert_eq!(all, expected);
        assert_eq!(events(&[rows], &counts[1..2], &[0], 0, 2), [Event::Step(0)]);
        // One inside comes every time.
        let all = events(&[looped(0, 2, 0)], &counts[1..2], &[2], 0, 2);
        assert_eq!(all.iter().filter(|e| **e == Event::Count(0)).count(), 2);
        // A loop that runs as often as a count before it says.
        let iterations = [Cell::new(5)];
        let order = Order {
            loops: &[looped(1, 1, 0)],
            iterations: &iterations,
            counts: &counts[1..2],
            steps: 2,
        };
        let mut walk = Cursor::new(order, 0, 2);
        assert_eq!(
            [walk.next(), walk.next()],
            [Some(Event::Step(0)), Some(Event::Count(0))]
        );
        iterations[0].set(0);
        assert_eq!(walk.next(), None);
        // A walk that goes on elsewhere leaves the count there to it.
        let order = Order {
            loops: &[],
            iterations: &[],
            counts: &counts,
            steps: 3,
        };
        let first: Vec<Event> = Cursor::new(order, 0, 1).collect();
        assert_eq!(first, [Event::Count(0), Event::Step(0)]);
        let rest: Vec<Event> = Cursor::new(order, 1, 2).collect();
        assert_eq!(rest, [Event::Count(1), Event::Step(1)]);
    }
}
