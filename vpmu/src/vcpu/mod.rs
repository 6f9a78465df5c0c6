//! The PMU of one vCPU: a guest model whose counters are events of a scheduler.
//!
//! ```text
//!  WRMSR ──▶ fold: what the host events counted enters the model
//!        ──▶ model: the write takes effect, or #GP
//!        ──▶ reconcile: events open, close, are enabled and disabled
//!                 └▶ Backing: one task of a Scheduler ──▶ CounterDriver ──▶ HostPmu
//!  before KVM_RUN ──▶ take_pmi: at most one, its status already visible (G-404)
//!  timer, signal  ──▶ poll: overflows, lost counters, rotation
//! ```
//!
//! Owned by the vCPU's thread: no lock, no clock, and nothing is done for a
//! counter that is not enabled. A guest that disables all its counters at once,
//! as its PMI handler does, only pauses them (Linux: `perf_pmu_disable`): the
//! schedule stands still until it enables one again. Beside the counters there
//! are [`monitors`], which an operator attaches and no guest can pause.

mod backing;
mod driver;
mod follow;
mod monitors;
mod saved;
mod status;
#[cfg(test)]
mod tests;

use crate::guest::{Arming, Demand, GuestPmu, MsrError};
use crate::host::{HostPmu, Level};
use crate::ids::{MsrIndex, Pmc, PmcSet};
use crate::rules::{Policy, Rules};
use crate::times::Times;
use crate::totals::Totals;
use crate::units::Nanos;

use backing::Backing;
use driver::CounterDriver;

pub use monitors::{AttachError, MonitorView};
pub use status::{CounterState, CounterView};

/// The PMU of one vCPU.
#[derive(Debug)]
pub struct VcpuPmu<G, H> {
    model: G,
    rules: Rules,
    backing: Backing<H>,
    /// Counters that the guest wants to count and whose event is open. Without
    /// one, the PMU is paused.
    wanted: PmcSet,
    /// Counters whose event is enabled; all of `wanted` unless paused.
    enabled: PmcSet,
    /// What keeps a counter from having an event, by [`Pmc::slot`].
    unbacked: [CounterState; Pmc::SLOTS],
    /// Stands for the LVTPC mask bit that Intel's hardware sets on delivery (G-401);
    /// true where none does.
    armed: bool,
    pmi: bool,
    totals: Totals,
}

impl<G: GuestPmu, H: HostPmu> VcpuPmu<G, H> {
    /// `model` after RESET, with no host event yet.
    pub fn new(model: G, host: H, rules: impl Into<Rules>) -> Self {
        let rules = rules.into().for_vendor(model.identity().vendor);
        Self {
            model,
            backing: Backing::new(host, rules.policy),
            rules,
            wanted: PmcSet::EMPTY,
            enabled: PmcSet::EMPTY,
            unbacked: [CounterState::Off; Pmc::SLOTS],
            armed: true,
            pmi: false,
            totals: Totals::default(),
        }
    }

    /// RDMSR.
    ///
    /// # Errors
    /// [`MsrError`] as the model says.
    pub fn rdmsr(&mut self, msr: MsrIndex) -> Result<u64, MsrError> {
        self.fold(self.model.touched_by(msr));
        let value = self.model.read(msr)?;
        if let Some(pmc) = self.model.counter_at(msr) {
            self.note_read(pmc);
        }
        Ok(value)
    }

    /// WRMSR. A write that stops a counter first takes in all that it counted,
    /// and a wrap among it raises its status and PMI now (G-404); from then on
    /// the counter raises nothing.
    ///
    /// # Errors
    /// [`MsrError`] as the model says; the registers are as before then.
    pub fn wrmsr(&mut self, msr: MsrIndex, value: u64) -> Result<(), MsrError> {
        let touched = self.model.touched_by(msr);
        self.fold(touched);
        let before = (!touched.is_empty()).then(|| self.values_of(touched));
        self.model.write(msr, value)?;
        if let Some(before) = before {
            let mut rewritten = PmcSet::EMPTY;
            for pmc in touched.iter() {
                if before[pmc.slot()] != self.model.value(pmc) {
                    rewritten.insert(pmc);
                }
            }
            self.reconcile(touched, rewritten);
        }
        let arming = self.model.arms(msr, value);
        self.armed |= arming != Arming::No;
        if arming == Arming::AtOnce && self.model.interrupt_due() {
            self.raise_pmi(); // G-402
        }
        Ok(())
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

    /// Takes in what the running counters counted, and rotates if it is time. To
    /// be called when a host overflow or the deadline has stopped the guest;
    /// harmless at any other time.
    pub fn poll(&mut self) {
        self.fold(self.enabled);
        if !self.wants_guest_time() {
            return;
        }
        // Those of a paused guest are aimed anew when it goes on.
        for pmc in self.enabled.iter() {
            if self.backing.times(pmc.slot()).is_scaled() {
                self.backing.aim(pmc.slot(), self.model.distance(pmc));
            }
        }
        self.backing.looked();
        if self.backing.rotation_is_due() {
            self.backing.rotate();
        }
    }

    /// Whether a PMI is to be injected before the guest runs on. Asking takes it.
    #[must_use = "a PMI that was taken and not injected is lost"]
    pub fn take_pmi(&mut self) -> bool {
        core::mem::take(&mut self.pmi)
    }

    /// Whether the status still has what a PMI would tell of: one that waited
    /// may have become pointless, and would be an unknown NMI (G-405).
    #[must_use]
    pub fn pmi_has_cause(&self) -> bool {
        self.model.interrupt_due()
    }

    /// The PMI that was taken is on its way into the guest.
    pub fn pmi_was_delivered(&mut self) {
        self.model.interrupt_told();
        self.totals.pmis += 1;
    }

    /// The PMI that was taken waits for the end of the guest's NMI handler.
    pub fn pmi_was_postponed(&mut self) {
        self.model.interrupt_postponed();
    }

    /// The PMI that was taken met a masked LVTPC, or has no cause any more: as
    /// on hardware it is gone and a status that is set stays, and the next
    /// overflow may interrupt again.
    pub fn pmi_was_dropped(&mut self) {
        self.model.interrupt_told();
        self.armed = true;
        self.totals.pmis_suppressed += 1;
    }

    /// Whether a counter or a monitor is on that needs [`VcpuPmu::guest_ran`].
    #[must_use]
    pub const fn wants_guest_time(&self) -> bool {
        !self.is_paused() || self.has_monitors()
    }

    /// The guest ran for `span`.
    pub fn guest_ran(&mut self, span: Nanos) {
        if self.wants_guest_time() {
            self.backing.ran(span);
        }
    }

    /// Whether an asynchronous exit should tell the guest's privilege level, by
    /// [`VcpuPmu::guest_was_at`] and before [`VcpuPmu::poll`].
    #[must_use]
    pub fn wants_level(&self) -> bool {
        self.wants_guest_time() && self.host().is_some_and(HostPmu::wants_level)
    }

    /// An asynchronous exit, which the guest did not cause, found it at `level`.
    pub fn guest_was_at(&mut self, level: Level) {
        if let Some(driver) = self.backing.driver_mut() {
            driver.host_mut().guest_was_at(level);
        }
    }

    /// Guest time to the next [`VcpuPmu::poll`] that the host does not signal
    /// itself: an overflow, a rotation, or a look at whether the host took a
    /// counter away.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanos> {
        if self.wants_guest_time() {
            self.backing.next_deadline()
        } else {
            None
        }
    }

    /// Whether host events are open that nobody needs now. Beside a monitor,
    /// those of stopped counters stay.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        !self.wants_guest_time() && !self.enabled.is_empty()
    }

    /// Closes the host events of a guest that has none of its counters count.
    pub fn release(&mut self) {
        if self.is_idle() {
            self.close_all();
        }
    }

    /// RESET of the vCPU: registers as after power-up, no host event left but of
    /// monitors, which are the host's.
    pub fn reset(&mut self) {
        self.model.reset();
        self.close_all();
        self.unbacked = [CounterState::Off; Pmc::SLOTS];
        self.wanted = PmcSet::EMPTY;
        self.armed = true;
        self.pmi = false;
    }

    /// The guest's registers.
    #[must_use]
    pub const fn model(&self) -> &G {
        &self.model
    }

    /// Each counter with what became of its last demand.
    pub fn counters(&self) -> impl Iterator<Item = CounterView> {
        self.model.counters().iter().map(|pmc| {
            let demand = self.demand(pmc);
            let quality = match demand {
                Some(Demand::Event(attr)) => self.host().map(|h| h.quality(&attr)),
                _ => None,
            };
            CounterView {
                pmc,
                demand,
                quality,
                state: self.state_of(pmc),
                times: self.backing.times_now(pmc.slot()),
            }
        })
    }

    /// Totals since the vCPU started.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let pinned_errors = self.backing.pinned_errors();
        Totals {
            troubles: self.totals.troubles + pinned_errors,
            pinned_errors,
            rotations: self.backing.rotations(),
            revocations: self.backing.driver().map_or(0, CounterDriver::revocations),
            ..self.totals
        }
    }

    /// The guest has none of its counters count.
    const fn is_paused(&self) -> bool {
        self.wanted.is_empty()
    }

    fn host(&self) -> Option<&H> {
        self.backing.driver().map(CounterDriver::host)
    }

    /// What `pmc` should be counting now, as far as it may.
    fn demand(&self, pmc: Pmc) -> Option<Demand> {
        Some(self.rules.judge(self.model.demand(pmc)?))
    }

    fn state_of(&self, pmc: Pmc) -> CounterState {
        let unbacked = self.unbacked[pmc.slot()];
        if unbacked != CounterState::Off || !self.wanted.contains(pmc) {
            return unbacked;
        }
        self.backing.state(pmc.slot()).into()
    }

    fn values_of(&self, set: PmcSet) -> [u64; Pmc::SLOTS] {
        let mut values = [0; Pmc::SLOTS];
        for pmc in set.iter() {
            values[pmc.slot()] = self.model.value(pmc);
        }
        values
    }

    fn note_read(&mut self, pmc: Pmc) {
        // Also of a counter that stands still: Linux reads it when it has stopped it.
        let scaled = self.backing.times(pmc.slot()).is_scaled();
        self.totals.scaled_reads += u64::from(scaled);
    }

    fn close_all(&mut self) {
        for pmc in self.model.counters().iter() {
            self.backing.close(pmc.slot());
        }
        self.enabled = PmcSet::EMPTY;
    }

    /// At most one PMI for each arming (G-401), where hardware masks LVTPC.
    fn raise_pmi(&mut self) {
        let masks = self.model.masks_pmi();
        self.pmi |= self.armed || !masks;
        self.armed = !masks;
    }
}

#[cfg(test)]
impl<G: GuestPmu, H: HostPmu> VcpuPmu<G, H> {
    /// The host PMU, to be scripted.
    fn host_mut(&mut self) -> &mut H {
        self.backing
            .driver_mut()
            .expect("a backing has a PMU")
            .host_mut()
    }
}
