//! The throw-away VM.

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use vpmu::host::software::Khz;

use super::{ProbeError, code};
use crate::kvm::{BootState, Exit, Hypervisor, Vcpu, Vm};
use crate::sys::guest_ram::GuestRam;

/// RAM of a probe that measures no RAM: one megabyte, all that real mode sees.
pub(super) const SMALL: usize = 1 << 20;
/// CPUID leaf of architectural performance monitoring, hidden as in every
/// guest whose PMU is ours.
const LEAF_PMU: u32 = 0xa;

/// A VM with one vCPU in real mode.
#[derive(Debug)]
pub struct ProbeGuest {
    // Before the VM, whose memory it uses.
    vcpu: Vcpu,
    vm: Vm,
}

/// The next action of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The guest read a number from a port, and got the offered number.
    Asked,
    /// The guest wrote a value (second field) to a port (first field).
    Said(u8, u32),
    /// A signal ended the run.
    Interrupted,
}

impl ProbeGuest {
    /// A guest with `ram` bytes that will run `program`.
    ///
    /// # Errors
    /// If the host has no memory or KVM refuses.
    pub(super) fn new(
        hypervisor: &Hypervisor,
        ram: usize,
        program: &[u8],
    ) -> Result<Self, ProbeError> {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), ram)])?;
        write_code(&memory, program)?;
        let vm = hypervisor.create_vm(memory)?;
        vm.disable_kvm_pmu()?;
        let vcpu = vm.create_vcpu(0)?;
        let mut cpuid = hypervisor.supported_cpuid()?;
        cpuid.retain(|entry| entry.leaf != LEAF_PMU);
        vcpu.set_cpuid(&cpuid)?;
        vcpu.set_boot_state(BootState::Real {
            entry: code::ENTRY,
            stack: code::STACK,
        })?;
        Ok(Self { vcpu, vm })
    }

    /// A guest with `ram` bytes that has run once, to look at what it takes
    /// from the host.
    ///
    /// # Errors
    /// [`ProbeError`]
    pub fn idle(hypervisor: &Hypervisor, ram: usize) -> Result<Self, ProbeError> {
        let mut guest = Self::new(hypervisor, ram, &code::EXITS)?;
        guest.code().next(0)?;
        Ok(guest)
    }

    /// The rate of its TSC.
    ///
    /// # Errors
    /// If KVM does not tell.
    pub(super) fn tsc_rate(&self) -> Result<Khz, ProbeError> {
        Ok(self.vcpu.tsc_rate()?)
    }

    /// Where the guest's RAM lies in this process.
    #[must_use]
    pub fn ram(&self) -> Vec<Range<u64>> {
        let range = |region: &crate::sys::guest_ram::GuestRamRegion| {
            let start = region.as_ptr() as u64;
            start..start.saturating_add(region.len())
        };
        self.vm.memory().iter().map(range).collect()
    }

    /// Its code, to be run.
    pub(super) const fn code(&mut self) -> ProbeRun<'_> {
        ProbeRun(&mut self.vcpu)
    }
}

/// The code of a probe on a vCPU, from exit to exit.
#[derive(Debug)]
pub(super) struct ProbeRun<'a>(pub(super) &'a mut Vcpu);

impl ProbeRun<'_> {
    /// Runs until something happens; a question is answered with `number`.
    ///
    /// # Errors
    /// If the guest ended.
    pub(super) fn step(&mut self, number: u32) -> Result<Event, ProbeError> {
        match self.0.run()? {
            Exit::PioIn { data, .. } => {
                for (to, from) in data.iter_mut().zip(number.to_le_bytes()) {
                    *to = from;
                }
                Ok(Event::Asked)
            }
            Exit::PioOut { port, data, .. } => {
                let mut word = [0u8; 4];
                for (to, from) in word.iter_mut().zip(data) {
                    *to = *from;
                }
                let port = u8::try_from(port).unwrap_or(code::OTHER);
                Ok(Event::Said(port, u32::from_le_bytes(word)))
            }
            Exit::Interrupted => Ok(Event::Interrupted),
            Exit::Shutdown => Err(ProbeError::Ended("a triple fault")),
            Exit::FailEntry { .. } => Err(ProbeError::Ended("the CPU refused to enter it")),
            Exit::InternalError => Err(ProbeError::Ended("KVM could not emulate it")),
            _ => Err(ProbeError::Ended("an unexpected exit")),
        }
    }

    /// [`ProbeRun::step`] without the interruptions.
    ///
    /// # Errors
    /// If the guest ended, or raised an exception other than #GP.
    pub(super) fn next(&mut self, number: u32) -> Result<Event, ProbeError> {
        loop {
            match self.step(number)? {
                Event::Interrupted => {}
                Event::Said(code::OTHER, _) => {
                    return Err(ProbeError::Ended("an exception other than #GP"));
                }
                event => return Ok(event),
            }
        }
    }
}

/// Writes a probe's code, and its interrupt table.
pub(super) fn write_code(memory: &GuestRam, program: &[u8]) -> Result<(), ProbeError> {
    // An entry of the interrupt table: offset, then segment 0.
    let mut table = Vec::with_capacity(code::VECTORS * 4);
    for vector in 0..code::VECTORS {
        let handler = if vector == code::GP_VECTOR {
            code::ON_GP
        } else {
            code::ON_OTHER
        };
        table.extend(u32::from(handler).to_le_bytes());
    }
    memory.write_slice(&table, GuestAddress(0))?;
    for (bytes, at) in [
        (program, code::ENTRY),
        (&code::HANDLE_GP[..], code::ON_GP),
        (&code::HANDLE_OTHER[..], code::ON_OTHER),
    ] {
        memory.write_slice(bytes, GuestAddress(at.into()))?;
    }
    Ok(())
}
