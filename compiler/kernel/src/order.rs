//! Where values are stored and in which order of axes.
//!
//! Convolutions and products want the axis of their columns innermost, pointwise work keeps the order of what it reads,
//! and readers that see a value through one permutation get it stored that way, so that most transposes cost nothing.

use cameo_ir::{Bounds, Dim, Sym, ValueId};

use crate::build::{Builder, Draft, Placed};
use crate::classify::Class;
use crate::group::Group;
use crate::program::{Buffer, Pack, Place, Weight};

/// The axis along which the memory of a value has room for more rows than it has, and for how many.
pub(crate) type Rows = (usize, Dim);

/// The extent of an axis in memory.
pub(crate) fn memory_extent(shape: &[Dim], axis: usize, rows: Option<&Rows>) -> Dim {
    let more = rows.filter(|(a, _)| *a == axis);
    more.map_or_else(|| shape[axis].clone(), |(_, room)| room.clone())
}

impl Builder<'_> {
    /// The buffer of a value that is stored in some axis order.
    pub fn buffer_of(&self, v: ValueId, order: &[usize]) -> Buffer {
        self.buffer_with(v, order, self.rows.get(&v))
    }

    /// The buffer of a copy of a value, in memory without room for more rows.
    pub(crate) fn buffer_of_copy(&self, v: ValueId, order: &[usize]) -> Buffer {
        self.buffer_with(v, order, None)
    }

    fn buffer_with(&self, v: ValueId, order: &[usize], rows: Option<&Rows>) -> Buffer {
        let fact = self.info.graph.fact(v);
        let mut strides = vec![Dim::ONE; order.len()];
        let mut size = Dim::ONE;
        for a in order.iter().rev() {
            strides[*a] = size.clone();
            size = size * memory_extent(&fact.shape, *a, rows);
        }
        Buffer {
            dtype: fact.dtype,
            strides,
            extents: fact.shape.clone(),
        }
    }

    /// A weight whose lane axis is not its last: a copy of it in the weights section with that axis innermost.
    pub(crate) fn arranged(&mut self, d: &Draft, v: ValueId, index: &[Dim]) -> Option<(usize, Buffer)> {
        if !self.info.constant[v.0 as usize] || self.placed.contains_key(&v) {
            return None;
        }
        let lane = Sym::Iter(d.lane? as u32);
        let axis = index.iter().position(|i| i.uses(&lane))?;
        let fact = self.info.graph.fact(v).clone();
        let shape = fact.static_shape()?;
        if index[axis].as_sym() != Some(&lane) || shape[axis + 1..].iter().product::<usize>() == 1 {
            return None;
        }
        let strides = cameo_ir::index::strides(&shape);
        let others: Vec<usize> = (0..shape.len()).filter(|a| *a != axis).collect();
        let pack = Pack {
            batch: others.iter().map(|a| (shape[*a], strides[*a] as i64)).collect(),
            n: (shape[axis], strides[axis] as i64),
            k: vec![],
            offset: 0,
            panel: shape[axis],
            windows: None,
        };
        let elements = shape.iter().product();
        let storage = self.weight(Weight {
            value: v,
            dtype: fact.dtype,
            pack: Some(pack),
            elements,
        });
        let order: Vec<usize> = others.into_iter().chain([axis]).collect();
        Some((storage, self.buffer_of(v, &order)))
    }

    /// Where a view lies that shows all of a placed value, each element once, in some order of its own axes: a transpose,
    /// a reshape, or both.
    pub(crate) fn whole_view(&self, v: ValueId) -> Option<(Placed, Option<Rows>)> {
        self.info.view(v)?;
        let shape = &self.info.graph.fact(v).shape;
        let one = |(i, e): (usize, &Dim)| if e.is_one() { Dim::ZERO } else { Dim::iter(i) };
        let here: Vec<Dim> = shape.iter().enumerate().map(one).collect();
        let (base, at) = self.info.resolve(v, here.clone());
        let p = self.placed.get(&base)?;
        let order = seen(&p.order, &at, shape)?;
        let bounds = Bounds::of(shape);
        let rows = self.rows.get(&base);
        let seen_rows = rows.and_then(|(axis, room)| Some((here.iter().position(|i| *i == at[*axis])?, room.clone())));
        let offset = |v: ValueId, order: &[usize], at: &[Dim], rows: Option<&Rows>| {
            bounds.simplify(&self.buffer_with(v, order, rows).offset(at))
        };
        let same_count = self.info.graph.fact(v).element_count() == self.info.graph.fact(base).element_count();
        let same = same_count && offset(base, &p.order, &at, rows) == offset(v, &order, &here, seen_rows.as_ref());
        let storage = p.storage;
        same.then_some((Placed { storage, order }, seen_rows))
    }

    /// The output of the model that `v` is and that no kernel writes yet.
    pub fn free_output(&self, v: ValueId) -> Option<usize> {
        self.outputs.get(&v)?.iter().copied().find(|i| !self.written[*i])
    }

    /// Gives an exit its memory: an output buffer when it is one and is stored row-major, else the arena.
    pub fn place(&mut self, v: ValueId, order: Vec<usize>) -> usize {
        let identity = order.iter().enumerate().all(|(i, a)| i == *a);
        let place = match self.free_output(v) {
            Some(i) if identity => Place::Output(i),
            _ => Place::Arena,
        };
        let storage = self.storage(v, place);
        self.placed.insert(v, Placed { storage, order });
        storage
    }

    /// The axis order that readers of `v` would like, when all of them see it through the same permutation.
    pub fn wished_order(&self, v: ValueId) -> Option<Vec<usize>> {
        let users = &self.info.users[v.0 as usize];
        if users.is_empty() || self.info.graph.is_output(v) {
            return None;
        }
        let mut wish: Option<Vec<usize>> = None;
        for u in users {
            if self.info.class(*u) != Class::View {
                return None;
            }
            let out = self.info.graph.node(*u).outputs[0];
            let (_, map) = self.info.view(out)?;
            let inner = self
                .wished_order(out)
                .unwrap_or_else(|| (0..self.info.graph.fact(out).rank()).collect());
            // Each axis of `v` is seen along one axis of the view; where several are along the same one, that axis
            // counts through them, the last the fastest. Axes of extent 1 may be anywhere.
            let mut perm: Vec<usize> = (0..map.len()).filter(|a| map[*a].is_zero()).collect();
            for axis in inner {
                let here = Sym::Iter(axis as u32);
                perm.extend((0..map.len()).filter(|a| only(&map[*a], &here)));
            }
            let rank = self.info.graph.fact(v).rank();
            let whole = self.info.graph.fact(v).element_count() == self.info.graph.fact(out).element_count();
            if perm.len() != rank || !whole {
                return None;
            }
            if wish.as_ref().is_some_and(|w| *w != perm) {
                return None;
            }
            wish = Some(perm);
        }
        wish
    }

    /// The order in which the largest operand of equal rank is stored: pointwise work keeps it.
    pub(crate) fn inherited_order(&self, g: &Group, v: ValueId) -> Vec<usize> {
        let fact = self.info.graph.fact(v);
        let identity: Vec<usize> = (0..fact.rank()).collect();
        let mut stack: Vec<ValueId> = g.members.iter().flat_map(|n| self.info.loads(*n)).collect();
        let mut best: Option<(i64, Vec<usize>)> = None;
        let mut steps = 0;
        while let Some(x) = stack.pop() {
            steps += 1;
            if steps > 64 {
                break;
            }
            // A view shows the order of what it views, seen through its index.
            let order = if let Some(p) = self.placed.get(&x) {
                p.order.clone()
            } else if self.info.view(x).is_some() {
                let shape = &self.info.graph.fact(x).shape;
                let (base, at) = self.info.resolve(x, (0..shape.len()).map(Dim::iter).collect());
                let seen = self.placed.get(&base).and_then(|p| seen(&p.order, &at, shape));
                let Some(seen) = seen else { continue };
                seen
            } else {
                if let Some((n, _)) = self.info.graph.producer(x) {
                    stack.extend(self.info.loads(n));
                }
                continue;
            };
            if order.len() == fact.rank() {
                let size = crate::select::nominal(&self.info.graph.fact(x).element_count());
                if best.as_ref().is_none_or(|(s, _)| size > *s) {
                    best = Some((size, order));
                }
            }
        }
        best.map_or(identity, |(_, o)| o)
    }
}

/// The axes of a view of `shape` in the order in which memory runs through them: `index` says where its element is in a
/// value that is stored in `order`.
fn seen(order: &[usize], index: &[Dim], shape: &[Dim]) -> Option<Vec<usize>> {
    let mut out: Vec<usize> = vec![];
    for a in order {
        // Several axes of the view along one axis of the value: the largest steps first.
        let step = |i: usize| {
            let step = index[*a].affine_in(&Sym::Iter(i as u32)).map_or(Dim::ONE, |(c, _)| c);
            crate::select::nominal(&step)
        };
        let mut here: Vec<usize> = (0..shape.len())
            .filter(|i| !shape[*i].is_one() && !out.contains(i) && index[*a].uses(&Sym::Iter(*i as u32)))
            .collect();
        here.sort_by_key(|i| std::cmp::Reverse(step(*i)));
        out.extend(here);
    }
    // Axes of extent 1 may be anywhere: where they disturb the natural order least.
    for i in (0..shape.len()).filter(|i| shape[*i].is_one()) {
        let at = out.iter().position(|x| *x > i).unwrap_or(out.len());
        out.insert(at, i);
    }
    (out.len() == shape.len()).then_some(out)
}

/// Whether `s` is what a dim depends on, and nothing else that an iterator counts.
fn only(d: &Dim, s: &Sym) -> bool {
    let mut all = d.uses(s);
    d.visit(&mut |x| all &= x == s || matches!(x, Sym::Named(_)));
    all
}
