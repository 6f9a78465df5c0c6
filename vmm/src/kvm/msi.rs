//! Message-signalled interrupts by eventfd: each has an interrupt line of KVM's of its
//! own, whose route is the message.
//!
//! KVM's routes are one table. The lines 0 to 23 keep the routes that KVM gave them with
//! its interrupt controllers (`arch/x86/kvm/irq_comm.c`, `default_routing`).

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_IRQ_ROUTES, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{KvmError, ioctl};

/// The lines of KVM's I/O APIC; the first 16 go to its PICs too.
const IO_APIC_LINES: u32 = 24;
const PIC_LINES: u32 = 16;
/// How many lines may have a message.
const MAX_LINES: usize = KVM_MAX_IRQ_ROUTES - (IO_APIC_LINES + PIC_LINES) as usize;

/// What a device writes to interrupt (PCI 3.0, "MSI-X Table").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// The address, which says to which local APIC.
    pub address: u64,
    /// The data, which says which vector.
    pub data: u32,
}

/// The routes of a VM.
#[derive(Debug)]
pub(super) struct MsiRoutes {
    fd: Arc<VmFd>,
    /// The message of each line from [`IO_APIC_LINES`] on, once it has one.
    messages: Mutex<Vec<Option<MsiMessage>>>,
}

impl MsiRoutes {
    pub(super) fn new(fd: Arc<VmFd>) -> Self {
        Self {
            fd,
            messages: Mutex::default(),
        }
    }

    /// A new line, without a message.
    pub(super) fn line(self: &Arc<Self>) -> Result<MsiLine, KvmError> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(|source| KvmError::Ioctl {
            ioctl: "eventfd",
            source,
        })?;
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let index = messages.len();
        if index >= MAX_LINES {
            return Err(KvmError::TooMany {
                what: "the table of interrupt routes",
                len: index + 1,
            });
        }
        messages.push(None);
        Ok(MsiLine {
            routes: Arc::clone(self),
            index,
            event,
            is_connected: false,
        })
    }

    /// Changes the message of a line.
    fn route(&self, index: usize, message: MsiMessage) -> Result<(), KvmError> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = messages.get_mut(index) else {
            return Ok(());
        };
        if *slot == Some(message) {
            return Ok(());
        }
        let before = slot.replace(message);
        let set = self.set(&messages);
        if set.is_err()
            && let Some(slot) = messages.get_mut(index)
        {
            // KVM has kept its table, so all others stay as they are.
            *slot = before;
        }
        set
    }

    fn set(&self, messages: &[Option<MsiMessage>]) -> Result<(), KvmError> {
        let mut entries = default_routes();
        let lines = (IO_APIC_LINES..).zip(messages);
        entries.extend(lines.filter_map(|(gsi, &message)| Some(msi_route(gsi, message?))));
        let table = KvmIrqRouting::from_entries(&entries).map_err(|_| KvmError::TooMany {
            what: "the table of interrupt routes",
            len: entries.len(),
        })?;
        self.fd
            .set_gsi_routing(&table)
            .map_err(ioctl("KVM_SET_GSI_ROUTING"))
    }
}

/// KVM's own routes, which a new table replaces.
fn default_routes() -> Vec<kvm_irq_routing_entry> {
    let mut entries = Vec::new();
    for gsi in 0..IO_APIC_LINES {
        entries.push(chip_route(gsi, KVM_IRQCHIP_IOAPIC, gsi));
        if gsi < PIC_LINES / 2 {
            entries.push(chip_route(gsi, KVM_IRQCHIP_PIC_MASTER, gsi));
        } else if gsi < PIC_LINES {
            entries.push(chip_route(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - PIC_LINES / 2));
        }
    }
    entries
}

fn chip_route(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..kvm_irq_routing_entry::default()
    };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn msi_route(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let [a, b, c, d, e, f, g, h] = message.address.to_le_bytes();
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..kvm_irq_routing_entry::default()
    };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: u32::from_le_bytes([a, b, c, d]),
        address_hi: u32::from_le_bytes([e, f, g, h]),
        data: message.data,
        ..kvm_irq_routing_msi::default()
    };
    entry
}

/// One interrupt that a write to an eventfd sends, while it is connected.
#[derive(Debug)]
pub struct MsiLine {
    routes: Arc<MsiRoutes>,
    index: usize,
    event: EventFd,
    is_connected: bool,
}

impl MsiLine {
    /// A write to it interrupts; without a connection it counts.
    #[must_use]
    pub const fn event(&self) -> &EventFd {
        &self.event
    }

    /// Has each write to the event send `message`. The guest may choose any message:
    /// KVM sends nothing for one that no APIC takes.
    ///
    /// # Errors
    /// What the ioctls say. The line is then as before.
    pub fn connect(&mut self, message: MsiMessage) -> Result<(), KvmError> {
        self.routes.route(self.index, message)?;
        if !self.is_connected {
            self.routes
                .fd
                .register_irqfd(&self.event, self.gsi())
                .map_err(ioctl("KVM_IRQFD"))?;
            self.is_connected = true;
        }
        Ok(())
    }

    /// Has writes to the event count, and send nothing.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn disconnect(&mut self) -> Result<(), KvmError> {
        if self.is_connected {
            self.routes
                .fd
                .unregister_irqfd(&self.event, self.gsi())
                .map_err(ioctl("KVM_IRQFD"))?;
            self.is_connected = false;
        }
        Ok(())
    }

    fn gsi(&self) -> u32 {
        // Below MAX_LINES.
        IO_APIC_LINES + u32::try_from(self.index).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `arch/x86/kvm/irq_comm.c`: 24 lines of the I/O APIC, 16 of the PICs.
    #[test]
    fn kvms_own_routes_stay() {
        let routes = default_routes();
        assert_eq!(routes.len(), 40);
        assert!(routes.iter().all(|r| r.type_ == KVM_IRQ_ROUTING_IRQCHIP));
        let of = |gsi| routes.iter().filter(move |r| r.gsi == gsi).count();
        assert_eq!((of(0), of(15), of(16), of(23)), (2, 2, 1, 1));
    }
}
