//! An open model: its description, and its weights, shared by all contexts.

use crate::Error;
use crate::plan::PlanMemory;
use crate::weights::Weights;
use cameo_abi::{CPU_AVX2_FMA, CPU_AVX512, ModelDesc};
use cameo_core::{Side, Sizes, SymbolInfo, Tables, TensorInfo};
use std::path::Path;
use std::sync::Arc;

/// What a compiled model is, without its weights.
#[derive(Clone, Copy)]
pub struct Description {
    tables: Tables,
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

    /// The values of the symbols that inputs of these shapes have, in the order of [`Description::symbols`].
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
        memory.plan(tables)?.evaluate(|index| shapes[index])?;
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
    weights: Arc<Weights>,
}

impl Model {
    /// Checks the descriptor and the processor, and maps the weights file, or takes the linked-in weights when no path
    /// is given.
    ///
    /// # Safety
    /// As [`Description::new`].
    ///
    /// # Errors
    /// Those of [`Description::new`], [`Error::CpuUnsupported`], [`Error::WeightsMissing`], [`Error::WeightsCorrupt`],
    /// [`Error::WeightsMismatch`].
    #[expect(unsafe_code, reason = "passes the caller's promise on")]
    pub unsafe fn open(desc: &'static ModelDesc, weights: Option<&Path>) -> Result<Self, Error> {
        // SAFETY: the caller's promise.
        let description = unsafe { Description::new(desc)? };
        check_cpu(desc.cpu_features)?;
        Ok(Self {
            description,
            weights: Arc::new(Weights::open(desc, weights)?),
        })
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

    pub(crate) fn weights(&self) -> *const u8 {
        self.weights.as_ptr()
    }
}

/// Refuses a processor without one of the needed features, and bits that this runtime does not know.
fn check_cpu(needed: u64) -> Result<(), Error> {
    for (bit, feature, present) in cpu_features() {
        if needed & bit != 0 && !present {
            return Err(Error::CpuUnsupported { feature });
        }
    }
    if needed & !(CPU_AVX2_FMA | CPU_AVX512) != 0 {
        return Err(Error::CpuUnsupported {
            feature: "an instruction set that this runtime does not know",
        });
    }
    Ok(())
}

/// Each bit of the ABI, its name, and whether this processor has it.
#[cfg(target_arch = "x86_64")]
fn cpu_features() -> [(u64, &'static str, bool); 2] {
    // The levels of the x86-64 psABI, which is what code generators mean by these names.
    let v3 = is_x86_feature_detected!("avx2")
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
    [
        (CPU_AVX2_FMA, "AVX2 and FMA (x86-64-v3)", v3),
        (CPU_AVX512, "AVX-512 (x86-64-v4)", v4),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> [(u64, &'static str, bool); 2] {
    [
        (CPU_AVX2_FMA, "AVX2 and FMA (x86-64-v3)", false),
        (CPU_AVX512, "AVX-512 (x86-64-v4)", false),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_features_are_refused() {
        assert!(check_cpu(0).is_ok());
        assert!(matches!(check_cpu(1 << 63), Err(Error::CpuUnsupported { .. })));
    }
}
