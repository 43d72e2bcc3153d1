//! Sums of branches that read one value: one convolution, or one product with a matrix.

use cameo_ir::op::OpError;
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Dim, NodeId, ValueId};

use super::branch::{Branch, Form, Map, Search};
use super::recipe;
use super::window::Window;

/// Branches that become one.
struct Cluster {
    /// Positions in the list of addends.
    members: Vec<usize>,
    /// What the members cost now, and what they cost together.
    apart: u64,
    together: Together,
}

#[derive(Clone)]
enum Together {
    /// Identities only.
    Copies,
    Conv(Form),
    MatMul,
}

/// `Σ ± branch(x)` → `Conv(x, Σ ± kernel, Σ ± bias)`
pub fn merge(rw: &mut Rewriter, constants: &[bool], n: NodeId) -> Outcome {
    let g = rw.graph();
    let search = Search { g, constants };
    let root = g.node(n).outputs[0];
    let mut nodes = vec![];
    let addends = search.addends(root, &mut nodes);
    if addends.iter().all(|b| matches!(b.map, Map::Identity) && b.look_alike.is_none()) {
        return Outcome::NoMatch;
    }
    let (clusters, mut problems) = clustered(&search, root, &addends);
    problems.extend(look_alikes(&addends));
    let means = |c: &Cluster| matches!(c.together, Together::Conv(_)) && c.members.len() > 1;
    if clusters.iter().any(|c| means(c) && !search.pays(c, &addends)) {
        problems.push("means and their operands cost less than a convolution".into());
    }
    let merged: Vec<&Cluster> = clusters.iter().filter(|c| search.pays(c, &addends)).collect();
    let detail = "sum of branches";
    if merged.is_empty() {
        // A sum that goes on will say it, when it comes to nothing either.
        let goes_on = rw.used_once(root)
            && (rw.graph().users(root).iter()).any(|u| matches!(rw.node(*u).op.name(), "Add" | "Sub"));
        return match problems.into_iter().next() {
            Some(reason) if !goes_on => rw.refuse(&nodes, detail, reason),
            _ => Outcome::NoMatch,
        };
    }
    if !nodes.contains(&n) {
        nodes.insert(0, n);
    }
    let parts = merged.iter().flat_map(|c| &c.members);
    for node in parts.flat_map(|i| &addends[*i].nodes) {
        if !nodes.contains(node) {
            nodes.push(*node);
        }
    }
    let of = |i: usize| merged.iter().find(|c| c.members.contains(&i));
    rw.replace_one(&nodes, detail, |rw| {
        let mut terms = vec![];
        for (i, b) in addends.iter().enumerate() {
            match of(i) {
                None => terms.push((b.negative, b.value)),
                Some(c) if c.members.first() == Some(&i) => terms.push((false, built(rw, c, &addends)?)),
                Some(_) => {}
            }
        }
        added(rw, terms)
    })
}

/// Sorts the addends into clusters, the costliest first, as long as together they cost no more than apart; and says why
/// some that read the same value are in different ones.
fn clustered(search: &Search, root: ValueId, addends: &[Branch]) -> (Vec<Cluster>, Vec<String>) {
    let rank = search.g.fact(root).rank();
    let mut order: Vec<usize> = (0..addends.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(addends[*i].cost()), !addends[*i].has_weight()));
    let mut clusters: Vec<Cluster> = vec![];
    let mut problems = vec![];
    for i in order {
        let b = &addends[i];
        let apart = b.cost();
        let mut joined = false;
        for c in &mut clusters {
            let first = &addends[c.members[0]];
            if first.source != b.source {
                continue;
            }
            match joint(&c.together, b, rank, c.apart.saturating_add(apart)) {
                Ok(together) => {
                    c.together = together;
                    c.apart = c.apart.saturating_add(apart);
                    c.members.push(i);
                    joined = true;
                    break;
                }
                Err(reason) if first.has_weight() => problems.push(reason),
                Err(_) => {}
            }
        }
        if !joined && let Ok(together) = joint(&Together::Copies, b, rank, u64::MAX) {
            clusters.push(Cluster {
                members: vec![i],
                apart,
                together,
            });
        }
    }
    for c in &mut clusters {
        c.members.sort_unstable();
    }
    (clusters, problems)
}

/// The map that does what `together` does and `b` as well, for at most `apart` multiplications.
fn joint(together: &Together, b: &Branch, rank: usize, apart: u64) -> Result<Together, String> {
    let along = |channels: usize| b.after.iter().filter_map(super::branch::After::axis).all(|a| a == channels);
    let mixed = Err("they scale or sum different axes".to_string());
    let form = match (together, &b.map) {
        (Together::Copies, Map::Identity) => return Ok(Together::Copies),
        (Together::Copies | Together::MatMul, Map::MatMul(_)) if along(rank - 1) => return Ok(Together::MatMul),
        // An identity costs nothing where it is: the product adds it to its sums.
        (Together::MatMul, Map::Identity) => return Err("the identity is added by the product for nothing".into()),
        (Together::Copies, Map::Conv(c)) if along(1) => return Ok(Together::Conv(c.form.clone())),
        (Together::Conv(form), Map::Identity) if along(1) && form.inputs == form.outputs => {
            let identity = Form::per_channel(form.inputs, Window::identity(form.window.kernel.len()));
            union(form, &identity)?
        }
        (Together::Conv(form), Map::Conv(c)) if along(1) => union(form, &c.form)?,
        _ => return mixed,
    };
    match form.cost() {
        cost if cost <= apart => Ok(Together::Conv(form)),
        cost => Err(format!(
            "one convolution takes {cost} multiplications per position, the branches {apart}"
        )),
    }
}

fn union(a: &Form, b: &Form) -> Result<Form, String> {
    if (a.inputs, a.outputs) != (b.inputs, b.outputs) {
        return Err("their channels differ".into());
    }
    Ok(Form {
        group: gcd(a.group, b.group),
        window: a.window.union(&b.window)?,
        ..*a
    })
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Why addends that read the same value are no branches: one reason per such addend.
fn look_alikes(addends: &[Branch]) -> Vec<String> {
    let reads = |b: &Branch, source: ValueId| {
        b.source == source || b.look_alike.as_ref().is_some_and(|(other, _)| *other == source)
    };
    let mut out = vec![];
    for (i, b) in addends.iter().enumerate() {
        if let Some((source, reason)) = &b.look_alike
            && (addends.iter().enumerate()).any(|(j, other)| i != j && reads(other, *source))
        {
            out.push(reason.clone());
        }
    }
    out
}

impl Search<'_> {
    /// Whether there is something to gain: several branches become one, or a convolution takes what follows it.
    fn pays(&self, c: &Cluster, addends: &[Branch]) -> bool {
        let weighted = c.members.iter().any(|i| addends[*i].has_weight());
        let [i] = c.members[..] else { return weighted };
        let b = &addends[i];
        // A single scaled weight is fold_scales' business; here it is one that this pass made.
        let own = matches!(&b.map, Map::Conv(conv) if match conv.kernel {
            super::branch::Kernel::Weight(w) => self.g.producer(w).is_some() && self.g.users(w).len() == 1,
            _ => false,
        });
        own && addends.len() == 1 && !b.after.is_empty()
    }
}

fn built(rw: &mut Rewriter, c: &Cluster, addends: &[Branch]) -> Result<ValueId, OpError> {
    let members: Vec<&Branch> = c.members.iter().map(|i| &addends[*i]).collect();
    let source = members[0].source;
    match &c.together {
        Together::Conv(form) => {
            let kernel = recipe::sum(rw, &members, |rw, b| recipe::kernel(rw, b, form))?;
            let channels = [Dim::from(form.outputs)];
            let bias = recipe::bias(rw, &members, &channels)?;
            let mut inputs = vec![source, kernel];
            inputs.extend(bias);
            rw.apply("Conv", &form.window.attrs(form.group), &inputs)
        }
        _ => {
            let matrix = recipe::sum(rw, &members, recipe::matrix)?;
            let y = rw.apply("MatMul", &[], &[source, matrix])?;
            let channels = [rw.fact(matrix).shape[1].clone()];
            match recipe::bias(rw, &members, &channels)? {
                Some(bias) => rw.apply("Add", &[], &[y, bias]),
                None => Ok(y),
            }
        }
    }
}

/// The sum of `(negative, value)` terms. A positive one comes first where there is one.
fn added(rw: &mut Rewriter, mut terms: Vec<(bool, ValueId)>) -> Result<ValueId, OpError> {
    let first = terms.iter().position(|(negative, _)| !negative).unwrap_or(0);
    let (negative, mut sum) = terms.remove(first);
    if negative {
        sum = rw.apply("Neg", &[], &[sum])?;
    }
    for (negative, v) in terms {
        sum = rw.apply(if negative { "Sub" } else { "Add" }, &[], &[sum, v])?;
    }
    Ok(sum)
}
