//! The migration of a VM to another process: its order, its progress, its end.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where a VM is to move.
#[derive(Clone, Debug)]
pub struct MoveOrder {
    /// The socket of the destination.
    pub socket: PathBuf,
    /// The longest time that the guest may stand.
    pub downtime: Duration,
}

/// Where a migration is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveStage {
    /// There has been none.
    #[default]
    None,
    /// The destination is not there yet.
    Connecting,
    /// The memory is copied while the guest runs.
    Copying,
    /// The guest stands, and the rest is copied.
    Finishing,
    /// The guest runs at the destination.
    Moved,
    /// It failed, and the guest runs here.
    Failed,
    /// It was cancelled, and the guest runs here.
    Cancelled,
}

impl MoveStage {
    /// Whether it goes on.
    #[must_use]
    pub const fn is_on(self) -> bool {
        matches!(self, Self::Connecting | Self::Copying | Self::Finishing)
    }
}

/// How far a migration is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveReport {
    /// Where it is.
    pub stage: MoveStage,
    /// The round of copying, from 1.
    pub round: u32,
    /// The pages of this round.
    pub round_pages: u64,
    /// The pages that were sent in all rounds, those of zeros included.
    pub pages: u64,
    /// The bytes that were sent.
    pub bytes: u64,
    /// How long it has taken, ms.
    pub elapsed_ms: u64,
    /// How long the guest stood, ms; `None` until it has moved.
    pub downtime_ms: Option<u64>,
    /// Why it failed.
    pub failure: Option<String>,
}

/// The reason why no migration begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MoveRefusal {
    /// There is one.
    #[error("the VM is being moved already")]
    IsOn,
    /// There is none.
    #[error("the VM is not being moved")]
    IsNotOn,
    /// It is too late.
    #[error("the VM has moved already")]
    HasMoved,
}

/// The one migration of a VM, for whoever orders, watches and cancels it.
#[derive(Debug, Default)]
pub struct Mover {
    inner: Mutex<MoverInner>,
    told: Condvar,
    /// Held by whoever pauses the guest or changes the machine.
    turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct MoverInner {
    report: MoveReport,
    began: Option<Instant>,
    cancelled: bool,
    stream: Option<UnixStream>,
    /// Somebody has seen the end.
    is_told: bool,
}

impl Mover {
    fn lock(&self) -> MutexGuard<'_, MoverInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn to pause the guest or to change the machine; `None` while a migration has
    /// it.
    #[must_use]
    pub fn try_turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The same, waiting for whoever has it.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one.
    pub(super) fn begin(&self) -> Result<(), MoveRefusal> {
        let mut inner = self.lock();
        match inner.report.stage {
            MoveStage::Moved => return Err(MoveRefusal::HasMoved),
            stage if stage.is_on() => return Err(MoveRefusal::IsOn),
            _ => {}
        }
        *inner = MoverInner {
            began: Some(Instant::now()),
            ..MoverInner::default()
        };
        inner.report.stage = MoveStage::Connecting;
        Ok(())
    }

    /// The connection that a cancellation cuts; whether there was none before.
    pub(super) fn connected(&self, stream: UnixStream) -> bool {
        let mut inner = self.lock();
        inner.stream = Some(stream);
        !inner.cancelled
    }

    /// Notes progress.
    pub(super) fn note(&self, change: impl FnOnce(&mut MoveReport)) {
        change(&mut self.lock().report);
    }

    /// Notes the end. Returns when somebody has seen that the VM has moved, or nobody asks:
    /// the VM ends then.
    pub(super) fn end(&self, outcome: Result<Duration, String>) {
        const SEEN_WITHIN: Duration = Duration::from_secs(1);
        let mut inner = self.lock();
        inner.stream = None;
        let elapsed = inner.began.take().map(|began| began.elapsed());
        inner.report.elapsed_ms = elapsed.map_or(0, millis);
        match outcome {
            Ok(downtime) => {
                inner.report.stage = MoveStage::Moved;
                inner.report.downtime_ms = Some(millis(downtime));
                let waited = self
                    .told
                    .wait_timeout_while(inner, SEEN_WITHIN, |inner| !inner.is_told);
                drop(waited);
            }
            Err(_) if inner.cancelled => inner.report.stage = MoveStage::Cancelled,
            Err(why) => {
                inner.report.stage = MoveStage::Failed;
                inner.report.failure = Some(why);
            }
        }
    }

    /// How far it is.
    #[must_use]
    pub fn report(&self) -> MoveReport {
        let mut inner = self.lock();
        let mut report = inner.report.clone();
        if let Some(began) = inner.began {
            report.elapsed_ms = millis(began.elapsed());
        }
        if report.stage == MoveStage::Moved {
            inner.is_told = true;
            self.told.notify_all();
        }
        report
    }

    /// Ends a migration, unless the guest runs at the destination already: its stage tells
    /// soon.
    ///
    /// # Errors
    /// If there is none.
    pub fn cancel(&self) -> Result<(), MoveRefusal> {
        let mut inner = self.lock();
        match inner.report.stage {
            MoveStage::Moved => return Err(MoveRefusal::HasMoved),
            stage if !stage.is_on() => return Err(MoveRefusal::IsNotOn),
            _ => {}
        }
        inner.cancelled = true;
        if let Some(stream) = &inner.stream
            && let Err(error) = stream.shutdown(Shutdown::Both)
        {
            log::debug!("migrate: the connection has ended already: {error}");
        }
        Ok(())
    }
}

/// Whole milliseconds, rounded up.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_migration_at_a_time() {
        let mover = Mover::default();
        assert_eq!(mover.cancel(), Err(MoveRefusal::IsNotOn));
        mover.begin().unwrap();
        assert_eq!(mover.begin(), Err(MoveRefusal::IsOn));
        mover.end(Err("why".to_owned()));
        let report = mover.report();
        assert_eq!(
            (report.stage, report.failure.as_deref()),
            (MoveStage::Failed, Some("why"))
        );
        mover.begin().unwrap();
        assert_eq!(mover.report().failure, None);
        mover.cancel().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(!mover.connected(ours));
        drop(theirs);
        mover.end(Err("why".to_owned()));
        assert_eq!(mover.report().stage, MoveStage::Cancelled);
        mover.begin().unwrap();
        mover.end(Ok(Duration::from_micros(1500)));
        assert_eq!(mover.report().downtime_ms, Some(2));
        assert_eq!(mover.begin(), Err(MoveRefusal::HasMoved));
        assert_eq!(mover.cancel(), Err(MoveRefusal::HasMoved));
    }

    #[test]
    fn one_has_the_turn() {
        let mover = Mover::default();
        let turn = mover.try_turn().unwrap();
        assert!(mover.try_turn().is_none());
        drop(turn);
        drop(mover.turn());
        assert!(mover.try_turn().is_some());
    }
}
