//! Evaluation against loops in every form, a layer by hand, and refusals.

use std::sync::Arc;

use crate::naive::check;
use crate::ops::samples::{eval, infer, sample};
use crate::{Attr, DType, Dim, Fact, Tensor};

fn texts(v: &[&str]) -> Attr {
    Attr::Strs(v.iter().map(|s| Arc::from(*s)).collect())
}

/// Operands of a layer with `gates` gates: 4 steps of 3 sequences, 5 inputs, 2 units. The whole of them in the order of
/// the inputs, with peepholes last.
fn operands(t: DType, gates: usize, directions: usize, batch_first: bool) -> Vec<Option<Tensor>> {
    let d = directions;
    let (x, state) = if batch_first {
        ([3, 4, 5], [3, d, 2])
    } else {
        ([4, 3, 5], [d, 3, 2])
    };
    let small = |shape: &[usize], seed: u64| {
        let values = sample(t, shape, seed).map(|v| v.to_f64()).unwrap_or_default();
        Some(Tensor::from_f64(t, shape, values.into_iter().map(|x| x / 4.0)))
    };
    vec![
        small(&x, 1),
        small(&[d, gates * 2, 5], 2),
        small(&[d, gates * 2, 2], 3),
        small(&[d, gates * 4], 4),
        Some(Tensor::from_i64(DType::I32, &[3], [4, 1, 3])),
        small(&state, 5),
        small(&state, 6),
        small(&[d, 6], 7),
    ]
}

fn operators() -> [(&'static str, usize, usize, usize); 3] {
    // Gates, functions of a direction, inputs.
    [("RNN", 1, 1, 6), ("GRU", 3, 2, 6), ("LSTM", 4, 3, 8)]
}

#[test]
fn evaluation_agrees_with_loops_in_all_directions_and_layouts() {
    for (op, gates, _, inputs) in operators() {
        let outputs = if op == "LSTM" { 3 } else { 2 };
        for (direction, d) in [("forward", 1), ("reverse", 1), ("bidirectional", 2)] {
            for layout in [0, 1] {
                let mut all = operands(DType::F32, gates, d, layout == 1);
                all.truncate(inputs);
                let attrs = [
                    ("direction", Attr::Str(direction.into())),
                    ("hidden_size", Attr::Int(2)),
                    ("layout", Attr::Int(layout)),
                ];
                for given in [all.len(), 5, 4, 3] {
                    check(op, &attrs, &all[..given], outputs);
                }
                all[3] = None;
                all[4] = None;
                check(op, &attrs, &all, outputs);
            }
        }
    }
}

#[test]
fn evaluation_agrees_with_loops_with_every_attribute() {
    for t in [DType::F32, DType::F64, DType::F16] {
        for (op, gates, _, inputs) in operators() {
            let mut all = operands(t, gates, 1, false);
            all.truncate(inputs);
            check(op, &[("clip", Attr::Float(0.25))], &all, 1);
            if op == "GRU" {
                check(op, &[("linear_before_reset", Attr::Int(1))], &all, 2);
                all[3] = None;
                check(op, &[("linear_before_reset", Attr::Int(1))], &all, 2);
            }
            if op == "LSTM" {
                check(op, &[("input_forget", Attr::Int(1))], &all, 3);
            }
        }
    }
}

#[test]
fn all_functions_take_their_parameters_in_order() {
    let names = [
        "Relu",
        "Affine",
        "Softsign",
        "LeakyRelu",
        "ScaledTanh",
        "tanh",
        "HardSigmoid",
        "Softplus",
        "ThresholdedRelu",
        "Elu",
        "sigmoid",
    ];
    let alphas = [0.5, 0.125, 0.75, 0.25, 0.0625, 1.5];
    let betas = [0.25, 0.5, 0.375];
    for (op, gates, functions, _) in operators() {
        let d = if op == "LSTM" { 1 } else { 2 };
        for chunk in names.windows(functions * d) {
            let takes = |list: &[&str]| chunk.iter().filter(|n| list.contains(n)).count();
            let with_beta = takes(&["Affine", "ScaledTanh", "HardSigmoid"]);
            let with_alpha = with_beta + takes(&["LeakyRelu", "ThresholdedRelu", "Elu"]);
            let attrs = [
                ("activation_alpha", Attr::Floats(alphas[..with_alpha].to_vec())),
                ("activation_beta", Attr::Floats(betas[..with_beta].to_vec())),
                ("activations", texts(chunk)),
                (
                    "direction",
                    Attr::Str(if d == 1 { "forward" } else { "bidirectional" }.into()),
                ),
            ];
            check(op, &attrs, &operands(DType::F32, gates, d, false)[..4], 2);
        }
    }
}

/// One unit, one input, two steps, by hand.
#[test]
fn one_unit_by_hand() {
    let one = |shape: &[usize], v: &[f32]| Some(Tensor::f32(shape, v.iter().copied()));
    let x = one(&[2, 1, 1], &[1.0, 2.0]);
    let (w, r) = (one(&[1, 1, 1], &[0.5]), one(&[1, 1, 1], &[0.25]));
    let attrs = |direction: &str| {
        [
            ("activations", texts(&["Affine"])),
            ("direction", Attr::Str(direction.into())),
        ]
    };
    let y = eval("RNN", &attrs("forward"), &[x.clone(), w.clone(), r.clone()], 2);
    assert_eq!((y[0].to_f32(), y[1].to_f32()), (vec![0.5, 1.125], vec![1.125]));
    let y = eval("RNN", &attrs("reverse"), &[x.clone(), w.clone(), r.clone()], 2);
    assert_eq!((y[0].to_f32(), y[1].to_f32()), (vec![0.75, 1.0], vec![0.75]));
    // Only the first step is of the sequence.
    let length = Some(Tensor::from_i64(DType::I32, &[1], [1]));
    let y = eval("RNN", &attrs("reverse"), &[x, w, r, None, length], 2);
    assert_eq!((y[0].to_f32(), y[1].to_f32()), (vec![0.5, 0.0], vec![0.5]));
}

#[test]
fn integers_for_weights() {
    let op = "com.microsoft::DynamicQuantizeLSTM";
    for t in [DType::I8, DType::U8] {
        for (direction, d) in [("forward", 1), ("bidirectional", 2)] {
            let mut all = operands(DType::F32, 4, d, false);
            (all[1], all[2]) = (sample(t, &[d, 5, 8], 8), sample(t, &[d, 2, 8], 9));
            let scales = |n: usize| Some(Tensor::f32(&[d, n], (0..d * n).map(|i| 0.001 * (i + 1) as f32)));
            let zeros = |n: usize| Some(Tensor::from_i64(t, &[d, n], (0..d * n).map(|i| i as i64 % 3)));
            let one = |v: Option<Tensor>| v.map(|v| v.reshaped(vec![d]).expect("one each"));
            all.extend([scales(8), zeros(8), one(scales(1)), one(zeros(1))]);
            let attrs = [("direction", Attr::Str(direction.into()))];
            check(op, &attrs, &all, 3);
            all[3..8].fill(None);
            check(op, &attrs, &all, 3);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let f = |shape: &[i64]| Fact::new(DType::F32, shape.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
    let fine = [f(&[4, 3, 5]), f(&[1, 8, 5]), f(&[1, 8, 2]), f(&[1, 16])];
    let of = |attrs: &[(&str, Attr)], facts: &[Fact]| infer("LSTM", attrs, facts);
    assert_eq!(of(&[], &fine).expect("fits")[0], f(&[4, 1, 3, 2]));
    for (attr, value) in [
        ("direction", Attr::Str("backward".into())),
        ("direction", Attr::Str("bidirectional".into())),
        ("layout", Attr::Int(2)),
        ("hidden_size", Attr::Int(3)),
        ("hidden_size", Attr::Int(0)),
        ("clip", Attr::Float(-1.0)),
        ("activations", texts(&["Tanh"])),
        ("activations", texts(&["Tanh", "Tanh", "Gelu"])),
        ("activation_alpha", Attr::Floats(vec![0.5])),
        ("activation_beta", Attr::Floats(vec![0.5])),
    ] {
        assert!(of(&[(attr, value.clone())], &fine).is_err(), "{attr} {value:?}");
    }
    for (i, shape) in [
        (0, &[4, 3, 6][..]),
        (0, &[4, 3]),
        (1, &[1, 6, 5]),
        (2, &[1, 8, 3]),
        (3, &[1, 8]),
    ] {
        let mut facts = fine.clone();
        facts[i] = f(shape);
        assert!(of(&[], &facts).is_err(), "input {i} {shape:?}");
    }
}
