//! The `heymarket-sync` program: arguments in, exit status out.

use std::process::ExitCode;

fn main() -> ExitCode {
    heymarket_sync::cli::main()
}
