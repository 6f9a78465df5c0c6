//! The messages of the control port: lines of text, a word and numbers.

use std::io::{self, BufRead, BufReader, Read};

/// The longest line that is read, in bytes.
const LONGEST: u64 = 256;

/// A message. Whose it is: guest's to host, or host's to guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Guest: the command is about to start.
    Ready,
    /// Guest: a signal has stopped the command.
    Stopped(u8),
    /// Guest: the command has ended with a status.
    Exited(u8),
    /// Guest: a signal has ended the command.
    Killed(u8),
    /// Guest: behind this line come the symbols of its kernel: so many bytes of its build
    /// id, of [`crate::symbols::KALLSYMS`] and of [`crate::symbols::MODULES`].
    Symbols([u32; 3]),
    /// Host: send the command's process group a signal.
    Signal(u8),
    /// Host: the terminal has this many lines and columns.
    Size(u16, u16),
}

impl Message {
    /// The line, with its end.
    #[must_use]
    pub fn to_line(self) -> String {
        match self {
            Self::Ready => "ready\n".into(),
            Self::Stopped(signal) => format!("stopped {signal}\n"),
            Self::Exited(status) => format!("exited {status}\n"),
            Self::Killed(signal) => format!("killed {signal}\n"),
            Self::Symbols([id, symbols, modules]) => format!("symbols {id} {symbols} {modules}\n"),
            Self::Signal(signal) => format!("signal {signal}\n"),
            Self::Size(rows, columns) => format!("size {rows} {columns}\n"),
        }
    }

    /// The message of a line, if it is one.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.trim_end().split(' ');
        let word = words.next()?;
        let mut large = || words.next()?.parse::<u32>().ok();
        if word == "symbols" {
            let lengths = [large()?, large()?, large()?];
            return words.next().is_none().then_some(Self::Symbols(lengths));
        }
        let mut number = || u16::try_from(large()?).ok();
        let byte = |number: Option<u16>| u8::try_from(number?).ok();
        let message = match word {
            "ready" => Self::Ready,
            "stopped" => Self::Stopped(byte(number())?),
            "exited" => Self::Exited(byte(number())?),
            "killed" => Self::Killed(byte(number())?),
            "signal" => Self::Signal(byte(number())?),
            "size" => Self::Size(number()?, number()?),
            _ => return None,
        };
        words.next().is_none().then_some(message)
    }
}

/// Reads messages; the other side may send anything.
#[derive(Debug)]
pub struct MessageReader<R: Read>(BufReader<R>);

impl<R: Read> MessageReader<R> {
    /// Reads from `source`.
    pub fn new(source: R) -> Self {
        Self(BufReader::new(source))
    }

    /// The next message; `None` at the end. Lines that are none are left out.
    ///
    /// # Errors
    /// What reading says.
    pub fn next_message(&mut self) -> io::Result<Option<Message>> {
        loop {
            let mut line = Vec::new();
            let mut limited = (&mut self.0).take(LONGEST);
            if limited.read_until(b'\n', &mut line)? == 0 {
                return Ok(None);
            }
            let text = String::from_utf8_lossy(&line);
            if let Some(message) = Message::parse(&text) {
                return Ok(Some(message));
            }
        }
    }

    /// Bytes behind a message.
    ///
    /// # Errors
    /// What reading says; [`io::ErrorKind::UnexpectedEof`] if there are fewer.
    pub fn bytes(&mut self, len: u32) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = (&mut self.0).take(len.into()).read_to_end(&mut bytes)?;
        if u32::try_from(read) == Ok(len) {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        for message in [
            Message::Ready,
            Message::Stopped(20),
            Message::Exited(255),
            Message::Killed(9),
            Message::Symbols([40, u32::MAX, 0]),
            Message::Signal(2),
            Message::Size(24, 65535),
        ] {
            assert_eq!(Message::parse(&message.to_line()), Some(message));
        }
    }

    #[test]
    fn bytes_follow_a_message() {
        let mut reader = MessageReader::new(&b"symbols 2 3 0\nab\n\0\nexited 1\nx"[..]);
        assert_eq!(
            reader.next_message().unwrap(),
            Some(Message::Symbols([2, 3, 0]))
        );
        assert_eq!(reader.bytes(2).unwrap(), b"ab");
        assert_eq!(reader.bytes(3).unwrap(), b"\n\0\n");
        assert_eq!(reader.bytes(0).unwrap(), b"");
        assert_eq!(reader.next_message().unwrap(), Some(Message::Exited(1)));
        assert!(reader.bytes(2).is_err());
    }

    #[test]
    fn nonsense_between_messages_is_left_out() {
        let mut bytes = vec![b'x'; 1000];
        bytes.extend_from_slice(b"\nexited 256\nsymbols 1 2\nsymbols 1 2 3 4\nexited 1 2\nexited\nsize 1\n\xff\nexited 3\n");
        let mut reader = MessageReader::new(bytes.as_slice());
        assert_eq!(reader.next_message().unwrap(), Some(Message::Exited(3)));
        assert_eq!(reader.next_message().unwrap(), None);
    }
}
