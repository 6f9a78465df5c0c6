//! One port: the bytes in both directions.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;

use serde::{Deserialize, Serialize};
use vmm_sys_util::epoll::EventSet;

use super::super::QueuePosition;
use super::super::queue::{Chain, DeviceQueue, QueueFault, total};
use super::super::worker::{Progress, WatchedFd};
use super::ConsolePort;
use super::control::Untold;
use crate::rate_limit::RateLimit;

/// Bytes that one read or write moves.
pub(super) const CHUNK: usize = 64 << 10;
/// Reads or writes until the other ports and the control queues have their turn.
const TURNS: u32 = 32;

/// How many tokens a port has, and which.
pub(super) const TOKENS: u64 = 4;
const TOKEN_RECEIVE: u64 = 0;
const TOKEN_SEND: u64 = 1;
const TOKEN_INPUT: u64 = 2;
const TOKEN_OUTPUT: u64 = 3;

/// A port of an active console.
#[derive(Debug)]
pub(super) struct PortState {
    port: ConsolePort,
    /// Empty buffers of the guest.
    receive: Option<DeviceQueue>,
    /// Full ones.
    send: Option<DeviceQueue>,
    input_ready: bool,
    output_ready: bool,
    /// The chain that is being written, and how many of its bytes have gone.
    sending: Option<u64>,
    /// Bytes that the host has taken since the last look.
    taken: u64,
    chain: Chain,
    spare: Chain,
    /// Whether the guest has opened the port.
    pub(super) guest_open: bool,
    /// Whether the guest has closed the port: the streams go when all has been sent.
    pub(super) closing: bool,
    /// What the driver has not been told.
    pub(super) untold: Untold,
}

/// A port as a snapshot has it. Its streams are the host's, and others afterwards.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SavedConsolePort {
    guest_open: bool,
    closing: bool,
    untold: Untold,
    sending: Option<u64>,
}

impl PortState {
    /// What a snapshot has of it.
    pub(super) fn saved(&self) -> SavedConsolePort {
        SavedConsolePort {
            guest_open: self.guest_open,
            closing: self.closing,
            untold: self.untold.clone(),
            sending: self.sending,
        }
    }

    /// Where the queues stand. A chain that is half sent is still the first.
    pub(super) fn positions(&self) -> impl Iterator<Item = QueuePosition> {
        let receive = self.receive.as_ref().map(|queue| queue.position(false));
        let held = self.sending.is_some();
        let send = self.send.as_ref().map(|queue| queue.position(held));
        receive.into_iter().chain(send)
    }

    /// Goes on as the saved one, whose queues stand as [`PortState::positions`] said.
    ///
    /// # Errors
    /// If a chain that is half sent is not there.
    pub(super) fn go_on_as(&mut self, saved: SavedConsolePort) -> Result<(), QueueFault> {
        self.guest_open = saved.guest_open;
        self.closing = saved.closing;
        self.untold = saved.untold;
        if let (Some(sent), Some(queue)) = (saved.sending, &mut self.send)
            && queue.next(&mut self.chain)?
        {
            // What is beyond the end has been sent.
            self.sending = Some(sent.min(total(self.chain.readable())));
        }
        Ok(())
    }

    pub(super) fn new(
        port: ConsolePort,
        receive: Option<DeviceQueue>,
        send: Option<DeviceQueue>,
    ) -> Self {
        Self {
            port,
            receive,
            send,
            input_ready: true,
            output_ready: true,
            sending: None,
            taken: 0,
            chain: Chain::default(),
            spare: Chain::default(),
            guest_open: false,
            closing: false,
            untold: Untold::default(),
        }
    }

    pub(super) fn into_port(self) -> ConsolePort {
        self.port
    }

    pub(super) fn name(&self) -> &str {
        &self.port.name
    }

    pub(super) const fn is_console(&self) -> bool {
        self.port.is_console
    }

    /// Whether somebody is there on the host's side; a terminal always is.
    pub(super) const fn host_open(&self) -> bool {
        self.port.is_console || self.port.input.is_some() || self.port.output.is_some()
    }

    pub(super) fn watched(&self, first: u64) -> Vec<WatchedFd> {
        let watch = |fd, events, token| WatchedFd {
            fd,
            events,
            token: first + token,
        };
        let kick = |queue: &Option<DeviceQueue>, token| {
            let queue = queue.as_ref()?;
            Some(watch(queue.kick().as_raw_fd(), EventSet::IN, token))
        };
        let input = self.port.input.as_ref();
        let output = self.port.output.as_ref();
        [
            kick(&self.receive, TOKEN_RECEIVE),
            kick(&self.send, TOKEN_SEND),
            input.map(|stream| watch(stream.as_raw_fd(), EventSet::IN, TOKEN_INPUT)),
            output.map(|stream| watch(stream.as_raw_fd(), EventSet::OUT, TOKEN_OUTPUT)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    pub(super) fn ready(&mut self, token: u64, events: u32) {
        match token {
            TOKEN_INPUT => self.input_ready = true,
            TOKEN_OUTPUT => {
                self.output_ready = true;
                let gone = EventSet::ERROR | EventSet::HANG_UP;
                if events & gone.bits() != 0 {
                    self.port.output = None;
                }
            }
            _ => {}
        }
    }

    /// Fills empty buffers of the guest with what the host has.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Result<Progress, QueueFault> {
        let Some(queue) = &mut self.receive else {
            return Ok(Progress::Wait);
        };
        let mut turns = 0;
        while self.guest_open && self.input_ready && turns < TURNS {
            let Some(input) = &self.port.input else {
                break;
            };
            if !queue.next(&mut self.spare)? {
                if queue.await_kick()? {
                    continue;
                }
                break;
            }
            turns += 1;
            let room = total(self.spare.writable()).min(buffer.len() as u64);
            let room = usize::try_from(room).unwrap_or_default();
            let Some(into) = buffer.get_mut(..room).filter(|into| !into.is_empty()) else {
                return Err(queue.chain_fault("has no room for input"));
            };
            match input.read(into) {
                Ok(0) => {
                    queue.put_back();
                    self.port.input = None;
                }
                Ok(len) => {
                    let bytes = into.get(..len).unwrap_or_default();
                    let written = self.spare.write_at(queue.memory(), 0, bytes);
                    let written = written.map_err(|error| queue.memory_fault(error))?;
                    // At most the length of the buffer.
                    let written = u32::try_from(written).unwrap_or_default();
                    queue.give(&self.spare, written)?;
                }
                Err(error) => {
                    queue.put_back();
                    match error.kind() {
                        ErrorKind::Interrupted => {}
                        ErrorKind::WouldBlock => self.input_ready = false,
                        _ => {
                            tell_host_error(&self.port.name, "no more input", &error);
                            self.port.input = None;
                        }
                    }
                }
            }
        }
        queue.tell_driver()?;
        Ok(Progress::more_if(turns == TURNS))
    }

    /// Writes what the guest has sent, as far as the host takes it.
    pub(super) fn send(&mut self, buffer: &mut [u8]) -> Result<Progress, QueueFault> {
        let mut turns = 0;
        let mut all = false;
        while turns < TURNS && !all {
            let Some(queue) = &mut self.send else {
                all = true;
                break;
            };
            let Some(sent) = self.sending else {
                if queue.next(&mut self.chain)? {
                    self.sending = Some(0);
                } else {
                    all = !queue.await_kick()?;
                }
                continue;
            };
            turns += 1;
            let discard = self.port.output.is_none() || self.port.limit == 0;
            if discard || sent == total(self.chain.readable()) {
                queue.give(&self.chain, 0)?;
                self.sending = None;
                continue;
            }
            let len = self.chain.read_at(queue.memory(), sent, buffer);
            let len = len.map_err(|error| queue.memory_fault(error))?;
            let bytes = buffer.get(..len).unwrap_or_default();
            if !self.write(sent, bytes) {
                break;
            }
        }
        if let Some(queue) = &mut self.send {
            queue.tell_driver()?;
        }
        if all && self.closing {
            self.closing = false;
            self.port.input = None;
            self.port.output = None;
        }
        Ok(Progress::more_if(turns == TURNS))
    }

    /// Writes some bytes; `false` if the host takes none now.
    fn write(&mut self, sent: u64, bytes: &[u8]) -> bool {
        let Some(output) = self.port.output.as_ref().filter(|_| self.output_ready) else {
            return false;
        };
        let allowed = usize::try_from(self.port.limit).unwrap_or(usize::MAX);
        let bytes = bytes.get(..allowed).unwrap_or(bytes);
        match output.write(bytes) {
            Ok(len) if len > 0 => {
                self.sending = Some(sent + len as u64);
                self.taken += len as u64;
                self.port.limit = self.port.limit.saturating_sub(len as u64);
                if self.port.limit == 0 {
                    log::warn!(
                        "console: port '{}' has printed all that it may: the rest is lost",
                        self.port.name
                    );
                }
            }
            Ok(_) => self.output_ready = false,
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock => self.output_ready = false,
                kind => {
                    if kind != ErrorKind::BrokenPipe {
                        tell_host_error(&self.port.name, "the guest's output is lost", &error);
                    }
                    self.port.output = None;
                }
            },
        }
        true
    }

    /// Bytes that the host has taken since the last call.
    pub(super) const fn take_count(&mut self) -> u64 {
        std::mem::replace(&mut self.taken, 0)
    }

    /// Whether the host has taken all that the guest has sent.
    pub(super) fn is_flushed(&self) -> Result<bool, QueueFault> {
        match &self.send {
            Some(queue) if self.sending.is_none() => queue.has_next().map(|more| !more),
            Some(_) => Ok(false),
            None => Ok(true),
        }
    }
}

fn tell_host_error(port: &str, effect: &str, error: &std::io::Error) {
    static LIMIT: RateLimit = RateLimit::new();
    if LIMIT.allow().is_some() {
        log::warn!("console: port '{port}': {effect}: {error}");
    }
}
