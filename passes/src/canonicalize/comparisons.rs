//! Rules for comparisons of numbers whose range is known, as masks of attention make of positions.

use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, Bounds, DType, Dim, Graph, NodeId, Tensor, ValueId};

use super::Rule;
use crate::pattern::splat;

pub const RULES: &[Rule] = &[known_comparison];

/// Operations between a comparison and what tells the range.
const DEPTH: usize = 8;

/// The least and the largest integer that a tensor may hold, where that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    least: Option<i64>,
    most: Option<i64>,
}

impl Span {
    fn of_dim(d: &Dim) -> Self {
        let (least, most) = Bounds::of(&[]).range(d);
        Self {
            least: Some(least).filter(|l| *l > i64::MIN),
            most: Some(most).filter(|m| *m < i64::MAX),
        }
    }

    fn of(g: &Graph, v: ValueId, depth: usize) -> Self {
        let whole = |v: ValueId| {
            splat(g, v)
                .filter(|x| x.fract() == 0.0 && x.abs() < 1e15)
                .map(|x| x as i64)
        };
        if let Some(x) = whole(v) {
            return Self {
                least: Some(x),
                most: Some(x),
            };
        }
        let Some((n, _)) = g.producer(v).filter(|_| depth > 0) else {
            return Self::default();
        };
        let node = g.node(n);
        let input = |i: usize| node.inputs.get(i).copied().flatten();
        let of = |i: usize| input(i).map_or_else(Self::default, |v| Self::of(g, v, depth - 1));
        let parameter = |i: usize, name: &str| match node.attrs.get(name) {
            Some(Attr::Dims(d)) => d.first().map_or_else(Self::default, Self::of_dim),
            _ => of(i),
        };
        match node.op.name() {
            "Reshape" | "Unsqueeze" | "Squeeze" | "Expand" | "Transpose" | "Flatten" | "Identity" => of(0),
            "Cast"
                if [g.fact(v).dtype, g.fact(input(0).unwrap_or(v)).dtype]
                    .iter()
                    .all(|t| *t == DType::I64) =>
            {
                of(0)
            }
            "Shape" | "Size" | "ArgMax" | "ArgMin" => Self {
                least: Some(0),
                most: None,
            },
            // From the start on, away from it: the limit itself is not reached.
            "Range" => match (of(0), parameter(1, "limit"), parameter(2, "delta").least) {
                (start, limit, Some(1..)) => Self {
                    least: start.least,
                    most: limit.most.map(|m| m.saturating_sub(1)),
                },
                _ => Self::default(),
            },
            _ => Self::default(),
        }
    }
}

/// `Range(0, n, 1) >= 0` → `true`, of the same shape
fn known_comparison(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let g = rw.graph();
    let node = g.node(n);
    let (Some(a), Some(b)) = (rw.input(n, 0), rw.input(n, 1)) else {
        return Outcome::NoMatch;
    };
    if !matches!(node.op.name(), "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual") || !g.fact(a).dtype.is_int() {
        return Outcome::NoMatch;
    }
    let (a, b) = (Span::of(g, a, DEPTH), Span::of(g, b, DEPTH));
    let less = |a: Span, b: Span| Some(a.most? < b.least?);
    let at_most = |a: Span, b: Span| Some(a.most? <= b.least?);
    // Always, or never.
    let (always, never) = match node.op.name() {
        "Less" => (less(a, b), at_most(b, a)),
        "LessOrEqual" => (at_most(a, b), less(b, a)),
        "Greater" => (less(b, a), at_most(a, b)),
        _ => (at_most(b, a), less(a, b)),
    };
    let known = match (always, never) {
        (Some(true), _) => true,
        (_, Some(true)) => false,
        _ => return Outcome::NoMatch,
    };
    let shape = g.fact(node.outputs[0]).shape.clone();
    rw.replace_one(&[n], "known comparison", |rw| {
        let known = rw.add_weight("", Tensor::from_i64(DType::Bool, &[], [i64::from(known)]));
        rw.apply("Expand", &[("shape", Attr::Dims(shape))], &[known])
    })
}

#[cfg(test)]
mod tests {
    use crate::canonicalize::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn positions_are_never_negative() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[B,4,S,S], %1 "keep": bool[B,1,1,S]) symbols B=1.., S=1.. {
              weight %2: i64[] = dense(0)
              weight %3: i64[] = dense(3)
              weight %4: f32[] = dense(0.0)
              weight %5: f32[] = dense(-inf)
              weight %14: i64[] = dense(1)
              %6 = Shape(%0)
              %7 = Gather(%6, %3)
              %8 = Range(%2, %7, %14)
              %9 = Unsqueeze(%8) {axes=[1]}
              %10 = GreaterOrEqual(%9, %2)
              %11 = And(%10, %1)
              %12 = Where(%11, %4, %5)
              %13 = Add(%0, %12)
              return %13 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[B,4,S,S], %1 "keep": bool[B,1,1,S]) symbols B=1.., S=1.. {
          weight %2: f32[] = dense(0.0)
          weight %3: f32[] = dense(-inf)
          weight %4: i64[] = dense(0)
          weight %5: i64[] = dense(3)
          weight %6: i64[] = dense(1)
          weight %7: bool[] = dense(true)
          %8 = Where(%1, %2, %3) : f32[B,1,1,S]
          %9 = Add(%0, %8) : f32[B,4,S,S]
          return %9 "y"
        }
        "#);
    }

    #[test]
    fn what_may_be_either_stays() {
        for (range, compared) in [
            ("Range(%2, %7, %3)", "Greater(%8, %2)"),
            ("Range(%2, %7, %3)", "Less(%8, %3)"),
            ("Range(%7, %2, %4)", "GreaterOrEqual(%8, %2)"),
        ] {
            refused(
                &PASS,
                &format!(
                    r#"graph @g (%0 "x": f32[N]) symbols N=1.. {{
                      weight %2: i64[] = dense(0)
                      weight %3: i64[] = dense(1)
                      weight %4: i64[] = dense(-1)
                      %6 = Shape(%0)
                      %7 = Gather(%6, %2)
                      %8 = {range}
                      %9 = {compared}
                      return %9 "y"
                    }}"#
                ),
            );
        }
    }
}
