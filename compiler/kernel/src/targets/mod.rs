//! Facts about targets, one file each: numbers that schedules are chosen by.

pub mod aarch64;
pub mod x86_64;

/// What schedules depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub name: &'static str,
    /// The target whose facts decide what levels of an architecture share: which steps there are, in which form they compute,
    /// and where weights and tensors lie. Schedules are the level's own. `None`: this one.
    pub plan: Option<&'static Target>,
    /// f32 lanes of the widest vector that is fast.
    pub lanes: usize,
    /// Architectural vector registers.
    pub registers: usize,
    /// Columns of a panel of packed weights, whole vectors or parts of one; tiles take parts of a panel or whole panels.
    pub panel: usize,
    /// Contraction tiles (rows, vectors) with the share of FMA peak they reach, best first.
    pub tiles: &'static [Tile],
    /// Bytes of L2 that one core has to itself.
    pub l2: usize,
    /// Bytes of L3 that the weights of a model may fill.
    pub l3: usize,
}

/// A register tile and its measured share of FMA peak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tile {
    pub mr: usize,
    pub nv: usize,
    /// Percent.
    pub efficiency: u32,
}

impl Eq for Tile {}

impl Target {
    /// Facts for all decisions that are not schedules.
    pub fn plan(&self) -> &Self {
        self.plan.unwrap_or(self)
    }
}

/// The target of that name: `x86-64-v4`, `x86-64-v3`, `x86-64-v2`, `aarch64`.
pub fn find(name: &str) -> Option<&'static Target> {
    [&x86_64::V4, &x86_64::V3, &x86_64::V2, &aarch64::NEON]
        .into_iter()
        .find(|t| t.name == name)
}
