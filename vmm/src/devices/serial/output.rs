//! What the guest prints, on its way to standard output or a file.

use std::io::{self, Write};
use std::time::Duration;

use crate::output::{OutputCounts, OutputQueue, PATIENCE};
use crate::rate_limit::RateLimit;

/// Bytes that wait for a slow reader; the vCPU that prints waits beyond that.
const LIMIT: usize = 256 << 10;

/// The other end of the serial port: the one owner of what the guest prints.
#[derive(Clone, Debug, Default)]
pub struct ConsoleOutput {
    /// `None`: nowhere.
    queue: Option<OutputQueue>,
}

impl ConsoleOutput {
    /// Output to `out`, by a thread of its own.
    ///
    /// # Errors
    /// If the host gives no thread.
    pub fn to(out: Box<dyn Write + Send>) -> io::Result<Self> {
        let queue = OutputQueue::start("console", LIMIT, out, tell_refused)?;
        Ok(Self { queue: Some(queue) })
    }

    /// Takes what the guest prints, and never waits.
    pub(super) fn send(&self, bytes: &[u8]) {
        let Some(queue) = &self.queue else {
            return;
        };
        let lost = queue.push(bytes);
        if lost > 0 {
            tell_unread(queue.counts().lost);
        }
    }

    /// Whether whoever printed is to wait before it goes on.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queue.as_ref().is_some_and(OutputQueue::is_full)
    }

    /// Waits for room, for no longer than `within`. Returns whether there is some,
    /// or nobody is to wait for it any more.
    #[must_use]
    pub fn wait_for_room(&self, within: Duration) -> bool {
        let queue = self.queue.as_ref();
        queue.is_none_or(|queue| queue.wait_for_room(within))
    }

    /// Waits until all has gone, for no longer than `within`. Returns whether it has.
    #[must_use]
    pub fn wait_until_empty(&self, within: Duration) -> bool {
        let queue = self.queue.as_ref();
        queue.is_none_or(|queue| queue.wait_until_empty(within))
    }

    /// How long the reader has stood still; zero if there is nothing for it.
    #[must_use]
    pub fn stands_for(&self) -> Duration {
        let queue = self.queue.as_ref();
        queue.map(OutputQueue::stands_for).unwrap_or_default()
    }

    /// Bytes sent and lost so far.
    #[must_use]
    pub fn counts(&self) -> OutputCounts {
        let queue = self.queue.as_ref();
        queue.map(OutputQueue::counts).unwrap_or_default()
    }

    /// Bytes lost if the process ended now.
    #[must_use]
    pub fn lost_at_end(&self) -> u64 {
        let pending = self.queue.as_ref().map_or(0, OutputQueue::pending);
        self.counts().lost + pending as u64
    }
}

fn tell_unread(lost: u64) {
    static LIMIT: RateLimit = RateLimit::new();
    if LIMIT.allow().is_some() {
        log::warn!(
            "console: nobody has read what the guest prints for {} s: {lost} bytes are lost so far",
            PATIENCE.as_secs()
        );
    }
}

fn tell_refused(error: &io::Error, lost: usize) {
    static LIMIT: RateLimit = RateLimit::new();
    if LIMIT.allow().is_some() {
        log::warn!("console: {lost} bytes that the guest printed are lost: {error}");
    }
}
