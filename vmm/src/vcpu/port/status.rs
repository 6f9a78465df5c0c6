//! The status of one vCPU's PMU, as `perfvisor ctl pmu` shows it: plain data.

use serde::{Deserialize, Serialize};
use vpmu::{CounterState, Totals};

use super::MonitorStatus;

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
    /// The filter does not let the guest count it.
    Denied,
    /// The host gave no event.
    Refused,
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
            Self::Denied => "denied",
            Self::Refused => "refused",
        }
    }
}

impl From<CounterState> for CountingState {
    fn from(state: CounterState) -> Self {
        match state {
            CounterState::Off => Self::Off,
            CounterState::Counting => Self::Counting,
            CounterState::Waiting => Self::Waiting,
            CounterState::Error => Self::Error,
            CounterState::NotBacked(_) => Self::NotBacked,
            CounterState::Denied(_) => Self::Denied,
            CounterState::Refused(_) => Self::Refused,
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
    /// What stands behind it on the host; absent if nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_event: Option<String>,
    /// Whether it counts.
    pub state: CountingState,
    /// Why it does not count, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The register, as of the vCPU's last exit.
    pub value: u64,
    /// Guest time for which its event has been enabled, ns.
    pub enabled_ns: u64,
    /// Guest time of that for which it counted, ns.
    pub running_ns: u64,
    /// What the guest reads is scaled by enabled / running.
    pub scaled: bool,
    /// What the guest reads is derived from a clock.
    pub clock_derived: bool,
    /// Its share of the privilege levels is estimated from samples.
    pub sampled: bool,
}

/// Totals of one vCPU since it started, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmuTotals {
    /// Guest counters that wrapped.
    pub overflows: u64,
    /// Events that were counted past a wrap until it was seen, of all overflows.
    pub skid: u64,
    /// The most of them for one overflow.
    pub longest_skid: u64,
    /// PMIs that reached the guest.
    pub pmis_injected: u64,
    /// PMIs that met a masked LVTPC, or had lost their cause.
    pub pmis_suppressed: u64,
    /// Times a counter was wanted and did not count.
    pub not_counted: u64,
    /// Counters that the guest stopped before their first turn.
    pub starved: u64,
    /// Guest reads whose value was scaled.
    pub scaled_reads: u64,
    /// Times a pinned counter got into the error state.
    pub pinned_errors: u64,
    /// Rotations of counters that take turns.
    pub rotations: u64,
    /// Times the host took a counter away.
    pub host_revocations: u64,
}

impl From<Totals> for PmuTotals {
    fn from(totals: Totals) -> Self {
        // Whole, so that a new total is not forgotten.
        let Totals {
            overflows,
            skid,
            longest_skid,
            pmis,
            pmis_suppressed,
            troubles,
            scaled_reads,
            pinned_errors,
            starved,
            rotations,
            revocations,
        } = totals;
        Self {
            overflows,
            skid,
            longest_skid,
            pmis_injected: pmis,
            pmis_suppressed,
            not_counted: troubles,
            starved,
            scaled_reads,
            pinned_errors,
            rotations,
            host_revocations: revocations,
        }
    }
}

impl PmuTotals {
    /// Adds another vCPU's.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            overflows: self.overflows.saturating_add(other.overflows),
            skid: self.skid.saturating_add(other.skid),
            longest_skid: self.longest_skid.max(other.longest_skid),
            pmis_injected: self.pmis_injected.saturating_add(other.pmis_injected),
            pmis_suppressed: self.pmis_suppressed.saturating_add(other.pmis_suppressed),
            not_counted: self.not_counted.saturating_add(other.not_counted),
            starved: self.starved.saturating_add(other.starved),
            scaled_reads: self.scaled_reads.saturating_add(other.scaled_reads),
            pinned_errors: self.pinned_errors.saturating_add(other.pinned_errors),
            rotations: self.rotations.saturating_add(other.rotations),
            host_revocations: self.host_revocations.saturating_add(other.host_revocations),
        }
    }

    /// Every figure with its name.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u64); 11] {
        [
            ("overflows", self.overflows),
            ("events of skid", self.skid),
            ("of them at most for one overflow", self.longest_skid),
            ("PMIs injected", self.pmis_injected),
            ("PMIs suppressed", self.pmis_suppressed),
            ("not counted", self.not_counted),
            ("starved", self.starved),
            ("scaled reads", self.scaled_reads),
            ("pinned errors", self.pinned_errors),
            ("rotations", self.rotations),
            ("host revocations", self.host_revocations),
        ]
    }
}

/// The PMU of one vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuPmuStatus {
    /// Each guest counter.
    pub counters: Vec<CounterStatus>,
    /// Each monitor, which is an operator's.
    pub monitors: Vec<MonitorStatus>,
    /// What happened so far.
    pub totals: PmuTotals,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_total_is_left_out() {
        let totals = Totals {
            overflows: 1,
            skid: 2,
            longest_skid: 3,
            pmis: 4,
            pmis_suppressed: 5,
            troubles: 6,
            starved: 7,
            scaled_reads: 8,
            pinned_errors: 9,
            rotations: 10,
            revocations: 11,
        };
        let figures = PmuTotals::from(totals).plus(totals.into()).named();
        let figures: Vec<_> = figures.into_iter().map(|(_, figure)| figure).collect();
        // The longest is no sum.
        assert_eq!(figures, [2, 4, 3, 8, 10, 12, 14, 16, 18, 20, 22]);
    }

    #[test]
    fn the_words_are_those_of_the_api() {
        use CountingState::{Counting, Error, NotBacked, Off, Refused, Waiting};
        for state in [Off, Counting, Waiting, Error, NotBacked, Refused] {
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(json, format!("\"{}\"", state.name()));
        }
    }
}
