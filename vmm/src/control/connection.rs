//! One client: its request, its answer, and the time limit of each.
//!
//! ```text
//!  Reading ──whole request, or refused──▶ Writing ──all sent──▶ closed
//!     │                                      │                    ▲
//!     └──REQUEST_TIME: 408                   └─refused: Draining ─┘
//! ```
//! A client whose request is refused early may still be sending. The server reads
//! and discards the rest for a moment, so that the client can read the answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::http::{HttpRefusal, Parser, Request, Response};

/// How long a client may take to send its request.
pub(super) const REQUEST_TIME: Duration = Duration::from_secs(5);
/// How long a client may take to read its answer.
const RESPONSE_TIME: Duration = Duration::from_secs(5);
/// How long the rest of a refused request is waited for.
const DRAIN_TIME: Duration = Duration::from_secs(1);
/// How much is read at a time.
const CHUNK: usize = 16 << 10;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// Something to read.
    Read,
    /// Room to write.
    Write,
    /// The connection is done and can be closed.
    Close,
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    phase: ConnectionPhase,
    deadline: Instant,
}

#[derive(Debug)]
enum ConnectionPhase {
    Reading(Parser),
    Writing {
        bytes: Vec<u8>,
        sent: usize,
        refused: bool,
    },
    Draining,
}

impl Connection {
    /// A client that has just come.
    ///
    /// # Errors
    /// If its socket cannot be made non-blocking.
    pub(super) fn new(stream: UnixStream, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            phase: ConnectionPhase::Reading(Parser::default()),
            deadline: now + REQUEST_TIME,
        })
    }

    /// The time at which the connection is closed if the client has not acted.
    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How many bytes of a request it keeps room for.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) const fn held(&self) -> usize {
        match &self.phase {
            ConnectionPhase::Reading(parser) => parser.held(),
            ConnectionPhase::Writing { .. } | ConnectionPhase::Draining => 0,
        }
    }

    /// Goes on as far as it can without waiting. `serve` answers a whole
    /// request.
    pub(super) fn ready(&mut self, serve: &mut dyn FnMut(&Request) -> Response) -> Wants {
        let outcome = match self.phase {
            ConnectionPhase::Reading(_) => self.read(serve),
            ConnectionPhase::Writing { .. } => self.write(),
            ConnectionPhase::Draining => self.drain(),
        };
        // A client that went away is nobody's trouble.
        outcome.unwrap_or(Wants::Close)
    }

    /// Its time is over. One that has not sent its request is told so, if it
    /// listens.
    pub(super) fn expire(&mut self) {
        if let ConnectionPhase::Reading(_) = self.phase {
            let why = format!(
                "the request was not complete within {} s",
                REQUEST_TIME.as_secs()
            );
            self.answer(&HttpRefusal::new(408, why).into(), false);
            drop(self.write());
        }
    }

    fn read(&mut self, serve: &mut dyn FnMut(&Request) -> Response) -> io::Result<Wants> {
        let mut chunk = [0; CHUNK];
        loop {
            let ConnectionPhase::Reading(parser) = &mut self.phase else {
                return self.write();
            };
            let read = match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(Wants::Close),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Wants::Read),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match parser.push(chunk.get(..read).unwrap_or_default()) {
                Ok(None) => {}
                Ok(Some(request)) => self.answer(&serve(&request), false),
                Err(refusal) => self.answer(&refusal.into(), true),
            }
        }
    }

    fn answer(&mut self, response: &Response, refused: bool) {
        self.phase = ConnectionPhase::Writing {
            bytes: response.to_bytes(),
            sent: 0,
            refused,
        };
        self.deadline = Instant::now() + RESPONSE_TIME;
    }

    fn write(&mut self) -> io::Result<Wants> {
        let ConnectionPhase::Writing {
            bytes,
            sent,
            refused,
        } = &mut self.phase
        else {
            return Ok(Wants::Close);
        };
        while let Some(rest) = bytes.get(*sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Ok(Wants::Close),
                Ok(written) => *sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Wants::Write),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if !*refused {
            return Ok(Wants::Close);
        }
        self.stream.shutdown(Shutdown::Write)?;
        self.phase = ConnectionPhase::Draining;
        self.deadline = Instant::now() + DRAIN_TIME;
        self.drain()
    }

    /// Throws away one chunk at a time: the level-triggered loop comes again.
    fn drain(&mut self) -> io::Result<Wants> {
        let mut chunk = [0; CHUNK];
        match self.stream.read(&mut chunk) {
            Ok(0) => Ok(Wants::Close),
            Ok(_) => Ok(Wants::Read),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Wants::Read),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Wants::Read),
            Err(error) => Err(error),
        }
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(_: &Request) -> Response {
        Response::json(200, &"fine")
    }

    fn pair() -> (UnixStream, Connection) {
        let (client, server) = UnixStream::pair().unwrap();
        (client, Connection::new(server, Instant::now()).unwrap())
    }

    fn status(client: &mut UnixStream) -> String {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text.lines().next().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_request_in_pieces_is_served_once() {
        let (mut client, mut connection) = pair();
        let mut served = 0;
        let mut serve = |request: &Request| {
            served += 1;
            ok(request)
        };
        client.write_all(b"GET /info HTT").unwrap();
        assert_eq!(connection.ready(&mut serve), Wants::Read);
        client
            .write_all(b"P/1.1\r\n\r\nGET /info HTTP/1.1\r\n\r\n")
            .unwrap();
        assert_eq!(connection.ready(&mut serve), Wants::Close);
        assert_eq!(served, 1);
    }

    #[test]
    fn a_client_that_never_reads_only_waits() {
        let (client, mut connection) = pair();
        (&client).write_all(b"GET /info HTTP/1.1\r\n\r\n").unwrap();
        let large = "x".repeat(4 << 20);
        let mut serve = |_: &Request| Response::json(200, &large);
        assert_eq!(connection.ready(&mut serve), Wants::Write);
        assert_eq!(connection.ready(&mut serve), Wants::Write);
        assert!(connection.deadline() <= Instant::now() + RESPONSE_TIME);
        drop(client);
        assert_eq!(connection.ready(&mut serve), Wants::Close);
    }

    #[test]
    fn a_refused_sender_gets_to_read_why() {
        let (mut client, mut connection) = pair();
        client
            .write_all(b"PUT /pause HTTP/1.1\r\nContent-Length: 70000\r\n\r\n")
            .unwrap();
        assert_eq!(connection.ready(&mut ok), Wants::Read);
        client.write_all(&[b'x'; 20_000]).unwrap();
        while connection.ready(&mut ok) == Wants::Read {
            drop(client.shutdown(Shutdown::Write));
        }
        assert_eq!(status(&mut client), "HTTP/1.1 413 Content Too Large");
    }

    #[test]
    fn a_client_that_never_asks_is_told_so() {
        let (mut client, mut connection) = pair();
        client.write_all(b"GET /in").unwrap();
        assert_eq!(connection.ready(&mut ok), Wants::Read);
        connection.expire();
        drop(connection);
        assert_eq!(status(&mut client), "HTTP/1.1 408 Request Timeout");
    }
}
