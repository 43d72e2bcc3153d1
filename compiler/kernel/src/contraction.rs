//! Building contraction kernels: which operand is packed, which iterator goes into lanes, where the epilogue writes.

use cameo_ir::structured::{Body, Expr};
use cameo_ir::{Bounds, DType, Dim, Origin, Sym, ValueId};

use crate::build::{Builder, Draft};
use crate::classify::Factor;
use crate::expand::LowerError;
use crate::group::Group;
use crate::nest::guards;
use crate::program::{ACC, BOperand, Buffer, Contraction, KernelBody, Operand, Pack, Store, Weight};
use crate::select;

/// How much fuller lanes must be to be worth it that the elements of operand A's rows are apart in memory.
const FULLER: f64 = 1.5;

/// A factor with its views followed.
pub(crate) struct Side {
    pub value: ValueId,
    pub constant: bool,
    pub index: Vec<Dim>,
    pub fill: bool,
}

impl Side {
    pub fn uses(&self, iter: usize) -> bool {
        self.index.iter().any(|d| d.uses(&Sym::Iter(iter as u32)))
    }
}

impl Builder<'_> {
    fn side(&mut self, g: &Group, f: &Factor, extents: &[Dim]) -> Result<Side, LowerError> {
        let v = self.info.graph.node(g.seed).inputs[f.operand as usize].unwrap_or(ValueId(0));
        let constant = self.info.constant[v.0 as usize];
        if constant || self.placed.contains_key(&v) {
            return Ok(Side {
                value: v,
                constant,
                index: f.index.clone(),
                fill: f.fill,
            });
        }
        let (mut base, mut index, mut padded) = (v, f.index.clone(), true);
        while let Some((src, map)) = self.info.view(base) {
            padded &= !f.fill || self.info.keeps_padding(base, src, &map, &index, extents);
            index = map.iter().map(|d| d.at(&index)).collect();
            base = src;
        }
        if !self.placed.contains_key(&base) || !padded {
            self.materialize(v)?;
            return Ok(Side {
                value: v,
                constant,
                index: f.index.clone(),
                fill: f.fill,
            });
        }
        Ok(Side {
            value: base,
            constant,
            index,
            fill: f.fill,
        })
    }

    pub(crate) fn side_buffer(&self, s: &Side) -> Buffer {
        match self.placed.get(&s.value) {
            Some(p) => self.buffer_of(s.value, &p.order),
            None => self.buffer_of(s.value, &(0..self.info.graph.fact(s.value).rank()).collect::<Vec<_>>()),
        }
    }

    /// Whether a nest with reductions along rows computes the value.
    fn written_by_rows(&self, v: ValueId) -> bool {
        let kernel = self.kernel_of.get(&v).and_then(|k| self.kernels.list.get(*k));
        let body = kernel.map(|k| &k.body);
        matches!(body, Some(KernelBody::Nest(n)) if !n.row.is_empty())
    }

    /// Builds the kernel of a contraction group.
    pub fn contraction(&mut self, g: &Group) -> Result<(), LowerError> {
        let c = self.info.loops[&g.seed][0].clone();
        let inputs = self.info.graph.node(g.seed).inputs.clone();
        let out = self.info.graph.node(g.seed).outputs[0];
        let Some([f0, f1]) = self.info.factors(g.seed) else {
            return Err(self.error(out, "internal: not a contraction".into()));
        };
        let (s0, s1) = (self.side(g, &f0, &c.extents)?, self.side(g, &f1, &c.extents)?);
        let bounds = Bounds::of(&c.extents);
        let linear = |b: &Self, s: &Side| bounds.simplify(&b.side_buffer(s).offset(&s.index));
        let coefficient = |d: &Dim, i: usize| d.affine_in(&Sym::Iter(i as u32)).map(|(c, _)| c);
        let own = |x: &Side, y: &Side| -> Vec<usize> {
            (0..c.parallel)
                .filter(|i| !c.extents[*i].is_one() && x.uses(*i) && !y.uses(*i))
                .collect()
        };

        // Which side has the lanes.
        let wish = self.wished_order(*g.exits.first().unwrap_or(&out));
        let first_is_b = match (s0.constant, s1.constant) {
            (true, false) | (false, true) => {
                let (w, x) = if s0.constant { (&s0, &s1) } else { (&s1, &s0) };
                let at = linear(self, x);
                let k_unit = (c.parallel..c.extents.len()).any(|i| coefficient(&at, i).is_some_and(|c| c.is_one()));
                let lane = own(x, w)
                    .into_iter()
                    .find(|i| coefficient(&at, *i).is_some_and(|c| c.is_one()));
                let columns = own(w, x);
                let fuller = |lane: usize| {
                    let [most, least] = [
                        columns
                            .iter()
                            .map(|i| select::lanes_used(self.target.plan(), &c.extents[*i]))
                            .fold(0.0, f64::max),
                        select::lanes_used(self.target.plan(), &c.extents[lane]),
                    ];
                    most > FULLER * least
                };
                let weight_is_b = !columns.is_empty() && (k_unit || x.fill || lane.is_none_or(fuller));
                s0.constant == weight_is_b
            }
            // Only rows of A are checked against padding.
            _ if s0.fill || s1.fill => s1.fill,
            _ => {
                // The side that owns the innermost axis of the output.
                let order = wish.clone().unwrap_or_else(|| (0..c.store.len()).collect());
                let inner = order.iter().rev().find_map(|a| {
                    (0..c.parallel).find(|i| !c.extents[*i].is_one() && c.store[*a].uses(&Sym::Iter(*i as u32)))
                });
                inner.is_some_and(|i| s0.uses(i) && !s1.uses(i))
            }
        };
        let columns = |first_is_b: bool| {
            let (x, y, fx, fy) = if first_is_b {
                (&s0, &s1, &f0, &f1)
            } else {
                (&s1, &s0, &f1, &f0)
            };
            let repeated = (0..c.parallel).any(|i| !c.extents[i].is_one() && fx.uses(i) && !fy.uses(i));
            !own(x, y).is_empty() || repeated
        };
        // The innermost axis may be one that both have, and only the other side columns.
        let padded = if first_is_b { s1.fill } else { s0.fill };
        let first_is_b = first_is_b ^ (!columns(first_is_b) && columns(!first_is_b) && !padded);
        let (mut a, b) = if first_is_b { (s1, s0) } else { (s0, s1) };
        let mut n_candidates = own(&b, &a);
        if n_candidates.is_empty() {
            // What the view under B repeats B along: columns a stride of 0 apart.
            let (fa, fb) = if first_is_b { (&f1, &f0) } else { (&f0, &f1) };
            n_candidates = (0..c.parallel)
                .filter(|i| !c.extents[*i].is_one() && fb.uses(*i) && !fa.uses(*i))
                .collect();
        }
        let b_at = linear(self, &b);
        // Columns that are consecutive in memory, or, packed, those that leave the fewest lanes empty.
        let used = |i: &usize| select::lanes_used(self.target.plan(), &c.extents[*i]);
        let n = n_candidates
            .iter()
            .copied()
            .find(|i| !b.constant && coefficient(&b_at, *i).is_some_and(|c| c.is_one()))
            .or_else(|| n_candidates.iter().copied().max_by(|x, y| used(x).total_cmp(&used(y))));
        let Some(n) = n else {
            return Err(self.error(out, "internal: a contraction without columns".into()));
        };

        // Where each exit goes: the axis of n innermost, unless readers wish otherwise.
        let mut exits = vec![];
        for v in &g.exits {
            let coords = &g.coords[v];
            let rank = coords.len();
            let natural: Vec<usize> = (0..rank).collect();
            let lane_axis = coords.iter().position(|d| d.uses(&Sym::Iter(n as u32)));
            let lane_last = |o: &[usize]| lane_axis.is_none() || o.last().copied() == lane_axis;
            let order = match self.wished_order(*v).filter(|w| lane_last(w)) {
                Some(w) => w,
                None if lane_last(&natural) => natural,
                None => natural
                    .into_iter()
                    .filter(|x| Some(*x) != lane_axis)
                    .chain(lane_axis)
                    .collect(),
            };
            let storage = self.place(*v, order.clone());
            exits.push((*v, storage, order));
        }

        if let Some(w) = self.windows(&c, &a, &b, n) {
            return self.winograd(g, &c, &a, &w, &exits);
        }

        // Roles, in the memory order of the first exit.
        let memory: Vec<usize> = exits.first().map_or_else(
            || (0..c.parallel).collect(),
            |(v, _, order)| {
                let coords = &g.coords[v];
                let mut seq: Vec<usize> = vec![];
                for x in order {
                    seq.extend(
                        (0..c.parallel)
                            .filter(|i| coords[*x].uses(&Sym::Iter(*i as u32)) && !seq.contains(i))
                            .collect::<Vec<_>>(),
                    );
                }
                let missing: Vec<usize> = (0..c.parallel).filter(|i| !seq.contains(i)).collect();
                missing.into_iter().chain(seq).collect()
            },
        );
        let (mut batch, mut rows): (Vec<usize>, Vec<usize>) = memory
            .iter()
            .copied()
            .filter(|i| *i != n && !c.extents[*i].is_one())
            .partition(|i| b.uses(*i));
        let mut reduced: Vec<usize> = (c.parallel..c.extents.len()).collect();
        let lines = self.lines(&c, &a, &rows, n)?;
        if let Some(l) = &lines {
            // One line after the other: their points are evenly apart.
            batch = memory
                .iter()
                .copied()
                .filter(|i| batch.contains(i) || rows.contains(i))
                .collect();
            batch.retain(|i| *i != l.x);
            rows = vec![l.x];
            reduced.retain(|i| *i != l.tap);
            reduced.insert(0, l.tap);
            a.fill = false;
            a.index = l.index.clone();
        }
        // Rows that a nest wrote are taken in its order, so that both can be links of a chain.
        if lines.is_none() && self.written_by_rows(a.value) {
            let a_at = linear(self, &a);
            let step = |i: &usize| coefficient(&a_at, *i).map(|c| select::nominal(&c));
            if rows.iter().all(|i| step(i).is_some()) {
                rows.sort_by_key(|i| std::cmp::Reverse(step(i)));
            }
        }
        let nb = batch.len();
        let mut sub = vec![Dim::ZERO; c.extents.len()];
        for (j, i) in batch.iter().enumerate() {
            sub[*i] = Dim::iter(j);
        }
        let mut m = Dim::ONE;
        for i in rows.iter().rev() {
            let t = Dim::iter(nb).floor_div(&m);
            // The outermost row iterator needs no remainder.
            sub[*i] = if Some(i) == rows.first() {
                t
            } else {
                t.modulo(&c.extents[*i])
            };
            m = m * c.extents[*i].clone();
        }
        sub[n] = Dim::iter(nb + 1);
        let mut k: Vec<Dim> = reduced.iter().map(|i| c.extents[*i].clone()).collect();
        for (j, i) in reduced.iter().enumerate() {
            sub[*i] = Dim::iter(nb + 2 + j);
        }
        // Panels follow the iterators as they are before any merging, which keeps their order.
        let (whole_sub, whole_k) = (sub.clone(), k.clone());
        let batch_extents: Vec<Dim> = batch.iter().map(|i| c.extents[*i].clone()).collect();
        let head: Vec<Dim> = batch_extents
            .iter()
            .cloned()
            .chain([m.clone(), c.extents[n].clone()])
            .collect();
        let at = |index: &[Dim], sub: &[Dim], k: &[Dim]| -> Vec<Dim> {
            let extents: Vec<Dim> = head.iter().chain(k).cloned().collect();
            let bounds = Bounds::of(&extents);
            index.iter().map(|d| bounds.simplify(&d.at(sub))).collect()
        };

        // Reduction iterators that walk both operands together become one.
        let a_buffer = lines
            .as_ref()
            .map_or_else(|| self.side_buffer(&a), |l| l.buffer.clone());
        let b_buffer = self.side_buffer(&b);
        let mut j = k.len();
        while j >= 2 {
            let (x, y) = (nb + 2 + j - 2, nb + 2 + j - 1);
            let extents: Vec<Dim> = head.iter().chain(&k).cloned().collect();
            let bounds = Bounds::of(&extents);
            let a_at = at(&a.index, &sub, &k);
            let guarded = a.fill
                && guards(&a_buffer, &a_at, &extents)
                    .iter()
                    .any(|(d, _)| d.uses(&Sym::Iter(x as u32)) || d.uses(&Sym::Iter(y as u32)));
            let together = |d: &Dim| {
                let d = bounds.simplify(d);
                match (coefficient(&d, x), coefficient(&d, y)) {
                    (Some(cx), Some(cy)) => cx == cy * k[j - 1].clone(),
                    _ => false,
                }
            };
            let same_b = b.constant || together(&b_buffer.offset(&at(&b.index, &sub, &k)));
            if !guarded && together(&a_buffer.offset(&a_at)) && same_b {
                let inner = k[j - 1].clone();
                let replace: Vec<Dim> = (0..nb + 2 + k.len())
                    .map(|i| match i {
                        i if i < x => Dim::iter(i),
                        i if i == x => Dim::iter(x).floor_div(&inner),
                        i if i == y => Dim::iter(x).modulo(&inner),
                        i => Dim::iter(i - 1),
                    })
                    .collect();
                sub.iter_mut().for_each(|s| *s = s.at(&replace));
                let merged = k[j - 2].clone() * inner;
                k.splice(j - 2..j, [merged]);
            }
            j -= 1;
        }
        // The innermost reduction runs over whole rows: what decides whether a read is inside must not depend on it.
        let inner = Sym::Iter((nb + 1 + k.len()) as u32);
        let extents: Vec<Dim> = head.iter().chain(&k).cloned().collect();
        if a.fill
            && guards(&a_buffer, &at(&a.index, &sub, &k), &extents)
                .iter()
                .any(|(d, _)| d.uses(&inner))
        {
            k.push(Dim::ONE);
        }
        let extents: Vec<Dim> = head.iter().chain(&k).cloned().collect();
        let bounds = Bounds::of(&extents);
        let k_iters = nb + 2..extents.len();
        let affine = |d: &Dim, iters: std::ops::Range<usize>| {
            let d = bounds.simplify(d);
            iters
                .clone()
                .all(|i| coefficient(&d, i).is_some_and(|c| iters.clone().all(|o| !c.uses(&Sym::Iter(o as u32)))))
        };

        let mut d = Draft::new(extents.clone());
        // A must step evenly along the reduction; otherwise it is copied first.
        let mut a_index = at(&a.index, &sub, &k);
        let mut a_value = a.value;
        let mut a_buffer = a_buffer;
        if !affine(&a_buffer.offset(&a_index), k_iters.clone()) {
            let v = inputs[if first_is_b { f1.operand } else { f0.operand } as usize].unwrap_or(a.value);
            if v == a.value {
                return Err(self.error(out, "operand A of the contraction has no affine addresses".into()));
            }
            self.materialize(v)?;
            a_value = v;
            a_index = at(if first_is_b { &f1.index } else { &f0.index }, &sub, &k);
            a_buffer = self.buffer_of(v, &self.placed[&v].order);
        }
        let a_storage = lines.map_or_else(|| self.stored(a_value).0, |l| l.storage);
        let a_operand = Operand {
            buffer: d.buffer(a_storage, a_buffer),
            index: a_index,
        };

        let mut schedule = select::contraction(self.target, &m, &c.extents[n], &k);
        if let Some(tuning) = &self.choices.tuning {
            tuning.apply(&mut schedule, self.target, &m, &c.extents[n], &k);
        }
        let b_index = at(&b.index, &sub, &k);
        let b_linear = bounds.simplify(&b_buffer.offset(&b_index));
        let b_operand = if b.constant {
            let extents: Vec<Dim> = head.iter().chain(&whole_k).cloned().collect();
            let b_linear = Bounds::of(&extents).simplify(&b_buffer.offset(&at(&b.index, &whole_sub, &whole_k)));
            let stride = |i: usize| coefficient(&b_linear, i).and_then(|c| c.as_const());
            let static_extent = |i: usize| extents[i].as_const().and_then(|e| usize::try_from(e).ok());
            let pair = |i: usize| Some((static_extent(i)?, stride(i)?));
            let uses: Vec<bool> = (0..nb).map(|i| b_linear.uses(&Sym::Iter(i as u32))).collect();
            let k_iters = nb + 2..extents.len();
            let pack = (|| {
                let batch = (0..nb).filter(|i| uses[*i]).map(pair).collect::<Option<Vec<_>>>()?;
                let mut offset = b_linear.clone();
                for i in 0..extents.len() {
                    offset = offset.affine_in(&Sym::Iter(i as u32))?.1;
                }
                let panel = schedule.panel;
                let (n, k) = (pair(nb + 1)?, k_iters.clone().map(pair).collect::<Option<Vec<_>>>()?);
                Some(Pack {
                    batch,
                    n,
                    k,
                    offset: offset.as_const()?,
                    windows: None,
                    panel,
                })
            })();
            let Some(pack) = pack else {
                return Err(self.error(out, "the weight of the contraction has no affine addresses".into()));
            };
            let elements = pack.batch.iter().map(|b| b.0).product::<usize>()
                * pack.n.0.div_ceil(pack.panel)
                * pack.panel
                * pack.k.iter().map(|k| k.0).product::<usize>();
            let weight = Weight {
                value: b.value,
                dtype: DType::F32,
                pack: Some(pack),
                elements,
            };
            let storage = self.weight(weight);
            let flat = Buffer {
                dtype: DType::F32,
                strides: vec![Dim::ONE],
                extents: vec![Dim::from(elements)],
            };
            BOperand::Packed {
                buffer: d.buffer(storage, flat),
                batch: uses,
            }
        } else {
            let all = nb + 1..extents.len();
            let (value, buffer, index) = if affine(&b_linear, all.clone()) {
                (b.value, b_buffer, b_index)
            } else {
                let f = if first_is_b { &f0 } else { &f1 };
                let v = inputs[f.operand as usize].unwrap_or(b.value);
                if v == b.value {
                    return Err(self.error(out, "operand B of the contraction has no affine addresses".into()));
                }
                self.materialize(v)?;
                (v, self.buffer_of(v, &self.placed[&v].order), at(&f.index, &sub, &k))
            };
            let (storage, _) = self.stored(value);
            let unit = coefficient(&bounds.simplify(&buffer.offset(&index)), nb + 1).is_some_and(|c| c.is_one());
            let operand = Operand {
                buffer: d.buffer(storage, buffer),
                index,
            };
            if unit {
                BOperand::Direct(operand)
            } else {
                BOperand::Gathered(operand)
            }
        };

        let (origin, stores) = self.epilogue(&mut d, g, &sub, &exits)?;
        let flops = Dim::product(&extents) * Dim::from(2i64);
        let body = KernelBody::Contraction(Contraction {
            batch: batch_extents,
            m,
            n: c.extents[n].clone(),
            k,
            a: a_operand,
            a_fill: a.fill,
            b: b_operand,
            epilogue: std::mem::replace(&mut d.body, Body::new()),
            stores,
            schedule,
        });
        let values = exits.iter().map(|(v, s, _)| (*v, *s)).collect();
        self.push(d.buffers, d.storages, body, flops.clone(), flops, origin, values);
        Ok(())
    }

    /// The members after the sum, at the kernel's iterators, of which `sub` are those of the seed's loops.
    pub(crate) fn epilogue(
        &mut self,
        d: &mut Draft,
        g: &Group,
        sub: &[Dim],
        exits: &[(ValueId, usize, Vec<usize>)],
    ) -> Result<(Origin, Vec<Store>), LowerError> {
        let acc = d.body.push(Expr::Load {
            operand: ACC,
            dtype: DType::F32,
            index: vec![],
            fill: None,
        });
        d.own.insert(self.info.graph.node(g.seed).outputs[0], acc);
        let mut origin = Origin::default();
        for node in &g.members {
            origin = origin.merge(&self.info.graph.node(*node).origin);
            if *node == g.seed {
                continue;
            }
            let u = self.info.loops[node][0].clone();
            let iters: Vec<Dim> = g.iters[node].iter().map(|x| x.at(sub)).collect();
            let root = self.inline(d, *node, &u, &iters)?;
            let root = d.body.cast(u.dtype, root);
            d.own.insert(self.info.graph.node(*node).outputs[0], root);
        }
        let mut stores = vec![];
        for (v, storage, order) in exits {
            let buffer = self.buffer_of(*v, order);
            let buffer = d.buffer(*storage, buffer);
            let index: Vec<Dim> = g.coords[v].iter().map(|x| x.at(sub)).collect();
            stores.push(Store {
                buffer,
                index: d.simplify(&index),
                root: d.own[v],
            });
        }
        Ok((origin, stores))
    }
}
