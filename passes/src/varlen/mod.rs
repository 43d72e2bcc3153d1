//! Computes the tokens of padded sequences only: the rows that a mask leaves lie one behind the other.
//!
//! ```text
//! %3 = Gather(table, %0) : f32[B,S,64]               tokens = positions of %1 that are not 0 : i64[T]
//! %4 = MatMul(%3, %2) : f32[B,S,64]            →     %3 = Gather(table, Gather(%0, tokens)) : f32[T,64]
//! %5 = Attention(%4, %4, %4, mask of %1)             %4 = MatMul(%3, %2) : f32[T,64]
//!                                                    %5 = Ragged(lengths of %1, %4) {Attention without a mask} : f32[T,64]
//! ```
//!
//! Everything that works row by row works on packed rows (ByteTransformer, arXiv:2210.03052); attention runs once per sequence,
//! on as many rows as that has. What needs the padded tensor back gets it with zeros where there is no token: that is the
//! difference to the model, and why this is no pass but asked for (`--varlen`). Where tokens are is told by the one input
//! that the masks of all attentions are made of; any pattern of tokens will do.
//!
//! Nothing is found by name or by extent: a value is packed when it is computed from inputs of the mask's first two axes
//! by operations of which it is known how they treat these axes. Refused, with the node: an attention without such a mask,
//! or one that cannot be packed.

mod layout;
mod mask;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use cameo_ir::op::{OpError, normalize_axis};
use cameo_ir::ops::ragged::Parts;
use cameo_ir::rewrite::{Outcome, Report, Rewriter};
use cameo_ir::{Attr, Attrs, DType, Def, Dim, Fact, Graph, Node, NodeId, Op, Tensor, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::pattern::{is_identity, perm_attr, permutation, reshape_attrs};
use layout::{Atom, Layout, Twin, is_plain, is_pure, is_tokens, packed_axis, plain, reshaped, rest};
use mask::{Sees, fresh, is_length, sees, source};

/// The name that the stage has in dumps and reports.
pub const NAME: &str = "varlen";

/// Operand of an Attention.
const MASK: usize = 3;

/// What makes it worth while to pack: after one of these, the padded value is not computed.
const PRODUCTS: &[&str] = &["MatMul", "Gemm", "Attention"];

/// Why a graph cannot be packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VarlenError {
    /// A node of the graph that was given, where one shows the reason.
    pub node: Option<NodeId>,
    pub reason: String,
}

fn refuse<T>(node: Option<NodeId>, reason: impl Into<String>) -> Result<T, VarlenError> {
    let reason = reason.into();
    Err(VarlenError { node, reason })
}

/// Packs the tokens of the graph.
///
/// # Errors
/// Why it cannot be done; the graph is then as it was.
pub fn varlen(g: &mut Graph) -> Result<Report, VarlenError> {
    // What is dead says nothing of the network.
    Rewriter::new(g, NAME).sweep();
    let attentions: Vec<NodeId> = g.order().into_iter().filter(|n| g.node(*n).op == "Attention").collect();
    let Some(first) = attentions.first().copied() else {
        return refuse(None, "there is no attention to find the tokens by");
    };
    let mut tokens = None;
    let mut seen: FxHashMap<ValueId, Sees> = FxHashMap::default();
    let mut by_node: FxHashMap<NodeId, Sees> = FxHashMap::default();
    for n in &attentions {
        let Some(m) = g.node(*n).inputs.get(MASK).copied().flatten() else {
            return refuse(Some(*n), "it has no mask: it attends to padding too");
        };
        let input = source(g, m).or_else(|reason| refuse(Some(*n), reason))?;
        if *tokens.get_or_insert(input) != input {
            return refuse(Some(*n), "its mask is made of another input than those before");
        }
        let fact = g.fact(input);
        if fact.rank() != 2 || fact.shape.iter().any(Dim::is_one) {
            return refuse(
                Some(*n),
                format!("the input `{}` is no mask of sequences: {fact}", g.value(input).name),
            );
        }
        let attrs = &g.node(*n).attrs;
        let set = |name: &str| matches!(attrs.get(name), Some(Attr::Int(i)) if *i >= 0);
        if set("left_window_size") || set("right_window_size") {
            return refuse(Some(*n), "it sees a window, and packed tokens are nearer to each other");
        }
        if matches!(attrs.get("masked"), Some(Attr::Float(x)) if f64::from(*x) > mask::NEVER) {
            return refuse(Some(*n), "its mask leaves what it excludes some weight");
        }
        let sees = match seen.get(&m) {
            Some(s) => *s,
            None => sees(g, m, input).or_else(|reason| refuse(Some(*n), reason))?,
        };
        seen.insert(m, sees);
        by_node.insert(*n, sees);
    }
    let Some(input) = tokens else {
        return refuse(Some(first), "it has no mask");
    };
    let order = g.order();
    let all: Vec<ValueId> = order.iter().flat_map(|n| g.node(*n).outputs.clone()).collect();
    let mut rw = Rewriter::new(g, NAME);
    let mut left = None;
    let outcome = rw.replace_values(&all, &attentions, "only tokens are computed", |rw| {
        let mut packing = Packing::new(rw, input, &by_node)?;
        for n in &order {
            let node = rw.node(*n).clone();
            let made = rw.with_origin(node.origin.clone(), |rw| packing.node(rw, *n, &node))?;
            if let Some(twins) = made {
                packing.done.insert(*n);
                packing.twins.extend(node.outputs.iter().copied().zip(twins));
            } else if by_node.contains_key(n) {
                left = Some(*n);
                return Err(OpError::Unsupported("an attention is left".into()));
            }
        }
        all.iter().map(|v| packing.replacement(rw, *v)).collect()
    });
    let report = rw.finish();
    match (outcome, left) {
        (Outcome::Applied, _) => Ok(report),
        (_, Some(n)) => refuse(
            Some(n),
            "its operands are not computed row by row from inputs of the mask's shape",
        ),
        (Outcome::Refused(reason), None) => refuse(None, reason),
        (Outcome::NoMatch, None) => refuse(None, "nothing was packed"),
    }
}

/// The graph's values in packed form.
struct Packing<'a> {
    batch: Dim,
    length: Dim,
    sees: &'a FxHashMap<NodeId, Sees>,
    twins: FxHashMap<ValueId, Twin>,
    /// Nodes that were made again.
    done: FxHashSet<NodeId>,
    /// Which elements of the mask are tokens: `bool[B,S]`.
    flags: ValueId,
    /// Row-major positions of the tokens, their sequences and their places in these: `i64[T]`.
    positions: ValueId,
    sequences: ValueId,
    places: ValueId,
    /// Row of the packed form for each token, 0 for padding: `i64[B,S]`.
    rows: ValueId,
    /// Tokens of each sequence: `i64[B]`.
    lengths: ValueId,
    /// Symbol of the rows of one sequence.
    of_one: Arc<str>,
}

impl<'a> Packing<'a> {
    fn new(rw: &mut Rewriter, input: ValueId, sees: &'a FxHashMap<NodeId, Sees>) -> Result<Self, OpError> {
        let [batch, length] = [0, 1].map(|axis| rw.fact(input).shape[axis].clone());
        let padded = [batch.clone(), length.clone()];
        let flags = rw.apply("Cast", &[("to", Attr::DType(DType::Bool))], &[input])?;
        let flat = reshape(rw, flags, &[batch.clone() * length.clone()])?;
        let Some(compact) = Op::find("cameo::Compact") else {
            return Err(OpError::Invalid("no operation counts".into()));
        };
        let count = Attr::Str(fresh(rw.graph(), "count.tokens").into());
        let attrs = Attrs::from([("count".into(), count)]);
        let made = rw.add_node(compact, attrs, vec![Some(flat)], 2)?;
        let (positions, ranks) = (made[0], made[1]);
        let at = rw.apply(
            "cameo::Unravel",
            &[("shape", Attr::Dims(padded.to_vec()))],
            &[positions],
        )?;
        let row = |rw: &mut Rewriter, i: i64| {
            let i = rw.add_weight("", Tensor::i64(&[], [i]));
            rw.apply("Gather", &[("axis", Attr::Int(0))], &[at, i])
        };
        let (sequences, places) = (row(rw, 0)?, row(rw, 1)?);
        let ranks = reshape(rw, ranks, &padded)?;
        let zero = rw.add_weight("", Tensor::i64(&[], [0]));
        let rows = rw.apply("Where", &[], &[flags, ranks, zero])?;
        let ones = rw.apply("Cast", &[("to", Attr::DType(DType::I64))], &[flags])?;
        let along = [("axes", Attr::Dims(vec![Dim::ONE])), ("keepdims", Attr::Int(0))];
        let lengths = rw.apply("ReduceSum", &along, &[ones])?;
        Ok(Self {
            batch,
            length,
            sees,
            twins: FxHashMap::default(),
            done: FxHashSet::default(),
            flags,
            positions,
            sequences,
            places,
            rows,
            lengths,
            of_one: fresh(rw.graph(), "count.length").into(),
        })
    }

    /// The packed form of a value, if it has one.
    fn twin(&mut self, rw: &mut Rewriter, v: ValueId) -> Result<Option<Twin>, OpError> {
        if let Some(t) = self.twins.get(&v) {
            return Ok(Some(t.clone()));
        }
        let Fact { shape, .. } = rw.fact(v).clone();
        let padded = shape.len() >= 2 && shape[0] == self.batch && shape[1] == self.length;
        if !matches!(rw.graph().value(v).def, Def::Input(_)) || !padded {
            return Ok(None);
        }
        let flat: Vec<Dim> = std::iter::once(self.batch.clone() * self.length.clone())
            .chain(shape[2..].iter().cloned())
            .collect();
        let flat = reshape(rw, v, &flat)?;
        let value = rw.apply("Gather", &[("axis", Attr::Int(0))], &[flat, self.positions])?;
        let mut layout = plain(&shape);
        layout[0] = vec![Atom::Batch];
        layout[1] = vec![Atom::Sequence];
        let twin = Twin {
            value,
            layout,
            heavy: false,
        };
        self.twins.insert(v, twin.clone());
        Ok(Some(twin))
    }

    /// Makes a node again on packed operands; `None` where it cannot be, or has none.
    fn node(&mut self, rw: &mut Rewriter, n: NodeId, node: &Node) -> Result<Option<Vec<Twin>>, OpError> {
        let mut given = vec![];
        for v in &node.inputs {
            given.push(match v {
                Some(v) => self.twin(rw, *v)?,
                None => None,
            });
        }
        if given.iter().all(Option::is_none) {
            return Ok(None);
        }
        let heavy = PRODUCTS.contains(&node.op.name()) || given.iter().flatten().any(|t| t.heavy);
        let name = node.op.name();
        let made = match name {
            "MatMul" | "Gemm" => self.product(rw, n, node, &given)?,
            "Gather" => Self::embedding(rw, n, node, &given)?,
            "LayerNormalization" | "RMSNormalization" | "Softmax" | "LogSoftmax" => Self::along(rw, node, &given)?,
            "Concat" | "Split" | "Slice" => Self::cut(rw, node, &given)?,
            "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Identity" => self.reshape(rw, node, &given)?,
            "Transpose" => Self::transpose(rw, n, &given)?,
            "Attention" => self.attention(rw, n, node, &given)?,
            "cameo::Rotary" => self.pointwise(rw, n, node, &given)?,
            _ if name.starts_with("Reduce") => Self::reduction(rw, node, &given)?,
            _ if node.op.schema().pointwise => self.pointwise(rw, n, node, &given)?,
            _ => None,
        };
        Ok(made.map(|made| {
            let one = |(value, layout)| Twin { value, layout, heavy };
            made.into_iter().map(one).collect()
        }))
    }

    fn pointwise(&mut self, rw: &mut Rewriter, n: NodeId, node: &Node, given: &[Option<Twin>]) -> Made {
        let shape = rw.fact(node.outputs[0]).shape.clone();
        let whole = |t: &&Twin| t.layout.len() == shape.len() && is_pure(&t.layout);
        let Some(like) = given.iter().flatten().find(whole) else {
            return Ok(None);
        };
        let mut layout = plain(&shape);
        for (axis, from) in layout.iter_mut().zip(&like.layout) {
            if is_tokens(from) {
                axis.clone_from(from);
            }
        }
        let mut inputs = vec![];
        for (v, twin) in node.inputs.iter().zip(given) {
            inputs.push(match v {
                None => None,
                Some(v) => match self.aligned(rw, *v, twin.as_ref(), &layout)? {
                    Some(v) => Some(v),
                    None => return Ok(None),
                },
            });
        }
        Ok(Some(vec![(rw.copy_with(n, inputs)?[0], layout)]))
    }

    /// An operand in packed form, for a result of this layout that it broadcasts to.
    fn aligned(
        &mut self,
        rw: &mut Rewriter,
        v: ValueId,
        twin: Option<&Twin>,
        layout: &Layout,
    ) -> Result<Option<ValueId>, OpError> {
        let shape = rw.fact(v).shape.clone();
        let Some(missing) = layout.len().checked_sub(shape.len()) else {
            return Ok(None);
        };
        let over = &layout[missing..];
        let tokens: Vec<usize> = (0..shape.len()).filter(|a| is_tokens(&over[*a])).collect();
        let others: Vec<usize> = (0..shape.len()).filter(|a| !is_tokens(&over[*a])).collect();
        let others_of = |shape: &[Dim]| others.iter().map(|a| shape[*a].clone()).collect::<Vec<_>>();
        let packed = if let Some(twin) = twin {
            let same = |(a, b): (&Vec<Atom>, &Vec<Atom>)| is_tokens(a) == is_tokens(b) && (!is_tokens(a) || a == b);
            let all = layout[..missing].iter().all(|a| !is_tokens(a));
            if !all || !is_pure(&twin.layout) || !twin.layout.iter().zip(over).all(same) {
                return Ok(None);
            }
            twin.value
        } else if tokens.iter().all(|a| shape[*a].is_one()) {
            // The same for all tokens.
            return Ok(Some(if tokens.is_empty() {
                v
            } else {
                reshape(rw, v, &others_of(&shape))?
            }));
        } else {
            // Rows by sequence, by place in it, or by both.
            let (mut by_batch, mut by_place) = (false, false);
            for a in &tokens {
                match over[*a].as_slice() {
                    _ if shape[*a].is_one() => {}
                    [Atom::Batch] if shape[*a] == self.batch => by_batch = true,
                    [Atom::Sequence] if is_length(&shape[*a], &self.length) => by_place = true,
                    _ => return Ok(None),
                }
            }
            let index = match (by_batch, by_place) {
                (true, false) => self.sequences,
                (false, true) => self.places,
                // Nobody says that it is of the mask's tokens, and packing it saves little.
                _ => self.positions,
            };
            let perm: Vec<usize> = tokens.iter().chain(&others).copied().collect();
            let front = if is_identity(&perm) {
                v
            } else {
                rw.apply("Transpose", &[("perm", perm_attr(&perm))], &[v])?
            };
            let in_order = tokens.iter().map(|a| &over[*a]).collect::<Vec<_>>();
            if by_batch && by_place && in_order != [&vec![Atom::Batch], &vec![Atom::Sequence]] {
                return Ok(None);
            }
            let rows = Dim::product(tokens.iter().map(|a| &shape[*a]));
            let flat: Vec<Dim> = std::iter::once(rows).chain(others_of(&shape)).collect();
            let flat = reshape(rw, front, &flat)?;
            rw.apply("Gather", &[("axis", Attr::Int(0))], &[flat, index])?
        };
        // Axes that are missing in front come between T and the others.
        let wanted = layout.iter().filter(|a| !is_tokens(a)).count();
        let mut now = rw.fact(packed).shape.clone();
        if now.len() == 1 + wanted {
            return Ok(Some(packed));
        }
        let first = now.remove(0);
        let ones = std::iter::repeat_n(Dim::ONE, wanted - now.len());
        let shape: Vec<Dim> = std::iter::once(first).chain(ones).chain(now).collect();
        Ok(Some(reshape(rw, packed, &shape)?))
    }

    /// A product of rows and a matrix.
    fn product(&mut self, rw: &mut Rewriter, n: NodeId, node: &Node, given: &[Option<Twin>]) -> Made {
        let [Some(a), None, ..] = given else { return Ok(None) };
        let Some(b) = node.inputs.get(1).copied().flatten() else {
            return Ok(None);
        };
        let turned = |name: &str| matches!(node.attrs.get(name), Some(Attr::Int(x)) if *x != 0);
        let rank = a.layout.len();
        if rank < 2
            || !is_pure(&a.layout)
            || is_tokens(&a.layout[rank - 1])
            || rw.fact(b).rank() != 2
            || turned("transA")
        {
            return Ok(None);
        }
        let mut layout = a.layout.clone();
        let shape = &rw.fact(node.outputs[0]).shape;
        layout[rank - 1] = plain(&shape[rank - 1..]).remove(0);
        let mut inputs = vec![Some(a.value), Some(b)];
        if let Some(c) = node.inputs.get(2).copied().flatten() {
            let twin = given.get(2).and_then(Option::as_ref);
            let Some(c) = self.aligned(rw, c, twin, &layout)? else {
                return Ok(None);
            };
            inputs.push(Some(c));
        }
        Ok(Some(vec![(rw.copy_with(n, inputs)?[0], layout)]))
    }

    /// Rows of a table.
    fn embedding(rw: &mut Rewriter, n: NodeId, node: &Node, given: &[Option<Twin>]) -> Made {
        let [None, Some(index)] = given else { return Ok(None) };
        let first = !matches!(node.attrs.get("axis"), Some(Attr::Int(a)) if *a != 0);
        let Some(table) = node.inputs[0].filter(|_| first && is_pure(&index.layout)) else {
            return Ok(None);
        };
        let mut layout = index.layout.clone();
        layout.extend(plain(&rw.fact(table).shape[1..]));
        let y = rw.copy_with(n, vec![Some(table), Some(index.value)])?[0];
        Ok(Some(vec![(y, layout)]))
    }

    /// Normalisation of each row.
    fn along(rw: &mut Rewriter, node: &Node, given: &[Option<Twin>]) -> Made {
        let Some(Some(x)) = given.first() else { return Ok(None) };
        let rank = x.layout.len();
        let axis = match node.attrs.get("axis") {
            Some(Attr::Int(a)) => normalize_axis(*a, rank)?,
            _ => rank - 1,
        };
        let softmax = node.op.name().ends_with("Softmax");
        let normed = if softmax {
            &x.layout[axis..=axis]
        } else {
            &x.layout[axis..]
        };
        let small = node.inputs[1..]
            .iter()
            .flatten()
            .all(|v| rw.fact(*v).rank() <= rank - axis);
        let alone = given[1..].iter().all(Option::is_none) && node.outputs.len() == 1;
        if !normed.iter().all(|a| is_plain(a)) || !small || !alone {
            return Ok(None);
        }
        let mut attrs = node.attrs.clone();
        let axis = if softmax {
            packed_axis(&x.layout, axis) as i64
        } else {
            axis as i64 - rank as i64
        };
        attrs.insert("axis".into(), Attr::Int(axis));
        let mut inputs = node.inputs.clone();
        inputs[0] = Some(x.value);
        Ok(Some(vec![(
            rw.add_node(node.op, attrs, inputs, 1)?[0],
            x.layout.clone(),
        )]))
    }

    /// Reductions over axes of each token.
    fn reduction(rw: &mut Rewriter, node: &Node, given: &[Option<Twin>]) -> Made {
        let [Some(x)] = given else { return Ok(None) };
        let rank = x.layout.len();
        let Some(axes) =
            listed(&node.attrs, rank).filter(|axes| !axes.is_empty() && axes.iter().all(|a| is_plain(&x.layout[*a])))
        else {
            return Ok(None);
        };
        let keep = !matches!(node.attrs.get("keepdims"), Some(Attr::Int(0)));
        let layout = x.layout.iter().enumerate();
        let layout = layout.filter_map(|(a, atoms)| match axes.contains(&a) {
            true => keep.then(Vec::new),
            false => Some(atoms.clone()),
        });
        let layout = layout.collect();
        let mut attrs = node.attrs.clone();
        let packed = axes.iter().map(|a| Dim::from(packed_axis(&x.layout, *a)));
        attrs.insert("axes".into(), Attr::Dims(packed.collect()));
        Ok(Some(vec![(
            rw.add_node(node.op, attrs, vec![Some(x.value)], 1)?[0],
            layout,
        )]))
    }

    /// Joining and cutting along an axis of each token.
    fn cut(rw: &mut Rewriter, node: &Node, given: &[Option<Twin>]) -> Made {
        let all: Option<Vec<&Twin>> = given.iter().map(Option::as_ref).collect();
        let Some([x, others @ ..]) = all.as_deref() else {
            return Ok(None);
        };
        let rank = x.layout.len();
        let kept =
            |(a, b): (&Vec<Atom>, &Vec<Atom>)| is_tokens(a) == is_tokens(b) && (a == b || is_plain(a) && is_plain(b));
        let same = |t: &&Twin| t.layout.len() == rank && t.layout.iter().zip(&x.layout).all(kept);
        if !is_pure(&x.layout) || !others.iter().all(same) {
            return Ok(None);
        }
        let mut attrs = node.attrs.clone();
        let mut axes = vec![];
        if let Some(Attr::Int(a)) = node.attrs.get("axis") {
            let axis = normalize_axis(*a, rank)?;
            attrs.insert("axis".into(), Attr::Int(packed_axis(&x.layout, axis) as i64));
            axes.push(axis);
        }
        if let Some(list) = listed(&node.attrs, rank) {
            let packed = list.iter().map(|a| Dim::from(packed_axis(&x.layout, *a)));
            attrs.insert("axes".into(), Attr::Dims(packed.collect()));
            axes.extend(list);
        }
        if axes.is_empty() || axes.iter().any(|a| !is_plain(&x.layout[*a])) {
            return Ok(None);
        }
        let inputs = given.iter().flatten().map(|t| Some(t.value)).collect();
        let made = rw.add_node(node.op, attrs, inputs, node.outputs.len())?;
        let results = node.outputs.iter().zip(made).map(|(old, new)| {
            let shape = rw.fact(*old).shape.clone();
            let mut layout = x.layout.clone();
            for a in &axes {
                layout[*a] = plain(&shape[*a..]).remove(0);
            }
            (new, layout)
        });
        Ok(Some(results.collect()))
    }

    fn reshape(&self, rw: &mut Rewriter, node: &Node, given: &[Option<Twin>]) -> Made {
        let Some(Some(x)) = given.first() else { return Ok(None) };
        let shape = rw.fact(node.outputs[0]).shape.clone();
        let Some(layout) = reshaped(&x.layout, &shape, &self.batch, &self.length) else {
            return Ok(None);
        };
        Ok(Some(vec![(packed_reshape(rw, x.value, &layout)?, layout)]))
    }

    fn transpose(rw: &mut Rewriter, n: NodeId, given: &[Option<Twin>]) -> Made {
        let (Some(Some(x)), Some(perm)) = (given.first(), permutation(rw.graph(), n)) else {
            return Ok(None);
        };
        let layout: Layout = perm.iter().map(|a| x.layout[*a].clone()).collect();
        let others = perm.iter().filter(|a| !is_tokens(&x.layout[**a]));
        let packed: Vec<usize> = std::iter::once(0)
            .chain(others.map(|a| packed_axis(&x.layout, *a)))
            .collect();
        let value = if is_identity(&packed) {
            x.value
        } else {
            rw.apply("Transpose", &[("perm", perm_attr(&packed))], &[x.value])?
        };
        Ok(Some(vec![(value, layout)]))
    }

    /// Attention, once per sequence.
    fn attention(&self, rw: &mut Rewriter, n: NodeId, node: &Node, given: &[Option<Twin>]) -> Made {
        let [Some(q), Some(k), Some(v), ..] = given else {
            return Ok(None);
        };
        if node.inputs.iter().skip(MASK + 1).any(Option::is_some) || node.outputs.len() != 1 {
            return Ok(None);
        }
        let (batch, sequence) = ([Atom::Batch], [Atom::Sequence]);
        let at = |t: &Twin| match t.layout.as_slice() {
            [b, s, width] if *b == batch && *s == sequence && is_plain(width) => Some(None),
            [b, heads, s, size] if *b == batch && *s == sequence && is_plain(heads) && is_plain(size) => {
                Some(Some(rest(&t.layout)[0].clone()))
            }
            _ => None,
        };
        let (Some(query_heads), Some(key_heads), Some(_)) = (at(q), at(k), at(v)) else {
            return Ok(None);
        };
        let mut attrs = node.attrs.clone();
        for (name, heads) in [("q_num_heads", &query_heads), ("kv_num_heads", &key_heads)] {
            if let Some(heads) = heads {
                let Some(heads) = heads.as_const() else { return Ok(None) };
                attrs.insert(name.into(), Attr::Int(heads));
            }
        }
        if self.sees.get(&n) == Some(&Sees::Past) {
            attrs.insert("is_causal".into(), Attr::Int(1));
        }
        let mut body = Graph::new("sequence");
        let rows = Dim::sym(&self.of_one);
        let mut operands = vec![self.lengths];
        let mut inner = vec![];
        for (t, name) in [q, k, v].into_iter().zip(["q", "k", "v"]) {
            let width = Dim::product(&rest(&t.layout));
            let tokens = rw.fact(t.value).shape[0].clone();
            operands.push(reshape(rw, t.value, &[tokens, width.clone()])?);
            let x = body.add_input(name, Fact::new(rw.fact(t.value).dtype, [rows.clone(), width.clone()]));
            inner.push(Some(body.apply(
                "Reshape",
                &reshape_attrs(&[Dim::ONE, rows.clone(), width]),
                &[x],
            )?));
        }
        let y = body.add_node(node.op, attrs, inner, 1, node.origin.clone())?[0];
        let width = body.fact(y).shape[2].clone();
        let y = body.apply("Reshape", &reshape_attrs(&[rows, width]), &[y])?;
        body.add_output("y", y);
        let parts = Parts {
            body: &Arc::new(body),
            slices: 3,
            rows: &self.of_one,
            most: &self.length,
        };
        let Some(op) = Op::find("cameo::Ragged") else {
            return Ok(None);
        };
        let y = rw.add_node(op, parts.attrs(), operands.into_iter().map(Some).collect(), 1)?[0];
        let mut layout = plain(&rw.fact(node.outputs[0]).shape);
        layout[0] = batch.to_vec();
        layout[if query_heads.is_some() { 2 } else { 1 }] = sequence.to_vec();
        Ok(Some(vec![(packed_reshape(rw, y, &layout)?, layout)]))
    }

    /// What readers of `v` read from now on: itself, or the packed form padded with zeros.
    fn replacement(&self, rw: &mut Rewriter, v: ValueId) -> Result<ValueId, OpError> {
        let Some(twin) = self.twins.get(&v).filter(|t| t.heavy) else {
            return Ok(v);
        };
        let g = rw.graph();
        if !g.is_output(v) && g.users(v).iter().all(|n| self.done.contains(n)) {
            return Ok(v);
        }
        let Some((n, _)) = g.producer(v) else { return Ok(v) };
        let origin = g.node(n).origin.clone();
        rw.with_origin(origin, |rw| self.padded(rw, v, twin))
    }

    fn padded(&self, rw: &mut Rewriter, v: ValueId, twin: &Twin) -> Result<ValueId, OpError> {
        let Fact { shape, dtype, .. } = rw.fact(v).clone();
        // One axis per factor: batch, sequence, then the plain ones in their order.
        let atoms: Vec<&Atom> = twin.layout.iter().flatten().collect();
        let others: Vec<usize> = (0..atoms.len())
            .filter(|i| matches!(atoms[*i], Atom::Plain(_)))
            .collect();
        let extents = others.iter().filter_map(|i| match atoms[*i] {
            Atom::Plain(d) => Some(d.clone()),
            _ => None,
        });
        let tokens = rw.fact(twin.value).shape[0].clone();
        let flat: Vec<Dim> = std::iter::once(tokens).chain(extents).collect();
        let flat = reshape(rw, twin.value, &flat)?;
        // One row more, for padding to name where there is no token at all.
        let mut pads = vec![Dim::ZERO; 2 * (1 + others.len())];
        pads[1 + others.len()] = Dim::ONE;
        let flat = rw.apply("Pad", &[("pads", Attr::Dims(pads))], &[flat])?;
        let all = rw.apply("Gather", &[("axis", Attr::Int(0))], &[flat, self.rows])?;
        let ones = std::iter::repeat_n(Dim::ONE, others.len());
        let flags: Vec<Dim> = [self.batch.clone(), self.length.clone()]
            .into_iter()
            .chain(ones)
            .collect();
        let flags = reshape(rw, self.flags, &flags)?;
        let zero = if dtype.is_float() {
            Tensor::from_f64(dtype, &[], [0.0])
        } else {
            Tensor::from_i64(dtype, &[], [0])
        };
        let zero = rw.add_weight("", zero);
        let all = rw.apply("Where", &[], &[flags, all, zero])?;
        let mut next = 2;
        let perm: Vec<usize> = atoms
            .iter()
            .map(|a| match a {
                Atom::Batch => 0,
                Atom::Sequence => 1,
                Atom::Plain(_) => {
                    next += 1;
                    next - 1
                }
            })
            .collect();
        let turned = if is_identity(&perm) {
            all
        } else {
            rw.apply("Transpose", &[("perm", perm_attr(&perm))], &[all])?
        };
        reshape(rw, turned, &shape)
    }
}

/// The axes that attribute `axes` lists, of a tensor of this rank.
fn listed(attrs: &Attrs, rank: usize) -> Option<Vec<usize>> {
    let axis = |a: i64| normalize_axis(a, rank).ok();
    match attrs.get("axes")? {
        Attr::Dims(list) => list.iter().map(|a| axis(a.as_const()?)).collect(),
        Attr::Ints(list) => list.iter().map(|a| axis(*a)).collect(),
        _ => None,
    }
}

/// Results with their layouts, where a node could be made again.
type Made = Result<Option<Vec<(ValueId, Layout)>>, OpError>;

/// A packed value in the shape that a layout asks for.
fn packed_reshape(rw: &mut Rewriter, v: ValueId, layout: &Layout) -> Result<ValueId, OpError> {
    let tokens = rw.fact(v).shape[0].clone();
    let shape: Vec<Dim> = std::iter::once(tokens).chain(rest(layout)).collect();
    reshape(rw, v, &shape)
}

/// `v` in another shape; no node when it has that already.
fn reshape(rw: &mut Rewriter, v: ValueId, shape: &[Dim]) -> Result<ValueId, OpError> {
    if rw.fact(v).shape == shape {
        return Ok(v);
    }
    rw.apply("Reshape", &reshape_attrs(shape), &[v])
}
