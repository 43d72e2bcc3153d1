//! The largest values of what a run counts.

use std::sync::Arc;

use super::{Atom, Bounds, Dim, Sym};

/// A counted symbol and what it is at most, which may name others.
pub type Most = (Arc<str>, Dim);

/// A dim with the counted symbols at their largest.
pub fn largest(d: &Dim, counted: &[Most]) -> Dim {
    let mut out = d.clone();
    // What one is bounded by may be counted before.
    for _ in counted {
        out = out.subst(&|s| match s {
            Sym::Named(name) => counted.iter().find(|c| c.0 == *name).map(|c| c.1.clone()),
            _ => None,
        });
    }
    out
}

/// The same extent in a form that grows with the counted symbols, where one is found: `n - max(n-1,0)`, of a list's last row,
/// is `min(1,n)`. Of two that broadcast together it is the larger one, or 0 where one is 0; that they are equal or 1 is for
/// others to see to.
pub fn growing(d: &Dim, counted: &[Most]) -> Dim {
    let d = d.subst_atoms(&|a| {
        let Atom::Broadcast(x, y) = a else { return None };
        if !uses(x, counted) && !uses(y, counted) {
            return None;
        }
        let (x, y) = (growing(x, counted), growing(y, counted));
        Some(x.maximum(&y) * x.minimum(&Dim::ONE) * y.minimum(&Dim::ONE))
    });
    match without_difference(&d, counted) {
        Some(shorter) => growing(&shorter, counted),
        None => d,
    }
}

/// The dim with a minimum where it takes a maximum of counted symbols away: `k*t - k*max(x,y)` is `k*min(t-x,t-y)`.
fn without_difference(d: &Dim, counted: &[Most]) -> Option<Dim> {
    let term = |atoms: &[Atom], c: i64| atoms.iter().fold(Dim::from(c), |p, a| p * Dim::atom(a.clone()));
    d.terms().iter().filter(|(_, c)| *c < 0).find_map(|(taken, c)| {
        let largest = |a: &Atom| matches!(a, Atom::Max(x, y) if uses(x, counted) || uses(y, counted));
        let at = taken.iter().position(largest)?;
        let Atom::Max(x, y) = &taken[at] else { return None };
        let mut others = taken.to_vec();
        others.remove(at);
        let (times, rest) = (term(&others, c.checked_neg()?), d.clone() - term(taken, *c));
        // What it is taken from is what is counted in one of the two.
        [x, y].into_iter().find_map(|most| {
            let t = most
                .terms()
                .iter()
                .filter(|(m, c)| *c > 0 && uses(&term(m, 1), counted));
            let t = t.fold(Dim::ZERO, |t, (m, c)| t + term(m, *c));
            let from = times.clone() * t.clone();
            let has = |m: &[Atom], c: i64| d.terms().iter().any(|(own, n)| own.as_slice() == m && *n >= c);
            if t.is_zero() || !from.terms().iter().all(|(m, c)| has(m, *c)) {
                return None;
            }
            let least = (t.clone() - x.clone()).minimum(&(t - y.clone()));
            Some(rest.clone() - from + times.clone() * least)
        })
    })
}

fn bound<'a>(s: &Sym, counted: &'a [Most]) -> Option<&'a Most> {
    match s {
        Sym::Named(name) => counted.iter().find(|c| c.0 == *name),
        _ => None,
    }
}

fn uses(d: &Dim, counted: &[Most]) -> bool {
    let mut any = false;
    d.visit(&mut |s| any |= bound(s, counted).is_some());
    any
}

/// A dim that is never below `d`, without the counted symbols; `None` where none is found.
pub fn at_most(d: &Dim, counted: &[Most]) -> Option<Dim> {
    let uses = |d: &Dim| uses(d, counted);
    if !uses(d) {
        return Some(d.clone());
    }
    let atom = |a: &Atom| -> Option<Dim> {
        let most = |d: &Dim| at_most(d, counted);
        Some(match a {
            Atom::Sym(s) => match bound(s, counted) {
                // What it is bounded by may be counted before.
                Some(c) => most(&c.1)?,
                None => Dim::atom(a.clone()),
            },
            Atom::FloorDiv(x, y) if !uses(y) => most(x)?.floor_div(y),
            Atom::FloorDiv(..) | Atom::Real(..) => return None,
            Atom::Min(x, y) => most(x)?.minimum(&most(y)?),
            Atom::Max(x, y) => most(x)?.maximum(&most(y)?),
            // One of them, when the other is 1.
            Atom::Broadcast(x, y) => most(x)?.maximum(&most(y)?),
        })
    };
    let mut out = Dim::ZERO;
    for (monomial, c) in d.terms() {
        let product = monomial.iter().fold(Dim::ONE, |p, a| p * Dim::atom(a.clone()));
        if !uses(&product) {
            out = out + product * Dim::from(*c);
            continue;
        }
        let at_least_none = Bounds::of(&[]).range(&product).0 >= 0;
        match (*c > 0, at_least_none) {
            (true, _) => {
                let each: Option<Vec<Dim>> = monomial.iter().map(atom).collect();
                out = out + Dim::product(&each?) * Dim::from(*c);
            }
            // At least 0 is taken away.
            (false, true) => {}
            (false, false) => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_sizes() {
        let counted = [
            (Arc::from("T"), Dim::sym("B") * Dim::sym("S")),
            (Arc::from("U"), Dim::sym("T")),
        ];
        let [t, s, u] = ["T", "S", "U"].map(Dim::sym);
        let most = |d: Dim| at_most(&d, &counted).map(|d| d.to_string());
        assert_eq!(
            most(t.clone() * Dim::from(3i64) + Dim::from(7i64)).as_deref(),
            Some("3*B*S+7")
        );
        assert_eq!(most(u.clone() * s.clone()).as_deref(), Some("B*S*S"));
        assert_eq!(most(s.clone() - t.clone()).as_deref(), Some("S"));
        assert_eq!(most(t.floor_div(&Dim::from(2i64))).as_deref(), Some("fdiv(B*S,2)"));
        assert_eq!(largest(&(u.clone() + s.clone() - t.clone()), &counted).to_string(), "S");
        assert_eq!(most(s.floor_div(&t)), None);
        assert_eq!(most(s.clone() - t.maximum(&s)).as_deref(), Some("S"));
        let any = Dim::sym("element.e").minimum(&t);
        assert_eq!(most(s - any), None, "what is taken away may be negative");
    }

    #[test]
    fn forms_that_grow() {
        let counted = [(Arc::from("T"), Dim::from(9i64)), (Arc::from("U"), Dim::sym("S"))];
        let [t, u, s, b] = ["T", "U", "S", "B"].map(Dim::sym);
        let from = |k: i64| (t.clone() - Dim::from(k)).maximum(&Dim::ZERO);
        let last = t.clone() - from(1);
        for (d, wanted) in [
            (last.clone(), "min(1,T)"),
            (last.clone() + Dim::from(4i64), "min(1,T)+4"),
            (last.clone() + s.clone(), "S+min(1,T)"),
            (last.clone() + t.clone() - from(2), "min(1,T)+min(2,T)"),
            (last * b.clone() * Dim::from(3i64), "3*B*min(1,T)"),
            (t.broadcast(&u).expect("may"), "min(1,T)*min(1,U)*max(T,U)"),
            (s.broadcast(&b).expect("may"), "bcast(B,S)"),
        ] {
            let d = growing(&d, &counted);
            assert_eq!(d.to_string(), wanted);
            assert_eq!(at_most(&d, &counted), Some(largest(&d, &counted)));
        }
    }
}
