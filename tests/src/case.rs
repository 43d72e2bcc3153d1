//! One operation applied, as a line of text, and the graphs that it becomes.
//!
//! ```text
//! Gemm(f32[3,4], f32[4,2], _) {alpha=2.0}        random operands; `_` is an absent one
//! Gather(T[5,3], i64[2,2] @ -5..4) : f32 u8      a range for the elements; `T` is each of the types in turn
//! Split(f32[7,2], i64[2] = dense(3,4)) -> 2      a weight; two results
//! Gather(f32[9,2] = random, i64[3] @ 0..8)       a random weight
//! ```

use std::collections::BTreeMap;

use cameo_ir::random::{self, Rng};
use cameo_ir::{DType, Dim, Fact, Graph, Sym, Tensor, ValueId, graph, text};

/// What of a case is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All but the first operand are weights.
    Weights,
    /// Operands are inputs of known shapes.
    Static,
    /// Equal extents but 1 are the same symbol.
    ByExtent,
    /// Every axis of every input is a symbol of its own.
    EveryAxis,
}

impl Form {
    pub const ALL: [Self; 4] = [Self::Weights, Self::Static, Self::ByExtent, Self::EveryAxis];
}

/// A line of text with its types filled in.
#[derive(Clone, Debug)]
pub struct Case {
    pub text: String,
    /// One node whose random operands are inputs.
    graph: Graph,
    /// Per input the range of its elements, where the line gives one.
    ranges: Vec<Option<(f64, f64)>>,
}

/// The graph of a case in some form.
pub struct Formed {
    pub graph: Graph,
    /// The symbols' values at which the shapes are the line's.
    pub symbols: BTreeMap<String, i64>,
    ranges: Vec<Option<(f64, f64)>>,
}

impl Case {
    /// The cases of a line: one for each of its types.
    ///
    /// # Panics
    /// When the line is not of the form above, or the operation refuses its operands.
    pub fn parse(line: &str) -> Vec<Self> {
        let (application, types) = line.rsplit_once(" : ").unwrap_or((line, "f32"));
        types
            .split_whitespace()
            .map(|t| Self::of_type(application, t))
            .collect()
    }

    fn of_type(application: &str, dtype: &str) -> Self {
        let text = application.replace("T[", &format!("{dtype}["));
        let (applied, outputs) = match text.rsplit_once(" -> ") {
            Some((applied, n)) => (applied, n.trim().parse().expect("the number of results")),
            None => (&*text, 1),
        };
        let (op, rest) = applied.split_once('(').expect("`(`");
        let (operands, attrs) = closing(rest);
        let (mut inputs, mut weights, mut used, mut ranges) = (vec![], vec![], vec![], vec![]);
        for (i, operand) in split(operands).into_iter().enumerate() {
            match operand {
                "_" => {
                    used.push("_".to_owned());
                    continue;
                }
                weight if weight.contains('=') => {
                    let (fact, data) = weight.split_once('=').expect("just seen");
                    let (fact, data) = (fact.trim(), data.trim());
                    let data = if data == "random" {
                        random(fact)
                    } else {
                        data.to_owned()
                    };
                    weights.push(format!("weight %{i}: {fact} = {data}\n"));
                }
                input => {
                    let (fact, range) = match input.split_once('@') {
                        Some((fact, range)) => (fact.trim(), Some(parse_range(range))),
                        None => (input, None),
                    };
                    inputs.push(format!("%{i} \"x{i}\": {fact}"));
                    ranges.push(range);
                }
            }
            used.push(format!("%{i}"));
        }
        let results: Vec<String> = (0..outputs).map(|i| format!("%{}", 100 + i)).collect();
        let names: Vec<String> = results
            .iter()
            .enumerate()
            .map(|(i, v)| format!("{v} \"y{i}\""))
            .collect();
        let source = format!(
            "graph @case ({}) {{\n{}{} = {op}({}) {attrs}\nreturn {}\n}}",
            inputs.join(", "),
            weights.concat(),
            results.join(", "),
            used.join(", "),
            names.join(", ")
        );
        let graph = text::parse(&source, &|_, _| None).unwrap_or_else(|e| panic!("{application}\n{source}\n{e}"));
        Self { text, graph, ranges }
    }

    /// Name of the operation.
    pub fn op(&self) -> &str {
        self.text.split('(').next().unwrap_or_default().trim()
    }

    /// The graph in a form; `None` where the form is nothing new or the operation needs to know more.
    pub fn form(&self, form: Form, seed: u64) -> Option<Formed> {
        let source = &self.graph;
        let mut out = Formed {
            graph: Graph::new("case"),
            symbols: BTreeMap::new(),
            ranges: vec![],
        };
        let mut r = Rng::new(seed);
        let mut new: Vec<Option<ValueId>> = vec![None; source.value_count()];
        for (i, v) in source.inputs().iter().enumerate() {
            let fact = source.fact(*v);
            let shape = fact.static_shape().expect("a line has no symbols");
            let name = &source.value(*v).name;
            if form == Form::Weights && i > 0 {
                let t = elements(&mut r, fact.dtype, &shape, self.ranges[i]);
                new[v.0 as usize] = Some(out.graph.add_weight(name, t));
                continue;
            }
            let mut dim = |axis: usize, extent: usize| {
                let name = match (form, extent) {
                    (Form::Weights | Form::Static, _) | (Form::ByExtent, 1) => return Dim::from(extent),
                    (Form::ByExtent, _) => format!("D{extent}"),
                    (Form::EveryAxis, _) => format!("I{i}A{axis}"),
                };
                let d = Dim::sym(&name);
                out.symbols.insert(name, extent as i64);
                d
            };
            let shape: Vec<Dim> = shape.iter().enumerate().map(|(axis, e)| dim(axis, *e)).collect();
            new[v.0 as usize] = Some(out.graph.add_input(name, Fact::new(fact.dtype, shape)));
            out.ranges.push(self.ranges[i]);
        }
        let nothing_new = match form {
            Form::Weights => source.inputs().len() < 2,
            Form::Static => false,
            Form::ByExtent | Form::EveryAxis => out.symbols.is_empty(),
        };
        if nothing_new {
            return None;
        }
        for v in source.value_ids() {
            if let Some(t) = source.constant(v) {
                new[v.0 as usize] = Some(out.graph.add_weight("", t.clone()));
            }
        }
        for n in source.order() {
            let node = source.node(n);
            let inputs = node.inputs.iter().map(|v| v.and_then(|v| new[v.0 as usize])).collect();
            let made = out.graph.add_node(
                node.op,
                node.attrs.clone(),
                inputs,
                node.outputs.len(),
                node.origin.clone(),
            );
            for (old, v) in node.outputs.iter().zip(made.ok()?) {
                new[old.0 as usize] = Some(v);
            }
        }
        for (name, v) in source.outputs() {
            out.graph.add_output(name, new[v.0 as usize]?);
        }
        Some(out)
    }
}

impl Formed {
    /// Random operands for these values of the symbols.
    ///
    /// # Panics
    /// When a symbol has no value.
    pub fn inputs(&self, symbols: &BTreeMap<String, i64>, seed: u64) -> Vec<Tensor> {
        let mut r = Rng::new(seed);
        let value = |n: &str| symbols.get(n).copied();
        let inputs = self.graph.inputs().iter().zip(&self.ranges);
        inputs
            .map(|(v, range)| {
                let fact = self.graph.fact(*v);
                let shape = graph::bind_shape(&fact.shape, &value).expect("all symbols have values");
                elements(&mut r, fact.dtype, &shape, *range)
            })
            .collect()
    }
}

/// Adds a copy of `from` to `to`, its symbols and the names of its inputs and outputs with `prefix` before them.
///
/// # Panics
/// When `from` has a node that does not type-check.
pub fn append(to: &mut Graph, from: &Graph, prefix: &str) {
    let renamed = |d: &Dim| {
        d.subst(&|s| match s {
            Sym::Named(n) => Some(Dim::sym(&format!("{prefix}{n}"))),
            _ => None,
        })
    };
    let mut new: Vec<Option<ValueId>> = vec![None; from.value_count()];
    for v in from.inputs() {
        let fact = from.fact(*v);
        let shape: Vec<Dim> = fact.shape.iter().map(renamed).collect();
        let name = format!("{prefix}{}", from.value(*v).name);
        new[v.0 as usize] = Some(to.add_input(&name, Fact::new(fact.dtype, shape)));
    }
    for (name, range) in &from.symbols {
        to.symbols.insert(format!("{prefix}{name}").into(), *range);
    }
    for v in from.value_ids() {
        if let Some(t) = from.constant(v) {
            new[v.0 as usize] = Some(to.add_weight("", t.clone()));
        }
    }
    for n in from.order() {
        let node = from.node(n);
        let mut attrs = node.attrs.clone();
        for a in attrs.values_mut() {
            if let cameo_ir::Attr::Dims(dims) = a {
                dims.iter_mut().for_each(|d| *d = renamed(d));
            }
        }
        let inputs = node.inputs.iter().map(|v| v.and_then(|v| new[v.0 as usize])).collect();
        let made = to.add_node(node.op, attrs, inputs, node.outputs.len(), node.origin.clone());
        for (old, v) in node.outputs.iter().zip(made.expect("types as in the original")) {
            new[old.0 as usize] = Some(v);
        }
    }
    for (name, v) in from.outputs() {
        to.add_output(&format!("{prefix}{name}"), new[v.0 as usize].expect("copied"));
    }
}

/// Random elements: floats near N(0,1) on a grid that halves hold, small integers, or evenly within a range.
pub fn elements(r: &mut Rng, dtype: DType, shape: &[usize], range: Option<(f64, f64)>) -> Tensor {
    let n: usize = shape.iter().product();
    let mut one = || match range {
        Some((lo, hi)) if dtype.is_float() => lo + (hi - lo) * r.range(0, 1 << 20) as f64 / f64::from(1 << 20),
        Some((lo, hi)) => r.range(lo as i64, hi as i64) as f64,
        None if dtype.is_float() => (r.normal() * 256.0).round() / 256.0,
        None if dtype == DType::Bool => r.range(0, 1) as f64,
        None if dtype.is_signed() => r.range(-4, 4) as f64,
        None => r.range(0, 7) as f64,
    };
    if dtype == DType::String {
        let texts: Vec<&str> = (0..n).map(|_| *r.pick(&random::TEXTS)).collect();
        return Tensor::strings(shape, texts).expect("different");
    }
    Tensor::from_f64(dtype, shape, (0..n).map(|_| one()).collect::<Vec<_>>())
}

/// The elements of a weight of this type and shape, as text. Eighths, which every float type holds.
fn random(fact: &str) -> String {
    let (dtype, shape) = fact.split_once('[').expect("a shape");
    let extents = shape.trim_end_matches(']').split(',').filter(|d| !d.is_empty());
    let n: i64 = extents.map(|d| d.trim().parse::<i64>().expect("an extent")).product();
    let mut r = Rng::new(n as u64);
    let one = |r: &mut Rng| match dtype {
        t if t.parse().is_ok_and(DType::is_float) => format!("{:.3}", r.range(-16, 16) as f64 / 8.0),
        "u2" => r.range(0, 3).to_string(),
        "i2" => r.range(-2, 1).to_string(),
        "string" => format!("{:?}", r.pick(&random::TEXTS)),
        _ => r.range(0, 4).to_string(),
    };
    let all: Vec<String> = (0..n).map(|_| one(&mut r)).collect();
    format!("dense({})", all.join(","))
}

/// What is before the parenthesis that closes, and what is after it.
fn closing(s: &str) -> (&str, &str) {
    let mut depth = 1;
    for (i, c) in s.char_indices() {
        depth += match c {
            '(' | '[' | '{' => 1,
            ')' | ']' | '}' => -1,
            _ => 0,
        };
        if depth == 0 {
            return (&s[..i], s[i + 1..].trim());
        }
    }
    panic!("`{s}` has no closing parenthesis")
}

/// The parts between commas that are in no brackets.
fn split(s: &str) -> Vec<&str> {
    let (mut depth, mut from, mut out) = (0, 0, vec![]);
    for (i, c) in s.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
                out.push(s[from..i].trim());
                from = i + 1;
            }
            _ => {}
        }
    }
    if !s[from..].trim().is_empty() {
        out.push(s[from..].trim());
    }
    out
}

fn parse_range(s: &str) -> (f64, f64) {
    let (lo, hi) = s.trim().split_once("..").expect("`..`");
    (lo.parse().expect("a number"), hi.parse().expect("a number"))
}
