//! The parts of a machine, in the order in which the builder needs them.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::acpi;
use super::boot::{self, BootError, BootInputs, Initramfs, KernelImage};
use super::build_error::BuildError;
use super::cpuid::{CpuidPlan, Profile};
use super::memory::RamLayout;
use super::platform::{DeviceSet, Platform};
use super::serial_file::ConsoleFiles;
use super::vcpus::{CreatedVcpus, VcpuBegin, VcpuPlan};
use crate::config::{CpusConfig, SerialConfig, VmConfig};
use crate::devices::cpu_hotplug::{CpuHotplug, HotplugLine};
use crate::devices::debug_exit::DebugExit;
use crate::devices::generation::GenerationDevice;
use crate::devices::i8042::KeyboardController;
use crate::devices::panic::PanicDevice;
use crate::devices::power::{PowerButton, PowerDevice};
use crate::devices::serial::{ConsoleOutput, Limited, SerialParts, SerialPort};
use crate::event_loop::{Console, ListeningConsole, SocketClient, SocketConsole, Subscriber};
use crate::kvm::{BootState, Hypervisor, Vm, layout};
use crate::pmu::PmuHooks;
use crate::stop::StopSignal;
use crate::sys::files::FileId;
use crate::sys::guest_ram::GuestRam;
use crate::sys::socket_file::SocketFile;
use crate::sys::terminal;

/// An initramfs up to this size is read before its memory is found too small; one that
/// is larger is not, for that takes seconds.
const WORTH_READING: u64 = 1 << 30;

/// The files of a VM, looked at and found good.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) kernel: KernelImage,
    pub(super) initramfs: Initramfs,
}

impl Files {
    /// Opens them and looks at what they are.
    pub(super) fn open(config: &VmConfig) -> Result<Self, BuildError> {
        let kernel = KernelImage::open(&config.kernel)?;
        let mut initramfs = Initramfs::open(&config.initramfs, kernel.ramdisk_form())?;
        let has_room = |initramfs: &Initramfs| {
            boot::check_room(&kernel, initramfs, &config.cmdline, config.memory.size)
        };
        // By the sizes of the files, before any is read; then by what is inside. A size
        // that a refusal names is enough only if it counts what is inside, too.
        if initramfs.size() > WORTH_READING {
            has_room(&initramfs)?;
        }
        initramfs.inspect()?;
        has_room(&initramfs)?;
        Ok(Self { kernel, initramfs })
    }

    /// The flag that names this file, if one does.
    pub(super) fn flag_of(&self, id: FileId) -> Option<&'static str> {
        if self.kernel.id() == id {
            return Some("--kernel");
        }
        let mut archives = self.initramfs.ids();
        archives
            .any(|archive| archive == id)
            .then_some("--initramfs")
    }
}

/// All that decides what a VM becomes.
#[derive(Debug)]
pub(super) struct Blueprint<'a> {
    config: &'a VmConfig,
    hooks: &'a PmuHooks,
    hypervisor: &'a Hypervisor,
}

impl<'a> Blueprint<'a> {
    pub(super) const fn new(
        config: &'a VmConfig,
        hooks: &'a PmuHooks,
        hypervisor: &'a Hypervisor,
    ) -> Self {
        Self {
            config,
            hooks,
            hypervisor,
        }
    }

    /// Memory with everything in it, and a VM around it. `shared`: other processes map the
    /// memory.
    pub(super) fn build_vm(
        &self,
        files: &mut Files,
        shared: bool,
    ) -> Result<(Vm, BootState), BuildError> {
        let size = self.config.memory.size;
        let ram = RamLayout::of(size);
        let memory = ram.allocate(self.config.memory, shared)?;
        let inputs = BootInputs {
            kernel: &mut files.kernel,
            initramfs: &mut files.initramfs,
            cmdline: &self.config.cmdline,
            map: &ram.map(),
            low_ram: ram.low,
        };
        let boot_state = boot::load(&memory, inputs)?;
        Ok((self.vm_around(memory)?, boot_state))
    }

    /// A VM around memory in which everything is.
    pub(super) fn vm_around(&self, memory: GuestRam) -> Result<Vm, BuildError> {
        let vm = self.hypervisor.create_vm(memory)?;
        if !vm.disable_kvm_pmu()? {
            log::debug!("this KVM cannot switch its own vPMU off");
        }
        if !vm.enable_msr_exits()? {
            log::debug!("this KVM does not pass unknown MSRs to the VMM");
        }
        if let Some(filter) = &self.hooks.filter {
            vm.set_msr_filter(filter)?;
        }
        if self.hooks.halts_sleep && !vm.disable_halt_polling()? {
            log::debug!("this KVM polls in a halted vCPU: a clock counts that time as guest time");
        }
        Ok(vm)
    }

    /// Every possible vCPU, none with a thread yet.
    pub(super) fn create_vcpus(
        &self,
        vm: &Vm,
        begin: VcpuBegin<'_>,
    ) -> Result<CreatedVcpus, BuildError> {
        let profile = self.hooks.cpuid.map_or(Profile::Host, Profile::around);
        let supported = self.hypervisor.supported_cpuid()?;
        let topology = self.config.cpus.topology;
        let cpuid = CpuidPlan {
            supported: &supported,
            tsc_deadline: self.hypervisor.has_tsc_deadline_timer(),
            topology,
            profile,
            core_types: self.hooks.core_types.as_ref(),
            uncore: self.hooks.uncore_model(),
            nested: self.config.cpus.nested,
        };
        if let Some(accepted) = cpuid.cannot_tell() {
            return Err(BuildError::Topology { topology, accepted });
        }
        let plan = VcpuPlan {
            cpuid,
            begin,
            state_msrs: self.hypervisor.state_msrs()?,
        };
        plan.create(vm, self.config.cpus.possible())
    }
}

/// The socket of `--serial`, if it is one.
pub(super) fn serial_socket(config: &SerialConfig) -> Result<Option<ListeningConsole>, BuildError> {
    let SerialConfig::Socket(path) = config else {
        return Ok(None);
    };
    Ok(Some(ListeningConsole {
        file: SocketFile::bind("--serial: socket", path)?,
        client: SocketClient::default(),
    }))
}

/// The serial port and its other end.
pub(super) fn open_serial(
    config: &VmConfig,
    files: &ConsoleFiles,
    socket: Option<&ListeningConsole>,
    instead: Option<Box<dyn Write + Send>>,
) -> Result<SerialParts, BuildError> {
    let host = |source| BuildError::Host {
        what: "the serial port",
        source,
    };
    if let Some(out) = instead {
        return SerialPort::create(ConsoleOutput::to(out).map_err(host)?).map_err(host);
    }
    let out: Box<dyn Write + Send> = match &config.serial {
        SerialConfig::Tty => Box::new(terminal::stdout().map_err(host)?),
        SerialConfig::Socket(_) => match socket {
            Some(socket) => Box::new(socket.client.clone()),
            None => return SerialPort::create(ConsoleOutput::default()).map_err(host),
        },
        SerialConfig::Null => return SerialPort::create(ConsoleOutput::default()).map_err(host),
        SerialConfig::File { .. } => match &files.serial {
            Some(file) => Box::new(Limited::new(file.writer().map_err(host)?)),
            // /dev/null.
            None => return SerialPort::create(ConsoleOutput::default()).map_err(host),
        },
    };
    SerialPort::create(ConsoleOutput::to(out).map_err(host)?).map_err(host)
}

/// The devices that every machine has, each at its place.
pub(super) fn place_devices(
    config: &VmConfig,
    stop: &Arc<StopSignal>,
    serial: &SerialParts,
    power_button: &PowerButton,
    hotplug: CpuHotplug,
) -> Result<Platform, BuildError> {
    let mut platform = Platform::new()?;
    platform.place(&serial.port)?;
    let keyboard = KeyboardController::new(Arc::clone(stop));
    platform.place(&Arc::new(Mutex::new(keyboard)))?;
    let power = PowerDevice::new(Arc::clone(stop), power_button.clone());
    platform.place(&Arc::new(Mutex::new(power)))?;
    let panic = PanicDevice::new(Arc::clone(stop));
    platform.place(&Arc::new(Mutex::new(panic)))?;
    if config.debug_exit {
        let device = DebugExit::new(Arc::clone(stop));
        platform.place(&Arc::new(Mutex::new(device)))?;
    }
    platform.place(&Arc::new(Mutex::new(hotplug)))?;
    Ok(platform)
}

/// The number of the guest's life, in its memory.
pub(super) fn place_generation(
    platform: &mut Platform,
    memory: &GuestRam,
) -> Result<(), BuildError> {
    let device = GenerationDevice::new(memory.clone());
    let device = device.map_err(|source| BuildError::Host {
        what: "the guest's generation id",
        source,
    })?;
    platform.place(&Arc::new(Mutex::new(device)))
}

/// The lines that others pull: the power button's, and that of vCPU hot-plug.
pub(super) fn lines() -> io::Result<(PowerButton, HotplugLine)> {
    Ok((PowerButton::new()?, HotplugLine::new()?))
}

/// Writes the ACPI tables of a machine whose devices are all there.
pub(super) fn write_tables(
    vm: &Vm,
    cpus: &CpusConfig,
    devices: &DeviceSet,
) -> Result<(), BuildError> {
    let vcpus = cpus.max;
    let tables = acpi::tables(cpus, devices).ok_or(BuildError::Acpi { vcpus })?;
    let written = vm.memory().write_slice(&tables, GuestAddress(layout::ACPI));
    written.map_err(|source| BootError::Memory {
        what: "ACPI tables",
        source,
    })?;
    Ok(())
}

/// The listener that feeds the serial port: from standard input, or from a socket's client.
pub(super) fn typist(
    config: &VmConfig,
    serial: SerialParts,
    socket: Option<ListeningConsole>,
    stop: &Arc<StopSignal>,
) -> Result<Option<Subscriber>, BuildError> {
    if let Some(socket) = socket {
        let console = SocketConsole::new(socket, serial.port, serial.drained);
        return Ok(Some(Arc::new(Mutex::new(console))));
    }
    if config.serial != SerialConfig::Tty {
        return Ok(None);
    }
    let input = terminal::stdin().map_err(|source| BuildError::Host {
        what: "standard input",
        source,
    })?;
    Ok(Some(Arc::new(Mutex::new(Console::new(
        input,
        serial.port,
        serial.drained,
        Arc::clone(stop),
        io::stdin().is_terminal(),
    )))))
}
