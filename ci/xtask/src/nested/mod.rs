//! The nested KVM host: a Debian kernel in an emulator, so that `/dev/kvm` is there on any
//! machine: QEMU's TCG emulates AMD SVM, and Bochs Intel VMX.
//!
//! ```text
//! prepare ─▶ Host ─▶ boot ─▶ job started ─▶ exit status ─▶ emulator killed
//!                     │ died: again, at most twice   └─ died or given up: told
//! ```
//!
//! Multi-threaded TCG of QEMU 7.2 now and then crashes a kernel at boot; that is why
//! a host that dies before the job starts is started again, and only such a host. Who
//! gives it a job may start the job again.

mod args;
mod bochs;
mod boot_disk;
mod job;
mod kind;
mod machine;
mod qemu;
pub(crate) mod stream;
mod tsc;

use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cpio::Cpio;
use crate::kernels::{self, Kernel};
use crate::keyboard::RawTerminal;
use crate::mock_pmu::Spec;
use crate::patience::Patience;
use crate::{artifacts, images, say, setup, systems};
pub(crate) use args::HostArgs;
pub(crate) use job::{Ended, Job};
pub(crate) use kind::HostKind;
use machine::Machine;
use stream::{Event, Stream, Watched};

/// The kernel of a nested host when nobody names one.
pub(crate) const DEFAULT_KERNEL: &str = "6.12";
/// How often a host that died before the job started is started again.
const RESTARTS: u32 = 2;
/// CPUs of a host when nothing asks for more. With two, one patches the host's text while
/// the other runs it (resources/README.md).
const DEFAULT_CPUS: u32 = 1;
/// The most CPUs that have a QEMU thread each.
const MOST_THREADS: u32 = 2;
/// How long a host may take to boot on any machine.
const BOOT_LIMIT: Duration = Duration::from_secs(1800);

/// A nested host with all it needs, ready to boot any number of times.
#[derive(Debug)]
pub(crate) struct Host {
    kind: HostKind,
    kernel: Kernel,
    archives: Vec<PathBuf>,
    cpus: u32,
    /// One thread of QEMU for all CPUs.
    one_thread: bool,
    mock_pmu: Option<Spec>,
    icount: bool,
    timeout: Option<u64>,
    share: Vec<u8>,
    /// Disks, of which the first one is its root file system.
    disks: Vec<PathBuf>,
}

/// Builds and fetches what the host needs.
///
/// # Errors
/// Names the option, package or program at fault.
pub(crate) fn prepare(args: &HostArgs) -> Result<Host> {
    let series = args.host_kernel.as_deref().unwrap_or(DEFAULT_KERNEL);
    args.host.check(args)?;
    let cpus = cpus(args, series)?;
    let share = images::share(args.share.as_deref())?;
    let alone = setup::alone()?;
    setup::tools()?;
    if args.host == HostKind::Intel {
        setup::intel_host()?;
    }
    let mut kernels = kernels::some(&args.kernels)?;
    if !kernels.iter().any(|kernel| kernel.series == series) {
        kernels.extend(kernels::some(&[series.to_owned()])?);
    }
    let kernel = pick(&kernels, "--host-kernel", series)?;
    let mut archives = vec![images::host(&kernel, args.host)?];
    archives.extend(images::perfvisor(&args.profile, args.perfvisor.as_deref())?);
    // A Debian has kernels of its own. A peer boots those that the other hosts boot.
    if !args.debian || args.peer {
        archives.push(images::images(&kernels, &images::guest(&kernels)?)?);
        let elf = elf(&kernels, args.elf.as_deref().or(args.host.elf_kernels()));
        if !elf.is_empty() {
            archives.push(images::elf_kernels(&elf)?);
        }
    }
    if args.mock_pmu.is_some() {
        archives.push(images::mock_pmu(&kernel)?);
    }
    drop(alone);
    let disks = disks(args, &kernels)?;
    Ok(Host {
        kind: args.host,
        kernel,
        archives,
        cpus,
        // Where threads take turns anyway, turns of QEMU's own cost less; where they
        // need not, QEMU's turns deliver interrupts twice.
        one_thread: args.icount || cpus > MOST_THREADS,
        mock_pmu: args.mock_pmu.clone(),
        icount: args.icount,
        timeout: args.timeout,
        share,
        disks,
    })
}

/// Those of the kernels whose series are wanted.
fn elf(kernels: &[Kernel], wanted: Option<&[String]>) -> Vec<Kernel> {
    let is_wanted = |k: &&Kernel| wanted.is_none_or(|all| all.contains(&k.series));
    kernels.iter().filter(is_wanted).cloned().collect()
}

/// The disks that the host has: its own, and those for guests.
fn disks(args: &HostArgs, kernels: &[Kernel]) -> Result<Vec<PathBuf>> {
    let mut disks = Vec::new();
    if args.debian {
        disks.push(systems::host(kernels, args.peer)?);
    }
    if args.guest_disks {
        disks.extend(systems::guests(kernels)?);
    }
    Ok(disks)
}

/// Makes the disks of such a host, ahead of time: it takes minutes, and [`prepare`] then
/// finds them.
///
/// # Errors
/// As [`prepare`].
pub(crate) fn make_disks(args: &HostArgs) -> Result<()> {
    let alone = setup::alone()?;
    setup::tools()?;
    let kernels = kernels::some(&args.kernels)?;
    drop(alone);
    disks(args, &kernels).map(drop)
}

/// How many CPUs the host has; `series` is its kernel's.
fn cpus(args: &HostArgs, series: &str) -> Result<u32> {
    let least = args.mock_pmu.as_ref().map_or(1, Spec::least_cpus);
    let cpus = args.cpus.unwrap_or(DEFAULT_CPUS.max(least));
    if cpus < least {
        bail!("--cpus {cpus}: the PMUs of --mock-pmu need {least}");
    }
    if args.icount && cpus > 1 && series == "6.1" {
        bail!(
            "--icount with {cpus} CPUs: a 6.1 host does not come up so under QEMU 7.2; use \
             --host-kernel 6.12, or do without --icount"
        );
    }
    Ok(cpus)
}

/// The kernel that a flag names.
pub(crate) fn pick(kernels: &[Kernel], flag: &str, series: &str) -> Result<Kernel> {
    if let Some(kernel) = kernels.iter().find(|k| k.series == series) {
        return Ok(kernel.clone());
    }
    let all = artifacts::kernels()?.into_iter();
    let known: Vec<String> = all.map(|(series, ..)| series).collect();
    bail!(
        "{flag} {series}: no such kernel; there are {}",
        known.join(", ")
    )
}

impl Host {
    /// The host in a few words, for messages.
    pub(crate) fn describe(&self) -> String {
        let time = if self.icount {
            ", 1 ns per instruction"
        } else {
            ""
        };
        let pmu = self.mock_pmu.as_ref();
        let pmu = pmu.map_or_else(String::new, |spec| format!(", mock PMU {}", spec.text()));
        let system = if self.disks.is_empty() {
            ""
        } else {
            ", Debian 13"
        };
        format!(
            "nested host{}, kernel {}, {} CPU(s){time}{pmu}{system}",
            self.kind.describe(),
            self.kernel.series,
            self.cpus
        )
    }

    /// Boots the host, runs the job, hands its output to `sink` as it comes.
    ///
    /// # Errors
    /// If the emulator does not start, or the host dies before the job three times.
    pub(crate) fn run(&self, job: &Job, sink: &mut dyn FnMut(Stream, &[u8])) -> Result<Ended> {
        if job.interactive && self.kind == HostKind::Intel {
            bail!("--host intel without a line: it has no keyboard; give a line after --");
        }
        for attempt in 0..=RESTARTS {
            let (mut machine, events) = self.start(job)?;
            let began = Instant::now();
            let boot = Some(self.all_threads(self.kind.boot_patience()));
            let mut watched = Watched::new(&events, machine.id(), boot, Some(BOOT_LIMIT));
            match wait_for_start(&mut watched) {
                Ok(()) => {}
                Err(NoStart::Refused(reason)) => {
                    bail!("the nested host cannot run the job: {reason}")
                }
                Err(NoStart::Died(reason)) => {
                    say!("the host died before the job started: {reason}");
                    say!("{}", machine.last_words());
                    if attempt < RESTARTS {
                        say!("starting it again ({} of {RESTARTS})", attempt + 1);
                    }
                    continue;
                }
            }
            say!(
                "{}: up in {:.1} s",
                self.describe(),
                began.elapsed().as_secs_f32()
            );
            let patience = job.patience.map(|patience| self.all_threads(patience));
            let limit = job.limit(self.timeout);
            let mut watched = Watched::new(&events, machine.id(), patience, limit);
            let ended = if job.interactive {
                self.follow_typing(&mut watched, &machine, sink)?
            } else {
                follow(&mut watched, sink)
            };
            match ended {
                Ended::GivenUp(why) => say!("the job was ended: {why}"),
                Ended::HostDied => {
                    say!("the host died while the job ran\n{}", machine.last_words());
                }
                Ended::Exit(_) | Ended::Quit => {}
            }
            return Ok(ended);
        }
        bail!(
            "the nested host died {} times before the job started",
            RESTARTS + 1
        )
    }

    /// As [`follow`], with the user's terminal: from the job's first byte on its keys are
    /// the job's, and before that Ctrl-C ends us.
    fn follow_typing(
        &self,
        watched: &mut Watched<'_>,
        machine: &Machine,
        sink: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Ended> {
        let (mut terminal, mut failed) = (None, None);
        let ended = follow(watched, &mut |stream, bytes| {
            if stream == Stream::Output && terminal.is_none() && failed.is_none() {
                match RawTerminal::enter().and_then(|raw| machine.type_into().map(|()| raw)) {
                    Ok(raw) => terminal = Some(raw),
                    Err(error) => failed = Some(error),
                }
            }
            sink(stream, bytes);
        });
        drop(terminal);
        failed.map_or(Ok(ended), Err)
    }

    /// The patience of one CPU, for all that run at a time.
    fn all_threads(&self, of_one: Patience) -> Patience {
        let threads = if self.one_thread { 1 } else { self.cpus };
        Patience {
            work: of_one.work * threads,
            ..of_one
        }
    }

    fn start(&self, job: &Job) -> Result<(Machine, Receiver<Event>)> {
        let mark = stream::new_mark();
        let mut cpio = Cpio::new(Vec::new());
        cpio.file("job/line", 0o644, job.line.as_bytes())?;
        cpio.file("job/mark", 0o644, &mark)?;
        cpio.file("images/share.cpio", 0o644, &self.share)?;
        if let Some(spec) = &self.mock_pmu {
            cpio.file("job/mock-pmu", 0o644, spec.text().as_bytes())?;
        }
        if self.kind == HostKind::Intel {
            cpio.file("job/ports", 0o644, bochs::PORTS)?;
        } else if !self.icount {
            cpio.file("job/alarm", 0o644, ALARM)?;
        }
        if !self.disks.is_empty() {
            cpio.file("job/root", 0o644, b"/dev/vda\n")?;
        }
        if job.interactive {
            cpio.file("job/keys", 0o644, b"")?;
        }
        for (name, data) in &job.files {
            cpio.file(name, 0o755, data)?;
        }
        let mut last = cpio.finish()?;
        last.extend_from_slice(&self.share);
        Machine::start(self, job.interactive, &last, mark)
    }
}

/// When the host's clock is to ring, in seconds from its start: never in a job, and
/// within the day that such a clock knows.
const ALARM: &[u8] = b"+80000\n";

/// How the host begins the reason why it does not start the job.
const REFUSED: &str = "refused ";

/// Why a job did not start.
#[derive(Debug)]
enum NoStart {
    /// The host is up and cannot do what the job needs.
    Refused(String),
    /// The host did not get that far.
    Died(String),
}

fn wait_for_start(events: &mut Watched<'_>) -> Result<(), NoStart> {
    loop {
        match events.next() {
            Ok(Some(Event::Control(line))) if line == "start" => return Ok(()),
            Ok(Some(Event::Control(line))) if line.starts_with(REFUSED) => {
                return Err(NoStart::Refused(line[REFUSED.len()..].to_owned()));
            }
            Ok(Some(Event::Closed(Stream::Control)) | None) => {
                return Err(NoStart::Died("the emulator ended".into()));
            }
            Ok(Some(_)) => {}
            Err(why) => return Err(NoStart::Died(why.to_string())),
        }
    }
}

fn follow(events: &mut Watched<'_>, sink: &mut dyn FnMut(Stream, &[u8])) -> Ended {
    let (mut status, mut open) = (None, 2);
    loop {
        if let (Some(status), 0) = (status, open) {
            return Ended::Exit(status);
        }
        match events.next() {
            Ok(Some(Event::Data(stream, bytes))) => sink(stream, &bytes),
            Ok(Some(Event::Control(line))) => match line.strip_prefix("exit ") {
                Some(text) => status = text.trim().parse().ok(),
                None => say!("the host says: {line}"),
            },
            Ok(Some(Event::Closed(Stream::Control)) | None) => {
                return status.map_or(Ended::HostDied, Ended::Exit);
            }
            Ok(Some(Event::Closed(_))) => open -= 1,
            Ok(Some(Event::Quit)) => return Ended::Quit,
            Err(why) => return Ended::GivenUp(why),
        }
    }
}

/// A sink that passes everything on to our own standard output and error.
pub(crate) fn pass_on(stream: Stream, bytes: &[u8]) {
    use std::io::Write;
    // A reader that has gone away (`| head`) is no reason to stop the job.
    let _gone = match stream {
        Stream::Error => std::io::stderr().write_all(bytes),
        _ => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
    };
}

/// `cargo xtask nested`: runs a line in the nested host.
pub(crate) fn command(args: &HostArgs, line: &[String]) -> Result<u8> {
    let host = prepare(args)?;
    let job = Job {
        line: line.join(" "),
        ..Job::default()
    };
    say!("{}: booting", host.describe());
    Ok(host.run(&job, &mut pass_on)?.status())
}
