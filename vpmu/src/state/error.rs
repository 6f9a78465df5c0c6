//! The reasons why the bytes of a saved state are refused.

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
    /// The bytes do not start as a saved PMU does.
    #[error("these bytes are not a saved PMU; use the bytes that VcpuPmu::save returned")]
    Foreign,
    /// The end of the saved PMU is missing.
    #[error("the saved PMU is truncated: {have} of {need} bytes are there; use all of them")]
    Truncated {
        /// Bytes that are there.
        have: usize,
        /// The number of bytes that the header asks for, or the length of a header.
        need: usize,
    },
    /// More bytes follow the saved PMU.
    #[error("{extra} bytes follow the end of the saved PMU; use the saved PMU alone")]
    Tail {
        /// The number of bytes after the end.
        extra: usize,
    },
    /// The format has a version that this release does not read.
    #[error(
        "the saved PMU has format version {found}; accepted: 1 to {VERSION}; later releases read later versions"
    )]
    Version {
        /// The version of the saved PMU.
        found: u32,
    },
    /// The checksum does not match the bytes.
    #[error("the saved PMU is corrupted: its checksum does not match; use an undamaged copy")]
    Corrupted,
    /// The saved PMU has another model, or other numbers of counters.
    #[error("the saved PMU is {saved}, and this PMU is {here}; use a PMU of the saved model")]
    OtherModel {
        /// The saved PMU.
        saved: Identity,
        /// The PMU that was to be restored.
        here: Identity,
    },
    /// The saved PMU ran under other rules; the field names the rule.
    #[error("the saved PMU ran with another {0}; use the {0} that it was saved with")]
    OtherRules(&'static str),
    /// The model has no such register, or the register cannot hold the value.
    #[error(
        "the saved PMU has {value:#x} in {msr}, which cannot hold this value; use the bytes that VcpuPmu::save returned"
    )]
    Register {
        /// The register.
        msr: MsrIndex,
        /// Its value in the saved PMU.
        value: u64,
    },
    /// Another part of the saved PMU has a value that no PMU can have; the field
    /// names the part.
    #[error(
        "the saved PMU has an impossible value in {0}; use the bytes that VcpuPmu::save returned"
    )]
    Impossible(&'static str),
    /// This host cannot count the event of a counter that counted.
    #[error("this host cannot count the event of {pmc}; use a host that counts it")]
    Refused {
        /// The counter.
        pmc: Pmc,
        /// The host's error.
        source: HostOpenError,
    },
    /// The counters are pinned, and this host has fewer free counters.
    #[error(
        "this host has no free counter for {pmc}, and the counters are pinned; \
         use a host with more free counters"
    )]
    TooFewCounters {
        /// The counter without a host counter.
        pmc: Pmc,
    },
}
