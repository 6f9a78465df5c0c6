//! An interrupt line without KVM.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::InterruptLine;
use crate::kvm::{KvmError, MsiMessage};

/// A line without KVM, and the message that it is connected to.
#[derive(Debug)]
pub(crate) struct FakeLine {
    event: EventFd,
    pub(crate) message: Arc<Mutex<Option<MsiMessage>>>,
}

impl FakeLine {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            event: EventFd::new(EFD_NONBLOCK)?,
            message: Arc::default(),
        })
    }

    fn set(&self, message: Option<MsiMessage>) {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = message;
    }
}

impl InterruptLine for FakeLine {
    fn event(&self) -> &EventFd {
        &self.event
    }

    /// Refuses one address, as KVM refuses some.
    fn connect(&mut self, message: MsiMessage) -> Result<(), KvmError> {
        if message.address == u64::MAX {
            return Err(KvmError::Missing("such messages"));
        }
        self.set(Some(message));
        Ok(())
    }

    fn disconnect(&mut self) -> Result<(), KvmError> {
        self.set(None);
        Ok(())
    }
}
