//! Sums of branches that read one value: one convolution, or one product with a matrix.

use cameo_ir::op::{OpError, invalid};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Dim, Graph, NodeId, ValueId};

use super::branch::{After, Branch, Conv, Form, Kernel, Map, Search};
use super::products::composed;
use super::recipe;
use super::window::Window;

/// Branches that become one.
struct Cluster {
    /// With their positions in the list of addends.
    members: Vec<(usize, Branch)>,
    /// What the members cost now, and what they are together.
    apart: u64,
    together: Together,
}

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
    if addends
        .iter()
        .all(|b| matches!(b.map, Map::Identity) && b.look_alike.is_none())
    {
        return Outcome::NoMatch;
    }
    let (mut clusters, mut problems) = clustered(&search, root, &addends);
    problems.extend(look_alikes(&addends));
    let mean = |c: &Cluster| matches!(c.together, Together::Conv(_)) && c.members.len() > 1;
    if clusters.iter().any(|c| mean(c) && !c.pays(g)) {
        problems.push("means and their operands cost less than a convolution".into());
    }
    clusters.retain(|c| c.pays(g) && (addends.len() == 1 || c.members.len() > 1));
    let detail = "sum of branches";
    if clusters.is_empty() {
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
    let members = clusters.iter().flat_map(|c| &c.members);
    for node in members.flat_map(|(_, b)| &b.nodes) {
        if !nodes.contains(node) {
            nodes.push(*node);
        }
    }
    rw.replace_one(&nodes, detail, |rw| {
        let mut terms = vec![];
        for (i, b) in addends.iter().enumerate() {
            let position = |c: &Cluster| c.members.iter().position(|(j, _)| *j == i);
            match clusters.iter().find_map(|c| Some((c, position(c)?))) {
                None => terms.push((b.negative, b.value)),
                Some((c, 0)) => {
                    let members: Vec<&Branch> = c.members.iter().map(|(_, b)| b).collect();
                    let form = match &c.together {
                        Together::Conv(form) => Some(form),
                        _ => None,
                    };
                    terms.push((false, built(rw, form, &members)?));
                }
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
    'addends: for i in order {
        for (b, problem) in ways(search, &addends[i]) {
            let apart = b.apart();
            for c in &mut clusters {
                let first = &c.members[0].1;
                if first.source != b.source {
                    continue;
                }
                let joint = joint(&c.together, &b, rank, c.apart.saturating_add(apart));
                match (joint, &problem) {
                    (Ok(together), None) => {
                        c.together = together;
                        c.apart = c.apart.saturating_add(apart);
                        c.members.push((i, b));
                        continue 'addends;
                    }
                    (Err(reason), _) if first.has_weight() => problems.push(reason),
                    (Ok(_), Some(reason)) => problems.push(reason.clone()),
                    _ => {}
                }
            }
        }
        let b = &addends[i];
        if let Ok(together) = joint(&Together::Copies, b, rank, u64::MAX) {
            clusters.push(Cluster {
                members: vec![(i, b.clone())],
                apart: b.cost(),
                together,
            });
        }
    }
    for c in &mut clusters {
        c.members.sort_by_key(|(i, _)| *i);
    }
    (clusters, problems)
}

/// Longer chains of linear maps are not written; those of low rank have two.
const CHAIN_MAX: usize = 4;

/// A branch as it is, and as the product with what its source comes from, and so on; with what speaks against it.
fn ways(search: &Search, b: &Branch) -> Vec<(Branch, Option<String>)> {
    let mut out = vec![(b.clone(), None)];
    while let Some((last, None)) = out.last()
        && out.len() < CHAIN_MAX
        && let Some(product) = composed(search, last)
    {
        let branch = Branch {
            negative: b.negative,
            ..product.branch
        };
        out.push((branch, product.problem));
    }
    out
}

/// The map that does what `together` does and `b` as well, for at most `apart` multiplications.
fn joint(together: &Together, b: &Branch, rank: usize, apart: u64) -> Result<Together, String> {
    let along = |channels: usize| b.after.iter().filter_map(After::axis).all(|a| a == channels);
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

pub fn gcd(a: i64, b: i64) -> i64 {
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

impl Cluster {
    /// Whether there is something to gain: several branches become one, or a convolution takes what follows it.
    fn pays(&self, g: &Graph) -> bool {
        let [(_, b)] = &self.members[..] else {
            return self.members.iter().any(|(_, b)| b.has_weight());
        };
        // A single scaled weight is fold_scales' business; here it is one that this pass made.
        let own = matches!(&b.map, Map::Conv(Conv { kernel: Kernel::Weight(w), .. })
            if g.producer(*w).is_some() && g.users(*w).len() == 1);
        own && !b.after.is_empty()
    }
}

/// One node that does what the members do: a convolution of that form, or a product with a matrix.
pub fn built(rw: &mut Rewriter, form: Option<&Form>, members: &[&Branch]) -> Result<ValueId, OpError> {
    let Some(source) = members.first().map(|b| b.source) else {
        return invalid("no branches");
    };
    if let Some(form) = form {
        let kernel = recipe::sum(rw, members, |rw, b| recipe::kernel(rw, b, form))?;
        let bias = recipe::bias(rw, members, &[Dim::from(form.outputs)])?;
        let mut inputs = vec![source, kernel];
        inputs.extend(bias);
        return rw.apply("Conv", &form.window.attrs(form.group), &inputs);
    }
    let matrix = recipe::sum(rw, members, recipe::matrix)?;
    let y = rw.apply("MatMul", &[], &[source, matrix])?;
    let channels = [rw.fact(matrix).shape[1].clone()];
    match recipe::bias(rw, members, &channels)? {
        Some(bias) => rw.apply("Add", &[], &[y, bias]),
        None => Ok(y),
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
