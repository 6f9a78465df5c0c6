//! Queues with any content in front of our devices, with resets in the middle. The fuzz
//! targets `block`, `console` and `rng` call these functions, as do tests, with each seed.
//!
//! The work of a device's thread is done on the caller's: an input has one meaning.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::block::{DiskFull, OpenDisk, VirtioBlock};
use super::console::{ConsolePort, VirtioConsole};
use super::rng::VirtioRng;
use super::testing::{BUFFERS, TestDriver};
use super::threaded::ThreadedDevice;
use super::worker::{DeviceTask, Progress};
use crate::fuzz_input::FuzzInput;
use crate::sys::memory_file::{self, PageSize};
use crate::sys::signals;

/// Bytes of the fuzzed disk.
const DISK: u64 = 64 << 10;
/// Turns in which a device must be done with what its driver has made available: more
/// than its queues have entries.
const MANY_TURNS: u32 = 10_000;

/// Hostile requests to a disk.
///
/// # Panics
/// If the device does not keep what it promises.
pub fn block(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    let file = disk_file();
    let read_only = input.byte() & 1 != 0;
    let shown = file.try_clone();
    let disk = OpenDisk::raw(file, DISK, read_only);
    let mut device = VirtioBlock::new("disk0".to_owned(), disk, Arc::new(Nobody));
    run(&mut device, &mut input);
    #[expect(clippy::unwrap_used, reason = "a check")]
    let len = shown.unwrap().metadata().unwrap().len();
    assert_eq!(len, DISK, "the disk keeps its size");
}

/// Hostile messages, buffers and bytes to a console.
///
/// # Panics
/// If the device does not keep what it promises.
pub fn console(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    let bytes = input.take(100).to_vec();
    let Ok((mut device, handle)) =
        pipes(&bytes).and_then(|ports| VirtioConsole::new(ports, (80, 25)))
    else {
        return;
    };
    run(&mut device, &mut input);
    handle.resize(1, 2);
}

/// Hostile requests for random bytes.
///
/// # Panics
/// If the device does not keep what it promises.
pub fn rng(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    run(&mut VirtioRng, &mut input);
}

/// Nobody is told that the host's disk is full.
#[derive(Debug)]
pub(crate) struct Nobody;

impl DiskFull for Nobody {
    fn pause(&self, _reason: String) {}
}

/// A disk of its own.
pub(crate) fn fuzzed_disk() -> OpenDisk {
    OpenDisk::raw(disk_file(), DISK, false)
}

fn disk_file() -> File {
    #[expect(clippy::unwrap_used, reason = "a check without memory is none")]
    memory_file::create(c"fuzzed-disk", DISK, PageSize::Normal).unwrap()
}

/// A terminal, a stream with input, and one whose output nobody reads.
fn pipes(bytes: &[u8]) -> io::Result<Vec<ConsolePort>> {
    // As in the program: a fuzzer's main does not ignore SIGPIPE.
    signals::ignore_told_otherwise();
    let (input, mut feed) = io::pipe()?;
    feed.write_all(bytes)?;
    let (reader, output) = io::pipe()?;
    let fd = |pipe: OwnedFd| Some(pipe);
    let ports = vec![
        ConsolePort::console("console", None, None)?.limit_output(1000),
        ConsolePort::stream("in", fd(input.into()), None)?,
        ConsolePort::stream("out", None, fd(output.into()))?,
    ];
    drop(reader);
    Ok(ports)
}

/// Does what the input says: descriptors, indices, bytes, work, resets.
fn run(device: &mut impl ThreadedDevice, input: &mut FuzzInput<'_>) {
    let mut driver = TestDriver::new(device.queue_sizes());
    let features = device.features();
    let mut task = None;
    while !input.is_empty() {
        if task.is_none() {
            let agreed = features & input.word();
            task = device.task(driver.activation(agreed)).ok();
        }
        let order = input.byte();
        let broken = match order % 8 {
            7 => true,
            6 | 5 => task.as_mut().is_some_and(|task| !works(task)),
            order => {
                hostile(&mut driver, order, input);
                false
            }
        };
        if broken && let Some(task) = task.take() {
            device.take_back(task);
        }
    }
    if let Some(task) = task {
        device.take_back(task);
    }
}

/// Lets a task work until it waits; `false` if the driver has broken the device.
fn works(task: &mut impl DeviceTask) -> bool {
    for token in 0..16 {
        task.ready(token, 1);
    }
    for _ in 0..MANY_TURNS {
        match task.work() {
            Ok(Progress::More) => {}
            Ok(Progress::Wait) => return true,
            Err(_) => return false,
        }
    }
    panic_endless()
}

#[expect(clippy::panic, reason = "a check")]
fn panic_endless() -> ! {
    panic!("the device works without an end on a driver that stands still")
}

/// One act of a driver.
fn hostile(driver: &mut TestDriver, order: u8, input: &mut FuzzInput<'_>) {
    let number = usize::from(input.byte()) % driver.queues.len();
    let some_address = |input: &mut FuzzInput<'_>| match input.byte() {
        byte @ 0..=199 => BUFFERS + u64::from(byte) * 64,
        _ => input.word(),
    };
    match order {
        0 => {
            let (address, len) = (some_address(input), input.word());
            // Mostly short ones, so that many are good.
            let len = if len & 0x100 == 0 {
                len & 0xff
            } else {
                len >> 32
            };
            let (slot, flags, next) = (input.byte(), input.byte(), input.byte());
            let len = u32::try_from(len & 0xffff_ffff).unwrap_or_default();
            let flags = u16::from(flags & 7);
            driver.queues[number].descriptor(slot.into(), address, len, flags, next.into());
        }
        1 => driver.queues[number].offer(input.byte().into()),
        2 => {
            let index = input.word() & 0xffff;
            driver.queues[number].set_available(u16::try_from(index).unwrap_or_default());
        }
        3 => {
            let address = BUFFERS + u64::from(input.byte()) * 64;
            let len = usize::from(input.byte() % 64);
            driver.put(address, input.take(len));
        }
        // A good chain of three, as most requests are.
        _ => {
            let header = BUFFERS + u64::from(input.byte()) * 64;
            let mut chain = vec![(header, 16, false)];
            let data = (some_address(input), u32::from(input.byte()) * 64);
            let write = input.byte() & 1 != 0;
            chain.push((data.0, data.1, write));
            chain.push((header + 32, 1, true));
            driver.queues[number].add(&chain);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz_input::each_seed;

    /// A sequence of bytes that looks random (xorshift64).
    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        (0..len).map(|_| byte()).collect()
    }

    #[test]
    fn seeds_and_noise_break_no_device() {
        for (name, target) in [
            ("block", block as fn(&[u8])),
            ("console", console),
            ("rng", rng),
        ] {
            each_seed(name, target);
            for seed in 1..300 {
                target(&noise(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed), 2000));
            }
        }
    }
}
