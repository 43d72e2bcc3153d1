//! AArch64 with NEON: 32 registers of four f32.

use super::{Target, Tile};

/// 8x3: 24 accumulators, 3 of B, the rest for A.
pub const NEON: Target = Target {
    name: "aarch64",
    plan: None,
    lanes: 4,
    registers: 32,
    // Each vector of a tile has panels of its own.
    panel: 4,
    tiles: &[
        Tile {
            mr: 8,
            nv: 3,
            efficiency: 95,
        },
        Tile {
            mr: 6,
            nv: 4,
            efficiency: 94,
        },
        Tile {
            mr: 12,
            nv: 2,
            efficiency: 90,
        },
        Tile {
            mr: 14,
            nv: 1,
            efficiency: 75,
        },
    ],
    l2: 512 << 10,
    // Graviton 2 and 3.
    l3: 32 << 20,
};
