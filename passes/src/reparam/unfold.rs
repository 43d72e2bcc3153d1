//! Windows that are written out before a product with a matrix: a convolution, which never writes them.
//!
//! ```text
//! %1 = Pad(%0) {pads=[0,0,2,2,0,0,2,2]} : f32[N,3,60,60]
//! %2 = Gather(%1, rows) {axis=2} : f32[N,3,7,14,60]            // rows[k,o] = 4*o + k
//! %3 = Gather(%2, columns) {axis=4} : f32[N,3,7,14,7,14]
//! %4 = Transpose(%3) {perm=[0,1,2,4,3,5]}                      %1 = Conv(%0, w) {pads=[2,2,2,2], strides=[4,4]}
//! %5 = Reshape(%4) : f32[N,147,196]                       →    %2 = Reshape(%1) : f32[N,64,196]
//! %6 = Transpose(%5) {perm=[0,2,1]}                            %3 = Transpose(%2) {perm=[0,2,1]}
//! %7 = MatMul(%6, a) : f32[N,196,64]
//! ```

use cameo_ir::interp::{constant_cost, eval_constant};
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, Dim, Graph, NodeId, ValueId};

use super::branch::Search;
use super::window::Window;
use crate::fold_scales::reshaped;
use crate::pattern::{perm_attr, permutation};

/// Iterations to look at the positions of windows: per axis one number for every tap and window.
const POSITIONS_MAX: u64 = 1 << 20;

/// `MatMul(unfolded(x), a)` → `Conv(x, a)`
pub fn merge(rw: &mut Rewriter, constants: &[bool], n: NodeId) -> Outcome {
    let search = Search {
        g: rw.graph(),
        constants,
    };
    let Some(found) = unfolded(&search, n) else {
        return Outcome::NoMatch;
    };
    let detail = "product with unfolded windows";
    let g = rw.graph();
    let written = (found.nodes.iter().skip(1)).find(|p| !search.read_once(g.node(**p).outputs[0]));
    if written.is_some() {
        return rw.refuse(&found.nodes, detail, "others read the windows");
    }
    let (Some(a), out) = (rw.input(n, 1), rw.node(n).outputs[0]) else {
        return Outcome::NoMatch;
    };
    let [batch, windows, outputs] = &rw.fact(out).shape[..] else {
        return Outcome::NoMatch;
    };
    let rows = vec![batch.clone(), outputs.clone(), windows.clone()];
    let mut kernel = vec![outputs.clone(), Dim::from(found.channels)];
    kernel.extend(found.window.kernel.iter().map(|k| Dim::from(*k)));
    rw.replace_one(&found.nodes, detail, |rw| {
        let a = rw.apply("Transpose", &[("perm", perm_attr(&[1, 0]))], &[a])?;
        let w = reshaped(rw, a, &kernel)?;
        let y = rw.apply("Conv", &found.window.attrs(1), &[found.x, w])?;
        let y = reshaped(rw, y, &rows)?;
        rw.apply("Transpose", &[("perm", perm_attr(&[0, 2, 1]))], &[y])
    })
}

struct Unfolded {
    x: ValueId,
    channels: i64,
    window: Window,
    /// The product first.
    nodes: Vec<NodeId>,
}

fn unfolded(search: &Search, n: NodeId) -> Option<Unfolded> {
    let g = search.g;
    let input = |n: NodeId, i: usize| g.node(n).inputs.get(i).copied().flatten();
    let from = |v: ValueId, op: &str| g.producer(v).map(|(n, _)| n).filter(|n| g.node(*n).op == op);
    let a = input(n, 1)?;
    if !search.constant(a) || g.fact(a).rank() != 2 || search.is_coarse(a) {
        return None;
    }
    let rows = from(input(n, 0)?, "Transpose").filter(|t| permutation(g, *t).as_deref() == Some(&[0, 2, 1]))?;
    let flat = from(input(rows, 0)?, "Reshape")?;
    let taps_first =
        from(input(flat, 0)?, "Transpose").filter(|t| permutation(g, *t).as_deref() == Some(&[0, 1, 2, 4, 3, 5]))?;
    let columns = from(input(taps_first, 0)?, "Gather").filter(|n| axis(g, *n) == Some(4))?;
    let lines = from(input(columns, 0)?, "Gather").filter(|n| axis(g, *n) == Some(2))?;
    let mut nodes = vec![n, rows, flat, taps_first, columns, lines];
    let mut x = input(lines, 0)?;
    let shape = &g.fact(input(taps_first, 0)?).shape;
    let [batch, channels, kh, oh, kw, ow] = &shape[..] else {
        return None;
    };
    let (channels, kernel) = (channels.as_const()?, vec![kh.as_const()?, kw.as_const()?]);
    let columns_of_a = Dim::from(channels.checked_mul(kernel[0])?.checked_mul(kernel[1])?);
    let wanted = [batch.clone(), columns_of_a, oh.clone() * ow.clone()];
    if g.fact(g.node(flat).outputs[0]).shape != wanted {
        return None;
    }
    let (sh, dh) = steps(g, input(lines, 1)?)?;
    let (sw, dw) = steps(g, input(columns, 1)?)?;
    let mut window = Window {
        kernel,
        strides: vec![sh, sw],
        dilations: vec![dh, dw],
        begin: vec![0; 2],
        end: vec![0; 2],
    };
    if let Some(pad) = from(x, "Pad")
        && let Some((begin, end)) = zero_padding(search, pad)
    {
        nodes.push(pad);
        x = input(pad, 0)?;
        (window.begin, window.end) = (begin, end);
    }
    let extents = [oh.as_const()?, ow.as_const()?];
    let fits = (0..2).all(|i| {
        // Longer axes do not exist, and sums stay far from overflow.
        let Some(d) = g.fact(x).shape[2 + i].as_const().filter(|d| *d < 1 << 32) else {
            return false;
        };
        let room = d + window.begin[i] + window.end[i] - window.dilations[i] * (window.kernel[i] - 1) - 1;
        room >= 0 && room / window.strides[i] + 1 == extents[i]
    });
    fits.then_some(Unfolded {
        x,
        channels,
        window,
        nodes,
    })
}

fn axis(g: &Graph, n: NodeId) -> Option<i64> {
    let node = g.node(n);
    let rank = g.fact(node.inputs[0]?).rank() as i64;
    match node.attrs.get("axis") {
        Some(Attr::Int(a)) => Some(if *a < 0 { a + rank } else { *a }),
        Some(_) => None,
        None => Some(0),
    }
}

/// Stride and dilation of positions `[taps, windows]` that are `window*stride + tap*dilation`.
fn steps(g: &Graph, v: ValueId) -> Option<(i64, i64)> {
    if constant_cost(g, v)? > POSITIONS_MAX {
        return None;
    }
    let t = eval_constant(g, v).ok()?;
    let [taps, windows] = t.shape()[..] else { return None };
    let at = t.to_i64();
    // One tap has any dilation, one window any stride.
    let stride = if windows > 1 { *at.get(1)? } else { 1 };
    let dilation = if taps > 1 { *at.get(windows)? } else { 1 };
    let expected = |i: usize| (i % windows) as i64 * stride + (i / windows) as i64 * dilation;
    let affine = stride > 0 && dilation > 0 && at.iter().enumerate().all(|(i, p)| *p == expected(i));
    (affine && stride < 1 << 30 && dilation < 1 << 30).then_some((stride, dilation))
}

/// Zeros before and after the two spatial axes, for a Pad that adds nothing else.
fn zero_padding(search: &Search, n: NodeId) -> Option<(Vec<i64>, Vec<i64>)> {
    let node = search.g.node(n);
    let Some(Attr::Dims(pads)) = node.attrs.get("pads") else {
        return None;
    };
    let pads: Vec<i64> = pads.iter().map(Dim::as_const).collect::<Option<_>>()?;
    let [0, 0, a, b, 0, 0, c, d] = pads[..] else {
        return None;
    };
    let zeros = match node.inputs.get(2).copied().flatten() {
        Some(v) => crate::pattern::splat(search.g, v) == Some(0.0),
        None => true,
    };
    let constant = match node.attrs.get("mode") {
        Some(Attr::Str(m)) => m.as_ref() == "constant",
        _ => true,
    };
    let plain =
        zeros && constant && !node.attrs.contains_key("axes") && [a, b, c, d].iter().all(|p| (0..1 << 30).contains(p));
    plain.then(|| (vec![a, b], vec![c, d]))
}

#[cfg(test)]
mod tests {
    use crate::reparam::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn a_soft_split() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,5,4]) symbols N=1.. {
              weight %1: i64[3,2] = dense(0, 3, 1, 4, 2, 5)
              weight %2: i64[2,4] = dense(0, 1, 2, 3, 2, 3, 4, 5)
              weight %3: f32[12,3] = random
              %4 = Pad(%0) {pads=dims[0,0,1,1,0,0,0,1]} from "pad"
              %5 = Gather(%4, %1) {axis=2} from "rows"
              %6 = Gather(%5, %2) {axis=4} from "columns"
              %7 = Transpose(%6) {perm=[0,1,2,4,3,5]}
              %8 = Reshape(%7) {shape=dims[N,12,8]}
              %9 = Transpose(%8) {perm=[0,2,1]}
              %10 = MatMul(%9, %3) from "linear"
              return %10 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,5,4]) symbols N=1.. {
          weight %1: f32[12,3] = dense(…)
          weight %2: i64[3,2] = dense(…)
          weight %3: i64[2,4] = dense(…)
          %4 = Transpose(%1) {perm=[1,0]} : f32[3,12] from "columns", "linear", "pad", "rows"
          %5 = Reshape(%4) {shape=dims[3,2,3,2]} : f32[3,2,3,2] from "columns", "linear", "pad", "rows"
          %6 = Conv(%0, %5) {dilations=[1,2], group=1, pads=[1,1,0,1], strides=[3,1]} : f32[N,3,2,4] from "columns", "linear", "pad", "rows"
          %7 = Reshape(%6) {shape=dims[N,3,8]} : f32[N,3,8] from "columns", "linear", "pad", "rows"
          %8 = Transpose(%7) {perm=[0,2,1]} : f32[N,8,3] from "columns", "linear", "pad", "rows"
          return %8 "y"
        }
        "#);
    }

    #[test]
    fn other_positions_are_no_windows() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,5,4]) symbols N=1.. {
              weight %1: i64[2,2] = dense(0, 3, 1, 3)
              weight %2: i64[2,2] = dense(0, 1, 2, 3)
              weight %3: f32[8,3] = random
              %4 = Gather(%0, %1) {axis=2}
              %5 = Gather(%4, %2) {axis=4}
              %6 = Transpose(%5) {perm=[0,1,2,4,3,5]}
              %7 = Reshape(%6) {shape=dims[N,8,4]}
              %8 = Transpose(%7) {perm=[0,2,1]}
              %9 = MatMul(%8, %3)
              return %9 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"");
    }

    #[test]
    fn refuses_windows_that_others_read() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,1,4,4]) symbols N=1.. {
              weight %1: i64[2,2] = dense(0, 2, 1, 3)
              weight %2: f32[4,3] = random
              %3 = Gather(%0, %1) {axis=2}
              %4 = Gather(%3, %1) {axis=-2}
              %5 = Gather(%3, %1) {axis=4}
              %6 = Transpose(%5) {perm=[0,1,2,4,3,5]}
              %7 = Reshape(%6) {shape=dims[N,4,4]}
              %8 = Transpose(%7) {perm=[0,2,1]}
              %9 = MatMul(%8, %2)
              return %4 "z", %9 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"product with unfolded windows: others read the windows");
    }
}
