//! One end of a stream of bytes of the host: a pipe, a socket, a terminal, a file.
//! Reads and writes never wait, and other owners of the same stream notice nothing.
#![expect(unsafe_code, reason = "fcntl, recv and send have no safe binding")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamUse {
    /// It is read.
    Read,
    /// It is written.
    Write,
}

/// A stream whose reads and writes return `WouldBlock` instead of waiting.
#[derive(Debug)]
pub struct Stream {
    file: File,
    form: StreamForm,
}

/// How a call on the stream is kept from waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamForm {
    /// A flag of each call: the socket may be shared with other processes.
    Socket,
    /// A flag of the open file, which is ours alone.
    Own,
    /// A flag of the open file, which others share: taken back at the end.
    Shared,
    /// Nothing: a regular file is always ready.
    Always,
}

impl Stream {
    /// Takes a descriptor that is open for this use.
    ///
    /// A pipe and a terminal are opened a second time, so that the other owners of the
    /// descriptor keep a stream that waits. A terminal of another user cannot be opened
    /// again: its flag is set and is taken back at the end.
    ///
    /// # Errors
    /// If the host does not tell what the descriptor is, or takes no flag for it.
    pub fn new(fd: OwnedFd, usage: StreamUse) -> io::Result<Self> {
        let file = File::from(fd);
        let kind = file.metadata()?.file_type();
        if kind.is_socket() {
            let form = StreamForm::Socket;
            return Ok(Self { file, form });
        }
        if !kind.is_fifo() && !kind.is_char_device() {
            let form = StreamForm::Always;
            return Ok(Self { file, form });
        }
        let flags = status_flags(&file)?;
        if flags & libc::O_NONBLOCK != 0 {
            let form = StreamForm::Own;
            return Ok(Self { file, form });
        }
        let again = OpenOptions::new()
            .read(usage == StreamUse::Read)
            .write(usage == StreamUse::Write)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        if let Ok(file) = again {
            let form = StreamForm::Own;
            return Ok(Self { file, form });
        }
        set_status_flags(&file, flags | libc::O_NONBLOCK)?;
        let form = StreamForm::Shared;
        Ok(Self { file, form })
    }

    /// Reads bytes that are there; 0 at the end.
    ///
    /// # Errors
    /// `WouldBlock` if there are none yet; what `read` or `recv` says.
    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        if self.form != StreamForm::Socket {
            return (&self.file).read(into);
        }
        // SAFETY: the buffer is valid for writes of its length.
        let result = unsafe {
            libc::recv(
                self.file.as_raw_fd(),
                into.as_mut_ptr().cast(),
                into.len(),
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// Writes as many bytes as there is room for.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room; what `write` or `send` says.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.form != StreamForm::Socket {
            return (&self.file).write(bytes);
        }
        // SAFETY: the buffer is valid for reads of its length.
        let result = unsafe {
            libc::send(
                self.file.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.form == StreamForm::Shared
            && let Ok(flags) = status_flags(&self.file)
        {
            // Nobody is left to tell; the next owner of the terminal sets its own flags.
            drop(set_status_flags(&self.file, flags & !libc::O_NONBLOCK));
        }
    }
}

fn status_flags(file: &File) -> io::Result<i32> {
    // SAFETY: the descriptor is open, and the command takes nothing.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(flags)
}

fn set_status_flags(file: &File, flags: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the command takes a number.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_pipe_never_waits_and_its_other_owners_do() {
        let (reader, writer) = io::pipe().unwrap();
        let shared = OwnedFd::from(reader.try_clone().unwrap());
        let stream = Stream::new(shared, StreamUse::Read).unwrap();
        let mut buffer = [0; 8];
        let error = stream.read(&mut buffer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let other = File::from(OwnedFd::from(reader));
        assert_eq!(status_flags(&other).unwrap() & libc::O_NONBLOCK, 0);
        let out = Stream::new(writer.into(), StreamUse::Write).unwrap();
        assert_eq!(out.write(b"abc").unwrap(), 3);
        assert_eq!(stream.read(&mut buffer).unwrap(), 3);
        drop(out);
        assert_eq!(stream.read(&mut buffer).unwrap(), 0);
    }

    #[test]
    fn a_socket_never_waits_and_its_flags_stay() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let kept = File::from(OwnedFd::from(ours.try_clone().unwrap()));
        let stream = Stream::new(ours.into(), StreamUse::Write).unwrap();
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let full = loop {
            match stream.write(&[0; 4096]) {
                Ok(_) => {}
                Err(error) => break error.kind(),
            }
        };
        assert_eq!(full, ErrorKind::WouldBlock);
        assert_eq!(status_flags(&kept).unwrap() & libc::O_NONBLOCK, 0);
        drop(theirs);
        let gone = stream.write(&[0]).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::BrokenPipe);
    }
}
