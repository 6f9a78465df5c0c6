//! Carries out the steps of the presence table.
//!
//! ```text
//!  guest: register write ─▶ HotplugOwner   ─┐                            ┌▶ VcpuSet: run, stop
//!  vCPU thread: its end  ─▶ ThreadObserver ─┼▶ PresenceTable ─▶ PresenceSteps ─┼▶ SharedUncore: arrive, depart
//!  API: Hotplug          ─▶ event          ─┘                            └▶ HotplugLine: pulse
//! ```
//! The table's lock is held until every step that an event calls for is done, so
//! the next event finds them done. While it is held, the locks of the set and of the
//! uncore PMUs are taken briefly; neither calls back. No thread is joined while it
//! is held, because a thread that ends takes it to report its end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use vpmu::Totals;
use vpmu::ids::VcpuId;

use crate::devices::cpu_hotplug::{GuestAnswer, HotplugLine, HotplugOwner, SlotFlags};
use crate::kvm::Vcpu;
use crate::pmu::{PmuHooks, SharedUncore, VmTotals};
use crate::vcpu::presence::{PresenceStep, PresenceSteps, PresenceTable};
use crate::vcpu::{ThreadObserver, VcpuSet};

/// The presence table of a running VM, and what it drives.
#[derive(Debug)]
pub(super) struct PresenceKeeper {
    table: Mutex<PresenceTable<Vcpu>>,
    /// The set owns the threads, which report to the keeper.
    vcpus: Weak<VcpuSet>,
    line: HotplugLine,
    uncore: Option<Arc<SharedUncore>>,
    totals: Arc<VmTotals>,
}

impl PresenceKeeper {
    /// The keeper of a VM whose vCPUs are all without a thread.
    pub(super) fn new(
        table: PresenceTable<Vcpu>,
        vcpus: &Arc<VcpuSet>,
        line: HotplugLine,
        hooks: &PmuHooks,
    ) -> Self {
        Self {
            table: Mutex::new(table),
            vcpus: Arc::downgrade(vcpus),
            line,
            uncore: hooks.uncore.clone(),
            totals: Arc::clone(&hooks.totals),
        }
    }

    /// The table, to ask it, or for an event without steps.
    pub(super) fn table(&self) -> MutexGuard<'_, PresenceTable<Vcpu>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes an event to the table, and does what it calls for.
    pub(super) fn event(&self, event: impl FnOnce(&mut PresenceTable<Vcpu>) -> PresenceSteps) {
        let mut table = self.table();
        for step in event(&mut table) {
            self.perform(step);
        }
    }

    /// The same with an event that may be refused.
    ///
    /// # Errors
    /// The event's; nothing is done then.
    pub(super) fn try_event<E>(
        &self,
        event: impl FnOnce(&mut PresenceTable<Vcpu>) -> Result<PresenceSteps, E>,
    ) -> Result<(), E> {
        let mut table = self.table();
        for step in event(&mut table)? {
            self.perform(step);
        }
        Ok(())
    }

    fn perform(&self, step: PresenceStep) {
        match step {
            PresenceStep::Arrive(vcpu) => {
                if let Some(uncore) = &self.uncore {
                    uncore.arrive(vcpu);
                }
            }
            PresenceStep::Depart(vcpu) => {
                if let Some(uncore) = &self.uncore {
                    uncore.depart(vcpu);
                }
            }
            PresenceStep::RunThread(vcpu) => {
                if let Some(vcpus) = self.vcpus.upgrade() {
                    vcpus.run(vcpu);
                }
            }
            PresenceStep::StopThread(vcpu) => {
                if let Some(vcpus) = self.vcpus.upgrade() {
                    vcpus.stop(vcpu);
                }
            }
            PresenceStep::PulseLine => {
                if let Err(error) = self.line.pulse() {
                    log::error!("cannot signal a vCPU change to the guest: {error}");
                }
            }
        }
    }
}

impl HotplugOwner for PresenceKeeper {
    fn flags(&self, vcpu: VcpuId) -> SlotFlags {
        self.table().flags(vcpu)
    }

    fn acknowledged(&self, vcpu: VcpuId, comes: bool, goes: bool) {
        self.table().acknowledge(vcpu, comes, goes);
    }

    fn ejected(&self, vcpu: VcpuId) {
        self.event(|table| table.eject(vcpu, Instant::now()));
    }

    fn answered(&self, vcpu: VcpuId, answer: GuestAnswer) {
        self.event(|table| table.answer(vcpu, answer, Instant::now()));
    }
}

impl ThreadObserver for PresenceKeeper {
    fn thread_ended(&self, vcpu: VcpuId, totals: &Totals) {
        self.totals.add(totals);
        self.event(|table| table.thread_ended(vcpu));
    }
}
