//! Process 1: from the kernel's start to its end.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use guest_words::{FOLDER, JOB, Job};
use rustix::process::{self, Pid, Signal, WaitOptions};
use rustix::system::{self, RebootCommand};

use super::{KEPT_JOB, modules, mounts, network};
use crate::{Failure, complain, failed};

/// Settings of the guest's kernel, which is the command's alone: whoever runs in it may
/// count everything and see the kernel's symbols. A kernel may lack each of them.
const SETTINGS: [(&str, &str); 3] = [
    ("/proc/sys/kernel/perf_event_paranoid", "-1"),
    ("/proc/sys/kernel/kptr_restrict", "0"),
    ("/proc/sys/kernel/perf_event_mlock_kb", "65536"),
];

/// Runs the guest, and powers it off.
pub(crate) fn first_process() -> ExitCode {
    let ended = start().and_then(collect_until);
    if let Err(failure) = ended {
        complain(failure);
    }
    kill_others(&[1]);
    rustix::fs::sync();
    if let Err(error) = system::reboot(RebootCommand::PowerOff) {
        complain(format_args!("cannot power off: {error}"));
    }
    // The end of process 1 is a panic, and panic=-1 a reset.
    ExitCode::FAILURE
}

/// Everything up to the leader's start.
fn start() -> Result<Pid, Failure> {
    mounts::kernel_file_systems("")?;
    let path = format!("{FOLDER}/{JOB}");
    let bytes = fs::read(&path).map_err(failed(format_args!("read {path}")))?;
    let job = Job::parse(&bytes).map_err(failed(format_args!("read {path}")))?;
    modules::load()?;
    mounts::root(&job.shares)?;
    keep(&bytes).map_err(failed("keep the job"))?;
    if let Err(error) = system::sethostname(std::os::unix::ffi::OsStrExt::as_bytes(
        job.host_name.as_os_str(),
    )) {
        complain(format_args!("cannot set the host's name: {error}"));
    }
    for (setting, value) in SETTINGS {
        drop(fs::write(setting, value));
    }
    if let Err(error) = network::loopback() {
        complain(format_args!("cannot start the loopback device: {error}"));
    }
    if job.network {
        network::card()?;
    }
    let leader = Command::new("/proc/self/exe").arg("lead").spawn();
    let leader = leader.map_err(failed("start the leader"))?;
    Ok(Pid::from_child(&leader))
}

/// The job may hold secrets of its caller, in variables.
fn keep(job: &[u8]) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .mode(0o600)
        .open(KEPT_JOB)?;
    std::io::Write::write_all(&mut file, job)
}

/// Collects processes that end, until the leader is one of them.
fn collect_until(leader: Pid) -> Result<(), Failure> {
    loop {
        match process::wait(WaitOptions::empty()) {
            Ok(Some((pid, _))) if pid == leader => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed("wait for processes")(error)),
        }
    }
}

/// Kills all processes but some, until there are no more. Kernel threads cannot be killed.
pub(super) fn kill_others(spared: &[u32]) {
    const ROUNDS: u32 = 100;
    for _ in 0..ROUNDS {
        let mut found = false;
        for pid in processes().filter(|pid| !spared.contains(pid)) {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid {
                found |= process::kill_process(pid, Signal::KILL).is_ok();
            }
        }
        if !found {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Processes that are no kernel threads and not dead: those with a program.
fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok())
}
