//! Delivers PMIs to the guest.

use vpmu::guest::GuestPmu;
use vpmu::host::HostPmu;
use vpmu::{EntryWants, PendingPmi};

use crate::kvm::{ApicRegister, Interrupter, KvmError, Vcpu};
use crate::stop::PortError;

/// Injects the PMIs of one vCPU. It remembers none: a PMI on its way is
/// `vpmu`'s.
#[derive(Debug)]
pub(super) struct PmiInjector {
    apic_id: u32,
    interrupter: Interrupter,
    lvtpc: ApicRegister,
    /// An NMI was injected, and the guest may not have been entered since.
    nmi_may_wait: bool,
}

impl PmiInjector {
    /// An injector for the vCPU with this local APIC.
    ///
    /// # Errors
    /// As [`ApicRegister::new`].
    pub(super) fn new(apic_id: u32, interrupter: Interrupter) -> Result<Self, KvmError> {
        Ok(Self {
            apic_id,
            interrupter,
            lvtpc: ApicRegister::new(Lvtpc::OFFSET)?,
            nmi_may_wait: false,
        })
    }

    /// The guest left by what it did: an NMI is in it.
    pub(super) const fn exited(&mut self) {
        self.nmi_may_wait = false;
    }

    /// Hands a PMI to the guest as its LVTPC says (rules G-403, G-404). The
    /// guest's writes of LVTPC never reach us and every handler writes it, so it
    /// is read for each PMI.
    ///
    /// While the guest is in its NMI handler, a PMI is postponed to the first exit
    /// after the handler's IRET, or to the timer's exit. KVM would queue it and
    /// have the guest take it without one instruction in between: a guest whose
    /// sample period is shorter than the end of its handler would never get out
    /// of the handler. A handler of an NMI begins with interrupts off; where they are
    /// on, KVM is not asked. One that turns them on would wait for no PMI.
    ///
    /// # Errors
    /// What KVM says; the PMI stays pending.
    pub(super) fn inject<G: GuestPmu, H: HostPmu>(
        &mut self,
        pmi: PendingPmi<'_, G, H>,
        vcpu: &mut Vcpu,
    ) -> Result<EntryWants, PortError> {
        match Lvtpc::decode(self.lvtpc.read(vcpu)?) {
            Lvtpc::Nmi if self.nmi_is_blocked(vcpu)? => return Ok(pmi.postponed()),
            Lvtpc::Nmi => {
                vcpu.inject_nmi()?;
                self.nmi_may_wait = true;
            }
            Lvtpc::Fixed(vector) => {
                let (address, data) = fixed_message(self.apic_id, vector);
                self.interrupter.signal_msi(address, data)?;
            }
            Lvtpc::Masked | Lvtpc::Other => return Ok(pmi.dropped()),
        }
        Ok(pmi.delivered())
    }

    fn nmi_is_blocked(&self, vcpu: &mut Vcpu) -> Result<bool, KvmError> {
        if vcpu.takes_interrupts() && !self.nmi_may_wait {
            return Ok(false);
        }
        vcpu.nmi_is_blocked()
    }
}

/// The local APIC's performance-counter entry.
///
/// SDM vol. 3A, "Local Vector Table".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lvtpc {
    /// LVTPC masks the interrupt.
    Masked,
    /// LVTPC asks for an NMI.
    Nmi,
    /// As an interrupt of this vector.
    Fixed(u8),
    /// A delivery mode that a PMI cannot have: as masked.
    Other,
}

impl Lvtpc {
    /// Where the entry lies in the local APIC's page.
    const OFFSET: u16 = 0x340;

    /// Reads the register's value.
    #[must_use]
    const fn decode(value: u32) -> Self {
        const MASKED: u32 = 1 << 16;
        let [vector, ..] = value.to_le_bytes();
        match (value & MASKED, value >> 8 & 0b111) {
            (0, 0b100) => Self::Nmi,
            (0, 0b000) => Self::Fixed(vector),
            (0, _) => Self::Other,
            _ => Self::Masked,
        }
    }
}

/// The address and data of a fixed interrupt to one local APIC, whose id has
/// eight bits.
///
/// SDM vol. 3A, "Message Address Register Format".
#[must_use]
const fn fixed_message(apic_id: u32, vector: u8) -> (u32, u32) {
    const LOCAL_APICS: u32 = 0xfee0_0000;
    (LOCAL_APICS | (apic_id & 0xff) << 12, vector as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guest-contract §4.1 and G-403.
    #[test]
    fn entries() {
        for (value, delivery) in [
            (0x400, Lvtpc::Nmi),
            (0x1_0400, Lvtpc::Masked),
            (0x1_0000, Lvtpc::Masked),
            (0xf2, Lvtpc::Fixed(0xf2)),
            (0x200, Lvtpc::Other),
        ] {
            assert_eq!(Lvtpc::decode(value), delivery, "{value:#x}");
        }
        assert_eq!(fixed_message(3, 0xf2), (0xfee0_3000, 0xf2));
    }
}
