//! Random graphs over the table of operations, for fuzz tests: well typed, lowerable and numerically tame.
//!
//! A graph grows by guessing: an operation, operands from what is there or new weights of related shapes, attributes by
//! their names. Whatever `infer`, `lower` or a trial run with sample inputs refuses is dropped, so an operation that is
//! added to the table is fuzzed from then on. Laws: the same seed gives the same graph; with [`Options::tame`], results
//! of the trial run are finite and moderate, and operations that jump (comparisons, rounding, conversions to integers)
//! read only values that no rounding has touched, so that correct programs agree up to small errors.

mod guess;

use std::sync::Arc;

use guess::{COMMON, RECIPES, attribute, related_shape, shape_like};

use crate::graph::infer;
use crate::interp::{self, Binding, bind_attrs};
use crate::op::{Arg, Arity, Attrs, Cx, Lowering, Op, Param};
use crate::ops;
use crate::{Attr, DType, Dim, Fact, Graph, Origin, SymbolRange, Tensor, ValueId};

/// SplitMix64 (Steele, Lea and Flood 2014): tiny, and every seed is good.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `lo` to `hi`, both included.
    pub fn range(&mut self, lo: i64, hi: i64) -> i64 {
        let span = (hi - lo + 1).max(1) as u64;
        lo + (self.next_u64() % span) as i64
    }

    /// True `percent` times of a hundred.
    pub fn chance(&mut self, percent: i64) -> bool {
        self.range(0, 99) < percent
    }

    /// # Panics
    /// When there is nothing to choose from.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.range(0, from.len() as i64 - 1) as usize]
    }

    /// Nearly normal with mean 0 and variance 1, within ±6: twelve uniform numbers added, so that no platform's
    /// logarithm matters.
    pub fn normal(&mut self) -> f64 {
        let uniform = |r: &mut Self| (r.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        (0..12).map(|_| uniform(self)).sum::<f64>() - 6.0
    }
}

/// What kind of graph.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes wanted; there may be fewer.
    pub nodes: usize,
    /// Graph inputs, at least 1.
    pub inputs: usize,
    /// Whether extents may be the symbols `N` and `M`.
    pub symbolic: bool,
    /// Types of inputs; repeats make a type likelier.
    pub dtypes: Vec<DType>,
    /// Whether results must be finite and moderate.
    pub tame: bool,
    /// Names of operations to choose from; all but Cameo's own when empty.
    pub only: Vec<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        use DType::{Bool, F16, F32, F64, I32, I64, U32};
        Self {
            nodes: 8,
            inputs: 2,
            symbolic: true,
            dtypes: vec![F32, F32, F32, F32, F32, F32, F64, F16, I64, I32, U32, Bool],
            tame: true,
            only: vec![],
        }
    }
}

/// Largest value of a symbol in [`symbol_values`]: sizes 1 to 7 meet every remainder of the small vector widths.
const MAX_SYMBOL: i64 = 7;
/// Tensors stay small, so that a fuzz round is about compiling.
const MAX_ELEMENTS: usize = 4096;
const MAX_RANK: usize = 5;
/// Above this, `f32` errors of correct programs grow past any useful tolerance.
const MAX_FLOAT: f64 = 1e4;
/// Below this, squares underflow in `f32`.
const MIN_FLOAT: f64 = 1e-15;
/// Far from the ends of `i32`, where conversions from floats differ between machines.
const MAX_INT: i64 = 1 << 24;
/// Guesses per operation before another one is chosen: matching shapes of structured operations take about ten.
const GUESSES: usize = 40;

/// Input tensors of integer type whose name begins so are legal indices of every axis.
const INDEX_INPUT: &str = "index";

/// A random graph.
pub fn graph(seed: u64, options: &Options) -> Graph {
    let mut r = Rng::new(seed);
    let mut g = Graph::new("random");
    let mut pool: Vec<Dim> = (0..2).map(|_| Dim::from(r.range(2, 6))).collect();
    pool.push(Dim::from(r.range(1, 9)));
    if options.symbolic {
        pool.push(Dim::sym("N"));
        if r.chance(30) {
            pool.push(Dim::sym("M"));
        }
    }
    for i in 0..options.inputs.max(1) {
        let dtype = *r.pick(&options.dtypes);
        let rank = *r.pick(&[0, 1, 2, 2, 3, 3, 4, 4]);
        let shape: Vec<Dim> = (0..rank)
            .map(|_| if r.chance(10) { Dim::ONE } else { r.pick(&pool).clone() })
            .collect();
        let index = dtype.is_int() && r.chance(50);
        let name = format!("{}{i}", if index { INDEX_INPUT } else { "x" });
        g.add_input(&name, Fact::new(dtype, shape));
    }
    let max = MAX_SYMBOL;
    for (_, range) in &mut g.symbols {
        *range = SymbolRange { min: 1, max };
    }
    let binding = symbol_values(&g, &mut r);
    let samples = inputs(&g, &mut r, &binding);
    let mut grower = Grower {
        values: g
            .inputs()
            .iter()
            .copied()
            .zip(samples)
            .map(|(v, sample)| Known { v, sample, exact: true })
            .collect(),
        table: ops::all()
            .filter(|o| match options.only.as_slice() {
                // Parts of decompositions rely on what they are given there, and nobody here computes what is external.
                // Extents that nobody knows before a run are no extents to make shapes of.
                [] => {
                    !o.name().starts_with("cameo::")
                        && !o.schema().external
                        && !o.schema().attrs.iter().any(|(_, d)| d.names_dim())
                }
                only => only.contains(&o.name()),
            })
            .collect(),
        g,
        r,
        binding,
        tame: options.tame,
    };
    // Some operations fit no operand; four choices per node keep small graphs from staying empty.
    for _ in 0..options.nodes * 4 {
        if grower.g.node_count() >= options.nodes || grower.table.is_empty() {
            break;
        }
        let op = *grower.r.pick(&grower.table);
        (0..GUESSES).any(|_| grower.guess(op).is_some());
    }
    let mut g = grower.g;
    let sinks: Vec<ValueId> = grower
        .values
        .iter()
        .map(|k| k.v)
        .filter(|v| g.users(*v).is_empty())
        .collect();
    for v in sinks {
        if g.producer(v).is_some() {
            g.add_output(&format!("y{}", g.outputs().len()), v);
        }
    }
    g
}

/// Values for the graph's symbols, within their ranges and small.
pub fn symbol_values(g: &Graph, r: &mut Rng) -> Binding {
    let value = |(name, range): (&Arc<str>, &SymbolRange)| {
        // Tensors without elements compare equal to anything: only a dimension that allows nothing else is 0.
        let lo = range.min.max(1).min(range.max);
        (name.clone(), r.range(lo, range.max.min(lo + MAX_SYMBOL - 1)))
    };
    g.symbols.iter().map(value).collect()
}

/// Random inputs: floats near N(0,1), small integers, and 0 or -1 for inputs named `index…`. Extents without a value are 1.
pub fn inputs(g: &Graph, r: &mut Rng, binding: &Binding) -> Vec<Tensor> {
    let tensor = |v: &ValueId| {
        let fact = g.fact(*v);
        let shape = crate::graph::bind_shape(&fact.shape, &|n| binding.get(n).copied());
        let shape = shape.unwrap_or_else(|| vec![1; fact.rank()]);
        if g.value(*v).name.starts_with(INDEX_INPUT) && fact.dtype.is_int() {
            let lo = if fact.dtype.is_signed() { -1 } else { 0 };
            let n = shape.iter().product();
            return Tensor::from_i64(fact.dtype, &shape, (0..n).map(|_| r.range(lo, 0)).collect::<Vec<_>>());
        }
        elements(r, fact.dtype, &shape)
    };
    g.inputs().iter().map(tensor).collect()
}

/// What the graph computes, where that is a question with a stable answer: every intermediate value is finite and
/// moderate, none is empty, and small errors after every operation stay small in the outputs. `None` otherwise: the trial
/// run of a tame graph was stable, but other inputs may lead elsewhere.
pub fn expected(g: &Graph, inputs: &[Tensor]) -> Option<Vec<Tensor>> {
    let mut tame = true;
    let want = interp::run_observed(g, inputs, &mut |_, t| tame &= is_tame(t) && !t.is_empty()).ok()?;
    if !tame {
        return None;
    }
    let disturbed = disturbed(g, inputs)?;
    want.iter().zip(&disturbed).all(|(w, d)| agree(w, d)).then_some(want)
}

/// What the graph computes with an error in every element of every result, about ten times that of rounding.
pub fn disturbed(g: &Graph, inputs: &[Tensor]) -> Option<Vec<Tensor>> {
    let mut r = Rng::new(0);
    let disturbed = interp::run_disturbed(g, inputs, &mut |_, t| {
        let error = match t.dtype() {
            DType::F32 => 2f64.powi(-20),
            DType::F64 => 2f64.powi(-45),
            DType::F16 => 2f64.powi(-9),
            DType::BF16 => 2f64.powi(-6),
            _ => return t,
        };
        let off: Vec<f64> = t
            .to_f64()
            .iter()
            .map(|x| x * (1.0 + error * r.range(-1, 1) as f64))
            .collect();
        Tensor::from_f64(t.dtype(), t.shape(), off)
    });
    disturbed.ok()
}

/// Whether two results are the same up to the errors of a few operations in a row: integers exactly, floats relative to
/// the largest element (at least 1).
pub fn agree(want: &Tensor, got: &Tensor) -> bool {
    let tolerance = match want.dtype() {
        DType::F16 | DType::BF16 => 0.1,
        DType::F32 | DType::F64 => 1e-3,
        _ => 0.0,
    };
    let peak = want.to_f64().iter().fold(1f64, |a, x| a.max(x.abs()));
    let close = |(a, b): (&f64, f64)| *a == b || (a - b).abs() <= tolerance * peak;
    want.dtype() == got.dtype() && want.shape() == got.shape() && want.to_f64().iter().zip(got.to_f64()).all(close)
}

fn is_tame(t: &Tensor) -> bool {
    if t.dtype().is_float() {
        t.to_f64()
            .iter()
            .all(|x| *x == 0.0 || (MIN_FLOAT..=MAX_FLOAT).contains(&x.abs()))
    } else {
        t.to_i64().iter().all(|x| (-MAX_INT..=MAX_INT).contains(x))
    }
}

/// Strings to choose from: few, so that some are equal.
pub const TEXTS: [&str; 6] = ["", "a", "b", "Zwölf", "a b", "漢字"];

fn elements(r: &mut Rng, dtype: DType, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    if dtype.is_float() {
        // On a grid that every float type but `bf16` holds: elements are equal or apart, as stable comparisons want.
        let grid = |x: f64| (x * 256.0).round() / 256.0;
        return Tensor::from_f64(dtype, shape, (0..n).map(|_| grid(r.normal())).collect::<Vec<_>>());
    }
    if dtype == DType::String {
        let texts: Vec<&str> = (0..n).map(|_| *r.pick(&TEXTS)).collect();
        // These are known to have different handles.
        return Tensor::strings(shape, texts).unwrap_or_else(|_| Tensor::from_i64(dtype, shape, vec![0; n]));
    }
    let (lo, hi) = match dtype {
        DType::Bool => (0, 1),
        t if t.is_signed() => (-4, 4),
        _ => (0, 7),
    };
    Tensor::from_i64(dtype, shape, (0..n).map(|_| r.range(lo, hi)).collect::<Vec<_>>())
}

/// A value that operands are chosen from.
struct Known {
    v: ValueId,
    /// Its value in the trial run.
    sample: Tensor,
    /// No rounding has touched it.
    exact: bool,
}

enum Operand {
    Absent,
    /// Index into [`Grower::values`].
    Old(usize),
    New(Tensor),
}

struct Grower {
    g: Graph,
    r: Rng,
    values: Vec<Known>,
    table: Vec<Op>,
    binding: Binding,
    tame: bool,
}

impl Grower {
    /// Tries to add a node.
    fn guess(&mut self, op: Op) -> Option<()> {
        let schema = op.schema();
        let mut operands: Vec<Operand> = vec![];
        let mut attrs = Attrs::new();
        let mut first: Option<Fact> = None;
        let recipe = self.r.range(0, RECIPES - 1);
        // Operations with many operands rarely find them all among the values.
        let fresh = self.r.chance(40);
        for (i, p) in schema.inputs.iter().enumerate() {
            let count = if p.arity == Arity::Variadic {
                self.r.range(1, 3)
            } else {
                1
            };
            for _ in 0..count {
                if let Some(name) = p.attr {
                    let dims = shape_like(&mut self.r, name, first.as_ref());
                    operands.push(self.place_dims(p, name, dims, &mut attrs));
                    continue;
                }
                if p.arity == Arity::Optional && self.r.chance(50) {
                    operands.push(Operand::Absent);
                    continue;
                }
                let operand = self.operand(i, p, first.as_ref(), recipe, fresh)?;
                if first.is_none() {
                    first = Some(self.fact(&operand)?);
                }
                operands.push(operand);
            }
        }
        while let Some(Operand::Absent) = operands.last() {
            operands.pop();
        }
        let rank = first.as_ref().map_or(0, Fact::rank) as i64;
        for (name, def) in schema.attrs {
            if let Some(a) = attribute(&mut self.r, name, def, rank, schema.inputs.len()) {
                attrs.insert((*name).into(), a);
            }
        }
        let outputs = match schema.outputs {
            [p] if p.arity == Arity::Variadic => self.r.range(1, 3) as usize,
            all => all.iter().filter(|p| p.arity == Arity::One).count().max(1),
        };
        self.commit(op, attrs, operands, outputs)
    }

    fn fact(&self, o: &Operand) -> Option<Fact> {
        match o {
            Operand::Absent => None,
            Operand::Old(i) => Some(self.g.fact(self.values[*i].v).clone()),
            Operand::New(t) => Some(t.fact()),
        }
    }

    /// Adds the node if inference, lowering and the trial run agree to it.
    fn commit(&mut self, op: Op, attrs: Attrs, operands: Vec<Operand>, outputs: usize) -> Option<()> {
        let facts: Vec<Option<Fact>> = operands.iter().map(|o| self.fact(o)).collect();
        let symbolic: Vec<Option<Arg>> = facts
            .iter()
            .map(|f| f.as_ref().map(|fact| Arg { fact, constant: None }))
            .collect();
        let inferred = infer(op, &attrs, &symbolic, outputs).ok()?;
        let cx = |attrs, inputs| Cx {
            schema: op.schema(),
            attrs,
            inputs,
            outputs,
        };
        let lowering = op.0.lower(&cx(&attrs, &symbolic)).ok()?;
        let samples: Vec<Option<&Tensor>> = operands
            .iter()
            .map(|o| match o {
                Operand::Absent => None,
                Operand::Old(i) => Some(&self.values[*i].sample),
                Operand::New(t) => Some(t),
            })
            .collect();
        let sample_facts: Vec<Option<Fact>> = samples.iter().map(|t| t.map(Tensor::fact)).collect();
        let concrete: Vec<Option<Arg>> = sample_facts
            .iter()
            .zip(&samples)
            .map(|(f, t)| f.as_ref().map(|fact| Arg { fact, constant: *t }))
            .collect();
        let small = |f: &Fact| {
            let shape = crate::graph::bind_shape(&f.shape, &|n| self.binding.get(n).copied())?;
            let n = shape.iter().try_fold(1usize, |a, d| a.checked_mul(*d))?;
            (n <= MAX_ELEMENTS && shape.len() <= MAX_RANK && n > 0).then_some(())
        };
        inferred.iter().try_for_each(small)?;
        let bound = bind_attrs(&attrs, &self.binding)?;
        // What symbols leave open is decided here.
        infer(op, &bound, &concrete, outputs).ok()?;
        let results = op.0.eval(&cx(&bound, &concrete)).ok()?;
        if self.tame && !results.iter().all(is_tame) {
            return None;
        }
        let exact_in = operands.iter().zip(&facts).all(|(o, f)| match o {
            Operand::Old(i) => self.values[*i].exact || f.as_ref().is_some_and(|f| !f.dtype.is_float()),
            _ => true,
        });
        let jumps = JUMPS.contains(&op.name())
            || !SHAPE_ONLY.contains(&op.name()) && inferred.iter().any(|f| !f.dtype.is_float());
        if self.tame && jumps && !exact_in {
            return None;
        }
        let moves = EXACT.contains(&op.name())
            || matches!(&lowering, Lowering::Compute(parts) if parts.iter().all(|c| c.as_movement().is_some()));

        let origin = Origin::new(&format!("{}_{}", op.name(), self.g.node_count()));
        let inputs = operands
            .into_iter()
            .map(|o| match o {
                Operand::Absent => None,
                Operand::Old(i) => Some(self.values[i].v),
                Operand::New(t) => Some(self.g.add_weight("", t)),
            })
            .collect();
        let made = self.g.add_node(op, attrs, inputs, outputs, origin).ok()?;
        for (v, sample) in made.into_iter().zip(results) {
            let exact = !sample.dtype().is_float() || exact_in && moves;
            self.values.push(Known { v, sample, exact });
        }
        Some(())
    }

    /// An operand for parameter `i`; mostly a value of the graph.
    fn operand(&mut self, i: usize, p: &Param, first: Option<&Fact>, recipe: i64, fresh: bool) -> Option<Operand> {
        let same_group = i > 0 && p.group == 1;
        let dtype = first.filter(|_| same_group).map(|f| f.dtype);
        let fits: Vec<usize> = (0..self.values.len())
            .filter(|k| {
                let t = self.g.fact(self.values[*k].v).dtype;
                p.types.contains(t) && dtype.is_none_or(|d| d == t)
            })
            .collect();
        if p.name == "indices" {
            return self.indices(p, first, &fits);
        }
        let old = !fits.is_empty() && (i == 0 && self.r.chance(95) || !fresh && self.r.chance(70));
        if old {
            // Recent values, so that graphs get deep.
            let from = if self.r.chance(60) {
                fits.len().saturating_sub(3)
            } else {
                0
            };
            return Some(Operand::Old(*self.r.pick(&fits[from..])));
        }
        let dtype = dtype.or_else(|| {
            let legal: Vec<DType> = COMMON.iter().copied().filter(|t| p.types.contains(*t)).collect();
            (!legal.is_empty()).then(|| *self.r.pick(&legal))
        })?;
        let shape: Vec<usize> = match first {
            Some(f) => related_shape(&mut self.r, f, recipe)?,
            None => (0..self.r.range(0, 4)).map(|_| self.r.range(1, 5) as usize).collect(),
        };
        if shape.iter().product::<usize>() > MAX_ELEMENTS {
            return None;
        }
        let t = elements(&mut self.r, dtype, &shape);
        if p.name.contains("var") && dtype.is_float() {
            let positive: Vec<f64> = t.to_f64().iter().map(|x| x.abs() + 0.1).collect();
            return Some(Operand::New(Tensor::from_f64(dtype, &shape, positive)));
        }
        Some(Operand::New(t))
    }

    /// Indices that are legal on every axis of `first`: an input made for it, or a weight.
    fn indices(&mut self, p: &Param, first: Option<&Fact>, fits: &[usize]) -> Option<Operand> {
        let inputs: Vec<usize> = fits
            .iter()
            .copied()
            .filter(|k| {
                let v = &self.g.value(self.values[*k].v);
                v.name.starts_with(INDEX_INPUT)
            })
            .collect();
        if !inputs.is_empty() && self.r.chance(50) {
            return Some(Operand::Old(*self.r.pick(&inputs)));
        }
        let least = first.map_or(1, |f| {
            f.shape.iter().map(|d| d.as_const().unwrap_or(1)).min().unwrap_or(1)
        });
        let dtype = if p.types.contains(DType::I32) && self.r.chance(30) {
            DType::I32
        } else {
            DType::I64
        };
        let shape: Vec<usize> = (0..self.r.range(0, 2)).map(|_| self.r.range(1, 4) as usize).collect();
        let n = shape.iter().product();
        let data: Vec<i64> = (0..n).map(|_| self.r.range(-least, least - 1)).collect();
        Some(Operand::New(Tensor::from_i64(dtype, &shape, data)))
    }

    /// As an attribute, or as a weight where the elements are constant: passes move one into the other.
    fn place_dims(&mut self, p: &Param, name: &str, dims: Option<Vec<Dim>>, attrs: &mut Attrs) -> Operand {
        let Some(dims) = dims else { return Operand::Absent };
        let ints: Option<Vec<i64>> = dims.iter().map(Dim::as_const).collect();
        match ints {
            Some(v) if self.r.chance(60) => {
                let scalar = matches!(name, "k" | "axis" | "limit" | "delta" | "depth");
                let dtype = if p.types.contains(DType::I64) {
                    DType::I64
                } else {
                    DType::I32
                };
                let shape = if scalar { vec![] } else { vec![v.len()] };
                Operand::New(Tensor::from_i64(dtype, &shape, v))
            }
            _ => {
                attrs.insert(name.into(), Attr::Dims(dims));
                Operand::Absent
            }
        }
    }
}

/// A small error of the operand becomes a large one of the result.
const JUMPS: &[&str] = &[
    "Floor",
    "Ceil",
    "Round",
    "Sign",
    "Mod",
    "Hardmax",
    "ThresholdedRelu",
    "Shrink",
    "Tan",
    "RoiAlign",
    "MaxRoiPool",
    "Cast",
    "CastLike",
    "BitCast",
    "Bernoulli",
    "Multinomial",
    // By its ratio.
    "Dropout",
    "ai.onnx.ml::Binarizer",
    "ai.onnx.ml::Imputer",
    "ai.onnx.ml::LabelEncoder",
    "ai.onnx.ml::LinearClassifier",
    "ai.onnx.ml::TreeEnsemble",
    "ai.onnx.ml::TreeEnsembleRegressor",
    "ai.onnx.ml::TreeEnsembleClassifier",
];

/// Read nothing of their operand but its shape.
const SHAPE_ONLY: &[&str] = &["Shape", "Size", "EyeLike", "RandomUniformLike", "RandomNormalLike"];

/// Give back some element of an operand, or its negative, beside those whose loops only move.
const EXACT: &[&str] = &[
    "Neg",
    "Abs",
    "Relu",
    "Min",
    "Max",
    "Identity",
    "Clip",
    "Where",
    "MaxPool",
    "GlobalMaxPool",
    "ReduceMax",
    "ReduceMin",
    "Trilu",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{naive, text, verify};

    /// Runs a seed every way this crate can, and gives the number of comparisons; how often which operation occurred is
    /// added to `seen`.
    fn try_seed(seed: u64, seen: &mut BTreeMap<&'static str, usize>) -> usize {
        let mut compared = 0;
        let g = graph(seed, &Options::default());
        let shown = text::print(&g);
        verify::verify(&g).unwrap_or_else(|e| panic!("seed {seed}\n{shown}\n{e:?}"));
        for (_, n) in g.nodes() {
            *seen.entry(n.op.name()).or_default() += 1;
        }
        let blobs = text::blobs(&g);
        let back = text::parse(&shown, &|name, _| {
            blobs.iter().find(|b| b.0 == name).map(|b| b.1.clone())
        })
        .unwrap_or_else(|e| panic!("seed {seed}\n{shown}\n{e}"));
        assert_eq!(text::print(&back), shown);
        let mut r = Rng::new(seed);
        for _ in 0..2 {
            let binding = symbol_values(&g, &mut r);
            let given = inputs(&g, &mut r, &binding);
            // Some are illegal with these sizes or values, say for an index.
            let Ok(shapes) = interp::run(&back, &given) else {
                continue;
            };
            let got = naive::run_graph(&g, &given, &|n| binding.get(n).copied())
                .unwrap_or_else(|e| panic!("seed {seed} {binding:?}\n{shown}\n{e}"));
            for (w, t) in shapes.iter().zip(&got) {
                assert_eq!(
                    (w.dtype(), w.shape()),
                    (t.dtype(), t.shape()),
                    "seed {seed} {binding:?}\n{shown}"
                );
            }
            let Some(want) = expected(&g, &given) else { continue };
            for (w, t) in want.iter().zip(&got) {
                assert!(
                    agree(w, t),
                    "seed {seed} {binding:?}\n{shown}\neval  {w:?}\nloops {t:?}\n{given:?}"
                );
            }
            compared += 1;
        }
        compared
    }

    #[test]
    fn random_graphs_agree_with_their_loops() {
        let mut seen = BTreeMap::new();
        let mut compared = 0;
        for seed in 0..400 {
            compared += try_seed(seed, &mut seen);
        }
        let nodes: usize = seen.values().sum();
        assert!(nodes > 2000, "graphs stay small: {nodes} nodes");
        assert!(compared > 400, "most seeds are not comparable: {compared} runs were");
        // Nobody guesses the tables that models are.
        let hidden = ["cameo::", "ai.onnx.ml::", "ai.onnx.preview.training::", "TfIdf"];
        let public = ops::all()
            .map(Op::name)
            .filter(|n| !hidden.iter().any(|h| n.starts_with(h)));
        let never: Vec<_> = public.filter(|n| !seen.contains_key(n)).collect();
        // Some want operands whose shapes are hard to guess, more so of the contributed ones.
        assert!(never.len() * 5 < ops::all().count(), "never chosen: {never:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_graph() {
        let print = |seed| text::print(&graph(seed, &Options::default()));
        assert_eq!(print(5), print(5));
        assert_ne!(print(5), print(6));
    }
}
