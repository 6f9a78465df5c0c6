//! A user at a terminal, whose keys go to a guest: raw mode while they do, and the keys
//! that end it.
//!
//! ```text
//! terminal ─▶ this thread ─▶ a FIFO ─▶ QEMU ─▶ /dev/vport0p4 ─▶ perfvisor ─▶ guest
//!                 └ Ctrl-A x ─▶ the end
//! ```

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cmd;
use crate::nested::stream::Event;

/// What begins a command of ours, and what ends the guest after it.
const COMMAND: u8 = 0x01;
const QUIT: u8 = b'x';
/// Ctrl-D: what a terminal in the guest takes for the end of its input.
const END_OF_INPUT: u8 = 0x04;

/// The terminal in raw mode. A shell that waits for our end gives it back, so that it is
/// given back however we end.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    keeper: Child,
    until: Option<ChildStdin>,
}

impl RawTerminal {
    /// Nothing if standard input is no terminal.
    ///
    /// # Errors
    /// If `stty` fails.
    pub(crate) fn enter() -> Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let stty = |args: &[&str]| {
            let mut stty = Command::new("stty");
            let done = stty.args(args).stdin(Stdio::inherit()).output();
            let done = done.context("cannot start stty")?;
            ensure!(done.status.success(), "stty cannot set the terminal");
            Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
        };
        let saved = stty(&["-g"])?;
        // A shell that is told to stop, or has no terminal any more, has nothing to give
        // back; the terminal may be another's foreground by then.
        let line = format!(
            "trap '' TTOU INT TERM HUP QUIT; cat >/dev/null; stty {} <&3",
            cmd::quoted(&saved)
        );
        let keeper = Command::new("sh")
            .args(["-c", r#"exec 3<>/dev/tty; eval "$0""#, &line])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut keeper = keeper.context("cannot start sh")?;
        let until = keeper.stdin.take();
        let entered = Self { keeper, until };
        // Our own lines, and perfvisor's, end with a line feed alone.
        stty(&["raw", "-echo", "opost", "onlcr"])?;
        Ok(Some(entered))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        drop(self.until.take());
        let _given_back = self.keeper.wait();
    }
}

/// Passes on what is typed, in a thread of its own, until the input ends.
///
/// # Errors
/// If the FIFO cannot be opened.
pub(crate) fn pass_on(fifo: &Path, events: Sender<Event>) -> Result<()> {
    // For reading too: so it does not wait for QEMU to open it.
    let mut to = File::options()
        .read(true)
        .write(true)
        .open(fifo)
        .with_context(|| format!("cannot open {}", fifo.display()))?;
    thread::spawn(move || {
        let (mut keys, mut buffer) = (Keys::default(), [0; 256]);
        let mut input = io::stdin().lock();
        while let Ok(n @ 1..) = input.read(&mut buffer) {
            let (typed, quit) = keys.typed(&buffer[..n]);
            if to.write_all(&typed).is_err() {
                return;
            }
            if quit {
                let _receiver_gone = events.send(Event::Quit);
                return;
            }
        }
        end_input(&mut to);
    });
    Ok(())
}

/// Gives a process what standard input has, which is no terminal, and then the end of it.
pub(crate) fn feed(mut to: ChildStdin) {
    thread::spawn(move || {
        if io::copy(&mut io::stdin().lock(), &mut to).is_ok() {
            end_input(&mut to);
        }
    });
}

/// Types the end of the input until nobody reads it: a shell that is not up yet, or sets
/// its terminal, throws away what was typed before.
fn end_input(to: &mut impl Write) {
    const AGAIN: Duration = Duration::from_secs(2);
    while to.write_all(&[END_OF_INPUT]).is_ok() && to.flush().is_ok() {
        thread::sleep(AGAIN);
    }
}

/// Finds the commands among the keys: as perfvisor does at a terminal.
#[derive(Debug, Default)]
struct Keys {
    command: bool,
}

impl Keys {
    /// What of the keys is the guest's, and whether it is to end.
    fn typed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut guests = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match (std::mem::take(&mut self.command), byte) {
                (true, QUIT) => return (guests, true),
                (false, COMMAND) => self.command = true,
                (true, byte) if byte != COMMAND => {}
                (_, byte) => guests.push(byte),
            }
        }
        (guests, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that throws away what was typed too early, and goes after that.
    struct Late(Vec<u8>);

    impl Write for Late {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.len() == 2 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_end_is_typed_until_nobody_reads() {
        let mut guest = Late(Vec::new());
        end_input(&mut guest);
        assert_eq!(guest.0, [END_OF_INPUT; 2]);
    }

    #[test]
    fn the_command_key_is_found_also_between_reads() {
        let mut keys = Keys::default();
        assert_eq!(keys.typed(b"ls\r"), (b"ls\r".to_vec(), false));
        assert_eq!(keys.typed(b"a\x01"), (b"a".to_vec(), false));
        assert_eq!(keys.typed(b"\x01b"), (b"\x01b".to_vec(), false));
        assert_eq!(keys.typed(b"\x01e"), (Vec::new(), false));
        assert_eq!(keys.typed(b"c\x01"), (b"c".to_vec(), false));
        assert_eq!(keys.typed(b"xyz"), (Vec::new(), true));
    }
}
