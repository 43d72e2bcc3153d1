//! Windows: nests that reduce a few points around each output, such as depthwise convolutions and pooling.
//!
//! Points outside of the input contribute nothing to the result, so code may leave them out instead of checking each:
//! a row iterator runs over a range that depends on where the window is.

use cameo_ir::structured::{Binary, Combine, Expr, ExprId, Scalar};
use cameo_ir::{DType, Dim, Sym};

use crate::nest::{guards, stages};
use crate::program::{Buffer, Nest};

/// Windows of more points than this run as any other row: 7x7.
const MOST_POINTS: i64 = 49;

/// What is special about a nest over windows. Its lanes are along the last parallel iterator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The iterator beside the lanes: windows next to each other share most of what they read.
    pub along: usize,
    /// By row iterator: where its points are in the input, if some may be outside.
    pub taps: Vec<Option<Tap>>,
}

/// Point `t` of a row iterator is at `position + step * t`, inside when that is in `0..extent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    pub position: Dim,
    pub step: i64,
    pub extent: Dim,
}

impl Tap {
    /// `position = stride * i + offset` for an iterator, when both are known.
    #[must_use]
    pub fn along(&self, i: usize) -> Option<(i64, i64)> {
        let (stride, offset) = self.position.affine_in(&Sym::Iter(i as u32))?;
        Some((stride.as_const().filter(|s| *s > 0)?, offset.as_const()?))
    }
}

/// The window of a nest; `None`: it is to be computed point by point.
#[must_use]
pub fn window(nest: &Nest, buffers: &[Buffer]) -> Option<Window> {
    let n = nest.outer.len();
    let vector = nest.schedule.vector.filter(|v| *v + 1 == n && n >= 2)?;
    let along = n - 2;
    let points: Option<i64> = nest.row.iter().map(Dim::as_const).product();
    if nest.row.is_empty() || !points.is_some_and(|p| (2..=MOST_POINTS).contains(&p)) {
        return None;
    }
    let s = stages(nest);
    if !nest.temps.is_empty() || s.in_row.iter().any(|r| *r) || s.of_reduction.iter().any(|s| *s > 0) {
        return None;
    }
    let extents: Vec<Dim> = nest.outer.iter().chain(&nest.row).cloned().collect();
    let mut taps = vec![None; nest.row.len()];
    let mut guarded = None;
    for (i, e) in nest.body.nodes().iter().enumerate() {
        let Expr::Load {
            operand,
            index,
            fill: Some(_),
            ..
        } = e
        else {
            continue;
        };
        for (d, extent) in guards(&buffers[*operand as usize], index, &extents) {
            let uses = |i: usize| d.uses(&Sym::Iter(i as u32));
            let mut rows = (0..nest.row.len()).filter(|r| uses(n + r));
            let (Some(row), None) = (rows.next(), rows.next()) else {
                return None;
            };
            // All windows that are computed together have the same rows but for the last.
            if uses(vector) || (uses(along) && row + 1 < nest.row.len()) {
                return None;
            }
            let (step, position) = d.affine_in(&Sym::Iter((n + row) as u32))?;
            let tap = Tap {
                position,
                step: step.as_const().filter(|s| *s > 0)?,
                extent,
            };
            if taps[row].replace(tap).is_some() || guarded.is_some_and(|g| g != i) {
                return None;
            }
            guarded = Some(i);
        }
    }
    let nothing = |load: usize| {
        nest.reductions
            .iter()
            .all(|r| vanishes(nest, r.root, load as ExprId, r.combine))
    };
    guarded.is_none_or(nothing).then_some(Window { along, taps })
}

/// Whether an expression leaves a reduction as it is when `load` gives its fill value.
fn vanishes(nest: &Nest, e: ExprId, load: ExprId, combine: Combine) -> bool {
    match nest.body.get(e) {
        Expr::Load { dtype, fill, .. } => e == load && fill.is_some_and(|f| neutral(f, *dtype, combine)),
        Expr::Binary(Binary::Mul, x, y) if combine == Combine::Add => {
            vanishes(nest, *x, load, combine) || vanishes(nest, *y, load, combine)
        }
        _ => false,
    }
}

fn neutral(fill: Scalar, dtype: DType, combine: Combine) -> bool {
    let Scalar::Float(bits) = fill else {
        return combine == Combine::Add && fill == Scalar::Int(0);
    };
    let value = f64::from_bits(bits);
    dtype.is_float()
        && match combine {
            Combine::Add => value == 0.0,
            Combine::Max => value == f64::NEG_INFINITY,
            Combine::Min => value == f64::INFINITY,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::KernelBody;
    use crate::testing::program;

    fn windows(text: &str) -> Vec<Option<Window>> {
        let p = program(text);
        let window = |s: &crate::program::Step| match &p.kernels[s.kernel].body {
            KernelBody::Nest(n) if !n.row.is_empty() => Some(window(n, &p.kernels[s.kernel].buffers)),
            _ => None,
        };
        p.steps.iter().filter_map(window).collect()
    }

    fn depthwise(attrs: &str) -> Vec<Option<Window>> {
        windows(&format!(
            r#"graph @g (%0 "x": f32[B,H,W,32]) symbols B=1.., H=9.., W=9.. {{
              weight %1: f32[32,1,3,3] = blob("w")
              %2 = Transpose(%0) {{perm=[0,3,1,2]}}
              %3 = Conv(%2, %1) {{group=32, {attrs}}}
              %4 = Transpose(%3) {{perm=[0,2,3,1]}}
              return %4 "y"
            }}"#
        ))
    }

    #[test]
    fn taps_know_their_place() {
        let [Some(w)] = &depthwise("pads=[1,2,1,2], strides=[1,2], dilations=[1,2]")[..] else {
            panic!("a window")
        };
        let [Some(y), Some(x)] = &w.taps[..] else {
            panic!("both may be outside")
        };
        assert_eq!((y.step, y.along(1)), (1, Some((1, -1))));
        assert_eq!((x.step, x.along(2)), (2, Some((2, -2))));
        assert_eq!(w.along, 2);
    }

    #[test]
    fn windows_inside_check_nothing() {
        let [Some(w)] = &depthwise("strides=[1,1]")[..] else {
            panic!("a window")
        };
        assert_eq!(w.taps, [None, None]);
    }

    #[test]
    fn pooling_leaves_out_what_is_outside() {
        let pool = |op: &str| {
            windows(&format!(
                r#"graph @g (%0 "x": f32[2,12,12,32]) {{
                  %2 = Transpose(%0) {{perm=[0,3,1,2]}}
                  %3 = {op}
                  %4 = Transpose(%3) {{perm=[0,2,3,1]}}
                  return %4 "y"
                }}"#
            ))
        };
        for op in [
            "MaxPool(%2) {kernel_shape=[3,3], pads=[1,1,1,1]}",
            "AveragePool(%2) {kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1}",
        ] {
            let all = pool(op);
            assert!(
                matches!(&all[..], [Some(w)] if w.taps.iter().all(Option::is_some)),
                "{op}: {all:?}"
            );
        }
    }

    #[test]
    fn long_rows_and_other_fills_are_no_windows() {
        // What is outside counts.
        let ones = r#"graph @g (%0 "x": f32[2,12,12,32]) {
          %2 = Transpose(%0) {perm=[0,3,1,2]}
          weight %1: i64[8] = dense(0,0,1,1,0,0,1,1)
          weight %6: f32[] = dense(1.0)
          %3 = Pad(%2, %1, %6)
          %4 = MaxPool(%3) {kernel_shape=[3,3]}
          %5 = Transpose(%4) {perm=[0,2,3,1]}
          return %5 "y"
        }"#;
        let rows = r#"graph @g (%0 "x": f32[8,64,32]) {
          %2 = ReduceSum(%0) {axes=dims[1]}
          return %2 "y"
        }"#;
        for text in [ones, rows] {
            let all = windows(text);
            assert!(
                all.iter()
                    .all(|w| w.as_ref().is_none_or(|w| w.taps.iter().all(Option::is_none))),
                "{all:?}"
            );
        }
    }
}
