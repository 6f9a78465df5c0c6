//! A client that sends any bytes in any pieces. The fuzz target `http` calls
//! [`http`], as does a test, with each seed.
//!
//! Behind the API is a machine without vCPUs: every route is there, and nothing
//! needs KVM.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::connection::{Connection, Wants};
use super::http::{MAX_BODY, MAX_HEAD, Request};
use super::routes;
use super::vm::{VmControl, VmFacts};
use crate::fuzz_input::FuzzInput;
use crate::machine::MachineControl;
use crate::pmu::monitors::VmMonitors;

/// The most bytes of a request that a connection may hold: the largest request,
/// what one more read adds, and the spare room of a growing vector.
const MOST_HELD: usize = 2 * (MAX_HEAD + MAX_BODY + (16 << 10));
/// The longest text between two pieces that are repeated.
const MOST_SENT: usize = 256 << 10;

/// How a client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It waits until the server gives up.
    Waits,
    /// It says that no more comes.
    ShutsDown,
    /// It goes away without reading.
    GoesAway,
}

/// Has a client say what the bytes say: each request on a connection of its own.
///
/// # Panics
/// If the API does not do as it promises.
#[expect(clippy::unwrap_used, reason = "a check")]
pub fn http(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    let mut vm = vm().unwrap();
    while !input.is_empty() {
        let end = match input.byte() % 4 {
            0 => End::GoesAway,
            1 => End::Waits,
            _ => End::ShutsDown,
        };
        let pieces = pieces(&mut input);
        let said = converse(&mut vm, &pieces, end);
        let whole = converse(&mut self::vm().unwrap(), &[pieces.concat()], end);
        if end != End::GoesAway {
            let kinds = [&said, &whole].map(Conversation::kind);
            assert_eq!(kinds[0], kinds[1], "in pieces, and at once: {pieces:x?}");
        }
        assert_eq!(said.requests, whole.requests, "{pieces:x?}");
        if vm.is_ending() {
            vm = self::vm().unwrap();
        }
    }
}

fn vm() -> Option<VmControl> {
    let facts = VmFacts {
        memory_bytes: 1 << 30,
        kernel: "vmlinuz".into(),
        pmu_backing: Some("the clock".to_owned()),
        ended: Default::default(),
        uncore: None,
        monitors: Some(VmMonitors::default().into()),
    };
    Some(VmControl::new(facts, MachineControl::without_vcpus().ok()?))
}

/// Pieces, each with its length and how often it comes; a length of 0 ends the
/// request.
fn pieces(input: &mut FuzzInput<'_>) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut sent = 0;
    while !input.is_empty() {
        let len = usize::from(input.byte());
        if len == 0 {
            break;
        }
        let often = if len & 0x80 == 0 {
            1
        } else {
            usize::from(input.byte()) * 8
        };
        let piece = input.take(len & 0x7f).repeat(often);
        sent += piece.len();
        if sent > MOST_SENT {
            break;
        }
        pieces.push(piece);
    }
    pieces
}

/// What came of a connection.
#[derive(Debug)]
struct Conversation {
    requests: Vec<Request>,
    answer: Vec<u8>,
}

/// What a client learns, apart from its words.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Closed,
    Refused,
    Served,
}

impl Conversation {
    fn kind(&self) -> Kind {
        match (self.answer.is_empty(), self.requests.is_empty()) {
            (true, _) => Kind::Closed,
            (false, true) => Kind::Refused,
            (false, false) => Kind::Served,
        }
    }
}

/// Sends the pieces and reads what comes, until the connection ends.
#[expect(clippy::unwrap_used, reason = "a check")]
fn converse(vm: &mut VmControl, pieces: &[Vec<u8>], end: End) -> Conversation {
    let (client, server) = UnixStream::pair().unwrap();
    client.set_nonblocking(true).unwrap();
    let mut talk = Talk {
        connection: Connection::new(server, Instant::now()).unwrap(),
        client: Some(client),
        wants: Wants::Read,
        said: Conversation {
            requests: Vec::new(),
            answer: Vec::new(),
        },
    };
    for piece in pieces {
        talk.send(vm, piece);
    }
    match end {
        End::GoesAway => talk.client = None,
        End::ShutsDown => drop(talk.client.as_ref().map(|c| c.shutdown(Shutdown::Write))),
        End::Waits => {}
    }
    talk.finish(vm, end)
}

struct Talk {
    connection: Connection,
    client: Option<UnixStream>,
    wants: Wants,
    said: Conversation,
}

impl Talk {
    fn send(&mut self, vm: &mut VmControl, mut piece: &[u8]) {
        while !piece.is_empty() && self.wants != Wants::Close {
            let Some(client) = &mut self.client else {
                return;
            };
            match client.write(piece) {
                Ok(written) => piece = piece.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            self.serve(vm);
        }
    }

    /// One round of the server.
    fn serve(&mut self, vm: &mut VmControl) {
        if self.wants == Wants::Close {
            return;
        }
        let requests = &mut self.said.requests;
        self.wants = self.connection.ready(&mut |request| {
            requests.push(request.clone());
            routes::dispatch(vm, request)
        });
        assert!(requests.len() <= 1, "one request, one answer");
        let held = self.connection.held();
        assert!(held <= MOST_HELD, "{held} bytes are held");
    }

    /// The rest of it: the server answers or closes, at the latest when the time is
    /// over.
    fn finish(mut self, vm: &mut VmControl, end: End) -> Conversation {
        const MOST_ROUNDS: usize = 2 * MOST_SENT / 4096;
        for _ in 0..MOST_ROUNDS {
            self.serve(vm);
            self.read();
        }
        match (end, self.wants) {
            (End::ShutsDown, wants) => assert_eq!(wants, Wants::Close),
            (End::GoesAway, wants) => assert_ne!(wants, Wants::Write, "waits for who is gone"),
            _ => {}
        }
        self.connection.expire();
        let Self {
            connection,
            mut client,
            mut said,
            ..
        } = self;
        drop(connection);
        if let Some(client) = &mut client {
            read_from(client, &mut said.answer);
            assert!(end != End::Waits || !said.answer.is_empty(), "no answer");
        }
        check(&said.answer);
        said
    }

    fn read(&mut self) {
        if let Some(client) = &mut self.client {
            read_from(client, &mut self.said.answer);
        }
    }
}

fn read_from(client: &mut UnixStream, answer: &mut Vec<u8>) {
    // What does not come now is read the next time; a client that was cut off has
    // what it has.
    drop(client.read_to_end(answer));
}

/// Nothing, or a whole answer whose body is JSON.
#[expect(clippy::unwrap_used, reason = "a check")]
fn check(answer: &[u8]) {
    if answer.is_empty() {
        return;
    }
    let text = std::str::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap();
    assert!(status.starts_with("HTTP/1.1 "), "{status}");
    let len = lines.find_map(|line| line.strip_prefix("Content-Length: "));
    assert_eq!(len.unwrap().parse(), Ok(body.len()), "{head}");
    assert!(head.contains("\r\nConnection: close"), "{head}");
    let value: serde_json::Value = serde_json::from_str(body).unwrap();
    assert!(value.is_object(), "{body}");
    let is_good = status.starts_with("HTTP/1.1 2");
    assert_eq!(is_good, value.get("error").is_none(), "{text}");
    // Only a route that is not there and a reason that the VM is not to blame for.
    assert!(!status.starts_with("HTTP/1.1 500"), "{text}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        crate::fuzz_input::each_seed("http", super::http);
    }
}
