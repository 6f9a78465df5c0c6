//! The devices of a machine at their places: who has which ports, addresses and
//! interrupt lines.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::build_error::BuildError;
use crate::devices::serial::ConsoleOutput;
use crate::devices::virtio::OutputState;
use crate::devices::{AcpiEvent, Bus, BusDevice, Device, DeviceNotSaved, Resources};
use crate::kvm::{KvmError, Vm};
use crate::snapshot::{SectionError, Sections};
use crate::vcpu::{Buses, DOORBELL_PORTS};

/// A machine's devices while it is put together.
#[derive(Debug)]
pub(super) struct Platform {
    resources: Resources,
    ports: Bus,
    memory: Bus,
    lines: Vec<(EventFd, u32)>,
    /// In their order.
    pub(super) devices: DeviceSet,
}

impl Platform {
    /// One without devices. The ports of the RDPMC doorbell are taken: a vCPU that writes
    /// to them is served before any device.
    pub(super) fn new() -> Result<Self, BuildError> {
        let mut resources = Resources::new()?;
        resources.begin("the RDPMC doorbell");
        for ports in DOORBELL_PORTS {
            // A write to the last one may have four bytes.
            let count = u64::from(ports.end() - ports.start()) + 4;
            resources.ports((*ports.start()).into(), count)?;
        }
        Ok(Self {
            resources,
            ports: Bus::new("port"),
            memory: Bus::new("memory"),
            lines: Vec::new(),
            devices: DeviceSet::default(),
        })
    }

    /// Gives a device what it asks for. The order of these calls is the order of the
    /// devices.
    pub(super) fn place<D>(&mut self, device: &Arc<Mutex<D>>) -> Result<(), BuildError>
    where
        D: Device + BusDevice + 'static,
    {
        let mut asks = device.lock().unwrap_or_else(PoisonError::into_inner);
        self.resources.begin(asks.name());
        asks.resources(&mut self.resources)?;
        drop(asks);
        let got = self.resources.take();
        for range in got.ports {
            let len = range.end - range.start;
            self.ports
                .claim(range.start, len, Arc::clone(device) as _)?;
        }
        for range in got.memory {
            let len = range.end - range.start;
            self.memory
                .claim(range.start, len, Arc::clone(device) as _)?;
        }
        self.lines.extend(got.lines);
        self.devices.0.push(Arc::clone(device) as _);
        Ok(())
    }

    /// Connects every line; gives the devices, in their order.
    pub(super) fn connect(&self, vm: &Vm) -> Result<DeviceSet, KvmError> {
        let mut lines = self.lines.iter();
        lines.try_for_each(|(event, line)| vm.connect_irq(event, *line))?;
        Ok(self.devices.clone())
    }

    /// The guest's address spaces.
    pub(super) fn into_buses(self, console: ConsoleOutput) -> Buses {
        Buses {
            pio: self.ports,
            mmio: self.memory,
            console,
        }
    }
}

/// The devices of a machine, in their order.
#[derive(Clone, Default)]
pub struct DeviceSet(Vec<Arc<Mutex<dyn Device>>>);

impl fmt::Debug for DeviceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.each().map(|device| device.name().to_owned());
        f.debug_list().entries(names).finish()
    }
}

impl DeviceSet {
    /// Each device, locked for a while.
    fn each(&self) -> impl DoubleEndedIterator<Item = MutexGuard<'_, dyn Device + 'static>> {
        let devices = self.0.iter();
        devices.map(|device| device.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds each device's part of the DSDT.
    pub(super) fn aml(&self, sink: &mut dyn acpi_tables::AmlSink) {
        self.each().for_each(|device| device.aml(sink));
    }

    /// The events that ACPI tells the guest of.
    pub(super) fn acpi_events(&self) -> Vec<AcpiEvent> {
        self.each()
            .filter_map(|device| device.acpi_event())
            .collect()
    }

    /// Waits until the host has taken what the guest has written, for no longer than
    /// `within` for each device.
    #[must_use]
    pub fn flush_output(&self, within: Duration) -> OutputState {
        let mut state = OutputState::Done;
        for mut device in self.each() {
            match (state, device.flush_output(within)) {
                (OutputState::Moves, _) | (_, OutputState::Done) => {}
                (_, found) => state = found,
            }
        }
        state
    }

    /// Stops the devices for a while, in their order. Call it when no vCPU runs.
    pub fn pause(&self) {
        self.each().for_each(|mut device| device.pause());
    }

    /// Has them go on, the last one first. Call it before a vCPU runs.
    pub fn resume(&self) {
        self.each().rev().for_each(|mut device| device.resume());
    }

    /// Whether all are of kinds that can be saved.
    ///
    /// # Errors
    /// The first that is not.
    pub(super) fn can_be_saved(&self) -> Result<(), DeviceNotSaved> {
        self.each().try_for_each(|device| device.can_be_saved())
    }

    /// Has each write what the guest has made of it. They are paused.
    ///
    /// # Errors
    /// The first that cannot be saved.
    pub(super) fn save(&self, sections: &mut Sections) -> Result<(), DeviceNotSaved> {
        self.each().try_for_each(|mut device| device.save(sections))
    }

    /// Has each take it back.
    ///
    /// # Errors
    /// The first section that is missing or damaged, or of another device.
    pub(super) fn restore(&self, sections: &mut Sections) -> Result<(), SectionError> {
        self.each()
            .try_for_each(|mut device| device.restore(sections))
    }

    /// Stops them for good: returns when their workers have ended.
    pub fn reset(&self) {
        self.each().for_each(|mut device| device.reset());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::debug_exit::DebugExit;
    use crate::devices::{ResourceError, ResourceKind};
    use crate::stop::StopSignal;

    #[derive(Debug)]
    struct Bell(u16, Arc<Mutex<Vec<(u16, &'static str)>>>);

    impl Bell {
        fn note(&self, what: &'static str) {
            self.1.lock().unwrap().push((self.0, what));
        }
    }

    impl Device for Bell {
        fn name(&self) -> &'static str {
            "bell"
        }
        fn resources(&mut self, resources: &mut Resources) -> Result<(), ResourceError> {
            resources.ports(self.0, 1)
        }
        fn pause(&mut self) {
            self.note("pause");
        }
        fn resume(&mut self) {
            self.note("resume");
        }
    }

    impl BusDevice for Bell {
        fn read(&mut self, _offset: u64, _data: &mut [u8]) {}
        fn write(&mut self, _offset: u64, _data: &[u8]) {}
    }

    /// A device at the doorbell's port would never be asked.
    #[test]
    fn no_device_gets_the_port_of_the_doorbell_nor_anothers() {
        let mut platform = Platform::new().unwrap();
        let stop = Arc::new(StopSignal::new().unwrap());
        let exit = Arc::new(Mutex::new(DebugExit::new(stop)));
        platform.place(&exit).unwrap();
        for (port, owner) in [(0xe6, "doorbell"), (0xf7, "debug-exit")] {
            let bell = Arc::new(Mutex::new(Bell(port, Arc::default())));
            let error = platform.place(&bell).unwrap_err();
            assert!(error.to_string().contains(owner), "{error}");
            assert!(matches!(
                error,
                BuildError::Resource(ResourceError::Taken {
                    kind: ResourceKind::Ports,
                    ..
                })
            ));
        }
        assert_eq!(format!("{:?}", platform.devices), "[\"debug-exit\"]");
    }

    #[test]
    fn devices_stop_in_their_order_and_go_on_in_reverse() {
        let mut platform = Platform::new().unwrap();
        let log = Arc::default();
        for port in [1, 2] {
            let bell = Arc::new(Mutex::new(Bell(port, Arc::clone(&log))));
            platform.place(&bell).unwrap();
        }
        platform.devices.pause();
        platform.devices.resume();
        let expected = [(1, "pause"), (2, "pause"), (2, "resume"), (1, "resume")];
        assert_eq!(*log.lock().unwrap(), expected);
    }
}
