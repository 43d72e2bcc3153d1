//! Rules for arithmetic and selection.

use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, DType, NodeId, Tensor, ValueId};

use super::Rule;
use crate::pattern::splat;

pub const RULES: &[Rule] = &[
    neutral,
    variadic_sum,
    constant_second,
    minus_constant,
    over_power_of_two,
    power,
    double_negation,
    where_constant,
    where_not,
];

/// `x + 0`, `x - 0`, `x * 1`, `x / 1`, `x ** 1`, `x and true`, `x or false` → `x`
fn neutral(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let node = rw.node(n);
    let (neutral, either_side) = match node.op.name() {
        "Add" => (0.0, true),
        "Sub" => (0.0, false),
        "Mul" | "And" => (1.0, true),
        "Or" => (0.0, true),
        "Div" | "Pow" => (1.0, false),
        _ => return Outcome::NoMatch,
    };
    let (Some(a), Some(b)) = (rw.input(n, 0), rw.input(n, 1)) else {
        return Outcome::NoMatch;
    };
    let out = node.outputs[0];
    for (x, c, allowed) in [(a, b, true), (b, a, either_side)] {
        let copies = rw.graph().is_output(out) && rw.graph().producer(x).is_none();
        if !allowed || rw.fact(x).dtype != rw.fact(out).dtype || splat(rw.graph(), c) != Some(neutral) {
            continue;
        }
        let shape = rw.fact(out).shape.clone();
        if rw.fact(x).shape != shape {
            return rw.replace_one(&[n], "neutral operand", |rw| {
                rw.apply("Expand", &[("shape", Attr::Dims(shape))], &[x])
            });
        }
        if !copies {
            return rw.replace_one(&[n], "neutral operand", |_| Ok(x));
        }
    }
    Outcome::NoMatch
}

/// `Sum(a, b, c)` → `Add(Add(a, b), c)`
fn variadic_sum(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let node = rw.node(n);
    if node.op != "Sum" || node.inputs.len() < 2 {
        return Outcome::NoMatch;
    }
    // The sum of narrow numbers is rounded once.
    if node.inputs.len() > 2 && rw.fact(node.outputs[0]).dtype.size() < 4 {
        return Outcome::NoMatch;
    }
    let Some(inputs) = node.inputs.iter().copied().collect::<Option<Vec<ValueId>>>() else {
        return Outcome::NoMatch;
    };
    rw.replace_one(&[n], "sum", |rw| {
        let mut acc = inputs[0];
        for v in &inputs[1..] {
            acc = rw.apply("Add", &[], &[acc, *v])?;
        }
        Ok(acc)
    })
}

/// `f(c, x)` → `f(x, c)` for commutative f
fn constant_second(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let node = rw.node(n);
    if !node.op.schema().commutative || node.inputs.len() != 2 {
        return Outcome::NoMatch;
    }
    let constant = |v: Option<ValueId>| v.is_some_and(|v| rw.constant(v).is_some());
    if !constant(node.inputs[0]) || constant(node.inputs[1]) {
        return Outcome::NoMatch;
    }
    let inputs = vec![node.inputs[1], node.inputs[0]];
    rw.replace(&[n], "constant second", |rw| rw.copy_with(n, inputs))
}

/// `x - c` → `x + (-c)`
fn minus_constant(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let (Some(x), Some(c)) = (rw.input(n, 0), rw.input(n, 1)) else {
        return Outcome::NoMatch;
    };
    if rw.node(n).op != "Sub" || rw.constant(c).is_none() || rw.constant(x).is_some() {
        return Outcome::NoMatch;
    }
    if !rw.fact(c).dtype.is_signed() {
        return Outcome::NoMatch;
    }
    rw.replace_one(&[n], "add the negative", |rw| {
        let minus = rw.apply("Neg", &[], &[c])?;
        rw.apply("Add", &[], &[x, minus])
    })
}

/// Per-channel vectors; larger divisors have never been seen.
const DIVISOR_MAX: usize = 1024;

/// `x / c` → `x * (1/c)` where every element of `c` is a power of two, so that both round alike
fn over_power_of_two(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let (Some(x), Some(c)) = (rw.input(n, 0), rw.input(n, 1)) else {
        return Outcome::NoMatch;
    };
    if rw.node(n).op != "Div" {
        return Outcome::NoMatch;
    }
    let Some(t) = rw.constant(c) else {
        return Outcome::NoMatch;
    };
    if !matches!(t.dtype(), DType::F32 | DType::F64) || t.is_empty() || t.len() > DIVISOR_MAX {
        return Outcome::NoMatch;
    }
    let values = t.to_f64();
    // The reciprocal must be a normal f32: subnormals are flushed at run time.
    let exact = |v: &f64| v.to_bits() << 12 == 0 && (2f64.powi(-126)..=2f64.powi(126)).contains(&v.abs());
    if !values.iter().all(exact) {
        return rw.refuse(&[n], "division by a constant", "its reciprocal is rounded");
    }
    let reciprocal = Tensor::from_f64(t.dtype(), t.shape(), values.iter().map(|v| 1.0 / v));
    rw.replace_one(&[n], "times the reciprocal", |rw| {
        let r = rw.add_weight("", reciprocal);
        rw.apply("Mul", &[], &[x, r])
    })
}

/// `x ** 2` → `x * x`, `x ** 3` → `x * (x * x)`, `x ** -1` → `Reciprocal(x)`. Kernels have a form of their own for `x ** 0.5`,
/// which is no square root at -inf and -0.
fn power(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let (Some(x), Some(e)) = (rw.input(n, 0), rw.input(n, 1)) else {
        return Outcome::NoMatch;
    };
    let (was, is) = (rw.fact(x), rw.fact(rw.node(n).outputs[0]));
    if rw.node(n).op != "Pow" || was.shape != is.shape || was.dtype != is.dtype {
        return Outcome::NoMatch;
    }
    let float = is.dtype.is_float();
    let Some(exponent) = splat(rw.graph(), e) else {
        return Outcome::NoMatch;
    };
    let detail = "small power";
    if exponent == 2.0 {
        rw.replace_one(&[n], detail, |rw| rw.apply("Mul", &[], &[x, x]))
    } else if exponent == 3.0 {
        rw.replace_one(&[n], detail, |rw| {
            let square = rw.apply("Mul", &[], &[x, x])?;
            rw.apply("Mul", &[], &[square, x])
        })
    } else if exponent == -1.0 && float {
        rw.replace_one(&[n], detail, |rw| rw.apply("Reciprocal", &[], &[x]))
    } else {
        Outcome::NoMatch
    }
}

/// `-(-x)`, `not not x` → `x`
fn double_negation(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let op = rw.node(n).op.name();
    if !matches!(op, "Neg" | "Not" | "BitwiseNot") {
        return Outcome::NoMatch;
    }
    let inner = rw.input(n, 0).and_then(|v| rw.producer_if(v, op));
    let Some((inner, x)) = inner.and_then(|i| Some((i, rw.input(i, 0)?))) else {
        return Outcome::NoMatch;
    };
    rw.replace_one(&[n, inner], "double negation", |_| Ok(x))
}

/// `Where(true, a, b)` → `a`, `Where(false, a, b)` → `b`
fn where_constant(rw: &mut Rewriter, n: NodeId) -> Outcome {
    if rw.node(n).op != "Where" {
        return Outcome::NoMatch;
    }
    let taken = match rw.input(n, 0).and_then(|c| splat(rw.graph(), c)) {
        Some(c) if c != 0.0 => rw.input(n, 1),
        Some(_) => rw.input(n, 2),
        None => return Outcome::NoMatch,
    };
    let Some(x) = taken else { return Outcome::NoMatch };
    let out = rw.node(n).outputs[0];
    let shape = rw.fact(out).shape.clone();
    let copies = rw.graph().is_output(out) && rw.graph().producer(x).is_none();
    if rw.fact(x).shape == shape && !copies {
        return rw.replace_one(&[n], "known condition", |_| Ok(x));
    }
    rw.replace_one(&[n], "known condition", |rw| {
        rw.apply("Expand", &[("shape", Attr::Dims(shape))], &[x])
    })
}

/// `Where(not c, a, b)` → `Where(c, b, a)`
fn where_not(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let node = rw.node(n);
    if node.op != "Where" {
        return Outcome::NoMatch;
    }
    let (a, b) = (rw.input(n, 1), rw.input(n, 2));
    let Some(not) = rw.input(n, 0).and_then(|c| rw.producer_if(c, "Not")) else {
        return Outcome::NoMatch;
    };
    let inputs = vec![rw.input(not, 0), b, a];
    rw.replace(&[n, not], "negated condition", |rw| rw.copy_with(n, inputs))
}

#[cfg(test)]
mod tests {
    use crate::canonicalize::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn neutral_operands_go() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {
              weight %1: f32[] = dense(0.0)
              weight %2: f32[1,2] = dense(1.0, 1.0)
              %3 = Add(%1, %0)
              %4 = Mul(%3, %2)
              %5 = Div(%4, %2)
              %6 = Sub(%5, %1)
              %7 = Pow(%6, %2)
              %8 = Sub(%1, %7)
              return %8 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2]) symbols N=1.. {
          weight %1: f32[] = dense(0.0)
          weight %2: f32[1,2] = dense(1.0,1.0)
          %3 = Sub(%1, %0) : f32[N,2]
          return %3 "y"
        }
        "#);
    }

    #[test]
    fn a_neutral_operand_that_broadcasts_repeats() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,1]) symbols N=1.. {
              weight %1: f32[1,3] = dense(0.0, 0.0, 0.0)
              %2 = Add(%0, %1)
              return %2 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,1]) symbols N=1.. {
          weight %1: f32[1,3] = dense(0.0,0.0,0.0)
          %2 = Expand(%0) {shape=dims[N,3]} : f32[N,3]
          return %2 "y"
        }
        "#);
    }

    #[test]
    fn one_form_of_arithmetic() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N]) symbols N=1.. {
              weight %1: f32[] = dense(8.0)
              weight %2: f32[] = dense(2.0)
              weight %3: f32[] = dense(0.5)
              weight %4: f32[] = dense(3.0)
              %5 = Div(%0, %1)
              %6 = Sub(%5, %4)
              %7 = Pow(%6, %2)
              %8 = Pow(%7, %3)
              %9 = Pow(%8, %4)
              %10 = Sum(%9, %0, %1)
              %11 = Neg(%10)
              %12 = Neg(%11)
              %13 = Mul(%3, %12)
              return %13 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N]) symbols N=1.. {
          weight %1: f32[] = dense(0.125)
          weight %2: f32[] = dense(3.0)
          weight %3: f32[] = dense(0.5)
          weight %4: f32[] = dense(8.0)
          weight %5: f32[] = dense(2.0)
          %6 = Mul(%0, %1) : f32[N]
          %7 = Neg(%2) : f32[]
          %8 = Add(%6, %7) : f32[N]
          %9 = Mul(%8, %8) : f32[N]
          %10 = Pow(%9, %3) : f32[N]
          %11 = Mul(%10, %10) : f32[N]
          %12 = Mul(%11, %10) : f32[N]
          %13 = Add(%12, %0) : f32[N]
          %14 = Add(%13, %4) : f32[N]
          %15 = Mul(%14, %3) : f32[N]
          return %15 "y"
        }
        "#);
    }

    #[test]
    fn division_is_kept_where_the_reciprocal_is_rounded() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N]) symbols N=1.. {
              weight %1: f32[] = dense(3.0)
              %2 = Div(%0, %1)
              return %2 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"division by a constant: its reciprocal is rounded");
    }

    #[test]
    fn known_conditions() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N], %1 "z": f32[1], %2 "c": bool[N]) symbols N=1.. {
              weight %3: bool[1] = dense(true)
              weight %4: bool[1] = dense(false)
              %5 = Where(%3, %0, %1)
              %6 = Where(%4, %5, %1)
              %7 = Not(%2)
              %8 = Where(%7, %5, %6)
              return %8 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N], %1 "z": f32[1], %2 "c": bool[N]) symbols N=1.. {
          weight %3: bool[1] = dense(true)
          weight %4: bool[1] = dense(false)
          %5 = Where(%2, %1, %0) : f32[N]
          return %5 "y"
        }
        "#);
    }
}
