//! The text of formulas and its normal form.
//!
//! Laws of the normal form: a product has one coefficient and its factors are distinct, with all powers merged; a sum has
//! one constant, and none of its terms is a bare sum or number. So `2*x*x/4` and `0.5 * x^2` are equal once parsed.

/// Names that stand for any value; they bind one each.
const VALUES: &[&str] = &["x", "y"];
/// Names that stand for a tensor that depends on weights only.
const TENSORS: &[&str] = &["scale", "bias"];
/// Names that stand for any number.
const NUMBERS: &[&str] = &["alpha", "beta", "eps", "k", "t"];
/// Numbers with names.
const CONSTANTS: &[(&str, f64)] = &[("pi", std::f64::consts::PI), ("inf", f64::INFINITY)];

/// `constant + free + Σ terms`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sum {
    pub constant: f64,
    pub free: Option<&'static str>,
    pub terms: Vec<Product>,
}

/// `coefficient * free * Π factors`
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    pub coefficient: f64,
    pub free: Option<&'static str>,
    pub factors: Vec<Factor>,
}

/// `base ^ (halves / 2)`
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    pub base: Base,
    pub halves: i32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Base {
    Value(&'static str),
    Tensor(&'static str),
    Call(Function, Vec<Sum>),
    Sum(Sum),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// An operation of the table that has the arguments as operands.
    Op(&'static str),
    /// `clip(x, low, high)`
    Clip,
    /// `mean(x)`, `sum(x)`: over axes that are kept with extent 1, the same axes everywhere in a formula.
    Mean,
    Total,
}

impl Function {
    /// The operations of which one is the call, or is taken apart into it.
    pub fn operations(&self) -> Vec<&'static str> {
        match self {
            Self::Op(name) => vec![name],
            Self::Clip => vec!["Clip", "HardSigmoid", "Max", "Min", "Relu"],
            Self::Mean => vec!["ReduceMean", "ReduceSum"],
            Self::Total => vec!["ReduceSum"],
        }
    }
}

const FUNCTIONS: &[(&str, Function, usize)] = &[
    ("abs", Function::Op("Abs"), 1),
    ("clip", Function::Clip, 3),
    ("erf", Function::Op("Erf"), 1),
    ("exp", Function::Op("Exp"), 1),
    ("greater", Function::Op("Greater"), 2),
    ("log", Function::Op("Log"), 1),
    ("mean", Function::Mean, 1),
    ("sigmoid", Function::Op("Sigmoid"), 1),
    ("softplus", Function::Op("Softplus"), 1),
    ("sum", Function::Total, 1),
    ("tanh", Function::Op("Tanh"), 1),
    ("where", Function::Op("Where"), 3),
];

impl Base {
    /// The values and tensors that it is about.
    pub fn names(&self) -> Vec<&'static str> {
        match self {
            Self::Value(name) | Self::Tensor(name) => vec![name],
            Self::Call(_, arguments) => arguments.iter().flat_map(Sum::names).collect(),
            Self::Sum(sum) => sum.names(),
        }
    }
}

impl Sum {
    /// Calls `f` with every function that is called, arguments first.
    pub fn visit_calls(&self, f: &mut dyn FnMut(Function)) {
        for factor in self.terms.iter().flat_map(|t| &t.factors) {
            match &factor.base {
                Base::Call(function, arguments) => {
                    arguments.iter().for_each(|a| a.visit_calls(f));
                    f(*function);
                }
                Base::Sum(sum) => sum.visit_calls(f),
                Base::Value(_) | Base::Tensor(_) => {}
            }
        }
    }

    fn names(&self) -> Vec<&'static str> {
        let factors = self.terms.iter().flat_map(|t| &t.factors);
        factors.flat_map(|f| f.base.names()).collect()
    }

    /// The product that this sum is, when it has one term only.
    pub fn as_product(&self) -> Option<&Product> {
        match &self.terms[..] {
            [one] if self.constant == 0.0 && self.free.is_none() => Some(one),
            _ => None,
        }
    }

    fn number(constant: f64) -> Self {
        Self {
            constant,
            ..Self::default()
        }
    }

    fn factor(base: Base) -> Self {
        let factors = vec![Factor { base, halves: 2 }];
        Product {
            coefficient: 1.0,
            free: None,
            factors,
        }
        .into_sum()
    }

    fn plus(mut self, other: Self) -> Result<Self, String> {
        self.constant += other.constant;
        self.free = one_of(self.free, other.free)?;
        self.terms.extend(other.terms);
        Ok(self)
    }

    fn times(self, other: Self) -> Result<Self, String> {
        // A number distributes over the terms, anything else does not.
        for (number, sum) in [(&self, &other), (&other, &self)] {
            if number.terms.is_empty() && number.free.is_none() && sum.free.is_none() && sum.as_product().is_none() {
                let mut sum = sum.clone();
                sum.constant *= number.constant;
                sum.terms.iter_mut().for_each(|t| t.coefficient *= number.constant);
                return Ok(sum);
            }
        }
        let (mut a, b) = (self.into_product(), other.into_product());
        a.coefficient *= b.coefficient;
        a.free = one_of(a.free, b.free)?;
        for f in b.factors {
            match a.factors.iter_mut().find(|g| g.base == f.base) {
                Some(g) => g.halves += f.halves,
                None => a.factors.push(f),
            }
        }
        Ok(a.into_sum())
    }

    fn power(self, exponent: f64) -> Result<Self, String> {
        let mut p = self.into_product();
        if p.free.is_some() {
            return Err("a power of a free number".into());
        }
        p.coefficient = p.coefficient.powf(exponent);
        for f in &mut p.factors {
            let halves = f64::from(f.halves) * exponent;
            if halves.fract() != 0.0 {
                return Err(format!("the power {exponent} is no multiple of 1/2"));
            }
            f.halves = halves as i32;
        }
        Ok(p.into_sum())
    }

    fn into_product(self) -> Product {
        if self.terms.is_empty() && (self.free.is_none() || self.constant == 0.0) {
            let coefficient = if self.free.is_some() { 1.0 } else { self.constant };
            return Product {
                coefficient,
                free: self.free,
                factors: vec![],
            };
        }
        match self.as_product() {
            Some(p) => p.clone(),
            None => Product {
                coefficient: 1.0,
                free: None,
                factors: vec![Factor {
                    base: Base::Sum(self),
                    halves: 2,
                }],
            },
        }
    }
}

impl Product {
    fn into_sum(self) -> Sum {
        match (self.factors.is_empty(), self.free) {
            (true, None) => Sum::number(self.coefficient),
            (true, free) if self.coefficient == 1.0 => Sum { free, ..Sum::default() },
            _ => Sum {
                terms: vec![self],
                ..Sum::default()
            },
        }
    }
}

fn one_of(a: Option<&'static str>, b: Option<&'static str>) -> Result<Option<&'static str>, String> {
    match (a, b) {
        (Some(a), Some(b)) => Err(format!("{a} and {b} cannot both be found")),
        _ => Ok(a.or(b)),
    }
}

/// Reads a formula.
pub fn parse(text: &'static str) -> Result<Sum, String> {
    let mut p = Parser { rest: text };
    let sum = p.sum()?;
    match p.peek() {
        None => Ok(sum),
        Some(c) => Err(format!("`{c}` is not expected in `{text}`")),
    }
}

/// By recursive descent: `sum: product (± product)*`, `product: power (*/ power)*`, `power: -power | atom (^ atom)?`.
struct Parser {
    rest: &'static str,
}

impl Parser {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn eat(&mut self, c: char) -> bool {
        let there = self.peek() == Some(c);
        if there {
            self.rest = &self.rest[c.len_utf8()..];
        }
        there
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        match self.eat(c) {
            true => Ok(()),
            false => Err(format!("`{c}` is missing before `{}`", self.rest)),
        }
    }

    /// The longest prefix of such characters.
    fn take(&mut self, belongs: impl Fn(char) -> bool) -> &'static str {
        self.peek();
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (head, tail) = self.rest.split_at(end);
        self.rest = tail;
        head
    }

    fn sum(&mut self) -> Result<Sum, String> {
        let mut sum = self.product()?;
        loop {
            if self.eat('+') {
                sum = sum.plus(self.product()?)?;
            } else if self.eat('-') {
                sum = sum.plus(Sum::number(-1.0).times(self.product()?)?)?;
            } else {
                return Ok(sum);
            }
        }
    }

    fn product(&mut self) -> Result<Sum, String> {
        let mut product = self.power()?;
        loop {
            if self.eat('*') {
                product = product.times(self.power()?)?;
            } else if self.eat('/') {
                product = product.times(self.power()?.power(-1.0)?)?;
            } else {
                return Ok(product);
            }
        }
    }

    fn power(&mut self) -> Result<Sum, String> {
        if self.eat('-') {
            return Sum::number(-1.0).times(self.power()?);
        }
        let base = self.atom()?;
        if !self.eat('^') {
            return Ok(base);
        }
        let exponent = self.atom()?;
        match exponent.terms.is_empty() && exponent.free.is_none() {
            true => base.power(exponent.constant),
            false => Err("an exponent is not a number".into()),
        }
    }

    fn atom(&mut self) -> Result<Sum, String> {
        if self.eat('(') {
            let sum = self.sum()?;
            self.expect(')')?;
            return Ok(sum);
        }
        let digits = self.take(|c| c.is_ascii_digit() || c == '.');
        if !digits.is_empty() {
            let number: f64 = digits.parse().map_err(|_| format!("`{digits}` is not a number"))?;
            return Ok(Sum::number(number));
        }
        let name = self.take(|c| c.is_ascii_lowercase());
        if self.eat('(') {
            return self.call(name);
        }
        if let Some((_, number)) = CONSTANTS.iter().find(|(n, _)| *n == name) {
            return Ok(Sum::number(*number));
        }
        if VALUES.contains(&name) {
            return Ok(Sum::factor(Base::Value(name)));
        }
        if TENSORS.contains(&name) {
            return Ok(Sum::factor(Base::Tensor(name)));
        }
        if NUMBERS.contains(&name) {
            return Ok(Sum {
                free: Some(name),
                ..Sum::default()
            });
        }
        Err(format!("`{name}` before `{}` means nothing", self.rest))
    }

    /// What follows `name(`.
    fn call(&mut self, name: &str) -> Result<Sum, String> {
        let mut arguments = vec![self.sum()?];
        while self.eat(',') {
            arguments.push(self.sum()?);
        }
        self.expect(')')?;
        if name == "sqrt" && arguments.len() == 1 {
            return arguments.remove(0).power(0.5);
        }
        match FUNCTIONS.iter().find(|(n, ..)| *n == name) {
            Some((_, f, arity)) if *arity == arguments.len() => Ok(Sum::factor(Base::Call(*f, arguments))),
            Some((_, _, arity)) => Err(format!("{name} takes {arity} arguments")),
            None => Err(format!("no function `{name}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_formulas_have_one_normal_form() {
        for (a, b) in [
            ("2 * x * x / 4", "0.5 * x^2"),
            ("-(1 - x)", "x - 1"),
            ("x / sqrt(4 * y)", "0.5 * x * y^(-0.5)"),
            ("2 * (1 + x) + 3", "5 + 2 * x"),
            ("-0.5 * alpha", "alpha / (0 - 2)"),
        ] {
            assert_eq!(parse(a), parse(b), "{a}  {b}");
        }
        assert_ne!(parse("x * (1 + x)"), parse("x + x^2"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, message) in [
            ("x + z", "`z` before `` means nothing"),
            ("cbrt(x)", "no function `cbrt`"),
            ("clip(x, 0)", "clip takes 3 arguments"),
            ("(x", "`)` is missing before ``"),
            ("x x", "`x` is not expected in `x x`"),
            ("alpha * k * x", "alpha and k cannot both be found"),
            ("x ^ y", "an exponent is not a number"),
        ] {
            assert_eq!(parse(text), Err(message.to_string()), "{text}");
        }
    }
}
