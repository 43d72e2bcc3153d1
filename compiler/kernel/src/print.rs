//! Programs as text, for dumps: storages, kernels with their schedules, steps.

use std::fmt::{self, Write};

use cameo_ir::Dim;
use cameo_ir::structured::{Body, Expr, Scalar};

use crate::memory::MemoryPlan;
use crate::nest::across;
use crate::program::{ACC, BOperand, InOrder, Io, Kernel, KernelBody, Place, Program, RED, Store};
use crate::window::window;

/// The whole program with its memory plan.
pub fn program(p: &Program, plan: &MemoryPlan) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_program(&mut out, p, plan);
    out
}

/// All kernels as text, with the steps that call them and the ONNX nodes that these compute, and where what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub text: String,
    /// By kernel.
    pub kernels: Vec<KernelLines>,
}

/// Lines of a [`Listing`], counted from 1, of a kernel: one for each of a chain's links, else one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelLines {
    /// What is computed.
    pub heads: Vec<usize>,
    /// The first expression of the body, those behind it on lines of their own; 0 where there is none.
    pub bodies: Vec<usize>,
}

/// The listing that debug information of kernels points into.
pub fn listing(p: &Program) -> Listing {
    let mut listing = Listing::default();
    let out = &mut listing.text;
    let mut line = 1;
    for (i, k) in p.kernels.iter().enumerate() {
        let start = out.len();
        // Writing to a string cannot fail.
        for (n, s) in p.steps.iter().enumerate().filter(|(_, s)| s.kernel == i) {
            let nodes: Vec<String> = s.origin.names().iter().map(|n| n.replace('\n', " ")).collect();
            let _ = writeln!(out, "; step {n}: {}", nodes.join(" "));
        }
        let _ = write!(out, "k{i} ");
        let _ = write_kernel(out, k, &k.body);
        out.push('\n');
        let mut lines = KernelLines::default();
        for text in out[start..].lines() {
            if text.starts_with('k') || text.starts_with("  then ") {
                lines.heads.push(line);
                lines.bodies.push(0);
            } else if text.starts_with("    e0 = ")
                && let Some(body) = lines.bodies.last_mut()
            {
                *body = line;
            }
            line += 1;
        }
        if let KernelBody::Chain(_) = k.body {
            // The line of the chain itself.
            lines.heads.remove(0);
            lines.bodies.remove(0);
        }
        listing.kernels.push(lines);
    }
    listing
}

/// One kernel.
pub fn kernel(k: &Kernel) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_kernel(&mut out, k, &k.body);
    out
}

fn write_program(out: &mut String, p: &Program, plan: &MemoryPlan) -> fmt::Result {
    writeln!(out, "program @{} arena {} bytes", p.name, plan.size)?;
    for (i, s) in p.storages.iter().enumerate() {
        write!(out, "  s{i} \"{}\" {} x {} ", s.name, s.dtype, s.elements)?;
        match s.place {
            Place::Input(n) => writeln!(out, "input {n}")?,
            Place::Output(n) => writeln!(out, "output {n}")?,
            Place::Weight(n) => {
                let packed = p.weights[n].pack.as_ref().map_or(String::new(), |k| {
                    let by_point = if k.windows.is_some() { " by point" } else { "" };
                    format!(" in panels of {}{by_point}", k.panel)
                });
                writeln!(out, "weight {n}{packed}")?;
            }
            Place::Operator(n) => writeln!(out, "operator {n}")?,
            Place::Arena => match &plan.offsets[i] {
                Some(o) => writeln!(out, "arena at {o}")?,
                None => writeln!(out, "unused")?,
            },
        }
    }
    for c in &p.caches {
        writeln!(
            out,
            "  output {} is input {} and rows behind it along axis {}, at most {}",
            c.output, c.input, c.axis, c.capacity
        )?;
    }
    for (i, c) in p.customs.iter().enumerate() {
        let tensor = |io: &Io| format!("{}[{}]", io.dtype, list(&io.shape));
        let inputs: Vec<String> = c
            .inputs
            .iter()
            .map(|io| io.as_ref().map_or("_".into(), tensor))
            .collect();
        let outputs: Vec<String> = c.outputs.iter().map(tensor).collect();
        writeln!(
            out,
            "  operator {i} is {}({}) -> {} in step {}",
            c.operator,
            inputs.join(", "),
            outputs.join(", "),
            c.step
        )?;
    }
    for r in &p.requirements {
        writeln!(out, "  requires {} <= {}", r.a, r.b)?;
    }
    for (i, k) in p.kernels.iter().enumerate() {
        write!(out, "kernel k{i} ")?;
        write_kernel(out, k, &k.body)?;
    }
    for (i, s) in p.steps.iter().enumerate() {
        for c in p.counts.iter().filter(|c| c.step == i) {
            writeln!(
                out,
                "count {} = s{}, at most {}",
                c.symbol.name, c.symbol.storage, c.symbol.most
            )?;
        }
        for l in p.loops.iter().filter(|l| l.steps.start == i) {
            let again = if l.again {
                ", which each of them counts again"
            } else {
                ""
            };
            writeln!(out, "loop {} times{again}: steps {} to {}", l.count, i, l.steps.end - 1)?;
            if let Some(rows) = &l.rows {
                writeln!(
                    out,
                    "  {} = next of s{}, at most {}",
                    rows.name, rows.storage, rows.most
                )?;
            }
            for m in &l.moves {
                let (way, bytes) = (&m.way, &m.bytes);
                writeln!(out, "  step {} b{} {way:?} by {bytes} bytes", m.step, m.buffer)?;
            }
        }
        let buffers: Vec<String> = s.buffers.iter().map(|b| format!("s{b}")).collect();
        let dims: Vec<String> = s.dims.iter().map(ToString::to_string).collect();
        writeln!(
            out,
            "step {i}: k{}({}) [{}] flops {} from {}",
            s.kernel,
            buffers.join(", "),
            dims.join(", "),
            s.flops,
            s.origin.names().join(" ")
        )?;
    }
    Ok(())
}

fn list(dims: &[Dim]) -> String {
    dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn write_kernel(out: &mut String, k: &Kernel, body: &KernelBody) -> fmt::Result {
    match body {
        KernelBody::Nest(n) => {
            let vector = n.schedule.vector.map_or("none".into(), |v| format!("$i{v}"));
            // How code goes through it, where that is not point by point.
            let form = match (window(n, &k.buffers), across(n, &k.buffers)) {
                (Some(w), _) => format!(" windows $i{}", w.along),
                (None, Some(a)) => format!(" across $i{}", a.from),
                (None, None) => String::new(),
            };
            writeln!(
                out,
                "nest outer [{}] row [{}] vector {vector}{form}",
                list(&n.outer),
                list(&n.row)
            )?;
            write_body(out, &n.body)?;
            for (i, r) in n.reductions.iter().enumerate() {
                writeln!(out, "    red{i} = {:?} e{} : {}", r.combine, r.root, r.dtype)?;
            }
            if !n.temps.is_empty() {
                writeln!(out, "    keep {:?}", n.temps)?;
            }
            write_stores(out, &n.stores)
        }
        KernelBody::Contraction(c) => {
            writeln!(
                out,
                "contraction batch [{}] m {} n {} k [{}]",
                list(&c.batch),
                c.m,
                c.n,
                list(&c.k)
            )?;
            writeln!(out, "    schedule {}", c.schedule)?;
            writeln!(
                out,
                "    A = b{}[{}]{}",
                c.a.buffer,
                list(&c.a.index),
                if c.a_fill { " or 0" } else { "" }
            )?;
            match &c.b {
                BOperand::Packed { buffer, .. } => writeln!(out, "    B = b{buffer} packed")?,
                BOperand::Direct(o) => writeln!(out, "    B = b{}[{}]", o.buffer, list(&o.index))?,
                BOperand::Gathered(o) => writeln!(out, "    B = b{}[{}] copied per panel", o.buffer, list(&o.index))?,
            }
            write_body(out, &c.epilogue)?;
            write_stores(out, &c.stores)
        }
        KernelBody::Custom(results) => writeln!(out, "custom, results from b{results} on"),
        KernelBody::InOrder(InOrder::Compact { n }) => writeln!(out, "compact [{n}]"),
        KernelBody::InOrder(InOrder::Lengths { n, total, most }) => {
            writeln!(out, "lengths [{n}] total {total} most {most}")
        }
        KernelBody::InOrder(InOrder::Rule { a, b }) => writeln!(out, "rule {a} <= {b}"),
        KernelBody::InOrder(InOrder::Number { most }) => writeln!(out, "number most {most}"),
        KernelBody::Winograd(w) => {
            writeln!(
                out,
                "{} images {} y {} x {} n {} depth {} channels {}",
                w.schedule.form(),
                w.images,
                w.height,
                w.width,
                w.n,
                w.depth,
                w.channels
            )?;
            writeln!(out, "    schedule {}", w.schedule)?;
            writeln!(out, "    A = b{}[{}] or 0", w.a.buffer, list(&w.a.index))?;
            writeln!(out, "    B = b{} packed by point", w.b)?;
            write_body(out, &w.epilogue)?;
            write_stores(out, &w.stores)
        }
        KernelBody::Chain(c) => {
            writeln!(out, "chain batch {} m {}", c.batch, c.m)?;
            writeln!(
                out,
                "    schedule rows(m={}, {}); parallel(m)",
                c.schedule.rows, c.schedule.tile
            )?;
            for (i, width) in c.locals.iter().enumerate() {
                writeln!(out, "    local b{} rows of {width}", k.params() + i)?;
            }
            for link in &c.links {
                write!(out, "  then ")?;
                write_kernel(out, k, link)?;
            }
            Ok(())
        }
    }
}

fn write_stores(out: &mut String, stores: &[Store]) -> fmt::Result {
    for s in stores {
        writeln!(out, "    b{}[{}] = e{}", s.buffer, list(&s.index), s.root)?;
    }
    Ok(())
}

fn write_body(out: &mut String, body: &Body) -> fmt::Result {
    let scalar = |s: &Scalar| match s {
        Scalar::Float(b) => format!("{:?}", f64::from_bits(*b)),
        Scalar::Int(v) => v.to_string(),
    };
    for (i, e) in body.nodes().iter().enumerate() {
        write!(out, "    e{i} = ")?;
        match e {
            Expr::Const(t, s) => writeln!(out, "{} : {t}", scalar(s))?,
            Expr::Index(d) => writeln!(out, "index {d}")?,
            Expr::Load { operand: ACC, .. } => writeln!(out, "acc")?,
            Expr::Load { operand, .. } if *operand >= RED => writeln!(out, "red{}", operand - RED)?,
            Expr::Load {
                operand, index, fill, ..
            } => {
                let or = fill.as_ref().map_or(String::new(), |f| format!(" or {}", scalar(f)));
                writeln!(out, "b{operand}[{}]{or}", list(index))?;
            }
            Expr::Unary(op, a) => writeln!(out, "{op:?} e{a}")?,
            Expr::Binary(op, a, b) => writeln!(out, "{op:?} e{a} e{b}")?,
            Expr::Select(c, a, b) => writeln!(out, "Select e{c} e{a} e{b}")?,
            Expr::Cast(t, a) => writeln!(out, "{t} e{a}")?,
            Expr::Bits(t, a) => writeln!(out, "{t} bits e{a}")?,
            Expr::CheckedIndex(a, d) => writeln!(out, "checked e{a} < {d}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{block, convolutions};

    #[test]
    fn listings_say_what_is_in_their_lines() {
        for p in [block(None), convolutions()] {
            let listing = listing(&p);
            let line = |n: usize| listing.text.lines().nth(n - 1).unwrap_or_default();
            assert_eq!(listing.kernels.len(), p.kernels.len());
            for (i, (kernel, lines)) in p.kernels.iter().zip(&listing.kernels).enumerate() {
                let links = kernel.body.links().len();
                assert_eq!(
                    (lines.heads.len(), lines.bodies.len()),
                    (links, links),
                    "{}",
                    listing.text
                );
                for (head, body) in lines.heads.iter().zip(&lines.bodies) {
                    let chain = matches!(kernel.body, KernelBody::Chain(_));
                    let begin = if chain { "  then ".to_owned() } else { format!("k{i} ") };
                    assert!(line(*head).starts_with(&begin), "{head} of\n{}", listing.text);
                    assert!(
                        *body == 0 || line(*body).starts_with("    e0 = "),
                        "{body} of\n{}",
                        listing.text
                    );
                }
            }
            assert!(
                p.steps
                    .iter()
                    .enumerate()
                    .all(|(i, _)| listing.text.contains(&format!("; step {i}:")))
            );
        }
    }
}
