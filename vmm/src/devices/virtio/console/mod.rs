//! A console with ports (Virtio 1.2, "Console Device"): each port is a stream of bytes
//! between the guest and a descriptor of the host.
//!
//! ```text
//!  host reader ─▶ queue of empty buffers ─▶ /dev/hvc0, /dev/vport0p1 …   in: `receive`
//!  host writer ◀─ queue of full buffers  ◀─ the same                     out: `send`
//!  open, close, name ◀─▶ two queues for control messages                 `control`
//!  size ─▶ the configuration
//! ```
//!
//! A terminal alone is a device without control messages: Linux takes its size from the
//! configuration then. Of the control message with a size, kernels disagree which field is
//! the first.
//!
//! No byte waits in the device: what the host has not taken stays in the guest's buffers,
//! and what the guest has no buffer for stays in the host's pipe. The end of a stream is
//! a port that closes, in both directions.

mod control;
mod port;
mod task;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::control::Control;
use self::port::{PortState, SavedConsolePort};
use self::task::ConsoleTask;
use super::queue::{DeviceQueue, RING_FEATURES};
use super::threaded::{ThreadedDevice, must_be_empty};
use super::{ActivateError, Activation, ConfigInterrupt, DeviceKind, OutputState, RestoreFault};
use crate::snapshot;
use crate::sys::stream::{Stream, StreamUse};

/// VIRTIO_CONSOLE_F_SIZE: the configuration has the size of the terminal.
const F_SIZE: u64 = 1 << 0;
/// VIRTIO_CONSOLE_F_MULTIPORT: there are control queues.
const F_MULTIPORT: u64 = 1 << 1;
/// Descriptors in each queue.
const QUEUE_SIZE: u16 = 64;
/// The most ports: Linux gives their numbers five bits in messages of other devices,
/// and each needs two interrupt vectors.
pub const MAX_PORTS: usize = 31;

/// The queue numbers of the control messages; each port but the first has its queues
/// behind them.
const CONTROL_TO_DRIVER: u16 = 2;
const CONTROL_FROM_DRIVER: u16 = 3;

/// Tokens of the worker's events.
const TOKEN_TO_DRIVER: u64 = 0;
const TOKEN_FROM_DRIVER: u64 = 1;
const TOKEN_WAKE: u64 = 2;
const TOKEN_PORTS: u64 = 4;

/// One stream between the guest and the host.
#[derive(Debug)]
pub struct ConsolePort {
    name: String,
    is_console: bool,
    input: Option<Stream>,
    output: Option<Stream>,
    limit: u64,
}

impl ConsolePort {
    /// A terminal of the guest (`/dev/hvc0` for the first). The guest reads `input` and
    /// prints to `output`; without them it reads nothing and prints to nowhere.
    ///
    /// # Errors
    /// If the host does not tell what a descriptor is.
    pub fn console(
        name: &str,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let mut port = Self::stream(name, input, output)?;
        port.is_console = true;
        Ok(port)
    }

    /// A stream of the guest: `/dev/vportNpM`, whose name is in
    /// `/sys/class/virtio-ports/vportNpM/name`. The port is open before its name is
    /// there. The guest reads `input` to its end (`read` returns 0) and writes `output`.
    /// The first close by the guest closes both, behind all that it has written.
    ///
    /// # Errors
    /// If the host does not tell what a descriptor is.
    pub fn stream(name: &str, input: Option<OwnedFd>, output: Option<OwnedFd>) -> io::Result<Self> {
        let open = |fd: Option<OwnedFd>, usage| fd.map(|fd| Stream::new(fd, usage)).transpose();
        Ok(Self {
            name: name.to_owned(),
            is_console: false,
            input: open(input, StreamUse::Read)?,
            output: open(output, StreamUse::Write)?,
            limit: u64::MAX,
        })
    }

    /// Lets at most `limit` bytes of the guest through; the others are dropped.
    #[must_use]
    pub const fn limit_output(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }
}

/// What a console's device, its worker and its owner share.
#[derive(Debug)]
struct ConsoleShared {
    size: Mutex<TerminalSize>,
    /// The way to the driver, while there is one.
    interrupt: Mutex<Option<ConfigInterrupt>>,
    /// Bytes that the host has taken.
    taken: AtomicU64,
    /// Whether somebody waits for all output to be written.
    flush: Mutex<bool>,
    flushed: Condvar,
    wake: EventFd,
}

/// Columns and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TerminalSize {
    columns: u16,
    rows: u16,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The host's hand on a console, from any thread.
#[derive(Clone, Debug)]
pub struct ConsoleHandle {
    shared: Arc<ConsoleShared>,
}

impl ConsoleHandle {
    /// Tells the guest of a new size of the terminal.
    pub fn resize(&self, columns: u16, rows: u16) {
        let shared = &self.shared;
        *locked(&shared.size) = TerminalSize { columns, rows };
        if let Some(interrupt) = &*locked(&shared.interrupt) {
            tell_of_size(interrupt);
        }
    }

    /// Waits until the host has taken all that the guest had written, for no longer than
    /// `within`. Returns whether it has; a device that is not active has nothing.
    #[must_use]
    pub fn flush(&self, within: Duration) -> bool {
        let shared = &self.shared;
        if locked(&shared.interrupt).is_none() {
            return true;
        }
        let mut waits = locked(&shared.flush);
        *waits = true;
        shared.wake();
        let result = shared
            .flushed
            .wait_timeout_while(waits, within, |waits| *waits);
        result.is_ok_and(|(waits, _)| !*waits)
    }
}

/// Has the driver read the configuration again.
fn tell_of_size(interrupt: &ConfigInterrupt) {
    if let Err(error) = interrupt.config_changed() {
        log::debug!("the guest does not hear of its terminal's size: {error}");
    }
}

impl ConsoleShared {
    fn wake(&self) {
        // An eventfd that is full wakes as well.
        drop(self.wake.write(1));
    }
}

/// The device.
#[derive(Debug)]
pub struct VirtioConsole {
    queue_sizes: Vec<u16>,
    features: u64,
    shared: Arc<ConsoleShared>,
    /// The ports, while no thread has them.
    ports: Vec<ConsolePort>,
}

impl VirtioConsole {
    /// A console with these ports, whose terminals have `columns` and `rows` (0: unknown).
    ///
    /// # Errors
    /// If the host gives no eventfd, or there are no ports or more than [`MAX_PORTS`].
    pub fn new(
        ports: Vec<ConsolePort>,
        (columns, rows): (u16, u16),
    ) -> io::Result<(Self, ConsoleHandle)> {
        if ports.is_empty() || ports.len() > MAX_PORTS {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let shared = Arc::new(ConsoleShared {
            size: Mutex::new(TerminalSize { columns, rows }),
            interrupt: Mutex::default(),
            taken: AtomicU64::new(0),
            flush: Mutex::default(),
            flushed: Condvar::new(),
            wake: EventFd::new(EFD_NONBLOCK)?,
        });
        let handle = ConsoleHandle {
            shared: Arc::clone(&shared),
        };
        let is_terminal = matches!(&ports[..], [port] if port.is_console);
        let (queues, features) = if is_terminal {
            (2, F_SIZE)
        } else {
            (2 + 2 * ports.len(), F_SIZE | F_MULTIPORT)
        };
        let console = Self {
            queue_sizes: vec![QUEUE_SIZE; queues],
            features: features | RING_FEATURES,
            shared,
            ports,
        };
        Ok((console, handle))
    }
}

/// The numbers of the queues of a port: to the driver, from the driver.
const fn port_queues(port: usize) -> (usize, usize) {
    match port {
        0 => (0, 1),
        _ => (2 + 2 * port, 3 + 2 * port),
    }
}

impl ThreadedDevice for VirtioConsole {
    type Task = ConsoleTask;

    fn kind(&self) -> DeviceKind {
        DeviceKind::Console
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let TerminalSize { columns, rows } = *locked(&self.shared.size);
        let mut config = [0; 12];
        let ports = u32::try_from(self.queue_sizes.len() / 2 - 1).unwrap_or_default();
        let fields = columns.to_le_bytes().into_iter().chain(rows.to_le_bytes());
        let fields = fields.chain(ports.to_le_bytes());
        config
            .iter_mut()
            .zip(fields)
            .for_each(|(to, from)| *to = from);
        super::copy_config(&config, offset, data);
    }

    fn task(&mut self, activation: Activation) -> Result<ConsoleTask, ActivateError> {
        let Activation {
            memory,
            features,
            queues,
            config_interrupt,
        } = activation;
        let mut by_number: Vec<Option<DeviceQueue>> = Vec::new();
        by_number.resize_with(self.queue_sizes.len(), || None);
        for queue in queues {
            if let Some(place) = by_number.get_mut(usize::from(queue.index)) {
                *place = Some(DeviceQueue::new(queue, &memory, features)?);
            }
        }
        let mut take = |number: usize| by_number.get_mut(number).and_then(Option::take);
        let control = if features & F_MULTIPORT == 0 {
            None
        } else {
            let mut required =
                |number: u16| take(usize::from(number)).ok_or(ActivateError::MissingQueue(number));
            let to_driver = required(CONTROL_TO_DRIVER)?;
            Some(Control::new(to_driver, required(CONTROL_FROM_DRIVER)?))
        };
        let ports = std::mem::take(&mut self.ports).into_iter().enumerate();
        let ports = ports.map(|(number, port)| {
            let (receive, send) = port_queues(number);
            let mut port = PortState::new(port, take(receive), take(send));
            port.guest_open = control.is_none() && number == 0;
            port
        });
        if control.is_none() {
            // Linux reads the size of such a device when it hears of a change, not before.
            tell_of_size(&config_interrupt);
        }
        *locked(&self.shared.interrupt) = Some(config_interrupt.clone());
        Ok(ConsoleTask {
            ports: ports.collect(),
            control,
            shared: Arc::clone(&self.shared),
            interrupt: config_interrupt,
            buffer: vec![0; port::CHUNK],
        })
    }

    fn take_back(&mut self, task: ConsoleTask) {
        *locked(&self.shared.interrupt) = None;
        let ports = task.ports.into_iter();
        self.ports = ports.map(PortState::into_port).collect();
    }

    fn saved(&mut self, task: Option<&mut ConsoleTask>) -> io::Result<Vec<u8>> {
        let Some(task) = task else {
            return Ok(Vec::new());
        };
        let ports: Vec<SavedConsolePort> = task.ports.iter().map(PortState::saved).collect();
        postcard::to_allocvec(&ports).map_err(io::Error::other)
    }

    fn go_on_as(
        &mut self,
        state: &[u8],
        task: Option<&mut ConsoleTask>,
    ) -> Result<(), RestoreFault> {
        let Some(task) = task else {
            return must_be_empty(state);
        };
        let ports: Vec<SavedConsolePort> = snapshot::decode(state).ok_or(RestoreFault::Damaged)?;
        if ports.len() != task.ports.len() {
            return Err(RestoreFault::Other(
                "it has another number of ports".to_owned(),
            ));
        }
        for (port, saved) in task.ports.iter_mut().zip(ports) {
            let restored = port.go_on_as(saved);
            restored.map_err(|fault| RestoreFault::Other(fault.to_string()))?;
        }
        Ok(())
    }

    fn flush_output(&mut self, within: Duration) -> OutputState {
        let shared = Arc::clone(&self.shared);
        let before = shared.taken.load(Ordering::Relaxed);
        if (ConsoleHandle { shared }).flush(within) {
            OutputState::Done
        } else if self.shared.taken.load(Ordering::Relaxed) != before {
            OutputState::Moves
        } else {
            OutputState::Stands
        }
    }
}
