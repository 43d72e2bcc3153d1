//! An open model: its description, and its weights, shared by all contexts.

use crate::Error;
use crate::operators::{Supplied, choose};
use crate::plan::PlanMemory;
use crate::texts::Constants;
use crate::weights::Weights;
use cameo_abi::{CPU_AVX2_FMA, CPU_AVX512, CPU_SSE42, ModelDesc, OWN_OPERATOR, Operator};
use cameo_core::{Given, Side, Sizes, SymbolInfo, Tables, TensorInfo};
use std::path::Path;
use std::sync::Arc;

/// What a compiled model is, without its weights.
#[derive(Clone, Copy)]
pub struct Description {
    tables: Tables,
}

/// An input that a run adds rows to in its memory, and the output that has them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheInfo {
    /// Index of the input.
    pub input: usize,
    /// Index of the output.
    pub output: usize,
    /// The axis of rows, of both.
    pub axis: usize,
}

impl Description {
    /// Checks the descriptor that the compiler wrote into the object.
    ///
    /// # Safety
    /// `desc` was written by the Cameo compiler, and the object that holds it stays loaded.
    ///
    /// # Errors
    /// [`Error::NotAModel`], [`Error::AbiMismatch`], [`Error::InvalidModel`].
    #[expect(unsafe_code, reason = "passes the caller's promise on")]
    pub unsafe fn new(desc: &'static ModelDesc) -> Result<Self, Error> {
        // SAFETY: the caller's promise.
        let tables = unsafe { Tables::new(desc)? };
        Ok(Self { tables })
    }

    /// Name of the model.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.tables.name()
    }

    /// Symbolic dimensions.
    pub fn symbols(&self) -> impl ExactSizeIterator<Item = SymbolInfo> + use<> {
        let tables = self.tables;
        (0..tables.symbol_count()).map(move |index| tables.symbol(index))
    }

    /// Inputs, in the model's order.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = TensorInfo> + use<> {
        let tables = self.tables;
        (0..tables.input_count()).map(move |index| tables.input(index))
    }

    /// The outputs that are an input with more rows behind it, in the input's memory.
    pub fn caches(&self) -> impl ExactSizeIterator<Item = CacheInfo> + use<> {
        self.tables.caches().iter().map(|cache| CacheInfo {
            input: cache.input as usize,
            output: cache.output as usize,
            axis: cache.axis as usize,
        })
    }

    /// Outputs, in the model's order.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = TensorInfo> + use<> {
        let tables = self.tables;
        (0..tables.output_count()).map(move |index| tables.output(index))
    }

    /// Index of the input of this name.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn input_index(&self, name: &str) -> Result<usize, Error> {
        let index = self.inputs().position(|info| info.name == name);
        index.ok_or_else(|| Error::UnknownName {
            side: Side::Input,
            name: name.to_owned(),
        })
    }

    /// Index of the output of this name.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn output_index(&self, name: &str) -> Result<usize, Error> {
        let index = self.outputs().position(|info| info.name == name);
        index.ok_or_else(|| Error::UnknownName {
            side: Side::Output,
            name: name.to_owned(),
        })
    }

    /// What the model has code for, best first: `x86-64-v4`, `x86-64-v3`, …
    pub fn levels(&self) -> impl ExactSizeIterator<Item = &'static str> + use<> {
        let tables = self.tables;
        (0..tables.levels().len()).map(move |index| tables.level_name(index))
    }

    /// The operators that the model needs from its caller, by name, each once: not what it or the runtime has.
    #[must_use]
    pub fn operators(&self) -> Vec<&'static str> {
        let customs = self.tables.customs().iter().filter(|custom| custom.built_in.is_none());
        let names = customs.map(|custom| self.tables.custom(custom).operator);
        let mut names: Vec<&str> = names.filter(|name| !name.starts_with(OWN_OPERATOR)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Number of kernel calls in a run.
    #[must_use]
    pub fn step_count(&self) -> usize {
        self.tables.steps().len()
    }

    /// Bytes of the weights section.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.tables.raw().weight_bytes
    }

    /// Whether the weights are linked in.
    #[must_use]
    pub fn has_embedded_weights(&self) -> bool {
        self.tables.raw().weight_bytes == 0 || !self.tables.raw().weights.is_null()
    }

    /// Memory of a run with these values of the symbols, in the order of [`Description::symbols`].
    ///
    /// # Errors
    /// [`Error::ShapeRule`] when the model does not take these values, [`Error::InvalidArgument`] when their count is
    /// wrong or one is out of its range.
    pub fn sizes(&self, symbols: &[i64]) -> Result<Sizes, Error> {
        let legal = |(info, &value): (SymbolInfo, &i64)| (info.min..=info.max).contains(&value);
        if symbols.len() != self.tables.symbol_count() || !self.symbols().zip(symbols).all(legal) {
            return Err(Error::InvalidArgument(
                "the model does not take these values of its symbolic dimensions",
            ));
        }
        let mut memory = PlanMemory::new(self.tables);
        memory.symbols.copy_from_slice(symbols);
        memory.plan(self.tables)?.evaluate_symbols()
    }

    /// The values of the symbols that inputs of these shapes have, in the order of [`Description::symbols`]; those that are
    /// elements of inputs, or that operators of the caller give, count as 0.
    ///
    /// # Errors
    /// [`Error::WrongRank`] and the errors of [`crate::Context::prepare`] that come from shapes.
    pub fn bind_symbols(&self, shapes: &[&[i64]]) -> Result<Box<[i64]>, Error> {
        let tables = self.tables();
        if shapes.len() != tables.input_count() {
            return Err(Error::WrongCount {
                expected: tables.input_count(),
                got: shapes.len(),
            });
        }
        for (info, shape) in self.inputs().zip(shapes) {
            if info.extents.rank() != shape.len() {
                return Err(Error::WrongRank {
                    name: info.name,
                    expected: info.extents.rank(),
                    got: shape.len(),
                });
            }
        }
        let mut memory = PlanMemory::new(tables);
        memory.plan(tables)?.evaluate(Given {
            shape: |index: usize| shapes[index],
            rows: |_| None,
            elements: |_: &_| 0,
            operators: |_, _: &_, _: &mut _| Ok(()),
        })?;
        Ok(memory.symbols)
    }

    pub(crate) fn tables(&self) -> Tables {
        self.tables
    }
}

/// A model ready to run; cheap to clone, to be shared by threads that each own a [`crate::Context`].
#[derive(Clone)]
pub struct Model {
    description: Description,
    level: usize,
    weights: Arc<Weights>,
    operators: Arc<[Supplied]>,
    texts: Arc<Constants>,
}

/// How a model is opened.
#[derive(Clone, Copy, Default)]
pub struct OpenOptions<'a> {
    /// One of [`Description::levels`] and no better one; the best that the processor has when absent.
    pub level: Option<&'a str>,
    /// Those of [`Description::operators`], and any others.
    pub operators: &'a [Operator],
}

impl Model {
    /// Checks the descriptor, takes the best level of its code that the processor has, and maps the weights file, or takes
    /// the linked-in weights when no path is given.
    ///
    /// # Safety
    /// As [`Description::new`].
    ///
    /// # Errors
    /// Those of [`Description::new`], [`Error::CpuUnsupported`], [`Error::WeightsMissing`], [`Error::WeightsCorrupt`],
    /// [`Error::WeightsMismatch`], [`Error::OperatorMissing`].
    #[expect(unsafe_code, reason = "passes the caller's promise on")]
    pub unsafe fn open(desc: &'static ModelDesc, weights: Option<&Path>) -> Result<Self, Error> {
        // SAFETY: the caller's promise.
        unsafe { Self::open_with(desc, weights, &OpenOptions::default()) }
    }

    /// As [`Model::open`], with options.
    ///
    /// # Safety
    /// As [`Description::new`]; names and functions of the operators are as `cameo.h` says, and what their `user` points to
    /// stays valid as long as there is a context.
    ///
    /// # Errors
    /// As [`Model::open`]; [`Error::InvalidArgument`] when there is no such level.
    #[expect(unsafe_code, reason = "passes the caller's promise on")]
    pub unsafe fn open_with(
        desc: &'static ModelDesc,
        weights: Option<&Path>,
        options: &OpenOptions<'_>,
    ) -> Result<Self, Error> {
        // SAFETY: the caller's promise.
        let Description { tables } = unsafe { Description::new(desc)? };
        let (levels, features) = (tables.levels(), cpu_features());
        let index = match options.level {
            Some(name) => (0..levels.len())
                .find(|&i| tables.level_name(i) == name)
                .ok_or(Error::InvalidArgument(
                    "the model has no code for this level of processors",
                ))?,
            // Without any, the last one says what is missing.
            None => (0..levels.len())
                .find(|&i| missing(levels[i].cpu_features, &features).is_none())
                .unwrap_or(levels.len() - 1),
        };
        if let Some(feature) = missing(levels[index].cpu_features, &features) {
            return Err(Error::CpuUnsupported { feature });
        }
        // SAFETY: the caller's promise.
        let operators = unsafe { choose(tables, options.operators)? };
        let texts = Constants::new(tables.texts()).ok_or(Error::InvalidModel("two strings have one handle"))?;
        Ok(Self {
            description: Description {
                tables: tables.at_level(index),
            },
            level: index,
            weights: Arc::new(Weights::open(desc, weights)?),
            operators,
            texts: Arc::new(texts),
        })
    }

    /// The level whose code runs, one of [`Description::levels`].
    #[must_use]
    pub fn level(&self) -> &'static str {
        self.description.tables.level_name(self.level)
    }

    /// What the model is.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Reads all weights and compares their hash with the model's. Opening does not: it stays a matter of milliseconds,
    /// whatever the size. This takes about a second for 10 GB that are in memory, and else as long as the disk does.
    ///
    /// # Errors
    /// [`Error::WeightsCorrupt`] when a byte differs from what the compiler wrote.
    pub fn verify_weights(&self) -> Result<(), Error> {
        self.weights.verify(self.description.tables.raw())
    }

    pub(crate) fn operators(&self) -> &[Supplied] {
        &self.operators
    }

    pub(crate) fn texts(&self) -> &Arc<Constants> {
        &self.texts
    }

    pub(crate) fn weights(&self) -> *const u8 {
        self.weights.as_ptr()
    }
}

/// Bits of the ABI, their names, and whether this processor has them.
type Features = [(u64, &'static str, bool); 3];

/// What of the needed features the processor lacks; bits that this runtime does not know are lacking.
fn missing(needed: u64, features: &Features) -> Option<&'static str> {
    let known = features.iter().fold(0, |all, (bit, ..)| all | bit);
    if needed & !known != 0 {
        return Some("an instruction set that this runtime does not know");
    }
    let lacking = features.iter().find(|(bit, _, present)| needed & bit != 0 && !present);
    lacking.map(|(_, name, _)| *name)
}

fn named(v2: bool, v3: bool, v4: bool) -> Features {
    [
        (CPU_SSE42, "SSE4.2 (x86-64-v2)", v2),
        (CPU_AVX2_FMA, "AVX2 and FMA (x86-64-v3)", v3),
        (CPU_AVX512, "AVX-512 (x86-64-v4)", v4),
    ]
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Features {
    // The levels of the x86-64 psABI, which is what code generators mean by these names.
    let v2 = is_x86_feature_detected!("sse4.2")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("cmpxchg16b");
    let v3 = v2
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("movbe");
    let v4 = v3
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    named(v2, v3, v4)
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Features {
    named(false, false, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_features_are_refused() {
        let all = named(true, true, true);
        assert_eq!(missing(0, &all), None);
        assert!(missing(1 << 63, &all).is_some());
    }

    #[test]
    fn what_a_processor_lacks_is_named() {
        let v4 = CPU_SSE42 | CPU_AVX2_FMA | CPU_AVX512;
        assert_eq!(missing(v4, &named(true, true, true)), None);
        assert_eq!(missing(v4, &named(true, true, false)), Some("AVX-512 (x86-64-v4)"));
        assert_eq!(
            missing(v4, &named(true, false, false)),
            Some("AVX2 and FMA (x86-64-v3)")
        );
        assert_eq!(
            missing(CPU_SSE42, &named(false, false, false)),
            Some("SSE4.2 (x86-64-v2)")
        );
    }
}
