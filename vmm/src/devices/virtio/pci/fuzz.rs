//! Accesses of any address, size and order to the configuration space of a bus, by
//! memory and by ports, and to the BARs of its functions, between acts of the devices.
//! The fuzz target `pci` calls [`pci`], as does a test, with each seed.
//!
//! The devices are none: each looks at what it gets. Interrupts have no KVM behind
//! them: what is sent must be what the guest's tables say.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_queue::QueueT;
use vm_memory::GuestAddress;

use super::common::{DRIVER_OK, NEEDS_RESET};
use super::{BAR_LEN, FunctionParts, VirtioPci};
use crate::devices::pci::testing::FakeLine;
use crate::devices::pci::{
    CONFIG_PORT_COUNT, CONFIG_PORTS, ConfigMemory, ConfigPorts, HostBridge, PciBus,
};
use crate::devices::virtio::{
    ActivateError, Activation, ConfigInterrupt, DeviceKind, VirtioDevice,
};
use crate::devices::{Bus, Device, Resources};
use crate::fuzz_input::FuzzInput;
use crate::kvm::MsiMessage;
use crate::sys::guest_ram::GuestRam;

/// Where things are: small addresses, so that few bytes reach them all.
const ECAM: u64 = 0x10_0000;
const RAM: usize = 1 << 20;
const FEATURES: u64 = 0b1011 | 1 << 29 | 1 << 34;
const SIZES: [u16; 3] = [256, 64, 1];

/// Does to a bus with two devices what the bytes say.
///
/// # Panics
/// If a function or the bus does not do as it promises.
#[expect(clippy::unwrap_used, reason = "a check")]
pub fn pci(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    let mut rig = Rig::new().unwrap();
    while !input.is_empty() {
        rig.step(&mut input);
        rig.check();
    }
}

/// What a device has got.
#[derive(Debug, Default)]
struct Got {
    active: Option<Activation>,
    last_interrupt: Option<ConfigInterrupt>,
    is_paused: bool,
    fails: bool,
}

#[derive(Debug)]
struct Checker(Arc<Mutex<Got>>);

fn lock<T: ?Sized>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VirtioDevice for Checker {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Console
    }

    fn queue_sizes(&self) -> &[u16] {
        &SIZES
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        assert!(offset + data.len() as u64 <= 0x1000);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        assert!(offset + data.len() as u64 <= 0x1000);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut got = lock(&self.0);
        assert!(got.active.is_none(), "twice");
        let offered = FEATURES & !(1 << 34) | 1 << 32;
        assert_eq!(activation.features & !offered, 0, "not offered");
        assert_ne!(activation.features & 1 << 32, 0, "VERSION_1");
        let mut numbers = activation.queues.iter().map(|queue| queue.index);
        assert!(numbers.clone().is_sorted_by(|a, b| a < b));
        assert!(numbers.all(|index| usize::from(index) < SIZES.len()));
        for queue in &activation.queues {
            let most = SIZES.get(usize::from(queue.index)).copied();
            let size = queue.queue.size();
            assert!(size.is_power_of_two() && Some(size) <= most, "{size}");
            assert!(queue.queue.is_valid(&activation.memory), "{queue:?}");
            let wants = activation.features & 1 << 29 != 0;
            assert_eq!(queue.queue.event_idx_enabled(), wants);
        }
        got.last_interrupt = Some(activation.config_interrupt.clone());
        if got.fails {
            return Err(ActivateError::MissingQueue(0));
        }
        got.active = Some(activation);
        Ok(())
    }

    fn reset(&mut self) {
        let mut got = lock(&self.0);
        got.active = None;
        got.is_paused = false;
    }

    fn pause(&mut self) {
        let mut got = lock(&self.0);
        assert!(got.active.is_some() && !got.is_paused);
        got.is_paused = true;
    }

    fn resume(&mut self) {
        let mut got = lock(&self.0);
        assert!(got.active.is_some() && got.is_paused);
        got.is_paused = false;
    }
}

/// A function, seen from all sides.
struct FuzzedFunction {
    function: Arc<Mutex<VirtioPci>>,
    got: Arc<Mutex<Got>>,
    sent: Vec<Arc<Mutex<Option<MsiMessage>>>>,
    place: u64,
    number: u64,
}

struct Rig {
    memory: Bus,
    ports: Bus,
    slots: Vec<FuzzedFunction>,
}

impl Rig {
    fn new() -> Option<Self> {
        let mut bus = PciBus::default();
        bus.add(Arc::new(Mutex::new(HostBridge::default())));
        let mut memory = Bus::new("memory");
        let mut slots = Vec::new();
        let mut resources = Resources::new().ok()?;
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), RAM)]).ok()?;
        for number in 1..=2u32 {
            let got = Arc::default();
            let lines: Vec<_> = (0..=SIZES.len()).map(|_| FakeLine::new()).collect();
            let lines: Vec<_> = lines.into_iter().collect::<Result<_, _>>().ok()?;
            let sent = lines.iter().map(|line| Arc::clone(&line.message)).collect();
            let function = VirtioPci::new(FunctionParts {
                name: format!("checker{number}"),
                device: Box::new(Checker(Arc::clone(&got))),
                lines: lines.into_iter().map(|line| Box::new(line) as _).collect(),
                memory: ram.clone(),
            });
            let mut function = function.ok()?;
            function.resources(&mut resources).ok()?;
            let place = function.place;
            let function = Arc::new(Mutex::new(function));
            bus.add(Arc::clone(&function) as _)?;
            let bar = Arc::clone(&function) as _;
            memory.claim(place, BAR_LEN.into(), bar).ok()?;
            slots.push(FuzzedFunction {
                function,
                got,
                sent,
                place,
                number: number.into(),
            });
        }
        let bus = Arc::new(bus);
        let space = Arc::new(Mutex::new(ConfigMemory::new(Arc::clone(&bus))));
        memory.claim(ECAM, 1 << 20, space).ok()?;
        let mut ports = Bus::new("port");
        let config = Arc::new(Mutex::new(ConfigPorts::new(bus)));
        let first = CONFIG_PORTS.into();
        ports.claim(first, CONFIG_PORT_COUNT, config).ok()?;
        Some(Self {
            memory,
            ports,
            slots,
        })
    }

    fn step(&mut self, input: &mut FuzzInput<'_>) {
        let [kind, form] = [input.byte(), input.byte()];
        let slot = &self.slots[usize::from(form & 1)];
        let offset = input.word() & 0xffff;
        match kind % 16 {
            // The registers that a guest uses, and any others.
            0..=3 => {
                let offset = (offset & 0x3f) | (offset >> 8 & 7) << 12;
                self.access(slot.place + offset, form, input);
            }
            4 => self.access(slot.place + (offset & 0x7fff), form, input),
            5 | 6 => {
                let function = slot.number << 15;
                self.access(ECAM + function + (offset & 0xff), form, input);
            }
            7 => self.access(ECAM + (offset << 4 | u64::from(form & 0xf)), form, input),
            8 => {
                let address = 1 << 31 | (offset & 0x00ff_fffc);
                let address = u32::try_from(address).unwrap_or(0).to_le_bytes();
                self.ports.write(CONFIG_PORTS.into(), &address);
            }
            9 => self.port(u64::from(form & 7), form, input),
            10 => self.set_up(slot, offset, form),
            11 => lock(&slot.function).pause(),
            12 => lock(&slot.function).resume(),
            13 => lock(&slot.got).fails = form & 2 != 0,
            _ => act(&lock(&slot.got), form),
        }
    }

    fn access(&self, address: u64, form: u8, input: &mut FuzzInput<'_>) {
        let len = 1usize << (form >> 1 & 3);
        if form & 0x40 == 0 {
            let mut data = input.take(len).to_vec();
            data.resize(len, 0);
            self.memory.write(address, &data);
        } else {
            self.memory.read(address, &mut vec![0; len]);
        }
    }

    fn port(&self, port: u64, form: u8, input: &mut FuzzInput<'_>) {
        let address = u64::from(CONFIG_PORTS) + port;
        let len = 1usize << (form >> 3 & 3);
        if form & 0x40 == 0 {
            self.ports.write(address, input.take(len));
        } else {
            self.ports.read(address, &mut vec![0; len]);
        }
    }

    /// As a driver does it, but for one address.
    fn set_up(&self, slot: &FuzzedFunction, address: u64, form: u8) {
        let write = |offset: u64, data: &[u8]| self.memory.write(slot.place + offset, data);
        if form & 4 != 0 {
            write(0x14, &[0]);
        }
        write(0x14, &[3]);
        for (select, features) in [(0u32, FEATURES), (1, 1)] {
            let [low @ .., _, _, _, _] = features.to_le_bytes();
            write(8, &select.to_le_bytes());
            write(0xc, &low);
        }
        write(0x14, &[0xb]);
        write(0x16, &u16::from(form >> 4 & 3).to_le_bytes());
        let wild = address << (form >> 4);
        for (register, address) in [(0x20, 0x1000), (0x28, 0x8000), (0x30, wild)] {
            let address: u64 = address;
            write(register, &address.to_le_bytes());
        }
        write(0x1c, &[1, 0]);
        write(0x14, &[0xf]);
    }

    /// What holds at any time.
    fn check(&self) {
        let mut word = [0; 4];
        self.memory.read(ECAM, &mut word);
        assert_eq!(word, [0x36, 0x1b, 8, 0], "the bridge");
        self.memory.read(ECAM + (3 << 15), &mut word);
        assert_eq!(word, [0xff; 4], "nobody");
        for slot in &self.slots {
            slot.check();
        }
    }
}

/// What a device may do at any time: change its configuration, break, interrupt; also
/// one that has been reset meanwhile.
fn act(got: &Got, form: u8) {
    let Some(interrupt) = &got.last_interrupt else {
        return;
    };
    let done = match form >> 1 & 7 {
        0 => interrupt.config_changed(),
        1 => interrupt.needs_reset(),
        _ => Ok(()),
    };
    assert!(done.is_ok());
    let queues = got.active.iter().flat_map(|active| &active.queues);
    for queue in queues {
        assert!(queue.call.write(1).is_ok());
    }
}

impl FuzzedFunction {
    fn check(&self) {
        let mut function = lock(&self.function);
        let mut ids = [0; 4];
        crate::devices::pci::PciFunction::read_config(&mut *function, 0, &mut ids);
        assert_eq!(ids, [0xf4, 0x1a, 0x43, 0x10]);
        let mut bar = [0; 4];
        crate::devices::pci::PciFunction::read_config(&mut *function, 0x10, &mut bar);
        assert_eq!(u32::from_le_bytes(bar) % BAR_LEN, 0, "{bar:x?}");
        let control: [u8; 2] = function.config.array(function.offsets.msix_control());
        let is_on = u16::from_le_bytes(control) & 0xc000 == 0x8000;
        for (vector, sent) in (0..).zip(&self.sent) {
            let mut entry = [0; 16];
            function.msix.read_table(vector * 16, &mut entry);
            let [a, b, c, d, e, f, g, h, i, j, k, l, mask, ..] = entry;
            let message = MsiMessage {
                address: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
                data: u32::from_le_bytes([i, j, k, l]),
            };
            let sent = *lock(sent);
            let may = is_on && mask & 1 == 0;
            assert!(may || sent.is_none(), "vector {vector} is masked");
            // A message that the host refused leaves the one before.
            let is_refused = message.address == u64::MAX;
            assert!(
                !may || sent == Some(message) || is_refused,
                "vector {vector}"
            );
        }
        let got = lock(&self.got);
        let active = got.active.is_some();
        drop(got);
        // The registers are behind the guest's own switch; look behind it.
        let mut status = [0];
        function.read_bar(0x14, &mut status);
        let [status] = status;
        assert_eq!(status & 0x30, 0, "{status:#x}");
        let runs = status & DRIVER_OK != 0;
        assert!(!active || runs, "{status:#x}");
        assert!(active || !runs || status & NEEDS_RESET != 0, "{status:#x}");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        crate::fuzz_input::each_seed("pci", super::pci);
    }

    /// The accesses of a guest that knows the registers and nothing else.
    #[test]
    fn a_guest_that_does_anything() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..40 {
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            };
            let bytes: Vec<u8> = (0..4096).map(|_| next()).collect();
            super::pci(&bytes);
        }
    }
}
