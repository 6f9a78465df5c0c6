//! The transport of virtio devices over PCI, without the legacy interface (Virtio 1.2,
//! "Virtio Over PCI Bus").
//!
//! ```text
//!   status 0 ─ACKNOWLEDGE, DRIVER─▶ features ─FEATURES_OK─▶ queues ─DRIVER_OK─▶ active
//!      ▲                                                                        │
//!      └───────────── a write of 0: returns when the device has stopped ────────┘
//! ```
//! A queue's notify address is an ioeventfd and a vector an irqfd, so neither way has
//! an exit to the VMM. The vectors of queues are fixed from DRIVER_OK to the reset.

mod common;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod places;
mod saved;
mod start;
#[cfg(test)]
mod tests;

use std::time::Duration;

use thiserror::Error;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::common::{ACKNOWLEDGE, CommonConfig, DRIVER, DRIVER_OK, FAILED, FEATURES_OK};
use self::places::{BarPart, CapabilityOffsets};
use super::{ConfigInterrupt, OutputState, VirtioDevice};
use crate::devices::pci::{ConfigSpace, InterruptLine, MAX_VECTORS, Msix, PciFunction};
use crate::devices::{BusDevice, Device, DeviceNotSaved, ResourceError, Resources};
use crate::rate_limit::RateLimit;
use crate::snapshot::{SectionError, Sections};
use crate::sys::guest_ram::GuestRam;

/// The length of a device's BAR, in bytes.
pub const BAR_LEN: u32 = places::BAR_LEN;
/// The bit of the ISR status: the configuration has changed, or the device is broken.
const ISR_CONFIG: u8 = 2;

/// The reason why a device cannot be on PCI.
#[derive(Debug, Error)]
pub enum TransportError {
    /// It has none, or more than there are vectors.
    #[error("{device} has {count} queues; expected: 1 to {}", MAX_VECTORS - 1)]
    QueueCount {
        /// The device.
        device: String,
        /// How many queues.
        count: usize,
    },
    /// A queue's size is not possible.
    #[error("{device} has a queue of size {size}; expected: a power of two up to 32768")]
    QueueSize {
        /// The device.
        device: String,
        /// The size.
        size: u16,
    },
    /// The host gives no eventfd.
    #[error("{device}: the host gives no eventfd")]
    Event {
        /// The device.
        device: String,
        /// Why.
        source: std::io::Error,
    },
}

/// What a device needs to be a PCI function.
#[derive(Debug)]
pub struct FunctionParts {
    /// The name in logs.
    pub name: String,
    /// The device.
    pub device: Box<dyn VirtioDevice>,
    /// A line for the configuration and one for each queue.
    pub lines: Vec<Box<dyn InterruptLine>>,
    /// The guest's memory.
    pub memory: GuestRam,
}

/// A virtio device as a PCI function.
#[derive(Debug)]
pub struct VirtioPci {
    name: String,
    device: Box<dyn VirtioDevice>,
    memory: GuestRam,
    place: u64,
    config: ConfigSpace,
    offsets: CapabilityOffsets,
    msix: Msix,
    kicks: Vec<EventFd>,
    common: CommonConfig,
    /// From DRIVER_OK to the reset.
    interrupt: Option<ConfigInterrupt>,
    /// Whether the device works: it was activated without an error.
    is_active: bool,
    is_paused: bool,
    /// What of `interrupt` the ISR status has told.
    told: (u8, bool),
    faults: RateLimit,
}

impl VirtioPci {
    /// A function whose driver has done nothing yet.
    ///
    /// # Errors
    /// If the device's queues are not possible, or the host gives no eventfd.
    pub fn new(parts: FunctionParts) -> Result<Self, TransportError> {
        let device = || parts.name.clone();
        let sizes = parts.device.queue_sizes();
        let count = sizes.len();
        let bad_count = || TransportError::QueueCount {
            device: device(),
            count,
        };
        if let Some(&size) = sizes.iter().find(|&&size| Queue::new(size).is_err()) {
            let device = device();
            return Err(TransportError::QueueSize { device, size });
        }
        if !(1..MAX_VECTORS).contains(&count) || parts.lines.len() != count + 1 {
            return Err(bad_count());
        }
        let kicks: Result<_, _> = (0..count).map(|_| EventFd::new(EFD_NONBLOCK)).collect();
        let kicks = kicks.map_err(|source| TransportError::Event {
            device: device(),
            source,
        })?;
        let msix = Msix::new(parts.lines);
        let space = places::config_space(parts.device.kind(), msix.len());
        let (config, offsets) = space.ok_or_else(bad_count)?;
        Ok(Self {
            common: CommonConfig::new(parts.device.features(), sizes, msix.len()),
            name: parts.name,
            device: parts.device,
            memory: parts.memory,
            place: 0,
            config,
            offsets,
            msix,
            kicks,
            interrupt: None,
            is_active: false,
            is_paused: false,
            told: (0, false),
            faults: RateLimit::new(),
        })
    }

    /// The events of its queues, each with the address whose writes are to be writes of
    /// the event. It has addresses once it has asked for them.
    pub fn notify_addresses(&self) -> impl Iterator<Item = (&EventFd, u64)> {
        let base = self.place;
        let queues = (0..).zip(&self.kicks);
        queues.map(move |(queue, kick)| (kick, base + places::notify_offset(queue)))
    }

    fn generation(&self) -> u8 {
        let interrupt = self.interrupt.as_ref();
        interrupt.map_or(0, ConfigInterrupt::generation)
    }

    fn is_broken(&self) -> bool {
        let interrupt = self.interrupt.as_ref();
        interrupt.is_some_and(ConfigInterrupt::is_broken)
    }

    /// The driver can set bits, and clears all by 0.
    fn set_status(&mut self, value: u8) {
        if value == 0 {
            Device::reset(self);
            return;
        }
        let before = self.common.status;
        let mut new = value & !before & (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED);
        if new & FEATURES_OK != 0 && !self.common.features_fit() {
            new &= !FEATURES_OK;
        }
        if new & DRIVER_OK != 0 && before & FEATURES_OK == 0 {
            new &= !DRIVER_OK;
        }
        self.common.status |= new;
        if new & DRIVER_OK != 0 {
            self.activate();
        }
    }

    /// Reading clears it.
    fn take_isr(&mut self) -> u8 {
        let now = (self.generation(), self.is_broken());
        let is_news = std::mem::replace(&mut self.told, now) != now;
        if is_news { ISR_CONFIG } else { 0 }
    }

    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        match BarPart::find(offset, data.len()) {
            Some((BarPart::Common, offset)) => {
                let (is_broken, generation) = (self.is_broken(), self.generation());
                self.common.read(offset, data, is_broken, generation);
            }
            Some((BarPart::Isr, offset)) => {
                data.fill(0);
                if let (0, Some(byte)) = (offset, data.first_mut()) {
                    *byte = self.take_isr();
                }
            }
            Some((BarPart::Device, offset)) => {
                data.fill(0);
                self.device.read_config(offset, data);
            }
            Some((BarPart::MsixTable, offset)) => self.msix.read_table(offset, data),
            Some((BarPart::MsixPending, offset)) => self.msix.read_pending(offset, data),
            Some((BarPart::Notify, _)) => data.fill(0),
            None => data.fill(0xff),
        }
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        match BarPart::find(offset, data.len()) {
            Some((BarPart::Common, offset)) => {
                if let Some(status) = self.common.write(offset, data) {
                    self.set_status(status);
                }
            }
            Some((BarPart::Device, offset)) => self.device.write_config(offset, data),
            Some((BarPart::MsixTable, offset)) => self.msix.write_table(offset, data),
            Some((BarPart::Notify, offset)) => {
                // KVM takes those of the guest; these come by the window.
                let kick = places::notified_queue(offset);
                if let Some(kick) = kick.and_then(|queue| self.kicks.get(usize::from(queue))) {
                    // Full means that a notification waits.
                    drop(kick.write(1));
                }
            }
            Some((BarPart::Isr | BarPart::MsixPending, _)) | None => {}
        }
    }

    /// The part of the BAR that the window shows, if it shows one and the access to
    /// configuration space is to its data.
    fn window(&self, offset: usize, len: usize) -> Option<(u64, usize)> {
        let data = self.offsets.window + 16;
        let [bar] = self.config.array(self.offsets.window + 4);
        let at = u32::from_le_bytes(self.config.array(self.offsets.window + 8));
        let width = u32::from_le_bytes(self.config.array(self.offsets.window + 12));
        let width = usize::try_from(width).ok()?;
        let fits = offset == data && len >= width && bar == 0 && matches!(width, 1 | 2 | 4);
        fits.then_some((at.into(), width))
    }
}

impl Device for VirtioPci {
    fn can_be_saved(&self) -> Result<(), DeviceNotSaved> {
        if self.device.can_be_saved() {
            return Ok(());
        }
        let device = self.name.clone();
        Err(DeviceNotSaved::Kind { device })
    }

    fn save(&mut self, sections: &mut Sections) -> Result<(), DeviceNotSaved> {
        let saved = self.saved()?;
        Ok(sections.put(&self.name, &saved)?)
    }

    fn restore(&mut self, sections: &mut Sections) -> Result<(), SectionError> {
        let saved = sections.take(&self.name)?;
        self.go_on_as(saved)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn resources(&mut self, resources: &mut Resources) -> Result<(), ResourceError> {
        self.place = resources.bar(BAR_LEN.into())?;
        // The window is below 4 GiB.
        let place = u32::try_from(self.place).unwrap_or(u32::MAX);
        self.config.set_bar(place, BAR_LEN);
        Ok(())
    }

    /// Waits for the host to take what the guest has written, if the device works.
    fn flush_output(&mut self, within: Duration) -> OutputState {
        if self.is_active {
            self.device.flush_output(within)
        } else {
            OutputState::Done
        }
    }

    /// Stops the device for a while, if it works.
    fn pause(&mut self) {
        if self.is_active && !self.is_paused {
            self.device.pause();
            self.is_paused = true;
        }
    }

    /// Has it go on, if it was stopped for a while.
    fn resume(&mut self) {
        if std::mem::take(&mut self.is_paused) {
            self.device.resume();
        }
    }

    /// Stops it, and forgets what the driver has set up. Returns when its workers have
    /// stopped.
    fn reset(&mut self) {
        self.device.reset();
        self.is_active = false;
        self.is_paused = false;
        self.interrupt = None;
        self.told = (0, false);
        self.common.reset();
        self.msix.forget_pending();
        for kick in &self.kicks {
            // Empty is as good.
            drop(kick.read());
        }
    }
}

impl PciFunction for VirtioPci {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
        if let Some((at, width)) = self.window(offset, data.len())
            && let Some(data) = data.get_mut(..width)
        {
            self.read_bar(at, data);
        }
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        let control = self.offsets.msix_control();
        if (offset..offset + data.len()).contains(&(control + 1)) {
            let control = u16::from_le_bytes(self.config.array(control));
            self.msix.set_control(control);
        }
        if let Some((at, width)) = self.window(offset, data.len())
            && let Some(data) = data.get(..width)
        {
            self.write_bar(at, data);
        }
    }
}

impl BusDevice for VirtioPci {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if self.config.is_at_place() {
            self.read_bar(offset, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if self.config.is_at_place() {
            self.write_bar(offset, data);
        }
    }
}
