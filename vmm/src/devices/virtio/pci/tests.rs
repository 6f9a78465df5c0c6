//! A driver that does as it likes, and a device that looks at what it gets.

use std::sync::{Arc, Mutex};

use virtio_queue::QueueT;
use vm_memory::GuestAddress;

use super::*;
use crate::devices::pci::testing::FakeLine;
use crate::devices::virtio::{
    ActivateError, Activation, DeviceKind, QueuePosition, RestoreFault, SaveFault, SavedDevice,
};
use crate::kvm::MsiMessage;
use crate::sys::guest_ram::GuestRam;

/// What happened to the device.
#[derive(Debug, Default)]
struct Log {
    active: Option<Activation>,
    activations: usize,
    resets: usize,
    pauses: i32,
    fails: bool,
    config: [u8; 8],
}

#[derive(Clone, Debug, Default)]
struct FakeDevice(Arc<Mutex<Log>>);

impl VirtioDevice for FakeDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256, 64]
    }
    fn features(&self) -> u64 {
        // One of the device, all of the transport.
        !0 << 24 | 0b101
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let log = self.0.lock().unwrap();
        for (to, from) in data.iter_mut().zip(&log.config[offset.min(8) as usize..]) {
            *to = *from;
        }
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut log = self.0.lock().unwrap();
        for (to, from) in log.config[offset.min(8) as usize..].iter_mut().zip(data) {
            *to = *from;
        }
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut log = self.0.lock().unwrap();
        assert!(log.active.is_none(), "activated twice");
        log.activations += 1;
        if log.fails {
            return Err(ActivateError::MissingQueue(1));
        }
        log.active = Some(activation);
        Ok(())
    }
    fn reset(&mut self) {
        let mut log = self.0.lock().unwrap();
        log.resets += 1;
        log.active = None;
        log.pauses = 0;
    }
    fn pause(&mut self) {
        let mut log = self.0.lock().unwrap();
        assert!(log.active.is_some());
        log.pauses += 1;
    }
    fn resume(&mut self) {
        self.0.lock().unwrap().pauses -= 1;
    }
    fn save(&mut self) -> Result<SavedDevice, SaveFault> {
        let log = self.0.lock().unwrap();
        let stood = log.active.as_ref().map(|_| STOOD);
        Ok(SavedDevice {
            queues: stood.into_iter().collect(),
            state: log.config.to_vec(),
        })
    }
    fn restore(
        &mut self,
        state: &[u8],
        activation: Option<Activation>,
    ) -> Result<(), RestoreFault> {
        let mut log = self.0.lock().unwrap();
        if log.fails {
            return Err(RestoreFault::Damaged);
        }
        log.config = state.try_into().unwrap();
        log.pauses = i32::from(activation.is_some());
        log.active = activation;
        Ok(())
    }
}

/// Where its queue stands at the end.
const STOOD: QueuePosition = QueuePosition {
    queue: 1,
    next_available: 0xffff,
    next_used: 0xfffe,
};

const COMMON: u64 = 0;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const TABLE: u64 = 0x3000;
const NOTIFY: u64 = 0x5000;
const STATUS: u64 = 0x14;
/// RAM of the guest.
const RAM: u64 = 1 << 20;

struct Rig {
    function: VirtioPci,
    log: Arc<Mutex<Log>>,
    messages: Vec<Arc<Mutex<Option<MsiMessage>>>>,
}

impl Rig {
    fn new() -> Self {
        let device = FakeDevice::default();
        let log = Arc::clone(&device.0);
        let lines: Vec<_> = (0..3).map(|_| FakeLine::new().unwrap()).collect();
        let messages = lines.iter().map(|line| Arc::clone(&line.message)).collect();
        let ram = [(GuestAddress(0), usize::try_from(RAM).unwrap())];
        let function = VirtioPci::new(FunctionParts {
            name: "rng0".into(),
            device: Box::new(device),
            lines: lines.into_iter().map(|line| Box::new(line) as _).collect(),
            memory: GuestRam::from_ranges(&ram).unwrap(),
        });
        let mut function = function.unwrap();
        function.resources(&mut Resources::new().unwrap()).unwrap();
        Self {
            function,
            log,
            messages,
        }
    }

    fn read<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        BusDevice::read(&mut self.function, offset, &mut data);
        data
    }

    fn write<const N: usize>(&mut self, offset: u64, data: [u8; N]) {
        BusDevice::write(&mut self.function, offset, &data);
    }

    fn status(&mut self) -> u8 {
        let [status] = self.read(COMMON + STATUS);
        status
    }

    fn set_status(&mut self, status: u8) {
        self.write(COMMON + STATUS, [status]);
    }

    fn offered(&mut self) -> u64 {
        let mut half = |select: u32| {
            self.write(COMMON, select.to_le_bytes());
            u64::from(u32::from_le_bytes(self.read(COMMON + 4)))
        };
        half(0) | half(1) << 32
    }

    fn accept(&mut self, features: u64) {
        for (select, half) in [(0u32, features & 0xffff_ffff), (1, features >> 32)] {
            self.write(COMMON + 8, select.to_le_bytes());
            self.write(COMMON + 0xc, u32::try_from(half).unwrap().to_le_bytes());
        }
    }

    /// A queue whose three parts are at these addresses.
    fn set_queue(&mut self, queue: u16, size: u16, addresses: [u64; 3]) {
        self.write(COMMON + 0x16, queue.to_le_bytes());
        self.write(COMMON + 0x18, size.to_le_bytes());
        self.write(COMMON + 0x1a, queue.wrapping_add(1).to_le_bytes());
        for (at, address) in (0x20..).step_by(8).zip(addresses) {
            let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
            self.write(COMMON + at, [a, b, c, d]);
            self.write(COMMON + at + 4, [e, f, g, h]);
        }
        self.write(COMMON + 0x1c, 1u16.to_le_bytes());
    }

    /// What Linux does, with one queue.
    fn start_with(&mut self, size: u16, addresses: [u64; 3]) {
        self.set_status(0);
        self.set_status(1);
        self.set_status(3);
        self.accept(1 << 32 | 1 << 29 | 1);
        self.set_status(0xb);
        assert_eq!(self.status(), 0xb);
        self.write(COMMON + 0x10, 0u16.to_le_bytes());
        self.set_queue(1, size, addresses);
        self.set_status(0xf);
    }

    fn start(&mut self) {
        self.start_with(16, [0x1000, 0x2000, 0x3000]);
        assert_eq!(self.status(), 0xf);
    }
}

#[test]
fn a_driver_that_does_as_linux_starts_the_device() {
    let mut rig = Rig::new();
    rig.start();
    let log = rig.log.lock().unwrap();
    let active = log.active.as_ref().unwrap();
    assert_eq!(active.features, 1 << 32 | 1 << 29 | 1);
    let [queue] = &active.queues[..] else {
        panic!("the queues that the driver enabled");
    };
    assert_eq!((queue.index, queue.queue.size()), (1, 16));
    assert!(queue.queue.event_idx_enabled() && queue.queue.ready());
    let ring = (queue.queue.avail_ring(), queue.queue.used_ring());
    assert_eq!(ring, (0x2000, 0x3000));
    assert!(queue.queue.is_valid(&active.memory));
}

#[test]
fn what_the_transport_cannot_do_is_not_offered() {
    let mut rig = Rig::new();
    let known = 0b101 | 1 << 28 | 1 << 29 | 1 << 32 | !0 << 50;
    assert_eq!(rig.offered(), known, "{:#x}", rig.offered() ^ known);
    rig.write(COMMON, 2u32.to_le_bytes());
    assert_eq!(rig.read(COMMON + 4), [0; 4]);
    for features in [1 << 32 | 2, 1, 1 << 32 | 1 << 34, u64::MAX] {
        rig.set_status(0);
        rig.set_status(3);
        rig.accept(features);
        rig.set_status(0xb);
        assert_eq!(rig.status(), 3, "{features:#x}");
        rig.set_status(0xf);
        assert_eq!(rig.status(), 3, "no DRIVER_OK without features");
    }
    assert_eq!(rig.log.lock().unwrap().activations, 0);
}

#[test]
fn features_are_fixed_once_they_are_agreed_on() {
    let mut rig = Rig::new();
    rig.set_status(3);
    rig.accept(1 << 32);
    rig.set_status(0xb);
    rig.accept(u64::MAX);
    rig.set_status(0xf);
    assert_eq!(
        rig.log.lock().unwrap().active.as_ref().unwrap().features,
        1 << 32
    );
}

#[test]
fn a_queue_that_is_not_in_memory_breaks_the_device_until_it_is_reset() {
    let good = [0x1000, 0x2000, 0x3000];
    let mut rig = Rig::new();
    for (part, address) in [
        (0, RAM - 16 * 15),
        (0, 0x1008),
        (0, u64::MAX - 15),
        (1, RAM - 8),
        (1, 0x2001),
        (2, 0x3002),
        (2, RAM),
        (2, !3),
    ] {
        let mut addresses = good;
        addresses[part] = address;
        rig.start_with(16, addresses);
        assert_eq!(rig.status(), 0x4f, "part {part} at {address:#x}");
        assert!(rig.log.lock().unwrap().active.is_none());
        assert_eq!(rig.read(ISR), [2], "the driver is told");
        assert_eq!(rig.read(ISR), [0]);
        rig.set_status(0);
        assert_eq!(rig.status(), 0);
    }
    assert_eq!(rig.log.lock().unwrap().activations, 0);
    rig.start();
}

#[test]
fn sizes_of_queues_are_powers_of_two_up_to_the_largest() {
    let mut rig = Rig::new();
    rig.write(COMMON + 0x16, 1u16.to_le_bytes());
    for (size, kept) in [
        (0, 64),
        (3, 64),
        (128, 64),
        (0x8000, 64),
        (1, 1),
        (65, 1),
        (64, 64),
    ] {
        rig.write(COMMON + 0x18, u16::to_le_bytes(size));
        assert_eq!(rig.read(COMMON + 0x18), u16::to_le_bytes(kept), "{size}");
    }
    // A queue that is not there has no size, and takes nothing.
    for queue in [2, 0x100, 0xffff_u16] {
        rig.set_queue(queue, 16, [0; 3]);
        assert_eq!(rig.read(COMMON + 0x18), [0; 32], "{queue}");
    }
}

#[test]
fn an_enabled_queue_does_not_change_and_a_vector_must_be_there() {
    let mut rig = Rig::new();
    rig.set_queue(0, 8, [0x1000, 0x2000, 0x3000]);
    let before = rig.read::<32>(COMMON + 0x18);
    rig.set_queue(0, 4, [0; 3]);
    rig.write(COMMON + 0x1c, [0, 0]);
    assert_eq!(rig.read(COMMON + 0x18), before);
    rig.write(COMMON + 0x16, [1, 0]);
    for (register, vector, kept) in [(0x10, 3u16, 0xffff), (0x10, 2, 2), (0x1a, 3, 0xffff)] {
        rig.write(COMMON + register, vector.to_le_bytes());
        assert_eq!(rig.read(COMMON + register), u16::to_le_bytes(kept));
    }
}

#[test]
fn a_reset_returns_when_the_device_has_stopped_and_forgets_all() {
    let mut rig = Rig::new();
    rig.start();
    let fresh = Rig::new().read::<56>(COMMON);
    rig.set_status(0);
    assert!(rig.log.lock().unwrap().active.is_none());
    assert_eq!(rig.read(COMMON), fresh);
    rig.start();
    assert_eq!(rig.log.lock().unwrap().activations, 2);
}

#[test]
fn drivers_cannot_start_it_twice_nor_clear_a_bit() {
    let mut rig = Rig::new();
    rig.start();
    rig.set_status(0xf);
    rig.set_status(1);
    assert_eq!(rig.status(), 0xf);
    rig.set_status(0x40);
    assert_eq!(rig.status(), 0xf, "DEVICE_NEEDS_RESET is not the driver's");
    rig.set_status(0x8f);
    assert_eq!(rig.status(), 0x8f);
    assert_eq!(rig.log.lock().unwrap().activations, 1);
}

/// What a snapshot of a function has, as bytes.
fn saved(rig: &mut Rig) -> Sections {
    let mut sections = Sections::default();
    rig.function.pause();
    Device::save(&mut rig.function, &mut sections).unwrap();
    sections
}

#[test]
fn a_function_goes_on_from_a_snapshot() {
    let mut rig = Rig::new();
    rig.start();
    rig.write(DEVICE, [7; 8]);
    rig.write(TABLE + 32, 0xfee0_0000u32.to_le_bytes());
    rig.write(TABLE + 32 + 8, 0x31u32.to_le_bytes());
    rig.write(TABLE + 32 + 12, [0; 4]);
    let control = rig.function.offsets.msix_control();
    PciFunction::write_config(&mut rig.function, control, &[0, 0x80]);
    rig.function
        .interrupt
        .as_ref()
        .unwrap()
        .config_changed()
        .unwrap();
    let mut sections = saved(&mut rig);

    let mut other = Rig::new();
    Device::restore(&mut other.function, &mut sections).unwrap();
    assert_eq!(sections.are_all_taken(), Ok(()));
    assert_eq!(other.read::<56>(COMMON), rig.read(COMMON));
    assert_eq!(other.read(DEVICE), [7; 8]);
    assert_eq!(other.read::<48>(TABLE), rig.read(TABLE));
    assert_eq!(
        other.read(ISR),
        [2],
        "a change that the driver has not seen"
    );
    let message = other.messages[2].lock().unwrap().unwrap();
    assert_eq!(message.data, 0x31);
    let line = other.function.msix.event(2).unwrap();
    assert_eq!(line.read().unwrap(), 1, "an interrupt may have been lost");
    {
        let log = other.log.lock().unwrap();
        let active = log.active.as_ref().unwrap();
        assert_eq!((log.activations, log.pauses), (0, 1), "it waits");
        let [queue] = &active.queues[..] else {
            panic!("the queue that the driver enabled");
        };
        let state = queue.queue.state();
        assert_eq!((state.next_avail, state.next_used), (0xffff, 0xfffe));
        assert_eq!((state.avail_ring, state.used_ring), (0x2000, 0x3000));
        assert_eq!(active.features, 1 << 32 | 1 << 29 | 1);
    }
    other.function.resume();
    assert_eq!(other.log.lock().unwrap().pauses, 0);
    other.set_status(0);
    other.start();
}

#[test]
fn a_function_that_no_driver_has_started_is_saved_too() {
    let mut rig = Rig::new();
    rig.set_status(3);
    rig.accept(1 << 32);
    let mut sections = saved(&mut rig);
    let mut other = Rig::new();
    Device::restore(&mut other.function, &mut sections).unwrap();
    assert_eq!(other.read::<56>(COMMON), rig.read(COMMON));
    other.function.resume();
    assert!(other.log.lock().unwrap().active.is_none());
    other.start();
}

/// Each field that a driver cannot have written, or that is of another device.
#[test]
fn a_snapshot_of_another_function_is_refused_and_leaves_it_as_after_a_reset() {
    type Change = fn(&mut saved::SavedFunction);
    let changes: [(&str, Change); 7] = [
        ("another kind of device", |saved| saved.config[0] ^= 1),
        ("another kind of device", |saved| saved.config.truncate(255)),
        ("another number of queues", |saved| {
            saved.common.queues.truncate(1)
        }),
        ("other interrupts", |saved| {
            saved.common.queues[1].vector = 9
        }),
        ("features", |saved| saved.common.driver_features = u64::MAX),
        ("damaged", |saved| saved.interrupt = None),
        ("not in guest memory", |saved| {
            saved.common.queues[1].used = RAM
        }),
    ];
    let fresh = Rig::new().read::<56>(COMMON);
    for (expected, change) in changes {
        let mut rig = Rig::new();
        rig.start();
        let mut saved: saved::SavedFunction = self::saved(&mut rig).take("rng0").unwrap();
        change(&mut saved);
        let mut sections = Sections::default();
        sections.put("rng0", &saved).unwrap();
        let mut other = Rig::new();
        let error = Device::restore(&mut other.function, &mut sections).unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert_eq!(other.read(COMMON), fresh, "{expected}");
        assert!(other.log.lock().unwrap().active.is_none(), "{expected}");
        other.start();
    }
    let mut rig = Rig::new();
    let mut sections = saved(&mut rig);
    let mut other = Rig::new();
    other.log.lock().unwrap().fails = true;
    let error = Device::restore(&mut other.function, &mut sections).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[test]
fn a_device_that_does_not_start_needs_a_reset_and_is_not_paused() {
    let mut rig = Rig::new();
    rig.log.lock().unwrap().fails = true;
    rig.start_with(16, [0x1000, 0x2000, 0x3000]);
    assert_eq!(rig.status(), 0x4f);
    rig.function.pause();
    rig.log.lock().unwrap().fails = false;
    rig.start();
    rig.function.pause();
    rig.function.pause();
    assert_eq!(rig.log.lock().unwrap().pauses, 1);
    rig.function.resume();
    rig.function.resume();
    assert_eq!(rig.log.lock().unwrap().pauses, 0);
    rig.function.pause();
    rig.function.reset();
    rig.function.resume();
    assert_eq!(rig.log.lock().unwrap().pauses, 0, "a reset ends a pause");
}

#[test]
fn the_vector_of_a_queue_sends_its_message() {
    let mut rig = Rig::new();
    let (msix, _) = find_capabilities(&mut rig);
    rig.function
        .write_config(msix + 2, &0x8000u16.to_le_bytes());
    rig.write(TABLE + 2 * 16, 0xfee0_1000u64.to_le_bytes());
    rig.write(TABLE + 2 * 16 + 8, 0x41u64.to_le_bytes());
    let message = MsiMessage {
        address: 0xfee0_1000,
        data: 0x41,
    };
    assert_eq!(*rig.messages[2].lock().unwrap(), Some(message));
    rig.start();
    let log = Arc::clone(&rig.log);
    let log = log.lock().unwrap();
    let call = &log.active.as_ref().unwrap().queues[0].call;
    call.write(1).unwrap();
    assert!(rig.function.msix.event(2).unwrap().read().is_ok());
    assert!(rig.function.msix.event(1).unwrap().read().is_err());
}

#[test]
fn a_change_of_the_configuration_is_told() {
    let mut rig = Rig::new();
    rig.write(DEVICE + 2, [7]);
    assert_eq!(rig.read(DEVICE), [0, 0, 7, 0]);
    assert_eq!(rig.read(DEVICE + 0xff8), [0; 8]);
    rig.start();
    let interrupt = rig
        .log
        .lock()
        .unwrap()
        .active
        .as_ref()
        .unwrap()
        .config_interrupt
        .clone();
    interrupt.config_changed().unwrap();
    assert_eq!(rig.read(COMMON + 0x15), [1]);
    assert_eq!(rig.read(ISR), [2]);
    assert!(rig.function.msix.event(0).unwrap().read().is_ok());
    interrupt.needs_reset().unwrap();
    assert_eq!(rig.status(), 0x4f);
}

/// Where MSI-X and the window are.
fn find_capabilities(rig: &mut Rig) -> (usize, usize) {
    let mut at = [0];
    rig.function.read_config(0x34, &mut at);
    let (mut msix, mut window) = (0, 0);
    for _ in 0..8 {
        let mut head = [0; 4];
        let offset = usize::from(at[0]);
        rig.function.read_config(offset, &mut head);
        match head {
            [0x11, ..] => msix = offset,
            [9, _, len, 5] => {
                assert_eq!(len, 20);
                window = offset;
            }
            _ => {}
        }
        at[0] = head[1];
        if at[0] == 0 {
            break;
        }
    }
    (msix, window)
}

/// Virtio 1.2, "PCI configuration access capability".
#[test]
fn the_window_reaches_the_bar() {
    let mut rig = Rig::new();
    let (_, window) = find_capabilities(&mut rig);
    let show = |rig: &mut Rig, at: u64, width: u32| {
        let at = u32::try_from(at).unwrap();
        rig.function.write_config(window + 8, &at.to_le_bytes());
        rig.function.write_config(window + 12, &width.to_le_bytes());
    };
    show(&mut rig, COMMON + STATUS, 1);
    rig.function.write_config(window + 16, &[1, 0, 0, 0]);
    assert_eq!(rig.status(), 1);
    let mut data = [0xff; 4];
    rig.function.read_config(window + 16, &mut data);
    assert_eq!(data[0], 1);
    show(&mut rig, NOTIFY + 4, 2);
    rig.function.write_config(window + 16, &[1, 0]);
    assert!(rig.function.kicks[1].read().is_ok());
    for (at, width) in [(0x8000, 4), (0xffff_fffc, 4), (0, 3), (0, 0), (0xffe, 4)] {
        show(&mut rig, at, width);
        rig.function.write_config(window + 16, &[0xff; 4]);
        rig.function.read_config(window + 16, &mut data);
    }
}

#[test]
fn a_function_without_memory_space_does_not_answer() {
    let mut rig = Rig::new();
    rig.function.write_config(4, &[0, 0]);
    rig.set_status(1);
    assert_eq!(rig.status(), 0xff);
    rig.function.write_config(4, &[2, 0]);
    assert_eq!(rig.status(), 0);
    assert_eq!(rig.read(0x6000), [0xff; 4]);
    assert_eq!(rig.read(0xffe), [0xff; 4], "across two parts");
}

#[test]
fn any_access_anywhere_is_taken() {
    let mut rig = Rig::new();
    let edges = (0..6).map(|page| page << 12).flat_map(|at| at..at + 0x80);
    for offset in edges.chain(0x7ff0..0x8010_u64) {
        for len in [1, 2, 4, 8] {
            let value = offset.to_le_bytes()[0].wrapping_mul(31);
            BusDevice::write(&mut rig.function, offset, &vec![value; len]);
            BusDevice::read(&mut rig.function, offset, &mut vec![0; len]);
        }
    }
    for offset in (0..4096).step_by(4) {
        rig.function.write_config(offset, &[0xff; 4]);
        rig.function.read_config(offset, &mut [0; 4]);
    }
}
