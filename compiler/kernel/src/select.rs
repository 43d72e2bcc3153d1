//! Schedules: from what a kernel computes and what the target is to the numbers that code generation renders.

use cameo_ir::Dim;

use crate::program::{ContractionSchedule, WinogradSchedule};
use crate::targets::{Target, Tile};

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

/// A contraction's register tile, and the rows of A that stay in L2.
pub fn contraction(target: &Target, m: &Dim, n: &Dim, k: &[Dim]) -> ContractionSchedule {
    // Tails no longer matter in extents this large, and costs stay far from overflow.
    let extent = |d: &Dim| nominal(d).clamp(1, 1 << 20) as usize;
    let t = register_tile(target, extent(m), extent(n), 0);
    // Windows overlap: a row of A adds about one innermost reduction to what the block holds.
    let k = k.last().map_or(1, extent);
    // Most of L2 for the rows of A: panels of B stream through the rest.
    let mc = (target.l2 / 4 * 3 / 4 / k / t.mr).max(4) * t.mr;
    ContractionSchedule {
        lanes: target.lanes,
        mr: t.mr,
        nv: t.nv,
        panel: target.panel,
        mc,
        split: 1,
    }
}

/// The tile that wastes least: padding of n to whole panels and of m to whole tiles against the tile's speed. Reading a row
/// again for another panel takes `again` hundredths of a vector of it.
fn register_tile(target: &Target, m: usize, n: usize, again: usize) -> Tile {
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
        let cost =
            time(panels * t.nv, t.efficiency) + time(left, narrow) + (rows * vectors.div_ceil(t.nv) * again) as u64;
        if best.is_none_or(|(c, _)| cost < c) {
            best = Some((cost, *t));
        }
    }
    best.map_or(target.tiles[0], |(_, t)| t)
}

/// Winograd's form of a 3×3 window over `images` of `size` from `channels` to `n` channels, which has nine times that many
/// weights; `None`: the direct form is as fast. Only block and tile are the level's own. `others` are the bytes of all weights of the model.
pub fn winograd(
    target: &Target,
    images: &Dim,
    size: [&Dim; 2],
    n: usize,
    channels: usize,
    others: usize,
) -> Option<WinogradSchedule> {
    if n == 0 || channels == 0 {
        return None;
    }
    // One image where their number is not known: then what weights cost weighs most.
    let images = images.as_const().unwrap_or(1).max(0) as f64;
    let size = size.map(|d| nominal(d).clamp(1, 1 << 20) as usize);
    let plan = target.plan();
    let whole = |c: usize| c.next_multiple_of(plan.lanes);
    // Multiplications; of weights, what they take to come from memory, or from L3 if they stay there.
    let weights = |taps: usize| {
        let elements = taps * channels * n;
        let per_element = if others + 4 * elements > plan.l3 {
            plan.lanes as f64 * FROM_MEMORY
        } else {
            plan.lanes as f64 * FROM_L3
        };
        elements as f64 * per_element
    };
    let direct = images * (size[0] * size[1] * 9 * channels * n) as f64 + weights(9);
    let cost = |side: usize| {
        let points = (side + 2) * (side + 2);
        let tiles = size.iter().map(|e| e.div_ceil(side)).product::<usize>();
        let product = channels * n + TRANSFORM * (whole(channels) + whole(n));
        images * (tiles * points * product) as f64 + weights(points)
    };
    let side = if cost(4) < cost(2) { 4 } else { 2 };
    if cost(side) > WINOGRAD_BELOW * direct {
        return None;
    }
    // V with all channels, M with those of a panel; panels of U stream through the rest.
    let widest = target.tiles.iter().map(|t| t.nv).max().unwrap_or(1) * target.lanes;
    let row = 4 * (side + 2) * (side + 2) * (channels.next_multiple_of(target.lanes) + widest);
    let fit = (target.l2 / 8 * 7 / row).clamp(1, MOST_TILES);
    let tiles = images.max(1.0) as usize * size[0].div_ceil(side) * size[1].div_ceil(side);
    let t = register_tile(target, tiles.min(fit), n, ROW_AGAIN);
    let block = (fit / t.mr).max(1) * t.mr;
    Some(WinogradSchedule {
        side,
        block,
        product: ContractionSchedule {
            lanes: target.lanes,
            mr: t.mr,
            nv: t.nv,
            panel: target.panel,
            mc: block,
            split: 1,
        },
    })
}

/// What transforming one point of a tile takes for each input and output channel, in multiplications (measured 8 to 11).
const TRANSFORM: usize = 10;

/// What a weight takes to come from memory or from L3, in vector multiplications: measured 14 to 20 and 2 of 16 lanes.
const FROM_MEMORY: f64 = 1.0;
const FROM_L3: f64 = 0.125;

/// Rows of V come from L2 for each panel: with 128 channels 6x4 is 7 % faster than 8x3.
const ROW_AGAIN: usize = 25;

/// Winograd's weights take more space: it has to be worth it.
const WINOGRAD_BELOW: f64 = 0.85;

/// More tiles in a block do not make it faster (measured from 14 to 56).
const MOST_TILES: usize = 32;
