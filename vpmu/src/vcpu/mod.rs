//! The PMU of one vCPU: a guest model whose counters are events of a scheduler.
//!
//! ```text
//!  WRMSR ──▶ fold: what the host events counted enters the model
//!        ──▶ model: the write takes effect, or #GP
//!        ──▶ reconcile: events open, close, are enabled and disabled
//!                 └▶ EventSchedule: one task of a Scheduler ──▶ CounterDriver ──▶ HostPmu
//!  before_entry ──▶ a PMI, at most one, its status already visible (G-404);
//!                   how long the guest may run
//!  after_run    ──▶ guest time; after an interruption also overflows, lost
//!                   counters, rotation
//! ```
//!
//! Owned by the vCPU's thread: no lock, no clock, and nothing is done for a
//! counter that is not enabled. A guest that disables all its counters at once,
//! as its PMI handler does, only pauses them (Linux: `perf_pmu_disable`): the
//! schedule stands still until it enables one again. Beside the counters there
//! are [`monitors`], which an operator attaches and no guest can pause.

mod counter;
mod driver;
mod entry;
mod event_set;
mod follow;
mod host_counters;
mod monitors;
mod pmi;
mod rates;
mod saved;
mod schedule;
mod status;
#[cfg(test)]
mod tests;
mod turns;
mod uncounted;

use crate::guest::{Access, Arming, Demand, GuestPmu, MsrError};
use crate::host::HostPmu;
use crate::ids::{MsrIndex, Pmc, PmcSet};
use crate::rules::{Policy, Rules};
use crate::times::Times;
use crate::totals::Totals;
use crate::x86::msr::Register;

use pmi::PmiLine;
use schedule::EventSchedule;
use uncounted::UncountedEvents;

pub use entry::{BeforeEntry, EntryWants, Ran};
pub use monitors::{AttachError, MonitorView};
pub use pmi::PendingPmi;
pub use status::{CounterState, CounterView};
pub use uncounted::Uncounted;

/// The PMU of one vCPU.
///
/// # What its owner does
///
/// The owner is the thread that runs the vCPU. It makes the PMU by
/// [`VcpuPmu::new`] or [`VcpuPmu::restore`], makes all calls and drops it: the host
/// events of [`host::linux`](crate::host) count the thread that opens them. No call
/// blocks, and the PMU reads no clock.
///
/// Each round of the vCPU has four steps, in this order:
///
/// 1. [`VcpuPmu::before_entry`]. If it gives a [`PendingPmi`], the owner reads the
///    guest's LVTPC, delivers the PMI and answers with
///    [`delivered`](PendingPmi::delivered), [`postponed`](PendingPmi::postponed) or
///    [`dropped`](PendingPmi::dropped). Then it has the [`EntryWants`].
/// 2. The owner sets a timer to [`EntryWants::deadline`] and enters the guest. It
///    measures how long the guest runs if [`EntryWants::guest_time`].
/// 3. [`VcpuPmu::after_run`], with what the run was: before anything else is done
///    about the exit, so that a register that is read has the counts of the run.
/// 4. The guest's accesses: [`VcpuPmu::rdmsr`], [`VcpuPmu::wrmsr`],
///    [`VcpuPmu::rdpmc`], any number of them. An error of theirs is #GP in the guest.
///
/// Between step 3 and the next step 1, the owner may do at any time:
/// [`VcpuPmu::attach`] and [`VcpuPmu::detach`] monitors, look
/// ([`VcpuPmu::counters`], [`VcpuPmu::monitors`], [`VcpuPmu::totals`]),
/// [`VcpuPmu::save`], and [`VcpuPmu::reset`] when the vCPU is reset.
///
/// # Examples
///
/// A round of a vCPU. `enter` runs the guest and returns how long it ran and
/// whether the timer or a signal ended the run.
///
/// ```
/// use vpmu::guest::GuestPmu;
/// use vpmu::host::HostPmu;
/// use vpmu::units::Nanos;
/// use vpmu::{BeforeEntry, Ran, VcpuPmu};
///
/// fn round<G: GuestPmu, H: HostPmu>(
///     pmu: &mut VcpuPmu<G, H>,
///     inject_nmi: impl FnOnce(),
///     enter: impl FnOnce(Option<Nanos>) -> (Nanos, bool),
/// ) {
///     let wants = match pmu.before_entry() {
///         BeforeEntry::Pmi(pmi) => {
///             inject_nmi();
///             pmi.delivered()
///         }
///         BeforeEntry::Ready(wants) => wants,
///     };
///     let (span, interrupted) = enter(wants.deadline);
///     pmu.after_run(Ran { span, interrupted, level: None });
/// }
/// #
/// # use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig};
/// # use vpmu::host::software::{Khz, SoftwarePmu};
/// # use vpmu::ids::MsrIndex;
/// # let config = ArchPerfmonConfig::new(4, 3, 48, SoftwarePmu::SUPPORTED).unwrap();
/// # let host = SoftwarePmu::new(Khz(1_000_000));
/// # let mut pmu = VcpuPmu::new(ArchPerfmon::new(config), host, vpmu::Policy::Flexible);
/// # pmu.wrmsr(MsrIndex(0x4c1), (1 << 48) - 1_000).unwrap();
/// # pmu.wrmsr(MsrIndex(0x186), 0x53_003c).unwrap();
/// # let mut nmis = 0;
/// # for _ in 0..3 {
/// #     round(&mut pmu, || nmis += 1, |deadline| (deadline.unwrap(), true));
/// # }
/// # assert_eq!(nmis, 1);
/// ```
#[derive(Debug)]
pub struct VcpuPmu<G, H> {
    model: G,
    rules: Rules,
    schedule: EventSchedule<H>,
    pmi: PmiLine,
    /// The last run was interrupted while nothing counted: the next interruption
    /// closes the host events, unless the guest starts a counter before.
    lingers: bool,
    totals: Totals,
    uncounted: UncountedEvents,
}

impl<G: GuestPmu, H: HostPmu> VcpuPmu<G, H> {
    /// `model` after RESET, with no host event yet.
    pub fn new(model: G, host: H, rules: impl Into<Rules>) -> Self {
        let rules = rules.into().for_vendor(model.identity().vendor);
        Self {
            model,
            schedule: EventSchedule::new(host, rules.policy),
            rules,
            pmi: PmiLine::RESET,
            lingers: false,
            totals: Totals::default(),
            uncounted: UncountedEvents::default(),
        }
    }

    /// The register of the guest at `msr`. An exit decodes its index once, here.
    ///
    /// # Errors
    /// [`MsrError::Unknown`] if the core's PMU has none there: another PMU of the
    /// VM may have it.
    pub fn decode(&self, msr: MsrIndex) -> Result<Access<Register>, MsrError> {
        self.model.decode(msr)
    }

    /// RDMSR of a register that [`VcpuPmu::decode`] found.
    ///
    /// # Errors
    /// [`MsrError`] as the model says.
    pub fn read(&mut self, access: Access<Register>) -> Result<u64, MsrError> {
        // No count and no overflow changes what the guest has programmed.
        if !matches!(
            access.register(),
            Register::EventSel(_) | Register::FixedCtrCtrl
        ) {
            self.fold(access.touches());
        }
        let value = self.model.read(access)?;
        if let Some(pmc) = access.counter() {
            self.note_read(pmc);
        }
        Ok(value)
    }

    /// WRMSR of a register that [`VcpuPmu::decode`] found. A write that stops a
    /// counter first takes in all that it counted, and a wrap among it raises its
    /// status and PMI now (G-404); from then on the counter raises nothing.
    ///
    /// # Errors
    /// [`MsrError`] as the model says; the registers are as before then.
    pub fn write(&mut self, access: Access<Register>, value: u64) -> Result<(), MsrError> {
        let touched = access.touches();
        self.fold(touched);
        let counter = access.counter();
        let before = counter.map(|pmc| self.model.value(pmc));
        self.model.write(access, value)?;
        if !touched.is_empty() {
            let after = counter.map(|pmc| self.model.value(pmc));
            let rewritten = counter.filter(|_| before != after);
            self.reconcile(touched, rewritten.map_or(PmcSet::EMPTY, PmcSet::from));
        }
        let at_once = self.pmi.arm(access.arming(value));
        if at_once && self.model.interrupt_due() {
            self.raise_pmi(); // G-402
        }
        Ok(())
    }

    /// Whether a write of `value` changes nothing: the register, which says what is counted,
    /// has it, every counter that it is about has what it wants, and the next overflow
    /// interrupts already. Such a write need not be done.
    #[must_use]
    pub fn changes_nothing(&self, access: Access<Register>, value: u64) -> bool {
        let says_what_is_counted = matches!(
            access.register(),
            Register::EventSel(_) | Register::FixedCtrCtrl | Register::GlobalCtrl
        );
        let arms = access.arming(value) != Arming::No;
        // A write ends what a PMU without a status register tells of.
        says_what_is_counted
            && self.model.read(access) == Ok(value)
            && (!arms || self.pmi.is_armed() && !self.model.interrupt_due())
            && self.model.told().is_empty()
            && self
                .schedule
                .counters
                .refused()
                .and(access.touches())
                .is_empty()
    }

    /// RDMSR by index, in a VM whose only PMU this is.
    ///
    /// # Errors
    /// [`MsrError`] as the model says.
    pub fn rdmsr(&mut self, msr: MsrIndex) -> Result<u64, MsrError> {
        let access = self.model.decode_alone(msr)?;
        self.read(access)
    }

    /// WRMSR by index, in a VM whose only PMU this is.
    ///
    /// # Errors
    /// [`MsrError`] as the model says; the registers are as before then.
    pub fn wrmsr(&mut self, msr: MsrIndex, value: u64) -> Result<(), MsrError> {
        let access = self.model.decode_alone(msr)?;
        if self.changes_nothing(access, value) {
            return Ok(());
        }
        self.write(access, value)
    }

    /// RDPMC with this ECX; `None` is #GP(0).
    pub fn rdpmc(&mut self, ecx: u32) -> Option<u64> {
        let Some(pmc) = self.model.rdpmc_counter(ecx) else {
            return self.model.rdpmc_other(ecx);
        };
        self.fold(pmc.into());
        self.note_read(pmc);
        Some(self.model.value(pmc))
    }

    /// RESET of the vCPU: registers as after power-up, no host event left but of
    /// monitors, which are the host's.
    pub fn reset(&mut self) {
        self.model.reset();
        self.schedule.reset();
        self.lingers = false;
        self.pmi = PmiLine::RESET;
    }

    /// The guest's registers.
    #[must_use]
    pub const fn model(&self) -> &G {
        &self.model
    }

    /// The host PMU, for a test that scripts it. Its events belong to this PMU: do
    /// not open, close, start or stop any.
    ///
    /// # Examples
    ///
    /// ```
    /// use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig};
    /// use vpmu::host::sim::SimPmu;
    /// use vpmu::ids::MsrIndex;
    /// use vpmu::x86::event::{ArchEvent, ArchEventSet};
    /// use vpmu::{Policy, VcpuPmu};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL)?;
    /// let host = SimPmu::new(4, ArchEventSet::ALL);
    /// let mut pmu = VcpuPmu::new(ArchPerfmon::new(config), host, Policy::Flexible);
    /// pmu.wrmsr(MsrIndex(0x186), 0x53_003c)?; // IA32_PERFEVTSEL0: cycles
    /// pmu.host_mut().occur(ArchEvent::Cycles, 7);
    /// assert_eq!(pmu.rdpmc(0), Some(7));
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(any(test, feature = "test-doubles"))]
    pub fn host_mut(&mut self) -> &mut H {
        self.schedule.driver_mut().host_mut()
    }

    /// Each counter with what became of its last demand.
    pub fn counters(&self) -> impl Iterator<Item = CounterView> {
        self.model.counters().iter().map(|pmc| {
            let demand = self.demand(pmc);
            let quality = match demand {
                Some(Demand::Event(event)) => Some(self.host().quality(&event)),
                _ => None,
            };
            CounterView {
                pmc,
                demand,
                quality,
                state: self.schedule.state(pmc),
                times: self.schedule.times_now(pmc),
                estimated: self.schedule.is_estimated(pmc),
            }
        })
    }

    /// Totals since the vCPU started.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let pinned_errors = self.schedule.pinned_errors();
        Totals {
            not_counted: self.totals.not_counted + pinned_errors,
            pinned_errors,
            rotations: self.schedule.rotations(),
            host_revocations: self.schedule.driver().revocations(),
            ..self.totals
        }
    }

    /// The events that the guest wanted since this PMU was made and that nobody counts.
    pub fn uncounted(&self) -> impl Iterator<Item = Uncounted> {
        self.uncounted.iter()
    }

    /// The guest has none of its counters count.
    const fn is_paused(&self) -> bool {
        self.schedule.wanted().is_empty()
    }

    fn host(&self) -> &H {
        self.schedule.driver().host()
    }

    /// What `pmc` should be counting now, as far as it may.
    fn demand(&self, pmc: Pmc) -> Option<Demand> {
        Some(self.rules.judge(self.model.demand(pmc)?))
    }

    fn note_read(&mut self, pmc: Pmc) {
        // Also of a counter that stands still: Linux reads it when it has stopped it.
        let scaled = self.schedule.times(pmc).is_scaled();
        self.totals.scaled_reads += u64::from(scaled);
    }

    /// Closes the host events of all counters.
    fn close_all(&mut self) {
        self.schedule.close_all();
        self.lingers = false;
    }
}
