//! Where a vCPU is, with the data that belongs to it.

use std::time::Instant;

use super::Presence;

/// [`Presence`], with the data that belongs to it.
#[derive(Debug)]
pub(super) enum PresenceStage<K> {
    /// KVM's vCPU is kept here while it has no thread.
    Absent(K),
    /// The thread is coming up. The guest sees nothing of a vCPU that it does
    /// not boot with.
    Starting {
        boots: bool,
    },
    Offered {
        acknowledged: bool,
        deadline: Instant,
    },
    Present,
    AskedToLeave {
        acknowledged: bool,
        deadline: Instant,
    },
    Leaving {
        /// The thread has reported its end.
        ended: bool,
        /// `None` once the delay is reported.
        deadline: Option<Instant>,
    },
    Lost,
}

impl<K> PresenceStage<K> {
    /// Where that is.
    pub(super) const fn presence(&self) -> Presence {
        match self {
            Self::Absent(_) => Presence::Absent,
            Self::Starting { boots: false } | Self::Offered { .. } => Presence::Offered,
            Self::Starting { boots: true } | Self::Present => Presence::Present,
            Self::AskedToLeave { .. } => Presence::AskedToLeave,
            Self::Leaving { .. } => Presence::Leaving,
            Self::Lost => Presence::Lost,
        }
    }

    /// When the time of the request, or of the thread, is over.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Offered { deadline, .. } | Self::AskedToLeave { deadline, .. } => Some(*deadline),
            Self::Leaving { deadline, .. } => *deadline,
            Self::Absent(_) | Self::Starting { .. } | Self::Present | Self::Lost => None,
        }
    }

    /// Whether the guest has not looked at the request yet.
    pub(super) const fn is_unacknowledged(&self) -> bool {
        matches!(
            self,
            Self::Offered {
                acknowledged: false,
                ..
            } | Self::AskedToLeave {
                acknowledged: false,
                ..
            }
        )
    }
}
