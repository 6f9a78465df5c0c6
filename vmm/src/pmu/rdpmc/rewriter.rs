//! The rewritten places of one VM, which its vCPUs share.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{Bytes, GuestMemoryMmap};

use super::gate::Gate;
use super::paging::Paging;
use super::pattern::{RDMSR, SECOND_BYTE_OF_RDMSR};
use super::scan::{Scan, scan};
use super::virt::Virtual;
use super::{UserAccess, Verdict};
use crate::rate_limit::RateLimit;

/// The rewritten places of one VM.
#[derive(Debug)]
pub(in crate::pmu) struct Rewriter {
    memory: GuestMemoryMmap,
    /// What the host does with a RDPMC of user code that may.
    pub(super) access: UserAccess,
    known: Mutex<Arc<Known>>,
    /// How many scans `known` holds; tells a vCPU's copy that it is old.
    pub(super) scans: AtomicUsize,
}

/// What has been scanned so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    spans: Vec<(Range<u64>, Verdict)>,
    /// Guest-virtual addresses of rewritten instructions.
    pub(super) sites: Vec<u64>,
    /// #GP entries with a doorbell.
    pub(super) gates: Vec<Gate>,
}

impl Rewriter {
    /// Nothing is scanned yet.
    #[must_use]
    pub(in crate::pmu) fn new(memory: GuestMemoryMmap, access: UserAccess) -> Self {
        Self {
            memory,
            access,
            known: Mutex::default(),
            scans: AtomicUsize::new(0),
        }
    }

    pub(super) fn memory(&self, paging: Paging) -> Virtual<'_> {
        Virtual {
            memory: &self.memory,
            paging,
        }
    }

    pub(super) fn current(&self) -> Arc<Known> {
        Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Scans around `rip` and rewrites, and puts the doorbell into the #GP entry
    /// of the table at `idt`, unless another vCPU just did.
    pub(super) fn cover(&self, paging: Paging, rip: u64, idt: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.verdict(rip).is_some() {
            return;
        }
        let found = scan(&self.memory, paging, rip);
        self.publish(&mut known, |next| {
            let verdict = self.rewrite(&found, &mut next.sites);
            report(&found, verdict);
            next.spans.push((found.span, verdict));
            if verdict == Verdict::Served {
                next.gates.extend(self.put_doorbell(paging, idt));
            }
        });
    }

    fn put_doorbell(&self, paging: Paging, idt: u64) -> Option<Gate> {
        let guest = self.memory(paging);
        let gate = Gate::find(guest, idt).filter(|gate| gate.install(guest).is_some());
        if gate.is_none() && LIMIT.allow().is_some() {
            log::info!("pmu: the guest's #GP entry is not Linux's: RDPMC in user mode faults");
        }
        gate
    }

    /// Forgets the text around `rip` if it is no longer what was rewritten: after
    /// a kexec, another kernel may lie at the same addresses (rule G-505).
    pub(super) fn forget_replaced(&self, paging: Paging, rip: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let guest = self.memory(paging);
        let Some(span) = known.served_span(rip) else {
            return;
        };
        let mut sites = known.sites.iter().filter(|site| span.contains(site));
        let mut gates = known
            .gates
            .iter()
            .filter(|gate| span.contains(&gate.address()));
        let intact = sites.all(|site| guest.code(*site) == Some(RDMSR))
            && gates.all(|gate| gate.is_in_place(guest));
        if intact {
            return;
        }
        self.publish(&mut known, |next| {
            next.spans.retain(|(other, _)| *other != span);
            next.sites.retain(|site| !span.contains(site));
            next.gates.retain(|gate| !span.contains(&gate.address()));
        });
    }

    /// Changes what is known, and has the vCPUs' copies renewed.
    fn publish(&self, known: &mut Arc<Known>, change: impl FnOnce(&mut Known)) {
        change(Arc::make_mut(known));
        self.scans.fetch_add(1, Ordering::Release);
    }

    /// Rewrites an instruction of the kernel's that has just been executed: the
    /// scan did not find it.
    pub(super) fn rewrite_missed(&self, guest: Virtual<'_>, rip: u64) {
        let second_byte = rip.checked_add(1).and_then(|at| guest.physical(at));
        let Some(second_byte) = second_byte else {
            return;
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // First known, then changed: the other way round, another vCPU's RDMSR
        // would fault.
        self.publish(&mut known, |next| next.sites.push(rip));
        let stored = self
            .memory
            .store(SECOND_BYTE_OF_RDMSR, second_byte, Ordering::SeqCst);
        match stored {
            Ok(()) if LIMIT.allow().is_none() => {}
            Ok(()) => log::info!("pmu: RDPMC at {rip:#x} rewritten to RDMSR when it faulted"),
            Err(error) => log::error!("cannot rewrite RDPMC at {rip:#x}: {error}"),
        }
    }

    fn rewrite(&self, found: &Scan, sites: &mut Vec<u64>) -> Verdict {
        for reader in &found.readers {
            // One byte, stored atomically: another vCPU runs the old
            // instruction or the new one.
            let stored =
                self.memory
                    .store(SECOND_BYTE_OF_RDMSR, reader.second_byte, Ordering::SeqCst);
            if let Err(error) = stored {
                log::error!("cannot rewrite RDPMC at {:#x}: {error}", reader.address);
                return Verdict::Unserved;
            }
            sites.push(reader.address);
        }
        if found.readers.is_empty() && found.doubtful > 0 {
            Verdict::Unserved
        } else {
            Verdict::Served
        }
    }
}

/// Of what a guest can make us say again and again.
static LIMIT: RateLimit = RateLimit::new();

fn report(found: &Scan, verdict: Verdict) {
    if LIMIT.allow().is_none() {
        return;
    }
    let Range { start, end } = found.span;
    match verdict {
        Verdict::Served => log::info!(
            "pmu: {} RDPMC of the guest kernel rewritten to RDMSR ({start:#x}-{end:#x})",
            found.readers.len()
        ),
        Verdict::Unserved => log::warn!(
            "pmu: the guest kernel ({start:#x}-{end:#x}) reads counters in a way that cannot be \
             served: the guest is told that it has no PMU"
        ),
    }
}

impl Known {
    fn served_span(&self, rip: u64) -> Option<Range<u64>> {
        self.spans
            .iter()
            .find(|(span, verdict)| span.contains(&rip) && *verdict == Verdict::Served)
            .map(|(span, _)| span.clone())
    }

    pub(super) fn verdict(&self, rip: u64) -> Option<Verdict> {
        self.spans
            .iter()
            .find(|(span, _)| span.contains(&rip))
            .map(|(_, verdict)| *verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Sites;
    use super::super::paging::tests::{Guest, PAGING};
    use super::*;
    use vm_memory::GuestAddress;

    const TEXT: u64 = 0xffff_ffff_8100_0000;
    const READER: [u8; 6] = [0x0f, 0x33, 0x48, 0xc1, 0xe2, 0x20];
    /// RDPMC whose upper half is thrown away.
    const ODD: [u8; 4] = [0x0f, 0x33, 0x89, 0xc3];

    fn guest_with(code: &[u8]) -> (GuestMemoryMmap, Arc<Rewriter>) {
        let mut guest = Guest::new();
        guest.map(TEXT, 0x20_0000, 1, false);
        guest
            .memory
            .write_slice(&vec![0x90; 2 << 20], GuestAddress(0x20_0000))
            .unwrap();
        guest
            .memory
            .write_slice(code, GuestAddress(0x20_0200))
            .unwrap();
        (
            guest.memory.clone(),
            Arc::new(Rewriter::new(guest.memory, UserAccess::Faults)),
        )
    }

    fn code(memory: &GuestMemoryMmap) -> [u8; 2] {
        memory.read_obj(GuestAddress(0x20_0200)).unwrap()
    }

    #[test]
    fn one_vcpu_rewrites_and_all_see_the_place() {
        let (memory, rewriter) = guest_with(&READER);
        let (mut one, mut other) = (Sites::new(Arc::clone(&rewriter)), Sites::new(rewriter));
        assert_eq!(one.verdict(TEXT), None);
        assert!(!other.contains(TEXT + 0x200));
        assert_eq!(one.cover(PAGING, TEXT, 0), Verdict::Served);
        assert_eq!(code(&memory), [0x0f, 0x32]);
        assert!(other.contains(TEXT + 0x200) && !other.contains(TEXT + 0x201));
        assert_eq!(other.verdict(TEXT + 0x1f_ffff), Some(Verdict::Served));
        assert_eq!(
            other.verdict(TEXT + 0x20_0000),
            None,
            "other text is scanned when it asks"
        );
    }

    #[test]
    fn a_second_scan_of_the_same_text_changes_nothing() {
        let (memory, rewriter) = guest_with(&READER);
        let mut sites = Sites::new(rewriter);
        assert_eq!(sites.cover(PAGING, TEXT, 0), Verdict::Served);
        memory
            .write_obj([0x0f_u8, 0x33], GuestAddress(0x20_0200))
            .unwrap();
        assert_eq!(sites.cover(PAGING, TEXT, 0), Verdict::Served);
        assert_eq!(code(&memory), [0x0f, 0x33], "not looked at again");
    }

    /// G-505: a kexec puts another kernel at the same addresses.
    #[test]
    fn text_that_was_replaced_is_scanned_again_and_other_text_is_not() {
        let (memory, rewriter) = guest_with(&READER);
        let mut sites = Sites::new(Arc::clone(&rewriter));
        assert_eq!(sites.cover(PAGING, TEXT, 0), Verdict::Served);
        rewriter.forget_replaced(PAGING, TEXT);
        assert_eq!(sites.verdict(TEXT), Some(Verdict::Served), "intact");
        memory
            .write_slice(&[0x90; 6], GuestAddress(0x20_0200))
            .unwrap();
        memory
            .write_slice(&READER, GuestAddress(0x20_0300))
            .unwrap();
        rewriter.forget_replaced(PAGING, TEXT + 0x20_0000);
        assert_eq!(sites.verdict(TEXT), Some(Verdict::Served), "elsewhere");
        rewriter.forget_replaced(PAGING, TEXT + 0x1000);
        assert_eq!(sites.verdict(TEXT), None);
        assert_eq!(sites.cover(PAGING, TEXT, 0), Verdict::Served);
        assert!(sites.contains(TEXT + 0x300) && !sites.contains(TEXT + 0x200));
    }

    #[test]
    fn a_kernel_that_reads_in_an_unknown_way_is_not_served_and_not_touched() {
        let (memory, rewriter) = guest_with(&ODD);
        let mut sites = Sites::new(rewriter);
        assert_eq!(sites.cover(PAGING, TEXT, 0), Verdict::Unserved);
        assert_eq!(code(&memory), [0x0f, 0x33]);
    }

    #[test]
    fn a_guest_without_rdpmc_needs_no_rewriting() {
        let (_, rewriter) = guest_with(&[0x90; 4]);
        assert_eq!(Sites::new(rewriter).cover(PAGING, TEXT, 0), Verdict::Served);
    }
}
