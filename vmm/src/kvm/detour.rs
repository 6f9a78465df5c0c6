//! A vCPU that executes something else before its own code.

use super::{BootState, KvmError, Vcpu, ioctl};

impl Vcpu {
    /// Has `work` use the vCPU from `state` on. The registers are as before afterwards,
    /// and no exit is left that KVM would complete at the next entry.
    ///
    /// For a vCPU that has not run yet and has been kicked by nobody: what else its
    /// guest may have changed, this does not put back.
    ///
    /// # Errors
    /// What the ioctls say: the vCPU is not as before then.
    pub fn detour<T>(
        &mut self,
        state: BootState,
        work: impl FnOnce(&mut Self) -> T,
    ) -> Result<T, KvmError> {
        let sregs = self.fd.get_sregs().map_err(ioctl("KVM_GET_SREGS"))?;
        let regs = self.fd.get_regs().map_err(ioctl("KVM_GET_REGS"))?;
        self.set_boot_state(state)?;
        let result = work(self);
        self.complete_exit()?;
        self.fd.set_sregs(&sregs).map_err(ioctl("KVM_SET_SREGS"))?;
        self.fd.set_regs(&regs).map_err(ioctl("KVM_SET_REGS"))?;
        Ok(result)
    }

    /// An entry that executes nothing but the end of the last exit.
    fn complete_exit(&mut self) -> Result<(), KvmError> {
        let leaves_at_once = |vcpu: &mut Self, value| vcpu.fd.set_kvm_immediate_exit(value);
        leaves_at_once(self, 1);
        let ended = self.run().map(drop);
        leaves_at_once(self, 0);
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::kvm::{Exit, Hypervisor};
    use crate::sys::guest_ram::GuestRam;

    #[test]
    fn the_registers_are_as_before() {
        let kvm = match Hypervisor::open(Path::new("/dev/kvm")) {
            Ok(kvm) => kvm,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        for own in [
            BootState::Long { entry: 0x4000 },
            BootState::Multiboot { entry: 0x4000 },
        ] {
            let memory = GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
            // in eax, 0x81; out 0x80, al
            let code = [0x66, 0xe5, 0x81, 0xe6, 0x80];
            memory.write_slice(&code, GuestAddress(0x1000)).unwrap();
            let vm = kvm.create_vm(memory).unwrap();
            let mut vcpu = vm.create_vcpu(0).unwrap();
            vcpu.set_cpuid(&kvm.supported_cpuid().unwrap()).unwrap();
            vcpu.set_boot_state(own).unwrap();
            let all = |vcpu: &Vcpu| (vcpu.fd.get_sregs().unwrap(), vcpu.fd.get_regs().unwrap());
            let before = all(&vcpu);
            let real = BootState::Real {
                entry: 0x1000,
                stack: 0x800,
            };
            // Left at an IN, whose answer must not get into the guest's EAX.
            let asked = vcpu.detour(real, |vcpu| match vcpu.run() {
                Ok(Exit::PioIn { port, data, .. }) => {
                    data.fill(0xff);
                    port
                }
                exit => panic!("{exit:?}"),
            });
            assert_eq!(asked.unwrap(), 0x81, "{own:?}");
            assert_eq!(all(&vcpu), before, "{own:?}");
        }
    }
}
