//! The virtio devices of a VM: where they are made, and where they become PCI functions
//! 00:01.0, 00:02.0 and so on, in this order: those that `--disk` and the like ask for,
//! then those of [`super::MachineExtras`].

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use thiserror::Error;

use super::build_error::BuildError;
use super::host_full::HostFull;
use super::own_devices;
use super::platform::Platform;
use super::serial_file::SerialFile;
use crate::config::VmConfig;
use crate::devices::pci::{
    ConfigMemory, ConfigPorts, HostBridge, InterruptLine, MAX_FUNCTIONS, PciBus,
};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::console::ConsoleHandle;
use crate::devices::virtio::pci::{FunctionParts, VirtioPci};
use crate::devices::virtio::vhost::{self, VhostError};
use crate::event_loop::EventLoop;
use crate::kvm::Vm;
use crate::stop::StopSignal;

/// The makers of the devices that the configuration asks for, in the order of their PCI
/// functions. A device's flag adds its lines here.
fn configured(config: &VmConfig) -> Vec<DeviceMaker> {
    let mut makers = own_devices::makers(config);
    for (number, folder) in config.fs.iter().cloned().enumerate() {
        makers.push(Box::new(move |context| {
            let device = Box::new(vhost::open_fs(&folder, context.stop)?);
            let name = format!("fs{number}");
            Ok(NamedDevice { name, device })
        }));
    }
    for (number, card) in config.net.iter().cloned().enumerate() {
        makers.push(Box::new(move |context| {
            let device = vhost::open_net(&card, context.stop)?;
            let name = format!("net{number}");
            Ok(NamedDevice { name, device })
        }));
    }
    if let Some(vsock) = config.vsock {
        makers.push(Box::new(move |context| {
            let device = vhost::open_vsock(vsock, context.stop)?;
            let name = "vsock".to_owned();
            Ok(NamedDevice { name, device })
        }));
    }
    makers
}

/// A virtio device, and what logs and errors call it.
#[derive(Debug)]
pub struct NamedDevice {
    /// The name, such as `disk0`.
    pub name: String,
    /// The device.
    pub device: Box<dyn VirtioDevice>,
}

/// What the maker of a device may use.
pub struct DeviceContext<'a> {
    /// The VM's configuration.
    pub config: &'a VmConfig,
    /// Ends the VM.
    pub stop: &'a Arc<StopSignal>,
    /// Serves file descriptors on the main thread.
    pub events: &'a mut EventLoop,
    /// What they share with the machine.
    pub(super) shared: &'a DeviceShared<'a>,
}

/// What virtio devices share with the machine around them.
#[derive(Debug)]
pub(super) struct DeviceShared<'a> {
    /// Pauses the VM when the host's disk is full.
    pub(super) host_full: Arc<HostFull>,
    /// The file of `--console`, if it is one.
    pub(super) console_file: Option<&'a SerialFile>,
    /// The terminal's size goes there.
    pub(super) terminal: Arc<OnceLock<ConsoleHandle>>,
}

impl<'a> DeviceShared<'a> {
    pub(super) fn new(console_file: Option<&'a SerialFile>) -> Result<Self, BuildError> {
        let host_full = HostFull::new().map_err(|source| BuildError::Host {
            what: "an eventfd",
            source,
        })?;
        Ok(Self {
            host_full: Arc::new(host_full),
            console_file,
            terminal: Arc::default(),
        })
    }
}

impl<'a> DeviceContext<'a> {
    pub(super) const fn new(
        config: &'a VmConfig,
        stop: &'a Arc<StopSignal>,
        events: &'a mut EventLoop,
        shared: &'a DeviceShared<'a>,
    ) -> Self {
        Self {
            config,
            stop,
            events,
            shared,
        }
    }
}

impl fmt::Debug for DeviceContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceContext").finish_non_exhaustive()
    }
}

/// Makes one device. Called once, before the first vCPU runs and after everything else
/// that can refuse the VM; what it has started ends when the device is dropped.
pub type DeviceMaker = Box<dyn FnOnce(&mut DeviceContext<'_>) -> Result<NamedDevice, DeviceError>>;

/// The reason why a device cannot be made.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// What the user gave is not usable.
    #[error("{flag}: {reason}")]
    Usage {
        /// The flag.
        flag: &'static str,
        /// The value, why it is not usable, and what works.
        reason: String,
    },
    /// A device that another process or the host's kernel serves.
    #[error(transparent)]
    Vhost(#[from] VhostError),
    /// The host refused something.
    #[error("{device}: cannot {what}")]
    Host {
        /// The device.
        device: String,
        /// The step that failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl DeviceError {
    /// Whether what the user gave is to blame, rather than the host.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        match self {
            Self::Usage { .. } => true,
            Self::Vhost(error) => error.is_usage(),
            Self::Host { .. } => false,
        }
    }
}

/// Makes the devices, and puts them on a bus that the guest finds.
pub(super) fn place_all(
    vm: &Vm,
    platform: &mut Platform,
    context: &mut DeviceContext<'_>,
    extra: Vec<Box<dyn VirtioDevice>>,
) -> Result<(), BuildError> {
    let mut makers = configured(context.config);
    for (number, device) in extra.into_iter().enumerate() {
        let name = format!("extra{number}-{:?}", device.kind()).to_lowercase();
        makers.push(Box::new(|_| Ok(NamedDevice { name, device })));
    }
    // The host bridge has a number, too.
    let (count, most) = (makers.len(), MAX_FUNCTIONS - 1);
    if count > most {
        return Err(BuildError::TooManyDevices { count, most });
    }
    let mut bus = PciBus::default();
    bus.add(Arc::new(Mutex::new(HostBridge::default())));
    for maker in makers {
        bus.add(place_function(vm, platform, maker(context)?)?);
    }
    let bus = Arc::new(bus);
    let memory = ConfigMemory::new(Arc::clone(&bus));
    platform.place(&Arc::new(Mutex::new(memory)))?;
    platform.place(&Arc::new(Mutex::new(ConfigPorts::new(bus))))
}

/// Makes a device a function with a place of its own.
fn place_function(
    vm: &Vm,
    platform: &mut Platform,
    device: NamedDevice,
) -> Result<Arc<Mutex<VirtioPci>>, BuildError> {
    let NamedDevice { name, device } = device;
    // One for the configuration.
    let vectors = device.queue_sizes().len() + 1;
    let line = |_| {
        vm.msi_line()
            .map(|line| Box::new(line) as Box<dyn InterruptLine>)
    };
    let function = VirtioPci::new(FunctionParts {
        name,
        device,
        lines: (0..vectors).map(line).collect::<Result<_, _>>()?,
        memory: vm.memory().clone(),
    })?;
    let shared = Arc::new(Mutex::new(function));
    platform.place(&shared)?;
    let function = shared.lock().unwrap_or_else(PoisonError::into_inner);
    for (event, address) in function.notify_addresses() {
        vm.connect_write(event, address)?;
    }
    drop(function);
    Ok(shared)
}
