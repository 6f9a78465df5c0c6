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
            Self::Signal(signal) => format!("signal {signal}\n"),
            Self::Size(rows, columns) => format!("size {rows} {columns}\n"),
        }
    }

    /// The message of a line, if it is one.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.trim_end().split(' ');
        let word = words.next()?;
        let mut number = || words.next()?.parse::<u16>().ok();
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
            Message::Signal(2),
            Message::Size(24, 65535),
        ] {
            assert_eq!(Message::parse(&message.to_line()), Some(message));
        }
    }

    #[test]
    fn nonsense_between_messages_is_left_out() {
        let mut bytes = vec![b'x'; 1000];
        bytes.extend_from_slice(b"\nexited 256\nexited 1 2\nexited\nsize 1\n\xff\nexited 3\n");
        let mut reader = MessageReader::new(bytes.as_slice());
        assert_eq!(reader.next_message().unwrap(), Some(Message::Exited(3)));
        assert_eq!(reader.next_message().unwrap(), None);
    }
}
