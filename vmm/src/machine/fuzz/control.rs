//! The control of a machine without vCPUs, for who fuzzes what asks it.

use std::io;
use std::sync::Arc;

use vpmu::ids::VcpuId;

use super::super::MachineControl;
use super::super::hotplug::{Hotplug, StartVcpu};
use super::super::presence::PresenceKeeper;
use super::super::vcpus::{StartError, StartFailure};
use super::super::{DeviceSet, HostFull};
use crate::devices::cpu_hotplug::HotplugLine;
use crate::devices::power::PowerButton;
use crate::devices::serial::ConsoleOutput;
use crate::kvm::{KvmError, Vcpu};
use crate::pmu::PmuHooks;
use crate::stop::StopSignal;
use crate::vcpu::presence::PresenceTable;
use crate::vcpu::{VcpuHandle, VcpuSet};

/// Starts no vCPU.
#[derive(Debug)]
struct NoThreads;

impl StartVcpu for NoThreads {
    fn spawn(&self, id: VcpuId, vcpu: Vcpu) -> Result<VcpuHandle, StartFailure> {
        let source = KvmError::Missing("threads");
        Err(StartFailure {
            error: StartError::Kvm { vcpu: id, source },
            vcpu: Some(Box::new(vcpu)),
        })
    }
}

impl MachineControl {
    /// The control of a machine that has no vCPU and needs no KVM.
    ///
    /// # Errors
    /// If the host gives no eventfd.
    pub fn without_vcpus() -> io::Result<Self> {
        let vcpus = Arc::new(VcpuSet::default());
        let keeper = PresenceKeeper::new(
            PresenceTable::new([]),
            &vcpus,
            HotplugLine::new()?,
            &PmuHooks::none(),
        );
        let hotplug = Hotplug::new(Arc::new(keeper), Arc::clone(&vcpus), NoThreads);
        Ok(Self {
            vcpus,
            hotplug: Arc::new(hotplug),
            stop: Arc::new(StopSignal::new()?),
            power_button: PowerButton::new()?,
            console: ConsoleOutput::default(),
            devices: DeviceSet::default(),
            host_full: Arc::new(HostFull::new()?),
            mover: Arc::default(),
            saver: None,
        })
    }
}
