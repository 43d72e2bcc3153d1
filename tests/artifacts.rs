//! What a compiled model may do and need, whatever it computes: its bytes depend on the model alone, it needs only the
//! symbols on a list, a run after the first allocates nothing, and wrong use gives the documented codes.
//!
//! The global allocator of this binary counts.

#[path = "artifacts/library.rs"]
mod library;
#[path = "artifacts/network.rs"]
mod network;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use cameo::Emit;
use cameo_codegen::archive::undefined_symbols;
use cameo_codegen::emit::math::LIBM;
use cameo_ir::{DType, Tensor};
use cameo_runtime::{Context, ContextOptions, Error, Status, TensorView};
use cameo_tests::allocations;
use cameo_tests::model::{Aligned, run_in};

use library::{Library, next_keys};
use network::{Compiled, NAMES, inputs, network, other, symbolic, write};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Calls of the allocator during `work`: the least of several tries, because the test harness allocates now and then
/// on its own threads; what `work` itself allocates is in every try.
fn allocations_of(mut work: impl FnMut()) -> usize {
    let mut once = || {
        let before = allocations::calls();
        work();
        allocations::calls() - before
    };
    (0..8).map(|_| once()).min().unwrap_or(usize::MAX)
}

#[test]
fn later_runs_allocate_nothing() {
    let cases = [
        (network("2", "9"), vec![(2, 9)]),
        // Largest first: smaller shapes need no new memory.
        (symbolic(), vec![(3, 40), (1, 1), (2, 9), (3, 40)]),
    ];
    for (graph, shapes) in cases {
        let compiled = Compiled::new(&graph);
        for threads in [1, 2] {
            let mut context = compiled.context(threads);
            let owned: Vec<Vec<Aligned>> = shapes
                .iter()
                .map(|(b, s)| inputs(*b, *s).iter().map(Aligned::new).collect())
                .collect();
            let views: Vec<Vec<TensorView>> = owned
                .iter()
                .map(|all| all.iter().map(Aligned::view).collect())
                .collect();
            let mut run = |shape: usize| {
                context.run_on(&views[shape]).expect("runs");
                let hidden = context.output(0).expect("an output");
                assert_eq!(hidden.shape()[..2], [shapes[shape].0 as i64, shapes[shape].1 as i64]);
            };
            run(0);
            let calls = allocations_of(|| {
                for _ in 0..5 {
                    (0..shapes.len()).for_each(&mut run);
                }
            });
            assert_eq!(calls, 0, "{threads} threads, {shapes:?}");
        }
        // Unless the counter does not count.
        assert!(allocations_of(|| drop(compiled.context(1))) > 0);
    }
}

#[test]
fn threads_do_not_change_results() {
    let compiled = Compiled::new(&symbolic());
    let run = |threads| run_in(&mut compiled.context(threads), &inputs(2, 13)).expect("runs");
    let one = run(1);
    assert!(one.iter().flat_map(Tensor::to_f64).all(f64::is_finite));
    for threads in [2, 3] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn equal_compilations_give_equal_bytes() {
    for emit in [Emit::Exe, Emit::Shared, Emit::Object] {
        let files = || {
            let folder = tempfile::tempdir().expect("a folder");
            let written = write(&symbolic(), emit, folder.path());
            let read = |path: PathBuf| {
                let name = path.strip_prefix(folder.path()).expect("in the folder").to_owned();
                (name, std::fs::read(path).expect("was written"))
            };
            written.into_iter().map(read).collect::<BTreeMap<PathBuf, Vec<u8>>>()
        };
        let (one, two) = (files(), files());
        assert!(
            one.keys().any(|name| name.to_string_lossy().ends_with("weights")),
            "{:?}",
            one.keys()
        );
        assert!(one.keys().eq(two.keys()));
        for (name, bytes) in &one {
            assert!(two[name] == *bytes, "{emit:?}: {} differs", name.display());
        }
    }
}

/// What LLVM calls by itself.
const MEMORY: &str = "memcpy memset memmove";

/// What position-independent code of an object names.
const TABLES: &str = "_GLOBAL_OFFSET_TABLE_";

/// What a shared library has in addition, for the runtime and Rust's standard library in it, of the C library on Linux.
const SYSTEM: &[&str] = &[
    // Of the C compiler's start-up code
    "_ITM_deregisterTMCloneTable _ITM_registerTMCloneTable __cxa_finalize __gmon_start__",
    // Memory
    "bcmp calloc free madvise malloc memcmp mmap mmap64 munmap posix_memalign realloc strlen",
    // Files
    "close fcntl fcntl64 fstat fstat64 getcwd lseek lseek64 open open64 read readlink realpath stat stat64 statx write",
    "writev",
    // Threads and processors
    "clock_gettime gettid pause poll pthread_attr_destroy pthread_attr_init pthread_attr_setstacksize pthread_create",
    "pthread_join pthread_key_create pthread_key_delete pthread_setname_np pthread_setspecific sched_getaffinity",
    "sched_yield syscall sysconf __cxa_thread_atexit_impl __tls_get_addr",
    // Errors, and the unwinder that names the functions of a panic
    "__errno_location __xpg_strerror_r abort dl_iterate_phdr dlsym getenv _Unwind_Backtrace _Unwind_GetDataRelBase",
    "_Unwind_GetIP _Unwind_GetIPInfo _Unwind_GetLanguageSpecificData _Unwind_GetRegionStart _Unwind_GetTextRelBase",
    "_Unwind_Resume _Unwind_SetGR _Unwind_SetIP",
];

fn allow_listed<'a>(needed: impl IntoIterator<Item = &'a str>, lists: &[&'static str]) {
    let listed: BTreeSet<&str> = lists.iter().flat_map(|list| list.split(' ')).chain(LIBM).collect();
    let strange: Vec<&str> = needed.into_iter().filter(|name| !listed.contains(name)).collect();
    assert!(strange.is_empty(), "needed and not on a list: {strange:?}");
}

#[test]
fn objects_need_only_listed_symbols() {
    let folder = tempfile::tempdir().expect("a folder");
    write(&symbolic(), Emit::Object, folder.path());
    let object = std::fs::read(folder.path().join("network.o")).expect("was written");
    let needed = undefined_symbols(&object).expect("an object");
    // Or this test would look at nothing.
    assert!(needed.contains(&"atanf"), "{needed:?}");
    allow_listed(needed, &[MEMORY, TABLES]);
}

#[test]
fn libraries_need_only_listed_symbols() {
    let compiled = Compiled::new(&symbolic());
    // Of the tools that `cc` links with.
    let listing = Command::new("nm")
        .args(["--dynamic", "--undefined-only", "--portability"])
        .arg(compiled.library())
        .output()
        .expect("nm runs");
    assert!(listing.status.success(), "{}", String::from_utf8_lossy(&listing.stderr));
    let listing = String::from_utf8(listing.stdout).expect("text");
    // `name@version type`
    let names: Vec<&str> = listing.lines().filter_map(|l| l.split(['@', ' ']).next()).collect();
    assert!(names.contains(&"mmap") || names.contains(&"mmap64"), "{names:?}");
    allow_listed(names, &[&[MEMORY], SYSTEM].concat());
}

/// A process has 1,024 of them, and no library gives one back: it could load no more models than that.
#[test]
fn libraries_take_no_thread_local_key() {
    let compiled = Compiled::new(&symbolic());
    let library = Library::load(&compiled.library());
    let before = next_keys();
    library.open_and_close("network_model", &compiled.weights(), 3);
    assert_eq!(next_keys(), before);
}

/// A result's code and what it says to people.
fn outcome<T>(result: Result<T, Error>) -> (Status, String) {
    result
        .err()
        .map_or((Status::Ok, String::new()), |e| (e.status(), e.to_string()))
}

#[test]
fn wrong_inputs_give_the_documented_codes() {
    let compiled = Compiled::new(&symbolic());
    let with = |at: usize, dtype: DType, shape: &[usize]| {
        let mut all = inputs(2, 5);
        all[at] = Tensor::from_f64(dtype, shape, vec![0.0; shape.iter().product()]);
        all
    };
    let indices = |first: f64| {
        let mut all = inputs(2, 5);
        all[0] = Tensor::from_f64(DType::I64, &[2, 5], (0..10).map(|i| if i == 7 { first } else { 0.0 }));
        all
    };
    let pair = || inputs(2, 5)[..2].to_vec();
    // What is wrong, the code, and what the message must name.
    let cases: Vec<(Vec<Tensor>, Status, &[&str])> = vec![
        (inputs(2, 5), Status::Ok, &[]),
        (indices(10.0), Status::Ok, &[]),
        (indices(-11.0), Status::Ok, &[]),
        (pair(), Status::UnknownName, &["3 inputs", "2"]),
        (
            with(0, DType::I32, &[2, 5]),
            Status::WrongDtype,
            &["ids", "int64", "int32"],
        ),
        (
            with(1, DType::F64, &[2, 1, 1, 5]),
            Status::WrongDtype,
            &["mask", "float32", "float64"],
        ),
        (with(0, DType::I64, &[10]), Status::WrongRank, &["ids", "2", "1"]),
        (
            with(2, DType::F32, &[2, 3, 9, 9, 1]),
            Status::WrongRank,
            &["image", "4", "5"],
        ),
        (
            with(2, DType::F32, &[2, 3, 9, 8]),
            Status::WrongSize,
            &["image", "axis 3", "9", "8"],
        ),
        (
            with(1, DType::F32, &[2, 2, 1, 5]),
            Status::WrongSize,
            &["mask", "axis 1"],
        ),
        (
            with(1, DType::F32, &[2, 1, 1, 6]),
            Status::SymbolMismatch,
            &["mask", "\"S\"", "ids", "5", "6"],
        ),
        (
            with(2, DType::F32, &[1, 3, 9, 9]),
            Status::SymbolMismatch,
            &["image", "\"B\"", "ids", "2", "1"],
        ),
        (inputs(1, 65), Status::OutOfRange, &["ids", "\"S\"", "64", "65"]),
        (inputs(0, 5), Status::OutOfRange, &["ids", "\"B\"", "0"]),
        (indices(11.0), Status::IndexOutOfRange, &["index"]),
        (indices(-12.0), Status::IndexOutOfRange, &["index"]),
        (indices(f64::from(i32::MIN)), Status::IndexOutOfRange, &["index"]),
    ];
    for threads in [1, 2] {
        let mut context = compiled.context(threads);
        for (inputs, status, names) in &cases {
            let facts: Vec<String> = inputs.iter().map(|t| format!("{}{:?}", t.dtype(), t.shape())).collect();
            let (got, said) = outcome(run_in(&mut context, inputs));
            assert_eq!(got, *status, "{facts:?}: {said}");
            for name in *names {
                assert!(said.contains(name), "{facts:?}: {said:?} does not name {name}");
            }
        }
        // The context is as good as before.
        assert!(run_in(&mut context, &inputs(2, 5)).is_ok());
    }
}

#[test]
fn wrong_use_gives_the_documented_codes() {
    let compiled = Compiled::new(&symbolic());
    let mut context = compiled.context(1);
    let model = context.model().clone();
    let description = model.description();
    for (index, name) in NAMES.iter().enumerate() {
        assert_eq!(description.input_index(name), Ok(index));
    }
    assert_eq!(description.output_index("pooled"), Ok(1));
    let (status, said) = outcome(description.input_index("pooled"));
    assert_eq!(
        (status, &*said),
        (Status::UnknownName, "the model has no input \"pooled\"")
    );
    let (status, said) = outcome(description.output_index(""));
    assert_eq!((status, &*said), (Status::UnknownName, "the model has no output \"\""));

    assert_eq!(outcome(context.run()).0, Status::NotBound);
    assert_eq!(outcome(context.output(0)).0, Status::InvalidArgument);
    assert_eq!(outcome(context.output(2)).0, Status::UnknownName);
    run_in(&mut context, &inputs(1, 3)).expect("runs");
    assert_eq!(outcome(context.output(2)).0, Status::UnknownName);

    // More or fewer bytes than the shape says, and an address that no element can have.
    let wide: Vec<Aligned> = inputs(1, 3).iter().map(Aligned::new).collect();
    let views: Vec<TensorView> = wide.iter().map(Aligned::view).collect();
    let image = views[2];
    let bytes = |from: usize, to: usize| TensorView::from_bytes(image.dtype(), &image.bytes()[from..to], image.shape());
    let all = image.bytes().len();
    let mut run = |image| outcome(context.run_on(&[views[0], views[1], image])).0;
    assert_eq!(run(bytes(0, all - 4)), Status::WrongSize);
    assert_eq!(run(bytes(0, 0)), Status::WrongSize);
    let negative = TensorView::from_bytes(image.dtype(), image.bytes(), &[1, -3, 9, 9]);
    assert_eq!(run(negative), Status::InvalidArgument);
    assert_eq!(run(image), Status::Ok);

    let many = ContextOptions {
        threads: 1 << 20,
        ..ContextOptions::default()
    };
    assert_eq!(outcome(Context::new(&model, many)).0, Status::InvalidArgument);
}

#[test]
fn wrong_weights_files_give_the_documented_codes() {
    let compiled = Compiled::new(&symbolic());
    let good = std::fs::read(compiled.weights()).expect("was written");
    let other = Compiled::new(&other());
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let file = |bytes: &[u8]| {
        let path = compiled.folder.path().join("wrong.weights");
        std::fs::write(&path, bytes).expect("is written");
        path
    };
    assert_eq!(outcome(compiled.open_with(Some(&compiled.weights()))).0, Status::Ok);
    // Opening maps the file and looks at its header alone.
    let cases: Vec<(&str, Vec<u8>, Status)> = vec![
        ("empty", vec![], Status::WeightsCorrupt),
        ("half a header", good[..20].to_vec(), Status::WeightsCorrupt),
        ("another file", vec![b'x'; good.len()], Status::WeightsCorrupt),
        ("other magic", changed(0), Status::WeightsCorrupt),
        ("truncated", good[..good.len() - 1].to_vec(), Status::WeightsCorrupt),
        ("longer", [&*good, b"x"].concat(), Status::WeightsCorrupt),
        (
            "another model's",
            std::fs::read(other.weights()).expect("was written"),
            Status::WeightsMismatch,
        ),
    ];
    for (what, bytes, status) in cases {
        let (got, said) = outcome(compiled.open_with(Some(&file(&bytes))));
        assert_eq!(got, status, "{what}: {said}");
        assert!(said.contains("wrong.weights"), "{what}: {said}");
    }
    assert_eq!(outcome(compiled.open_with(None)).0, Status::WeightsMissing);
    assert_eq!(
        outcome(compiled.open_with(Some(Path::new("/nowhere/w")))).0,
        Status::WeightsMissing
    );
    let folder = outcome(compiled.open_with(Some(compiled.folder.path()))).0;
    assert!(
        [Status::WeightsMissing, Status::WeightsCorrupt].contains(&folder),
        "{folder:?}"
    );

    // A changed weight is found on request.
    let verified = |bytes: &[u8]| outcome(compiled.open_with(Some(&file(bytes))).expect("opens").verify_weights()).0;
    assert_eq!(verified(&good), Status::Ok);
    assert_eq!(verified(&changed(good.len() - 1)), Status::WeightsCorrupt);
}
