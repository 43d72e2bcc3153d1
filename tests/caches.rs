//! Caches that grow in place (`--in-place-cache`) against the same graph with a copy at each step: step by step, in memory
//! of the caller, of the context and only read, with more room than rows, and what is refused.

use cameo_ir::{DType, Graph, Tensor};
use cameo_runtime::{Context, Error, Status, TensorView};
use cameo_tests::model::{Aligned, CacheMemory, Choices, Model, run_grown, run_in};
use cameo_tests::source;

/// A step of a decoder with two heads of 4: attention over the keys and values of all tokens, and a third cache whose rows
/// are read through a transpose and whose old ones are read alone.
const DECODER: &str = r#"graph @g (%0 "x": f32[B,S,8], %1 "k": f32[B,2,P,4], %2 "v": f32[B,2,P,4], %3 "z": f32[B,Q,8]) symbols B=1.., P=0.., Q=0.., S=1.. {
    weight %4: f32[8,8] = blob("wq")
    weight %5: f32[8,8] = blob("wk")
    weight %6: f32[8,8] = blob("wv")
    %10 = MatMul(%0, %4)
    %11 = Reshape(%10) {shape=dims[B,S,2,4]}
    %12 = Transpose(%11) {perm=[0,2,1,3]}
    %13 = MatMul(%0, %5)
    %14 = Reshape(%13) {shape=dims[B,S,2,4]}
    %15 = Transpose(%14) {perm=[0,2,1,3]}
    %16 = Concat(%1, %15) {axis=2}
    %17 = MatMul(%0, %6)
    %18 = Reshape(%17) {shape=dims[B,S,2,4]}
    %19 = Transpose(%18) {perm=[0,2,1,3]}
    %20 = Concat(%2, %19) {axis=-2}
    %21 = Attention(%12, %16, %20) {scale=0.5}
    %22 = Transpose(%21) {perm=[0,2,1,3]}
    %23 = Reshape(%22) {shape=dims[B,S,8]}
    %24 = Concat(%3, %0, %23) {axis=1}
    %25 = Transpose(%24) {perm=[0,2,1]}
    %26 = MatMul(%25, %24)
    %27 = ReduceSum(%3) {axes=[1], keepdims=0}
    %28 = Sigmoid(%27)
    return %23 "y", %16 "keys", %20 "values", %24 "seen", %26 "gram", %28 "before", %24 "again"
}"#;

fn models() -> (Model, Model) {
    let graph: Graph = source::graph(DECODER);
    let compiled = |in_place_cache| {
        let choices = Choices {
            passes: true,
            in_place_cache,
            ..Choices::default()
        };
        Model::new(&graph, &choices).unwrap_or_else(|e| panic!("{e}"))
    };
    (compiled(false), compiled(true))
}

fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let count = shape.iter().product::<usize>();
    Tensor::f32(
        shape,
        (0..count).map(|i| ((i * 37 + seed * 11) % 29) as f32 / 16.0 - 0.9),
    )
}

fn inputs(batch: usize, past: usize, new: usize) -> Vec<Tensor> {
    let cache = [batch, 2, past, 4];
    vec![
        numbers(&[batch, new, 8], past),
        numbers(&cache, 1),
        numbers(&cache, 2),
        numbers(&[batch, past, 8], 3),
    ]
}

/// (index of the input, of the output, axis of rows), as the graph has them.
const CACHES: [(usize, usize, usize); 3] = [(1, 1, 2), (2, 2, 2), (3, 3, 1)];

#[test]
fn memory_that_is_only_read_is_copied() {
    let (plain, grown) = models();
    let caches: Vec<_> = grown
        .description()
        .caches()
        .map(|c| (c.input, c.output, c.axis))
        .collect();
    assert_eq!(caches, CACHES);
    assert_eq!(plain.description().caches().len(), 0);
    for threads in [1, 3] {
        let mut context = grown.context(threads).expect("a context");
        for (batch, past, new) in [(2, 5, 3), (1, 0, 4), (3, 7, 1), (2, 5, 3)] {
            let inputs = inputs(batch, past, new);
            let (want, got) = (plain.run(&inputs, 1), run_in(&mut context, &inputs));
            assert!(want.expect("runs") == got.expect("runs"), "{batch} {past} {new}");
        }
    }
}

#[test]
fn a_decoder_goes_on_where_it_was() {
    let (plain, grown) = models();
    let mut context = grown.context(2).expect("a context");
    let mut state = inputs(2, 0, 0);
    for (index, ..) in CACHES {
        context
            .fill_cache(index, &Aligned::new(&state[index]).view(), 16)
            .expect("has room");
    }
    for (step, new) in [3, 1, 1, 2].into_iter().enumerate() {
        state[0] = numbers(&[2, new, 8], step);
        let want = plain.run(&state, 1).expect("runs");
        let x = Aligned::new(&state[0]);
        context.run_on(&[x.view()]).expect("runs");
        for output in [0, 4, 5, 6] {
            assert!(read(&context, output) == want[output], "output {output} of step {step}");
        }
        // Its rows are apart.
        assert_eq!(refused(context.output(1)), Status::InvalidArgument);
        let (shape, _) = context.output_shape(1).expect("is known");
        assert_eq!(shape[2] as usize, want[1].shape()[2]);
        context.keep_rows().expect("ran");
        assert_eq!(refused(context.keep_rows()), Status::InvalidArgument);
        for (input, output, _) in CACHES {
            state[input] = want[output].clone();
        }
    }
    // The third one takes two rows for each token: 14 are there, and 16 fit.
    let x = Aligned::new(&numbers(&[2, 2, 8], 0));
    let full = context.run_on(&[x.view()]);
    let Err(Error::CacheFull { name, room, needed }) = full else {
        panic!("{full:?}");
    };
    assert_eq!((name, room, needed), ("z", 16, 18));
}

#[test]
fn memory_of_the_caller_gets_the_rows_behind_its_own() {
    let (plain, grown) = models();
    let (past, new) = (5, 3);
    let inputs = inputs(2, past, new);
    let want = plain.run(&inputs, 1).expect("runs");
    let mut context = grown.context(2).expect("a context");
    let x = Aligned::new(&inputs[0]);
    let mut memories = CACHES.map(|(index, _, axis)| {
        let (shape, room) = (inputs[index].shape(), 13 + index);
        let inner: usize = shape[axis + 1..].iter().product();
        let mut memory = vec![f32::NAN; shape[..axis].iter().product::<usize>() * room * inner];
        let rows = inputs[index].to_f64();
        for (to, from) in memory.chunks_mut(room * inner).zip(rows.chunks(past * inner)) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32);
        }
        (memory, room * inner)
    });
    let bound = memories.iter_mut().zip(CACHES);
    let mut caches: Vec<_> = bound
        .map(|((memory, _), (input, ..))| cache(&inputs, input, memory))
        .collect();
    // The second time the same rows.
    run_grown(&mut context, (0, &x.view()), &mut caches, 2).expect("runs");
    assert!(read(&context, 0) == want[0] && read(&context, 4) == want[4]);
    // Its memory is not the context's any more.
    assert_eq!(refused(context.output(1)), Status::InvalidArgument);
    for ((index, output, axis), (memory, pitch)) in CACHES.iter().zip(&memories) {
        let row = want[*output].shape()[*axis..].iter().product::<usize>();
        let rows = want[*output].to_f64();
        for (got, want) in memory.chunks(*pitch).zip(rows.chunks(row)) {
            assert!(got.iter().zip(want).all(|(a, b)| f64::from(*a) == *b), "input {index}");
            assert!(got[row..].iter().all(|x| x.is_nan()), "input {index} beyond its rows");
        }
    }

    // Room for the rows that are there, not for those of the run; not even for these; an input that is no cache.
    let mut run = |input: usize, rows: usize| {
        let mut memory = vec![0.0; 2 * 2 * rows * 4];
        run_grown(
            &mut context,
            (0, &x.view()),
            &mut [cache(&inputs, input, &mut memory)],
            1,
        )
    };
    let full = run(1, 6);
    assert!(
        matches!(full, Err(Error::CacheFull { room: 6, needed: 8, .. })),
        "{full:?}"
    );
    assert_eq!(refused(run(1, 4)), Status::WrongSize);
    assert_eq!(refused(run(0, 40)), Status::InvalidArgument);
}

#[test]
fn graphs_without_a_cache_are_refused() {
    let graph = source::graph(
        r#"graph @g (%0 "x": f32[2,S], %1 "y": f32[2,P]) symbols P=1.., S=1.. {
            %2 = Exp(%0)
            %3 = Concat(%2, %1) {axis=1}
            return %3 "z"
        }"#,
    );
    let choices = Choices {
        in_place_cache: true,
        ..Choices::default()
    };
    let said = Model::new(&graph, &choices).err().expect("is refused");
    assert!(
        said.contains("no output is the Concat of an input and rows behind it"),
        "{said}"
    );
}

fn cache<'a>(inputs: &[Tensor], input: usize, memory: &'a mut [f32]) -> CacheMemory<'a> {
    let shape = inputs[input].shape().iter().map(|d| *d as i64).collect();
    CacheMemory { input, shape, memory }
}

fn refused<T>(result: Result<T, Error>) -> Status {
    result.err().map_or(Status::Ok, |e| e.status())
}

fn read(context: &Context, output: usize) -> Tensor {
    let view: TensorView = context.output(output).expect("an output");
    let shape = view.shape().iter().map(|d| *d as usize).collect();
    Tensor::new(DType::F32, shape, view.bytes().to_vec().into()).expect("bytes fit the shape")
}
