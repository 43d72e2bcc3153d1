//! Builds what travels inside the compiler: the runtime as three linkable objects, and as source text; operators that programs
//! may bring, an object each.
//!
//! `libcameo_exe.a`, the runtime with all of Rust's standard library, is linked partially, keeping only what the C
//! interface reaches: one object of some 800 KB that links in milliseconds. The first is for libraries, the second also has
//! the command line of executables, the third also the timers of `--profile`. The sources are for `--emit rust`. The object of
//! an operator has a standard library of its own and shows nothing but the operator, so that it can be linked or left out.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Entry of executables, beside the functions of `cameo.h`.
const EXE_MAIN: &str = "cameo_exe_main";

/// The decoder of images.
const IMAGES: &str = "cameo_image_decoder";

/// Entries of executables with timers.
const PROFILE: [&str; 2] = ["cameo_profile_main", "cameo_profile_step"];

fn main() {
    let variable = |name: &str| PathBuf::from(std::env::var_os(name).expect("cargo sets it"));
    let (out, manifest) = (variable("OUT_DIR"), variable("CARGO_MANIFEST_DIR"));
    let root = manifest.join("../..").canonicalize().expect("the workspace is there");
    for path in [
        "Cargo.toml",
        "runtime/Cargo.toml",
        "runtime/src",
        "runtime/include",
        "runtime/abi/Cargo.toml",
        "runtime/abi/src",
        "runtime/core/Cargo.toml",
        "runtime/core/src",
        "runtime/exe/Cargo.toml",
        "runtime/exe/src",
        "runtime/npz/Cargo.toml",
        "runtime/npz/src",
        "runtime/images/Cargo.toml",
        "runtime/images/src",
    ] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    let archive = static_library(&root, &out, "cameo-exe", None);
    let interface = std::fs::read_to_string(root.join("runtime/include/cameo.h")).expect("cameo.h");
    let mut entries = functions(&interface);
    link(&archive, &entries, &[], &out.join("runtime.o"));
    entries.push(EXE_MAIN.to_owned());
    link(&archive, &entries, &[], &out.join("exe.o"));
    entries.extend(PROFILE.map(str::to_owned));
    link(&archive, &entries, &[], &out.join("profile.o"));
    sources(&root, &out.join("runtime_sources.rs"));
    // A decoder that panics is caught: strange files are what it is for.
    let archive = static_library(&root, &out, "cameo-images", Some("unwind"));
    let object = out.join(format!("{IMAGES}.o"));
    // A group that two objects have is linked once: if this one's, whose symbols are hidden, the other's would be missing.
    link(
        &archive,
        &[IMAGES.to_owned()],
        &["-Wl,--force-group-allocation"],
        &object,
    );
    hide_all_but(IMAGES, &object);
}

/// Builds a crate as a static library, as it is configured for being linked into models; `panic` is another strategy.
fn static_library(root: &Path, out: &Path, package: &str, panic: Option<&str>) -> PathBuf {
    let target = out.join(if panic.is_none() { "runtime" } else { package });
    let mut cargo = Command::new(std::env::var_os("CARGO").expect("cargo sets it"));
    cargo.args(["rustc", "--quiet", "--locked", "--profile", "runtime", "-p", package]);
    cargo
        .args(["--lib", "--crate-type", "staticlib", "--target-dir"])
        .arg(&target)
        .current_dir(root);
    // Flags and wrappers of the build around this one (coverage, sanitizers, clippy) are not for the runtime.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let kept = ["CARGO", "CARGO_HOME"].contains(&&*name);
        if !kept && (name.starts_with("CARGO") || name.starts_with("RUSTC") || name.starts_with("RUSTFLAGS")) {
            cargo.env_remove(name);
        }
    }
    if let Some(strategy) = panic {
        cargo.env("CARGO_PROFILE_RUNTIME_PANIC", strategy);
    }
    // Messages name source files; where this machine keeps its crates is nobody's business.
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    if let Some(home) = home {
        cargo.env("RUSTFLAGS", format!("--remap-path-prefix={}=cargo", home.display()));
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "building the runtime failed");
    target.join(format!("runtime/lib{}.a", package.replace('-', "_")))
}

/// The functions that `cameo.h` declares.
fn functions(interface: &str) -> Vec<String> {
    let name = |line: &str| {
        // Declarations begin in the first column and end with a parenthesis list.
        let head = line.split('(').next().filter(|head| head.len() < line.len())?;
        let indented = line.starts_with([' ', '/', '*', '#', '}']) || line.starts_with("typedef");
        let name = head.split([' ', '*']).next_back()?;
        (!indented && name.starts_with("cameo_")).then(|| name.to_owned())
    };
    let names: Vec<String> = interface.lines().filter_map(name).collect();
    assert!(
        names.iter().any(|name| name == "cameo_run"),
        "cameo.h was not understood: {names:?}"
    );
    names
}

/// Links what `entries` reach into one relocatable object; `more` are further arguments.
fn link(archive: &Path, entries: &[String], more: &[&str], object: &Path) {
    let mut cc = Command::new("cc");
    cc.args([
        "-r",
        "-nostdlib",
        "-Wl,--gc-sections",
        "-Wl,--strip-debug",
        "-Wl,--discard-all",
    ]);
    cc.args(more);
    cc.args(entries.iter().map(|entry| format!("-Wl,--undefined={entry}")));
    let status = cc.arg("-o").arg(object).arg(archive).status().expect("cc runs");
    assert!(status.success(), "linking the runtime failed");
}

/// Makes all symbols but one local that an object defines.
fn hide_all_but(symbol: &str, object: &Path) {
    let mut objcopy = Command::new("objcopy");
    objcopy.arg(format!("--keep-global-symbol={symbol}")).arg(object);
    let status = objcopy.status().expect("objcopy runs");
    assert!(status.success(), "hiding the symbols of {symbol} failed");
}

/// Writes a Rust table `&[(path, text)]` of the sources of the runtime.
fn sources(root: &Path, to: &Path) {
    let mut table = String::from("&[\n");
    let mut add = |name: String, path: &Path| {
        // Writing to a string cannot fail.
        let _ = writeln!(table, "    ({name:?}, include_str!({:?})),", path.display().to_string());
    };
    add("abi.rs".to_owned(), &root.join("runtime/abi/src/lib.rs"));
    for (module, folder) in [("cameo_core", "runtime/core/src"), ("runtime", "runtime/src")] {
        let folder = root.join(folder);
        for path in files(&folder) {
            let relative = path.strip_prefix(&folder).expect("below it").to_string_lossy();
            let relative = if relative == "lib.rs" { "mod.rs" } else { &*relative };
            add(format!("{module}/{relative}"), &path);
        }
    }
    table.push(']');
    std::fs::write(to, table).expect("the output folder is writable");
}

/// All files below a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut out = vec![];
    for entry in std::fs::read_dir(folder).expect("the runtime's sources") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            out.extend(files(&path));
        } else {
            out.push(path);
        }
    }
    out.sort();
    out
}
