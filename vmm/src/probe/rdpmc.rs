//! Finds how RDPMC behaves in a guest without a vPMU (guest-contract §5.8).

use super::guest::{Event, ProbeGuest, ProbeRun, SMALL};
use super::{ProbeError, code};
use crate::kvm::Hypervisor;

/// The counters that are tried: a general-purpose one, one that few CPUs have,
/// fixed counter 0.
pub const INDICES: [u32; 3] = [0, 5, 0x4000_0000];

/// The effect of one RDPMC at privilege level 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rdpmc {
    /// RDPMC raised #GP.
    Gp,
    /// RDPMC gave this value.
    Value(u64),
}

/// The effect of RDPMC under this KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RdpmcClass {
    /// RDPMC faults, as on a physical CPU without this counter.
    GpFault,
    /// RDPMC gives 0 without a fault.
    SilentZero,
    /// RDPMC gives a count, because KVM's own vPMU is on.
    Value,
}

impl RdpmcClass {
    /// The class of a KVM that answered so to [`INDICES`]; `None` to nothing. One
    /// index that does not fault is enough for a guest to read a wrong 0 there.
    #[must_use]
    pub fn of(answers: &[Rdpmc]) -> Option<Self> {
        let counts = |answer: &Rdpmc| matches!(answer, Rdpmc::Value(value) if *value != 0);
        (!answers.is_empty()).then_some(if answers.iter().any(counts) {
            Self::Value
        } else if answers.iter().all(|answer| *answer == Rdpmc::Gp) {
            Self::GpFault
        } else {
            Self::SilentZero
        })
    }
}

/// Tries each of `indices` in one guest, at privilege level 0.
///
/// # Errors
/// [`ProbeError`]
pub fn rdpmc(hypervisor: &Hypervisor, indices: &[u32]) -> Result<Vec<Rdpmc>, ProbeError> {
    let mut guest = ProbeGuest::new(hypervisor, SMALL, &code::RDPMC)?;
    answers(&mut guest.code(), indices)
}

/// What [`code::RDPMC`] says of these.
pub(super) fn answers(guest: &mut ProbeRun<'_>, indices: &[u32]) -> Result<Vec<Rdpmc>, ProbeError> {
    indices.iter().map(|&index| one(guest, index)).collect()
}

fn one(guest: &mut ProbeRun<'_>, index: u32) -> Result<Rdpmc, ProbeError> {
    const LOST: ProbeError = ProbeError::Ended("its answers came out of order");
    if guest.next(index)? != Event::Asked {
        return Err(LOST);
    }
    match guest.next(index)? {
        Event::Said(code::GP, _) => Ok(Rdpmc::Gp),
        Event::Said(code::ANSWER, low) => match guest.next(index)? {
            Event::Said(code::UPPER, high) => {
                Ok(Rdpmc::Value(u64::from(high) << 32 | u64::from(low)))
            }
            _ => Err(LOST),
        },
        _ => Err(LOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        use Rdpmc::{Gp, Value};
        for (answers, class) in [
            (&[Gp, Gp, Gp][..], Some(RdpmcClass::GpFault)),
            (
                &[Value(0), Value(0), Value(0)],
                Some(RdpmcClass::SilentZero),
            ),
            (&[Value(0), Gp, Gp], Some(RdpmcClass::SilentZero)),
            (&[Gp, Gp, Value(0)], Some(RdpmcClass::SilentZero)),
            (&[Value(0), Value(7), Gp], Some(RdpmcClass::Value)),
            (&[], None),
        ] {
            assert_eq!(RdpmcClass::of(answers), class, "{answers:?}");
        }
    }
}
