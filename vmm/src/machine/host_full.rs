//! A host whose disk is full: the VM is paused until there is room.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::builder::MachineControl;
use crate::devices::virtio::block::DiskFull;
use crate::rate_limit::RateLimit;

/// How long the vCPUs have to stop.
const PAUSE_TIME: Duration = Duration::from_secs(2);

/// Why the VM is paused without an order, and the event that has it paused.
#[derive(Debug)]
pub struct HostFull {
    reason: Mutex<Option<String>>,
    event: EventFd,
}

impl HostFull {
    /// Nothing is full.
    ///
    /// # Errors
    /// If the host gives no eventfd.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            reason: Mutex::default(),
            event: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// Why the VM is paused; `None` if an order paused it, or it runs.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.locked().clone()
    }

    /// Forgets the reason: somebody has the VM go on.
    pub(super) fn forget(&self) {
        *self.locked() = None;
    }

    fn locked(&self) -> MutexGuard<'_, Option<String>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskFull for HostFull {
    fn pause(&self, reason: String) {
        *self.locked() = Some(reason);
        // An eventfd that is full wakes as well.
        drop(self.event.write(1));
    }
}

/// Pauses the machine on the main thread.
pub(super) struct PauseOnFull {
    control: MachineControl,
}

impl PauseOnFull {
    pub(super) fn new(control: &MachineControl) -> Self {
        Self {
            control: control.clone(),
        }
    }
}

impl MutEventSubscriber for PauseOnFull {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        static LIMIT: RateLimit = RateLimit::new();
        // Empty is as good: the counter is what we reset.
        drop(self.control.host_full.event.read());
        let Some(reason) = self.control.host_full.reason() else {
            return;
        };
        match self.control.pause(PAUSE_TIME) {
            Ok(()) => {
                if LIMIT.allow().is_some() {
                    log::warn!("the VM is paused: {reason} (perfvisor ctl resume)");
                }
            }
            Err(error) => {
                if LIMIT.allow().is_some() {
                    log::warn!("{reason}; {error}: it is tried again");
                }
                drop(self.control.host_full.event.write(1));
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let event = Events::new(&self.control.host_full.event, EventSet::IN);
        if let Err(error) = ops.add(event) {
            log::warn!("a full disk of the host would not pause the VM: {error}");
        }
    }
}
