//! A function in a snapshot: what its driver has set up, and what its device knows.

use serde::{Deserialize, Serialize};

use super::VirtioPci;
use super::common::SavedCommon;
use crate::devices::pci::SavedMsix;
use crate::devices::virtio::{ConfigInterrupt, SaveFault, SavedDevice};
use crate::devices::{Device, DeviceNotSaved};
use crate::error_text::one_line;
use crate::snapshot::SectionError;

/// The section of a function.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedFunction {
    pub(super) config: Vec<u8>,
    msix: SavedMsix,
    pub(super) common: SavedCommon,
    /// How often the configuration has changed and whether the device is broken, from
    /// DRIVER_OK on.
    pub(super) interrupt: Option<(u8, bool)>,
    /// What of that the ISR status has told.
    told: (u8, bool),
    is_active: bool,
    device: SavedDevice,
}

impl VirtioPci {
    /// The function as it is now. It is paused.
    pub(super) fn saved(&mut self) -> Result<SavedFunction, DeviceNotSaved> {
        let device = || self.name.clone();
        let saved = self.device.save().map_err(|fault| match fault {
            SaveFault::Kind => DeviceNotSaved::Kind { device: device() },
            SaveFault::Host(source) => DeviceNotSaved::Host {
                device: device(),
                source,
            },
        })?;
        let interrupt = self.interrupt.as_ref();
        Ok(SavedFunction {
            config: self.config.saved().to_vec(),
            msix: self.msix.saved(),
            common: self.common.saved(),
            interrupt: interrupt.map(|interrupt| (interrupt.generation(), interrupt.is_broken())),
            told: self.told,
            is_active: self.is_active,
            device: saved,
        })
    }

    /// Goes on as the saved one. A device that worked is paused then. A function that
    /// refuses is as after a reset.
    pub(super) fn go_on_as(&mut self, saved: SavedFunction) -> Result<(), SectionError> {
        self.take(saved).map_err(|reason| {
            Device::reset(self);
            SectionError::Misfit {
                name: self.name.clone(),
                reason,
            }
        })
    }

    fn take(&mut self, saved: SavedFunction) -> Result<(), String> {
        if !self.config.restore(&saved.config) {
            return Err("it is of another kind of device".to_owned());
        }
        self.common.restore(saved.common)?;
        if !self.msix.restore(&saved.msix) {
            return Err("it has another number of interrupts".to_owned());
        }
        let activation = match saved.interrupt {
            None if saved.is_active => return Err("it is damaged".to_owned()),
            None => None,
            Some(used) => {
                let interrupt = self.interrupt_by(|call| ConfigInterrupt::used(call, used))?;
                let stand = &saved.device.queues;
                let activation = saved.is_active.then(|| self.activation(interrupt, stand));
                activation.transpose()?
            }
        };
        let restored = self.device.restore(&saved.device.state, activation);
        restored.map_err(|fault| one_line(&fault))?;
        self.told = saved.told;
        self.is_active = saved.is_active;
        self.is_paused = saved.is_active;
        if self.is_active {
            self.interrupt_once_more();
        }
        Ok(())
    }

    /// An interrupt may have been on its way when the vCPUs were saved. A driver looks at
    /// its queues at each, and one too many is none for it (Virtio 1.2, "Used Buffer
    /// Notification Suppression").
    fn interrupt_once_more(&self) {
        for setup in self.common.queues.iter().filter(|setup| setup.is_enabled) {
            if let Some(event) = self.msix.event(setup.vector) {
                // Full means that one waits.
                drop(event.write(1));
            }
        }
    }
}
