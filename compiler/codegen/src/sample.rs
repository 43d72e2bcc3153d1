//! A small program for the tests of artefacts: `out "1" = 2 (x + a)` and `out 2 = x + a + b`, for `x` of shape `[S, 4]`.

use std::sync::Arc;

use cameo_ir::structured::{Binary, Body};
use cameo_ir::{DType, Dim, Graph, Origin, SymbolRange, Tensor};
use cameo_kernel::program::{
    Buffer, Io, Kernel, KernelBody, Nest, NestSchedule, Place, Program, Step, Storage, Store, Weight,
};

/// Elements of a row.
pub const WIDTH: usize = 4;

pub const A: [f32; WIDTH] = [1.0, 2.0, 3.0, 4.0];
pub const B: [f32; WIDTH] = [0.5, 0.25, 0.125, -8.0];

/// What the outputs must be.
pub fn expected(x: &[f32]) -> [Vec<f32>; 2] {
    let sum = |i: usize| x[i] + A[i % WIDTH];
    let range = 0..x.len();
    [
        range.clone().map(|i| 2.0 * sum(i)).collect(),
        range.map(|i| sum(i) + B[i % WIDTH]).collect(),
    ]
}

pub fn program() -> Program {
    let (s, d, width) = (Dim::sym("S"), Dim::sym("d0"), Dim::from(WIDTH));
    let mut graph = Graph::new("sample");
    let a = graph.add_weight("a", Tensor::f32(&[WIDTH], A));
    let b = graph.add_weight("b", Tensor::f32(&[WIDTH], B));

    let matrix = Buffer {
        dtype: DType::F32,
        strides: vec![width.clone(), Dim::ONE],
        extents: vec![d.clone(), width.clone()],
    };
    let row = Buffer {
        dtype: DType::F32,
        strides: vec![Dim::ONE],
        extents: vec![width.clone()],
    };
    let at = vec![Dim::iter(0), Dim::iter(1)];
    let nest = |buffers: Vec<Buffer>, body: Body, root| Kernel {
        dims: 1,
        body: KernelBody::Nest(Nest {
            outer: vec![d.clone(), width.clone()],
            row: vec![],
            body,
            reductions: vec![],
            stores: vec![Store {
                buffer: buffers.len() - 1,
                index: at.clone(),
                root,
            }],
            temps: vec![],
            schedule: NestSchedule { vector: None },
        }),
        buffers,
    };
    let mut body = Body::new();
    let x = body.load(0, DType::F32, at.clone());
    let y = body.load(1, DType::F32, vec![Dim::iter(1)]);
    let sum = body.binary(Binary::Add, x, y);
    let add = nest(vec![matrix.clone(), row, matrix.clone()], body, sum);
    let mut body = Body::new();
    let x = body.load(0, DType::F32, at.clone());
    let two = body.float(DType::F32, 2.0);
    let product = body.binary(Binary::Mul, x, two);
    let double = nest(vec![matrix.clone(), matrix], body, product);

    let elements = s.clone() * width.clone();
    let storage = |name: &str, elements: &Dim, place| Storage {
        name: name.into(),
        dtype: DType::F32,
        elements: elements.clone(),
        place,
    };
    let io = |name: &str, shape: Vec<Dim>| Io {
        name: name.into(),
        dtype: DType::F32,
        shape,
    };
    let step = |kernel, buffers: &[usize], node| Step {
        kernel,
        buffers: buffers.to_vec(),
        dims: vec![s.clone()],
        work: elements.clone(),
        flops: elements.clone(),
        origin: Origin::new(node),
        values: vec![],
    };
    let weight = |value| Weight {
        value,
        dtype: DType::F32,
        pack: None,
        elements: WIDTH,
    };
    Program {
        name: Arc::from("sample"),
        symbols: vec![("S".into(), SymbolRange { min: 1, max: 1000 })],
        inputs: vec![io("x", vec![s.clone(), width.clone()])],
        outputs: vec![
            io("out \"1\"", vec![s.clone(), width.clone()]),
            io("2", vec![elements.clone()]),
        ],
        storages: vec![
            storage("x", &elements, Place::Input(0)),
            storage("a", &width, Place::Weight(0)),
            storage("t", &elements, Place::Arena),
            storage("y", &elements, Place::Output(0)),
            storage("b", &width, Place::Weight(1)),
            storage("z", &elements, Place::Output(1)),
        ],
        weights: vec![weight(a), weight(b)],
        kernels: vec![add, double],
        steps: vec![
            step(0, &[0, 1, 2], "first"),
            step(1, &[2, 3], "second"),
            step(0, &[2, 4, 5], "third"),
        ],
        loops: vec![],
        counts: vec![],
        caches: vec![],
        elements: vec![],
        customs: vec![],
        texts: cameo_ir::tensor::Texts::default(),
        requirements: vec![],
        graph,
    }
}

/// The program for these processors.
pub fn levels(cpus: &[&str]) -> Vec<crate::Level> {
    let level = |cpu: &&str| crate::Level {
        program: program(),
        machine: crate::Machine::new(None, cpu).expect("a known processor"),
    };
    cpus.iter().map(level).collect()
}
