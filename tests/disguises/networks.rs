//! Random networks of layers, of which weights and masks are zero in places and results are read in parts.
//!
//! Every pass alone, and all of them, must keep what the interpreter computes, wherever that is finite: zero times infinity
//! counts as zero. `CAMEO_DISGUISES` is the number of networks, as for the disguises.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cameo::pipeline::{self, Event, Product};
use cameo_ir::interp::{self, Binding};
use cameo_ir::ops::scan::Parts;
use cameo_ir::random::Rng;
use cameo_ir::rewrite::{Outcome, Report};
use cameo_ir::shrink::shrink_within;
use cameo_ir::verify::verify;
use cameo_ir::{Attr, DType, Dim, Fact, Graph, Op, Origin, SymbolRange, Tensor, ValueId, text};
use cameo_tests::case::elements;

use super::cases;

/// Passes that run alone.
const ALONE: &[&str] = &["dead_channels", "narrow", "fold_scales", "reparam", "one_hot"];

/// Rules that must apply, each in so many of a thousand networks at least.
const RULES: &[(&str, &str, usize)] = &[
    ("dead_channels", "dead channels", 200),
    ("dead_channels", "zeros", 20),
    ("narrow", "only what is read", 50),
    ("fold_scales", "scale into the weights behind it", 20),
    ("fold_scales", "shift through the products behind it", 10),
    ("reparam", "product of weights along an axis", 10),
    ("one_hot", "lookup", 10),
    ("one_hot", "lookup of pairs", 5),
];

/// A network that grows. Whatever does not fit is left out.
struct Builder {
    g: Graph,
    r: Rng,
    dtype: DType,
    /// Values that other layers may read as well.
    seen: Vec<ValueId>,
    weights: Vec<ValueId>,
    depth: usize,
}

const UNARY: &[&str] = &[
    "Relu", "Relu", "Gelu", "Sigmoid", "Tanh", "Neg", "Abs", "Erf", "HardSwish", "LeakyRelu", "Softplus", "Sin", "Cos",
    "Identity", "Swish", "Elu", "Softsign", "Floor", "Sign",
];

const EINSUMS: &[&str] = &[
    "ij,jk->ik", "ij,kj->ki", "ij,j->ij", "ij,j->i", "bij,jk->bik", "bij,ik->bkj", "bij,jhd->bhid", "bij,ij->bi",
    "bhid,hdk->bik", "bhid,hk->bkid", "bchw,cd->bdhw", "bij,kj->ibk", "bij,j->bji", "bij->bj",
];

impl Builder {
    fn new(seed: u64) -> Self {
        let mut r = Rng::new(seed);
        let dtype = if r.chance(50) { DType::F64 } else { DType::F32 };
        Self { g: Graph::new("g"), r, dtype, seen: vec![], weights: vec![], depth: 0 }
    }

    fn op(&mut self, op: &str, attrs: &[(&str, Attr)], inputs: &[ValueId]) -> Option<ValueId> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().map(|v| Some(*v)).collect();
        self.ops(op, attrs, inputs, 1).map(|all| all[0])
    }

    fn ops(&mut self, op: &str, attrs: &[(&str, Attr)], inputs: Vec<Option<ValueId>>, n: usize) -> Option<Vec<ValueId>> {
        let attrs = attrs.iter().map(|(k, v)| (Arc::from(*k), v.clone())).collect();
        let out = self.g.add_node(Op::find(op)?, attrs, inputs, n, Origin::default()).ok()?;
        let small = |v: &ValueId| {
            let numbers = self.g.fact(*v).shape.iter().map(|d| d.as_const().unwrap_or(3));
            numbers.product::<i64>() <= 2048
        };
        if !out.iter().all(small) {
            return None;
        }
        self.seen.extend(&out);
        Some(out)
    }

    fn rank(&self, v: ValueId) -> usize {
        self.g.fact(v).rank()
    }

    fn extent(&self, v: ValueId, axis: usize) -> Option<usize> {
        usize::try_from(self.g.fact(v).shape.get(axis)?.as_const()?).ok()
    }

    fn axis(&mut self, v: ValueId) -> usize {
        let rank = self.rank(v);
        self.r.range(0, rank as i64 - 1).max(0) as usize
    }

    /// As attributes say it: from either end.
    fn signed(&mut self, axis: usize, rank: usize) -> i64 {
        if self.r.chance(50) { axis as i64 } else { axis as i64 - rank as i64 }
    }

    fn width(&mut self) -> usize {
        *self.r.pick(&[1, 2, 3, 4, 4, 4, 6, 6, 8, 8])
    }

    /// A choice of elements of an axis: each by chance, or runs as heads are.
    fn choice(&mut self, extent: usize) -> Vec<bool> {
        let run = *self.r.pick(&[1, 1, 2, extent.max(2) / 2]);
        let percent = *self.r.pick(&[25, 50, 50, 75]);
        let runs: Vec<bool> = (0..extent.div_ceil(run)).map(|_| self.r.chance(percent)).collect();
        (0..extent).map(|i| runs[i / run]).collect()
    }

    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        let mut all: Vec<f64> = (0..n).map(|_| self.r.range(-16, 16) as f64 / 16.0).collect();
        if self.r.chance(3) {
            all.fill(0.0);
        }
        for (axis, extent) in shape.iter().enumerate() {
            if self.r.chance(if shape.len() > 1 { 30 } else { 45 }) {
                let kept = self.choice(*extent);
                let inner: usize = shape[axis + 1..].iter().product();
                for (i, x) in all.iter_mut().enumerate() {
                    if !kept[i / inner % extent] {
                        *x = if self.r.chance(10) { -0.0 } else { 0.0 };
                    }
                }
            }
        }
        Tensor::from_f64(self.dtype, shape, all)
    }

    fn weight(&mut self, shape: &[usize]) -> ValueId {
        if self.r.chance(15) {
            let dims: Vec<Dim> = shape.iter().map(|d| Dim::from(*d)).collect();
            let same = self.weights.iter().find(|w| self.g.fact(**w).shape == dims);
            if let Some(w) = same {
                return *w;
            }
        }
        let t = self.tensor(shape);
        let w = self.g.add_weight("", t);
        self.weights.push(w);
        w
    }

    fn number(&mut self, x: f64) -> ValueId {
        let t = Tensor::from_f64(self.dtype, &[], [x]);
        self.g.add_weight("", t)
    }

    fn list(&mut self, shape: &[usize], all: &[i64]) -> ValueId {
        let t = Tensor::from_i64(DType::I64, shape, all.iter().copied());
        self.g.add_weight("", t)
    }

    /// A constant that is broadcast to `v`: one number, along one axis, or along all that are known.
    fn beside(&mut self, v: ValueId) -> ValueId {
        let (rank, along) = (self.rank(v), self.axis(v));
        let kind = self.r.range(0, 5);
        let mut shape: Vec<usize> = (0..rank)
            .map(|a| match kind {
                0 => 1,
                5 => self.extent(v, a).unwrap_or(1),
                _ if a == along || (kind == 4 && a + 1 == rank) => self.extent(v, a).unwrap_or(1),
                _ => 1,
            })
            .collect();
        if self.r.chance(70) {
            let ones = shape.iter().take_while(|d| **d == 1).count();
            shape.drain(..ones);
        }
        self.weight(&shape)
    }

    fn other(&mut self) -> ValueId {
        *self.r.clone().pick(&self.seen)
    }

    /// A weight whose elements are larger than zero.
    fn positive(&mut self, w: ValueId) -> Option<ValueId> {
        let t = self.g.constant(w)?;
        let all = t.to_f64().into_iter().map(|x| x.abs() + 0.25);
        let t = Tensor::from_f64(self.dtype, t.shape(), all);
        Some(self.g.add_weight("", t))
    }

    /// Another value of this shape.
    fn like(&mut self, v: ValueId) -> Option<ValueId> {
        let fact = self.g.fact(v).clone();
        let same: Vec<ValueId> = self.seen.iter().copied().filter(|u| *self.g.fact(*u) == fact).collect();
        (!same.is_empty()).then(|| *self.r.pick(&same))
    }

    fn swapped(&mut self, op: &str, a: ValueId, b: ValueId) -> Option<ValueId> {
        let all = if self.r.chance(50) { [a, b] } else { [b, a] };
        self.op(op, &[], &all)
    }

    fn dense(&mut self, x: ValueId) -> Option<ValueId> {
        let k = self.extent(x, self.rank(x).checked_sub(1)?)?;
        let n = self.width();
        let w = self.weight(&[k, n]);
        let y = self.op("MatMul", &[], &[x, w])?;
        if self.r.chance(50) {
            let b = self.weight(&[n]);
            return self.swapped("Add", y, b);
        }
        Some(y)
    }

    fn left(&mut self, x: ValueId) -> Option<ValueId> {
        let k = self.extent(x, self.rank(x).checked_sub(2)?)?;
        let m = self.width();
        let w = self.weight(&[m, k]);
        let y = self.op("MatMul", &[], &[w, x])?;
        if self.r.chance(30) {
            let b = self.weight(&[m, 1]);
            return self.swapped("Add", y, b);
        }
        Some(y)
    }

    fn gemm(&mut self, x: ValueId) -> Option<ValueId> {
        let (ta, tb) = (self.r.chance(20), self.r.chance(50));
        let k = self.extent(x, usize::from(!ta))?;
        let n = self.width();
        let w = if tb { self.weight(&[n, k]) } else { self.weight(&[k, n]) };
        let mut inputs = vec![Some(x), Some(w)];
        match self.r.range(0, 3) {
            0 => {}
            1 => inputs.push(Some(self.number(0.5))),
            2 => inputs.push(Some(self.weight(&[1, n]))),
            _ => inputs.push(Some(self.weight(&[n]))),
        }
        let mut attrs = vec![("transA", Attr::Int(ta.into())), ("transB", Attr::Int(tb.into()))];
        if self.r.chance(20) {
            attrs.push(("alpha", Attr::Float(0.5)));
            attrs.push(("beta", Attr::Float(*self.r.pick(&[2.0, 0.0]))));
        }
        self.ops("Gemm", &attrs, inputs, 1).map(|all| all[0])
    }

    fn conv(&mut self, x: ValueId) -> Option<ValueId> {
        let rank = self.rank(x);
        let c = self.extent(x, 1)?;
        if !(3..=4).contains(&rank) || c == 0 {
            return None;
        }
        let groups: Vec<usize> = (1..=c).filter(|k| c % k == 0).collect();
        let group = if self.r.chance(40) { 1 } else { *self.r.pick(&groups) };
        let turned = self.r.chance(25);
        let per = *self.r.pick(&[1, 1, 2, 3]);
        let out = if group == 1 { self.width() } else { group * per };
        let k = *self.r.pick(&[1, 1, 2, 3]);
        let mut shape = if turned { vec![c, out / group] } else { vec![out, c / group] };
        shape.resize(rank, k);
        let w = self.weight(&shape);
        let pad = if k == 3 { self.r.range(0, 1) } else { 0 };
        let mut attrs = vec![
            ("group", Attr::Int(group as i64)),
            ("pads", Attr::Ints(vec![pad; 2 * (rank - 2)])),
        ];
        if self.r.chance(20) {
            attrs.push(("strides", Attr::Ints(vec![2; rank - 2])));
        }
        let mut inputs = vec![Some(x), Some(w)];
        if self.r.chance(50) {
            inputs.push(Some(self.weight(&[out])));
        }
        let op = if turned { "ConvTranspose" } else { "Conv" };
        self.ops(op, &attrs, inputs, 1).map(|all| all[0])
    }

    fn einsum(&mut self, x: ValueId) -> Option<ValueId> {
        let equation = *self.r.pick(EINSUMS);
        let (left, _) = equation.split_once("->")?;
        let terms: Vec<&str> = left.split(',').collect();
        if terms[0].len() != self.rank(x) {
            return None;
        }
        let mut known: BTreeMap<char, usize> = BTreeMap::new();
        for (a, l) in terms[0].chars().enumerate() {
            known.extend(self.extent(x, a).map(|n| (l, n)));
        }
        let mut inputs = vec![x];
        for term in &terms[1..] {
            let mut shape = vec![];
            for l in term.chars() {
                if terms[0].contains(l) && !known.contains_key(&l) {
                    return None;
                }
                let n = match known.get(&l) {
                    Some(n) => *n,
                    None => self.width(),
                };
                known.insert(l, n);
                shape.push(n);
            }
            inputs.push(self.weight(&shape));
        }
        if self.r.chance(20) && inputs.len() == 2 {
            // From the other side.
            let (a, rest) = left.split_once(',')?;
            let turned = format!("{rest},{a}->{}", equation.split_once("->")?.1);
            return self.op("Einsum", &[("equation", Attr::Str(turned.into()))], &[inputs[1], inputs[0]]);
        }
        self.op("Einsum", &[("equation", Attr::Str(equation.into()))], &inputs)
    }

    fn pointwise(&mut self, x: ValueId) -> Option<ValueId> {
        match self.r.range(0, 13) {
            0..=4 => {
                let c = self.beside(x);
                self.swapped("Mul", x, c)
            }
            5 | 6 => {
                let c = self.beside(x);
                self.swapped("Add", x, c)
            }
            7 => {
                let c = self.beside(x);
                self.swapped("Sub", x, c)
            }
            8 => {
                let c = self.number(*self.r.clone().pick(&[0.5, 2.0, -4.0]));
                self.op("Div", &[], &[x, c])
            }
            9 => {
                let c = self.beside(x);
                let op = *self.r.pick(&["Max", "Min", "PRelu"]);
                self.op(op, &[], &[x, c])
            }
            10 => {
                let bits = self.choice(1 + self.extent(x, self.rank(x).checked_sub(1)?)?);
                let n = bits.len() - 1;
                let t = Tensor::bool(&[n], bits[..n].to_vec());
                let c = self.g.add_weight("", t);
                let other = self.beside(x);
                let zero = self.number(0.0);
                let other = *self.r.pick(&[other, zero]);
                let all = if self.r.chance(50) { [c, x, other] } else { [c, other, x] };
                self.op("Where", &[], &all)
            }
            11 => {
                // What is positive: zeros are not.
                let zero = self.number(0.0);
                let op = *self.r.pick(&["Greater", "GreaterOrEqual", "Less", "Equal"]);
                let c = self.op(op, &[], &[x, zero])?;
                match self.r.range(0, 2) {
                    0 => self.op("Cast", &[("to", Attr::DType(self.dtype))], &[c]),
                    1 => {
                        let y = self.beside(x);
                        self.op("Where", &[], &[c, x, y])
                    }
                    _ => {
                        let long = self.op("Cast", &[("to", Attr::DType(DType::I64))], &[c])?;
                        let n = self.extent(x, self.rank(x).checked_sub(1)?)?;
                        let bits: Vec<i64> = self.choice(n).iter().map(|b| i64::from(*b) * 3).collect();
                        let m = self.list(&[n], &bits);
                        let y = self.op("Mul", &[], &[long, m])?;
                        let back = self.op("Cast", &[("to", Attr::DType(self.dtype))], &[y])?;
                        self.op("Mul", &[], &[back, x])
                    }
                }
            }
            12 => {
                // A mask of which some numbers are not.
                let n = self.extent(x, self.rank(x).checked_sub(1)?)?;
                let odd = *self.r.pick(&[f64::NEG_INFINITY, f64::INFINITY, -1e9, -1e4]);
                let all: Vec<f64> = self.choice(n).iter().map(|k| if *k { 0.0 } else { odd }).collect();
                let t = Tensor::from_f64(self.dtype, &[n], all);
                let m = self.g.add_weight("", t);
                let op = *self.r.pick(&["Add", "Add", "Add", "Mul", "Max", "Min"]);
                let y = self.op(op, &[], &[x, m])?;
                match self.r.chance(80) {
                    true => self.op("Softmax", &[("axis", Attr::Int(-1))], &[y]),
                    false => Some(y),
                }
            }
            _ => {
                let op = *self.r.pick(UNARY);
                self.op(op, &[], &[x])
            }
        }
    }

    fn norm(&mut self, x: ValueId) -> Option<ValueId> {
        let rank = self.rank(x);
        let axis = if self.r.chance(75) { rank.checked_sub(1)? } else { self.axis(x) };
        let signed = ("axis", Attr::Int(self.signed(axis, rank)));
        let epsilon = ("epsilon", Attr::Float(*self.r.pick(&[1e-5, 1e-2, 0.5])));
        let own = |b: &Self| (axis..rank).map(|a| b.extent(x, a)).collect::<Option<Vec<usize>>>();
        match self.r.range(0, 9) {
            0..=2 => {
                let shape = own(self)?;
                let mut inputs = vec![x, self.weight(&shape)];
                if self.r.chance(50) {
                    inputs.push(self.weight(&shape));
                }
                self.op("LayerNormalization", &[signed, epsilon], &inputs)
            }
            3 | 4 => {
                let shape = own(self)?;
                let w = self.weight(&shape);
                self.op("RMSNormalization", &[signed, epsilon], &[x, w])
            }
            5 | 6 => {
                let c = self.extent(x, 1)?;
                let [s, b, m] = [(); 3].map(|()| self.weight(&[c]));
                let v = self.weight(&[c]);
                let v = self.positive(v)?;
                self.op("BatchNormalization", &[epsilon], &[x, s, b, m, v])
            }
            7 => {
                let c = self.extent(x, 1)?;
                let (s, b) = (self.weight(&[c]), self.weight(&[c]));
                let groups = *self.r.pick(&[1, 2, c as i64]);
                match self.r.chance(50) {
                    true => self.op("InstanceNormalization", &[epsilon], &[x, s, b]),
                    false => self.op("GroupNormalization", &[epsilon, ("num_groups", Attr::Int(groups))], &[x, s, b]),
                }
            }
            _ => {
                let op = *self.r.pick(&["Softmax", "Softmax", "LogSoftmax", "CumSum"]);
                if op == "CumSum" {
                    let at = self.list(&[], &[axis as i64]);
                    return self.op(op, &[], &[x, at]);
                }
                self.op(op, &[signed], &[x])
            }
        }
    }

    fn transpose(&mut self, x: ValueId) -> Option<ValueId> {
        let rank = self.rank(x);
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        for i in (1..rank).rev() {
            if self.r.chance(60) {
                let j = self.r.range(0, i as i64) as usize;
                perm.swap(i, j);
            }
        }
        self.op("Transpose", &[("perm", Attr::Ints(perm))], &[x])
    }

    fn reshape(&mut self, x: ValueId) -> Option<ValueId> {
        let mut shape = self.g.fact(x).shape.clone();
        let axis = self.axis(x);
        match self.r.range(0, 3) {
            0 | 1 => {
                let n = self.extent(x, axis)?;
                let parts: Vec<usize> = (1..=n.max(1)).filter(|k| n % k == 0).collect();
                let k = *self.r.pick(&parts);
                shape.splice(axis..=axis, [Dim::from(k), Dim::from(n / k)]);
            }
            2 if axis + 1 < shape.len() => {
                let both = shape[axis].clone() * shape[axis + 1].clone();
                shape.splice(axis..=axis + 1, [both]);
            }
            _ => {
                let axes = vec![Dim::from(axis)];
                return match shape.get(axis).is_some_and(Dim::is_one) {
                    true => self.op("Squeeze", &[("axes", Attr::Dims(axes))], &[x]),
                    false => self.op("Unsqueeze", &[("axes", Attr::Dims(axes))], &[x]),
                };
            }
        }
        if shape.len() > 5 {
            return None;
        }
        self.op("Reshape", &[("shape", Attr::Dims(shape)), ("allowzero", Attr::Int(1))], &[x])
    }

    fn join(&mut self, x: ValueId) -> Option<ValueId> {
        let (axis, rank) = (self.axis(x), self.rank(x));
        let at = ("axis", Attr::Int(self.signed(axis, rank)));
        let mut parts = vec![x];
        for _ in 0..self.r.range(1, 2) {
            let part = match self.r.range(0, 2) {
                0 => {
                    let shape: Option<Vec<usize>> = (0..rank).map(|a| self.extent(x, a)).collect();
                    self.weight(&shape?)
                }
                1 => {
                    let zero = Tensor::from_f64(self.dtype, &[1], [*self.r.pick(&[0.0, 0.0, 1.0])]);
                    let shape = Attr::Dims(self.g.fact(x).shape.clone());
                    self.op("ConstantOfShape", &[("shape", shape), ("value", Attr::Tensor(zero))], &[])?
                }
                _ => self.like(x)?,
            };
            parts.insert(self.r.range(0, parts.len() as i64) as usize, part);
        }
        self.op("Concat", &[at], &parts)
    }

    fn split(&mut self, x: ValueId) -> Option<ValueId> {
        let axis = self.axis(x);
        let n = self.extent(x, axis)?;
        let at = ("axis", Attr::Int(self.signed(axis, self.rank(x))));
        let parts = if n % 2 == 0 && self.r.chance(50) {
            self.ops("Split", &[at, ("num_outputs", Attr::Int(2))], vec![Some(x)], 2)?
        } else {
            let mut left = n;
            let mut sizes = vec![];
            while left > 0 && sizes.len() < 3 {
                let k = self.r.range(1, left as i64) as usize;
                sizes.push(Dim::from(if sizes.len() == 2 { left } else { k }));
                left -= if sizes.len() == 3 { left } else { k };
            }
            let count = sizes.len();
            self.ops("Split", &[at, ("split", Attr::Dims(sizes))], vec![Some(x)], count)?
        };
        if parts.is_empty() {
            return None;
        }
        if parts.len() == 2 && self.g.fact(parts[0]) == self.g.fact(parts[1]) && self.r.chance(60) {
            let gate = self.op("Sigmoid", &[], &[parts[0]])?;
            return self.op("Mul", &[], &[gate, parts[1]]);
        }
        Some(*self.r.pick(&parts))
    }

    fn pad(&mut self, x: ValueId) -> Option<ValueId> {
        let rank = self.rank(x);
        let mut pads = vec![Dim::ZERO; 2 * rank];
        for _ in 0..2 {
            let at = self.r.range(0, 2 * rank as i64 - 1).max(0) as usize;
            *pads.get_mut(at)? = Dim::from(self.r.range(0, 2));
        }
        let pads = ("pads", Attr::Dims(pads));
        match self.r.range(0, 3) {
            0 => self.op("Pad", &[pads, ("mode", Attr::Str("edge".into()))], &[x]),
            1 => {
                let v = self.number(1.5);
                let all = self.ops("Pad", &[pads], vec![Some(x), None, Some(v)], 1)?;
                Some(all[0])
            }
            _ => self.op("Pad", &[pads], &[x]),
        }
    }

    fn repeat(&mut self, x: ValueId) -> Option<ValueId> {
        let rank = self.rank(x);
        if self.r.chance(50) {
            let repeats = (0..rank).map(|_| Dim::from(*self.r.pick(&[1i64, 1, 2]))).collect();
            return self.op("Tile", &[("repeats", Attr::Dims(repeats))], &[x]);
        }
        let mut shape = self.g.fact(x).shape.clone();
        for d in &mut shape {
            if d.is_one() {
                *d = Dim::from(*self.r.pick(&[1i64, 2, 3]));
            }
        }
        if self.r.chance(30) {
            shape.insert(0, Dim::from(2usize));
        }
        self.op("Expand", &[("shape", Attr::Dims(shape))], &[x])
    }

    fn slice(&mut self, x: ValueId) -> Option<ValueId> {
        let rank = self.rank(x);
        let mut lists: [Vec<i64>; 4] = Default::default();
        for axis in 0..rank {
            if !self.r.chance(50) {
                continue;
            }
            let Some(n) = self.extent(x, axis) else { continue };
            let n = n as i64;
            let (start, end) = (self.r.range(-n, n), self.r.range(-n, n + 2));
            let step = *self.r.pick(&[1, 1, 1, 2, -1, -1, -2, 3]);
            let (start, end) = match (step, self.r.range(0, 2)) {
                (1.., 0) => (0, end),
                (1.., 1) => (start.min(end), start.max(end)),
                (_, 0) => (-1, -n - 1),
                (_, 1) => (start.max(end), start.min(end)),
                _ => (start, end),
            };
            let axis = self.signed(axis, rank);
            for (list, x) in lists.iter_mut().zip([start, end, axis, step]) {
                list.push(x);
            }
        }
        let dims = |l: &[i64]| Attr::Dims(l.iter().map(|i| Dim::from(*i)).collect());
        let names = ["starts", "ends", "axes", "steps"];
        let y = if self.r.chance(50) {
            let attrs: Vec<(&str, Attr)> = names.into_iter().zip(lists.iter().map(|l| dims(l))).collect();
            self.op("Slice", &attrs, &[x])?
        } else {
            let mut inputs = vec![x];
            for l in &lists {
                let v = self.list(&[l.len()], l);
                inputs.push(v);
            }
            self.op("Slice", &[], &inputs)?
        };
        // Seldom nothing.
        let empty = self.g.fact(y).shape.iter().any(Dim::is_zero);
        (!empty || self.r.chance(10)).then_some(y)
    }

    fn gather(&mut self, x: ValueId) -> Option<ValueId> {
        let axis = self.axis(x);
        let n = self.extent(x, axis);
        let shape: &[usize] = *self.r.pick(&[&[][..], &[], &[1], &[2], &[3], &[2, 2], &[0]]);
        let mut all: Vec<i64> = (0..shape.iter().product::<usize>())
            .map(|_| match n {
                Some(n) => self.r.range(-(n as i64), n as i64 - 1),
                None => self.r.range(-1, 0),
            })
            .collect();
        if self.r.chance(50) {
            all.sort_unstable();
        }
        let rank = self.rank(x);
        let at = self.list(shape, &all);
        let axis = self.signed(axis, rank);
        self.op("Gather", &[("axis", Attr::Int(axis))], &[x, at])
    }

    fn reduce(&mut self, x: ValueId) -> Option<ValueId> {
        let op = *self.r.pick(&["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"]);
        let axis = self.axis(x);
        let mut axes = vec![Dim::from(self.signed(axis, self.rank(x)))];
        if self.r.chance(10) {
            axes = vec![Dim::from(0usize), Dim::from(self.rank(x).checked_sub(1)?)];
            axes.dedup();
        }
        let keep = ("keepdims", Attr::Int(self.r.range(0, 1)));
        if self.r.chance(20) && self.rank(x) > 2 {
            let op = *self.r.pick(&["GlobalAveragePool", "GlobalMaxPool", "MaxPool", "AveragePool"]);
            let kernel = ("kernel_shape", Attr::Ints(vec![2; self.rank(x) - 2]));
            let attrs = if op.starts_with("Global") { vec![] } else { vec![kernel] };
            return self.op(op, &attrs, &[x]);
        }
        self.op(op, &[("axes", Attr::Dims(axes)), keep], &[x])
    }

    fn binary(&mut self, x: ValueId) -> Option<ValueId> {
        let y = self.like(x)?;
        let op = *self.r.pick(&["Add", "Add", "Mul", "Sub", "Max"]);
        self.op(op, &[], &[x, y])
    }

    fn product(&mut self, x: ValueId) -> Option<ValueId> {
        let y = self.other();
        match self.r.chance(50) {
            true => self.op("MatMul", &[], &[x, y]),
            false => {
                let y = self.like(x)?;
                let rank = self.rank(x) as i64;
                let mut perm: Vec<i64> = (0..rank).collect();
                perm.swap(usize::try_from(rank - 2).ok()?, usize::try_from(rank - 1).ok()?);
                let t = self.op("Transpose", &[("perm", Attr::Ints(perm))], &[y])?;
                self.op("MatMul", &[], &[x, t])
            }
        }
    }

    /// What softmax or attention adds to logits; the last axes are `rows` and `columns`.
    fn mask(&mut self, heads: usize, rows: &Dim, columns: &Dim) -> Option<ValueId> {
        let number = |d: &Dim| d.as_const().and_then(|n| usize::try_from(n).ok());
        let (r, c) = (number(rows).filter(|_| self.r.chance(60)).unwrap_or(1), number(columns)?);
        let shape = match self.r.range(0, 3) {
            0 => vec![r, c],
            1 => vec![1, 1, r, c],
            _ => vec![1, heads, r, c],
        };
        let n: usize = shape.iter().product();
        if self.r.chance(40) {
            let bits = self.choice(n);
            let t = Tensor::bool(&shape, bits);
            return Some(self.g.add_weight("", t));
        }
        let never = *self.r.pick(&[f64::NEG_INFINITY, -1e9, -1e4, 0.0]);
        let all: Vec<f64> = (0..n).map(|_| if self.r.chance(30) { never } else { self.r.range(-8, 8) as f64 / 8.0 }).collect();
        let t = Tensor::from_f64(self.dtype, &shape, all);
        Some(self.g.add_weight("", t))
    }

    fn attention(&mut self, x: ValueId) -> Option<ValueId> {
        if self.rank(x) != 3 {
            return None;
        }
        let (kv, size) = (*self.r.pick(&[1, 2, 2, 3]), *self.r.pick(&[1, 2, 4]));
        let heads = kv * *self.r.pick(&[1, 1, 2]);
        let width = self.extent(x, 2)?;
        let fact = self.g.fact(x).clone();
        let other = if self.r.chance(20) { self.like(x)? } else { x };
        let mut all = vec![];
        for (from, h) in [(x, heads), (other, kv), (other, kv)] {
            let w = self.weight(&[width, h * size]);
            let mut y = self.op("MatMul", &[], &[from, w])?;
            if self.r.chance(40) {
                let b = self.weight(&[h * size]);
                y = self.op("Add", &[], &[y, b])?;
            }
            all.push(Some(y));
        }
        let mask = if self.r.chance(40) { self.mask(heads, &fact.shape[1], &fact.shape[1]) } else { None };
        let mut attrs = vec![("is_causal", Attr::Int(i64::from(self.r.chance(25))))];
        let y = if self.r.chance(50) {
            all.push(mask);
            attrs.push(("q_num_heads", Attr::Int(heads as i64)));
            attrs.push(("kv_num_heads", Attr::Int(kv as i64)));
            self.ops("Attention", &attrs, all, 1)?[0]
        } else {
            let mut split = vec![];
            for (v, h) in all.iter().flatten().zip([heads, kv, kv]) {
                let shape = [fact.shape[0].clone(), fact.shape[1].clone(), h.into(), size.into()];
                let attrs = [("shape", Attr::Dims(shape.to_vec())), ("allowzero", Attr::Int(1))];
                let y = self.op("Reshape", &attrs, &[*v])?;
                split.push(self.op("Transpose", &[("perm", Attr::Ints(vec![0, 2, 1, 3]))], &[y])?);
            }
            let mut y = if kv == heads && self.r.chance(50) {
                let k = self.op("Transpose", &[("perm", Attr::Ints(vec![0, 1, 3, 2]))], &[split[1]])?;
                let scores = self.op("MatMul", &[], &[split[0], k])?;
                let half = self.number(0.5);
                let mut scores = self.op("Mul", &[], &[scores, half])?;
                if let Some(m) = mask.filter(|m| self.g.fact(*m).dtype != DType::Bool) {
                    scores = self.op("Add", &[], &[scores, m])?;
                }
                let p = self.op("Softmax", &[("axis", Attr::Int(-1))], &[scores])?;
                self.op("MatMul", &[], &[p, split[2]])?
            } else {
                let mut inputs: Vec<Option<ValueId>> = split.into_iter().map(Some).collect();
                inputs.push(mask);
                self.ops("Attention", &attrs, inputs, 1)?[0]
            };
            if self.r.chance(30) {
                // Heads that are masked.
                let bits = self.choice(heads).into_iter().map(|b| if b { 1.0 } else { 0.0 });
                let t = Tensor::from_f64(self.dtype, &[heads, 1, 1], bits);
                let m = self.g.add_weight("", t);
                y = self.op("Mul", &[], &[y, m])?;
            }
            let y = self.op("Transpose", &[("perm", Attr::Ints(vec![0, 2, 1, 3]))], &[y])?;
            let shape = vec![fact.shape[0].clone(), fact.shape[1].clone(), (heads * size).into()];
            self.op("Reshape", &[("shape", Attr::Dims(shape)), ("allowzero", Attr::Int(1))], &[y])?
        };
        match self.r.chance(70) {
            true => self.dense(y),
            false => Some(y),
        }
    }

    /// A layer whose results are masked, and the one behind it.
    fn masked(&mut self, x: ValueId) -> Option<ValueId> {
        let y = self.dense(x)?;
        let y = if self.r.chance(70) { self.pointwise(y)? } else { y };
        let n = self.extent(y, self.rank(y).checked_sub(1)?)?;
        let bits: Vec<f64> = self.choice(n).into_iter().map(|b| if b { 1.0 } else { 0.0 }).collect();
        let t = Tensor::from_f64(self.dtype, &[n], bits);
        let m = self.g.add_weight("", t);
        let y = self.swapped("Mul", y, m)?;
        let y = if self.r.chance(30) { self.norm(y)? } else { y };
        self.dense(y)
    }

    /// A scale and a shift that several products read.
    fn scaled(&mut self, x: ValueId) -> Option<ValueId> {
        let c = self.beside(x);
        let dividing = self.r.chance(30);
        let mut y = if dividing {
            let c = self.positive(c)?;
            self.op("Div", &[], &[x, c])?
        } else {
            self.op("Mul", &[], &[x, c])?
        };
        if self.r.chance(60) {
            let c = self.beside(x);
            y = self.op("Add", &[], &[y, c])?;
        }
        let mut out = vec![];
        for _ in 0..self.r.range(1, 2) {
            let v = match self.r.range(0, 3) {
                0 => self.transpose(y)?,
                1 => self.reshape(y)?,
                _ => y,
            };
            let z = match self.r.range(0, 4) {
                0 => self.left(v),
                1 => self.gemm(v),
                2 | 3 if self.rank(v) > 2 => self.conv(v),
                _ => self.dense(v),
            };
            out.push(z?);
        }
        self.sum(&out)
    }

    fn sum(&mut self, all: &[ValueId]) -> Option<ValueId> {
        match *all {
            [a, b] if self.g.fact(a) == self.g.fact(b) => self.op("Add", &[], &[a, b]),
            _ => all.last().copied(),
        }
    }

    /// Products along an axis, views and other products between them.
    fn apart(&mut self, x: ValueId) -> Option<ValueId> {
        let mut y = self.left(x)?;
        for _ in 0..self.r.range(0, 3) {
            y = match self.r.range(0, 4) {
                0 | 1 => self.transpose(y)?,
                2 => self.reshape(y)?,
                3 => {
                    let k = self.extent(y, self.rank(y).checked_sub(1)?)?;
                    let w = self.weight(&[k, k]);
                    self.op("MatMul", &[], &[y, w])?
                }
                _ => {
                    let c = self.beside(y);
                    self.op("Add", &[], &[y, c])?
                }
            };
        }
        if self.r.chance(50) { self.left(y) } else { self.dense(y) }
    }

    /// One-hot rows of the positions of extremes, the last axis of extent `depth`.
    fn hot(&mut self, x: ValueId, depth: usize) -> Option<ValueId> {
        let (axis, rank) = (self.axis(x), self.rank(x));
        let keep = self.r.range(0, 1);
        let attrs = [
            ("axis", Attr::Int(self.signed(axis, rank))),
            ("keepdims", Attr::Int(keep)),
            ("select_last_index", Attr::Int(self.r.range(0, 1))),
        ];
        let op = *self.r.pick(&["ArgMax", "ArgMin"]);
        let mut i = self.op(op, &attrs, &[x])?;
        let to = ("to", Attr::DType(self.dtype));
        if self.r.chance(50) {
            let t = Tensor::from_i64(DType::I64, &[], [depth as i64]);
            let d = self.g.add_weight("", t);
            let one = *self.r.pick(&[1.0, 1.0, 1.0, 2.0]);
            let v = Tensor::from_f64(self.dtype, &[2], [0.0, one]);
            let v = self.g.add_weight("", v);
            if self.r.chance(20) {
                i = self.op("Cast", &[("to", Attr::DType(DType::I32))], &[i])?;
            }
            return self.op("OneHot", &[("axis", Attr::Int(-1))], &[i, d, v]);
        }
        if self.extent(i, self.rank(i).checked_sub(1)?) != Some(1) {
            let last = Attr::Dims(vec![Dim::from(-1i64)]);
            i = self.op("Unsqueeze", &[("axes", last)], &[i])?;
        }
        let all: Vec<i64> = (0..depth as i64).collect();
        let all = self.list(&[depth], &all);
        let e = self.swapped("Equal", i, all)?;
        self.op("Cast", &[to], &[e])
    }

    fn lookup(&mut self) -> Option<ValueId> {
        let floats = self.g.inputs().iter().copied().filter(|v| self.g.fact(*v).dtype.is_float());
        let inputs: Vec<ValueId> = floats.collect();
        let x = *self.r.pick(&inputs);
        let depth = *self.r.pick(&[4, 6, 8, 8, 9]);
        let a = self.hot(x, depth)?;
        let n = self.width();
        let table = self.weight(&[depth, n]);
        if self.r.chance(50) {
            return self.op("MatMul", &[], &[a, table]);
        }
        let y = *self.r.pick(&inputs);
        let b = self.hot(y, depth)?;
        let rank = self.rank(b);
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        perm.swap(rank.checked_sub(2)?, rank - 1);
        let b = self.op("Transpose", &[("perm", Attr::Ints(perm))], &[b])?;
        let a = match self.r.chance(50) {
            true => {
                let square = self.weight(&[depth, depth]);
                self.op("MatMul", &[], &[a, square])?
            }
            false => a,
        };
        self.op("MatMul", &[], &[a, b])
    }

    /// A loop over axis 0.
    fn scan(&mut self, x: ValueId) -> Option<ValueId> {
        let fact = self.g.fact(x).clone();
        let (length, inner) = fact.shape.split_first()?;
        if self.depth > 0 || inner.is_empty() {
            return None;
        }
        let mut body = Self::new(self.r.next_u64());
        body.dtype = self.dtype;
        body.depth = 2;
        let h = body.g.add_input("h", Fact::new(self.dtype, inner));
        let s = body.g.add_input("s", Fact::new(self.dtype, inner));
        for (name, range) in &mut body.g.symbols {
            range.clone_from(self.g.symbols.get(name)?);
        }
        body.seen = vec![h, s];
        let mut next = body.op("Add", &[], &[h, s])?;
        for _ in 0..body.r.range(1, 4) {
            next = body.layer(next).unwrap_or(next);
        }
        let y = next;
        if body.g.fact(next) != body.g.fact(h) {
            next = body.like(h)?;
        }
        next = body.op("Tanh", &[], &[next])?;
        body.g.add_output("h", next);
        body.g.add_output("y", y);
        let zeros = self.r.chance(50);
        let start = match zeros {
            true => {
                let zero = Tensor::from_f64(self.dtype, &[1], [0.0]);
                let attrs = [("shape", Attr::Dims(inner.to_vec())), ("value", Attr::Tensor(zero))];
                self.op("ConstantOfShape", &attrs, &[])?
            }
            false => self.op("ReduceMean", &[("axes", Attr::Dims(vec![Dim::ZERO])), ("keepdims", Attr::Int(0))], &[x])?,
        };
        let body = Arc::new(body.g);
        let attrs = Parts { body: &body, states: 1, slices: 1, length }.attrs();
        let inputs = vec![Some(start), Some(x)];
        let out = self.g.add_node(Op::find("cameo::Scan")?, attrs, inputs, 2, Origin::default()).ok()?;
        self.seen.extend(&out);
        Some(out[1])
    }

    fn residual(&mut self, x: ValueId) -> Option<ValueId> {
        if self.depth > 1 {
            return None;
        }
        self.depth += 1;
        let mut y = x;
        for _ in 0..self.r.range(1, 3) {
            y = self.layer(y).unwrap_or(y);
        }
        self.depth -= 1;
        if self.g.fact(y) != self.g.fact(x) {
            // Back to the width of the trunk.
            let (k, n) = (self.extent(y, self.rank(y).checked_sub(1)?)?, self.extent(x, self.rank(x).checked_sub(1)?)?);
            let w = self.weight(&[k, n]);
            y = self.op("MatMul", &[], &[y, w])?;
        }
        self.swapped("Add", x, y)
    }

    fn layer(&mut self, x: ValueId) -> Option<ValueId> {
        if !self.g.fact(x).dtype.is_float() {
            return None;
        }
        match self.r.range(0, 44) {
            0..=4 => self.dense(x),
            5 | 6 => self.left(x),
            7 | 8 => self.gemm(x),
            9..=12 => self.conv(x),
            13 | 14 => self.einsum(x),
            15..=19 => self.pointwise(x),
            20..=22 => self.norm(x),
            23 | 24 => self.transpose(x),
            25 | 26 => self.reshape(x),
            27 => self.join(x),
            28 => self.split(x),
            29 => self.pad(x),
            30 => self.repeat(x),
            31 | 32 => self.slice(x),
            33 => self.gather(x),
            34 => self.reduce(x),
            35 => self.binary(x),
            36 => self.product(x),
            37 | 38 => self.attention(x),
            39 => self.masked(x),
            40 => self.scaled(x),
            41 => self.apart(x),
            42 => self.residual(x),
            43 => self.lookup(),
            _ => self.scan(x),
        }
    }

    fn network(mut self) -> Graph {
        let rank = *self.r.pick(&[2, 2, 3, 3, 3, 4, 4]);
        let mut shape: Vec<Dim> = (0..rank).map(|_| Dim::from(self.width())).collect();
        if self.r.chance(60) {
            shape[0] = Dim::sym("B");
        }
        if rank > 2 && self.r.chance(30) {
            let at = if rank == 3 { 1 } else { 2 };
            shape[at] = Dim::sym("S");
        }
        let mut x = self.g.add_input("x", Fact::new(self.dtype, shape.clone()));
        self.seen.push(x);
        if self.r.chance(30) {
            let z = self.g.add_input("z", Fact::new(self.dtype, shape));
            self.seen.push(z);
        }
        let min = self.r.range(0, 1);
        for (_, range) in &mut self.g.symbols {
            *range = SymbolRange { min, max: 64 };
        }
        for _ in 0..self.r.range(3, 10) {
            x = self.layer(x).unwrap_or(x);
            if self.r.chance(8) {
                let floats: Vec<ValueId> = self.seen.iter().copied().filter(|v| self.g.fact(*v).dtype.is_float()).collect();
                x = *self.r.pick(&floats);
            }
        }
        let mut ends = vec![x];
        while self.r.chance(30) {
            ends.push(self.other());
        }
        for v in ends {
            if self.g.producer(v).is_some() {
                let name = format!("y{}", self.g.outputs().len());
                self.g.add_output(&name, v);
            }
        }
        self.g
    }
}

/// Inputs for every symbol being `size`.
fn inputs(g: &Graph, size: i64, seed: u64) -> Vec<Tensor> {
    let mut r = Rng::new(seed);
    let binding: Binding = g
        .symbols
        .iter()
        .map(|(name, range)| (name.clone(), size.clamp(range.min, range.max.max(range.min))))
        .collect();
    let one = |v: &ValueId| {
        let fact = g.fact(*v);
        let extent = |d: &Dim| cameo_ir::graph::bind_shape(std::slice::from_ref(d), &|n| binding.get(n).copied()).map_or(1, |s| s[0]);
        let shape: Vec<usize> = fact.shape.iter().map(extent).collect();
        elements(&mut r, fact.dtype, &shape, None)
    };
    g.inputs().iter().map(one).collect()
}

/// Equal wherever the first is finite, but for reordered arithmetic.
fn close(want: &Tensor, got: &Tensor) -> bool {
    let (w, g) = (want.to_f64(), got.to_f64());
    let tolerance = if want.dtype() == DType::F64 { 1e-6 } else { 1e-3 };
    let largest = w.iter().filter(|x| x.is_finite()).fold(1.0f64, |a, x| a.max(x.abs()));
    let near = |(a, b): (&f64, &f64)| !a.is_finite() || a == b || (a - b).abs() <= tolerance * largest;
    want.dtype() == got.dtype() && want.shape() == got.shape() && w.iter().zip(&g).all(near)
}

/// Whether errors of a few roundings stay small.
fn stable(g: &Graph, inputs: &[Tensor], want: &[Tensor]) -> bool {
    let mut r = Rng::new(1);
    let mut odd = false;
    (0..3).all(|_| {
        let disturbed = interp::run_disturbed(g, inputs, &mut |_, t| {
            let error = match t.dtype() {
                DType::F32 => 2f64.powi(-20),
                DType::F64 => 2f64.powi(-40),
                _ => return t,
            };
            // Zero times infinity, or too large for the tolerance.
            odd |= t.to_f64().iter().any(|x| x.is_nan() || (x.is_finite() && x.abs() > 1e30));
            let off: Vec<f64> = t.to_f64().iter().map(|x| x * (1.0 + error * r.range(-1, 1) as f64)).collect();
            Tensor::from_f64(t.dtype(), t.shape(), off)
        });
        disturbed.is_ok_and(|d| want.iter().zip(&d).all(|(w, d)| close(w, d)))
    }) && !odd
}

/// What is wrong with what became of `before`.
fn wrong(before: &Graph, after: &Graph) -> Option<String> {
    if let Err(errors) = verify(after) {
        return Some(format!("the verifier says {}", errors[0]));
    }
    let sizes: &[i64] = if before.symbols.is_empty() { &[1, 1] } else { &[0, 1, 2, 3] };
    for (seed, size) in sizes.iter().enumerate() {
        let inputs = inputs(before, *size, seed as u64);
        let Ok(want) = interp::run(before, &inputs) else { continue };
        let got = match interp::run(after, &inputs) {
            Ok(got) => got,
            Err(e) => return Some(format!("of size {size} it fails: {e}")),
        };
        let off = want.iter().zip(&got).position(|(w, g)| !close(w, g));
        if let Some(i) = off
            && stable(before, &inputs, &want)
        {
            return Some(format!(
                "of size {size} output {i} is {:?}\nnot {:?}",
                got[i].to_f64(),
                want[i].to_f64()
            ));
        }
    }
    None
}

/// One pass, or all of them where there is no name; adds the rules that apply.
fn passed(g: &Graph, pass: &str, rules: &mut BTreeSet<(&'static str, String)>) -> Result<Graph, String> {
    let mut note = |report: &Report| {
        for e in report.events.iter().filter(|e| e.outcome == Outcome::Applied) {
            rules.insert((e.pass, e.detail.clone()));
        }
    };
    let mut after = g.clone();
    let run = || {
        if let Some(pass) = cameo_passes::by_name(pass) {
            note(&cameo_passes::run(pass, &mut after));
            return Ok(after);
        }
        let options = cameo::Options {
            verify: true,
            ..cameo::Options::default()
        };
        let done = pipeline::optimize(&mut after, &options, &mut |event| {
            if let Event::End(_, Product::Graph(_, Some(report))) = event {
                note(report);
            }
        });
        done.map(|()| after).map_err(|e| e.to_string())
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("it panics".into()))
}

fn problem(g: &Graph, pass: &str, rules: &mut BTreeSet<(&'static str, String)>) -> Option<String> {
    match passed(g, pass, rules) {
        Ok(after) => wrong(g, &after),
        Err(e) => Some(e),
    }
}

#[test]
fn networks_keep_their_meaning() {
    let mut counts: BTreeMap<(&'static str, String), usize> = BTreeMap::new();
    let mut found: BTreeMap<&str, Vec<(u64, String)>> = BTreeMap::new();
    let (mut all, mut finite) = (0, 0);
    for seed in 0..cases() {
        let g = Builder::new(seed ^ 0x0e75_0000).network();
        if g.outputs().is_empty() || verify(&g).is_err() || interp::run(&g, &inputs(&g, 2, 0)).is_err() {
            continue;
        }
        all += 1;
        let ends = interp::run(&g, &inputs(&g, 2, 0)).unwrap_or_default();
        finite += usize::from(ends.iter().flat_map(Tensor::to_f64).all(f64::is_finite));
        let mut rules = BTreeSet::new();
        for pass in ALONE.iter().copied().chain(["all"]) {
            let Some(what) = problem(&g, pass, &mut rules) else { continue };
            let seen = found.entry(pass).or_default();
            let small = match seen.len() < 3 {
                true => shrink_within(&g, 300, &mut |g| problem(g, pass, &mut BTreeSet::new()).is_some()),
                false => g.clone(),
            };
            let what = problem(&small, pass, &mut BTreeSet::new()).unwrap_or(what);
            let after = passed(&small, pass, &mut BTreeSet::new()).map_or_else(|e| e, |g| text::print(&g));
            seen.push((seed, format!("{what}\n{}\nbecame\n{after}", text::print(&small))));
        }
        for rule in rules {
            *counts.entry(rule).or_default() += 1;
        }
    }
    println!("{all} networks, {} of them without infinities", finite);
    for ((pass, detail), n) in &counts {
        println!("{n:6} {pass}: {detail}");
    }
    for (pass, all) in &found {
        let seeds: Vec<u64> = all.iter().map(|(seed, _)| *seed).collect();
        println!("{pass} is wrong {} times: {seeds:?}", all.len());
        for (seed, text) in all.iter().take(3) {
            println!("--- {pass}, network {seed}: {text}");
        }
    }
    assert!(found.is_empty(), "wrong results");
    for (pass, detail, least) in RULES {
        let n = counts.get(&(*pass, (*detail).to_owned())).copied().unwrap_or(0);
        assert!(n * 1000 >= least * all, "{pass}: {detail}: {n} of {all}");
    }
}
