//! Which elements of an axis stay.

use std::fmt;
use std::sync::Arc;

use cameo_ir::Dim;

/// Elements of one axis: those at `(o * kept.len() + i) * inner + j` for every `o < outer`, `j < inner` and `i` that is kept.
///
/// Canonical: a number among `outer` and `inner` is written out in `kept`, so that both are 1 for axes of known extent.
#[derive(Clone, PartialEq, Eq)]
pub struct Set {
    outer: Dim,
    kept: Arc<[bool]>,
    inner: Dim,
}

/// Longest axis that is written out: vocabularies have some hundred thousand entries.
const LENGTH_MAX: usize = 1 << 22;

/// An extent and what is kept of it; `None` is everything.
pub type Factor<'a> = (Dim, Option<&'a Set>);

impl Set {
    pub fn new(kept: impl Into<Arc<[bool]>>) -> Self {
        Self {
            outer: Dim::ONE,
            kept: kept.into(),
            inner: Dim::ONE,
        }
    }

    /// The first `k` of `n`.
    pub fn first(k: usize, n: usize) -> Self {
        Self::new((0..n).map(|i| i < k).collect::<Vec<_>>())
    }

    /// What is kept of an axis of known extent.
    pub fn kept(&self) -> Option<&[bool]> {
        (self.outer.is_one() && self.inner.is_one()).then_some(&*self.kept)
    }

    /// Number of elements in each run of `kept.len()`.
    pub fn count(&self) -> usize {
        self.kept.iter().filter(|k| **k).count()
    }

    /// Number of elements that each run had.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    pub fn is_full(&self) -> bool {
        self.kept.iter().all(|k| *k)
    }

    /// The extent that is left.
    pub fn extent(&self) -> Dim {
        self.outer.clone() * Dim::from(self.count()) * self.inner.clone()
    }

    /// What both keep (`all`), or either; `None` when they are runs of different lengths.
    pub fn combined(&self, other: &Self, all: bool) -> Option<Self> {
        let same = self.outer == other.outer && self.inner == other.inner && self.kept.len() == other.kept.len();
        let pair = self.kept.iter().zip(other.kept.iter());
        same.then(|| Self {
            outer: self.outer.clone(),
            kept: pair.map(|(a, b)| if all { *a && *b } else { *a || *b }).collect(),
            inner: self.inner.clone(),
        })
    }

    /// Writes numbers out; `None` when that is too long.
    fn canonical(outer: &Dim, kept: &[bool], inner: &Dim) -> Option<Self> {
        let number = |d: &Dim| d.as_const().map_or(Some(1), |n| usize::try_from(n).ok());
        let (copies, each) = (number(outer)?, number(inner)?);
        let n = copies.checked_mul(kept.len())?.checked_mul(each)?;
        if n > LENGTH_MAX {
            return None;
        }
        let one = kept.iter().flat_map(|k| std::iter::repeat_n(*k, each));
        let all = (0..copies).flat_map(|_| one.clone()).collect();
        let symbolic = |d: &Dim| if d.as_const().is_some() { Dim::ONE } else { d.clone() };
        Some(Self {
            outer: symbolic(outer),
            kept: all,
            inner: symbolic(inner),
        })
    }

    /// What is kept of an axis that is the row-major product of factors; `Err` when no set can say it.
    pub fn merged(factors: &[Factor]) -> Result<Option<Self>, Mixed> {
        let cut = |f: &Factor| f.1.is_some();
        let (Some(i), Some(j)) = (factors.iter().position(cut), factors.iter().rposition(cut)) else {
            return Ok(None);
        };
        let number = |d: &Dim| d.as_const().and_then(|n| usize::try_from(n).ok()).ok_or(Mixed);
        let Some(mut set) = factors[i].1.cloned() else {
            return Ok(None);
        };
        for (extent, right) in &factors[i + 1..=j] {
            let all: Arc<[bool]> = match right {
                Some(r) if r.outer.is_one() => r.kept.clone(),
                Some(_) => return Err(Mixed),
                None => vec![true; number(extent)?].into(),
            };
            let n = set.kept.len().checked_mul(all.len()).ok_or(Mixed)?;
            if !set.inner.is_one() || n > LENGTH_MAX {
                return Err(Mixed);
            }
            set.kept = set
                .kept
                .iter()
                .flat_map(|a| all.iter().map(move |b| *a && *b))
                .collect();
            set.inner = right.map_or(Dim::ONE, |r| r.inner.clone());
        }
        let before = Dim::product(factors[..i].iter().map(|f| &f.0));
        let after = Dim::product(factors[j + 1..].iter().map(|f| &f.0));
        Self::canonical(&(before * set.outer), &set.kept, &(set.inner * after))
            .ok_or(Mixed)
            .map(Some)
    }

    /// What is kept of the factors whose product the axis is: the fewest elements of each so that all of the set is among
    /// their products, and whether these are just the set.
    pub fn split(&self, extents: &[Dim]) -> Result<(Vec<Option<Self>>, bool), Mixed> {
        // The factors that the runs are made of lie between those that are `outer` and those that are `inner`.
        let fits = |i: usize, j: usize| {
            Dim::product(&extents[..i]) == self.outer
                && Dim::product(&extents[j..]) == self.inner
                && Dim::product(&extents[i..j]).as_const() == i64::try_from(self.kept.len()).ok()
        };
        let n = extents.len();
        // All of the set may also be in one factor that has symbols itself.
        let whole = (0..n).find_map(|i| {
            let outer = self.outer.div_exact(&Dim::product(&extents[..i]))?;
            let inner = self.inner.div_exact(&Dim::product(&extents[i + 1..]))?;
            let symbolic = outer.as_const().is_none() || inner.as_const().is_none();
            let fits = outer.clone() * Dim::from(self.kept.len()) * inner.clone() == extents[i];
            let kept = self.kept.clone();
            (symbolic && fits).then_some((i, Self { outer, kept, inner }))
        });
        if let Some((i, set)) = whole {
            let mut out = vec![None; n];
            out[i] = Some(set);
            return Ok((out, true));
        }
        let found = (0..=n)
            .flat_map(|i| (i..=n).map(move |j| (i, j)))
            .find(|(i, j)| fits(*i, *j));
        let (i, j) = found.ok_or(Mixed)?;
        let numbers: Option<Vec<usize>> = extents[i..j]
            .iter()
            .map(|d| d.as_const().and_then(|n| usize::try_from(n).ok()))
            .collect();
        let numbers = numbers.ok_or(Mixed)?;
        let mut hull: Vec<Vec<bool>> = numbers.iter().map(|n| vec![false; *n]).collect();
        for (mut at, _) in self.kept.iter().enumerate().filter(|(_, k)| **k) {
            for (h, n) in hull.iter_mut().zip(&numbers).rev() {
                h[at % n] = true;
                at /= n;
            }
        }
        let covered: usize = hull.iter().map(|h| h.iter().filter(|k| **k).count()).product();
        let mut out = vec![None; n];
        for (o, h) in out[i..j].iter_mut().zip(hull) {
            if h.iter().any(|k| !k) {
                *o = Some(Self::new(h));
            }
        }
        Ok((out, covered == self.count()))
    }
}

/// A cut that follows no axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mixed;

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept: String = self.kept.iter().map(|k| if *k { '1' } else { '0' }).collect();
        write!(f, "{}*{kept}*{}", self.outer, self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(s: &str) -> Set {
        Set::new(s.chars().map(|c| c == '1').collect::<Vec<_>>())
    }

    fn dims(v: &[usize]) -> Vec<Dim> {
        v.iter().map(|d| Dim::from(*d)).collect()
    }

    #[test]
    fn products_merge_and_split() {
        let (a, b) = (bits("10"), bits("101"));
        let whole = Set::merged(&[(2i64.into(), Some(&a)), (3i64.into(), Some(&b))]);
        assert_eq!(whole, Ok(Some(bits("101000"))));
        let (parts, exact) = bits("101000").split(&dims(&[2, 3])).expect("splits");
        assert_eq!((parts, exact), (vec![Some(a), Some(b)], true));
        let (parts, exact) = bits("110100").split(&dims(&[2, 3])).expect("splits");
        assert_eq!((parts, exact), (vec![None, Some(bits("110"))], false));
        // Blocks, as of packed queries, keys and values.
        let (parts, exact) = bits("110011001100").split(&dims(&[3, 2, 2])).expect("splits");
        assert_eq!((parts, exact), (vec![None, Some(bits("10")), None], true));
    }

    #[test]
    fn symbols_stay_outside() {
        let whole_extent = || Dim::sym("N") * Dim::from(6i64);
        let (n, heads) = (Dim::sym("N"), bits("110"));
        let extents = [n.clone(), 3i64.into(), 2i64.into()];
        let whole = Set::merged(&[(n.clone(), None), (3i64.into(), Some(&heads)), (2i64.into(), None)]);
        let whole = whole.expect("merges").expect("is cut");
        assert_eq!(format!("{whole:?}"), "N*111100*1");
        assert_eq!(whole.extent(), n.clone() * Dim::from(4i64));
        assert_eq!(whole.split(&extents), Ok((vec![None, Some(heads.clone()), None], true)));
        assert_eq!(whole.split(&[whole_extent()]), Ok((vec![Some(whole.clone())], true)));
        assert_eq!(whole.split(&[3i64.into(), n.clone(), 2i64.into()]), Err(Mixed));
        let two = [(3i64.into(), Some(&heads)), (n, None), (3i64.into(), Some(&heads))];
        assert_eq!(Set::merged(&two), Err(Mixed));
    }
}
