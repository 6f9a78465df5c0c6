//! The `perfvisor` binary: parse, run, report in one line.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::run::main()
}
