//! Measures the cost of a guest instruction and of an exit.

use std::time::{Duration, Instant};

use vpmu::host::software::Khz;
use vpmu::units::Nanos;

use super::guest::{Event, ProbeGuest, ProbeRun, SMALL};
use super::{ProbeError, code};
use crate::kvm::Hypervisor;
use crate::sys::thread_time::ThreadTime;

/// A time in picoseconds: an instruction takes less than a nanosecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Picos(pub u64);

impl Picos {
    /// The mean of `count` equal parts of `span`; of one part if `count` is 0.
    fn of(span: Duration, count: u64) -> Self {
        let picos = span.as_nanos().saturating_mul(1000) / u128::from(count.max(1));
        Self(u64::try_from(picos).unwrap_or(u64::MAX))
    }

    /// In nanoseconds, rounded down.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0 / 1000
    }
}

/// The first spin: 2 ms on a KVM that takes 0.5 µs for an instruction.
const FIRST_TURNS: u32 = 2_000;
/// Instructions in a turn: DEC, JNZ.
const PER_TURN: u64 = 2;
/// The shortest run that gives a useful measurement.
const ENOUGH: Duration = Duration::from_millis(2);
/// Spins of that length, of which the shortest counts: a busy host disturbs.
const SPINS: usize = 3;
/// The longest spin that is tried.
const MOST_TURNS: u32 = 1 << 26;
/// The number of exits that are measured.
const ROUNDS: usize = 64;

/// The wall time of one guest instruction in a short spin. Takes some
/// milliseconds on any host.
///
/// # Errors
/// [`ProbeError`]
pub fn instruction_cost(hypervisor: &Hypervisor) -> Result<Picos, ProbeError> {
    let mut guest = ProbeGuest::new(hypervisor, SMALL, &code::SPIN)?;
    let mut guest = guest.code();
    let mut turns = FIRST_TURNS;
    let mut least = spin(&mut guest, turns)?;
    while least < ENOUGH && turns < MOST_TURNS {
        turns = turns.saturating_mul(4);
        least = spin(&mut guest, turns)?;
    }
    for _ in 1..SPINS {
        least = least.min(spin(&mut guest, turns)?);
    }
    Ok(Picos::of(least, PER_TURN * u64::from(turns)))
}

/// The wall time of so many turns, and of the exits around them.
fn spin(guest: &mut ProbeRun<'_>, turns: u32) -> Result<Duration, ProbeError> {
    while guest.next(turns)? != Event::Asked {}
    let start = Instant::now();
    guest.next(turns)?;
    Ok(start.elapsed())
}

/// The thread time that entering and leaving the guest takes by itself: the
/// least of [`ROUNDS`] entries of a guest that does one OUT. Measured as the
/// PMU measures guest time, so it is what such a span has too much.
///
/// # Errors
/// [`ProbeError`]
pub fn exit_cost(hypervisor: &Hypervisor) -> Result<Nanos, ProbeError> {
    let mut guest = ProbeGuest::new(hypervisor, SMALL, &code::EXITS)?;
    let tsc = guest.tsc_rate()?;
    exit_cost_of(&mut guest.code(), tsc)
}

/// The same of [`code::EXITS`], which runs already.
pub(super) fn exit_cost_of(guest: &mut ProbeRun<'_>, tsc: Khz) -> Result<Nanos, ProbeError> {
    // Cold: page faults of the first entry.
    guest.next(0)?;
    let mut time = ThreadTime::of_this_thread(tsc);
    let mut least = None;
    for _ in 0..ROUNDS {
        let entered = time.at_entry();
        let event = guest.step(0);
        let span = time.at_exit().since(entered);
        if event? != Event::Interrupted {
            least = Some(least.map_or(span, |least: Nanos| least.min(span)));
        }
    }
    least.ok_or(ProbeError::Ended("signals interrupted every entry"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means() {
        assert_eq!(Picos::of(Duration::from_millis(2), 4_000), Picos(500_000));
        assert_eq!(Picos::of(Duration::from_millis(2), 4_000).nanos(), 500);
        assert_eq!(Picos::of(Duration::from_nanos(1), 0), Picos(1000));
    }
}
