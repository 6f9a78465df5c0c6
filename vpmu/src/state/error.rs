//! Why bytes are no state for this vCPU.

use crate::guest::Identity;
use crate::host::HostOpenError;
use crate::ids::{MsrIndex, Pmc};

use super::VERSION;

/// Why a state was not restored. Nothing of it is in effect then.
///
/// # Examples
/// ```
/// use vpmu::state::{self, RestoreError};
///
/// assert_eq!(state::identity(b"no saved PMU"), Err(RestoreError::Foreign));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It is something else.
    #[error("these bytes are no saved PMU; accepted: what VcpuPmu::save returned")]
    Foreign,
    /// Its end is missing.
    #[error("the saved PMU is truncated: {have} of {need} bytes; accepted: all of them")]
    Truncated {
        /// Bytes that are there.
        have: usize,
        /// Bytes that its header asks for, or that a header has.
        need: usize,
    },
    /// It goes on behind its end.
    #[error("the saved PMU has {extra} bytes behind its end; accepted: none")]
    Tail {
        /// How many.
        extra: usize,
    },
    /// It is of another version.
    #[error(
        "the saved PMU is of version {found}; accepted: 1 to {VERSION}, later ones by later releases"
    )]
    Version {
        /// Which.
        found: u32,
    },
    /// Its checksum is that of other bytes.
    #[error("the saved PMU is corrupted: its checksum does not match; accepted: an undamaged copy")]
    Corrupted,
    /// It is of another model, or of one with other numbers.
    #[error("the saved PMU is {saved}, this one is {here}; accepted: the same")]
    OtherModel {
        /// What was saved.
        saved: Identity,
        /// What is to take it in.
        here: Identity,
    },
    /// It ran under other rules.
    #[error("the saved PMU had another {0}; accepted: the same")]
    OtherRules(&'static str),
    /// A register of it is none of this model's, or holds what it cannot.
    #[error("the saved PMU has {value:#x} in {msr}, which cannot be; accepted: what was saved")]
    Register {
        /// Which.
        msr: MsrIndex,
        /// What it should hold.
        value: u64,
    },
    /// Something else of it cannot be.
    #[error("the saved PMU is not possible: {0}; accepted: what was saved")]
    Impossible(&'static str),
    /// The host has no event for a counter that had one.
    #[error("the host cannot go on counting what {pmc} counts; accepted: a host that can")]
    Refused {
        /// Which counter.
        pmc: Pmc,
        /// Why.
        source: HostOpenError,
    },
    /// The counters are pinned, and the host has fewer.
    #[error(
        "the host has no counter for {pmc}, and the counters are pinned; \
         accepted: a host with more free counters"
    )]
    TooFewCounters {
        /// Which counter got none.
        pmc: Pmc,
    },
}
