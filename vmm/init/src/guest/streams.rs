//! Bytes between virtio ports and the command.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};

use rustix::event::{PollFd, PollFlags, poll};

/// Bytes at a time: what a pipe holds.
const CHUNK: usize = 64 << 10;

/// From a port to the command, until the host's end, or until nobody reads any more.
pub(super) fn feed(port: &File, mut to: impl Write) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match read(port, &mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(len) => {
                if to.write_all(chunk.get(..len).unwrap_or_default()).is_err() {
                    return;
                }
            }
        }
    }
}

/// From the command to a port, until the command's end, or until nobody on the host reads
/// any more: the command's next write fails then.
pub(super) fn drain(mut from: impl Read, port: &File) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A pseudo-terminal without users reads as EIO.
            Ok(0) | Err(_) => return,
            Ok(len) => {
                if write_all(port, chunk.get(..len).unwrap_or_default()).is_err() {
                    return;
                }
            }
        }
    }
}

/// Reads from a port, waiting.
fn read(mut port: &File, chunk: &mut [u8]) -> io::Result<usize> {
    loop {
        match port.read(chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait(port, PollFlags::IN)?;
            }
            done => return done,
        }
    }
}

/// Writes to a port, waiting; fails when the host has closed it.
pub(super) fn write_all(mut port: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match port.write(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if wait(port, PollFlags::OUT)?.contains(PollFlags::HUP) {
                    return Err(ErrorKind::BrokenPipe.into());
                }
            }
            Err(error) => return Err(error),
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// Waits until a port can be read or written, or is closed.
fn wait(port: &File, events: PollFlags) -> io::Result<PollFlags> {
    let mut fds = [PollFd::new(port, events)];
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(fds
        .iter()
        .fold(PollFlags::empty(), |all, fd| all | fd.revents()))
}

/// A port as a blocking source.
#[derive(Debug)]
pub(super) struct PortReader(pub(super) File);

impl Read for PortReader {
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        read(&self.0, chunk)
    }
}
