//! The status of uncore PMUs that `perfvisor ctl pmu` shows: plain data.

use serde::{Deserialize, Serialize};
use vpmu::host::{EnergyDomain, UncoreCount, UncoreHost};
use vpmu::ids::VcpuId;
use vpmu::sched::Scope;
use vpmu::uncore::{
    Change, InstanceView, LogEntry, Trouble, Uncore, UncoreCounterView, UncorePmu, UncoreState,
    UncoreView,
};
use vpmu::units::{Count, Energy, Nanos};

/// The uncore PMUs of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncoreStatus {
    /// Each PMU that the guest is shown.
    pub pmus: Vec<UncorePmuStatus>,
    /// What happened to designated vCPUs and events, oldest first; the newest
    /// 256 entries.
    pub log: Vec<UncoreLogEntry>,
}

/// One uncore PMU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncorePmuStatus {
    /// Its name in the guest's sysfs.
    pub pmu: String,
    /// Who shares an instance: `die`, `package`.
    pub scope: String,
    /// Each instance, in the order of vCPU numbers.
    pub instances: Vec<UncoreInstanceStatus>,
}

/// One instance of an uncore PMU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncoreInstanceStatus {
    /// Its number.
    pub instance: u16,
    /// The vCPU that is designated; absent if none of its scope is plugged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub designated: Option<u16>,
    /// The counters that are wanted or have counted.
    pub counters: Vec<UncoreCounterStatus>,
}

/// What becomes of an uncore counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UncoreCounterState {
    /// The guest does not want it to count.
    #[default]
    Off,
    /// It counts.
    Counting,
    /// The host gave no event.
    Refused,
    /// The host has no count any more.
    Error,
    /// Its scope has no vCPU.
    NoVcpu,
}

impl UncoreCounterState {
    /// The name of the state in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Counting => "counting",
            Self::Refused => "refused",
            Self::Error => "error",
            Self::NoVcpu => "no_vcpu",
        }
    }
}

/// One counter of an instance, or one energy domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncoreCounterStatus {
    /// `ctr2`, `energy-pkg`.
    pub counter: String,
    /// What the guest wants counted; absent if it wants nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The host event that counts for the counter; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_event: Option<String>,
    /// Whether it counts.
    pub state: UncoreCounterState,
    /// Why it does not count, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The vCPU that its event is on; absent while it does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<u16>,
    /// Time for which it had an event, ns.
    pub enabled_ns: u64,
    /// Time of that for which it counted, ns.
    pub running_ns: u64,
    /// The count since the VM started, whatever the guest wrote to the counter.
    pub count: u64,
    /// The unit of the count: `events` or `uJ`.
    pub unit: String,
}

/// Something that happened to an instance or one of its counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncoreLogEntry {
    /// From 0; a gap means that older entries gave way.
    pub number: u64,
    /// The time of the change, in ns of the host's monotonic clock.
    pub at_ns: u64,
    /// The PMU.
    pub pmu: String,
    /// The instance of the PMU.
    pub instance: u16,
    /// The kind of change.
    pub change: UncoreChange,
    /// The counter; absent if the change is one of the whole instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<String>,
    /// The vCPU before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u16>,
    /// The vCPU after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u16>,
    /// The count at that time, as in [`UncoreCounterStatus::count`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// The kinds of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UncoreChange {
    /// Another vCPU is designated, or none.
    #[default]
    Designated,
    /// A counter's event moved to another vCPU.
    Moved,
    /// The counter stopped, because the last vCPU of its scope left.
    Off,
    /// The counter counts again.
    Resumed,
}

impl UncoreChange {
    /// The name of the change in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Designated => "designated",
            Self::Moved => "moved",
            Self::Off => "off",
            Self::Resumed => "resumed",
        }
    }
}

/// The present status of the uncore PMUs.
pub(super) fn of<H: UncoreHost>(uncore: &mut Uncore<H>, now: Nanos) -> UncoreStatus {
    UncoreStatus {
        pmus: uncore.view(now).into_iter().map(pmu).collect(),
        log: uncore.log().map(log_entry).collect(),
    }
}

fn pmu(view: UncoreView) -> UncorePmuStatus {
    let name = view.pmu;
    UncorePmuStatus {
        pmu: name.to_string(),
        scope: scope_name(view.scope).to_owned(),
        instances: view
            .instances
            .into_iter()
            .map(|view| instance(name, view))
            .collect(),
    }
}

const fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::None => "none",
        Scope::Core => "core",
        Scope::Die => "die",
        Scope::Cluster => "cluster",
        Scope::Package => "package",
        Scope::System => "system",
    }
}

fn instance(pmu: UncorePmu, view: InstanceView) -> UncoreInstanceStatus {
    UncoreInstanceStatus {
        instance: view.instance.0,
        designated: view.designated.map(number),
        counters: view
            .counters
            .into_iter()
            .map(|view| counter(pmu, view))
            .collect(),
    }
}

const fn number(vcpu: VcpuId) -> u16 {
    vcpu.0
}

fn counter_name(pmu: UncorePmu, number: u8) -> String {
    match (pmu, EnergyDomain::ALL.get(usize::from(number))) {
        (UncorePmu::Power, Some(domain)) => domain.name().to_owned(),
        _ => format!("ctr{number}"),
    }
}

fn counter(pmu: UncorePmu, view: UncoreCounterView) -> UncoreCounterStatus {
    let (state, why, vcpu) = match view.state {
        UncoreState::Off => (UncoreCounterState::Off, None, None),
        UncoreState::Counting(vcpu) => (UncoreCounterState::Counting, None, Some(vcpu.0)),
        UncoreState::Stopped(trouble) => (trouble_state(trouble), Some(trouble.to_string()), None),
    };
    let (count, unit) = match view.counted {
        UncoreCount::Events(count) => (count.0, "events"),
        UncoreCount::Energy(energy) => (microjoules(energy), "uJ"),
    };
    UncoreCounterStatus {
        counter: counter_name(pmu, view.number),
        event: view.wanted.map(|event| event.to_string()),
        host_event: view.host,
        state,
        why,
        vcpu,
        enabled_ns: view.times.enabled.0,
        running_ns: view.times.running.0,
        count,
        unit: unit.to_owned(),
    }
}

const fn trouble_state(trouble: Trouble) -> UncoreCounterState {
    match trouble {
        Trouble::Refused(_) => UncoreCounterState::Refused,
        Trouble::Lost(_) => UncoreCounterState::Error,
        Trouble::NoVcpu => UncoreCounterState::NoVcpu,
    }
}

fn microjoules(energy: Energy) -> u64 {
    let microjoules = u128::from(energy.0) * 1_000_000 / u128::from(Energy::PER_JOULE);
    u64::try_from(microjoules).unwrap_or(u64::MAX)
}

fn log_entry(entry: &LogEntry) -> UncoreLogEntry {
    let pmu = entry.pmu;
    let count = |Count(count)| match pmu {
        UncorePmu::Power => microjoules(Energy(count)),
        _ => count,
    };
    let about = UncoreLogEntry {
        number: entry.number,
        at_ns: entry.at.0,
        pmu: pmu.to_string(),
        instance: entry.instance.0,
        ..UncoreLogEntry::default()
    };
    match entry.change {
        Change::Designated { from, to } => UncoreLogEntry {
            change: UncoreChange::Designated,
            from: from.map(number),
            to: to.map(number),
            ..about
        },
        Change::Moved {
            counter,
            from,
            to,
            count: counted,
        } => UncoreLogEntry {
            change: UncoreChange::Moved,
            counter: Some(counter_name(pmu, counter)),
            from: Some(from.0),
            to: Some(to.0),
            count: Some(count(counted)),
            ..about
        },
        Change::Off {
            counter,
            from,
            count: counted,
        } => UncoreLogEntry {
            change: UncoreChange::Off,
            counter: Some(counter_name(pmu, counter)),
            from: Some(from.0),
            count: Some(count(counted)),
            ..about
        },
        Change::Resumed { counter, to } => UncoreLogEntry {
            change: UncoreChange::Resumed,
            counter: Some(counter_name(pmu, counter)),
            to: Some(to.0),
            ..about
        },
    }
}
