//! Small networks for this crate's tests.

use cameo_ir::{Attr, DType, Dim, Fact, Graph, Sym, Tensor, ValueId};

use crate::program::Program;
use crate::targets::x86_64::V4;

/// The value of a dim for given symbols.
pub fn evaluate(d: &Dim, symbols: &[(&str, i64)]) -> i64 {
    d.eval(&|s| match s {
        Sym::Named(n) => symbols.iter().find(|(name, _)| *name == &**n).map(|(_, v)| *v),
        _ => None,
    })
    .expect("all symbols are given")
}

/// The program of a graph in text form; blobs are zeros.
pub fn program(graph: &str) -> Program {
    let g = cameo_ir::text::parse(graph, &|_, bytes| Some(vec![0; bytes].into())).expect("parses");
    crate::partition(&g, &V4, crate::Choices::default()).expect("compiles")
}

fn weight(g: &mut Graph, shape: &[usize]) -> ValueId {
    let n = shape.iter().product::<usize>();
    g.add_weight("", Tensor::f32(shape, (0..n).map(|i| (i % 13) as f32 - 6.0)))
}

/// Self-attention over 4 heads of 8 with residual and norm, at (B, S).
pub fn block(shape: Option<(i64, i64)>) -> Program {
    let (b, s) = shape.map_or((Dim::sym("B"), Dim::sym("S")), |(b, s)| (Dim::from(b), Dim::from(s)));
    let mut g = Graph::new("block");
    let x = g.add_input("x", Fact::new(DType::F32, [b.clone(), s.clone(), Dim::from(32i64)]));
    let mask = g.add_input(
        "mask",
        Fact::new(DType::F32, [b.clone(), Dim::ONE, Dim::ONE, s.clone()]),
    );
    let heads = |g: &mut Graph, x: ValueId| {
        let w = weight(g, &[32, 32]);
        let bias = weight(g, &[32]);
        let y = g.apply("MatMul", &[], &[x, w]).expect("legal");
        let y = g.apply("Add", &[], &[y, bias]).expect("legal");
        let to = Attr::Dims(vec![b.clone(), s.clone(), Dim::from(4i64), Dim::from(8i64)]);
        let y = g.apply("Reshape", &[("shape", to)], &[y]).expect("legal");
        g.apply("Transpose", &[("perm", Attr::Ints(vec![0, 2, 1, 3]))], &[y])
            .expect("legal")
    };
    let (q, k, v) = (heads(&mut g, x), heads(&mut g, x), heads(&mut g, x));
    let kt = g
        .apply("Transpose", &[("perm", Attr::Ints(vec![0, 1, 3, 2]))], &[k])
        .expect("legal");
    let logits = g.apply("MatMul", &[], &[q, kt]).expect("legal");
    let scale = g.add_weight("", Tensor::f32(&[], [0.35]));
    let logits = g.apply("Mul", &[], &[logits, scale]).expect("legal");
    let logits = g.apply("Add", &[], &[logits, mask]).expect("legal");
    let p = g.apply("Softmax", &[], &[logits]).expect("legal");
    let y = g.apply("MatMul", &[], &[p, v]).expect("legal");
    let y = g
        .apply("Transpose", &[("perm", Attr::Ints(vec![0, 2, 1, 3]))], &[y])
        .expect("legal");
    let y = g
        .apply("Reshape", &[("shape", Attr::Dims(vec![b, s, Dim::from(32i64)]))], &[y])
        .expect("legal");
    let w = weight(&mut g, &[32, 32]);
    let y = g.apply("MatMul", &[], &[y, w]).expect("legal");
    let y = g.apply("Add", &[], &[y, x]).expect("legal");
    let (gamma, beta) = (weight(&mut g, &[32]), weight(&mut g, &[32]));
    let y = g.apply("LayerNormalization", &[], &[y, gamma, beta]).expect("legal");
    g.add_output("y", y);
    crate::partition(&g, &V4, crate::Choices::default()).expect("compiles")
}

/// A residual block: convolution, depthwise and pointwise convolution, global pooling.
pub fn convolutions() -> Program {
    let mut g = Graph::new("convolutions");
    let shape: Vec<Dim> = [1i64, 16, 12, 12].map(Dim::from).to_vec();
    let x = g.add_input("x", Fact::new(DType::F32, shape));
    let conv = |g: &mut Graph, x: ValueId, w: ValueId, group: i64, pad: i64| {
        let attrs = [("group", Attr::Int(group)), ("pads", Attr::Ints(vec![pad; 4]))];
        g.apply("Conv", &attrs, &[x, w]).expect("legal")
    };
    let w = weight(&mut g, &[16, 16, 3, 3]);
    let y = conv(&mut g, x, w, 1, 1);
    let y = g.apply("Relu", &[], &[y]).expect("legal");
    let w = weight(&mut g, &[16, 1, 3, 3]);
    let z = conv(&mut g, y, w, 16, 1);
    let w = weight(&mut g, &[16, 16, 1, 1]);
    let z = conv(&mut g, z, w, 1, 0);
    let z = g.apply("Add", &[], &[z, y]).expect("legal");
    let z = g.apply("GlobalAveragePool", &[], &[z]).expect("legal");
    g.add_output("y", z);
    crate::partition(&g, &V4, crate::Choices::default()).expect("compiles")
}
