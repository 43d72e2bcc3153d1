//! Nodes of one kind of which each depends on the one before along the same path.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use cameo_ir::{Graph, NodeId};
use rustc_hash::{FxHashMap, FxHashSet, FxHasher};

/// Fewer steps are not worth a loop, and patterns that repeat that often are not found by chance.
pub const LEAST: usize = 8;

/// Nodes above a node that are looked at: a step of a recurrence has fewer.
const NEAR: usize = 64;

/// Paths upwards that are followed from a node.
const LINKS: usize = 4;

/// What two nodes of one column have in common.
fn kind(g: &Graph, n: NodeId) -> u64 {
    let node = g.node(n);
    let mut h = FxHasher::default();
    node.op.hash(&mut h);
    node.attrs.hash(&mut h);
    for v in &node.outputs {
        let fact = g.fact(*v);
        (fact.dtype, &fact.shape).hash(&mut h);
    }
    h.finish()
}

/// Chains of at least [`LEAST`] nodes, first to last; the longest first, of equally long ones those with the shortest steps.
pub fn find(g: &Graph) -> Vec<Vec<NodeId>> {
    let order = g.order();
    let kinds: FxHashMap<NodeId, u64> = order.iter().map(|n| (*n, kind(g, *n))).collect();
    let mut count: FxHashMap<u64, usize> = FxHashMap::default();
    for k in kinds.values() {
        *count.entry(*k).or_default() += 1;
    }
    // By kind and path: node after node, in order.
    let mut keys: Vec<(u64, u64)> = vec![];
    let mut links: FxHashMap<(u64, u64), Vec<(NodeId, NodeId)>> = FxHashMap::default();
    let mut lengths: FxHashMap<(u64, u64), usize> = FxHashMap::default();
    for n in &order {
        if count[&kinds[n]] < LEAST {
            continue;
        }
        for (p, path, length) in above(g, &kinds, *n) {
            let key = (kinds[n], path);
            let list = links.entry(key).or_insert_with(|| {
                keys.push(key);
                vec![]
            });
            list.push((p, *n));
            lengths.insert(key, length);
        }
    }
    let mut out: Vec<(usize, Vec<NodeId>)> = vec![];
    for key in keys {
        let pairs = &links[&key];
        let mut next: FxHashMap<NodeId, NodeId> = FxHashMap::default();
        let mut later: FxHashSet<NodeId> = FxHashSet::default();
        for (p, n) in pairs {
            // Where steps part, the first one goes on.
            if !next.contains_key(p) && later.insert(*n) {
                next.insert(*p, *n);
            }
        }
        for (p, _) in pairs {
            if later.contains(p) || !next.contains_key(p) {
                continue;
            }
            let mut chain = vec![*p];
            let mut at = *p;
            while let Some(n) = next.remove(&at) {
                chain.push(n);
                at = n;
            }
            if chain.len() >= LEAST {
                out.push((lengths[&key], chain));
            }
        }
    }
    out.sort_by_key(|(length, chain)| (std::cmp::Reverse(chain.len()), *length));
    out.into_iter().map(|(_, chain)| chain).collect()
}

/// The nearest nodes of the same kind that `n` depends on, with the path there and its length.
fn above(g: &Graph, kinds: &FxHashMap<NodeId, u64>, n: NodeId) -> Vec<(NodeId, u64, usize)> {
    let mut out = vec![];
    let mut seen: FxHashSet<NodeId> = [n].into_iter().collect();
    let mut queue = VecDeque::from([(n, 0u64, 0usize)]);
    while let Some((at, path, length)) = queue.pop_front() {
        for (slot, v) in g.node(at).inputs.iter().enumerate() {
            let Some((p, output)) = v.and_then(|v| g.producer(v)) else {
                continue;
            };
            if seen.len() == NEAR || !seen.insert(p) {
                continue;
            }
            let mut h = FxHasher::default();
            (path, kinds.get(&p), slot, output).hash(&mut h);
            let path = h.finish();
            // Behind a node of the same kind in the same step is the one in the step before.
            if kinds.get(&p) == Some(&kinds[&n]) {
                out.push((p, path, length + 1));
                if out.len() == LINKS {
                    return out;
                }
            }
            queue.push_back((p, path, length + 1));
        }
    }
    out
}
