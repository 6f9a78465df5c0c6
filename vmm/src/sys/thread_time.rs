//! The CPU time of a thread, without a system call most of the time.
#![expect(unsafe_code, reason = "the TSC has no safe binding")]

use vpmu::host::linux::Switches;
use vpmu::host::software::Khz;
use vpmu::units::Nanos;

use super::clock;

/// For how long the TSC stands for the thread's time. The host may take out of that time
/// what its interrupts need.
const LONGEST: Nanos = Nanos(1_000_000);
/// Times that a clock is read again because the thread left its CPU meanwhile.
const TRIES: usize = 4;

/// How long the thread that made it has been on a CPU since it started.
///
/// While the thread stays on its CPU, its time grows as the TSC does. The host tells when
/// it has left the CPU ([`Switches`]); the host's clock, a system call, is read then, and
/// once in a while. A host that does not tell is asked each time.
#[derive(Debug)]
pub struct ThreadTime {
    switches: Option<Switches>,
    tsc: TickLength,
    known: Option<Anchor>,
}

/// The thread's time at one moment.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    /// [`Switches::number`]
    switches: u32,
    ticks: u64,
    time: Nanos,
}

impl ThreadTime {
    /// The calling thread's, on a host whose TSC has this rate; 0 is an unknown one.
    #[must_use]
    pub fn of_this_thread(tsc: Khz) -> Self {
        let tsc = TickLength::of(tsc);
        let can_tell = |_: &TickLength| Switches::of_this_thread();
        let switches = tsc.as_ref().map(can_tell).transpose();
        let switches = switches.unwrap_or_else(|error| {
            log::debug!("the thread's time comes from its clock alone: {error}");
            None
        });
        Self {
            switches,
            tsc: tsc.unwrap_or_default(),
            known: None,
        }
    }

    /// Now, right before an entry into the guest.
    pub fn at_entry(&mut self) -> Nanos {
        match self.anchor(|_| true) {
            // Behind the reading of the clock, if there was one.
            Some(known) => self.tsc.after(known, ticks()),
            None => clock::thread_cpu_time(),
        }
    }

    /// Now, right after an exit of the guest.
    ///
    /// Time of the host's interrupts that was taken for the thread's since the clock was
    /// read is missing from the first run of the guest behind which it is read again.
    pub fn at_exit(&mut self) -> Nanos {
        let (tsc, now) = (self.tsc, ticks());
        match self.anchor(|known| tsc.is_soon(known, now)) {
            Some(known) => tsc.after(known, now),
            None => clock::thread_cpu_time(),
        }
    }

    /// The moment that is known, if the thread has kept its CPU since and it `will_do`, or a
    /// new one.
    fn anchor(&mut self, will_do: impl FnOnce(Anchor) -> bool) -> Option<Anchor> {
        let number = self.switches.as_ref()?.number();
        match self.known {
            Some(known) if known.switches == number && will_do(known) => Some(known),
            _ => self.know(),
        }
    }

    /// Reads the host's clock. `None` on a host so busy that the thread never stays on its
    /// CPU for that long.
    #[cold]
    fn know(&mut self) -> Option<Anchor> {
        let switches = self.switches.as_ref()?;
        self.known = (0..TRIES).find_map(|_| {
            let number = switches.number();
            let before = ticks();
            let time = clock::thread_cpu_time();
            let took = ticks().wrapping_sub(before);
            (switches.number() == number).then_some(Anchor {
                switches: number,
                ticks: before.wrapping_add(took / 2),
                time,
            })
        });
        self.known
    }
}

/// How long a tick of the TSC is, in nanoseconds times 2^32.
#[derive(Clone, Copy, Debug, Default)]
pub struct TickLength(u64);

impl TickLength {
    /// Of a TSC of this rate; `None` if the rate is unknown, 0.
    #[must_use]
    pub const fn of(tsc: Khz) -> Option<Self> {
        const NANOS_PER_TICK_AT_1KHZ: u64 = 1_000_000;
        match (NANOS_PER_TICK_AT_1KHZ << 32).checked_div(tsc.0 as u64) {
            Some(length) => Some(Self(length)),
            None => None,
        }
    }

    /// How long so many ticks are.
    #[must_use]
    pub fn span(self, ticks: u64) -> Nanos {
        let span = (u128::from(ticks) * u128::from(self.0)) >> 32;
        Nanos(u64::try_from(span).unwrap_or(u64::MAX))
    }

    /// The time at `ticks`, which may be shortly before `known`.
    fn after(self, known: Anchor, ticks: u64) -> Nanos {
        let ahead = ticks.wrapping_sub(known.ticks);
        if ahead.cast_signed() < 0 {
            known.time.since(self.span(ahead.wrapping_neg()))
        } else {
            known.time + self.span(ahead)
        }
    }

    fn is_soon(self, known: Anchor, ticks: u64) -> bool {
        self.span(ticks.wrapping_sub(known.ticks)) < LONGEST
    }
}

/// The TSC.
#[must_use]
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and a host's program may use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_time() {
        let known = Anchor {
            switches: 0,
            ticks: 1_000,
            time: Nanos(50),
        };
        let tsc = TickLength::of(Khz(2_000_000)).unwrap();
        assert_eq!(tsc.after(known, 1_000), Nanos(50));
        assert_eq!(tsc.after(known, 1_100), Nanos(100));
        assert_eq!(tsc.after(known, 980), Nanos(40));
        assert!(tsc.is_soon(known, 1_000 + 1_999_998));
        assert!(!tsc.is_soon(known, 1_000 + 2_000_000));
        assert!(TickLength::of(Khz(0)).is_none());
    }

    /// Between two looks at the host's clock; a tenth is for a TSC of another rate.
    #[test]
    fn it_is_the_threads_time() {
        for rate in [Khz(0), clock::tests::tsc_rate()] {
            let mut time = ThreadTime::of_this_thread(rate);
            for _ in 0..200 {
                let before = clock::thread_cpu_time();
                let entry = time.at_entry();
                let mut spent = Nanos(0);
                while spent < Nanos(50_000) {
                    spent = clock::thread_cpu_time().since(before);
                }
                let exit = time.at_exit();
                let all = clock::thread_cpu_time().since(before);
                let most = Nanos(all.0 + all.0 / 10);
                assert!(
                    exit.since(entry) <= most,
                    "{rate:?} {entry:?} {exit:?} {all:?}"
                );
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            let (slept, all) = (time.at_entry(), clock::thread_cpu_time());
            let off = slept.since(all).max(all.since(slept));
            assert!(off < Nanos(1_000_000), "{rate:?}: {slept:?} {all:?}");
        }
    }
}
