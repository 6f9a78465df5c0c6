//! Signals that somebody else than the VM is to have.

use std::fmt;

type Take = dyn FnMut(u32) -> bool + Send;

/// Hears of each signal before it ends the VM.
pub struct SignalRelay {
    also: Vec<i32>,
    take: Box<Take>,
}

impl fmt::Debug for SignalRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalRelay")
            .field("also", &self.also)
            .finish_non_exhaustive()
    }
}

impl SignalRelay {
    /// A relay that gets the signals that end a VM, and those of `also`, which do not.
    /// `take` says whether it has taken care of one; of those of `also` it must.
    pub fn new(also: &[i32], take: impl FnMut(u32) -> bool + Send + 'static) -> Self {
        Self {
            also: also.to_vec(),
            take: Box::new(take),
        }
    }

    /// The signals that it gets besides those that end a VM.
    #[must_use]
    pub fn also(&self) -> &[i32] {
        &self.also
    }

    /// Whether it has taken care of this signal.
    pub(super) fn take(&mut self, signal: u32) -> bool {
        (self.take)(signal)
    }
}
