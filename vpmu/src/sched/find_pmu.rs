//! Which PMU takes a new event (2.G).

use alloc::vec::Vec;

use super::Scheduler;
use super::attr::{AttrFlags, EventAttr};
use super::driver::{GroupMember, InitError, InitRequest, PmuDriver};
use super::error::OpenError;
use super::ids::{EventId, PmuId, PmuType};
use super::registry::{PmuCaps, PmuClass};
use super::request::OpenRequest;
use super::scope::{Scope, ScopePolicy};
use super::state::EventCaps;
use crate::ids::VcpuId;

/// An event on its way through the checks of an open.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) event: EventId,
    pub(crate) attr: EventAttr,
    pub(crate) vcpu: Option<VcpuId>,
    pub(crate) of_task: bool,
    pub(crate) leader: Option<EventId>,
    pub(crate) caps: EventCaps,
    pub(crate) request: &'a OpenRequest,
}

/// How far the lookup has come.
enum Lookup {
    Found(PmuId),
    Again(PmuType),
    Fail(OpenError),
}

impl<D: PmuDriver> Scheduler<D> {
    /// Finds the PMU that takes a new event (R-094…R-099). `attr` may be
    /// rewritten on the way, as the kernel does.
    ///
    /// Linux: `perf_init_event`.
    pub(super) fn find_pmu(&mut self, draft: &mut Draft<'_>) -> Result<PmuId, OpenError> {
        let mut key = draft.attr.pmu_type;
        let mut extended = false;
        if matches!(key, PmuType::HARDWARE | PmuType::HW_CACHE) {
            let upper = u32::try_from(draft.attr.config >> 32).unwrap_or(u32::MAX);
            extended = upper != 0;
            key = if extended {
                PmuType(upper)
            } else {
                PmuType::RAW
            };
            if extended {
                draft.attr.config &= 0xffff_ffff;
            }
        }
        loop {
            match self.find_by_type(draft, key, extended) {
                Lookup::Found(pmu) => return Ok(pmu),
                Lookup::Again(next) => key = next,
                Lookup::Fail(e) => return Err(e),
            }
        }
    }

    fn find_by_type(&mut self, draft: &mut Draft<'_>, key: PmuType, extended: bool) -> Lookup {
        let Some(pmu) = self.types.get(&key).copied() else {
            return self.walk_pmus(draft);
        };
        let caps = self.pmus[pmu.index()].caps;
        if draft.attr.pmu_type != key
            && key != PmuType::RAW
            && !caps.contains(PmuCaps::EXTENDED_HW_TYPE)
        {
            return Lookup::Fail(OpenError::NoPmu);
        }
        match self.try_pmu(pmu, draft) {
            Ok(()) => Lookup::Found(pmu),
            Err(OpenError::NoPmu) if draft.attr.pmu_type != key && !extended => {
                Lookup::Again(draft.attr.pmu_type)
            }
            Err(e) => Lookup::Fail(e),
        }
    }

    /// Asks every PMU, newest first; only where no PMU owns the key.
    fn walk_pmus(&mut self, draft: &mut Draft<'_>) -> Lookup {
        for at in (0..self.pmus.len()).rev() {
            if !self.pmus[at].registered {
                continue;
            }
            let Ok(index) = u16::try_from(at) else {
                continue;
            };
            match self.try_pmu(PmuId(index), draft) {
                Ok(()) => return Lookup::Found(PmuId(index)),
                Err(OpenError::NoPmu) => {}
                Err(e) => return Lookup::Fail(e),
            }
        }
        Lookup::Fail(OpenError::NoPmu)
    }

    /// Linux: `perf_try_init_event`.
    fn try_pmu(&mut self, id: PmuId, draft: &mut Draft<'_>) -> Result<(), OpenError> {
        let mut group = Vec::new();
        if let Some(leader) = draft.leader {
            let l = &self.events[leader];
            for member in core::iter::once(&leader).chain(l.siblings()) {
                let e = &self.events[*member];
                group.push(GroupMember {
                    event: *member,
                    ours: e.pmu() == id,
                    state: e.state(),
                });
            }
        }
        let pmu = &mut self.pmus[id.index()];
        let request = InitRequest {
            event: draft.event,
            attr: &draft.attr,
            own_type: pmu.pmu_type,
            vcpu: draft.vcpu,
            of_task: draft.of_task,
            group: &group,
        };
        match pmu.driver.event_init(&request) {
            Ok(()) => {}
            Err(InitError::NotMine) => return Err(OpenError::NoPmu),
            Err(InitError::Forward(t)) => {
                draft.attr.pmu_type = t;
                return Err(OpenError::NoPmu);
            }
            Err(InitError::Refused(e)) => return Err(OpenError::Pmu(e)),
        }
        let checked = self.check_scope(id, draft);
        if checked.is_err() {
            self.pmus[id.index()].driver.event_destroy(draft.event);
        }
        checked
    }

    /// Asks the PMU of the event that is copied.
    pub(super) fn inherit_pmu(
        &mut self,
        id: PmuId,
        draft: &mut Draft<'_>,
    ) -> Result<(), OpenError> {
        self.try_pmu(id, draft)
    }

    /// Checks 13 and 14, and the designated CPU.
    fn check_scope(&self, id: PmuId, draft: &mut Draft<'_>) -> Result<(), OpenError> {
        let pmu = &self.pmus[id.index()];
        let mut result = Ok(());
        if pmu.caps.contains(PmuCaps::NO_EXCLUDE)
            && draft.attr.flags.intersects(AttrFlags::ANY_EXCLUDE)
        {
            result = Err(OpenError::NoExclude);
        }
        if let (Some(vcpu), true) = (draft.vcpu, pmu.scope != Scope::None) {
            match self.designated(pmu.scope, vcpu) {
                None => result = Err(OpenError::NoDesignatedCpu),
                Some(designated) => {
                    draft.caps |= EventCaps::READ_SCOPE;
                    if self.config.scope_policy == ScopePolicy::Designated {
                        draft.vcpu = Some(designated);
                    }
                }
            }
        }
        if pmu.class == PmuClass::Software {
            draft.caps |= EventCaps::SOFTWARE;
        }
        if pmu.driver.needs_group(draft.event) {
            draft.caps |= EventCaps::SIBLING;
        }
        result
    }
}
