//! Where batch and sequence are in the axes of a padded tensor.

use cameo_ir::{Dim, ValueId};

/// A factor of an axis' extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Atom {
    Batch,
    Sequence,
    Plain(Dim),
}

/// By axis its factors, outermost first; those of extent 1 are left out.
pub type Layout = Vec<Vec<Atom>>;

/// The packed form of a padded value: `[T]`, then each axis that is not batch or sequence alone, without these factors.
#[derive(Clone, Debug)]
pub struct Twin {
    pub value: ValueId,
    pub layout: Layout,
    /// Whether products were made packed on the way: then nothing should read the padded value.
    pub heavy: bool,
}

/// A layout of one plain factor per axis.
pub fn plain(shape: &[Dim]) -> Layout {
    let one = |d: &Dim| {
        if d.is_one() {
            vec![]
        } else {
            vec![Atom::Plain(d.clone())]
        }
    };
    shape.iter().map(one).collect()
}

/// Whether an axis is batch, sequence or both, and nothing else.
pub fn is_tokens(axis: &[Atom]) -> bool {
    !axis.is_empty() && !axis.iter().any(|a| matches!(a, Atom::Plain(_)))
}

/// Whether an axis has neither batch nor sequence in it.
pub fn is_plain(axis: &[Atom]) -> bool {
    axis.iter().all(|a| matches!(a, Atom::Plain(_)))
}

/// Whether no axis mixes tokens with something else.
pub fn is_pure(layout: &Layout) -> bool {
    layout.iter().all(|axis| is_tokens(axis) || is_plain(axis))
}

/// The plain extent of an axis.
fn extent(axis: &[Atom]) -> Dim {
    axis.iter().fold(Dim::ONE, |n, a| match a {
        Atom::Plain(d) => n * d.clone(),
        _ => n,
    })
}

/// The axes of the packed form after `T`.
pub fn rest(layout: &Layout) -> Vec<Dim> {
    layout.iter().filter(|a| !is_tokens(a)).map(|a| extent(a)).collect()
}

/// The axis of the packed form that a plain axis becomes.
pub fn packed_axis(layout: &Layout, axis: usize) -> usize {
    1 + layout[..axis].iter().filter(|a| !is_tokens(a)).count()
}

/// The layout after a reshape to `shape`; `None` where axes are cut in the middle of batch or sequence.
pub fn reshaped(layout: &Layout, shape: &[Dim], batch: &Dim, length: &Dim) -> Option<Layout> {
    let of = |a: &Atom| match a {
        Atom::Batch => batch.clone(),
        Atom::Sequence => length.clone(),
        Atom::Plain(d) => d.clone(),
    };
    let mut atoms: Vec<Atom> = layout.iter().flatten().cloned().rev().collect();
    let mut out = vec![];
    for wanted in shape {
        let (mut axis, mut left) = (vec![], wanted.clone());
        while !left.is_one() {
            let next = atoms.pop()?;
            let n = of(&next);
            if let Some(after) = left.div_exact(&n) {
                left = after;
                axis.push(next);
            } else if let (Atom::Plain(n), Some(parts)) = (&next, n.div_exact(&left)) {
                // The axis takes the outer part of a factor.
                axis.push(Atom::Plain(left.clone()));
                debug_assert!(!n.is_one());
                atoms.push(Atom::Plain(parts));
                left = Dim::ONE;
            } else {
                return None;
            }
        }
        out.push(axis);
    }
    atoms.is_empty().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshapes_cut_and_join_factors() {
        let (b, s) = (Dim::sym("B"), Dim::sym("S"));
        let n = |n: i64| Dim::from(n);
        let p = |x: i64| Atom::Plain(n(x));
        let start: Layout = vec![vec![Atom::Batch], vec![Atom::Sequence], vec![p(96)]];
        let to = |l: &Layout, shape: &[Dim]| reshaped(l, shape, &b, &s);
        let heads = to(&start, &[b.clone(), s.clone(), n(12), n(8)]).expect("heads");
        assert_eq!(
            heads,
            [vec![Atom::Batch], vec![Atom::Sequence], vec![p(12)], vec![p(8)]]
        );
        let turned: Layout = [0, 2, 1, 3].iter().map(|a| heads[*a].clone()).collect();
        let merged = to(&turned, &[b.clone() * n(12), s.clone(), n(8)]).expect("joins");
        assert_eq!(merged[0], [Atom::Batch, p(12)]);
        assert!(!is_pure(&merged) && is_pure(&turned));
        assert_eq!(rest(&merged), [n(12), n(8)]);
        let back = to(&merged, &[b.clone(), n(12), s.clone(), n(1), n(8)]).expect("cuts");
        assert_eq!(back[3], []);
        assert_eq!(packed_axis(&back, 4), 3);
        let rows = to(&start, &[b.clone() * s.clone(), n(96)]).expect("rows");
        assert_eq!(rows[0], [Atom::Batch, Atom::Sequence]);
        assert_eq!(to(&start, &[b.clone() * n(96), s.clone()]), None);
        assert_eq!(to(&turned, &[b.clone() * s.clone(), n(96)]), None);
    }
}
