//! What `perfvisor ctl pmu` shows of one vCPU: plain data, filled on the vCPU's
//! own thread at an exit boundary.
//!
//! A figure that nobody keeps is absent; it is never a zero that was not
//! counted.

use serde::{Deserialize, Serialize};
use vpmu::guest::{Demand, GuestPmu};
use vpmu::host::{EventAttr, HostPmu};
use vpmu::ids::Pmc;
use vpmu::{CounterState, VcpuPmu};

use super::PmuPlan;

/// What becomes of a guest counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountingState {
    /// The guest does not want it to count.
    #[default]
    Off,
    /// It counts.
    Counting,
    /// Multiplexed out: it waits for a host counter.
    Waiting,
    /// Pinned, and without a host counter.
    Error,
    /// The guest chose an event that no host event stands for.
    NotBacked,
    /// The host gave no counter.
    Refused,
    /// The host took the counter away.
    Lost,
}

impl CountingState {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Counting => "counting",
            Self::Waiting => "waiting",
            Self::Error => "error",
            Self::NotBacked => "not_backed",
            Self::Refused => "refused",
            Self::Lost => "lost",
        }
    }
}

/// One guest counter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterStatus {
    /// `gp0`, `fixed1`.
    pub counter: String,
    /// What the guest wants counted, or its raw encoding; absent if it wants
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The host event behind it; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_event: Option<String>,
    /// Whether it counts.
    pub state: CountingState,
    /// Why it does not count, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The register, as of the vCPU's last exit.
    pub value: u64,
    /// How long the guest has had it enabled, ns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled_ns: Option<u64>,
    /// How long of that it counted, ns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_ns: Option<u64>,
    /// What the guest reads is scaled by enabled / running.
    pub scaled: bool,
    /// What the guest reads is derived from a clock.
    pub clock_derived: bool,
}

/// Totals of one vCPU since it started, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmuTotals {
    /// Guest counters that wrapped.
    pub overflows: u64,
    /// PMIs that reached the guest.
    pub pmis_injected: u64,
    /// Times a counter was wanted and did not count.
    pub not_counted: u64,
    /// PMIs that met a masked LVTPC, or had lost their cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pmis_suppressed: Option<u64>,
    /// Reads whose value was scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaled_reads: Option<u64>,
    /// Pinned counters that went to the error state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_errors: Option<u64>,
    /// Times the counters that wait took their turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotations: Option<u64>,
    /// Counters that the host took away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_revocations: Option<u64>,
}

impl PmuTotals {
    /// Adds another vCPU's. A figure that one of them does not keep is not
    /// known of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let both = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
        Self {
            overflows: self.overflows.saturating_add(other.overflows),
            pmis_injected: self.pmis_injected.saturating_add(other.pmis_injected),
            not_counted: self.not_counted.saturating_add(other.not_counted),
            pmis_suppressed: both(self.pmis_suppressed, other.pmis_suppressed),
            scaled_reads: both(self.scaled_reads, other.scaled_reads),
            pinned_errors: both(self.pinned_errors, other.pinned_errors),
            rotations: both(self.rotations, other.rotations),
            host_revocations: both(self.host_revocations, other.host_revocations),
        }
    }

    /// Every figure that is known, with its name.
    pub fn known(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        [
            ("overflows", Some(self.overflows)),
            ("PMIs injected", Some(self.pmis_injected)),
            ("PMIs suppressed", self.pmis_suppressed),
            ("not counted", Some(self.not_counted)),
            ("scaled reads", self.scaled_reads),
            ("pinned errors", self.pinned_errors),
            ("rotations", self.rotations),
            ("host revocations", self.host_revocations),
        ]
        .into_iter()
        .filter_map(|(name, figure)| Some((name, figure?)))
    }
}

/// The PMU of one vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuPmuStatus {
    /// Each guest counter.
    pub counters: Vec<CounterStatus>,
    /// What happened so far.
    pub totals: PmuTotals,
}

/// What can be told of a PMU without touching it.
pub(super) fn of<G: GuestPmu, H: HostPmu>(pmu: &VcpuPmu<G, H>) -> VcpuPmuStatus {
    let totals = pmu.totals();
    VcpuPmuStatus {
        counters: pmu
            .states()
            .map(|(pmc, state)| counter(pmu, pmc, state))
            .collect(),
        totals: PmuTotals {
            overflows: totals.overflows,
            pmis_injected: totals.pmis,
            not_counted: totals.troubles,
            ..PmuTotals::default()
        },
    }
}

fn counter<G: GuestPmu, H: HostPmu>(
    pmu: &VcpuPmu<G, H>,
    pmc: Pmc,
    state: CounterState,
) -> CounterStatus {
    let demand = pmu.model().demand(pmc);
    let counting = state == CounterState::Counting;
    let clock_derived = counting && pmu.wants_guest_time();
    let host_event = match demand {
        Some(Demand::Event(_)) if clock_derived => Some("guest time".to_owned()),
        Some(Demand::Event(attr)) if counting => Some(format!("hardware {}", name(&attr))),
        _ => None,
    };
    CounterStatus {
        counter: pmc.to_string(),
        event: demand.map(|demand| match demand {
            Demand::Event(attr) => name(&attr),
            Demand::NotBacked(encoding) => encoding.to_string(),
        }),
        host_event,
        state: match state {
            CounterState::Off => CountingState::Off,
            CounterState::Counting => CountingState::Counting,
            CounterState::NotBacked(_) => CountingState::NotBacked,
            CounterState::Refused(_) => CountingState::Refused,
            CounterState::Lost(_) => CountingState::Lost,
        },
        why: state.is_trouble().then(|| state.to_string()),
        value: pmu.model().value(pmc),
        clock_derived,
        ..CounterStatus::default()
    }
}

/// The event as perf writes it.
fn name(attr: &EventAttr) -> String {
    let levels = match (attr.privilege.user, attr.privilege.kernel) {
        (true, false) => ":u",
        (false, true) => ":k",
        _ => "",
    };
    format!("{}{levels}", attr.event.name())
}

impl PmuPlan {
    /// What backs the counters, in the words of [`PmuPlan::announce`].
    #[must_use]
    pub fn backing(&self) -> String {
        self.backing.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_knows_only_what_all_of_it_know() {
        let some = PmuTotals {
            overflows: 1,
            rotations: Some(2),
            pinned_errors: Some(1),
            ..PmuTotals::default()
        };
        let other = PmuTotals {
            overflows: 4,
            rotations: Some(3),
            ..PmuTotals::default()
        };
        let sum = some.plus(other);
        assert_eq!(sum.overflows, 5);
        assert_eq!(sum.rotations, Some(5));
        assert_eq!(sum.pinned_errors, None);
        let names: Vec<_> = sum.known().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["overflows", "PMIs injected", "not counted", "rotations"]
        );
    }

    #[test]
    fn an_absent_figure_is_no_zero() {
        let json = serde_json::to_string(&PmuTotals::default()).unwrap();
        assert_eq!(json, r#"{"overflows":0,"pmis_injected":0,"not_counted":0}"#);
        for state in [CountingState::NotBacked, CountingState::Waiting] {
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(json, format!("\"{}\"", state.name()));
        }
    }
}
