//! The RDPMC service over the memory of a hostile guest: page tables, text, #GP entry
//! and exception frames are of any content, and change between two calls. The fuzz
//! target `rdpmc` calls [`rdpmc`], as does a test, with each seed. There is no KVM.
//!
//! After each call the memory is compared with the memory before. What may have
//! changed is little: second bytes of recorded RDPMC instructions, one doorbell, two
//! words of a user's frame.

mod guest;

use std::cell::RefCell;
use std::sync::Arc;

use vm_memory::GuestAddress;

use self::guest::HostileGuest;
use super::doorbell::Caught;
use super::entry_hook;
use super::pattern::{RDMSR, RDPMC};
use super::rewriter::Rewriter;
use super::{ReaderService, Sites, UserAccess};
use crate::fuzz_input::FuzzInput;
use crate::kvm::{Controls, Paging, Registers};
use crate::sys::guest_ram::GuestRam;

const NOTHING: [u64; 0] = [];

/// The most sites that are recorded for a guest.
const MOST_SITES: usize = 256;

thread_local! {
    /// The guest of the input before.
    static SPARE: RefCell<Option<HostileGuest>> = const { RefCell::new(None) };
}

/// Does to a guest's memory, and asks of the service, what the bytes say.
///
/// # Panics
/// If the service does not do as it promises.
#[expect(clippy::unwrap_used, reason = "a check")]
pub fn rdpmc(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    let mut guest = SPARE.take().or_else(HostileGuest::new).unwrap();
    guest.reset();
    let access = if input.byte() & 1 == 0 {
        UserAccess::Faults
    } else {
        UserAccess::Answered
    };
    let mut service = Service {
        rewriter: Rewriter::without_pace(guest.memory.clone(), access),
        guest,
        access,
    };
    // A scan takes up to 50 ms: a few for each input.
    let mut scans_left = 8;
    while !input.is_empty() {
        match input.byte() % 16 {
            0..=4 => service.guest.map(&mut input),
            5..=8 => service.guest.put_snippet(&mut input),
            9 | 10 => service.guest.put_bytes(&mut input),
            11 | 12 if scans_left > 0 => {
                scans_left -= 1;
                service.cover(&mut input);
            }
            13 => service.forget(),
            14 => service.guest.change_paging(&mut input),
            _ => service.ring(&mut input),
        }
    }
    SPARE.set(Some(service.guest));
}

/// A vCPU's view of the text of a guest without memory to speak of, on a host that treats
/// RDPMC so.
pub(in crate::pmu) fn sites(access: UserAccess) -> Option<Sites> {
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).ok()?;
    Some(Sites::new(Arc::new(Rewriter::without_pace(memory, access))))
}

struct Service {
    guest: HostileGuest,
    rewriter: Rewriter,
    access: UserAccess,
}

impl Service {
    fn paging(&self) -> Paging {
        self.guest.paging
    }

    fn physical(&self, address: u64) -> Option<GuestAddress> {
        self.rewriter.memory(self.paging()).physical(address)
    }

    /// The counter test of a driver at any RIP.
    fn cover(&mut self, input: &mut FuzzInput<'_>) {
        let rip = self.guest.address(input);
        let idt = self.guest.address(input);
        let known = self.rewriter.current().verdict(rip);
        self.guest.remember();
        let verdict = self.rewriter.cover(self.paging(), rip, idt);
        let changes = self.guest.changes();
        let sites = self.rewriter.current().sites().to_vec();
        assert!(sites.len() <= MOST_SITES, "{} sites", sites.len());
        assert!(sites.is_sorted_by(|a, b| a < b), "{sites:x?}");
        if known.is_some() || verdict == ReaderService::Unserved {
            assert!(known.is_none_or(|known| known == verdict));
            assert_eq!(changes, NOTHING, "{known:?}, {verdict:?}");
        }
        // The gate of #GP may lead to a doorbell by now.
        let len = if self.paging().is_long() { 16 } else { 8 };
        let gate = idt.checked_add(13 * len).and_then(|at| self.physical(at));
        let bell = entry_hook::bell(self.rewriter.memory(self.paging()), idt);
        let has_bell = bell.is_some_and(|bell| self.rewriter.current().hook_at(bell).is_some());
        let is_in_gate =
            |at: u64| has_bell && gate.is_some_and(|gate| (gate.0..gate.0 + 8).contains(&at));
        let is_recorded = |at: u64| {
            let second = |site: &u64| self.physical(site.checked_add(1)?);
            sites
                .iter()
                .any(|site| second(site) == Some(GuestAddress(at)))
        };
        for at in changes {
            let is_site = self.guest.becomes_rdmsr(at);
            assert!(
                is_site && is_recorded(at) || self.guest.becomes_bell(at) || is_in_gate(at),
                "{at:#x} was changed"
            );
        }
    }

    /// A driver comes up again.
    fn forget(&mut self) {
        self.guest.remember();
        self.rewriter
            .forget_overwritten(&self.rewriter.current(), self.paging());
        assert_eq!(self.guest.changes(), NOTHING);
        let guest = self.rewriter.memory(self.paging());
        for site in self.rewriter.current().sites() {
            assert_eq!(guest.code(*site), Some(RDMSR), "{site:#x}");
        }
    }

    /// A vCPU faults with any registers and rings.
    fn ring(&mut self, input: &mut FuzzInput<'_>) {
        let idt = self.guest.address(input);
        let registers = Registers {
            rax: u64::MAX,
            rcx: u64::from(input.byte()),
            rdx: u64::MAX,
            rsp: self.guest.address(input),
            rip: self.guest.address(input),
            rflags: input.word(),
        };
        let value = input.word();
        let cr4 = u64::from(input.byte()) << 1;
        let paging = self.paging();
        let memory = self.guest.memory.clone();
        let guest = super::virt::Virtual {
            memory: &memory,
            paging,
        };
        let known = self.rewriter.current();
        let bell = entry_hook::bell(guest, idt);
        let Some(hook) = bell.and_then(|bell| known.hook_at(bell)) else {
            return;
        };
        let controls = Controls { paging, idt, cr4 };
        let Some(caught) = Caught::of(guest, controls, hook, registers) else {
            return;
        };
        let (frame, instruction) = (caught.frame(), caught.frame().instruction(guest));
        let allowed = self.guest.words_of_frame(registers.rsp);
        self.guest.remember();
        let after = caught.serve(&self.rewriter, |_| (value & 1 == 0).then_some(value));
        let changes = self.guest.changes();
        let Some(after) = after else {
            assert_eq!(changes, NOTHING, "not served, and changed: {frame:x?}");
            return;
        };
        assert_eq!(value & 1, 0, "there is no such counter");
        let result = (after.rax, after.rdx, after.rcx);
        assert_eq!(result, (value & 0xffff_ffff, value >> 32, registers.rcx));
        if !frame.is_user() && Some(after.rip) == hook.iret {
            // Another segment of the kernel's.
            let of_frame = |at: &u64| allowed.contains(at);
            let others: Vec<_> = changes.into_iter().filter(|at| !of_frame(at)).collect();
            self.check_rewritten(&others, frame.rip);
        } else if frame.is_user() {
            assert_eq!(instruction, Some(RDPMC));
            assert!(self.access.is_granted(cr4), "{cr4:#x}");
            assert_eq!(Some(after.rip), hook.iret);
            assert!(
                changes.iter().all(|at| allowed.contains(at)),
                "{changes:x?}"
            );
        } else {
            let is_known = instruction == Some(RDMSR) && known.is_site(frame.rip);
            assert!(instruction == Some(RDPMC) || is_known);
            assert_eq!(Some(after.rip), frame.rip.checked_add(2));
            self.check_rewritten(&changes, frame.rip);
        }
    }

    /// Of the kernel, only the instruction that faulted was changed.
    fn check_rewritten(&self, changes: &[u64], rip: u64) {
        for at in changes {
            let second = rip.checked_add(1).and_then(|second| self.physical(second));
            assert_eq!(second, Some(GuestAddress(*at)));
            assert!(self.guest.becomes_rdmsr(*at));
            assert!(self.rewriter.is_site(rip));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        crate::fuzz_input::each_seed("rdpmc", super::rdpmc);
    }
}
