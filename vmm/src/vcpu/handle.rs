//! A vCPU thread as others see it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use thiserror::Error;
use vpmu::host::linux::sysfs::CpuSet;
use vpmu::ids::VcpuId;

use super::placement::{Home, HomeGuard, VcpuPlacement};
use super::port::{MsrPort, PortBuilder, PortError};
use super::thread::{Buses, VcpuState, VcpuThread};
use crate::kvm::Vcpu;
use crate::pmu::VcpuPmuStatus;
use crate::stop::StopSignal;
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
    #[error("cannot build the register port of vCPU {vcpu}")]
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
    /// It ended before it was ready.
    #[error("the thread of vCPU {vcpu} died")]
    Died {
        /// The vCPU.
        vcpu: VcpuId,
    },
}

/// A vCPU thread. Dropping the handle stops and joins it.
pub struct VcpuHandle {
    id: VcpuId,
    mailbox: Sender<VcpuMessage>,
    thread: Option<JoinHandle<()>>,
    home: Option<(Tid, Home)>,
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
    pub placement: VcpuPlacement,
    /// Its devices.
    pub buses: Arc<Buses>,
    /// The end of the VM.
    pub stop: Arc<StopSignal>,
}

impl VcpuHandle {
    /// Starts the thread of a vCPU, which then waits for
    /// [`VcpuMessage::Run`]. Returns when it is where it should run and its
    /// port is built.
    ///
    /// # Errors
    /// If the thread or the port does not come up.
    pub fn spawn(parts: VcpuParts, port: PortBuilder) -> Result<Self, SpawnError> {
        let (mailbox, inbox) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let id = parts.id;
        let home = parts.placement.home.clone();
        let thread = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(move || {
                // Bound first: what the port opens and allocates belongs there.
                let port = match bind(id, &parts.placement).and_then(|()| build(id, port)) {
                    Ok(port) => port,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                // The other end waits for exactly this.
                drop(ready.send(Ok(Tid::current())));
                run_thread(parts, port, inbox);
            })
            .map_err(|source| SpawnError::Thread { vcpu: id, source })?;
        let mut handle = Self {
            id,
            mailbox,
            thread: Some(thread),
            home: None,
        };
        match started.recv() {
            Ok(Ok(tid)) => {
                handle.home = home.map(|home| (tid, home));
                Ok(handle)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(SpawnError::Died { vcpu: id }),
        }
    }

    /// The thread and where it must stay; `None` if it may roam.
    #[must_use]
    pub const fn home(&self) -> Option<&(Tid, Home)> {
        self.home.as_ref()
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
            && let Err(error) = kick::send(thread, kick::mailbox_signal())
        {
            log::error!("cannot kick vCPU {}: {error}", self.id);
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

fn bind(vcpu: VcpuId, placement: &VcpuPlacement) -> Result<(), SpawnError> {
    let Some(cpus) = &placement.bind else {
        return Ok(());
    };
    affinity::bind_this_thread(cpus).map_err(|source| SpawnError::Bind {
        vcpu,
        cpus: cpus.clone(),
        source,
    })
}

fn build(vcpu: VcpuId, port: PortBuilder) -> Result<Box<dyn MsrPort>, SpawnError> {
    port().map_err(|source| SpawnError::Port { vcpu, source })
}

fn run_thread(mut parts: VcpuParts, port: Box<dyn MsrPort>, mailbox: Receiver<VcpuMessage>) {
    VcpuThread {
        id: parts.id,
        port,
        kicks: Registration::new(parts.vcpu.immediate_exit()),
        vcpu: parts.vcpu,
        guard: HomeGuard::new(parts.placement.home),
        buses: parts.buses,
        mailbox,
        stop: parts.stop,
    }
    .run();
}
