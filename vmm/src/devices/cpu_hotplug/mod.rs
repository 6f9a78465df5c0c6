//! The registers through which the guest's ACPI methods (`aml` beside this file)
//! see which vCPUs come and go.
//!
//! | offset | width | read | write |
//! |---|---|---|---|
//! | 0 | 4 | the selected vCPU | select a vCPU |
//! | 4 | 1 | bit 0: it is there, 1: it comes, 2: it is to go | bits 1, 2: seen; bit 3: eject |
//! | 6 | 2 | 0 | `_OST` source event |
//! | 8 | 4 | 0 | `_OST` status, which completes the answer |
//!
//! Every other access reads 0 and does nothing. The same is true of every access
//! while the selected number is not a possible vCPU.
//!
//! The registers hold the selection and the first half of an answer. The
//! [`HotplugOwner`] knows which vCPUs are plugged in.

mod aml;
mod answer;

use std::fmt;
use std::io;
use std::sync::Arc;

use acpi_tables::AmlSink;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vpmu::ids::VcpuId;

pub use aml::{APIC_ENABLED, local_apic};
pub use answer::{DEVICE_BUSY, GuestAnswer};

use super::{AcpiAction, AcpiEvent, BusDevice, Device, DeviceNotSaved, ResourceError, Resources};
use crate::config::CpusConfig;
use crate::kvm::layout::CPU_HOTPLUG;
use crate::snapshot::{SectionError, Sections};

/// The size of the registers, in bytes.
pub const LEN: u64 = 12;
/// The interrupt line that makes the guest look at the registers.
pub const IRQ: u32 = 17;

/// Offset of the register that selects a vCPU.
pub const SELECT: u64 = 0;
/// Offset of the flags of the selected vCPU.
pub const FLAGS: u64 = 4;
/// Offset of the `_OST` source event.
pub const OST_EVENT: u64 = 6;
/// Offset of the `_OST` status.
pub const OST_STATUS: u64 = 8;

/// Bit of [`FLAGS`]: the guest has the vCPU, or may take it.
pub const ENABLED: u8 = 1 << 0;
/// Bit of [`FLAGS`]: the guest is to take the vCPU; written, the guest has seen so.
pub const INSERTING: u8 = 1 << 1;
/// Bit of [`FLAGS`]: the guest is to give the vCPU back; written, the guest has seen so.
pub const REMOVING: u8 = 1 << 2;
/// Bit of [`FLAGS`]: written, the guest has given the vCPU back.
pub const EJECT: u8 = 1 << 3;

/// The flags that the guest reads for a vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotFlags {
    /// The guest has it, or may take it.
    pub enabled: bool,
    /// The guest is to take it, and has not seen so yet.
    pub comes: bool,
    /// The guest is to give it back, and has not seen so yet.
    pub goes: bool,
}

impl SlotFlags {
    fn bits(self) -> u8 {
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        bit(self.enabled, ENABLED) | bit(self.comes, INSERTING) | bit(self.goes, REMOVING)
    }
}

/// The owner of the vCPUs' presence. Called on the thread of the vCPU that
/// accesses a register, which may be the vCPU that is ejected.
pub trait HotplugOwner: Send + Sync {
    /// The flags of a vCPU; none for a number that no vCPU has.
    fn flags(&self, vcpu: VcpuId) -> SlotFlags;

    /// The guest has seen that a vCPU comes, or is to go.
    fn acknowledged(&self, vcpu: VcpuId, comes: bool, goes: bool);

    /// The guest ejects a vCPU. Returns before its thread has ended.
    fn ejected(&self, vcpu: VcpuId);

    /// The guest says what it made of a request.
    fn answered(&self, vcpu: VcpuId, answer: GuestAnswer);
}

/// The interrupt line that makes the guest look at the registers.
#[derive(Clone, Debug)]
pub struct HotplugLine(Arc<EventFd>);

impl HotplugLine {
    /// A line for a [`CpuHotplug`], which connects it to [`IRQ`].
    ///
    /// # Errors
    /// If the host gives no eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(EventFd::new(EFD_NONBLOCK)?)))
    }

    /// Each write is an edge.
    #[must_use]
    pub fn irq(&self) -> &EventFd {
        &self.0
    }

    /// Makes the guest look.
    ///
    /// # Errors
    /// If the host refuses to write the eventfd.
    pub fn pulse(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The registers.
pub struct CpuHotplug {
    owner: Arc<dyn HotplugOwner>,
    line: HotplugLine,
    cpus: CpusConfig,
    selected: u32,
    ost_event: u16,
}

impl fmt::Debug for CpuHotplug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuHotplug")
            .field("selected", &self.selected)
            .finish_non_exhaustive()
    }
}

impl CpuHotplug {
    /// Registers in front of `owner`, for these vCPUs.
    #[must_use]
    pub fn new(owner: Arc<dyn HotplugOwner>, line: HotplugLine, cpus: CpusConfig) -> Self {
        Self {
            owner,
            line,
            cpus,
            selected: 0,
            ost_event: 0,
        }
    }

    fn selected(&self) -> VcpuId {
        VcpuId(u16::try_from(self.selected).unwrap_or(u16::MAX))
    }

    fn set_flags(&self, flags: u8) {
        let vcpu = self.selected();
        let (comes, goes) = (flags & INSERTING != 0, flags & REMOVING != 0);
        self.owner.acknowledged(vcpu, comes, goes);
        if flags & EJECT != 0 {
            self.owner.ejected(vcpu);
        }
    }

    fn set_ost_status(&self, status: u32) {
        if let Some(answer) = GuestAnswer::decode(self.ost_event, status) {
            self.owner.answered(self.selected(), answer);
        }
    }
}

impl Device for CpuHotplug {
    fn name(&self) -> &'static str {
        "cpu-hotplug"
    }

    fn resources(&mut self, resources: &mut Resources) -> Result<(), ResourceError> {
        resources.memory(CPU_HOTPLUG.into(), LEN)?;
        resources.line(self.line.irq(), IRQ)
    }

    fn aml(&self, sink: &mut dyn AmlSink) {
        aml::to_aml(&self.cpus, sink);
    }

    fn acpi_event(&self) -> Option<AcpiEvent> {
        Some(AcpiEvent {
            line: IRQ,
            action: AcpiAction::Call(aml::SCAN),
        })
    }

    fn save(&mut self, sections: &mut Sections) -> Result<(), DeviceNotSaved> {
        Ok(sections.put(self.name(), &(self.selected, self.ost_event))?)
    }

    fn restore(&mut self, sections: &mut Sections) -> Result<(), SectionError> {
        (self.selected, self.ost_event) = sections.take(self.name())?;
        Ok(())
    }
}

impl BusDevice for CpuHotplug {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match (offset, &mut *data) {
            (SELECT, [_, _, _, _]) => data.copy_from_slice(&self.selected.to_le_bytes()),
            (FLAGS, [byte]) => *byte = self.owner.flags(self.selected()).bits(),
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SELECT, &[a, b, c, d]) => self.selected = u32::from_le_bytes([a, b, c, d]),
            (FLAGS, &[flags]) => self.set_flags(flags),
            (OST_EVENT, &[a, b]) => self.ost_event = u16::from_le_bytes([a, b]),
            (OST_STATUS, &[a, b, c, d]) => self.set_ost_status(u32::from_le_bytes([a, b, c, d])),
            _ => {}
        }
    }
}
