//! How much of the host's time a guest's scans take: one scan at a time in a VM, on the
//! thread of the vCPU that asked, and a tenth of one host CPU in the long run.
//!
//! A guest decides when its text is scanned, and how much text there is. A scan that
//! has no time left is not refused: its vCPU waits, outside of the guest, until there is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vpmu::units::Nanos;

use crate::sys::clock::{self, Clock};

/// Time for scans that a VM may have saved up: many times what a kernel's boot takes.
const MOST_SAVED: Nanos = Nanos(1_000_000_000);
/// For each nanosecond of a scan, so many have to pass.
const PERIOD: u64 = 10;
/// A scan that had to wait goes on when there is this much time for it.
const ENOUGH: Nanos = Nanos(5_000_000);
/// The first wait for another vCPU's scan, and the longest.
const FIRST_WAIT: Nanos = Nanos(1_000_000);
const LONGEST_WAIT: Nanos = Nanos(64_000_000);

/// The pace of the scans of one VM.
#[derive(Debug)]
pub(super) struct ScanPace {
    is_taken: Arc<AtomicBool>,
    savings: Mutex<Savings>,
    now: Clock,
    work: Clock,
}

impl ScanPace {
    /// With the host's clocks.
    pub(super) fn new() -> Self {
        Self::with_clocks(clock::monotonic, clock::thread_cpu_time)
    }

    /// `now` tells the time that passes, `work` the time that the calling thread works.
    pub(super) fn with_clocks(now: Clock, work: Clock) -> Self {
        Self {
            is_taken: Arc::default(),
            savings: Mutex::new(Savings {
                left: MOST_SAVED,
                owed: Nanos(0),
                at: now(),
            }),
            now,
            work,
        }
    }

    /// Scans take no time.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn without_end() -> Self {
        Self::with_clocks(Nanos::default, Nanos::default)
    }

    /// The right to scan, unless another vCPU has it.
    pub(super) fn take_turn(&self) -> Option<ScanTurn> {
        let was_taken = self.is_taken.swap(true, Ordering::AcqRel);
        (!was_taken).then(|| ScanTurn(Arc::clone(&self.is_taken)))
    }

    /// How long the scan has to wait before it goes on; `None`: not at all.
    pub(super) fn wait(&self) -> Option<Nanos> {
        self.with_savings(|savings, now| savings.wait(now))
    }

    /// Does a piece of a scan's work, and charges the time that it takes.
    pub(super) fn charged<R>(&self, piece: impl FnOnce() -> R) -> R {
        let begun = (self.work)();
        let result = piece();
        let spent = (self.work)().since(begun);
        self.with_savings(|savings, now| savings.spend(now, spent));
        result
    }

    /// Held for some additions only.
    fn with_savings<R>(&self, act: impl FnOnce(&mut Savings, Nanos) -> R) -> R {
        let mut savings = self.savings.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut savings, (self.now)())
    }
}

/// The right to scan; given back when it is dropped, also by a vCPU that ends.
#[derive(Debug)]
pub(super) struct ScanTurn(Arc<AtomicBool>);

impl Drop for ScanTurn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// How long to wait for another vCPU's scan, for the time `tries`: twice as long each
/// time.
pub(super) fn wait_for_turn(tries: u32) -> Nanos {
    Nanos(FIRST_WAIT.0 << tries.min(6)).min(LONGEST_WAIT)
}

/// Time that scans may take, saved up or owed.
#[derive(Debug)]
struct Savings {
    left: Nanos,
    owed: Nanos,
    at: Nanos,
}

impl Savings {
    fn wait(&mut self, now: Nanos) -> Option<Nanos> {
        self.save(now);
        if self.left > Nanos(0) {
            return None;
        }
        let lacks = self.owed.0.saturating_add(ENOUGH.0);
        Some(Nanos(lacks.saturating_mul(PERIOD)).min(LONGEST_WAIT))
    }

    fn spend(&mut self, now: Nanos, spent: Nanos) {
        self.save(now);
        self.owed += spent.since(self.left);
        self.left = self.left.since(spent);
    }

    /// The time since the last look. What is left over of it counts at the next.
    fn save(&mut self, now: Nanos) {
        let saved = Nanos(now.since(self.at).0 / PERIOD);
        self.at += Nanos(saved.0 * PERIOD);
        let left = self.left + saved.since(self.owed);
        self.owed = self.owed.since(saved);
        self.left = left.min(MOST_SAVED);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static WORK: Cell<u64> = const { Cell::new(0) };
    }

    /// A clock of the calling thread: a millisecond for each look.
    pub(in super::super) fn works_a_millisecond() -> Nanos {
        WORK.set(WORK.get() + 1_000_000);
        Nanos(WORK.get())
    }

    /// Time stands still.
    pub(in super::super) fn never() -> Nanos {
        Nanos(0)
    }

    #[test]
    fn scans_take_what_was_saved_and_then_a_tenth() {
        let pace = ScanPace::with_clocks(never, works_a_millisecond);
        let mut pieces = 0;
        while pace.wait().is_none() {
            pace.charged(|| pieces += 1);
        }
        assert_eq!(pieces, 1_000, "of a millisecond each");
        let mut savings = pace.savings.into_inner().unwrap();
        assert_eq!(savings.wait(Nanos(0)), Some(Nanos(50_000_000)));
        assert_eq!(savings.wait(Nanos(9)), Some(Nanos(50_000_000)));
        assert_eq!(savings.wait(Nanos(10)), None);
        // In a minute: a tenth of it.
        let mut worked = 0_u64;
        let mut now = 0;
        while now < 60_000_000_000 {
            match savings.wait(Nanos(now)) {
                Some(wait) => now += wait.0,
                None => {
                    savings.spend(Nanos(now), Nanos(700_000));
                    (now, worked) = (now + 700_000, worked + 700_000);
                }
            }
        }
        assert!((5_900_000_000..6_100_000_000).contains(&worked), "{worked}");
    }

    #[test]
    fn no_more_is_saved_than_may_be_and_debts_are_paid() {
        let mut savings = Savings {
            left: Nanos(5),
            owed: Nanos(0),
            at: Nanos(0),
        };
        savings.spend(Nanos(0), Nanos(2_000_000));
        assert_eq!(savings.owed, Nanos(1_999_995));
        assert_eq!(savings.wait(Nanos(0)), Some(LONGEST_WAIT));
        assert_eq!(savings.wait(Nanos(u64::MAX)), None);
        assert_eq!((savings.left, savings.owed), (MOST_SAVED, Nanos(0)));
    }

    #[test]
    fn one_vcpu_scans_at_a_time() {
        let pace = ScanPace::new();
        let turn = pace.take_turn();
        assert!(turn.is_some() && pace.take_turn().is_none());
        drop(turn);
        assert!(pace.take_turn().is_some());
    }

    #[test]
    fn waits_for_a_turn_grow_to_a_bound() {
        assert_eq!(wait_for_turn(0), FIRST_WAIT);
        assert_eq!(wait_for_turn(3), Nanos(8_000_000));
        assert_eq!(wait_for_turn(u32::MAX), LONGEST_WAIT);
    }
}
