//! Sums of branches that read one value: one convolution, or one product with a matrix.

use cameo_ir::op::{OpError, invalid};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Dim, NodeId, ValueId};

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
    if clusters.iter().any(|c| mean(c) && !c.pays(&search)) {
        problems.push("means and their operands cost less than a convolution".into());
    }
    clusters.retain(|c| c.pays(&search) && (addends.len() == 1 || c.members.len() > 1));
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
    let coarse = search.is_coarse(root);
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
                    (Ok(_), None) if coarse && (first.has_weight() || b.has_weight()) => {
                        problems.push("the sum would be rounded to a 16-bit weight".into());
                    }
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
    fn pays(&self, search: &Search) -> bool {
        let g = search.g;
        let [(_, b)] = &self.members[..] else {
            return self.members.iter().any(|(_, b)| b.has_weight());
        };
        // A single scaled weight is fold_scales' business; here it is one that this pass made.
        let own = matches!(&b.map, Map::Conv(Conv { kernel: Kernel::Weight(w), .. })
            if g.producer(*w).is_some() && g.user_count(*w) == 1);
        own && !b.after.is_empty() && !search.is_coarse(b.value)
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

#[cfg(test)]
mod tests {
    use crate::reparam::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn depthwise_branches_with_strides() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4,9]) symbols N=0.. {
              weight %1: f32[4,1,3] = random
              weight %2: f32[4,1,1] = random
              weight %3: f32[4,1,3] = random
              %4 = Conv(%0, %1) {group=4, pads=[1,1], strides=[2]}
              %5 = Conv(%0, %2) {group=4, strides=[2]}
              %6 = Conv(%0, %3) {group=4, auto_pad="SAME_UPPER", strides=[2]}
              %7 = Add(%5, %6)
              %8 = Add(%4, %7)
              return %8 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,4,9]) symbols N=0.. {
          weight %1: f32[4,1,1] = dense(-0.875,-1.875,1.375,-1.25)
          weight %2: f32[4,1,3] = dense(…)
          weight %3: f32[4,1,3] = dense(…)
          %4 = Pad(%1) {pads=dims[0,0,1,0,0,1]} : f32[4,1,3]
          %5 = Add(%4, %2) : f32[4,1,3]
          %6 = Add(%3, %5) : f32[4,1,3]
          %7 = Conv(%0, %6) {dilations=[1], group=4, pads=[1,1], strides=[2]} : f32[N,4,5]
          return %7 "y"
        }
        "#);
    }

    #[test]
    fn a_scale_over_a_sum_goes_with_it() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,1,H]) symbols N=1.., H=1.. {
              weight %1: f32[2,1,2] = random
              weight %2: f32[2,1,1] = random
              weight %3: f32[1,2,1] = positive
              weight %4: f32[] = dense(0.5)
              %5 = Conv(%0, %1) {pads=[0,1]}
              %6 = Conv(%0, %2)
              %7 = Sub(%5, %6)
              %8 = Div(%7, %3)
              %9 = Sub(%4, %8)
              return %9 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,1,H]) symbols N=1.., H=1.. {
          weight %1: f32[2,1,1] = dense(-1.125,0.25)
          weight %2: f32[2,1,2] = dense(1.0,-2.0,-2.0,-2.0)
          weight %3: f32[1,2,1] = dense(2.375,1.375)
          weight %4: f32[] = dense(0.5)
          %5 = Pad(%1) {pads=dims[0,0,0,0,0,1]} : f32[2,1,2]
          %6 = Sub(%2, %5) : f32[2,1,2]
          %7 = Reshape(%3) {shape=dims[2,1,1]} : f32[2,1,1]
          %8 = Div(%6, %7) : f32[2,1,2]
          %9 = Neg(%8) : f32[2,1,2]
          %10 = Expand(%4) {shape=dims[2]} : f32[2]
          %11 = Conv(%0, %9, %10) {dilations=[1], group=1, pads=[0,1], strides=[1]} : f32[N,2,H]
          return %11 "y"
        }
        "#);
    }

    #[test]
    fn a_mean_that_counts_its_padding() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,5,W]) symbols N=1.., W=1.. {
              weight %1: f32[2,1,3,3] = random
              weight %2: f32[2,1,1] = random
              %3 = Conv(%0, %1) {group=2, pads=[1,1,1,1]}
              %4 = AveragePool(%0) {kernel_shape=[3,2], pads=[1,0,1,1], count_include_pad=1}
              %5 = Mul(%4, %2)
              %6 = Add(%3, %5)
              return %6 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,5,W]) symbols N=1.., W=1.. {
          weight %1: f32[2,1,1] = dense(0.5,1.5)
          weight %2: f32[2,1,1,1] = dense(0.16666667,0.16666667)
          weight %3: f32[2,1,3,3] = dense(…)
          %4 = Reshape(%1) {shape=dims[2,1,1,1]} : f32[2,1,1,1]
          %5 = Mul(%2, %4) : f32[2,1,1,1]
          %6 = Expand(%5) {shape=dims[2,1,3,2]} : f32[2,1,3,2]
          %7 = Pad(%6) {pads=dims[0,0,0,1,0,0,0,0]} : f32[2,1,3,3]
          %8 = Add(%3, %7) : f32[2,1,3,3]
          %9 = Conv(%0, %8) {dilations=[1,1], group=2, pads=[1,1,1,1], strides=[1,1]} : f32[N,2,5,W]
          return %9 "y"
        }
        "#);
    }

    #[test]
    fn groups_become_blocks() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4,H]) symbols N=1.., H=1.. {
              weight %1: f32[8,4,1] = random
              weight %2: f32[8,2,1] = random
              weight %3: f32[8,1,1] = random
              %4 = Conv(%0, %1)
              %5 = Conv(%0, %2) {group=2}
              %6 = Conv(%0, %3) {group=4}
              %7 = Sub(%5, %4)
              %8 = Sub(%6, %7)
              return %8 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,4,H]) symbols N=1.., H=1.. {
          weight %1: f32[8,1,1] = dense(…)
          weight %2: f32[8,2,1] = dense(…)
          weight %3: f32[8,4,1] = dense(…)
          %4 = Reshape(%1) {shape=dims[1,4,2,1,1]} : f32[1,4,2,1,1]
          %5 = ConstantOfShape() {shape=dims[4,4], value=f32[1] dense(0.0)} : f32[4,4]
          %6 = EyeLike(%5) : f32[4,4]
          %7 = Reshape(%6) {shape=dims[4,1,4,1]} : f32[4,1,4,1]
          %8 = Mul(%4, %7) : f32[1,4,2,4,1]
          %9 = Reshape(%8) {shape=dims[8,4,1]} : f32[8,4,1]
          %10 = Reshape(%2) {shape=dims[1,2,4,1,2]} : f32[1,2,4,1,2]
          %11 = ConstantOfShape() {shape=dims[2,2], value=f32[1] dense(0.0)} : f32[2,2]
          %12 = EyeLike(%11) : f32[2,2]
          %13 = Reshape(%12) {shape=dims[2,1,2,1]} : f32[2,1,2,1]
          %14 = Mul(%10, %13) : f32[1,2,4,2,2]
          %15 = Reshape(%14) {shape=dims[8,4,1]} : f32[8,4,1]
          %16 = Sub(%15, %3) : f32[8,4,1]
          %17 = Sub(%9, %16) : f32[8,4,1]
          %18 = Conv(%0, %17) {dilations=[1], group=1, pads=[0,0], strides=[1]} : f32[N,8,H]
          return %18 "y"
        }
        "#);
    }

    #[test]
    fn dilated_and_asymmetric_kernels() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H,W]) symbols N=1.., H=1.., W=1.. {
              weight %1: f32[2,2,3,3] = random
              weight %2: f32[2,2,1,3] = random
              weight %3: f32[2,2,3,1] = random
              %4 = Conv(%0, %1) {pads=[2,1,2,1], dilations=[2,1]}
              %5 = Conv(%0, %2) {pads=[0,1,0,1], dilations=[3,1]}
              %6 = Conv(%0, %3) {pads=[2,0,2,0], dilations=[2,5]}
              %7 = Add(%4, %5)
              %8 = Add(%7, %6)
              return %8 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,H,W]) symbols N=1.., H=1.., W=1.. {
          weight %1: f32[2,2,1,3] = dense(…)
          weight %2: f32[2,2,3,3] = dense(…)
          weight %3: f32[2,2,3,1] = dense(…)
          %4 = Pad(%1) {pads=dims[0,0,1,0,0,0,1,0]} : f32[2,2,3,3]
          %5 = Add(%2, %4) : f32[2,2,3,3]
          %6 = Pad(%3) {pads=dims[0,0,0,1,0,0,0,1]} : f32[2,2,3,3]
          %7 = Add(%5, %6) : f32[2,2,3,3]
          %8 = Conv(%0, %7) {dilations=[2,1], group=1, pads=[2,1,2,1], strides=[1,1]} : f32[N,2,H,W]
          return %8 "y"
        }
        "#);
    }

    #[test]
    fn other_addends_stay() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H], %1 "z": f32[N,2,H]) symbols N=1.., H=1.. {
              weight %2: f32[2,2,1] = random
              weight %3: f32[2,2,3] = random
              %4 = Conv(%0, %2) from "a"
              %5 = Sub(%1, %4) from "sub"
              %6 = Conv(%0, %3) {pads=[1,1]} from "b"
              %7 = Conv(%1, %3) {pads=[1,1]} from "c"
              %8 = Sub(%5, %6) from "sub_1"
              %9 = Add(%8, %7) from "add"
              return %9 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,H], %1 "z": f32[N,2,H]) symbols N=1.., H=1.. {
          weight %2: f32[2,1,1] = dense(1.0,1.0)
          weight %3: f32[2,2,3] = dense(…)
          weight %4: f32[2,2,1] = dense(1.0,-2.0,-2.0,-2.0)
          %5 = Reshape(%2) {shape=dims[1,2,1,1,1]} : f32[1,2,1,1,1] from "a", "add", "b", "c", "sub", "sub_1"
          %6 = ConstantOfShape() {shape=dims[2,2], value=f32[1] dense(…)
          %7 = EyeLike(%6) : f32[2,2] from "a", "add", "b", "c", "sub", "sub_1"
          %8 = Reshape(%7) {shape=dims[2,1,2,1]} : f32[2,1,2,1] from "a", "add", "b", "c", "sub", "sub_1"
          %9 = Mul(%5, %8) : f32[1,2,1,2,1] from "a", "add", "b", "c", "sub", "sub_1"
          %10 = Reshape(%9) {shape=dims[2,2,1]} : f32[2,2,1] from "a", "add", "b", "c", "sub", "sub_1"
          %11 = Pad(%10) {pads=dims[0,0,1,0,0,1]} : f32[2,2,3] from "a", "add", "b", "c", "sub", "sub_1"
          %12 = Add(%11, %3) : f32[2,2,3] from "a", "add", "b", "c", "sub", "sub_1"
          %13 = Conv(%1, %12) {dilations=[1], group=1, pads=[1,1], strides=[1]} : f32[N,2,H] from "a", "add", "b", "c", "sub", "sub_1"
          %14 = Pad(%4) {pads=dims[0,0,1,0,0,1]} : f32[2,2,3] from "a", "b", "sub", "sub_1"
          %15 = Neg(%14) : f32[2,2,3] from "a", "b", "sub", "sub_1"
          %16 = Sub(%15, %3) : f32[2,2,3] from "a", "b", "sub", "sub_1"
          %17 = Conv(%0, %16) {dilations=[1], group=1, pads=[1,1], strides=[1]} : f32[N,2,H] from "a", "b", "sub", "sub_1"
          %18 = Add(%13, %17) : f32[N,2,H] from "a", "add", "b", "c", "sub", "sub_1"
          return %18 "y"
        }
        "#);
    }

    #[test]
    fn products_with_matrices() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,3]) symbols N=1.. {
              weight %1: f32[3,2] = random
              weight %2: f32[2] = random
              weight %3: f32[3,2] = random
              %4 = MatMul(%0, %1)
              %5 = Add(%4, %2)
              %6 = MatMul(%0, %3)
              %7 = Sub(%5, %6)
              return %7 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,3]) symbols N=1.. {
          weight %1: f32[3,2] = dense(…)
          weight %2: f32[3,2] = dense(…)
          weight %3: f32[2] = dense(-1.875,-0.875)
          %4 = Sub(%1, %2) : f32[3,2]
          %5 = MatMul(%0, %4) : f32[N,2]
          %6 = Add(%5, %3) : f32[N,2]
          return %6 "y"
        }
        "#);
    }

    #[test]
    fn a_residual_connection_is_no_branch() {
        // The convolution reads something else, and the last sum broadcasts.
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=1.. {
              weight %1: f32[2,2,3] = random
              weight %2: f32[1,2,1] = random
              %3 = Relu(%0)
              %4 = Conv(%3, %1) {pads=[1,1]}
              %5 = Add(%4, %0)
              %6 = Conv(%5, %2)
              %7 = Add(%5, %6)
              return %7 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"");
    }

    #[test]
    fn refuses_other_strides() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,5]) symbols N=1.. {
              weight %1: f32[2,2,3] = random
              weight %2: f32[2,2,1] = random
              %3 = Conv(%0, %1)
              %4 = Conv(%0, %2) {strides=[2]}
              %5 = Add(%3, %4)
              return %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"sum of branches: their strides differ");
    }

    #[test]
    fn refuses_taps_that_do_not_meet() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,1,H,W]) symbols N=1.., H=1.., W=1.. {
              weight %1: f32[1,1,1,7] = random
              weight %2: f32[1,1,7,1] = random
              weight %3: f32[1,1,3,1] = random
              weight %4: f32[1,1,2,1] = random
              %5 = Conv(%0, %1) {pads=[0,3,0,3]}
              %6 = Conv(%0, %2) {pads=[3,0,3,0]}
              %7 = Add(%5, %6)
              %8 = Relu(%7)
              %9 = Conv(%8, %2) {pads=[3,0,3,0]}
              %10 = Conv(%8, %2) {pads=[6,0,6,0], dilations=[2,1]}
              %11 = Add(%9, %10)
              %12 = Relu(%11)
              %13 = Conv(%12, %3) {pads=[2,0,2,0], dilations=[2,1]}
              %14 = Conv(%12, %4) {pads=[1,0,1,0], dilations=[2,1]}
              %15 = Add(%13, %14)
              return %15 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        sum of branches: one convolution takes 49 multiplications per position, the branches 14
        sum of branches: their dilations differ
        sum of branches: their taps lie between each other
        "#);
    }

    #[test]
    fn refuses_groups_that_would_fill_with_zeros() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,4,H]) symbols N=1.., H=1.. {
              weight %1: f32[4,1,3] = random
              weight %2: f32[4,4,1] = random
              %3 = Conv(%0, %1) {pads=[1,1], group=4}
              %4 = Conv(%0, %2)
              %5 = Add(%3, %4)
              return %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"sum of branches: one convolution takes 48 multiplications per position, the branches 28");
    }

    #[test]
    fn refuses_results_that_others_read() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=1.. {
              weight %1: f32[2,2,3] = random
              %2 = Conv(%0, %1) {pads=[1,1]}
              %3 = Add(%2, %0)
              %4 = Mul(%2, %3)
              return %4 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"sum of branches: the result of a branch is also read by others");
    }

    #[test]
    fn refuses_means_that_do_not_count_their_padding() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=1.. {
              weight %1: f32[2,1,3] = random
              %2 = Conv(%0, %1) {pads=[1,1], group=2}
              %3 = AveragePool(%0) {kernel_shape=[3], pads=[1,1]}
              %4 = Add(%2, %3)
              return %4 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"sum of branches: AveragePool has means of fewer elements at the border");
    }

    #[test]
    fn a_mean_alone_is_cheaper_than_a_convolution() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=1.. {
              %1 = AveragePool(%0) {kernel_shape=[3], pads=[1,1], count_include_pad=1}
              %2 = Sub(%1, %0)
              return %2 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"sum of branches: means and their operands cost less than a convolution");
    }

    #[test]
    fn refuses_weights_that_are_computed() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H], %1 "w": f32[2,2,3]) symbols N=1.., H=1.. {
              %2 = Conv(%0, %1) {pads=[1,1]}
              %3 = Add(%2, %0)
              return %3 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"sum of branches: the weight or bias of Conv is not a constant");
    }

    #[test]
    fn refuses_half_precision() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f16[N,2,H]) symbols N=1.., H=1.. {
              weight %1: f16[2,2,3] = random
              %2 = Conv(%0, %1) {pads=[1,1]}
              %3 = Add(%2, %0)
              return %3 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"sum of branches: the sum would be rounded to a 16-bit weight");
    }

    #[test]
    fn unknown_channels_may_broadcast() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,C,H]) symbols N=1.., C=1.., H=1.. {
              weight %1: f32[2,2,1] = random
              %2 = Conv(%0, %1)
              %3 = Add(%2, %0)
              return %3 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"");
    }
}
