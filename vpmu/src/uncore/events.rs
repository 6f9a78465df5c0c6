//! The host events of uncore counters: CPU events of one scheduler for the VM.
//!
//! Its policy is [`ScopePolicy::Designated`](crate::sched::ScopePolicy): each
//! event is on the vCPU that its scope has designated, and moves with it (R-242
//! to R-257). A guest's registers do not tell which counters are a group, so
//! each event leads one of its own.

use alloc::vec::Vec;

use super::driver::UncoreDriver;
use super::model::{UncoreModel, UncorePmu};
use crate::host::{HostOpenError, ReadError, UncoreEvent, UncoreEventId, UncoreHost};
use crate::ids::VcpuId;
use crate::sched::{
    AttrFlags, Config, EventAttr, EventId, OpenError as SchedError, OpenRequest, PmuCaps, PmuClass,
    PmuDesc, PmuId, PmuType, RegisterError, Scheduler, ScopeTopology, Target,
};
use crate::times::Times;
use crate::units::{Count, Nanos};

/// Why a counter that is wanted does not count.
///
/// # Examples
/// ```
/// use vpmu::host::HostOpenError;
/// use vpmu::uncore::Trouble;
///
/// let trouble = Trouble::Refused(HostOpenError::Host(13));
/// assert_eq!(
///     trouble.to_string(),
///     "the host opened no event: perf_event_open failed with errno 13"
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The host gave no event.
    #[error("the host opened no event: {0}")]
    Refused(HostOpenError),
    /// The host has no count any more.
    #[error("the host event ended: {0}")]
    Lost(ReadError),
    /// The scope has no vCPU.
    #[error("no vCPU of the scope is plugged in")]
    NoVcpu,
}

/// One counter's event and what became of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meter {
    event: Option<EventId>,
    /// Of the event's count, what was handed on.
    taken: Count,
    /// Of the events before.
    before: Times,
    pub(super) trouble: Option<Trouble>,
}

impl Meter {
    pub(super) const fn is_open(&self) -> bool {
        self.event.is_some()
    }
}

/// The scheduler of one VM's uncore PMUs.
#[derive(Debug)]
pub(super) struct Events<H> {
    sched: Scheduler<UncoreDriver<H>>,
    pmus: Vec<(PmuId, PmuType)>,
}

impl<H: UncoreHost> Events<H> {
    /// A scheduler with the PMUs of `model`, in its order.
    pub(super) fn new(
        model: &UncoreModel,
        topology: ScopeTopology,
        mut host: impl FnMut(UncorePmu) -> H,
    ) -> Result<Self, RegisterError> {
        let mut sched = Scheduler::new(Config::new(topology));
        let mut pmus = Vec::new();
        for pmu in model.pmus() {
            let mut desc = PmuDesc::new(&alloc::format!("{pmu}"), PmuClass::Uncore);
            desc.caps = PmuCaps::NO_INTERRUPT | PmuCaps::NO_EXCLUDE;
            desc.scope = model.scope(pmu);
            let driver = UncoreDriver::new(pmu, *model, topology, host(pmu));
            let id = sched.register_pmu(desc, driver)?;
            let (_, pmu_type) = sched.pmu(id).ok_or(RegisterError::NoPmu)?;
            pmus.push((id, pmu_type));
        }
        Ok(Self { sched, pmus })
    }

    /// A vCPU comes (R-242) or goes (R-243, R-244, R-258); `false` if it has already.
    pub(super) fn set_present(&mut self, now: Nanos, vcpu: VcpuId, present: bool) -> bool {
        let done = if present {
            self.sched.online(now, vcpu)
        } else {
            self.sched.offline(now, vcpu)
        };
        done.is_ok()
    }

    /// The vCPUs that PMU number `bank` has designated, ascending.
    pub(super) fn designated(&self, bank: usize) -> impl Iterator<Item = VcpuId> + '_ {
        let mask = self
            .pmus
            .get(bank)
            .and_then(|pmu| self.sched.cpumask(pmu.0));
        mask.into_iter().flatten()
    }

    pub(super) fn driver(&self, bank: usize) -> Option<&UncoreDriver<H>> {
        self.sched.driver(self.pmus.get(bank)?.0)
    }

    pub(super) fn driver_mut(&mut self, bank: usize) -> Option<&mut UncoreDriver<H>> {
        self.sched.driver_mut(self.pmus.get(bank)?.0)
    }

    /// Has a closed meter count `event` for `vcpu`'s instance, from 0.
    pub(super) fn open(
        &mut self,
        now: Nanos,
        bank: usize,
        (id, event, vcpu): (UncoreEventId, UncoreEvent, VcpuId),
        meter: &mut Meter,
    ) {
        let Some((_, pmu_type)) = self.pmus.get(bank).copied() else {
            return;
        };
        if let Some(driver) = self.driver_mut(bank) {
            driver.expect(id, event);
        }
        // Pinned: each has a host event of its own, and one that fails shall be seen.
        let attr = EventAttr::new(pmu_type, 0).with(AttrFlags::PINNED);
        let mut request = OpenRequest::new(attr, Target::Cpu, Some(vcpu));
        request.in_kernel = true;
        match self.sched.open(now, &request) {
            Ok(event) => {
                meter.event = Some(event);
                meter.taken = Count(0);
                meter.trouble = None;
            }
            Err(error) => meter.trouble = Some(self.refusal(bank, &error)),
        }
    }

    fn refusal(&mut self, bank: usize, error: &SchedError) -> Trouble {
        if matches!(error, SchedError::NoDesignatedCpu | SchedError::CpuOffline) {
            return Trouble::NoVcpu;
        }
        let said = self.driver_mut(bank).and_then(UncoreDriver::take_refusal);
        let unsaid = HostOpenError::Host(error.errno() as i32);
        Trouble::Refused(said.unwrap_or(unsaid))
    }

    /// What was counted since the last time. An event that the host has no count
    /// for is closed, and the meter says why.
    pub(super) fn progress(&mut self, now: Nanos, bank: usize, meter: &mut Meter) -> Count {
        let Some(event) = meter.event else {
            return Count(0);
        };
        let read = self.sched.read_value(now, event).ok();
        let count = read.and_then(|read| read.values.first().map(|value| value.count));
        let progress = count.map_or(Count(0), |count| {
            let progress = count.since(meter.taken);
            meter.taken = count;
            progress
        });
        let loss = self.driver(bank).and_then(|driver| driver.loss(event));
        if let Some(error) = loss {
            self.close(now, meter);
            meter.trouble = Some(Trouble::Lost(error));
        }
        progress
    }

    /// Ends the event; what it counted since the last [`Events::progress`] is gone.
    pub(super) fn close(&mut self, now: Nanos, meter: &mut Meter) {
        meter.before = self.times(now, meter);
        if let Some(event) = meter.event.take() {
            let _ = self.sched.close(now, event);
        }
    }

    /// Time for which the counter had an event, and for which that counted.
    pub(super) fn times(&self, now: Nanos, meter: &Meter) -> Times {
        let times = meter.event.and_then(|e| self.sched.times(now, e).ok());
        let (enabled, running) = times.unwrap_or_default();
        Times {
            enabled: meter.before.enabled + enabled,
            running: meter.before.running + running,
        }
    }

    /// The vCPU that the event counts on.
    pub(super) fn place(&self, meter: &Meter) -> Option<VcpuId> {
        self.sched.view(meter.event?).ok()?.oncpu
    }

    pub(super) fn describe(&self, bank: usize, meter: &Meter) -> Option<alloc::string::String> {
        self.driver(bank)?.describe(meter.event?)
    }
}
