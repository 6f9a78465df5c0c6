//! One VM.
#![expect(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION")]

use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_HALT_POLL, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE, kvm_enable_cap, kvm_msi,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, MsrExitReason, NoDatamatch, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::layout;
use super::msi::{MsiLine, MsiRoutes};
use super::{DirtyLog, KvmError, MsrFilter, Vcpu, VmChips, ioctl};
use crate::sys::guest_ram::GuestRam;

/// A KVM virtual machine and the memory that it may touch.
#[derive(Debug)]
pub struct Vm {
    fd: Arc<VmFd>,
    memory: GuestRam,
    routes: Arc<MsiRoutes>,
}

/// Sends message-signalled interrupts to a VM, from any thread.
#[derive(Clone, Debug)]
pub struct Interrupter(Arc<VmFd>);

impl Interrupter {
    /// Sends one.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn signal_msi(&self, address: u32, data: u32) -> Result<(), KvmError> {
        let msi = kvm_msi {
            address_lo: address,
            data,
            ..kvm_msi::default()
        };
        self.0
            .signal_msi(msi)
            .map(drop)
            .map_err(ioctl("KVM_SIGNAL_MSI"))
    }
}

/// Gives a VM its memory, one slot for each region; or other flags for its slots.
pub(super) fn set_memory(fd: &VmFd, memory: &GuestRam, flags: u32) -> Result<(), KvmError> {
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the mapping belongs to `memory`, which whoever holds the VM's descriptor
        // holds as long (`Vm`, `DirtyLog`), and regions do not overlap.
        unsafe { fd.set_user_memory_region(region) }
            .map_err(ioctl("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}

impl Vm {
    pub(super) fn set_up(fd: VmFd, memory: GuestRam) -> Result<Self, KvmError> {
        fd.set_identity_map_address(layout::IDENTITY_MAP)
            .map_err(ioctl("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.set_tss_address(layout::TSS)
            .map_err(ioctl("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(ioctl("KVM_CREATE_IRQCHIP"))?;
        let fd = Arc::new(fd);
        let vm = Self {
            routes: Arc::new(MsiRoutes::new(Arc::clone(&fd))),
            fd,
            memory,
        };
        set_memory(&vm.fd, &vm.memory, 0)?;
        Ok(vm)
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestRam {
        &self.memory
    }

    /// Creates a vCPU, whose APIC id this fixes.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn create_vcpu(&self, apic_id: u32) -> Result<Vcpu, KvmError> {
        self.fd
            .create_vcpu(u64::from(apic_id))
            .map(|fd| Vcpu::new(fd, &self.fd))
            .map_err(ioctl("KVM_CREATE_VCPU"))
    }

    /// Makes each write to `event` an edge on interrupt line `gsi`.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn connect_irq(&self, event: &EventFd, gsi: u32) -> Result<(), KvmError> {
        self.fd
            .register_irqfd(event, gsi)
            .map_err(ioctl("KVM_IRQFD"))
    }

    /// A new message-signalled interrupt, not connected yet.
    ///
    /// # Errors
    /// If the host gives no eventfd, or this KVM has no route left.
    pub fn msi_line(&self) -> Result<MsiLine, KvmError> {
        self.routes.line()
    }

    /// Makes each guest write to `address`, of any width and value, a write of 1 to
    /// `event`, without an exit to us.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn connect_write(&self, event: &EventFd, address: u64) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(ioctl("KVM_IOEVENTFD"))
    }

    /// A way to interrupt this VM that other threads may hold.
    #[must_use]
    pub fn interrupter(&self) -> Interrupter {
        Interrupter(Arc::clone(&self.fd))
    }

    /// The interrupt controllers and the clock, for whoever saves or restores them.
    #[must_use]
    pub fn chips(&self) -> VmChips {
        VmChips::new(Arc::clone(&self.fd))
    }

    /// The notes of what the guest writes, off yet.
    #[must_use]
    pub fn dirty_log(&self) -> DirtyLog {
        DirtyLog::new(Arc::clone(&self.fd), self.memory.clone())
    }

    /// Switches KVM's own vPMU off for this VM. Returns whether this KVM can;
    /// call it before the first vCPU is created.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn disable_kvm_pmu(&self) -> Result<bool, KvmError> {
        let can = self
            .fd
            .check_extension_raw(u64::from(KVM_CAP_PMU_CAPABILITY));
        if can & i32::try_from(KVM_PMU_CAP_DISABLE).unwrap_or(0) == 0 {
            return Ok(false);
        }
        self.enable(KVM_CAP_PMU_CAPABILITY, u64::from(KVM_PMU_CAP_DISABLE))?;
        Ok(true)
    }

    /// Has a halted vCPU sleep at once, where KVM polls for a while by default.
    /// Returns whether this KVM can.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn disable_halt_polling(&self) -> Result<bool, KvmError> {
        if self.fd.check_extension_raw(u64::from(KVM_CAP_HALT_POLL)) == 0 {
            return Ok(false);
        }
        self.enable(KVM_CAP_HALT_POLL, 0)?;
        Ok(true)
    }

    /// Sends the MSR accesses that KVM does not know, and those that a filter
    /// denies, to us. Returns whether this KVM can.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn enable_msr_exits(&self) -> Result<bool, KvmError> {
        if !self.fd.check_extension(Cap::X86UserSpaceMsr) {
            return Ok(false);
        }
        let reasons = MsrExitReason::Unknown | MsrExitReason::Filter;
        self.enable(Cap::X86UserSpaceMsr as u32, u64::from(reasons.bits()))?;
        Ok(true)
    }

    /// Denies the MSRs of `filter` to KVM, so that their accesses reach us.
    ///
    /// # Errors
    /// If this KVM has no filter, or what the ioctl says.
    pub fn set_msr_filter(&self, filter: &MsrFilter) -> Result<(), KvmError> {
        if !self.fd.check_extension(Cap::X86MsrFilter) {
            return Err(KvmError::Missing("MSR filters"));
        }
        filter.apply(&self.fd)
    }

    fn enable(&self, cap: u32, argument: u64) -> Result<(), KvmError> {
        let cap = kvm_enable_cap {
            cap,
            args: [argument, 0, 0, 0],
            ..kvm_enable_cap::default()
        };
        self.fd.enable_cap(&cap).map_err(ioctl("KVM_ENABLE_CAP"))
    }
}
