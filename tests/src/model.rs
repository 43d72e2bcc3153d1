//! Graphs compiled to shared libraries, loaded and run. The tests' only unsafe.

use std::path::{Path, PathBuf};

use cameo::{Emit, Options, Output, Target, pipeline};
use cameo_ir::{DType, Graph, Tensor};
use cameo_runtime::{Context, ContextOptions, Error, ModelDesc, OpenOptions, TensorView, Text};

/// How a graph is compiled.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    /// Run the passes, or take the graph as it is.
    pub passes: bool,
    /// As `--cpu`.
    pub cpu: &'static str,
    /// As `--in-place-cache`.
    pub in_place_cache: bool,
}

impl Choices {
    pub fn new(passes: bool, cpu: &'static str) -> Self {
        Self {
            passes,
            cpu,
            ..Self::default()
        }
    }
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            passes: false,
            cpu: "native",
            in_place_cache: false,
        }
    }
}

/// A compiled graph, in this process.
pub struct Model {
    model: cameo_runtime::Model,
    /// Graph that code was generated for: after the passes.
    pub graph: Graph,
    /// Names of the files that the compiler wrote, and their bytes.
    pub files: Vec<(String, Vec<u8>)>,
}

/// The graph after all passes.
///
/// # Errors
/// The diagnostics as text.
pub fn optimized(graph: &Graph) -> Result<Graph, String> {
    let mut graph = graph.clone();
    let options = Options {
        verify: true,
        ..Options::default()
    };
    pipeline::optimize(&mut graph, &options, &mut |_| {}).map_err(|d| d.to_string())?;
    Ok(graph)
}

impl Model {
    /// Compiles, links and loads a graph, with its weights inside the library.
    ///
    /// # Errors
    /// The diagnostics as text.
    pub fn new(graph: &Graph, choices: &Choices) -> Result<Self, String> {
        let graph = if choices.passes {
            optimized(graph)?
        } else {
            graph.clone()
        };
        let target = Target {
            triple: None,
            cpu: choices.cpu.into(),
        };
        let options = Options {
            name: Some("model".into()),
            emit: Emit::Shared,
            in_place_cache: choices.in_place_cache,
            ..Options::default()
        };
        let files = build(&graph, &target, &options).map_err(|d| d.to_string())?;
        let model = load(&files, None).map_err(|e| e.to_string())?;
        Ok(Self { model, graph, files })
    }

    /// The same library with the kernels of one of its levels.
    ///
    /// # Errors
    /// [`Error::CpuUnsupported`] when this machine lacks it.
    pub fn at_level(&self, level: &str) -> Result<Self, Error> {
        Ok(Self {
            model: load(&self.files, Some(level))?,
            graph: self.graph.clone(),
            files: self.files.clone(),
        })
    }

    /// A context that runs on so many threads.
    ///
    /// # Errors
    /// Those of [`Context::new`].
    pub fn context(&self, threads: usize) -> Result<Context, Error> {
        let options = ContextOptions {
            threads,
            ..ContextOptions::default()
        };
        Context::new(&self.model, options)
    }

    /// The outputs for `inputs`, in the graph's order, from a new context of so many threads.
    ///
    /// # Errors
    /// The runtime's.
    pub fn run(&self, inputs: &[Tensor], threads: usize) -> Result<Vec<Tensor>, Error> {
        run_in(&mut self.context(threads)?, inputs)
    }

    /// Values of the symbols for these inputs, by name.
    ///
    /// # Errors
    /// The runtime's.
    pub fn description(&self) -> &cameo_runtime::Description {
        self.model.description()
    }
}

/// The outputs of one more run of a context.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// When an output has a type that the IR does not know.
pub fn run_in(context: &mut Context, inputs: &[Tensor]) -> Result<Vec<Tensor>, Error> {
    let owned: Vec<Aligned> = inputs.iter().map(Aligned::new).collect();
    let texts = |t: &Tensor| {
        t.to_texts()
            .unwrap_or_default()
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    let texts: Vec<Vec<String>> = inputs.iter().map(texts).collect();
    let texts: Vec<Vec<Text>> = texts.iter().map(|t| t.iter().map(|t| Text::new(t)).collect()).collect();
    let both = owned.iter().zip(&texts);
    let views: Vec<TensorView> = both.map(|(t, texts)| t.view_of(texts)).collect();
    context.run_on(&views)?;
    let count = context.model().description().outputs().len();
    (0..count)
        .map(|i| {
            let view = context.output(i)?;
            let dtype = DType::ALL.into_iter().find(|t| *t as u32 == view.dtype() as u32);
            let shape: Vec<usize> = view.shape().iter().map(|d| *d as usize).collect();
            if let Some(texts) = view.as_texts() {
                return Ok(Tensor::strings(&shape, texts.iter().map(cameo_runtime::Text::as_str)).expect("different"));
            }
            let tensor = Tensor::from_packed(dtype.expect("a dtype"), shape, view.bytes().to_vec().into());
            Ok(tensor.expect("bytes fit the shape"))
        })
        .collect()
}

/// The memory of a cache that grows in place.
pub struct CacheMemory<'a> {
    /// Index of the input.
    pub input: usize,
    /// Of the rows that are there.
    pub shape: Vec<i64>,
    pub memory: &'a mut [f32],
}

/// Binds one dense input and caches, runs so many times, and unbinds them.
///
/// # Errors
/// The runtime's.
pub fn run_grown(
    context: &mut Context,
    input: (usize, &TensorView),
    caches: &mut [CacheMemory],
    times: usize,
) -> Result<(), Error> {
    let (index, view) = input;
    let bytes = view.bytes();
    #[expect(unsafe_code, reason = "binds memory")]
    // SAFETY: the memory outlives the call, at whose end it is unbound, and nothing else uses it meanwhile.
    let bound = unsafe {
        caches
            .iter_mut()
            .try_for_each(|c| {
                let bytes = size_of_val(c.memory);
                let dtype = cameo_runtime::DType::F32;
                context.bind_cache(c.input, dtype, &c.shape, c.memory.as_mut_ptr().cast(), bytes)
            })
            .and_then(|()| context.bind_input(index, view.dtype(), view.shape(), bytes.as_ptr(), bytes.len()))
    };
    let result = bound.and_then(|()| (0..times).try_for_each(|_| context.run()));
    context.unbind_inputs();
    result
}

/// A tensor's bytes at an address that suits every element type, which `Bytes` does not promise.
pub struct Aligned {
    words: Vec<u64>,
    bytes: usize,
    dtype: cameo_runtime::DType,
    shape: Vec<i64>,
}

impl Aligned {
    /// # Panics
    /// When the runtime does not know the type.
    pub fn new(t: &Tensor) -> Self {
        let (mut words, packed) = (vec![], t.packed());
        for chunk in packed.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            words.push(u64::from_ne_bytes(word));
        }
        Self {
            words,
            bytes: packed.len(),
            dtype: cameo_runtime::DType::from_raw(t.dtype() as u32).expect("a dtype"),
            shape: t.shape().iter().map(|d| *d as i64).collect(),
        }
    }

    /// The same of strings, which are these.
    fn view_of<'a>(&'a self, texts: &'a [Text<'a>]) -> TensorView<'a> {
        match self.dtype {
            cameo_runtime::DType::String => TensorView::texts(texts, &self.shape),
            _ => self.view(),
        }
    }

    pub fn view(&self) -> TensorView<'_> {
        let bytes = TensorView::new(&self.words, &[]).bytes();
        TensorView::from_bytes(self.dtype, &bytes[..self.bytes], &self.shape)
    }
}

/// Every file of the artefact, by name.
fn build(graph: &Graph, target: &Target, options: &Options) -> Result<Vec<(String, Vec<u8>)>, cameo::Diagnostics> {
    let silent = &mut |_: cameo::Event| {};
    let levels = pipeline::levels(graph, target.machines()?, options, silent)?;
    let artifact = pipeline::generate(levels, options, silent)?;
    let folder = tempfile::tempdir().expect("a folder");
    let output = Output {
        embed_weights: true,
        ..Output::new(folder.path().join("out"))
    };
    let report = pipeline::link(&artifact, &output, silent)?;
    let read = |path: &PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, std::fs::read(path).expect("the file was just written"))
    };
    Ok(report.files.iter().map(read).collect())
}

/// Loads the library among the files; it stays loaded.
fn load(files: &[(String, Vec<u8>)], level: Option<&str>) -> Result<cameo_runtime::Model, Error> {
    let (name, bytes) = files
        .iter()
        .find(|(name, _)| name.ends_with(".so"))
        .expect("there is a library");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("writes the library");
    open_level(&path, "model", None, level)
}

/// Loads a library with the model of this name, whose weights are in a file or linked in. It stays loaded.
///
/// # Errors
/// Those of [`cameo_runtime::Model::open`].
///
/// # Panics
/// When the file is no library, or has no model of this name.
pub fn open(library: &Path, name: &str, weights: Option<&Path>) -> Result<cameo_runtime::Model, Error> {
    open_level(library, name, weights, None)
}

fn open_level(
    library: &Path,
    name: &str,
    weights: Option<&Path>,
    level: Option<&str>,
) -> Result<cameo_runtime::Model, Error> {
    #[expect(unsafe_code, reason = "loading a library runs its initialisers")]
    // SAFETY: the compiler wrote the library; its initialisers are those of Rust's standard library.
    let library = unsafe { libloading::Library::new(library) }.unwrap_or_else(|e| panic!("{e}"));
    let library = Box::leak(Box::new(library));
    let symbol = format!("{name}_model");
    #[expect(unsafe_code, reason = "reading the model's descriptor")]
    // SAFETY: the compiler wrote the descriptor, and the library stays loaded.
    unsafe {
        let descriptor = library
            .get::<&'static ModelDesc>(symbol.as_bytes())
            .unwrap_or_else(|e| panic!("{e}"));
        let options = OpenOptions {
            level,
            ..OpenOptions::default()
        };
        cameo_runtime::Model::open_with(*descriptor, weights, &options)
    }
}
