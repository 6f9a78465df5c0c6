//! The PMU of one vCPU: a guest model whose counters are backed by host events.
//!
//! ```text
//!  WRMSR ──▶ fold: what the host events counted enters the model
//!        ──▶ model: the write takes effect, or #GP
//!        ──▶ reconcile: host events start, stop, come and go
//!  before KVM_RUN ──▶ take_pmi: at most one, its status already visible (G-404)
//! ```
//!
//! Owned by the vCPU's thread: no lock, no clock, and nothing is done for a
//! counter that is not enabled.

#[cfg(test)]
mod tests;

use core::fmt;

use crate::guest::{Demand, Encoding, GuestPmu, MsrError, Wrap};
use crate::host::{AddError, EventAttr, HostEventId, HostPmu, ReadError};
use crate::ids::{MsrIndex, Pmc, PmcSet};
use crate::units::{Count, Nanos};

/// What became of a counter's last demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CounterState {
    /// The guest does not want it to count.
    #[default]
    Off,
    /// A host event counts for it.
    Counting,
    /// The guest chose an encoding that no host event stands for. It does not
    /// count.
    NotBacked(Encoding),
    /// The host gave no counter. It does not count.
    Refused(AddError),
    /// The host took the counter away. It does not count until the guest
    /// enables it again.
    Lost(ReadError),
}

impl CounterState {
    /// Whether the guest wants a count that it does not get.
    #[must_use]
    pub const fn is_trouble(self) -> bool {
        matches!(self, Self::NotBacked(_) | Self::Refused(_) | Self::Lost(_))
    }
}

impl fmt::Display for CounterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Counting => f.write_str("counting"),
            Self::NotBacked(encoding) => write!(f, "no host event stands for {encoding}"),
            Self::Refused(error) => error.fmt(f),
            Self::Lost(error) => error.fmt(f),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// The host event that is reserved for it, running or not.
    attached: Option<EventAttr>,
    /// The host count that the model already has.
    folded: Count,
    state: CounterState,
}

/// Totals since the vCPU started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Counters that wrapped.
    pub overflows: u64,
    /// PMIs that reached the guest, by [`VcpuPmu::pmi_was_delivered`].
    pub pmis: u64,
    /// Times a counter was wanted and could not be backed, was refused, or was
    /// taken away.
    pub troubles: u64,
}

/// The PMU of one vCPU.
#[derive(Debug)]
pub struct VcpuPmu<G, H> {
    model: G,
    host: H,
    /// By [`Pmc::slot`], which is also the [`HostEventId`].
    counters: [Counter; Pmc::SLOTS],
    /// Counters whose host event runs.
    running: PmcSet,
    /// Stands for the LVTPC mask bit that hardware sets on delivery (G-401).
    armed: bool,
    pmi: bool,
    totals: Totals,
}

const fn event_of(pmc: Pmc) -> HostEventId {
    HostEventId(pmc.slot())
}

impl<G: GuestPmu, H: HostPmu> VcpuPmu<G, H> {
    /// `model` after RESET, with no host event yet.
    pub fn new(model: G, host: H) -> Self {
        Self {
            model,
            host,
            counters: [Counter::default(); Pmc::SLOTS],
            running: PmcSet::EMPTY,
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
        self.model.read(msr)
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
        for pmc in touched.iter() {
            let rewritten = before.is_some_and(|b| b[pmc.slot()] != self.model.value(pmc));
            self.reconcile(pmc, rewritten);
        }
        if self.model.arms(msr, value) {
            self.armed = true;
            if self.model.interrupt_due() {
                self.raise_pmi(); // G-402
            }
        }
        Ok(())
    }

    /// RDPMC with this ECX; `None` is #GP(0).
    pub fn rdpmc(&mut self, ecx: u32) -> Option<u64> {
        let pmc = self.model.rdpmc_counter(ecx)?;
        self.fold(pmc.into());
        Some(self.model.value(pmc))
    }

    /// Takes in what the running counters counted. To be called when a host
    /// overflow has stopped the guest; harmless at any other time.
    pub fn poll(&mut self) {
        self.fold(self.running);
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
        self.totals.pmis += 1;
    }

    /// The PMI that was taken met a masked LVTPC, or has no cause any more: as
    /// on hardware it is gone and a status that is set stays, and the next
    /// overflow may interrupt again.
    pub fn pmi_was_dropped(&mut self) {
        self.armed = true;
    }

    /// Whether a running counter needs [`VcpuPmu::guest_ran`].
    #[must_use]
    pub fn wants_guest_time(&self) -> bool {
        !self.running.is_empty() && self.host.wants_guest_time()
    }

    /// The guest ran for `span`.
    pub fn guest_ran(&mut self, span: Nanos) {
        self.host.guest_ran(span);
    }

    /// Guest time to the next overflow that the host does not signal itself.
    #[must_use]
    pub fn next_overflow(&self) -> Option<Nanos> {
        if self.running.is_empty() {
            None
        } else {
            self.host.next_overflow()
        }
    }

    /// RESET of the vCPU: registers as after power-up, no host event left.
    pub fn reset(&mut self) {
        self.model.reset();
        for pmc in self.model.counters().iter() {
            self.detach(pmc);
            self.counters[pmc.slot()].state = CounterState::Off;
        }
        self.armed = true;
        self.pmi = false;
    }

    /// The guest's registers.
    #[must_use]
    pub const fn model(&self) -> &G {
        &self.model
    }

    /// The host PMU.
    pub const fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// Each counter with what became of its last demand.
    pub fn states(&self) -> impl Iterator<Item = (Pmc, CounterState)> {
        self.model
            .counters()
            .iter()
            .map(|pmc| (pmc, self.counters[pmc.slot()].state))
    }

    /// Totals since the vCPU started.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    fn values_of(&self, set: PmcSet) -> [u64; Pmc::SLOTS] {
        let mut values = [0; Pmc::SLOTS];
        for pmc in set.iter() {
            values[pmc.slot()] = self.model.value(pmc);
        }
        values
    }

    /// Moves what the running host events of `set` counted into the model.
    fn fold(&mut self, set: PmcSet) {
        for pmc in set.and(self.running).iter() {
            let counter = &mut self.counters[pmc.slot()];
            let count = match self.host.read(event_of(pmc)) {
                Ok(count) => count,
                Err(error) => {
                    self.detach(pmc);
                    self.trouble(pmc, CounterState::Lost(error));
                    continue;
                }
            };
            let events = count.since(counter.folded);
            counter.folded = count;
            let wrap = self.model.advance(pmc, events);
            if wrap != Wrap::No {
                self.totals.overflows += 1;
                self.host.start(event_of(pmc), self.model.distance(pmc));
            }
            if wrap == Wrap::Interrupt {
                self.raise_pmi();
            }
        }
    }

    /// Brings the host event of `pmc` in line with what the model wants of it.
    /// `rewritten`: the guest gave the counter a new value.
    fn reconcile(&mut self, pmc: Pmc, rewritten: bool) {
        let runs = self.running.contains(pmc);
        match self.model.demand(pmc) {
            None => {
                if runs {
                    self.host.stop(event_of(pmc));
                    self.running.remove(pmc);
                }
                self.counters[pmc.slot()].state = CounterState::Off;
            }
            Some(Demand::NotBacked(encoding)) => {
                self.detach(pmc);
                self.trouble(pmc, CounterState::NotBacked(encoding));
            }
            Some(Demand::Event(attr)) => {
                let counter = self.counters[pmc.slot()];
                let attached = counter.attached == Some(attr);
                if runs && attached && !rewritten {
                    return;
                }
                if !attached && !self.attach(pmc, attr) {
                    return;
                }
                self.host.start(event_of(pmc), self.model.distance(pmc));
                self.running.insert(pmc);
                self.counters[pmc.slot()].state = CounterState::Counting;
            }
        }
    }

    /// Reserves a host event for `attr` in place of the one that `pmc` had.
    fn attach(&mut self, pmc: Pmc, attr: EventAttr) -> bool {
        self.detach(pmc);
        match self.host.add(event_of(pmc), &attr) {
            Ok(()) => {
                let counter = &mut self.counters[pmc.slot()];
                counter.attached = Some(attr);
                counter.folded = Count(0);
                true
            }
            Err(error) => {
                self.trouble(pmc, CounterState::Refused(error));
                false
            }
        }
    }

    fn detach(&mut self, pmc: Pmc) {
        if self.counters[pmc.slot()].attached.take().is_some() {
            self.host.del(event_of(pmc));
        }
        self.running.remove(pmc);
    }

    /// Notes that the guest gets no count; once for each time that it begins.
    fn trouble(&mut self, pmc: Pmc, state: CounterState) {
        let counter = &mut self.counters[pmc.slot()];
        if counter.state != state {
            counter.state = state;
            self.totals.troubles += 1;
        }
    }

    /// At most one PMI for each arming (G-401).
    fn raise_pmi(&mut self) {
        if core::mem::take(&mut self.armed) {
            self.pmi = true;
        }
    }
}
