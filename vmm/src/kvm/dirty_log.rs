//! Which pages of its memory a guest has written, by KVM's notes and ours.
//!
//! KVM notes what vCPUs write, and what it writes for them; what this process writes is in
//! [`WrittenPages`](crate::sys::guest_ram::WrittenPages). A process that has the memory too
//! (vhost) is in neither.

use std::sync::Arc;

use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_ioctls::VmFd;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::vm::set_memory;
use super::{KvmError, ioctl};
use crate::sys::guest_ram::{GuestRam, PAGE};
use crate::sys::page_set::PageSet;

/// The notes of one VM, off at first: a guest's first write to each page costs a fault
/// while they are on, and nothing otherwise.
#[derive(Clone, Debug)]
pub struct DirtyLog {
    fd: Arc<VmFd>,
    memory: GuestRam,
}

impl DirtyLog {
    pub(super) const fn new(fd: Arc<VmFd>, memory: GuestRam) -> Self {
        Self { fd, memory }
    }

    /// Begins the notes, with no page. The VM stands meanwhile.
    ///
    /// # Errors
    /// What the ioctl says; there are no notes then.
    pub fn start(&self) -> Result<(), KvmError> {
        for region in self.memory.iter() {
            (**region).bitmap().start();
        }
        let begun = set_memory(&self.fd, &self.memory, KVM_MEM_LOG_DIRTY_PAGES);
        begun.inspect_err(|_| self.stop())
    }

    /// Ends them.
    pub fn stop(&self) {
        for region in self.memory.iter() {
            (**region).bitmap().stop();
        }
        if let Err(error) = set_memory(&self.fd, &self.memory, 0) {
            log::warn!("KVM goes on noting what the guest writes: {error}");
        }
    }

    /// The pages that were written since the last time, or the start. A page that is being
    /// written now may come the next time only.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn take(&self) -> Result<PageSet, KvmError> {
        let mut pages = PageSet::default();
        let mut first = 0;
        for (slot, region) in (0u32..).zip(self.memory.iter()) {
            let len = usize::try_from(region.len()).unwrap_or(usize::MAX);
            let written = self.fd.get_dirty_log(slot, len);
            pages.add_bits(first, &written.map_err(ioctl("KVM_GET_DIRTY_LOG"))?);
            pages.add_bits(first, &(**region).bitmap().take());
            first += region.len() / PAGE as u64;
        }
        Ok(pages)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::kvm::{BootState, Exit, Hypervisor, Vcpu};

    const ENTRY: u16 = 0x1000;

    fn runs_to_its_port(vcpu: &mut Vcpu) {
        loop {
            match vcpu.run().unwrap() {
                Exit::PioOut { .. } => return,
                Exit::Interrupted => {}
                other => unreachable!("{other:?}"),
            }
        }
    }

    /// Snapshots, DESIGN.md: what the guest writes, and what we write, and nothing else.
    #[test]
    fn exactly_the_pages_that_were_written_are_noted() {
        let kvm = match Hypervisor::open(Path::new("/dev/kvm")) {
            Ok(kvm) => kvm,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let regions = [(GuestAddress(0), 1 << 20), (GuestAddress(1 << 20), 1 << 20)];
        let memory = GuestRam::from_ranges(&regions).unwrap();
        // mov [0x3000], al; mov [0x5fff], ax; mov bl, [0x7000]; out 0x10, al; again
        let code = [
            0xa2, 0x00, 0x30, 0xa3, 0xff, 0x5f, 0x8a, 0x1e, 0x00, 0x70, 0xe6, 0x10, 0xeb, 0xf2,
        ];
        memory
            .write_slice(&code, GuestAddress(ENTRY.into()))
            .unwrap();
        let vm = kvm.create_vm(memory).unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        vcpu.set_cpuid(&kvm.supported_cpuid().unwrap()).unwrap();
        let (entry, stack) = (ENTRY, 0x8000);
        vcpu.set_boot_state(BootState::Real { entry, stack })
            .unwrap();
        let log = vm.dirty_log();
        runs_to_its_port(&mut vcpu);
        log.start().unwrap();
        assert!(log.take().unwrap().is_empty());
        for _ in 0..2 {
            runs_to_its_port(&mut vcpu);
            let ours = GuestAddress((1 << 20) + 0x9fff);
            vm.memory().write_obj(1u16, ours).unwrap();
            let pages = log.take().unwrap().ranges();
            assert_eq!(pages, [3..4, 5..7, 256 + 9..256 + 11]);
        }
        assert!(log.take().unwrap().is_empty());
        log.stop();
        runs_to_its_port(&mut vcpu);
        log.start().unwrap();
        assert!(log.take().unwrap().is_empty());
    }
}
