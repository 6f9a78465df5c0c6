//! One vCPU.
#![expect(unsafe_code, reason = "the unions and the flag of kvm_run")]

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_fpu, kvm_lapic_state, kvm_run};
use kvm_ioctls::{Cap, SyncReg, VcpuExit, VcpuFd};
use vpmu::host::Level;
use vpmu::host::software::Khz;
use vpmu::ids::MsrIndex;

use super::hypervisor::to_kvm_cpuid;
use super::tsc_moment::TscMoment;
use super::vcpu_image::{self, SavedVcpu, StateCaps, VcpuImage};
use super::{BootState, CpuidEntry, Exit, Gp, KvmError, ioctl};
use crate::sys::kick::ImmediateExit;

/// Local APIC register offsets (Intel SDM vol. 3A, "Local APIC Register
/// Address Map").
const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
/// Delivery modes of a local vector table entry, in place.
const MODE_NMI: u32 = 4 << 8;
const MODE_EXTINT: u32 = 7 << 8;
/// Power-on values of the x87 and SSE control registers.
const FPU_CONTROL: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;

/// A vCPU of KVM. Its thread owns it.
#[derive(Debug)]
pub struct Vcpu {
    pub(super) fd: VcpuFd,
    /// KVM leaves the general registers in the run page at each exit.
    pub(super) synced: bool,
    caps: StateCaps,
    /// What [`Vcpu::reset`] goes back to.
    power_on: Option<Box<VcpuImage>>,
}

impl Vcpu {
    /// A vCPU of `vm`.
    pub(super) fn new(mut fd: VcpuFd, vm: &kvm_ioctls::VmFd) -> Self {
        let synced = vm.check_extension(Cap::SyncRegs);
        if synced {
            fd.set_sync_valid_reg(SyncReg::Register);
        }
        Self {
            fd,
            synced,
            caps: StateCaps::of(vm),
            power_on: None,
        }
    }

    /// Takes the state that the vCPU is in for the one that it starts from,
    /// each time that it is plugged in. Of `msrs` those count that KVM has;
    /// they are returned, for the next vCPU.
    ///
    /// # Errors
    /// What the ioctls say.
    pub fn remember_power_on(&mut self, msrs: &[MsrIndex]) -> Result<Vec<MsrIndex>, KvmError> {
        let state = VcpuImage::read(&self.fd, self.caps, msrs)?;
        let has = state.msrs();
        self.power_on = Some(Box::new(state));
        Ok(has)
    }

    /// Makes it as after power-on: nothing of what ran on it is left, no timer
    /// of its APIC, no memory that KVM writes for it.
    ///
    /// # Errors
    /// What the ioctls say, or the first MSR that does not change back.
    pub fn reset(&mut self) -> Result<(), KvmError> {
        // Registers that were changed for an entry that did not come.
        self.fd.clear_sync_dirty_reg(SyncReg::Register);
        match &self.power_on {
            Some(state) => state.restore(&self.fd),
            None => Ok(()),
        }
    }

    /// Saves what it is for another VM; it stands at an exit boundary. Of `msrs` those count
    /// that KVM has.
    ///
    /// # Errors
    /// What the ioctls say.
    pub fn save(&self, msrs: &[MsrIndex]) -> Result<SavedVcpu, KvmError> {
        SavedVcpu::read(&self.fd, self.caps, msrs, self.cpuid()?)
    }

    /// Becomes a vCPU that was saved, before its first run. Its TSC goes on from `tsc`, which
    /// is the same for all vCPUs that are to be in step.
    ///
    /// # Errors
    /// What the ioctls say, or the first MSR that KVM refused.
    pub fn restore(&mut self, saved: &SavedVcpu, tsc: TscMoment) -> Result<(), KvmError> {
        saved.restore(&self.fd, tsc)
    }

    /// Sets what CPUID answers. KVM takes it before the first run only.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn set_cpuid(&self, table: &[CpuidEntry]) -> Result<(), KvmError> {
        self.fd
            .set_cpuid2(&to_kvm_cpuid(table)?)
            .map_err(ioctl("KVM_SET_CPUID2"))
    }

    /// What CPUID answers: the table of [`Vcpu::set_cpuid`] with the bits that KVM keeps
    /// for itself.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn cpuid(&self) -> Result<Vec<CpuidEntry>, KvmError> {
        let table = self.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES);
        let table = table.map_err(ioctl("KVM_GET_CPUID2"))?;
        Ok(table.as_slice().iter().map(CpuidEntry::from).collect())
    }

    /// Writes MSRs as the host: no filter, no read-only bits.
    ///
    /// # Errors
    /// What the ioctl says, or the first register that KVM refused.
    pub fn set_msrs(&self, msrs: &[(MsrIndex, u64)]) -> Result<(), KvmError> {
        vcpu_image::write_msrs(&self.fd, msrs)
    }

    /// Wires the local interrupt pins as firmware would: LINT0 external, LINT1
    /// NMI.
    ///
    /// # Errors
    /// What the ioctls say.
    pub fn init_lapic(&self) -> Result<(), KvmError> {
        let mut lapic = self.fd.get_lapic().map_err(ioctl("KVM_GET_LAPIC"))?;
        write_apic(&mut lapic, APIC_LVT_LINT0, MODE_EXTINT);
        write_apic(&mut lapic, APIC_LVT_LINT1, MODE_NMI);
        self.fd.set_lapic(&lapic).map_err(ioctl("KVM_SET_LAPIC"))
    }

    /// Sets the FPU as after power-on.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn init_fpu(&self) -> Result<(), KvmError> {
        let fpu = kvm_fpu {
            fcw: FPU_CONTROL,
            mxcsr: MXCSR,
            ..kvm_fpu::default()
        };
        self.fd.set_fpu(&fpu).map_err(ioctl("KVM_SET_FPU"))
    }

    /// Puts the boot CPU at the kernel's entry.
    ///
    /// # Errors
    /// What the ioctls say.
    pub fn set_boot_state(&self, state: BootState) -> Result<(), KvmError> {
        let mut sregs = self.fd.get_sregs().map_err(ioctl("KVM_GET_SREGS"))?;
        state.apply(&mut sregs);
        self.fd.set_sregs(&sregs).map_err(ioctl("KVM_SET_SREGS"))?;
        self.fd
            .set_regs(&state.regs())
            .map_err(ioctl("KVM_SET_REGS"))
    }

    /// Enters the guest until something happens.
    ///
    /// # Errors
    /// What `KVM_RUN` says, apart from an interruption.
    pub fn run(&mut self) -> Result<Exit<'_>, KvmError> {
        let kvm_run = &raw const *self.fd.get_kvm_run();
        match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                // SAFETY: the run page stays mapped while the vCPU lives, and this is
                // its exit.
                let size = unsafe { port_access_size(kvm_run) };
                Ok(Exit::PioIn { port, size, data })
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                // SAFETY: as above.
                let size = unsafe { port_access_size(kvm_run) };
                Ok(Exit::PioOut { port, size, data })
            }
            Ok(exit) => Ok(Exit::of(exit)),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                Ok(Exit::Interrupted)
            }
            Err(error) => Err(ioctl("KVM_RUN")(error)),
        }
    }

    /// The suberror of the last [`Exit::InternalError`].
    #[must_use]
    pub fn internal_error(&mut self) -> u32 {
        // SAFETY: every field of this union is plain data; a stale one is only
        // a wrong number in a message.
        unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror }
    }

    /// The guest's instruction pointer at the last exit; 0 if KVM does not
    /// tell.
    #[must_use]
    pub fn instruction_pointer(&mut self) -> u64 {
        if self.synced {
            self.fd.sync_regs_mut().regs.rip
        } else {
            self.fd.get_regs().map_or(0, |regs| regs.rip)
        }
    }

    /// Completes the RDMSR of the last exit with a value or #GP, at the next
    /// entry.
    pub fn answer_rdmsr(&mut self, outcome: Result<u64, Gp>) {
        // SAFETY: every field of this union is plain data, and `msr` is the one
        // that an MSR exit has filled in and KVM reads back.
        let msr = unsafe { &mut self.fd.get_kvm_run().__bindgen_anon_1.msr };
        msr.error = u8::from(outcome.is_err());
        msr.data = outcome.unwrap_or(0);
    }

    /// Completes the WRMSR of the last exit, at the next entry.
    pub fn answer_wrmsr(&mut self, outcome: Result<(), Gp>) {
        // SAFETY: as in `answer_rdmsr`.
        let msr = unsafe { &mut self.fd.get_kvm_run().__bindgen_anon_1.msr };
        msr.error = u8::from(outcome.is_err());
    }

    /// The privilege level at which the guest was left.
    ///
    /// # Errors
    /// What the ioctl says.
    ///
    /// SDM vol. 3C, "Guest Register State": SS.DPL is the CPL; KVM keeps to it on
    /// AMD too.
    pub fn privilege_level(&self) -> Result<Level, KvmError> {
        let sregs = self.fd.get_sregs().map_err(ioctl("KVM_GET_SREGS"))?;
        Ok(match sregs.ss.dpl {
            0 => Level::Kernel,
            _ => Level::User,
        })
    }

    /// The rate of the guest's TSC.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn tsc_rate(&self) -> Result<Khz, KvmError> {
        self.fd
            .get_tsc_khz()
            .map(Khz)
            .map_err(ioctl("KVM_GET_TSC_KHZ"))
    }

    /// Whether the guest took maskable interrupts when it was left (RFLAGS.IF); `false` if
    /// it has not run.
    #[must_use]
    pub fn takes_interrupts(&mut self) -> bool {
        self.fd.get_kvm_run().if_flag != 0
    }

    /// Whether an NMI that is injected now would have to wait: for the guest's
    /// IRET from another one, or behind one.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn nmi_is_blocked(&self) -> Result<bool, KvmError> {
        let events = self
            .fd
            .get_vcpu_events()
            .map_err(ioctl("KVM_GET_VCPU_EVENTS"))?;
        let nmi = events.nmi;
        Ok(nmi.masked != 0 || nmi.pending != 0 || nmi.injected != 0)
    }

    /// Injects an NMI.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn inject_nmi(&self) -> Result<(), KvmError> {
        self.fd.nmi().map_err(ioctl("KVM_NMI"))
    }

    /// Tells a guest that uses the KVM clock that it did not run for a while,
    /// so that its watchdogs do not blame it for that (`KVM_KVMCLOCK_CTRL`).
    pub fn guest_was_stopped(&self) {
        if let Err(error) = self.fd.kvmclock_ctrl() {
            // EINVAL: this guest does not use the KVM clock.
            log::debug!("KVM_KVMCLOCK_CTRL: {error}");
        }
    }

    /// Where the signal handler finds `immediate_exit`.
    #[must_use]
    pub fn immediate_exit(&mut self) -> ImmediateExit {
        let flag = &mut self.fd.get_kvm_run().immediate_exit;
        // SAFETY: the run page stays mapped while the vCPU lives, and the vCPU's
        // thread drops its registration before its vCPU.
        unsafe { ImmediateExit::new(flag) }
    }
}

/// The size of one access of a port exit; the binding gives the bytes of all its accesses
/// alone. They lie behind this page, so that no reference to them covers what is read.
///
/// # Safety
/// `kvm_run` is mapped, and the last exit of its vCPU is one of a port.
unsafe fn port_access_size(kvm_run: *const kvm_run) -> usize {
    // SAFETY: mapped, as the caller says, and nobody writes to it outside of a run.
    let kvm_run = unsafe { &*kvm_run };
    // SAFETY: every field of the union is plain data, and `io` is the one that a port
    // exit has filled in.
    let size = unsafe { kvm_run.__bindgen_anon_1.io.size };
    usize::from(size).max(1)
}

fn write_apic(lapic: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (reg, byte) in lapic.regs.iter_mut().skip(offset).zip(value.to_le_bytes()) {
        *reg = byte.cast_signed();
    }
}
