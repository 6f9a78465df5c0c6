//! One emulator process: its files, its streams, its end.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result};

use super::stream::{self, Event, Stream};
use super::{Host, HostKind, bochs, qemu};
use crate::{cmd, keyboard, paths};

/// A running emulator. Dropping it kills the process and removes its files.
#[derive(Debug)]
pub(super) struct Machine {
    child: Child,
    files: Files,
    events: Sender<Event>,
}

/// The files of one run.
#[derive(Debug)]
pub(super) struct Files {
    /// A folder of the run's own, which is removed after it.
    pub(super) dir: PathBuf,
    /// The host's archives, in `dir`.
    pub(super) initrd: PathBuf,
    /// What the kernel writes to its console.
    pub(super) console: PathBuf,
    /// What the emulator has to say.
    pub(super) messages: PathBuf,
    /// In `dir` the name of the FIFOs of a port that leads in, if somebody types.
    pub(super) keys: Option<PathBuf>,
}

/// A process, and what comes out of its machine.
pub(super) struct Launched {
    pub(super) child: Child,
    pub(super) control: Box<dyn Read + Send>,
    pub(super) output: Box<dyn Read + Send>,
    pub(super) error: Box<dyn Read + Send>,
}

impl Machine {
    /// Starts the emulator with the host's archives and one more; `typed`: with a port that
    /// leads in, for what a user types.
    pub(super) fn start(
        host: &Host,
        typed: bool,
        last: &[u8],
        mark: Vec<u8>,
    ) -> Result<(Self, Receiver<Event>)> {
        let files = Files::new(host.kind, typed)?;
        concatenate(&host.archives, last, &files.initrd)?;
        let Launched {
            child,
            control,
            output,
            error,
        } = match host.kind {
            HostKind::Amd => qemu::launch(host, &files)?,
            HostKind::Intel => bochs::launch(host, &files)?,
        };
        let (to, events) = channel();
        let (to_output, to_error, to_control) = (to.clone(), to.clone(), to.clone());
        let mark_too = mark.clone();
        thread::spawn(move || stream::read_control(control, &to_control));
        thread::spawn(move || stream::read_data(Stream::Output, output, &mark, &to_output));
        thread::spawn(move || stream::read_data(Stream::Error, error, &mark_too, &to_error));
        let machine = Self {
            child,
            files,
            events: to,
        };
        Ok((machine, events))
    }

    /// The emulator's process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Passes on what the user types, from now on.
    ///
    /// # Errors
    /// If the port cannot be opened.
    pub(super) fn type_into(&self) -> Result<()> {
        keyboard::pass_on(&self.files.dir.join("keys.in"), self.events.clone())
    }

    /// The end of the kernel's console and of the emulator's messages, and how the emulator
    /// ended.
    pub(super) fn last_words(&mut self) -> String {
        let read = |path: &Path| {
            let bytes = fs::read(path).unwrap_or_default();
            cmd::last_lines(&String::from_utf8_lossy(&bytes), 12)
        };
        let (console, emulator) = (read(&self.files.console), read(&self.files.messages));
        let ended = match self.child.try_wait() {
            Ok(Some(status)) => format!(" ({status})"),
            _ => String::new(),
        };
        format!(
            "its console ({}):\n{console}\nthe emulator{ended}: {emulator}",
            self.files.console.display()
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell of anything else.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        let _removed = fs::remove_dir_all(&self.files.dir);
    }
}

impl Files {
    fn new(kind: HostKind, typed: bool) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let runs = paths::cache("run")?;
        remove_stale(&runs);
        let serial = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let dir = runs.join(format!("{pid}-{serial}"));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let logs = paths::cache("logs")?;
        keep_newest(&logs, 40);
        let emulator = kind.emulator();
        Ok(Self {
            initrd: dir.join("initrd"),
            keys: typed.then(|| dir.join("keys")),
            console: logs.join(format!("host-{pid}-{serial}.console")),
            messages: logs.join(format!("host-{pid}-{serial}.{emulator}")),
            dir,
        })
    }
}

fn concatenate(archives: &[PathBuf], last: &[u8], to: &Path) -> Result<()> {
    let mut out = fs::File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    for archive in archives {
        let mut from = fs::File::open(archive)
            .with_context(|| format!("cannot read {}", archive.display()))?;
        io::copy(&mut from, &mut out).with_context(|| format!("cannot write {}", to.display()))?;
    }
    out.write_all(last)
        .with_context(|| format!("cannot write {}", to.display()))
}

/// Removes what runs left behind that were killed.
fn remove_stale(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_string_lossy()
            .split('-')
            .next()
            .unwrap_or_default()
            .to_owned();
        if !Path::new("/proc").join(pid).exists() {
            // Somebody else may be removing it too.
            let _removed = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes all but the newest files of a folder.
fn keep_newest(dir: &Path, n: usize) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    files.sort();
    for (_, path) in files.iter().rev().skip(n) {
        let _removed = fs::remove_file(path);
    }
}
