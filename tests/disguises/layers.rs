//! Networks that grow by guessing: layers of which weights and masks are zero in places.

use std::collections::BTreeMap;
use std::sync::Arc;

use cameo_ir::random::Rng;
use cameo_ir::{Attr, DType, Dim, Fact, Graph, Op, Origin, SymbolRange, Tensor, ValueId};

/// A network that grows. Whatever does not fit is left out.
pub struct Builder {
    pub g: Graph,
    pub r: Rng,
    pub dtype: DType,
    /// Values that other layers may read as well.
    pub seen: Vec<ValueId>,
    weights: Vec<ValueId>,
    pub depth: usize,
    /// Values that become outputs.
    pub ends: Vec<ValueId>,
}

const UNARY: &[&str] = &[
    "Relu",
    "Relu",
    "Gelu",
    "Sigmoid",
    "Tanh",
    "Neg",
    "Abs",
    "Erf",
    "HardSwish",
    "LeakyRelu",
    "Softplus",
    "Sin",
    "Cos",
    "Identity",
    "Swish",
    "Elu",
    "Softsign",
    "Floor",
    "Sign",
];

const EINSUMS: &[&str] = &[
    "ij,jk->ik",
    "ij,kj->ki",
    "ij,j->ij",
    "ij,j->i",
    "bij,jk->bik",
    "bij,ik->bkj",
    "bij,jhd->bhid",
    "bij,ij->bi",
    "bhid,hdk->bik",
    "bhid,hk->bkid",
    "bchw,cd->bdhw",
    "bij,kj->ibk",
    "bij,j->bji",
    "bij->bj",
];

impl Builder {
    pub fn new(seed: u64) -> Self {
        let mut r = Rng::new(seed);
        let dtype = if r.chance(50) { DType::F64 } else { DType::F32 };
        Self {
            g: Graph::new("g"),
            r,
            dtype,
            seen: vec![],
            weights: vec![],
            depth: 0,
            ends: vec![],
        }
    }

    pub fn op(&mut self, op: &str, attrs: &[(&str, Attr)], inputs: &[ValueId]) -> Option<ValueId> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().map(|v| Some(*v)).collect();
        self.ops(op, attrs, inputs, 1).map(|all| all[0])
    }

    pub fn ops(
        &mut self,
        op: &str,
        attrs: &[(&str, Attr)],
        inputs: Vec<Option<ValueId>>,
        n: usize,
    ) -> Option<Vec<ValueId>> {
        let attrs = attrs.iter().map(|(k, v)| (Arc::from(*k), v.clone())).collect();
        let out = self
            .g
            .add_node(Op::find(op)?, attrs, inputs, n, Origin::default())
            .ok()?;
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

    pub fn rank(&self, v: ValueId) -> usize {
        self.g.fact(v).rank()
    }

    pub fn extent(&self, v: ValueId, axis: usize) -> Option<usize> {
        usize::try_from(self.g.fact(v).shape.get(axis)?.as_const()?).ok()
    }

    pub fn axis(&mut self, v: ValueId) -> usize {
        let rank = self.rank(v);
        self.r.range(0, rank as i64 - 1).max(0) as usize
    }

    /// As attributes say it: from either end.
    pub fn signed(&mut self, axis: usize, rank: usize) -> i64 {
        if self.r.chance(50) {
            axis as i64
        } else {
            axis as i64 - rank as i64
        }
    }

    pub fn width(&mut self) -> usize {
        *self.r.pick(&[1, 2, 3, 4, 4, 4, 6, 6, 8, 8])
    }

    /// A choice of elements of an axis: each by chance, or runs as heads are.
    pub fn choice(&mut self, extent: usize) -> Vec<bool> {
        let run = *self.r.pick(&[1, 1, 2, extent.max(2) / 2]);
        let percent = *self.r.pick(&[25, 50, 50, 75]);
        let runs: Vec<bool> = (0..extent.div_ceil(run)).map(|_| self.r.chance(percent)).collect();
        (0..extent).map(|i| runs[i / run]).collect()
    }

    pub fn tensor(&mut self, shape: &[usize]) -> Tensor {
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

    pub fn weight(&mut self, shape: &[usize]) -> ValueId {
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

    pub fn number(&mut self, x: f64) -> ValueId {
        let t = Tensor::from_f64(self.dtype, &[], [x]);
        self.g.add_weight("", t)
    }

    pub fn list(&mut self, shape: &[usize], all: &[i64]) -> ValueId {
        let t = Tensor::from_i64(DType::I64, shape, all.iter().copied());
        self.g.add_weight("", t)
    }

    /// A constant that is broadcast to `v`: one number, along one axis, or along all that are known.
    pub fn beside(&mut self, v: ValueId) -> ValueId {
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

    pub fn other(&mut self) -> ValueId {
        *self.r.clone().pick(&self.seen)
    }

    /// A weight whose elements are larger than zero.
    pub fn positive(&mut self, w: ValueId) -> Option<ValueId> {
        let t = self.g.constant(w)?;
        let all = t.to_f64().into_iter().map(|x| x.abs() + 0.25);
        let t = Tensor::from_f64(self.dtype, t.shape(), all);
        Some(self.g.add_weight("", t))
    }

    /// Another value of this shape.
    pub fn like(&mut self, v: ValueId) -> Option<ValueId> {
        let fact = self.g.fact(v).clone();
        let same: Vec<ValueId> = self.seen.iter().copied().filter(|u| *self.g.fact(*u) == fact).collect();
        (!same.is_empty()).then(|| *self.r.pick(&same))
    }

    pub fn swapped(&mut self, op: &str, a: ValueId, b: ValueId) -> Option<ValueId> {
        let all = if self.r.chance(50) { [a, b] } else { [b, a] };
        self.op(op, &[], &all)
    }

    pub fn dense(&mut self, x: ValueId) -> Option<ValueId> {
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

    pub fn left(&mut self, x: ValueId) -> Option<ValueId> {
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

    pub fn gemm(&mut self, x: ValueId) -> Option<ValueId> {
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

    pub fn conv(&mut self, x: ValueId) -> Option<ValueId> {
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
        let mut shape = if turned {
            vec![c, out / group]
        } else {
            vec![out, c / group]
        };
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

    pub fn einsum(&mut self, x: ValueId) -> Option<ValueId> {
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
            return self.op(
                "Einsum",
                &[("equation", Attr::Str(turned.into()))],
                &[inputs[1], inputs[0]],
            );
        }
        self.op("Einsum", &[("equation", Attr::Str(equation.into()))], &inputs)
    }

    pub fn pointwise(&mut self, x: ValueId) -> Option<ValueId> {
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
                let all = if self.r.chance(50) {
                    [c, x, other]
                } else {
                    [c, other, x]
                };
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

    pub fn norm(&mut self, x: ValueId) -> Option<ValueId> {
        let rank = self.rank(x);
        let axis = if self.r.chance(75) {
            rank.checked_sub(1)?
        } else {
            self.axis(x)
        };
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
                    false => self.op(
                        "GroupNormalization",
                        &[epsilon, ("num_groups", Attr::Int(groups))],
                        &[x, s, b],
                    ),
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

    pub fn reduce(&mut self, x: ValueId) -> Option<ValueId> {
        let op = *self.r.pick(&[
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
        ]);
        let axis = self.axis(x);
        let mut axes = vec![Dim::from(self.signed(axis, self.rank(x)))];
        if self.r.chance(10) {
            axes = vec![Dim::from(0usize), Dim::from(self.rank(x).checked_sub(1)?)];
            axes.dedup();
        }
        let keep = ("keepdims", Attr::Int(self.r.range(0, 1)));
        if self.r.chance(20) && self.rank(x) > 2 {
            let op = *self
                .r
                .pick(&["GlobalAveragePool", "GlobalMaxPool", "MaxPool", "AveragePool"]);
            let kernel = ("kernel_shape", Attr::Ints(vec![2; self.rank(x) - 2]));
            let attrs = if op.starts_with("Global") { vec![] } else { vec![kernel] };
            return self.op(op, &attrs, &[x]);
        }
        self.op(op, &[("axes", Attr::Dims(axes)), keep], &[x])
    }

    pub fn binary(&mut self, x: ValueId) -> Option<ValueId> {
        let y = self.like(x)?;
        let op = *self.r.pick(&["Add", "Add", "Mul", "Sub", "Max"]);
        self.op(op, &[], &[x, y])
    }

    pub fn product(&mut self, x: ValueId) -> Option<ValueId> {
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

    pub fn layer(&mut self, x: ValueId) -> Option<ValueId> {
        if !self.g.fact(x).dtype.is_float() {
            return None;
        }
        match self.r.range(0, 50) {
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
            44 | 45 => self.inverted(x),
            46 | 47 => self.parts(x),
            48 if self.rank(x) == 3 => self.block(x),
            _ => self.scan(x),
        }
    }

    pub fn network(mut self) -> Graph {
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
        let kind = self.r.range(0, 3);
        for _ in 0..self.r.range(0, 2) {
            x = match kind {
                0 if rank == 3 => self.block(x),
                0 | 1 => self.inverted(x),
                _ => self.layer(x),
            }
            .unwrap_or(x);
        }
        if kind < 2 && self.r.chance(50) {
            x = self.parts(x).unwrap_or(x);
        }
        for _ in 0..self
            .r
            .range(if kind < 2 { 0 } else { 3 }, if kind < 2 { 3 } else { 10 })
        {
            x = self.layer(x).unwrap_or(x);
            if self.r.chance(8) {
                let floats: Vec<ValueId> = self
                    .seen
                    .iter()
                    .copied()
                    .filter(|v| self.g.fact(*v).dtype.is_float())
                    .collect();
                x = *self.r.pick(&floats);
            }
        }
        let mut ends = std::mem::take(&mut self.ends);
        ends.push(x);
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
