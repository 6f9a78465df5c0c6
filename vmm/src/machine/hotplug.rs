//! vCPUs that come and go while the guest runs.
//!
//! ```text
//!  add:    pool ─▶ thread ─▶ VcpuSet ─▶ slot offered ─▶ line ─▶ guest: scan, takes it
//!  remove:                              slot asked back ─▶ line ─▶ guest: offline, eject
//!          pool ◀─ reaped ◀─ thread ends ◀─ VcpuSet::release ◀─────── register write
//! ```
//! Nothing here waits for the guest: what became of a request is in the slot's
//! report. Threads that have ended are joined when somebody asks next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use thiserror::Error;
use vpmu::ids::VcpuId;

use super::vcpus::{StartError, VcpuPool};
use crate::devices::cpu_hotplug::{HotplugLine, Refusal, SharedSlots, SlotReport, Slots};
use crate::vcpu::VcpuSet;

/// Why a vCPU is not added or removed.
#[derive(Debug, Error)]
pub enum HotplugError {
    /// It cannot be, by its number or where it is.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A guest that stands cannot do its part.
    #[error("a paused guest takes and gives no vCPU; resume it first")]
    Paused,
    /// The host does not let it run.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// The vCPUs of one VM, for whoever changes their number.
#[derive(Debug)]
pub struct Hotplug {
    slots: SharedSlots,
    vcpus: Arc<VcpuSet>,
    pool: Mutex<VcpuPool>,
    line: HotplugLine,
}

impl Hotplug {
    pub(super) fn new(
        slots: SharedSlots,
        vcpus: Arc<VcpuSet>,
        pool: VcpuPool,
        line: HotplugLine,
    ) -> Self {
        let pool = Mutex::new(pool);
        Self {
            slots,
            vcpus,
            pool,
            line,
        }
    }

    /// Gives the vCPUs that boot their threads, which wait for
    /// [`VcpuSet::start`].
    ///
    /// # Errors
    /// [`StartError`]
    pub(super) fn start(&self, boot: u16) -> Result<(), StartError> {
        for id in (0..boot).map(VcpuId) {
            self.vcpus.insert(self.pool().start(id)?);
        }
        Ok(())
    }

    /// Starts a vCPU and has the guest look at it. What the guest makes of it
    /// is in [`Hotplug::report`].
    ///
    /// # Errors
    /// [`HotplugError`]; nothing has changed then.
    pub fn add(&self, vcpu: VcpuId) -> Result<(), HotplugError> {
        self.settle();
        self.slots().can_offer(vcpu)?;
        self.must_run()?;
        let handle = self.pool().start(vcpu)?;
        self.vcpus.insert(handle);
        self.slots().offer(vcpu, Instant::now())?;
        self.pulse();
        Ok(())
    }

    /// Asks the guest for a vCPU. What the guest makes of it is in
    /// [`Hotplug::report`].
    ///
    /// # Errors
    /// [`HotplugError`]; nothing has changed then.
    pub fn remove(&self, vcpu: VcpuId) -> Result<(), HotplugError> {
        self.settle();
        self.must_run()?;
        self.slots().ask_back(vcpu, Instant::now())?;
        self.pulse();
        Ok(())
    }

    /// Where a vCPU is.
    ///
    /// # Errors
    /// If there is no such vCPU.
    pub fn report(&self, vcpu: VcpuId) -> Result<SlotReport, Refusal> {
        self.settle();
        self.slots().report(vcpu)
    }

    /// Where each is.
    #[must_use]
    pub fn reports(&self) -> Vec<SlotReport> {
        self.settle();
        self.slots().reports()
    }

    fn must_run(&self) -> Result<(), HotplugError> {
        if self.vcpus.is_paused() {
            return Err(HotplugError::Paused);
        }
        Ok(())
    }

    /// Takes in what has happened by itself: time-outs, and threads that have
    /// ended. A guest that has not looked is reminded: a line that nobody
    /// listened to yet, at boot say, is not heard later.
    fn settle(&self) {
        let (late, reminds) = {
            let mut slots = self.slots();
            (slots.expire(Instant::now()), slots.has_news())
        };
        for vcpu in late {
            self.vcpus.release(vcpu);
        }
        for (id, vcpu) in self.vcpus.reap() {
            if let Some(vcpu) = vcpu {
                self.pool().park(id, vcpu);
            }
            self.slots().gone(id);
        }
        if reminds {
            self.pulse();
        }
    }

    fn pulse(&self) {
        if let Err(error) = self.line.pulse() {
            log::error!("cannot tell the guest of its vCPUs: {error}");
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pool(&self) -> MutexGuard<'_, VcpuPool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
