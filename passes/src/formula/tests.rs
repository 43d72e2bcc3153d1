//! Random disguises of formulas keep matching.

use cameo_ir::{DType, Dim, Fact, Graph, Tensor, ValueId};

use super::parse::{Base, Function, Product, Sum, parse};
use super::{Formula, Near};
use crate::testing::Random;

/// Formulas of all kinds; the passes have theirs.
const TEXTS: &[&str] = &[
    "0.5 * x * (1 + erf(x / sqrt(2)))",
    "0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))",
    "0.5 * x * (1 + tanh(sqrt(2/pi) * x * (1 + 0.044715 * x^2)))",
    "x / (1 + exp(-1.702 * x))",
    "x * clip(x + 3, 0, 6) / 6",
    "x * tanh(log(1 + exp(x)))",
    "(exp(x) - exp(-x)) / (exp(x) + exp(-x))",
    "(x - mean(x)) / sqrt(mean((x - mean(x))^2) + 0.00001)",
    "(x - mean(x)) * scale / sqrt(mean(x^2) - mean(x)^2 + 0.00001)",
    "x * scale / sqrt(mean((x - mean(x))^2) + 0.001) + bias - mean(x) * scale / sqrt(mean((x - mean(x))^2) + 0.001)",
    "x * scale / sqrt(mean(x^2) + 0.000001)",
    "x / clip(sqrt(sum(x^2)), 0.001, inf)",
];

/// Writes formulas as graphs, another way each time.
struct Disguise {
    g: Graph,
    random: Random,
    x: ValueId,
    scale: ValueId,
    bias: ValueId,
}

impl Disguise {
    fn new(seed: u64) -> Self {
        let mut g = Graph::new("g");
        let mut random = Random::new(seed);
        let mut x = g.add_input("x", Fact::new(DType::F32, [Dim::sym("N"), Dim::from(4usize)]));
        // What a name stands for may be of the kinds that formulas take apart.
        for _ in 0..random.next() % 3 {
            x = match random.next() % 4 {
                0 => g.apply("Mul", &[], &[x, x]),
                1 => g.apply("Add", &[], &[x, x]),
                2 => g.apply("Neg", &[], &[x]),
                _ => {
                    let c = g.add_weight("", Tensor::f32(&[], [0.3]));
                    g.apply("Mul", &[], &[x, c])
                }
            }
            .expect("types");
        }
        let scale = g.add_weight("", random.tensor(DType::F32, &[4]));
        let bias = g.add_weight("", random.tensor(DType::F32, &[4]));
        Self {
            g,
            random,
            x,
            scale,
            bias,
        }
    }

    fn pick(&mut self, n: usize) -> usize {
        (self.random.next() % n as u64) as usize
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            let j = self.pick(i + 1);
            list.swap(i, j);
        }
    }

    fn apply(&mut self, op: &str, inputs: &[ValueId]) -> ValueId {
        self.g.apply(op, &[], inputs).expect("types")
    }

    fn number(&mut self, c: f64) -> ValueId {
        let shape: &[usize] = [&[][..], &[1], &[1, 1]][self.pick(3)];
        self.g.add_weight("", Tensor::from_f64(DType::F32, shape, [c]))
    }

    fn either(&mut self, op: &str, a: ValueId, b: ValueId) -> ValueId {
        let (a, b) = if self.pick(2) == 0 { (a, b) } else { (b, a) };
        self.apply(op, &[a, b])
    }

    fn times(&mut self, v: ValueId, c: f64) -> ValueId {
        if c == 1.0 {
            return v;
        }
        match self.pick(3) {
            0 => {
                let c = self.number(1.0 / c);
                self.apply("Div", &[v, c])
            }
            1 => {
                let v = self.times(v, -c);
                self.apply("Neg", &[v])
            }
            _ => {
                let c = self.number(c);
                self.either("Mul", v, c)
            }
        }
    }

    fn plus(&mut self, v: ValueId, c: f64) -> ValueId {
        if c == 0.0 {
            return v;
        }
        let (minus, plus) = (self.number(-c), self.number(c));
        match self.pick(2) {
            0 => self.apply("Sub", &[v, minus]),
            _ => self.either("Add", v, plus),
        }
    }

    fn sum(&mut self, s: &Sum) -> ValueId {
        if let Some(p) = s.as_product() {
            return self.product(p);
        }
        if s.terms.is_empty() {
            return self.number(s.constant);
        }
        let mut terms: Vec<&Product> = s.terms.iter().collect();
        self.shuffle(&mut terms);
        let at = self.pick(terms.len());
        let mut total = None;
        for (i, t) in terms.into_iter().enumerate() {
            let mut v = self.product(t);
            if i == at {
                // The constant in two parts.
                v = self.plus(v, s.constant / 4.0);
            }
            total = Some(match total {
                None => v,
                Some(total) if self.pick(3) == 0 => {
                    let minus = self.times(v, -1.0);
                    self.apply("Sub", &[total, minus])
                }
                Some(total) => self.either("Add", total, v),
            });
        }
        self.plus(total.expect("terms"), s.constant * 0.75)
    }

    fn product(&mut self, p: &Product) -> ValueId {
        // Factors one by one, upstairs and downstairs.
        let mut powers = vec![];
        for f in &p.factors {
            let base = self.base(&f.base);
            let sign = f.halves.signum();
            match (f.halves.abs(), self.pick(2)) {
                (1, 0) => powers.push((self.apply("Sqrt", &[base]), sign)),
                (1, _) => {
                    let e = self.number(0.5 * f64::from(sign));
                    powers.push((self.apply("Pow", &[base, e]), 1));
                }
                (h, 0) => powers.extend((0..h / 2).map(|_| (base, sign))),
                (h, _) => {
                    let e = self.number(f64::from(h / 2));
                    powers.push((self.apply("Pow", &[base, e]), sign));
                }
            }
        }
        self.shuffle(&mut powers);
        let mut coefficient = p.coefficient;
        while powers.len() > 1 {
            let (i, j) = (self.pick(powers.len()), self.pick(powers.len() - 1));
            let (a, s) = powers.swap_remove(i);
            let (b, t) = powers.swap_remove(j);
            let joined = match (s, t) {
                (1, -1) => (self.apply("Div", &[a, b]), 1),
                (-1, 1) => (self.apply("Div", &[b, a]), 1),
                _ => (self.either("Mul", a, b), s),
            };
            powers.push(joined);
            // A part of the coefficient.
            if self.pick(3) == 0 && coefficient != 1.0 {
                let (v, s) = powers.pop().expect("just pushed");
                powers.push((self.times(v, 2.0), s));
                coefficient *= if s > 0 { 0.5 } else { 2.0 };
            }
        }
        let (v, sign) = powers[0];
        if sign > 0 {
            return self.times(v, coefficient);
        }
        match self.pick(2) {
            0 => {
                let v = self.apply("Reciprocal", &[v]);
                self.times(v, coefficient)
            }
            _ => {
                let c = self.number(coefficient);
                self.apply("Div", &[c, v])
            }
        }
    }

    fn base(&mut self, b: &Base) -> ValueId {
        match b {
            Base::Value(_) => self.x,
            Base::Tensor("scale") => self.scale,
            Base::Tensor(_) => self.bias,
            Base::Sum(s) => self.sum(s),
            Base::Call(Function::Op(name), arguments) => {
                let v = self.sum(&arguments[0]);
                self.apply(name, &[v])
            }
            Base::Call(Function::Clip, arguments) => {
                let v = self.sum(&arguments[0]);
                let (low, high) = (arguments[1].constant, arguments[2].constant);
                match self.pick(2) {
                    0 if high.is_finite() => {
                        let low = self.g.add_weight("", Tensor::f32(&[], [low as f32]));
                        let high = self.g.add_weight("", Tensor::f32(&[], [high as f32]));
                        self.apply("Clip", &[v, low, high])
                    }
                    _ => {
                        let (low, high) = (self.number(low), self.number(high));
                        let v = self.either("Max", v, low);
                        self.either("Min", v, high)
                    }
                }
            }
            Base::Call(f, arguments) => {
                let v = self.sum(&arguments[0]);
                let axes = [("axes", cameo_ir::Attr::Dims(vec![Dim::from(1usize)]))];
                if *f == Function::Total || self.pick(2) == 0 {
                    let v = self.g.apply("ReduceSum", &axes, &[v]).expect("types");
                    return if *f == Function::Total { v } else { self.times(v, 0.25) };
                }
                self.g.apply("ReduceMean", &axes, &[v]).expect("types")
            }
        }
    }
}

#[test]
fn disguises_match() {
    for text in TEXTS {
        let (sum, formula) = (
            parse(text).expect("a formula"),
            Formula::parse(text).expect("a formula"),
        );
        for seed in 0..200 {
            let mut d = Disguise::new(seed);
            let root = d.sum(&sum);
            d.g.add_output("y", root);
            let constants = d.g.constants();
            let found = formula.find(&d.g, &constants, &Near::of(&d.g, root), root, |_| true);
            let shown = cameo_ir::text::print(&d.g);
            let x = found.and_then(|m| m.value("x"));
            assert!(x.is_some(), "{text} with seed {seed}:\n{shown}");
            // No other formula is found in its place.
            for other in TEXTS.iter().filter(|o| *o != text) {
                let formula = Formula::parse(other).expect("a formula");
                assert!(
                    formula
                        .find(&d.g, &constants, &Near::of(&d.g, root), root, |_| true)
                        .is_none(),
                    "{other} in\n{shown}"
                );
            }
        }
    }
}

#[test]
fn what_disguises_become_computes_the_same() {
    for pass in [crate::by_name("norms"), crate::by_name("activations")] {
        let pass = pass.expect("in the table");
        for text in TEXTS {
            let sum = parse(text).expect("a formula");
            for seed in 0..40 {
                let mut d = Disguise::new(seed);
                let root = d.sum(&sum);
                d.g.add_output("y", root);
                let mut after = d.g.clone();
                crate::run(pass, &mut after);
                cameo_ir::verify::verify(&after).unwrap_or_else(|e| panic!("{text}: {e:?}"));
                crate::testing::same(&d.g, &after);
            }
        }
    }
}

#[test]
fn hopeless_graphs_are_given_up() {
    // 2^40 ways to stop.
    let mut g = Graph::new("g");
    let x = g.add_input("x", Fact::new(DType::F32, [Dim::sym("N")]));
    let c = g.add_weight("", Tensor::f32(&[], [1.01]));
    let (mut a, mut b) = (x, x);
    for _ in 0..5000 {
        a = g.apply("Mul", &[], &[a, c]).expect("types");
        b = g.apply("Mul", &[], &[b, c]).expect("types");
    }
    let s = g.apply("Sigmoid", &[], &[b]).expect("types");
    let y = g.apply("Mul", &[], &[a, s]).expect("types");
    g.add_output("y", y);
    let formula = Formula::parse("x * sigmoid(alpha * x)").expect("a formula");
    assert!(
        formula
            .find(&g, &g.constants(), &Near::of(&g, y), y, |_| true)
            .is_none()
    );
}
