//! Rewrites the RDPMC instructions of one VM's guest, for all its vCPUs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::Bytes;

use super::entry_hook::{self, EntryHook};
use super::gate::Gate;
use super::known::{Known, MOST_SITES};
use super::pace::ScanPace;
use super::pattern::{RDMSR, RDPMC, SECOND_BYTE_OF_RDMSR};
use super::request::TextPlace;
use super::scan::{self, ReaderSite, Scan};
use super::virt::Virtual;
use super::{ReaderService, UserAccess};
use crate::kvm::Paging;
use crate::rate_limit::RateLimit;
use crate::sys::guest_ram::GuestRam;

/// The rewritten places of one VM.
#[derive(Debug)]
pub(in crate::pmu) struct Rewriter {
    memory: GuestRam,
    /// What the host does with a RDPMC of user code that may.
    pub(super) access: UserAccess,
    /// Held to look and to change, never for a scan.
    known: Mutex<Arc<Known>>,
    /// How often text was forgotten.
    forgotten: AtomicUsize,
    /// When scans may go on.
    pub(super) pace: ScanPace,
    /// How often `known` has changed; tells a vCPU's copy that it is old.
    pub(super) changes: AtomicUsize,
    /// It was said that there is no doorbell.
    no_doorbell_said: AtomicBool,
}

impl Rewriter {
    /// Nothing is scanned yet.
    #[must_use]
    pub(in crate::pmu) fn new(memory: GuestRam, access: UserAccess) -> Self {
        Self::with_pace(memory, access, ScanPace::new())
    }

    /// The same, for a guest whose scans may take any time.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn without_pace(memory: GuestRam, access: UserAccess) -> Self {
        Self::with_pace(memory, access, ScanPace::without_end())
    }

    fn with_pace(memory: GuestRam, access: UserAccess, pace: ScanPace) -> Self {
        Self {
            memory,
            access,
            pace,
            known: Mutex::default(),
            forgotten: AtomicUsize::new(0),
            changes: AtomicUsize::new(0),
            no_doorbell_said: AtomicBool::new(false),
        }
    }

    pub(super) fn memory(&self, paging: Paging) -> Virtual<'_> {
        Virtual {
            memory: &self.memory,
            paging,
        }
    }

    pub(super) const fn guest_memory(&self) -> &GuestRam {
        &self.memory
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn current(&self) -> Arc<Known> {
        Arc::clone(&self.lock())
    }

    /// Knows this from now on, and has the vCPUs' copies renewed.
    pub(super) fn replace(&self, known: Arc<Known>) {
        *self.lock() = known;
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// The answer for the text around `rip`, if there is one without a scan.
    pub(super) fn known_verdict(&self, rip: u64) -> Option<ReaderService> {
        let known = self.lock();
        let verdict = known.verdict(rip);
        if verdict.is_none() && known.is_full() {
            drop(known);
            return Some(self.unserved("lies in too many places", None));
        }
        verdict
    }

    /// The answer for text that is not looked at: on a host whose RDPMC faults, the
    /// doorbell serves each reader, whatever it looks like, and rewrites only what the
    /// kernel has executed. Without a doorbell, the first text of a guest is scanned, and no
    /// other one, nor any that is not 64-bit code. `None` if the text is to be scanned.
    pub(super) fn verdict_without_scan(&self, place: TextPlace) -> Option<ReaderService> {
        (self.access == UserAccess::Faults).then_some(())?;
        let text = scan::text_around(&self.memory, place.paging, place.rip)?;
        let guest = self.memory(place.paging);
        let doorbell = self.doorbell_to_place(guest, place.idt);
        let mut known = self.lock();
        let has_doorbell = self.put_doorbell(&mut known, guest, doorbell).is_some();
        if !has_doorbell && !guest.is_long() && !self.no_doorbell_said.swap(true, Ordering::Relaxed)
        {
            log::warn!("{NO_DOORBELL_OUTSIDE_LONG_MODE}");
        }
        (has_doorbell || known.has_text() || !guest.is_long()).then(|| {
            self.publish(&mut known, |next| {
                next.add_text(text, ReaderService::Served);
            });
            ReaderService::Served
        })
    }

    /// Tells a scan whether text was forgotten since it began.
    pub(super) fn times_forgotten(&self) -> usize {
        self.forgotten.load(Ordering::Acquire)
    }

    /// The end of a scan: rewrites what was found, puts the doorbell into the #GP entry
    /// and remembers the text. `None` if the text has changed since the scan began,
    /// which is when `forgotten` was read: nothing is changed then.
    pub(super) fn conclude(
        &self,
        place: TextPlace,
        found: &Scan,
        forgotten: usize,
    ) -> Option<ReaderService> {
        let guest = self.memory(place.paging);
        // It is looked for byte by byte, and so before the lock is taken.
        let doorbell = self.doorbell_to_place(guest, place.idt);
        let mut known = self.lock();
        if self.times_forgotten() != forgotten {
            return None;
        }
        let verdict = if is_kernels(guest, place.idt, found) {
            self.rewrite(&mut known, guest, found)?
        } else {
            self.left_alone(found)
        };
        if verdict == ReaderService::Served
            && self.put_doorbell(&mut known, guest, doorbell).is_none()
            && !self.no_doorbell_said.swap(true, Ordering::Relaxed)
        {
            log::warn!("{}", no_doorbell(self.access));
        }
        if let Some(text) = found.text.clone() {
            self.publish(&mut known, |next| next.add_text(text, verdict));
        }
        Some(verdict)
    }

    /// The answer for a module's text, and for text that a program of the guest has had
    /// the kernel make: it is not changed.
    fn left_alone(&self, found: &Scan) -> ReaderService {
        let reader = found.readers.first().map(|reader| reader.address);
        match reader.or(found.first_doubtful) {
            Some(site) => self.unserved("is a module's and may read counters", Some(site)),
            None => ReaderService::Served,
        }
    }

    /// The answer for text with readers that are not rewritten. Where RDPMC faults, they
    /// fault aloud, and the guest keeps its PMU.
    fn unserved(&self, why: &str, site: Option<u64>) -> ReaderService {
        let (verdict, effect) = match self.access {
            UserAccess::Faults => (ReaderService::Served, "so RDPMC faults there"),
            UserAccess::Answered => (ReaderService::Unserved, "so the guest gets no PMU"),
        };
        if LIMIT.allow().is_some() {
            let place = site.map_or_else(String::new, |site| format!(" at {site:#x}"));
            log::warn!("pmu: the guest kernel's text {why}{place}, {effect}");
        }
        verdict
    }

    /// Rewrites what was found, all or nothing; `None` if a reader that was found is
    /// no reader any more.
    fn rewrite(
        &self,
        known: &mut Arc<Known>,
        guest: Virtual<'_>,
        found: &Scan,
    ) -> Option<ReaderService> {
        if found.is_given_up() {
            let why = "holds more that looks like RDPMC than any kernel";
            return Some(self.unserved(why, found.first_doubtful));
        }
        // They were found before, if the scan is not the first.
        let has_sites = (known.sites().iter()).any(|site| {
            found.text.iter().any(|text| text.contains(site)) && guest.code(*site) == Some(RDMSR)
        });
        if found.readers.is_empty() && found.doubtful > 0 && !has_sites {
            return Some(self.unserved("reads counters in an unknown way", found.first_doubtful));
        }
        // Looked at again: the guest ran on while it was scanned.
        let readers = &found.readers;
        if readers.len() <= MOST_SITES && !readers.iter().all(|it| is_reader(known, guest, it)) {
            return None;
        }
        // First recorded, then patched: the other way round, another vCPU's RDMSR
        // would fault.
        let sites = found.readers.iter().map(|reader| reader.address);
        let Some(()) = self.publish(known, |next| next.add_sites(sites)) else {
            return Some(self.unserved("reads counters in too many places", None));
        };
        for reader in &found.readers {
            // One byte, stored atomically: another vCPU runs the old
            // instruction or the new one.
            let stored =
                self.memory
                    .store(SECOND_BYTE_OF_RDMSR, reader.second_byte, Ordering::SeqCst);
            if let Err(error) = stored {
                say_unwritten(reader.address, &error);
                return Some(self.unserved("cannot be written", Some(reader.address)));
            }
        }
        self.say_served(found);
        Some(ReaderService::Served)
    }

    /// The doorbell for the interrupt table at `idt`.
    fn doorbell_to_place(&self, guest: Virtual<'_>, idt: u64) -> Doorbell {
        let known = self.current();
        let there = entry_hook::bell(guest, idt).and_then(|bell| known.hook_at(bell));
        if there.is_some_and(|hook| hook.is_in_place(guest)) {
            return Doorbell::InPlace;
        }
        let is_free = |bell, handler| {
            let there = known.hook_at(bell);
            there.is_none_or(|hook| hook.is_of(handler))
        };
        let hook = EntryHook::find(guest, idt, is_free);
        hook.map_or(Doorbell::Unknown, Doorbell::Missing)
    }

    /// Puts a doorbell in; `None` if the guest has none then.
    fn put_doorbell(
        &self,
        known: &mut Arc<Known>,
        guest: Virtual<'_>,
        doorbell: Doorbell,
    ) -> Option<()> {
        match doorbell {
            Doorbell::InPlace => Some(()),
            // First recorded, then patched, as above.
            Doorbell::Missing(hook) => {
                self.publish(known, |next| next.add_hook(hook))?;
                hook.install(guest)
            }
            Doorbell::Unknown => None,
        }
    }

    /// Re-verifies the patched text that is `seen`: forgets the patches that were
    /// overwritten, and the text around them. After a kexec, another kernel may lie at
    /// the same addresses (rule G-505). Where all is in place, no lock is taken.
    pub(super) fn forget_overwritten(&self, seen: &Arc<Known>, paging: Paging) {
        let guest = self.memory(paging);
        let checked = |known: &Known| {
            known.checked(
                |site| guest.code(site) == Some(RDMSR),
                |hook| hook.is_in_place(guest),
            )
        };
        let left = checked(seen);
        if left == **seen {
            return;
        }
        let mut known = self.lock();
        let left = if Arc::ptr_eq(&known, seen) {
            left
        } else {
            checked(&known)
        };
        if left != **known {
            self.forgotten.fetch_add(1, Ordering::Release);
            self.publish(&mut known, |next| *next = left);
        }
    }

    /// Changes what is known, and has the vCPUs' copies renewed.
    fn publish<R>(&self, known: &mut Arc<Known>, change: impl FnOnce(&mut Known) -> R) -> R {
        let changed = change(Arc::make_mut(known));
        self.changes.fetch_add(1, Ordering::Release);
        changed
    }

    /// Whether the instruction at `rip` is a rewritten RDPMC by now.
    pub(super) fn is_site(&self, rip: u64) -> bool {
        self.lock().is_site(rip)
    }

    /// Rewrites an instruction of the kernel's that has just been executed: the
    /// scan did not find it.
    pub(super) fn rewrite_missed(&self, guest: Virtual<'_>, rip: u64) {
        let second_byte = rip.checked_add(1).and_then(|at| guest.physical(at));
        let Some(second_byte) = second_byte else {
            return;
        };
        let mut known = self.lock();
        // First recorded, then patched, as above.
        let is_known = known.is_site(rip)
            || self
                .publish(&mut known, |next| next.add_sites(std::iter::once(rip)))
                .is_some();
        if !is_known {
            // Too many: the doorbell serves it each time.
            return;
        }
        let stored = self
            .memory
            .store(SECOND_BYTE_OF_RDMSR, second_byte, Ordering::SeqCst);
        match stored {
            Ok(()) if LIMIT.allow().is_none() => {}
            Ok(()) => log::info!("pmu: rewrote the RDPMC at {rip:#x} to RDMSR after it faulted"),
            Err(error) => say_unwritten(rip, &error),
        }
    }

    fn say_served(&self, found: &Scan) {
        let Some(text) = &found.text else {
            return;
        };
        if LIMIT.allow().is_some() {
            log::info!(
                "pmu: rewrote {} RDPMC instructions of the guest kernel to RDMSR ({:#x}-{:#x}) and left {} that may be data",
                found.readers.len(),
                text.start(),
                text.end(),
                found.doubtful
            );
        }
        // Elsewhere the doorbell finds them.
        let silent = self.access == UserAccess::Answered && found.look_alikes > 0;
        if silent && LIMIT.allow().is_some() {
            log::warn!(
                "pmu: {} more places of the guest kernel may be RDPMC and were not rewritten: an RDPMC \
                 among them reads 0 on this host",
                found.look_alikes
            );
        }
    }
}

/// What is to be done for a doorbell.
#[derive(Clone, Copy, Debug)]
enum Doorbell {
    /// Nothing.
    InPlace,
    /// It is to be put there.
    Missing(EntryHook),
    /// There is no way to one.
    Unknown,
}

/// Whether the text of a scan is that of the kernel proper, and no module's: the kernel
/// has its #GP entry there. A guest without an interrupt table has no modules.
fn is_kernels(guest: Virtual<'_>, idt: u64, found: &Scan) -> bool {
    let (gate, text) = (Gate::read(guest, idt), found.text.as_ref());
    gate.is_none_or(|gate| text.is_some_and(|text| text.contains(&gate.handler())))
}

/// Whether a reader that a scan has found is there, or was rewritten meanwhile.
fn is_reader(known: &Known, guest: Virtual<'_>, reader: &ReaderSite) -> bool {
    let second = reader.address.checked_add(1);
    let is_same_byte = second.and_then(|at| guest.physical(at)) == Some(reader.second_byte);
    is_same_byte
        && match guest.code(reader.address) {
            Some(RDPMC) => true,
            Some(RDMSR) => known.is_site(reader.address),
            _ => false,
        }
}

/// Of what a guest can make us say again and again.
static LIMIT: RateLimit = RateLimit::new();

fn say_unwritten(address: u64, error: &dyn std::error::Error) {
    if LIMIT.allow().is_some() {
        log::error!("pmu: cannot rewrite the RDPMC at {address:#x}: {error}");
    }
}

/// The warning for a guest outside of long mode that has no doorbell.
const NO_DOORBELL_OUTSIDE_LONG_MODE: &str = "pmu: the guest is outside of 64-bit mode, where RDPMC \
     is not scanned for, and its #GP entry takes no doorbell: RDPMC faults, and only RDMSR reads counters";

/// The warning for a guest without a doorbell: which of its reads fail.
const fn no_doorbell(access: UserAccess) -> &'static str {
    match access {
        UserAccess::Faults => {
            "pmu: the guest's #GP entry takes no doorbell: RDPMC in user mode faults, and so does \
             each RDPMC of the kernel that the scan missed"
        }
        UserAccess::Answered => {
            "pmu: the guest's #GP entry takes no doorbell: RDPMC in user mode would read 0 on this \
             host and is made to fault; each RDPMC of the kernel that the scan missed reads 0"
        }
    }
}

#[cfg(test)]
mod tests;
