//! The test that every operation must pass: inference, `eval` and the naively run loops agree, with concrete shapes and
//! with symbolic ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{run_node, run_with_facts};
use crate::dim::ELEMENT;
use crate::graph::infer;
use crate::interp::{is_rounded, known_elements};
use crate::op::{Arg, Attrs, Cx, Op, OpError, Rule};
use crate::{Attr, DType, Dim, Fact, Sym, Tensor};

/// Which extents become symbols.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Symbolic {
    /// Equal extents are the same symbol; 1 stays 1.
    ByExtent,
    /// The same, and elements of shape-like operands that equal such an extent are its symbol.
    ByExtentAndElements,
    /// 1 becomes a symbol too.
    OnesToo,
    /// Every axis of every input is a symbol of its own.
    EveryAxis,
    /// Elements of shape-like operands are symbols, which may be anything.
    Elements,
    /// Both.
    ElementsAndEveryAxis,
}

/// Checks one application of an operation.
///
/// # Panics
/// When inference, `eval` and lowering disagree, or one of them fails.
pub fn check(op: &str, attrs: &[(&str, Attr)], inputs: &[Option<Tensor>], outputs: usize) {
    let case = format!("{op}{attrs:?}({inputs:?})");
    let Some(def) = Op::find(op) else {
        panic!("no operation `{op}`")
    };
    let attrs: Attrs = attrs.iter().map(|(k, v)| (Arc::from(*k), v.clone())).collect();
    let facts: Vec<Option<Fact>> = inputs.iter().map(|t| t.as_ref().map(Tensor::fact)).collect();
    let args: Vec<Option<Arg>> = facts
        .iter()
        .zip(inputs)
        .map(|(f, t)| {
            f.as_ref().map(|fact| Arg {
                fact,
                constant: t.as_ref(),
            })
        })
        .collect();
    let inferred = infer(def, &attrs, &args, outputs).unwrap_or_else(|e| panic!("{case}\ninfer: {e}"));
    let cx = Cx {
        schema: def.schema(),
        attrs: &attrs,
        inputs: &args,
        outputs,
    };
    let want = def.0.eval(&cx).unwrap_or_else(|e| panic!("{case}\neval: {e}"));
    assert_eq!(want.len(), outputs, "{case}\neval gives another number of outputs");
    check_facts(&case, "concrete infer", &inferred, &want, &BTreeMap::new());

    match run_node(def, &attrs, inputs, outputs) {
        Ok(got) => compare(&case, "concrete lowering", &got, &want),
        Err(OpError::Unsupported(m)) if m.contains("not compiled yet") => return,
        Err(e) => panic!("{case}\nconcrete lowering: {e}"),
    }
    for mode in [
        Symbolic::ByExtent,
        Symbolic::ByExtentAndElements,
        Symbolic::OnesToo,
        Symbolic::EveryAxis,
        Symbolic::Elements,
        Symbolic::ElementsAndEveryAxis,
    ] {
        check_symbolic(&case, mode, def, &attrs, inputs, &want);
    }
}

fn check_symbolic(case: &str, mode: Symbolic, op: Op, attrs: &Attrs, inputs: &[Option<Tensor>], want: &[Tensor]) {
    let mut values: BTreeMap<String, i64> = BTreeMap::new();
    let facts: Vec<Option<Fact>> = inputs
        .iter()
        .enumerate()
        .map(|(i, t)| {
            let t = t.as_ref()?;
            let shape_like = op.schema().input(i).is_some_and(|p| p.attr.is_some());
            if shape_like {
                let mut fact = t.fact();
                if matches!(mode, Symbolic::Elements | Symbolic::ElementsAndEveryAxis) {
                    for (k, d) in fact.known.iter_mut().flatten().enumerate() {
                        let name = format!("{ELEMENT}i{i}.{k}");
                        values.insert(name.clone(), d.as_const().unwrap_or(0));
                        *d = Dim::sym(&name);
                    }
                }
                return Some(fact);
            }
            let shape: Vec<Dim> = t
                .shape()
                .iter()
                .enumerate()
                .map(|(axis, d)| {
                    let name = match (mode, *d) {
                        // Symbols are at least 1.
                        (_, 0) | (Symbolic::Elements, _) | (Symbolic::ByExtent | Symbolic::ByExtentAndElements, 1) => {
                            return Dim::from(*d);
                        }
                        (Symbolic::EveryAxis | Symbolic::ElementsAndEveryAxis, _) => format!("I{i}A{axis}"),
                        _ => format!("D{d}"),
                    };
                    let dim = Dim::sym(&name);
                    values.insert(name, *d as i64);
                    dim
                })
                .collect();
            Some(Fact::new(t.dtype(), shape))
        })
        .collect();
    let facts: Vec<Option<Fact>> = facts
        .into_iter()
        .enumerate()
        .map(|(i, f)| {
            let mut f = f?;
            if mode == Symbolic::ByExtentAndElements && op.schema().input(i).is_some_and(|p| p.attr.is_some()) {
                for d in f.known.iter_mut().flatten() {
                    if let Some((name, _)) = values.iter().find(|(_, v)| Some(**v) == d.as_const()) {
                        *d = Dim::sym(name);
                    }
                }
            }
            Some(f)
        })
        .collect();
    let args: Vec<Option<Arg>> = facts
        .iter()
        .map(|f| f.as_ref().map(|fact| Arg { fact, constant: None }))
        .collect();
    // Shapes may have to be known, or provably equal.
    let Ok(inferred) = infer(op, attrs, &args, want.len()) else {
        return;
    };
    let stage = format!("{mode:?} {facts:?}");
    let symbols = |n: &str| values.get(n).copied();
    let cx = Cx {
        schema: op.schema(),
        attrs,
        inputs: &args,
        outputs: want.len(),
    };
    let rules =
        op.0.rules(&cx)
            .unwrap_or_else(|e| panic!("{case}\nrules, {stage}: {e}"));
    let value = |d: &Dim| {
        d.eval(&|s| match s {
            Sym::Named(n) => symbols(n),
            _ => None,
        })
    };
    let holds = |(a, b): &Rule| value(a).zip(value(b)).map(|(a, b)| a <= b);
    // Which axes it removes may hang on extents being 1, or not: that they are as presumed is a rule.
    let presumes = op.name() == "Squeeze" && inferred[0].rank() != want[0].shape().len();
    if presumes && rules.iter().any(|rule| holds(rule) == Some(false)) {
        return;
    }
    let broken = rules.iter().find(|rule| holds(rule) != Some(true));
    check_facts(case, &format!("infer, {stage}"), &inferred, want, &values);
    if let Some((a, b)) = broken {
        panic!("{case}\n{stage}: {a} <= {b}");
    }
    match run_with_facts(op, attrs, inputs, &facts, want.len(), &symbols) {
        Ok(got) => compare(case, &format!("lowering, {stage}"), &got, want),
        Err(OpError::Unsupported(_) | OpError::Unknown { .. }) => {}
        Err(e @ OpError::Invalid(_)) => panic!("{case}\nlowering, {stage}: {e}"),
    }
}

fn check_facts(case: &str, stage: &str, facts: &[Fact], want: &[Tensor], values: &BTreeMap<String, i64>) {
    let eval = |d: &Dim| {
        d.eval(&|s| match s {
            Sym::Named(n) => values.get(&**n).copied(),
            _ => None,
        })
    };
    assert_eq!(facts.len(), want.len(), "{case}\n{stage}: number of outputs");
    for (i, (f, t)) in facts.iter().zip(want).enumerate() {
        assert_eq!(f.dtype, t.dtype(), "{case}\n{stage}: type of output {i}");
        let shape: Vec<Option<i64>> = f.shape.iter().map(eval).collect();
        let real: Vec<Option<i64>> = t.shape().iter().map(|d| Some(*d as i64)).collect();
        assert_eq!(shape, real, "{case}\n{stage}: shape {:?} of output {i}", f.shape);
        if let Some(known) = &f.known {
            let (got, real): (Vec<_>, Vec<_>) = (known.iter().map(eval).collect(), known_elements(t));
            let equal = |(g, r): (&Option<i64>, &i64)| *g == Some(*r) || g.is_some_and(|g| is_rounded(f, g));
            assert!(
                got.len() == real.len() && got.iter().zip(&real).all(equal),
                "{case}\n{stage}: known elements {known:?} of output {i}: {got:?}, evaluated to {real:?}"
            );
        }
    }
}

fn compare(case: &str, stage: &str, got: &[Tensor], want: &[Tensor]) {
    assert_eq!(got.len(), want.len(), "{case}\n{stage}: number of outputs");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert_eq!(
            (g.dtype(), g.shape()),
            (w.dtype(), w.shape()),
            "{case}\n{stage}: output {i}"
        );
        // The two compute in different order; halves keep 11 or 8 bits.
        let tolerance = match w.dtype() {
            DType::F16 => 1e-2,
            DType::BF16 => 3e-2,
            DType::F32 | DType::F64 => 1e-5,
            t if t.is_small_float() => 0.0,
            _ => {
                assert_eq!(g.to_i64(), w.to_i64(), "{case}\n{stage}: output {i}");
                continue;
            }
        };
        for (at, (a, b)) in g.to_f64().into_iter().zip(w.to_f64()).enumerate() {
            let close = a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance * b.abs().max(1.0);
            assert!(
                close,
                "{case}\n{stage}: output {i} element {at}: loops give {a}, eval {b}\nloops {g:?}\neval  {w:?}"
            );
        }
    }
}
