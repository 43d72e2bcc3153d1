//! Numbers that follow from integers of inputs by arithmetic of floats: how often a loop runs is often a rounded quotient.
//!
//! Law: rounding is that of exact numbers. A quotient of whole numbers below 2^24 is rounded to the same side in `f32`, as the
//! nearest whole number is further away than two neighbours of `f32` are; of a quotient nothing else is computed.

use cameo_ir::{DType, Dim, Graph, ValueId};

/// Nodes on the way from the inputs.
const MAX_DEPTH: usize = 32;

/// The whole number that a value of one element is, or whether it is not zero where it is a bool.
pub(crate) fn whole(g: &Graph, v: ValueId) -> Option<Dim> {
    let (number, by) = quotient(g, v, MAX_DEPTH)?;
    by.is_one().then_some(number)
}

/// 1 where the number is not 0.
pub(crate) fn nonzero(number: &Dim) -> Dim {
    number.maximum(&-number.clone()).minimum(&Dim::ONE)
}

/// A value of one element as a fraction; what it is divided by is positive.
fn quotient(g: &Graph, v: ValueId, depth: usize) -> Option<(Dim, Dim)> {
    let fact = g.fact(v);
    if depth == 0 || !fact.element_count().is_one() {
        return None;
    }
    if let (false, Some([d])) = (fact.dtype.is_float(), fact.known.as_deref()) {
        return Some((d.clone(), Dim::ONE));
    }
    if let Some(t) = g.constant(v) {
        let x = t.scalar_f64()?;
        return (x.fract() == 0.0 && x.abs() < 9e15).then(|| (Dim::from(x as i64), Dim::ONE));
    }
    let (n, _) = g.producer(v)?;
    let node = g.node(n);
    let operand = |i: usize| quotient(g, node.inputs.get(i).copied().flatten()?, depth - 1);
    let (a, by) = operand(0)?;
    match node.op.name() {
        "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" => Some((a, by)),
        // Of a fraction an integer is cut off, which depends on its sign; few other types have all numbers.
        "Cast" | "CastLike" => match fact.dtype {
            DType::F32 | DType::F64 => Some((a, by)),
            DType::I64 if by.is_one() => Some((a, by)),
            DType::Bool if by.is_one() => Some((nonzero(&a), by)),
            _ => None,
        },
        "Ceil" => Some((a.ceil_div(&by), Dim::ONE)),
        "Floor" => Some((a.floor_div(&by), Dim::ONE)),
        "Relu" => Some((a.maximum(&Dim::ZERO), by)),
        "Add" | "Sub" | "Mul" | "Div" => {
            let (b, other) = operand(1)?;
            // A quotient is rounded before anything else is made of it.
            if !by.is_one() || !other.is_one() {
                return None;
            }
            match node.op.name() {
                "Add" => Some((a * other.clone() + b * by.clone(), by * other)),
                "Sub" => Some((a * other.clone() - b * by.clone(), by * other)),
                "Mul" => Some((a * b, by * other)),
                _ if !fact.dtype.is_float() => None,
                _ => divided((a, by), (b, other)),
            }
        }
        _ => None,
    }
}

/// The sign of what is divided by is only known to a run: it goes above.
fn divided((a, by): (Dim, Dim), (b, other): (Dim, Dim)) -> Option<(Dim, Dim)> {
    let (sign, size) = match b.as_const() {
        Some(0) => return None,
        Some(c) => (Dim::from(c.signum()), Dim::from(c.checked_abs()?)),
        None => {
            let below = (-b.clone()).maximum(&Dim::ZERO).minimum(&Dim::ONE);
            let size = b.maximum(&-b.clone()).maximum(&Dim::ONE);
            (Dim::ONE - below * Dim::from(2i64), size)
        }
    };
    Some((a * other * sign, by * size))
}
