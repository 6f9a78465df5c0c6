//! What the operator lets a guest's counters do.

mod filter;

use crate::guest::{CoreType, Demand, Encoding};
use crate::host::{EventCode, HostEvent};
use crate::x86::cpuid::Vendor;

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
            Demand::NotBacked(encoding) if self.codes.is_some() => match encoding.raw() {
                Some((event, privilege)) if self.filter.admits(EventCode::Raw(event)) => {
                    let event = EventCode::Raw(event);
                    Demand::Event(HostEvent {
                        code: event,
                        privilege,
                    })
                }
                Some(_) => Demand::Denied(encoding),
                None => demand,
            },
            demand => demand,
        }
    }
}

#[cfg(test)]
mod tests;
