//! CR4.PCE, which lets user code read counters, on hosts where RDPMC does not fault
//! (guest-contract §5.7).
//!
//! On a host that silently answers RDPMC with 0, a program under CR4.PCE would read
//! 0. Without CR4.PCE its RDPMC faults on every host, and the #GP doorbell serves it.
//! So the VMM clears PCE and sets CR4.VME as a mark that PCE was set:
//!
//! ```text
//!  PCE  VME   the guest wrote        user RDPMC
//!   0    0    PCE off                faults, as on hardware
//!   1    0    PCE on, a moment ago   0 (until the next check)
//!   0    1    PCE on                 faults, served
//! ```
//! A Linux guest writes CR4 from its own copy and does not read CR4. So each of its
//! writes clears the mark, and sets or clears PCE again. VME does nothing in 64-bit
//! mode (SDM vol. 3A, "Control Registers": virtual-8086 mode only), and a 64-bit
//! Linux never sets it.

use serde::{Deserialize, Serialize};

const VME: u64 = 1 << 0;
const PCE: u64 = 1 << 8;

/// How a host treats a RDPMC that is permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::pmu) enum UserAccess {
    /// It faults: CR4.PCE is the guest's.
    Faults,
    /// KVM answers it with 0, or with what its own vPMU counts: CR4.PCE is taken
    /// away.
    Answered,
}

impl UserAccess {
    /// Whether user code may read counters, by the guest's will.
    pub(super) const fn is_granted(self, cr4: u64) -> bool {
        match self {
            Self::Faults => cr4 & PCE != 0,
            Self::Answered => cr4 & (PCE | VME) != 0,
        }
    }

    /// The CR4 to set, if it is to change.
    pub(super) const fn taken(self, cr4: u64) -> Option<u64> {
        match (self, cr4 & (PCE | VME)) {
            (Self::Answered, PCE) => Some(cr4 & !PCE | VME),
            // With both, VME means something to this guest.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::UserAccess::{Answered, Faults};

    /// PAE, PGE and so on, as Linux has them.
    const OTHERS: u64 = 0x75_06f0 & !0x100;

    #[test]
    fn on_most_hosts_pce_is_the_guests() {
        assert!(!Faults.is_granted(OTHERS));
        assert!(!Faults.is_granted(OTHERS | 1), "VME is no mark there");
        assert!(Faults.is_granted(OTHERS | 0x100));
        assert_eq!(Faults.taken(OTHERS | 0x100), None);
    }

    /// G-508, and what the guest writes next.
    #[test]
    fn pce_is_taken_once_and_the_guests_next_write_decides() {
        let taken = Answered.taken(OTHERS | 0x100);
        assert_eq!(taken, Some(OTHERS | 1));
        assert!(Answered.is_granted(OTHERS | 1));
        assert_eq!(Answered.taken(OTHERS | 1), None, "once");
        // The guest switches to a program without the right.
        assert!(!Answered.is_granted(OTHERS));
        assert_eq!(Answered.taken(OTHERS), None);
        // It flushes its TLB: PCE is back.
        assert!(Answered.is_granted(OTHERS | 0x100));
        assert_eq!(Answered.taken(OTHERS | 0x101), None, "a guest with VME");
    }
}
