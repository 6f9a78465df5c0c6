//! The parts of a machine, in the order in which the builder needs them.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};
use vpmu::ids::MsrIndex;

use super::boot::{self, BootError, BootInputs, Initramfs, KernelImage};
use super::builder::{BuildError, PmuHooks, PortContext};
use super::cpuid::{CpuidPlan, Profile};
use super::memory::Placement;
use super::{acpi, layout};
use crate::config::{PmuArg, SerialConfig, VmConfig};
use crate::devices::i8042::{self, KeyboardController};
use crate::devices::power::{self, PowerDevice};
use crate::devices::serial::{self, Limited, SerialParts, SerialPort};
use crate::devices::{Bus, BusError};
use crate::event_loop::Console;
use crate::kvm::{BootState, Hypervisor, KvmError, Vcpu, Vm};
use crate::stop::StopSignal;
use crate::sys::terminal;
use crate::vcpu::{Buses, VcpuHandle, VcpuParts};

/// IA32_MISC_ENABLE and IA32_MTRR_DEF_TYPE (Intel SDM vol. 4).
const MISC_ENABLE: MsrIndex = MsrIndex(0x1a0);
const MTRR_DEF_TYPE: MsrIndex = MsrIndex(0x2ff);
/// MTRRs on, write-back by default.
const MTRR_WRITE_BACK: u64 = 0x806;

/// The files of a VM, looked at and found good.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) kernel: KernelImage,
    pub(super) initramfs: Initramfs,
}

/// All that decides what a VM becomes.
#[derive(Debug)]
pub(super) struct Blueprint<'a> {
    pub(super) config: &'a VmConfig,
    pub(super) hooks: &'a PmuHooks,
    pub(super) hypervisor: &'a Hypervisor,
}

impl Blueprint<'_> {
    /// Memory with everything in it, and a VM around it.
    pub(super) fn build_vm(&self, files: &mut Files) -> Result<(Vm, BootState), BuildError> {
        let size = self.config.memory.size;
        let placement = Placement::of(size);
        let memory = placement.allocate().map_err(|source| BuildError::Memory {
            mib: size >> 20,
            source,
        })?;
        let inputs = BootInputs {
            kernel: &mut files.kernel,
            initramfs: &mut files.initramfs,
            cmdline: &self.config.cmdline,
            map: &placement.map(),
            low_ram: placement.low,
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
            log::debug!("this KVM keeps unknown MSRs to itself");
        }
        if let Some(filter) = &self.hooks.filter {
            vm.set_msr_filter(filter)?;
        }
        if self.hooks.halts_sleep && !vm.disable_halt_polling()? {
            log::debug!("this KVM polls in a halted vCPU, which its thread's time shows");
        }
        Ok((vm, boot_state))
    }

    /// Every vCPU on its thread, waiting for the word.
    pub(super) fn build_vcpus(
        &self,
        vm: &Vm,
        boot_state: BootState,
        buses: &Arc<Buses>,
        stop: &Arc<StopSignal>,
    ) -> Result<Vec<VcpuHandle>, BuildError> {
        let profile = match self.config.pmu {
            PmuArg::Off => Profile::Host,
            PmuArg::On(_) => Profile::around(self.hooks.cpuid),
        };
        let supported = self.hypervisor.supported_cpuid()?;
        let topology = self.config.cpus.topology;
        let plan = CpuidPlan {
            supported: &supported,
            tsc_deadline: self.hypervisor.has_tsc_deadline_timer(),
            topology,
            profile,
            core_types: self.hooks.core_types.as_ref(),
        };
        let interrupter = vm.interrupter();
        let mut handles = Vec::new();
        for id in self.config.cpus.possible() {
            let vcpu = vm.create_vcpu(topology.apic_id(id))?;
            vcpu.set_cpuid(&plan.table(id))?;
            set_registers(&vcpu, profile)?;
            if id.0 == 0 {
                vcpu.set_boot_state(boot_state)?;
            }
            let port = (self.hooks.port)(&PortContext {
                vcpu: id,
                apic_id: topology.apic_id(id),
                tsc: vcpu.tsc_rate()?,
                memory: vm.memory(),
                interrupter: &interrupter,
                hypervisor: self.hypervisor,
            });
            let placement = self.hooks.placement.get(usize::from(id.0));
            let parts = VcpuParts {
                id,
                vcpu,
                placement: placement.cloned().unwrap_or_default(),
                buses: Arc::clone(buses),
                stop: Arc::clone(stop),
            };
            handles.push(VcpuHandle::spawn(parts, port)?);
        }
        Ok(handles)
    }
}

/// What firmware leaves behind on every processor.
fn set_registers(vcpu: &Vcpu, profile: Profile) -> Result<(), KvmError> {
    vcpu.set_msrs(&[
        (MISC_ENABLE, profile.misc_enable()),
        (MTRR_DEF_TYPE, MTRR_WRITE_BACK),
    ])?;
    vcpu.init_fpu()?;
    vcpu.init_lapic()
}

/// The serial port and its other end.
pub(super) fn open_serial(config: &SerialConfig) -> Result<SerialParts, BuildError> {
    let host = |source| BuildError::Host {
        what: "the serial port",
        source,
    };
    let out: Box<dyn Write + Send> = match config {
        SerialConfig::Tty => Box::new(terminal::stdout().map_err(host)?),
        SerialConfig::Null => Box::new(io::sink()),
        SerialConfig::File(path) => {
            let file = File::create(path).map_err(|source| BuildError::SerialFile {
                path: path.clone(),
                source,
            })?;
            Box::new(Limited::new(file))
        }
    };
    SerialPort::create(out).map_err(host)
}

/// The devices, each at its place.
pub(super) fn build_buses(
    stop: &Arc<StopSignal>,
    port: &Arc<Mutex<SerialPort>>,
) -> Result<Buses, BusError> {
    let mut pio = Bus::new("port");
    pio.claim(
        serial::COM1_PORT.into(),
        serial::PORT_COUNT.into(),
        Arc::clone(port) as _,
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
    Ok(Buses {
        pio,
        mmio: Bus::new("memory"),
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
