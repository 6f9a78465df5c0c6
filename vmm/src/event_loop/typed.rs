//! Carries typed bytes from the terminal to a pipe, whose other end is a device's.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use super::console::EscapeKeys;
use super::watch;
use crate::stop::{StopReason, StopSignal};
use crate::sys::stream::{Stream, StreamUse};

/// Standard input, without the command key's words, on its way to a pipe.
#[derive(Debug)]
pub struct TypedPipe {
    input: File,
    /// `None` when the input has ended: the device sees the end.
    pipe: Option<Stream>,
    stop: Arc<StopSignal>,
    /// `None` for input that is no terminal: all bytes are the guest's.
    keys: Option<EscapeKeys>,
    /// Bytes that the pipe had no room for: fewer than one read has.
    waiting: Vec<u8>,
}

impl TypedPipe {
    /// Feeds `pipe` from `input`. With `keys`, Ctrl-A is a command key.
    ///
    /// # Errors
    /// If the host does not let the pipe be written without waiting.
    pub fn new(
        input: File,
        pipe: OwnedFd,
        stop: Arc<StopSignal>,
        keys: bool,
    ) -> std::io::Result<Self> {
        Ok(Self {
            input,
            pipe: Some(Stream::new(pipe, StreamUse::Write)?),
            stop,
            keys: keys.then(EscapeKeys::default),
            waiting: Vec::new(),
        })
    }

    fn read(&mut self, ops: &mut EventOps<'_>) {
        let mut buffer = [0; 64];
        match self.input.read(&mut buffer) {
            // The end of the input is not the end of the VM.
            Ok(0) => self.end(ops),
            Ok(len) => {
                let typed = buffer.get(..len).unwrap_or_default();
                match &mut self.keys {
                    Some(keys) => {
                        let (bytes, quit) = keys.filter(typed);
                        self.waiting = bytes;
                        if quit {
                            self.stop.stop(StopReason::ConsoleQuit);
                        }
                    }
                    None => self.waiting = typed.to_vec(),
                }
                self.write(ops);
                if let Some(pipe) = self.pipe.as_ref().filter(|_| !self.waiting.is_empty()) {
                    drop(ops.remove(Events::new(&self.input, EventSet::IN)));
                    if let Err(error) = ops.add(Events::new(pipe, EventSet::OUT)) {
                        log::debug!("no more console input: {error}");
                        self.end(ops);
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                log::debug!("no more console input: {error}");
                self.end(ops);
            }
        }
    }

    fn write(&mut self, ops: &mut EventOps<'_>) {
        let Some(pipe) = self.pipe.as_ref().filter(|_| !self.waiting.is_empty()) else {
            return;
        };
        match pipe.write(&self.waiting) {
            Ok(len) => drop(self.waiting.drain(..len.min(self.waiting.len()))),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => {
                log::debug!("no more console input: {error}");
                self.end(ops);
            }
        }
    }

    fn end(&mut self, ops: &mut EventOps<'_>) {
        drop(ops.remove(Events::new(&self.input, EventSet::IN)));
        if let Some(pipe) = self.pipe.take() {
            drop(ops.remove(Events::new(&pipe, EventSet::OUT)));
        }
        self.waiting.clear();
    }
}

impl MutEventSubscriber for TypedPipe {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.input.as_raw_fd() {
            return self.read(ops);
        }
        self.write(ops);
        if let Some(pipe) = self.pipe.as_ref().filter(|_| self.waiting.is_empty()) {
            drop(ops.remove(Events::new(pipe, EventSet::OUT)));
            watch(ops, &self.input, "console input");
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        // Files and /dev/null cannot be watched: then there is no input.
        if !watch(ops, &self.input, "console input") {
            self.end(ops);
        }
    }
}
