//! The Mersenne Twister ("Mersenne Twister: a 623-dimensionally equidistributed uniform pseudo-random number generator",
//! Matsumoto and Nishimura 1998, MT19937 as revised in 2002) and the uniform numbers that NumPy's `RandomState` makes of it,
//! which are those of ONNX's reference evaluator: who gives a seed gets the same numbers from both.

use crate::op::OpError;
use crate::ops::composed::{concat, reshape, slice};
use crate::ops::fragment::Fragment;
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId};

/// Words of the state.
const STATE: usize = 624;

/// How far the word lies ahead that a new one is mixed with.
const AHEAD: usize = 397;

const HIGH: u32 = 0x8000_0000;
const MATRIX: u32 = 0x9908_b0df;
/// Shift to the left and mask, twice.
const TEMPERING: [(u32, u32); 2] = [(7, 0x9d2c_5680), (15, 0xefc6_0000)];

/// A number takes two words: their highest bits, of 53 in all.
const BITS: [u32; 2] = [27, 26];

/// The state that a seed begins with; of a seed, the lowest 32 bits count.
fn begin(seed: i64) -> Vec<u32> {
    let next = |(i, word): &(u32, u32)| {
        let mixed = (word ^ (word >> 30)).wrapping_mul(1_812_433_253);
        Some((i + 1, mixed.wrapping_add(i + 1)))
    };
    let words = std::iter::successors(Some((0, seed as u32)), next);
    words.map(|(_, word)| word).take(STATE).collect()
}

/// `count` uniform numbers in 0..1.
pub(crate) fn draw(seed: i64, count: usize) -> Vec<f64> {
    let (mut state, mut at) = (begin(seed), STATE);
    let mut word = || {
        if at == STATE {
            for i in 0..STATE {
                let y = state[i] & HIGH | state[(i + 1) % STATE] & !HIGH;
                let odd = if y & 1 == 1 { MATRIX } else { 0 };
                state[i] = state[(i + AHEAD) % STATE] ^ (y >> 1) ^ odd;
            }
            at = 0;
        }
        let mut y = state[at];
        at += 1;
        y ^= y >> 11;
        for (shift, mask) in TEMPERING {
            y ^= (y << shift) & mask;
        }
        y ^ (y >> 18)
    };
    let mut number = || {
        let [high, low] = BITS.map(|bits| f64::from(word() >> (32 - bits)));
        (high * 2f64.powi(26) + low) / 2f64.powi(53)
    };
    (0..count).map(|_| number()).collect()
}

/// [`draw`] in a fragment, as a tensor of that shape: a loop that makes the next state of the whole last one. A word needs
/// words that lie `STATE - AHEAD` before it, so that as many are made at once.
pub(crate) fn uniform(g: &mut Fragment, seed: i64, shape: &[Dim]) -> Result<ValueId, OpError> {
    let (words, per_state) = (Fact::new(DType::U32, vec![Dim::from(STATE)]), STATE / BITS.len());
    let count = Dim::product(shape);
    let states = count.ceil_div(&Dim::from(per_state));
    let mut step = Fragment::empty("twister");
    let old = step.operand(words);
    let part =
        |g: &mut Fragment, x: ValueId, start: usize, end: usize| slice(g, x, 0, Dim::from(start), Dim::from(end));
    let made = STATE - AHEAD;
    let first = {
        let [a, b, c] = [(0, made), (1, made + 1), (AHEAD, STATE)].map(|(start, end)| part(&mut step, old, start, end));
        twist(&mut step, a?, b?, c?)?
    };
    let second = {
        let [a, b] = [0, 1].map(|by| part(&mut step, old, made + by, 2 * made + by));
        twist(&mut step, a?, b?, first)?
    };
    let rest = STATE - 1 - 2 * made;
    let third = {
        let [a, b] = [0, 1].map(|by| part(&mut step, old, 2 * made + by, STATE - 1 + by));
        let c = part(&mut step, second, 0, rest)?;
        twist(&mut step, a?, b?, c)?
    };
    let last = {
        let a = part(&mut step, old, STATE - 1, STATE)?;
        let b = part(&mut step, first, 0, 1)?;
        let c = part(&mut step, second, rest, rest + 1)?;
        twist(&mut step, a, b, c)?
    };
    let new = concat(&mut step, &[first, second, third, last], 0)?;
    let mut y = new;
    y = mixed(&mut step, y, "RIGHT", 11, u32::MAX)?;
    for (shift, mask) in TEMPERING {
        y = mixed(&mut step, y, "LEFT", shift, mask)?;
    }
    y = mixed(&mut step, y, "RIGHT", 18, u32::MAX)?;
    let begin = begin(seed).into_iter().map(i64::from);
    let begin = g.constant(Tensor::from_i64(DType::U32, &[STATE], begin));
    let drawn = g.scan(step, &[new, y], [1, 0], &states, &[begin])?[1];
    let pairs = states * Dim::from(per_state);
    let drawn = reshape(g, drawn, vec![pairs, Dim::from(BITS.len())])?;
    let drawn = slice(g, drawn, 0, Dim::ZERO, count.clone())?;
    let mut parts = vec![];
    for (i, bits) in BITS.into_iter().enumerate() {
        let x = slice(g, drawn, 1, Dim::from(i), Dim::from(i + 1))?;
        let x = reshape(g, x, shape.to_vec())?;
        let x = shifted(g, x, "RIGHT", 32 - bits)?;
        parts.push(g.cast(x, DType::F64)?);
    }
    let scale = g.number(parts[0], 2f64.powi(26));
    let y = g.binary("Mul", parts[0], scale)?;
    let y = g.binary("Add", y, parts[1])?;
    let scale = g.number(y, 2f64.powi(-53));
    g.binary("Mul", y, scale)
}

fn word(g: &mut Fragment, x: u32) -> ValueId {
    g.constant(Tensor::from_i64(DType::U32, &[], [i64::from(x)]))
}

fn shifted(g: &mut Fragment, x: ValueId, direction: &str, by: u32) -> Result<ValueId, OpError> {
    let by = word(g, by);
    g.apply("BitShift", &[("direction", Attr::Str(direction.into()))], &[x, by])
}

/// `x ^ (shifted x & mask)`
fn mixed(g: &mut Fragment, x: ValueId, direction: &str, by: u32, mask: u32) -> Result<ValueId, OpError> {
    let (y, mask) = (shifted(g, x, direction, by)?, word(g, mask));
    let y = g.binary("BitwiseAnd", y, mask)?;
    g.binary("BitwiseXor", x, y)
}

/// New words, of old ones, of those one behind and of those that lie ahead.
fn twist(g: &mut Fragment, old: ValueId, next: ValueId, ahead: ValueId) -> Result<ValueId, OpError> {
    let [high, low, one, matrix] = [HIGH, !HIGH, 1, MATRIX].map(|x| word(g, x));
    let (a, b) = (g.binary("BitwiseAnd", old, high)?, g.binary("BitwiseAnd", next, low)?);
    let y = g.binary("BitwiseOr", a, b)?;
    let odd = g.binary("BitwiseAnd", y, one)?;
    let odd = g.binary("Mul", odd, matrix)?;
    let y = shifted(g, y, "RIGHT", 1)?;
    let y = g.binary("BitwiseXor", ahead, y)?;
    g.binary("BitwiseXor", y, odd)
}

#[cfg(test)]
mod tests {
    use super::{begin, draw};

    /// What `numpy.random.RandomState(seed).random_sample` gives.
    #[test]
    fn numbers_are_those_of_numpy() {
        assert_eq!(begin(5489)[..2], [5489, 1_301_868_182]);
        assert_eq!(
            draw(0, 3),
            [
                0.548_813_503_927_324_8,
                0.715_189_366_372_419_5,
                0.602_763_376_071_643_9
            ]
        );
        let many = draw(4_294_967_295, 2000);
        assert_eq!(
            (many[0], many[1999]),
            (0.097_632_028_994_013_8, 0.179_470_301_693_912_98)
        );
    }
}
