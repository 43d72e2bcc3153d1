//! Schedules: from what a kernel computes and what the target is to the numbers that code generation renders.

use cameo_ir::Dim;

use crate::program::ContractionSchedule;
use crate::targets::Target;

/// Extents that are symbols are taken to be this when schedules are compared.
pub const NOMINAL: i64 = 128;

/// A dim with every symbol at its nominal value.
pub fn nominal(d: &Dim) -> i64 {
    d.eval(&|_| Some(NOMINAL)).unwrap_or(i64::MAX)
}

/// What part of the lanes works when they run along `n` columns.
pub fn lanes_used(target: &Target, n: &Dim) -> f64 {
    let n = nominal(n).clamp(1, 1 << 20) as usize;
    n as f64 / n.next_multiple_of(target.lanes) as f64
}

/// The register tile that wastes least: padding of n to whole panels and of m to whole tiles against the tile's speed.
pub fn contraction(target: &Target, m: &Dim, n: &Dim, k: &[Dim]) -> ContractionSchedule {
    // Tails no longer matter in extents this large, and costs stay far from overflow.
    let extent = |d: &Dim| nominal(d).clamp(1, 1 << 20) as usize;
    let (m, n) = (extent(m), extent(n));
    // Windows overlap: a row of A adds about one innermost reduction to what the block holds.
    let k = k.last().map_or(1, extent);
    let mut best = None;
    for t in target.tiles {
        // Tail rows run on a smaller tile of the same panel, which costs as much as its rows plus the loads of B.
        let (full, tail) = (m / t.mr, m % t.mr);
        let rows = full * t.mr + if tail == 0 { 0 } else { tail.max(t.mr / 2) };
        // The last panel uses as many vectors as it needs; few of them keep the multipliers less busy.
        let vectors = n.div_ceil(target.lanes);
        let (panels, left) = (vectors / t.nv, vectors % t.nv);
        let narrow = match left {
            1 => t.efficiency.min(70),
            2 => t.efficiency.min(90),
            _ => t.efficiency,
        };
        let time = |vectors: usize, percent: u32| (rows * vectors) as u64 * 10_000 / u64::from(percent);
        let cost = time(panels * t.nv, t.efficiency) + time(left, narrow);
        if best.is_none_or(|(c, _)| cost < c) {
            best = Some((cost, *t));
        }
    }
    let t = best.map_or(target.tiles[0], |(_, t)| t);
    // Most of L2 for the rows of A: panels of B stream through the rest.
    let mc = (target.l2 / 4 * 3 / 4 / k / t.mr).max(4) * t.mr;
    ContractionSchedule {
        lanes: target.lanes,
        mr: t.mr,
        nv: t.nv,
        mc,
        split: 1,
    }
}
