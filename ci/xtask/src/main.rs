//! The project's commands: `cargo xtask …`.
//!
//! Each does its own set-up on a fresh Debian 12 machine, as root or with sudo, and
//! says what it installs. Modules, from the bottom up:
//!
//! | module | does |
//! |---|---|
//! | `paths`, `cmd`, `cpio`, `artifacts` | places, other programs, archives, the table of packages |
//! | `apt`, `systems` | Debian's packages, and root file systems that are made of them |
//! | `setup`, `kernels`, `bzimage`, `programs`, `images` | what the runners need, made once under `target/xtask` |
//! | `headers`, `mock_pmu` | the kernel module that gives the nested host a PMU |
//! | `patience` | when something that stands still is given up |
//! | `keyboard` | a user at a terminal |
//! | `nested` | the nested KVM host: a job, its output, its exit status |
//! | `place`, `guest` | native or nested; a line in a Linux guest |
//! | `check`, `payloads`, `guest_tests`, `report` | what `test` and `check` run, and count |
//! | `perf`, `complaints` | what perf and the kernel of a guest say, and what they must |
//! | `bench` | costs, beside their floors |
//! | `demo` | perf in a guest, shown and checked |

mod apt;
mod artifacts;
mod bench;
mod bzimage;
mod check;
mod cmd;
mod complaints;
mod cpio;
mod demo;
mod guest;
mod guest_tests;
mod headers;
mod images;
mod kernels;
mod keyboard;
mod mock_pmu;
mod nested;
mod paths;
mod patience;
mod payloads;
mod perf;
mod place;
mod programs;
mod report;
mod setup;
mod systems;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show perf in a guest: perf stat, record and report, and the interrupts behind them
    Demo(demo::DemoArgs),
    /// Boot the nested KVM host and run a shell line there, as root
    Nested {
        #[command(flatten)]
        host: nested::HostArgs,
        /// The shell line, after --, such as: -- perfvisor doctor
        #[arg(last = true, required = true, value_name = "SHELL LINE")]
        line: Vec<String>,
    },
    /// Boot a Linux guest of perfvisor and run a shell line there, as root; without a line:
    /// an interactive shell
    Guest {
        #[command(flatten)]
        host: nested::HostArgs,
        #[command(flatten)]
        guest: guest::GuestArgs,
        /// The shell line, after --, such as: -- perf stat -e cycles true. Without it, type
        /// into a shell of the guest; leave it with `exit`, or with Ctrl-A x
        #[arg(last = true, value_name = "SHELL LINE")]
        line: Vec<String>,
    },
    /// Run everything that CI runs; the last line counts passed, failed and skipped
    Test {
        /// Leave out the tests that need a guest
        #[arg(long)]
        quick: bool,
        /// Run only the tests that need a guest
        #[arg(long, conflicts_with = "quick")]
        guests: bool,
        /// Run only the tests with this word in their name, such as hotplug
        word: Option<String>,
    },
    /// Measure what things cost, most by counting instructions in the nested host, each beside
    /// its floor; writes target/bench.json. The exit status is 1 if a figure is missing
    Bench(bench::BenchArgs),
    /// Run the fast gate before a commit: format, lints, rules, unit tests
    Check,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Task::Demo(args) => demo::command(&args),
        Task::Nested { host, line } => nested::command(&host, &line),
        Task::Guest { host, guest, line } => guest::command(&host, &guest, &line),
        Task::Test {
            quick,
            guests,
            word,
        } => Ok(test::command(!guests, !quick, word)),
        Task::Bench(args) => bench::command(&args),
        Task::Check => Ok(check::command()),
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(1)
        }
    }
}
