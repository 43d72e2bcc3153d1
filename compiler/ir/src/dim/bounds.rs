//! Ranges of dims: what can be proven of an index from the extents of its iterators.
//!
//! Laws: nothing is claimed that does not hold for all values of the symbols; "not proven" is an answer.

use super::{Atom, Dim, Real, Repr, Sym};

/// What is known of the symbols where a dim is simplified.
pub struct Bounds<'a> {
    /// Extents of the iterators.
    pub extents: &'a [Dim],
    /// Inclusive range of a named dimension.
    pub named: &'a dyn Fn(&str) -> (i64, i64),
}

/// How the names of symbols begin that data gives, and no input's shape.
pub const COUNTED: &str = "count.";

/// How the names of symbols begin that are elements of an input: they may be negative.
pub const ELEMENT: &str = "element.";

/// How the names of symbols begin that an operator of the caller gives, from the shapes of its operands.
pub const CUSTOM: &str = "custom.";

/// The least value of a named dimension, where others are at least `extent`.
fn least(name: &str, extent: i64) -> i64 {
    if name.starts_with(ELEMENT) {
        i64::MIN
    } else if name.starts_with(COUNTED) || name.starts_with(CUSTOM) {
        0
    } else {
        extent
    }
}

impl Bounds<'_> {
    /// As operations see shapes: an exporter's slice `x[:, 0:1]` has extent 1. Kernels check what that presumes. What data
    /// counts, and what the caller's code says, may be 0 on any day.
    pub const fn positive(extents: &[Dim]) -> Bounds<'_> {
        Bounds {
            extents,
            named: &|name| (least(name, 1), i64::MAX),
        }
    }

    /// As kernels see them: nothing is known of the model's dimensions but that they are not negative: an empty past is a legal input.
    pub const fn of(extents: &[Dim]) -> Bounds<'_> {
        Bounds {
            extents,
            named: &|name| (least(name, 0), i64::MAX),
        }
    }

    fn numeric(&self, d: &Dim) -> (i128, i128) {
        let Repr::Sum(terms) = &d.0 else {
            let c = i128::from(d.as_const().unwrap_or(0));
            return (c, c);
        };
        // A remainder lies in 0..b-1, tighter than its terms tell.
        for (rem, b) in d.remainders() {
            let rest = d.clone() - rem.clone();
            if rest.terms().len() + 1 < d.terms().len() + usize::from(rest.terms().is_empty()) {
                let (rl, rh) = self.numeric(&rest);
                return (rl, rh.saturating_add(self.numeric(&b).1 - 1));
            }
        }
        let (mut lo, mut hi) = (0i128, 0i128);
        for (m, c) in terms.iter() {
            let (mut l, mut h) = (i128::from(*c), i128::from(*c));
            for a in m {
                let (al, ah) = self.atom(a);
                let p = [
                    l.saturating_mul(al),
                    l.saturating_mul(ah),
                    h.saturating_mul(al),
                    h.saturating_mul(ah),
                ];
                l = p.into_iter().min().unwrap_or(l);
                h = p.into_iter().max().unwrap_or(h);
            }
            lo = lo.saturating_add(l);
            hi = hi.saturating_add(h);
        }
        (lo, hi)
    }

    fn atom(&self, a: &Atom) -> (i128, i128) {
        match a {
            Atom::Sym(Sym::Named(n)) => {
                let (l, h) = (self.named)(n);
                (l.into(), h.into())
            }
            Atom::Sym(Sym::Iter(i)) => match self.extents.get(*i as usize) {
                Some(e) => (0, (self.numeric(e).1 - 1).max(0)),
                None => (0, i64::MAX.into()),
            },
            Atom::Sym(Sym::Aux(_)) => (i64::MIN.into(), i64::MAX.into()),
            Atom::FloorDiv(a, b) => {
                let ((al, ah), (bl, bh)) = (self.numeric(a), self.numeric(b));
                let (bl, bh) = (bl.max(1), bh.max(1));
                let lo = if al < 0 { al.div_euclid(bl) } else { al.div_euclid(bh) };
                let hi = if ah < 0 { ah.div_euclid(bh) } else { ah.div_euclid(bl) };
                (lo, hi)
            }
            Atom::Min(a, b) => {
                let ((al, ah), (bl, bh)) = (self.numeric(a), self.numeric(b));
                (al.min(bl), ah.min(bh))
            }
            Atom::Max(a, b) => {
                let ((al, ah), (bl, bh)) = (self.numeric(a), self.numeric(b));
                (al.max(bl), ah.max(bh))
            }
            Atom::Real(Real::Whole, a, _) => {
                let (lo, hi) = self.real(a);
                ((lo as i64).into(), (hi as i64).into())
            }
            Atom::Real(..) => (i64::MIN.into(), i64::MAX.into()),
            Atom::Broadcast(a, b) => {
                let ((al, ah), (bl, bh)) = (self.numeric(a), self.numeric(b));
                (al.min(bl), ah.max(bh))
            }
        }
    }

    /// Inclusive range of `d`, saturated to `i64`.
    pub fn range(&self, d: &Dim) -> (i64, i64) {
        let (l, h) = self.numeric(d);
        (
            l.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
            h.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
        )
    }

    /// Proves `a <= b` for all values of the symbols; `false` means "not proven".
    pub fn le(&self, a: &Dim, b: &Dim) -> bool {
        self.at_least_none(b.clone() - a.clone(), CASES)
    }

    /// Proves `d >= 0`, taking apart so many of its minima and maxima.
    fn at_least_none(&self, d: Dim, cases: usize) -> bool {
        if self.numeric(&d).0 >= 0 {
            return true;
        }
        // A remainder `x mod y` lies in 0..y-1: put it at the end that makes the difference smallest.
        for (rem, y) in d.remainders() {
            let (without, with) = (d.clone() - rem.clone(), d.clone() + rem);
            // Fewer divisions at every step: nested remainders could otherwise come and go for ever.
            let shorter = |n: &Dim, next: &Dim| {
                n.all_terms().len() < d.all_terms().len() && next.floor_divs().len() < d.floor_divs().len()
            };
            let low = with.clone() - y + Dim::ONE;
            if shorter(&with, &low) {
                return self.at_least_none(low, cases);
            }
            if shorter(&without, &without) {
                return self.at_least_none(without, cases);
            }
        }
        if let Some((both, [x, y])) = either(&d).filter(|_| cases > 0) {
            let first = self.at_least_none(x, cases - 1);
            if first != both {
                return first;
            }
            return self.at_least_none(y, cases - 1);
        }
        // Put every iterator at the end of its range that makes the difference smallest, then every named dimension.
        let mut worst = d;
        for (i, e) in self.extents.iter().enumerate() {
            let it = Sym::Iter(i as u32);
            let Some((coeff, rest)) = worst.affine_in(&it) else {
                return false;
            };
            if coeff.is_zero() {
                continue;
            }
            let (l, h) = self.numeric(&coeff);
            worst = if l >= 0 {
                rest
            } else if h <= 0 {
                rest + coeff * (e.clone() - Dim::ONE)
            } else {
                return false;
            };
        }
        let mut names = vec![];
        worst.visit(&mut |s| {
            if matches!(s, Sym::Named(_)) && !names.contains(s) {
                names.push(s.clone());
            }
        });
        for s in names {
            let Sym::Named(n) = &s else { continue };
            if let Some((coeff, rest)) = worst.affine_in(&s)
                && self.numeric(&coeff).0 >= 0
            {
                worst = rest + coeff * Dim::from((self.named)(n).0);
            }
        }
        self.numeric(&worst).0 >= 0
    }

    /// Removes divisions whose result the ranges decide.
    pub fn simplify(&self, d: &Dim) -> Dim {
        if d.floor_divs().is_empty()
            && !matches!(d.terms(), t if t.iter().any(|(m, _)| m.iter().any(|a| matches!(a, Atom::Min(..) | Atom::Max(..)))))
        {
            return d.clone();
        }
        let mut out = Dim::ZERO;
        for (m, c) in d.all_terms() {
            let mut p = Dim::from(c);
            for a in &m {
                p = p * self.simplify_atom(a);
            }
            out = out + p;
        }
        out
    }

    fn simplify_atom(&self, a: &Atom) -> Dim {
        match a {
            Atom::Sym(_) => Dim::atom(a.clone()),
            Atom::FloorDiv(x, y) => {
                let (x, y) = (self.simplify(x), self.simplify(y));
                let q = x.floor_div(&y);
                // What `floor_div` could not take out is a remainder; when it lies in 0..y-1 the division is 0.
                self.drop_small(&q)
            }
            Atom::Min(x, y) => {
                let (x, y) = (self.simplify(x), self.simplify(y));
                if self.le(&x, &y) {
                    x
                } else if self.le(&y, &x) {
                    y
                } else {
                    x.minimum(&y)
                }
            }
            Atom::Max(x, y) => {
                let (x, y) = (self.simplify(x), self.simplify(y));
                if self.le(&x, &y) {
                    y
                } else if self.le(&y, &x) {
                    x
                } else {
                    x.maximum(&y)
                }
            }
            Atom::Real(op, x, y) => Dim::apply(*op, &self.simplify(x), &self.simplify(y)),
            Atom::Broadcast(x, y) => {
                let (x, y) = (self.simplify(x), self.simplify(y));
                x.broadcast(&y).unwrap_or_else(|| Dim::atom(Atom::Broadcast(x, y)))
            }
        }
    }

    fn drop_small(&self, d: &Dim) -> Dim {
        let mut out = Dim::ZERO;
        for (m, c) in d.all_terms() {
            let mut p = Dim::from(c);
            for a in &m {
                let small = match a {
                    Atom::FloorDiv(x, y) => {
                        let positive = self.numeric(x).0 >= 0 || self.le(&Dim::ZERO, x);
                        positive && self.le(x, &(y.clone() - Dim::ONE))
                    }
                    _ => false,
                };
                p = if small { Dim::ZERO } else { p * Dim::atom(a.clone()) };
            }
            out = out + p;
        }
        out
    }
}

/// Minima and maxima that a proof takes apart, one in the other or one after the other.
const CASES: usize = 4;

/// The dim with the one and the other operand in place of its first minimum or maximum, and whether it is the smaller of the
/// two; else it is the larger.
fn either(d: &Dim) -> Option<(bool, [Dim; 2])> {
    d.terms().iter().find_map(|(monomial, c)| {
        let (largest, x, y) = match monomial.as_slice() {
            [Atom::Max(x, y)] => (true, x, y),
            [Atom::Min(x, y)] => (false, x, y),
            _ => return None,
        };
        let rest = d.clone() - Dim::atom(monomial[0].clone()) * Dim::from(*c);
        let with = |v: &Dim| rest.clone() + v.clone() * Dim::from(*c);
        Some((largest == (*c < 0), [with(x), with(y)]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: &str) -> Dim {
        Dim::sym(n)
    }

    fn c(v: i64) -> Dim {
        Dim::from(v)
    }

    #[test]
    fn minima_and_maxima_are_taken_apart() {
        let b = Bounds::of(&[]);
        let n = s("N");
        let last = (n.clone() - c(1)).maximum(&c(0));
        assert!(b.le(&last, &n) && !b.le(&n, &last));
        let turned = c(2).modulo(&n.maximum(&c(1)));
        assert!(b.le(&turned, &n), "{turned}");
        assert!(b.le(&n.minimum(&s("M")), &n) && b.le(&n, &n.maximum(&s("M"))));
        assert!(!b.le(&n, &n.minimum(&s("M"))) && !b.le(&n.maximum(&s("M")), &n));
    }

    #[test]
    fn ranges_remove_divisions() {
        let extents = [c(12), c(64), s("S")];
        let b = Bounds::positive(&extents);
        let flat = Dim::iter(0) * c(64) + Dim::iter(1);
        assert_eq!(b.simplify(&flat.floor_div(&c(64))), Dim::iter(0));
        assert_eq!(b.simplify(&flat.modulo(&c(64))), Dim::iter(1));
        let rows = Dim::iter(0) * s("S") + Dim::iter(2);
        assert_eq!(b.simplify(&rows.floor_div(&s("S"))), Dim::iter(0));
        assert_eq!(
            b.simplify(&(Dim::iter(1) + Dim::iter(2)).floor_div(&s("S")))
                .to_string(),
            "fdiv($i1+$i2,S)"
        );
        assert_eq!(b.range(&Dim::iter(0).modulo(&c(5))), (0, 4));
        // A middle digit of three: `fdiv(i,4) mod S`.
        let digit = Dim::iter(1).floor_div(&c(4)).modulo(&s("S"));
        assert!(b.le(&Dim::ZERO, &digit) && b.le(&digit, &(s("S") - c(1))), "{digit}");
    }
}
