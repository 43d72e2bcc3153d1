//! The memory of a context's plan, allocated once from the descriptor's counts.

use crate::Error;
use cameo_core::{Plan, Sizes, Tables};

/// The tables of a [`Plan`] and the sizes that it gave.
pub struct PlanMemory {
    pub symbols: Box<[i64]>,
    pub dims: Box<[i64]>,
    offsets: Box<[i64]>,
    pub extents: Box<[i64]>,
    pub sizes: Sizes,
}

impl PlanMemory {
    pub fn new(tables: Tables) -> Self {
        let zeros = |count: usize| vec![0; count].into_boxed_slice();
        let desc = tables.raw();
        Self {
            symbols: zeros(tables.symbol_count()),
            dims: zeros(desc.dim_count as usize),
            offsets: zeros(desc.offset_count as usize),
            extents: zeros(tables.custom_extent_count()),
            sizes: Sizes::default(),
        }
    }

    /// The plan in this memory.
    pub fn plan(&mut self, tables: Tables) -> Result<Plan<'_>, Error> {
        Plan::new(
            tables,
            &mut self.symbols,
            &mut self.dims,
            &mut self.offsets,
            &mut self.extents,
        )
    }
}
