//! The leader of the command's session: its streams, its terminal, its signals, its end.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use guest_words::{Credentials, Message, MessageReader, Terminal, ports as names};
use rustix::fs::{Gid, Uid, fchown};
use rustix::process::{self, Pid, Signal, WaitOptions};
use rustix::pty::{self, OpenptFlags};
use rustix::termios::{self, Winsize};

use super::streams::{self, PortReader};
use super::{first, kept_job, ports, symbols};
use crate::{Failure, complain, failed};

/// How often the end looks whether all output is on its way.
const LOOK: Duration = Duration::from_millis(5);
/// How often it looks: a reader on the host may take its time, and the host watches it.
const LOOKS: u32 = 12_000;
/// How long the host may take to end the machine; it powers itself off then.
const HOST_TIME: Duration = Duration::from_secs(3600);
/// The group of terminals, as devpts is mounted.
const TTY: u32 = 5;

/// Runs the command from its start to its end.
pub(crate) fn lead() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(failure);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let job = kept_job()?;
    process::setsid().map_err(failed("lead a session"))?;
    let control = ports::open(names::CONTROL)?;
    let streams = Streams {
        stdin: ports::open(names::STDIN)?,
        stdout: ports::open(names::STDOUT)?,
        stderr: ports::open(names::STDERR)?,
    };
    let terminal = match job.terminal {
        Some(form) => Some(Pty::open(form, &job.credentials)?),
        None => None,
    };
    let master = terminal.as_ref().map(|pty| Arc::clone(&pty.master));
    tell(&control, Message::Ready)?;
    let (pid, outputs) = start(streams, terminal).map_err(failed("start the command"))?;
    let requests = control.try_clone().map_err(failed("read requests"))?;
    thread::spawn(move || obey(requests, pid, master));
    let end = wait(pid, &control)?;
    finish(&outputs);
    if let Err(error) = symbols::send_if_recorded(&job, &control) {
        complain(format_args!("cannot send the kernel's symbols: {error}"));
    }
    // What the command has written lies on the host before the host hears of its end.
    rustix::fs::sync();
    tell(&control, end)?;
    // The host ends the machine when it has all output.
    thread::sleep(HOST_TIME);
    Ok(())
}

/// The ports of the three streams.
struct Streams {
    stdin: File,
    stdout: File,
    stderr: File,
}

/// A pseudo-terminal, which is this session's.
struct Pty {
    master: Arc<OwnedFd>,
    slave: File,
    form: Terminal,
}

impl Pty {
    fn open(form: Terminal, owner: &Credentials) -> Result<Self, Failure> {
        let step = "open a terminal";
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = pty::openpt(flags).map_err(failed(step))?;
        pty::unlockpt(&master).map_err(failed(step))?;
        let name = pty::ptsname(&master, Vec::new()).map_err(failed(step))?;
        let slave = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().map_err(failed(step))?)
            .map_err(failed(step))?;
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(TTY));
        fchown(&slave, Some(uid), Some(gid)).map_err(failed(step))?;
        process::ioctl_tiocsctty(&slave).map_err(failed(step))?;
        resize(&master, form.rows, form.columns);
        Ok(Self {
            master: Arc::new(master),
            slave,
            form,
        })
    }

    fn slave(&self) -> io::Result<Stdio> {
        self.slave.try_clone().map(Stdio::from)
    }

    fn master(&self) -> io::Result<File> {
        self.master.try_clone().map(File::from)
    }
}

fn resize(master: &impl AsFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // The command sees the size that it had.
    let _refused = termios::tcsetwinsize(master, size);
}

/// Starts the command and the threads of its streams; returns those of its output.
/// Afterwards only the command has the terminal open.
fn start(ports: Streams, terminal: Option<Pty>) -> io::Result<(Pid, Vec<JoinHandle<()>>)> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("launch").process_group(0);
    let pty = terminal.as_ref();
    let on = |wanted: bool| match pty {
        Some(pty) if wanted => pty.slave(),
        _ => Ok(Stdio::piped()),
    };
    let form = pty.map(|pty| pty.form);
    command
        .stdin(on(form.is_some())?)
        .stdout(on(form.is_some_and(|form| form.stdout))?)
        .stderr(on(form.is_some_and(|form| form.stderr))?);
    let mut child = command.spawn()?;
    drop(command);
    let pid = Pid::from_child(&child);
    if let Some(pty) = pty {
        // Fails if the command has ended already. Keys are for the command only.
        let _refused = termios::tcsetpgrp(&pty.master, pid);
    }
    let mut outputs = Vec::new();
    let screen = match form {
        Some(form) if form.stdout => Some(ports.stdout.try_clone()?),
        Some(form) if form.stderr => Some(ports.stderr.try_clone()?),
        _ => None,
    };
    if let Some(from) = child.stdout.take() {
        outputs.push(thread::spawn(move || streams::drain(from, &ports.stdout)));
    }
    if let Some(from) = child.stderr.take() {
        outputs.push(thread::spawn(move || streams::drain(from, &ports.stderr)));
    }
    match (child.stdin.take(), pty) {
        (Some(to), _) => drop(thread::spawn(move || streams::feed(&ports.stdin, to))),
        (None, Some(pty)) => {
            let to = pty.master()?;
            thread::spawn(move || streams::feed(&ports.stdin, to));
        }
        (None, None) => {}
    }
    if let Some(pty) = pty {
        let mut from = pty.master()?;
        outputs.push(thread::spawn(move || match screen {
            Some(port) => streams::drain(from, &port),
            // What it echoes is not what the command prints.
            None => drop(io::copy(&mut from, &mut io::sink())),
        }));
    }
    Ok((pid, outputs))
}

/// Waits for the command's end; tells the host when a signal stops it.
fn wait(pid: Pid, control: &File) -> Result<Message, Failure> {
    let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
    loop {
        let status = match process::waitpid(Some(pid), WaitOptions::UNTRACED) {
            Ok(Some((_, status))) => status,
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(failed("wait for the command")(error)),
        };
        if let Some(signal) = status.stopping_signal() {
            tell(control, Message::Stopped(byte(signal)))?;
        } else if let Some(signal) = status.terminating_signal() {
            return Ok(Message::Killed(byte(signal)));
        } else if let Some(code) = status.exit_status() {
            return Ok(Message::Exited(byte(code)));
        }
    }
}

/// Ends what the command has left running, and waits for its output.
fn finish(outputs: &[JoinHandle<()>]) {
    for _ in 0..LOOKS {
        if outputs.iter().all(JoinHandle::is_finished) {
            return;
        }
        first::kill_others(&[1, std::process::id()]);
        thread::sleep(LOOK);
    }
}

fn tell(control: &File, message: Message) -> Result<(), Failure> {
    streams::write_all(control, message.to_line().as_bytes()).map_err(failed("tell the host"))
}

/// Does what the host asks for.
fn obey(control: File, command: Pid, terminal: Option<Arc<OwnedFd>>) {
    let mut requests = MessageReader::new(PortReader(control));
    while let Ok(Some(request)) = requests.next_message() {
        match (request, &terminal) {
            (Message::Signal(number), _) => {
                if let Some(signal) = Signal::from_named_raw(i32::from(number)) {
                    // It may have ended.
                    let _refused = process::kill_process_group(command, signal);
                }
            }
            (Message::Size(rows, columns), Some(master)) => resize(master, rows, columns),
            _ => {}
        }
    }
}
