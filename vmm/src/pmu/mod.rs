//! The guest's PMU between KVM and [`vpmu`].
//!
//! ```text
//!  select: --pmu type=…  ─▶ PmuBacking         filter: registers' rows ─▶ KVM's MSR filter
//!  model:  --pmu model=… ─▶ Model           (or the host's vendor, and what it backs)
//!  budget: its number of counters, limited by the host's
//!  event_filter: filter=… ─▶ vpmu::Rules    what may be counted, and policy=
//!  monitors: events that an operator attaches while the VM runs
//!                            │
//!  RDMSR, WRMSR exits ─▶ port ─▶ vpmu::VcpuPmu ─▶ HostPmu (perf events or the guest's clock)
//!                         │  ▲
//!     rdpmc: RDPMC ─▶ RDMSR  │ overflow signal (perf event or kick_timer) ─▶ poll
//!                         ▼
//!                        pmi: KVM_NMI or a fixed vector, before the next entry
//!
//!  what the core's PMU lacks ─▶ uncore ─▶ vpmu::uncore::Uncore ─▶ UncoreHost
//! ```
//! A vCPU's PMU belongs to the vCPU's thread. The vCPUs share four things: the
//! rewritten instructions (read without a lock), the list of monitors (read when a
//! vCPU starts), the uncore PMUs (behind a lock), and the totals at the end.

mod budget;
mod caveat;
pub mod event_filter;
mod filter;
mod guest_clock;
mod hooks;
mod kick_timer;
mod learned;
mod linger;
mod lost_reads;
mod model;
pub mod monitors;
mod pmi;
mod port;
mod rdpmc;
mod select;
mod status;
mod totals;
mod uncore;
mod uncore_hosts;
mod uncore_status;

use std::sync::Arc;

use vpmu::guest::{Model, ModelKind};
use vpmu::host::HostPmu;
use vpmu::host::linux::OverflowSignal;
use vpmu::host::linux::sysfs::Sysfs;
use vpmu::x86::cpuid::Vendor;
use vpmu::x86::standard::StandardSet;
use vpmu::{EventFilter, Rules};

use crate::config::{CpusConfig, PmuArg, RdpmcPolicy};
use crate::kvm::{KvmError, Vcpu};
use crate::sys::kick;
use crate::vcpu::{MsrPort, PortBuilder};

use budget::Budget;
use guest_clock::TimeSource;
use learned::Lessons;
use model::{Choice, ChoiceError, Offered};
use monitors::VmMonitors;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use port::fuzz_port;
use port::{PmuPort, PmuPortParts};
use rdpmc::Sites;
#[cfg(any(test, feature = "fuzz"))]
pub use rdpmc::fuzz_rdpmc;

pub use hooks::{PmuHooks, PortContext};
pub use select::{
    Counted, CountersError, HostCpus, HostSource, PmuBacking, Reason, SelectError, counted_events,
    free_counters, place, select,
};
pub use totals::{VmTotals, add_up};
pub use uncore::{BoxedHost, SharedUncore, UncorePlan};
pub use uncore_hosts::{UncoreError, UncoreHosts, VcpuTimes};
pub(crate) use uncore_hosts::{all_umc, find_one};
pub use uncore_status::{
    UncoreChange, UncoreCounterState, UncoreCounterStatus, UncoreInstanceStatus, UncoreLogEntry,
    UncorePmuStatus, UncoreStatus,
};

/// The PMU of one vCPU.
type DynVcpuPmu = vpmu::VcpuPmu<Model, Box<dyn HostPmu + Send>>;

/// The reason why a guest cannot have the requested PMU.
#[derive(Debug, thiserror::Error)]
pub enum PmuError {
    /// The backing.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The counters.
    #[error("--pmu: {0}")]
    Config(ChoiceError),
    /// The events that the guest may count.
    #[error(transparent)]
    Filter(#[from] event_filter::FilterError),
    /// The uncore PMUs.
    #[error("--uncore: {0}")]
    Uncore(vpmu::sched::RegisterError),
    /// The host's uncore PMUs cannot back the guest's.
    #[error(transparent)]
    UncoreHosts(#[from] UncoreError),
    /// KVM's filter.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

impl PmuError {
    /// Whether another value of the flag would do, as opposed to another host.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        match self {
            Self::Select(error) => error.is_usage(),
            Self::UncoreHosts(error) => error.is_usage(),
            Self::Config(_) | Self::Filter(_) | Self::Uncore(_) => true,
            Self::Kvm(_) => false,
        }
    }
}

/// A PMU that is decided on, for one VM.
#[derive(Debug)]
pub struct PmuPlan {
    backing: PmuBacking,
    model: Choice,
    rules: Rules,
    totals: Arc<VmTotals>,
    uncore: Option<Arc<SharedUncore>>,
    monitors: Arc<VmMonitors>,
}

impl PmuPlan {
    /// Decides on the PMU of `--pmu`; `None` is a guest without one.
    ///
    /// # Errors
    /// [`PmuError`]; nothing is started then.
    pub fn new(
        arg: &PmuArg,
        cpus: &CpusConfig,
        sysfs: &Sysfs,
        host_cpus: &HostCpus,
    ) -> Result<Option<Self>, PmuError> {
        let PmuArg::On(asked) = arg else {
            return Ok(None);
        };
        let backing = select(&asked.kind, cpus, sysfs, host_cpus)?;
        let host = model::host_vendor();
        let filter =
            event_filter::read(&asked.filter)?.for_vendor(model::vendor_first_tried(asked, host));
        // Of a sum, each part has codes of its own.
        let is_hardware = matches!(backing, PmuBacking::Hardware(_) | PmuBacking::Hybrid { .. });
        let by_code = if is_hardware && host == Some(Vendor::Amd) && model::has_codes_of_17h() {
            backing.standard_by_code()
        } else {
            StandardSet::EMPTY
        };
        let (events, standard) = (backing.events(), backing.standard());
        let counted = |vendor| {
            let filter = filter.clone().for_vendor(vendor);
            Offered {
                events: filter.admitted(events),
                standard: filter.admitted_standard(standard.or(by_code)),
            }
        };
        let model = if backing.core_types().is_some() {
            Choice::hybrid(counted(Vendor::Intel).events, &asked.filter)
        } else {
            let found = Budget::find(&backing, asked.policy, host_cpus);
            let found = found.map_err(ChoiceError::from).map_err(PmuError::Config)?;
            Choice::new(asked, counted, host, found.as_ref()).map_err(PmuError::Config)?
        };
        if asked.rdpmc == RdpmcPolicy::Off {
            log::warn!(
                "--pmu rdpmc=off: this KVM does not serve RDPMC, and a guest kernel with a PMU would \
                 fail at its first read; the guest gets no PMU"
            );
            return Ok(None);
        }
        let codes_mean_the_same = is_hardware && host == Some(model.kind.vendor());
        let codes =
            codes_mean_the_same.then(|| model::host_codes(model.kind.vendor(), &backing.name()));
        let by_name = [EventFilter::Architectural, EventFilter::Standard];
        if !by_name.contains(&filter) && codes.is_none() {
            log::warn!(
                "--pmu filter=: this host cannot count by the event codes of guest model {}: of the \
                 admitted events, only those with a name are counted",
                model.kind
            );
        }
        Ok(Some(Self {
            backing,
            model,
            rules: Rules {
                policy: asked.policy,
                filter,
                codes,
                standard,
                standard_by_code: by_code,
            },
            totals: Arc::default(),
            uncore: None,
            monitors: Arc::default(),
        }))
    }

    /// The same with uncore PMUs.
    ///
    /// # Errors
    /// If their counters are too many.
    pub fn with_uncore(mut self, plan: &UncorePlan, cpus: &CpusConfig) -> Result<Self, PmuError> {
        let uncore = SharedUncore::new(plan, cpus).map_err(PmuError::Uncore)?;
        self.uncore = Some(Arc::new(uncore));
        Ok(self)
    }

    /// The uncore PMUs, if it has any.
    #[must_use]
    pub fn uncore(&self) -> Option<Arc<SharedUncore>> {
        self.uncore.clone()
    }

    /// The model of the guest's PMU.
    #[must_use]
    pub const fn model_kind(&self) -> ModelKind {
        self.model.kind
    }

    /// The source of the guest's counts.
    #[must_use]
    pub const fn host(&self) -> &PmuBacking {
        &self.backing
    }

    /// The parts that this PMU adds to a machine.
    ///
    /// # Errors
    /// If the rows' indices do not fit into KVM's filter.
    pub fn hooks(&self) -> Result<PmuHooks, PmuError> {
        let (backing, model) = (self.backing.clone(), self.model);
        let cpuid = model.config.cpuid();
        let rules = self.rules.clone();
        let uncore = self.uncore.clone();
        let monitors = Arc::clone(&self.monitors);
        let totals = Arc::clone(&self.totals);
        // What the clock counts is what the guest reads.
        let is_clock = backing.is_clock();
        let core_types = backing.core_types().cloned();
        let lessons = Arc::new(Lessons::default());
        let port = move |context: &PortContext<'_>| {
            let (vcpu, apic_id, tsc) = (context.vcpu, context.apic_id, context.tsc);
            let (memory, interrupter) = (context.memory.clone(), context.interrupter.clone());
            let config = model.config_of(backing.core_type(vcpu));
            let host = backing.driver(vcpu, tsc, OverflowSignal(kick::SIGNAL));
            let (rules, uncore) = (rules.clone(), uncore.clone());
            let (monitors, totals) = (Arc::clone(&monitors), Arc::clone(&totals));
            let (lessons, saved) = (Arc::clone(&lessons), context.saved.clone());
            let build = move |kvm_vcpu: &mut Vcpu| {
                let learned = lessons.from(kvm_vcpu, &memory, is_clock)?;
                let parts = PmuPortParts {
                    vcpu,
                    apic_id,
                    model: Model::new(config),
                    host,
                    sites: Sites::new(Arc::clone(&learned.rewriter)),
                    access: learned.access,
                    interrupter,
                    rules,
                    time: if is_clock {
                        TimeSource::Thread
                    } else {
                        TimeSource::Host
                    },
                    tsc,
                    entry_cost: learned.entry_cost,
                    uncore,
                    monitors,
                    totals,
                    saved,
                };
                Ok(Box::new(PmuPort::new(parts)?) as Box<dyn MsrPort>)
            };
            Box::new(build) as PortBuilder
        };
        Ok(PmuHooks {
            cpuid: Some(cpuid),
            filter: Some(filter::filter(cpuid.vendor())?),
            halts_sleep: is_clock,
            affinity: Vec::new(),
            core_types,
            uncore: self.uncore.clone(),
            totals: Arc::clone(&self.totals),
            port: Box::new(port),
        })
    }

    /// Tells the user what backs the counters, once the machine is built. What
    /// nobody asked for is worth a warning: the counts are no hardware's.
    pub fn announce(&self) {
        let level = match self.backing {
            PmuBacking::Software(reason) if reason != Reason::Asked => log::Level::Warn,
            _ => log::Level::Info,
        };
        log::log!(level, "pmu: {}", self.backing);
        // Where a clock backs the counters, that has been said.
        let level = match self.backing {
            PmuBacking::Hardware { .. } if self.model.is_second_best() => log::Level::Warn,
            _ => log::Level::Info,
        };
        log::log!(level, "pmu: {}", self.model);
        if let Some(warning) = self.model.warning() {
            log::warn!("pmu: {warning}");
        }
        if let Some(unnamed) = self.model.unnamed() {
            log::info!("pmu: {unnamed}");
        }
    }

    /// The totals of the vCPUs that have ended; they grow while the VM runs.
    #[must_use]
    pub fn ended(&self) -> Arc<VmTotals> {
        Arc::clone(&self.totals)
    }

    /// The monitors of the VM, for the control API, which adds and removes them.
    #[must_use]
    pub fn monitors(&self) -> Arc<VmMonitors> {
        Arc::clone(&self.monitors)
    }

    /// What a reader of the guest's counts must know, if there is anything: counts of a
    /// clock, scaled ones, lost ones. Complete after all vCPUs have ended.
    #[must_use]
    pub fn caveat(&self) -> Option<String> {
        let clock = match self.backing {
            PmuBacking::Software(reason) if self.totals.has_counted() => Some(reason),
            _ => None,
        };
        caveat::text(clock, &self.totals.get(), &self.totals.uncounted())
    }

    /// The totals of the vCPUs in one line; complete after all vCPUs have ended.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "backing={} model={} {}",
            self.backing.name(),
            self.model.kind,
            self.totals
        )
    }
}
