//! Layers that only move elements, leave some out or add some.

use cameo_ir::{Attr, Dim, Tensor, ValueId};

use super::layers::Builder;

impl Builder {
    pub fn transpose(&mut self, x: ValueId) -> Option<ValueId> {
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

    pub fn reshape(&mut self, x: ValueId) -> Option<ValueId> {
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
        self.op(
            "Reshape",
            &[("shape", Attr::Dims(shape)), ("allowzero", Attr::Int(1))],
            &[x],
        )
    }

    pub fn join(&mut self, x: ValueId) -> Option<ValueId> {
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
                    self.op(
                        "ConstantOfShape",
                        &[("shape", shape), ("value", Attr::Tensor(zero))],
                        &[],
                    )?
                }
                _ => self.like(x)?,
            };
            parts.insert(self.r.range(0, parts.len() as i64) as usize, part);
        }
        self.op("Concat", &[at], &parts)
    }

    pub fn split(&mut self, x: ValueId) -> Option<ValueId> {
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

    pub fn pad(&mut self, x: ValueId) -> Option<ValueId> {
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

    pub fn repeat(&mut self, x: ValueId) -> Option<ValueId> {
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

    pub fn slice(&mut self, x: ValueId) -> Option<ValueId> {
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

    pub fn gather(&mut self, x: ValueId) -> Option<ValueId> {
        let axis = self.axis(x);
        let n = self.extent(x, axis);
        let shape = *self.r.pick::<&[usize]>(&[&[], &[], &[1], &[2], &[3], &[2, 2], &[0]]);
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
}
