//! Why a guest cannot have an uncore PMU.

use vpmu::guest::ModelKind;
use vpmu::host::linux::uncore::UncoreSourceError;
use vpmu::uncore::UncorePmu;

/// Why a guest cannot have an uncore PMU that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum UncoreError {
    /// The guest's CPU is not AMD's, or too old.
    #[error(
        "--uncore: {key}=on is not possible with the guest PMU {guest}; use --pmu model=amd-core or amd-v2, or power=on only"
    )]
    NeedsAmd {
        /// The requested value.
        key: &'static str,
        /// The guest's PMU.
        guest: ModelKind,
    },
    /// The guest's CPU has no PerfMonV2.
    #[error(
        "--uncore: amd_umc=on is not possible with the guest PMU {guest}, which has no PerfMonV2; use --pmu model=amd-v2"
    )]
    NeedsV2 {
        /// The guest's PMU.
        guest: ModelKind,
    },
    /// The host has none to offer.
    #[error("--uncore: {}=on is not possible on this host; expected: {}", key(*.pmu), expected(.source))]
    Host {
        /// The requested value.
        pmu: UncorePmu,
        /// Why not.
        source: UncoreSourceError,
    },
}

impl UncoreError {
    /// Whether another value of a flag would do, as opposed to another host.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        match self {
            Self::NeedsAmd { .. } | Self::NeedsV2 { .. } => true,
            Self::Host { .. } => false,
        }
    }

    /// Whether the host has it, and does not let this process count.
    #[must_use]
    pub const fn is_permission(&self) -> bool {
        matches!(
            self,
            Self::Host {
                source: UncoreSourceError::NotPermitted(_),
                ..
            }
        )
    }

    /// Whether the host simply has no such PMU.
    pub(super) const fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::Host {
                source: UncoreSourceError::Absent(_),
                ..
            }
        )
    }
}

/// The key that asks for it.
const fn key(pmu: UncorePmu) -> &'static str {
    match pmu {
        UncorePmu::Power => "power",
        UncorePmu::L3 => "amd_l3",
        UncorePmu::DataFabric => "amd_df",
        UncorePmu::Umc(_) => "amd_umc",
    }
}

/// The right or the value with which the flag works.
const fn expected(error: &UncoreSourceError) -> &'static str {
    match error {
        UncoreSourceError::NotPermitted(_) => {
            "root, CAP_PERFMON, or 0 or less in /proc/sys/kernel/perf_event_paranoid"
        }
        _ => "an uncore PMU that perfvisor doctor lists as possible",
    }
}
