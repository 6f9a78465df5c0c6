//! What the operator lets a guest's counters do.

mod filter;

use crate::guest::{CoreType, Demand, Encoding};
use crate::host::{EventCode, HostEvent};
use crate::x86::cpuid::Vendor;
use crate::x86::regs::AmdEventSel;
use crate::x86::standard::{StandardEvent, StandardSet};

pub use filter::{EventFilter, FilterLists};

/// How the guest's counters share the host's.
///
/// # Examples
/// ```
/// use vpmu::{Policy, Rules};
///
/// let rules = Rules::from(Policy::Pinned);
/// assert_eq!(rules.policy, Policy::Pinned);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// They take turns where the host has too few, and what the guest reads is
    /// scaled by the time that each had.
    #[default]
    Flexible,
    /// Each has its own or is in error; nothing is scaled.
    Pinned,
}

/// Whose event codes a host's are: codes mean the same on CPUs for which this is
/// the same.
///
/// # Examples
/// ```
/// use vpmu::CodesId;
/// use vpmu::x86::cpuid::Vendor;
///
/// // Family 6, model 0x97: an event code means the same on CPUs of one signature.
/// let here = CodesId::new(Vendor::Intel, 0x90672, None);
/// assert_ne!(here, CodesId::new(Vendor::Intel, 0x806ea, None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodesId {
    pub(crate) vendor: Vendor,
    pub(crate) signature: u32,
    pub(crate) core_type: Option<CoreType>,
}

impl CodesId {
    /// Those of a CPU whose CPUID.01H:EAX is `signature` (family, model and
    /// stepping), and on a hybrid one those of its CPUs of one type.
    #[must_use]
    pub const fn new(vendor: Vendor, signature: u32, core_type: Option<CoreType>) -> Self {
        Self {
            vendor,
            signature,
            core_type,
        }
    }
}

/// What the operator lets a guest's counters do.
///
/// # Examples
/// ```
/// use vpmu::{EventFilter, Policy, Rules};
///
/// let rules = Rules {
///     filter: EventFilter::All,
///     ..Rules::from(Policy::Flexible)
/// };
/// assert_eq!(rules.codes, None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// How they share the host's.
    pub policy: Policy,
    /// Which events they may count.
    pub filter: EventFilter,
    /// Whose codes the host counts, if they mean there what they mean in the
    /// guest: both are of one vendor. None: the guest has no event by its code.
    pub codes: Option<CodesId>,
    /// The standard events that the host counts by their names.
    pub standard: StandardSet,
    /// Those of the others whose codes the host counts, which takes
    /// [`Rules::codes`].
    pub standard_by_code: StandardSet,
}

impl From<Policy> for Rules {
    fn from(policy: Policy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }
}

impl Rules {
    /// The same for a guest with `vendor`'s CPU.
    pub(crate) fn for_vendor(self, vendor: Vendor) -> Self {
        Self {
            filter: self.filter.for_vendor(vendor),
            ..self
        }
    }

    /// What becomes of a guest's demand.
    pub(crate) fn judge(&self, demand: Demand) -> Demand {
        match demand {
            // CPUID did not offer what the filter takes away: it is not backed.
            Demand::NotBacked(Encoding::Architectural(event))
            | Demand::Event(HostEvent {
                code: EventCode::Architectural(event),
                ..
            }) if !self.filter.admits(event.into()) => {
                Demand::Denied(Encoding::Architectural(event))
            }
            Demand::NotBacked(encoding) => self.judge_code(encoding),
            demand => demand,
        }
    }

    /// What becomes of an event that is not architectural: a standard one by the
    /// host's name for it, another one, or one that the host has no name for, by
    /// its code.
    fn judge_code(&self, encoding: Encoding) -> Demand {
        let not_backed = Demand::NotBacked(encoding);
        let Some((raw, privilege)) = encoding.raw() else {
            return not_backed;
        };
        let standard = encoding.standard();
        let named = standard.filter(|event| self.standard.contains(*event));
        let by_code = standard.filter(|event| self.standard_by_code.contains(*event));
        // What is asked of the filter, and what the host counts of it.
        let (name, code) = match (named, by_code, self.codes) {
            (Some(event), ..) => (event.into(), Some(event.into())),
            (None, Some(event), Some(_)) => (event.into(), Some(EventCode::Raw(raw))),
            (None, _, Some(_)) if self.filter.admits(EventCode::Raw(raw)) => {
                (EventCode::Raw(raw), Some(EventCode::Raw(raw)))
            }
            _ => (standard.map_or(EventCode::Raw(raw), Into::into), None),
        };
        match code {
            Some(code) if self.filter.admits(name) => Demand::Event(HostEvent { code, privilege }),
            // What the filter takes away is not for want of a host that has it.
            Some(_) => Demand::Denied(encoding),
            None if self.filter.admits(name) => not_backed,
            None if standard.is_some() || self.codes.is_some() => Demand::Denied(encoding),
            None => not_backed,
        }
    }

    /// Whether a guest may count `event`, which one of these rules gave it.
    pub(crate) fn admits(&self, event: EventCode) -> bool {
        let standard = match event {
            EventCode::Raw(raw) => {
                StandardEvent::from_amd_event_sel(AmdEventSel::from_bits(raw.config()))
            }
            _ => None,
        };
        let by_code = standard.filter(|event| self.standard_by_code.contains(*event));
        self.filter.admits(by_code.map_or(event, Into::into))
    }
}

#[cfg(test)]
mod tests;
