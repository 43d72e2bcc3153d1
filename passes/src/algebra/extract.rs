//! Chooses a term for every e-class so that together they cost little, counting what they share once.
//!
//! Bottom-up with cost sets: the cost of a choice is the sum over the *set* of classes below it, so an operand used twice
//! is paid once. Greedy per class (the exact problem is NP-hard) and deterministic: classes by number, terms in order, and
//! the first of equal cost stays.

use egg::Id;
use rustc_hash::FxHashMap;

use super::cost::Costs;
use super::language::{EGraph, ENode};

/// A choice for a class: its term and the classes that it needs, itself included, with their own costs.
struct Choice {
    node: ENode,
    total: u64,
    needs: Vec<(Id, u64)>,
}

/// The chosen terms.
pub struct Extraction {
    choices: FxHashMap<Id, Choice>,
    /// How often a term was considered.
    pub offers: usize,
}

/// Costs sink from round to round; a chain of improvements longer than this is not worth waiting for.
const MAX_ROUNDS: usize = 32;

impl Extraction {
    pub fn new(g: &EGraph, costs: &Costs) -> Self {
        let mut classes: Vec<Id> = g.classes().map(|c| c.id).collect();
        classes.sort_unstable();
        let priced: Vec<(Id, Vec<(u64, &ENode)>)> = classes
            .iter()
            .map(|id| {
                let nodes = &g[*id].nodes;
                (
                    *id,
                    nodes.iter().filter_map(|n| Some((costs.of(g, *id, n)?, n))).collect(),
                )
            })
            .collect();
        let mut out = Self {
            choices: FxHashMap::default(),
            offers: 0,
        };
        for _ in 0..MAX_ROUNDS {
            let mut changed = false;
            for (id, nodes) in &priced {
                out.offers += nodes.len();
                for (own, node) in nodes {
                    changed |= out.offer(g, *id, *own, node);
                }
            }
            if !changed {
                break;
            }
        }
        out
    }

    fn offer(&mut self, g: &EGraph, id: Id, own: u64, node: &ENode) -> bool {
        let mut needs: Vec<(Id, u64)> = vec![(id, own)];
        for c in &node.children {
            let Some(choice) = self.choices.get(&g.find(*c)) else {
                return false;
            };
            if choice.needs.binary_search_by_key(&id, |(i, _)| *i).is_ok() {
                return false;
            }
            needs = union(&needs, &choice.needs);
        }
        let total = needs.iter().fold(0u64, |a, (_, c)| a.saturating_add(*c));
        if self.choices.get(&id).is_some_and(|c| c.total <= total) {
            return false;
        }
        let node = node.clone();
        self.choices.insert(id, Choice { node, total, needs });
        true
    }

    /// The term of a class.
    pub fn term(&self, id: Id) -> Option<&ENode> {
        self.choices.get(&id).map(|c| &c.node)
    }
}

/// Of two lists sorted by class.
fn union(a: &[(Id, u64)], b: &[(Id, u64)]) -> Vec<(Id, u64)> {
    let mut out = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        match a[i].0.cmp(&b[j].0) {
            std::cmp::Ordering::Less => {
                out.push(a[i]);
                i += 1;
            }
            std::cmp::Ordering::Greater => {
                out.push(b[j]);
                j += 1;
            }
            std::cmp::Ordering::Equal => {
                out.push(a[i]);
                i += 1;
                j += 1;
            }
        }
    }
    out.extend(&a[i..]);
    out.extend(&b[j..]);
    out
}
