//! A budget for log lines that a guest can cause.
//!
//! A guest must not be able to fill the host's disk with log lines: each call site
//! that a guest can reach has its own [`RateLimit`].

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines allowed in one [`WINDOW`].
const BURST: u32 = 5;
/// How long a budget lasts.
const WINDOW: Duration = Duration::from_secs(10);

/// A per-call-site budget: [`BURST`] lines in each [`WINDOW`].
#[derive(Debug, Default)]
pub struct RateLimit {
    state: Mutex<LineBudget>,
}

#[derive(Debug, Default)]
struct LineBudget {
    window_start: Option<Instant>,
    used: u32,
    suppressed: u64,
}

impl RateLimit {
    /// A fresh budget.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(LineBudget {
                window_start: None,
                used: 0,
                suppressed: 0,
            }),
        }
    }

    /// Asks for one line: `Some(n)` if it may be written, where `n` lines were
    /// swallowed since the last one that was.
    pub fn allow(&self) -> Option<u64> {
        self.allow_at(Instant::now())
    }

    fn allow_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let expired = state
            .window_start
            .is_none_or(|start| now.duration_since(start) >= WINDOW);
        if expired {
            state.window_start = Some(now);
            state.used = 0;
        }
        if state.used < BURST {
            state.used += 1;
            Some(std::mem::take(&mut state.suppressed))
        } else {
            state.suppressed = state.suppressed.saturating_add(1);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let limit = RateLimit::new();
        let start = Instant::now();
        let passed = (0..1000)
            .filter(|_| limit.allow_at(start).is_some())
            .count();
        assert_eq!(passed, 5);
        assert_eq!(limit.allow_at(start + WINDOW), Some(995));
    }
}
