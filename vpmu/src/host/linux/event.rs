//! One host event: a descriptor and what can be done with it.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use perf_event_open_sys::bindings::{self, perf_event_attr};

use crate::host::{NoCounter, Privilege, ReadError};
use crate::ids::HostCpu;
use crate::units::Count;

use super::sys;
use super::sysfs::EventAddress;

/// Why the host opened no event.
#[derive(Debug, thiserror::Error)]
#[error("perf_event_open refused")]
pub struct PerfOpenError(#[from] io::Error);

impl PerfOpenError {
    /// The errno; `EIO` if the error carries none.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.0.raw_os_error().unwrap_or(libc::EIO)
    }

    /// Whether the caller lacks a permission (`perf_event_paranoid`,
    /// `CAP_PERFMON`, or a sandbox that forbids the call).
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self.errno(), libc::EACCES | libc::EPERM)
    }

    /// Whether the host has no PMU that counts the event.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self.errno(),
            libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV | libc::EINVAL
        )
    }
}

/// The kernel refuses 0 and periods with bit 63.
const LONGEST_PERIOD: u64 = i64::MAX.unsigned_abs();

/// Overflows as far as this are not asked of the host: minutes away, they are
/// found by the looks that are taken at a running event anyway. It saves a
/// system call a start to guests that only count.
const FAR: u64 = 1 << 40;

/// An event that runs and has become far keeps its nearer period for so many calls of
/// [`PerfFd::give_back`]: a guest that samples sets the next one in its handler. The price
/// is a signal too many of a guest that does not.
const KEPT: u8 = 2;

/// What to open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) address: EventAddress,
    pub(super) privilege: Privilege,
    /// Count in guest mode only.
    pub(super) guest_only: bool,
}

/// A perf event of the thread that opened it.
#[derive(Debug)]
pub(super) struct PerfFd {
    fd: OwnedFd,
    /// The period that the kernel has.
    period: u64,
    running: bool,
    /// How long a period is kept that is nearer than what was asked for; 0: it is not.
    kept: u8,
}

impl PerfFd {
    /// Opens a disabled, pinned, sampling event. Its period is as good as
    /// infinite until [`PerfFd::start`].
    pub(super) fn open(spec: &Spec) -> Result<Self, PerfOpenError> {
        let mut attr = perf_event_attr {
            type_: spec.address.kind,
            config: spec.address.config.config,
            ..perf_event_attr::default()
        };
        attr.__bindgen_anon_1 = bindings::perf_event_attr__bindgen_ty_1 {
            sample_period: LONGEST_PERIOD,
        };
        attr.set_disabled(1);
        attr.set_pinned(1);
        attr.set_exclude_host(u64::from(spec.guest_only));
        attr.set_exclude_user(u64::from(!spec.privilege.user));
        attr.set_exclude_kernel(u64::from(!spec.privilege.kernel));
        Ok(Self {
            fd: sys::open_on_this_thread(&mut attr)?,
            period: LONGEST_PERIOD,
            running: false,
            kept: 0,
        })
    }

    /// Has `signal` sent to the calling thread at each overflow.
    pub(super) fn signal_this_thread(&self, signal: c_int) -> Result<(), PerfOpenError> {
        let thread = sys::this_thread();
        Ok(sys::signal_on_overflow(self.fd.as_fd(), thread, signal)?)
    }

    /// Counts, with the next overflow after `left` more events, or sooner. Where the host
    /// has a counter too few, the pinned event that was opened last enters the
    /// error state, this or another, which only a read tells.
    pub(super) fn start(&mut self, left: Count) -> Result<(), NoCounter> {
        let period = if left.0 < FAR {
            left.0.max(1)
        } else {
            LONGEST_PERIOD
        };
        let is_far = period == LONGEST_PERIOD;
        // The kernel keeps what was left of an equal period, also over a stop.
        if is_far && self.running && self.period != LONGEST_PERIOD {
            self.kept = KEPT;
        } else if !is_far || self.period != LONGEST_PERIOD {
            self.set_period(period).map_err(|_refused| NoCounter)?;
        }
        if !self.running {
            sys::enable(self.fd.as_fd()).map_err(|_refused| NoCounter)?;
            self.running = true;
        }
        Ok(())
    }

    /// The thread was interrupted: a period that was kept has been kept long enough once
    /// its signal has come.
    pub(super) fn give_back(&mut self) {
        let was_kept = self.kept > 0;
        self.kept = self.kept.saturating_sub(1);
        if was_kept && self.kept == 0 && self.running {
            // It fails for what is no event only, which a descriptor of ours is not.
            let _ = self.set_period(LONGEST_PERIOD);
        }
    }

    fn set_period(&mut self, period: u64) -> io::Result<()> {
        sys::set_period(self.fd.as_fd(), period)?;
        (self.period, self.kept) = (period, 0);
        Ok(())
    }

    /// Gives the counter back.
    pub(super) fn stop(&mut self) {
        self.running = false;
        // It fails for what is no event only, which a descriptor of ours is not.
        let _ = sys::disable(self.fd.as_fd());
    }

    /// The count since it was opened.
    pub(super) fn read(&self) -> Result<Count, ReadError> {
        match sys::read_count(self.fd.as_fd()) {
            Ok(Some(count)) => Ok(Count(count)),
            Ok(None) => Err(ReadError::Lost),
            Err(e) => Err(ReadError::Host(e.raw_os_error().unwrap_or(libc::EIO))),
        }
    }
}

/// What an event of a CPU has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) count: u64,
    /// For how long it was to count, in ns; it stands still for good where the
    /// host has dropped it with its CPU.
    pub(super) enabled: u64,
    /// For how long it did.
    pub(super) running: u64,
}

/// A perf event of a CPU, whatever runs there.
#[derive(Debug)]
pub(super) struct CpuEvent(OwnedFd);

impl CpuEvent {
    /// Opens a pinned event, which counts from now on.
    pub(super) fn open(kind: u32, config: u64, cpu: HostCpu) -> Result<Self, PerfOpenError> {
        let times =
            bindings::PERF_FORMAT_TOTAL_TIME_ENABLED | bindings::PERF_FORMAT_TOTAL_TIME_RUNNING;
        let mut attr = perf_event_attr {
            type_: kind,
            config,
            read_format: u64::from(times),
            ..perf_event_attr::default()
        };
        attr.set_pinned(1);
        Ok(Self(sys::open_on_cpu(&mut attr, cpu.0)?))
    }

    /// What it has counted.
    pub(super) fn read(&self) -> Result<Reading, ReadError> {
        match sys::read_words(self.0.as_fd()) {
            Ok(Some([count, enabled, running])) => Ok(Reading {
                count,
                enabled,
                running,
            }),
            Ok(None) => Err(ReadError::Lost),
            Err(e) => Err(ReadError::Host(e.raw_os_error().unwrap_or(libc::EIO))),
        }
    }
}

#[cfg(test)]
mod tests {
    //! On a software clock event, which every Linux host has: the same calls
    //! as for a hardware event.

    use super::*;
    use crate::host::linux::sysfs::{EventSource, RawConfig};
    use crate::ids::PmuType;

    fn task_clock() -> Option<PerfFd> {
        let spec = Spec {
            address: EventAddress::TASK_CLOCK,
            privilege: Privilege {
                user: true,
                kernel: true,
            },
            guest_only: false,
        };
        match PerfFd::open(&spec) {
            Ok(event) => Some(event),
            Err(e) if e.is_permission() => {
                eprintln!(
                    "skipped: perf_event_open is not permitted here (errno {})",
                    e.errno()
                );
                None
            }
            Err(e) => panic!("{e}: errno {}", e.errno()),
        }
    }

    #[test]
    fn an_event_of_a_cpu_tells_its_times() {
        let kind = bindings::PERF_TYPE_SOFTWARE;
        let clock = u64::from(bindings::PERF_COUNT_SW_CPU_CLOCK);
        let event = match CpuEvent::open(kind, clock, HostCpu(0)) {
            Ok(event) => event,
            Err(e) if e.is_permission() => {
                eprintln!(
                    "skipped: events of CPUs are not permitted (errno {})",
                    e.errno()
                );
                return;
            }
            Err(e) => panic!("{e}: errno {}", e.errno()),
        };
        let first = event.read().unwrap();
        spin();
        let second = event.read().unwrap();
        assert!(second.count > first.count);
        assert!(second.enabled > first.enabled);
        assert_eq!(second.enabled, second.running);
        let none = CpuEvent::open(kind, clock, HostCpu(u32::MAX)).unwrap_err();
        assert!(!none.is_permission());
    }

    fn spin() {
        for i in 0..200_000_u64 {
            std::hint::black_box(i);
        }
    }

    #[test]
    fn start_and_stop_keep_the_count() {
        let Some(mut event) = task_clock() else {
            return;
        };
        assert_eq!(event.read(), Ok(Count(0)));
        event.start(Count(u64::MAX)).unwrap();
        spin();
        event.stop();
        let first = event.read().unwrap();
        assert!(first > Count(0));
        spin();
        assert_eq!(event.read(), Ok(first), "held still");
        event.start(Count(u64::MAX)).unwrap();
        spin();
        assert!(event.read().unwrap() > first);
    }

    #[test]
    fn the_next_overflow_signals_the_thread() {
        let Some(mut event) = task_clock() else {
            return;
        };
        let signal = libc::SIGRTMIN() + 5;
        let set = crate::host::linux::sys::tests::block(signal);
        event.signal_this_thread(signal).unwrap();
        event.start(Count(2_000_000)).unwrap();
        while event.read().unwrap() < Count(2_000_000) {
            spin();
        }
        event.stop();
        assert!(crate::host::linux::sys::tests::pending(&set, signal));
    }

    /// A guest that samples: its counter wraps, and its handler sets the next period.
    #[test]
    fn an_event_that_has_become_far_keeps_its_period_for_a_while() {
        const PERIOD: Count = Count(2_000_000_000);
        const FAR_AWAY: Count = Count(FAR);
        let Some(mut event) = task_clock() else {
            return;
        };
        event.start(PERIOD).unwrap();
        event.start(FAR_AWAY).unwrap();
        event.give_back();
        assert_eq!(
            event.period, PERIOD.0,
            "of the interruption that found the wrap"
        );
        event.start(PERIOD).unwrap();
        for _ in 0..3 {
            event.give_back();
            assert_eq!(event.period, PERIOD.0, "it is what was asked for");
        }
        // A guest that does not sample on.
        event.start(FAR_AWAY).unwrap();
        event.give_back();
        event.give_back();
        assert_eq!(event.period, LONGEST_PERIOD);
        // One that was stopped meanwhile.
        event.start(PERIOD).unwrap();
        event.start(FAR_AWAY).unwrap();
        event.stop();
        event.give_back();
        event.give_back();
        event.start(FAR_AWAY).unwrap();
        assert_eq!(event.period, LONGEST_PERIOD);
    }

    #[test]
    fn an_event_that_no_host_has_is_unsupported() {
        let spec = Spec {
            address: EventSource::Pmu(PmuType(0xffff)).raw(RawConfig::of(0)),
            privilege: Privilege {
                user: true,
                kernel: true,
            },
            guest_only: true,
        };
        assert!(PerfFd::open(&spec).unwrap_err().is_unsupported());
    }
}
