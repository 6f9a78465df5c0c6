//! Probes on a vCPU of the guest, before its first instruction: what the host does there
//! is what the guest will see, and no VM is made and ended for it.

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress};
use vpmu::units::Nanos;

use super::cost::exit_cost_of;
use super::guest::{ProbeRun, write_code};
use super::rdpmc::answers;
use super::{ProbeError, Rdpmc, code};
use crate::kvm::{BootState, KvmError, Vcpu};
use crate::sys::guest_ram::GuestRam;

/// Memory that a probe writes: the interrupt table, the code, the stack.
const USED: [Range<u16>; 3] = [
    0..0x400,
    code::ENTRY..code::ENTRY + 0x200,
    code::STACK - 0x100..code::STACK,
];

/// What a probe found, if its code came to an end; the error is of a vCPU or a memory
/// that is not as it was before, so that no guest can run there.
pub type OwnAnswer<T> = Result<Result<T, ProbeError>, KvmError>;

/// [`super::rdpmc()`] on a vCPU that has not run yet, which has this memory. The vCPU and
/// the memory are as before afterwards.
///
/// # Errors
/// The outer error says that they are not; the inner one is the probe's.
pub fn own_rdpmc(vcpu: &mut Vcpu, memory: &GuestRam, indices: &[u32]) -> OwnAnswer<Vec<Rdpmc>> {
    run(vcpu, memory, &code::RDPMC, |mut run| {
        answers(&mut run, indices)
    })
}

/// [`super::exit_cost`], likewise.
///
/// # Errors
/// As [`own_rdpmc`].
pub fn own_exit_cost(vcpu: &mut Vcpu, memory: &GuestRam) -> OwnAnswer<Nanos> {
    let tsc = vcpu.tsc_rate()?;
    run(vcpu, memory, &code::EXITS, |mut run| {
        exit_cost_of(&mut run, tsc)
    })
}

fn run<T>(
    vcpu: &mut Vcpu,
    memory: &GuestRam,
    program: &[u8],
    work: impl FnOnce(ProbeRun<'_>) -> Result<T, ProbeError>,
) -> OwnAnswer<T> {
    let saved = match save(memory) {
        Ok(saved) => saved,
        Err(error) => return Ok(Err(error.into())),
    };
    let state = BootState::Real {
        entry: code::ENTRY,
        stack: code::STACK,
    };
    let found = match write_code(memory, program) {
        Ok(()) => vcpu.detour(state, |vcpu| work(ProbeRun(vcpu)))?,
        Err(error) => Err(error),
    };
    for (at, bytes) in saved {
        // It could be read and written before.
        if let Err(error) = memory.write_slice(&bytes, at) {
            return Ok(Err(error.into()));
        }
    }
    Ok(found)
}

fn save(memory: &GuestRam) -> Result<Vec<(GuestAddress, Vec<u8>)>, vm_memory::GuestMemoryError> {
    let read = |range: Range<u16>| {
        let at = GuestAddress(range.start.into());
        let mut bytes = vec![0; range.len()];
        memory.read_slice(&mut bytes, at)?;
        Ok((at, bytes))
    };
    USED.into_iter().map(read).collect()
}
