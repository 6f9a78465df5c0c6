//! From the command line to the exit status.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{self, ExitCode};
use std::sync::Arc;

use clap::Parser;
use thiserror::Error;

use crate::cli::{
    Cli, Command, ConfigFileError, LOG_VARIABLE, OnReboot, RestoreArg, RestoreFlagError, RunArgs,
    as_config_file, log_filter, refusal, with_config_file, with_saved_vm,
};
use crate::config::ConfigError;
use crate::control;
use crate::doctor;
use crate::error_text::{one_line, report};
use crate::exec::exec;
use crate::launch::{Ended, Launch, LaunchError};
use crate::machine::MachineExtras;
use crate::output::log_line;
use crate::output::stderr::{self, LogLines};
use crate::snapshot::{IncomingError, SavedVm};
use crate::stop::{StopReason, StopSignal};
use crate::sys::{end, signals, terminal};

/// A flag or a file is not usable.
const USAGE: u8 = 2;
/// The host cannot run the VM.
const HOST: u8 = 1;
/// The flag of a guest that boots again.
const AGAIN: &str = "--again";

/// The reason why no VM was started.
#[derive(Debug, Error)]
pub enum RunError {
    /// A flag is not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration file is not usable.
    #[error(transparent)]
    ConfigFile(#[from] ConfigFileError),
    /// The snapshot is not usable.
    #[error(transparent)]
    Restore(#[from] RestoreFlagError),
    /// The source has given up.
    #[error(transparent)]
    Incoming(#[from] IncomingError),
    /// Standard output takes no configuration file.
    #[error("--print-config: cannot write to standard output")]
    Print(#[source] io::Error),
    /// The guest cannot boot again.
    #[error("cannot boot the guest again")]
    Again(#[source] io::Error),
    /// The VM cannot be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

impl RunError {
    /// The exit status of the process.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::ConfigFile(_) | Self::Restore(_) => USAGE,
            Self::Launch(error) if error.is_usage() => USAGE,
            Self::Incoming(_) | Self::Print(_) | Self::Again(_) | Self::Launch(_) => HOST,
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
        .format(log_line::write)
        .target(env_logger::Target::Pipe(Box::new(LogLines)))
        .init();
    let (words, saved) = match words() {
        Ok(words) => words,
        Err(error) => {
            report(&error);
            return ExitCode::from(error.exit_status());
        }
    };
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => return report_usage(&error, &words),
    };
    let args = match cli.command {
        Command::Run(args) if args.print_config => return print_config(&args, &words),
        Command::Run(args) => args,
        Command::Exec(args) => return finish(|| exec(&args)),
        Command::Doctor(args) => return doctor::run(&args),
        Command::Ctl(args) => return control::ctl(&args),
    };
    finish(|| {
        run(&args, &words, saved).unwrap_or_else(|error| {
            report(&error);
            error.exit_status()
        })
    })
}

/// The words of the command line, with those of the files that they name, and the VM to go
/// on from.
fn words() -> Result<(Vec<OsString>, Option<SavedVm>), RunError> {
    let words = with_config_file(std::env::args_os().collect())?;
    Ok(with_saved_vm(words)?)
}

/// Runs a VM with all that it needs around it.
fn finish(run: impl FnOnce() -> u8) -> ExitCode {
    stderr::start();
    signals::ignore_told_otherwise();
    let status = run();
    // A socket whose thread could not be told to end is still there.
    end::undo();
    stderr::flush();
    ExitCode::from(status)
}

/// Builds and runs one VM; returns the exit status of a VM that ran. `words` are those that
/// `args` were made of, and `saved` is what they name.
///
/// # Errors
/// If nothing was started.
pub fn run(args: &RunArgs, words: &[OsString], saved: Option<SavedVm>) -> Result<u8, RunError> {
    let source = match &saved {
        Some(SavedVm::Incoming(incoming)) => Some(incoming.peer()),
        Some(SavedVm::Folder(_)) | None => None,
    };
    let prepared = prepare(args, words, saved).inspect_err(|error| {
        if let Some(source) = &source {
            source.say_refusal(&one_line(error));
        }
    });
    let (launch, stop) = prepared?;
    if let Some(source) = source {
        if source.was_paused() {
            launch.wait_for_resume()?;
        }
        source.say_runs()?;
    }
    let console = launch.control().console;
    let Ended { reason, pmu } = launch.run();
    let lost = console.lost_at_end();
    if lost > 0 {
        stderr::line(&format!(
            "perfvisor: console: {lost} bytes that the guest printed are lost, {} were written",
            console.counts().sent
        ));
    }
    if let Some(pmu) = &pmu {
        stderr::line(&format!("perfvisor: pmu: {}", pmu.summary()));
    }
    let reset = matches!(*reason, StopReason::Reset) && args.on_reboot == OnReboot::Restart;
    let reason = match stop.order() {
        // The guest would have gone on.
        Some(order) if reset => Arc::clone(order),
        _ => reason,
    };
    let status = reason.exit_status();
    if status == 0 {
        log::info!("{reason}");
    } else {
        report(reason.as_ref());
    }
    if reset && !stop.is_ordered() {
        return Err(RunError::Again(boot_again()));
    }
    Ok(status)
}

/// Builds a VM; nothing of its guest runs yet.
fn prepare(
    args: &RunArgs,
    words: &[OsString],
    saved: Option<SavedVm>,
) -> Result<(Launch, Arc<StopSignal>), RunError> {
    let config = args.vm_config()?;
    let restore = args.restore.as_deref().map(RestoreArg::parse).transpose()?;
    if saved.is_some() && args.on_reboot == OnReboot::Restart {
        let flag = if restore.is_some() {
            "restore"
        } else {
            "incoming"
        };
        return Err(RestoreFlagError::OnReboot { flag }.into());
    }
    if let Some(name) = &args.name {
        log_line::name(name);
    }
    let mut extras = MachineExtras::none().map_err(LaunchError::from)?;
    extras.again = args.again || saved.is_some();
    extras.restore = saved;
    extras.flags = as_config_file(words).map_err(|error| one_line(&error));
    let stop = Arc::clone(&extras.stop);
    let launch = Launch::prepare(&config, extras)?;
    if restore.is_some_and(|restore| restore.paused) {
        launch.wait_for_resume()?;
    }
    Ok((launch, stop))
}

/// Becomes this program once more, with the same words: of the machine nothing is left,
/// while threads that wait for a reader end with a process only. Signals that wait for us
/// are still there. Returns why that cannot be.
fn boot_again() -> io::Error {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let run = words.iter().position(|word| word == "run");
    let at = run.map_or(words.len(), |run| run + 1);
    if words.get(at).is_none_or(|word| word != AGAIN) {
        words.insert(at, AGAIN.into());
    }
    end::undo();
    stderr::flush();
    let mut program = process::Command::new("/proc/self/exe");
    if let Some((name, words)) = words.split_first() {
        program.arg0(name).args(words);
    }
    program.exec()
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
