//! A backend's process, and the last that it said.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::rate_limit::RateLimit;
use crate::sys::child;
use crate::sys::signals;

/// How many lines of standard error are kept.
const KEPT_LINES: usize = 4;
/// The longest part of a line that is kept, in bytes.
const LINE_BYTES: u64 = 512;
/// How often it is looked whether a process has ended.
const LOOK: Duration = Duration::from_millis(5);

/// The last lines of a program's standard error.
#[derive(Clone, Debug, Default)]
struct LastWords {
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl LastWords {
    fn lock(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until nobody can write any more: a program whose standard error nobody
    /// reads would stand still.
    fn read(&self, program: &str, stderr: ChildStderr) {
        let limit = RateLimit::new();
        let mut reader = BufReader::new(stderr);
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader
                .by_ref()
                .take(LINE_BYTES)
                .read_until(b'\n', &mut line)
            {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line);
            let text: String = text.trim().chars().filter(|c| !c.is_control()).collect();
            if text.is_empty() {
                continue;
            }
            // A guest can make a backend complain.
            if let Some(swallowed) = limit.allow() {
                log::debug!("{program}: {text}{swallowed}");
            }
            let mut lines = self.lock();
            if lines.len() == KEPT_LINES {
                lines.pop_front();
            }
            lines.push_back(text);
        }
    }
}

/// A backend that we started. Dropped, it is killed, waited for, and gone.
#[derive(Debug)]
pub struct BackendProcess {
    program: &'static str,
    child: Child,
    words: LastWords,
    reader: Option<thread::JoinHandle<()>>,
}

impl BackendProcess {
    /// Starts a program that serves `socket`, which it inherits under the same number.
    /// The calling thread must live as long as the VM (see [`child::tie_to_us`]).
    ///
    /// # Errors
    /// If the host does not start it.
    pub fn start(
        program: &'static str,
        mut command: Command,
        socket: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        child::tie_to_us(&mut command, Some(socket));
        let mut process = Self {
            program,
            child: command.spawn()?,
            words: LastWords::default(),
            reader: None,
        };
        if let Some(stderr) = process.child.stderr.take() {
            let words = process.words.clone();
            let reader = signals::start_thread(|| {
                thread::Builder::new()
                    .name(program.to_owned())
                    .spawn(move || words.read(program, stderr))
            })?;
            process.reader = Some(reader);
        }
        Ok(process)
    }

    /// The process, for messages: "virtiofsd (process 12)".
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} (process {})", self.program, self.child.id())
    }

    /// Why it is no use any more, as the end of a sentence that begins with its name;
    /// waits for its end up to `time`.
    pub fn obituary(&mut self, time: Duration) -> String {
        let end = Instant::now() + time;
        let status = loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < end => thread::sleep(LOOK),
                Ok(status) => break status,
                Err(_) => break None,
            }
        };
        let mut text = match status {
            None => "closed its socket".to_owned(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with status {code}"),
                (None, Some(signal)) => format!("was killed by signal {signal}"),
                (None, None) => "ended".to_owned(),
            },
        };
        // The lines before its end may still be in the pipe.
        if status.is_some() {
            while Instant::now() < end && self.reader.as_ref().is_some_and(|r| !r.is_finished()) {
                thread::sleep(LOOK);
            }
        }
        let lines: Vec<_> = self.words.lock().iter().cloned().collect();
        if !lines.is_empty() {
            text.push_str(": ");
            text.push_str(&lines.join(" / "));
        }
        text
    }

    #[cfg(test)]
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for BackendProcess {
    fn drop(&mut self) {
        child::kill_group(&mut self.child);
        // Ends with the last writer. One that left the group may hold the pipe: the
        // thread is not waited for.
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use super::*;

    fn shell(script: &str) -> (BackendProcess, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let process = BackendProcess::start("shell", command, theirs.as_fd()).unwrap();
        (process, ours)
    }

    #[test]
    fn the_end_of_a_backend_is_told_with_its_last_lines() {
        let time = Duration::from_secs(60);
        let script = "for n in 1 2 3 4 5; do echo line $n >&2; done; exit 3";
        let told = shell(script).0.obituary(time);
        assert_eq!(
            told,
            "ended with status 3: line 2 / line 3 / line 4 / line 5"
        );
        let told = shell("kill -9 $$").0.obituary(time);
        assert_eq!(told, "was killed by signal 9");
        let told = shell("sleep 1000").0.obituary(Duration::ZERO);
        assert_eq!(told, "closed its socket");
    }

    /// Standard error of any size, with lines of any length, neither stops the program
    /// nor fills our memory.
    #[test]
    fn a_flood_on_standard_error_stops_nobody() {
        let flood = "head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 0";
        let told = shell(flood).0.obituary(Duration::from_secs(60));
        assert!(told.starts_with("ended with status 0: x"), "{told}");
        assert!(told.len() < 4096, "{}", told.len());
    }

    #[test]
    fn a_dropped_backend_is_gone_with_its_children() {
        let (process, mut ours) = shell("sleep 1000 & sleep 1000");
        let id = process.id();
        assert!(Path::new(&format!("/proc/{id}")).exists());
        drop(process);
        assert!(!Path::new(&format!("/proc/{id}")).exists(), "waited for");
        // Its child held the socket as well.
        ours.read_to_end(&mut Vec::new()).unwrap();
    }
}
