//! What is wrong with a back end.

use std::io;

use thiserror::Error;
use vhost::vhost_user::Error as WireError;

use super::super::vhost_rings::RingError;

/// Why a back end cannot serve its device. The text follows its name and a colon.
#[derive(Debug, Error)]
pub(super) enum BackendFault {
    /// It has closed its end of the socket.
    #[error("it closed the connection")]
    Gone,
    /// It does not answer.
    #[error("it did not answer within {seconds} s when asked to {what}")]
    Silent {
        /// The request.
        what: &'static str,
        /// How long it had.
        seconds: u64,
    },
    /// It answered with an error.
    #[error("it refused to {what}")]
    Refused {
        /// The request.
        what: &'static str,
    },
    /// It answered with something else.
    #[error("it gave no valid answer when asked to {what}")]
    Nonsense {
        /// The request.
        what: &'static str,
        /// The fault of its answer.
        source: WireError,
    },
    /// It cannot do what the device needs.
    #[error("it is no back end for this device: it has no {0}")]
    Lacks(&'static str),
    /// It serves fewer queues.
    #[error("it is no back end for this device: it serves {has} queues, {needs} are needed")]
    FewQueues {
        /// What it has.
        has: u64,
        /// What the device needs.
        needs: u64,
    },
    /// The driver's queues cannot be given to it.
    #[error("the guest's driver gave it a queue outside of memory: {0}")]
    Driver(String),
    /// The host refused something.
    #[error("cannot {what}")]
    Host {
        /// The step that failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl BackendFault {
    /// From an error of the crate, at a request.
    pub(super) fn of(what: &'static str, error: vhost::Error) -> Self {
        let vhost::Error::VhostUserProtocol(error) = error else {
            let source = io::Error::other(error);
            return Self::Host { what, source };
        };
        match error {
            WireError::Disconnected | WireError::PartialMessage | WireError::SocketBroken(_) => {
                Self::Gone
            }
            WireError::BackendInternalError => Self::Refused { what },
            source => Self::Nonsense { what, source },
        }
    }

    /// From an error of a queue.
    pub(super) fn of_ring(error: RingError) -> Self {
        match error {
            RingError::Outside(_) => Self::Driver(error.to_string()),
            RingError::Backend(error) => Self::of("take a queue", error),
        }
    }

    /// Whether the guest's driver is to blame, and the back end works on.
    #[must_use]
    pub(super) const fn is_drivers(&self) -> bool {
        matches!(self, Self::Driver(_))
    }
}
