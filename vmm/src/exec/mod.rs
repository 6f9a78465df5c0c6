//! `perfvisor exec`: a command of the host in a guest of its own.
//!
//! ```text
//!  flags ─▶ plan: kernel, modules, folders, user ─▶ initramfs (program, job, modules)
//!                        │
//!                        ▼
//!  machine: virtiofs for each folder, a console with four ports
//!    stdin ─▶ perfvisor.stdin ─▶ command ─▶ perfvisor.stdout ─▶ stdout
//!                                        └▶ perfvisor.stderr ─▶ stderr
//!    session ◀─▶ perfvisor.control: ready, stopped, symbols, exited ◀─▶ signal, size
//! ```
//! The guest's side is the package `perfvisor-init` in `vmm/init`.

mod console_log;
mod devices;
mod folders;
mod initramfs;
mod kernel;
mod modules;
mod plan;
mod profile;
mod session;
mod symbols;
mod user;

use std::env;
use std::io;

use thiserror::Error;

pub use devices::ExecDeviceError;
pub use folders::FolderError;
pub use kernel::KernelError;
pub use modules::DriversError;
pub use profile::ProfileError;
pub use user::UserError;

use self::plan::ExecPlan;
use crate::cli::{ExecArgs, LOG_VARIABLE};
use crate::config::ConfigError;
use crate::error_text::report;
use crate::launch::LaunchError;

/// A flag is not usable.
const USAGE: u8 = 2;
/// The guest could not be set up.
const SET_UP: u8 = 125;

/// The reason why the command did not start.
#[derive(Debug, Error)]
pub enum ExecError {
    /// A flag is not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The user or a variable cannot be.
    #[error(transparent)]
    User(#[from] UserError),
    /// A folder cannot be shared.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// There is no kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel has not what the guest needs.
    #[error(transparent)]
    Drivers(#[from] DriversError),
    /// There is no profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A device cannot be.
    #[error(transparent)]
    Device(#[from] ExecDeviceError),
    /// The VM cannot be built.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The host refused something simple.
    #[error("cannot set up {what}")]
    Host {
        /// The part that could not be set up.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl ExecError {
    /// The exit status of the process.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::User(_) => USAGE,
            // What else is wrong with the machine was not in a flag.
            Self::Launch(LaunchError::Pmu(error)) if error.is_usage() => USAGE,
            _ => SET_UP,
        }
    }
}

/// Runs the command; returns the exit status of the process, after one line for whatever
/// went wrong.
#[must_use]
pub fn exec(args: &ExecArgs) -> u8 {
    if env::var_os(LOG_VARIABLE).is_none() {
        let level = if args.verbose {
            log::LevelFilter::Info
        } else {
            log::LevelFilter::Error
        };
        log::set_max_level(level);
    }
    let ran = ExecPlan::make(args).and_then(|plan| session::run(plan, args));
    ran.unwrap_or_else(|error| {
        report(&error);
        error.exit_status()
    })
}

/// An error of the host in words.
fn host_error(what: &'static str) -> impl FnOnce(io::Error) -> ExecError {
    move |source| ExecError::Host { what, source }
}
