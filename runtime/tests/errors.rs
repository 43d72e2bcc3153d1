//! The table of errors: each way of wrong use, the code that it gives, and what its message must say.
#![expect(unsafe_code, reason = "opens and binds by pointer, as C callers do")]

mod fake;

use cameo_abi::{
    ABI_VERSION, Cache, Count, DType, LOOP_DEPTH, Level, Loop, MAGIC, MOVE_ADVANCE, MOVE_BACK, ModelDesc, Move, Slice,
};
use cameo_runtime::{Context, ContextOptions, Error, Model, OpenOptions, Status, TensorView};
use std::path::Path;

/// The inputs of the lookup model, right unless a case changes them.
struct Inputs {
    x: (DType, Vec<i64>),
    twice: (DType, Vec<i64>),
    mask: (DType, Vec<i64>),
    index: i64,
}

fn right() -> Inputs {
    Inputs {
        x: (DType::F32, vec![2, 3, 5]),
        twice: (DType::F32, vec![10]),
        mask: (DType::Bool, vec![5]),
        index: 4,
    }
}

fn run(context: &mut Context, inputs: &Inputs) -> Result<(), Error> {
    // As many bytes as the shape says, at most the 64 KiB there are: the shapes of the cases are small.
    let storage = vec![1f32; 16384];
    let view = |(dtype, shape): &(DType, Vec<i64>)| {
        let count = shape
            .iter()
            .fold(1usize, |count, &extent| count.saturating_mul(extent.max(0) as usize));
        let bytes = TensorView::new(&storage, &[]).bytes();
        (
            *dtype,
            bytes[..count.saturating_mul(dtype.size()).min(bytes.len())].to_vec(),
        )
    };
    let (x, twice, mask) = (view(&inputs.x), view(&inputs.twice), view(&inputs.mask));
    context.run_on(&[
        TensorView::from_bytes(x.0, &x.1, &inputs.x.1),
        TensorView::from_bytes(twice.0, &twice.1, &inputs.twice.1),
        TensorView::new(&[inputs.index], &[1]),
        TensorView::from_bytes(mask.0, &mask.1, &inputs.mask.1),
    ])
}

fn check(error: &Error, status: Status, message: &str) {
    assert_eq!(error.status(), status, "{error}");
    assert_eq!(error.to_string(), message);
}

#[test]
fn wrong_inputs() {
    let model = fake::open(fake::lookup_model(true));
    let mut context = Context::new(&model, ContextOptions::default()).unwrap();
    let cases: [(Inputs, Status, &str); 12] = [
        (
            Inputs {
                x: (DType::F64, vec![2, 3, 5]),
                ..right()
            },
            Status::WrongDtype,
            "input \"x\" has dtype float32, got float64",
        ),
        (
            Inputs {
                x: (DType::F32, vec![3, 5]),
                ..right()
            },
            Status::WrongRank,
            "input \"x\" has 3 axes, got 2",
        ),
        (
            Inputs {
                x: (DType::F32, vec![2, 4, 5]),
                ..right()
            },
            Status::WrongSize,
            "axis 1 of input \"x\" must be 3, got 4",
        ),
        (
            Inputs {
                twice: (DType::F32, vec![9]),
                ..right()
            },
            Status::WrongSize,
            "axis 0 of input \"twice\" must be 10, got 9",
        ),
        (
            Inputs {
                mask: (DType::Bool, vec![6]),
                ..right()
            },
            Status::SymbolMismatch,
            "axis 0 of input \"mask\" is dimension \"S\", which axis 2 of input \"x\" fixed to 5; got 6",
        ),
        (
            Inputs {
                x: (DType::F32, vec![9, 3, 5]),
                ..right()
            },
            Status::OutOfRange,
            "axis 0 of input \"x\" is dimension \"B\", compiled for 1 to 8; got 9",
        ),
        (
            Inputs {
                x: (DType::F32, vec![2, 3, 1]),
                ..right()
            },
            Status::OutOfRange,
            "axis 2 of input \"x\" is dimension \"S\", compiled for 2 to 512; got 1",
        ),
        (
            Inputs {
                x: (DType::F32, vec![2, 3, -1]),
                ..right()
            },
            Status::InvalidArgument,
            "an extent is negative",
        ),
        (
            Inputs {
                x: (DType::F32, vec![i64::MAX, 3, i64::MAX]),
                ..right()
            },
            Status::InvalidArgument,
            "an input is larger than the address space",
        ),
        (
            Inputs {
                x: (DType::F32, vec![2, 3, 4097]),
                ..right()
            },
            Status::WrongSize,
            "input \"x\" of this shape takes 98328 bytes, got 65536",
        ),
        (
            Inputs {
                x: (DType::F32, vec![2, 3, 13]),
                twice: (DType::F32, vec![26]),
                mask: (DType::Bool, vec![13]),
                index: 0,
            },
            Status::ShapeRule,
            "a shape rule of the model does not hold for these inputs: 2*S <= 25 in node \"/Add\"; here they are 26 and 25",
        ),
        (
            Inputs { index: 5, ..right() },
            Status::IndexOutOfRange,
            "a value used as an index is outside its axis, or as a size is none that can be, in kernel \"lookup\"",
        ),
    ];
    for (inputs, status, message) in &cases {
        check(&run(&mut context, inputs).unwrap_err(), *status, message);
        assert!(context.output(0).is_err(), "{message}");
        // A failed call leaves the context usable.
        run(&mut context, &right()).unwrap();
        assert_eq!(context.output(0).unwrap().elements::<f32>().unwrap(), [2.5; 5]);
        context.prepare().unwrap();
    }
    let error = context.run_on(&[]).unwrap_err();
    check(&error, Status::UnknownName, "the model takes 4 inputs, got 0");
}

#[test]
fn wrong_order_and_pointers() {
    let model = fake::open(fake::relay_model(2, |_| true));
    let mut context = Context::new(&model, ContextOptions { threads: 2, pool: None }).unwrap();
    check(
        &context.run().unwrap_err(),
        Status::NotBound,
        "input \"x\" is not bound",
    );
    check(
        &context.prepare().unwrap_err(),
        Status::NotBound,
        "input \"x\" is not bound",
    );
    assert_eq!(context.output(0).unwrap_err().status(), Status::InvalidArgument);
    assert_eq!(context.output_shape(0).unwrap_err().status(), Status::InvalidArgument);
    check(
        &context.output(7).unwrap_err(),
        Status::UnknownName,
        "the model has no output number 7, it has 1 (counted from 0)",
    );
    check(
        &model.description().input_index("z").unwrap_err(),
        Status::UnknownName,
        "the model has no input \"z\"",
    );
    assert_eq!(model.description().output_index("y"), Ok(0));

    let mut storage = [0u64; 16];
    let data = storage.as_mut_ptr().cast::<u8>();
    // SAFETY: everything lies in `storage`, which outlives the context's use.
    unsafe {
        let mut bind = |index, data: *const u8| context.bind_input(index, DType::F32, &[4], data, 16);
        assert_eq!(bind(1, data).unwrap_err().status(), Status::UnknownName);
        assert_eq!(bind(0, std::ptr::null()).unwrap_err().status(), Status::InvalidArgument);
        check(
            &bind(0, data.add(2)).unwrap_err(),
            Status::InvalidArgument,
            "the data of input \"x\" must start at a multiple of 4 bytes",
        );
        bind(0, data).unwrap();

        context.bind_output(0, data.add(64), 15).unwrap();
        check(
            &context.run().unwrap_err(),
            Status::BufferTooSmall,
            "output \"y\" needs 16 bytes, its buffer has 15",
        );
        assert_eq!(
            context.bind_output(0, data.add(65), 16).unwrap_err().status(),
            Status::InvalidArgument
        );
        context.bind_output(0, data.add(12), 16).unwrap();
        check(
            &context.run().unwrap_err(),
            Status::InvalidArgument,
            "the buffer of an output overlaps that of another tensor",
        );
        context.bind_output(0, data.add(16), 16).unwrap();
        context.run().unwrap();
        assert_eq!(data.add(16).cast::<[f32; 4]>().read(), [2.0; 4]);
        // New contents at the same place are seen.
        data.cast::<f32>().write(5.0);
        context.run().unwrap();
        assert_eq!(data.add(16).cast::<[f32; 4]>().read(), [7.0, 2.0, 2.0, 2.0]);
        context.unbind_inputs();
        assert_eq!(context.run().unwrap_err().status(), Status::NotBound);
        context.bind_output(0, std::ptr::null_mut(), 0).unwrap();
    }
    context.run_on(&[TensorView::new(&[1f32], &[1])]).unwrap();
    assert_eq!(context.output(0).unwrap().elements::<f32>().unwrap(), [3.0]);
    // `run_on` borrowed its inputs only for the call.
    assert_eq!(context.run().unwrap_err().status(), Status::NotBound);
    assert_eq!(
        Context::new(
            &model,
            ContextOptions {
                threads: 1025,
                pool: None
            }
        )
        .err()
        .unwrap()
        .status(),
        Status::InvalidArgument
    );
}

#[test]
fn shapes_beyond_the_machine() {
    let model = fake::open(fake::relay_model(2, |_| true));
    assert_eq!(
        model.description().sizes(&[i64::MAX]).unwrap_err().status(),
        Status::ShapeRule
    );
    assert_eq!(
        model.description().sizes(&[0]).unwrap_err().status(),
        Status::InvalidArgument
    );
    assert_eq!(
        model.description().sizes(&[]).unwrap_err().status(),
        Status::InvalidArgument
    );
    assert_eq!(model.description().sizes(&[17]).unwrap().arena_bytes, 256);
    let mut context = Context::new(&model, ContextOptions { threads: 1, pool: None }).unwrap();
    let far = (i64::MAX / 64) as usize;
    // SAFETY: the run fails before anything is read.
    unsafe {
        context
            .bind_input(0, DType::F32, &[far as i64], 64 as *const u8, far * 4)
            .unwrap();
    };
    assert_eq!(context.run().unwrap_err().status(), Status::OutOfMemory);
    context.run_on(&[TensorView::new(&[1f32], &[1])]).unwrap();
}

fn open(desc: ModelDesc, weights: Option<&Path>) -> Result<Model, Error> {
    let desc: &'static ModelDesc = Box::leak(Box::new(desc));
    // SAFETY: damaged only in ways that opening must notice before it follows a pointer.
    unsafe { Model::open(desc, weights) }
}

#[test]
fn wrong_models() {
    let good = || fake::lookup_model(true);
    let status = |desc: ModelDesc| open(desc, None).err().map(|error| error.status());
    assert_eq!(status(good()), None);
    assert_eq!(
        status(ModelDesc {
            magic: MAGIC ^ 1,
            ..good()
        }),
        Some(Status::AbiMismatch)
    );
    assert_eq!(
        status(ModelDesc {
            abi_version: ABI_VERSION + 1,
            ..good()
        }),
        Some(Status::AbiMismatch)
    );
    assert_eq!(
        status(ModelDesc {
            levels: fake::constant(vec![Level {
                cpu_features: 1 << 60,
                ..fake::first_level(&good())
            }]),
            ..good()
        }),
        Some(Status::CpuUnsupported)
    );
    let (known, unknown) = (
        fake::first_level(&good()),
        Level {
            cpu_features: 1 << 60,
            name: fake::text("later"),
            ..fake::first_level(&good())
        },
    );
    let with = |levels: Vec<Level>| ModelDesc {
        levels: fake::constant(levels),
        ..good()
    };
    // The first level that the processor has, unless another one is named.
    let two = || with(vec![unknown, known, known]);
    assert_eq!(open(two(), None).map(|m| m.level()), Ok("any"));
    let desc: &'static ModelDesc = Box::leak(Box::new(two()));
    // SAFETY: a model like the others.
    let named = |name| {
        let options = OpenOptions {
            level: Some(name),
            ..OpenOptions::default()
        };
        unsafe { Model::open_with(desc, None, &options) }
            .map(|m| m.level())
            .map_err(|e| e.status())
    };
    assert_eq!(named("any"), Ok("any"));
    assert_eq!(named("later"), Err(Status::CpuUnsupported));
    assert_eq!(named("none"), Err(Status::InvalidArgument));
    assert_eq!(status(with(vec![])), Some(Status::InvalidModel));
    let fewer = Level {
        steps: fake::constant(vec![]),
        ..known
    };
    assert_eq!(status(with(vec![known, fewer])), Some(Status::InvalidModel));
    assert_eq!(
        status(ModelDesc {
            weights: std::ptr::null(),
            ..good()
        }),
        Some(Status::WeightsMissing)
    );
    let looped = |first_step, step_count, count| Loop {
        first_step,
        step_count,
        count,
        first_move: 0,
        move_count: 0,
        rows: 0,
        again: 0,
    };
    let loops = |loops: Vec<Loop>| ModelDesc {
        loops: fake::constant(loops),
        ..fake::loop_model(true, true)
    };
    let moved = |buffer, kind, bytes| ModelDesc {
        moves: fake::constant(vec![Move {
            buffer,
            kind,
            bytes,
            reserved: 0,
        }]),
        ..fake::relay_model(2, |_| true)
    };
    assert_eq!(
        status(loops(vec![looped(0, 3, 3), looped(0, 1, 3), looped(2, 1, 3)])),
        None
    );
    let count = |step, symbol, buffer, most| ModelDesc {
        counts: fake::constant(vec![Count {
            step,
            symbol,
            buffer,
            most,
        }]),
        ..fake::relay_model(2, |_| true)
    };
    assert_eq!(status(count(2, 0, 3, 2)), None);
    let cache = |input, output, axis, capacity, times| {
        let cache = Cache {
            input,
            output,
            axis,
            capacity,
        };
        ModelDesc {
            caches: fake::constant(vec![cache; times]),
            ..fake::cache_model()
        }
    };
    assert_eq!(status(fake::cache_model()), None);
    let damaged = [
        cache(1, 0, 1, 1, 1),
        cache(0, 1, 1, 1, 1),
        cache(0, 0, 3, 1, 1),
        cache(0, 0, 1, 2, 1),
        cache(0, 0, 1, 1, 2),
        count(3, 0, 0, 0),
        count(0, 1, 0, 0),
        count(0, 0, 4, 0),
        count(0, 0, 0, 3),
        loops(vec![looped(1, 0, 3)]),
        loops(vec![looped(1, 3, 3)]),
        loops(vec![looped(1, 1, 6)]),
        loops(vec![looped(0, 2, 3), looped(1, 2, 3)]),
        loops(vec![looped(1, 1, 3), looped(0, 3, 3)]),
        loops(vec![looped(0, 3, 3); LOOP_DEPTH + 1]),
        loops(vec![Loop {
            move_count: 4,
            ..looped(1, 1, 3)
        }]),
        moved(4, MOVE_ADVANCE, 0),
        moved(0, 3, 0),
        moved(0, MOVE_BACK, 3),
        ModelDesc {
            name: fake::constant(vec![0xFF]),
            ..good()
        },
        ModelDesc {
            symbols: fake::constant(vec![fake::symbol("S", 3, 2)]),
            ..good()
        },
        ModelDesc {
            symbols: Slice {
                len: 1,
                ..good().symbols
            },
            ..good()
        },
        ModelDesc {
            inputs: Slice {
                len: 1,
                ..good().inputs
            },
            ..good()
        },
        ModelDesc {
            outputs: Slice {
                len: 0,
                ..good().outputs
            },
            ..good()
        },
        ModelDesc {
            buffers: fake::constant(vec![fake::buffer(9, 0, 0)]),
            ..good()
        },
        ModelDesc {
            buffers: fake::constant(vec![fake::buffer(0, 0, 0)]),
            ..good()
        },
        ModelDesc {
            weight_bytes: 63,
            ..good()
        },
        ModelDesc { dim_count: 2, ..good() },
        ModelDesc {
            outputs: fake::constant(vec![fake::io("y", DType::F32, vec![fake::derived(3, "B")])]),
            ..good()
        },
        ModelDesc {
            outputs: fake::constant(vec![fake::io("y", DType::F32, vec![fake::fixed(-1)])]),
            ..good()
        },
    ];
    for (case, desc) in damaged.into_iter().enumerate() {
        assert_eq!(status(desc), Some(Status::InvalidModel), "case {case}");
    }
}

#[test]
fn wrong_weights() {
    let dir = tempfile::tempdir().unwrap();
    let weights = fake::lookup_weights();
    let good = fake::weights_file(fake::lookup_hash(), 68, &weights);
    let try_file = |bytes: &[u8]| {
        let path = dir.path().join("weights");
        std::fs::write(&path, bytes).unwrap();
        open(fake::lookup_model(false), Some(&path))
    };
    let mut context = Context::new(&try_file(&good).unwrap(), ContextOptions::default()).unwrap();
    run(&mut context, &right()).unwrap();
    assert_eq!(context.output(0).unwrap().elements::<f32>().unwrap(), [2.5; 5]);

    let mut version = good.clone();
    version[8] ^= 0x40;
    let mut magic = good.clone();
    magic[0] ^= 1;
    let cases: [(&[u8], Status); 8] = [
        (&[], Status::WeightsCorrupt),
        (&good[..63], Status::WeightsCorrupt),
        (&good[..good.len() - 1], Status::WeightsCorrupt),
        (&[&good[..], &[0]].concat(), Status::WeightsCorrupt),
        (&magic, Status::WeightsCorrupt),
        (&version, Status::AbiMismatch),
        (
            &fake::weights_file(fake::lookup_hash() ^ 1, 68, &weights),
            Status::WeightsMismatch,
        ),
        (
            &fake::weights_file(fake::lookup_hash(), 67, &weights[..67]),
            Status::WeightsMismatch,
        ),
    ];
    for (case, (bytes, status)) in cases.into_iter().enumerate() {
        assert_eq!(
            try_file(bytes).err().map(|error| error.status()),
            Some(status),
            "case {case}"
        );
    }
    for path in [dir.path().join("nowhere"), dir.path().join("weights/below")] {
        let error = open(fake::lookup_model(false), Some(&path)).err().unwrap();
        assert_eq!(error.status(), Status::WeightsMissing);
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
    assert_eq!(
        open(fake::lookup_model(false), Some(dir.path()))
            .err()
            .unwrap()
            .status(),
        Status::WeightsCorrupt
    );
    // A file that is named goes before weights that are linked in.
    assert!(open(fake::lookup_model(true), Some(&dir.path().join("nowhere"))).is_err());
}
