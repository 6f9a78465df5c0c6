//! A vCPU's state, read from KVM and put back, for two purposes:
//!
//! * its power-on state. KVM cannot destroy a vCPU while its VM lives, so an unplugged
//!   vCPU is kept, and reset before it is plugged in again (guest-contract, rule G-704);
//! * its state in a snapshot, put into a vCPU of another VM.
//!
//! The state is read from KVM rather than taken from a table, so it contains
//! everything that this KVM stores. CPUID does not change after the first run.
#![expect(unsafe_code, reason = "KVM_SET_XSAVE")]

use std::collections::BTreeMap;
use std::fmt;

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Cap, KvmNestedStateBuffer, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use vpmu::ids::MsrIndex;

use super::apic::apic_register;
use super::tsc_moment::TscMoment;
use super::{CpuidEntry, KvmError, ioctl};

/// The most MSRs of one ioctl (Linux: `MAX_IO_MSRS`).
const MOST_MSRS: usize = 256;

pub(super) const TSC: u32 = 0x10;
/// IA32_TSC_DEADLINE, and the APIC's timer entry, whose mode it belongs to (SDM vol. 3A,
/// "TSC-Deadline Mode").
const TSC_DEADLINE: u32 = 0x6e0;
const APIC_LVT_TIMER: usize = 0x320;
const TIMER_MODE: u32 = 3 << 17;
const MODE_TSC_DEADLINE: u32 = 2 << 17;
/// The wall clock of KVM's clock, by its two numbers: one for all vCPUs (Linux:
/// "KVM-specific MSRs").
const WALL_CLOCK: [u32; 2] = [0x11, 0x4b56_4d00];
/// MTRRs, and the machine-check banks: KVM keeps them and does not list them.
const UNLISTED: [std::ops::Range<u32>; 6] = [
    0x200..0x210,
    0x250..0x251,
    0x258..0x25a,
    0x268..0x270,
    0x2ff..0x300,
    0x400..0x480,
];

/// Whether a register belongs to the vCPU: not the KVM wall clock, which is the
/// VM's, and not Hyper-V's, which no guest here is offered; the TSC is set in
/// step with the others'.
const fn is_the_vcpus(index: u32) -> bool {
    !matches!(index, TSC | 0x4000_0000..=0x4000_0fff | 0x11 | 0x4b56_4d00)
}

/// The parts of a vCPU's state that this KVM can read and write.
#[derive(Clone, Copy, Debug)]
pub(super) struct StateCaps {
    xcrs: bool,
    debug: bool,
    nested: bool,
}

impl StateCaps {
    pub(super) fn of(vm: &VmFd) -> Self {
        Self {
            xcrs: vm.check_extension(Cap::Xcrs),
            debug: vm.check_extension(Cap::Debugregs),
            nested: vm.check_extension(Cap::NestedState),
        }
    }
}

/// The state of one vCPU. In a snapshot it is without the state of a guest's guests.
#[derive(Serialize, Deserialize)]
pub(super) struct VcpuImage {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: Option<kvm_xcrs>,
    debug: Option<kvm_debugregs>,
    lapic: kvm_lapic_state,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
    #[serde(skip)]
    nested: Option<KvmNestedStateBuffer>,
    msrs: Vec<(u32, u64)>,
}

impl fmt::Debug for VcpuImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuImage")
            .field("msrs", &self.msrs.len())
            .finish_non_exhaustive()
    }
}

/// MSRs that a vCPU may have; which it has is found out by reading.
pub(super) fn candidates(listed: &[u32]) -> Vec<MsrIndex> {
    let unlisted = UNLISTED.into_iter().flatten();
    let mut all: Vec<_> = listed.iter().copied().chain(unlisted).collect();
    all.retain(|&index| is_the_vcpus(index));
    all.sort_unstable();
    all.dedup();
    all.into_iter().map(MsrIndex).collect()
}

impl VcpuImage {
    /// Reads the state, of `msrs` those that KVM has.
    ///
    /// # Errors
    /// What the ioctls say.
    pub(super) fn read(fd: &VcpuFd, caps: StateCaps, msrs: &[MsrIndex]) -> Result<Self, KvmError> {
        let optional = |is_there: bool| is_there.then_some(());
        let xcrs = optional(caps.xcrs).map(|()| fd.get_xcrs());
        let debug = optional(caps.debug).map(|()| fd.get_debug_regs());
        let nested = optional(caps.nested).map(|()| {
            let mut state = KvmNestedStateBuffer::empty();
            fd.nested_state(&mut state).map(|_| state)
        });
        Ok(Self {
            // First: it takes in an INIT that waits.
            mp_state: fd.get_mp_state().map_err(ioctl("KVM_GET_MP_STATE"))?,
            regs: fd.get_regs().map_err(ioctl("KVM_GET_REGS"))?,
            sregs: fd.get_sregs().map_err(ioctl("KVM_GET_SREGS"))?,
            xsave: fd.get_xsave().map_err(ioctl("KVM_GET_XSAVE"))?,
            xcrs: xcrs.transpose().map_err(ioctl("KVM_GET_XCRS"))?,
            debug: debug.transpose().map_err(ioctl("KVM_GET_DEBUGREGS"))?,
            lapic: fd.get_lapic().map_err(ioctl("KVM_GET_LAPIC"))?,
            events: fd.get_vcpu_events().map_err(ioctl("KVM_GET_VCPU_EVENTS"))?,
            nested: nested.transpose().map_err(ioctl("KVM_GET_NESTED_STATE"))?,
            // Room for those that KVM has, and not for all that were asked for: each vCPU
            // keeps an image.
            msrs: read_msrs(fd, msrs)?
                .iter()
                .map(|&(index, value)| (index.0, value))
                .collect(),
        })
    }

    /// The MSRs that KVM has.
    pub(super) fn msrs(&self) -> Vec<MsrIndex> {
        let indices = self.msrs.iter().map(|&(index, _)| MsrIndex(index));
        indices.collect()
    }

    /// Makes the vCPU what it was.
    ///
    /// # Errors
    /// What the ioctls say, or the first MSR that is not to be changed back.
    pub(super) fn restore(&self, fd: &VcpuFd) -> Result<(), KvmError> {
        // A host that writes 0 has KVM put the TSC in step with the VM's other vCPUs.
        self.restore_with(fd, || vec![(MsrIndex(TSC), 0)])
    }

    /// The same, with these MSRs written before the state's, of the moment when they are.
    fn restore_with(
        &self,
        fd: &VcpuFd,
        first: impl FnOnce() -> Vec<(MsrIndex, u64)>,
    ) -> Result<(), KvmError> {
        if let Some(nested) = &self.nested {
            fd.set_nested_state(nested)
                .map_err(ioctl("KVM_SET_NESTED_STATE"))?;
        }
        // With the APIC's mode, which its registers depend on.
        fd.set_sregs(&self.sregs).map_err(ioctl("KVM_SET_SREGS"))?;
        fd.set_regs(&self.regs).map_err(ioctl("KVM_SET_REGS"))?;
        if let Some(xcrs) = &self.xcrs {
            fd.set_xcrs(xcrs).map_err(ioctl("KVM_SET_XCRS"))?;
        }
        // SAFETY: KVM reads more than the structure only for features that a
        // process switches on with arch_prctl, which this one never does.
        unsafe { fd.set_xsave(&self.xsave) }.map_err(ioctl("KVM_SET_XSAVE"))?;
        if let Some(debug) = &self.debug {
            fd.set_debug_regs(debug)
                .map_err(ioctl("KVM_SET_DEBUGREGS"))?;
        }
        fd.set_lapic(&self.lapic).map_err(ioctl("KVM_SET_LAPIC"))?;
        self.restore_msrs(fd, &first())?;
        fd.set_vcpu_events(&self.events)
            .map_err(ioctl("KVM_SET_VCPU_EVENTS"))?;
        fd.set_mp_state(self.mp_state)
            .map_err(ioctl("KVM_SET_MP_STATE"))
    }

    /// Only what has changed is written: some are fixed after the first run. In their
    /// order: the TSC is there before its deadline.
    fn restore_msrs(&self, fd: &VcpuFd, first: &[(MsrIndex, u64)]) -> Result<(), KvmError> {
        write_msrs(fd, first)?;
        let now = read_msrs(fd, &self.msrs())?;
        let now: BTreeMap<u32, u64> = now.into_iter().map(|(index, v)| (index.0, v)).collect();
        let changed = self.msrs.iter().filter(|(i, v)| now.get(i) != Some(v));
        let changed: Vec<_> = changed.map(|&(i, v)| (MsrIndex(i), v)).collect();
        for part in changed.chunks(MOST_MSRS) {
            write_msrs(fd, part)?;
        }
        Ok(())
    }

    /// KVM clears a deadline that is over, and delivers its interrupt at the next entry: in
    /// another VM, which has none to deliver, the deadline is over anew.
    fn keep_deadline(&mut self, tsc: u64) {
        let timer = apic_register(&self.lapic, APIC_LVT_TIMER);
        if timer & TIMER_MODE == MODE_TSC_DEADLINE {
            let deadline = self.msrs.iter_mut().find(|(i, _)| *i == TSC_DEADLINE);
            if let Some((_, deadline @ 0)) = deadline {
                *deadline = tsc;
            }
        }
    }
}

/// A vCPU in a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedVcpu {
    state: VcpuImage,
    /// Its TSC when it was saved.
    tsc: TscMoment,
    /// The VM's wall clock, which each vCPU can read.
    wall_clock: Vec<(u32, u64)>,
    /// What CPUID answers.
    cpuid: Vec<CpuidEntry>,
}

impl SavedVcpu {
    /// Saves a vCPU that stands at an exit boundary. Of `msrs` those count that KVM has.
    ///
    /// # Errors
    /// What the ioctls say.
    pub(super) fn read(
        fd: &VcpuFd,
        caps: StateCaps,
        msrs: &[MsrIndex],
        cpuid: Vec<CpuidEntry>,
    ) -> Result<Self, KvmError> {
        let mut state = VcpuImage::read(fd, caps, msrs)?;
        let tsc = TscMoment::of(fd)?;
        state.keep_deadline(tsc.tsc());
        let wall_clock = read_msrs(fd, &WALL_CLOCK.map(MsrIndex))?;
        Ok(Self {
            state,
            tsc,
            wall_clock: wall_clock.into_iter().map(|(i, v)| (i.0, v)).collect(),
            cpuid,
        })
    }

    /// Its TSC when it was saved.
    #[must_use]
    pub const fn tsc(&self) -> TscMoment {
        self.tsc
    }

    /// What CPUID answers.
    #[must_use]
    pub fn cpuid(&self) -> &[CpuidEntry] {
        &self.cpuid
    }

    /// Puts it into a vCPU that has not run. Its TSC goes on from `tsc`: KVM has vCPUs in
    /// step whose TSCs are to be within a second of each other.
    ///
    /// # Errors
    /// What the ioctls say, or the first MSR that KVM refused.
    pub(super) fn restore(&self, fd: &VcpuFd, tsc: TscMoment) -> Result<(), KvmError> {
        self.state.restore_with(fd, || {
            let mut first = vec![(MsrIndex(TSC), tsc.now())];
            let set = self.wall_clock.iter().filter(|(_, at)| *at != 0);
            first.extend(set.map(|&(index, at)| (MsrIndex(index), at)));
            first
        })
    }
}

/// Writes MSRs as the host: no filter, no read-only bits.
pub(super) fn write_msrs(fd: &VcpuFd, msrs: &[(MsrIndex, u64)]) -> Result<(), KvmError> {
    let list = list(msrs)?;
    let set = fd.set_msrs(&list).map_err(ioctl("KVM_SET_MSRS"))?;
    match msrs.get(set) {
        None => Ok(()),
        Some(&(index, _)) => Err(KvmError::MsrRefused { index: index.0 }),
    }
}

/// Those of `indices` that KVM has. It stops at one that it has not.
pub(super) fn read_msrs(
    fd: &VcpuFd,
    indices: &[MsrIndex],
) -> Result<Vec<(MsrIndex, u64)>, KvmError> {
    let mut found = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let (now, _) = rest.split_at(rest.len().min(MOST_MSRS));
        let unread: Vec<_> = now.iter().map(|&index| (index, 0)).collect();
        let mut list = list(&unread)?;
        let read = fd.get_msrs(&mut list).map_err(ioctl("KVM_GET_MSRS"))?;
        let values = list.as_slice().iter().take(read);
        found.extend(values.map(|entry| (MsrIndex(entry.index), entry.data)));
        let missing = usize::from(read < now.len());
        rest = rest.get(read + missing..).unwrap_or_default();
    }
    Ok(found)
}

fn list(msrs: &[(MsrIndex, u64)]) -> Result<Msrs, KvmError> {
    let entry = |&(index, data): &(MsrIndex, u64)| kvm_msr_entry {
        index: index.0,
        data,
        ..kvm_msr_entry::default()
    };
    let entries: Vec<_> = msrs.iter().map(entry).collect();
    Msrs::from_entries(&entries).map_err(|_| KvmError::TooMany {
        what: "the MSR list",
        len: entries.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_vms_is_left_alone() {
        let listed = [
            0x10,
            0x11,
            0xc000_0082,
            0x4b56_4d00,
            0x4b56_4d01,
            0x4000_0000,
        ];
        let all = candidates(&listed);
        assert!(all.contains(&MsrIndex(0xc000_0082)));
        assert!(all.contains(&MsrIndex(0x4b56_4d01)));
        assert!(all.contains(&MsrIndex(0x2ff)) && all.contains(&MsrIndex(0x47f)));
        for index in [0x10, 0x11, 0x4b56_4d00, 0x4000_0000] {
            assert!(!all.contains(&MsrIndex(index)), "{index:#x}");
        }
        assert!(all.is_sorted());
    }
}
