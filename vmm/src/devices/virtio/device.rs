//! What a virtio device is to its transport, and what it gets from it.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use crate::sys::guest_ram::GuestRam;

/// The device types (Virtio 1.2, "Device Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum DeviceKind {
    /// A network card.
    Net = 1,
    /// A disk.
    Block = 2,
    /// A console, with ports.
    Console = 3,
    /// A source of random bytes.
    Rng = 4,
    /// Sockets between guest and host.
    Vsock = 19,
    /// A shared folder.
    Fs = 26,
}

/// A queue that the driver has set up and enabled.
#[derive(Debug)]
pub struct ActiveQueue {
    /// Its number within the device.
    pub index: u16,
    /// The queue. Its addresses come from the guest: every use checks them.
    pub queue: Queue,
    /// Readable when the driver has notified the device.
    pub kick: EventFd,
    /// A write interrupts the driver.
    pub call: EventFd,
}

impl ActiveQueue {
    /// Interrupts the driver if it wants to hear of what was used since the last time.
    ///
    /// # Errors
    /// If the guest's queue is not usable any more, or the host does not take the event.
    pub fn tell_driver(&mut self, memory: &GuestRam) -> io::Result<()> {
        match self.queue.needs_notification(memory) {
            Ok(true) => self.call.write(1),
            Ok(false) => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// The way from a device to its driver beside the queues.
#[derive(Clone, Debug)]
pub struct ConfigInterrupt {
    call: Arc<EventFd>,
    generation: Arc<AtomicU8>,
    broken: Arc<AtomicBool>,
}

impl ConfigInterrupt {
    /// One that interrupts by a write to `call`.
    #[must_use]
    pub fn new(call: EventFd) -> Self {
        Self {
            call: Arc::new(call),
            generation: Arc::default(),
            broken: Arc::default(),
        }
    }

    /// One that has been used already: how often the configuration has changed, and whether
    /// the device was broken.
    #[must_use]
    pub fn used(call: EventFd, (generation, is_broken): (u8, bool)) -> Self {
        Self {
            call: Arc::new(call),
            generation: Arc::new(AtomicU8::new(generation)),
            broken: Arc::new(AtomicBool::new(is_broken)),
        }
    }

    /// Tells the driver that the configuration has changed.
    ///
    /// # Errors
    /// If the host does not take the event.
    pub fn config_changed(&self) -> io::Result<()> {
        self.generation.fetch_add(1, Ordering::Release);
        self.call.write(1)
    }

    /// Tells the driver that the device does not work until it is reset.
    ///
    /// # Errors
    /// If the host does not take the event.
    pub fn needs_reset(&self) -> io::Result<()> {
        self.broken.store(true, Ordering::Release);
        self.call.write(1)
    }

    /// How often the configuration has changed (Virtio 1.2, "Driver Requirements:
    /// Device Configuration Space").
    #[must_use]
    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the device does not work until it is reset.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

/// What a snapshot has of a device, beside what its transport knows.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedDevice {
    /// Where the queues stand that its driver has given it.
    pub queues: Vec<QueuePosition>,
    /// What the device alone knows.
    pub state: Vec<u8>,
}

/// Where a queue stands: how many chains the device has taken and used, modulo 2¹⁶.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePosition {
    /// The queue's number.
    pub queue: u16,
    /// The next entry of the available ring.
    pub next_available: u16,
    /// The next entry of the used ring.
    pub next_used: u16,
}

/// The reason why a device is not saved.
#[derive(Debug, Error)]
pub enum SaveFault {
    /// No device of its kind can be.
    #[error("no device of its kind can be saved")]
    Kind,
    /// The host refused something.
    #[error(transparent)]
    Host(#[from] io::Error),
}

/// The reason why a device does not go on from a snapshot.
#[derive(Debug, Error)]
pub enum RestoreFault {
    /// Its bytes mean nothing.
    #[error("it is damaged")]
    Damaged,
    /// It was another device; the end of a sentence.
    #[error("{0}")]
    Other(String),
    /// The device does not start.
    #[error("the device does not start")]
    Start(#[from] ActivateError),
}

/// All that a device works with from DRIVER_OK to its reset.
#[derive(Debug)]
pub struct Activation {
    /// The guest's memory. Its regions are parts of a shared file if another process maps it.
    pub memory: GuestRam,
    /// The features that device and driver have agreed on, VIRTIO_F_VERSION_1 among them.
    pub features: u64,
    /// The queues that the driver enabled, by number; it may leave some out.
    pub queues: Vec<ActiveQueue>,
    /// The way to the driver beside the queues.
    pub config_interrupt: ConfigInterrupt,
}

/// The reason why a device cannot work; the driver sees DEVICE_NEEDS_RESET.
#[derive(Debug, Error)]
pub enum ActivateError {
    /// The driver left a queue out that the device needs.
    #[error("the driver did not enable queue {0}")]
    MissingQueue(u16),
    /// The host refused something.
    #[error("cannot {what}")]
    Host {
        /// The step that failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// How far the host has taken what the guest has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputState {
    /// All of it, or the device writes nowhere.
    Done,
    /// Some more of it since the last time.
    Moves,
    /// Nothing since the last time: nobody reads.
    Stands,
}

/// A virtio device without its transport.
///
/// The transport calls every method from one thread at a time. After [`reset`] and
/// between [`pause`] and [`resume`] the device touches no queue and no guest memory:
/// these calls return when its workers have stopped.
///
/// [`reset`]: VirtioDevice::reset
/// [`pause`]: VirtioDevice::pause
/// [`resume`]: VirtioDevice::resume
pub trait VirtioDevice: Send + Debug {
    /// Its type.
    fn kind(&self) -> DeviceKind;

    /// The largest size of each queue: powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// The features that it offers. The transport adds VIRTIO_F_VERSION_1 and takes
    /// away what it cannot do itself.
    fn features(&self) -> u64;

    /// Fills `data` from the device's configuration; bytes beyond its end are 0.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Takes what the driver writes to the device's configuration.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// Starts: the driver has set DRIVER_OK.
    ///
    /// # Errors
    /// If it cannot start. It is then as after a reset.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stops, and forgets the queues. Also called when it has not started.
    fn reset(&mut self);

    /// Waits until the host has taken what the guest has written, for no longer than
    /// `within`. Called at the end of the guest, before the last reset.
    fn flush_output(&mut self, _within: Duration) -> OutputState {
        OutputState::Done
    }

    /// Stops for a while.
    fn pause(&mut self);

    /// Goes on after [`VirtioDevice::pause`].
    fn resume(&mut self);

    /// Whether [`VirtioDevice::save`] is for devices of its kind. By default it is not.
    fn can_be_saved(&self) -> bool {
        false
    }

    /// What a snapshot must have of it. Called while it is paused, if it has started.
    ///
    /// # Errors
    /// If it cannot be saved, as by default.
    fn save(&mut self) -> Result<SavedDevice, SaveFault> {
        Err(SaveFault::Kind)
    }

    /// Takes back what a device like it has saved; with `activation` if its driver had
    /// started it: its queues stand where they stood, and it is paused.
    ///
    /// # Errors
    /// If it is not such a device. It is then as after a reset.
    fn restore(
        &mut self,
        _state: &[u8],
        _activation: Option<Activation>,
    ) -> Result<(), RestoreFault> {
        Err(RestoreFault::Other(
            "it is of a kind that cannot be saved".to_owned(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Virtio 1.2, "Device Types".
    #[test]
    fn device_types_have_their_numbers() {
        let kinds = [DeviceKind::Net, DeviceKind::Block, DeviceKind::Console];
        assert_eq!(kinds.map(|kind| kind as u16), [1, 2, 3]);
        let kinds = [DeviceKind::Rng, DeviceKind::Vsock, DeviceKind::Fs];
        assert_eq!(kinds.map(|kind| kind as u16), [4, 19, 26]);
    }

    #[test]
    fn a_change_and_a_failure_interrupt_and_can_be_read() {
        let call = EventFd::new(0).unwrap();
        let interrupt = ConfigInterrupt::new(call.try_clone().unwrap());
        assert_eq!((interrupt.generation(), interrupt.is_broken()), (0, false));
        interrupt.config_changed().unwrap();
        interrupt.needs_reset().unwrap();
        assert_eq!((interrupt.generation(), interrupt.is_broken()), (1, true));
        assert_eq!(call.read().unwrap(), 2);
    }
}
