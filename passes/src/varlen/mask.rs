//! Which keys an attention mask leaves, as a function of the mask that the model is given.

use cameo_ir::interp;
use cameo_ir::{DType, Def, Dim, Graph, NodeId, Sym, Tensor, ValueId};
use rustc_hash::FxHashSet;

/// Keys that a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// All tokens of its sequence.
    All,
    /// Those up to itself.
    Past,
}

/// Extents that stand for those of which the model does not know the number: unlike each other and most constants.
const BATCH: usize = 3;
const LENGTH: usize = 11;

/// Masks that are tried beside full ones.
const TRIALS: usize = 4;

/// The only input that a mask is made of.
pub fn source(g: &Graph, mask: ValueId) -> Result<ValueId, String> {
    let mut found = None;
    let mut seen: FxHashSet<NodeId> = FxHashSet::default();
    let mut stack = vec![mask];
    while let Some(v) = stack.pop() {
        match &g.value(v).def {
            // It only tells its shape.
            Def::Node(n, _) if g.node(*n).op == "Shape" => {}
            Def::Node(n, _) => {
                if seen.insert(*n) {
                    stack.extend(g.node(*n).inputs.iter().flatten().copied());
                }
            }
            Def::Input(_) if found.is_none() || found == Some(v) => found = Some(v),
            Def::Input(_) => return Err(format!("the mask is made of the input `{}` too", g.value(v).name)),
            Def::Weight(_) | Def::Removed => {}
        }
    }
    found.ok_or_else(|| "the mask does not depend on an input".into())
}

/// What an attention with the mask `v` sees of each sequence, where `input` says which elements are tokens. `v` is computed
/// for full and for random masks and looked at: queries that are tokens must see all tokens, or those up to themselves, and
/// nothing else. Queries that are padding do not matter.
pub fn sees(g: &Graph, v: ValueId, input: ValueId) -> Result<Sees, String> {
    let fact = g.fact(input);
    let extent = |d: &Dim, unknown: usize| match d.as_const() {
        Some(n) => usize::try_from(n).map_err(|_| "a negative extent".to_owned()),
        None => Ok(unknown),
    };
    let (batch, length) = (extent(&fact.shape[0], BATCH)?, extent(&fact.shape[1], LENGTH)?);
    let mut candidates = vec![Sees::All, Sees::Past];
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for trial in 0..TRIALS {
        let bits: Vec<bool> = (0..batch * length)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                trial == 0 || random & 4 != 0
            })
            .collect();
        let mask = Tensor::from_i64(DType::I64, &[batch, length], bits.iter().map(|b| i64::from(*b)));
        let mask = if fact.dtype.is_float() {
            Tensor::from_f64(fact.dtype, mask.shape(), mask.to_f64())
        } else {
            Tensor::from_i64(fact.dtype, mask.shape(), mask.to_i64())
        };
        let got =
            interp::eval_from(g, v, &[(input, mask)]).map_err(|e| format!("the mask cannot be evaluated: {e}"))?;
        candidates.retain(|c| agrees(&got, &bits, [batch, length], *c));
    }
    match candidates.first() {
        Some(c) => Ok(*c),
        None => Err("the mask does not leave exactly the tokens of a sequence, or those up to the query".into()),
    }
}

/// Added to a logit, it makes the probability 0.
const NEVER: f64 = -1e4;

fn agrees(mask: &Tensor, tokens: &[bool], [batch, length]: [usize; 2], sees: Sees) -> bool {
    let shape: Vec<usize> = std::iter::repeat_n(1, 4usize.saturating_sub(mask.shape().len()))
        .chain(mask.shape().iter().copied())
        .collect();
    let [b, heads, queries, keys] = shape[..] else {
        return false;
    };
    if ![1, batch].contains(&b) || ![1, length].contains(&queries) || keys != length {
        return false;
    }
    let values = if mask.dtype() == DType::Bool {
        mask.to_i64()
            .into_iter()
            .map(|x| if x != 0 { 0.0 } else { f64::NEG_INFINITY })
            .collect()
    } else {
        mask.to_f64()
    };
    let at = |i: usize, h: usize, q: usize, k: usize| {
        let (i, q) = (if b == 1 { 0 } else { i }, if queries == 1 { 0 } else { q });
        values[((i * heads + h) * queries + q) * keys + k]
    };
    let seen = |i: usize, q: usize, k: usize| tokens[i * length + k] && (sees == Sees::All || k <= q);
    (0..batch).all(|i| {
        (0..heads).all(|h| {
            (0..length).filter(|q| tokens[i * length + q]).all(|q| {
                (0..length).all(|k| match seen(i, q, k) {
                    true => at(i, h, q, k) == 0.0,
                    false => at(i, h, q, k) <= NEVER,
                })
            })
        })
    })
}

/// Whether a dim is that of the mask, or a table's that is cut to it.
pub fn is_length(d: &Dim, length: &Dim) -> bool {
    d == length || d.is_minimum_of(length)
}

/// A name that no dimension of the graph has.
pub fn fresh(g: &Graph, name: &str) -> String {
    let used = |name: &str| {
        g.symbols.contains_key(name)
            || g.value_ids()
                .any(|v| g.fact(v).shape.iter().any(|d| d.uses(&Sym::Named(name.into()))))
    };
    let mut out = name.to_owned();
    while used(&out) {
        out.push('_');
    }
    out
}
