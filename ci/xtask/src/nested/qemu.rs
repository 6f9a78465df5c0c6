//! One QEMU process: its command line, its files, its end.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result};

use super::stream::{self, Event, Stream};
use super::{Host, tsc};
use crate::{cmd, keyboard, paths};

const MEMORY: &str = "4G";
/// With SVM. Without XSAVE: TCG executes a guest's XSETBV without telling KVM, whose
/// CPUID leaf 0DH is then wrong, and each guest kernel warns of it. Then also without what
/// needs XSAVE: a kernel 7 uses AVX for a check of its own, at boot, if the CPU shows it.
/// Without fast copies by bytes (ERMS, FSRM): TCG takes as long for a byte as for a word,
/// and kernels then copy words.
const CPU: &str = "max,+svm,-xsave,-avx,-avx2,-fma,-f16c,-erms,-fsrm";
const CMDLINE: &str = "console=ttyS0 quiet loglevel=5 oops=panic panic=-1 cryptomgr.notests \
    initcall_blacklist=jent_mod_init,crypto_kdf108_init";
/// By the wall's clock, a TSC that is taken as it is and of a known rate: on a busy machine
/// the clocksource watchdog's reads take too long, and the kernel gives the TSC up.
const TSC: &str = "tsc=nowatchdog tsc_early_khz=";
/// Starts QEMU with the three pipes that we gave it as 0, 1, 2 at 3, 4, 5, so that
/// its own messages have a place of their own. It dies with us, however we end.
const LAUNCH: &str =
    r#"exec setpriv --pdeathsig KILL "$@" 3>&0 4>&1 5>&2 <"/dev/null" >"$QEMU_LOG" 2>&1"#;

/// A running QEMU. Dropping it kills the process and removes its files.
#[derive(Debug)]
pub(super) struct Machine {
    child: Child,
    dir: PathBuf,
    console: PathBuf,
    messages: PathBuf,
    events: Sender<Event>,
}

impl Machine {
    /// Starts QEMU with the host's archives and one more; `typed`: with a port that leads
    /// in, for what a user types.
    pub(super) fn start(
        host: &Host,
        typed: bool,
        last: &[u8],
        mark: Vec<u8>,
    ) -> Result<(Self, Receiver<Event>)> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let runs = paths::cache("run")?;
        remove_stale(&runs);
        let serial = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let dir = runs.join(format!("{pid}-{serial}"));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let initrd = dir.join("initrd");
        concatenate(&host.archives, last, &initrd)?;
        let keys = typed.then(|| dir.join("keys"));
        if let Some(keys) = &keys {
            make_fifos(keys)?;
        }
        let logs = paths::cache("logs")?;
        keep_newest(&logs, 40);
        let console = logs.join(format!("host-{pid}-{serial}.console"));
        let messages = logs.join(format!("host-{pid}-{serial}.qemu"));

        let (control, control_in) = io::pipe()?;
        let (output, output_in) = io::pipe()?;
        let (error, error_in) = io::pipe()?;
        let child = Command::new("sh")
            .args(["-c", LAUNCH, "sh"])
            .args(arguments(host, &initrd, &console, keys.as_deref()))
            .env("QEMU_LOG", &messages)
            .stdin(control_in)
            .stdout(output_in)
            .stderr(error_in)
            .spawn()
            .context("cannot start QEMU")?;
        let (to, events) = channel();
        let (to_output, to_error, to_control) = (to.clone(), to.clone(), to.clone());
        let mark_too = mark.clone();
        thread::spawn(move || stream::read_control(control, &to_control));
        thread::spawn(move || stream::read_data(Stream::Output, output, &mark, &to_output));
        thread::spawn(move || stream::read_data(Stream::Error, error, &mark_too, &to_error));
        Ok((
            Self {
                child,
                dir,
                console,
                messages,
                events: to,
            },
            events,
        ))
    }

    /// QEMU's process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Passes on what the user types, from now on.
    ///
    /// # Errors
    /// If the port cannot be opened.
    pub(super) fn type_into(&self) -> Result<()> {
        keyboard::pass_on(&self.dir.join("keys.in"), self.events.clone())
    }

    /// The end of the kernel's console and of QEMU's messages.
    pub(super) fn last_words(&self) -> String {
        let read = |path: &Path| {
            let bytes = fs::read(path).unwrap_or_default();
            cmd::last_lines(&String::from_utf8_lossy(&bytes), 12)
        };
        let (console, qemu) = (read(&self.console), read(&self.messages));
        format!(
            "its console ({}):\n{console}\nQEMU: {qemu}",
            self.console.display()
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell of anything else.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        let _removed = fs::remove_dir_all(&self.dir);
    }
}

fn arguments(host: &Host, initrd: &Path, console: &Path, keys: Option<&Path>) -> Vec<String> {
    let accel = if host.one_thread {
        "tcg,thread=single"
    } else {
        "tcg,thread=multi"
    };
    let cpus = host.cpus.to_string();
    let kernel = host.kernel.dir.join("vmlinuz").display().to_string();
    let initrd = initrd.display().to_string();
    let serial = format!("file:{}", console.display());
    let mut words: Vec<&str> = vec!["qemu-system-x86_64", "-nodefaults", "-no-reboot"];
    words.extend(["-machine", "q35", "-accel", accel, "-cpu", CPU]);
    words.extend([
        "-smp", &cpus, "-m", MEMORY, "-display", "none", "-serial", &serial,
    ]);
    let cmdline = if host.icount {
        words.extend(["-icount", "shift=0,sleep=off"]);
        CMDLINE.to_owned()
    } else {
        format!("{CMDLINE} {TSC}{}", tsc::khz())
    };
    words.extend(["-kernel", &kernel, "-initrd", &initrd, "-append", &cmdline]);
    // ioeventfd=off: a kick is handled at once, not when the main loop comes by.
    words.extend([
        "-device",
        "virtio-serial-pci,id=out,ioeventfd=off,max_ports=5",
    ]);
    let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    for (n, disk) in host.disks.iter().enumerate() {
        words.extend(drive(n, disk));
    }
    let out = |fd: u32| format!("file,path=/dev/fd/{fd}");
    let mut ports = vec![(1, out(3)), (2, out(4)), (3, out(5))];
    ports.extend(keys.map(|keys| (4, format!("pipe,path={}", keys.display()))));
    for (port, backend) in ports {
        words.push("-chardev".into());
        words.push(format!("{backend},id=port{port}"));
        words.push("-device".into());
        words.push(format!(
            "virtserialport,bus=out.0,nr={port},chardev=port{port}"
        ));
    }
    words
}

/// A disk. What is written to it goes to a file that is gone with QEMU.
fn drive(n: usize, disk: &Path) -> [String; 4] {
    let file = disk.display();
    [
        "-drive".into(),
        format!("if=none,id=disk{n},format=raw,snapshot=on,cache=unsafe,file={file}"),
        "-device".into(),
        format!("virtio-blk-pci,drive=disk{n}"),
    ]
}

/// The two FIFOs of QEMU's `pipe`: what we write to the one is typed; nothing is written to
/// the other.
fn make_fifos(keys: &Path) -> Result<()> {
    for end in ["in", "out"] {
        cmd::output(Command::new("mkfifo").arg(keys.with_extension(end)))?;
    }
    Ok(())
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
