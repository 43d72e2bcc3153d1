//! `TreeEnsemble` and the two operations that it replaced, which say the same trees by other attributes.
//!
//! In all of them NaN takes the way of the comparison that holds when the node tracks it as true.

use std::collections::{BTreeMap, BTreeSet};

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::composed::{Composed, concat, slice};
use crate::ops::fragment::Fragment;
use crate::ops::ml::forest::{Forest, Join, Mode, Node};
use crate::ops::ml::scores::{POST, Post, first_maximum};
use crate::ops::ml::{LABELS, NUMBERS, computed_in, labels};
use crate::{Attr, DType, Dim, Tensor, ValueId};

const X: &[Param] = &[Param::new("X", NUMBERS)];
const FLOAT: Types = Types::of(&[DType::F32]);

/// A place in a list of `n`.
fn place(v: i64, n: usize, what: &str) -> Result<usize, OpError> {
    match usize::try_from(v).ok().filter(|v| *v < n) {
        Some(v) => Ok(v),
        None => invalid(format!("{what} {v} of {n}")),
    }
}

/// A feature's number; whether the operand has it is asked where the trees are put together.
fn feature(v: i64) -> Result<usize, OpError> {
    place(v, i32::MAX as usize, "feature")
}

/// Lists of one entry for each of `n` things.
fn same_length(n: usize, lists: &[(&str, usize)]) -> Result<(), OpError> {
    match lists.iter().find(|(_, len)| *len != n) {
        None => Ok(()),
        Some((name, len)) => invalid(format!("`{name}` has {len} entries, {n} are wanted")),
    }
}

/// Floats that are given in a list or as a tensor.
fn floats(cx: &Cx, list: &str, tensor: &str) -> Result<Vec<f64>, OpError> {
    Ok(match (cx.opt_floats(list)?, cx.opt_tensor(tensor)?) {
        (Some(_), Some(_)) => return invalid(format!("both `{list}` and `{tensor}` are given")),
        (_, Some(t)) => t.to_f64(),
        (v, None) => v.unwrap_or_default().into_iter().map(f64::from).collect(),
    })
}

fn ints(cx: &Cx, name: &str) -> Result<Vec<i64>, OpError> {
    Ok(cx.opt_ints(name)?.unwrap_or_default())
}

/// The type to compute in: `f64` when a threshold is.
fn work(cx: &Cx, splits: Option<&Tensor>) -> Result<DType, OpError> {
    let wide = splits.is_some_and(|t| t.dtype() == DType::F64);
    Ok(if wide {
        DType::F64
    } else {
        computed_in(cx.fact(0)?.dtype)
    })
}

/// The trees of the old operations, whose weights are in the attributes that begin with `prefix`.
fn old_forest(cx: &Cx, prefix: &str, targets: usize, join: Join) -> Result<Forest, OpError> {
    let modes = cx.opt_strs("nodes_modes")?.unwrap_or_default();
    let n = modes.len();
    let (trees, ids) = (ints(cx, "nodes_treeids")?, ints(cx, "nodes_nodeids")?);
    let (hits, misses) = (ints(cx, "nodes_truenodeids")?, ints(cx, "nodes_falsenodeids")?);
    let features = ints(cx, "nodes_featureids")?;
    let splits = floats(cx, "nodes_values", "nodes_values_as_tensor")?;
    let missing = cx
        .opt_ints("nodes_missing_value_tracks_true")?
        .unwrap_or_else(|| vec![0; n]);
    same_length(
        n,
        &[
            ("nodes_treeids", trees.len()),
            ("nodes_nodeids", ids.len()),
            ("nodes_truenodeids", hits.len()),
            ("nodes_falsenodeids", misses.len()),
            ("nodes_featureids", features.len()),
            ("nodes_values", splits.len()),
            ("nodes_missing_value_tracks_true", missing.len()),
        ],
    )?;
    let at: BTreeMap<(i64, i64), usize> = trees.iter().copied().zip(ids).zip(0..).collect();
    let find = |tree: i64, id: i64| match at.get(&(tree, id)) {
        Some(i) => Ok(*i),
        None => invalid(format!("tree {tree} has no node {id}")),
    };
    let mut nodes = vec![];
    for (i, mode) in modes.iter().enumerate() {
        let mode = match &**mode {
            "LEAF" => {
                nodes.push(Node::leaf(i));
                continue;
            }
            "BRANCH_LEQ" => Mode::AtMost,
            "BRANCH_LT" => Mode::Below,
            "BRANCH_GTE" => Mode::AtLeast,
            "BRANCH_GT" => Mode::Above,
            "BRANCH_EQ" => Mode::Equal,
            "BRANCH_NEQ" => Mode::Differs,
            other => return invalid(format!("attribute `nodes_modes` has `{other}`")),
        };
        let ways = [find(trees[i], hits[i])?, find(trees[i], misses[i])?];
        nodes.push(Node::branch(
            mode,
            feature(features[i])?,
            splits[i],
            ways,
            missing[i] != 0,
        ));
    }
    let name = |s: &str| format!("{prefix}_{s}");
    let (of_tree, of_node, to) = (
        ints(cx, &name("treeids"))?,
        ints(cx, &name("nodeids"))?,
        ints(cx, &name("ids"))?,
    );
    let weights = floats(cx, &name("weights"), &name("weights_as_tensor"))?;
    let lengths = [
        ("nodeids", of_node.len()),
        ("ids", to.len()),
        ("weights", weights.len()),
    ];
    same_length(of_tree.len(), &lengths)?;
    for (i, w) in weights.into_iter().enumerate() {
        let node = find(of_tree[i], of_node[i])?;
        nodes[node].gives.push((place(to[i], targets, "target")?, w));
    }
    // The first node of a tree is its root.
    let mut roots = vec![];
    let mut seen = BTreeSet::new();
    for (i, tree) in trees.iter().enumerate() {
        if seen.insert(*tree) {
            roots.push(i);
        }
    }
    let work = work(cx, cx.opt_tensor("nodes_values_as_tensor")?)?;
    Forest::new(cx, nodes, roots, targets, join, work)
}

/// What is added to each target: nothing, one number, or one for each.
fn base(cx: &Cx, targets: usize) -> Result<Vec<f64>, OpError> {
    let base = floats(cx, "base_values", "base_values_as_tensor")?;
    match base.len() {
        0 => Ok(vec![0.0; targets]),
        1 => Ok(vec![base[0]; targets]),
        n if n == targets => Ok(base),
        n => invalid(format!("{n} base values for {targets} targets")),
    }
}

fn add_base(g: &mut Fragment, x: ValueId, base: &[f64]) -> Result<ValueId, OpError> {
    if base.iter().all(|b| *b == 0.0) {
        return Ok(x);
    }
    let base = Tensor::from_f64(g.dtype(x), &[base.len()], base.iter().copied());
    let base = g.constant(base);
    g.binary("Add", x, base)
}

fn count(cx: &Cx, name: &str) -> Result<usize, OpError> {
    match cx.opt_int(name)?.map(usize::try_from) {
        // Each target is a column of a table over all nodes.
        Some(Ok(n)) if (1..=1 << 16).contains(&n) => Ok(n),
        _ => invalid(format!("attribute `{name}` is the number of targets")),
    }
}

fn regressor(cx: &Cx) -> Result<(Forest, Vec<f64>, Post), OpError> {
    let targets = count(cx, "n_targets")?;
    let join = match cx.str("aggregate_function")? {
        "SUM" => Join::Sum,
        "AVERAGE" => Join::Average,
        "MIN" => Join::Min,
        "MAX" => Join::Max,
        _ => return cx.bad("aggregate_function"),
    };
    let forest = old_forest(cx, "target", targets, join)?;
    Ok((forest, base(cx, targets)?, Post::named(cx)?))
}

pub(super) const TREE_ENSEMBLE_REGRESSOR: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::TreeEnsembleRegressor",
        "post_transform(base_values + the weights of the leaves that the row comes to, joined for each target)",
        X,
        &[Param::new("Y", FLOAT).group(2)],
        &[
            ("aggregate_function", AttrDef::OneOf(&["SUM", "AVERAGE", "MIN", "MAX"])),
            ("base_values", AttrDef::OptFloats),
            ("base_values_as_tensor", AttrDef::OptTensor),
            ("n_targets", AttrDef::OptInt),
            ("nodes_falsenodeids", AttrDef::OptInts),
            ("nodes_featureids", AttrDef::OptInts),
            // Say how often nodes were come to.
            ("nodes_hitrates", AttrDef::OptFloats),
            ("nodes_hitrates_as_tensor", AttrDef::OptTensor),
            ("nodes_missing_value_tracks_true", AttrDef::OptInts),
            ("nodes_modes", AttrDef::OptStrs),
            ("nodes_nodeids", AttrDef::OptInts),
            ("nodes_treeids", AttrDef::OptInts),
            ("nodes_truenodeids", AttrDef::OptInts),
            ("nodes_values", AttrDef::OptFloats),
            ("nodes_values_as_tensor", AttrDef::OptTensor),
            POST,
            ("target_ids", AttrDef::OptInts),
            ("target_nodeids", AttrDef::OptInts),
            ("target_treeids", AttrDef::OptInts),
            ("target_weights", AttrDef::OptFloats),
            ("target_weights_as_tensor", AttrDef::OptTensor),
        ],
    )
    .limits(&["no trees of more than 256 levels"]),
    build: |cx, g| {
        let (forest, base, post) = regressor(cx)?;
        let y = forest.build(cx, g)?;
        let y = add_base(g, y, &base)?;
        let y = post.build(g, y)?;
        Ok(vec![g.cast(y, DType::F32)?])
    },
    eval: |cx| {
        let (forest, base, post) = regressor(cx)?;
        let mut rows = forest.eval(cx)?;
        for row in &mut rows {
            row.iter_mut().zip(&base).for_each(|(v, b)| *v += b);
            post.eval(row);
        }
        Ok(vec![Tensor::from_f64(
            DType::F32,
            &[rows.len(), base.len()],
            rows.concat(),
        )])
    },
};

/// A classifier's trees and what is done with what they give.
struct Classifier {
    forest: Forest,
    base: Vec<f64>,
    labels: Tensor,
    post: Post,
    /// The class that alone is given anything, where there are at most two: the other's score follows from it.
    single: Option<usize>,
}

impl Classifier {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let labels = labels(cx, "classlabels_int64s", "classlabels_strings")?;
        let Some(labels) = labels.filter(|l| l.len() <= 1 << 16) else {
            return invalid("attribute `classlabels_int64s` or `classlabels_strings` is the labels of the classes");
        };
        if labels.len() == 1 && (labels.dtype() != DType::I64 || labels.to_i64() != [1]) {
            return unsupported(format!("{labels:?} as the only label, it can be 1"));
        }
        let forest = old_forest(cx, "class", labels.len(), Join::Sum)?;
        let given: BTreeSet<i64> = ints(cx, "class_ids")?.into_iter().collect();
        let mut given = given.into_iter().filter_map(|c| usize::try_from(c).ok());
        let single = match (given.next(), given.next()) {
            (Some(class), None) if labels.len() <= 2 => Some(class),
            _ if labels.len() == 1 => return invalid("no class is given anything"),
            _ => None,
        };
        Ok(Self {
            forest,
            base: base(cx, labels.len())?,
            labels,
            post: Post::named(cx)?,
            single,
        })
    }

    /// Whether the other score is `1 - s`, not `-s`.
    fn complements(&self) -> bool {
        matches!(self.post, Post::None | Post::Probit)
    }

    /// The label of each column of the scores.
    fn labels(&self) -> Tensor {
        match self.labels.len() {
            1 => Tensor::i64(&[2], [0, 1]),
            _ => self.labels.clone(),
        }
    }
}

pub(super) const TREE_ENSEMBLE_CLASSIFIER: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::TreeEnsembleClassifier",
        "scores post_transform(base_values + the weights of the leaves that the row comes to), and the label of the largest",
        X,
        &[Param::new("Y", LABELS).group(3), Param::new("Z", FLOAT).group(2)],
        &[
            ("base_values", AttrDef::OptFloats),
            ("base_values_as_tensor", AttrDef::OptTensor),
            ("class_ids", AttrDef::OptInts),
            ("class_nodeids", AttrDef::OptInts),
            ("class_treeids", AttrDef::OptInts),
            ("class_weights", AttrDef::OptFloats),
            ("class_weights_as_tensor", AttrDef::OptTensor),
            ("classlabels_int64s", AttrDef::OptInts),
            ("classlabels_strings", AttrDef::OptStrs),
            ("nodes_falsenodeids", AttrDef::OptInts),
            ("nodes_featureids", AttrDef::OptInts),
            ("nodes_hitrates", AttrDef::OptFloats),
            ("nodes_hitrates_as_tensor", AttrDef::OptTensor),
            ("nodes_missing_value_tracks_true", AttrDef::OptInts),
            ("nodes_modes", AttrDef::OptStrs),
            ("nodes_nodeids", AttrDef::OptInts),
            ("nodes_treeids", AttrDef::OptInts),
            ("nodes_truenodeids", AttrDef::OptInts),
            ("nodes_values", AttrDef::OptFloats),
            ("nodes_values_as_tensor", AttrDef::OptTensor),
            POST,
        ],
    ).limits(&["no trees of more than 256 levels", "the only label of a model is 1"]),
    build: |cx, g| {
        let model = Classifier::of(cx)?;
        let scores = model.forest.build(cx, g)?;
        let mut scores = add_base(g, scores, &model.base)?;
        if let Some(class) = model.single {
            let class = Dim::from(class);
            let own = slice(g, scores, 1, class.clone(), class + Dim::ONE)?;
            let other = if model.complements() {
                let one = g.number(own, 1.0);
                g.binary("Sub", one, own)?
            } else {
                g.unary("Neg", own)?
            };
            scores = concat(g, &[other, own], 1)?;
        }
        let scores = model.post.build(g, scores)?;
        let best = [("axis", Attr::Int(1)), ("keepdims", Attr::Int(0))];
        let best = g.apply("ArgMax", &best, &[scores])?;
        let labels = g.constant(model.labels());
        let label = g.apply("Gather", &[("axis", Attr::Int(0))], &[labels, best])?;
        Ok(vec![label, g.cast(scores, DType::F32)?])
    },
    eval: |cx| {
        let model = Classifier::of(cx)?;
        let labels = model.labels();
        let mut rows = model.forest.eval(cx)?;
        for row in &mut rows {
            row.iter_mut().zip(&model.base).for_each(|(v, b)| *v += b);
            if let Some(class) = model.single {
                let own = row[class];
                *row = vec![if model.complements() { 1.0 - own } else { -own }, own];
            }
            model.post.eval(row);
        }
        let found = labels.rearranged(&[rows.len()], None, |at| Some(first_maximum(&rows[at[0]])));
        let scores = Tensor::from_f64(DType::F32, &[rows.len(), labels.len()], rows.concat());
        Ok(vec![found, scores])
    },
};

/// The values of each set, which NaN ends.
fn sets(cx: &Cx) -> Result<Vec<Vec<f64>>, OpError> {
    let values = cx
        .opt_tensor("membership_values")?
        .map(Tensor::to_f64)
        .unwrap_or_default();
    let mut sets: Vec<Vec<f64>> = values.split(|v| v.is_nan()).map(<[f64]>::to_vec).collect();
    // What is behind the last end is no set.
    if sets.last().is_some_and(Vec::is_empty) {
        sets.pop();
    }
    Ok(sets)
}

fn new_forest(cx: &Cx) -> Result<(Forest, usize, Post), OpError> {
    let needed = |name: &str| match cx.opt_tensor(name)? {
        Some(t) => Ok(t),
        None => invalid(format!("attribute `{name}` is missing")),
    };
    let (modes, splits, weights) = (needed("nodes_modes")?, needed("nodes_splits")?, needed("leaf_weights")?);
    let n = modes.len();
    let (hits, misses) = (ints(cx, "nodes_truenodeids")?, ints(cx, "nodes_falsenodeids")?);
    let (hit_leaves, miss_leaves) = (ints(cx, "nodes_trueleafs")?, ints(cx, "nodes_falseleafs")?);
    let features = ints(cx, "nodes_featureids")?;
    let missing = cx
        .opt_ints("nodes_missing_value_tracks_true")?
        .unwrap_or_else(|| vec![0; n]);
    same_length(
        n,
        &[
            ("nodes_splits", splits.len()),
            ("nodes_truenodeids", hits.len()),
            ("nodes_falsenodeids", misses.len()),
            ("nodes_trueleafs", hit_leaves.len()),
            ("nodes_falseleafs", miss_leaves.len()),
            ("nodes_featureids", features.len()),
            ("nodes_missing_value_tracks_true", missing.len()),
        ],
    )?;
    let (to, leaves) = (ints(cx, "leaf_targetids")?, weights.len());
    same_length(leaves, &[("leaf_targetids", to.len())])?;
    // Without a number of targets there are as many as are named.
    let targets = match cx.opt_int("n_targets")? {
        Some(_) => count(cx, "n_targets")?,
        None => to
            .iter()
            .max()
            .map_or(1, |t| t.clamp(&0, &(1 << 16)).unsigned_abs() as usize + 1),
    };
    // Nodes, then leaves, then the further comparisons of sets.
    let way = |id: i64, is_leaf: i64| match is_leaf {
        0 => place(id, n, "node"),
        _ => Ok(n + place(id, leaves, "leaf")?),
    };
    let (mut nodes, mut further) = (vec![], vec![]);
    let mut sets = sets(cx)?.into_iter();
    for (i, (mode, split)) in modes.to_i64().into_iter().zip(splits.to_f64()).enumerate() {
        let ways = [way(hits[i], hit_leaves[i])?, way(misses[i], miss_leaves[i])?];
        let (feature, missing) = (feature(features[i])?, missing[i] != 0);
        let mode = match mode {
            0 => Mode::AtMost,
            1 => Mode::Below,
            2 => Mode::AtLeast,
            3 => Mode::Above,
            4 => Mode::Equal,
            5 => Mode::Differs,
            6 => {
                // A set is a chain of comparisons, each of which leads to the next when it fails.
                let Some((last, rest)) = sets.next().and_then(|s| s.split_last().map(|(l, r)| (*l, r.to_vec()))) else {
                    return invalid(format!("node {i} has no set of values"));
                };
                let mut link = Node::branch(Mode::Equal, feature, last, ways, missing);
                for v in rest {
                    further.push(link);
                    let next = n + leaves + further.len() - 1;
                    link = Node::branch(Mode::Equal, feature, v, [ways[0], next], missing);
                }
                nodes.push(link);
                continue;
            }
            other => return invalid(format!("attribute `nodes_modes` has {other}")),
        };
        nodes.push(Node::branch(mode, feature, split, ways, missing));
    }
    for (i, (w, target)) in weights.to_f64().into_iter().zip(to).enumerate() {
        let mut leaf = Node::leaf(n + i);
        leaf.gives.push((place(target, targets, "target")?, w));
        nodes.push(leaf);
    }
    nodes.extend(further);
    let roots = ints(cx, "tree_roots")?.into_iter().map(|r| place(r, n, "root"));
    let roots = roots.collect::<Result<Vec<_>, _>>()?;
    let join = match cx.int("aggregate_function")? {
        0 => Join::Average,
        1 => Join::Sum,
        2 => Join::Min,
        3 => Join::Max,
        other => return invalid(format!("attribute `aggregate_function` is {other}")),
    };
    let forest = Forest::new(cx, nodes, roots, targets, join, work(cx, Some(splits))?)?;
    Ok((forest, targets, Post::numbered(cx.int("post_transform")?)?))
}

pub(super) const TREE_ENSEMBLE: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::TreeEnsemble",
        "post_transform(the weights of the leaves that the row comes to, joined for each target)",
        &[Param::new("X", Types::of(&[DType::F32, DType::F64, DType::F16]))],
        &[Param::new("Y", Types::of(&[DType::F32, DType::F64, DType::F16]))],
        &[
            ("aggregate_function", AttrDef::Int(1)),
            ("leaf_targetids", AttrDef::OptInts),
            ("leaf_weights", AttrDef::OptTensor),
            ("membership_values", AttrDef::OptTensor),
            ("n_targets", AttrDef::OptInt),
            ("nodes_falseleafs", AttrDef::OptInts),
            ("nodes_falsenodeids", AttrDef::OptInts),
            ("nodes_featureids", AttrDef::OptInts),
            ("nodes_hitrates", AttrDef::OptTensor),
            ("nodes_missing_value_tracks_true", AttrDef::OptInts),
            ("nodes_modes", AttrDef::OptTensor),
            ("nodes_splits", AttrDef::OptTensor),
            ("nodes_trueleafs", AttrDef::OptInts),
            ("nodes_truenodeids", AttrDef::OptInts),
            ("post_transform", AttrDef::Int(0)),
            ("tree_roots", AttrDef::OptInts),
        ],
    )
    .limits(&["no trees of more than 256 levels"])
    .since(5),
    build: |cx, g| {
        let (forest, _, post) = new_forest(cx)?;
        let y = forest.build(cx, g)?;
        let y = post.build(g, y)?;
        Ok(vec![g.cast(y, cx.fact(0)?.dtype)?])
    },
    eval: |cx| {
        let (forest, targets, post) = new_forest(cx)?;
        let mut rows = forest.eval(cx)?;
        rows.iter_mut().for_each(|row| post.eval(row));
        let shape = [rows.len(), targets];
        Ok(vec![Tensor::from_f64(cx.fact(0)?.dtype, &shape, rows.concat())])
    },
};

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    type Attributes = Vec<(&'static str, Attr)>;

    fn text(v: &str) -> Attr {
        Attr::Str(v.into())
    }

    fn texts(v: &[&str]) -> Attr {
        Attr::Strs(v.iter().map(|s| (*s).into()).collect())
    }

    /// Two trees: `x1 ? 0.5 -> (leaf, x0 ? -1 -> (leaf, leaf))` and `x2 ? 0 -> (leaf, leaf)`.
    fn nodes(modes: [&str; 3]) -> Attributes {
        vec![
            ("nodes_treeids", Attr::Ints(vec![0, 0, 0, 0, 0, 7, 7, 7])),
            ("nodes_nodeids", Attr::Ints(vec![0, 1, 2, 3, 4, 0, 1, 2])),
            ("nodes_truenodeids", Attr::Ints(vec![1, 0, 3, 0, 0, 1, 0, 0])),
            ("nodes_falsenodeids", Attr::Ints(vec![2, 0, 4, 0, 0, 2, 0, 0])),
            ("nodes_featureids", Attr::Ints(vec![1, 0, 0, 0, 0, 2, 0, 0])),
            (
                "nodes_values",
                Attr::Floats(vec![0.5, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
            ),
            (
                "nodes_missing_value_tracks_true",
                Attr::Ints(vec![1, 0, 0, 0, 0, 0, 0, 0]),
            ),
            (
                "nodes_modes",
                texts(&[modes[0], "LEAF", modes[1], "LEAF", "LEAF", modes[2], "LEAF", "LEAF"]),
            ),
        ]
    }

    /// What the leaves 1, 3, 4 of one tree and 1, 2 of the other give.
    fn leaves(prefix: &str, ids: [i64; 5]) -> Attributes {
        let name = |s: &str| -> &'static str { Box::leak(format!("{prefix}_{s}").into_boxed_str()) };
        vec![
            (name("treeids"), Attr::Ints(vec![0, 0, 0, 7, 7])),
            (name("nodeids"), Attr::Ints(vec![1, 3, 4, 1, 2])),
            (name("ids"), Attr::Ints(ids.to_vec())),
            (name("weights"), Attr::Floats(vec![1.0, 2.0, -4.0, 0.5, 0.25])),
        ]
    }

    const MODES: [[&str; 3]; 4] = [
        ["BRANCH_LEQ"; 3],
        ["BRANCH_LT", "BRANCH_LT", "BRANCH_GTE"],
        ["BRANCH_GT", "BRANCH_EQ", "BRANCH_LEQ"],
        ["BRANCH_GTE", "BRANCH_NEQ", "BRANCH_GT"],
    ];

    fn with_nan() -> Option<Tensor> {
        let nan = f32::NAN;
        Some(Tensor::f32(
            &[4, 3],
            [0.0, nan, 1.0, nan, 0.75, nan, -1.0, 1.0, 0.0, -2.0, 0.5, nan],
        ))
    }

    #[test]
    fn regression() {
        let op = "ai.onnx.ml::TreeEnsembleRegressor";
        for modes in MODES {
            for aggregate in ["SUM", "AVERAGE", "MIN", "MAX"] {
                let mut attrs = [nodes(modes), leaves("target", [0, 0, 1, 1, 0])].concat();
                attrs.push(("n_targets", Attr::Int(2)));
                attrs.push(("aggregate_function", text(aggregate)));
                // What no tree gives anything is as large as floats get, which nothing can be added to.
                if matches!(aggregate, "SUM" | "AVERAGE") {
                    attrs.push(("base_values", Attr::Floats(vec![0.5, -0.5])));
                }
                for t in [DType::F32, DType::F64, DType::I64, DType::I32] {
                    check(op, &attrs, &[sample(t, &[6, 3], 1)], 1);
                }
                check(op, &attrs, &[with_nan()], 1);
            }
        }
        let mut attrs = [nodes(MODES[0]), leaves("target", [0; 5])].concat();
        attrs.push(("n_targets", Attr::Int(1)));
        let x = Some(Tensor::f32(&[3, 3], [0., 0., 0., -1., 1., 1., 0., 1., 1.]));
        assert_eq!(
            eval(op, &attrs, std::slice::from_ref(&x), 1)[0].to_f64(),
            [1.5, 2.25, -3.75]
        );
        // NaN goes where it is tracked: true in the first node, false in the others.
        let y = eval(op, &attrs, &[with_nan()], 1)[0].to_f64();
        assert_eq!(y, [1.25, -3.75, 2.5, 1.25]);
        for post in ["LOGISTIC", "SOFTMAX"] {
            check(
                op,
                &[&attrs[..], &[("post_transform", text(post))]].concat(),
                std::slice::from_ref(&x),
                1,
            );
        }
    }

    #[test]
    fn classification() {
        let op = "ai.onnx.ml::TreeEnsembleClassifier";
        let posts = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"];
        for post in posts {
            for (ids, labels) in [
                ([0, 1, 2, 0, 1], vec![5, 6, 9]),
                ([0, 1, 1, 0, 1], vec![5, 6]),
                ([0; 5], vec![5, 6]),
                ([1; 5], vec![0, 1]),
                ([0; 5], vec![1]),
            ] {
                let mut attrs = [nodes(MODES[0]), leaves("class", ids)].concat();
                attrs.push(("classlabels_int64s", Attr::Ints(labels)));
                attrs.push(("post_transform", text(post)));
                attrs.push(("base_values", Attr::Floats(vec![0.125])));
                check(op, &attrs, &[sample(DType::F32, &[6, 3], 1)], 2);
                check(op, &attrs, &[sample(DType::I64, &[6, 3], 1)], 2);
            }
        }
        let mut attrs = [nodes(MODES[0]), leaves("class", [0, 1, 2, 0, 1])].concat();
        let x = Some(Tensor::f32(&[2, 3], [0., 0., 0., 0., 1., 1.]));
        attrs.push(("classlabels_int64s", Attr::Ints(vec![5, 6, 9])));
        let y = eval(op, &attrs, &[x], 2);
        assert_eq!(y[0].to_i64(), [5, 6]);
        assert_eq!(y[1].to_f64(), [1.5, 0.0, 0.0, 0.0, 0.25, -4.0]);
    }

    fn ensemble(t: DType, modes: [i64; 3]) -> Attributes {
        let tensor = |v: &[f64]| Attr::Tensor(Tensor::from_f64(t, &[v.len()], v.iter().copied()));
        vec![
            ("tree_roots", Attr::Ints(vec![0, 2])),
            ("nodes_modes", Attr::Tensor(Tensor::from_i64(DType::U8, &[3], modes))),
            ("nodes_splits", tensor(&[0.5, -1.0, 0.0])),
            ("nodes_featureids", Attr::Ints(vec![1, 0, 2])),
            ("nodes_truenodeids", Attr::Ints(vec![0, 1, 3])),
            ("nodes_falsenodeids", Attr::Ints(vec![1, 2, 4])),
            ("nodes_trueleafs", Attr::Ints(vec![1, 1, 1])),
            ("nodes_falseleafs", Attr::Ints(vec![0, 1, 1])),
            ("leaf_targetids", Attr::Ints(vec![0, 0, 1, 1, 0])),
            ("leaf_weights", tensor(&[1.0, 2.0, -4.0, 0.5, 0.25])),
            ("n_targets", Attr::Int(2)),
        ]
    }

    #[test]
    fn ensembles() {
        let op = "ai.onnx.ml::TreeEnsemble";
        for t in [DType::F32, DType::F64, DType::F16] {
            for modes in [[0, 0, 0], [1, 2, 3], [4, 5, 0]] {
                for aggregate in 0..2 {
                    let mut attrs = ensemble(t, modes);
                    attrs.push(("aggregate_function", Attr::Int(aggregate)));
                    check(op, &attrs, &[sample(t, &[6, 3], 1)], 1);
                }
            }
        }
        let x = Some(Tensor::f32(&[3, 3], [0., 0., 0., -1., 1., 1., 0., 1., 1.]));
        let y = eval(op, &ensemble(DType::F32, [0; 3]), std::slice::from_ref(&x), 1);
        assert_eq!(y[0].to_f64(), [1.0, 0.5, 2.25, 0.0, 0.25, -4.0]);
        // The first and the last node ask for sets.
        let mut attrs = ensemble(DType::F32, [6, 0, 6]);
        let nan = f32::NAN;
        let values = Tensor::f32(&[6], [0.0, 3.0, 7.0, nan, 1.0, nan]);
        attrs.push(("membership_values", Attr::Tensor(values)));
        check(op, &attrs, std::slice::from_ref(&x), 1);
        let y = eval(op, &attrs, &[x], 1);
        assert_eq!(y[0].to_f64(), [1.25, 0.0, 2.0, 0.5, 0.0, -3.5]);
    }

    #[test]
    fn broken_trees_are_refused() {
        let op = "ai.onnx.ml::TreeEnsembleRegressor";
        let x = |f: i64| Fact::new(DType::F32, vec![Dim::sym("N"), Dim::from(f)]);
        let mut good = [nodes(MODES[0]), leaves("target", [0; 5])].concat();
        good.push(("n_targets", Attr::Int(1)));
        assert!(infer(op, &good, &[x(3)]).is_ok());
        assert!(infer(op, &good, &[x(2)]).is_err(), "feature 2");
        let changed = |name: &str, v: Attr| {
            let mut attrs = good.clone();
            attrs.iter_mut().filter(|a| a.0 == name).for_each(|a| a.1 = v.clone());
            infer(op, &attrs, &[x(3)])
        };
        assert!(changed("nodes_truenodeids", Attr::Ints(vec![0; 8])).is_err(), "circles");
        assert!(
            changed("nodes_truenodeids", Attr::Ints(vec![9; 8])).is_err(),
            "no such node"
        );
        assert!(changed("nodes_values", Attr::Floats(vec![0.0; 7])).is_err(), "too few");
        assert!(changed("target_ids", Attr::Ints(vec![1; 5])).is_err(), "no such target");
        assert!(changed("n_targets", Attr::Int(0)).is_err());
        assert!(infer(op, &[], &[x(3)]).is_err());
        assert!(infer("ai.onnx.ml::TreeEnsemble", &[], &[x(3)]).is_err());
        assert!(infer("ai.onnx.ml::TreeEnsembleClassifier", &[], &[x(3)]).is_err());
    }
}
