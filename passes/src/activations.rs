//! Activations that exporters spelled out become one operation each.
//!
//! ```text
//! %3 = Div(%0, 1.4142135) : f32[N,8]
//! %4 = Erf(%3) : f32[N,8]
//! %5 = Add(%4, 1.0) : f32[N,8]                     →    %1 = Gelu(%0) : f32[N,8]
//! %6 = Mul(%0, %5) : f32[N,8]
//! %7 = Mul(%6, 0.5) : f32[N,8]
//! ```
//!
//! The operations compute the formulas in one kernel without overflow and cancellation, and their factors are out of the
//! reach of passes that move factors about. Refused: formulas of which others read a part (it would be computed twice),
//! and those whose numbers broadcast the result to a larger shape.

use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, Graph, NodeId, Tensor, ValueId};

use crate::Pass;
use crate::formula::{Formula, Match, Near};
use crate::pattern::splat;

pub const PASS: Pass = Pass {
    name: "activations",
    doc: "recovers activations that are spelled out as primitives",
    run,
};

/// `op(x) {attrs}` for a formula of `x`.
struct Activation {
    op: &'static str,
    formula: &'static str,
    attrs: &'static [(&'static str, Value)],
}

/// The value of an attribute.
#[derive(Clone, Copy)]
enum Value {
    Str(&'static str),
    Float(f32),
    /// What a free number of the formula is.
    Found(&'static str),
}

const fn plain(op: &'static str, formula: &'static str) -> Activation {
    with(op, formula, &[])
}

const fn with(op: &'static str, formula: &'static str, attrs: &'static [(&'static str, Value)]) -> Activation {
    Activation { op, formula, attrs }
}

const TANH: &[(&str, Value)] = &[("approximate", Value::Str("tanh"))];
const ALPHA: &[(&str, Value)] = &[("alpha", Value::Found("alpha"))];

/// Formulas of the whole operation; an operation that occurs in the formula of another is found first, as nodes are
/// visited producers first.
const FORMULAS: &[Activation] = &[
    plain("Gelu", "0.5 * x * (1 + erf(x / sqrt(2)))"),
    with("Gelu", "0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))", TANH),
    with(
        "Gelu",
        "0.5 * x * (1 + tanh(sqrt(2/pi) * x * (1 + 0.044715 * x^2)))",
        TANH,
    ),
    // (1 + tanh z) / 2 = sigmoid(2 z)
    with("Gelu", "x * sigmoid(2 * sqrt(2/pi) * (x + 0.044715 * x^3))", TANH),
    with("Gelu", "x * sigmoid(2 * sqrt(2/pi) * x * (1 + 0.044715 * x^2))", TANH),
    plain("Sigmoid", "1 / (1 + exp(-x))"),
    with("Swish", "x * sigmoid(alpha * x)", ALPHA),
    with("Swish", "x / (1 + exp(-alpha * x))", ALPHA),
    with(
        "HardSigmoid",
        "clip(x + 3, 0, 6) / 6",
        &[("alpha", Value::Float(1.0 / 6.0)), ("beta", Value::Float(0.5))],
    ),
    with(
        "HardSigmoid",
        "clip(alpha * x + beta, 0, 1)",
        &[("alpha", Value::Found("alpha")), ("beta", Value::Found("beta"))],
    ),
    plain("HardSwish", "x * clip(x + 3, 0, 6) / 6"),
    plain("HardSwish", "x * clip(x / 6 + 0.5, 0, 1)"),
    plain("Softplus", "log(1 + exp(x))"),
    // PyTorch's, which keeps large operands as they are.
    plain("Softplus", "where(greater(x, t), x, softplus(x))"),
    plain("Mish", "x * tanh(softplus(x))"),
    plain("Relu", "clip(x, 0, inf)"),
    plain("Tanh", "(exp(x) - exp(-x)) / (exp(x) + exp(-x))"),
    plain("Tanh", "2 * sigmoid(2 * x) - 1"),
];

/// `2 k op(x)` for formulas that lost their factor 1/2 to something else, as where it comes after a Reshape.
const DOUBLED: &[Activation] = &[
    plain("Gelu", "k * x * (1 + erf(x / sqrt(2)))"),
    with("Gelu", "k * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))", TANH),
    with(
        "Gelu",
        "k * x * (1 + tanh(sqrt(2/pi) * x * (1 + 0.044715 * x^2)))",
        TANH,
    ),
];

/// From here on `ln(1 + e^x)` is `x` in f32: they differ by `e^-x`.
const SOFTPLUS_IS_IDENTITY: f64 = 16.0;

fn run(rw: &mut Rewriter) {
    let constants = rw.graph().constants();
    // Whole formulas first: the result of a doubled one hides them.
    for table in [FORMULAS, DOUBLED] {
        let table = parsed(table);
        rw.fixpoint(|rw, n| {
            let near = Near::of(rw.graph(), rw.node(n).outputs[0]);
            for (activation, formula) in &table {
                match recover(rw, &constants, &near, n, activation, formula) {
                    Outcome::NoMatch => {}
                    other => return other,
                }
            }
            Outcome::NoMatch
        });
    }
}

/// The formulas of a table; a test parses all of them.
fn parsed(table: &'static [Activation]) -> Vec<(&'static Activation, Formula)> {
    table
        .iter()
        .filter_map(|a| Some((a, Formula::parse(a.formula).ok()?)))
        .collect()
}

fn recover(
    rw: &mut Rewriter,
    constants: &[bool],
    near: &Near,
    n: NodeId,
    activation: &Activation,
    formula: &Formula,
) -> Outcome {
    let node = rw.node(n);
    let [root] = node.outputs[..] else {
        return Outcome::NoMatch;
    };
    if node.op == activation.op {
        return Outcome::NoMatch;
    }
    let found = formula.find(rw.graph(), constants, near, root, |m| {
        plausible(rw.graph(), activation, m)
    });
    let Some((found, x)) = found.and_then(|m| m.value("x").map(|x| (m, x))) else {
        return Outcome::NoMatch;
    };
    // The root first: it is what is replaced.
    let mut nodes = vec![n];
    nodes.extend(found.nodes.iter().copied().filter(|m| *m != n));
    if rw.fact(x).shape != rw.fact(root).shape {
        return rw.refuse(&nodes, activation.op, "its numbers broadcast it to a larger shape");
    }
    if let Some(shared) = found.read_elsewhere(rw.graph(), root) {
        let reason = format!("the result of {} is also read by others", rw.node(shared).op);
        return rw.refuse(&nodes, activation.op, reason);
    }
    let attrs: Vec<(&str, Attr)> = activation
        .attrs
        .iter()
        .filter_map(|(name, value)| {
            let value = match value {
                Value::Str(s) => Attr::Str((*s).into()),
                Value::Float(f) => Attr::Float(*f),
                Value::Found(number) => Attr::Float(found.number(number)? as f32),
            };
            Some((*name, value))
        })
        .collect();
    let dtype = rw.fact(root).dtype;
    rw.replace_one(&nodes, activation.op, |rw| {
        let y = rw.apply(activation.op, &attrs, &[x])?;
        let Some(k) = found.number("k") else { return Ok(y) };
        let factor = rw.add_weight("", Tensor::from_f64(dtype, &[], [2.0 * k]));
        rw.apply("Mul", &[], &[y, factor])
    })
}

/// Whether the free numbers make sense.
fn plausible(g: &Graph, activation: &Activation, m: &Match) -> bool {
    match activation.op {
        // A clip of nothing but `x` stays one, and alpha and beta take all numbers that there are.
        "HardSigmoid" => m.number("beta") != Some(0.0) && m.value("x").is_some_and(|x| !has_number(g, x)),
        "Softplus" => m.number("t").is_none_or(|t| t >= SOFTPLUS_IS_IDENTITY),
        _ => true,
    }
}

/// Whether `v` is a sum or product with a number.
fn has_number(g: &Graph, v: ValueId) -> bool {
    g.producer(v).is_some_and(|(n, _)| {
        let node = g.node(n);
        matches!(node.op.name(), "Add" | "Sub" | "Mul" | "Div")
            && node.inputs.iter().flatten().any(|v| splat(g, *v).is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::{DOUBLED, FORMULAS, PASS};
    use crate::formula::Formula;
    use crate::testing::{graph, refused, rewrite};

    /// A graph with input x: f32[N,2] that returns the last value, numbers written in place.
    fn spelled(lines: &str) -> String {
        let (mut weights, mut nodes, mut last) = (String::new(), String::new(), "%0");
        let mut count = 0;
        for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let (name, rest) = line.split_once(" = ").expect("an assignment");
            let (op, rest) = rest.split_once('(').expect("an operation");
            let (operands, attrs) = rest.split_once(')').expect("operands");
            let operands: Vec<String> = operands
                .split(", ")
                .map(|o| match o.parse::<f64>() {
                    Ok(_) => {
                        count += 1;
                        weights += &format!("weight %{}: f32[] = dense({o})\n", 1000 + count);
                        format!("%{}", 1000 + count)
                    }
                    Err(_) => o.to_string(),
                })
                .collect();
            nodes += &format!("{name} = {op}({}){attrs}\n", operands.join(", "));
            last = name;
        }
        format!("graph @g (%0 \"x\": f32[N,2]) symbols N=1.. {{\n{weights}{nodes}return {last} \"y\"\n}}")
    }

    /// The operation that the graph becomes, with its attributes.
    fn becomes(lines: &str) -> String {
        let text = rewrite(&PASS, &spelled(lines));
        let nodes: Vec<&str> = text
            .lines()
            .filter(|l| l.contains(" = ") && !l.contains("weight"))
            .collect();
        nodes
            .iter()
            .map(|l| {
                l.split_once(" = ")
                    .map_or(*l, |(_, r)| r.split(" :").next().unwrap_or(r))
            })
            .collect::<Vec<_>>()
            .join("; ")
    }

    #[test]
    fn formulas_are_well_formed() {
        for a in FORMULAS.iter().chain(DOUBLED) {
            assert_eq!(Formula::parse(a.formula).err(), None, "{}", a.formula);
        }
    }

    #[test]
    fn gelu() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {
              weight %1: f32[] = dense(1.4142135)
              weight %2: f32[] = dense(1.0)
              weight %3: f32[] = dense(0.5)
              %4 = Div(%0, %1) from "div"
              %5 = Erf(%4) from "erf"
              %6 = Add(%5, %2) from "add"
              %7 = Mul(%0, %6) from "mul"
              %8 = Mul(%7, %3) from "half"
              return %8 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2]) symbols N=1.. {
          weight %1: f32[] = dense(1.4142135)
          weight %2: f32[] = dense(1.0)
          weight %3: f32[] = dense(0.5)
          %4 = Gelu(%0) : f32[N,2] from "add", "div", "erf", "half", "mul"
          return %4 "y"
        }
        "#);
        // Half of x first, numbers in parts, the reciprocal, a splat of the shape [1, 1].
        let text = becomes(
            "%2 = Mul(0.5, %0)
             %3 = Mul(%0, 0.70710677)
             %4 = Erf(%3)
             %5 = Add(1.0, %4)
             %6 = Mul(%5, %2)",
        );
        assert_eq!(text, "Gelu(%0)");
        let text = becomes(
            "%2 = Mul(%0, 0.35355339)
             %3 = Mul(2.0, %2)
             %4 = Erf(%3)
             %5 = Mul(%4, 0.5)
             %6 = Sub(%5, -0.5)
             %7 = Mul(%6, %0)",
        );
        assert_eq!(text, "Gelu(%0)");
        // The operand is a product itself.
        let text = becomes(
            "%1 = Mul(%0, %0)
             %2 = Mul(%1, 0.5)
             %3 = Mul(%1, 0.70710677)
             %4 = Erf(%3)
             %5 = Add(%4, 1.0)
             %6 = Mul(%2, %5)",
        );
        assert_eq!(text, "Mul(%0, %0); Gelu(%4)");
        // The half comes later, or went elsewhere.
        let text = becomes(
            "%3 = Div(%0, 1.4142135)
             %4 = Erf(%3)
             %5 = Add(%4, 1.0)
             %6 = Mul(%0, %5)
             %7 = Exp(%6)",
        );
        assert_eq!(text, "Gelu(%0); Mul(%4, %1); Exp(%5)");
    }

    #[test]
    fn gelu_by_tanh() {
        for lines in [
            // Hugging Face's "gelu_new".
            "%2 = Mul(%0, 0.5)
             %3 = Mul(%0, %0)
             %4 = Mul(%3, %0)
             %5 = Mul(%4, 0.044715)
             %6 = Add(%0, %5)
             %7 = Mul(%6, 0.7978846)
             %8 = Tanh(%7)
             %9 = Add(%8, 1.0)
             %10 = Mul(%2, %9)",
            // "gelu_fast".
            "%2 = Mul(%0, 0.5)
             %3 = Mul(%0, 0.7978845608)
             %4 = Mul(%0, 0.044715)
             %5 = Mul(%4, %0)
             %6 = Add(1.0, %5)
             %7 = Mul(%3, %6)
             %8 = Tanh(%7)
             %9 = Add(%8, 1.0)
             %10 = Mul(%2, %9)",
            "%3 = Pow(%0, 3.0)
             %4 = Mul(%3, 0.035677408)
             %5 = Mul(%0, 0.7978846)
             %6 = Add(%4, %5)
             %8 = Tanh(%6)
             %9 = Add(1.0, %8)
             %10 = Mul(%9, %0)
             %11 = Div(%10, 2.0)",
            "%3 = Pow(%0, 3.0)
             %4 = Mul(%3, 0.07135481)
             %5 = Mul(%0, 1.5957691)
             %6 = Add(%4, %5)
             %8 = Sigmoid(%6)
             %9 = Mul(%8, %0)",
        ] {
            assert_eq!(becomes(lines), "Gelu(%0) {approximate=\"tanh\"}", "{lines}");
        }
    }

    #[test]
    fn sigmoid_and_swish() {
        for (lines, text) in [
            (
                "%1 = Neg(%0)\n%2 = Exp(%1)\n%3 = Add(%2, 1.0)\n%4 = Reciprocal(%3)",
                "Sigmoid(%0)",
            ),
            (
                "%1 = Mul(%0, -1.0)\n%2 = Exp(%1)\n%3 = Add(1.0, %2)\n%4 = Div(1.0, %3)",
                "Sigmoid(%0)",
            ),
            ("%1 = Sigmoid(%0)\n%2 = Mul(%1, %0)", "Swish(%0) {alpha=1.0}"),
            (
                "%1 = Mul(1.702, %0)\n%2 = Sigmoid(%1)\n%3 = Mul(%0, %2)",
                "Swish(%0) {alpha=1.702}",
            ),
            (
                "%1 = Neg(%0)\n%2 = Exp(%1)\n%3 = Add(%2, 1.0)\n%4 = Div(%0, %3)",
                "Swish(%0) {alpha=1.0}",
            ),
            // The gate has another operand.
            (
                "%1 = Exp(%0)\n%2 = Sigmoid(%1)\n%3 = Mul(%0, %2)",
                "Exp(%0); Sigmoid(%1); Mul(%0, %2)",
            ),
        ] {
            assert_eq!(becomes(lines), text, "{lines}");
        }
    }

    #[test]
    fn hard_ones() {
        for (lines, text) in [
            (
                "%1 = Add(%0, 3.0)\n%2 = Clip(%1, 0.0, 6.0)\n%3 = Mul(%0, %2)\n%4 = Div(%3, 6.0)",
                "HardSwish(%0)",
            ),
            (
                "%1 = Sub(%0, -3.0)\n%2 = Relu(%1)\n%3 = Min(%2, 6.0)\n%4 = Mul(%3, 0.16666667)\n%5 = Mul(%4, %0)",
                "HardSwish(%0)",
            ),
            (
                "%1 = Add(%0, 3.0)\n%2 = Min(6.0, %1)\n%3 = Max(0.0, %2)\n%4 = Div(%3, 6.0)\n%5 = Mul(%0, %4)",
                "HardSwish(%0)",
            ),
            (
                "%1 = HardSigmoid(%0) {alpha=0.16666667, beta=0.5}\n%2 = Mul(%0, %1)",
                "HardSwish(%0)",
            ),
            ("%1 = HardSigmoid(%0)\n%2 = Mul(%0, %1)", "HardSigmoid(%0); Mul(%0, %1)"),
            (
                "%1 = Mul(%0, 0.2)\n%2 = Add(%1, 0.5)\n%3 = Clip(%2, 0.0, 1.0)",
                "HardSigmoid(%0) {alpha=0.2, beta=0.5}",
            ),
            ("%2 = Clip(%0, 0.0, 1.0)", "Clip(%0, %1, %2)"),
            (
                "%1 = Mul(%0, 0.2)\n%2 = Add(%1, 0.5)\n%3 = Clip(%2, 0.0, 2.0)",
                "Mul(%0, %1); Add(%5, %2); Clip(%6, %3, %4)",
            ),
            ("%1 = Max(0.0, %0)", "Relu(%0)"),
            ("%1 = Clip(%0, 0.0)", "Relu(%0)"),
            ("%1 = Max(0.5, %0)", "Max(%1, %0)"),
        ] {
            assert_eq!(becomes(lines), text, "{lines}");
        }
    }

    #[test]
    fn by_exponentials() {
        for (lines, text) in [
            ("%1 = Exp(%0)\n%2 = Add(1.0, %1)\n%3 = Log(%2)", "Softplus(%0)"),
            (
                "%1 = Exp(%0)\n%2 = Add(%1, 1.0)\n%3 = Log(%2)\n%4 = Tanh(%3)\n%5 = Mul(%4, %0)",
                "Mish(%0)",
            ),
            (
                "%1 = Softplus(%0)\n%2 = Greater(%0, 20.0)\n%3 = Where(%2, %0, %1)",
                "Softplus(%0)",
            ),
            (
                "%1 = Softplus(%0)\n%2 = Greater(%0, 1.0)\n%3 = Where(%2, %0, %1)",
                "Greater(%0, %1); Softplus(%0); Where(%2, %0, %3)",
            ),
            (
                "%1 = Exp(%0)\n%2 = Neg(%0)\n%3 = Exp(%2)\n%4 = Sub(%1, %3)\n%5 = Add(%3, %1)\n%6 = Div(%4, %5)",
                "Tanh(%0)",
            ),
            (
                "%1 = Mul(%0, 2.0)\n%2 = Sigmoid(%1)\n%3 = Mul(2.0, %2)\n%4 = Sub(%3, 1.0)",
                "Tanh(%0)",
            ),
        ] {
            assert_eq!(becomes(lines), text, "{lines}");
        }
    }

    #[test]
    fn other_numbers_are_other_functions() {
        for lines in [
            // 0.045 for 0.044715
            "%2 = Mul(%0, 0.5)
             %3 = Pow(%0, 3.0)
             %5 = Mul(%3, 0.045)
             %6 = Add(%0, %5)
             %7 = Mul(%6, 0.7978846)
             %8 = Tanh(%7)
             %9 = Add(%8, 1.0)
             %10 = Mul(%2, %9)",
            // no root of 2
            "%3 = Div(%0, 2.0)
             %4 = Erf(%3)
             %5 = Add(%4, 1.0)
             %6 = Mul(%0, %5)
             %7 = Mul(%6, 0.5)",
            // minus
            "%3 = Div(%0, 1.4142135)
             %4 = Erf(%3)
             %5 = Sub(%4, 1.0)
             %6 = Mul(%0, %5)
             %7 = Mul(%6, 0.5)",
            "%1 = Exp(%0)
             %2 = Add(%1, 2.0)
             %3 = Log(%2)",
        ] {
            let source = spelled(lines);
            assert_eq!(
                rewrite(&PASS, &source),
                crate::testing::show(&graph(&source)),
                "{lines}"
            );
        }
    }

    #[test]
    fn refuses_parts_that_others_read() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N]) symbols N=1.. {
              %1 = Sigmoid(%0)
              %2 = Mul(%0, %1)
              %3 = Neg(%1)
              return %2 "y", %3 "z"
            }"#,
        );
        insta::assert_snapshot!(text, @"Swish: the result of Sigmoid is also read by others");
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N]) symbols N=1.. {
              %1 = Softplus(%0)
              %2 = Tanh(%1)
              %3 = Mul(%2, %0)
              return %3 "y", %2 "z"
            }"#,
        );
        insta::assert_snapshot!(text, @"Mish: the result of Tanh is also read by others");
    }

    #[test]
    fn refuses_numbers_that_broadcast() {
        // N may be 1 or 4.
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N]) symbols N=1.. {
              weight %1: f32[4] = dense(1.702, 1.702, 1.702, 1.702)
              %2 = Mul(%0, %1)
              %3 = Sigmoid(%2)
              %4 = Mul(%0, %3)
              return %4 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"Swish: its numbers broadcast it to a larger shape");
    }
}
