//! The time that the end of a VM may take.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long the end of a VM may take without any progress.
pub const END_TIME: Duration = Duration::from_secs(5);

/// The deadline of a VM's end: begun by the reason to stop, met by
/// [`EndDeadline::met`].
#[derive(Debug, Default)]
pub struct EndDeadline {
    state: Mutex<DeadlineState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct DeadlineState {
    /// `None` while the VM runs.
    at: Option<Instant>,
    met: bool,
}

impl EndDeadline {
    /// The end begins, or has come further: it has [`END_TIME`] from now.
    pub fn extend(&self) {
        self.lock().at = Some(Instant::now() + END_TIME);
        self.changed.notify_all();
    }

    /// The VM has ended.
    pub fn met(&self) {
        self.lock().met = true;
        self.changed.notify_all();
    }

    /// Has a thread call `missed` if the end takes too long. The guard says that it
    /// did not.
    ///
    /// # Errors
    /// If the host gives no thread.
    pub fn watch(
        self: &Arc<Self>,
        missed: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<EndWatch> {
        let deadline = Arc::clone(self);
        thread::Builder::new()
            .name("end".to_owned())
            .spawn(move || {
                if deadline.is_missed() {
                    missed();
                }
            })?;
        Ok(EndWatch(Arc::clone(self)))
    }

    /// Waits for the one or the other.
    fn is_missed(&self) -> bool {
        let mut state = self.lock();
        while !state.met {
            let Some(at) = state.at else {
                let changed = self.changed.wait(state);
                state = changed.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let changed = self.changed.wait_timeout(state, left);
            state = changed.unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, DeadlineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A deadline that is watched; dropping it says that it was met.
#[must_use = "dropping it ends the watch"]
pub struct EndWatch(Arc<EndDeadline>);

impl fmt::Debug for EndWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EndWatch").finish()
    }
}

impl Drop for EndWatch {
    fn drop(&mut self) {
        self.0.met();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn an_end_that_takes_too_long_is_missed_once() {
        let deadline = Arc::new(EndDeadline::default());
        let (missed, misses) = mpsc::channel();
        let watch = deadline.watch(move || missed.send(()).unwrap()).unwrap();
        assert!(misses.try_recv().is_err(), "it has not begun");
        deadline.lock().at = Some(Instant::now());
        deadline.changed.notify_all();
        misses.recv().unwrap();
        assert!(misses.recv().is_err());
        drop(watch);
    }

    #[test]
    fn an_end_in_time_is_not() {
        let deadline = Arc::new(EndDeadline::default());
        let (missed, misses) = mpsc::channel();
        let watch = deadline.watch(move || missed.send(()).unwrap()).unwrap();
        deadline.extend();
        drop(watch);
        assert!(misses.recv().is_err());
    }
}
