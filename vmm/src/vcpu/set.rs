//! The set of a VM's vCPU threads: start, pause, resume, query and stop all; add or
//! remove one.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use vpmu::ids::{MsrIndex, VcpuId};

use super::{
    MonitorOrder, MonitorOutcome, RequiredCpus, VcpuHandle, VcpuMessage, VcpuReport, VcpuSaveError,
    VcpuSection, VcpuState,
};
use crate::kvm::Vcpu;
use crate::sys::affinity::Tid;

/// vCPUs that did not answer in time: one that is held up in the host's kernel
/// cannot.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "vCPU {} did not leave the guest within {} ms (the host is busy, or holds it up in its kernel)",
    list(.vcpus), .within.as_millis()
)]
pub struct NoAnswer {
    /// Which.
    pub vcpus: Vec<VcpuId>,
    /// How long they had.
    pub within: Duration,
}

fn list(vcpus: &[VcpuId]) -> String {
    let names: Vec<_> = vcpus.iter().map(VcpuId::to_string).collect();
    names.join(", ")
}

/// The vCPU threads of one VM, for whoever starts, pauses and ends all of them.
/// Which vCPUs have a thread is decided by [`super::presence`]. The lock is held
/// to send messages only, never to wait for an answer or for a thread, so a vCPU
/// thread may take it too.
#[derive(Debug, Default)]
pub struct VcpuSet {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    handles: BTreeMap<VcpuId, VcpuHandle>,
    /// Told to stop one by one, and not joined yet.
    stopped: Vec<VcpuHandle>,
    phase: Phase,
    paused: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Before [`VcpuSet::start`].
    #[default]
    Ready,
    Started,
    /// After [`VcpuSet::end`].
    Ended,
}

impl VcpuSet {
    /// Adds a thread, which waits for [`VcpuSet::run`] or [`VcpuSet::start`].
    pub fn insert(&self, vcpu: VcpuHandle) {
        let mut inner = self.lock();
        let refused = match inner.phase {
            Phase::Ended => Some(vcpu),
            Phase::Ready | Phase::Started => inner.handles.insert(vcpu.id(), vcpu),
        };
        drop(inner);
        // Stopped and joined.
        drop(refused);
    }

    /// Lets the thread of a vCPU enter the guest if the others do.
    pub fn run(&self, id: VcpuId) {
        let inner = self.lock();
        if let Some(vcpu) = inner.handles.get(&id).filter(|_| inner.runs()) {
            vcpu.send(VcpuMessage::Run);
        }
    }

    /// Tells the thread of a vCPU to end; it does by itself, and
    /// [`VcpuSet::reap`] finds it. May be called on that very thread.
    pub fn stop(&self, id: VcpuId) {
        let mut inner = self.lock();
        if let Some(vcpu) = inner.handles.remove(&id) {
            vcpu.send(VcpuMessage::Stop);
            inner.stopped.push(vcpu);
        }
    }

    /// Joins the threads that were told to end one by one and have ended since
    /// the last call. Returns KVM's vCPU of each; `None` if the thread panicked.
    #[must_use]
    pub fn reap(&self) -> Vec<(VcpuId, Option<Vcpu>)> {
        let ended: Vec<_> = {
            let mut inner = self.lock();
            let stopped = std::mem::take(&mut inner.stopped);
            let (ended, stopped) = stopped.into_iter().partition(VcpuHandle::has_ended);
            inner.stopped = stopped;
            ended
        };
        ended
            .into_iter()
            .map(|vcpu: VcpuHandle| (vcpu.id(), vcpu.join()))
            .collect()
    }

    /// The threads that must stay on part of the host's CPUs, with these CPUs.
    #[must_use]
    pub fn required_cpus(&self) -> Vec<(VcpuId, Tid, RequiredCpus)> {
        let required = |vcpu: &VcpuHandle| {
            let (thread, required) = vcpu.required_cpus()?;
            Some((vcpu.id(), *thread, required.clone()))
        };
        self.lock().handles.values().filter_map(required).collect()
    }

    /// Lets the guest run, unless it has been paused before it began.
    pub fn start(&self) {
        let mut inner = self.lock();
        inner.phase = Phase::Started;
        if inner.runs() {
            inner.tell(&VcpuMessage::Run);
        }
    }

    /// Whether the guest is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.lock().paused
    }

    /// Stops every vCPU at an exit boundary and returns when all stand.
    ///
    /// # Errors
    /// If one does not within `within`; the guest runs on as before then.
    pub fn pause(&self, within: Duration) -> Result<(), NoAnswer> {
        let before;
        let asked = {
            let mut inner = self.lock();
            before = std::mem::replace(&mut inner.paused, true);
            inner.tell(&VcpuMessage::Pause);
            inner.ask(None, VcpuMessage::Report)
        };
        let stands = |report: &VcpuReport| report.state != VcpuState::Running;
        let outcome = collect(&asked, within, stands);
        if outcome.is_err() && !before {
            self.resume();
        }
        outcome.map(drop)
    }

    /// Lets a paused guest run on.
    pub fn resume(&self) {
        let mut inner = self.lock();
        inner.paused = false;
        inner.tell(&VcpuMessage::Run);
    }

    /// Asks every vCPU how it is.
    ///
    /// # Errors
    /// If one does not answer within `within`.
    pub fn reports(&self, within: Duration) -> Result<Vec<VcpuReport>, NoAnswer> {
        let asked = self.lock().ask(None, VcpuMessage::Report);
        answers(&asked, within)
    }

    /// Has one vCPU, or each, attach or detach a monitor; none if there is no
    /// such vCPU.
    ///
    /// # Errors
    /// If one does not answer within `within`; it does as told when it can.
    pub fn monitor(
        &self,
        only: Option<VcpuId>,
        order: MonitorOrder,
        within: Duration,
    ) -> Result<Vec<(VcpuId, MonitorOutcome)>, NoAnswer> {
        let asked = self.lock().ask(only, |to| VcpuMessage::Monitor(order, to));
        answers(&asked, within)
    }

    /// Has each vCPU say what it is for a snapshot. They stand.
    ///
    /// # Errors
    /// If one does not answer within `within`, or cannot be saved.
    pub fn save(
        &self,
        msrs: &Arc<[MsrIndex]>,
        within: Duration,
    ) -> Result<Vec<VcpuSection>, VcpuSaveError> {
        let save = |to| VcpuMessage::Save(Arc::clone(msrs), to);
        let asked = self.lock().ask(None, save);
        answers(&asked, within)?.into_iter().collect()
    }

    /// Ends the threads and joins them; calls `joined` behind each.
    pub fn end(&self, mut joined: impl FnMut()) {
        let (handles, stopped) = {
            let mut inner = self.lock();
            inner.tell(&VcpuMessage::Stop);
            inner.phase = Phase::Ended;
            (
                std::mem::take(&mut inner.handles),
                std::mem::take(&mut inner.stopped),
            )
        };
        for vcpu in handles.into_values().chain(stopped) {
            drop(vcpu);
            joined();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A vCPU, and where its answer comes.
type Asked<T> = (VcpuId, Receiver<T>);

impl Inner {
    fn runs(&self) -> bool {
        self.phase == Phase::Started && !self.paused
    }

    fn tell(&self, message: &VcpuMessage) {
        for vcpu in self.handles.values() {
            vcpu.send(message.clone());
        }
    }

    /// Asks one vCPU, or each, by a message with a place for the answer.
    fn ask<T>(
        &self,
        only: Option<VcpuId>,
        message: impl Fn(Sender<T>) -> VcpuMessage,
    ) -> Vec<Asked<T>> {
        let ask = |vcpu: &VcpuHandle| {
            let (to, answer) = mpsc::channel();
            vcpu.send(message(to));
            (vcpu.id(), answer)
        };
        let wanted = |vcpu: &&VcpuHandle| only.is_none_or(|only| vcpu.id() == only);
        self.handles.values().filter(wanted).map(ask).collect()
    }
}

fn answers<T>(asked: &[Asked<T>], within: Duration) -> Result<Vec<T>, NoAnswer> {
    collect(asked, within, |_| true)
}

/// The answers, or who gave none that `fits` in time. One whose thread has ended
/// meanwhile, as the guest gave it back, owes none.
fn collect<T>(
    asked: &[Asked<T>],
    within: Duration,
    fits: impl Fn(&T) -> bool,
) -> Result<Vec<T>, NoAnswer> {
    let deadline = Instant::now() + within;
    let (mut reports, mut vcpus) = (Vec::new(), Vec::new());
    for (vcpu, answer) in asked {
        let left = deadline.saturating_duration_since(Instant::now());
        match answer.recv_timeout(left) {
            Ok(report) if fits(&report) => reports.push(report),
            Err(RecvTimeoutError::Disconnected) => {}
            Ok(_) | Err(RecvTimeoutError::Timeout) => vcpus.push(*vcpu),
        }
    }
    if vcpus.is_empty() {
        Ok(reports)
    } else {
        Err(NoAnswer { vcpus, within })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(vcpu: u16, state: VcpuState) -> VcpuReport {
        VcpuReport {
            vcpu: VcpuId(vcpu),
            state,
            pmu: None,
        }
    }

    #[test]
    fn who_does_not_answer_in_time_is_named() {
        let (answers, silent) = (mpsc::channel(), mpsc::channel::<VcpuReport>());
        let (runs, left) = (mpsc::channel(), mpsc::channel());
        drop(left.0);
        answers.0.send(report(0, VcpuState::Paused)).unwrap();
        runs.0.send(report(2, VcpuState::Running)).unwrap();
        let asked = [
            (VcpuId(0), answers.1),
            (VcpuId(1), silent.1),
            (VcpuId(2), runs.1),
            (VcpuId(3), left.1),
        ];
        let within = Duration::from_millis(20);
        let error = collect(&asked, within, |r| r.state == VcpuState::Paused).unwrap_err();
        assert_eq!(error.vcpus, [VcpuId(1), VcpuId(2)]);
        let text = error.to_string();
        assert!(
            text.starts_with("vCPU 1, 2 did not leave the guest within 20 ms"),
            "{text}"
        );
    }

    #[test]
    fn a_set_without_vcpus_pauses_and_resumes() {
        let set = VcpuSet::default();
        assert!(!set.is_paused());
        for _ in 0..2 {
            assert_eq!(set.pause(Duration::ZERO), Ok(()));
            assert!(set.is_paused());
        }
        set.resume();
        assert!(!set.is_paused());
        set.end(|| panic!("there is none to join"));
    }

    /// Whoever watches the end hears of each vCPU that has ended, those that the guest had
    /// given back before too.
    #[test]
    fn the_end_tells_of_each_vcpu() {
        let set = VcpuSet::default();
        for id in 0..4 {
            set.insert(VcpuHandle::waiting(VcpuId(id)));
        }
        set.stop(VcpuId(2));
        let mut joined = 0;
        set.end(|| joined += 1);
        assert_eq!(joined, 4);
    }
}
