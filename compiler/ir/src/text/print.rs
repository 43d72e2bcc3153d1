//! Writing graphs as text.

use std::fmt::Write as _;

use bytes::Bytes;
use rustc_hash::FxHashSet;

use super::lex::{is_ident, quote};
use super::{INLINE_MAX, content_hash};
use crate::tensor::{bf16_to_f32, f16_to_f32};
use crate::{Atom, Attr, Attrs, DType, Def, Dim, Fact, Graph, NodeId, Sym, Tensor, ValueId, narrow};

/// The graph in text form. Weights of more than [`INLINE_MAX`] elements are referred to; [`blobs`] gives them.
pub fn print(g: &Graph) -> String {
    let mut out = String::new();
    graph(&mut out, g, 0);
    out.push('\n');
    out
}

/// The bytes that the text of the graph refers to, by name, each once.
pub fn blobs(g: &Graph) -> Vec<(String, Bytes)> {
    let mut out = vec![];
    collect_blobs(g, &mut FxHashSet::default(), &mut out);
    out
}

fn collect_blobs(g: &Graph, seen: &mut FxHashSet<String>, out: &mut Vec<(String, Bytes)>) {
    let numbers = Numbers::new(g);
    let mut tensor = |t: &Tensor| {
        if is_apart(t) {
            let name = blob_name(t);
            if seen.insert(name.clone()) {
                out.push((name, t.bytes().clone()));
            }
        }
    };
    numbers
        .weights
        .iter()
        .filter_map(|v| g.constant(*v))
        .for_each(&mut tensor);
    let mut inner = vec![];
    for n in g.order() {
        for a in g.node(n).attrs.values() {
            match a {
                Attr::Tensor(t) => tensor(t),
                Attr::Graph(sub) => inner.push(sub.clone()),
                _ => {}
            }
        }
    }
    for sub in inner {
        collect_blobs(&sub, seen, out);
    }
}

/// The node with what surrounds it up to `context` steps away, numbered as in [`print`]: for messages. Lines of `…`
/// stand for what is left out; `>` marks the node.
pub fn print_around(g: &Graph, node: NodeId, context: usize) -> String {
    let numbers = Numbers::new(g);
    let mut near: FxHashSet<NodeId> = [node].into_iter().collect();
    let mut edge = vec![node];
    for _ in 0..context {
        let mut next = vec![];
        for n in edge {
            let Some(n) = g.contains(n).then(|| g.node(n)) else {
                continue;
            };
            let operands = n.inputs.iter().flatten().filter(|v| (v.0 as usize) < g.value_count());
            let producers = operands.filter_map(|v| g.producer(*v)).map(|(p, _)| p);
            let users = n.outputs.iter().flat_map(|v| g.users(*v));
            next.extend(producers.chain(users).filter(|n| near.insert(*n)));
        }
        edge = next;
    }
    let mut out = String::new();
    let mut gap = false;
    let mut line = |shown: bool, mark: bool, f: &mut dyn FnMut(&mut String)| {
        if shown {
            out.push_str(if mark { "> " } else { "  " });
            f(&mut out);
            out.push('\n');
        } else if !gap {
            out.push_str("  …\n");
        }
        gap = !shown;
    };
    let read = |v: &ValueId| {
        near.iter()
            .any(|n| g.contains(*n) && g.node(*n).inputs.contains(&Some(*v)))
    };
    for v in g.inputs() {
        line(read(v), false, &mut |out| {
            value(out, g, &numbers, *v);
            out.push_str(": ");
            fact(out, g.fact(*v), true);
        });
    }
    for v in &numbers.weights {
        line(read(v), false, &mut |out| weight(out, g, &numbers, *v));
    }
    for n in g.order() {
        line(near.contains(&n), n == node, &mut |out| {
            node_line(out, g, &numbers, n, 0);
        });
    }
    out
}

/// The numbers of the values in print order.
struct Numbers {
    weights: Vec<ValueId>,
    /// By [`ValueId`].
    of: Vec<Option<usize>>,
}

impl Numbers {
    fn new(g: &Graph) -> Self {
        let order = g.order();
        let mut seen = vec![false; g.value_count()];
        let operands = order.iter().flat_map(|n| g.node(*n).inputs.iter().flatten().copied());
        let outputs = g.outputs().iter().map(|(_, v)| *v);
        let weights: Vec<ValueId> = operands
            .chain(outputs)
            .chain(g.value_ids())
            .filter(|v| (v.0 as usize) < seen.len() && !std::mem::replace(&mut seen[v.0 as usize], true))
            .filter(|v| g.constant(*v).is_some())
            .collect();
        let results = order.iter().flat_map(|n| g.node(*n).outputs.iter().copied());
        let mut of = vec![None; g.value_count()];
        for (i, v) in g
            .inputs()
            .iter()
            .copied()
            .chain(weights.iter().copied())
            .chain(results)
            .enumerate()
        {
            if let Some(slot) = of.get_mut(v.0 as usize) {
                *slot = Some(i);
            }
        }
        Self { weights, of }
    }
}

fn graph(out: &mut String, g: &Graph, depth: usize) {
    let numbers = Numbers::new(g);
    out.push_str("graph @");
    out.push_str(&ident(&g.name));
    out.push_str(" (");
    for (i, v) in g.inputs().iter().enumerate() {
        comma(out, i);
        value(out, g, &numbers, *v);
        out.push_str(": ");
        fact(out, g.fact(*v), true);
    }
    out.push(')');
    for (i, (name, r)) in g.symbols.iter().enumerate() {
        out.push_str(if i == 0 { " symbols " } else { ", " });
        let _ = write!(out, "{}={}..", ident(name), r.min);
        if r.max != i64::MAX {
            let _ = write!(out, "{}", r.max);
        }
    }
    out.push_str(" {\n");
    for v in &numbers.weights {
        indent(out, depth + 1);
        weight(out, g, &numbers, *v);
        out.push('\n');
    }
    for n in g.order() {
        indent(out, depth + 1);
        node_line(out, g, &numbers, n, depth + 1);
        out.push('\n');
    }
    indent(out, depth + 1);
    out.push_str("return");
    for (i, (name, v)) in g.outputs().iter().enumerate() {
        out.push_str(if i == 0 { " " } else { ", " });
        number(out, &numbers, *v);
        out.push(' ');
        out.push_str(&quote(name));
    }
    out.push('\n');
    indent(out, depth);
    out.push('}');
}

fn indent(out: &mut String, depth: usize) {
    (0..depth).for_each(|_| out.push_str("  "));
}

fn comma(out: &mut String, i: usize) {
    if i > 0 {
        out.push_str(", ");
    }
}

fn ident(s: &str) -> String {
    if is_ident(s) { s.into() } else { quote(s) }
}

fn number(out: &mut String, numbers: &Numbers, v: ValueId) {
    let _ = match numbers.of.get(v.0 as usize).copied().flatten() {
        Some(i) => write!(out, "%{i}"),
        // Only in graphs that the verifier refuses.
        None => write!(out, "%?{}", v.0),
    };
}

fn value(out: &mut String, g: &Graph, numbers: &Numbers, v: ValueId) {
    number(out, numbers, v);
    let name = &g.value(v).name;
    if !name.is_empty() {
        out.push(' ');
        out.push_str(&quote(name));
    }
}

fn weight(out: &mut String, g: &Graph, numbers: &Numbers, v: ValueId) {
    out.push_str("weight ");
    value(out, g, numbers, v);
    out.push_str(": ");
    fact(out, g.fact(v), false);
    if let Def::Weight(t) = &g.value(v).def {
        out.push_str(" = ");
        elements(out, t);
    }
}

fn node_line(out: &mut String, g: &Graph, numbers: &Numbers, n: NodeId, depth: usize) {
    let node = g.node(n);
    for (i, v) in node.outputs.iter().enumerate() {
        comma(out, i);
        value(out, g, numbers, *v);
    }
    let _ = write!(out, " = {}(", node.op);
    for (i, v) in node.inputs.iter().enumerate() {
        comma(out, i);
        match v {
            Some(v) => number(out, numbers, *v),
            None => out.push('_'),
        }
    }
    out.push(')');
    attrs(out, &node.attrs, depth);
    for (i, v) in node.outputs.iter().enumerate() {
        out.push_str(if i == 0 { " : " } else { ", " });
        fact(out, g.fact(*v), true);
    }
    for (i, name) in node.origin.names().iter().enumerate() {
        out.push_str(if i == 0 { " from " } else { ", " });
        out.push_str(&quote(name));
    }
}

fn attrs(out: &mut String, attrs: &Attrs, depth: usize) {
    for (i, (name, a)) in attrs.iter().enumerate() {
        out.push_str(if i == 0 { " {" } else { ", " });
        let _ = write!(out, "{}=", ident(name));
        attr(out, a, depth);
    }
    if !attrs.is_empty() {
        out.push('}');
    }
}

fn attr(out: &mut String, a: &Attr, depth: usize) {
    let joined = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(",");
    let _ = match a {
        Attr::Int(v) => write!(out, "{v}"),
        Attr::Float(v) => write!(out, "{}", f32_text(*v)),
        Attr::Str(s) => write!(out, "{}", quote(s)),
        Attr::Ints(v) => write!(out, "[{}]", joined(&mut v.iter().map(i64::to_string))),
        Attr::Floats(v) => write!(out, "floats[{}]", joined(&mut v.iter().map(|x| f32_text(*x)))),
        Attr::Strs(v) => write!(out, "strs[{}]", joined(&mut v.iter().map(|s| quote(s)))),
        Attr::Dims(v) => write!(out, "dims[{}]", joined(&mut v.iter().map(dim))),
        Attr::DType(t) => write!(out, "{t}"),
        Attr::Tensor(t) => {
            fact(out, &t.fact(), false);
            out.push(' ');
            elements(out, t);
            Ok(())
        }
        Attr::Graph(g) => {
            graph(out, g, depth);
            Ok(())
        }
    };
}

fn fact(out: &mut String, f: &Fact, with_known: bool) {
    let list = |dims: &[Dim], dim: fn(&Dim) -> String| dims.iter().map(dim).collect::<Vec<_>>().join(",");
    let _ = write!(out, "{}[{}]", f.dtype, list(&f.shape, dim));
    if let Some(known) = f.known.as_ref().filter(|_| with_known) {
        let element = if f.dtype.is_float() { real } else { dim };
        let _ = write!(out, "=[{}]", list(known, element));
    }
}

/// Whether a tensor's bytes are in a file of their own: there is more to strings than their handles.
fn is_apart(t: &Tensor) -> bool {
    t.len() > INLINE_MAX && t.dtype() != DType::String
}

fn blob_name(t: &Tensor) -> String {
    format!("{:016x}", content_hash(t.bytes()))
}

/// `dense(…)` or `blob("…")`.
fn elements(out: &mut String, t: &Tensor) {
    if is_apart(t) {
        let _ = write!(out, "blob(\"{}\")", blob_name(t));
        return;
    }
    let bits = |b: &[u8]| b.iter().rev().fold(0u64, |a, b| a << 8 | u64::from(*b));
    out.push_str("dense(");
    for (i, b) in t.bytes().chunks_exact(t.dtype().size()).enumerate() {
        if i > 0 {
            out.push(',');
        }
        let bits = bits(b);
        let _ = match t.dtype() {
            DType::F32 => write!(out, "{}", f32_text(f32::from_bits(bits as u32))),
            DType::F64 => write!(
                out,
                "{}",
                float_text(f64::from_bits(bits), bits, CANONICAL_F64, || format!(
                    "{:?}",
                    f64::from_bits(bits)
                ))
            ),
            DType::F16 => {
                let x = f16_to_f32(bits as u16);
                write!(
                    out,
                    "{}",
                    float_text(x.into(), bits, CANONICAL_F16, || format!("{x:?}"))
                )
            }
            DType::BF16 => {
                let x = bf16_to_f32(bits as u16);
                write!(
                    out,
                    "{}",
                    float_text(x.into(), bits, CANONICAL_BF16, || format!("{x:?}"))
                )
            }
            DType::Bool if bits <= 1 => write!(out, "{}", bits == 1),
            DType::String => match t.texts().get(bits) {
                Some(text) => write!(out, "{}", quote(text)),
                None => write!(out, "{bits}"),
            },
            DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::Bool => write!(out, "{bits}"),
            DType::I8 => write!(out, "{}", bits as i8),
            DType::I16 => write!(out, "{}", bits as i16),
            DType::I32 => write!(out, "{}", bits as i32),
            DType::I64 => write!(out, "{}", bits as i64),
            t if t.is_float() => {
                let x = narrow::decode(t, bits as u8);
                let decimal = || format!("{x:?}");
                write!(out, "{}", float_text(x.into(), bits, canonical_narrow(t), decimal))
            }
            t => write!(out, "{}", narrow::wrapped(t, bits as i64)),
        };
    }
    out.push(')');
}

/// The quiet NaNs that `nan` stands for; others are written with their bits.
pub(super) const CANONICAL_F32: u64 = 0x7fc0_0000;
pub(super) const CANONICAL_F64: u64 = 0x7ff8_0000_0000_0000;
pub(super) const CANONICAL_F16: u64 = 0x7e00;
pub(super) const CANONICAL_BF16: u64 = 0x7fc0;

/// The same of a small float.
pub(super) fn canonical_narrow(t: DType) -> u64 {
    narrow::encode(t, f64::NAN).into()
}

fn f32_text(x: f32) -> String {
    float_text(x.into(), x.to_bits().into(), CANONICAL_F32, || format!("{x:?}"))
}

/// The shortest decimal that gives the same bits back (what `Debug` of floats prints), or a name.
fn float_text(x: f64, bits: u64, canonical: u64, decimal: impl Fn() -> String) -> String {
    if x.is_nan() {
        return if bits == canonical {
            "nan".into()
        } else {
            format!("nan({bits:#x})")
        };
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.into();
    }
    decimal()
}

/// A known float.
fn real(d: &Dim) -> String {
    match d.as_const() {
        Some(bits) => format!("{:?}", f64::from_bits(bits as u64)),
        None => dim(d),
    }
}

/// As `Display` of [`Dim`], with symbols quoted that are not identifiers.
pub(super) fn dim(d: &Dim) -> String {
    if let Some(c) = d.as_const() {
        return c.to_string();
    }
    let mut out = String::new();
    let constant = d.terms().iter().filter(|(m, _)| m.is_empty());
    for (m, c) in d.terms().iter().filter(|(m, _)| !m.is_empty()).chain(constant) {
        if *c < 0 {
            out.push('-');
        } else if !out.is_empty() {
            out.push('+');
        }
        let mut factors: Vec<String> = m.iter().map(atom).collect();
        if m.is_empty() || c.unsigned_abs() != 1 {
            factors.insert(0, c.unsigned_abs().to_string());
        }
        out.push_str(&factors.join("*"));
    }
    out
}

fn atom(a: &Atom) -> String {
    let (name, x, y) = match a {
        Atom::Sym(Sym::Named(n)) => return ident(n),
        Atom::Sym(s) => return s.to_string(),
        Atom::FloorDiv(x, y) => ("fdiv", x, y),
        Atom::Min(x, y) => ("min", x, y),
        Atom::Max(x, y) => ("max", x, y),
        Atom::Broadcast(x, y) => ("bcast", x, y),
        Atom::Real(op, x, y) => return op.text(x, y, &dim),
    };
    format!("{name}({},{})", dim(x), dim(y))
}
