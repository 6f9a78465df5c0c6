//! Programs that this process starts and that end with it.
#![expect(unsafe_code, reason = "what a child does between fork and exec")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Has the program end with the thread that starts it (by SIGKILL), be deaf to the
/// signals of our terminal, and inherit `socket` under the number that it has here.
///
/// The descriptor must stay open until the program is started. The thread that starts
/// the program must live as long as the program is needed: `PR_SET_PDEATHSIG` is about
/// the thread and not about the process.
pub fn tie_to_us(command: &mut Command, socket: Option<BorrowedFd<'_>>) {
    let parent = std::process::id();
    let fd = socket.map(|socket| socket.as_raw_fd());
    command.process_group(0);
    // SAFETY: between fork and exec the closure calls only async-signal-safe functions,
    // and allocates nothing.
    unsafe { command.pre_exec(move || prepare(parent, fd)) };
}

/// Runs in the child.
fn prepare(parent: u32, fd: Option<i32>) -> io::Result<()> {
    // SAFETY: the call takes numbers.
    let tied = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if tied < 0 {
        return Err(io::Error::last_os_error());
    }
    if std::os::unix::process::parent_id() != parent {
        // The parent ended before the signal was ordered.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    let Some(fd) = fd else { return Ok(()) };
    // SAFETY: the call takes numbers; the descriptor is a copy in this child alone.
    let kept = unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
    if kept < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Kills the program with all processes of its group ([`tie_to_us`] gave it one), and
/// waits for it. Does nothing to a program that was waited for already.
pub fn kill_group(child: &mut Child) {
    // Who was waited for has no number any more: it may be another process's.
    if let Ok(Some(_)) = child.try_wait() {
        return;
    }
    if let Ok(group) = i32::try_from(child.id()) {
        // SAFETY: the call takes numbers. The child is not waited for, so the number of
        // its group is its own.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    // Already gone, or killed above.
    drop(child.wait());
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_child_has_its_socket_and_its_group() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let fd = theirs.as_raw_fd();
        let mut command = Command::new("sh");
        let script = format!("readlink /proc/$$/fd/{fd}; ps -o pgid= -p $$; sleep 1000");
        command.args(["-c", &script]).stdout(Stdio::piped());
        tie_to_us(&mut command, Some(theirs.as_fd()));
        let mut child = command.spawn().unwrap();
        drop(theirs);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line = || lines.next().unwrap().unwrap();
        assert!(line().starts_with("socket:"));
        assert_eq!(line().trim(), child.id().to_string());
        kill_group(&mut child);
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        // Nobody of the group holds the socket any more.
        ours.read_to_end(&mut Vec::new()).unwrap();
    }

    #[test]
    fn a_child_ends_with_the_thread_that_started_it() {
        let mut child = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("1000");
            tie_to_us(&mut command, None);
            command.spawn().unwrap()
        })
        .join()
        .unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
