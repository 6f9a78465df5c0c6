//! The addresses and interrupt lines of a machine, and who has them.
//!
//! A device asks for what it needs: at an address that guests know it by, or anywhere.
//! Whatever two devices want both is refused, and both are named.

use std::io;
use std::ops::Range;

use thiserror::Error;
use vm_allocator::{AddressAllocator, AllocPolicy};
use vmm_sys_util::eventfd::EventFd;

use crate::kvm::layout::{ABOVE_4G, IDENTITY_MAP, IO_APIC, LOCAL_APIC, PCI_WINDOW, PCI_WINDOW_LEN};

/// How many lines the I/O APIC has.
const LINES: u64 = 24;
const PAGE: u64 = 0x1000;

/// The kind of what a device asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    /// I/O ports.
    Ports,
    /// Addresses without RAM.
    Memory,
    /// Addresses of PCI functions.
    PciMemory,
    /// Lines of the I/O APIC.
    Lines,
}

impl ResourceKind {
    const fn words(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::Memory => "addresses",
            Self::PciMemory => "PCI addresses",
            Self::Lines => "interrupt lines",
        }
    }

    /// All that there are.
    const fn space(self) -> Range<u64> {
        let after_window = PCI_WINDOW + PCI_WINDOW_LEN;
        match self {
            Self::Ports => 0..1 << 16,
            Self::Memory => after_window..ABOVE_4G,
            Self::PciMemory => PCI_WINDOW..after_window,
            Self::Lines => 0..LINES,
        }
    }
}

/// Why a device does not get what it asks for.
#[derive(Debug, Error)]
pub enum ResourceError {
    /// Somebody has it, or it is not there.
    #[error("{} {base:#x}+{len:#x} are not free: {owner}", .kind.words())]
    Taken {
        /// What.
        kind: ResourceKind,
        /// The first.
        base: u64,
        /// How many.
        len: u64,
        /// Who has some of them.
        owner: String,
    },
    /// None is left.
    #[error("no {} are left for {len:#x} more", .kind.words())]
    Exhausted {
        /// What.
        kind: ResourceKind,
        /// How many were asked for.
        len: u64,
    },
    /// The host gives no eventfd.
    #[error("cannot set up an interrupt line")]
    Event(#[source] io::Error),
}

/// What one device asked for and got.
#[derive(Debug, Default)]
pub struct ResourceRequest {
    /// Ranges of ports.
    pub ports: Vec<Range<u64>>,
    /// Ranges of addresses.
    pub memory: Vec<Range<u64>>,
    /// Events, and the line that each pulls.
    pub lines: Vec<(EventFd, u32)>,
}

/// The addresses and lines that are left.
#[derive(Debug)]
pub struct Resources {
    pci: AddressAllocator,
    owners: Vec<(ResourceKind, Range<u64>, String)>,
    device: String,
    asked: ResourceRequest,
}

impl Resources {
    /// All of a machine's, but for the addresses that KVM answers at.
    ///
    /// # Errors
    /// None: the ranges are constants that are checked by a test.
    pub fn new() -> Result<Self, ResourceError> {
        let kind = ResourceKind::PciMemory;
        let len = PCI_WINDOW_LEN;
        let pci = AddressAllocator::new(PCI_WINDOW, len);
        let mut all = Self {
            pci: pci.map_err(|_| ResourceError::Exhausted { kind, len })?,
            owners: Vec::new(),
            device: "KVM".into(),
            asked: ResourceRequest::default(),
        };
        all.memory(IO_APIC.into(), PAGE)?;
        all.memory(LOCAL_APIC.into(), PAGE)?;
        // The real-mode TSS follows the identity map: four pages.
        all.memory(IDENTITY_MAP, 4 * PAGE)?;
        all.asked = ResourceRequest::default();
        Ok(all)
    }

    /// From here on this device asks.
    pub fn begin(&mut self, device: &str) {
        device.clone_into(&mut self.device);
        self.asked = ResourceRequest::default();
    }

    /// What the device has asked for since [`Resources::begin`].
    pub fn take(&mut self) -> ResourceRequest {
        std::mem::take(&mut self.asked)
    }

    /// Asks for `count` ports from `base` on, where guests look for this device.
    ///
    /// # Errors
    /// If one of them is not free.
    pub fn ports(&mut self, base: u16, count: u64) -> Result<(), ResourceError> {
        let range = self.exact(ResourceKind::Ports, base.into(), count)?;
        self.asked.ports.push(range);
        Ok(())
    }

    /// Asks for `len` addresses from `base` on.
    ///
    /// # Errors
    /// If one of them is not free.
    pub fn memory(&mut self, base: u64, len: u64) -> Result<(), ResourceError> {
        let range = self.exact(ResourceKind::Memory, base, len)?;
        self.asked.memory.push(range);
        Ok(())
    }

    /// Asks for `len` addresses in the window of PCI functions, anywhere at a multiple
    /// of `len`, which is a power of two. Returns the first.
    ///
    /// # Errors
    /// If there is no room.
    pub fn bar(&mut self, len: u64) -> Result<u64, ResourceError> {
        let kind = ResourceKind::PciMemory;
        let got = self.pci.allocate(len, len, AllocPolicy::FirstMatch);
        let base = got
            .map_err(|_| ResourceError::Exhausted { kind, len })?
            .start();
        self.own(kind, base..base + len);
        self.asked.memory.push(base..base + len);
        Ok(base)
    }

    /// Asks that each write to `event` be an edge on this line of the I/O APIC.
    ///
    /// # Errors
    /// If another device has the line, or the host gives no descriptor.
    pub fn line(&mut self, event: &EventFd, line: u32) -> Result<(), ResourceError> {
        self.exact(ResourceKind::Lines, line.into(), 1)?;
        let event = event.try_clone().map_err(ResourceError::Event)?;
        self.asked.lines.push((event, line));
        Ok(())
    }

    /// Takes exactly these. `AddressAllocator` would give a range that somebody has.
    fn exact(
        &mut self,
        kind: ResourceKind,
        base: u64,
        len: u64,
    ) -> Result<Range<u64>, ResourceError> {
        let end = base.saturating_add(len);
        let space = kind.space();
        let mut owners = self.owners.iter().filter(|owner| owner.0 == kind);
        let owner = owners.find(|(_, range, _)| range.start < end && base < range.end);
        let is_there = space.start <= base && end <= space.end && len > 0;
        if owner.is_some() || !is_there {
            let owner = owner.map_or("there are none", |(_, _, name)| name.as_str());
            return Err(ResourceError::Taken {
                kind,
                base,
                len,
                owner: owner.to_owned(),
            });
        }
        self.own(kind, base..end);
        Ok(base..end)
    }

    fn own(&mut self, kind: ResourceKind, range: Range<u64>) {
        self.owners.push((kind, range, self.device.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_devices_want_both_is_refused_with_the_name_of_the_first() {
        let mut all = Resources::new().unwrap();
        all.begin("first");
        all.ports(0x3f8, 8).unwrap();
        let asked = all.take();
        assert_eq!(asked.ports, vec![0x3f8..0x400]);
        all.begin("second");
        for (base, len) in [(0x3f8, 1), (0x3ff, 2), (0x3f0, 16)] {
            let error = all.ports(base, len).unwrap_err().to_string();
            assert!(
                error.contains("ports") && error.contains("first"),
                "{error}"
            );
        }
        all.ports(0x400, 1).unwrap();
        assert!(all.ports(0xffff, 2).is_err(), "beyond the last port");
        let event = EventFd::new(0).unwrap();
        all.line(&event, 4).unwrap();
        assert!(all.line(&event, 4).is_err());
        assert!(all.line(&event, 24).is_err());
    }

    #[test]
    fn kvms_own_addresses_are_taken() {
        let mut all = Resources::new().unwrap();
        all.begin("device");
        for base in [IO_APIC.into(), LOCAL_APIC.into(), IDENTITY_MAP] {
            let error = all.memory(base, 4).unwrap_err().to_string();
            assert!(error.contains("KVM"), "{error}");
        }
        assert!(all.memory(0x1000, 4).is_err(), "RAM");
    }

    #[test]
    fn bars_are_apart_and_in_the_window() {
        let mut all = Resources::new().unwrap();
        all.begin("device");
        assert_eq!(all.bar(0x8000).unwrap(), PCI_WINDOW);
        assert_eq!(all.bar(0x1000).unwrap(), PCI_WINDOW + 0x8000);
        assert_eq!(all.bar(0x8000).unwrap(), PCI_WINDOW + 0x1_0000);
        assert!(all.bar(PCI_WINDOW_LEN).is_err());
        assert_eq!(all.take().memory.len(), 3);
    }
}
