//! Carries typed bytes from the terminal to the serial port.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::{drain, watch};
use crate::devices::serial::{self, SerialPort};
use crate::output::stderr;
use crate::stop::{StopReason, StopSignal};

/// Ctrl-A.
const ESCAPE: u8 = 1;
/// After [`ESCAPE`]: end the VM.
const QUIT: u8 = b'x';
/// After [`ESCAPE`]: show the keys.
const HELP: u8 = b'?';
/// The keys, on a terminal in raw mode.
const KEYS: &str =
    "\r\nperfvisor: Ctrl-A x ends the VM, Ctrl-A Ctrl-A sends one Ctrl-A, Ctrl-A ? shows this\r\n";

/// Standard input as the guest's keyboard.
#[derive(Debug)]
pub struct Console {
    input: File,
    port: Arc<Mutex<SerialPort>>,
    drained: EventFd,
    stop: Arc<StopSignal>,
    /// `None` for input that is no terminal: all bytes are the guest's.
    keys: Option<EscapeKeys>,
    watching: bool,
}

impl Console {
    /// Feeds `port` from `input`. With `keys`, Ctrl-A is a command key.
    #[must_use]
    pub fn new(
        input: File,
        port: Arc<Mutex<SerialPort>>,
        drained: EventFd,
        stop: Arc<StopSignal>,
        keys: bool,
    ) -> Self {
        Self {
            input,
            port,
            drained,
            stop,
            keys: keys.then(EscapeKeys::default),
            watching: false,
        }
    }

    /// Passes on what the port has room for; stops listening when it has none.
    fn feed(&mut self, ops: &mut EventOps<'_>) {
        let room = serial::lock(&self.port).room();
        if room == 0 {
            return self.pause(ops);
        }
        let mut buffer = [0u8; 64];
        let len = room.min(buffer.len());
        let read = self.input.read(buffer.get_mut(..len).unwrap_or_default());
        match read {
            // The end of the input is not the end of the VM.
            Ok(0) => self.pause_for_good(ops),
            Ok(read) => self.pass(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                log::debug!("no more console input: {error}");
                self.pause_for_good(ops);
            }
        }
    }

    fn pass(&mut self, typed: &[u8]) {
        let Some(keys) = &mut self.keys else {
            return serial::lock(&self.port).input(typed);
        };
        let (bytes, quit) = keys.filter(typed);
        if quit {
            self.stop.stop(StopReason::ConsoleQuit);
        }
        serial::lock(&self.port).input(&bytes);
    }

    fn pause(&mut self, ops: &mut EventOps<'_>) {
        if self.watching {
            drop(ops.remove(Events::new(&self.input, EventSet::IN)));
            self.watching = false;
        }
        // The guest may have read it empty in between.
        if serial::lock(&self.port).room() > 0 {
            self.watching = watch(ops, &self.input, "console input");
        }
    }

    fn pause_for_good(&mut self, ops: &mut EventOps<'_>) {
        drop(ops.remove(Events::new(&self.input, EventSet::IN)));
        drop(ops.remove(Events::new(&self.drained, EventSet::IN)));
    }
}

impl MutEventSubscriber for Console {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.drained.as_raw_fd() {
            drain(&self.drained);
            if !self.watching {
                self.watching = watch(ops, &self.input, "console input");
            }
        } else {
            self.feed(ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        // Files and /dev/null cannot be watched: then there is no input.
        self.watching = watch(ops, &self.input, "console input");
        if self.watching {
            watch(ops, &self.drained, "the serial port");
        }
    }
}

/// The command key of the console.
#[derive(Debug, Default)]
pub(super) struct EscapeKeys {
    escaped: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Key {
    Guest(u8),
    Nothing,
    Help,
    Quit,
}

impl EscapeKeys {
    /// The guest's bytes of what was typed, and whether the VM is to end.
    pub(super) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut bytes = Vec::with_capacity(typed.len());
        let mut quit = false;
        for &byte in typed {
            match self.press(byte) {
                Key::Guest(byte) => bytes.push(byte),
                Key::Nothing => {}
                Key::Help => stderr::text(KEYS),
                Key::Quit => quit = true,
            }
        }
        (bytes, quit)
    }

    fn press(&mut self, byte: u8) -> Key {
        match (std::mem::take(&mut self.escaped), byte) {
            (false, ESCAPE) => {
                self.escaped = true;
                Key::Nothing
            }
            (true, QUIT) => Key::Quit,
            (true, HELP) => Key::Help,
            (true, ESCAPE) | (false, _) => Key::Guest(byte),
            (true, _) => Key::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_is_a_command_and_twice_is_itself() {
        let mut keys = EscapeKeys::default();
        let pressed: Vec<_> = b"a\x01\x01b\x01c\x01?\x01x"
            .iter()
            .map(|&byte| keys.press(byte))
            .filter(|key| *key != Key::Nothing)
            .collect();
        assert_eq!(
            pressed,
            [
                Key::Guest(b'a'),
                Key::Guest(1),
                Key::Guest(b'b'),
                Key::Help,
                Key::Quit
            ]
        );
    }
}
