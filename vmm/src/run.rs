//! From the command line to the exit status.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use thiserror::Error;
use vpmu::host::linux::sysfs::Sysfs;

use crate::cli::{
    Cli, Command, ConfigFileError, LOG_VARIABLE, RunArgs, as_config_file, log_filter, refusal,
    with_config_file,
};
use crate::config::{ConfigError, VmConfig};
use crate::control::{self, ApiSocket, ControlServer, SocketError, VmControl, VmFacts};
use crate::doctor;
use crate::error_text::report;
use crate::machine::{BuildError, Machine};
use crate::output::stderr::{self, LogLines};
use crate::pmu::{HostCpus, PmuError, PmuHooks, PmuPlan, UncoreHosts, place};
use crate::stop::{END_TIME, EndWatch, StopSignal};
use crate::sys::limits;
use crate::sys::{end, signals, terminal};

/// A flag or a file is not usable.
const USAGE: u8 = 2;
/// The host cannot run the VM.
const HOST: u8 = 1;
/// The VM did not end in time. Even, as the values of `--debug-exit` are odd.
const CUT_SHORT: u8 = 4;

/// The reason why no VM was started.
#[derive(Debug, Error)]
pub enum RunError {
    /// A flag is not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration file is not usable.
    #[error(transparent)]
    ConfigFile(#[from] ConfigFileError),
    /// Standard output takes no configuration file.
    #[error("--print-config: cannot write to standard output")]
    Print(#[source] io::Error),
    /// The guest cannot have its PMU.
    #[error(transparent)]
    Pmu(#[from] PmuError),
    /// A file is not usable, or the host cannot build the VM.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The socket of the control API cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The handlers of fatal signals.
    #[error("cannot set up signal handlers")]
    Signals(#[source] io::Error),
    /// The thread that watches the end of the VM.
    #[error("cannot start a thread")]
    Deadline(#[source] io::Error),
    /// The thread of the control API does not start.
    #[error("cannot serve the control API")]
    Api(#[source] io::Error),
}

impl RunError {
    /// The exit status of the process.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::ConfigFile(_) | Self::Socket(_) => USAGE,
            Self::Pmu(error) if error.is_usage() => USAGE,
            Self::Build(error) if error.is_usage() => USAGE,
            Self::Print(_)
            | Self::Pmu(_)
            | Self::Build(_)
            | Self::Signals(_)
            | Self::Deadline(_)
            | Self::Api(_) => HOST,
        }
    }
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    terminal::restore_on_panic();
    let filter = log_filter(std::env::var_os(LOG_VARIABLE).as_deref());
    env_logger::Builder::new()
        .parse_filters(&filter)
        .target(env_logger::Target::Pipe(Box::new(LogLines)))
        .init();
    let words = match with_config_file(std::env::args_os().collect()) {
        Ok(words) => words,
        Err(error) => {
            report(&error);
            return ExitCode::from(USAGE);
        }
    };
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => return report_usage(&error, &words),
    };
    let args = match cli.command {
        Command::Run(args) if args.print_config => return print_config(&args, &words),
        Command::Run(args) => args,
        Command::Doctor(args) => return doctor::run(&args),
        Command::Ctl(args) => return control::ctl(&args),
    };
    stderr::start();
    signals::ignore_told_otherwise();
    let status = run(&args).unwrap_or_else(|error| {
        report(&error);
        error.exit_status()
    });
    // A socket whose thread could not be told to end is still there.
    end::undo();
    stderr::flush();
    ExitCode::from(status)
}

/// Builds and runs one VM; returns the exit status of a VM that ran.
///
/// # Errors
/// If nothing was started.
pub fn run(args: &RunArgs) -> Result<u8, RunError> {
    let config = args.vm_config()?;
    if let Err(error) = limits::raise_open_files() {
        log::debug!("the limit of open files stays as it is: {error}");
    }
    if let Some(path) = &config.api_socket {
        ApiSocket::check(path)?;
    }
    let sysfs = Sysfs::default();
    let host_cpus = HostCpus::read(&sysfs);
    let pmu = plan_pmus(&config, &sysfs, &host_cpus)?;
    let backing = pmu.as_ref().map(PmuPlan::host);
    let affinity = place(&config.cpus, backing, &host_cpus).map_err(PmuError::from)?;
    let mut hooks = match &pmu {
        Some(pmu) => pmu.hooks()?,
        None => PmuHooks::none(),
    };
    hooks.affinity = affinity;
    let mut machine = Machine::build(&config, hooks)?;
    if let Some(pmu) = &pmu {
        pmu.announce();
    }
    end::undo_on_fatal_signals().map_err(RunError::Signals)?;
    let control = machine.control();
    let watch = watch_end(&control.stop).map_err(RunError::Deadline)?;
    // Signals that end the VMM wait from here on, so the socket goes with it.
    let api = serve_api(&config, &machine, pmu.as_ref())?;
    machine.take_files()?;
    let reason = machine.run();
    drop(api);
    drop(watch);
    let lost = control.console.lost_at_end();
    if lost > 0 {
        stderr::line(&format!(
            "perfvisor: console: {lost} bytes that the guest printed are lost, {} were written",
            control.console.counts().sent
        ));
    }
    if let Some(pmu) = &pmu {
        stderr::line(&format!("perfvisor: pmu: {}", pmu.summary()));
    }
    let status = reason.exit_status();
    if status == 0 {
        log::info!("{reason}");
    } else {
        report(reason.as_ref());
    }
    Ok(status)
}

/// Has the process end although the VM does not, when the time for its end is over.
fn watch_end(stop: &Arc<StopSignal>) -> io::Result<EndWatch> {
    let reasons = Arc::clone(stop);
    stop.deadline().watch(move || {
        end::undo();
        let reason = reasons.reason().map(ToString::to_string);
        stderr::line(&format!(
            "perfvisor: the end of the VM was cut short, as it took longer than {} s ({})",
            END_TIME.as_secs(),
            reason.unwrap_or_default()
        ));
        stderr::flush();
        end::exit_now(CUT_SHORT);
    })
}

/// The PMUs of a guest: the core's, and those of scopes.
fn plan_pmus(
    config: &VmConfig,
    sysfs: &Sysfs,
    host: &HostCpus,
) -> Result<Option<PmuPlan>, PmuError> {
    let cpus = &config.cpus;
    let Some(plan) = PmuPlan::new(&config.pmu, cpus, sysfs, host)? else {
        return Ok(None);
    };
    let Some(hosts) = UncoreHosts::find(config.uncore, plan.model_kind(), cpus, sysfs)? else {
        return Ok(Some(plan));
    };
    log::info!("uncore: {hosts}");
    plan.with_uncore(&hosts.plan(), cpus).map(Some)
}

/// Serves the control API of a machine, if it is to have one.
fn serve_api(
    config: &VmConfig,
    machine: &Machine,
    pmu: Option<&PmuPlan>,
) -> Result<Option<ControlServer>, RunError> {
    let Some(path) = &config.api_socket else {
        return Ok(None);
    };
    let facts = VmFacts {
        memory_bytes: config.memory.size,
        kernel: config.kernel.clone(),
        pmu_backing: pmu.map(PmuPlan::backing),
        ended: pmu.map(PmuPlan::ended).unwrap_or_default(),
        uncore: pmu.and_then(PmuPlan::uncore),
        monitors: pmu.map(PmuPlan::monitors),
    };
    let socket = ApiSocket::bind(path)?;
    let server = ControlServer::start(socket, VmControl::new(facts, machine.control()));
    server.map(Some).map_err(RunError::Api)
}

/// Writes the flags as a configuration file, if they can be used.
fn print_config(args: &RunArgs, words: &[OsString]) -> ExitCode {
    let checked = args.vm_config().map(drop).map_err(RunError::from);
    let text = checked.and_then(|()| as_config_file(words).map_err(RunError::from));
    let written = text.and_then(|text| {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).map_err(RunError::Print)
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

/// Help goes out as it is, a mistake as one line.
fn report_usage(error: &clap::Error, words: &[OsString]) -> ExitCode {
    if !error.use_stderr() {
        // Nobody reads the help: nothing to be done.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    let words = words.get(1..).unwrap_or_default();
    stderr::line(&format!("perfvisor: {}", refusal(error, words)));
    ExitCode::from(USAGE)
}
