//! What a guest's first vCPU shows of the host, before its first instruction.

use std::sync::{Arc, OnceLock};

use vpmu::units::Nanos;

use super::rdpmc::{Rewriter, UserAccess};
use crate::kvm::{KvmError, Vcpu};
use crate::probe::{self, ProbeError, Rdpmc, RdpmcClass};
use crate::sys::guest_ram::GuestRam;

/// What the ports of all vCPUs have to know.
#[derive(Debug)]
pub(super) struct Learned {
    /// What becomes of a RDPMC of user code.
    pub(super) access: UserAccess,
    /// The guest's text that was changed.
    pub(super) rewriter: Arc<Rewriter>,
    /// What an entry and an exit take of the time that counts; 0 where none does.
    pub(super) entry_cost: Nanos,
}

/// It, once it is known.
#[derive(Debug, Default)]
pub(super) struct Lessons(OnceLock<Learned>);

impl Lessons {
    /// What is known, or what this vCPU, which has not run yet, shows.
    ///
    /// # Errors
    /// The vCPU is not as it was before.
    pub(super) fn from(
        &self,
        vcpu: &mut Vcpu,
        memory: &GuestRam,
        is_clock: bool,
    ) -> Result<&Learned, KvmError> {
        if let Some(known) = self.0.get() {
            return Ok(known);
        }
        let access = user_access(&probe::own_rdpmc(vcpu, memory, &probe::INDICES)?);
        let entry_cost = if is_clock {
            entry_cost(probe::own_exit_cost(vcpu, memory)?)
        } else {
            Nanos(0)
        };
        let rewriter = Arc::new(Rewriter::new(memory.clone(), access));
        // Threads come up one after the other; of two, the first would be right.
        Ok(self.0.get_or_init(|| Learned {
            access,
            rewriter,
            entry_cost,
        }))
    }
}

/// What becomes of a RDPMC of user code. On a host that does not tell, CR4.PCE is taken
/// from the guest as on one that answers 0: RDPMC then faults on every host, and no
/// program reads a silent 0.
fn user_access(answers: &Result<Vec<Rdpmc>, ProbeError>) -> UserAccess {
    let class = answers.as_ref().ok().and_then(|all| RdpmcClass::of(all));
    if let Err(error) = answers {
        log::warn!(
            "pmu: cannot find out how this host answers RDPMC ({error}); the guest's programs are \
             served as on a host that answers 0"
        );
    }
    match class {
        Some(RdpmcClass::GpFault) => UserAccess::Faults,
        Some(RdpmcClass::SilentZero | RdpmcClass::Value) | None => UserAccess::Answered,
    }
}

/// What entering and leaving the guest takes of the thread's time without the
/// guest running: a clock-derived count is too high by it at each exit.
fn entry_cost(measured: Result<Nanos, ProbeError>) -> Nanos {
    match measured {
        Ok(cost) => {
            log::info!(
                "pmu: {} ns of each guest entry and exit are not counted as guest time",
                cost.0
            );
            cost
        }
        Err(error) => {
            log::warn!(
                "pmu: cannot measure the cost of a guest entry and exit ({error}): clock-derived \
                 counts include it"
            );
            Nanos(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_does_not_tell_how_it_answers_rdpmc_is_taken_for_a_silent_one() {
        let failed = Err(ProbeError::Ended("for a test"));
        assert_eq!(user_access(&failed), UserAccess::Answered);
        assert_eq!(user_access(&Ok(Vec::new())), UserAccess::Answered);
        let faults = Ok(vec![Rdpmc::Gp; 3]);
        assert_eq!(user_access(&faults), UserAccess::Faults);
        let partly = Ok(vec![Rdpmc::Gp, Rdpmc::Gp, Rdpmc::Value(0)]);
        assert_eq!(user_access(&partly), UserAccess::Answered);
    }
}
