//! A register of a vCPU's local APIC, read again and again.

use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry};

use super::{KvmError, Vcpu, ioctl};

/// In the APIC base: the registers are MSRs.
///
/// SDM vol. 3A, "Detecting and Enabling x2APIC Mode".
const X2APIC_MODE: u64 = 1 << 10;
/// The first MSR of the x2APIC.
const X2APIC_MSRS: u32 = 0x800;

/// A register of the local APIC. Where it is an MSR, one is read in place of the page of
/// all registers.
#[derive(Debug)]
pub struct ApicRegister {
    offset: usize,
    msr: Msrs,
}

impl ApicRegister {
    /// The register with this offset in the APIC's page.
    ///
    /// # Errors
    /// As for a list of MSRs that is too long, which one is not.
    pub fn new(offset: u16) -> Result<Self, KvmError> {
        let entry = kvm_msr_entry {
            index: X2APIC_MSRS + u32::from(offset >> 4),
            ..kvm_msr_entry::default()
        };
        let what = "the list of one MSR";
        let msr = Msrs::from_entries(&[entry]).map_err(|_| KvmError::TooMany { what, len: 1 })?;
        Ok(Self {
            offset: offset.into(),
            msr,
        })
    }

    /// Its value at the vCPU's last exit.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn read(&mut self, vcpu: &mut Vcpu) -> Result<u32, KvmError> {
        if vcpu.fd.get_kvm_run().apic_base & X2APIC_MODE != 0 {
            let read = vcpu.fd.get_msrs(&mut self.msr);
            let read = read.map_err(ioctl("KVM_GET_MSRS"))?;
            if let (1, [entry]) = (read, self.msr.as_slice()) {
                let [a, b, c, d, ..] = entry.data.to_le_bytes();
                return Ok(u32::from_le_bytes([a, b, c, d]));
            }
        }
        let lapic = vcpu.fd.get_lapic().map_err(ioctl("KVM_GET_LAPIC"))?;
        Ok(apic_register(&lapic, self.offset))
    }
}

/// A register of a local APIC, by its offset; 0 beyond the page.
pub(super) fn apic_register(lapic: &kvm_lapic_state, offset: usize) -> u32 {
    let mut bytes = [0u8; 4];
    for (byte, &reg) in bytes.iter_mut().zip(lapic.regs.iter().skip(offset)) {
        *byte = reg.cast_unsigned();
    }
    u32::from_le_bytes(bytes)
}
