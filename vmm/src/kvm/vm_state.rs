//! What a VM is besides its vCPUs and its memory: its interrupt controllers and its clock.

use std::sync::Arc;

use kvm_bindings::{
    KVM_CLOCK_REALTIME, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    kvm_clock_data, kvm_irqchip,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use super::{KvmError, ioctl};

const CHIPS: [u32; 3] = [
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
    KVM_IRQCHIP_IOAPIC,
];

/// The interrupt controllers and the clock of a VM, from any thread.
#[derive(Clone, Debug)]
pub struct VmChips(Arc<VmFd>);

/// They in a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedChips {
    chips: [kvm_irqchip; 3],
    clock: kvm_clock_data,
}

impl VmChips {
    pub(super) const fn new(fd: Arc<VmFd>) -> Self {
        Self(fd)
    }

    /// Saves them; no vCPU runs.
    ///
    /// # Errors
    /// What the ioctls say.
    pub fn save(&self) -> Result<SavedChips, KvmError> {
        let chip = |chip_id| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..kvm_irqchip::default()
            };
            let got = self.0.get_irqchip(&mut chip);
            got.map(|()| chip).map_err(ioctl("KVM_GET_IRQCHIP"))
        };
        let [first, second, third] = CHIPS;
        Ok(SavedChips {
            chips: [chip(first)?, chip(second)?, chip(third)?],
            clock: self.0.get_clock().map_err(ioctl("KVM_GET_CLOCK"))?,
        })
    }

    /// Restores the interrupt controllers. The vCPUs have been restored: what waits in
    /// a controller goes to them.
    ///
    /// # Errors
    /// What the ioctls say.
    pub fn restore_chips(&self, saved: &SavedChips) -> Result<(), KvmError> {
        for (chip, chip_id) in saved.chips.iter().zip(CHIPS) {
            let chip = kvm_irqchip { chip_id, ..*chip };
            self.0
                .set_irqchip(&chip)
                .map_err(ioctl("KVM_SET_IRQCHIP"))?;
        }
        Ok(())
    }

    /// Has the guest's clock go on from where it was; the time since then is added where
    /// this KVM knows it.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn restore_clock(&self, saved: &SavedChips) -> Result<(), KvmError> {
        let clock = kvm_clock_data {
            clock: saved.clock.clock,
            realtime: saved.clock.realtime,
            // The only flag that can be set; the others tell.
            flags: saved.clock.flags & KVM_CLOCK_REALTIME,
            ..kvm_clock_data::default()
        };
        self.0.set_clock(&clock).map_err(ioctl("KVM_SET_CLOCK"))
    }
}
