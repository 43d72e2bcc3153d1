//! Rewrite rules: their text form, matching in the e-graph, and application.
//!
//! Laws: a replacement has the type and shape of what it replaces, or the rule does not apply; both sides of a rule have
//! the same variables, so that all terms of a class read the same values from outside, and what is extracted depends on
//! nothing that it did not depend on before. Operands of commutative operations match in either order.

use std::sync::{Arc, LazyLock};

use cameo_ir::rewrite::Rewriter;
use cameo_ir::{Attr, Attrs, ValueId};
use egg::Id;
use rustc_hash::FxHashSet;

use super::language::{EGraph, ENode, Head, OPS};
use crate::pattern::{compose, is_identity, perm_attr};

/// The rule files, compiled in.
const FILES: &[(&str, &str)] = &[
    ("movement.rules", include_str!("rules/movement.rules")),
    ("constants.rules", include_str!("rules/constants.rules")),
    ("factors.rules", include_str!("rules/factors.rules")),
];

/// All rules, in the order of the files.
pub static RULES: LazyLock<Result<Vec<Rule>, String>> = LazyLock::new(|| {
    let mut out = vec![];
    for (file, text) in FILES {
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            out.push(parse(line).map_err(|e| format!("{file}:{}: {e}", i + 1))?);
        }
    }
    Ok(out)
});

pub struct Rule {
    pub name: String,
    left: Pattern,
    right: Pattern,
    conditions: Vec<Condition>,
    variables: usize,
    /// The variables that must be constant.
    constant: Vec<usize>,
}

enum Pattern {
    Variable(usize),
    /// A constant whose elements are all this number.
    Number(f64),
    Op(u16, Vec<Self>, AttrPattern),
}

enum AttrPattern {
    Nothing,
    Anything,
    All(usize),
    Fields(Vec<(Arc<str>, AttrTerm)>),
}

enum AttrTerm {
    Variable(usize),
    /// Permutations one after the other.
    Compose(usize, usize),
    /// The shape of the matched class.
    Result,
}

impl Pattern {
    /// The variables that stand for values.
    fn values(&self) -> Vec<usize> {
        match self {
            Self::Variable(v) => vec![*v],
            Self::Number(_) => vec![],
            Self::Op(_, args, _) => args.iter().flat_map(Self::values).collect(),
        }
    }
}

/// What a variable stands for.
#[derive(Clone, PartialEq)]
enum Bound {
    Class(Id),
    Attrs(Attrs),
    Attr(Attr),
}

/// A place where the left side of a rule matches.
#[derive(Clone)]
pub struct Match {
    bound: Vec<Option<Bound>>,
    /// The classes of the operations that matched.
    classes: Vec<Id>,
}

struct Condition {
    test: fn(&EGraph, &[&Bound]) -> bool,
    arguments: Vec<usize>,
    negated: bool,
}

/// Conditions by name, with their number of arguments.
const CONDITIONS: &[(&str, usize, fn(&EGraph, &[&Bound]) -> bool)] = &[
    ("const", 1, |g, b| class(g, b[0]).is_some_and(|d| d.constant)),
    ("private", 1, |g, b| class(g, b[0]).is_some_and(|d| d.private)),
    ("float", 1, |g, b| {
        let fact = class(g, b[0]).and_then(|d| d.fact.as_ref());
        fact.is_some_and(|f| f.dtype.is_float())
    }),
    ("scalar", 1, |g, b| {
        let fact = class(g, b[0]).and_then(|d| d.fact.as_ref());
        fact.is_some_and(|f| f.element_count().is_one())
    }),
    ("same_shape", 2, |g, b| {
        let shape = |b| class(g, b).and_then(|d| d.fact.as_ref()).map(|f| &f.shape);
        shape(b[0]).is_some() && shape(b[0]) == shape(b[1])
    }),
    ("identity", 1, |_, b| permutation(b[0]).is_some_and(|p| is_identity(&p))),
];

fn class<'g>(g: &'g EGraph, b: &Bound) -> Option<&'g super::language::Data> {
    match b {
        Bound::Class(id) => Some(&g[*id].data),
        _ => None,
    }
}

fn permutation(b: &Bound) -> Option<Vec<usize>> {
    match b {
        Bound::Attr(Attr::Ints(p)) => p.iter().map(|a| usize::try_from(*a).ok()).collect(),
        _ => None,
    }
}

impl Rule {
    /// The operation at the root of the left side.
    pub fn root(&self) -> u16 {
        match self.left {
            Pattern::Op(op, ..) => op,
            _ => u16::MAX,
        }
    }

    /// Adds the operations of the left side to `out`.
    pub fn operations(&self, out: &mut FxHashSet<u16>) {
        fn collect(p: &Pattern, out: &mut FxHashSet<u16>) {
            if let Pattern::Op(op, args, _) = p {
                out.insert(*op);
                args.iter().for_each(|a| collect(a, out));
            }
        }
        collect(&self.left, out);
    }

    /// Whether the operations of the left side, and the constants that the rule asks for, are there at `v`. Where this
    /// says no for all rules, an e-graph finds nothing.
    pub fn may_match(&self, rw: &Rewriter, constants: &[bool], v: ValueId) -> bool {
        self.resembles(&self.left, rw, constants, v)
    }

    fn resembles(&self, p: &Pattern, rw: &Rewriter, constants: &[bool], v: ValueId) -> bool {
        let constant = constants[v.0 as usize];
        match p {
            Pattern::Variable(x) => constant || !self.constant.contains(x),
            Pattern::Number(_) => constant,
            Pattern::Op(op, args, _) => {
                let Some((n, _)) = rw.graph().producer(v) else {
                    return false;
                };
                let node = rw.node(n);
                if constant || node.op != OPS.get(*op) || node.inputs.len() != args.len() {
                    return false;
                }
                let fits = |inputs: &mut dyn Iterator<Item = &Option<ValueId>>| {
                    let mut pairs = args.iter().zip(inputs);
                    pairs.all(|(a, v)| v.is_some_and(|v| self.resembles(a, rw, constants, v)))
                };
                let either = args.len() == 2 && node.op.schema().commutative;
                fits(&mut node.inputs.iter()) || (either && fits(&mut node.inputs.iter().rev()))
            }
        }
    }

    /// All matches at class `id` whose conditions hold.
    pub fn matches(&self, g: &EGraph, id: Id) -> Vec<Match> {
        let start = Match {
            bound: vec![None; self.variables],
            classes: vec![],
        };
        let mut found = search(g, &self.left, id, start);
        found.retain(|m| {
            self.conditions.iter().all(|c| {
                let arguments: Option<Vec<&Bound>> = c.arguments.iter().map(|a| m.bound[*a].as_ref()).collect();
                arguments.is_some_and(|a| (c.test)(g, &a) != c.negated)
            })
        });
        found
    }

    /// Adds the right side and unites it with `id`; says whether that is news.
    pub fn apply(&self, g: &mut EGraph, id: Id, m: &Match) -> bool {
        g.analysis.origin = m.classes.iter().fold(0, |all, c| all | g[*c].data.origin);
        let new = build(g, &self.right, id, m);
        g.analysis.origin = 0;
        let Some(new) = new else { return false };
        let same = match (&g[id].data.fact, &g[new].data.fact) {
            (Some(a), Some(b)) => a.dtype == b.dtype && a.shape == b.shape,
            _ => false,
        };
        same && g.union(id, new)
    }
}

fn search(g: &EGraph, p: &Pattern, id: Id, mut m: Match) -> Vec<Match> {
    let id = g.find(id);
    match p {
        Pattern::Variable(v) => match bind(&mut m, *v, Bound::Class(id)) {
            true => vec![m],
            false => vec![],
        },
        Pattern::Number(x) => match g[id].data.splat == Some(*x) {
            true => vec![m],
            false => vec![],
        },
        Pattern::Op(op, args, attrs) => {
            let mut out = vec![];
            for node in &g[id].nodes {
                let Head::Op(o, a) = node.head else { continue };
                if o != *op || node.children.len() != args.len() {
                    continue;
                }
                let mut m = m.clone();
                if !match_attrs(attrs, g.analysis.attrs(a), &mut m) {
                    continue;
                }
                m.classes.push(id);
                let both = args.len() == 2 && OPS.get(*op).schema().commutative;
                let mut orders = vec![node.children.clone()];
                if both && node.children[0] != node.children[1] {
                    orders.push(vec![node.children[1], node.children[0]]);
                }
                for children in orders {
                    let mut partial = vec![m.clone()];
                    for (arg, child) in args.iter().zip(children) {
                        partial = partial.into_iter().flat_map(|m| search(g, arg, child, m)).collect();
                    }
                    out.extend(partial);
                }
            }
            out
        }
    }
}

fn bind(m: &mut Match, variable: usize, value: Bound) -> bool {
    match &m.bound[variable] {
        Some(b) => *b == value,
        None => {
            m.bound[variable] = Some(value);
            true
        }
    }
}

fn match_attrs(p: &AttrPattern, attrs: &Attrs, m: &mut Match) -> bool {
    match p {
        AttrPattern::Nothing => attrs.is_empty(),
        AttrPattern::Anything => true,
        AttrPattern::All(v) => bind(m, *v, Bound::Attrs(attrs.clone())),
        AttrPattern::Fields(fields) => {
            fields.len() == attrs.len()
                && fields.iter().all(|(name, term)| match (attrs.get(name), term) {
                    (Some(a), AttrTerm::Variable(v)) => bind(m, *v, Bound::Attr(a.clone())),
                    _ => false,
                })
        }
    }
}

/// The class of the right side, or `None` where it does not type.
fn build(g: &mut EGraph, p: &Pattern, root: Id, m: &Match) -> Option<Id> {
    let (op, args, attrs) = match p {
        Pattern::Variable(v) => match &m.bound[*v] {
            Some(Bound::Class(id)) => return Some(g.find(*id)),
            _ => return None,
        },
        Pattern::Number(_) => return None,
        Pattern::Op(op, args, attrs) => (*op, args, attrs),
    };
    let mut children = vec![];
    for a in args {
        children.push(build(g, a, root, m)?);
    }
    let attrs = match attrs {
        AttrPattern::Nothing => Attrs::new(),
        AttrPattern::Anything => return None,
        AttrPattern::All(v) => match &m.bound[*v] {
            Some(Bound::Attrs(a)) => a.clone(),
            _ => return None,
        },
        AttrPattern::Fields(fields) => {
            let mut out = Attrs::new();
            for (name, term) in fields {
                let value = match term {
                    AttrTerm::Variable(v) => match &m.bound[*v] {
                        Some(Bound::Attr(a)) => a.clone(),
                        _ => return None,
                    },
                    AttrTerm::Compose(p, q) => {
                        let p = permutation(m.bound[*p].as_ref()?)?;
                        let q = permutation(m.bound[*q].as_ref()?)?;
                        let fits = p.len() == q.len() && q.iter().all(|a| *a < p.len());
                        perm_attr(&fits.then(|| compose(&p, &q))?)
                    }
                    AttrTerm::Result => Attr::Dims(g[root].data.fact.as_ref()?.shape.clone()),
                };
                out.insert(name.clone(), value);
            }
            out
        }
    };
    let attrs = g.analysis.intern(&attrs);
    let id = g.add(ENode {
        head: Head::Op(op, attrs),
        children,
    });
    g[id].data.fact.is_some().then_some(id)
}

// ---- text

fn parse(line: &str) -> Result<Rule, String> {
    let (name, rest) = line.split_once(": ").ok_or("a rule begins with its name and a colon")?;
    let (rest, conditions) = match rest.split_once(" if ") {
        Some((r, c)) => (r, Some(c)),
        None => (rest, None),
    };
    let (left, right) = rest.split_once(" => ").ok_or("`=>` is missing")?;
    let mut variables = vec![];
    let left = side(left, &mut variables)?;
    let bound = variables.len();
    let right = side(right, &mut variables)?;
    let Pattern::Op(..) = left else {
        return Err("the left side must be an operation".into());
    };
    let (mut out, mut constant) = (vec![], vec![]);
    if let Some(text) = conditions {
        let mut p = Parser::new(text, &mut variables);
        loop {
            let negated = p.take('!');
            let name = p.word()?;
            let (_, arity, test) = CONDITIONS
                .iter()
                .find(|(n, ..)| *n == name)
                .ok_or_else(|| format!("no condition `{name}`"))?;
            let mut arguments = vec![];
            p.expect('(')?;
            loop {
                let word = p.word()?;
                arguments.push(p.variable(&word));
                if !p.take(',') {
                    break;
                }
            }
            p.expect(')')?;
            if arguments.len() != *arity {
                return Err(format!("`{name}` takes {arity} arguments"));
            }
            if name == "const" && !negated {
                constant.extend(&arguments);
            }
            out.push(Condition {
                test: *test,
                arguments,
                negated,
            });
            if !p.take(',') {
                break;
            }
        }
        p.end()?;
    }
    if variables.len() > bound {
        return Err(format!("`{}` does not occur on the left side", variables[bound]));
    }
    let (from, to) = (left.values(), right.values());
    if let Some(lost) = from.iter().find(|v| !to.contains(v)) {
        return Err(format!("`{}` does not occur on the right side", variables[*lost]));
    }
    Ok(Rule {
        name: name.into(),
        left,
        right,
        conditions: out,
        variables: bound,
        constant,
    })
}

fn side(text: &str, variables: &mut Vec<String>) -> Result<Pattern, String> {
    let mut p = Parser::new(text, variables);
    let out = p.pattern()?;
    p.end()?;
    Ok(out)
}

struct Parser<'a> {
    rest: &'a str,
    variables: &'a mut Vec<String>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, variables: &'a mut Vec<String>) -> Self {
        Self { rest: text, variables }
    }

    fn take(&mut self, c: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(c) {
            Some(r) => {
                self.rest = r;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        match self.take(c) {
            true => Ok(()),
            false => Err(format!("`{c}` expected before `{}`", self.rest)),
        }
    }

    fn end(&mut self) -> Result<(), String> {
        match self.rest.trim().is_empty() {
            true => Ok(()),
            false => Err(format!("`{}` is left over", self.rest.trim())),
        }
    }

    /// A name or number.
    fn word(&mut self) -> Result<String, String> {
        self.rest = self.rest.trim_start();
        let part = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '.' | '-');
        let end = self.rest.find(|c| !part(c)).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(format!("a name expected before `{}`", self.rest));
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(word.into())
    }

    fn variable(&mut self, name: &str) -> usize {
        if let Some(i) = self.variables.iter().position(|v| v == name) {
            return i;
        }
        self.variables.push(name.into());
        self.variables.len() - 1
    }

    fn pattern(&mut self) -> Result<Pattern, String> {
        let word = self.word()?;
        if let Ok(x) = word.parse::<f64>() {
            return Ok(Pattern::Number(x));
        }
        if !self.take('(') {
            return Ok(Pattern::Variable(self.variable(&word)));
        }
        let op = OPS.number(&word).ok_or_else(|| format!("no operation `{word}`"))?;
        let mut args = vec![];
        loop {
            args.push(self.pattern()?);
            if !self.take(',') {
                break;
            }
        }
        self.expect(')')?;
        let attrs = match self.take('{') {
            true => self.attrs()?,
            false => AttrPattern::Nothing,
        };
        Ok(Pattern::Op(op, args, attrs))
    }

    fn attrs(&mut self) -> Result<AttrPattern, String> {
        let mut fields = vec![];
        loop {
            let word = self.word()?;
            if !self.take('=') {
                self.expect('}')?;
                return Ok(match word.as_str() {
                    ".." => AttrPattern::Anything,
                    _ => AttrPattern::All(self.variable(&word)),
                });
            }
            let value = self.word()?;
            let term = match value.as_str() {
                "result" => AttrTerm::Result,
                "compose" => {
                    self.expect('(')?;
                    let p = self.word()?;
                    self.expect(',')?;
                    let q = self.word()?;
                    self.expect(')')?;
                    AttrTerm::Compose(self.variable(&p), self.variable(&q))
                }
                _ => AttrTerm::Variable(self.variable(&value)),
            };
            fields.push((word.as_str().into(), term));
            if !self.take(',') {
                self.expect('}')?;
                return Ok(AttrPattern::Fields(fields));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_parses_and_has_a_name_of_its_own() {
        let rules = RULES.as_ref().unwrap_or_else(|e| panic!("{e}"));
        assert!(rules.len() > 10);
        let mut names: Vec<&str> = rules.iter().map(|r| r.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), rules.len());
    }

    #[test]
    fn mistakes_are_named() {
        let error = |line: &str| parse(line).err().unwrap_or_default();
        assert_eq!(error("a: Neg(x) => y"), "`y` does not occur on the left side");
        assert_eq!(error("a: Sub(x, y) => x"), "`y` does not occur on the right side");
        assert_eq!(error("a: Nag(x) => x"), "no operation `Nag`");
        assert_eq!(error("a: Neg(x) => x if odd(x)"), "no condition `odd`");
        assert_eq!(error("a: Neg(x => x"), "`)` expected before ``");
        assert_eq!(error("a: x => x"), "the left side must be an operation");
    }
}
