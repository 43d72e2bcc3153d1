//! Matching: a graph against a normal form, with backtracking.
//!
//! The graph is brought to the normal form on the fly. Work is a list of values that are multiplied or added; one of them
//! either is what a part of the formula asks for or is taken apart by the operation that computes it. Where to stop is
//! not known beforehand, as a name may stand for a product as well as for one of its factors, so that each choice is
//! tried in turn. What comes after a part has matched is passed along as `next`; who tries alternatives restores what was
//! found before.
//!
//! Taking apart keeps the value for all operands but for infinities and for NaNs that become numbers: what stands under
//! a root is taken apart into positive numbers and one other factor only.

use cameo_ir::op::{Cx, normalize_axis};
use cameo_ir::{DType, Dim, Graph, Node, NodeId, ValueId};

use super::Match;
use super::parse::{Base, Factor, Function, Product, Sum};
use crate::pattern::splat;

/// Steps after which a match is given up. The longest formulas take some 200 on graphs that they match; graphs that take
/// more than this are products of dozens of numbers.
const FUEL: u32 = 4000;

/// Nodes of a match, those that occur again counted again; each is a few frames on the stack. The longest formula as it
/// is usually written takes some 40.
const MAX_NODES: usize = 128;

/// Operations on numbers that are followed to find their value: constants are folded by then, up to a negation or two.
const NUMBER_DEPTH: u32 = 4;

/// What comes after a part matched: it is given by which number the graph's part differs from the formula's.
type Next<'n, 'g> = &'n mut dyn FnMut(&mut Search<'g>, f64) -> bool;

pub struct Search<'g> {
    g: &'g Graph,
    constants: &'g [bool],
    /// Largest relative difference of equal numbers.
    tolerance: f64,
    fuel: u32,
    pub found: Match,
}

impl<'g> Search<'g> {
    pub fn new(g: &'g Graph, constants: &'g [bool], dtype: DType) -> Self {
        // Exporters print few digits, and round to the type: half a unit in the last place, twice where two numbers meet.
        let tolerance = match dtype {
            DType::F16 => 1.0 / 1024.0,
            DType::BF16 => 1.0 / 128.0,
            _ => 1e-5,
        };
        Self {
            g,
            constants,
            tolerance,
            fuel: FUEL,
            found: Match::default(),
        }
    }

    /// Whether `v` is `sum` and `accept` agrees.
    pub fn root(&mut self, sum: &Sum, v: ValueId, accept: &dyn Fn(&Match) -> bool) -> bool {
        self.expression(sum, &[(1.0, v)], 0.0, &mut |s, _| accept(&s.found))
    }

    /// Whether the weighted sum of `work` and `constant` is `sum`; the difference passed on is 1.
    fn expression(&mut self, sum: &Sum, work: &[(f64, ValueId)], constant: f64, next: Next<'_, 'g>) -> bool {
        let (mut rest, mut constant) = (vec![], constant);
        for (k, v) in work {
            match self.number(*v) {
                Some(c) => constant += k * c,
                None => rest.push((*k, *v)),
            }
        }
        if let (Some(product), [(k, v)]) = (sum.as_product(), &rest[..])
            && constant == 0.0
        {
            return self.product(&product.factors, &powers(product), vec![(*v, 2)], *k, &mut |s, got| {
                s.coefficient(product, got, 1.0) && next(s, 1.0)
            });
        }
        let left = vec![true; sum.terms.len()];
        self.sum(sum, &left, rest, constant, Some(1.0), next)
    }

    /// Whether the product of the powers `work`, in halves, and of `got` is the product of what is `left` of the powers
    /// of `factors`, but for the number that is passed on.
    fn product(
        &mut self,
        factors: &[Factor],
        left: &[i32],
        mut work: Vec<(ValueId, i32)>,
        got: f64,
        next: Next<'_, 'g>,
    ) -> bool {
        let wanted: u32 = left.iter().map(|h| h.unsigned_abs()).sum();
        // Taking apart makes no work less.
        if work.len() > wanted as usize || !self.burn() {
            return false;
        }
        let Some((v, h)) = work.pop() else {
            return wanted == 0 && next(self, got);
        };
        for (i, f) in factors.iter().enumerate() {
            if h.signum() != left[i].signum() || h.abs() > left[i].abs() {
                continue;
            }
            let before = self.found.clone();
            let mut left = left.to_vec();
            left[i] -= h;
            let matched = self.base(&f.base, v, &mut |s, difference| {
                power(difference, h).is_some_and(|d| s.product(factors, &left, work.clone(), got * d, next))
            });
            if matched {
                return true;
            }
            self.found = before;
        }
        let Some((n, c, parts)) = self.factors_of(v, h) else {
            return false;
        };
        let before = self.found.clone();
        self.found.nodes.push(n);
        work.extend(parts);
        if self.product(factors, left, work, got * c, next) {
            return true;
        }
        self.found = before;
        false
    }

    /// Whether the weighted sum of `work` and `constant` is a multiple of the terms of `sum` that are `left` and of its
    /// constant; the factor is passed on. It is `scale` where that is known already.
    fn sum(
        &mut self,
        sum: &Sum,
        left: &[bool],
        mut work: Vec<(f64, ValueId)>,
        constant: f64,
        scale: Option<f64>,
        next: Next<'_, 'g>,
    ) -> bool {
        let wanted = left.iter().filter(|t| **t).count();
        if work.len() > wanted || !self.burn() {
            return false;
        }
        let Some((k, v)) = work.pop() else {
            let scale = scale.unwrap_or(1.0);
            return wanted == 0 && self.constant(sum, constant, scale) && next(self, scale);
        };
        for (i, term) in sum.terms.iter().enumerate() {
            if !left[i] {
                continue;
            }
            let before = self.found.clone();
            let mut left = left.to_vec();
            left[i] = false;
            let matched = self.product(&term.factors, &powers(term), vec![(v, 2)], k, &mut |s, got| {
                let scale = match scale {
                    None if term.free.is_none() => got / term.coefficient,
                    _ => scale.unwrap_or(1.0),
                };
                s.coefficient(term, got, scale) && s.sum(sum, &left, work.clone(), constant, Some(scale), next)
            });
            if matched {
                return true;
            }
            self.found = before;
        }
        let Some((n, c, parts)) = self.terms_of(v) else {
            return false;
        };
        let before = self.found.clone();
        self.found.nodes.push(n);
        work.extend(parts.into_iter().map(|(w, v)| (k * w, v)));
        if self.sum(sum, left, work, constant + k * c, scale, next) {
            return true;
        }
        self.found = before;
        false
    }

    /// Whether `v` is `base` times what is passed on.
    fn base(&mut self, base: &Base, v: ValueId, next: Next<'_, 'g>) -> bool {
        if !base.names().iter().all(|name| self.found.value(name).is_some()) {
            return self.alternatives(base, v, next);
        }
        // Nothing is left to choose: the first way to match is as good as any other.
        let mut difference = None;
        self.alternatives(base, v, &mut |_, d| difference.replace(d).is_none())
            && difference.is_some_and(|d| next(self, d))
    }

    /// [`Search::base`] in every way.
    fn alternatives(&mut self, base: &Base, v: ValueId, next: Next<'_, 'g>) -> bool {
        match base {
            Base::Value(name) => self.bind(name, v) && next(self, 1.0),
            Base::Tensor(name) => self.is_constant(v) && self.bind(name, v) && next(self, 1.0),
            Base::Sum(sum) => {
                let left = vec![true; sum.terms.len()];
                self.sum(sum, &left, vec![(1.0, v)], 0.0, None, next)
            }
            Base::Call(f, arguments) => self.call(*f, arguments, v, next),
        }
    }

    fn call(&mut self, f: Function, arguments: &[Sum], v: ValueId, next: Next<'_, 'g>) -> bool {
        let Some((n, node)) = self.producer(v) else {
            return false;
        };
        match f {
            Function::Op(name) if node.op == name && node.inputs.len() == arguments.len() => {
                self.found.nodes.push(n);
                self.arguments(arguments, &node.inputs, next)
            }
            Function::Op(_) => false,
            Function::Clip => self.clip(arguments, v, next),
            Function::Mean | Function::Total => {
                let Some((reduce, axes, count)) = self.reduction(v) else {
                    return false;
                };
                let node = self.g.node(reduce);
                let count = match (f, node.op.name()) {
                    (Function::Mean, "ReduceMean") | (Function::Total, "ReduceSum") => 1.0,
                    (Function::Mean, "ReduceSum") => match count {
                        Some(count) => count,
                        None => return false,
                    },
                    _ => return false,
                };
                let (Some(Some(x)), [argument]) = (node.inputs.first(), arguments) else {
                    return false;
                };
                if *self.found.axes.get_or_insert_with(|| axes.clone()) != axes {
                    return false;
                }
                self.found.nodes.push(n);
                self.found.nodes.extend((reduce != n).then_some(reduce));
                match argument.as_product() {
                    // Numbers may stand under the mean as well as before it.
                    Some(p) => self.product(&p.factors, &powers(p), vec![(*x, 2)], count, &mut |s, got| {
                        next(s, got / p.coefficient)
                    }),
                    None => self.expression(argument, &[(1.0, *x)], 0.0, &mut |s, _| next(s, count)),
                }
            }
        }
    }

    /// The reduction with result `v`, whose reduced axes are kept or put back, its axes, sorted, and the number of
    /// elements that it joins where that is known.
    fn reduction(&self, v: ValueId) -> Option<(NodeId, Vec<usize>, Option<f64>)> {
        let (mut n, node) = self.producer(v)?;
        if node.op == "Reshape" {
            n = self.producer(node.inputs[0]?)?.0;
        }
        let (axes, shape) = self.g.with_cx(n, |cx| {
            let shape = cx.fact(0).ok()?.shape.clone();
            let given = cx.const_ints(1).ok()?.unwrap_or_default();
            let all = given.is_empty() && cx.int("noop_with_empty_axes").ok()? == 0;
            let mut axes: Vec<usize> = match all {
                true => (0..shape.len()).collect(),
                false => {
                    let axes = given.iter().map(|a| normalize_axis(*a, shape.len()).ok());
                    axes.collect::<Option<_>>()?
                }
            };
            axes.sort_unstable();
            Some((axes, shape))
        })?;
        let (mut kept, mut count) = (shape.clone(), Some(1.0));
        for a in &axes {
            kept[*a] = Dim::ONE;
            count = count.zip(shape[*a].as_const()).map(|(c, d)| c * d as f64);
        }
        (self.g.fact(v).shape == kept).then_some((n, axes, count))
    }

    fn arguments(&mut self, arguments: &[Sum], inputs: &[Option<ValueId>], next: Next<'_, 'g>) -> bool {
        match (arguments, inputs) {
            ([], _) => next(self, 1.0),
            ([first, rest @ ..], [Some(v), inputs @ ..]) => {
                self.expression(first, &[(1.0, *v)], 0.0, &mut |s, _| s.arguments(rest, inputs, next))
            }
            _ => false,
        }
    }

    /// `clip(x, low, high)` as any chain of Clip, Max, Min, Relu and HardSigmoid.
    fn clip(&mut self, arguments: &[Sum], v: ValueId, next: Next<'_, 'g>) -> bool {
        let [x, low, high] = arguments else { return false };
        let (mut v, mut bounds) = (v, (f64::NEG_INFINITY, f64::INFINITY));
        let before = self.found.clone();
        while let Some((n, link)) = self.clip_link(v)
            && self.burn()
        {
            // This bound is applied before those that were met.
            bounds = (link.low.clamp(bounds.0, bounds.1), link.high.clamp(bounds.0, bounds.1));
            self.found.nodes.push(n);
            let here = self.found.clone();
            let matched = self.expression(low, &[], bounds.0, &mut |s, _| {
                s.expression(high, &[], bounds.1, &mut |s, _| {
                    s.expression(x, &[(link.slope, link.x)], link.offset, next)
                })
            });
            if matched {
                return true;
            }
            self.found = here;
            if (link.slope, link.offset) != (1.0, 0.0) {
                break;
            }
            v = link.x;
        }
        self.found = before;
        false
    }

    /// The node of `v` as `clip(slope * x + offset, low, high)`.
    fn clip_link(&self, v: ValueId) -> Option<(NodeId, Link)> {
        let (n, node) = self.producer(v)?;
        let input = |i: usize| node.inputs.get(i).copied().flatten();
        let number = |i: usize, absent: f64| input(i).map_or(Some(absent), |v| self.number(v));
        let mut link = Link {
            x: input(0)?,
            slope: 1.0,
            offset: 0.0,
            low: f64::NEG_INFINITY,
            high: f64::INFINITY,
        };
        match node.op.name() {
            "Relu" => link.low = 0.0,
            "Clip" => {
                link.low = number(1, link.low)?;
                link.high = number(2, link.high)?.max(link.low);
            }
            op @ ("Max" | "Min") if node.inputs.len() == 2 => {
                let bound = match (self.number(input(0)?), self.number(input(1)?)) {
                    (None, Some(bound)) => bound,
                    (Some(bound), None) => {
                        link.x = input(1)?;
                        bound
                    }
                    _ => return None,
                };
                *(if op == "Max" { &mut link.low } else { &mut link.high }) = bound;
            }
            "HardSigmoid" => {
                let attr = |name: &str| self.g.with_cx(n, |cx: &Cx| cx.float(name)).ok().map(f64::from);
                (link.slope, link.offset) = (attr("alpha")?, attr("beta")?);
                (link.low, link.high) = (0.0, 1.0);
            }
            _ => return None,
        }
        // `clamp` wants numbers.
        (!link.low.is_nan() && !link.high.is_nan()).then_some((n, link))
    }

    // ---- taking apart

    /// `v ^ (h/2)` as a product of a number and powers, with the node that computes `v`.
    fn factors_of(&self, v: ValueId, h: i32) -> Option<(NodeId, f64, Vec<(ValueId, i32)>)> {
        let (n, node) = self.producer(v)?;
        let whole = h % 2 == 0;
        let a = node.inputs.first().copied().flatten()?;
        let b = node.inputs.get(1).copied().flatten();
        let (mut c, mut parts) = (1.0, Vec::<(ValueId, i32)>::new());
        let mut put = |v: ValueId, h: i32| match self.number(v) {
            Some(number) => power(number, h).map(|p| c *= p),
            None => {
                match parts.iter_mut().find(|(w, _)| *w == v) {
                    Some((_, power)) => *power = power.checked_add(h)?,
                    None => parts.push((v, h)),
                }
                Some(())
            }
        };
        match node.op.name() {
            "Mul" => {
                put(a, h)?;
                put(b?, h)?;
            }
            "Div" => {
                put(a, h)?;
                put(b?, -h)?;
            }
            "Neg" if whole => {
                put(a, h)?;
                c *= power(-1.0, h)?;
            }
            "Reciprocal" => put(a, -h)?,
            // (√a)² is NaN where a is negative.
            "Sqrt" if h.abs() == 2 => put(a, h / 2)?,
            "Pow" => {
                let e = self.number(b?)?;
                let halves = f64::from(h) * e;
                let small = halves.fract() == 0.0 && halves != 0.0 && halves.abs() <= 16.0;
                if !small || !whole || (e.fract() != 0.0 && h.abs() != 2) {
                    return None;
                }
                put(a, halves as i32)?;
            }
            _ => return None,
        }
        // What cancels is not what formulas have.
        if parts.iter().any(|(_, h)| *h == 0) {
            return None;
        }
        // √(a b) is √a √b where both are positive, and √(a a) is not a.
        (whole || matches!(parts[..], [(_, p)] if p.abs() == h.abs())).then_some((n, c, parts))
    }

    /// `v` as a number plus a weighted sum, with the node that computes it.
    fn terms_of(&self, v: ValueId) -> Option<(NodeId, f64, Vec<(f64, ValueId)>)> {
        let (n, node) = self.producer(v)?;
        let a = node.inputs.first().copied().flatten()?;
        let b = node.inputs.get(1).copied().flatten();
        let mut all = vec![];
        match node.op.name() {
            "Add" => all.extend([(1.0, a), (1.0, b?)]),
            "Sub" => all.extend([(1.0, a), (-1.0, b?)]),
            "Neg" => all.push((-1.0, a)),
            "Mul" => match (self.number(a), self.number(b?)) {
                (None, Some(k)) => all.push((k, a)),
                (Some(k), None) => all.push((k, b?)),
                _ => return None,
            },
            "Div" => all.push((1.0 / self.number(b?)?, a)),
            _ => return None,
        }
        let mut constant = 0.0;
        all.retain(|(k, v)| match self.number(*v) {
            Some(c) => {
                constant += k * c;
                false
            }
            None => true,
        });
        Some((n, constant, all))
    }

    // ---- numbers and names

    /// Whether `got` is the coefficient of `p` times `scale`; binds the free number of `p`.
    fn coefficient(&mut self, p: &Product, got: f64, scale: f64) -> bool {
        match p.free {
            Some(name) => self.bind_number(name, got / (p.coefficient * scale)),
            None => self.close(got, p.coefficient * scale),
        }
    }

    fn constant(&mut self, sum: &Sum, got: f64, scale: f64) -> bool {
        match sum.free {
            Some(name) => self.bind_number(name, got / scale - sum.constant),
            None => self.close(got, sum.constant * scale),
        }
    }

    fn close(&self, a: f64, b: f64) -> bool {
        a == b || ((a - b).abs() <= self.tolerance * a.abs().max(b.abs()) && (a - b).is_finite())
    }

    fn bind_number(&mut self, name: &'static str, number: f64) -> bool {
        match self.found.number(name) {
            Some(n) => self.close(n, number),
            None => {
                self.found.numbers.push((name, number));
                number.is_finite()
            }
        }
    }

    fn bind(&mut self, name: &'static str, v: ValueId) -> bool {
        match self.found.value(name) {
            Some(bound) => bound == v,
            None => {
                self.found.values.push((name, v));
                true
            }
        }
    }

    fn is_constant(&self, v: ValueId) -> bool {
        self.g.constant(v).is_some() || self.constants.get(v.0 as usize).copied().unwrap_or(false)
    }

    fn number(&self, v: ValueId) -> Option<f64> {
        number(self.g, v, NUMBER_DEPTH)
    }

    /// The node that computes `v`, when it is its only result.
    fn producer(&self, v: ValueId) -> Option<(NodeId, &'g Node)> {
        let (n, _) = self.g.producer(v)?;
        let node = self.g.node(n);
        (node.outputs.len() == 1).then_some((n, node))
    }

    fn burn(&mut self) -> bool {
        self.fuel = self.fuel.saturating_sub(1);
        self.fuel > 0 && self.found.nodes.len() <= MAX_NODES
    }
}

/// `clip(slope * x + offset, low, high)`
struct Link {
    x: ValueId,
    slope: f64,
    offset: f64,
    low: f64,
    high: f64,
}

fn powers(p: &Product) -> Vec<i32> {
    p.factors.iter().map(|f| f.halves).collect()
}

/// `c ^ (h/2)`, where that is a number other than zero.
fn power(c: f64, h: i32) -> Option<f64> {
    let p = if h % 2 == 0 {
        c.powi(h / 2)
    } else {
        c.powf(f64::from(h) / 2.0)
    };
    (p.is_finite() && p != 0.0).then_some(p)
}

/// The one value of all elements of `v`, when that depends on constants only.
fn number(g: &Graph, v: ValueId, depth: u32) -> Option<f64> {
    if let Some(c) = splat(g, v) {
        return Some(c);
    }
    let (n, _) = g.producer(v)?;
    let node = g.node(n);
    if depth == 0 {
        return None;
    }
    let of = |i: usize| number(g, node.inputs.get(i).copied().flatten()?, depth - 1);
    Some(match node.op.name() {
        "Neg" => -of(0)?,
        "Sqrt" => of(0)?.sqrt(),
        "Reciprocal" => of(0)?.recip(),
        "Mul" => of(0)? * of(1)?,
        "Div" => of(0)? / of(1)?,
        "Add" => of(0)? + of(1)?,
        "Sub" => of(0)? - of(1)?,
        _ => return None,
    })
}
