//! The core is compiled into a library with a panic handler of its own and without an allocator. The compiler refuses that
//! as soon as anything in it uses `std`, which has a panic handler, or `alloc`, which needs an allocator.

use std::path::Path;
use std::process::Command;

const BARE: &str = "#![no_std]
pub use cameo_core::*;
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
";

#[test]
fn it_needs_neither_std_nor_alloc() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bare");
    std::fs::create_dir_all(&out).unwrap();
    let bare = out.join("bare.rs");
    std::fs::write(&bare, BARE).unwrap();
    for (name, root, kind) in [
        ("cameo_abi", manifest.join("../abi/src/lib.rs"), "rlib"),
        ("cameo_core", manifest.join("src/lib.rs"), "rlib"),
        ("bare", bare, "staticlib"),
    ] {
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc
            .args(["--edition", "2024", "-C", "panic=abort", "--crate-name", name])
            .args(["--crate-type", kind, "--out-dir"])
            .arg(&out)
            .arg("-L")
            .arg(&out)
            .arg(root);
        // What is not declared is not found otherwise.
        for library in ["cameo_abi", "cameo_core"]
            .iter()
            .take_while(|library| **library != name)
        {
            rustc.args(["--extern", library]);
        }
        let done = rustc.output().expect("rustc runs");
        assert!(
            done.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
}
