//! Lines on standard error, by a thread of its own: a reader that does not read holds
//! up nobody, and a standard error that cannot be written is no reason to panic.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Duration;

use super::OutputQueue;

/// Bytes that wait for the reader; lines beyond that are lost.
const LIMIT: usize = 64 << 10;
/// How long the end of the process waits for the last lines' reader.
const LAST_LINES: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<OutputQueue> = OnceLock::new();

/// From here on, lines go by a thread. Without, as before and where there is no
/// thread to be had, they are written at once.
pub fn start() {
    let queue = || {
        let out = io::stderr().as_fd().try_clone_to_owned()?;
        let out = Box::new(std::fs::File::from(out));
        OutputQueue::start("stderr", LIMIT, out, |_, _| {})
    };
    if let Ok(queue) = queue() {
        drop(QUEUE.set(queue));
    }
}

/// Writes a line. Nobody can be told if that fails.
pub fn line(text: &str) {
    write(format!("{text}\n").as_bytes());
}

/// Waits for the reader of the last lines, for a short time only.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        let _all_written = queue.wait_until_empty(LAST_LINES);
    }
}

/// Writes text as it is. Nobody can be told if that fails.
pub fn text(text: &str) {
    write(text.as_bytes());
}

fn write(bytes: &[u8]) {
    match QUEUE.get() {
        // A line is of no use in part.
        Some(queue) if queue.has_room() => drop(queue.push(bytes)),
        Some(_) => {}
        None => drop(io::stderr().write_all(bytes)),
    }
}

/// What the log is written to.
#[derive(Debug)]
pub struct LogLines;

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
