//! A guest's part of the energy that its host spends.
//!
//! The rule: of what was spent while the host's CPUs were busy for a time, the
//! guest is given the part of that time in which its vCPUs ran. What is spent
//! while nobody runs is borne by those who run next.

use core::fmt;

use crate::units::{Energy, Nanos};

use super::ScopeInstance;

/// Who ran for how long, since any fixed moment.
///
/// # Examples
/// ```
/// use vpmu::host::CpuTime;
/// use vpmu::units::Nanos;
///
/// // The guest had a quarter of the time of its scope's CPUs.
/// let time = CpuTime { guest: Nanos(1_000), host: Nanos(4_000) };
/// assert_eq!(time.host.0 / time.guest.0, 4);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// The vCPUs of one scope instance, those included that have ended.
    pub guest: Nanos,
    /// All CPUs of the host while they were not idle.
    pub host: Nanos,
}

/// What measures it.
pub trait CpuTimes: fmt::Debug {
    /// The times now; `None` if the host does not tell.
    fn now(&mut self, instance: ScopeInstance) -> Option<CpuTime>;
}

/// Busy time of the host that makes a part worth reckoning: Linux tells it in
/// steps of 10 ms for each CPU, and a part of fewer steps would be mostly noise.
/// Until then the energy waits.
const QUANTUM: Nanos = Nanos(50_000_000);

/// A guest's part, added up over any number of reads.
///
/// Nothing is lost between reads: energy and times that were too short to be
/// reckoned wait for the next one, guest time beyond the host's busy time (the
/// host's is coarser) does too, and what divides into less than a unit is kept
/// as a fraction. The sum never runs backwards.
///
/// # Examples
/// ```
/// use vpmu::host::{CpuTime, EnergyShare};
/// use vpmu::units::{Energy, Nanos};
///
/// let idle = CpuTime { guest: Nanos(0), host: Nanos(0) };
/// let mut share = EnergyShare::from_now(idle);
/// // The guest had half of the host's busy time.
/// let later = CpuTime { guest: Nanos(500_000_000), host: Nanos(1_000_000_000) };
/// let part = share.update(Energy(10 * Energy::PER_JOULE), later);
/// assert_eq!(part, Energy(5 * Energy::PER_JOULE));
/// ```
#[derive(Debug, Default)]
pub struct EnergyShare {
    /// The last reading.
    spent: Energy,
    time: CpuTime,
    /// What waits.
    waiting: u64,
    guest: Nanos,
    host: Nanos,
    /// What was given, and 2^-64 units beside.
    given: Energy,
    fraction: u64,
}

impl EnergyShare {
    /// A part that begins now; of nothing that was spent before.
    #[must_use]
    pub fn from_now(time: CpuTime) -> Self {
        Self {
            time,
            ..Self::default()
        }
    }

    /// Takes in a reading: `spent` by the host since the beginning, and the
    /// times. Returns the guest's part since the beginning.
    pub fn update(&mut self, spent: Energy, time: CpuTime) -> Energy {
        self.waiting = self
            .waiting
            .saturating_add(spent.0.wrapping_sub(self.spent.0));
        self.guest += time.guest.since(self.time.guest);
        self.host += time.host.since(self.time.host);
        (self.spent, self.time) = (spent, time);
        if self.host >= QUANTUM {
            self.settle();
        }
        self.given
    }

    fn settle(&mut self) {
        let (guest, host) = (self.guest.min(self.host), self.host);
        let product = u128::from(self.waiting) * u128::from(guest.0);
        let host_ns = u128::from(host.0);
        let whole = u64::try_from(product / host_ns).unwrap_or(u64::MAX);
        // The rest is less than `host_ns`, so that the quotient has 64 bits.
        let rest = ((product % host_ns) << 64) / host_ns;
        let rest = u64::try_from(rest).unwrap_or(u64::MAX);
        let (fraction, carry) = self.fraction.overflowing_add(rest);
        self.fraction = fraction;
        self.given = Energy(self.given.0.wrapping_add(whole).wrapping_add(carry.into()));
        // More than a quantum ahead is no rounding of the host's clock.
        self.guest = self.guest.since(guest).min(QUANTUM);
        (self.waiting, self.host) = (0, Nanos(0));
    }
}

/// Energy that several readers, who add up what they read, show in equal parts.
///
/// # Examples
/// ```
/// use vpmu::host::EqualParts;
/// use vpmu::units::Energy;
///
/// let mut parts = EqualParts::new(2);
/// assert_eq!(parts.update(Energy(100)), Energy(50));
/// ```
#[derive(Debug)]
pub struct EqualParts {
    readers: u64,
    spent: Energy,
    rest: u64,
    given: Energy,
}

impl EqualParts {
    /// Parts for so many readers, one at least, of what is spent from now on.
    #[must_use]
    pub const fn new(readers: u16) -> Self {
        Self {
            readers: if readers == 0 { 1 } else { readers as u64 },
            spent: Energy(0),
            rest: 0,
            given: Energy(0),
        }
    }

    /// Takes in what was spent since the beginning; returns one part of it.
    pub fn update(&mut self, spent: Energy) -> Energy {
        let more = spent.0.wrapping_sub(self.spent.0);
        self.spent = spent;
        let rest = self.rest + more % self.readers;
        let part = (more / self.readers).wrapping_add(rest / self.readers);
        self.rest = rest % self.readers;
        self.given = Energy(self.given.0.wrapping_add(part));
        self.given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn time(guest_ms: u64, host_ms: u64) -> CpuTime {
        CpuTime {
            guest: Nanos(guest_ms * MS),
            host: Nanos(host_ms * MS),
        }
    }

    #[test]
    fn a_guest_that_runs_half_of_the_busy_time_bears_half() {
        let mut share = EnergyShare::from_now(time(7, 1_000));
        assert_eq!(share.update(Energy(600), time(57, 1_100)), Energy(300));
        // A host whose others run too, and one that is idle but for the guest.
        assert_eq!(share.update(Energy(1_000), time(77, 1_300)), Energy(340));
        assert_eq!(share.update(Energy(1_100), time(177, 1_400)), Energy(440));
    }

    #[test]
    fn what_is_too_short_waits_and_idle_energy_is_borne_by_who_runs_next() {
        let mut share = EnergyShare::from_now(CpuTime::default());
        assert_eq!(share.update(Energy(500), time(0, 0)), Energy(0));
        assert_eq!(share.update(Energy(900), time(40, 40)), Energy(0));
        assert_eq!(share.update(Energy(1_000), time(100, 100)), Energy(1_000));
    }

    #[test]
    fn guest_time_ahead_of_a_coarse_clock_is_kept_for_later() {
        let mut share = EnergyShare::from_now(CpuTime::default());
        assert_eq!(share.update(Energy(100), time(70, 50)), Energy(100));
        // 20 ms of the guest's are still to be borne: 20 + 30 of 100.
        assert_eq!(share.update(Energy(200), time(100, 150)), Energy(150));
        // A clock that is far off does not pile up a debt.
        assert_eq!(share.update(Energy(300), time(9_000, 250)), Energy(250));
        assert_eq!(share.update(Energy(400), time(9_000, 350)), Energy(300));
    }

    /// Many reads come to what one would, and the counter never runs back.
    #[test]
    fn the_sum_of_many_parts_is_the_part_of_the_sum() {
        // The host's count wraps on the way.
        let start = u64::MAX - 40_000;
        let mut share = EnergyShare {
            spent: Energy(start),
            ..EnergyShare::default()
        };
        let (mut spent, mut guest, mut host, mut last) = (start, 0, 0, 0);
        for n in 0..100_000_u64 {
            spent = spent.wrapping_add(7);
            guest += 17 * MS;
            host += 51 * MS;
            let given = share.update(
                Energy(spent),
                CpuTime {
                    guest: Nanos(guest),
                    host: Nanos(host),
                },
            );
            assert!(given.0 >= last, "{n}: {given:?} after {last}");
            last = given.0;
        }
        let whole = spent.wrapping_sub(start);
        assert!(whole / 3 - last <= 1, "{last} of {whole}");
    }

    #[test]
    fn equal_parts_add_up_to_the_whole_over_many_reads() {
        let mut parts = EqualParts::new(3);
        let mut spent = u64::MAX - 50;
        let start = spent;
        parts.spent = Energy(spent);
        let mut given = 0;
        for _ in 0..100 {
            spent = spent.wrapping_add(7);
            given = parts.update(Energy(spent)).0;
        }
        assert_eq!(given, spent.wrapping_sub(start) / 3);
        assert_eq!(EqualParts::new(0).update(Energy(5)), Energy(5));
    }
}
