//! Made-up operands for the families' tests.

use crate::{DType, Tensor};

/// Elements that look random but depend on shape and `seed` only: floats in -3..=3 that every float type holds exactly,
/// integers in -7..=7 (0..=7 unsigned), bools.
pub(crate) fn sample(dtype: DType, shape: &[usize], seed: u64) -> Option<Tensor> {
    let n: usize = shape.iter().product();
    let noise = |i: usize| {
        // The finalizer of splitmix64.
        let mut z = (seed << 32 | i as u64)
            .wrapping_add(1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % 97) as i64
    };
    Some(match dtype {
        DType::Bool => Tensor::bool(shape, (0..n).map(|i| noise(i) % 2 == 0)),
        t if t.is_float() => Tensor::from_f64(t, shape, (0..n).map(|i| (noise(i) - 48) as f64 / 16.0)),
        t if t.is_signed() => Tensor::from_i64(t, shape, (0..n).map(|i| noise(i) % 15 - 7)),
        t => Tensor::from_i64(t, shape, (0..n).map(|i| noise(i) % 8)),
    })
}

/// The values of `op` applied to constants, by its reference meaning.
///
/// # Panics
/// When it cannot be applied.
pub(crate) fn eval(op: &str, attrs: &[(&str, crate::Attr)], inputs: &[Option<Tensor>], outputs: usize) -> Vec<Tensor> {
    let op = crate::Op::find(op).expect("an operation of the table");
    let attrs = attrs
        .iter()
        .map(|(k, v)| (std::sync::Arc::from(*k), v.clone()))
        .collect();
    let facts: Vec<_> = inputs.iter().map(|t| t.as_ref().map(Tensor::fact)).collect();
    let args = facts.iter().zip(inputs);
    let args: Vec<_> = args
        .map(|(f, t)| {
            f.as_ref().map(|fact| crate::op::Arg {
                fact,
                constant: t.as_ref(),
            })
        })
        .collect();
    crate::graph::infer(op, &attrs, &args, outputs).expect("well typed");
    let cx = crate::op::Cx {
        schema: op.schema(),
        attrs: &attrs,
        inputs: &args,
        outputs,
    };
    op.0.eval(&cx).expect("evaluates")
}

/// The facts of the outputs of `op` applied to operands of which only facts are known.
pub(crate) fn infer(
    op: &str,
    attrs: &[(&str, crate::Attr)],
    inputs: &[crate::Fact],
) -> Result<Vec<crate::Fact>, crate::OpError> {
    let op = crate::Op::find(op).expect("an operation of the table");
    let attrs = attrs
        .iter()
        .map(|(k, v)| (std::sync::Arc::from(*k), v.clone()))
        .collect();
    let args: Vec<_> = inputs
        .iter()
        .map(|fact| Some(crate::op::Arg { fact, constant: None }))
        .collect();
    let needed = op.schema().outputs.iter().filter(|p| p.arity == crate::op::Arity::One);
    crate::graph::infer(op, &attrs, &args, needed.count().max(1))
}

/// Pairs of shapes that broadcast.
const SHAPES: &[(&[usize], &[usize])] = &[
    (&[3, 5], &[3, 5]),
    (&[3, 1], &[5]),
    (&[], &[2, 3]),
    (&[2, 1, 4], &[3, 1]),
    (&[1], &[1, 1]),
    (&[0, 2], &[2]),
];

/// Checks an operation of two operands in many ways to broadcast.
pub(crate) fn pairs(op: &str, types: &[DType]) {
    for t in types {
        for (a, b) in SHAPES {
            crate::naive::check(op, &[], &[sample(*t, a, 1), sample(*t, b, 2)], 1);
        }
    }
}

/// Checks an operation whose results are as long as data says: its reference meaning and the naively run loops agree, and
/// inference with both, with concrete shapes and with symbols for all extents.
///
/// # Panics
/// When they disagree, or one of them fails.
pub(crate) fn in_both_meanings(op: &str, attrs: &[(&str, crate::Attr)], inputs: &[Option<Tensor>], outputs: usize) {
    let def = crate::Op::find(op).expect("an operation of the table");
    let owned = attrs.iter().map(|(k, v)| (std::sync::Arc::from(*k), v.clone()));
    for symbolic in [false, true] {
        let mut g = crate::Graph::new("g");
        let (mut operands, mut given, mut symbols) = (vec![], vec![], vec![]);
        for (i, t) in inputs.iter().enumerate() {
            let operand = t.as_ref().map(|t| {
                let dim = |(axis, n): (usize, &usize)| {
                    if !symbolic {
                        return crate::Dim::from(*n);
                    }
                    let name = format!("I{i}A{axis}");
                    g.symbols
                        .insert(name.as_str().into(), crate::SymbolRange { min: 0, max: i64::MAX });
                    symbols.push((name.clone(), *n as i64));
                    crate::Dim::sym(&name)
                };
                let shape: Vec<crate::Dim> = t.shape().iter().enumerate().map(dim).collect();
                given.push(t.clone());
                g.add_input(&format!("x{i}"), crate::Fact::new(t.dtype(), shape))
            });
            operands.push(operand);
        }
        let results = g.add_node(
            def,
            owned.clone().collect(),
            operands,
            outputs,
            crate::Origin::default(),
        );
        for (i, v) in results.expect("types").into_iter().enumerate() {
            g.add_output(&format!("y{i}"), v);
        }
        crate::verify::verify(&g).expect("sound");
        let value = |n: &str| symbols.iter().find(|(name, _)| name == n).map(|(_, v)| *v);
        let want = crate::interp::run(&g, &given).unwrap_or_else(|e| panic!("{op}{attrs:?}({inputs:?}): {e}"));
        let got = crate::naive::run_graph(&g, &given, &value);
        let got = got.unwrap_or_else(|e| panic!("{op}{attrs:?}({inputs:?}): {e}"));
        assert_eq!(got, want, "{op}{attrs:?}({inputs:?}), symbolic: {symbolic}");
    }
}
