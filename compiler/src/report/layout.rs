//! Where the boxes of a graph go: layers by longest path, few crossings, straight edges (Sugiyama, Tagawa and Toda 1981).
//!
//! Edges that pass layers go through points of their own, so that they do not run behind boxes. All edges of one box
//! share these points: its trunk. A shape that a hundred nodes read is one line with a hundred twigs.

/// Width of a box, and of what passes between boxes, in pixels; with the gap to the neighbour.
const BOX: f64 = 184.0;
const POINT: f64 = 16.0;
/// Sweeps over the layers. Orders hardly change after four; the rest is for wide graphs.
const ORDER_SWEEPS: usize = 8;
const PLACE_SWEEPS: usize = 12;
/// How much a line's point resists being moved, of what a box does: the way through the boxes should be straight, and the
/// line that skips some of them gives way. From a hundredth on, deep networks lean visibly.
const STIFFNESS: f64 = 0.001;

#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// Of each box: centre in pixels, layer counted from the top.
    pub at: Vec<(i64, usize)>,
    /// Of each box: where its edges pass the layers below it, until the one above the last reader.
    pub trunks: Vec<Vec<i64>>,
}

/// A box or a point that a trunk passes.
struct Item {
    layer: usize,
    width: f64,
    weight: f64,
    x: f64,
    /// Those it hangs on, and those that hang on it.
    near: [Vec<usize>; 2],
}

/// Lays out `boxes` boxes; every edge leads from a smaller to a larger number.
pub fn layout(boxes: usize, edges: &[(usize, usize)]) -> Layout {
    let layer = layers(boxes, edges);
    let item = |layer, width, weight| Item {
        layer,
        width,
        weight,
        x: 0.0,
        near: [vec![], vec![]],
    };
    let mut items: Vec<Item> = layer.iter().map(|l| item(*l, BOX, 1.0)).collect();
    let mut readers: Vec<Vec<usize>> = vec![vec![]; boxes];
    for (from, to) in edges {
        readers[*from].push(*to);
    }
    let mut trunks: Vec<Vec<usize>> = vec![vec![]; boxes];
    for (from, readers) in readers.iter().enumerate() {
        let last = readers.iter().map(|r| layer[*r]).max().unwrap_or(0);
        let mut above = from;
        for l in layer[from] + 1..last {
            let point = items.len();
            items.push(item(l, POINT, STIFFNESS));
            join(&mut items, above, point);
            trunks[from].push(point);
            above = point;
        }
        for r in readers {
            let passed = layer[*r] - layer[from] - 1;
            let above = passed.checked_sub(1).map_or(from, |i| trunks[from][i]);
            join(&mut items, above, *r);
        }
    }
    let mut rows: Vec<Vec<usize>> = vec![vec![]; items.iter().map(|i| i.layer + 1).max().unwrap_or(0)];
    for (i, item) in items.iter().enumerate() {
        rows[item.layer].push(i);
    }
    order(&mut items, &mut rows);
    place(&mut items, &rows);
    let left = items.iter().map(|i| i.x - i.width / 2.0).fold(f64::INFINITY, f64::min);
    let x = |i: usize| (items[i].x - left).round() as i64;
    Layout {
        at: (0..boxes).map(|i| (x(i), layer[i])).collect(),
        trunks: trunks.iter().map(|t| t.iter().map(|i| x(*i)).collect()).collect(),
    }
}

fn join(items: &mut [Item], above: usize, below: usize) {
    items[above].near[1].push(below);
    items[below].near[0].push(above);
}

/// The longest path to each box; what depends on nothing stands right above its first reader.
fn layers(boxes: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut layer = vec![0; boxes];
    let mut first = vec![usize::MAX; boxes];
    let mut sorted = edges.to_vec();
    sorted.sort_unstable_by_key(|(from, to)| (*to, *from));
    for (from, to) in &sorted {
        debug_assert!(from < to, "boxes are in topological order");
        layer[*to] = layer[*to].max(layer[*from] + 1);
    }
    let mut source = vec![true; boxes];
    for (from, to) in &sorted {
        source[*to] = false;
        first[*from] = first[*from].min(layer[*to]);
    }
    for i in 0..boxes {
        if source[i] && first[i] != usize::MAX {
            layer[i] = first[i] - 1;
        }
    }
    layer
}

/// Sorts each row by the mean position of what its items hang on, downwards and upwards in turn.
fn order(items: &mut [Item], rows: &mut [Vec<usize>]) {
    let pack = |items: &mut [Item], row: &[usize]| {
        for (i, item) in row.iter().enumerate() {
            items[*item].x = i as f64;
        }
    };
    rows.iter().for_each(|row| pack(items, row));
    for sweep in 0..ORDER_SWEEPS {
        let side = sweep % 2;
        for row in along(rows.len(), side) {
            let row = &mut rows[row];
            let mut keyed: Vec<(f64, usize)> = row.iter().map(|i| (mean(items, *i, side), *i)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            *row = keyed.into_iter().map(|(_, i)| i).collect();
            pack(items, row);
        }
    }
}

/// The mean position of the neighbours on a side; the item's own when it has none.
fn mean(items: &[Item], i: usize, side: usize) -> f64 {
    let near = &items[i].near[side];
    if near.is_empty() {
        return items[i].x;
    }
    near.iter().map(|n| items[*n].x).sum::<f64>() / near.len() as f64
}

/// The rows from the top when items look up, from the bottom when they look down.
fn along(rows: usize, side: usize) -> impl Iterator<Item = usize> {
    (0..rows).map(move |i| if side == 0 { i } else { rows - 1 - i })
}

/// Moves the items of each row towards the mean of their neighbours, in their order and without overlap.
fn place(items: &mut [Item], rows: &[Vec<usize>]) {
    for row in rows {
        let mut x = 0.0;
        for i in row {
            items[*i].x = x + items[*i].width / 2.0;
            x += items[*i].width;
        }
    }
    for sweep in 0..PLACE_SWEEPS {
        let side = sweep % 2;
        for row in along(rows.len(), side) {
            settle(items, &rows[row], side);
        }
    }
}

/// The positions nearest to the wanted ones, in weighted squares, that keep order and distances: isotonic regression by
/// pooling adjacent violators.
fn settle(items: &mut [Item], row: &[usize], side: usize) {
    // Less the widths to the left, every order is allowed that does not fall.
    let mut offsets = vec![];
    let mut offset = 0.0;
    // Blocks of equal position: (position, weight, items).
    let mut blocks: Vec<(f64, f64, usize)> = vec![];
    for i in row {
        let item = &items[*i];
        offsets.push(offset + item.width / 2.0);
        let wanted = pull(items, *i, side) - offset - item.width / 2.0;
        offset += item.width;
        let mut block = (wanted, item.weight, 1);
        while let Some(last) = blocks.pop_if(|last| last.0 > block.0) {
            let weight = last.1 + block.1;
            block = ((last.0 * last.1 + block.0 * block.1) / weight, weight, last.2 + block.2);
        }
        blocks.push(block);
    }
    let positions = blocks.iter().flat_map(|(x, _, n)| std::iter::repeat_n(*x, *n));
    for ((i, x), offset) in row.iter().zip(positions).zip(offsets) {
        items[*i].x = x + offset;
    }
}

/// Where the neighbours on a side want an item: boxes before points, or each residual connection would shift all that
/// follows it.
fn pull(items: &[Item], i: usize, side: usize) -> f64 {
    let boxes = items[i].near[side].iter().filter(|n| items[**n].width == BOX);
    let (sum, count) = boxes.fold((0.0, 0), |(sum, count), n| (sum + items[*n].x, count + 1));
    if count == 0 {
        mean(items, i, side)
    } else {
        sum / f64::from(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_a_straight_line_and_a_branch_stands_beside_it() {
        let chain = layout(3, &[(0, 1), (1, 2)]);
        assert_eq!(chain.at, [(92, 0), (92, 1), (92, 2)]);
        // 0 feeds 1, 2 and 3; 1 and 2 feed 3.
        let l = layout(4, &[(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)]);
        let layers: Vec<usize> = l.at.iter().map(|a| a.1).collect();
        assert_eq!(layers, [0, 1, 1, 2]);
        assert!((l.at[1].0 - l.at[2].0).abs() >= BOX as i64);
        assert_eq!(l.trunks[0].len(), 1, "the edge to 3 passes a layer");
        assert_eq!(layout(0, &[]).at, []);
    }

    #[test]
    fn what_depends_on_nothing_stands_above_its_reader() {
        // 3 is a constant that 4 reads.
        let l = layout(5, &[(0, 1), (1, 2), (2, 4), (3, 4)]);
        assert_eq!(l.at[3].1, 2);
    }

    #[test]
    fn boxes_never_overlap() {
        // A ladder with rungs of many lengths.
        let edges: Vec<(usize, usize)> = (0..60)
            .flat_map(|i: usize| [1, 2, 5, 17].map(|d| (i, i + d * (1 + i % 3))))
            .filter(|(_, to)| *to < 60)
            .collect();
        let l = layout(60, &edges);
        for (i, a) in l.at.iter().enumerate() {
            for b in &l.at[..i] {
                assert!(a.1 != b.1 || (a.0 - b.0).abs() >= BOX as i64 - 1, "{a:?} {b:?}");
            }
        }
        assert_eq!(l, layout(60, &edges));
    }
}
