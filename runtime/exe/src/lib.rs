//! The command line of a compiled model: what `./model --inputs x.npz --outputs y.npz` does.
//!
//! A compiled executable is a C `main` of one line that calls [`cameo_exe_main`] with the model's descriptor; this
//! crate, with the runtime in it, is the static library that it is linked with.
//!
//! Laws: a wrong command line is one line on standard error and exit code 2; anything that goes wrong later is one line
//! and exit code 1; standard output carries nothing but the answer.

mod arguments;
mod bench;
mod describe;
mod library;
mod profile;
mod roofline;

// The C interface travels with the library.
pub use cameo_runtime::c_api;

use arguments::{Arguments, Request};
use cameo_npz::{Array, ArrayRef};
use cameo_runtime::{
    CacheInfo, Context, ContextOptions, DType, Description, Error, Model, ModelDesc, OpenOptions, TensorView, Text,
};
use library::Listing;
use std::ffi::{CStr, OsString, c_char, c_int};
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Exit code of a wrong command line.
const USAGE: u8 = 2;

/// Exit code of a run that failed.
const FAILED: u8 = 1;

/// Why the program ends: one line for standard error and the exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(message: &impl Display) -> Self {
        Self {
            code: FAILED,
            message: message.to_string(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(&error)
    }
}

/// `main` of a compiled executable; returns the exit code.
///
/// # Safety
/// `argv` has `argc` C strings, `desc` was written by the Cameo compiler, and `operators`, null when none are linked in, is as
/// `cameo.h` says.
#[expect(unsafe_code, reason = "called from C")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cameo_exe_main(
    argc: c_int,
    argv: *const *const c_char,
    desc: &'static ModelDesc,
    operators: Option<Listing>,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { exit_code(argc, argv, desc, operators, None) }
}

/// What a program with timers does for `--profile`; others have nothing of it.
type Profile<'a> = &'a dyn Fn(&mut Context, &[TensorView<'_>], &Arguments, &mut dyn Write) -> Result<(), Failure>;

/// Exit code of a program called with these arguments.
///
/// # Safety
/// As [`cameo_exe_main`].
#[expect(unsafe_code, reason = "reads the arguments from C")]
unsafe fn exit_code(
    argc: c_int,
    argv: *const *const c_char,
    desc: &'static ModelDesc,
    operators: Option<Listing>,
    profile: Option<Profile<'_>>,
) -> c_int {
    let count = usize::try_from(argc).unwrap_or(0);
    // SAFETY: the caller's promise.
    let (arguments, description) = unsafe {
        let arguments: Vec<OsString> = (0..count)
            .map(|index| os_string(CStr::from_ptr(*argv.add(index))))
            .collect();
        (arguments, Description::new(desc))
    };
    let program = arguments.first().cloned().unwrap_or_default();
    // SAFETY: the caller's promise.
    let linked = operators.map_or(&[][..], |operators| unsafe { library::listed(operators) });
    let open = |path: Option<PathBuf>, cpu: Option<&str>, library: Option<&Path>| {
        let mut all = vec![];
        if let Some(library) = library {
            // SAFETY: whoever names a library vouches for it, as for the program itself.
            all.extend_from_slice(unsafe { library::load(library)? });
        }
        all.extend_from_slice(linked);
        let options = OpenOptions {
            level: cpu,
            operators: &all,
        };
        // SAFETY: the caller's promise.
        unsafe { Model::open_with(desc, path.as_deref(), &options) }
    };
    let result = description
        .map_err(Failure::from)
        .and_then(|description| main_with(&description, &arguments, &open, profile, &mut std::io::stdout().lock()));
    match result {
        Ok(()) => 0,
        Err(Failure { code, message }) => {
            let program = std::path::Path::new(&program).file_name().unwrap_or_default().display();
            eprintln!("{program}: {message}");
            c_int::from(code)
        }
    }
}

/// Opens the model with a weights file or the linked-in weights, a level or the best, and a library of operators.
type Open<'a> = &'a dyn Fn(Option<PathBuf>, Option<&str>, Option<&Path>) -> Result<Model, Error>;

/// Everything behind the command line.
fn main_with(
    description: &Description,
    arguments: &[OsString],
    open: Open<'_>,
    profile: Option<Profile<'_>>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let arguments = match arguments::parse(arguments.get(1..).unwrap_or_default())? {
        Request::Help => return put(out, &arguments::help(description)),
        Request::Run(arguments) => arguments,
    };
    if arguments.profile.is_some() && profile.is_none() {
        return Err(Failure {
            code: USAGE,
            message: "--profile: this program has no timers; compile the model with `cameo compile --profile`"
                .to_owned(),
        });
    }
    let embedded = description.has_embedded_weights();
    let weights = arguments.weights.clone().or_else(|| (!embedded).then(default_weights));
    let cpu = arguments.cpu.as_deref();
    if let Some(name) = cpu
        && description.levels().all(|level| level != name)
    {
        let levels: Vec<&str> = description.levels().collect();
        return Err(Failure {
            code: USAGE,
            message: format!("--cpu {name}: this program has code for {}", levels.join(", ")),
        });
    }
    let library = arguments.op_library.as_deref();
    if arguments.verify_weights {
        open(weights.clone(), cpu, library)?.verify_weights()?;
        let alone = arguments.inputs.is_none() && !measures(&arguments) && !arguments.describe;
        if alone {
            return put(out, &format!("weights: {} bytes, intact\n", description.weight_bytes()));
        }
    }
    let inputs = read_inputs(description, &arguments)?;
    if arguments.describe {
        return put(out, &describe::json(description, inputs.as_deref())?);
    }
    let Some(inputs) = inputs else {
        return Err(Failure {
            code: USAGE,
            message: "--inputs FILE.npz is missing; --help lists all flags".to_owned(),
        });
    };

    let model = open(weights, cpu, library)?;
    let mut context = Context::new(
        &model,
        ContextOptions {
            threads: arguments.threads,
            pool: None,
        },
    )?;
    let texts: Vec<Vec<Text<'_>>> = inputs.iter().map(strings).collect();
    let views: Vec<TensorView<'_>> = inputs
        .iter()
        .zip(&texts)
        .map(|(array, texts)| match array.dtype {
            DType::String => TensorView::texts(texts, &array.shape),
            dtype => TensorView::from_bytes(dtype, &array.data, &array.shape),
        })
        .collect();
    if let (Some(profile), Some(_)) = (profile, &arguments.profile) {
        let rest = keep_caches(&mut context, &views)?;
        profile(&mut context, &rest, &arguments, out)?;
    } else if arguments.bench {
        let rest = keep_caches(&mut context, &views)?;
        let times = bench::measure(arguments.warmup, arguments.runs, || context.run_on(&rest))?;
        put(out, &bench::json(&times, context.threads()))?;
    } else {
        context.run_on(&views)?;
    }

    let outputs: Vec<(&str, TensorView<'_>)> = description
        .outputs()
        .enumerate()
        .map(|(index, info)| Ok((info.name, context.output(index)?)))
        .collect::<Result<_, Error>>()?;
    if let Some(path) = &arguments.outputs {
        // As files have strings, and elements of few bits.
        let apart = |view: &TensorView<'_>| {
            if let Some(texts) = view.as_texts() {
                return Some(cameo_npz::text_data(texts.iter().map(cameo_runtime::Text::as_str)));
            }
            let count = view.shape().iter().product::<i64>() as usize;
            (view.dtype().bits() < 8).then(|| cameo_npz::unpacked(view.dtype(), view.bytes(), count))
        };
        let apart: Vec<Option<Vec<u8>>> = outputs.iter().map(|(_, view)| apart(view)).collect();
        let arrays: Vec<ArrayRef<'_>> = outputs
            .iter()
            .zip(&apart)
            .map(|((name, view), apart)| ArrayRef {
                name,
                dtype: view.dtype(),
                shape: view.shape(),
                data: apart.as_deref().unwrap_or(view.bytes()),
            })
            .collect();
        return cameo_npz::write(path, &arrays).map_err(|error| Failure::new(&error));
    }
    if measures(&arguments) {
        return Ok(());
    }
    outputs
        .iter()
        .try_for_each(|(name, view)| put(out, &format!("{name}: {} {:?}\n", view.dtype().name(), view.shape())))
}

/// The strings of an array; none of another type.
fn strings(array: &Array) -> Vec<Text<'_>> {
    let texts = (array.dtype == DType::String)
        .then(|| cameo_npz::texts(&array.data))
        .flatten();
    texts.unwrap_or_default().into_iter().map(Text::new).collect()
}

/// Puts caches where runs add their rows, as a decoder does that runs for long, and gives the other inputs. Each run then adds
/// the same rows.
fn keep_caches<'a>(context: &mut Context, views: &[TensorView<'a>]) -> Result<Vec<TensorView<'a>>, Error> {
    let caches = context.model().description().caches();
    if caches.len() == 0 {
        return Ok(views.to_vec());
    }
    // How many rows a run needs is known after one.
    context.run_on(views)?;
    let room = |cache: CacheInfo| Ok((cache.input, context.cache_room(cache.input)?));
    let rooms = caches.map(room).collect::<Result<Vec<_>, Error>>()?;
    let mut rest = vec![];
    for (index, view) in views.iter().enumerate() {
        match rooms.iter().find(|(input, _)| *input == index) {
            Some((_, room)) => context.fill_cache(index, view, *room)?,
            None => rest.push(*view),
        }
    }
    Ok(rest)
}

/// Whether the answer is times, for which any inputs do.
fn measures(arguments: &Arguments) -> bool {
    arguments.bench || arguments.profile.is_some()
}

/// The inputs in the model's order: from the file, or generated to measure with. `None` when there is nothing to run on.
fn read_inputs(description: &Description, arguments: &Arguments) -> Result<Option<Vec<Array>>, Failure> {
    let Some(path) = &arguments.inputs else {
        let generate = description.inputs().len() == 0 || (measures(arguments) && !arguments.describe);
        return if generate {
            let flag = if arguments.profile.is_some() {
                "--profile"
            } else {
                "--bench"
            };
            bench::generated_inputs(description, flag).map(Some)
        } else {
            Ok(None)
        };
    };
    let mut arrays = cameo_npz::read(path).map_err(|error| Failure::new(&error))?;
    let inputs = description
        .inputs()
        .map(|info| {
            let found = arrays.iter().position(|array| array.name == info.name);
            let found = found.map(|index| arrays.swap_remove(index).into_dtype(info.dtype));
            let packed = found.map(|array| Array {
                data: array.packed(),
                ..array
            });
            packed.ok_or_else(|| {
                Failure::new(&format!(
                    "{}: there is no array {:?}, which is an input",
                    path.display(),
                    info.name
                ))
            })
        })
        .collect::<Result<_, _>>()?;
    if let Some(array) = arrays.first() {
        return Err(Failure::new(&format!(
            "{}: array {:?} is not an input",
            path.display(),
            array.name
        )));
    }
    Ok(Some(inputs))
}

/// The executable's own path with `.weights` behind it.
fn default_weights() -> PathBuf {
    let mut path = std::env::current_exe().unwrap_or_default().into_os_string();
    path.push(".weights");
    PathBuf::from(path)
}

fn put(out: &mut dyn Write, text: &str) -> Result<(), Failure> {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::new(&format!("standard output: {error}")))
}

#[cfg(unix)]
fn os_string(text: &CStr) -> OsString {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(text.to_bytes()).to_owned()
}

#[cfg(not(unix))]
fn os_string(text: &CStr) -> OsString {
    text.to_string_lossy().into_owned().into()
}
