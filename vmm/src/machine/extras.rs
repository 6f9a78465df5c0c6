//! What a machine gets besides its configuration.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use crate::config::VmConfig;
use crate::devices::virtio::VirtioDevice;
use crate::event_loop::SignalRelay;
use crate::snapshot::SavedVm;
use crate::stop::StopSignal;

/// Parts of a machine that whoever builds it brings along.
pub struct MachineExtras {
    /// The machine's end: devices that can end it have it as well.
    pub stop: Arc<StopSignal>,
    /// Virtio devices, in the order of their PCI functions.
    pub devices: Vec<Box<dyn VirtioDevice>>,
    /// Where the serial port's output goes instead of where `--serial` says.
    pub console: Option<Box<dyn Write + Send>>,
    /// Whether the guest has run before in this VM: the files of its consoles go on.
    pub again: bool,
    /// What the guest was, from which it goes on in place of a boot.
    pub restore: Option<SavedVm>,
    /// The flags of this VM as text, for its snapshots; or why there are none.
    pub flags: Result<String, String>,
    /// Who hears of signals before they end the VM.
    pub signals: Option<SignalRelay>,
}

impl fmt::Debug for MachineExtras {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineExtras")
            .field("devices", &self.devices)
            .finish_non_exhaustive()
    }
}

impl MachineExtras {
    /// Whether other processes may map the guest's memory: they may serve a device that is
    /// brought along.
    pub(super) fn share_memory(&self, config: &VmConfig) -> bool {
        config.shares_memory() || !self.devices.is_empty()
    }

    /// None besides a signal for the end.
    ///
    /// # Errors
    /// If the host gives no eventfd.
    pub fn none() -> io::Result<Self> {
        Ok(Self {
            stop: Arc::new(StopSignal::new()?),
            devices: Vec::new(),
            console: None,
            again: false,
            restore: None,
            flags: Err("this VM has no flags of its own".to_owned()),
            signals: None,
        })
    }
}
