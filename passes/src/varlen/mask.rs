//! Which keys an attention mask leaves, as a function of the mask that the model is given.

use cameo_ir::interp;
use cameo_ir::{Attr, DType, Def, Dim, Graph, NodeId, Sym, Tensor, ValueId};
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

/// Longest sequence that is looked at where the model does not say how long they are.
const LONGEST: usize = 1200;

/// The largest small integer among the constants and attributes that a mask is made of: it might be a distance, which shorter
/// sequences do not show.
fn largest_number(g: &Graph, mask: ValueId) -> i64 {
    let (mut numbers, mut seen, mut stack) = (vec![], FxHashSet::default(), vec![mask]);
    while let Some(v) = stack.pop() {
        if let Some(t) = g.constant(v).filter(|t| t.len() == 1 && !t.dtype().is_float()) {
            numbers.extend(t.to_i64());
        }
        if let Some((n, _)) = g.producer(v)
            && seen.insert(n)
        {
            for a in g.node(n).attrs.values() {
                match a {
                    Attr::Int(i) => numbers.push(*i),
                    Attr::Ints(list) => numbers.extend(list),
                    Attr::Dims(list) => numbers.extend(list.iter().filter_map(Dim::as_const)),
                    _ => {}
                }
            }
            stack.extend(g.node(n).inputs.iter().flatten().copied());
        }
    }
    let small = numbers.into_iter().map(i64::saturating_abs).filter(|n| *n < 1 << 24);
    small.max().unwrap_or(0)
}

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
    let least = largest_number(g, v).saturating_add(LENGTH as i64);
    let unknown = usize::try_from(least.max(LENGTH as i64)).unwrap_or(usize::MAX);
    let (batch, length) = (extent(&fact.shape[0], BATCH)?, extent(&fact.shape[1], unknown)?);
    if fact.shape[1].as_const().is_none() && length > LONGEST {
        return Err(format!(
            "the mask has the number {} in it: fix the length with --dim",
            length - LENGTH
        ));
    }
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
pub const NEVER: f64 = -1e4;

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
