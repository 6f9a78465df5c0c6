//! A vCPU's question whether the counter reads of some text are served, until the
//! scan that answers it has come to its end.

use vpmu::units::Nanos;

use super::ReaderService;
use super::pace::{ScanTurn, wait_for_turn};
use super::rewriter::Rewriter;
use super::scan::Scanning;
use crate::kvm::Paging;

/// The text that a vCPU asks about.
#[derive(Clone, Copy, Debug)]
pub(in crate::pmu) struct TextPlace {
    /// How the vCPU translates addresses.
    pub(in crate::pmu) paging: Paging,
    /// An address in the text.
    pub(in crate::pmu) rip: u64,
    /// Where the interrupt table lies.
    pub(in crate::pmu) idt: u64,
}

/// How far the answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pmu) enum TextVerdict {
    /// It is known.
    Known(ReaderService),
    /// The scan goes on when the vCPU asks again: after this time, or as soon as it
    /// has looked at why it was kicked.
    Later(Nanos),
}

/// How often a scan is begun for one question: a guest that changes its text all the
/// time is not served.
const MOST_SCANS: u32 = 8;

/// A question that has no answer yet.
#[derive(Debug)]
pub(super) struct ScanRequest {
    place: TextPlace,
    /// How often another vCPU's scan was in the way.
    tries: u32,
    /// How many scans were begun.
    scans: u32,
    scan: Option<OwnScan>,
}

/// The scan, on this vCPU's thread.
#[derive(Debug)]
struct OwnScan {
    scanning: Scanning,
    /// What was forgotten before it began.
    forgotten: usize,
    /// Given back at its end.
    _turn: ScanTurn,
}

impl ScanRequest {
    pub(super) const fn new(place: TextPlace) -> Self {
        Self {
            place,
            tries: 0,
            scans: 0,
            scan: None,
        }
    }

    /// Goes on until the answer is known, the vCPU is kicked or the scan has to wait.
    /// Each call does a piece of the scan if it may. No lock is held for a piece.
    pub(super) fn go_on(
        &mut self,
        rewriter: &Rewriter,
        is_kicked: impl Fn() -> bool,
    ) -> TextVerdict {
        loop {
            let Some(scan) = &mut self.scan else {
                match self.begin(rewriter) {
                    Some(verdict) => return verdict,
                    None => continue,
                }
            };
            if let Some(wait) = rewriter.pace.wait() {
                return TextVerdict::Later(wait);
            }
            let place = self.place;
            let ended = rewriter.pace.charged(|| {
                let found = scan.scanning.advance(rewriter.guest_memory())?;
                Some(rewriter.conclude(place, &found, scan.forgotten))
            });
            match ended {
                Some(Some(verdict)) => return TextVerdict::Known(verdict),
                // The guest has changed the text meanwhile.
                Some(None) if self.scans < MOST_SCANS => self.scan = None,
                Some(None) => return TextVerdict::Known(ReaderService::Unserved),
                None => {}
            }
            if is_kicked() {
                return TextVerdict::Later(Nanos(0));
            }
        }
    }

    /// Begins the scan; returns an answer if there is one without.
    fn begin(&mut self, rewriter: &Rewriter) -> Option<TextVerdict> {
        let turn = rewriter.pace.take_turn();
        // Looked at with the turn: whoever had it last may have answered.
        if let Some(verdict) = rewriter.known_verdict(self.place.rip) {
            return Some(TextVerdict::Known(verdict));
        }
        let Some(turn) = turn else {
            self.tries = self.tries.saturating_add(1);
            return Some(TextVerdict::Later(wait_for_turn(self.tries - 1)));
        };
        if let Some(verdict) = rewriter.verdict_without_scan(self.place) {
            return Some(TextVerdict::Known(verdict));
        }
        self.scans += 1;
        let forgotten = rewriter.times_forgotten();
        let TextPlace { paging, rip, .. } = self.place;
        let scanning = Scanning::begin(rewriter.guest_memory(), paging, rip);
        let Some(scanning) = scanning else {
            return Some(TextVerdict::Known(ReaderService::Unserved));
        };
        self.scan = Some(OwnScan {
            scanning,
            forgotten,
            _turn: turn,
        });
        None
    }
}

#[cfg(any(test, feature = "fuzz"))]
impl Rewriter {
    /// Asks and waits for the answer.
    pub(super) fn cover(&self, paging: Paging, rip: u64, idt: u64) -> ReaderService {
        let mut request = ScanRequest::new(TextPlace { paging, rip, idt });
        loop {
            if let TextVerdict::Known(service) = request.go_on(self, || false) {
                return service;
            }
        }
    }
}

#[cfg(test)]
impl ScanRequest {
    /// What its scan has found so far; `None` if there is none.
    pub(super) fn found(&self) -> Option<&super::scan::Scan> {
        self.scan.as_ref().map(|scan| scan.scanning.found())
    }
}
