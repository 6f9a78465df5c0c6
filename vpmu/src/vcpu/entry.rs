//! What the owner of a vCPU does around each run of the guest: one call before
//! the entry, one after the exit.

use crate::guest::GuestPmu;
use crate::host::{HostPmu, Level};
use crate::units::Nanos;

use super::VcpuPmu;
use super::pmi::PendingPmi;

/// How long host events stay open for a guest that has stopped its counters: a
/// guest that starts them again soon pays for no opening.
const LINGER: Nanos = Nanos(1_000_000_000);

/// What [`VcpuPmu::before_entry`] finds.
///
/// # Examples
/// ```
/// use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig};
/// use vpmu::host::software::{Khz, SoftwarePmu};
/// use vpmu::{BeforeEntry, EntryWants, Policy, VcpuPmu};
///
/// let config = ArchPerfmonConfig::new(4, 3, 48, SoftwarePmu::SUPPORTED).unwrap();
/// let host = SoftwarePmu::new(Khz(1_000_000));
/// let mut pmu = VcpuPmu::new(ArchPerfmon::new(config), host, Policy::Flexible);
/// let wants = match pmu.before_entry() {
///     BeforeEntry::Pmi(pmi) => pmi.delivered(), // after an NMI or interrupt was queued
///     BeforeEntry::Ready(wants) => wants,
/// };
/// assert_eq!(wants, EntryWants::default(), "nothing counts");
/// ```
#[derive(Debug)]
#[must_use = "a PMI may have to be delivered, and a deadline to be kept"]
pub enum BeforeEntry<'a, G, H> {
    /// The guest has to get a PMI first; each answer to it gives the
    /// [`EntryWants`].
    Pmi(PendingPmi<'a, G, H>),
    /// The guest may be entered.
    Ready(EntryWants),
}

/// What the owner has to do for the run of the guest that comes.
///
/// # Examples
/// ```
/// use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig};
/// use vpmu::host::software::{Khz, SoftwarePmu};
/// use vpmu::ids::MsrIndex;
/// use vpmu::units::Nanos;
/// use vpmu::{BeforeEntry, Policy, VcpuPmu};
///
/// let config = ArchPerfmonConfig::new(4, 3, 48, SoftwarePmu::SUPPORTED).unwrap();
/// let host = SoftwarePmu::new(Khz(1_000_000));
/// let mut pmu = VcpuPmu::new(ArchPerfmon::new(config), host, Policy::Flexible);
/// pmu.wrmsr(MsrIndex(0x4c1), (1 << 48) - 1_000).unwrap(); // IA32_A_PMC0
/// pmu.wrmsr(MsrIndex(0x186), 0x53_003c).unwrap(); // IA32_PERFEVTSEL0: cycles, with a PMI
/// let BeforeEntry::Ready(wants) = pmu.before_entry() else {
///     panic!("nothing has overflowed yet");
/// };
/// assert_eq!(wants.deadline, Some(Nanos(1_000)), "an overflow is due then");
/// assert!(wants.guest_time);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "without its deadline an overflow is noticed late"]
pub struct EntryWants {
    /// How long the guest may run at most: then the owner leaves it, and says so
    /// by [`Ran::interrupted`]. `None` if the host signals all that is to come, or
    /// nothing is.
    pub deadline: Option<Nanos>,
    /// Whether [`Ran::span`] is used: a counter or a monitor is on.
    pub guest_time: bool,
    /// Whether [`Ran::level`] is used, after a run that ends with
    /// [`Ran::interrupted`].
    pub level: bool,
}

/// What a run of the guest was, for [`VcpuPmu::after_run`].
///
/// # Examples
/// ```
/// use vpmu::Ran;
/// use vpmu::units::Nanos;
///
/// // 2 µs in the guest, up to an exit that the guest caused.
/// let ran = Ran { span: Nanos(2_000), ..Ran::default() };
/// assert!(!ran.interrupted);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// How long the guest ran. Any value, such as 0, unless
    /// [`EntryWants::guest_time`].
    pub span: Nanos,
    /// The deadline, a host counter's overflow or something else that the guest
    /// did not cause ended the run. Where no counter is on, the deadline alone: the
    /// second such run in a row closes the host events.
    pub interrupted: bool,
    /// Where the guest was then. `None` unless [`EntryWants::level`].
    pub level: Option<Level>,
}

impl<G: GuestPmu, H: HostPmu> VcpuPmu<G, H> {
    /// To be called right before each entry into the guest, after all of its
    /// register accesses. At most one PMI comes of it.
    pub fn before_entry(&mut self) -> BeforeEntry<'_, G, H> {
        match PendingPmi::of(self) {
            Ok(pmi) => BeforeEntry::Pmi(pmi),
            Err(pmu) => BeforeEntry::Ready(pmu.entry_wants()),
        }
    }

    /// To be called after each exit from the guest, before its register accesses.
    ///
    /// After an interrupted run, what the running counters counted is taken in:
    /// that may raise a PMI, and rotates counters whose turn has ended. Where the
    /// guest has none of its counters count, the second interruption in a row
    /// closes their host events.
    pub fn after_run(&mut self, ran: Ran) {
        self.guest_ran(ran.span);
        if !ran.interrupted {
            return;
        }
        if self.is_idle() {
            self.release_if_lingering();
            return;
        }
        if let Some(level) = ran.level {
            self.guest_was_at(level);
        }
        self.poll();
    }

    /// What the next run is to be like.
    pub(super) fn entry_wants(&mut self) -> EntryWants {
        self.lingers &= self.is_idle();
        let linger = self.lingers.then_some(LINGER);
        let due = [self.pmi.retry(), linger, self.next_deadline()];
        EntryWants {
            deadline: due.into_iter().flatten().min(),
            guest_time: self.wants_guest_time(),
            level: self.wants_level(),
        }
    }

    /// The guest ran for `span`.
    pub(super) fn guest_ran(&mut self, span: Nanos) {
        if self.wants_guest_time() {
            self.schedule.ran(span);
        }
    }

    /// An exit that the guest did not cause found it at `level`.
    pub(super) fn guest_was_at(&mut self, level: Level) {
        self.schedule.driver_mut().host_mut().guest_was_at(level);
    }

    /// Takes in what the running counters counted, and rotates if it is time.
    pub(super) fn poll(&mut self) {
        self.fold_overflows(self.schedule.enabled());
        if !self.wants_guest_time() {
            return;
        }
        // Counters of a paused guest are aimed when it enables its PMU again.
        for pmc in self.schedule.enabled().iter() {
            if self.schedule.times(pmc).is_scaled() {
                self.schedule.aim(pmc, self.model.distance(pmc));
            }
        }
        self.schedule.driver_mut().host_mut().give_back();
        self.schedule.looked();
        if self.schedule.rotation_is_due() {
            self.schedule.rotate();
        }
    }

    /// Whether a counter or a monitor counts.
    pub(super) const fn wants_guest_time(&self) -> bool {
        !self.is_paused() || self.has_monitors()
    }

    /// Whether the host PMU has use for the guest's privilege level at the next
    /// exit that the guest does not cause.
    pub(super) fn wants_level(&self) -> bool {
        self.wants_guest_time() && self.host().wants_level()
    }

    /// Guest time to the next event that the host does not signal itself: an
    /// overflow, a rotation, or the next check whether the host took a counter
    /// away.
    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        if self.wants_guest_time() {
            self.schedule.next_deadline()
        } else {
            None
        }
    }

    /// Whether host events are open that nobody needs now. While a monitor is
    /// attached, the events of stopped counters stay open and this is false.
    pub(super) const fn is_idle(&self) -> bool {
        !self.wants_guest_time() && !self.schedule.enabled().is_empty()
    }

    /// The first of two interruptions starts the time that the host events stay
    /// open, the second ends it.
    fn release_if_lingering(&mut self) {
        self.schedule.driver_mut().host_mut().give_back();
        if core::mem::replace(&mut self.lingers, true) {
            self.release();
        }
    }

    /// Closes the host events of a guest that has none of its counters count.
    pub(super) fn release(&mut self) {
        if self.is_idle() {
            self.close_all();
        }
    }
}
