//! What a VM is besides its vCPUs and its memory: its interrupt controllers and its clock.

use std::sync::Arc;

use kvm_bindings::{
    KVM_CLOCK_REALTIME, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    kvm_clock_data, kvm_irqchip,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};
use vpmu::units::Nanos;

use super::{KvmError, ioctl};
use crate::sys::clock::realtime;

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
        let mut clock = self.0.get_clock().map_err(ioctl("KVM_GET_CLOCK"))?;
        if clock.flags & KVM_CLOCK_REALTIME == 0 {
            clock.realtime = realtime().0;
        }
        Ok(SavedChips {
            chips: [chip(first)?, chip(second)?, chip(third)?],
            clock,
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

    /// Has the guest's clock go on from where it was, by the wall clock.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn restore_clock(&self, saved: &SavedChips) -> Result<(), KvmError> {
        let clock = going_on(&saved.clock, realtime());
        self.0.set_clock(&clock).map_err(ioctl("KVM_SET_CLOCK"))
    }
}

/// What KVM is to set a clock to that was saved. KVM adds the time since then, by the wall
/// clock; if the clock was saved where its KVM told no such moment (its own clock was not by
/// the TSC), the time until `now` is added here.
fn going_on(saved: &kvm_clock_data, Nanos(now): Nanos) -> kvm_clock_data {
    // The only flag that can be set; the others tell.
    let flags = saved.flags & KVM_CLOCK_REALTIME;
    let added = match flags {
        0 => now.saturating_sub(saved.realtime),
        _ => 0,
    };
    kvm_clock_data {
        clock: saved.clock.saturating_add(added),
        realtime: if flags == 0 { 0 } else { saved.realtime },
        flags,
        ..kvm_clock_data::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// machine.md §5: the guest's clock goes on while it does not run (Linux:
    /// Documentation/virt/kvm/api.rst, `KVM_SET_CLOCK`).
    #[test]
    fn a_clock_goes_on_whoever_adds_the_time() {
        let saved = |flags| kvm_clock_data {
            clock: 5_000,
            realtime: 1_000,
            // 2: the clock is the same on all vCPUs.
            flags: flags | 2,
            ..kvm_clock_data::default()
        };
        let told = going_on(&saved(KVM_CLOCK_REALTIME), Nanos(3_500));
        assert_eq!((told.clock, told.realtime), (5_000, 1_000));
        assert_eq!(told.flags, KVM_CLOCK_REALTIME);
        let added = going_on(&saved(0), Nanos(3_500));
        assert_eq!((added.clock, added.realtime, added.flags), (7_500, 0, 0));
        let set_back = going_on(&saved(0), Nanos(500));
        assert_eq!(set_back.clock, 5_000);
    }
}
