//! What a model needs of its shapes, in words: a run says it where it does not hold.

use std::collections::{BTreeMap, BTreeSet};

use cameo_ir::{Atom, Dim, Graph, Origin};
use cameo_kernel::program::{InOrder, KernelBody, Program, Requirement, Step};

/// A rule in words, and the two numbers that people want to see where it does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub text: String,
    pub sides: [Dim; 2],
}

impl Said {
    /// `a <= b`; `a = b` when the opposite is required too.
    pub fn of(rule: &Requirement, equal: bool) -> Self {
        let difference = where_it_counts(rule.a.clone() - rule.b.clone());
        let (text, sides) = match one_of(&difference) {
            Some(pairs) if rule.b.is_zero() => {
                let mut texts: Vec<String> = pairs
                    .iter()
                    .map(|[a, b]| format!("{} = {}", short(a), short(b)))
                    .collect();
                texts.dedup();
                (texts.join(" or "), pairs.into_iter().next())
            }
            _ => {
                let [a, b] = parts(&difference);
                let sign = if equal { "=" } else { "<=" };
                (format!("{} {sign} {}", short(&a), short(&b)), Some([a, b]))
            }
        };
        Self {
            text: within(text, &rule.origin),
            sides: sides.unwrap_or([Dim::ZERO, Dim::ZERO]),
        }
    }

    /// That two extents broadcast.
    pub fn broadcast(a: &Dim, b: &Dim, origin: &Origin) -> Self {
        Self {
            text: within(format!("{} = {}, or one of them 1,", short(a), short(b)), origin),
            sides: [a.clone(), b.clone()],
        }
    }

    /// That something may be an extent or a size.
    pub fn size(d: &Dim, origin: &Origin) -> Self {
        Self::of(
            &Requirement {
                a: Dim::ZERO,
                b: d.clone(),
                origin: origin.clone(),
            },
            false,
        )
    }

    /// That something divides.
    pub fn divisor(d: &Dim, origin: &Origin) -> Self {
        Self {
            text: within(format!("1 <= {}", short(d)), origin),
            sides: [Dim::ONE, d.clone()],
        }
    }
}

/// Of each step that checks a rule about what the run has counted.
pub fn of_steps(program: &Program) -> Vec<Option<Said>> {
    let rule = |step: &Step| match &program.kernels[step.kernel].body {
        KernelBody::InOrder(InOrder::Rule { a, b }) => Some(Requirement {
            a: step.bind(a),
            b: step.bind(b),
            origin: step.origin.clone(),
        }),
        _ => None,
    };
    let rules: Vec<Option<Requirement>> = program.steps.iter().map(rule).collect();
    let all: BTreeSet<[&Dim; 2]> = rules.iter().flatten().map(|r| [&r.a, &r.b]).collect();
    let say = |r: &Requirement| Said::of(r, all.contains(&[&r.b, &r.a]));
    rules.iter().map(|r| r.as_ref().map(say)).collect()
}

/// The first nodes that have an atom in the shapes of their results.
pub fn makers(graph: &Graph) -> BTreeMap<Atom, Origin> {
    let mut found = BTreeMap::new();
    for (_, node) in graph.nodes() {
        for dim in node.outputs.iter().flat_map(|v| &graph.fact(*v).shape) {
            dim.visit_atoms(&mut |atom| {
                if matches!(atom, Atom::Broadcast(..) | Atom::FloorDiv(..)) && !found.contains_key(atom) {
                    found.insert(atom.clone(), node.origin.clone());
                }
            });
        }
    }
    found
}

/// A formula, as far as somebody may want to read it.
fn short(d: &Dim) -> String {
    const LONGEST: usize = 60;
    let text = d.to_string();
    // Names of symbols may have any characters.
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn within(text: String, origin: &Origin) -> String {
    match origin.names().first() {
        Some(node) => format!("{text} in node {node:?}"),
        None => text,
    }
}

/// A difference without what all of it is multiplied by and is 0 or 1: where the rule is broken it is 1.
fn where_it_counts(mut difference: Dim) -> Dim {
    let factors = difference.terms().first().map_or(vec![], |(atoms, _)| atoms.clone());
    let several = difference.terms().len() > 1;
    for atom in factors.into_iter().filter(|_| several) {
        if let Atom::Min(a, b) = &atom
            && (a.is_one() || b.is_one())
            && let Some(rest) = difference.div_exact(&Dim::atom(atom.clone()))
        {
            difference = rest;
        }
    }
    difference
}

/// What is subtracted goes to the right side: `N-4` is `[N, 4]`.
fn parts(difference: &Dim) -> [Dim; 2] {
    let mut sides = [Dim::ZERO, Dim::ZERO];
    if let Some(constant) = difference.as_const() {
        return match constant < 0 {
            true => [Dim::ZERO, Dim::from(constant.saturating_neg())],
            false => [Dim::from(constant), Dim::ZERO],
        };
    }
    for (atoms, factor) in difference.terms() {
        let term = atoms.iter().fold(Dim::from(factor.saturating_abs()), |product, atom| {
            product * Dim::atom(atom.clone())
        });
        let side = &mut sides[usize::from(*factor < 0)];
        *side = side.clone() + term;
    }
    sides
}

/// Of a product of what is 0 where two numbers are equal and else 1 ([`cameo_ir::index::joins`]): the pairs of numbers.
fn one_of(product: &Dim) -> Option<Vec<[Dim; 2]>> {
    let [(atoms, 1)] = product.terms() else { return None };
    let pair = |atom: &Atom| {
        let Atom::Min(a, b) = atom else { return None };
        let apart = if a.is_one() { b } else { a };
        let [(atoms, 1)] = apart.terms() else { return None };
        let [Atom::Max(x, y)] = &atoms[..] else { return None };
        (*x == -y.clone() && (a.is_one() || b.is_one())).then(|| {
            let [a, b] = parts(x);
            // Constants last.
            if a.as_const().is_some() { [b, a] } else { [a, b] }
        })
    };
    atoms.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cameo_ir::index::joins;

    fn said(a: Dim, b: Dim, equal: bool) -> (String, String) {
        let origin = Origin::new("/Add");
        let said = Said::of(&Requirement { a, b, origin }, equal);
        (said.text, format!("{} {}", said.sides[0], said.sides[1]))
    }

    #[test]
    fn rules_in_words() {
        let (n, m) = (Dim::sym("N"), Dim::sym("M"));
        let four = Dim::from(4i64);
        let (text, sides) = said(n.clone() - four.clone(), Dim::ZERO, false);
        assert_eq!((&*text, &*sides), ("N <= 4 in node \"/Add\"", "N 4"));
        let (text, _) = said(n.clone() * Dim::from(2i64), m.clone() + Dim::ONE, true);
        assert_eq!(text, "2*N = M+1 in node \"/Add\"");
        let (a, b) = joins(std::slice::from_ref(&n), std::slice::from_ref(&four)).remove(0);
        let (text, sides) = said(a, b, false);
        assert_eq!(text, "N = 4 or N = 1 in node \"/Add\"");
        assert!(sides.starts_with("N "), "{sides}");
        let (a, b) = joins(std::slice::from_ref(&n), &[Dim::ONE]).remove(0);
        assert_eq!(said(a, b, false).0, "N = 1 in node \"/Add\"");
        let turns = (m.clone() * n.clone()).minimum(&Dim::ONE);
        let (text, sides) = said(turns.clone() * n.clone(), turns * four.clone(), false);
        assert_eq!((&*text, &*sides), ("N <= 4 in node \"/Add\"", "N 4"));
        let size = Said::size(&(n - four), &Origin::default());
        assert_eq!((&*size.text, &size.sides[0]), ("4 <= N", &Dim::from(4i64)));
    }
}
