//! The first program of a guest of `perfvisor exec`, and the two that it starts.
//!
//! | started as | process | does |
//! |---|---|---|
//! | `/init` | 1 | loads modules, mounts, starts the leader, collects the dead, powers off |
//! | `… lead` | leader of a session | streams, terminal, signals; parent of the command |
//! | `… launch` | becomes the command | waits for its terminal, takes its user, its folder |
//!
//! A process of its own leads the session because Linux counts children of process 1 as
//! orphans, and stops no orphan for Ctrl-Z.
#![forbid(unsafe_code)]

mod guest;

use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::process::ExitCode;

use guest_words::COMPLAINT;

/// A step that failed, in words, and why.
type Failure = String;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("lead") => guest::lead(),
        Some("launch") => guest::launch(),
        _ if std::process::id() == 1 => guest::first_process(),
        _ => {
            complain("it is started by the kernel of a guest of perfvisor exec");
            ExitCode::FAILURE
        }
    }
}

/// Tells the host why the command cannot run: by the console, which is there first.
fn complain(failure: impl Display) {
    let line = format!("{COMPLAINT}{failure}\n");
    let console = fs::OpenOptions::new().write(true).open("/dev/console");
    let written = console.and_then(|mut console| console.write_all(line.as_bytes()));
    // Nobody else can be told.
    drop(written);
}

/// Words for a step that failed.
fn failed<E: Display>(step: impl Display) -> impl FnOnce(E) -> Failure {
    move |error| format!("cannot {step}: {error}")
}
