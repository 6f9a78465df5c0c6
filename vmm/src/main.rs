//! The `perfvisor` binary: parse, run, report in one line.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(panic = "unwind")]
    abort_after_a_panic();
    vmm::run::main()
}

/// A VMM that panicked must not run on. A release build has no other way to end; a build for
/// tests unwinds (`Cargo.toml`), which would end a single thread.
#[cfg(panic = "unwind")]
fn abort_after_a_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
