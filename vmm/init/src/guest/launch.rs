//! The program that becomes the command.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;
use std::{env, io};

use guest_words::Job;
use rustix::fs::Mode;
use rustix::process::{Gid, Resource, Rlimit, Uid, getpgrp, setrlimit, umask};
use rustix::{termios, thread as task};

use super::kept_job;
use crate::{Failure, failed};

/// A shell's statuses for a command that cannot be started.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// The status for a guest that could not be set up.
const SET_UP: u8 = 125;

/// Takes the job's user, folder and terminal, and becomes its command.
pub(crate) fn launch() -> ExitCode {
    let (program, error) = match prepare() {
        Ok(mut command) => {
            let program = command.get_program().to_owned();
            (program, command.exec())
        }
        Err(failure) => {
            eprintln!("perfvisor: {failure}");
            return SET_UP.into();
        }
    };
    eprintln!("perfvisor: cannot run {}: {error}", program.display());
    match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND.into(),
        _ => NOT_EXECUTABLE.into(),
    }
}

fn prepare() -> Result<Command, Failure> {
    let job = kept_job()?;
    if job.terminal.is_some() {
        wait_for_terminal()?;
    }
    raise_open_files();
    take_user(&job).map_err(failed("take the user's identity"))?;
    let folder = &job.directory;
    env::set_current_dir(folder).map_err(failed(format_args!(
        "enter the folder {}",
        folder.display()
    )))?;
    umask(Mode::from_raw_mode(job.umask & 0o777));
    let mut words = job.command.iter();
    let program = words.next().ok_or("the job has no command")?;
    let mut command = Command::new(program);
    command.args(words).env_clear();
    for variable in &job.environment {
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(variable.as_os_str());
        let Some(at) = bytes.iter().position(|&byte| byte == b'=') else {
            continue;
        };
        let (name, value) = bytes.split_at(at);
        command.env(
            <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name),
            <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(
                value.get(1..).unwrap_or_default(),
            ),
        );
    }
    Ok(command)
}

/// The leader gives the terminal to this process group; before that, it may not be read.
fn wait_for_terminal() -> Result<(), Failure> {
    let own = getpgrp();
    let stdin = io::stdin();
    loop {
        let front = termios::tcgetpgrp(&stdin).map_err(failed("use the terminal"))?;
        if front == own {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Many events are many files; the kernel's own limit is 4096.
fn raise_open_files() {
    let limit = Rlimit {
        current: Some(1024),
        maximum: Some(1 << 20),
    };
    let _refused = setrlimit(Resource::Nofile, limit);
}

/// Only this thread has the identity; the command inherits it.
fn take_user(job: &Job) -> rustix::io::Result<()> {
    let user = &job.credentials;
    let groups: Vec<Gid> = user
        .groups
        .iter()
        .map(|group| Gid::from_raw(*group))
        .collect();
    task::set_thread_groups(&groups)?;
    let gid = Gid::from_raw(user.gid);
    task::set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(user.uid);
    task::set_thread_res_uid(uid, uid, uid)
}
