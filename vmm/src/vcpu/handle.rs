//! The handle by which other threads control a vCPU thread.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use thiserror::Error;
use vpmu::Totals;
use vpmu::host::linux::sysfs::CpuSet;
use vpmu::ids::{MsrIndex, VcpuId};

use super::buses::Buses;
use super::port::{MonitorOrder, MonitorOutcome, MsrPort, PortBuilder, VcpuPmuStatus};
use super::required_cpus::{CpuGuard, RequiredCpus, VcpuAffinity};
use super::saving::{VcpuSaveError, VcpuSection};
use super::state::VcpuState;
use super::thread::VcpuThread;
use crate::kvm::{KvmError, SavedVcpu, TscMoment, Vcpu};
use crate::stop::{PortError, StopSignal};
use crate::sys::affinity::{self, Tid};
use crate::sys::kick::{self, Registration};

/// What one can tell a vCPU thread.
#[derive(Clone, Debug)]
pub enum VcpuMessage {
    /// Enter the guest, for the first time or again.
    Run,
    /// Leave the guest and wait.
    Pause,
    /// Say how it is, at the next exit boundary; a vCPU that waits says it at
    /// once. Behind [`VcpuMessage::Pause`], the answer is that it stands.
    Report(Sender<VcpuReport>),
    /// Attach or detach a monitor, and say what became of it.
    Monitor(MonitorOrder, Sender<(VcpuId, MonitorOutcome)>),
    /// Save the vCPU and its port, which stands. `msrs`: those that it may have.
    Save(Arc<[MsrIndex]>, Sender<Result<VcpuSection, VcpuSaveError>>),
    /// End.
    Stop,
}

/// What a vCPU thread says of itself, out of the guest.
#[derive(Clone, Debug)]
pub struct VcpuReport {
    /// Which vCPU.
    pub vcpu: VcpuId,
    /// Where its thread is.
    pub state: VcpuState,
    /// Its PMU; `None` if it has none.
    pub pmu: Option<VcpuPmuStatus>,
}

/// Why a vCPU thread did not come up.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// The host gives no thread.
    #[error("cannot start the thread of vCPU {vcpu}")]
    Thread {
        /// The vCPU.
        vcpu: VcpuId,
        /// Why.
        source: io::Error,
    },
    /// Its register port could not be built.
    #[error("cannot set up the PMU registers of vCPU {vcpu}")]
    Port {
        /// The vCPU.
        vcpu: VcpuId,
        /// Why.
        source: PortError,
    },
    /// The host does not let it run where it should.
    #[error("cannot bind the thread of vCPU {vcpu} to host CPUs {cpus}")]
    Bind {
        /// The vCPU.
        vcpu: VcpuId,
        /// Where it should run.
        cpus: CpuSet,
        /// Why not.
        source: io::Error,
    },
    /// KVM does not take the state in which it was saved.
    #[error("KVM does not take the saved state of vCPU {vcpu}")]
    Restore {
        /// The vCPU.
        vcpu: VcpuId,
        /// Why.
        source: KvmError,
    },
    /// It ended before it was ready.
    #[error("the thread of vCPU {vcpu} panicked")]
    Died {
        /// The vCPU.
        vcpu: VcpuId,
    },
}

/// A vCPU thread. Dropping the handle stops and joins it.
pub struct VcpuHandle {
    id: VcpuId,
    mailbox: Sender<VcpuMessage>,
    thread: Option<JoinHandle<Option<Vcpu>>>,
    required_cpus: Option<(Tid, RequiredCpus)>,
}

impl fmt::Debug for VcpuHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuHandle")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// What a vCPU thread is made of.
#[derive(Debug)]
pub struct VcpuParts {
    /// Which vCPU it is.
    pub id: VcpuId,
    /// KVM's.
    pub vcpu: Vcpu,
    /// Where it runs.
    pub affinity: VcpuAffinity,
    /// Its devices.
    pub buses: Arc<Buses>,
    /// The end of the VM.
    pub stop: Arc<StopSignal>,
    /// Who is told of the thread's end.
    pub observer: Arc<dyn ThreadObserver>,
    /// What it was when it was saved, and what its TSC was. The vCPU becomes that when
    /// its port is there, which may have tried the vCPU.
    pub saved: Option<(Box<SavedVcpu>, TscMoment)>,
}

/// Is told of the end of vCPU threads.
pub trait ThreadObserver: fmt::Debug + Send + Sync {
    /// The thread of a vCPU ends: its port has ended, with these totals, and the
    /// vCPU does not enter the guest any more. Called once, on that thread, which
    /// is still to be joined. A thread that panicked reports nothing.
    fn thread_ended(&self, vcpu: VcpuId, totals: &Totals);
}

/// A vCPU thread that did not come up, and the vCPU, unless its thread died.
#[derive(Debug)]
pub struct SpawnFailure {
    /// Why.
    pub error: SpawnError,
    /// For another try.
    pub vcpu: Option<Box<Vcpu>>,
}

impl VcpuHandle {
    /// Starts the thread of a vCPU, which then waits for
    /// [`VcpuMessage::Run`]. Returns when it is where it should run and its
    /// port is built.
    ///
    /// # Errors
    /// If the thread or the port does not come up.
    pub fn spawn(parts: VcpuParts, port: PortBuilder) -> Result<Self, SpawnFailure> {
        let (mailbox, inbox) = mpsc::channel();
        let (give, take) = mpsc::channel::<VcpuParts>();
        let (ready, started) = mpsc::channel();
        let id = parts.id;
        let required = parts.affinity.required_cpus.clone();
        // The parts follow once there is a thread: they are not lost without.
        let thread = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(move || main(&take, port, &ready, inbox));
        let thread = match thread {
            Ok(thread) => thread,
            Err(source) => {
                let error = SpawnError::Thread { vcpu: id, source };
                let vcpu = Some(Box::new(parts.vcpu));
                return Err(SpawnFailure { error, vcpu });
            }
        };
        // A thread that died says so below.
        drop(give.send(parts));
        let error = match started.recv() {
            Ok(Ok(tid)) => {
                return Ok(Self {
                    id,
                    mailbox,
                    thread: Some(thread),
                    required_cpus: required.map(|required| (tid, required)),
                });
            }
            Ok(Err(error)) => error,
            Err(_) => SpawnError::Died { vcpu: id },
        };
        let vcpu = thread.join().ok().flatten().map(Box::new);
        Err(SpawnFailure { error, vcpu })
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Joins the thread, which has been told to stop, and returns its vCPU;
    /// `None` if it panicked.
    #[must_use]
    pub fn join(mut self) -> Option<Vcpu> {
        let thread = self.thread.take()?;
        if let Ok(vcpu) = thread.join() {
            return vcpu;
        }
        log::error!("the thread of vCPU {} panicked", self.id);
        None
    }

    /// The thread, and the CPUs on which it must stay; `None` if it may run on any.
    #[must_use]
    pub const fn required_cpus(&self) -> Option<&(Tid, RequiredCpus)> {
        self.required_cpus.as_ref()
    }

    /// Which vCPU it is.
    #[must_use]
    pub fn id(&self) -> VcpuId {
        self.id
    }

    /// Puts a message into the mailbox and gets the thread out of the guest.
    pub fn send(&self, message: VcpuMessage) {
        // A thread that has ended needs no message.
        let _ended = self.mailbox.send(message);
        if let Some(thread) = &self.thread
            && let Err(error) = kick::send(thread)
        {
            log::error!("cannot kick vCPU {}: {error}", self.id);
        }
    }
}

#[cfg(test)]
impl VcpuHandle {
    /// A thread that waits to be told to end.
    pub(super) fn waiting(id: VcpuId) -> Self {
        let (mailbox, messages) = mpsc::channel();
        let thread = thread::spawn(move || {
            while !matches!(messages.recv(), Ok(VcpuMessage::Stop) | Err(_)) {}
            None
        });
        Self {
            id,
            mailbox,
            thread: Some(thread),
            required_cpus: None,
        }
    }
}

impl Drop for VcpuHandle {
    fn drop(&mut self) {
        self.send(VcpuMessage::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of vCPU {} panicked", self.id);
        }
    }
}

fn bind(vcpu: VcpuId, affinity: &VcpuAffinity) -> Result<(), SpawnError> {
    let Some(cpus) = &affinity.bind else {
        return Ok(());
    };
    affinity::bind_this_thread(cpus).map_err(|source| SpawnError::Bind {
        vcpu,
        cpus: cpus.clone(),
        source,
    })
}

fn build(id: VcpuId, vcpu: &mut Vcpu, port: PortBuilder) -> Result<Box<dyn MsrPort>, SpawnError> {
    port(vcpu).map_err(|source| SpawnError::Port { vcpu: id, source })
}

/// What the thread does. Returns its vCPU, also if it could not begin.
fn main(
    parts: &Receiver<VcpuParts>,
    port: PortBuilder,
    ready: &Sender<Result<Tid, SpawnError>>,
    mailbox: Receiver<VcpuMessage>,
) -> Option<Vcpu> {
    // Whoever starts it sends them as soon as it is there.
    let mut parts = parts.recv().ok()?;
    let id = parts.id;
    // Bound first: what the port opens, allocates and measures belongs there.
    let bound = bind(id, &parts.affinity);
    let port = match bound.and_then(|()| build(id, &mut parts.vcpu, port)) {
        Ok(port) => port,
        Err(error) => {
            drop(ready.send(Err(error)));
            return Some(parts.vcpu);
        }
    };
    if let Some((saved, tsc)) = parts.saved.take() {
        if let Err(source) = parts.vcpu.restore(&saved, tsc) {
            drop(ready.send(Err(SpawnError::Restore { vcpu: id, source })));
            return Some(parts.vcpu);
        }
        parts.vcpu.guest_was_stopped();
    }
    // The other end waits for exactly this.
    drop(ready.send(Ok(Tid::current())));
    let thread = VcpuThread {
        id,
        port,
        kicks: Registration::new(parts.vcpu.immediate_exit()),
        vcpu: parts.vcpu,
        guard: CpuGuard::new(parts.affinity.required_cpus),
        buses: parts.buses,
        mailbox,
        stop: parts.stop,
        observer: parts.observer,
        unanswered: None,
    };
    Some(thread.run())
}
