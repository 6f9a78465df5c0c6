//! A guest's PMU of any model, on a scripted host that stays in the test's hand.
#![allow(dead_code, reason = "each target uses a part of it")]

#[path = "../../../tests/kept_host/mod.rs"]
mod kept_host;

use vpmu::guest::{
    intercepted,
    ArchPerfmon, ArchPerfmonConfig, CoreType, GuestPmu, Model, ModelConfig, ModelKind,
};
use vpmu::host::EventCode;
use vpmu::host::sim::SimPmu;
use vpmu::ids::MsrIndex;
use vpmu::state::RestoreError;
use vpmu::x86::cpuid::Vendor;
use vpmu::x86::event::{ArchEvent, ArchEventSet, RawEvent};
use vpmu::x86::msr::Register;
use vpmu::{CodesId, EventFilter, FilterLists, Policy, Rules, VcpuPmu};

pub(crate) use kept_host::Host;

pub type Pmu = VcpuPmu<Model, Host>;

/// What a test is about.
#[derive(Clone, Debug)]
pub struct Setup {
    pub model: Model,
    pub rules: Rules,
    pub host_counters: usize,
}

impl Setup {
    /// From two bytes: any model, any rules, hosts with few and with many counters.
    pub fn of(bytes: [u8; 2]) -> Self {
        Self::with_events(bytes, ArchEventSet::ALL)
    }

    /// The same; the model has `events`.
    pub fn with_events([model, rest]: [u8; 2], events: ArchEventSet) -> Self {
        let kinds = ModelKind::ALL;
        let model = match usize::from(model) % (kinds.len() + 3) {
            i if i < kinds.len() => {
                let config = ModelConfig::new(kinds[i], kinds[i].shape(), events);
                Model::new(config.expect("its own shape"))
            }
            8 => Model::Intel(ArchPerfmon::new(ArchPerfmonConfig::hybrid(
                CoreType::Core,
                events,
            ))),
            9 => Model::Intel(ArchPerfmon::new(ArchPerfmonConfig::hybrid(
                CoreType::Atom,
                events,
            ))),
            _ => {
                let mut shape = kinds[3].shape();
                (shape.gp, shape.fixed, shape.width) = (2, 1, 32);
                let few = ModelConfig::new(kinds[3], shape, events);
                Model::new(few.expect("within the limits"))
            }
        };
        let policy = if rest & 1 == 0 {
            Policy::Flexible
        } else {
            Policy::Pinned
        };
        let all = rest & 2 != 0;
        let filter = match (all, rest & 0x20 != 0) {
            (_, true) => EventFilter::Lists(FilterLists::new(
                [
                    ArchEvent::Cycles.into(),
                    ArchEvent::Instructions.into(),
                    EventCode::Raw(RawEvent::of_event_sel(0x1d1)),
                ],
                [ArchEvent::LlcMisses.into()],
            )),
            (true, false) => EventFilter::All,
            (false, false) => EventFilter::Architectural,
        };
        let host_counters = match rest >> 2 & 7 {
            7 => 12,
            few => usize::from(few),
        };
        Self {
            model,
            rules: Rules {
                policy,
                filter,
                codes: all.then(|| CodesId::new(Vendor::Intel, 0x606a6, None)),
                ..Rules::default()
            },
            host_counters,
        }
    }

    /// All counters have their own, whatever the guest does.
    pub fn is_exact(&self) -> bool {
        self.host_counters == 12
    }

    pub fn pmu(&self) -> (Pmu, Host) {
        let host = Host::new(SimPmu::quiet(self.host_counters, ArchEventSet::ALL));
        (
            Pmu::new(self.model.clone(), host.clone(), self.rules.clone()),
            host,
        )
    }

    pub fn restore(&self, bytes: &[u8]) -> Result<(Pmu, Host), RestoreError> {
        let host = Host::new(SimPmu::quiet(self.host_counters, ArchEventSet::ALL));
        let pmu = Pmu::restore(self.model.clone(), host.clone(), self.rules.clone(), bytes)?;
        Ok((pmu, host))
    }
}

/// Two states are the same, or differ at these offsets.
pub fn same(a: &[u8], b: &[u8]) {
    let differ: Vec<usize> = (20..a.len().max(b.len()))
        .filter(|i| a.get(*i) != b.get(*i))
        .collect();
    assert!(
        a == b,
        "saved, restored and saved again: other bytes at {differ:?} of {}: {a:x?}",
        a.len()
    );
}

/// Any index that a VMM hands to the PMU.
pub fn msr(i: u8) -> MsrIndex {
    let all = intercepted().flat_map(|run| run.indices().take(13));
    let all: Vec<MsrIndex> = all.collect();
    all[usize::from(i) % all.len()]
}

/// What no register may ever hold; written apart from the models.
pub fn check_register(model: &Model, msr: MsrIndex, value: u64) {
    let identity = model.identity();
    let counters = identity.counters.0;
    let metrics = if identity.metrics { 1 << 48 } else { 0 };
    let may = match model.decode(msr).ok().map(|access| access.register()) {
        Some(
            Register::Counter(_)
            | Register::FullWidthCounter(_)
            | Register::FixedCounter(_)
            | Register::AmdCounter(..),
        ) => (1 << identity.width) - 1,
        Some(Register::EventSel(_)) => 0xffff_ffff,
        Some(Register::AmdEventSel(..)) => 0x30f_ffd7_ffff,
        Some(Register::FixedCtrCtrl) => (1 << (4 * (counters >> 32).count_ones())) - 1,
        Some(Register::GlobalCtrl) => counters | metrics,
        Some(Register::GlobalStatus | Register::GlobalStatusSet) => counters | metrics | 1 << 59,
        Some(Register::AmdGlobalCtl | Register::AmdGlobalStatus) => counters,
        Some(
            Register::GlobalOvfCtrl | Register::AmdGlobalStatusClr | Register::AmdGlobalStatusSet,
        ) => 0,
        Some(Register::PerfCapabilities) => 1 << 13,
        Some(Register::GlobalInUse) => counters | 1 << 63,
        Some(Register::DebugCtl) => 0x1803,
        _ => u64::MAX,
    };
    assert_eq!(value & !may, 0, "{msr} of {identity} holds {value:#x}");
}

/// What holds of any PMU at any time.
pub fn check(pmu: &mut Pmu) {
    for view in pmu.counters() {
        assert!(view.times.running <= view.times.enabled, "{view:?}");
    }
    let totals = pmu.totals();
    assert!(totals.pinned_errors <= totals.not_counted, "{totals:?}");
}
