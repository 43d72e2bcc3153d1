//! The model's constant tables: what `cameo_abi` declares, as LLVM IR text.
//!
//! Laws: the struct types below have the fields of `cameo_abi` in the same order, so LLVM lays them out as `repr(C)`
//! does; equal steps share their slice of the `dims` table, equal quantities one entry; everything is private to the object
//! except the descriptor `<name>_model`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use cameo_abi as abi;
use cameo_ir::{Dim, Origin, Sym};
use cameo_kernel::memory::MemoryPlan;
use cameo_kernel::program::{Kernel, KernelBody, Place, Program, Symbol, Way};
use inkwell::context::Context as LlvmContext;
use inkwell::memory_buffer::MemoryBuffer;
use inkwell::module::Module as LlvmModule;

use crate::artifact::ArtifactError;
use crate::custom;
use crate::level::Level;
use crate::object::Machine;
use crate::profile;
use crate::rules;
use crate::shape::{self, Quantities};

// What the kernel room allows the runtime can walk.
const _: () = assert!(cameo_kernel::program::LOOP_DEPTH <= abi::LOOP_DEPTH);

/// Longest name of a step, in bytes: enough for a few ONNX nodes in one line of a profile.
const STEP_NAME_BYTES: usize = 160;

/// What the tables say beside the program.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// C identifier that all symbols begin with.
    pub name: &'a str,
    /// 0: as many as the process may use.
    pub default_threads: u32,
    /// Byte offset of each weight of the program.
    pub weight_offsets: &'a [u64],
    pub weight_bytes: u64,
    pub weight_hash: u64,
    /// Whether `<name>_weights` is linked in.
    pub embedded: bool,
    /// Whether to define a `main` that calls `cameo_exe_main`.
    pub main: bool,
    /// The program's fingerprint when its steps are timed: `main` calls `cameo_profile_main` then.
    pub profile: Option<u64>,
    /// Whether `main` is linked with operators, which `cameo_operators` lists.
    pub operators: bool,
}

/// Parses LLVM IR text.
///
/// # Errors
/// [`ArtifactError::Tables`] when it is no valid module.
pub fn assemble<'l>(
    machine: &Machine,
    llvm: &'l LlvmContext,
    name: &str,
    text: &str,
) -> Result<LlvmModule<'l>, ArtifactError> {
    let refused = |message: String| ArtifactError::Tables(message);
    // The parser wants a terminating NUL, which the name-taking constructor adds by copying.
    let buffer = MemoryBuffer::create_from_memory_range_copy(text.as_bytes(), name);
    let module = llvm
        .create_module_from_ir(buffer)
        .map_err(|message| refused(message.to_string()))?;
    module.set_name(name);
    module.set_source_file_name(name);
    module.verify().map_err(|message| refused(message.to_string()))?;
    // Straight-line code without repetitions, which runs once per shape: LLVM's passes would take time and find nothing.
    machine.adopt(&module);
    Ok(module)
}

/// The tables of programs of one plan as an LLVM IR module; `kernels` are the symbols by level and kernel.
///
/// # Errors
/// [`ArtifactError::Tables`] when a program contradicts itself.
pub fn text(
    levels: &[Level],
    plan: &MemoryPlan,
    kernels: &[Vec<String>],
    facts: &Facts,
) -> Result<String, ArtifactError> {
    let program = match levels {
        [first, ..] => &first.program,
        [] => return Err(ArtifactError::Tables("there is no program".to_owned())),
    };
    let symbols: Vec<Arc<str>> = program.symbols.iter().map(|(name, _)| name.clone()).collect();
    let layout = Layout::new(levels, program, plan, facts)?;
    let counted: Vec<Sym> = program.counted().map(|s| Sym::Named(s.name.clone())).collect();
    let quantities = Quantities {
        symbols: &symbols,
        dims: &layout.dims.list,
        offsets: &layout.offsets.list,
        arena: &plan.size,
        scratch: &layout.scratch,
        requirements: &program.requirements,
        sizes: &layout.sizes,
        makers: &rules::makers(&program.graph),
        counted: &counted,
    };
    let (shape, rules) = shape::function(&format!("{}_shape", facts.name), &quantities)
        .map_err(|unknown| ArtifactError::Tables(format!("nothing binds the symbol {}", unknown.0)))?;
    let mut strings = Strings::default();
    let mut out = String::from(TYPES);
    out.push_str(custom::TYPES);
    if facts.profile.is_some() {
        out.push_str(profile::TYPES);
    }
    // Writing to strings cannot fail, hence the discarded results.
    let name = facts.name;
    let mut tables = String::new();

    let mut io_list = |label: &str, list: &[cameo_kernel::program::Io], places: &[Vec<Extent>]| {
        let mut rows = vec![];
        for (i, (io, extents)) in list.iter().zip(places).enumerate() {
            let table = format!("{label}{i}");
            let extents: Vec<String> = extents
                .iter()
                .map(|e| {
                    let text = strings.add(name, &e.name);
                    format!("%Extent {{ i32 {}, i32 0, i64 {}, {text} }}", e.kind, e.value)
                })
                .collect();
            let shape = constant(&mut tables, name, &table, "%Extent", &extents);
            let text = strings.add(name, &io.name);
            rows.push(format!("%Io {{ {text}, i32 {}, i32 0, {shape} }}", io.dtype as u32));
        }
        constant(&mut tables, name, label, "%Io", &rows)
    };
    let inputs = io_list("inputs", &program.inputs, &layout.inputs);
    let outputs = io_list("outputs", &program.outputs, &layout.outputs);

    let rows: Vec<String> = program
        .symbols
        .iter()
        .map(|(symbol, range)| {
            format!(
                "%Symbol {{ {}, i64 {}, i64 {} }}",
                strings.add(name, symbol),
                range.min,
                range.max
            )
        })
        .collect();
    let symbol_table = constant(&mut tables, name, "symbols", "%Symbol", &rows);

    let rows: Vec<String> = layout
        .buffers
        .iter()
        .map(|b| format!("%Buffer {{ i32 {}, i32 {}, i64 {} }}", b.region, b.index, b.offset))
        .collect();
    let buffers = constant(&mut tables, name, "buffers", "%Buffer", &rows);

    let mut timed = String::new();
    let checks = rules::of_steps(program);
    // Symbols, and whether they call the caller's code.
    let mut called = BTreeSet::new();
    let mut rows = vec![];
    for (l, (level, symbols)) in levels.iter().zip(kernels).enumerate() {
        let own = level.program.steps.iter().map(|step| step.kernel);
        let steps = program.steps.iter().zip(own).zip(&layout.steps).enumerate();
        let steps: Vec<String> = steps
            .map(|(i, ((step, own), row))| {
                let text = match &checks[i] {
                    Some(said) => said.text.clone(),
                    None => step_name(&program.kernels[step.kernel], step.kernel, step.origin.names()),
                };
                let text = strings.add(name, &text);
                let [first_buffer, first_dim, work] = row;
                let mut kernel = symbols[own].clone();
                let custom = matches!(level.program.kernels[own].body, KernelBody::Custom(_));
                called.insert((kernel.clone(), custom));
                if facts.profile.is_some() {
                    kernel = profile::timed(&mut timed, name, i, &kernel);
                }
                format!("%Step {{ ptr @{kernel}, i32 {first_buffer}, i32 {first_dim}, i32 {work}, i32 0, {text} }}")
            })
            .collect();
        let label = if l == 0 {
            "steps".to_owned()
        } else {
            format!("steps{l}")
        };
        let steps = constant(&mut tables, name, &label, "%Step", &steps);
        let cpu = strings.add(name, &level.machine.cpu);
        rows.push(format!("%Level {{ i64 {}, {cpu}, {steps} }}", level.cpu_features()));
    }
    let levels_table = constant(&mut tables, name, "levels", "%Level", &rows);
    let rows: Vec<String> = layout
        .loops
        .iter()
        .map(|l| {
            format!(
                "%Loop {{ i32 {}, i32 {}, i32 {}, i32 {}, i32 {}, i32 {}, i32 {} }}",
                l.first_step, l.step_count, l.count, l.first_move, l.move_count, l.rows, l.again
            )
        })
        .collect();
    let loops = constant(&mut tables, name, "loops", "%Loop", &rows);
    let rows: Vec<String> = layout
        .moves
        .iter()
        .map(|m| format!("%Move {{ i32 {}, i32 {}, i32 {}, i32 0 }}", m.buffer, m.kind, m.bytes))
        .collect();
    let moves = constant(&mut tables, name, "moves", "%Move", &rows);
    let rows: Vec<String> = layout
        .counts
        .iter()
        .map(|c| {
            format!(
                "%Count {{ i32 {}, i32 {}, i32 {}, i32 {} }}",
                c.step, c.symbol, c.buffer, c.most
            )
        })
        .collect();
    let counts = constant(&mut tables, name, "counts", "%Count", &rows);
    let rows: Vec<String> = layout
        .caches
        .iter()
        .map(|c| {
            format!(
                "%Cache {{ i32 {}, i32 {}, i32 {}, i32 {} }}",
                c.input, c.output, c.axis, c.capacity
            )
        })
        .collect();
    let caches = constant(&mut tables, name, "caches", "%Cache", &rows);
    let rows: Vec<String> = layout
        .elements
        .iter()
        .map(|e| format!("%Element {{ i32 {}, i32 {}, i64 {} }}", e.symbol, e.input, e.at))
        .collect();
    let elements = constant(&mut tables, name, "elements", "%Element", &rows);
    let customs = custom::table(&mut tables, &mut strings, name, program, &layout.customs);
    let rows: Vec<String> = program.texts.iter().map(|text| strings.add(name, text)).collect();
    let texts = constant(&mut tables, name, "texts", "%Slice", &rows);
    let rows: Vec<String> = rules.iter().map(|rule| strings.add(name, rule)).collect();
    let rules = constant(&mut tables, name, "rules", "%Slice", &rows);
    for (kernel, custom) in called {
        let _ = match custom {
            true => custom::thunk(&mut out, &kernel),
            false => writeln!(out, "declare hidden i32 @{kernel}(ptr, ptr, i64, i64, ptr)"),
        };
    }

    if let Some(fingerprint) = facts.profile {
        profile::descriptor(&mut tables, &mut strings, name, program, &layout.profile, fingerprint);
    }
    let model = strings.add(name, &program.name);
    strings.write(&mut out, name);
    out.push_str(&tables);
    let weights = if facts.embedded && facts.weight_bytes > 0 {
        let _ = writeln!(
            out,
            "@{name}_weights = external hidden constant i8, align {}",
            abi::ALIGNMENT
        );
        format!("@{name}_weights")
    } else {
        "null".to_owned()
    };
    let fields = [
        format!(
            "i64 {}, i32 {}, i32 {}",
            abi::MAGIC,
            abi::ABI_VERSION,
            facts.default_threads
        ),
        [
            model,
            symbol_table,
            inputs,
            outputs,
            buffers,
            levels_table,
            loops,
            moves,
            counts,
            caches,
            elements,
            customs,
            texts,
            rules,
        ]
        .join(", "),
        format!(
            "i64 {}, i64 {}, ptr @{name}_shape",
            layout.dims.list.len(),
            layout.offsets.list.len()
        ),
        format!("i64 {}, i64 {}, ptr {weights}", facts.weight_bytes, facts.weight_hash),
    ];
    let _ = writeln!(
        out,
        "@{name}_model = constant %Model {{ {} }}, align 8",
        fields.join(",\n  ")
    );
    out.push_str(&shape);
    out.push_str(&timed);
    if facts.main {
        let (entry, types, more) = match facts.profile {
            Some(_) => ("cameo_profile_main", ", ptr", format!(", ptr @{name}_profile")),
            None => ("cameo_exe_main", "", String::new()),
        };
        let operators = if facts.operators {
            out.push_str("declare ptr @cameo_operators(ptr)\n");
            "@cameo_operators"
        } else {
            "null"
        };
        let _ = write!(
            out,
            "declare i32 @{entry}(i32, ptr, ptr, ptr{types})\n\
             define i32 @main(i32 %argc, ptr %argv) {{\n  \
               %code = call i32 @{entry}(i32 %argc, ptr %argv, ptr @{name}_model, ptr {operators}{more})\n  \
               ret i32 %code\n}}\n"
        );
    }
    Ok(out)
}

/// The structs of `cameo_abi`, field by field.
const TYPES: &str = "\
%Slice = type { ptr, i64 }
%Extent = type { i32, i32, i64, %Slice }
%Io = type { %Slice, i32, i32, %Slice }
%Symbol = type { %Slice, i64, i64 }
%Buffer = type { i32, i32, i64 }
%Step = type { ptr, i32, i32, i32, i32, %Slice }
%Level = type { i64, %Slice, %Slice }
%Loop = type { i32, i32, i32, i32, i32, i32, i32 }
%Move = type { i32, i32, i32, i32 }
%Count = type { i32, i32, i32, i32 }
%Cache = type { i32, i32, i32, i32 }
%Element = type { i32, i32, i64 }
%Model = type { i64, i32, i32, %Slice, %Slice, %Slice, %Slice, %Slice, %Slice, %Slice, %Slice, %Slice, %Slice, %Slice, %Slice, %Slice, %Slice, i64, i64, ptr, i64, i64, ptr }
";

/// Defines an array and gives the `%Slice` of it.
pub(crate) fn constant(out: &mut String, name: &str, label: &str, ty: &str, rows: &[String]) -> String {
    let len = rows.len();
    if len == 0 {
        // Dangling, but aligned for anything.
        return format!("%Slice {{ ptr inttoptr (i64 {} to ptr), i64 0 }}", abi::ALIGNMENT);
    }
    let _ = writeln!(
        out,
        "@{name}_{label} = internal constant [{len} x {ty}] [\n  {}\n], align 8",
        rows.join(",\n  ")
    );
    format!("%Slice {{ ptr @{name}_{label}, i64 {len} }}")
}

/// All texts in one array; equal texts are there once.
#[derive(Default)]
pub(crate) struct Strings {
    bytes: String,
    places: BTreeMap<String, usize>,
}

impl Strings {
    /// The `%Slice` of a text.
    pub(crate) fn add(&mut self, name: &str, text: &str) -> String {
        if text.is_empty() {
            return constant(&mut String::new(), name, "", "", &[]);
        }
        let at = self.place(text);
        format!(
            "%Slice {{ ptr getelementptr (i8, ptr @{name}_text, i64 {at}), i64 {} }}",
            text.len()
        )
    }

    /// The address of a text with a 0 behind it.
    pub(crate) fn terminated(&mut self, name: &str, text: &str) -> String {
        let at = self.place(&format!("{text}\0"));
        format!("ptr getelementptr (i8, ptr @{name}_text, i64 {at})")
    }

    /// The `%Slice` of a text with a 0 behind it, which does not count.
    pub(crate) fn add_terminated(&mut self, name: &str, text: &str) -> String {
        format!("%Slice {{ {}, i64 {} }}", self.terminated(name, text), text.len())
    }

    fn place(&mut self, text: &str) -> usize {
        *self.places.entry(text.to_owned()).or_insert_with(|| {
            self.bytes.push_str(text);
            self.bytes.len() - text.len()
        })
    }

    fn write(&self, out: &mut String, name: &str) {
        if self.bytes.is_empty() {
            return;
        }
        let _ = write!(out, "@{name}_text = internal constant [{} x i8] c\"", self.bytes.len());
        for byte in self.bytes.bytes() {
            let _ = match byte {
                b'"' | b'\\' | 0..b' ' | 0x7f.. => write!(out, "\\{byte:02X}"),
                _ => write!(out, "{}", char::from(byte)),
            };
        }
        out.push_str("\", align 1\n");
    }
}

/// `contraction k3 /layer.0/MatMul /layer.0/Add`, cut at [`STEP_NAME_BYTES`].
fn step_name(kernel: &Kernel, index: usize, nodes: &[Arc<str>]) -> String {
    let mut text = format!("{} k{index}", kernel.body.kind());
    for node in nodes {
        text.push(' ');
        text.push_str(node);
    }
    if text.len() > STEP_NAME_BYTES {
        let mut end = STEP_NAME_BYTES - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A list of distinct dims.
#[derive(Default)]
struct DimTable {
    list: Vec<Dim>,
    places: BTreeMap<Dim, usize>,
    slices: BTreeMap<Vec<Dim>, usize>,
}

impl DimTable {
    fn push(&mut self, dim: &Dim) -> usize {
        let next = self.list.len();
        self.list.push(dim.clone());
        self.places.entry(dim.clone()).or_insert(next);
        next
    }

    /// Place of a dim.
    fn place(&mut self, dim: &Dim) -> usize {
        match self.places.get(dim) {
            Some(place) => *place,
            None => self.push(dim),
        }
    }

    /// Place of the first of consecutive dims.
    fn slice(&mut self, dims: &[Dim]) -> usize {
        if let [one] = dims {
            return self.place(one);
        }
        if let Some(place) = self.slices.get(dims) {
            return *place;
        }
        let first = if dims.is_empty() { 0 } else { self.list.len() };
        for dim in dims {
            self.push(dim);
        }
        self.slices.insert(dims.to_vec(), first);
        first
    }
}

/// Distinct dims that must be legal, with the nodes that have them first.
#[derive(Default)]
struct Legal {
    list: Vec<(Dim, Origin)>,
    known: BTreeSet<Dim>,
}

impl Legal {
    fn add(&mut self, dim: Dim, origin: &Origin) {
        if self.known.insert(dim.clone()) {
            self.list.push((dim, origin.clone()));
        }
    }
}

/// An `abi::Extent` before its text has an address.
pub(crate) struct Extent {
    pub kind: u32,
    pub value: i64,
    pub name: String,
}

/// Where everything is in the tables.
#[derive(Default)]
struct Layout {
    dims: DimTable,
    offsets: DimTable,
    buffers: Vec<abi::Buffer>,
    /// First buffer, first dim, work.
    steps: Vec<[u32; 3]>,
    /// FLOPs, read and written bytes of each step, when they are timed.
    profile: Vec<[u32; 3]>,
    loops: Vec<abi::Loop>,
    moves: Vec<abi::Move>,
    counts: Vec<abi::Count>,
    caches: Vec<abi::Cache>,
    elements: Vec<abi::InputElement>,
    inputs: Vec<Vec<Extent>>,
    outputs: Vec<Vec<Extent>>,
    /// Of operands that are there, and of results.
    customs: Vec<[Vec<Vec<Extent>>; 2]>,
    scratch: Vec<Dim>,
    /// Extents and sizes that must be legal, and the nodes that have them.
    sizes: Vec<(Dim, Origin)>,
}

impl Layout {
    fn new(levels: &[Level], program: &Program, plan: &MemoryPlan, facts: &Facts) -> Result<Self, ArtifactError> {
        let mut layout = Self::default();
        let (mut legal, mut sizes) = (Legal::default(), Legal::default());
        // While some counts are not known, what is said of all together is meaningless.
        let counted: Vec<Sym> = program.counted().map(|s| Sym::Named(s.name.clone())).collect();
        let size = |d: &Dim| match counted.iter().any(|s| d.uses(s)) {
            true => d.maximum(&Dim::ZERO),
            false => d.clone(),
        };
        // Extents and scratch of kernels, which steps put their dims into.
        let needs: Vec<(Vec<Dim>, Dim)> = program
            .kernels
            .iter()
            .map(|kernel| (extents(kernel), kernel.body.scratch_bytes()))
            .collect();
        let mut seen = BTreeMap::new();
        for (i, step) in program.steps.iter().enumerate() {
            let first_buffer = index(layout.buffers.len())?;
            for storage in &step.buffers {
                let buffer = layout.buffer(program, plan, facts.weight_offsets, *storage)?;
                layout.buffers.push(buffer);
                sizes.add(size(&program.bytes(*storage)), &step.origin);
            }
            let first_dim = layout.dims.slice(&step.dims);
            let work = layout.dims.place(&step.work);
            layout.steps.push([first_buffer, index(first_dim)?, index(work)?]);
            if facts.profile.is_some() {
                let traffic = program.traffic(i);
                let mut place = |dim: &Dim| index(layout.dims.place(dim));
                layout
                    .profile
                    .push([place(&step.flops)?, place(&traffic.read)?, place(&traffic.written)?]);
            }
            if seen.insert((step.kernel, step.dims.clone()), ()).is_some() {
                continue;
            }
            let (extents, scratch) = &needs[step.kernel];
            for extent in extents {
                legal.add(size(&step.bind(extent)), &step.origin);
            }
            let scratch = step.bind(scratch);
            if !layout.scratch.contains(&scratch) {
                layout.scratch.push(scratch);
            }
        }
        // One size for whichever level runs.
        for other in levels.iter().skip(1).map(|l| &l.program) {
            let needs: Vec<Dim> = other.kernels.iter().map(|k| k.body.scratch_bytes()).collect();
            for step in &other.steps {
                let scratch = step.bind(&needs[step.kernel]);
                if !layout.scratch.contains(&scratch) {
                    layout.scratch.push(scratch);
                }
            }
        }
        for c in &program.counts {
            layout.count(program, plan, facts, c.step, &c.symbol)?;
        }
        for c in &program.caches {
            layout.caches.push(abi::Cache {
                input: index(c.input)?,
                output: index(c.output)?,
                axis: index(c.axis)?,
                capacity: symbol_index(program, &c.capacity)?,
            });
        }
        for e in &program.elements {
            layout.elements.push(abi::InputElement {
                symbol: symbol_index(program, &e.symbol)?,
                input: index(e.input)?,
                at: e.at as u64,
            });
        }
        layout.loops(program, plan, facts)?;
        // Those of the steps before loops, then of loops from the outermost on.
        layout.counts.sort_by_key(|c| c.step);
        for l in layout.loops.iter_mut().filter(|l| l.rows > 0) {
            // Until now it was the buffer, of which every count has its own.
            let buffer = l.rows - 1;
            l.rows = match layout.counts.iter().position(|c| c.buffer == buffer) {
                Some(at) => index(at)? + 1,
                None => 0,
            };
        }
        for l in layout.loops.iter_mut().filter(|l| l.again > 0) {
            let own = |c: &abi::Count| c.symbol + 1 == l.again && c.step == l.first_step;
            l.again = match layout.counts.iter().position(own) {
                Some(at) => index(at)? + 1,
                None => return Err(ArtifactError::Tables("nothing counts a loop".to_owned())),
            };
        }
        let symbols: Vec<&str> = program.symbols.iter().map(|(name, _)| &**name).collect();
        let mut shapes = |list: &[cameo_kernel::program::Io]| -> Vec<Vec<Extent>> {
            let extent = |dim: &Dim| {
                legal.add(size(dim), &Origin::default());
                let symbol = match dim.as_sym() {
                    Some(Sym::Named(name)) => symbols.iter().position(|symbol| **symbol == **name),
                    _ => None,
                };
                let (kind, value) = match (dim.as_const(), symbol) {
                    (Some(value), _) => (abi::EXTENT_CONST, value),
                    (None, Some(symbol)) => (abi::EXTENT_SYMBOL, symbol as i64),
                    (None, None) => (abi::EXTENT_DIM, layout.dims.place(dim) as i64),
                };
                let name = if kind == abi::EXTENT_CONST {
                    String::new()
                } else {
                    dim.to_string()
                };
                Extent { kind, value, name }
            };
            let mut extent = extent;
            list.iter()
                .map(|io| io.shape.iter().map(&mut extent).collect())
                .collect()
        };
        let inputs = shapes(&program.inputs);
        let outputs = shapes(&program.outputs);
        let mut customs = vec![];
        let mut given = BTreeSet::new();
        for c in &program.customs {
            let operands: Vec<cameo_kernel::program::Io> = c.inputs.iter().flatten().cloned().collect();
            let (operands, mut results) = (shapes(&operands), shapes(&c.outputs));
            // What the operator gives first is its; after that it is held to it, and so are others.
            let mut own: BTreeSet<Arc<str>> = c.given().into_iter().filter(|s| given.insert(s.clone())).collect();
            for extent in results.iter_mut().flatten() {
                if extent.kind == abi::EXTENT_SYMBOL && own.remove(extent.name.as_str()) {
                    extent.kind = abi::EXTENT_GIVEN;
                }
            }
            customs.push([operands, results]);
        }
        (layout.inputs, layout.outputs) = (inputs, outputs);
        // Sizes are products of extents, which say more.
        layout.sizes = [legal.list, sizes.list].concat();
        layout.customs = customs;
        Ok(layout)
    }

    /// The symbol is read before the step; gives the buffer that it is read from.
    fn count(
        &mut self,
        program: &Program,
        plan: &MemoryPlan,
        facts: &Facts,
        step: usize,
        symbol: &Symbol,
    ) -> Result<u32, ArtifactError> {
        let buffer = index(self.buffers.len())?;
        let place = self.buffer(program, plan, facts.weight_offsets, symbol.storage)?;
        self.buffers.push(place);
        self.counts.push(abi::Count {
            step: index(step)?,
            symbol: symbol_index(program, &symbol.name)?,
            buffer,
            most: index(self.dims.place(&symbol.most))?,
        });
        Ok(buffer)
    }

    fn loops(&mut self, program: &Program, plan: &MemoryPlan, facts: &Facts) -> Result<(), ArtifactError> {
        for l in &program.loops {
            let first_move = index(self.moves.len())?;
            for m in &l.moves {
                let buffer = self.steps[m.step][0] + index(m.buffer)?;
                if m.way == Way::Back
                    && let Some(Some(half)) = plan.offsets.get(program.steps[m.step].buffers[m.buffer])
                {
                    // It begins in the second half.
                    self.buffers[buffer as usize].offset = self.offsets.place(&(half.clone() + m.bytes.clone())) as u64;
                }
                self.moves.push(abi::Move {
                    buffer,
                    kind: match m.way {
                        Way::Advance => abi::MOVE_ADVANCE,
                        Way::Forth => abi::MOVE_FORTH,
                        Way::Back => abi::MOVE_BACK,
                    },
                    bytes: index(self.dims.place(&m.bytes))?,
                    reserved: 0,
                });
            }
            let mut counted = 0;
            if let Some(rows) = &l.rows {
                let buffer = self.count(program, plan, facts, l.steps.start, rows)?;
                self.moves.push(abi::Move {
                    buffer,
                    kind: abi::MOVE_ADVANCE,
                    bytes: index(self.dims.place(&Dim::from(size_of::<i64>())))?,
                    reserved: 0,
                });
                counted = buffer + 1;
            }
            self.loops.push(abi::Loop {
                first_step: index(l.steps.start)?,
                step_count: index(l.steps.len())?,
                count: index(self.dims.place(&l.count))?,
                first_move,
                move_count: index(self.moves.len())? - first_move,
                rows: counted,
                // Until counts are in order it is the symbol.
                again: match l.again {
                    true => symbol_index(program, &l.count.to_string())? + 1,
                    false => 0,
                },
            });
        }
        Ok(())
    }

    fn buffer(
        &mut self,
        program: &Program,
        plan: &MemoryPlan,
        weight_offsets: &[u64],
        storage: usize,
    ) -> Result<abi::Buffer, ArtifactError> {
        let nowhere = || ArtifactError::Tables(format!("storage s{storage} has no place"));
        let (region, index, offset) = match program.storages.get(storage).ok_or_else(nowhere)?.place {
            Place::Input(i) => (abi::REGION_INPUT, i, 0),
            Place::Output(i) => (abi::REGION_OUTPUT, i, 0),
            Place::Weight(i) => (abi::REGION_WEIGHTS, 0, *weight_offsets.get(i).ok_or_else(nowhere)?),
            Place::Operator(i) => (abi::REGION_OPERATOR, i, 0),
            Place::Arena => {
                let offset = plan.offsets[storage].as_ref().ok_or_else(nowhere)?;
                (abi::REGION_ARENA, 0, self.offsets.place(offset) as u64)
            }
        };
        let index = self::index(index)?;
        Ok(abi::Buffer { region, index, offset })
    }
}

/// Index of a symbol of the program.
fn symbol_index(program: &Program, symbol: &str) -> Result<u32, ArtifactError> {
    let number = program.symbols.iter().position(|(name, _)| **name == *symbol);
    index(number.ok_or_else(|| ArtifactError::Tables(format!("nothing declares {symbol}")))?)
}

/// A table index as the ABI stores it.
fn index(value: usize) -> Result<u32, ArtifactError> {
    u32::try_from(value).map_err(|_| ArtifactError::Tables("a table has more than 2^32 entries".to_owned()))
}

/// Extents of a kernel's buffers and loops, in `d0, d1, …`: none may be negative.
fn extents(kernel: &Kernel) -> Vec<Dim> {
    let mut out = DimTable::default();
    let loops: Vec<Dim> = kernel.body.links().iter().flat_map(KernelBody::extents).collect();
    for dim in kernel.buffers.iter().flat_map(|buffer| &buffer.extents).chain(&loops) {
        // Constants are legal by construction.
        if dim.as_const().is_none() {
            out.place(dim);
        }
    }
    out.list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{self, slice, text as str_of};
    use crate::sample;

    fn facts<'a>(offsets: &'a [u64]) -> Facts<'a> {
        Facts {
            name: "tiny",
            default_threads: 3,
            weight_offsets: offsets,
            weight_bytes: 128,
            weight_hash: u64::MAX - 1,
            embedded: false,
            main: false,
            profile: None,
            operators: false,
        }
    }

    #[test]
    fn descriptors_read_back_through_the_abi() {
        let levels = sample::levels(&["x86-64-v4", "x86-64-v2"]);
        let program = &levels[0].program;
        let plan = cameo_kernel::memory::plan(program);
        let offsets: Vec<u64> = (0..program.weights.len() as u64).map(|i| 64 * i).collect();
        let symbols = crate::level::symbols("tiny", &levels);
        let mut ir = text(&levels, &plan, &symbols, &facts(&offsets)).unwrap();
        // Kernels that do nothing: the tables are what is looked at.
        for (i, symbol) in symbols.iter().flatten().enumerate() {
            ir = ir.replace(
                &format!("declare hidden i32 @{symbol}(ptr, ptr, i64, i64, ptr)\n"),
                &format!("define hidden i32 @{symbol}(ptr %a, ptr %b, i64 %c, i64 %d, ptr %e) {{ ret i32 {i} }}\n"),
            );
        }
        let library = harness::load_ir(&ir);
        let model = library.model("tiny_model");
        assert_eq!(
            (model.magic, model.abi_version, model.default_threads),
            (abi::MAGIC, abi::ABI_VERSION, 3)
        );
        assert_eq!(str_of(model.name), "sample");
        assert_eq!((model.weight_bytes, model.weight_hash), (128, u64::MAX - 1));
        assert!(model.weights.is_null());

        let symbols = slice(model.symbols);
        assert_eq!(
            (str_of(symbols[0].name), symbols[0].min, symbols[0].max),
            ("S", 1, 1000)
        );
        let (x, y, z) = (slice(model.inputs)[0], slice(model.outputs)[0], slice(model.outputs)[1]);
        assert_eq!((str_of(x.name), x.dtype), ("x", 1));
        let shape = |io: abi::Io| -> Vec<(u32, i64)> { slice(io.shape).iter().map(|e| (e.kind, e.value)).collect() };
        assert_eq!(shape(x), [(abi::EXTENT_SYMBOL, 0), (abi::EXTENT_CONST, 4)]);
        assert_eq!(
            (str_of(y.name), shape(y)),
            ("out \"1\"", vec![(abi::EXTENT_SYMBOL, 0), (abi::EXTENT_CONST, 4)])
        );

        // Evaluate the shapes for S = 10.
        let (mut dims, mut places) = (vec![0; model.dim_count as usize], vec![0; model.offset_count as usize]);
        let mut sizes = [0; 2];
        assert_eq!(
            library.call_shape_of(&model, &[10], &mut dims, &mut places, &mut sizes),
            0
        );
        let [(abi::EXTENT_DIM, derived)] = shape(z)[..] else {
            panic!("{:?}", shape(z))
        };
        assert_eq!(dims[derived as usize], 40);
        let said: Vec<&str> = [x, z]
            .iter()
            .flat_map(|io| slice(io.shape))
            .map(|e| str_of(e.name))
            .collect();
        assert_eq!(said, ["S", "", "4*S"]);
        assert_eq!(sizes[0], 10 * 4 * 4 + 32, "rounded up to whole lines");

        let levels = slice(model.levels);
        let said: Vec<(u64, &str)> = levels.iter().map(|l| (l.cpu_features, str_of(l.name))).collect();
        assert_eq!(said, [(7, "x86-64-v4"), (abi::CPU_SSE42, "x86-64-v2")]);
        let steps = slice(levels[0].steps);
        let buffers = slice(model.buffers);
        let names: Vec<&str> = steps.iter().map(|step| str_of(step.name)).collect();
        assert_eq!(names, ["nest k0 first", "nest k1 second", "nest k0 third"]);
        // First and third step have equal dims, so they share them.
        assert_eq!(steps[0].first_dim, steps[2].first_dim);
        assert_eq!(dims[steps[0].first_dim as usize], 10);
        assert_eq!(dims[steps[0].work as usize], 40);
        let regions = |step: &abi::Step, count: usize| -> Vec<(u32, u32, u64)> {
            let first = step.first_buffer as usize;
            buffers[first..first + count]
                .iter()
                .map(|b| (b.region, b.index, b.offset))
                .collect()
        };
        assert_eq!(regions(&steps[0], 3), [(2, 0, 0), (1, 0, 0), (0, 0, 0)]);
        assert_eq!(regions(&steps[1], 2), [(0, 0, 0), (3, 0, 0)]);
        assert_eq!(regions(&steps[2], 3), [(0, 0, 0), (1, 0, 64), (3, 1, 0)]);
        // Each level has kernels of its own, and the same else.
        let own = |l: &abi::Level| {
            slice(l.steps)
                .iter()
                .map(|s| harness::call_kernel(s.kernel))
                .collect::<Vec<_>>()
        };
        assert_eq!([own(&levels[0]), own(&levels[1])], [[0, 1, 0], [2, 3, 2]]);
        let else_of = |l: &abi::Level| {
            slice(l.steps)
                .iter()
                .map(|s| (s.first_buffer, s.first_dim, s.work))
                .collect::<Vec<_>>()
        };
        assert_eq!(else_of(&levels[0]), else_of(&levels[1]));
    }

    #[test]
    fn timed_steps_call_the_timer_with_their_number_and_kernel() {
        let levels = sample::levels(&["x86-64-v3"]);
        let plan = cameo_kernel::memory::plan(&levels[0].program);
        let symbols = crate::level::symbols("tiny", &levels);
        let plain = text(&levels, &plan, &symbols, &facts(&[0, 64])).unwrap();
        assert!(!plain.to_lowercase().contains("profile"), "{plain}");
        let timed = Facts {
            profile: Some(7),
            ..facts(&[0, 64])
        };
        let mut ir = text(&levels, &plan, &symbols, &timed).unwrap();
        for (i, symbol) in symbols[0].iter().enumerate() {
            ir = ir.replace(
                &format!("declare hidden i32 @{symbol}(ptr, ptr, i64, i64, ptr)\n"),
                &format!("define hidden i32 @{symbol}(ptr %a, ptr %b, i64 %c, i64 %d, ptr %e) {{ ret i32 {i} }}\n"),
            );
        }
        // A timer that answers with the step in hundreds and with what the kernel says.
        let timer = "i32 @cameo_profile_step(i64 %n, ptr %k, ptr %a, ptr %b, i64 %c, i64 %d, ptr %e) {\n  \
                       %r = call i32 %k(ptr %a, ptr %b, i64 %c, i64 %d, ptr %e)\n  %s = trunc i64 %n to i32\n  \
                       %h = mul i32 %s, 100\n  %t = add i32 %h, %r\n  ret i32 %t\n}";
        ir = ir.replace(
            "declare i32 @cameo_profile_step(i64, ptr, ptr, ptr, i64, i64, ptr)",
            &format!("define hidden {timer}"),
        );
        let library = harness::load_ir(&ir);
        let steps = slice(slice(library.model("tiny_model").levels)[0].steps);
        let said: Vec<i32> = steps.iter().map(|step| harness::call_kernel(step.kernel)).collect();
        assert_eq!(said, [0, 101, 200]);
    }

    #[test]
    fn long_step_names_are_cut_between_characters() {
        let program = sample::program();
        let nodes: Vec<Arc<str>> = vec!["ü".repeat(200).into()];
        let name = step_name(&program.kernels[0], 0, &nodes);
        assert!(name.len() <= STEP_NAME_BYTES && name.ends_with("ü…"), "{name}");
    }

    #[test]
    fn programs_that_contradict_themselves_are_refused() {
        let mut levels = sample::levels(&["x86-64-v3"]);
        let symbols = crate::level::symbols("tiny", &levels);
        let plan = cameo_kernel::memory::plan(&levels[0].program);
        let error = |levels: &[Level], offsets: &[u64]| text(levels, &plan, &symbols, &facts(offsets)).unwrap_err();
        assert!(
            error(&levels, &[]).to_string().contains("no place"),
            "weights without a place"
        );
        levels[0].program.symbols.clear();
        let said = error(&levels, &[0, 64]).to_string();
        assert!(said.contains("symbol S"), "{said}");
    }
}
