//! The life of one command: from the machine's start to the exit status.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use guest_words::{Message, MessageReader};
use rustix::process::{Signal, getpid, kill_process};

use super::console_log::ConsoleLog;
use super::devices::ExecDevices;
use super::plan::{self, ExecPlan};
use super::profile::CommandProfile;
use super::{ExecError, SET_UP, host_error, symbols};
use crate::cli::ExecArgs;
use crate::devices::virtio::console::ConsoleHandle;
use crate::event_loop::SignalRelay;
use crate::launch::{Ended, Launch, LaunchError};
use crate::machine::{Machine, MachineExtras};
use crate::output::stderr;
use crate::stop::{StopReason, StopSignal};
use crate::sys::signals;
use crate::sys::terminal::RawTerminal;

/// The status of a command that `--timeout` ended.
const TIMED_OUT: u8 = 124;
/// How long a command has after SIGTERM at its timeout, before its machine ends.
const GRACE: Duration = Duration::from_secs(5);
/// So many signals that end programs, within this time, end the machine: the command does
/// not take them.
const INSISTENT: (usize, Duration) = (3, Duration::from_secs(2));
/// How often the end looks whether all output has gone.
const FLUSH: Duration = Duration::from_millis(200);

/// Runs a planned command to its end; returns the exit status of the process.
pub(super) fn run(plan: ExecPlan, args: &ExecArgs) -> Result<u8, ExecError> {
    // Before the first process is started.
    Machine::check(&plan.config).map_err(LaunchError::from)?;
    let mut extras = MachineExtras::none().map_err(LaunchError::from)?;
    let stop = Arc::clone(&extras.stop);
    let started =
        signals::start_thread(|| Ok(ExecDevices::start(&plan.folders, plan.network, &stop)));
    let devices = started.map_err(host_error("devices"))??;
    let log = ConsoleLog::new(args.verbose);
    let to_guest = devices.control.try_clone();
    let session = Arc::new(Session {
        stop,
        console: devices.console,
        to_guest: to_guest.map_err(host_error("the control port"))?,
        terminal: plan.terminal,
        state: Mutex::default(),
        changed: Condvar::new(),
    });
    extras.devices = devices.devices;
    extras.console = Some(Box::new(log.clone()));
    let relayed = Arc::clone(&session);
    let also = [Signal::WINCH.as_raw()];
    extras.signals = Some(SignalRelay::new(&also, move |signal| {
        relayed.signal(signal)
    }));
    let launch = Launch::prepare(&plan.config, extras)?;
    drop(plan.initramfs);
    let hearing = Arc::clone(&session);
    let from_guest = devices.control;
    let thread = || {
        let named = thread::Builder::new().name("exec-control".into());
        named.spawn(move || hearing.hear(from_guest))
    };
    signals::start_thread(thread).map_err(host_error("a thread"))?;
    if let Some(time) = args.timeout {
        let waiting = Arc::clone(&session);
        let thread = || {
            let named = thread::Builder::new().name("exec-timeout".into());
            named.spawn(move || waiting.end_after(time))
        };
        signals::start_thread(thread).map_err(host_error("a thread"))?;
    }
    let ended = launch.run();
    session.finished();
    let status = session.status(&ended, &log);
    match plan.profile.as_ref().map(CommandProfile::draw) {
        // What the command says of itself comes first.
        Some(Err(error)) if status == 0 => Err(error.into()),
        _ => Ok(status),
    }
}

/// How a command ended, and how far it got.
#[derive(Debug, Default)]
struct State {
    /// Whether it has started.
    ready: bool,
    /// Its status as a shell's.
    status: Option<u8>,
    timed_out: bool,
    /// Whether the machine has ended.
    over: bool,
    /// The caller's terminal, while it is the guest's.
    raw: Option<RawTerminal>,
    /// When signals that end programs came.
    ending: Vec<Instant>,
}

/// What the threads of a command's life share.
#[derive(Debug)]
struct Session {
    stop: Arc<StopSignal>,
    console: ConsoleHandle,
    to_guest: UnixStream,
    terminal: bool,
    state: Mutex<State>,
    changed: Condvar,
}

impl Session {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, message: Message) {
        let sent = (&self.to_guest).write_all(message.to_line().as_bytes());
        if let Err(error) = sent {
            log::debug!("the guest does not hear {message:?}: {error}");
        }
    }

    /// Does what the guest says, until it says no more.
    fn hear(&self, from_guest: UnixStream) {
        let mut messages = MessageReader::new(from_guest);
        // Once: a guest is not to fill the caller's folder.
        let mut home = std::env::home_dir();
        while let Ok(Some(message)) = messages.next_message() {
            match message {
                Message::Ready => self.started(),
                Message::Stopped(signal) => self.stopped(signal),
                Message::Exited(status) => return self.ended(status),
                Message::Killed(signal) => return self.ended(128 | (signal & 0x7f)),
                Message::Symbols(lengths) => {
                    if let Err(error) = symbols::take(&mut messages, lengths, home.take()) {
                        log::warn!("the guest's symbols have not come: {error}");
                    }
                }
                Message::Signal(_) | Message::Size(..) => {}
            }
        }
    }

    fn started(&self) {
        log::info!("the command starts");
        self.state().ready = true;
        self.take_terminal();
    }

    /// From here on the caller's keys are the command's.
    fn take_terminal(&self) {
        if !self.terminal {
            return;
        }
        match RawTerminal::enter() {
            Ok(raw) => self.state().raw = raw,
            Err(error) => log::warn!("cannot set the terminal to raw mode: {error}"),
        }
        self.send_size();
    }

    fn send_size(&self) {
        let (rows, columns) = plan::size();
        self.send(Message::Size(rows, columns));
    }

    /// A signal has stopped the command (Ctrl-Z): this process stops as well, which the
    /// caller's shell sees, and both go on together.
    fn stopped(&self, signal: u8) {
        log::debug!("signal {signal} has stopped the command");
        drop(self.state().raw.take());
        if let Err(error) = kill_process(getpid(), Signal::STOP) {
            log::warn!("cannot stop as the command has: {error}");
        }
        self.take_terminal();
        let go_on = u8::try_from(Signal::CONT.as_raw()).unwrap_or_default();
        self.send(Message::Signal(go_on));
    }

    /// The command has ended: the machine ends when all its output is where it belongs.
    fn ended(&self, status: u8) {
        self.state().status = Some(status);
        self.changed.notify_all();
        while !self.console.flush(FLUSH) {
            if self.stop.reason().is_some() {
                return;
            }
        }
        self.stop.stop(StopReason::CommandEnded);
    }

    /// Passes a signal on; `false` if it is to end the machine.
    fn signal(&self, number: u32) -> bool {
        let Ok(signal) = u8::try_from(number) else {
            return false;
        };
        if i32::from(signal) == Signal::WINCH.as_raw() {
            if self.terminal && self.state().ready {
                self.send_size();
            }
            return true;
        }
        let mut state = self.state();
        if !state.ready || state.status.is_some() {
            return false;
        }
        let ends = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
        if ends.map(Signal::as_raw).contains(&i32::from(signal)) {
            let (count, within) = INSISTENT;
            state.ending.retain(|at| at.elapsed() < within);
            state.ending.push(Instant::now());
            if state.ending.len() >= count {
                return false;
            }
        }
        drop(state);
        self.send(Message::Signal(signal));
        true
    }

    /// Ends the command, or the machine of one that has not started or does not end.
    fn end_after(&self, time: Duration) {
        if self.ends_within(time) {
            return;
        }
        self.state().timed_out = true;
        let term = u8::try_from(Signal::TERM.as_raw()).unwrap_or_default();
        if self.state().ready {
            self.send(Message::Signal(term));
            if self.ends_within(GRACE) {
                return;
            }
        }
        self.stop.stop(StopReason::CommandEnded);
    }

    /// Waits for the command's end.
    fn ends_within(&self, time: Duration) -> bool {
        let goes_on = |state: &mut State| state.status.is_none() && !state.over;
        let waited = self.changed.wait_timeout_while(self.state(), time, goes_on);
        waited.is_ok_and(|(_, waited)| !waited.timed_out())
    }

    /// The machine has ended.
    fn finished(&self) {
        let mut state = self.state();
        state.over = true;
        drop(state.raw.take());
        drop(state);
        self.changed.notify_all();
    }

    /// The exit status, after a line for what is to be told.
    fn status(&self, ended: &Ended, log: &ConsoleLog) -> u8 {
        let (status, timed_out) = {
            let state = self.state();
            (state.status, state.timed_out)
        };
        if let Some(line) = ended.pmu.as_ref().and_then(|pmu| pmu.caveat()) {
            stderr::line(&format!("perfvisor: pmu: {line}"));
        }
        if timed_out {
            return TIMED_OUT;
        }
        if let StopReason::HostSignal(_) = *ended.reason {
            return ended.reason.exit_status();
        }
        status.unwrap_or_else(|| {
            tell_of_death(&ended.reason, log);
            SET_UP
        })
    }
}

/// Says why a guest ended before its command.
fn tell_of_death(reason: &StopReason, log: &ConsoleLog) {
    if let Some(complaint) = log.complaint() {
        stderr::line(&format!(
            "perfvisor: the guest could not run the command: {complaint}"
        ));
        return;
    }
    if matches!(reason, StopReason::BackendLost { .. }) {
        stderr::line(&format!("perfvisor: {reason}"));
        return;
    }
    let lines = log.last_lines();
    let above = if lines.is_empty() {
        ""
    } else {
        "; above: its last lines"
    };
    for line in lines {
        stderr::line(&line);
    }
    stderr::line(&format!(
        "perfvisor: the guest ended before the command did ({reason}){above}"
    ));
}
