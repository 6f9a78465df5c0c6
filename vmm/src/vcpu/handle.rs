//! A vCPU thread as others see it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use thiserror::Error;
use vpmu::ids::VcpuId;

use super::port::{PortBuilder, PortError};
use super::thread::{Buses, VcpuState, VcpuThread};
use crate::kvm::Vcpu;
use crate::pmu::VcpuPmuStatus;
use crate::stop::StopSignal;
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
}

impl fmt::Debug for VcpuHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuHandle")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl VcpuHandle {
    /// Starts the thread of a vCPU, which then waits for
    /// [`VcpuMessage::Run`]. Returns when its port is built.
    ///
    /// # Errors
    /// If the thread or the port does not come up.
    pub fn spawn(
        id: VcpuId,
        vcpu: Vcpu,
        port: PortBuilder,
        buses: Arc<Buses>,
        stop: Arc<StopSignal>,
    ) -> Result<Self, SpawnError> {
        let (mailbox, inbox) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(move || {
                let port = match port() {
                    Ok(port) => port,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                // The other end waits for exactly this.
                drop(ready.send(Ok(())));
                run_thread(id, vcpu, port, buses, inbox, stop);
            })
            .map_err(|source| SpawnError::Thread { vcpu: id, source })?;
        let handle = Self {
            id,
            mailbox,
            thread: Some(thread),
        };
        match started.recv() {
            Ok(Ok(())) => Ok(handle),
            Ok(Err(source)) => Err(SpawnError::Port { vcpu: id, source }),
            Err(_) => Err(SpawnError::Died { vcpu: id }),
        }
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

fn run_thread(
    id: VcpuId,
    mut vcpu: Vcpu,
    port: Box<dyn super::MsrPort>,
    buses: Arc<Buses>,
    mailbox: Receiver<VcpuMessage>,
    stop: Arc<StopSignal>,
) {
    VcpuThread {
        id,
        port,
        kicks: Registration::new(vcpu.immediate_exit()),
        vcpu,
        buses,
        mailbox,
        stop,
    }
    .run();
}
