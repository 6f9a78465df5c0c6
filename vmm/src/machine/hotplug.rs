//! Adding and removing vCPUs while the guest runs: the requests of the API.
//!
//! ```text
//!  add:    Absent ─▶ thread ─▶ VcpuSet ─▶ Offered ─▶ line ─▶ guest: scan, takes it
//!  remove:                           AskedToLeave ─▶ line ─▶ guest: offline, eject
//!          Absent ◀─ reaped ◀─ thread ends ◀─ VcpuSet::stop ◀─────── register write
//! ```
//! The states are those of [`crate::vcpu::presence`], which decides each step.
//! Nothing here waits for the guest: the result of a request is in the vCPU's
//! report. Threads that have ended are joined at the next request or question.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use thiserror::Error;
use vpmu::ids::VcpuId;

use super::presence::PresenceKeeper;
use super::vcpus::{StartError, StartFailure};
use crate::kvm::Vcpu;
use crate::vcpu::presence::{PresenceRefusal, PresenceReport, StartThread};
use crate::vcpu::{VcpuHandle, VcpuSet};

/// The reason why a vCPU is not added or removed.
#[derive(Debug, Error)]
pub enum HotplugError {
    /// The vCPU's number or its present state does not permit the request.
    #[error(transparent)]
    Refused(#[from] PresenceRefusal),
    /// A paused guest cannot do its part.
    #[error("a paused guest cannot add or remove a vCPU; resume it first (perfvisor ctl resume)")]
    Paused,
    /// The vCPU's thread does not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Starts the thread of a vCPU.
pub(super) trait StartVcpu: fmt::Debug + Send {
    /// Starts a thread for a vCPU, as after power-on; it waits for the word.
    ///
    /// # Errors
    /// [`StartFailure`]
    fn spawn(&self, id: VcpuId, vcpu: Vcpu) -> Result<VcpuHandle, StartFailure>;
}

/// The vCPUs of one VM, for whoever changes their number.
#[derive(Debug)]
pub struct Hotplug {
    presence: Arc<PresenceKeeper>,
    vcpus: Arc<VcpuSet>,
    source: Mutex<Box<dyn StartVcpu>>,
}

impl Hotplug {
    pub(super) fn new(
        presence: Arc<PresenceKeeper>,
        vcpus: Arc<VcpuSet>,
        source: impl StartVcpu + 'static,
    ) -> Self {
        let source: Mutex<Box<dyn StartVcpu>> = Mutex::new(Box::new(source));
        Self {
            presence,
            vcpus,
            source,
        }
    }

    /// Gives the vCPUs with which the guest begins their threads, which wait for
    /// [`VcpuSet::start`].
    ///
    /// # Errors
    /// [`StartError`]
    pub(super) fn boot(&self, vcpus: impl IntoIterator<Item = VcpuId>) -> Result<(), StartError> {
        let starting = self.presence.table().boot(vcpus);
        for (start, vcpu) in starting {
            self.start_thread(start, vcpu)?;
        }
        Ok(())
    }

    /// Starts a vCPU and makes the guest look at it. The guest's answer is in
    /// [`Hotplug::report`].
    ///
    /// # Errors
    /// [`HotplugError`]; nothing has changed then.
    pub fn add(&self, vcpu: VcpuId) -> Result<(), HotplugError> {
        self.settle();
        self.presence.table().can_offer(vcpu)?;
        self.must_run()?;
        let (start, vcpu) = self.presence.table().offer(vcpu)?;
        self.start_thread(start, vcpu)?;
        Ok(())
    }

    /// Asks the guest for a vCPU. The guest's answer is in [`Hotplug::report`].
    ///
    /// # Errors
    /// [`HotplugError`]; nothing has changed then.
    pub fn remove(&self, vcpu: VcpuId) -> Result<(), HotplugError> {
        self.settle();
        self.must_run()?;
        let now = Instant::now();
        self.presence
            .try_event(|table| table.ask_to_leave(vcpu, now))?;
        Ok(())
    }

    /// The present state of a vCPU.
    ///
    /// # Errors
    /// If there is no such vCPU.
    pub fn report(&self, vcpu: VcpuId) -> Result<PresenceReport, PresenceRefusal> {
        self.settle();
        self.presence.table().report(vcpu)
    }

    /// The present state of each possible vCPU.
    #[must_use]
    pub fn reports(&self) -> Vec<PresenceReport> {
        self.settle();
        self.presence.table().reports()
    }

    /// Ends every thread, with the VM: nothing moves from one vCPU to another. Calls `joined`
    /// behind each.
    pub(super) fn end(&self, joined: impl FnMut()) {
        self.presence.table().vm_ends();
        self.vcpus.end(joined);
    }

    /// Does what the table has ordered, and tells it the result.
    fn start_thread(&self, start: StartThread, vcpu: Vcpu) -> Result<(), StartError> {
        let spawned = {
            let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
            source.spawn(start.vcpu(), vcpu)
        };
        match spawned {
            Ok(handle) => {
                self.vcpus.insert(handle);
                self.presence
                    .event(|table| table.started(start, Instant::now()));
                Ok(())
            }
            Err(failure) => {
                let kept = failure.vcpu.map(|vcpu| *vcpu);
                self.presence.table().not_started(start, kept);
                Err(failure.error)
            }
        }
    }

    fn must_run(&self) -> Result<(), HotplugError> {
        if self.vcpus.is_paused() {
            return Err(HotplugError::Paused);
        }
        Ok(())
    }

    /// Tells the table that time has passed, and which threads have ended.
    fn settle(&self) {
        self.presence
            .event(|table| table.time_passes(Instant::now()));
        for (vcpu, kept) in self.vcpus.reap() {
            self.presence.event(|table| table.joined(vcpu, kept));
        }
    }
}
