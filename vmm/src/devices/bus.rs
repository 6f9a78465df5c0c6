//! Address ranges and the devices that answer there.
//!
//! An address without a device reads as all ones and ignores writes, as on a PC. The
//! map is built before the first vCPU runs and does not change afterwards; each
//! device has a lock of its own, taken for one access.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use crate::rate_limit::RateLimit;

/// Something that answers in a range of a bus.
pub trait BusDevice: Send {
    /// Fills `data` with what lies at `offset` bytes into the range.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data`, written at `offset` bytes into the range.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A range that cannot be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BusError {
    /// Another device has a part of it.
    #[error("bus range {base:#x}+{len:#x} overlaps another device's")]
    Overlap {
        /// The first address of the range.
        base: u64,
        /// The length of the range in bytes.
        len: u64,
    },
    /// The range is empty or wraps around.
    #[error("bus range {base:#x}+{len:#x} is empty or wraps around")]
    Range {
        /// Where it starts.
        base: u64,
        /// Its length.
        len: u64,
    },
}

struct ClaimedRange {
    base: u64,
    len: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// An address space with devices: the I/O ports, or the addresses without RAM.
pub struct Bus {
    name: &'static str,
    /// By their addresses.
    ranges: Vec<ClaimedRange>,
    unclaimed: RateLimit,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.ranges.iter().map(|range| (range.base, range.len));
        f.debug_struct("Bus")
            .field("name", &self.name)
            .field("ranges", &ranges.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// An empty bus; the name appears in logs.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            ranges: Vec::new(),
            unclaimed: RateLimit::new(),
        }
    }

    /// Gives `len` addresses from `base` on to a device.
    ///
    /// # Errors
    /// If the range is not free.
    pub fn claim(
        &mut self,
        base: u64,
        len: u64,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), BusError> {
        let end = base.checked_add(len).filter(|_| len > 0);
        let end = end.ok_or(BusError::Range { base, len })?;
        let below_end = self.ranges.partition_point(|range| range.base < end);
        let before = below_end.checked_sub(1).and_then(|n| self.ranges.get(n));
        if before.is_some_and(|range| range.base + range.len > base) {
            return Err(BusError::Overlap { base, len });
        }
        self.ranges
            .insert(below_end, ClaimedRange { base, len, device });
        Ok(())
    }

    /// Reads; what no device claims is all ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        match self.find(address, data.len()) {
            Some((offset, entry)) => lock(entry).read(offset, data),
            None => self.log_unclaimed("read", address, data.len()),
        }
    }

    /// Writes; what no device claims is swallowed.
    pub fn write(&self, address: u64, data: &[u8]) {
        match self.find(address, data.len()) {
            Some((offset, entry)) => lock(entry).write(offset, data),
            None => self.log_unclaimed("write", address, data.len()),
        }
    }

    /// The device that has the whole of an access.
    fn find(&self, address: u64, len: usize) -> Option<(u64, &ClaimedRange)> {
        let up_to_it = self.ranges.partition_point(|range| range.base <= address);
        let range = self.ranges.get(up_to_it.checked_sub(1)?)?;
        let offset = address - range.base;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= range.len).then_some((offset, range))
    }

    fn log_unclaimed(&self, what: &str, address: u64, len: usize) {
        if log::log_enabled!(log::Level::Debug)
            && let Some(swallowed) = self.unclaimed.allow()
        {
            log::debug!(
                "{} {what} of {len} bytes at {address:#x}: no device there{swallowed}",
                self.name
            );
        }
    }
}

fn lock(entry: &ClaimedRange) -> std::sync::MutexGuard<'_, dyn BusDevice + 'static> {
    entry.device.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u8);

    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(self.0.wrapping_add(u8::try_from(offset).unwrap()));
        }
        fn write(&mut self, _offset: u64, data: &[u8]) {
            self.0 = data[0];
        }
    }

    fn bus() -> Bus {
        let mut bus = Bus::new("test");
        bus.claim(0x10, 8, Arc::new(Mutex::new(Echo(0)))).unwrap();
        bus
    }

    #[test]
    fn accesses_reach_their_device_with_an_offset() {
        let bus = bus();
        bus.write(0x10, &[7]);
        let mut data = [0];
        bus.read(0x17, &mut data);
        assert_eq!(data, [14]);
    }

    #[test]
    fn the_rest_reads_as_ones() {
        let bus = bus();
        for (address, len) in [(0xf, 1), (0x18, 1), (0x16, 4), (u64::MAX, 2)] {
            let mut data = vec![0; len];
            bus.read(address, &mut data);
            assert!(data.iter().all(|&byte| byte == 0xff), "{address:#x}");
            bus.write(address, &data);
        }
    }

    #[test]
    fn ranges_do_not_overlap() {
        let mut bus = bus();
        let device = || Arc::new(Mutex::new(Echo(0)));
        for (base, len) in [(0x8, 9), (0x10, 8), (0x17, 1), (0x0, 0x100), (0x12, 2)] {
            assert!(bus.claim(base, len, device()).is_err(), "{base:#x}");
        }
        assert!(bus.claim(0x18, 1, device()).is_ok());
        assert!(bus.claim(0xf, 1, device()).is_ok());
        assert!(bus.claim(u64::MAX, 2, device()).is_err());
        assert!(bus.claim(0x100, 0, device()).is_err());
    }
}
