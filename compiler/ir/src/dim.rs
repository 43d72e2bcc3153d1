//! Symbolic integers: extents, indices and byte counts as canonical polynomials.
//!
//! A [`Dim`] is a sum of integer multiples of products of atoms; an atom is a symbol or a floor division, minimum,
//! maximum or broadcast of other dims, or a function of floats ([`Real`]). Equal polynomials are equal values, so
//! `B*S+S == S*(B+1)` holds by `==`.
//! The same algebra serves three kinds of symbols: named model dimensions, loop iterators of a structured operation,
//! and data-dependent indices.
//!
//! Laws: arithmetic is exact (saturating `i64` overflow is refused at evaluation); `mod` is `a - b*fdiv(a,b)`;
//! divisors are positive; broadcast is not maximum: `bcast(a,b)` is `b` where `a` is 1, else `a`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Neg, Sub};
use std::sync::Arc;

mod bounds;
pub mod counts;
mod real;

pub use bounds::{Bounds, COUNTED, CUSTOM, ELEMENT};
pub use real::Real;

/// A variable of a [`Dim`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sym {
    /// A dimension of the model, as named in the ONNX file or invented at import. At least 0, but for an [`ELEMENT`].
    Named(Arc<str>),
    /// Iterator `i` of a structured operation, from 0 to its extent (exclusive).
    Iter(u32),
    /// The integer value of a node of a scalar body: an index that comes from data.
    Aux(u32),
}

/// A factor that is not a product.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Atom {
    Sym(Sym),
    FloorDiv(Dim, Dim),
    Min(Dim, Dim),
    Max(Dim, Dim),
    Broadcast(Dim, Dim),
    /// A function of floats; of one, the second is 0.
    Real(Real, Dim, Dim),
}

/// A product of atoms, sorted, with repetition for powers.
type Monomial = Vec<Atom>;

/// A symbolic integer. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim(Repr);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Const(i64),
    /// Sorted by monomial, no zero coefficients, not a constant. The empty monomial is the constant term.
    Sum(Arc<[(Monomial, i64)]>),
}

impl Dim {
    pub const ZERO: Self = Self(Repr::Const(0));
    pub const ONE: Self = Self(Repr::Const(1));

    /// The model dimension `name`.
    pub fn sym(name: &str) -> Self {
        Self::atom(Atom::Sym(Sym::Named(name.into())))
    }

    /// Iterator `i`.
    pub fn iter(i: usize) -> Self {
        Self::atom(Atom::Sym(Sym::Iter(i as u32)))
    }

    /// The integer that body node `i` computes.
    pub fn aux(i: u32) -> Self {
        Self::atom(Atom::Sym(Sym::Aux(i)))
    }

    pub fn atom(atom: Atom) -> Self {
        Self(Repr::Sum([(vec![atom], 1)].into()))
    }

    /// The value, when it is a constant.
    pub fn as_const(&self) -> Option<i64> {
        match &self.0 {
            Repr::Const(c) => Some(*c),
            Repr::Sum(_) => None,
        }
    }

    pub fn is_one(&self) -> bool {
        self.0 == Repr::Const(1)
    }

    pub fn is_zero(&self) -> bool {
        self.0 == Repr::Const(0)
    }

    /// The symbol, when the dim is exactly one.
    pub fn as_sym(&self) -> Option<&Sym> {
        match self.terms() {
            [(m, 1)] => match m.as_slice() {
                [Atom::Sym(s)] => Some(s),
                _ => None,
            },
            _ => None,
        }
    }

    /// Monomials with their coefficients; empty for constants.
    pub fn terms(&self) -> &[(Monomial, i64)] {
        match &self.0 {
            Repr::Const(_) => &[],
            Repr::Sum(t) => t,
        }
    }

    fn all_terms(&self) -> Vec<(Monomial, i64)> {
        match &self.0 {
            Repr::Const(0) => vec![],
            Repr::Const(c) => vec![(vec![], *c)],
            Repr::Sum(t) => t.to_vec(),
        }
    }

    fn from_terms(terms: impl IntoIterator<Item = (Monomial, i64)>) -> Self {
        let mut map: BTreeMap<Monomial, i64> = BTreeMap::new();
        for (m, c) in terms {
            let e = map.entry(m).or_insert(0);
            *e = e.saturating_add(c);
        }
        map.retain(|_, c| *c != 0);
        match map.len() {
            0 => Self::ZERO,
            1 if map.contains_key(&Vec::new() as &Monomial) => Self(Repr::Const(map[&Vec::new() as &Monomial])),
            _ => Self(Repr::Sum(map.into_iter().collect())),
        }
    }

    /// Product of all dims of a shape.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Self>) -> Self {
        dims.into_iter().fold(Self::ONE, |a, d| a * d.clone())
    }

    /// `self / divisor` where that is exact for all values of the symbols.
    pub fn div_exact(&self, divisor: &Self) -> Option<Self> {
        if divisor.is_zero() {
            return None;
        }
        if self == divisor {
            return Some(Self::ONE);
        }
        let [(dm, dc)] = divisor.all_terms().try_into().ok()?;
        let mut out = vec![];
        for (m, c) in self.all_terms() {
            out.push((divide_monomial(&m, &dm)?, (c % dc == 0).then_some(c / dc)?));
        }
        Some(Self::from_terms(out))
    }

    /// `floor(self / divisor)`; the divisor is positive.
    pub fn floor_div(&self, divisor: &Self) -> Self {
        if divisor.is_one() {
            return self.clone();
        }
        if let (Some(a), Some(b)) = (self.as_const(), divisor.as_const())
            && b > 0
        {
            return Self::from(a.div_euclid(b));
        }
        if let Some(q) = self.div_exact(divisor) {
            return q;
        }
        // Terms that the divisor divides come out of the division exactly.
        if let Ok([(dm, dc)]) = <[_; 1]>::try_from(divisor.all_terms()) {
            let (mut whole, mut rest) = (vec![], vec![]);
            for (m, c) in self.all_terms() {
                match divide_monomial(&m, &dm) {
                    Some(q) if c.div_euclid(dc) != 0 && !(m.is_empty() && c < dc && c > 0) => {
                        whole.push((q, c.div_euclid(dc)));
                        rest.push((m, c.rem_euclid(dc)));
                    }
                    _ => rest.push((m, c)),
                }
            }
            if !whole.is_empty() {
                return Self::from_terms(whole) + Self::from_terms(rest).floor_div(divisor);
            }
        }
        // fdiv(fdiv(a,b),c) = fdiv(a, b*c)
        if let [(m, 1)] = self.terms()
            && let [Atom::FloorDiv(a, b)] = m.as_slice()
        {
            return a.floor_div(&(b.clone() * divisor.clone()));
        }
        Self::atom(Atom::FloorDiv(self.clone(), divisor.clone()))
    }

    /// `ceil(self / divisor)`; the divisor is positive.
    pub fn ceil_div(&self, divisor: &Self) -> Self {
        (self.clone() + divisor.clone() - Self::ONE).floor_div(divisor)
    }

    /// `self mod divisor`, with the sign of the (positive) divisor.
    pub fn modulo(&self, divisor: &Self) -> Self {
        self.clone() - divisor.clone() * self.floor_div(divisor)
    }

    pub fn minimum(&self, other: &Self) -> Self {
        match (self.clone() - other.clone()).as_const() {
            Some(d) if d <= 0 => self.clone(),
            Some(_) => other.clone(),
            None if self <= other => Self::atom(Atom::Min(self.clone(), other.clone())),
            None => Self::atom(Atom::Min(other.clone(), self.clone())),
        }
    }

    pub fn maximum(&self, other: &Self) -> Self {
        match (self.clone() - other.clone()).as_const() {
            Some(d) if d >= 0 => self.clone(),
            Some(_) => other.clone(),
            None if other.is_maximum_of(self) => other.clone(),
            None if self.is_maximum_of(other) => self.clone(),
            None if self <= other => Self::atom(Atom::Max(self.clone(), other.clone())),
            None => Self::atom(Atom::Max(other.clone(), self.clone())),
        }
    }

    /// Whether `self` is the minimum of `part` and something else.
    pub fn is_minimum_of(&self, part: &Self) -> bool {
        match self.terms() {
            [(m, 1)] => matches!(m.as_slice(), [Atom::Min(a, b)] if a == part || b == part),
            _ => false,
        }
    }

    /// Whether `self` is the minimum of `whole` and a constant above 1: it is 1 only where `whole` is.
    pub fn is_cut_of(&self, whole: &Self) -> bool {
        let several = |d: &Self| d.as_const().is_some_and(|c| c > 1);
        match self.terms() {
            [(m, 1)] => match m.as_slice() {
                [Atom::Min(a, b)] => a == whole && several(b) || b == whole && several(a),
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether `part` is one of the operands of the nested maxima that `self` is.
    fn is_maximum_of(&self, part: &Self) -> bool {
        match self.terms() {
            [(m, 1)] => match m.as_slice() {
                [Atom::Max(a, b)] => a == part || b == part || a.is_maximum_of(part) || b.is_maximum_of(part),
                _ => false,
            },
            _ => false,
        }
    }

    /// The extent of two axes that broadcast together, or `None` where they cannot.
    pub fn broadcast(&self, other: &Self) -> Option<Self> {
        if self == other || other.is_one() {
            return Some(self.clone());
        }
        if self.is_one() {
            return Some(other.clone());
        }
        // `S` against `min(512, S)` is legal only where both are `S` (a table cut to the sequence).
        for (x, y) in [(self, other), (other, self)] {
            if y.is_cut_of(x) {
                return Some(x.clone());
            }
        }
        match (self.as_const(), other.as_const()) {
            (Some(_), Some(_)) => None,
            // A symbol against a constant above 1 can only be 1 or that constant.
            (Some(_), None) => Some(self.clone()),
            (None, Some(_)) => Some(other.clone()),
            (None, None) if self <= other => Some(Self::atom(Atom::Broadcast(self.clone(), other.clone()))),
            (None, None) => Some(Self::atom(Atom::Broadcast(other.clone(), self.clone()))),
        }
    }

    /// The value for given symbols; `None` where a symbol is unknown, a divisor is not positive, or `i64` overflows.
    pub fn eval(&self, sym: &dyn Fn(&Sym) -> Option<i64>) -> Option<i64> {
        let Repr::Sum(terms) = &self.0 else {
            return self.as_const();
        };
        let mut total = 0i64;
        for (m, c) in terms.iter() {
            let mut p = *c;
            for a in m {
                p = p.checked_mul(a.eval(sym)?)?;
            }
            total = total.checked_add(p)?;
        }
        Some(total)
    }

    /// Replaces symbols; those for which `f` gives `None` stay.
    #[must_use]
    pub fn subst(&self, f: &dyn Fn(&Sym) -> Option<Self>) -> Self {
        self.subst_atoms(&|a| match a {
            Atom::Sym(s) => f(s),
            _ => None,
        })
    }

    /// Replaces atoms, outer ones first; of those for which `f` gives `None`, the operands are looked into.
    #[must_use]
    pub fn subst_atoms(&self, f: &dyn Fn(&Atom) -> Option<Self>) -> Self {
        let Repr::Sum(terms) = &self.0 else { return self.clone() };
        let mut out = Self::ZERO;
        for (m, c) in terms.iter() {
            let mut p = Self::from(*c);
            for a in m {
                p = p * f(a).unwrap_or_else(|| a.subst(f));
            }
            out = out + p;
        }
        out
    }

    /// Replaces the iterators `0..index.len()`.
    #[must_use]
    pub fn at(&self, index: &[Self]) -> Self {
        self.subst(&|s| match s {
            Sym::Iter(i) => index.get(*i as usize).cloned(),
            _ => None,
        })
    }

    /// Calls `f` for every symbol, repeats included.
    pub fn visit(&self, f: &mut dyn FnMut(&Sym)) {
        for (m, _) in self.terms() {
            for a in m {
                a.visit(f);
            }
        }
    }

    /// Calls `f` for every symbol and operation, repeats included.
    pub fn visit_atoms(&self, f: &mut dyn FnMut(&Atom)) {
        for a in self.terms().iter().flat_map(|(m, _)| m) {
            f(a);
            match a {
                Atom::Sym(_) => {}
                Atom::FloorDiv(x, y)
                | Atom::Min(x, y)
                | Atom::Max(x, y)
                | Atom::Broadcast(x, y)
                | Atom::Real(_, x, y) => {
                    x.visit_atoms(f);
                    y.visit_atoms(f);
                }
            }
        }
    }

    /// Symbols and operations, repeats included.
    pub fn atoms(&self) -> usize {
        let factors = self.terms().iter().flat_map(|(m, _)| m);
        factors.map(Atom::atoms).sum()
    }

    pub fn uses(&self, sym: &Sym) -> bool {
        let mut found = false;
        self.visit(&mut |s| found |= s == sym);
        found
    }

    /// Whether elements of inputs occur, which may be anything.
    pub fn has_elements(&self) -> bool {
        let mut found = false;
        self.visit(&mut |s| found |= matches!(s, Sym::Named(n) if n.starts_with(ELEMENT)));
        found
    }

    /// Whether indices that data gives occur.
    pub fn has_data(&self) -> bool {
        let mut found = false;
        self.visit(&mut |s| found |= matches!(s, Sym::Aux(_)));
        found
    }

    /// Whether any iterator or data-dependent index occurs.
    pub fn is_shape_only(&self) -> bool {
        let mut ok = true;
        self.visit(&mut |s| ok &= matches!(s, Sym::Named(_)));
        ok
    }

    /// `(coefficient, rest)` with `self = coefficient * sym + rest` and neither containing `sym`; `None` when the dim is
    /// not affine in `sym`.
    pub fn affine_in(&self, sym: &Sym) -> Option<(Self, Self)> {
        let (mut coeff, mut rest) = (vec![], vec![]);
        for (m, c) in self.all_terms() {
            let hits = m.iter().filter(|a| matches!(a, Atom::Sym(s) if s == sym)).count();
            match hits {
                0 => rest.push((m, c)),
                1 => coeff.push((
                    m.into_iter()
                        .filter(|a| !matches!(a, Atom::Sym(s) if s == sym))
                        .collect(),
                    c,
                )),
                _ => return None,
            }
        }
        let (coeff, rest) = (Self::from_terms(coeff), Self::from_terms(rest));
        (!coeff.uses(sym) && !rest.uses(sym)).then_some((coeff, rest))
    }

    /// Remainders `x mod y` that the divisions of the dim allow it to contain, with their `y`: `x - y*fdiv(x,y)` for each
    /// division, and the middle digit `fdiv(x,a) - y*fdiv(x,a*y)` for each two divisions of the same dividend. Divisions
    /// inside of dividends are in no remainder that is a part of the dim.
    pub(crate) fn remainders(&self) -> Vec<(Self, Self)> {
        let mut divisions: Vec<(Self, Self)> = vec![];
        for a in self.terms().iter().flat_map(|(m, _)| m) {
            if let Atom::FloorDiv(x, y) = a
                && !divisions.iter().any(|(other, by)| other == x && by == y)
            {
                divisions.push((x.clone(), y.clone()));
            }
        }
        let quotient = |x: &Self, y: &Self| Self::atom(Atom::FloorDiv(x.clone(), y.clone()));
        let whole = divisions
            .iter()
            .map(|(x, y)| (x.clone() - y.clone() * quotient(x, y), y.clone()));
        let middle = divisions.iter().flat_map(|(x, outer)| {
            let inner = divisions.iter().filter(move |(other, by)| other == x && by != outer);
            inner.filter_map(move |(_, a)| {
                let y = outer.div_exact(a)?;
                Some((quotient(x, a) - y.clone() * quotient(x, outer), y))
            })
        });
        whole.chain(middle).collect()
    }

    /// Floor divisions anywhere in the dim, outermost first.
    pub fn floor_divs(&self) -> Vec<(Self, Self)> {
        let mut out = vec![];
        for (m, _) in self.terms() {
            for a in m {
                match a {
                    Atom::FloorDiv(x, y) => {
                        out.push((x.clone(), y.clone()));
                        out.extend(x.floor_divs());
                    }
                    Atom::Min(x, y) | Atom::Max(x, y) | Atom::Broadcast(x, y) => {
                        out.extend(x.floor_divs());
                        out.extend(y.floor_divs());
                    }
                    // What floats are computed of is no dividend of anything here.
                    Atom::Sym(_) | Atom::Real(..) => {}
                }
            }
        }
        out
    }
}

impl Atom {
    fn eval(&self, sym: &dyn Fn(&Sym) -> Option<i64>) -> Option<i64> {
        Some(match self {
            Self::Sym(s) => sym(s)?,
            Self::FloorDiv(a, b) => {
                let (a, b) = (a.eval(sym)?, b.eval(sym)?);
                if b <= 0 {
                    return None;
                }
                a.div_euclid(b)
            }
            Self::Min(a, b) => a.eval(sym)?.min(b.eval(sym)?),
            Self::Max(a, b) => a.eval(sym)?.max(b.eval(sym)?),
            Self::Broadcast(a, b) => match (a.eval(sym)?, b.eval(sym)?) {
                (1, b) => b,
                (a, 1) => a,
                (a, b) => a.max(b),
            },
            Self::Real(op, a, b) => op.apply(a.eval(sym)?, b.eval(sym)?),
        })
    }

    fn subst(&self, f: &dyn Fn(&Self) -> Option<Dim>) -> Dim {
        let inner = |d: &Dim| d.subst_atoms(f);
        match self {
            Self::Sym(_) => Dim::atom(self.clone()),
            Self::FloorDiv(a, b) => inner(a).floor_div(&inner(b)),
            Self::Min(a, b) => inner(a).minimum(&inner(b)),
            Self::Max(a, b) => inner(a).maximum(&inner(b)),
            Self::Real(op, a, b) => Dim::apply(*op, &inner(a), &inner(b)),
            Self::Broadcast(a, b) => {
                let (a, b) = (inner(a), inner(b));
                // Where the operands turn out not to broadcast, the atom stays and evaluation decides.
                a.broadcast(&b).unwrap_or_else(|| Dim::atom(Self::Broadcast(a, b)))
            }
        }
    }

    fn atoms(&self) -> usize {
        match self {
            Self::Sym(_) => 1,
            Self::FloorDiv(a, b) | Self::Min(a, b) | Self::Max(a, b) | Self::Broadcast(a, b) | Self::Real(_, a, b) => {
                1 + a.atoms() + b.atoms()
            }
        }
    }

    fn visit(&self, f: &mut dyn FnMut(&Sym)) {
        match self {
            Self::Sym(s) => f(s),
            Self::FloorDiv(a, b) | Self::Min(a, b) | Self::Max(a, b) | Self::Broadcast(a, b) | Self::Real(_, a, b) => {
                a.visit(f);
                b.visit(f);
            }
        }
    }
}

fn divide_monomial(m: &Monomial, by: &Monomial) -> Option<Monomial> {
    let mut rest = m.clone();
    for a in by {
        let i = rest.iter().position(|x| x == a)?;
        rest.remove(i);
    }
    Some(rest)
}

impl From<i64> for Dim {
    fn from(c: i64) -> Self {
        Self(Repr::Const(c))
    }
}

impl From<usize> for Dim {
    fn from(c: usize) -> Self {
        Self(Repr::Const(c as i64))
    }
}

impl Add for Dim {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        match (&self.0, &o.0) {
            (Repr::Const(0), _) => o,
            (_, Repr::Const(0)) => self,
            (Repr::Const(a), Repr::Const(b)) => Self::from(a.saturating_add(*b)),
            _ => Self::from_terms(self.all_terms().into_iter().chain(o.all_terms())),
        }
    }
}

impl Neg for Dim {
    type Output = Self;
    fn neg(self) -> Self {
        self * Self::from(-1i64)
    }
}

impl Sub for Dim {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        match (&self.0, &o.0) {
            // The least integer has no negative.
            (Repr::Const(a), Repr::Const(b)) => Self::from(a.saturating_sub(*b)),
            _ => self + -o,
        }
    }
}

impl Mul for Dim {
    type Output = Self;
    fn mul(self, o: Self) -> Self {
        match (&self.0, &o.0) {
            (Repr::Const(0), _) | (_, Repr::Const(0)) => return Self::ZERO,
            (Repr::Const(1), _) => return o,
            (_, Repr::Const(1)) => return self,
            (Repr::Const(a), Repr::Const(b)) => return Self::from(a.saturating_mul(*b)),
            _ => {}
        }
        let b = o.all_terms();
        Self::from_terms(self.all_terms().into_iter().flat_map(|(m, c)| {
            b.iter()
                .map(move |(n, d)| {
                    let mut p = m.clone();
                    p.extend(n.iter().cloned());
                    p.sort();
                    (p, c.saturating_mul(*d))
                })
                .collect::<Vec<_>>()
        }))
    }
}

impl fmt::Display for Sym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(n) => f.write_str(n),
            Self::Iter(i) => write!(f, "$i{i}"),
            Self::Aux(i) => write!(f, "$x{i}"),
        }
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sym(s) => s.fmt(f),
            Self::FloorDiv(a, b) => write!(f, "fdiv({a},{b})"),
            Self::Min(a, b) => write!(f, "min({a},{b})"),
            Self::Max(a, b) => write!(f, "max({a},{b})"),
            Self::Broadcast(a, b) => write!(f, "bcast({a},{b})"),
            Self::Real(op, a, b) => f.write_str(&op.text(a, b, &Dim::to_string)),
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Repr::Sum(terms) = &self.0 else {
            return write!(f, "{}", self.as_const().unwrap_or(0));
        };
        // The constant sorts first but reads best last.
        for (i, (m, c)) in terms
            .iter()
            .filter(|(m, _)| !m.is_empty())
            .chain(terms.iter().filter(|(m, _)| m.is_empty()))
            .enumerate()
        {
            match (i, *c < 0) {
                (0, true) | (_, true) => f.write_str("-")?,
                (0, false) => {}
                (_, false) => f.write_str("+")?,
            }
            if m.is_empty() {
                write!(f, "{}", c.unsigned_abs())?;
                continue;
            }
            if c.unsigned_abs() != 1 {
                write!(f, "{}*", c.unsigned_abs())?;
            }
            for (j, a) in m.iter().enumerate() {
                if j > 0 {
                    f.write_str("*")?;
                }
                a.fmt(f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
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
    fn polynomials_are_canonical() {
        assert_eq!(c(i64::MIN) - c(i64::MIN), Dim::ZERO);
        assert_eq!(s("B") * s("S") + s("S"), s("S") * (s("B") + c(1)));
        assert_eq!((s("S") * c(2) + c(3)).to_string(), "2*S+3");
        assert_eq!((c(3) - s("S")).to_string(), "-S+3");
        assert_eq!((s("S") - s("S")).as_const(), Some(0));
    }

    #[test]
    fn division_takes_out_whole_parts() {
        assert_eq!((s("B") * c(384)).floor_div(&c(64)), s("B") * c(6));
        assert_eq!((s("B") * s("S") * c(384)).div_exact(&(s("B") * c(384))), Some(s("S")));
        assert_eq!((s("S") * c(4) + c(3)).floor_div(&c(4)), s("S"));
        assert_eq!((s("S") + c(3)).floor_div(&c(4)).to_string(), "fdiv(S+3,4)");
        assert_eq!(s("S").floor_div(&c(2)).floor_div(&c(2)), s("S").floor_div(&c(4)));
        assert_eq!((s("S") * c(2) - c(1)).floor_div(&c(2)), s("S") - c(1));
    }

    #[test]
    fn remainders_recombine() {
        let m = Dim::iter(0);
        let linear = m.floor_div(&s("S")) * s("S") * c(64) + m.modulo(&s("S")) * c(64);
        assert_eq!(linear, m * c(64));
    }

    #[test]
    fn broadcast_is_not_max() {
        assert_eq!(s("S").broadcast(&c(1)), Some(s("S")));
        assert_eq!(c(3).broadcast(&c(4)), None);
        let d = s("A").broadcast(&s("B")).expect("symbols may broadcast");
        assert_eq!(
            d.eval(&|x| Some(if *x == Sym::Named("A".into()) { 1 } else { 0 })),
            Some(0)
        );
    }

    #[test]
    fn affine_parts() {
        let d = Dim::iter(0) * s("S") * c(4) + Dim::iter(1) + c(7);
        let (k, r) = d.affine_in(&Sym::Iter(0)).expect("affine");
        assert_eq!((k, r), (s("S") * c(4), Dim::iter(1) + c(7)));
        assert!(Dim::iter(0).floor_div(&c(2)).affine_in(&Sym::Iter(0)).is_none());
    }
}
