//! The time that the end of a VM may take.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long the end of a VM may take without any progress.
pub const END_TIME: Duration = Duration::from_secs(5);

/// A part of a VM's end, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndPart {
    /// The event loop hears of the reason.
    #[default]
    EventLoop,
    /// The vCPU threads leave the guest.
    Vcpus,
    /// The readers of the devices' output read, and the devices stop.
    Devices,
    /// The reader of the console reads.
    Console,
    /// The other threads of the VMM end.
    Threads,
}

impl fmt::Display for EndPart {
    /// Whom the end waits for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EventLoop => "the event loop",
            Self::Vcpus => "a vCPU",
            Self::Devices => "a device",
            Self::Console => "the reader of the console",
            Self::Threads => "a thread of the VMM",
        })
    }
}

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
    part: EndPart,
    met: bool,
}

impl EndDeadline {
    /// The end begins, or has come further: it has [`END_TIME`] from now.
    pub fn extend(&self) {
        self.lock().at = Some(Instant::now() + END_TIME);
        self.changed.notify_all();
    }

    /// The end has come to this part. That gives it no time.
    pub fn enter(&self, part: EndPart) {
        self.lock().part = part;
    }

    /// The VM has ended.
    pub fn met(&self) {
        self.lock().met = true;
        self.changed.notify_all();
    }

    /// Has a thread call `missed` if the end takes too long, with the part that does.
    /// The guard says that it did not.
    ///
    /// # Errors
    /// If the host gives no thread.
    pub fn watch(
        self: &Arc<Self>,
        missed: impl FnOnce(EndPart) + Send + 'static,
    ) -> std::io::Result<EndWatch> {
        let deadline = Arc::clone(self);
        thread::Builder::new()
            .name("end".to_owned())
            .spawn(move || {
                if let Some(part) = deadline.missed() {
                    missed(part);
                }
            })?;
        Ok(EndWatch(Arc::clone(self)))
    }

    /// Waits until the end is met, or missed in a part of it.
    fn missed(&self) -> Option<EndPart> {
        let mut state = self.lock();
        while !state.met {
            let Some(at) = state.at else {
                let changed = self.changed.wait(state);
                state = changed.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(state.part);
            }
            let changed = self.changed.wait_timeout(state, left);
            state = changed.unwrap_or_else(PoisonError::into_inner).0;
        }
        None
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
        let watch = deadline
            .watch(move |part| missed.send(part).unwrap())
            .unwrap();
        assert!(misses.try_recv().is_err(), "it has not begun");
        deadline.enter(EndPart::Console);
        deadline.lock().at = Some(Instant::now());
        deadline.changed.notify_all();
        assert_eq!(misses.recv().unwrap(), EndPart::Console);
        assert!(misses.recv().is_err());
        drop(watch);
    }

    #[test]
    fn an_end_in_time_is_not() {
        let deadline = Arc::new(EndDeadline::default());
        let (missed, misses) = mpsc::channel();
        let watch = deadline
            .watch(move |part| missed.send(part).unwrap())
            .unwrap();
        deadline.extend();
        drop(watch);
        assert!(misses.recv().is_err());
    }
}
