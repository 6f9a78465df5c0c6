//! Where a Linux guest of perfvisor runs: on this machine's own `/dev/kvm` when it
//! can run Linux, else in the nested host.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::kernels::Kernel;
use crate::nested::stream::{self, Event, Stream, Watched};
use crate::nested::{self, Ended, Host, HostArgs, HostKind, Job};
use crate::{cmd, images, kernels, keyboard, paths, programs, say, setup};

/// A place to start perfvisor in.
#[derive(Debug)]
pub(crate) enum Place {
    /// This machine.
    Native(Native),
    /// The nested host.
    Nested(Host),
}

/// This machine, with what `/images` has in the nested host.
#[derive(Debug)]
pub(crate) struct Native {
    perfvisor: PathBuf,
    kernels: Vec<Kernel>,
    guest: PathBuf,
    share: PathBuf,
    timeout: Option<u64>,
}

/// Why this machine's KVM cannot run a Linux guest; nothing if it can.
pub(crate) fn no_native_guests() -> Option<String> {
    let open = fs::File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = open {
        return Some(format!("/dev/kvm: {error}"));
    }
    if Path::new("/sys/module/kvm_pvm").exists() {
        return Some("/dev/kvm is kvm_pvm, which emulates each instruction of a guest".into());
    }
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info
        .lines()
        .find(|l| l.starts_with("flags"))
        .unwrap_or_default();
    let virtualises = flags.split_whitespace().any(|f| f == "vmx" || f == "svm");
    (!virtualises).then(|| "the CPU shows neither vmx nor svm".into())
}

/// Prepares the place: native if the machine can and nothing asks for the nested host.
///
/// # Errors
/// As [`nested::prepare`].
pub(crate) fn prepare(args: &HostArgs) -> Result<Place> {
    let asked = args.icount
        || args.host_kernel.is_some()
        || args.cpus.is_some()
        || args.mock_pmu.is_some()
        || args.debian
        || args.host != HostKind::Amd;
    let Some(reason) = no_native_guests()
        .filter(|_| !asked)
        .or(asked.then(|| "an option of the nested host is given".to_owned()))
    else {
        return Ok(Place::Native(Native::prepare(args)?));
    };
    say!("using the nested host: {reason}");
    Ok(Place::Nested(nested::prepare(args)?))
}

impl Place {
    /// The kind of host in a few words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Native(_) => "this machine's /dev/kvm".into(),
            Self::Nested(host) => host.describe(),
        }
    }

    /// Where a file of `/images` is there.
    ///
    /// # Errors
    /// If there is no kernel of that name.
    pub(crate) fn image(&self, name: &str) -> Result<String> {
        match self {
            Self::Nested(_) => Ok(format!("/images/{name}")),
            Self::Native(native) => native.image(name),
        }
    }

    /// As [`Self::run`], and again, at most twice, if the host dies: the emulation kills
    /// one now and then.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn run_on_a_host_that_lives(
        &self,
        job: &Job,
        sink: &mut dyn FnMut(Stream, &[u8]),
        again: &mut dyn FnMut(),
    ) -> Result<Ended> {
        const MORE: u32 = 2;
        for attempt in 1..=MORE {
            match self.run(job, sink)? {
                Ended::HostDied => say!("once more, on a fresh host ({attempt} of {MORE})"),
                ended => return Ok(ended),
            }
            again();
        }
        self.run(job, sink)
    }

    /// Runs a shell line in which `perfvisor` is in PATH.
    ///
    /// # Errors
    /// If the host or the shell does not start.
    pub(crate) fn run(&self, job: &Job, sink: &mut dyn FnMut(Stream, &[u8])) -> Result<Ended> {
        match self {
            Self::Nested(host) => host.run(job, sink),
            Self::Native(native) => native.run(job, sink),
        }
    }

    /// Where a file of the job named `images/<name>` will be.
    pub(crate) fn job_file(&self, name: &str) -> String {
        match self {
            Self::Nested(_) => format!("/images/{name}"),
            Self::Native(native) => native.run_dir().join(name).display().to_string(),
        }
    }
}

impl Native {
    fn prepare(args: &HostArgs) -> Result<Self> {
        let share_bytes = images::share(args.share.as_deref())?;
        let _alone = setup::alone()?;
        setup::tools()?;
        let kernels = kernels::some(&args.kernels)?;
        let mut native = Self {
            guest: images::guest(&kernels)?,
            kernels,
            perfvisor: match &args.perfvisor {
                Some(file) => file.clone(),
                None => programs::perfvisor(&args.profile)?,
            },
            share: PathBuf::new(),
            timeout: args.timeout,
        };
        let dir = native.run_dir();
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let share = dir.join("share.cpio");
        fs::write(&share, share_bytes)?;
        native.share = share;
        Ok(native)
    }

    fn run_dir(&self) -> PathBuf {
        paths::target()
            .join("xtask/run")
            .join(format!("{}-native", std::process::id()))
    }

    fn image(&self, name: &str) -> Result<String> {
        let path = match name.split_once('-') {
            Some((kind, series)) => nested::pick(&self.kernels, "--guest-kernel", series)?
                .dir
                .join(kind),
            None if name == "share.cpio" => self.share.clone(),
            None => self.guest.clone(),
        };
        Ok(path.display().to_string())
    }

    fn run(&self, job: &Job, sink: &mut dyn FnMut(Stream, &[u8])) -> Result<Ended> {
        for (name, data) in &job.files {
            let last = Path::new(name)
                .file_name()
                .ok_or_else(|| anyhow!("no name: {name}"))?;
            fs::write(self.run_dir().join(last), data)?;
        }
        let mut path = self
            .perfvisor
            .parent()
            .unwrap_or(Path::new("."))
            .as_os_str()
            .to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        if job.interactive {
            // perfvisor looks after the terminal, which is its own: nothing comes between.
            let mut shell = Command::new("sh");
            let shell = shell.args(["-c", &job.line]).env("PATH", path);
            if !io::stdin().is_terminal() {
                shell.stdin(Stdio::piped());
            }
            let mut shell = shell.spawn().context("cannot start the shell")?;
            if let Some(stdin) = shell.stdin.take() {
                keyboard::feed(stdin);
            }
            return reap(shell);
        }
        let (output, output_in) = io::pipe()?;
        let (error, error_in) = io::pipe()?;
        // Without a limit of its own: it passes our signal on to all that it started.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "timeout", "-k", "10", "0"])
            .args(["sh", "-c", &job.line])
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(output_in)
            .stderr(error_in)
            .spawn()
            .context("cannot start the shell")?;
        let (to, events) = channel();
        let to_error = to.clone();
        thread::spawn(move || stream::read_data(Stream::Output, output, &[], &to));
        thread::spawn(move || stream::read_data(Stream::Error, error, &[], &to_error));
        let limit = job.limit(self.timeout);
        let mut watched = Watched::new(&events, child.id(), job.patience, limit);
        let mut open = 2;
        while open > 0 {
            match watched.next() {
                Ok(Some(Event::Data(stream, bytes))) => sink(stream, &bytes),
                Ok(Some(Event::Closed(_))) => open -= 1,
                Ok(Some(Event::Control(_) | Event::Quit)) => {}
                Ok(None) => break,
                Err(why) => {
                    say!("the job was ended: {why}");
                    cmd::run(Command::new("kill").arg(child.id().to_string()))?;
                    reap(child)?;
                    return Ok(Ended::GivenUp(why));
                }
            }
        }
        reap(child)
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        if self.share.is_file() {
            let _removed = fs::remove_dir_all(self.run_dir());
        }
    }
}

fn reap(mut child: Child) -> Result<Ended> {
    let status = child.wait().context("cannot wait for the shell")?;
    Ok(match status.code().and_then(|c| u8::try_from(c).ok()) {
        Some(code) => Ended::Exit(code),
        None => Ended::HostDied,
    })
}
