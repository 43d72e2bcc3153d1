//! The house rules that no compiler checks: who may know whom, where unsafe code lives, how long a file may get, that
//! every pass has a test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's crates, lower ones first, each with the crates of the workspace that it may see.
const LEVELS: &[(&str, &[&str])] = &[
    ("cameo-abi", &[]),
    ("cameo-images", &["cameo-abi"]),
    ("cameo-ir", &["cameo-abi", "cameo-images"]),
    ("cameo-core", &["cameo-abi"]),
    ("cameo-npz", &["cameo-abi"]),
    ("cameo-onnx", &["cameo-ir"]),
    ("cameo-passes", &["cameo-ir"]),
    ("cameo-kernel", &["cameo-ir"]),
    ("cameo-codegen", &["cameo-abi", "cameo-ir", "cameo-kernel"]),
    ("cameo-runtime", &["cameo-abi", "cameo-core"]),
    ("cameo-exe", &["cameo-abi", "cameo-npz", "cameo-runtime"]),
    (
        "cameo",
        &[
            "cameo-codegen",
            "cameo-ir",
            "cameo-kernel",
            "cameo-npz",
            "cameo-onnx",
            "cameo-passes",
        ],
    ),
    (
        "cameo-tests",
        &[
            "cameo",
            "cameo-codegen",
            "cameo-ir",
            "cameo-kernel",
            "cameo-npz",
            "cameo-onnx",
            "cameo-passes",
            "cameo-runtime",
        ],
    ),
];

/// Crates from outside that only these may depend on.
const OWNED: &[(&str, &[&str])] = &[
    ("melior", &["cameo-codegen"]),
    ("mlir-sys", &["cameo-codegen"]),
    ("inkwell", &["cameo-codegen"]),
    ("llvm-sys", &["cameo-codegen"]),
    // The compiler reads a refused model again, to show the nodes around the guilty one.
    ("prost", &["cameo-onnx", "cameo"]),
    ("egg", &["cameo-passes"]),
    ("clap", &["cameo"]),
    ("indicatif", &["cameo"]),
    ("image", &["cameo-images"]),
    ("hayro-jpeg2000", &["cameo-images"]),
    ("libjpeg-turbo-rs", &["cameo-images"]),
];

/// Crates that run where there is no operating system: `no_std`, without `alloc`, and nothing from outside.
const BARE: &[(&str, &str)] = &[
    ("cameo-abi", "runtime/abi/src/lib.rs"),
    ("cameo-core", "runtime/core/src/lib.rs"),
];

/// Where unsafe code may be. The runtime is one side of a C interface, so it is everywhere there.
const UNSAFE: &[&str] = &[
    "compiler/codegen/src/sys.rs",
    "compiler/codegen/src/harness.rs",
    "compiler/onnx/src/external.rs",
    "runtime/core/src/description.rs",
    "runtime/core/src/float.rs",
    "runtime/core/src/plan.rs",
    "runtime/core/src/run.rs",
    "runtime/core/src/tensor.rs",
    "runtime/core/tests/run.rs",
    "runtime/images/src/c_api.rs",
    "tests/artifacts/library.rs",
    "tests/src/allocations.rs",
    "tests/src/model.rs",
];
const UNSAFE_ROOMS: &[&str] = &["runtime/src", "runtime/tests", "runtime/exe/src", "runtime/abi/src"];

/// Lines of a file before its tests. From 600 on a file wants a second room; here it must have one.
const LINES_MAX: usize = 800;
/// Files that contain Rust as text that they write.
const TEMPLATES: &[&str] = &["compiler/codegen/src/rust_crate.rs", "tests/tidy.rs"];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "helper", "helpers", "common", "misc", "manager", "shared",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests is a room of the workspace")
        .to_owned()
}

/// The Rust files of the workspace and the examples, with their paths from the root.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut out = vec![];
    let mut work: Vec<PathBuf> = ["compiler", "passes", "runtime", "tests", "examples"]
        .iter()
        .map(|r| root.join(r))
        .collect();
    while let Some(folder) = work.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default();
            if path.is_dir() {
                // Generated crates are nobody's style.
                let made = name.starts_with('.') || ["target", "model", "build"].contains(&&*name);
                if !made {
                    work.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let from_root = path.strip_prefix(&root).expect("below the root").display().to_string();
                out.push((from_root, std::fs::read_to_string(&path).expect("source text")));
            }
        }
    }
    out.sort();
    assert!(out.len() > 100, "only {} files found", out.len());
    out
}

fn fail_with(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn lower_levels_never_see_higher_ones() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root());
    let done = command.output().expect("cargo runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let allowed: BTreeMap<&str, &[&str]> = LEVELS.iter().copied().collect();
    let mut problems = vec![];
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let Some(may_see) = allowed.get(name) else {
            problems.push(format!("{name} has no level: add it to LEVELS"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let sees = dependency["name"].as_str().expect("a name");
            let is_dev = dependency["kind"].as_str() == Some("dev");
            if allowed.contains_key(sees) && !may_see.contains(&sees) && !is_dev {
                problems.push(format!("{name} must not depend on {sees}"));
            }
            if BARE.iter().any(|(bare, _)| *bare == name) && !allowed.contains_key(sees) && !is_dev {
                problems.push(format!("{name} must not depend on {sees}: it has no standard library"));
            }
            // A crate's tests may use what other crates own, but not what stands above them.
            let position = |n: &str| LEVELS.iter().position(|(l, _)| *l == n);
            if is_dev && position(sees) >= position(name) && position(sees).is_some() && sees != name {
                problems.push(format!(
                    "the tests of {name} must not depend on {sees}, which is above it"
                ));
            }
            if let Some((_, owners)) = OWNED.iter().find(|(n, _)| *n == sees)
                && !owners.contains(&name)
                && !is_dev
            {
                problems.push(format!("{name} must not depend on {sees}"));
            }
        }
    }
    assert_eq!(packages.len(), LEVELS.len(), "crates in the workspace");
    // The table itself must have an order.
    for (i, (name, may_see)) in LEVELS.iter().enumerate() {
        for sees in *may_see {
            assert!(
                LEVELS[..i].iter().any(|(l, _)| l == sees),
                "{name} sees {sees}, which is not below it"
            );
        }
    }
    fail_with(&problems);
}

#[test]
fn every_pass_has_a_test_and_its_file() {
    let root = root();
    let mut problems = vec![];
    for pass in cameo_passes::PASSES {
        let file = root.join(format!("passes/src/{}.rs", pass.name));
        let folder = root.join(format!("passes/src/{}", pass.name));
        let mut text = std::fs::read_to_string(file).unwrap_or_default();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            text += &std::fs::read_to_string(entry.path()).unwrap_or_default();
        }
        if text.is_empty() {
            problems.push(format!("pass `{}` has no file of its name", pass.name));
        } else if !text.contains("#[test]") {
            problems.push(format!("pass `{}` has no test", pass.name));
        }
        if !text.contains("```text") {
            problems.push(format!("pass `{}` has no example at its top", pass.name));
        }
    }
    fail_with(&problems);
}

#[test]
fn no_file_is_past_its_limit() {
    let mut problems = vec![];
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        let tests = lines
            .windows(2)
            .position(|w| w[0] == "#[cfg(test)]" && w[1].ends_with('{'));
        let count = tests.unwrap_or(lines.len());
        if count > LINES_MAX {
            problems.push(format!(
                "{path} has {count} lines before its tests, {LINES_MAX} are allowed"
            ));
        }
    }
    fail_with(&problems);
}

#[test]
fn bare_crates_have_no_standard_library() {
    let sources = sources();
    let mut problems = vec![];
    for (name, lib) in BARE {
        let folder = Path::new(lib).parent().expect("a folder");
        let text = |path: &str| sources.iter().find(|(p, _)| p == path).map(|(_, text)| text);
        if !text(lib).is_some_and(|text| text.lines().any(|line| line == "#![no_std]")) {
            problems.push(format!("{lib}: {name} must be `#![no_std]`"));
        }
        for (path, text) in sources.iter().filter(|(path, _)| Path::new(path).starts_with(folder)) {
            // Tests run on a host.
            let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            if ["extern crate", "std::", "alloc::"]
                .iter()
                .any(|word| text.contains(word))
            {
                problems.push(format!("{path}: {name} uses `core` only"));
            }
        }
    }
    fail_with(&problems);
}

#[test]
fn unsafe_code_is_in_its_rooms_and_says_why() {
    let mut problems = vec![];
    for (path, text) in sources() {
        if TEMPLATES.contains(&&*path) {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let block = code.contains("unsafe {");
            let used = block
                || ["unsafe fn", "unsafe impl", "unsafe extern", "unsafe("]
                    .iter()
                    .any(|u| code.contains(u));
            if !used || code.contains('"') {
                continue;
            }
            let allowed = UNSAFE.contains(&&*path) || UNSAFE_ROOMS.iter().any(|r| path.starts_with(r));
            if !allowed {
                problems.push(format!("{path}:{}: unsafe code outside of its room", i + 1));
            }
            // Above the statement, which may begin a few lines before the block.
            let said = lines[i.saturating_sub(12)..=i].iter().any(|l| l.contains("SAFETY:"));
            if block && !said && !path.contains("tests/") && path != "compiler/codegen/src/harness.rs" {
                problems.push(format!("{path}:{}: no `// SAFETY:` above this block", i + 1));
            }
        }
    }
    fail_with(&problems);
}

#[test]
fn files_say_what_they_are() {
    let mut problems = vec![];
    for (path, text) in sources() {
        if !text.starts_with("//!") {
            problems.push(format!("{path} does not open with a `//!` that says what it is"));
        }
        if text.contains("#[allow(") && !TEMPLATES.contains(&&*path) {
            problems.push(format!("{path}: `#[allow]`; write `#[expect(…, reason = \"…\")]`"));
        }
        let named = Path::new(&path)
            .components()
            .map(|c| c.as_os_str().to_string_lossy().into_owned());
        for part in named {
            let stem = part.strip_suffix(".rs").unwrap_or(&part);
            if EMPTY_NAMES.contains(&stem) {
                problems.push(format!("{path}: `{stem}` says nothing about what is inside"));
            }
        }
    }
    fail_with(&problems);
}

#[test]
fn the_top_level_has_no_other_rooms() {
    let known = [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "compiler",
        "passes",
        "runtime",
        "tests",
        "examples",
    ];
    let mut problems = vec![];
    for entry in std::fs::read_dir(root()).expect("the root") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        // `target` is Cargo's; `LICENSE…` is the law's.
        if !known.contains(&&*name) && !name.starts_with('.') && name != "target" && !name.starts_with("LICENSE") {
            problems.push(format!("{name} is not a room of the house"));
        }
    }
    fail_with(&problems);
}

/// Licences that every dependency must offer at least one of: permissive ones, and MPL-2.0, which binds only its own files.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "0BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unlicense",
    "MPL-2.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
];

#[test]
fn dependencies_have_permissive_licences() {
    let mut command = Command::new(env!("CARGO"));
    // What a build for this machine uses; crates for other systems need not even be here.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    command
        .args([
            "metadata",
            "--offline",
            "--format-version",
            "1",
            "--filter-platform",
            &platform,
        ])
        .current_dir(root());
    let done = command.output().expect("cargo runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let mut problems = vec![];
    for package in metadata["packages"].as_array().expect("packages") {
        let (name, licence) = (&package["name"], package["license"].as_str());
        // All parts of a conjunction count, one alternative of each is enough.
        let good = licence.is_some_and(|l| {
            l.split(" AND ").all(|part| {
                let part = part.trim_matches(['(', ')']).replace('/', " OR ");
                part.split(" OR ")
                    .any(|one| LICENCES.contains(&one.split(" WITH ").next().unwrap_or(one).trim()))
            })
        });
        // A few crates give a file instead.
        if !good && package["license_file"].is_null() {
            problems.push(format!("{name}: {licence:?}"));
        }
    }
    assert!(problems.is_empty(), "licences to look at:\n{}", problems.join("\n"));
}
