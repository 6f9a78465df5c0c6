//! One vCPU's view of the rewritten instructions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::known::Known;
use super::request::{ScanRequest, TextPlace, TextVerdict};
use super::rewriter::Rewriter;
use super::{ReaderService, UserAccess};
use crate::kvm::{KvmError, Vcpu};
use crate::sys::kick;

/// One vCPU's view of the rewritten places: reading it takes no lock.
#[derive(Debug)]
pub(in crate::pmu) struct Sites {
    pub(super) rewriter: Arc<Rewriter>,
    pub(super) known: Arc<Known>,
    changes: usize,
    request: Option<Box<ScanRequest>>,
}

impl Sites {
    /// The places that `rewriter` keeps.
    #[must_use]
    pub(in crate::pmu) fn new(rewriter: Arc<Rewriter>) -> Self {
        Self {
            rewriter,
            known: Arc::default(),
            changes: 0,
            request: None,
        }
    }

    /// Whether the text around `rip` has been scanned, and how it ended.
    pub(in crate::pmu) fn verdict(&mut self, rip: u64) -> Option<ReaderService> {
        self.refresh();
        self.known.verdict(rip)
    }

    /// Scans the text at `place`, if nobody has yet. An answer that comes
    /// [later](TextVerdict::Later) is asked for by [`Sites::go_on`].
    pub(in crate::pmu) fn cover(&mut self, place: TextPlace) -> TextVerdict {
        self.request = Some(Box::new(ScanRequest::new(place)));
        self.go_on()
            .unwrap_or(TextVerdict::Known(ReaderService::Unserved))
    }

    /// Goes on with the answer to the last question; `None` if it has been given.
    pub(in crate::pmu) fn go_on(&mut self) -> Option<TextVerdict> {
        let request = self.request.as_mut()?;
        let verdict = request.go_on(&self.rewriter, kick::is_pending);
        if matches!(verdict, TextVerdict::Known(_)) {
            self.request = None;
        }
        Some(verdict)
    }

    /// Whether an answer is yet to come.
    pub(in crate::pmu) const fn is_waiting(&self) -> bool {
        self.request.is_some()
    }

    /// Re-verifies the patched text. To be called when a driver starts: the text
    /// may be that of another kernel than before.
    pub(in crate::pmu) fn driver_comes_up(&mut self, vcpu: &Vcpu) {
        if let Some(controls) = vcpu.controls() {
            self.refresh();
            self.rewriter
                .forget_overwritten(&self.known, controls.paging);
        }
    }

    /// Whether the host's RDPMC faults where a doorbell may hear of it.
    pub(in crate::pmu) fn rdpmc_faults(&self) -> bool {
        self.rewriter.access == UserAccess::Faults
    }

    /// Whether the instruction at `rip` is a rewritten RDPMC.
    pub(in crate::pmu) fn contains(&mut self, rip: u64) -> bool {
        self.refresh();
        self.known.is_site(rip)
    }

    /// Whether a doorbell of the guest writes to the port.
    pub(in crate::pmu) fn is_bell(&mut self, port: u16) -> bool {
        self.refresh();
        u8::try_from(port).is_ok_and(|port| self.known.is_bell(port))
    }

    /// Takes CR4.PCE away from a vCPU whose RDPMC in user mode would be silent
    /// (rule G-508). To be called where counters are started.
    ///
    /// # Errors
    /// What KVM says.
    pub(in crate::pmu) fn take_pce(&mut self, vcpu: &Vcpu) -> Result<(), KvmError> {
        if !self.watches_pce() {
            return Ok(());
        }
        // Outside of long mode VME has a meaning.
        let long = vcpu.controls().filter(|controls| controls.paging.is_long());
        let cr4 = long.map(|controls| controls.cr4);
        match cr4.and_then(|cr4| self.rewriter.access.taken(cr4)) {
            Some(cr4) => vcpu.set_cr4(cr4),
            None => Ok(()),
        }
    }

    /// Whether CR4.PCE has to be looked at from time to time while counters run. Also
    /// without a doorbell: a fault tells more than a 0.
    pub(in crate::pmu) fn watches_pce(&self) -> bool {
        self.rewriter.access == UserAccess::Answered && self.known.has_served()
    }

    pub(super) fn refresh(&mut self) {
        let changes = self.rewriter.changes.load(Ordering::Acquire);
        if changes != self.changes {
            self.known = self.rewriter.current();
            self.changes = changes;
        }
    }
}
