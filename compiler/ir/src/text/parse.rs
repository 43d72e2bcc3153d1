//! Reading graphs from text.
//!
//! The first thing that is not a graph's text ends parsing; what parses is then verified, and everything that is wrong
//! with it is reported, under the guilty line.

mod literals;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::lex::{Token, next};
use crate::graph::infer;
use crate::verify::{VerifyError, verify};
use crate::{Attr, Attrs, DType, Fact, Graph, Op, Origin, SymbolRange, ValueId};

/// Something wrong with the text. Lines and columns count from 1; columns are characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    pub line: usize,
    pub column: usize,
    pub message: String,
    /// The guilty line.
    pub source: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Characters shown before and after the place: a line of a terminal.
        const AROUND: usize = 60;
        let from = self.column.saturating_sub(1 + AROUND);
        let shown = self.source.chars().skip(from).take(2 * AROUND);
        let shown: String = shown.map(|c| if c == '\t' { ' ' } else { c }).collect();
        writeln!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        writeln!(f, "  | {shown}")?;
        write!(f, "  | {:1$}^", "", self.column - 1 - from)
    }
}

impl std::error::Error for ParseError {}

/// Everything wrong with the text, in its order. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseErrors(pub Vec<ParseError>);

impl fmt::Display for ParseErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            e.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ParseErrors {}

/// Reads what [`super::print`] wrote, or what a person did, and verifies it. `blob` finds bytes by name and length.
pub fn parse(text: &str, blob: &dyn Fn(&str, usize) -> Option<Bytes>) -> Result<Graph, ParseErrors> {
    let (graph, places) = read(text, blob).map_err(|(at, message)| ParseErrors(vec![locate(text, at, message)]))?;
    match verify(&graph) {
        Ok(()) => Ok(graph),
        Err(errors) => {
            let mut located: Vec<(usize, VerifyError)> = errors.into_iter().map(|e| (places.of(&e), e)).collect();
            located.sort_by_key(|(at, _)| *at);
            let errors = located.into_iter().map(|(at, e)| locate(text, at, e.to_string()));
            Err(ParseErrors(errors.collect()))
        }
    }
}

fn read<'t>(text: &'t str, blob: &'t dyn Fn(&str, usize) -> Option<Bytes>) -> Result<(Graph, Places), Fail> {
    let mut p = Parser {
        text,
        token: Token::End,
        start: 0,
        end: 0,
        depth: 0,
        blob,
    };
    p.advance()?;
    let parsed = p.graph()?;
    p.expect_end()?;
    Ok(parsed)
}

/// [`parse`] for tests of things that the verifier refuses.
#[cfg(test)]
pub(super) fn parse_unverified(text: &str, blob: &dyn Fn(&str, usize) -> Option<Bytes>) -> Result<Graph, ParseError> {
    read(text, blob).map(|(g, _)| g).map_err(|(at, m)| locate(text, at, m))
}

fn locate(text: &str, at: usize, message: String) -> ParseError {
    let before = &text[..at];
    let begin = before.rfind('\n').map_or(0, |i| i + 1);
    ParseError {
        line: before.matches('\n').count() + 1,
        column: text[begin..at].chars().count() + 1,
        message,
        source: text[begin..].lines().next().unwrap_or("").to_owned(),
    }
}

/// Where in the text things were defined.
#[derive(Default)]
struct Places {
    /// By node id, which are given in order.
    nodes: Vec<usize>,
    /// By value id.
    values: Vec<usize>,
    outputs: usize,
    start: usize,
}

impl Places {
    fn of(&self, e: &VerifyError) -> usize {
        let node = e.node().and_then(|n| self.nodes.get(n.0 as usize));
        let place = match e {
            VerifyError::Definition { value, .. } | VerifyError::Value { value, .. } => {
                self.values.get(value.0 as usize)
            }
            VerifyError::Output { .. } => Some(&self.outputs),
            _ => node,
        };
        place.copied().unwrap_or(self.start)
    }
}

/// An offset in the text and a message.
type Fail = (usize, String);

/// A graph in an attribute in a graph in an attribute …: deeper than this is an attack on the stack.
const MAX_DEPTH: usize = 32;

/// Multiplying sums can explode; shapes of real models have a handful of terms.
const MAX_TERMS: usize = 1024;

struct Parser<'t> {
    text: &'t str,
    token: Token<'t>,
    /// Extent of `token` in the text.
    start: usize,
    end: usize,
    /// Nesting of graphs and of calls in dims.
    depth: usize,
    blob: &'t dyn Fn(&str, usize) -> Option<Bytes>,
}

impl<'t> Parser<'t> {
    // ---- tokens

    fn advance(&mut self) -> Result<(), Fail> {
        (self.token, self.start, self.end) = next(self.text, self.end)?;
        Ok(())
    }

    fn fail<T>(&self, expected: &str) -> Result<T, Fail> {
        Err((
            self.start,
            format!("expected {expected}, found {}", self.token.describe()),
        ))
    }

    /// Takes the token if it is this one.
    fn eat(&mut self, token: &Token) -> Result<bool, Fail> {
        let found = self.token == *token;
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn eat_punct(&mut self, p: &str) -> Result<bool, Fail> {
        self.eat(&Token::Punct(p))
    }

    fn eat_word(&mut self, w: &str) -> Result<bool, Fail> {
        self.eat(&Token::Ident(w))
    }

    fn punct(&mut self, p: &str) -> Result<(), Fail> {
        if self.eat_punct(p)? {
            Ok(())
        } else {
            self.fail(&format!("`{p}`"))
        }
    }

    fn expect_end(&self) -> Result<(), Fail> {
        if self.token == Token::End {
            Ok(())
        } else {
            self.fail("the end of the text")
        }
    }

    fn ident(&mut self, what: &str) -> Result<&'t str, Fail> {
        let Token::Ident(s) = self.token else {
            return self.fail(what);
        };
        self.advance()?;
        Ok(s)
    }

    fn string(&mut self, what: &str) -> Result<Arc<str>, Fail> {
        let Token::Str(s) = &self.token else {
            return self.fail(what);
        };
        let s = Arc::from(s.as_str());
        self.advance()?;
        Ok(s)
    }

    /// An identifier or a string.
    fn name(&mut self, what: &str) -> Result<Arc<str>, Fail> {
        if let Token::Ident(s) = self.token {
            self.advance()?;
            return Ok(s.into());
        }
        self.string(what)
    }

    /// `item, item, …` up to `close`, which is taken too.
    fn list<T>(&mut self, close: &str, mut item: impl FnMut(&mut Self) -> Result<T, Fail>) -> Result<Vec<T>, Fail> {
        let mut out = vec![];
        while !self.eat_punct(close)? {
            if !out.is_empty() && !self.eat_punct(",")? {
                return self.fail(&format!("`,` or `{close}`"));
            }
            out.push(item(self)?);
        }
        Ok(out)
    }

    fn nested<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, Fail>) -> Result<T, Fail> {
        if self.depth >= MAX_DEPTH {
            return Err((self.start, format!("nested deeper than {MAX_DEPTH}")));
        }
        self.depth += 1;
        let r = f(self);
        self.depth -= 1;
        r
    }

    // ---- attributes

    fn attrs(&mut self) -> Result<Attrs, Fail> {
        let mut out = Attrs::new();
        if !self.eat_punct("{")? {
            return Ok(out);
        }
        self.list("}", |p| {
            let at = p.start;
            let name = p.name("an attribute's name")?;
            p.punct("=")?;
            let value = p.attr()?;
            match out.insert(name.clone(), value) {
                None => Ok(()),
                Some(_) => Err((at, format!("attribute `{name}` is given twice"))),
            }
        })?;
        Ok(out)
    }

    fn attr(&mut self) -> Result<Attr, Fail> {
        let at = self.start;
        match self.token {
            Token::Str(_) => return Ok(Attr::Str(self.string("a string")?)),
            Token::Punct("[") => {
                self.advance()?;
                return Ok(Attr::Ints(self.list("]", Self::int)?));
            }
            Token::Ident("graph") => {
                let (g, _) = self.nested(Self::graph)?;
                return Ok(Attr::Graph(Arc::new(g)));
            }
            Token::Ident("dims") => {
                self.advance()?;
                return Ok(Attr::Dims(self.dims()?));
            }
            Token::Ident("floats") => {
                self.advance()?;
                self.punct("[")?;
                return Ok(Attr::Floats(self.list("]", Self::f32)?));
            }
            Token::Ident("strs") => {
                self.advance()?;
                self.punct("[")?;
                return Ok(Attr::Strs(self.list("]", |p| p.string("a string"))?));
            }
            Token::Ident(w) if w.parse::<DType>().is_ok() => {
                let dtype = self.dtype()?;
                if self.token != Token::Punct("[") {
                    return Ok(Attr::DType(dtype));
                }
                let fact = Fact::new(dtype, self.dims()?);
                return Ok(Attr::Tensor(self.elements(at, &fact)?));
            }
            _ => {}
        }
        let (at, s) = self.signed("an attribute's value")?;
        if s.contains(['.', 'e', 'E']) || s.ends_with("inf") || s.ends_with("nan") {
            return Ok(Attr::Float(self.f32_of(at, &s)?));
        }
        match s.parse() {
            Ok(v) => Ok(Attr::Int(v)),
            Err(_) => Err((at, format!("`{s}` is not a 64-bit integer"))),
        }
    }

    // ---- graphs

    fn graph(&mut self) -> Result<(Graph, Places), Fail> {
        let mut places = Places {
            start: self.start,
            ..Places::default()
        };
        if !self.eat_word("graph")? {
            return self.fail("`graph`");
        }
        self.punct("@")?;
        let mut g = Graph::new(&self.name("the graph's name")?);
        let mut values: FxHashMap<u64, ValueId> = FxHashMap::default();
        self.punct("(")?;
        let inputs = self.list(")", |p| {
            let (at, number, name) = p.definition()?;
            p.punct(":")?;
            Ok((at, number, name, p.fact()?))
        })?;
        if self.eat_word("symbols")? {
            loop {
                let name = self.name("a symbol")?;
                self.punct("=")?;
                let min = self.int()?;
                self.punct("..")?;
                let bounded = matches!(self.token, Token::Number(_) | Token::Punct("-"));
                let max = if bounded { self.int()? } else { i64::MAX };
                g.symbols.insert(name, SymbolRange { min, max });
                if !self.eat_punct(",")? {
                    break;
                }
            }
        }
        for (at, number, name, fact) in inputs {
            let v = g.add_input(&name, fact);
            define(&mut values, &mut places, at, number, v)?;
        }
        self.punct("{")?;
        loop {
            let at = self.start;
            if self.eat_word("weight")? {
                let (at, number, name) = self.definition()?;
                self.punct(":")?;
                let type_at = self.start;
                let fact = Fact::new(self.dtype()?, self.dims()?);
                self.punct("=")?;
                let t = self.elements(type_at, &fact)?;
                let v = g.add_weight(&name, t);
                define(&mut values, &mut places, at, number, v)?;
            } else if self.eat_word("return")? {
                places.outputs = at;
                while let Token::Value(_) = self.token {
                    let v = self.operand(&values)?;
                    let named = matches!(self.token, Token::Str(_));
                    let name = if named { self.string("a name")? } else { "".into() };
                    g.add_output(&name, v);
                    if !self.eat_punct(",")? {
                        break;
                    }
                }
                self.punct("}")?;
                return Ok((g, places));
            } else if let Token::Value(_) = self.token {
                self.node(&mut g, &mut values, &mut places)?;
            } else {
                return self.fail("a value, `weight` or `return`");
            }
        }
    }

    /// `%5 "name"`.
    fn definition(&mut self) -> Result<(usize, u64, Arc<str>), Fail> {
        let at = self.start;
        let Token::Value(n) = self.token else {
            return self.fail("a value such as `%1`");
        };
        self.advance()?;
        let named = matches!(self.token, Token::Str(_));
        let name = if named { self.string("a name")? } else { "".into() };
        Ok((at, n, name))
    }

    fn operand(&mut self, values: &FxHashMap<u64, ValueId>) -> Result<ValueId, Fail> {
        let Token::Value(n) = self.token else {
            return self.fail("a value such as `%1`, or `_`");
        };
        let Some(v) = values.get(&n) else {
            return Err((self.start, format!("`%{n}` is not defined above")));
        };
        self.advance()?;
        Ok(*v)
    }

    fn node(&mut self, g: &mut Graph, values: &mut FxHashMap<u64, ValueId>, places: &mut Places) -> Result<(), Fail> {
        let line = self.start;
        let mut outputs = vec![self.definition()?];
        while self.eat_punct(",")? {
            outputs.push(self.definition()?);
        }
        self.punct("=")?;
        let op_at = self.start;
        let mut op_name = self.ident("an operation")?.to_owned();
        if self.eat_punct("::")? {
            op_name = format!("{op_name}::{}", self.ident("an operation")?);
        }
        let Some(op) = Op::find(&op_name) else {
            return Err((op_at, format!("there is no operation `{op_name}`")));
        };
        self.punct("(")?;
        let inputs = self.list(")", |p| {
            if p.eat_word("_")? {
                Ok(None)
            } else {
                p.operand(values).map(Some)
            }
        })?;
        let attrs = self.attrs()?;
        let mut facts: Vec<Fact> = vec![];
        if self.eat_punct(":")? {
            let facts_at = self.start;
            loop {
                facts.push(self.fact()?);
                if !self.eat_punct(",")? {
                    break;
                }
            }
            if facts.len() != outputs.len() {
                return Err((facts_at, format!("{} types for {} outputs", facts.len(), outputs.len())));
            }
        }
        let mut origins = vec![];
        if self.eat_word("from")? {
            loop {
                origins.push(self.string("the name of an ONNX node in quotes")?);
                if !self.eat_punct(",")? {
                    break;
                }
            }
        }
        match infer(op, &attrs, &g.args(&inputs), outputs.len()) {
            Ok(inferred) if facts.is_empty() => facts = inferred,
            Ok(inferred) => {
                for (f, i) in facts.iter_mut().zip(inferred) {
                    if f.known.is_none() && f.shape == i.shape && f.dtype == i.dtype {
                        f.known = i.known;
                    }
                }
            }
            Err(e) if facts.is_empty() => return Err((op_at, e.to_string())),
            // The verifier will say so, and what else is wrong.
            Err(_) => {}
        }
        let out = g.add_typed_node(op, attrs, inputs, facts, Origin::from_names(origins));
        places.nodes.push(line);
        for ((at, number, name), v) in outputs.into_iter().zip(out) {
            g.set_name(v, &name);
            define(values, places, at, number, v)?;
        }
        Ok(())
    }
}

fn define(
    values: &mut FxHashMap<u64, ValueId>,
    places: &mut Places,
    at: usize,
    number: u64,
    v: ValueId,
) -> Result<(), Fail> {
    places.values.push(at);
    match values.insert(number, v) {
        None => Ok(()),
        Some(_) => Err((at, format!("`%{number}` is defined twice"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Graph, ParseErrors> {
        parse(text, &|_, _| None)
    }

    fn in_graph(line: &str) -> String {
        format!("graph @g (%0 \"x\": f32[S,3]) symbols S=1..8 {{\n  {line}\n  return %0 \"y\"\n}}\n")
    }

    #[track_caller]
    fn complaint(line: &str) -> String {
        read(&in_graph(line)).expect_err("must be refused").to_string()
    }

    #[test]
    fn facts_may_be_left_out() {
        let g = read(&in_graph("%1 = Abs(%0)")).expect("parses");
        let (_, n) = g.nodes().next().expect("a node");
        assert_eq!(g.fact(n.outputs[0]).to_string(), "f32[S,3]");
        assert_eq!(g.symbol_range("S"), (1, 8));
    }

    #[test]
    fn errors_show_the_place() {
        assert_eq!(
            complaint("%1 = Abs %0"),
            "2:12: expected `(`, found `%0`\n  |   %1 = Abs %0\n  |            ^"
        );
        let deep = "fdiv(".repeat(1000);
        for (line, part) in [
            ("%1 = Nonsense(%0)", "there is no operation `Nonsense`"),
            ("%1 = Abs(%7)", "`%7` is not defined above"),
            ("%0 = Abs(%0)", "`%0` is defined twice"),
            ("%1 = Abs(%0) {axis=1}", "attribute `axis`"),
            ("%1 = Abs(%0) {a=1, a=2}", "given twice"),
            ("%1 = Abs(%0) {a=99999999999999999999}", "not a 64-bit integer"),
            ("%1 = Abs(%0) : f32[S,4]", "stored as f32[S,4], inferred is f32[S,3]"),
            ("%1 = Abs(%0) : f32[S,3], f32[1]", "2 types for 1 outputs"),
            (
                "%1 = Abs(%0) : f32[S,3] from x",
                "the name of an ONNX node in quotes, found `x`",
            ),
            ("weight %1: f32[2] = dense(1)", "f32[2] has 2 elements, given are 1"),
            ("weight %1: u8[1] = dense(256)", "out of range for u8"),
            ("weight %1: f32[S] = dense(1)", "expected a constant shape"),
            (
                "weight %1: f32[9999999999,9999999999,9999999999] = dense()",
                "expected a constant shape",
            ),
            ("weight %1: f32[2] = blob(\"00\")", "there is no blob \"00\" of 8 bytes"),
            ("weight %1: f33[2] = dense(1)", "an element type"),
            ("%1 = Abs(%0) : f32[fdiv(S,0)]", "a positive divisor"),
            (&format!("%1 = Abs(%0) : f32[{deep}"), "nested deeper"),
            ("%1 = Abs(%0) : f32[Q,3]", "symbol \"Q\""),
            ("what", "expected a value, `weight` or `return`, found `what`"),
        ] {
            let text = complaint(line);
            assert!(text.contains(part), "{line}\n{text}");
        }
        let e = read("graph @g () {").expect_err("ends early").to_string();
        assert!(e.contains("found the end of the text"), "{e}");
        assert!(read("").is_err());
    }

    #[test]
    fn all_that_the_verifier_finds_is_reported_in_order() {
        let text = in_graph("%1 = Abs(%0) : f32[1]\n  %2 = Neg(%0) : f32[2]");
        let errors = read(&text).expect_err("wrong").0;
        assert_eq!(errors.iter().map(|e| e.line).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn mutilated_text_never_panics() {
        let whole = in_graph(
            "weight %4: f16[2] = dense(1.5, nan(0x7e01))\n  %1 \"n\" = Cast(%0) {to=f16} : f16[S,3] from \"é\"",
        );
        assert!(read(&whole).is_ok(), "{:?}", read(&whole).err().map(|e| e.to_string()));
        for (i, c) in whole.char_indices() {
            let _ = read(&whole[..i]);
            let _ = read(&format!("{}{}", &whole[..i], &whole[i + c.len_utf8()..]));
            for insert in ["(", "\"", "-", "9", "%", "é", "\\"] {
                let _ = read(&format!("{}{insert}{}", &whole[..i], &whole[i..]));
            }
        }
    }
}
