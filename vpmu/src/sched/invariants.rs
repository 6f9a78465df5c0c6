//! What must hold after every operation. Checked in debug builds only.

use super::Scheduler;
use super::driver::PmuDriver;

#[cfg(debug_assertions)]
mod checks {
    use super::super::context::{EventContext, Owner};
    use super::super::event::{PerfEvent, Ready};
    use super::super::ids::{ContextId, EventId, PmuId};
    use super::super::state::{EventCaps, EventState, GroupSet};
    use super::*;

    impl<D: PmuDriver> Scheduler<D> {
        pub(super) fn check_all(&self) {
            assert!(
                self.touched.is_empty(),
                "an operation ended without its commit"
            );
            for (id, event) in self.events.iter() {
                self.check_event(id, event);
            }
            for (id, ctx) in self.contexts.iter() {
                self.check_context(id, ctx);
            }
            self.check_cpu_pmus();
        }

        fn check_event(&self, id: EventId, e: &PerfEvent) {
            assert!(
                e.running() <= e.enabled(),
                "R-050: {id:?} ran longer than it was enabled"
            );
            assert_eq!(
                e.oncpu().is_some(),
                e.state() == EventState::Active,
                "R-016: {id:?}"
            );
            if e.state() == EventState::Active {
                let paused = e.sampling.is_throttled();
                assert!(
                    e.counting_on() == e.oncpu() || paused || e.counting_on().is_none(),
                    "{id:?} counts elsewhere"
                );
                assert!(e.list_seq().is_some(), "{id:?} is active but in no context");
            } else {
                assert!(e.counting_on().is_none(), "{id:?} counts but is not active");
            }
            let leads = e.leader() == id;
            assert_eq!(
                e.in_active_list(),
                leads && e.state() == EventState::Active,
                "active lists hold active leaders: {id:?} {:?}",
                e.state()
            );
            assert_eq!(
                e.group_index().is_some(),
                leads && e.list_seq().is_some(),
                "sets hold installed leaders: {id:?}"
            );
            let ready = (e.group_index().is_some() && e.state().is_enabled()).then(|| {
                if e.group_caps().contains(EventCaps::SOFTWARE) {
                    Ready::Software
                } else {
                    Ready::Hardware
                }
            });
            assert_eq!(e.ready(), ready, "ready trees are consistent: {id:?}");
            for s in e.siblings() {
                assert_eq!(self.events[*s].leader(), id, "siblings know their leader");
            }
            // no member is on without its leader.
            if !leads && e.state() == EventState::Active {
                assert_eq!(
                    self.events[e.leader()].state(),
                    EventState::Active,
                    "R-146: {id:?}"
                );
            }
        }

        fn check_context(&self, id: ContextId, c: &EventContext) {
            let mut sizes = [(0, 0, 0); 2];
            for e in c.events.values().map(|e| &self.events[*e]) {
                assert_eq!(e.ctx(), id, "an event is in its own context");
                if e.group_index().is_some() {
                    let s = &mut sizes[e.set().index()];
                    s.0 += 1;
                    s.1 += usize::from(e.ready() == Some(Ready::Hardware));
                    s.2 += usize::from(e.ready() == Some(Ready::Software));
                }
            }
            for set in [GroupSet::Pinned, GroupSet::Flexible] {
                assert_eq!(
                    c.groups(set).sizes(),
                    sizes[set.index()],
                    "trees hold the context's leaders"
                );
            }
            for (pmu, slice) in &c.slices {
                let n = c
                    .events
                    .values()
                    .filter(|e| self.events[**e].slice() == *pmu)
                    .count();
                assert_eq!(slice.nr_events, n, "a slice counts its events");
            }
            if let Owner::Gone = c.owner {
                assert!(c.active.is_empty(), "a dead task's context is not active");
            }
        }

        fn check_cpu_pmus(&self) {
            for (at, cpu) in self.cpus.iter().enumerate() {
                for (p, part) in cpu.pmus.iter().enumerate() {
                    let here = self.events.iter().filter(|(_, e)| {
                        e.oncpu().is_some_and(|v| usize::from(v.0) == at)
                            && e.slice().index() == p
                            && !e.is_software()
                    });
                    assert_eq!(
                        part.active_oncpu,
                        here.count(),
                        "a part of a CPU counts its active events"
                    );
                    let Ok(index) = u16::try_from(p) else {
                        continue;
                    };
                    let key = self
                        .config
                        .topology
                        .vcpus()
                        .nth(at)
                        .map(|v| (part.timer.expiry, v, PmuId(index)));
                    assert_eq!(
                        part.timer.armed,
                        key.is_some_and(|k| self.timers.contains(&k)),
                        "armed timers are listed"
                    );
                }
            }
        }
    }
}

impl<D: PmuDriver> Scheduler<D> {
    /// Panics in debug builds if the scheduler contradicts itself.
    pub(super) fn check_invariants(&self) {
        #[cfg(debug_assertions)]
        if self.config.self_check {
            self.check_all();
        }
    }
}
