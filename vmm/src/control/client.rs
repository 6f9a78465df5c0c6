//! The client: one request to a VMM, with blocking I/O.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use httparse::{EMPTY_HEADER, Status};
use thiserror::Error;

use crate::sys::socket_file;

/// How long the whole exchange may take: longer than 64 clients that say
/// nothing, and than vCPUs that do not answer, hold the server up.
const TIME: Duration = Duration::from_secs(20);
/// The route of `perfvisor ctl snapshot`.
pub(super) const SNAPSHOT: &str = "/snapshot";
/// The longest answer, bytes.
const MAX_ANSWER: usize = 16 << 20;

/// The reason why a request got no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody serves the socket.
    #[error(
        "cannot reach a VMM at {path}; use the --api-socket path of a running perfvisor run, as the same user"
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// The connection ended before the whole answer arrived.
    #[error("the VMM at {path} ended in the middle of its answer")]
    BrokenOff {
        /// The socket.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// The answer is not one of a VMM.
    #[error(
        "the process at {path} does not answer as perfvisor does; use the --api-socket path of a running perfvisor run"
    )]
    NoHttp {
        /// The socket.
        path: PathBuf,
    },
    /// The VMM refused the request; the field is its reason.
    #[error("{0}")]
    Refused(String),
}

/// Sends one request; returns the body of an answer that is a success.
///
/// # Errors
/// [`ClientError`]
pub(super) fn request(
    path: &Path,
    method: &str,
    route: &str,
    body: &str,
) -> Result<String, ClientError> {
    let unreachable = |source| ClientError::Unreachable {
        path: path.to_owned(),
        source,
    };
    let stream = socket_file::connect(path, TIME).map_err(unreachable)?;
    let answer =
        exchange(stream, method, route, body).map_err(|source| ClientError::BrokenOff {
            path: path.to_owned(),
            source,
        })?;
    match parse(&answer) {
        Some((200..=299, body)) => Ok(body.to_owned()),
        Some((_, body)) => Err(ClientError::Refused(error_of(body))),
        None => Err(ClientError::NoHttp {
            path: path.to_owned(),
        }),
    }
}

/// How long an answer may take. A snapshot takes as long as the disk needs for the guest's
/// memory.
fn answer_time(route: &str) -> Duration {
    const SNAPSHOT_TIME: Duration = Duration::from_secs(3600);
    if route == SNAPSHOT {
        SNAPSHOT_TIME
    } else {
        TIME
    }
}

fn exchange(mut stream: UnixStream, method: &str, route: &str, body: &str) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + answer_time(route);
    stream.set_write_timeout(Some(TIME))?;
    let head = format!(
        "{method} {route} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // A server that refused already does not read on; it has said why.
    match stream.write_all(format!("{head}{body}").as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error),
        _ => {}
    }
    let (mut answer, mut chunk) = (Vec::new(), [0; 16 << 10]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || answer.len() > MAX_ANSWER {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(read) => answer.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(ErrorKind::TimedOut.into());
            }
            // The end of a server that did not read all of the request.
            Err(error) if error.kind() == ErrorKind::ConnectionReset && !answer.is_empty() => {
                return Ok(answer);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Status and body of a whole answer.
fn parse(answer: &[u8]) -> Option<(u16, &str)> {
    let mut headers = [EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(Status::Complete(body_at)) = response.parse(answer) else {
        return None;
    };
    let status = response.code?;
    let len = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    let len: usize = std::str::from_utf8(len.value).ok()?.parse().ok()?;
    let body = answer.get(body_at..body_at.checked_add(len)?)?;
    Some((status, std::str::from_utf8(body).ok()?))
}

/// The text of an error body.
fn error_of(body: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    match json.get("error").and_then(serde_json::Value::as_str) {
        Some(text) => text.to_owned(),
        None => format!("the VMM said no: {body}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_the_time_that_its_disk_needs() {
        assert_eq!(answer_time("/info"), TIME);
        assert!(answer_time(SNAPSHOT) > 100 * TIME);
    }

    #[test]
    fn only_a_whole_answer_is_one() {
        let text = b"HTTP/1.1 404 Not Found\r\ncontent-length: 15\r\n\r\n{\"error\":\"no!\"}";
        assert_eq!(parse(text), Some((404, "{\"error\":\"no!\"}")));
        for len in 0..text.len() {
            assert_eq!(parse(&text[..len]), None, "{len}");
        }
        assert_eq!(error_of("{\"error\":\"no!\"}"), "no!");
        assert_eq!(error_of("<html>"), "the VMM said no: <html>");
    }
}
