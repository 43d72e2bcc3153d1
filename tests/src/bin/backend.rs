//! Compiles many small models in one process and runs them: the worker of `oracle/backend.py` and `oracle/fuzz.py`.
//!
//!     backend [--interpret] DIR BATCH NAME...
//!
//! `DIR/NAME/model.onnx` is compiled as `cameo compile` does, BATCH models are linked at once, and each runs on the tensors
//! of `DIR/NAME/inputs`; where some are of sequences or optionals, the lines of `DIR/NAME/items` are what `--items` would
//! be. The results go to `DIR/NAME/outputs`, their names, a line each, to `DIR/NAME/names`. Standard output has a line for
//! each model: `NAME ok`, or what is wrong. A line `NAME compiles` comes before a model is compiled, `NAME compiled` behind
//! it, and `NAME run` before it runs, so that who reads it knows which one ended the process, or does not end.
//!
//! With `--interpret` the reference interpreter runs each imported model too, also where it does not compile: its results go
//! to `DIR/NAME/reference`, or why there are none to `DIR/NAME/refusal`.
//!
//! Tensors are a number of them (u64), and of each its ONNX data type (u64), rank, extents and bytes (u64 each), then the
//! bytes; all little-endian, the bytes filled up to a multiple of eight. Strings are as `cameo_npz::text_data` puts them.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use cameo::{Emit, Items, Options, Target, pipeline};
use cameo_codegen::archive::{self, Member};
use cameo_ir::interp;
use cameo_runtime::{Context, ContextOptions, DType, TensorView, Text};
use cameo_tests::model::open;

/// Threads that compile: LLVM keeps one busy.
const THREADS: usize = 2;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let interprets = arguments.next_if(|a| a == "--interpret").is_some();
    let (Some(folder), Some(Ok(batch))) = (arguments.next(), arguments.next().map(|b| b.parse::<usize>())) else {
        eprintln!("usage: backend [--interpret] DIR BATCH NAME...");
        return ExitCode::from(2);
    };
    let names: Vec<String> = arguments.collect();
    // What a case panics with is its result.
    std::panic::set_hook(Box::new(|_| {}));
    for names in names.chunks(batch.max(1)) {
        let work = tempfile::tempdir().expect("a folder");
        let linked = compile(Path::new(&folder), names, work.path(), interprets);
        for (name, case) in linked {
            say(&name, "run");
            let result = caught(|| run(&Path::new(&folder).join(&name), &case, work.path()));
            say(&name, &result.err().unwrap_or_else(|| "ok".to_owned()));
        }
    }
    ExitCode::SUCCESS
}

fn say(name: &str, what: &str) {
    let line = what.replace('\n', " | ");
    // Who asked has gone.
    let _ = writeln!(io::stdout().lock(), "{name} {line}");
    let _ = io::stdout().flush();
}

/// The error of a case, a panic being one.
fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("?")))
    })
}

/// Compiles and links models, tells which ones that is not possible for, and gives the others with the name of each in the
/// library `WORK/batch.so`.
fn compile(folder: &Path, names: &[String], work: &Path, interprets: bool) -> Vec<(String, String)> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Vec<PathBuf>)>> = Mutex::default();
    std::thread::scope(|scope| {
        let share = || {
            while let Some((i, name)) = {
                let i = next.fetch_add(1, Ordering::Relaxed);
                names.get(i).map(|name| (i, name))
            } {
                say(name, "compiles");
                let case = folder.join(name);
                if interprets && let Err(why) = caught(|| interpret(&case)) {
                    std::fs::write(case.join("refusal"), why).expect("the folder of the case is there");
                }
                match caught(|| objects(&case, &format!("c{i}"), work)) {
                    Ok(objects) => {
                        say(name, "compiled");
                        done.lock().unwrap_or_else(PoisonError::into_inner).push((i, objects));
                    }
                    Err(message) => say(name, &message),
                }
            }
        };
        for _ in 0..THREADS {
            let thread = std::thread::Builder::new().stack_size(32 << 20);
            thread.spawn_scoped(scope, share).expect("a thread");
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort();
    if done.is_empty() {
        return vec![];
    }
    // What models call is taken from here where one does.
    let library = work.join("built_in.a");
    let members = cameo_codegen::BUILT_IN.map(|(name, data)| Member {
        name: format!("{name}.o"),
        data,
    });
    let mut file = std::fs::File::create(&library).expect("a file");
    archive::write(&mut file, &members).expect("a library");
    let mut linker = Command::new("cc");
    linker.args(["-shared", "-o"]).arg(work.join("batch.so"));
    linker.args(done.iter().flat_map(|(_, objects)| objects));
    linker.arg(library).args(["-lpthread", "-ldl", "-lm"]);
    let linked = linker.output().expect("a linker");
    let case = |(i, _): (usize, Vec<PathBuf>)| (names[i].clone(), format!("c{i}"));
    let cases: Vec<(String, String)> = done.into_iter().map(case).collect();
    if !linked.status.success() {
        let said = String::from_utf8_lossy(&linked.stderr).into_owned();
        cases.iter().for_each(|(name, _)| say(name, &format!("link: {said}")));
        return vec![];
    }
    cases
}

/// What inputs of a model hold that are sequences or optionals.
fn items(case: &Path) -> Result<Vec<(String, Items)>, String> {
    let text = std::fs::read_to_string(case.join("items")).unwrap_or_default();
    let line = |line: &str| {
        let (name, items) = line.rsplit_once('=').ok_or("expected NAME=ITEMS")?;
        Ok((name.to_owned(), items.parse::<Items>()?))
    };
    text.lines().map(line).collect()
}

/// Object files of a model.
fn objects(case: &Path, symbol: &str, work: &Path) -> Result<Vec<PathBuf>, String> {
    let options = Options {
        name: Some(symbol.to_owned()),
        emit: Emit::Object,
        items: items(case)?,
        ..Options::default()
    };
    let target = Target {
        triple: None,
        cpu: "native".into(),
    };
    let artifact =
        pipeline::run(&case.join("model.onnx"), &target, &options, &mut |_| {}).map_err(|d| d.to_string())?;
    let artifact = artifact.ok_or("there is no artifact")?;
    let objects = artifact
        .objects(&work.join(format!("{symbol}.weights")))
        .map_err(|d| d.to_string())?;
    let write = |(i, bytes): (usize, &Vec<u8>)| {
        let path = work.join(format!("{symbol}_{i}.o"));
        std::fs::write(&path, bytes).map(|()| path)
    };
    let written = objects.iter().enumerate().map(write).collect::<io::Result<_>>();
    written.map_err(|e| format!("cannot write objects: {e}"))
}

/// Runs one model of the library on its inputs and writes its outputs.
fn run(case: &Path, symbol: &str, work: &Path) -> Result<(), String> {
    let weights = work.join(format!("{symbol}.weights"));
    let model = open(&work.join("batch.so"), symbol, Some(&weights)).map_err(|e| e.to_string())?;
    let mut context = Context::new(&model, ContextOptions { threads: 2, pool: None }).map_err(|e| e.to_string())?;
    let inputs = read(&case.join("inputs"))?;
    let texts: Vec<Vec<Text>> = inputs.iter().map(Tensor::texts).collect::<Result<_, _>>()?;
    let views: Vec<TensorView> = inputs.iter().zip(&texts).map(|(t, texts)| t.view(texts)).collect();
    context.run_on(&views).map_err(|e| e.to_string())?;
    let count = model.description().outputs().len();
    let mut out = (count as u64).to_le_bytes().to_vec();
    for i in 0..count {
        let view = context.output(i).map_err(|e| e.to_string())?;
        let shape = view.shape().iter().map(|extent| *extent as u64);
        let texts = view
            .as_texts()
            .map(|texts| cameo_npz::text_data(texts.iter().map(Text::as_str)));
        put(
            &mut out,
            view.dtype() as u64,
            shape,
            texts.as_deref().unwrap_or(view.bytes()),
        );
    }
    let names = model.description().outputs().map(|o| format!("{}\n", o.name));
    std::fs::write(case.join("names"), names.collect::<String>()).map_err(|e| e.to_string())?;
    std::fs::write(case.join("outputs"), out).map_err(|e| e.to_string())
}

/// Interprets a model on its inputs, as it was imported, and writes what comes out.
fn interpret(case: &Path) -> Result<(), String> {
    let options = Options {
        items: items(case)?,
        ..Options::default()
    };
    let graph = pipeline::import(&case.join("model.onnx"), &options, &mut |_| {});
    let graph = graph.map_err(|d| d.to_string())?;
    let inputs: Vec<cameo_ir::Tensor> = read(&case.join("inputs"))?
        .iter()
        .map(Tensor::constant)
        .collect::<Result<_, _>>()?;
    let results = interp::run(&graph, &inputs).map_err(|e| e.to_string())?;
    let mut out = (results.len() as u64).to_le_bytes().to_vec();
    for t in &results {
        let shape = t.shape().iter().map(|extent| *extent as u64);
        let texts = t.to_texts().map(cameo_npz::text_data);
        put(
            &mut out,
            t.dtype() as u64,
            shape,
            &texts.unwrap_or_else(|| t.packed().into()),
        );
    }
    std::fs::write(case.join("reference"), out).map_err(|e| e.to_string())
}

/// Appends a tensor to the bytes of a file.
fn put(out: &mut Vec<u8>, dtype: u64, shape: impl ExactSizeIterator<Item = u64>, bytes: &[u8]) {
    let head = [dtype, shape.len() as u64];
    for n in head.into_iter().chain(shape).chain([bytes.len() as u64]) {
        out.extend(n.to_le_bytes());
    }
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// A tensor at an address that suits every type.
struct Tensor {
    dtype: DType,
    shape: Vec<i64>,
    words: Vec<u64>,
    bytes: usize,
}

impl Tensor {
    fn data(&self) -> &[u8] {
        &TensorView::new(&self.words, &[]).bytes()[..self.bytes]
    }

    /// Its strings; none of another type.
    fn texts(&self) -> Result<Vec<Text<'_>>, String> {
        if self.dtype != DType::String {
            return Ok(vec![]);
        }
        let texts = cameo_npz::texts(self.data()).ok_or("strings that are none")?;
        Ok(texts.into_iter().map(Text::new).collect())
    }

    fn view<'a>(&'a self, texts: &'a [Text<'a>]) -> TensorView<'a> {
        match self.dtype {
            DType::String => TensorView::texts(texts, &self.shape),
            dtype => TensorView::from_bytes(dtype, self.data(), &self.shape),
        }
    }

    /// The same for the interpreter.
    fn constant(&self) -> Result<cameo_ir::Tensor, String> {
        let dtype = cameo_ir::DType::ALL
            .into_iter()
            .find(|t| *t as u32 == self.dtype as u32);
        let dtype = dtype.ok_or("the graph has no such type")?;
        let shape: Vec<usize> = self.shape.iter().map(|d| *d as usize).collect();
        if self.dtype == DType::String {
            let texts = self.texts()?;
            if texts.len() != shape.iter().product::<usize>() {
                return Err("the strings do not fit the shape".to_owned());
            }
            return cameo_ir::Tensor::strings(&shape, texts.iter().map(Text::as_str));
        }
        let bytes = self.data().to_vec();
        cameo_ir::Tensor::from_packed(dtype, shape, bytes.into())
            .map_err(|_| "the bytes do not fit the shape".to_owned())
    }
}

/// The tensors of a file.
fn read(path: &Path) -> Result<Vec<Tensor>, String> {
    let file = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut at = 0;
    let mut take = |bytes: usize| {
        let taken = file.get(at..at + bytes).ok_or("the file of inputs ends early");
        at += bytes;
        taken
    };
    let mut number = || -> Result<usize, &str> {
        let eight = take(8)?.first_chunk().copied().unwrap_or_default();
        Ok(u64::from_le_bytes(eight) as usize)
    };
    let mut tensors = vec![];
    let count = number()?;
    for _ in 0..count {
        let raw = number()?;
        let dtype = DType::from_raw(raw as u32).ok_or_else(|| format!("inputs of type {raw} are not supported"))?;
        let rank = number()?;
        let shape = (0..rank)
            .map(|_| number().map(|n| n as i64))
            .collect::<Result<_, _>>()?;
        let bytes = number()?;
        let words = (0..bytes.div_ceil(8))
            .map(|_| number().map(|n| n as u64))
            .collect::<Result<_, _>>()?;
        tensors.push(Tensor {
            dtype,
            shape,
            words,
            bytes,
        });
    }
    Ok(tensors)
}
