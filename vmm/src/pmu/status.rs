//! The status of one vCPU's PMU for `perfvisor ctl pmu`, filled on the vCPU's own
//! thread at an exit boundary.

use vpmu::guest::{Demand, GuestPmu};
use vpmu::host::{HostPmu, Quality};
use vpmu::{CounterView, Uncounted, VcpuPmu};

use super::PmuPlan;
use crate::config::event;
use crate::vcpu::{CounterStatus, CountingState, MonitorStatus, UncountedNames, VcpuPmuStatus};

/// What can be told of a PMU.
pub(super) fn of<G: GuestPmu, H: HostPmu>(pmu: &mut VcpuPmu<G, H>) -> VcpuPmuStatus {
    let monitors = pmu.monitors().map(MonitorStatus::from).collect();
    let counter = |view: CounterView| counter(&view, pmu.model().value(view.pmc));
    VcpuPmuStatus {
        counters: pmu.counters().map(counter).collect(),
        monitors,
        totals: pmu.totals(),
        uncounted: uncounted(pmu),
    }
}

/// The events that the guest wanted and that nobody counts.
pub(super) fn uncounted<G: GuestPmu, H: HostPmu>(pmu: &VcpuPmu<G, H>) -> UncountedNames {
    let named = |event: Uncounted| (event.to_string(), event.times);
    pmu.uncounted().map(named).collect()
}

fn counter(view: &CounterView, value: u64) -> CounterStatus {
    let state = CountingState::from(view.state);
    // One that is off or refused may have had an event; it stands for nothing now.
    let quality = match state {
        CountingState::Counting | CountingState::Waiting => view.quality,
        _ => None,
    };
    let event = view.demand.map(|demand| match demand {
        Demand::Event(attr) => event::name(&attr),
        Demand::NotBacked(encoding) | Demand::Denied(encoding) => encoding.to_string(),
    });
    CounterStatus {
        counter: view.pmc.to_string(),
        host_event: match quality {
            Some(Quality::Counted) => event.clone(),
            Some(Quality::Clock | Quality::SampledClock) => Some("guest time".to_owned()),
            None => None,
        },
        event,
        state,
        why: view.state.is_trouble().then(|| view.state.to_string()),
        value,
        enabled_ns: view.times.enabled.0,
        running_ns: view.times.running.0,
        scaled: view.times.is_scaled(),
        estimated: view.estimated,
        clock_derived: quality.is_some_and(|quality| quality != Quality::Counted),
        sampled: quality == Some(Quality::SampledClock),
    }
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
    use vpmu::host::{HostEvent, HostOpenError, Privilege};
    use vpmu::ids::Pmc;
    use vpmu::x86::event::ArchEvent;
    use vpmu::{CounterState, Times};

    use super::*;

    #[test]
    fn a_sampled_and_a_refused_counter() {
        let attr = HostEvent {
            code: ArchEvent::Cycles.into(),
            privilege: Privilege {
                user: true,
                kernel: false,
            },
        };
        let mut view = CounterView {
            pmc: Pmc::fixed(1).unwrap(),
            demand: Some(Demand::Event(attr)),
            quality: Some(Quality::SampledClock),
            state: CounterState::Counting,
            times: Times::default(),
            estimated: false,
        };
        let status = counter(&view, 7);
        assert_eq!(status.counter, "fixed1");
        assert_eq!(status.event.as_deref(), Some("cycles:u"));
        assert_eq!(status.host_event.as_deref(), Some("guest time"));
        assert!(status.clock_derived && status.sampled && status.why.is_none());
        assert_eq!(status.value, 7);
        view.state = CounterState::Refused(HostOpenError::Unsupported);
        let status = counter(&view, 7);
        assert_eq!(status.state, CountingState::Refused);
        assert_eq!(status.host_event, None);
        assert_eq!(
            status.why.as_deref(),
            Some("the host PMU does not count this event")
        );
        assert!(!status.clock_derived && !status.sampled);
    }
}
