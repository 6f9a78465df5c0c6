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
    let is_long = std::env::var_os("PCI_RANDOM").is_some();
    let patience = if is_long { 60 } else { 2 } * PATIENCE;
    let watch = thread::spawn(move || {
        let start = Instant::now();
        while !has_ended.load(Ordering::Acquire) {
            if start.elapsed() > patience {
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

/// A million writes with `PCI_RANDOM=100000`; as many as fit into a test otherwise.
/// Between them a driver starts the device: its queue is where the last writes left it.
#[test]
fn a_guest_that_writes_anything_to_pci_goes_on() {
    let rounds = std::env::var("PCI_RANDOM")
        .ok()
        .and_then(|n| n.parse().ok());
    let rounds: u32 = rounds.unwrap_or(500);
    // The next random number (xorshift64) in RBP.
    let next = [
        &[0x48, 0x89, 0xe8, 0x48, 0xc1, 0xe0, 13, 0x48, 0x31, 0xc5][..],
        &[0x48, 0x89, 0xe8, 0x48, 0xc1, 0xe8, 7, 0x48, 0x31, 0xc5],
        &[0x48, 0x89, 0xe8, 0x48, 0xc1, 0xe0, 17, 0x48, 0x31, 0xc5],
    ];
    // mov rax, rbp; shr rax, 32: the upper half is the value.
    let value = &[0x48, 0x89, 0xe8, 0x48, 0xc1, 0xe8, 32][..];
    // mov eax, ebp; and eax, mask; mov edi, base; add edi, eax
    let place = |code: Code, base: u32, mask: u32| {
        let (base, mask) = (base.to_le_bytes(), mask.to_le_bytes());
        code.words(&next)
            .words(&[&[0x89, 0xe8, 0x25], &mask, &[0xbf], &base, &[0x01, 0xc7]])
            .words(&[value])
    };
    // mov [rdi], eax; mov eax, [rdi]
    let round = place(Code::default(), ECAM, 0x180fc).raw(&[0x89, 0x07, 0x8b, 0x07]);
    let round = place(round, ECAM, 0x000f_ffff).raw(&[0x89, 0x07, 0x8b, 0x07]);
    // The ports: mov eax, ebp; or eax, enable; out; the value out, and in.
    let round = round
        .words(&next)
        .raw(&[
            0x89, 0xe8, 0x0d, 0, 0, 0, 0x80, 0x66, 0xba, 0xf8, 0x0c, 0xef,
        ])
        .words(&[value])
        .raw(&[0x66, 0xba, 0xfc, 0x0c, 0xef, 0xed]);
    // The function answers at its BAR again.
    let round = round.write(DEVICE + 0x10, 0xc000_0000).write(DEVICE + 4, 6);
    let round = (0..6).fold(round, |round, _| {
        place(round, 0xc000_0000, 0x703f).raw(&[0x89, 0x07, 0x8b, 0x07])
    });
    // mov [rdi], al
    let round = place(round, 0xc000_0000, 0x7fff).raw(&[0x88, 0x07]);
    // A driver that does not look whether it is obeyed; its used ring is anywhere.
    let round = round
        .bar8(0x14, 0)
        .bar8(0x14, 3)
        .bar32(8, 1)
        .bar32(0xc, 1)
        .bar8(0x14, 0xb)
        .bar16(0x16, 0);
    let round = place(round, 0xc000_0030, 0).raw(&[0x25, 0xfc, 0xff, 0xff, 1, 0x89, 0x07]);
    let round = round.bar16(0x1c, 1).bar8(0x14, 0xf).bar16(NOTIFY, 0);
    let len = i32::try_from(round.len() + 8).unwrap();
    // mov rbp, seed; mov ebx, BAR; mov esi, rounds
    let code = Code::default()
        .words(&[&[0x48, 0xbd], &0x9e37_79b9_7f4a_7c15u64.to_le_bytes()])
        .words(&[&[0xbb], &0xc000_0000u32.to_le_bytes()])
        .words(&[&[0xbe], &rounds.to_le_bytes()])
        .append(&round)
        // dec esi; jnz round
        .words(&[&[0xff, 0xce, 0x0f, 0x85], &(-len).to_le_bytes()])
        .expect(ECAM, 0x0008_1b36)
        .expect(DEVICE, 0x1044_1af4)
        .power_off();
    let Some((reason, seen)) = run("pci-random", &code, |_, _| {}) else {
        return;
    };
    assert!(matches!(reason, StopReason::PowerOff), "{reason}");
    let started = seen.activations.load(Ordering::Acquire);
    assert!(started > 0, "some queues are in memory");
}
