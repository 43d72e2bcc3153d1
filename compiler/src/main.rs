//! The program `cameo`; see [`cameo::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    cameo::cli::main(std::env::args_os())
}
