//! What several layers make together.

use std::sync::Arc;

use cameo_ir::ops::scan::Parts;
use cameo_ir::{Attr, DType, Dim, Fact, Op, Origin, Tensor, ValueId};

use super::layers::Builder;

impl Builder {
    /// What softmax or attention adds to logits; the last axes are `rows` and `columns`.
    pub fn mask(&mut self, heads: usize, rows: &Dim, columns: &Dim) -> Option<ValueId> {
        let number = |d: &Dim| d.as_const().and_then(|n| usize::try_from(n).ok());
        let (r, c) = (
            number(rows).filter(|_| self.r.chance(60)).unwrap_or(1),
            number(columns)?,
        );
        let shape = match self.r.range(0, 3) {
            0 => vec![r, c],
            1 => vec![1, 1, r, c],
            _ => vec![1, heads, r, c],
        };
        let n: usize = shape.iter().product();
        if self.depth == 0 && self.r.chance(25) {
            let dims: Vec<Dim> = shape.iter().map(|d| Dim::from(*d)).collect();
            let dtype = if self.r.chance(30) { DType::Bool } else { self.dtype };
            let name = format!("mask{}", self.g.inputs().len());
            return Some(self.g.add_input(&name, Fact::new(dtype, dims)));
        }
        if self.r.chance(40) {
            let bits = self.choice(n);
            let t = Tensor::bool(&shape, bits);
            return Some(self.g.add_weight("", t));
        }
        let never = *self.r.pick(&[f64::NEG_INFINITY, -1e9, -1e4, 0.0]);
        let all: Vec<f64> = (0..n)
            .map(|_| {
                if self.r.chance(30) {
                    never
                } else {
                    self.r.range(-8, 8) as f64 / 8.0
                }
            })
            .collect();
        let t = Tensor::from_f64(self.dtype, &shape, all);
        Some(self.g.add_weight("", t))
    }

    pub fn attention(&mut self, x: ValueId) -> Option<ValueId> {
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
        let mask = if self.r.chance(40) {
            self.mask(heads, &fact.shape[1], &fact.shape[1])
        } else {
            None
        };
        let mut attrs = vec![("is_causal", Attr::Int(i64::from(self.r.chance(25))))];
        if self.r.chance(10) {
            attrs.push(("left_window_size", Attr::Int(1)));
        }
        if self.r.chance(10) {
            attrs.push(("softcap", Attr::Float(2.0)));
        }
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
            self.op(
                "Reshape",
                &[("shape", Attr::Dims(shape)), ("allowzero", Attr::Int(1))],
                &[y],
            )?
        };
        match self.r.chance(70) {
            true => self.dense(y),
            false => Some(y),
        }
    }

    /// A layer whose results are masked, and the one behind it.
    pub fn masked(&mut self, x: ValueId) -> Option<ValueId> {
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
    pub fn scaled(&mut self, x: ValueId) -> Option<ValueId> {
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

    pub fn sum(&mut self, all: &[ValueId]) -> Option<ValueId> {
        match *all {
            [a, b] if self.g.fact(a) == self.g.fact(b) => self.op("Add", &[], &[a, b]),
            _ => all.last().copied(),
        }
    }

    /// Products along an axis, views and other products between them.
    pub fn apart(&mut self, x: ValueId) -> Option<ValueId> {
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
    pub fn hot(&mut self, x: ValueId, depth: usize) -> Option<ValueId> {
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

    pub fn lookup(&mut self) -> Option<ValueId> {
        let floats = self
            .g
            .inputs()
            .iter()
            .copied()
            .filter(|v| self.g.fact(*v).dtype.is_float());
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
    pub fn scan(&mut self, x: ValueId) -> Option<ValueId> {
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
            false => self.op(
                "ReduceMean",
                &[("axes", Attr::Dims(vec![Dim::ZERO])), ("keepdims", Attr::Int(0))],
                &[x],
            )?,
        };
        let body = Arc::new(body.g);
        let attrs = Parts {
            body: &body,
            states: 1,
            slices: 1,
            length,
        }
        .attrs();
        let inputs = vec![Some(start), Some(x)];
        let out = self
            .g
            .add_node(Op::find("cameo::Scan")?, attrs, inputs, 2, Origin::default())
            .ok()?;
        self.seen.extend(&out);
        Some(out[1])
    }

    pub fn residual(&mut self, x: ValueId) -> Option<ValueId> {
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
            let (k, n) = (
                self.extent(y, self.rank(y).checked_sub(1)?)?,
                self.extent(x, self.rank(x).checked_sub(1)?)?,
            );
            let w = self.weight(&[k, n]);
            y = self.op("MatMul", &[], &[y, w])?;
        }
        self.swapped("Add", x, y)
    }

    /// Convolutions of one position and of one channel in turn, a gate per channel, shuffled channels.
    pub fn inverted(&mut self, x: ValueId) -> Option<ValueId> {
        let rank = self.rank(x);
        let c = self.extent(x, 1)?;
        if !(3..=4).contains(&rank) || c == 0 {
            return None;
        }
        let point = |b: &mut Self, x: ValueId, n: usize| {
            let mut shape = vec![n, b.extent(x, 1)?];
            shape.resize(rank, 1);
            let mut inputs = vec![Some(x), Some(b.weight(&shape))];
            if b.r.chance(50) {
                inputs.push(Some(b.weight(&[n])));
            }
            Some(b.ops("Conv", &[], inputs, 1)?[0])
        };
        let wide = *self.r.pick(&[4, 6, 8]);
        let mut y = point(self, x, wide)?;
        if self.r.chance(50) {
            let [s, b, m, v] = [(); 4].map(|()| self.weight(&[wide]));
            let v = self.positive(v)?;
            y = self.op("BatchNormalization", &[], &[y, s, b, m, v])?;
        }
        if self.r.chance(70) {
            y = self.op("Relu", &[], &[y])?;
        }
        if self.r.chance(60) {
            let mut shape = vec![wide, 1];
            shape.resize(rank, 3);
            let w = self.weight(&shape);
            let attrs = [
                ("group", Attr::Int(wide as i64)),
                ("pads", Attr::Ints(vec![1; 2 * (rank - 2)])),
            ];
            y = self.op("Conv", &attrs, &[y, w])?;
        }
        if self.r.chance(40) {
            let pooled = self.op("GlobalAveragePool", &[], &[y])?;
            let hidden = self.width();
            let small = point(self, pooled, hidden)?;
            let small = self.op("Relu", &[], &[small])?;
            let gate = point(self, small, wide)?;
            let gate = self.op("Sigmoid", &[], &[gate])?;
            y = self.op("Mul", &[], &[y, gate])?;
        }
        if self.r.chance(30) {
            let shape = self.g.fact(y).shape.clone();
            let mut pairs = shape.clone();
            pairs.splice(1..2, [Dim::from(2usize), Dim::from(wide / 2)]);
            let to = |shape: Vec<Dim>| [("shape", Attr::Dims(shape)), ("allowzero", Attr::Int(1))];
            y = self.op("Reshape", &to(pairs), &[y])?;
            let mut perm: Vec<i64> = (0..=rank as i64).collect();
            perm.swap(1, 2);
            y = self.op("Transpose", &[("perm", Attr::Ints(perm))], &[y])?;
            y = self.op("Reshape", &to(shape), &[y])?;
        }
        if self.r.chance(20) {
            return Some(y);
        }
        let z = point(self, y, c)?;
        match self.g.fact(z) == self.g.fact(x) && self.r.chance(60) {
            true => self.op("Add", &[], &[z, x]),
            false => Some(z),
        }
    }

    /// Attention and a layer behind it, with normalisations before or after.
    pub fn block(&mut self, x: ValueId) -> Option<ValueId> {
        let first = self.r.chance(50);
        let mut x = x;
        for kind in 0..2 {
            let mut y = if first { self.norm(x)? } else { x };
            y = if kind == 0 { self.attention(y) } else { self.masked(y) }?;
            if self.g.fact(y) != self.g.fact(x) {
                let (k, n) = (self.extent(y, 2)?, self.extent(x, 2)?);
                let w = self.weight(&[k, n]);
                y = self.op("MatMul", &[], &[y, w])?;
            }
            x = self.swapped("Add", x, y)?;
            x = if first { x } else { self.norm(x)? };
        }
        Some(x)
    }

    /// Several parts of one value, each with a layer of its own.
    pub fn parts(&mut self, x: ValueId) -> Option<ValueId> {
        let mut out = None;
        for _ in 0..self.r.range(1, 3) {
            let part = match self.r.range(0, 3) {
                0 => self.gather(x),
                1 => self.split(x),
                _ => self.slice(x),
            };
            let Some(part) = part else { continue };
            let y = if self.r.chance(50) {
                self.pointwise(part).unwrap_or(part)
            } else {
                part
            };
            out = match out {
                Some(z) if self.r.chance(70) => self.op("Add", &[], &[y, z]).or(Some(y)),
                _ => Some(y),
            };
            if self.r.chance(30) {
                self.ends.push(y);
            }
        }
        out
    }
}
