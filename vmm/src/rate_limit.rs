//! A budget for log lines that a guest can cause.
//!
//! A guest must not be able to fill the host's disk with log lines: each call site
//! that a guest can reach has its own [`RateLimit`].

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines allowed in one window.
const BURST: u32 = 5;
/// How long a budget lasts at first, and after a window in which it was enough.
const WINDOW: Duration = Duration::from_secs(10);
/// How long it lasts at most.
const LONGEST: Duration = Duration::from_secs(3600);

/// A per-call-site budget: [`BURST`] lines in each window. A window is twice as long as the
/// one before if that one's budget was not enough: a guest that goes on for days writes
/// five lines an hour, not forty thousand a day.
#[derive(Debug)]
pub struct RateLimit {
    state: Mutex<LineBudget>,
}

#[derive(Debug)]
struct LineBudget {
    window_start: Option<Instant>,
    window: Duration,
    used: u32,
    suppressed: u64,
}

/// How many lines were swallowed since the last one that was written: the end of that line,
/// and nothing if there were none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swallowed(u64);

impl fmt::Display for Swallowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            lines => write!(f, " ({lines} more not shown)"),
        }
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self::new()
    }
}

impl RateLimit {
    /// A fresh budget.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(LineBudget {
                window_start: None,
                window: WINDOW,
                used: 0,
                suppressed: 0,
            }),
        }
    }

    /// Asks for one line: `Some` if it may be written, with what it says of those before.
    pub fn allow(&self) -> Option<Swallowed> {
        self.allow_at(Instant::now())
    }

    fn allow_at(&self, now: Instant) -> Option<Swallowed> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = state.window_start.map(|start| now.duration_since(start));
        if elapsed.is_none_or(|elapsed| elapsed >= state.window) {
            let goes_on = elapsed.is_some_and(|elapsed| elapsed < state.window * 2);
            state.window = if state.suppressed > 0 && goes_on {
                (state.window * 2).min(LONGEST)
            } else {
                WINDOW
            };
            state.window_start = Some(now);
            state.used = 0;
        }
        if state.used < BURST {
            state.used += 1;
            Some(Swallowed(std::mem::take(&mut state.suppressed)))
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
        let next = limit.allow_at(start + WINDOW).unwrap();
        assert_eq!(next.to_string(), " (995 more not shown)");
        let next = limit.allow_at(start + WINDOW).unwrap();
        assert_eq!(next.to_string(), "");
    }

    #[test]
    fn a_flood_that_goes_on_is_cut_ever_more() {
        let limit = RateLimit::new();
        let start = Instant::now();
        let passed = |seconds: std::ops::Range<u64>| {
            let at = |second| start + Duration::from_secs(second);
            seconds
                .filter(|&second| limit.allow_at(at(second)).is_some())
                .count()
        };
        // Windows of 10, 20, 40, 80, 160, 320 and 640 seconds.
        assert_eq!(passed(0..600), 6 * 5);
        let day = passed(600..86_400);
        assert!((100..150).contains(&day), "{day} lines");
        // After a quiet time the first lines are seen at once again.
        assert_eq!(passed(100_000..100_003), 3);
        assert_eq!(passed(100_020..100_030), 5);
    }
}
