//! From the command line to the exit status.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use thiserror::Error;
use vpmu::host::linux::sysfs::Sysfs;

use crate::cli::{Cli, Command, RunArgs};
use crate::config::{ConfigError, VmConfig};
use crate::doctor;
use crate::machine::{BuildError, Machine, PmuHooks};
use crate::pmu::{PmuError, PmuPlan};
use crate::sys::terminal;

/// A flag or a file is not usable.
const USAGE: u8 = 2;
/// The host is to blame.
const HOST: u8 = 1;

/// Why no VM was started.
#[derive(Debug, Error)]
pub enum RunError {
    /// A flag.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The PMU.
    #[error(transparent)]
    Pmu(#[from] PmuError),
    /// A file or the host.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl RunError {
    /// The exit status for it.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) => USAGE,
            Self::Pmu(error) if error.is_usage() => USAGE,
            Self::Build(error) if error.is_usage() => USAGE,
            Self::Pmu(_) | Self::Build(_) => HOST,
        }
    }
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    terminal::restore_on_panic();
    let level = env_logger::Env::new().filter_or("PERFVISOR_LOG", "warn");
    env_logger::Builder::from_env(level).init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return report_usage(&error),
    };
    let args = match cli.command {
        Command::Run(args) => args,
        Command::Doctor(args) => return doctor::run(&args),
    };
    match run(&args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            report(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

/// Builds and runs one VM; returns the exit status of a VM that ran.
///
/// # Errors
/// If nothing was started.
pub fn run(args: &RunArgs) -> Result<u8, RunError> {
    let config = VmConfig::from_args(args)?;
    let pmu = PmuPlan::new(&config.pmu, &Sysfs::default())?;
    let hooks = match &pmu {
        Some(pmu) => pmu.hooks()?,
        None => PmuHooks::none(),
    };
    let machine = Machine::build(&config, &hooks)?;
    if let Some(pmu) = &pmu {
        pmu.announce();
    }
    let reason = machine.run();
    if let Some(pmu) = &pmu {
        eprintln!("perfvisor: pmu: {}", pmu.summary());
    }
    let status = reason.exit_status();
    if status == 0 {
        log::info!("{reason}");
    } else {
        report(reason.as_ref());
    }
    Ok(status)
}

/// One line with the whole chain of causes.
fn report(error: &dyn Error) {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    eprintln!("perfvisor: {line}");
}

/// Help goes out as it is, a mistake as one line.
fn report_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nobody reads the help: nothing to be done.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"))
        .filter(|line| !line.is_empty())
        .collect();
    let line = lines.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let is_doctor = std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "doctor");
    let command = if is_doctor { "doctor" } else { "run" };
    eprintln!("perfvisor: {line} (see perfvisor {command} --help)");
    ExitCode::from(USAGE)
}
