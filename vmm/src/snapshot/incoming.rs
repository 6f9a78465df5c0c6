//! The destination of a migration: who sends the VM, and what is said to him.

use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use thiserror::Error;

use super::stream::{self, StreamError, StreamHello, StreamRecord};
use crate::sys::socket_file::{SocketError, SocketFile};

/// What names the socket.
const INCOMING_SOCKET: &str = "--incoming: socket";
/// How long the source may say nothing. It sends without a break while it copies.
const SILENCE: Duration = Duration::from_secs(60);

/// The reason why no VM comes.
#[derive(Debug, Error)]
pub enum IncomingError {
    /// The socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// What comes cannot be used.
    #[error("--incoming")]
    Stream(#[from] StreamError),
}

/// The source of a VM, to whom something is to be said.
#[derive(Debug)]
pub struct IncomingPeer {
    stream: UnixStream,
    paused: AtomicBool,
}

impl IncomingPeer {
    /// Whether the guest was paused there.
    #[must_use]
    pub fn was_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Says that the guest runs here: the source ends. Say it right before.
    ///
    /// # Errors
    /// If the source has given up: the guest runs there.
    pub fn say_runs(&self) -> Result<(), IncomingError> {
        let said = stream::write_runs(&mut &self.stream);
        said.map_err(|error| IncomingError::Stream(error.into()))
    }

    /// Says why the guest does not run here.
    pub fn say_refusal(&self, reason: &str) {
        if let Err(error) = stream::write_refusal(&mut &self.stream, reason) {
            log::debug!("--incoming: the source does not hear why: {error}");
        }
    }
}

/// A VM that comes.
#[derive(Debug)]
pub struct IncomingVm {
    /// The socket.
    pub path: PathBuf,
    /// What came first.
    pub hello: StreamHello,
    peer: Arc<IncomingPeer>,
    from: BufReader<UnixStream>,
}

impl IncomingVm {
    /// Waits at a socket, which only its owner can use, until a VM comes. The socket goes
    /// when it does.
    ///
    /// # Errors
    /// If the socket cannot be made, or something else comes.
    pub fn wait(path: &Path) -> Result<Self, IncomingError> {
        let io = |error| IncomingError::Stream(StreamError::Io(error));
        let socket = SocketFile::bind(INCOMING_SOCKET, path)?;
        let listener = socket.listener();
        listener.set_nonblocking(false).map_err(io)?;
        log::info!("--incoming: waiting at {}", path.display());
        let (stream, _) = listener.accept().map_err(io)?;
        drop(socket);
        stream.set_nonblocking(false).map_err(io)?;
        stream.set_read_timeout(Some(SILENCE)).map_err(io)?;
        stream.set_write_timeout(Some(SILENCE)).map_err(io)?;
        let peer = Arc::new(IncomingPeer {
            stream: stream.try_clone().map_err(io)?,
            paused: AtomicBool::new(false),
        });
        let mut from = BufReader::with_capacity(1 << 20, stream);
        let hello = stream::read_hello(&mut from);
        let hello = hello.inspect_err(|error| peer.say_refusal(&error.to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            hello,
            peer,
            from,
        })
    }

    /// Who sends it.
    #[must_use]
    pub fn peer(&self) -> Arc<IncomingPeer> {
        Arc::clone(&self.peer)
    }

    /// The next record of a VM with so many pages.
    ///
    /// # Errors
    /// If it cannot be used, or the connection ends.
    pub fn record(
        &mut self,
        pages: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<StreamRecord, StreamError> {
        let record = stream::read_record(&mut self.from, pages, buffer)?;
        if let StreamRecord::State(_, true) = record {
            self.peer.paused.store(true, Ordering::Relaxed);
        }
        Ok(record)
    }
}
