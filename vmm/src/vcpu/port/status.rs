//! The status of one vCPU's PMU, as `perfvisor ctl pmu` shows it: plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vpmu::{CounterState, Totals};

use super::MonitorStatus;

/// The state of a guest counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountingState {
    /// The guest does not want it to count.
    #[default]
    Off,
    /// The counter counts.
    Counting,
    /// Multiplexed out: it waits for a host counter.
    Waiting,
    /// Pinned, and without a host counter.
    Error,
    /// The guest chose an event that no host event stands for.
    NotBacked,
    /// The filter does not let the guest count it.
    Denied,
    /// The host opened no event.
    Refused,
}

impl CountingState {
    /// The name of the state in the API.
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
    /// The host event that counts for the counter; absent if there is none.
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
    /// The value that the guest reads is scaled by enabled / running.
    pub scaled: bool,
    /// It had no turn yet, and the value that the guest reads is estimated from what the same
    /// event counted before.
    pub estimated: bool,
    /// The value that the guest reads is derived from a clock.
    pub clock_derived: bool,
    /// The split by privilege levels is estimated from samples.
    pub sampled: bool,
}

/// Events that the guest wanted and that nobody counts, by name: how many times a counter
/// was started for each in vain.
pub type UncountedNames = BTreeMap<String, u64>;

/// The PMU of one vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuPmuStatus {
    /// Each guest counter.
    pub counters: Vec<CounterStatus>,
    /// Each monitor, which is an operator's.
    pub monitors: Vec<MonitorStatus>,
    /// The totals of the vCPU so far.
    pub totals: Totals,
    /// The events that the guest wanted and that nobody counts.
    pub uncounted: UncountedNames,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_api() {
        use CountingState::{Counting, Error, NotBacked, Off, Refused, Waiting};
        for state in [Off, Counting, Waiting, Error, NotBacked, Refused] {
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(json, format!("\"{}\"", state.name()));
        }
    }
}
