//! The parts of a machine, in the order in which the builder needs them.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::acpi;
use super::boot::{self, BootError, BootInputs, Initramfs, KernelImage};
use super::builder::BuildError;
use super::cpuid::{CpuidPlan, Profile};
use super::memory::RamLayout;
use super::serial_file::SerialFile;
use super::vcpus::{CreatedVcpus, VcpuPlan};
use crate::config::{SerialConfig, VmConfig};
use crate::devices::cpu_hotplug::{self, CpuHotplug, HotplugLine};
use crate::devices::debug_exit::{self, DebugExit};
use crate::devices::i8042::{self, KeyboardController};
use crate::devices::panic::{self, PanicDevice};
use crate::devices::power::{self, PowerButton, PowerDevice};
use crate::devices::serial::{self, ConsoleOutput, Limited, SerialParts, SerialPort};
use crate::devices::{Bus, BusError};
use crate::event_loop::Console;
use crate::kvm::{BootState, Hypervisor, Vm, layout};
use crate::pmu::PmuHooks;
use crate::stop::StopSignal;
use crate::sys::files::FileId;
use crate::sys::terminal;
use crate::vcpu::Buses;

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

    /// Memory with everything in it, and a VM around it.
    pub(super) fn build_vm(&self, files: &mut Files) -> Result<(Vm, BootState), BuildError> {
        let size = self.config.memory.size;
        let ram = RamLayout::of(size);
        let memory = ram.allocate(self.config.memory)?;
        let inputs = BootInputs {
            kernel: &mut files.kernel,
            initramfs: &mut files.initramfs,
            cmdline: &self.config.cmdline,
            map: &ram.map(),
            low_ram: ram.low,
        };
        let boot_state = boot::load(&memory, inputs)?;
        let vcpus = self.config.cpus.max;
        let tables = acpi::tables(&self.config.cpus).ok_or(BuildError::Acpi { vcpus })?;
        memory
            .write_slice(&tables, GuestAddress(layout::ACPI))
            .map_err(|source| BootError::Memory {
                what: "ACPI tables",
                source,
            })?;
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
        Ok((vm, boot_state))
    }

    /// Every possible vCPU, none with a thread yet.
    pub(super) fn create_vcpus(
        &self,
        vm: &Vm,
        boot_state: BootState,
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
            boot_state,
            state_msrs: self.hypervisor.state_msrs()?,
        };
        Ok(plan.create(vm, self.config.cpus.possible())?)
    }
}

/// The serial port and its other end.
pub(super) fn open_serial(
    config: &SerialConfig,
    file: Option<&SerialFile>,
    instead: Option<Box<dyn Write + Send>>,
) -> Result<SerialParts, BuildError> {
    let host = |source| BuildError::Host {
        what: "the serial port",
        source,
    };
    if let Some(out) = instead {
        return SerialPort::create(ConsoleOutput::to(out).map_err(host)?).map_err(host);
    }
    let out: Box<dyn Write + Send> = match config {
        SerialConfig::Tty => Box::new(terminal::stdout().map_err(host)?),
        SerialConfig::Null => return SerialPort::create(ConsoleOutput::default()).map_err(host),
        SerialConfig::File { .. } => match file {
            Some(file) => Box::new(Limited::new(file.writer().map_err(host)?)),
            // /dev/null.
            None => return SerialPort::create(ConsoleOutput::default()).map_err(host),
        },
    };
    SerialPort::create(ConsoleOutput::to(out).map_err(host)?).map_err(host)
}

/// The interrupt lines that others pull.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) power_button: PowerButton,
    pub(super) hotplug: HotplugLine,
}

/// Connects every interrupt line: one each.
pub(super) fn connect_lines(vm: &Vm, serial: &SerialParts) -> Result<Lines, BuildError> {
    let host = |what| move |source| BuildError::Host { what, source };
    let lines = Lines {
        power_button: PowerButton::new().map_err(host("the power button"))?,
        hotplug: HotplugLine::new().map_err(host("vCPU hot-plug"))?,
    };
    vm.connect_irq(&serial.irq, serial::COM1_IRQ)?;
    vm.connect_irq(lines.power_button.irq(), power::BUTTON_IRQ)?;
    vm.connect_irq(lines.hotplug.irq(), cpu_hotplug::IRQ)?;
    Ok(lines)
}

/// The devices, each at its place.
pub(super) fn build_buses(
    config: &VmConfig,
    stop: &Arc<StopSignal>,
    serial: &SerialParts,
    hotplug: CpuHotplug,
) -> Result<Buses, BusError> {
    let mut pio = Bus::new("port");
    pio.claim(
        serial::COM1_PORT.into(),
        serial::PORT_COUNT.into(),
        Arc::clone(&serial.port) as _,
    )?;
    let keyboard = KeyboardController::new(Arc::clone(stop));
    pio.claim(
        i8042::BASE_PORT.into(),
        i8042::PORT_COUNT,
        Arc::new(Mutex::new(keyboard)),
    )?;
    let power = PowerDevice::new(Arc::clone(stop));
    pio.claim(
        power::CONTROL_PORT.into(),
        power::PORT_COUNT,
        Arc::new(Mutex::new(power)),
    )?;
    let panic = PanicDevice::new(Arc::clone(stop));
    pio.claim(
        panic::PORT.into(),
        panic::PORT_COUNT,
        Arc::new(Mutex::new(panic)),
    )?;
    if config.debug_exit {
        let device = DebugExit::new(Arc::clone(stop));
        pio.claim(
            debug_exit::PORT.into(),
            debug_exit::PORT_COUNT,
            Arc::new(Mutex::new(device)),
        )?;
    }
    let mut mmio = Bus::new("memory");
    mmio.claim(
        layout::CPU_HOTPLUG.into(),
        cpu_hotplug::LEN,
        Arc::new(Mutex::new(hotplug)),
    )?;
    Ok(Buses {
        pio,
        mmio,
        console: serial.output.clone(),
    })
}

/// The listener that feeds the serial port from standard input.
pub(super) fn console(
    serial: SerialParts,
    stop: &Arc<StopSignal>,
) -> io::Result<Arc<Mutex<Console>>> {
    Ok(Arc::new(Mutex::new(Console::new(
        terminal::stdin()?,
        serial.port,
        serial.drained,
        Arc::clone(stop),
        io::stdin().is_terminal(),
    ))))
}
