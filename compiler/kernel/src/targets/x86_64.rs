//! x86-64: AVX-512, AVX2 with FMA, and SSE4.2. The plan is that of AVX-512 on all of them: one artefact can have code for each.

use super::{Target, Tile};

const fn tile(mr: usize, nv: usize, efficiency: u32) -> Tile {
    Tile { mr, nv, efficiency }
}

/// Columns of a panel: the widest vector. A tile of AVX-512 reads as many panels as it has vectors, one of AVX2 one panel,
/// and one of SSE a half.
const PANEL: usize = 16;

/// AVX-512. A tile needs `mr*nv + nv + 1 <= 31` registers; 15x2 and 10x3 were measured to spill.
pub const V4: Target = Target {
    name: "x86-64-v4",
    plan: None,
    lanes: 16,
    registers: 32,
    panel: PANEL,
    tiles: &[
        tile(8, 3, 98),
        tile(6, 4, 97),
        tile(14, 2, 95),
        tile(28, 1, 80),
        tile(14, 1, 75),
    ],
    // The smallest L2 of AVX-512 server parts (Skylake-SP, Zen 4) is 1 MiB.
    l2: 1 << 20,
    // A core complex of Zen 4; Xeons have as much for a few cores.
    l3: 32 << 20,
};

/// AVX2 and FMA: 16 registers, so 6x2 (12 accumulators, 2 of B, 1 broadcast).
pub const V3: Target = Target {
    name: "x86-64-v3",
    plan: Some(&V4),
    lanes: 8,
    registers: 16,
    panel: PANEL,
    tiles: &[tile(6, 2, 95), tile(12, 1, 75)],
    l2: 512 << 10,
    // Smaller desktop parts.
    l3: 8 << 20,
};

/// SSE4.2: multiply and add are separate.
pub const V2: Target = Target {
    name: "x86-64-v2",
    plan: Some(&V4),
    lanes: 4,
    registers: 16,
    panel: PANEL,
    tiles: &[tile(6, 2, 90), tile(12, 1, 75)],
    l2: 256 << 10,
    l3: 8 << 20,
};
