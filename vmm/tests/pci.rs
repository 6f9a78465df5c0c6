//! PCI on `/dev/kvm`: a guest of a few instructions finds the bus by both ways, sets a
//! virtio device up, notifies it and gets its interrupts.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Parser;
use common::{Code, Guest, PATIENCE};
use vmm::cli::{Cli, Command};
use vmm::devices::virtio::{ActivateError, Activation, DeviceKind, VirtioDevice};
use vmm::machine::{Machine, MachineControl, MachineExtras};
use vmm::pmu::PmuHooks;
use vmm::stop::StopReason;

/// ECAM, and the function of the first device.
const ECAM: u32 = 0xe000_0000;
const DEVICE: u32 = ECAM + (1 << 15);
/// The local APIC's spurious vector register, and requests of vectors 0x40 to 0x5f.
const APIC_SPURIOUS: u32 = 0xfee0_00f0;
const APIC_REQUESTS: u32 = 0xfee0_0220;
/// Parts of the BAR.
const TABLE: u32 = 0x3000;
const PENDING: u32 = 0x4000;
const NOTIFY: u32 = 0x5000;

/// Instructions with 32-bit addresses, and with offsets into the BAR, which RBX has.
trait PciCode: Sized {
    fn words(self, parts: &[&[u8]]) -> Self;

    /// `je +2; ud2`
    fn or_die(self) -> Self {
        self.words(&[&[0x74, 2, 0x0f, 0x0b]])
    }

    fn write(self, address: u32, value: u32) -> Self {
        let (address, value) = (address.to_le_bytes(), value.to_le_bytes());
        self.words(&[&[0xbf], &address, &[0xc7, 0x07], &value])
    }

    fn expect(self, address: u32, value: u32) -> Self {
        let (address, value) = (address.to_le_bytes(), value.to_le_bytes());
        self.words(&[&[0xbf], &address, &[0x81, 0x3f], &value])
            .or_die()
    }

    fn wait_for_bit(self, address: u32, bit: u32) -> Self {
        let (address, bit) = (address.to_le_bytes(), (1u32 << bit).to_le_bytes());
        self.words(&[&[0xbf], &address, &[0xf7, 0x07], &bit, &[0x74, 0xf8]])
    }

    /// Reads the BAR into RBX.
    fn find_bar(self) -> Self {
        let register = (DEVICE + 0x10).to_le_bytes();
        self.words(&[&[0xbf], &register, &[0x8b, 0x1f]])
    }

    fn bar8(self, offset: u32, value: u8) -> Self {
        self.words(&[&[0xc6, 0x83], &offset.to_le_bytes(), &[value]])
    }

    fn bar16(self, offset: u32, value: u16) -> Self {
        let offset = offset.to_le_bytes();
        self.words(&[&[0x66, 0xc7, 0x83], &offset, &value.to_le_bytes()])
    }

    fn bar32(self, offset: u32, value: u32) -> Self {
        let offset = offset.to_le_bytes();
        self.words(&[&[0xc7, 0x83], &offset, &value.to_le_bytes()])
    }

    fn expect_bar8(self, offset: u32, value: u8) -> Self {
        self.words(&[&[0x80, 0xbb], &offset.to_le_bytes(), &[value]])
            .or_die()
    }

    fn wait_for_bar_bit(self, offset: u32, bit: u32) -> Self {
        let (offset, bit) = (offset.to_le_bytes(), (1u32 << bit).to_le_bytes());
        self.words(&[&[0xf7, 0x83], &offset, &bit, &[0x74, 0xf4]])
    }

    /// By ports 0xcf8 and 0xcfc.
    fn expect_by_ports(self, address: u32, value: u32) -> Self {
        let (address, value) = (address.to_le_bytes(), value.to_le_bytes());
        self.words(&[&[0x66, 0xba, 0xf8, 0x0c, 0xb8], &address, &[0xef]])
            .words(&[&[0x66, 0xba, 0xfc, 0x0c, 0xed, 0x3d], &value])
            .or_die()
    }
}

impl PciCode for Code {
    fn words(self, parts: &[&[u8]]) -> Self {
        parts.iter().fold(self, |code, part| code.raw(part))
    }
}

/// A driver that starts the device with queue 0, on vector 1.
fn driver() -> Code {
    let code = Code::default()
        .find_bar()
        .bar8(0x14, 0)
        .bar8(0x14, 3)
        // VERSION_1
        .bar32(8, 1)
        .bar32(0xc, 1)
        .bar8(0x14, 0xb)
        .expect_bar8(0x14, 0xb)
        .bar16(0x16, 0)
        .bar16(0x18, 16)
        .bar16(0x1a, 1);
    let code = [(0x20, 0x30_0000), (0x28, 0x30_1000), (0x30, 0x30_2000)]
        .into_iter()
        .fold(code, |code, (register, address)| {
            code.bar32(register, address).bar32(register + 4, 0)
        });
    code.bar16(0x1c, 1).bar8(0x14, 0xf).expect_bar8(0x14, 0xf)
}

/// A device that answers each notification of its queue with an interrupt.
#[derive(Debug, Default)]
struct Echo {
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    activations: AtomicUsize,
    kicks: AtomicUsize,
    paused: AtomicBool,
    features: Mutex<u64>,
}

impl Echo {
    fn end_worker(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(worker) = self.worker.take() {
            worker.join().unwrap();
        }
        self.stop.store(false, Ordering::Release);
    }
}

impl VirtioDevice for Echo {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }
    fn features(&self) -> u64 {
        0
    }
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}
    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.queues.pop();
        let queue = queue.ok_or(ActivateError::MissingQueue(0))?;
        self.seen.activations.fetch_add(1, Ordering::AcqRel);
        let features = self.seen.features.lock();
        *features.unwrap_or_else(PoisonError::into_inner) = activation.features;
        let (seen, stop) = (Arc::clone(&self.seen), Arc::clone(&self.stop));
        self.worker = Some(thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                if queue.kick.read().is_ok() {
                    seen.kicks.fetch_add(1, Ordering::AcqRel);
                    queue.call.write(1).unwrap();
                }
                thread::sleep(Duration::from_millis(1));
            }
        }));
        Ok(())
    }
    fn reset(&mut self) {
        self.end_worker();
    }
    fn pause(&mut self) {
        self.seen.paused.store(true, Ordering::Release);
    }
    fn resume(&mut self) {
        self.seen.paused.store(false, Ordering::Release);
    }
}

/// A guest with an [`Echo`] runs to its end, or until `operator` ends it.
fn run(
    name: &str,
    code: &Code,
    operator: impl FnOnce(&MachineControl, &Seen) + Send + 'static,
) -> Option<(StopReason, Arc<Seen>)> {
    let guest = Guest::new(name, code)?;
    let kernel = guest.0.display().to_string();
    let line = "perfvisor run --memory size=16M --serial null --pmu off --kernel";
    let cli = Cli::try_parse_from(line.split(' ').chain([kernel.as_str()])).unwrap();
    let Command::Run(args) = cli.command else {
        panic!("it is run");
    };
    let mut extras = MachineExtras::none().unwrap();
    let device = Echo::default();
    let seen = Arc::clone(&device.seen);
    extras.devices.push(Box::new(device));
    let stop = Arc::clone(&extras.stop);
    let machine = Machine::build(&args.vm_config().unwrap(), PmuHooks::none(), extras).unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let has_ended = Arc::clone(&ended);
    // A guest that waits for ever ends all the same.
    let watch = thread::spawn(move || {
        let start = Instant::now();
        while !has_ended.load(Ordering::Acquire) {
            if start.elapsed() > 2 * PATIENCE {
                stop.stop(StopReason::ApiShutdown);
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    let (control, watched) = (machine.control(), Arc::clone(&seen));
    let operator = thread::spawn(move || operator(&control, &watched));
    let reason = machine.run();
    ended.store(true, Ordering::Release);
    watch.join().unwrap();
    operator.join().unwrap();
    Some((Arc::into_inner(reason).unwrap_or(StopReason::Reset), seen))
}

#[test]
fn a_guest_finds_the_bus_and_a_device_interrupts_it() {
    let code = Code::default()
        // The bridge, by memory and by ports; then the device; then nothing.
        .expect(ECAM, 0x0008_1b36)
        .expect_by_ports(0x8000_0000, 0x0008_1b36)
        .expect_by_ports(0x8000_0008, 0x0600_0000)
        .expect(DEVICE, 0x1044_1af4)
        .expect_by_ports(0x8000_0800, 0x1044_1af4)
        .expect(ECAM + (2 << 15), 0xffff_ffff)
        .expect_by_ports(0x8000_1000, 0xffff_ffff)
        .write(APIC_SPURIOUS, 0x1ff)
        .append(&driver())
        // MSI-X on; vector 1 stays masked: its interrupt waits.
        .write(DEVICE + 0x98, 0x8000_0000)
        .bar32(TABLE + 16, 0xfee0_0000)
        .bar32(TABLE + 20, 0)
        .bar32(TABLE + 24, 0x41)
        .bar16(NOTIFY, 0)
        .wait_for_bar_bit(PENDING, 1)
        .expect(APIC_REQUESTS, 0)
        .bar32(TABLE + 28, 0)
        .wait_for_bit(APIC_REQUESTS, 1)
        // Another message, of a vector that is not masked; another width.
        .bar32(TABLE + 24, 0x42)
        .bar32(NOTIFY, 0)
        .wait_for_bit(APIC_REQUESTS, 2)
        // Reset, and once more.
        .append(&driver())
        .bar32(TABLE + 24, 0x43)
        .bar8(NOTIFY, 0)
        .wait_for_bit(APIC_REQUESTS, 3)
        .power_off();
    let Some((reason, seen)) = run("pci", &code, |_, _| {}) else {
        return;
    };
    assert!(matches!(reason, StopReason::PowerOff), "{reason}");
    assert_eq!(seen.activations.load(Ordering::Acquire), 2);
    assert_eq!(seen.kicks.load(Ordering::Acquire), 3);
    assert_eq!(*seen.features.lock().unwrap(), 1 << 32);
}

/// The vCPUs stand before the devices do, and run after them: no queue is touched in
/// between.
#[test]
fn a_pause_stops_the_device_too() {
    // jmp to itself
    let code = driver().raw(&[0xeb, 0xfe]);
    let outcome = run("pci-pause", &code, |control, seen| {
        let start = Instant::now();
        while seen.activations.load(Ordering::Acquire) == 0 {
            assert!(start.elapsed() < PATIENCE, "the driver");
            thread::sleep(Duration::from_millis(5));
        }
        control.pause(PATIENCE).unwrap();
        assert!(seen.paused.load(Ordering::Acquire) && control.vcpus.is_paused());
        control.resume();
        assert!(!seen.paused.load(Ordering::Acquire) && !control.vcpus.is_paused());
        control.stop.stop(StopReason::ApiShutdown);
    });
    if let Some((reason, _)) = outcome {
        assert!(matches!(reason, StopReason::ApiShutdown), "{reason}");
    }
}
